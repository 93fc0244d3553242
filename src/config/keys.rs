//! The server's own keys of providers: one, or several with commas between.

use super::reader::{ConfigError, Reader, wrong};
use crate::credentials::{Keys, TABLE};

/// The most keys of one provider.
const MAX_KEYS: usize = 16;

impl Reader<'_> {
    pub(super) fn keys(&self) -> Result<Keys, ConfigError> {
        let mut keys = Keys::default();
        for row in &TABLE {
            let Some(text) = self.untrimmed(row.variable) else { continue };
            if !row.takes_several() || !text.contains(',') {
                keys.add(row.key, text.to_owned());
                continue;
            }
            let mut found: Vec<&str> = Vec::new();
            for key in text.split(',').map(str::trim).filter(|key| !key.is_empty()) {
                if !found.contains(&key) {
                    found.push(key);
                }
            }
            if found.len() > MAX_KEYS {
                return Err(wrong(row.variable, format!("may hold {MAX_KEYS} keys at most")));
            }
            found.into_iter().for_each(|key| keys.add(row.key, key.to_owned()));
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use crate::{
        config::{Config, ConfigError},
        credentials::Key,
    };

    fn read(variable: &str, text: &str, key: Key) -> Result<Vec<String>, ConfigError> {
        let config = Config::new(&[(variable.to_owned(), text.to_owned())].into())?;
        Ok(config.keys.all(key).map(|key| key.expose_secret().to_owned()).collect())
    }

    #[test]
    fn keys_have_commas_between() {
        for (text, keys) in [
            ("sk-a", vec!["sk-a"]),
            (" sk-a", vec![" sk-a"]),
            ("sk-a, sk-b,,sk-a ,", vec!["sk-a", "sk-b"]),
            ("", vec![]),
            (",", vec![]),
        ] {
            assert_eq!(read("OPENAI_API_KEY", text, Key::OpenAi).expect(text), keys, "{text:?}");
        }
        assert_eq!(read("AZURE_OPENAI_ENDPOINT", "a,b", Key::AzureEndpoint).expect("one"), ["a,b"]);
        let many: Vec<String> = (0..17).map(|number| format!("sk-{number}")).collect();
        let error = read("GROQ_API_KEY", &many.join(","), Key::Groq).expect_err("too many").to_string();
        assert!(error.contains("GROQ_API_KEY") && !error.contains("sk-"), "{error}");
    }
}
