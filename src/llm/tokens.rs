//! Counts of tokens: each provider's own form → [`Tokens`].

use serde::Deserialize;

use crate::telemetry::Tokens;

/// The members of all providers' forms; each has some of them. A number that is none counts as missing.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Usage {
    // OpenAI's chats, and those who speak like it.
    prompt_tokens: Count,
    completion_tokens: Count,
    prompt_tokens_details: Details,
    completion_tokens_details: Details,
    prompt_cache_hit_tokens: Count,
    // OpenAI's Responses and Anthropic.
    input_tokens: Count,
    output_tokens: Count,
    input_tokens_details: Details,
    output_tokens_details: Details,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
    // Google.
    #[serde(rename = "promptTokenCount")]
    google_prompt: Count,
    #[serde(rename = "toolUsePromptTokenCount")]
    google_tools: Count,
    #[serde(rename = "cachedContentTokenCount")]
    google_cached: Count,
    #[serde(rename = "candidatesTokenCount")]
    google_candidates: Count,
    #[serde(rename = "thoughtsTokenCount")]
    google_thoughts: Count,
}

#[derive(Deserialize, Default)]
#[serde(from = "serde_json::Value")]
struct Details {
    cached_tokens: Count,
    reasoning_tokens: Count,
}

impl From<serde_json::Value> for Details {
    fn from(value: serde_json::Value) -> Self {
        let count = |name: &str| Count(value[name].as_u64().map(|count| count.min(MOST)));
        Self { cached_tokens: count("cached_tokens"), reasoning_tokens: count("reasoning_tokens") }
    }
}

/// The most tokens that are believed of one request.
const MOST: u64 = 1_000_000_000;

/// A number of tokens, if it is one.
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(from = "serde_json::Value")]
struct Count(Option<u64>);

impl From<serde_json::Value> for Count {
    fn from(value: serde_json::Value) -> Self {
        // Some servers count in floating point.
        let count = value.as_u64().or_else(|| value.as_f64().filter(|count| *count >= 0.0).map(|count| count as u64));
        Self(count.map(|count| count.min(MOST)))
    }
}

impl Count {
    fn or(self, other: Self) -> Self {
        Self(self.0.or(other.0))
    }

    fn get(self) -> u64 {
        self.0.unwrap_or(0)
    }
}

/// Reads a provider's count. `None` if there is no number in it.
pub fn tokens(usage: &str) -> Option<Tokens> {
    let usage: Usage = serde_json::from_str(usage).ok()?;
    let prompt = usage.prompt_tokens.or(usage.input_tokens).or(usage.google_prompt);
    let answer = usage.completion_tokens.or(usage.output_tokens).or(usage.google_candidates);
    prompt.or(answer).0?;
    // Anthropic counts apart what it writes into its cache and reads from it; Google its thoughts and tools' results.
    let apart = usage.cache_read_input_tokens.get() + usage.cache_creation_input_tokens.get();
    let cached = usage
        .prompt_tokens_details
        .cached_tokens
        .or(usage.input_tokens_details.cached_tokens)
        .or(usage.prompt_cache_hit_tokens)
        .or(usage.cache_read_input_tokens)
        .or(usage.google_cached);
    let reasoning = usage
        .completion_tokens_details
        .reasoning_tokens
        .or(usage.output_tokens_details.reasoning_tokens)
        .or(usage.google_thoughts);
    let input = prompt.get() + apart + usage.google_tools.get();
    let output = answer.get() + usage.google_thoughts.get();
    Some(Tokens { input, cached: cached.get().min(input), output, reasoning: reasoning.get().min(output) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_providers_form_is_read() {
        for (usage, expected) in [
            (r#"{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}"#, Some((9, 0, 5, 0))),
            (
                r#"{"prompt_tokens":9,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8},"completion_tokens_details":{"reasoning_tokens":4}}"#,
                Some((9, 8, 5, 4)),
            ),
            (
                r#"{"input_tokens":9,"output_tokens":5,"input_tokens_details":{"cached_tokens":8},"output_tokens_details":{"reasoning_tokens":4}}"#,
                Some((9, 8, 5, 4)),
            ),
            (
                r#"{"input_tokens":1,"cache_read_input_tokens":8,"cache_creation_input_tokens":3,"output_tokens":5}"#,
                Some((12, 8, 5, 0)),
            ),
            (
                r#"{"promptTokenCount":9,"candidatesTokenCount":5,"thoughtsTokenCount":4,"cachedContentTokenCount":8}"#,
                Some((9, 8, 9, 4)),
            ),
            (r#"{"prompt_tokens":9,"total_tokens":9}"#, Some((9, 0, 0, 0))),
            (r#"{"prompt_tokens":9,"completion_tokens":null,"prompt_tokens_details":null}"#, Some((9, 0, 0, 0))),
            (r#"{"prompt_tokens":9.0,"completion_tokens":-5}"#, Some((9, 0, 0, 0))),
            (r#"{"prompt_tokens":1e300,"completion_tokens":"x"}"#, Some((MOST, 0, 0, 0))),
            (r#"{"prompt_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}"#, Some((2, 2, 0, 0))),
            (r#"{"cost":1}"#, None),
            ("{}", None),
            ("[]", None),
            ("", None),
        ] {
            let read = tokens(usage).map(|it| (it.input, it.cached, it.output, it.reasoning));
            assert_eq!(read, expected, "{usage}");
        }
    }

    proptest! {
        #[test]
        fn parts_are_never_more_than_the_whole(a: u64, b: u64, c: u64, d: u64) {
            let usage = format!(
                r#"{{"promptTokenCount":{a},"cachedContentTokenCount":{b},"candidatesTokenCount":{c},"thoughtsTokenCount":{d}}}"#
            );
            let it = tokens(&usage).expect("a count");
            prop_assert!(it.cached <= it.input && it.reasoning <= it.output);
        }
    }
}
