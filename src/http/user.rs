//! The extractors [`User`] and [`Caller`]: the one place where session, limits and database meet. A handler that takes
//! one has a signed-in user; a handler that does not has no access to any profile or key.

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, HeaderName, HeaderValue, ORIGIN, SET_COOKIE},
    middleware::Next,
};
use futures::future::LocalBoxFuture;
use url::Url;
use uuid::Uuid;

use super::installed;
use crate::{
    auth::{
        Authenticator, Credentials,
        jwt::{Claims, TokenError},
    },
    credentials::{Keys, Profile},
    db::{
        Db,
        accounts::{self, Along},
        models::CustomModel,
    },
    error::Error,
    http_client::http1,
    llm::{Providers, providers::Vendor},
    rate_limit::RateLimits,
    telemetry::RequestLog,
};

/// A signed-in user, by a verified session that the database confirms.
pub struct User {
    /// `auth.users.id`.
    pub id: Uuid,
    profile: Option<Box<Profile>>,
    /// The connection to the provider, which is opened meanwhile.
    _expected: Option<http1::Expected>,
}

impl User {
    /// Returns the user's row of `profiles`, overridden by the server's keys.
    ///
    /// # Errors
    /// [`Error::ProfileNotFound`] if there is no row.
    pub fn profile(&self) -> Result<&Profile, Error> {
        self.profile.as_deref().ok_or(Error::ProfileNotFound)
    }

    /// Returns the same, or `None` if there is no row.
    pub fn optional_profile(&self) -> Option<&Profile> {
        self.profile.as_deref()
    }
}

impl FromRequest for User {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self, Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let caller = Caller::from_request(request, payload);
        Box::pin(async move { caller.await?.user(Along::default()).await.map(|read| read.user) })
    }
}

/// A user with a valid token, within the user's limits, whose account is not read yet.
pub struct Caller {
    request: HttpRequest,
    claims: Claims,
    by_cookie: bool,
    /// The connection to the provider, which is opened meanwhile.
    expected: Option<http1::Expected>,
}

impl FromRequest for Caller {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { verify(request).await })
    }
}

/// A user whose account was read, and what was asked along with it.
pub struct Read {
    /// The user.
    pub user: User,
    /// The ledger's answer to the reservation.
    pub answer: Option<String>,
    /// The custom model: the first `None` if none was asked for, the second if there is none for this user.
    pub model: Option<Option<CustomModel>>,
}

impl Caller {
    /// Returns the user's id.
    pub fn id(&self) -> Uuid {
        self.claims.user
    }

    /// Returns the request.
    pub fn request(&self) -> &HttpRequest {
        &self.request
    }

    /// Reads the user's account, and does what is to be done `along` with it in the same statement; see
    /// [`accounts::find`].
    ///
    /// # Errors
    /// If the user or the session is not there any more, or the database does not answer.
    pub async fn user(&mut self, along: Along<'_>) -> Result<Read, Error> {
        let Self { request, claims, by_cookie, expected } = self;
        let (db, server_keys) = (installed::<Db>(request)?, installed::<Keys>(request)?);
        let account = accounts::find(db, claims.user, claims.session, server_keys, along).await?;
        let account = account.map_err(|reason| refused(*by_cookie, &reason))?;
        if let Some(log) = request.extensions().get::<RequestLog>() {
            log.note().user = Some(claims.user);
        }
        let profile = account.profile.map(Box::new);
        let user = User { id: claims.user, profile, _expected: expected.take() };
        Ok(Read { user, answer: account.answer, model: account.model })
    }
}

fn refused(by_cookie: bool, reason: &dyn std::fmt::Display) -> Error {
    if by_cookie { Error::UserNotFound(reason.to_string()) } else { Error::TokenRefused(reason.to_string()) }
}

async fn verify(request: HttpRequest) -> Result<Caller, Error> {
    let (claims, by_cookie) = verified(&request).await?;
    let expected = connect_ahead(installed::<Providers>(&request)?, request.path());
    Ok(Caller { request, claims, by_cookie, expected })
}

/// Opens a connection to the provider that a route names, while its request is still being checked. Not for routes whose
/// provider only the request's body or the user's row tells.
fn connect_ahead(providers: &Providers, route: &str) -> Option<http1::Expected> {
    let vendor = match route {
        "/api/command" => Vendor::OpenAi,
        route => Vendor::by_name(route.strip_prefix("/api/chat/")?)?,
    };
    let url = Url::parse(vendor.base_url(&providers.base_urls)).ok()?;
    Some(providers.direct.connect_ahead(&url))
}

async fn verified(request: &HttpRequest) -> Result<(Claims, bool), Error> {
    let authenticator = installed::<Authenticator>(request)?;
    // The header may contain invalid bytes, for instance in cookies of other sites.
    let cookies: Vec<_> =
        request.headers().get_all(COOKIE).map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credentials = authenticator
        .credentials(cookies.iter().map(AsRef::as_ref), authorization)
        .ok_or_else(|| Error::UserNotFound("no session in the request".to_owned()))?;
    let by_cookie = matches!(credentials, Credentials::Cookie(_));
    if by_cookie && is_cross_site(request) {
        return Err(Error::CrossSite);
    }
    let failed = |error: TokenError| match error {
        TokenError::Unavailable(reason) => Error::AuthUnavailable(reason),
        error => refused(by_cookie, &error),
    };
    let limits = installed::<RateLimits>(request)?;
    let verified = authenticator.verify(credentials.access_token()).await;
    // Before the database or the auth server is queried, because queries are limited too.
    let (claims, slot) = match (verified, &credentials) {
        (Ok(claims), _) => (claims, limits.admit(claims.user).await?),
        (Err(TokenError::Expired(expired)), Credentials::Cookie(session)) => {
            let slot = limits.admit(expired.user).await?;
            let (claims, cookies) = authenticator.refresh(session, expired.user).await.map_err(failed)?;
            request.extensions_mut().insert(RefreshedCookies(cookies));
            (claims, slot)
        }
        (Err(error), _) => return Err(failed(error)),
    };
    request.extensions_mut().insert(slot);
    Ok((claims, by_cookie))
}

/// The origins, in addition to this server's own, whose pages may use a session cookie: those of `CORS_ORIGINS` and the
/// front end's.
#[derive(Debug, Clone, Default)]
pub struct TrustedOrigins(pub Vec<String>);

/// Tells if a page of another site sent the request. `SameSite=lax` keeps the cookie out of most such requests, but not
/// all; the browser sets the header, and no page can forge it.
fn is_cross_site(request: &HttpRequest) -> bool {
    let header = |name: &HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let cross_site = header(&SEC_FETCH_SITE).is_some_and(|site| site.eq_ignore_ascii_case("cross-site"));
    let trusted = || {
        let origins = installed::<TrustedOrigins>(request).map_or(&[][..], |origins| &origins.0);
        header(&ORIGIN).is_some_and(|origin| origins.iter().any(|trusted| trusted == origin))
    };
    cross_site && !request.method().is_safe() && !trusted()
}

/// Set by browsers; actix has no constant for it.
pub const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The `Set-Cookie` values of a refreshed session, stored in the request for [`set_refreshed_cookies`].
struct RefreshedCookies(Vec<String>);

/// Sends a refreshed session to the browser with any response, because the old session is spent.
///
/// # Errors
/// If the inner service returns one.
pub async fn set_refreshed_cookies(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let mut response = next.call(request).await?;
    let cookies = response.request().extensions_mut().remove::<RefreshedCookies>();
    for cookie in cookies.into_iter().flat_map(|RefreshedCookies(cookies)| cookies) {
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().append(SET_COOKIE, cookie);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store, no-transform"));
        }
    }
    Ok(response)
}
