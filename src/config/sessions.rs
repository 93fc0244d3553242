//! `SUPABASE_*`: settings of session verification.

use secrecy::{ExposeSecret, SecretString};

use super::reader::{ConfigError, Reader, wrong};
use crate::{
    auth::{self, PUBLISHED_JWT_SECRET, cookie, jwt::Policy},
    http_client::ssrf_guard,
};

impl Reader<'_> {
    pub(super) fn sessions(&self, host: &str) -> Result<auth::Settings, ConfigError> {
        let (name, url) = ["SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"]
            .into_iter()
            .find_map(|name| Some((name, self.text(name)?)))
            .unwrap_or(("SUPABASE_URL", "http://127.0.0.1:54321"));
        let supabase_url = self.http_url(name, url.trim_end_matches('/'))?;
        let public_supabase_url = match self.text("NEXT_PUBLIC_SUPABASE_URL") {
            Some(url) => self.http_url("NEXT_PUBLIC_SUPABASE_URL", url.trim_end_matches('/'))?,
            None => supabase_url.clone(),
        };
        let local =
            supabase_url.host_str().is_some_and(ssrf_guard::is_this_machine) && ssrf_guard::is_this_machine(host);
        let published_keys = match self.text("PUBLISHED_KEYS") {
            None => local,
            Some("allow") => true,
            Some("deny") => false,
            Some(_) => return Err(wrong("PUBLISHED_KEYS", "must be `allow` or `deny`")),
        };
        let jwt_secret = match self.text("SUPABASE_JWT_SECRET") {
            None => published_keys.then(|| SecretString::from(PUBLISHED_JWT_SECRET)),
            Some(secret) if auth::is_published(secret) && !published_keys => {
                return Err(wrong(
                    "SUPABASE_JWT_SECRET",
                    "is a secret that Supabase publishes, and HOST and SUPABASE_URL are not both on this machine: anyone could sign in as anyone. Set the project's own (dashboard, JWT keys), leave it unset if the project signs with ES256 or RS256, or set PUBLISHED_KEYS=allow if this is meant",
                ));
            }
            Some(secret) => Some(SecretString::from(secret)),
        };
        if let Some(secret) = &jwt_secret
            && secret.expose_secret().len() < 16
        {
            return Err(wrong("SUPABASE_JWT_SECRET", "must have at least 16 characters"));
        }
        let jwks_url = match self.text("SUPABASE_JWKS_URL") {
            Some(url) => self.http_url("SUPABASE_JWKS_URL", url)?,
            None => {
                let base = supabase_url.as_str().trim_end_matches('/');
                self.http_url(name, &format!("{base}/auth/v1/.well-known/jwks.json"))?
            }
        };
        let anon_key = self.text("SUPABASE_ANON_KEY").or_else(|| self.text("NEXT_PUBLIC_SUPABASE_ANON_KEY"));
        let anon_key = anon_key.map(str::to_owned);
        let cookie_name =
            self.text("SUPABASE_COOKIE_NAME").map_or_else(|| cookie::name_for(&supabase_url), str::to_owned);
        if cookie_name.contains(['=', ';', ',', ' ']) || !cookie_name.is_ascii() {
            return Err(wrong("SUPABASE_COOKIE_NAME", "must be a cookie's name, such as sb-127-auth-token"));
        }
        let list = |name| self.text(name).unwrap_or_default().split(',').map(str::trim);
        let policy = Policy {
            oauth_clients: list("OAUTH_CLIENTS").filter(|id| !id.is_empty()).map(str::to_owned).collect(),
            require_aal2: self.choice("REQUIRE_AAL2", "on", "off")?,
            deny_anonymous: self.choice("ANONYMOUS_USERS", "deny", "allow")?,
        };
        Ok(auth::Settings {
            supabase_url,
            public_supabase_url,
            cookie_name,
            jwt_secret,
            jwks_url,
            anon_key,
            published_keys,
            policy,
        })
    }
}
