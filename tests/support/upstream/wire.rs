//! HTTP/1.1 as bytes on a socket, read by hand. A library would smooth over
//! what these tests are about: a body that was cut, a peer that has left.

use std::{io, net::SocketAddr, time::Instant};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Names (lower-cased if read from the wire) and values.
pub type Headers = Vec<(String, String)>;

/// The value of a header, by its lower-case name; the first if there are more.
pub fn header<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// All of a message before its body.
pub struct Head {
    /// The request line or the status line.
    pub start: String,
    /// With lower-case names.
    pub headers: Headers,
}

/// The rest of a body.
pub enum Rest {
    /// So many bytes.
    Bytes(usize),
    /// So many bytes of the current chunk, and then further chunks.
    Chunks(usize),
    /// Whatever comes until the peer closes.
    UntilClose,
}

impl Rest {
    /// The body that these headers announce, if they announce one.
    pub fn announced(headers: &Headers) -> Option<Rest> {
        let chunked =
            header(headers, "transfer-encoding").is_some_and(|encoding| encoding.eq_ignore_ascii_case("chunked"));
        if chunked {
            return Some(Rest::Chunks(0));
        }
        let length = header(headers, "content-length")?;
        Some(Rest::Bytes(length.parse().ok()?))
    }
}

/// The reading side of a connection.
pub struct Wire<R> {
    peer: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Wire<R> {
    pub fn new(peer: R) -> Wire<R> {
        Wire { peer, buffer: BytesMut::new() }
    }

    /// The next message's head; `None` if the peer has closed instead.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Ok(None);
        }
        let start = self.line().await?;
        let mut headers = Headers::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(Some(Head { start, headers }));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("header", &line))?;
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The next piece of a body as it arrives; `None` at its proper end, an
    /// error if it is cut before that.
    pub async fn piece(&mut self, rest: &mut Rest) -> io::Result<Option<Bytes>> {
        if let Rest::Chunks(0) = rest {
            let size = self.chunk_size().await?;
            *rest = Rest::Chunks(size);
            if size == 0 {
                // Trailers, up to the empty line.
                while !self.line().await?.is_empty() {}
                return Ok(None);
            }
        }
        match rest {
            Rest::Bytes(0) => Ok(None),
            Rest::Bytes(left) | Rest::Chunks(left) => {
                if self.buffer.is_empty() {
                    self.fill_some().await?;
                }
                let piece = self.buffer.split_to(self.buffer.len().min(*left));
                *left -= piece.len();
                Ok(Some(piece.freeze()))
            }
            Rest::UntilClose => {
                if self.buffer.is_empty() && self.fill().await? == 0 {
                    return Ok(None);
                }
                Ok(Some(self.buffer.split().freeze()))
            }
        }
    }

    /// A whole body.
    pub async fn body(&mut self, mut rest: Rest) -> io::Result<Bytes> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece(&mut rest).await? {
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// Returns once the peer has closed its side or reset the connection.
    /// What it sends before that is kept for the next read.
    pub async fn gone(&mut self) {
        while matches!(self.fill().await, Ok(1..)) {}
    }

    async fn chunk_size(&mut self) -> io::Result<usize> {
        let mut line = self.line().await?;
        if line.is_empty() {
            // The line end that closes the chunk before. It is read only now,
            // so that a chunk counts even if the connection is cut behind it.
            line = self.line().await?;
        }
        let size = line.split(';').next().unwrap_or_default().trim();
        usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size", &line))
    }

    /// A line without its end.
    async fn line(&mut self) -> io::Result<String> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(searched + end + 1);
                return Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
            }
            searched = self.buffer.len();
            self.fill_some().await?;
        }
    }

    /// Reads what there is, at least a byte.
    async fn fill_some(&mut self) -> io::Result<()> {
        match self.fill().await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads what there is; 0 if the peer has closed.
    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(64 * 1024);
        self.peer.read_buf(&mut self.buffer).await
    }
}

fn malformed(what: &str, line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no {what}: {line:?}"))
}

/// A request of a client that uses its connection once.
#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    /// The request target: path and query, as they are sent.
    pub path: String,
    pub headers: Headers,
    pub body: Option<Vec<u8>>,
    /// Leave (close the connection) after so many bytes of the answer's body.
    pub leave_after: Option<usize>,
}

/// The response.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// With lower-case names.
    pub headers: Headers,
    /// As much as came.
    pub body: Vec<u8>,
    /// The time of the first byte of the body.
    pub first_byte: Option<Instant>,
    /// True if the body ended as its framing says. A body that is framed by
    /// the connection's end alone counts as whole, as there is no sign of a cut.
    pub complete: bool,
}

/// Sends a request to the server at `address`. An error means that no response
/// came.
pub async fn ask(address: SocketAddr, request: &Request) -> io::Result<Answer> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let (reader, mut writer) = socket.split();

    let mut message =
        format!("{} {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        message += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = &request.body {
        message += &format!("content-length: {}\r\n", body.len());
    }
    message += "\r\n";
    writer.write_all(message.as_bytes()).await?;
    if let Some(body) = &request.body {
        writer.write_all(body).await?;
    }

    let mut wire = Wire::new(reader);
    let head = wire.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head
        .start
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| malformed("status line", &head.start))?;
    let mut rest = match status {
        204 | 304 => Rest::Bytes(0),
        _ if request.method == "HEAD" => Rest::Bytes(0),
        _ => Rest::announced(&head.headers).unwrap_or(Rest::UntilClose),
    };
    let mut answer = Answer { status, headers: head.headers, ..Answer::default() };
    loop {
        match wire.piece(&mut rest).await {
            Ok(Some(piece)) => {
                answer.first_byte.get_or_insert_with(Instant::now);
                answer.body.extend_from_slice(&piece);
            }
            Ok(None) => {
                answer.complete = true;
                return Ok(answer);
            }
            Err(_) => return Ok(answer),
        }
        if request.leave_after.is_some_and(|limit| answer.body.len() >= limit) {
            return Ok(answer);
        }
    }
}
