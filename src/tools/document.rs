//! Pasted text → an OpenAPI document as JSON values: JSON or YAML, OpenAPI 3
//! or Swagger 2. Anything else is named as what it is.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::budget::{Budget, Exhausted};

/// The most bytes that a document may have.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The most bytes of its texts.
const MAX_TEXTS: usize = 2 * MAX_BYTES;
/// The deepest nesting that is read. Public documents have 30.
const MAX_DEPTH: usize = 64;
/// The most characters of a parser's words that are shown.
const MAX_WORDS: usize = 200;

/// A parsed document.
#[derive(Debug)]
pub struct Document {
    /// All of it.
    pub root: Value,
    /// The rules that it follows.
    pub version: Version,
}

/// The specification that a document follows, as far as reading it differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Swagger 2.0.
    Swagger2,
    /// OpenAPI 3.0, 3.1 and later.
    OpenApi3,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// If it is no OpenAPI document, or too large: a reason that begins with
    /// "it".
    pub fn read(text: &str, budget: &mut Budget) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("it is larger than {} MiB", MAX_BYTES / 1024 / 1024));
        }
        let pasted = text.trim_start_matches('\u{feff}');
        let text = pasted.trim();
        if text.is_empty() {
            return Err("it is empty: paste an OpenAPI document into its schema".to_owned());
        }
        if text.starts_with('<') {
            return Err("it is a web page or XML, not an OpenAPI document in JSON or YAML".to_owned());
        }
        let root = if text.starts_with(['{', '[']) {
            // YAML takes what is almost JSON: comments, a comma too many.
            json(text, budget).or_else(|problem| match problem {
                Problem::Syntax(words) => {
                    yaml(text, budget).map_err(|_| format!("it is not valid JSON: {}", shortened(&words)))
                }
                Problem::Exhausted(exhausted) => Err(exhausted.to_string()),
            })?
        } else {
            // The first line's indentation is the document's.
            let blank = pasted.len() - pasted.trim_start().len();
            let first_line = pasted[..blank].rfind('\n').map_or(0, |end| end + 1);
            yaml(pasted[first_line..].trim_end(), budget).map_err(|problem| match problem {
                Problem::Syntax(words) => format!("it is not valid YAML: {}", shortened(&words)),
                Problem::Exhausted(exhausted) => exhausted.to_string(),
            })?
        };
        let version = version(&root)?;
        Ok(Self { root, version })
    }
}

/// Tells the version, or names what was pasted instead.
fn version(root: &Value) -> Result<Version, String> {
    let Value::Object(members) = root else {
        let reason = if functions(root) { FUNCTIONS } else { "it is text or a list, not an OpenAPI document" };
        return Err(reason.to_owned());
    };
    // YAML makes a number of `swagger: 2.0`.
    let written =
        |name: &str| members.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    match (written("openapi"), written("swagger")) {
        (Some(version), _) if version.starts_with('3') => return Ok(Version::OpenApi3),
        (None, Some(version)) if version == "2" || version.starts_with("2.") => return Ok(Version::Swagger2),
        (Some(version), _) | (None, Some(version)) if !members.contains_key("paths") => {
            let version: String = version.chars().take(20).collect();
            return Err(format!("its version {version} is not OpenAPI 3 or Swagger 2"));
        }
        _ => {}
    }
    if members.get("paths").is_some_and(Value::is_object) {
        let swagger = members.contains_key("host") || members.contains_key("definitions");
        return Ok(if swagger && !members.contains_key("servers") { Version::Swagger2 } else { Version::OpenApi3 });
    }
    let has = |name: &str| members.contains_key(name);
    Err(if functions(root) || members.get("tools").or(members.get("functions")).is_some_and(functions) {
        FUNCTIONS.to_owned()
    } else if has("asyncapi") {
        "it is an AsyncAPI document, which describes messages and not requests".to_owned()
    } else if has("swaggerVersion") {
        "it is Swagger 1: convert it to OpenAPI 3".to_owned()
    } else if has("item") && has("info") {
        "it is a Postman collection: export it as OpenAPI".to_owned()
    } else if has("schema_version") && has("api") {
        "it is a plugin's manifest: paste the OpenAPI document that its `api.url` names".to_owned()
    } else if has("mcpServers") {
        "it is a configuration of MCP servers, not an OpenAPI document".to_owned()
    } else {
        "it has no `paths`, so it is not an OpenAPI document".to_owned()
    })
}

const FUNCTIONS: &str =
    "it is a list of OpenAI functions, which do not say where to send a call: paste an OpenAPI document";

/// Whether `value` is a function in OpenAI's form, or a list of such.
fn functions(value: &Value) -> bool {
    let value = value.get(0).unwrap_or(value);
    let is_function = |value: &Value| value["name"].is_string() && value["parameters"].is_object();
    is_function(value) || is_function(&value["function"])
}

enum Problem {
    Syntax(String),
    Exhausted(Exhausted),
}

fn json(text: &str, budget: &mut Budget) -> Result<Value, Problem> {
    let mut exhausted = false;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = Bounded { budget, exhausted: &mut exhausted, texts: &mut { MAX_TEXTS }, depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    read.map_err(|error| problem(exhausted, error.to_string()))
}

fn yaml(text: &str, budget: &mut Budget) -> Result<Value, Problem> {
    // Texts that were decoded wrongly hold such characters; YAML refuses them.
    let is_odd = |character: char| {
        matches!(character, '\u{80}'..='\u{9f}' if character != '\u{85}')
            || character.is_ascii_control() && !matches!(character, '\t' | '\n' | '\r')
    };
    let text = if text.contains(is_odd) { Cow::Owned(text.replace(is_odd, " ")) } else { Cow::Borrowed(text) };
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: MAX_DEPTH,
            max_nodes: 250_000,
            max_total_scalar_bytes: MAX_BYTES,
            max_recorded_anchor_bytes: MAX_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 200_000 },
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        // `no` is a country and a language in lists of such.
        strict_booleans: true,
        with_snippet: false,
    };
    let mut exhausted = false;
    let read = serde_saphyr::with_deserializer_from_str_with_options(&text, options, |deserializer| {
        Bounded { budget, exhausted: &mut exhausted, texts: &mut { MAX_TEXTS }, depth: 0 }.deserialize(deserializer)
    });
    read.map_err(|error| problem(exhausted, error.to_string()))
}

fn problem(exhausted: bool, words: String) -> Problem {
    if exhausted { Problem::Exhausted(Exhausted) } else { Problem::Syntax(words) }
}

fn shortened(words: &str) -> String {
    let words = words.lines().next().unwrap_or_default();
    match words.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.to_owned(),
    }
}

/// Builds a [`Value`] and charges each part of it: a few megabytes of
/// brackets would take hundreds otherwise.
struct Bounded<'b> {
    budget: &'b mut Budget,
    exhausted: &'b mut bool,
    /// Bytes of texts left, which YAML can repeat.
    texts: &'b mut usize,
    depth: usize,
}

impl Bounded<'_> {
    fn text<E: serde::de::Error>(&mut self, text: &str) -> Result<(), E> {
        let left = self.texts.checked_sub(text.len());
        *self.exhausted |= left.is_none();
        *self.texts = left.unwrap_or(0);
        left.map(drop).ok_or_else(|| E::custom(Exhausted))
    }

    fn inner(&mut self) -> Bounded<'_> {
        Bounded { budget: self.budget, exhausted: self.exhausted, texts: self.texts, depth: self.depth + 1 }
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > MAX_DEPTH || self.budget.node().is_err() {
            *self.exhausted = true;
            return Err(D::Error::custom(Exhausted));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok((value as f64).into())
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok((value as f64).into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: serde::de::Error>(mut self, value: &str) -> Result<Value, E> {
        self.text(value)?;
        Ok(value.into())
    }

    fn visit_string<E: serde::de::Error>(mut self, value: String) -> Result<Value, E> {
        self.text(&value)?;
        Ok(value.into())
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self.inner())? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            self.text(&name)?;
            let value = map.next_value_seed(self.inner())?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Document, String> {
        Document::read(text, &mut Budget::default())
    }

    #[test]
    fn json_and_yaml_of_each_version_are_read() {
        for (text, version) in [
            (r#"{"openapi":"3.1.0","paths":{}}"#, Version::OpenApi3),
            ("\u{feff}\n{\"swagger\":\"2.0\",\"paths\":{}}", Version::Swagger2),
            ("openapi: 3.0.1\npaths: {}\n", Version::OpenApi3),
            ("swagger: 2.0\npaths: {}\n", Version::Swagger2),
            ("paths: {}\nhost: h\n", Version::Swagger2),
            ("paths: {}\n", Version::OpenApi3),
            ("# a comment\n---\nopenapi: '3.0.0'\npaths: {}\n", Version::OpenApi3),
            ("\n\n  openapi: 3.0.0\n  paths:\n    /x: {}\n", Version::OpenApi3),
            // Almost JSON.
            ("{\"openapi\": \"3.0.0\", \"paths\": {},}", Version::OpenApi3),
        ] {
            assert_eq!(read(text).map(|document| document.version), Ok(version), "{text}");
        }
    }

    #[test]
    fn yaml_keeps_its_texts() {
        let text = "openapi: 3.0.0\npaths: {}\nx:\n  200: a\n  no: no\n  big: 12345678901234567890\n  t: 2001-01-01\n  c: a\u{9f}b\n  anchor: &a [1]\n  alias: *a\n";
        assert_eq!(
            read(text).expect("a document").root["x"],
            json!({ "200": "a", "no": "no", "big": 12345678901234567890u64, "t": "2001-01-01", "c": "a b", "anchor": [1], "alias": [1] })
        );
    }

    #[test]
    fn what_else_was_pasted_is_named() {
        for (text, words) in [
            ("", "empty"),
            ("<html></html>", "web page"),
            ("just words", "text or a list"),
            ("{\"openapi\": \"3.0.0\", ", "not valid JSON: EOF"),
            ("a: [b\nc: d", "not valid YAML"),
            (r#"{"name":"f","parameters":{"type":"object"}}"#, "OpenAI functions"),
            (r#"[{"type":"function","function":{"name":"f","parameters":{}}}]"#, "OpenAI functions"),
            (r#"{"tools":[{"type":"function","function":{"name":"f","parameters":{}}}]}"#, "OpenAI functions"),
            (r#"{"asyncapi":"2.0.0"}"#, "AsyncAPI"),
            (r#"{"info":{},"item":[]}"#, "Postman"),
            (r#"{"schema_version":"v1","api":{"url":"u"}}"#, "manifest"),
            (r#"{"swagger":"1.2"}"#, "version 1.2"),
            (r#"{"openapi":"3.0.0","paths":{}"#, "not valid JSON"),
            (r#"{"info":{}}"#, "no `paths`"),
        ] {
            let problem = read(text).expect_err(words);
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let deep = format!("{{\"paths\":{}{}}}", "[".repeat(100), "]".repeat(100));
        let wide = format!("{{\"paths\":[{}0]}}", "[],".repeat(400_000));
        let mut aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..9 {
            let list = vec![format!("*a{}", level - 1); 9].join(",");
            aliases.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        let repeated = format!("a: &a {}\nb: [{}*a]\n", "x".repeat(1_000_000), "*a,".repeat(10_000));
        let deep_yaml = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect::<String>();
        for text in [deep, wide, aliases, repeated, deep_yaml, "x".repeat(MAX_BYTES + 1)] {
            let started = std::time::Instant::now();
            assert!(read(&text).is_err());
            assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
        }
    }
}
