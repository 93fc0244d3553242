//! Bytes that requests hold in memory: bodies, files, answers of tools and of embeddings' providers.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use uuid::Uuid;

use crate::error::Error;

/// The allowance of one server.
#[derive(Debug)]
pub struct Buffers {
    /// `MAX_BUFFERED_BYTES`.
    max: usize,
    /// A quarter of it.
    max_per_user: usize,
    held: Mutex<Held>,
    refused_for_user: AtomicU64,
    refused_for_server: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    users: HashMap<Uuid, usize>,
}

/// Numbers for `/metrics`.
#[derive(Debug, Clone, Copy, Default)]
pub struct BufferStats {
    /// Bytes held now.
    pub held: usize,
    /// Charges refused because one user held too much.
    pub refused_for_user: u64,
    /// Charges refused because all requests together held too much.
    pub refused_for_server: u64,
}

impl Buffers {
    /// Allows `max` bytes in all, and a quarter of them to one user.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            max_per_user: max / 4,
            held: Mutex::default(),
            refused_for_user: AtomicU64::new(0),
            refused_for_server: AtomicU64::new(0),
        }
    }

    /// Charges `bytes` to a user until the guard is dropped.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the user or all requests together would hold too much.
    pub fn charge(self: &Arc<Self>, user: Uuid, bytes: usize) -> Result<Charge, Error> {
        let mut charge = Charge { buffers: self.clone(), user, bytes: 0 };
        charge.grow(bytes)?;
        Ok(charge)
    }

    /// Reads the current numbers.
    pub fn stats(&self) -> BufferStats {
        BufferStats {
            held: self.held().total,
            refused_for_user: self.refused_for_user.load(Ordering::Relaxed),
            refused_for_server: self.refused_for_server.load(Ordering::Relaxed),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// RAII guard of charged bytes.
#[derive(Debug)]
pub struct Charge {
    buffers: Arc<Buffers>,
    user: Uuid,
    bytes: usize,
}

impl Charge {
    /// Charges `bytes` more.
    ///
    /// # Errors
    /// As [`Buffers::charge`]; then nothing more is charged.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        let buffers = &self.buffers;
        let mut held = buffers.held();
        let of_user = held.users.get(&self.user).copied().unwrap_or(0).saturating_add(bytes);
        let total = held.total.saturating_add(bytes);
        let refused = if of_user > buffers.max_per_user {
            Some(&buffers.refused_for_user)
        } else if total > buffers.max {
            Some(&buffers.refused_for_server)
        } else {
            None
        };
        if let Some(refused) = refused {
            refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::Overloaded);
        }
        held.total = total;
        if bytes > 0 {
            held.users.insert(self.user, of_user);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Charge {
    /// Begins another charge of the same user, which ends on its own.
    pub fn another(&self) -> Self {
        Self { buffers: self.buffers.clone(), user: self.user, bytes: 0 }
    }

    /// Takes over what another charge of the same user holds.
    pub fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut held = self.buffers.held();
        held.total -= self.bytes;
        if let Entry::Occupied(mut of_user) = held.users.entry(self.user) {
            *of_user.get_mut() -= self.bytes;
            if *of_user.get() == 0 {
                of_user.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_holds_a_quarter_and_all_hold_the_whole() {
        let buffers = Arc::new(Buffers::new(400));
        let users: Vec<Uuid> = (0..5).map(Uuid::from_u128).collect();
        let charges: Vec<Charge> =
            users[..4].iter().map(|user| buffers.charge(*user, 100).expect("a quarter")).collect();
        assert!(matches!(buffers.charge(users[0], 1), Err(Error::Overloaded)));
        assert!(matches!(buffers.charge(users[4], 1), Err(Error::Overloaded)));
        let stats = buffers.stats();
        assert_eq!((stats.held, stats.refused_for_user, stats.refused_for_server), (400, 1, 1));
        drop(charges);
        assert_eq!(buffers.stats().held, 0);
        assert!(buffers.held().users.is_empty());
    }

    #[test]
    fn what_is_absorbed_lasts_as_long_as_the_absorber() {
        let buffers = Arc::new(Buffers::new(400));
        let mut charge = buffers.charge(Uuid::nil(), 10).expect("room");
        let mut more = charge.another();
        more.grow(20).expect("room");
        charge.absorb(more);
        assert_eq!(buffers.stats().held, 30);
        drop(charge);
        assert_eq!(buffers.stats().held, 0);
        assert!(buffers.held().users.is_empty());
    }

    #[test]
    fn a_charge_that_is_refused_keeps_what_it_had() {
        let buffers = Arc::new(Buffers::new(400));
        let mut charge = buffers.charge(Uuid::nil(), 60).expect("room");
        assert!(charge.grow(41).is_err());
        charge.grow(40).expect("room");
        assert_eq!(buffers.stats().held, 100);
    }
}
