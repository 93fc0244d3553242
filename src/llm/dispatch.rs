//! Sends a request to the model that the client named, or to its successor, with the parameters that it takes. If the
//! provider refuses the request, it is adapted and sent again, before any part of the answer has arrived.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{
    adaptation::{Adaptation, limit_output},
    answer::{openai::Habits, reader::Reader},
    attempt::Attempt,
    azure,
    call::Call,
    catalogue::{Date, Model, catalogue},
    clients::Providers,
    failure::Failure,
    limits::Limits,
    members::Members,
    refusal::{self, Refusal, Refused},
    routing::{Candidate, ModelRequest},
    send::send,
    whole::{Reading, complete_body},
    wire::Wire,
};
use crate::{allowance::Turns, error::Error, http_client::http1::Body, telemetry::RequestLog};

/// Maximum number of requests, in different forms, for one answer.
const MAX_TRIES: usize = 3;

type Make<'a> = dyn Fn(&Attempt<'_>) -> Result<Call, Error> + 'a;
type SendMake = dyn Fn(&Attempt<'_>) -> Result<Call, Error> + Send + Sync;

/// Builds the call of one attempt.
pub enum MakeCall<'a> {
    /// On the worker. It owns the prompt, or borrows it.
    Inline(Box<Make<'a>>),
    /// On a blocking thread, in a turn of the user's: a long prompt would occupy a worker.
    Blocking(Arc<SendMake>, Arc<Turns>, Uuid),
}

impl MakeCall<'_> {
    /// Runs work whose time grows with the prompt.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        match self {
            Self::Inline(_) => Ok(work()),
            Self::Blocking(_, turns, user) => turns.run(*user, work).await,
        }
    }

    async fn make(&self, shape: &Shape) -> Result<Call, Error> {
        match self {
            Self::Inline(make) => shape.call(make),
            Self::Blocking(make, ..) => {
                let (make, shape) = (make.clone(), shape.clone());
                self.run(move || shape.call(&*make)).await?
            }
        }
    }
}

/// The form of one attempt's call.
#[derive(Clone)]
struct Shape {
    model: String,
    wire: Wire,
    rules: Option<&'static Model>,
    search: bool,
    old_path: bool,
    adaptation: Adaptation,
    /// The limit of output tokens: its name, and a number.
    limit: Option<(&'static str, u32)>,
}

impl Shape {
    fn attempt(&self) -> Attempt<'_> {
        let Self { model, wire, rules, search, old_path, .. } = self;
        Attempt { model, wire: *wire, rules: *rules, search: *search, old_path: *old_path }
    }

    fn call(&self, make: impl Fn(&Attempt<'_>) -> Result<Call, Error>) -> Result<Call, Error> {
        let call = make(&self.attempt())?;
        let mut body = call.body.map(|body| self.adaptation.apply(body));
        if let Some((name, most)) = self.limit {
            body = body.map(|body| limit_output(body, self.wire, name, most));
        }
        Ok(Call { body, ..call })
    }
}

/// An answer that has begun.
pub struct Answer {
    /// The response's body.
    pub body: Body,
    /// The API that answers.
    pub wire: Wire,
    /// Reader of its events.
    pub reader: Reader,
    /// Limits on reading it.
    pub limits: Limits,
}

/// Reason for which a request has no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// No call can be built.
    Invalid(Error),
    /// The provider's failure, to be put into the words of the route.
    Failed(Failure),
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Unanswered {
    /// Converts to a failure, for an answer that has begun.
    pub fn into_failure(self) -> Failure {
        match self {
            Self::Invalid(error) => Failure::Unusable(error.to_string()),
            Self::Failed(failure) => failure,
        }
    }

    /// Converts to an error, a failure as `map_err` words it.
    pub fn into_error(self, map_err: impl FnOnce(Failure) -> Error) -> Error {
        match self {
            Self::Invalid(error) => error,
            Self::Failed(failure) => map_err(failure),
        }
    }
}

/// Sends a request, and again in another form if it is refused, until an answer begins. Then `make_call` is dropped,
/// and the prompt with it.
///
/// # Errors
/// If no call can be made, or the last one failed.
pub async fn dispatch(
    providers: &Providers,
    request: ModelRequest,
    make_call: MakeCall<'_>,
    log: &RequestLog,
) -> Result<Answer, Unanswered> {
    let mut candidates = candidates(providers, &request);
    let is_gone = |it: &Candidate| providers.routing.learnt.lesson(request.scope, &it.model, it.wire).gone;
    // If all were refused before, the first one is called again: for the provider's words, or because that has
    // changed.
    let mut at = candidates.iter().position(|candidate| !is_gone(candidate)).unwrap_or(0);
    let mut tries = 0;
    loop {
        tries += 1;
        let candidate = &candidates[at];
        let mut lesson = providers.routing.learnt.lesson(request.scope, &candidate.model, candidate.wire);
        let limit_name = || {
            let named = lesson.adaptation.limit.map(|(name, _)| name);
            named.unwrap_or(match request.provider {
                "openai" | azure::PROVIDER => "max_completion_tokens",
                _ => "max_tokens",
            })
        };
        let shape = Shape {
            model: candidate.model.clone(),
            wire: lesson.wire.unwrap_or(candidate.wire),
            rules: candidate.rules,
            search: searches(&request),
            old_path: lesson.old_path,
            limit: log.note().max_output.map(|most| (limit_name(), most)),
            adaptation: lesson.adaptation.clone(),
        };
        let call = make_call.make(&shape).await.map_err(Unanswered::Invalid)?;
        let attempt = shape.attempt();
        note(log, &request, &attempt);
        let (status, body, retry_after) = match send(providers, &call, log).await {
            Ok(body) => {
                let think_tags = attempt.rules.is_some_and(|rules| rules.thinks_in_tags);
                let reader = Reader::new(attempt.wire, Habits { think_tags, any_end: request.any_end });
                return Ok(Answer { body, wire: attempt.wire, reader, limits: call.stream_limits() });
            }
            Err(Failure::Status { status, body, retry_after }) => (status, body, retry_after),
            Err(failure) => return Err(failure.into()),
        };
        let refused = || Err(Unanswered::Failed(Failure::Status { status, body: body.clone(), retry_after }));
        if !refusal::may_be_one(status) {
            return refused();
        }
        let (model, wire, words) = (shape.model.clone(), shape.wire, body.clone());
        let read = make_call.run(move || {
            let sent: Members<'_> =
                call.body.as_deref().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
            refusal::read(status, &words, &Refused { model: &model, wire, sent: &sent })
        });
        let Ok(Some(refusal)) = read.await else { return refused() };
        log.note().refusals.push(refusal.as_str());
        let next = candidates.iter().skip(at + 1).position(|candidate| !is_gone(candidate)).map(|next| at + 1 + next);
        let mut follow = Some(at);
        match refusal {
            Refusal::Parameters(adaptation) => {
                if !lesson.adaptation.add(adaptation) {
                    return refused();
                }
            }
            // Perplexity's older API has other names for the models.
            Refusal::Wire(_) if request.chat_first && attempt.wire == Wire::Chat => {
                lesson.gone = true;
                follow = next;
            }
            Refusal::Wire(wire) if lesson.wire.is_none() => lesson.wire = Some(wire),
            Refusal::Path if request.provider == azure::PROVIDER && !lesson.old_path && attempt.wire == Wire::Chat => {
                lesson.old_path = true;
            }
            Refusal::Path
                if attempt.wire == Wire::Responses && candidate.wire == Wire::Responses && lesson.wire.is_none() =>
            {
                lesson.wire = Some(Wire::Chat);
            }
            Refusal::Wire(_) | Refusal::Path => return refused(),
            Refusal::Model { successor } => {
                lesson.gone = true;
                lesson.successor = successor.filter(|_| providers.routing.settings.substitute);
                follow = next;
            }
        }
        let (model, wire, named) = (candidate.model.clone(), candidate.wire, lesson.successor.clone());
        providers.routing.learnt.learn(request.scope, &model, wire, lesson);
        if let (None, Some(named)) = (follow, named.filter(|named| !candidates.iter().any(|it| it.model == *named))) {
            let rules = catalogue().model_or_family(request.provider, &named);
            candidates.push(Candidate { model: named, wire, rules });
            follow = Some(candidates.len() - 1);
        }
        match follow {
            Some(follow) if tries < MAX_TRIES => at = follow,
            _ => return refused(),
        }
    }
}

/// Does the same for an answer in one piece, and reads it as JSON.
///
/// # Errors
/// As [`dispatch`], or if the answer is no JSON.
pub async fn dispatch_whole<T: DeserializeOwned>(
    providers: &Providers,
    request: ModelRequest,
    make_call: MakeCall<'_>,
    log: &RequestLog,
    reading: Reading,
) -> Result<(T, Wire), Unanswered> {
    let answer = dispatch(providers, request, make_call, log).await?;
    Ok((complete_body(answer.body, log, reading).await?, answer.wire))
}

fn candidates(providers: &Providers, request: &ModelRequest) -> Vec<Candidate> {
    let today = Date::today();
    let mut candidates: Vec<Candidate> = Vec::new();
    for name in &request.models {
        if request.chat_first {
            candidates.push(Candidate { model: name.clone(), wire: Wire::Chat, rules: None });
        }
        let more =
            providers.routing.candidates(catalogue(), request.provider, request.wire, name, request.wanted, today);
        for candidate in more {
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
    }
    // The model that the provider itself has named in place of one that is gone.
    if providers.routing.settings.substitute
        && let Some(last) = candidates.last()
        && let Some(named) = providers.routing.learnt.lesson(request.scope, &last.model, last.wire).successor
        && !candidates.iter().any(|it| it.model == named)
    {
        let rules = catalogue().model_or_family(request.provider, &named);
        candidates.push(Candidate { wire: last.wire, model: named, rules });
    }
    candidates
}

fn searches(request: &ModelRequest) -> bool {
    let named = request.models.first().and_then(|name| catalogue().model(request.provider, name));
    named.is_some_and(|model| model.search)
}

fn note(log: &RequestLog, request: &ModelRequest, attempt: &Attempt<'_>) {
    let mut facts = log.note();
    // A deployment's name is the operator's or the user's own, and tells nothing of the model.
    facts.effective_model = (request.provider != azure::PROVIDER).then(|| attempt.model.chars().take(100).collect());
    // One label for each entry of the catalogue, so that clients cannot create labels.
    let known = catalogue().model_or_family(request.provider, attempt.model);
    facts.model_label = Some(known.and_then(|model| model.ids.first().copied()).unwrap_or("other"));
}
