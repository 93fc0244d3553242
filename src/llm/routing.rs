//! The choice of the model: by the operator's aliases and the catalogue.

use std::collections::HashMap;

use super::{
    catalogue::{Catalogue, Date, Model, catalogue},
    circuits::Circuits,
    learnt::{Learnt, Scope},
    offers::{Fallback, Hosted, Offer},
    wire::Wire,
};

/// Maximum number of models that are tried in place of one.
const MAX_CANDIDATES: usize = 8;

/// Maximum number of models of other names that are tried if one does not answer.
const MAX_FALLBACKS: usize = 4;

/// The operator's settings about models.
#[derive(Debug, Clone, Default)]
pub struct ModelSettings {
    /// `MODEL_ALIASES`, `name=model` with commas between: the model to call for each name.
    pub aliases: HashMap<String, String>,
    /// A model may be replaced by another. Not with `MODEL_ALIASES=off`.
    pub substitute: bool,
    /// `COMMAND_MODEL`, default `gpt-6-luna,gpt-5.6-luna,gpt-4o-mini`: the models for `/api/command`, of which the
    /// first that the account may use is called.
    pub command: Vec<String>,
    /// `MODEL_FALLBACKS`, such as `gpt-6.1-sol>claude-opus-5-5,*>openrouter:x-ai/grok-9`: the models to call if one does
    /// not answer, whatever its provider. Only by the server's own keys.
    pub fallbacks: Vec<Fallback>,
    /// `MODELS`, such as `openai:gpt-6.1-sol,anthropic:claude-opus-5-5`, and the lines of `MODELS_FILE`: the models that
    /// users are offered with the server's own keys.
    pub offers: Vec<Offer>,
}

/// Settings and lessons about models, shared by the workers.
#[derive(Default)]
pub struct Routing {
    /// The operator's settings.
    pub settings: ModelSettings,
    /// Lessons from refusals.
    pub learnt: Learnt,
    /// The state of the server's keys.
    pub circuits: Circuits,
}

/// A model that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub model: String,
    /// The API that serves it.
    pub wire: Wire,
    /// The catalogue's entry of it or its family.
    pub rules: Option<&'static Model>,
}

/// Capabilities that a request needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// The messages hold images.
    pub images: bool,
    /// Functions are offered.
    pub functions: bool,
}

/// A request for which the model is not chosen yet.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    /// The provider, by its name in the catalogue; empty if it is not known.
    pub provider: &'static str,
    /// The server and the key, for what is learnt of them.
    pub scope: Scope,
    /// The model that the client named. Of several, the first that the account may use is called.
    pub models: Vec<String>,
    /// The API, unless a model needs another one.
    pub wire: Wire,
    /// A server that once had Perplexity's names may still speak its older
    /// API: it is tried first, with the name as it stands.
    pub chat_first: bool,
    /// Capabilities that the request needs.
    pub wanted: Wanted,
    /// An answer may be complete without a mark of its end.
    pub any_end: bool,
}

impl Routing {
    /// Returns the models to call if none of a model's keys has it answered, in order. What is said of its name counts,
    /// of its alias and of its first successor, then what is said of every model.
    pub fn fallbacks(&self, named: &Hosted, today: Date) -> Vec<Hosted> {
        let mut found: Vec<Hosted> = Vec::new();
        if self.settings.fallbacks.is_empty() {
            return found;
        }
        let alias = self.settings.aliases.get(&named.model).map(String::as_str);
        let provider = named.vendor.name();
        let first = self.candidates(catalogue(), provider, Wire::Chat, &named.model, Wanted::default(), today);
        let names = [Some(named.model.as_str()), alias, first.first().map(|it| it.model.as_str()), Some("*")];
        let of_name = |name| self.settings.fallbacks.iter().filter(move |it| it.of == name).flat_map(|it| &it.models);
        for model in names.into_iter().flatten().flat_map(of_name) {
            let is_new = model != named && !found.contains(model);
            if is_new && found.len() < MAX_FALLBACKS {
                found.push(model.clone());
            }
        }
        found
    }

    /// Returns the models to call for `name`, in order; at least one.
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

    fn routing(aliases: &[(&str, &str)], substitute: bool) -> Routing {
        let aliases = aliases.iter().map(|(name, model)| ((*name).to_owned(), (*model).to_owned())).collect();
        let settings = ModelSettings { aliases, substitute, ..ModelSettings::default() };
        Routing { settings, ..Routing::default() }
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
    fn fallbacks_follow_from_the_name_its_alias_its_successor_and_the_star() {
        let hosted = |text: &str| text.parse::<Hosted>().expect(text);
        let fallback = |text: &str| text.parse::<Fallback>().unwrap_or_else(|problem| panic!("{text}: {problem}"));
        let mut routing = routing(&[("mine", "gpt-6.1-sol")], true);
        routing.settings.fallbacks =
            ["*>openrouter:a/b>gpt-4o", "gpt-6.1-sol>claude-opus-5-5", "gpt-5.6-sol>gpt-6-luna"].map(fallback).into();
        let of = |model: &str| {
            let found = routing.fallbacks(&hosted(model), Date::parse("2026-11-29").expect("a date"));
            found.into_iter().map(|it| it.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("gpt-6.1-sol"), ["anthropic:claude-opus-5-5", "openrouter:a/b", "openai:gpt-4o"]);
        assert_eq!(of("openai:mine"), of("gpt-6.1-sol"));
        assert_eq!(of("gpt-4"), ["openai:gpt-6-luna", "openrouter:a/b", "openai:gpt-4o"], "by its successor");
        assert_eq!(of("gpt-4o"), ["openrouter:a/b"], "not itself again");
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
