//! The function calls of one answer, put together from the pieces in which
//! they are streamed.

use serde_json::Value;

use crate::llm::failure::Failure;

/// The most calls of one answer.
const MAX_CALLS: usize = 512;
/// The most bytes of all calls of one answer, and of what goes with them.
const MAX_BYTES: usize = 1024 * 1024;

/// One call. Without `Debug`, as it quotes the chat.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct FunctionCall {
    /// The provider's id, which its result must name; empty if it has none.
    pub id: String,
    /// The function.
    pub name: String,
    /// JSON, as the model wrote it: maybe empty, maybe malformed.
    pub arguments: String,
    /// Google's signature of the thoughts before the call, which has to be
    /// sent back with it.
    pub signature: Option<String>,
}

/// The calls of one answer, bounded.
#[derive(Default)]
pub struct Calls {
    /// In the order in which they began.
    pub list: Vec<FunctionCall>,
    /// Anthropic's thinking blocks, which have to be sent back before the
    /// calls as they came.
    pub thinking: Vec<Value>,
    /// By position in `list`, the provider's number for it.
    numbers: Vec<Option<u64>>,
    bytes: usize,
}

impl Calls {
    /// Begins a call.
    ///
    /// # Errors
    /// If there are too many.
    pub(super) fn begin(&mut self, number: Option<u64>, id: &str, name: &str) -> Result<&mut FunctionCall, Failure> {
        self.reserve(id.len() + name.len())?;
        if self.list.len() == MAX_CALLS {
            return Err(too_many());
        }
        self.numbers.push(number);
        self.list.push(FunctionCall { id: id.to_owned(), name: name.to_owned(), ..FunctionCall::default() });
        self.list.last_mut().ok_or_else(too_many)
    }

    /// Adds to the arguments of the call with this number, or of the last.
    ///
    /// # Errors
    /// If they get too long.
    pub(super) fn add_arguments(&mut self, number: Option<u64>, arguments: &str) -> Result<(), Failure> {
        self.reserve(arguments.len())?;
        let numbered = number.and_then(|_| self.numbers.iter().rposition(|own| *own == number));
        let at = numbered.or(self.list.len().checked_sub(1));
        if let Some(call) = at.and_then(|at| self.list.get_mut(at)) {
            call.arguments.push_str(arguments);
        }
        Ok(())
    }

    /// Whether a call with this number has begun.
    pub(super) fn has(&self, number: Option<u64>) -> bool {
        number.is_some() && self.numbers.contains(&number)
    }

    /// Charges bytes that are about to be kept.
    ///
    /// # Errors
    /// If they get too many.
    pub(super) fn reserve(&mut self, bytes: usize) -> Result<(), Failure> {
        self.bytes += bytes;
        if self.bytes > MAX_BYTES { Err(too_many()) } else { Ok(()) }
    }
}

fn too_many() -> Failure {
    Failure::Unusable("The model called more functions, or with longer arguments, than this server takes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_joined_by_number() {
        let mut calls = Calls::default();
        for (number, id) in [(Some(0), "a"), (Some(1), "b")] {
            assert!(!calls.has(number));
            calls.begin(number, id, "f").expect("few");
        }
        for (number, piece) in [(Some(0), "1"), (Some(1), "2"), (Some(0), "3"), (None, "4"), (Some(7), "5")] {
            calls.add_arguments(number, piece).expect("short");
        }
        let arguments: Vec<&str> = calls.list.iter().map(|call| call.arguments.as_str()).collect();
        assert_eq!(arguments, ["13", "245"]);
        assert!(calls.has(Some(1)) && !calls.has(None));
    }

    #[test]
    fn calls_are_bounded() {
        let mut calls = Calls::default();
        for _ in 0..MAX_CALLS {
            calls.begin(None, "", "f").expect("few");
        }
        assert!(calls.begin(None, "", "f").is_err());
        let mut calls = Calls::default();
        calls.begin(None, "", "f").expect("few");
        assert!(calls.add_arguments(None, &"x".repeat(MAX_BYTES)).is_err());
        assert!(calls.list[0].arguments.is_empty());
    }
}
