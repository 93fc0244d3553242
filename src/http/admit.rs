//! Admitting a request to a model: the user's account, the body, and room in the user's budgets.

use uuid::Uuid;

use super::{
    body::{Body, ChatBody, UnreadBody},
    context::ChatContext,
    installed,
    user::{Caller, Read, User},
};
use crate::{
    credentials::{Key, Keys},
    db::{
        Db,
        accounts::Along,
        models::{self, CustomModel},
    },
    error::Error,
    llm::{
        Chat, Wire, azure,
        catalogue::{Date, catalogue},
        providers::{CUSTOM, OPENAI, Vendor, vendor},
        routing::Wanted,
    },
    usage::{Ledger, Plan, estimate},
};

/// A body of more bytes, or of unknown size, is read only once the account is known, and what it reserves, and the
/// custom model that it names, take statements of their own.
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

/// An admitted request.
pub struct Admitted {
    /// Its user.
    pub user: User,
    /// Its body.
    pub body: Body,
    /// The custom model that the body names.
    pub named: Named,
}

/// The custom model that a body names by its id, as far as it was looked for with the account.
pub struct Named(Option<Option<CustomModel>>);

impl Named {
    /// Returns the model, which has this id.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`] if there is none for this user, or if the database does not answer.
    pub async fn model(self, db: &Db, user: Uuid, id: Uuid) -> Result<CustomModel, Error> {
        let model = match self.0 {
            Some(model) => model,
            None => models::find(db, user, id).await?,
        };
        model.ok_or(Error::ModelNotFound)
    }
}

impl Admitted {
    fn new(Read { user, model, .. }: Read, body: Body) -> Self {
        Self { user, body, named: Named(model) }
    }
}

impl Route {
    /// Parses the body of a chat.
    fn chat(self, body: &Body) -> Option<ChatBody<'_>> {
        if matches!(self, Self::Command) { None } else { body.chat().ok() }
    }

    /// Tells if a body may name a custom model by its id.
    fn names_models(self) -> bool {
        matches!(self, Self::Tools) || matches!(self, Self::Chat(provider, _) if provider == CUSTOM.path)
    }
}

/// Reads the account of a caller and the body, of at most `limit` bytes. In the same statement room is reserved in the
/// budgets, and the custom model is found that the body names: where there is either, the body is read first, if it is
/// small. Else the account is first.
///
/// # Errors
/// If the user is refused, the body cannot be read, or a budget has no room.
pub async fn admit(
    mut caller: Caller,
    context: &ChatContext,
    unread: UnreadBody,
    limit: usize,
    route: Route,
) -> Result<Admitted, Error> {
    let ledger = installed::<Ledger>(caller.request())?.clone();
    let is_on = ledger.is_on().await?;
    let needs_body = is_on || route.names_models();
    if !needs_body || unread.announced().is_none_or(|bytes| bytes > READ_FIRST) {
        let read = caller.user(Along::default()).await?;
        let body = unread.read(read.user.id, limit).await?;
        if is_on && let Some(plan) = plan(&caller, context, &body, route.chat(&body).as_ref(), route) {
            ledger.reserve(read.user.id, plan, &context.log).await?;
        }
        return Ok(Admitted::new(read, body));
    }
    let body = unread.read(caller.id(), limit).await?;
    let posted = route.chat(&body);
    let model = posted.as_ref().filter(|_| route.names_models()).and_then(ChatBody::custom_model);
    let along = Along { model, reservation: None };
    let plan = if is_on { plan(&caller, context, &body, posted.as_ref(), route) } else { None };
    // A body that is none is refused by the handler, for a user who is one.
    let Some(plan) = plan else {
        return Ok(Admitted::new(caller.user(along).await?, body));
    };
    let reservation = ledger.begin(caller.id(), plan);
    match caller.user(Along { reservation: Some(&reservation.request()), ..along }).await {
        Ok(read) => {
            reservation.granted(read.answer.as_deref(), &context.log)?;
            Ok(Admitted::new(read, body))
        }
        // The schema may be gone.
        Err(Error::Internal(detail)) => {
            ledger.doubt();
            if ledger.is_on().await? {
                return Err(Error::Internal(detail));
            }
            Ok(Admitted::new(caller.user(along).await?, body))
        }
        Err(error @ (Error::UserNotFound(_) | Error::TokenRefused(_))) => {
            reservation.not_made();
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Returns what a request is going to be; `None` if its body is not one. `posted` is the body of a chat.
fn plan(
    caller: &Caller,
    context: &ChatContext,
    body: &Body,
    posted: Option<&ChatBody<'_>>,
    route: Route,
) -> Option<Plan> {
    let pattern = caller.request().match_pattern().unwrap_or_default();
    if matches!(route, Route::Command) {
        let model = context.providers.routing.settings.command.first().cloned().unwrap_or_default();
        let rules = catalogue().model_or_family(OPENAI.path, &model);
        let estimate = estimate::chat(OPENAI.path, rules, &body.0);
        return Some(Plan { route: pattern, provider: OPENAI.path, models: vec![model], estimate });
    }
    let posted = posted?;
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
