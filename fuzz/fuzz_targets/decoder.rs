//! Whatever a provider sends, and however it is cut on the way: the same
//! events, and through each of the readers the same text, usage and end.
//!
//! The first byte says how the rest is cut.

#![no_main]

use chatbot_ui_api::llm::{
    Failure,
    answer::{Output, Reader, Wanted, anthropic, google, openai, responses},
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
        for reader in [openai as fn() -> Reader, groq, responses, anthropic, google] {
            for wanted in [Wanted::default(), Wanted { reasoning: true, calls: true }] {
                assert_eq!(said(reader(), wanted, parts), said(reader(), wanted, &one));
            }
        }
    }
});

fn openai() -> Reader {
    Reader::OpenAi(openai::Reader::default())
}

fn groq() -> Reader {
    Reader::OpenAi(openai::Reader::new(openai::Habits { think_tags: true, any_end: true }))
}

fn responses() -> Reader {
    Reader::Responses(responses::Reader::default())
}

fn anthropic() -> Reader {
    Reader::Anthropic(anthropic::Reader::default())
}

fn google() -> Reader {
    Reader::Google(google::Reader::default())
}

/// An event.
type NameAndData = (Vec<u8>, Vec<u8>);

fn events(parts: &[&[u8]]) -> (Vec<NameAndData>, bool) {
    let (mut events, mut decoder) = (Vec::new(), decoder());
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

/// The text, the thoughts, the usage, the calls, how it ended, and how it
/// failed.
fn said(mut reader: Reader, wanted: Wanted, parts: &[&[u8]]) -> (String, String, String, Vec<String>, String) {
    let (mut decoder, mut out) = (decoder(), Output::new(wanted));
    let mut take = |event: Event<'_>| if out.done { Ok(()) } else { reader.read(event, &mut out) };
    let read: Result<(), Failure> =
        parts.iter().try_for_each(|part| decoder.push(part, &mut take)).and_then(|()| decoder.finish(&mut take));
    reader.finish(true, &mut out);
    let calls = out.calls.list.iter().map(|call| format!("{} {} {}", call.id, call.name, call.arguments)).collect();
    let has_text = !out.text.is_empty();
    let outcome = read.and_then(|()| out.judge(has_text));
    let end = match outcome {
        Ok(finish) => format!("{finish:?}"),
        Err(failure) => failure.to_string(),
    };
    (out.text, out.reasoning, out.usage, calls, end)
}

fn decoder() -> Decoder {
    Decoder::new(16 * 1024 * 1024)
}
