//! Heads: encoding a request's, parsing a response's. No IO.

use std::time::Duration;

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
use crate::http_client::defaults;

/// The most bytes of a response's head, with the informational responses before
/// it.
const MAX_HEAD: usize = 128 * 1024;
const MAX_HEADERS: usize = 100;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Encodes a request's head: POST if there is a body, else GET. A user name and
/// password in the URL are left out: neither settings nor users' URLs may have
/// them.
pub fn encode_request(url: &Url, headers: &HeaderMap, length: Option<usize>, proxy: Option<&Proxy>) -> Vec<u8> {
    let absolute = proxy.filter(|_| url.scheme() == "http");
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(if length.is_some() { b"POST " } else { b"GET " });
    // The absolute form, for a proxy that does not tunnel.
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
        line(USER_AGENT.as_str(), defaults::USER_AGENT.as_bytes());
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

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status, never an informational one.
    pub status: StatusCode,
    /// The headers, unchanged.
    pub headers: HeaderMap,
    /// The framing of the body.
    pub framing: Framing,
    /// Whether the connection can be used again after the body.
    pub is_reusable: bool,
    /// The time after which the server closes the connection if it is idle
    /// (`Keep-Alive: timeout=`), if it says so.
    pub keep_alive: Option<Duration>,
}

/// An invalid response head. The message never quotes received bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The bytes are not HTTP/1.
    #[error("the response is not HTTP/1: {0}")]
    NotHttp(#[from] httparse::Error),
    /// The head is longer than the limit.
    #[error("the response head has more than {} KiB", MAX_HEAD / 1024)]
    TooLarge,
    /// A header that the framing depends on is invalid.
    #[error("the response has an invalid {0} header")]
    Header(HeaderName),
    /// The status is 101, though the request offered no other protocol.
    #[error("the response switches to another protocol")]
    Upgrade,
}

/// An incremental parser of response heads.
#[derive(Default)]
pub struct ResponseParser {
    bytes: Vec<u8>,
    /// The number of bytes that are known to hold no end of a head.
    searched: usize,
    /// The number of bytes of informational responses so far.
    informational: usize,
}

impl ResponseParser {
    /// Parses the next bytes. Returns the head once it is complete, with the
    /// bytes after it.
    ///
    /// # Errors
    /// If the bytes are not a valid HTTP/1 response head.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(ResponseHead, Vec<u8>)>, ParseError> {
        self.bytes.extend_from_slice(bytes);
        // Empty lines before a head would be parsed again with each read.
        if matches!(self.bytes.first(), Some(b'\r' | b'\n')) {
            return Err(ParseError::NotHttp(httparse::Error::Version));
        }
        // So would a head that comes in small pieces: it is parsed at first, to
        // refuse other protocols at once, and then only when it may be complete.
        while self.searched == 0 || self.has_end() {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Response::new(&mut headers);
            let httparse::Status::Complete(length) = parsed.parse(&self.bytes)? else {
                break;
            };
            match parsed.code {
                Some(101) => return Err(ParseError::Upgrade),
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
        if self.informational + self.bytes.len() > MAX_HEAD { Err(ParseError::TooLarge) } else { Ok(None) }
    }

    fn has_end(&self) -> bool {
        let new = &self.bytes[self.searched.saturating_sub(3).min(self.bytes.len())..];
        self.searched < self.bytes.len()
            && (memmem::find(new, b"\n\r\n").is_some() || memmem::find(new, b"\n\n").is_some())
    }
}

fn head(parsed: &httparse::Response<'_, '_>) -> Result<ResponseHead, ParseError> {
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
    // With both, an intermediary may have framed the body differently.
    let is_plain = chunked.is_none() || length.is_none();
    let is_reusable =
        is_1_1 && is_plain && !parts(&headers, &CONNECTION).any(|part| part.eq_ignore_ascii_case(b"close"));
    let keep_alive = keep_alive(&headers);
    Ok(ResponseHead { status, headers, framing, is_reusable, keep_alive })
}

/// Returns whether chunked is the last transfer coding; `None` without any.
fn is_chunked(headers: &HeaderMap, is_1_1: bool) -> Result<Option<bool>, ParseError> {
    let Some(last) = parts(headers, &TRANSFER_ENCODING).last() else {
        return Ok(None);
    };
    // HTTP/1.0 has no transfer codings.
    let is_text = headers.get_all(&TRANSFER_ENCODING).iter().all(|value| value.to_str().is_ok());
    if !is_1_1 || !is_text {
        return Err(ParseError::Header(TRANSFER_ENCODING));
    }
    Ok(Some(last.eq_ignore_ascii_case(b"chunked")))
}

/// Returns the length that all `Content-Length` headers agree on.
fn length(headers: &HeaderMap) -> Result<Option<u64>, ParseError> {
    let mut found = None;
    for digits in parts(headers, &CONTENT_LENGTH) {
        let length = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
        let length = length.and_then(|digits| digits.parse::<u64>().ok());
        match (length, found) {
            (Some(length), None) => found = Some(length),
            (Some(length), Some(before)) if length == before => {}
            _ => return Err(ParseError::Header(CONTENT_LENGTH)),
        }
    }
    Ok(found)
}

/// Returns the time of `Keep-Alive: timeout=`, in seconds on the wire.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let seconds = parts(headers, &KEEP_ALIVE).find_map(|part| {
        let (name, value) = std::str::from_utf8(part).ok()?.split_once('=')?;
        name.trim_end().eq_ignore_ascii_case("timeout").then_some(value.trim_start())
    });
    seconds?.parse().ok().map(Duration::from_secs)
}

/// Returns the elements of a header's comma-separated lists.
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
        String::from_utf8(encode_request(&Url::parse(url).expect(url), &headers, length, None)).expect("ASCII")
    }

    #[test]
    fn a_request_is_encoded() {
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

    fn parse(text: &str) -> Result<Option<(ResponseHead, Vec<u8>)>, ParseError> {
        ResponseParser::default().push(text.as_bytes())
    }

    #[test]
    fn a_head_determines_the_framing() {
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
            assert_eq!((&head.framing, head.is_reusable, &rest[..]), (&framing, reusable, &b"rest"[..]), "{lines}");
        }
        let (old, _) = parse("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n").expect("a head").expect("whole");
        assert!(!old.is_reusable);
    }

    #[test]
    fn informational_responses_are_skipped() {
        let text =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 429 No\r\na: b\r\n\r\n";
        let (head, rest) = parse(text).expect("a head").expect("whole");
        assert_eq!((head.status.as_u16(), head.headers["a"].as_bytes(), rest.len()), (429, &b"b"[..], 0));
        assert!(parse("HTTP/1.1 100 Continue\r\n\r\n").expect("no error").is_none());
    }

    #[test]
    fn invalid_heads_are_refused() {
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
        // No text, so that whoever reads it differs in where the body ends.
        let coding = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: \x80chunked\r\n\r\n";
        assert_eq!(ResponseParser::default().push(coding).err(), Some(ParseError::Header(TRANSFER_ENCODING)));
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        assert!(parse(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).is_err());
    }

    #[test]
    fn a_head_without_an_end_is_refused_at_the_limit() {
        for (first, more) in [("HTTP/1.1 200 OK\r\n", "a: b\r\n"), ("", "HTTP/1.1 100 Continue\r\n\r\n")] {
            let mut parser = ResponseParser::default();
            assert!(parser.push(first.as_bytes()).expect("no error yet").is_none());
            let mut read = first.len();
            let error = loop {
                read += more.len();
                match parser.push(more.as_bytes()) {
                    Ok(head) => assert!(head.is_none()),
                    Err(error) => break error,
                }
            };
            assert_eq!((error, read.div_ceil(1024)), (ParseError::TooLarge, MAX_HEAD / 1024 + 1), "{more}");
        }
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(MAX_HEAD));
        assert_eq!(parse(&long).err(), Some(ParseError::TooLarge));
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
            // In pieces, an error may be found later.
            let show = |read: &Result<Option<(ResponseHead, Vec<u8>)>, ParseError>, after: &[u8]| match read {
                Ok(Some((head, rest))) => format!("{head:?} {:?}", [rest, after].concat()),
                Ok(None) | Err(_) => "none".to_owned(),
            };
            let whole = show(&parse(&text), &[]);
            let (mut parser, mut rest) = (ResponseParser::default(), text.as_bytes());
            let mut read = Ok(None);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                read = parser.push(piece);
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
                let head = encode_request(&Url::parse("http://h/a b\r\nc").expect("a URL"), &headers, Some(1), None);
                prop_assert_eq!(memmem::find_iter(&head, b"\r\n").count(), 7);
                prop_assert!(!head[..head.len() - 2].windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'));
            }
        }
    }
}
