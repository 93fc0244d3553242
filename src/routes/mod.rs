//! The route table, at a glance.

mod body;
mod chat;
mod health;

use actix_web::{
    FromRequest, Handler, Resource, Responder, Route,
    web::{self, ServiceConfig},
};

use crate::{
    error::Error,
    llm::providers::{CUSTOM, PROVIDERS},
};

/// Every route. A handler that takes [`crate::auth::User`] is for signed-in
/// users; the others say why they are not.
pub fn configure(routes: &mut ServiceConfig) {
    for provider in &PROVIDERS {
        let reply = move |user, clients, state, log, accept, body| {
            chat::reply(provider, user, clients, state, log, accept, body)
        };
        routes.service(post(&format!("/api/chat/{}", provider.path), reply));
    }
    routes
        .service(post(&format!("/api/chat/{}", CUSTOM.path), chat::reply_custom))
        // For load balancers and orchestrators, which have no session.
        .service(get("/healthz", health::alive))
        .service(get("/readyz", health::ready));
}

/// What answers where no route does.
pub fn not_found() -> Route {
    web::to(async || Err::<String, _>(Error::RouteNotFound))
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
