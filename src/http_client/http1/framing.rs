//! Body framing: a body's content and end by its length, by transfer chunks or
//! by the end of the connection (RFC 9112, sections 6 and 7). No IO: the result
//! does not depend on how the bytes are split.

/// The most bytes of chunk extensions and trailers in one body. They are
/// ignored; hyper allows as much for each of the two.
const MAX_IGNORED: usize = 16 * 1024;

/// The framing of a body, and how far it has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// The number of bytes that are left.
    Length(u64),
    /// Transfer chunks.
    Chunked(Chunked),
    /// Everything until the connection is closed.
    UntilClose,
}

/// The state of a chunked body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    /// The number of bytes of extensions and trailers so far.
    ignored: usize,
}

/// The element that the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A chunk's size, with its value so far; `None` before the first digit.
    Size(Option<u64>),
    /// White space after a size.
    AfterSize(u64),
    /// An extension, which is ignored.
    Extension(u64),
    /// The LF after a size.
    SizeLf(u64),
    /// Content, of which so many bytes are left.
    Data(u64),
    DataCr,
    DataLf,
    /// The start of a trailer field or of the last line.
    TrailerStart,
    Trailer {
        /// Its colon was read.
        named: bool,
    },
    TrailerLf,
    LastLf,
    Done,
}

impl Default for State {
    fn default() -> Self {
        Self::Size(None)
    }
}

/// Malformed chunked encoding. The message never quotes received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked encoding: {0}")]
pub struct ChunkError(&'static str);

impl Framing {
    /// Decodes the next bytes and passes their content on. Returns how many
    /// belong to the body: all, unless it ends before.
    ///
    /// # Errors
    /// If the chunked encoding is malformed.
    pub fn decode(&mut self, bytes: &[u8], mut content: impl FnMut(&[u8])) -> Result<usize, ChunkError> {
        match self {
            Self::Length(left) => {
                let count = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= count as u64;
                content(&bytes[..count]);
                Ok(count)
            }
            Self::Chunked(chunks) => chunks.decode(bytes, content),
            Self::UntilClose => {
                content(bytes);
                Ok(bytes.len())
            }
        }
    }

    /// Returns whether the body is complete.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked { state: State::Done, .. }))
    }
}

impl Chunked {
    fn decode(&mut self, bytes: &[u8], mut content: impl FnMut(&[u8])) -> Result<usize, ChunkError> {
        let mut rest = bytes;
        while self.state != State::Done
            && let Some((&byte, after)) = rest.split_first()
        {
            if let State::Data(left) = self.state {
                let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                content(&rest[..count]);
                rest = &rest[count..];
                let left = left - count as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                continue;
            }
            self.state = self.after(byte)?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    fn after(&mut self, byte: u8) -> Result<State, ChunkError> {
        if matches!(self.state, State::Extension(_) | State::Trailer { .. } | State::TrailerStart) {
            self.ignored += 1;
            if self.ignored > MAX_IGNORED {
                return Err(ChunkError("extensions and trailers are too long"));
            }
        }
        Ok(match (self.state, byte) {
            (State::Size(size), _) if byte.is_ascii_hexdigit() => {
                let digit = u64::from((byte as char).to_digit(16).unwrap_or_default());
                let size = size.unwrap_or_default();
                State::Size(Some(size.checked_mul(16).ok_or(ChunkError("a chunk size is too large"))? + digit))
            }
            (State::Size(Some(size)) | State::AfterSize(size), b' ' | b'\t') => State::AfterSize(size),
            (State::Size(Some(size)) | State::AfterSize(size), b';') => State::Extension(size),
            (State::Size(Some(size)) | State::AfterSize(size) | State::Extension(size), b'\r') => State::SizeLf(size),
            // A lone LF in an extension would let two readers see two bodies.
            (State::Extension(_), b'\n') => return Err(ChunkError("a line break in a chunk's extension")),
            (State::Extension(size), _) => State::Extension(size),
            (State::SizeLf(0), b'\n') => State::TrailerStart,
            (State::SizeLf(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(None),
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::TrailerStart | State::Trailer { .. }, b'\n') => {
                return Err(ChunkError("a line break in a trailer"));
            }
            (State::Trailer { named: true }, b'\r') => State::TrailerLf,
            (State::TrailerStart, b':') | (State::Trailer { .. }, b'\r') => {
                return Err(ChunkError("a trailer is not a field"));
            }
            (State::Trailer { named }, byte) => State::Trailer { named: named || byte == b':' },
            (State::TrailerStart, _) => State::Trailer { named: false },
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::LastLf, b'\n') => State::Done,
            (State::Size(_) | State::AfterSize(_), _) => {
                return Err(ChunkError("a chunk size is not a hexadecimal number"));
            }
            _ => return Err(ChunkError("a chunk does not end after its size")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes in pieces: the content, the number of the body's bytes, and
    /// whether the body is complete.
    fn read(mut framing: Framing, bytes: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, bool), ChunkError> {
        let (mut content, mut count, mut rest) = (Vec::new(), 0, bytes);
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            let read = framing.decode(piece, |bytes| content.extend_from_slice(bytes))?;
            count += read;
            rest = after;
            if read < piece.len() {
                break;
            }
        }
        Ok((content, count, framing.is_done()))
    }

    fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, usize, bool), ChunkError> {
        read(Framing::Chunked(Chunked::default()), bytes, &[])
    }

    #[test]
    fn chunks_are_decoded() {
        for (bytes, content, done) in [
            ("3\r\nabc\r\n0\r\n\r\n", "abc", true),
            ("3\r\nabc\r\n0\r\n\r", "abc", false),
            ("1\r\na\r\n002 \t\r\nbc\r\n0;x=\"y\"\r\n\r\n", "abc", true),
            ("A;ext=1;b\r\n0123456789\r\n00\r\nTrailer: x\r\nanother: y\r\n\r\n", "0123456789", true),
            ("0\r\n\r\n", "", true),
            ("", "", false),
            ("5\r\nab", "ab", false),
        ] {
            let read = chunked(bytes.as_bytes());
            assert_eq!(read, Ok((content.as_bytes().to_vec(), bytes.len(), done)), "{bytes:?}");
        }
        assert_eq!(chunked(b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK"), Ok((b"a".to_vec(), 11, true)));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bytes in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\na",
            "1\na\r\n",
            "1 2\r\n",
            "1\r\nab\r\n",
            "0\r\nHTTP/1.1 200 OK\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            "1\r\na\n",
            "1;a\nb\r\n",
            "0\r\n\n",
            "0\r\na\n\r\n",
            "0\r\na\rb",
            "10000000000000000\r\n",
            "fffffffffffffffff",
            "data: {}\n\n",
        ] {
            assert!(chunked(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
        let long = |kind: &str| format!("0{kind}{}", "a".repeat(MAX_IGNORED + 1));
        assert!(chunked(long(";").as_bytes()).is_err() && chunked(long("\r\n").as_bytes()).is_err());
        assert!(chunked(format!("ffffffffffffffff\r\n{}", "a".repeat(99)).as_bytes()).is_ok());
    }

    #[test]
    fn lengths_and_ends_are_decoded() {
        assert_eq!(read(Framing::Length(3), b"abcd", &[1]), Ok((b"abc".to_vec(), 3, true)));
        assert_eq!(read(Framing::Length(5), b"abcd", &[1]), Ok((b"abcd".to_vec(), 4, false)));
        assert_eq!(read(Framing::Length(u64::MAX), b"abcd", &[]), Ok((b"abcd".to_vec(), 4, false)));
        assert_eq!(read(Framing::UntilClose, b"abcd", &[2]), Ok((b"abcd".to_vec(), 4, false)));
    }

    proptest! {
        #[test]
        fn every_split_gives_the_same(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            noise in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            cuts in prop::collection::vec(0..9_usize, 0..60),
        ) {
            let mut bytes = Vec::new();
            for piece in &pieces {
                bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nA: b\r\n\r\n");
            let whole = chunked(&bytes);
            prop_assert_eq!(whole.clone(), Ok((pieces.concat(), bytes.len(), true)));
            if let Some((at, byte)) = noise {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let whole = chunked(&bytes);
            prop_assert_eq!(read(Framing::Chunked(Chunked::default()), &bytes, &cuts), whole);
        }
    }
}
