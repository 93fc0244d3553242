//! The providers. What each wants is data: a [`Call`] says what to send,
//! a [`Reader`](answer::Reader) makes text of the events that come back. The one place that
//! talks to them is [`send`]; the answer's way to the client is [`relay`].
//!
//! The files import from each other, and never from here: the names below are for the other rooms.

pub mod access;
mod adaptation;
pub mod answer;
pub mod anthropic;
mod attempt;
pub mod azure;
mod base_urls;
mod call;
pub mod catalogue;
mod chat;
pub mod circuits;
mod clients;
mod content;
pub mod dispatch;
mod error_body;
pub mod failover;
mod failure;
pub mod functions;
pub mod google;
mod history;
pub mod learnt;
mod limits;
mod members;
pub mod notes;
pub mod offers;
pub mod openai;
pub mod providers;
pub mod pseudonym;
pub mod refusal;
pub mod relay;
pub mod request;
pub mod responses;
pub mod routing;
pub mod send;
#[cfg(test)]
mod splits;
pub mod sse;
pub mod tokens;
mod whole;
mod wire;

pub use self::{
    attempt::Attempt,
    base_urls::BaseUrls,
    call::{ATTEMPTS, Call},
    chat::{Chat, has_images},
    clients::Providers,
    failure::Failure,
    limits::MAX_ERROR_BYTES,
    whole::{Reading, complete},
    wire::Wire,
};
