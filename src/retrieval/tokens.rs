//! Counting a passage's tokens in `cl100k_base`, the encoding of OpenAI's embedding models.

use std::{
    collections::HashMap,
    sync::{LazyLock, OnceLock},
};

use regex::Regex;
use tiktoken::CoreBpe;

use crate::js;

/// Bytes that are encoded at once. Passages are far shorter; only a csv row that cannot be split can be longer, and the
/// encoder needs some thirty times the memory of an unbroken run of letters.
const SLICE: usize = 64 * 1024;

/// Counts the tokens in `text` as gpt-tokenizer 2.1.2 does.
///
/// Differs: the original refuses a file that contains `<|endoftext|>` or one of seven more special tokens. Here they
/// are ordinary text.
///
/// Differs: if no word ends within 64 KiB, the count may be a token or two too high. The original's time is quadratic
/// there.
pub fn count(text: &str) -> usize {
    let mut rest = text;
    let mut total = 0;
    while rest.len() > SLICE {
        // Between a word and the space before the next, pieces end in any case.
        let word_end = rest.as_bytes()[..SLICE]
            .array_windows()
            .rposition(|&[a, space, b]| a.is_ascii_alphabetic() && space == b' ' && b.is_ascii_alphabetic());
        let end = word_end.map_or(rest.floor_char_boundary(SLICE), |at| at + 1);
        let (slice, after) = rest.split_at(end);
        total += count_slice(slice);
        rest = after;
    }
    total + count_slice(rest)
}

fn count_slice(text: &str) -> usize {
    match text.contains(DISPUTED) {
        false => encoder().count(text),
        true => pieces(text).map(count_piece).sum(),
    }
}

fn encoder() -> &'static CoreBpe {
    tiktoken::get_encoding("cl100k_base").expect("the feature vocab-cl100k_base builds it in")
}

/// Characters that JavaScript's regular expressions class differently from Rust's: the byte order mark (white space),
/// U+0085 (not white space) and U+0345 (a letter, when case is ignored).
const DISPUTED: [char; 3] = ['\u{feff}', '\u{85}', '\u{345}'];

/// Splits `text` into the pieces that are encoded separately, with JavaScript's character classes.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    static PIECE: LazyLock<Regex> = LazyLock::new(|| {
        let space = r"[[\s\x{FEFF}]--\x{85}]";
        let not_word = r"[^\s\x{FEFF}\p{L}\x{345}\p{N}]";
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\x{{345}}\p{{N}}]?[\p{{L}}\x{{345}}]+|\p{{N}}{{1,3}}| ?[{not_word}\x{{85}}]+[\r\n]*|{space}*[\r\n]+|{space}+"
        );
        Regex::new(&pattern).expect("a fixed pattern")
    });

    let mut at = 0;
    std::iter::from_fn(move || {
        let found = PIECE.find_at(text, at)?;
        let mut piece = found.as_str();
        // The encoding's `\s+(?!\S)`: white space leaves its last character to the following word.
        let before_word = text[found.end()..].chars().next().is_some_and(|c| !js::is_space(c));
        if before_word
            && !piece.ends_with(['\r', '\n'])
            && piece.chars().all(js::is_space)
            && let Some((last, _)) = piece.char_indices().next_back().filter(|&(last, _)| last > 0)
        {
            piece = &piece[..last];
        }
        at = found.start() + piece.len();
        Some(piece)
    })
}

/// Counts the tokens of one piece. The encoder would split a piece with a disputed character again, so those are
/// encoded here.
fn count_piece(piece: &str) -> usize {
    /// Merging here takes quadratic time.
    const LONGEST: usize = 4096;
    if !piece.contains(DISPUTED) || piece.len() > LONGEST {
        return encoder().count(piece);
    }
    let ranks = ranks();
    let bytes = piece.as_bytes();
    let mut starts: Vec<usize> = (0..=bytes.len()).collect();
    // Byte pair encoding: merge the two neighbours that form the token of the lowest rank, as long as there are any.
    while let Some((_, at)) =
        starts.windows(3).enumerate().filter_map(|(at, ends)| Some((ranks.get(&bytes[ends[0]..ends[2]])?, at))).min()
    {
        starts.remove(at + 1);
    }
    starts.len() - 1
}

/// The encoding's tokens and their ranks; built for the first disputed character.
fn ranks() -> &'static HashMap<Vec<u8>, u32> {
    static RANKS: OnceLock<HashMap<Vec<u8>, u32>> = OnceLock::new();
    RANKS.get_or_init(|| {
        // The special tokens' numbers start above these.
        (0..100_256).map(|id| (encoder().decode(&[id]), id)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts by gpt-tokenizer 2.1.2.
    #[test]
    fn counts_are_the_originals() {
        for (text, tokens) in [
            ("", 0),
            ("hello world", 2),
            ("日本", 2),
            ("😀", 2),
            ("\u{fffd}", 1),
            ("don'ſ ok", 5),
            ("it'S I'LL 12345678 ½Ⅷ٣٤٥", 19),
        ] {
            assert_eq!(count(text), tokens, "{text:?}");
        }
    }

    #[test]
    fn special_tokens_are_text() {
        assert_eq!(count("<|endoftext|>"), 7);
        assert_eq!(count("a<|im_start|>b"), 8);
    }

    /// Also counted by gpt-tokenizer, whose classes are JavaScript's.
    #[test]
    fn disputed_characters_are_classed_as_in_javascript() {
        for (text, tokens) in [
            ("\u{feff}//x", 3),
            ("  \u{feff}\n", 2),
            ("x \u{85}y", 4),
            ("\u{85}\u{85} z", 5),
            ("a\u{345}b 1\u{345}", 8),
            ("\u{feff}using \u{feff}\n\n", 3),
            (" \u{a0}\u{feff} word", 3),
            ("!\u{85}!\u{85}?", 7),
            ("\n\u{feff}\n \u{85}\n", 5),
        ] {
            assert_eq!(count(text), tokens, "{text:?}");
        }
    }

    /// Without disputed characters, the pieces equal those of the encoder.
    #[test]
    fn pieces_are_the_encoders() {
        let text = " It's 12345 o'clock,  DON'T\r\n\n go!!\n  x\t\ty é日本\u{a0}\u{3000}z  ".repeat(3);
        let pieces: Vec<&str> = pieces(&text).collect();
        assert_eq!(pieces.concat(), text);
        assert_eq!(pieces.into_iter().map(count_piece).sum::<usize>(), encoder().count(&text));
    }

    #[test]
    fn slices_end_between_words() {
        let text = "Some words, 12 of them;  and\nmore words follow 日本 after that. ".repeat(5000);
        assert!(text.len() > 4 * SLICE);
        assert_eq!(count(&text), encoder().count(&text));
        let unbroken = "x".repeat(2 * SLICE + 5);
        assert!(count(&unbroken) - encoder().count(&unbroken) <= 2);
    }
}
