//! Reading the session out of the `Cookie` header, in every form that Supabase's clients have written it: plain JSON or
//! `base64-`, an object or an array, in one cookie or in chunks. Pure functions; nothing read here is trusted until the
//! token's signature is verified.

use std::borrow::Cow;

use base64::{Engine, engine::GeneralPurpose, engine::general_purpose};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use url::{Host, Url};

use crate::js::COMPONENT;

/// A session read from a cookie, and the form in which it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// The JWT.
    pub access_token: String,
    /// The refresh token; empty if the cookie has none.
    pub refresh_token: String,
    base64: bool,
    /// The cookie's JSON if it was an array: its other members are kept.
    array: Option<Vec<Value>>,
    /// The cookie's JSON had the user: clients that store it elsewhere leave it out, to keep headers small.
    with_user: bool,
    /// A whole cookie came, besides chunks or alone.
    whole: bool,
    /// One more than the highest chunk number that came, needed or not.
    chunks: usize,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session(..)")
    }
}

/// The most chunks read. A browser keeps no more than some hundred cookies per site.
const MAX_CHUNKS: usize = 100;

/// Reads the session called `name` from the values of a request's `Cookie` headers. `None` if there is none, or none
/// that can be parsed.
///
/// A whole cookie wins over chunks unless it is empty or its token expires earlier; chunks `.0`, `.1`, … are joined up
/// to the first that is missing or empty; of two cookies with one name the last wins.
///
/// Differs: to the original a whole cookie always wins. The front end's library (`@supabase/ssr` 0.0.10) leaves a stale
/// one beside the chunks of a session that has grown, and its user could never sign in again.
pub fn session<'a>(name: &str, headers: impl Iterator<Item = &'a str>) -> Option<Session> {
    let mut whole = None;
    let mut chunks: Vec<Option<Cow<'_, str>>> = Vec::new();
    for header in headers {
        for piece in header.split(';') {
            let piece = piece.trim_start_matches(' ');
            let Some(rest) = piece.strip_prefix(name) else {
                continue;
            };
            if let Some(value) = rest.strip_prefix('=') {
                if let Some(value) = decoded(value) {
                    whole = Some(value);
                }
            } else if let Some((number, value)) = rest.strip_prefix('.').and_then(|rest| rest.split_once('='))
                && let Some(index) = chunk_number(number)
                && let Some(value) = decoded(value)
            {
                if chunks.len() <= index {
                    chunks.resize(index + 1, None);
                }
                chunks[index] = Some(value);
            }
        }
    }
    let count = chunks.len();
    let joined = || {
        let needed = chunks.iter().map_while(|chunk| chunk.as_deref().filter(|chunk| !chunk.is_empty()));
        parse(&needed.collect::<String>(), whole.is_some(), count)
    };
    let Some(value) = whole.as_deref().filter(|value| !value.is_empty()) else {
        return joined();
    };
    let single = parse(value, true, count);
    match (&single, joined()) {
        (Some(single), Some(joined)) if expiry(&single.access_token) < expiry(&joined.access_token) => Some(joined),
        (None, joined) => joined,
        _ => single,
    }
}

/// Reads `exp` of a token that is not verified: good for choosing between two, and for nothing else.
fn expiry(token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Times {
        exp: u64,
    }
    let payload = BASE64.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Times>(&payload).ok().map(|times| times.exp)
}

/// Parses a chunk number: `0`, `1`, `2` …, in JavaScript's spelling.
fn chunk_number(text: &str) -> Option<usize> {
    let number: usize = text.parse().ok()?;
    (number < MAX_CHUNKS && number.to_string() == text).then_some(number)
}

/// Decodes like `decodeURIComponent`: an invalid `%` escape makes the whole value unreadable.
fn decoded(value: &str) -> Option<Cow<'_, str>> {
    let bytes = value.as_bytes();
    let broken = memchr::memchr_iter(b'%', bytes)
        .any(|at| !bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)));
    if broken {
        return None;
    }
    percent_decode_str(value).decode_utf8().ok()
}

/// Base64url as Supabase's clients decode it: white space and padding are skipped, any other foreign character makes
/// the cookie unreadable.
const BASE64: GeneralPurpose = general_purpose::URL_SAFE_NO_PAD;

fn parse(value: &str, whole: bool, chunks: usize) -> Option<Session> {
    let encoded = value.strip_prefix("base64-");
    let json: Value = match encoded {
        Some(encoded) => {
            let encoded: Vec<u8> =
                encoded.bytes().filter(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'=')).collect();
            serde_json::from_slice(&BASE64.decode(encoded).ok()?).ok()?
        }
        None => serde_json::from_str(value).ok()?,
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let (access_token, refresh_token) = match &json {
        Value::Object(session) => (text(session.get("access_token")), text(session.get("refresh_token"))),
        Value::Array(session) => (text(session.first()), text(session.get(1))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
    };
    if access_token.is_empty() {
        return None;
    }
    let with_user = json.get("user").is_some();
    let array = if let Value::Array(members) = json { Some(members) } else { None };
    Some(Session { access_token, refresh_token, base64: encoded.is_some(), array, with_user, whole, chunks })
}

/// The longest value of one cookie, encoded: Supabase's clients cut at this length, and browsers keep no more than
/// 4,096 bytes including the name and the attributes.
const CHUNK: usize = 3180;

impl Session {
    /// Returns the `Set-Cookie` headers that give a new session to the browser: in the form and the number of cookies
    /// in which the old one came, with the attributes that Supabase's clients set for that form. Chunks of the old
    /// session that are no longer needed are deleted.
    pub fn set_cookies(&self, name: &str, new: &Value) -> Vec<String> {
        let json = match &self.array {
            Some(members) => {
                let mut members = members.clone();
                members.resize(members.len().max(2), Value::Null);
                members[0] = new["access_token"].clone();
                members[1] = new["refresh_token"].clone();
                Value::Array(members).to_string()
            }
            None => {
                let mut new = new.clone();
                if let (Some(members), false) = (new.as_object_mut(), self.with_user) {
                    members.remove("user");
                }
                new.to_string()
            }
        };
        // The two generations of clients: the older one asks for a thousand years, the newer one for the 400 days that
        // browsers allow.
        let (value, max_age) = if self.base64 {
            (format!("base64-{}", BASE64.encode(json)), 34_560_000u64)
        } else {
            (json, 31_536_000_000)
        };
        let set = |name: &str, value: &str, max_age: u64| {
            let value = utf8_percent_encode(value, COMPONENT);
            format!("{name}={value}; Path=/; Max-Age={max_age}; SameSite=lax")
        };
        let pieces = pieces(&value);
        let mut cookies = Vec::new();
        let kept = if let [whole] = pieces.as_slice() {
            cookies.push(set(name, whole, max_age));
            0
        } else {
            cookies.extend(
                pieces.iter().enumerate().map(|(index, piece)| set(&format!("{name}.{index}"), piece, max_age)),
            );
            if self.whole {
                // It would take precedence over the chunks.
                cookies.push(set(name, "", 0));
            }
            pieces.len()
        };
        cookies.extend((kept..self.chunks).map(|index| set(&format!("{name}.{index}"), "", 0)));
        cookies
    }
}

fn pieces(value: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut length) = (0, 0);
    for (at, character) in value.char_indices() {
        let encoded =
            utf8_percent_encode(&value[at..at + character.len_utf8()], COMPONENT).map(str::len).sum::<usize>();
        if length + encoded > CHUNK {
            pieces.push(&value[start..at]);
            (start, length) = (at, 0);
        }
        length += encoded;
    }
    pieces.push(&value[start..]);
    pieces
}

/// Returns the name that Supabase's clients give the cookie of the project at `url`: `sb-<ref>-auth-token`, `<ref>`
/// being the first label of the host.
pub fn name_for(url: &Url) -> String {
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(host @ (Host::Ipv4(_) | Host::Ipv6(_))) => host.to_string(),
        None => String::new(),
    };
    format!("sb-{}-auth-token", host.split('.').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::NON_ALPHANUMERIC;
    use proptest::prelude::*;

    const NAME: &str = "sb-127-auth-token";

    fn token(header: &str) -> Option<String> {
        session(NAME, [header].into_iter()).map(|session| session.access_token)
    }

    fn encoded(text: &str) -> String {
        utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
    }

    fn object(token: &str) -> String {
        format!(r#"{{"access_token":"{token}","refresh_token":"r","expires_at":1,"user":{{}}}}"#)
    }

    fn expiring(at: u64) -> String {
        format!("h.{}.s", BASE64.encode(format!(r#"{{"exp":{at}}}"#)))
    }

    #[test]
    fn every_form() {
        let json = object("t.o.k");
        let base64 = format!("base64-{}", BASE64.encode(&json));
        for value in [json.as_str(), base64.as_str(), r#"["t.o.k","r",null,null,null]"#] {
            assert_eq!(token(&format!("a=b; {NAME}={}; c", encoded(value))).as_deref(), Some("t.o.k"), "{value}");
            let (one, two) = value.split_at(value.len() / 2);
            let chunked = format!("{NAME}.1={}; {NAME}.0={}", encoded(two), encoded(one));
            assert_eq!(token(&chunked).as_deref(), Some("t.o.k"), "{chunked}");
        }
        assert_eq!(token(&format!("{NAME}={json}")).as_deref(), Some("t.o.k"), "raw JSON");
        assert_eq!(token(&format!("{NAME}=base64-{}==", BASE64.encode(&json))).as_deref(), Some("t.o.k"), "padded");
    }

    #[test]
    fn which_one_wins() {
        let [old, new] = ["old", "new"].map(|token| encoded(&object(token)));
        assert_eq!(token(&format!("{NAME}={old}; {NAME}={new}")).as_deref(), Some("new"), "the last");
        assert_eq!(token(&format!("{NAME}.0={old}; {NAME}={new}")).as_deref(), Some("new"), "the whole");
        assert_eq!(token(&format!("{NAME}=; {NAME}.0={new}")).as_deref(), Some("new"), "not the empty");
        assert_eq!(token(&format!("{NAME}={new}; {NAME}=%zz")).as_deref(), Some("new"), "not the unreadable");
        assert_eq!(
            token(&format!("sb-other-auth-token={old}; {NAME}-x={old}; {NAME}={new}")).as_deref(),
            Some("new"),
            "our project's"
        );
        let headers = [format!("{NAME}={old}"), format!("{NAME}={new}")];
        assert_eq!(
            session(NAME, headers.iter().map(String::as_str)).map(|s| s.access_token).as_deref(),
            Some("new"),
            "of two headers"
        );
    }

    #[test]
    fn of_a_whole_cookie_and_chunks_the_one_that_expires_later_wins() {
        let (old, new) = (expiring(1_000), expiring(2_000));
        let header = |whole: &str, chunk: &str| {
            format!("{NAME}={}; {NAME}.0={}", encoded(&object(whole)), encoded(&object(chunk)))
        };
        assert_eq!(token(&header(&old, &new)).as_deref(), Some(new.as_str()));
        assert_eq!(token(&header(&new, &old)).as_deref(), Some(new.as_str()));
        assert_eq!(token(&header("o.p.q", &new)).as_deref(), Some(new.as_str()), "no time is earlier than any");
        let stale = header(&old, &new);
        let session = session(NAME, [stale.as_str()].into_iter()).expect("a session");
        let set = session.set_cookies(NAME, &serde_json::json!({ "access_token": "n", "user": "u".repeat(9000) }));
        assert!(set.iter().any(|cookie| cookie.starts_with(&format!("{NAME}=; "))), "the stale cookie is deleted");
    }

    #[test]
    fn a_session_without_its_user_comes_back_without() {
        let new = serde_json::json!({ "access_token": "n.e.w", "refresh_token": "r2", "user": { "id": 1 } });
        for (old, kept) in [(object("t"), true), (object("t").replace(r#","user":{}"#, ""), false)] {
            let header = format!("{NAME}={}", encoded(&old));
            let set = session(NAME, [header.as_str()].into_iter()).expect("a session").set_cookies(NAME, &new);
            assert_eq!(set[0].contains("user"), kept, "{old}");
        }
    }

    #[test]
    fn chunks_end_at_a_gap() {
        let json = object("t");
        let (one, two) = json.split_at(9);
        let [one, two] = [one, two].map(encoded);
        assert_eq!(token(&format!("{NAME}.0={one}; {NAME}.2={two}")), None);
        assert_eq!(token(&format!("{NAME}.1={two}")), None);
        assert_eq!(token(&format!("{NAME}.0={one}; {NAME}.01={two}")), None);
        assert_eq!(token(&format!("{NAME}.0={one}; {NAME}.1={two}; {NAME}.3=stale")).as_deref(), Some("t"));
        assert_eq!(token(&format!("{NAME}.0={one}; {NAME}.18446744073709551615=x; {NAME}.99999999=x")), None);
    }

    #[test]
    fn no_session_in_anything_else() {
        for value in [
            "",
            "garbage",
            "null",
            "5",
            "{}",
            "[]",
            "[null]",
            r#"{"access_token":null}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":7}"#,
            "a.b.c",
            "base64-",
            "base64-!!",
            "base64-bm9wZQ",
            r#""{}""#,
        ] {
            assert_eq!(token(&format!("{NAME}={}", encoded(value))), None, "{value}");
        }
        assert_eq!(token(NAME), None);
        assert_eq!(token("; ;;=;"), None);
    }

    /// The `Cookie` header that a browser would send after these `Set-Cookie` headers.
    fn kept(set: &[String]) -> String {
        let pairs =
            set.iter().filter(|cookie| !cookie.contains("Max-Age=0;")).filter_map(|cookie| cookie.split(';').next());
        pairs.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_new_session_goes_back_in_the_form_of_the_old() {
        let long = serde_json::json!({ "access_token": "n.e.w", "refresh_token": "r2", "user": "é; %".repeat(1500) });
        let short = serde_json::json!({ "access_token": "n.e.w", "refresh_token": "r2" });
        let old = object("o.l.d");
        let base64 = format!("base64-{}", BASE64.encode(&old));
        for value in [old.as_str(), base64.as_str(), r#"["o.l.d","r",null,"kept"]"#] {
            let (one, two) = value.split_at(value.len() / 2);
            let whole = format!("{NAME}={}", encoded(value));
            let chunked = format!("{NAME}.0={}; {NAME}.1={}", encoded(one), encoded(two));
            for (header, new) in [(&whole, &short), (&whole, &long), (&chunked, &short), (&chunked, &long)] {
                let was = session(NAME, [header.as_str()].into_iter()).expect("a session");
                let set = was.set_cookies(NAME, new);
                let is = session(NAME, [kept(&set).as_str()].into_iter()).expect("a session");
                assert_eq!((is.access_token.as_str(), is.refresh_token.as_str()), ("n.e.w", "r2"), "{value}");
                assert_eq!((is.base64, is.array.is_some()), (was.base64, was.array.is_some()), "{value}");
                assert!(
                    set.iter()
                        .all(|cookie| cookie.ends_with("; SameSite=lax") && cookie.contains("; Path=/; Max-Age="))
                );
                assert!(kept(&set).split("; ").all(|pair| pair.len() < 4096), "a browser keeps them");
                // Whatever the old one left behind is taken back.
                let stale = header.split("; ").filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
                assert!(stale.into_iter().all(|name| set.iter().any(|cookie| cookie.starts_with(&format!("{name}=")))));
            }
        }
        let array = session(NAME, [format!("{NAME}={}", encoded(r#"["o","r",null,"kept"]"#)).as_str()].into_iter())
            .expect("a session");
        assert!(array.set_cookies(NAME, &short)[0].contains("kept"));
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(header in ".{0,200}", value in "\\PC{0,80}", cut in 0usize..80) {
            let _ = token(&header);
            let _ = token(&format!("{NAME}={value}"));
            let _ = token(&format!("{NAME}=base64-{value}"));
            let at = value.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(0);
            let _ = token(&format!("{NAME}.0={}; {NAME}.1={}", &value[..at], &value[at..]));
        }

        #[test]
        fn a_token_survives_every_chunking(text in "[ -~é🦀]{1,40}", size in 1usize..30) {
            let json = serde_json::json!({ "access_token": text }).to_string();
            let characters: Vec<char> = json.chars().collect();
            let header = characters
                .chunks(size)
                .enumerate()
                .map(|(index, chunk)| format!("{NAME}.{index}={}", encoded(&chunk.iter().collect::<String>())))
                .collect::<Vec<_>>()
                .join("; ");
            let expected = (characters.len().div_ceil(size) <= MAX_CHUNKS).then_some(text);
            prop_assert_eq!(token(&header), expected);
        }
    }
}
