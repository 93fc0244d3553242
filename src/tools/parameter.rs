//! An operation's parameters: where each goes and how it is written.

use serde_json::{Value, json};

use super::{
    budget::{Budget, Exhausted},
    document::{Document, Version},
    references::followed,
    schema::{self, mended},
    style::Style,
};

/// The most parameters of an operation.
const MAX_PARAMETERS: usize = 200;

/// A parameter of a path, query, header or cookie.
#[derive(Debug)]
pub struct Parameter {
    /// Its name on the wire.
    pub name: String,
    /// Its name among the function's properties.
    pub property: String,
    /// Where it goes.
    pub place: Place,
    /// How a list or an object is written.
    pub style: Style,
    /// Whether each item stands alone.
    pub explode: bool,
    /// Whether a call without it is refused.
    pub required: bool,
    /// For the model.
    pub schema: Value,
}

/// Where a parameter goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// A part of the path.
    Path,
    /// After the question mark.
    Query,
    /// A header.
    Header,
    /// A part of the header `cookie`.
    Cookie,
}

impl Place {
    /// The name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
            Self::Cookie => "cookie",
        }
    }
}

/// The parameter objects of an operation: its own, and the path's that it does
/// not replace. References that lead nowhere are left out.
///
/// # Errors
/// If the budget is used up.
pub fn listed<'a>(
    document: &'a Document,
    item: &'a Value,
    operation: &'a Value,
    budget: &mut Budget,
) -> Result<Vec<&'a Value>, Exhausted> {
    let mut found: Vec<&Value> = Vec::new();
    for owner in [operation, item] {
        let list = owner["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        for parameter in list {
            let Some(parameter) = followed(&document.root, parameter, budget)?.filter(|found| found.is_object()) else {
                continue;
            };
            budget.steps(1 + found.len() / 8)?;
            let is_there = found
                .iter()
                .any(|other| other.get("name") == parameter.get("name") && other.get("in") == parameter.get("in"));
            if !is_there && found.len() < MAX_PARAMETERS {
                found.push(parameter);
            }
        }
    }
    Ok(found)
}

/// Reads the parameters of a path, query, header or cookie, those included
/// that only the path's template names. `is_set` tells the headers that the
/// user sets for every call: the model is not asked for them.
///
/// # Errors
/// If the budget is used up.
pub fn read(
    document: &Document,
    listed: &[&Value],
    path: &str,
    is_set: impl Fn(&str) -> bool,
    room: usize,
    budget: &mut Budget,
) -> Result<Vec<Parameter>, Exhausted> {
    let in_template = names_in(path);
    let mut parameters = Vec::new();
    for parameter in listed {
        let Some(name) = parameter.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
            continue;
        };
        let place = match parameter.get("in").and_then(Value::as_str) {
            Some("path") => Place::Path,
            Some("query") => Place::Query,
            Some("header") => Place::Header,
            Some("cookie") => Place::Cookie,
            Some(_) => continue,
            None if in_template.contains(&name) => Place::Path,
            None => Place::Query,
        };
        let is_left_out = match place {
            Place::Path => !in_template.contains(&name),
            Place::Header => is_set(name) || is_not_the_documents(name),
            Place::Query | Place::Cookie => false,
        };
        if !is_left_out {
            parameters.push(one(document, parameter, name, place, room, budget)?);
        }
    }
    for name in in_template {
        if !parameters.iter().any(|parameter| parameter.place == Place::Path && parameter.name == name) {
            let (style, explode) = (Style::Simple, false);
            let (name, schema) = (name.to_owned(), json!({ "type": "string" }));
            parameters.push(Parameter {
                property: name.clone(),
                name,
                place: Place::Path,
                style,
                explode,
                required: true,
                schema,
            });
        }
    }
    // A name in two places: each bears its place's name too.
    let twice: Vec<bool> = parameters
        .iter()
        .map(|parameter| parameters.iter().filter(|other| other.name == parameter.name).count() > 1)
        .collect();
    for (parameter, twice) in parameters.iter_mut().zip(twice) {
        if twice {
            parameter.property = format!("{}_{}", parameter.name, parameter.place.name());
        }
    }
    Ok(parameters)
}

fn one(
    document: &Document,
    parameter: &Value,
    name: &str,
    place: Place,
    room: usize,
    budget: &mut Budget,
) -> Result<Parameter, Exhausted> {
    let content = parameter.get("content").and_then(Value::as_object).and_then(|content| content.values().next());
    // On the wire, among the properties, and in their list.
    budget.copy(4 * name.len())?;
    // Swagger 2's parameter is its own schema.
    let schema = parameter.get("schema").or_else(|| content?.get("schema")).unwrap_or(parameter);
    let mut schema = mended(&document.root, schema, room, budget)?;
    let words = parameter.get("description").and_then(Value::as_str).map(str::trim).filter(|words| !words.is_empty());
    if let (Value::Object(schema), Some(words)) = (&mut schema, words) {
        budget.copy(words.len().min(4 * schema::MAX_DESCRIPTION))?;
        schema.insert("description".to_owned(), schema::cut(words).into());
    }
    let required = place == Place::Path || parameter.get("required") == Some(&Value::Bool(true));
    let (style, explode) =
        if content.is_some() { (Style::Json, false) } else { style(document.version, parameter, place) };
    Ok(Parameter { name: name.to_owned(), property: name.to_owned(), place, style, explode, required, schema })
}

fn style(version: Version, parameter: &Value, place: Place) -> (Style, bool) {
    let written = |name: &str| parameter.get(name).and_then(Value::as_str).unwrap_or_default();
    let usual = if matches!(place, Place::Query | Place::Cookie) { Style::Form } else { Style::Simple };
    if version == Version::Swagger2 {
        return match written("collectionFormat") {
            "multi" => (usual, true),
            "ssv" => (Style::Space, false),
            "tsv" => (Style::Tab, false),
            "pipes" => (Style::Pipe, false),
            _ => (usual, false),
        };
    }
    let style = match (written("style"), place) {
        ("label", Place::Path) => Style::Label,
        ("matrix", Place::Path) => Style::Matrix,
        ("spaceDelimited", Place::Query) => Style::Space,
        ("pipeDelimited", Place::Query) => Style::Pipe,
        ("deepObject", Place::Query) => Style::Deep,
        _ => usual,
    };
    let explode = parameter.get("explode").and_then(Value::as_bool);
    (style, explode.unwrap_or(style == Style::Form))
}

/// The names in braces of a path.
pub fn names_in(path: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = path;
    while let Some((name, after)) = rest.split_once('{').and_then(|(_, after)| after.split_once('}')) {
        if !name.is_empty() && !names.contains(&name) && names.len() < MAX_PARAMETERS {
            names.push(name);
        }
        rest = after;
    }
    names
}

/// Headers that the specification gives other places in a document, and those
/// that belong to the connection.
pub fn is_not_the_documents(name: &str) -> bool {
    ["accept", "authorization", "content-type"].iter().any(|known| name.eq_ignore_ascii_case(known))
        || is_the_connections(name)
}

/// Headers that say where a request ends and how it travels.
pub fn is_the_connections(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "upgrade",
        "te",
        "trailer",
        "keep-alive",
        "expect",
        "proxy-connection",
        "proxy-authorization",
    ];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(version: Version, path: &str, item: Value, operation: Value) -> Vec<Parameter> {
        let document = Document { root: json!({ "p": { "name": "shared", "in": "query" } }), version };
        let budget = &mut Budget::default();
        let listed = listed(&document, &item, &operation, budget).expect("small");
        read(&document, &listed, path, |name| name == "X-Key", 10_000, budget).expect("small")
    }

    #[test]
    fn each_has_its_place_and_style() {
        let list = |list: Value| json!({ "parameters": list });
        let came = parameters(
            Version::OpenApi3,
            "/x/{id}/{implied}",
            list(
                json!([{ "name": "id", "in": "path", "schema": { "type": "integer" } }, { "name": "q", "in": "query" }, { "$ref": "#/p" }, { "$ref": "#/no" }]),
            ),
            list(json!([
                { "name": "q", "in": "query", "required": true, "description": "Q", "style": "pipeDelimited", "schema": { "type": "array" } },
                { "name": "X-Version", "in": "header" }, { "name": "X-Key", "in": "header" }, { "name": "Authorization", "in": "header" },
                { "name": "c", "in": "cookie", "explode": false }, { "name": "filter", "in": "query", "content": { "application/json": { "schema": { "type": "object" } } } },
                { "name": "unused", "in": "path" }, { "in": "query" }, 7,
            ])),
        );
        let seen: Vec<_> = came.iter().map(|p| (p.name.as_str(), p.place, p.style, p.explode, p.required)).collect();
        assert_eq!(
            seen,
            [
                ("q", Place::Query, Style::Pipe, false, true),
                ("X-Version", Place::Header, Style::Simple, false, false),
                ("c", Place::Cookie, Style::Form, false, false),
                ("filter", Place::Query, Style::Json, false, false),
                ("id", Place::Path, Style::Simple, false, true),
                ("shared", Place::Query, Style::Form, true, false),
                ("implied", Place::Path, Style::Simple, false, true),
            ]
        );
        assert_eq!(came[0].schema, json!({ "type": "array", "items": {}, "description": "Q" }));
    }

    #[test]
    fn swagger_says_it_in_its_own_words() {
        let came = parameters(
            Version::Swagger2,
            "/x",
            json!({}),
            json!({ "parameters": [
                { "name": "a", "in": "query", "type": "array", "items": { "type": "string" }, "description": "A", "required": true },
                { "name": "b", "in": "query", "type": "array", "collectionFormat": "multi" }, { "name": "body", "in": "body" },
            ] }),
        );
        let seen: Vec<_> = came.iter().map(|p| (p.name.as_str(), p.style, p.explode)).collect();
        assert_eq!(seen, [("a", Style::Form, false), ("b", Style::Form, true)]);
        assert_eq!(came[0].schema, json!({ "description": "A", "type": "array", "items": { "type": "string" } }));
    }

    #[test]
    fn a_name_in_two_places_is_two_properties() {
        let came = parameters(
            Version::OpenApi3,
            "/{id}",
            json!({}),
            json!({ "parameters": [{ "name": "id", "in": "query" }] }),
        );
        assert_eq!(came.iter().map(|p| p.property.as_str()).collect::<Vec<_>>(), ["id_query", "id_path"]);
    }
}
