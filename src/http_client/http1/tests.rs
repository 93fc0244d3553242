//! The client against a server that is written out byte by byte.

use std::{
    cell::RefCell,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use http::header::HeaderValue;
use socket2::{Domain, Socket as Socket2, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        HandshakeKind, RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::*;
use crate::http_client::{ssrf_guard, tls};

/// What one connection of the server saw: the requests, and `None` at its end.
type Seen = UnboundedReceiver<(usize, Option<String>)>;

/// Answers each request with the next of `answers`, whichever connection it
/// comes on; where there is none left, it says no more. One that ends with [`CLOSE`] closes the connection.
async fn server(answers: &[&str]) -> (Url, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = Url::parse(&format!("http://{}/v1", listener.local_addr().expect("an address"))).expect("a URL");
    let answers: Vec<String> = answers.iter().rev().map(|answer| (*answer).to_owned()).collect();
    let (answers, (tell, seen)) = (Rc::new(RefCell::new(answers)), unbounded_channel());
    actix_web::rt::spawn(async move {
        for number in 0.. {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let (answers, tell) = (answers.clone(), tell.clone());
            actix_web::rt::spawn(async move {
                while let Some(request) = request(&mut socket).await {
                    let _ = tell.send((number, Some(request)));
                    let answer = answers.borrow_mut().pop();
                    match answer.as_deref() {
                        Some(answer) if answer.ends_with(CLOSE) => {
                            socket.write_all(answer.trim_end_matches(CLOSE).as_bytes()).await.expect("written");
                            break;
                        }
                        Some(answer) => socket.write_all(answer.as_bytes()).await.expect("written"),
                        None => {}
                    }
                }
                let _ = tell.send((number, None));
            });
        }
    });
    (url, seen)
}

/// At the end of an answer: the connection is closed.
const CLOSE: &str = "<close>";

/// One request with its body, or `None` at the connection's end.
async fn request(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8(bytes.clone()).expect("ASCII");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if body.len() >= length.unwrap_or_default() {
            return Some(text);
        }
    }
}

/// The next events of a server: the connection's number, and whether it was a
/// request or the connection's end.
async fn requests(seen: &mut Seen, count: usize) -> Vec<(usize, bool)> {
    let mut events = Vec::new();
    while events.len() < count {
        let (number, request) = timeout(5 * SECOND, seen.recv()).await.expect("in time").expect("an event");
        events.push((number, request.is_some()));
    }
    events
}

const SECOND: Duration = Duration::from_secs(1);

fn client(policy: Option<&str>, idle_timeout: Duration) -> Client {
    let policy = policy.map(|text| Arc::new(text.parse().expect("a policy")));
    Client::new(tls().expect("certificates"), policy, ssrf_guard::system_lookup, false, SECOND, idle_timeout)
}

async fn post(client: &Client, url: &Url) -> Result<(u16, String), Error> {
    let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_static("key"))]);
    let response = client.send(url, &headers, Some(&Bytes::from_static(b"prompt"))).await?;
    match response.body.collect(100, None).await {
        Ok(Collected::Unaffordable) => panic!("nothing is charged"),
        Ok(Collected::Complete(body) | Collected::Truncated(body)) => {
            Ok((response.status.as_u16(), String::from_utf8(body).expect("ASCII")))
        }
        Err((_, error)) => Err(error),
    }
}

fn ok(body: &str) -> Result<(u16, String), String> {
    Ok((200, body.to_owned()))
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nde";

#[actix_web::test]
async fn a_connection_is_used_again_after_a_whole_answer() {
    let (url, mut seen) = server(&[CHUNKED, LENGTH, "HTTP/1.1 204 No Content\r\n\r\n", CHUNKED]).await;
    let client = client(None, SECOND);
    for expected in [ok("abc"), ok("de"), Ok((204, String::new())), ok("abc")] {
        assert_eq!(post(&client, &url).await.map_err(|error| error.to_string()), expected);
        let (number, request) = seen.recv().await.expect("a request");
        let request = request.expect("not the end");
        assert_eq!(number, 0);
        assert!(request.starts_with("POST /v1 HTTP/1.1\r\n") && request.ends_with("\r\n\r\nprompt"), "{request}");
    }
}

#[actix_web::test]
async fn a_connection_is_closed_after_any_other() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\na",
        "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        let (url, mut seen) = server(&[answer, LENGTH]).await;
        let client = client(None, SECOND);
        assert_eq!(post(&client, &url).await.map_err(|error| error.to_string()), ok("a"), "{answer}");
        assert_eq!(post(&client, &url).await.map_err(|error| error.to_string()), ok("de"), "{answer}");
        let mut connections = Vec::new();
        while connections.len() < 3 {
            connections.push(seen.recv().await.map(|(number, request)| (number, request.is_some())));
        }
        connections.sort();
        assert_eq!(connections, [Some((0, false)), Some((0, true)), Some((1, true))], "{answer}");
    }
}

#[actix_web::test]
async fn an_answer_that_is_dropped_closes_its_connection() {
    let unfinished = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let (url, mut seen) = server(&[unfinished]).await;
    let client = client(None, 10 * SECOND);
    let mut response = client.send(&url, &HeaderMap::new(), None).await.expect("a head");
    let mut content = Vec::new();
    while content.is_empty() {
        let more = poll_fn(|cx| response.body.poll_read(cx, |bytes| content.extend_from_slice(bytes))).await;
        assert!(more.expect("no error"));
    }
    assert_eq!(content, b"abc");
    assert!(seen.recv().await.is_some_and(|(_, request)| request.is_some_and(|request| request.starts_with("GET "))));
    drop(response);
    let end = timeout(SECOND / 10, seen.recv()).await.expect("within 100 ms");
    assert_eq!(end, Some((0, None)));
}

#[actix_web::test]
async fn a_connection_that_the_server_closed_is_not_used() {
    let (url, mut seen) = server(&[LENGTH, CLOSE, LENGTH]).await;
    let client = client(None, SECOND);
    assert!(post(&client, &url).await.is_ok());
    // Closed as the next request comes, which is sent once more.
    assert!(post(&client, &url).await.is_ok());
    assert_eq!(requests(&mut seen, 4).await, [(0, true), (0, true), (0, false), (1, true)]);

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve_once = async || {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        request(&mut socket).await.expect("a request");
        socket.write_all(LENGTH.as_bytes()).await.expect("written");
    };
    let url = Url::parse(&format!("http://{address}/")).expect("a URL");
    for _ in 0..2 {
        // Closed while nobody asks: noticed before it is used.
        let both = async { tokio::join!(post(&client, &url), serve_once()) };
        let (said, ()) = timeout(5 * SECOND, both).await.expect("in time");
        assert_eq!(said.map_err(|error| error.to_string()), ok("de"));
        tokio::time::sleep(SECOND / 20).await;
    }
}

#[actix_web::test]
async fn a_request_is_not_sent_again_unless_a_reused_connection_failed_before_any_byte() {
    // The first request of a connection.
    let (url, mut seen) = server(&[CLOSE, LENGTH]).await;
    let client = client(None, SECOND);
    assert!(matches!(post(&client, &url).await, Err(Error::Request(_))));
    assert_eq!(requests(&mut seen, 2).await, [(0, true), (0, false)]);
    // The second, of which a part of a response came.
    for part in ["H", "HTTP/1.1 200 OK\r\ncontent-le", "HTTP/1.1 100 Continue\r\n\r\n", "no HTTP at all"] {
        let (url, mut seen) = server(&[LENGTH, &format!("{part}{CLOSE}"), LENGTH]).await;
        assert!(post(&client, &url).await.is_ok());
        assert!(matches!(post(&client, &url).await, Err(Error::Request(_))), "{part}");
        assert_eq!(requests(&mut seen, 3).await, [(0, true), (0, true), (0, false)], "{part}");
    }
    // The second, and the connection that replaces it fails too.
    let (url, mut seen) = server(&[LENGTH, CLOSE, CLOSE, LENGTH]).await;
    assert!(post(&client, &url).await.is_ok());
    assert!(matches!(post(&client, &url).await, Err(Error::Request(_))));
    assert_eq!(requests(&mut seen, 5).await, [(0, true), (0, true), (0, false), (1, true), (1, false)]);
}

#[actix_web::test]
async fn a_connection_opened_ahead_is_the_requests() {
    let (url, mut seen) = server(&[LENGTH, LENGTH]).await;
    let client = client(None, SECOND);
    // Sent while it is being opened, and when it is open.
    for wait in [Duration::ZERO, Duration::from_millis(50)] {
        let expected = client.connect_ahead(&url);
        tokio::time::sleep(wait).await;
        drop(expected);
        assert_eq!(post(&client, &url).await.map_err(|error| error.to_string()), ok("de"));
    }
    assert_eq!(requests(&mut seen, 2).await, [(0, true), (0, true)], "the second finds it idle");
    // One is idle, so one more is opened for two requests.
    let expected = [client.connect_ahead(&url), client.connect_ahead(&url)];
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(client.pool.usable(&url.origin().ascii_serialization(), 9), 2);
    drop(expected);
}

#[actix_web::test]
async fn a_connection_that_cannot_be_opened_ahead_is_reported_by_the_request() {
    let url = Url::parse("http://127.0.0.1:9/").expect("a URL");
    let client = client(None, SECOND);
    let expected = client.connect_ahead(&url);
    assert!(matches!(post(&client, &url).await, Err(Error::Connect(_))));
    drop(expected);
    assert!(matches!(post(&client, &url).await, Err(Error::Connect(_))));
}

#[actix_web::test]
async fn a_connection_is_idle_no_longer_than_its_server_announces() {
    let announced = |value: &str| format!("HTTP/1.1 200 OK\r\nkeep-alive: {value}\r\ncontent-length: 2\r\n\r\nde");
    for (value, wait, reused) in [
        ("timeout=60", 0, true),
        ("max=9, Timeout = 2", 0, true),
        ("timeout=2", 1100, false),
        ("timeout=1", 0, false),
        ("timeout=0", 0, false),
    ] {
        let (url, mut seen) = server(&[&announced(value), LENGTH]).await;
        let client = client(None, SECOND);
        for _ in 0..2 {
            assert!(post(&client, &url).await.is_ok());
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let mut seen = requests(&mut seen, if reused { 2 } else { 3 }).await;
        seen.retain(|(_, is_request)| *is_request);
        assert_eq!(seen, [(0, true), (usize::from(!reused), true)], "{value}");
    }
}

#[actix_web::test]
async fn a_second_handshake_resumes_the_tls_session() {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../../../tests/api/keys/tls-server.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../../tests/api/keys/tls-server-key.pem"));
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.expect("PEM")], key.expect("PEM"))
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = Url::parse(&format!("https://{}/", listener.local_addr().expect("an address"))).expect("a URL");
    let mut handshakes = Vec::new();
    let serve = async {
        for _ in 0..2 {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut socket = acceptor.accept(socket).await.expect("a handshake");
            handshakes.push(socket.get_ref().1.handshake_kind().expect("a handshake"));
            let mut request = [0; 1000];
            assert!(socket.read(&mut request).await.expect("a request") > 0);
            let response = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nde";
            socket.write_all(response).await.expect("written");
            socket.flush().await.expect("flushed");
        }
    };
    let authority = CertificateDer::from_pem_slice(include_bytes!("../../../tests/api/keys/tls-authority.pem"));
    let mut roots = RootCertStore::empty();
    roots.add(authority.expect("PEM")).expect("an authority");
    let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let client = Client::new(Arc::new(tls), None, ssrf_guard::system_lookup, false, SECOND, SECOND);
    let ask = async {
        for _ in 0..2 {
            assert_eq!(post(&client, &url).await.map_err(|error| error.to_string()), ok("de"));
        }
    };
    timeout(10 * SECOND, async { tokio::join!(ask, serve) }).await.expect("in time");
    assert_eq!(handshakes, [HandshakeKind::Full, HandshakeKind::Resumed]);
}

#[actix_web::test]
async fn what_breaks_off_is_told_from_an_end() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", "broke off"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", "broke off"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\nx", "broke off"),
        ("HTTP/1.1 200 OK\r\n", "no response"),
        ("hello\r\n", "no response"),
        ("", "no response"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = Url::parse(&format!("http://{}/", listener.local_addr().expect("an address"))).expect("a URL");
        let serve_once = async {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            request(&mut socket).await.expect("a request");
            socket.write_all(answer.as_bytes()).await.expect("written");
        };
        let client = client(None, SECOND);
        let (said, ()) = tokio::join!(post(&client, &url), serve_once);
        let error = said.expect_err(answer).to_string();
        assert!(error.contains(expected), "{answer:?}: {error}");
    }
    // Where the head promises nothing, the connection's end is the body's.
    let (url, _seen) = server(&["HTTP/1.1 200 OK\r\n\r\nall of it", ""]).await;
    let client = client(None, SECOND);
    let slow = post(&client, &url).await.expect_err("the server goes on");
    assert!(matches!(slow, Error::IdleTimeout(_)), "{slow}");
}

#[actix_web::test]
async fn an_answer_may_come_before_the_request_was_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = Url::parse(&format!("http://{}/", listener.local_addr().expect("an address"))).expect("a URL");
    let refuse = async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        socket.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.expect("written");
        socket
    };
    let (client, body) = (client(None, SECOND), Bytes::from(vec![b'x'; 64 << 20]));
    let headers = HeaderMap::new();
    let (response, mut socket) = tokio::join!(client.send(&url, &headers, Some(&body)), refuse);
    let response = response.expect("an answer");
    assert_eq!(response.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(matches!(response.body.collect(9, None).await, Ok(Collected::Complete(body)) if body == b"no"));
    // Half a request is on it, so it must not carry another.
    let mut rest = Vec::new();
    let read = timeout(5 * SECOND, socket.read_to_end(&mut rest)).await.expect("closed");
    assert!(read.is_err() || rest.len() < body.len());
}

#[actix_web::test]
async fn a_head_that_comes_early_stops_no_upload() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = Url::parse(&format!("http://{}/", listener.local_addr().expect("an address"))).expect("a URL");
    let body = Bytes::from(vec![b'x'; 32 << 20]);
    let take = async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.expect("written");
        let (mut taken, mut buffer) = (0, vec![0; 1 << 20]);
        while taken < body.len() {
            taken += socket.read(&mut buffer).await.expect("read");
        }
        socket.write_all(b"1\r\nb\r\n0\r\n\r\n").await.expect("written");
    };
    let (client, headers) = (client(None, SECOND), HeaderMap::new());
    let ask = async {
        let response = client.send(&url, &headers, Some(&body)).await.expect("an answer");
        assert!(matches!(response.body.collect(9, None).await, Ok(Collected::Complete(body)) if body == b"ab"));
    };
    tokio::join!(ask, take);
}

#[actix_web::test]
async fn a_response_that_comes_early_is_read_while_the_request_is_written() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = Url::parse(&format!("http://{}/", listener.local_addr().expect("an address"))).expect("a URL");
    let (body, response) = (Bytes::from(vec![b'x'; 32 << 20]), vec![b'y'; 32 << 20]);
    // Reads nothing before all of the response is taken: more than fits into
    // the buffers of the two sockets.
    let serve = async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", response.len() + 1);
        socket.write_all(head.as_bytes()).await.expect("written");
        socket.write_all(&response).await.expect("written");
        let (mut taken, mut buffer) = (0, vec![0; 1 << 20]);
        while taken < body.len() {
            taken += socket.read(&mut buffer).await.expect("read");
        }
        socket.write_all(b"z").await.expect("written");
    };
    let (client, headers) = (client(None, SECOND), HeaderMap::new());
    let ask = async {
        let sent = client.send(&url, &headers, Some(&body)).await.expect("a response");
        match sent.body.collect(64 << 20, None).await {
            Ok(Collected::Complete(content)) => assert_eq!(content.len(), response.len() + 1),
            _ => panic!("the response is not whole"),
        }
    };
    timeout(30 * SECOND, async { tokio::join!(ask, serve) }).await.expect("in time");
}

#[actix_web::test]
async fn one_stale_connection_speaks_for_the_others() {
    let (url, mut seen) = server(&[LENGTH, LENGTH, LENGTH, CLOSE, LENGTH]).await;
    let client = client(None, SECOND);
    let three = || {
        tokio::time::timeout(5 * SECOND, async {
            tokio::join!(post(&client, &url), post(&client, &url), post(&client, &url))
        })
    };
    let (a, b, c) = three().await.expect("in time");
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert!(post(&client, &url).await.is_ok());
    let mut most = 0;
    while let Ok((number, _)) = seen.try_recv() {
        most = most.max(number);
    }
    assert_eq!(most, 3, "a fourth connection, and none of the three");
}

#[actix_web::test]
async fn the_second_address_has_its_turn() {
    // The queue of connections of the first is full.
    let full = Socket2::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("a port");
    full.listen(0).expect("listens");
    let address = full.local_addr().expect("an address").as_socket().expect("IPv4");
    let mut waiting = Vec::new();
    while let Ok(Ok(socket)) = timeout(SECOND / 5, TcpStream::connect(address)).await {
        waiting.push(socket);
    }
    let listener = TcpListener::bind(("127.0.0.3", address.port())).await.expect("the same port");
    let serve_once = async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        request(&mut socket).await.expect("a request");
        socket.write_all(LENGTH.as_bytes()).await.expect("written");
    };
    let lookup: ssrf_guard::Lookup =
        |_| Box::pin(async { Ok(vec![IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 3])]) });
    let client = Client::new(tls().expect("certificates"), None, lookup, false, 2 * SECOND, SECOND);
    let url = Url::parse(&format!("http://a-name.invalid:{}/", address.port())).expect("a URL");
    let (said, ()) =
        timeout(5 * SECOND, async { tokio::join!(post(&client, &url), serve_once) }).await.expect("in time");
    assert_eq!(said.map_err(|error| error.to_string()), ok("de"));
}

#[actix_web::test]
async fn silence_has_an_end_and_a_slow_answer_has_none() {
    let client = client(None, SECOND / 2);
    let (url, _seen) = server(&[]).await;
    assert!(matches!(post(&client, &url).await, Err(Error::IdleTimeout(_))));
    let (url, _seen) = server(&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"]).await;
    assert!(matches!(post(&client, &url).await, Err(Error::IdleTimeout(_))));

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = Url::parse(&format!("http://{}/", listener.local_addr().expect("an address"))).expect("a URL");
    let drip = async {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        request(&mut socket).await.expect("a request");
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n").await.expect("written");
        for _ in 0..8 {
            tokio::time::sleep(SECOND / 5).await;
            socket.write_all(b"a").await.expect("written");
        }
    };
    let (said, ()) = tokio::join!(post(&client, &url), drip);
    assert_eq!(said.map_err(|error| error.to_string()), ok("aaaaaaaa"));
}

#[actix_web::test]
async fn redirects_are_followed_at_home() {
    let to = |status: u16, place: &str| {
        format!("HTTP/1.1 {status} Elsewhere\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n")
    };
    let client = client(None, SECOND);
    for (status, method, ends) in [(307, "POST", "prompt"), (308, "POST", "prompt"), (302, "GET", "\r\n\r\n")] {
        let (url, mut seen) = server(&[&to(status, "../other?a=b"), LENGTH]).await;
        assert_eq!(post(&client, &url).await.map_err(|error| error.to_string()), ok("de"));
        seen.recv().await.expect("the first request");
        let (_, request) = seen.recv().await.expect("the second request");
        let request = request.expect("not the end");
        assert!(
            request.starts_with(&format!("{method} /other?a=b HTTP/1.1\r\n")) && request.ends_with(ends),
            "{request}"
        );
        assert!(request.contains("\r\nauthorization: key\r\n"));
    }
    // Elsewhere it is the answer: the key stays here.
    let (other, mut unasked) = server(&[LENGTH]).await;
    let (url, _seen) = server(&[&to(307, other.as_str())]).await;
    assert_eq!(post(&client, &url).await.expect("an answer").0, 307);
    assert!(unasked.try_recv().is_err());
    // In a circle it ends.
    let circle = to(307, "/v1");
    let (url, _seen) = server(&[circle.as_str(); 20]).await;
    assert_eq!(post(&client, &url).await.expect("an answer").0, 307);
}

#[actix_web::test]
async fn the_guard_is_asked_for_each_address() {
    let (url, mut seen) = server(&[LENGTH]).await;
    let port = url.port().expect("a port");
    let to_metadata = "HTTP/1.1 307 Elsewhere\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n";
    let (redirecting, _seen) = server(&[to_metadata]).await;
    for (policy, url) in [
        ("deny", url.clone()),
        ("deny", Url::parse(&format!("http://localhost:{port}/")).expect("a URL")),
        ("allow", redirecting),
        ("allow", Url::parse("http://user:password@127.0.0.1/").expect("a URL")),
    ] {
        let refused = post(&client(Some(policy), SECOND), &url).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{url} {refused:?}");
    }
    assert!(seen.try_recv().is_err());
    // A name is looked up once, and what was checked is what is connected to.
    let lookup: ssrf_guard::Lookup = |_| Box::pin(async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) });
    let policy = Some(Arc::new("allow".parse().expect("a policy")));
    let client = Client::new(tls().expect("certificates"), policy, lookup, false, SECOND, SECOND);
    let url = Url::parse(&format!("http://a-name.invalid:{port}/")).expect("a URL");
    assert_eq!(post(&client, &url).await.map_err(|error| error.to_string()), ok("de"));
}

#[actix_web::test]
async fn who_cannot_be_reached_is_said_without_an_address() {
    let client = client(None, SECOND);
    let closed: SocketAddr = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    for url in [format!("http://user:hunter2@{closed}/?key=hunter2"), format!("https://{closed}/")] {
        let error = post(&client, &Url::parse(&url).expect("a URL")).await.expect_err("nobody listens");
        assert!(matches!(error, Error::Connect(_)), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
    // A server that never finishes the handshake.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = Url::parse(&format!("https://{}/", listener.local_addr().expect("an address"))).expect("a URL");
    let error = post(&client, &url).await.expect_err("no handshake");
    assert!(matches!(&error, Error::Connect(why) if why.contains("timed out")), "{error}");
}
