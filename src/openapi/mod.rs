//! The API's description: an OpenAPI document, written by hand in `document.json`, and an HTML page generated from it
//! ([`page`]). `version_3_0` is the same in an older version of OpenAPI.
//!
//! By hand, because the important parts (sentences, examples, the meaning of each status) are not part of any type; a
//! test compares it with the route table.

pub mod page;
mod version_3_0;

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::llm::providers::PROVIDERS;

/// The chat route that `document.json` describes in full, as the template for all providers in [`PROVIDERS`].
const EXAMPLE: &str = "/api/chat/openai";

/// Returns the document.
///
/// # Panics
/// If `document.json` is not a JSON object; a test reads it.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        #[expect(clippy::expect_used, reason = "it is part of the program, and a test reads it")]
        let mut document: Value = serde_json::from_str(include_str!("document.json")).expect("JSON");
        document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
        add_providers(&mut document["paths"]);
        document
    });
    &DOCUMENT
}

/// Returns the document in OpenAPI 3.0, as JSON text.
pub fn text_3_0() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| version_3_0::version_3_0(document()).to_string());
    &TEXT
}

/// Returns the document as JSON text.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    &TEXT
}

fn add_providers(paths: &mut Value) {
    let rest = paths.as_object_mut().map(std::mem::take).unwrap_or_default();
    for (path, item) in rest {
        paths[&path] = item.clone();
        if path != EXAMPLE {
            continue;
        }
        for provider in &PROVIDERS {
            let mut item = item.clone();
            let operation = &mut item["post"];
            for (member, text) in [
                ("operationId", format!("chat{}", provider.name)),
                ("summary", format!("A chat with a model of {}", provider.name)),
                (
                    "description",
                    format!(
                        "Needs the user's key for {}, in the profile or in the server's environment. `messages` is passed on unchanged.",
                        provider.name
                    ),
                ),
            ] {
                operation[member] = text.into();
            }
            paths[format!("/api/chat/{}", provider.path)] = item;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::http::table::{self, Access};

    /// Returns method and path of each operation, and its access rule.
    fn operations() -> BTreeMap<(String, String), Access> {
        let paths = document()["paths"].as_object().expect("paths");
        let operations = paths.iter().flat_map(|(path, item)| {
            item.as_object().expect("an item").iter().map(move |(method, operation)| {
                let ways = operation["security"].as_array().expect("security stands with every operation");
                let access = if ways.is_empty() { Access::Anyone } else { Access::User };
                ((method.to_uppercase(), path.clone()), access)
            })
        });
        operations.collect()
    }

    #[test]
    fn the_document_and_the_route_table_are_of_one_mind() {
        let mut described = operations();
        // The one route with a second method.
        assert_eq!(
            described.remove(&("OPTIONS".to_owned(), "/api/assistants/openai".to_owned())),
            Some(Access::Anyone)
        );
        let table: BTreeMap<_, _> =
            table::table().into_iter().map(|row| ((row.method.to_string(), row.path), row.access)).collect();
        assert_eq!(described, table);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(reference)) = members.get("$ref") {
                        let pointer = reference.strip_prefix('#').expect("within the document");
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    members.values().for_each(|value| walk(value, document));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, document)),
                _ => {}
            }
        }
        walk(document(), document());
    }

    #[test]
    fn a_bearer_may_be_refused_where_a_session_is_needed() {
        for (path, item) in document()["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("an item") {
                let needs_session = !operation["security"].as_array().expect("security").is_empty();
                assert_eq!(operation["responses"]["401"].is_object(), needs_session, "{method} {path}");
            }
        }
    }

    /// Every member of an example is described, so that generated clients have it.
    #[test]
    fn examples_have_no_member_that_their_schema_does_not_name() {
        fn fits(value: &Value, schema: &Value, at: &str) {
            let schema = match schema["$ref"].as_str() {
                Some(reference) => document().pointer(&reference[1..]).expect("a schema"),
                None => schema,
            };
            match value {
                Value::Array(items) => items.iter().for_each(|item| fits(item, &schema["items"], at)),
                Value::Object(members) => {
                    for (name, member) in members {
                        let at = format!("{at}.{name}");
                        assert!(schema["properties"][name].is_object(), "{at} is not described");
                        fits(member, &schema["properties"][name], &at);
                    }
                }
                _ => {}
            }
        }
        fn walk(value: &Value, at: &str) {
            if let Some(content) = value["application/json"].as_object() {
                let schema = &content["schema"];
                let named = content.get("examples").and_then(Value::as_object).into_iter().flat_map(|all| all.values());
                named
                    .map(|example| &example["value"])
                    .chain(content.get("example"))
                    .for_each(|it| fits(it, schema, at));
            }
            match value {
                Value::Object(members) => {
                    members.iter().for_each(|(name, member)| walk(member, &format!("{at}/{name}")))
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, at)),
                _ => {}
            }
        }
        walk(document(), "");
    }

    #[test]
    fn a_request_has_one_media_type() {
        fn walk(value: &Value) {
            if let Some(body) = value.get("requestBody").filter(|body| body["$ref"].is_null()) {
                assert_eq!(body["content"].as_object().expect("content").len(), 1, "{body}");
            }
            if let Value::Object(members) = value {
                members.values().for_each(walk);
            }
        }
        walk(document());
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let paths = document()["paths"].as_object().expect("paths");
        let names: Vec<_> = paths
            .values()
            .flat_map(|item| item.as_object().expect("an item").values())
            .map(|operation| operation["operationId"].as_str().expect("a name"))
            .collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    }
}
