//! Turns on a core for work that would block a worker: parsing files, large bodies and documents, and writing large
//! requests. Turns go round between users, and one user never has all cores.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::error::Error;

/// The longest wait for a turn.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// The turns of one server.
#[derive(Debug)]
pub struct Turns {
    /// Work that runs at the same time, of one user.
    max_per_user: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    running: HashMap<Uuid, usize>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    user: Uuid,
    grant: oneshot::Sender<Turn>,
}

/// RAII guard: the turn ends when it is dropped. Belongs into the thread that works, which a client that leaves does
/// not stop.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    user: Uuid,
}

impl Turns {
    /// Hands out `cores` turns at the same time; one user gets all but one of them, so that others need not wait for
    /// that user's work to end.
    pub fn new(cores: usize) -> Self {
        let state = State { free: cores.max(1), running: HashMap::new(), waiting: VecDeque::new() };
        Self { max_per_user: cores.saturating_sub(1).max(1), state: Mutex::new(state) }
    }

    /// Waits for a turn. Users whose work does not run yet go first, in the order in which they came.
    pub async fn wait(self: &Arc<Self>, user: Uuid) -> Turn {
        let receiver = {
            let (grant, receiver) = oneshot::channel();
            self.state().waiting.push_back(Waiting { user, grant });
            receiver
        };
        self.grant();
        match receiver.await {
            Ok(turn) => turn,
            // The sender is dropped only with this object, which `self` keeps.
            Err(_) => std::future::pending().await,
        }
    }

    /// Runs `work` in a turn of the user's; see [`Turn::run`].
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the turn does not come in time, and those of [`Turn::run`].
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        user: Uuid,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let turn = tokio::time::timeout(MAX_WAIT, self.wait(user)).await.map_err(|_| Error::Overloaded)?;
        turn.run(work).await
    }

    /// Gives free turns to those who wait.
    fn grant(self: &Arc<Self>) {
        loop {
            let granted = self.state().next(self.max_per_user);
            let Some(Waiting { user, grant }) = granted else { return };
            // A client that left meanwhile: the turn comes back at once.
            let _ = grant.send(Turn { turns: self.clone(), user });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Runs `work` on a blocking thread, which holds the turn: to its end, even if nobody waits for it any more.
    ///
    /// # Errors
    /// [`Error::Internal`] if it panics, which is a bug.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let done = tokio::task::spawn_blocking(move || {
            let _turn = self;
            work()
        });
        done.await.map_err(|error| Error::Internal(error.to_string()))
    }
}

impl State {
    fn next(&mut self, max_per_user: usize) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.grant.is_closed());
        if self.free == 0 {
            return None;
        }
        let running = |waiting: &Waiting| self.running.get(&waiting.user).copied().unwrap_or(0);
        let index = self
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, waiting)| running(waiting) < max_per_user)
            .min_by_key(|(_, waiting)| running(waiting))
            .map(|(index, _)| index)?;
        let waiting = self.waiting.remove(index)?;
        self.free -= 1;
        *self.running.entry(waiting.user).or_default() += 1;
        Some(waiting)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.turns.state();
            state.free += 1;
            if let Entry::Occupied(mut running) = state.running.entry(self.user) {
                *running.get_mut() -= 1;
                if *running.get() == 0 {
                    running.remove();
                }
            }
        }
        self.turns.grant();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        task::Poll,
    };

    use futures::{future::BoxFuture, poll};

    use super::*;

    fn waiting(turns: &Arc<Turns>, user: u128) -> BoxFuture<'static, Turn> {
        let turns = turns.clone();
        Box::pin(async move { turns.wait(Uuid::from_u128(user)).await })
    }

    async fn granted(turn: &mut BoxFuture<'static, Turn>) -> Option<Turn> {
        match poll!(turn) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn one_user_leaves_a_core_to_others() {
        let turns = Arc::new(Turns::new(2));
        let first = granted(&mut waiting(&turns, 1)).await.expect("free");
        let mut second = waiting(&turns, 1);
        assert!(granted(&mut second).await.is_none());
        let other = granted(&mut waiting(&turns, 2)).await.expect("a core is left");
        drop(first);
        assert!(granted(&mut second).await.is_some());
        drop(other);
    }

    #[tokio::test]
    async fn users_without_a_running_turn_go_first() {
        let turns = Arc::new(Turns::new(3));
        let held: Vec<Turn> = [
            granted(&mut waiting(&turns, 1)).await.expect("free"),
            granted(&mut waiting(&turns, 1)).await.expect("free"),
            granted(&mut waiting(&turns, 2)).await.expect("free"),
        ]
        .into();
        let (mut again, mut new) = (waiting(&turns, 2), waiting(&turns, 3));
        assert!(granted(&mut again).await.is_none() && granted(&mut new).await.is_none());
        drop(held.into_iter().next());
        assert!(granted(&mut new).await.is_some(), "came later, and has nothing running");
    }

    #[tokio::test]
    async fn a_client_that_left_takes_no_turn() {
        let turns = Arc::new(Turns::new(1));
        let held = granted(&mut waiting(&turns, 1)).await.expect("free");
        let mut left = waiting(&turns, 2);
        assert!(granted(&mut left).await.is_none());
        drop(left);
        drop(held);
        assert!(granted(&mut waiting(&turns, 3)).await.is_some());
        assert!(turns.state().waiting.is_empty() && turns.state().running.is_empty());
    }

    #[tokio::test]
    async fn work_holds_its_turn_until_its_end_and_a_panic_is_an_error() {
        let turns = Arc::new(Turns::new(1));
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let is_done = Arc::new(AtomicBool::new(false));
        let done = is_done.clone();
        let work = move || {
            let _ = wait.recv();
            done.store(true, Ordering::SeqCst);
        };
        let mut left = Box::pin(turns.run(Uuid::nil(), work));
        assert!(poll!(&mut left).is_pending());
        // Nobody waits for it any more.
        drop(left);
        let mut next = Box::pin(turns.run(Uuid::nil(), || 7));
        assert!(poll!(&mut next).is_pending());
        release.send(()).expect("it waits");
        assert_eq!(next.await.expect("a result"), 7);
        assert!(is_done.load(Ordering::SeqCst));
        let panics = turns.run(Uuid::nil(), || panic!("a bug")).await;
        assert!(matches!(panics, Err::<(), _>(Error::Internal(_))));
        assert_eq!(turns.run(Uuid::nil(), || 8).await.expect("a result"), 8);
    }
}
