//! One call of a tool: the model's arguments → a request through the guard →
//! what the model is told.

use percent_encoding::utf8_percent_encode;
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;
use url::Url;

use super::{ToolClient, openapi::Operation};
use crate::{
    error::Error,
    http_client::{self, ReadError},
    js::{self, COMPONENT},
};

/// What a model can be told of at most, in bytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Calls an operation with the model's arguments. An answer that is no success is an answer too:
/// `{"error": "<reason>"}`.
///
/// # Errors
/// A sentence with the tool's name: arguments that do not fit, an address that
/// the guard refuses, no answer, or one that is not JSON.
pub async fn invoke(
    client: &ToolClient,
    operation: &Operation,
    headers: &HeaderMap,
    arguments: &str,
) -> Result<Value, Error> {
    let failed =
        |reason: &str| Error::Provider { status: 500, message: format!("The tool `{}` {reason}", operation.name) };
    let arguments: Value =
        serde_json::from_str(arguments.trim()).map_err(|_| failed("was called with arguments that are not JSON"))?;
    let url = url(operation, &arguments["parameters"]).map_err(|reason| failed(&reason))?;
    client.http.policy.check_url(&url).map_err(|refusal| Error::BadRequest(refusal.to_string()))?;

    let mut request =
        client.http.client.request(operation.method.clone(), url).headers(headers.clone()).timeout(client.timeout);
    if operation.has_body && operation.method != Method::GET {
        let body = match &arguments["requestBody"] {
            Value::Null => &arguments,
            body => body,
        };
        // The tool's own content type wins, as in the original.
        if !headers.contains_key(CONTENT_TYPE) {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request = request.body(js::stringify(body));
    }
    let response = request.send().await.map_err(|error| match http_client::refusal(&error) {
        Some(refusal) => Error::BadRequest(refusal.to_string()),
        None => failed(if error.is_timeout() { "did not answer in time" } else { "could not be reached" }),
    })?;
    if !response.status().is_success() {
        let reason =
            response.status().canonical_reason().map_or_else(|| response.status().as_u16().to_string(), str::to_owned);
        return Ok(serde_json::json!({ "error": reason }));
    }
    let body = http_client::read(response, MAX_ANSWER_BYTES).await.map_err(|error| match error {
        ReadError::TooLarge => failed("answered with more than 1 MiB"),
        ReadError::Broken(error) if error.is_timeout() => failed("did not answer in time"),
        ReadError::Broken(_) => failed("broke off its answer"),
    })?;
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&body);
    serde_json::from_slice(body).map_err(|_| failed("answered with something that is not JSON"))
}

/// Where a call goes: the model's parameters in their places of the path, the
/// others in the query. Not yet checked by the guard.
///
/// # Errors
/// What comes after "The tool" in a sentence: a parameter that is missing or
/// would lead elsewhere, a server whose URL is none.
pub fn url(operation: &Operation, parameters: &Value) -> Result<Url, String> {
    let mut path = String::new();
    let mut rest = operation.path.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("has a path with a brace that is never closed")?;
        let value =
            Some(&parameters[name]).filter(|value| !value.is_null()).map(text).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| format!("was called without `{name}`, which its path needs"))?;
        // A segment of dots would lead out of the path that the tool's owner chose.
        if matches!(value.as_str(), "." | "..") {
            return Err(format!("was called with a `{name}` that is no name"));
        }
        path.push_str(before);
        path.extend(utf8_percent_encode(&value, COMPONENT));
        rest = after;
    }
    path.push_str(rest);
    let mut url = Url::parse(&format!("{}{path}", operation.server.trim_end_matches('/')))
        .map_err(|_| "has a server whose URL is none")?;
    let in_query: Vec<(&String, &Value)> = parameters
        .as_object()
        .map(|parameters| {
            parameters.iter().filter(|(name, value)| !value.is_null() && goes_into_query(operation, name)).collect()
        })
        .unwrap_or_default();
    if !in_query.is_empty() {
        url.query_pairs_mut().extend_pairs(in_query.into_iter().map(|(name, value)| (name, text(value))));
    }
    Ok(url)
}

/// Without a body all of them, as in the original, the path's too.
fn goes_into_query(operation: &Operation, name: &str) -> bool {
    let posts = operation.has_body && operation.method != Method::GET;
    !posts || operation.query.iter().any(|listed| listed == name)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A tool's own headers: a JSON object, as text or as it is.
///
/// # Errors
/// A sentence, where it is something else, or names a header that is not the
/// tool's to set.
pub fn custom_headers(headers: &Value) -> Result<HeaderMap, String> {
    let parsed: Value;
    let headers = match headers {
        Value::String(text) if !text.trim().is_empty() => {
            parsed = serde_json::from_str(text).map_err(|_| "its custom headers are not JSON")?;
            &parsed
        }
        headers => headers,
    };
    let Value::Object(headers) = headers else { return Ok(HeaderMap::new()) };
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let header = HeaderName::try_from(name).map_err(|_| "a custom header has a name that is none".to_owned())?;
        if ["host", "connection", "content-length", "transfer-encoding", "upgrade", "te"].contains(&header.as_str()) {
            return Err(format!("the header `{header}` cannot be set"));
        }
        let mut value = HeaderValue::try_from(text(value))
            .map_err(|_| format!("the header `{header}` has a value that is none"))?;
        value.set_sensitive(true);
        map.insert(header, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn operation(method: Method, path: &str, has_body: bool) -> Operation {
        Operation {
            name: "f".to_owned(),
            function: Value::Null,
            server: "http://h/base".to_owned(),
            path: path.to_owned(),
            method,
            query: vec!["q".to_owned()],
            has_body,
        }
    }

    fn get(path: &str, parameters: Value) -> Result<String, String> {
        url(&operation(Method::GET, path, false), &parameters).map(String::from)
    }

    #[test]
    fn parameters_find_their_places() {
        assert_eq!(
            get("/w/{city}", json!({ "city": "São Paulo/x", "unit": "C" })).expect("a URL"),
            "http://h/base/w/S%C3%A3o%20Paulo%2Fx?city=S%C3%A3o+Paulo%2Fx&unit=C"
        );
        assert_eq!(
            get("/n/{id}", json!({ "id": 0, "list": [1, "b"], "none": null })).expect("a URL"),
            "http://h/base/n/0?id=0&list=1%2Cb"
        );
        assert_eq!(get("/x", Value::Null).expect("a URL"), "http://h/base/x");
        let post =
            url(&operation(Method::POST, "/x/{a}", true), &json!({ "a": 1, "q": 2, "other": 3 })).expect("a URL");
        assert_eq!(post.as_str(), "http://h/base/x/1?q=2");
    }

    #[test]
    fn what_a_path_needs_must_be_there_and_lead_nowhere_else() {
        for parameters in [
            json!({}),
            json!({ "a": null }),
            json!({ "a": "" }),
            json!({ "a": ".." }),
            json!({ "a": "." }),
            Value::Null,
            json!([]),
        ] {
            assert!(get("/x/{a}/y", parameters.clone()).is_err(), "{parameters}");
        }
        assert!(get("/x/{a", json!({})).is_err());
        assert_eq!(
            get("/x/{a}", json!({ "a": "../../etc?#@" })).expect("a URL").split('?').next(),
            Some("http://h/base/x/..%2F..%2Fetc%3F%23%40")
        );
    }

    #[test]
    fn headers_of_a_tool() {
        let headers = |value: Value| custom_headers(&value);
        assert_eq!(headers(json!(r#"{"x-api-key":"k","n":1}"#)).expect("headers").len(), 2);
        assert_eq!(headers(json!({ "a": "b" })).expect("headers")["a"], "b");
        for none in [json!(""), json!("{}"), json!({}), json!("[1]"), Value::Null] {
            assert!(headers(none).expect("none").is_empty());
        }
        for wrong in [
            json!("no"),
            json!({ "a b": "c" }),
            json!({ "a": "b\nc" }),
            json!({ "Host": "x" }),
            json!({ "transfer-encoding": "chunked" }),
        ] {
            assert!(headers(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
