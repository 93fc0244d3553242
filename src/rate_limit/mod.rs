//! Limits per user: concurrent requests and requests per minute.
//!
//! A request holds a slot of its user from the verification of its token until its response body is dropped: sent, cut
//! off, or abandoned by the client. The server's admission control attaches the slot to the body, and counts all
//! requests; before there is a body, the slot is dropped with the handler.
//!
//! Requests without a session count in the server's total only: before the token is verified the user is not known.

pub mod rate;
pub mod shared;
mod users;

use std::{num::NonZeroU32, sync::Arc};

use uuid::Uuid;

use crate::error::Error;
use rate::Rate;
use shared::{Redis, Shared};
pub use users::Slot;
use users::Users;

/// Limits of one user.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `MAX_STREAMS_PER_USER`, default 32: the most requests of one user in flight in this server; one more is answered
    /// with 429.
    pub max_streams_per_user: u32,
    /// `RATE_LIMIT_PER_MINUTE`, default none: the requests that one user may send in a burst, and regains per minute;
    /// one more is answered with 429.
    pub rate_per_minute: Option<NonZeroU32>,
    /// `REDIS_URL`, default none: where servers share the counts for `RATE_LIMIT_PER_MINUTE`; without it each counts by
    /// itself.
    pub redis: Option<Redis>,
}

/// The counts of one server.
pub struct RateLimits {
    users: Arc<Users>,
    rate: Option<Rate>,
    shared: Option<Shared>,
}

impl RateLimits {
    /// Creates empty counters; does not connect to Redis yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            users: Arc::new(Users::new(settings.max_streams_per_user)),
            rate: settings.rate_per_minute.map(Rate::per_minute),
            shared: settings.rate_per_minute.and(settings.redis.clone()).map(Shared::new),
        }
    }

    /// Keeps the connection to Redis open, if Redis is used. Runs forever.
    pub async fn keep_connected(&self) {
        if let (Some(shared), Some(rate)) = (&self.shared, &self.rate) {
            shared.keep(rate).await;
        }
    }

    /// Counts a request of this user.
    ///
    /// # Errors
    /// [`Error::TooManyStreams`] or [`Error::RateLimited`]; the request is not counted then.
    pub async fn admit(&self, user: Uuid) -> Result<Slot, Error> {
        let slot = Users::enter(&self.users, user)?;
        if let Some(rate) = &self.rate {
            let answer = match &self.shared {
                Some(shared) => shared.take(rate, user).await,
                None => None,
            };
            answer.unwrap_or_else(|| self.users.take(rate, user)).map_err(Error::RateLimited)?;
        }
        Ok(slot)
    }
}
