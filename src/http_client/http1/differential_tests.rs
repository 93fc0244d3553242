//! The client against hyper: both read the same bytes, cut anywhere.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::FutureExt;
use http::{HeaderMap, Request};
use hyper::{body::Body as _, client::conn::http1};
use hyper_util::rt::TokioIo;
use proptest::{prelude::*, sample::Index};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
    task::LocalSet,
};

use super::{
    body::{Body, Keep},
    exchange::exchange,
    idle_timer::IdleTimer,
    pool::Pool,
    socket::Socket,
    upload::Upload,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A connection on which a response comes in parts once a request was written.
#[derive(Clone)]
struct Wire {
    parts: VecDeque<Vec<u8>>,
    /// Whether the server keeps the connection open afterwards.
    stays_open: bool,
    has_request: bool,
}

impl Wire {
    fn new(bytes: &[u8], cuts: &[usize], stays_open: bool) -> Self {
        let (mut parts, mut rest) = (VecDeque::new(), bytes);
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let (part, after) = rest.split_at(cut.min(rest.len()));
            parts.extend((!part.is_empty()).then(|| part.to_vec()));
            rest = after;
        }
        Self { parts, stays_open, has_request: false }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.has_request {
            return Poll::Pending;
        }
        let Some(mut part) = self.parts.pop_front() else {
            return if self.stays_open { Poll::Pending } else { Poll::Ready(Ok(())) };
        };
        let rest = part.split_off(part.len().min(buffer.remaining()));
        buffer.put_slice(&part);
        if !rest.is_empty() {
            self.parts.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.has_request = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The result of an exchange.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    /// No head that can be used.
    Failed,
    /// The head is not complete.
    Waiting,
    Response {
        status: u16,
        headers: HeaderMap,
        content: Vec<u8>,
        end: End,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Complete {
        is_reusable: bool,
    },
    Broken,
    /// More of the body has to come.
    Waiting,
}

fn ours(wire: Wire) -> Outcome {
    let mut socket: Socket = Box::pin(wire);
    let upload = Upload::new(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n".to_vec(), None);
    let mut idle = IdleTimer::new(HOUR);
    let exchange = match exchange(&mut socket, upload, &mut idle).now_or_never() {
        None => return Outcome::Waiting,
        Some(Err(_)) => return Outcome::Failed,
        Some(Ok(exchange)) => exchange,
    };
    let (status, headers) = (exchange.head.status.as_u16(), exchange.head.headers.clone());
    let pool = Rc::new(Pool::default());
    let keep = (exchange.head.is_reusable && exchange.is_intact).then(|| Keep {
        pool: pool.clone(),
        origin: String::new(),
        idle_timeout: HOUR,
    });
    let mut body = Body::new(socket, exchange, keep, idle);
    let mut content = Vec::new();
    let end = loop {
        let cx = &mut Context::from_waker(Waker::noop());
        match body.poll_read(cx, |bytes| content.extend_from_slice(bytes)) {
            Poll::Ready(Ok(true)) => {}
            Poll::Ready(Ok(false)) => break End::Complete { is_reusable: pool.take("").is_some() },
            Poll::Ready(Err(_)) => break End::Broken,
            Poll::Pending => break End::Waiting,
        }
    };
    Outcome::Response { status, headers, content, end }
}

fn hypers(wire: Wire) -> Outcome {
    let cx = &mut Context::from_waker(Waker::noop());
    // Without wakers, nothing happens in as many polls if nothing can happen.
    let polls = wire.parts.len() + 20;
    let handshake = http1::handshake::<_, String>(TokioIo::new(wire)).now_or_never();
    let (mut sender, connection) = handshake.expect("no waiting").expect("no error");
    let mut connection = pin!(connection.fuse());
    let request = Request::get("/").header("host", "h").body(String::new()).expect("a request");
    let response = {
        let mut response = pin!(sender.send_request(request));
        let mut attempts = 0..polls;
        loop {
            let _ = connection.as_mut().poll(cx);
            match response.as_mut().poll(cx) {
                Poll::Ready(Ok(response)) => break response,
                Poll::Ready(Err(_)) => return Outcome::Failed,
                Poll::Pending if attempts.next().is_none() => return Outcome::Waiting,
                Poll::Pending => {}
            }
        }
    };
    let (head, mut body) = response.into_parts();
    let (mut content, mut attempts) = (Vec::new(), 0..polls);
    let end = loop {
        match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => content.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Poll::Ready(None) => {
                for _ in 0..polls {
                    let _ = connection.as_mut().poll(cx);
                }
                break End::Complete { is_reusable: sender.is_ready() };
            }
            Poll::Ready(Some(Err(_))) => break End::Broken,
            Poll::Pending if attempts.next().is_none() => break End::Waiting,
            Poll::Pending => drop(connection.as_mut().poll(cx)),
        }
    };
    Outcome::Response { status: head.status.as_u16(), headers: head.headers, content, end }
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// Runs a test with timers and local tasks.
fn with_runtime<T>(test: impl FnOnce() -> T) -> T {
    RUNTIME.with(|runtime| LocalSet::new().block_on(runtime, async { test() }))
}

fn both(bytes: &[u8], cuts: &[usize], stays_open: bool) -> (Outcome, Outcome) {
    let wire = Wire::new(bytes, cuts, stays_open);
    with_runtime(|| (ours(wire.clone()), hypers(wire)))
}

/// Heads whose bodies both frame alike.
fn head() -> impl Strategy<Value = String> {
    let informational = prop_oneof![
        4 => Just(""),
        1 => Just("HTTP/1.1 100 Continue\r\n\r\n"),
        1 => Just("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
    ];
    let status = prop_oneof![
        Just("HTTP/1.1 200 OK"),
        Just("HTTP/1.1 200"),
        Just("HTTP/1.1 204 No Content"),
        Just("HTTP/1.1 304 Not Modified"),
        Just("HTTP/1.1 429 Too Many Requests"),
        Just("HTTP/1.0 200 OK"),
    ];
    let length = (0..40_usize).prop_map(|length| format!("content-length: {length}"));
    let header = prop_oneof![
        2 => Just("transfer-encoding: chunked".to_owned()),
        1 => Just("Transfer-Encoding: gzip, Chunked".to_owned()),
        1 => Just("transfer-encoding: chunked, gzip".to_owned()),
        2 => length,
        1 => Just("content-length: 5, 5".to_owned()),
        1 => prop_oneof![Just("+5"), Just("5, 6"), Just("-1"), Just(""), Just("99999999999999999999")]
            .prop_map(|value| format!("content-length: {value}")),
        1 => Just("connection: close".to_owned()),
        1 => Just("Connection: keep-alive, Close".to_owned()),
        3 => "[a-z]{1,9}:[ \t]{0,2}[!-~\u{e4}]{0,20}[ \t]{0,2}",
    ];
    (informational, status, prop::collection::vec(header, 0..5)).prop_map(|(informational, status, headers)| {
        let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        format!("{informational}{status}\r\n{lines}\r\n")
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let chunk =
        (prop::collection::vec(any::<u8>(), 1..30), prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just(";a=\"b\"")]);
    let chunked = prop::collection::vec(chunk, 0..6).prop_map(|chunks| {
        let mut bytes = Vec::new();
        for (content, extension) in chunks {
            bytes.extend_from_slice(format!("{:X}{extension}\r\n", content.len()).as_bytes());
            bytes.extend_from_slice(&content);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    });
    let last =
        prop_oneof![4 => Just("0\r\n\r\n"), 1 => Just("000;x\r\nA: b\r\n\r\n"), 1 => Just("0\r\n"), 1 => Just("")];
    prop_oneof![
        2 => (chunked, last).prop_map(|(chunks, last)| [&chunks, last.as_bytes()].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..50),
    ]
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1..4_usize, 1..100_usize], 0..40)
}

/// The cases in which this client is deliberately stricter than hyper: it does
/// not reuse a connection after HTTP/1.0, or after a response with both a
/// length and a transfer coding, and refuses such a response if its length is
/// invalid.
fn expected(hypers: &Outcome, bytes: &[u8]) -> Option<Outcome> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let has_both = text.contains("transfer-encoding:") && text.contains("content-length:");
    let mut expected = hypers.clone();
    if let Outcome::Response { end: End::Complete { is_reusable }, .. } = &mut expected {
        *is_reusable &= !text.contains("http/1.0") && !has_both;
    }
    (!has_both).then_some(expected)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn well_formed_responses_are_read_as_by_hyper(
        head in head(),
        body in body(),
        after in prop_oneof![4 => Just(""), 1 => Just("HTTP/1.1 200 OK\r\n\r\n")],
        cuts in cuts(),
        stays_open: bool,
    ) {
        let bytes = [head.as_bytes(), &body, after.as_bytes()].concat();
        let (ours, hypers) = both(&bytes, &cuts, stays_open);
        match expected(&hypers, head.as_bytes()) {
            Some(expected) => prop_assert_eq!(ours, expected),
            None => prop_assert!(is_no_laxer(&ours, &hypers), "{:?} {:?}", ours, hypers),
        }
    }

    #[test]
    fn damaged_responses_are_read_no_more_leniently_than_by_hyper(
        head in head(),
        body in body(),
        damage in prop::collection::vec((any::<Index>(), prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b' ')]), 1..4),
        cuts in cuts(),
        stays_open: bool,
    ) {
        let mut bytes = [head.as_bytes(), &body].concat();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (ours, hypers) = both(&bytes, &cuts, stays_open);
        prop_assert!(is_no_laxer(&ours, &hypers), "{:?} {:?}", ours, hypers);
    }
}

/// Returns whether a response that this client takes as complete is the same to
/// hyper, and a connection that it reuses is reused by hyper too.
fn is_no_laxer(ours: &Outcome, hypers: &Outcome) -> bool {
    let Outcome::Response { end: End::Complete { is_reusable }, .. } = ours else { return true };
    let mut hypers = hypers.clone();
    if let Outcome::Response { end: End::Complete { is_reusable: of_hyper }, .. } = &mut hypers
        && !is_reusable
    {
        *of_hyper = false;
    }
    *ours == hypers
}

#[test]
fn providers_streams_are_read_as_by_hyper() {
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let stream = format!(
        "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: text/event-stream\r\n\
         Transfer-Encoding: chunked\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(3)
    );
    for length in [stream.len(), stream.len() - 1, stream.len() - 8, 150, 40, 1] {
        let bytes = &stream.as_bytes()[..length];
        for cut in 0..length {
            for stays_open in [true, false] {
                let (ours, hypers) = both(bytes, &[cut], stays_open);
                assert_eq!(ours, hypers, "{length} bytes, cut at {cut}");
            }
        }
    }
}
