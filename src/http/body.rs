//! Request bodies: JSON, whatever the content type says.
//!
//! The front end's `fetch` sends strings, which makes the type `text/plain`, and the original never checks it.

use std::{
    future::{Ready, ready},
    io,
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpRequest, dev::Payload, error::PayloadError, http::header::CONTENT_LENGTH, web::Bytes,
};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::installed;
use crate::{
    allowance::{Buffers, Charge, Turns, json},
    error::Error,
};

/// Limits on request bodies.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// `MAX_BODY_BYTES`, default 33554432: a larger request is answered with 413.
    pub max_bytes: usize,
    /// `BODY_TIMEOUT`, in seconds, default 20: time limit for a request's body, extended by a second for each 4 KiB of
    /// it.
    pub timeout: Duration,
}

/// The slowest accepted rate beyond `BODY_TIMEOUT`, in bytes per second.
const SLOWEST: u64 = 4096;

/// Largest body of a route that takes a short text, a name or an id, in bytes.
pub const QUESTION: usize = 1024 * 1024;
/// Largest form, which holds an id and a provider's name, in bytes.
pub const FORM: usize = 64 * 1024;
/// The most JSON values in one body: a chat of a thousand messages has some ten thousand.
const MAX_NODES: usize = 200_000;
/// Size in bytes from which a body is parsed, and a request made of it, on a blocking thread.
pub const BLOCKING_FROM: usize = 256 * 1024;

/// A request's unread body: it is read only for a user with a valid token who is admitted.
pub struct UnreadBody {
    request: HttpRequest,
    payload: Payload,
}

impl FromRequest for UnreadBody {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(Ok(Self { request: request.clone(), payload: payload.take() }))
    }
}

impl UnreadBody {
    /// Returns the body's size, if the client announced it.
    pub fn announced(&self) -> Option<usize> {
        announced(&self.request)
    }

    /// Reads a body of at most `limit` bytes, and never more than `MAX_BODY_BYTES`, as text: UTF-8, without a byte
    /// order mark, invalid bytes replaced, as JavaScript decodes it.
    ///
    /// Its memory is charged to the user as long as it lives.
    ///
    /// # Errors
    /// If it is too large, too slow, incomplete, has too many values, or the user's allowance of bytes is used up; if
    /// it is large, and others are being parsed for too long.
    pub async fn read(self, user: Uuid, limit: usize) -> Result<Body, Error> {
        self.parse(user, limit, Ok).await
    }

    /// Reads a body as [`UnreadBody::read`] does, and parses it: a large one on a blocking thread.
    ///
    /// # Errors
    /// As [`UnreadBody::read`], and those of `parse`.
    pub async fn parse<T: Send + 'static>(
        self,
        user: Uuid,
        limit: usize,
        parse: impl FnOnce(Body) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (request, bytes, charge) = self.read_bytes(user, limit).await?;
        if bytes.len() < BLOCKING_FROM {
            return parse(Body::new(bytes, charge)?);
        }
        installed::<Turns>(&request)?.run(user, || parse(Body::new(bytes, charge)?)).await?
    }

    /// Reads a body as bytes, with what is charged for them; see [`UnreadBody::read`].
    ///
    /// # Errors
    /// As [`UnreadBody::read`].
    pub async fn read_bytes(self, user: Uuid, limit: usize) -> Result<(HttpRequest, Vec<u8>, Charge), Error> {
        let Self { request, payload } = self;
        let limit = installed::<BodyLimits>(&request)?.max_bytes.min(limit);
        let announced = announced(&request);
        if announced.is_some_and(|bytes| bytes > limit) {
            return Err(Error::BodyTooLarge(limit));
        }
        // Twice: the body, and the request to a provider that is made of it.
        let mut charge = installed::<Buffers>(&request)?.charge(user, announced.unwrap_or_default() * 2)?;
        let mut charged = announced.unwrap_or_default();
        let mut body = Vec::with_capacity(announced.unwrap_or_default());
        {
            let mut chunks = std::pin::pin!(in_time(&request, payload));
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(|error| broken(&error))?;
                if body.len() + chunk.len() > limit {
                    return Err(Error::BodyTooLarge(limit));
                }
                if body.len() + chunk.len() > charged {
                    // In steps, because a body may come in many chunks.
                    let step = chunk.len().max(body.len()).max(64 * 1024).min(limit);
                    charge.grow(step * 2)?;
                    charged += step;
                }
                body.extend_from_slice(&chunk);
            }
        }
        Ok((request, body, charge))
    }
}

fn announced(request: &HttpRequest) -> Option<usize> {
    request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// A request's body as text. Without `Debug`, because it holds a user's text.
pub struct Body {
    /// The text.
    pub text: String,
    charge: Charge,
}

fn text(bytes: Vec<u8>, charge: &mut Charge) -> Result<String, Error> {
    let text = match String::from_utf8(bytes) {
        Ok(mut text) => {
            if text.starts_with('\u{feff}') {
                text.drain(..'\u{feff}'.len_utf8());
            }
            text
        }
        Err(error) => {
            let bytes = error.as_bytes();
            // Each invalid sequence becomes the three bytes of U+FFFD.
            let invalid = bytes.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count();
            charge.grow(invalid * 2 * char::REPLACEMENT_CHARACTER.len_utf8())?;
            String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).into_owned()
        }
    };
    if json::has_at_most_nodes(&text, MAX_NODES) {
        Ok(text)
    } else {
        Err(Error::BadRequest(format!("The request body has more than {MAX_NODES} JSON values, the most that is read")))
    }
}

/// Maps the reason why a body could not be read.
pub fn broken(error: &PayloadError) -> Error {
    match error {
        PayloadError::Io(error) if error.kind() == io::ErrorKind::TimedOut => Error::BodyTooSlow,
        _ => Error::BadRequest("The request body could not be read completely".to_owned()),
    }
}

/// Passes a body through as long as it arrives in time: a client that sends a byte a second would hold its request
/// forever.
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
    .fuse()
}

impl Body {
    /// Decodes bytes for which `charge` is charged.
    ///
    /// # Errors
    /// If it has too many values, or the user's allowance of bytes is used up.
    pub fn new(bytes: Vec<u8>, mut charge: Charge) -> Result<Self, Error> {
        let text = text(bytes, &mut charge)?;
        Ok(Self { text, charge })
    }

    /// Returns what is charged for it, for as long as what was made of it is kept.
    pub fn into_charge(self) -> Charge {
        self.charge
    }

    /// Parses the body as a JSON object.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if it is not JSON, or not an object, so that `needed` is missing.
    pub fn object<'a, T: Deserialize<'a>>(&'a self, needed: &str) -> Result<T, Error> {
        let no_json = |_| Error::BadRequest("The request body is not valid JSON".to_owned());
        if !self.text.trim_ascii_start().starts_with('{') {
            serde_json::from_str::<&RawValue>(&self.text).map_err(no_json)?;
            return Err(Error::BadRequest(format!("{needed} is missing: the request body must be a JSON object")));
        }
        serde_json::from_str(&self.text).map_err(|error| {
            if error.is_data() {
                Error::BadRequest(format!("{needed}: a member of the request body is duplicated or has the wrong type"))
            } else {
                no_json(error)
            }
        })
    }
}
