//! Idle connections, kept for the next request to the same origin.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use tokio::time::Instant;

use super::socket::{Socket, is_usable};

/// The most idle connections to one origin. A worker that has more streams than
/// this end at once opens the next ones anew.
const MAX_IDLE_PER_ORIGIN: usize = 256;
/// The most idle connections to all origins. Users choose the origins of custom
/// models, so without a limit they would choose how many descriptors are open.
const MAX_IDLE: usize = 512;
/// The interval between two searches for connections that are closed or too old.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// An idle connection.
struct Idle {
    socket: Socket,
    since: Instant,
    /// When it is closed if nothing has used it.
    expires: Instant,
}

impl Idle {
    fn is_usable(&mut self) -> bool {
        Instant::now() < self.expires && is_usable(&mut self.socket)
    }
}

/// The idle connections of one worker's client. The one that was used last is
/// used first; above a limit, the one that has been idle longest is closed.
#[derive(Default)]
pub struct Pool {
    /// By origin, the one used last at the back.
    origins: RefCell<HashMap<String, VecDeque<Idle>>>,
    is_swept: Cell<bool>,
}

impl Pool {
    /// Takes the usable connection to an origin that was used last.
    pub fn take(&self, origin: &str) -> Option<Socket> {
        let mut origins = self.origins.borrow_mut();
        let idle = origins.get_mut(origin)?;
        while let Some(mut connection) = idle.pop_back() {
            if connection.is_usable() {
                return Some(connection.socket);
            }
        }
        origins.remove(origin);
        None
    }

    /// Returns the number of usable connections to an origin, counting to `most`.
    pub fn usable(&self, origin: &str, most: usize) -> usize {
        let mut origins = self.origins.borrow_mut();
        let Some(idle) = origins.get_mut(origin) else { return 0 };
        let mut usable = 0;
        // The last ones first, as they are taken.
        for index in (0..idle.len()).rev() {
            if usable == most {
                break;
            }
            if idle[index].is_usable() {
                usable += 1;
            } else {
                idle.remove(index);
            }
        }
        usable
    }

    /// Closes all idle connections to an origin.
    pub fn close(&self, origin: &str) {
        self.origins.borrow_mut().remove(origin);
    }

    /// Keeps a connection whose response was read to its end, for `idle_timeout`
    /// at most.
    pub fn put(self: &Rc<Self>, origin: String, socket: Socket, idle_timeout: Duration) {
        let since = Instant::now();
        let mut origins = self.origins.borrow_mut();
        let idle = origins.entry(origin).or_default();
        if idle.len() == MAX_IDLE_PER_ORIGIN {
            idle.pop_front();
        }
        idle.push_back(Idle { socket, since, expires: since + idle_timeout });
        if origins.values().map(VecDeque::len).sum::<usize>() > MAX_IDLE {
            close_oldest(&mut origins);
        }
        if !self.is_swept.replace(true) {
            actix_web::rt::spawn(self.clone().sweep());
        }
    }

    /// Closes unusable connections until none is left.
    async fn sweep(self: Rc<Self>) {
        while !self.origins.borrow().is_empty() {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.origins.borrow_mut().retain(|_, idle| {
                idle.retain_mut(Idle::is_usable);
                idle.shrink_to_fit();
                !idle.is_empty()
            });
        }
        self.is_swept.set(false);
    }
}

fn close_oldest(origins: &mut HashMap<String, VecDeque<Idle>>) {
    let oldest = origins.iter().min_by_key(|(_, idle)| idle.front().map(|connection| connection.since));
    let Some(origin) = oldest.map(|(origin, _)| origin.clone()) else { return };
    if let Some(idle) = origins.get_mut(&origin) {
        idle.pop_front();
        if idle.is_empty() {
            origins.remove(&origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection, and its other end, which sees it closed.
    fn connection() -> (Socket, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        (Box::pin(ours), theirs)
    }

    async fn is_closed(theirs: &mut tokio::io::DuplexStream) -> bool {
        let read = tokio::io::AsyncReadExt::read_u8(theirs);
        tokio::time::timeout(Duration::from_millis(1), read).await.is_ok()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[actix_web::test]
    async fn idle_connections_to_one_origin_are_bounded() {
        let pool = Rc::new(Pool::default());
        let mut others = Vec::new();
        for _ in 0..MAX_IDLE_PER_ORIGIN + 2 {
            let (ours, theirs) = connection();
            pool.put("a".to_owned(), ours, MINUTE);
            others.push(theirs);
        }
        let (ours, mut of_b) = connection();
        pool.put("b".to_owned(), ours, MINUTE);
        assert!(is_closed(&mut others[0]).await && is_closed(&mut others[1]).await);
        assert!(!is_closed(&mut others[2]).await && !is_closed(&mut of_b).await);
        assert_eq!(pool.origins.borrow()["a"].len(), MAX_IDLE_PER_ORIGIN);
    }

    #[actix_web::test]
    async fn idle_connections_to_all_origins_are_bounded_and_the_oldest_goes_first() {
        let pool = Rc::new(Pool::default());
        let mut others = Vec::new();
        for number in 0..MAX_IDLE {
            let (ours, theirs) = connection();
            pool.put(format!("{number}.example"), ours, MINUTE);
            others.push(theirs);
        }
        // Used again, the first is no longer the oldest.
        let first = pool.take("0.example").expect("an idle connection");
        pool.put("0.example".to_owned(), first, MINUTE);
        for number in 0..3 {
            let (ours, theirs) = connection();
            pool.put(format!("new-{number}.example"), ours, MINUTE);
            others.push(theirs);
        }
        for (number, closed) in [(0, false), (1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(is_closed(&mut others[number]).await, closed, "{number}");
        }
        assert_eq!(pool.origins.borrow().len(), MAX_IDLE);
    }

    #[actix_web::test]
    async fn a_connection_is_not_used_beyond_its_idle_timeout() {
        let pool = Rc::new(Pool::default());
        let ((short, mut theirs), (long, _other)) = (connection(), connection());
        pool.put("a".to_owned(), long, MINUTE);
        pool.put("a".to_owned(), short, Duration::from_millis(20));
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert!(pool.take("a").is_some() && pool.take("a").is_none());
        assert!(is_closed(&mut theirs).await);
    }
}
