//! `POST /api/command`: the command palette's prompt, answered in one piece.

use actix_web::HttpResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::chat::access;
use crate::{
    error::Error,
    http::{
        admit::{Route, admit},
        body::{self, UnreadBody},
        context::ChatContext,
        user::Caller,
    },
    llm::{
        Wire,
        answer::openai::Habits,
        dispatch::{Attempt, ModelRequest},
        openai,
        providers::OPENAI,
        request::{Prompt, Turns},
        routing::Wanted,
    },
};

/// The original's model, which OpenAI no longer serves.
const MODEL: &str = "gpt-4-1106-preview";

#[derive(Deserialize)]
struct Question<'a> {
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Answer {
    /// A string or `null`, as in the provider's response; omitted if absent there.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Value>,
}

/// Responds with `{"content"}`.
///
/// Differs: the original calls [`MODEL`] with a limit of 4,096 tokens, which today's models spend on thinking.
pub async fn reply(caller: Caller, context: ChatContext, unread: UnreadBody) -> Result<HttpResponse, Error> {
    let (user, body) = admit(caller, &context, unread, body::QUESTION, Route::Command).await?;
    let access = access(&OPENAI, &user, &context)?;
    let question: Question<'_> = body.object("input")?;
    let input = question.input.ok_or_else(|| Error::BadRequest("input is missing".to_owned()))?;
    let turns =
        [json!({ "role": "system", "content": "Respond to the user." }), json!({ "role": "user", "content": input })];
    let temperature = RawValue::from_string("0".to_owned()).map_err(|error| Error::Internal(error.to_string()))?;
    let routing = &context.providers.routing;
    let models = if routing.settings.substitute { routing.settings.command.clone() } else { vec![MODEL.to_owned()] };
    context.note(OPENAI.path, MODEL);
    let request = ModelRequest {
        provider: OPENAI.path,
        scope: routing.learnt.scope(&access.base_url, &access.key),
        models,
        wire: Wire::Chat,
        chat_first: false,
        wanted: Wanted::default(),
        habits: Habits::NONE,
    };
    let id = user.id;
    drop(user);
    let call = |attempt: &Attempt<'_>| {
        let turns = Turns::Values(&turns);
        let prompt = Prompt { turns, temperature: Some(&temperature), tools: None, stream: false, quick: true };
        OPENAI.call(prompt, attempt, &access)
    };
    let mut message = context.message(id, request, call).await?;
    let refusal = openai::text_of(&message).filter(|_| message["content"].is_null()).map(Value::from);
    let content = refusal.or_else(|| message.as_object_mut()?.remove("content"));
    Ok(HttpResponse::Ok().json(Answer { content }))
}
