//! Words and lines, from the positions of glyphs.
//!
//! Content streams say where a glyph stands, seldom where a word ends. A gap beyond a tenth of the
//! font's size is a space, and a change of height beyond that size a new line; the numbers are those
//! that pdf.js has settled on. Lines with Hebrew or Arabic letters are sorted by position and put
//! into reading order.

use unicode_bidi::{BidiClass, BidiInfo, Level, bidi_class};
use unicode_normalization::UnicodeNormalization;

use super::super::{Budget, Error};

/// Gaps from here on are spaces, as a share of the font's size.
const SPACE: f64 = 0.102;
/// The same where a space character stands in the gap.
const SHOWN_SPACE: f64 = -0.005;
/// Steps back from here on are moves, not kerning.
const BACK: f64 = -0.2;
/// The most glyphs of a line, so that what is held for a line stays small.
const GLYPHS: usize = 1 << 16;

/// A glyph on its way into a line.
pub(super) struct Glyph<'a> {
    /// Its characters; none for a glyph that only takes up room.
    pub(super) text: &'a str,
    /// Where its origin stands on the page.
    pub(super) origin: (f64, f64),
    /// The unit vector along the line of text.
    pub(super) direction: (f64, f64),
    /// How far the next glyph of the same word stands.
    pub(super) advance: f64,
    /// The font's size along the line, and across it.
    pub(super) size: (f64, f64),
}

/// A glyph of the line that grows: its characters as a range, where it starts and ends.
#[derive(Clone, Copy)]
struct Placed {
    text: (usize, usize),
    start: f64,
    end: f64,
    size: f64,
    after_space: bool,
}

/// The text of a page, made of glyphs.
#[derive(Default)]
pub(super) struct Lines {
    done: String,
    /// The characters of the line that grows.
    text: String,
    glyphs: Vec<Placed>,
    direction: (f64, f64),
    /// How high the last glyph of the line stands.
    height: f64,
    /// The font's size across the line, at the last glyph.
    size: f64,
    /// A space character was shown since the last glyph.
    after_space: bool,
    has_rtl: bool,
}

impl Lines {
    pub(super) fn push(&mut self, glyph: &Glyph<'_>, budget: &Budget) -> Result<(), Error> {
        let (along, across) = glyph.direction;
        let (x, y) = glyph.origin;
        let start = x * along + y * across;
        let height = y * along - x * across;
        if !(start.is_finite() && height.is_finite() && glyph.advance.is_finite()) {
            return Ok(());
        }
        if glyph.text.chars().all(char::is_whitespace) {
            self.after_space |= !glyph.text.is_empty();
            return Ok(());
        }
        if let Some(last) = self.glyphs.last() {
            let turned = along * self.direction.0 + across * self.direction.1 < 0.99;
            let back = start - last.end < BACK * last.size;
            let most = if back { 0.5 * self.size } else { self.size };
            if turned || (height - self.height).abs() > most || self.glyphs.len() >= GLYPHS {
                self.end_line(budget)?;
            }
        }
        let from = self.text.len();
        let rtl = glyph.text.chars().any(is_rtl);
        self.has_rtl |= rtl;
        fold(glyph.text, rtl, &mut self.text);
        self.glyphs.push(Placed {
            text: (from, self.text.len()),
            start: start.min(start + glyph.advance),
            end: start.max(start + glyph.advance),
            size: glyph.size.0,
            after_space: std::mem::take(&mut self.after_space),
        });
        self.direction = glyph.direction;
        self.height = height;
        self.size = glyph.size.1;
        Ok(())
    }

    /// Ends the line and puts it into the text.
    pub(super) fn end_line(&mut self, budget: &Budget) -> Result<(), Error> {
        if self.glyphs.is_empty() {
            return Ok(());
        }
        if self.has_rtl {
            self.glyphs.sort_by(|a, b| a.start.total_cmp(&b.start));
        }
        let mut line = String::with_capacity(self.text.len() * 5 / 4);
        let mut last: Option<Placed> = None;
        for glyph in self.glyphs.drain(..) {
            if let Some(last) = last {
                let gap = (glyph.start - last.end) / last.size.min(glyph.size).max(f64::MIN_POSITIVE);
                let space = if glyph.after_space { SHOWN_SPACE } else { SPACE };
                if gap > space || gap < -1.0 {
                    line.push(' ');
                }
            }
            line.push_str(&self.text[glyph.text.0..glyph.text.1]);
            last = Some(glyph);
        }
        self.text.clear();
        if std::mem::take(&mut self.has_rtl) {
            line = reading_order(&line);
        }
        let between = if self.done.is_empty() { "" } else { "\n" };
        budget.append(&mut self.done, between)?;
        budget.append(&mut self.done, &line)
    }

    /// The text of the page.
    pub(super) fn finish(mut self, budget: &Budget) -> Result<String, Error> {
        self.end_line(budget)?;
        Ok(self.done)
    }
}

fn is_rtl(c: char) -> bool {
    // Below Hebrew there are none, which is nearly all text.
    c >= '\u{590}' && matches!(bidi_class(c), BidiClass::R | BidiClass::AL)
}

/// Appends the characters of a glyph: ligatures and presentation forms as the letters that they
/// stand for, and those of right-to-left glyphs from left to right like all else on the line.
fn fold(glyph: &str, rtl: bool, text: &mut String) {
    let is_form = |c: char| matches!(c, '\u{fb00}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}');
    let visible = |c: &char| !c.is_control() && !matches!(c, '\u{ad}' | '\u{200b}' | '\u{feff}');
    if rtl {
        let logical: String = glyph.nfkc().filter(visible).collect();
        text.extend(logical.chars().rev());
    } else if glyph.contains(is_form) {
        text.extend(glyph.nfkc().filter(visible));
    } else {
        text.extend(glyph.chars().filter(visible));
    }
}

/// The line as it is read, from the line as it is seen from left to right.
fn reading_order(seen: &str) -> String {
    let (rtl, ltr) = seen.chars().fold((0, 0), |(rtl, ltr), c| match bidi_class(c) {
        BidiClass::R | BidiClass::AL => (rtl + 1, ltr),
        BidiClass::L => (rtl, ltr + 1),
        _ => (rtl, ltr),
    });
    let base = if rtl * 2 >= ltr { Level::rtl() } else { Level::ltr() };
    let bidi = BidiInfo::new(seen, Some(base));
    let Some(line) = bidi.paragraphs.first() else {
        return seen.to_owned();
    };
    let (levels, runs) = bidi.visual_runs(line, line.range.clone());
    let mut read = String::with_capacity(seen.len());
    for run in runs {
        match levels[run.start].is_rtl() {
            true => read.extend(seen[run].chars().rev().map(mirrored)),
            false => read.push_str(&seen[run]),
        }
    }
    read
}

/// A bracket that is seen in right-to-left text, as the character that it is.
fn mirrored(c: char) -> char {
    const PAIRS: &str = "()[]{}<>«»";
    let other = PAIRS.chars().position(|bracket| bracket == c).and_then(|at| PAIRS.chars().nth(at ^ 1));
    other.unwrap_or(c)
}
