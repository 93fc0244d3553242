//! Connections on which nobody asks anything.
//!
//! actix gives a connection's first request head five seconds, and lets a
//! connection be silent for five between two requests. But the first byte of a
//! second head stops both clocks: whoever sends the rest of it a byte a
//! second, or never, would keep the connection for ever. Here is the clock for
//! that: it runs while no request is under way, from the end of one answer to
//! the whole head of the next request.

use std::{
    cell::Cell,
    net::Shutdown,
    rc::{Rc, Weak},
    time::Duration,
};

use actix_web::rt::{self, net::TcpStream, task::JoinHandle};
use socket2::{SockRef, Socket};
use tokio::time::{Instant, sleep_until};

/// Watches one connection, until it is dropped. Belongs into the data of the
/// connection.
pub struct Watch {
    line: Rc<Line>,
    task: JoinHandle<()>,
}

struct Line {
    /// The same connection: actix does not let go of its own.
    socket: Socket,
    under_way: Cell<usize>,
    idle_since: Cell<Instant>,
}

impl Watch {
    /// Begins to watch a connection, which may be idle for `limit`. Where this
    /// process may open no more files, it is ended instead: `None`.
    pub fn new(stream: &TcpStream, limit: Duration) -> Option<Self> {
        let stream = SockRef::from(stream);
        let socket = stream.try_clone().inspect_err(|error| {
            tracing::warn!(%error, "a connection cannot be watched and is closed (ulimit -n)");
            let _ = stream.shutdown(Shutdown::Both);
        });
        let line =
            Rc::new(Line { socket: socket.ok()?, under_way: Cell::new(0), idle_since: Cell::new(Instant::now()) });
        Some(Self { task: rt::spawn(watch(Rc::downgrade(&line), limit)), line })
    }

    /// A request is under way on the connection until this is dropped.
    pub fn request(&self) -> UnderWay {
        self.line.under_way.update(|count| count + 1);
        UnderWay(self.line.clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request of a connection.
pub struct UnderWay(Rc<Line>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.update(|count| count - 1);
        self.0.idle_since.set(Instant::now());
    }
}

async fn watch(line: Weak<Line>, limit: Duration) {
    while let Some(line) = line.upgrade() {
        let now = Instant::now();
        let since = if line.under_way.get() > 0 { now } else { line.idle_since.get() };
        if since + limit <= now {
            // For actix it is as if the client had nothing more to say: what
            // was answered still goes out, to whoever reads it now.
            if let Err(error) = line.socket.shutdown(Shutdown::Read) {
                tracing::debug!(%error, "an idle connection");
            }
            return;
        }
        drop(line);
        sleep_until(since + limit).await;
    }
}
