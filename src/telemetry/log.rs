//! Log configuration: `RUST_LOG`, filtering of other crates' lines, and panics.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    borrow::Cow,
    cell::Cell,
    fmt::Write as _,
    io,
};

use tracing::Level;
use tracing_subscriber::EnvFilter;

/// The targets that a directive without a level may name: the parts of this server that write to the log.
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

/// Parses `RUST_LOG`.
///
/// # Errors
/// If it is invalid: the problem, to be appended to the variable's name.
pub fn filter(directives: &str) -> Result<EnvFilter, String> {
    // A misspelt level would be parsed as a target that never writes, and silence everything.
    let unknown = directives.split(',').map(str::trim).find(|directive| {
        let is_level = directive.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        let is_target = directive.contains(['=', '[']) || TARGETS.iter().any(|target| directive.starts_with(target));
        !directive.is_empty() && !is_level && !is_target
    });
    if let Some(unknown) = unknown {
        return Err(format!(
            "has `{unknown}`, which is neither a level (off, error, warn, info, debug, trace) nor a part of this server; directives look like `info,sqlx=warn`"
        ));
    }
    EnvFilter::try_new(directives)
        .map_err(|error| format!("must be a level or directives such as `info,sqlx=warn`: {error}"))
}

/// Tells if a line may be written at all, whatever `RUST_LOG` says. Debug lines of other crates hold the data that
/// passes through them: URLs with a tool's arguments in the query, and headers with keys.
pub fn may_be_written(target: &str, level: Level) -> bool {
    /// Silent below `info`: they log URLs, every header in both directions, and the messages of TLS handshakes.
    const QUIET: [&str; 4] = ["reqwest", "h2", "rustls", "hyper"];
    let from = |name: &str| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let most = if from("chatbot_ui_api") {
        Level::TRACE
    } else if !TARGETS.iter().any(|known| target.starts_with(known)) {
        // Readers of files would write what a file says.
        return false;
    } else if QUIET.into_iter().any(from) {
        Level::INFO
    } else {
        Level::DEBUG
    };
    level <= most
}

/// Writes log lines to standard error with C1 controls, line separators and bidirectional controls escaped as `\uXXXX`:
/// names from a client must not reorder or colour a line in a terminal or a viewer.
pub struct EscapingWriter;

impl io::Write for EscapingWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&escape(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn escape(line: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(line) else { return Cow::Borrowed(line) };
    let hidden = |character: char| matches!(character, '\u{80}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(hidden) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if hidden(character) {
            // Writing into a string cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped.into_bytes())
}

thread_local! {
    static LAST_PANIC: Cell<Option<String>> = const { Cell::new(None) };
}

/// Returns the location of this thread's last panic, once.
pub fn last_panic() -> Option<String> {
    LAST_PANIC.take()
}

/// Logs panics like any other line. Never with their message: that of a slice within a character quotes the whole text,
/// possibly a prompt.
pub fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        let backtrace = Backtrace::capture();
        // Only if RUST_BACKTRACE requests one.
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
    fn controls_that_would_change_a_line_are_escaped() {
        let line = "a\u{9b}31m b\u{202e}c\u{2066} d\u{2028}e äöü 漢".as_bytes();
        let escaped = escape(line);
        assert_eq!(escaped, "a\\u009b31m b\\u202ec\\u2066 d\\u2028e äöü 漢".as_bytes());
        assert!(matches!(escape("plain ü".as_bytes()), Cow::Borrowed(_)));
    }

    #[test]
    fn what_others_write_for_themselves_is_left_out() {
        assert!(may_be_written("chatbot_ui_api::llm", Level::TRACE));
        assert!(may_be_written("sqlx::query", Level::DEBUG) && !may_be_written("sqlx::query", Level::TRACE));
        assert!(!may_be_written("reqwest::async_impl::client", Level::DEBUG));
        assert!(!may_be_written("h2", Level::DEBUG) && may_be_written("h2", Level::WARN));
        assert!(!may_be_written("chatbot_ui_apis", Level::TRACE));
        assert!(!may_be_written("hayro_syntax::reader", Level::ERROR) && !may_be_written("lopdf", Level::WARN));
    }
}
