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

/// How much the documents of one request may grow to once their references
/// are followed: the parts that references repeat count each time.
#[derive(Debug)]
pub struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(50_000)
    }
}

const MAX_DEPTH: usize = 64;

/// Reads a document's operations. One that cannot be used is left out.
///
/// Differs: references to other parts of the document are followed (the
/// original refuses the document); each operation is called by its own method
/// (the original posts to all if the first one has a body); parameters of a
/// path hold for all of its operations.
///
/// # Errors
/// A sentence about what is wrong; nothing of the document is used then.
pub fn operations(schema: &Value, budget: &mut Budget) -> Result<Vec<Operation>, String> {
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
    let mut problem = "it has no operations".to_owned();
    for (path, item) in paths {
        for method in METHODS {
            match operation(document, server, path, item, method, budget) {
                Ok(operation) => operations.extend(operation),
                Err(reason) => problem = reason,
            }
        }
    }
    if operations.is_empty() { Err(problem) } else { Ok(operations) }
}

/// One method of a path, if the document has it.
fn operation(
    document: &Value,
    server: &str,
    path: &str,
    item: &Value,
    method: Method,
    budget: &mut Budget,
) -> Result<Option<Operation>, String> {
    let item = followed(document, item)?;
    let Some(operation) = item.get(method.as_str().to_lowercase()) else { return Ok(None) };
    let Some(operation) = followed(document, operation)?.as_object() else { return Ok(None) };
    let shared = parameters(document, item.get("parameters"), budget)?;
    let own = parameters(document, operation.get("parameters"), budget)?;
    let body = match operation.get("requestBody") {
        Some(body) => {
            let schema = &followed(document, body)?["content"]["application/json"]["schema"];
            Some(resolve(document, schema, &mut Vec::new(), 0, budget)?)
        }
        None => None,
    };
    Ok(Some(read(server, path, method, operation, (shared, own), body)))
}

fn parameters(document: &Value, list: Option<&Value>, budget: &mut Budget) -> Result<Vec<Value>, String> {
    let list = list.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter()
        .map(|parameter| {
            let parameter = followed(document, parameter)?;
            let schema = resolve(document, &parameter["schema"], &mut Vec::new(), 0, budget)?;
            Ok(json!({ "name": parameter["name"], "in": parameter["in"], "schema": schema }))
        })
        .collect()
}

fn read(
    server: &str,
    path: &str,
    method: Method,
    operation: &Map<String, Value>,
    (shared, own): (Vec<Value>, Vec<Value>),
    body: Option<Value>,
) -> Operation {
    // A parameter of the operation stands in for one of the path.
    let own_names: HashSet<&str> = own.iter().filter_map(|parameter| parameter["name"].as_str()).collect();
    let is_own = |parameter: &&Value| parameter["name"].as_str().is_none_or(|name| own_names.contains(name));
    let parameters: Vec<&Value> = shared.iter().filter(|parameter| !is_own(parameter)).chain(&own).collect();

    let mut properties = Map::new();
    let has_body = body.is_some();
    if let Some(schema) = body.filter(|schema| !schema.is_null()) {
        properties.insert("requestBody".to_owned(), schema);
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
        has_body,
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

/// What `value` refers to, if it is a reference, and what that refers to.
fn followed<'a>(document: &'a Value, mut value: &'a Value) -> Result<&'a Value, String> {
    for _ in 0..MAX_DEPTH {
        match value.get("$ref").and_then(Value::as_str) {
            Some(reference) => value = follow(document, reference).ok_or(NOWHERE)?,
            None => return Ok(value),
        }
    }
    Err("it refers to itself".to_owned())
}

const NOWHERE: &str = "it refers to something that it does not have";

/// A copy of a schema with every reference followed. Where one leads back into
/// itself, as in a tree, anything may stand.
fn resolve<'a>(
    document: &'a Value,
    value: &'a Value,
    inside: &mut Vec<&'a str>,
    depth: usize,
    budget: &mut Budget,
) -> Result<Value, String> {
    budget.0 = budget.0.checked_sub(1).filter(|_| depth < MAX_DEPTH).ok_or("it is too large")?;
    Ok(match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                if inside.contains(&reference.as_str()) {
                    return Ok(json!({}));
                }
                let target = follow(document, reference).ok_or(NOWHERE)?;
                inside.push(reference);
                let resolved = resolve(document, target, inside, depth + 1, budget);
                inside.pop();
                return resolved;
            }
            let mut members = Map::new();
            for (name, member) in object {
                members.insert(name.clone(), resolve(document, member, inside, depth + 1, budget)?);
            }
            Value::Object(members)
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| resolve(document, item, inside, depth + 1, budget));
            Value::Array(items.collect::<Result<_, _>>()?)
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

    fn operations(schema: &Value) -> Result<Vec<Operation>, String> {
        super::operations(schema, &mut Budget::default())
    }

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
            (document(json!({ "/x": { "get": { "$ref": "#/paths/~1x/get" } } }), json!({})), "itself"),
        ] {
            let problem = operations(&schema).expect_err(words);
            assert!(problem.contains(words), "{problem}");
        }
    }

    fn with_schema(schema: Value) -> Value {
        json!({ "requestBody": { "content": { "application/json": { "schema": schema } } } })
    }

    #[test]
    fn what_leads_back_into_itself_ends_there() {
        let node =
            json!({ "type": "object", "properties": { "children": { "items": { "$ref": "#/components/Node" } } } });
        let responses = json!({ "responses": { "200": { "$ref": "#/nowhere" } } });
        let paths = json!({ "/a": { "post": with_schema(json!({ "$ref": "#/components/Node" })), "get": responses }, "/b": { "get": { "parameters": [{ "$ref": "#/no" }] } } });
        let operations = operations(&document(paths, json!({ "components": { "Node": node } }))).expect("operations");
        assert_eq!(
            operations.iter().map(|operation| operation.name.as_str()).collect::<Vec<_>>(),
            ["get_a", "post_a"],
            "one is left out"
        );
        let body = &operations[1].function["function"]["parameters"]["properties"]["requestBody"];
        assert_eq!(body["properties"]["children"]["items"], json!({}));
    }

    #[test]
    fn the_documents_of_one_request_share_their_room() {
        let double =
            |next: usize| json!({ "a": { "$ref": format!("#/n{next}") }, "b": { "$ref": format!("#/n{next}") } });
        let chain: Map<String, Value> = (0..13)
            .map(|number| (format!("n{number}"), double(number + 1)))
            .chain([("n13".to_owned(), json!(1))])
            .collect();
        let document = document(json!({ "/x": { "post": with_schema(json!({ "$ref": "#/n0" })) } }), chain.into());
        let mut budget = Budget::default();
        let read = (0..50).filter(|_| super::operations(&document, &mut budget).is_ok()).count();
        assert!((1..=2).contains(&read), "{read}");
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
