//! The line that each request leaves in the log, and what the server says of
//! itself as it stops.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Deserializer, Value};

use crate::{
    process::{ended, output, serve_and_listen, signal},
    support::{
        User, chat_body, client, postgres,
        upstream::{Reply, Step, Upstream},
    },
};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const KEY: &str = "sk-case-log";

/// Waits for a line with this value under this name.
async fn line(written: &Arc<Mutex<String>>, name: &str, value: &str) -> Value {
    let started = Instant::now();
    loop {
        let text = written.lock().expect("no panic").clone();
        let mut lines = Deserializer::from_str(&text).into_iter::<Value>().map(|line| line.expect("JSON"));
        if let Some(line) = lines.find(|line| line[name] == value) {
            return line;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "no line with {name}={value} in {text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn each_request_leaves_one_line_that_says_how_it_went() {
    let upstream = Upstream::start().await;
    let database = postgres::database().await;
    let base = format!("{}/v1", upstream.url());
    let settings = [("DATABASE_URL", database.role_url.as_str()), ("OPENAI_BASE_URL", &base)];
    let (_child, url, written) = serve_and_listen(&settings).await;
    let user = User::create(&database.pool, &[("openai_api_key", KEY)]).await;
    let busy = Reply { status: 429, headers: vec![("retry-after-ms".to_owned(), "1".to_owned())], ..Reply::default() };
    let slow = Reply { before_head: Duration::from_millis(100), ..Reply::default() };
    let steps = vec![Step::Write(DELTA.into()), Step::Wait(Duration::from_millis(50)), Step::Write(DONE.into())];
    upstream.script(KEY, vec![busy, Reply { steps, ..slow }]);
    let request = client().post(format!("{url}/api/chat/openai")).header("authorization", user.bearer());
    let answer = request.body(chat_body().to_string()).send().await.expect("an answer");
    let id = answer.headers()["x-request-id"].to_str().expect("ascii").to_owned();
    assert_eq!(answer.text().await.expect("whole"), "Hello");

    let chat = line(&written, "request_id", &id).await;
    for (name, value) in [
        ("level", Value::from("INFO")),
        ("method", "POST".into()),
        ("route", "/api/chat/openai".into()),
        ("status", 200.into()),
        ("provider", "openai".into()),
        ("model", "gpt-4".into()),
        ("user", user.id.to_string().into()),
        ("retries", 1.into()),
        ("ended", "complete".into()),
    ] {
        assert_eq!(chat[name], value, "{name}: {chat}");
    }
    let [provider, first_text, duration] =
        ["provider_ms", "first_text_ms", "duration_ms"].map(|name| chat[name].as_f64().expect(name));
    // The first text may be seen late, and so the rest of the wait be shorter.
    assert!(provider >= 100.0 && provider < first_text && first_text + 10.0 <= duration, "{chat}");

    // Whose fault it is, is the level.
    let asked = async |path: &str, bearer: &str| {
        let request = client().post(format!("{url}{path}")).header("authorization", bearer);
        let answer = request.body("{\"userId\":\"\"}").send().await.expect("an answer");
        let id = answer.headers()["x-request-id"].to_str().expect("ascii").to_owned();
        let line = line(&written, "request_id", &id).await;
        assert_eq!(line["status"], answer.status().as_u16());
        (line["status"].as_u64(), line["level"].as_str().map(str::to_owned), line["detail"].as_str().map(str::to_owned))
    };
    let told = |status, level: &str, detail: &str| (Some(status), Some(level.to_owned()), Some(detail.to_owned()));
    assert_eq!(asked("/api/none", "").await, told(404, "INFO", "Route not found"));
    assert_eq!(asked("/api/command", "").await, told(500, "WARN", "no session in the request"));
    sqlx::raw_sql("revoke select on public.profiles from chatbot_ui_api")
        .execute(&database.pool)
        .await
        .expect("revokes");
    let (status, level, detail) = asked("/api/command", &user.bearer()).await;
    assert_eq!((status, level.as_deref()), (Some(500), Some("ERROR")), "{detail:?}");
    assert!(detail.is_some_and(|detail| detail.contains("permission denied")));
}

#[tokio::test]
async fn a_stream_that_the_server_cuts_says_so() {
    let upstream = Upstream::start().await;
    let database = postgres::database().await;
    let base = format!("{}/v1", upstream.url());
    let (mut child, url, written) = serve_and_listen(&[
        ("DATABASE_URL", &database.role_url),
        ("OPENAI_BASE_URL", &base),
        ("SHUTDOWN_GRACE", "1"),
        ("METRICS_ADDR", "127.0.0.1:0"),
    ])
    .await;
    let user = User::create(&database.pool, &[("openai_api_key", KEY)]).await;
    upstream.script(KEY, vec![Reply::events(&[DELTA], Step::WaitForever)]);
    let mut answers = Vec::new();
    for _ in 0..5 {
        let request = client().post(format!("{url}/api/chat/openai")).header("authorization", user.bearer());
        let mut answer = request.body(chat_body().to_string()).send().await.expect("an answer");
        assert_eq!(answer.chunk().await.expect("text").expect("some"), "Hello");
        answers.push(answer);
    }
    let metrics = written.lock().expect("no panic").clone();
    let metrics = metrics.split('"').find_map(|part| part.strip_prefix("metrics at ")).expect("where").to_owned();

    signal(&child, "TERM");
    line(&written, "message", "stopping: streams have 1 s to finish; a second signal stops at once").await;
    let scraped = client().get(metrics).send().await.expect("still there").text().await.expect("text");
    assert!(scraped.contains("chatbot_ui_api_streams_open{provider=\"openai\"} 5"), "{scraped}");
    for mut answer in answers {
        assert!(answer.chunk().await.is_err(), "cut");
    }
    assert_eq!(ended(&mut child).await, Some(0));
    line(&written, "ended", "server stopping").await;
    let written = written.lock().expect("no panic").clone();
    assert_eq!(written.matches("server stopping").count(), 5, "{written}");
}

#[tokio::test]
async fn requests_that_wait_when_the_server_cuts_them_leave_their_lines() {
    let upstream = Upstream::start().await;
    let database = postgres::database().await;
    let base = format!("{}/v1", upstream.url());
    let settings = [("DATABASE_URL", database.role_url.as_str()), ("OPENAI_BASE_URL", &base), ("SHUTDOWN_GRACE", "1")];
    let (mut child, url, written) = serve_and_listen(&settings).await;
    let user = User::create(&database.pool, &[("openai_api_key", KEY)]).await;
    upstream.script(KEY, vec![Reply::silent()]);
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let request = client().post(format!("{url}/api/chat/openai")).header("authorization", user.bearer());
            tokio::spawn(request.body(chat_body().to_string()).send())
        })
        .collect();
    assert!(upstream.wait_for(KEY, Duration::from_secs(10), |requests| requests.len() == 20).await, "all are let in");
    signal(&child, "TERM");
    assert_eq!(ended(&mut child).await, Some(0));
    for request in waiting {
        assert!(request.await.expect("no panic").is_err(), "cut");
    }
    line(&written, "ended", "server stopping").await;
    let written = written.lock().expect("no panic").clone();
    assert_eq!(written.matches("server stopping").count(), 20, "{written}");
}

#[tokio::test]
async fn a_metrics_address_that_is_taken_is_said() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("an address").to_string();
    let (status, said) = output(&[], &[("PORT", "0"), ("METRICS_ADDR", &address)]).await;
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains(&format!("chatbot-ui-api: METRICS_ADDR {address} cannot be listened on")), "{said}");
    drop(held);
}
