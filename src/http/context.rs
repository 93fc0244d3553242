//! The context of a chat: access to providers, and the response.

use std::future::{Future, Ready, ready};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse,
    dev::Payload,
    http::header::{ACCEPT, HeaderMap},
    web::Data,
};
use futures::{Stream, StreamExt, future::Either, stream};
use serde_json::Value;
use uuid::Uuid;

use super::{
    installed,
    respond::{AnswerSettings, respond},
    user::User,
};
use crate::{
    allowance::{Buffers, Charge},
    error::Error,
    llm::{
        Call, Failure, Providers, Reading, Wire,
        answer::{Finish, Wanted},
        azure,
        dispatch::{Attempt, MakeCall, ModelRequest, Unanswered, dispatch, dispatch_whole},
        openai,
        providers::OPENAI,
        relay::{End, Piece, Relay, record_end},
        responses,
        tokens::tokens,
    },
    retrieval::embed,
    telemetry::RequestLog,
    usage::{Ledger, Plan, estimate},
};

/// The components for a chat request.
pub struct ChatContext {
    /// This worker's clients of providers.
    pub providers: Data<Providers>,
    /// The request's record.
    pub log: RequestLog,
    request: HttpRequest,
    as_events: bool,
    settings: AnswerSettings,
}

impl FromRequest for ChatContext {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let log = request.extensions().get::<RequestLog>().cloned();
        let providers = installed::<Providers>(request).cloned();
        ready(providers.and_then(|providers| {
            let log = log.ok_or_else(|| Error::Internal("the request has no record".to_owned()))?;
            let settings = *installed::<AnswerSettings>(request)?.get_ref();
            let as_events = accepts_events(request.headers());
            Ok(Self { providers, log, request: request.clone(), as_events, settings })
        }))
    }
}

/// Tells if `Accept` names `text/event-stream`, and not with `q=0`.
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
    /// If it fails before the first text: as `map_err` words it. A later failure cuts the answer.
    pub async fn relay(
        self,
        model_request: ModelRequest,
        make_call: impl Fn(&Attempt<'_>) -> Result<Call, Error> + 'static,
        map_err: impl Fn(Failure) -> Error + 'static,
    ) -> Result<HttpResponse, Error> {
        let wanted = Wanted { reasoning: self.as_events, calls: false };
        let (providers, charge, log) = (self.providers.clone(), self.charge(), self.log.clone());
        let opening = open(providers, model_request, Box::new(make_call), charge, wanted, log);
        self.answer(opening, map_err).await
    }

    /// Reserves room in the user's budgets for the vectors of texts of at most so many tokens.
    ///
    /// # Errors
    /// If a budget has no room, or the database does not answer.
    pub async fn reserve_embeddings(&self, user: &User, tokens: u64) -> Result<(), Error> {
        let ledger = installed::<Ledger>(&self.request)?;
        if !ledger.is_on().await? {
            return Ok(());
        }
        let provider = if user.profile()?.use_azure_openai { azure::PROVIDER } else { OPENAI.path };
        let plan = Plan {
            route: self.request.match_pattern().unwrap_or_default(),
            provider,
            models: vec![embed::MODEL.to_owned()],
            estimate: estimate::embeddings(tokens),
        };
        ledger.reserve(user.id, plan, &self.log).await
    }

    /// Takes what the request's body was charged, to be given back early.
    pub fn charge(&self) -> Option<Charge> {
        self.request.extensions_mut().remove::<Charge>()
    }

    /// Begins a charge to a user, for what is kept beside the request's body.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is no allowance, which is a bug.
    pub fn charge_to(&self, user: Uuid) -> Result<Charge, Error> {
        installed::<Buffers>(&self.request)?.charge(user, 0)
    }

    /// Whether the client takes events.
    pub fn as_events(&self) -> bool {
        self.as_events
    }

    /// Answers with pieces, once `opening` has the first of them.
    ///
    /// # Errors
    /// If `opening` fails: as `map_err` words it. A later failure cuts the
    /// answer.
    pub async fn answer<S: Stream<Item = Piece> + Unpin + 'static>(
        self,
        opening: impl Future<Output = Result<S, Unanswered>> + 'static,
        map_err: impl Fn(Failure) -> Error + 'static,
    ) -> Result<HttpResponse, Error> {
        let Self { log, request, as_events, settings, .. } = self;
        let mut opening = Box::pin(opening);
        let heartbeat = settings.heartbeat.filter(|_| as_events);
        let opened = match heartbeat {
            Some(heartbeat) => tokio::time::timeout(heartbeat, &mut opening).await.ok(),
            None => Some((&mut opening).await),
        };
        match opened {
            Some(Ok(relay)) => Ok(respond(&request, as_events, settings, log, relay, map_err)),
            Some(Err(unanswered)) => Err(unanswered.into_error(map_err)),
            // A proxy on the client's way would not wait much longer, so the
            // answer begins before the provider's does; a failure is an event.
            None => {
                log.stream(false);
                let record = log.clone();
                let pieces = stream::once(opening).flat_map(move |opened| match opened {
                    Ok(relay) => Either::Left(relay),
                    Err(unanswered) => {
                        let outcome = Err(unanswered.into_failure());
                        record_end(&record, &outcome);
                        Either::Right(stream::once(ready(ended(outcome))))
                    }
                });
                Ok(respond(&request, as_events, settings, log, pieces, map_err))
            }
        }
    }

    /// Sends a request to a model and returns its answer, which comes in one
    /// piece, as a message of a chat.
    ///
    /// # Errors
    /// If it fails, in the provider's words.
    pub async fn message(
        &self,
        user: Uuid,
        request: ModelRequest,
        make_call: impl Fn(&Attempt<'_>) -> Result<Call, Error>,
    ) -> Result<Value, Error> {
        let reading = Reading::json(self.charge_to(user)?);
        let answer = Box::pin(dispatch_whole(&self.providers, request, Box::new(make_call), &self.log, reading)).await;
        let (completion, wire): (Value, Wire) =
            answer.map_err(|unanswered| unanswered.into_error(openai::plain_error))?;
        self.log.count(tokens(&completion["usage"].to_string()), true);
        let message = match wire {
            Wire::Responses => responses::message(&completion),
            _ => openai::message(completion),
        };
        message.map_err(openai::plain_error)
    }

    /// Answers with a text that is complete already.
    pub fn text(self, text: String) -> HttpResponse {
        let Self { log, request, as_events, settings, .. } = self;
        let pieces = stream::iter([Piece::Text(text), ended(Ok(Some(Finish::Stop)))]);
        respond(&request, as_events, settings, log, pieces, |_| Error::Internal(String::new()))
    }
}

fn ended(outcome: Result<Option<Finish>, Failure>) -> Piece {
    let (sources, calls) = Default::default();
    Piece::End(Box::new(End { outcome, usage: None, sources, calls }))
}

/// Sends a request to a model and reads up to the first text.
async fn open(
    providers: Data<Providers>,
    request: ModelRequest,
    make_call: MakeCall<'_>,
    charge: Option<Charge>,
    wanted: Wanted,
    log: RequestLog,
) -> Result<Relay, Unanswered> {
    let answer = {
        let log = &log;
        // Boxed, and all moved in, so that neither the calls nor the prompt
        // are held once the provider has begun to answer.
        let sent = Box::pin(async move {
            let _charge = charge;
            dispatch(&providers, request, make_call, log).await
        });
        sent.await?
    };
    Ok(Relay::open(answer.body, answer.reader, wanted, answer.limits, log).await?)
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
