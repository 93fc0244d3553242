//! Who asks: cookie or bearer → token → verified user. A handler that takes
//! [`User`] has one; a handler that does not gets at no profile and no key.
//!
//! The token's signature, times and claims are checked here; that the user
//! exists and is not banned, and that the session was not signed out, stands
//! in the same SQL statement that reads the profile. Supabase itself is asked
//! over HTTP for its key set, and for a new session where a token has run out.

pub mod cookie;
pub mod keyset;
pub mod refresh;
pub mod token;

use std::{sync::Arc, time::Duration};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, HeaderValue, SET_COOKIE},
    middleware::Next,
    web::Data,
};
use futures::future::LocalBoxFuture;
use jsonwebtoken::Algorithm;
use secrecy::ExposeSecret;
use uuid::Uuid;

use crate::{
    app::State,
    config::Sessions,
    db::accounts::{self, Profile},
    error::Error,
    outbound::Clients,
    telemetry::RequestLog,
};
use cookie::Session;
use keyset::KeySet;
use refresh::Refresher;
use token::{ASYMMETRIC, Claims, TokenError, VerifyingKey};

/// A signed-in user, as the session says and the database confirms.
#[derive(Debug)]
pub struct User {
    /// `auth.users.id`.
    pub id: Uuid,
    profile: Option<Box<Profile>>,
}

impl User {
    /// The user's row of `profiles`, with the environment's keys over it.
    ///
    /// # Errors
    /// [`Error::ProfileNotFound`] where there is no row.
    pub fn profile(&self) -> Result<&Profile, Error> {
        self.profile.as_deref().ok_or(Error::ProfileNotFound)
    }
}

/// Checks tokens: by the shared secret, or by the project's public keys.
pub struct Verifier {
    cookie_name: String,
    secret: Option<Arc<VerifyingKey>>,
    keys: Arc<KeySet>,
    refresher: Option<Refresher>,
}

impl Verifier {
    /// What the settings say.
    pub fn new(sessions: &Sessions) -> Self {
        Self {
            cookie_name: sessions.cookie_name().to_owned(),
            secret: sessions
                .jwt_secret
                .as_ref()
                .map(|secret| Arc::new(VerifyingKey::hs256(secret.expose_secret().as_bytes()))),
            keys: Arc::new(KeySet::new(sessions.jwks_url.clone())),
            refresher: sessions.anon_key.as_ref().and_then(|key| Refresher::new(&sessions.supabase_url, key.clone())),
        }
    }

    /// How long ago the project's key set was read.
    pub fn key_set_age(&self) -> Option<Duration> {
        self.keys.age()
    }

    /// Checks an access token.
    ///
    /// # Errors
    /// Why it is not taken.
    pub async fn verify(&self, http: &reqwest::Client, token: &str) -> Result<Claims, TokenError> {
        let header = token::header(token)?;
        let id = header.kid.as_deref().unwrap_or_default();
        // As Supabase's own server chooses: the key that the id names; for
        // HS256 without such a key, the secret.
        let key = if let Some(key) = self.keys.known(http, id) {
            key
        } else if header.alg == Algorithm::HS256 {
            self.secret.clone().ok_or_else(|| {
                TokenError::Invalid(
                    "the access token is signed with HS256, and SUPABASE_JWT_SECRET is not set".to_owned(),
                )
            })?
        } else if ASYMMETRIC.contains(&header.alg) && !id.is_empty() {
            self.keys.find(http, id).await.ok_or_else(|| {
                TokenError::Invalid(
                    "the access token is signed with a key that the project's key set does not have".to_owned(),
                )
            })?
        } else {
            return Err(TokenError::Invalid("the access token is signed in a way that is not supported".to_owned()));
        };
        key.verify(token)
    }
}

impl FromRequest for User {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { authenticate(&request).await })
    }
}

async fn authenticate(request: &HttpRequest) -> Result<User, Error> {
    let state = request.app_data::<Data<State>>();
    let clients = request.app_data::<Data<Clients>>();
    let (Some(state), Some(clients)) = (state, clients) else {
        return Err(Error::Internal("the server's state is not installed".to_owned()));
    };
    let refused = |reason: &str| Error::UserNotFound(reason.to_owned());
    let verifier = &state.verifier;
    let http = &clients.trusted;
    let claims = match credentials(request, &verifier.cookie_name) {
        None => return Err(refused("no session in the request")),
        Some(Credentials::Bearer(token)) => verifier.verify(http, &token).await,
        Some(Credentials::Cookie(session)) => {
            match (verifier.verify(http, &session.access_token).await, &verifier.refresher) {
                (Err(TokenError::Expired), Some(refresher)) if !session.refresh_token.is_empty() => {
                    let new = refresher.refresh(http, &session.refresh_token).await;
                    let new = new.ok_or_else(|| refused("the access token has run out and was not refreshed"))?;
                    let cookies = session.set_cookies(&verifier.cookie_name, &new);
                    request.extensions_mut().insert(NewCookies(cookies));
                    verifier.verify(http, new["access_token"].as_str().unwrap_or_default()).await
                }
                (claims, _) => claims,
            }
        }
    };
    let claims = claims.map_err(|error| refused(&error.to_string()))?;
    // Before the database is asked, which is part of what is limited.
    let slot = state.limits.admit(claims.user).await?;
    request.extensions_mut().insert(slot);
    let account = accounts::find(&state.db, claims, state.config.sessions.check, &state.config.keys).await?;
    let account = account.map_err(|reason| refused(&reason.to_string()))?;
    if let Some(log) = request.extensions().get::<RequestLog>() {
        log.note().user = Some(claims.user);
    }
    Ok(User { id: claims.user, profile: account.map(Box::new) })
}

/// A session that a request came with.
enum Credentials {
    Cookie(Session),
    /// Never refreshed: its owner keeps the refresh token.
    Bearer(String),
}

/// The cookie's session, else the bearer's token. The cookie goes first
/// because a proxy in front may put an `Authorization` of its own on every
/// request, which the original never looks at.
fn credentials(request: &HttpRequest, cookie_name: &str) -> Option<Credentials> {
    // Another site's cookie may hold anything.
    let cookies: Vec<_> =
        request.headers().get_all(COOKIE).map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    if let Some(session) = cookie::session(cookie_name, cookies.iter().map(AsRef::as_ref)) {
        return Some(Credentials::Cookie(session));
    }
    let (scheme, token) = request.headers().get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Credentials::Bearer(token.to_owned()))
}

/// The `Set-Cookie` headers of a session that was refreshed on the way, left
/// with the request for [`hand_back`].
struct NewCookies(Vec<String>);

/// Hands a refreshed session to the browser, whatever the answer is: the old
/// one is spent.
///
/// # Errors
/// What the service inside returned.
pub async fn hand_back(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let mut response = next.call(request).await?;
    let cookies = response.request().extensions_mut().remove::<NewCookies>();
    for cookie in cookies.into_iter().flat_map(|NewCookies(cookies)| cookies) {
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().append(SET_COOKIE, cookie);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store, no-transform"));
        }
    }
    Ok(response)
}
