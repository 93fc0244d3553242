//! Heads: a request's as bytes, an answer's out of bytes. No IO.

use http::{
    StatusCode,
    header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, USER_AGENT},
};
use memchr::memmem;
use url::{Position, Url};

use super::{
    connect::Proxy,
    framing::{Chunked, Framing},
};
use crate::http_client;

/// How long an answer's head may be, the informational ones before it
/// included, in bytes.
const MAX_HEAD: usize = 128 * 1024;
const MAX_HEADERS: usize = 100;

/// A request's head: POST where there is a body, else GET. A user and password
/// in the URL stay out of it: neither settings nor users' URLs may have them.
pub fn request(url: &Url, headers: &HeaderMap, length: Option<usize>, proxy: Option<&Proxy>) -> Vec<u8> {
    let absolute = proxy.filter(|_| url.scheme() == "http");
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(if length.is_some() { b"POST " } else { b"GET " });
    // A proxy is told the whole address where it does not just tunnel.
    if absolute.is_some() {
        head.extend_from_slice(url[..Position::BeforeUsername].as_bytes());
        head.extend_from_slice(url[Position::BeforeHost..Position::BeforePath].as_bytes());
    }
    head.extend_from_slice(url[Position::BeforePath..Position::AfterQuery].as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let mut line = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    line("host", url[Position::BeforeHost..Position::AfterPort].as_bytes());
    if let Some(length) = length {
        line("content-length", length.to_string().as_bytes());
    }
    if !headers.contains_key(ACCEPT) {
        line(ACCEPT.as_str(), b"*/*");
    }
    if !headers.contains_key(USER_AGENT) {
        line(USER_AGENT.as_str(), http_client::USER_AGENT.as_bytes());
    }
    if let Some(credentials) = absolute.and_then(Proxy::basic_auth) {
        line("proxy-authorization", credentials.as_bytes());
    }
    for (name, value) in headers {
        line(name.as_str(), value.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// An answer's head.
#[derive(Debug)]
pub struct Head {
    /// Never an informational one.
    pub status: StatusCode,
    /// All of them.
    pub headers: HeaderMap,
    /// Where the body ends.
    pub framing: Framing,
    /// The connection can be used again after the body.
    pub reusable: bool,
}

/// What came is no answer. What is wrong, without what came.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Bytes that are no head.
    #[error("it is not HTTP/1: {0}")]
    NotHttp(#[from] httparse::Error),
    /// A head beyond all measure.
    #[error("its head has more than {} KiB", MAX_HEAD / 1024)]
    TooLarge,
    /// A header that the body's end depends on, and that says nothing clear.
    #[error("its {0} header cannot be used")]
    Header(HeaderName),
    /// Status 101, which nobody asked for.
    #[error("it changes to another protocol")]
    Upgrade,
}

/// Reads an answer's head out of bytes as they come.
#[derive(Default)]
pub struct Reader {
    bytes: Vec<u8>,
    /// How many of them are known to hold no head's end.
    searched: usize,
    /// How many of them were informational answers.
    informational: usize,
}

impl Reader {
    /// Takes the next bytes; gives the head once it is whole, with what came
    /// after it.
    ///
    /// # Errors
    /// Where it is none.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<(Head, Vec<u8>)>, Malformed> {
        self.bytes.extend_from_slice(bytes);
        // Empty lines before a head would be gone through again and again.
        if matches!(self.bytes.first(), Some(b'\r' | b'\n')) {
            return Err(Malformed::NotHttp(httparse::Error::Version));
        }
        // So would everything be if each byte that comes were a reason to. It
        // is parsed at first, for what is no HTTP at all, and when it may end.
        while self.searched == 0 || self.has_end() {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Response::new(&mut headers);
            let httparse::Status::Complete(length) = parsed.parse(&self.bytes)? else {
                break;
            };
            match parsed.code {
                Some(101) => return Err(Malformed::Upgrade),
                Some(100..=199) => {
                    self.bytes.drain(..length);
                    self.informational += length;
                    self.searched = 0;
                }
                _ => {
                    let head = head(&parsed)?;
                    return Ok(Some((head, self.bytes.split_off(length))));
                }
            }
            if self.bytes.is_empty() {
                break;
            }
        }
        self.searched = self.bytes.len();
        if self.informational + self.bytes.len() > MAX_HEAD { Err(Malformed::TooLarge) } else { Ok(None) }
    }

    fn has_end(&self) -> bool {
        let new = &self.bytes[self.searched.saturating_sub(3).min(self.bytes.len())..];
        self.searched < self.bytes.len()
            && (memmem::find(new, b"\n\r\n").is_some() || memmem::find(new, b"\n\n").is_some())
    }
}

fn head(parsed: &httparse::Response<'_, '_>) -> Result<Head, Malformed> {
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(httparse::Error::Status)?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for header in &*parsed.headers {
        let name = HeaderName::try_from(header.name).map_err(|_| httparse::Error::HeaderName)?;
        let value = HeaderValue::from_bytes(header.value).map_err(|_| httparse::Error::HeaderValue)?;
        headers.append(name, value);
    }
    let is_1_1 = parsed.version == Some(1);
    let chunked = is_chunked(&headers, is_1_1)?;
    let length = length(&headers)?;
    let framing = match (status.as_u16(), chunked, length) {
        (204 | 304, ..) => Framing::Length(0),
        (_, Some(true), _) => Framing::Chunked(Chunked::default()),
        (_, None, Some(length)) => Framing::Length(length),
        (_, Some(false), _) | (_, None, None) => Framing::UntilClose,
    };
    // Both: somebody on the way may have read it otherwise.
    let is_plain = chunked.is_none() || length.is_none();
    let reusable = is_1_1 && is_plain && !parts(&headers, &CONNECTION).any(|part| part.eq_ignore_ascii_case(b"close"));
    Ok(Head { status, headers, framing, reusable })
}

/// Whether transfer chunks come last, where there is a coding at all.
fn is_chunked(headers: &HeaderMap, is_1_1: bool) -> Result<Option<bool>, Malformed> {
    let Some(last) = parts(headers, &TRANSFER_ENCODING).last() else {
        return Ok(None);
    };
    // HTTP/1.0 has none.
    if !is_1_1 {
        return Err(Malformed::Header(TRANSFER_ENCODING));
    }
    Ok(Some(last.eq_ignore_ascii_case(b"chunked")))
}

/// The one length that all such headers give.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut found = None;
    for digits in parts(headers, &CONTENT_LENGTH) {
        let length = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
        let length = length.and_then(|digits| digits.parse::<u64>().ok());
        match (length, found) {
            (Some(length), None) => found = Some(length),
            (Some(length), Some(before)) if length == before => {}
            _ => return Err(Malformed::Header(CONTENT_LENGTH)),
        }
    }
    Ok(found)
}

/// What all headers of a name list between commas.
fn parts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HOST;
    use proptest::prelude::*;

    fn written(url: &str, headers: &[(HeaderName, &'static str)], length: Option<usize>) -> String {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        String::from_utf8(request(&Url::parse(url).expect(url), &headers, length, None)).expect("ASCII")
    }

    #[test]
    fn a_request_is_written() {
        let agent = concat!("chatbot-ui-api/", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            written("https://h:8443/v1/x?a=b%20c#d", &[(ACCEPT, "text/event-stream")], Some(12)),
            format!(
                "POST /v1/x?a=b%20c HTTP/1.1\r\nhost: h:8443\r\ncontent-length: 12\r\nuser-agent: {agent}\r\n\
                 accept: text/event-stream\r\n\r\n"
            )
        );
        assert_eq!(
            written("http://user:password@[::1]:80", &[], None),
            format!("GET / HTTP/1.1\r\nhost: [::1]\r\naccept: */*\r\nuser-agent: {agent}\r\n\r\n")
        );
    }

    fn parse(text: &str) -> Result<Option<(Head, Vec<u8>)>, Malformed> {
        Reader::default().read(text.as_bytes())
    }

    #[test]
    fn a_head_says_where_the_body_ends() {
        let chunks = || Framing::Chunked(Chunked::default());
        for (lines, framing, reusable) in [
            ("200 OK\r\nContent-Length: 5", Framing::Length(5), true),
            ("200 OK\r\ncontent-length: 5, 5\r\ncontent-length: 5", Framing::Length(5), true),
            ("200 OK\r\nContent-Length: 5\r\nConnection: keep-alive, Close", Framing::Length(5), false),
            ("200 OK\r\nTransfer-Encoding: chunked", chunks(), true),
            ("200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: Chunked ", chunks(), true),
            ("200 OK\r\ntransfer-encoding: gzip, chunked\r\ncontent-length: 3", chunks(), false),
            ("200 OK\r\ntransfer-encoding: chunked, gzip", Framing::UntilClose, true),
            ("200", Framing::UntilClose, true),
            ("204 No Content", Framing::Length(0), true),
            ("304 Not Modified\r\ncontent-length: 5", Framing::Length(0), true),
        ] {
            let (head, rest) = parse(&format!("HTTP/1.1 {lines}\r\n\r\nrest")).expect(lines).expect(lines);
            assert_eq!((&head.framing, head.reusable, &rest[..]), (&framing, reusable, &b"rest"[..]), "{lines}");
        }
        let (old, _) = parse("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n").expect("a head").expect("whole");
        assert!(!old.reusable);
    }

    #[test]
    fn informational_answers_are_passed_over() {
        let text =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 429 No\r\na: b\r\n\r\n";
        let (head, rest) = parse(text).expect("a head").expect("whole");
        assert_eq!((head.status.as_u16(), head.headers["a"].as_bytes(), rest.len()), (429, &b"b"[..], 0));
        assert!(parse("HTTP/1.1 100 Continue\r\n\r\n").expect("no error").is_none());
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for (text, why) in [
            ("SSH-2.0-OpenSSH_9.6\r\n", "not HTTP/1"),
            ("HTTP/2.0 200 OK\r\n\r\n", "not HTTP/1"),
            ("HTTP/1.1 99 OK\r\n\r\n", "not HTTP/1"),
            ("HTTP/1.1 200 OK\r\nname with spaces: x\r\n\r\n", "not HTTP/1"),
            ("HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n", "not HTTP/1"),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "another protocol"),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "transfer-encoding"),
            ("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n", "content-length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\n", "content-length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", "content-length"),
            ("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n", "content-length"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        assert!(parse(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).is_err());
    }

    #[test]
    fn a_head_without_an_end_is_given_up() {
        for (first, more) in [("HTTP/1.1 200 OK\r\n", "a: b\r\n"), ("", "HTTP/1.1 100 Continue\r\n\r\n")] {
            let mut reader = Reader::default();
            assert!(reader.read(first.as_bytes()).expect("no error yet").is_none());
            let mut read = first.len();
            let error = loop {
                read += more.len();
                match reader.read(more.as_bytes()) {
                    Ok(head) => assert!(head.is_none()),
                    Err(error) => break error,
                }
            };
            assert_eq!((error, read.div_ceil(1024)), (Malformed::TooLarge, MAX_HEAD / 1024 + 1), "{more}");
        }
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(MAX_HEAD));
        assert_eq!(parse(&long).err(), Some(Malformed::TooLarge));
    }

    proptest! {
        #[test]
        fn every_split_gives_the_same(
            text in prop_oneof![
                Just("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\nA: b\r\n\r\nbody".to_owned()),
                Just("HTTP/1.1 200 OK\nA: b\n\nbody".to_owned()),
                "HTTP/1.1 200 [ -~\r\n]{0,60}(\r\n\r\n|\n\n)?[ -~\r\n]{0,9}",
            ],
            cuts in prop::collection::vec(0..9_usize, 0..90),
        ) {
            // What is malformed may be found out later in pieces.
            let show = |read: &Result<Option<(Head, Vec<u8>)>, Malformed>, after: &[u8]| match read {
                Ok(Some((head, rest))) => format!("{head:?} {:?}", [rest, after].concat()),
                Ok(None) | Err(_) => "none".to_owned(),
            };
            let whole = show(&parse(&text), &[]);
            let (mut reader, mut rest) = (Reader::default(), text.as_bytes());
            let mut read = Ok(None);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                read = reader.read(piece);
                if !matches!(read, Ok(None)) {
                    break;
                }
            }
            prop_assert_eq!(show(&read, rest), whole);
        }

        #[test]
        fn no_header_of_a_call_can_break_out_of_its_line(value in prop::collection::vec(any::<u8>(), 0..30)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let headers = HeaderMap::from_iter([(HOST, value)]);
                let head = request(&Url::parse("http://h/a b\r\nc").expect("a URL"), &headers, Some(1), None);
                prop_assert_eq!(memmem::find_iter(&head, b"\r\n").count(), 7);
                prop_assert!(!head[..head.len() - 2].windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'));
            }
        }
    }
}
