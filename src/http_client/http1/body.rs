//! Response bodies: each read of the socket goes through the thread's buffer
//! straight to the consumer.

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{
    error::Error,
    exchange::Exchange,
    framing::Framing,
    idle_timer::IdleTimer,
    pool::Pool,
    socket::{Socket, poll_read},
    upload::Upload,
};
use crate::allowance::Charge;

/// A response's body. Dropped before its end, it closes the connection.
pub struct Body {
    /// `None` once the body was read to its end, or failed.
    socket: Option<Socket>,
    /// The part of the request that the server has not taken yet.
    upload: Option<Box<Upload>>,
    framing: Framing,
    /// The bytes that were read together with the head.
    rest: Vec<u8>,
    /// Where the connection goes after the body, if it can be reused.
    keep: Option<Keep>,
    idle: IdleTimer,
}

/// The place of a connection in the pool.
pub struct Keep {
    pub pool: Rc<Pool>,
    pub origin: String,
    /// How long the connection may be idle.
    pub idle_timeout: Duration,
}

impl Body {
    /// The body that follows a head; `keep` if its connection may be reused.
    pub fn new(socket: Socket, exchange: Exchange, keep: Option<Keep>, mut idle: IdleTimer) -> Self {
        let Exchange { head, rest, upload, .. } = exchange;
        idle.reset();
        let mut body =
            Self { socket: Some(socket), upload: upload.map(Box::new), framing: head.framing, rest, keep, idle };
        if body.framing.is_done() {
            body.finish(body.rest.is_empty());
        }
        body
    }

    /// Whether the response itself says where it ends, so that a body that was
    /// read to its end is complete; else the connection's end is the only sign.
    pub fn is_delimited(&self) -> bool {
        self.framing != Framing::UntilClose
    }

    /// Reads once and passes the content to `consume`, in any number of pieces.
    /// Returns `false` at the end, `true` if more may come. Goes on writing the
    /// request if the server has not taken all of it.
    ///
    /// # Errors
    /// If the body breaks off, is malformed, or nothing comes for too long.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, consume: impl FnMut(&[u8])) -> Poll<Result<bool, Error>> {
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(Ok(false));
        };
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(written) = upload.poll_write(cx, socket, &mut self.idle)
        {
            self.upload = None;
            // The server may still say all it has to say.
            self.keep = self.keep.take().filter(|_| written.is_ok());
        }
        let framing = &mut self.framing;
        // Whether all the bytes were the body's; `None` at the end of the stream.
        let read = if self.rest.is_empty() {
            match poll_read(socket, cx, |bytes| framing.decode(bytes, consume).map(|count| count == bytes.len())) {
                Poll::Ready(Ok(read)) => read.transpose().map_err(|error| error.to_string()),
                Poll::Ready(Err(error)) => Err(error.to_string()),
                Poll::Pending => {
                    let error = ready!(self.idle.poll_expired(cx));
                    self.socket = None;
                    return Poll::Ready(Err(error));
                }
            }
        } else {
            let rest = std::mem::take(&mut self.rest);
            let decoded = framing.decode(&rest, consume).map(|count| Some(count == rest.len()));
            decoded.map_err(|error| error.to_string())
        };
        let ended = match read {
            Ok(Some(is_clean)) => {
                self.idle.reset();
                if self.framing.is_done() {
                    self.finish(is_clean);
                }
                return Poll::Ready(Ok(self.socket.is_some()));
            }
            Ok(None) if self.framing == Framing::UntilClose => Ok(false),
            Ok(None) => Err(Error::Body("the connection was closed before its end".to_owned())),
            Err(reason) => Err(Error::Body(reason)),
        };
        self.socket = None;
        Poll::Ready(ended)
    }

    /// Reads the body, at most `limit` bytes of it, and charges them if there is
    /// something to charge them to.
    ///
    /// # Errors
    /// If it fails before its end, with the bytes that were read until then.
    pub async fn collect(
        mut self,
        limit: usize,
        mut charge: Option<&mut Charge>,
    ) -> Result<Collected, (Vec<u8>, Error)> {
        let mut content = Vec::new();
        let mut charged = 0;
        loop {
            let read = poll_fn(|cx| self.poll_read(cx, |bytes| content.extend_from_slice(bytes))).await;
            if let Some(charge) = &mut charge {
                // One read is at most the thread's buffer, so that little comes before it is charged.
                if charge.grow(content.len() - charged).is_err() {
                    return Ok(Collected::Unaffordable);
                }
                charged = content.len();
            }
            match read {
                Ok(_) if content.len() > limit => {
                    content.truncate(limit);
                    return Ok(Collected::Truncated(content));
                }
                Ok(true) => {}
                Ok(false) => return Ok(Collected::Complete(content)),
                Err(error) => return Err((content, error)),
            }
        }
    }

    /// Returns the connection to the pool, unless it holds bytes that belong to
    /// no response or a request that is not written to its end.
    fn finish(&mut self, is_clean: bool) {
        let is_clean = is_clean && self.upload.is_none();
        if let (Some(socket), Some(Keep { pool, origin, idle_timeout }), true) =
            (self.socket.take(), self.keep.take(), is_clean)
        {
            pool.put(origin, socket, idle_timeout);
        }
    }
}

/// The bytes of a body. Without `Debug`, as they may be an answer's text.
pub enum Collected {
    /// All of them.
    Complete(Vec<u8>),
    /// The first ones, up to the limit.
    Truncated(Vec<u8>),
    /// None, because the user's or the server's allowance of bytes is used up.
    Unaffordable,
}
