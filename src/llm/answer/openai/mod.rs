//! The events of OpenAI's wire.

mod chunk;
mod envelope;
mod errors;
mod shown_calls;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::{Value, value::RawValue};

use self::{
    chunk::{Choice, Chunk, Delta},
    envelope::Envelope,
};
use super::{
    event_data::{is_done_mark, not_understood},
    output::{Finish, Output},
    think_tags::{Piece, ThinkTags},
};
use crate::{
    js,
    llm::{
        content::{self, Content},
        error_body::{error_message, truthy},
        failure::{Failure, reported},
        sse::Event,
    },
};

/// The most bytes of citations that are kept.
const MAX_CITATIONS_BYTES: usize = 64 * 1024;

/// What some of those who speak OpenAI's wire do otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Habits {
    /// Thoughts may stand at the beginning of the text, between `<think>` and
    /// `</think>`, and are to be told from it.
    pub think_tags: bool,
    /// An answer may be complete without a mark of its end, if its transfer
    /// is: for servers of all kinds.
    pub any_end: bool,
}

/// Reads the events of one answer. Of several choices the first counts, as in
/// the original.
#[derive(Debug, Default)]
pub struct Reader {
    any_end: bool,
    think_tags: Option<ThinkTags>,
    /// Some text was given; until then leading white space is dropped.
    speaking: bool,
    /// Inside the JSON that a function call is shown as.
    in_call: bool,
    envelope: Envelope,
    /// The last `citations` and `search_results`, which come with each event.
    citations: String,
    search_results: String,
}

impl Reader {
    /// Returns a reader for a provider with these habits.
    pub fn new(habits: Habits) -> Self {
        let think_tags = habits.think_tags.then(|| ThinkTags::Start(String::new()));
        Self { any_end: habits.any_end, think_tags, ..Self::default() }
    }

    /// Reads one event and adds what it says to `out`.
    ///
    /// Events with a name are passed over, as in the original, but for
    /// `message`, which is what an event without a name is called, and
    /// `error`. So are events without data, with which some servers keep a
    /// connection alive.
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
            out.ended = true;
            return Ok(());
        }
        match event.name {
            b"" | b"message" => {}
            b"error" => return Err(reported(&content::utf8(data))),
            _ => return Ok(()),
        }
        if !self.in_call
            && let Some(text) = self.envelope.open(data)
        {
            self.say(text, out);
            return Ok(());
        }
        let data = content::utf8(data);
        // Servers that end events with a single line end put several into one.
        if memchr::memchr(b'\n', data.as_bytes()).is_some() && serde_json::from_str::<IgnoredAny>(&data).is_err() {
            return data.lines().try_for_each(|line| self.read(Event { name: b"", data: line.as_bytes() }, out));
        }
        match data.as_bytes()[0] {
            b'{' => {}
            b'[' => return list(&data),
            _ => return Err(not_understood()),
        }
        let mut repaired = String::new();
        let chunk: Chunk<'_> = content::parse(&data, &mut repaired).map_err(|_| not_understood())?;
        if chunk.error.is_some_and(is_truthy) {
            return Err(reported(&data));
        }
        if let Some(usage) = chunk.usage {
            out.count(usage);
        }
        if let Some(x_groq) = chunk.x_groq {
            read_groq(x_groq, out)?;
        }
        for (given, kept) in [(chunk.citations, &mut self.citations), (chunk.search_results, &mut self.search_results)]
        {
            if let Some(given) = given.map(RawValue::get)
                && given.len() <= MAX_CITATIONS_BYTES
                && given != kept
            {
                given.clone_into(kept);
            }
        }
        let Some(choice) = chunk.choices.first else {
            let error = if chunk.choices.are_there { None } else { errors::stray_error(&data) };
            return error.map_or(Ok(()), |words| Err(Failure::Stream(words)));
        };
        match &choice.delta {
            Some(Delta { content: Some(Content::Text(Cow::Borrowed(text))), tool_calls: None, .. })
                if !self.in_call
                    && chunk.usage.is_none()
                    && choice.finish_reason.is_none()
                    && choice.error.is_none()
                    && choice.delta.as_ref().is_some_and(Delta::is_content_alone) =>
            {
                self.envelope.learn(&data, text);
                self.say(text, out);
                Ok(())
            }
            _ => self.read_choice(&choice, out),
        }
    }

    fn read_choice(&mut self, choice: &Choice<'_>, out: &mut Output) -> Result<(), Failure> {
        if let Some(error) = choice.error.filter(|error| is_truthy(error)) {
            return Err(reported(&format!(r#"{{"error":{}}}"#, error.get())));
        }
        match &choice.delta {
            Some(delta) => {
                let calls = delta.tool_calls.is_some() || delta.function_call.is_some();
                if calls && out.wanted.calls {
                    collect_calls(delta, out)?;
                } else if (calls || self.in_call) && shown_calls::show(&mut self.in_call, delta, choice, &mut out.text)
                {
                    self.stop(choice, out);
                    return Ok(());
                }
                // Some servers send both, with the same words.
                let thoughts = [&delta.reasoning_content, &delta.reasoning].into_iter().find_map(|thoughts| {
                    let Some(Content::Text(thoughts)) = thoughts else { return None };
                    Some(thoughts.as_ref()).filter(|thoughts| !thoughts.is_empty())
                });
                out.think(thoughts.unwrap_or_default());
                self.say_content(delta.content.as_ref(), out)?;
                // The model's own words, and all that there are.
                self.say_content(delta.refusal.as_ref(), out)?;
                if let Some(annotations) = delta.annotations {
                    cite_annotations(annotations, out);
                }
            }
            None => self.say_content(choice.text.as_ref(), out)?,
        }
        self.stop(choice, out);
        Ok(())
    }

    fn stop(&mut self, choice: &Choice<'_>, out: &mut Output) {
        if let Some(finish) = choice.finish_reason.and_then(|reason| errors::finish(reason.get())) {
            out.ended = true;
            // A filter is not forgotten because `stop` follows.
            if !matches!(out.finish, Some(Finish::Blocked(_) | Finish::Failed(_))) {
                out.finish = Some(finish);
            }
        }
    }

    fn say_content(&mut self, content: Option<&Content<'_>>, out: &mut Output) -> Result<(), Failure> {
        match content {
            None => {}
            Some(Content::Text(text)) => self.say(text, out),
            Some(Content::Parts { text, thoughts }) => {
                out.think(thoughts);
                self.say(text, out);
            }
            Some(Content::Other) => return Err(not_understood()),
        }
        Ok(())
    }

    fn say(&mut self, text: &str, out: &mut Output) {
        match &mut self.think_tags {
            None => self.say_text(text, out),
            Some(tags) => {
                for piece in tags.split(text) {
                    self.say_piece(&piece, out);
                }
            }
        }
    }

    fn say_piece(&mut self, piece: &Piece, out: &mut Output) {
        match piece {
            Piece::Text(text) => self.say_text(text, out),
            Piece::Thought(thought) => out.think(thought),
        }
    }

    fn say_text(&mut self, text: &str, out: &mut Output) {
        let text = if self.speaking { text } else { text.trim_start_matches(js::is_space) };
        if !text.is_empty() {
            self.speaking = true;
            out.text.push_str(text);
        }
    }

    /// As [`super::Reader::read_whole`].
    pub fn read_whole(&mut self, body: &[u8], out: &mut Output) -> bool {
        let Ok(mut completion) = serde_json::from_slice::<Value>(body) else { return false };
        let Some(choice) = completion.pointer_mut("/choices/0").and_then(Value::as_object_mut) else { return false };
        let Some(message) = choice.remove("message").filter(Value::is_object) else { return false };
        // As if all of it were one event.
        choice.insert("delta".to_owned(), message);
        let event = completion.to_string();
        let is_read = self.read(Event { name: b"", data: event.as_bytes() }, out).is_ok();
        out.ended |= is_read;
        is_read
    }

    /// As [`super::Reader::finish`].
    pub fn finish(&mut self, is_complete: bool, out: &mut Output) {
        if let Some(piece) = self.think_tags.as_mut().and_then(ThinkTags::finish) {
            self.say_piece(&piece, out);
        }
        // What is empty is no answer, unless it says so.
        out.ended |= is_complete && self.any_end && self.speaking;
        let list = |json: &str| serde_json::from_str::<Vec<Value>>(json).unwrap_or_default();
        let (citations, pages) = (list(&self.citations), list(&self.search_results));
        let title = |url: &str| pages.iter().find(|page| page["url"] == *url).and_then(|page| page["title"].as_str());
        for url in citations.iter().filter_map(Value::as_str) {
            out.sources.add(url, title(url));
        }
        for page in pages.iter().filter(|_| citations.is_empty()) {
            out.sources.add(page["url"].as_str().unwrap_or_default(), page["title"].as_str());
        }
    }
}

/// A list is passed over, as in the original, unless it holds an error.
fn list(data: &str) -> Result<(), Failure> {
    let list: Vec<Value> = serde_json::from_str(data).map_err(|_| not_understood())?;
    match list.first() {
        Some(first) if truthy(&first["error"]) => Err(reported(&first.to_string())),
        _ => Ok(()),
    }
}

/// JSON outside of events is passed over unless it is an error.
///
/// # Errors
/// If it is one.
pub(super) fn bare_json(data: &[u8]) -> Result<(), Failure> {
    let json: Value = serde_json::from_slice(data).unwrap_or_default();
    let event = match &json {
        Value::Array(list) => list.first().unwrap_or(&Value::Null),
        event => event,
    };
    let text = event.to_string();
    let words = if truthy(&event["error"]) { Some(error_message(&text)) } else { errors::stray_error(&text) };
    words.map_or(Ok(()), |words| Err(Failure::Stream(words)))
}

fn is_truthy(raw: &RawValue) -> bool {
    serde_json::from_str(raw.get()).is_ok_and(|value| truthy(&value))
}

fn read_groq(x_groq: &RawValue, out: &mut Output) -> Result<(), Failure> {
    let x_groq: Value = serde_json::from_str(x_groq.get()).unwrap_or_default();
    if let Some(words) = errors::groq_error(&x_groq) {
        return Err(Failure::Stream(words));
    }
    if let Ok(usage) = serde_json::value::to_raw_value(&x_groq["usage"]) {
        out.count(&usage);
    }
    Ok(())
}

/// OpenAI's and OpenRouter's citations.
fn cite_annotations(annotations: &RawValue, out: &mut Output) {
    let annotations: Vec<Value> = serde_json::from_str(annotations.get()).unwrap_or_default();
    for annotation in annotations {
        let page = &annotation["url_citation"];
        if let Some(url) = page["url"].as_str() {
            out.sources.add(url, page["title"].as_str());
        }
    }
}

fn collect_calls(delta: &Delta<'_>, out: &mut Output) -> Result<(), Failure> {
    let Some(pieces) = delta.tool_calls else { return Ok(()) };
    let pieces: Vec<Value> = serde_json::from_str(pieces.get()).unwrap_or_default();
    for piece in pieces {
        let (number, function) = (piece["index"].as_u64(), &piece["function"]);
        let (id, name) = (piece["id"].as_str().unwrap_or_default(), function["name"].as_str().unwrap_or_default());
        // Some servers repeat id and name with each piece, some number nothing.
        let begins = if number.is_some() { !out.calls.has(number) } else { !name.is_empty() };
        if begins {
            out.calls.begin(number, id, name)?;
        }
        match &function["arguments"] {
            Value::String(arguments) => out.calls.add_arguments(number, arguments)?,
            Value::Null => {}
            // Some send them as JSON.
            arguments => out.calls.add_arguments(number, &arguments.to_string())?,
        }
    }
    Ok(())
}
