//! An OpenAPI document → the functions a model may call, and how each is
//! carried out.

use std::collections::HashSet;

use percent_encoding::percent_decode_str;
use reqwest::Method;
use serde_json::{Map, Value, json};

/// One operation of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The function's name: the `operationId`, or one made of method and path.
    pub name: String,
    /// What the model is told of it, in OpenAI's form.
    pub function: Value,
    /// The server's URL, as the document says it.
    pub server: String,
    /// With `{parameters}` in it.
    pub path: String,
    /// As the document says.
    pub method: Method,
    /// The names of the parameters that go into the query, where there is a
    /// body. (Without one all do.)
    pub query: Vec<String>,
    /// Whether it takes a JSON body.
    pub has_body: bool,
}

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// References that lead to references, and so on: a document that needs more
/// nodes than this once they are all followed is refused.
const MAX_NODES: usize = 50_000;
const MAX_DEPTH: usize = 64;

/// Reads a document's operations.
///
/// Differs: references to other parts of the document are followed (the
/// original refuses the document); each operation is called by its own method
/// (the original posts to all if the first one has a body); parameters of a
/// path hold for all of its operations.
///
/// # Errors
/// A sentence about what is wrong; nothing of the document is used then.
pub fn operations(schema: &Value) -> Result<Vec<Operation>, String> {
    let parsed;
    let document = match schema {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text).map_err(|_| "it is not JSON".to_owned())?;
            &parsed
        }
        other => other,
    };
    if !document["info"].is_object() {
        return Err("it has no info".to_owned());
    }
    let server = document["servers"][0]["url"].as_str().ok_or("it has no server with a URL")?;
    let paths = document["paths"].as_object().ok_or("it has no paths")?;
    let mut operations = Vec::new();
    let mut nodes = 0;
    for (path, item) in paths {
        let item = resolve(document, item, 0, &mut nodes)?;
        for method in METHODS {
            let Some(operation) = item[method.as_str().to_lowercase()].as_object() else {
                continue;
            };
            operations.push(read(server, path, method, operation, &item["parameters"]));
        }
    }
    if operations.is_empty() {
        return Err("it has no operations".to_owned());
    }
    Ok(operations)
}

fn read(server: &str, path: &str, method: Method, operation: &Map<String, Value>, shared: &Value) -> Operation {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    // A parameter of the operation stands in for one of the path.
    let own = list(operation.get("parameters"));
    let own_names: HashSet<&str> = own.iter().filter_map(|parameter| parameter["name"].as_str()).collect();
    let shared = list(Some(shared));
    let shared =
        shared.iter().filter(|parameter| parameter["name"].as_str().is_some_and(|name| !own_names.contains(name)));
    let parameters: Vec<&Value> = shared.chain(&own).collect();

    let mut properties = Map::new();
    let body = operation.get("requestBody").map(|body| &body["content"]["application/json"]["schema"]);
    if let Some(schema) = body.filter(|schema| !schema.is_null()) {
        properties.insert("requestBody".to_owned(), schema.clone());
    }
    let schemas: Map<String, Value> = parameters
        .iter()
        .filter(|parameter| !parameter["schema"].is_null())
        .filter_map(|parameter| Some((parameter["name"].as_str()?.to_owned(), parameter["schema"].clone())))
        .collect();
    if !parameters.is_empty() {
        properties.insert("parameters".to_owned(), json!({ "type": "object", "properties": schemas }));
    }
    let words = |name: &str| operation.get(name).and_then(Value::as_str).filter(|words| !words.is_empty());
    let name = words("operationId").map_or_else(|| made_up_name(&method, path), str::to_owned);
    let function = json!({
        "type": "function",
        "function": {
            "name": name,
            "description": words("description").or(words("summary")).unwrap_or_default(),
            "parameters": { "type": "object", "properties": properties },
        },
    });
    let query = parameters
        .iter()
        .filter(|parameter| parameter["in"] == "query")
        .filter_map(|parameter| parameter["name"].as_str());
    Operation {
        query: query.map(str::to_owned).collect(),
        has_body: operation.contains_key("requestBody"),
        name,
        function,
        server: server.to_owned(),
        path: path.to_owned(),
        method,
    }
}

/// Differs: without an `operationId` the original sends no name, which OpenAI
/// refuses.
fn made_up_name(method: &Method, path: &str) -> String {
    let words = path.split(|character: char| !character.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name: Vec<String> = std::iter::once(method.as_str().to_lowercase()).chain(words.map(str::to_owned)).collect();
    name.join("_").chars().take(64).collect()
}

/// A copy of `value` with every reference followed.
fn resolve(document: &Value, value: &Value, depth: usize, nodes: &mut usize) -> Result<Value, String> {
    *nodes += 1;
    if *nodes > MAX_NODES || depth > MAX_DEPTH {
        return Err("it refers to itself, or is too large".to_owned());
    }
    Ok(match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                let target = follow(document, reference).ok_or("it refers to something that it does not have")?;
                return resolve(document, target, depth + 1, nodes);
            }
            let members =
                object.iter().map(|(name, member)| Ok((name.clone(), resolve(document, member, depth + 1, nodes)?)));
            Value::Object(members.collect::<Result<_, String>>()?)
        }
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| resolve(document, item, depth + 1, nodes)).collect::<Result<_, _>>()?)
        }
        scalar => scalar.clone(),
    })
}

/// `#/components/schemas/X`: a JSON pointer, percent-encoded, in the document.
fn follow<'a>(document: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = percent_decode_str(reference.strip_prefix('#')?).decode_utf8().ok()?;
    document.pointer(&pointer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document(paths: Value, more: Value) -> Value {
        let mut document = json!({ "info": {}, "servers": [{ "url": "http://h" }], "paths": paths });
        if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
            document.extend(more);
        }
        document
    }

    #[test]
    fn an_operation_becomes_a_function() {
        let get = json!({ "operationId": "getW", "summary": "S", "parameters": [
            { "name": "city", "in": "path", "schema": { "type": "string" } }, { "name": "unit", "in": "query", "schema": { "enum": ["C"] } }] });
        let post = json!({ "operationId": "add", "description": "D", "requestBody": { "content": { "application/json": { "schema": { "type": "object" } } } } });
        let document = document(json!({ "/w/{city}": { "get": get, "post": post } }), json!({}));
        let operations = operations(&document.to_string().into()).expect("operations");
        let [get, post] = operations.as_slice() else { panic!("two") };
        assert_eq!((get.method.clone(), get.path.as_str(), get.has_body), (Method::GET, "/w/{city}", false));
        assert_eq!(get.query, ["unit"]);
        assert_eq!(
            get.function["function"],
            json!({ "name": "getW", "description": "S", "parameters": { "type": "object", "properties": {
            "parameters": { "type": "object", "properties": { "city": { "type": "string" }, "unit": { "enum": ["C"] } } } } } })
        );
        assert_eq!((post.method.clone(), post.has_body), (Method::POST, true));
        assert_eq!(
            post.function["function"]["parameters"]["properties"],
            json!({ "requestBody": { "type": "object" } })
        );
    }

    #[test]
    fn references_are_followed() {
        let paths = json!({ "/x": { "parameters": [{ "$ref": "#/components/parameters/P~1Q" }], "get": {}, "delete": { "parameters": [{ "name": "p", "schema": { "type": "number" } }] } } });
        let components = json!({ "components": { "parameters": { "P/Q": { "name": "p", "schema": { "$ref": "#/components/schemas/S%20T" } } }, "schemas": { "S T": { "type": "string" } } } });
        let operations = operations(&document(paths, components)).expect("operations");
        let schema = |index: usize| {
            operations[index].function["function"]["parameters"]["properties"]["parameters"]["properties"]["p"]["type"]
                .clone()
        };
        assert_eq!((operations[0].name.as_str(), schema(0)), ("get_x", json!("string")));
        assert_eq!((operations[1].name.as_str(), schema(1)), ("delete_x", json!("number")));
    }

    #[test]
    fn documents_that_cannot_be_used_say_why() {
        let cyclic = document(json!({ "/x": { "get": { "$ref": "#/paths/~1x/get" } } }), json!({}));
        let double = |name: &str, next: &str| {
            (name.to_owned(), json!({ "a": { "$ref": format!("#/{next}") }, "b": { "$ref": format!("#/{next}") } }))
        };
        let names: Vec<String> = (0..60).map(|number| format!("n{number}")).collect();
        let bomb: Map<String, Value> =
            names.windows(2).map(|pair| double(&pair[0], &pair[1])).chain([("n59".to_owned(), json!(1))]).collect();
        let bomb = document(json!({ "/x": { "get": { "$ref": "#/n0" } } }), bomb.into());
        for (schema, words) in [
            (json!("not json"), "not JSON"),
            (Value::Null, "no info"),
            (json!({ "info": {} }), "no server"),
            (document(json!(7), json!({})), "no paths"),
            (document(json!({ "/x": { "parameters": [] } }), json!({})), "no operations"),
            (
                document(json!({ "/x": { "get": { "parameters": [{ "$ref": "#/nowhere" }] } } }), json!({})),
                "does not have",
            ),
            (document(json!({ "/x": { "$ref": "http://h/other.json" } }), json!({})), "does not have"),
            (cyclic, "itself"),
            (bomb, "too large"),
        ] {
            let problem = operations(&schema).expect_err(words);
            assert!(problem.contains(words), "{problem}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            "[a-z#/$~%]{0,12}".prop_map(Value::from),
            any::<i64>().prop_map(Value::from)
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            let name = prop::sample::select(vec![
                "info",
                "servers",
                "url",
                "paths",
                "/x/{y}",
                "get",
                "post",
                "parameters",
                "schema",
                "name",
                "in",
                "requestBody",
                "content",
                "application/json",
                "$ref",
                "operationId",
                "#",
            ]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name, inner), 0..6).prop_map(|members| members
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<Map<_, _>>()
                    .into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_is_read_or_refused(paths in any_json(), more in any_json(), text in "\\PC{0,80}") {
            let _ = operations(&document(paths, more.clone()));
            let _ = operations(&more);
            let _ = operations(&text.into());
        }
    }
}
