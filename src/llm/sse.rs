//! Bytes of a `text/event-stream` → events. No IO: the decoder is a state
//! machine that gives the same events however the bytes are split.
//!
//! Follows the [HTML standard's event stream interpretation][spec]: lines end
//! with LF, CR or CRLF, a byte order mark at the start is dropped, lines that
//! begin with a colon are comments, one space after a field's colon is not
//! part of its value.
//!
//! Differs from the standard in what some providers get wrong:
//! - an event that the end of the stream leaves without its blank line is
//!   still given;
//! - a field `error` (llama.cpp) is an event of that name with its value as
//!   the data;
//! - JSON between events, in lines of its own (Gemini's errors), is an event
//!   named [`BARE_JSON`], up to the next blank line or field `data`.
//!
//! [spec]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

use memchr::memchr2;

/// The name of what stands between events as JSON. No server sends this name.
pub const BARE_JSON: &[u8] = b"(bare JSON)";

/// One event as it came, its data lines joined with LF.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The `event` field; empty where there was none.
    pub name: &'a [u8],
    /// The `data` field, in any encoding that the provider chose.
    pub data: &'a [u8],
}

/// An event grew beyond this many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {} MiB", .0 / 1024 / 1024)]
pub struct EventTooLarge(pub usize);

/// The state between two reads.
pub struct Decoder {
    /// The most bytes that an event may have.
    limit: usize,
    /// The line that the last read left unfinished.
    line: Vec<u8>,
    data: Vec<u8>,
    name: Vec<u8>,
    /// A `data` field was seen since the last event, maybe an empty one.
    has_data: bool,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The first line was read, so that a byte order mark is past.
    started: bool,
    fields: bool,
    /// The lines that come are JSON outside of any field.
    in_bare_json: bool,
}

impl Decoder {
    /// For events of at most `limit` bytes, their unfinished line included.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            name: Vec::new(),
            has_data: false,
            after_cr: false,
            started: false,
            fields: false,
            in_bare_json: false,
        }
    }

    /// Takes the next bytes and gives each event that they complete to
    /// `on_event`, which ends the reading by an error of its own.
    ///
    /// # Errors
    /// What `on_event` returned, or [`EventTooLarge`].
    pub fn push<E: From<EventTooLarge>>(
        &mut self,
        mut bytes: &[u8],
        mut on_event: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                self.room_for(bytes.len())?;
                self.line.extend_from_slice(bytes);
                return Ok(());
            };
            self.room_for(end)?;
            if self.line.is_empty() {
                self.take_line(&bytes[..end], &mut on_event)?;
            } else {
                self.line.extend_from_slice(&bytes[..end]);
                self.take_kept_line(&mut on_event)?;
            }
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// The stream has ended: gives what is left.
    ///
    /// # Errors
    /// What `on_event` returned.
    pub fn finish<E: From<EventTooLarge>>(
        &mut self,
        mut on_event: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.line.is_empty() {
            self.take_kept_line(&mut on_event)?;
        }
        self.dispatch(&mut on_event)
    }

    /// Whether anything that an event stream consists of (a field or a
    /// comment) was seen. What has none by its end is no event stream.
    pub fn saw_fields(&self) -> bool {
        self.fields
    }

    fn room_for(&self, more: usize) -> Result<(), EventTooLarge> {
        if self.line.len() + self.data.len() + more > self.limit {
            return Err(EventTooLarge(self.limit));
        }
        Ok(())
    }

    fn take_kept_line<E>(&mut self, on_event: &mut impl FnMut(Event<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut line = std::mem::take(&mut self.line);
        let taken = self.take_line(&line, on_event);
        line.clear();
        shrink(&mut line);
        self.line = line;
        taken
    }

    fn take_line<E>(
        &mut self,
        mut line: &[u8],
        on_event: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch(on_event);
        }
        if self.in_bare_json {
            if !line.starts_with(b"data:") {
                self.add_data(line);
                return Ok(());
            }
            self.dispatch(on_event)?;
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(0) => {
                self.fields = true;
                return Ok(());
            }
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &b""[..]),
        };
        match field {
            b"data" => {
                self.add_data(value);
                self.fields = true;
            }
            b"error" => {
                self.name.clear();
                self.name.extend_from_slice(b"error");
                self.add_data(value);
                self.fields = true;
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
                self.fields = true;
            }
            b"id" | b"retry" => self.fields = true,
            // A body that is JSON from its beginning is no event stream.
            _ if self.fields && !self.has_data && matches!(line.trim_ascii_start().first(), Some(b'{' | b'[')) => {
                self.in_bare_json = true;
                self.name.clear();
                self.name.extend_from_slice(BARE_JSON);
                self.add_data(line);
            }
            _ => {}
        }
        Ok(())
    }

    fn add_data(&mut self, line: &[u8]) {
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(line);
        self.has_data = true;
    }

    fn dispatch<E>(&mut self, on_event: &mut impl FnMut(Event<'_>) -> Result<(), E>) -> Result<(), E> {
        let given = if self.has_data { on_event(Event { name: &self.name, data: &self.data }) } else { Ok(()) };
        self.has_data = false;
        self.in_bare_json = false;
        self.name.clear();
        self.data.clear();
        shrink(&mut self.data);
        given
    }
}

/// One large event must not cost its room for the rest of a long stream.
fn shrink(buffer: &mut Vec<u8>) {
    const KEPT: usize = 16 * 1024;
    if buffer.capacity() > KEPT {
        buffer.shrink_to(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 16 * 1024 * 1024;

    type Owned = Vec<(String, String)>;

    fn decode(parts: &[&[u8]]) -> Owned {
        let mut events = Vec::new();
        let mut decoder = Decoder::new(LIMIT);
        let mut keep = |event: Event<'_>| {
            events.push((
                String::from_utf8_lossy(event.name).into_owned(),
                String::from_utf8_lossy(event.data).into_owned(),
            ));
            Ok::<(), EventTooLarge>(())
        };
        for part in parts {
            decoder.push(part, &mut keep).expect("small");
        }
        decoder.finish(&mut keep).expect("small");
        events
    }

    fn data(events: &[&str]) -> Owned {
        events.iter().map(|data| (String::new(), (*data).to_owned())).collect()
    }

    #[test]
    fn line_ends_of_all_kinds() {
        for stream in ["data: a\n\ndata: b\n\n", "data: a\r\rdata: b\r\r", "data: a\r\n\r\ndata: b\r\n\r\n"] {
            assert_eq!(decode(&[stream.as_bytes()]), data(&["a", "b"]), "{stream:?}");
        }
    }

    #[test]
    fn fields_as_the_standard_reads_them() {
        assert_eq!(decode(&[b"data:a\n\n"]), data(&["a"]));
        assert_eq!(decode(&[b"data:  a\n\n"]), data(&[" a"]));
        assert_eq!(decode(&[b"data\n\n"]), data(&[""]));
        assert_eq!(decode(&[b"data: a\ndata: b\n\n"]), data(&["a\nb"]));
        assert_eq!(decode(&[b": comment\n\nid: 7\nretry: 1\ndata: a\n\n"]), data(&["a"]));
        assert_eq!(decode(&[b"event: x\n\ndata: a\n\n"]), data(&["a"]));
        assert_eq!(decode(&[b"event: x\ndata: a\n\n"]), [("x".to_owned(), "a".to_owned())]);
        assert_eq!(decode(&[b"Data: a\nfoo: b\n\n"]), data(&[]));
        assert_eq!(decode(&["\u{feff}data: a\n\n".as_bytes()]), data(&["a"]));
        assert_eq!(decode(&["data: a\u{2028}b\n\n".as_bytes()]), data(&["a\u{2028}b"]));
    }

    #[test]
    fn the_last_event_needs_no_blank_line() {
        assert_eq!(decode(&[b"data: a\n\ndata: b\n"]), data(&["a", "b"]));
        assert_eq!(decode(&[b"data: a\n\ndata: b"]), data(&["a", "b"]));
        assert_eq!(decode(&[b""]), data(&[]));
    }

    #[test]
    fn errors_outside_of_data_are_events() {
        let named = |name: &[u8], data: &str| [(String::from_utf8_lossy(name).into_owned(), data.to_owned())];
        let (error, bare) = (|data: &str| named(b"error", data), |data: &str| named(BARE_JSON, data));
        assert_eq!(decode(&[b"error: {\"code\":400}\n\n"]), error("{\"code\":400}"));
        assert_eq!(decode(&[b"error:no\n"]), error("no"));
        let between = decode(&[b": c\n\n{\n  \"error\": {\n  }\n}\n\ndata: a\n\n"]);
        assert_eq!(between, [bare("{\n  \"error\": {\n  }\n}").as_slice(), &data(&["a"])].concat());
        assert_eq!(decode(&[b"data: a\n\n{\"error\":1}"]), [&data(&["a"]), bare("{\"error\":1}").as_slice()].concat());
        let followed = decode(&[b"data: a\n\n[{\"error\":1}]\ndata: b\n\n"]);
        assert_eq!(followed, [&data(&["a"]), bare("[{\"error\":1}]").as_slice(), &data(&["b"])].concat());
        // Not in a body that begins so, nor inside of an event.
        assert_eq!(decode(&[b"{\"error\":1}\n\n"]), data(&[]));
        assert_eq!(decode(&[b"data: a\n{x\n\n"]), data(&["a"]));
    }

    #[test]
    fn what_is_no_event_stream_has_no_fields() {
        let saw = |bytes: &[u8]| {
            let mut decoder = Decoder::new(LIMIT);
            decoder.push(bytes, |_| Ok::<(), EventTooLarge>(())).expect("small");
            decoder.finish(|_| Ok::<(), EventTooLarge>(())).expect("small");
            decoder.saw_fields()
        };
        assert!(!saw(br#"{"error":{"message":"data: quota"}}"#));
        assert!(!saw(b"<html>\n<body>no</body>\n</html>"));
        assert!(saw(b": keep-alive\n\n"));
        assert!(saw(b"data: [DONE]"));
    }

    #[test]
    fn an_endless_line_or_event_is_refused() {
        let mut decoder = Decoder::new(LIMIT);
        let mebibyte = vec![b'x'; 1024 * 1024];
        let mut pushed = 0;
        while decoder.push(&mebibyte, |_| Ok::<(), EventTooLarge>(())).is_ok() {
            pushed += 1;
            assert!(pushed <= 16);
        }
        let mut decoder = Decoder::new(LIMIT);
        let mut line = b"data: ".to_vec();
        line.extend_from_slice(&mebibyte);
        line.push(b'\n');
        let mut pushed = 0;
        while decoder.push(&line, |_| Ok::<(), EventTooLarge>(())).is_ok() {
            pushed += 1;
            assert!(pushed <= 16);
        }
    }

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"data: ".to_vec()),
            Just(b"data:".to_vec()),
            Just(b"event: ".to_vec()),
            Just(b":".to_vec()),
            Just(b"error: ".to_vec()),
            Just(b"{".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just("\u{feff}".as_bytes().to_vec()),
            Just("🦀é".as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn every_split_gives_the_same_events(stream in pieces(), cut in any::<prop::sample::Index>(), size in 1usize..7) {
            let whole = decode(&[&stream]);
            let at = cut.index(stream.len() + 1);
            prop_assert_eq!(&decode(&[&stream[..at], &stream[at..]]), &whole);
            prop_assert_eq!(&decode(&stream.chunks(size).collect::<Vec<_>>()), &whole);
        }
    }
}
