//! The members of a JSON object as they stand, in their order.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// A JSON object of which only the names are read. Without `Debug`, as it
/// holds the prompt.
#[derive(Default)]
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Returns a member's value.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, value)| *value)
    }

    /// Removes a member.
    pub fn remove(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.0.iter().position(|(member, _)| member == name)?;
        Some(self.0.remove(at).1)
    }

    /// Sets a member where it stands, or at the end.
    pub fn set(&mut self, name: &str, value: &'a RawValue) {
        match self.0.iter_mut().find(|(member, _)| member == name) {
            Some(member) => member.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(member) = map.next_entry()? {
                    members.0.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Each)
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_its_order_and_what_is_not_touched() {
        let json = r#"{"b":1.50,"a":{"x":[ 1 ]},"c":"\u0041"}"#;
        let mut members: Members<'_> = serde_json::from_str(json).expect("an object");
        assert_eq!(serde_json::to_string(&members).expect("JSON"), json);
        let two = RawValue::from_string("2".to_owned()).expect("JSON");
        members.set("b", &two);
        members.set("d", &two);
        assert_eq!(members.remove("a").map(RawValue::get), Some(r#"{"x":[ 1 ]}"#));
        assert!(members.remove("a").is_none());
        assert_eq!(serde_json::to_string(&members).expect("JSON"), r#"{"b":2,"c":"\u0041","d":2}"#);
    }
}
