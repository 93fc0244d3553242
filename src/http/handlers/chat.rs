//! `POST /api/chat/{provider}`: a chat, streamed.

use std::sync::Arc;

use actix_web::{HttpResponse, web::Data};

use crate::{
    db::{Db, models, offered},
    error::Error,
    http::{
        admit::{Admitted, Route, admit_chat},
        body::UnreadBody,
        context::ChatContext,
        user::Caller,
        ways::{Incoming, Posted, Ways, check_key},
    },
    llm::{
        Wire, azure,
        offers::{Hosted, provider_of},
        providers::{CUSTOM, Vendor},
    },
};

/// `POST /api/chat/{openai,anthropic,google,groq,mistral,openrouter,perplexity}`.
pub async fn reply(
    vendor: Vendor,
    caller: Caller,
    context: ChatContext,
    body: UnreadBody,
) -> Result<HttpResponse, Error> {
    let route = Route::Chat(vendor.name(), vendor.wire());
    let Admitted { user, body, .. } = admit_chat(caller, &context, body, route).await?;
    check_key(&user, vendor)?;
    let body = Arc::new(body?);
    let posted = if vendor == Vendor::Google { Posted::Google } else { Posted::Chat };
    let ways = context.incoming(&user, &body, posted).hosted(vendor)?;
    drop((user, body));
    answer(context, ways).await
}

/// `POST /api/chat/custom`: the user's own model, a shared one, or one that the operator offers.
///
/// Differs: the original checks no session and lets anyone use any row.
pub async fn reply_custom(
    caller: Caller,
    context: ChatContext,
    db: Data<Db>,
    body: UnreadBody,
) -> Result<HttpResponse, Error> {
    let route = Route::Chat(CUSTOM.path, Wire::Chat);
    let Admitted { user, body, named } = admit_chat(caller, &context, body, route).await?;
    let body = Arc::new(body?);
    let id = body.custom_model().ok_or(Error::ModelNotFound)?;
    let model = named.model(&db, user.id, id).await?;
    let ways = custom(&model, &db, &context, context.incoming(&user, &body, Posted::Chat)).await?;
    drop((user, model, body));
    answer(context, ways).await
}

/// Returns the ways to a row of `models`.
///
/// # Errors
/// If the row is an offer of the operator's that is no longer one, or was none.
pub(super) async fn custom(
    model: &models::CustomModel,
    db: &Db,
    context: &ChatContext,
    incoming: Incoming<'_>,
) -> Result<Ways, Error> {
    let Some(provider) = provider_of(&model.base_url) else {
        return Ok(incoming.custom(&model.base_url, &model.api_key));
    };
    let hosted = Vendor::by_name(provider).map(|vendor| Hosted { vendor, model: model.model.clone() });
    let offers = &context.providers.routing.settings.offers;
    let hosted = match hosted {
        Some(hosted) if offers.iter().any(|offer| offer.hosted == hosted) => Some(hosted),
        // Without the setting, what the last `models sync` offered counts. Users can write such rows themselves, but
        // not into that table.
        Some(hosted) if offers.is_empty() && offered::is_offered(db, provider, &hosted.model).await? => Some(hosted),
        _ => None,
    };
    match hosted {
        Some(hosted) => {
            context.reserve_offered(incoming.user, &hosted, incoming.body.size()).await?;
            incoming.offered(hosted)
        }
        None => Err(Error::Failed {
            status: 403,
            message: "This server does not offer this model: please choose another one.".to_owned(),
        }),
    }
}

/// `POST /api/chat/azure`.
pub async fn reply_azure(caller: Caller, context: ChatContext, body: UnreadBody) -> Result<HttpResponse, Error> {
    let route = Route::Chat(azure::PROVIDER, Wire::Chat);
    let Admitted { user, body, .. } = admit_chat(caller, &context, body, route).await?;
    let body = Arc::new(body?);
    let model = body.chat().model;
    let profile = user.profile()?;
    let deployment = azure::deployment(profile, &model)?;
    let access = azure::access(profile)?;
    let ways = context.incoming(&user, &body, Posted::Chat).azure(&deployment, &access)?;
    drop((user, body));
    context.note(azure::PROVIDER, &model);
    context.relay(ways).await
}

async fn answer(context: ChatContext, ways: Ways) -> Result<HttpResponse, Error> {
    let (provider, model) = ways.first();
    context.note(provider, model);
    context.relay(ways).await
}
