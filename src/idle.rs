//! Connections on which nobody asks anything.
//!
//! actix gives a connection's first request head five seconds, and lets a
//! connection be silent for five between two requests. But the first byte of a
//! second head stops both clocks: whoever sends the rest of it a byte a
//! second, or never, would keep the connection for ever. Here is the clock for
//! that: it runs while no request is under way.

use std::{
    cell::Cell,
    net::Shutdown,
    rc::{Rc, Weak},
    time::Duration,
};

use actix_web::rt::{self, net::TcpStream, task::JoinHandle};
use socket2::{SockRef, Socket};
use tokio::time::{Instant, sleep_until};

/// From the end of an answer to the next request's whole head: actix' own
/// five seconds of silence, and five for the head.
const LIMIT: Duration = Duration::from_secs(10);

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
    /// Begins to watch a connection; `None` where this process may open no
    /// more files.
    pub fn new(stream: &TcpStream) -> Option<Self> {
        let socket = SockRef::from(stream).try_clone();
        let socket = socket.inspect_err(|error| tracing::debug!(%error, "a connection is not watched")).ok()?;
        let line = Rc::new(Line { socket, under_way: Cell::new(0), idle_since: Cell::new(Instant::now()) });
        Some(Self { task: rt::spawn(watch(Rc::downgrade(&line))), line })
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

async fn watch(line: Weak<Line>) {
    while let Some(line) = line.upgrade() {
        let now = Instant::now();
        let since = if line.under_way.get() > 0 { now } else { line.idle_since.get() };
        if since + LIMIT <= now {
            // What was answered still goes out, however slowly it is read; for
            // actix it is as if the client had nothing more to say.
            if let Err(error) = line.socket.shutdown(Shutdown::Read) {
                tracing::debug!(%error, "an idle connection");
            }
            return;
        }
        drop(line);
        sleep_until(since + LIMIT).await;
    }
}
