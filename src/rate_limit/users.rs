//! The state of each user: requests in flight and the local bucket. A user is forgotten with the last request, or, if a
//! rate is limited here, at most two minutes after the bucket is full again, as long as requests come in.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::rate::Rate;
use crate::error::Error;

/// Interval between two sweeps for idle users.
const SWEEP: Duration = Duration::from_secs(60);

pub(super) struct Users {
    most: u32,
    known: Mutex<Known>,
}

struct Known {
    users: HashMap<Uuid, Usage>,
    swept: Instant,
}

#[derive(Clone, Copy)]
struct Usage {
    open: u32,
    /// The time at which the bucket is full again.
    full: Instant,
}

impl Users {
    pub(super) fn new(most: u32) -> Self {
        Self { most, known: Mutex::new(Known { users: HashMap::new(), swept: Instant::now() }) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request until the returned slot is dropped.
    pub(super) fn enter(this: &Arc<Self>, user: Uuid) -> Result<Slot, Error> {
        let now = Instant::now();
        let mut known = this.known();
        known.sweep(now);
        let usage = known.users.entry(user).or_insert(Usage { open: 0, full: now });
        if usage.open >= this.most {
            return Err(Error::TooManyStreams(this.most));
        }
        usage.open += 1;
        Ok(Slot { users: this.clone(), user })
    }

    /// Takes a request out of the user's bucket.
    pub(super) fn take(&self, rate: &Rate, user: Uuid) -> Result<(), Duration> {
        let now = Instant::now();
        let mut known = self.known();
        let usage = known.users.entry(user).or_insert(Usage { open: 0, full: now });
        usage.full = rate.take(usage.full, now)?;
        Ok(())
    }

    fn leave(&self, user: Uuid) {
        if let Entry::Occupied(mut usage) = self.known().users.entry(user) {
            usage.get_mut().open -= 1;
            if usage.get().is_idle(Instant::now()) {
                usage.remove();
            }
        }
    }
}

impl Known {
    /// Removes idle users, at most once a minute, and frees their memory.
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = now;
            self.users.retain(|_, usage| !usage.is_idle(now));
            self.users.shrink_to(self.users.len() * 2);
        }
    }
}

impl Usage {
    /// Tells if the state equals that of a user never seen.
    fn is_idle(self, now: Instant) -> bool {
        self.open == 0 && self.full <= now
    }
}

/// A user's request in flight. Dropping it frees the slot.
pub struct Slot {
    users: Arc<Users>,
    user: Uuid,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.users.leave(self.user);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn one_user_fills_no_other_users_slots() {
        let users = Arc::new(Users::new(2));
        let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
        let slots = [Users::enter(&users, one), Users::enter(&users, one)];
        assert!(matches!(Users::enter(&users, one), Err(Error::TooManyStreams(2))));
        let other = Users::enter(&users, two).map(drop);
        assert!(other.is_ok());
        drop(slots);
        assert!(Users::enter(&users, one).is_ok());
    }

    #[test]
    fn a_user_who_left_is_forgotten_at_once() {
        let users = Arc::new(Users::new(2));
        for _ in 0..1000 {
            drop(Users::enter(&users, Uuid::new_v4()));
        }
        assert_eq!(users.known().users.len(), 0);
    }

    #[test]
    fn a_hundred_thousand_users_are_forgotten_when_their_buckets_are_full() {
        let users = Arc::new(Users::new(2));
        let rate = Rate::per_minute(NonZeroU32::new(600).expect("not 0"));
        let busy = Uuid::new_v4();
        let _slot = Users::enter(&users, busy);
        for user in 0..100_000 {
            let user = Uuid::from_u128(user);
            let slot = Users::enter(&users, user);
            users.take(&rate, user).expect("the first");
            drop(slot);
        }
        let mut known = users.known();
        assert!(known.users.len() > 1000, "their buckets are not full yet");
        known.sweep(Instant::now() + SWEEP);
        assert_eq!(known.users.keys().collect::<Vec<_>>(), [&busy]);
        assert!(known.users.capacity() < 100, "{}", known.users.capacity());
    }
}
