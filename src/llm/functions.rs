//! Functions on the wires of providers that can call them: how they are
//! offered, and how calls and their results are sent back. Pure: they are
//! added to a request for a chat, whatever made that.

use std::borrow::{Borrow, Cow};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{answer::calls::FunctionCall, members::Members};

/// The forms of function calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Google's contents.
    Google,
}

/// A function as it is offered.
#[derive(Debug, Clone, Copy)]
pub struct Offered<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it does.
    pub description: &'a str,
    /// JSON Schema of its arguments.
    pub schema: &'a Value,
}

/// One round: what the model said and called, and what came of it. Without
/// `Debug`, as it holds the answer.
pub struct Round {
    /// The text beside the calls.
    pub text: String,
    /// Anthropic's thinking blocks.
    pub thinking: Vec<Value>,
    /// Each call with its result.
    pub calls: Vec<(FunctionCall, String)>,
}

impl Round {
    /// Returns the size of what was said, called and answered, in bytes.
    pub fn bytes(&self) -> usize {
        let calls = self.calls.iter().map(|(call, result)| call.arguments.len() + result.len());
        self.text.len() + calls.sum::<usize>()
    }
}

/// What is added to a request for a chat.
pub struct Added {
    /// The functions, in the wire's form; empty if there are none.
    tools: Vec<(&'static str, Value)>,
    /// The same for a request that must be answered without a call.
    last: Vec<(&'static str, Value)>,
    form: Form,
}

impl Added {
    /// Prepares the functions for requests of a turn.
    pub fn new(form: Form, functions: &[Offered<'_>]) -> Self {
        let list: Vec<Value> = functions.iter().map(|function| form.function(function)).collect();
        let (tools, last) = match form {
            _ if list.is_empty() => (Vec::new(), Vec::new()),
            // Some servers know no `tool_choice`.
            Form::OpenAi => (vec![("tools", list.into())], Vec::new()),
            // These two refuse earlier calls where no functions are named.
            Form::Anthropic => {
                let tools = ("tools", Value::from(list));
                (vec![tools.clone()], vec![tools, ("tool_choice", json!({ "type": "none" }))])
            }
            Form::Google => {
                let tools = ("tools", json!([{ "functionDeclarations": list }]));
                (
                    vec![tools.clone()],
                    vec![tools, ("toolConfig", json!({ "functionCallingConfig": { "mode": "NONE" } }))],
                )
            }
        };
        Self { tools, last, form }
    }

    /// Returns the rounds so far as turns.
    pub fn turns(&self, rounds: &[impl Borrow<Round>]) -> Vec<Value> {
        rounds.iter().flat_map(|round| self.form.turns(round.borrow())).collect()
    }

    /// Returns the functions as a list, in OpenAI's form.
    pub fn list(&self) -> Option<&[Value]> {
        self.tools.first().and_then(|(_, list)| list.as_array()).map(Vec::as_slice)
    }

    /// Adds the rounds so far, and the functions, to a request's body. With
    /// `offer` unset the model is to answer without a call.
    ///
    /// # Errors
    /// If the body is no request of this form.
    pub fn to(&self, body: &[u8], rounds: &[impl Borrow<Round>], offer: bool) -> serde_json::Result<Bytes> {
        let Members(members) = serde_json::from_slice(body)?;
        let turns = if self.form == Form::Google { "contents" } else { "messages" };
        let more = self.turns(rounds);
        let mut whole = Vec::with_capacity(body.len() + 1024);
        whole.push(b'{');
        let mut write = |name: &str, json: &[u8]| -> serde_json::Result<()> {
            if whole.len() > 1 {
                whole.push(b',');
            }
            serde_json::to_writer(&mut whole, name)?;
            whole.push(b':');
            whole.extend_from_slice(json);
            Ok(())
        };
        for (name, value) in &members {
            if name == turns && !more.is_empty() {
                write(name, joined(value.get(), &more)?.as_bytes())?;
            } else {
                write(name, value.get().as_bytes())?;
            }
        }
        for (name, value) in if offer { &self.tools } else { &self.last } {
            write(name, &serde_json::to_vec(value)?)?;
        }
        whole.push(b'}');
        Ok(whole.into())
    }
}

/// A JSON list with more at its end.
fn joined(list: &str, more: &[impl Serialize]) -> serde_json::Result<String> {
    let inner = list.trim().strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap_or_default();
    let more = more.iter().map(serde_json::to_string).collect::<serde_json::Result<Vec<_>>>()?.join(",");
    let comma = if inner.trim().is_empty() { "" } else { "," };
    Ok(format!("[{inner}{comma}{more}]"))
}

impl Form {
    fn function(self, Offered { name, description, schema }: &Offered<'_>) -> Value {
        match self {
            Self::OpenAi => {
                json!({ "type": "function", "function": { "name": name, "description": description, "parameters": schema } })
            }
            Self::Anthropic => json!({ "name": name, "description": description, "input_schema": schema }),
            Self::Google => json!({ "name": name, "description": description, "parametersJsonSchema": schema }),
        }
    }

    /// The turns of the model and of the tools that a round adds.
    fn turns(self, Round { text, thinking, calls }: &Round) -> Vec<Value> {
        let blank = text.trim().is_empty();
        match self {
            Self::OpenAi => {
                let content = if blank { Value::Null } else { text.as_str().into() };
                let listed: Vec<Value> = calls
                    .iter()
                    .map(|(call, _)| {
                        let function = json!({ "name": call.name, "arguments": arguments_text(call) });
                        json!({ "id": call.id, "type": "function", "function": function })
                    })
                    .collect();
                let results = calls.iter().map(|(call, result)| {
                    json!({ "tool_call_id": call.id, "role": "tool", "name": call.name, "content": result })
                });
                [json!({ "role": "assistant", "content": content, "tool_calls": listed })]
                    .into_iter()
                    .chain(results)
                    .collect()
            }
            Self::Anthropic => {
                let mut parts = thinking.clone();
                if !blank {
                    parts.push(json!({ "type": "text", "text": text.trim_end() }));
                }
                parts.extend(calls.iter().map(|(call, _)| {
                    json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": arguments(call) })
                }));
                let results: Vec<Value> = calls
                    .iter()
                    .map(|(call, result)| json!({ "type": "tool_result", "tool_use_id": call.id, "content": result }))
                    .collect();
                vec![json!({ "role": "assistant", "content": parts }), json!({ "role": "user", "content": results })]
            }
            Self::Google => {
                let mut parts = Vec::new();
                if !blank {
                    parts.push(json!({ "text": text }));
                }
                parts.extend(calls.iter().map(|(call, _)| {
                    let mut part = json!({ "functionCall": { "name": call.name, "args": arguments(call) } });
                    if let Some(signature) = &call.signature {
                        part["thoughtSignature"] = signature.as_str().into();
                    }
                    part
                }));
                let results: Vec<Value> = calls.iter().map(|(call, result)| {
                    json!({ "functionResponse": { "name": call.name, "response": { "result": result } } })
                }).collect();
                vec![json!({ "role": "model", "parts": parts }), json!({ "role": "user", "parts": results })]
            }
        }
    }
}

/// A call's arguments as they were written; `{}` if they are no object, which
/// several servers refuse to read again.
fn arguments_text(call: &FunctionCall) -> Cow<'_, str> {
    let is_object = serde_json::from_str::<&RawValue>(&call.arguments).is_ok_and(|raw| raw.get().starts_with('{'));
    if is_object { Cow::Borrowed(&call.arguments) } else { Cow::Borrowed("{}") }
}

fn arguments(call: &FunctionCall) -> Box<RawValue> {
    RawValue::from_string(arguments_text(call).into_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Messages of OpenAI's form, as the front end posts them to the route for
/// tools whatever the model, in Google's form.
pub fn google_messages(messages: Vec<Map<String, Value>>) -> Vec<Map<String, Value>> {
    let turn = |mut message: Map<String, Value>| {
        if message.contains_key("parts") {
            return message;
        }
        let is_model = message.get("role").is_some_and(|role| role == "assistant" || role == "model");
        let parts: Vec<Value> = match message.remove("content") {
            Some(Value::String(text)) => vec![json!({ "text": text })],
            Some(Value::Array(parts)) => parts.into_iter().map(google_part).collect(),
            _ => Vec::new(),
        };
        let role = if is_model { "model" } else { "user" };
        Map::from_iter([("role".to_owned(), role.into()), ("parts".to_owned(), parts.into())])
    };
    let has_parts = |turn: &Map<String, Value>| turn["parts"].as_array().is_none_or(|parts| !parts.is_empty());
    messages.into_iter().map(turn).filter(has_parts).collect()
}

/// Converts messages of Google's form to OpenAI's; those that are in it already stay.
pub fn openai_messages(messages: Vec<Map<String, Value>>) -> Vec<Map<String, Value>> {
    let turn = |mut message: Map<String, Value>| {
        let content: Value = match message.remove("parts") {
            None => return message,
            // For images the front end puts lists of parts into the list.
            Some(Value::Array(parts)) => {
                let flat = parts.into_iter().flat_map(|part| match part {
                    Value::Array(parts) => parts,
                    part => vec![part],
                });
                flat.map(openai_part).collect::<Vec<_>>().into()
            }
            Some(text) => text,
        };
        let is_model = message.get("role").is_some_and(|role| role == "model");
        let role = if is_model { "assistant".into() } else { message.remove("role").unwrap_or_else(|| "user".into()) };
        Map::from_iter([("role".to_owned(), role), ("content".to_owned(), content)])
    };
    messages.into_iter().map(turn).collect()
}

fn openai_part(part: Value) -> Value {
    match (part["inlineData"]["mimeType"].as_str(), part["inlineData"]["data"].as_str()) {
        (Some(media), Some(data)) => {
            json!({ "type": "image_url", "image_url": { "url": format!("data:{media};base64,{data}") } })
        }
        _ => json!({ "type": "text", "text": part.as_str().or(part["text"].as_str()).unwrap_or_default() }),
    }
}

fn google_part(part: Value) -> Value {
    let data = part["image_url"]["url"].as_str().and_then(|url| url.strip_prefix("data:")?.split_once(";base64,"));
    match data {
        Some((media, data)) => json!({ "inlineData": { "mimeType": media, "data": data } }),
        None => json!({ "text": part["text"].as_str().unwrap_or_default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(form: Form, body: Value, rounds: &[Round], offer: bool) -> Value {
        let schema = json!({ "type": "object", "properties": {} });
        let offered = [Offered { name: "f", description: "D", schema: &schema }];
        let body = Added::new(form, &offered).to(body.to_string().as_bytes(), rounds, offer).expect("JSON");
        serde_json::from_slice(&body).expect("JSON")
    }

    fn round(arguments: &str) -> Round {
        let call = FunctionCall {
            id: "c1".to_owned(),
            name: "f".to_owned(),
            arguments: arguments.to_owned(),
            signature: Some("s".to_owned()),
        };
        Round {
            text: "Let me see. ".to_owned(),
            thinking: vec![json!({ "type": "thinking" })],
            calls: vec![(call, "R".to_owned())],
        }
    }

    #[test]
    fn openai_has_a_message_for_each_result() {
        let body = added(
            Form::OpenAi,
            json!({ "model": "m", "messages": [{ "role": "user" }] }),
            &[round("{\"a\":1.10}")],
            true,
        );
        assert_eq!(
            body["messages"][1],
            json!({ "role": "assistant", "content": "Let me see. ", "tool_calls": [{ "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{\"a\":1.10}" } }] })
        );
        assert_eq!(body["messages"][2], json!({ "tool_call_id": "c1", "role": "tool", "name": "f", "content": "R" }));
        assert_eq!(body["tools"][0]["function"]["description"], "D");
        let last = added(Form::OpenAi, json!({ "messages": [] }), &[round("oops")], false);
        assert_eq!(
            (&last["tools"], &last["messages"][0]["tool_calls"][0]["function"]["arguments"]),
            (&Value::Null, &json!("{}"))
        );
    }

    #[test]
    fn anthropic_has_blocks() {
        let body = added(Form::Anthropic, json!({ "messages": [] }), &[round("{\"a\":1}")], false);
        assert_eq!(
            body["messages"],
            json!([
                { "role": "assistant", "content": [{ "type": "thinking" }, { "type": "text", "text": "Let me see." }, { "type": "tool_use", "id": "c1", "name": "f", "input": { "a": 1 } }] },
                { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "c1", "content": "R" }] },
            ])
        );
        assert_eq!((&body["tools"][0]["name"], &body["tool_choice"]), (&json!("f"), &json!({ "type": "none" })));
    }

    #[test]
    fn google_has_parts_with_signatures() {
        let body = added(Form::Google, json!({ "contents": [{}] }), &[round("")], true);
        assert_eq!(
            body["contents"][1]["parts"][1],
            json!({ "functionCall": { "name": "f", "args": {} }, "thoughtSignature": "s" })
        );
        assert_eq!(
            body["contents"][2],
            json!({ "role": "user", "parts": [{ "functionResponse": { "name": "f", "response": { "result": "R" } } }] })
        );
        assert_eq!(body["tools"][0]["functionDeclarations"][0]["name"], "f");
        assert!(body["toolConfig"].is_null());
    }

    #[test]
    fn without_functions_a_request_stays_as_it_is() {
        let body = Added::new(Form::OpenAi, &[]).to(br#"{"a":1,"messages":[1]}"#, &[] as &[Round], true).expect("JSON");
        assert_eq!(body, r#"{"a":1,"messages":[1]}"#);
    }

    #[test]
    fn messages_take_googles_form() {
        let messages = json!([{ "role": "system", "content": "S" }, { "role": "assistant", "content": "" , "x": 1 }, { "role": "user", "content": [{ "type": "text", "text": "T" }, { "type": "image_url", "image_url": { "url": "data:image/png;base64,QUJD" } }] }, { "role": "user" }]);
        let messages: Vec<Map<String, Value>> = serde_json::from_value(messages).expect("objects");
        assert_eq!(
            Value::from(google_messages(messages).into_iter().map(Value::from).collect::<Vec<_>>()),
            json!([
                { "role": "user", "parts": [{ "text": "S" }] }, { "role": "model", "parts": [{ "text": "" }] },
                { "role": "user", "parts": [{ "text": "T" }, { "inlineData": { "mimeType": "image/png", "data": "QUJD" } }] },
            ])
        );
    }

    #[test]
    fn messages_in_googles_form_become_openais() {
        let messages = json!([
            { "role": "user", "parts": "S" },
            { "role": "model", "parts": [{ "text": "A" }] },
            { "role": "user", "parts": [[{ "text": "T" }, { "inlineData": { "mimeType": "image/png", "data": "QUJD" } }]] },
            { "role": "user", "content": "U" },
        ]);
        let messages: Vec<Map<String, Value>> = serde_json::from_value(messages).expect("objects");
        let image = json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,QUJD" } });
        assert_eq!(
            Value::from(openai_messages(messages).into_iter().map(Value::from).collect::<Vec<_>>()),
            json!([
                { "role": "user", "content": "S" },
                { "role": "assistant", "content": [{ "type": "text", "text": "A" }] },
                { "role": "user", "content": [{ "type": "text", "text": "T" }, image] },
                { "role": "user", "content": "U" },
            ])
        );
    }
}
