//! Admitting a request to a model: the user's account, the body, and room in the user's budgets.

use uuid::Uuid;

use super::{
    body::{self, Body, UnreadBody},
    chat_body::ChatBody,
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
    usage::{
        Ledger, Plan,
        estimate::{self, Size},
    },
};

/// A body of more bytes, or of unknown size, is read only once the account is known, and what it reserves, and the
/// custom model that it names, take statements of their own.
const READ_FIRST: usize = 64 * 1024;

/// The provider and the form of a chat route's requests.
#[derive(Debug, Clone, Copy)]
pub enum Route {
    /// A chat with this provider, on this API.
    Chat(&'static str, Wire),
    /// A chat with the provider that the model's name tells.
    Tools,
}

/// An admitted request.
pub struct Admitted<B> {
    /// Its user.
    pub user: User,
    /// Its body.
    pub body: B,
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

impl<B> Admitted<B> {
    fn new(Read { user, model, .. }: Read, body: B) -> Self {
        Self { user, body, named: Named(model) }
    }
}

impl Route {
    /// Tells if a body may name a custom model by its id.
    fn names_models(self) -> bool {
        matches!(self, Self::Tools) || matches!(self, Self::Chat(provider, _) if provider == CUSTOM.path)
    }
}

/// Admits a chat. A body that is none is left to the handler to refuse.
///
/// # Errors
/// If the user is refused, the body cannot be read, or a budget has no room.
pub async fn admit_chat(
    caller: Caller,
    context: &ChatContext,
    unread: UnreadBody,
    route: Route,
) -> Result<Admitted<Result<ChatBody, Error>>, Error> {
    let reads = Reads {
        limit: usize::MAX,
        parse: ChatBody::parse,
        model: route.names_models().then_some(ChatBody::custom_model),
    };
    let plan = |keys: &Keys, pattern, posted: &ChatBody| plan(keys, context, pattern, posted, route);
    // Boxed, as a handler's memory lasts as long as its answer.
    Box::pin(admit(caller, context, unread, reads, plan)).await
}

/// Admits a request of the command palette.
///
/// # Errors
/// As [`admit_chat`].
pub async fn admit_command(
    caller: Caller,
    context: &ChatContext,
    unread: UnreadBody,
) -> Result<Admitted<Result<Body, Error>>, Error> {
    let reads = Reads { limit: body::QUESTION, parse: Ok, model: None };
    admit(caller, context, unread, reads, |_, route, body| {
        let model = context.providers.routing.settings.command.first().cloned().unwrap_or_default();
        let rules = catalogue().model_or_family(OPENAI.path, &model);
        let estimate = estimate::chat(OPENAI.path, rules, Size::of(&body.text));
        Plan { route, provider: OPENAI.path, models: vec![model], estimate }
    })
    .await
}

/// How a route's bodies are read.
struct Reads<B> {
    /// The most bytes.
    limit: usize,
    /// Parses a body.
    parse: fn(Body) -> Result<B, Error>,
    /// Returns the id of the custom model that a body names, where one can.
    model: Option<fn(&B) -> Option<Uuid>>,
}

/// Reads the account of a caller and the body. In the same statement room is reserved in the budgets for what is
/// planned, and the custom model is found that the body names: where there is either, the body is read first, if it is
/// small. Else the account is first.
async fn admit<B: Send + 'static>(
    mut caller: Caller,
    context: &ChatContext,
    unread: UnreadBody,
    Reads { limit, parse, model }: Reads<B>,
    plan: impl Fn(&Keys, String, &B) -> Plan,
) -> Result<Admitted<Result<B, Error>>, Error> {
    let ledger = installed::<Ledger>(caller.request())?.clone();
    let keys = installed::<Keys>(caller.request())?.clone();
    let pattern = caller.request().match_pattern().unwrap_or_default();
    let is_on = ledger.is_on().await?;
    let planned = |body: &Result<B, Error>| {
        let body = body.as_ref().ok().filter(|_| is_on)?;
        Some(plan(&keys, pattern.clone(), body))
    };
    let needs_body = is_on || model.is_some();
    if !needs_body || unread.announced().is_none_or(|bytes| bytes > READ_FIRST) {
        let read = caller.user(Along::default()).await?;
        let body = unread.parse(read.user.id, limit, move |body| Ok(parse(body))).await?;
        if let Some(plan) = planned(&body) {
            ledger.reserve(read.user.id, plan, &context.log).await?;
        }
        return Ok(Admitted::new(read, body));
    }
    let body = unread.parse(caller.id(), limit, move |body| Ok(parse(body))).await?;
    let model = model.zip(body.as_ref().ok()).and_then(|(model, body)| model(body));
    let along = Along { model, reservation: None };
    // A body that is none is refused by the handler, for a user who is one.
    let Some(plan) = planned(&body) else {
        return Ok(Admitted::new(caller.user(along).await?, body));
    };
    let reservation = ledger.begin(caller.id(), plan);
    match caller.user(Along { reservation: Some(&reservation.request(None)), ..along }).await {
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

/// Returns what a chat is going to be.
fn plan(keys: &Keys, context: &ChatContext, pattern: String, posted: &ChatBody, route: Route) -> Plan {
    let chat = posted.chat();
    let (provider, wire) = match route {
        Route::Chat(provider, wire) => (provider, wire),
        // The front end posts an empty id for a model that is not custom.
        _ if posted.custom_model_id().is_some_and(|id| !id.is_empty()) => (CUSTOM.path, Wire::Chat),
        _ => by_name(&chat.model, keys),
    };
    let wanted = Wanted { images: posted.has_images(), functions: matches!(route, Route::Tools) };
    let called = called(context, provider, wire, &chat, wanted);
    // Azure's deployments are of OpenAI's models.
    let of = if provider == azure::PROVIDER { OPENAI.path } else { provider };
    let rules = catalogue().model_or_family(of, &called);
    let estimate = estimate::chat(of, rules, posted.size());
    let mut models = vec![chat.model];
    if models[0] != called {
        models.push(called);
    }
    Plan { route: pattern, provider, models, estimate }
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
