//! `/openapi.json`, `/api/docs`, and pages of other origins.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    App, client,
    upstream::{Reply, Step, Upstream},
};

#[tokio::test]
async fn the_document_and_its_page_are_for_everybody() {
    let app = App::start(&[]).await;
    let document = client().get(app.url("/openapi.json")).send().await.expect("an answer");
    assert_eq!(document.headers()["content-type"], "application/json");
    let document: Value = serde_json::from_str(&document.text().await.expect("text")).expect("JSON");
    assert_eq!(
        (document["openapi"].as_str(), document["info"]["version"].as_str()),
        (Some("3.1.0"), Some(env!("CARGO_PKG_VERSION")))
    );
    let older = client().get(app.url("/openapi-3.0.json")).send().await.expect("an answer");
    let older: Value = serde_json::from_str(&older.text().await.expect("text")).expect("JSON");
    assert_eq!((older["openapi"].as_str(), &older["servers"]), (Some("3.0.3"), &document["servers"]));

    let page = client().get(app.url("/api/docs")).send().await.expect("an answer");
    assert_eq!(
        (page.status().as_u16(), page.headers()["content-type"].to_str().expect("ascii")),
        (200, "text/html; charset=utf-8")
    );
    assert!(page.headers()["content-security-policy"].to_str().expect("ascii").starts_with("default-src 'none';"));
    assert!(page.text().await.expect("text").contains("<section id=\"chatOpenai\""));
}

/// Next.js' server redirects its sign-in page to itself where it was told to listen on an address.
#[test]
fn the_front_end_is_called_localhost_everywhere() {
    for text in [
        include_str!("../../README.md"),
        include_str!("../../docs/install.md"),
        include_str!("../../docs/security.md"),
        include_str!("../../docs/operations.md"),
        include_str!("../../src/config/network.rs"),
    ] {
        let wrong = text.lines().find(|line| {
            let line =
                line.replace("Do not use `-H 127.0.0.1`", "").replace("proxy_redirect http://127.0.0.1:3000/", "");
            line.contains("-H 127.0.0.1") || line.contains("//127.0.0.1:3000")
        });
        assert_eq!(wrong, None);
    }
    assert!(include_str!("../../README.md").lines().count() <= 250);
}

#[tokio::test]
async fn an_answer_is_the_documents_own_example() {
    let upstream = Upstream::start().await;
    let app = App::start(&[("OPENAI_BASE_URL", &format!("{}/v1", upstream.url())), ("MODEL_ALIASES", "")]).await;
    let user = app.user(&[("openai_api_key", "sk-case-document")]).await;
    let document = client().get(app.url("/openapi.json")).send().await.expect("an answer");
    let document: Value = serde_json::from_str(&document.text().await.expect("text")).expect("JSON");
    let reference = document["paths"]["/api/chat/openai"]["post"]["responses"]["200"]["$ref"].as_str();
    let described = document.pointer(&reference.expect("a reference")[1..]).expect("the response");

    let event = |event: Value| format!("data: {event}\n\n");
    let text = |text: &str| event(json!({ "choices": [{ "delta": { "content": text } }] }));
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11 });
    let usage = event(json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }], "usage": usage }));
    for (media, said) in [("text/plain", "Hello, how can I help?"), ("text/event-stream", "Hello")] {
        let events = [&text(said), &usage, "data: [DONE]\n\n"];
        upstream.script("sk-case-document", vec![Reply::events(&events, Step::Wait(Duration::ZERO))]);
        let answer = app.chat("openai", &user).header("accept", media).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        for (name, shape) in described["headers"].as_object().expect("headers") {
            let promised = shape["schema"].get("const").or_else(|| shape.get("example"));
            if let Some(promised) = promised.and_then(Value::as_str) {
                assert_eq!(header(&answer, name), Some(promised), "{media}: {name}");
            }
        }
        let kind = header(&answer, "content-type").and_then(|kind| kind.split(';').next());
        assert_eq!(kind, Some(media));
        assert_eq!(answer.text().await.ok().as_deref(), described["content"][media]["example"].as_str(), "{media}");
    }
    assert_eq!(described["content"].as_object().expect("media types").len(), 2);
}

async fn preflight(app: &App, origin: &str) -> reqwest::Response {
    let request = client()
        .request(Method::OPTIONS, app.url("/api/chat/openai"))
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type");
    request.send().await.expect("an answer")
}

fn header<'a>(answer: &'a reqwest::Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().expect("ascii"))
}

#[tokio::test]
async fn listed_origins_may_ask_and_others_may_not() {
    const LISTED: &str = "https://chat.example.com";
    let app = App::start(&[("CORS_ORIGINS", "http://localhost:3000, https://chat.example.com")]).await;

    let allowed = preflight(&app, LISTED).await;
    assert_eq!(allowed.status(), 200);
    assert_eq!(header(&allowed, "access-control-allow-origin"), Some(LISTED));
    assert_eq!(header(&allowed, "access-control-allow-credentials"), Some("true"));
    assert_eq!(header(&allowed, "access-control-max-age"), Some("7200"));
    assert!(header(&allowed, "access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
    assert!(
        header(&allowed, "access-control-allow-headers")
            .is_some_and(|names| names.to_lowercase().contains("authorization"))
    );
    assert_eq!(header(&preflight(&app, "https://evil.example").await, "access-control-allow-origin"), None);
    // The parts of an origin are compared, not its beginning.
    assert_eq!(
        header(&preflight(&app, "https://chat.example.com.evil.example").await, "access-control-allow-origin"),
        None
    );

    for path in ["/api/keys", "/api/nothing"] {
        let ask = |origin: &'static str| client().get(app.url(path)).header("origin", origin).send();
        let answer = ask(LISTED).await.expect("an answer");
        assert_eq!(header(&answer, "access-control-allow-origin"), Some(LISTED), "{path}");
        let exposed = header(&answer, "access-control-expose-headers").expect("exposed");
        assert!(exposed.contains("x-request-id") && exposed.contains("retry-after"), "{exposed}");
        assert!(header(&answer, "vary").is_some_and(|vary| vary.contains("Origin")));
        let answer = ask("https://evil.example").await.expect("an answer");
        assert_eq!(header(&answer, "access-control-allow-origin"), None, "{path}");
    }
}

#[tokio::test]
async fn without_a_list_nothing_changes() {
    let app = App::start(&[]).await;
    assert_eq!(preflight(&app, "https://chat.example.com").await.status(), 405);
    let answer = client()
        .get(app.url("/api/keys"))
        .header("origin", "https://chat.example.com")
        .send()
        .await
        .expect("an answer");
    assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("access-control") && name != "vary"));
}
