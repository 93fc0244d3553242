//! One way, prepared: the calls of its provider's API, and its route's words.

use secrecy::SecretString;
use serde_json::{Map, Value, value::RawValue};

use super::{Kept, Posted, Source, Ways};
use crate::{
    credentials::Key,
    error::Error,
    http::chat_body::ChatBody,
    llm::{
        Attempt, Call, Chat, Failure, Wire,
        access::Access,
        anthropic, azure,
        functions::{Form, google_messages, openai_messages},
        google, openai,
        providers::{CUSTOM, OPENAI, Provider, Vendor, provider_at},
        pseudonym::pseudonym,
        request::{self, Extras, Prompt},
        routing::{ModelRequest, Wanted},
    },
};

/// Makes the call of one round, without functions. Only for the Responses API
/// the turns so far and the functions, in OpenAI's terms, are given to it.
pub type MakeRound = Box<dyn Fn(&Attempt<'_>, &[Value], Option<&[Value]>) -> Result<Call, Error> + Send + Sync>;

/// Words a failure as the way's route does.
pub type MapErr = Box<dyn Fn(Failure) -> Error>;

/// All that one way needs.
pub struct Target {
    /// The model.
    pub request: ModelRequest,
    /// The form of function calls.
    pub form: Form,
    /// Makes the calls.
    pub make_call: MakeRound,
    /// Words failures.
    pub map_err: MapErr,
    /// The provider's name in logs and metrics.
    pub path: &'static str,
}

/// Converts messages from one form to another.
type Convert = fn(Vec<Map<String, Value>>) -> Vec<Map<String, Value>>;

impl Ways {
    /// Prepares a way.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is none at this index, which is a bug.
    pub fn target(&self, at: usize) -> Result<Target, Error> {
        let kept = self.list.get(at).ok_or_else(|| Error::Internal("there is no such way".to_owned()))?;
        Ok(match &kept.source {
            Source::Hosted(Vendor::Anthropic, key) => self.anthropic(kept, key),
            Source::Hosted(Vendor::Google, key) => self.google(kept, key),
            Source::Hosted(vendor, key) => self.row(vendor.row(), kept, key),
            Source::Azure(access) => {
                let (access, request) = (access.clone(), azure::request(&self.providers, kept.model.clone(), access));
                self.by_prompt(request, true, openai::plain_error, azure::PROVIDER, move |prompt, attempt| {
                    azure::call(&prompt, attempt, &access)
                })
            }
            Source::Custom(access) => {
                let request = self.request(provider_at(&access.base_url), kept, access, Wire::Chat);
                let request = ModelRequest { any_end: CUSTOM.any_end, ..request };
                let access = access.clone();
                self.by_prompt(
                    request,
                    true,
                    |failure| CUSTOM.error(failure),
                    CUSTOM.path,
                    move |prompt, attempt| Ok(Call { guarded: true, ..CUSTOM.call(prompt, attempt, &access)? }),
                )
            }
        })
    }

    fn anthropic(&self, kept: &Kept, key: &SecretString) -> Target {
        let base_url = Vendor::Anthropic.base_url(&self.providers.base_urls).to_owned();
        let extras = Extras { user: self.users_name(kept, key), ..Extras::default() };
        let access = Access { base_url, key: key.clone(), organization: None, extras };
        let name = Vendor::Anthropic.name();
        let request = self.request(name, kept, &access, Wire::Messages);
        let (body, posted) = (self.body.clone(), self.posted);
        Target {
            request,
            form: Form::Anthropic,
            make_call: Box::new(move |attempt, _, _| {
                in_openais_form(&body, posted, |chat| anthropic::call(chat, attempt, &access))
            }),
            map_err: Box::new(anthropic::error),
            path: name,
        }
    }

    fn google(&self, kept: &Kept, key: &SecretString) -> Target {
        let base_url = Vendor::Google.base_url(&self.providers.base_urls).to_owned();
        let access =
            Access { base_url: base_url.clone(), key: key.clone(), organization: None, extras: Extras::default() };
        let name = Vendor::Google.name();
        let request = self.request(name, kept, &access, Wire::Generate);
        let (body, posted, log) = (self.body.clone(), self.posted, self.log.clone());
        Target {
            request,
            form: Form::Google,
            make_call: Box::new(move |attempt, _, _| {
                let chat = body.chat();
                if posted == Posted::Google {
                    return google::call(&chat, attempt, &access);
                }
                with_messages(&chat, google_messages, |chat| google::call(chat, attempt, &access))
            }),
            map_err: Box::new(move |failure| {
                let asked = log.note().effective_model.clone().unwrap_or_default();
                google::error(&google::url(&base_url, &asked).map_or_else(|_| base_url.clone(), String::from), failure)
            }),
            path: name,
        }
    }

    fn row(&self, provider: &'static Provider, kept: &Kept, key: &SecretString) -> Target {
        let extras = match provider.extras {
            true => Extras { usage: true, cache_key: pseudonym(self.user, key), user: self.users_name(kept, key) },
            false => Extras::default(),
        };
        // A user's organization is none of the operator's.
        let organization =
            if kept.rank == 0 { &self.organization } else { &self.keys.get(Key::OpenAiOrganization).cloned() };
        let access = Access {
            base_url: (provider.base_url)(&self.providers.base_urls).to_owned(),
            key: key.clone(),
            organization: organization.clone(),
            extras,
        };
        let request = ModelRequest {
            chat_first: provider.is_chat_first(&access.base_url),
            any_end: provider.any_end,
            ..self.request(provider.path, kept, &access, Wire::Chat)
        };
        // The original asks OpenAI for tools without the chat's temperature, and shows its words alone.
        let plainly = self.posted == Posted::Tools && provider.path == OPENAI.path;
        let map_err = move |failure| if plainly { openai::plain_error(failure) } else { provider.error(failure) };
        self.by_prompt(request, !plainly, map_err, provider.path, move |prompt, attempt| {
            provider.call(prompt, attempt, &access)
        })
    }

    /// Makes calls in OpenAI's terms. The Responses API has another form of turns
    /// and functions, so these are part of the prompt there.
    fn by_prompt(
        &self,
        request: ModelRequest,
        with_temperature: bool,
        map_err: impl Fn(Failure) -> Error + 'static,
        path: &'static str,
        call: impl Fn(Prompt<'_>, &Attempt<'_>) -> Result<Call, Error> + Send + Sync + 'static,
    ) -> Target {
        let (body, posted) = (self.body.clone(), self.posted);
        let make_call = move |attempt: &Attempt<'_>, more: &[Value], tools: Option<&[Value]>| {
            in_openais_form(&body, posted, |chat| {
                let temperature = chat.temperature.filter(|_| with_temperature);
                if attempt.wire != Wire::Responses || (more.is_empty() && tools.is_none()) {
                    return call(Prompt { temperature, ..Prompt::new(chat) }, attempt);
                }
                let mut turns: Vec<Value> = chat.message_objects()?.into_iter().map(Value::Object).collect();
                turns.extend_from_slice(more);
                let turns = request::Turns::Values(&turns);
                call(Prompt { turns, temperature, tools, stream: true, quick: false }, attempt)
            })
        };
        Target { request, form: Form::OpenAi, make_call: Box::new(make_call), map_err: Box::new(map_err), path }
    }

    fn request(&self, provider: &'static str, kept: &Kept, access: &Access, wire: Wire) -> ModelRequest {
        ModelRequest {
            provider,
            scope: self.providers.routing.learnt.scope(&access.base_url, &access.key),
            models: vec![kept.model.clone()],
            wire,
            chat_first: false,
            wanted: Wanted { images: self.body.has_images(), functions: false },
            any_end: false,
        }
    }

    /// Returns the pseudonym of a user who is served with the server's own key:
    /// the provider holds its owner to account for what all of them do.
    fn users_name(&self, kept: &Kept, key: &SecretString) -> Option<String> {
        kept.number.and_then(|_| pseudonym(self.user, key))
    }
}

fn in_openais_form(
    body: &ChatBody,
    posted: Posted,
    call: impl FnOnce(&Chat<'_>) -> Result<Call, Error>,
) -> Result<Call, Error> {
    let chat = body.chat();
    if posted == Posted::Google { with_messages(&chat, openai_messages, call) } else { call(&chat) }
}

fn with_messages(
    chat: &Chat<'_>,
    convert: Convert,
    call: impl FnOnce(&Chat<'_>) -> Result<Call, Error>,
) -> Result<Call, Error> {
    let messages: Box<RawValue> = serde_json::value::to_raw_value(&convert(chat.message_objects()?))
        .map_err(|error| Error::Internal(error.to_string()))?;
    call(&Chat { model: chat.model.clone(), temperature: chat.temperature, messages: &messages })
}
