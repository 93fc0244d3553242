//! Every SQL statement, by table. Each takes the user it acts for, and that
//! the user may is part of the statement.
//!
//! A connection is held for one statement, never for a stream.

pub mod accounts;
pub mod files;
pub mod inspect;
pub mod models;
mod vector;

use std::{sync::Arc, time::Duration};

use sqlx::{
    FromRow, PgConnection, PgPool, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::QueryAs,
};

use tokio::sync::OnceCell;

use uuid::Uuid;

use crate::{auth::token::Claims, config, error::Error};
use vector::VectorType;

/// How long a request waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it waits in all, the connection's making included.
const STATEMENT_TIMEOUT: Duration = Duration::from_millis(2500);

/// The pool, and how statements are sent through it.
#[derive(Clone)]
pub struct Db {
    pool: PgPool,
    transaction_pooler: bool,
    vector: Arc<OnceCell<VectorType>>,
}

impl Db {
    /// A pool that connects when it is needed: the server starts while
    /// Postgres is still down.
    pub fn new(settings: &config::Database) -> Self {
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
            .connect_lazy_with(options(settings));
        Self { pool, transaction_pooler: settings.transaction_pooler, vector: Arc::default() }
    }

    /// Runs one statement that gives at most one row.
    ///
    /// A pooler in transaction mode may hand the next message to another
    /// server connection, so there the statement is unnamed (a named one would
    /// be looked for where it was never prepared) and stands in a transaction
    /// (sqlx prepares and executes in two round trips).
    async fn optional<T>(&self, query: QueryAs<'_, Postgres, T, PgArguments>) -> Result<Option<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let statement = async {
            if self.transaction_pooler {
                let mut transaction = self.pool.begin().await?;
                let row = query.persistent(false).fetch_optional(&mut *transaction).await?;
                transaction.commit().await?;
                Ok(row)
            } else {
                query.fetch_optional(&self.pool).await
            }
        };
        match tokio::time::timeout(STATEMENT_TIMEOUT, statement).await {
            Ok(row) => Ok(row?),
            Err(_) => Err(Error::DatabaseUnavailable(format!("database: no answer within {STATEMENT_TIMEOUT:?}"))),
        }
    }

    /// Several statements that hold together, or not at all. The caller gives
    /// each `.persistent(db.names_statements())`.
    async fn transaction<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let all = async {
            let mut transaction = self.pool.begin().await?;
            let done = work(&mut transaction).await?;
            transaction.commit().await?;
            Ok(done)
        };
        match tokio::time::timeout(limit, all).await {
            Ok(done) => done,
            Err(_) => Err(Error::DatabaseUnavailable(format!("database: not done within {limit:?}"))),
        }
    }

    /// See [`Db::optional`].
    fn names_statements(&self) -> bool {
        !self.transaction_pooler
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`Error::DatabaseUnavailable`], within three seconds.
    pub async fn ready(&self, check: config::SessionCheck) -> Result<(), Error> {
        // The statement of every request, for nobody: what this role may not
        // read, or what is missing, is found out here.
        let nobody = Claims { user: Uuid::nil(), session: Some(Uuid::nil()) };
        let found = accounts::find(self, nobody, check, &Arc::default()).await;
        found.map(|_| ()).map_err(|error| Error::DatabaseUnavailable(error.detail().into_owned()))
    }
}

fn options(settings: &config::Database) -> PgConnectOptions {
    // PgBouncer refuses to start a session with the parameter that sqlx would
    // send; no number here is read as text.
    let options = settings.options.clone().application_name("chatbot-ui-api").extra_float_digits(None);
    if settings.transaction_pooler { options.statement_cache_capacity(0) } else { options }
}
