//! What clients post: JSON, whatever its content type says.
//!
//! The front end's `fetch` sends strings, which makes `text/plain` of them, and the original never looks at the type.

use std::{
    future::Future,
    io,
    pin::Pin,
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpRequest, dev::Payload, error::PayloadError, http::header::CONTENT_LENGTH, web::Bytes,
};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::installed;
use crate::{error::Error, llm::Chat, tools::SelectedTool};

/// Limits on request bodies.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// `MAX_BODY_BYTES`, default 33554432: a larger request is answered 413.
    pub max_bytes: usize,
    /// `BODY_TIMEOUT`, in seconds, default 20: how long a request's body may take, and a second more for each 4 KiB of
    /// it.
    pub timeout: Duration,
}

/// What a client must send in each second beyond `BODY_TIMEOUT`, in bytes.
const SLOWEST: u64 = 4096;

/// A request's body as text: UTF-8, without a byte order mark, and broken characters replaced, as JavaScript reads it.
pub struct Body(pub String);

impl FromRequest for Body {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let bytes = read(&request, payload).await?;
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
            Ok(Self(String::from_utf8_lossy(bytes).into_owned()))
        })
    }
}

/// Reads a body of at most `MAX_BODY_BYTES`.
pub(super) async fn read(request: &HttpRequest, payload: Payload) -> Result<Vec<u8>, Error> {
    let limit = installed::<BodyLimits>(request)?.max_bytes;
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > limit) {
        return Err(Error::BodyTooLarge(limit));
    }
    let mut chunks = std::pin::pin!(in_time(request, payload));
    let mut body = Vec::with_capacity(announced.unwrap_or_default().min(64 * 1024));
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(|error| broken(&error))?);
        if body.len() > limit {
            return Err(Error::BodyTooLarge(limit));
        }
    }
    Ok(body)
}

/// Why a body was not read to its end.
pub(super) fn broken(error: &PayloadError) -> Error {
    match error {
        PayloadError::Io(error) if error.kind() == io::ErrorKind::TimedOut => Error::BodyTooSlow,
        _ => Error::BadRequest("The request body could not be read to its end".to_owned()),
    }
}

/// A body as it comes, as long as it comes in time: a client that sends a byte a second would hold its request forever.
pub fn in_time<P>(request: &HttpRequest, payload: P) -> impl Stream<Item = Result<Bytes, PayloadError>> + use<P>
where
    P: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let limit = installed::<BodyLimits>(request).map_or(Duration::ZERO, |limits| limits.timeout);
    let started = Instant::now();
    stream::unfold((payload, 0), move |(mut payload, received)| async move {
        let limit = limit + Duration::from_secs(received / SLOWEST);
        let left = limit.saturating_sub(started.elapsed());
        let chunk = match tokio::time::timeout(left, payload.next()).await {
            Ok(chunk) => chunk?,
            Err(_) => Err(PayloadError::Io(io::ErrorKind::TimedOut.into())),
        };
        let received = received + chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Some((chunk, (payload, received)))
    })
    // A reader of forms asks again after the end.
    .fuse()
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
    /// [`Error::BadRequest`] where it is no JSON, or `needed` can stand nowhere because it is no object.
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
