//! `/healthz` and `/readyz`, for load balancers and orchestrators.

use actix_web::{HttpResponse, web::Data};
use serde_json::json;

use crate::{app::State, error::Error};

/// `GET /healthz`: the process serves.
pub async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// `GET /readyz`: the database answers, and the server is not stopping.
pub async fn ready(state: Data<State>) -> Result<HttpResponse, Error> {
    if state.door.is_closed() {
        return Err(Error::Stopping);
    }
    state.db.ready(state.config.sessions.check).await?;
    Ok(HttpResponse::Ok().json(json!({ "status": "ok" })))
}
