//! Making connections: names through the guard; TCP, TLS and proxies by
//! hyper-util and hyper-rustls.

use std::{
    error::Error as StdError,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use futures::future::BoxFuture;
use http::HeaderValue;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::{
        legacy::connect::{HttpConnector, dns::Name, proxy::Tunnel},
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;
use url::{Position, Url};

use super::{
    super::guard::{Lookup, PrivateUpstreams, addresses},
    Error,
};

type BoxError = Box<dyn StdError + Send + Sync>;

/// A connection, with or without TLS.
pub type Socket = Pin<Box<dyn Io>>;

/// What can be read and written.
pub trait Io: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> Io for T {}

/// What is needed to connect.
pub struct Connector {
    https: HttpsConnector<HttpConnector<Resolver>>,
    tls: Arc<ClientConfig>,
    proxies: Option<Matcher>,
}

/// One that the environment names for an address.
pub struct Proxy(Intercept);

impl Proxy {
    /// What it wants to be let in by, if anything.
    pub fn basic_auth(&self) -> Option<&HeaderValue> {
        self.0.basic_auth()
    }
}

impl Connector {
    pub fn new(
        tls: Arc<ClientConfig>,
        policy: Option<Arc<PrivateUpstreams>>,
        lookup: Lookup,
        proxies: bool,
        timeout: Duration,
    ) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver { policy, lookup });
        // Shared by a name's addresses, so that one that does not answer
        // leaves time for the next.
        tcp.set_connect_timeout(Some(timeout));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // A provider that vanishes is noticed before its silence is too long.
        tcp.set_keepalive(Some(Duration::from_secs(15)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(15)));
        tcp.set_keepalive_retries(Some(3));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(Duration::from_secs(30)));
        Self { https: (tcp, tls.clone()).into(), tls, proxies: proxies.then(Matcher::from_env) }
    }

    /// The proxy that an address is reached through, if any.
    ///
    /// # Errors
    /// Where it is none that is understood.
    pub fn proxy(&self, url: &Url) -> Result<Option<Proxy>, Error> {
        let Some(matcher) = &self.proxies else {
            return Ok(None);
        };
        let proxy = matcher.intercept(&uri(url).map_err(|_| Error::Connect("the address is none".to_owned()))?);
        match proxy.as_ref().and_then(|proxy| proxy.uri().scheme_str()) {
            None | Some("http" | "https") => Ok(proxy.map(Proxy)),
            Some(scheme) => Err(Error::Connect(format!("proxies of the scheme {scheme} are not supported"))),
        }
    }

    /// Connects, and shakes hands where it is `https`.
    ///
    /// # Errors
    /// Why not; the guard's refusal somewhere in its causes.
    pub async fn connect(&self, url: &Url, proxy: Option<&Proxy>) -> Result<Socket, BoxError> {
        let to = uri(url)?;
        let Some(Proxy(proxy)) = proxy else {
            return Ok(match call(&self.https, to).await? {
                MaybeHttpsStream::Http(tcp) => Box::pin(tcp.into_inner()),
                MaybeHttpsStream::Https(tls) => Box::pin(tls.into_inner()),
            });
        };
        if url.scheme() == "http" {
            return Ok(Box::pin(TokioIo::new(call(&self.https, proxy.uri().clone()).await?)));
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.https.clone());
        if let Some(credentials) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(credentials.clone());
        }
        let through = HttpsConnector::from((tunnel, self.tls.clone()));
        Ok(Box::pin(TokioIo::new(call(&through, to).await?)))
    }
}

async fn call<C>(connector: &C, to: http::Uri) -> Result<C::Response, BoxError>
where
    C: Service<http::Uri, Error = BoxError> + Clone,
{
    let mut connector = connector.clone();
    poll_fn(|cx| connector.poll_ready(cx)).await?;
    connector.call(to).await
}

/// Scheme, host and port.
fn uri(url: &Url) -> Result<http::Uri, http::uri::InvalidUri> {
    format!("{}://{}/", url.scheme(), &url[Position::BeforeHost..Position::AfterPort]).parse()
}

/// Resolves names, to addresses that the policy lets through where there is one.
#[derive(Clone)]
struct Resolver {
    policy: Option<Arc<PrivateUpstreams>>,
    lookup: Lookup,
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (policy, lookup, host) = (self.policy.clone(), self.lookup, name.as_str().to_owned());
        Box::pin(async move { Ok(addresses(policy.as_deref(), lookup, host).await?.into_iter()) })
    }
}
