//! The body of a chat request.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::body::Body;
use crate::{
    allowance::Charge,
    error::Error,
    llm::{Chat, has_images},
    tools::{SelectedTool, offer::MAX_TOOLS},
    usage::estimate::Size,
};

/// The longest name of a model, in bytes: a provider's own have fewer than a hundred.
const MAX_NAME: usize = 1024;

/// A chat request. Without `Debug`, because it holds a user's text.
pub struct ChatBody {
    /// For its memory, and for the request to a provider that is made of it.
    _charge: Charge,
    model: String,
    temperature: Option<Box<RawValue>>,
    messages: Box<RawValue>,
    custom_model_id: Option<String>,
    selected_tools: Option<Result<Vec<SelectedTool>, NoArray>>,
    has_images: bool,
    size: Size,
    bytes: usize,
}

/// Marks tools that are no array.
struct NoArray;

/// Members of a chat request. Unknown ones are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Members<'a> {
    #[serde(borrow, default)]
    chat_settings: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    /// A row of `models`; for custom models only.
    #[serde(borrow, default)]
    custom_model_id: Option<&'a RawValue>,
    /// For the tools route only.
    #[serde(borrow, default)]
    selected_tools: Option<&'a RawValue>,
}

#[derive(Default)]
struct Settings<'a> {
    model: Option<String>,
    temperature: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Settings<'a> {
    // By hand, because of a key that is there twice the last counts, as in
    // JavaScript.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Settings<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the settings of a chat")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut settings = Settings::default();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    match name.as_ref() {
                        "model" => settings.model = map.next_value()?,
                        "temperature" => settings.temperature = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(settings)
            }
        }
        deserializer.deserialize_map(Each)
    }
}

impl ChatBody {
    /// Parses a body.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if it is no JSON object, or a member is missing or invalid; the sentence names it.
    pub fn parse(body: Body) -> Result<Self, Error> {
        let bad = |sentence: &str| Error::BadRequest(sentence.to_owned());
        let posted: Members<'_> = body.object("chatSettings")?;
        let settings = posted.chat_settings.ok_or_else(|| bad("chatSettings is missing: it names the model"))?;
        if !settings.get().starts_with('{') {
            return Err(bad("chatSettings must be an object that names the model"));
        }
        let settings: Settings<'_> =
            serde_json::from_str(settings.get()).map_err(|_| bad("chatSettings.model must be a string"))?;
        let model = settings.model.ok_or_else(|| bad("chatSettings.model is missing"))?;
        if model.len() > MAX_NAME {
            return Err(bad("chatSettings.model must be the name of a model"));
        }
        let messages = posted.messages.ok_or_else(|| bad("messages is missing: it must be an array"))?;
        if !messages.get().starts_with('[') {
            return Err(bad("messages must be an array"));
        }
        let (size, bytes) = (Size::of(messages.get()), body.text.len());
        Ok(Self {
            has_images: has_images(messages),
            size,
            model,
            temperature: settings.temperature.map(ToOwned::to_owned),
            messages: messages.to_owned(),
            custom_model_id: posted.custom_model_id.and_then(|id| serde_json::from_str(id.get()).ok()),
            selected_tools: posted.selected_tools.map(tools),
            bytes,
            _charge: body.into_charge(),
        })
    }

    /// Returns the chat to complete.
    pub fn chat(&self) -> Chat<'_> {
        Chat { model: self.model.clone(), temperature: self.temperature.as_deref(), messages: &self.messages }
    }

    /// Tells if an image is among the messages.
    pub fn has_images(&self) -> bool {
        self.has_images
    }

    /// Returns the size of the messages.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Returns the size of the body that it came in, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the tools that the model may call. What is no tool is one without anything, to be refused by name.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if they are missing or no array.
    pub fn take_selected_tools(&mut self) -> Result<Vec<SelectedTool>, Error> {
        match self.selected_tools.take() {
            Some(Ok(tools)) => Ok(tools),
            Some(Err(NoArray)) => Err(Error::BadRequest("selectedTools must be an array of tools".to_owned())),
            None => Err(Error::BadRequest("selectedTools is missing: it must be an array".to_owned())),
        }
    }

    /// Returns the custom model's id, if it is a UUID.
    pub fn custom_model(&self) -> Option<Uuid> {
        Uuid::try_parse(self.custom_model_id()?).ok()
    }

    /// Returns the custom model's id, if it is a string.
    pub fn custom_model_id(&self) -> Option<&str> {
        self.custom_model_id.as_deref()
    }
}

fn tools(json: &RawValue) -> Result<Vec<SelectedTool>, NoArray> {
    let tools: Vec<&RawValue> = serde_json::from_str(json.get()).map_err(|_| NoArray)?;
    // One more than are used, so that the user is told of the others.
    Ok(tools.into_iter().take(MAX_TOOLS + 1).map(SelectedTool::read).collect())
}
