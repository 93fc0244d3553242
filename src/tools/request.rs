//! A model's arguments → a request to a tool.

use percent_encoding::percent_decode_str;
use reqwest::{
    Method,
    header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::value::RawValue;
use url::Url;

use super::{
    arguments::Members,
    body::{self, Body, Kind},
    offer::{Function, Operation},
    parameter::{Parameter, Place},
    style::{Room, in_header, in_path, pairs},
};

/// The most bytes of a call's arguments.
pub const MAX_ARGUMENTS: usize = 256 * 1024;

/// A request that can be sent once the guard has looked at its URL.
pub struct Request {
    /// The method.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// The document's, and over them the user's.
    pub headers: HeaderMap,
    /// The body; its type is among the headers.
    pub body: Option<Vec<u8>>,
}

/// Makes a request of a call's arguments: a JSON object as it was offered, or
/// with all of its members side by side. Numbers keep their digits.
///
/// # Errors
/// If the arguments do not fit: a sentence for the model.
pub fn request(function: &Function, arguments: &str) -> Result<Request, String> {
    if arguments.len() > MAX_ARGUMENTS {
        return Err(format!("the arguments are larger than {} KB", MAX_ARGUMENTS / 1024));
    }
    let arguments = match arguments.trim() {
        "" | "null" => "{}",
        arguments => arguments,
    };
    let flat: Members<'_> = serde_json::from_str(arguments).map_err(|error| {
        if error.is_data() {
            "the arguments must be a JSON object".to_owned()
        } else {
            format!("the arguments are not valid JSON: {error}")
        }
    })?;
    let operation = &function.operation;
    let given = given(operation, &flat);
    if let Some((parameter, _)) =
        given.iter().find(|(parameter, value)| value.is_none() && is_needed(parameter, function))
    {
        let Parameter { property, place, .. } = parameter;
        return Err(format!("the required parameter `{property}` ({}) is missing from `parameters`", place.name()));
    }
    let room = &mut Room::default();
    let url = url(operation, &given, room)?;
    let mut headers = HeaderMap::new();
    let mut cookies = Vec::new();
    for (parameter, value) in &given {
        let Some(value) = value else { continue };
        match parameter.place {
            Place::Header => {
                room.take(&parameter.name, value, parameter.style)?;
                let value = in_header(value, parameter.style, parameter.explode).unwrap_or_default();
                let name = HeaderName::try_from(&parameter.name);
                let value = HeaderValue::from_bytes(value.trim().as_bytes());
                let (Ok(name), Ok(value)) = (name, value) else {
                    return Err(format!("the parameter `{}` cannot stand in a header", parameter.property));
                };
                headers.insert(name, value);
            }
            Place::Cookie => {
                room.take(&parameter.name, value, parameter.style)?;
                cookies.extend(pairs(&parameter.name, value, parameter.style, parameter.explode));
            }
            Place::Path | Place::Query => {}
        }
    }
    if !cookies.is_empty() {
        let cookies: Vec<String> = cookies.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        headers.insert(
            COOKIE,
            HeaderValue::try_from(cookies.join("; ")).map_err(|_| "the cookies cannot be sent".to_owned())?,
        );
    }
    let body = match &operation.body {
        Some(body) => written(body, &flat, &given, &mut headers, room)?,
        None => None,
    };
    // The user's own win, as in the original.
    for (name, value) in function.headers.iter() {
        headers.insert(name, value.clone());
    }
    Ok(Request { method: operation.method.clone(), url, headers, body })
}

type Given<'f, 'a> = Vec<(&'f Parameter, Option<&'a RawValue>)>;

/// Each parameter with its value: from the member `parameters`, or beside it.
fn given<'f, 'a>(operation: &'f Operation, flat: &Members<'a>) -> Given<'f, 'a> {
    let nested = flat.get("parameters").map(Members::of).unwrap_or_default();
    let value = |parameter: &Parameter| {
        [&nested, flat]
            .into_iter()
            .find_map(|members| members.get(&parameter.property).or_else(|| members.get(&parameter.name)))
    };
    operation.parameters.iter().map(|parameter| (parameter, value(parameter))).collect()
}

/// Whether a call without the parameter makes no sense: it is required and
/// the document knows no default.
fn is_needed(parameter: &Parameter, function: &Function) -> bool {
    let is_set = parameter.place == Place::Header && function.headers.contains_key(&parameter.name);
    parameter.required && !is_set && (parameter.place == Place::Path || parameter.schema.get("default").is_none())
}

/// The body's bytes; its media type is added to the headers.
fn written(
    body: &Body,
    flat: &Members<'_>,
    given: &Given<'_, '_>,
    headers: &mut HeaderMap,
    room: &mut Room,
) -> Result<Option<Vec<u8>>, String> {
    let names_body = body.schema["properties"].get("body").is_some();
    let whole = flat.get("requestBody").or_else(|| flat.get("body").filter(|_| !names_body));
    let rest = || {
        let is_parameter = |name: &str| {
            name == "parameters"
                || given.iter().any(|(parameter, _)| parameter.property == name || parameter.name == name)
        };
        let members = flat.0.iter().filter(|(name, _)| !is_parameter(name));
        let members =
            members.map(|(name, value)| format!("{}:{}", serde_json::Value::from(name.as_str()), value.get()));
        members.collect::<Vec<_>>().join(",")
    };
    let made;
    let value = match whole {
        Some(value) => value,
        None => {
            let rest = rest();
            let takes_object =
                body.kind != Kind::Text && body.schema["type"] != "array" && body.schema["type"] != "string";
            if rest.is_empty() && (!body.required || !takes_object) {
                return if body.required { Err("`requestBody` is missing".to_owned()) } else { Ok(None) };
            }
            made = RawValue::from_string(format!("{{{rest}}}"))
                .map_err(|_| "the arguments are not valid JSON".to_owned())?;
            &made
        }
    };
    let (media, bytes) = body::bytes(body, value, room)?;
    let media = HeaderValue::try_from(media).map_err(|_| "the document's media type is invalid".to_owned())?;
    headers.insert(CONTENT_TYPE, media);
    Ok(Some(bytes))
}

/// The address of a call: parameters in their places of the path and the
/// query, after the server's own.
fn url(operation: &Operation, given: &Given<'_, '_>, room: &mut Room) -> Result<Url, String> {
    // Some documents tell operations of one path apart by a fragment.
    let path = operation.path.split('#').next().unwrap_or_default();
    let (path, own_query) = path.split_once('?').unwrap_or((path, ""));
    let server = operation.server.split('#').next().unwrap_or_default();
    let (server, servers_query) = server.split_once('?').unwrap_or((server, ""));
    let path = filled(path, given, room)?;
    // What a model says must not lead out of the path that the document gives.
    if path.split('/').any(|segment| {
        let segment = percent_decode_str(segment).decode_utf8_lossy();
        segment == "." || segment == ".."
    }) {
        return Err("a parameter of the path may not be `.` or `..`".to_owned());
    }
    let mut query: Vec<String> = [servers_query.to_owned(), filled(own_query, given, room)?]
        .into_iter()
        .filter(|query| !query.is_empty())
        .collect();
    for (parameter, value) in given {
        if let Some(value) = value.filter(|_| parameter.place == Place::Query) {
            room.take(&parameter.name, value, parameter.style)?;
            let pairs = pairs(&parameter.name, value, parameter.style, parameter.explode);
            query.extend(pairs.into_iter().map(|(name, value)| format!("{name}={value}")));
        }
    }
    let mut url = format!("{}{path}", server.trim_end_matches('/'));
    if !query.is_empty() {
        url = format!("{url}?{}", query.join("&"));
    }
    Url::parse(&url).map_err(|_| "its address is no URL".to_owned())
}

/// A part of a path with the parameters in place of their names in braces.
fn filled(template: &str, given: &Given<'_, '_>, room: &mut Room) -> Result<String, String> {
    // URLs take it for a slash.
    let literal = |text: &str| text.replace('\\', "%5C");
    let mut path = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("its path has a brace that is never closed")?;
        path.push_str(&literal(before));
        rest = after;
        if name.is_empty() {
            path.push_str("%7B%7D");
            continue;
        }
        let value = given.iter().find(|(parameter, _)| parameter.place == Place::Path && parameter.name == name);
        if let Some((parameter, Some(value))) = value {
            room.take(name, value, parameter.style)?;
        }
        let value = value.and_then(|(parameter, value)| in_path(name, (*value)?, parameter.style, parameter.explode));
        path.push_str(&value.ok_or_else(|| format!("the required parameter `{name}` (path) is missing or empty"))?);
    }
    path.push_str(&literal(rest));
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            budget::Budget,
            names::Names,
            offer::{Tool, offer},
        },
        *,
    };
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn function(path: &str, method: &str, operation: Value, headers: Value) -> Function {
        let document = json!({ "openapi": "3.0.0", "servers": [{ "url": "http://h/base?key=1" }], "paths": { path: { method: operation } } });
        let headers = RawValue::from_string(headers.to_string()).expect("JSON");
        let tool =
            Tool { name: "T".to_owned(), document: Ok(document.to_string()), location: None, headers: Some(headers) };
        let mut offer = offer(vec![tool], Names::default(), Budget::default());
        assert_eq!(offer.unusable, Vec::<String>::new());
        offer.functions.remove(0)
    }

    fn parameter(name: &str, place: &str) -> Value {
        json!({ "name": name, "in": place, "schema": {} })
    }

    fn get(path: &str, parameters: Value, arguments: Value) -> Result<String, String> {
        let function = function(path, "get", json!({ "parameters": parameters }), json!({}));
        request(&function, &arguments.to_string()).map(|request| request.url.into())
    }

    #[test]
    fn parameters_find_their_places() {
        let parameters = json!([
            parameter("city", "path"),
            parameter("unit", "query"),
            parameter("X-V", "header"),
            parameter("c", "cookie"),
            parameter("id", "query")
        ]);
        let function =
            function("/w/{city}?v={id}", "get", json!({ "parameters": parameters }), json!({ "x-v": "9", "a": "b" }));
        let arguments = r#"{"parameters":{"city":"São Paulo/x","unit":12345678901234567890123,"X-V":"1","c":"a b","id_path":1.10,"id_query":[1,2]}}"#;
        let request = request(&function, arguments).unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(
            request.url.as_str(),
            "http://h/base/w/S%C3%A3o%20Paulo%2Fx?key=1&v=1.10&unit=12345678901234567890123&id=1&id=2"
        );
        assert_eq!((request.headers["x-v"].as_bytes(), request.headers["a"].as_bytes()), (&b"9"[..], &b"b"[..]));
        assert_eq!(request.headers["cookie"], "c=a%20b");
    }

    #[test]
    fn arguments_may_stand_side_by_side() {
        let parameters = json!([parameter("q", "query")]);
        assert_eq!(get("/x", parameters.clone(), json!({ "q": 1 })).as_deref(), Ok("http://h/base/x?key=1&q=1"));
        assert_eq!(
            get("/x", parameters.clone(), json!({ "parameters": { "q": null } })).as_deref(),
            Ok("http://h/base/x?key=1")
        );
        let function = function("/x", "get", json!({ "parameters": parameters }), json!({}));
        for none in ["", "  ", "null", "{}"] {
            assert!(request(&function, none).is_ok(), "{none}");
        }
        for (wrong, words) in [("{\"q\":", "not valid JSON"), ("[1]", "JSON object"), ("7", "JSON object")] {
            let problem = request(&function, wrong).err().unwrap_or_default();
            assert!(problem.contains(words), "{wrong}: {problem}");
        }
    }

    #[test]
    fn what_is_required_must_be_given() {
        for arguments in [
            json!({}),
            json!({ "parameters": { "a": null } }),
            json!({ "parameters": { "a": "" } }),
            json!({ "parameters": [] }),
        ] {
            let problem = get("/x/{a}/y", json!([]), arguments.clone()).expect_err("missing");
            assert!(problem.contains("`a` (path)"), "{arguments}: {problem}");
        }
        let needed = |schema: Value| json!([{ "name": "q", "in": "query", "required": true, "schema": schema }]);
        assert!(get("/x", needed(json!({})), json!({})).expect_err("missing").contains("`q` (query)"));
        assert!(get("/x", needed(json!({ "default": 1 })), json!({})).is_ok());
    }

    #[test]
    fn a_path_stays_below_its_server() {
        for (path, value) in [("/a/{x}/b", ".."), ("/a/{x}", "."), ("/a/.{x}/b", "."), ("/a/{x}./b", ".")] {
            assert!(get(path, json!([]), json!({ "x": value })).is_err(), "{path} {value}");
        }
        for (path, value, url) in [
            ("/a/{x}", "../../y", "http://h/base/a/..%2F..%2Fy?key=1"),
            ("/a/{x}", "%2e%2e", "http://h/base/a/%252e%252e?key=1"),
            ("/a/{x}", "..\\y", "http://h/base/a/..%5Cy?key=1"),
            ("/a?q={x}", "1&admin=1#", "http://h/base/a?key=1&q=1%26admin%3D1%23"),
            (".evil.example/{x}", "y", "http://h/base/.evil.example/y?key=1"),
            ("/a\\{x}#b", "y", "http://h/base/a%5Cy?key=1"),
        ] {
            assert_eq!(get(path, json!([]), json!({ "x": value })).as_deref(), Ok(url), "{path} {value}");
        }
        assert!(get("/a/{x", json!([]), json!({})).is_err());
    }

    #[test]
    fn bodies_are_found_wherever_the_model_puts_them() {
        let schema = json!({ "type": "object", "properties": { "a": {} } });
        let operation = |required: bool| json!({ "parameters": [parameter("q", "query")], "requestBody": { "required": required, "content": { "application/json": { "schema": schema } } } });
        let sent = |required: bool, arguments: &str| {
            let request = request(&function("/x", "post", operation(required), json!({})), arguments);
            request.map(|request| request.body.map(|body| String::from_utf8(body).expect("UTF-8")))
        };
        for (arguments, body) in [
            (r#"{"requestBody":{"a":1.0}}"#, Some(r#"{"a":1.0}"#)),
            (r#"{"body":{"a":1}}"#, Some(r#"{"a":1}"#)),
            (r#"{"a":1,"q":2}"#, Some(r#"{"a":1}"#)),
            (r#"{"parameters":{"q":2}}"#, None),
        ] {
            assert_eq!(sent(false, arguments), Ok(body.map(str::to_owned)), "{arguments}");
        }
        assert_eq!(sent(true, ""), Ok(Some("{}".to_owned())));
        let text = json!({ "requestBody": { "required": true, "content": { "text/plain": {} } } });
        assert!(request(&function("/x", "post", text.clone(), json!({})), "{}").is_err());
        let own_type =
            request(&function("/x", "post", text, json!({ "Content-Type": "text/x" })), r#"{"requestBody":"b"}"#);
        assert_eq!(
            own_type.ok().map(|request| request.headers[CONTENT_TYPE].clone()),
            Some(HeaderValue::from_static("text/x"))
        );
    }

    proptest! {
        #[test]
        fn any_value_stays_in_its_segment(value in "\\PC{1,12}") {
            if let Ok(url) = get("/a/{x}/b", json!([]), json!({ "x": value })) {
                let url = Url::parse(&url).expect("a URL");
                prop_assert_eq!(url.host_str(), Some("h"));
                prop_assert_eq!(url.path_segments().expect("segments").count(), 4);
                prop_assert_eq!(url.query(), Some("key=1"));
            }
        }
    }
}
