//! Where a body ends, and which bytes on the way are its content: the length
//! that the head gave, transfer chunks, or the connection's end (RFC 9112,
//! sections 6 and 7). No IO: the same content comes out however the bytes are
//! split.

/// How much of chunk extensions and trailers is read over in one body, in
/// bytes. Nobody needs them; hyper allows as much for each.
const MAX_ASIDE: usize = 16 * 1024;

/// What a body still has to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// As many bytes.
    Length(u64),
    /// Transfer chunks.
    Chunked(Chunked),
    /// Whatever comes until the connection is closed.
    UntilClose,
}

/// Transfer chunks that are being read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunked {
    step: Step,
    /// Bytes of extensions and trailers so far.
    aside: usize,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A chunk's size, of as much so far; `None` before its first digit.
    Size(Option<u64>),
    /// White space after a size.
    AfterSize(u64),
    /// An extension, to be read over.
    Extension(u64),
    /// The LF after a size.
    SizeLf(u64),
    /// Content, as many bytes.
    Data(u64),
    DataCr,
    DataLf,
    /// The beginning of a trailer, or of the last line.
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
    Done,
}

impl Default for Step {
    fn default() -> Self {
        Self::Size(None)
    }
}

/// The chunks are none. What is wrong, without what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its transfer chunks are malformed: {0}")]
pub struct Malformed(&'static str);

impl Framing {
    /// Takes bytes as they come, gives the content among them, and says how
    /// many belong to the body: all, unless it ended before.
    ///
    /// # Errors
    /// Where chunks are malformed.
    pub fn read(&mut self, bytes: &[u8], mut content: impl FnMut(&[u8])) -> Result<usize, Malformed> {
        match self {
            Self::Length(left) => {
                let count = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= count as u64;
                content(&bytes[..count]);
                Ok(count)
            }
            Self::Chunked(chunks) => chunks.read(bytes, content),
            Self::UntilClose => {
                content(bytes);
                Ok(bytes.len())
            }
        }
    }

    /// Whether all of it has come.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked { step: Step::Done, .. }))
    }
}

impl Chunked {
    fn read(&mut self, bytes: &[u8], mut content: impl FnMut(&[u8])) -> Result<usize, Malformed> {
        let mut rest = bytes;
        while self.step != Step::Done
            && let Some((&byte, after)) = rest.split_first()
        {
            if let Step::Data(left) = self.step {
                let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                content(&rest[..count]);
                rest = &rest[count..];
                let left = left - count as u64;
                self.step = if left == 0 { Step::DataCr } else { Step::Data(left) };
                continue;
            }
            self.step = self.after(byte)?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    fn after(&mut self, byte: u8) -> Result<Step, Malformed> {
        if matches!(self.step, Step::Extension(_) | Step::Trailer | Step::TrailerStart) {
            self.aside += 1;
            if self.aside > MAX_ASIDE {
                return Err(Malformed("more extensions and trailers than are read"));
            }
        }
        Ok(match (self.step, byte) {
            (Step::Size(size), _) if byte.is_ascii_hexdigit() => {
                let digit = u64::from((byte as char).to_digit(16).unwrap_or_default());
                let size = size.unwrap_or_default();
                Step::Size(Some(size.checked_mul(16).ok_or(Malformed("a chunk's size is no number"))? + digit))
            }
            (Step::Size(Some(size)) | Step::AfterSize(size), b' ' | b'\t') => Step::AfterSize(size),
            (Step::Size(Some(size)) | Step::AfterSize(size), b';') => Step::Extension(size),
            (Step::Size(Some(size)) | Step::AfterSize(size) | Step::Extension(size), b'\r') => Step::SizeLf(size),
            // A lone LF in an extension would let two readers see two bodies.
            (Step::Extension(_), b'\n') => return Err(Malformed("a line break in a chunk's extension")),
            (Step::Extension(size), _) => Step::Extension(size),
            (Step::SizeLf(0), b'\n') => Step::TrailerStart,
            (Step::SizeLf(size), b'\n') => Step::Data(size),
            (Step::DataCr, b'\r') => Step::DataLf,
            (Step::DataLf, b'\n') => Step::Size(None),
            (Step::TrailerStart, b'\r') => Step::LastLf,
            (Step::TrailerStart | Step::Trailer, b'\n') => return Err(Malformed("a line break in a trailer")),
            (Step::Trailer, b'\r') => Step::TrailerLf,
            (Step::TrailerStart | Step::Trailer, _) => Step::Trailer,
            (Step::TrailerLf, b'\n') => Step::TrailerStart,
            (Step::LastLf, b'\n') => Step::Done,
            (Step::Size(_) | Step::AfterSize(_), _) => return Err(Malformed("a chunk's size is no number")),
            _ => return Err(Malformed("a chunk does not end where it should")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The content, and how many bytes were the body's; read in pieces.
    fn read(mut framing: Framing, bytes: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut content, mut count, mut rest) = (Vec::new(), 0, bytes);
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            let read = framing.read(piece, |bytes| content.extend_from_slice(bytes))?;
            count += read;
            rest = after;
            if read < piece.len() {
                break;
            }
        }
        Ok((content, count, framing.is_done()))
    }

    fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, usize, bool), Malformed> {
        read(Framing::Chunked(Chunked::default()), bytes, &[])
    }

    #[test]
    fn chunks_are_read() {
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
    fn what_are_no_chunks_is_refused() {
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
        let long = |kind: &str| format!("0{kind}{}", "a".repeat(MAX_ASIDE + 1));
        assert!(chunked(long(";").as_bytes()).is_err() && chunked(long("\r\n").as_bytes()).is_err());
        assert!(chunked(format!("ffffffffffffffff\r\n{}", "a".repeat(99)).as_bytes()).is_ok());
    }

    #[test]
    fn lengths_and_ends_are_read() {
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
