//! The HTTP interface: the route table, the extractors and the responses.
//!
//! [`table`] lists every route; `handlers` has a file for each area; [`user`], [`body`] and [`context`] are the
//! handlers' arguments, and [`chat_body`] is a chat; [`admit`] lets a request to a model in; `ways` has the keys and
//! models by which a chat may be answered, `opening` tries them; [`respond`] streams an answer; `tool_turn` goes on with
//! the chat until the model has no more calls.

pub mod admit;
pub mod body;
pub mod chat_body;
pub mod context;
mod handlers;
mod opening;
pub mod path;
pub mod respond;
pub mod table;
mod tool_turn;
pub mod user;
mod ways;

use actix_web::{HttpRequest, web::Data};

use crate::error::Error;

/// Returns a component that the server installed for its handlers.
///
/// # Errors
/// [`Error::Internal`] if it is missing, which is a bug.
pub fn installed<T: 'static>(request: &HttpRequest) -> Result<&Data<T>, Error> {
    request
        .app_data::<Data<T>>()
        .ok_or_else(|| Error::Internal(format!("{} is not installed", std::any::type_name::<T>())))
}
