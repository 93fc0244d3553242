//! Output of a reader, and the judgement of an answer's end.

use serde_json::value::RawValue;

use super::{calls::Calls, sources::Sources};
use crate::llm::failure::Failure;

/// What is read for besides the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The model's thoughts.
    pub reasoning: bool,
    /// Function calls: set if functions were offered to the model. If not, the
    /// OpenAI wire's calls are written into the text, as in the original.
    pub calls: bool,
}

/// What was read out of some events. `text` and `reasoning` are taken out as
/// they come; the rest stays and is complete at the end.
#[derive(Default)]
pub struct Output {
    /// What is read for.
    pub wanted: Wanted,
    /// Text for the client.
    pub text: String,
    /// Thoughts of the model, if they are wanted.
    pub reasoning: String,
    /// Some thoughts came, wanted or not.
    pub thought: bool,
    /// The provider said that nothing follows.
    pub done: bool,
    /// The provider marked the answer's end.
    pub ended: bool,
    /// Why the model stopped.
    pub finish: Option<Finish>,
    /// The provider's last count of tokens, a JSON object in its own form;
    /// empty if there was none.
    pub usage: String,
    /// The pages that the answer cites.
    pub sources: Sources,
    /// The functions that the model calls, if they are wanted.
    pub calls: Calls,
}

/// Why a model stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// Its answer is complete.
    Stop,
    /// A limit of tokens was reached.
    Length,
    /// It waits for the results of its calls.
    Calls,
    /// It refused, or a filter stopped it. In a sentence for the user.
    Blocked(String),
    /// The provider gave up. In a sentence for the user.
    Failed(String),
}

impl Finish {
    /// The reason in OpenAI's words, for `done` events.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Calls => "tool_calls",
            Self::Blocked(_) => "content_filter",
            Self::Failed(_) => "error",
        }
    }
}

/// The most bytes of a count of tokens that are kept. Real ones have hundreds.
const MAX_USAGE_BYTES: usize = 64 * 1024;

const NO_END_MARK: &str = "The provider ended the answer without saying that it is complete";
const NO_TEXT: &str = "The provider ended its answer before any text. Please try again.";
const NO_TEXT_WITHIN_LIMIT: &str = "The model reached its limit of tokens before it wrote any text. Please ask for less, or choose a model with a higher limit.";

impl Output {
    /// For a stream that is read for what is `wanted`.
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Adds to the thoughts.
    pub(super) fn think(&mut self, thought: &str) {
        if thought.is_empty() {
            return;
        }
        self.thought = true;
        if self.wanted.reasoning {
            self.reasoning.push_str(thought);
        }
    }

    /// Replaces the count of tokens.
    pub(super) fn count(&mut self, usage: &RawValue) {
        let usage = usage.get();
        if usage.starts_with('{') && usage.len() <= MAX_USAGE_BYTES {
            self.usage.clear();
            self.usage.push_str(usage);
        }
    }

    /// Judges the end: the reason of an answer that is usable as it is, if the
    /// provider gave one. `has_text`: some text came, at any time.
    ///
    /// # Errors
    /// If the answer was refused, filtered or cut off.
    pub fn judge(&mut self, has_text: bool) -> Result<Option<Finish>, Failure> {
        match self.finish.take() {
            Some(Finish::Blocked(words)) => Err(Failure::Blocked(words)),
            Some(Finish::Failed(words)) => Err(Failure::Stream(words)),
            _ if !self.ended => {
                let words = if has_text { NO_END_MARK } else { NO_TEXT };
                Err(Failure::Incomplete(words.to_owned()))
            }
            Some(Finish::Length) if !has_text => Err(Failure::Incomplete(NO_TEXT_WITHIN_LIMIT.to_owned())),
            // Also a model that had nothing to say, and said so.
            finish => Ok(finish),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_judged_by_its_mark_its_reason_and_its_text() {
        let judge = |finish: Option<Finish>, ended: bool, has_text: bool| {
            Output { finish, ended, ..Output::default() }.judge(has_text)
        };
        assert_eq!(judge(Some(Finish::Stop), true, true).expect("usable"), Some(Finish::Stop));
        assert_eq!(judge(Some(Finish::Length), true, true).expect("usable"), Some(Finish::Length));
        assert_eq!(judge(None, true, true).expect("usable"), None);
        assert!(matches!(judge(None, false, true), Err(Failure::Incomplete(words)) if words == NO_END_MARK));
        assert!(matches!(judge(None, false, false), Err(Failure::Incomplete(words)) if words == NO_TEXT));
        assert_eq!(judge(Some(Finish::Stop), true, false).expect("usable"), Some(Finish::Stop));
        assert!(
            matches!(judge(Some(Finish::Length), true, false), Err(Failure::Incomplete(words)) if words != NO_TEXT)
        );
        for has_text in [true, false] {
            let blocked = judge(Some(Finish::Blocked("no".to_owned())), true, has_text);
            assert!(matches!(blocked, Err(Failure::Blocked(words)) if words == "no"));
            let failed = judge(Some(Finish::Failed("no".to_owned())), true, has_text);
            assert!(matches!(failed, Err(Failure::Stream(words)) if words == "no"));
        }
    }

    #[test]
    fn the_last_count_of_tokens_is_kept_within_bounds() {
        let mut out = Output::default();
        let mut count = |json: String| out.count(&RawValue::from_string(json).expect("JSON"));
        count(r#"{"a":1}"#.to_owned());
        count(r#"{"a":2}"#.to_owned());
        count("0".to_owned());
        count(format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_USAGE_BYTES)));
        assert_eq!(out.usage, r#"{"a":2}"#);
    }
}
