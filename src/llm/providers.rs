//! The providers that speak OpenAI's wire, a row each. The route, the request
//! and the words of the errors follow from the row. Its address is a field of
//! [`BaseUrls`], its key a row of [`crate::credentials::TABLE`], and its tests are to
//! be written: `docs/providers.md` goes through all of it.

use url::Url;

use super::{base_urls::BaseUrls, wire::Wire};
use crate::credentials::Key;

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

impl Provider {
    /// Returns whether its older API is tried first: Perplexity's own is gone,
    /// but another server under this name may still have it.
    pub fn is_chat_first(&self, base_url: &str) -> bool {
        self.path == "perplexity" && provider_at(base_url) != "perplexity"
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
