//! `POST /api/chat/{provider}`: what conformance cannot say: leaving, many at
//! once, events, who is refused.

use std::time::{Duration, Instant};

use futures::{StreamExt, future::join_all};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    App, User, chat_body, client, cut, message,
    upstream::{End, Reply, Step, Upstream},
};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

async fn start(upstream: &Upstream) -> App {
    App::start(&[("OPENAI_BASE_URL", &format!("{}/v1", upstream.url()))]).await
}

/// A raw connection that has asked for a chat, so that leaving is one `drop`.
async fn ask(app: &App, user: &User) -> TcpStream {
    let body = chat_body().to_string();
    let mut connection = TcpStream::connect(app.address).await.expect("connects");
    let request = format!(
        "POST /api/chat/openai HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-length: {}\r\n\r\n{body}",
        user.bearer(),
        body.len()
    );
    connection.write_all(request.as_bytes()).await.expect("writes");
    connection
}

/// Leaves in a silence of the provider and measures until it was left too.
async fn leave(reply: Reply, text_first: bool) {
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-leave")]).await;
    upstream.script("sk-case-leave", vec![reply]);

    let mut connection = ask(&app, &user).await;
    assert!(upstream.wait_for("sk-case-leave", Duration::from_secs(5), |requests| !requests.is_empty()).await);
    if text_first {
        let mut seen = Vec::new();
        while !seen.windows(5).any(|bytes| bytes == b"Hello") {
            assert_ne!(connection.read_buf(&mut seen).await.expect("reads"), 0);
        }
    } else {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = Instant::now();
    drop(connection);
    let noticed =
        upstream.wait_for("sk-case-leave", Duration::from_secs(5), |requests| requests[0].left.is_some()).await;
    assert!(noticed, "the provider was never left");
    let requests = upstream.requests("sk-case-leave");
    let took = requests[0].left.expect("left").saturating_duration_since(left);
    assert!(took < Duration::from_millis(100), "{took:?}");

    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(upstream.requests("sk-case-leave").len(), 1, "nobody asks again for a client that left");
}

#[tokio::test]
async fn a_client_leaves_before_the_providers_head() {
    leave(Reply::silent(), false).await;
}

#[tokio::test]
async fn a_client_leaves_before_the_first_event() {
    leave(Reply::events(&[], Step::WaitForever), false).await;
}

#[tokio::test]
async fn a_client_leaves_between_events() {
    leave(Reply::events(&[DELTA], Step::WaitForever), true).await;
}

#[tokio::test]
async fn a_client_leaves_while_the_server_waits_to_ask_again() {
    let busy = Reply {
        status: 429,
        headers: vec![("retry-after-ms".to_owned(), "400".to_owned())],
        steps: vec![],
        end: End::Normal,
        ..Reply::default()
    };
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-wait")]).await;
    upstream.script("sk-case-wait", vec![busy]);
    let connection = ask(&app, &user).await;
    assert!(upstream.wait_for("sk-case-wait", Duration::from_secs(5), |requests| !requests.is_empty()).await);
    drop(connection);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(upstream.requests("sk-case-wait").len(), 1);
}

#[tokio::test]
async fn a_provider_that_asks_for_a_long_wait_is_quoted_at_once() {
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-patience")]).await;
    let words = json!({ "error": { "message": "Rate limit reached. Please try again in 20s." } });
    let mut busy = Reply::json(429, &words);
    busy.headers.push(("retry-after".to_owned(), "20".to_owned()));
    upstream.script("sk-case-patience", vec![busy]);
    let asked = Instant::now();
    let answer = app.chat("openai", &user).send().await.expect("an answer");
    let (status, said) = message(answer).await;
    assert!(status == 429 && said.contains("Please try again in 20s."), "{status} {said}");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(upstream.requests("sk-case-patience").len(), 1);
}

#[tokio::test]
async fn two_hundred_streams_run_at_once_on_two_database_connections() {
    let upstream = Upstream::start().await;
    let base = format!("{}/v1", upstream.url());
    let app =
        App::start(&[("OPENAI_BASE_URL", &base), ("DATABASE_POOL_SIZE", "2"), ("MAX_STREAMS_PER_USER", "200")]).await;
    let user = app.user(&[("openai_api_key", "sk-case-many")]).await;
    let reply = Reply {
        steps: vec![
            Step::Write(DELTA.into()),
            Step::Wait(Duration::from_secs(3)),
            Step::Write(DELTA.into()),
            Step::Write(DONE.into()),
        ],
        ..Reply::default()
    };
    upstream.script("sk-case-many", vec![reply]);

    let client = client();
    let body = chat_body().to_string();
    let streams = (0..200).map(|_| {
        let request =
            client.post(app.url("/api/chat/openai")).header("authorization", user.bearer()).body(body.clone());
        async move {
            let mut stream = request.send().await.expect("an answer").bytes_stream();
            let first = stream.next().await.expect("text").expect("unbroken");
            (Instant::now(), first, stream)
        }
    });
    let mut open = join_all(streams).await;
    let began = open.iter().map(|(at, ..)| *at);
    let (first, last) = (began.clone().min().expect("some"), began.max().expect("some"));
    assert!(last - first < Duration::from_secs(3), "all have begun before one has ended: {:?}", last - first);

    let connections: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and usename = 'chatbot_ui_api'",
    )
    .fetch_one(&app.db)
    .await
    .expect("a count");
    assert!((1..=2).contains(&connections), "{connections}");
    for (_, first, stream) in &mut open {
        let mut text = first.to_vec();
        while let Some(chunk) = stream.next().await {
            text.extend_from_slice(&chunk.expect("unbroken"));
        }
        assert_eq!(text, b"HelloHello");
    }
}

#[tokio::test]
async fn an_answer_as_events() {
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-events")]).await;
    let usage = "data: {\"choices\":[],\"usage\":{\"total_tokens\":3}}\n\n";
    upstream.script(
        "sk-case-events",
        vec![
            Reply::events(&[DELTA, usage, DONE], Step::Wait(Duration::ZERO)),
            Reply {
                steps: vec![Step::Write(DELTA.into()), Step::Wait(Duration::from_millis(50))],
                end: End::Reset,
                ..Reply::default()
            },
            Reply {
                status: 400,
                steps: vec![Step::Write(b"{\"error\":{\"message\":\"no\"}}".to_vec())],
                ..Reply::default()
            },
        ],
    );
    let ask = || app.chat("openai", &user).header("accept", "text/event-stream").send();

    let answer = ask().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let told = answer.text().await.expect("whole");
    let expected = "event: delta\ndata: {\"text\":\"Hello\"}\n\nevent: usage\ndata: {\"total_tokens\":3}\n\nevent: done\ndata: {\"finish_reason\":null,\"model\":\"gpt-4\",";
    assert!(told.starts_with(expected), "{told}");
    let broken = ask().await.expect("an answer").text().await.expect("whole");
    assert_eq!(
        broken.replace(": keep-alive\n\n", ""),
        "event: delta\ndata: {\"text\":\"Hello\"}\n\nevent: error\ndata: {\"message\":\"Connection error.\"}\n\n"
    );
    assert_eq!(message(ask().await.expect("an answer")).await, (400, "400 no".to_owned()));
}

#[tokio::test]
async fn answers_are_not_gathered_on_their_way() {
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-head")]).await;
    upstream.script("sk-case-head", vec![Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
    let answer = app.chat("openai", &user).send().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    assert_eq!(answer.headers()["cache-control"], "no-cache, no-transform");
    assert!(!answer.headers().contains_key("content-encoding"));
}

#[tokio::test]
async fn a_providers_connection_is_used_again() {
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-again")]).await;
    upstream.script("sk-case-again", vec![Reply::events(&[DELTA, DONE], Step::Wait(Duration::from_millis(20)))]);
    for _ in 0..10 {
        let answer = app.chat("openai", &user).send().await.expect("an answer");
        assert_eq!(answer.text().await.expect("whole"), "Hello");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // One for each worker at most.
    assert!(
        upstream.connections() <= std::thread::available_parallelism().map_or(1, usize::from),
        "{}",
        upstream.connections()
    );
}

#[tokio::test]
async fn a_provider_that_never_closes_after_done_does_not_hold_the_client() {
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-open")]).await;
    upstream.script("sk-case-open", vec![Reply::events(&[DELTA, DONE], Step::WaitForever)]);
    let started = Instant::now();
    let answer = app.chat("openai", &user).send().await.expect("an answer");
    assert_eq!(answer.text().await.expect("whole"), "Hello");
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    let left =
        |requests: &[_]| -> bool { matches!(requests, [crate::support::upstream::Recorded { left: Some(_), .. }]) };
    assert!(upstream.wait_for("sk-case-open", Duration::from_secs(3), left).await, "it is left in the end");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_for() {
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-slow")]).await;
    let megabyte = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(1 << 20));
    let steps = (0..100).map(|_| Step::Write(megabyte.clone().into())).collect();
    upstream.script("sk-case-slow", vec![Reply { steps, ..Reply::default() }]);
    let connection = ask(&app, &user).await;
    assert!(
        !upstream
            .wait_for("sk-case-slow", Duration::from_secs(2), |requests| requests.iter().any(|r| r.completed.is_some()))
            .await,
        "100 MB went somewhere"
    );
    drop(connection);
}

#[tokio::test]
async fn json_and_plain_text_are_taken_alike() {
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-type")]).await;
    upstream.script("sk-case-type", vec![Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
    for content_type in ["application/json", "text/plain;charset=UTF-8", "nonsense"] {
        let answer = app.chat("openai", &user).header("content-type", content_type).send().await.expect("an answer");
        assert_eq!(answer.text().await.expect("whole"), "Hello", "{content_type}");
    }
    let with_bom = format!("\u{feff}{}", chat_body());
    assert_eq!(
        app.chat("openai", &user).body(with_bom).send().await.expect("an answer").text().await.expect("whole"),
        "Hello"
    );
}

#[tokio::test]
async fn what_the_client_sent_is_passed_on_as_it_stands() {
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-raw")]).await;
    upstream.script("sk-case-raw", vec![Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
    let messages = r#"[{"role":"user","content":"half \ud83d","extra":{"b":1,"a":[1.50,1e3]}},{"role":"assistant","content":""},{"role":"user"},{"role":"user"}]"#;
    let body =
        format!(r#"{{"messages":{messages},"chatSettings":{{"model":"gpt-4","temperature":0.70}},"unknown":1}}"#);
    let answer = app.chat("openai", &user).body(body).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let sent = String::from_utf8(upstream.requests("sk-case-raw")[0].body.clone()).expect("UTF-8");
    // But for the answer that was stopped before its first word.
    let messages = messages.replace(r#"{"role":"assistant","content":""},"#, "");
    let begins =
        format!(r#"{{"model":"gpt-4","messages":{messages},"temperature":0.70,"stream":true,"stream_options""#);
    assert!(sent.starts_with(&begins), "{sent}");
}

#[tokio::test]
async fn a_request_without_a_session_is_not_read() {
    let app = App::start(&[]).await;
    let big = Value::String("x".repeat(8 << 20)).to_string();
    let answer = client().post(app.url("/api/chat/openai")).body(big).send().await.expect("an answer");
    assert_eq!(message(answer).await, (500, "User not found".to_owned()));
}

#[tokio::test]
async fn text_and_the_error_after_it_may_come_in_one_read() {
    let upstream = Upstream::start().await;
    let app = start(&upstream).await;
    let user = app.user(&[("openai_api_key", "sk-case-one")]).await;
    let both = format!("{DELTA}data: {{\"error\":{{\"message\":\"no more\"}}}}\n\n");
    upstream.script("sk-case-one", vec![Reply::events(&[&both], Step::Wait(Duration::ZERO))]);
    let mut answer = app.chat("openai", &user).send().await.expect("an answer");
    assert_eq!(answer.chunk().await.expect("text").as_deref(), Some(&b"Hello"[..]));
    assert_eq!(cut(answer).await, "\n\n*The answer stops here: the provider reported an error: no more.*");
}

#[tokio::test]
async fn a_silent_provider_is_given_up() {
    let upstream = Upstream::start().await;
    let base = format!("{}/v1", upstream.url());
    let app = App::start(&[("OPENAI_BASE_URL", &base), ("PROVIDER_IDLE_TIMEOUT", "1")]).await;
    let user = app.user(&[("openai_api_key", "sk-case-idle")]).await;
    for reply in [Reply::silent(), Reply::events(&[], Step::WaitForever)] {
        upstream.script("sk-case-idle", vec![reply]);
        let started = Instant::now();
        let answer = app.chat("openai", &user).send().await.expect("an answer");
        assert_eq!(message(answer).await, (504, "The provider said nothing for 1 second.".to_owned()));
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
    upstream.script("sk-case-idle", vec![Reply::events(&[DELTA], Step::WaitForever)]);
    let mut answer = app.chat("openai", &user).send().await.expect("an answer");
    assert_eq!(answer.chunk().await.expect("text").as_deref(), Some(&b"Hello"[..]));
    assert_eq!(cut(answer).await, "\n\n*The answer stops here: the provider said nothing for 1 second.*");
}

#[tokio::test]
async fn it_works_with_unnamed_statements_in_transactions() {
    let upstream = Upstream::start().await;
    let base = format!("{}/v1", upstream.url());
    let app = App::start(&[("OPENAI_BASE_URL", &base), ("DATABASE_POOLER", "transaction")]).await;
    let user = app.user(&[("openai_api_key", "sk-case-pooler")]).await;
    upstream.script("sk-case-pooler", vec![Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
    for _ in 0..5 {
        let answer = app.chat("openai", &user).send().await.expect("an answer");
        assert_eq!(answer.text().await.expect("whole"), "Hello");
    }
}
