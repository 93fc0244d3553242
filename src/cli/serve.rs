//! `serve`: the server, until it is told to stop.

use std::{net::TcpListener, process::ExitCode};

use super::StopSignals;
use crate::{
    app,
    config::{self, Config, SessionCheck},
    telemetry,
};

/// Runs the command.
pub fn run() -> ExitCode {
    super::run(async {
        let variables = config::variables()?;
        telemetry::start(&variables)?;
        let config = Config::new(&variables).map_err(|error| error.to_string())?;
        let listener = listen(&config)?;
        announce(&config, &listener);
        let mut signals = StopSignals::listen()?;
        app::serve(config, listener, async || signals.next().await).await.map_err(|error| error.to_string())
    })
}

/// Binds `HOST` and `PORT`.
pub(super) fn listen(config: &Config) -> Result<TcpListener, String> {
    let (host, port) = (config.host.trim_matches(['[', ']']), config.port);
    TcpListener::bind((host, port)).map_err(|error| {
        format!("{host}:{port} cannot be listened on: {error}. Set HOST and PORT to an address that is free")
    })
}

fn announce(config: &Config, listener: &TcpListener) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!("listening on http://{address}");
    }
    tracing::info!(
        "database {}:{}{}, sessions of {}",
        config.database.options.get_host(),
        config.database.options.get_port(),
        if config.database.transaction_pooler { " through a transaction pooler" } else { "" },
        config.sessions.supabase_url,
    );
    if config.sessions.check == SessionCheck::Token {
        tracing::warn!(
            "SESSION_CHECK=token: a user who was banned or deleted, or who signed out, gets in until the token runs out"
        );
    }
}
