//! Filtering of headers: end-to-end headers are passed on, others are written by this server (RFC 9110, 7.6).

use actix_web::{
    HttpRequest, HttpResponseBuilder,
    http::header::{self as incoming, HeaderMap as Incoming},
};
use reqwest::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE, VIA};
use url::{Position, Url};

use crate::http_client::ssrf_guard;

/// This server's entry in `Via`.
const HOP: &str = "1.1 chatbot-ui-api";

/// Hop-by-hop headers, which are not passed on.
const ONE_CONNECTION: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers of proxies about the client's address; trusted only if the peer is on this machine.
const ORIGIN: [&str; 7] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];

/// Tells if this server has passed the request on twice already. Once is no loop: after a server action that redirects,
/// Next.js requests the page to redirect to with the browser's headers, at the address that the browser knows.
pub fn loops(headers: &Incoming) -> bool {
    let hops = headers.get_all(incoming::VIA).map(|value| {
        let value = String::from_utf8_lossy(value.as_bytes());
        value.split(',').filter(|hop| hop.trim() == HOP).count()
    });
    hops.sum::<usize>() > 1
}

/// Returns the request headers for the front end. `Host` stays the client's, since Next.js compares it with the origin
/// and builds redirects from it.
///
/// `X-Forwarded-*` are written by this server, and the client's values are dropped; from a proxy on this machine they
/// are kept, and the address is appended to `X-Forwarded-For`.
pub fn for_front_end(request: &HttpRequest, protocol: Option<&str>) -> HeaderMap {
    let from = request.headers();
    let peer = request.peer_addr().map(|peer| peer.ip());
    let believed = peer.is_some_and(|peer| peer.to_canonical().is_loopback());
    let named = named_by_connection(from.get_all(incoming::CONNECTION).map(incoming::HeaderValue::as_bytes));
    let mut headers = HeaderMap::new();
    for (name, value) in from {
        let name = name.as_str();
        let dropped = ONE_CONNECTION.contains(&name)
            || named.iter().any(|named| named == name)
            // This server has answered it.
            || name == "expect"
            // An internal header of Next.js that skips middleware.
            || name == "x-middleware-subrequest"
            || (ORIGIN.contains(&name) && !believed);
        if !dropped
            && let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes()))
        {
            headers.append(name, value);
        }
    }
    let mut add = |name: &'static str, value: Option<String>| {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let before = |name: &str| {
        let all: Vec<&str> = from.get_all(name).filter_map(|value| value.to_str().ok()).collect();
        (believed && !all.is_empty()).then(|| all.join(", "))
    };
    let address = peer.map(|peer| peer.to_canonical().to_string());
    add(
        "x-forwarded-for",
        before("x-forwarded-for").into_iter().chain(address).reduce(|all, last| format!("{all}, {last}")),
    );
    let host = from.get(incoming::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    add("x-forwarded-host", before("x-forwarded-host").or(host));
    add("x-forwarded-proto", before("x-forwarded-proto").or(Some("http".to_owned())));
    if let Some(protocol) = protocol.and_then(|protocol| HeaderValue::from_str(protocol).ok()) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    if !from.contains_key(incoming::HOST) {
        headers.remove(HOST);
    }
    headers.append(VIA, HeaderValue::from_static(HOP));
    headers
}

/// Copies the front end's response headers, except hop-by-hop headers and the length, which the body determines. A
/// redirect to the front end's own address is changed to this server's.
pub fn for_client(from: &HeaderMap, front_end: &Url, answer: &mut HttpResponseBuilder) {
    let named = named_by_connection(from.get_all(CONNECTION).iter().map(HeaderValue::as_bytes));
    for (name, value) in from {
        let name = name.as_str();
        let dropped =
            ONE_CONNECTION.contains(&name) || name == "content-length" || named.iter().any(|named| named == name);
        let here = if name == "location" { value.to_str().ok().and_then(|to| path_here(to, front_end)) } else { None };
        let value = here.as_deref().map_or(value.as_bytes(), str::as_bytes);
        if !dropped && let Ok(value) = incoming::HeaderValue::from_bytes(value) {
            answer.append_header((name, value));
        }
    }
}

/// Returns the path of a URL that points at the front end itself: Next.js builds some redirects from its listen
/// address, which browsers elsewhere cannot reach.
fn path_here(to: &str, front_end: &Url) -> Option<String> {
    let to = Url::parse(to).ok()?;
    let (host, theirs) = (to.host_str()?, front_end.host_str()?);
    let here = |host: &str| ssrf_guard::is_this_machine(host) || matches!(host, "0.0.0.0" | "[::]");
    let same_host = host == theirs || (here(host) && here(theirs));
    let same_port = to.port_or_known_default() == front_end.port_or_known_default();
    // Two slashes would begin another host.
    (to.scheme() == front_end.scheme() && same_host && same_port && !to.path().starts_with("//"))
        .then(|| to[Position::BeforePath..].to_owned())
}

fn named_by_connection<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut names = Vec::new();
    for value in values {
        names.extend(String::from_utf8_lossy(value).split(',').map(|name| name.trim().to_ascii_lowercase()));
    }
    names
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn passed(peer: &str, headers: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut request = TestRequest::get().peer_addr(format!("{peer}:1").parse().expect("an address"));
        for header in headers {
            request = request.append_header(*header);
        }
        let passed = for_front_end(&request.to_http_request(), None);
        passed.iter().map(|(name, value)| (name.to_string(), value.to_str().expect("ascii").to_owned())).collect()
    }

    fn pairs(headers: &[(&str, &str)]) -> Vec<(String, String)> {
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn where_a_request_came_from_is_for_this_server_to_say() {
        let claims = [
            ("host", "chat.example"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
        ];
        let mut from_afar = passed("203.0.113.9", &claims);
        from_afar.sort();
        assert_eq!(
            from_afar,
            pairs(&[
                ("host", "chat.example"),
                ("via", "1.1 chatbot-ui-api"),
                ("x-forwarded-for", "203.0.113.9"),
                ("x-forwarded-host", "chat.example"),
                ("x-forwarded-proto", "http"),
            ])
        );
        let from_here = passed("127.0.0.1", &claims);
        for kept in [
            ("x-forwarded-for", "1.2.3.4, 127.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
        ] {
            assert!(from_here.contains(&(kept.0.to_owned(), kept.1.to_owned())), "{kept:?} in {from_here:?}");
        }
    }

    #[test]
    fn what_is_for_one_connection_stays_there() {
        let sent = [
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("x-middleware-subrequest", "middleware"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ];
        let passed = passed("203.0.113.9", &sent);
        let ours = |name: &str| name == "via" || name.starts_with("x-forwarded");
        let rest: Vec<_> = passed.into_iter().filter(|(name, _)| !ours(name)).collect();
        assert_eq!(rest, pairs(&[("cookie", "a=1"), ("cookie", "b=2")]));
    }

    #[test]
    fn redirects_to_the_front_end_lead_here() {
        let front_end = Url::parse("http://127.0.0.1:3000").expect("a URL");
        let here = |to: &str| path_here(to, &front_end);
        assert_eq!(here("http://localhost:3000/login?a=1#b").as_deref(), Some("/login?a=1#b"));
        assert_eq!(here("http://127.0.0.1:3000").as_deref(), Some("/"));
        assert_eq!(here("http://0.0.0.0:3000/x").as_deref(), Some("/x"));
        for elsewhere in [
            "/login",
            "//localhost:3000/login",
            "https://localhost:3000/login",
            "http://localhost:3001/login",
            "http://chat.example.com:3000/login",
            "http://localhost:3000//evil.example/login",
        ] {
            assert_eq!(here(elsewhere), None, "{elsewhere}");
        }
        let remote = Url::parse("https://app.internal").expect("a URL");
        assert_eq!(path_here("https://app.internal:443/x", &remote).as_deref(), Some("/x"));
        assert_eq!(path_here("https://localhost/x", &remote), None);
    }

    #[test]
    fn a_request_that_was_here_twice_loops() {
        let through = |via: &str| loops(TestRequest::get().append_header(("via", via)).to_http_request().headers());
        assert!(through("1.1 nginx, 1.1 chatbot-ui-api, 1.1 chatbot-ui-api"));
        assert!(!through("1.1 nginx, 1.1 chatbot-ui-api") && !through("1.1 nginx"));
    }
}
