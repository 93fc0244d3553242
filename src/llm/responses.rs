//! OpenAI's Responses API: what a chat is there, the events of its stream,
//! and its answer in one piece. OpenAI serves some models by it alone, and
//! Perplexity all of them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Failure, Output,
    content::{self, Content},
    openai::error_message,
    sse::Event,
    unusable,
};

/// A request. Without `Debug`, as it holds the prompt.
#[derive(Serialize)]
pub struct Request<'a> {
    /// The model's id.
    pub model: &'a str,
    /// The conversation, see [`input`].
    pub input: Vec<Value>,
    /// As the client sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<&'a RawValue>,
    /// In tokens, thinking included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// How much the model thinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Value>,
    /// What the model may call, see [`tool`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// Whether the answer comes as events.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// Whether the provider keeps the conversation; chat completions do not.
    pub store: bool,
    /// Requests with the same one are sent to the same cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_key: Option<&'a str>,
    /// A pseudonym of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_identifier: Option<&'a str>,
}

/// Turns the messages of a chat into items.
pub fn input(messages: Vec<Map<String, Value>>) -> Vec<Value> {
    messages.into_iter().flat_map(items).collect()
}

fn items(mut message: Map<String, Value>) -> Vec<Value> {
    let role = message.get("role").and_then(Value::as_str).unwrap_or("user").to_owned();
    let content = message.remove("content").unwrap_or_default();
    if role == "tool" {
        let call_id = message.remove("tool_call_id").unwrap_or_default();
        return vec![json!({ "type": "function_call_output", "call_id": call_id, "output": content })];
    }
    let is_empty = content.is_null() || content == "" || content.as_array().is_some_and(Vec::is_empty);
    let by_model = role == "assistant";
    let mut items = Vec::new();
    // An answer that was stopped before its first word is no turn.
    if !(is_empty && by_model) {
        let content = match content {
            Value::Array(parts) => parts.into_iter().map(|it| part(it, by_model)).collect(),
            content => content,
        };
        items.push(json!({ "role": role, "content": content }));
    }
    let calls = message.remove("tool_calls").unwrap_or_default();
    items.extend(calls.as_array().into_iter().flatten().map(|call| {
        json!({
            "type": "function_call",
            "call_id": call["id"],
            "name": call["function"]["name"],
            "arguments": call["function"]["arguments"],
        })
    }));
    items
}

fn part(part: Value, by_model: bool) -> Value {
    match part["type"].as_str() {
        Some("text") if by_model => json!({ "type": "output_text", "text": part["text"] }),
        Some("text") => json!({ "type": "input_text", "text": part["text"] }),
        Some("image_url") => {
            let image = &part["image_url"];
            let url = if image.is_string() { image } else { &image["url"] };
            let mut item = json!({ "type": "input_image", "image_url": url });
            if image["detail"].is_string() {
                item["detail"] = image["detail"].clone();
            }
            item
        }
        _ => part,
    }
}

/// Turns a function that a model may call into the form of this API.
pub fn tool(tool: &Value) -> Value {
    let mut flat = tool["function"].clone();
    flat["type"] = "function".into();
    // Strict is the default here, and takes few schemas.
    flat["strict"] = false.into();
    flat
}

/// Turns an answer in one piece into the message of a chat.
///
/// # Errors
/// [`Failure::Unusable`] if it is none, or failed.
pub fn message(response: &Value) -> Result<Value, Failure> {
    if matches!(response["status"].as_str(), Some("failed" | "cancelled")) || response["output"].is_null() {
        return Err(unusable(&response.to_string()));
    }
    let items = || response["output"].as_array().into_iter().flatten();
    let calls = items().filter(|item| item["type"] == "function_call").map(|call| {
        json!({
            "id": call["call_id"],
            "type": "function",
            "function": { "name": call["name"], "arguments": call["arguments"] },
        })
    });
    let calls: Vec<Value> = calls.collect();
    let text = output_text(response);
    let mut message =
        json!({ "role": "assistant", "content": if text.is_empty() { Value::Null } else { text.into() } });
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}

/// Returns the text, or the refusal, of a whole response.
fn output_text(response: &Value) -> String {
    let items = response["output"].as_array().into_iter().flatten().filter(|item| item["type"] == "message");
    let parts = items.flat_map(|item| item["content"].as_array().into_iter().flatten());
    parts
        .filter_map(|part| match part["type"].as_str() {
            Some("output_text") => part["text"].as_str(),
            Some("refusal") => part["refusal"].as_str(),
            _ => None,
        })
        .collect()
}

/// Reads the events of one answer. Their `type` counts, since Perplexity's
/// have no names.
#[derive(Debug, Default)]
pub struct Reader {
    spoken: bool,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Content<'a>>,
    #[serde(borrow, default)]
    delta: Option<Content<'a>>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl Reader {
    /// Reads one event and adds what it says to `out`.
    ///
    /// # Errors
    /// If the provider sent an error, or an event that is not understood.
    pub fn read(&mut self, event: Event<'_>, out: &mut Output) -> Result<(), Failure> {
        let data = event.data.trim_ascii();
        if data.is_empty() || data.starts_with(b":") {
            return Ok(());
        }
        if data.starts_with(b"[DONE]") {
            out.done = true;
            return Ok(());
        }
        let data = content::utf8(data);
        let not_understood = || Failure::Stream("The provider sent an event that is not understood".to_owned());
        let mut repaired = String::new();
        let event: Data<'_> = content::parse(&data, &mut repaired).map_err(|_| not_understood())?;
        let kind = match &event.kind {
            Some(Content::Text(kind)) => &**kind,
            _ if event.error.is_some() => "error",
            _ => return Ok(()),
        };
        match kind {
            "response.output_text.delta" | "response.refusal.delta" => match event.delta {
                Some(Content::Text(text)) => self.say(&text, out),
                None => {}
                Some(Content::Parts(_) | Content::Other) => return Err(not_understood()),
            },
            "response.completed" | "response.incomplete" => {
                let response: Value =
                    event.response.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
                if !self.spoken {
                    // Some servers send nothing but the end.
                    self.say(&output_text(&response), out);
                }
                self.count(&response, out);
                out.done = true;
            }
            "response.failed" | "response.cancelled" | "error" => {
                let words = event.response.map_or(&*data, RawValue::get);
                return Err(Failure::Stream(error_message(words)));
            }
            _ => {}
        }
        Ok(())
    }

    fn say(&mut self, text: &str, out: &mut Output) {
        self.spoken |= !text.is_empty();
        out.text.push_str(text);
    }

    fn count(&self, response: &Value, out: &mut Output) {
        if response["usage"].is_object()
            && let Ok(usage) = serde_json::value::to_raw_value(&response["usage"])
        {
            out.usage.push(usage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &[Value]) -> Result<Output, Failure> {
        let (mut reader, mut out) = (Reader::default(), Output::default());
        for event in events {
            reader.read(Event { name: b"", data: event.to_string().as_bytes() }, &mut out)?;
        }
        Ok(out)
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn a_chat_becomes_items() {
        let image =
            json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,QQ==", "detail": "low" } });
        let items = input(vec![
            object(json!({ "role": "system", "content": "S" })),
            object(json!({ "role": "user", "content": [{ "type": "text", "text": "U" }, image] })),
            object(json!({ "role": "assistant", "content": "" })),
            object(json!({ "role": "assistant", "content": [{ "type": "text", "text": "A" }] })),
            object(
                json!({ "role": "assistant", "content": null, "tool_calls": [{ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } }] }),
            ),
            object(json!({ "role": "tool", "tool_call_id": "c", "name": "f", "content": "18" })),
        ]);
        assert_eq!(
            Value::from(items),
            json!([
                { "role": "system", "content": "S" },
                { "role": "user", "content": [
                    { "type": "input_text", "text": "U" },
                    { "type": "input_image", "image_url": "data:image/png;base64,QQ==", "detail": "low" },
                ] },
                { "role": "assistant", "content": [{ "type": "output_text", "text": "A" }] },
                { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "c", "output": "18" },
            ])
        );
        assert_eq!(
            tool(&json!({ "type": "function", "function": { "name": "f", "parameters": {} } })),
            json!({ "name": "f", "parameters": {}, "type": "function", "strict": false })
        );
    }

    #[test]
    fn text_and_refusals_are_the_answer_and_thoughts_are_not() {
        let out = read(&[
            json!({ "type": "response.created", "response": { "status": "in_progress" } }),
            json!({ "type": "response.reasoning_summary_text.delta", "delta": "hm" }),
            json!({ "type": "response.reasoning.started", "thought": "hm" }),
            json!({ "type": "response.output_text.delta", "delta": "a", "logprobs": null }),
            json!({ "type": "response.refusal.delta", "delta": "b" }),
            json!({ "type": "response.output_text.done", "text": "ab" }),
            json!({ "type": "response.function_call_arguments.delta", "delta": "{}" }),
            json!({ "type": "response.completed", "response": { "usage": { "output_tokens": 3 }, "output": [{ "type": "message", "content": [{ "type": "output_text", "text": "ab" }] }] } }),
        ])
        .expect("an answer");
        assert_eq!((out.text.as_str(), out.done), ("ab", true));
        assert_eq!(out.usage[0].get(), r#"{"output_tokens":3}"#);
    }

    #[test]
    fn an_answer_that_comes_with_its_end_is_said_once() {
        let end = json!({ "type": "response.completed", "response": { "output": [
            { "type": "search_results", "results": [] },
            { "type": "message", "content": [{ "type": "output_text", "text": "a" }, { "type": "refusal", "refusal": "b" }] },
        ] } });
        assert_eq!(read(&[end]).expect("an answer").text, "ab");
    }

    #[test]
    fn errors_are_said_in_the_providers_words() {
        for event in [
            json!({ "type": "error", "code": "x", "message": "quota", "param": null }),
            json!({ "type": "error", "error": { "message": "quota" } }),
            json!({ "error": { "message": "quota" } }),
            json!({ "type": "response.failed", "response": { "status": "failed", "error": { "code": "x", "message": "quota" } } }),
        ] {
            assert_eq!(read(&[event.clone()]).map(|_| ()).expect_err("fails").to_string(), "quota", "{event}");
        }
        assert!(read(&[json!({ "type": "response.output_text.delta", "delta": 7 })]).is_err());
        let mut out = Output::default();
        for data in ["", ": alive", "[DONE]"] {
            Reader::default().read(Event { name: b"", data: data.as_bytes() }, &mut out).expect(data);
        }
        assert!(out.done && Reader::default().read(Event { name: b"", data: b"{bad" }, &mut out).is_err());
    }

    #[test]
    fn an_answer_in_one_piece_becomes_a_message() {
        let response = json!({ "status": "completed", "output": [
            { "type": "reasoning", "summary": [] },
            { "type": "message", "content": [{ "type": "output_text", "text": "a" }] },
            { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" },
        ] });
        assert_eq!(
            message(&response).expect("a message"),
            json!({ "role": "assistant", "content": "a", "tool_calls": [{ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } }] })
        );
        let failed = json!({ "status": "failed", "error": { "message": "quota" }, "output": [] });
        assert_eq!(message(&failed).expect_err("fails").to_string(), "quota");
        assert!(message(&json!({ "choices": [] })).is_err());
    }
}
