//! A file of any kind, as its first byte says: no panic, an end soon after the
//! deadline, and no character that stands for a damaged one unless it was there.

#![no_main]

use std::time::{Duration, Instant};

use chatbot_ui_api::retrieval::extract::{Error, FileKind, text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, file)) = data.split_first() else { return };
    let kind = match kind {
        b'c' => FileKind::Csv,
        b'd' => FileKind::Docx,
        b'j' => FileKind::Json,
        b't' => FileKind::Txt,
        _ => FileKind::Pdf,
    };
    let start = Instant::now();
    let read = text(kind, file, start + Duration::from_secs(2));
    assert_ne!(read, Err(Error::Panicked));
    assert!(start.elapsed() < Duration::from_secs(8));
    if kind == FileKind::Txt && replacement(file).is_none() {
        assert!(!read.unwrap_or_default().contains(char::REPLACEMENT_CHARACTER));
    }
});

/// Where the bytes of U+FFFD are, in one of the encodings that have it.
fn replacement(file: &[u8]) -> Option<usize> {
    let encoded: [&[u8]; 4] = ["\u{fffd}".as_bytes(), &[0xff, 0xfd], &[0xfd, 0xff], &[0x84, 0x31, 0xa4, 0x37]];
    (0..file.len()).find(|&at| encoded.iter().any(|bytes| file[at..].starts_with(bytes)))
}
