//! Failures: the reasons for which a provider gave no answer, or not all of it.

use std::{fmt, time::Duration};

use serde_json::Value;

use super::{error_body::error_message, sse};
use crate::{
    error::Error,
    http_client::{http1, ssrf_guard::Refusal},
};

/// Reason for which there is no (more) answer. Each route has its own words for it.
#[derive(thiserror::Error)]
pub enum Failure {
    /// The provider answered, but not with success.
    #[error("{status} {body}")]
    Status {
        /// The provider's.
        status: u16,
        /// As much of it as is kept, [`MAX_ERROR_BYTES`](super::limits::MAX_ERROR_BYTES).
        body: String,
        /// The time after which the provider says to ask again.
        retry_after: Option<Duration>,
    },
    /// What should have been a stream held an error, or was none. The
    /// provider's words.
    #[error("{0}")]
    Stream(String),
    /// The same, where the request is at fault: another key or model would not help.
    #[error("{0}")]
    Rejected(String),
    /// The provider will not answer this prompt, or not go on. In words for
    /// the user.
    #[error("{0}")]
    Blocked(String),
    /// An answer in one piece is not what was asked for. In words for the user.
    #[error("{0}")]
    Unusable(String),
    /// No connection was made, so nothing was sent. For the operator.
    #[error("{0}")]
    Unreachable(String),
    /// No answer came. For the operator.
    #[error("{0}")]
    Connection(String),
    /// An answer began, and broke off. For the operator.
    #[error("{0}")]
    Broken(String),
    /// The answer ended, but is none or not complete. In fixed words for the
    /// user.
    #[error("{0}")]
    Incomplete(String),
    /// Nothing came for as long as a provider may be silent.
    #[error("The provider said nothing for {} second{}.", .0.as_secs(), if .0.as_secs() == 1 { "" } else { "s" })]
    Silent(Duration),
    /// The guard does not let the URL through.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The user's or the server's allowance of bytes is used up.
    #[error("{}", Error::Overloaded)]
    Overloaded,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail())
    }
}

impl Failure {
    /// For the log: what happened, without the provider's words, which may
    /// quote a prompt or a key.
    pub fn detail(&self) -> String {
        match self {
            Self::Status { status, .. } => format!("the provider answered with status {status}"),
            Self::Stream(_) | Self::Rejected(_) => "the provider sent an error, or no event stream".to_owned(),
            Self::Blocked(_) => "the provider blocked the answer".to_owned(),
            Self::Unusable(_) => "the provider's answer is not what was asked for".to_owned(),
            Self::Unreachable(detail) | Self::Connection(detail) | Self::Broken(detail) | Self::Incomplete(detail) => {
                detail.clone()
            }
            Self::Silent(_) => self.to_string(),
            Self::Refused(_) => "the SSRF guard refused the URL".to_owned(),
            Self::Overloaded => "the allowance of bytes is used up".to_owned(),
        }
    }

    /// A status and words, as most routes show them; each route changes what
    /// is its own before or after.
    ///
    /// # Errors
    /// The whole answer, where no provider's words are in it.
    pub fn words(self) -> Result<(u16, String), Error> {
        match self {
            Self::Status { status, body, .. } => Ok((status, format!("{status} {}", error_message(&body)))),
            Self::Stream(words) | Self::Rejected(words) | Self::Incomplete(words) => Ok((502, words)),
            Self::Silent(_) => Ok((504, self.to_string())),
            Self::Unusable(words) => Ok((500, words)),
            Self::Blocked(words) => Ok((400, words)),
            Self::Unreachable(detail) | Self::Connection(detail) | Self::Broken(detail) => {
                Err(Error::connection(detail))
            }
            Self::Refused(refusal) => Err(Error::BadRequest(refusal.to_string())),
            Self::Overloaded => Err(Error::Overloaded),
        }
    }

    /// [`Failure::words`], as they are.
    pub fn into_error(self) -> Error {
        self.words().map_or_else(|error| error, |(status, message)| Error::Provider { status, message })
    }
}

impl From<http1::Error> for Failure {
    /// What ends an answer that has begun.
    fn from(error: http1::Error) -> Self {
        match error {
            http1::Error::IdleTimeout(limit) => Self::Silent(limit),
            error => Self::Broken(error.to_string()),
        }
    }
}

impl From<sse::EventTooLarge> for Failure {
    fn from(error: sse::EventTooLarge) -> Self {
        Self::Stream(format!("The provider sent {error}"))
    }
}

/// The failure that an error inside of a stream reports, by its JSON.
pub fn reported(json: &str) -> Failure {
    let words = error_message(json);
    let json: Value = serde_json::from_str(json).unwrap_or_default();
    let error = if json["error"].is_object() { &json["error"] } else { &json };
    if is_of_request(error) { Failure::Rejected(words) } else { Failure::Stream(words) }
}

/// Tells if an error says that the request is at fault, not the key, the model or the provider.
fn is_of_request(error: &Value) -> bool {
    /// In the codes of OpenAI, Anthropic and Google, some of which call everything an invalid request.
    const OTHERS: [&str; 8] =
        ["rate_limit", "quota", "billing", "api_key", "overloaded", "server_error", "unavailable", "timeout"];
    const REQUESTS: [&str; 8] = [
        "invalid_prompt",
        "invalid_request",
        "invalid_argument",
        "invalid_image",
        "content_filter",
        "content_policy",
        "context_length",
        "too_large",
    ];
    let kinds: Vec<String> =
        ["code", "type", "status"].iter().filter_map(|name| error[*name].as_str()).map(str::to_lowercase).collect();
    let is = |names: &[&str]| kinds.iter().any(|kind| names.iter().any(|name| kind.contains(name)));
    let has_status = matches!(error["code"].as_u64(), Some(400 | 404 | 413 | 422));
    is_moderated(error) || (!is(&OTHERS) && (has_status || is(&REQUESTS)))
}

/// Tells if an error is OpenRouter's for a prompt that was refused by moderation.
pub fn is_moderated(error: &Value) -> bool {
    ["reasons", "flagged_input"].iter().any(|name| !error["metadata"][*name].is_null())
}

/// An answer that is not what was asked for: its words, where it is an error
/// that somebody sent with the wrong status.
pub fn unusable(body: &str) -> Failure {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    Failure::Unusable(if json["error"].is_null() {
        "The provider answered with something that is not understood".to_owned()
    } else {
        error_message(body)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_request_are_told_from_those_of_the_provider() {
        for (json, is_of_request) in [
            (r#"{"error":{"code":"invalid_prompt","message":"no"}}"#, true),
            (r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#, true),
            (r#"{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"no"}}"#, true),
            (r#"{"error":{"code":403,"message":"no","metadata":{"reasons":["violence"]}}}"#, true),
            (r#"{"type":"error","code":"context_length_exceeded","message":"no"}"#, true),
            (r#"{"type":"error","error":{"type":"overloaded_error","message":"no"}}"#, false),
            (r#"{"error":{"type":"invalid_request_error","code":"rate_limit_exceeded","message":"no"}}"#, false),
            (r#"{"error":{"code":429,"message":"no"}}"#, false),
            (r#"{"error":{"code":"server_error","message":"no"}}"#, false),
            (r#"{"error":"no"}"#, false),
            ("no", false),
        ] {
            assert_eq!(matches!(reported(json), Failure::Rejected(_)), is_of_request, "{json}");
        }
    }

    #[test]
    fn debug_and_the_log_show_nobodys_words() {
        let words = || "hunter2".to_owned();
        for failure in [
            Failure::Status { status: 401, body: words(), retry_after: None },
            Failure::Stream(words()),
            Failure::Rejected(words()),
            Failure::Blocked(words()),
            Failure::Unusable(words()),
            Failure::Refused(Refusal::NotHttp(words())),
        ] {
            assert!(!format!("{failure:?} {}", failure.detail()).contains("hunter2"));
            let error = failure.into_error();
            assert!(!format!("{error:?} {}", error.detail()).contains("hunter2"), "{error}");
        }
    }
}
