//! Pipelined requests, one after another.
//!
//! actix parses every head in its read buffer, however many wait for the first one's response: 7 KB of memory for a
//! request of 18 bytes, and a buffer holds thousands. [`Paced`] hands it one head, then its body, and the next head
//! after the response.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use actix_web::{
    HttpMessage,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    },
    middleware::Next,
};
use bytes::{Buf, BytesMut};
use memchr::memchr_iter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http_client::http1::framing::{Chunked, Framing};

/// The most bytes that are read and not handed on, so that a client is seen to leave.
const MOST_HELD: usize = 16 * 1024;

/// The part of a connection's bytes that may be read now.
#[derive(Debug, PartialEq)]
enum Pace {
    /// A head: everything up to a blank line, which is none as long as nothing has come before it.
    Head { last: Option<[u8; 2]> },
    /// A body.
    Body { framing: Framing, is_answered: bool },
    /// Nothing, until there is a response.
    Nothing,
    /// Everything: another protocol follows.
    Open,
    /// The end, though the client may send more.
    End,
}

const HEAD: Pace = Pace::Head { last: None };

/// Tells a connection how far to read. Stored in the connection's data.
#[derive(Debug)]
pub struct Pacer {
    pace: RefCell<Pace>,
    /// The connection's task, if it waits.
    reader: RefCell<Option<Waker>>,
}

impl Pacer {
    fn set(&self, pace: Pace) {
        self.change(|current| *current = pace);
    }

    /// Changes the pace, unless the end is reached, and wakes the connection's task.
    fn change(&self, change: impl FnOnce(&mut Pace)) {
        let mut pace = self.pace.borrow_mut();
        if *pace != Pace::End {
            change(&mut pace);
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Reads the body of a request, whose length actix has verified. Returns whether there is one.
    fn begin(&self, request: &ServiceRequest) -> bool {
        let header = |name| request.headers().get(name)?.to_str().ok().map(str::trim);
        let length: Option<u64> = header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let is_upgraded = header(UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"));
        let framing = match length {
            _ if request.headers().contains_key(TRANSFER_ENCODING) => Framing::Chunked(Chunked::default()),
            Some(left @ 1..) => Framing::Length(left),
            length => {
                let is_open = (length.is_none() && is_upgraded) || request.method() == Method::CONNECT;
                self.set(if is_open { Pace::Open } else { Pace::Nothing });
                return false;
            }
        };
        self.set(Pace::Body { framing, is_answered: false });
        true
    }

    fn answered(&self) {
        self.change(|pace| match pace {
            Pace::Body { is_answered, .. } => *is_answered = true,
            Pace::Open => {}
            pace => *pace = HEAD,
        });
    }

    /// Ends the connection for its reader.
    pub fn end(&self) {
        self.set(Pace::End);
    }
}

/// RAII guard of one response: after it, the next head is read.
pub struct Answering(Rc<Pacer>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// Has a request's body read, and the next head after its response: at the end of its body, if somebody takes the
/// [`Answering`] out of the request's extensions.
///
/// # Errors
/// If the inner service returns one.
pub async fn pace(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let Some(pacer) = request.conn_data::<Rc<Pacer>>().cloned() else { return next.call(request).await };
    let has_body = pacer.begin(&request);
    request.extensions_mut().insert(Answering(pacer));
    if has_body {
        // What has come of it is parsed first, since actix closes the connection after a response that it has before the
        // body. It polls a new request twice before it parses on.
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
    }
    let response = next.call(request).await?;
    drop(response.request().extensions_mut().remove::<Answering>());
    Ok(response)
}

/// A connection that is read as far as its [`Pacer`] says.
#[derive(Debug)]
pub struct Paced<T> {
    stream: T,
    pacer: Rc<Pacer>,
    /// Bytes that were read and not handed on.
    held: BytesMut,
}

impl<T> Paced<T> {
    /// Paces a new connection.
    pub fn new(stream: T) -> Self {
        let pacer = Rc::new(Pacer { pace: RefCell::new(HEAD), reader: RefCell::default() });
        Self { stream, pacer, held: BytesMut::new() }
    }

    /// Returns the connection itself.
    pub fn stream(&self) -> &T {
        &self.stream
    }

    /// Returns the connection's pacer.
    pub fn pacer(&self) -> Rc<Pacer> {
        self.pacer.clone()
    }
}

impl Pace {
    /// Returns how many of `bytes` are handed on.
    fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Head { last } => match end_of_head(last, bytes) {
                Some(end) => {
                    *self = Self::Nothing;
                    end
                }
                None => bytes.len(),
            },
            Self::Body { framing, is_answered } => match framing.decode(bytes, |_| ()) {
                Ok(taken) => {
                    if framing.is_done() {
                        *self = if *is_answered { HEAD } else { Self::Nothing };
                    }
                    taken
                }
                // actix is less strict, and must not find an end where this finds none.
                Err(_) => {
                    *self = Self::End;
                    0
                }
            },
            Self::Open => bytes.len(),
            Self::Nothing | Self::End => 0,
        }
    }
}

/// Returns the end of a head's blank line. `last` are the last two bytes before `bytes`, if the head has begun.
fn end_of_head(last: &mut Option<[u8; 2]>, bytes: &[u8]) -> Option<usize> {
    let start = match last {
        Some(_) => 0,
        // Line breaks before a head are skipped.
        None => bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?,
    };
    let (before, bytes) = (last.unwrap_or_default(), &bytes[start..]);
    let at = |end: usize, back: usize| match end.checked_sub(back) {
        Some(at) => bytes[at],
        None => before[2 + end - back],
    };
    let is_blank = |end: usize| match at(end, 1) {
        b'\n' => true,
        b'\r' => at(end, 2) == b'\n',
        _ => false,
    };
    *last = match *bytes {
        [] => *last,
        [byte] => Some([before[1], byte]),
        [.., byte, next] => Some([byte, next]),
    };
    memchr_iter(b'\n', bytes).find(|&end| is_blank(end)).map(|end| start + end + 1)
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut pace = this.pacer.pace.borrow_mut();
        match *pace {
            Pace::End => return Poll::Ready(Ok(())),
            Pace::Nothing => {
                *this.pacer.reader.borrow_mut() = Some(cx.waker().clone());
                while this.held.len() < MOST_HELD {
                    let mut bytes = [0; 1024];
                    let mut bytes = ReadBuf::new(&mut bytes);
                    ready!(Pin::new(&mut this.stream).poll_read(cx, &mut bytes))?;
                    if bytes.filled().is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    this.held.extend_from_slice(bytes.filled());
                }
                return Poll::Pending;
            }
            _ => {}
        }
        if !this.held.is_empty() {
            let most = this.held.len().min(buffer.remaining());
            let taken = pace.take(&this.held[..most]);
            buffer.put_slice(&this.held[..taken]);
            this.held.advance(taken);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let taken = pace.take(&buffer.filled()[before..]);
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

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
    const TEXT: &[u8] = b"a\r\n\r\nb\n\n";

    fn read(connection: &mut Paced<&[u8]>, most: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; most];
        let read = connection.read(&mut buffer).now_or_never()?.expect("no error");
        Some(buffer[..read].to_vec())
    }

    fn read_all(connection: &mut Paced<&[u8]>, most: usize) -> Vec<u8> {
        let parts = std::iter::from_fn(|| read(connection, most).filter(|part| !part.is_empty()));
        parts.flatten().collect()
    }

    fn body(framing: Framing) -> Pace {
        Pace::Body { framing, is_answered: false }
    }

    #[test]
    fn a_request_is_read_after_the_response_to_the_one_before() {
        let chunks = [b"8\r\n", TEXT, b"\r\n0\r\nA: b\r\n\r\n"].concat();
        let bytes = [b"\r\n\n", GET, b"\r\n\r\n", GET, TEXT, b"\r\n", GET, &chunks, GET].concat();
        for most in [1, 7, GET.len(), 1000] {
            let mut connection = Paced::new(&bytes[..]);
            let pacer = connection.pacer();
            assert_eq!(read_all(&mut connection, most), [b"\r\n\n", GET].concat(), "{most}");
            pacer.set(Pace::Nothing);
            pacer.answered();
            assert_eq!(read_all(&mut connection, most), [b"\r\n\r\n", GET].concat(), "{most}");
            pacer.set(body(Framing::Length(TEXT.len() as u64)));
            assert_eq!(read_all(&mut connection, most), TEXT, "{most}");
            pacer.answered();
            assert_eq!(read_all(&mut connection, most), [b"\r\n", GET].concat(), "{most}");
            pacer.set(body(Framing::Chunked(Chunked::default())));
            assert_eq!(read_all(&mut connection, most), chunks, "{most}");
            pacer.answered();
            assert_eq!(read_all(&mut connection, most), GET, "{most}");
        }
    }

    #[test]
    fn a_body_is_read_to_its_end_after_an_early_response() {
        let bytes = [TEXT, GET, GET].concat();
        let mut connection = Paced::new(&bytes[..]);
        connection.pacer().set(body(Framing::Length(TEXT.len() as u64)));
        connection.pacer().answered();
        assert_eq!(read_all(&mut connection, 1000), [TEXT, GET].concat());
    }

    #[test]
    fn nothing_is_read_after_a_malformed_body() {
        let bytes = [b"1\r\na0\r\n\r\n", GET].concat();
        let mut connection = Paced::new(&bytes[..]);
        connection.pacer().set(body(Framing::Chunked(Chunked::default())));
        read_all(&mut connection, 7);
        connection.pacer().answered();
        assert_eq!(read(&mut connection, 7).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_client_that_leaves_is_seen_unless_it_has_sent_much_more() {
        for (times, seen) in [(1, true), (100, true), (1000, false)] {
            let bytes = GET.repeat(times);
            let mut connection = Paced::new(&bytes[..]);
            assert_eq!(read(&mut connection, GET.len()).as_deref(), Some(GET));
            assert_eq!(read(&mut connection, 1000).is_some(), seen, "{times}");
            assert!(connection.held.len() <= MOST_HELD + 1024);
            connection.pacer().end();
            assert_eq!(read(&mut connection, 1000).as_deref(), Some(&b""[..]));
        }
    }

    proptest! {
        #[test]
        fn a_head_ends_at_its_blank_line_however_it_comes(bytes in "[a\r\n]{0,60}", most in 1..50_usize) {
            let begun = bytes.find('a').unwrap_or(bytes.len());
            let ends = ["\n\n", "\n\r\n"].map(|end| bytes[begun..].find(end).map(|at| begun + at + end.len()));
            let end = ends.into_iter().flatten().min().unwrap_or(bytes.len());
            let mut connection = Paced::new(bytes.as_bytes());
            prop_assert_eq!(read_all(&mut connection, most), &bytes.as_bytes()[..end]);
        }
    }
}
