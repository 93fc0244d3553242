//! The catalogue of models: parameters, limits, prices, retirement and successors. The data is `models.txt`.

mod date;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::LazyLock};

pub use date::Date;

const DATA: &str = include_str!("models.txt");

/// A model or a family of models.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Name of the provider, as in the routes.
    pub provider: &'static str,
    /// The ids, or the beginnings of a family's ids.
    pub ids: Vec<&'static str>,
    /// The range that a temperature may have; `None`: none may be sent.
    pub temperature: Option<(f64, f64)>,
    /// One of chatbot-ui's picker, which uses the first id.
    pub picker: bool,
    /// Takes images.
    pub images: bool,
    /// Takes a temperature while `reasoning_effort` is `none`.
    pub effort_none: bool,
    /// Available through the Responses API only.
    pub responses_only: bool,
    /// Takes functions through the Responses API only.
    pub functions_by_responses: bool,
    /// Used for searching the web.
    pub search: bool,
    /// Writes its thoughts into the text, between tags.
    pub thinks_in_tags: bool,
    /// Requires a limit of output tokens in each request.
    pub needs_limit: bool,
    /// The smallest prompt that is cached, in tokens.
    pub cache_minimum: Option<u32>,
    /// Its window, in tokens: prompt and answer.
    pub context: Option<u32>,
    /// The most tokens of an answer, thinking included.
    pub max_output: Option<u32>,
    /// List prices.
    pub prices: Prices,
    /// The day of its shutdown.
    pub end: Option<Date>,
    /// Models to use instead, in this order.
    pub successors: Vec<&'static str>,
}

/// List prices in US dollars for a million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prices {
    /// Price of the prompt.
    pub input: Option<f64>,
    /// Price of a prompt that is read from the provider's cache.
    pub cached: Option<f64>,
    /// Price of the answer.
    pub output: Option<f64>,
}

impl Model {
    /// Tells if the model is shut down on this day.
    pub fn is_retired(&self, today: Date) -> bool {
        self.end.is_some_and(|end| end <= today)
    }
}

/// The catalogue, with an index of it.
#[derive(Debug, Default)]
pub struct Catalogue {
    models: Vec<Model>,
    by_id: HashMap<(&'static str, &'static str), usize>,
    /// Beginnings of ids, the longest first.
    families: Vec<(&'static str, &'static str, usize)>,
}

/// Returns the catalogue that this program was built with.
pub fn catalogue() -> &'static Catalogue {
    // A line that cannot be read fails a test; here it is left out.
    static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::new(parse(DATA).filter_map(Result::ok)));
    &CATALOGUE
}

impl Catalogue {
    fn new(models: impl Iterator<Item = Model>) -> Self {
        let mut catalogue = Self { models: models.collect(), ..Self::default() };
        for (at, model) in catalogue.models.iter().enumerate() {
            for id in &model.ids {
                match id.strip_suffix('*') {
                    Some(beginning) => catalogue.families.push((model.provider, beginning, at)),
                    None => {
                        catalogue.by_id.insert((model.provider, id), at);
                    }
                }
            }
        }
        catalogue.families.sort_by_key(|(_, beginning, _)| std::cmp::Reverse(beginning.len()));
        catalogue
    }

    /// Returns a provider's model by its id or the id of one of its snapshots.
    pub fn model(&self, provider: &str, id: &str) -> Option<&Model> {
        let by_id = |id| self.by_id.get(&(provider, id)).map(|at| &self.models[*at]);
        by_id(id).or_else(|| by_id(without_snapshot(id)?))
    }

    /// Returns a provider's model, or the family that the id belongs to.
    pub fn model_or_family(&self, provider: &str, id: &str) -> Option<&Model> {
        self.model(provider, id).or_else(|| self.family(provider, id))
    }

    /// Returns a model's window in tokens, its family's if it has none of its own.
    pub fn context(&self, provider: &str, id: &str) -> Option<u32> {
        self.model(provider, id).and_then(|model| model.context).or_else(|| self.family(provider, id)?.context)
    }

    fn family(&self, provider: &str, id: &str) -> Option<&Model> {
        let is_member = |&&(of, beginning, _): &&(&str, &str, usize)| of == provider && id.starts_with(beginning);
        self.families.iter().find(is_member).map(|(_, _, at)| &self.models[*at])
    }

    /// Returns every line of the catalogue.
    pub fn models(&self) -> &[Model] {
        &self.models
    }
}

/// Returns the id of the model that `id` is a dated or numbered snapshot of.
fn without_snapshot(id: &str) -> Option<&str> {
    let digits =
        |text: &str, counts: &[usize]| counts.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, last) = id.rsplit_once('-')?;
    if digits(last, &[3, 4, 8]) {
        return Some(rest);
    }
    let (rest, month) = rest.rsplit_once('-').filter(|_| digits(last, &[2]))?;
    let (rest, year) = rest.rsplit_once('-').filter(|_| digits(month, &[2]))?;
    digits(year, &[4]).then_some(rest)
}

/// Reads lines of the catalogue.
///
/// # Errors
/// If a line cannot be read: the line and what is wrong with it.
fn parse(data: &'static str) -> impl Iterator<Item = Result<Model, String>> {
    let lines = data.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|line| parse_line(line).map_err(|problem| format!("{problem} in: {line}")))
}

fn parse_line(line: &'static str) -> Result<Model, String> {
    let columns: Vec<&'static str> = line.split_whitespace().collect();
    let &[provider, ids, temperature, marks, output, prices, end, successors] = columns.as_slice() else {
        return Err("not eight columns".to_owned());
    };
    let mut model = Model {
        provider,
        ids: ids.split(',').collect(),
        temperature: given(temperature).map(range).transpose()?,
        picker: false,
        images: true,
        effort_none: false,
        responses_only: false,
        functions_by_responses: false,
        search: false,
        thinks_in_tags: false,
        needs_limit: false,
        cache_minimum: None,
        context: None,
        max_output: given(output).map(number).transpose()?,
        prices: given(prices).map(self::prices).transpose()?.unwrap_or_default(),
        end: given(end).map(|end| Date::parse(end).ok_or("no date")).transpose()?,
        successors: given(successors).map(|ids| ids.split(',').collect()).unwrap_or_default(),
    };
    for mark in given(marks).into_iter().flat_map(|marks| marks.split(',')) {
        match mark {
            "picker" => model.picker = true,
            "text" => model.images = false,
            "effort" => model.effort_none = true,
            "responses" => model.responses_only = true,
            "functions" => model.functions_by_responses = true,
            "search" => model.search = true,
            "limit" => model.needs_limit = true,
            "tags" => model.thinks_in_tags = true,
            other => match other.split_once(':') {
                Some(("cache", tokens)) => model.cache_minimum = Some(number(tokens)?),
                Some(("context", tokens)) => model.context = Some(number(tokens)?),
                _ => return Err(format!("unknown mark {other}")),
            },
        }
    }
    Ok(model)
}

fn given(column: &'static str) -> Option<&'static str> {
    (column != "-").then_some(column)
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("no number: {text}"))
}

fn range(text: &str) -> Result<(f64, f64), String> {
    let (low, high) = text.split_once("..").ok_or_else(|| format!("no range: {text}"))?;
    Ok((number(low)?, number(high)?))
}

fn prices(text: &'static str) -> Result<Prices, String> {
    let columns: Vec<&'static str> = text.split('/').collect();
    let &[input, cached, output] = columns.as_slice() else { return Err(format!("not three prices: {text}")) };
    let price = |column| given(column).map(number).transpose();
    Ok(Prices { input: price(input)?, cached: price(cached)?, output: price(output)? })
}
