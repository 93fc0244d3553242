//! How an answer leaves: as plain text, or, with `Accept: text/event-stream`,
//! as events.

use std::future::ready;

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    http::header::{CACHE_CONTROL, HeaderName, HeaderValue},
    web::Bytes,
};
use actix_web_lab::sse::{self, Event, Sse};
use futures::{Stream, StreamExt, stream};
use serde_json::json;

use crate::{
    error::Error,
    llm::{Failure, Output},
};

/// Streams `outputs`: as plain text, or, with `as_events`, as events. As
/// text, a failure cuts the connection, so that the client can tell.
pub(super) fn respond(
    request: &HttpRequest,
    as_events: bool,
    outputs: impl Stream<Item = Result<Output, Failure>> + 'static,
    map_err: impl Fn(Failure) -> Error + 'static,
) -> HttpResponse {
    let mut response = if as_events {
        Sse::from_infallible_stream(events(outputs, map_err)).respond_to(request)
    } else {
        let text = outputs.filter_map(async |item| match item {
            Ok(Output { text, .. }) => (!text.is_empty()).then(|| Ok(Bytes::from(text))),
            Err(_) => Some(Err(Cut)),
        });
        HttpResponse::Ok().content_type("text/plain; charset=utf-8").streaming(text)
    };
    let headers = response.headers_mut();
    // Next.js, where it passes `/api` on by a rewrite, compresses and so
    // buffers an answer that may be transformed.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // nginx buffers an answer before it passes it on otherwise.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// Cuts the connection. It says nothing, because actix writes it to the log;
/// what happened stands in the request's own line.
#[derive(Debug, thiserror::Error)]
#[error("the answer is cut")]
struct Cut;

/// An answer as events: `delta` (`{"text"}`), `usage` (the provider's own
/// count), and at the end `done` (`{}`) or `error` (`{"message"}`).
fn events(
    outputs: impl Stream<Item = Result<Output, Failure>>,
    map_err: impl Fn(Failure) -> Error,
) -> impl Stream<Item = Event> {
    let event = |name: &'static str, data: String| Event::from(sse::Data::new(data).event(name));
    let steps = outputs.map(Some).chain(stream::once(ready(None)));
    let events = steps.scan(false, move |failed, step| {
        let mut events = Vec::new();
        match step {
            Some(Ok(Output { text, usage, .. })) => {
                if !text.is_empty() {
                    events.push(event("delta", json!({ "text": text }).to_string()));
                }
                events.extend(usage.into_iter().map(|usage| event("usage", String::from(Box::<str>::from(usage)))));
            }
            Some(Err(failure)) => {
                *failed = true;
                events.push(event("error", json!({ "message": map_err(failure).to_string() }).to_string()));
            }
            None if *failed => {}
            None => events.push(event("done", "{}".to_owned())),
        }
        ready(Some(stream::iter(events)))
    });
    events.flatten()
}
