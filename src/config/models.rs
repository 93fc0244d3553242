//! `MODEL_ALIASES` and `COMMAND_MODEL`.

use std::collections::HashMap;

use super::reader::{ConfigError, Reader, wrong};
use crate::llm::routing::ModelSettings;

/// Cheap and quick ones, as the command palette's questions are short.
const COMMAND: &str = "gpt-6-luna,gpt-5.6-luna,gpt-4o-mini";

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
            command: list(self.text("COMMAND_MODEL").filter(|text| text.contains(|c| c != ',')).unwrap_or(COMMAND)),
        })
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
    fn the_commands_models_are_a_list() {
        assert_eq!(read("", "a, b").expect("right").models.command, ["a", "b"]);
        for unset in ["", ","] {
            assert_eq!(read("", unset).expect("right").models.command[0], "gpt-6-luna", "{unset}");
        }
    }
}
