//! `POST /api/chat/tools`: the model is asked once with the tools, what it
//! calls is called, and it is asked again with what came of it.

use actix_web::{HttpResponse, web::Data};
use futures::future::try_join_all;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::chat::{access, request};
use crate::{
    error::Error,
    http::{body::UnreadBody, context::ChatContext, user::User},
    js,
    llm::{
        Wire,
        dispatch::Attempt,
        openai,
        providers::OPENAI,
        request::{Prompt, Turns},
    },
    tools::{
        SelectedTool, ToolClient, invoke,
        openapi::{self, Operation},
    },
};

/// A function that the model may call, and the headers of its tool, or what
/// is wrong with them.
struct Function {
    operation: Operation,
    headers: Result<HeaderMap, String>,
}

#[derive(Deserialize)]
struct ToolCall {
    id: Value,
    function: CalledFunction,
}

#[derive(Deserialize)]
struct CalledFunction {
    name: String,
    #[serde(default)]
    arguments: String,
}

/// The handler.
pub async fn reply(
    user: User,
    context: ChatContext,
    client: Data<ToolClient>,
    body: UnreadBody,
) -> Result<HttpResponse, Error> {
    let body = body.read(&user, usize::MAX).await?;
    let access = access(&OPENAI, &user, &context)?;
    let posted = body.chat()?;
    let chat = posted.chat()?;
    let functions = functions(posted.selected_tools()?);
    let mut messages: Vec<Value> = chat.message_objects()?.into_iter().map(Value::Object).collect();
    context.note(OPENAI.path, &chat.model);

    let tools: Vec<Value> = functions.iter().map(|function| function.operation.function.clone()).collect();
    let mut first = request(OPENAI.path, &context, &access, &chat, Wire::Chat);
    // The second request goes the way of the first, which offers them.
    first.wanted.functions = !tools.is_empty();
    let second = first.clone();
    let message = {
        let tools = Some(tools.as_slice()).filter(|tools| !tools.is_empty());
        let call = |attempt: &Attempt<'_>| {
            let turns = Turns::Values(&messages);
            OPENAI.call(Prompt { turns, temperature: None, tools, stream: false, quick: false }, attempt, &access)
        };
        context.message(first, call).await?
    };
    let calls = match &message["tool_calls"] {
        Value::Array(calls) if !calls.is_empty() => {
            serde_json::from_value::<Vec<ToolCall>>(Value::Array(calls.clone())).map_err(|_| unexpected())?
        }
        _ => return Ok(context.text(openai::text_of(&message).unwrap_or_default())),
    };

    messages.push(message);
    // All at once: one turn's calls do not depend on each other.
    let results = calls.iter().map(|call| async {
        let CalledFunction { name, arguments } = &call.function;
        let function =
            functions.iter().find(|function| function.operation.name == *name).ok_or_else(|| Error::Provider {
                status: 500,
                message: format!("The model called `{name}`, which none of the selected tools has"),
            })?;
        let headers = function.headers.as_ref().map_err(|reason| Error::Provider {
            status: 500,
            message: format!("The tool `{name}` cannot be called: {reason}"),
        })?;
        let result = invoke::invoke(&client, &function.operation, headers, arguments).await?;
        Ok::<_, Error>(
            json!({ "tool_call_id": call.id, "role": "tool", "name": name, "content": js::stringify(&result) }),
        )
    });
    let waiting = context.log.wait_for_tools();
    messages.extend(try_join_all(results).await?);
    drop(waiting);
    drop((tools, calls, functions));
    drop((user, body));
    let call = move |attempt: &Attempt<'_>| {
        let turns = Turns::Values(&messages);
        OPENAI.call(Prompt { turns, temperature: None, tools: None, stream: true, quick: false }, attempt, &access)
    };
    context.relay(second, call, openai::plain_error).await
}

fn unexpected() -> Error {
    Error::Provider { status: 500, message: "The provider answered with something that is not understood".to_owned() }
}

/// The functions of all tools that can be read. One that cannot is passed
/// over, and the log says why: the others still work.
fn functions(tools: Vec<SelectedTool>) -> Vec<Function> {
    let (mut functions, mut budget) = (Vec::new(), openapi::Budget::default());
    for tool in tools {
        match openapi::operations(&tool.schema, &mut budget) {
            Ok(operations) => {
                let headers = invoke::custom_headers(&tool.custom_headers);
                functions
                    .extend(operations.into_iter().map(|operation| Function { operation, headers: headers.clone() }));
            }
            Err(reason) => tracing::info!(reason, "a selected tool cannot be used"),
        }
    }
    functions
}
