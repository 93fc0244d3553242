//! Access to a provider: its address and credentials, and what they are in a call.

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::request::Extras;
use crate::error::Error;

/// Address and credentials for calling a provider.
#[derive(Clone)]
pub struct Access {
    /// The base URL.
    pub base_url: String,
    /// May be empty.
    pub key: SecretString,
    /// The user's OpenAI organization.
    pub organization: Option<SecretString>,
    /// Optional parameters.
    pub extras: Extras,
}

/// Joins a base URL, with or without a slash at its end, and a path.
///
/// # Errors
/// The original's words, where the result is no URL.
pub fn endpoint(base_url: &str, path: &str) -> Result<Url, Error> {
    let base = base_url.trim();
    let base = base.strip_suffix('/').unwrap_or(base);
    Url::parse(&format!("{base}{path}")).map_err(|_| Error::Provider { status: 500, message: "Invalid URL".to_owned() })
}

/// A key as a header's value. Keys are pasted with what stood around them, so
/// white space at the ends goes; within, a key is wrong.
pub(super) fn secret_header(provider: &str, scheme: &str, secret: &SecretString) -> Result<HeaderValue, Error> {
    let secret = secret.expose_secret().trim();
    let value = HeaderValue::from_str(&format!("{scheme}{secret}")).ok().filter(|_| secret.is_ascii());
    let mut value = value.ok_or_else(|| Error::Provider { status: 401, message: key_is_incorrect(provider) })?;
    value.set_sensitive(true);
    Ok(value)
}

pub(super) fn key_is_incorrect(provider: &str) -> String {
    format!("{provider} API Key is incorrect. Please fix it in your profile settings.")
}
