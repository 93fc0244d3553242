//! What `check` asks of a database: whether each statement that the server
//! sends would be let through, and whether rows would come.
//!
//! Nothing is changed, and of rows nothing is read but the names of models and
//! how often they occur: a statement is only explained, for which Postgres
//! looks up every table and column and the role's rights.
//! Everything goes as a simple query, which any pooler takes.

use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, Row, postgres::PgSslMode};

use super::{
    accounts, files, models,
    pool::{self, SessionCheck, Settings},
    vector,
};
use crate::credentials;

/// A connection as the server's own are.
///
/// # Errors
/// Why there is none.
pub async fn connect(settings: &Settings) -> sqlx::Result<PgConnection> {
    PgConnection::connect_with(&pool::options(settings)).await
}

/// The same, by TLS or not at all.
///
/// # Errors
/// Why there is none.
pub async fn connect_with_tls(settings: &Settings) -> sqlx::Result<PgConnection> {
    PgConnection::connect_with(&pool::options(settings).ssl_mode(PgSslMode::Require)).await
}

/// Postgres' process behind a connection. Two connections that are open at
/// once have one only where a pooler in transaction mode stands between.
///
/// # Errors
/// Where the database does not answer.
pub async fn process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("select pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// The statements about users, sessions, profiles and names.
pub fn accounts(check: SessionCheck) -> Vec<String> {
    [accounts::statement(check)].iter().chain(&accounts::NAMES).map(|sql| (*sql).to_owned()).collect()
}

/// The statement about custom models.
pub fn models() -> Vec<String> {
    vec![models::ALLOWED.to_owned()]
}

/// The statements about files; `schema` is where the vector type lives.
///
/// # Errors
/// Where the database does not answer.
pub async fn files(connection: &mut PgConnection, schema: &str) -> sqlx::Result<Vec<String>> {
    let collections = sqlx::raw_sql(files::HAS_COLLECTIONS).fetch_one(connection).await?.try_get(0)?;
    Ok(files::statements(schema, collections))
}

/// Whether a statement would be let through.
///
/// # Errors
/// Postgres' refusal: a table or column that is missing, a right.
pub async fn explain(connection: &mut PgConnection, statement: &str) -> sqlx::Result<()> {
    // No statement has more than nine parameters.
    let filled = (1..=9).fold(statement.to_owned(), |sql, number| sql.replace(&format!("${number}"), "null"));
    sqlx::raw_sql(AssertSqlSafe(format!("explain {filled}"))).execute(connection).await.map(|_| ())
}

/// The columns of [`credentials::TABLE`] that `public.profiles` lacks: an older
/// schema of chatbot-ui's has not all of them.
///
/// # Errors
/// Where the database does not answer.
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

/// The vector type's schema (quoted) and version; `None` without pgvector.
///
/// # Errors
/// Where the database does not answer.
pub async fn vector_schema(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    let row = sqlx::raw_sql(vector::LOOK_UP).fetch_optional(connection).await?;
    row.map(|row| row.try_get("schema")).transpose()
}

/// The columns for passages' vectors that are not what the server stores:
/// each with its type.
///
/// # Errors
/// Where the database does not answer.
pub async fn unfit_vectors(connection: &mut PgConnection) -> sqlx::Result<Vec<(String, String)>> {
    let sql = "select attname::text as name, format_type(atttypid, atttypmod) as type from pg_attribute \
         where attrelid = to_regclass('public.file_items') and not attisdropped \
           and ((attname = 'local_embedding' and format_type(atttypid, atttypmod) !~ '(^|\\.)vector\\(384\\)$') \
             or (attname = 'openai_embedding' and format_type(atttypid, atttypmod) !~ '(^|\\.)vector\\(1536\\)$'))";
    let rows = sqlx::raw_sql(sql).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// A table whose rows row level security keeps from this role.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Hidden {
    /// With its schema.
    pub name: String,
    /// What it keeps from the role: `reads`, `inserts`, `updates`, `deletes`.
    pub from: String,
}

/// The tables whose rows are hidden: row level security is on, holds for this
/// role, and no policy lets it have all rows. The server asks for one user's
/// rows, but not as that user.
///
/// # Errors
/// Where the database does not answer.
pub async fn hidden(connection: &mut PgConnection, check: SessionCheck) -> sqlx::Result<Vec<Hidden>> {
    let auth = match check {
        SessionCheck::Database => "('auth', 'users', 'r'), ('auth', 'sessions', 'r'), ",
        SessionCheck::Token => "",
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
