//! Which model is asked: by the operator's aliases, by the catalogue, and by
//! what was learnt.

use std::collections::HashMap;

use super::{
    Wire,
    catalogue::{Catalogue, Date, Model},
    learnt::Learnt,
};

/// The most models that are tried in place of one.
const MAX_CANDIDATES: usize = 8;

/// What the operator says about models.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// `MODEL_ALIASES`, `name=model` with commas between: what is asked for
    /// each name.
    pub aliases: HashMap<String, String>,
    /// Whether a model may be replaced by another; not with
    /// `MODEL_ALIASES=off`.
    pub substitute: bool,
    /// `COMMAND_MODEL`, default `gpt-6-luna,gpt-5.6-luna,gpt-4o-mini`: the
    /// models for `/api/command`, of which the first one that the account may
    /// use is asked.
    pub command: Vec<String>,
}

/// What one server knows about models, shared by its workers.
pub struct Routing {
    /// The operator's words.
    pub settings: ModelSettings,
    /// What refusals have taught.
    pub learnt: Learnt,
}

/// A model that may be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub model: String,
    /// The API that serves it.
    pub wire: Wire,
    /// What the catalogue says of it.
    pub rules: Option<&'static Model>,
}

/// What is wanted of a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// The messages hold images.
    pub images: bool,
    /// Functions are offered.
    pub functions: bool,
}

impl Routing {
    /// Returns the models that are asked for `name`, in order; at least one.
    pub fn candidates(
        &self,
        catalogue: &'static Catalogue,
        provider: &str,
        wire: Wire,
        name: &str,
        wanted: Wanted,
        today: Date,
    ) -> Vec<Candidate> {
        let name = self.settings.aliases.get(name).map_or(name, String::as_str);
        let candidate = |model: &str| {
            let rules = catalogue.model_or_family(provider, model);
            let by_responses =
                rules.is_some_and(|rules| rules.responses_only || (wanted.functions && rules.functions_by_responses));
            let wire = if wire == Wire::Chat && by_responses { Wire::Responses } else { wire };
            Candidate { model: model.to_owned(), wire, rules }
        };
        let Some(model) = catalogue.model(provider, name).filter(|_| self.settings.substitute) else {
            return vec![candidate(name)];
        };
        let successors = model.successors.iter().map(|id| candidate(id));
        let (mut fit, unfit): (Vec<_>, Vec<_>) = successors
            .partition(|it| it.rules.is_none_or(|rules| !rules.is_retired(today) && (rules.images || !wanted.images)));
        if fit.is_empty() {
            fit = unfit;
        }
        if !model.is_retired(today) || fit.is_empty() {
            fit.insert(0, candidate(name));
        }
        fit.truncate(MAX_CANDIDATES);
        fit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::catalogue::catalogue;

    fn routing(aliases: &[(&str, &str)], substitute: bool) -> Routing {
        let aliases = aliases.iter().map(|(name, model)| ((*name).to_owned(), (*model).to_owned())).collect();
        let settings = ModelSettings { aliases, substitute, command: Vec::new() };
        Routing { settings, learnt: Learnt::default() }
    }

    fn asked(routing: &Routing, provider: &str, name: &str, today: &str, wanted: Wanted) -> Vec<String> {
        let today = Date::parse(today).expect("a date");
        let candidates = routing.candidates(catalogue(), provider, Wire::Chat, name, wanted, today);
        candidates.into_iter().map(|it| it.model).collect()
    }

    #[test]
    fn a_retired_model_is_its_successors_from_its_last_day_on() {
        let routing = routing(&[], true);
        let on = |day| asked(&routing, "openai", "gpt-4o", day, Wanted::default());
        assert_eq!(on("2027-01-13"), ["gpt-4o", "gpt-6-luna"]);
        assert_eq!(on("2027-01-14"), ["gpt-6-luna"]);
        let retired = asked(&routing, "openai", "gpt-4-0613", "2026-11-29", Wanted::default());
        assert_eq!(retired, ["gpt-5.6-sol", "gpt-6.1-sol", "gpt-6-luna", "gpt-4o"]);
        let later = asked(&routing, "openai", "gpt-4-0613", "2027-02-01", Wanted::default());
        assert_eq!(later, ["gpt-5.6-sol", "gpt-6.1-sol", "gpt-6-luna"]);
    }

    #[test]
    fn what_is_not_listed_is_asked_as_it_is() {
        let routing = routing(&[], true);
        for (provider, name) in [("openai", "gpt-4-trubo"), ("", "gpt-4"), ("groq", "gpt-4")] {
            assert_eq!(asked(&routing, provider, name, "2026-11-29", Wanted::default()), [name]);
        }
    }

    #[test]
    fn an_alias_goes_before_the_catalogue_and_off_switches_it_off() {
        let with_alias = routing(&[("gpt-4", "gpt-6-sol"), ("mine", "gpt-4")], true);
        let ask = |name| asked(&with_alias, "openai", name, "2026-11-29", Wanted::default());
        assert_eq!(ask("gpt-4"), ["gpt-6-sol"]);
        assert_eq!(ask("mine").first().map(String::as_str), Some("gpt-5.6-sol"));
        assert_eq!(asked(&routing(&[], false), "openai", "gpt-4", "2026-11-29", Wanted::default()), ["gpt-4"]);
    }

    #[test]
    fn images_go_to_a_model_that_sees() {
        let ask = |images| {
            asked(&routing(&[], true), "groq", "llama3-70b-8192", "2026-11-29", Wanted { images, functions: false })
        };
        assert_eq!(ask(false), ["openai/gpt-oss-120b", "qwen/qwen3.8-27b"]);
        assert_eq!(ask(true), ["qwen/qwen3.8-27b"]);
    }

    #[test]
    fn the_api_follows_from_the_model_and_what_is_wanted() {
        let wire = |provider, name, wire, functions| {
            let wanted = Wanted { images: false, functions };
            let today = Date::parse("2026-11-29").expect("a date");
            routing(&[], true).candidates(catalogue(), provider, wire, name, wanted, today)[0].wire
        };
        assert_eq!(wire("openai", "gpt-6.1-sol", Wire::Chat, false), Wire::Chat);
        assert_eq!(wire("openai", "gpt-6.1-sol", Wire::Chat, true), Wire::Responses);
        assert_eq!(wire("openai", "gpt-5.5-pro", Wire::Chat, false), Wire::Responses);
        assert_eq!(wire("openai", "gpt-4o", Wire::Chat, true), Wire::Chat);
        assert_eq!(wire("perplexity", "sonar-pro", Wire::Chat, false), Wire::Responses);
        assert_eq!(wire("anthropic", "claude-2.1", Wire::Messages, false), Wire::Messages);
    }
}
