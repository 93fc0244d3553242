//! From the codes of a simple font to characters, by way of the names of glyphs.
//!
//! lopdf knows the standard encodings and Adobe's list of glyph names. It gives them by way of a
//! font's encoding, so it is asked with made-up fonts.

use lopdf::{Dictionary, Document, Object};
use memchr::memmem;

use super::file::{File, number};
use super::font::{flags, name};
use super::lexer::{Lexer, Token};
use crate::retrieval::extract::Error;

/// The bits of a font's flags.
const SYMBOLIC: i64 = 1 << 2;
const NONSYMBOLIC: i64 = 1 << 5;

/// The characters of the 256 codes.
pub(super) struct Names([Option<char>; 256]);

impl Names {
    pub(super) fn char(&self, code: u32) -> char {
        let named = self.0.get(code as usize).copied().flatten();
        named.unwrap_or_else(|| char_of(code))
    }

    /// Reads the encoding in the clear part of a Type 1 font's program, the one thing that pdf.js
    /// takes from there.
    fn amend_by_program(&mut self, file: &File<'_>, descriptor: &Dictionary) -> Result<(), Error> {
        let program = file.content(descriptor.get(b"FontFile").unwrap_or(&Object::Null))?;
        let program = program.unwrap_or_default();
        let start = memmem::find(&program, b"/Encoding").map_or(program.len(), |at| at + b"/Encoding".len());
        let mut lexer = Lexer::new(&program, start);
        if lexer.token() == Some(Token::Word(b"StandardEncoding")) {
            let standard: [_; 256] = standard(Object::Name(b"StandardEncoding".to_vec()));
            for (slot, c) in self.0.iter_mut().zip(standard) {
                *slot = c.or(*slot);
            }
            return Ok(());
        }
        // `dup 65 /A put` for each code, and `def` at the end.
        while let Some(token) = lexer.token() {
            file.budget.tick()?;
            match token {
                Token::Word(b"dup") => {
                    let code = lexer.whole::<u8>();
                    if let (Some(code), Some(Token::Name(glyph))) = (code, lexer.token())
                        && let Some(c) = char_named(&glyph)
                    {
                        self.0[usize::from(code)] = Some(c);
                    }
                }
                Token::Word(b"def" | b"eexec") => break,
                Token::Word(_)
                | Token::Number(_)
                | Token::Name(_)
                | Token::Text(_)
                | Token::Open
                | Token::Close
                | Token::OpenDict
                | Token::CloseDict => {}
            }
        }
        Ok(())
    }
}

/// The character with this number.
pub(super) fn char_of(code: u32) -> char {
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Reads the encoding of a simple font.
pub(super) fn names(
    file: &File<'_>,
    font: &Dictionary,
    descriptor: &Dictionary,
    subtype: &[u8],
    base_name: &str,
) -> Result<Names, Error> {
    let encoding = file.entry(font, b"Encoding")?;
    let (base, differences) = match encoding.as_dict() {
        Ok(encoding) => (name(&file.entry(encoding, b"BaseEncoding")?), file.entry(encoding, b"Differences")?),
        Err(_) => (name(&encoding), Object::Null),
    };

    let symbol_font = ["Symbol", "Dingbats"].into_iter().find(|part| base_name.contains(part));
    let has_file = ["FontFile", "FontFile2", "FontFile3"].iter().any(|key| descriptor.has(key.as_bytes()));
    let flags = match descriptor.is_empty() {
        true if symbol_font.is_some() => SYMBOLIC,
        true => NONSYMBOLIC,
        false => flags(file, descriptor)?,
    };
    let base: &[u8] = match &base[..] {
        b"MacRomanEncoding" | b"MacExpertEncoding" | b"WinAnsiEncoding" => &base,
        _ if flags & SYMBOLIC != 0 => match symbol_font.filter(|_| !has_file) {
            Some(name) => name.as_bytes(),
            None => b"MacRomanEncoding",
        },
        _ if subtype == b"TrueType" && flags & NONSYMBOLIC == 0 => b"WinAnsiEncoding",
        _ => b"StandardEncoding",
    };
    let mut names = match base {
        b"Symbol" => symbol(),
        // pdf.js does not know the names of dingbats.
        b"Dingbats" => Names([None; 256]),
        base => Names(standard(Object::Name(base.to_vec()))),
    };

    let own_encoding = name(&encoding).is_empty() && differences.is_null();
    if own_encoding && matches!(subtype, b"Type1" | b"MMType1") {
        names.amend_by_program(file, descriptor)?;
    }

    let mut code = 0;
    for item in differences.as_array().map_or(&[][..], Vec::as_slice) {
        file.budget.tick()?;
        let item = file.get(item)?;
        if let Some(number) = number(&item) {
            code = number as usize;
        } else if let Ok(glyph) = item.as_name() {
            if let Some(slot) = names.0.get_mut(code)
                && glyph != b".notdef"
            {
                *slot = char_named(glyph);
            }
            code += 1;
        }
    }
    Ok(names)
}

/// The characters of the first codes of an encoding that lopdf knows.
fn standard<const CODES: usize>(encoding: Object) -> [Option<char>; CODES] {
    let mut font = Dictionary::new();
    font.set("Type", "Font");
    font.set("Encoding", encoding);
    let document = Document::new();
    let encoding = font.get_font_encoding(&document);
    std::array::from_fn(|code| {
        let code = u8::try_from(code).ok()?;
        let text = encoding.as_ref().ok()?.bytes_to_string(&[code]).ok()?;
        text.chars().next()
    })
}

/// The character that the glyph with this name shows, by pdf.js's rules.
fn char_named(glyph: &[u8]) -> Option<char> {
    // Where the two lists disagree on glyphs that documents use.
    match glyph {
        b"circlecopyrt" => return Some('©'),
        b"bardbl" => return Some('‖'),
        b"diamond" => return Some('♦'),
        b"heart" => return Some('♥'),
        b"phi1" => return Some('ϕ'),
        _ => {}
    }
    let mut differences = Dictionary::new();
    differences.set("Differences", vec![Object::Integer(0), Object::Name(glyph.to_vec())]);
    if let [Some(c)] = standard(Object::Dictionary(differences)) {
        return Some(c);
    }
    let glyph = std::str::from_utf8(glyph).ok()?;
    let hex = |digits: &str| u32::from_str_radix(digits, 16).ok();
    let upper = |digits: &str| hex(digits).filter(|_| !digits.bytes().any(|b| b.is_ascii_lowercase()));
    let code = match (glyph.as_bytes(), glyph.len()) {
        ([b'G', ..], 3) | ([b'g', ..], 5) => hex(glyph.get(1..)?)?,
        ([b'C' | b'c', ..], 3..) => glyph.get(1..)?.parse().ok()?,
        ([b'u', b'n', b'i', ..], 7) => upper(glyph.get(3..)?)?,
        ([b'u', ..], 5..=7) => upper(glyph.get(1..)?)?,
        _ => return None,
    };
    char::from_u32(code).filter(|&c| c != '\0')
}

/// The encoding of the font Symbol.
fn symbol() -> Names {
    const FROM_SPACE: &str =
        " !∀#∃%&∋()∗+,−./0123456789:;<=>?≅ΑΒΧ∆ΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_\u{f8e5}αβχδεφγηιϕκλµνοπθρστυϖωξψζ{|}∼";
    const FROM_EURO: &str = "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…\u{f8e6}\u{f8e7}↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇\u{f6da}\u{f6d9}\u{f6db}∏√⋅¬∧∨⇔⇐⇑⇒⇓◊〈\u{f8e8}\u{f8e9}\u{f8ea}∑";
    let mut names = [None; 256];
    for (slot, c) in names[0x20..].iter_mut().zip(FROM_SPACE.chars()) {
        *slot = Some(c);
    }
    for (slot, c) in names[0xa0..].iter_mut().zip(FROM_EURO.chars()) {
        *slot = Some(c);
    }
    Names(names)
}

/// The letters that pdf.js puts in the place of a character that stands for several, or for another.
///
/// Differs: pdf.js has 1,377 of these; here are those that Latin texts use.
pub(super) fn spelled_out(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{2000}'..='\u{2006}' | '\u{2008}'..='\u{200a}' | '\u{205f}' => " ",
        '¨' => " \u{308}",
        '¯' => " \u{304}",
        '´' => " \u{301}",
        'µ' => "μ",
        '¸' => " \u{327}",
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "ʼn",
        'ſ' => "s",
        '˘' => " \u{306}",
        '˙' => " \u{307}",
        '˚' => " \u{30a}",
        '˛' => " \u{328}",
        '˜' => " \u{303}",
        '˝' => " \u{30b}",
        'ϑ' => "θ",
        'ϒ' => "Υ",
        'ϕ' => "φ",
        'ϖ' => "π",
        '‥' => "..",
        '…' => "...",
        '″' => "′′",
        '‴' => "′′′",
        '‼' => "!!",
        '℃' => "°C",
        '℉' => "°F",
        '№' => "No",
        '℡' => "TEL",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => return None,
    })
}
