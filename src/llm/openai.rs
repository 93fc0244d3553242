//! OpenAI's wire: the request for a chat and the words of its errors; its
//! stream is read in [`super::answer::openai`]. Spoken by OpenAI, Groq,
//! Mistral, OpenRouter, Perplexity, Azure and every custom model.

use serde::Serialize;
use serde_json::{Value, value::RawValue};

use super::{Failure, request::Turns, unusable};
use crate::{error::Error, js};

/// The body of a request for a chat, its members in the original's order.
/// Without `Debug`, as it holds the prompt.
#[derive(Serialize)]
pub struct ChatRequest<'a> {
    /// The model's id (for Azure the deployment's).
    pub model: &'a str,
    /// The conversation.
    pub messages: &'a Turns<'a>,
    /// The client's temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<&'a RawValue>,
    /// Effort of thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<&'static str>,
    /// Form of the thoughts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_format: Option<&'static str>,
    /// The functions that the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<&'a [Value]>,
    /// Request the answer as events.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// Request counts of tokens at the stream's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<Value>,
    /// Requests with the same key reach the same cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_key: Option<&'a str>,
    /// A pseudonym of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_identifier: Option<&'a str>,
}

/// What the model says, or calls, in an answer in one piece.
///
/// # Errors
/// [`Failure::Unusable`] where there is none.
pub fn message(mut completion: Value) -> Result<Value, Failure> {
    match completion.pointer_mut("/choices/0/message").map(Value::take) {
        Some(message @ Value::Object(_)) => Ok(message),
        _ => Err(unusable(&completion.to_string())),
    }
}

/// The text of such a message: a string, the texts of a list of parts, or the
/// words with which the model refuses.
pub fn text_of(message: &Value) -> Option<String> {
    match &message["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        _ => message["refusal"].as_str().map(str::to_owned),
    }
}

/// What an error's body says: the words in the original's order of search.
/// For an error inside a stream the event's data is the body.
///
/// Differs: a JSON body without an `error` member is quoted; the original
/// calls it empty.
pub fn error_message(body: &str) -> String {
    let json: Value = match serde_json::from_str(body) {
        Ok(json) => json,
        Err(_) if body.trim().is_empty() => return NO_BODY.to_owned(),
        Err(_) => return body.to_owned(),
    };
    if !truthy(&json) {
        return body.to_owned();
    }
    let error = &json["error"];
    let words = if truthy(&error["message"]) {
        &error["message"]
    } else if truthy(error) {
        return js::stringify(error);
    } else {
        [&json["message"], &json["detail"]].into_iter().find(|words| truthy(words)).unwrap_or(&json)
    };
    words.as_str().map_or_else(|| js::stringify(words), str::to_owned)
}

/// A failure in the words of the routes that show the provider's alone,
/// without its status: Azure, tools, the command palette, assistants.
///
/// Differs: where the original says that an unexpected error occurred, the
/// reason is said.
pub fn plain_error(failure: Failure) -> Error {
    if let Failure::Status { status, body, .. } = &failure {
        let json: Value = serde_json::from_str(body).unwrap_or_default();
        if let Value::String(words) = &json["error"]["message"]
            && !words.is_empty()
        {
            return Error::Provider { status: *status, message: words.clone() };
        }
    }
    failure.into_error()
}

/// What the original says where an error has no body.
pub const NO_BODY: &str = "status code (no body)";

/// Truth as JavaScript sees it.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_error() {
        for (body, words) in [
            (r#"{"error":{"message":"no","type":"t"}}"#, "no"),
            (r#"{"error":{"type":"x","code":7}}"#, r#"{"type":"x","code":7}"#),
            (r#"{"error":{"message":"","type":"q"}}"#, r#"{"message":"","type":"q"}"#),
            (r#"{"error":{"message":{"a":1}}}"#, r#"{"a":1}"#),
            (r#"{"error":{"message":5}}"#, "5"),
            (r#"{"error":"plain"}"#, r#""plain""#),
            (r#"{"error":["x"]}"#, r#"["x"]"#),
            (r#"{"error":7}"#, "7"),
            (r#"{"error":{}}"#, "{}"),
            ("null", "null"),
            ("false", "false"),
            ("0", "0"),
            ("Bad gateway <b>", "Bad gateway <b>"),
            ("", NO_BODY),
            // Differs from here on.
            (r#"{"message":"top"}"#, "top"),
            (r#"{"detail":[{"loc":["body"]}]}"#, r#"[{"loc":["body"]}]"#),
            (r#"{"error":null}"#, r#"{"error":null}"#),
            ("[1]", "[1]"),
        ] {
            assert_eq!(error_message(body), words, "{body}");
        }
    }
}
