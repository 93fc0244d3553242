//! Text out of bytes of any encoding.
//!
//! What is sure comes first: a byte order mark, the zeros of UTF-16, the escapes of ISO-2022-JP, valid
//! UTF-8. The rest is guessed by `chardetng`, as browsers do for pages that do not say.
//!
//! Differs: the original takes everything for UTF-8 and stores U+FFFD for what is not.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// How much of a file is looked at.
const SAMPLE: usize = 1 << 18;

/// The text, less its byte order mark. It holds no U+FFFD that the file does not hold.
pub(super) fn decode(bytes: &[u8]) -> String {
    match bytes {
        [0xff, 0xfe, 0, 0, rest @ ..] => return utf32(rest, u32::from_le_bytes),
        [0, 0, 0xfe, 0xff, rest @ ..] => return utf32(rest, u32::from_be_bytes),
        [0xff, 0xfe, rest @ ..] => return legacy(rest, UTF_16LE),
        [0xfe, 0xff, rest @ ..] => return legacy(rest, UTF_16BE),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Some(encoding) = utf16_by_zeros(bytes) {
        return legacy(bytes, encoding);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\x1b') => text.to_owned(),
        Ok(text) => match guessed(bytes) {
            encoding if encoding == encoding_rs::ISO_2022_JP => legacy(bytes, encoding),
            _ => text.to_owned(),
        },
        Err(_) if is_mostly_utf8(bytes) => with_strays(bytes),
        Err(_) => legacy(bytes, guessed(bytes)),
    }
}

/// Half of the bytes of UTF-16 are zeros, and always the same half, wherever a text is in Latin
/// letters; elsewhere its spaces and line ends show it.
fn utf16_by_zeros(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(SAMPLE) & !1];
    let (mut high, mut low) = (0, 0);
    for pair in sample.chunks_exact(2) {
        high += usize::from(pair[0] == 0 && pair[1] != 0);
        low += usize::from(pair[0] != 0 && pair[1] == 0);
    }
    let pairs = sample.len() / 2;
    // Most of them, and enough.
    let is = |these: usize, those: usize| these * 50 >= pairs && these > those * 3;
    if pairs > 0 && is(low, high) {
        return Some(UTF_16LE);
    }
    (pairs > 0 && is(high, low)).then_some(UTF_16BE)
}

fn utf32(bytes: &[u8], read: fn([u8; 4]) -> u32) -> String {
    bytes.as_chunks().0.iter().filter_map(|&unit| char::from_u32(read(unit))).collect()
}

fn guessed(bytes: &[u8]) -> &'static Encoding {
    // Plain ASCII says nothing.
    let start = bytes.iter().position(|byte| !byte.is_ascii() || *byte == 0x1b).unwrap_or(0);
    let rest = &bytes[start.saturating_sub(64)..];
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    let sample = &rest[..rest.len().min(SAMPLE)];
    // Not as the last, as a file may be cut in the middle of a character.
    detector.feed(sample, false);
    detector.guess(None, Utf8Detection::Deny)
}

fn legacy(bytes: &[u8], encoding: &'static Encoding) -> String {
    let (text, damaged) = encoding.decode_without_bom_handling(bytes);
    match damaged {
        true => text.chars().filter(|&c| c != char::REPLACEMENT_CHARACTER).collect(),
        false => text.into_owned(),
    }
}

/// Whether more characters beyond ASCII are valid UTF-8 than bytes are not.
fn is_mostly_utf8(bytes: &[u8]) -> bool {
    let (mut valid, mut invalid) = (0, 0);
    for chunk in bytes[..bytes.len().min(SAMPLE)].utf8_chunks() {
        valid += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        invalid += chunk.invalid().len();
    }
    valid > invalid
}

/// UTF-8, with what is not as single bytes of Windows-1252.
fn with_strays(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.push_str(&WINDOWS_1252.decode_without_bom_handling(chunk.invalid()).0);
    }
    text
}
