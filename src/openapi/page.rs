//! The document as one HTML page: no scripts, no external addresses, so that it can be read offline.

use std::{fmt::Write, sync::LazyLock};

use serde_json::{Map, Value};

use super::document;

const STYLE: &str = include_str!("page.css");

/// The content security policy of the page: only its own style, identified by its hash.
pub const POLICY: &str = "default-src 'none'; style-src 'sha256-RFVBlaKHMeP3J/0jTpgAPYjGinblClnTCU/HJgjRkXs='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Returns the page.
pub fn html() -> &'static str {
    static PAGE: LazyLock<String> = LazyLock::new(|| Page { document: document(), html: String::new() }.whole());
    &PAGE
}

struct Page<'a> {
    document: &'a Value,
    html: String,
}

impl<'a> Page<'a> {
    fn put(&mut self, html: &str) {
        self.html.push_str(html);
    }

    fn whole(mut self) -> String {
        let info = &self.document["info"];
        let (title, version) = (escape(text(&info["title"])), escape(text(&info["version"])));
        self.put(&format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} {version}: the API</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header><h1>{title} <small>{version}</small></h1></header>\n<nav aria-label=\"Operations\">\n"
        ));
        let tags = array(&self.document["tags"]);
        for tag in tags {
            let _ = write!(self.html, "<h2>{}</h2>\n<ul>\n", escape(text(&tag["name"])));
            for (method, path, operation) in self.operations(tag) {
                let id = escape(text(&operation["operationId"]));
                let _ = writeln!(self.html, "<li><a href=\"#{id}\">{} {}</a></li>", method, breakable(path));
            }
            self.put("</ul>\n");
        }
        self.put("<h2><a href=\"#requestBodies\">Shared requests</a></h2>\n<h2><a href=\"#responses\">Shared responses</a></h2>\n<h2><a href=\"#schemas\">Schemas</a></h2>\n</nav>\n<main>\n");
        self.prose(&info["description"]);
        self.put("<p>The document itself: <a href=\"/openapi.json\">openapi.json</a>, and in OpenAPI 3.0: <a href=\"/openapi-3.0.json\">openapi-3.0.json</a>.</p>\n");
        for tag in tags {
            let _ = writeln!(self.html, "<h2>{}</h2>", escape(text(&tag["name"])));
            self.prose(&tag["description"]);
            for (method, path, operation) in self.operations(tag) {
                self.operation(&method, path, operation);
            }
        }
        self.shared("requestBodies", "Shared requests");
        self.shared("responses", "Shared responses");
        self.put("<h2 id=\"schemas\">Schemas</h2>\n");
        for (name, schema) in object(&self.document["components"]["schemas"]) {
            let name = escape(name);
            let _ = write!(
                self.html,
                "<section id=\"schema-{name}\" aria-labelledby=\"title-{name}\">\n<h3 id=\"title-{name}\">{name}</h3>\n"
            );
            self.schema(schema);
            self.put("</section>\n");
        }
        self.put("</main>\n</body>\n</html>\n");
        self.html
    }

    /// Returns method, path and operation of those with a tag, in the document's order.
    fn operations(&self, tag: &Value) -> Vec<(String, &'a str, &'a Value)> {
        let items = object(&self.document["paths"]);
        let all = items.flat_map(|(path, item)| {
            object(item).map(move |(method, operation)| (method.to_uppercase(), path.as_str(), operation))
        });
        all.filter(|(_, _, operation)| array(&operation["tags"]).contains(&tag["name"])).collect()
    }

    fn operation(&mut self, method: &str, path: &str, operation: &'a Value) {
        let id = escape(text(&operation["operationId"]));
        let _ = write!(
            self.html,
            "<section id=\"{id}\" aria-labelledby=\"title-{id}\">\n<h3 id=\"title-{id}\"><span class=\"method\">{method}</span> {}</h3>\n<details>\n<summary>{}</summary>\n",
            breakable(path),
            inline(text(&operation["summary"])),
        );
        self.prose(&operation["description"]);
        self.put(if array(&operation["security"]).is_empty() {
            "<p class=\"access\">For everybody.</p>\n"
        } else {
            "<p class=\"access\">Needs a session: the cookie or a bearer.</p>\n"
        });
        let body = &operation["requestBody"];
        if body.is_object() {
            self.put("<h4>Request</h4>\n");
            self.shared_or_whole(body);
        }
        self.put("<h4>Responses</h4>\n<dl class=\"responses\">\n");
        for (status, response) in object(&operation["responses"]) {
            let _ = write!(self.html, "<dt>{}</dt>\n<dd>\n", escape(status));
            self.shared_or_whole(response);
            self.put("</dd>\n");
        }
        self.put("</dl>\n</details>\n</section>\n");
    }

    /// Writes a link to a shared part, or a part of its own.
    fn shared_or_whole(&mut self, part: &'a Value) {
        match shared_name(part) {
            Some((group, name)) => {
                let _ = writeln!(self.html, "<p><a href=\"#{group}-{name}\">{name}</a></p>", name = escape(name));
            }
            None => self.part(part),
        }
    }

    fn part(&mut self, part: &'a Value) {
        self.prose(&part["description"]);
        self.content(&part["content"]);
    }

    /// Writes the parts that several operations have, once.
    fn shared(&mut self, group: &str, title: &str) {
        let _ = writeln!(self.html, "<h2 id=\"{group}\">{title}</h2>");
        for (name, part) in object(&self.document["components"][group]) {
            let name = escape(name);
            let _ = write!(
                self.html,
                "<section id=\"{group}-{name}\" aria-labelledby=\"title-{group}-{name}\">\n<h3 id=\"title-{group}-{name}\">{name}</h3>\n"
            );
            self.part(part);
            self.put("</section>\n");
        }
    }

    /// Writes the media types, with their schemas and examples.
    fn content(&mut self, content: &'a Value) {
        for (media, shape) in object(content) {
            let (media, schema) = (escape(media), &shape["schema"]);
            let error = schema["$ref"] == "#/components/schemas/Error";
            if error {
                // The format of errors is described once, at the top.
                self.put("<ul class=\"sentences\">\n");
                for (_, example) in object(&shape["examples"]) {
                    let _ = writeln!(self.html, "<li>{}</li>", escape(text(&example["value"]["message"])));
                }
                self.put("</ul>\n");
                continue;
            }
            let _ = writeln!(self.html, "<p><code>{media}</code>: {}</p>", kind(schema));
            self.prose(&schema["description"]);
            let named = object(&shape["examples"]).map(|(name, example)| (escape(name), &example["value"]));
            let only = std::iter::once((media.clone(), &shape["example"]));
            for (name, example) in named.chain(only) {
                let example = match example {
                    Value::Null => continue,
                    Value::String(text) => text.clone(),
                    value => serde_json::to_string_pretty(value).unwrap_or_default(),
                };
                let _ = writeln!(
                    self.html,
                    "<details><summary>Example: {name}</summary><pre tabindex=\"0\">{}</pre></details>",
                    escape(&example)
                );
            }
        }
    }

    fn schema(&mut self, schema: &Value) {
        self.prose(&schema["description"]);
        if !schema["properties"].is_object() {
            let _ = writeln!(self.html, "<p>{}</p>", kind(schema));
            return;
        }
        self.put("<dl>\n");
        for (name, property) in object(&schema["properties"]) {
            let needed = array(&schema["required"]).iter().any(|required| required == name.as_str());
            let _ = write!(
                self.html,
                "<dt><code>{}</code> <small>{}{}</small></dt>\n<dd>\n",
                escape(name),
                kind(property),
                if needed { "" } else { ", optional" },
            );
            self.prose(&property["description"]);
            self.put("</dd>\n");
        }
        self.put("</dl>\n");
    }

    /// Writes text with the little Markdown that the document has: paragraphs, `## ` headings, fenced code.
    fn prose(&mut self, words: &Value) {
        for (number, block) in text(words).split("```").enumerate() {
            if number % 2 == 1 {
                let _ = writeln!(self.html, "<pre tabindex=\"0\">{}</pre>", escape(block.trim()));
                continue;
            }
            for paragraph in block.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
                let _ = match paragraph.strip_prefix("## ") {
                    Some(heading) => writeln!(self.html, "<h2>{}</h2>", inline(heading)),
                    None => writeln!(self.html, "<p>{}</p>", inline(paragraph)),
                };
            }
        }
    }
}

/// Returns the group and the name of a shared part that is referred to.
fn shared_name(part: &Value) -> Option<(&str, &str)> {
    part["$ref"].as_str()?.strip_prefix("#/components/")?.split_once('/')
}

/// Describes a schema's type in a few words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        let name = escape(name);
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    if !schema["const"].is_null() {
        return format!("<code>{}</code>", escape(&schema["const"].to_string()));
    }
    let either = |kinds: Vec<String>| kinds.join(" or ");
    if schema["enum"].is_array() {
        return either(
            array(&schema["enum"]).iter().map(|value| format!("<code>{}</code>", escape(&value.to_string()))).collect(),
        );
    }
    if schema["oneOf"].is_array() {
        return either(array(&schema["oneOf"]).iter().map(kind).collect());
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("list of {}", kind(&schema["items"])),
        Value::String(name) => match schema["format"].as_str() {
            Some(format) => format!("{} ({})", escape(name), escape(format)),
            None => escape(name),
        },
        Value::Array(names) => either(names.iter().map(|name| escape(text(name))).collect()),
        _ => "anything".to_owned(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Inserts line-break opportunities before the slashes of a path.
fn breakable(path: &str) -> String {
    escape(path).replace('/', "<wbr>/")
}

/// Renders a paragraph, with backticks as code.
fn inline(paragraph: &str) -> String {
    let mut html = String::new();
    for (index, part) in escape(paragraph).split('`').enumerate() {
        if index % 2 == 1 {
            let _ = write!(html, "<code>{part}</code>");
        } else {
            html.push_str(part);
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_policy_knows_the_style() {
        let hash = STANDARD.encode(Sha256::digest(STYLE));
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "page.css has changed: its hash is {hash} now");
    }

    #[test]
    fn shared_parts_are_there_once_and_the_page_is_short() {
        let sentence = "The bearer is not accepted: it has expired";
        assert_eq!(html().matches(sentence).count(), 1);
        assert!(html().len() < 80_000, "{}", html().len());
        assert!(html().contains("<h2>A first request</h2>"));
    }

    #[test]
    fn every_operation_is_on_the_page_and_every_link_leads_somewhere() {
        let page = html();
        for (path, item) in object(&document()["paths"]) {
            for (method, operation) in object(item) {
                let id = text(&operation["operationId"]);
                assert!(page.contains(&format!("<section id=\"{id}\"")), "{method} {path}");
            }
        }
        for link in page.split("href=\"#").skip(1) {
            let id = link.split('"').next().unwrap_or_default();
            assert!(page.contains(&format!(" id=\"{id}\"")), "{id}");
        }
    }

    #[test]
    fn nothing_of_the_document_becomes_markup() {
        assert_eq!(inline("a `<b>` & \"c\""), "a <code>&lt;b&gt;</code> &amp; &quot;c&quot;");
    }

    #[test]
    fn the_page_loads_nothing() {
        for tag in ["<script", "<link", "<img", " src=", "url(", "@import", " style="] {
            assert!(!html().contains(tag), "{tag}");
        }
    }
}
