//! `POST /api/chat/{provider}`: a chat, answered as it comes.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, Responder,
    dev::Payload,
    http::header::{ACCEPT, CACHE_CONTROL, HeaderName, HeaderValue},
    web::{Bytes, Data},
};
use actix_web_lab::sse::{self, Event, Sse};
use futures::{Stream, StreamExt, stream};
use serde_json::json;
use uuid::Uuid;

use super::body::{Body, ChatBody};
use crate::{
    app::State,
    auth::User,
    db::models,
    error::Error,
    keys::Key,
    llm::{
        self, Call, Failure, Output, Reader, openai,
        providers::{CUSTOM, Provider},
        relay::Relay,
    },
    outbound::Clients,
    telemetry::RequestLog,
};

/// `POST /api/chat/{openai,groq,mistral,openrouter,perplexity}`.
pub async fn reply(
    provider: &'static Provider,
    user: User,
    clients: Data<Clients>,
    state: Data<State>,
    log: RequestLog,
    answer: Answer,
    body: Body,
) -> Result<HttpResponse, Error> {
    let profile = user.profile()?;
    let key = profile.key(provider.key).ok_or(Error::KeyNotFound(provider.name))?;
    let chat = body.object::<ChatBody<'_>>("chatSettings")?.chat()?;
    let base_url = (provider.base_url)(&state.config.base_urls);
    let call = provider.call(&chat, base_url, key, profile.key(Key::OpenAiOrganization))?;
    relay(&clients, call, provider, &chat.model, log, answer).await
}

/// `POST /api/chat/custom`: a model of the user's own, or a shared one.
///
/// Differs: the original checks no session and lets anyone use any row.
pub async fn reply_custom(
    user: User,
    clients: Data<Clients>,
    state: Data<State>,
    log: RequestLog,
    answer: Answer,
    body: Body,
) -> Result<HttpResponse, Error> {
    let body = body.object::<ChatBody<'_>>("chatSettings")?;
    let id = body.custom_model_id().and_then(|id| Uuid::try_parse(&id).ok()).ok_or(Error::ModelNotFound)?;
    let model = models::find(&state.db, user.id, id).await?.ok_or(Error::ModelNotFound)?;
    let chat = body.chat()?;
    let base_url = match model.base_url.trim() {
        "" => (CUSTOM.base_url)(&state.config.base_urls),
        base_url => base_url,
    };
    let call = CUSTOM.call(&chat, base_url, &model.api_key, None)?;
    relay(&clients, Call { guarded: true, ..call }, &CUSTOM, &chat.model, log, answer).await
}

async fn relay(
    clients: &Clients,
    call: Call,
    provider: &'static Provider,
    model: &str,
    log: RequestLog,
    answer: Answer,
) -> Result<HttpResponse, Error> {
    {
        let mut facts = log.note();
        facts.provider = Some(provider.path);
        facts.model = Some(model.chars().take(100).collect());
    }
    let opened = async {
        let response = llm::send(clients, &call, &log).await?;
        Relay::open(response, Reader::OpenAi(openai::Reader::default()), log.clone()).await
    };
    let relay = opened.await.map_err(|failure| provider.error(failure))?;
    Ok(answer.with(relay, move |failure| provider.error(failure)))
}

/// How the client wants its answer: as plain text, or, with
/// `Accept: text/event-stream`, as events.
pub struct Answer {
    request: HttpRequest,
    as_events: bool,
}

impl FromRequest for Answer {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let accept = request.headers().get_all(ACCEPT).filter_map(|value| value.to_str().ok());
        let mut media = accept.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
        let as_events = media.any(|media| media.trim().eq_ignore_ascii_case("text/event-stream"));
        ready(Ok(Self { request: request.clone(), as_events }))
    }
}

impl Answer {
    /// The response that carries a relay's answer.
    ///
    /// As text, a failure cuts the connection, so that the client can tell.
    fn with(self, relay: Relay, words: impl Fn(Failure) -> Error + 'static) -> HttpResponse {
        let mut response = if self.as_events {
            Sse::from_infallible_stream(events(relay, words)).respond_to(&self.request)
        } else {
            let text = relay.filter_map(async |item| match item {
                Ok(Output { text, .. }) => (!text.is_empty()).then(|| Ok(Bytes::from(text))),
                Err(failure) => Some(Err(failure)),
            });
            HttpResponse::Ok().content_type("text/plain; charset=utf-8").streaming(text)
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // nginx gathers an answer before it passes it on otherwise.
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        response
    }
}

/// An answer as events: `delta` (`{"text"}`), `usage` (the provider's own
/// count), and at the end `done` (`{}`) or `error` (`{"message"}`).
fn events(relay: Relay, words: impl Fn(Failure) -> Error + 'static) -> impl Stream<Item = Event> {
    let event = |name: &'static str, data: String| Event::from(sse::Data::new(data).event(name));
    let steps = relay.map(Some).chain(stream::once(ready(None)));
    let events = steps.scan(false, move |failed, step| {
        let mut events = Vec::new();
        match step {
            Some(Ok(Output { text, usage, .. })) => {
                if !text.is_empty() {
                    events.push(event("delta", json!({ "text": text }).to_string()));
                }
                events.extend(usage.map(|usage| event("usage", String::from(Box::<str>::from(usage)))));
            }
            Some(Err(failure)) => {
                *failed = true;
                events.push(event("error", json!({ "message": words(failure).to_string() }).to_string()));
            }
            None if *failed => {}
            None => events.push(event("done", "{}".to_owned())),
        }
        ready(Some(stream::iter(events)))
    });
    events.flatten()
}
