//! The commands. Each returns an exit status: 0 on success; 1 on failure, after one sentence on standard error with the
//! reason.

pub mod check;
pub mod health;
pub mod help;
pub mod migrate;
pub mod models;
pub mod openapi;
pub mod progress;
pub mod serve;
pub mod session;
pub mod token;
pub mod usage;

use std::{future::Future, process::ExitCode};

/// Runs a command on an actix runtime and turns its result into an exit status.
#[expect(clippy::print_stderr, reason = "a command talks to a person")]
pub(crate) fn run(command: impl Future<Output = Result<(), String>>) -> ExitCode {
    match actix_web::rt::System::new().block_on(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("chatbot-ui-api: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for the person who ran the command.
#[expect(clippy::print_stdout, reason = "a command talks to a person")]
pub(crate) fn say(words: &str) {
    println!("{words}");
}

/// Tells if output is coloured: on a terminal, unless `NO_COLOR` is set.
pub(crate) fn colours(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns Postgres' message, without the source location that sqlx adds.
pub(crate) fn refusal(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Waits for Ctrl-C or SIGTERM; repeatedly, if needed.
pub(crate) struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    pub(crate) fn listen() -> Result<Self, String> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).map_err(|error| format!("signals cannot be received: {error}"));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
