//! Function calls that nobody offered functions for, shown as the original's
//! front end expects them: as JSON written piece by piece into the text.

use serde_json::{Value, value::RawValue};

use super::chunk::{Choice, Delta};

/// Adds a piece of a call to `text`. Returns `false` if the delta has none of
/// it, so that its content counts. `in_call` is the state between two events.
pub fn show(in_call: &mut bool, delta: &Delta<'_>, choice: &Choice<'_>, text: &mut String) -> bool {
    let value = |raw: Option<&RawValue>| -> Value {
        raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    };
    let function_call = value(delta.function_call);
    let tool_call = value(delta.tool_calls).get_mut(0).map(Value::take).unwrap_or_default();
    let finish_reason = value(choice.finish_reason);
    let filled = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);

    if let Some(name) = filled(&function_call["name"]) {
        *in_call = true;
        text.push_str(&format!(r#"{{"function_call": {{"name": "{name}", "arguments": ""#));
    } else if let Some(name) = filled(&tool_call["function"]["name"]) {
        *in_call = true;
        let id = tool_call["id"].as_str().unwrap_or("undefined");
        let before = if tool_call["index"].as_i64() == Some(0) { r#"{"tool_calls":[ "# } else { r#""}}, "# };
        text.push_str(&format!(
            r#"{before}{{"id": "{id}", "type": "function", "function": {{"name": "{name}", "arguments": ""#
        ));
    } else if let Some(arguments) = filled(&function_call["arguments"]) {
        text.push_str(&escaped(&arguments));
    } else if let Some(arguments) = filled(&tool_call["function"]["arguments"]) {
        text.push_str(&escaped(&arguments));
    } else if *in_call && matches!(finish_reason.as_str(), Some("function_call" | "stop")) {
        *in_call = false;
        text.push_str(r#""}}"#);
    } else if *in_call && finish_reason == "tool_calls" {
        *in_call = false;
        text.push_str(r#""}}]}"#);
    } else {
        return false;
    }
    true
}

/// Quotes the arguments of a call once more, the way the original does.
fn escaped(arguments: &str) -> String {
    let mut escaped = String::with_capacity(arguments.len() + 8);
    for character in arguments.chars() {
        match character {
            '\\' => escaped.push_str(r"\\"),
            '/' => escaped.push_str(r"\/"),
            '"' => escaped.push_str(r#"\""#),
            '\n' => escaped.push_str(r"\n"),
            '\r' => escaped.push_str(r"\r"),
            '\t' => escaped.push_str(r"\t"),
            '\u{c}' => escaped.push_str(r"\f"),
            other => escaped.push(other),
        }
    }
    escaped
}
