//! Telemetry: the log, with one line for each request at its end; [`metrics`]; and, with the feature `otlp`, traces.
//! All three are made from the same record of a request.

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

/// Starts the log on standard error: `RUST_LOG` (default `info`) sets the level, `LOG_FORMAT` (`text`, the default, or
/// `json`) the format.
///
/// # Errors
/// If a variable is invalid: a sentence with its name.
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

/// Filtered because actix logs an error for each request that is not HTTP, and anybody can send those.
const DEFAULT_FILTER: &str = "info,actix_server=warn,actix_http=off";

/// The route of a request that no route matches.
const NO_ROUTE: &str = "(none)";

/// Counters and traces of one server, shared by its workers.
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
    /// Creates the counters, at zero.
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

    /// Sets the time at which the server aborts open streams.
    pub fn cut_streams_at(&self, time: Instant) {
        let _earlier = self.cut.set(time);
    }

    /// Exports pending traces to the collector, within `limit`.
    pub async fn flush(&self, limit: Duration) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = &self.traces {
            traces.flush(limit).await;
        }
        #[cfg(not(feature = "otlp"))]
        let _ = limit;
    }
}

/// The end of a streamed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Complete, as the provider signalled.
    Complete,
    /// The client disconnected first.
    ClientLeft,
    /// The provider's connection broke, or its stream contained an error.
    ProviderBroke,
    /// The provider sent nothing for longer than the timeout.
    ProviderSilent,
    /// The server was shutting down, and the time for streams was over.
    ServerStopping,
    /// A bug.
    Panicked,
}

impl Ended {
    /// Returns the name in the log and in metrics.
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

/// The record of one request. It is written when its last holder drops it: for a streamed answer that is the body, so
/// the log line has the stream's end. It never contains a body, a header or a query string.
#[derive(Clone)]
pub struct RequestLog(Rc<RefCell<RequestRecord>>);

/// Called with the facts once the request has ended.
type AtEnd = Box<dyn FnOnce(&Facts)>;

struct RequestRecord {
    telemetry: Arc<Telemetry>,
    id: Uuid,
    started: Instant,
    method: String,
    route: String,
    /// A bug or a broken setup of this server.
    fault: bool,
    /// The provider under which its stream is counted, once there is one.
    streams: Option<Option<&'static str>>,
    facts: Facts,
    /// Called at the end, with what became known.
    at_end: Option<AtEnd>,
    #[cfg(feature = "otlp")]
    parent: opentelemetry::Context,
}

/// Details that become known while a request is processed.
#[derive(Debug, Default)]
pub struct Facts {
    /// The response's status.
    pub status: Option<u16>,
    /// The provider: one of a few names, because it is a metrics label.
    pub provider: Option<&'static str>,
    /// The model's name from the client, shortened.
    pub model: Option<String>,
    /// The model that was called, shortened.
    pub effective_model: Option<String>,
    /// The label of the called model in metrics: one of a few.
    pub model_label: Option<&'static str>,
    /// Refusals by providers that were acted on: one of a few words for each.
    pub refusals: Vec<&'static str>,
    /// Requests that were sent again with another key or to another model: the provider that failed and the cause, each
    /// one of a few words.
    pub failovers: Vec<(&'static str, &'static str)>,
    /// The pattern of a path that was passed on to the front end, for the log alone.
    pub passed_on: Option<String>,
    /// The signed-in user.
    pub user: Option<Uuid>,
    /// Time from the request's start to the first text of the response.
    pub first_text: Option<Duration>,
    /// The part of `first_text` that was spent neither on the provider nor on tools.
    pub overhead: Option<Duration>,
    /// The end of a streamed answer; `None` if it was not streamed.
    pub ended: Option<Ended>,
    /// Details of a failure for the operator.
    pub detail: Option<String>,
    /// Number of repeated requests to providers.
    pub retries: u32,
    /// The most tokens that an answer may have, if the user's budgets have no room for more.
    pub max_output: Option<u32>,
    /// Requests to providers, in order.
    pub asked: Vec<Asked>,
    /// The id under which the ledger holds room for the request.
    pub reservation: Option<Uuid>,
    /// Time spent waiting for providers: response heads, the time before the first text of a stream, and complete
    /// responses.
    pub provider_wait: Duration,
    /// Time spent waiting for a model's tools.
    pub tool_wait: Duration,
    /// Texts passed on; one per read from the provider.
    pub texts: u64,
    /// Bytes in these texts.
    pub bytes: u64,
}

/// One request to a provider, with its retries.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The provider.
    pub provider: Option<&'static str>,
    /// The model that was called.
    pub model: Option<String>,
    /// The start of the first attempt.
    pub at: Instant,
    /// The end of waiting; a stream continues after it.
    pub until: Instant,
    /// The status of the last response.
    pub status: Option<u16>,
    /// Bytes of its body.
    pub sent: usize,
    /// Bytes of text that had been passed on before: of answers to earlier requests.
    pub bytes_before: u64,
    /// The provider's count of tokens so far.
    pub tokens: Option<Tokens>,
    /// The answer ended, so that the count is complete.
    pub is_counted: bool,
}

/// Numbers of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The prompt's, with `cached`.
    pub input: u64,
    /// The part of the prompt that was read from the provider's cache.
    pub cached: u64,
    /// The answer's, with `reasoning`.
    pub output: u64,
    /// The part of the answer that was spent on thinking.
    pub reasoning: u64,
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
            // From the path alone, so that it is set even if there is no response.
            route: request.match_pattern().unwrap_or_else(|| NO_ROUTE.to_owned()),
            fault: false,
            streams: None,
            facts: Facts::default(),
            at_end: None,
            #[cfg(feature = "otlp")]
            parent,
        })))
    }

    /// Returns the facts, for changes.
    pub fn note(&self) -> RefMut<'_, Facts> {
        RefMut::map(self.0.borrow_mut(), |line| &mut line.facts)
    }

    /// Calls `at_end` with the facts once the request has ended, however it does.
    pub fn at_end(&self, at_end: impl FnOnce(&Facts) + 'static) {
        self.0.borrow_mut().at_end = Some(Box::new(at_end));
    }

    /// Records a new request to a provider, with `sent` bytes; it is waited for until the guard is dropped.
    pub fn ask(&self, sent: usize) -> Waiting {
        let now = Instant::now();
        let mut facts = self.note();
        let bytes_before = facts.bytes;
        let asked = Asked {
            provider: facts.provider,
            model: facts.effective_model.clone(),
            at: now,
            until: now,
            status: None,
            sent,
            bytes_before,
            tokens: None,
            is_counted: false,
        };
        // Most requests have one, and keep it as long as they stream.
        facts.asked.reserve_exact(1);
        facts.asked.push(asked);
        drop(facts);
        self.wait()
    }

    /// Records the provider's count of tokens for the last request; `is_counted`: its answer has ended.
    pub fn count(&self, tokens: Option<Tokens>, is_counted: bool) {
        if let Some(asked) = self.note().asked.last_mut() {
            asked.tokens = tokens.or(asked.tokens);
            asked.is_counted |= is_counted;
        }
    }

    /// Records waiting for the provider of the last request, until the guard is dropped.
    pub fn wait(&self) -> Waiting {
        Waiting { log: self.clone(), since: Instant::now(), tools: false }
    }

    /// Records waiting for a model's tools, until the guard is dropped.
    pub fn wait_for_tools(&self) -> Waiting {
        Waiting { log: self.clone(), since: Instant::now(), tools: true }
    }

    /// Records that a request is sent again with another key or to another model.
    pub fn failed_over(&self, provider: &'static str, cause: &'static str) {
        self.note().failovers.push((provider, cause));
    }

    /// Records the status of the response to the last request.
    pub fn answered(&self, status: u16) {
        if let Some(asked) = self.note().asked.last_mut() {
            asked.status = Some(status);
        }
    }

    /// Records the start of a stream, `with_text` or as an empty one. Until more is known, its end counts as the
    /// client's disconnect.
    pub fn stream(&self, with_text: bool) {
        let mut line = self.0.borrow_mut();
        if line.streams.is_none() {
            line.streams = Some(line.facts.provider);
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

    /// Records a text that is passed on.
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

/// RAII guard: adds the time until its drop to the request's record, also if the client disconnects meanwhile.
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
        // Set again, because the path may be spelt differently.
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

    /// Names the called model to the client.
    fn insert_model(&self, headers: &mut HeaderMap) {
        if let Some(Ok(model)) = self.facts.effective_model.as_deref().map(HeaderValue::from_str) {
            headers.insert(HeaderName::from_static("x-model"), model);
        }
    }

    fn ended(&self) -> Option<Ended> {
        match self.facts.ended {
            // A panic in the stream's own code; actix closes the connection.
            _ if std::thread::panicking() => Some(Ended::Panicked),
            // A handler that was dropped while running: the client did not wait.
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

/// Lists failovers for the log, each once with its number.
fn failovers(failovers: &[(&'static str, &'static str)]) -> String {
    let mut counted: Vec<(&(&str, &str), usize)> = Vec::new();
    for failover in failovers {
        match counted.iter_mut().find(|(of, _)| *of == failover) {
            Some((_, count)) => *count += 1,
            None => counted.push((failover, 1)),
        }
    }
    let line = |((provider, cause), count): &(&(&str, &str), usize)| match count {
        1 => format!("{provider}: {cause}"),
        count => format!("{provider}: {cause} ({count} times)"),
    };
    counted.iter().map(line).collect::<Vec<_>>().join(", ")
}

/// A duration for the log, in milliseconds with three digits or, from a thousand on, without a fraction.
fn milliseconds(duration: Duration) -> f64 {
    let exact = duration.as_secs_f64() * 1000.0;
    let scale = match exact {
        ..1.0 => 1000.0,
        1.0..10.0 => 100.0,
        10.0..100.0 => 10.0,
        _ => 1.0,
    };
    (exact * scale).round() / scale
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        self.facts.ended = self.ended();
        self.telemetry.metrics.request_ended(self);
        if let Some(at_end) = self.at_end.take() {
            at_end(&self.facts);
        }
        #[cfg(feature = "otlp")]
        if let Some(traces) = &self.telemetry.traces {
            traces.request_ended(self);
        }
        let Facts { status, provider, model, user, first_text, detail, retries, provider_wait, ended, .. } =
            &self.facts;
        let effective_model = self.facts.effective_model.as_deref().filter(|asked| model.as_deref() != Some(*asked));
        let route = self.facts.passed_on.as_deref().unwrap_or(&self.route);
        // tracing needs the level at compile time.
        macro_rules! write_line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = %self.id,
                    method = self.method,
                    route,
                    status,
                    provider,
                    model = model.as_deref(),
                    effective_model,
                    user = user.map(tracing::field::display),
                    first_text_ms = first_text.map(milliseconds),
                    provider_ms = (!provider_wait.is_zero()).then(|| milliseconds(*provider_wait)),
                    duration_ms = milliseconds(self.started.elapsed()),
                    retries = (*retries > 0).then_some(retries),
                    failed_over = (!self.facts.failovers.is_empty()).then(|| failovers(&self.facts.failovers)),
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
        } else if self.facts.passed_on.is_some() {
            // A page of the front end takes dozens of requests.
            write_line!(debug);
        } else {
            write_line!(info);
        }
        // Last, because the process may end after it.
        self.telemetry.unwritten.fetch_sub(1, Ordering::Release);
    }
}

/// Gives each request its id and its record. The id is always generated here and never taken from the client, so that
/// nobody can inject text into the log or impersonate another request.
///
/// # Errors
/// If the inner service returns one.
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
        // Only a panic is returned as an error here.
        Err(_) => Err(panicked(&mut log.0.borrow_mut())),
    }
}

/// Returns the response after a panic in a handler, with the headers of the skipped middleware.
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
