//! The addresses of the providers that the configuration names.

use url::Url;

use crate::http_client::ssrf_guard;

/// The providers' base URLs, without a slash at the end.
#[derive(Debug, Clone)]
pub struct BaseUrls {
    /// `OPENAI_BASE_URL`, default `https://api.openai.com/v1`.
    pub openai: String,
    /// `GROQ_BASE_URL`, default `https://api.groq.com/openai/v1`.
    pub groq: String,
    /// `MISTRAL_BASE_URL`, default `https://api.mistral.ai/v1`.
    pub mistral: String,
    /// `OPENROUTER_BASE_URL`, default `https://openrouter.ai/api/v1`.
    pub openrouter: String,
    /// `PERPLEXITY_BASE_URL`, default `https://api.perplexity.ai`.
    pub perplexity: String,
    /// `ANTHROPIC_BASE_URL`, default `https://api.anthropic.com`.
    pub anthropic: String,
    /// `GOOGLE_GEMINI_BASE_URL`, default
    /// `https://generativelanguage.googleapis.com`.
    pub google: String,
}

impl BaseUrls {
    /// Whether every provider is on this machine.
    pub fn all_on_this_machine(&self) -> bool {
        let Self { openai, groq, mistral, openrouter, perplexity, anthropic, google } = self;
        [openai, groq, mistral, openrouter, perplexity, anthropic, google]
            .into_iter()
            .all(|url| Url::parse(url).is_ok_and(|url| url.host_str().is_some_and(ssrf_guard::is_this_machine)))
    }
}
