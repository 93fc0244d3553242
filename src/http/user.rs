//! The extractor [`User`]: the one place where session, limits and database meet. A handler that takes it has a
//! signed-in user; a handler that does not has no access to any profile or key.

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, HeaderValue, SET_COOKIE},
    middleware::Next,
};
use futures::future::LocalBoxFuture;
use uuid::Uuid;

use super::installed;
use crate::{
    auth::Authenticator,
    credentials::{Keys, Profile},
    db::{Db, accounts},
    error::Error,
    rate_limit::RateLimits,
    telemetry::RequestLog,
};

/// A signed-in user, as the session says and the database confirms.
#[derive(Debug)]
pub struct User {
    /// `auth.users.id`.
    pub id: Uuid,
    profile: Option<Box<Profile>>,
}

impl User {
    /// Returns the user's row of `profiles`, with the server's keys over it.
    ///
    /// # Errors
    /// [`Error::ProfileNotFound`] if there is no row.
    pub fn profile(&self) -> Result<&Profile, Error> {
        self.profile.as_deref().ok_or(Error::ProfileNotFound)
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
    let refused = |reason: &dyn std::fmt::Display| Error::UserNotFound(reason.to_string());
    let authenticator = installed::<Authenticator>(request)?;
    // Another site's cookie may hold anything.
    let cookies: Vec<_> =
        request.headers().get_all(COOKIE).map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credentials = authenticator
        .credentials(cookies.iter().map(AsRef::as_ref), authorization)
        .ok_or_else(|| refused(&"no session in the request"))?;
    let session = authenticator.authenticate(credentials).await.map_err(|error| refused(&error))?;
    if let Some(cookies) = session.refreshed {
        request.extensions_mut().insert(RefreshedCookies(cookies));
    }
    let claims = session.claims;
    // Before the database is queried, which is part of what is limited.
    let slot = installed::<RateLimits>(request)?.admit(claims.user).await?;
    request.extensions_mut().insert(slot);
    let server_keys = installed::<Keys>(request)?;
    let account = accounts::find(installed::<Db>(request)?, claims.user, claims.session, server_keys).await?;
    let profile = account.map_err(|reason| refused(&reason))?;
    if let Some(log) = request.extensions().get::<RequestLog>() {
        log.note().user = Some(claims.user);
    }
    Ok(User { id: claims.user, profile: profile.map(Box::new) })
}

/// The `Set-Cookie` values of a session that was refreshed on the way, left with the request for
/// [`set_refreshed_cookies`].
struct RefreshedCookies(Vec<String>);

/// Sends a refreshed session to the browser, whatever the answer is: the old one is spent.
///
/// # Errors
/// If the service inside returned one.
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
