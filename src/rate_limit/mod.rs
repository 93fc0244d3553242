//! How much one user is served at once, and how often one may ask.
//!
//! A request holds a slot of its user from the moment its token was found good
//! until its answer's body is gone: written, cut, or left by the client. The
//! server's admission control ties it to the body, and counts all requests;
//! before there is a body, the slot is dropped with the handler.
//!
//! Requests without a session count in the whole only: before the token is
//! checked there is nobody to count them for.

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

/// How much one user is served at once, and how often.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `MAX_STREAMS_PER_USER`, default 32: the most requests of one user in
    /// flight in this server; one more is answered 429.
    pub max_streams_per_user: u32,
    /// `RATE_LIMIT_PER_MINUTE`, default none: how many requests one user may
    /// send at once, and gains again a minute; one more is answered 429.
    pub rate_per_minute: Option<NonZeroU32>,
    /// `REDIS_URL`, default none: where servers share the count for
    /// `RATE_LIMIT_PER_MINUTE`; else each counts by itself.
    pub redis: Option<Redis>,
}

/// The counts of one server.
pub struct RateLimits {
    users: Arc<Users>,
    rate: Option<Rate>,
    shared: Option<Shared>,
}

impl RateLimits {
    /// Nothing is counted yet, and Redis not asked.
    pub fn new(settings: &Settings) -> Self {
        Self {
            users: Arc::new(Users::new(settings.max_streams_per_user)),
            rate: settings.rate_per_minute.map(Rate::per_minute),
            shared: settings.rate_per_minute.and(settings.redis.clone()).map(Shared::new),
        }
    }

    /// Keeps the connection to Redis, where there is one to keep. Runs forever.
    pub async fn keep_connected(&self) {
        if let (Some(shared), Some(rate)) = (&self.shared, &self.rate) {
            shared.keep(rate).await;
        }
    }

    /// Counts a request of this user.
    ///
    /// # Errors
    /// [`Error::TooManyStreams`] and [`Error::RateLimited`]; then it counts
    /// for nothing.
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
