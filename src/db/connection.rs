//! The pool's connections: how one is opened, and what is known of it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection, Executor, PgConnection, SqlSafeStr, postgres::PgConnectOptions};
use tokio::{sync::watch, time::timeout};

use super::session_source::KnownStatements;

/// Timeout of opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1900);
/// Server-side statement timeout, set on each new session.
const SET_STATEMENT_TIMEOUT: &str = "set statement_timeout = '3s'";

/// Opens connections.
pub struct Connector {
    options: PgConnectOptions,
    /// The session is this server's own, so it can be given a timeout and prepared statements.
    own_session: bool,
    known: KnownStatements,
}

impl Connector {
    /// Opens connections with `options`. Without a pooler in transaction mode (`own_session`), the `known` statements
    /// are prepared.
    pub fn new(options: PgConnectOptions, own_session: bool, known: KnownStatements) -> Self {
        Self { options, own_session, known }
    }

    async fn open(&self) -> sqlx::Result<PgConnection> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        // A pooler has limits of its own, and would set it for other clients.
        if self.own_session {
            connection.execute(sqlx::raw_sql(SET_STATEMENT_TIMEOUT)).await?;
            for sql in self.known.sql() {
                if let Err(error) = connection.prepare(sql.into_sql_str()).await {
                    // The request that runs it reports it.
                    tracing::debug!(%error, "a statement cannot be prepared ahead");
                }
            }
        }
        Ok(connection)
    }

    /// The reason for having no connection, after the address.
    fn unreachable(&self, reason: impl fmt::Display) -> Refusal {
        let reason = match self.options.get_socket() {
            Some(socket) => format!("{}{reason}", socket.display()),
            None => format!("{}:{}{reason}", self.options.get_host(), self.options.get_port()),
        };
        Refusal { reason, is_final: false }
    }
}

impl bb8::ManageConnection for Connector {
    type Connection = Session;
    type Error = Refusal;

    async fn connect(&self) -> Result<Session, Refusal> {
        match timeout(CONNECT_TIMEOUT, self.open()).await {
            Ok(Ok(connection)) => Ok(Session { connection, last_use: Instant::now(), running: false }),
            Ok(Err(sqlx::Error::Database(error))) => Err(Refusal {
                // It is starting, and will be there soon; or the connection was ended as it was opened.
                is_final: !error.code().is_some_and(|code| matches!(&*code, "57P01" | "57P02" | "57P03")),
                reason: sqlx::Error::Database(error).to_string(),
            }),
            Ok(Err(sqlx::Error::Io(error))) => Err(self.unreachable(format_args!(": {error}"))),
            Ok(Err(error)) => Err(self.unreachable(format_args!(": {error}"))),
            Err(_) => Err(self.unreachable(" does not answer")),
        }
    }

    async fn is_valid(&self, _: &mut Session) -> Result<(), Refusal> {
        Ok(())
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.running
    }
}

/// A connection.
pub struct Session {
    /// The connection itself.
    pub connection: PgConnection,
    last_use: Instant,
    /// A statement was sent, and its result not read: the connection cannot be used for another one.
    running: bool,
}

impl Session {
    /// The time since its last use, or since it was opened.
    pub fn idle(&self) -> Duration {
        self.last_use.elapsed()
    }

    /// Notes that a statement begins.
    pub fn begin(&mut self) {
        self.running = true;
    }

    /// Notes that a statement has ended; `usable` tells if the connection can run another one.
    pub fn end(&mut self, usable: bool) {
        self.running = !usable;
        self.last_use = Instant::now();
    }
}

/// The reason why a connection cannot be opened.
#[derive(Debug, Clone)]
pub struct Refusal {
    reason: String,
    /// Trying again would not help.
    is_final: bool,
}

/// The reasons why connections could not be opened.
#[derive(Clone)]
pub struct Refusals(Arc<watch::Sender<Option<(Instant, Refusal)>>>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refusals(..)")
    }
}

impl Refusals {
    /// Waits for a refusal that is final.
    pub async fn next(&self) -> Refusal {
        let mut refusals = self.0.subscribe();
        loop {
            // Fails only without a sender, which `self` holds.
            let _ = refusals.changed().await;
            if let Some((_, refusal)) = &*refusals.borrow_and_update()
                && refusal.is_final
            {
                return refusal.clone();
            }
        }
    }

    /// Returns the last reason, if it is no older than `age`.
    pub fn last(&self, age: Duration) -> Option<Refusal> {
        self.0.borrow().as_ref().filter(|(at, _)| at.elapsed() <= age).map(|(_, refusal)| refusal.clone())
    }
}

impl bb8::ErrorSink<Refusal> for Refusals {
    fn sink(&self, refusal: Refusal) {
        self.0.send_replace(Some((Instant::now(), refusal)));
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<Refusal>> {
        Box::new(self.clone())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
