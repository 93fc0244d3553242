//! The clients: they read streams from plain sockets, and from each chunk the provider's time stamp.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use super::provider;

/// The server's address, and the complete request.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub request: Rc<Vec<u8>>,
}

/// Measurements of the clients of one run.
#[derive(Default)]
pub struct Seen {
    /// Nanoseconds from a request to its first chunk.
    pub first: Vec<u64>,
    /// Nanoseconds from the provider's time stamp to the client.
    pub delay: Vec<u64>,
    pub streams: usize,
    /// Streams that failed or lacked chunks.
    pub errors: usize,
}

/// The number of requests of each client.
#[derive(Clone, Copy)]
pub enum Until {
    Streams(usize),
    Time(Duration),
}

/// Runs `connections` concurrent clients, each of which requests one stream after another, with `chunks` each.
pub async fn run(target: &Target, connections: usize, chunks: usize, until: Until) -> Seen {
    let started = Instant::now();
    let clients = (0..connections).map(|number| async move {
        let mut seen = Seen::default();
        // Spread over time.
        tokio::time::sleep(Duration::from_micros(200 * number as u64)).await;
        let mut socket = None;
        let more = |streams: usize| match until {
            Until::Streams(wanted) => streams < wanted,
            Until::Time(time) => started.elapsed() < time,
        };
        while more(seen.streams) {
            seen.streams += 1;
            if stream(target, &mut socket, chunks, &mut seen).await.is_err() {
                seen.errors += 1;
                socket = None;
            }
        }
        seen
    });
    join_all(clients).await.into_iter().fold(Seen::default(), |mut all, one| {
        all.first.extend(one.first);
        all.delay.extend(one.delay);
        all.streams += one.streams;
        all.errors += one.errors;
        all
    })
}

/// Sends the request; the caller reads the response.
pub async fn ask(target: &Target) -> io::Result<TcpStream> {
    let mut socket = connect(target).await?;
    socket.write_all(&target.request).await?;
    Ok(socket)
}

async fn connect(target: &Target) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(target.address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Requests one stream of `chunks`, on the connection that is kept if there is one.
pub async fn stream(target: &Target, kept: &mut Option<TcpStream>, chunks: usize, seen: &mut Seen) -> io::Result<()> {
    let asked = provider::now();
    let mut socket = match kept.take() {
        Some(socket) => socket,
        None => connect(target).await?,
    };
    exchange(&mut socket, target, chunks, asked, seen).await?;
    *kept = Some(socket);
    Ok(())
}

/// Sends the request on a connection and reads the response. The client's time began at `asked`.
pub async fn exchange(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    target: &Target,
    chunks: usize,
    asked: u64,
    seen: &mut Seen,
) -> io::Result<()> {
    socket.write_all(&target.request).await?;
    socket.flush().await?;
    let mut marks = Marks::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut tail = Vec::with_capacity(16);
    let mut count = 0;
    loop {
        let length = socket.read(&mut buffer).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let now = provider::now();
        let bytes = &buffer[..length];
        if count == 0 && tail.is_empty() && !bytes.starts_with(b"HTTP/1.1 200") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        marks.read(bytes, |stamp| {
            if count == 0 {
                seen.first.push(now - asked);
            }
            count += 1;
            seen.delay.push(now.saturating_sub(stamp));
        });
        tail.extend_from_slice(&bytes[length.saturating_sub(7)..]);
        tail.drain(..tail.len().saturating_sub(7));
        if tail == b"\r\n0\r\n\r\n" {
            break;
        }
    }
    if count != chunks {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}

/// Finds `<digits>` in bytes that may be split anywhere.
#[derive(Default)]
struct Marks {
    open: bool,
    stamp: u64,
}

impl Marks {
    fn read(&mut self, mut bytes: &[u8], mut found: impl FnMut(u64)) {
        loop {
            if !self.open {
                let Some(at) = memchr::memchr(b'<', bytes) else { return };
                bytes = &bytes[at + 1..];
                *self = Self { open: true, stamp: 0 };
            }
            while let Some((&byte, rest)) = bytes.split_first() {
                bytes = rest;
                if !byte.is_ascii_digit() {
                    self.open = false;
                    found(self.stamp);
                    break;
                }
                self.stamp = self.stamp * 10 + u64::from(byte - b'0');
            }
            if self.open || bytes.is_empty() {
                return;
            }
        }
    }
}
