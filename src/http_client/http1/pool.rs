//! Connections that wait to be used again.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Context, Waker},
    time::Duration,
};

use tokio::{task::unconstrained, time::Instant};

use super::{super::MAX_IDLE, body, connect::Socket};

/// How often those are looked for that are over.
const LOOK: Duration = Duration::from_secs(10);

/// By origin, the last one used last.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<HashMap<String, Vec<(Socket, Instant)>>>,
    is_watched: Cell<bool>,
}

impl Pool {
    /// The connection to an origin that was used last, if one still stands.
    pub fn take(&self, origin: &str) -> Option<Socket> {
        let mut idle = self.idle.borrow_mut();
        let of_origin = idle.get_mut(origin)?;
        while let Some((mut socket, since)) = of_origin.pop() {
            if stands(&mut socket, since) {
                return Some(socket);
            }
        }
        None
    }

    /// Closes what is kept for an origin.
    pub fn forget(&self, origin: &str) {
        self.idle.borrow_mut().remove(origin);
    }

    /// Keeps a connection whose answer was read to its end.
    pub fn put(self: &Rc<Self>, origin: String, socket: Socket) {
        self.idle.borrow_mut().entry(origin).or_default().push((socket, Instant::now()));
        if !self.is_watched.replace(true) {
            actix_web::rt::spawn(self.clone().watch());
        }
    }

    /// Closes what is over, until nothing is left.
    async fn watch(self: Rc<Self>) {
        while !self.idle.borrow().is_empty() {
            tokio::time::sleep(LOOK).await;
            self.idle.borrow_mut().retain(|_, of_origin| {
                of_origin.retain_mut(|(socket, since)| stands(socket, *since));
                of_origin.shrink_to_fit();
                !of_origin.is_empty()
            });
        }
        self.is_watched.set(false);
    }
}

/// Whatever can be read while nothing was asked, an end or bytes, means that
/// the connection is of no use any more.
fn stands(socket: &mut Socket, since: Instant) -> bool {
    // Unconstrained, since a task that has looked at many sockets is told that
    // there is nothing to read, so that others have their turn.
    let mut look = pin!(unconstrained(poll_fn(|cx| body::read(socket, cx, |_| ()))));
    since.elapsed() < MAX_IDLE && look.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
}
