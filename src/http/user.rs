//! The extractor [`User`]: the one place where session, limits and database meet. A handler that takes it has a
//! signed-in user; a handler that does not has no access to any profile or key.

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, HeaderName, HeaderValue, ORIGIN, SET_COOKIE},
    middleware::Next,
};
use futures::future::LocalBoxFuture;
use uuid::Uuid;

use super::installed;
use crate::{
    auth::{Authenticator, Credentials, jwt::TokenError},
    credentials::{Keys, Profile},
    db::{Db, accounts},
    error::Error,
    http_client::http1,
    llm::Providers,
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

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { authenticate(&request).await })
    }
}

async fn authenticate(request: &HttpRequest) -> Result<User, Error> {
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
    let refused = |reason: String| if by_cookie { Error::UserNotFound(reason) } else { Error::TokenRefused(reason) };
    let failed = |error: TokenError| match error {
        TokenError::Unavailable(reason) => Error::AuthUnavailable(reason),
        error => refused(error.to_string()),
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
    let expected = installed::<Providers>(request)?.connect_ahead(request.path());
    let server_keys = installed::<Keys>(request)?;
    let account = accounts::find(installed::<Db>(request)?, claims.user, claims.session, server_keys).await?;
    let profile = account.map_err(|reason| refused(reason.to_string()))?;
    if let Some(log) = request.extensions().get::<RequestLog>() {
        log.note().user = Some(claims.user);
    }
    Ok(User { id: claims.user, profile: profile.map(Box::new), _expected: expected })
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
