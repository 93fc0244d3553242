//! The schema `chatbot_ui_api`: the ledger and the budgets, by the functions that `migrations/usage.sql` makes.
//!
//! Arguments are JSON and arrays as text, which any pooler and protocol takes.

use sqlx::PgConnection;
use uuid::Uuid;

use super::pool::{Db, Value};
use crate::error::Error;

/// The schema, for `migrate --usage`.
// Run again, it would say of everything that it is there.
const SCHEMA: &str = concat!("set local client_min_messages = warning;\n", include_str!("../../migrations/usage.sql"));

const STATE: &str = "select exists (select from pg_class where relnamespace = space.oid and relname = 'usage') as made, \
        has_schema_privilege(space.oid, 'usage') and exists ( \
            select from pg_proc where pronamespace = space.oid and proname = 'report' \
                and has_function_privilege(pg_proc.oid, 'execute')) as usable \
     from pg_namespace space where nspname = 'chatbot_ui_api'";
const RESERVE: &str = "select chatbot_ui_api.reserve($1, $2::jsonb)::text";
const SETTLE: &str = "select chatbot_ui_api.settle($1::jsonb, $2::uuid[])";
const RENEW: &str = "select chatbot_ui_api.renew($1::uuid[])";
const SWEEP: &str = "select chatbot_ui_api.sweep()";
const MODELS: &str = "select coalesce(jsonb_agg(jsonb_build_array(provider, model)), '[]')::text \
     from chatbot_ui_api.models_since((now() at time zone 'UTC')::date - 40)";
const SET_PRICES: &str = "select chatbot_ui_api.set_prices($1::jsonb)";
const ROLL_UP: &str = "select chatbot_ui_api.roll_up($1::int, $2::int)";
const REPORT: &str = "select chatbot_ui_api.report($1)::text";

/// The state of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// It is not there.
    Missing,
    /// It is there, but this role may not use it.
    Forbidden,
    /// It is there.
    Usable,
}

impl Schema {
    fn new(row: Option<(bool, bool)>) -> Self {
        match row {
            Some((true, true)) => Self::Usable,
            Some((true, false)) => Self::Forbidden,
            _ => Self::Missing,
        }
    }
}

/// Makes the schema, or brings it up to date, in one transaction.
///
/// # Errors
/// If the database refuses a statement.
pub async fn make(connection: &mut PgConnection) -> sqlx::Result<()> {
    // Several statements in one message are one transaction.
    sqlx::raw_sql(SCHEMA).execute(connection).await.map(|_| ())
}

/// Looks for the schema, on a connection of its own.
///
/// # Errors
/// If the database does not answer.
pub async fn look_up(connection: &mut PgConnection) -> sqlx::Result<Schema> {
    let row = sqlx::query_as(STATE).persistent(false).fetch_optional(connection).await?;
    Ok(Schema::new(row))
}

/// Looks for the schema.
///
/// # Errors
/// If the database does not answer.
pub async fn schema(db: &Db) -> Result<Schema, Error> {
    Ok(Schema::new(db.optional(STATE, &[]).await?))
}

/// Reserves what a request may take. `request` is an object: `id`, `route`, `provider`, `models` (as named, as to be
/// called), `own_key`, `input` and `output` (the most tokens), `likely_input`, `input_usd` and `output_usd` (for one
/// token). Returns `None` if it is granted, `{"limit"}` or `{"refused"}`.
///
/// # Errors
/// If the database does not answer.
pub async fn reserve(db: &Db, user: Uuid, request: &str) -> Result<Option<String>, Error> {
    let found = db.optional::<(Option<String>,)>(RESERVE, &[Value::Id(user), Value::Text(request)]).await?;
    Ok(found.and_then(|(answer,)| answer))
}

/// Writes rows of the ledger, in place of what was reserved for them, and frees what was `released`.
///
/// # Errors
/// If the database does not answer, or refuses a row.
pub async fn settle(db: &Db, rows: &str, released: &[Uuid]) -> Result<(), Error> {
    let released = array(released);
    db.optional::<(i64,)>(SETTLE, &[Value::Text(rows), Value::Text(&released)]).await.map(|_| ())
}

/// Extends the leases of these requests.
///
/// # Errors
/// If the database does not answer.
pub async fn renew(db: &Db, ids: &[Uuid]) -> Result<(), Error> {
    db.optional::<(i64,)>(RENEW, &[Value::Text(&array(ids))]).await.map(|_| ())
}

/// Ends the requests whose lease has run out, and returns their number.
///
/// # Errors
/// If the database does not answer.
pub async fn sweep(db: &Db) -> Result<i64, Error> {
    Ok(db.optional::<(i64,)>(SWEEP, &[]).await?.map_or(0, |(swept,)| swept))
}

/// Returns the models of the last forty days, each with its provider, as JSON.
///
/// # Errors
/// If the database does not answer.
pub async fn models(db: &Db) -> Result<String, Error> {
    let found = db.optional::<(String,)>(MODELS, &[]).await?;
    Ok(found.map(|(models,)| models).unwrap_or_default())
}

/// Writes prices: a list of `provider`, `model`, `input`, `cached` and `output`.
///
/// # Errors
/// If the database does not answer.
pub async fn set_prices(db: &Db, prices: &str) -> Result<(), Error> {
    db.optional::<(i64,)>(SET_PRICES, &[Value::Text(prices)]).await.map(|_| ())
}

/// Replaces at most `most` rows that are older than `keep_days` by daily ones, and returns their number.
///
/// # Errors
/// If the database does not answer.
pub async fn roll_up(db: &Db, keep_days: i32, most: i32) -> Result<i64, Error> {
    let (keep_days, most) = (keep_days.to_string(), most.to_string());
    Ok(db.optional::<(i64,)>(ROLL_UP, &[Value::Text(&keep_days), Value::Text(&most)]).await?.map_or(0, |(rows,)| rows))
}

/// Returns a user's own figures as JSON.
///
/// # Errors
/// If the database does not answer.
pub async fn report(db: &Db, user: Uuid) -> Result<String, Error> {
    let found = db.optional::<(String,)>(REPORT, &[Value::Id(user)]).await?;
    found.map(|(report,)| report).ok_or_else(|| Error::Internal("the ledger gives no report".to_owned()))
}

/// An array in Postgres' text format.
fn array(ids: &[Uuid]) -> String {
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

/// Returns the statement for an export, as text, by day, by model or (neither) by user; `with_names`: users by their
/// addresses.
pub fn export(by_day: bool, by_model: bool, with_names: bool, user: Option<Uuid>) -> String {
    let (group, order) = match (by_day, by_model) {
        (true, _) => ("used.day::text", "1"),
        (_, true) => ("used.provider, used.served_model", "sum(used.input_tokens + used.output_tokens) desc, 1, 2"),
        _ if with_names => {
            ("coalesce(account.email, used.user_id::text)", "sum(used.input_tokens + used.output_tokens) desc, 1")
        }
        _ => ("used.user_id::text", "sum(used.input_tokens + used.output_tokens) desc, 1"),
    };
    let join = if with_names { "left join auth.users account on account.id = used.user_id" } else { "" };
    let only = user.map(|user| format!("where used.user_id = '{user}'")).unwrap_or_default();
    format!(
        "select {group}, sum(used.requests)::text, sum(used.input_tokens)::text, sum(used.cached_tokens)::text, \
                sum(used.output_tokens)::text, sum(used.reasoning_tokens)::text, \
                sum(used.input_tokens + used.output_tokens)::text, trim_scale(round(sum(used.usd), 6))::text \
         from chatbot_ui_api.usage_by_day used {join} {only} group by {group} order by {order}"
    )
}

/// Tells if this role may read users' addresses.
pub async fn can_read_addresses(connection: &mut PgConnection) -> bool {
    sqlx::raw_sql("select email from auth.users limit 0").execute(connection).await.is_ok()
}

/// Finds a user by the e-mail address.
///
/// # Errors
/// If this role may not read them.
pub async fn user_with_address(connection: &mut PgConnection, address: &str) -> sqlx::Result<Option<Uuid>> {
    let sql = "select id from auth.users where lower(email) = lower($1) and deleted_at is null";
    sqlx::query_scalar(sql).bind(address).persistent(false).fetch_optional(connection).await
}

/// The ledger's content, for `check`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Summary {
    /// The number of budgets.
    pub budgets: i64,
    /// The number of budgets in dollars.
    pub in_usd: i64,
    /// The models of the last forty days, each with its provider, as JSON.
    pub models: String,
}

/// Reads the ledger's content.
///
/// # Errors
/// If the database does not answer.
pub async fn summary(connection: &mut PgConnection) -> sqlx::Result<Summary> {
    let sql = format!(
        "select count(*) as budgets, count(*) filter (where unit = 'usd') as in_usd, ({MODELS}) as models \
         from chatbot_ui_api.budgets"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).persistent(false).fetch_one(connection).await
}
