//! The connection pool, and sending statements through it. A connection is held for one statement, never for a stream.

use std::{
    fmt, mem,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, TryStreamExt};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Either, Executor, FromRow, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgDatabaseError, PgPoolOptions, PgRow, PgSeverity},
    query::QueryAs,
};
use tokio::{
    net::TcpStream,
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use uuid::Uuid;

use super::accounts::Source;
use crate::{allowance::Turns, error::Error, telemetry::PoolGauges};

/// Timeout of waiting for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of a statement in all, including the wait and a new connection.
const STATEMENT_TIMEOUT: Duration = Duration::from_millis(2500);
/// Server-side statement timeout, set on each new session.
const SET_STATEMENT_TIMEOUT: &str = "set statement_timeout = '3s'";
/// Timeout of the TCP probe that tells "pool busy" from "Postgres unreachable".
const DIAGNOSE_TIMEOUT: Duration = Duration::from_millis(300);
/// Timeout of the health check when a connection goes back into the pool.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);

/// The depth of the session check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCheck {
    /// The user exists and is not banned, the session was not signed out.
    Database,
    /// Signature, times and claims only: for a database role without access to the schema `auth`. A signed-out session
    /// ends when its token expires.
    Token,
}

/// Settings of the database connection.
#[derive(Clone)]
pub struct Settings {
    /// `DATABASE_URL`, default the local Supabase stack's, `postgresql://postgres:postgres@127.0.0.1:54322/postgres`.
    pub options: PgConnectOptions,
    /// `DATABASE_POOL_SIZE`, default 10: the most connections held at once.
    pub pool_size: u32,
    /// `DATABASE_POOLER`: `transaction` behind a pooler in transaction mode (then no statement is prepared), else
    /// `session`. Default: by the port; 6543 is Supavisor's for transactions.
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

/// The time of the last readiness probe, and its result.
type Readiness = (Instant, Result<(), String>);

/// The connection pool.
#[derive(Clone)]
pub struct Db {
    pool: PgPool,
    /// One permit per pooled connection. Requests wait here because sqlx's acquire future takes 14 KB: it holds
    /// everything that opening a connection may need.
    permits: Arc<Semaphore>,
    /// Postgres' TCP address; `None` for a Unix socket.
    address: Option<(String, u16)>,
    /// The last reason for having no connection, and when it was determined.
    last_diagnosis: Arc<Mutex<Option<(Instant, String)>>>,
    transaction_pooler: bool,
    pub(super) session_check: SessionCheck,
    /// The source of a session's state, once it was looked up.
    pub(super) source: Arc<RwLock<Option<Source>>>,
    waits: Arc<PoolWaits>,
    /// Turns of long transactions: half of the connections, shared fairly between users.
    long_turns: Arc<Turns>,
    /// The last result of the readiness probe, and its time.
    ready: Arc<Mutex<Option<Readiness>>>,
}

/// Statistics of waiting for a connection.
#[derive(Default)]
struct PoolWaits {
    /// Statements waiting now.
    waiting: AtomicU32,
    /// Statements that have waited, however briefly.
    waited: AtomicU64,
    /// The time they waited in total.
    nanoseconds: AtomicU64,
}

impl Db {
    /// Creates a pool that connects on first use: the server starts while Postgres is still down.
    pub fn new(settings: &Settings) -> Self {
        let transaction_pooler = settings.transaction_pooler;
        let pool = PgPoolOptions::new()
            .max_connections(settings.pool_size)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A connection in steady use is not pinged, which would double the round trips; one that was idle is.
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
                    // A pooler has limits of its own, and would set it for other clients.
                    if !transaction_pooler {
                        connection.execute(sqlx::raw_sql(SET_STATEMENT_TIMEOUT)).await?;
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
            permits: Arc::new(Semaphore::new(settings.pool_size as usize)),
            address,
            last_diagnosis: Arc::default(),
            transaction_pooler,
            session_check: settings.session_check,
            source: Arc::default(),
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

    /// Runs one statement that returns at most one row.
    ///
    /// On a connection of its own it is prepared once. If that has gone stale (the session was reset, a column has
    /// another type), the connection is closed, and the statement is sent once more as text. A pooler in transaction
    /// mode, which may send each message to another server connection, always gets text: one message, prepared nowhere.
    pub(super) async fn optional<T>(&self, sql: &'static str, values: &[Value<'_>]) -> Result<Option<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let statement = async {
            if !self.transaction_pooler {
                let mut connection = self.acquire().await?;
                let row = bound(sql, values).fetch_optional(&mut *connection.connection).await;
                if !row.as_ref().is_err_and(is_of_the_session) {
                    return connection.finish(row);
                }
            }
            let mut connection = self.acquire().await?;
            let text = sqlx::raw_sql(AssertSqlSafe(in_text(sql, values)));
            let row = text.fetch_optional(&mut *connection.connection).await;
            connection.finish(row.and_then(|row| row.as_ref().map(T::from_row).transpose()))
        };
        within(STATEMENT_TIMEOUT, statement).await
    }

    /// Runs statements in one message, which makes them one transaction, and returns the rows of each.
    ///
    /// They are text, so nothing is prepared that could go stale or be missing behind a pooler. Once more if a new
    /// connection may repair the error: Postgres, too, remembers what is not there any more.
    pub(super) async fn message(&self, user: Uuid, limit: Duration, sql: String) -> Result<Vec<Vec<PgRow>>, Error> {
        let sql = Arc::new(sql);
        let all = async {
            // Only a part of the pool, so that sessions can be checked at all times.
            let _turn = self.long_turns.wait(user).await;
            let mut connection = self.acquire().await?;
            let mut rows = rows_of_each(&mut connection.connection, &sql).await;
            if rows.as_ref().is_err_and(is_of_the_session) {
                drop(connection);
                connection = self.acquire().await?;
                rows = rows_of_each(&mut connection.connection, &sql).await;
            }
            connection.finish(rows)
        };
        within(limit, all).await
    }

    async fn acquire(&self) -> Result<InUse, Error> {
        let waiting = Waiting::new(&self.waits);
        let acquired = timeout(ACQUIRE_TIMEOUT, async {
            let permit = self.permits.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            Ok((Box::pin(self.pool.acquire()).await?, permit))
        });
        let acquired = acquired.await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        drop(waiting);
        match acquired {
            Ok((connection, permit)) => Ok(InUse { connection, reusable: false, permit: Some(permit) }),
            Err(sqlx::Error::PoolTimedOut) => {
                Err(Error::DatabaseUnavailable(format!("database: {}", self.why_no_connection().await)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Diagnoses a failed acquire: the pool reports "timed out" also for a database that refuses connections.
    ///
    /// One probe serves all waiting requests: each makes Postgres start a process, and Postgres may be the one that is
    /// busy.
    async fn why_no_connection(&self) -> String {
        let Some((host, port)) = &self.address else {
            return self.busy();
        };
        let mut last = self.last_diagnosis.lock().await;
        if let Some((at, why)) = &*last
            && at.elapsed() < Duration::from_secs(1)
        {
            return why.clone();
        }
        let why = match timeout(DIAGNOSE_TIMEOUT, TcpStream::connect((host.as_str(), *port))).await {
            Ok(Ok(_)) => self.refusal().await.unwrap_or_else(|| self.busy()),
            Ok(Err(error)) => format!("{host}:{port}: {error}"),
            Err(_) => format!("{host}:{port} does not answer"),
        };
        *last = Some((Instant::now(), why.clone()));
        why
    }

    fn busy(&self) -> String {
        let connections = self.pool.options().get_max_connections();
        format!("no connection of {connections} was free within {ACQUIRE_TIMEOUT:?}")
    }

    /// Returns the words with which Postgres, or a pooler, refuses a connection: the pool tries again without a word
    /// until its time is up, for instance while a server is starting.
    async fn refusal(&self) -> Option<String> {
        match timeout(DIAGNOSE_TIMEOUT, PgConnection::connect_with(&self.pool.connect_options())).await {
            Ok(Err(error @ sqlx::Error::Database(_))) => Some(error.to_string()),
            _ => None,
        }
    }

    /// Runs `probe`, which tests the database, at most once a second.
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
}

/// A connection in use. If it is dropped while a statement runs, it is closed: the pool would wait for the statement's
/// result, up to a quarter of an hour if none ever comes. Returning it has a time limit, because the pool pings it
/// without one.
struct InUse {
    connection: PoolConnection<Postgres>,
    reusable: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl InUse {
    /// Ends the use of the connection: it goes back into the pool unless the error shows that it is broken.
    fn finish<T>(mut self, result: sqlx::Result<T>) -> Result<T, Error> {
        self.reusable = result.as_ref().err().is_none_or(leaves_connection_usable);
        Ok(result?)
    }
}

/// SQLSTATEs of a session that a new connection repairs: a cached plan that does not fit the changed table, a
/// transaction left open, a prepared statement that is missing or already there, an internal error.
const SESSION_ERRORS: [&str; 5] = ["0A000", "25", "26", "42P05", "XX"];

fn is_of_the_session(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| SESSION_ERRORS.iter().any(|start| code.starts_with(start)))
}

/// Tells if Postgres has answered the statement with an error and takes the next one: a missing privilege or a
/// cancelled statement must not cost a new connection per request.
fn leaves_connection_usable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => {
            let ended = database
                .try_downcast_ref::<PgDatabaseError>()
                .is_none_or(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic));
            !ended && !is_of_the_session(error)
        }
        sqlx::Error::RowNotFound | sqlx::Error::ColumnNotFound(_) | sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if self.reusable {
            let back = timeout(RETURN_TIMEOUT, self.connection.return_to_pool());
            // The permit is released once the connection is available again.
            let permit = self.permit.take();
            tokio::spawn(back.map(|_| drop(permit)));
        } else {
            self.connection.close_on_drop();
        }
    }
}

/// A value for a statement's `$1`, `$2` and so on.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Id(Uuid),
    /// NULL, of the ids' type.
    NoId,
    Text(&'a str),
}

fn bound<'q, T>(sql: &'static str, values: &[Value<'q>]) -> QueryAs<'q, Postgres, T, PgArguments>
where
    T: for<'r> FromRow<'r, PgRow>,
{
    values.iter().fold(sqlx::query_as(sql), |query, value| match value {
        Value::Id(id) => query.bind(*id),
        Value::NoId => query.bind(None::<Uuid>),
        Value::Text(text) => query.bind(*text),
    })
}

/// The statement with its values. Text of users is in hexadecimal, so it cannot end a literal.
fn in_text(sql: &str, values: &[Value<'_>]) -> String {
    (1..).zip(values).fold(sql.to_owned(), |sql, (number, value)| {
        let value = match value {
            Value::Id(id) => format!("'{id}'::uuid"),
            Value::NoId => "null::uuid".to_owned(),
            Value::Text(text) => {
                let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
                format!("convert_from(decode('{digits}', 'hex'), 'UTF8')")
            }
        };
        sql.replace(&format!("${number}"), &value)
    })
}

async fn rows_of_each(connection: &mut PgConnection, sql: &Arc<String>) -> sqlx::Result<Vec<Vec<PgRow>>> {
    let mut steps = sqlx::raw_sql(AssertSqlSafe(Arc::clone(sql))).fetch_many(connection);
    let (mut all, mut rows) = (Vec::new(), Vec::new());
    while let Some(step) = steps.try_next().await? {
        match step {
            Either::Left(_) => all.push(mem::take(&mut rows)),
            Either::Right(row) => rows.push(row),
        }
    }
    Ok(all)
}

fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> impl Future<Output = Result<T, Error>> {
    timeout(limit, work).map(move |done| {
        done.unwrap_or_else(|_| Err(Error::DatabaseUnavailable(format!("database: not done within {limit:?}"))))
    })
}

/// A request that waits for a connection; counted also if it gives up.
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
    // PgBouncer rejects the startup parameter that sqlx would send, and Postgres' default has all digits.
    let options = settings.options.clone().application_name("chatbot-ui-api").extra_float_digits(None);
    // Statements hold users' text.
    let options = options.disable_statement_logging();
    if settings.transaction_pooler { options.statement_cache_capacity(0) } else { options }
}
