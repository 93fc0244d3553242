//! `POST /api/chat/{provider}`: a chat, streamed.

use actix_web::{HttpResponse, web::Data};
use secrecy::SecretString;
use uuid::Uuid;

use crate::{
    credentials::{Key, Profile},
    db::{Db, models},
    error::Error,
    http::{
        admit::{Route, admit},
        body::UnreadBody,
        context::ChatContext,
        user::{Caller, User},
    },
    llm::{
        Call, Chat, Wire,
        answer::openai::Habits,
        anthropic, azure,
        dispatch::{Attempt, ModelRequest},
        google, openai,
        providers::{Access, CUSTOM, Provider, provider_at},
        pseudonym::pseudonym,
        request::{Extras, Prompt},
        routing::Wanted,
    },
};

/// `POST /api/chat/{openai,groq,mistral,openrouter,perplexity}`.
pub async fn reply(
    provider: &'static Provider,
    caller: Caller,
    context: ChatContext,
    body: UnreadBody,
) -> Result<HttpResponse, Error> {
    let route = Route::Chat(provider.path, Wire::Chat);
    let (user, body) = admit(caller, &context, body, usize::MAX, route).await?;
    let access = access(provider, &user, &context)?;
    let chat = body.chat()?.chat()?;
    context.note(provider.path, &chat.model);
    let chat_first = provider.is_chat_first(&access.base_url);
    let request = ModelRequest {
        chat_first,
        habits: provider.habits,
        ..request(provider.path, &context, &access, &chat, Wire::Chat)
    };
    drop(user);
    let call = move |attempt: &Attempt<'_>| provider.call(Prompt::new(&body.chat()?.chat()?), attempt, &access);
    context.relay(request, call, |failure| provider.error(failure)).await
}

/// `POST /api/chat/custom`: the user's own model, or a shared one.
///
/// Differs: the original checks no session and lets anyone use any row.
pub async fn reply_custom(
    caller: Caller,
    context: ChatContext,
    db: Data<Db>,
    body: UnreadBody,
) -> Result<HttpResponse, Error> {
    let route = Route::Chat(CUSTOM.path, Wire::Chat);
    let (user, body) = admit(caller, &context, body, usize::MAX, route).await?;
    let posted = body.chat()?;
    let chat = posted.chat()?;
    let id = posted.custom_model_id().and_then(|id| Uuid::try_parse(&id).ok()).ok_or(Error::ModelNotFound)?;
    let model = models::find(&db, user.id, id).await?.ok_or(Error::ModelNotFound)?;
    let base_url = match model.base_url.trim() {
        "" => (CUSTOM.base_url)(&context.providers.base_urls),
        base_url => base_url,
    };
    let access = Access {
        base_url: base_url.to_owned(),
        key: model.api_key.clone(),
        organization: None,
        extras: Extras::default(),
    };
    context.note(CUSTOM.path, &chat.model);
    let request = request(provider_at(base_url), &context, &access, &chat, Wire::Chat);
    let request = ModelRequest { habits: CUSTOM.habits, ..request };
    let call = move |attempt: &Attempt<'_>| {
        let call = CUSTOM.call(Prompt::new(&body.chat()?.chat()?), attempt, &access)?;
        Ok(Call { guarded: true, ..call })
    };
    drop((user, model));
    context.relay(request, call, |failure| CUSTOM.error(failure)).await
}

/// `POST /api/chat/azure`.
pub async fn reply_azure(caller: Caller, context: ChatContext, body: UnreadBody) -> Result<HttpResponse, Error> {
    let route = Route::Chat(azure::PROVIDER, Wire::Chat);
    let (user, body) = admit(caller, &context, body, usize::MAX, route).await?;
    let chat = body.chat()?.chat()?;
    let profile = user.profile()?;
    let deployment = azure::deployment(profile, &chat.model)?;
    let access = azure::access(profile)?;
    context.note(azure::PROVIDER, &chat.model);
    let request = azure::request(&context.providers, deployment, &access);
    let call = move |attempt: &Attempt<'_>| azure::call(&Prompt::new(&body.chat()?.chat()?), attempt, &access);
    drop(user);
    context.relay(request, call, openai::plain_error).await
}

/// `POST /api/chat/anthropic`.
pub async fn reply_anthropic(caller: Caller, context: ChatContext, body: UnreadBody) -> Result<HttpResponse, Error> {
    let route = Route::Chat("anthropic", Wire::Messages);
    let (user, body) = admit(caller, &context, body, usize::MAX, route).await?;
    let profile = user.profile()?;
    let key = profile.key(Key::Anthropic).ok_or(Error::KeyNotFound(anthropic::NAME))?;
    let base_url = context.providers.base_urls.anthropic.clone();
    let extras = Extras { user: server_users_name(&user, profile, Key::Anthropic), ..Extras::default() };
    let access = Access { base_url, key: key.clone(), organization: None, extras };
    let chat = body.chat()?.chat()?;
    context.note("anthropic", &chat.model);
    let request = request("anthropic", &context, &access, &chat, Wire::Messages);
    let call = move |attempt: &Attempt<'_>| anthropic::call(&body.chat()?.chat()?, attempt, &access);
    drop(user);
    context.relay(request, call, anthropic::error).await
}

/// `POST /api/chat/google`.
pub async fn reply_google(caller: Caller, context: ChatContext, body: UnreadBody) -> Result<HttpResponse, Error> {
    let route = Route::Chat("google", Wire::Generate);
    let (user, body) = admit(caller, &context, body, usize::MAX, route).await?;
    let key = user.profile()?.key(Key::GoogleGemini).ok_or(Error::KeyNotFound(google::NAME))?;
    let base_url = context.providers.base_urls.google.clone();
    let access = Access { base_url, key: key.clone(), organization: None, extras: Extras::default() };
    let chat = body.chat()?.chat()?;
    context.note("google", &chat.model);
    let request = request("google", &context, &access, &chat, Wire::Generate);
    let (base_url, log) = (access.base_url.clone(), context.log.clone());
    let call = move |attempt: &Attempt<'_>| google::call(&body.chat()?.chat()?, attempt, &access);
    drop(user);
    let map_err = move |failure| {
        let asked = log.note().effective_model.clone().unwrap_or_default();
        google::error(&google::url(&base_url, &asked).map_or_else(|_| base_url.clone(), String::from), failure)
    };
    context.relay(request, call, map_err).await
}

/// Returns what it takes to call a provider for a user.
///
/// # Errors
/// If the key is missing.
pub(super) fn access(provider: &Provider, user: &User, context: &ChatContext) -> Result<Access, Error> {
    let profile = user.profile()?;
    let key = profile.key(provider.key).ok_or(Error::KeyNotFound(provider.name))?;
    let extras = match provider.extras {
        true => Extras {
            usage: true,
            cache_key: pseudonym(user.id, key),
            user: server_users_name(user, profile, provider.key),
        },
        false => Extras::default(),
    };
    Ok(Access {
        base_url: (provider.base_url)(&context.providers.base_urls).to_owned(),
        key: key.clone(),
        organization: profile.key(Key::OpenAiOrganization).cloned(),
        extras,
    })
}

/// Returns the pseudonym of a user who is served with the server's own key:
/// the provider holds its owner to account for what all of them do.
pub(super) fn server_users_name(user: &User, profile: &Profile, key: Key) -> Option<String> {
    let key: &SecretString = profile.key(key).filter(|_| profile.is_from_environment(key))?;
    pseudonym(user.id, key)
}

/// Returns the request for a chat.
pub(super) fn request(
    provider: &'static str,
    context: &ChatContext,
    access: &Access,
    chat: &Chat<'_>,
    wire: Wire,
) -> ModelRequest {
    ModelRequest {
        provider,
        scope: context.providers.routing.learnt.scope(&access.base_url, &access.key),
        models: vec![chat.model.clone()],
        wire,
        chat_first: false,
        wanted: Wanted { images: chat.has_images(), functions: false },
        habits: Habits::NONE,
    }
}
