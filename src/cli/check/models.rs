//! Retired models that chatbot-ui's tables name.

use sqlx::PgConnection;

use super::{LIMIT, Line, ok, warn};
use crate::{
    config::Config,
    db::inspect::{self, NamedModels},
    llm::catalogue::{Date, Model, catalogue},
};

/// The most models that one line names.
const MAX_NAMED: usize = 10;

/// Counts the rows of chatbot-ui's tables that name a retired model.
pub async fn lines(config: &Config, connection: &mut PgConnection) -> Vec<Line> {
    let counted = tokio::time::timeout(LIMIT, inspect::named_models(connection)).await;
    match counted {
        Ok(Ok(named)) => named_lines(&named, config.models.substitute, Date::today()),
        Ok(Err(sqlx::Error::Database(error))) if error.code().as_deref() == Some("42501") => vec![ok(
            "models: this role may not read which models are chosen, and need not; run check as the owner of the tables to see the retired ones",
        )],
        // Older schemas lack a table; the tables that are needed are looked at
        // elsewhere.
        Ok(Err(_)) => Vec::new(),
        Err(_) => {
            vec![ok(format!("models: counting the retired ones takes more than {} s, so it was left", LIMIT.as_secs()))]
        }
    }
}

fn named_lines(named: &[NamedModels], substitute: bool, today: Date) -> Vec<Line> {
    let mut lines = Vec::new();
    for table in named {
        let retired: Vec<(&str, i64, &Model)> = table
            .models
            .iter()
            .filter_map(|(name, count)| Some((name.as_str(), *count, retired(name, today)?)))
            .collect();
        if retired.is_empty() {
            continue;
        }
        let mut names: Vec<String> = retired
            .iter()
            .take(MAX_NAMED)
            .map(|(name, count, model)| {
                let successor = model.successors.first().filter(|_| substitute);
                successor.map_or_else(
                    || format!("{name} ({count})"),
                    |successor| format!("{name} ({count}; {successor} is called)"),
                )
            })
            .collect();
        if retired.len() > MAX_NAMED {
            names.push(format!("{} more", retired.len() - MAX_NAMED));
        }
        let rows: i64 = retired.iter().map(|(_, count, _)| count).sum();
        let todo = if substitute {
            "nothing, or choose others there or with MODEL_ALIASES; `chatbot-ui-api models` lists them all"
        } else {
            "unset MODEL_ALIASES=off, or choose others there: the provider refuses these"
        };
        lines.push(warn(
            match (rows, names.join(", ")) {
                (1, names) => format!("models: a row of {} names a model that is retired: {names}", table.place),
                (_, names) => format!("models: {rows} rows of {} name models that are retired: {names}", table.place),
            },
            todo,
        ));
    }
    if lines.is_empty() {
        lines.push(ok("models: no row names a model that is retired"));
    }
    lines
}

/// Returns the line of a model that no provider serves under this name.
fn retired(name: &str, today: Date) -> Option<&'static Model> {
    let providers = ["openai", "anthropic", "google", "groq", "mistral", "perplexity"];
    let known: Vec<&Model> = providers.iter().filter_map(|provider| catalogue().model(provider, name)).collect();
    known.iter().all(|model| model.is_retired(today)).then(|| known.first().copied()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn lines(models: &[(&str, i64)], substitute: bool) -> Vec<Line> {
        let models = models.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let named = [NamedModels { place: "presets.model", models }];
        named_lines(&named, substitute, Date::parse("2026-11-29").expect("a date"))
    }

    #[test]
    fn retired_models_are_named_with_their_rows() {
        let found = lines(&[("gpt-4", 3), ("claude-2.1", 1), ("gpt-4o", 7), ("mine", 2)], true);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].what,
            "models: 4 rows of presets.model name models that are retired: gpt-4 (3; gpt-5.6-sol is called), claude-2.1 (1; claude-sonnet-5-5 is called)"
        );
        let one = lines(&[("gpt-4", 1)], true);
        assert!(one[0].what.starts_with("models: a row of presets.model names a model that is retired: gpt-4 (1; "));
        let off = lines(&[("gpt-4", 3)], false);
        assert!(off[0].what.ends_with("gpt-4 (3)") && off[0].to_string().contains("MODEL_ALIASES=off"));
        assert_eq!(lines(&[("gpt-4o", 7)], true)[0].level, Level::Ok);
    }

    #[test]
    fn a_line_names_no_more_than_some() {
        let ids = catalogue().models().iter().filter(|model| model.provider == "openai").flat_map(|model| &model.ids);
        let many: Vec<(&str, i64)> = ids.map(|id| (*id, 1)).collect();
        assert!(lines(&many, true)[0].what.ends_with(" more"));
    }
}
