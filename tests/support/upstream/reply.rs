//! The scripted provider's replies, step by step.

use std::{future, io, time::Duration};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::tcp::WriteHalf, task::yield_now, time::sleep};

use super::{Released, wire::Headers};

/// A reset overtakes bytes that the peer has not read yet, so that what was
/// written before gets this much time to be read.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// The answer to one request.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Headers,
    /// Silence before the first byte of the answer.
    pub before_head: Duration,
    /// The body. Without steps and with a normal end, the answer has no body.
    pub steps: Vec<Step>,
    pub end: End,
}

/// A part of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes that leave in one write, as one HTTP chunk.
    Write(Vec<u8>),
    /// The same chunk so many times, each as soon as there is room for it.
    Repeat(Vec<u8>, usize),
    /// Silence.
    Wait(Duration),
    /// Silence until [`Upstream::release`](super::Upstream::release) is called
    /// for the request's key.
    WaitForRelease,
    /// Silence until the peer leaves or the test ends.
    WaitForever,
}

/// The end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should; the connection stays open for the next request.
    Normal,
    /// The connection is reset after the steps, in the middle of the body.
    Reset,
    /// The connection is closed without an answer.
    Refuse,
    /// The steps alone are written, without a head and without framing, and
    /// the connection is closed.
    Raw,
}

impl Default for Reply {
    /// 200 and an event stream with nothing in it.
    fn default() -> Reply {
        let content_type = "text/event-stream; charset=utf-8";
        Reply {
            status: 200,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            before_head: Duration::ZERO,
            steps: Vec::new(),
            end: End::Normal,
        }
    }
}

impl Reply {
    /// An event stream with these events, a write each, and then `last`.
    pub fn events(events: &[&str], last: Step) -> Reply {
        let write = |event: &&str| Step::Write(event.as_bytes().to_vec());
        Reply { steps: events.iter().map(write).chain([last]).collect(), ..Reply::default() }
    }

    /// No answer, for as long as the peer waits for one.
    pub fn silent() -> Reply {
        Reply { before_head: Duration::MAX, ..Reply::default() }
    }

    /// A JSON document.
    pub fn json(status: u16, document: &Value) -> Reply {
        Reply {
            status,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            steps: vec![Step::Write(document.to_string().into_bytes())],
            ..Reply::default()
        }
    }

    /// Bytes that are no HTTP response.
    pub fn raw(bytes: &[u8]) -> Reply {
        Reply { steps: vec![Step::Write(bytes.to_vec())], end: End::Raw, ..Reply::default() }
    }

    pub(super) async fn play(&self, writer: &mut WriteHalf<'_>, mut released: Released) -> io::Result<()> {
        if !self.before_head.is_zero() {
            // A timer of no length would still take a millisecond.
            sleep(self.before_head).await;
        }
        match self.end {
            End::Refuse => return Ok(()),
            End::Raw => {}
            End::Normal | End::Reset => writer.write_all(self.head().as_bytes()).await?,
        }
        for step in &self.steps {
            match step {
                Step::Write(bytes) if self.end == End::Raw => writer.write_all(bytes).await?,
                Step::Write(bytes) => write_chunk(writer, bytes).await?,
                Step::Repeat(bytes, times) => {
                    for _ in 0..*times {
                        write_chunk(writer, bytes).await?;
                    }
                }
                Step::Wait(time) => sleep(*time).await,
                Step::WaitForRelease => released.wait().await,
                Step::WaitForever => future::pending().await,
            }
        }
        match self.end {
            End::Reset => {
                sleep(BEFORE_RESET).await;
                // Closing the socket is a reset from here on.
                writer.as_ref().set_zero_linger()
            }
            End::Normal if self.has_body() => writer.write_all(b"0\r\n\r\n").await,
            _ => Ok(()),
        }
    }

    fn has_body(&self) -> bool {
        !self.steps.is_empty() || self.end != End::Normal
    }

    fn head(&self) -> String {
        // No reason phrase: HTTP/2, which real providers speak, has none.
        let mut head = format!("HTTP/1.1 {} \r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += match self.status {
            204 | 304 => "\r\n",
            _ if self.has_body() => "transfer-encoding: chunked\r\n\r\n",
            _ => "content-length: 0\r\n\r\n",
        };
        head
    }
}

async fn write_chunk(writer: &mut WriteHalf<'_>, bytes: &[u8]) -> io::Result<()> {
    // A chunk of no bytes would end the body.
    if bytes.is_empty() {
        return Ok(());
    }
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    writer.write_all(&chunk).await?;
    // A reader on the same thread would otherwise see several writes as one.
    yield_now().await;
    Ok(())
}
