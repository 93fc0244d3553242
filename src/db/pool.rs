//! The connection pool, and how statements are sent through it. A connection is
//! held for one statement, never for a stream.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::FutureExt;
use sqlx::{
    Connection, Executor, FromRow, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::QueryAs,
};
use tokio::{
    net::TcpStream,
    sync::{Mutex, OnceCell, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use uuid::Uuid;

use super::vector::VectorType;
use crate::{allowance::Turns, error::Error, telemetry::PoolGauges};

/// How long a request waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it waits in all, the connection's making included.
const STATEMENT_TIMEOUT: Duration = Duration::from_millis(2500);
/// When Postgres gives up a statement that nobody waits for any more.
const ABANDONED: &str = "set statement_timeout = '3s'";
/// For finding out why there was no connection.
const LOOK: Duration = Duration::from_millis(300);
/// For a connection to show that it lives when it goes back into the pool.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);

/// How far a session is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCheck {
    /// The user exists and is not banned, the session was not signed out.
    Database,
    /// Signature, times and claims only: for a database role that may not
    /// read the schema `auth`. Signing out works when the token runs out.
    Token,
}

/// How to reach Postgres.
#[derive(Clone)]
pub struct Settings {
    /// `DATABASE_URL`, default the local Supabase stack's,
    /// `postgresql://postgres:postgres@127.0.0.1:54322/postgres`.
    pub options: PgConnectOptions,
    /// `DATABASE_POOL_SIZE`, default 10: the most connections held at once.
    pub pool_size: u32,
    /// `DATABASE_POOLER`: `transaction` behind a pooler in transaction mode
    /// (then statements are unnamed and each stands in a transaction), else
    /// `session`. Default: by the port, 6543 being Supavisor's for
    /// transactions.
    pub transaction_pooler: bool,
    /// `SESSION_CHECK`, default `database`.
    pub session_check: SessionCheck,
}

impl fmt::Debug for Settings {
    // By hand, because the options hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("host", &self.options.get_host())
            .field("port", &self.options.get_port())
            .field("database", &self.options.get_database())
            .field("username", &self.options.get_username())
            .field("pool_size", &self.pool_size)
            .field("transaction_pooler", &self.transaction_pooler)
            .field("session_check", &self.session_check)
            .finish_non_exhaustive()
    }
}

/// The pool, and how statements are sent through it.
#[derive(Clone)]
pub struct Db {
    pool: PgPool,
    /// One for each connection of the pool. Who waits, waits for one of these:
    /// the pool's own way to wait is a future of 14 KB, as it holds all that
    /// making a connection may need.
    turns: Arc<Semaphore>,
    /// Where Postgres listens; `None` for a socket in the file system.
    address: Option<(String, u16)>,
    /// Why there was no connection, and when that was looked for.
    found: Arc<Mutex<Option<(Instant, String)>>>,
    transaction_pooler: bool,
    pub(super) session_check: SessionCheck,
    pub(super) vector: Arc<OnceCell<VectorType>>,
    waits: Arc<PoolWaits>,
    /// For what may take long: half of the connections, fairly between users.
    long_turns: Arc<Turns>,
    /// Whether the database answers, and since when that is known.
    ready: Arc<Mutex<Option<(Instant, Result<(), String>)>>>,
}

/// How statements wait for a connection of the pool.
#[derive(Default)]
struct PoolWaits {
    /// Statements that wait now.
    waiting: AtomicU32,
    /// Statements that have waited, if only for no time.
    waited: AtomicU64,
    /// Time that these waited in all.
    nanoseconds: AtomicU64,
}

impl Db {
    /// A pool that connects when it is needed: the server starts while
    /// Postgres is still down.
    pub fn new(settings: &Settings) -> Self {
        let transaction_pooler = settings.transaction_pooler;
        let pool = PgPoolOptions::new()
            .max_connections(settings.pool_size)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A connection in steady use is not asked whether it lives, which
            // would double the round trips; one that lay idle is.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > Duration::from_secs(1) {
                        sqlx::Connection::ping(connection).await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    // A pooler limits what runs, and would set it for others.
                    if !transaction_pooler {
                        connection.execute(sqlx::raw_sql(ABANDONED)).await?;
                    }
                    Ok(())
                })
            })
            .connect_lazy_with(options(settings));
        let address = match settings.options.get_socket() {
            Some(_) => None,
            None => Some((settings.options.get_host().to_owned(), settings.options.get_port())),
        };
        Self {
            pool,
            turns: Arc::new(Semaphore::new(settings.pool_size as usize)),
            address,
            found: Arc::default(),
            transaction_pooler,
            session_check: settings.session_check,
            vector: Arc::default(),
            waits: Arc::default(),
            long_turns: Arc::new(Turns::new(settings.pool_size as usize / 2)),
            ready: Arc::default(),
        }
    }

    /// Reads the pool's current numbers, for `/metrics`.
    pub fn pool_stats(&self) -> PoolGauges {
        PoolGauges {
            size: self.pool.size(),
            idle: u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX),
            max: self.pool.options().get_max_connections(),
            waiting: self.waits.waiting.load(Ordering::Relaxed),
            waited: self.waits.waited.load(Ordering::Relaxed),
            wait: Duration::from_nanos(self.waits.nanoseconds.load(Ordering::Relaxed)),
        }
    }

    /// Runs one statement that gives at most one row.
    ///
    /// A pooler in transaction mode may hand the next message to another
    /// server connection, so there the statement is unnamed (a named one would
    /// be looked for where it was never prepared) and stands in a transaction
    /// (sqlx prepares and executes in two round trips).
    pub(super) async fn optional<T>(&self, query: QueryAs<'_, Postgres, T, PgArguments>) -> Result<Option<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let statement = async {
            let mut connection = self.acquire().await?;
            let row = if self.transaction_pooler {
                let mut transaction = connection.connection.begin().await?;
                let row = query.persistent(false).fetch_optional(&mut *transaction).await?;
                transaction.commit().await?;
                row
            } else {
                query.fetch_optional(&mut *connection.connection).await?
            };
            connection.done = true;
            Ok(row)
        };
        within(STATEMENT_TIMEOUT, statement).await
    }

    /// Several statements that hold together, or not at all. The caller gives
    /// each `.persistent(db.names_statements())`.
    pub(super) async fn transaction<T>(
        &self,
        user: Uuid,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let all = async {
            // A part of the pool, so that sessions are checked at all times.
            let _turn = self.long_turns.wait(user).await;
            let mut connection = self.acquire().await?;
            if self.transaction_pooler {
                self.learn_vector_type(&mut connection.connection).await?;
            }
            let mut transaction = connection.connection.begin().await?;
            let local = format!("set local statement_timeout = {}", limit.as_millis());
            transaction.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(local))).await?;
            let done = work(&mut transaction).await?;
            transaction.commit().await?;
            connection.done = true;
            Ok(done)
        };
        within(limit, all).await
    }

    async fn acquire(&self) -> Result<InUse, Error> {
        let waiting = Waiting::new(&self.waits);
        let acquired = timeout(ACQUIRE_TIMEOUT, async {
            let turn = self.turns.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            Ok((Box::pin(self.pool.acquire()).await?, turn))
        });
        let acquired = acquired.await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        drop(waiting);
        match acquired {
            Ok((connection, turn)) => Ok(InUse { connection, done: false, turn: Some(turn) }),
            Err(sqlx::Error::PoolTimedOut) => {
                Err(Error::DatabaseUnavailable(format!("database: {}", self.why_no_connection().await)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the pool does not tell: it says "timed out" of a database that
    /// refuses connections, too.
    ///
    /// One looks for all who wait: each look makes Postgres start a process,
    /// and it may be the one that is busy.
    async fn why_no_connection(&self) -> String {
        let busy = || {
            format!(
                "no connection of {} was free within {ACQUIRE_TIMEOUT:?}",
                self.pool.options().get_max_connections()
            )
        };
        let Some((host, port)) = &self.address else {
            return busy();
        };
        let mut found = self.found.lock().await;
        if let Some((at, why)) = &*found
            && at.elapsed() < Duration::from_secs(1)
        {
            return why.clone();
        }
        let why = match timeout(LOOK, TcpStream::connect((host.as_str(), *port))).await {
            Ok(Ok(_)) => busy(),
            Ok(Err(error)) => format!("{host}:{port}: {error}"),
            Err(_) => format!("{host}:{port} does not answer"),
        };
        *found = Some((Instant::now(), why.clone()));
        why
    }

    /// Asks `probe` whether the database answers, at most once a second.
    pub(super) async fn is_ready(&self, probe: impl Future<Output = Result<(), String>>) -> Result<(), String> {
        let mut ready = self.ready.lock().await;
        if let Some((at, answer)) = &*ready
            && at.elapsed() < Duration::from_secs(1)
        {
            return answer.clone();
        }
        let answer = probe.await;
        *ready = Some((Instant::now(), answer.clone()));
        answer
    }

    /// See [`Db::optional`].
    pub(super) fn names_statements(&self) -> bool {
        !self.transaction_pooler
    }
}

/// A connection on which something is under way. Dropped then, it is closed:
/// the pool would wait for an answer that nobody wants, and for one that never
/// comes it would wait for a quarter of an hour. So it would for one that went
/// dead on its way back: the pool asks it whether it lives, without a limit.
struct InUse {
    connection: PoolConnection<Postgres>,
    done: bool,
    turn: Option<OwnedSemaphorePermit>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        if self.done {
            let back = timeout(RETURN_TIMEOUT, self.connection.return_to_pool());
            // The next one's turn is when there is a connection for it.
            let turn = self.turn.take();
            tokio::spawn(back.map(|_| drop(turn)));
        } else {
            self.connection.close_on_drop();
        }
    }
}

fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> impl Future<Output = Result<T, Error>> {
    timeout(limit, work).map(move |done| {
        done.unwrap_or_else(|_| Err(Error::DatabaseUnavailable(format!("database: not done within {limit:?}"))))
    })
}

/// One who waits for a connection, also where they give up.
struct Waiting<'a>(&'a PoolWaits, Instant);

impl<'a> Waiting<'a> {
    fn new(waits: &'a PoolWaits) -> Self {
        waits.waiting.fetch_add(1, Ordering::Relaxed);
        Self(waits, Instant::now())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Self(waits, since) = self;
        let waited = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        waits.waiting.fetch_sub(1, Ordering::Relaxed);
        waits.waited.fetch_add(1, Ordering::Relaxed);
        waits.nanoseconds.fetch_add(waited, Ordering::Relaxed);
    }
}

pub(super) fn options(settings: &Settings) -> PgConnectOptions {
    // PgBouncer refuses to start a session with the parameter that sqlx would
    // send; no number here is read as text.
    let options = settings.options.clone().application_name("chatbot-ui-api").extra_float_digits(None);
    if settings.transaction_pooler { options.statement_cache_capacity(0) } else { options }
}
