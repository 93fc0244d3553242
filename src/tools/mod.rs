//! Tools: OpenAPI documents that users enter ([`source`]), read ([`document`])
//! and offered to the model as functions ([`offer`]), whose calls become
//! requests ([`request`]) that are carried out ([`invoke`]).

mod arguments;
pub mod body;
pub mod budget;
pub mod document;
mod headers;
pub mod invoke;
pub mod names;
pub mod offer;
pub mod parameter;
mod references;
pub mod request;
mod schema;
mod server;
pub mod source;
pub mod style;

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http_client::GuardedClient;

/// What calls tools: one worker's.
pub struct ToolClient {
    /// Checks every connection.
    pub http: GuardedClient,
    /// `TOOL_TIMEOUT`, for one call, its answer included.
    pub timeout: Duration,
}

/// A tool as the client sends it. Without `Debug`: its headers hold keys.
#[derive(Default, Deserialize)]
pub struct SelectedTool<'a> {
    /// For sentences about it.
    #[serde(borrow, default)]
    pub name: Option<&'a RawValue>,
    /// An OpenAPI document as text or as JSON, or its URL.
    #[serde(borrow, default)]
    pub schema: Option<&'a RawValue>,
    /// Headers for every call: a JSON object, mostly as text.
    #[serde(borrow, default)]
    pub custom_headers: Option<&'a RawValue>,
}
