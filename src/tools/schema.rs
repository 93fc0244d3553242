//! A document's schema → JSON Schema 2020-12 that stands alone: references
//! filled in, and what providers refuse mended or left out. Every keyword that
//! is left out allows more, never less.

use serde_json::{Map, Value, json};

use super::{
    budget::{Budget, Exhausted},
    references::{reference, target},
};

/// The most characters of a description.
pub const MAX_DESCRIPTION: usize = 1024;
/// The most values of an `enum`: a list that was cut would forbid the others.
const MAX_ENUM: usize = 500;
/// The most bytes of a default value.
const MAX_DEFAULT: usize = 1024;
/// Depths to try, until the schema is small enough.
const DEPTHS: [usize; 7] = [24, 10, 7, 5, 4, 3, 2];

/// A schema for what the model sends, at most about `room` bytes as JSON. What
/// lies too deep to fit may be anything.
///
/// # Errors
/// If the budget is used up.
pub fn mended(root: &Value, schema: &Value, room: usize, budget: &mut Budget) -> Result<Value, Exhausted> {
    for depth in DEPTHS {
        let mut mender = Mender { root, budget, inside: Vec::new(), room };
        match mender.schema(schema, depth) {
            Ok(schema) => return Ok(schema),
            Err(Stop::TooLarge) => {}
            Err(Stop::Exhausted(exhausted)) => return Err(exhausted),
        }
    }
    Ok(json!({}))
}

/// The beginning of a description.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_DESCRIPTION) {
        Some(_) => text.chars().take(MAX_DESCRIPTION - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

enum Stop {
    /// It does not fit at this depth.
    TooLarge,
    Exhausted(Exhausted),
}

impl From<Exhausted> for Stop {
    fn from(exhausted: Exhausted) -> Self {
        Self::Exhausted(exhausted)
    }
}

struct Mender<'a, 'b> {
    root: &'a Value,
    budget: &'b mut Budget,
    /// References that are being followed.
    inside: Vec<&'a str>,
    /// Bytes left.
    room: usize,
}

impl<'a> Mender<'a, '_> {
    fn charge(&mut self, bytes: usize) -> Result<(), Stop> {
        self.budget.copy(bytes)?;
        self.room = self.room.checked_sub(bytes).ok_or(Stop::TooLarge)?;
        Ok(())
    }

    fn schema(&mut self, value: &'a Value, depth: usize) -> Result<Value, Stop> {
        self.budget.steps(1)?;
        self.charge(4)?;
        let members = match value {
            Value::Object(members) => members,
            // Nothing may stand there.
            Value::Bool(false) => return Ok(json!({ "not": {} })),
            _ => return Ok(json!({})),
        };
        if let Some(reference) = reference(value) {
            return self.referred(reference, members, depth);
        }
        let mut out = Map::new();
        let types = types(members);
        self.words(members, &mut out)?;
        if let Some(types) = &types {
            out.insert("type".to_owned(), types.clone());
        }
        let is = |name: &str| types.as_ref().is_some_and(|types| types == name || types[0] == name);
        self.values(members, is("string"), &mut out)?;
        bounds(members, &mut out);
        if depth > 0 {
            self.children(members, depth - 1, &mut out)?;
        }
        let is_list = types.as_ref().is_some_and(|types| {
            types == "array" || types.as_array().is_some_and(|types| types.iter().any(|name| name == "array"))
        });
        if is_list && !out.contains_key("items") {
            out.insert("items".to_owned(), json!({}));
        }
        if types.is_none() && out.contains_key("properties") {
            out.insert("type".to_owned(), json!("object"));
        }
        self.charge(out.keys().map(|name| name.len() + 12).sum())?;
        Ok(merged(out))
    }

    /// The schema that a reference names. One that leads back into itself, as
    /// in a tree, or nowhere, allows anything.
    fn referred(&mut self, name: &'a str, members: &'a Map<String, Value>, depth: usize) -> Result<Value, Stop> {
        if depth == 0 || self.inside.contains(&name) {
            return Ok(json!({}));
        }
        self.budget.steps(self.inside.len())?;
        let Some(found) = target(self.root, name, self.budget)? else { return Ok(json!({})) };
        self.inside.push(name);
        let schema = self.schema(found, depth - 1);
        self.inside.pop();
        let mut schema = schema?;
        if let (Some(Value::String(words)), Value::Object(schema)) = (members.get("description"), &mut schema) {
            self.charge(words.len().min(4 * MAX_DESCRIPTION))?;
            schema.insert("description".to_owned(), cut(words).into());
        }
        Ok(schema)
    }

    fn words(&mut self, members: &Map<String, Value>, out: &mut Map<String, Value>) -> Result<(), Stop> {
        let text =
            |name: &str| members.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let words = [("description", text("description")), ("title", text("title"))];
        if let Some((name, words)) = words.into_iter().find_map(|(name, words)| Some((name, words?))) {
            let words = cut(words);
            self.charge(words.len())?;
            out.insert(name.to_owned(), words.into());
        }
        for name in ["pattern", "format"] {
            if let Some(text) = members.get(name).and_then(Value::as_str).filter(|text| text.len() <= MAX_DEFAULT) {
                self.charge(text.len())?;
                out.insert(name.to_owned(), text.into());
            }
        }
        Ok(())
    }

    /// `enum`, `const`, `default` and an example.
    fn values(
        &mut self,
        members: &Map<String, Value>,
        is_text: bool,
        out: &mut Map<String, Value>,
    ) -> Result<(), Stop> {
        // YAML makes numbers of texts that look so.
        let value = |value: &Value| match value {
            Value::Number(_) | Value::Bool(_) if is_text => Value::String(value.to_string()),
            value => value.clone(),
        };
        if let Some(Value::Array(list)) = members.get("enum")
            && (1..=MAX_ENUM).contains(&list.len())
        {
            self.budget.steps(list.len())?;
            for value in list {
                let bytes = size(value, self.room).ok_or(Stop::TooLarge)?;
                self.charge(bytes)?;
            }
            let mut list: Vec<Value> = list.iter().map(value).collect();
            if members.get("nullable") == Some(&Value::Bool(true)) && !list.contains(&Value::Null) {
                list.push(Value::Null);
            }
            out.insert("enum".to_owned(), list.into());
        }
        for (name, as_name) in [("const", "const"), ("default", "default"), ("example", "examples")] {
            let Some(given) = members.get(name) else { continue };
            if name == "example" && (given.is_object() || given.is_array() || given.is_null()) {
                continue;
            }
            self.budget.steps(1)?;
            let Some(bytes) = size(given, MAX_DEFAULT) else { continue };
            self.budget.steps(bytes / 16)?;
            self.charge(bytes)?;
            let given = value(given);
            out.insert(as_name.to_owned(), if name == "example" { json!([given]) } else { given });
        }
        Ok(())
    }

    fn children(
        &mut self,
        members: &'a Map<String, Value>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), Stop> {
        if let Some(Value::Object(properties)) = members.get("properties") {
            self.properties(properties, members, depth, out)?;
        }
        match members.get("additionalProperties") {
            Some(Value::Bool(allowed)) => {
                out.insert("additionalProperties".to_owned(), (*allowed).into());
            }
            Some(schema @ Value::Object(_)) => {
                let schema = self.schema(schema, depth)?;
                out.insert("additionalProperties".to_owned(), schema);
            }
            _ => {}
        }
        match members.get("items") {
            Some(schema @ Value::Object(_)) => {
                let schema = self.schema(schema, depth)?;
                out.insert("items".to_owned(), schema);
            }
            // The form of older drafts: a schema for each place.
            Some(Value::Array(list)) if !list.is_empty() => {
                let mut list = self.list(list, depth)?;
                let items = if list.len() == 1 { list.remove(0) } else { json!({ "anyOf": list }) };
                out.insert("items".to_owned(), items);
            }
            _ => {}
        }
        for name in ["allOf", "anyOf", "oneOf"] {
            if let Some(Value::Array(list)) = members.get(name)
                && !list.is_empty()
            {
                let list = self.list(list, depth)?;
                out.insert(name.to_owned(), list.into());
            }
        }
        Ok(())
    }

    fn list(&mut self, list: &'a [Value], depth: usize) -> Result<Vec<Value>, Stop> {
        list.iter().map(|schema| self.schema(schema, depth)).collect()
    }

    /// The properties that a client may set, and which of them it must.
    fn properties(
        &mut self,
        properties: &'a Map<String, Value>,
        members: &Map<String, Value>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), Stop> {
        let mut kept = Map::new();
        let mut required: Vec<&str> = Vec::new();
        let mut hidden: Vec<&str> = Vec::new();
        for (name, schema) in properties {
            if schema["readOnly"] == true {
                hidden.push(name);
                continue;
            }
            self.charge(name.len() + 8)?;
            // The form of older drafts: the property itself says it.
            if schema["required"] == true {
                required.push(name);
            }
            kept.insert(name.clone(), self.schema(schema, depth)?);
        }
        self.budget.steps(properties.len())?;
        let listed = members.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for name in listed.iter().filter_map(Value::as_str).take(properties.len()) {
            self.budget.steps(1 + required.len() / 8)?;
            if kept.contains_key(name) && !required.contains(&name) && !hidden.contains(&name) {
                required.push(name);
            }
        }
        out.insert("properties".to_owned(), kept.into());
        if !required.is_empty() {
            self.charge(required.iter().map(|name| name.len() + 3).sum())?;
            out.insert("required".to_owned(), required.into());
        }
        Ok(())
    }
}

/// Bytes that a value takes, about, if they are `limit` at most. Looks at no more than that.
fn size(value: &Value, limit: usize) -> Option<usize> {
    let own = match value {
        Value::String(text) => text.len() + 3,
        Value::Array(_) | Value::Object(_) => 2,
        _ => 6,
    };
    let left = limit.checked_sub(own)?;
    let rest = match value {
        Value::Array(list) => list.iter().try_fold(left, |left, value| Some(left - size(value, left)?))?,
        Value::Object(members) => members.iter().try_fold(left, |left, (name, value)| {
            let left = left.checked_sub(name.len() + 4)?;
            Some(left - size(value, left)?)
        })?,
        _ => left,
    };
    Some(limit - rest)
}

/// `type` in the names of JSON Schema, with `null` where `nullable` says so.
fn types(members: &Map<String, Value>) -> Option<Value> {
    let mut names: Vec<&str> = match members.get("type")? {
        Value::String(name) => type_name(name).into_iter().collect(),
        Value::Array(list) => list.iter().take(8).filter_map(|name| type_name(name.as_str()?)).collect(),
        _ => Vec::new(),
    };
    if members.get("nullable") == Some(&Value::Bool(true)) && !names.is_empty() {
        names.push("null");
    }
    let mut seen = Vec::new();
    names.retain(|name| {
        !seen.contains(name) && {
            seen.push(*name);
            true
        }
    });
    match names.as_slice() {
        [] => None,
        [name] => Some((*name).into()),
        _ => Some(names.into()),
    }
}

/// A type's name in JSON Schema, from what documents call it.
fn type_name(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "string" | "str" | "text" | "file" | "binary" | "date" | "datetime" | "date-time" | "uuid" | "uri" | "url" => {
            "string"
        }
        "number" | "float" | "double" | "decimal" => "number",
        "integer" | "int" | "int32" | "int64" | "long" => "integer",
        "boolean" | "bool" => "boolean",
        "array" | "list" => "array",
        "object" | "dict" | "map" => "object",
        "null" => "null",
        _ => return None,
    })
}

fn bounds(members: &Map<String, Value>, out: &mut Map<String, Value>) {
    let number = |name: &str| members.get(name).filter(|value| value.is_number());
    for (bound, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
        // In OpenAPI 3.0 `exclusiveMinimum: true` says how `minimum` is meant.
        let is_exclusive = members.get(exclusive) == Some(&Value::Bool(true));
        for (from, to) in [(bound, if is_exclusive { exclusive } else { bound }), (exclusive, exclusive)] {
            if let Some(value) = number(from) {
                out.insert(to.to_owned(), value.clone());
            }
        }
    }
    if let Some(step) = number("multipleOf").filter(|step| step.as_f64().is_some_and(|step| step > 0.0)) {
        out.insert("multipleOf".to_owned(), step.clone());
    }
    for name in ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"] {
        let count = number(name).and_then(|value| {
            value.as_u64().or_else(|| {
                value.as_f64().filter(|value| *value >= 0.0 && value.fract() == 0.0).map(|value| value as u64)
            })
        });
        if let Some(count) = count {
            out.insert(name.to_owned(), count.into());
        }
    }
    for name in ["uniqueItems", "deprecated"] {
        if members.get(name) == Some(&Value::Bool(true)) {
            out.insert(name.to_owned(), true.into());
        }
    }
}

/// Objects that `allOf` puts together, as one: some models read no `allOf`.
fn merged(mut schema: Map<String, Value>) -> Value {
    const SIMPLE: [&str; 8] =
        ["type", "properties", "required", "description", "title", "additionalProperties", "examples", "default"];
    let simple = |part: &Value| {
        part["type"] == "object"
            && part.as_object().is_some_and(|part| part.keys().all(|name| SIMPLE.contains(&name.as_str())))
    };
    let Some(Value::Array(parts)) = schema.get_mut("allOf") else { return schema.into() };
    if parts.len() == 1
        && let Value::Object(mut part) = parts[0].take()
    {
        schema.remove("allOf");
        // What stands beside it is nearer.
        part.append(&mut schema);
        return part.into();
    }
    if !parts.iter().all(simple) || !schema.keys().all(|name| name == "allOf" || SIMPLE.contains(&name.as_str())) {
        return schema.into();
    }
    let Some(Value::Array(mut parts)) = schema.remove("allOf") else { return schema.into() };
    let (mut properties, mut required) = (Map::new(), Vec::new());
    parts.push(Value::Object(schema));
    let mut whole = Map::new();
    for mut part in parts {
        if let Some(Value::Object(mut more)) = part.get_mut("properties").map(Value::take) {
            properties.append(&mut more);
        }
        if let Some(Value::Array(more)) = part.get_mut("required").map(Value::take) {
            required.extend(more.into_iter().filter_map(|name| name.as_str().map(str::to_owned)));
        }
        if let Value::Object(part) = part {
            // A part that is closed does not close the whole.
            whole.extend(
                part.into_iter().filter(|(name, _)| !matches!(name.as_str(), "additionalProperties" | "required")),
            );
        }
    }
    required.sort_unstable();
    required.dedup();
    whole.insert("type".to_owned(), json!("object"));
    whole.insert("properties".to_owned(), properties.into());
    if !required.is_empty() {
        whole.insert("required".to_owned(), required.into());
    }
    whole.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mend(schema: Value) -> Value {
        mended(&json!({}), &schema, 100_000, &mut Budget::default()).expect("small")
    }

    #[test]
    fn what_is_no_json_schema_is_mended() {
        for (schema, mended) in [
            (json!(7), json!({})),
            (json!(true), json!({})),
            (json!({ "type": "any" }), json!({})),
            (json!({ "type": ["string", "wrong", "string"] }), json!({ "type": "string" })),
            (json!({ "type": "float", "nullable": true }), json!({ "type": ["number", "null"] })),
            (json!({ "type": "array" }), json!({ "type": "array", "items": {} })),
            (
                json!({ "type": "array", "items": [{ "type": "int" }] }),
                json!({ "type": "array", "items": { "type": "integer" } }),
            ),
            (json!({ "type": "file" }), json!({ "type": "string" })),
            (json!({ "minimum": 1, "exclusiveMinimum": true }), json!({ "exclusiveMinimum": 1 })),
            (json!({ "maximum": 1, "exclusiveMaximum": false }), json!({ "maximum": 1 })),
            (json!({ "minimum": "0", "multipleOf": 0, "minLength": -1, "maxLength": 4.0 }), json!({ "maxLength": 4 })),
            (json!({ "required": true, "enum": [], "allOf": [], "xml": {}, "x-y": 1 }), json!({})),
            (
                json!({ "type": "string", "enum": [1, true, "a"] }),
                json!({ "type": "string", "enum": ["1", "true", "a"] }),
            ),
            (
                json!({ "type": "string", "example": "x", "title": "T" }),
                json!({ "title": "T", "type": "string", "examples": ["x"] }),
            ),
            (
                json!({ "properties": { "a": { "required": true }, "b": { "readOnly": true }, "c": "x" }, "required": ["b", "c", "c", 1, "gone"] }),
                json!({ "properties": { "a": {}, "c": {} }, "required": ["a", "c"], "type": "object" }),
            ),
        ] {
            assert_eq!(mend(schema.clone()), mended, "{schema}");
        }
    }

    #[test]
    fn references_are_filled_in_and_circles_end() {
        let root = json!({ "s": {
            "Node": { "type": "object", "properties": { "name": { "$ref": "#/s/Name", "description": "Its name" }, "children": { "type": "array", "items": { "$ref": "#/s/Node" } } } },
            "Name": { "type": "string", "description": "A name" },
        } });
        let schema = mended(&root, &json!({ "$ref": "#/s/Node" }), 10_000, &mut Budget::default()).expect("small");
        assert_eq!(
            schema["properties"],
            json!({ "name": { "description": "Its name", "type": "string" }, "children": { "type": "array", "items": {} } })
        );
        for reference in ["#/s/None", "other.yaml#/x", "#"] {
            let schema = mended(&root, &json!({ "$ref": reference }), 10_000, &mut Budget::default()).expect("small");
            assert_eq!(schema, json!({}), "{reference}");
        }
    }

    #[test]
    fn objects_of_all_of_become_one() {
        let part =
            |name: &str| json!({ "type": "object", "properties": { name: { "type": "string" } }, "required": [name] });
        assert_eq!(
            mend(json!({ "allOf": [part("a"), part("b")], "description": "D" })),
            json!({ "type": "object", "properties": { "a": { "type": "string" }, "b": { "type": "string" } }, "description": "D", "required": ["a", "b"] })
        );
        assert_eq!(
            mend(json!({ "allOf": [{ "type": "string" }], "description": "D" })),
            json!({ "type": "string", "description": "D" })
        );
        assert!(mend(json!({ "allOf": [part("a"), { "anyOf": [part("b")] }] }))["allOf"].is_array());
    }

    #[test]
    fn what_is_too_large_loses_its_depths_first() {
        let leaf = json!({ "type": "string", "description": "x".repeat(500) });
        let branch = |inner: &Value| json!({ "type": "object", "properties": { "a": inner, "b": inner, "c": inner } });
        let schema = (0..5).fold(leaf, |inner, _| branch(&inner));
        let small = mended(&json!({}), &schema, 2000, &mut Budget::default()).expect("small");
        assert!(small.to_string().len() < 3000, "{small}");
        assert_eq!(small["properties"]["a"]["type"], "object");
        let doubling: Map<String, Value> = (0..40)
            .map(|level| (format!("n{level}"), json!({ "properties": { "a": { "$ref": format!("#/n{}", level + 1) }, "b": { "$ref": format!("#/n{}", level + 1) } } })))
            .collect();
        let started = std::time::Instant::now();
        let _ = mended(&doubling.into(), &json!({ "$ref": "#/n0" }), 1_000_000, &mut Budget::default());
        assert!(started.elapsed().as_secs() < 5);
    }
}
