//! Tools: OpenAPI documents that users enter, shown to the model as functions
//! ([`openapi`]), and called when the model wants it ([`invoke`]).

mod arguments;
pub mod body;
pub mod budget;
pub mod document;
mod headers;
pub mod invoke;
mod names;
pub mod offer;
pub mod openapi;
pub mod parameter;
mod references;
pub mod request;
mod schema;
mod server;
pub mod style;

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::http_client::GuardedClient;

/// What calls tools: one worker's.
pub struct ToolClient {
    /// Checks every connection.
    pub http: GuardedClient,
    /// `TOOL_TIMEOUT`, for one call, its answer included.
    pub timeout: Duration,
}

/// A tool as the client sends it. Without `Debug`: its headers hold keys.
#[derive(Deserialize)]
pub struct SelectedTool {
    /// For the log.
    #[serde(default)]
    pub name: Value,
    /// An OpenAPI document: JSON, mostly as text.
    #[serde(default)]
    pub schema: Value,
    /// Headers for every call: a JSON object, mostly as text.
    #[serde(default)]
    pub custom_headers: Value,
}
