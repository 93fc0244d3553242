//! Providers that are away, slow, broken or hostile.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    process::serve,
    support::{
        App, User, chat_body, client, message, postgres, rows,
        tls::{AUTHORITY, Answer, Tls},
        upstream::{Reply, Step, Upstream},
    },
};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A provider that does with each connection what the test says; the number
/// counts connections from 0.
async fn raw<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(usize, TcpStream) -> F + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        for number in 0.. {
            let (socket, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(number, socket));
        }
    });
    address
}

/// Reads one request with a body.
async fn request(socket: &mut TcpStream) -> bool {
    let mut read = Vec::new();
    loop {
        if !matches!(socket.read_buf(&mut read).await, Ok(1..)) {
            return false;
        }
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_lowercase()
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                return true;
            }
        }
    }
}

/// What a server with this provider answers, and how long it takes.
async fn ask(base: &str, settings: &[(&str, &str)]) -> (u16, String, Duration) {
    let settings: Vec<_> = [("OPENAI_BASE_URL", base)].iter().chain(settings).copied().collect();
    let app = App::start(&settings).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    let started = Instant::now();
    let answer = app.chat("openai", &user).send().await.expect("an answer");
    let (status, words) = message(answer).await;
    (status, words, started.elapsed())
}

#[tokio::test]
async fn a_name_that_leads_nowhere() {
    // No name server is asked for a label of more than 63 characters.
    let base = format!("http://{}.invalid/v1", "x".repeat(64));
    let (status, words, took) = ask(&base, &[]).await;
    assert_eq!((status, words.as_str()), (500, "Connection error."));
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn a_provider_that_speaks_no_tls() {
    let address = raw(async |_, mut socket| {
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        let _ = socket.read(&mut [0; 1000]).await;
    });
    let (status, words, took) = ask(&format!("https://{}/v1", address.await), &[]).await;
    assert_eq!((status, words.as_str()), (500, "Connection error."));
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for() {
    let provider = Tls::start(|_| panic!("it was asked")).await;
    let (status, words, _) = ask(&format!("https://{}/v1", provider.address), &[]).await;
    assert_eq!((status, words.as_str()), (500, "Connection error."));
    assert_eq!(provider.asked(), 0);
}

#[tokio::test]
async fn a_provider_that_cannot_be_connected_to() {
    // Its queue of connections is full, so that one more is not answered.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    listener.listen(0).expect("listens");
    let address = listener.local_addr().expect("an address").as_socket().expect("IPv4");
    let mut waiting = Vec::new();
    while let Ok(Ok(socket)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        waiting.push(socket);
    }
    let (status, words, took) = ask(&format!("http://{address}/v1"), &[("PROVIDER_CONNECT_TIMEOUT", "1")]).await;
    assert_eq!((status, words.as_str()), (500, "Connection error."));
    // Three times a second, and what lies between.
    assert!((Duration::from_secs(3)..Duration::from_secs(6)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_head_that_never_ends() {
    let endless = |pause: Duration| {
        raw(move |_, mut socket: TcpStream| async move {
            request(&mut socket).await;
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n").await;
            while socket.write_all(b"x-more: and more\r\n").await.is_ok() {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
        })
    };
    join_all([Duration::ZERO, Duration::from_millis(50)].map(async |pause| {
        let base = format!("http://{}/v1", endless(pause).await);
        let (status, words, took) = ask(&base, &[("PROVIDER_IDLE_TIMEOUT", "1")]).await;
        // One that comes fast grows too large first.
        let expected = match pause.is_zero() {
            true => (500, "Connection error."),
            false => (504, "The provider said nothing for 1 second."),
        };
        assert_eq!((status, words.as_str()), expected);
        assert!(took < Duration::from_secs(4), "{took:?}");
    }))
    .await;
}

#[tokio::test]
async fn what_is_broken_after_the_end_is_nobodys_loss() {
    let address = raw(async |_, mut socket| {
        request(&mut socket).await;
        let events = format!("{DELTA}{DONE}");
        // The last chunk ends in a way that none may.
        let answer =
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n0\n\n", events.len());
        let _ = socket.write_all(answer.as_bytes()).await;
        let _ = socket.read(&mut [0; 1000]).await;
    });
    let app = App::start(&[("OPENAI_BASE_URL", &format!("http://{}/v1", address.await))]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    let answer = app.chat("openai", &user).send().await.expect("an answer");
    assert_eq!(answer.text().await.expect("whole"), "Hello");
}

#[tokio::test]
async fn a_compressed_answer_is_said_to_be_one() {
    let upstream = Upstream::start().await;
    let app = App::start(&[("OPENAI_BASE_URL", &format!("{}/v1", upstream.url()))]).await;
    let user = app.user(&[("openai_api_key", "sk-case-gzip")]).await;
    let zipped = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0];
    for (status, expected) in [
        (200, (502, "The provider compressed its answer, which it was not asked to do")),
        (400, (400, "400 status code (no body)")),
    ] {
        let reply = Reply {
            status,
            headers: vec![("content-encoding".to_owned(), "gzip".to_owned())],
            steps: vec![Step::Write(zipped.clone())],
            ..Reply::default()
        };
        upstream.script("sk-case-gzip", vec![reply]);
        let answer = app.chat("openai", &user).send().await.expect("an answer");
        let (status, words) = message(answer).await;
        assert_eq!((status, words.as_str()), expected);
    }
    assert_eq!(upstream.requests("sk-case-gzip")[0].header("accept-encoding"), None);
}

#[tokio::test]
async fn a_connection_that_was_closed_in_its_sleep_is_no_failure() {
    let address = raw(|number, mut socket| async move {
        request(&mut socket).await;
        let body = format!("{DELTA}{DONE}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(answer.as_bytes()).await.expect("writes");
        // The first connection ends as the next request comes.
        if number == 0 {
            request(&mut socket).await;
            return;
        }
        socket.read_buf(&mut Vec::new()).await.expect("reads");
    })
    .await;
    let app = App::start(&[("OPENAI_BASE_URL", &format!("http://{address}/v1"))]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    // One connection, and so one worker with its own.
    let client = reqwest::Client::new();
    for number in 0..2 {
        let request = client.post(app.url("/api/chat/openai")).header("authorization", user.bearer());
        let started = Instant::now();
        let answer = request.body(chat_body().to_string()).send().await.expect("an answer");
        assert_eq!(answer.text().await.expect("whole"), "Hello");
        // Asked again as after other failures, it would take longer.
        assert!(number == 0 || started.elapsed() < Duration::from_millis(350), "{:?}", started.elapsed());
    }
}

/// The most memory that a process had, in MiB.
#[cfg(target_os = "linux")]
fn peak(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_line_of_a_hundred_megabytes_is_not_kept() {
    let upstream = Upstream::start().await;
    let database = postgres::database().await;
    let base = format!("{}/v1", upstream.url());
    let settings = [("DATABASE_URL", database.role_url.as_str()), ("OPENAI_BASE_URL", &base)];
    let (child, url) = serve(&settings).await;
    let user = User::create(&database.pool, &[("openai_api_key", "sk-case-line")]).await;
    let model = rows::model(&database.pool, user.id, &base, "sk-case-line").await;
    let megabyte = Step::Write(vec![b'x'; 1 << 20]);
    let steps = [Step::Write(b"data: ".to_vec())].into_iter().chain(vec![megabyte; 100]).collect();
    upstream.script("sk-case-line", vec![Reply { steps, ..Reply::default() }]);
    let mut body = chat_body();
    body["customModelId"] = model.to_string().into();
    let before = peak(child.id().expect("it runs"));
    for (route, limit) in [("custom", 4), ("openai", 16)] {
        let request = client().post(format!("{url}/api/chat/{route}")).header("authorization", user.bearer());
        let answer = request.body(body.to_string()).send().await.expect("an answer");
        let expected = format!("The provider sent an event of more than {limit} MiB");
        assert_eq!(message(answer).await, (502, expected));
        let more = peak(child.id().expect("it runs")) - before;
        assert!(more < 16 + 3 * limit, "{route}: {more} MiB more");
    }
}

/// A server that trusts the provider's certificate, and a user.
async fn over_tls(provider: &Tls) -> (tokio::process::Child, String, User) {
    let database = postgres::database().await;
    let base = format!("https://{}/v1", provider.address);
    let settings = [
        ("DATABASE_URL", database.role_url.as_str()),
        ("OPENAI_BASE_URL", &base),
        ("SSL_CERT_FILE", AUTHORITY),
        ("MAX_STREAMS_PER_USER", "100"),
    ];
    let (child, url) = serve(&settings).await;
    let user = User::create(&database.pool, &[("openai_api_key", "k")]).await;
    (child, url, user)
}

#[tokio::test]
async fn many_streams_run_at_once_over_tls() {
    let wait = Duration::from_secs(5);
    let answer = Answer { first: DELTA.into(), wait, rest: format!("{DELTA}{DONE}").into() };
    let provider = Tls::start(move |_| answer.clone()).await;
    let (_child, url, user) = over_tls(&provider).await;
    let (client, body, bearer) = (client(), chat_body().to_string(), user.bearer());
    let started = Instant::now();
    let streams = (0..60).map(|_| async {
        let request = client.post(format!("{url}/api/chat/openai")).header("authorization", &bearer);
        let mut stream = request.body(body.clone()).send().await.expect("an answer").bytes_stream();
        let first = stream.next().await.expect("text").expect("unbroken");
        (first, stream)
    });
    let open: Vec<_> = futures::stream::iter(streams).buffer_unordered(4).collect().await;
    assert!(started.elapsed() < wait, "all have begun before one ends: {:?}", started.elapsed());
    for (first, mut stream) in open {
        let mut text = first.to_vec();
        while let Some(chunk) = stream.next().await {
            text.extend_from_slice(&chunk.expect("unbroken"));
        }
        assert_eq!(text, b"HelloHello");
    }
}

#[tokio::test]
async fn clients_that_do_not_read_hold_up_nobody_else() {
    let large = Bytes::from(
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(1 << 16)).repeat(256),
    );
    let provider = Tls::start(move |number| {
        let first = if number < 20 { large.clone() } else { DELTA.into() };
        Answer { first, wait: Duration::ZERO, rest: DONE.into() }
    })
    .await;
    let (_child, url, user) = over_tls(&provider).await;
    let body = chat_body().to_string();
    let ask = || {
        client().post(format!("{url}/api/chat/openai")).header("authorization", user.bearer()).body(body.clone()).send()
    };
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let answer = tokio::time::timeout(Duration::from_secs(10), ask()).await;
        stalled.push(answer.expect("nobody waits for those before").expect("an answer"));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..8 {
        let answer = tokio::time::timeout(Duration::from_secs(2), async {
            ask().await.expect("an answer").text().await.expect("whole")
        });
        assert_eq!(answer.await.expect("soon"), "Hello");
    }
}
