//! `migrate`: the tables of `migrations/`, in a database that lacks them.

use std::process::ExitCode;

use sqlx::{Connection, PgConnection, migrate::Migrator};

use super::progress;
use crate::config::{self, Config};

/// What [`apply`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The tables were made, or what was new since the last time.
    Applied,
    /// They were there, made by this command.
    UpToDate,
    /// chatbot-ui's own schema was there: nothing was changed.
    LeftAlone,
}

/// Runs the command.
pub fn run() -> ExitCode {
    super::run(async {
        let config = Config::new(&config::variables()?).map_err(|error| error.to_string())?;
        if config.database.transaction_pooler {
            return Err("migrate needs a connection of its own: set DATABASE_URL to the direct connection or to the session pooler (port 5432), not to the transaction pooler".to_owned());
        }
        let options = &config.database.options;
        let place = format!("{}:{}", options.get_host(), options.get_port());
        let connecting = progress::during("Connecting", String::new, PgConnection::connect_with(options));
        let mut connection = connecting
            .await
            .map_err(|error| format!("the database at {place} cannot be reached: {error}. Is DATABASE_URL right? `chatbot-ui-api check` says more"))?;
        let outcome = progress::during("Making the tables", String::new, apply(&mut connection)).await?;
        super::say(match outcome {
            Outcome::Applied => "The tables are made.",
            Outcome::UpToDate => "The tables are there already, and up to date.",
            Outcome::LeftAlone => {
                "This database has chatbot-ui's own schema: nothing was changed, and nothing needs to be."
            }
        });
        if !exists(&mut connection, "public.file_items").await? {
            super::say(
                "There is no table for files: retrieval needs the extension pgvector. Install it, then run this again.",
            );
        }
        Ok(())
    })
}

/// Applies what is missing. Which migrations were applied is kept in a schema of its own, out of sight of PostgREST.
///
/// # Errors
/// A sentence with what the database refused.
pub async fn apply(connection: &mut PgConnection) -> Result<Outcome, String> {
    let applied = exists(connection, "chatbot_ui_api.migrations").await?;
    if !applied && exists(connection, "public.profiles").await? {
        return Ok(Outcome::LeftAlone);
    }
    let mut migrator: Migrator = sqlx::migrate!("./migrations");
    migrator.create_schema("chatbot_ui_api");
    migrator.dangerous_set_table_name("chatbot_ui_api.migrations");
    let before = count(connection, applied).await?;
    migrator.run(&mut *connection).await.map_err(|error| format!("the tables cannot be made: {error}"))?;
    if !exists(connection, "public.file_items").await? {
        // Without pgvector there was nothing to make. It may have come since; every migration can be run again.
        for migration in migrator.iter() {
            sqlx::raw_sql(migration.sql.clone())
                .execute(&mut *connection)
                .await
                .map_err(|error| format!("the tables cannot be made: {error}"))?;
        }
        if exists(connection, "public.file_items").await? {
            return Ok(Outcome::Applied);
        }
    }
    let after = count(connection, true).await?;
    Ok(if before == after { Outcome::UpToDate } else { Outcome::Applied })
}

async fn exists(connection: &mut PgConnection, table: &str) -> Result<bool, String> {
    sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(table)
        .fetch_one(connection)
        .await
        .map_err(|error| format!("the database refuses to look its tables up: {error}"))
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
