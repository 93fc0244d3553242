//! Properties that all clients share.

use std::time::Duration;

/// The `User-Agent` of this server.
pub const USER_AGENT: &str = concat!("chatbot-ui-api/", env!("CARGO_PKG_VERSION"));
/// The time for which an idle connection is kept: most servers close it after a
/// minute or more.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(55);
