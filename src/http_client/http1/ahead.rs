//! Connections that are opened ahead of their request: while a session is being checked in the database, so that the
//! handshakes with the provider do not come after it.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
};

use futures::channel::oneshot;

use super::socket::Socket;

/// The most connections of one worker that are being opened ahead, to all origins.
const MAX_CONNECTING: usize = 64;

/// The requests of one worker that are expected, and the connections that are being opened for them.
#[derive(Default)]
pub struct Ahead(RefCell<HashMap<String, Origin>>);

#[derive(Default)]
struct Origin {
    /// Requests that are expected.
    expected: usize,
    /// Connections that are being opened.
    connecting: usize,
    /// Requests that wait for one of them.
    waiting: VecDeque<oneshot::Sender<Socket>>,
}

/// The expectation of a request. Drop it right before the request is sent, or if none is.
pub struct Expected {
    ahead: Rc<Ahead>,
    origin: String,
}

impl Ahead {
    /// Expects a request to `origin`; `idle` counts the open connections to it, up to a number. Returns true if one more
    /// is to be opened; then [`Self::connected`] must be called.
    pub fn expect(self: &Rc<Self>, origin: &str, idle: impl FnOnce(usize) -> usize) -> (Expected, bool) {
        let mut origins = self.0.borrow_mut();
        let connecting: usize = origins.values().map(|origin| origin.connecting).sum();
        let entry = origins.entry(origin.to_owned()).or_default();
        entry.expected += 1;
        let open = idle(entry.expected) + entry.connecting < entry.expected && connecting < MAX_CONNECTING;
        entry.connecting += usize::from(open);
        (Expected { ahead: self.clone(), origin: origin.to_owned() }, open)
    }

    /// Ends the opening of a connection. Returns it if no request waits for it.
    pub fn connected(&self, origin: &str, socket: Option<Socket>) -> Option<Socket> {
        let mut origins = self.0.borrow_mut();
        let entry = origins.entry(origin.to_owned()).or_default();
        entry.connecting = entry.connecting.saturating_sub(1);
        let mut unused = socket;
        // A request that has given up does not count; without a connection, its sender's end tells the first to open
        // one itself.
        while let Some(waiting) = entry.waiting.pop_front() {
            let Some(socket) = unused.take() else { break };
            match waiting.send(socket) {
                Ok(()) => break,
                Err(socket) => unused = Some(socket),
            }
        }
        remove_if_unused(&mut origins, origin);
        unused
    }

    /// Returns the connection that is being opened, once it is; `None` if there is none for this request.
    pub async fn wait(&self, origin: &str) -> Option<Socket> {
        let socket = {
            let mut origins = self.0.borrow_mut();
            let entry = origins.get_mut(origin)?;
            entry.waiting.retain(|waiting| !waiting.is_canceled());
            if entry.connecting <= entry.waiting.len() {
                return None;
            }
            let (sender, socket) = oneshot::channel();
            entry.waiting.push_back(sender);
            socket
        };
        socket.await.ok()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut origins = self.ahead.0.borrow_mut();
        if let Some(entry) = origins.get_mut(&self.origin) {
            entry.expected = entry.expected.saturating_sub(1);
        }
        remove_if_unused(&mut origins, &self.origin);
    }
}

fn remove_if_unused(origins: &mut HashMap<String, Origin>, origin: &str) {
    if origins.get(origin).is_some_and(|origin| origin.expected == 0 && origin.connecting == 0) {
        origins.remove(origin);
    }
}
