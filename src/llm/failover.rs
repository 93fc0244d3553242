//! Trying one way after another to have a request answered: the keys for a model, then the models that the operator
//! named in its place. Before the answer's first text only; the caller's attempt covers all until then.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    circuits::{Cause, Circuit, Circuits, Turn},
    dispatch::Unanswered,
    failure::Failure,
};
use crate::{
    credentials::{Key, Profile},
    telemetry::RequestLog,
};

/// Maximum number of attempts for one answer.
const MAX_ATTEMPTS: usize = 24;

/// Attempts if every key rests: somebody has to be asked, for the provider's words or because that has changed.
const ATTEMPTS_WHILE_RESTING: usize = 3;

/// Ways are not waited for any longer than this after the first attempt.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits before the ways are tried again: none at first, as failures of an overloaded provider are quick and few.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// The longest rest of the last key that is waited for.
const MAX_REST: Duration = Duration::from_secs(2);

/// A way to have a request answered.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// The provider's name in metrics.
    pub provider: &'static str,
    /// The circuit of the key, if it is the server's.
    pub circuit: Option<Circuit>,
    /// 0 for the model that was asked for, then one for each fallback.
    pub model: usize,
}

/// Returns the ways to a provider by the keys of a profile, one for each of [`Profile::keys`].
pub fn by_keys(profile: &Profile, provider: &'static str, key: Key, circuits: &Circuits) -> Vec<Way> {
    let is_of_server = profile.is_from_environment(key);
    let circuit = |number| circuits.find(key, number).filter(|_| is_of_server);
    (0..profile.keys(key).count()).map(|number| Way { provider, circuit: circuit(number), model: 0 }).collect()
}

/// An attempt to have a request answered.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// The way's index.
    pub at: usize,
    /// No other way is left: the request is repeated as if there were no others.
    pub is_only: bool,
}

/// Calls `attempt` for one way after another until one succeeds.
///
/// # Errors
/// If none does: the most telling failure for the model that was asked for, with its way's index.
pub async fn failover<T>(
    circuits: &Circuits,
    ways: &[Way],
    log: &RequestLog,
    mut attempt: impl AsyncFnMut(Attempt) -> Result<T, Unanswered>,
) -> Result<T, (usize, Unanswered)> {
    let is_only = ways.len() == 1;
    let started = Instant::now();
    let mut round = Round { left: (0..ways.len()).collect(), ..Round::default() };
    let mut failed: Option<(usize, Unanswered)> = None;
    let mut failed_over = None;
    let (mut attempts, mut most) = (0, MAX_ATTEMPTS);
    loop {
        let (at, turn) = match round.next(circuits, ways, attempts > 0) {
            Next::Way(at, turn) => (at, turn),
            Next::Wait(wait) if started.elapsed() + wait <= PATIENCE && attempts < most => {
                tokio::time::sleep(wait).await;
                continue;
            }
            Next::Wait(_) if attempts == 0 => {
                (most, round.whatever_rests) = (ATTEMPTS_WHILE_RESTING, true);
                continue;
            }
            Next::Resting(at, turn) if attempts == 0 => {
                (most, round.whatever_rests) = (ATTEMPTS_WHILE_RESTING, true);
                (at, turn)
            }
            _ => return Err(failed.unwrap_or_else(|| (0, nothing_left()))),
        };
        attempts += 1;
        if let Some((provider, cause)) = failed_over.take() {
            log.failed_over(provider, cause);
        }
        let way = ways[at];
        let mut tried = Tried { circuits, circuit: way.circuit, turn };
        let unanswered = match attempt(Attempt { at, is_only }).await {
            Ok(answer) => {
                tried.end(|circuit| circuits.succeeded(circuit, turn));
                return Ok(answer);
            }
            Err(unanswered) => unanswered,
        };
        let (cause, retry_after) = match &unanswered {
            Unanswered::Failed(failure) => (Cause::of(failure), retry_after(failure)),
            Unanswered::Invalid(_) => (None, None),
        };
        let Some(cause) = cause else {
            // The request itself is at fault, or the answer is: the key works, as far as that tells.
            if let Unanswered::Failed(Failure::Status { .. } | Failure::Blocked(_) | Failure::Incomplete(_)) =
                &unanswered
            {
                tried.end(|circuit| circuits.succeeded(circuit, turn));
            }
            if way.model > 0 && failed.is_some() {
                continue;
            }
            return Err((at, unanswered));
        };
        tried.end(|circuit| circuits.failed(circuit, turn, cause, retry_after));
        let may_help_again = match &unanswered {
            Unanswered::Failed(Failure::Unreachable(_)) => true,
            // A provider may have read the prompt, and charged for it.
            _ if cause == Cause::Connection => false,
            Unanswered::Failed(Failure::Stream(_)) => false,
            _ => matches!(cause, Cause::Limited | Cause::Provider),
        };
        let is_asked_to_wait = retry_after.is_some_and(|wait| wait > MAX_REST);
        if may_help_again && !is_asked_to_wait {
            round.again.push(at);
        }
        let tells_more = failed.as_ref().is_none_or(|(before, earlier)| {
            (ways[*before].model, is_refused(earlier)) >= (way.model, cause == Cause::Refused)
        });
        if tells_more {
            failed = Some((at, unanswered));
        }
        if is_only || attempts >= most {
            return Err(failed.unwrap_or_else(|| (at, nothing_left())));
        }
        failed_over = Some((way.provider, cause.as_str()));
    }
}

/// The ways that are left in one round, and those of the next.
#[derive(Default)]
struct Round {
    left: VecDeque<usize>,
    again: Vec<usize>,
    number: u32,
    whatever_rests: bool,
}

enum Next {
    Way(usize, Turn),
    /// After this time there may be one.
    Wait(Duration),
    /// Every key rests; this one for the shortest time.
    Resting(usize, Turn),
    Nothing,
}

impl Round {
    /// Returns what to do next. A request that was answered with a failure before waits for those that try a key.
    fn next(&mut self, circuits: &Circuits, ways: &[Way], has_failed: bool) -> Next {
        // Of the model that was asked for before that of others, since its words are what the client expects.
        let mut shortest: Option<(usize, Duration, usize, Turn)> = None;
        // What failed is repeated at once at first.
        let mut least = if self.again.is_empty() { MAX_REST } else { Duration::ZERO };
        while let Some(at) = self.left.pop_front() {
            let permit = ways[at].circuit.map(|circuit| circuits.permit(circuit)).unwrap_or_default();
            let (rest, turn) = (permit.rests, permit.turn);
            // The only way is taken however it fared before.
            if rest.is_zero() || ways.len() == 1 || self.whatever_rests {
                return Next::Way(at, turn);
            }
            let model = ways[at].model;
            if shortest.is_none_or(|(of, shorter, ..)| (model, rest) < (of, shorter)) {
                shortest = Some((model, rest, at, turn));
            }
            if rest <= MAX_REST || (permit.is_tried && has_failed) {
                least = least.min(rest);
                self.again.push(at);
            }
        }
        if self.again.is_empty() {
            return shortest.map_or(Next::Nothing, |(_, _, at, turn)| Next::Resting(at, turn));
        }
        self.left = std::mem::take(&mut self.again).into();
        self.number += 1;
        let wait = match self.number {
            1 => Duration::ZERO,
            number => (WAITS.0 * 2_u32.saturating_pow(number - 2)).min(WAITS.1),
        };
        // By chance, so that many do not come back at once.
        Next::Wait(wait.max(least).mul_f64(1.0 + 0.25 * rand::random::<f64>()))
    }
}

/// A key in use: what its request comes to is recorded, also if its client leaves.
struct Tried<'a> {
    circuits: &'a Circuits,
    circuit: Option<Circuit>,
    turn: Turn,
}

impl Tried<'_> {
    fn end(&mut self, record: impl FnOnce(Circuit)) {
        if let Some(circuit) = self.circuit.take() {
            record(circuit);
        }
    }
}

impl Drop for Tried<'_> {
    fn drop(&mut self) {
        let (circuits, turn) = (self.circuits, self.turn);
        self.end(|circuit| circuits.released(circuit, turn));
    }
}

fn retry_after(failure: &Failure) -> Option<Duration> {
    match failure {
        Failure::Status { retry_after, .. } => *retry_after,
        _ => None,
    }
}

fn is_refused(unanswered: &Unanswered) -> bool {
    matches!(unanswered, Unanswered::Failed(failure) if Cause::of(failure) == Some(Cause::Refused))
}

fn nothing_left() -> Unanswered {
    Unanswered::Failed(Failure::Unusable("There is no key to ask the provider with".to_owned()))
}
