//! OpenAI's wire: the request for a chat, the events of its stream, the words
//! of its errors. Spoken by OpenAI, Groq, Mistral, OpenRouter, Perplexity,
//! Azure and every custom model.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    Failure, Output,
    content::{self, Content},
    request::Turns,
    sse::Event,
    unusable,
};
use crate::{error::Error, js};

/// The body of a request for a chat, its members in the original's order.
/// Without `Debug`, as it holds the prompt.
#[derive(Serialize)]
pub struct ChatRequest<'a> {
    /// The model's id (for Azure the deployment's).
    pub model: &'a str,
    /// The conversation.
    pub messages: Turns<'a>,
    /// As the client sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<&'a RawValue>,
    /// How much the model thinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<&'static str>,
    /// In which form thoughts come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_format: Option<&'static str>,
    /// The functions that the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<&'a [Value]>,
    /// Whether the answer comes as events.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// Whether the stream ends with the counts of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<Value>,
    /// Requests with the same one are sent to the same cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_key: Option<&'a str>,
    /// A pseudonym of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_identifier: Option<&'a str>,
}

/// What the model says, or calls, in an answer in one piece.
///
/// # Errors
/// [`Failure::Unusable`] where there is none.
pub fn message(mut completion: Value) -> Result<Value, Failure> {
    match completion.pointer_mut("/choices/0/message").map(Value::take) {
        Some(message @ Value::Object(_)) => Ok(message),
        _ => Err(unusable(&completion.to_string())),
    }
}

/// Reads the events of one answer. Of several choices the first counts, as in
/// the original.
#[derive(Debug, Default)]
pub struct Reader {
    /// Some text was given; until then leading white space is dropped.
    speaking: bool,
    /// Inside the JSON that a function call is shown as.
    in_call: bool,
    envelope: Envelope,
}

/// The JSON around the last text. The events of one answer often differ in
/// their text alone, and comparing costs a tenth of parsing: what stands
/// between the same bytes, and is a plain string, is what parsing would give.
#[derive(Debug, Default)]
struct Envelope {
    before: Vec<u8>,
    after: Vec<u8>,
    /// How often it did not fit. OpenAI and Mistral pad their events with
    /// something else each time, so that it never will.
    misses: u8,
}

impl Envelope {
    const MAX_BYTES: usize = 1024;
    const MAX_MISSES: u8 = 8;

    /// The text of an event that differs from the last one in nothing else.
    fn open<'a>(&self, data: &'a [u8]) -> Option<&'a str> {
        let text = data.strip_prefix(self.before.as_slice())?.strip_suffix(self.after.as_slice())?;
        let plain = !self.before.is_empty() && text.iter().all(|&byte| byte >= b' ' && byte != b'"' && byte != b'\\');
        plain.then(|| std::str::from_utf8(text).ok())?
    }

    /// Keeps what stands around `text`, where that is a part of `data` and not
    /// of a repaired copy.
    fn learn(&mut self, data: &str, text: &str) {
        let start = (text.as_ptr() as usize).wrapping_sub(data.as_ptr() as usize);
        let is_part = start.checked_add(text.len()).is_some_and(|end| end <= data.len());
        if !is_part || self.misses == Self::MAX_MISSES || data.len() - text.len() > Self::MAX_BYTES {
            return;
        }
        self.misses += 1;
        self.before.clear();
        self.before.extend_from_slice(&data.as_bytes()[..start]);
        self.after.clear();
        self.after.extend_from_slice(&data.as_bytes()[start + text.len()..]);
    }
}

/// One event, as far as it matters. Borrowed from the event's bytes.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: FirstChoice<'a>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    /// The text of the older completions API.
    #[serde(borrow, default)]
    text: Option<Content<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Content<'a>>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
}

impl Reader {
    /// Reads one event and adds what it says to `out`.
    ///
    /// Events with a name are passed over, as in the original, but for
    /// `message`, which is what an event without a name is called, and
    /// `error`. So are events without data, with which some servers keep a
    /// connection alive.
    ///
    /// # Errors
    /// An error that the provider sent, or an event that is not understood.
    pub fn read(&mut self, event: Event<'_>, out: &mut Output) -> Result<(), Failure> {
        if event.data.starts_with(b"[DONE]") {
            out.done = true;
            return Ok(());
        }
        let data = event.data.trim_ascii();
        if data.is_empty() || data[0] == b':' || !matches!(event.name, b"" | b"message" | b"error") {
            return Ok(());
        }
        if !self.in_call
            && event.name != b"error"
            && let Some(text) = self.envelope.open(data)
        {
            self.envelope.misses = 0;
            self.say_text(text, out);
            return Ok(());
        }
        let data = content::utf8(data);
        if event.name == b"error" {
            return Err(Failure::Stream(error_message(&data)));
        }
        // Servers that end events with a single line end put several into one.
        if memchr::memchr(b'\n', data.as_bytes()).is_some() && serde_json::from_str::<IgnoredAny>(&data).is_err() {
            return data.lines().try_for_each(|line| self.read(Event { name: b"", data: line.as_bytes() }, out));
        }
        match data.as_bytes()[0] {
            b'{' => {}
            b'[' if serde_json::from_str::<IgnoredAny>(&data).is_ok() => return Ok(()),
            _ => return Err(not_understood()),
        }
        let mut repaired = String::new();
        let chunk: Chunk<'_> = content::parse(&data, &mut repaired).map_err(|_| not_understood())?;
        if chunk.error.is_some_and(|error| truthy_raw(error.get())) {
            return Err(Failure::Stream(error_message(&data)));
        }
        if let Some(usage) = chunk.usage {
            out.usage.push(usage.to_owned());
        }
        let Some(choice) = chunk.choices.0 else {
            return Ok(());
        };
        match &choice.delta {
            Some(delta) if self.in_call || delta.tool_calls.is_some() || delta.function_call.is_some() => {
                if self.read_call(delta, &choice, out)? {
                    return Ok(());
                }
                self.say(delta.content.as_ref(), out)
            }
            Some(Delta { content: Some(Content::Text(Cow::Borrowed(text))), .. }) => {
                if chunk.usage.is_none() {
                    self.envelope.learn(&data, text);
                }
                self.say_text(text, out);
                Ok(())
            }
            Some(delta) => self.say(delta.content.as_ref(), out),
            None => self.say(choice.text.as_ref(), out),
        }
    }

    fn say(&mut self, content: Option<&Content<'_>>, out: &mut Output) -> Result<(), Failure> {
        match content {
            None => {}
            Some(Content::Text(text)) => self.say_text(text, out),
            Some(Content::Parts(text)) => self.say_text(text, out),
            Some(Content::Other) => return Err(not_understood()),
        }
        Ok(())
    }

    fn say_text(&mut self, text: &str, out: &mut Output) {
        let text = if self.speaking { text } else { text.trim_start_matches(js::is_space) };
        if !text.is_empty() {
            self.speaking = true;
            out.text.push_str(text);
        }
    }

    /// Function calls are shown as the original's front end expects them: as
    /// JSON written piece by piece. `false` where the delta has none of it, so
    /// that its content counts.
    fn read_call(&mut self, delta: &Delta<'_>, choice: &Choice<'_>, out: &mut Output) -> Result<bool, Failure> {
        let value = |raw: Option<&RawValue>| -> Value {
            raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
        };
        let function_call = value(delta.function_call);
        let tool_call = value(delta.tool_calls).get_mut(0).map(Value::take).unwrap_or_default();
        let finish_reason = value(choice.finish_reason);
        let filled = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);

        if let Some(name) = filled(&function_call["name"]) {
            self.in_call = true;
            out.text.push_str(&format!(r#"{{"function_call": {{"name": "{name}", "arguments": ""#));
        } else if let Some(name) = filled(&tool_call["function"]["name"]) {
            self.in_call = true;
            let id = tool_call["id"].as_str().unwrap_or("undefined");
            let before = if tool_call["index"].as_i64() == Some(0) { r#"{"tool_calls":[ "# } else { r#""}}, "# };
            out.text.push_str(&format!(
                r#"{before}{{"id": "{id}", "type": "function", "function": {{"name": "{name}", "arguments": ""#
            ));
        } else if let Some(arguments) = filled(&function_call["arguments"]) {
            out.text.push_str(&escaped(&arguments));
        } else if let Some(arguments) = filled(&tool_call["function"]["arguments"]) {
            out.text.push_str(&escaped(&arguments));
        } else if self.in_call && matches!(finish_reason.as_str(), Some("function_call" | "stop")) {
            self.in_call = false;
            out.text.push_str(r#""}}"#);
        } else if self.in_call && finish_reason == "tool_calls" {
            self.in_call = false;
            out.text.push_str(r#""}}]}"#);
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

/// Quotes the arguments of a call once more, the way the original does.
fn escaped(arguments: &str) -> String {
    let mut escaped = String::with_capacity(arguments.len() + 8);
    for character in arguments.chars() {
        match character {
            '\\' => escaped.push_str(r"\\"),
            '/' => escaped.push_str(r"\/"),
            '"' => escaped.push_str(r#"\""#),
            '\n' => escaped.push_str(r"\n"),
            '\r' => escaped.push_str(r"\r"),
            '\t' => escaped.push_str(r"\t"),
            '\u{c}' => escaped.push_str(r"\f"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn not_understood() -> Failure {
    Failure::Stream("The provider sent an event that is not understood".to_owned())
}

/// What an error's body says: the words in the original's order of search.
/// For an error inside a stream the event's data is the body.
///
/// Differs: a JSON body without an `error` member is quoted; the original
/// calls it empty.
pub fn error_message(body: &str) -> String {
    let json: Value = match serde_json::from_str(body) {
        Ok(json) => json,
        Err(_) if body.trim().is_empty() => return NO_BODY.to_owned(),
        Err(_) => return body.to_owned(),
    };
    if !truthy(&json) {
        return body.to_owned();
    }
    let error = &json["error"];
    let words = if truthy(&error["message"]) {
        &error["message"]
    } else if truthy(error) {
        return js::stringify(error);
    } else {
        [&json["message"], &json["detail"]].into_iter().find(|words| truthy(words)).unwrap_or(&json)
    };
    words.as_str().map_or_else(|| js::stringify(words), str::to_owned)
}

/// A failure in the words of the routes that show the provider's alone,
/// without its status: Azure, tools, the command palette, assistants.
///
/// Differs: where the original says that an unexpected error occurred, the
/// reason is said.
pub fn plain_error(failure: Failure) -> Error {
    if let Failure::Status { status, body } = &failure {
        let json: Value = serde_json::from_str(body).unwrap_or_default();
        if let Value::String(words) = &json["error"]["message"]
            && !words.is_empty()
        {
            return Error::Provider { status: *status, message: words.clone() };
        }
    }
    failure.into_error()
}

/// What the original says where an error has no body.
pub const NO_BODY: &str = "status code (no body)";

/// Truth as JavaScript sees it.
fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

fn truthy_raw(raw: &str) -> bool {
    serde_json::from_str(raw).is_ok_and(|value| truthy(&value))
}

/// The first element of `choices`; the others are not looked at, and whatever
/// is no list of objects has none.
#[derive(Default)]
struct FirstChoice<'a>(Option<Choice<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for FirstChoice<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = FirstChoice<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of choices")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let first = list.next_element::<Option<Choice<'de>>>()?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FirstChoice(first.flatten()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(FirstChoice(None))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(FirstChoice(None))
            }
        }
        deserializer.deserialize_any(First)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &[&str]) -> Result<String, Failure> {
        let mut reader = Reader::default();
        let mut out = Output::default();
        for data in events {
            reader.read(Event { name: b"", data: data.as_bytes() }, &mut out)?;
        }
        Ok(out.text)
    }

    fn deltas(deltas: &[&str]) -> Result<String, Failure> {
        let events: Vec<String> =
            deltas.iter().map(|delta| format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#)).collect();
        read(&events.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn text_comes_without_its_leading_space() {
        let said = deltas(&[
            r#"{"role":"assistant","content":""}"#,
            r#"{"content":null}"#,
            r#"{"content":"\n\n"}"#,
            r#"{"content":"\ufeff x  "}"#,
            r#"{"content":"  y"}"#,
        ]);
        assert_eq!(said.expect("text"), "x    y");
    }

    #[test]
    fn events_without_text_are_passed_over() {
        for data in [
            "{}",
            "[]",
            r#"{"choices":null}"#,
            r#"{"choices":[]}"#,
            r#"{"choices":[null]}"#,
            r#"{"choices":{}}"#,
            r#"{"choices":[],"usage":{"total_tokens":3}}"#,
            r#"{"choices":[{"delta":null}]}"#,
            r#"{"error":null}"#,
            "",
            " ",
            ": keep-alive",
        ] {
            assert_eq!(read(&[data]).expect(data), "", "{data}");
        }
        assert_eq!(read(&[r#"{"choices":[{"text":" old"}]}"#]).expect("text"), "old");
    }

    #[test]
    fn events_in_the_same_envelope_read_as_if_they_were_parsed() {
        let event =
            |text: &str| format!(r#"{{"id":"x","choices":[{{"delta":{{"content":"{text}"}},"index":0}}],"n":1}}"#);
        let mut reader = Reader::default();
        let mut out = Output::default();
        let mut read = |data: &str| {
            out.text.clear();
            let read = reader.read(Event { name: b"", data: data.as_bytes() }, &mut out);
            read.map(|()| out.text.clone()).map_err(|failure| failure.to_string())
        };
        for (text, shown) in
            [(" a", "a"), (" b", " b"), ("", ""), (r#"\"c\""#, "\"c\""), ("ü塩", "ü塩"), (r"\u0041", "A")]
        {
            assert_eq!(read(&event(text)), Ok(shown.to_owned()));
        }
        // What would be more than a text there is parsed.
        assert_eq!(read(&event(r#"x"},"finish_reason":"stop"},{"delta":{"content":"y"#)), Ok("x".to_owned()));
        assert!(read(&event("a\nb\u{1}")).is_err() && read(&event(r#"a"b"#)).is_err() && read(&event(r"\x")).is_err());
        assert_eq!(read(r#"{"error":{"message":"quota"}}"#), Err("quota".to_owned()));
        assert_eq!(read(&event("on")), Ok("on".to_owned()));
    }

    #[test]
    fn an_envelope_that_never_fits_is_no_longer_kept() {
        let mut reader = Reader::default();
        let mut out = Output::default();
        for number in 0..20 {
            let data = format!(r#"{{"choices":[{{"delta":{{"content":"a"}}}}],"obfuscation":"{number}"}}"#);
            reader.read(Event { name: b"", data: data.as_bytes() }, &mut out).expect("understood");
        }
        assert_eq!(out.text, "a".repeat(20));
        assert!(reader.envelope.after.ends_with(br#""obfuscation":"7"}"#));
    }

    #[test]
    fn surrogates_and_escapes() {
        assert_eq!(deltas(&[r#"{"content":"\ud83e\udd80\u0041\n\\"}"#]).expect("text"), "🦀A\n\\");
        assert_eq!(
            deltas(&[r#"{"content":"a\ud83eb"}"#, r#"{"content":"\udd80"}"#]).expect("text"),
            "a\u{fffd}b\u{fffd}"
        );
        assert_eq!(deltas(&[r#"{"content":"\ud83d\ud83e\udd80é"}"#]).expect("text"), "\u{fffd}🦀é");
    }

    #[test]
    fn contents_of_other_kinds() {
        assert_eq!(
            deltas(&[r#"{"content":[{"type":"text","text":"a"},{"type":"thinking","thinking":[]},{"text":"b"}]}"#])
                .expect("text"),
            "ab"
        );
        assert!(deltas(&[r#"{"content":5}"#]).is_err());
        assert!(deltas(&[r#"{"content":{"a":1}}"#]).is_err());
    }

    #[test]
    fn errors_and_nonsense_fail() {
        assert_eq!(read(&[r#"{"error":{"message":"quota"}}"#]).expect_err("fails").to_string(), "quota");
        for data in
            ["null", "5", r#""text""#, "{bad", "<html>", r#"{"choices":[{"delta":{"content":"x}"#, r#"{"choices":7}"#]
        {
            assert!(read(&[data]).is_err(), "{data}");
        }
    }

    #[test]
    fn several_events_without_blank_lines() {
        let delta = |text: &str| format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#);
        assert_eq!(read(&[&format!("{}\n{}\n[DONE]", delta("a"), delta("b"))]).expect("text"), "ab");
        assert_eq!(read(&["{\"choices\":\n[{\"delta\":{\"content\":\"a\"}}]}"]).expect("text"), "a");
        assert!(read(&[&format!("{}\n{{oops", delta("a"))]).is_err());
    }

    #[test]
    fn named_events() {
        let named = |name: &[u8]| {
            let mut out = Output::default();
            let data = br#"{"choices":[{"delta":{"content":"x"}}]}"#;
            Reader::default().read(Event { name, data }, &mut out).map(|()| out.text)
        };
        assert_eq!(named(b"message").expect("text"), "x");
        assert_eq!(named(b"ping").expect("nothing"), "");
        assert!(named(b"error").is_err());
    }

    #[test]
    fn calls_are_written_as_json() {
        let tool = |text: &str| format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{text}]}}}}]}}"#);
        let events = [
            tool(r#"{"index":0,"id":"call_1","function":{"name":"f","arguments":""}}"#),
            tool(r#"{"index":0,"function":{"arguments":"{\"a\":1}"}}"#),
            tool(r#"{"index":1,"id":"call_2","function":{"name":"g","arguments":""}}"#),
            tool(r#"{"index":1,"function":{"arguments":"{\"b\":\"\t\f\r/\"}"}}"#),
            r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#.to_owned(),
        ];
        let said = read(&events.each_ref().map(String::as_str)).expect("text");
        assert_eq!(
            said,
            r#"{"tool_calls":[ {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}, {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{\"b\":\"\t\f\r\/\"}"}}]}"#
        );
    }

    #[test]
    fn the_words_of_an_error() {
        for (body, words) in [
            (r#"{"error":{"message":"no","type":"t"}}"#, "no"),
            (r#"{"error":{"type":"x","code":7}}"#, r#"{"type":"x","code":7}"#),
            (r#"{"error":{"message":"","type":"q"}}"#, r#"{"message":"","type":"q"}"#),
            (r#"{"error":{"message":{"a":1}}}"#, r#"{"a":1}"#),
            (r#"{"error":{"message":5}}"#, "5"),
            (r#"{"error":"plain"}"#, r#""plain""#),
            (r#"{"error":["x"]}"#, r#"["x"]"#),
            (r#"{"error":7}"#, "7"),
            (r#"{"error":{}}"#, "{}"),
            ("null", "null"),
            ("false", "false"),
            ("0", "0"),
            ("Bad gateway <b>", "Bad gateway <b>"),
            ("", NO_BODY),
            // Differs from here on.
            (r#"{"message":"top"}"#, "top"),
            (r#"{"detail":[{"loc":["body"]}]}"#, r#"[{"loc":["body"]}]"#),
            (r#"{"error":null}"#, r#"{"error":null}"#),
            ("[1]", "[1]"),
        ] {
            assert_eq!(error_message(body), words, "{body}");
        }
    }
}
