//! The server: its state, its limits, and how it serves and stops.

use std::{
    io,
    net::TcpListener,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use actix_web::{
    App, HttpServer,
    middleware::{DefaultHeaders, from_fn},
    rt::net::TcpStream,
    web::{Data, PayloadConfig, ServiceConfig},
};
use actix_web_lab::middleware::CatchPanic;
use socket2::{SockRef, TcpKeepalive};
use tokio::sync::Semaphore;

use crate::{
    auth::{self, Verifier},
    config::Config,
    db::Db,
    outbound::{Clients, guard},
    playground,
    retrieval::local::LocalEmbeddings,
    routes, telemetry,
};

/// What all workers share.
pub struct State {
    /// The settings.
    pub config: Config,
    /// Postgres.
    pub db: Db,
    /// The check of sessions.
    pub verifier: Verifier,
    /// The model for embeddings in this process.
    pub local: LocalEmbeddings,
    /// A permit for each file that is read at the same time: it takes a core
    /// and, at worst, some hundred megabytes.
    pub parsing: Semaphore,
    stopping: AtomicBool,
}

impl State {
    /// The state of a server with these settings. Connects to nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            db: Db::new(&config.database),
            verifier: Verifier::new(&config.sessions),
            local: LocalEmbeddings::new(config.local_embeddings_dir.clone()),
            parsing: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
            stopping: AtomicBool::new(false),
            config,
        }
    }

    /// The server was told to stop: it finishes what runs and wants no more.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// Serves on `listener` until `stop` says so, then lets streams finish for
/// [`Config::shutdown_grace`]. When `stop` speaks a second time, it stops at once.
///
/// # Errors
/// Where the listener or TLS for the providers cannot be used.
pub async fn serve(config: Config, listener: TcpListener, stop: impl AsyncFnMut()) -> io::Result<()> {
    serve_with(config, listener, stop, guard::system_lookup, |_| {}).await
}

/// [`serve`], with another way to resolve the names of user-chosen URLs.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with_lookup(
    config: Config,
    listener: TcpListener,
    stop: impl AsyncFnMut(),
    lookup: guard::Lookup,
) -> io::Result<()> {
    serve_with(config, listener, stop, lookup, |_| {}).await
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
    let clients = move |config: &Config| Clients::new(config, lookup).map_err(io::Error::other);
    clients(&config)?;
    let grace = config.shutdown_grace;
    let state = Data::new(State::new(config));
    let for_workers = state.clone();
    let server = HttpServer::new(move || {
        let state = for_workers.clone();
        let limit = state.config.max_body_bytes;
        let mut app = App::new().app_data(PayloadConfig::new(limit)).app_data(state.clone());
        match clients(&state.config) {
            Ok(clients) => app = app.app_data(Data::new(clients)),
            Err(error) => tracing::error!(%error, "this worker has no HTTP client"),
        }
        if let Some(settings) = &state.config.playground {
            app = app.configure(|routes| playground::configure(routes, settings));
        }
        app.configure(routes::configure)
            .configure(&more_routes)
            .default_service(routes::not_found())
            .wrap(from_fn(auth::hand_back))
            .wrap(CatchPanic::default())
            .wrap(DefaultHeaders::new().add(("x-content-type-options", "nosniff")))
            .wrap(from_fn(telemetry::record_request))
    })
    // Else actix takes the FIN of a client that leaves for a half-closed
    // connection and goes on asking the provider.
    .h1_allow_half_closed(false)
    // Else every other small write waits for an acknowledgement, up to 40 ms.
    .tcp_nodelay(true)
    .on_connect(|connection, _| {
        if let Some(stream) = connection.downcast_ref::<TcpStream>() {
            notice_vanished_clients(stream);
        }
    })
    .shutdown_timeout(grace.as_secs())
    .disable_signals()
    .listen(listener)?
    .run();

    let handle = server.handle();
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return ended,
        () = stop() => {}
    }
    state.stopping.store(true, Ordering::Relaxed);
    tracing::info!("stopping: streams have {} s to finish; a second signal stops at once", grace.as_secs());
    // The command is sent by the call; the server carries it out as it is polled.
    drop(handle.stop(true));
    tokio::select! {
        ended = server => ended,
        () = stop() => {
            tracing::warn!("stopping at once");
            Ok(())
        }
    }
}

/// A client that vanishes without a FIN is noticed by keepalive while nothing
/// is under way, and by the user timeout while something is: keepalive does
/// not probe then. The latter also ends clients that stop reading for good.
fn notice_vanished_clients(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    let set = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let set = set.and_then(|()| socket.set_tcp_user_timeout(Some(Duration::from_secs(30))));
    if let Err(error) = set {
        tracing::debug!(%error, "socket options");
    }
}
