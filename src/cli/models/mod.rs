//! `models`: the model that is called for each of chatbot-ui's picker, and the reason.

pub mod sync;

use std::{
    collections::{HashMap, HashSet},
    process::ExitCode,
    time::Duration,
};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::{
    config::{self, Config},
    credentials::Key,
    http_client::{ClientFactory, read, ssrf_guard},
    llm::{
        Wire,
        catalogue::{Date, Model, Prices, catalogue},
        routing::{Candidate, Routing, Wanted},
    },
};

/// Time limit for one provider's list.
const LIMIT: Duration = Duration::from_secs(10);
/// Size limit of one provider's list; real ones have some hundred kilobytes.
const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;

/// Runs the command. With `ask`, it requests each provider's list of models, with the server's own key.
pub fn run(ask: bool) -> ExitCode {
    super::run(async move {
        let config = Config::new(&config::variables()?).map_err(|error| error.to_string())?;
        let routing = Routing { settings: config.models.clone(), ..Routing::default() };
        let rows = rows(&routing, Date::today());
        let lists = if ask { Some(lists(&config).await?) } else { None };
        let mut table = vec![heading(ask)];
        table.extend(rows.iter().map(|row| row.cells(lists.as_ref())));
        super::say(&aligned(&table));
        if !routing.settings.substitute {
            super::say("MODEL_ALIASES=off: each model is called as it is named, even if it is retired.");
        }
        Ok(())
    })
}

/// The models that are called for one name.
struct Row {
    name: String,
    named: Option<&'static Model>,
    provider: &'static str,
    /// The models, in order.
    candidates: Vec<Candidate>,
    why: String,
}

fn rows(routing: &Routing, today: Date) -> Vec<Row> {
    let picker = catalogue().models().iter().filter(|model| model.picker);
    let mut rows: Vec<Row> = picker
        .filter_map(|model| {
            let name = *model.ids.first()?;
            let candidates =
                routing.candidates(catalogue(), model.provider, Wire::Chat, name, Wanted::default(), today);
            let why = match model.end.filter(|_| model.is_retired(today)) {
                _ if routing.settings.aliases.contains_key(name) => "MODEL_ALIASES".to_owned(),
                Some(end) => format!("retired on {end}"),
                None => "served".to_owned(),
            };
            Some(Row { name: name.to_owned(), named: Some(model), provider: model.provider, candidates, why })
        })
        .collect();
    let command = routing
        .settings
        .command
        .iter()
        .flat_map(|name| routing.candidates(catalogue(), "openai", Wire::Chat, name, Wanted::default(), today));
    rows.push(Row {
        name: "/api/command".to_owned(),
        named: catalogue().model("openai", "gpt-4-1106-preview"),
        provider: "openai",
        candidates: command.collect(),
        why: "COMMAND_MODEL".to_owned(),
    });
    rows
}

fn heading(ask: bool) -> Vec<String> {
    let mut heading = vec!["provider", "name", "model", "reason", "until", "$ per 1M tokens, in/out"];
    heading.extend(ask.then_some("works"));
    heading.into_iter().map(str::to_owned).collect()
}

impl Row {
    fn cells(&self, lists: Option<&HashMap<&'static str, Listed>>) -> Vec<String> {
        let asked = self.candidates.first();
        let rules = asked.and_then(|candidate| catalogue().model(self.provider, &candidate.model));
        let until = match rules {
            None => "not in the catalogue".to_owned(),
            Some(rules) => rules.end.map_or_else(|| "no end announced".to_owned(), |end| end.to_string()),
        };
        let mut cells = vec![
            self.provider.to_owned(),
            self.name.clone(),
            asked.map(|candidate| candidate.model.clone()).unwrap_or_default(),
            self.why.clone(),
            until,
            price(rules, self.named),
        ];
        cells.extend(lists.map(|lists| self.works(lists.get(self.provider))));
        cells
    }

    /// Tells if one of the models is in the provider's list.
    fn works(&self, listed: Option<&Listed>) -> String {
        match listed {
            None => "no key of the server's".to_owned(),
            Some(Err(reason)) => format!("not known: {reason}"),
            Some(Ok(ids)) => match self.candidates.iter().position(|candidate| ids.contains(&candidate.model)) {
                Some(0) => "yes".to_owned(),
                Some(at) => format!("yes, by {}", self.candidates[at].model),
                None => "NO".to_owned(),
            },
        }
    }
}

/// Returns the price of the called model, and that of the named one if it differs.
fn price(asked: Option<&Model>, named: Option<&Model>) -> String {
    let text = |prices: Prices| {
        let number = |price: Option<f64>| price.map_or_else(|| "?".to_owned(), |price| price.to_string());
        (prices.input.or(prices.output).is_some())
            .then(|| format!("{}/{}", number(prices.input), number(prices.output)))
    };
    let of = |model: Option<&Model>| model.and_then(|model| text(model.prices));
    match (of(asked), of(named)) {
        (Some(asked), Some(named)) if asked != named => format!("{asked} (was {named})"),
        (Some(asked), _) => asked,
        (None, _) => "not known".to_owned(),
    }
}

/// A provider's list of ids, or the reason for which there is none.
type Listed = Result<HashSet<String>, String>;

async fn lists(config: &Config) -> Result<HashMap<&'static str, Listed>, String> {
    let use_proxy = !config.base_urls.all_on_this_machine();
    let factory = ClientFactory::new(config.http_client.clone(), use_proxy, ssrf_guard::system_lookup);
    let client = factory.map_err(|error| error.to_string())?.trusted().map_err(|error| error.to_string())?;
    let urls = &config.base_urls;
    let bearer = |key: &SecretString| ("authorization", format!("Bearer {}", key.expose_secret().trim()));
    let mut lists = HashMap::new();
    for (provider, key, base_url, path, header) in [
        ("openai", Key::OpenAi, &urls.openai, "/models", None),
        ("groq", Key::Groq, &urls.groq, "/models", None),
        ("mistral", Key::Mistral, &urls.mistral, "/models", None),
        ("perplexity", Key::Perplexity, &urls.perplexity, "/v1/models", None),
        ("anthropic", Key::Anthropic, &urls.anthropic, "/v1/models?limit=1000", Some("x-api-key")),
        ("google", Key::GoogleGemini, &urls.google, "/v1beta/models?pageSize=1000", Some("x-goog-api-key")),
    ] {
        let Some(key) = config.keys.get(key) else { continue };
        let (name, value) = match header {
            Some(name) => (name, key.expose_secret().trim().to_owned()),
            None => bearer(key),
        };
        lists.insert(provider, list(&client, &format!("{base_url}{path}"), name, &value).await);
    }
    Ok(lists)
}

async fn list(client: &reqwest::Client, url: &str, header: &'static str, key: &str) -> Listed {
    let mut value = HeaderValue::from_str(key).map_err(|_| "the key holds what no key has".to_owned())?;
    value.set_sensitive(true);
    let headers = HeaderMap::from_iter([
        (HeaderName::from_static(header), value),
        (HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01")),
    ]);
    let answer = tokio::time::timeout(LIMIT, async {
        let answer = client.get(url).headers(headers).send().await.map_err(|_| "no answer".to_owned())?;
        if !answer.status().is_success() {
            return Err(format!("status {}", answer.status().as_u16()));
        }
        read(answer, MAX_LIST_BYTES, None).await.map_err(|_| "the list cannot be read".to_owned())
    });
    let body = answer.await.map_err(|_| format!("no answer within {} s", LIMIT.as_secs()))??;
    let list: Value = serde_json::from_slice(&body).map_err(|_| "the list is no JSON".to_owned())?;
    Ok(ids(&list))
}

/// The ids in a list of any provider's.
fn ids(list: &Value) -> HashSet<String> {
    let models = [&list["data"], &list["models"]].into_iter().find_map(Value::as_array);
    let mut ids = HashSet::new();
    for model in models.into_iter().flatten() {
        let id = model["id"].as_str().or_else(|| model["name"].as_str()?.strip_prefix("models/"));
        let aliases = model["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str);
        ids.extend(id.into_iter().chain(aliases).map(str::to_owned));
    }
    ids
}

/// Lays cells out in columns.
fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column| table.iter().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::llm::routing::ModelSettings;

    fn table(aliases: &[(&str, &str)]) -> Vec<Vec<String>> {
        let aliases = aliases.iter().map(|(name, model)| ((*name).to_owned(), (*model).to_owned())).collect();
        let settings = ModelSettings {
            aliases,
            substitute: true,
            command: vec!["gpt-6-luna".to_owned()],
            ..ModelSettings::default()
        };
        let routing = Routing { settings, ..Routing::default() };
        let day = Date::parse("2026-11-29").expect("a date");
        rows(&routing, day).iter().map(|row| row.cells(None)).collect()
    }

    #[test]
    fn each_name_of_the_picker_has_a_row() {
        let table = table(&[("mistral-tiny", "mistral-large-latest")]);
        let row = |name: &str| table.iter().find(|row| row[1] == name).expect(name).join(" | ");
        assert_eq!(table.len(), 31);
        assert_eq!(row("gpt-4o"), "openai | gpt-4o | gpt-4o | served | 2027-01-14 | 2.5/10");
        assert_eq!(
            row("gpt-4"),
            "openai | gpt-4 | gpt-5.6-sol | retired on 2026-10-23 | no end announced | 4/20 (was 30/60)"
        );
        assert!(row("mistral-tiny").starts_with("mistral | mistral-tiny | mistral-large-latest | MODEL_ALIASES"));
        assert!(row("/api/command").contains("gpt-6-luna | COMMAND_MODEL"));
    }

    #[test]
    fn lists_of_all_shapes_are_read() {
        let mistral = json!({ "object": "list", "data": [{ "id": "a", "aliases": ["b"] }, {}] });
        assert_eq!(ids(&mistral), HashSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!(
            ids(&json!({ "models": [{ "name": "models/c" }, { "name": "d" }] })),
            HashSet::from(["c".to_owned()])
        );
        assert!(ids(&json!({ "error": "x" })).is_empty());
    }

    #[test]
    fn a_row_works_by_the_first_model_that_is_listed() {
        let candidate = |model: &str| Candidate { model: model.to_owned(), wire: Wire::Chat, rules: None };
        let row = Row {
            name: "n".to_owned(),
            named: None,
            provider: "openai",
            candidates: vec![candidate("a"), candidate("b")],
            why: String::new(),
        };
        let listed = |ids: &[&str]| row.works(Some(&Ok(ids.iter().map(|id| (*id).to_owned()).collect())));
        assert_eq!([listed(&["a", "b"]), listed(&["b"]), listed(&["c"])], ["yes", "yes, by b", "NO"]);
        assert_eq!(row.works(None), "no key of the server's");
        assert_eq!(row.works(Some(&Err("status 401".to_owned()))), "not known: status 401");
    }
}
