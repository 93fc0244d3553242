//! `/metrics` on its own listener, so that access to metrics and to chats can be granted separately.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::Server,
    http::header::CONTENT_TYPE,
    web::{self, Data},
};
use prometheus::TEXT_FORMAT;

use super::components::Components;
use crate::error::Error;

/// Binds `METRICS_ADDR`.
///
/// # Errors
/// If binding fails; the sentence names the variable.
pub fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((host, port)).map_err(|error| {
        io::Error::other(format!(
            "METRICS_ADDR {host}:{port} cannot be listened on: {error}. It must be an address of this machine with a port that is free and permitted"
        ))
    })?;
    if let Ok(address) = listener.local_addr() {
        announce(address);
    }
    Ok(listener)
}

fn announce(address: SocketAddr) {
    tracing::info!("metrics at http://{address}/metrics");
    if !address.ip().is_loopback() {
        tracing::warn!("everyone who can reach {address} can read the metrics: they have no password");
    }
}

/// Serves `/metrics`.
///
/// # Errors
/// If the listener cannot be used.
pub fn serve(listener: TcpListener, components: Components) -> io::Result<Server> {
    let components = Data::new(components);
    let server = HttpServer::new(move || {
        App::new().app_data(components.clone()).route("/metrics", web::get().to(scrape)).default_service(web::to(
            async || HttpResponse::NotFound().content_type("text/plain").body("There is only /metrics here\n"),
        ))
    });
    Ok(server.workers(1).shutdown_timeout(1).disable_signals().listen(listener)?.run())
}

async fn scrape(components: Data<Components>) -> Result<HttpResponse, Error> {
    let text = components.telemetry.metrics.render(&components.gauges());
    let text = text.map_err(|error| Error::Internal(format!("metrics: {error}")))?;
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, TEXT_FORMAT)).body(text))
}
