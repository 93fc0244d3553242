//! The route table.

use actix_web::{
    FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, Route,
    http::{Method, header::LOCATION},
    web::{self, ServiceConfig},
};

use super::handlers::{assistants, chat, command, docs, health, keys, retrieval, tools, usage, username};
use crate::{error::Error, llm::providers::Vendor};

/// One row of the route table.
pub struct Row {
    /// `POST`, or `GET`, which answers `HEAD` too.
    pub method: Method,
    /// The path as clients write it.
    pub path: String,
    /// The access rule.
    pub access: Access,
    resource: Resource,
}

/// The access rule of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Signed-in users only: the handler takes [`super::user::User`] or [`super::user::Caller`].
    User,
    /// Anyone, for the reason given at the row.
    Anyone,
}

/// Every route.
pub fn table() -> Vec<Row> {
    use Access::{Anyone, User};
    let chat = |vendor: Vendor| {
        let reply = move |caller, context, body| chat::reply(vendor, caller, context, body);
        post(&format!("/api/chat/{}", vendor.name()), User, reply)
    };
    let mut rows: Vec<Row> = Vendor::all().map(chat).collect();
    rows.extend([
        post("/api/chat/custom", User, chat::reply_custom),
        post("/api/chat/azure", User, chat::reply_azure),
        post("/api/chat/tools", User, tools::reply),
        post("/api/retrieval/process", User, retrieval::process),
        post("/api/retrieval/process/docx", User, retrieval::process_docx),
        post("/api/retrieval/retrieve", User, retrieval::retrieve),
        post("/api/command", User, command::reply),
        get("/api/usage", User, usage::report),
        get("/api/assistants/openai", User, assistants::list).also(Method::OPTIONS, assistants::options),
        post("/api/username/available", User, username::available),
        post("/api/username/get", User, username::get),
        // The front end requests it before anybody has signed in.
        get("/api/keys", Anyone, keys::list),
        // The API's description is public.
        get("/openapi.json", Anyone, docs::document),
        get("/openapi-3.0.json", Anyone, docs::document_3_0),
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

/// Fallback handler: 308 to the path without extra slashes, as Next.js does, else 404.
pub fn not_found() -> Route {
    web::to(async |request: HttpRequest| no_route(&request))
}

/// The same for callers that have already matched the path.
///
/// # Errors
/// [`Error::RouteNotFound`] if there is no such route.
pub fn no_route(request: &HttpRequest) -> Result<HttpResponse, Error> {
    let path: Vec<&str> = request.path().split('/').filter(|part| !part.is_empty()).collect();
    let path = format!("/{}", path.join("/"));
    if path.starts_with("/api/") && path != request.path() {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let location = format!("{path}{query}");
        return Ok(HttpResponse::PermanentRedirect().insert_header((LOCATION, location)).body(path));
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
    /// Adds one more method.
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
