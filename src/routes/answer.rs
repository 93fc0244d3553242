//! How an answer leaves: as plain text, or, with `Accept: text/event-stream`,
//! as events.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse, Responder,
    dev::Payload,
    http::header::{ACCEPT, CACHE_CONTROL, HeaderName, HeaderValue},
    web::{Bytes, Data},
};
use actix_web_lab::sse::{self, Event, Sse};
use futures::{Stream, StreamExt, stream};
use serde_json::json;

use crate::{
    app::State,
    error::Error,
    llm::{self, Call, Failure, Output, Reader, relay::Relay},
    outbound::Clients,
    telemetry::RequestLog,
};

/// What a handler needs to ask others and to answer.
pub struct Exchange {
    /// The server's.
    pub state: Data<State>,
    /// This worker's.
    pub clients: Data<Clients>,
    /// The request's.
    pub log: RequestLog,
    request: HttpRequest,
    as_events: bool,
}

impl FromRequest for Exchange {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let accept = request.headers().get_all(ACCEPT).filter_map(|value| value.to_str().ok());
        let mut media = accept.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
        let as_events = media.any(|media| media.trim().eq_ignore_ascii_case("text/event-stream"));
        let state = request.app_data::<Data<State>>().cloned();
        let clients = request.app_data::<Data<Clients>>().cloned();
        let log = request.extensions().get::<RequestLog>().cloned();
        ready(match (state, clients, log) {
            (Some(state), Some(clients), Some(log)) => {
                Ok(Self { state, clients, log, request: request.clone(), as_events })
            }
            _ => Err(Error::Internal("this worker lacks its state, its clients or its log".to_owned())),
        })
    }
}

impl Exchange {
    /// Notes who is asked, and for which model, if for one.
    pub fn note(&self, provider: &'static str, model: &str) {
        let mut facts = self.log.note();
        facts.provider = Some(provider);
        facts.model = (!model.is_empty()).then(|| model.chars().take(100).collect());
    }

    /// Asks a provider and answers with what it says, as it says it. What the
    /// call was made of is best dropped before: this may take minutes.
    ///
    /// # Errors
    /// What fails before the first text, in the route's `words`. What fails
    /// later cuts the answer.
    pub async fn relay(
        self,
        call: Call,
        reader: Reader,
        words: impl Fn(Failure) -> Error + 'static,
    ) -> Result<HttpResponse, Error> {
        let (clients, log, max_event_bytes) = (&self.clients, &self.log, call.max_event_bytes());
        let opened = async move {
            // Boxed, and the call moved in, so that neither it nor the prompt
            // is held once the provider has begun to answer.
            let body = Box::pin(async move { llm::send(clients, &call, log).await }).await?;
            Relay::open(body, reader, max_event_bytes, log.clone()).await
        };
        match opened.await {
            Ok(relay) => Ok(self.answer(relay, words)),
            Err(failure) => Err(words(failure)),
        }
    }

    /// Answers with a text that is there already.
    pub fn text(self, text: String) -> HttpResponse {
        let output = Output { text, ..Output::default() };
        self.answer(stream::iter([Ok(output)]), |_| Error::Internal(String::new()))
    }

    /// As text, a failure cuts the connection, so that the client can tell.
    fn answer(
        self,
        outputs: impl Stream<Item = Result<Output, Failure>> + 'static,
        words: impl Fn(Failure) -> Error + 'static,
    ) -> HttpResponse {
        let mut response = if self.as_events {
            Sse::from_infallible_stream(events(outputs, words)).respond_to(&self.request)
        } else {
            let text = outputs.filter_map(async |item| match item {
                Ok(Output { text, .. }) => (!text.is_empty()).then(|| Ok(Bytes::from(text))),
                Err(_) => Some(Err(Cut)),
            });
            HttpResponse::Ok().content_type("text/plain; charset=utf-8").streaming(text)
        };
        let headers = response.headers_mut();
        // Next.js, where it passes `/api` on by a rewrite, compresses and so
        // gathers an answer that may be transformed.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
        // nginx gathers an answer before it passes it on otherwise.
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        response
    }
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
    words: impl Fn(Failure) -> Error,
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
                events.push(event("error", json!({ "message": words(failure).to_string() }).to_string()));
            }
            None if *failed => {}
            None => events.push(event("done", "{}".to_owned())),
        }
        ready(Some(stream::iter(events)))
    });
    events.flatten()
}
