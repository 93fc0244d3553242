//! What a handler needs to call a provider and to answer.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse,
    dev::Payload,
    http::header::{ACCEPT, HeaderMap},
    web::Data,
};
use futures::stream;
use serde_json::Value;

use super::{installed, respond::respond};
use crate::{
    error::Error,
    llm::{
        Call, Failure, Output, Providers, Wire,
        dispatch::{Answer, Attempt, ModelRequest, Unanswered, dispatch, dispatch_whole},
        openai,
        relay::Relay,
        responses,
    },
    telemetry::RequestLog,
};

/// One chat request's way to a provider and back.
pub struct ChatContext {
    /// This worker's clients of providers.
    pub providers: Data<Providers>,
    /// The request's record.
    pub log: RequestLog,
    request: HttpRequest,
    as_events: bool,
}

impl FromRequest for ChatContext {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let log = request.extensions().get::<RequestLog>().cloned();
        let providers = installed::<Providers>(request).cloned();
        ready(providers.and_then(|providers| {
            let log = log.ok_or_else(|| Error::Internal("the request has no record".to_owned()))?;
            Ok(Self { providers, log, request: request.clone(), as_events: accepts_events(request.headers()) })
        }))
    }
}

/// Whether `Accept` names `text/event-stream`, and not with `q=0`.
fn accepts_events(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    ranges.into_iter().any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_events = parts.next().is_some_and(|media| media.eq_ignore_ascii_case("text/event-stream"));
        let refused = parts.any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("q") && value.trim().parse::<f32>().is_ok_and(|quality| quality <= 0.0)
            })
        });
        is_events && !refused
    })
}

impl ChatContext {
    /// Records the provider, and the model if there is one.
    pub fn note(&self, provider: &'static str, model: &str) {
        let mut facts = self.log.note();
        facts.provider = Some(provider);
        facts.model = (!model.is_empty()).then(|| model.chars().take(100).collect());
    }

    /// Sends a request to a model and relays its answer as it comes.
    ///
    /// # Errors
    /// If it fails before the first text: as `map_err` words it. A later
    /// failure cuts the answer.
    pub async fn relay(
        self,
        request: ModelRequest,
        make_call: impl Fn(&Attempt<'_>) -> Result<Call, Error>,
        map_err: impl Fn(Failure) -> Error + 'static,
    ) -> Result<HttpResponse, Error> {
        let (providers, log) = (&self.providers, &self.log);
        let opened = async move {
            // Boxed, and the request moved in, so that neither it nor the
            // prompt is held once the provider has begun to answer.
            let answer = Box::pin(dispatch(providers, request, Box::new(make_call), log)).await?;
            let Answer { body, reader, max_event_bytes, .. } = answer;
            Ok(Relay::open(body, reader, max_event_bytes, log.clone()).await?)
        };
        match opened.await {
            Ok(relay) => Ok(respond(&self.request, self.as_events, relay, map_err)),
            Err::<_, Unanswered>(unanswered) => Err(unanswered.into_error(map_err)),
        }
    }

    /// Sends a request to a model and returns its answer, which comes in one
    /// piece, as a message of a chat.
    ///
    /// # Errors
    /// If it fails, in the provider's words.
    pub async fn message(
        &self,
        request: ModelRequest,
        make_call: impl Fn(&Attempt<'_>) -> Result<Call, Error>,
    ) -> Result<Value, Error> {
        let answer = Box::pin(dispatch_whole(&self.providers, request, Box::new(make_call), &self.log)).await;
        let (completion, wire) = answer.map_err(|unanswered| unanswered.into_error(openai::plain_error))?;
        let message = match wire {
            Wire::Responses => responses::message(&completion),
            _ => openai::message(completion),
        };
        message.map_err(openai::plain_error)
    }

    /// Answers with a text that is complete already.
    pub fn text(self, text: String) -> HttpResponse {
        let output = Output { text, ..Output::default() };
        respond(&self.request, self.as_events, stream::iter([Ok(output)]), |_| Error::Internal(String::new()))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn events_are_sent_to_clients_that_accept_them() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("text/html, Text/Event-Stream;q=0.5", true),
            ("text/event-stream;q=0", false),
            ("text/event-stream; Q=0.0, */*", false),
            ("*/*", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(accepts_events(&headers), expected, "{accept}");
        }
    }
}
