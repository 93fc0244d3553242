//! Models by the operator's choice: `MODELS`, which every user is offered with the server's own keys, and
//! `MODEL_FALLBACKS`.

use std::{fmt, str::FromStr};

use super::{
    catalogue::catalogue,
    providers::{Vendor, vendor},
};

/// The address of an offered model in `public.models` begins so; then comes the provider's name.
pub const ADDRESS: &str = "server:";

/// The window of a model of which the catalogue knows none.
const SOME_CONTEXT: u32 = 128_000;

/// The most characters of a model's id and of its name, for the columns of `public.models`.
const MAX_ID: usize = 200;
const MAX_NAME: usize = 100;

/// A model at a provider.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hosted {
    /// The provider.
    pub vendor: Vendor,
    /// Its name for the model.
    pub model: String,
}

impl fmt::Display for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.vendor.name(), self.model)
    }
}

impl FromStr for Hosted {
    type Err = String;

    /// Reads `provider:model`, or a name that tells its provider.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let named = text.split_once(':').and_then(|(name, model)| Some((Vendor::by_name(name.trim())?, model.trim())));
        let found = named.or_else(|| Some((vendor(text)?, text)));
        let (vendor, model) = found.ok_or_else(|| {
            "must name the provider of each model, such as openai:my-model (openai, anthropic, google, groq, mistral, openrouter, perplexity)".to_owned()
        })?;
        let is_name = !model.is_empty()
            && model.len() <= MAX_ID
            && !model.contains(|c: char| c.is_whitespace() || c.is_control());
        if !is_name {
            return Err("must name a model after each provider, such as openai:gpt-6.1-sol".to_owned());
        }
        Ok(Self { vendor, model: model.to_owned() })
    }
}

/// A model that users are offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The model.
    pub hosted: Hosted,
    /// Its name in the picker.
    pub name: String,
    /// Its window, in tokens.
    pub context: u32,
}

impl FromStr for Offer {
    type Err = String;

    /// Reads `provider:model`, with `=` and a name for the picker if it is to have another.
    fn from_str(text: &str) -> Result<Self, String> {
        let (model, name) = text.split_once('=').map_or((text, ""), |(model, name)| (model, name.trim()));
        let hosted: Hosted = model.parse()?;
        let name = if name.is_empty() { title(&hosted.model) } else { name.to_owned() };
        if name.contains(char::is_control) {
            return Err("must give each model a name of one line".to_owned());
        }
        let context = catalogue().context(hosted.vendor.name(), &hosted.model).unwrap_or(SOME_CONTEXT);
        Ok(Self { hosted, name: name.chars().take(MAX_NAME).collect(), context })
    }
}

impl Offer {
    /// Returns its address in `public.models`.
    pub fn address(&self) -> String {
        format!("{ADDRESS}{}", self.hosted.vendor.name())
    }
}

/// Reads the address of a row of `public.models`: the provider's name if the row is an offer of this server's.
pub fn provider_of(address: &str) -> Option<&str> {
    address.trim().strip_prefix(ADDRESS)
}

/// The models to call if one does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// The model's name, or `*` for every model.
    pub of: String,
    /// The others, in order.
    pub models: Vec<Hosted>,
}

impl FromStr for Fallback {
    type Err = String;

    /// Reads `name>model` or `name>model>model`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('>').map(str::trim);
        let of = parts.next().unwrap_or_default();
        // A model's provider is of no account here: its name is what clients send.
        let of = match of.split_once(':') {
            Some((name, model)) if Vendor::by_name(name).is_some() => model,
            _ => of,
        };
        let models: Vec<Hosted> = parts.map(str::parse).collect::<Result<_, _>>()?;
        if of.is_empty() || models.is_empty() {
            return Err("must be pairs such as gpt-6.1-sol>claude-opus-5-5 with commas between".to_owned());
        }
        Ok(Self { of: of.to_owned(), models })
    }
}

/// Makes a title of a model's id: `claude-opus-5-5` becomes `Claude Opus 5.5`.
fn title(id: &str) -> String {
    let id = id.rsplit('/').next().unwrap_or(id);
    let mut title = String::new();
    let mut after_number = false;
    for word in id.split('-').filter(|word| !word.is_empty()) {
        let is_number = word.len() <= 2 && word.bytes().all(|byte| byte.is_ascii_digit());
        match () {
            () if title.is_empty() => {}
            () if is_number && after_number => title.push('.'),
            () if title == "GPT" => title.push('-'),
            () => title.push(' '),
        }
        after_number = is_number;
        let mut letters = word.chars();
        match word {
            "gpt" => title.push_str("GPT"),
            _ if word.starts_with(['o', '4']) && word.len() <= 2 => title.push_str(word),
            _ => title.extend(letters.next().into_iter().flat_map(char::to_uppercase).chain(letters)),
        }
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_a_provider_before_it_or_in_its_name() {
        for (text, expected) in [
            ("openai:gpt-4o", "openai:gpt-4o"),
            (" anthropic : claude-opus-5-5 ", "anthropic:claude-opus-5-5"),
            ("claude-opus-5-5", "anthropic:claude-opus-5-5"),
            ("gemini-3.8-flash", "google:gemini-3.8-flash"),
            ("openrouter:meta/llama-4:free", "openrouter:meta/llama-4:free"),
            ("meta/llama-4:free", "openrouter:meta/llama-4:free"),
            ("groq:openai/gpt-oss-120b", "groq:openai/gpt-oss-120b"),
        ] {
            assert_eq!(text.parse::<Hosted>().map(|it| it.to_string()).as_deref(), Ok(expected));
        }
        for wrong in ["", "my-own", "azure:gpt-4o", "openai:", "openai:a b", "openai:a\nb"] {
            assert!(wrong.parse::<Hosted>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_offer_has_a_name_and_a_window() {
        let offer = |text: &str| text.parse::<Offer>().unwrap_or_else(|problem| panic!("{text}: {problem}"));
        for (text, name) in [
            ("openai:gpt-4o", "GPT-4o"),
            ("openai:gpt-6.1-sol", "GPT-6.1 Sol"),
            ("anthropic:claude-opus-5-5", "Claude Opus 5.5"),
            ("google:gemini-3.8-flash", "Gemini 3.8 Flash"),
            ("openrouter:meta/llama-4-scout:free", "Llama 4 Scout:free"),
            ("openai:o4-mini", "o4 Mini"),
            ("openai:gpt-4o=Our best, today", "Our best, today"),
        ] {
            assert_eq!(offer(text).name, name);
        }
        assert_eq!((offer("openai:gpt-4o").context, offer("openrouter:a/b").context), (128_000, SOME_CONTEXT));
        assert_eq!(offer("openai:gpt-4o").address(), "server:openai");
        assert_eq!([provider_of(" server:groq "), provider_of("http://server:1/")], [Some("groq"), None]);
    }

    #[test]
    fn a_fallback_has_one_model_or_more() {
        let fallback: Fallback = " openai:gpt-6.1-sol > claude-opus-5-5>groq:x".parse().expect("right");
        assert_eq!(fallback.of, "gpt-6.1-sol");
        assert_eq!(
            fallback.models.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["anthropic:claude-opus-5-5", "groq:x"]
        );
        for wrong in ["", "a", "a>", ">gpt-4o", "a>who-knows"] {
            assert!(wrong.parse::<Fallback>().is_err(), "{wrong}");
        }
    }
}
