//! Requests to the front end are treated as all others: they count towards
//! `MAX_REQUESTS`, are logged, and may finish while the server stops.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use reqwest::Response;
use serde_json::{Deserializer, Value};
use tokio::process::Child;

use super::{FrontEnd, soon, web_socket};
use crate::{
    process::{ended, serve_and_listen, signal, stopping},
    support::{
        App, client, message,
        ports::Port,
        upstream::{ANY, Reply, Step, Upstream},
    },
};

/// Asserts that a request is refused as one too many.
async fn is_full(app: &App, path: &str) {
    let refused = soon(client().get(app.url(path)).send()).await.expect("an answer");
    assert!(refused.headers().contains_key("retry-after"), "{path}");
    let sentence = "The server is busy. Please try again in a moment.";
    assert_eq!(message(refused).await, (503, sentence.to_owned()), "{path}");
}

/// Waits until one more gets in, as the end of another is noticed.
async fn has_room(app: &App) {
    let began = Instant::now();
    while client().get(app.url("/api/nothing")).send().await.expect("an answer").status() == 503 {
        assert!(began.elapsed() < Duration::from_secs(5), "the place is not given back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_passed_on_counts_for_max_requests_until_its_end() {
    let (front_end, app) = FrontEnd::start(&[("MAX_REQUESTS", "1")]).await;
    let asked = tokio::spawn(client().get(app.url("/page")).send());
    let (mut connection, _) = front_end.request().await;
    // Before its head, and while its body comes.
    is_full(&app, "/other").await;
    connection.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nfirst").await;
    let answer = soon(asked).await.expect("no panic").expect("an answer");
    is_full(&app, "/other").await;
    is_full(&app, "/api/nothing").await;
    assert_eq!(client().get(app.url("/healthz")).send().await.expect("an answer").status(), 200);
    connection.write("after").await;
    assert_eq!(soon(answer.text()).await.expect("whole"), "firstafter");
    has_room(&app).await;

    // A client that leaves, and one whose connection became a WebSocket.
    let left = client().get(app.url("/page")).send();
    let (connection, _) = tokio::select! {
        asked = front_end.request() => asked,
        _ = left => panic!("there is no answer"),
    };
    has_room(&app).await;
    drop(connection);
    let (socket, _connection) = web_socket(&front_end, &app).await;
    is_full(&app, "/other").await;
    drop(socket);
    has_room(&app).await;
}

/// The binary in front of this front end.
async fn start(upstream: &Upstream, settings: &[(&str, &str)]) -> (Child, String, Arc<Mutex<String>>) {
    let front_end = upstream.url();
    let nobody = ("DATABASE_URL", "postgresql://nobody:nothing@127.0.0.1:9/x");
    let settings: Vec<_> = [("FRONTEND_URL", front_end.as_str()), nobody].iter().chain(settings).copied().collect();
    serve_and_listen(&settings).await
}

/// The lines of requests that the server has written.
fn lines(written: &Arc<Mutex<String>>) -> Vec<Value> {
    let text = written.lock().expect("no panic").clone();
    let lines = Deserializer::from_str(&text).into_iter::<Value>().map(|line| line.expect("JSON"));
    lines.filter(|line| line["message"] == "request").collect()
}

#[tokio::test]
async fn each_request_that_is_passed_on_leaves_one_line_with_its_paths_pattern() {
    let upstream = Upstream::start().await;
    let metrics = Port::reserve();
    let debug = ("RUST_LOG", "debug");
    let (_child, url, written) = start(&upstream, &[("METRICS_ADDR", &metrics.address.to_string()), debug]).await;
    let text = |status| Reply { status, ..Reply::events(&["text"], Step::Wait(Duration::ZERO)) };
    upstream.script_any(vec![text(200), text(404), text(500), text(200)]);
    let mut expected = Vec::new();
    for (path, status, level, pattern) in [
        ("/", 200, "DEBUG", "/"),
        ("/en/chat?secret=1", 404, "DEBUG", "/en/chat"),
        ("/x/y1", 500, "WARN", "/x/{}"),
        ("/%61pis", 200, "DEBUG", "/{}"),
    ] {
        let answer = client().get(format!("{url}{path}")).send().await.expect("an answer");
        assert_eq!(answer.status(), status);
        let id = answer.headers()["x-request-id"].to_str().expect("ascii").to_owned();
        assert_eq!(answer.text().await.expect("whole"), "text");
        expected.push((id, status, level, pattern));
    }
    let began = Instant::now();
    while lines(&written).len() < expected.len() && began.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let lines = lines(&written);
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (id, status, level, pattern)) in lines.iter().zip(&expected) {
        let said = [&line["request_id"], &line["status"], &line["level"], &line["route"], &line["method"]];
        assert_eq!(said.map(ToString::to_string).join(" "), format!("{id:?} {status} {level:?} {pattern:?} \"GET\""));
    }

    let scraped = client().get(format!("http://{}/metrics", metrics.address)).send().await.expect("metrics");
    let scraped = scraped.text().await.expect("text");
    let routes: Vec<_> = scraped.lines().filter(|line| line.starts_with("chatbot_ui_api_requests_total{")).collect();
    assert_eq!(routes.len(), 3, "one a status: {routes:?}");
    assert!(routes.iter().all(|series| series.contains("route=\"(none)\"")), "{routes:?}");
}

/// An answer of the front end that has begun.
async fn begun(url: &str) -> Response {
    let mut answer = client().get(format!("{url}/page")).send().await.expect("an answer");
    assert_eq!(answer.chunk().await.expect("bytes").expect("some"), "first");
    answer
}

#[tokio::test]
async fn after_sigterm_an_answer_of_the_front_end_may_finish() {
    let upstream = Upstream::start().await;
    let (mut child, url, written) = start(&upstream, &[("RUST_LOG", "debug")]).await;
    let steps = vec![Step::Write(b"first".to_vec()), Step::WaitForRelease, Step::Write(b"last".to_vec())];
    upstream.script_any(vec![Reply { steps, ..Reply::default() }]);
    let mut answer = begun(&url).await;
    let told = Instant::now();
    signal(&child, "TERM");
    stopping(&url).await;
    let refused = client().get(format!("{url}/other")).send().await.expect("an answer");
    assert_eq!(message(refused).await, (503, "The server is stopping".to_owned()));
    upstream.release(ANY);
    assert_eq!(answer.chunk().await.expect("bytes").expect("some"), "last");
    assert_eq!(answer.chunk().await.expect("a proper end"), None);
    assert_eq!(ended(&mut child).await, Some(0));
    assert!(told.elapsed() < Duration::from_secs(5), "it does not wait for its grace: {:?}", told.elapsed());
    let lines = lines(&written);
    let passed_on = lines.iter().filter(|line| line["route"] == "/page" || line["route"] == "(none)");
    assert_eq!(passed_on.count(), 2, "{lines:#?}");
}

#[tokio::test]
async fn an_answer_of_the_front_end_is_cut_when_the_grace_is_over() {
    let upstream = Upstream::start().await;
    let (mut child, url, written) = start(&upstream, &[("SHUTDOWN_GRACE", "1"), ("RUST_LOG", "debug")]).await;
    upstream.script_any(vec![Reply::events(&["first"], Step::WaitForever)]);
    let mut answer = begun(&url).await;
    let told = Instant::now();
    signal(&child, "TERM");
    assert!(answer.chunk().await.is_err(), "cut");
    assert_eq!(ended(&mut child).await, Some(0));
    let took = told.elapsed();
    assert!((Duration::from_millis(950)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(lines(&written).len(), 1, "it leaves its line all the same");
}
