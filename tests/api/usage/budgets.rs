//! Budgets hold, whatever comes at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use chatbot_ui_api::http_client::ssrf_guard;
use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{DELTA, DONE, USAGE, budget, report, settled, start};
use crate::support::{
    App, chat_body, message, postgres, rows,
    upstream::{Reply, Step, Upstream},
};

/// Requests that each of the budgets below has room for.
const ROOM: usize = 100;

/// Returns the number of chats that began, and whether the machine was too busy for some, whose reservations are freed
/// late.
async fn all_at_once(chats: usize, unit: &str, amount: f64) -> (App, usize, bool) {
    // Every answer goes on until all have begun or were refused.
    let upstream = Upstream::answering(|_| {
        let write = |event: &str| Step::Write(event.as_bytes().to_vec());
        let steps = vec![write(DELTA), Step::Wait(Duration::from_secs(8)), write(USAGE), write(DONE)];
        Reply { steps, ..Reply::default() }
    });
    let base = format!("{}/v1", upstream.url());
    let app = App::start_on(
        postgres::database_with_ledger().await,
        &[("OPENAI_BASE_URL", &base), ("MAX_STREAMS_PER_USER", "2000"), ("OPENAI_API_KEY", "sk-case-budget")],
        ssrf_guard::system_lookup,
    )
    .await;
    let user = app.user(&[]).await;
    budget(&app.db, Some(user.id), None, unit, amount).await;
    let was_busy = AtomicBool::new(false);
    let (app_ref, user_ref, busy) = (&app, &user, &was_busy);
    let asked = (0..chats).map(|number| async move {
        // A client that opens all connections in one go is too slow to send its heads in time.
        tokio::time::sleep(Duration::from_millis(2 * number as u64)).await;
        loop {
            // The machine is busy with other tests, too, if a connection is given up.
            let Ok(answer) = app_ref.chat("openai", user_ref).send().await else {
                busy.store(true, Ordering::Relaxed);
                continue;
            };
            match answer.status().as_u16() {
                200 => {
                    answer.text().await.expect("whole");
                    return true;
                }
                429 => {
                    assert!(answer.headers().contains_key("retry-after"));
                    return false;
                }
                // The machine is busy with other tests.
                408 | 503 => {
                    busy.store(true, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                status => panic!("{status}: {}", answer.text().await.expect("a body")),
            }
        }
    });
    let (asked, waits) = futures::future::join(join_all(asked), lock_waits(&app.db)).await;
    assert!(waits < Duration::from_millis(250), "a lock was waited for {waits:?}");
    let begun = asked.into_iter().filter(|begun| *begun).count();
    settled(&app.db, begun).await;
    (app, begun, was_busy.into_inner())
}

/// Watches for some seconds how long statements wait for locks: the 99th percentile of what is seen.
async fn lock_waits(db: &PgPool) -> Duration {
    let sql = "select extract(epoch from clock_timestamp() - query_start)::float8 from pg_stat_activity \
               where datname = current_database() and wait_event_type = 'Lock'";
    let (started, mut waits) = (Instant::now(), Vec::new());
    while started.elapsed() < Duration::from_secs(5) {
        waits.extend(sqlx::query_scalar::<_, f64>(sql).fetch_all(db).await.expect("waits"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    waits.sort_by(f64::total_cmp);
    Duration::from_secs_f64(waits.get(waits.len() * 99 / 100).copied().unwrap_or_default().max(0.0))
}

#[tokio::test]
async fn a_thousand_chats_at_once_get_exactly_the_room_of_a_budget() {
    let (_, begun, was_busy) = all_at_once(1000, "requests", ROOM as f64).await;
    assert!(begun == ROOM || (was_busy && begun < ROOM), "{begun}");
}

#[tokio::test]
async fn an_offered_model_takes_its_room_once() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-offer", vec![Reply::events(&[DELTA, USAGE, DONE], Step::Wait(Duration::ZERO))]);
    let app = start(&upstream, &[("OPENAI_API_KEY", "sk-case-offer"), ("MODELS", "openai:x")]).await;
    let user = app.user(&[]).await;
    budget(&app.db, Some(user.id), None, "requests", 1.0).await;
    let mut body = chat_body();
    body["customModelId"] = rows::model(&app.db, user.id, "server:openai", "").await.to_string().into();
    let ask = || app.chat("custom", &user).body(body.to_string()).send();
    assert_eq!(ask().await.expect("an answer").text().await.expect("whole"), "Hello");
    let rows = settled(&app.db, 1).await;
    assert_eq!((rows[0].provider.as_str(), rows[0].own_key), ("openai", false));
    assert_eq!(ask().await.expect("an answer").status(), 429);
}

#[tokio::test]
async fn tokens_are_reserved_up_to_the_room() {
    // gpt-4 answers with 8,192 tokens at most; the prompt's bytes count as tokens.
    let one = r#"[{"role":"user","content":"Say hello"}]"#.len() + 8192;
    let (app, begun, _) = all_at_once(100, "tokens", (one * 10) as f64).await;
    assert_eq!(begun, 10);
    let used: i64 = sqlx::query_scalar("select sum(input_tokens + output_tokens)::bigint from chatbot_ui_api.usage")
        .fetch_one(&app.db)
        .await
        .expect("a sum");
    assert_eq!(used, 140);
}

#[tokio::test]
async fn a_spent_budget_says_which_it_is_and_when_it_begins_anew() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-spent", vec![Reply::events(&[DELTA, USAGE, DONE], Step::Wait(Duration::ZERO))]);
    let app = start(&upstream, &[("OPENAI_API_KEY", "sk-case-spent")]).await;
    let user = app.user(&[]).await;
    budget(&app.db, None, None, "requests", 2.0).await;
    budget(&app.db, None, Some("gpt-3*"), "requests", 0.0).await;
    for count in 1..=2 {
        assert_eq!(app.chat("openai", &user).send().await.expect("an answer").text().await.expect("whole"), "Hello");
        settled(&app.db, count).await;
    }
    let refused = app.chat("openai", &user).send().await.expect("an answer");
    let retry_after: u64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=86_400).contains(&retry_after), "{retry_after}");
    let (status, words) = message(refused).await;
    assert_eq!(status, 429);
    let begins = "Your budget of 2 requests a day has no room for this request: 0 requests left. It begins anew at ";
    assert!(words.starts_with(begins), "{words}");
    let budgets = report(&app, &user).await["budgets"].take();
    let figures: Vec<[&Value; 5]> = budgets
        .as_array()
        .expect("budgets")
        .iter()
        .map(|budget| ["model", "amount", "used", "reserved", "left"].map(|name| &budget[name]))
        .collect();
    let (two, zero) = (json!(2), json!(0));
    assert_eq!(figures, [[&Value::Null, &two, &two, &zero, &zero], [&json!("gpt-3*"), &zero, &zero, &zero, &zero]]);
    // Another user has the same for themselves.
    let other = app.user(&[]).await;
    assert_eq!(app.chat("openai", &other).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn the_last_of_a_budget_limits_the_answer() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-last", vec![Reply::events(&[DELTA, USAGE, DONE], Step::Wait(Duration::ZERO))]);
    let app = start(&upstream, &[("OPENAI_API_KEY", "sk-case-last")]).await;
    let user = app.user(&[]).await;
    budget(&app.db, Some(user.id), None, "tokens", 1000.0).await;
    assert_eq!(app.chat("openai", &user).send().await.expect("an answer").text().await.expect("whole"), "Hello");
    let sent: Value = serde_json::from_slice(&upstream.requests("sk-case-last")[0].body).expect("JSON");
    let prompt = r#"[{"role":"user","content":"Say hello"}]"#.len();
    assert_eq!(sent["max_completion_tokens"], 1000 - prompt);
}

#[tokio::test]
async fn a_budget_of_the_servers_keys_leaves_own_keys_alone() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-own", vec![Reply::events(&[DELTA, USAGE, DONE], Step::Wait(Duration::ZERO))]);
    let app = start(&upstream, &[]).await;
    let user = app.user(&[("openai_api_key", "sk-case-own")]).await;
    let sql = "insert into chatbot_ui_api.budgets (period, unit, amount) values ('month', 'usd', 0)";
    sqlx::query(sql).execute(&app.db).await.expect("a budget");
    assert_eq!(app.chat("openai", &user).send().await.expect("an answer").text().await.expect("whole"), "Hello");
    assert!(settled(&app.db, 1).await[0].own_key);
}
