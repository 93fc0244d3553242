//! The clients that ask others over HTTP: one for the addresses that the
//! configuration names, one for those that users choose.

pub mod guard;

use std::{error::Error as StdError, sync::Arc, time::Duration};

use reqwest::redirect;
use url::Url;

use crate::config::Config;
use guard::{GuardedResolver, Lookup, PrivateUpstreams, Refusal};

/// One worker's clients. Each worker has its own, because a connection is
/// driven by the thread that opened it: sharing them would make every chunk
/// wake two threads.
#[derive(Debug, Clone)]
pub struct Clients {
    /// For addresses that the configuration names.
    pub trusted: reqwest::Client,
    /// For addresses that users choose: every connection is checked.
    pub guarded: reqwest::Client,
    /// For the front end, where there is one: its answers are passed on as
    /// they are.
    pub frontend: Option<reqwest::Client>,
    /// What the guarded client checks by; ask it before a request, since
    /// reqwest resolves no name where the URL holds an address.
    pub policy: Arc<PrivateUpstreams>,
}

impl Clients {
    /// Builds the clients. They time out on connecting and on silence, never
    /// on the length of an answer.
    ///
    /// # Errors
    /// Where TLS cannot be set up (no certificate store).
    pub fn new(config: &Config, lookup: Lookup) -> reqwest::Result<Self> {
        let policy = Arc::new(config.private_upstreams.clone());
        let base = || {
            reqwest::Client::builder()
                .connect_timeout(config.provider_connect_timeout)
                .read_timeout(config.provider_idle_timeout)
                // Providers close idle connections after a minute or more.
                .pool_idle_timeout(Duration::from_secs(55))
                .user_agent(concat!("chatbot-ui-api/", env!("CARGO_PKG_VERSION")))
        };
        let on_redirect = policy.clone();
        // A proxy is for what lies outside.
        let trusted = if config.base_urls.all_on_this_machine() { base().no_proxy() } else { base() };
        Ok(Self {
            trusted: trusted.redirect(same_host(|_| Ok(()))).build()?,
            guarded: base()
                // A proxy would resolve names in our place.
                .no_proxy()
                .dns_resolver(Arc::new(GuardedResolver { policy: policy.clone(), lookup }))
                .redirect(same_host(move |url| on_redirect.check_url(url)))
                .build()?,
            frontend: config.frontend_url.is_some().then(for_front_end).transpose()?,
            policy,
        })
    }
}

fn for_front_end() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
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
        let to = attempt.url();
        let stays = attempt.previous().last().is_some_and(|from| {
            let upgraded = from.scheme() == "http" && to.scheme() == "https" && to.port().is_none();
            from.host_str() == to.host_str() && (from.origin() == to.origin() || upgraded)
        });
        if stays && attempt.previous().len() <= 5 { attempt.follow() } else { attempt.stop() }
    })
}

/// The guard's refusal inside a failed request, if that is why it failed.
pub fn refusal(error: &reqwest::Error) -> Option<&Refusal> {
    let mut source: Option<&(dyn StdError + 'static)> = error.source();
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
pub fn causes(error: &reqwest::Error) -> String {
    let mut words = String::new();
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
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

/// Why a body could not be read whole, with what was. Without `Debug`, as that
/// may be an answer.
pub enum ReadError {
    /// It has more bytes than allowed.
    TooLarge(Vec<u8>),
    /// The connection broke.
    Broken(Vec<u8>, reqwest::Error),
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// With the first `limit` bytes, or as many as came.
pub async fn read(mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(ReadError::Broken(body, error)),
        }
        if body.len() > limit {
            body.truncate(limit);
            return Err(ReadError::TooLarge(body));
        }
    }
}
