//! Whatever a provider sends, and however it is cut on the way: the same
//! events, and through each of the readers the same text, usage and end.
//!
//! The first byte says how the rest is cut.

#![no_main]

use chatbot_ui_api::llm::{
    Failure, Output, Reader, anthropic, google, openai,
    sse::{Decoder, Event, EventTooLarge},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, stream)) = data.split_first() else { return };
    let one: Vec<&[u8]> = vec![stream];
    let (first, second) = stream.split_at(usize::from(cut) * stream.len() / 255);
    let by_size: Vec<&[u8]> = stream.chunks(usize::from(cut % 16) + 1).collect();
    for parts in [&vec![first, second], &by_size] {
        assert_eq!(events(parts), events(&one));
        for reader in [openai as fn() -> Reader, anthropic, google] {
            assert_eq!(said(reader(), parts), said(reader(), &one));
        }
    }
});

fn openai() -> Reader {
    Reader::OpenAi(openai::Reader::default())
}

fn anthropic() -> Reader {
    Reader::Anthropic(anthropic::Reader::default())
}

fn google() -> Reader {
    Reader::Google(google::Reader::default())
}

fn events(parts: &[&[u8]]) -> (Vec<(Vec<u8>, Vec<u8>)>, bool) {
    let (mut events, mut decoder) = (Vec::new(), Decoder::default());
    let mut keep = |event: Event<'_>| {
        events.push((event.name.to_vec(), event.data.to_vec()));
        Ok::<(), EventTooLarge>(())
    };
    for part in parts {
        decoder.push(part, &mut keep).expect("no input is that large");
    }
    decoder.finish(&mut keep).expect("no input is that large");
    (events, decoder.saw_fields())
}

/// The text, the usage, whether it is whole, and how it failed.
fn said(mut reader: Reader, parts: &[&[u8]]) -> (String, String, bool, Option<String>) {
    let (mut decoder, mut out) = (Decoder::default(), Output::default());
    let mut take = |event: Event<'_>| if out.done { Ok(()) } else { reader.read(event, &mut out) };
    let read: Result<(), Failure> =
        parts.iter().try_for_each(|part| decoder.push(part, &mut take)).and_then(|()| decoder.finish(&mut take));
    let usage: String = out.usage.iter().map(|usage| usage.get()).collect();
    (out.text, usage, out.done, read.err().map(|failure| failure.to_string()))
}
