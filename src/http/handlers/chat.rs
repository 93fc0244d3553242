//! `POST /api/chat/{provider}`: a chat, streamed.

use actix_web::{HttpResponse, web::Data};
use uuid::Uuid;

use crate::{
    credentials::Key,
    db::{Db, models},
    error::Error,
    http::{body::UnreadBody, context::ChatContext, user::User},
    llm::{
        Call,
        answer::{self, Reader},
        anthropic, azure, google, openai,
        providers::{CUSTOM, Provider},
    },
};

/// `POST /api/chat/{openai,groq,mistral,openrouter,perplexity}`.
pub async fn reply(
    provider: &'static Provider,
    user: User,
    context: ChatContext,
    body: UnreadBody,
) -> Result<HttpResponse, Error> {
    let body = body.read(&user, usize::MAX).await?;
    let profile = user.profile()?;
    let key = profile.key(provider.key).ok_or(Error::KeyNotFound(provider.name))?;
    let chat = body.chat()?.chat()?;
    let base_url = (provider.base_url)(&context.providers.base_urls);
    let call = provider.call(&chat, base_url, key, profile.key(Key::OpenAiOrganization))?;
    context.note(provider.path, &chat.model);
    drop((user, body));
    let reader = answer::openai::Reader::new(provider.habits);
    context.relay(call, Reader::OpenAi(reader), |failure| provider.error(failure)).await
}

/// `POST /api/chat/custom`: the user's own model, or a shared one.
///
/// Differs: the original checks no session and lets anyone use any row.
pub async fn reply_custom(
    user: User,
    context: ChatContext,
    db: Data<Db>,
    body: UnreadBody,
) -> Result<HttpResponse, Error> {
    let body = body.read(&user, usize::MAX).await?;
    let posted = body.chat()?;
    let chat = posted.chat()?;
    let id = posted.custom_model_id().and_then(|id| Uuid::try_parse(&id).ok()).ok_or(Error::ModelNotFound)?;
    let model = models::find(&db, user.id, id).await?.ok_or(Error::ModelNotFound)?;
    let base_url = match model.base_url.trim() {
        "" => (CUSTOM.base_url)(&context.providers.base_urls),
        base_url => base_url,
    };
    let call = Call { guarded: true, ..CUSTOM.call(&chat, base_url, &model.api_key, None)? };
    context.note(CUSTOM.path, &chat.model);
    drop((user, model, body));
    let reader = answer::openai::Reader::new(CUSTOM.habits);
    context.relay(call, Reader::OpenAi(reader), |failure| CUSTOM.error(failure)).await
}

/// `POST /api/chat/azure`.
pub async fn reply_azure(user: User, context: ChatContext, body: UnreadBody) -> Result<HttpResponse, Error> {
    let body = body.read(&user, usize::MAX).await?;
    let chat = body.chat()?.chat()?;
    let call = azure::call(&chat, user.profile()?)?;
    context.note("azure", &chat.model);
    drop((user, body));
    context.relay(call, Reader::OpenAi(answer::openai::Reader::default()), openai::plain_error).await
}

/// `POST /api/chat/anthropic`.
pub async fn reply_anthropic(user: User, context: ChatContext, body: UnreadBody) -> Result<HttpResponse, Error> {
    let body = body.read(&user, usize::MAX).await?;
    let key = user.profile()?.key(Key::Anthropic).ok_or(Error::KeyNotFound(anthropic::NAME))?;
    let chat = body.chat()?.chat()?;
    let call = anthropic::call(&chat, &context.providers.base_urls.anthropic, key)?;
    context.note("anthropic", &chat.model);
    drop((user, body));
    context.relay(call, Reader::Anthropic(answer::anthropic::Reader::default()), anthropic::error).await
}

/// `POST /api/chat/google`.
pub async fn reply_google(user: User, context: ChatContext, body: UnreadBody) -> Result<HttpResponse, Error> {
    let body = body.read(&user, usize::MAX).await?;
    let key = user.profile()?.key(Key::GoogleGemini).ok_or(Error::KeyNotFound(google::NAME))?;
    let chat = body.chat()?.chat()?;
    let call = google::call(&chat, &context.providers.base_urls.google, key)?;
    context.note("google", &chat.model);
    drop((user, body));
    let url = call.url.to_string();
    context
        .relay(call, Reader::Google(answer::google::Reader::default()), move |failure| google::error(&url, failure))
        .await
}
