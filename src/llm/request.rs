//! The body of a request in OpenAI's terms, for chat completions or for the
//! Responses API.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json, value::RawValue};

use super::{attempt::Attempt, call, catalogue::Model, chat::Chat, responses, wire::Wire};
use crate::error::Error;

/// A conversation to be answered, and how.
pub struct Prompt<'a> {
    /// The turns of the conversation.
    pub turns: Turns<'a>,
    /// The client's temperature.
    pub temperature: Option<&'a RawValue>,
    /// The functions that the model may call.
    pub tools: Option<&'a [Value]>,
    /// Request the answer as events.
    pub stream: bool,
    /// Let the model answer without thinking, if it can.
    pub quick: bool,
}

impl<'a> Prompt<'a> {
    /// Returns a chat's prompt.
    pub fn new(chat: &'a Chat<'a>) -> Self {
        Self {
            turns: Turns::Raw(chat.mended_messages()),
            temperature: chat.temperature,
            tools: None,
            stream: true,
            quick: false,
        }
    }
}

/// The turns of a conversation, as chat completions have them.
pub enum Turns<'a> {
    /// The client's, mended.
    Raw(Cow<'a, RawValue>),
    /// The client's and more.
    Values(&'a [Value]),
}

impl Turns<'_> {
    /// Returns them as objects.
    fn objects(&self) -> Result<Vec<Map<String, Value>>, Error> {
        match self {
            Self::Raw(raw) => Chat { model: String::new(), temperature: None, messages: raw }.message_objects(),
            Self::Values(values) => Ok(values.iter().filter_map(Value::as_object).cloned().collect()),
        }
    }
}

impl Serialize for Turns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Raw(raw) => raw.serialize(serializer),
            Self::Values(values) => values.serialize(serializer),
        }
    }
}

/// Optional parameters, for the operator's sake.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// Request counts of tokens at the stream's end.
    pub usage: bool,
    /// Requests with the same key reach the same cache.
    pub cache_key: Option<String>,
    /// A pseudonym of the user.
    pub user: Option<String>,
}

/// The body of a request for a chat, its members in the original's order.
/// Without `Debug`, as it holds the prompt.
#[derive(Serialize)]
struct ChatRequest<'a> {
    /// The model's id (for Azure the deployment's).
    model: &'a str,
    /// The conversation.
    messages: &'a Turns<'a>,
    /// The client's temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
    /// Effort of thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'static str>,
    /// Form of the thoughts.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_format: Option<&'static str>,
    /// The functions that the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a [Value]>,
    /// Request the answer as events.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    /// Request counts of tokens at the stream's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<Value>,
    /// Requests with the same key reach the same cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<&'a str>,
    /// A pseudonym of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_identifier: Option<&'a str>,
}

/// Writes a request's body.
///
/// # Errors
/// If the messages cannot be understood, where they have to be.
pub fn body(prompt: &Prompt<'_>, attempt: &Attempt<'_>, extras: &Extras) -> Result<Bytes, Error> {
    let rules = attempt.rules;
    let without_thinking = prompt.quick && rules.is_some_and(|rules| rules.effort_none);
    let temperature = if without_thinking {
        prompt.temperature.map(Cow::Borrowed)
    } else {
        prompt.temperature.and_then(|sent| temperature(sent, rules))
    };
    let effort = without_thinking.then_some("none");
    let (cache_key, user) = (extras.cache_key.as_deref(), extras.user.as_deref());
    if attempt.wire == Wire::Responses {
        let web_search = attempt.search.then(|| json!({ "type": "web_search" }));
        return call::json(&responses::Request {
            model: attempt.model,
            input: responses::input(prompt.turns.objects()?),
            temperature: temperature.as_deref(),
            max_output_tokens: rules.filter(|rules| rules.needs_limit).and_then(|rules| rules.max_output),
            reasoning: effort.map(|effort| json!({ "effort": effort })),
            tools: prompt.tools.unwrap_or_default().iter().map(responses::tool).chain(web_search).collect(),
            stream: prompt.stream,
            store: false,
            prompt_cache_key: cache_key,
            safety_identifier: user,
        });
    }
    call::json(&ChatRequest {
        model: attempt.model,
        messages: &prompt.turns,
        temperature: temperature.as_deref(),
        reasoning_effort: effort,
        reasoning_format: rules.is_some_and(|rules| rules.thinks_in_tags).then_some("parsed"),
        tools: prompt.tools,
        stream: prompt.stream,
        stream_options: (extras.usage && prompt.stream).then(|| json!({ "include_usage": true })),
        prompt_cache_key: cache_key,
        safety_identifier: user,
    })
}

/// Returns the temperature as far as a model takes it.
pub fn temperature<'a>(sent: &'a RawValue, rules: Option<&Model>) -> Option<Cow<'a, RawValue>> {
    let Some(rules) = rules else { return Some(Cow::Borrowed(sent)) };
    let (_, most) = rules.temperature?;
    let too_high = sent.get().parse::<f64>().is_ok_and(|sent| sent > most);
    let most = too_high.then(|| RawValue::from_string(most.to_string()).ok()).flatten();
    Some(most.map_or(Cow::Borrowed(sent), Cow::Owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::catalogue::catalogue;

    fn sent(provider: &str, model: &str, wire: Wire, quick: bool) -> Value {
        let turns = [json!({ "role": "user", "content": "U" })];
        let temperature = RawValue::from_string("1.75".to_owned()).expect("JSON");
        let prompt =
            Prompt { turns: Turns::Values(&turns), temperature: Some(&temperature), tools: None, stream: true, quick };
        let rules = catalogue().model_or_family(provider, model);
        let attempt = Attempt { model, wire, rules, search: true, old_path: false };
        let body = body(&prompt, &attempt, &Extras::default()).expect("a body");
        serde_json::from_slice(&body).expect("JSON")
    }

    #[test]
    fn a_temperature_is_sent_as_far_as_the_model_takes_it() {
        for (provider, model, expected) in [
            ("openai", "gpt-4o", json!(1.75)),
            ("openai", "gpt-5.4", json!(1.75)),
            ("openai", "gpt-5.5", json!(null)),
            ("openai", "o3-mini", json!(null)),
            ("mistral", "mistral-large-latest", json!(1.5)),
            ("", "gpt-5.5", json!(1.75)),
        ] {
            assert_eq!(sent(provider, model, Wire::Chat, false)["temperature"], expected, "{model}");
        }
    }

    #[test]
    fn a_quick_answer_is_one_without_thinking() {
        let quick = sent("openai", "gpt-6-luna", Wire::Chat, true);
        assert_eq!((&quick["reasoning_effort"], &quick["temperature"]), (&json!("none"), &json!(1.75)));
        assert_eq!(sent("openai", "gpt-6-luna", Wire::Responses, true)["reasoning"], json!({ "effort": "none" }));
        assert!(sent("openai", "gpt-6.1-sol", Wire::Chat, true)["reasoning_effort"].is_null());
    }

    #[test]
    fn what_is_asked_by_responses() {
        let body = sent("perplexity", "anthropic/claude-x", Wire::Responses, false);
        assert_eq!(
            body,
            json!({
                "model": "anthropic/claude-x",
                "input": [{ "role": "user", "content": "U" }],
                "max_output_tokens": 64000,
                "tools": [{ "type": "web_search" }],
                "stream": true,
                "store": false,
            })
        );
        assert!(sent("perplexity", "perplexity/sonar", Wire::Responses, false)["max_output_tokens"].is_null());
        assert_eq!(sent("groq", "qwen/qwen9", Wire::Chat, false)["reasoning_format"], "parsed");
    }
}
