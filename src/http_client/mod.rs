//! Outgoing HTTP clients, for URLs from the configuration and for URLs that
//! users choose. The client for providers is our own ([`http1`]), as their
//! responses are what this server relays; all others are reqwest's.

mod defaults;
mod error;
pub mod http1;
mod redirect;
pub mod ssrf_guard;

use std::{io, sync::Arc, time::Duration};

use hyper_rustls::ConfigBuilderExt;
use rustls::ClientConfig;

use defaults::{POOL_IDLE_TIMEOUT, USER_AGENT};
pub use error::{causes, refusal};
use ssrf_guard::{GuardedResolver, Lookup, UpstreamPolicy};

use crate::{allowance::Charge, error::Error};

/// Settings of outgoing connections.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `PRIVATE_UPSTREAMS`: whether URLs that users choose may lead to private
    /// addresses: `allow` (the default where `HOST` is loopback), `deny` (the
    /// default elsewhere), or a list of hosts and networks. Link-local and
    /// metadata addresses always need to be listed.
    pub private_upstreams: UpstreamPolicy,
    /// `PROVIDER_CONNECT_TIMEOUT`, in seconds, default 10: for a connection
    /// to a provider, TLS included.
    pub connect_timeout: Duration,
    /// `PROVIDER_IDLE_TIMEOUT`, in seconds, default 300: how long a provider
    /// may be silent, before its first byte and between two.
    pub idle_timeout: Duration,
}

/// Makes clients. Each worker gets its own for what is streamed, because a
/// connection is driven by the thread that opened it: a shared one would make
/// every chunk wake two threads. They time out on connecting and on silence,
/// never on the length of an answer.
#[derive(Clone)]
pub struct ClientFactory {
    settings: Settings,
    policy: Arc<UpstreamPolicy>,
    tls: Arc<ClientConfig>,
    lookup: Lookup,
    use_proxy: bool,
}

/// A client for addresses that users choose: every connection is checked.
#[derive(Clone)]
pub struct GuardedClient {
    /// The client.
    pub client: reqwest::Client,
    /// The policy that its connections are checked by. Check a URL with it
    /// before a request, since reqwest resolves no name if the URL holds an
    /// address.
    pub policy: Arc<UpstreamPolicy>,
}

impl ClientFactory {
    /// Reads the platform's certificates. `use_proxy` says whether the
    /// environment's proxies stand between this server and what it trusts.
    ///
    /// # Errors
    /// If there is no certificate store.
    pub fn new(settings: Settings, use_proxy: bool, lookup: Lookup) -> io::Result<Self> {
        let policy = Arc::new(settings.private_upstreams.clone());
        let tls = tls()?;
        draw_ahead(&tls);
        Ok(Self { settings, policy, tls, lookup, use_proxy })
    }

    /// Builds a client for the providers that the configuration names.
    pub fn providers(&self) -> http1::Client {
        self.provider_client(None, ssrf_guard::system_lookup)
    }

    /// Builds a client for providers that users choose.
    pub fn guarded_providers(&self) -> http1::Client {
        self.provider_client(Some(self.policy.clone()), self.lookup)
    }

    fn provider_client(&self, policy: Option<Arc<UpstreamPolicy>>, lookup: Lookup) -> http1::Client {
        let Settings { connect_timeout, idle_timeout, .. } = self.settings;
        http1::Client::new(self.tls.clone(), policy, lookup, self.use_proxy, connect_timeout, idle_timeout)
    }

    /// Builds a client for Supabase.
    ///
    /// # Errors
    /// If reqwest cannot be set up.
    pub fn trusted(&self) -> reqwest::Result<reqwest::Client> {
        let builder = if self.use_proxy { self.builder() } else { self.builder().no_proxy() };
        builder.redirect(redirect::policy(|_| Ok(()))).build()
    }

    /// Builds a client for tools, whose addresses users choose.
    ///
    /// # Errors
    /// If reqwest cannot be set up.
    pub fn guarded(&self) -> reqwest::Result<GuardedClient> {
        let (policy, on_redirect) = (self.policy.clone(), self.policy.clone());
        let client = self
            .builder()
            // A proxy would resolve names in our place.
            .no_proxy()
            .dns_resolver(Arc::new(GuardedResolver { policy: policy.clone(), lookup: self.lookup }))
            .redirect(redirect::policy(move |url| on_redirect.check_url(url)))
            .build()?;
        Ok(GuardedClient { client, policy })
    }

    /// Builds a client for the front end, whose answers are passed on as they
    /// are.
    ///
    /// # Errors
    /// If reqwest cannot be set up.
    pub fn front_end(&self) -> reqwest::Result<reqwest::Client> {
        reqwest::Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(&self.tls))
            .connect_timeout(Duration::from_secs(10))
            // Node closes an idle connection after five seconds.
            .pool_idle_timeout(Duration::from_secs(4))
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(&self.tls))
            .connect_timeout(self.settings.connect_timeout)
            .read_timeout(self.settings.idle_timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .user_agent(USER_AGENT)
    }
}

/// Draws a random number, aside: for the first one in a process AWS-LC gathers entropy for a tenth of a second and
/// more, for which the first handshake would have to wait.
fn draw_ahead(tls: &ClientConfig) {
    let random = tls.crypto_provider().secure_random;
    // Without the thread it only comes later.
    let _ = std::thread::Builder::new().spawn(move || drop(random.fill(&mut [0])));
}

/// Configures TLS for all clients of all workers, as the platform's
/// certificate store is hundreds of files. They share its cache of sessions,
/// so that later handshakes resume one.
///
/// # Errors
/// If there is no certificate store.
pub fn tls() -> io::Result<Arc<ClientConfig>> {
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(ConfigBuilderExt::try_with_platform_verifier)
        .map_err(io::Error::other)?
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

/// The reason why a body was not read to its end.
pub enum ReadError {
    /// The body is longer than the limit.
    TooLarge,
    /// The connection failed.
    Broken(reqwest::Error),
    /// The user's or the server's allowance of bytes is used up.
    Unaffordable(Error),
}

/// Reads a body of at most `limit` bytes, and charges them if there is something to charge them to.
///
/// # Errors
/// If the body is longer, breaks off or is refused by the allowance.
pub async fn read(
    mut response: reqwest::Response,
    limit: usize,
    mut charge: Option<&mut Charge>,
) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                if let Some(charge) = &mut charge {
                    charge.grow(chunk.len()).map_err(ReadError::Unaffordable)?;
                }
                body.extend_from_slice(&chunk);
            }
            Ok(None) => return Ok(body),
            Err(error) => return Err(ReadError::Broken(error)),
        }
        if body.len() > limit {
            return Err(ReadError::TooLarge);
        }
    }
}
