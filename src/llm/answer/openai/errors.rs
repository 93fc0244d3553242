//! The forms in which servers that speak OpenAI's wire report an error inside
//! the stream, besides a member `error`, and the reasons for which they stop.

use serde_json::Value;

use crate::llm::{
    answer::output::Finish,
    error_body::{error_message, truthy},
};

/// The words of an event that is an error though it has no member `error`:
/// - `"object": "error"` (vLLM, Mistral) or a `type` with `error` in it;
/// - `error_code` (FastChat);
/// - `base_resp` with a status (MiniMax);
/// - `detail` (FastAPI);
/// - `message` or `msg` beside a code or status (DashScope, Zhipu).
///
/// For events without `choices`: with them, `message` may be anything.
pub fn stray_error(data: &str) -> Option<String> {
    let json: Value = serde_json::from_str(data).ok()?;
    let words = |names: &[&str]| {
        names.iter().find_map(|&name| json[name].as_str()).filter(|words| !words.is_empty()).map(str::to_owned)
    };
    let base = &json["base_resp"];
    if base["status_code"].as_i64().is_some_and(|code| code != 0) {
        return Some(base["status_msg"].as_str().map_or_else(|| error_message(data), str::to_owned));
    }
    let is_failure = |name: &str| match &json[name] {
        Value::Number(code) => code.as_f64().is_some_and(|code| code != 0.0 && !(200.0..300.0).contains(&code)),
        Value::String(code) => !matches!(code.to_ascii_lowercase().as_str(), "" | "0" | "200" | "ok" | "success"),
        _ => false,
    };
    let is_error = json["object"] == "error"
        || json["type"].as_str().is_some_and(|kind| kind.to_ascii_lowercase().contains("error"))
        || truthy(&json["error_code"])
        || truthy(&json["detail"])
        || (words(&["message", "msg"]).is_some()
            && (["code", "status", "status_code", "statusCode"].into_iter().any(is_failure)
                || json["success"] == false));
    is_error.then(|| words(&["message", "msg", "text"]).unwrap_or_else(|| error_message(data)))
}

/// The words of Groq's `x_groq`, if it holds an error.
pub fn groq_error(x_groq: &Value) -> Option<String> {
    truthy(&x_groq["error"]).then(|| match &x_groq["error"] {
        Value::String(words) => words.clone(),
        _ => error_message(&x_groq.to_string()),
    })
}

/// A `finish_reason`, JSON as it stands. One that is not known means that the
/// model came to an end of its own.
pub fn finish(reason: &str) -> Option<Finish> {
    let reason = reason.strip_prefix('"')?.strip_suffix('"').filter(|reason| !reason.is_empty())?;
    Some(match reason.to_ascii_lowercase().as_str() {
        "length" | "max_tokens" | "max_output_tokens" | "max_length" | "model_length" => Finish::Length,
        "tool_calls" | "tool_use" | "function_call" => Finish::Calls,
        "content_filter" | "content-filter" | "sensitive" | "safety" | "recitation" | "blocklist"
        | "prohibited_content" | "spii" => {
            Finish::Blocked("The provider's content filter stopped the answer".to_owned())
        }
        "refusal" => Finish::Blocked("The model refused to answer".to_owned()),
        "error" | "engine_error" | "network_error" | "abort" | "cancelled" | "insufficient_system_resource" => {
            Finish::Failed("The provider broke off the answer without saying why".to_owned())
        }
        _ => Finish::Stop,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_without_a_member_of_that_name() {
        for (data, words) in [
            (r#"{"object":"error","message":"busy","code":503}"#, "busy"),
            (r#"{"type":"server_error","message":"busy"}"#, "busy"),
            (r#"{"text":"busy","error_code":50004}"#, "busy"),
            (r#"{"id":"","choices":null,"base_resp":{"status_code":1004,"status_msg":"busy"}}"#, "busy"),
            (r#"{"detail":"busy"}"#, "busy"),
            (r#"{"code":"Throttling","message":"busy","request_id":"r"}"#, "busy"),
            (r#"{"code":500,"msg":"busy","success":false}"#, "busy"),
            (r#"{"msg":"busy","success":false}"#, "busy"),
        ] {
            assert_eq!(stray_error(data).as_deref(), Some(words), "{data}");
        }
        for data in [
            "{}",
            r#"{"usage":{}}"#,
            r#"{"type":"ping","message":"still here"}"#,
            r#"{"message":"fine","code":200}"#,
            r#"{"message":"fine","status":"ok","code":0}"#,
            r#"{"base_resp":{"status_code":0,"status_msg":"success"}}"#,
            r#"{"error_code":0,"text":"fine"}"#,
            "[]",
        ] {
            assert_eq!(stray_error(data), None, "{data}");
        }
    }

    #[test]
    fn reasons_to_stop() {
        assert_eq!(finish(r#""stop""#), Some(Finish::Stop));
        assert_eq!(finish(r#""eos_token""#), Some(Finish::Stop));
        assert_eq!(finish(r#""MAX_TOKENS""#), Some(Finish::Length));
        assert_eq!(finish(r#""tool_calls""#), Some(Finish::Calls));
        assert!(matches!(finish(r#""content_filter""#), Some(Finish::Blocked(_))));
        assert!(matches!(finish(r#""error""#), Some(Finish::Failed(_))));
        for none in [r#""""#, "null", "5", "{}", "\""] {
            assert_eq!(finish(none), None, "{none}");
        }
    }
}
