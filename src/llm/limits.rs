//! What is known of models by name: how many tokens an answer may have, and
//! which of them refuse a temperature.

/// The original's table of output limits, in tokens. One table for every
/// route that sends `max_tokens`: a model id works on any of them.
const MAX_OUTPUT_TOKENS: &[(&str, u32)] = &[
    ("claude-2.1", 4096),
    ("claude-3-5-sonnet-20240620", 4096),
    ("claude-3-haiku-20240307", 4096),
    ("claude-3-opus-20240229", 4096),
    ("claude-3-sonnet-20240229", 4096),
    ("claude-instant-1.2", 4096),
    ("codellama-34b-instruct", 4096),
    ("codellama-70b-instruct", 16384),
    ("gemini-1.5-flash", 8192),
    ("gemini-1.5-pro-latest", 8192),
    ("gemini-pro", 2048),
    ("gemini-pro-vision", 4096),
    ("gemma-7b-it", 8192),
    ("gpt-3.5-turbo", 4096),
    ("gpt-4", 4096),
    ("gpt-4-turbo-preview", 4096),
    ("gpt-4-vision-preview", 4096),
    ("gpt-4o", 4096),
    ("llama-2-70b-chat", 4096),
    ("llama3-70b-8192", 8192),
    ("llama3-8b-8192", 8192),
    ("mistral-7b-instruct", 16384),
    ("mistral-large-latest", 2000),
    ("mistral-medium-latest", 2000),
    ("mistral-small-latest", 2000),
    ("mistral-tiny", 2000),
    ("mixtral-8x7b-32768", 4096),
    ("mixtral-8x7b-instruct", 16384),
    ("pplx-70b-chat", 4096),
    ("pplx-70b-online", 4096),
    ("pplx-7b-chat", 4096),
    ("pplx-7b-online", 4096),
    ("sonar-medium-chat", 16384),
    ("sonar-medium-online", 12000),
    ("sonar-small-chat", 16384),
    ("sonar-small-online", 12000),
];

/// The output limit of a model that the table knows, in tokens.
///
/// Differs: for a model that it does not know the original fails with a
/// `TypeError`; here the caller sends no limit, so that new models work.
pub fn max_output_tokens(model: &str) -> Option<u32> {
    let at = MAX_OUTPUT_TOKENS.binary_search_by_key(&model, |row| row.0).ok()?;
    Some(MAX_OUTPUT_TOKENS[at].1)
}

/// Whether the model is one of OpenAI's reasoning models, which refuse a
/// `temperature`. Known by the name's beginning (`o1`, `o3-mini`,
/// `gpt-5-nano`, `openai/o4-mini`), so that their successors work too.
///
/// Differs: the original sends a temperature and shows the provider's 400.
pub fn refuses_temperature(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let family = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.', ':']))
    };
    // gpt-5-chat is the one of the family that does not reason.
    ["o1", "o3", "o4", "o5", "gpt-5", "gpt-6"].iter().any(|prefix| family(prefix)) && !name.starts_with("gpt-5-chat")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_whole() {
        assert_eq!(MAX_OUTPUT_TOKENS.len(), 36);
        assert!(MAX_OUTPUT_TOKENS.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(max_output_tokens("llama3-70b-8192"), Some(8192));
        assert_eq!(max_output_tokens("codellama-70b-instruct"), Some(16384));
        assert_eq!(max_output_tokens("llama-3.3-70b-versatile"), None);
        assert_eq!(max_output_tokens("toString"), None);
    }

    #[test]
    fn reasoning_models_by_name() {
        for model in ["o1", "o1-mini", "o3-mini-2025-01-31", "o4-mini", "gpt-5", "gpt-5.1", "gpt-5-nano", "openai/o3"] {
            assert!(refuses_temperature(model), "{model}");
        }
        for model in ["gpt-4o", "gpt-4", "o1x", "olmo", "gpt-5-chat-latest", "gpt-50", "mistral-tiny", ""] {
            assert!(!refuses_temperature(model), "{model}");
        }
    }
}
