//! OpenAI's wire: a provider's calls, the message in an answer in one piece, and the words of failures; its
//! stream is read in [`super::answer::openai`]. Spoken by OpenAI, Groq, Mistral, OpenRouter, Perplexity, Azure and
//! every custom model.

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::Value;

use super::{
    access::{Access, endpoint, key_is_incorrect, secret_header},
    attempt::Attempt,
    call::{ATTEMPTS, Call, json},
    failure::{Failure, unusable},
    providers::{Provider, WrongKey, provider_at},
    request::{Prompt, body},
    wire::Wire,
};
use crate::error::Error;

impl Provider {
    /// Builds the call for a prompt.
    ///
    /// # Errors
    /// If the base URL is none, or the key cannot stand in a header.
    pub fn call(&self, mut prompt: Prompt<'_>, attempt: &Attempt<'_>, access: &Access) -> Result<Call, Error> {
        prompt.temperature = prompt.temperature.filter(|_| self.temperature);
        let body = body(&prompt, attempt, &access.extras)?;
        let path = match attempt.wire {
            Wire::Responses if access.base_url.trim_end_matches('/').ends_with("/v1") => "/responses",
            Wire::Responses if provider_at(&access.base_url) == "perplexity" => "/v1/responses",
            Wire::Responses => self.responses,
            _ => "/chat/completions",
        };
        self.post_body(&access.base_url, path, body, &access.key, access.organization.as_ref())
    }

    /// A request to one of the provider's paths.
    ///
    /// # Errors
    /// As [`Provider::call`].
    pub fn post(
        &self,
        base_url: &str,
        path: &str,
        body: &impl Serialize,
        key: &SecretString,
        organization: Option<&SecretString>,
    ) -> Result<Call, Error> {
        self.post_body(base_url, path, json(body)?, key, organization)
    }

    fn post_body(
        &self,
        base_url: &str,
        path: &str,
        body: Bytes,
        key: &SecretString,
        organization: Option<&SecretString>,
    ) -> Result<Call, Error> {
        let mut headers = self.headers(key, organization)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Call { url: endpoint(base_url, path)?, headers, body: Some(body), guarded: false, attempts: ATTEMPTS })
    }

    /// What every request to the provider carries.
    ///
    /// # Errors
    /// A key that cannot stand in a header.
    pub fn headers(&self, key: &SecretString, organization: Option<&SecretString>) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        if !key.expose_secret().trim().is_empty() {
            headers.insert(AUTHORIZATION, secret_header(self.name, "Bearer ", key)?);
        }
        if let Some(organization) = organization.filter(|_| self.organization) {
            headers.insert(HeaderName::from_static("openai-organization"), secret_header(self.name, "", organization)?);
        }
        Ok(headers)
    }

    /// A failure in this route's words.
    pub fn error(&self, failure: Failure) -> Error {
        let (status, message) = match failure.words() {
            Ok(words) => words,
            Err(error) => return error,
        };
        let lower = message.to_lowercase();
        let wrong_key = match self.wrong_key {
            WrongKey::Words => lower.contains("incorrect api key"),
            WrongKey::Unauthorized => status == 401,
            WrongKey::OwnWords => false,
        };
        let message = if lower.contains("api key not found") {
            Error::KeyNotFound(self.name).to_string()
        } else if wrong_key {
            key_is_incorrect(self.name)
        } else {
            message
        };
        Error::Provider { status, message }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{
        providers::{CUSTOM, OPENAI, PROVIDERS},
        request::{Extras, Turns},
    };

    fn call(provider: &Provider, base_url: &str, key: &str) -> Result<Call, Error> {
        let prompt = Prompt { turns: Turns::Values(&[]), temperature: None, tools: None, stream: true, quick: false };
        let attempt = Attempt { model: "m", wire: Wire::Chat, rules: None, search: false, old_path: false };
        let (base_url, key) = (base_url.to_owned(), key.into());
        provider.call(prompt, &attempt, &Access { base_url, key, organization: None, extras: Extras::default() })
    }

    #[test]
    fn base_urls_join_with_one_slash() {
        for (base, url) in [
            ("http://h/v1", "http://h/v1/chat/completions"),
            ("http://h/v1/", "http://h/v1/chat/completions"),
            (" http://h ", "http://h/chat/completions"),
        ] {
            assert_eq!(call(&CUSTOM, base, "k").expect(base).url.as_str(), url);
        }
        assert_eq!(call(&CUSTOM, "h/v1", "k").expect_err("no URL").to_string(), "Invalid URL");
    }

    #[test]
    fn a_key_with_a_newline_is_no_panic_and_does_not_show() {
        let openai = &OPENAI;
        let pasted = call(openai, "http://h", " sk-1\n").expect("trimmed");
        assert_eq!(pasted.headers[AUTHORIZATION], "Bearer sk-1");
        assert!(!format!("{pasted:?}").contains("sk-1"));
        for broken in ["sk-\n1", "sk-1\r\nx: y", "sk-\u{0}1", "sk-é"] {
            let error = call(openai, "http://h", broken).expect_err("refused").to_string();
            assert_eq!(error, "OpenAI API Key is incorrect. Please fix it in your profile settings.");
        }
        assert!(!call(&CUSTOM, "http://h", "").expect("no key").headers.contains_key(AUTHORIZATION));
    }

    #[test]
    fn every_row_says_its_own_name() {
        for provider in PROVIDERS.iter().chain([&OPENAI, &CUSTOM]) {
            let words = |status, words: &str| {
                let body = format!(r#"{{"error":{{"message":"{words}"}}}}"#);
                provider.error(Failure::Status { status, body, retry_after: None }).to_string()
            };
            let missing = format!("{} API Key not found. Please set it in your profile settings.", provider.name);
            let wrong = format!("{} API Key is incorrect. Please fix it in your profile settings.", provider.name);
            assert_eq!(words(400, "an API key NOT found here"), missing);
            assert_eq!(words(429, "slow down"), "429 slow down");
            let (by_words, by_status) = (words(400, "Incorrect API key provided"), words(401, "who?"));
            match provider.wrong_key {
                WrongKey::Words => assert_eq!((by_words, by_status), (wrong, "401 who?".to_owned())),
                WrongKey::Unauthorized => {
                    assert_eq!((by_words, by_status), ("400 Incorrect API key provided".to_owned(), wrong))
                }
                WrongKey::OwnWords => assert_eq!(
                    (by_words, by_status),
                    ("400 Incorrect API key provided".to_owned(), "401 who?".to_owned())
                ),
            }
        }
    }
}
