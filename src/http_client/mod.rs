//! The clients that ask others over HTTP: for the addresses that the
//! configuration names, and for those that users choose. Providers are asked
//! by a client of our own, as their answers are what this server passes on;
//! everybody else by reqwest.

pub mod guard;
pub mod http1;

use std::{error::Error as StdError, io, sync::Arc, time::Duration};

use hyper_rustls::ConfigBuilderExt;
use reqwest::redirect;
use rustls::ClientConfig;
use url::Url;

use guard::{GuardedResolver, Lookup, PrivateUpstreams, Refusal};

/// What this server calls itself.
const USER_AGENT: &str = concat!("chatbot-ui-api/", env!("CARGO_PKG_VERSION"));
/// How long a connection is kept that nobody uses: most servers close it after
/// a minute or more.
const MAX_IDLE: Duration = Duration::from_secs(55);

/// How often an answer may send the request elsewhere.
const MAX_REDIRECTS: usize = 5;

/// How outgoing connections are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `PRIVATE_UPSTREAMS`: whether URLs that users choose may lead to private
    /// addresses: `allow` (the default where `HOST` is loopback), `deny` (the
    /// default elsewhere), or a list of hosts and networks. Link-local and
    /// metadata addresses always need to be listed.
    pub private_upstreams: PrivateUpstreams,
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
    policy: Arc<PrivateUpstreams>,
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
    pub policy: Arc<PrivateUpstreams>,
}

impl ClientFactory {
    /// Reads the platform's certificates. `use_proxy` says whether the
    /// environment's proxies stand between this server and what it trusts.
    ///
    /// # Errors
    /// If there is no certificate store.
    pub fn new(settings: Settings, use_proxy: bool, lookup: Lookup) -> io::Result<Self> {
        let policy = Arc::new(settings.private_upstreams.clone());
        Ok(Self { settings, policy, tls: tls()?, lookup, use_proxy })
    }

    /// Builds a client for the providers that the configuration names.
    pub fn providers(&self) -> http1::Client {
        self.provider_client(None, guard::system_lookup)
    }

    /// Builds a client for providers that users choose.
    pub fn guarded_providers(&self) -> http1::Client {
        self.provider_client(Some(self.policy.clone()), self.lookup)
    }

    fn provider_client(&self, policy: Option<Arc<PrivateUpstreams>>, lookup: Lookup) -> http1::Client {
        let Settings { connect_timeout, idle_timeout, .. } = self.settings;
        http1::Client::new(self.tls.clone(), policy, lookup, self.use_proxy, connect_timeout, idle_timeout)
    }

    /// Builds a client for Supabase.
    ///
    /// # Errors
    /// If reqwest cannot be set up.
    pub fn trusted(&self) -> reqwest::Result<reqwest::Client> {
        let builder = if self.use_proxy { self.builder() } else { self.builder().no_proxy() };
        builder.redirect(same_host(|_| Ok(()))).build()
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
            .redirect(same_host(move |url| on_redirect.check_url(url)))
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
            .redirect(redirect::Policy::none())
            .build()
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(&self.tls))
            .connect_timeout(self.settings.connect_timeout)
            .read_timeout(self.settings.idle_timeout)
            .pool_idle_timeout(MAX_IDLE)
            .user_agent(USER_AGENT)
    }
}

/// TLS for all clients of all workers: certificates are looked at by the
/// platform's authorities, which are hundreds of files to read.
///
/// # Errors
/// Where there is no certificate store.
pub fn tls() -> io::Result<Arc<ClientConfig>> {
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(ConfigBuilderExt::try_with_platform_verifier)
        .map_err(io::Error::other)?
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

/// Follows redirects within one origin, and to the same host over TLS.
///
/// Differs: the original follows them anywhere. Keys travel in headers that
/// an HTTP client does not know to drop (`api-key`, `x-api-key`), and none of
/// them shall be carried to another host.
fn same_host(check: impl Fn(&Url) -> Result<(), Refusal> + Send + Sync + 'static) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        if let Err(refusal) = check(attempt.url()) {
            return attempt.error(refusal);
        }
        let stays = attempt.previous().last().is_some_and(|from| stays(from, attempt.url()));
        if stays && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
    })
}

fn stays(from: &Url, to: &Url) -> bool {
    let upgraded = from.scheme() == "http" && to.scheme() == "https" && to.port().is_none();
    from.host_str() == to.host_str() && (from.origin() == to.origin() || upgraded)
}

/// The guard's refusal inside a failure, if that is why it failed.
pub fn refusal<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Refusal> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal);
        }
        source = error.source();
    }
    None
}

/// What went wrong with a connection, without the URL, which may hold more
/// than it should.
pub fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut words = String::new();
    let mut source = Some(error);
    while let Some(error) = source {
        match error.downcast_ref::<reqwest::Error>() {
            Some(error) if error.is_timeout() => words.push_str("time out"),
            Some(_) => words.push_str("request failed"),
            None => words.push_str(&error.to_string()),
        }
        source = error.source();
        if source.is_some() {
            words.push_str(": ");
        }
    }
    words
}

/// Why a body could not be read whole.
pub enum ReadError {
    /// It has more bytes than allowed.
    TooLarge,
    /// The connection broke.
    Broken(reqwest::Error),
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// Where it has more, or breaks off.
pub async fn read(mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(ReadError::Broken(error)),
        }
        if body.len() > limit {
            return Err(ReadError::TooLarge);
        }
    }
}
