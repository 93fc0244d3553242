//! Request bodies: which media type, what the model is told of it, and its
//! bytes.

use serde_json::{Map, Value, json, value::RawValue};
use uuid::Uuid;

use super::{
    arguments::{Argument, Members, text},
    budget::{Budget, Exhausted},
    document::{Document, Version},
    references::followed,
    schema::{self, mended},
    style::{Room, Style, encoded, pairs},
};

/// A request body that an operation takes.
#[derive(Debug)]
pub struct Body {
    /// Whether a call without it is refused.
    pub required: bool,
    /// How it is written.
    pub kind: Kind,
    /// The header `content-type`; multipart adds its boundary.
    pub media: String,
    /// For the model.
    pub schema: Value,
    /// Fields of a form that are files.
    files: Vec<String>,
    /// Fields of a form whose objects are written as `x[a]=1`.
    deep: Vec<String>,
}

/// The kinds of bodies that can be made of what a model says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON in all its spellings.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `multipart/form-data`.
    Multipart,
    /// A text as it is: plain, XML, CSV.
    Text,
}

/// Reads an operation's body; `parameters` are its parameter objects, among
/// which Swagger 2 has it.
///
/// # Errors
/// If the budget is used up.
pub fn read(
    document: &Document,
    operation: &Value,
    parameters: &[&Value],
    room: usize,
    budget: &mut Budget,
) -> Result<Option<Body>, Exhausted> {
    match document.version {
        Version::OpenApi3 => openapi3(document, &operation["requestBody"], room, budget),
        Version::Swagger2 => swagger2(document, operation, parameters, room, budget),
    }
}

fn openapi3(document: &Document, body: &Value, room: usize, budget: &mut Budget) -> Result<Option<Body>, Exhausted> {
    if body.is_null() {
        return Ok(None);
    }
    let Some(body) = followed(&document.root, body, budget)? else {
        let (kind, media) = (Kind::Json, "application/json".to_owned());
        let schema = json!({});
        return Ok(Some(Body { required: false, kind, media, schema, files: Vec::new(), deep: Vec::new() }));
    };
    let Some(content) = body["content"].as_object() else { return Ok(None) };
    budget.steps(content.len())?;
    let Some((media, kind)) = best(content.keys().map(String::as_str)) else { return Ok(None) };
    budget.copy(2 * media.len())?;
    let written = content.iter().find(|(name, _)| name.trim() == media).map_or(&Value::Null, |(_, value)| value);
    let raw = &written["schema"];
    let mut schema = mended(&document.root, raw, room, budget)?;
    let files = files(document, raw, budget)?;
    let encoding = written["encoding"].as_object();
    let is_deep = |encoding: &Value| encoding["style"] == "deepObject";
    let deep =
        encoding.map(|fields| fields.iter().filter(|(_, encoding)| is_deep(encoding)).map(|(name, _)| name.clone()));
    let deep: Vec<String> = deep.map(|deep| deep.take(100).collect()).unwrap_or_default();
    budget.copy(deep.iter().map(String::len).sum())?;
    if kind == Kind::Text && schema["type"] != "string" {
        schema = json!({ "type": "string", "description": format!("The request body, {media}") });
    }
    if let (Value::Object(schema), Some(words)) = (&mut schema, body["description"].as_str())
        && !schema.contains_key("description")
        && !words.trim().is_empty()
    {
        budget.copy(words.len().min(4 * schema::MAX_DESCRIPTION))?;
        schema.insert("description".to_owned(), schema::cut(words.trim()).into());
    }
    Ok(Some(Body { required: body["required"] == true, kind, media: concrete(media, kind), schema, files, deep }))
}

fn swagger2(
    document: &Document,
    operation: &Value,
    parameters: &[&Value],
    room: usize,
    budget: &mut Budget,
) -> Result<Option<Body>, Exhausted> {
    let consumes = operation["consumes"].as_array().or_else(|| document.root["consumes"].as_array());
    let media = consumes.into_iter().flatten().filter_map(Value::as_str).take(100).collect::<Vec<_>>();
    let is_in = |parameter: &&&Value, place: &str| parameter.get("in").is_some_and(|name| name == place);
    if let Some(parameter) = parameters.iter().find(|parameter| is_in(parameter, "body")) {
        let (media, kind) = best(media.iter().copied()).unwrap_or(("application/json", Kind::Json));
        let mut schema = mended(&document.root, parameter.get("schema").unwrap_or(&Value::Null), room, budget)?;
        if let (Value::Object(schema), Some(Value::String(words))) = (&mut schema, parameter.get("description")) {
            budget.copy(words.len().min(4 * schema::MAX_DESCRIPTION))?;
            schema.insert("description".to_owned(), schema::cut(words).into());
        }
        let required = parameter.get("required") == Some(&Value::Bool(true));
        let media = concrete(media, kind);
        return Ok(Some(Body { required, kind, media, schema, files: Vec::new(), deep: Vec::new() }));
    }
    let (mut properties, mut required, mut files) = (Map::new(), Vec::new(), Vec::new());
    for parameter in parameters.iter().filter(|parameter| is_in(parameter, "formData")) {
        let Some(name) = parameter.get("name").and_then(Value::as_str) else { continue };
        budget.copy(4 * name.len())?;
        if parameter.get("type").is_some_and(|name| name == "file") {
            files.push(name.to_owned());
        }
        if parameter.get("required") == Some(&Value::Bool(true)) {
            required.push(name);
        }
        properties.insert(name.to_owned(), mended(&document.root, parameter, room, budget)?);
    }
    if properties.is_empty() {
        return Ok(None);
    }
    let is_multipart = !files.is_empty()
        || !media.contains(&"application/x-www-form-urlencoded") && media.contains(&"multipart/form-data");
    let (media, kind) = if is_multipart {
        ("multipart/form-data", Kind::Multipart)
    } else {
        ("application/x-www-form-urlencoded", Kind::Form)
    };
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    let required = !required.is_empty();
    Ok(Some(Body { required, kind, media: media.to_owned(), schema, files, deep: Vec::new() }))
}

/// The media type that says the most of what a model can write.
fn best<'a>(types: impl Iterator<Item = &'a str>) -> Option<(&'a str, Kind)> {
    types
        .take(100)
        .map(|media| (media.trim(), kind(media.trim())))
        .min_by_key(|(_, (rank, _))| *rank)
        .map(|(media, (_, kind))| (media, kind))
}

fn kind(media: &str) -> (u8, Kind) {
    let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => (0, Kind::Json),
        "application/x-www-form-urlencoded" => (3, Kind::Form),
        "multipart/form-data" => (4, Kind::Multipart),
        "*/*" | "application/*" | "" => (2, Kind::Json),
        _ if essence.ends_with("+json") || essence.ends_with("/json") => (1, Kind::Json),
        _ if essence.starts_with("text/") => (5, Kind::Text),
        _ => (6, Kind::Text),
    }
}

/// A media type that can be sent, from one that may be a range.
fn concrete(media: &str, kind: Kind) -> String {
    let is_range = media.is_empty() || media.contains('*');
    match kind {
        Kind::Json if is_range => "application/json".to_owned(),
        _ if is_range => "text/plain".to_owned(),
        _ => media.to_owned(),
    }
}

/// The properties of a form that hold bytes.
fn files(document: &Document, schema: &Value, budget: &mut Budget) -> Result<Vec<String>, Exhausted> {
    let Some(schema) = followed(&document.root, schema, budget)? else { return Ok(Vec::new()) };
    let Some(properties) = schema["properties"].as_object() else { return Ok(Vec::new()) };
    budget.steps(properties.len())?;
    let is_file = |schema: &Value| schema["format"] == "binary" || schema["type"] == "file";
    let files: Vec<&String> =
        properties.iter().filter(|(_, schema)| is_file(schema)).map(|(name, _)| name).take(100).collect();
    budget.copy(files.iter().map(|name| name.len()).sum())?;
    Ok(files.into_iter().cloned().collect())
}

/// A body's media type and bytes.
///
/// # Errors
/// If the value cannot be written so: a sentence for the model.
pub fn bytes(body: &Body, value: &RawValue, room: &mut Room) -> Result<(String, Vec<u8>), String> {
    let fields = || match Argument::of(value) {
        Argument::Object(members) => Ok(members),
        _ => Err("requestBody must be an object: its members become the fields of a form".to_owned()),
    };
    match body.kind {
        Kind::Json => Ok((body.media.clone(), json_text(body, value).into_bytes())),
        Kind::Text => Ok((body.media.clone(), text(value).into_owned().into_bytes())),
        Kind::Form => {
            let mut form = Vec::new();
            for (name, value) in fields()?.0 {
                let style = if body.deep.contains(&name) { Style::Deep } else { Style::Form };
                room.take(&name, value, style)?;
                match Argument::of(value) {
                    Argument::Object(_) if style == Style::Form => form.push((encoded(&name), encoded(value.get()))),
                    _ => form.extend(pairs(&name, value, style, true)),
                }
            }
            let form: Vec<String> = form.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            Ok((body.media.clone(), form.join("&").into_bytes()))
        }
        Kind::Multipart => multipart(body, &fields()?, room),
    }
}

/// The JSON as the model wrote it. Some models put it into a text once more.
fn json_text(body: &Body, value: &RawValue) -> String {
    let wanted = &body.schema["type"];
    if (*wanted == "object" || *wanted == "array") && value.get().starts_with('"') {
        let inner = text(value);
        if serde_json::from_str::<&RawValue>(&inner).is_ok_and(|inner| inner.get().starts_with(['{', '['])) {
            return inner.into_owned();
        }
    }
    value.get().to_owned()
}

fn multipart(body: &Body, fields: &Members<'_>, room: &mut Room) -> Result<(String, Vec<u8>), String> {
    let boundary = Uuid::new_v4().simple().to_string();
    let mut bytes = Vec::new();
    for (name, value) in &fields.0 {
        room.take(name, value, Style::Form)?;
        let quoted = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
        let is_file = body.files.contains(name);
        let values = match Argument::of(value) {
            Argument::Null => continue,
            Argument::List(list) => list,
            _ => vec![*value],
        };
        for value in values {
            let file = if is_file { format!("; filename=\"{quoted}\"") } else { String::new() };
            let media = match Argument::of(value) {
                Argument::Object(_) | Argument::List(_) => "Content-Type: application/json\r\n",
                _ if is_file => "Content-Type: application/octet-stream\r\n",
                _ => "",
            };
            let head =
                format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{quoted}\"{file}\r\n{media}\r\n");
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend_from_slice(text(value).as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Ok((format!("multipart/form-data; boundary={boundary}"), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(content: Value) -> Body {
        let document = Document { root: json!({}), version: Version::OpenApi3 };
        let operation = json!({ "requestBody": { "content": content, "required": true, "description": "B" } });
        read(&document, &operation, &[], 10_000, &mut Budget::default()).expect("small").expect("a body")
    }

    fn written(body: &Body, json: &str) -> Result<(String, String), String> {
        let raw: &RawValue = serde_json::from_str(json).expect("JSON");
        bytes(body, raw, &mut Room::default()).map(|(media, bytes)| (media, String::from_utf8(bytes).expect("UTF-8")))
    }

    #[test]
    fn the_media_type_is_the_one_that_models_write_best() {
        for (content, media, kind) in [
            (json!({ "text/xml": {}, "application/json": {} }), "application/json", Kind::Json),
            (json!({ "application/vnd.x+json; v=1": {} }), "application/vnd.x+json; v=1", Kind::Json),
            (json!({ "*/*": {} }), "application/json", Kind::Json),
            (
                json!({ "multipart/form-data": {}, "application/x-www-form-urlencoded": {} }),
                "application/x-www-form-urlencoded",
                Kind::Form,
            ),
            (json!({ "application/xml": {}, "text/plain": {} }), "text/plain", Kind::Text),
        ] {
            let body = body(content);
            assert_eq!((body.media.as_str(), body.kind), (media, kind));
        }
    }

    #[test]
    fn bodies_are_written_by_their_media_type() {
        let json = body(json!({ "application/json": { "schema": { "type": "object" } } }));
        assert_eq!(json.schema, json!({ "type": "object", "description": "B" }));
        let digits = r#"{"x": 1234567890123456789012, "y":1.10}"#;
        assert_eq!(written(&json, digits), Ok(("application/json".to_owned(), digits.to_owned())));
        assert_eq!(written(&json, r#""{\"a\":1}""#).expect("written").1, r#"{"a":1}"#);
        let text_in_json = body(json!({ "application/json": { "schema": { "type": "string" } } }));
        assert_eq!(written(&text_in_json, r#""{\"a\":1}""#).expect("written").1, r#""{\"a\":1}""#);

        let form =
            body(json!({ "application/x-www-form-urlencoded": { "encoding": { "d": { "style": "deepObject" } } } }));
        let value = r#"{"a":"x y&","l":[1,"b"],"o":{"k":1},"d":{"k":[1,2]},"n":null}"#;
        assert_eq!(
            written(&form, value).expect("written").1,
            "a=x%20y%26&l=1&l=b&o=%7B%22k%22%3A1%7D&d%5Bk%5D=1&d%5Bk%5D=2"
        );
        assert!(written(&form, "[1]").is_err());

        let text = body(json!({ "text/csv": {} }));
        assert_eq!(written(&text, r#""a,b\n""#).expect("written").1, "a,b\n");
    }

    #[test]
    fn a_multipart_body_has_a_part_for_each_value() {
        let body = body(
            json!({ "multipart/form-data": { "schema": { "properties": { "f": { "type": "string", "format": "binary" } } } } }),
        );
        let (media, bytes) = written(&body, r#"{"f":"data","n\"\r\nX: y":[1,2],"o":{"k":1}}"#).expect("written");
        let boundary = media.strip_prefix("multipart/form-data; boundary=").expect("a boundary");
        assert_eq!(bytes.matches(&format!("--{boundary}\r\n")).count(), 4);
        assert!(bytes.ends_with(&format!("--{boundary}--\r\n")));
        assert!(bytes.contains("name=\"f\"; filename=\"f\"\r\nContent-Type: application/octet-stream\r\n\r\ndata\r\n"));
        assert!(bytes.contains("name=\"n%22%0D%0AX: y\"\r\n\r\n2\r\n"));
        assert!(bytes.contains("name=\"o\"\r\nContent-Type: application/json\r\n\r\n{\"k\":1}\r\n"));
    }

    #[test]
    fn swagger_has_its_body_among_the_parameters() {
        let document = Document { root: json!({ "consumes": ["application/json"] }), version: Version::Swagger2 };
        let read = |operation: Value, parameters: Value| {
            let parameters: Vec<_> = parameters.as_array().expect("a list").iter().collect();
            read(&document, &operation, &parameters, 10_000, &mut Budget::default()).expect("small")
        };
        let json =
            read(json!({}), json!([{ "in": "body", "name": "pet", "required": true, "schema": { "type": "object" } }]))
                .expect("a body");
        assert_eq!((json.kind, json.required), (Kind::Json, true));
        let form = read(json!({}), json!([{ "in": "formData", "name": "a", "type": "string" }])).expect("a body");
        assert_eq!((form.kind, form.required), (Kind::Form, false));
        let file = read(json!({}), json!([{ "in": "formData", "name": "a", "type": "file", "required": true }]))
            .expect("a body");
        assert_eq!((file.kind, file.schema["required"].clone()), (Kind::Multipart, json!(["a"])));
        assert!(read(json!({}), json!([{ "in": "query", "name": "q" }])).is_none());
    }
}
