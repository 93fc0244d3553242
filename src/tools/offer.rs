//! The functions of a turn: what the selected tools' documents offer to the
//! model, and which tools or operations are left out, and why.

use std::sync::Arc;

use reqwest::{Method, header::HeaderMap};
use serde_json::{Map, Value, json, value::RawValue};
use url::Url;

use super::{
    body::{self, Body},
    budget::{Budget, Exhausted},
    document::Document,
    headers,
    names::{Names, made_up},
    parameter::{self, Parameter},
    references::followed,
    schema, server,
};

/// The most functions that providers take.
pub const MAX_FUNCTIONS: usize = 128;
/// The most tools of a turn.
pub const MAX_TOOLS: usize = 64;
/// Bytes of schemas that all functions share, about: models read no more.
const ROOM: usize = 512 * 1024;
/// The most of it for one function, and the least.
const FUNCTION_ROOM: (usize, usize) = (32 * 1024, 4 * 1024);
/// The most characters of a tool's name that are shown.
const MAX_NAME: usize = 100;

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// A selected tool. Without `Debug`: its headers hold keys.
pub struct Tool {
    /// Its name, for sentences.
    pub name: String,
    /// Its document, or why there is none.
    pub document: Result<String, String>,
    /// Its document's own address, if it was fetched.
    pub location: Option<Url>,
    /// Its headers: a JSON object, mostly as text.
    pub headers: Option<Box<RawValue>>,
}

/// A function that the model may call. Without `Debug`: its headers hold keys.
pub struct Function {
    /// Unique in a turn.
    pub name: String,
    /// At most 1,024 characters.
    pub description: String,
    /// JSON Schema of its arguments: `{"parameters": {…}, "requestBody": …}`.
    pub schema: Value,
    /// How it is carried out.
    pub operation: Operation,
    /// Its tool's headers.
    pub headers: Arc<HeaderMap>,
    /// Its tool's name.
    pub tool: Arc<str>,
}

/// A request to be filled in.
#[derive(Debug)]
pub struct Operation {
    /// The method.
    pub method: Method,
    /// A full URL, maybe with a query, without a slash at its end.
    pub server: String,
    /// Begins with a slash; has names in braces, maybe a query.
    pub path: String,
    /// All parameters outside the body.
    pub parameters: Vec<Parameter>,
    /// The body, if it takes one.
    pub body: Option<Body>,
}

/// The functions of a turn.
#[derive(Default)]
pub struct Offer {
    /// At most [`MAX_FUNCTIONS`].
    pub functions: Vec<Function>,
    /// A sentence for each tool that cannot be used.
    pub unusable: Vec<String>,
    /// A sentence for each tool that is used in part.
    pub partial: Vec<String>,
}

/// An operation that could become a function.
struct Candidate<'a> {
    method: Method,
    path: &'a str,
    item: &'a Value,
    operation: &'a Value,
    server: String,
}

/// A tool whose document and headers are read.
struct Read {
    name: Arc<str>,
    document: Document,
    location: Option<Url>,
    headers: Arc<HeaderMap>,
}

/// Reads the tools' documents and offers their operations. If there are too
/// many, the largest documents give up theirs first.
pub fn offer(tools: Vec<Tool>, mut names: Names, mut budget: Budget) -> Offer {
    let mut offer = Offer::default();
    let budget = &mut budget;
    let mut read = Vec::new();
    for (number, tool) in tools.into_iter().enumerate() {
        let name: String = tool.name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        let document = if number < MAX_TOOLS {
            tool.document.and_then(|text| Document::read(&text, budget))
        } else {
            Err(format!("there are more than {MAX_TOOLS} tools"))
        };
        let headers = tool.headers;
        let headers = || headers.map_or(Ok(HeaderMap::new()), |headers| headers::custom(&headers));
        match document.and_then(|document| Ok((document, headers()?))) {
            Ok((document, headers)) => {
                read.push(Read { name: name.into(), document, location: tool.location, headers: headers.into() })
            }
            Err(reason) => offer.unusable.push(unusable(&name, &reason)),
        }
    }
    let mut candidates = Vec::new();
    for tool in &read {
        match found(tool, budget) {
            Ok((found, all)) => candidates.push((tool, found, all)),
            Err(reason) => offer.unusable.push(unusable(&tool.name, &reason)),
        }
    }
    let kept = shares(&candidates.iter().map(|(_, found, _)| found.len()).collect::<Vec<_>>());
    let total: usize = kept.iter().sum();
    let room = (ROOM / total.max(1)).clamp(FUNCTION_ROOM.1, FUNCTION_ROOM.0);
    for ((tool, found, all), kept) in candidates.into_iter().zip(kept) {
        let functions: Result<Vec<Function>, Exhausted> =
            found.iter().take(kept).map(|candidate| function(tool, candidate, &mut names, room, budget)).collect();
        match functions {
            Ok(functions) => {
                if kept < all {
                    offer.partial.push(format!(
                        "The tool {} has {all} operations; the first {kept} are offered, because a model takes {MAX_FUNCTIONS} functions at most.",
                        quoted(&tool.name)
                    ));
                }
                offer.functions.extend(functions);
            }
            Err(exhausted) => offer.unusable.push(unusable(&tool.name, &exhausted.to_string())),
        }
    }
    offer
}

/// A sentence about a tool that cannot be used.
pub fn unusable(name: &str, reason: &str) -> String {
    format!("The tool {} cannot be used: {reason}.", quoted(name))
}

fn quoted(name: &str) -> String {
    if name.is_empty() { "without a name".to_owned() } else { format!("\"{name}\"") }
}

/// The operations of a document that can be called, at most
/// [`MAX_FUNCTIONS`], and how many there are.
fn found<'a>(tool: &'a Read, budget: &mut Budget) -> Result<(Vec<Candidate<'a>>, usize), String> {
    let root = &tool.document.root;
    let mut found = Vec::new();
    let mut all = 0;
    let mut problem = "it has no operations".to_owned();
    for (path, item) in root["paths"].as_object().into_iter().flatten() {
        budget.steps(2).map_err(|exhausted| exhausted.to_string())?;
        if path.starts_with("x-") {
            continue;
        }
        if path.len() > server::MAX_URL {
            problem = format!("its paths have more than {} bytes", server::MAX_URL);
            continue;
        }
        let Some(item) = followed(root, item, budget).map_err(|exhausted| exhausted.to_string())? else {
            problem = "its paths lie in other documents: paste one that has all of it".to_owned();
            continue;
        };
        for method in METHODS {
            let Some(operation) = item.get(method.as_str().to_ascii_lowercase()) else { continue };
            budget.steps(1).map_err(|exhausted| exhausted.to_string())?;
            let Some(operation) = followed(root, operation, budget).map_err(|exhausted| exhausted.to_string())? else {
                continue;
            };
            if !operation.is_object() {
                continue;
            }
            match server::address(&tool.document, item, operation, tool.location.as_ref(), budget) {
                Ok(server) => {
                    all += 1;
                    if found.len() < MAX_FUNCTIONS {
                        found.push(Candidate { method, path, item, operation, server });
                    }
                }
                Err(reason) => problem = reason,
            }
        }
    }
    if found.is_empty() { Err(problem) } else { Ok((found, all)) }
}

/// How many operations of each document are kept, so that they are
/// [`MAX_FUNCTIONS`] at most and small documents stay whole.
fn shares(sizes: &[usize]) -> Vec<usize> {
    let mut most = MAX_FUNCTIONS;
    while most > 1 && sizes.iter().map(|size| (*size).min(most)).sum::<usize>() > MAX_FUNCTIONS {
        most -= 1;
    }
    let mut shares: Vec<usize> = sizes.iter().map(|size| (*size).min(most)).collect();
    // What is left over is the first documents'.
    let mut left = MAX_FUNCTIONS.saturating_sub(shares.iter().sum());
    for (share, size) in shares.iter_mut().zip(sizes) {
        if *share < *size && left > 0 {
            *share += 1;
            left -= 1;
        }
    }
    shares
}

fn function(
    tool: &Read,
    candidate: &Candidate<'_>,
    names: &mut Names,
    room: usize,
    budget: &mut Budget,
) -> Result<Function, Exhausted> {
    let Candidate { method, path, item, operation, server } = candidate;
    let words = |name: &str| operation[name].as_str().map(str::trim).filter(|words| !words.is_empty());
    let listed = parameter::listed(&tool.document, item, operation, budget)?;
    let is_set = |name: &str| tool.headers.contains_key(name);
    let parameters = parameter::read(&tool.document, &listed, path, is_set, room, budget)?;
    let body = match *method {
        // A body beside GET has no meaning, and some servers refuse it.
        Method::GET => None,
        _ => body::read(&tool.document, operation, &listed, room, budget)?,
    };
    budget.copy(server.len() + path.len() + schema::MAX_DESCRIPTION)?;
    let name = names.unique(&words("operationId").map_or_else(|| made_up(method.as_str(), path), str::to_owned));
    let path = if path.starts_with('/') { (*path).to_owned() } else { format!("/{path}") };
    let operation = Operation { method: method.clone(), server: server.clone(), path, parameters, body };
    let description = schema::cut(words("description").or(words("summary")).unwrap_or_default());
    Ok(Function {
        name,
        description,
        schema: arguments(&operation),
        operation,
        headers: tool.headers.clone(),
        tool: tool.name.clone(),
    })
}

/// The schema of a function's arguments, in the original's form.
fn arguments(operation: &Operation) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    if let Some(body) = &operation.body {
        properties.insert("requestBody".to_owned(), body.schema.clone());
        if body.required {
            required.push("requestBody");
        }
    }
    if !operation.parameters.is_empty() {
        let members: Map<String, Value> = operation
            .parameters
            .iter()
            .map(|parameter| (parameter.property.clone(), parameter.schema.clone()))
            .collect();
        let needed: Vec<&str> = operation
            .parameters
            .iter()
            .filter(|parameter| parameter.required)
            .map(|parameter| parameter.property.as_str())
            .collect();
        let mut parameters = json!({ "type": "object", "properties": members });
        if !needed.is_empty() {
            parameters["required"] = needed.into();
            required.push("parameters");
        }
        properties.insert("parameters".to_owned(), parameters);
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tool(name: &str, document: impl ToString) -> Tool {
        Tool { name: name.to_owned(), document: Ok(document.to_string()), location: None, headers: None }
    }

    fn offered(tools: Vec<Tool>) -> Offer {
        offer(tools, Names::default(), Budget::default())
    }

    fn document(paths: Value) -> Value {
        json!({ "openapi": "3.0.0", "info": {}, "servers": [{ "url": "http://h" }], "paths": paths })
    }

    fn many(operations: usize) -> Value {
        document(
            (0..operations).map(|number| (format!("/{number}"), json!({ "get": {} }))).collect::<Map<_, _>>().into(),
        )
    }

    #[test]
    fn an_operation_becomes_a_function() {
        let get = json!({ "operationId": "getW", "summary": "S", "parameters": [
            { "name": "city", "in": "path", "description": "A city", "schema": { "type": "string" } }, { "name": "unit", "in": "query", "schema": { "enum": ["C"] } }] });
        let post = json!({ "description": "D", "requestBody": { "required": true, "content": { "application/json": { "schema": { "type": "object" } } } } });
        let offer = offered(vec![tool("T", document(json!({ "/w/{city}": { "get": get }, "add": { "post": post } })))]);
        let [get, post] = offer.functions.as_slice() else { panic!("two") };
        assert_eq!((get.name.as_str(), get.description.as_str()), ("getW", "S"));
        assert_eq!(
            get.schema,
            json!({ "type": "object", "properties": { "parameters": { "type": "object", "properties": {
                "city": { "type": "string", "description": "A city" }, "unit": { "enum": ["C"] } }, "required": ["city"] } }, "required": ["parameters"] })
        );
        assert_eq!((post.name.as_str(), post.operation.path.as_str()), ("post_add", "/add"));
        assert_eq!(
            post.schema,
            json!({ "type": "object", "properties": { "requestBody": { "type": "object" } }, "required": ["requestBody"] })
        );
    }

    #[test]
    fn names_differ_over_all_tools() {
        let list = || document(json!({ "/x": { "get": { "operationId": "list" } } }));
        let offer = offered(vec![tool("A", list()), tool("B", list())]);
        assert_eq!(
            offer.functions.iter().map(|function| function.name.as_str()).collect::<Vec<_>>(),
            ["list", "list_2"]
        );
    }

    #[test]
    fn a_tool_that_cannot_be_used_is_named_with_the_reason() {
        let headers = RawValue::from_string(r#"{"Host":"x"}"#.to_owned()).expect("JSON");
        let bad_headers = Tool { headers: Some(headers), ..tool("Headers", many(1)) };
        let tools = vec![
            tool("Empty", document(json!({}))),
            tool("Words", "hello"),
            tool("Server", json!({ "openapi": "3.0.0", "paths": { "/x": { "get": {} } } })),
            tool("Elsewhere", document(json!({ "/x": { "$ref": "x.yaml" } }))),
            tool("", document(json!({ "/x": 7 }))),
            bad_headers,
            tool("Good", many(1)),
        ];
        let offer = offered(tools);
        assert_eq!(offer.functions.len(), 1);
        for (sentence, (name, words)) in offer.unusable.iter().zip([
            ("\"Words\"", "text or a list"),
            ("\"Headers\"", "`host` cannot be set"),
            ("\"Empty\"", "no operations"),
            ("\"Server\"", "no server"),
            ("\"Elsewhere\"", "other documents"),
            ("without a name", "no operations"),
        ]) {
            assert!(sentence.contains(name) && sentence.contains(words), "{sentence}");
        }
        assert_eq!(offer.unusable.len(), 6);
    }

    #[test]
    fn the_largest_documents_give_up_operations_first() {
        assert_eq!(shares(&[10, 128, 20]), [10, 98, 20]);
        assert_eq!(shares(&[100, 100, 1]), [64, 63, 1]);
        assert_eq!(shares(&[]), Vec::<usize>::new());
        assert_eq!(shares(&[1; 64]).len(), 64);
        let offer = offered(vec![tool("Large", many(300)), tool("Small", many(3))]);
        assert_eq!(offer.functions.len(), MAX_FUNCTIONS);
        assert_eq!(offer.partial.len(), 1);
        assert!(offer.partial[0].contains("\"Large\" has 300 operations; the first 125"), "{}", offer.partial[0]);
    }

    #[test]
    fn documents_made_to_cost_are_refused_soon() {
        let key = |number: usize| format!("{number:02}{}", "k".repeat(2000));
        let mut chain: Map<String, Value> =
            (0..62).map(|number| (key(number), json!({ "$ref": format!("#/x/{}", key(number + 1)) }))).collect();
        chain.insert(key(62), json!({ "get": {} }));
        let paths: Map<String, Value> =
            (0..60_000).map(|number| (format!("/{number}"), json!({ "$ref": "#/s" }))).collect();
        let mut references = document(paths.into());
        references["s"] = json!({ "$ref": format!("#/x/{}", key(0)) });
        references["x"] = chain.into();
        let started = std::time::Instant::now();
        let offer = offered(vec![tool("T", references)]);
        assert!(offer.functions.is_empty() && offer.unusable[0].contains("too large"), "{:?}", offer.unusable);
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            "[a-z#/$~%{}]{0,12}".prop_map(Value::from),
            any::<i64>().prop_map(Value::from)
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            let name = prop::sample::select(vec![
                "servers",
                "url",
                "variables",
                "paths",
                "/x/{y}",
                "get",
                "post",
                "parameters",
                "schema",
                "name",
                "in",
                "type",
                "items",
                "requestBody",
                "content",
                "application/json",
                "multipart/form-data",
                "$ref",
                "operationId",
                "allOf",
                "properties",
                "required",
                "host",
                "consumes",
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
            for document in [document(paths.clone()).to_string(), more.to_string(), json!({ "swagger": "2.0", "host": "h", "paths": { "/x/{y}": paths } }).to_string(), text] {
                let offer = offered(vec![tool("T", document)]);
                prop_assert_eq!(offer.functions.is_empty(), !offer.unusable.is_empty());
            }
        }
    }
}
