//! Anthropic's messages: the system prompt apart, contents in parts. The
//! stream is read in [`super::answer::anthropic`].

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    access::{Access, endpoint, key_is_incorrect, secret_header},
    attempt::Attempt,
    call::{self, ATTEMPTS, Call},
    catalogue::Model,
    chat::Chat,
    failure::Failure,
    history, request,
};
use crate::error::Error;

/// The name in the sentences about its key.
pub const NAME: &str = "Anthropic";

/// Limit for models that the catalogue does not know.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
}

/// The request for a chat. As in the original the first message is the system
/// prompt, whatever its role.
///
/// # Errors
/// Messages that cannot be understood, or a key that cannot stand in a header.
pub fn call(chat: &Chat<'_>, attempt: &Attempt<'_>, access: &Access) -> Result<Call, Error> {
    let mut messages = chat.message_objects()?;
    if messages.is_empty() {
        return Err(Error::BadRequest("messages must not be empty: the first one is the system prompt".to_owned()));
    }
    let system = messages.remove(0).remove("content");
    let messages = messages.into_iter().map(message).collect::<Result<_, _>>()?;
    // Differs: the original sends all as it is. Anthropic refuses empty turns
    // and texts.
    let messages = history::join_turns(messages, "content");
    let temperature = chat.temperature.and_then(|sent| request::temperature(sent, attempt.rules));
    let body = Request {
        model: attempt.model,
        cache_control: is_worth_caching(chat, &messages, attempt.rules).then(|| json!({ "type": "ephemeral" })),
        messages,
        temperature: temperature.as_deref(),
        system,
        max_tokens: attempt.rules.and_then(|rules| rules.max_output).unwrap_or(DEFAULT_MAX_TOKENS),
        stream: true,
        metadata: access.extras.user.as_ref().map(|user| json!({ "user_id": user })),
    };
    let headers = HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("application/json")),
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01")),
        (HeaderName::from_static("x-api-key"), secret_header(NAME, "", &access.key)?),
    ]);
    let url = endpoint(&access.base_url, "/v1/messages")?;
    Ok(Call { url, headers, body: Some(call::json(&body)?), guarded: false, attempts: ATTEMPTS })
}

/// Writing to the cache costs a quarter more than a prompt, and reading from
/// it a tenth: it pays from the second turn on, where the first one shows that
/// there will be more, if the prompt is long enough to be cached at all.
fn is_worth_caching(chat: &Chat<'_>, messages: &[Map<String, Value>], rules: Option<&Model>) -> bool {
    /// Fewer than there are in any language, so that nothing is marked that
    /// is too short.
    const BYTES_PER_TOKEN: usize = 5;
    let Some(minimum) = rules.and_then(|rules| rules.cache_minimum) else { return false };
    messages.iter().filter(|message| message.get("role").is_some_and(|role| role == "user")).count() > 1
        && chat.messages.get().len() / BYTES_PER_TOKEN >= minimum as usize
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
        Failure::Unreachable(detail) | Failure::Connection(detail) => {
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
    use crate::llm::{catalogue::catalogue, request::Extras, wire::Wire};

    fn request(messages: Value, model: &str) -> Result<Value, Error> {
        let messages = serde_json::value::to_raw_value(&messages).expect("JSON");
        let temperature = RawValue::from_string("0.5".to_owned()).expect("JSON");
        let chat = Chat { model: model.to_owned(), temperature: Some(&temperature), messages: &messages };
        let rules = catalogue().model_or_family("anthropic", model);
        let attempt = Attempt { model, wire: Wire::Messages, rules, search: false, old_path: false };
        let extras = Extras { user: Some("u".to_owned()), ..Extras::default() };
        let access = Access { base_url: "http://h".to_owned(), key: "k".into(), organization: None, extras };
        let call = call(&chat, &attempt, &access)?;
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
        assert_eq!(request(json!([{ "content": "S" }]), "mystery").expect("a request")["max_tokens"], 8192);
    }

    #[test]
    fn a_model_is_sent_what_it_takes() {
        let body = |model| request(json!([{ "content": "S" }]), model).expect("a request");
        let (old, new) = (body("claude-haiku-4-5-20251001"), body("claude-opus-9"));
        assert_eq!((&old["temperature"], &old["max_tokens"]), (&json!(0.5), &json!(64_000)));
        assert_eq!((&new["temperature"], &new["max_tokens"]), (&Value::Null, &json!(128_000)));
        assert_eq!(new["metadata"], json!({ "user_id": "u" }));
    }

    #[test]
    fn a_long_prompt_is_cached_from_the_second_turn_on() {
        let turn = |role: &str, bytes: usize| json!({ "role": role, "content": "x".repeat(bytes) });
        let cached = |turns: &[Value], model| {
            let messages = [&[json!({ "content": "S" })], turns].concat();
            !request(messages.into(), model).expect("a request")["cache_control"].is_null()
        };
        let (long, reply, short) = (turn("user", 5000), turn("assistant", 9), turn("user", 9));
        let chat = [long.clone(), reply.clone(), short.clone()];
        assert!(cached(&chat, "claude-opus-5-5") && !cached(&chat, "claude-haiku-4-5"), "by the model's minimum");
        assert!(!cached(&[long], "claude-opus-5-5") && !cached(&[short.clone(), reply, short], "claude-opus-5-5"));
        assert!(!cached(&chat, "mystery"));
    }

    #[test]
    fn images_become_sources() {
        let image = |url: &str| json!({ "type": "image_url", "image_url": { "url": url } });
        let odd = json!({ "type": "image_url", "image_url": {} });
        let parts = json!([{ "type": "text", "text": "what?" }, image("data:image/png;base64,QUJD"), image("https://h/x.png"), odd.clone()]);
        let body = request(json!([{ "content": "" }, { "role": "user", "content": parts }]), "m").expect("a request");
        assert_eq!(
            body["messages"][0]["content"],
            json!([
                { "type": "text", "text": "what?" },
                { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "QUJD" } },
                { "type": "image", "source": { "type": "url", "url": "https://h/x.png" } },
                odd,
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
