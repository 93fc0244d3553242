//! The models that the operator offers to every user: rows of `public.models` (and of `public.model_workspaces`, which
//! puts them into the picker of a user's home workspace), one for each model and user.
//!
//! The mark of these rows is their address, `server:<provider>`, which no other row has; the description says the same
//! to people. Users own their rows and may write more of that kind, which says nothing: the models that were offered
//! are kept in a table of this server's own, which PostgREST does not show.

use sqlx::{Connection, FromRow, PgConnection};

use super::pool::{Db, Value};
use crate::error::Error;

/// Description of the rows, for people.
pub const DESCRIPTION: &str = "Offered by this server, which has the key for it. Kept by `chatbot-ui-api models sync`.";

/// Key of the lock that lets one process at a time change the rows.
const LOCK: i64 = 0x6368_6174_6d6f_6473;

/// Limits, in Postgres' words: on waiting for locks, and on one statement.
const LIMITS: &str = "set local lock_timeout = '10s'; set local statement_timeout = '60s'";

const MAKE_TABLE: &str = "create schema if not exists chatbot_ui_api; \
     create table if not exists chatbot_ui_api.offered_models \
         (base_url text not null, model_id text not null, primary key (base_url, model_id)); \
     do $$ begin \
         if to_regrole('chatbot_ui_api') is not null then \
             grant usage on schema chatbot_ui_api to chatbot_ui_api; \
             grant select, insert, delete on chatbot_ui_api.offered_models to chatbot_ui_api; \
         end if; \
     end $$";

/// Not by `to_regclass`, which fails where the role may not use the schema.
const HAS_TABLE: &str = "select exists (select from pg_class join pg_namespace on pg_namespace.oid = relnamespace \
     where nspname = 'chatbot_ui_api' and relname = 'offered_models')";

const MAY_READ_TABLE: &str = "select exists (select from pg_class join pg_namespace on pg_namespace.oid = relnamespace \
     where nspname = 'chatbot_ui_api' and relname = 'offered_models' \
       and has_schema_privilege(pg_namespace.oid, 'usage') and has_table_privilege(pg_class.oid, 'select'))";

const IS_OFFERED: &str =
    "select true from chatbot_ui_api.offered_models where base_url = 'server:' || $1 and model_id = $2";

/// The models, as rows of the statements below.
macro_rules! offers {
    ($rest:literal) => {
        concat!(
            "with offers as (select * from unnest($1::text[], $2::text[], $3::text[], $4::integer[]) \
                 offers (base_url, model_id, name, context_length)) ",
            $rest
        )
    };
}

/// Takes away what is not offered any more, and of rows for one model and user all but one.
const TAKE_AWAY: &str = offers!(
    "delete from public.models model where base_url ~ '^server:[a-z]+$' and api_key = '' and ( \
         not exists (select from offers where (offers.base_url, offers.model_id) = (model.base_url, model.model_id)) \
         or exists (select from public.models other \
             where (other.user_id, other.base_url, other.model_id) = (model.user_id, model.base_url, model.model_id) \
               and other.id < model.id))"
);

const UPDATE: &str = offers!(
    "update public.models model \
         set name = offers.name, description = $5, context_length = offers.context_length, api_key = '', sharing = 'public' \
         from offers where (offers.base_url, offers.model_id) = (model.base_url, model.model_id) \
           and (model.name, model.description, model.context_length, model.api_key, model.sharing) \
               is distinct from (offers.name, $5, offers.context_length, '', 'public')"
);

/// By profiles, which every user has, and which may be read where the schema `auth` may not.
const ADD: &str = offers!(
    "insert into public.models (user_id, base_url, model_id, name, context_length, description, api_key, sharing) \
         select profile.user_id, offers.base_url, offers.model_id, offers.name, offers.context_length, $5, '', 'public' \
         from public.profiles profile cross join offers \
         where not exists (select from public.models model \
             where (model.user_id, model.base_url, model.model_id) = (profile.user_id, offers.base_url, offers.model_id))"
);

const HAS_WORKSPACES: &str =
    "select to_regclass('public.model_workspaces') is not null and to_regclass('public.workspaces') is not null";

/// Where the user has put a model into another workspace, it stays there.
const SHOW: &str = "insert into public.model_workspaces (user_id, model_id, workspace_id) \
     select model.user_id, model.id, workspace.id from public.models model \
     join public.workspaces workspace on workspace.user_id = model.user_id and workspace.is_home \
     where model.base_url ~ '^server:[a-z]+$' \
       and not exists (select from public.model_workspaces shown where shown.model_id = model.id)";

const MISSING: &str = offers!(
    "select count(*) from public.profiles profile cross join offers where not exists ( \
         select from public.models model \
         where (model.user_id, model.base_url, model.model_id) = (profile.user_id, offers.base_url, offers.model_id))"
);

/// Policies for everyone are about a user's own rows.
const IS_SHUT: &str = "select row_security_active('public.models') and not exists ( \
     select from pg_policy where polrelid = 'public.models'::regclass and polpermissive and polcmd::text in ('*', 'a') \
       and exists (select from unnest(polroles) role where case role when 0 then false else pg_has_role(role, 'usage') end))";

/// The statements of a run, for [`super::inspect`].
pub(super) const STATEMENTS: [&str; 3] = [TAKE_AWAY, UPDATE, ADD];

/// Tells if row level security keeps this role from adding rows for users.
///
/// # Errors
/// If the database does not answer.
pub async fn is_shut(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar(IS_SHUT).persistent(false).fetch_one(connection).await
}

/// Counts the rows that a run would add.
///
/// # Errors
/// If the database does not answer.
pub async fn missing(connection: &mut PgConnection, rows: &[Row]) -> sqlx::Result<i64> {
    let texts = |column: fn(&Row) -> &String| rows.iter().map(|row| column(row).clone()).collect::<Vec<String>>();
    let query = sqlx::query_scalar(MISSING).persistent(false).bind(texts(|row| &row.base_url));
    let query = query.bind(texts(|row| &row.model_id)).bind(texts(|row| &row.name));
    query.bind(rows.iter().map(|row| row.context_length).collect::<Vec<i32>>()).fetch_one(connection).await
}

/// The number of rows that one run changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows that were added.
    pub added: u64,
    /// Rows that were updated.
    pub updated: u64,
    /// Rows that were taken away.
    pub removed: u64,
    /// Home workspaces into which a model was put.
    pub shown: u64,
}

/// A model to be offered, by its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `server:<provider>`.
    pub base_url: String,
    /// The model's id.
    pub model_id: String,
    /// Its name in the picker.
    pub name: String,
    /// Its window.
    pub context_length: i32,
}

/// The ways to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Waits for another run to end.
    Wait,
    /// Leaves it to another run if there is one.
    IfNoOther,
    /// Waits, and changes nothing.
    Dry,
}

/// Makes the tables hold a row for each model and user, and no other offered models. In one transaction; `None` if
/// another process is at it.
///
/// # Errors
/// If the database refuses a statement.
pub async fn sync(connection: &mut PgConnection, rows: &[Row], run: Run) -> sqlx::Result<Option<Changes>> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(LIMITS).execute(&mut *transaction).await?;
    if run == Run::IfNoOther {
        let query = sqlx::query_scalar("select pg_try_advisory_xact_lock($1)").persistent(false).bind(LOCK);
        if !query.fetch_one(&mut *transaction).await? {
            return Ok(None);
        }
    } else {
        let query = sqlx::query("select pg_advisory_xact_lock($1)").persistent(false).bind(LOCK);
        query.execute(&mut *transaction).await?;
    }
    keep_list(&mut transaction, rows).await?;
    let removed = change(&mut transaction, TAKE_AWAY, rows).await?;
    let updated = change(&mut transaction, UPDATE, rows).await?;
    let added = change(&mut transaction, ADD, rows).await?;
    let has_workspaces: bool =
        sqlx::query_scalar(HAS_WORKSPACES).persistent(false).fetch_one(&mut *transaction).await?;
    let shown = match has_workspaces {
        true => sqlx::query(SHOW).persistent(false).execute(&mut *transaction).await?.rows_affected(),
        false => 0,
    };
    match run {
        Run::Dry => transaction.rollback().await?,
        _ => transaction.commit().await?,
    }
    Ok(Some(Changes { added, updated, removed, shown }))
}

async fn change(connection: &mut PgConnection, sql: &'static str, rows: &[Row]) -> sqlx::Result<u64> {
    let texts = |column: fn(&Row) -> &String| rows.iter().map(|row| column(row).clone()).collect::<Vec<String>>();
    let query = sqlx::query(sql)
        .persistent(false)
        .bind(texts(|row| &row.base_url))
        .bind(texts(|row| &row.model_id))
        .bind(texts(|row| &row.name))
        .bind(rows.iter().map(|row| row.context_length).collect::<Vec<i32>>());
    let query = if sql == TAKE_AWAY { query } else { query.bind(DESCRIPTION) };
    Ok(query.execute(connection).await?.rows_affected())
}

/// Keeps the list of what is offered, for servers that do not have it in their settings.
async fn keep_list(connection: &mut PgConnection, rows: &[Row]) -> sqlx::Result<()> {
    let has_table: bool = sqlx::query_scalar(HAS_TABLE).persistent(false).fetch_one(&mut *connection).await?;
    if !has_table {
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::raw_sql(MAKE_TABLE).execute(&mut *connection).await?;
    }
    sqlx::query("delete from chatbot_ui_api.offered_models").persistent(false).execute(&mut *connection).await?;
    sqlx::query("insert into chatbot_ui_api.offered_models select * from unnest($1::text[], $2::text[])")
        .persistent(false)
        .bind(rows.iter().map(|row| row.base_url.clone()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.model_id.clone()).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    Ok(())
}

#[derive(FromRow)]
struct Answer(bool);

/// Tells if the last run offered a model.
///
/// # Errors
/// If the database does not answer.
pub async fn is_offered(db: &Db, provider: &str, model: &str) -> Result<bool, Error> {
    if [provider, model].iter().any(|text| text.contains('\0')) {
        return Ok(false);
    }
    // Without the table there was no run.
    let exists = db.optional::<Answer>(MAY_READ_TABLE, &[]).await?.is_some_and(|Answer(exists)| exists);
    if !exists {
        return Ok(false);
    }
    let answer = db.optional::<Answer>(IS_OFFERED, &[Value::Text(provider), Value::Text(model)]).await?;
    Ok(answer.is_some())
}
