//! A call: one request to a provider, before it is sent.

use std::fmt;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde::Serialize;
use url::Url;

use super::limits::Limits;
use crate::error::Error;

/// The number of requests to a provider before its failure is passed on.
pub const ATTEMPTS: u32 = 3;

/// One request to a provider, as plain data.
#[derive(Clone)]
pub struct Call {
    /// Where to.
    pub url: Url,
    /// The key among them, marked sensitive.
    pub headers: HeaderMap,
    /// JSON to be posted; without it the call is a GET.
    pub body: Option<Bytes>,
    /// A user chose the URL: it goes through the guard.
    pub guarded: bool,
    /// How often to ask, at most; once more where no head came at first.
    pub attempts: u32,
}

impl Call {
    /// Returns the limits on reading a streamed answer.
    pub fn stream_limits(&self) -> Limits {
        if self.guarded { Limits::GUARDED } else { Limits::TRUSTED }
    }
}

impl fmt::Debug for Call {
    // By hand, because the body is the prompt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("guarded", &self.guarded).field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// Writes a body.
///
/// # Errors
/// If a value cannot be written as JSON.
pub(super) fn json(body: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| Error::Internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{AUTHORIZATION, HeaderValue};

    #[test]
    fn debug_shows_no_key_and_no_prompt() {
        let mut key = HeaderValue::from_static("Bearer hunter2");
        key.set_sensitive(true);
        let call = Call {
            url: Url::parse("http://h/?key=hunter2").expect("a URL"),
            headers: HeaderMap::from_iter([(AUTHORIZATION, key)]),
            body: Some(Bytes::from_static(b"hunter2")),
            guarded: true,
            attempts: 1,
        };
        assert!(!format!("{call:?} {call:#?}").contains("hunter2"));
    }
}
