//! The readers of events, one for each protocol.

use super::{anthropic, google, openai, output::Output, responses};
use crate::llm::{failure::Failure, sse, wire::Wire};

/// The protocols, as far as reading their events goes. The compiler names the
/// places that a new one has to be added to.
#[derive(Debug)]
pub enum Reader {
    /// OpenAI and everybody who speaks like it.
    OpenAi(openai::Reader),
    /// OpenAI's Responses.
    Responses(responses::Reader),
    /// Anthropic's messages.
    Anthropic(anthropic::Reader),
    /// Google's generated content.
    Google(google::Reader),
}

impl Reader {
    /// Returns the reader of an API.
    pub fn new(wire: Wire, habits: openai::Habits) -> Self {
        match wire {
            Wire::Chat => Self::OpenAi(openai::Reader::new(habits)),
            Wire::Responses => Self::Responses(responses::Reader::default()),
            Wire::Messages => Self::Anthropic(anthropic::Reader::default()),
            Wire::Generate => Self::Google(google::Reader::default()),
        }
    }

    /// Reads one event and adds what it says to `out`.
    ///
    /// # Errors
    /// If the provider sent an error, or an event that is not understood.
    pub fn read(&mut self, event: sse::Event<'_>, out: &mut Output) -> Result<(), Failure> {
        if event.name == sse::BARE_JSON {
            return openai::bare_json(event.data);
        }
        match self {
            Self::OpenAi(reader) => reader.read(event, out),
            Self::Responses(reader) => reader.read(event, out),
            Self::Anthropic(reader) => reader.read(event, out),
            Self::Google(reader) => reader.read(event, out),
        }
    }

    /// Reads an answer that came in one piece instead of as a stream. Returns
    /// `false` if it is none.
    pub fn read_whole(&mut self, body: &[u8], out: &mut Output) -> bool {
        match self {
            Self::OpenAi(reader) => reader.read_whole(body, out),
            Self::Responses(_) | Self::Anthropic(_) | Self::Google(_) => false,
        }
    }

    /// Adds what was held back. `is_complete`: the transfer said itself where
    /// it ends, and came to that end.
    pub fn finish(&mut self, is_complete: bool, out: &mut Output) {
        match self {
            Self::OpenAi(reader) => reader.finish(is_complete, out),
            Self::Responses(_) | Self::Anthropic(_) | Self::Google(_) => {}
        }
    }
}
