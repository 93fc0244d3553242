//! A request on its way to the server.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};

use super::{idle_timer::IdleTimer, socket::Socket};

/// The part of a request that is not written yet.
pub struct Upload {
    head: Bytes,
    body: Bytes,
}

impl Upload {
    /// A request of which nothing is written.
    pub fn new(head: Vec<u8>, body: Option<&Bytes>) -> Self {
        Self { head: head.into(), body: body.cloned().unwrap_or_default() }
    }

    /// Writes as much as the connection takes. Ready once everything is written
    /// and flushed.
    ///
    /// # Errors
    /// If the connection takes nothing any more.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
        idle: &mut IdleTimer,
    ) -> Poll<io::Result<()>> {
        while !self.head.is_empty() || !self.body.is_empty() {
            let parts = [IoSlice::new(&self.head), IoSlice::new(&self.body)];
            let count = ready!(socket.as_mut().poll_write_vectored(cx, &parts))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            idle.reset();
            let of_head = count.min(self.head.len());
            self.head.advance(of_head);
            self.body.advance(count - of_head);
        }
        socket.as_mut().poll_flush(cx)
    }
}
