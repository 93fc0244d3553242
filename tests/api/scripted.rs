//! The scripted provider itself, which every other test trusts.

use std::{
    io,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::upstream::{
    ANY, End, Recorded, Reply, Step, Upstream,
    wire::{Answer, Headers, Request, Rest, Wire, ask},
};

const SOON: Duration = Duration::from_secs(5);

fn request(key: &str) -> Request {
    Request {
        method: "POST".to_owned(),
        path: "/v1/chat/completions".to_owned(),
        headers: vec![("Authorization".to_owned(), format!("Bearer {key}"))],
        body: Some(b"{}".to_vec()),
        leave_after: None,
    }
}

fn says(texts: &[&str]) -> Reply {
    Reply::events(texts, Step::Wait(Duration::ZERO))
}

async fn post(upstream: &Upstream, key: &str) -> io::Result<Answer> {
    ask(upstream.address, &request(key)).await
}

#[tokio::test]
async fn replies_are_used_one_a_request_and_the_last_repeats() {
    let upstream = Upstream::start().await;
    upstream.script("a", vec![says(&["one"]), says(&["two", "!"])]);
    upstream.script("b", vec![Reply::json(429, &json!({ "wait": true }))]);

    for expected in ["one", "two!", "two!"] {
        let answer = post(&upstream, "a").await.expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer.body), expected);
        assert!(answer.complete);
    }
    let answer = post(&upstream, "b").await.expect("an answer");
    assert_eq!((answer.status, answer.body.as_slice()), (429, br#"{"wait":true}"#.as_slice()));

    assert_eq!(upstream.requests("a").len(), 3);
    assert_eq!(upstream.all().len(), 4);
    assert_eq!(upstream.connections(), 4);
}

#[tokio::test]
async fn the_key_is_found_wherever_a_provider_looks_for_it() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-k", vec![Reply::default()]);
    for (name, value) in [
        ("Authorization", "bearer sk-case-k"),
        ("api-key", "sk-case-k"),
        ("X-API-Key", "sk-case-k"),
        ("x-goog-api-key", "sk-case-k"),
    ] {
        let mut request = request("");
        request.headers = vec![(name.to_owned(), value.to_owned())];
        ask(upstream.address, &request).await.expect("an answer");
    }
    let mut request = request("another");
    request.path = "/custom-sk-case-k/v1?q=S%C3%A3o+Paulo&empty=".to_owned();
    ask(upstream.address, &request).await.expect("an answer");
    // A value that looks like a key but has no script is passed over.
    request.path = "/sk-case-other".to_owned();
    request.headers = vec![("api-key".to_owned(), "sk-case-k".to_owned())];
    ask(upstream.address, &request).await.expect("an answer");

    let seen = upstream.requests("sk-case-k");
    assert_eq!(seen.len(), 6);
    assert_eq!(seen[4].path, "/custom-sk-case-k/v1");
    assert_eq!(seen[4].header("authorization"), Some("Bearer another"));
    let query = [("q", "São Paulo"), ("empty", "")];
    assert_eq!(seen[4].query, query.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn a_key_without_a_script_gets_the_answer_for_any() {
    let upstream = Upstream::start().await;
    assert_eq!(post(&upstream, "x").await.expect("an answer").status, 404);
    upstream.script_any(vec![says(&["any"])]);
    assert_eq!(post(&upstream, "x").await.expect("an answer").body, b"any");
    assert_eq!((upstream.requests("x").len(), upstream.requests(ANY).len()), (1, 1));
}

#[tokio::test]
async fn tools_answer_without_using_up_a_reply() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-t", vec![says(&["one"]), says(&["two"])]);
    upstream.tool("sk-case-t", "/tool-", Reply::json(200, &json!(21)));

    let mut tool = request("tool-secret");
    tool.path = "/tool-sk-case-t/weather".to_owned();
    let mut bodies = Vec::new();
    for request in [request("sk-case-t"), tool, request("sk-case-t")] {
        bodies.push(ask(upstream.address, &request).await.expect("an answer").body);
    }
    assert_eq!(bodies, [b"one".as_slice(), b"21", b"two"]);
    assert_eq!(upstream.requests("sk-case-t").len(), 3);
}

#[tokio::test]
async fn an_answer_without_steps_has_no_body() {
    let upstream = Upstream::start().await;
    let reply = Reply { status: 401, headers: Headers::new(), ..Reply::default() };
    upstream.script("k", vec![reply]);
    let answer = post(&upstream, "k").await.expect("an answer");
    assert_eq!(answer.headers, [("content-length".to_owned(), "0".to_owned())]);
    assert!(answer.body.is_empty() && answer.complete);
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let upstream = Upstream::start().await;
    upstream.script("k", vec![says(&["hello"])]);

    let mut socket = TcpStream::connect(upstream.address).await.expect("a connection");
    let (reader, mut writer) = socket.split();
    let mut wire = Wire::new(reader);
    for body in ["3\r\nabc\r\n2;x=y\r\nde\r\n0\r\ntrailer: x\r\n\r\n", "0\r\n\r\n"] {
        let head = "POST / HTTP/1.1\r\napi-key: k\r\ntransfer-encoding: chunked\r\n\r\n";
        writer.write_all(format!("{head}{body}").as_bytes()).await.expect("a write");
        let head = wire.head().await.expect("a head").expect("an answer");
        assert_eq!(head.start, "HTTP/1.1 200");
        assert_eq!(wire.body(Rest::Chunks(0)).await.expect("a body"), "hello");
    }
    let seen = upstream.requests("k");
    assert_eq!((seen[0].connection, seen[1].connection), (1, 1));
    assert_eq!((&seen[0].body[..], &seen[1].body[..]), (b"abcde".as_slice(), b"".as_slice()));
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_refusal_is_no_answer_and_a_reset_cuts_the_body() {
    let upstream = Upstream::start().await;
    let refusal = Reply { end: End::Refuse, ..Reply::default() };
    let at_once = Reply { end: End::Reset, ..Reply::default() };
    let reset = Reply { end: End::Reset, ..says(&["part"]) };
    upstream.script("k", vec![refusal, at_once, reset]);

    assert!(post(&upstream, "k").await.is_err());
    let answer = post(&upstream, "k").await.expect("a head");
    assert_eq!((answer.status, answer.body.as_slice(), answer.complete), (200, b"".as_slice(), false));
    let answer = post(&upstream, "k").await.expect("a head");
    assert_eq!((answer.body.as_slice(), answer.complete), (b"part".as_slice(), false));

    let whole = |request: &Recorded| request.completed.is_some() && request.left.is_none();
    assert!(upstream.wait_for("k", SOON, |seen| seen.iter().all(whole)).await);
}

#[tokio::test]
async fn a_peer_that_leaves_is_noticed_in_every_silence() {
    let upstream = Upstream::start().await;
    for (key, reply) in [
        ("silent", Reply::silent()),
        ("headless", Reply::events(&[], Step::WaitForever)),
        ("midway", Reply::events(&["first"], Step::WaitForever)),
    ] {
        upstream.script(key, vec![reply]);
        let request = request(key);
        let asking = ask(upstream.address, &request);
        let came = upstream.wait_for(key, SOON, |seen| seen.len() == 1);
        tokio::select! {
            _ = asking => panic!("{key}: the answer ended"),
            came = came => assert!(came),
        };
        let gone = Instant::now();
        assert!(upstream.wait_for(key, SOON, |seen| seen[0].is_over()).await);
        let seen = upstream.requests(key);
        assert!(seen[0].completed.is_none(), "{key}");
        let left = seen[0].left.expect("when it left");
        assert!(left.duration_since(gone) < Duration::from_secs(1), "{key}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_after_some_bytes_leaves_in_the_middle() {
    let upstream = Upstream::start().await;
    upstream.script("k", vec![Reply::events(&["first"], Step::WaitForever)]);
    let answer = ask(upstream.address, &Request { leave_after: Some(1), ..request("k") }).await;
    let answer = answer.expect("an answer");
    assert_eq!((answer.body.as_slice(), answer.complete), (b"first".as_slice(), false));
    assert!(answer.first_byte.is_some());
    assert!(upstream.wait_for("k", SOON, |seen| seen[0].left.is_some()).await);
}

#[tokio::test]
async fn malformed_requests_do_no_harm() {
    let upstream = Upstream::start().await;
    upstream.script("k", vec![says(&["still here"])]);
    for nonsense in [
        "",
        "GET",
        "\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nshort",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut socket = TcpStream::connect(upstream.address).await.expect("a connection");
        socket.write_all(nonsense.as_bytes()).await.expect("a write");
    }
    assert_eq!(post(&upstream, "k").await.expect("an answer").body, b"still here");
    let moment = Duration::from_millis(1);
    assert!(!upstream.wait_for("k", moment, |seen| seen.len() > 1).await);
}

#[tokio::test]
async fn an_answer_may_be_computed_and_need_not_be_http() {
    let upstream = Upstream::answering(|request| match request.path.as_str() {
        "/v1/chat/completions" => says(&[&request.key]),
        _ => Reply::raw(b"nonsense\r\n\r\n"),
    });
    assert_eq!(post(&upstream, "k").await.expect("an answer").body, b"k");
    let elsewhere = Request { path: "/".to_owned(), ..request("k") };
    let error = ask(upstream.address, &elsewhere).await.expect_err("no status line");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(upstream.requests("k").len(), 2);
}

#[tokio::test]
async fn for_long_nothing_is_recorded_and_no_idle_connection_kept() {
    let repeated = Reply { steps: vec![Step::Repeat(b"ab".to_vec(), 3)], ..Reply::default() };
    let upstream = Upstream::answering_for_long(Duration::from_millis(20), move |_| repeated.clone());
    assert_eq!(post(&upstream, "k").await.expect("an answer").body, b"ababab");
    assert!(upstream.all().is_empty());
    let mut idle = TcpStream::connect(upstream.address).await.expect("a connection");
    let ended = tokio::time::timeout(SOON, Wire::new(&mut idle).head()).await.expect("soon");
    assert!(ended.expect("a proper end").is_none());
}
