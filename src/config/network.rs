//! Network settings: the rate limit, the front end, CORS.

use std::num::NonZeroU32;

use url::Url;

use super::reader::{ConfigError, Reader, wrong};
use crate::{
    http_client::ssrf_guard,
    rate_limit::{self, shared::Redis},
};

impl Reader<'_> {
    pub(super) fn rate_limit(&self) -> Result<rate_limit::Settings, ConfigError> {
        let redis = self.text("REDIS_URL").map(|url| {
            // The parser's own message may quote the password.
            Redis::parse(url).ok_or_else(|| {
                wrong("REDIS_URL", "must look like redis://user:password@host:6379/0, or rediss:// for TLS (a password with special characters is percent-encoded)")
            })
        });
        let rate = self.text("RATE_LIMIT_PER_MINUTE").map(|_| self.count("RATE_LIMIT_PER_MINUTE", 0));
        Ok(rate_limit::Settings {
            max_streams_per_user: self.count("MAX_STREAMS_PER_USER", 32)?,
            rate_per_minute: rate.transpose()?.and_then(NonZeroU32::new),
            redis: redis.transpose()?,
        })
    }

    pub(super) fn frontend_url(&self, host: &str, port: u16) -> Result<Option<Url>, ConfigError> {
        const NAME: &str = "FRONTEND_URL";
        let Some(text) = self.text(NAME) else { return Ok(None) };
        let url = self.http_url(NAME, text)?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(NAME, "must be a scheme, a host and a port only, such as http://localhost:3000"));
        }
        let to = url.host_str().unwrap_or_default();
        let same_host = ssrf_guard::is_this_machine(to) || to.trim_matches(['[', ']']) == host.trim_matches(['[', ']']);
        if same_host && url.port_or_known_default() == Some(port) {
            return Err(wrong(
                NAME,
                "is this server's own address. It must be the Next.js app's; run one of them on another port",
            ));
        }
        Ok(Some(url))
    }

    pub(super) fn cors_origins(&self) -> Result<Vec<String>, ConfigError> {
        const NAME: &str = "CORS_ORIGINS";
        let origins = self.text(NAME).unwrap_or_default().split([',', ' ']).filter(|origin| !origin.is_empty());
        let origin = |text: &str| {
            if text == "*" {
                return Err(wrong(
                    NAME,
                    "cannot be `*`: any site could then act with the sessions of its visitors. List the origins of your front ends",
                ));
            }
            let origin = self.http_url(NAME, text).ok().map(|url| url.origin().ascii_serialization());
            origin.filter(|origin| origin.eq_ignore_ascii_case(text)).ok_or_else(|| {
                wrong(
                    NAME,
                    "must be a list of origins such as https://chat.example.com (scheme, host and, unless it is the default, port; no slash at the end), separated by commas",
                )
            })
        };
        origins.map(origin).collect()
    }
}
