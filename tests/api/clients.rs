//! Clients that are slow, greedy or strange.

#[cfg(target_os = "linux")]
mod vanished;

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    App, User, chat_body, client, tokens,
    upstream::{Reply, Step, Upstream},
};

const DONE: &str = "data: [DONE]\n\n";

fn delta(text: &str) -> String {
    format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
}

async fn connect(app: &App) -> TcpStream {
    TcpStream::connect(app.address).await.expect("connects")
}

fn head(user: &User, path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n{more}\r\n", user.bearer())
}

/// The server's output while it is sent a byte each tenth of a second, until it
/// closes the connection; and the time that took.
async fn dribble(connection: TcpStream, bytes: Vec<u8>) -> (String, Duration) {
    let started = Instant::now();
    let (mut reader, mut writer) = connection.into_split();
    let sending = tokio::spawn(async move {
        for byte in bytes.into_iter().cycle() {
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut said = Vec::new();
    let closed = timeout(Duration::from_secs(15), async {
        // Closed by a reset, perhaps, as bytes of ours were not read.
        while matches!(reader.read_buf(&mut said).await, Ok(1..)) {}
    });
    closed.await.expect("it is closed");
    sending.abort();
    (String::from_utf8(said).expect("text"), started.elapsed())
}

/// A connection in use is kept, however long it is silent.
#[tokio::test]
async fn only_idle_connections_are_closed() {
    let upstream = Upstream::start().await;
    let base = format!("{}/v1", upstream.url());
    let app = App::start(&[("KEEP_ALIVE_TIMEOUT", "1"), ("OPENAI_BASE_URL", &base)]).await;
    let user = app.user(&[("openai_api_key", "sk-case-in-use")]).await;
    let silence = Duration::from_millis(1600);
    let steps = vec![Step::Write(delta("a").into()), Step::Wait(silence), Step::Write((delta("b") + DONE).into())];
    upstream.script("sk-case-in-use", vec![Reply { steps, ..Reply::default() }]);

    let stream = async { app.chat("openai", &user).send().await.expect("an answer").text().await.expect("whole") };
    let upload = async {
        let mut connection = connect(&app).await;
        let head = head(&user, "/api/username/available", "content-length: 16\r\nconnection: close\r\n");
        connection.write_all((head + "{\"username\"").as_bytes()).await.expect("writes");
        tokio::time::sleep(silence).await;
        connection.write_all(b":\"x\"}").await.expect("writes");
        let mut said = String::new();
        connection.read_to_string(&mut said).await.expect("text");
        said
    };
    let kept = async {
        let mut connection = connect(&app).await;
        for _ in 0..5 {
            connection.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("writes");
            let mut said = Vec::new();
            while !said.ends_with(b"}") {
                assert!(connection.read_buf(&mut said).await.expect("reads") > 0, "it is closed");
            }
            tokio::time::sleep(silence / 5).await;
        }
    };
    let (stream, upload, ()) = tokio::join!(stream, upload, kept);
    assert_eq!(stream, "ab");
    assert!(upload.starts_with("HTTP/1.1 200 "), "{upload}");
}

#[tokio::test]
async fn a_head_that_comes_a_byte_at_a_time_is_given_up() {
    let (app, impatient) = tokio::join!(App::start(&[]), App::start(&[("KEEP_ALIVE_TIMEOUT", "2")]));
    let endless = b"GET /healthz HTTP/1.1\r\nx: xxxxxxxxxxxxxxxx".to_vec();
    let first = async {
        let (said, took) = dribble(connect(&app).await, endless.clone()).await;
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
        assert!(took < Duration::from_secs(7), "{took:?}");
    };
    let whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let second = async {
        let mut connection = connect(&impatient).await;
        connection.write_all(whole).await.expect("writes");
        let (said, took) = dribble(connection, endless.clone()).await;
        assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("\"ok\"}"), "{said}");
        assert!(took < Duration::from_secs(12), "{took:?}");
    };
    // With the beginning of the second in the same write, and then silence.
    let silent = async {
        let mut connection = connect(&impatient).await;
        connection.write_all(&[&whole[..], &endless].concat()).await.expect("writes");
        let mut said = String::new();
        let closed = timeout(Duration::from_secs(12), connection.read_to_string(&mut said)).await;
        closed.expect("it is closed").expect("text");
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    };
    tokio::join!(first, second, silent);
}

#[tokio::test]
async fn a_body_that_comes_a_byte_at_a_time_is_given_up() {
    let app = App::start(&[("BODY_TIMEOUT", "1")]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    let form = "content-type: multipart/form-data; boundary=x\r\n";
    let start = "--x\r\ncontent-disposition: form-data; name=file_id\r\n\r\n";
    let cases = [
        ("/api/chat/openai", "content-length: 1000\r\n", "{", " "),
        ("/api/chat/openai", "transfer-encoding: chunked\r\n", "", "1\r\n \r\n"),
        ("/api/retrieval/process", &format!("{form}content-length: 1000\r\n"), start, "1"),
        (
            "/api/retrieval/process",
            "content-type: application/x-www-form-urlencoded\r\ncontent-length: 9999\r\n",
            "",
            "a",
        ),
    ];
    join_all(cases.into_iter().map(async |(path, more, start, byte)| {
        let mut connection = connect(&app).await;
        connection.write_all(head(&user, path, more).as_bytes()).await.expect("writes");
        connection.write_all(start.as_bytes()).await.expect("writes");
        let (said, took) = dribble(connection, byte.as_bytes().to_vec()).await;
        assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("connection: close"), "{path} {more}: {said}");
        assert!(said.ends_with(r#"{"message":"The request body did not come in time"}"#), "{path} {more}: {said}");
        assert!(took < Duration::from_secs(4), "{path} {more}: {took:?}");
    }))
    .await;
}

#[tokio::test]
async fn the_body_of_a_refused_request_is_not_waited_for() {
    let app = App::start(&[]).await;
    let cases = [("content-length: 1000\r\n", " "), ("transfer-encoding: chunked\r\n", "1\r\n \r\n")];
    join_all(cases.map(async |(more, byte)| {
        let mut connection = connect(&app).await;
        let head = format!("POST /api/chat/openai HTTP/1.1\r\nhost: x\r\n{more}\r\n");
        connection.write_all(head.as_bytes()).await.expect("writes");
        let (said, took) = dribble(connection, byte.as_bytes().to_vec()).await;
        assert!(said.ends_with(r#"{"message":"User not found"}"#), "{more}: {said}");
        assert!(took < Duration::from_secs(4), "{more}: {took:?}");
    }))
    .await;
}

#[tokio::test]
async fn a_body_that_is_slow_but_comes_is_taken() {
    let upstream = Upstream::start().await;
    let base = format!("{}/v1", upstream.url());
    let app = App::start(&[("OPENAI_BASE_URL", &base), ("BODY_TIMEOUT", "1")]).await;
    let user = app.user(&[("openai_api_key", "sk-case-slow-body")]).await;
    upstream.script("sk-case-slow-body", vec![Reply::events(&[&delta("Hello"), DONE], Step::Wait(Duration::ZERO))]);
    let mut body = chat_body();
    body["messages"][0]["content"] = "x".repeat(40_000).into();
    let body = body.to_string();
    let mut connection = connect(&app).await;
    let head = head(&user, "/api/chat/openai", &format!("content-length: {}\r\nconnection: close\r\n", body.len()));
    connection.write_all(head.as_bytes()).await.expect("writes");
    for part in body.as_bytes().chunks(10_000) {
        connection.write_all(part).await.expect("writes");
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let mut said = String::new();
    connection.read_to_string(&mut said).await.expect("an answer");
    assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
}

#[tokio::test]
async fn requests_in_a_row_are_answered_in_their_order() {
    let upstream = Upstream::start().await;
    let app = App::start(&[("OPENAI_BASE_URL", &format!("{}/v1", upstream.url()))]).await;
    let user = app.user(&[("openai_api_key", "sk-case-row")]).await;
    let slow = Step::Wait(Duration::from_millis(200));
    upstream.script(
        "sk-case-row",
        vec![
            Reply { before_head: Duration::from_millis(300), ..Reply::events(&[&delta("first"), DONE], slow.clone()) },
            Reply::events(&[&delta("second"), DONE], Step::Wait(Duration::ZERO)),
        ],
    );
    let body = chat_body().to_string();
    let ask = head(&user, "/api/chat/openai", &format!("content-length: {}\r\n", body.len())) + body.as_str();
    let last = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut connection = connect(&app).await;
    connection.write_all(format!("{ask}{ask}{last}").as_bytes()).await.expect("writes");
    let mut said = String::new();
    timeout(Duration::from_secs(5), connection.read_to_string(&mut said)).await.expect("soon").expect("text");
    let answers: Vec<&str> = said.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 3, "{said}");
    for (answer, words) in
        answers.iter().zip(["\r\n5\r\nfirst\r\n0\r\n\r\n", "\r\n6\r\nsecond\r\n0\r\n\r\n", "\"ok\"}"])
    {
        assert!(answer.starts_with("200 OK") && answer.ends_with(words), "{said}");
    }
}

#[tokio::test]
async fn a_session_is_found_in_the_second_cookie_and_the_last_of_two_counts() {
    let app = App::start(&[]).await;
    let (user, other) = (app.user(&[]).await, app.user(&[("openai_api_key", "k")]).await);
    let session = |user: &User| {
        let session = json!({ "access_token": tokens::access_token(user.id, user.session) });
        format!("sb-127-auth-token={session}")
    };
    // The one without a key is told so; the one with a key is past that.
    for (cookies, words) in [
        (vec!["theme=dark".to_owned(), session(&user)], "OpenAI API Key not found"),
        (vec![session(&user), session(&other)], "chatSettings is missing"),
        (vec![format!("{}; {}", session(&other), session(&user))], "OpenAI API Key not found"),
    ] {
        let mut request = client().post(app.url("/api/chat/openai")).body("{}");
        for cookie in cookies {
            request = request.header("cookie", cookie);
        }
        let said = request.send().await.expect("an answer").text().await.expect("text");
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn ten_thousand_headers_are_refused() {
    let app = App::start(&[]).await;
    for header in ["a: b\r\n".to_owned(), format!("{}: b\r\n", "a".repeat(1000))] {
        let mut connection = connect(&app).await;
        let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{}\r\n", header.repeat(10_000));
        // It need not read all of it.
        let _ = connection.write_all(request.as_bytes()).await;
        let mut said = Vec::new();
        let closed =
            timeout(Duration::from_secs(5), async { while matches!(connection.read_buf(&mut said).await, Ok(1..)) {} });
        closed.await.expect("it is closed");
        let said = String::from_utf8(said).expect("text");
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    assert_eq!(client().get(app.url("/healthz")).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn small_writes_do_not_wait_for_acknowledgements() {
    let upstream = Upstream::start().await;
    let app = App::start(&[("OPENAI_BASE_URL", &format!("{}/v1", upstream.url()))]).await;
    let user = app.user(&[("openai_api_key", "sk-case-small")]).await;
    let mut steps = Vec::new();
    for _ in 0..20 {
        steps.extend([Step::Write(delta("x").into_bytes()), Step::Wait(Duration::from_millis(5))]);
    }
    upstream.script("sk-case-small", vec![Reply { steps, ..Reply::default() }]);
    let mut connection = connect(&app).await;
    let body = chat_body().to_string();
    let head = head(&user, "/api/chat/openai", &format!("content-length: {}\r\nconnection: close\r\n", body.len()));
    connection.write_all(format!("{head}{body}").as_bytes()).await.expect("writes");
    let mut reads = 0;
    loop {
        // As a client does that has nothing to say: it acknowledges late.
        SockRef::from(&connection).set_tcp_quickack(false).expect("an option");
        if connection.read(&mut [0; 4096]).await.expect("reads") == 0 {
            break;
        }
        reads += 1;
    }
    assert!(reads > 15, "several texts came at once: {reads} reads");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_says_nothing_is_asked_whether_it_lives() {
    let app = App::start(&[]).await;
    let connection = connect(&app).await;
    let port = |address: std::net::SocketAddr| format!("0100007F:{:04X}", address.port());
    let (server, client) = (port(app.address), port(connection.local_addr().expect("an address")));
    let timer = || -> Option<(String, u64)> {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
        let fields: Vec<&str> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|fields| fields[1] == server && fields[2] == client)?;
        let (kind, left) = fields[5].split_once(':')?;
        Some((kind.to_owned(), u64::from_str_radix(left, 16).ok()?))
    };
    let keepalive = async {
        loop {
            // 2: keepalive; in hundredths of a second. The default is two hours.
            match timer() {
                Some((kind, left)) if kind == "02" && left <= 1600 => break,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(Duration::from_secs(3), keepalive).await.expect("keepalive");
}
