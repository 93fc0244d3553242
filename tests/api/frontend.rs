//! `FRONTEND_URL`: what is not the server's own goes to the front end there.

mod counted;

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::support::{
    App, client, message,
    upstream::wire::{Head, Request, Rest, Wire, ask, header},
};

/// A front end whose every byte the test writes.
struct FrontEnd(TcpListener);

/// One connection to it.
struct Connection {
    wire: Wire<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl FrontEnd {
    /// It, and a server that passes requests on to it.
    async fn start(settings: &[(&str, &str)]) -> (Self, App) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let settings: Vec<_> = [("FRONTEND_URL", url.as_str())].iter().chain(settings).copied().collect();
        let app = App::start(&settings).await;
        (Self(listener), app)
    }

    /// The next request's head, on a connection of its own.
    async fn request(&self) -> (Connection, Head) {
        let (socket, _) = soon(self.0.accept()).await.expect("a connection");
        let (reader, writer) = socket.into_split();
        let mut connection = Connection { wire: Wire::new(reader), writer };
        let head = soon(connection.wire.head()).await.expect("a request").expect("a head");
        (connection, head)
    }
}

impl Connection {
    async fn write(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).await.expect("writes");
    }
}

async fn soon<F: IntoFuture>(future: F) -> F::Output {
    timeout(Duration::from_secs(15), future).await.expect("soon")
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Request { method: method.to_owned(), path: path.to_owned(), headers, ..Request::default() }
}

#[tokio::test]
async fn a_request_goes_through_and_its_answer_comes_back_as_it_is() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    let sent =
        request("GET", "/en/login?next=%2Fchat&a=1", &[("cookie", "a=1"), ("x-mine", "1"), ("connection", "x-mine")]);
    let answer = soon(ask(app.address, &sent));
    let answered = async {
        let (mut connection, head) = front_end.request().await;
        connection
            .write("HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\nset-cookie: a=1; Path=/\r\nset-cookie: b=2; Path=/\r\ncontent-encoding: gzip\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 4\r\n\r\n\u{1}abc")
            .await;
        head
    };
    let (answer, head) = tokio::join!(answer, answered);
    let answer = answer.expect("an answer");

    assert_eq!(head.start, "GET /en/login?next=%2Fchat&a=1 HTTP/1.1");
    assert_eq!(header(&head.headers, "host"), Some(app.address.to_string().as_str()));
    assert_eq!(header(&head.headers, "x-forwarded-host"), Some(app.address.to_string().as_str()));
    assert_eq!(header(&head.headers, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header(&head.headers, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(&head.headers, "cookie"), Some("a=1"));
    assert_eq!(header(&head.headers, "x-mine"), None);

    assert_eq!((answer.status, answer.complete, answer.body.as_slice()), (307, true, &b"\x01abc"[..]));
    assert_eq!(header(&answer.headers, "location"), Some("/elsewhere"));
    assert_eq!(header(&answer.headers, "content-encoding"), Some("gzip"));
    assert_eq!(header(&answer.headers, "content-length"), Some("4"));
    for gone in ["x-hop", "keep-alive"] {
        assert_eq!(header(&answer.headers, gone), None);
    }
    let cookies: Vec<_> =
        answer.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str()).collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2; Path=/"]);
}

#[tokio::test]
async fn answers_without_a_body_keep_their_length() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    for (method, head, status, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", 200, Some("1234")),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n", 304, None),
        ("POST", "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
    ] {
        let sent = request(method, "/image.png", &[]);
        let (answer, ()) = tokio::join!(soon(ask(app.address, &sent)), async {
            let (mut connection, asked) = front_end.request().await;
            assert!(asked.start.starts_with(method));
            connection.write(head).await;
        });
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, header(&answer.headers, "content-length")), (status, length), "{method}");
    }
}

#[tokio::test]
async fn bodies_go_up_as_they_come_and_as_large_as_they_are() {
    let (front_end, app) = FrontEnd::start(&[("MAX_BODY_BYTES", "4")]).await;
    let mut socket = TcpStream::connect(app.address).await.expect("connects");
    socket.write_all(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nfirst").await.expect("writes");
    let (mut connection, head) = front_end.request().await;
    assert_eq!(header(&head.headers, "content-length"), Some("10"));
    let mut rest = Rest::announced(&head.headers).expect("a body");
    assert_eq!(soon(connection.wire.piece(&mut rest)).await.expect("reads").as_deref(), Some(&b"first"[..]));
    socket.write_all(b"after").await.expect("writes");
    assert_eq!(soon(connection.wire.piece(&mut rest)).await.expect("reads").as_deref(), Some(&b"after"[..]));
    connection.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let head = soon(Wire::new(&mut socket).head()).await.expect("reads").expect("an answer");
    assert_eq!(head.start, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_client_that_breaks_off_its_body_breaks_the_front_ends() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    let mut socket = TcpStream::connect(app.address).await.expect("connects");
    socket
        .write_all(b"POST /upload HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .await
        .expect("writes");
    let (mut connection, head) = front_end.request().await;
    let mut rest = Rest::announced(&head.headers).expect("a body");
    assert_eq!(soon(connection.wire.piece(&mut rest)).await.expect("reads").as_deref(), Some(&b"first"[..]));
    drop(socket);
    assert!(soon(connection.wire.piece(&mut rest)).await.is_err(), "a body that is not whole must not look so");
}

#[tokio::test]
async fn a_body_that_breaks_the_protocol_or_stops_coming_breaks_the_front_ends() {
    let (front_end, app) = FrontEnd::start(&[("BODY_TIMEOUT", "1")]).await;
    for then in ["no length\r\n", ""] {
        let mut socket = TcpStream::connect(app.address).await.expect("connects");
        let head = "POST /upload HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        socket.write_all(head.as_bytes()).await.expect("writes");
        let (mut connection, head) = front_end.request().await;
        let mut rest = Rest::announced(&head.headers).expect("a body");
        assert_eq!(soon(connection.wire.piece(&mut rest)).await.expect("reads").as_deref(), Some(&b"first"[..]));
        socket.write_all(then.as_bytes()).await.expect("writes");
        assert!(soon(connection.wire.piece(&mut rest)).await.is_err(), "not whole after {then:?}, and looks so");
    }
}

/// Next.js makes some of its redirects of the address that it listens on.
#[tokio::test]
async fn a_redirect_to_the_front_end_itself_leads_here() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    let port = front_end.0.local_addr().expect("an address").port();
    for (location, wanted) in [
        (format!("http://localhost:{port}/login/password?a=1"), "/login/password?a=1"),
        (format!("http://127.0.0.1:{port}/"), "/"),
        ("https://accounts.example.com/login".to_owned(), "https://accounts.example.com/login"),
    ] {
        let sent = request("GET", "/auth/callback", &[]);
        let (answer, ()) = tokio::join!(soon(ask(app.address, &sent)), async {
            let (mut connection, _) = front_end.request().await;
            let head = format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            connection.write(&head).await;
        });
        assert_eq!(header(&answer.expect("an answer").headers, "location"), Some(wanted));
    }
}

#[tokio::test]
async fn answers_come_down_as_they_come_and_end_with_the_client() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    let mut socket = TcpStream::connect(app.address).await.expect("connects");
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("writes");
    let (mut connection, _) = front_end.request().await;
    connection.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
    let mut wire = Wire::new(&mut socket);
    let head = soon(wire.head()).await.expect("reads").expect("an answer");
    let mut rest = Rest::announced(&head.headers).expect("a body");
    assert_eq!(soon(wire.piece(&mut rest)).await.expect("reads").as_deref(), Some(&b"first"[..]));
    drop(socket);
    soon(connection.wire.gone()).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    for head in ["transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n", "content-length: 10\r\n\r\nfirst"] {
        let sent = request("GET", "/", &[]);
        let (answer, ()) = tokio::join!(soon(ask(app.address, &sent)), async {
            let (mut connection, _) = front_end.request().await;
            connection.write(&format!("HTTP/1.1 200 OK\r\n{head}")).await;
        });
        let answer = answer.expect("an answer");
        assert_eq!((answer.body.as_slice(), answer.complete), (&b"first"[..], false), "{head}");
    }
}

const HANDSHAKE: &[u8] = b"GET /_next/webpack-hmr HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A WebSocket through the server: both its ends.
async fn web_socket(front_end: &FrontEnd, app: &App) -> (TcpStream, Connection) {
    let mut socket = TcpStream::connect(app.address).await.expect("connects");
    socket.write_all(HANDSHAKE).await.expect("writes");
    let (mut connection, head) = front_end.request().await;
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        assert_eq!(header(&head.headers, name), Some(value));
    }
    connection
        .write("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello")
        .await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        assert_ne!(soon(socket.read_buf(&mut answer)).await.expect("reads"), 0);
    }
    let answer = String::from_utf8(answer).expect("ascii").to_lowercase();
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("upgrade: websocket\r\n"), "{answer}");
    assert!(answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo=") && !answer.contains("transfer-encoding"), "{answer}");
    (socket, connection)
}

#[tokio::test]
async fn web_sockets_go_both_ways_until_one_side_closes() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    let (mut socket, mut connection) = web_socket(&front_end, &app).await;
    // More than any buffer on the way.
    let much = vec![7; 1024 * 1024];
    for _ in 0..3 {
        let (sent, received) = tokio::join!(soon(socket.write_all(&much)), async {
            let mut rest = Rest::Bytes(much.len());
            let mut count = 0;
            while let Some(piece) = soon(connection.wire.piece(&mut rest)).await.expect("reads") {
                count += piece.len();
            }
            count
        });
        sent.expect("writes");
        assert_eq!(received, much.len());
        let mut back = vec![0; much.len()];
        let (sent, received) =
            tokio::join!(soon(connection.writer.write_all(&much)), soon(socket.read_exact(&mut back)));
        sent.expect("writes");
        received.expect("reads");
        assert_eq!(back, much);
    }
    drop(socket);
    soon(connection.wire.gone()).await;

    let (mut socket, connection) = web_socket(&front_end, &app).await;
    drop(connection);
    assert_eq!(soon(socket.read(&mut [0; 16])).await.expect("an end, not a reset"), 0);
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_like_any_other() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    let mut socket = TcpStream::connect(app.address).await.expect("connects");
    socket.write_all(HANDSHAKE).await.expect("writes");
    let (mut connection, _) = front_end.request().await;
    connection.write("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await;
    let mut wire = Wire::new(&mut socket);
    let head = soon(wire.head()).await.expect("reads").expect("an answer");
    assert_eq!(head.start, "HTTP/1.1 404 Not Found");
    let body = soon(wire.body(Rest::announced(&head.headers).expect("a body"))).await.expect("reads");
    assert_eq!(body.as_ref(), b"no");
}

#[tokio::test]
async fn an_open_web_socket_does_not_hold_up_a_stop() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    let (mut socket, _connection) = web_socket(&front_end, &app).await;
    drop(app);
    assert_eq!(soon(socket.read(&mut [0; 16])).await.expect("an end"), 0);
}

#[tokio::test]
async fn a_front_end_that_is_down_is_said() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    drop(front_end);
    let page = client().get(app.url("/")).header("accept", "text/html,*/*").send().await.expect("an answer");
    assert_eq!(page.status(), 502);
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers()["cache-control"], "no-store");
    let page = page.text().await.expect("a page");
    assert!(page.contains("npm run dev") && page.contains("http-equiv=\"refresh\""), "{page}");
    let answer = client().get(app.url("/_next/data.json")).send().await.expect("an answer");
    let words = "The front end does not answer. Is the Next.js app running at FRONTEND_URL?";
    assert_eq!(message(answer).await, (502, words.to_owned()));
}

#[tokio::test]
async fn what_is_the_servers_own_stays_here() {
    let (front_end, app) = FrontEnd::start(&[]).await;
    for (path, status) in [
        ("/api/keys", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/openapi.json", 200),
        ("/api/docs", 200),
        ("/api/nothing", 404),
        ("/api", 404),
        ("//api/keys", 308),
        ("/x/..%2fapi/keys", 404),
        ("/x/%2e%2e/api/keys", 404),
    ] {
        let answer = soon(ask(app.address, &request("GET", path, &[]))).await.expect("an answer");
        assert_eq!(answer.status, status, "{path}");
    }
    let answer = soon(ask(app.address, &request("GET", "/", &[("via", "1.1 chatbot-ui-api, 1.1 chatbot-ui-api")])))
        .await
        .expect("an answer");
    assert_eq!(answer.status, 508);
    assert!(timeout(Duration::from_millis(1), front_end.0.accept()).await.is_err(), "the front end was asked");
}

/// Sends a request as it stands and gives what of it reached the front end.
async fn passed_on(raw: &str) -> Head {
    let (front_end, app) = FrontEnd::start(&[]).await;
    let mut client = TcpStream::connect(app.address).await.expect("connects");
    client.write_all(raw.as_bytes()).await.expect("writes");
    front_end.request().await.1
}

/// Else the front end would wait for a body that never comes, and take the
/// next client's request for it.
#[tokio::test]
async fn a_request_with_a_body_changes_no_protocol() {
    let head = passed_on(
        "GET /a HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\ncontent-length: 5\r\n\r\nhello",
    )
    .await;
    assert_eq!(header(&head.headers, "upgrade"), None);
}

/// Behind `h2c`, a client could send what it likes, past every rule.
#[tokio::test]
async fn no_protocol_but_websocket_is_changed_to() {
    let head = passed_on("GET /a HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n").await;
    for name in ["upgrade", "http2-settings", "connection"] {
        assert_eq!(header(&head.headers, name), None, "{name}");
    }
}

#[tokio::test]
async fn a_front_end_that_never_begins_its_answer_is_given_up() {
    let (front_end, app) = FrontEnd::start(&[("FRONTEND_TIMEOUT", "1")]).await;
    let words = (504, "The front end did not answer in time.".to_owned());
    // Silent, or with a head that comes a byte at a time and never ends.
    for dribbles in [false, true] {
        let began = Instant::now();
        let asked = tokio::spawn(client().post(app.url("/page")).body("body").send());
        let (mut connection, _) = front_end.request().await;
        if dribbles {
            connection.write("HTTP/1.1 200 OK\r\nx: ").await;
            while !asked.is_finished() && connection.writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        assert_eq!(message(soon(asked).await.expect("no panic").expect("an answer")).await, words);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        soon(connection.wire.gone()).await;
    }
    // One that does not take the request, either: more than the sockets hold.
    let asked =
        tokio::spawn(client().post(app.url("/page")).header("accept", "text/html").body(vec![b'x'; 32 << 20]).send());
    let (mut connection, _) = front_end.request().await;
    let answer = soon(asked).await.expect("no panic").expect("an answer");
    assert_eq!(answer.status(), 504);
    assert!(answer.text().await.expect("a page").contains("does not answer"));
    soon(connection.wire.gone()).await;
    // One that has begun has all the time, and so has a body on its way up.
    let mut socket = TcpStream::connect(app.address).await.expect("connects");
    socket.write_all(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n1").await.expect("writes");
    let (mut connection, _) = front_end.request().await;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    socket.write_all(b"2").await.expect("writes");
    connection.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n1").await;
    let mut wire = Wire::new(&mut socket);
    let head = soon(wire.head()).await.expect("reads").expect("an answer");
    assert_eq!(head.start, "HTTP/1.1 200 OK");
    tokio::time::sleep(Duration::from_millis(1300)).await;
    connection.write("2").await;
    let body = soon(wire.body(Rest::announced(&head.headers).expect("a body"))).await.expect("reads");
    assert_eq!(body.as_ref(), b"12");
}

#[tokio::test]
async fn a_body_for_the_front_end_has_to_come_in_time_too() {
    let (front_end, app) = FrontEnd::start(&[("BODY_TIMEOUT", "1")]).await;
    let mut client = TcpStream::connect(app.address).await.expect("connects");
    client.write_all(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx").await.expect("writes");
    let (mut connection, _) = front_end.request().await;
    let ended = async { while matches!(connection.wire.head().await, Ok(Some(_))) {} };
    soon(ended).await;
}
