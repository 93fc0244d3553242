//! Headers: of requests, those that are kept; of answers, what a browser must
//! not do with it.

use actix_web::{
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{
        ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HeaderMap,
        HeaderName, HeaderValue, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
    middleware::Next,
};

use crate::frontend;

/// What is read of a request below `/api/` once it is let in.
const READ: [HeaderName; 6] = [ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, ORIGIN];

/// Forgets a request's other headers. They would be held until the first text
/// comes, for minutes maybe: a browser's seventeen take 7 KB, these 2.
///
/// # Errors
/// What the service inside returned.
pub async fn keep_what_is_read(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    if frontend::is_ours(request.path()) {
        let all = std::mem::replace(request.headers_mut(), HeaderMap::with_capacity(0));
        for name in READ {
            for value in all.get_all(&name) {
                request.headers_mut().append(name.clone(), value.clone());
            }
        }
    }
    next.call(request).await
}

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

#[cfg(test)]
mod tests {
    use actix_web::{
        App, HttpRequest,
        middleware::from_fn,
        test::{TestRequest, call_and_read_body, init_service},
        web,
    };

    use super::*;

    #[actix_web::test]
    async fn a_handler_gets_what_is_read_and_a_front_end_everything() {
        let names = async |request: HttpRequest| {
            let mut names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
            names.sort();
            names.join(" ")
        };
        let app = init_service(App::new().wrap(from_fn(keep_what_is_read)).default_service(web::to(names))).await;
        for (path, expected) in [("/api/x", "accept cookie"), ("/x", "accept cookie user-agent x-other")] {
            let headers = [("accept", "a"), ("cookie", "b=c"), ("user-agent", "d"), ("x-other", "e")];
            let request =
                headers.iter().fold(TestRequest::with_uri(path), |request, header| request.insert_header(*header));
            assert_eq!(call_and_read_body(&app, request.to_request()).await, expected, "{path}");
        }
    }
}
