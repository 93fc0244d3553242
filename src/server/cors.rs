//! CORS, for front ends on another origin: `CORS_ORIGINS`.

use actix_cors::Cors;
use actix_web::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};

/// Time for which a browser may cache a preflight response, in seconds. Chromium's maximum is two hours.
const MAX_AGE: usize = 7200;

/// Lets pages of these origins call the routes with the user's cookie or a bearer token, and read the exposed headers.
/// Requests from other origins are answered as usual; the browser withholds the response.
pub fn allow(origins: &[String]) -> Cors {
    let cors = Cors::default()
        .allowed_methods(["GET", "HEAD", "POST"])
        .allowed_headers([ACCEPT, AUTHORIZATION, CONTENT_TYPE])
        .expose_headers(["x-request-id", "x-model", "retry-after"])
        .supports_credentials()
        .max_age(MAX_AGE);
    origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
}
