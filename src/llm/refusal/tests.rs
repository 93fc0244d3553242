use serde_json::{Value, json};

use super::*;

fn refusal(status: u16, model: &str, sent: &Value, error: &Value) -> Option<Refusal> {
    let body = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
    let sent = sent.to_string();
    let members: Members<'_> = serde_json::from_str(&sent).expect("an object");
    read(status, &body, &Refused { model, wire: Wire::Chat, sent: &members })
}

/// What is changed of a request with a temperature and a limit.
fn changes(status: u16, error: &Value) -> Adaptation {
    let sent = json!({ "model": "m-9", "messages": [], "temperature": 0.5, "max_tokens": 4096, "stream": true });
    match refusal(status, "m-9", &sent, error) {
        Some(Refusal::Parameters(adaptation)) => adaptation,
        other => panic!("{error}: {other:?}"),
    }
}

fn left_out(names: &[&str]) -> Adaptation {
    Adaptation { left_out: names.iter().map(|name| (*name).to_owned()).collect(), ..Adaptation::default() }
}

#[test]
fn a_parameter_that_is_not_taken_is_left_out() {
    let nested = json!({ "type": "error", "error": { "message": "`temperature` is deprecated for this model." } });
    for error in [
        json!({ "error": { "message": "Unsupported value: 'temperature' does not support 0.5 with this model.", "param": "temperature", "code": "unsupported_value" } }),
        json!({ "error": { "message": "Model incompatible request argument supplied: temperature", "param": null } }),
        json!({ "error": { "message": "invalid temperature: only 1 is allowed for this model" } }),
        json!({ "error": { "message": format!("GatewayError: Backend - {nested}. Received Group=m-9"), "param": null } }),
        json!({ "error": { "message": "Provider returned error", "metadata": { "raw": nested.to_string() } } }),
        json!({ "error": { "message": "m-9 does not support parameters: ['temperature']" } }),
        json!({ "detail": [{ "type": "extra_forbidden", "loc": ["body", "temperature"], "msg": "not permitted", "input": 0.5 }] }),
        json!({ "object": "error", "message": { "detail": [{ "loc": ["body", "temperature"], "msg": "Extra" }] } }),
        json!({ "error": "property 'temperature' is unsupported" }),
        json!("temperature is not supported"),
    ] {
        assert_eq!(changes(400, &error), left_out(&["temperature"]), "{error}");
    }
}

#[test]
fn a_limit_is_renamed_lowered_or_added() {
    let limit = |name, number| Adaptation { limit: Some((name, number)), ..Adaptation::default() };
    let error = |message: &str| json!({ "error": { "message": message } });
    assert_eq!(
        changes(400, &error("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")),
        limit("max_completion_tokens", None)
    );
    for message in [
        "max_tokens: 4096 > 2048, which is the maximum allowed number of output tokens for m-9",
        "max_tokens is too large: 4096. This model supports at most 2048 completion tokens, whereas you provided 4096.",
        "`max_tokens` must be less than or equal to `2048`, the maximum value for `max_tokens`",
    ] {
        assert_eq!(changes(400, &error(message)), limit("max_tokens", Some(2048)), "{message}");
    }
    let without = json!({ "model": "m" });
    assert_eq!(
        refusal(400, "m", &without, &error("max_output_tokens is required for these models")),
        Some(Refusal::Parameters(limit("max_output_tokens", Some(8192))))
    );
}

#[test]
fn a_temperature_out_of_range_is_lowered() {
    let most = |most, sent: f64, message: &str| {
        let sent = json!({ "temperature": sent });
        let adaptation = Adaptation { max_temperature: Some(most), ..Adaptation::default() };
        let error = json!({ "error": { "message": message } });
        assert_eq!(refusal(400, "m", &sent, &error), Some(Refusal::Parameters(adaptation)), "{message}");
    };
    most(1.0, 1.4, "temperature: range: 0..1");
    most(2.0, 2.5, "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 2.5 instead.");
    most(1.5, 2.0, "temperature: Input should be less than or equal to 1.5");
}

#[test]
fn several_refused_at_once_are_all_changed() {
    let error = json!({ "detail": [
        { "loc": ["body", "temperature"], "msg": "Extra inputs are not permitted" },
        { "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted" },
    ] });
    assert_eq!(changes(422, &error), left_out(&["temperature", "max_tokens"]));
    let sent = json!({ "stream_options": {}, "prompt_cache_key": "k", "temperature": 0.5 });
    let error =
        json!({ "error": { "message": "Unknown parameter: 'prompt_cache_key'.", "param": "prompt_cache_key" } });
    assert_eq!(
        refusal(400, "m", &sent, &error),
        Some(Refusal::Parameters(left_out(&["prompt_cache_key", "stream_options"])))
    );
}

#[test]
fn googles_and_the_other_wires_names() {
    let sent = json!({ "generationConfig": { "temperature": 0.5 }, "contents": [] });
    let error = json!({ "error": { "code": 400, "message": "Invalid value at 'generation_config.temperature': this model does not support temperature." } });
    assert_eq!(refusal(400, "m", &sent, &error), Some(Refusal::Parameters(left_out(&["generationConfig"]))));
    let sent = json!({ "reasoning": { "effort": "none" } });
    let error = json!({ "error": { "message": "Unsupported value", "param": "reasoning.effort" } });
    assert_eq!(refusal(400, "m", &sent, &error), Some(Refusal::Parameters(left_out(&["reasoning"]))));
}

#[test]
fn a_role_that_is_not_known() {
    let sent = json!({ "messages": [] });
    for message in ["'messages[0].role' does not support 'system' with this model.", "System role not supported"] {
        let adaptation = Adaptation { system_as_user: true, ..Adaptation::default() };
        let error = json!({ "error": { "message": message } });
        assert_eq!(refusal(400, "m", &sent, &error), Some(Refusal::Parameters(adaptation)), "{message}");
    }
}

#[test]
fn a_model_that_is_gone_unknown_or_closed() {
    for (status, error) in [
        (
            404,
            json!({ "error": { "message": "The model `m-9` does not exist or you do not have access to it.", "code": "model_not_found" } }),
        ),
        (
            403,
            json!({ "error": { "message": "Project `p` does not have access to model `m-9`", "code": "model_not_found" } }),
        ),
        (404, json!({ "type": "error", "error": { "type": "not_found_error", "message": "model: m-9" } })),
        (
            400,
            json!({ "error": { "message": "The model `m-9` has been decommissioned and is no longer supported.", "code": "model_decommissioned" } }),
        ),
        (400, json!({ "object": "error", "message": "Invalid model: m-9", "type": "invalid_model", "code": "1500" })),
        (400, json!({ "error": { "message": "m-9 is not a valid model ID", "code": 400 } })),
        (404, json!({ "error": { "message": "No endpoints found for m-9.", "code": 404 } })),
        (400, json!({ "code": "invalid-argument", "error": "Model not found: m-9" })),
        (
            400,
            json!({ "error": { "message": "validation failed: model \"m-9\" is not supported", "type": "invalid_request" } }),
        ),
        (
            403,
            json!({ "error": { "message": "The model `m-9` is blocked at the project level.", "type": "permissions_error" } }),
        ),
        (
            404,
            json!({ "error": { "message": "models/m-9 is not found for API version v1beta", "status": "NOT_FOUND" } }),
        ),
        (410, json!("Gone")),
    ] {
        let sent = json!({ "model": "m-9", "temperature": 0.5 });
        assert_eq!(refusal(status, "m-9", &sent, &error), Some(Refusal::Model { successor: None }), "{error}");
    }
}

#[test]
fn a_successor_that_is_named() {
    let named = |message: &str| {
        let error = json!({ "error": { "code": 404, "message": message, "status": "NOT_FOUND" } });
        match refusal(404, "m-9", &json!({}), &error) {
            Some(Refusal::Model { successor }) => successor,
            other => panic!("{other:?}"),
        }
    };
    let message = |id: &str| {
        format!(
            "This model models/m-9 is no longer available. Please update your code to use models/{id} for the newest."
        )
    };
    assert_eq!(named(&message("m-10.5-fast")).as_deref(), Some("m-10.5-fast"));
    assert_eq!(named(&message("../x")), None);
    assert_eq!(named("models/m-9 is no longer available. Please update your code to use a newer model."), None);
}

#[test]
fn another_api() {
    let wire = |message: &str| {
        let error = json!({ "error": { "message": message, "param": "model" } });
        refusal(404, "m-9", &json!({ "tools": [] }), &error)
    };
    for message in [
        "This model is only supported in v1/responses and not in v1/chat/completions.",
        "Function tools are not supported for m-9 in /v1/chat/completions. To use function tools, use /v1/responses.",
        "This is now another API. Use `/v1/responses` instead of `/chat/completions`.",
    ] {
        assert_eq!(wire(message), Some(Refusal::Wire(Wire::Responses)), "{message}");
    }
    assert_eq!(wire("Only supported in v1/chat/completions, m-9 not found"), Some(Refusal::Model { successor: None }));
    assert_eq!(wire("Invalid URL (POST /v1/other)"), Some(Refusal::Path));
}

#[test]
fn what_nothing_can_be_learnt_from() {
    let sent = json!({ "model": "m-9", "messages": [], "temperature": 0.5, "stream": true });
    for (status, error) in [
        (401, json!({ "error": { "message": "Incorrect API key provided", "code": "invalid_api_key" } })),
        (400, json!({ "error": { "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": [] } })),
        (
            400,
            json!({ "error": { "message": "Your prompt was flagged as violating our usage policy", "code": "invalid_prompt" } }),
        ),
        (
            400,
            json!({ "error": { "message": "the messages are longer than the context", "code": "context_length_exceeded" } }),
        ),
        (429, json!({ "error": { "message": "m-9 is not available: temperature" } })),
        (500, json!({ "error": { "message": "unsupported temperature" } })),
        (
            400,
            json!({ "detail": [{ "loc": ["body", "messages", 0], "msg": "is wrong", "input": "temperature is not supported" }] }),
        ),
        (400, json!(null)),
        (400, json!("")),
    ] {
        assert_eq!(refusal(status, "m-9", &sent, &error), None, "{error}");
    }
}
