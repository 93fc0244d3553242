//! The ways to have a chat answered: the model that the client named, by each key for it, then the operator's
//! fallbacks. Whatever a way leads to, the client's messages are put into its form and failures into its route's words.

use std::{rc::Rc, sync::Arc};

use actix_web::web::Data;
use secrecy::SecretString;
use serde_json::{Map, Value, value::RawValue};
use uuid::Uuid;

use super::{body::Body, context::ChatContext, user::User};
use crate::{
    credentials::{Key, Keys, Profile},
    error::Error,
    llm::{
        Call, Chat, Failure, Providers, Wire,
        answer::openai::Habits,
        anthropic, azure,
        catalogue::Date,
        circuits::Circuit,
        dispatch::{Attempt, ModelRequest},
        failover::Way,
        functions::{Form, google_messages, openai_messages},
        google,
        offers::Hosted,
        openai,
        providers::{Access, CUSTOM, OPENAI, Provider, Vendor, provider_at},
        pseudonym::pseudonym,
        request::{self, Extras, Prompt},
        routing::Wanted,
    },
    telemetry::RequestLog,
};

/// Makes the call of one round, without functions. Only for the Responses API
/// the turns so far and the functions, in OpenAI's terms, are given to it.
pub type MakeRound = Box<dyn Fn(&Attempt<'_>, &[Value], Option<&[Value]>) -> Result<Call, Error>>;

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

/// The differences between the routes that a chat is posted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// A provider's own route.
    Chat,
    /// Google's, to which messages come in Google's form.
    Google,
    /// The route for tools.
    Tools,
}

/// The ways to have one chat answered. Only the first is prepared unless it fails.
pub struct Ways {
    body: Rc<Body>,
    posted: Posted,
    images: bool,
    user: Uuid,
    /// The server's keys.
    keys: Arc<Keys>,
    organization: Option<SecretString>,
    context: Shared,
    list: Vec<Kept>,
}

/// Parts of the context that calls need.
#[derive(Clone)]
struct Shared {
    providers: Data<Providers>,
    log: RequestLog,
}

struct Kept {
    source: Source,
    model: String,
    /// The key's place among the server's; `None` for a user's own.
    number: Option<usize>,
    rank: usize,
}

enum Source {
    Hosted(Vendor, SecretString),
    Azure(azure::Access),
    Custom(Access),
}

/// Returns the values of a key: the server's with their places, or the user's own one.
fn values(profile: &Profile, key: Key) -> Vec<(SecretString, Option<usize>)> {
    let is_of_server = profile.is_from_environment(key);
    profile.keys(key).cloned().enumerate().map(|(number, value)| (value, is_of_server.then_some(number))).collect()
}

fn numbered(keys: &Keys, key: Key) -> Vec<(SecretString, Option<usize>)> {
    keys.all(key).cloned().enumerate().map(|(number, value)| (value, Some(number))).collect()
}

/// Tells if there is a key for a provider.
///
/// # Errors
/// [`Error::KeyNotFound`] if neither the server nor the user has one.
pub fn check_key(user: &User, vendor: Vendor) -> Result<(), Error> {
    user.profile()?.key(vendor.key()).map(|_| ()).ok_or(Error::KeyNotFound(vendor.title()))
}

impl Ways {
    /// Returns no ways yet, and the model that the client named.
    fn new(user: &User, context: &ChatContext, body: &Rc<Body>, posted: Posted) -> Result<(Self, String), Error> {
        let profile = user.optional_profile();
        let chat = body.chat()?.chat()?;
        let ways = Self {
            images: chat.has_images(),
            body: body.clone(),
            posted,
            user: user.id,
            keys: profile.map(|profile| profile.environment.clone()).unwrap_or_default(),
            organization: profile.and_then(|profile| profile.key(Key::OpenAiOrganization).cloned()),
            context: Shared { providers: context.providers.clone(), log: context.log.clone() },
            list: Vec::new(),
        };
        Ok((ways, chat.model))
    }

    /// Returns the ways to a provider's model.
    ///
    /// # Errors
    /// If there is no key for it, or the body is invalid.
    pub fn hosted(
        vendor: Vendor,
        user: &User,
        context: &ChatContext,
        body: &Rc<Body>,
        posted: Posted,
    ) -> Result<Self, Error> {
        check_key(user, vendor)?;
        let (mut ways, model) = Self::new(user, context, body, posted)?;
        ways.add(Hosted { vendor, model }, &values(user.profile()?, vendor.key()), 0);
        ways.add_fallbacks();
        Ok(ways)
    }

    /// Returns the ways to a model that the operator offers: by the server's own keys alone.
    ///
    /// # Errors
    /// If the server has none, or the body is invalid.
    pub fn offered(
        model: Hosted,
        user: &User,
        context: &ChatContext,
        body: &Rc<Body>,
        posted: Posted,
    ) -> Result<Self, Error> {
        user.profile()?;
        let (mut ways, _) = Self::new(user, context, body, posted)?;
        ways.organization = ways.keys.get(Key::OpenAiOrganization).cloned();
        let values = numbered(&ways.keys, model.vendor.key());
        if values.is_empty() {
            let title = model.vendor.title();
            return Err(Error::Failed {
                status: 500,
                message: format!(
                    "This server offers {}, but has no key for {title}: please tell its operator.",
                    model.model
                ),
            });
        }
        ways.add(model, &values, 0);
        ways.add_fallbacks();
        Ok(ways)
    }

    /// Returns the ways to a deployment of Azure's.
    ///
    /// # Errors
    /// If the body is invalid.
    pub fn azure(
        deployment: &str,
        access: &azure::Access,
        user: &User,
        context: &ChatContext,
        body: &Rc<Body>,
        posted: Posted,
    ) -> Result<Self, Error> {
        let (mut ways, _) = Self::new(user, context, body, posted)?;
        for (key, number) in values(user.profile()?, Key::AzureOpenAi) {
            let source = Source::Azure(access.with_key(key));
            ways.list.push(Kept { source, model: deployment.to_owned(), number, rank: 0 });
        }
        Ok(ways)
    }

    /// Returns the one way to a server that a user chose.
    ///
    /// # Errors
    /// If the body is invalid.
    pub fn custom(
        base_url: &str,
        key: &SecretString,
        user: &User,
        context: &ChatContext,
        body: &Rc<Body>,
        posted: Posted,
    ) -> Result<Self, Error> {
        let (mut ways, model) = Self::new(user, context, body, posted)?;
        let base_url = match base_url.trim() {
            "" => (CUSTOM.base_url)(&context.providers.base_urls),
            base_url => base_url,
        };
        let access =
            Access { base_url: base_url.to_owned(), key: key.clone(), organization: None, extras: Extras::default() };
        ways.list.push(Kept { source: Source::Custom(access), model, number: None, rank: 0 });
        Ok(ways)
    }

    fn add(&mut self, model: Hosted, values: &[(SecretString, Option<usize>)], rank: usize) {
        self.list.extend(values.iter().map(|(value, number)| Kept {
            source: Source::Hosted(model.vendor, value.clone()),
            model: model.model.clone(),
            number: *number,
            rank,
        }));
    }

    /// Adds the operator's fallbacks, unless the user's own key is used: that is the user's choice.
    fn add_fallbacks(&mut self) {
        let Some(Kept { source: Source::Hosted(vendor, _), model, number: Some(_), .. }) = self.list.first() else {
            return;
        };
        let named = Hosted { vendor: *vendor, model: model.clone() };
        let fallbacks = self.context.providers.routing.fallbacks(&named, Date::today());
        for (rank, model) in (1..).zip(fallbacks) {
            let values = numbered(&self.keys, model.vendor.key());
            self.add(model, &values, rank);
        }
    }

    /// Tells if one of the ways leads to Google.
    pub fn may_be_google(&self) -> bool {
        self.list.iter().any(|kept| matches!(kept.source, Source::Hosted(Vendor::Google, _)))
    }

    /// Returns the ways for [`crate::llm::failover`].
    pub fn ways(&self) -> Vec<Way> {
        let way = |kept: &Kept| Way { provider: kept.source.path(), circuit: self.circuit(kept), model: kept.rank };
        self.list.iter().map(way).collect()
    }

    fn circuit(&self, kept: &Kept) -> Option<Circuit> {
        let key = match &kept.source {
            Source::Hosted(vendor, _) => vendor.key(),
            Source::Azure(_) => Key::AzureOpenAi,
            Source::Custom(_) => return None,
        };
        self.context.providers.routing.circuits.find(key, kept.number?)
    }

    /// Returns the name of the first way's provider, and its model, for the record.
    pub fn first(&self) -> (&'static str, &str) {
        self.list.first().map_or(("", ""), |kept| (kept.source.path(), &kept.model))
    }

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
                let (access, request) =
                    (access.clone(), azure::request(&self.context.providers, kept.model.clone(), access));
                self.by_prompt(request, true, openai::plain_error, azure::PROVIDER, move |prompt, attempt| {
                    azure::call(&prompt, attempt, &access)
                })
            }
            Source::Custom(access) => {
                let request = self.request(provider_at(&access.base_url), kept, access, Wire::Chat);
                let request = ModelRequest { habits: CUSTOM.habits, ..request };
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
        let base_url = self.context.providers.base_urls.anthropic.clone();
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
        let base_url = self.context.providers.base_urls.google.clone();
        let access =
            Access { base_url: base_url.clone(), key: key.clone(), organization: None, extras: Extras::default() };
        let name = Vendor::Google.name();
        let request = self.request(name, kept, &access, Wire::Generate);
        let (body, posted, log) = (self.body.clone(), self.posted, self.context.log.clone());
        Target {
            request,
            form: Form::Google,
            make_call: Box::new(move |attempt, _, _| {
                let body = body.chat()?;
                let chat = body.chat()?;
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
            base_url: (provider.base_url)(&self.context.providers.base_urls).to_owned(),
            key: key.clone(),
            organization: organization.clone(),
            extras,
        };
        let request = ModelRequest {
            chat_first: provider.is_chat_first(&access.base_url),
            habits: provider.habits,
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
        call: impl Fn(Prompt<'_>, &Attempt<'_>) -> Result<Call, Error> + 'static,
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
            scope: self.context.providers.routing.learnt.scope(&access.base_url, &access.key),
            models: vec![kept.model.clone()],
            wire,
            chat_first: false,
            wanted: Wanted { images: self.images, functions: false },
            habits: Habits::NONE,
        }
    }

    /// Returns the pseudonym of a user who is served with the server's own key:
    /// the provider holds its owner to account for what all of them do.
    fn users_name(&self, kept: &Kept, key: &SecretString) -> Option<String> {
        kept.number.and_then(|_| pseudonym(self.user, key))
    }
}

impl Source {
    fn path(&self) -> &'static str {
        match self {
            Self::Hosted(vendor, _) => vendor.name(),
            Self::Azure(_) => azure::PROVIDER,
            Self::Custom(_) => CUSTOM.path,
        }
    }
}

fn in_openais_form(
    body: &Body,
    posted: Posted,
    call: impl FnOnce(&Chat<'_>) -> Result<Call, Error>,
) -> Result<Call, Error> {
    let body = body.chat()?;
    let chat = body.chat()?;
    if posted == Posted::Google { with_messages(&chat, openai_messages, call) } else { call(&chat) }
}

fn with_messages(
    chat: &Chat<'_>,
    convert: fn(Vec<Map<String, Value>>) -> Vec<Map<String, Value>>,
    call: impl FnOnce(&Chat<'_>) -> Result<Call, Error>,
) -> Result<Call, Error> {
    let messages: Box<RawValue> = serde_json::value::to_raw_value(&convert(chat.message_objects()?))
        .map_err(|error| Error::Internal(error.to_string()))?;
    call(&Chat { model: chat.model.clone(), temperature: chat.temperature, messages: &messages })
}
