//! Connecting: names are resolved through the SSRF guard; TCP, TLS and proxies
//! are hyper-util's and hyper-rustls'.

use std::{
    error::Error as StdError,
    future::poll_fn,
    net::SocketAddr,
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
use tower_service::Service;
use url::{Position, Url};

use super::{error::Error, socket::Socket};
use crate::http_client::ssrf_guard::{Lookup, UpstreamPolicy, addresses};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Opens connections.
pub struct Connector {
    policy: Option<Arc<UpstreamPolicy>>,
    lookup: Lookup,
    timeout: Duration,
    tls: Arc<ClientConfig>,
    proxies: Option<Matcher>,
}

/// A proxy of the environment (`HTTPS_PROXY` and the like).
pub struct Proxy(Intercept);

impl Proxy {
    /// The `Proxy-Authorization` value, if the proxy's URL has credentials.
    pub fn basic_auth(&self) -> Option<&HeaderValue> {
        self.0.basic_auth()
    }
}

impl Connector {
    /// A connector that heeds the environment's proxies if `proxies` is set. TLS
    /// sessions are resumed, as all connectors share the cache of `tls`.
    pub fn new(
        tls: Arc<ClientConfig>,
        policy: Option<Arc<UpstreamPolicy>>,
        lookup: Lookup,
        proxies: bool,
        timeout: Duration,
    ) -> Self {
        Self { policy, lookup, timeout, tls, proxies: proxies.then(Matcher::from_env) }
    }

    /// A connector for one port, which the policy may depend on.
    fn https(&self, port: Option<u16>) -> HttpsConnector<HttpConnector<Resolver>> {
        let resolver = Resolver { policy: self.policy.clone(), lookup: self.lookup, port };
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        // Divided among a name's addresses, so that an unreachable one leaves
        // time for the next.
        tcp.set_connect_timeout(Some(self.timeout));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // A provider that vanishes is noticed before the idle timeout.
        tcp.set_keepalive(Some(Duration::from_secs(15)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(15)));
        tcp.set_keepalive_retries(Some(3));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(Duration::from_secs(30)));
        (tcp, self.tls.clone()).into()
    }

    /// The proxy for a URL, if there is one.
    ///
    /// # Errors
    /// If the proxy's scheme is neither http nor https.
    pub fn proxy(&self, url: &Url) -> Result<Option<Proxy>, Error> {
        let Some(matcher) = &self.proxies else {
            return Ok(None);
        };
        let proxy = matcher.intercept(&uri(url).map_err(|_| Error::Connect("the URL has no valid host".to_owned()))?);
        match proxy.as_ref().and_then(|proxy| proxy.uri().scheme_str()) {
            None | Some("http" | "https") => Ok(proxy.map(Proxy)),
            Some(scheme) => Err(Error::Connect(format!("proxies of the scheme {scheme} are not supported"))),
        }
    }

    /// Connects, with a TLS handshake if the URL is `https`.
    ///
    /// # Errors
    /// If there is no connection; a refusal of the SSRF guard is among the
    /// error's sources.
    pub async fn connect(&self, url: &Url, proxy: Option<&Proxy>) -> Result<Socket, BoxError> {
        let to = uri(url)?;
        let https = self.https(url.port_or_known_default());
        let Some(Proxy(proxy)) = proxy else {
            return Ok(match call(&https, to).await? {
                MaybeHttpsStream::Http(tcp) => Box::pin(tcp.into_inner()),
                MaybeHttpsStream::Https(tls) => Box::pin(tls.into_inner()),
            });
        };
        if url.scheme() == "http" {
            return Ok(Box::pin(TokioIo::new(call(&https, proxy.uri().clone()).await?)));
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), https);
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

/// A URI of scheme, host and port.
fn uri(url: &Url) -> Result<http::Uri, http::uri::InvalidUri> {
    format!("{}://{}/", url.scheme(), &url[Position::BeforeHost..Position::AfterPort]).parse()
}

/// Resolves names to the addresses that the policy, if there is one, allows.
#[derive(Clone)]
struct Resolver {
    policy: Option<Arc<UpstreamPolicy>>,
    lookup: Lookup,
    port: Option<u16>,
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (policy, lookup, port) = (self.policy.clone(), self.lookup, self.port);
        let host = name.as_str().to_owned();
        Box::pin(async move { Ok(addresses(policy.as_deref(), lookup, host, port).await?.into_iter()) })
    }
}
