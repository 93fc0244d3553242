//! The scripted provider: a real server on a port of its own that answers as
//! it is told, and remembers who asked what and who left when.
//!
//! One of them serves any number of tests at once: each has a key of its own,
//! and a request is answered from the script of the key that it shows. All
//! that the provider knows is one value in a [`watch`] channel, so waiting for
//! something to happen is [`watch::Receiver::wait_for`].

pub mod wire;

use std::{
    collections::{HashMap, VecDeque},
    future, io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet, yield_now},
    time::{sleep, timeout},
};

use wire::{Head, Headers, Rest, Wire, header};

/// The key under which requests are kept that [`Upstream::script_any`] answered.
pub const ANY: &str = "*";

/// Where the key of a request may stand, if not in its path.
const KEY_HEADERS: [&str; 4] = ["authorization", "api-key", "x-api-key", "x-goog-api-key"];

/// What a key begins with that stands in a path: `/tool-sk-case-x/notes`.
const KEY_IN_PATH: &str = "sk-case-";

/// A reset overtakes bytes that the peer has not read yet, so that what was
/// written before gets this much time to be read.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// What the provider answers to one request.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Headers,
    /// Silence before the first byte of the answer.
    pub before_head: Duration,
    /// The body. With no steps and a normal end, the answer has none.
    pub steps: Vec<Step>,
    pub end: End,
}

/// A part of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes that leave in one write, as one HTTP chunk.
    Write(Vec<u8>),
    /// Silence.
    Wait(Duration),
    /// Silence until the peer leaves or the test ends.
    WaitForever,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should; the connection stays open for the next request.
    Normal,
    /// The connection is reset after the steps, in the middle of the body.
    Reset,
    /// The connection is closed without an answer.
    Refuse,
}

impl Default for Reply {
    /// 200 and an event stream with nothing in it.
    fn default() -> Reply {
        let content_type = "text/event-stream; charset=utf-8";
        Reply {
            status: 200,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            before_head: Duration::ZERO,
            steps: Vec::new(),
            end: End::Normal,
        }
    }
}

impl Reply {
    /// An event stream with these events, a write each, and then `last`.
    pub fn events(events: &[&str], last: Step) -> Reply {
        let write = |event: &&str| Step::Write(event.as_bytes().to_vec());
        Reply { steps: events.iter().map(write).chain([last]).collect(), ..Reply::default() }
    }

    /// No answer, for as long as the peer waits for one.
    pub fn silent() -> Reply {
        Reply { before_head: Duration::MAX, ..Reply::default() }
    }

    /// A JSON document.
    pub fn json(status: u16, document: &Value) -> Reply {
        Reply {
            status,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            steps: vec![Step::Write(document.to_string().into_bytes())],
            ..Reply::default()
        }
    }

    async fn play(&self, writer: &mut WriteHalf<'_>) -> io::Result<()> {
        if !self.before_head.is_zero() {
            // Asked for nothing, a timer would still take a millisecond.
            sleep(self.before_head).await;
        }
        if self.end == End::Refuse {
            return Ok(());
        }
        writer.write_all(self.head().as_bytes()).await?;
        for step in &self.steps {
            match step {
                Step::Write(bytes) => write_chunk(writer, bytes).await?,
                Step::Wait(time) => sleep(*time).await,
                Step::WaitForever => future::pending().await,
            }
        }
        if self.end == End::Reset {
            sleep(BEFORE_RESET).await;
            // Closing the socket is a reset from here on.
            writer.as_ref().set_zero_linger()?;
        } else if self.has_body() {
            writer.write_all(b"0\r\n\r\n").await?;
        }
        Ok(())
    }

    fn has_body(&self) -> bool {
        !self.steps.is_empty() || self.end != End::Normal
    }

    fn head(&self) -> String {
        // No reason phrase: HTTP/2, which real providers speak, has none.
        let mut head = format!("HTTP/1.1 {} \r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += match self.status {
            204 | 304 => "\r\n",
            _ if self.has_body() => "transfer-encoding: chunked\r\n\r\n",
            _ => "content-length: 0\r\n\r\n",
        };
        head
    }
}

async fn write_chunk(writer: &mut WriteHalf<'_>, bytes: &[u8]) -> io::Result<()> {
    // A chunk of no bytes would end the body.
    if bytes.is_empty() {
        return Ok(());
    }
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    writer.write_all(&chunk).await?;
    // A reader on the same thread would otherwise see several writes as one.
    yield_now().await;
    Ok(())
}

/// A request that the provider has read to its end.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The key from whose script it was answered; without one, what it showed.
    pub key: String,
    /// Requests with the same number came over the same connection.
    pub connection: usize,
    pub came: Instant,
    pub method: String,
    /// As it was sent, without the query.
    pub path: String,
    /// Decoded, in the order in which it was sent.
    pub query: Vec<(String, String)>,
    /// With lower-case names.
    pub headers: Headers,
    pub body: Vec<u8>,
    /// When the peer closed the connection before the answer was complete.
    pub left: Option<Instant>,
    /// When the answer was over, be it with a scripted break.
    pub completed: Option<Instant>,
}

impl Recorded {
    /// By its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Whether the provider is done with this request, one way or the other.
    pub fn is_over(&self) -> bool {
        self.left.is_some() || self.completed.is_some()
    }

    async fn read(wire: &mut Wire<ReadHalf<'_>>, head: Head, connection: usize) -> io::Result<Recorded> {
        let mut start = head.start.split(' ');
        let method = start.next().unwrap_or_default().to_owned();
        let target = start.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let rest = Rest::announced(&head.headers).unwrap_or(Rest::Bytes(0));
        Ok(Recorded {
            key: String::new(),
            connection,
            method,
            path: path.to_owned(),
            query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            body: wire.body(rest).await?.into(),
            headers: head.headers,
            came: Instant::now(),
            left: None,
            completed: None,
        })
    }
}

/// All that may be the key of a request. The path comes first: a tool's request
/// may carry a header that only looks like the case's key.
fn shown_keys<'r>(path: &'r str, headers: &'r Headers) -> impl Iterator<Item = &'r str> {
    let in_path = path.find(KEY_IN_PATH).and_then(|start| path[start..].split('/').next());
    let in_headers =
        KEY_HEADERS.iter().filter_map(|name| header(headers, name)).map(|value| match value.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key,
            _ => value,
        });
    in_path.into_iter().chain(in_headers)
}

/// The server. It stops, and its connections close, when it is dropped or when
/// the runtime of the test that started it ends.
pub struct Upstream {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// On 127.0.0.1, with a port that was free.
    pub async fn start() -> Upstream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = watch::Sender::new(State::default());
        Upstream { address, accepting: tokio::spawn(accept(listener, state.clone())), state }
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers requests that show `key` with these replies from now on, one a
    /// request; the last one repeats.
    pub fn script(&self, key: &str, replies: Vec<Reply>) {
        self.state.send_modify(|state| state.script(key).replies = replies.into());
    }

    /// Answers requests that show a key without a script; they are kept under
    /// the key [`ANY`].
    pub fn script_any(&self, replies: Vec<Reply>) {
        self.script(ANY, replies);
    }

    /// Answers requests that show `key` and whose path begins with `prefix`,
    /// without using up a reply of the script.
    pub fn tool(&self, key: &str, prefix: &str, reply: Reply) {
        self.state.send_modify(|state| state.script(key).tools.push((prefix.to_owned(), reply)));
    }

    /// The requests with this key so far, in the order in which they came.
    pub fn requests(&self, key: &str) -> Vec<Recorded> {
        self.state.borrow().requests(key)
    }

    /// The requests so far, in the order in which they came.
    pub fn all(&self) -> Vec<Recorded> {
        self.state.borrow().requests.clone()
    }

    /// How many connections were made to this server.
    pub fn connections(&self) -> usize {
        self.state.borrow().connections
    }

    /// Waits until the requests with this key are as `met` wants them; returns
    /// whether they were within `limit`.
    pub async fn wait_for(&self, key: &str, limit: Duration, met: impl Fn(&[Recorded]) -> bool) -> bool {
        let mut changes = self.state.subscribe();
        let met = changes.wait_for(|state| met(&state.requests(key)));
        matches!(timeout(limit, met).await, Ok(Ok(_)))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// All that the provider knows.
#[derive(Default)]
struct State {
    scripts: HashMap<String, Script>,
    requests: Vec<Recorded>,
    connections: usize,
}

/// What is answered to one key.
#[derive(Default)]
struct Script {
    replies: VecDeque<Reply>,
    tools: Vec<(String, Reply)>,
}

impl State {
    fn script(&mut self, key: &str) -> &mut Script {
        self.scripts.entry(key.to_owned()).or_default()
    }

    fn requests(&self, key: &str) -> Vec<Recorded> {
        let with_key = |request: &&Recorded| request.key == key;
        self.requests.iter().filter(with_key).cloned().collect()
    }

    fn connect(&mut self) -> usize {
        self.connections += 1;
        self.connections
    }

    /// Takes a request down; returns its place in the list and what to answer.
    fn admit(&mut self, mut request: Recorded) -> (usize, Reply) {
        let mut shown = shown_keys(&request.path, &request.headers).peekable();
        let first = shown.peek().copied().unwrap_or_default();
        request.key = shown.chain([ANY]).find(|key| self.scripts.contains_key(*key)).unwrap_or(first).to_owned();
        let reply =
            self.scripts.get_mut(&request.key).and_then(|script| script.reply_to(&request.path)).unwrap_or_else(|| {
                let message = format!("nothing is scripted for the key {:?}", request.key);
                Reply::json(404, &json!({ "error": { "message": message } }))
            });
        self.requests.push(request);
        (self.requests.len() - 1, reply)
    }
}

impl Script {
    fn reply_to(&mut self, path: &str) -> Option<Reply> {
        if let Some((_, reply)) = self.tools.iter().find(|(prefix, _)| path.starts_with(prefix)) {
            return Some(reply.clone());
        }
        if self.replies.len() > 1 {
            return self.replies.pop_front();
        }
        self.replies.front().cloned()
    }
}

/// Changes the state and tells those who wait.
fn change<T>(state: &watch::Sender<State>, apply: impl FnOnce(&mut State) -> T) -> T {
    let mut result = None;
    state.send_modify(|state| result = Some(apply(state)));
    result.expect("`send_modify` runs its closure")
}

async fn accept(listener: TcpListener, state: watch::Sender<State>) {
    // Dropped with this task, and its connections with it.
    let mut serving = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let connection = change(&state, State::connect);
                serving.spawn(serve(socket, connection, state.clone()));
            }
            // Out of file descriptors, perhaps: others may soon be free.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
        while serving.try_join_next().is_some() {}
    }
}

/// Serves a connection to its end. Errors are the peer's affair: a request
/// that did not come to its end is not recorded.
async fn serve(mut socket: TcpStream, connection: usize, state: watch::Sender<State>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (reader, mut writer) = socket.split();
    let mut wire = Wire::new(reader);
    while let Some(head) = wire.head().await? {
        let close =
            header(&head.headers, "connection").is_some_and(|connection| connection.eq_ignore_ascii_case("close"));
        let request = Recorded::read(&mut wire, head, connection).await?;
        let (place, reply) = change(&state, |state| state.admit(request));

        let completed = tokio::select! {
            // A peer that is seen to have left at the very moment of the last
            // write left before it, for it had nothing to go by.
            biased;
            () = wire.gone() => false,
            played = reply.play(&mut writer) => played.is_ok(),
        };
        let now = Instant::now();
        change(&state, |state| {
            let request = &mut state.requests[place];
            if completed {
                request.completed = Some(now);
            } else {
                request.left = Some(now);
            }
        });
        if close || !completed || reply.end != End::Normal {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        wire::{Answer, Request, ask},
        *,
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
        // What looks like a key but has no script does not stand in the way.
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
    async fn nonsense_harms_no_one() {
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
}
