//! Headers that a user sets for every call of a tool.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;

use super::{
    arguments::{Argument, Members, text},
    parameter::is_the_connections,
};

/// The most headers of a tool.
const MAX_HEADERS: usize = 64;
/// The most bytes of a tool's headers.
const MAX_BYTES: usize = 32 * 1024;

/// Reads a tool's headers: a JSON object, as text or as it is.
///
/// # Errors
/// If it is something else, is too large, or names a header that is not the
/// tool's to set: a reason that begins with "its".
pub fn custom(headers: &RawValue) -> Result<HeaderMap, String> {
    if headers.get().len() > 2 * MAX_BYTES {
        return Err("its custom headers are too large".to_owned());
    }
    let written = text(headers);
    let written = written.trim();
    if written.is_empty() || written == "null" {
        return Ok(HeaderMap::new());
    }
    let raw: &RawValue = serde_json::from_str(written)
        .map_err(|_| "its custom headers are not a JSON object such as {\"x-api-key\": \"…\"}")?;
    let Argument::Object(Members(members)) = Argument::of(raw) else { return Ok(HeaderMap::new()) };
    if members.len() > MAX_HEADERS {
        return Err(format!("it has more than {MAX_HEADERS} custom headers"));
    }
    let mut map = HeaderMap::with_capacity(members.len());
    let mut bytes = 0;
    for (name, value) in members {
        let header =
            HeaderName::try_from(&name).map_err(|_| "its custom headers have one with an invalid name".to_owned())?;
        if is_the_connections(header.as_str()) {
            return Err(format!("its custom header `{header}` cannot be set"));
        }
        let value = text(value);
        bytes += name.len() + value.len();
        if bytes > MAX_BYTES {
            return Err("its custom headers are too large".to_owned());
        }
        let mut value = HeaderValue::try_from(value.trim())
            .map_err(|_| format!("its custom header `{header}` has an invalid value"))?;
        value.set_sensitive(true);
        map.insert(header, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn headers(value: Value) -> Result<HeaderMap, String> {
        custom(&RawValue::from_string(value.to_string()).expect("JSON"))
    }

    #[test]
    fn headers_are_read_as_text_or_as_they_are() {
        assert_eq!(headers(json!(r#"{"x-api-key":"k","n":1}"#)).expect("headers").len(), 2);
        assert_eq!(headers(json!({ "a": "b" })).expect("headers")["a"], "b");
        for none in [json!(""), json!("{}"), json!({}), json!("[1]"), Value::Null, json!("null")] {
            assert!(headers(none).expect("none").is_empty());
        }
    }

    #[test]
    fn headers_that_break_a_request_are_refused() {
        let many: serde_json::Map<String, Value> = (0..100).map(|number| (format!("h{number}"), json!(""))).collect();
        for wrong in [
            json!("no"),
            json!({ "a b": "c" }),
            json!({ "": "c" }),
            json!({ "a": "b\nc" }),
            json!({ "Host": "x" }),
            json!({ "transfer-encoding": "chunked" }),
            json!({ "Keep-Alive": "x" }),
            json!({ "a": "x".repeat(40_000) }),
            many.into(),
        ] {
            assert!(headers(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
