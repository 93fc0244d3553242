//! How much one user is served at once, and how often one may ask.
//!
//! A request holds a slot of its user from the moment its token was found good
//! until its answer's body is gone: written, cut, or left by the client. The
//! [`crate::door`] ties it to the body, and counts the whole server's requests;
//! before there is a body, the slot is dropped with the handler.
//!
//! Requests without a session count in the whole only: before the token is
//! checked there is nobody to count them for.

pub mod rate;
pub mod shared;
mod users;

use std::sync::Arc;

use uuid::Uuid;

use crate::{config, error::Error};
use rate::Rate;
use shared::Shared;
pub use users::Slot;
use users::Users;

/// The counts of one server.
pub struct Limits {
    users: Arc<Users>,
    rate: Option<Rate>,
    shared: Option<Shared>,
}

impl Limits {
    /// Nothing is counted yet, and Redis not asked.
    pub fn new(settings: &config::Limits) -> Self {
        Self {
            users: Arc::new(Users::new(settings.max_streams_per_user)),
            rate: settings.rate_per_minute.map(Rate::per_minute),
            shared: settings.rate_per_minute.and(settings.redis.clone()).map(Shared::new),
        }
    }

    /// Keeps the connection to Redis, where there is one to keep. Ends never.
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
