//! The server: binds, serves, drains and stops.

mod admission;
mod components;
mod cors;
mod header_filter;
mod header_timeout;
mod metrics_listener;
mod pipelining;
mod security_headers;

use std::{
    io,
    net::TcpListener,
    pin::pin,
    time::{Duration, Instant},
};

use actix_http::HttpService;
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::{
    App,
    dev::{AppConfig, Server, ServerHandle},
    middleware::{Condition, from_fn},
    rt::net::TcpStream,
    web::ServiceConfig,
};
use actix_web_lab::middleware::CatchPanic;
use socket2::{SockRef, TcpKeepalive};

use crate::{
    config::Config,
    db::accounts,
    http::{table, user},
    http_client::ssrf_guard,
    playground, reverse_proxy,
    telemetry::{self, Telemetry},
};
use components::Components;
use header_timeout::{ConnectionWatch, Limits};
use pipelining::Paced;

/// Serves on `listener` until `stop` resolves. Then new requests are refused, and those in flight have
/// [`Config::shutdown_grace`] to finish. When `stop` resolves a second time, it stops at once.
///
/// # Errors
/// If the listener or TLS for the providers cannot be used.
pub async fn serve(config: Config, listener: TcpListener, stop: impl AsyncFnMut()) -> io::Result<()> {
    serve_with(config, listener, stop, ssrf_guard::system_lookup, |_| {}).await
}

/// [`serve`], with another way to resolve the names of user-chosen URLs, and with additional routes.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with(
    config: Config,
    listener: TcpListener,
    mut stop: impl AsyncFnMut(),
    lookup: ssrf_guard::Lookup,
    more_routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<()> {
    let metrics = config.metrics_addr.as_ref().map(|(host, port)| metrics_listener::bind(host, *port)).transpose()?;
    let components = Components::new(&config, lookup)?;
    let rate_limits = components.rate_limits.clone();
    actix_web::rt::spawn(async move { rate_limits.keep_connected().await });
    let ledger = components.ledger.clone();
    actix_web::rt::spawn(async move { ledger.run().await });
    let db = components.db.clone();
    // So that the first request finds a connection that has prepared its statement.
    actix_web::rt::spawn(async move { drop(accounts::ready(&db).await) });
    let server = build(&config, listener, &components, more_routes)?;
    if let Some(listener) = metrics {
        // Runs until the process or its runtime ends, so that the last streams can be observed.
        actix_web::rt::spawn(metrics_listener::serve(listener, components.clone())?);
    }
    let handle = server.handle();
    let mut server = pin!(server);
    tokio::select! {
        ended = &mut server => return ended,
        () = stop() => {}
    }
    let grace = config.shutdown_grace;
    components.drain.start();
    components.telemetry.cut_streams_at(Instant::now() + grace);
    tracing::info!("stopping: streams have {} s to finish; a second signal stops at once", grace.as_secs());
    tokio::select! {
        ended = &mut server => ended?,
        () = finish(&components, &handle) => {}
        () = tokio::time::sleep(grace) => {
            tracing::warn!("requests still in flight after {} s are cut", grace.as_secs());
            drop(handle.stop(false));
            tokio::select! {
                _ = server => wait_for_log_lines(&components.telemetry).await,
                () = wait_for_log_lines(&components.telemetry) => {}
            }
        }
        () = stop() => {
            tracing::warn!("stopping at once: {} streams are cut", components.telemetry.metrics.open_streams());
            // Spans of finished requests may still be on their way to the collector.
            components.ledger.flush(Duration::from_millis(500)).await;
            components.telemetry.flush(Duration::from_millis(500)).await;
            return Ok(());
        }
    }
    components.ledger.flush(Duration::from_secs(2)).await;
    components.telemetry.flush(Duration::from_secs(2)).await;
    Ok(())
}

/// Sets up the HTTP server: one app per worker, the middleware, the sockets.
fn build(
    config: &Config,
    listener: TcpListener,
    components: &Components,
    more_routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<Server> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    // Twice MAX_REQUESTS, because some connections are idle, waiting, refused, or health probes; more wait in the
    // kernel's queue.
    let connections = config.max_requests.saturating_mul(2).div_ceil(workers).max(64);
    let (client_timeout, grace) = (config.client_timeout, config.shutdown_grace);
    let keep_alive = config.keep_alive_timeout;
    let limits = Limits { idle: keep_alive, crowded: config.max_requests };
    let (origins, has_front_end) = (config.cors_origins.clone(), config.frontend_url.is_some());
    let playground = config.playground.clone();
    let (components, drain) = (components.clone(), components.drain.clone());
    let app = move || {
        let mut app = App::new().configure(|app| components.install(app));
        if let Some(settings) = &playground {
            app = app.configure(|routes| playground::configure(routes, settings));
        }
        app.configure(table::configure)
            .configure(&more_routes)
            .default_service(if has_front_end { reverse_proxy::route() } else { table::not_found() })
            .wrap(from_fn(header_filter::keep_what_is_read))
            .wrap(from_fn(user::set_refreshed_cookies))
            .wrap(CatchPanic::default())
            .wrap(from_fn(admission::admit))
            // Outermost except for the log, so that error responses get the headers too.
            .wrap(Condition::new(!origins.is_empty(), cors::allow(&origins)))
            .wrap(from_fn(security_headers::add))
            .wrap(from_fn(telemetry::record_request))
            .wrap(from_fn(pipelining::pace))
    };
    let address = listener.local_addr()?;
    // What `HttpServer` does, but for `Paced` around the connection, and for its signal of shutting down: that is given
    // by `ConnectionWatch` and the head of each response.
    let service = move || {
        let drain = drain.clone();
        let app = app().into_factory().map_err(|error| error.error_response());
        let http = HttpService::build()
            .keep_alive(keep_alive)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            // Otherwise actix treats the FIN of a disconnecting client as half-closed and keeps reading from the
            // provider.
            .h1_allow_half_closed(false)
            .local_addr(address)
            .on_connect_ext(move |connection: &Paced<TcpStream>, data| {
                data.insert(connection.pacer());
                data.insert(drain.connection());
                detect_vanished_client(connection.stream(), client_timeout);
                ConnectionWatch::new(connection, limits, drain.clone().into_inner()).map(|watch| data.insert(watch));
            })
            .h1(map_config(app, |()| AppConfig::default()));
        fn_service(async |stream: TcpStream| {
            // Otherwise every other small write waits for an acknowledgement, up to 40 ms.
            let _ = stream.set_nodelay(true);
            let peer = stream.peer_addr().ok();
            Ok((Paced::new(stream), peer))
        })
        .and_then(http)
    };
    let server = Server::build()
        .workers(workers)
        .max_concurrent_connections(connections)
        // Longer than our own limit in `serve_with`.
        .shutdown_timeout(grace.as_secs() + 1)
        .disable_signals()
        .listen("http", listener, service)?;
    Ok(server.run())
}

/// The time for which a closed connection may take the rest of its response.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// By then, requests that arrived before draining began have been read.
const SETTLE: Duration = Duration::from_millis(100);

/// Waits for the requests in flight, then closes the listener and the idle connections.
async fn finish(components: &Components, handle: &ServerHandle) {
    tokio::time::sleep(SETTLE).await;
    components.drain.requests_finished().await;
    components.drain.close_idle();
    // The call sends the command; the server executes it when polled, but checks for completion only once a second.
    drop(handle.stop(true));
    components.drain.connections_closed().await;
}

/// Waits until aborted requests have written their log lines: workers drop them only after reporting that they stopped.
async fn wait_for_log_lines(telemetry: &Telemetry) {
    let written = async {
        while telemetry.unwritten() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(1), written).await.is_err() {
        tracing::warn!("some requests were cut without a line in the log");
    }
}

/// Sets keepalive, which detects a vanished client (no FIN) while nothing is in flight, and the user timeout, which
/// detects it while data is in flight: keepalive does not probe then. The latter also ends clients that stop reading.
fn detect_vanished_client(stream: &TcpStream, timeout: Duration) {
    let socket = SockRef::from(stream);
    // Whole seconds; zero would be rejected.
    let part = |part: u32| (timeout / part).max(Duration::from_secs(1));
    let keepalive = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(part(2)).with_interval(part(6)));
    #[cfg(target_os = "linux")]
    let keepalive = keepalive.and(socket.set_tcp_user_timeout(Some(timeout)));
    if let Err(error) = keepalive {
        tracing::debug!(%error, "socket options");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_that_vanish_are_detected() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let _client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (stream, _) = listener.accept().await.expect("a client");
        detect_vanished_client(&stream, Duration::from_secs(30));
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("an option"));
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_interval().expect("an option"), Duration::from_secs(5));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(Duration::from_secs(30)));
    }
}
