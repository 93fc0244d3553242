//! `GET /api/assistants/openai`: the assistants of the user's OpenAI account.

use actix_web::{HttpResponse, http::header::ALLOW};
use reqwest::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    credentials::Key,
    error::Error,
    http::{context::ChatContext, user::User},
    llm::{self, ATTEMPTS, Call, Failure, Reading, access::endpoint, openai, providers::OPENAI},
};

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    data: Option<Vec<Value>>,
}

/// Responds with `{"assistants": […]}`: the first hundred, in OpenAI's format.
pub async fn list(user: User, context: ChatContext) -> Result<HttpResponse, Error> {
    let profile = user.profile()?;
    let key = profile.key(Key::OpenAi).ok_or(Error::KeyNotFound(OPENAI.name))?;
    let mut headers = OPENAI.headers(key, profile.openai_organization())?;
    // Differs: the original requests version 1, which OpenAI has switched off.
    headers.insert(HeaderName::from_static("openai-beta"), HeaderValue::from_static("assistants=v2"));
    let url = endpoint(&context.providers.base_urls.openai, "/assistants?limit=100")?;
    let call = Call { url, headers, body: None, guarded: false, attempts: ATTEMPTS };
    context.note(OPENAI.path, "");
    let reading = Reading::json(context.charge_to(user.id)?);
    let page = match llm::complete(&context.providers, &call, &context.log, reading).await {
        // Differs: OpenAI has shut this API down. Nobody has assistants any
        // more, which is no error that a user could do something about.
        Err(Failure::Status { status: 404 | 410, .. }) => Page { data: None },
        page => page.map_err(openai::plain_error)?,
    };
    Ok(HttpResponse::Ok().json(json!({ "assistants": page.data.unwrap_or_default() })))
}

/// `OPTIONS`: supported by this route only, as in the original.
pub async fn options() -> HttpResponse {
    HttpResponse::NoContent().insert_header((ALLOW, "GET, HEAD, OPTIONS")).finish()
}
