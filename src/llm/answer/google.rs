//! The events of Google's Gemini.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    event_data::{is_done_mark, not_understood},
    output::{Finish, Output},
};
use crate::llm::{
    content::{self, Content},
    failure::{Failure, reported},
    google::PREFIX,
    sse::Event,
};

/// Reads the events of one answer. Of several candidates the first counts.
#[derive(Debug, Default)]
pub struct Reader {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(borrow, default)]
    candidates: Option<Vec<Candidate<'a>>>,
    #[serde(default)]
    prompt_feedback: Option<Value>,
    #[serde(borrow, default)]
    usage_metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(borrow, default)]
    content: Option<Parts<'a>>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    finish_message: Option<String>,
    #[serde(borrow, default)]
    grounding_metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow, default)]
    parts: Option<Vec<Part<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Content<'a>>,
    /// The text is a thought.
    #[serde(default)]
    thought: Option<bool>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
    #[serde(default)]
    thought_signature: Option<String>,
}

impl Reader {
    /// Reads one event and adds what it says to `out`.
    ///
    /// # Errors
    /// If Google blocked the answer or the prompt, sent an error (which the
    /// original passes over), or an event that is not understood.
    pub fn read(&mut self, event: Event<'_>, out: &mut Output) -> Result<(), Failure> {
        let json = content::utf8(event.data);
        let json = json.trim();
        if json.is_empty() {
            return Ok(());
        }
        if is_done_mark(json.as_bytes()) {
            out.done = true;
            out.ended = true;
            return Ok(());
        }
        if event.name == b"error" {
            return Err(failed(json, out));
        }
        if json.starts_with('[') {
            // Without `alt=sse` it is a list of what else are events.
            let list: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| not_understood())?;
            return list.into_iter().try_for_each(|element| self.read_object(element.get(), out));
        }
        self.read_object(json, out)
    }

    fn read_object(&mut self, json: &str, out: &mut Output) -> Result<(), Failure> {
        let mut repaired = String::new();
        let data: Data<'_> = content::parse(json, &mut repaired).map_err(|_| not_understood())?;
        if data.error.is_some() {
            return Err(failed(json, out));
        }
        if let Some(usage) = data.usage_metadata {
            out.count(usage);
        }
        let Some(candidate) = data.candidates.unwrap_or_default().into_iter().next() else {
            return match data.prompt_feedback {
                Some(feedback) => {
                    Err(blocked(feedback["blockReason"].as_str(), feedback["blockReasonMessage"].as_str()))
                }
                None => Ok(()),
            };
        };
        match candidate.finish_reason.as_deref() {
            None | Some("") => {}
            // Older models say `STOP` with each event: the last one counts.
            Some("STOP" | "FINISH_REASON_UNSPECIFIED") => stop(Finish::Stop, out),
            Some("MAX_TOKENS") => stop(Finish::Length, out),
            Some(reason) => {
                let message = candidate.finish_message.map(|message| format!(": {message}")).unwrap_or_default();
                out.ended = false;
                return Err(Failure::Blocked(format!("{PREFIX} Candidate was blocked due to {reason}{message}")));
            }
        }
        for part in candidate.content.and_then(|content| content.parts).unwrap_or_default() {
            read_part(part, out)?;
        }
        if let Some(grounding) = candidate.grounding_metadata {
            cite(grounding, out);
        }
        Ok(())
    }
}

fn stop(finish: Finish, out: &mut Output) {
    out.ended = true;
    out.finish = Some(finish);
}

/// An error is one even after a `STOP`, which older models say all the time.
fn failed(json: &str, out: &mut Output) -> Failure {
    out.ended = false;
    reported(json)
}

fn read_part(part: Part<'_>, out: &mut Output) -> Result<(), Failure> {
    match part.text {
        None => {}
        Some(Content::Text(text)) if part.thought == Some(true) => out.think(&text),
        Some(Content::Text(text)) => out.text.push_str(&text),
        Some(Content::Parts { .. } | Content::Other) => return Err(not_understood()),
    }
    if let Some(call) = part.function_call.filter(|_| out.wanted.calls) {
        let call: Value = serde_json::from_str(call.get()).unwrap_or_default();
        let text = |name: &str| call[name].as_str().unwrap_or_default();
        out.calls.reserve(part.thought_signature.as_ref().map_or(0, String::len))?;
        out.calls.begin(None, text("id"), text("name"))?.signature = part.thought_signature;
        if !call["args"].is_null() {
            out.calls.add_arguments(None, &call["args"].to_string())?;
        }
    }
    Ok(())
}

fn cite(grounding: &RawValue, out: &mut Output) {
    let grounding: Value = serde_json::from_str(grounding.get()).unwrap_or_default();
    for chunk in grounding["groundingChunks"].as_array().into_iter().flatten() {
        let page = &chunk["web"];
        out.sources.add(page["uri"].as_str().unwrap_or_default(), page["title"].as_str());
    }
}

fn blocked(reason: Option<&str>, message: Option<&str>) -> Failure {
    let mut words = format!("{PREFIX} Text not available. Response was blocked");
    if let Some(reason) = reason {
        words.push_str(&format!(" due to {reason}"));
    }
    if let Some(message) = message {
        words.push_str(&format!(": {message}"));
    }
    Failure::Blocked(words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::output::Wanted, *};

    fn output(events: &[&str], wanted: Wanted) -> Result<Output, Failure> {
        let mut out = Output::new(wanted);
        events
            .iter()
            .try_for_each(|data| Reader::default().read(Event { name: b"", data: data.as_bytes() }, &mut out))?;
        Ok(out)
    }

    fn read(data: &str) -> Result<String, Failure> {
        output(&[data], Wanted::default()).map(|out| out.text)
    }

    #[test]
    fn events() {
        assert_eq!(read(r#"{"candidates":[{"content":{"parts":[{"text":"a"},{"functionCall":{}},{"text":"b"}]}},{"content":{"parts":[{"text":"c"}]}}]}"#).expect("text"), "ab");
        for nothing in [
            r#"{"usageMetadata":{}}"#,
            r#"{"candidates":[]}"#,
            r#"{"candidates":[{"finishReason":"STOP"}]}"#,
            "",
            "[DONE]",
        ] {
            assert_eq!(read(nothing).expect(nothing), "");
        }
        let blocked = read(r#"{"promptFeedback":{"blockReason":"SAFETY"}}"#).expect_err("blocked");
        assert_eq!(
            blocked.to_string(),
            "[GoogleGenerativeAI Error]: Text not available. Response was blocked due to SAFETY"
        );
        for reason in ["RECITATION", "SPII", "NO_IMAGE"] {
            let data =
                format!(r#"{{"candidates":[{{"finishReason":"{reason}","content":{{"parts":[{{"text":"x"}}]}}}}]}}"#);
            assert!(matches!(read(&data), Err(Failure::Blocked(words)) if words.ends_with(reason)));
        }
        assert!(read(r#"{"error":{"message":"quota"}}"#).is_err());
        assert!(read(r#"[{"error":{"message":"quota"}}]"#).is_err());
        assert!(read("null").is_err() && read(&"[".repeat(100_000)).is_err());
        assert!(read(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))).is_err());
        let twice = r#"{"candidates":[{"finishReason":"SAFETY","finishReason":"STOP","content":{"parts":[{"text":"b","text":"a"}]}}]}"#;
        assert_eq!(read(twice).expect("text"), "a");
    }

    #[test]
    fn ends_are_told() {
        let end = |events: &[&str]| output(events, Wanted::default()).map(|out| (out.ended, out.finish)).expect("read");
        let text = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}"#;
        assert_eq!(end(&[text]), (false, None));
        assert_eq!(end(&[text, r#"{"candidates":[{"finishReason":"STOP"}]}"#]), (true, Some(Finish::Stop)));
        assert_eq!(end(&[r#"{"candidates":[{"finishReason":"MAX_TOKENS"}]}"#]), (true, Some(Finish::Length)));
        // Older models say `STOP` all the time, also before they are blocked.
        let mut out = Output::default();
        let mut read = |data: &str| Reader::default().read(Event { name: b"", data: data.as_bytes() }, &mut out);
        read(r#"{"candidates":[{"finishReason":"STOP"}]}"#).expect("read");
        assert!(read(r#"{"candidates":[{"finishReason":"SAFETY"}]}"#).is_err());
        assert!(!out.ended);
    }

    #[test]
    fn thoughts_pages_and_calls_are_kept_apart() {
        let event = r#"{"candidates":[{"content":{"parts":[
            {"text":"hm","thought":true},{"text":"said","thoughtSignature":"t"},
            {"functionCall":{"name":"f","args":{"a":1}},"thoughtSignature":"s"}]},
            "groundingMetadata":{"groundingChunks":[{"web":{"uri":"https://a.example/","title":"A"}},{"retrievedContext":{}}]}}]}"#;
        let out = output(&[event], Wanted { reasoning: true, calls: true }).expect("read");
        assert_eq!((out.text.as_str(), out.reasoning.as_str()), ("said", "hm"));
        assert_eq!(
            serde_json::to_value(&out.sources).expect("JSON"),
            json!([{ "url": "https://a.example/", "title": "A" }])
        );
        let call = &out.calls.list[0];
        assert_eq!(
            (call.name.as_str(), call.arguments.as_str(), call.signature.as_deref()),
            ("f", r#"{"a":1}"#, Some("s"))
        );
        let out = output(&[event], Wanted::default()).expect("read");
        assert_eq!((out.text.as_str(), out.reasoning.as_str(), out.calls.list.len()), ("said", "", 0));
    }
}
