//! Allowances: what one user's requests may hold and cost, and which sessions
//! are accepted.

use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, ORIGIN};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

use crate::support::{
    App, User, chat_body, client, message, tokens,
    upstream::{Reply, Step, Upstream},
};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

async fn chats() -> (Upstream, App, User) {
    let upstream = Upstream::start().await;
    let base = format!("{}/v1", upstream.url());
    let settings = [
        ("OPENAI_BASE_URL", base.as_str()),
        ("ANTHROPIC_BASE_URL", base.as_str()),
        ("CORS_ORIGINS", "https://chat.example.com"),
        ("MAX_BUFFERED_BYTES", "4000000"),
    ];
    let app = App::start(&settings).await;
    let user = app.user(&[("openai_api_key", "sk-1"), ("anthropic_api_key", "sk-2")]).await;
    (upstream, app, user)
}

#[tokio::test]
async fn a_body_is_not_read_before_the_session_is_known() {
    let (_upstream, app, _) = chats().await;
    let mut connection = TcpStream::connect(app.address).await.expect("connects");
    // The head announces a body, and none of it follows.
    let head =
        "POST /api/chat/openai HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\ncontent-length: 1000000\r\n\r\n";
    connection.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).await.expect("an answer without the body");
    assert_eq!(&answer, b"HTTP/1.1 401");
}

#[tokio::test]
async fn one_users_bodies_take_a_quarter_of_the_allowance() {
    let (upstream, app, user) = chats().await;
    let other = app.user(&[("openai_api_key", "sk-3")]).await;
    let chat = |user: &User, filling: usize| {
        let mut body = chat_body();
        body["messages"][0]["content"] = "x".repeat(filling).into();
        let request = client().post(app.url("/api/chat/openai")).header(AUTHORIZATION, user.bearer());
        request.body(body.to_string()).send()
    };
    // Counted twice: the body, and the request that is made of it.
    let refused = chat(&user, 600_000).await.expect("an answer");
    assert_eq!(refused.headers()["retry-after"], "2");
    assert_eq!(message(refused).await.0, 503);
    upstream.script_any(vec![Reply::events(&[DELTA], Step::Write(DONE.into()))]);
    assert_eq!(chat(&user, 400_000).await.expect("an answer").status(), 200);
    upstream.script_any(vec![Reply::events(&[DELTA], Step::Write(DONE.into()))]);
    assert_eq!(chat(&other, 400_000).await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_body_of_very_many_values_is_refused() {
    let (_upstream, app, user) = chats().await;
    let body = format!(
        r#"{{"chatSettings":{{"model":"m"}},"messages":[{{"role":"user","content":[{}0]}}]}}"#,
        "0,".repeat(200_001)
    );
    let request = client().post(app.url("/api/chat/anthropic")).header(AUTHORIZATION, user.bearer()).body(body);
    let (status, sentence) = message(request.send().await.expect("an answer")).await;
    assert_eq!(status, 400);
    assert!(sentence.contains("200000 JSON values"), "{sentence}");
}

#[tokio::test]
async fn what_is_short_is_refused_if_it_is_long() {
    let (_upstream, app, user) = chats().await;
    let ask = async |route: &str, body: &Value| {
        let request = client().post(app.url(&format!("/api/chat/{route}"))).header(AUTHORIZATION, user.bearer());
        message(request.body(body.to_string()).send().await.expect("an answer")).await
    };
    let mut body = chat_body();
    body["chatSettings"]["model"] = "m".repeat(400_000).into();
    let refused = (400, "chatSettings.model must be the name of a model".to_owned());
    for route in ["openai", "anthropic", "custom", "tools"] {
        assert_eq!(ask(route, &body).await, refused, "{route}");
    }
    body["chatSettings"]["model"] = "gpt-4".into();
    body["selectedTools"] = vec![0; 100_000].into();
    let (status, sentence) = ask("tools", &body).await;
    assert_eq!(status, 400);
    assert!(sentence.contains("more than 64 tools") && sentence.len() < 10_000, "{}", sentence.len());
}

#[tokio::test]
async fn bytes_that_are_no_text_are_charged_as_what_they_become() {
    let (upstream, app, user) = chats().await;
    upstream.script_any(vec![Reply::events(&[DELTA], Step::Write(DONE.into()))]);
    let ask = async |count: usize| {
        let mut body = chat_body().to_string().into_bytes();
        let at = body.windows(3).position(|it| it == b"Say").expect("a text");
        body.splice(at..at, vec![0xff; count]);
        let request = client().post(app.url("/api/chat/openai")).header(AUTHORIZATION, user.bearer());
        request.body(body).send().await.expect("an answer").status().as_u16()
    };
    // One byte becomes three, and a request of as many is made of them.
    assert_eq!((ask(100_000).await, ask(150_000).await), (200, 503));
}

#[tokio::test]
async fn each_route_reads_no_more_than_it_needs() {
    let (_upstream, app, user) = chats().await;
    for (path, limit) in
        [("/api/username/available", 65_536), ("/api/command", 1_048_576), ("/api/retrieval/retrieve", 1_048_576)]
    {
        let request = client().post(app.url(path)).header(AUTHORIZATION, user.bearer());
        let (status, sentence) = message(request.body(" ".repeat(limit + 1)).send().await.expect("an answer")).await;
        assert_eq!(status, 413, "{path}");
        assert!(sentence.contains(&limit.to_string()), "{sentence}");
    }
    let part = format!("--b\r\ncontent-disposition: form-data; name=\"{}\"\r\n\r\n\r\n", "n".repeat(1000));
    let form = client().post(app.url("/api/retrieval/process")).header(AUTHORIZATION, user.bearer());
    let form = form.header(CONTENT_TYPE, "multipart/form-data; boundary=b").body(part.repeat(100) + "--b--\r\n");
    assert_eq!(message(form.send().await.expect("an answer")).await.0, 413, "names count, too");
}

#[tokio::test]
async fn a_bearer_token_that_is_refused_is_401_and_a_cookie_the_originals_500() {
    let (_upstream, app, user) = chats().await;
    let post = || client().post(app.url("/api/chat/openai")).body(chat_body().to_string());
    let refused = post().header(AUTHORIZATION, "Bearer made.up.token").send().await.expect("an answer");
    assert_eq!(refused.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
    assert_eq!(message(refused).await.0, 401);
    let cookie = format!("sb-127-auth-token={}", json!({ "access_token": "made.up.token" }));
    let refused = post().header(COOKIE, cookie).send().await.expect("an answer");
    assert_eq!(message(refused).await, (500, "User not found".to_owned()));
    let app_token = token_with(&user, json!({ "client_id": Uuid::new_v4() }));
    let refused = post().header(AUTHORIZATION, format!("Bearer {app_token}")).send().await.expect("an answer");
    assert_eq!(message(refused).await.0, 401, "an OAuth app's token");
}

fn token_with(user: &User, more: Value) -> String {
    let mut claims = tokens::claims(user.id, user.session);
    claims.as_object_mut().expect("claims").extend(more.as_object().expect("claims").clone());
    tokens::sign(&claims, chatbot_ui_api::auth::PUBLISHED_JWT_SECRET)
}

#[tokio::test]
async fn a_page_of_another_site_cannot_use_the_cookie() {
    let (upstream, app, user) = chats().await;
    let cookie = format!("sb-127-auth-token={}", json!({ "access_token": token_with(&user, json!({})) }));
    let post = |site: &'static str, origin: &'static str| {
        let request = client().post(app.url("/api/chat/openai")).header(COOKIE, cookie.clone()).header(ORIGIN, origin);
        request.header("sec-fetch-site", site).body(chat_body().to_string()).send()
    };
    let (status, sentence) = message(post("cross-site", "https://evil.example").await.expect("an answer")).await;
    assert_eq!(status, 403);
    assert!(sentence.contains("CORS_ORIGINS"), "{sentence}");
    assert!(upstream.all().is_empty());
    for (site, origin) in [("same-origin", "https://any.example"), ("cross-site", "https://chat.example.com")] {
        upstream.script_any(vec![Reply::events(&[DELTA], Step::Write(DONE.into()))]);
        assert_eq!(post(site, origin).await.expect("an answer").status(), 200, "{site}");
    }
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_at_once() {
    let (_upstream, app, user) = chats().await;
    let mut connection = TcpStream::connect(app.address).await.expect("connects");
    let head = format!(
        "POST /api/username/get HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n{CONTENT_LENGTH}: 70000\r\n\r\n",
        user.bearer()
    );
    connection.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
}
