//! `serve`: runs the server until it receives a stop signal.

use std::{net::TcpListener, process::ExitCode, time::Duration};

use secrecy::ExposeSecret;

use super::{StopSignals, check, models};
use crate::{
    auth,
    config::{self, Config},
    db::{self, SessionCheck, inspect},
    playground, server, telemetry,
};

/// Runs the command; with `playground`, a page is served at `/`.
pub fn run(playground: bool) -> ExitCode {
    super::run(async {
        let variables = config::variables()?;
        telemetry::start(&variables)?;
        let mut config = Config::new(&variables).map_err(|error| error.to_string())?;
        if playground {
            if config.frontend_url.is_some() {
                return Err("--playground and FRONTEND_URL both need the page at /: use only one of them".to_owned());
            }
            let auth::Settings { public_supabase_url, anon_key, .. } = &config.sessions;
            let local = cfg!(feature = "local-embeddings") && config.local_embeddings_dir.is_some();
            let page = playground::Settings::of_a_project(public_supabase_url, anon_key.as_deref(), local)?;
            config.playground = Some(page);
        }
        // A stream takes three file descriptors; many systems start a process with a limit of 1,024.
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            tracing::warn!("the limit of open files cannot be raised (ulimit -n): {error}");
        }
        let mistakes = check::mistakes(&variables, &config);
        let listener = listen(&config).inspect_err(|_| warn_of(&mistakes))?;
        announce(&config, &listener);
        warn_of(&mistakes);
        if cfg!(not(feature = "otlp")) && variables.contains_key("OTEL_EXPORTER_OTLP_ENDPOINT") {
            tracing::warn!(
                "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this build sends no traces: build it with `--features otlp`"
            );
        }
        let database_is_set = variables.get("DATABASE_URL").is_some_and(|url| !url.trim().is_empty());
        actix_web::rt::spawn(try_database(config.database.clone(), database_is_set));
        if !config.models.offers.is_empty() {
            actix_web::rt::spawn(models::sync::keep_up(config.database.clone(), config.models.clone()));
        }
        let mut signals = StopSignals::listen()?;
        server::serve(config, listener, async || signals.next().await).await.map_err(|error| error.to_string())
    })
}

fn warn_of(mistakes: &[String]) {
    for mistake in mistakes {
        tracing::warn!("{mistake}");
    }
}

/// Binds `HOST` and `PORT`.
pub(crate) fn listen(config: &Config) -> Result<TcpListener, String> {
    let (host, port) = (config.host.trim_matches(['[', ']']), config.port);
    TcpListener::bind((host, port)).map_err(|error| {
        format!("{host}:{port} cannot be listened on: {error}. HOST must be an address of this machine, and PORT one that is free and permitted")
    })
}

/// Warns early about an unreachable database; the server starts anyway. `is_set`: `DATABASE_URL` is not the default.
async fn try_database(settings: db::Settings, is_set: bool) {
    let problem = match tokio::time::timeout(Duration::from_secs(5), inspect::connect(&settings)).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    let (host, port) = (settings.options.get_host(), settings.options.get_port());
    let hint = if is_set { "Is DATABASE_URL right?" } else { "DATABASE_URL is not set: this is its default" };
    tracing::warn!("the database at {host}:{port} cannot be reached yet: {problem}. {hint}");
}

fn announce(config: &Config, listener: &TcpListener) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("listening on http://{address}");
        if config.playground.is_some() {
            tracing::info!("the playground is at http://{address}/");
        }
    }
    tracing::info!(
        "database {}:{}{}, sessions of {}",
        config.database.options.get_host(),
        config.database.options.get_port(),
        if config.database.pooler != db::Pooler::Session { " through a transaction pooler" } else { "" },
        config.sessions.supabase_url,
    );
    match (&config.rate_limit.redis, config.rate_limit.rate_per_minute) {
        (Some(redis), Some(_)) => tracing::info!("the rate limit is shared through Redis at {redis}"),
        (Some(_), None) => tracing::warn!("REDIS_URL is set, but not used, because RATE_LIMIT_PER_MINUTE is not set"),
        (None, _) => {}
    }
    if config.http_client.private_upstreams.allow {
        tracing::warn!(
            "URLs that users enter may lead to private addresses, since HOST is this machine: set PRIVATE_UPSTREAMS=deny if a proxy makes this server public"
        );
    }
    if config.sessions.jwt_secret.as_ref().is_some_and(|secret| auth::is_published(secret.expose_secret())) {
        tracing::warn!(
            "sessions may be signed with a secret that Supabase publishes: set SUPABASE_JWT_SECRET if anyone else can reach this server"
        );
    }
    if config.database.session_check == SessionCheck::Token {
        tracing::warn!(
            "SESSION_CHECK=token: a user who was banned or deleted, or who signed out, has access until the token expires"
        );
    }
}
