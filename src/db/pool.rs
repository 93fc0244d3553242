//! The connection pool, and sending statements through it. A connection is held for one statement, never for a stream.

use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bb8::{PooledConnection, RunError};
use futures::{FutureExt, TryStreamExt};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Either, FromRow, PgConnection, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgRow},
    query::QueryAs,
};
use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit},
    time::timeout,
};
use uuid::Uuid;

use super::{
    connection::{Connector, Refusals},
    session_source::KnownStatements,
};
use crate::{
    allowance::Turns,
    error::{Error, ends_connection},
    telemetry::PoolGauges,
};

/// Timeout of waiting for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of a statement in all, including the wait and a new connection.
const STATEMENT_TIMEOUT: Duration = Duration::from_millis(2500);
/// The time that a connection which was idle for [`LONG_IDLE`] has for the answer. It may lead nowhere, without a sign,
/// once a firewall has forgotten it.
const STALE_TIMEOUT: Duration = Duration::from_secs(1);
const LONG_IDLE: Duration = Duration::from_secs(30);

/// The depth of the session check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCheck {
    /// The user exists and is not banned, the session was not signed out.
    Database,
    /// Signature, times and claims only: for a database role without access to the schema `auth`. A signed-out session
    /// ends when its token expires.
    Token,
}

/// The way to Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooler {
    /// Direct, or by a pooler in session mode: the session is this server's own.
    Session,
    /// A pooler in transaction mode: each statement is one message of text, because the next may run in another session.
    Transaction,
    /// A pooler in transaction mode that knows prepared statements (PgBouncer from 1.21 on, Supabase's dedicated one).
    Named,
}

/// Settings of the database connection.
#[derive(Clone)]
pub struct Settings {
    /// `DATABASE_URL`, default the local Supabase stack's, `postgresql://postgres:postgres@127.0.0.1:54322/postgres`.
    pub options: PgConnectOptions,
    /// `DATABASE_POOL_SIZE`, default 10: the most connections held at once.
    pub pool_size: u32,
    /// `DATABASE_MIN_CONNECTIONS`, default 1: idle connections that are kept open, so that the first request after a
    /// pause finds one.
    pub min_connections: u32,
    /// `DATABASE_POOLER`, default by the port: 6543 is Supavisor's for transactions.
    pub pooler: Pooler,
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
            .field("min_connections", &self.min_connections)
            .field("pooler", &self.pooler)
            .field("session_check", &self.session_check)
            .finish_non_exhaustive()
    }
}

/// The time of the last readiness probe, and its result.
type Readiness = (Instant, Result<(), String>);

/// The connection pool.
#[derive(Clone)]
pub struct Db {
    pool: bb8::Pool<Connector>,
    size: u32,
    /// One permit per connection: who has waited longest gets the next one.
    permits: Arc<Semaphore>,
    refusals: Refusals,
    /// The statements of every request, which new connections prepare ahead.
    pub(super) known: KnownStatements,
    pooler: Pooler,
    pub(super) session_check: SessionCheck,
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
    /// Creates a pool and begins to connect, without waiting for it: the server starts while Postgres is still down.
    pub fn new(settings: &Settings) -> Self {
        let (refusals, known) = (Refusals::default(), KnownStatements::default());
        let connector = Connector::new(options(settings), settings.pooler == Pooler::Session, known.clone());
        let pool = bb8::Pool::builder()
            .max_size(settings.pool_size)
            .min_idle(settings.min_connections.min(settings.pool_size))
            .connection_timeout(ACQUIRE_TIMEOUT)
            // Would double the round trips. A connection that died is found by its next statement.
            .test_on_check_out(false)
            .queue_strategy(bb8::QueueStrategy::Lifo)
            .error_sink(Box::new(refusals.clone()))
            .build_unchecked(connector);
        Self {
            pool,
            size: settings.pool_size,
            permits: Arc::new(Semaphore::new(settings.pool_size as usize)),
            refusals,
            known,
            pooler: settings.pooler,
            session_check: settings.session_check,
            waits: Arc::default(),
            long_turns: Arc::new(Turns::new(settings.pool_size as usize / 2)),
            ready: Arc::default(),
        }
    }

    /// Reads the pool's current numbers, for `/metrics`.
    pub fn pool_stats(&self) -> PoolGauges {
        let state = self.pool.state();
        PoolGauges {
            size: state.connections,
            idle: state.idle_connections,
            max: self.size,
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
            if self.pooler != Pooler::Transaction {
                let run = async |session: &mut PgConnection| bound(sql, values).fetch_optional(session).await;
                match self.run(run).await? {
                    Err(error) if is_of_the_session(&error) => {}
                    row => return Ok(row?),
                }
            }
            let text: Arc<str> = in_text(sql, values).into();
            let run = async |session: &mut PgConnection| {
                let row = sqlx::raw_sql(AssertSqlSafe(Arc::clone(&text))).fetch_optional(session).await?;
                row.as_ref().map(T::from_row).transpose()
            };
            Ok(self.run(run).await??)
        };
        within(STATEMENT_TIMEOUT, statement).await
    }

    /// Runs statements in one message, which makes them one transaction, and returns the rows of each.
    ///
    /// They are text, so nothing is prepared that could go stale or be missing behind a pooler. Once more if a new
    /// connection may repair the error: Postgres, too, remembers what is not there any more. They must bear being run
    /// twice, because a connection can die between the commit and its confirmation.
    pub(super) async fn message(&self, user: Uuid, limit: Duration, sql: String) -> Result<Vec<Vec<PgRow>>, Error> {
        let sql = Arc::new(sql);
        let run = async |session: &mut PgConnection| rows_of_each(session, &sql).await;
        let all = async {
            // Only a part of the pool, so that sessions can be checked at all times.
            let _turn = self.long_turns.wait(user).await;
            match self.run(run).await? {
                Err(error) if is_of_the_session(&error) => Ok(self.run(run).await??),
                rows => Ok(rows?),
            }
        };
        within(limit, all).await
    }

    /// Runs `work` on a connection: on another one if that has died. All of the pool may have died while they were
    /// idle, and new ones may too, where somebody ends them.
    async fn run<T>(&self, work: impl AsyncFn(&mut PgConnection) -> sqlx::Result<T>) -> Result<sqlx::Result<T>, Error> {
        let mut tries = self.size.saturating_add(2);
        loop {
            let mut in_use = self.acquire().await?;
            let session = &mut *in_use.session;
            let idle = session.idle();
            session.begin();
            let result = work(&mut session.connection);
            let result = if idle < LONG_IDLE {
                result.await
            } else {
                timeout(STALE_TIMEOUT, result).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
            };
            session.end(result.as_ref().err().is_none_or(leaves_connection_usable));
            tries -= 1;
            if tries == 0 || !result.as_ref().is_err_and(is_lost) {
                return Ok(result);
            }
        }
    }

    async fn acquire(&self) -> Result<InUse<'_>, Error> {
        let waiting = Waiting::new(&self.waits);
        let acquired = timeout(ACQUIRE_TIMEOUT, async {
            let permit = self.permits.acquire().await.ok();
            tokio::select! {
                biased;
                session = self.pool.get() => session.map(|session| InUse { session, _permit: permit }),
                refusal = self.refusals.next() => Err(RunError::User(refusal)),
            }
        });
        let acquired = acquired.await;
        drop(waiting);
        acquired.unwrap_or(Err(RunError::TimedOut)).map_err(|error| {
            let reason = match error {
                RunError::User(refusal) => refusal.to_string(),
                RunError::TimedOut => self.refusals.last(ACQUIRE_TIMEOUT).map_or_else(
                    || format!("no connection of {} was free within {ACQUIRE_TIMEOUT:?}", self.size),
                    |refusal| refusal.to_string(),
                ),
            };
            Error::DatabaseUnavailable(format!("database: {reason}"))
        })
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

/// A connection in use. If it is dropped while a statement runs, it is closed.
struct InUse<'a> {
    session: PooledConnection<'a, Connector>,
    _permit: Option<SemaphorePermit<'a>>,
}

/// SQLSTATEs of a session that a new connection repairs: a cached plan that does not fit the changed table, a
/// transaction left open, a prepared statement that is missing or already there, an internal error.
const SESSION_ERRORS: [&str; 5] = ["0A000", "25", "26", "42P05", "XX"];

fn is_of_the_session(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| SESSION_ERRORS.iter().any(|start| code.starts_with(start)))
}

/// Tells if the connection was gone before the statement: then it can be sent once more.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => ends_connection(&**error),
        _ => false,
    }
}

/// Tells if Postgres has answered the statement with an error and takes the next one: a missing privilege or a
/// cancelled statement must not cost a new connection per request.
fn leaves_connection_usable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => !ends_connection(&**database) && !is_of_the_session(error),
        sqlx::Error::RowNotFound | sqlx::Error::ColumnNotFound(_) | sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
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
    if settings.pooler == Pooler::Transaction { options.statement_cache_capacity(0) } else { options }
}
