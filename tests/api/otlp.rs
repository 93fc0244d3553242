//! Traces: what a collector of OpenTelemetry receives.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use reqwest::header::AUTHORIZATION;

use crate::{
    process::{ended, serve, signal, stopping},
    support::{
        App, User, chat_body, client, postgres,
        upstream::{ANY, End, Reply, Step, Upstream},
    },
};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"MARKEDANSWER\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const KEY: &str = "sk-case-MARKEDKEY";

/// A server that sends its traces to `collector`, with `provider` for OpenAI.
async fn start(collector: &Upstream, provider: &Upstream, settings: &[(&str, &str)]) -> (App, User) {
    collector.script_any(vec![Reply::json(200, &serde_json::json!({}))]);
    let base = format!("{}/v1", provider.url());
    let endpoint = collector.url();
    let own = [
        ("OPENAI_BASE_URL", base.as_str()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    let all: Vec<_> = own.iter().chain(settings).copied().collect();
    let app = App::start(&all).await;
    let user = app.user(&[("openai_api_key", KEY)]).await;
    (app, user)
}

/// The next spans that come, until `count` are there, and the raw bytes.
async fn spans(collector: &Upstream, count: usize) -> (Vec<Span>, Vec<u8>) {
    let decode = |requests: &[crate::support::upstream::Recorded]| {
        let decoded = requests.iter().map(|r| ExportTraceServiceRequest::decode(&*r.body).expect("protobuf"));
        let resources = decoded.flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect::<Vec<Span>>()
    };
    let came = collector.wait_for(ANY, Duration::from_secs(10), |requests| decode(requests).len() >= count).await;
    let requests = collector.requests(ANY);
    assert!(came, "{:?}", decode(&requests));
    (decode(&requests), requests.into_iter().flat_map(|request| request.body).collect())
}

fn text(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match found.value.clone()?.value? {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    })
}

fn of_kind(spans: &[Span], kind: SpanKind) -> &Span {
    spans.iter().find(|span| span.kind == kind as i32).expect("a span")
}

#[tokio::test]
async fn a_chat_is_a_span_of_the_servers_and_one_of_the_providers() {
    let (collector, provider) = (Upstream::start().await, Upstream::start().await);
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=some%20one");
    let (app, user) = start(&collector, &provider, &[headers, ("OTEL_SERVICE_NAME", "chat-api")]).await;
    let busy = Reply { status: 429, headers: vec![("retry-after-ms".to_owned(), "1".to_owned())], ..Reply::default() };
    let slow = Step::Wait(Duration::from_millis(200));
    let steps = vec![Step::Write(DELTA.into()), slow, Step::Write(DONE.into())];
    provider.script(KEY, vec![busy, Reply { steps, ..Reply::default() }]);

    let body = chat_body().to_string().replace("Say hello", "MARKEDPROMPT");
    let asked = app.chat("openai", &user).body(body).header("cookie", "other=MARKEDCOOKIE");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let asked = asked.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let answer = asked.send().await.expect("an answer");
    let id = answer.headers()["x-request-id"].to_str().expect("ascii").to_owned();
    assert_eq!(answer.text().await.expect("whole"), "MARKEDANSWER");

    let (spans, bytes) = spans(&collector, 2).await;
    let request = collector.requests(ANY).remove(0);
    assert_eq!(request.path, "/v1/traces");
    assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(request.header("x-tenant"), Some("some one"));
    let resource = ExportTraceServiceRequest::decode(&*request.body).expect("protobuf").resource_spans.remove(0);
    let from = Span { attributes: resource.resource.expect("a resource").attributes, ..Span::default() };
    assert_eq!(text(&from, "service.name").as_deref(), Some("chat-api"));

    let server = of_kind(&spans, SpanKind::Server);
    assert_eq!(server.name, "POST /api/chat/openai");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&server.trace_id), trace, "the sender's trace goes on");
    assert_eq!(hex(&server.parent_span_id), "b7ad6b7169203331");
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/api/chat/openai"),
        ("http.response.status_code", "200"),
        ("enduser.id", &user.id.to_string()),
        ("chatbot_ui_api.request_id", &id),
        ("chatbot_ui_api.ended", "complete"),
    ] {
        assert_eq!(text(server, name).as_deref(), Some(value), "{name}");
    }
    let asked = of_kind(&spans, SpanKind::Client);
    assert_eq!(asked.name, "chat gpt-4");
    assert_eq!((&asked.trace_id, &asked.parent_span_id), (&server.trace_id, &server.span_id));
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "gpt-4"),
        ("http.response.status_code", "200"),
        ("http.request.resend_count", "1"),
    ] {
        assert_eq!(text(asked, name).as_deref(), Some(value), "{name}");
    }
    assert!(asked.start_time_unix_nano >= server.start_time_unix_nano);
    assert!(asked.end_time_unix_nano <= server.end_time_unix_nano);
    assert!(asked.end_time_unix_nano - asked.start_time_unix_nano > 200_000_000, "until the stream's end");

    let bytes = String::from_utf8_lossy(&bytes).into_owned();
    let token = user.bearer();
    for secret in ["MARKED", token.rsplit('.').next().expect("a signature")] {
        assert!(!bytes.contains(secret), "{secret}");
    }
    // The provider is told nothing of the trace.
    assert_eq!(provider.requests(KEY)[0].header("traceparent"), None);
}

#[tokio::test]
async fn failures_are_marked() {
    let (collector, provider) = (Upstream::start().await, Upstream::start().await);
    let (app, user) = start(&collector, &provider, &[]).await;
    let steps = vec![Step::Write(DELTA.into()), Step::Wait(Duration::from_millis(50))];
    provider.script(KEY, vec![Reply { steps, end: End::Reset, ..Reply::default() }]);
    assert!(app.chat("openai", &user).send().await.expect("an answer").bytes().await.is_err(), "cut");
    let (both, _) = spans(&collector, 2).await;
    for span in &both {
        assert_eq!(span.status.as_ref().expect("a status").code, StatusCode::Error as i32);
        assert_eq!(text(span, "error.type").as_deref(), Some("provider_broke"));
    }
    assert_eq!(text(of_kind(&both, SpanKind::Server), "http.response.status_code").as_deref(), Some("200"));

    let request = client().post(app.url("/api/command"));
    assert_eq!(request.send().await.expect("an answer").status(), 500);
    let (all, _) = spans(&collector, 3).await;
    let refused = all.iter().find(|span| span.name == "POST /api/command").expect("a span");
    assert_eq!(text(refused, "error.type").as_deref(), Some("500"));
}

#[tokio::test]
async fn a_trace_that_its_sender_does_not_sample_is_not_sent() {
    let (collector, provider) = (Upstream::start().await, Upstream::start().await);
    let (app, _) = start(&collector, &provider, &[]).await;
    let ask = |path: &str, flags: &str| {
        let parent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        client().get(app.url(path)).header("traceparent", parent).send()
    };
    ask("/healthz", "00").await.expect("an answer");
    ask("/api/keys", "01").await.expect("an answer");
    let (all, _) = spans(&collector, 1).await;
    let names: Vec<&str> = all.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["GET /api/keys"]);
}

/// What ended before is handed over, and a collector that says nothing is not
/// waited for.
#[tokio::test]
async fn a_second_signal_leaves_the_last_traces_a_moment() {
    let database = postgres::database().await;
    for answers in [true, false] {
        let (collector, provider) = (Upstream::start().await, Upstream::start().await);
        let accepted = Reply::json(200, &serde_json::json!({}));
        collector.script_any(vec![if answers { accepted } else { Reply::silent() }]);
        provider.script(KEY, vec![Reply::events(&[DELTA], Step::WaitForever)]);
        let (base, endpoint) = (format!("{}/v1", provider.url()), collector.url());
        let (mut child, url) = serve(&[
            ("DATABASE_URL", &database.role_url),
            ("OPENAI_BASE_URL", &base),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
        ])
        .await;
        assert_eq!(client().get(format!("{url}/api/keys")).send().await.expect("an answer").status(), 200);
        let user = User::create(&database.pool, &[("openai_api_key", KEY)]).await;
        let request = client().post(format!("{url}/api/chat/openai")).header(AUTHORIZATION, user.bearer());
        let mut answer = request.body(chat_body().to_string()).send().await.expect("an answer");
        answer.chunk().await.expect("text").expect("some");

        signal(&child, "TERM");
        stopping(&url).await;
        assert!(collector.all().is_empty(), "too early to tell");
        signal(&child, "TERM");
        let told = Instant::now();
        assert_eq!(ended(&mut child).await, Some(0));
        assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
        // What it sent may still be on its way.
        while collector.all().is_empty() {
            assert!(told.elapsed() < Duration::from_secs(8), "nothing was handed over; answers: {answers}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(collector.all().len(), 1, "answers: {answers}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_delays_no_request() {
    let (collector, provider) = (Upstream::start().await, Upstream::start().await);
    let (app, user) = start(&collector, &provider, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")]).await;
    provider.script(KEY, vec![Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
    for _ in 0..20 {
        let answer = app.chat("openai", &user).send().await.expect("an answer");
        assert_eq!(answer.text().await.expect("whole"), "MARKEDANSWER");
    }
}
