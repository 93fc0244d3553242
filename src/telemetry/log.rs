//! What of the log is checked and caught: `RUST_LOG`, lines of other crates,
//! and panics.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    cell::Cell,
};

use tracing::Level;
use tracing_subscriber::EnvFilter;

/// What a directive without a level may begin with: the parts of this server
/// that write to the log.
const TARGETS: [&str; 11] = [
    "chatbot_ui_api",
    "actix",
    "h2",
    "hyper",
    "mio",
    "opentelemetry",
    "reqwest",
    "rustls",
    "sqlx",
    "tokio",
    "tokenizers",
];

/// Reads `RUST_LOG`.
///
/// # Errors
/// What is wrong with it, to be put after its name.
pub fn filter(directives: &str) -> Result<EnvFilter, String> {
    // A word that is no level would be taken for a target that never writes,
    // and silence everything.
    let unknown = directives.split(',').map(str::trim).find(|directive| {
        let is_level = directive.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        let is_target = directive.contains(['=', '[']) || TARGETS.iter().any(|target| directive.starts_with(target));
        !directive.is_empty() && !is_level && !is_target
    });
    if let Some(unknown) = unknown {
        return Err(format!(
            "has `{unknown}`, which is no level (off, error, warn, info, debug, trace) and nothing of this server; directives look like `info,sqlx=warn`"
        ));
    }
    EnvFilter::try_new(directives)
        .map_err(|error| format!("must be a level or directives such as `info,sqlx=warn`: {error}"))
}

/// Whether a line may be written at all, whatever `RUST_LOG` says. What others
/// write for finding their bugs holds what passes through them: URLs with a
/// tool's arguments in the query, and headers with keys.
pub fn may_be_written(target: &str, level: Level) -> bool {
    /// Silent below `info`: they name URLs, header by header what is sent and
    /// what comes, and the messages of a TLS handshake.
    const QUIET: [&str; 4] = ["reqwest", "h2", "rustls", "hyper"];
    let from = |name: &str| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let most = if from("chatbot_ui_api") {
        Level::TRACE
    } else if QUIET.into_iter().any(from) {
        Level::INFO
    } else {
        Level::DEBUG
    };
    level <= most
}

thread_local! {
    static LAST_PANIC: Cell<Option<String>> = const { Cell::new(None) };
}

/// Where this thread panicked last, said once.
pub fn last_panic() -> Option<String> {
    LAST_PANIC.take()
}

/// Sends panics to the log, as every other line. Never with their words: those
/// of a cut in the middle of a character quote the whole text, a prompt maybe.
pub fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        let backtrace = Backtrace::capture();
        // Only where RUST_BACKTRACE asks for one.
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(at, backtrace, "a panic: a bug of this server");
        LAST_PANIC.set(at);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_neither_a_level_nor_a_target_is_refused() {
        for right in [
            "info",
            "WARN",
            "off",
            "info,actix_server=warn",
            "sqlx",
            "chatbot_ui_api::llm",
            "debug,hyper=off,",
            "somebody=trace",
            "[request]=debug",
        ] {
            assert!(filter(right).is_ok(), "{right}");
        }
        for (wrong, named) in [("loud", "`loud`"), ("info,lod", "`lod`"), ("a=b=c", "directives such as")] {
            let problem = filter(wrong).expect_err(wrong);
            assert!(problem.contains(named), "{problem}");
        }
    }

    #[test]
    fn what_others_write_for_themselves_is_left_out() {
        assert!(may_be_written("chatbot_ui_api::llm", Level::TRACE));
        assert!(may_be_written("sqlx::query", Level::DEBUG) && !may_be_written("sqlx::query", Level::TRACE));
        assert!(!may_be_written("reqwest::async_impl::client", Level::DEBUG));
        assert!(!may_be_written("h2", Level::DEBUG) && may_be_written("h2", Level::WARN));
        assert!(!may_be_written("chatbot_ui_apis", Level::TRACE));
    }
}
