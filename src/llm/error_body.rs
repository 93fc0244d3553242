//! Error bodies: the words in what a provider sends in place of an answer.

use serde_json::Value;

use crate::js;

/// What an error's body says: the words in the original's order of search.
/// For an error inside a stream the event's data is the body.
///
/// Differs: a JSON body without an `error` member is quoted; the original
/// calls it empty.
pub fn error_message(body: &str) -> String {
    let json: Value = match serde_json::from_str(body) {
        Ok(json) => json,
        Err(_) if body.trim().is_empty() => return NO_BODY.to_owned(),
        Err(_) => return body.to_owned(),
    };
    if !truthy(&json) {
        return body.to_owned();
    }
    let error = &json["error"];
    let words = if truthy(&error["message"]) {
        &error["message"]
    } else if truthy(error) {
        return js::stringify(error);
    } else {
        [&json["message"], &json["detail"]].into_iter().find(|words| truthy(words)).unwrap_or(&json)
    };
    words.as_str().map_or_else(|| js::stringify(words), str::to_owned)
}

/// What the original says where an error has no body.
const NO_BODY: &str = "status code (no body)";

/// Truth as JavaScript sees it.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_error() {
        for (body, words) in [
            (r#"{"error":{"message":"no","type":"t"}}"#, "no"),
            (r#"{"error":{"type":"x","code":7}}"#, r#"{"type":"x","code":7}"#),
            (r#"{"error":{"message":"","type":"q"}}"#, r#"{"message":"","type":"q"}"#),
            (r#"{"error":{"message":{"a":1}}}"#, r#"{"a":1}"#),
            (r#"{"error":{"message":5}}"#, "5"),
            (r#"{"error":"plain"}"#, r#""plain""#),
            (r#"{"error":["x"]}"#, r#"["x"]"#),
            (r#"{"error":7}"#, "7"),
            (r#"{"error":{}}"#, "{}"),
            ("null", "null"),
            ("false", "false"),
            ("0", "0"),
            ("Bad gateway <b>", "Bad gateway <b>"),
            ("", NO_BODY),
            // Differs from here on.
            (r#"{"message":"top"}"#, "top"),
            (r#"{"detail":[{"loc":["body"]}]}"#, r#"[{"loc":["body"]}]"#),
            (r#"{"error":null}"#, r#"{"error":null}"#),
            ("[1]", "[1]"),
        ] {
            assert_eq!(error_message(body), words, "{body}");
        }
    }
}
