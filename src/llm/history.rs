//! Histories that providers refuse, mended. chatbot-ui keeps an empty turn
//! where an answer was stopped before its first word, sends one when it asks
//! for an answer anew, and returns answers with what this server added to them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::notes;

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow, default)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
}

/// Mends messages of OpenAI's form: empty turns of the assistant are left out,
/// and what this server added to answers, and images without a URL. The other
/// messages stay as they are, to the byte.
///
/// Differs: the original sends everything; Mistral and Perplexity refuse empty
/// turns, and every provider the image.
pub fn mended(messages: &RawValue) -> Cow<'_, RawValue> {
    let Ok(raw_turns) = serde_json::from_str::<Vec<&RawValue>>(messages.get()) else {
        return Cow::Borrowed(messages);
    };
    let turns: Vec<Option<Cow<'_, str>>> = raw_turns.iter().map(|raw| mended_turn(raw)).collect();
    let is_unchanged = |turn: &Option<Cow<'_, str>>| matches!(turn, Some(Cow::Borrowed(_)));
    if turns.iter().all(is_unchanged) {
        return Cow::Borrowed(messages);
    }
    let turns: Vec<&str> = turns.iter().flatten().map(Cow::as_ref).collect();
    RawValue::from_string(format!("[{}]", turns.join(","))).map_or(Cow::Borrowed(messages), Cow::Owned)
}

/// One turn, or `None` if it is left out.
fn mended_turn(raw: &RawValue) -> Option<Cow<'_, str>> {
    let unchanged = Some(Cow::Borrowed(raw.get()));
    let Ok(turn) = serde_json::from_str::<Turn<'_>>(raw.get()) else { return unchanged };
    if turn.role.as_deref() != Some("assistant") || turn.tool_calls.is_some() || turn.function_call.is_some() {
        return without_lost_images(raw, turn.content).map(Cow::Owned).or(unchanged);
    }
    // Longer texts than the shortest blanks are parsed only if something in
    // them may have to go.
    let content = turn.content.map_or("null", RawValue::get);
    let may_be_blank = content.len() < 64 || content.starts_with('[');
    if !may_be_blank && !notes::may_be_in(content.as_bytes()) {
        return unchanged;
    }
    let mut message: Map<String, Value> = match serde_json::from_str(raw.get()) {
        Ok(message) => message,
        Err(_) => return unchanged,
    };
    let was = message.clone();
    if !mend(&mut message) {
        None
    } else if message == was {
        unchanged
    } else {
        Some(Cow::Owned(Value::Object(message).to_string()))
    }
}

/// A message without its images that have no URL; `None` if it has no such image.
fn without_lost_images(raw: &RawValue, content: Option<&RawValue>) -> Option<String> {
    // As the front end writes it; nothing else is parsed.
    let _ = content.filter(|content| content.get().starts_with('[') && content.get().contains(r#""url":"""#))?;
    let mut message: Map<String, Value> = serde_json::from_str(raw.get()).ok()?;
    let parts = message.get_mut("content")?.as_array_mut()?;
    let count = parts.len();
    parts.retain(|part| !is_lost_image(part));
    (parts.len() < count).then(|| Value::Object(message).to_string())
}

/// Tells if a part is an image that the front end could not load: it goes on sending it in every turn, without a URL or
/// data.
fn is_lost_image(part: &Value) -> bool {
    part["image_url"]["url"] == "" || part["inlineData"].get("data").is_some_and(Value::is_null)
}

/// As [`mended`], for messages that are taken apart, of OpenAI's form or
/// Google's.
pub fn mend_all(messages: &mut Vec<Map<String, Value>>) {
    messages.retain_mut(mend);
}

/// Takes off what this server added to an answer. Returns `false` if the turn
/// is an empty one of the assistant.
fn mend(message: &mut Map<String, Value>) -> bool {
    let is_answer = message.get("role").is_some_and(|role| role == "assistant" || role == "model");
    let calls = ["tool_calls", "function_call"].into_iter().any(|name| message.get(name).is_some_and(|v| !v.is_null()));
    if !is_answer || calls {
        return true;
    }
    let Some(content) = ["content", "parts"].into_iter().find(|&name| message.contains_key(name)) else { return false };
    match &mut message[content] {
        Value::String(text) => {
            let kept = notes::without(text).len();
            text.truncate(kept);
        }
        Value::Array(parts) => {
            if let Some(Value::String(text)) = parts.last_mut().and_then(|part| part.get_mut("text")) {
                let kept = notes::without(text).len();
                text.truncate(kept);
            }
        }
        _ => {}
    }
    !is_blank(Some(&message[content]))
}

/// Whether a content is missing, or nothing but blank texts.
pub fn is_blank(content: Option<&Value>) -> bool {
    match content {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.trim().is_empty(),
        Some(Value::Array(parts)) => parts.iter().all(is_blank_part),
        Some(_) => false,
    }
}

/// Whether a part is a blank text, or an image without a URL.
pub fn is_blank_part(part: &Value) -> bool {
    if is_lost_image(part) {
        return true;
    }
    let text = part.as_str().or_else(|| {
        let members = part.as_object()?;
        // A part with anything else is no mere text.
        let is_text = members.keys().all(|name| matches!(name.as_str(), "text" | "type" | "cache_control"));
        members.get("text").filter(|_| is_text)?.as_str()
    });
    text.is_some_and(|text| text.trim().is_empty())
}

/// Leaves out blank turns and blank texts, and joins turns of one role in a
/// row: for providers that refuse either. `content` is the name of the member
/// that holds a turn's list of parts. If a blank first turn goes, so do the
/// answers to it, as the first turn has to be the user's.
pub fn join_turns(messages: Vec<Map<String, Value>>, content: &str) -> Vec<Map<String, Value>> {
    let mut joined: Vec<Map<String, Value>> = Vec::with_capacity(messages.len());
    let mut lost_its_question = false;
    for mut message in messages {
        if let Some(Value::Array(parts)) = message.get_mut(content) {
            parts.retain(|part| !is_blank_part(part));
        }
        let is_users = message.get("role").is_some_and(|role| role == "user");
        if is_blank(message.get(content)) {
            lost_its_question |= joined.is_empty() && is_users;
            continue;
        }
        if joined.is_empty() && lost_its_question && !is_users {
            continue;
        }
        let role = message.get("role").cloned();
        let same_role = joined.last_mut().filter(|last| role.is_some() && last.get("role") == role.as_ref());
        match (same_role.and_then(|last| last.get_mut(content)), message.get_mut(content)) {
            (Some(Value::Array(parts)), Some(Value::Array(more))) => parts.append(more),
            _ => joined.push(message),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(json: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(json).expect("JSON")
    }

    #[test]
    fn what_needs_no_mending_stays_as_it_is() {
        for json in [
            r#"[ {"role":"user","content":""} , {"role":"assistant","content":"a"}]"#,
            r#"[{"role":"assistant","content":null,"tool_calls":[{}]},{"role":"tool","content":""}]"#,
            r#"[{"role":"assistant","content":1e400},7,null,{"role":5}]"#,
            "{}",
        ] {
            let messages = RawValue::from_string(json.to_owned()).expect("JSON");
            assert_eq!(mended(&messages).get(), json);
        }
    }

    #[test]
    fn empty_turns_of_the_assistant_are_left_out() {
        let turn = |role: &str, content: Value| json!({ "role": role, "content": content });
        let blank_part = json!([{ "type": "text", "text": " " }]);
        for blank in [json!(""), json!(" \n "), json!(null), json!([]), blank_part] {
            let messages = json!([turn("user", json!("a")), turn("assistant", blank), turn("user", json!("b"))]);
            let left = json!([turn("user", json!("a")), turn("user", json!("b"))]);
            assert_eq!(mended(&raw(&messages)).get(), left.to_string());
        }
    }

    #[test]
    fn what_was_added_to_answers_is_taken_off() {
        let note = "\n\n*The answer stops here: it reached the limit of tokens.*";
        let long = "x".repeat(1000);
        for answer in ["a", &long] {
            let messages = |text: &str| {
                json!([
                    { "role": "user", "content": format!("I read:{note}") },
                    { "role": "assistant", "content": text },
                    { "role": "assistant", "content": [{ "type": "text", "text": text }] },
                ])
            };
            let mended = mended(&raw(&messages(&format!("{answer}{note}")))).get().to_owned();
            assert_eq!(mended, messages(answer).to_string());
        }
        let alone = json!([{ "role": "assistant", "content": note }]);
        assert_eq!(mended(&raw(&alone)).get(), "[]");
    }

    #[test]
    fn images_that_were_lost_are_left_out() {
        let text = json!({ "type": "text", "text": "look" });
        let image = |url: &str| json!({ "type": "image_url", "image_url": { "url": url } });
        let turn = |parts: &[&Value]| json!([{ "role": "user", "content": parts }, { "role": "user", "content": "b" }]);
        let lost = turn(&[&text, &image(""), &image("data:image/png;base64,QUJD"), &image("")]);
        let left = turn(&[&text, &image("data:image/png;base64,QUJD")]);
        assert_eq!(mended(&raw(&lost)).get(), left.to_string());
        let whole = json!([{ "role": "user", "content": [{ "type": "text", "text": r#"What is "url":""?"# }] }]);
        assert_eq!(mended(&raw(&whole)).get(), whole.to_string());
        assert_eq!(
            joined(
                &json!([{ "role": "user", "parts": [{ "text": "a" }, { "inlineData": { "data": null, "mimeType": null } }] }])
            ),
            json!([{ "role": "user", "parts": [{ "text": "a" }] }])
        );
    }

    fn joined(messages: &Value) -> Value {
        let messages = serde_json::from_value(messages.clone()).expect("objects");
        json!(join_turns(messages, "parts"))
    }

    #[test]
    fn turns_are_joined_and_blanks_left_out() {
        let turn = |role: &str, texts: &[&str]| {
            let parts: Vec<Value> = texts.iter().map(|text| json!({ "text": text })).collect();
            json!({ "role": role, "parts": parts })
        };
        assert_eq!(
            joined(&json!([
                turn("user", &["a", " "]),
                turn("model", &[""]),
                turn("user", &["b"]),
                turn("model", &["c"])
            ])),
            json!([turn("user", &["a", "b"]), turn("model", &["c"])])
        );
        let image = json!({ "role": "user", "parts": [{ "text": "" }, { "inlineData": {} }] });
        assert_eq!(joined(&json!([image])), json!([{ "role": "user", "parts": [{ "inlineData": {} }] }]));
        // Without its question an answer says nothing, and may not come first.
        assert_eq!(
            joined(&json!([turn("user", &[""]), turn("model", &["a"]), turn("user", &["b"])])),
            json!([turn("user", &["b"])])
        );
        let kept = json!([turn("model", &["a"]), turn("user", &["b"])]);
        assert_eq!(joined(&kept), kept);
    }
}
