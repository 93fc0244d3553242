//! What a server tells about itself: its log and the one line that each
//! request leaves there at its end, its [`metrics`], and, with the feature
//! `otlp`, its traces. All three are made of the same record of a request.

mod log;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;

use std::{
    cell::{RefCell, RefMut},
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage, HttpRequest, ResponseError,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::header::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    web::Data,
};
use tracing_subscriber::{filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};
use uuid::Uuid;

use crate::error::Error;
use metrics::Metrics;
pub use metrics::{Gauges, PoolGauges};

/// Starts the log on standard error: `RUST_LOG` (default `info`) says how
/// much, `LOG_FORMAT` (`text`, the default, or `json`) how.
///
/// # Errors
/// A variable that cannot be used, by its name.
pub fn start(variables: &HashMap<String, String>) -> Result<(), String> {
    let text = |name: &str| variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let filter =
        log::filter(text("RUST_LOG").unwrap_or(DEFAULT_FILTER)).map_err(|problem| format!("RUST_LOG {problem}"))?;
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(|line| log::may_be_written(line.target(), *line.level())));
    let layer = fmt::layer().with_writer(|| log::EscapingWriter);
    let started = match text("LOG_FORMAT") {
        None | Some("text") => registry
            .with(layer.with_target(false).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())))
            .try_init(),
        Some("json") => registry.with(layer.json().flatten_event(true)).try_init(),
        Some(_) => return Err("LOG_FORMAT must be `text` or `json`".to_owned()),
    };
    started.map_err(|error| error.to_string())?;
    log::panics();
    Ok(())
}

/// actix writes an error for each request that is no HTTP, which anybody can
/// send.
const DEFAULT_FILTER: &str = "info,actix_server=warn,actix_http=off";

/// The route of a path that no route has.
const NO_ROUTE: &str = "(none)";

/// What one server counts and traces, shared by its workers.
pub struct Telemetry {
    /// For `/metrics`.
    pub metrics: Metrics,
    #[cfg(feature = "otlp")]
    traces: Option<otlp::Traces>,
    cut: OnceLock<Instant>,
    /// Records whose line is not written yet.
    unwritten: AtomicUsize,
}

impl Telemetry {
    /// Starts counting at zero.
    ///
    /// # Errors
    /// If the collector of traces cannot be used as it is configured.
    pub fn new(#[cfg(feature = "otlp")] traces: Option<&otlp::Settings>) -> Result<Self, String> {
        Ok(Self {
            metrics: Metrics::new().map_err(|error| format!("metrics: {error}"))?,
            #[cfg(feature = "otlp")]
            traces: traces.map(otlp::Traces::new).transpose()?,
            cut: OnceLock::new(),
            unwritten: AtomicUsize::new(0),
        })
    }

    /// Requests whose log line is not written yet.
    pub fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::Acquire)
    }

    /// What still streams at this time is cut by the server.
    pub fn cut_streams_at(&self, time: Instant) {
        let _earlier = self.cut.set(time);
    }

    /// Hands over what is not yet with the collector of traces, within `limit`.
    pub async fn flush(&self, limit: Duration) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = &self.traces {
            traces.flush(limit).await;
        }
        #[cfg(not(feature = "otlp"))]
        let _ = limit;
    }
}

/// How an answer that was streamed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With the provider's own end.
    Complete,
    /// The client closed its connection before.
    ClientLeft,
    /// The provider's connection broke, or its stream held an error.
    ProviderBroke,
    /// The provider said nothing for as long as it may be silent.
    ProviderSilent,
    /// The server was told to stop, and the time for streams was over.
    ServerStopping,
    /// By a bug.
    Panicked,
}

impl Ended {
    /// In the log and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client left",
            Self::ProviderBroke => "provider broke",
            Self::ProviderSilent => "provider silent",
            Self::ServerStopping => "server stopping",
            Self::Panicked => "panicked",
        }
    }
}

/// The record of one request. It is written when its last holder lets go of
/// it: for a streamed answer that is the body, so the line tells how the
/// stream ended. No body, no header, no query string is ever in it.
#[derive(Clone)]
pub struct RequestLog(Rc<RefCell<RequestRecord>>);

struct RequestRecord {
    telemetry: Arc<Telemetry>,
    id: Uuid,
    started: Instant,
    method: String,
    route: String,
    /// A bug or a broken set-up of ours.
    fault: bool,
    streams: bool,
    facts: Facts,
    #[cfg(feature = "otlp")]
    parent: opentelemetry::Context,
}

/// What becomes known of a request on its way.
#[derive(Debug, Default)]
pub struct Facts {
    /// The answer's status.
    pub status: Option<u16>,
    /// Who is asked: one of a few names, as metrics are counted by it.
    pub provider: Option<&'static str>,
    /// The model as the client named it, shortened.
    pub model: Option<String>,
    /// The model that was asked, shortened; another one where that is retired.
    pub asked_model: Option<String>,
    /// The label of the asked model in metrics: one of a few.
    pub model_label: Option<&'static str>,
    /// What of its requests providers refused, each time: one of a few words.
    pub refusals: Vec<&'static str>,
    /// The signed-in user.
    pub user: Option<Uuid>,
    /// From the request's start to the first text of the answer.
    pub first_text: Option<Duration>,
    /// What of `first_text` was spent neither on the provider nor on tools.
    pub overhead: Option<Duration>,
    /// How a streamed answer ended; `None` for one that was not streamed.
    pub ended: Option<Ended>,
    /// What the operator needs to know of a failure.
    pub detail: Option<String>,
    /// How often a provider was asked again.
    pub retries: u32,
    /// What a provider was asked, in order.
    pub asked: Vec<Asked>,
    /// What was spent on waiting for providers: their heads, what comes before
    /// the first text of a stream, and whole answers in one piece.
    pub provider_wait: Duration,
    /// What was spent on waiting for a model's tools.
    pub tool_wait: Duration,
    /// Texts passed on, each as it came out of one read from the provider.
    pub texts: u64,
    /// Bytes in these texts.
    pub bytes: u64,
}

/// One question to a provider, with its retries.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// When it was sent first.
    pub at: Instant,
    /// Until when it was waited for; a stream goes on from there.
    pub until: Instant,
    /// What the provider answered last.
    pub status: Option<u16>,
}

impl RequestLog {
    fn new(request: &HttpRequest, telemetry: Arc<Telemetry>) -> Self {
        #[cfg(feature = "otlp")]
        let parent = telemetry.traces.as_ref().map(|_| otlp::parent(request.headers())).unwrap_or_default();
        telemetry.unwritten.fetch_add(1, Ordering::Release);
        Self(Rc::new(RefCell::new(RequestRecord {
            telemetry,
            id: Uuid::new_v4(),
            started: Instant::now(),
            method: metrics::method(request.method().as_str()).to_owned(),
            // Known by the path alone, so also where no answer is ever made.
            route: request.match_pattern().unwrap_or_else(|| NO_ROUTE.to_owned()),
            fault: false,
            streams: false,
            facts: Facts::default(),
            #[cfg(feature = "otlp")]
            parent,
        })))
    }

    /// The facts, to be added to.
    pub fn note(&self) -> RefMut<'_, Facts> {
        RefMut::map(self.0.borrow_mut(), |line| &mut line.facts)
    }

    /// A provider is asked something new from here until this is let go.
    pub fn ask(&self) -> Waiting {
        let now = Instant::now();
        self.note().asked.push(Asked { at: now, until: now, status: None });
        self.wait()
    }

    /// The provider that was asked last is waited for until this is let go.
    pub fn wait(&self) -> Waiting {
        Waiting { log: self.clone(), since: Instant::now(), tools: false }
    }

    /// A model's tools are waited for until this is let go.
    pub fn wait_for_tools(&self) -> Waiting {
        Waiting { log: self.clone(), since: Instant::now(), tools: true }
    }

    /// The provider that was asked last has answered with this status.
    pub fn answered(&self, status: u16) {
        if let Some(asked) = self.note().asked.last_mut() {
            asked.status = Some(status);
        }
    }

    /// An answer begins to be streamed, `with_text` or as an empty one. Until
    /// more is known, its end is that the client left.
    pub fn stream(&self, with_text: bool) {
        let mut line = self.0.borrow_mut();
        if !line.streams {
            line.streams = true;
            line.telemetry.metrics.stream_opened(line.facts.provider);
            line.facts.ended = Some(Ended::ClientLeft);
        }
        if with_text {
            let elapsed = line.started.elapsed();
            let waited = line.facts.provider_wait + line.facts.tool_wait;
            line.facts.first_text = Some(elapsed);
            line.facts.overhead = Some(elapsed.saturating_sub(waited));
        }
    }

    /// A text is passed on.
    pub fn passed_on(&self, bytes: usize) {
        let mut line = self.0.borrow_mut();
        if line.facts.first_text.is_none() {
            // Thoughts or a heartbeat began the answer. What was waited for
            // since is not known, and so neither is our own part.
            line.facts.first_text = Some(line.started.elapsed());
        }
        line.facts.texts += 1;
        line.facts.bytes += bytes as u64;
    }

    /// A streamed answer ended so.
    pub fn end(&self, ended: Ended, detail: Option<String>) {
        let mut facts = self.note();
        facts.ended = Some(ended);
        facts.detail = detail;
    }
}

/// Adds to a request's record how long it was held, also where the client
/// leaves meanwhile.
pub struct Waiting {
    log: RequestLog,
    since: Instant,
    tools: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let (now, facts) = (Instant::now(), &mut self.log.0.borrow_mut().facts);
        let waited = now - self.since;
        if self.tools {
            facts.tool_wait += waited;
        } else {
            facts.provider_wait += waited;
            if let Some(asked) = facts.asked.last_mut() {
                asked.until = now;
            }
        }
    }
}

impl RequestRecord {
    fn record_response(&mut self, response: &ServiceResponse<impl MessageBody>) {
        // Known better than by the path: it may be spelt in another way.
        self.route = response.request().match_pattern().unwrap_or_else(|| NO_ROUTE.to_owned());
        self.facts.status = Some(response.status().as_u16());
        if let Some(error) = response.response().error().and_then(|error| error.as_error::<Error>()) {
            self.fault = matches!(error, Error::Internal(_));
            self.facts.detail.get_or_insert_with(|| error.detail().into_owned());
        }
    }

    fn insert_request_id(&self, headers: &mut HeaderMap) {
        if let Ok(id) = HeaderValue::from_str(&self.id.hyphenated().to_string()) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
    }

    /// Tells the client which model was asked.
    fn insert_model(&self, headers: &mut HeaderMap) {
        if let Some(Ok(model)) = self.facts.asked_model.as_deref().map(HeaderValue::from_str) {
            headers.insert(HeaderName::from_static("x-model"), model);
        }
    }

    fn ended(&self) -> Option<Ended> {
        match self.facts.ended {
            // The stream's own code; actix lets the connection go.
            _ if std::thread::panicking() => Some(Ended::Panicked),
            // A handler that was dropped on its way: the client did not wait.
            None if self.facts.status.is_none() => Some(self.left()),
            Some(Ended::ClientLeft) => Some(self.left()),
            ended => ended,
        }
    }

    fn left(&self) -> Ended {
        let is_cut = self.telemetry.cut.get().is_some_and(|cut| *cut <= Instant::now());
        if is_cut { Ended::ServerStopping } else { Ended::ClientLeft }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.facts.ended = self.ended();
        self.telemetry.metrics.request_ended(self);
        #[cfg(feature = "otlp")]
        if let Some(traces) = &self.telemetry.traces {
            traces.request_ended(self);
        }
        let Facts { status, provider, model, user, first_text, detail, retries, provider_wait, ended, .. } =
            &self.facts;
        let asked_model = self.facts.asked_model.as_deref().filter(|asked| model.as_deref() != Some(*asked));
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
        // A level must be known when compiling.
        macro_rules! write_line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = %self.id,
                    method = self.method,
                    route = self.route,
                    status,
                    provider,
                    model = model.as_deref(),
                    asked_model,
                    user = user.map(tracing::field::display),
                    first_text_ms = first_text.map(milliseconds),
                    provider_ms = (!provider_wait.is_zero()).then(|| milliseconds(*provider_wait)),
                    duration_ms = milliseconds(self.started.elapsed()),
                    retries = (*retries > 0).then_some(retries),
                    refused = (!self.facts.refusals.is_empty()).then(|| self.facts.refusals.join(", ")),
                    ended = ended.map(Ended::as_str),
                    detail = detail.as_deref(),
                    "request"
                )
            };
        }
        if self.fault || *ended == Some(Ended::Panicked) {
            write_line!(error);
        } else if status.is_some_and(|status| status >= 500) {
            write_line!(warn);
        } else {
            write_line!(info);
        }
        // Last, as the process may end after it.
        self.telemetry.unwritten.fetch_sub(1, Ordering::Release);
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
    let Some(telemetry) = request.app_data::<Data<Telemetry>>() else {
        return Err(Error::Internal("telemetry is not installed".to_owned()).into());
    };
    let log = RequestLog::new(request.request(), Arc::clone(telemetry));
    request.extensions_mut().insert(log.clone());
    match next.call(request).await {
        Ok(mut response) => {
            let mut line = log.0.borrow_mut();
            line.record_response(&response);
            line.insert_request_id(response.headers_mut());
            line.insert_model(response.headers_mut());
            drop(line);
            Ok(response)
        }
        // Nothing but a panic leaves as an error here.
        Err(_) => Err(panicked(&mut log.0.borrow_mut())),
    }
}

/// The answer where a handler panicked, with what the layers inside would
/// have added.
fn panicked(line: &mut RequestRecord) -> actix_web::Error {
    let error = Error::Internal("a handler panicked".to_owned());
    line.facts.status = Some(error.status_code().as_u16());
    line.facts.ended = Some(Ended::Panicked);
    line.facts.detail = Some(log::last_panic().map_or_else(|| error.detail().into_owned(), |at| format!("at {at}")));
    let mut response = error.error_response();
    line.insert_request_id(response.headers_mut());
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    InternalError::from_response(error, response).into()
}

#[cfg(test)]
mod tests;
