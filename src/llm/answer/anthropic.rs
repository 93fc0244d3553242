//! The events of Anthropic's messages. They have names; where a proxy leaves
//! those out, the `type` in the data counts.

use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    event_data::{is_done_mark, not_understood},
    output::{Finish, Output},
};
use crate::llm::{
    content::{self, Content},
    error_body::truthy,
    failure::{Failure, reported},
    sse::Event,
};

/// Reads the events of one answer. What is not known is passed over, as in
/// the original.
#[derive(Debug, Default)]
pub struct Reader {
    /// The count of tokens so far: the last event has what the answer took,
    /// the first what the prompt took.
    usage: Map<String, Value>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Content<'a>>,
    /// The text of the older completions API.
    #[serde(borrow, default)]
    completion: Option<Content<'a>>,
    /// Of the older completions API.
    #[serde(borrow, default)]
    stop_reason: Option<Content<'a>>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    content_block: Option<&'a RawValue>,
    #[serde(default)]
    index: Option<u64>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    text: Option<Content<'a>>,
    #[serde(borrow, default)]
    thinking: Option<Content<'a>>,
    #[serde(borrow, default)]
    signature: Option<Content<'a>>,
    #[serde(borrow, default)]
    partial_json: Option<Content<'a>>,
    #[serde(borrow, default)]
    citation: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stop_reason: Option<Content<'a>>,
    #[serde(borrow, default)]
    stop_details: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

impl Reader {
    /// Reads one event and adds what it says to `out`.
    ///
    /// # Errors
    /// If the provider sent an error, or an event that is not understood.
    pub fn read(&mut self, event: Event<'_>, out: &mut Output) -> Result<(), Failure> {
        let json = content::utf8(event.data);
        let is_named = !matches!(event.name, b"" | b"message");
        match event.name {
            b"error" => return Err(reported(&json)),
            b"message_stop" => {
                end(out);
                return Ok(());
            }
            _ if is_named && !is_known(event.name) => return Ok(()),
            _ if json.trim().is_empty() => return Ok(()),
            _ if is_done_mark(json.trim().as_bytes()) => {
                end(out);
                return Ok(());
            }
            _ => {}
        }
        let mut repaired = String::new();
        let data: Data<'_> = content::parse(&json, &mut repaired).map_err(|_| not_understood())?;
        if !is_named {
            match &data.kind {
                Some(Content::Text(kind)) if kind == "message_stop" => {
                    end(out);
                    return Ok(());
                }
                Some(Content::Text(kind)) if kind == "error" => return Err(reported(&json)),
                Some(Content::Text(kind)) if is_known(kind.as_bytes()) => {}
                _ if data.error.is_some_and(|error| serde_json::from_str(error.get()).is_ok_and(|e| truthy(&e))) => {
                    return Err(reported(&json));
                }
                _ => return Ok(()),
            }
        }
        self.read_data(data, out)
    }

    fn read_data(&mut self, data: Data<'_>, out: &mut Output) -> Result<(), Failure> {
        if let Some(usage) = data.usage.or(data.message.and_then(|message| message.usage)) {
            self.count(usage, out);
        }
        if let Some(block) = data.content_block {
            begin_block(block, data.index, out)?;
        }
        if let Some(Content::Text(reason)) = &data.stop_reason {
            // The older API has no event for the end.
            out.finish = Some(finish(reason, None));
            out.ended = true;
        }
        let Some(delta) = data.delta else { return say(data.completion, out) };
        if let Some(Content::Text(reason)) = &delta.stop_reason {
            out.finish = Some(finish(reason, delta.stop_details));
        }
        if let Some(citation) = delta.citation {
            let citation: Value = serde_json::from_str(citation.get()).unwrap_or_default();
            out.sources.add(citation["url"].as_str().unwrap_or_default(), citation["title"].as_str());
        }
        if let Some(Content::Text(thought)) = &delta.thinking {
            out.think(thought);
            add_to_thinking("thinking", thought, out)?;
        }
        if let Some(Content::Text(signature)) = &delta.signature {
            add_to_thinking("signature", signature, out)?;
        }
        if let Some(Content::Text(piece)) = &delta.partial_json
            && out.wanted.calls
        {
            // Blocks that are no calls, such as a search of Anthropic's own,
            // have such pieces too.
            if out.calls.has(data.index) {
                out.calls.add_arguments(data.index, piece)?;
            }
        }
        say(data.completion.or(delta.text), out)
    }

    /// Puts the newer numbers over the older.
    fn count(&mut self, usage: &RawValue, out: &mut Output) {
        out.count(usage);
        // Parsed only if it was kept, and so is short.
        if out.usage != usage.get() {
            return;
        }
        let newer: Map<String, Value> = serde_json::from_str(usage.get()).unwrap_or_default();
        self.usage.extend(newer.into_iter().filter(|(_, value)| !value.is_null()));
        if let Ok(merged) = serde_json::value::to_raw_value(&self.usage) {
            let len = merged.get().len();
            out.count(&merged);
            // Names that change with each event would add up.
            if out.usage.len() != len {
                self.usage.clear();
            }
        }
    }
}

fn is_known(name: &[u8]) -> bool {
    matches!(
        name,
        b"completion"
            | b"message_start"
            | b"message_delta"
            | b"content_block_start"
            | b"content_block_delta"
            | b"content_block_stop"
    )
}

fn end(out: &mut Output) {
    out.done = true;
    out.ended = true;
}

fn say(text: Option<Content<'_>>, out: &mut Output) -> Result<(), Failure> {
    match text {
        None => {}
        Some(Content::Text(text)) => out.text.push_str(&text),
        Some(Content::Parts { .. } | Content::Other) => return Err(not_understood()),
    }
    Ok(())
}

fn begin_block(block: &RawValue, index: Option<u64>, out: &mut Output) -> Result<(), Failure> {
    if !out.wanted.calls {
        return Ok(());
    }
    let block: Value = serde_json::from_str(block.get()).map_err(|_| not_understood())?;
    let text = |name: &str| block[name].as_str().unwrap_or_default();
    match text("type") {
        "tool_use" => {
            out.calls.begin(index, text("id"), text("name"))?;
            // Some proxies send the arguments at once.
            if block["input"].as_object().is_some_and(|input| !input.is_empty()) {
                out.calls.add_arguments(index, &block["input"].to_string())?;
            }
        }
        "thinking" | "redacted_thinking" => {
            out.calls.reserve(block.to_string().len())?;
            out.calls.thinking.push(block);
        }
        _ => {}
    }
    Ok(())
}

fn add_to_thinking(member: &str, text: &str, out: &mut Output) -> Result<(), Failure> {
    if !out.wanted.calls {
        return Ok(());
    }
    out.calls.reserve(text.len())?;
    if let Some(Value::Object(block)) = out.calls.thinking.last_mut() {
        match block.entry(member).or_insert(json!("")) {
            Value::String(so_far) => so_far.push_str(text),
            other => *other = json!(text),
        }
    }
    Ok(())
}

fn finish(reason: &str, details: Option<&RawValue>) -> Finish {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "tool_use" => Finish::Calls,
        "refusal" => {
            let details: Value = details.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
            let words = "The model refused to answer";
            Finish::Blocked(match details["explanation"].as_str() {
                Some(explanation) => format!("{words}: {explanation}"),
                None => words.to_owned(),
            })
        }
        _ => Finish::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::output::Wanted, *};

    fn read(events: &[(&str, &str)], wanted: Wanted) -> Result<Output, Failure> {
        let (mut reader, mut out) = (Reader::default(), Output::new(wanted));
        events.iter().try_for_each(|(name, data)| {
            reader.read(Event { name: name.as_bytes(), data: data.as_bytes() }, &mut out)
        })?;
        Ok(out)
    }

    fn one(name: &str, data: &str) -> Result<Output, Failure> {
        read(&[(name, data)], Wanted::default())
    }

    #[test]
    fn events_by_name() {
        let delta = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":" a\n"}}"#;
        assert_eq!(one("content_block_delta", delta).expect("text").text, " a\n");
        assert_eq!(one("completion", r#"{"completion":"old"}"#).expect("text").text, "old");
        assert_eq!(one("ping", "no JSON").expect("nothing").text, "");
        let thought = r#"{"delta":{"type":"thinking_delta","thinking":"x"}}"#;
        assert_eq!(one("content_block_delta", thought).expect("nothing").text, "");
        assert!(one("message_stop", "{}").expect("the end").done);
        let error = one("error", r#"{"error":{"message":"Overloaded"}}"#).err().expect("fails");
        assert_eq!(error.to_string(), "Overloaded");
        assert!(one("content_block_delta", "{bad").is_err());
        assert!(one("content_block_delta", r#"{"delta":{"text":7}}"#).is_err());
    }

    #[test]
    fn events_without_a_name_have_a_type() {
        for name in ["", "message"] {
            let delta = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}"#;
            assert_eq!(one(name, delta).expect("text").text, "a");
            assert!(one(name, r#"{"type":"message_stop"}"#).expect("the end").ended);
            assert!(one(name, "[DONE]").expect("the end").ended);
            for error in [r#"{"type":"error","error":{"message":"busy"}}"#, r#"{"error":{"message":"busy"}}"#] {
                assert_eq!(one(name, error).err().expect("fails").to_string(), "busy");
            }
            assert_eq!(one(name, r#"{"type":"later","delta":{"text":"x"}}"#).expect("nothing").text, "");
            assert!(one(name, "{bad").is_err());
        }
    }

    #[test]
    fn of_a_key_that_is_there_twice_the_last_counts() {
        let delta = r#"{"delta":{"type":"text_delta","text":"b"},"delta":{"text":"b","text":"a"}}"#;
        assert_eq!(one("content_block_delta", delta).expect("text").text, "a");
    }

    #[test]
    fn reasons_to_stop() {
        let reason = |delta: &str| one("message_delta", &format!(r#"{{"delta":{delta}}}"#)).expect("read").finish;
        assert_eq!(reason(r#"{"stop_reason":"end_turn"}"#), Some(Finish::Stop));
        assert_eq!(reason(r#"{"stop_reason":"model_context_window_exceeded"}"#), Some(Finish::Length));
        assert_eq!(reason(r#"{"stop_reason":null}"#), None);
        let refusal = reason(r#"{"stop_reason":"refusal","stop_details":{"explanation":"Not that."}}"#);
        assert_eq!(refusal, Some(Finish::Blocked("The model refused to answer: Not that.".to_owned())));
        let refusal = reason(r#"{"stop_reason":"refusal","stop_details":{"explanation":null}}"#);
        assert_eq!(refusal, Some(Finish::Blocked("The model refused to answer".to_owned())));
        let old = one("completion", r#"{"completion":"","stop_reason":"max_tokens"}"#).expect("read");
        assert_eq!((old.finish, old.ended), (Some(Finish::Length), true));
    }

    #[test]
    fn the_count_has_the_prompt_and_the_answer() {
        let out = read(
            &[
                ("message_start", r#"{"message":{"usage":{"input_tokens":9,"output_tokens":1}}}"#),
                ("message_delta", r#"{"delta":{},"usage":{"output_tokens":5,"input_tokens":null}}"#),
            ],
            Wanted::default(),
        );
        assert_eq!(out.expect("read").usage, r#"{"input_tokens":9,"output_tokens":5}"#);
    }

    #[test]
    fn pages_are_cited() {
        let citation = r#"{"type":"content_block_delta","delta":{"type":"citations_delta","citation":{"type":"web_search_result_location","url":"https://a.example/","title":"A"}}}"#;
        let document = r#"{"delta":{"type":"citations_delta","citation":{"type":"char_location","cited_text":"x"}}}"#;
        let events = [("content_block_delta", citation), ("content_block_delta", document)];
        let out = read(&events, Wanted::default()).expect("read");
        assert_eq!(
            serde_json::to_value(&out.sources).expect("JSON"),
            json!([{ "url": "https://a.example/", "title": "A" }])
        );
    }

    #[test]
    fn calls_and_the_thoughts_before_them_are_collected() {
        let block = |index: u32, block: &str| {
            ("content_block_start", format!(r#"{{"index":{index},"content_block":{block}}}"#))
        };
        let delta =
            |index: u32, delta: &str| ("content_block_delta", format!(r#"{{"index":{index},"delta":{delta}}}"#));
        let events = [
            block(0, r#"{"type":"thinking","thinking":"","signature":""}"#),
            delta(0, r#"{"type":"thinking_delta","thinking":"hm"}"#),
            delta(0, r#"{"type":"signature_delta","signature":"s"}"#),
            block(1, r#"{"type":"tool_use","id":"c1","name":"f","input":{}}"#),
            delta(1, r#"{"type":"input_json_delta","partial_json":"{\"a\":"}"#),
            delta(1, r#"{"type":"input_json_delta","partial_json":"1}"}"#),
            block(2, r#"{"type":"server_tool_use","id":"s1","name":"web_search","input":{}}"#),
            delta(2, r#"{"type":"input_json_delta","partial_json":"{}"}"#),
        ];
        let events: Vec<(&str, &str)> = events.iter().map(|(name, data)| (*name, data.as_str())).collect();
        let out = read(&events, Wanted { reasoning: true, calls: true }).expect("read");
        let calls: Vec<_> = out.calls.list.iter().map(|call| [&*call.id, &*call.name, &*call.arguments]).collect();
        assert_eq!(calls, [["c1", "f", r#"{"a":1}"#]]);
        assert_eq!(out.calls.thinking, [json!({ "type": "thinking", "thinking": "hm", "signature": "s" })]);
        assert_eq!(out.reasoning, "hm");
        assert!(read(&events, Wanted::default()).expect("read").calls.list.is_empty());
    }
}
