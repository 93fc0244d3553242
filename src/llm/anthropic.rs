//! Anthropic's messages: the system prompt apart, contents in parts. The
//! stream is read in [`super::answer::anthropic`].

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    ATTEMPTS, Call, Chat, Failure, history, limits,
    providers::{self, endpoint, key_is_incorrect, secret_header},
};
use crate::error::Error;

/// The name in the sentences about its key.
pub const NAME: &str = "Anthropic";

/// For models that the table of limits does not know: newer ones allow more.
const DEFAULT_MAX_TOKENS: u32 = 8192;

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: Vec<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<Value>,
    max_tokens: u32,
    stream: bool,
}

/// The request for a chat. As in the original the first message is the system
/// prompt, whatever its role.
///
/// # Errors
/// Messages that cannot be understood, or a key that cannot stand in a header.
pub fn call(chat: &Chat<'_>, base_url: &str, key: &SecretString) -> Result<Call, Error> {
    let mut messages = chat.message_objects()?;
    if messages.is_empty() {
        return Err(Error::BadRequest("messages must not be empty: the first one is the system prompt".to_owned()));
    }
    let system = messages.remove(0).remove("content");
    let messages = messages.into_iter().map(message).collect::<Result<_, _>>()?;
    // Differs: the original sends all as it is. Anthropic refuses empty turns
    // and texts.
    let messages = history::join_turns(messages, "content");
    let body = Request {
        model: &chat.model,
        messages,
        temperature: chat.temperature,
        system,
        max_tokens: limits::max_output_tokens(&chat.model).unwrap_or(DEFAULT_MAX_TOKENS),
        stream: true,
    };
    let headers = HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("application/json")),
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01")),
        (HeaderName::from_static("x-api-key"), secret_header(NAME, "", key)?),
    ]);
    let url = endpoint(base_url, "/v1/messages")?;
    Ok(Call { url, headers, body: Some(providers::json(&body)?), guarded: false, attempts: ATTEMPTS })
}

fn message(mut message: Map<String, Value>) -> Result<Map<String, Value>, Error> {
    let parts = match message.get_mut("content").map(Value::take) {
        Some(Value::String(text)) => vec![json!({ "type": "text", "text": text })],
        Some(Value::Array(parts)) => parts.into_iter().map(part).collect(),
        _ => return Err(Error::BadRequest("messages: each needs a content, a string or an array of parts".to_owned())),
    };
    message.insert("content".to_owned(), parts.into());
    Ok(message)
}

/// An image's URL becomes a source; other parts stay as they are.
///
/// Differs: for a URL that holds no data the original sends a source of
/// nulls. Anthropic fetches such images itself.
fn part(part: Value) -> Value {
    let Some(url) = part["image_url"]["url"].as_str().filter(|url| part["type"] == "image_url" && !url.is_empty())
    else {
        return part;
    };
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    let source = match data {
        Some((media_type, data)) => json!({ "type": "base64", "media_type": media_type, "data": data }),
        None => json!({ "type": "url", "url": url }),
    };
    json!({ "type": "image", "source": source })
}

/// A failure in this route's words.
///
/// Differs: the original says for every one that an error occurred while
/// calling Anthropic; here the provider's status and words are passed on.
pub fn error(failure: Failure) -> Error {
    let (status, message) = match failure {
        Failure::Status { status: 401, .. } => (401, key_is_incorrect(NAME)),
        // The provider said nothing that could be passed on.
        Failure::Connection(detail) => {
            let message = "An error occurred while calling the Anthropic API".to_owned();
            return Error::Connection { message, detail };
        }
        failure => match failure.words() {
            Ok(words) => words,
            Err(error) => return error,
        },
    };
    if message.to_lowercase().contains("api key not found") {
        return Error::Provider { status, message: Error::KeyNotFound(NAME).to_string() };
    }
    Error::Provider { status, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(messages: Value, model: &str) -> Result<Value, Error> {
        let messages = serde_json::value::to_raw_value(&messages).expect("JSON");
        let chat = Chat { model: model.to_owned(), temperature: None, messages: &messages };
        let call = call(&chat, "http://h", &"k".into())?;
        assert_eq!(call.url.as_str(), "http://h/v1/messages");
        Ok(serde_json::from_slice(&call.body.expect("a body")).expect("JSON"))
    }

    #[test]
    fn the_system_prompt_stands_apart() {
        let messages = json!([{ "role": "system", "content": "S" }, { "role": "user", "content": "U" }, { "role": "user", "content": "V", "x": 1 }]);
        let body = request(messages, "claude-2.1").expect("a request");
        assert_eq!(body["system"], "S");
        assert_eq!(body["max_tokens"], 4096);
        assert_eq!(
            body["messages"],
            json!([
                { "role": "user", "content": [{ "type": "text", "text": "U" }, { "type": "text", "text": "V" }] },
            ])
        );
        assert_eq!(request(json!([{ "content": "S" }]), "claude-9").expect("a request")["max_tokens"], 8192);
    }

    #[test]
    fn images_become_sources() {
        let image = |url: &str| json!({ "type": "image_url", "image_url": { "url": url } });
        let parts = json!([{ "type": "text", "text": "what?" }, image("data:image/png;base64,QUJD"), image("https://h/x.png"), image("")]);
        let body = request(json!([{ "content": "" }, { "role": "user", "content": parts }]), "m").expect("a request");
        assert_eq!(
            body["messages"][0]["content"],
            json!([
                { "type": "text", "text": "what?" },
                { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "QUJD" } },
                { "type": "image", "source": { "type": "url", "url": "https://h/x.png" } },
                image(""),
            ])
        );
    }

    #[test]
    fn empty_turns_are_left_out() {
        let messages = json!([
            { "content": "S" },
            { "role": "user", "content": "U" },
            { "role": "assistant", "content": "" },
            { "role": "user", "content": [{ "type": "text", "text": " " }] },
            { "role": "user", "content": "V" },
            { "role": "assistant", "content": "" },
        ]);
        let texts = json!([{ "type": "text", "text": "U" }, { "type": "text", "text": "V" }]);
        assert_eq!(
            request(messages, "m").expect("a request")["messages"],
            json!([{ "role": "user", "content": texts }])
        );
    }

    #[test]
    fn messages_that_are_none() {
        for messages in [
            json!([]),
            json!([{ "content": "" }, { "role": "user", "content": null }]),
            json!([{}, 7]),
            json!([null]),
            json!([{}, {}]),
        ] {
            assert!(matches!(request(messages.clone(), "m"), Err(Error::BadRequest(_))), "{messages}");
        }
    }
}
