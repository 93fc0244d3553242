//! A chat whose model may call functions: it is asked, what it calls is
//! called, and it is asked again with what came of that, until it answers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use actix_web::web::Data;
use futures::{Stream, StreamExt, stream};
use serde_json::{Map, Value, value::RawValue};

use super::{opening::Opener, ways::MakeRound};
use crate::{
    allowance::Charge,
    error::Error,
    llm::{
        Attempt, Call, Failure, Wire,
        answer::{Finish, calls::FunctionCall},
        dispatch::Unanswered,
        functions::{Added, Form, Offered, Round},
        relay::{End, Piece, Relay, record_end},
    },
    telemetry::{Ended, RequestLog},
    tools::{
        ToolClient,
        invoke::{Outcome, invoke},
        offer::Function,
    },
};

/// How often a model is asked with functions.
const MAX_ROUNDS: usize = 8;
/// The most calls of a turn.
const MAX_CALLS: usize = 32;
/// Calls that are under way at the same time.
const AT_ONCE: usize = 8;
/// The most bytes of text beside calls that the model is shown again.
const MAX_TEXT: usize = 256 * 1024;

/// One turn: a user's question, up to the model's answer.
pub struct ToolTurn {
    /// Opens the model's answers.
    pub opener: Opener,
    /// The tools'.
    pub client: Data<ToolClient>,
    /// The request's record.
    pub log: RequestLog,
    /// The functions.
    pub functions: Arc<[Function]>,
    /// Whether the client takes events.
    pub as_events: bool,
    /// What the tools' answers take.
    pub charge: Charge,
}

impl ToolTurn {
    /// Begins the turn: up to the first piece for the client, so that what
    /// fails before can be answered with a status.
    ///
    /// # Errors
    /// If the provider fails before.
    pub async fn begin(self, warnings: Vec<String>) -> Result<impl Stream<Item = Piece> + Unpin + 'static, Unanswered> {
        let as_events = self.as_events;
        let mut state = State::new(self);
        let mut begun: VecDeque<Piece> = warnings.into_iter().map(Piece::Warning).collect();
        while let Some(piece) = state.next().await {
            match piece {
                Piece::End(end) if end.outcome.is_err() => {
                    return Err(match state.invalid.take() {
                        Some(error) => Unanswered::Invalid(error),
                        None => end.outcome.err().unwrap_or_else(|| Failure::Unusable(String::new())).into(),
                    });
                }
                Piece::Text(_) | Piece::End(_) => {
                    begun.push_back(piece);
                    break;
                }
                // Of no use to a client that takes text.
                piece if as_events => {
                    begun.push_back(piece);
                    break;
                }
                _ => {}
            }
        }
        let rest = stream::unfold(state, |mut state| async move { Some((state.next().await?, state)) });
        Ok(Box::pin(stream::iter(begun).chain(rest)))
    }
}

/// The functions in the form of the last call.
#[derive(Default)]
struct InForm(Mutex<Option<(Form, Arc<Added>)>>);

impl InForm {
    fn for_form(&self, form: Form, functions: &[Function]) -> Arc<Added> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, added)) = last.as_ref().filter(|(of, _)| *of == form) {
            return added.clone();
        }
        let listed: Vec<Offered<'_>> = functions
            .iter()
            .map(|it| Offered { name: &it.name, description: &it.description, schema: &it.schema })
            .collect();
        let added = Arc::new(Added::new(form, &listed));
        *last = Some((form, added.clone()));
        added
    }
}

struct State {
    turn: ToolTurn,
    added: Arc<InForm>,
    relay: Option<Relay>,
    /// Why no call could be made.
    invalid: Option<Error>,
    rounds: Vec<Arc<Round>>,
    calls_left: usize,
    /// Whether the model was offered functions in this round.
    offered: bool,
    /// Text of this round.
    text: String,
    /// Text of an earlier round was given, which this round's follows.
    said: bool,
    /// Calls to be carried out.
    waiting: Option<(Vec<FunctionCall>, Vec<Value>)>,
    /// Pieces for the client.
    ready: VecDeque<Piece>,
    usage: Option<Map<String, Value>>,
    ended: bool,
}

impl State {
    fn new(turn: ToolTurn) -> Self {
        Self {
            turn,
            added: Arc::default(),
            relay: None,
            invalid: None,
            rounds: Vec::new(),
            calls_left: MAX_CALLS,
            offered: false,
            text: String::new(),
            said: false,
            waiting: None,
            ready: VecDeque::new(),
            usage: None,
            ended: false,
        }
    }

    /// The next piece for the client; after [`Piece::End`], nothing.
    async fn next(&mut self) -> Option<Piece> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            if self.ended {
                return None;
            }
            if let Some((calls, thinking)) = self.waiting.take() {
                self.carry_out(calls, thinking).await;
                continue;
            }
            let piece = match &mut self.relay {
                Some(relay) => relay.next().await,
                None => match self.ask().await {
                    Ok(relay) => {
                        self.relay = Some(relay);
                        continue;
                    }
                    Err(failure) => Some(self.end(End {
                        outcome: Err(failure),
                        usage: None,
                        sources: Default::default(),
                        calls: Default::default(),
                    })),
                },
            };
            match piece {
                Some(Piece::Text(text)) => return Some(self.said(text)),
                Some(Piece::End(end)) if !self.ended => {
                    if let Some(piece) = self.round_ended(*end) {
                        return Some(piece);
                    }
                }
                piece => return piece,
            }
        }
    }

    /// Asks the model, and reads up to its first text.
    async fn ask(&mut self) -> Result<Relay, Failure> {
        self.offered = self.rounds.len() < MAX_ROUNDS && self.calls_left > 0;
        let (rounds, offered, functions) = (self.rounds.clone(), self.offered, self.turn.functions.clone());
        let in_form = self.added.clone();
        let make = move |make_call: &MakeRound, form, attempt: &Attempt<'_>| {
            let added = in_form.for_form(form, &functions);
            if attempt.wire == Wire::Responses {
                return make_call(attempt, &added.turns(&rounds), added.list().filter(|_| offered));
            }
            let call = make_call(attempt, &[], None)?;
            let body = added.to(call.body.as_deref().unwrap_or_default(), &rounds, offered);
            let body = body.map_err(|error| Error::Internal(format!("a request with functions: {error}")))?;
            Ok(Call { body: Some(body), ..call })
        };
        let added = self.rounds.iter().map(|round| round.bytes()).sum();
        match Box::pin(self.turn.opener.open(added, false, make)).await {
            Ok(relay) => Ok(relay),
            Err(Unanswered::Failed(failure)) => Err(failure),
            Err(Unanswered::Invalid(error)) => {
                let failure = Failure::Unusable(error.to_string());
                self.invalid = Some(error);
                Err(failure)
            }
        }
    }

    fn said(&mut self, text: String) -> Piece {
        let separated = self.text.is_empty() && self.said;
        if self.text.len() + text.len() <= MAX_TEXT {
            self.text.push_str(&text);
        }
        Piece::Text(if separated { format!("\n\n{text}") } else { text })
    }

    /// Takes the end of one answer: the last piece, unless there are calls.
    fn round_ended(&mut self, mut end: End) -> Option<Piece> {
        self.relay = None;
        add_usage(&mut self.usage, end.usage.as_deref());
        let mut calls = std::mem::take(&mut end.calls);
        if end.outcome.is_err() || calls.list.is_empty() {
            return Some(self.end(end));
        }
        if !self.offered {
            end.outcome = if self.said || !self.text.is_empty() {
                Ok(Some(Finish::Stop))
            } else {
                Err(Failure::Incomplete(format!(
                    "The model went on calling tools and gave no answer: {MAX_ROUNDS} rounds and {MAX_CALLS} calls are the most. Please ask for less."
                )))
            };
            return Some(self.end(end));
        }
        // The answer goes on: it is not complete yet.
        self.turn.log.end(Ended::ClientLeft, None);
        for (number, call) in calls.list.iter_mut().enumerate() {
            if call.id.is_empty() {
                call.id = format!("call_{}_{number}", self.rounds.len());
            }
            // A made-up name is told to the model by its result; providers
            // refuse one that does not fit.
            if !is_name(&call.name) {
                call.name = "unknown".to_owned();
            }
        }
        for call in calls.list.iter().take(self.calls_left) {
            self.ready.push_back(Piece::Tool { name: call.name.clone(), status: "calling" });
        }
        self.waiting = Some((calls.list, calls.thinking));
        None
    }

    /// Carries out the calls of a round, some at a time.
    async fn carry_out(&mut self, calls: Vec<FunctionCall>, thinking: Vec<Value>) {
        let ToolTurn { functions, client, log, charge, .. } = &self.turn;
        let waiting = log.wait_for_tools();
        let allowed = self.calls_left;
        let outcomes = stream::iter(calls.iter().enumerate()).map(|(number, call)| async move {
            if number >= allowed {
                return Outcome::failed(&format!(
                    "the call was not made: {MAX_CALLS} calls are the most in one answer"
                ));
            }
            match functions.iter().find(|function| function.name == call.name) {
                Some(function) => invoke(client, function, &call.arguments, charge.another()).await,
                None => Outcome::failed("the call was not made: there is no such function"),
            }
        });
        let mut outcomes: Vec<Outcome> = outcomes.buffered(AT_ONCE).collect().await;
        drop(waiting);
        for (call, outcome) in calls.iter().zip(&outcomes).take(allowed) {
            let status = if outcome.is_success { "done" } else { "failed" };
            self.ready.push_back(Piece::Tool { name: call.name.clone(), status });
        }
        for charge in outcomes.iter_mut().filter_map(|outcome| outcome.charge.take()) {
            self.turn.charge.absorb(charge);
        }
        self.calls_left = allowed.saturating_sub(calls.len());
        let calls = calls.into_iter().zip(outcomes.into_iter().map(|outcome| outcome.content)).collect();
        let text = std::mem::take(&mut self.text);
        self.said |= !text.trim().is_empty();
        self.rounds.push(Arc::new(Round { text, thinking, calls }));
    }

    /// The last piece, with the counts of tokens of all rounds.
    fn end(&mut self, mut end: End) -> Piece {
        self.ended = true;
        let total = self.usage.take().and_then(|usage| serde_json::value::to_raw_value(&usage).ok());
        end.usage = total.or(end.usage);
        record_end(&self.turn.log, &end.outcome);
        Piece::End(Box::new(end))
    }
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

/// Adds one round's counts of tokens to the sum: numbers add up, of all else
/// the last stays.
fn add_usage(sum: &mut Option<Map<String, Value>>, usage: Option<&RawValue>) {
    let Some(Value::Object(usage)) = usage.and_then(|usage| serde_json::from_str(usage.get()).ok()) else { return };
    add_counts(sum.get_or_insert_default(), usage);
}

fn add_counts(sum: &mut Map<String, Value>, more: Map<String, Value>) {
    for (name, value) in more {
        match (sum.get_mut(&name), value) {
            (Some(Value::Object(sum)), Value::Object(more)) => add_counts(sum, more),
            (Some(so_far), Value::Number(count)) if so_far.is_number() => {
                *so_far = match (so_far.as_u64(), count.as_u64()) {
                    (Some(so_far), Some(count)) => so_far.saturating_add(count).into(),
                    _ => (so_far.as_f64().unwrap_or_default() + count.as_f64().unwrap_or_default()).into(),
                };
            }
            (_, value) => {
                sum.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_of_tokens_add_up() {
        let mut sum = None;
        for usage in [
            r#"{"prompt_tokens":1000,"details":{"cached":1},"cost":0.5,"tier":"a"}"#,
            r#"{"prompt_tokens":50,"details":{"cached":2,"new":1},"cost":1,"tier":"b"}"#,
        ] {
            add_usage(&mut sum, serde_json::from_str(usage).ok());
        }
        add_usage(&mut sum, None);
        let expected = json!({ "prompt_tokens": 1050, "details": { "cached": 3, "new": 1 }, "cost": 1.5, "tier": "b" });
        assert_eq!(sum.map(Value::Object), Some(expected));
    }
}
