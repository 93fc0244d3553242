//! The text in a provider's event, without a copy where it can be.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// What stands where a text is expected.
#[derive(Debug, PartialEq)]
pub enum Content<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// A list: its parts, joined. Mistral's reasoning models send those.
    Parts {
        /// The texts.
        text: String,
        /// The texts inside of `thinking`.
        thoughts: String,
    },
    /// Anything else.
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Content::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Content::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        struct Part<'a> {
            #[serde(borrow, default)]
            text: Option<&'a RawValue>,
            #[serde(borrow, default)]
            thinking: Option<&'a RawValue>,
        }
        let (mut text, mut thoughts) = (String::new(), String::new());
        while let Some(part) = parts.next_element::<Part<'de>>()? {
            // Only strings: read by its own kind again, a list in a list would
            // have no bottom.
            let more = part.text.filter(|raw| raw.get().starts_with('"'));
            if let Some(more) = more.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok()) {
                text.push_str(&more);
            }
            let thinking = part.thinking.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
            for thought in thinking.iter().filter_map(Value::as_array).flatten() {
                thoughts.push_str(thought["text"].as_str().unwrap_or_default());
            }
        }
        Ok(Content::Parts { text, thoughts })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Content::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Content::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Content::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Content::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Content::Other)
    }
}

/// An event's data as text. Bytes that are no UTF-8 become U+FFFD.
pub fn utf8(data: &[u8]) -> Cow<'_, str> {
    // Not `from_utf8_lossy` alone, which goes character by character.
    std::str::from_utf8(data).map_or_else(|_| String::from_utf8_lossy(data), Cow::Borrowed)
}

/// Reads an event's JSON. What serde refuses and JavaScript takes is mended
/// into `repaired` and read again: half a surrogate pair, and a key that is in
/// an object twice, of which the last counts.
///
/// # Errors
/// If it is no JSON, or not of this shape.
pub fn parse<'a, T: Deserialize<'a>>(json: &'a str, repaired: &'a mut String) -> serde_json::Result<T> {
    serde_json::from_str(json).or_else(|_| {
        *repaired = without_lone_surrogates(json);
        // Read into a map, the last of two equal keys replaces the first.
        *repaired = serde_json::from_str::<Value>(repaired)?.to_string();
        serde_json::from_str(repaired)
    })
}

/// Half a surrogate pair, which is written where a text was cut in the middle
/// of a character, becomes U+FFFD; serde takes no such JSON.
pub fn without_lone_surrogates(json: &str) -> String {
    let mut repaired = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        repaired.push_str(before);
        let unit = |text: &str| text.strip_prefix("\\u").and_then(|hex| u16::from_str_radix(hex.get(..4)?, 16).ok());
        let take = match unit(escape) {
            Some(0xd800..=0xdbff) if matches!(escape.get(6..).and_then(unit), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                repaired.push_str("\\ufffd");
                rest = &escape[6..];
                continue;
            }
            Some(_) => 6,
            None => 1 + escape[1..].chars().next().map_or(0, char::len_utf8),
        };
        repaired.push_str(&escape[..take]);
        rest = &escape[take..];
    }
    repaired.push_str(rest);
    repaired
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_surrogate_pair_is_replaced_and_nothing_else() {
        for (json, repaired) in [
            (r#"["\ud83d"]"#, r#"["\ufffd"]"#),
            (r#"["\udd80\ud83e\udd80\ud83d\n"]"#, r#"["\ufffd\ud83e\udd80\ufffd\n"]"#),
            (r#"["\\ud83d\"\u0041é🦀"]"#, r#"["\\ud83d\"\u0041é🦀"]"#),
            (r#"["\ud83d\u0041"]"#, r#"["\ufffd\u0041"]"#),
        ] {
            assert_eq!(without_lone_surrogates(json), repaired);
            assert!(serde_json::from_str::<Value>(repaired).is_ok());
        }
    }

    #[test]
    fn texts_are_borrowed_and_all_else_is_told_apart() {
        let read = |json| serde_json::from_str::<Content<'_>>(json).expect(json);
        assert!(matches!(read(r#""plain ü""#), Content::Text(Cow::Borrowed("plain ü"))));
        assert_eq!(read(r#""\u0041\n""#), Content::Text("A\n".into()));
        assert_eq!(
            read(r#"[{"text":"a"},{"thinking":[{"text":"t"},5]},{"thinking":6},{"text":5},{"text":"b"}]"#),
            Content::Parts { text: "ab".to_owned(), thoughts: "t".to_owned() }
        );
        for other in ["1", "-1", "1.5", "true", "{}", r#"{"text":"a"}"#] {
            assert_eq!(read(other), Content::Other, "{other}");
        }
        assert!(serde_json::from_str::<Content<'_>>("[1]").is_err());
    }
}
