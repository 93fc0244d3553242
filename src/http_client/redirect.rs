//! The redirects that clients follow: within one origin, and to the same host
//! over TLS.
//!
//! Differs: the original follows them anywhere. Keys travel in headers that an
//! HTTP client does not know to drop (`api-key`, `x-api-key`), and none of them
//! may reach another host.

use reqwest::redirect::Policy;
use url::Url;

use super::ssrf_guard::Refusal;

/// The most redirects that are followed for one request.
pub const MAX_REDIRECTS: usize = 5;

/// The redirect policy for reqwest, with a check of each URL.
pub fn policy(check: impl Fn(&Url) -> Result<(), Refusal> + Send + Sync + 'static) -> Policy {
    Policy::custom(move |attempt| {
        if let Err(refusal) = check(attempt.url()) {
            return attempt.error(refusal);
        }
        let is_allowed = attempt.previous().last().is_some_and(|from| is_allowed(from, attempt.url()));
        if is_allowed && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
    })
}

/// Returns whether a redirect stays at its host and does not give up TLS.
pub fn is_allowed(from: &Url, to: &Url) -> bool {
    let is_upgrade = from.scheme() == "http" && to.scheme() == "https" && to.port().is_none();
    from.host_str() == to.host_str() && (from.origin() == to.origin() || is_upgrade)
}
