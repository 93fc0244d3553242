//! `POST /api/command`: the command palette's prompt, answered in one piece.

use actix_web::HttpResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::{
    credentials::Key,
    error::Error,
    http::{
        body::{self, UnreadBody},
        context::ChatContext,
        user::User,
    },
    llm::{self, openai, providers::OPENAI},
};

const MODEL: &str = "gpt-4-1106-preview";

#[derive(Deserialize)]
struct Question<'a> {
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: [Value; 2],
    temperature: u8,
    max_tokens: u32,
}

#[derive(Serialize)]
struct Answer {
    /// A string or `null`, as in the provider's response; omitted if absent there.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Value>,
}

/// Responds with `{"content"}`.
pub async fn reply(user: User, context: ChatContext, unread: UnreadBody) -> Result<HttpResponse, Error> {
    let body = unread.read(&user, body::QUESTION).await?;
    let profile = user.profile()?;
    let key = profile.key(Key::OpenAi).ok_or(Error::KeyNotFound(OPENAI.name))?;
    let question: Question<'_> = body.object("input")?;
    let input = question.input.ok_or_else(|| Error::BadRequest("input is missing".to_owned()))?;
    let request = Request {
        model: MODEL,
        messages: [
            json!({ "role": "system", "content": "Respond to the user." }),
            json!({ "role": "user", "content": input }),
        ],
        temperature: 0,
        max_tokens: 4096,
    };
    context.note(OPENAI.path, MODEL);
    let base_url = &context.providers.base_urls.openai;
    let call = OPENAI.post(base_url, "/chat/completions", &request, key, profile.key(Key::OpenAiOrganization))?;
    let completion = llm::complete(&context.providers, &call, &context.log).await;
    let mut message = completion.and_then(openai::message).map_err(openai::plain_error)?;
    let refusal = openai::text_of(&message).filter(|_| message["content"].is_null()).map(Value::from);
    let content = refusal.or_else(|| message.as_object_mut()?.remove("content"));
    Ok(HttpResponse::Ok().json(Answer { content }))
}
