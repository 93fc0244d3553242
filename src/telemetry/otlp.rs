//! OpenTelemetry traces: a server span for each request, and a client span for each request to a provider, named by the
//! semantic conventions for HTTP and generative AI.
//!
//! Both are made from the request's record at its end: no context is passed around, and spans hold nothing that is not
//! in the record. A separate thread sends them in batches.

use std::time::{Duration, Instant, SystemTime};

use actix_web::http::header::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider},
};
use secrecy::{ExposeSecret, SecretString};

use super::{Asked, Ended, RequestRecord, metrics::method};

/// Settings of the trace exporter, HTTP with protobuf. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, else `OTEL_EXPORTER_OTLP_ENDPOINT` with `/v1/traces`. Without either,
    /// nothing is traced.
    pub endpoint: String,
    /// `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, `name=value,…` with values
    /// percent-encoded.
    pub headers: Vec<(String, SecretString)>,
    /// `OTEL_EXPORTER_OTLP_TIMEOUT`, in milliseconds, default 10000.
    pub timeout: Duration,
    /// `OTEL_BSP_SCHEDULE_DELAY`, in milliseconds, default 5000: interval between two exports.
    pub delay: Duration,
    /// `OTEL_SERVICE_NAME`, default `chatbot-ui-api`.
    pub service_name: String,
    /// `OTEL_RESOURCE_ATTRIBUTES`, `name=value,…`: resource attributes of every span.
    pub attributes: Vec<(String, String)>,
    /// `OTEL_TRACES_SAMPLER`, default `parentbased_always_on`.
    pub sampler: Sampling,
}

/// The choice of traced requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// `parentbased_…`: a request with a trace context follows its sender's sampling decision; the share applies to the
    /// others.
    pub parent_based: bool,
    /// 1 for `always_on`, 0 for `always_off`; `OTEL_TRACES_SAMPLER_ARG` for `traceidratio`, default 1.
    pub share: f64,
}

/// The exporter of traces.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Creates the exporter, which connects at its first export.
    ///
    /// # Errors
    /// If the exporter cannot be built.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let headers = settings.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&settings.endpoint)
            .with_timeout(settings.timeout)
            .with_headers(headers.collect())
            .build()
            .map_err(|error| format!("the exporter for OTEL_EXPORTER_OTLP_ENDPOINT cannot be set up: {error}"))?;
        let batches = BatchConfigBuilder::default().with_scheduled_delay(settings.delay).build();
        let attributes = settings.attributes.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
        let resource = Resource::builder_empty()
            .with_attributes([KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))])
            .with_attributes(attributes)
            .with_service_name(settings.service_name.clone())
            .build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(sampler(settings.sampler))
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .build();
        Ok(Self { tracer: provider.tracer("chatbot-ui-api"), provider })
    }

    /// Exports pending spans, within `limit`.
    pub(super) async fn flush(&self, limit: Duration) {
        let provider = self.provider.clone();
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("the last traces did not reach the collector");
        }
    }

    pub(super) fn request_ended(&self, line: &RequestRecord) {
        let clock = Clock::new();
        let RequestRecord { facts, route, .. } = line;
        let method = method(&line.method);
        let mut attributes = vec![
            KeyValue::new("http.request.method", if method == "other" { "_OTHER" } else { method }.to_owned()),
            KeyValue::new("url.scheme", "http"),
            KeyValue::new("chatbot_ui_api.request_id", line.id.to_string()),
        ];
        let matched = route != super::NO_ROUTE;
        attributes.extend(matched.then(|| KeyValue::new("http.route", route.clone())));
        attributes.extend(facts.status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
        attributes.extend(facts.user.map(|user| KeyValue::new("enduser.id", user.to_string())));
        attributes.extend(facts.ended.map(|ended| KeyValue::new("chatbot_ui_api.ended", ended.as_str())));
        let error = error(facts.status.filter(|status| *status >= 500), facts.ended);
        let verb = if method == "other" { "HTTP" } else { method };
        let name = if matched { format!("{verb} {route}") } else { verb.to_owned() };
        let mut span = self
            .tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_start_time(clock.at(line.started))
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &line.parent);
        fail(&mut span, error);
        let within = Context::new().with_remote_span_context(span.span_context().clone());
        for (at, asked) in facts.asked.iter().enumerate() {
            let is_last = at + 1 == facts.asked.len();
            self.asked(line, asked, is_last, &within, &clock);
        }
        span.end_with_timestamp(clock.now.1);
    }

    /// The last request's span, if it streams, ends with the stream.
    fn asked(&self, line: &RequestRecord, asked: &Asked, is_last: bool, within: &Context, clock: &Clock) {
        let facts = &line.facts;
        let embeds = line.route.starts_with("/api/retrieval/");
        let operation = if embeds { "embeddings" } else { "chat" };
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("http.request.method", if line.method == "GET" { "GET" } else { "POST" }),
        ];
        attributes
            .extend(facts.provider.map(|provider| KeyValue::new("gen_ai.provider.name", provider_name(provider))));
        let model = facts.effective_model.as_ref().or(facts.model.as_ref());
        attributes.extend(model.map(|model| KeyValue::new("gen_ai.request.model", model.clone())));
        attributes.extend(asked.status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
        let streams = is_last && line.streams.is_some();
        if let Some(first) = facts.first_text.filter(|_| streams) {
            let since = first.saturating_sub(asked.at - line.started);
            attributes.push(KeyValue::new("gen_ai.response.time_to_first_chunk", since.as_secs_f64()));
        }
        if is_last && facts.retries > 0 {
            attributes.push(KeyValue::new("http.request.resend_count", i64::from(facts.retries)));
        }
        let name = match model {
            Some(model) => format!("{operation} {model}"),
            None => operation.to_owned(),
        };
        let mut span = self
            .tracer
            .span_builder(name)
            .with_kind(SpanKind::Client)
            .with_start_time(clock.at(asked.at))
            .with_attributes(attributes)
            .start_with_context(&self.tracer, within);
        fail(&mut span, error(asked.status.filter(|status| *status >= 400), facts.ended.filter(|_| streams)));
        span.end_with_timestamp(if streams { clock.now.1 } else { clock.at(asked.until) });
    }
}

/// Returns the trace context of a request, from its `traceparent` and `tracestate`.
pub(super) fn parent(headers: &HeaderMap) -> Context {
    struct Headers<'a>(&'a HeaderMap);
    impl Extractor for Headers<'_> {
        fn get(&self, name: &str) -> Option<&str> {
            self.0.get(name).and_then(|value| value.to_str().ok())
        }
        fn keys(&self) -> Vec<&str> {
            Vec::new()
        }
    }
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
}

fn sampler(settings: Sampling) -> Sampler {
    let own = Sampler::TraceIdRatioBased(settings.share);
    if settings.parent_based { Sampler::ParentBased(Box::new(own)) } else { own }
}

/// Maps a provider to its name in the semantic conventions.
fn provider_name(provider: &'static str) -> &'static str {
    match provider {
        "mistral" => "mistral_ai",
        "google" => "gcp.gemini",
        "azure" => "azure.ai.openai",
        other => other,
    }
}

/// Returns the error of a failed status or an abnormal end.
fn error(status: Option<u16>, ended: Option<Ended>) -> Option<String> {
    match ended {
        Some(Ended::ProviderBroke | Ended::ProviderSilent | Ended::ServerStopping | Ended::Panicked) => {
            ended.map(|ended| ended.as_str().replace(' ', "_"))
        }
        Some(Ended::Complete | Ended::ClientLeft) | None => status.map(|status| status.to_string()),
    }
}

fn fail(span: &mut impl Span, error: Option<String>) {
    if let Some(error) = error {
        span.set_attribute(KeyValue::new("error.type", error));
        span.set_status(Status::error(""));
    }
}

/// Converts instants of this process to wall-clock times.
struct Clock {
    now: (Instant, SystemTime),
}

impl Clock {
    fn new() -> Self {
        Self { now: (Instant::now(), SystemTime::now()) }
    }

    fn at(&self, moment: Instant) -> SystemTime {
        self.now.1 - self.now.0.saturating_duration_since(moment)
    }
}
