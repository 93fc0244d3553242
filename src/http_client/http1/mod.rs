//! The HTTP/1.1 client for providers, made for many slow responses.
//!
//! The relay reads a provider's socket itself, in the task that writes to the
//! browser: no task and no channel in between, and no buffer that belongs to a
//! connection, since bytes are decoded in one read buffer a thread. An idle
//! stream costs some hundred bytes here (and what TLS keeps); docs/benchmark.md
//! compares that with hyper. Connecting and proxies are hyper-util's, TLS is
//! rustls', and heads are parsed by httparse.
//!
//! HTTP/2 is not offered: on one shared connection a provider's limit of
//! streams, often 100, would make the next chat wait for another to end, and
//! clients that do not read would use up the window of those that do. Nor is
//! compression: a provider that compresses its stream delays it.
//!
//! Follows RFC 9112.

mod ahead;
mod body;
mod connect;
#[cfg(test)]
mod differential_tests;
mod error;
mod exchange;
pub mod framing;
pub mod head;
mod idle_timer;
mod pool;
mod socket;
#[cfg(test)]
mod tests;
mod upload;

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    StatusCode,
    header::{HeaderMap, LOCATION},
};
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Url;

use super::{
    defaults::POOL_IDLE_TIMEOUT,
    error::{causes, refusal},
    redirect::{self, MAX_REDIRECTS},
    ssrf_guard::{Lookup, UpstreamPolicy},
};
use ahead::Ahead;
pub use ahead::Expected;
use body::Keep;
pub use body::{Body, Collected};
use connect::{Connector, Proxy};
pub use error::Error;
use exchange::exchange;
use idle_timer::IdleTimer;
use pool::Pool;
use socket::Socket;
use upload::Upload;

/// The time by which a connection is given up before the server closes it.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);
/// The longest time for which an idle connection is kept, whatever the server
/// announces.
const MAX_KEEP_ALIVE: Duration = Duration::from_secs(300);

/// One worker's client: its connections are used by the thread that opened
/// them. Clones share them.
#[derive(Clone)]
pub struct Client {
    connector: Rc<Connector>,
    pool: Rc<Pool>,
    ahead: Rc<Ahead>,
    /// The SSRF policy for every address, if users choose the addresses.
    policy: Option<Arc<UpstreamPolicy>>,
    connect_timeout: Duration,
    idle_timeout: Duration,
}

/// A response whose body is still to be read.
pub struct Response {
    /// The status, never an informational one.
    pub status: StatusCode,
    /// The headers, unchanged.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
}

impl Client {
    /// A client without connections. It uses the environment's proxies if
    /// `proxies` is set, but never with a `policy`, since a proxy would resolve
    /// names in our place.
    pub fn new(
        tls: Arc<ClientConfig>,
        policy: Option<Arc<UpstreamPolicy>>,
        lookup: Lookup,
        proxies: bool,
        connect_timeout: Duration,
        idle_timeout: Duration,
    ) -> Self {
        let connector = Connector::new(tls, policy.clone(), lookup, proxies && policy.is_none(), connect_timeout);
        Self {
            connector: Rc::new(connector),
            pool: Rc::default(),
            ahead: Rc::default(),
            policy,
            connect_timeout,
            idle_timeout,
        }
    }

    /// Sends a POST with `body`, or a GET without one, and returns the response
    /// once its head is complete. Dropped, the future closes the connection.
    ///
    /// Redirects are followed within one origin, and to the same host over TLS;
    /// others are returned. As in browsers, 301, 302 and 303 turn a POST into a
    /// GET.
    ///
    /// A request is sent a second time only if a reused connection failed before
    /// any byte of a response: the server closed it, most likely, when the
    /// request was on its way.
    ///
    /// # Errors
    /// All of [`Error`] but [`Error::Body`].
    pub async fn send(&self, url: &Url, headers: &HeaderMap, body: Option<&Bytes>) -> Result<Response, Error> {
        let check = |url: &Url| self.policy.as_ref().map_or(Ok(()), |policy| policy.check_url(url));
        check(url)?;
        let (mut url, mut body, mut redirects) = (url.clone(), body, 0);
        loop {
            let response = self.send_once(&url, headers, body).await?;
            let Some(to) = redirect_target(&response, &url) else {
                return Ok(response);
            };
            // First, as a refusal says more than a redirect that is returned.
            check(&to)?;
            if redirects == MAX_REDIRECTS || !redirect::is_allowed(&url, &to) {
                return Ok(response);
            }
            if matches!(response.status.as_u16(), 301..=303) {
                body = None;
            }
            (url, redirects) = (to, redirects + 1);
        }
    }

    async fn send_once(&self, url: &Url, headers: &HeaderMap, body: Option<&Bytes>) -> Result<Response, Error> {
        let origin = url.origin().ascii_serialization();
        let proxy = self.connector.proxy(url)?;
        let mut reused = self.pool.take(&origin);
        if reused.is_none() {
            reused = self.ahead.wait(&origin).await;
        }
        loop {
            let is_reused = reused.is_some();
            let mut socket = match reused.take() {
                Some(socket) => socket,
                // Boxed, as it is large and soon over.
                None => Box::pin(self.connect(url, proxy.as_ref())).await?,
            };
            let head = head::encode_request(url, headers, body.map(Bytes::len), proxy.as_ref());
            let mut idle = IdleTimer::new(self.idle_timeout);
            match exchange(&mut socket, Upload::new(head, body), &mut idle).await {
                Ok(mut exchange) => {
                    let status = exchange.head.status;
                    let headers = std::mem::take(&mut exchange.head.headers);
                    let idle_timeout = keep_alive(exchange.head.keep_alive);
                    let is_reusable = exchange.is_intact && exchange.head.is_reusable && !idle_timeout.is_zero();
                    let keep = is_reusable.then(|| Keep { pool: self.pool.clone(), origin, idle_timeout });
                    return Ok(Response { status, headers, body: Body::new(socket, exchange, keep, idle) });
                }
                Err(failure) if is_reused && failure.is_stale_connection() => {
                    // The other idle connections most likely died with it, of a
                    // load balancer that forgot them for example.
                    self.pool.close(&origin);
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    /// Opens a connection for a request to `url` that is expected soon, unless an idle one is open.
    pub fn connect_ahead(&self, url: &Url) -> Expected {
        let origin = url.origin().ascii_serialization();
        let (expected, open) = self.ahead.expect(&origin, |most| self.pool.usable(&origin, most));
        if open {
            let (client, url) = (self.clone(), url.clone());
            actix_web::rt::spawn(async move {
                let connected = async {
                    let proxy = client.connector.proxy(&url)?;
                    client.connect(&url, proxy.as_ref()).await
                };
                // A failure is reported by the request's own attempt.
                let socket = connected.await.ok();
                if let Some(unused) = client.ahead.connected(&origin, socket) {
                    client.pool.put(origin, unused, POOL_IDLE_TIMEOUT);
                }
            });
        }
        expected
    }

    async fn connect(&self, url: &Url, proxy: Option<&Proxy>) -> Result<Socket, Error> {
        match timeout(self.connect_timeout, self.connector.connect(url, proxy)).await {
            Err(_) => Err(Error::Connect(format!("timed out after {:?}", self.connect_timeout))),
            Ok(Err(error)) => {
                Err(refusal(&*error).map_or_else(|| Error::Connect(causes(&*error)), |why| Error::Refused(why.clone())))
            }
            Ok(Ok(socket)) => Ok(socket),
        }
    }
}

/// Returns the URL that a response redirects to.
fn redirect_target(response: &Response, from: &Url) -> Option<Url> {
    if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers.get(LOCATION)?;
    let to = from.join(std::str::from_utf8(location.as_bytes()).ok()?).ok()?;
    matches!(to.scheme(), "http" | "https").then_some(to)
}

/// Returns how long a connection may be idle, from what its server announced.
fn keep_alive(announced: Option<Duration>) -> Duration {
    announced.map_or(POOL_IDLE_TIMEOUT, |timeout| timeout.saturating_sub(KEEP_ALIVE_MARGIN).min(MAX_KEEP_ALIVE))
}
