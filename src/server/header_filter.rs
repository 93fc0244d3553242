//! Drops the request headers that no handler reads.

use actix_web::{
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, ORIGIN},
    middleware::Next,
};

use crate::http::{path::is_api, user::SEC_FETCH_SITE};

/// The headers that handlers read from a request below `/api/` after its admission.
const READ: [HeaderName; 7] = [ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, ORIGIN, SEC_FETCH_SITE];

/// Removes a request's other headers. They would stay in memory until the first text, possibly for minutes: a browser's
/// seventeen headers take 7 KB, these 2.
///
/// # Errors
/// If the inner service returns one.
pub async fn keep_what_is_read(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    if is_api(request.path()) {
        let all = std::mem::replace(request.headers_mut(), HeaderMap::with_capacity(0));
        for name in READ {
            for value in all.get_all(&name) {
                request.headers_mut().append(name.clone(), value.clone());
            }
        }
    }
    next.call(request).await
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
