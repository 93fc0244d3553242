//! Authentication: cookie or bearer → token → verified claims, without HTTP types and without the database.
//!
//! The token's signature, times and claims are verified here; the SQL statement that reads the profile checks that the
//! user exists and is not banned and that the session was not signed out. Requests to Supabase itself are made only for
//! its key set, and for a new session once a token has expired.

pub mod cookie;
pub mod jwks;
pub mod jwt;
pub mod refresh;

use std::{sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use cookie::Session;
use jwks::KeySet;
use jwt::{ASYMMETRIC, Claims, TokenError, VerifyingKey};
use refresh::Refresher;

/// The JWT secret that every local Supabase stack is published with. It protects nothing, so it is only accepted if the
/// Supabase URL is on this machine.
pub const PUBLISHED_JWT_SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";

/// Settings of session verification.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `SUPABASE_URL`, else `NEXT_PUBLIC_SUPABASE_URL`, default `http://127.0.0.1:54321`.
    pub supabase_url: Url,
    /// `SUPABASE_COOKIE_NAME`, default derived from the URL: for a server that reaches Supabase under another host name
    /// than the browsers.
    pub cookie_name: String,
    /// `NEXT_PUBLIC_SUPABASE_URL`, default [`Self::supabase_url`]: the URL under which browsers reach the project, for
    /// the playground's page.
    pub public_supabase_url: Url,
    /// `SUPABASE_JWT_SECRET`: for tokens signed with HS256. Defaults to the local stack's published secret if the URL
    /// is on this machine; that secret is refused anywhere else.
    pub jwt_secret: Option<SecretString>,
    /// `SUPABASE_JWKS_URL`, default `<SUPABASE_URL>/auth/v1/.well-known/jwks.json`: for tokens signed with ES256, RS256
    /// or EdDSA.
    pub jwks_url: Url,
    /// `SUPABASE_ANON_KEY`, else `NEXT_PUBLIC_SUPABASE_ANON_KEY`: for refreshing a session whose access token has
    /// expired; without it such a session is refused. Public by design, so `Debug` may show it.
    pub anon_key: Option<String>,
}

/// The credentials of a request.
pub enum Credentials {
    /// Supabase's cookie, whose session may be refreshed.
    Cookie(Session),
    /// A bearer token. Never refreshed: the client has the refresh token.
    Bearer(String),
}

/// A verified token.
pub struct Authenticated {
    /// Its claims.
    pub claims: Claims,
    /// `Set-Cookie` values if the session was refreshed.
    pub refreshed: Option<Vec<String>>,
}

/// Verifies sessions with the shared secret or the project's public keys.
pub struct Authenticator {
    /// Client for Supabase's auth server.
    http: reqwest::Client,
    cookie_name: String,
    secret: Option<Arc<VerifyingKey>>,
    keys: Arc<KeySet>,
    refresher: Option<Refresher>,
}

impl Authenticator {
    /// Sets up verification; opens no connection.
    pub fn new(settings: &Settings, http: reqwest::Client) -> Self {
        Self {
            http,
            cookie_name: settings.cookie_name.clone(),
            secret: settings
                .jwt_secret
                .as_ref()
                .map(|secret| Arc::new(VerifyingKey::hs256(secret.expose_secret().as_bytes()))),
            keys: Arc::new(KeySet::new(settings.jwks_url.clone())),
            refresher: settings.anon_key.as_ref().and_then(|key| Refresher::new(&settings.supabase_url, key.clone())),
        }
    }

    /// Time since the project's key set was fetched.
    pub fn key_set_age(&self) -> Option<Duration> {
        self.keys.age()
    }

    /// Finds a session in `Cookie` headers, else in `Authorization`. The cookie goes first because a proxy in front may
    /// add its own `Authorization` to every request, which the original never reads.
    pub fn credentials<'a>(
        &self,
        cookies: impl Iterator<Item = &'a str>,
        authorization: Option<&str>,
    ) -> Option<Credentials> {
        if let Some(session) = cookie::session(&self.cookie_name, cookies) {
            return Some(Credentials::Cookie(session));
        }
        let (scheme, token) = authorization?.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Credentials::Bearer(token.to_owned()))
    }

    /// Verifies a session; a cookie's session whose token has expired is refreshed.
    ///
    /// # Errors
    /// If the token is refused: the reason.
    pub async fn authenticate(&self, credentials: Credentials) -> Result<Authenticated, TokenError> {
        let session = match credentials {
            Credentials::Bearer(token) => {
                return Ok(Authenticated { claims: self.verify(&token).await?, refreshed: None });
            }
            Credentials::Cookie(session) => session,
        };
        match (self.verify(&session.access_token).await, &self.refresher) {
            (Err(TokenError::Expired), Some(refresher)) if !session.refresh_token.is_empty() => {
                let new = refresher.refresh(&self.http, &session.refresh_token).await.ok_or_else(|| {
                    TokenError::Invalid("the access token has expired and was not refreshed".to_owned())
                })?;
                let claims = self.verify(new["access_token"].as_str().unwrap_or_default()).await?;
                Ok(Authenticated { claims, refreshed: Some(session.set_cookies(&self.cookie_name, &new)) })
            }
            (claims, _) => Ok(Authenticated { claims: claims?, refreshed: None }),
        }
    }

    /// Verifies an access token.
    ///
    /// # Errors
    /// If the token is refused: the reason.
    pub async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let header = jwt::header(token)?;
        let id = header.kid.as_deref().unwrap_or_default();
        // The same choice as in Supabase's own server: the key that the id names; for HS256 without such a key, the
        // secret.
        let key = if let Some(key) = self.keys.known(&self.http, id) {
            key
        } else if header.alg == Algorithm::HS256 {
            self.secret.clone().ok_or_else(|| {
                TokenError::Invalid(
                    "the access token is signed with HS256, and SUPABASE_JWT_SECRET is not set".to_owned(),
                )
            })?
        } else if ASYMMETRIC.contains(&header.alg) && !id.is_empty() {
            self.keys.find(&self.http, id).await.ok_or_else(|| {
                TokenError::Invalid(
                    "the access token is signed with a key that the project's key set does not have".to_owned(),
                )
            })?
        } else {
            return Err(TokenError::Invalid("the access token's signature algorithm is not supported".to_owned()));
        };
        key.verify(token)
    }
}
