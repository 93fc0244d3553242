//! The ledger: whether usage is counted, and what of it has no price.

use sqlx::PgConnection;

use super::{Line, fail, ok, warn};
use crate::{
    config::Config,
    db::usage::{self, Schema, Summary},
    usage::has_price,
};

/// The most models that a line names.
const MAX_NAMED: usize = 10;

/// Looks at the schema and what is in it.
pub async fn lines(config: &Config, connection: &mut PgConnection) -> sqlx::Result<Vec<Line>> {
    if !config.usage.on {
        return Ok(vec![ok("usage: nothing is counted and no budget is kept, as USAGE=off says")]);
    }
    Ok(match usage::look_up(connection).await? {
        Schema::Missing => vec![ok(
            "usage: nothing is counted; chatbot-ui-api migrate --usage makes the schema for it and for budgets",
        )],
        Schema::Forbidden => vec![warn(
            "usage: nothing is counted, because this role may not use the schema chatbot_ui_api",
            "run docs/role.sql as its owner",
        )],
        Schema::Usable => match usage::summary(connection).await {
            Ok(summary) => summary_lines(&summary),
            Err(sqlx::Error::Database(error)) => vec![fail(
                format!("usage: the ledger cannot be read: {}", error.message()),
                "run chatbot-ui-api migrate --usage and docs/role.sql as its owner",
            )],
            Err(error) => return Err(error),
        },
    })
}

fn summary_lines(summary: &Summary) -> Vec<Line> {
    let budgets = match summary.budgets {
        0 => "without a budget".to_owned(),
        1 => "with 1 budget".to_owned(),
        count => format!("with {count} budgets"),
    };
    let mut lines = vec![ok(format!(
        "usage: chats, commands and embeddings are counted, {budgets}; lists of assistants, local embeddings and tools' servers are not"
    ))];
    let models: Vec<(String, String)> = serde_json::from_str(&summary.models).unwrap_or_default();
    let mut unpriced: Vec<String> = models
        .iter()
        .filter(|(provider, model)| !has_price(provider, model))
        .map(|(provider, model)| format!("{model} ({provider})"))
        .collect();
    if unpriced.is_empty() {
        return lines;
    }
    let more = unpriced.len().saturating_sub(MAX_NAMED);
    unpriced.truncate(MAX_NAMED);
    if more > 0 {
        unpriced.push(format!("{more} more"));
    }
    let what =
        format!("usage: the tokens of these models are counted, but they have no price: {}", unpriced.join(", "));
    lines.push(if summary.in_usd > 0 {
        warn(what, "budgets in usd do not hold them: add budgets in tokens or requests for their names")
    } else {
        ok(what)
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn models_without_a_price_are_named_where_a_budget_in_dollars_needs_it() {
        let models = r#"[["openai","gpt-4"],["custom","llama"]]"#.to_owned();
        let levels = |in_usd| {
            let lines = summary_lines(&Summary { budgets: 2, in_usd, models: models.clone() });
            assert!(lines[1].to_string().contains("llama (custom)") && !lines[1].to_string().contains("gpt-4"));
            lines.iter().map(|line| line.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(0), [Level::Ok, Level::Ok]);
        assert_eq!(levels(1), [Level::Ok, Level::Warn]);
    }
}
