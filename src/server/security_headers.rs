//! Security headers of answers: what a browser must not do with them.

use actix_web::{
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
    middleware::Next,
};

use crate::http::path::is_api;

/// Defaults for headers that an answer does not set itself. A stream sets
/// `no-cache`, which proxies know.
const DEFAULTS: [(HeaderName, HeaderValue); 3] = [
    // Should it become a page all the same: one that does nothing.
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // Each answer is for one user.
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Adds [`DEFAULTS`] to answers below `/api/`, errors included, and `nosniff`
/// everywhere.
///
/// # Errors
/// If the service inside returned one.
pub async fn add(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let mut response = next.call(request).await?;
    let of_api = is_api(response.request().path());
    let headers = response.headers_mut();
    // A model's words may look like a page.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if of_api {
        for (name, value) in DEFAULTS {
            if !headers.contains_key(&name) {
                headers.insert(name, value);
            }
        }
    }
    Ok(response)
}
