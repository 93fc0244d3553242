//! Whatever a provider answers on the wire, and however it is cut on the way:
//! the same head, content and end, and as much of it left for nobody.
//!
//! The first byte says how the rest is cut.

#![no_main]

use chatbot_ui_api::http_client::http1::head::ResponseParser;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, answer)) = data.split_first() else { return };
    let (first, second) = answer.split_at(usize::from(cut) * answer.len() / 255);
    let by_size: Vec<&[u8]> = answer.chunks(usize::from(cut % 16) + 1).collect();
    let whole = read(&[answer]);
    for parts in [&vec![first, second], &by_size] {
        let cut = read(parts);
        // What is no head may be found out later in pieces.
        assert!(cut == whole || (cut.is_none() && whole.is_none()), "{cut:?} {whole:?}");
    }
});

/// The content, whether it has ended, and how many bytes came after.
type Decoded = (Vec<u8>, bool, usize);

/// The head; and the content, whether it has ended, and how many bytes came
/// after, unless its chunks are none. `None` without a head.
fn read(parts: &[&[u8]]) -> Option<(String, Option<Decoded>)> {
    let mut parser = ResponseParser::default();
    let mut parts = parts.iter();
    let (head, rest) = loop {
        if let Some(found) = parser.push(parts.next()?).ok()? {
            break found;
        }
    };
    let shown = format!("{head:?}");
    let (mut framing, mut content, mut after) = (head.framing, Vec::new(), 0);
    for part in std::iter::once(&rest[..]).chain(parts.copied()) {
        let Ok(read) = framing.decode(part, |bytes| content.extend_from_slice(bytes)) else {
            return Some((shown, None));
        };
        assert!(read == part.len() || framing.is_done());
        after += part.len() - read;
    }
    Some((shown, Some((content, framing.is_done(), after))))
}
