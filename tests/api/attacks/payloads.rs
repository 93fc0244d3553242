//! What an attacker sends: bodies, tools' documents, calls and files that are small to send and dear to read.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};
use serde_json::{Map, Value, json};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::support::upstream::{Reply, Step};

const MEBIBYTE: usize = 1024 * 1024;

/// Bodies of chats, each of some 30 MB; less for a debug build, which takes ten times as long for each byte.
pub fn bodies() -> Vec<String> {
    const MEBIBYTE: usize = if cfg!(debug_assertions) { 256 * 1024 } else { 1024 * 1024 };
    let chat = |messages: &str| format!(r#"{{"chatSettings":{{"model":"gpt-4"}},"messages":[{messages}]}}"#);
    let content = |content: &str| chat(&format!(r#"{{"role":"user","content":{content}}}"#));
    vec![
        content(&format!("\"{}\"", "x".repeat(30 * MEBIBYTE))),
        content(&format!("\"{}\"", "\\u00e9".repeat(5 * MEBIBYTE))),
        content(&format!("[{}0]", "[],".repeat(10 * MEBIBYTE))),
        content(&format!("{}{}", "[".repeat(15 * MEBIBYTE), "]".repeat(15 * MEBIBYTE))),
        chat(&format!("{}{{}}", r#"{"role":"user"},"#.repeat(MEBIBYTE))),
        chat(&format!("{}{{}}", r#"{"role":"user","content":""},"#.repeat(40_000))),
    ]
}

fn tool(document: &Value) -> Value {
    json!([{ "name": "T", "schema": document.to_string(), "custom_headers": "{}" }])
}

fn document(paths: Value, components: Value) -> Value {
    json!({ "openapi": "3.0.0", "servers": [{ "url": "http://127.0.0.1:9" }], "paths": paths, "components": components })
}

/// So many paths with the same operation.
fn paths(count: usize, operation: &Value) -> Value {
    (0..count)
        .map(|number| (format!("/p{number}"), json!({ "get": operation, "post": operation })))
        .collect::<Map<_, _>>()
        .into()
}

/// Documents of tools, by what is wrong with them.
pub fn tools() -> Vec<(&'static str, Value)> {
    let reference = |name: &str| json!({ "$ref": format!("#/components/{name}") });
    let body = |schema: Value| json!({ "requestBody": { "content": { "application/json": { "schema": schema } } } });
    // Each schema has the next one ten times.
    let tree: Map<String, Value> = (0..30)
        .map(|level| {
            let next = reference(&format!("schemas/s{}", level + 1));
            let properties: Map<String, Value> = (0..10).map(|number| (format!("x{number}"), next.clone())).collect();
            (format!("s{level}"), json!({ "type": "object", "properties": properties }))
        })
        .collect();
    let chain: Map<String, Value> =
        (0..50_000).map(|level| (format!("s{level}"), reference(&format!("schemas/s{}", level + 1)))).collect();
    let default: Vec<Value> = vec![json!([]); 100_000];
    let large = json!({ "schemas": { "large": { "type": "string", "default": default } } });
    let many_large: Vec<Value> = vec![reference("schemas/large"); 2000];
    let long_name = json!({ "parameters": { "p": { "name": "n".repeat(MEBIBYTE), "in": "query" } } });
    let heavy =
        json!({ "parameters": { "p": { "name": "p", "in": "query", "schema": { "x": "y".repeat(3 * MEBIBYTE) } } } });
    let with_parameter = |name: &str| json!({ "parameters": vec![reference(name); 150] });
    let mut servers = document(paths(20_000, &json!({})), json!({}));
    servers["servers"] = vec![json!({ "url": "ftp://h" }); 20_000].into();
    let mut variables = document(paths(200, &json!({})), json!({}));
    variables["servers"] = json!([{ "url": format!("http://h/{}", "{v}".repeat(600)), "variables": { "v": { "default": "v".repeat(MEBIBYTE) } } }]);
    let mut media = Map::new();
    media.insert(format!("application/{}", "x".repeat(2 * MEBIBYTE)), json!({}));
    let media = document(
        paths(128, &reference("requests/r")),
        json!({ "requests": { "r": { "requestBody": { "content": media } } } }),
    );
    let placeholders = Map::from_iter([(format!("/{}", "{x}".repeat(MEBIBYTE)), json!({ "get": {} }))]);
    let headers = json!([{ "name": "T", "schema": document(paths(64, &json!({})), json!({})).to_string(), "custom_headers": { "x": "y".repeat(30_000) } }]);
    let anchors =
        format!("openapi: 3.0.0\npaths: {{}}\na: &a {}\nb: [{}*a]\n", "x".repeat(MEBIBYTE), "*a,".repeat(200_000));
    vec![
        ("a tree of references", tool(&document(paths(64, &body(reference("schemas/s0"))), json!({ "schemas": tree })))),
        ("a chain of references", tool(&document(paths(64, &body(reference("schemas/s0"))), json!({ "schemas": chain })))),
        ("a default a thousand times", tool(&document(paths(64, &body(json!({ "anyOf": many_large }))), large))),
        ("a parameter with a long name", tool(&document(paths(64, &with_parameter("parameters/p")), long_name))),
        ("a heavy parameter", tool(&document(paths(64, &with_parameter("parameters/p")), heavy))),
        ("many servers", tool(&servers)),
        ("a server's variable", tool(&variables)),
        ("a long media type", tool(&media)),
        ("a path of placeholders", tool(&document(placeholders.into(), json!({})))),
        ("headers", headers),
        ("anchors", json!([{ "name": "T", "schema": anchors }])),
        ("brackets", json!([{ "name": "T", "schema": format!("{{\"paths\":[{}0]}}", "[],".repeat(MEBIBYTE)) }])),
        ("many documents", vec![json!({ "name": "T", "schema": document(paths(100, &json!({})), json!({ "x": "y".repeat(200_000) })).to_string() }); 64].into()),
    ]
}

/// Tools whose calls grow with what the model says.
pub fn tools_that_grow(server: &str) -> Vec<Value> {
    let with = |path: &str, operation: Value| {
        let mut paths = Map::new();
        paths.insert(path.to_owned(), json!({ "post": operation }));
        tool(&json!({ "openapi": "3.0.0", "servers": [{ "url": format!("{server}/tool") }], "paths": paths }))
    };
    let query = json!({ "operationId": "f", "parameters": [{ "name": "list".repeat(2000), "in": "query", "schema": { "type": "array" } }] });
    let form = |media: &str| json!({ "operationId": "f", "requestBody": { "content": { media: { "schema": { "type": "object" } } } } });
    vec![
        with("/x", query),
        with("/x", form("multipart/form-data")),
        with("/x", form("application/x-www-form-urlencoded")),
        with(&format!("/{}", "{list}/".repeat(250)), json!({ "operationId": "f" })),
    ]
}

/// An answer that calls the function `f` eight times, with a list of very many items under a long name.
pub fn calls() -> Reply {
    let list = format!("[{}1]", "1,".repeat(50_000));
    let name = "list".repeat(2000);
    let long = "n".repeat(60_000);
    let arguments = format!(r#"{{"{name}":{list},"list":"{}","requestBody":{{"{long}":{list}}}}}"#, "y".repeat(20_000));
    let calls: Vec<Value> = (0..8)
        .map(|index| json!({ "index": index, "id": format!("c{index}"), "type": "function", "function": { "name": "f", "arguments": arguments } }))
        .collect();
    let call = json!({ "choices": [{ "delta": { "tool_calls": calls }, "finish_reason": "tool_calls" }] });
    Reply::events(&[&format!("data: {call}\n\n")], Step::Write(b"data: [DONE]\n\n".to_vec()))
}

/// Names of files; see [`file`].
pub const FILES: [&str; 9] = [
    "deep.json",
    "members.json",
    "escapes.json",
    "wide.csv",
    "paragraphs.docx",
    "text.docx",
    "bomb.pdf",
    "text.pdf",
    "long.txt",
];

/// A file that is small, and large or slow once it is read.
pub fn file(name: &str) -> Vec<u8> {
    match name {
        "deep.json" => "[".repeat(2 * MEBIBYTE).into_bytes(),
        "members.json" => {
            let members: Vec<String> = (0..100_000).map(|number| format!("\"{number}\":1")).collect();
            format!("{{{}}}", members.join(",")).into_bytes()
        }
        "escapes.json" => format!("[\"{}\"]", "\\u0041".repeat(MEBIBYTE / 2)).into_bytes(),
        "wide.csv" => format!("{}\n{}\n", "a,".repeat(100_000), "b,".repeat(100_000)).into_bytes(),
        "paragraphs.docx" => docx("<w:p>", MEBIBYTE),
        "text.docx" => docx("<w:p><w:r><w:t>word word word</w:t></w:r></w:p>", MEBIBYTE / 8),
        "bomb.pdf" => pdf(&vec![b' '; 64 * MEBIBYTE]),
        "text.pdf" => pdf("(Hello world) Tj 0 -10 Td ".repeat(30_000).as_bytes()),
        _ => "word ".repeat(MEBIBYTE).into_bytes(),
    }
}

/// A Word document with this in its body so many times.
fn docx(piece: &str, times: usize) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("word/document.xml", SimpleFileOptions::default().compression_level(Some(1))).expect("a part");
    let space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main";
    write!(zip, "<w:document xmlns:w=\"{space}\"><w:body>").expect("written");
    let pieces = piece.repeat(1024);
    for _ in 0..times / 1024 {
        zip.write_all(pieces.as_bytes()).expect("written");
    }
    zip.finish().expect("whole").into_inner()
}

/// A PDF of one page with this content, compressed.
fn pdf(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(b"BT /F 9 Tf ").expect("written");
    encoder.write_all(content).expect("written");
    encoder.write_all(b" ET").expect("written");
    let content = encoder.finish().expect("whole");
    let mut pdf =
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n\
        3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 900 900]/Resources<</Font<</F 4 0 R>>>>/Contents 5 0 R>>endobj\n\
        4 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\n"
            .to_vec();
    pdf.extend_from_slice(format!("5 0 obj<</Filter/FlateDecode/Length {}>>stream\n", content.len()).as_bytes());
    pdf.extend_from_slice(&content);
    pdf.extend_from_slice(b"\nendstream endobj\ntrailer<</Root 1 0 R/Size 6>>\n%%EOF\n");
    pdf
}
