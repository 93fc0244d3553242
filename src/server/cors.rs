//! Front ends on another address: `CORS_ORIGINS`.

use actix_cors::Cors;
use actix_web::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};

/// How long a browser may remember what it was allowed, in seconds. Chromium
/// remembers for two hours at most.
const MAX_AGE: usize = 7200;

/// Lets pages of these origins call the routes with the user's cookie or a
/// bearer, and read the headers that are meant for them. Others are answered
/// as before; it is the browser that keeps the answer from them.
pub fn allow(origins: &[String]) -> Cors {
    let cors = Cors::default()
        .allowed_methods(["GET", "HEAD", "POST"])
        .allowed_headers([ACCEPT, AUTHORIZATION, CONTENT_TYPE])
        .expose_headers(["x-request-id", "x-model", "retry-after"])
        .supports_credentials()
        .max_age(MAX_AGE);
    origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
}
