//! The sentence about a budget that has no room.

use serde_json::Value;

use crate::error::Error;

/// Seconds after which a request may be tried again while others hold the room.
const HELD_FOR: u64 = 5;

/// Makes an error of the database's answer.
pub(super) fn error(refused: &Value) -> Error {
    let text = |name: &str| refused[name].as_str().unwrap_or_default();
    let number = |name: &str| refused[name].as_f64().unwrap_or_default();
    let (unit, left, reserved) = (text("unit"), number("left"), number("reserved"));
    let models = refused["model"].as_str().map(|model| format!(" for {model}")).unwrap_or_default();
    let under_way = if reserved > 0.0 {
        format!(", {} of it held for requests that are under way", amount(unit, reserved.min(left)))
    } else {
        String::new()
    };
    let sentence = format!(
        "Your budget of {} a {}{models} has no room for this request: {} left{under_way}. It begins anew at {} UTC.",
        amount(unit, number("amount")),
        text("period"),
        amount(unit, left),
        text("resets_at"),
    );
    let until_reset = refused["seconds"].as_u64().unwrap_or(1).max(1);
    // What others hold may be enough once it is free.
    let may_fit = reserved > 0.0 && number("need") <= left;
    Error::BudgetSpent { sentence, retry_after: if may_fit { until_reset.min(HELD_FOR) } else { until_reset } }
}

fn amount(unit: &str, number: f64) -> String {
    match unit {
        "usd" => {
            let cents = format!("{number:.4}");
            let (whole, fraction) = cents.split_once('.').unwrap_or((&cents, "00"));
            // Two digits at least, as money has.
            let fraction = fraction.trim_end_matches('0');
            format!("${whole}.{fraction:0<2}")
        }
        "requests" if number == 1.0 => "1 request".to_owned(),
        unit => format!("{} {unit}", number.floor()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(of: Value) -> (String, u64) {
        match error(&of) {
            Error::BudgetSpent { sentence, retry_after } => (sentence, retry_after),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_sentence_says_which_budget_how_much_is_left_and_when_it_begins_anew() {
        let spent = json!({
            "period": "day", "unit": "requests", "amount": 100, "left": 0, "reserved": 0, "seconds": 3600,
            "resets_at": "2026-11-30 00:00", "model": null,
        });
        let words = "Your budget of 100 requests a day has no room for this request: 0 requests left. It begins anew at 2026-11-30 00:00 UTC.";
        assert_eq!(refusal(spent), (words.to_owned(), 3600));
        let held = json!({
            "period": "month", "unit": "usd", "amount": 5, "left": 1.25, "reserved": 1.125, "seconds": 3600,
            "resets_at": "2026-12-01 00:00", "model": "gpt-4*", "need": 0.5,
        });
        let words = "Your budget of $5.00 a month for gpt-4* has no room for this request: $1.25 left, $1.125 of it held for requests that are under way. It begins anew at 2026-12-01 00:00 UTC.";
        assert_eq!(refusal(held.clone()), (words.to_owned(), 5));
        let mut more = held;
        more["need"] = json!(1.5);
        assert_eq!(refusal(more).1, 3600, "it would not fit either way");
    }
}
