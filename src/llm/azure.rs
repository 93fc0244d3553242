//! Azure's OpenAI: OpenAI's wire at an address of the user's own, with a
//! deployment for each model.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde::Serialize;

use super::{
    ATTEMPTS, Call, Chat, limits,
    openai::ChatRequest,
    providers::{endpoint, json, secret_header},
};
use crate::{
    credentials::{Key, Profile},
    error::Error,
};

/// The name in the sentences about its key.
pub const NAME: &str = "Azure OpenAI";

const API_VERSION: &str = "2023-12-01-preview";

/// What may stand in one segment of a path as it is.
pub const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The request for a chat; what is missing is said in the original's order:
/// the key, the model, the endpoint and the deployment.
///
/// # Errors
/// What is missing, or a URL or key that is none.
pub fn call(chat: &Chat<'_>, profile: &Profile) -> Result<Call, Error> {
    profile.key(Key::AzureOpenAi).ok_or(Error::KeyNotFound(NAME))?;
    let deployment = match chat.model.as_str() {
        "gpt-3.5-turbo" => Key::AzureGpt35Turbo,
        "gpt-4-turbo-preview" => Key::AzureGpt45Turbo,
        "gpt-4-vision-preview" => Key::AzureGpt45Vision,
        _ => return Err(Error::BadRequest("Model not found".to_owned())),
    };
    let deployment = profile.key(deployment).ok_or_else(no_resources)?.expose_secret();
    let messages = chat.mended_messages();
    let body = ChatRequest {
        model: deployment,
        messages: &*messages,
        temperature: chat.temperature.filter(|_| !limits::refuses_temperature(&chat.model)),
        max_tokens: (chat.model == "gpt-4-vision-preview").then_some(4096),
        tools: None,
        stream: true,
    };
    let path = format!("/openai/deployments/{}/chat/completions", utf8_percent_encode(deployment, SEGMENT));
    post(profile, &path, &body)
}

/// A request to the user's endpoint.
///
/// # Errors
/// As [`call`].
pub fn post(profile: &Profile, path: &str, body: &impl Serialize) -> Result<Call, Error> {
    let key = profile.key(Key::AzureOpenAi).ok_or(Error::KeyNotFound(NAME))?;
    let base_url = profile.key(Key::AzureEndpoint).ok_or_else(no_resources)?;
    // Differs: the original sends the server's own key to whatever endpoint a
    // user enters.
    if profile.is_from_environment(Key::AzureOpenAi) && !profile.is_from_environment(Key::AzureEndpoint) {
        return Err(no_resources());
    }
    let headers = HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("application/json")),
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (AUTHORIZATION, secret_header(NAME, "Bearer ", key)?),
        (HeaderName::from_static("api-key"), secret_header(NAME, "", key)?),
    ]);
    Ok(Call {
        url: endpoint(base_url.expose_secret(), &format!("{path}?api-version={API_VERSION}"))?,
        headers,
        body: Some(json(body)?),
        // Where the environment names the endpoint, no user chose it.
        guarded: !profile.is_from_environment(Key::AzureEndpoint),
        attempts: ATTEMPTS,
    })
}

/// What the original says of a missing endpoint or deployment.
pub fn no_resources() -> Error {
    Error::BadRequest("Azure resources not found".to_owned())
}
