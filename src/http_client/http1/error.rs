//! Errors of the client. None of them holds the URL, a header or anything of a
//! body.

use std::time::Duration;

use crate::http_client::ssrf_guard::Refusal;

/// The reason why there is no response, or no more of its body.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The SSRF guard refused the URL.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No connection was made, so nothing was sent.
    #[error("no connection: {0}")]
    Connect(String),
    /// The request was sent, at least in part, and no usable response head
    /// came.
    #[error("no response: {0}")]
    Request(String),
    /// The connection failed in the middle of a body.
    #[error("the response broke off: {0}")]
    Body(String),
    /// No byte came for as long as the idle timeout.
    #[error("timed out: no data for {0:?}")]
    IdleTimeout(Duration),
}
