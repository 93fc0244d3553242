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

/// A statement that reads an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// The statement itself.
    pub sql: &'static str,
    /// It also makes a reservation in the ledger.
    pub reserves: bool,
    /// It also finds a custom model.
    pub has_model: bool,
}

/// The statements of every request, as far as they are known. Clones share them.
#[derive(Clone, Default)]
pub struct KnownStatements(Arc<RwLock<Option<Known>>>);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    source: Source,
    /// Without and with a custom model.
    statements: [Option<Statement>; 2],
}

impl KnownStatements {
    /// Returns the source that worked last.
    pub fn source(&self) -> Option<Source> {
        self.get().map(|known| known.source)
    }

    /// Returns the statements, for new connections to prepare them ahead.
    pub fn sql(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.get().into_iter().flat_map(|known| known.statements).flatten().map(|statement| statement.sql)
    }

    /// Remembers a statement that worked. One that reserves is kept: chats run it.
    pub fn worked(&self, source: Source, statement: Statement) {
        let known = self.get().filter(|known| known.source == source);
        let mut statements = known.map_or([None; 2], |known| known.statements);
        let place = &mut statements[usize::from(statement.has_model)];
        if place.is_none_or(|known| statement.reserves && !known.reserves) {
            *place = Some(statement);
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Known { source, statements });
        }
    }

    fn get(&self) -> Option<Known> {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}
