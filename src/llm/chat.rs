//! A chat as a client posts it, which is to be answered.

use std::borrow::Cow;

use serde_json::{Map, Value, value::RawValue};

use super::{content, history};
use crate::error::Error;

/// A request for an answer. Without `Debug`, as it holds the prompt.
pub struct Chat<'a> {
    /// `chatSettings.model`.
    pub model: String,
    /// `chatSettings.temperature`, as it stands.
    pub temperature: Option<&'a RawValue>,
    /// `messages`, a JSON array as it stands.
    pub messages: &'a RawValue,
}

impl Chat<'_> {
    /// The messages as JSON, without the empty turns that providers refuse and
    /// without what this server added to answers.
    pub fn mended_messages(&self) -> Cow<'_, RawValue> {
        history::mended(self.messages)
    }

    /// The same, taken apart: for the providers whose own messages differ.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if one of them is no object.
    pub fn message_objects(&self) -> Result<Vec<Map<String, Value>>, Error> {
        let raw = self.messages.get();
        let mut messages = serde_json::from_str(raw)
            .or_else(|_| serde_json::from_str(&content::without_lone_surrogates(raw)))
            .map_err(|_| Error::BadRequest("messages: each must be an object".to_owned()))?;
        history::mend_all(&mut messages);
        Ok(messages)
    }
}

/// Tells if an image is among messages.
pub fn has_images(messages: &RawValue) -> bool {
    let messages = messages.get().as_bytes();
    ["\"image_url\"", "\"inlineData\""].iter().any(|name| memchr::memmem::find(messages, name.as_bytes()).is_some())
}
