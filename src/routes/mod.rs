//! The route table, at a glance.

mod answer;
mod assistants;
pub mod body;
mod chat;
mod command;
mod docs;
pub mod headers;
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
    llm::providers::{OPENAI, PROVIDERS, Provider},
};

/// One row of the route table.
pub struct Row {
    /// `POST`, or `GET`, which answers `HEAD` too.
    pub method: Method,
    /// As clients ask for it.
    pub path: String,
    /// Who is answered.
    pub access: Access,
    resource: Resource,
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever is signed in: the handler takes [`crate::auth::User`].
    User,
    /// Everybody, for the reason that stands beside the row.
    Anyone,
}

/// Every route.
pub fn table() -> Vec<Row> {
    use Access::{Anyone, User};
    let chat = |provider: &'static Provider| {
        let reply = move |user, exchange, body| chat::reply(provider, user, exchange, body);
        post(&format!("/api/chat/{}", provider.path), User, reply)
    };
    let mut rows: Vec<Row> = PROVIDERS.iter().chain([&OPENAI]).map(chat).collect();
    rows.extend([
        post("/api/chat/custom", User, chat::reply_custom),
        post("/api/chat/azure", User, chat::reply_azure),
        post("/api/chat/anthropic", User, chat::reply_anthropic),
        post("/api/chat/google", User, chat::reply_google),
        post("/api/chat/tools", User, tools::reply),
        post("/api/retrieval/process", User, retrieval::process),
        post("/api/retrieval/process/docx", User, retrieval::process_docx),
        post("/api/retrieval/retrieve", User, retrieval::retrieve),
        post("/api/command", User, command::reply),
        get("/api/assistants/openai", User, assistants::list).also(Method::OPTIONS, assistants::options),
        post("/api/username/available", User, username::available),
        post("/api/username/get", User, username::get),
        // The front end asks before anybody has signed in.
        get("/api/keys", Anyone, keys::list),
        // What the routes look like is no secret.
        get("/openapi.json", Anyone, docs::document),
        get("/api/docs", Anyone, docs::read),
        // Load balancers and orchestrators have no session.
        get("/healthz", Anyone, health::alive),
        get("/readyz", Anyone, health::ready),
    ]);
    rows
}

/// Installs the table.
pub fn configure(routes: &mut ServiceConfig) {
    for row in table() {
        routes.service(row.resource);
    }
}

/// What answers where no route does: a path with a slash too many is sent to
/// where it leads without, as Next.js does.
pub fn not_found() -> Route {
    web::to(async |request: HttpRequest| no_route(&request))
}

/// [`not_found`], for whoever has looked further first.
///
/// # Errors
/// That there is no such route.
pub fn no_route(request: &HttpRequest) -> Result<HttpResponse, Error> {
    let path: Vec<&str> = request.path().split('/').filter(|part| !part.is_empty()).collect();
    let path = format!("/{}", path.join("/"));
    if path.starts_with("/api/") && path != request.path() {
        return Ok(HttpResponse::PermanentRedirect().insert_header((LOCATION, path.clone())).body(path));
    }
    Err(Error::RouteNotFound)
}

fn post<F, Args>(path: &str, access: Access, handler: F) -> Row
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let resource = web::resource(path)
        .route(web::post().to(handler))
        .default_service(web::to(async || Err::<String, _>(Error::MethodNotAllowed("POST"))));
    Row { method: Method::POST, path: path.to_owned(), access, resource }
}

fn get<F, Args>(path: &str, access: Access, handler: F) -> Row
where
    F: Handler<Args> + Clone,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let resource = web::resource(path)
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
        .default_service(web::to(async || Err::<String, _>(Error::MethodNotAllowed("GET, HEAD"))));
    Row { method: Method::GET, path: path.to_owned(), access, resource }
}

impl Row {
    /// Answers one more method.
    fn also<F, Args>(mut self, method: Method, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.resource = self.resource.route(web::method(method).to(handler));
        self
    }
}
