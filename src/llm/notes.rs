//! What this server adds to an answer's text: the pages that it cites, and a
//! last line that says why it is not complete, for people whose front end
//! shows nothing else. Both are taken off again where a history comes back
//! with them, so that no model reads them as its own words.

use super::{
    answer::{output::Finish, sources},
    failure::Failure,
};

const BEFORE: &str = "\n\n*The answer stops here: ";
const AFTER: &str = "*";

/// The most characters of a provider's words that are quoted.
const MAX_QUOTED_CHARS: usize = 300;

/// Returns the last line of an answer with this outcome, unless it is complete.
pub fn last_line(outcome: &Result<Option<Finish>, Failure>) -> Option<String> {
    let reason = match outcome {
        Ok(Some(Finish::Length)) => "it reached the limit of tokens".to_owned(),
        Ok(_) => return None,
        Err(Failure::Broken(_) | Failure::Connection(_) | Failure::Unreachable(_)) => {
            "the connection to the provider broke".to_owned()
        }
        Err(
            Failure::Stream(words)
            | Failure::Rejected(words)
            | Failure::Status { body: words, .. }
            | Failure::Unusable(words),
        ) => {
            format!("the provider reported an error: {}", quoted(words))
        }
        Err(
            failure @ (Failure::Blocked(_)
            | Failure::Incomplete(_)
            | Failure::Silent(_)
            | Failure::Refused(_)
            | Failure::Overloaded),
        ) => {
            let words = quoted(&failure.to_string());
            words.strip_prefix("The ").map(|rest| format!("the {rest}")).unwrap_or(words)
        }
    };
    Some(format!("{BEFORE}{}.{AFTER}", reason.trim_end_matches('.')))
}

/// Others' words in one line, without what would end the line's emphasis.
fn quoted(words: &str) -> String {
    let plain = words.replace(|c: char| c == '*' || (c.is_control() && !c.is_whitespace()), "");
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut quoted: String = line.chars().take(MAX_QUOTED_CHARS).collect();
    if line.chars().count() > MAX_QUOTED_CHARS {
        quoted.push('…');
    }
    quoted
}

/// Returns an answer without what this server added to it.
pub fn without(answer: &str) -> &str {
    let trimmed = answer.trim_end();
    let is_line = |line: &str| line.strip_suffix(AFTER).is_some_and(|line| !line.contains(['\n', '*']));
    match trimmed.rsplit_once(BEFORE) {
        Some((before, line)) if is_line(line) => sources::without_list(before),
        _ => sources::without_list(answer),
    }
}

/// Whether JSON may hold something that [`without`] takes off.
pub(super) fn may_be_in(json: &[u8]) -> bool {
    [b"*The answer stops here: ".as_slice(), b"*Sources:*"]
        .iter()
        .any(|mark| memchr::memmem::find(json, mark).is_some())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_that_is_not_complete_says_why() {
        for (outcome, line) in [
            (Ok(Some(Finish::Length)), "it reached the limit of tokens."),
            (Err(Failure::Blocked("The model refused to answer".to_owned())), "the model refused to answer."),
            (Err(Failure::Stream("Over *loaded*.\n\u{7}".to_owned())), "the provider reported an error: Over loaded."),
            (Err(Failure::Broken("secret detail".to_owned())), "the connection to the provider broke."),
            (Err(Failure::Silent(Duration::from_secs(300))), "the provider said nothing for 300 seconds."),
        ] {
            assert_eq!(last_line(&outcome), Some(format!("\n\n*The answer stops here: {line}*")));
        }
        assert_eq!(last_line(&Ok(Some(Finish::Stop))), None);
        assert_eq!(last_line(&Ok(None)), None);
        let long = last_line(&Err(Failure::Stream("é".repeat(10_000)))).expect("a line");
        assert!(long.chars().count() < MAX_QUOTED_CHARS + 100);
    }

    #[test]
    fn what_was_added_is_taken_off() {
        let mut pages = sources::Sources::default();
        pages.add("https://a.example/", Some("A"));
        let line = last_line(&Err(Failure::Stream("a *b*".repeat(1000)))).expect("a line");
        for text in ["An answer", "", "*emphasis*", "a\n\n*The answer stops here: or so*, he said"] {
            assert_eq!(without(&format!("{text}{line}")), text);
            assert_eq!(without(&format!("{text}{line}\n")), text);
            assert_eq!(without(&format!("{text}{}", pages.markdown())), text);
            assert_eq!(without(&format!("{text}{}{line}", pages.markdown())), text);
            assert_eq!(without(text), text);
        }
    }
}
