//! Event data that every reader meets: the mark of a stream's end, and what is not understood.

use crate::llm::failure::Failure;

pub fn not_understood() -> Failure {
    Failure::Stream("The provider sent an event that is not understood".to_owned())
}

/// Whether an event's data is the mark with which OpenAI's streams end, in any
/// of the spellings that are met: `[DONE]`, `[done]`, `DONE`, `"[DONE]"`.
pub fn is_done_mark(data: &[u8]) -> bool {
    let unquoted = data.strip_prefix(b"\"").and_then(|data| data.strip_suffix(b"\"")).unwrap_or(data).trim_ascii();
    let word = unquoted.strip_prefix(b"[").map_or(unquoted, |rest| &rest[..rest.len().min(4)]);
    word.eq_ignore_ascii_case(b"done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_marks_in_all_spellings() {
        for mark in ["[DONE]", "[done]", "[DONE", "DONE", "Done", "\"[DONE]\"", "[DONE] ", "[DONE]x"] {
            assert!(is_done_mark(mark.as_bytes()), "{mark}");
        }
        for other in ["", "[", "[]", "{}", "null", "[D]", "undone", "[\"DONE\"]"] {
            assert!(!is_done_mark(other.as_bytes()), "{other}");
        }
    }
}
