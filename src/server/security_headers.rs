//! Security headers of responses: restrictions on browsers.

use actix_web::{
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
    middleware::Next,
};

use crate::http::path::is_api;

/// Defaults for headers that a response does not set itself. A stream sets `no-cache`, which proxies respect.
const DEFAULTS: [(HeaderName, HeaderValue); 3] = [
    // If a browser renders it as a page after all, nothing in it runs.
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // Each response is for one user.
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Adds [`DEFAULTS`] to answers below `/api/`, errors included, and `nosniff` everywhere.
///
/// # Errors
/// If the inner service returns one.
pub async fn add(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let mut response = next.call(request).await?;
    let of_api = is_api(response.request().path());
    let headers = response.headers_mut();
    // A model's text may look like HTML.
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
