//! Idle and slow-header timeout for client connections.
//!
//! actix allows five seconds for a connection's first request head, and [`Limits::idle`] of silence between two
//! requests. But the first byte of a second head stops both timers: a client that sends the rest a byte a second, or
//! never, would keep the connection forever. The timer here runs while no request is active: from the end of a response
//! to the complete head of the next request. It also closes idle connections while a server shuts down, since actix
//! would wait for them, and earlier where many are open.

use std::{
    cell::Cell,
    net::Shutdown,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use actix_web::rt::{self, net::TcpStream, task::JoinHandle};
use socket2::{SockRef, Socket};
use tokio::time::{Instant, sleep};

use super::pipelining::{Paced, Pacer};
use crate::drain::Drain;

/// The time for which a connection may be idle once many are open.
const CROWDED_IDLE: Duration = Duration::from_secs(5);

/// Limits on idle connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The time from the end of a response to the complete head of the next request.
    pub idle: Duration,
    /// Above this number of open connections, [`CROWDED_IDLE`] counts: a client must not use up the connections by
    /// leaving them idle.
    pub crowded: usize,
}

/// Watches one connection until it is dropped. Stored in the connection's data.
pub struct ConnectionWatch {
    connection: Rc<Connection>,
    task: JoinHandle<()>,
}

struct Connection {
    /// A duplicate of the socket: actix does not hand out its own.
    socket: Socket,
    pacer: Rc<Pacer>,
    active: Cell<usize>,
    idle_since: Cell<Instant>,
}

impl ConnectionWatch {
    /// Watches a connection. If this process cannot open another file, the connection is closed instead and `None`
    /// returned.
    pub fn new(stream: &Paced<TcpStream>, limits: Limits, drain: Arc<Drain>) -> Option<Self> {
        let pacer = stream.pacer();
        let stream = SockRef::from(stream.stream());
        let socket = stream.try_clone().inspect_err(|error| {
            tracing::warn!(%error, "a connection cannot be watched and is closed (ulimit -n)");
            let _ = stream.shutdown(Shutdown::Both);
        });
        let connection = Rc::new(Connection {
            socket: socket.ok()?,
            pacer,
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
        });
        Some(Self { task: rt::spawn(close_when_idle(Rc::downgrade(&connection), limits, drain)), connection })
    }

    /// Stops the timer until the guard is dropped.
    pub fn request(&self) -> ActiveRequest {
        self.connection.active.update(|count| count + 1);
        ActiveRequest(self.connection.clone())
    }
}

impl Drop for ConnectionWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// RAII guard of one request on the connection.
pub struct ActiveRequest(Rc<Connection>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.update(|count| count - 1);
        self.0.idle_since.set(Instant::now());
    }
}

async fn close_when_idle(connection: Weak<Connection>, limits: Limits, drain: Arc<Drain>) {
    loop {
        let closing = tokio::select! {
            () = drain.closing() => true,
            () = sleep(limits.idle.min(CROWDED_IDLE)) => false,
        };
        let Some(connection) = connection.upgrade() else { return };
        let limit = if closing {
            Duration::ZERO
        } else if drain.open_connections() > limits.crowded {
            limits.idle.min(CROWDED_IDLE)
        } else {
            limits.idle
        };
        if connection.active.get() == 0 && connection.idle_since.get().elapsed() >= limit {
            // actix treats this as the client's end of input: pending output is still sent.
            if let Err(error) = connection.socket.shutdown(Shutdown::Read) {
                tracing::debug!(%error, "closing an idle connection");
            }
            // Also if it has sent something that is not read.
            connection.pacer.end();
            return;
        }
        if closing {
            // No request is left by then, but for those that nobody waits for.
            drop(connection);
            sleep(CROWDED_IDLE).await;
        }
    }
}
