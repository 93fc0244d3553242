//! How much is served at once, by the whole server and to one user, and how
//! often one user may ask.
//!
//! A request holds a place in the server from the first look at it, and a
//! slot of its user from the moment its token was found good, both until its
//! answer's body is gone: written, cut, or left by the client. [`hold`] ties
//! them to the body; before there is one, they are dropped with the handler.
//!
//! Requests without a session are counted in the whole only: before the token
//! is checked there is nobody to count them for.

pub mod rate;
pub mod shared;
mod users;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use actix_web::{
    HttpMessage,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
    web::{Bytes, Data},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::{app::State, config, error::Error};
use rate::Rate;
use shared::Shared;
use users::{Slot, Users};

/// The counts of one server.
pub struct Limits {
    places: Arc<Semaphore>,
    users: Arc<Users>,
    rate: Option<Rate>,
    shared: Option<Shared>,
}

impl Limits {
    /// Nothing is counted yet, and Redis not asked.
    pub fn new(settings: &config::Limits) -> Self {
        Self {
            places: Arc::new(Semaphore::new(settings.max_requests)),
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

/// Gives a request its place in the server, and lets its answer hold that and
/// the user's slot. A server that is full says so to all but those that ask
/// how it is: else an orchestrator kills it for being busy.
///
/// # Errors
/// What the service inside returned.
pub async fn hold(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let state = request.app_data::<Data<State>>();
    let place = match state {
        Some(state) if !matches!(request.path(), "/healthz" | "/readyz") => {
            match state.limits.places.clone().try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => return Ok(request.error_response(Error::Overloaded)),
            }
        }
        _ => None,
    };
    let response = next.call(request).await?;
    let slot = response.request().extensions_mut().remove::<Slot>();
    Ok(response.map_body(|_, body| BoxBody::new(Held { body: body.boxed(), _place: place, _slot: slot })))
}

/// A body, and what is given back when it is dropped.
struct Held {
    body: BoxBody,
    _place: Option<OwnedSemaphorePermit>,
    _slot: Option<Slot>,
}

impl MessageBody for Held {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
