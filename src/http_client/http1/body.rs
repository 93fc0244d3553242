//! A body on its way: read from the socket into a buffer that all share, and
//! given on from there.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::ReadBuf;

use super::{Error, Silence, connect::Socket, framing::Framing, pool::Pool};

/// How much is read at once, in bytes.
const READ: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

/// Reads once and gives what came to `take`; `None` at the end.
pub fn read<T>(
    socket: &mut Socket,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<Option<T>>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(buffer);
        ready!(socket.as_mut().poll_read(cx, &mut buffer))?;
        let bytes = buffer.filled();
        Poll::Ready(Ok((!bytes.is_empty()).then(|| take(bytes))))
    })
}

/// What follows an answer's head. Dropped before its end, it closes the
/// connection.
pub struct Body {
    /// `None` once it was read to its end, or broke.
    socket: Option<Socket>,
    framing: Framing,
    /// What came with the head.
    rest: Vec<u8>,
    /// Where the connection may be kept, by its origin.
    keep: Option<(Rc<Pool>, String)>,
    silence: Silence,
}

impl Body {
    pub(super) fn new(
        socket: Socket,
        framing: Framing,
        rest: Vec<u8>,
        keep: Option<(Rc<Pool>, String)>,
        idle_timeout: Duration,
    ) -> Self {
        let silence = Silence::new(idle_timeout);
        let mut body = Self { socket: Some(socket), framing, rest, keep, silence };
        if body.framing.is_done() {
            body.finish(body.rest.is_empty());
        }
        body
    }

    /// Whether the answer itself says where it ends, so that what was read to
    /// its end is all of it; else the connection's end is the only sign.
    pub fn is_delimited(&self) -> bool {
        self.framing != Framing::UntilClose
    }

    /// Reads once, and gives the content that came to `take`, in no, one or
    /// several pieces. `false` at the end, `true` where more may come.
    ///
    /// # Errors
    /// Where it broke off, or nothing came for too long.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, take: impl FnMut(&[u8])) -> Poll<Result<bool, Error>> {
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(Ok(false));
        };
        let framing = &mut self.framing;
        // Whether all that came was the body's; `None` at the connection's end.
        let read = if self.rest.is_empty() {
            match read(socket, cx, |bytes| framing.read(bytes, take).map(|count| count == bytes.len())) {
                Poll::Ready(Ok(read)) => read.transpose().map_err(|malformed| malformed.to_string()),
                Poll::Ready(Err(error)) => Err(error.to_string()),
                Poll::Pending => {
                    ready!(self.silence.poll(cx));
                    self.socket = None;
                    return Poll::Ready(Err(Error::Silent(self.silence.limit)));
                }
            }
        } else {
            let rest = std::mem::take(&mut self.rest);
            let read = framing.read(&rest, take).map(|count| Some(count == rest.len()));
            read.map_err(|malformed| malformed.to_string())
        };
        let ended = match read {
            Ok(Some(all)) => {
                self.silence.broken();
                if self.framing.is_done() {
                    self.finish(all);
                }
                return Poll::Ready(Ok(self.socket.is_some()));
            }
            Ok(None) if self.framing == Framing::UntilClose => Ok(false),
            Ok(None) => Err(Error::Body("the connection was closed before its end".to_owned())),
            Err(why) => Err(Error::Body(why)),
        };
        self.socket = None;
        Poll::Ready(ended)
    }

    /// Reads at most `limit` bytes: all, or the first of more.
    ///
    /// # Errors
    /// With what was read before it broke.
    pub async fn read(mut self, limit: usize) -> Result<Read, (Vec<u8>, Error)> {
        let mut content = Vec::new();
        loop {
            match poll_fn(|cx| self.poll_read(cx, |bytes| content.extend_from_slice(bytes))).await {
                Ok(_) if content.len() > limit => {
                    content.truncate(limit);
                    return Ok(Read::Beginning(content));
                }
                Ok(true) => {}
                Ok(false) => return Ok(Read::Whole(content)),
                Err(error) => return Err((content, error)),
            }
        }
    }

    /// The connection is for the next one, if nothing is on it that nobody
    /// asked for.
    fn finish(&mut self, is_clean: bool) {
        if let (Some(socket), Some((pool, origin)), true) = (self.socket.take(), self.keep.take(), is_clean) {
            pool.put(origin, socket);
        }
    }
}

/// What was read of a body. Without `Debug`, as it may be an answer.
pub enum Read {
    /// All of it.
    Whole(Vec<u8>),
    /// As much as was wanted.
    Beginning(Vec<u8>),
}
