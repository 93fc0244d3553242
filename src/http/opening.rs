//! Opening an answer: one way after another, up to the answer's first text.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use actix_web::web::Data;

use super::ways::{MakeRound, MapErr, Ways};
use crate::{
    error::Error,
    llm::{
        Attempt, Call, Failure, Providers,
        answer::Wanted,
        dispatch::{MakeCall, Unanswered, dispatch},
        failover::{self, Way, failover},
        functions::Form,
        relay::Relay,
    },
    telemetry::RequestLog,
};

/// The words of the way that is taken.
#[derive(Clone)]
pub struct Words(Rc<RefCell<MapErr>>);

impl Words {
    fn set(&self, map_err: MapErr) {
        *self.0.borrow_mut() = map_err;
    }

    /// Words a failure.
    pub fn word(&self, failure: Failure) -> Error {
        (self.0.borrow())(failure)
    }
}

/// Opens the answers of one chat.
pub struct Opener {
    providers: Data<Providers>,
    /// Gone with the prompt in it once nothing is to be sent any more.
    ways: Option<Ways>,
    /// The ways that may be taken.
    left: Vec<usize>,
    words: Words,
    log: RequestLog,
    wanted: Wanted,
    offers_functions: bool,
}

impl Opener {
    /// Creates one for a chat to which functions are offered or none.
    pub fn new(
        providers: Data<Providers>,
        ways: Ways,
        wanted: Wanted,
        offers_functions: bool,
        log: RequestLog,
    ) -> Self {
        let words = Words(Rc::new(RefCell::new(Box::new(Failure::into_error))));
        let left = (0..ways.ways().len()).collect();
        Self { providers, ways: Some(ways), left, words, log, wanted, offers_functions }
    }

    /// Returns the words of the way that is taken, whichever that will be.
    pub fn words(&self) -> Words {
        self.words.clone()
    }

    /// Opens an answer. `make` makes a call of a way's own one, and adds some `added` bytes to the chat. If it
    /// `is_last`, no other answer is opened after it.
    ///
    /// # Errors
    /// If no way leads to one.
    pub async fn open(
        &mut self,
        added: usize,
        is_last: bool,
        make: impl Fn(&MakeRound, Form, &Attempt<'_>) -> Result<Call, Error> + Clone + Send + Sync + 'static,
    ) -> Result<Relay, Unanswered> {
        let Self { providers, ways, left, words, log, wanted, offers_functions } = self;
        let (providers, log) = (&*providers, &*log);
        let all = ways.as_ref().map(Ways::ways).unwrap_or_default();
        let list: Vec<Way> = left.iter().filter_map(|at| all.get(*at).copied()).collect();
        let mut called: Vec<Option<String>> = vec![None; list.len()];
        let (called_models, are_several) = (&mut called, list.len() > 1);
        let circuits = &providers.routing.circuits;
        // Awaited where it is made: a future that is moved takes its room twice.
        let opened = failover(circuits, &list, log, async |failover::Attempt { at, is_only }| {
            let target = ways.as_ref().ok_or_else(no_way).and_then(|ways| ways.target(left[at]));
            let target = target.map_err(Unanswered::Invalid)?;
            words.set(target.map_err);
            if are_several {
                log.note().provider = Some(target.path);
            }
            let (mut request, make_call, form) = (target.request, target.make_call, target.form);
            request.wanted.functions = *offers_functions;
            let make = make.clone();
            let call = move |attempt: &Attempt<'_>| {
                let call = make(&make_call, form, attempt)?;
                Ok(if is_only { call } else { Call { attempts: 1, ..call } })
            };
            let make_call = match ways.as_ref().and_then(|ways| ways.blocking(added)) {
                Some((turns, user)) => MakeCall::Blocking(Arc::new(call), turns, user),
                None => MakeCall::Inline(Box::new(call)),
            };
            // All moved in, so that neither the calls nor the prompt are held once the provider has begun to answer,
            // unless another one may be asked.
            if is_only && is_last {
                *ways = None;
            }
            let answer = Box::pin(dispatch(providers, request, make_call, log)).await;
            called_models[at] = log.note().effective_model.clone();
            let answer = answer?;
            let relay = Relay::open(answer.body, answer.reader, *wanted, answer.limits, log.clone()).await?;
            Ok((at, relay))
        })
        .await;
        match opened {
            Ok((at, relay)) => {
                // What was said and called by one model is not put to another.
                let model = list.get(at).map(|way| way.model);
                left.retain(|at| all.get(*at).map(|way| way.model) == model);
                Ok(relay)
            }
            Err((at, unanswered)) => {
                if let Some(target) = ways.as_ref().and_then(|ways| ways.target(*left.get(at)?).ok()) {
                    words.set(target.map_err);
                    let mut facts = log.note();
                    facts.provider = Some(target.path);
                    facts.effective_model = called.get_mut(at).and_then(Option::take);
                }
                Err(unanswered)
            }
        }
    }
}

fn no_way() -> Error {
    Error::Internal("an answer was opened after the last one".to_owned())
}
