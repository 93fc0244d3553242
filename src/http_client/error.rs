//! Descriptions of failed requests.

use std::error::Error as StdError;

use super::ssrf_guard::Refusal;

/// Returns the refusal of the SSRF guard among an error and its sources.
pub fn refusal<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Refusal> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal);
        }
        source = error.source();
    }
    None
}

/// Joins the messages of an error and its sources, without the URL, which may
/// contain a secret.
pub fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut message = String::new();
    let mut source = Some(error);
    while let Some(error) = source {
        match error.downcast_ref::<reqwest::Error>() {
            Some(error) if error.is_timeout() => message.push_str("timed out"),
            Some(_) => message.push_str("request failed"),
            None => message.push_str(&error.to_string()),
        }
        source = error.source();
        if source.is_some() {
            message.push_str(": ");
        }
    }
    message
}
