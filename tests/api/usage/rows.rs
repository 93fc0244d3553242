//! A row for each request to a provider, whatever its end.

use std::time::Duration;

use serde_json::json;

use super::{DELTA, DONE, Row, USAGE, report, settled, start};
use crate::support::{
    chat_body, client,
    upstream::{End, Reply, Step, Upstream},
};
use chatbot_ui_api::http_client::ssrf_guard;
use reqwest::header::AUTHORIZATION;

use crate::support::{App, postgres};

#[tokio::test]
async fn a_chat_is_a_row_with_the_providers_count() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-row", vec![Reply::events(&[DELTA, USAGE, DONE], Step::Wait(Duration::ZERO))]);
    let app = start(&upstream, &[]).await;
    let user = app.user(&[("openai_api_key", "sk-case-row")]).await;
    assert_eq!(app.chat("openai", &user).send().await.expect("an answer").text().await.expect("whole"), "Hello");
    let expected = Row {
        user_id: user.id,
        route: "/api/chat/openai".to_owned(),
        provider: "openai".to_owned(),
        model: "gpt-4".to_owned(),
        served_model: Some("gpt-4".to_owned()),
        input_tokens: 9,
        cached_tokens: 4,
        output_tokens: 5,
        reasoning_tokens: 2,
        ended: "complete".to_owned(),
        own_key: true,
        estimated: false,
    };
    assert_eq!(settled(&app.db, 1).await, [expected]);
    // 5 of the prompt at $30, 4 from the cache at the same, 5 of the answer at $60 a million.
    let sums = json!({ "requests": 1, "tokens": 14, "usd": 0.00057 });
    let by_model = json!([{ "provider": "openai", "model": "gpt-4", "requests": 1, "tokens": 14, "usd": 0.00057 }]);
    assert_eq!(report(&app, &user).await, json!({ "today": sums, "month": sums, "by_model": by_model, "budgets": [] }));
    let other = app.user(&[]).await;
    assert_eq!(report(&app, &other).await["month"], json!({ "requests": 0, "tokens": 0, "usd": 0 }));
}

#[tokio::test]
async fn every_end_is_a_row_and_nothing_stays_reserved() {
    let upstream = Upstream::start().await;
    let broken = Reply { end: End::Reset, ..Reply::events(&[DELTA], Step::Wait(Duration::ZERO)) };
    upstream.script(
        "sk-case-ends",
        vec![
            Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO)),
            Reply::events(&[DELTA], Step::WaitForever),
            Reply::silent(),
            broken,
            Reply::json(401, &json!({ "error": { "message": "no" } })),
        ],
    );
    let app = start(&upstream, &[("OPENAI_API_KEY", "sk-case-ends")]).await;
    let user = app.user(&[]).await;
    let ask = || app.chat("openai", &user).send();
    ask().await.expect("an answer").text().await.expect("whole");
    settled(&app.db, 1).await;
    let mut stopped = ask().await.expect("an answer");
    stopped.chunk().await.expect("text");
    drop(stopped);
    settled(&app.db, 2).await;
    assert!(tokio::time::timeout(Duration::from_millis(500), ask()).await.is_err(), "silent");
    settled(&app.db, 3).await;
    assert!(ask().await.expect("an answer").text().await.is_err(), "broken");
    settled(&app.db, 4).await;
    assert_ne!(ask().await.expect("an answer").status(), 200);
    let rows = settled(&app.db, 5).await;
    let ends: Vec<(&str, i64, bool)> =
        rows.iter().map(|row| (row.ended.as_str(), row.output_tokens, row.estimated)).collect();
    assert_eq!(
        ends,
        [
            ("complete", 2, true),
            ("client left", 2, true),
            ("client left", 0, true),
            ("provider broke", 2, true),
            ("refused", 0, false)
        ]
    );
    assert!(rows[..4].iter().all(|row| row.input_tokens > 0 && !row.own_key));
}

#[tokio::test]
async fn what_asks_no_provider_is_no_row() {
    let upstream = Upstream::start().await;
    let app = start(&upstream, &[]).await;
    let user = app.user(&[]).await;
    // No key; no body; another's session.
    assert_eq!(app.chat("openai", &user).send().await.expect("an answer").status(), 500);
    let bare = client().post(app.url("/api/chat/openai")).header(AUTHORIZATION, user.bearer());
    assert_eq!(bare.body("{").send().await.expect("an answer").status(), 500);
    sqlx::query("delete from auth.sessions").execute(&app.db).await.expect("signed out");
    assert_eq!(app.chat("openai", &user).send().await.expect("an answer").status(), 401);
    settled(&app.db, 0).await;
}

#[tokio::test]
async fn a_large_body_is_counted_too() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-large", vec![Reply::events(&[DELTA, USAGE, DONE], Step::Wait(Duration::ZERO))]);
    let app = start(&upstream, &[]).await;
    let user = app.user(&[("openai_api_key", "sk-case-large")]).await;
    let mut body = chat_body();
    body["messages"][0]["content"] = "x".repeat(100_000).into();
    let asked = client().post(app.url("/api/chat/openai")).header(AUTHORIZATION, user.bearer()).body(body.to_string());
    assert_eq!(asked.send().await.expect("an answer").text().await.expect("whole"), "Hello");
    assert_eq!(settled(&app.db, 1).await[0].input_tokens, 9);
}

#[tokio::test]
async fn without_the_schema_or_switched_off_nothing_is_counted() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-off", vec![Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
    let base = format!("{}/v1", upstream.url());
    let off = start(&upstream, &[("USAGE", "off")]).await;
    let without =
        App::start_on(postgres::database().await, &[("OPENAI_BASE_URL", &base)], ssrf_guard::system_lookup).await;
    for app in [&off, &without] {
        let user = app.user(&[("openai_api_key", "sk-case-off")]).await;
        assert_eq!(app.chat("openai", &user).send().await.expect("an answer").text().await.expect("whole"), "Hello");
        let report = client().get(app.url("/api/usage")).header(AUTHORIZATION, user.bearer()).send().await;
        assert_eq!(report.expect("an answer").status(), 404);
    }
    settled(&off.db, 0).await;
}
