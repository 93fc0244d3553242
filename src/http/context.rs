//! The context of a chat: access to providers, and the response.

use std::{
    future::{Ready, ready},
    sync::Arc,
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse,
    dev::Payload,
    http::header::{ACCEPT, HeaderMap},
    web::Data,
};
use futures::{
    Stream, StreamExt,
    future::{Either, LocalBoxFuture},
    stream,
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    chat_body::ChatBody,
    installed,
    opening::Opener,
    respond::{AnswerSettings, respond},
    user::User,
    ways::{Incoming, Posted, Ways},
};
use crate::{
    allowance::{Buffers, Charge, Turns},
    error::Error,
    llm::{
        Attempt, Call, Failure, Providers, Reading, Wire,
        answer::{Finish, Wanted},
        catalogue::catalogue,
        dispatch::{MakeCall, Unanswered, dispatch_whole},
        offers::Hosted,
        openai,
        relay::{End, Piece, record_end},
        responses,
        routing::ModelRequest,
        tokens::tokens,
    },
    retrieval::embed,
    telemetry::RequestLog,
    usage::{
        Ledger, Plan,
        estimate::{self, Estimate, Size},
    },
};

/// The components for a chat request.
pub struct ChatContext {
    /// This worker's clients of providers.
    pub providers: Data<Providers>,
    /// The request's record.
    pub log: RequestLog,
    turns: Data<Turns>,
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
            let turns = installed::<Turns>(request)?.clone();
            Ok(Self { providers, log, turns, request: request.clone(), as_events, settings })
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

    /// Returns a chat as it was posted, to find ways to have it answered.
    pub fn incoming<'a>(&'a self, user: &'a User, body: &'a Arc<ChatBody>, posted: Posted) -> Incoming<'a> {
        Incoming { user, body, posted, turns: &self.turns, providers: &self.providers, log: &self.log }
    }

    /// Has a chat answered by one of the ways, and relays the answer as it comes.
    ///
    /// # Errors
    /// If it fails before the first text: as the way's route words it. A later failure cuts the answer.
    pub async fn relay(self, ways: Ways) -> Result<HttpResponse, Error> {
        let wanted = Wanted { reasoning: self.as_events, calls: false };
        let mut opener = Opener::new(self.providers.clone(), ways, wanted, false, self.log.clone());
        let words = opener.words();
        let opening = Box::pin(async move { opener.open(0, true, |make, _, attempt| make(attempt, &[], None)).await });
        self.answer(opening, move |failure| words.word(failure)).await
    }

    /// Reserves room in the user's budgets for the vectors of texts of at most so many tokens.
    ///
    /// # Errors
    /// If a budget has no room, or the database does not answer.
    pub async fn reserve_embeddings(&self, user: &User, tokens: u64) -> Result<(), Error> {
        let provider = embed::provider(user.profile()?);
        self.reserve(user, provider, embed::MODEL, || estimate::embeddings(tokens)).await
    }

    /// Reserves room in the user's budgets for an offered model, which the server pays for, in place of what was
    /// reserved for a model of the user's own.
    ///
    /// # Errors
    /// If a budget has no room, or the database does not answer.
    pub async fn reserve_offered(&self, user: &User, offered: &Hosted, size: Size) -> Result<(), Error> {
        let provider = offered.vendor.name();
        let rules = catalogue().model_or_family(provider, &offered.model);
        self.reserve(user, provider, &offered.model, || estimate::chat(provider, rules, size)).await
    }

    async fn reserve(
        &self,
        user: &User,
        provider: &'static str,
        model: &str,
        estimate: impl FnOnce() -> Estimate,
    ) -> Result<(), Error> {
        let ledger = installed::<Ledger>(&self.request)?;
        if !ledger.is_on().await? {
            return Ok(());
        }
        let plan = Plan {
            route: self.request.match_pattern().unwrap_or_default(),
            provider,
            models: vec![model.to_owned()],
            estimate: estimate(),
        };
        ledger.reserve(user.id, plan, &self.log).await
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

    /// Answers with pieces, once `opening` has the first of them. It is boxed, because a future that is handed on takes its
    /// own size again at each step.
    ///
    /// # Errors
    /// If `opening` fails: as `map_err` words it. A later failure cuts the
    /// answer.
    pub async fn answer<S: Stream<Item = Piece> + Unpin + 'static>(
        self,
        mut opening: LocalBoxFuture<'static, Result<S, Unanswered>>,
        map_err: impl Fn(Failure) -> Error + 'static,
    ) -> Result<HttpResponse, Error> {
        let Self { log, request, as_events, settings, .. } = self;
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
    /// If it fails.
    pub async fn message(
        &self,
        user: Uuid,
        request: ModelRequest,
        make_call: impl Fn(&Attempt<'_>) -> Result<Call, Error>,
    ) -> Result<Value, Unanswered> {
        let reading = Reading::json(self.charge_to(user).map_err(Unanswered::Invalid)?);
        let make_call = MakeCall::Inline(Box::new(make_call));
        let answer = Box::pin(dispatch_whole(&self.providers, request, make_call, &self.log, reading)).await;
        let (completion, wire): (Value, Wire) = answer?;
        self.log.count(tokens(&completion["usage"].to_string()), true);
        let message = match wire {
            Wire::Responses => responses::message(&completion),
            _ => openai::message(completion),
        };
        message.map_err(Unanswered::Failed)
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
