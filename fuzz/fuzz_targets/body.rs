//! Any bytes as a chat's body: no panic on the way to any provider's request,
//! and what is sent is JSON.

#![no_main]

use chatbot_ui_api::{
    allowance::Buffers,
    http::{body::Body, chat_body::ChatBody},
    llm::{
        Attempt, Wire,
        access::Access,
        anthropic,
        catalogue::catalogue,
        google,
        providers::{CUSTOM, OPENAI},
        request::{Extras, Prompt},
    },
};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use std::sync::Arc;
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let charge = Arc::new(Buffers::new(usize::MAX)).charge(Uuid::nil(), data.len()).expect("room");
    let Ok(mut body) = Body::new(data.to_vec(), charge).and_then(ChatBody::parse) else { return };
    let _ = body.custom_model_id();
    let _ = body.take_selected_tools();
    let chat = body.chat();
    let access = Access {
        base_url: "http://127.0.0.1/v1".to_owned(),
        key: "k".into(),
        organization: None,
        extras: Extras { usage: true, cache_key: None, user: Some("u".to_owned()) },
    };
    let attempt = |provider, wire| {
        let rules = catalogue().model_or_family(provider, &chat.model);
        Attempt { model: &chat.model, wire, rules, search: true, old_path: false }
    };
    let calls = [
        OPENAI.call(Prompt::new(&chat), &attempt("openai", Wire::Chat), &access),
        OPENAI.call(Prompt::new(&chat), &attempt("openai", Wire::Responses), &access),
        CUSTOM.call(Prompt::new(&chat), &attempt("", Wire::Chat), &access),
        anthropic::call(&chat, &attempt("anthropic", Wire::Messages), &access),
        google::call(&chat, &attempt("google", Wire::Generate), &access),
    ];
    for call in calls.into_iter().flatten() {
        let sent = call.body.expect("a chat has a body");
        // Raw, since half a surrogate pair passes through to who takes it.
        serde_json::from_slice::<&RawValue>(&sent).expect("JSON");
        assert_eq!(call.url.host_str(), Some("127.0.0.1"), "the model's name leads elsewhere");
    }
});
