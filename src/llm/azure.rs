//! Azure's OpenAI: OpenAI's wire at an address of the user's own, with a
//! deployment for each model.

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::{
    access::{endpoint, secret_header},
    attempt::Attempt,
    call::{ATTEMPTS, Call, json},
    clients::Providers,
    request::{self, Extras, Prompt},
    routing::{ModelRequest, Wanted},
    wire::Wire,
};
use crate::{
    credentials::{Key, Profile},
    error::Error,
};

/// The name in the sentences about its key.
pub const NAME: &str = "Azure OpenAI";

/// Its name in the log and in metrics.
pub const PROVIDER: &str = "azure";

/// Version for endpoints that do not know the paths without one. The original's is retired.
const API_VERSION: &str = "2024-10-21";

/// Characters that one segment of a path may hold unescaped.
pub const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Endpoint and credentials of a user.
#[derive(Clone)]
pub struct Access {
    /// The user's resource.
    pub endpoint: SecretString,
    /// The user's, or the server's.
    pub key: SecretString,
    /// The user chose the endpoint, so it passes the guard.
    guarded: bool,
    /// Optional parameters.
    pub extras: Extras,
}

impl Access {
    /// Returns the same with another of the server's keys.
    pub fn with_key(&self, key: SecretString) -> Self {
        Self { key, ..self.clone() }
    }
}

/// Returns a profile's access.
///
/// # Errors
/// If the key or the endpoint is missing.
pub fn access(profile: &Profile) -> Result<Access, Error> {
    let key = profile.key(Key::AzureOpenAi).ok_or(Error::KeyNotFound(NAME))?.clone();
    let endpoint = profile.key(Key::AzureEndpoint).ok_or_else(no_resources)?.clone();
    // Differs: the original sends the server's own key to whatever endpoint a
    // user enters.
    if profile.is_from_environment(Key::AzureOpenAi) && !profile.is_from_environment(Key::AzureEndpoint) {
        return Err(no_resources());
    }
    let guarded = !profile.is_from_environment(Key::AzureEndpoint);
    Ok(Access { endpoint, key, guarded, extras: Extras { usage: true, ..Extras::default() } })
}

/// Returns the name of the deployment for a model. What is missing is said in
/// the original's order: the key, the model and the deployment.
///
/// Differs: the original knows no deployment for gpt-4o and gpt-4, which its
/// picker offers all the same; they are answered by the nearest one.
///
/// # Errors
/// If something is missing.
pub fn deployment(profile: &Profile, model: &str) -> Result<String, Error> {
    profile.key(Key::AzureOpenAi).ok_or(Error::KeyNotFound(NAME))?;
    let deployment = match model {
        "gpt-3.5-turbo" => Key::AzureGpt35Turbo,
        "gpt-4-turbo-preview" | "gpt-4o" | "gpt-4" => Key::AzureGpt45Turbo,
        "gpt-4-vision-preview" => Key::AzureGpt45Vision,
        _ => return Err(Error::BadRequest("Model not found".to_owned())),
    };
    segment(profile.key(deployment).ok_or_else(no_resources)?)
}

/// Returns the deployment for embeddings.
///
/// # Errors
/// As [`deployment`].
pub fn embeddings_deployment(profile: &Profile) -> Result<String, Error> {
    segment(profile.key(Key::AzureEmbeddings).ok_or_else(no_resources)?)
}

/// A deployment's name, which becomes one segment of a path: servers that decode it early must not find two in it, or
/// a way up.
fn segment(name: &SecretString) -> Result<String, Error> {
    let name = name.expose_secret().trim();
    let is_segment = !matches!(name, "" | "." | "..")
        && name.len() <= 200
        && !name.contains(|c: char| matches!(c, '/' | '\\' | '%' | '?' | '#') || c.is_control());
    if !is_segment {
        return Err(Error::BadRequest(
            "The name of the Azure deployment is not one, such as my-gpt-4o: enter it as the Azure portal shows it"
                .to_owned(),
        ));
    }
    Ok(name.to_owned())
}

/// Returns the request to a deployment.
pub fn request(providers: &Providers, deployment: String, access: &Access) -> ModelRequest {
    ModelRequest {
        provider: PROVIDER,
        scope: providers.routing.learnt.scope(access.endpoint.expose_secret(), &access.key),
        models: vec![deployment],
        wire: Wire::Chat,
        chat_first: false,
        wanted: Wanted::default(),
        any_end: false,
    }
}

/// Builds the call for a prompt.
///
/// # Errors
/// If the endpoint is no URL, or the key cannot stand in a header.
pub fn call(prompt: &Prompt<'_>, attempt: &Attempt<'_>, access: &Access) -> Result<Call, Error> {
    let body = request::body(prompt, attempt, &access.extras)?;
    let api = if attempt.wire == Wire::Responses { "responses" } else { "chat/completions" };
    post(access, &path(api, attempt.old_path.then_some(attempt.model)), body)
}

/// Builds the call for embeddings by a deployment.
///
/// # Errors
/// As [`call`].
pub fn embeddings(request: &impl Serialize, attempt: &Attempt<'_>, access: &Access) -> Result<Call, Error> {
    post(access, &path("embeddings", attempt.old_path.then_some(attempt.model)), json(request)?)
}

/// Returns the path of an API: without a version, or the older one of a
/// deployment.
fn path(api: &str, old: Option<&str>) -> String {
    match old {
        None => format!("/openai/v1/{api}"),
        Some(deployment) => {
            let deployment = utf8_percent_encode(deployment, SEGMENT);
            format!("/openai/deployments/{deployment}/{api}?api-version={API_VERSION}")
        }
    }
}

fn post(access: &Access, path: &str, body: Bytes) -> Result<Call, Error> {
    let headers = HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("application/json")),
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (AUTHORIZATION, secret_header(NAME, "Bearer ", &access.key)?),
        (HeaderName::from_static("api-key"), secret_header(NAME, "", &access.key)?),
    ]);
    Ok(Call {
        url: endpoint(resource(access.endpoint.expose_secret()), path)?,
        headers,
        body: Some(body),
        // Where the environment names the endpoint, no user chose it.
        guarded: access.guarded,
        attempts: ATTEMPTS,
    })
}

/// Returns the resource of an endpoint, which the portal shows with the path
/// of one API or another.
fn resource(endpoint: &str) -> &str {
    let endpoint = endpoint.trim().trim_end_matches('/');
    let endpoint = endpoint.strip_suffix("/openai/v1").unwrap_or(endpoint);
    endpoint.strip_suffix("/openai").unwrap_or(endpoint)
}

/// Returns what the original says of a missing endpoint or deployment.
pub fn no_resources() -> Error {
    Error::BadRequest("Azure resources not found".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_is_one_segment_of_a_path() {
        for name in ["my-gpt-4o", " gpt_4.1 ", "模型", "a b"] {
            assert_eq!(segment(&name.into()).expect(name), name.trim());
        }
        for name in ["", " ", ".", "..", "a/b", "../x", "a\\b", "%2e%2e", "a?b", "a#b", "a\nb", &"x".repeat(201)] {
            assert!(segment(&name.into()).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_path_is_without_a_version_unless_the_endpoint_wants_one() {
        let url = |endpoint: &str, old| {
            let access =
                Access { endpoint: endpoint.into(), key: "k".into(), guarded: true, extras: Extras::default() };
            post(&access, &path("chat/completions", old), Bytes::new()).expect("a call").url.to_string()
        };
        for endpoint in ["http://h", "http://h/", "http://h/openai", "http://h/openai/v1/"] {
            assert_eq!(url(endpoint, None), "http://h/openai/v1/chat/completions", "{endpoint}");
        }
        assert_eq!(
            url("http://h", Some("a/b")),
            "http://h/openai/deployments/a%2Fb/chat/completions?api-version=2024-10-21"
        );
    }
}
