//! `/healthz`, `/readyz`, and what answers where no route does.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use crate::support::{
    App, chat_body, client, message,
    ports::Port,
    postgres,
    upstream::{Reply, Upstream},
};
use chatbot_ui_api::http_client::ssrf_guard;

async fn status(app: &App, path: &str) -> u16 {
    client().get(app.url(path)).send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn a_server_with_a_database_is_ready() {
    let app = App::start(&[]).await;
    assert_eq!(status(&app, "/healthz").await, 200);
    assert_eq!(status(&app, "/readyz").await, 200);
}

#[tokio::test]
async fn a_server_starts_without_its_database_and_says_so() {
    let database = postgres::database().await;
    let closed = Port::reserve();
    let url = format!("postgresql://nobody:nothing@{}/x", closed.address);
    let app = App::start_on(database, &[("DATABASE_URL", &url)], ssrf_guard::system_lookup).await;
    let user = app.user(&[]).await;

    assert_eq!(status(&app, "/healthz").await, 200);
    join_all([client().get(app.url("/readyz")), app.chat("openai", &user)].map(async |request| {
        let started = Instant::now();
        let (status, words) = message(request.send().await.expect("an answer")).await;
        assert_eq!(status, 503);
        assert_eq!(words, "The database is not available. Please try again in a moment.");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }))
    .await;
}

#[tokio::test]
async fn every_answer_has_an_id_of_the_servers_own() {
    let app = App::start(&[]).await;
    let ask = || client().get(app.url("/healthz")).header("x-request-id", "mine\tand more");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = ask().send().await.expect("an answer");
        let id = answer.headers()["x-request-id"].to_str().expect("ascii").to_owned();
        assert!(uuid::Uuid::try_parse(&id).is_ok(), "{id}");
        assert!(!answer.headers().contains_key("server"));
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_large_chat_occupies_no_worker() {
    let upstream = Upstream::start().await;
    let base = upstream.url();
    let settings = [("OPENAI_BASE_URL", base.as_str()), ("ANTHROPIC_BASE_URL", base.as_str())];
    let app = App::start(&settings).await;
    let user = app.user(&[("openai_api_key", "k"), ("anthropic_api_key", "k")]).await;
    let mut body = chat_body();
    // An escape for every second character, which takes longest to read.
    body["messages"][0]["content"] = "a\n".repeat(4_000_000).into();
    let body = bytes::Bytes::from(body.to_string());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    for provider in ["openai", "anthropic"] {
        upstream.script_any(vec![Reply::json(400, &json!({ "error": { "message": "no" } }))]);
        let chat = app.chat(provider, &user).body(body.clone()).send();
        let mut chat = std::pin::pin!(chat);
        let (mut worst, mut samples, mut answer) = (Duration::ZERO, 0, None);
        // As many at once as there are workers, whose connections they come over in turn.
        while answer.is_none() {
            let started = Instant::now();
            let mut all = std::pin::pin!(join_all((0..workers).map(|_| status(&app, "/healthz"))));
            let codes = loop {
                tokio::select! {
                    codes = &mut all => break codes,
                    it = &mut chat, if answer.is_none() => answer = Some(it.expect("an answer")),
                }
            };
            assert!(codes.iter().all(|code| *code == 200));
            worst = worst.max(started.elapsed());
            samples += 1;
        }
        let answer = answer.expect("an answer");
        assert!(samples > 3, "{samples}");
        assert_eq!(message(answer).await.0, 400, "{provider}");
        // Parsed on a worker, in a debug build it would be a second.
        assert!(worst < Duration::from_millis(150), "{provider}: {worst:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let app = App::start(&[("MAX_BODY_BYTES", "1000")]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    let mut body = chat_body();
    body["messages"][0]["content"] = "x".repeat(2000).into();
    let answer = app.chat("openai", &user).body(body.to_string()).send().await.expect("an answer");
    assert_eq!(
        message(answer).await,
        (413, "The request is larger than 1000 bytes, the most that this server takes".to_owned())
    );
}

#[tokio::test]
async fn unknown_routes_answer_json() {
    let app = App::start(&[]).await;
    for path in ["/", "/api", "/api/chat", "/api/chat/OPENAI", "/nothing", "//evil.example/"] {
        let answer = client().get(app.url(path)).send().await.expect("an answer");
        assert_eq!(message(answer).await, (404, "Route not found".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_slash_too_many_is_a_redirect() {
    let app = App::start(&[]).await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    for (path, target) in [("/api/keys/", "/api/keys"), ("//api//chat/openai/", "/api/chat/openai")] {
        let answer = client.get(app.url(path)).send().await.expect("an answer");
        assert_eq!(answer.status(), 308, "{path}");
        assert_eq!(answer.headers()["location"], target);
    }
    let answer =
        client.request(reqwest::Method::OPTIONS, app.url("/api/assistants/openai")).send().await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["allow"].to_str().expect("ascii")),
        (204, "GET, HEAD, OPTIONS")
    );
}

#[tokio::test]
async fn a_database_that_lacks_what_requests_need_is_not_ready() {
    let app = App::start(&[]).await;
    assert_eq!(status(&app, "/readyz").await, 200);
    sqlx::raw_sql("revoke usage on schema chatbot_ui_api from chatbot_ui_api").execute(&app.db).await.expect("revokes");
    // The answer is kept for a second.
    let revoked = Instant::now();
    while status(&app, "/readyz").await != 503 {
        assert!(revoked.elapsed() < Duration::from_secs(5), "still ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
