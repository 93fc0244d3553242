//! What a request took: its facts → rows of the ledger, one for each request to a provider.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use uuid::Uuid;

use super::{MAX_MODEL, Reservation, estimate};
use crate::telemetry::{Asked, Ended, Facts, Tokens};

/// A row, as the database takes it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub id: Uuid,
    /// Seconds since 1970; the reservation's own time counts where there is one.
    at: f64,
    user_id: Uuid,
    route: String,
    pub provider: &'static str,
    pub model: String,
    pub served_model: Option<String>,
    input: u64,
    cached: u64,
    output: u64,
    reasoning: u64,
    ended: &'static str,
    own_key: bool,
    estimated: bool,
}

/// Makes the rows; none if no provider was asked.
pub(super) fn rows(reservation: &Reservation, own_key: bool, facts: &Facts) -> Vec<Row> {
    let is_success = |asked: &Asked| asked.status.is_some_and(|status| status < 300);
    let mut counted: Vec<&Asked> = facts.asked.iter().filter(|asked| is_success(asked)).collect();
    // Requests that a provider refused count once, if no other form was taken.
    if counted.is_empty() || facts.asked.last().is_some_and(|last| last.status.is_none()) {
        counted.extend(facts.asked.last());
    }
    let at = reservation.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
    let plan = &reservation.plan;
    let clean = |name: &str| name.replace('\0', "").chars().take(MAX_MODEL).collect::<String>();
    let model = facts.model.as_deref().or(plan.models.first().map(String::as_str)).unwrap_or_default();
    let first_sent = counted.first().map_or(0, |asked| asked.sent);
    counted
        .iter()
        .enumerate()
        .map(|(number, asked)| {
            let ended = if number + 1 < counted.len() { COMPLETE } else { ended(asked, facts) };
            let more = estimate::likely(asked.sent.saturating_sub(first_sent) as u64);
            let bytes = counted.get(number + 1).map_or(facts.bytes, |next| next.bytes_before);
            let shown = estimate::likely(bytes.saturating_sub(asked.bytes_before));
            let (tokens, estimated) = tokens(asked, ended, plan.estimate.likely_input + more, shown);
            Row {
                id: if number == 0 { reservation.id } else { Uuid::new_v4() },
                at: at + (asked.at - counted[0].at).as_secs_f64(),
                user_id: reservation.user,
                route: plan.route.clone(),
                provider: asked.provider.or(facts.provider).unwrap_or(plan.provider),
                model: clean(model),
                served_model: asked.model.as_deref().or(facts.effective_model.as_deref()).map(clean),
                input: tokens.input,
                cached: tokens.cached,
                output: tokens.output,
                reasoning: tokens.reasoning,
                ended,
                own_key,
                estimated,
            }
        })
        .collect()
}

const COMPLETE: &str = "complete";
const REFUSED: &str = "refused";

/// Returns the end of the last request to a provider, in the words of the log.
fn ended(asked: &Asked, facts: &Facts) -> &'static str {
    match (facts.ended, asked.status) {
        (_, Some(300..)) => REFUSED,
        (Some(ended), _) => ended.as_str(),
        (None, Some(_)) if facts.status.is_some_and(|status| status < 400) || asked.is_counted => COMPLETE,
        (None, _) => Ended::ProviderBroke.as_str(),
    }
}

/// Returns what a request took, and whether that is an estimate: `shown` are the tokens of the text that was passed on.
fn tokens(asked: &Asked, ended: &str, likely_input: u64, shown: u64) -> (Tokens, bool) {
    match (asked.tokens, asked.status) {
        (Some(tokens), _) if asked.is_counted => (tokens, false),
        // Counted so far: the prompt is right, the answer went on.
        (Some(tokens), _) => (Tokens { output: tokens.output.max(shown), ..tokens }, true),
        (None, Some(300..)) => (Tokens::default(), false),
        (None, Some(_)) => (Tokens { input: likely_input, output: shown, ..Tokens::default() }, true),
        // No response: the prompt was read, unless there was no connection.
        (None, None) if ended == Ended::ProviderBroke.as_str() => (Tokens::default(), true),
        (None, None) => (Tokens { input: likely_input, ..Tokens::default() }, true),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn asked(status: Option<u16>, tokens: Option<Tokens>, is_counted: bool) -> Asked {
        let now = Instant::now();
        Asked { provider: None, model: None, at: now, until: now, status, sent: 0, bytes_before: 0, tokens, is_counted }
    }

    #[test]
    fn what_was_reported_counts_and_the_rest_is_estimated() {
        let reported = Tokens { input: 9, cached: 1, output: 5, reasoning: 2 };
        for (asked, ended, expected) in [
            (asked(Some(200), Some(reported), true), "complete", (reported, false)),
            (asked(Some(200), Some(reported), false), "client left", (Tokens { output: 100, ..reported }, true)),
            (asked(Some(200), None, true), "complete", (Tokens { input: 7, output: 100, ..Tokens::default() }, true)),
            (asked(Some(429), None, false), "refused", (Tokens::default(), false)),
            (asked(None, None, false), "client left", (Tokens { input: 7, ..Tokens::default() }, true)),
            (asked(None, None, false), "provider broke", (Tokens::default(), true)),
        ] {
            assert_eq!(
                tokens(&asked, ended, 7, if asked.status == Some(200) { 100 } else { 0 }),
                expected,
                "{asked:?}"
            );
        }
    }

    #[test]
    fn an_end_is_named_as_in_the_log() {
        let facts = |status, ended| Facts { status, ended, ..Facts::default() };
        let ok = asked(Some(200), None, false);
        assert_eq!(ended(&ok, &facts(Some(200), Some(Ended::ClientLeft))), "client left");
        assert_eq!(ended(&ok, &facts(Some(200), None)), "complete");
        assert_eq!(ended(&ok, &facts(Some(502), None)), "provider broke");
        assert_eq!(ended(&asked(Some(401), None, false), &facts(Some(401), None)), "refused");
        assert_eq!(ended(&asked(None, None, false), &facts(None, Some(Ended::ClientLeft))), "client left");
    }
}
