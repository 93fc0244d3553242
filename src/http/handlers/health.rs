//! `/healthz` and `/readyz`, for load balancers and orchestrators.

use actix_web::{HttpResponse, web::Data};
use serde_json::json;

use crate::{
    db::{Db, accounts},
    drain::Drain,
    error::Error,
};

/// `GET /healthz`: the process is running.
pub async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// `GET /readyz`: the database answers, and the server is not shutting down.
pub async fn ready(db: Data<Db>, drain: Data<Drain>) -> Result<HttpResponse, Error> {
    if drain.is_draining() {
        return Err(Error::Stopping);
    }
    accounts::ready(&db).await?;
    Ok(HttpResponse::Ok().json(json!({ "status": "ok" })))
}
