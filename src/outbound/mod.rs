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

use crate::config::Config;
use guard::{GuardedResolver, Lookup, PrivateUpstreams, Refusal};

/// What this server calls itself.
const USER_AGENT: &str = concat!("chatbot-ui-api/", env!("CARGO_PKG_VERSION"));
/// How long a connection is kept that nobody uses: most servers close it after
/// a minute or more.
const MAX_IDLE: Duration = Duration::from_secs(55);

/// How often an answer may send the request elsewhere.
const MAX_REDIRECTS: usize = 5;

/// One worker's clients. Each worker has its own, because a connection is
/// driven by the thread that opened it: sharing them would make every chunk
/// wake two threads.
#[derive(Clone)]
pub struct Clients {
    /// For the providers that the configuration names.
    pub providers: http1::Client,
    /// For providers that users choose: every connection is checked.
    pub guarded_providers: http1::Client,
    /// For Supabase.
    pub trusted: reqwest::Client,
    /// For tools, whose addresses users choose: every connection is checked.
    pub guarded: reqwest::Client,
    /// For the front end, where there is one: its answers are passed on as
    /// they are.
    pub frontend: Option<reqwest::Client>,
    /// What [`Clients::guarded`] checks by; ask it before a request, since
    /// reqwest resolves no name where the URL holds an address.
    pub policy: Arc<PrivateUpstreams>,
}

impl Clients {
    /// Builds the clients. They time out on connecting and on silence, never
    /// on the length of an answer.
    ///
    /// # Errors
    /// Where reqwest cannot be set up.
    pub fn new(config: &Config, tls: &Arc<ClientConfig>, lookup: Lookup) -> reqwest::Result<Self> {
        let policy = Arc::new(config.private_upstreams.clone());
        let base = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(ClientConfig::clone(tls))
                .connect_timeout(config.provider_connect_timeout)
                .read_timeout(config.provider_idle_timeout)
                .pool_idle_timeout(MAX_IDLE)
                .user_agent(USER_AGENT)
        };
        let on_redirect = policy.clone();
        // A proxy is for what lies outside.
        let proxies = !config.base_urls.all_on_this_machine();
        let trusted = if proxies { base() } else { base().no_proxy() };
        let (connect_timeout, idle_timeout) = (config.provider_connect_timeout, config.provider_idle_timeout);
        let providers =
            |policy, lookup| http1::Client::new(tls.clone(), policy, lookup, proxies, connect_timeout, idle_timeout);
        Ok(Self {
            providers: providers(None, guard::system_lookup),
            guarded_providers: providers(Some(policy.clone()), lookup),
            trusted: trusted.redirect(same_host(|_| Ok(()))).build()?,
            guarded: base()
                // A proxy would resolve names in our place.
                .no_proxy()
                .dns_resolver(Arc::new(GuardedResolver { policy: policy.clone(), lookup }))
                .redirect(same_host(move |url| on_redirect.check_url(url)))
                .build()?,
            frontend: config.frontend_url.is_some().then(|| for_front_end(tls)).transpose()?,
            policy,
        })
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

fn for_front_end(tls: &ClientConfig) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .connect_timeout(Duration::from_secs(10))
        // Node closes an idle connection after five seconds.
        .pool_idle_timeout(Duration::from_secs(4))
        .http1_only()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .build()
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
