//! Changes to a request that a model refused as it was: members are left out
//! or lowered, a limit gets its other name, the system prompt another role.

use bytes::Bytes;
use serde_json::{Value, value::RawValue};

use super::{members::Members, wire::Wire};

/// The names that a limit of output tokens has on one wire or another.
pub const LIMITS: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

/// Changes to a request's body.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adaptation {
    /// Members that are left out.
    pub left_out: Vec<String>,
    /// The highest temperature.
    pub max_temperature: Option<f64>,
    /// The limit of output tokens: its name, and a number where it is lowered
    /// or was missing.
    pub limit: Option<(&'static str, Option<u32>)>,
    /// The system prompt is sent as a part of the user's first turn.
    pub system_as_user: bool,
}

impl Adaptation {
    /// Adds the changes of `more`, and returns whether any of them is new.
    pub fn add(&mut self, more: Self) -> bool {
        let before = self.clone();
        for name in more.left_out {
            if !self.left_out.contains(&name) {
                self.left_out.push(name);
            }
        }
        self.max_temperature = match (self.max_temperature, more.max_temperature) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => new.or(old),
        };
        self.limit = match (self.limit, more.limit) {
            (Some((_, old)), Some((name, new))) => Some((name, new.or(old))),
            (old, new) => new.or(old),
        };
        self.system_as_user |= more.system_as_user;
        *self != before
    }

    /// Returns `body` with the changes. What is no JSON object stays as it is.
    pub fn apply(&self, body: Bytes) -> Bytes {
        if *self == Self::default() {
            return body;
        }
        self.changed(&body).map_or(body, Bytes::from)
    }

    fn changed(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut members: Members<'_> = serde_json::from_slice(body).ok()?;
        members.0.retain(|(name, _)| !self.left_out.contains(name));
        let raw = |value: String| RawValue::from_string(value).ok();
        let mut made = Vec::new();
        if let Some(most) = self.max_temperature
            && members
                .get("temperature")
                .and_then(|sent| sent.get().parse::<f64>().ok())
                .is_some_and(|sent| sent > most)
        {
            made.push(("temperature", raw(most.to_string())?));
        }
        if let Some((name, number)) = self.limit {
            let sent = LIMITS.iter().find_map(|name| members.remove(name));
            let sent = sent.and_then(|sent| sent.get().parse::<u32>().ok());
            let limit = match (number, sent) {
                (Some(number), Some(sent)) => Some(number.min(sent)),
                (number, sent) => number.or(sent),
            };
            if let Some(limit) = limit {
                made.push((name, raw(limit.to_string())?));
            }
        }
        if self.system_as_user
            && let Some(messages) = members.get("messages").and_then(|sent| without_system(sent.get()))
        {
            made.push(("messages", raw(messages)?));
        }
        for (name, value) in &made {
            members.set(name, value);
        }
        serde_json::to_vec(&members).ok()
    }
}

/// Lowers the limit of output tokens in `body` to `most`, or adds one by the name that the API has for it: `chat_name`
/// for OpenAI's chats. What is no JSON object stays as it is.
pub fn limit_output(body: Bytes, wire: Wire, chat_name: &'static str, most: u32) -> Bytes {
    let Ok(members) = serde_json::from_slice::<Members<'_>>(&body) else { return body };
    let name = match wire {
        Wire::Generate => {
            let config = members.get("generationConfig").map_or("{}", RawValue::get);
            let Ok(mut config) = serde_json::from_str::<serde_json::Map<String, Value>>(config) else { return body };
            config.insert("maxOutputTokens".to_owned(), most.into());
            let Ok(config) = serde_json::value::to_raw_value(&config) else { return body };
            let mut members = members;
            members.set("generationConfig", &config);
            return serde_json::to_vec(&members).map_or_else(|_| body.clone(), Bytes::from);
        }
        Wire::Chat => LIMITS.into_iter().find(|name| members.get(name).is_some()).unwrap_or(chat_name),
        Wire::Messages => "max_tokens",
        Wire::Responses => "max_output_tokens",
    };
    Adaptation { limit: Some((name, Some(most))), ..Adaptation::default() }.apply(body)
}

/// Puts the system prompt in front of the user's first turn, since what does
/// not know the role often wants the turns to alternate as well.
fn without_system(messages: &str) -> Option<String> {
    let mut messages: Vec<Value> = serde_json::from_str(messages).ok()?;
    let is_system = |message: &Value| matches!(message["role"].as_str(), Some("system" | "developer"));
    let mut at = 0;
    while at < messages.len() {
        if !is_system(&messages[at]) {
            at += 1;
            continue;
        }
        let prompt = messages[at]["content"].as_str().map(str::to_owned);
        let next = messages.get(at + 1).filter(|next| next["role"] == "user");
        let joined = match (&prompt, next.map(|next| &next["content"])) {
            (Some(prompt), Some(Value::String(text))) => Some(Value::from(format!("{prompt}\n\n{text}"))),
            (Some(prompt), Some(Value::Array(parts))) => {
                let first = serde_json::json!({ "type": "text", "text": prompt });
                Some(std::iter::once(first).chain(parts.iter().cloned()).collect())
            }
            _ => None,
        };
        match joined {
            Some(content) => {
                messages.remove(at);
                messages[at]["content"] = content;
            }
            None => messages[at]["role"] = "user".into(),
        }
    }
    serde_json::to_string(&messages).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn applied(adaptation: &Adaptation, body: Value) -> Value {
        serde_json::from_slice(&adaptation.apply(Bytes::from(body.to_string()))).expect("JSON")
    }

    #[test]
    fn nothing_to_change_is_the_same_bytes() {
        let body = Bytes::from_static(b" {\"a\": 1}");
        assert_eq!(Adaptation::default().apply(body.clone()).as_ptr(), body.as_ptr());
        let some = Adaptation { left_out: vec!["a".to_owned()], ..Adaptation::default() };
        assert_eq!(some.apply(Bytes::from_static(b"no JSON")), "no JSON");
    }

    #[test]
    fn members_are_left_out_lowered_and_renamed() {
        let all = Adaptation {
            left_out: vec!["stream_options".to_owned()],
            max_temperature: Some(1.0),
            limit: Some(("max_completion_tokens", Some(100))),
            system_as_user: false,
        };
        let body = json!({ "model": "m", "temperature": 1.5, "max_tokens": 4096, "stream_options": {} });
        assert_eq!(applied(&all, body), json!({ "model": "m", "temperature": 1, "max_completion_tokens": 100 }));
        assert_eq!(
            applied(&all, json!({ "temperature": 0.5 })),
            json!({ "temperature": 0.5, "max_completion_tokens": 100 })
        );
        let renamed = Adaptation { limit: Some(("max_completion_tokens", None)), ..Adaptation::default() };
        assert_eq!(applied(&renamed, json!({ "max_tokens": 7 })), json!({ "max_completion_tokens": 7 }));
        assert_eq!(applied(&renamed, json!({ "a": 7 })), json!({ "a": 7 }));
    }

    #[test]
    fn a_limit_of_output_is_lowered_or_added_in_every_form() {
        for (wire, body, expected) in [
            (Wire::Chat, json!({ "model": "m" }), json!({ "model": "m", "max_completion_tokens": 9 })),
            (Wire::Chat, json!({ "max_tokens": 100 }), json!({ "max_tokens": 9 })),
            (Wire::Chat, json!({ "max_tokens": 5 }), json!({ "max_tokens": 5 })),
            (Wire::Responses, json!({}), json!({ "max_output_tokens": 9 })),
            (Wire::Messages, json!({ "max_tokens": 64000 }), json!({ "max_tokens": 9 })),
            (
                Wire::Generate,
                json!({ "generationConfig": { "temperature": 1 } }),
                json!({ "generationConfig": { "temperature": 1, "maxOutputTokens": 9 } }),
            ),
            (Wire::Generate, json!({}), json!({ "generationConfig": { "maxOutputTokens": 9 } })),
        ] {
            let limited = limit_output(Bytes::from(body.to_string()), wire, "max_completion_tokens", 9);
            assert_eq!(serde_json::from_slice::<Value>(&limited).expect("JSON"), expected, "{wire:?}");
        }
        assert_eq!(limit_output(Bytes::from_static(b"[]"), Wire::Chat, "max_tokens", 9), "[]");
    }

    #[test]
    fn a_system_prompt_becomes_the_users() {
        let as_user = Adaptation { system_as_user: true, ..Adaptation::default() };
        let messages = |messages: Value| applied(&as_user, json!({ "messages": messages }))["messages"].take();
        let (system, user) = (json!({ "role": "system", "content": "S" }), json!({ "role": "user", "content": "U" }));
        assert_eq!(messages(json!([system, user])), json!([{ "role": "user", "content": "S\n\nU" }]));
        let parts = json!({ "role": "user", "content": [{ "type": "image_url" }] });
        assert_eq!(
            messages(json!([system, parts])),
            json!([{ "role": "user", "content": [{ "type": "text", "text": "S" }, { "type": "image_url" }] }])
        );
        assert_eq!(messages(json!([system])), json!([{ "role": "user", "content": "S" }]));
    }

    #[test]
    fn the_same_lesson_twice_is_nothing_new() {
        let mut all = Adaptation::default();
        let left_out = Adaptation { left_out: vec!["a".to_owned()], ..Adaptation::default() };
        assert!(all.add(left_out.clone()) && !all.add(left_out));
        let limit = |number| Adaptation { limit: Some(("max_tokens", number)), ..Adaptation::default() };
        assert!(all.add(limit(Some(10))) && !all.add(limit(None)) && all.add(limit(Some(5))));
        assert_eq!(all.limit, Some(("max_tokens", Some(5))));
    }
}
