//! `MODEL_ALIASES`, `COMMAND_MODEL`, `MODEL_FALLBACKS` and `MODELS`.

use std::{collections::HashMap, io::Read, str::FromStr};

use super::reader::{ConfigError, Reader, wrong};
use crate::llm::{
    offers::{Fallback, Offer},
    routing::ModelSettings,
};

/// Cheap and quick ones, as the command palette's questions are short.
const COMMAND: &str = "gpt-6-luna,gpt-5.6-luna,gpt-4o-mini";

/// The most models of `MODELS`, and fallbacks.
const MAX_LISTED: usize = 100;
/// The most bytes of `MODELS_FILE`.
const MAX_FILE_BYTES: u64 = 64 * 1024;

impl Reader<'_> {
    pub(super) fn models(&self) -> Result<ModelSettings, ConfigError> {
        const ALIASES: &str = "MODEL_ALIASES";
        let text = self.text(ALIASES).unwrap_or_default();
        let substitute = !text.eq_ignore_ascii_case("off");
        let list = |text: &str| -> Vec<String> {
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        let alias = |pair: String| {
            let names = pair.split_once('=').map(|(name, model)| (name.trim(), model.trim()));
            let right = names.filter(|(name, model)| !name.is_empty() && !model.is_empty() && !model.contains('='));
            right
                .map(|(name, model)| (name.to_owned(), model.to_owned()))
                .ok_or_else(|| wrong(ALIASES, "must be `off`, or pairs such as gpt-4=gpt-6.1-sol with commas between"))
        };
        let aliases = if substitute { list(text) } else { Vec::new() };
        Ok(ModelSettings {
            aliases: aliases.into_iter().map(alias).collect::<Result<HashMap<_, _>, _>>()?,
            substitute,
            fallbacks: self.listed::<Fallback>("MODEL_FALLBACKS", self.text("MODEL_FALLBACKS").unwrap_or_default())?,
            offers: self.offers()?,
            command: list(self.text("COMMAND_MODEL").filter(|text| text.contains(|c| c != ',')).unwrap_or(COMMAND)),
        })
    }

    /// Reads `MODELS` and the lines of `MODELS_FILE`.
    fn offers(&self) -> Result<Vec<Offer>, ConfigError> {
        const FILE: &str = "MODELS_FILE";
        let mut offers: Vec<Offer> = self.listed("MODELS", self.text("MODELS").unwrap_or_default())?;
        if let Some(path) = self.text(FILE) {
            let mut text = String::new();
            let read =
                std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
            read.map_err(|error| wrong(FILE, format!("must be the path of a text file: {error}")))?;
            if text.len() as u64 > MAX_FILE_BYTES {
                return Err(wrong(FILE, format!("must have {MAX_FILE_BYTES} bytes at most")));
            }
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            for line in lines {
                offers.push(line.parse().map_err(|problem: String| wrong(FILE, problem))?);
            }
        }
        let mut unique: Vec<Offer> = Vec::new();
        for offer in offers {
            if !unique.iter().any(|it| it.hosted == offer.hosted) {
                unique.push(offer);
            }
        }
        if unique.len() > MAX_LISTED {
            return Err(wrong("MODELS", format!("must name {MAX_LISTED} models at most")));
        }
        Ok(unique)
    }

    fn listed<T: FromStr<Err = String>>(&self, name: &'static str, text: &str) -> Result<Vec<T>, ConfigError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let listed: Vec<T> = parts.map(str::parse).collect::<Result<_, _>>().map_err(|problem| wrong(name, problem))?;
        if listed.len() > MAX_LISTED {
            return Err(wrong(name, format!("must have {MAX_LISTED} entries at most")));
        }
        Ok(listed)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError};

    fn read(aliases: &str, command: &str) -> Result<Config, ConfigError> {
        let variables = [("MODEL_ALIASES", aliases), ("COMMAND_MODEL", command)];
        Config::new(&variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn aliases_are_pairs_or_off() {
        let models = read("gpt-4=gpt-6.1-sol, claude-2.1 = claude-opus-5-5,", "a").expect("right").models;
        assert!(models.substitute && models.aliases.len() == 2);
        assert_eq!(models.aliases["claude-2.1"], "claude-opus-5-5");
        let off = read("OFF", "").expect("right").models;
        assert!(!off.substitute && off.aliases.is_empty());
        for wrong in ["gpt-4", "=b", "a=", "a=b=c", "on"] {
            let problem = read(wrong, "").expect_err(wrong).to_string();
            assert!(problem.starts_with("MODEL_ALIASES must be `off`, or pairs"), "{problem}");
        }
    }

    #[test]
    fn offers_come_from_the_setting_and_a_file() {
        let read = |pairs: &[(&str, &str)]| {
            Config::new(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        let path = std::env::temp_dir().join(format!("chatbot-ui-api-models-{}", std::process::id()));
        std::fs::write(
            &path,
            "# ours\n\ngoogle:gemini-3.8-flash\nopenai:gpt-4o=Again\nclaude-opus-5-5 = Claude, the best\n",
        )
        .expect("written");
        let file = path.to_str().expect("ascii");
        let config = read(&[("MODELS", "openai:gpt-4o,"), ("MODELS_FILE", file)]).expect("right");
        let offers: Vec<_> = config.models.offers.iter().map(|it| format!("{} {}", it.hosted, it.name)).collect();
        assert_eq!(
            offers,
            [
                "openai:gpt-4o GPT-4o",
                "google:gemini-3.8-flash Gemini 3.8 Flash",
                "anthropic:claude-opus-5-5 Claude, the best"
            ]
        );
        std::fs::write(&path, "mine").expect("written");
        for (name, value) in [
            ("MODELS", "mine"),
            ("MODELS_FILE", file),
            ("MODELS_FILE", "/nowhere"),
            ("MODEL_FALLBACKS", "gpt-4o"),
            ("MODEL_FALLBACKS", "*>mine"),
        ] {
            let problem = read(&[(name, value)]).expect_err(name).to_string();
            assert!(problem.starts_with(name), "{problem}");
        }
        std::fs::remove_file(&path).expect("removed");
        let fallbacks = read(&[("MODEL_FALLBACKS", "gpt-6.1-sol>claude-opus-5-5, *>openrouter:a/b")]).expect("right");
        assert_eq!(fallbacks.models.fallbacks.len(), 2);
    }

    #[test]
    fn the_commands_models_are_a_list() {
        assert_eq!(read("", "a, b").expect("right").models.command, ["a", "b"]);
        for unset in ["", ","] {
            assert_eq!(read("", unset).expect("right").models.command[0], "gpt-6-luna", "{unset}");
        }
    }
}
