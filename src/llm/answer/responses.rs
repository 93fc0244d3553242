//! The events of OpenAI's Responses, and of Perplexity's Agent API.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    event_data::{is_done_mark, not_understood},
    output::{Finish, Output},
};
use crate::llm::{
    content::{self, Content},
    failure::{Failure, reported},
    responses::output_text,
    sse::Event,
};

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
    item: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotation: Option<&'a RawValue>,
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
        if data.is_empty() || data[0] == b':' {
            return Ok(());
        }
        if data[0] != b'{' && is_done_mark(data) {
            out.done = true;
            return Ok(());
        }
        let data = content::utf8(data);
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
                Some(Content::Parts { .. } | Content::Other) => return Err(not_understood()),
            },
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                if let Some(Content::Text(thought)) = &event.delta {
                    out.think(thought);
                }
            }
            "response.output_item.done" if out.wanted.calls => {
                let item = value(event.item);
                let text = |name: &str| item[name].as_str().unwrap_or_default();
                if item["type"] == "function_call" {
                    out.calls.begin(None, text("call_id"), text("name"))?;
                    out.calls.add_arguments(None, text("arguments"))?;
                }
            }
            "response.output_text.annotation.added" => cite(&value(event.annotation), out),
            "response.completed" | "response.incomplete" => self.end(&value(event.response), out),
            "response.failed" | "response.cancelled" | "error" => {
                let words = event.response.map_or(&*data, RawValue::get);
                return Err(reported(words));
            }
            _ => {}
        }
        Ok(())
    }

    fn say(&mut self, text: &str, out: &mut Output) {
        self.spoken |= !text.is_empty();
        out.text.push_str(text);
    }

    fn end(&mut self, response: &Value, out: &mut Output) {
        if !self.spoken {
            // Some servers send nothing but the end.
            self.say(&output_text(response), out);
        }
        for item in response["output"].as_array().into_iter().flatten() {
            let pages = item["results"].as_array().filter(|_| item["type"] == "search_results");
            for page in pages.into_iter().flatten() {
                cite(page, out);
            }
            for part in item["content"].as_array().into_iter().flatten() {
                part["annotations"].as_array().into_iter().flatten().for_each(|annotation| cite(annotation, out));
            }
        }
        if let Ok(usage) = serde_json::value::to_raw_value(&response["usage"]) {
            out.count(&usage);
        }
        out.finish = Some(match response["incomplete_details"]["reason"].as_str() {
            None if !out.calls.list.is_empty() => Finish::Calls,
            None => Finish::Stop,
            Some("content_filter") => {
                Finish::Blocked("The provider's filter stopped the answer. Please ask in other words.".to_owned())
            }
            Some(_) => Finish::Length,
        });
        out.ended = true;
        out.done = true;
    }
}

fn value(raw: Option<&RawValue>) -> Value {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

fn cite(page: &Value, out: &mut Output) {
    if let Some(url) = page["url"].as_str() {
        out.sources.add(url, page["title"].as_str());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::llm::answer::output::Wanted;

    fn read(events: &[Value]) -> Result<Output, Failure> {
        let (mut reader, mut out) = (Reader::default(), Output::new(Wanted { reasoning: true, calls: false }));
        for event in events {
            reader.read(Event { name: b"", data: event.to_string().as_bytes() }, &mut out)?;
        }
        Ok(out)
    }

    #[test]
    fn text_and_refusals_are_the_answer_and_thoughts_are_not() {
        let out = read(&[
            json!({ "type": "response.created", "response": { "status": "in_progress" } }),
            json!({ "type": "response.reasoning_summary_text.delta", "delta": "hm" }),
            json!({ "type": "response.reasoning.started", "thought": "secret" }),
            json!({ "type": "response.output_text.delta", "delta": "a", "logprobs": null }),
            json!({ "type": "response.refusal.delta", "delta": "b" }),
            json!({ "type": "response.output_text.done", "text": "ab" }),
            json!({ "type": "response.function_call_arguments.delta", "delta": "{}" }),
            json!({ "type": "response.completed", "response": { "usage": { "output_tokens": 3 }, "output": [{ "type": "message", "content": [{ "type": "output_text", "text": "ab" }] }] } }),
        ])
        .expect("an answer");
        assert_eq!((out.text.as_str(), out.reasoning.as_str(), out.done && out.ended), ("ab", "hm", true));
        assert_eq!((out.usage.as_str(), out.finish), (r#"{"output_tokens":3}"#, Some(Finish::Stop)));
    }

    #[test]
    fn an_answer_that_comes_with_its_end_is_said_once() {
        let end = json!({ "type": "response.completed", "response": { "output": [
            { "type": "search_results", "results": [{ "url": "https://a.example/", "title": "A" }] },
            { "type": "message", "content": [
                { "type": "output_text", "text": "a", "annotations": [{ "type": "url_citation", "url": "https://b.example/" }] },
                { "type": "refusal", "refusal": "b" },
            ] },
        ] } });
        let cited = json!({ "type": "response.output_text.annotation.added", "annotation": { "url": "https://b.example/", "title": "B" } });
        let out = read(&[cited, end]).expect("an answer");
        assert_eq!(out.text, "ab");
        assert!(out.sources.markdown().ends_with("1. [B](https://b.example/)\n2. [A](https://a.example/)"));
    }

    #[test]
    fn an_end_before_the_end_has_a_reason() {
        for (reason, finish) in [("max_output_tokens", "length"), ("content_filter", "content_filter")] {
            let end =
                json!({ "type": "response.incomplete", "response": { "incomplete_details": { "reason": reason } } });
            let out = read(&[json!({ "type": "response.output_text.delta", "delta": "a" }), end]).expect("an answer");
            assert_eq!(out.finish.map(|finish| finish.as_str()), Some(finish));
        }
        let cut = read(&[json!({ "type": "response.output_text.delta", "delta": "a" })]).expect("text");
        assert!(!cut.ended && !cut.done);
    }

    #[test]
    fn errors_are_said_in_the_providers_words() {
        for event in [
            json!({ "type": "error", "code": "x", "message": "quota", "param": null }),
            json!({ "type": "error", "error": { "message": "quota" } }),
            json!({ "error": { "message": "quota" } }),
            json!({ "type": "response.failed", "response": { "status": "failed", "error": { "code": "x", "message": "quota" } } }),
        ] {
            assert_eq!(
                read(std::slice::from_ref(&event)).map(|_| ()).expect_err("fails").to_string(),
                "quota",
                "{event}"
            );
        }
        assert!(read(&[json!({ "type": "response.output_text.delta", "delta": 7 })]).is_err());
        let mut out = Output::default();
        for data in ["", ": alive", "[DONE]"] {
            Reader::default().read(Event { name: b"", data: data.as_bytes() }, &mut out).expect(data);
        }
        assert!(out.done && Reader::default().read(Event { name: b"", data: b"{bad" }, &mut out).is_err());
    }
}
