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
use uuid::Uuid;

use cookie::Session;
use jwks::KeySet;
use jwt::{ASYMMETRIC, Claims, Policy, TokenError, VerifyingKey};
use refresh::{Failure, Refresher};

/// The JWT secret that every local Supabase stack is published with. It protects nothing, so it is accepted only if
/// [`Settings::published_keys`] allows it.
pub const PUBLISHED_JWT_SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";
/// The example secret of Supabase's guide to self-hosting.
pub const EXAMPLE_JWT_SECRET: &str = "your-super-secret-jwt-token-with-at-least-32-characters-long";
/// The id of the ES256 key that `supabase start` signs with; its private half is published with the command line tool.
pub const PUBLISHED_KEY_ID: &str = "b81269f1-21d8-4f2e-b719-c2240a840d90";

/// Tells if a secret is published.
pub fn is_published(secret: &str) -> bool {
    [PUBLISHED_JWT_SECRET, EXAMPLE_JWT_SECRET].contains(&secret)
}

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
    /// Published keys may sign sessions: if `HOST` is loopback and `SUPABASE_URL` on this machine, or
    /// `PUBLISHED_KEYS=allow`.
    pub published_keys: bool,
    /// `OAUTH_CLIENTS`, `REQUIRE_AAL2`, `ANONYMOUS_USERS`.
    pub policy: Policy,
}

/// The credentials of a request.
pub enum Credentials {
    /// Supabase's cookie, whose session may be refreshed.
    Cookie(Session),
    /// A bearer token. Never refreshed: the client has the refresh token.
    Bearer(String),
}

impl Credentials {
    /// Returns the access token.
    pub fn access_token(&self) -> &str {
        match self {
            Self::Cookie(session) => &session.access_token,
            Self::Bearer(token) => token,
        }
    }
}

/// Verifies sessions with the shared secret or the project's public keys.
pub struct Authenticator {
    /// Client for Supabase's auth server.
    http: reqwest::Client,
    cookie_name: String,
    secret: Option<Arc<VerifyingKey>>,
    /// Tells if `secret` is published.
    secret_is_published: bool,
    keys: Arc<KeySet>,
    refresher: Option<Refresher>,
    policy: Policy,
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
            secret_is_published: settings
                .jwt_secret
                .as_ref()
                .is_some_and(|secret| is_published(secret.expose_secret())),
            keys: Arc::new(KeySet::new(settings.jwks_url.clone(), settings.anon_key.clone(), settings.published_keys)),
            policy: settings.policy.clone(),
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

    /// Refreshes a cookie's session whose access token has expired: returns verified claims, and the `Set-Cookie`
    /// values of the new session.
    ///
    /// # Errors
    /// If the cookie cannot be refreshed, the auth server is unavailable, or the new session is not `user`'s.
    pub async fn refresh(&self, session: &Session, user: Uuid) -> Result<(Claims, Vec<String>), TokenError> {
        let refused = |reason: &str| TokenError::Invalid(format!("the access token has expired and {reason}"));
        let refresher = self.refresher.as_ref().filter(|_| !session.refresh_token.is_empty());
        let refresher = refresher.ok_or_else(|| refused("cannot be refreshed"))?;
        let new =
            refresher.refresh(&self.http, user, &session.refresh_token).await.map_err(|failure| match failure {
                Failure::Refused => refused("was not refreshed"),
                Failure::Unavailable => TokenError::Unavailable(
                    "the access token has expired, and the auth server cannot refresh it now".to_owned(),
                ),
            })?;
        let claims = self.verify(new["access_token"].as_str().unwrap_or_default()).await?;
        if claims.user != user {
            return Err(refused("its refresh token is another user's"));
        }
        Ok((claims, session.set_cookies(&self.cookie_name, &new)))
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
            if self.secret_is_published && self.keys.has_private_keys(&self.http).await {
                return Err(TokenError::Invalid(
                    "the access token is signed with the secret that everybody knows, and the project has keys of its own"
                        .to_owned(),
                ));
            }
            self.secret.clone().ok_or_else(|| {
                TokenError::Invalid(
                    "the access token is signed with HS256, and SUPABASE_JWT_SECRET is not set".to_owned(),
                )
            })?
        } else if ASYMMETRIC.contains(&header.alg) && !id.is_empty() {
            self.keys.find(&self.http, id).await.ok_or_else(|| {
                if self.keys.is_unavailable() {
                    return TokenError::Unavailable("the project's key set cannot be read".to_owned());
                }
                TokenError::Invalid(
                    "the access token is signed with a key that the project's key set does not have".to_owned(),
                )
            })?
        } else {
            return Err(TokenError::Invalid("the access token's signature algorithm is not supported".to_owned()));
        };
        key.verify(token, &self.policy)
    }
}
