//! Any text as a chat's body: no panic on the way to any provider's request,
//! and what is sent is JSON.

#![no_main]

use std::sync::LazyLock;

use chatbot_ui_api::{
    http::body::Body,
    llm::{
        anthropic, google,
        providers::{CUSTOM, OPENAI},
    },
};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;
use serde_json::value::RawValue;

static KEY: LazyLock<SecretString> = LazyLock::new(|| SecretString::from("k"));

fuzz_target!(|data: &[u8]| {
    let body = Body(String::from_utf8_lossy(data).into_owned());
    let Ok(body) = body.chat() else { return };
    let _ = body.custom_model_id();
    let _ = body.selected_tools();
    let Ok(chat) = body.chat() else { return };
    let base_url = "http://127.0.0.1/v1";
    let calls = [
        OPENAI.call(&chat, base_url, &KEY, None),
        CUSTOM.call(&chat, base_url, &KEY, None),
        anthropic::call(&chat, base_url, &KEY),
        google::call(&chat, base_url, &KEY),
    ];
    for call in calls.into_iter().flatten() {
        let sent = call.body.expect("a chat has a body");
        // Raw, since half a surrogate pair passes through to who takes it.
        serde_json::from_slice::<&RawValue>(&sent).expect("JSON");
        assert_eq!(call.url.host_str(), Some("127.0.0.1"), "the model's name leads elsewhere");
    }
});
