//! Headers for every answer: what a browser must not do with it.

use actix_web::{
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
    middleware::Next,
};

use crate::frontend;

/// What an answer has unless it says another. A stream says `no-cache`, which
/// proxies know.
const DEFAULTS: [(HeaderName, HeaderValue); 3] = [
    // Should it become a page all the same: one that does nothing.
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // It is one user's.
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Adds them to what is answered under `/api/`, errors included, and `nosniff`
/// everywhere.
///
/// # Errors
/// What the service inside returned.
pub async fn add(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let mut response = next.call(request).await?;
    let of_api = frontend::is_ours(response.request().path());
    let headers = response.headers_mut();
    // Not to be guessed into a page: a model's words may look like one.
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
