//! Admitting a request to a model: the user's account, the body, and room in the user's budgets.

use super::{
    body::{Body, UnreadBody},
    context::ChatContext,
    installed,
    user::{Caller, User},
};
use crate::{
    credentials::{Key, Keys},
    error::Error,
    llm::{
        Chat, Wire, azure,
        catalogue::{Date, catalogue},
        providers::{CUSTOM, OPENAI, Vendor, vendor},
        routing::Wanted,
    },
    usage::{Ledger, Plan, estimate},
};

/// A body of more bytes, or of unknown size, is read only once the account is known, and what it reserves takes a
/// second statement.
const READ_FIRST: usize = 64 * 1024;

/// The provider and the form of a route's requests.
#[derive(Debug, Clone, Copy)]
pub enum Route {
    /// A chat with this provider, on this API.
    Chat(&'static str, Wire),
    /// A chat with the provider that the model's name tells.
    Tools,
    /// The command palette.
    Command,
}

/// Reads the account of a caller and the body, of at most `limit` bytes, and reserves room in the budgets in the same
/// statement: so the body is read first, if it is small. Without the ledger, the account is first.
///
/// # Errors
/// If the user is refused, the body cannot be read, or a budget has no room.
pub async fn admit(
    mut caller: Caller,
    context: &ChatContext,
    unread: UnreadBody,
    limit: usize,
    route: Route,
) -> Result<(User, Body), Error> {
    let ledger = installed::<Ledger>(caller.request())?.clone();
    let is_on = ledger.is_on().await?;
    if !is_on || unread.announced().is_none_or(|bytes| bytes > READ_FIRST) {
        let (user, _) = caller.user(None).await?;
        let body = unread.read(user.id, limit).await?;
        if is_on && let Some(plan) = plan(&caller, context, &body, route) {
            ledger.reserve(user.id, plan, &context.log).await?;
        }
        return Ok((user, body));
    }
    let body = unread.read(caller.id(), limit).await?;
    // A body that is none is refused by the handler, for a user who is one.
    let Some(plan) = plan(&caller, context, &body, route) else {
        let (user, _) = caller.user(None).await?;
        return Ok((user, body));
    };
    let reservation = ledger.begin(caller.id(), plan);
    match caller.user(Some(&reservation.request())).await {
        Ok((user, answer)) => {
            reservation.granted(answer.as_deref(), &context.log)?;
            Ok((user, body))
        }
        // The schema may be gone.
        Err(Error::Internal(detail)) => {
            ledger.doubt();
            if ledger.is_on().await? {
                return Err(Error::Internal(detail));
            }
            let (user, _) = caller.user(None).await?;
            Ok((user, body))
        }
        Err(error @ (Error::UserNotFound(_) | Error::TokenRefused(_))) => {
            reservation.not_made();
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Returns what a request is going to be; `None` if its body is not one.
fn plan(caller: &Caller, context: &ChatContext, body: &Body, route: Route) -> Option<Plan> {
    let pattern = caller.request().match_pattern().unwrap_or_default();
    if matches!(route, Route::Command) {
        let model = context.providers.routing.settings.command.first().cloned().unwrap_or_default();
        let rules = catalogue().model_or_family(OPENAI.path, &model);
        let estimate = estimate::chat(OPENAI.path, rules, &body.0);
        return Some(Plan { route: pattern, provider: OPENAI.path, models: vec![model], estimate });
    }
    let posted = body.chat().ok()?;
    let chat = posted.chat().ok()?;
    let (provider, wire) = match route {
        Route::Chat(provider, wire) => (provider, wire),
        // The front end posts an empty id for a model that is not custom.
        _ if posted.custom_model_id().is_some_and(|id| !id.is_empty()) => (CUSTOM.path, Wire::Chat),
        _ => by_name(&chat.model, installed::<Keys>(caller.request()).ok()?),
    };
    let wanted = Wanted { images: chat.has_images(), functions: matches!(route, Route::Tools) };
    let called = called(context, provider, wire, &chat, wanted);
    // Azure's deployments are of OpenAI's models.
    let of = if provider == azure::PROVIDER { OPENAI.path } else { provider };
    let rules = catalogue().model_or_family(of, &called);
    let estimate = estimate::chat(of, rules, chat.messages.get());
    let mut models = vec![chat.model];
    if models[0] != called {
        models.push(called);
    }
    Some(Plan { route: pattern, provider, models, estimate })
}

/// Returns the model that is called for the one that the client named.
fn called(context: &ChatContext, provider: &'static str, wire: Wire, chat: &Chat<'_>, wanted: Wanted) -> String {
    let routing = &context.providers.routing;
    let candidates = routing.candidates(catalogue(), provider, wire, &chat.model, wanted, Date::today());
    candidates.into_iter().next().map_or_else(|| chat.model.clone(), |candidate| candidate.model)
}

/// Returns the provider that the route for tools calls for a model. A custom one that is found by its name counts as
/// OpenAI's until its end.
fn by_name(model: &str, server_keys: &Keys) -> (&'static str, Wire) {
    match vendor(model) {
        Some(Vendor::OpenAi)
            if server_keys.get(Key::OpenAi).is_none() && server_keys.get(Key::AzureOpenAi).is_some() =>
        {
            (azure::PROVIDER, Wire::Chat)
        }
        found => {
            let vendor = found.unwrap_or(Vendor::OpenAi);
            (vendor.name(), vendor.wire())
        }
    }
}
