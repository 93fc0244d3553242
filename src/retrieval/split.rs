//! Splits a text into passages, exactly as LangChain 0.0.213's `RecursiveCharacterTextSplitter` does with
//! `keepSeparator`: lengths are UTF-16 code units, a separator begins the piece that follows it, and pieces are merged
//! up to `size`, with up to `overlap` of the previous passage.
//!
//! Every piece, and therefore every passage, is a slice of the text. Nothing is copied until a passage is complete: the
//! splitter moves two positions along the text, however long a line is.

use std::collections::VecDeque;

use memchr::memmem;

use crate::js;

/// Separators and sizes. Lengths are UTF-16 code units.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Tried in this order; an empty one splits between any two code units.
    pub separators: &'static [&'static str],
    /// The maximum length of a passage, unless `separators` offers no place to split.
    pub size: usize,
    /// The maximum overlap of two consecutive passages.
    pub overlap: usize,
}

/// Plain text, and formats converted to it (JSON, PDF, docx).
pub const PLAIN: Rules = Rules { separators: &["\n\n", "\n", " ", ""], size: 4000, overlap: 200 };

/// Markdown: headings from level two, code blocks and rules first.
pub const MARKDOWN: Rules = Rules {
    separators: &[
        "\n## ",
        "\n### ",
        "\n#### ",
        "\n##### ",
        "\n###### ",
        "```\n\n",
        "\n\n***\n\n",
        "\n\n---\n\n",
        "\n\n___\n\n",
        "\n\n",
        "\n",
        " ",
        "",
    ],
    ..PLAIN
};

/// Rows of a table, which [`extract`](super::extract) separates by blank lines.
pub const CSV: Rules = Rules { separators: &["\n\n"], ..PLAIN };

/// Returns the passages of `text`, in order.
///
/// Half of a surrogate pair, left by a split between code units, becomes U+FFFD, as the original's lone surrogate does
/// on its way into the database and into the token counter.
pub fn split(text: &str, rules: &Rules) -> Vec<String> {
    let mut splitter = Splitter { text, rules, passages: Vec::new() };
    splitter.split(0, text.len(), rules.separators);
    splitter.passages
}

/// Positions are byte offsets; the middle of a four-byte character is between its two surrogates.
struct Splitter<'a> {
    text: &'a str,
    rules: &'a Rules,
    passages: Vec<String>,
}

impl Splitter<'_> {
    /// Splits `start..end`, both at character boundaries, by the first of `separators` that occurs in it.
    fn split(&mut self, start: usize, end: usize, separators: &[&str]) {
        let text = &self.text.as_bytes()[start..end];
        let found = separators
            .iter()
            .position(|separator| separator.is_empty() || memmem::find(text, separator.as_bytes()).is_some());
        let (separator, rest) = match (found, separators) {
            (Some(at), _) if !separators[at].is_empty() => (separators[at], Some(&separators[at + 1..])),
            // A text without its only separator is one piece.
            (None, [.., last]) => (*last, None),
            (Some(_), _) | (None, []) => return self.split_units(start, end),
        };

        let finder = memmem::Finder::new(separator);
        let mut merger = Merger::default();
        let mut from = start;
        while from < end {
            // A separator at the start belongs to this piece; occurrences may overlap.
            let to = finder.find(&self.text.as_bytes()[from + 1..end]).map_or(end, |at| from + 1 + at);
            let units = utf16_len(&self.text.as_bytes()[from..to]);
            if units < self.rules.size {
                merger.push(from, to, units, self);
            } else {
                merger.finish(self);
                match rest {
                    Some(rest) => self.split(from, to, rest),
                    None => self.passages.push(self.text[from..to].to_owned()),
                }
            }
            from = to;
        }
        merger.finish(self);
    }

    /// Splits `start..end` between any two code units.
    fn split_units(&mut self, start: usize, end: usize) {
        let mut merger = Merger::default();
        for (at, c) in self.text[start..end].char_indices() {
            let from = start + at;
            let to = from + c.len_utf8();
            if c.len_utf16() == 1 {
                merger.push(from, to, 1, self);
            } else {
                merger.push(from, from + 2, 1, self);
                merger.push(from + 2, to, 1, self);
            }
        }
        merger.finish(self);
    }

    /// Stores `start..end` as a passage, trimmed, unless it is empty then.
    fn keep(&mut self, start: usize, end: usize) {
        // Half a character at either end is not white space.
        let (lone_low, start) = match self.text.is_char_boundary(start) {
            true => ("", start),
            false => ("\u{fffd}", start + 2),
        };
        let (lone_high, end) = match self.text.is_char_boundary(end) {
            true => ("", end),
            false => ("\u{fffd}", end - 2),
        };
        let mut inner = &self.text[start..end];
        if lone_low.is_empty() {
            inner = inner.trim_start_matches(js::is_space);
        }
        if lone_high.is_empty() {
            inner = inner.trim_end_matches(js::is_space);
        }
        let passage = [lone_low, inner, lone_high].concat();
        if !passage.is_empty() {
            self.passages.push(passage);
        }
    }
}

/// Merges short adjacent pieces into passages.
#[derive(Default)]
struct Merger {
    /// The pieces of the current passage: start and length of each.
    pieces: VecDeque<(usize, usize)>,
    /// The end of the last piece.
    end: usize,
    /// The sum of their lengths.
    total: usize,
}

impl Merger {
    fn push(&mut self, start: usize, end: usize, units: usize, splitter: &mut Splitter<'_>) {
        let Rules { size, overlap, .. } = *splitter.rules;
        if self.total + units > size {
            self.keep(splitter);
            while self.total > overlap || (self.total + units > size && self.total > 0) {
                let Some((_, dropped)) = self.pieces.pop_front() else {
                    break;
                };
                self.total -= dropped;
            }
        }
        self.pieces.push_back((start, units));
        self.end = end;
        self.total += units;
    }

    fn finish(&mut self, splitter: &mut Splitter<'_>) {
        self.keep(splitter);
        self.pieces.clear();
        self.total = 0;
    }

    fn keep(&self, splitter: &mut Splitter<'_>) {
        if let Some(&(start, _)) = self.pieces.front() {
            splitter.keep(start, self.end);
        }
    }
}

/// Counts the UTF-16 code units in UTF-8 text.
fn utf16_len(utf8: &[u8]) -> usize {
    // One for every byte that starts a character, one more for characters outside the basic plane.
    utf8.iter().map(|&b| usize::from(b & 0xc0 != 0x80) + usize::from(b >= 0xf0)).sum()
}

#[cfg(test)]
mod tests;
