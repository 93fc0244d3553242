//! A case as it stands in its file, with its placeholders filled in. A field
//! that is not known here fails the case: it would require something that no
//! test checks.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::support::{
    tokens::Auth,
    upstream::{ANY, End, Reply, Step},
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    pub id: String,
    /// The case's subject, in a line.
    pub what: String,
    #[serde(rename = "provider")]
    _provider: Option<IgnoredAny>,
    /// The path, unless the request has its own.
    pub route: String,
    #[serde(default)]
    pub auth: Auth,
    /// The columns of the user's profile that are not as usual; `None` = the
    /// user has no profile.
    #[serde(default = "nothing_unusual")]
    pub profile: Option<Map<String, Value>>,
    /// A custom model.
    pub model: Option<Model>,
    pub request: Sent,
    /// The provider's replies, one a request; the last one repeats.
    #[serde(default)]
    pub upstream: Vec<Scripted>,
    /// The tool servers' replies.
    #[serde(default)]
    pub tools: Vec<Tool>,
    /// The client must see text so many milliseconds before the provider ends.
    pub timed: Option<u64>,
    /// The client leaves after so many bytes of the body.
    pub abort_after: Option<usize>,
    /// Milliseconds within which the provider must notice that.
    pub settle: Option<u64>,
    pub env: Option<Env>,
    pub expect: Expect,
    /// The reason why the answer is not the original's.
    pub differs: Option<String>,
    #[serde(rename = "original")]
    _original: Option<IgnoredAny>,
    #[serde(skip)]
    pub ids: Ids,
}

/// `null` means something, so that what is absent needs a value of its own.
fn nothing_unusual() -> Option<Map<String, Value>> {
    Some(Map::new())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub base_url: String,
    /// The case's key, unless it is given.
    pub api_key: Option<String>,
    /// The case's user, unless it is given.
    pub owner: Option<Owner>,
    /// `private`, unless it is given.
    pub sharing: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// Another user.
    Other,
}

/// The server's setup.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Env {
    /// With keys of its own.
    Keys,
}

/// The client's request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// POST, unless it is given.
    pub method: Option<String>,
    pub path: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// A JSON document.
    body: Option<Value>,
    /// Text that may be no JSON at all.
    raw: Option<String>,
}

impl Sent {
    /// The body, if there is one.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let document = || self.body.as_ref().map(Value::to_string);
        self.raw.clone().or_else(document).map(String::into_bytes)
    }
}

/// A provider's answer as a case describes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scripted {
    status: Option<u16>,
    headers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    chunks: Vec<Chunk>,
    end: Option<Break>,
}

/// A write, as text or as bytes, or a silence.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Chunk {
    Text(String),
    Hex { hex: String },
    Wait { ms: u64 },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Break {
    Reset,
    Refuse,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    pub prefix: String,
    pub respond: Scripted,
}

impl Scripted {
    pub fn reply(&self) -> Reply {
        let usual = Reply::default();
        Reply {
            status: self.status.unwrap_or(usual.status),
            headers: match &self.headers {
                Some(headers) => headers.clone().into_iter().collect(),
                None => usual.headers,
            },
            steps: self.chunks.iter().map(Chunk::step).collect(),
            end: match self.end {
                None => End::Normal,
                Some(Break::Reset) => End::Reset,
                Some(Break::Refuse) => End::Refuse,
            },
            before_head: usual.before_head,
        }
    }
}

impl Chunk {
    fn step(&self) -> Step {
        match self {
            Chunk::Text(text) => Step::Write(text.clone().into_bytes()),
            Chunk::Hex { hex } => Step::Write(unhex(hex)),
            Chunk::Wait { ms } => Step::Wait(Duration::from_millis(*ms)),
        }
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().map(|digit| digit.to_digit(16).expect("a hexadecimal digit")).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).expect("two digits are a byte");
    digits.chunks_exact(2).map(byte).collect()
}

/// The expected result. A case that differs from the original may still hold
/// what was recorded there; see [`super::compare`] for what wins.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expect {
    pub status: u16,
    /// True if the response ends as its framing says; false if it was cut.
    pub complete: bool,
    /// The beginning of the content type.
    pub content_type: Option<String>,
    pub body: Option<String>,
    pub body_starts: Option<String>,
    /// The body is `{"message": …}` with these words.
    pub message: Option<String>,
    /// The same, with these words among others, in whatever case.
    pub message_has: Option<String>,
    pub json: Option<Value>,
    /// A method that the `Allow` header names.
    pub allow: Option<String>,
    /// The requests to the provider and the tool servers, in this order.
    pub upstream: Option<Vec<ExpectedRequest>>,
    pub upstream_count: Option<usize>,
    /// More requests than are listed may come, up to this number.
    pub upstream_at_most: Option<usize>,
    /// Members of the first request's body.
    #[serde(default)]
    pub upstream_body_has: Vec<String>,
    /// Names that must not be members of the first request's body.
    #[serde(default)]
    pub upstream_body_lacks: Vec<String>,
    /// The client sees text before the provider has ended.
    #[serde(default)]
    pub first_byte_before_upstream_end: bool,
    /// The provider sees that the client has left.
    #[serde(default)]
    pub closed_early: bool,
}

/// A request that the provider should have seen.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedRequest {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// Others may come too.
    pub headers: BTreeMap<String, String>,
    /// A string is the body itself, anything else is the body as JSON.
    pub body: Value,
}

/// The values of a case's placeholders.
#[derive(Debug, Default)]
pub struct Ids {
    /// The key in the profile; the provider knows the case by it.
    pub key: String,
    pub user: Uuid,
    /// The owner of another user's rows.
    pub other: Uuid,
    pub session: Uuid,
    pub model: Uuid,
    pub username: String,
}

impl Case {
    /// The case that `raw` describes, with rows of its own; `up` is the URL of
    /// its provider.
    pub fn new(raw: &Value, up: &str) -> Result<Case, String> {
        let id = raw["id"].as_str().unwrap_or_default();
        let user = Uuid::new_v4();
        let ids = Ids {
            key: format!("sk-case-{id}"),
            user,
            other: Uuid::new_v4(),
            session: Uuid::new_v4(),
            model: Uuid::new_v4(),
            // Where an answer names the user, the user must have that name.
            username: match raw["expect"]["json"]["username"].as_str() {
                Some(username) => username.to_owned(),
                None => user.simple().to_string()[..16].to_owned(),
            },
        };
        let mut filled = raw.clone();
        fill(&mut filled, &ids, up);
        let mut case: Case = serde_json::from_value(filled).map_err(|error| format!("{id}: {error}"))?;
        case.ids = ids;
        Ok(case)
    }

    /// The key by which the provider knows the case's requests: a server with
    /// keys of its own does not show the case's.
    pub fn provider_key(&self) -> &str {
        match self.env {
            Some(Env::Keys) => ANY,
            None => &self.ids.key,
        }
    }
}

/// Fills in the placeholders in all the strings of a value.
fn fill(value: &mut Value, ids: &Ids, up: &str) {
    if let Some(members) = value.as_object_mut() {
        members.values_mut().for_each(|member| fill(member, ids, up));
    } else if let Some(items) = value.as_array_mut() {
        items.iter_mut().for_each(|item| fill(item, ids, up));
    } else if let Some(text) = value.as_str() {
        *value = filled(text, ids, up).into();
    }
}

fn filled(text: &str, ids: &Ids, up: &str) -> String {
    match text {
        // Only where it is all there is: providers may shout about an API KEY.
        "KEY" => return ids.key.clone(),
        "Bearer KEY" => return format!("Bearer {}", ids.key),
        _ => {}
    }
    let text = text
        .replace("{{UP}}", up)
        .replace("{{USER_ID}}", &ids.user.to_string())
        .replace("{{MODEL_ID}}", &ids.model.to_string())
        .replace("{{USERNAME}}", &ids.username);
    repeated(&text).unwrap_or(text)
}

/// `{{REP:z:3}}` = `zzz`; `None` if the text has no such placeholder.
fn repeated(text: &str) -> Option<String> {
    let (before, rest) = text.split_once("{{REP:")?;
    let (inside, after) = rest.split_once("}}")?;
    let (letter, times) = inside.rsplit_once(':')?;
    let letters = letter.repeat(times.parse().ok()?);
    let after = repeated(after).unwrap_or_else(|| after.to_owned());
    Some([before, &letters, &after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn placeholders_are_filled_in_everywhere() {
        let raw = json!({
            "id": "x",
            "what": "a case",
            "route": "/api/chat/custom",
            "profile": { "openai_api_key": "KEY" },
            "model": { "base_url": "{{UP}}/v1" },
            "request": { "body": ["{{MODEL_ID}}", "{{USER_ID}}", "{{USERNAME}}"] },
            "upstream": [{ "chunks": ["<{{REP:ab:2}}|{{REP:c:1}}>", { "hex": "f09f" }, { "ms": 5 }] }],
            "expect": {
                "status": 400,
                "complete": true,
                "message": "not an API KEY",
                "json": { "username": "somebody" },
                "upstream": [{
                    "method": "POST", "path": "/", "query": {},
                    "headers": { "authorization": "Bearer KEY" }, "body": "",
                }],
            },
        });
        let case = Case::new(&raw, "http://up").expect("a case");
        assert_eq!(case.profile.expect("a profile")["openai_api_key"], "sk-case-x");
        assert_eq!(case.model.expect("a model").base_url, "http://up/v1");
        let body = json!([case.ids.model, case.ids.user, "somebody"]).to_string();
        assert_eq!(case.request.bytes().expect("a body"), body.as_bytes());
        assert_eq!(
            case.upstream[0].reply().steps,
            [Step::Write(b"<abab|c>".to_vec()), Step::Write(vec![0xf0, 0x9f]), Step::Wait(Duration::from_millis(5)),]
        );
        assert_eq!(case.expect.message.expect("a message"), "not an API KEY");
        let seen = &case.expect.upstream.expect("requests")[0];
        assert_eq!(seen.headers["authorization"], "Bearer sk-case-x");
    }

    #[test]
    fn a_profile_can_be_absent_or_null() {
        let mut raw = json!({
            "id": "x", "what": "", "route": "/", "request": {},
            "expect": { "status": 200, "complete": true },
        });
        assert!(Case::new(&raw, "").expect("a case").profile.is_some());
        raw["profile"] = Value::Null;
        assert!(Case::new(&raw, "").expect("a case").profile.is_none());
        raw["surprise"] = Value::Null;
        assert!(Case::new(&raw, "").expect_err("an unknown field").contains("surprise"));
    }
}
