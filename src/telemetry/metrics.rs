//! Metrics in Prometheus' format. `docs/operations.md` lists them for operators.
//!
//! No label grows without bound: routes are patterns, with one value for unknown paths; providers are this server's
//! names; models are lines of the catalogue. A request is counted once, at its end; only open streams are counted at their start.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, core::Collector,
};

use super::{Ended, RequestRecord, Tokens};

const NAMESPACE: &str = "chatbot_ui_api";
/// Buckets for a provider's time: from a fast first text to a slow complete response.
const WAITS: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 30.0, 60.0, 120.0, 300.0];
/// Buckets for whole requests: from `/healthz` to a long response.
const DURATIONS: [f64; 12] = [0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0];
/// Buckets for this server's own time.
const OVERHEADS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// The provider label of a request without a known provider.
const NONE: &str = "none";

/// Numbers of other components at the time of a scrape.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// The database's connection pool.
    pub pool: PoolGauges,
    /// Time since the project's key set was fetched.
    pub key_set_age: Option<Duration>,
    /// Bytes that requests hold.
    pub buffered_bytes: usize,
    /// Charges refused because one user held too many bytes.
    pub refused_for_user: u64,
    /// Charges refused because all requests held too many bytes.
    pub refused_for_server: u64,
    /// The server's keys by provider and number, and whether each rests.
    pub keys_resting: Vec<(&'static str, usize, bool)>,
    /// Entries of the ledger that wait for the database.
    pub ledger_waiting: usize,
    /// Entries of the ledger that were lost, because too many waited.
    pub ledger_lost: u64,
}

/// Numbers of the database's connection pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolGauges {
    /// Open connections.
    pub size: u32,
    /// Open connections that are idle.
    pub idle: u32,
    /// The most connections.
    pub max: u32,
    /// Statements waiting for a connection now.
    pub waiting: u32,
    /// Statements that have waited so far, however briefly.
    pub waited: u64,
    /// The time they waited in total.
    pub wait: Duration,
}

/// All metrics, and their registry.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    first_texts: HistogramVec,
    provider_waits: HistogramVec,
    tool_waits: HistogramVec,
    overheads: HistogramVec,
    /// By provider for `/metrics`, and summed for the server itself.
    streams_open: IntGaugeVec,
    open: AtomicUsize,
    streams: IntCounterVec,
    texts: IntCounterVec,
    bytes: IntCounterVec,
    retries: IntCounterVec,
    models: IntCounterVec,
    tokens: IntCounterVec,
    refusals: IntCounterVec,
    failovers: IntCounterVec,
    keys_resting: IntGaugeVec,
    pool: GaugeVec,
    pool_most: IntGauge,
    pool_waiting: IntGauge,
    pool_waited: Counter,
    pool_wait: Counter,
    key_set_age: Gauge,
    buffered_bytes: IntGauge,
    allowance_refused: CounterVec,
    ledger_waiting: IntGauge,
    ledger_lost: Counter,
}

impl Metrics {
    /// Creates all metrics, at zero.
    ///
    /// # Errors
    /// If two metrics have the same name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
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
                "Time that a request waited for a provider before its response could begin, retries included, by provider.",
                &["provider"],
                &WAITS,
            )?,
            tool_waits: histograms(
                at,
                "tool_wait_seconds",
                "Time that a request waited for a model's tools, by provider.",
                &["provider"],
                &WAITS,
            )?,
            overheads: histograms(
                at,
                "overhead_seconds",
                "The part of the time to the first text that was not spent waiting for a provider or tools, by provider.",
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
                "Streamed answers that have ended, by provider and kind of end.",
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
            retries: counters(
                at,
                "provider_retries_total",
                "Requests to providers that were repeated.",
                &["provider"],
            )?,
            models: counters(
                at,
                "model_requests_total",
                "Requests that were sent to a model, by provider and model; `other` = not in the catalogue.",
                &["provider", "model"],
            )?,
            tokens: counters(
                at,
                "tokens_total",
                "Tokens that providers reported, by provider, model and kind; `cached` is a part of `input`, `reasoning` of `output`.",
                &["provider", "model", "kind"],
            )?,
            refusals: counters(
                at,
                "provider_refusals_total",
                "Requests that a provider refused for a reason that another form can do without, by provider and reason.",
                &["provider", "reason"],
            )?,
            failovers: counters(
                at,
                "provider_failovers_total",
                "Requests that were sent again with another key or to another model, by the provider that failed and cause.",
                &["provider", "cause"],
            )?,
            keys_resting: registered(
                at,
                IntGaugeVec::new(
                    opts("provider_key_resting", "1 while a key of the server's rests, by provider and number."),
                    &["provider", "key"],
                )?,
            )?,
            pool: gauges(at, "database_connections", "Connections in the pool, by state.", &["state"])?,
            pool_most: registered(at, IntGauge::with_opts(opts("database_connections_max", "DATABASE_POOL_SIZE."))?)?,
            pool_waiting: registered(
                at,
                IntGauge::with_opts(opts("database_waiting", "Statements that are waiting for a connection."))?,
            )?,
            pool_waited: registered(
                at,
                Counter::with_opts(opts("database_acquires_total", "Statements that requested a connection."))?,
            )?,
            pool_wait: registered(
                at,
                Counter::with_opts(opts(
                    "database_acquire_wait_seconds_total",
                    "Total time that statements waited for a connection.",
                ))?,
            )?,
            key_set_age: registered(
                at,
                Gauge::with_opts(opts("key_set_age_seconds", "Time since the key set was read; NaN if it never was."))?,
            )?,
            buffered_bytes: registered(
                at,
                IntGauge::with_opts(opts(
                    "buffered_bytes",
                    "Bytes that requests hold: bodies, files, answers of tools and embeddings.",
                ))?,
            )?,
            allowance_refused: registered(
                at,
                CounterVec::new(
                    opts("allowance_refused_total", "Charges that were refused, by allowance."),
                    &["allowance"],
                )?,
            )?,
            ledger_waiting: registered(
                at,
                IntGauge::with_opts(opts("ledger_waiting", "Entries of the ledger that wait for the database."))?,
            )?,
            ledger_lost: registered(
                at,
                Counter::with_opts(opts(
                    "ledger_lost_total",
                    "Entries of the ledger that were lost because too many waited: an estimate replaces each.",
                ))?,
            )?,
            registry,
        })
    }

    pub(super) fn stream_opened(&self, provider: Option<&'static str>) {
        self.streams_open.with_label_values(&[provider.unwrap_or(NONE)]).inc();
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self, line: &RequestRecord) {
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
        if let Some(model) = facts.model_label {
            self.models.with_label_values(&[provider[0], model]).inc();
        }
        for tokens in facts.asked.iter().filter_map(|asked| asked.tokens) {
            let model = facts.model_label.unwrap_or("other");
            let Tokens { input, cached, output, reasoning } = tokens;
            for (kind, count) in [("input", input), ("cached", cached), ("output", output), ("reasoning", reasoning)] {
                if count > 0 {
                    self.tokens.with_label_values(&[provider[0], model, kind]).inc_by(count);
                }
            }
        }
        for reason in &facts.refusals {
            self.refusals.with_label_values(&[provider[0], reason]).inc();
        }
        if facts.retries > 0 {
            self.retries.with_label_values(provider).inc_by(facts.retries.into());
        }
        for (provider, cause) in &facts.failovers {
            self.failovers.with_label_values(&[provider, cause]).inc();
        }
        if let Some(counted) = line.streams {
            self.streams_open.with_label_values(&[counted.unwrap_or(NONE)]).dec();
            let ended = facts.ended.unwrap_or(Ended::ClientLeft).as_str();
            self.streams.with_label_values(&[provider[0], ended]).inc();
            self.texts.with_label_values(provider).inc_by(facts.texts);
            self.bytes.with_label_values(provider).inc_by(facts.bytes);
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of open streams.
    pub fn open_streams(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Renders all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// If a value cannot be represented in the format.
    pub fn render(&self, gauges: &Gauges) -> prometheus::Result<Vec<u8>> {
        let pool = &gauges.pool;
        self.pool.with_label_values(&["idle"]).set(f64::from(pool.idle));
        self.pool.with_label_values(&["in_use"]).set(f64::from(pool.size.saturating_sub(pool.idle)));
        self.pool_most.set(pool.max.into());
        self.pool_waiting.set(pool.waiting.into());
        raise(&self.pool_waited, pool.waited as f64);
        raise(&self.pool_wait, pool.wait.as_secs_f64());
        self.buffered_bytes.set(i64::try_from(gauges.buffered_bytes).unwrap_or(i64::MAX));
        for (allowance, refused) in
            [("user_bytes", gauges.refused_for_user), ("server_bytes", gauges.refused_for_server)]
        {
            raise(&self.allowance_refused.with_label_values(&[allowance]), refused as f64);
        }
        for (provider, number, rests) in &gauges.keys_resting {
            self.keys_resting.with_label_values(&[*provider, number.to_string().as_str()]).set(i64::from(*rests));
        }
        self.ledger_waiting.set(i64::try_from(gauges.ledger_waiting).unwrap_or(i64::MAX));
        raise(&self.ledger_lost, gauges.ledger_lost as f64);
        self.key_set_age.set(gauges.key_set_age.map_or(f64::NAN, |age| age.as_secs_f64()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Maps methods, which clients choose freely, to a bounded set.
pub(super) fn method(name: &str) -> &str {
    match name {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "CONNECT" | "TRACE" => name,
        _ => "other",
    }
}

/// Formats a status without an allocation per request.
fn decimal(status: u16, digits: &mut [u8; 3]) -> &str {
    *digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + (digit % 10) as u8);
    std::str::from_utf8(digits).unwrap_or(NONE)
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

/// Raises a counter to a value that was counted elsewhere.
fn raise(counter: &Counter, to: f64) {
    counter.inc_by((to - counter.get()).max(0.0));
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
