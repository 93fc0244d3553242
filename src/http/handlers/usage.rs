//! `GET /api/usage`: the user's own figures.

use actix_web::{HttpResponse, http::header::CACHE_CONTROL, web::Data};

use crate::{error::Error, http::user::User, usage::Ledger};

/// Responds with `{"today", "month", "by_model", "budgets"}`, as the database has them.
///
/// # Errors
/// [`Error::NotCounted`] without the ledger's schema.
pub async fn report(user: User, ledger: Data<Ledger>) -> Result<HttpResponse, Error> {
    let report = ledger.report(user.id).await?;
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "private, no-store"))
        .content_type("application/json")
        .body(report))
}
