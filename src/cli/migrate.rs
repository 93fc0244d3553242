//! `migrate`: creates the tables of `migrations/` in a database that lacks them; with `--usage`, the ledger's schema.

use std::process::ExitCode;

use sqlx::{Connection, PgConnection, migrate::Migrator};

use super::progress;
use crate::{
    config::{self, Config},
    db::{self, missing_migrations, usage},
};

/// The result of [`apply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Tables were created or updated.
    Applied,
    /// The tables were up to date, created by this command earlier.
    UpToDate,
    /// chatbot-ui's own schema exists: nothing was changed.
    LeftAlone,
    /// A part of chatbot-ui's own schema exists, without these migrations: nothing was changed.
    Incomplete(Vec<&'static str>),
}

/// Runs the command; with `usage` for the ledger's schema alone.
pub fn run(usage: bool) -> ExitCode {
    super::run(async {
        let config = Config::new(&config::variables()?).map_err(|error| error.to_string())?;
        if config.database.pooler != db::Pooler::Session {
            return Err("migrate needs a connection of its own: set DATABASE_URL to the direct connection or to the session pooler (port 5432), not to the transaction pooler".to_owned());
        }
        let options = &config.database.options;
        let place = format!("{}:{}", options.get_host(), options.get_port());
        let connecting = progress::during("Connecting", String::new, PgConnection::connect_with(options));
        let mut connection = connecting
            .await
            .map_err(|error| format!("the database at {place} cannot be reached: {error}. Is DATABASE_URL right? `chatbot-ui-api check` says more"))?;
        if usage {
            progress::during("Creating the ledger", String::new, make_ledger(&mut connection)).await?;
            super::say(
                "The ledger's schema chatbot_ui_api is made and up to date: a running server counts from its next look at it, within 15 seconds. Budgets are rows of chatbot_ui_api.budgets.",
            );
            return Ok(());
        }
        let outcome = progress::during("Creating the tables", String::new, apply(&mut connection)).await?;
        super::say(match outcome {
            Outcome::Applied => "The tables are made.",
            Outcome::UpToDate => "The tables are there already, and up to date.",
            Outcome::LeftAlone => {
                "This database has chatbot-ui's own schema: nothing was changed, and nothing needs to be."
            }
            Outcome::Incomplete(missing) => {
                return Err(format!(
                    "this database has a part of chatbot-ui's own schema, so nothing was changed. These migrations are missing: {}. In chatbot-ui's folder, run `supabase db push` (local stack: `supabase migration up`)",
                    missing.join(", ")
                ));
            }
        });
        if !exists(&mut connection, "public.file_items").await? {
            super::say(
                "The tables for files are missing: retrieval needs the extension pgvector. Install it, then run this again.",
            );
        }
        Ok(())
    })
}

/// Applies the missing migrations. The list of applied ones is kept in a schema of its own, out of sight of PostgREST.
///
/// # Errors
/// If the database refuses a statement: a sentence with its reason.
pub async fn apply(connection: &mut PgConnection) -> Result<Outcome, String> {
    let applied = exists(connection, "chatbot_ui_api.migrations").await?;
    if !applied {
        let missing = missing_migrations::find(connection).await.map_err(cannot_list)?;
        match missing {
            Some(missing) if missing.is_empty() => return Ok(Outcome::LeftAlone),
            Some(missing) => return Ok(Outcome::Incomplete(missing)),
            // Another tool applied this project's migrations.
            None if exists(connection, "public.profiles").await? => return Ok(Outcome::UpToDate),
            None => {}
        }
    }
    let mut migrator: Migrator = sqlx::migrate!("./migrations");
    migrator.create_schema("chatbot_ui_api");
    migrator.dangerous_set_table_name("chatbot_ui_api.migrations");
    let before = count(connection, applied).await?;
    migrator.run(&mut *connection).await.map_err(|error| format!("the tables cannot be created: {error}"))?;
    if !exists(connection, "public.file_items").await? {
        // Without pgvector some migrations did nothing. It may be installed since; every migration can be repeated.
        for migration in migrator.iter() {
            sqlx::raw_sql(migration.sql.clone())
                .execute(&mut *connection)
                .await
                .map_err(|error| format!("the tables cannot be created: {error}"))?;
        }
        if exists(connection, "public.file_items").await? {
            return Ok(Outcome::Applied);
        }
    }
    let after = count(connection, true).await?;
    Ok(if before == after { Outcome::UpToDate } else { Outcome::Applied })
}

/// Makes the schema of the ledger, in which nothing is another's, or brings it up to date.
///
/// # Errors
/// If the database refuses a statement: a sentence with its reason.
pub async fn make_ledger(connection: &mut PgConnection) -> Result<(), String> {
    usage::make(connection).await.map_err(|error| {
        format!(
            "the ledger's schema cannot be made: {}. Run this as a role that may create a schema in the database and that made the earlier version (on Supabase: postgres)",
            super::refusal(&error)
        )
    })
}

async fn exists(connection: &mut PgConnection, table: &str) -> Result<bool, String> {
    sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(table)
        .fetch_one(connection)
        .await
        .map_err(cannot_list)
}

#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` takes")]
fn cannot_list(error: sqlx::Error) -> String {
    format!("the database refuses to list its tables: {error}")
}

async fn count(connection: &mut PgConnection, applied: bool) -> Result<i64, String> {
    if !applied {
        return Ok(0);
    }
    sqlx::query_scalar("select count(*) from chatbot_ui_api.migrations")
        .fetch_one(connection)
        .await
        .map_err(|error| format!("the list of migrations cannot be read: {error}"))
}
