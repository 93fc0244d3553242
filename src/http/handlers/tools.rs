//! `POST /api/chat/tools`: a chat whose model may call the user's tools.

use actix_web::{HttpResponse, web::Data};
use futures::{StreamExt, stream};
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use crate::{
    allowance::Turns,
    credentials::Key,
    db::{Db, models},
    error::Error,
    http::{
        body::{ChatBody, UnreadBody},
        context::ChatContext,
        tool_turn::ToolTurn,
        user::User,
    },
    llm::{
        BaseUrls, Call, Chat, Failure,
        answer::{self, Reader},
        anthropic, azure,
        functions::{Added, Form, Offered, google_messages},
        google, openai,
        providers::{CUSTOM, OPENAI, PROVIDERS, Provider, Vendor, vendor},
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

/// How the chosen model is asked.
struct Target {
    call: Call,
    form: Form,
    reader: Box<dyn Fn() -> Reader>,
    map_err: Box<dyn Fn(Failure) -> Error>,
    /// The name in logs and metrics.
    path: &'static str,
}

/// The handler.
///
/// Differs: the original knows OpenAI's models alone, calls once, and ends the
/// chat if a tool fails.
pub async fn reply(
    user: User,
    context: ChatContext,
    db: Data<Db>,
    client: Data<ToolClient>,
    turns: Data<Turns>,
    body: UnreadBody,
) -> Result<HttpResponse, Error> {
    let body = body.read(&user, usize::MAX).await?;
    let posted = body.chat()?;
    let chat = posted.chat()?;
    let target = target(&posted, &chat, &user, &db, &context.providers.base_urls).await?;
    context.note(target.path, &chat.model);
    let selected = posted.selected_tools()?;
    let tools: Vec<Tool> =
        stream::iter(&selected).map(|tool| source::tool(&client, tool)).buffered(FETCHED_AT_ONCE).collect().await;
    let any_selected = !tools.is_empty();
    let names = Names::new(target.form == Form::Google);
    let Offer { functions, unusable, partial } = usable(offered(tools, names, user.id, &turns).await?, &client);
    if any_selected && functions.is_empty() {
        return Err(Error::BadRequest(unusable.join(" ")));
    }
    for sentence in &unusable {
        tracing::info!(tools = unusable.len(), bytes = sentence.len(), "a selected tool cannot be used");
    }
    let Target { call, form, reader, map_err, .. } = target;
    drop(selected);
    drop((user, body));
    if functions.is_empty() {
        return context.relay(call, reader(), map_err).await;
    }
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
        call,
        reader,
        added,
        functions,
        as_events: context.as_events(),
        charge: context.charge(),
    };
    let warnings = unusable.into_iter().chain(partial).collect();
    context.answer(turn.begin(warnings), map_err).await
}

/// Reads the tools' documents, large ones aside.
async fn offered(tools: Vec<Tool>, names: Names, user: Uuid, turns: &Data<Turns>) -> Result<Offer, Error> {
    let bytes: usize = tools.iter().map(|tool| tool.document.as_ref().map_or(0, String::len)).sum();
    if bytes < BLOCKING_FROM {
        return Ok(offer(tools, names, Budget::default()));
    }
    let turn = turns.wait(user).await;
    let read = tokio::task::spawn_blocking(move || {
        let _turn = turn;
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

/// The provider of the model that the client named.
async fn target(
    posted: &ChatBody<'_>,
    chat: &Chat<'_>,
    user: &User,
    db: &Db,
    urls: &BaseUrls,
) -> Result<Target, Error> {
    let named = |provider: &'static Provider| {
        let profile = user.profile()?;
        let key = profile.key(provider.key).ok_or(Error::KeyNotFound(provider.name))?;
        let call = provider.call(chat, (provider.base_url)(urls), key, profile.key(Key::OpenAiOrganization))?;
        Ok(openai_target(provider, call))
    };
    if let Some(id) = posted.custom_model_id() {
        let id = Uuid::try_parse(&id).map_err(|_| Error::ModelNotFound)?;
        return custom(models::find(db, user.id, id).await?.ok_or(Error::ModelNotFound)?, chat, urls);
    }
    match vendor(&chat.model) {
        Some(Vendor::Anthropic) => {
            let key = user.profile()?.key(Key::Anthropic).ok_or(Error::KeyNotFound(anthropic::NAME))?;
            Ok(Target {
                call: anthropic::call(chat, &urls.anthropic, key)?,
                form: Form::Anthropic,
                reader: Box::new(|| Reader::Anthropic(answer::anthropic::Reader::default())),
                map_err: Box::new(anthropic::error),
                path: "anthropic",
            })
        }
        Some(Vendor::Google) => {
            let key = user.profile()?.key(Key::GoogleGemini).ok_or(Error::KeyNotFound(google::NAME))?;
            let messages: Vec<Value> =
                google_messages(chat.message_objects()?).into_iter().map(Value::Object).collect();
            let messages: Box<RawValue> =
                serde_json::value::to_raw_value(&messages).map_err(|error| Error::Internal(error.to_string()))?;
            let chat = Chat { model: chat.model.clone(), temperature: chat.temperature, messages: &messages };
            let call = google::call(&chat, &urls.google, key)?;
            let url = call.url.to_string();
            Ok(Target {
                call,
                form: Form::Google,
                reader: Box::new(|| Reader::Google(answer::google::Reader::default())),
                map_err: Box::new(move |failure| google::error(&url, failure)),
                path: "google",
            })
        }
        Some(Vendor::OpenAi) if user.profile()?.use_azure_openai && user.profile()?.key(Key::OpenAi).is_none() => {
            Ok(Target {
                call: azure::call(chat, user.profile()?)?,
                form: Form::OpenAi,
                reader: Box::new(|| Reader::OpenAi(answer::openai::Reader::default())),
                map_err: Box::new(openai::plain_error),
                path: "azure",
            })
        }
        Some(Vendor::OpenAi) => openai_itself(chat, user, urls),
        Some(Vendor::Row(path)) => match PROVIDERS.iter().find(|provider| provider.path == path) {
            Some(provider) => named(provider),
            None => openai_itself(chat, user, urls),
        },
        // The front end posts a custom model by its name, too.
        None => match models::find_by_name(db, user.id, &chat.model).await? {
            Some(model) => custom(model, chat, urls),
            None => openai_itself(chat, user, urls),
        },
    }
}

/// As the original asks OpenAI here: without the chat's temperature.
fn openai_itself(chat: &Chat<'_>, user: &User, urls: &BaseUrls) -> Result<Target, Error> {
    let profile = user.profile()?;
    let key = profile.key(OPENAI.key).ok_or(Error::KeyNotFound(OPENAI.name))?;
    let chat = Chat { model: chat.model.clone(), temperature: None, messages: chat.messages };
    let call = OPENAI.call(&chat, (OPENAI.base_url)(urls), key, profile.key(Key::OpenAiOrganization))?;
    Ok(Target { map_err: Box::new(openai::plain_error), ..openai_target(&OPENAI, call) })
}

fn custom(model: models::CustomModel, chat: &Chat<'_>, urls: &BaseUrls) -> Result<Target, Error> {
    let base_url = match model.base_url.trim() {
        "" => (CUSTOM.base_url)(urls),
        base_url => base_url,
    };
    let call = CUSTOM.call(chat, base_url, &model.api_key, None)?;
    Ok(openai_target(&CUSTOM, Call { guarded: true, ..call }))
}

fn openai_target(provider: &'static Provider, call: Call) -> Target {
    Target {
        call,
        form: Form::OpenAi,
        reader: Box::new(|| Reader::OpenAi(answer::openai::Reader::new(provider.habits))),
        map_err: Box::new(|failure| provider.error(failure)),
        path: provider.path,
    }
}
