//! The headers of every answer: what browsers are told, what nobody is told,
//! and that neither clients nor providers write any.

use std::time::Duration;

use chatbot_ui_api::{
    http::table::{self, Access},
    http_client::ssrf_guard,
};
use reqwest::header::{ACCEPT, HeaderMap};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    App, client, postgres,
    upstream::{Reply, Step, Upstream},
};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().expect("ascii"))
}

#[tokio::test]
async fn every_row_says_what_a_browser_must_not_do() {
    let app = App::start(&[]).await;
    let user = app.user(&[]).await;
    let paths: Vec<(String, String)> = table::table()
        .into_iter()
        .map(|row| (row.method.to_string(), row.path))
        .chain(
            [("GET", "/api/nowhere"), ("DELETE", "/api/keys"), ("POST", "/api/chat/openai/")]
                .map(|(method, path)| (method.to_owned(), path.to_owned())),
        )
        .collect();
    for (method, path) in paths {
        for bearer in [user.bearer(), "none".to_owned()] {
            let request = client().request(method.parse().expect("a method"), app.url(&path));
            let answer = request.header("authorization", bearer).send().await.expect("an answer");
            let headers = answer.headers();
            assert_eq!(text(headers, "x-content-type-options"), "nosniff", "{path}");
            if path.starts_with("/api/") {
                let policy = text(headers, "content-security-policy");
                assert!(policy.starts_with("default-src 'none'; "), "{path}: {policy}");
                assert!(policy.ends_with("frame-ancestors 'none'"), "{path}: {policy}");
                assert_eq!(text(headers, "referrer-policy"), "no-referrer", "{path}");
                assert_eq!(text(headers, "cache-control"), "no-store", "{path}");
            }
            for banner in ["server", "x-powered-by", "via"] {
                assert!(!headers.contains_key(banner), "{path}: {banner}");
            }
        }
    }
    assert!(table::table().iter().any(|row| row.access == Access::Anyone));
}

#[tokio::test]
async fn a_stream_keeps_its_own_headers() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-headers", vec![Reply::events(&[DELTA], Step::Wait(Duration::ZERO))]);
    let app = App::start(&[("OPENAI_BASE_URL", &upstream.url())]).await;
    let user = app.user(&[("openai_api_key", "sk-case-headers")]).await;
    for (accept, kind) in [("*/*", "text/plain; charset=utf-8"), ("text/event-stream", "text/event-stream")] {
        let answer = app.chat("openai", &user).header(ACCEPT, accept).send().await.expect("an answer");
        let headers = answer.headers();
        assert_eq!(answer.status(), 200);
        assert_eq!(text(headers, "content-type"), kind);
        assert_eq!(text(headers, "cache-control"), "no-cache, no-transform");
        assert_eq!(text(headers, "x-accel-buffering"), "no");
        assert_eq!(text(headers, "x-content-type-options"), "nosniff");
    }
}

/// A provider's text stays inside the JSON of an error.
#[tokio::test]
async fn a_providers_words_make_no_header() {
    let upstream = Upstream::start().await;
    let app =
        App::start_on(postgres::database().await, &[("OPENAI_BASE_URL", &upstream.url())], ssrf_guard::system_lookup)
            .await;
    let user = app.user(&[("openai_api_key", "sk-case-split")]).await;
    let words = "no\r\nSet-Cookie: injected=1\r\n\r\n<script>\u{0}\u{2028}</script>";
    let replies = [
        Reply::json(400, &json!({ "error": { "message": words } })),
        Reply::events(
            &[&format!("data: {}\n\n", json!({ "error": { "message": words } }))],
            Step::Wait(Duration::ZERO),
        ),
        Reply {
            headers: [
                ("set-cookie", "injected=1"),
                ("server", "theirs"),
                ("x-request-id", "theirs"),
                ("location", "http://h"),
                ("content-encoding", "identity"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            ..Reply::json(429, &json!({ "error": { "message": words } }))
        },
    ];
    for reply in replies {
        upstream.script(
            "sk-case-split",
            vec![Reply {
                headers: [reply.headers.clone(), vec![("x-should-retry".to_owned(), "false".to_owned())]].concat(),
                ..reply
            }],
        );
        let answer = app.chat("openai", &user).send().await.expect("an answer");
        let headers = answer.headers().clone();
        for name in ["set-cookie", "server", "location", "content-encoding"] {
            assert!(!headers.contains_key(name), "{name}");
        }
        assert_ne!(text(&headers, "x-request-id"), "theirs");
        assert_eq!(text(&headers, "content-type"), "application/json");
        let body: serde_json::Value = serde_json::from_str(&answer.text().await.expect("whole")).expect("JSON");
        assert!(body["message"].as_str().expect("words").contains("Set-Cookie: injected"), "{body}");
    }
}

/// By hand, since no client sends such requests.
async fn raw(app: &App, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(app.address).await.expect("connects");
    stream.write_all(request).await.expect("writes");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    let _ = read.expect("it ends");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn pipelined_requests_are_all_answered_in_their_order() {
    let app = App::start(&[("CORS_ORIGINS", "http://page.example")]).await;
    let user = app.user(&[]).await;
    let head = format!("POST /api/username/available HTTP/1.1\r\nhost: h\r\nauthorization: {}\r\n", user.bearer());
    // Bodies with blank lines of their own, whole and in chunks, and requests that no handler sees.
    let blank = "\r\n\r\n".repeat(9);
    let body = format!("{blank}{{\"username\":\"x\"}}{blank}");
    let whole = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let missing = "GET /api/nothing HTTP/1.1\r\nhost: h\r\n\r\n";
    let preflight = "OPTIONS /api/keys HTTP/1.1\r\nhost: h\r\norigin: http://page.example\r\n\
                     access-control-request-method: POST\r\n\r\n";
    // Line breaks between requests are nobody's.
    let requests = [&whole, "\r\n", &chunked, "\r\n\r\n", missing, preflight].map(str::to_owned).concat().repeat(25);
    let last = "GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let answers = raw(&app, format!("{requests}{last}").as_bytes()).await;
    let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)).collect();
    let expected = ["200", "200", "404", "200"].repeat(25);
    assert_eq!(statuses.split_last(), Some((&"200", &expected[..])), "{answers}");
}

#[tokio::test]
async fn a_request_id_is_never_the_clients() {
    let app = App::start(&[]).await;
    for name in ["x-request-id", "X-Request-ID", "request-id", "x-correlation-id", "traceparent"] {
        for value in [
            "theirs",
            "theirs\tX",
            "5f6c1d9e-0000-4000-8000-000000000001",
            "theirs\n x: y",
            "theirs\rx: y",
            "theirs\r\nx-injected: y",
        ] {
            let request = format!("GET /api/keys HTTP/1.1\r\nhost: h\r\n{name}: {value}\r\nconnection: close\r\n\r\n");
            let answer = raw(&app, request.as_bytes()).await;
            assert!(
                !answer.contains("theirs") && !answer.contains("x-injected") && !answer.contains("5f6c1d9e"),
                "{answer}"
            );
        }
    }
    // In the path, which a redirect gives back.
    for path in [
        "/api//keys",
        "/api/keys%0d%0aset-cookie:a=b",
        "//evil.example/api/keys",
        "/api/keys//",
        "/api/%0d%0ax-injected:1//",
    ] {
        let answer = raw(&app, format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").as_bytes()).await;
        let head = answer.split("\r\n\r\n").next().expect("a head").to_lowercase();
        assert!(!head.contains("\nset-cookie") && !head.contains("\nx-injected"), "{path}: {answer}");
        let location = head.lines().find_map(|line| line.strip_prefix("location: "));
        assert!(location.is_none_or(|to| to.starts_with("/api/")), "{path}: {answer}");
    }
}
