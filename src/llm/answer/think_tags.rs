//! Thoughts that a model writes into its text, between `<think>` and
//! `</think>` at the beginning.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// The place in the text, and what is held back because a tag may begin there.
#[derive(Debug)]
pub enum ThinkTags {
    /// Before the text, or in a tag that may open.
    Start(String),
    /// Inside.
    Thinking(String),
    /// After, or there are none.
    Past,
}

/// A piece of the text, told apart.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Part of the answer.
    Text(String),
    /// Part of the thoughts.
    Thought(String),
}

impl ThinkTags {
    /// Takes the next piece of the text.
    pub fn split(&mut self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if let Self::Start(held) = self {
            held.push_str(text);
            let begun = held.trim_start();
            if begun.len() < OPEN.len() && OPEN.starts_with(begun) {
                return pieces;
            }
            match begun.strip_prefix(OPEN).map(str::to_owned) {
                Some(rest) => {
                    *self = Self::Thinking(String::new());
                    pieces.extend(self.split(&rest));
                }
                None => {
                    pieces.push(Piece::Text(std::mem::take(held)));
                    *self = Self::Past;
                }
            }
        } else if let Self::Thinking(held) = self {
            held.push_str(text);
            if let Some((thought, answer)) = held.split_once(CLOSE) {
                pieces.push(Piece::Thought(thought.to_owned()));
                pieces.push(Piece::Text(answer.to_owned()));
                *self = Self::Past;
            } else {
                // What may be the beginning of the tag stays.
                let kept = (1..CLOSE.len()).rev().find(|&length| held.ends_with(&CLOSE[..length])).unwrap_or(0);
                let rest = held.split_off(held.len() - kept);
                pieces.push(Piece::Thought(std::mem::replace(held, rest)));
            }
        } else {
            pieces.push(Piece::Text(text.to_owned()));
        }
        pieces
    }

    /// The text has ended: gives what was held back.
    pub fn finish(&mut self) -> Option<Piece> {
        match std::mem::replace(self, Self::Past) {
            Self::Start(held) => Some(Piece::Text(held)),
            Self::Thinking(held) => Some(Piece::Thought(held)),
            Self::Past => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'a>(parts: impl IntoIterator<Item = &'a str>) -> (String, String) {
        let (mut tags, mut text, mut thoughts) = (ThinkTags::Start(String::new()), String::new(), String::new());
        let mut pieces: Vec<Piece> = parts.into_iter().flat_map(|part| tags.split(part)).collect();
        pieces.extend(tags.finish());
        for piece in pieces {
            match piece {
                Piece::Text(piece) => text.push_str(&piece),
                Piece::Thought(piece) => thoughts.push_str(&piece),
            }
        }
        (text, thoughts)
    }

    #[test]
    fn thoughts_are_told_from_the_text_however_it_is_split() {
        for (whole, text, thoughts) in [
            ("<think>\nhm é</think>\n\nThe answer", "\n\nThe answer", "\nhm é"),
            (" \n<think></think>a</think>b", "a</think>b", ""),
            ("no <think>tags</think>", "no <think>tags</think>", ""),
            ("<thin", "<thin", ""),
            ("<think>cut </thi", "", "cut </thi"),
            ("<think><</</think>x", "x", "<</"),
            ("", "", ""),
        ] {
            for at in (0..=whole.len()).filter(|&at| whole.is_char_boundary(at)) {
                assert_eq!(split([&whole[..at], &whole[at..]]), (text.to_owned(), thoughts.to_owned()), "{whole} {at}");
            }
            let single: Vec<String> = whole.chars().map(String::from).collect();
            assert_eq!(split(single.iter().map(String::as_str)), (text.to_owned(), thoughts.to_owned()), "{whole}");
        }
    }
}
