//! The idle timeout of one exchange.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::error::Error;

/// Expires after a while without activity. Activity only notes the time: the
/// timer itself is set again when it fires, once a timeout and not once a read.
pub struct IdleTimer {
    timeout: Duration,
    last_activity: Instant,
    /// Not set before the first wait.
    timer: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    /// A timer that starts now.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, last_activity: Instant::now(), timer: None }
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.last_activity = Instant::now();
    }

    /// Waits for the timeout, and returns it as an error.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let deadline = self.last_activity + self.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        while timer.as_mut().poll(cx).is_ready() {
            if deadline <= Instant::now() {
                return Poll::Ready(Error::IdleTimeout(self.timeout));
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}
