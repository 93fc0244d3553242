//! The providers that speak OpenAI's wire, a row each. The route, the request
//! and the words of the errors follow from the row. Its address is a field of
//! [`BaseUrls`], its key a row of [`crate::credentials::TABLE`], and its tests are to
//! be written: `docs/providers.md` goes through all of it.

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::Url;

use super::{
    ATTEMPTS, BaseUrls, Call, Failure, Wire,
    dispatch::Attempt,
    request::{self, Extras, Prompt},
};
use crate::{credentials::Key, error::Error};

/// A provider that speaks OpenAI's wire: what is its own.
#[derive(Debug)]
pub struct Provider {
    /// The last part of the route, `/api/chat/<path>`.
    pub path: &'static str,
    /// The name in the sentences about its key.
    pub name: &'static str,
    /// Its key.
    pub key: Key,
    /// Its address among the configured ones.
    pub base_url: fn(&BaseUrls) -> &str,
    /// Whether it is sent the chat's temperature.
    pub temperature: bool,
    /// Path of its Responses API.
    pub responses: &'static str,
    /// How it says that a key is wrong.
    pub wrong_key: WrongKey,
    /// Whether it is told the user's OpenAI organization.
    pub organization: bool,
    /// Takes OpenAI's newer parameters: for counts of tokens, its cache, and telling users apart.
    pub extras: bool,
    /// Its streams may end without a mark; see [`Habits`](super::answer::openai::Habits).
    pub any_end: bool,
}

/// How a provider says that the key is wrong.
#[derive(Debug, Clone, Copy)]
pub enum WrongKey {
    /// In the words "incorrect api key".
    Words,
    /// By status 401.
    Unauthorized,
    /// Its own words are shown.
    OwnWords,
}

/// OpenAI itself, which other routes than its chat ask too.
pub static OPENAI: Provider = Provider {
    path: "openai",
    name: "OpenAI",
    key: Key::OpenAi,
    base_url: |urls| &urls.openai,
    temperature: true,
    responses: "/responses",
    wrong_key: WrongKey::Words,
    organization: true,
    extras: true,
    any_end: false,
};

/// Every other provider with a route of its own.
pub static PROVIDERS: [Provider; 4] = [
    Provider {
        path: "groq",
        name: "Groq",
        key: Key::Groq,
        base_url: |urls| &urls.groq,
        temperature: false,
        responses: "/responses",
        wrong_key: WrongKey::Unauthorized,
        organization: false,
        extras: false,
        any_end: false,
    },
    Provider {
        path: "mistral",
        name: "Mistral",
        key: Key::Mistral,
        base_url: |urls| &urls.mistral,
        temperature: false,
        responses: "/responses",
        wrong_key: WrongKey::Unauthorized,
        organization: false,
        extras: false,
        any_end: false,
    },
    Provider {
        path: "openrouter",
        name: "OpenRouter",
        key: Key::OpenRouter,
        base_url: |urls| &urls.openrouter,
        temperature: true,
        responses: "/responses",
        wrong_key: WrongKey::OwnWords,
        organization: false,
        extras: false,
        any_end: false,
    },
    Provider {
        path: "perplexity",
        name: "Perplexity",
        key: Key::Perplexity,
        base_url: |urls| &urls.perplexity,
        temperature: false,
        responses: "/v1/responses",
        wrong_key: WrongKey::Unauthorized,
        organization: false,
        extras: false,
        any_end: false,
    },
];

/// Custom models: address and key come from the user's `models` row.
pub static CUSTOM: Provider = Provider {
    path: "custom",
    name: "Custom",
    key: Key::OpenAi,
    base_url: |_| "https://api.openai.com/v1",
    temperature: true,
    responses: "/responses",
    wrong_key: WrongKey::Words,
    organization: false,
    extras: false,
    any_end: true,
};

/// The providers that a model's name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// OpenAI.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// Google.
    Google,
    /// The row with this path.
    Row(&'static str),
}

impl Vendor {
    /// Returns every provider that has a route of its own and answers at one address.
    pub fn all() -> impl Iterator<Item = Self> {
        PROVIDERS.iter().map(|provider| Self::Row(provider.path)).chain([Self::OpenAi, Self::Anthropic, Self::Google])
    }

    /// Finds a provider by its name in the routes.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::all().find(|vendor| vendor.name() == name)
    }

    /// Returns its name in the routes.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => OPENAI.path,
            Self::Anthropic => "anthropic",
            Self::Google => "google",
            Self::Row(path) => path,
        }
    }

    /// Returns its API, unless a model needs another one.
    pub fn wire(self) -> Wire {
        match self {
            Self::Anthropic => Wire::Messages,
            Self::Google => Wire::Generate,
            Self::OpenAi | Self::Row(_) => Wire::Chat,
        }
    }

    /// Returns its key.
    pub fn key(self) -> Key {
        match self {
            Self::Anthropic => Key::Anthropic,
            Self::Google => Key::GoogleGemini,
            Self::OpenAi | Self::Row(_) => self.row().key,
        }
    }

    /// Returns its name in sentences about its key.
    pub fn title(self) -> &'static str {
        match self {
            Self::Anthropic => super::anthropic::NAME,
            Self::Google => super::google::NAME,
            Self::OpenAi | Self::Row(_) => self.row().name,
        }
    }

    /// Returns its base URL.
    pub fn base_url(self, urls: &BaseUrls) -> &str {
        match self {
            Self::Anthropic => &urls.anthropic,
            Self::Google => &urls.google,
            Self::OpenAi | Self::Row(_) => (self.row().base_url)(urls),
        }
    }

    /// Returns its row; OpenAI's for those that have none.
    pub fn row(self) -> &'static Provider {
        PROVIDERS.iter().find(|provider| provider.path == self.name()).unwrap_or(&OPENAI)
    }
}

/// The provider of a model, by its name: clients of the route for tools post
/// nothing else. `None` if the name tells nothing; it may be a custom model's.
pub fn vendor(model: &str) -> Option<Vendor> {
    const PREFIXES: [(&str, Vendor); 29] = [
        ("claude", Vendor::Anthropic),
        ("gemini", Vendor::Google),
        ("gpt-", Vendor::OpenAi),
        ("chatgpt-", Vendor::OpenAi),
        ("codex", Vendor::OpenAi),
        ("o1", Vendor::OpenAi),
        ("o3", Vendor::OpenAi),
        ("o4", Vendor::OpenAi),
        ("mistral-7b-instruct", Vendor::Row("perplexity")),
        ("mixtral-8x7b-instruct", Vendor::Row("perplexity")),
        ("codellama-", Vendor::Row("perplexity")),
        ("pplx-", Vendor::Row("perplexity")),
        ("sonar", Vendor::Row("perplexity")),
        ("mixtral-8x7b-32768", Vendor::Row("groq")),
        ("mistral", Vendor::Row("mistral")),
        ("open-mi", Vendor::Row("mistral")),
        ("codestral", Vendor::Row("mistral")),
        ("ministral", Vendor::Row("mistral")),
        ("magistral", Vendor::Row("mistral")),
        ("devstral", Vendor::Row("mistral")),
        ("pixtral", Vendor::Row("mistral")),
        ("llama3-", Vendor::Row("groq")),
        ("llama-2-70b-chat", Vendor::Row("perplexity")),
        ("llama-3", Vendor::Row("groq")),
        ("llama-4", Vendor::Row("groq")),
        ("gemma", Vendor::Row("groq")),
        ("qwen-", Vendor::Row("groq")),
        ("deepseek-r1-distill", Vendor::Row("groq")),
        ("compound", Vendor::Row("groq")),
    ];
    if let Some((author, _)) = model.split_once('/') {
        // Google's own names may have a path, and some of Groq's do.
        return Some(match author {
            "models" => Vendor::Google,
            "groq" => Vendor::Row("groq"),
            _ => Vendor::Row("openrouter"),
        });
    }
    PREFIXES.iter().find(|(prefix, _)| model.starts_with(prefix)).map(|(_, vendor)| *vendor)
}

/// Address and credentials for calling a provider.
#[derive(Clone)]
pub struct Access {
    /// The base URL.
    pub base_url: String,
    /// May be empty.
    pub key: SecretString,
    /// The user's OpenAI organization.
    pub organization: Option<SecretString>,
    /// Optional parameters.
    pub extras: Extras,
}

impl Provider {
    /// Builds the call for a prompt.
    ///
    /// # Errors
    /// If the base URL is none, or the key cannot stand in a header.
    pub fn call(&self, mut prompt: Prompt<'_>, attempt: &Attempt<'_>, access: &Access) -> Result<Call, Error> {
        prompt.temperature = prompt.temperature.filter(|_| self.temperature);
        let body = request::body(&prompt, attempt, &access.extras)?;
        let path = match attempt.wire {
            Wire::Responses if access.base_url.trim_end_matches('/').ends_with("/v1") => "/responses",
            Wire::Responses if provider_at(&access.base_url) == "perplexity" => "/v1/responses",
            Wire::Responses => self.responses,
            _ => "/chat/completions",
        };
        self.post_body(&access.base_url, path, body, &access.key, access.organization.as_ref())
    }

    /// Returns whether its older API is tried first: Perplexity's own is gone,
    /// but another server under this name may still have it.
    pub fn is_chat_first(&self, base_url: &str) -> bool {
        self.path == "perplexity" && provider_at(base_url) != "perplexity"
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

/// Returns the catalogue's name of the provider at a base URL; empty where
/// nobody knows it.
pub fn provider_at(base_url: &str) -> &'static str {
    let url = Url::parse(base_url.trim()).ok();
    match url.as_ref().and_then(Url::host_str) {
        Some("api.openai.com") => "openai",
        Some("api.groq.com") => "groq",
        Some("api.mistral.ai") => "mistral",
        Some("api.perplexity.ai") => "perplexity",
        Some("api.anthropic.com") => "anthropic",
        Some("generativelanguage.googleapis.com") => "google",
        _ => "",
    }
}

/// Joins a base URL, with or without a slash at its end, and a path.
///
/// # Errors
/// The original's words, where the result is no URL.
pub fn endpoint(base_url: &str, path: &str) -> Result<Url, Error> {
    let base = base_url.trim();
    let base = base.strip_suffix('/').unwrap_or(base);
    Url::parse(&format!("{base}{path}")).map_err(|_| Error::Provider { status: 500, message: "Invalid URL".to_owned() })
}

/// A key as a header's value. Keys are pasted with what stood around them, so
/// white space at the ends goes; within, a key is wrong.
pub(super) fn secret_header(provider: &str, scheme: &str, secret: &SecretString) -> Result<HeaderValue, Error> {
    let secret = secret.expose_secret().trim();
    let value = HeaderValue::from_str(&format!("{scheme}{secret}")).ok().filter(|_| secret.is_ascii());
    let mut value = value.ok_or_else(|| Error::Provider { status: 401, message: key_is_incorrect(provider) })?;
    value.set_sensitive(true);
    Ok(value)
}

pub(super) fn key_is_incorrect(provider: &str) -> String {
    format!("{provider} API Key is incorrect. Please fix it in your profile settings.")
}

pub(super) fn json(body: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| Error::Internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::request::Turns;

    #[test]
    fn a_models_name_tells_its_provider() {
        for (model, expected) in [
            ("gpt-4o", Some(Vendor::OpenAi)),
            ("o3-mini", Some(Vendor::OpenAi)),
            ("claude-3-opus-20240229", Some(Vendor::Anthropic)),
            ("gemini-1.5-flash", Some(Vendor::Google)),
            ("mistral-large-latest", Some(Vendor::Row("mistral"))),
            ("llama3-70b-8192", Some(Vendor::Row("groq"))),
            ("mixtral-8x7b-32768", Some(Vendor::Row("groq"))),
            ("sonar-pro", Some(Vendor::Row("perplexity"))),
            ("openai/gpt-4o", Some(Vendor::Row("openrouter"))),
            ("my-own", None),
        ] {
            assert_eq!(vendor(model), expected, "{model}");
        }
    }

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
