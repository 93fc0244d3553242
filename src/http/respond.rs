//! Streaming an answer: as plain text, or, with `Accept: text/event-stream`, as events.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    http::header::{CACHE_CONTROL, HeaderName, HeaderValue},
    web::Bytes,
};
use actix_web_lab::sse::{self, Event, Sse};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    error::Error,
    llm::{
        Failure,
        answer::Finish,
        notes,
        relay::{End, Piece},
    },
    telemetry::RequestLog,
};

/// Additions to answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerSettings {
    /// `ANSWER_NOTES`, `on` (the default) or `off`: the text of an incomplete answer ends with a line that gives the
    /// reason. `off` leaves the text as the model wrote it, also without its sources.
    pub notes: bool,
    /// `ANSWER_SOURCES`, `on` (the default) or `off`: the pages that an answer cites are listed after its text, and
    /// sent as an event.
    pub sources: bool,
    /// `HEARTBEAT`, in seconds, default 15, 0 = none: interval of comments to a client that takes events, from the
    /// start of the request.
    pub heartbeat: Option<Duration>,
}

/// Streams an answer's pieces: as plain text, or, with `as_events`, as events. As text, a failure cuts the connection,
/// so that the client can tell.
pub(super) fn respond(
    request: &HttpRequest,
    as_events: bool,
    settings: AnswerSettings,
    log: RequestLog,
    pieces: impl Stream<Item = Piece> + Unpin + 'static,
    map_err: impl Fn(Failure) -> Error + 'static,
) -> HttpResponse {
    let mut response = if as_events {
        let events = pieces.flat_map(move |piece| stream::iter(events(piece, settings, &log, &map_err)));
        let mut events = Sse::from_infallible_stream(events);
        if let Some(heartbeat) = settings.heartbeat {
            events = events.with_keep_alive(heartbeat);
        }
        events.respond_to(request)
    } else {
        let text = Text { pieces, settings, state: State::Streaming };
        HttpResponse::Ok().content_type("text/plain; charset=utf-8").streaming(text)
    };
    let headers = response.headers_mut();
    // Next.js, if it passes `/api` on by a rewrite, compresses and therefore buffers a response that may be
    // transformed.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // Keeps nginx from buffering the response.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// Closes the connection. It has no details, because actix logs it; the request's own log line has them.
#[derive(Debug, thiserror::Error)]
#[error("the answer is cut")]
struct Cut;

/// Streams an answer as text.
struct Text<S> {
    pieces: S,
    settings: AnswerSettings,
    state: State,
}

enum State {
    Streaming,
    /// Pending output is written before the connection is closed.
    Flushing,
    Cutting,
    Ended,
}

impl<S: Stream<Item = Piece> + Unpin> Stream for Text<S> {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.state {
                State::Streaming => match ready!(self.pieces.poll_next_unpin(cx)) {
                    Some(Piece::Text(text)) => return Poll::Ready(Some(Ok(text.into()))),
                    Some(Piece::Reasoning(_) | Piece::Tool { .. } | Piece::Warning(_)) => {}
                    Some(Piece::End(end)) => {
                        self.state = if end.outcome.is_ok() { State::Ended } else { State::Flushing };
                        let tail = tail(&end, self.settings);
                        if !tail.is_empty() {
                            return Poll::Ready(Some(Ok(tail.into())));
                        }
                    }
                    None => self.state = State::Ended,
                },
                State::Flushing => {
                    self.state = State::Cutting;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                State::Cutting => {
                    self.state = State::Ended;
                    return Poll::Ready(Some(Err(Cut)));
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

/// Returns the additions after an answer's text.
fn tail(end: &End, settings: AnswerSettings) -> String {
    let mut tail = String::new();
    if settings.notes {
        if settings.sources && end.outcome.is_ok() {
            tail.push_str(&end.sources.markdown());
        }
        tail.push_str(&notes::last_line(&end.outcome).unwrap_or_default());
    }
    tail
}

#[derive(Serialize)]
struct Delta<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Done<'a> {
    /// `stop`, `length` or `tool_calls`; `null` if the provider gave none.
    finish_reason: Option<&'static str>,
    /// As the client named it.
    model: Option<&'a str>,
    /// The one that was asked, which may be its successor.
    effective_model: Option<&'a str>,
    usage: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Failed<'a> {
    message: &'a str,
}

#[derive(Serialize)]
struct Called<'a> {
    name: &'a str,
    status: &'a str,
}

#[derive(Serialize)]
struct Cited<'a> {
    sources: &'a crate::llm::answer::sources::Sources,
}

/// A piece of an answer as events: `delta` (`{"text"}`), `reasoning`
/// (`{"text"}`), `tool` (`{"name", "status"}`), `warning` (`{"message"}`), and
/// at the end `sources` (`{"sources": [{"url", "title"}]}`),
/// `usage` (the provider's own count), and `done`
/// (`{"finish_reason", "model", "effective_model", "usage"}`) or `error` (`{"message"}`).
fn events(piece: Piece, settings: AnswerSettings, log: &RequestLog, map_err: &impl Fn(Failure) -> Error) -> Vec<Event> {
    let end = match piece {
        Piece::Text(text) => return vec![event("delta", &Delta { text: &text })],
        Piece::Reasoning(text) => return vec![event("reasoning", &Delta { text: &text })],
        Piece::Tool { name, status } => return vec![event("tool", &Called { name: &name, status })],
        Piece::Warning(message) => return vec![event("warning", &Failed { message: &message })],
        Piece::End(end) => *end,
    };
    let mut events = Vec::new();
    if settings.sources && !end.sources.is_empty() {
        events.push(event("sources", &Cited { sources: &end.sources }));
    }
    if let Some(usage) = &end.usage {
        events.push(event("usage", usage));
    }
    events.push(match end.outcome {
        Ok(finish) => {
            let facts = log.note();
            event(
                "done",
                &Done {
                    finish_reason: finish.as_ref().map(Finish::as_str),
                    model: facts.model.as_deref(),
                    effective_model: facts.effective_model.as_deref(),
                    usage: end.usage.as_deref(),
                },
            )
        }
        Err(failure) => event("error", &Failed { message: &map_err(failure).to_string() }),
    });
    events
}

fn event(name: &'static str, data: &impl Serialize) -> Event {
    // Structs of strings, which always serialize.
    sse::Data::new(serde_json::to_string(data).unwrap_or_default()).event(name).into()
}
