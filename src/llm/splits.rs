//! Every split of every recorded stream gives the same text: the recordings
//! of the original, whose decoder does not hold this.

use std::{fs, path::Path};

use proptest::prelude::*;
use serde_json::Value;

use super::{
    answer::{anthropic, google, openai, output::Output, reader::Reader},
    failure::Failure,
    sse,
};

struct Recording {
    id: String,
    reader: fn() -> Reader,
    bytes: Vec<u8>,
}

fn recordings() -> Vec<Recording> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let files = fs::read_dir(folder).expect("the recordings").map(|file| file.expect("a file").path());
    let mut recordings = Vec::new();
    for file in files {
        let reader = match file.file_stem().and_then(|name| name.to_str()) {
            Some("anthropic") => || Reader::Anthropic(anthropic::Reader::default()),
            Some("google") => || Reader::Google(google::Reader::default()),
            _ => || Reader::OpenAi(openai::Reader::default()),
        };
        let cases: Vec<Value> = serde_json::from_slice(&fs::read(file).expect("read")).expect("JSON");
        for case in cases {
            let replies = case["upstream"].as_array().into_iter().flatten();
            for reply in replies.filter(|reply| reply["status"].is_null()) {
                let chunks = reply["chunks"].as_array().into_iter().flatten();
                let bytes: Vec<u8> = chunks.flat_map(bytes).collect();
                recordings.push(Recording { id: case["id"].to_string(), reader, bytes });
            }
        }
    }
    recordings
}

fn bytes(chunk: &Value) -> Vec<u8> {
    match (chunk.as_str(), chunk["hex"].as_str()) {
        // One large delta is as good at a tenth of its size.
        (Some(text), _) => text.replace("{{REP:y:1048576}}", &"y".repeat(100_000)).into_bytes(),
        (_, Some(hex)) => {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
        }
        _ => Vec::new(),
    }
}

/// The text, the usage, whether it is said to be whole, and how it failed.
fn read<'a>(
    reader: fn() -> Reader,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> (String, String, bool, Option<String>) {
    let (mut reader, mut decoder, mut out) = (reader(), sse::Decoder::new(16 * 1024 * 1024), Output::default());
    let mut take = |event: sse::Event<'_>| if out.done { Ok(()) } else { reader.read(event, &mut out) };
    let pushed: Result<(), Failure> =
        parts.into_iter().try_for_each(|part| decoder.push(part, &mut take)).and_then(|()| decoder.finish(&mut take));
    reader.finish(true, &mut out);
    (out.text, out.usage, out.done, pushed.err().map(|failure| failure.to_string()))
}

#[test]
fn in_two() {
    let recordings = recordings();
    assert!(recordings.len() > 150, "{}", recordings.len());
    let mut spoken = 0;
    for Recording { id, reader, bytes } in &recordings {
        let whole = read(*reader, [bytes.as_slice()]);
        spoken += usize::from(!whole.0.is_empty());
        // Everywhere in the short ones, in steps in the few long ones.
        for at in (0..=bytes.len()).step_by(1 + bytes.len() / 3000) {
            assert_eq!(read(*reader, [&bytes[..at], &bytes[at..]]), whole, "{id} at {at}");
        }
    }
    assert!(spoken > 100, "{spoken}");
}

#[test]
fn in_pieces_of_one_size() {
    for Recording { id, reader, bytes } in recordings() {
        let whole = read(reader, [bytes.as_slice()]);
        for size in [1, 2, 3, 5, 7, 64] {
            assert_eq!(read(reader, bytes.chunks(size)), whole, "{id} by {size}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn anywhere(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        for Recording { id, reader, bytes } in recordings().into_iter().filter(|recording| recording.bytes.len() < 5000) {
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            places.sort_unstable();
            let parts = places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(read(reader, parts), read(reader, [bytes.as_slice()]), "{}", id);
        }
    }
}
