//! Database checks: connectivity, encryption, a pooler in between, and the privileges for the server's statements.

use std::time::Duration;

use sqlx::{PgConnection, postgres::PgSslMode};

use super::{LIMIT, Level, Line, fail, models as model_names, ok, usage, warn};
use crate::{
    cli::models::sync,
    config::Config,
    db::{
        self, Settings,
        inspect::{self, Source},
        missing_migrations, offered,
    },
    http_client::ssrf_guard,
};

/// Time limit for all statements together.
const STATEMENTS_LIMIT: Duration = Duration::from_secs(15);
const ROLE: &str = "run docs/role.sql again, as the owner of the tables (on Supabase: as postgres, in the SQL editor)";
/// The remedy beside the line that names the missing migrations.
const MIGRATIONS: &str = "apply the missing migrations first";

/// Connects, and runs all checks if that succeeds; `is_set`: `DATABASE_URL` is not the default.
pub async fn lines(config: &Config, is_set: bool) -> Vec<Line> {
    let settings = &config.database;
    let mut connection = match connect(settings).await {
        Ok(connection) => connection,
        Err(line) if is_set => return vec![line],
        Err(line) => {
            return vec![fail(
                format!("{} (DATABASE_URL is not set: this is its default)", line.what),
                "start the local stack (supabase start), or set DATABASE_URL (dashboard: Connect, Session pooler)",
            )];
        }
    };
    let options = &settings.options;
    let place = format!("{}:{}", options.get_host(), options.get_port());
    let mut lines = vec![ok(format!("database: {place} answers, and lets {} in", options.get_username()))];
    lines.extend(encryption(settings).await);
    let all = async {
        lines.extend(pooler(settings, &mut connection).await?);
        let migrations = migrations(&mut connection).await?;
        let complete = migrations.as_ref().is_none_or(|line| line.level == Level::Ok);
        lines.extend(migrations);
        let source = inspect::source(&mut connection, settings.session_check).await?;
        lines.extend(accounts(source, complete, &mut connection).await?);
        lines.extend(models(complete, &mut connection).await?);
        lines.extend(offered_models(config, &mut connection).await?);
        lines.extend(files(complete, &mut connection).await?);
        lines.extend(hidden(config, source, &mut connection).await?);
        lines.extend(usage::lines(config, &mut connection).await?);
        lines.extend(model_names::lines(config, &mut connection).await);
        Ok::<_, sqlx::Error>(())
    };
    match tokio::time::timeout(STATEMENTS_LIMIT, all).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => lines.push(fail(
            format!("database: the connection broke: {error}"),
            "run check again, and see the database's log",
        )),
        Err(_) => lines.push(fail("database: it does not answer in time", "see which statements it is busy with")),
    }
    lines
}

async fn connect(settings: &Settings) -> Result<PgConnection, Line> {
    let error = match tokio::time::timeout(LIMIT, inspect::connect(settings)).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => error,
        Err(_) => {
            return Err(fail(
                format!("database: {} gives no answer within {} s", place(settings), LIMIT.as_secs()),
                "check DATABASE_URL, and that no firewall blocks the connection",
            ));
        }
    };
    Err(unreachable(settings, &error))
}

fn place(settings: &Settings) -> String {
    format!("{}:{}", settings.options.get_host(), settings.options.get_port())
}

fn unreachable(settings: &Settings, error: &sqlx::Error) -> Line {
    let options = &settings.options;
    let place = place(settings);
    match error {
        sqlx::Error::Database(refusal) => {
            let user = options.get_username();
            let words = refusal.message();
            match refusal.code().as_deref() {
                Some("3D000") => fail(
                    format!("database: {place} has no database called {}", options.get_database().unwrap_or(user)),
                    "fix the name at the end of DATABASE_URL (on Supabase: postgres)",
                ),
                Some("28P01" | "28000") => fail(
                    format!("database: {place} refuses the login of {user}: {words}"),
                    "fix the user and the password in DATABASE_URL; special characters are percent-encoded",
                ),
                _ if words.contains("enant or user not found") => fail(
                    format!("database: the pooler {place} does not know {user}"),
                    "use postgres.<project> as the user, and the host that the dashboard shows (Connect)",
                ),
                _ => fail(format!("database: {place} refuses: {words}"), "check DATABASE_URL"),
            }
        }
        sqlx::Error::Io(problem) => {
            let direct = options.get_host().starts_with("db.") && options.get_host().ends_with(".supabase.co");
            let todo = if direct {
                "a project's direct address is IPv6 only: without IPv6, use the session pooler's (dashboard: Connect)"
            } else if ssrf_guard::is_this_machine(options.get_host()) {
                "start it (local stack: supabase start), or fix DATABASE_URL"
            } else {
                "check that DATABASE_URL is right, the project is not paused and no firewall blocks the connection"
            };
            fail(format!("database: {place} cannot be reached: {problem}"), todo)
        }
        sqlx::Error::Tls(problem) => fail(
            format!("database: no TLS with {place}: {problem}"),
            "fix sslmode (and sslrootcert) in DATABASE_URL, or install a valid certificate on the server",
        ),
        other => fail(format!("database: {place}: {other}"), "check DATABASE_URL"),
    }
}

/// Checks that the connection is encrypted; a local one need not be.
async fn encryption(settings: &Settings) -> Option<Line> {
    let local = ssrf_guard::is_this_machine(settings.options.get_host()) || settings.options.get_socket().is_some();
    if local {
        return None;
    }
    let with_tls = match settings.options.get_ssl_mode() {
        PgSslMode::Disable | PgSslMode::Allow => false,
        PgSslMode::Prefer => {
            tokio::time::timeout(LIMIT, inspect::connect_with_tls(settings)).await.is_ok_and(|it| it.is_ok())
        }
        _ => true,
    };
    Some(if with_tls {
        ok("database: the connection is encrypted")
    } else {
        warn(
            "database: the connection is not encrypted, so the password and every row can be read in transit",
            "set up TLS there and add ?sslmode=require to DATABASE_URL, unless the network is trusted",
        )
    })
}

/// Detects a pooler in transaction mode: two open connections are served by the same Postgres process.
async fn pooler(settings: &Settings, one: &mut PgConnection) -> sqlx::Result<Option<Line>> {
    let Ok(mut two) = connect(settings).await else {
        return Ok(Some(warn(
            "database: no second connection is possible",
            "raise its limit, or lower DATABASE_POOL_SIZE",
        )));
    };
    let mut shared = false;
    for _ in 0..3 {
        shared |= inspect::process(one).await? == inspect::process(&mut two).await?;
    }
    Ok(pooler_line(settings.pooler == db::Pooler::Transaction, shared, settings.options.get_port()))
}

fn pooler_line(set: bool, seen: bool, port: u16) -> Option<Line> {
    match (set, seen) {
        (false, true) => Some(fail(
            format!("pooler: port {port} leads to a pooler in transaction mode, and DATABASE_POOLER says session"),
            "set DATABASE_POOLER=transaction, or use the direct connection or the session pooler (port 5432)",
        )),
        (false, false) if port == 6543 => Some(warn(
            "pooler: port 6543 is the transaction pooler's on Supabase, and DATABASE_POOLER says session",
            "unset DATABASE_POOLER, unless the server on that port is no such pooler",
        )),
        (false, false) => Some(ok("pooler: none in transaction mode")),
        (true, _) => Some(ok("pooler: in transaction mode, as DATABASE_POOLER or the port says")),
    }
}

async fn refusals(connection: &mut PgConnection, statements: &[String]) -> sqlx::Result<Vec<Refusal>> {
    let mut refusals: Vec<Refusal> = Vec::new();
    for statement in statements {
        match inspect::explain(connection, statement).await {
            Ok(()) => {}
            Err(sqlx::Error::Database(error)) => {
                let code = error.code().unwrap_or_default().into_owned();
                let refusal = Refusal { code, words: error.message().to_owned() };
                if !refusals.contains(&refusal) {
                    refusals.push(refusal);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refusals)
}

/// Postgres' refusal of a statement.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: String,
    words: String,
}

impl Refusal {
    fn is_missing(&self) -> bool {
        // 42704: the type of a table's rows.
        matches!(self.code.as_str(), "42P01" | "3F000" | "42703" | "42704")
    }

    /// `complete`: no migration of chatbot-ui is missing.
    fn line(&self, what: &str, complete: bool) -> Line {
        let todo = match self.code.as_str() {
            _ if self.is_missing() && !complete => MIGRATIONS,
            "42P01" | "3F000" => {
                "run chatbot-ui-api migrate (or chatbot-ui's own migrations), or point DATABASE_URL at the database that has the tables"
            }
            "42703" => "apply chatbot-ui's newer migrations (in its folder: supabase db push)",
            "42501" => ROLE,
            _ => "see the database's log",
        };
        fail(format!("{what}: {}", self.words), todo)
    }
}

/// Names the migrations of chatbot-ui that its database lacks.
async fn migrations(connection: &mut PgConnection) -> sqlx::Result<Option<Line>> {
    let missing = missing_migrations::find(connection).await?;
    Ok(missing.map(|missing| match missing.as_slice() {
        [] => ok("tables: chatbot-ui's migrations were applied"),
        missing => fail(
            format!("tables: migrations of chatbot-ui are missing: {}", missing.join(", ")),
            "in chatbot-ui's folder, run supabase db push (local stack: supabase migration up)",
        ),
    }))
}

async fn accounts(source: Source, complete: bool, connection: &mut PgConnection) -> sqlx::Result<Vec<Line>> {
    let missing = inspect::missing_key_columns(connection).await?;
    let all = refusals(connection, &inspect::accounts(source)).await?;
    if all.is_empty() {
        let line = match source {
            Source::Tables => ok("accounts: users, sessions and profiles can be read"),
            Source::Function => {
                ok("accounts: users, sessions and profiles can be read (sessions by the function of docs/role.sql)")
            }
            Source::Token => warn(
                "accounts: profiles can be read; SESSION_CHECK=token, so users who signed out or were banned have access until their token expires",
                "unset it if the role may look sessions up (docs/role.sql)",
            ),
        };
        return Ok(vec![line]);
    }
    let without_auth = refusals(connection, &inspect::accounts(Source::Token)).await?;
    if source != Source::Token && without_auth.is_empty() {
        let words = all.first().map_or("", |it| it.words.as_str());
        let todo = match source {
            Source::Function => {
                format!("the owner of the function chatbot_ui_api.account_state may not read them: {ROLE}")
            }
            Source::Tables | Source::Token => format!("{ROLE}: it makes a function that looks them up"),
        };
        return Ok(vec![fail(format!("accounts: sessions cannot be looked up: {words}"), todo)]);
    }
    let columns_missing = !missing.is_empty() && all.iter().any(|it| it.code == "42703");
    if columns_missing {
        let todo =
            if complete { "apply chatbot-ui's newer migrations (in its folder: supabase db push)" } else { MIGRATIONS };
        return Ok(vec![fail(format!("accounts: public.profiles lacks {}", missing.join(", ")), todo)]);
    }
    Ok(all.iter().map(|it| it.line("accounts", complete)).collect())
}

async fn models(complete: bool, connection: &mut PgConnection) -> sqlx::Result<Vec<Line>> {
    let all = refusals(connection, &inspect::models()).await?;
    if all.is_empty() {
        return Ok(vec![ok("custom models: they can be read")]);
    }
    Ok(all.iter().map(|it| it.line("custom models", complete)).collect())
}

/// Checks that the models of `MODELS` are in every user's picker, or that the server can put them there.
async fn offered_models(config: &Config, connection: &mut PgConnection) -> sqlx::Result<Vec<Line>> {
    let rows = sync::rows(&config.models.offers);
    if rows.is_empty() || !refusals(connection, &inspect::models()).await?.is_empty() {
        return Ok(Vec::new());
    }
    let missing = offered::missing(connection, &rows).await?;
    if missing == 0 {
        return Ok(vec![ok(format!("offered models: all {} of MODELS are in every user's picker", rows.len()))]);
    }
    let may_not = !refusals(connection, &inspect::offered()).await?.is_empty() || offered::is_shut(connection).await?;
    let todo = match may_not {
        true => {
            "this role may not add them: run chatbot-ui-api models sync as the owner of the tables, or docs/role.sql again as that owner"
        }
        false => "run chatbot-ui-api models sync; a server with MODELS does so when it starts and every five minutes",
    };
    Ok(vec![warn(format!("offered models: {missing} rows of MODELS' models are not in users' pickers"), todo)])
}

/// Chat works without these tables, so a missing one is a warning; a table without access is a failure.
async fn files(complete: bool, connection: &mut PgConnection) -> sqlx::Result<Vec<Line>> {
    let Some(schema) = inspect::vector_schema(connection).await? else {
        return Ok(vec![warn(
            "files: the database has no pgvector, so retrieval does not work",
            "create extension vector, then run chatbot-ui-api migrate",
        )]);
    };
    let statements = inspect::files(connection, &schema).await?;
    let all = refusals(connection, &statements).await?;
    if all.iter().any(|it| it.code == "42P01") && all.iter().all(Refusal::is_missing) {
        return Ok(vec![warn(
            "files: there are no tables for them, so retrieval does not work",
            if complete { "run chatbot-ui-api migrate" } else { MIGRATIONS },
        )]);
    }
    let mut lines: Vec<Line> = all.iter().map(|it| it.line("files", complete)).collect();
    let unfit = inspect::unfit_vectors(connection).await?;
    lines.extend(unfit.iter().map(|(column, kind)| {
        fail(
            format!("files: public.file_items.{column} is a {kind}"),
            "it must be vector(384) for local_embedding and vector(1536) for openai_embedding, as chatbot-ui's migrations make it",
        )
    }));
    if lines.is_empty() {
        lines.push(ok("files: they and their passages can be read and written, with pgvector"));
    }
    Ok(lines)
}

async fn hidden(config: &Config, source: Source, connection: &mut PgConnection) -> sqlx::Result<Vec<Line>> {
    let all = inspect::hidden(connection, source).await?;
    if all.is_empty() {
        return Ok(vec![ok("row level security: it hides nothing from this role")]);
    }
    let user = config.database.options.get_username();
    let tables: Vec<String> = all.iter().map(|it| format!("{} ({})", it.name, it.from)).collect();
    Ok(vec![fail(
        format!("row level security: it hides rows from {user}, so users seem not to exist: {}", tables.join(", ")),
        ROLE,
    )])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pooler_that_is_not_told_of_fails() {
        let level = |set, seen, port| pooler_line(set, seen, port).map(|line| line.level);
        assert_eq!(level(false, true, 6432), Some(Level::Fail));
        assert_eq!(level(false, false, 6543), Some(Level::Warn));
        assert_eq!(level(false, false, 5432), Some(Level::Ok));
        assert_eq!(level(true, true, 6543), Some(Level::Ok));
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        for (code, todo) in [("42P01", "migrate"), ("42703", "newer migrations"), ("42501", "docs/role.sql")] {
            let line = Refusal { code: code.to_owned(), words: "no".to_owned() }.line("accounts", true);
            assert!(line.level == Level::Fail && line.to_string().contains(todo), "{line}");
        }
    }
}
