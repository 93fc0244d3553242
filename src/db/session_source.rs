//! The source of a session's state, which is found out by trying.

use std::sync::{Arc, PoisonError, RwLock};

/// The source of a session's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `auth.users` and `auth.sessions`.
    Tables,
    /// The function of docs/role.sql.
    Function,
    /// The token alone.
    Token,
}

/// The statement of every request, as far as it is known. Clones share it.
#[derive(Clone, Default)]
pub struct KnownStatement(Arc<RwLock<Option<Known>>>);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    source: Source,
    sql: &'static str,
    reserves: bool,
}

impl KnownStatement {
    /// Returns the source that worked last.
    pub fn source(&self) -> Option<Source> {
        self.get().map(|known| known.source)
    }

    /// Returns the statement, for new connections to prepare it ahead.
    pub fn sql(&self) -> Option<&'static str> {
        self.get().map(|known| known.sql)
    }

    /// Remembers a statement that worked. One that `reserves`, for the ledger, is kept: chats run it.
    pub fn worked(&self, source: Source, sql: &'static str, reserves: bool) {
        let is_new = self.get().is_none_or(|known| known.source != source || (reserves && !known.reserves));
        if is_new {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Known { source, sql, reserves });
        }
    }

    fn get(&self) -> Option<Known> {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}
