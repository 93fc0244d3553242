//! The server: its state, its limits, and how it serves and stops.

use std::{
    io,
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    App, HttpServer,
    middleware::{Condition, from_fn},
    rt::net::TcpStream,
    web::{Data, ServiceConfig},
};
use actix_web_lab::middleware::CatchPanic;
use socket2::{SockRef, TcpKeepalive};
use tokio::sync::Semaphore;

use crate::{
    auth::{self, Verifier},
    config::Config,
    cors,
    db::Db,
    door::{self, Door},
    frontend,
    idle::Watch,
    limits::Limits,
    outbound::{self, Clients, guard},
    playground,
    retrieval::local::LocalEmbeddings,
    routes,
    telemetry::{self, Telemetry, metrics},
};

/// What all workers share.
pub struct State {
    /// The settings.
    pub config: Config,
    /// Postgres.
    pub db: Db,
    /// The check of sessions.
    pub verifier: Verifier,
    /// What is counted of requests and users.
    pub limits: Limits,
    /// The model for embeddings in this process.
    pub local: LocalEmbeddings,
    /// What is counted and traced.
    pub telemetry: Arc<Telemetry>,
    /// A permit for each file that is read at the same time: it takes a core
    /// and, at worst, some hundred megabytes.
    pub parsing: Semaphore,
    /// Who is inside, and whether anybody may still come in.
    pub door: Door,
}

impl State {
    /// The state of a server with these settings. Connects to nothing yet.
    ///
    /// # Errors
    /// Where its telemetry cannot be set up.
    pub fn new(config: Config) -> io::Result<Self> {
        Ok(Self {
            telemetry: Arc::new(Telemetry::new(&config).map_err(io::Error::other)?),
            db: Db::new(&config.database),
            verifier: Verifier::new(&config.sessions),
            limits: Limits::new(&config.limits),
            local: LocalEmbeddings::new(config.local_embeddings_dir.clone()),
            parsing: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
            door: Door::default(),
            config,
        })
    }
}

/// Serves on `listener` until `stop` says so. Then new requests are refused,
/// and those that run have [`Config::shutdown_grace`] to finish. When `stop`
/// speaks a second time, it stops at once.
///
/// # Errors
/// Where the listener or TLS for the providers cannot be used.
pub async fn serve(config: Config, listener: TcpListener, stop: impl AsyncFnMut()) -> io::Result<()> {
    serve_with(config, listener, stop, guard::system_lookup, |_| {}).await
}

/// [`serve`], with another way to resolve the names of user-chosen URLs, and
/// with routes besides its own.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with(
    config: Config,
    listener: TcpListener,
    mut stop: impl AsyncFnMut(),
    lookup: guard::Lookup,
    more_routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<()> {
    // Once here, so that what is wrong is said before serving; in the
    // workers it is then known to work.
    let tls = outbound::tls()?;
    let clients = move |config: &Config| Clients::new(config, &tls, lookup).map_err(io::Error::other);
    clients(&config)?;
    let (grace, client_timeout) = (config.shutdown_grace, config.client_timeout);
    let metrics = config.metrics_addr.as_ref().map(|(host, port)| metrics::listen(host, *port)).transpose()?;
    let state = Data::new(State::new(config)?);
    let (for_workers, at_the_door, counting) = (state.clone(), state.clone(), state.clone());
    actix_web::rt::spawn(async move { counting.limits.keep_connected().await });
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    // Room for as many again that wait, are told that the server is full, or
    // ask how it is; whoever comes then waits in the kernel's queue.
    let connections = state.config.limits.max_requests.saturating_mul(2).div_ceil(workers).max(64);
    let server = HttpServer::new(move || {
        let state = for_workers.clone();
        let (origins, with_front_end) = (&state.config.cors_origins, state.config.frontend_url.is_some());
        let mut app = App::new().app_data(state.clone());
        match clients(&state.config) {
            Ok(clients) => app = app.app_data(Data::new(clients)),
            Err(error) => tracing::error!(%error, "this worker has no HTTP client"),
        }
        if let Some(settings) = &state.config.playground {
            app = app.configure(|routes| playground::configure(routes, settings));
        }
        app.configure(routes::configure)
            .configure(&more_routes)
            .default_service(if with_front_end { frontend::route() } else { routes::not_found() })
            .wrap(from_fn(routes::headers::keep_what_is_read))
            .wrap(from_fn(auth::hand_back))
            .wrap(CatchPanic::default())
            .wrap(from_fn(door::let_in))
            // Outermost but for the log, so that every refusal has them too.
            .wrap(Condition::new(!origins.is_empty(), cors::allow(origins)))
            .wrap(from_fn(routes::headers::add))
            .wrap(from_fn(telemetry::record_request))
    })
    .workers(workers)
    .max_connections(connections)
    // Else actix takes the FIN of a client that leaves for a half-closed
    // connection and goes on asking the provider.
    .h1_allow_half_closed(false)
    // Else every other small write waits for an acknowledgement, up to 40 ms.
    .tcp_nodelay(true)
    .on_connect(move |connection, data| {
        data.insert(at_the_door.door.connection());
        if let Some(stream) = connection.downcast_ref::<TcpStream>() {
            notice_vanished_clients(stream, client_timeout);
            Watch::new(stream, client_timeout).map(|watch| data.insert(watch));
        }
    })
    // Beyond our own limit below.
    .shutdown_timeout(grace.as_secs() + 1)
    .disable_signals()
    .listen(listener)?
    .run();

    if let Some(listener) = metrics {
        // It goes on until the process or its runtime ends, so that the last
        // streams can be watched.
        actix_web::rt::spawn(metrics::serve(listener, state.clone())?);
    }
    let handle = server.handle();
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return ended,
        () = stop() => {}
    }
    state.door.close();
    state.telemetry.cut_streams_at(Instant::now() + grace);
    tracing::info!("stopping: streams have {} s to finish; a second signal stops at once", grace.as_secs());
    let all_leave = async {
        tokio::time::sleep(SETTLE).await;
        state.door.requests_are_over().await;
        // Closes the listener and idle connections, and writes out what is
        // left. The command is sent by the call; the server carries it out as
        // it is polled. It looks whether it is done once a second only.
        drop(handle.stop(true));
        state.door.connections_are_closed().await;
    };
    let cut = tokio::select! {
        ended = &mut server => {
            ended?;
            false
        }
        () = all_leave => false,
        () = tokio::time::sleep(grace) => {
            tracing::warn!("what still runs after {} s is cut", grace.as_secs());
            true
        }
        () = stop() => {
            tracing::warn!("stopping at once: {} streams are cut", state.telemetry.metrics.open_streams());
            // What has ended may still be on its way to the collector.
            state.telemetry.flush(Duration::from_millis(500)).await;
            return Ok(());
        }
    };
    if cut {
        drop(handle.stop(false));
        tokio::select! {
            _ = server => wait_for_lines(&state).await,
            () = wait_for_lines(&state) => {}
        }
    }
    state.telemetry.flush(Duration::from_secs(2)).await;
    Ok(())
}

/// What had come when the door closed has been read by then.
const SETTLE: Duration = Duration::from_millis(100);

/// The workers let go of what they cut after they have said that
/// they stopped; each still writes its line into the log.
async fn wait_for_lines(state: &State) {
    let written = async {
        while state.telemetry.unwritten() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(1), written).await.is_err() {
        tracing::warn!("some requests were cut without a line in the log");
    }
}

/// A client that vanishes without a FIN is noticed by keepalive while nothing
/// is under way, and by the user timeout while something is: keepalive does
/// not probe then. The latter also ends clients that stop reading for good.
fn notice_vanished_clients(stream: &TcpStream, timeout: Duration) {
    let socket = SockRef::from(stream);
    // Whole seconds, and none would be refused.
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
    async fn clients_that_vanish_are_looked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let _client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (stream, _) = listener.accept().await.expect("a client");
        notice_vanished_clients(&stream, Duration::from_secs(30));
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("an option"));
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_interval().expect("an option"), Duration::from_secs(5));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(Duration::from_secs(30)));
    }
}
