//! `/metrics`: what is counted, and a listener of its own for it, so that who
//! may scrape and who may chat are two questions. `docs/operations.md` lists
//! every metric for operators.
//!
//! No label grows without bound: routes are patterns, unknown ones are one,
//! providers are names of ours, models are none. Whatever is counted of a
//! request is counted at its end, in one go; only open streams are counted as
//! they begin.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::Server,
    http::header::CONTENT_TYPE,
    web::{self, Data},
};
use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TEXT_FORMAT, TextEncoder, core::Collector,
};

use super::{Ended, Line};
use crate::{app::State, error::Error};

const NAMESPACE: &str = "chatbot_ui_api";
/// For what a provider takes: a fast first text to a slow whole answer.
const WAITS: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 30.0, 60.0, 120.0, 300.0];
/// For whole requests: `/healthz` to a long answer.
const DURATIONS: [f64; 12] = [0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0];
/// For our own part.
const OVERHEADS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// The label of a request that is for no provider known by name.
const NONE: &str = "none";

/// Everything that is counted, and where it stands.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    first_texts: HistogramVec,
    provider_waits: HistogramVec,
    tool_waits: HistogramVec,
    overheads: HistogramVec,
    /// By provider for those who look, and in all for the server itself.
    streams_open: IntGaugeVec,
    open: AtomicUsize,
    streams: IntCounterVec,
    texts: IntCounterVec,
    bytes: IntCounterVec,
    retries: IntCounterVec,
    pool: GaugeVec,
    pool_most: IntGauge,
    pool_waiting: IntGauge,
    pool_waited: Counter,
    pool_wait: Counter,
    key_set_age: Gauge,
    process: Option<Process>,
}

impl Metrics {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// Two metrics of one name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let at = &registry;
        let build = gauges(at, "build_info", "1, with the version that runs.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        Ok(Self {
            requests: counters(
                at,
                "requests_total",
                "Requests that have ended, by route pattern, method and status.",
                &["route", "method", "status"],
            )?,
            durations: histograms(
                at,
                "request_duration_seconds",
                "From a request's head to the end of its answer, by route pattern.",
                &["route"],
                &DURATIONS,
            )?,
            first_texts: histograms(
                at,
                "first_text_seconds",
                "From a request's head to the first text of its streamed answer, by provider.",
                &["provider"],
                &WAITS,
            )?,
            provider_waits: histograms(
                at,
                "provider_wait_seconds",
                "What a request waited for a provider before its answer could begin, retries included, by provider.",
                &["provider"],
                &WAITS,
            )?,
            tool_waits: histograms(
                at,
                "tool_wait_seconds",
                "What a request waited for a model's tools, by provider.",
                &["provider"],
                &WAITS,
            )?,
            overheads: histograms(
                at,
                "overhead_seconds",
                "Of the time to the first text, what was waited for neither a provider nor tools, by provider.",
                &["provider"],
                &OVERHEADS,
            )?,
            streams_open: registered(
                at,
                IntGaugeVec::new(opts("streams_open", "Answers that are being streamed, by provider."), &["provider"])?,
            )?,
            open: AtomicUsize::new(0),
            streams: counters(
                at,
                "streams_total",
                "Streamed answers that have ended, by provider and how.",
                &["provider", "ended"],
            )?,
            texts: counters(
                at,
                "relayed_texts_total",
                "Pieces of text passed on by streams that have ended, by provider.",
                &["provider"],
            )?,
            bytes: counters(
                at,
                "relayed_text_bytes_total",
                "Bytes of text passed on by streams that have ended, by provider.",
                &["provider"],
            )?,
            retries: counters(at, "provider_retries_total", "How often a provider was asked again.", &["provider"])?,
            pool: gauges(at, "database_connections", "Connections in the pool, by what they do.", &["state"])?,
            pool_most: registered(at, IntGauge::with_opts(opts("database_connections_max", "DATABASE_POOL_SIZE."))?)?,
            pool_waiting: registered(
                at,
                IntGauge::with_opts(opts("database_waiting", "Statements that wait for a connection of the pool."))?,
            )?,
            pool_waited: registered(
                at,
                Counter::with_opts(opts(
                    "database_acquires_total",
                    "Statements that asked the pool for a connection.",
                ))?,
            )?,
            pool_wait: registered(
                at,
                Counter::with_opts(opts("database_acquire_wait_seconds_total", "What these waited for it, in all."))?,
            )?,
            key_set_age: registered(
                at,
                Gauge::with_opts(opts("key_set_age_seconds", "Since the key set was read; NaN if it never was."))?,
            )?,
            process: cfg!(target_os = "linux").then(|| Process::new(at)).transpose()?,
            registry,
        })
    }

    pub(super) fn stream_opened(&self, provider: Option<&'static str>) {
        self.streams_open.with_label_values(&[provider.unwrap_or(NONE)]).inc();
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self, line: &Line) {
        let facts = &line.facts;
        let mut digits = [0; 3];
        let status = facts.status.map_or(NONE, |status| decimal(status, &mut digits));
        self.requests.with_label_values(&[line.route.as_str(), method(&line.method), status]).inc();
        self.durations.with_label_values(&[&line.route]).observe(line.started.elapsed().as_secs_f64());
        let provider = &[facts.provider.unwrap_or(NONE)];
        let observe = |histograms: &HistogramVec, time: Duration| {
            histograms.with_label_values(provider).observe(time.as_secs_f64());
        };
        if !facts.asked.is_empty() {
            observe(&self.provider_waits, facts.provider_wait);
        }
        if !facts.tool_wait.is_zero() {
            observe(&self.tool_waits, facts.tool_wait);
        }
        if let (Some(first_text), Some(overhead)) = (facts.first_text, facts.overhead) {
            observe(&self.first_texts, first_text);
            observe(&self.overheads, overhead);
        }
        if facts.retries > 0 {
            self.retries.with_label_values(provider).inc_by(facts.retries.into());
        }
        if line.streams {
            self.streams_open.with_label_values(provider).dec();
            let ended = facts.ended.unwrap_or(Ended::ClientLeft).as_str();
            self.streams.with_label_values(&[provider[0], ended]).inc();
            self.texts.with_label_values(provider).inc_by(facts.texts);
            self.bytes.with_label_values(provider).inc_by(facts.bytes);
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many answers are being streamed.
    pub fn open_streams(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// Where the format cannot hold what was counted.
    pub fn render(&self, state: &State) -> prometheus::Result<Vec<u8>> {
        let (size, idle) = state.db.connections();
        self.pool.with_label_values(&["idle"]).set(f64::from(idle));
        self.pool.with_label_values(&["in_use"]).set(f64::from(size.saturating_sub(idle)));
        self.pool_most.set(state.config.database.pool_size.into());
        let waits = state.db.waits();
        self.pool_waiting.set(waits.waiting.load(Ordering::Relaxed).into());
        raise(&self.pool_waited, waits.waited.load(Ordering::Relaxed) as f64);
        raise(&self.pool_wait, waits.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9);
        self.key_set_age.set(state.verifier.key_set_age().map_or(f64::NAN, |age| age.as_secs_f64()));
        if let Some(process) = &self.process {
            process.look();
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Methods are the client's words; those that nobody means are one.
pub(super) fn method(name: &str) -> &str {
    match name {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "CONNECT" | "TRACE" => name,
        _ => "other",
    }
}

/// A status in digits, without an allocation a request.
fn decimal(status: u16, digits: &mut [u8; 3]) -> &str {
    *digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + (digit % 10) as u8);
    std::str::from_utf8(digits).unwrap_or(NONE)
}

/// Answers `/metrics` on a listener of its own.
///
/// # Errors
/// Where the listener cannot be used.
pub fn serve(listener: TcpListener, state: Data<State>) -> std::io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new().app_data(state.clone()).route("/metrics", web::get().to(scrape)).default_service(web::to(
            async || HttpResponse::NotFound().content_type("text/plain").body("There is only /metrics here\n"),
        ))
    });
    Ok(server.workers(1).shutdown_timeout(1).disable_signals().listen(listener)?.run())
}

async fn scrape(state: Data<State>) -> Result<HttpResponse, Error> {
    let text = state.telemetry.metrics.render(&state).map_err(|error| Error::Internal(format!("metrics: {error}")))?;
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, TEXT_FORMAT)).body(text))
}

/// Binds `METRICS_ADDR`.
///
/// # Errors
/// Where it cannot be listened on; the variable's name is in it.
pub fn listen(host: &str, port: u16) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((host, port)).map_err(|error| {
        std::io::Error::other(format!(
            "METRICS_ADDR {host}:{port} cannot be listened on: {error}. It must be an address of this machine with a port that is free and yours to use"
        ))
    })?;
    if let Ok(address) = listener.local_addr() {
        announce(address);
    }
    Ok(listener)
}

fn announce(address: SocketAddr) {
    tracing::info!("metrics at http://{address}/metrics");
    if !address.ip().is_loopback() {
        tracing::warn!("whoever reaches {address} can read the metrics: they have no password");
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(NAMESPACE)
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    registered(registry, IntCounterVec::new(opts(name, help), labels)?)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
    registered(registry, GaugeVec::new(opts(name, help), labels)?)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> prometheus::Result<HistogramVec> {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(opts, labels)?)
}

/// Brings a counter to what was counted elsewhere.
fn raise(counter: &Counter, to: f64) {
    counter.inc_by((to - counter.get()).max(0.0));
}

/// This process as Linux sees it, by the names that all exporters use.
struct Process {
    cpu: Counter,
    start: Gauge,
    resident: IntGauge,
    open: IntGauge,
    most_open: IntGauge,
    threads: IntGauge,
}

/// Of the times in `/proc`, the same on every machine that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| registered(registry, IntGauge::new(name, help)?);
        Ok(Self {
            cpu: registered(
                registry,
                Counter::new("process_cpu_seconds_total", "Seconds of processor time, user and system.")?,
            )?,
            start: registered(
                registry,
                Gauge::new("process_start_time_seconds", "When the process started, in seconds since 1970.")?,
            )?,
            resident: gauge("process_resident_memory_bytes", "Memory that is resident.")?,
            open: gauge("process_open_fds", "File descriptors that are open.")?,
            most_open: gauge("process_max_fds", "File descriptors that may be open.")?,
            threads: gauge("process_threads", "Threads.")?,
        })
    }

    /// Looks again. What cannot be read stays as it was.
    fn look(&self) {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let set = |gauge: &IntGauge, value: Option<i64>| {
            if let Some(value) = value {
                gauge.set(value);
            }
        };
        let status = read("/proc/self/status");
        set(&self.resident, field(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024));
        set(&self.threads, field(&status, "Threads:"));
        set(&self.most_open, field(&read("/proc/self/limits"), "Max open files"));
        // One of them is the reading itself.
        let open = std::fs::read_dir("/proc/self/fd").map(|entries| entries.count().saturating_sub(1));
        set(&self.open, open.ok().and_then(|open| i64::try_from(open).ok()));
        // The name before may hold anything, a parenthesis too.
        let stat = read("/proc/self/stat");
        let after_name: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| after_name.get(at).and_then(|ticks| ticks.parse::<f64>().ok());
        if let (Some(user), Some(system)) = (ticks(11), ticks(12)) {
            raise(&self.cpu, (user + system) / TICKS_PER_SECOND);
        }
        if let (Some(since_boot), Some(boot)) = (ticks(19), field(&read("/proc/stat"), "btime")) {
            self.start.set(boot as f64 + since_boot / TICKS_PER_SECOND);
        }
    }
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<i64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_few() {
        assert_eq!(["GET", "BREW", "get", ""].map(method), ["GET", "other", "other", "other"]);
        let mut digits = [0; 3];
        assert_eq!(decimal(200, &mut digits), "200");
        assert_eq!(decimal(599, &mut digits), "599");
    }
}
