//! Any text as a tool's OpenAPI document, its headers, and what the model
//! calls its functions with: no panic, no document that takes for ever, no
//! request that leads away from the tool's server.

#![no_main]

use chatbot_ui_api::tools::{
    budget::Budget,
    names::Names,
    offer::{MAX_FUNCTIONS, Tool, offer},
    request::request,
};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // The arguments follow the document, as YAML has many lines.
    let (document, arguments) = text.rsplit_once("\n\n").unwrap_or((&text, "{}"));
    let headers = RawValue::from_string(arguments.to_owned()).ok();
    let tool = Tool { name: "T".to_owned(), document: Ok(document.to_owned()), location: None, headers };
    let offered = offer(vec![tool], Names::default(), Budget::default());
    assert_eq!(offered.functions.is_empty(), !offered.unusable.is_empty());
    assert!(offered.functions.len() <= MAX_FUNCTIONS);
    for function in &offered.functions {
        assert!((1..=64).contains(&function.name.len()));
        assert!(function.schema["properties"].is_object());
        let Ok(request) = request(function, arguments) else { continue };
        // What the model says must not lead elsewhere.
        let server = url::Url::parse(&function.operation.server).expect("it was read");
        assert_eq!(request.url.host(), server.host(), "{}", request.url);
    }
});
