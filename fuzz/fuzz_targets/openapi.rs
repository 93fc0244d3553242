//! Any text as a tool's OpenAPI document, its headers, and what the model
//! calls its functions with: no panic, no call with a body to a method that
//! was not written, no document that takes for ever.

#![no_main]

use chatbot_ui_api::tools::{
    invoke::{custom_headers, url},
    openapi::{Budget, operations},
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (document, arguments) = text.split_once('\n').unwrap_or((&text, "{}"));
    let document = Value::String(document.to_owned());
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    let _ = custom_headers(&arguments);
    let _ = custom_headers(&document);
    let mut budget = Budget::default();
    let Ok(operations) = operations(&document, &mut budget) else { return };
    for operation in operations {
        assert!(!operation.name.is_empty());
        assert!(operation.function["function"]["parameters"]["properties"].is_object());
        let Ok(url) = url(&operation, &arguments) else { continue };
        // What the model says must not lead away from the tool's server.
        if let Ok(server) = url::Url::parse(&operation.server) {
            // The document's author may write the host into the path.
            if server.has_host() && !operation.server.contains(['?', '#']) && operation.path.starts_with('/') {
                assert_eq!(url.host(), server.host(), "{url}");
            }
        }
    }
});
