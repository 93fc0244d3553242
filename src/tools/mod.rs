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
pub struct SelectedTool {
    /// For sentences about it.
    name: String,
    /// An OpenAPI document or its URL; `None` if it is too large.
    schema: Option<String>,
    /// Headers for every call: a JSON object, mostly as text.
    custom_headers: Option<Box<RawValue>>,
}

impl SelectedTool {
    /// Reads one. What is no tool becomes one without anything, to be refused by name.
    pub fn read(json: &RawValue) -> Self {
        #[derive(Default, Deserialize)]
        struct Members<'a> {
            #[serde(borrow, default)]
            name: Option<&'a RawValue>,
            /// As text or as JSON.
            #[serde(borrow, default)]
            schema: Option<&'a RawValue>,
            #[serde(borrow, default)]
            custom_headers: Option<&'a RawValue>,
        }
        let Members { name, schema, custom_headers } = serde_json::from_str(json.get()).unwrap_or_default();
        // As text every byte may be two.
        let is_too_large = schema.is_some_and(|schema| schema.get().len() > 2 * document::MAX_BYTES);
        let as_text = |value: Option<&RawValue>| value.map(arguments::text).unwrap_or_default().into_owned();
        Self {
            name: as_text(name),
            schema: (!is_too_large).then(|| as_text(schema)),
            custom_headers: custom_headers.map(ToOwned::to_owned),
        }
    }
}
