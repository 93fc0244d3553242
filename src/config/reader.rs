//! Readers for one variable each: text, numbers, seconds, URLs.

use std::{str::FromStr, time::Duration};

use url::Url;

use super::Variables;

/// An invalid setting: its variable, and what would be valid. Never holds the value, which may be a secret.
#[derive(Debug, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct ConfigError {
    variable: &'static str,
    problem: String,
}

impl ConfigError {
    /// The variable's name.
    pub fn variable(&self) -> &'static str {
        self.variable
    }
}

pub(super) fn wrong(variable: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError { variable, problem: problem.into() }
}

/// Reads settings from variables.
pub(super) struct Reader<'a>(pub(super) &'a Variables);

impl Reader<'_> {
    /// Returns a variable without trimming; an empty one counts as unset.
    pub(super) fn untrimmed(&self, name: &'static str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn text(&self, name: &'static str) -> Option<&str> {
        self.untrimmed(name).map(str::trim).filter(|value| !value.is_empty())
    }

    pub(super) fn number<N: FromStr>(&self, name: &'static str, default: N) -> Result<N, ConfigError> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| {
                let most = match name {
                    "PORT" => " from 0 to 65535",
                    _ => "",
                };
                wrong(name, format!("must be a whole number{most}"))
            }),
        }
    }

    pub(super) fn seconds(&self, name: &'static str, default: u64) -> Result<Duration, ConfigError> {
        match self.number(name, default)? {
            // At most a day: no client or provider waits longer, and socket options have a maximum.
            seconds @ 1..=86_400 => Ok(Duration::from_secs(seconds)),
            _ => Err(wrong(name, "must be seconds, from 1 to 86400")),
        }
    }

    /// As [`Reader::seconds`], with 0 for none.
    pub(super) fn seconds_or_none(&self, name: &'static str, default: u64) -> Result<Option<Duration>, ConfigError> {
        match self.number(name, default)? {
            0 => Ok(None),
            seconds @ 1..=86_400 => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(wrong(name, "must be seconds, from 1 to 86400, or 0 for none")),
        }
    }

    pub(super) fn switch(&self, name: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.text(name) {
            None => Ok(default),
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            Some(_) => Err(wrong(name, "must be `on` or `off`")),
        }
    }

    pub(super) fn host_and_port(&self, name: &'static str) -> Result<Option<(String, u16)>, ConfigError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let parts = text.rsplit_once(':').and_then(|(host, port)| {
            // An IPv6 address consists of colons, so it needs brackets.
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let host = bare.unwrap_or(host);
            let right = !host.is_empty() && (bare.is_some() || !host.contains(':'));
            Some((host.to_owned(), port.parse().ok().filter(|_| right)?))
        });
        parts.map(Some).ok_or_else(|| wrong(name, "must be HOST:PORT, such as 127.0.0.1:9090 or [::1]:9090"))
    }

    pub(super) fn http_url(&self, name: &'static str, text: &str) -> Result<Url, ConfigError> {
        let url = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| wrong(name, "must be a URL that begins with http:// or https://"))?;
        // Such a URL appears in log lines, and in errors that users see.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(name, "must be a URL without a user name or password in it"));
        }
        Ok(url)
    }

    pub(super) fn base_url(&self, name: &'static str, default: &str) -> Result<String, ConfigError> {
        let text = self.text(name).unwrap_or(default);
        let url = self.http_url(name, text)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(name, "must be a URL without `?` or `#`: paths are added to its end"));
        }
        Ok(text.trim_end_matches('/').to_owned())
    }

    /// Reads a variable that is `yes` (true) or `no` (false, the default).
    pub(super) fn choice(&self, name: &'static str, yes: &str, no: &str) -> Result<bool, ConfigError> {
        match self.text(name) {
            None => Ok(false),
            Some(text) if text == no => Ok(false),
            Some(text) if text == yes => Ok(true),
            Some(_) => Err(wrong(name, format!("must be `{yes}` or `{no}`"))),
        }
    }

    /// Reads a size in bytes, at least 1.
    pub(super) fn bytes(&self, name: &'static str, default: usize) -> Result<usize, ConfigError> {
        match self.number(name, default)? {
            0 => Err(wrong(name, "must be a number of bytes, at least 1")),
            bytes => Ok(bytes),
        }
    }

    /// Reads a number from 1 to a million.
    pub(super) fn count(&self, name: &'static str, default: u32) -> Result<u32, ConfigError> {
        match self.number(name, default) {
            Ok(count @ 1..=1_000_000) => Ok(count),
            _ => Err(wrong(name, "must be a whole number from 1 to 1000000")),
        }
    }
}
