//! `GET /openapi.json`, `GET /openapi-3.0.json` and `GET /api/docs`: the API's description, for programs and for people.

use actix_web::{
    HttpResponse,
    http::header::{CONTENT_SECURITY_POLICY, ContentType},
};

use crate::openapi::{self, page};

/// Responds with the OpenAPI document.
pub async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(openapi::text())
}

/// Responds with the same in OpenAPI 3.0.
pub async fn document_3_0() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(openapi::text_3_0())
}

/// Responds with the same as a page.
pub async fn read() -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::html())
        .insert_header((CONTENT_SECURITY_POLICY, page::POLICY))
        .body(page::html())
}
