//! `models sync`: puts the models of `MODELS` into every user's picker, and takes others away.

use std::{process::ExitCode, time::Duration};

use sqlx::Connection;

use super::super::{progress, refusal, say};
use crate::{
    config::{self, Config},
    db::{
        Settings, inspect,
        offered::{self, Changes, Run},
    },
    llm::{offers::Offer, routing::ModelSettings},
};

/// Interval at which a server with `MODELS` runs it, for users who have joined meanwhile.
///
/// A trigger on the users' table would be quicker, but its failure would keep people from signing up, and the table is
/// the auth server's.
const INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Limit on one run of a server.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the command.
pub fn run(dry_run: bool, remove: bool) -> ExitCode {
    super::super::run(async move {
        let config = Config::new(&config::variables()?).map_err(|error| error.to_string())?;
        let offers = if remove { Vec::new() } else { config.models.offers.clone() };
        if offers.is_empty() && !remove {
            return Err("there is nothing to offer: set MODELS, for instance to openai:gpt-6.1-sol,anthropic:claude-opus-5-5, or use --remove to take the offered models away".to_owned());
        }
        for offer in &offers {
            say(&format!("{}: {}, {} tokens", offer.hosted, offer.name, offer.context));
        }
        let how = if dry_run { Run::Dry } else { Run::Wait };
        let changes =
            progress::during("Changing the pickers", String::new, once(&config.database, &offers, how)).await?;
        say(&sentence(changes.unwrap_or_default(), dry_run));
        let missing = without_key(&config);
        if !missing.is_empty() && !remove {
            say(&format!("Not set here: {}. The server needs it to answer these models.", missing.join(", ")));
        }
        if remove && !config.models.offers.is_empty() {
            say("MODELS is set, so a server with this setting puts them back: unset it there, too.");
        }
        Ok(())
    })
}

/// Returns the variables of the keys that the offered models need and that are not set.
pub fn without_key(config: &Config) -> Vec<&'static str> {
    let mut variables: Vec<&'static str> = Vec::new();
    for offer in &config.models.offers {
        let key = offer.hosted.vendor.key();
        let variable = crate::credentials::TABLE[key as usize].variable;
        if config.keys.get(key).is_none() && !variables.contains(&variable) {
            variables.push(variable);
        }
    }
    variables
}

async fn once(database: &Settings, offers: &[Offer], how: Run) -> Result<Option<Changes>, String> {
    let options = &database.options;
    let mut connection = inspect::connect(database).await.map_err(|error| {
        format!(
            "the database at {}:{} cannot be reached: {error}. Is DATABASE_URL right? `chatbot-ui-api check` says more",
            options.get_host(),
            options.get_port()
        )
    })?;
    let changes = offered::sync(&mut connection, &rows(offers), how).await.map_err(|error| {
        let code =
            error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default().into_owned();
        let todo = match code.as_str() {
            "42501" => "run this as the owner of the tables, or run docs/role.sql again as that owner",
            "42P01" | "42703" => "run chatbot-ui-api migrate, or chatbot-ui's own migrations",
            "55P03" => "another process is changing the rows: try again in a minute",
            _ => "see the database's log",
        };
        format!("the models cannot be offered: {}: {todo}", refusal(&error))
    })?;
    // Nothing depends on how the connection ends.
    let _closed = connection.close().await;
    Ok(changes)
}

/// Returns the rows of offers.
pub fn rows(offers: &[Offer]) -> Vec<offered::Row> {
    let row = |offer: &Offer| offered::Row {
        base_url: offer.address(),
        model_id: offer.hosted.model.clone(),
        name: offer.name.clone(),
        context_length: i32::try_from(offer.context).unwrap_or(i32::MAX),
    };
    offers.iter().map(row).collect()
}

fn sentence(changes: Changes, dry_run: bool) -> String {
    let Changes { added, updated, removed, shown } = changes;
    let would = if dry_run { "would be " } else { "" };
    let put = match shown {
        0 => String::new(),
        shown => format!(", {shown} {would}put into home workspaces"),
    };
    format!("Rows of models: {added} {would}added, {updated} {would}updated, {removed} {would}removed{put}.")
}

/// Keeps the pickers up to date while a server runs: now, and every few minutes for users who have joined. Several
/// servers take turns.
pub async fn keep_up(database: Settings, models: ModelSettings) {
    let mut last_problem = None;
    loop {
        let run = tokio::time::timeout(LIMIT, once(&database, &models.offers, Run::IfNoOther));
        match run.await.unwrap_or_else(|_| Err(format!("it takes longer than {} s", LIMIT.as_secs()))) {
            Ok(changes) => {
                if let Some(changes) = changes.filter(|changes| *changes != Changes::default()) {
                    tracing::info!("models sync: {}", sentence(changes, false));
                }
                last_problem = None;
            }
            // Said once, not every few minutes.
            Err(problem) if last_problem.as_ref() != Some(&problem) => {
                tracing::warn!("models sync: {problem}");
                last_problem = Some(problem);
            }
            Err(_) => {}
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_says_what_was_changed_or_would_be() {
        let changes = Changes { added: 2, updated: 0, removed: 1, shown: 0 };
        assert_eq!(sentence(changes, false), "Rows of models: 2 added, 0 updated, 1 removed.");
        let dry = sentence(Changes { shown: 3, ..changes }, true);
        assert!(dry.contains("2 would be added") && dry.contains("3 would be put into home workspaces"), "{dry}");
    }

    #[test]
    fn a_provider_without_a_key_is_named() {
        let variables = [("MODELS", "openai:gpt-4o,openai:gpt-6-luna,claude-opus-5-5"), ("ANTHROPIC_API_KEY", "k")];
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(without_key(&Config::new(&variables).expect("settings")), ["OPENAI_API_KEY"]);
    }
}
