//! Attempts: the forms in which one request may be sent.

use super::{catalogue::Model, wire::Wire};

/// One way to send a request.
pub struct Attempt<'a> {
    /// The model's id.
    pub model: &'a str,
    /// The API.
    pub wire: Wire,
    /// The catalogue's entry of the model or its family.
    pub rules: Option<&'static Model>,
    /// The client named a model whose purpose is to search the web.
    pub search: bool,
    /// The server only knows its older paths.
    pub old_path: bool,
}
