//! The arguments that a model gives, as they are written: numbers keep their
//! digits, beyond what a double can hold.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// One value, taken apart by one level.
#[derive(Debug)]
pub enum Argument<'a> {
    /// Not given.
    Null,
    /// A text, number or boolean, as text.
    Scalar(Cow<'a, str>),
    /// A list.
    List(Vec<&'a RawValue>),
    /// An object.
    Object(Members<'a>),
}

/// The members of an object in their order; the last of equal names counts.
#[derive(Debug, Default)]
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The members of `raw`; none if it is no object.
    pub fn of(raw: &'a RawValue) -> Self {
        serde_json::from_str(raw.get()).unwrap_or_default()
    }

    /// A member, unless it is missing or null.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().rev().find(|(member, _)| member == name);
        found.map(|(_, value)| *value).filter(|value| value.get() != "null")
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

impl<'a> Argument<'a> {
    /// Takes a value apart.
    pub fn of(raw: &'a RawValue) -> Self {
        match raw.get().as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b'[') => Self::List(serde_json::from_str(raw.get()).unwrap_or_default()),
            Some(b'{') => Self::Object(Members::of(raw)),
            _ => Self::Scalar(text(raw)),
        }
    }
}

/// A value as text: a string without its quotes, all else as its JSON.
pub fn text(raw: &RawValue) -> Cow<'_, str> {
    if raw.get().starts_with('"') {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        if let Ok(Text(text)) = serde_json::from_str(raw.get()) {
            return text;
        }
    }
    Cow::Borrowed(raw.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).expect("JSON")
    }

    #[test]
    fn values_keep_their_digits() {
        for (json, written) in [
            ("1234567890123456789012345678901234567890", "1234567890123456789012345678901234567890"),
            ("1.10", "1.10"),
            ("true", "true"),
            (r#""a\nb \u00e9 \"""#, "a\nb é \""),
        ] {
            assert!(matches!(Argument::of(raw(json)), Argument::Scalar(text) if text == written), "{json}");
        }
        assert!(matches!(Argument::of(raw("null")), Argument::Null));
        assert!(matches!(Argument::of(raw("[1, 2.50]")), Argument::List(list) if list[1].get() == "2.50"));
    }

    #[test]
    fn the_last_of_equal_members_counts_and_null_is_none() {
        let members = Members::of(raw(r#"{"a": 1, "b": null, "a": 2}"#));
        assert_eq!(members.get("a").map(RawValue::get), Some("2"));
        assert!(members.get("b").is_none() && members.get("c").is_none());
        assert!(Members::of(raw("[1]")).0.is_empty());
    }
}
