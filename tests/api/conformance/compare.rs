//! The rules by which an answer is held against what a case expects.
//!
//! A case that differs from the original may still hold parts of what was
//! recorded there. Then what was written for the difference wins: `messageHas`
//! over `message` over `json`, and `upstreamCount` over `upstream`.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::case::{Case, Expect, ExpectedRequest};
use crate::support::upstream::{
    Recorded,
    wire::{Answer, header},
};

/// The length of text that a failure shows, in characters.
const EXCERPT: usize = 160;

/// All in which the answer, and what the provider saw of it, is not as the
/// case expects, a sentence each.
pub fn differences(case: &Case, answer: &Answer, seen: &[Recorded]) -> Vec<String> {
    let mut found = head_differences(&case.expect, answer);
    found.extend(body_difference(&case.expect, answer));
    found.extend(request_differences(&case.expect, seen));
    found.extend(timing_differences(case, answer, seen));
    found
}

fn head_differences(expect: &Expect, answer: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    if answer.status != expect.status {
        found.push(format!("status: expected {}, came {}", expect.status, answer.status));
    }
    if answer.complete != expect.complete {
        found.push(format!("complete: expected {}, came {}", expect.complete, answer.complete));
    }
    if let Some(expected) = &expect.content_type {
        let came = header(&answer.headers, "content-type").unwrap_or_default();
        if !came.starts_with(expected) {
            found.push(format!("content type: expected {expected}…, came {came:?}"));
        }
    }
    if let Some(expected) = &expect.allow {
        let named = |(name, value): &(String, String)| {
            name == "allow" && value.split(',').any(|method| method.trim() == expected)
        };
        if !answer.headers.iter().any(named) {
            let came = header(&answer.headers, "allow");
            found.push(format!("allow: expected {expected}, came {came:?}"));
        }
    }
    found
}

fn body_difference(expect: &Expect, answer: &Answer) -> Option<String> {
    let came = String::from_utf8_lossy(&answer.body);
    if let Some(words) = &expect.message_has {
        let has = message(&answer.body).is_some_and(|message| message.to_lowercase().contains(&words.to_lowercase()));
        return (!has).then(|| format!("message: expected …{words}…, came {}", excerpt(&came, 0)));
    }
    if let Some(expected) = &expect.message {
        let message = message(&answer.body);
        return (message.as_ref() != Some(expected))
            .then(|| format!("message: expected {expected:?}, came {}", excerpt(&came, 0)));
    }
    if let Some(expected) = &expect.json {
        return match serde_json::from_slice(&answer.body) {
            Ok(document) => json_difference("json", expected, &document),
            Err(error) => Some(format!("json: {error}: {}", excerpt(&came, 0))),
        };
    }
    if let Some(start) = &expect.body_starts {
        return (!came.starts_with(start.as_str()))
            .then(|| format!("body: expected {start:?}…, came {}", excerpt(&came, 0)));
    }
    text_difference("body", expect.body.as_ref()?, &answer.body)
}

/// The words of an error: a document with a message and nothing else.
fn message(body: &[u8]) -> Option<String> {
    let members: BTreeMap<String, String> = serde_json::from_slice(body).ok()?;
    match members.len() {
        1 => members.get("message").cloned(),
        _ => None,
    }
}

fn request_differences(expect: &Expect, seen: &[Recorded]) -> Vec<String> {
    let mut found = Vec::new();
    let listed = expect.upstream.as_deref().filter(|_| expect.upstream_count.is_none());
    let count = expect.upstream_count.or(listed.map(<[ExpectedRequest]>::len));
    if let Some(count) = count
        && !(count..=expect.upstream_at_most.unwrap_or(count)).contains(&seen.len())
    {
        let came: Vec<String> = seen.iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect();
        found.push(format!("upstream: expected {count} requests, came {came:?}"));
    }
    for (index, (expected, came)) in listed.unwrap_or_default().iter().zip(seen).enumerate() {
        let of_request = |difference| format!("upstream {index}: {difference}");
        found.extend(request_difference(expected, came).into_iter().map(of_request));
    }

    let body = seen.first().map_or(Value::Null, |first| json_body(first).unwrap_or_default());
    let has = |member: &&String| !body[member.as_str()].is_null();
    for member in expect.upstream_body_has.iter().filter(|member| !has(member)) {
        found.push(format!("upstream 0: body: {member} is missing"));
    }
    for member in expect.upstream_body_lacks.iter().filter(has) {
        found.push(format!("upstream 0: body: {member} is there"));
    }
    found
}

fn request_difference(expected: &ExpectedRequest, came: &Recorded) -> Vec<String> {
    let mut found = Vec::new();
    if (&expected.method, &expected.path) != (&came.method, &came.path) {
        found.push(format!("expected {} {}, came {} {}", expected.method, expected.path, came.method, came.path));
    }
    let mut query = came.query.clone();
    query.sort();
    if !query.iter().map(|(name, value)| (name, value)).eq(&expected.query) {
        found.push(format!("query: expected {:?}, came {query:?}", expected.query));
    }
    for (name, value) in &expected.headers {
        let came = came.header(&name.to_lowercase());
        if came != Some(value) {
            found.push(format!("{name}: expected {value:?}, came {came:?}"));
        }
    }
    found.extend(match (expected.body.as_str(), json_body(came)) {
        (Some(text), _) => text_difference("body", text, &came.body),
        (None, Some(body)) => {
            let body = without_additions(body, &expected.body);
            json_difference("body", &without_nulls(&expected.body), &without_nulls(&body))
        }
        (None, None) => {
            let body = String::from_utf8_lossy(&came.body);
            Some(format!("body: no JSON: {}", excerpt(&body, 0)))
        }
    });
    found
}

/// What this server sends besides, where the provider takes it: for counts of
/// tokens, the provider's cache, and telling a server's users apart.
const ADDED: [&str; 4] = ["stream_options", "prompt_cache_key", "safety_identifier", "metadata"];

fn without_additions(mut body: Value, expected: &Value) -> Value {
    if let Some(members) = body.as_object_mut() {
        members.retain(|name, _| !ADDED.contains(&name.as_str()) || !expected[name].is_null());
    }
    body
}

fn json_body(request: &Recorded) -> Option<Value> {
    serde_json::from_slice(&request.body).ok()
}

fn timing_differences(case: &Case, answer: &Answer, seen: &[Recorded]) -> Vec<String> {
    let mut found = Vec::new();
    let last = seen.last();
    if case.expect.first_byte_before_upstream_end || case.timed.is_some() {
        let ahead = Duration::from_millis(case.timed.unwrap_or_default());
        let ended = last.and_then(|last| last.completed);
        let came = answer.first_byte.zip(ended).and_then(|(first, ended)| ended.checked_duration_since(first));
        if came.is_none_or(|came| came < ahead) {
            found.push(format!("timed: expected text {ahead:?} before the provider's end, came {came:?} before"));
        }
    }
    if case.expect.closed_early && last.is_none_or(|last| last.left.is_none()) {
        found.push("closedEarly: the provider did not see anybody leave".to_owned());
    }
    found
}

/// A member that is `null` counts as absent.
fn without_nulls(value: &Value) -> Value {
    if let Some(members) = value.as_object() {
        let given = members.iter().filter(|(_, member)| !member.is_null());
        given.map(|(name, member)| (name.clone(), without_nulls(member))).collect()
    } else if let Some(items) = value.as_array() {
        items.iter().map(without_nulls).collect()
    } else {
        value.clone()
    }
}

/// The first place in which two documents differ. Numbers are the same if
/// their values are: 1 is 1.0.
fn json_difference(place: &str, expected: &Value, came: &Value) -> Option<String> {
    if let (Some(expected), Some(came)) = (expected.as_object(), came.as_object()) {
        let missing = expected.keys().find(|name| !came.contains_key(*name));
        let surplus = came.keys().find(|name| !expected.contains_key(*name));
        return missing
            .map(|name| format!("{place}: {name} is missing"))
            .or_else(|| surplus.map(|name| format!("{place}: {name} was not expected")))
            .or_else(|| {
                expected
                    .iter()
                    .find_map(|(name, value)| json_difference(&format!("{place}.{name}"), value, &came[name]))
            });
    }
    if let (Some(expected), Some(came)) = (expected.as_array(), came.as_array())
        && expected.len() == came.len()
    {
        return expected
            .iter()
            .zip(came)
            .enumerate()
            .find_map(|(index, (expected, came))| json_difference(&format!("{place}[{index}]"), expected, came));
    }
    if let (Some(expected), Some(came)) = (expected.as_str(), came.as_str()) {
        return text_difference(place, expected, came.as_bytes());
    }
    let same = match (expected.as_f64(), came.as_f64()) {
        (Some(expected), Some(came)) => expected == came,
        _ => expected == came,
    };
    (!same).then(|| {
        let [expected, came] = [expected, came].map(|value| excerpt(&value.to_string(), 0));
        format!("{place}: expected {expected}, came {came}")
    })
}

fn text_difference(place: &str, expected: &str, came: &[u8]) -> Option<String> {
    if expected.as_bytes() == came {
        return None;
    }
    let came = String::from_utf8_lossy(came);
    let pairs = expected.chars().zip(came.chars());
    let same = pairs.take_while(|(expected, came)| expected == came).count();
    // A little of what is the same shows where the difference is.
    let from = same.saturating_sub(EXCERPT / 4);
    let [expected, came] = [expected, &came].map(|text| excerpt(text, from));
    Some(format!("{place}: expected {expected}, came {came} (the same up to {same})"))
}

/// Some of a text, from this character on.
pub fn excerpt(text: &str, from: usize) -> String {
    let shown: String = text.chars().skip(from).take(EXCERPT).collect();
    let all = text.chars().count();
    if shown.len() == text.len() {
        return format!("{shown:?}");
    }
    format!("{shown:?} (from {from}, {all} characters in all)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Instant;

    fn case(expect: &Value) -> Case {
        let raw = json!({
            "id": "x", "what": "", "route": "/", "request": {}, "timed": 300, "expect": expect,
        });
        Case::new(&raw, "").expect("a case")
    }

    /// An expectation and a response that agree.
    fn agreement() -> (Value, Answer, Vec<Recorded>) {
        let expect = json!({
            "status": 200,
            "complete": true,
            "contentType": "text/plain",
            "allow": "POST",
            "body": "Hello",
            "upstream": [{
                "method": "POST",
                "path": "/v1",
                "query": { "alt": "sse" },
                "headers": { "authorization": "Bearer KEY" },
                "body": { "temperature": 1, "max_tokens": null, "messages": [{ "content": "hi" }] },
            }],
            "upstreamBodyHas": ["messages"],
            "upstreamBodyLacks": ["stream", "max_tokens"],
            "firstByteBeforeUpstreamEnd": true,
        });
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let came = Instant::now();
        let answer = Answer {
            status: 200,
            headers: vec![pair("content-type", "text/plain; charset=utf-8"), pair("allow", "GET, POST")],
            body: b"Hello".to_vec(),
            first_byte: Some(came),
            complete: true,
        };
        let request = Recorded {
            key: "sk-case-x".to_owned(),
            connection: 1,
            came,
            method: "POST".to_owned(),
            path: "/v1".to_owned(),
            query: vec![pair("alt", "sse")],
            headers: vec![pair("authorization", "Bearer sk-case-x"), pair("accept", "*/*")],
            body: Vec::from(br#"{"messages":[{"content":"hi"}],"temperature":1.0,"user":null}"#),
            left: None,
            completed: Some(came + Duration::from_millis(301)),
        };
        (expect, answer, vec![request])
    }

    #[test]
    fn what_agrees_passes_and_what_was_tampered_with_does_not() {
        let (expect, answer, seen) = agreement();
        assert_eq!(differences(&case(&expect), &answer, &seen), [""; 0]);

        for (place, tampered) in [
            ("/status", json!(201)),
            ("/complete", json!(false)),
            ("/contentType", json!("application/json")),
            ("/allow", json!("PUT")),
            ("/body", json!("Hello!")),
            ("/upstream", json!([])),
            ("/upstream/0/method", json!("GET")),
            ("/upstream/0/path", json!("/v2")),
            ("/upstream/0/query", json!({})),
            ("/upstream/0/query/alt", json!("json")),
            ("/upstream/0/headers", json!({ "x-api-key": "KEY" })),
            ("/upstream/0/headers/authorization", json!("Bearer another")),
            ("/upstream/0/body", json!("")),
            ("/upstream/0/body", json!({})),
            ("/upstream/0/body/temperature", json!(0)),
            ("/upstream/0/body/temperature", json!(null)),
            ("/upstream/0/body/max_tokens", json!(4096)),
            ("/upstream/0/body/messages", json!([])),
            ("/upstream/0/body/messages/0/content", json!("ho")),
            ("/upstreamBodyHas", json!(["max_tokens"])),
            ("/upstreamBodyLacks", json!(["temperature"])),
        ] {
            let mut expect = expect.clone();
            *expect.pointer_mut(place).expect(place) = tampered.clone();
            let found = differences(&case(&expect), &answer, &seen);
            assert_eq!(found.len(), 1, "{place} = {tampered}: {found:?}");
        }
        for (rule, words) in [
            ("bodyStarts", json!("hell")),
            ("closedEarly", json!(true)),
            ("upstreamCount", json!(2)),
            ("message", json!("Hello")),
            ("messageHas", json!("")),
            ("json", json!("Hello")),
        ] {
            let mut expect = expect.clone();
            expect[rule] = words;
            assert!(!differences(&case(&expect), &answer, &seen).is_empty(), "{rule}");
        }
    }

    #[test]
    fn text_that_comes_late_is_late() {
        let (expect, answer, mut seen) = agreement();
        let first_byte = answer.first_byte.expect("a body");
        seen[0].completed = Some(first_byte + Duration::from_millis(299));
        assert_eq!(differences(&case(&expect), &answer, &seen).len(), 1);
        seen[0].completed = None;
        assert_eq!(differences(&case(&expect), &answer, &seen).len(), 1);
    }

    #[test]
    fn what_was_written_for_a_difference_wins() {
        let answer = Answer {
            status: 400,
            body: br#"{"message":"No chatSettings"}"#.to_vec(),
            complete: true,
            ..Answer::default()
        };
        let mut expect = json!({ "status": 400, "complete": true, "json": { "isAvailable": true }, "upstream": [] });
        let found = |expect: &Value| {
            let mut case = case(expect);
            case.timed = None;
            differences(&case, &answer, &[]).len()
        };
        assert_eq!(found(&expect), 1);
        expect["message"] = json!("No chatSettings");
        assert_eq!(found(&expect), 0);
        expect["message"] = json!("no chatsettings");
        assert_eq!(found(&expect), 1);
        expect["messageHas"] = json!("chatsettings");
        assert_eq!(found(&expect), 0);
        expect["upstreamCount"] = json!(1);
        assert_eq!(found(&expect), 1);
    }

    #[test]
    fn an_error_is_a_message_and_nothing_else() {
        assert_eq!(message(br#"{"message":"a"}"#), Some("a".to_owned()));
        for body in [r#"{"message":"a","code":1}"#, r#"{"message":"a","code":"b"}"#, r#"{"error":"a"}"#, "a", ""] {
            assert_eq!(message(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn a_long_text_is_shown_where_it_differs() {
        let long = "z".repeat(2_000_000);
        let found = text_difference("body", &format!("{long}a"), format!("{long}b").as_bytes());
        let found = found.expect("a difference");
        assert!(found.len() < 500 && found.contains("zzza\"") && found.contains("zzzb\""), "{found}");
    }
}
