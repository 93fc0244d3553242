//! The document in OpenAPI 3.0, for generators that read no newer version.

use serde_json::{Map, Value, json};

/// Rewrites a document of version 3.1 as one of 3.0, which describes the same API: `null` is no type there but
/// `nullable`, a constant is an `enum` of one, and a schema has one `example`.
///
/// <https://spec.openapis.org/oas/v3.0.4.html>
pub fn version_3_0(document: &Value) -> Value {
    let mut document = document.clone();
    rewrite(&mut document);
    let Value::Object(members) = &mut document else { return document };
    members.insert("openapi".to_owned(), json!("3.0.3"));
    members.remove("jsonSchemaDialect");
    let info = members.get_mut("info").and_then(Value::as_object_mut);
    if let Some(info) = info {
        info.remove("summary");
        if let Some(license) = info.get_mut("license").and_then(Value::as_object_mut) {
            license.remove("identifier");
        }
    }
    document
}

fn rewrite(value: &mut Value) {
    match value {
        // An example is a value of the API's, not a part of its description.
        Value::Object(members) => {
            members
                .iter_mut()
                .filter(|(name, _)| !matches!(name.as_str(), "example" | "value"))
                .for_each(|(_, it)| rewrite(it));
            rewrite_schema(members);
        }
        Value::Array(items) => items.iter_mut().for_each(rewrite),
        _ => {}
    }
}

fn rewrite_schema(members: &mut Map<String, Value>) {
    let mut nullable = false;
    if let Some(Value::Array(types)) = members.get_mut("type") {
        nullable |= without(types, &json!("null"));
        if let [only] = types.as_mut_slice() {
            let only = only.take();
            members.insert("type".to_owned(), only);
        }
    }
    for name in ["oneOf", "anyOf"] {
        let Some(Value::Array(schemas)) = members.get_mut(name) else { continue };
        nullable |= without(schemas, &json!({ "type": "null" }));
        // Beside a reference other members are not read.
        if schemas.len() == 1
            && let Some(one) = members.remove(name)
        {
            members.insert("allOf".to_owned(), one);
        }
    }
    if nullable {
        members.insert("nullable".to_owned(), true.into());
    }
    if let Some(only) = members.remove("const") {
        members.insert("enum".to_owned(), json!([only]));
    }
    // Those of a media type are an object.
    if let Some(Value::Array(examples)) = members.get_mut("examples") {
        let first = examples.drain(..).next();
        members.remove("examples");
        members.extend(first.map(|first| ("example".to_owned(), first)));
    }
}

/// Removes `item` and returns whether it was there.
fn without(items: &mut Vec<Value>, item: &Value) -> bool {
    let count = items.len();
    items.retain(|it| it != item);
    items.len() < count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi::document;

    #[test]
    fn a_schema_says_the_same_in_the_older_words() {
        for (newer, older) in [
            (json!({ "type": ["number", "null"] }), json!({ "type": "number", "nullable": true })),
            (
                json!({ "oneOf": [{ "$ref": "#/a" }, { "type": "null" }] }),
                json!({ "allOf": [{ "$ref": "#/a" }], "nullable": true }),
            ),
            (
                json!({ "oneOf": [{ "type": "string" }, { "type": "object" }, { "type": "null" }] }),
                json!({ "oneOf": [{ "type": "string" }, { "type": "object" }], "nullable": true }),
            ),
            (json!({ "const": "no" }), json!({ "enum": ["no"] })),
            (json!({ "examples": ["a", "b"] }), json!({ "example": "a" })),
            (json!({ "example": { "const": "c" } }), json!({ "example": { "const": "c" } })),
            (
                json!({ "examples": { "a": { "value": { "const": 1 } } } }),
                json!({ "examples": { "a": { "value": { "const": 1 } } } }),
            ),
        ] {
            let mut schema = newer;
            rewrite(&mut schema);
            assert_eq!(schema, older);
        }
    }

    #[test]
    fn nothing_of_the_newer_version_is_left() {
        fn walk(value: &Value, at: &str) {
            match value {
                Value::Object(members) => {
                    for (name, member) in members {
                        if matches!(name.as_str(), "example" | "value") {
                            continue;
                        }
                        assert!(!matches!(name.as_str(), "const" | "jsonSchemaDialect" | "identifier"), "{at}.{name}");
                        assert!(name != "type" || at.ends_with("properties") || member.is_string(), "{at}.{name}");
                        walk(member, &format!("{at}.{name}"));
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, at)),
                text => assert_ne!(text, "null", "{at}"),
            }
        }
        let older = version_3_0(document());
        walk(&older, "");
        assert_eq!(older["openapi"], "3.0.3");
        assert_eq!(older["paths"].as_object().map(Map::len), document()["paths"].as_object().map(Map::len));
    }
}
