//! `DATABASE_*` and `SESSION_CHECK`.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::reader::{ConfigError, Reader, wrong};
use crate::db::{self, Pooler, SessionCheck};

impl Reader<'_> {
    pub(super) fn database(&self) -> Result<db::Settings, ConfigError> {
        let url = self.text("DATABASE_URL").unwrap_or("postgresql://postgres:postgres@127.0.0.1:54322/postgres");
        // The parser's own message may quote the password; the parser accepts any scheme, and misreads what follows a
        // slash, `?` or `#` in the password.
        let options = ["postgresql://", "postgres://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme))
            .filter(|rest| {
                let (front, query) = rest.split_once('?').unwrap_or((rest, ""));
                let path = front.split_once('/').map_or("", |(_, path)| path);
                let no_name = |pair: &str| !pair.is_empty() && pair.split('=').next().is_none_or(|it| it.contains('@'));
                !rest.contains('#') && !path.contains('@') && !query.split('&').any(no_name)
            })
            .and_then(|_| PgConnectOptions::from_str(url).ok())
            .ok_or_else(|| {
                wrong("DATABASE_URL", "must look like postgresql://user:password@host:5432/database (a password with special characters is percent-encoded)")
            })?;
        let pooler = match self.text("DATABASE_POOLER") {
            None if options.get_port() == 6543 => Pooler::Transaction,
            None | Some("session") => Pooler::Session,
            Some("transaction") => Pooler::Transaction,
            Some("named") => Pooler::Named,
            Some(_) => return Err(wrong("DATABASE_POOLER", "must be `transaction`, `named` or `session`")),
        };
        // The pool allocates a slot for each connection.
        let pool_size = match self.number("DATABASE_POOL_SIZE", 10_u32)? {
            size @ 1..=10_000 => size,
            _ => return Err(wrong("DATABASE_POOL_SIZE", "must be a whole number from 1 to 10000")),
        };
        let min_connections = self.number("DATABASE_MIN_CONNECTIONS", 1_u32)?;
        let session_check = match self.text("SESSION_CHECK") {
            None | Some("database") => SessionCheck::Database,
            Some("token") => SessionCheck::Token,
            Some(_) => return Err(wrong("SESSION_CHECK", "must be `database` or `token`")),
        };
        Ok(db::Settings { options, pool_size, min_connections, pooler, session_check })
    }
}
