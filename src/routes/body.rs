//! What clients post: JSON, whatever its content type says.
//!
//! The front end's `fetch` sends strings, which makes `text/plain` of them,
//! and the original never looks at the type.

use std::{future::Future, pin::Pin};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::StatusCode,
    web::{Bytes, Data},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{app::State, error::Error, llm::Chat, tools::SelectedTool};

/// A request's body as text: UTF-8, without a byte order mark, and broken
/// characters replaced, as JavaScript reads it.
pub struct Body(pub String);

impl FromRequest for Body {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let limit = request.app_data::<Data<State>>().map_or(0, |state| state.config.max_body_bytes);
        let bytes = Bytes::from_request(request, payload);
        Box::pin(async move {
            let bytes = bytes.await.map_err(|error| match error.as_response_error().status_code() {
                StatusCode::PAYLOAD_TOO_LARGE => Error::BodyTooLarge(limit),
                _ => Error::BadRequest("The request body could not be read to its end".to_owned()),
            })?;
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
            Ok(Self(String::from_utf8_lossy(bytes).into_owned()))
        })
    }
}

/// What a chat route is posted. Members it does not know are passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChatBody<'a> {
    #[serde(borrow, default)]
    chat_settings: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    /// A row of `models`; only for custom models.
    #[serde(borrow, default)]
    custom_model_id: Option<&'a RawValue>,
    /// Only for tools.
    #[serde(borrow, default)]
    selected_tools: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Settings<'a> {
    #[serde(default)]
    model: Option<String>,
    #[serde(borrow, default)]
    temperature: Option<&'a RawValue>,
}

impl Body {
    /// Reads the body as what a chat route is posted.
    ///
    /// # Errors
    /// As [`Body::object`].
    pub fn chat(&self) -> Result<ChatBody<'_>, Error> {
        self.object("chatSettings")
    }

    /// Reads the body as a JSON object.
    ///
    /// # Errors
    /// [`Error::BadRequest`] where it is no JSON, or `needed` can stand
    /// nowhere because it is no object.
    pub fn object<'a, T: Deserialize<'a>>(&'a self, needed: &str) -> Result<T, Error> {
        let no_json = |_| Error::BadRequest("The request body is not valid JSON".to_owned());
        if !self.0.trim_ascii_start().starts_with('{') {
            serde_json::from_str::<&RawValue>(&self.0).map_err(no_json)?;
            return Err(Error::BadRequest(format!("{needed} is missing: the request body must be a JSON object")));
        }
        serde_json::from_str(&self.0).map_err(|error| {
            if error.is_data() {
                Error::BadRequest(format!("{needed}: a member of the request body is there twice or of the wrong kind"))
            } else {
                no_json(error)
            }
        })
    }
}

impl<'a> ChatBody<'a> {
    /// What is to be answered.
    ///
    /// # Errors
    /// [`Error::BadRequest`] with the member that is missing or wrong.
    pub fn chat(&self) -> Result<Chat<'a>, Error> {
        let bad = |sentence: &str| Error::BadRequest(sentence.to_owned());
        let settings = self.chat_settings.ok_or_else(|| bad("chatSettings is missing: it names the model"))?;
        if !settings.get().starts_with('{') {
            return Err(bad("chatSettings must be an object that names the model"));
        }
        let settings: Settings<'_> =
            serde_json::from_str(settings.get()).map_err(|_| bad("chatSettings.model must be a string"))?;
        let model = settings.model.ok_or_else(|| bad("chatSettings.model is missing"))?;
        let messages = self.messages.ok_or_else(|| bad("messages is missing: it must be an array"))?;
        if !messages.get().starts_with('[') {
            return Err(bad("messages must be an array"));
        }
        Ok(Chat { model, temperature: settings.temperature, messages })
    }

    /// The tools that the model may call.
    ///
    /// # Errors
    /// [`Error::BadRequest`] where they are missing or none.
    pub fn selected_tools(&self) -> Result<Vec<SelectedTool>, Error> {
        let tools = self
            .selected_tools
            .ok_or_else(|| Error::BadRequest("selectedTools is missing: it must be an array".to_owned()))?;
        let tools: Vec<Value> = serde_json::from_str(tools.get())
            .map_err(|_| Error::BadRequest("selectedTools must be an array of tools".to_owned()))?;
        // One that is none does not spoil the others.
        Ok(tools.into_iter().filter_map(|tool| serde_json::from_value(tool).ok()).collect())
    }

    /// The custom model's id, where it is text.
    pub fn custom_model_id(&self) -> Option<String> {
        serde_json::from_str(self.custom_model_id?.get()).ok()
    }
}
