//! The client that asks providers: HTTP/1.1, and made for many answers that
//! come slowly.
//!
//! The relay reads a provider's socket itself, in the task that writes to the
//! browser: no task and no channel between them, and no buffer that belongs to
//! a connection, since what is read is taken apart where it lies, in one
//! buffer a thread. A stream that waits costs some hundred bytes here (and what
//! TLS keeps), where hyper has 25 KB for it. Connecting and proxies are
//! hyper-util's, TLS rustls', and httparse takes heads apart.
//!
//! HTTP/2 is not offered: on one shared connection a provider's limit of
//! streams, often 100, would make the next chat wait for another to end, and
//! clients that do not read would use up the window of those that do. Nor is
//! compression: a provider that compresses its stream delays it.
//!
//! Follows RFC 9112.

mod body;
mod connect;
pub mod framing;
pub mod head;
mod pool;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    StatusCode,
    header::{HeaderMap, LOCATION},
};
use rustls::ClientConfig;
use tokio::time::{Instant, Sleep, timeout};
use url::Url;

use super::{
    MAX_REDIRECTS, causes,
    guard::{Lookup, PrivateUpstreams, Refusal},
    refusal, stays,
};
pub use body::{Body, Read};
use connect::{Connector, Socket};
use head::Head;
use pool::Pool;

/// One worker's client: its connections are used by the thread that made them.
/// Cloned, it is the same one.
#[derive(Clone)]
pub struct Client {
    connector: Rc<Connector>,
    pool: Rc<Pool>,
    /// Checked for every address, if the addresses are users' choice.
    policy: Option<Arc<PrivateUpstreams>>,
    connect_timeout: Duration,
    idle_timeout: Duration,
}

/// A head, and a body that is still to be read.
pub struct Response {
    /// The status; never an informational one.
    pub status: StatusCode,
    /// All of them.
    pub headers: HeaderMap,
    /// What follows.
    pub body: Body,
}

/// Why there is no (more) answer. None of them holds the URL, a header or
/// anything of a body.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guard does not let the URL through.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No connection was made.
    #[error("no connection: {0}")]
    Connect(String),
    /// There was a connection, and no head came, or none that can be used.
    #[error("no answer: {0}")]
    Request(String),
    /// A body broke off.
    #[error("the answer broke off: {0}")]
    Body(String),
    /// Nothing came for as long as a provider may be silent.
    #[error("time out: nothing came for {0:?}")]
    Silent(Duration),
}

impl Client {
    /// A client that has connected to nothing yet. Without a `policy` it heeds
    /// the environment's proxies, if `proxies` says so; with one never, as a
    /// proxy would resolve names in our place.
    pub fn new(
        tls: Arc<ClientConfig>,
        policy: Option<Arc<PrivateUpstreams>>,
        lookup: Lookup,
        proxies: bool,
        connect_timeout: Duration,
        idle_timeout: Duration,
    ) -> Self {
        let connector = Connector::new(tls, policy.clone(), lookup, proxies && policy.is_none(), connect_timeout);
        Self { connector: Rc::new(connector), pool: Rc::default(), policy, connect_timeout, idle_timeout }
    }

    /// Posts `body`, or gets where there is none, and gives the answer once its
    /// head is there. Dropped, it closes the connection.
    ///
    /// Redirects are followed within one origin, and to the same host over TLS;
    /// others are the answer. As browsers do, 301, 302 and 303 make a GET of a
    /// POST.
    ///
    /// # Errors
    /// All of [`Error`] but [`Error::Body`].
    pub async fn send(&self, url: &Url, headers: &HeaderMap, body: Option<&Bytes>) -> Result<Response, Error> {
        let check = |url: &Url| self.policy.as_ref().map_or(Ok(()), |policy| policy.check_url(url));
        check(url)?;
        let (mut url, mut body, mut redirects) = (url.clone(), body, 0);
        loop {
            let response = self.ask(&url, headers, body).await?;
            let Some(to) = redirect(&response, &url) else {
                return Ok(response);
            };
            // Before it is looked whether it is followed: the refusal says more.
            check(&to)?;
            if redirects == MAX_REDIRECTS || !stays(&url, &to) {
                return Ok(response);
            }
            if matches!(response.status.as_u16(), 301..=303) {
                body = None;
            }
            (url, redirects) = (to, redirects + 1);
        }
    }

    async fn ask(&self, url: &Url, headers: &HeaderMap, body: Option<&Bytes>) -> Result<Response, Error> {
        let key = url.origin().ascii_serialization();
        let proxy = self.connector.proxy(url)?;
        let kept = self.pool.take(&key);
        let was_kept = kept.is_some();
        let mut socket = match kept {
            Some(socket) => socket,
            // Boxed, as it is large and soon over.
            None => Box::pin(self.connect(url, proxy.as_ref())).await?,
        };
        let request = head::request(url, headers, body.map(Bytes::len), proxy.as_ref());
        let sent = exchange(&mut socket, &request, body.map_or(&[], |body| body), self.idle_timeout).await;
        if was_kept && matches!(sent, Err(Error::Request(_))) {
            // What made it useless, a balancer that forgot it maybe, most
            // likely did so to the others: who asks again gets a new one.
            self.pool.forget(&key);
        }
        let sent = sent?;
        let Head { status, headers, framing, reusable } = sent.head;
        let keep = (reusable && sent.whole).then(|| (self.pool.clone(), key));
        Ok(Response { status, headers, body: Body::new(socket, framing, sent.rest, keep, self.idle_timeout) })
    }

    async fn connect(&self, url: &Url, proxy: Option<&connect::Proxy>) -> Result<Socket, Error> {
        match timeout(self.connect_timeout, self.connector.connect(url, proxy)).await {
            Err(_) => Err(Error::Connect(format!("time out after {:?}", self.connect_timeout))),
            Ok(Err(error)) => {
                Err(refusal(&*error).map_or_else(|| Error::Connect(causes(&*error)), |why| Error::Refused(why.clone())))
            }
            Ok(Ok(socket)) => Ok(socket),
        }
    }
}

fn redirect(response: &Response, from: &Url) -> Option<Url> {
    if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers.get(LOCATION)?;
    let to = from.join(std::str::from_utf8(location.as_bytes()).ok()?).ok()?;
    matches!(to.scheme(), "http" | "https").then_some(to)
}

struct Sent {
    head: Head,
    /// What came after the head in the same reads.
    rest: Vec<u8>,
    /// The request was written to its end.
    whole: bool,
}

/// Writes a request and reads the answer's head; both at once, since an answer
/// may come before a large request has been taken. If it is a refusal, it came
/// instead, and the rest stays unwritten.
async fn exchange(socket: &mut Socket, mut head: &[u8], mut body: &[u8], limit: Duration) -> Result<Sent, Error> {
    let mut silence = Silence::new(limit);
    let mut reader = head::Reader::default();
    let mut flushed = false;
    // Why nothing more could be written; the answer may say it better.
    let mut unwritable = None;
    let mut answer = None;
    poll_fn(|cx| {
        while unwritable.is_none() && !flushed {
            let unwritten = head.len() + body.len();
            let written = if unwritten == 0 {
                socket.as_mut().poll_flush(cx).map_ok(|()| 0)
            } else {
                socket.as_mut().poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)])
            };
            match written {
                Poll::Ready(Ok(0)) if unwritten == 0 => flushed = true,
                Poll::Ready(Ok(0)) => unwritable = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    silence.broken();
                    let of_head = count.min(head.len());
                    head = &head[of_head..];
                    body = &body[count - of_head..];
                }
                Poll::Ready(Err(error)) => unwritable = Some(error),
                Poll::Pending => break,
            }
        }
        while answer.is_none() {
            let failed = |error: &io::Error| Poll::Ready(Err(Error::Request(causes(error))));
            // A head that comes and comes is no answer, so it does not count.
            match body::read(socket, cx, |bytes| reader.read(bytes)) {
                Poll::Ready(Ok(Some(Ok(read)))) => answer = read,
                Poll::Ready(Ok(Some(Err(malformed)))) => {
                    return Poll::Ready(Err(Error::Request(malformed.to_string())));
                }
                Poll::Ready(Ok(None)) => {
                    let closed = io::Error::other("the connection was closed before an answer came");
                    return failed(unwritable.as_ref().unwrap_or(&closed));
                }
                Poll::Ready(Err(error)) => return failed(unwritable.as_ref().unwrap_or(&error)),
                Poll::Pending => break,
            }
        }
        let is_over = |head: &Head| flushed || unwritable.is_some() || !head.status.is_success();
        match answer.take_if(|(head, _)| is_over(head)) {
            Some((head, rest)) => Poll::Ready(Ok(Sent { head, rest, whole: flushed })),
            None => silence.poll(cx).map(|()| Err(Error::Silent(limit))),
        }
    })
    .await
}

/// Notices that nothing has happened for a while, with a timer that is set
/// once a while and not once an event.
struct Silence {
    limit: Duration,
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), timer: None }
    }

    fn broken(&mut self) {
        self.since = Instant::now();
    }

    /// Ready once it has lasted as long as the limit.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.since + self.limit)));
        while timer.as_mut().poll(cx).is_ready() {
            let end = self.since + self.limit;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
        Poll::Pending
    }
}
