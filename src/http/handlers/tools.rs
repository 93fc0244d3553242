//! `POST /api/chat/tools`: a chat whose model may call the user's tools.

use std::rc::Rc;

use actix_web::{HttpResponse, web::Data};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use uuid::Uuid;

use super::chat::{access, request, server_users_name};
use crate::{
    allowance::{Charge, Turns},
    credentials::Key,
    db::{Db, models},
    error::Error,
    http::{
        admit::{Route, admit},
        body::{Body, UnreadBody},
        context::ChatContext,
        tool_turn::{MakeRound, ToolTurn},
        user::{Caller, User},
    },
    llm::{
        Call, Chat, Failure, Wire, anthropic, azure,
        dispatch::{Attempt, ModelRequest},
        functions::{Added, Form, Offered, google_messages},
        google, openai,
        providers::{Access, CUSTOM, OPENAI, PROVIDERS, Provider, Vendor, provider_at, vendor},
        request::{self, Extras, Prompt},
    },
    tools::{
        ToolClient,
        budget::Budget,
        names::Names,
        offer::{self, Offer, Tool, offer},
        source,
    },
};

/// Documents of more bytes are read on a blocking thread.
const BLOCKING_FROM: usize = 64 * 1024;
/// Documents that are fetched at the same time.
const FETCHED_AT_ONCE: usize = 4;

/// The way to the chosen model.
struct Target {
    request: ModelRequest,
    form: Form,
    make_call: MakeRound,
    map_err: Box<dyn Fn(Failure) -> Error>,
    /// The name in logs and metrics.
    path: &'static str,
}

/// The handler.
///
/// Differs: the original knows OpenAI's models alone, calls once, and ends the
/// chat if a tool fails.
pub async fn reply(
    caller: Caller,
    context: ChatContext,
    db: Data<Db>,
    client: Data<ToolClient>,
    turns: Data<Turns>,
    body: UnreadBody,
) -> Result<HttpResponse, Error> {
    let (user, body) = admit(caller, &context, body, usize::MAX, Route::Tools).await?;
    let body = Rc::new(body);
    let posted = body.chat()?;
    let target = target(&body, &user, &db, &context).await?;
    context.note(target.path, &posted.chat()?.model);
    let selected = posted.selected_tools()?;
    let charge = context.charge_to(user.id)?;
    let tools: Vec<(Tool, Charge)> = stream::iter(&selected)
        .map(|tool| source::tool(&client, tool, charge.another()))
        .buffered(FETCHED_AT_ONCE)
        .try_collect()
        .await?;
    let any_selected = !tools.is_empty();
    let names = Names::new(target.form == Form::Google);
    let Offer { functions, unusable, partial } = usable(offered(tools, names, user.id, &turns).await?, &client);
    if any_selected && functions.is_empty() {
        return Err(Error::BadRequest(unusable.join(" ")));
    }
    if !unusable.is_empty() {
        tracing::info!(tools = unusable.len(), "selected tools cannot be used");
    }
    let Target { mut request, form, make_call, map_err, .. } = target;
    drop((selected, user));
    if functions.is_empty() {
        return context.relay(request, move |attempt| make_call(attempt, &[], None), map_err).await;
    }
    // Some models take functions by another API.
    request.wanted.functions = true;
    let listed: Vec<Offered<'_>> = functions
        .iter()
        .map(|function| Offered { name: &function.name, description: &function.description, schema: &function.schema })
        .collect();
    let added = Added::new(form, &listed);
    drop(listed);
    let turn = ToolTurn {
        providers: context.providers.clone(),
        client,
        log: context.log.clone(),
        request,
        make_call,
        added,
        functions,
        as_events: context.as_events(),
        charge,
        body_charge: context.charge(),
    };
    let warnings = unusable.into_iter().chain(partial).collect();
    context.answer(turn.begin(warnings), map_err).await
}

/// Reads the tools' documents, large ones aside.
async fn offered(tools: Vec<(Tool, Charge)>, names: Names, user: Uuid, turns: &Data<Turns>) -> Result<Offer, Error> {
    let (tools, charges): (Vec<Tool>, Vec<Charge>) = tools.into_iter().unzip();
    let bytes: usize = tools.iter().map(|tool| tool.document.as_ref().map_or(0, String::len)).sum();
    if bytes < BLOCKING_FROM {
        return Ok(offer(tools, names, Budget::default()));
    }
    let turn = turns.wait(user).await;
    let read = tokio::task::spawn_blocking(move || {
        let _held = (turn, charges);
        offer(tools, names, Budget::default())
    });
    read.await.map_err(|error| Error::Internal(error.to_string()))
}

/// Leaves out the functions that the guard would refuse whenever they are
/// called: the user is told now.
fn usable(mut offer: Offer, client: &ToolClient) -> Offer {
    let unusable = &mut offer.unusable;
    offer.functions.retain(|function| {
        let url = url::Url::parse(&function.operation.server);
        let Some(refusal) = url.ok().and_then(|url| client.http.policy.check_url(&url).err()) else { return true };
        let sentence = offer::unusable(&function.tool, &refusal.to_string());
        if !unusable.contains(&sentence) {
            unusable.push(sentence);
        }
        false
    });
    offer
}

/// Finds the provider of the model that the client named.
async fn target(body: &Rc<Body>, user: &User, db: &Db, context: &ChatContext) -> Result<Target, Error> {
    let posted = body.chat()?;
    let chat = posted.chat()?;
    let urls = &context.providers.base_urls;
    // The front end posts an empty id for a model that is not custom.
    if let Some(id) = posted.custom_model_id().filter(|id| !id.is_empty()) {
        let id = Uuid::try_parse(&id).map_err(|_| Error::ModelNotFound)?;
        let model = models::find(db, user.id, id).await?.ok_or(Error::ModelNotFound)?;
        return Ok(custom(&model, &chat, body, context));
    }
    match vendor(&chat.model) {
        Some(Vendor::Anthropic) => {
            let profile = user.profile()?;
            let key = profile.key(Key::Anthropic).ok_or(Error::KeyNotFound(anthropic::NAME))?;
            let extras = Extras { user: server_users_name(user, profile, Key::Anthropic), ..Extras::default() };
            let access = Access { base_url: urls.anthropic.clone(), key: key.clone(), organization: None, extras };
            let request = request("anthropic", context, &access, &chat, Wire::Messages);
            let body = body.clone();
            Ok(Target {
                request,
                form: Form::Anthropic,
                make_call: Box::new(move |attempt, _, _| anthropic::call(&body.chat()?.chat()?, attempt, &access)),
                map_err: Box::new(anthropic::error),
                path: "anthropic",
            })
        }
        Some(Vendor::Google) => {
            let key = user.profile()?.key(Key::GoogleGemini).ok_or(Error::KeyNotFound(google::NAME))?;
            let extras = Extras::default();
            let access = Access { base_url: urls.google.clone(), key: key.clone(), organization: None, extras };
            let request = request("google", context, &access, &chat, Wire::Generate);
            let (body, base_url, log) = (body.clone(), access.base_url.clone(), context.log.clone());
            Ok(Target {
                request,
                form: Form::Google,
                make_call: Box::new(move |attempt, _, _| {
                    let posted = body.chat()?;
                    let chat = posted.chat()?;
                    let messages = google_messages(chat.message_objects()?);
                    let messages = serde_json::value::to_raw_value(&messages);
                    let messages = messages.map_err(|error| Error::Internal(error.to_string()))?;
                    google::call(
                        &Chat { model: chat.model, temperature: chat.temperature, messages: &messages },
                        attempt,
                        &access,
                    )
                }),
                map_err: Box::new(move |failure| {
                    let asked = log.note().effective_model.clone().unwrap_or_default();
                    let url = google::url(&base_url, &asked).map_or_else(|_| base_url.clone(), String::from);
                    google::error(&url, failure)
                }),
                path: "google",
            })
        }
        Some(Vendor::OpenAi) if user.profile()?.use_azure_openai && user.profile()?.key(Key::OpenAi).is_none() => {
            let deployment = azure::deployment(user.profile()?, &chat.model)?;
            let access = azure::access(user.profile()?)?;
            let request = azure::request(&context.providers, deployment, &access);
            Ok(Target {
                request,
                form: Form::OpenAi,
                make_call: by_prompt(body, true, move |prompt, attempt| azure::call(&prompt, attempt, &access)),
                map_err: Box::new(openai::plain_error),
                path: azure::PROVIDER,
            })
        }
        Some(Vendor::Row(path)) => match PROVIDERS.iter().find(|provider| provider.path == path) {
            Some(provider) => by_row(provider, &chat, body, user, context),
            None => by_row(&OPENAI, &chat, body, user, context),
        },
        Some(Vendor::OpenAi) => by_row(&OPENAI, &chat, body, user, context),
        // The front end posts a custom model by its name, too.
        None => match models::find_by_name(db, user.id, &chat.model).await? {
            Some(model) => Ok(custom(&model, &chat, body, context)),
            None => by_row(&OPENAI, &chat, body, user, context),
        },
    }
}

fn by_row(
    provider: &'static Provider,
    chat: &Chat<'_>,
    body: &Rc<Body>,
    user: &User,
    context: &ChatContext,
) -> Result<Target, Error> {
    let access = access(provider, user, context)?;
    let is_openai = provider.path == OPENAI.path;
    let request = ModelRequest {
        chat_first: provider.is_chat_first(&access.base_url),
        habits: provider.habits,
        ..request(provider.path, context, &access, chat, Wire::Chat)
    };
    Ok(Target {
        request,
        form: Form::OpenAi,
        // The original asks OpenAI here without the chat's temperature.
        make_call: by_prompt(body, !is_openai, move |prompt, attempt| provider.call(prompt, attempt, &access)),
        map_err: if is_openai { Box::new(openai::plain_error) } else { Box::new(|failure| provider.error(failure)) },
        path: provider.path,
    })
}

fn custom(model: &models::CustomModel, chat: &Chat<'_>, body: &Rc<Body>, context: &ChatContext) -> Target {
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
    let request = request(provider_at(base_url), context, &access, chat, Wire::Chat);
    Target {
        request: ModelRequest { habits: CUSTOM.habits, ..request },
        form: Form::OpenAi,
        make_call: by_prompt(body, true, move |prompt, attempt| {
            Ok(Call { guarded: true, ..CUSTOM.call(prompt, attempt, &access)? })
        }),
        map_err: Box::new(|failure| CUSTOM.error(failure)),
        path: CUSTOM.path,
    }
}

/// Makes calls in OpenAI's terms. The Responses API has another form of turns
/// and functions, so these are part of the prompt there.
fn by_prompt(
    body: &Rc<Body>,
    with_temperature: bool,
    call: impl Fn(Prompt<'_>, &Attempt<'_>) -> Result<Call, Error> + 'static,
) -> MakeRound {
    let body = body.clone();
    Box::new(move |attempt, more, tools| {
        let posted = body.chat()?;
        let chat = posted.chat()?;
        let temperature = chat.temperature.filter(|_| with_temperature);
        if attempt.wire != Wire::Responses {
            return call(Prompt { temperature, ..Prompt::new(&chat) }, attempt);
        }
        let mut turns: Vec<Value> = chat.message_objects()?.into_iter().map(Value::Object).collect();
        turns.extend_from_slice(more);
        let turns = request::Turns::Values(&turns);
        call(Prompt { turns, temperature, tools, stream: true, quick: false }, attempt)
    })
}
