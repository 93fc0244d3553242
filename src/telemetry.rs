//! The log: its set-up, and the one line that each request leaves at its end.

use std::{
    cell::{RefCell, RefMut},
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderName, HeaderValue},
    middleware::Next,
};
use tracing::Level;
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};
use uuid::Uuid;

use crate::{config::Variables, error::Error};

/// Starts the log on standard error: `RUST_LOG` (default `info`) says how
/// much, `LOG_FORMAT` (`text`, the default, or `json`) how.
///
/// # Errors
/// A variable that cannot be used, by its name.
pub fn start(variables: &Variables) -> Result<(), String> {
    let text = |name: &str| variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let filter = EnvFilter::try_new(text("RUST_LOG").unwrap_or("info,actix_server=warn"))
        .map_err(|error| format!("RUST_LOG must be a level or directives such as `info,sqlx=warn`: {error}"))?;
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(|line| may_be_written(line.target(), *line.level())));
    let layer = fmt::layer().with_writer(std::io::stderr);
    let started = match text("LOG_FORMAT") {
        None | Some("text") => registry
            .with(layer.with_target(false).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())))
            .try_init(),
        Some("json") => registry.with(layer.json().flatten_event(true)).try_init(),
        Some(_) => return Err("LOG_FORMAT must be `text` or `json`".to_owned()),
    };
    started.map_err(|error| error.to_string())
}

/// Whether a line may be written at all, whatever `RUST_LOG` says. What others
/// write for finding their bugs holds what passes through them: URLs with a
/// tool's arguments in the query, and headers with keys.
fn may_be_written(target: &str, level: Level) -> bool {
    /// Silent below `info`: they name URLs, header by header what is sent and
    /// what comes, and the messages of a TLS handshake.
    const QUIET: [&str; 4] = ["reqwest", "h2", "rustls", "hyper"];
    let from = |name: &str| target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let most = if from("chatbot_ui_api") {
        Level::TRACE
    } else if QUIET.into_iter().any(from) {
        Level::INFO
    } else {
        Level::DEBUG
    };
    level <= most
}

/// The record of one request. It is written when its last holder lets go of
/// it: for a streamed answer that is the body, so the line tells how the
/// stream ended. No body, no header, no query string is ever in it.
#[derive(Debug, Clone)]
pub struct RequestLog(Rc<RefCell<Line>>);

#[derive(Debug)]
struct Line {
    id: Uuid,
    started: Instant,
    method: String,
    route: String,
    facts: Facts,
}

/// What becomes known of a request on its way.
#[derive(Debug, Default)]
pub struct Facts {
    /// The answer's status.
    pub status: Option<u16>,
    /// The provider's name, as in the route.
    pub provider: Option<&'static str>,
    /// The model as the client named it, shortened.
    pub model: Option<String>,
    /// The signed-in user.
    pub user: Option<Uuid>,
    /// From the request's start to the first text of the answer.
    pub first_text: Option<Duration>,
    /// How a streamed answer ended; `None` for one that was not streamed.
    pub ended: Option<&'static str>,
    /// What the operator needs to know of a failure.
    pub detail: Option<String>,
    /// How often the provider was asked again.
    pub retries: u32,
}

impl RequestLog {
    fn new(request: &HttpRequest) -> Self {
        Self(Rc::new(RefCell::new(Line {
            id: Uuid::new_v4(),
            started: Instant::now(),
            method: request.method().to_string(),
            route: String::new(),
            facts: Facts::default(),
        })))
    }

    /// The facts, to be added to.
    pub fn note(&self) -> RefMut<'_, Facts> {
        RefMut::map(self.0.borrow_mut(), |line| &mut line.facts)
    }

    /// How long ago the request came.
    pub fn elapsed(&self) -> Duration {
        self.0.borrow().started.elapsed()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Facts { status, provider, model, user, first_text, ended, detail, retries } = &self.facts;
        // A handler that was dropped on its way: the client did not wait.
        let ended = ended.or(status.is_none().then_some("client left"));
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
        tracing::info!(
            request_id = %self.id,
            method = self.method,
            route = self.route,
            status,
            provider,
            model = model.as_deref(),
            user = user.map(tracing::field::display),
            first_text_ms = first_text.map(milliseconds),
            duration_ms = milliseconds(self.started.elapsed()),
            retries = (*retries > 0).then_some(retries),
            ended,
            detail = detail.as_deref(),
            "request"
        );
    }
}

/// Gives each request its id and its record. The id is always made here: one
/// that the client sends is not taken over, so that nobody can write into the
/// log or pass for another request.
///
/// # Errors
/// What the service inside returned.
pub async fn record_request(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let log = RequestLog::new(request.request());
    request.extensions_mut().insert(log.clone());
    let mut response = match next.call(request).await {
        Ok(response) => response,
        Err(_) => {
            // Nothing but a panic leaves as an error here.
            let mut line = log.0.borrow_mut();
            line.facts.status = Some(500);
            line.facts.ended = Some("panicked");
            return Err(Error::Internal("a handler panicked".to_owned()).into());
        }
    };
    {
        let mut line = log.0.borrow_mut();
        line.route = response.request().match_pattern().unwrap_or_else(|| "(none)".to_owned());
        let failure = response.response().error().and_then(|error| error.as_error::<Error>());
        let failure = failure.map(|error| error.detail().into_owned());
        let facts = &mut line.facts;
        facts.status = Some(response.status().as_u16());
        facts.detail = facts.detail.take().or(failure);
        let id = line.id.hyphenated().to_string();
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_for_themselves_is_left_out() {
        assert!(may_be_written("chatbot_ui_api::llm", Level::TRACE));
        assert!(may_be_written("sqlx::query", Level::DEBUG) && !may_be_written("sqlx::query", Level::TRACE));
        assert!(!may_be_written("reqwest::async_impl::client", Level::DEBUG));
        assert!(!may_be_written("h2", Level::DEBUG) && may_be_written("h2", Level::WARN));
        assert!(!may_be_written("chatbot_ui_apis", Level::TRACE));
    }
}
