//! Google's Gemini: a history and a last message. The stream is read in
//! [`super::answer::google`].

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};
use url::Url;

use super::{
    access::{Access, endpoint, key_is_incorrect, secret_header},
    attempt::Attempt,
    call::{self, Call},
    chat::Chat,
    failure::Failure,
    history, request,
};
use crate::error::Error;

/// The name in the sentences about its key.
pub const NAME: &str = "Google Gemini";

/// What the sentences of Google's own library begin with.
pub(super) const PREFIX: &str = "[GoogleGenerativeAI Error]:";

/// What a model's name may hold; a name with a slash is a path of its own.
const MODEL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    safety_settings: [(); 0],
    generation_config: GenerationConfig<'a>,
    contents: Vec<Map<String, Value>>,
}

#[derive(Serialize)]
struct GenerationConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
}

/// The request for a chat. The key travels in a header, never in the URL.
///
/// # Errors
/// A history that Google's own library refuses, in its words, or messages
/// that are none.
pub fn call(chat: &Chat<'_>, attempt: &Attempt<'_>, access: &Access) -> Result<Call, Error> {
    let headers = HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("*/*")),
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (HeaderName::from_static("x-goog-api-key"), secret_header(NAME, "", &access.key)?),
    ]);
    let temperature = chat.temperature.and_then(|sent| request::temperature(sent, attempt.rules));
    let body = Request {
        safety_settings: [],
        generation_config: GenerationConfig { temperature: temperature.as_deref() },
        contents: contents(chat.message_objects()?)?,
    };
    // Google is asked once, as in the original.
    Ok(Call {
        url: url(&access.base_url, attempt.model)?,
        headers,
        body: Some(call::json(&body)?),
        guarded: false,
        attempts: 1,
    })
}

/// Returns where a model answers.
///
/// # Errors
/// If the model's name is none, or the base URL.
pub fn url(base_url: &str, model: &str) -> Result<Url, Error> {
    endpoint(base_url, &path(model)?)
}

fn path(model: &str) -> Result<String, Error> {
    if model.is_empty() || model.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::BadRequest("chatSettings.model must be the name of a model".to_owned()));
    }
    let folder = if model.contains('/') { "" } else { "models/" };
    Ok(format!("/v1beta/{folder}{}:streamGenerateContent?alt=sse", utf8_percent_encode(model, MODEL)))
}

/// The history as it stands, and the last message as the user's.
fn contents(mut messages: Vec<Map<String, Value>>) -> Result<Vec<Map<String, Value>>, Error> {
    let refused = |sentence: &str| Error::Provider { status: 500, message: format!("{PREFIX} {sentence}") };
    let Some(last) = messages.pop() else {
        return Err(Error::BadRequest("messages must not be empty".to_owned()));
    };
    for (index, message) in messages.iter().enumerate() {
        check_history(index, message).map_err(|sentence| refused(&sentence))?;
    }
    let parts: Vec<Value> = match last.get("parts") {
        Some(Value::String(text)) => vec![json!({ "text": text })],
        // For gemini-pro-vision the front end puts the images into a list of
        // their own, which today's API does not take.
        Some(Value::Array(parts)) => parts
            .iter()
            .flat_map(|part| part.as_array().map_or(std::slice::from_ref(part), Vec::as_slice))
            .map(|part| part.as_str().map_or_else(|| part.clone(), |text| json!({ "text": text })))
            .collect(),
        _ => return Err(Error::BadRequest("messages: the last one needs parts, a string or an array".to_owned())),
    };
    if parts.is_empty() {
        return Err(refused("No content is provided for sending chat message."));
    }
    let responses = parts.iter().filter(|part| part.get("functionResponse").is_some()).count();
    if responses > 0 && responses < parts.len() {
        return Err(refused(
            "Within a single message, FunctionResponse cannot be mixed with other type of part in the request for sending chat message.",
        ));
    }
    let role = if responses > 0 { "function" } else { "user" };
    messages.push(Map::from_iter([("role".to_owned(), role.into()), ("parts".to_owned(), parts.into())]));
    // Differs: the original sends all as it is. Google refuses empty turns.
    Ok(history::join_turns(messages, "parts"))
}

/// The checks of Google's library on a message of the history.
fn check_history(index: usize, message: &Map<String, Value>) -> Result<(), String> {
    let role = message.get("role").and_then(Value::as_str).unwrap_or("undefined");
    if index == 0 && role != "user" {
        return Err(format!("First content should be with role 'user', got {role}"));
    }
    let allowed: &[&str] = match role {
        "user" => &["text", "inlineData"],
        "function" => &["functionResponse"],
        "model" => &["text", "functionCall"],
        "system" => &["text"],
        _ => {
            return Err(format!(
                "Each item should include role field. Got {role} but valid roles are: [\"user\",\"model\",\"function\",\"system\"]"
            ));
        }
    };
    let Some(parts) = message.get("parts").and_then(Value::as_array) else {
        return Err("Content should have 'parts' property with an array of Parts".to_owned());
    };
    if parts.is_empty() {
        return Err("Each Content should have at least one part".to_owned());
    }
    for kind in ["text", "inlineData", "functionCall", "functionResponse"] {
        if !allowed.contains(&kind) && parts.iter().any(|part| part.get(kind).is_some()) {
            return Err(format!("Content with role '{role}' can't contain '{kind}' part"));
        }
    }
    Ok(())
}

/// A failure in this route's words, with the URL that was asked.
pub fn error(url: &str, failure: Failure) -> Error {
    let (status, message) = match failure {
        Failure::Status { status, body, .. } => {
            let reason =
                StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
            (status, format!("{PREFIX} Error fetching from {url}: [{status} {reason}] {}", words(&body)))
        }
        Failure::Unreachable(detail) | Failure::Connection(detail) => {
            let message = format!("{PREFIX} Error fetching from {url}: fetch failed");
            return Error::Connection { message, detail };
        }
        failure => match failure.words() {
            Ok(words) => words,
            Err(error) => return error,
        },
    };
    let lower = message.to_lowercase();
    let message = if lower.contains("api key not found") {
        Error::KeyNotFound(NAME).to_string()
    } else if lower.contains("api key not valid") {
        key_is_incorrect(NAME)
    } else {
        message
    };
    Error::Provider { status, message }
}

fn words(body: &str) -> String {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    let error = &json["error"];
    let mut words = error["message"].as_str().map_or_else(String::new, str::to_owned);
    if error["details"].is_array() || error["details"].is_object() {
        words.push_str(&format!(" {}", error["details"]));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{request::Extras, wire::Wire};

    fn request(messages: Value, model: &str) -> Result<(String, Value), Error> {
        let messages = serde_json::value::to_raw_value(&messages).expect("JSON");
        let chat = Chat { model: model.to_owned(), temperature: None, messages: &messages };
        let attempt = Attempt { model, wire: Wire::Generate, rules: None, search: false, old_path: false };
        let (base_url, extras) = ("http://h/".to_owned(), Extras::default());
        let call = call(&chat, &attempt, &Access { base_url, key: "secret".into(), organization: None, extras })?;
        assert!(!call.url.as_str().contains("secret"));
        Ok((call.url.into(), serde_json::from_slice(&call.body.expect("a body")).expect("JSON")))
    }

    fn text(role: &str, text: &str) -> Value {
        json!({ "role": role, "parts": [{ "text": text }] })
    }

    #[test]
    fn history_and_last_message() {
        let (url, body) =
            request(json!([text("user", "a"), text("model", "b"), { "role": "user", "parts": "c" }]), "gemini-pro")
                .expect("a request");
        assert_eq!(url, "http://h/v1beta/models/gemini-pro:streamGenerateContent?alt=sse");
        assert_eq!(
            body,
            json!({ "safetySettings": [], "generationConfig": {}, "contents": [text("user", "a"), text("model", "b"), text("user", "c")] })
        );
        let (_, regenerated) = request(json!([text("user", "a"), text("model", "")]), "m").expect("a request");
        assert_eq!(regenerated["contents"], json!([text("user", "a")]));
        let image = json!({ "inlineData": { "data": "QQ==" } });
        let nested = json!([{ "role": "user", "parts": ["t", [image]] }]);
        let (_, flat) = request(nested, "gemini-pro-vision").expect("a request");
        assert_eq!(flat["contents"][0]["parts"], json!([{ "text": "t" }, image]));
        let (_, two_in_a_row) = request(json!([text("user", "a"), text("user", "b")]), "m").expect("a request");
        assert_eq!(two_in_a_row["contents"], json!([{ "role": "user", "parts": [{ "text": "a" }, { "text": "b" }] }]));
    }

    #[test]
    fn a_model_is_a_name_and_no_way_out() {
        let url = |model: &str| request(json!([text("user", "a")]), model).map(|(url, _)| url);
        assert_eq!(
            url("tunedModels/x").expect("a request"),
            "http://h/v1beta/tunedModels/x:streamGenerateContent?alt=sse"
        );
        assert_eq!(
            url("a?b#c d").expect("a request"),
            "http://h/v1beta/models/a%3Fb%23c%20d:streamGenerateContent?alt=sse"
        );
        for model in ["", "..", "../../x", "a//b", "./a"] {
            assert!(matches!(url(model), Err(Error::BadRequest(_))), "{model}");
        }
    }

    #[test]
    fn what_googles_library_refuses() {
        let last = text("user", "z");
        assert!(request(json!([{}, {}]), "m").is_err());
        for (messages, words) in [
            (json!([text("model", "a"), last]), "First content should be with role 'user', got model"),
            (json!([text("user", "a"), text("assistant", "b"), last]), "Got assistant but valid roles are"),
            (json!([{ "role": "user" }, last]), "'parts' property"),
            (json!([{ "role": "user", "parts": [] }, last]), "at least one part"),
            (
                json!([text("user", "a"), { "role": "model", "parts": [{ "inlineData": {} }] }, last]),
                "can't contain 'inlineData' part",
            ),
            (json!([{ "role": "user", "parts": [] }]), "No content is provided"),
            (json!([{ "role": "user", "parts": [{ "functionResponse": {} }, { "text": "x" }] }]), "cannot be mixed"),
        ] {
            let error = request(messages, "m").expect_err(words).to_string();
            assert!(error.starts_with(PREFIX) && error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_words_of_an_error() {
        let said = |status, body: &str| {
            error("http://h/m", Failure::Status { status, body: body.to_owned(), retry_after: None }).to_string()
        };
        assert_eq!(
            said(429, r#"{"error":{"message":"slow","details":[{"a":1}]}}"#),
            "[GoogleGenerativeAI Error]: Error fetching from http://h/m: [429 Too Many Requests] slow [{\"a\":1}]"
        );
        assert_eq!(
            said(400, r#"{"error":{"message":"API key not valid."}}"#),
            "Google Gemini API Key is incorrect. Please fix it in your profile settings."
        );
    }
}
