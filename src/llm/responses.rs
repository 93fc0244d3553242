//! OpenAI's Responses API: what a chat is there, and its answer in one piece;
//! its stream is read in [`super::answer::responses`]. OpenAI serves some
//! models by it alone, and Perplexity all of them.

use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::failure::{Failure, unusable};

/// A request. Without `Debug`, as it holds the prompt.
#[derive(Serialize)]
pub struct Request<'a> {
    /// The model's id.
    pub model: &'a str,
    /// The conversation, see [`input`].
    pub input: Vec<Value>,
    /// The client's temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<&'a RawValue>,
    /// Limit in tokens, thinking included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// Effort of thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Value>,
    /// Functions that the model may call, see [`tool`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// Request the answer as events.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// Let the provider keep the conversation. Chat completions are not kept.
    pub store: bool,
    /// Requests with the same key reach the same cache.
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
pub(super) fn output_text(response: &Value) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

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
