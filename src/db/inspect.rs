//! Database checks for `check`: are the server's statements permitted, and would they return rows?
//!
//! Nothing is changed, and no row is read beyond the names of models and how often they occur.

use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, Row, postgres::PgSslMode};

pub use super::session_source::Source;
use super::{
    accounts, files, models, offered,
    pool::{self, SessionCheck, Settings},
};
use crate::credentials;

/// Connects like the server.
///
/// # Errors
/// If the connection fails.
pub async fn connect(settings: &Settings) -> sqlx::Result<PgConnection> {
    PgConnection::connect_with(&pool::options(settings)).await
}

/// Connects with TLS or not at all.
///
/// # Errors
/// If the connection fails.
pub async fn connect_with_tls(settings: &Settings) -> sqlx::Result<PgConnection> {
    PgConnection::connect_with(&pool::options(settings).ssl_mode(PgSslMode::Require)).await
}

/// Returns the id of the Postgres process that serves a connection. Two open connections share one only behind a pooler
/// in transaction mode.
///
/// # Errors
/// If the database does not answer.
pub async fn process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("select pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// Returns the source that the server would read a session's state from.
///
/// # Errors
/// If the database does not answer.
pub async fn source(connection: &mut PgConnection, check: SessionCheck) -> sqlx::Result<Source> {
    if check == SessionCheck::Token {
        return Ok(Source::Token);
    }
    let found = sqlx::raw_sql(accounts::HAS_FUNCTION).fetch_one(connection).await?.try_get(0)?;
    Ok(if found { Source::Function } else { Source::Tables })
}

/// Returns the statements about users, sessions, profiles and names.
pub fn accounts(source: Source) -> Vec<String> {
    [accounts::statement(source)].iter().chain(&accounts::NAMES).map(|sql| (*sql).to_owned()).collect()
}

/// Returns the statement about custom models.
pub fn models() -> Vec<String> {
    vec![models::ALLOWED.clone(), models::ALLOWED_BY_NAME.to_owned()]
}

/// Returns the statements by which models are offered to users.
pub fn offered() -> Vec<String> {
    offered::STATEMENTS.iter().map(|sql| (*sql).to_owned()).collect()
}

/// Returns the statements about files; `schema` is the vector type's.
///
/// # Errors
/// If the database does not answer.
pub async fn files(connection: &mut PgConnection, schema: &str) -> sqlx::Result<Vec<String>> {
    let collections = format!("select {}", files::HAS_COLLECTIONS);
    let collections = sqlx::raw_sql(AssertSqlSafe(collections)).fetch_one(connection).await?.try_get(0)?;
    Ok(files::statements(schema, collections))
}

/// Checks that a statement would be permitted. One that calls a function is executed, for no user: the function's owner
/// may lack a privilege.
///
/// # Errors
/// If Postgres refuses it: a missing table, column or privilege.
pub async fn explain(connection: &mut PgConnection, statement: &str) -> sqlx::Result<()> {
    // No statement has more than nine parameters.
    let filled = (1..=9).fold(statement.to_owned(), |sql, number| sql.replace(&format!("${number}"), "null"));
    let sql = if statement.contains("account_state(") { filled } else { format!("explain {filled}") };
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ())
}

/// Returns the columns of [`credentials::TABLE`] that `public.profiles` lacks: older schemas of chatbot-ui have fewer.
///
/// # Errors
/// If the database does not answer.
pub async fn missing_key_columns(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let names: Vec<String> = credentials::TABLE.iter().map(|row| format!("'{}'", row.column)).collect();
    let sql = format!(
        "select name from unnest(array[{}]) name where not exists ( \
             select from pg_attribute where attrelid = to_regclass('public.profiles') and attname = name and not attisdropped) order by name",
        names.join(", ")
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The models that a table's rows name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedModels {
    /// The table and the column.
    pub place: &'static str,
    /// Each model with the number of its rows, the most frequent first.
    pub models: Vec<(String, i64)>,
}

/// Counts the rows of chatbot-ui's tables by the model that they name: at most
/// some hundred names a table.
///
/// # Errors
/// If a table is missing, or may not be read.
pub async fn named_models(connection: &mut PgConnection) -> sqlx::Result<Vec<NamedModels>> {
    let mut named = Vec::new();
    for place in ["workspaces.default_model", "presets.model", "assistants.model", "chats.model"] {
        let (table, column) = place.split_once('.').unwrap_or_default();
        let sql = format!(
            "select {column} as model, count(*) as rows from public.{table} group by 1 order by 2 desc, 1 limit 200"
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection).await?;
        let models = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<sqlx::Result<_>>()?;
        named.push(NamedModels { place, models });
    }
    Ok(named)
}

/// Returns the vector type's schema, quoted; `None` without pgvector.
///
/// # Errors
/// If the database does not answer.
pub async fn vector_schema(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    let sql = "select quote_ident(nspname) from pg_extension join pg_namespace on pg_namespace.oid = extnamespace \
         where extname = 'vector'";
    let row = sqlx::raw_sql(sql).fetch_optional(connection).await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// Returns the vector columns whose type is not the one that the server stores, with their types.
///
/// # Errors
/// If the database does not answer.
pub async fn unfit_vectors(connection: &mut PgConnection) -> sqlx::Result<Vec<(String, String)>> {
    let sql = "select attname::text as name, format_type(atttypid, atttypmod) as type from pg_attribute \
         where attrelid = to_regclass('public.file_items') and not attisdropped \
           and ((attname = 'local_embedding' and format_type(atttypid, atttypmod) !~ '(^|\\.)vector\\(384\\)$') \
             or (attname = 'openai_embedding' and format_type(atttypid, atttypmod) !~ '(^|\\.)vector\\(1536\\)$'))";
    let rows = sqlx::raw_sql(sql).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// A table whose rows are hidden from this role by row level security.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Hidden {
    /// The table's name with its schema.
    pub name: String,
    /// The commands that are restricted: `reads`, `inserts`, `updates`, `deletes`.
    pub from: String,
}

/// Returns the tables with hidden rows: row level security is on and applies to this role, and no policy gives it all
/// rows. The server reads one user's rows, but does not run as that user.
///
/// # Errors
/// If the database does not answer.
pub async fn hidden(connection: &mut PgConnection, source: Source) -> sqlx::Result<Vec<Hidden>> {
    let auth = match source {
        Source::Tables => "('auth', 'users', 'r'), ('auth', 'sessions', 'r'), ",
        Source::Function | Source::Token => "",
    };
    let sql = format!(
        "select needed.space || '.' || needed.name as name, \
                case needed.command when 'r' then 'reads' when 'a' then 'inserts' when 'w' then 'updates' else 'deletes' end as \"from\" \
         from (values {auth}('public', 'profiles', 'r'), ('public', 'models', 'r'), \
                      ('public', 'files', 'r'), ('public', 'files', 'w'), \
                      ('public', 'file_items', 'r'), ('public', 'file_items', 'a'), ('public', 'file_items', 'd'), \
                      ('public', 'collections', 'r'), ('public', 'collection_files', 'r')) needed (space, name, command) \
         join pg_namespace space on space.nspname = needed.space \
         join pg_class on pg_class.relnamespace = space.oid and pg_class.relname = needed.name \
         where row_security_active(pg_class.oid) and not exists ( \
             select from pg_policy policy \
             where policy.polrelid = pg_class.oid and policy.polpermissive and policy.polcmd::text in ('*', needed.command) \
               and exists (select from unnest(policy.polroles) role where case role when 0 then true else pg_has_role(role, 'usage') end) \
               and pg_get_expr(coalesce(case needed.command when 'a' then policy.polwithcheck end, policy.polqual), policy.polrelid) = 'true') \
         order by name, \"from\""
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await?;
    rows.iter().map(Hidden::from_row).collect()
}
