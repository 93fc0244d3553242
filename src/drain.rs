//! Graceful shutdown: counters of requests in flight, and the phase, which refuses new requests and then closes idle
//! connections.
//!
//! The listener stays open while the last requests run: a load balancer that still routes here gets 503 and
//! `Retry-After` instead of a refused connection, and `/readyz` can report the shutdown.

use tokio::sync::watch;

/// The part of its life that a server is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Serving,
    /// New requests are refused.
    Draining,
    /// All requests have ended: idle connections are closed.
    Closing,
}

/// In-flight counters and the phase of one server.
#[derive(Debug, Default)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    /// Every request, refused ones included.
    requests: InFlightCounter,
    connections: InFlightCounter,
}

impl Drain {
    /// Refuses new requests from now on.
    pub fn start(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Returns true after [`Drain::start`].
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Waits until [`Drain::start`] is called.
    pub async fn started(&self) {
        // Fails only without a sender, which `self` holds.
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// Closes idle connections from now on.
    pub fn close_idle(&self) {
        self.phase.send_replace(Phase::Closing);
    }

    /// Waits until [`Drain::close_idle`] is called.
    pub async fn closing(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Closing).await;
    }

    /// Returns the number of open connections.
    pub fn open_connections(&self) -> usize {
        *self.connections.0.borrow()
    }

    /// Counts a connection until the guard is dropped.
    pub fn connection(&self) -> InFlight {
        self.connections.enter()
    }

    /// Counts a request until the guard is dropped.
    pub fn request(&self) -> InFlight {
        self.requests.enter()
    }

    /// Waits until every request has been answered, including streams.
    pub async fn requests_finished(&self) {
        self.requests.is_zero().await;
    }

    /// Waits until no connection is open.
    pub async fn connections_closed(&self) {
        self.connections.is_zero().await;
    }
}

/// A counter of things in progress; tasks can wait for it to reach zero.
#[derive(Debug, Default)]
pub struct InFlightCounter(watch::Sender<usize>);

impl InFlightCounter {
    /// Increments the counter.
    pub fn enter(&self) -> InFlight {
        self.0.send_modify(|count| *count += 1);
        InFlight(self.0.clone())
    }

    /// Increments the counter unless it has reached `limit`.
    pub fn enter_below(&self, limit: usize) -> Option<InFlight> {
        let entered = self.0.send_if_modified(|count| {
            let free = *count < limit;
            *count += usize::from(free);
            free
        });
        entered.then(|| InFlight(self.0.clone()))
    }

    async fn is_zero(&self) {
        // Fails only without a sender, which `self` holds.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// RAII guard: decrements its counter on drop.
#[derive(Debug)]
pub struct InFlight(watch::Sender<usize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
