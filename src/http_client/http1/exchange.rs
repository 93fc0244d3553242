//! One request and the head of its response on one connection.

use std::{future::poll_fn, io, task::Poll};

use super::{
    error::Error,
    head::{ResponseHead, ResponseParser},
    idle_timer::IdleTimer,
    socket::{Socket, poll_read},
    upload::Upload,
};
use crate::http_client::error::causes;

/// A response whose body is still to be read.
pub struct Exchange {
    pub head: ResponseHead,
    /// The bytes that were read together with the head, after it.
    pub rest: Vec<u8>,
    /// The part of the request that the server has not taken yet.
    pub upload: Option<Upload>,
    /// Whether the request can still be, or was, written to its end.
    pub is_intact: bool,
}

/// A failure before a response head was complete.
pub struct Failure {
    pub error: Error,
    /// Whether any byte of a response came.
    pub has_received: bool,
}

impl Failure {
    /// Returns whether the server closed the connection before it responded, as
    /// it does with idle connections.
    pub fn is_stale_connection(&self) -> bool {
        !self.has_received && matches!(self.error, Error::Request(_))
    }
}

/// Writes a request and reads the response's head, both at once: a server may
/// respond before it has taken a large request. After an early success the
/// caller has to go on writing; after an early error the server will not read
/// the rest, so it stays unwritten.
///
/// # Errors
/// If the connection fails, what comes is no response head, or nothing happens
/// for too long.
pub async fn exchange(socket: &mut Socket, upload: Upload, idle: &mut IdleTimer) -> Result<Exchange, Failure> {
    let mut parser = ResponseParser::default();
    let mut upload = Some(upload);
    let mut write_error = None;
    let mut has_received = false;
    let received = poll_fn(|cx| {
        if let Some(unwritten) = &mut upload
            && let Poll::Ready(written) = unwritten.poll_write(cx, socket, idle)
        {
            upload = None;
            write_error = written.err();
        }
        // Bytes of a head do not reset the timer: one that never ends is no
        // response.
        loop {
            let read = poll_read(socket, cx, |bytes| {
                has_received = true;
                parser.push(bytes)
            });
            match read {
                Poll::Ready(Ok(Some(Ok(Some(parsed))))) => return Poll::Ready(Ok(parsed)),
                Poll::Ready(Ok(Some(Ok(None)))) => {}
                Poll::Ready(Ok(Some(Err(error)))) => return Poll::Ready(Err(Error::Request(error.to_string()))),
                Poll::Ready(Ok(None)) => {
                    let closed = io::Error::other("the connection was closed before a response came");
                    return Poll::Ready(Err(failed(write_error.as_ref().unwrap_or(&closed))));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(failed(write_error.as_ref().unwrap_or(&error)))),
                Poll::Pending => return idle.poll_expired(cx).map(Err),
            }
        }
    })
    .await;
    let (head, rest) = received.map_err(|error| Failure { error, has_received })?;
    let is_refused = upload.is_some() && !head.status.is_success();
    Ok(Exchange { is_intact: write_error.is_none() && !is_refused, upload: upload.filter(|_| !is_refused), head, rest })
}

fn failed(error: &io::Error) -> Error {
    Error::Request(causes(error))
}
