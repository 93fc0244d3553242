//! `/metrics`: what is counted, under which names, and that labels stay few.

use std::time::{Duration, Instant};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::{StreamExt, stream};
use reqwest::Method;
use serde_json::json;

use chatbot_ui_api::http::table;

use crate::support::{
    App, User, chat_body, client,
    ports::Port,
    upstream::{End, Reply, Step, Upstream},
};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const KEY: &str = "sk-case-metrics";

/// A server, its metrics and a user with a key.
struct Watched {
    app: App,
    url: String,
    user: User,
    _metrics: Port,
}

impl Watched {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let metrics = Port::reserve();
        let address = metrics.address.to_string();
        let settings: Vec<_> =
            [("METRICS_ADDR", address.as_str())].into_iter().chain(settings.iter().copied()).collect();
        let app = App::start(&settings).await;
        let user = app.user(&[("openai_api_key", KEY)]).await;
        Self { app, url: format!("http://{address}/metrics"), user, _metrics: metrics }
    }

    /// With this provider in OpenAI's place.
    async fn start_with(upstream: &Upstream, settings: &[(&str, &str)]) -> Self {
        let base = format!("{}/v1", upstream.url());
        let settings: Vec<_> =
            [("OPENAI_BASE_URL", base.as_str())].into_iter().chain(settings.iter().copied()).collect();
        Self::start(&settings).await
    }

    async fn scrape(&self) -> String {
        // The listener comes a moment after the server's own.
        for _ in 0..100 {
            if let Ok(answer) = client().get(&self.url).send().await {
                return answer.text().await.expect("text");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no metrics")
    }

    /// The number after this name and these labels; 0 without such a series.
    async fn value(&self, series: &str) -> f64 {
        value(&self.scrape().await, series)
    }

    /// Waits until it is this number: requests are counted when they are over.
    async fn wait_for(&self, series: &str, number: f64) {
        let started = Instant::now();
        while self.value(series).await != number {
            let scraped = self.scrape().await;
            assert!(started.elapsed() < Duration::from_secs(5), "{series} is not {number}:\n{scraped}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn chat(&self) -> reqwest::Response {
        self.app.chat("openai", &self.user).send().await.expect("an answer")
    }
}

fn value(scraped: &str, series: &str) -> f64 {
    let found = scraped.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.map_or(0.0, |number| number.parse().expect("a number"))
}

/// The series of one metric.
fn series<'a>(scraped: &'a str, name: &str) -> Vec<&'a str> {
    scraped.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))).collect()
}

#[tokio::test]
async fn every_route_is_counted_under_its_pattern() {
    let watched = Watched::start(&[]).await;
    for row in table::table() {
        let series = |method, status| {
            format!("chatbot_ui_api_requests_total{{method=\"{method}\",route=\"{}\",status=\"{status}\"}}", row.path)
        };
        let ask = |method| client().request(method, watched.app.url(&row.path)).send();
        let status = ask(row.method.as_str().parse().expect("a method")).await.expect("an answer").status().as_u16();
        watched.wait_for(&series(row.method.as_str(), status), 1.0).await;
        assert_eq!(ask(Method::DELETE).await.expect("an answer").status(), 405);
        watched.wait_for(&series("DELETE", 405), 1.0).await;
        let durations = format!("chatbot_ui_api_request_duration_seconds_count{{route=\"{}\"}}", row.path);
        assert_eq!(watched.value(&durations).await, 2.0);
    }
}

#[tokio::test]
async fn a_thousand_unknown_paths_and_methods_are_one_series_each() {
    let watched = Watched::start(&[]).await;
    let client = reqwest::Client::new();
    let (client, app) = (&client, &watched.app);
    let asked = stream::iter(0..1000).map(|number| async move {
        client.get(app.url(&format!("/api/{number}?{number}"))).send().await.expect("an answer").bytes().await
    });
    asked.buffer_unordered(20).for_each(async |_| {}).await;
    for number in 0..20 {
        let method = Method::from_bytes(format!("BREW{number}").as_bytes()).expect("a method");
        client.request(method, app.url("/nothing")).send().await.expect("an answer").bytes().await.expect("a body");
    }
    watched.wait_for("chatbot_ui_api_requests_total{method=\"GET\",route=\"(none)\",status=\"404\"}", 1000.0).await;
    watched.wait_for("chatbot_ui_api_requests_total{method=\"other\",route=\"(none)\",status=\"404\"}", 20.0).await;
    let scraped = watched.scrape().await;
    assert_eq!(series(&scraped, "chatbot_ui_api_requests_total").len(), 2, "{scraped}");
    assert_eq!(series(&scraped, "chatbot_ui_api_request_duration_seconds_count").len(), 1, "{scraped}");
}

#[tokio::test]
async fn a_whole_answer_is_timed_and_measured() {
    let upstream = Upstream::start().await;
    let watched = Watched::start_with(&upstream, &[]).await;
    let slow = Duration::from_millis(300);
    // As long before the head as before the first text.
    let steps = [Step::Wait(slow), Step::Write(DELTA.into()), Step::Wait(Duration::from_millis(50))];
    let rest = [Step::Write(DELTA.into()), Step::Write(DONE.into())];
    let steps = steps.into_iter().chain(rest).collect();
    upstream.script(KEY, vec![Reply { before_head: slow, steps, ..Reply::default() }]);
    assert_eq!(watched.chat().await.text().await.expect("whole"), "HelloHello");

    watched.wait_for("chatbot_ui_api_streams_total{ended=\"complete\",provider=\"openai\"}", 1.0).await;
    let scraped = watched.scrape().await;
    let openai = |name: &str| value(&scraped, &format!("chatbot_ui_api_{name}{{provider=\"openai\"}}"));
    assert_eq!(openai("streams_open"), 0.0);
    assert_eq!(openai("relayed_texts_total"), 2.0);
    assert_eq!(openai("relayed_text_bytes_total"), 10.0);
    for name in ["first_text", "provider_wait", "overhead"] {
        assert_eq!(openai(&format!("{name}_seconds_count")), 1.0, "{name}");
    }
    let [first_text, wait, overhead] =
        ["first_text", "provider_wait", "overhead"].map(|name| openai(&format!("{name}_seconds_sum")));
    assert!(wait >= 0.6, "{wait}");
    assert!(overhead > 0.0 && (first_text - wait - overhead).abs() < 0.001, "{first_text} {wait} {overhead}");
}

#[tokio::test]
async fn a_stream_is_counted_as_open_until_the_client_leaves() {
    let upstream = Upstream::start().await;
    let watched = Watched::start_with(&upstream, &[]).await;
    upstream.script(KEY, vec![Reply::events(&[DELTA], Step::WaitForever)]);
    let mut answer = watched.chat().await;
    assert_eq!(answer.chunk().await.expect("text").as_deref(), Some(&b"Hello"[..]));
    let open = "chatbot_ui_api_streams_open{provider=\"openai\"}";
    assert_eq!(watched.value(open).await, 1.0);
    drop(answer);
    watched.wait_for(open, 0.0).await;
    watched.wait_for("chatbot_ui_api_streams_total{ended=\"client left\",provider=\"openai\"}", 1.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_any_answer_has_no_status() {
    let upstream = Upstream::start().await;
    let watched = Watched::start_with(&upstream, &[]).await;
    upstream.script(KEY, vec![Reply::silent()]);
    let asked = tokio::spawn(watched.app.chat("openai", &watched.user).send());
    assert!(upstream.wait_for(KEY, Duration::from_secs(5), |requests| !requests.is_empty()).await);
    asked.abort();
    let left = "chatbot_ui_api_requests_total{method=\"POST\",route=\"/api/chat/openai\",status=\"none\"}";
    watched.wait_for(left, 1.0).await;
    let scraped = watched.scrape().await;
    let wait = "chatbot_ui_api_provider_wait_seconds_count{provider=\"openai\"}";
    assert_eq!(value(&scraped, wait), 1.0, "what was waited in vain counts too");
    assert!(series(&scraped, "chatbot_ui_api_streams_total").is_empty(), "{scraped}");
}

#[tokio::test]
async fn streams_that_break_and_streams_that_fall_silent_are_told_apart() {
    let upstream = Upstream::start().await;
    let watched = Watched::start_with(&upstream, &[("PROVIDER_IDLE_TIMEOUT", "1")]).await;
    let steps = vec![Step::Write(DELTA.into()), Step::Wait(Duration::from_millis(50))];
    let error = "data: {\"error\":{\"message\":\"no more\"}}\n\n";
    upstream.script(
        KEY,
        vec![
            Reply { steps, end: End::Reset, ..Reply::default() },
            Reply::events(&[DELTA, error], Step::Wait(Duration::ZERO)),
            Reply::events(&[DELTA], Step::WaitForever),
        ],
    );
    for _ in 0..3 {
        assert!(watched.chat().await.bytes().await.is_err(), "cut");
    }
    watched.wait_for("chatbot_ui_api_streams_total{ended=\"provider broke\",provider=\"openai\"}", 2.0).await;
    watched.wait_for("chatbot_ui_api_streams_total{ended=\"provider silent\",provider=\"openai\"}", 1.0).await;
    assert_eq!(watched.value("chatbot_ui_api_streams_open{provider=\"openai\"}").await, 0.0);
}

#[tokio::test]
async fn retries_are_counted() {
    let upstream = Upstream::start().await;
    let watched = Watched::start_with(&upstream, &[]).await;
    let busy = Reply { status: 429, headers: vec![("retry-after-ms".to_owned(), "1".to_owned())], ..Reply::default() };
    let answer = Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO));
    upstream.script(KEY, vec![busy.clone(), busy, answer]);
    assert_eq!(watched.chat().await.text().await.expect("whole"), "Hello");
    let retries = "chatbot_ui_api_provider_retries_total{provider=\"openai\"}";
    watched.wait_for(retries, 2.0).await;

    // One that was stopped before it was sent again was not.
    let later =
        Reply { status: 429, headers: vec![("retry-after-ms".to_owned(), "1900".to_owned())], ..Reply::default() };
    upstream.script(KEY, vec![later]);
    let stopped = tokio::time::timeout(Duration::from_millis(500), watched.chat()).await;
    assert!(stopped.is_err(), "it waits");
    let began = Instant::now();
    while upstream.requests(KEY).len() < 4 || watched.value("chatbot_ui_api_requests_in_flight").await > 0.0 {
        assert!(began.elapsed() < Duration::from_secs(5), "{}", watched.scrape().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(watched.value(retries).await, 2.0);
}

#[tokio::test]
async fn tools_are_waited_for_on_their_own_account() {
    let upstream = Upstream::start().await;
    let watched = Watched::start_with(&upstream, &[]).await;
    let slow = Reply { before_head: Duration::from_millis(300), ..Reply::json(200, &json!({})) };
    upstream.tool(KEY, &format!("/tool-{KEY}"), slow);
    let call = json!({ "id": "1", "type": "function", "function": { "name": "look", "arguments": "{}" } });
    let first = json!({ "choices": [{ "message": { "role": "assistant", "content": null, "tool_calls": [call] } }] });
    upstream.script(KEY, vec![Reply::json(200, &first), Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
    let document = json!({
        "openapi": "3.1.0",
        "info": { "title": "T" },
        "servers": [{ "url": format!("{}/tool-{KEY}", upstream.url()) }],
        "paths": { "/look": { "get": { "operationId": "look" } } },
    });
    let mut body = chat_body();
    body["selectedTools"] = json!([{ "name": "T", "schema": document.to_string(), "custom_headers": "{}" }]);
    let asked = watched.app.chat("tools", &watched.user).body(body.to_string()).send().await;
    assert_eq!(asked.expect("an answer").text().await.expect("whole"), "Hello");

    watched.wait_for("chatbot_ui_api_tool_wait_seconds_count{provider=\"openai\"}", 1.0).await;
    let scraped = watched.scrape().await;
    let sum = |name: &str| value(&scraped, &format!("chatbot_ui_api_{name}_seconds_sum{{provider=\"openai\"}}"));
    let [first_text, wait, tools, overhead] = ["first_text", "provider_wait", "tool_wait", "overhead"].map(sum);
    assert!(tools >= 0.3, "{tools}");
    assert!((first_text - wait - tools - overhead).abs() < 0.001, "{first_text} {wait} {tools} {overhead}");
}

#[tokio::test]
async fn the_database_the_key_set_and_the_process_are_looked_at() {
    let auth = Upstream::start().await;
    auth.script_any(vec![Reply::json(200, &json!({ "keys": [] }))]);
    let watched =
        Watched::start(&[("SUPABASE_JWKS_URL", &auth.url()), ("DATABASE_POOL_SIZE", "3"), ("USAGE", "off")]).await;
    assert!(watched.value("chatbot_ui_api_key_set_age_seconds").await.is_nan(), "never read");
    assert_eq!(client().get(watched.app.url("/readyz")).send().await.expect("an answer").status(), 200);
    let before = watched.value("chatbot_ui_api_database_acquires_total").await;
    // A token whose key has to be looked for.
    let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"one"}"#);
    let unknown = format!("Bearer {header}.e30.c2lnbmF0dXJl");
    for (bearer, status) in [(unknown, 401), (watched.user.bearer(), 200)] {
        let ask = client().post(watched.app.url("/api/username/get")).header("authorization", bearer);
        let answer = ask.body(json!({ "userId": watched.user.id }).to_string()).send().await.expect("an answer");
        assert_eq!(answer.status(), status);
    }

    let scraped = watched.scrape().await;
    let value = |series: &str| value(&scraped, series);
    let age = value("chatbot_ui_api_key_set_age_seconds");
    assert!((0.0..10.0).contains(&age), "{age}");
    let [idle, busy] =
        ["idle", "in_use"].map(|state| value(&format!("chatbot_ui_api_database_connections{{state=\"{state}\"}}")));
    assert!((1.0..=3.0).contains(&(idle + busy)), "{idle} {busy}");
    assert_eq!(value("chatbot_ui_api_database_connections_max"), 3.0);
    assert_eq!(value("chatbot_ui_api_database_waiting"), 0.0);
    assert_eq!(value("chatbot_ui_api_database_acquires_total") - before, 2.0);
    assert!(value("chatbot_ui_api_database_acquire_wait_seconds_total") > 0.0);
    assert_eq!(value(&format!("chatbot_ui_api_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    if cfg!(target_os = "linux") {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "{age}");
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_open_fds") > 3.0 && value("process_open_fds") < value("process_max_fds"));
        assert!(value("process_threads") >= 2.0);
    }
}

#[tokio::test]
async fn statements_that_wait_for_a_connection_are_counted() {
    let watched = Watched::start(&[("DATABASE_POOL_SIZE", "1"), ("USAGE", "off")]).await;
    // After the server's own first look.
    let ready = client().get(watched.app.url("/readyz")).send().await.expect("an answer");
    assert_eq!(ready.status(), 200);
    // A request that reads the table waits for this, and holds the only connection.
    let mut lock = watched.app.db.begin().await.expect("a transaction");
    sqlx::query("lock table auth.users").execute(&mut *lock).await.expect("a lock");
    let asked: Vec<_> = (0..3).map(|_| tokio::spawn(watched.app.chat("openai", &watched.user).send())).collect();
    watched.wait_for("chatbot_ui_api_database_waiting", 2.0).await;
    assert_eq!(watched.value("chatbot_ui_api_database_connections{state=\"in_use\"}").await, 1.0);
    lock.rollback().await.expect("let go");
    for asked in asked {
        asked.await.expect("no panic").expect("an answer");
    }
    assert_eq!(watched.value("chatbot_ui_api_database_waiting").await, 0.0);
    assert!(watched.value("chatbot_ui_api_database_acquire_wait_seconds_total").await > 0.0);
}

#[tokio::test]
async fn metrics_stand_alone_on_their_listener_in_prometheus_format() {
    let watched = Watched::start(&[]).await;
    watched.scrape().await;
    let answer = client().get(&watched.url).send().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4");
    assert_eq!(client().get(watched.app.url("/metrics")).send().await.expect("an answer").status(), 404);
    let chat = watched.url.replace("/metrics", "/api/keys");
    assert_eq!(client().get(chat).send().await.expect("an answer").status(), 404);

    // Each metric is introduced by its help and its type, and named by what it is.
    let scraped = watched.scrape().await;
    let (mut named, mut kind) = ("", "");
    for line in scraped.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let words;
            (named, words) = help.split_once(' ').expect("words");
            assert!(named.starts_with("chatbot_ui_api_") || named.starts_with("process_"), "{line}");
            assert!(!words.is_empty(), "{line}");
        } else if let Some(words) = line.strip_prefix("# TYPE ") {
            kind = words.strip_prefix(named).expect("the same name").trim();
            assert_eq!(named.ends_with("_total"), kind == "counter", "{line}");
            assert_eq!(
                named.ends_with("_seconds")
                    && named != "chatbot_ui_api_key_set_age_seconds"
                    && named != "process_start_time_seconds",
                kind == "histogram",
                "{line}"
            );
        } else {
            let (series, number) = line.rsplit_once(' ').expect("a number");
            assert!(series.starts_with(named) && number.parse::<f64>().is_ok(), "{line}");
            assert_eq!(series.contains("le=\""), kind == "histogram" && series.contains("_bucket{"), "{line}");
        }
    }
}
