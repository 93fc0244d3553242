//! The one table of API keys and key-like settings: environment variable ↔ column of `profiles` ↔ name in the answer of
//! `/api/keys`.
//!
//! The SQL that reads a profile, the environment's precedence and `/api/keys` all use it. A new key is one row here
//! (and a column in the database).

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

/// An index into [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table beside it says what each is")]
pub enum Key {
    AzureOpenAi,
    OpenAi,
    GoogleGemini,
    Anthropic,
    Mistral,
    Groq,
    Perplexity,
    OpenRouter,
    OpenAiOrganization,
    AzureEndpoint,
    AzureGpt35Turbo,
    AzureGpt45Vision,
    AzureGpt45Turbo,
    AzureEmbeddings,
}

/// One key: its sources and its names.
#[derive(Debug)]
pub struct Row {
    /// Identifies the key; equals the row's index.
    pub key: Key,
    /// The environment variable that overrides the profile.
    pub variable: &'static str,
    /// The column of `public.profiles`.
    pub column: &'static str,
    /// The member of `isUsingEnvKeyMap` in the answer of `/api/keys`.
    pub name: &'static str,
}

impl Row {
    /// Tells if its variable may hold several keys, with commas between.
    pub fn takes_several(&self) -> bool {
        self.variable.ends_with("_API_KEY")
    }
}

const fn row(key: Key, variable: &'static str, column: &'static str, name: &'static str) -> Row {
    Row { key, variable, column, name }
}

const ROWS: usize = 14;

/// Every key, in the order in which `/api/keys` lists them.
pub const TABLE: [Row; ROWS] = [
    row(Key::AzureOpenAi, "AZURE_OPENAI_API_KEY", "azure_openai_api_key", "azure"),
    row(Key::OpenAi, "OPENAI_API_KEY", "openai_api_key", "openai"),
    row(Key::GoogleGemini, "GOOGLE_GEMINI_API_KEY", "google_gemini_api_key", "google"),
    row(Key::Anthropic, "ANTHROPIC_API_KEY", "anthropic_api_key", "anthropic"),
    row(Key::Mistral, "MISTRAL_API_KEY", "mistral_api_key", "mistral"),
    row(Key::Groq, "GROQ_API_KEY", "groq_api_key", "groq"),
    row(Key::Perplexity, "PERPLEXITY_API_KEY", "perplexity_api_key", "perplexity"),
    row(Key::OpenRouter, "OPENROUTER_API_KEY", "openrouter_api_key", "openrouter"),
    row(Key::OpenAiOrganization, "OPENAI_ORGANIZATION_ID", "openai_organization_id", "openai_organization_id"),
    row(Key::AzureEndpoint, "AZURE_OPENAI_ENDPOINT", "azure_openai_endpoint", "azure_openai_endpoint"),
    row(Key::AzureGpt35Turbo, "AZURE_GPT_35_TURBO_NAME", "azure_openai_35_turbo_id", "azure_gpt_35_turbo_name"),
    row(Key::AzureGpt45Vision, "AZURE_GPT_45_VISION_NAME", "azure_openai_45_vision_id", "azure_gpt_45_vision_name"),
    row(Key::AzureGpt45Turbo, "AZURE_GPT_45_TURBO_NAME", "azure_openai_45_turbo_id", "azure_gpt_45_turbo_name"),
    row(Key::AzureEmbeddings, "AZURE_EMBEDDINGS_NAME", "azure_openai_embeddings_id", "azure_embeddings_name"),
];

/// A value for each row of [`TABLE`], or `None`; of the server's keys also more than one.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    first: [Option<SecretString>; ROWS],
    more: Vec<(Key, SecretString)>,
}

impl Keys {
    /// Fills the table by calling `value` for each row.
    ///
    /// # Errors
    /// If `value` returns an error: the first one.
    pub fn try_from_rows<E>(mut value: impl FnMut(&Row) -> Result<Option<String>, E>) -> Result<Self, E> {
        let mut keys = Self::default();
        for row in &TABLE {
            keys.first[row.key as usize] = value(row)?.map(SecretString::from);
        }
        Ok(keys)
    }

    /// Returns a key's value; `None` if it is absent (an empty string counts as present).
    pub fn get(&self, key: Key) -> Option<&SecretString> {
        self.first[key as usize].as_ref()
    }

    /// Adds a key behind the others of its row.
    pub fn add(&mut self, key: Key, value: String) {
        match &mut self.first[key as usize] {
            first @ None => *first = Some(value.into()),
            Some(_) => self.more.push((key, value.into())),
        }
    }

    /// Returns all values of a key, in the order in which they are used.
    pub fn all(&self, key: Key) -> impl Iterator<Item = &SecretString> {
        self.get(key).into_iter().chain(self.more.iter().filter(move |(of, _)| *of == key).map(|(_, value)| value))
    }
}

/// A row of `profiles`, overridden by the environment's keys.
#[derive(Debug)]
pub struct Profile {
    /// The row's own keys.
    pub own: Keys,
    /// The server's keys, which take precedence.
    pub environment: Arc<Keys>,
    /// Use Azure instead of OpenAI for embeddings.
    pub use_azure_openai: bool,
}

impl Profile {
    /// Returns a key: the environment's, else the profile's; `None` if neither is set or the profile's is empty.
    pub fn key(&self, key: Key) -> Option<&SecretString> {
        self.environment.get(key).or_else(|| self.own.get(key).filter(|value| !value.expose_secret().is_empty()))
    }

    /// Returns all values of a key: the environment's, else the profile's.
    pub fn keys(&self, key: Key) -> impl Iterator<Item = &SecretString> {
        let own = self.key(key).filter(|_| !self.is_from_environment(key));
        self.environment.all(key).chain(own)
    }

    /// Returns the organization that pays for requests by [`Key::OpenAi`].
    ///
    /// Differs: the original sends a user's organization also with the server's key, which OpenAI then refuses, and the
    /// key would rest for all users.
    pub fn openai_organization(&self) -> Option<&SecretString> {
        let key = Key::OpenAiOrganization;
        self.key(key).filter(|_| self.is_from_environment(key) || !self.is_from_environment(Key::OpenAi))
    }

    /// Tells if a key comes from the environment, so that the user did not choose it.
    pub fn is_from_environment(&self, key: Key) -> bool {
        self.environment.get(key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stands_at_its_keys_number() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.key as usize, index, "{}", row.variable);
        }
    }

    #[test]
    fn a_key_may_have_several_values_in_their_order() {
        let mut keys = Keys::default();
        for (key, value) in [(Key::OpenAi, "a"), (Key::Groq, "x"), (Key::OpenAi, "b")] {
            keys.add(key, value.to_owned());
        }
        let all = |key| keys.all(key).map(ExposeSecret::expose_secret).collect::<Vec<_>>();
        assert_eq!((all(Key::OpenAi), all(Key::Groq), all(Key::Mistral)), (vec!["a", "b"], vec!["x"], vec![]));
        assert_eq!(TABLE.iter().filter(|row| row.takes_several()).count(), 8);
    }

    #[test]
    fn keys_do_not_show() {
        let keys = Keys::try_from_rows(|_| Ok::<_, ()>(Some("sk-secret".to_owned()))).expect("no error");
        assert!(!format!("{keys:?}").contains("sk-secret"));
    }
}
