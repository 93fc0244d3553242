//! Character maps: how many bytes a code takes, and what the codes stand for.

use std::collections::HashMap;

use super::lexer::{Lexer, Token};
use crate::retrieval::extract::{Budget, Error};

/// The most codes that one map may give a meaning. A range of a few bytes can name four billion.
const CODES: usize = 1 << 17;

/// What a map of a font says. One that leads to Unicode fills `texts`, one that leads to the glyphs
/// of a font `ids`.
#[derive(Debug, Default)]
pub(super) struct CMap {
    /// Ranges of codes that are one, two, three and four bytes long.
    spaces: [Vec<(u32, u32)>; 4],
    texts: HashMap<u32, Box<str>>,
    ids: HashMap<u32, u32>,
    /// Text runs from top to bottom.
    pub(super) vertical: bool,
}

impl CMap {
    /// Two bytes a code, which is the glyph's number.
    pub(super) fn identity(vertical: bool) -> Self {
        Self { spaces: [Vec::new(), vec![(0, 0xffff)], Vec::new(), Vec::new()], vertical, ..Self::default() }
    }

    /// Reads a map, up to where it is damaged.
    pub(super) fn read(bytes: &[u8], budget: &Budget) -> Result<Self, Error> {
        let mut map = Self::default();
        let mut lexer = Lexer::new(bytes, 0);
        let mut left = CODES;
        while let Some(token) = lexer.token() {
            budget.tick()?;
            let done = match token {
                Token::Name(name) if name == b"WMode" => {
                    map.vertical = lexer.whole::<u8>() == Some(1);
                    Some(())
                }
                Token::Word(b"begincodespacerange") => map.spaces(&mut lexer),
                Token::Word(b"beginbfchar" | b"begincidchar") => map.entries(&mut lexer, false, &mut left, budget)?,
                Token::Word(b"beginbfrange" | b"begincidrange") => map.entries(&mut lexer, true, &mut left, budget)?,
                Token::Word(b"endcmap") => None,
                Token::Word(_)
                | Token::Name(_)
                | Token::Number(_)
                | Token::Text(_)
                | Token::Open
                | Token::Close
                | Token::OpenDict
                | Token::CloseDict => Some(()),
            };
            if done.is_none() {
                break;
            }
        }
        Ok(map)
    }

    fn spaces(&mut self, lexer: &mut Lexer<'_>) -> Option<()> {
        while let Token::Text(low) = lexer.token()? {
            let Token::Text(high) = lexer.token()? else {
                return None;
            };
            let ranges = self.spaces.get_mut(high.len().checked_sub(1)?)?;
            ranges.push((code(&low), code(&high)));
        }
        Some(())
    }

    /// Reads the entries of a section, for one code each or for a range; nothing at damage.
    fn entries(
        &mut self,
        lexer: &mut Lexer<'_>,
        ranges: bool,
        left: &mut usize,
        budget: &Budget,
    ) -> Result<Option<()>, Error> {
        loop {
            budget.tick()?;
            // The word that ends the section.
            let Some(Token::Text(low)) = lexer.token() else {
                return Ok(Some(()));
            };
            let low = code(&low);
            let high = match ranges.then(|| lexer.token()) {
                None => low,
                Some(Some(Token::Text(high))) => code(&high),
                Some(_) => return Ok(None),
            };
            let codes = low..=high.min(low.saturating_add(0xffff));
            match lexer.token() {
                Some(Token::Text(first)) => {
                    let mut units = units(&first);
                    for code in codes {
                        self.put_text(code, &units, left);
                        if let Some(last) = units.last_mut() {
                            *last = last.wrapping_add(1);
                        }
                    }
                }
                Some(Token::Number(first)) => {
                    for (code, id) in codes.zip(first as u32..) {
                        if charge(left) {
                            self.ids.insert(code, id);
                        }
                    }
                }
                Some(Token::Open) => {
                    let mut codes = codes;
                    while let Some(Token::Text(text)) = lexer.token() {
                        let Some(code) = codes.next() else { continue };
                        self.put_text(code, &units(&text), left);
                    }
                }
                _ => return Ok(None),
            }
        }
    }

    /// Differs: pdf.js cuts characters beyond the basic plane down to 16 bits.
    fn put_text(&mut self, code: u32, units: &[u16], left: &mut usize) {
        if charge(left) {
            self.texts.insert(code, String::from_utf16_lossy(units).into());
        }
    }

    /// Whether the map leads to Unicode at all.
    pub(super) fn has_texts(&self) -> bool {
        !self.texts.is_empty()
    }

    /// The text that a code stands for, if it is not empty.
    pub(super) fn text(&self, code: u32) -> Option<&str> {
        self.texts.get(&code).map(AsRef::as_ref).filter(|text: &&str| !text.is_empty())
    }

    /// The number of the glyph that a code stands for.
    pub(super) fn id(&self, code: u32) -> u32 {
        self.ids.get(&code).copied().unwrap_or(code)
    }

    /// The first code of `bytes`, which are not empty, and its length.
    pub(super) fn next_code(&self, bytes: &[u8]) -> (u32, usize) {
        let mut code = 0;
        for (at, ranges) in self.spaces.iter().enumerate() {
            code = code << 8 | u32::from(bytes.get(at).copied().unwrap_or(0));
            if ranges.iter().any(|&(low, high)| (low..=high).contains(&code)) {
                return (code, at + 1);
            }
        }
        (0, 1)
    }
}

/// Takes one from what is left.
fn charge(left: &mut usize) -> bool {
    let some = *left > 0;
    *left -= usize::from(some);
    some
}

fn code(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |code, &b| code << 8 | u32::from(b))
}

fn units(bytes: &[u8]) -> Vec<u16> {
    match bytes {
        [only] => vec![u16::from(*only)],
        _ => bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])).collect(),
    }
}
