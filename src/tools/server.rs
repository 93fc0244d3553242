//! Addresses that a document gives for its operations.

use serde_json::Value;
use url::Url;

use super::{
    budget::Budget,
    document::{Document, Version},
};

/// Steps that reading a URL is worth.
const URL_STEPS: usize = 16;
/// The most bytes of a server's URL and of a path, as they are written.
pub const MAX_URL: usize = 2048;

/// The address under which an operation's path lies, without a slash at its
/// end: of the operation's servers, else the path's, else the document's, the
/// first one that is a full URL. `location` is the document's own address, if
/// it was fetched; relative URLs are relative to it.
///
/// # Errors
/// If there is none: a reason that begins with "it" or "its".
pub fn address(
    document: &Document,
    item: &Value,
    operation: &Value,
    location: Option<&Url>,
    budget: &mut Budget,
) -> Result<String, String> {
    match document.version {
        Version::Swagger2 => swagger2(&document.root, operation, location, budget),
        Version::OpenApi3 => {
            fn list(owner: &Value) -> Option<&Vec<Value>> {
                owner["servers"].as_array().filter(|list| !list.is_empty())
            }
            let Some(servers) = list(operation).or_else(|| list(item)).or_else(|| list(&document.root)) else {
                let root = location.and_then(|location| location.join("/").ok());
                return root
                    .map(|root| without_slash(root.as_str()))
                    .ok_or_else(|| "it has no server: add `servers` with the URL to which requests go".to_owned());
            };
            let mut problem = None;
            for server in servers {
                // Read again for each operation, and a URL is more work than a step.
                charge(budget, URL_STEPS, server["url"].as_str())?;
                match filled_in(server, location, budget) {
                    Ok(address) => return Ok(address),
                    Err(reason) => problem = problem.or(Some(reason)),
                }
            }
            Err(problem.unwrap_or_default())
        }
    }
}

/// One server's URL with the defaults of its variables.
fn filled_in(server: &Value, location: Option<&Url>, budget: &mut Budget) -> Result<String, String> {
    let template = server["url"].as_str().unwrap_or_default().trim();
    if template.len() > MAX_URL {
        return Err(format!("its server `{}…` has a URL of more than {MAX_URL} bytes", shortened(template)));
    }
    let mut url = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else { break };
        let variable = &server["variables"][name];
        let default = [&variable["default"], &variable["enum"][0]].into_iter().find_map(|value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        let default = default.ok_or_else(|| format!("its server's variable `{}` has no default", shortened(name)))?;
        charge(budget, 1, Some(&default))?;
        url.push_str(before);
        url.push_str(&default);
        rest = after;
    }
    url.push_str(rest);
    let full = Url::parse(&url).ok().filter(Url::has_host).or_else(|| location?.join(&url).ok());
    match full {
        Some(full) if matches!(full.scheme(), "http" | "https") && full.has_host() => Ok(without_slash(full.as_str())),
        Some(full) if full.has_host() => {
            Err(format!("its server's URL begins with {}://, not with https://", full.scheme()))
        }
        _ => Err(format!("its server `{}` is no full URL: it must begin with https://", shortened(template))),
    }
}

fn swagger2(root: &Value, operation: &Value, location: Option<&Url>, budget: &mut Budget) -> Result<String, String> {
    let schemes =
        operation["schemes"].as_array().or_else(|| root["schemes"].as_array()).filter(|list| !list.is_empty());
    charge(budget, URL_STEPS + schemes.map_or(0, Vec::len), root["host"].as_str())?;
    charge(budget, 0, root["basePath"].as_str())?;
    let scheme = match schemes {
        Some(list) if list.iter().any(|scheme| scheme == "https") => "https",
        Some(list) if list.iter().any(|scheme| scheme == "http") => "http",
        Some(_) => "https",
        None => location.map_or("https", Url::scheme),
    };
    let host = root["host"].as_str().map(str::trim).filter(|host| !host.is_empty());
    let host =
        host.map(|host| host.trim_start_matches("https://").trim_start_matches("http://").trim_matches('/').to_owned());
    let of_location = || Some(location?[url::Position::BeforeHost..url::Position::AfterPort].to_owned());
    let host =
        host.or_else(of_location).ok_or("it has no host: add `host`, the server to which requests go".to_owned())?;
    let base = root["basePath"].as_str().unwrap_or_default().trim().trim_matches('/');
    let url = if base.is_empty() { format!("{scheme}://{host}") } else { format!("{scheme}://{host}/{base}") };
    match Url::parse(&url) {
        Ok(full) if full.has_host() => Ok(without_slash(full.as_str())),
        _ => Err(format!("its host `{}` is no host's name", shortened(&host))),
    }
}

fn charge(budget: &mut Budget, steps: usize, copied: Option<&str>) -> Result<(), String> {
    let charged = budget.steps(steps).and_then(|()| budget.copy(copied.map_or(0, str::len)));
    charged.map_err(|exhausted| exhausted.to_string())
}

fn without_slash(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(root: Value, item: Value, operation: Value, location: Option<&str>) -> Result<String, String> {
        let version = if root.get("swagger").is_some() { Version::Swagger2 } else { Version::OpenApi3 };
        let location = location.map(|url| Url::parse(url).expect("a URL"));
        address(&Document { root, version }, &item, &operation, location.as_ref(), &mut Budget::default())
    }

    #[test]
    fn the_nearest_full_url_wins() {
        let servers =
            |urls: &[&str]| json!({ "servers": urls.iter().map(|url| json!({ "url": url })).collect::<Vec<_>>() });
        let none = json!({});
        let root = servers(&["/v1", "https://h/v1/"]);
        assert_eq!(found(root.clone(), none.clone(), none.clone(), None).as_deref(), Ok("https://h/v1"));
        assert_eq!(found(root.clone(), servers(&["https://p"]), none.clone(), None).as_deref(), Ok("https://p"));
        assert_eq!(
            found(root, servers(&["https://p"]), servers(&["http://o/x?k=1"]), None).as_deref(),
            Ok("http://o/x?k=1")
        );
        let relative = servers(&["./v2"]);
        assert!(
            found(relative.clone(), none.clone(), none.clone(), None).expect_err("relative").contains("no full URL")
        );
        assert_eq!(
            found(relative, none.clone(), none.clone(), Some("https://d/docs/openapi.json")).as_deref(),
            Ok("https://d/docs/v2")
        );
        assert_eq!(
            found(none.clone(), none.clone(), none.clone(), Some("https://d/docs/openapi.json")).as_deref(),
            Ok("https://d")
        );
        assert!(found(none.clone(), none.clone(), none.clone(), None).expect_err("none").contains("no server"));
        assert!(found(servers(&["ftp://h"]), none.clone(), none, None).expect_err("ftp").contains("ftp://"));
    }

    #[test]
    fn variables_have_their_defaults() {
        let server = |variables: Value| json!({ "servers": [{ "url": "https://{region}.h:{port}/{v}", "variables": variables }] });
        let none = json!({});
        let good = server(
            json!({ "region": { "default": "eu" }, "port": { "default": 8443 }, "v": { "enum": ["v1", "v2"] } }),
        );
        assert_eq!(found(good, none.clone(), none.clone(), None).as_deref(), Ok("https://eu.h:8443/v1"));
        let problem =
            found(server(json!({ "region": { "default": "eu" } })), none.clone(), none, None).expect_err("no default");
        assert!(problem.contains("`port` has no default"), "{problem}");
    }

    #[test]
    fn swagger_has_parts() {
        let none = json!({});
        for (more, url) in [
            (json!({ "host": "h" }), Ok("https://h")),
            (json!({ "host": "h", "basePath": "v1/", "schemes": ["http"] }), Ok("http://h/v1")),
            (json!({ "host": "https://h/", "basePath": "/", "schemes": ["http", "https"] }), Ok("https://h")),
            (json!({ "host": " " }), Err("no host")),
            (json!({ "host": "a b" }), Err("no host's name")),
        ] {
            let mut root = more;
            root["swagger"] = "2.0".into();
            let came = found(root, none.clone(), none.clone(), None);
            match url {
                Ok(url) => assert_eq!(came.as_deref(), Ok(url)),
                Err(words) => assert!(came.clone().expect_err(words).contains(words), "{came:?}"),
            }
        }
        let at =
            found(json!({ "swagger": "2.0", "basePath": "/v1" }), none.clone(), none, Some("http://d:81/swagger.json"));
        assert_eq!(at.as_deref(), Ok("http://d:81/v1"));
    }
}
