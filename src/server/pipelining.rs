//! Pipelined requests, one after another.
//!
//! actix parses every head in its read buffer, however many wait for the first one's response: 7 KB of memory for a
//! request of 18 bytes, and a buffer holds thousands. [`Paced`] hands it one request at a time.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use actix_web::{
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    },
    middleware::Next,
};
use memchr::memchr_iter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The part of a connection's bytes that may be read now.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pace {
    /// A head: everything up to a blank line.
    Head,
    /// So many bytes of a body.
    Body { left: u64, is_answered: bool },
    /// A chunked body, up to a blank line: the end has one.
    Chunked,
    /// Nothing, until there is a response, or a chunked body is waited for that may not be at its end.
    Nothing { in_chunks: bool },
    /// Everything: another protocol follows.
    Open,
}

/// Tells a connection how far to read. Stored in the connection's data.
#[derive(Debug)]
pub struct Pacer {
    pace: Cell<Pace>,
    is_body_awaited: Cell<bool>,
    /// The connection's task, if it waits.
    reader: RefCell<Option<Waker>>,
}

impl Pacer {
    fn set(&self, pace: Pace) {
        self.pace.set(pace);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Reads the body of a request, whose length actix has verified.
    fn begin(&self, request: &ServiceRequest) {
        let header = |name| request.headers().get(name)?.to_str().ok().map(str::trim);
        let length: Option<u64> = header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let is_upgraded = header(UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"));
        self.set(match length {
            _ if request.headers().contains_key(TRANSFER_ENCODING) => Pace::Chunked,
            Some(left @ 1..) => Pace::Body { left, is_answered: false },
            None if is_upgraded => Pace::Open,
            _ if request.method() == Method::CONNECT => Pace::Open,
            _ => Pace::Nothing { in_chunks: false },
        });
    }

    fn answered(&self) {
        self.set(match self.pace.get() {
            Pace::Body { left, .. } => Pace::Body { left, is_answered: true },
            Pace::Open => Pace::Open,
            _ => Pace::Head,
        });
    }

    /// Tells if more of the body is being waited for.
    pub fn await_body(&self, is_awaited: bool) {
        self.is_body_awaited.set(is_awaited);
        if is_awaited {
            self.set(self.pace.get());
        }
    }
}

/// Has a request's body read, and the next head after its response.
///
/// # Errors
/// If the inner service returns one.
pub async fn pace(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let pacer = request.conn_data::<Rc<Pacer>>().cloned();
    if let Some(pacer) = &pacer {
        pacer.begin(&request);
    }
    let response = next.call(request).await;
    if let Some(pacer) = &pacer {
        pacer.answered();
    }
    response
}

/// A connection that is read as far as its [`Pacer`] says.
#[derive(Debug)]
pub struct Paced<T> {
    stream: T,
    pacer: Rc<Pacer>,
    /// Bytes that were read and not handed on.
    held: Vec<u8>,
    /// The last two bytes that were handed on.
    last: [u8; 2],
}

impl<T> Paced<T> {
    /// Paces a new connection.
    pub fn new(stream: T) -> Self {
        let pacer = Rc::new(Pacer {
            pace: Cell::new(Pace::Head),
            is_body_awaited: Cell::default(),
            reader: RefCell::default(),
        });
        Self { stream, pacer, held: Vec::new(), last: [0; 2] }
    }

    /// Returns the connection itself.
    pub fn stream(&self) -> &T {
        &self.stream
    }

    /// Returns the connection's pacer.
    pub fn pacer(&self) -> Rc<Pacer> {
        self.pacer.clone()
    }

    /// Returns how many of `bytes` are handed on.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let (taken, then) = match self.pacer.pace.get() {
            Pace::Body { left, is_answered } => {
                let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let then = match (left - taken as u64, is_answered) {
                    (0, true) => Pace::Head,
                    (0, false) => Pace::Nothing { in_chunks: false },
                    (left, _) => Pace::Body { left, is_answered },
                };
                (taken, then)
            }
            Pace::Nothing { .. } => return 0,
            Pace::Open => (bytes.len(), Pace::Open),
            pace => match self.blank_line(bytes) {
                Some(end) => (end, Pace::Nothing { in_chunks: pace == Pace::Chunked }),
                None => (bytes.len(), pace),
            },
        };
        self.pacer.pace.set(then);
        self.last = match bytes[..taken] {
            [] => self.last,
            [byte] => [self.last[1], byte],
            [.., before, byte] => [before, byte],
        };
        taken
    }

    /// Returns the end of the first blank line, which may have begun before `bytes`.
    fn blank_line(&self, bytes: &[u8]) -> Option<usize> {
        let before = |end: usize, back: usize| match end.checked_sub(back) {
            Some(at) => bytes[at],
            None => self.last[2 + end - back],
        };
        let ends = memchr_iter(b'\n', bytes).filter(|&end| match before(end, 1) {
            b'\n' => true,
            b'\r' => before(end, 2) == b'\n',
            _ => false,
        });
        ends.map(|end| end + 1).next()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Pace::Nothing { in_chunks } = this.pacer.pace.get() {
            if in_chunks && this.pacer.is_body_awaited.get() {
                // After actix has parsed what it has: the body may be at its end.
                this.pacer.pace.set(Pace::Chunked);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            *this.pacer.reader.borrow_mut() = Some(cx.waker().clone());
            if this.held.is_empty() {
                // So that a client is seen to leave.
                let mut few = [0; 256];
                let mut few = ReadBuf::new(&mut few);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut few))?;
                if few.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                this.held.extend_from_slice(few.filled());
            }
            return Poll::Pending;
        }
        if !this.held.is_empty() {
            let mut held = std::mem::take(&mut this.held);
            let taken = this.take(&held[..held.len().min(buffer.remaining())]);
            buffer.put_slice(&held[..taken]);
            this.held = held.split_off(taken);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let taken = this.take(&buffer.filled()[before..]);
        this.held.extend_from_slice(&buffer.filled()[before + taken..]);
        buffer.set_filled(before + taken);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";

    fn read(connection: &mut Paced<&[u8]>, most: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; most];
        let read = connection.read(&mut buffer).now_or_never()?.expect("no error");
        Some(buffer[..read].to_vec())
    }

    fn read_all(connection: &mut Paced<&[u8]>, most: usize) -> Vec<u8> {
        let parts = std::iter::from_fn(|| read(connection, most).filter(|part| !part.is_empty()));
        parts.flatten().collect()
    }

    #[test]
    fn a_request_is_read_after_the_response_to_the_one_before() {
        let body = b"a\r\n\r\nb\n\n";
        let bytes = [HEAD, HEAD, body, HEAD].concat();
        for most in [1, 7, HEAD.len(), 1000] {
            let mut connection = Paced::new(&bytes[..]);
            let pacer = connection.pacer();
            assert_eq!(read_all(&mut connection, most), HEAD, "{most}");
            pacer.answered();
            assert_eq!(read_all(&mut connection, most), HEAD, "{most}");
            pacer.set(Pace::Body { left: body.len() as u64, is_answered: false });
            assert_eq!(read_all(&mut connection, most), body, "{most}");
            assert_eq!(read(&mut connection, most), None);
            pacer.answered();
            assert_eq!(read_all(&mut connection, most), HEAD, "{most}");
        }
    }

    #[test]
    fn a_body_is_read_to_its_end_after_an_early_response() {
        let bytes = [b"body\n\nbody", HEAD, HEAD].concat();
        let mut connection = Paced::new(&bytes[..]);
        connection.pacer().set(Pace::Body { left: 10, is_answered: false });
        connection.pacer().answered();
        assert_eq!(read_all(&mut connection, 1000), [b"body\n\nbody", HEAD].concat());
    }

    #[test]
    fn a_client_that_leaves_is_seen_unless_it_has_sent_more() {
        let mut connection = Paced::new(HEAD);
        assert_eq!(read(&mut connection, 1000).as_deref(), Some(HEAD));
        assert_eq!(read(&mut connection, 1000).as_deref(), Some(&b""[..]));
        let more = HEAD.repeat(100);
        let mut connection = Paced::new(&more[..]);
        assert_eq!(read(&mut connection, 1000).as_deref(), Some(HEAD));
        assert_eq!(read(&mut connection, 1000), None);
        assert!(connection.held.len() < 1000);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_reordered(bytes in "[a\r\n]{0,200}", most in 1..50_usize) {
            let mut connection = Paced::new(bytes.as_bytes());
            connection.pacer().set(Pace::Chunked);
            let mut got = Vec::new();
            loop {
                match read(&mut connection, most) {
                    Some(part) if part.is_empty() => break,
                    Some(part) => got.extend(part),
                    None => connection.pacer().await_body(true),
                }
            }
            prop_assert_eq!(got, bytes.as_bytes());
        }
    }
}
