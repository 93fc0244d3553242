//! Circuit breakers: a key of the server's that fails rests for a while, and is then tried by one request. They belong
//! to the server as a whole, so that one worker's failures spare the others' requests. Nothing of a key is held here,
//! only its provider and its place in the setting.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::failure::{Failure, is_moderated};
use crate::credentials::{Key, Keys, TABLE};

/// Failures are counted anew after this time.
const WINDOW: Duration = Duration::from_secs(30);

/// The shortest and the longest rest of a key. A rest after which the key fails again is followed by one that is twice
/// as long.
const REST: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10 * 60));

/// The longest rest that a provider may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// Rest of a key that was refused: somebody has to replace it or to pay.
const REST_OF_REFUSED: Duration = Duration::from_secs(60);

/// Failures that say something of the request, too: so many without any success are the key's.
const MANY: u32 = 3;

/// A provider's own failures: so many, and nine for each success.
const MANY_OF_PROVIDER: (u32, u32) = (20, 9);

/// A provider that asks for a shorter wait is asked on: it would be over before the key has rested.
const LEAST_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A trial that has not ended after this time is given up, and another request tries.
const TRIAL: Duration = Duration::from_secs(30);

/// The reason for which a request is sent again with another key or to another model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// 401 or 402: the key is wrong, or its account is empty.
    Refused,
    /// 403: the key may not do this.
    Forbidden,
    /// 429.
    Limited,
    /// 5xx, or an error where the answer should have been.
    Provider,
    /// No connection, or one that failed or said nothing.
    Connection,
}

impl Cause {
    /// Reads the cause of a failure; `None` if neither another key nor another model is called for.
    pub fn of(failure: &Failure) -> Option<Self> {
        match failure {
            Failure::Status { status, body, .. } => match status {
                401 | 402 => Some(Self::Refused),
                400 if refuses_key(body) => Some(Self::Refused),
                403 if is_moderated(&error(body)) => None,
                403 => Some(Self::Forbidden),
                429 => Some(Self::Limited),
                500.. => Some(Self::Provider),
                _ => None,
            },
            Failure::Stream(_) => Some(Self::Provider),
            Failure::Unreachable(_) | Failure::Connection(_) | Failure::Broken(_) | Failure::Silent(_) => {
                Some(Self::Connection)
            }
            _ => None,
        }
    }

    /// Returns its name in the log and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "key refused",
            Self::Forbidden => "forbidden",
            Self::Limited => "rate limit",
            Self::Provider => "provider error",
            Self::Connection => "connection",
        }
    }
}

/// Tells if a 400 is one of those with which Google refuses a key and Anthropic an account without credit.
fn refuses_key(body: &str) -> bool {
    let error = error(body);
    let words = error["message"].as_str().unwrap_or_default();
    // Only as the beginning, since refusals may quote prompts.
    ["API key not valid", "API key expired", "Your credit balance is too low"]
        .iter()
        .any(|start| words.starts_with(start))
}

fn error(body: &str) -> Value {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    json["error"].clone()
}

/// The place of a key among the circuits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circuit(usize);

/// The circuits of all keys of one server, shared by its workers.
#[derive(Default)]
pub struct Circuits(Vec<(Key, usize, Mutex<State>)>);

#[derive(Debug, Clone, Default)]
struct State {
    since: Option<Instant>,
    /// Of [`Cause::Forbidden`] and [`Cause::Limited`].
    keys_failures: u32,
    /// Of [`Cause::Provider`] and [`Cause::Connection`].
    providers_failures: u32,
    successes: u32,
    /// The end of the key's rest.
    until: Option<Instant>,
    /// The start of the request that tries the key after its rest.
    trial: Option<Instant>,
    /// The number of rests so far.
    rests: u32,
    /// The last rest.
    rest: Duration,
}

/// An answer to who wants to use a key.
#[derive(Debug, Clone, Copy, Default)]
pub struct Permit {
    /// The time for which the key rests; zero if it may be used.
    pub rests: Duration,
    /// It rests until another request has tried it.
    pub is_tried: bool,
    /// The request that was given it, for what is recorded of that.
    pub turn: Turn,
}

/// The time of a request's beginning, by the rests before it: what comes of it later says nothing of a later rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    rests: u32,
    /// The key's trial that it is.
    trial: Option<Instant>,
}

/// A key's state, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The provider's name in the routes.
    pub provider: &'static str,
    /// Its number in the setting, from 1 on.
    pub number: usize,
    /// `ok`, `resting`, or `trial` for a key whose rest is over and that has not worked since.
    pub state: &'static str,
    /// The rest of its rest.
    pub rests: Duration,
}

impl Circuits {
    /// Creates a circuit for each key of a provider.
    pub fn new(keys: &Keys) -> Self {
        let rows = TABLE.iter().filter(|row| row.takes_several());
        let of_row = |key| (0..keys.all(key).count()).map(move |number| (key, number, Mutex::default()));
        Self(rows.flat_map(|row| of_row(row.key)).collect())
    }

    /// Finds the circuit of a provider's key by its place in the setting.
    pub fn find(&self, key: Key, number: usize) -> Option<Circuit> {
        self.0.iter().position(|(of, at, _)| (*of, *at) == (key, number)).map(Circuit)
    }

    /// Tells if a key may be used. If its rest is over, the request that is told so first is its trial.
    pub fn permit(&self, circuit: Circuit) -> Permit {
        self.state(circuit).map(|mut state| state.permit(Instant::now())).unwrap_or_default()
    }

    /// Records that a key works.
    pub fn succeeded(&self, circuit: Circuit, turn: Turn) {
        if let Some(mut state) = self.state(circuit) {
            state.succeeded(Instant::now(), turn);
        }
    }

    /// Records a failure, with the time after which the provider says to ask again.
    pub fn failed(&self, circuit: Circuit, turn: Turn, cause: Cause, retry_after: Option<Duration>) {
        if let Some(mut state) = self.state(circuit) {
            state.failed(Instant::now(), turn, cause, retry_after);
        }
    }

    /// Records that a request ended without a word about the key, so that a trial does not stay under way.
    pub fn released(&self, circuit: Circuit, turn: Turn) {
        if let Some(mut state) = self.state(circuit)
            && state.is_trial(turn)
        {
            state.trial = None;
        }
    }

    /// Reads the state of every key.
    pub fn readings(&self) -> Vec<Reading> {
        let now = Instant::now();
        let reading = |(key, number, state): &(Key, usize, Mutex<State>)| {
            let until = lock(state).until;
            let rests = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            let state = match until {
                None => "ok",
                Some(_) if rests.is_zero() => "trial",
                Some(_) => "resting",
            };
            Reading { provider: TABLE[*key as usize].name, number: number + 1, state, rests }
        };
        self.0.iter().map(reading).collect()
    }

    fn state(&self, circuit: Circuit) -> Option<MutexGuard<'_, State>> {
        self.0.get(circuit.0).map(|(_, _, state)| lock(state))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn permit(&mut self, now: Instant) -> Permit {
        let mut turn = Turn { rests: self.rests, trial: None };
        let Some(until) = self.until else { return Permit { turn, ..Permit::default() } };
        let trial = self.trial.map(|trial| trial + TRIAL).filter(|end| *end > now);
        let rests = trial.unwrap_or(until).saturating_duration_since(now);
        if rests.is_zero() {
            self.trial = Some(now);
            turn.trial = self.trial;
        }
        Permit { rests, is_tried: trial.is_some() && !rests.is_zero(), turn }
    }

    fn is_trial(&self, turn: Turn) -> bool {
        turn.trial.is_some() && turn.trial == self.trial
    }

    fn succeeded(&mut self, now: Instant, turn: Turn) {
        if turn.rests != self.rests {
            return;
        }
        if self.until.is_some() {
            *self = Self { rests: self.rests, ..Self::default() };
        }
        self.turn_window(now);
        self.successes = self.successes.saturating_add(1);
    }

    fn failed(&mut self, now: Instant, turn: Turn, cause: Cause, retry_after: Option<Duration>) {
        let is_trial = self.is_trial(turn);
        let retry_after = retry_after.filter(|asked| *asked >= LEAST_RETRY_AFTER);
        // A request that began before the key's rest says nothing new, but how long it is to be.
        let is_old = turn.rests != self.rests || (self.until.is_some() && !is_trial);
        if is_old && retry_after.is_none() {
            return;
        }
        self.turn_window(now);
        let counted = match cause {
            Cause::Provider | Cause::Connection => &mut self.providers_failures,
            _ => &mut self.keys_failures,
        };
        *counted = counted.saturating_add(1);
        let (many, for_each_success) = MANY_OF_PROVIDER;
        let opens = is_trial
            || match cause {
                Cause::Refused => true,
                Cause::Limited if retry_after.is_some() => true,
                Cause::Forbidden | Cause::Limited => self.keys_failures >= MANY && self.successes == 0,
                Cause::Provider | Cause::Connection => {
                    self.providers_failures >= many
                        && self.providers_failures >= self.successes.saturating_mul(for_each_success)
                }
            };
        if !opens {
            return;
        }
        let least = if cause == Cause::Refused { REST_OF_REFUSED } else { REST.0 };
        let rest = (self.rest * 2).clamp(least, REST.1);
        self.rest = if is_trial || self.rest.is_zero() { rest } else { self.rest };
        let rest = retry_after.map_or(self.rest, |asked| asked.min(MAX_RETRY_AFTER));
        self.rests = self.rests.wrapping_add(u32::from(!is_old || self.until.is_none()));
        self.until = Some(self.until.map_or(now + rest, |until| until.max(now + rest)));
        if is_trial {
            self.trial = None;
        }
    }

    fn turn_window(&mut self, now: Instant) {
        if self.since.is_none_or(|since| since + WINDOW <= now) {
            (self.since, self.keys_failures, self.providers_failures, self.successes) = (Some(now), 0, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl State {
        /// The newest request's.
        fn newest(&self) -> Turn {
            Turn { rests: self.rests, trial: self.trial }
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn resting(state: &mut State, now: Instant) -> Option<u64> {
        let rests = state.permit(now).rests;
        (!rests.is_zero()).then_some(rests.as_secs())
    }

    #[test]
    fn a_refused_key_rests_and_is_tried_by_one_request_then() {
        let (mut state, now) = (State::default(), Instant::now());
        state.failed(now, state.newest(), Cause::Refused, None);
        assert_eq!(resting(&mut state, now), Some(60));
        let later = now + 60 * SECOND;
        assert_eq!(resting(&mut state, later), None, "the trial");
        assert_eq!(resting(&mut state, later), Some(30), "the others wait for it");
        state.failed(later, state.newest(), Cause::Refused, None);
        assert_eq!(resting(&mut state, later), Some(120), "twice as long");
        let later = later + 120 * SECOND;
        assert_eq!(resting(&mut state, later), None);
        state.succeeded(later, state.newest());
        assert_eq!([resting(&mut state, later), resting(&mut state, later)], [None, None]);
    }

    #[test]
    fn a_trial_whose_client_left_is_followed_by_another() {
        let (mut state, now) = (State::default(), Instant::now());
        state.failed(now, state.newest(), Cause::Refused, None);
        let later = now + 60 * SECOND;
        assert_eq!([resting(&mut state, later), resting(&mut state, later + TRIAL)], [None, None]);
    }

    #[test]
    fn a_key_rests_as_long_as_the_provider_says() {
        let (mut state, now) = (State::default(), Instant::now());
        state.failed(now, state.newest(), Cause::Limited, Some(5 * SECOND));
        assert_eq!(resting(&mut state, now), Some(5));
        state.failed(now, state.newest(), Cause::Limited, Some(7 * SECOND));
        state.failed(now, state.newest(), Cause::Limited, Some(6 * SECOND));
        assert_eq!(resting(&mut state, now), Some(7));
        state.failed(now, state.newest(), Cause::Limited, Some(100_000 * SECOND));
        assert_eq!(resting(&mut state, now), Some(3600));
    }

    #[test]
    fn what_a_request_may_have_provoked_needs_to_come_often() {
        for cause in [Cause::Forbidden, Cause::Limited] {
            let (mut state, now) = (State::default(), Instant::now());
            state.failed(now, state.newest(), cause, None);
            state.failed(now, state.newest(), cause, None);
            assert_eq!(resting(&mut state, now), None);
            state.failed(now + WINDOW, state.newest(), cause, None);
            assert_eq!(resting(&mut state, now + WINDOW), None, "another window");
            state.failed(now + WINDOW, state.newest(), cause, None);
            state.failed(now + WINDOW, state.newest(), cause, None);
            assert_eq!(resting(&mut state, now + WINDOW), Some(10));
        }
        let (mut state, now) = (State::default(), Instant::now());
        state.succeeded(now, state.newest());
        (0..100).for_each(|_| state.failed(now, state.newest(), Cause::Forbidden, None));
        assert_eq!(resting(&mut state, now), None, "it works for others");
    }

    #[test]
    fn a_provider_that_fails_half_of_the_time_is_asked() {
        let (mut state, now) = (State::default(), Instant::now());
        for _ in 0..100 {
            state.failed(now, state.newest(), Cause::Provider, None);
            state.succeeded(now, state.newest());
        }
        assert_eq!(resting(&mut state, now), None);
        let mut state = State::default();
        (0..20).for_each(|_| state.failed(now, state.newest(), Cause::Provider, Some(5 * SECOND)));
        assert_eq!(resting(&mut state, now), Some(5));
    }

    #[test]
    fn a_request_from_before_a_rest_does_not_end_it() {
        let (mut state, now) = (State::default(), Instant::now());
        let before = state.permit(now).turn;
        state.failed(now, before, Cause::Limited, Some(60 * SECOND));
        state.succeeded(now, before);
        assert_eq!(resting(&mut state, now), Some(60), "an older success");
        let later = now + 60 * SECOND;
        let trial = state.permit(later);
        assert!(trial.rests.is_zero());
        state.failed(later, before, Cause::Provider, None);
        assert_eq!(resting(&mut state, later), Some(30), "an older failure is not the trial's");
        assert!(!state.is_trial(before) && state.is_trial(trial.turn));
        state.succeeded(later, trial.turn);
        assert_eq!(resting(&mut state, later), None);
        state.failed(later, trial.turn, Cause::Limited, Some(SECOND / 50));
        assert_eq!(resting(&mut state, later), None, "a rest that is over at once");
    }

    #[test]
    fn each_key_of_a_provider_has_a_circuit() {
        let mut keys = Keys::default();
        for (key, value) in [(Key::OpenAi, "a"), (Key::OpenAi, "b"), (Key::AzureEndpoint, "c")] {
            keys.add(key, value.to_owned());
        }
        let circuits = Circuits::new(&keys);
        let second = circuits.find(Key::OpenAi, 1).expect("there are two");
        assert_eq!((circuits.find(Key::OpenAi, 2), circuits.find(Key::AzureEndpoint, 0)), (None, None));
        circuits.failed(second, Turn::default(), Cause::Refused, None);
        let states: Vec<_> = circuits.readings().iter().map(|it| (it.provider, it.number, it.state)).collect();
        assert_eq!(states, [("openai", 1, "ok"), ("openai", 2, "resting")]);
    }

    #[test]
    fn the_causes_for_another_key() {
        let status = |status| Cause::of(&Failure::Status { status, body: String::new(), retry_after: None });
        assert_eq!([400, 404, 408, 422].map(status), [None; 4]);
        let in_words = |words: &str| {
            let body = serde_json::json!({ "error": { "message": words } }).to_string();
            Cause::of(&Failure::Status { status: 400, body, retry_after: None })
        };
        assert_eq!(in_words("API key not valid. Please pass a valid API key."), Some(Cause::Refused));
        assert_eq!(in_words("invalid: 'API key not valid'"), None);
        assert_eq!([401, 402].map(status), [Some(Cause::Refused); 2]);
        assert_eq!([403, 429].map(status), [Some(Cause::Forbidden), Some(Cause::Limited)]);
        assert_eq!([500, 503, 529].map(status), [Some(Cause::Provider); 3]);
        assert_eq!(Cause::of(&Failure::Unreachable(String::new())), Some(Cause::Connection));
        assert_eq!(Cause::of(&Failure::Silent(SECOND)), Some(Cause::Connection));
        assert_eq!(Cause::of(&Failure::Blocked(String::new())), None);
        assert_eq!(Cause::of(&Failure::Rejected(String::new())), None);
        for body in
            ["", "[]", "1", "true", "null", "\"Forbidden\"", r#"[{"error":{"message":"m"}}]"#, r#"{"error":[]}"#]
        {
            let of = |status| Cause::of(&Failure::Status { status, body: body.to_owned(), retry_after: None });
            assert_eq!((of(400), of(403)), (None, Some(Cause::Forbidden)), "{body}");
        }
        let body = r#"{"error":{"code":403,"message":"m","metadata":{"reasons":["violence"]}}}"#.to_owned();
        assert_eq!(
            Cause::of(&Failure::Status { status: 403, body, retry_after: None }),
            None,
            "the prompt is at fault"
        );
    }
}
