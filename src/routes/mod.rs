//! The route table, at a glance.

mod answer;
mod assistants;
mod body;
mod chat;
mod command;
mod health;
mod keys;
mod retrieval;
mod tools;
mod username;

use actix_web::{
    FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, Route,
    http::{Method, header::LOCATION},
    web::{self, ServiceConfig},
};

use crate::{
    error::Error,
    llm::providers::{OPENAI, PROVIDERS},
};

/// Every route. A handler that takes [`crate::auth::User`] is for signed-in
/// users; the others say why they are not.
pub fn configure(routes: &mut ServiceConfig) {
    for provider in PROVIDERS.iter().chain([&OPENAI]) {
        let reply = move |user, exchange, body| chat::reply(provider, user, exchange, body);
        routes.service(post(&format!("/api/chat/{}", provider.path), reply));
    }
    routes
        .service(post("/api/chat/custom", chat::reply_custom))
        .service(post("/api/chat/azure", chat::reply_azure))
        .service(post("/api/chat/anthropic", chat::reply_anthropic))
        .service(post("/api/chat/google", chat::reply_google))
        .service(post("/api/chat/tools", tools::reply))
        .service(post("/api/retrieval/process", retrieval::process))
        .service(post("/api/retrieval/process/docx", retrieval::process_docx))
        .service(post("/api/retrieval/retrieve", retrieval::retrieve))
        .service(post("/api/command", command::reply))
        .service(
            get("/api/assistants/openai", assistants::list).route(web::method(Method::OPTIONS).to(assistants::options)),
        )
        .service(post("/api/username/available", username::available))
        .service(post("/api/username/get", username::get))
        // The front end asks before anybody has signed in.
        .service(get("/api/keys", keys::list))
        // For load balancers and orchestrators, which have no session.
        .service(get("/healthz", health::alive))
        .service(get("/readyz", health::ready));
}

/// What answers where no route does: a path with a slash too many is sent to
/// where it leads without, as Next.js does.
pub fn not_found() -> Route {
    web::to(async |request: HttpRequest| {
        let path: Vec<&str> = request.path().split('/').filter(|part| !part.is_empty()).collect();
        let path = format!("/{}", path.join("/"));
        if path.starts_with("/api/") && path != request.path() {
            return Ok(HttpResponse::PermanentRedirect().insert_header((LOCATION, path.clone())).body(path));
        }
        Err(Error::RouteNotFound)
    })
}

fn post<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(web::post().to(handler))
        .default_service(web::to(async || Err::<String, _>(Error::MethodNotAllowed("POST"))))
}

fn get<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args> + Clone,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
        .default_service(web::to(async || Err::<String, _>(Error::MethodNotAllowed("GET, HEAD"))))
}
