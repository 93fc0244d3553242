//! `POST /api/chat/tools`: a chat whose model may call the user's tools.

use std::sync::Arc;

use actix_web::{HttpResponse, web::Data};
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::chat::custom;
use crate::{
    allowance::{Charge, Turns},
    credentials::Key,
    db::{Db, models},
    error::Error,
    http::{
        admit::{Admitted, Named, Route, admit_chat},
        body::UnreadBody,
        chat_body::ChatBody,
        context::ChatContext,
        opening::Opener,
        tool_turn::ToolTurn,
        user::{Caller, User},
        ways::{Posted, Ways},
    },
    llm::{
        answer::Wanted,
        azure,
        providers::{Vendor, vendor},
    },
    tools::{
        ToolClient,
        budget::Budget,
        names::Names,
        offer::{self, Offer, Tool, offer},
        source,
    },
};

/// Documents and headers of more bytes are read on a blocking thread.
const BLOCKING_FROM: usize = 64 * 1024;
/// Documents that are fetched at the same time.
const FETCHED_AT_ONCE: usize = 4;

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
    let Admitted { user, body, named } = admit_chat(caller, &context, body, Route::Tools).await?;
    let mut body = body?;
    let selected = body.take_selected_tools();
    let body = Arc::new(body);
    let ways = ways(&body, &user, named, &db, &context).await?;
    match ways.first() {
        // A deployment's name tells nothing of the model.
        (azure::PROVIDER, _) => context.note(azure::PROVIDER, &body.chat().model),
        (provider, model) => context.note(provider, model),
    }
    let selected = selected?;
    let charge = context.charge_to(user.id)?;
    let tools: Vec<(Tool, Charge)> = stream::iter(selected)
        .map(|tool| source::tool(&client, tool, charge.another()))
        .buffered(FETCHED_AT_ONCE)
        .try_collect()
        .await?;
    let any_selected = !tools.is_empty();
    let names = Names::new(ways.may_be_google());
    let Offer { functions, unusable, partial } = usable(offered(tools, names, user.id, &turns).await?, &client);
    if any_selected && functions.is_empty() {
        // The front end sends a tool as it was when the user chose it, not as it was saved since.
        return Err(Error::BadRequest(format!("{} After a change, choose the tool again.", unusable.join(" "))));
    }
    if !unusable.is_empty() {
        tracing::info!(tools = unusable.len(), "selected tools cannot be used");
    }
    drop((body, user));
    if functions.is_empty() {
        return context.relay(ways).await;
    }
    // Calls that were not asked for are collected too: no user wants to read them.
    let wanted = Wanted { reasoning: context.as_events(), calls: true };
    let opener = Opener::new(context.providers.clone(), ways, wanted, true, context.log.clone());
    let words = opener.words();
    let turn = ToolTurn {
        opener,
        client,
        log: context.log.clone(),
        functions: functions.into(),
        as_events: context.as_events(),
        charge,
    };
    let warnings = unusable.into_iter().chain(partial).collect();
    context.answer(Box::pin(turn.begin(warnings)), move |failure| words.word(failure)).await
}

/// Reads the tools' documents, large ones aside.
async fn offered(tools: Vec<(Tool, Charge)>, names: Names, user: Uuid, turns: &Data<Turns>) -> Result<Offer, Error> {
    let (tools, charges): (Vec<Tool>, Vec<Charge>) = tools.into_iter().unzip();
    let size = |tool: &Tool| {
        let headers = tool.headers.as_ref().map_or(0, |headers| headers.get().len());
        tool.document.as_ref().map_or(0, String::len) + headers
    };
    let bytes: usize = tools.iter().map(size).sum();
    if bytes < BLOCKING_FROM {
        return Ok(offer(tools, names, Budget::default()));
    }
    let read = turns.run(user, move || {
        let _charges = charges;
        offer(tools, names, Budget::default())
    });
    read.await
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

/// Finds the ways to the model that the client named.
async fn ways(body: &Arc<ChatBody>, user: &User, named: Named, db: &Db, context: &ChatContext) -> Result<Ways, Error> {
    let model = body.chat().model;
    let incoming = context.incoming(user, body, Posted::Tools);
    // The front end posts an empty id for a model that is not custom.
    if body.custom_model_id().is_some_and(|id| !id.is_empty()) {
        let id = body.custom_model().ok_or(Error::ModelNotFound)?;
        let model = named.model(db, user.id, id).await?;
        return custom(&model, db, context, incoming).await;
    }
    match vendor(&model) {
        Some(Vendor::OpenAi) if user.profile()?.use_azure_openai && user.profile()?.key(Key::OpenAi).is_none() => {
            let deployment = azure::deployment(user.profile()?, &model)?;
            let access = azure::access(user.profile()?)?;
            incoming.azure(&deployment, &access)
        }
        Some(vendor) => incoming.hosted(vendor),
        // The front end posts a custom model by its name, too.
        None => match models::find_by_name(db, user.id, &model).await? {
            Some(model) => custom(&model, db, context, incoming).await,
            None => incoming.hosted(Vendor::OpenAi),
        },
    }
}
