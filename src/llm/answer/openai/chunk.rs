//! One event of OpenAI's stream, as far as it matters, borrowed from the
//! event's bytes.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::llm::content::Content;

#[derive(Deserialize)]
pub struct Chunk<'a> {
    #[serde(borrow, default)]
    pub choices: Choices<'a>,
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub usage: Option<&'a RawValue>,
    /// Groq's, with the usage of the whole answer.
    #[serde(borrow, default)]
    pub x_groq: Option<&'a RawValue>,
    /// Perplexity's, a list of URLs.
    #[serde(borrow, default)]
    pub citations: Option<&'a RawValue>,
    /// Perplexity's, a list of pages.
    #[serde(borrow, default)]
    pub search_results: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
pub struct Choice<'a> {
    #[serde(borrow, default)]
    pub delta: Option<Delta<'a>>,
    /// The text of the older completions API.
    #[serde(borrow, default)]
    pub text: Option<Content<'a>>,
    #[serde(borrow, default)]
    pub finish_reason: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
pub struct Delta<'a> {
    #[serde(borrow, default)]
    pub content: Option<Content<'a>>,
    #[serde(borrow, default)]
    pub refusal: Option<Content<'a>>,
    /// DeepSeek's and its followers' thoughts.
    #[serde(borrow, default)]
    pub reasoning_content: Option<Content<'a>>,
    /// OpenRouter's and Groq's thoughts.
    #[serde(borrow, default)]
    pub reasoning: Option<Content<'a>>,
    #[serde(borrow, default)]
    pub annotations: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub function_call: Option<&'a RawValue>,
}

impl Delta<'_> {
    /// Whether it holds a text and nothing else that matters.
    pub fn is_content_alone(&self) -> bool {
        self.refusal.is_none()
            && self.reasoning_content.is_none()
            && self.reasoning.is_none()
            && self.annotations.is_none()
    }
}

/// The first element of `choices`; the others are not looked at, and whatever
/// is no list of objects has none.
#[derive(Default)]
pub struct Choices<'a> {
    pub first: Option<Choice<'a>>,
    /// There is such a member, and it is not `null`.
    pub are_there: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Choices<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = Choices<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of choices")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let first = list.next_element::<Option<Choice<'de>>>()?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Choices { first: first.flatten(), are_there: true })
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Choices { first: None, are_there: true })
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Choices::default())
            }
        }
        deserializer.deserialize_any(First)
    }
}
