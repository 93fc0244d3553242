//! Connections as bytes, and the read buffer that all connections of a thread
//! share.

use std::{
    cell::RefCell,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::unconstrained,
};

/// The size of the read buffer, in bytes.
const READ_BUFFER_SIZE: usize = 64 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER_SIZE].into_boxed_slice());
}

/// A connection, with or without TLS.
pub type Socket = Pin<Box<dyn Io>>;

/// Bytes in both directions.
pub trait Io: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> Io for T {}

/// Reads once and passes the bytes to `consume`; `None` at the end of the
/// stream.
pub fn poll_read<T>(
    socket: &mut Socket,
    cx: &mut Context<'_>,
    consume: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<Option<T>>> {
    READ_BUFFER.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(buffer);
        ready!(socket.as_mut().poll_read(cx, &mut buffer))?;
        let bytes = buffer.filled();
        Poll::Ready(Ok((!bytes.is_empty()).then(|| consume(bytes))))
    })
}

/// Returns whether an idle connection can carry a request. If anything can be
/// read from it before one is sent, its end or bytes, it cannot.
pub fn is_usable(socket: &mut Socket) -> bool {
    // Unconstrained, since a task that has polled many sockets is told that
    // there is nothing to read, to give others their turn.
    let read = pin!(unconstrained(std::future::poll_fn(|cx| poll_read(socket, cx, |_| ()))));
    read.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}
