//! `POST /api/command`: the command palette's prompt, answered in one piece.

use actix_web::HttpResponse;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::{
    credentials::Key,
    error::Error,
    http::{
        admit::{Admitted, admit_command},
        body::UnreadBody,
        context::ChatContext,
        user::{Caller, User},
    },
    llm::{
        Attempt, Call, Wire,
        access::Access,
        failover::{self, failover},
        openai,
        providers::OPENAI,
        pseudonym::pseudonym,
        request::{Extras, Prompt, Turns},
        routing::{ModelRequest, Wanted},
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
    let Admitted { user, body, .. } = admit_command(caller, &context, unread).await?;
    let body = body?;
    let profile = user.profile()?;
    let accesses = accesses(&user, &context)?;
    let question: Question<'_> = body.object("input")?;
    let input = question.input.ok_or_else(|| Error::BadRequest("input is missing".to_owned()))?;
    let turns =
        [json!({ "role": "system", "content": "Respond to the user." }), json!({ "role": "user", "content": input })];
    let temperature = RawValue::from_string("0".to_owned()).map_err(|error| Error::Internal(error.to_string()))?;
    let routing = &context.providers.routing;
    let models = if routing.settings.substitute { routing.settings.command.clone() } else { vec![MODEL.to_owned()] };
    context.note(OPENAI.path, MODEL);
    let request = |access: &Access| ModelRequest {
        provider: OPENAI.path,
        scope: routing.learnt.scope(&access.base_url, &access.key),
        models: models.clone(),
        wire: Wire::Chat,
        chat_first: false,
        wanted: Wanted::default(),
        any_end: false,
    };
    let ways = failover::by_keys(profile, OPENAI.path, Key::OpenAi, &routing.circuits);
    let id = user.id;
    drop(user);
    let answered = failover(&routing.circuits, &ways, &context.log, async |failover::Attempt { at, is_only }| {
        let access = &accesses[at];
        let call = |attempt: &Attempt<'_>| {
            let turns = Turns::Values(&turns);
            let prompt = Prompt { turns, temperature: Some(&temperature), tools: None, stream: false, quick: true };
            let call = OPENAI.call(prompt, attempt, access)?;
            Ok(if is_only { call } else { Call { attempts: 1, ..call } })
        };
        context.message(id, request(access), call).await
    });
    let mut message = Box::pin(answered).await.map_err(|(_, unanswered)| unanswered.into_error(openai::plain_error))?;
    let refusal = openai::text_of(&message).filter(|_| message["content"].is_null()).map(Value::from);
    let content = refusal.or_else(|| message.as_object_mut()?.remove("content"));
    Ok(HttpResponse::Ok().json(Answer { content }))
}

/// Returns what it takes to call OpenAI for a user, by each of the keys.
fn accesses(user: &User, context: &ChatContext) -> Result<Vec<Access>, Error> {
    let profile = user.profile()?;
    let access = |key: &SecretString| {
        let name = pseudonym(user.id, key);
        Access {
            base_url: (OPENAI.base_url)(&context.providers.base_urls).to_owned(),
            key: key.clone(),
            organization: profile.openai_organization().cloned(),
            extras: Extras {
                usage: true,
                cache_key: name.clone(),
                // The provider holds the key's owner to account for what all users do.
                user: name.filter(|_| profile.is_from_environment(Key::OpenAi)),
            },
        }
    };
    let accesses: Vec<Access> = profile.keys(Key::OpenAi).map(access).collect();
    if accesses.is_empty() { Err(Error::KeyNotFound(OPENAI.name)) } else { Ok(accesses) }
}
