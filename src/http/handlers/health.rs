//! `/healthz` and `/readyz`, for load balancers and orchestrators.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use serde_json::json;

use crate::{
    db::{Db, accounts},
    drain::Drain,
    error::Error,
    llm::{Providers, circuits::Reading},
};

/// `GET /healthz`: the process is running.
pub async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// `GET /readyz`: the database answers, and the server is not shutting down. With `?verbose` also the state of each of
/// the server's keys, by its place in the setting.
pub async fn ready(
    request: HttpRequest,
    db: Data<Db>,
    drain: Data<Drain>,
    providers: Data<Providers>,
) -> Result<HttpResponse, Error> {
    if drain.is_draining() {
        return Err(Error::Stopping);
    }
    accounts::ready(&db).await?;
    let mut status = json!({ "status": "ok" });
    if request.query_string().split('&').any(|part| part == "verbose" || part.starts_with("verbose=")) {
        let readings = providers.routing.circuits.readings();
        let key = |it: &Reading| {
            let mut key = json!({ "provider": it.provider, "key": it.number, "state": it.state });
            if it.state == "resting" {
                key["seconds"] = it.rests.as_secs().into();
            }
            key
        };
        status["keys"] = readings.iter().map(key).collect();
    }
    Ok(HttpResponse::Ok().json(status))
}
