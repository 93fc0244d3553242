//! `POST /api/chat/tools`: what a model is told of its calls, where a turn
//! ends, which providers call functions, and where a tool's URL may lead.

use std::{
    io,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use chatbot_ui_api::http_client::ssrf_guard;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::support::{
    App, User, chat_body, message, postgres,
    upstream::{End, Reply, Step, Upstream},
};

const KEY: &str = "sk-case-tools";
const HELLO: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"},\"finish_reason\":\"stop\"}]}\n\n";

/// A tool with one GET for each name, at `server`.
fn tool(server: &str, names: &[&str]) -> Value {
    let paths: serde_json::Map<String, Value> =
        names.iter().map(|name| (format!("/{name}"), json!({ "get": { "operationId": name } }))).collect();
    let document =
        json!({ "openapi": "3.1.0", "info": { "title": "T" }, "servers": [{ "url": server }], "paths": paths });
    json!({ "name": "T", "schema": document.to_string(), "custom_headers": "{}" })
}

/// A completion that calls these functions, each with its name as an argument.
fn calls(names: &[&str]) -> Reply {
    let calls: Vec<Value> = names
        .iter()
        .map(|name| json!({ "id": format!("call-{name}"), "type": "function", "function": { "name": name, "arguments": format!("{{\"parameters\":{{\"n\":\"{name}\"}}}}") } }))
        .collect();
    Reply::json(
        200,
        &json!({ "choices": [{ "message": { "role": "assistant", "content": null, "tool_calls": calls } }] }),
    )
}

fn hello() -> Reply {
    Reply::events(&[HELLO], Step::Wait(Duration::ZERO))
}

async fn ask(app: &App, user: &User, tools: &[Value]) -> (u16, String) {
    ask_with(app, user, tools, |_| ()).await
}

async fn ask_with(app: &App, user: &User, tools: &[Value], change: impl FnOnce(&mut Value)) -> (u16, String) {
    let mut body = chat_body();
    body["selectedTools"] = tools.into();
    change(&mut body);
    let answer = app.chat("tools", user).body(body.to_string()).send().await.expect("an answer");
    match answer.status().as_u16() {
        200 => (200, answer.text().await.expect("whole")),
        _ => message(answer).await,
    }
}

/// The last request to the model.
fn last(upstream: &Upstream) -> Value {
    serde_json::from_slice(&upstream.requests(KEY).last().expect("some").body).expect("JSON")
}

/// What the model was told of its calls in the last request.
fn told(upstream: &Upstream) -> Vec<(String, String)> {
    let text = |message: &Value, name: &str| message[name].as_str().expect("text").to_owned();
    let last = last(upstream);
    let messages = last["messages"].as_array().expect("messages");
    let results = messages.iter().filter(|message| message["role"] == "tool");
    results.map(|message| (text(message, "tool_call_id"), text(message, "content"))).collect()
}

async fn start(upstream: &Upstream, settings: &[(&str, &str)], lookup: ssrf_guard::Lookup) -> (App, User) {
    let base = format!("{}/v1", upstream.url());
    let settings: Vec<_> = [("OPENAI_BASE_URL", base.as_str())].into_iter().chain(settings.iter().copied()).collect();
    let app = App::start_on(postgres::database().await, &settings, lookup).await;
    let user = app.user(&[("openai_api_key", KEY)]).await;
    (app, user)
}

fn tools_server(upstream: &Upstream) -> String {
    format!("{}/tool-{KEY}", upstream.url())
}

#[tokio::test]
async fn the_calls_of_one_turn_run_at_the_same_time_and_keep_their_order() {
    let upstream = Upstream::start().await;
    let (app, user) = start(&upstream, &[], ssrf_guard::system_lookup).await;
    upstream.script(KEY, vec![calls(&["a", "b", "c"]), Reply::events(&[HELLO], Step::Wait(Duration::ZERO))]);
    for (name, wait) in [("a", 900), ("b", 800), ("c", 700)] {
        let mut slow = Reply::json(200, &json!({ "from": name }));
        slow.before_head = Duration::from_millis(wait);
        upstream.tool(KEY, &format!("/tool-{KEY}/{name}"), slow);
    }
    let started = Instant::now();
    assert_eq!(ask(&app, &user, &[tool(&tools_server(&upstream), &["a", "b", "c"])]).await, (200, "Hello".to_owned()));
    assert!(started.elapsed() < Duration::from_millis(1700), "{:?}", started.elapsed());

    let results = ["a", "b", "c"].map(|name| (format!("call-{name}"), format!(r#"{{"from":"{name}"}}"#)));
    assert_eq!(told(&upstream), results);
    let second = last(&upstream);
    assert!(second["tools"].is_array() && second["stream"] == true);
}

#[tokio::test]
async fn answers_and_documents_count_among_the_bytes_that_a_user_holds() {
    let upstream = Upstream::start().await;
    // A user has a quarter, and all is counted twice.
    let (app, user) = start(&upstream, &[("MAX_BUFFERED_BYTES", "400000")], ssrf_guard::system_lookup).await;
    let here = tools_server(&upstream);
    let large = |bytes: usize| Reply { steps: vec![Step::Write(vec![b'x'; bytes])], ..Reply::json(200, &json!(1)) };
    upstream.tool(KEY, &format!("/tool-{KEY}/large"), large(90_000));
    upstream.tool(KEY, &format!("/tool-{KEY}/small"), large(9_000));
    for (name, words) in [("large", "too much to keep in memory.]"), ("small", "xxx")] {
        upstream.script(KEY, vec![calls(&[name]), hello()]);
        assert_eq!(ask(&app, &user, &[tool(&here, &[name])]).await, (200, "Hello".to_owned()), "{name}");
        assert!(told(&upstream)[0].1.ends_with(words), "{name}");
    }
    let mut documented = tool(&here, &["small"]);
    let document = documented["schema"].as_str().expect("text").to_owned() + &" ".repeat(30_000);
    upstream.tool(
        KEY,
        &format!("/tool-{KEY}/openapi.json"),
        Reply { steps: vec![Step::Write(document.into_bytes())], ..Reply::json(200, &json!(1)) },
    );
    documented["schema"] = json!(format!("{here}/openapi.json"));
    upstream.script(KEY, vec![hello()]);
    assert_eq!(ask(&app, &user, &[documented.clone()]).await.0, 200);
    assert_eq!(ask(&app, &user, &[documented.clone(), documented]).await.0, 503);
    upstream.script(KEY, vec![hello()]);
    assert_eq!(ask(&app, &user, &[tool(&here, &["small"])]).await.0, 200, "nothing is left charged");
}

#[tokio::test]
async fn whatever_a_tool_does_the_model_is_told_and_the_chat_goes_on() {
    let upstream = Upstream::start().await;
    let (app, user) = start(&upstream, &[], ssrf_guard::system_lookup).await;
    let body =
        |status: u16, body: &[u8]| Reply { steps: vec![Step::Write(body.to_vec())], ..Reply::json(status, &json!(1)) };
    for (name, reply) in [
        ("large", body(200, &vec![b'x'; 2 << 20])),
        ("text", body(200, b"sunny")),
        ("numbers", body(200, br#"{"id": 12345678901234567890123, "price": 1.10}"#)),
        ("refused", body(422, br#"{"detail":"q is required"}"#)),
        ("none", Reply { status: 204, ..Reply::default() }),
        ("broken", Reply { end: End::Reset, ..body(200, b"half") }),
    ] {
        upstream.tool(KEY, &format!("/tool-{KEY}/{name}"), reply);
    }
    let here = tools_server(&upstream);
    for (name, server, words) in [
        ("large", here.as_str(), "[Cut off here: the answer is longer.]"),
        ("text", &here, "sunny"),
        ("numbers", &here, r#"{"id": 12345678901234567890123, "price": 1.10}"#),
        ("refused", &here, "HTTP status 422 Unprocessable Entity\n\n{\"detail\":\"q is required\"}"),
        ("none", &here, "HTTP status 204 No Content\n\nThe tool's answer is empty."),
        ("broken", &here, "[Cut off here: the connection broke before the end of the answer.]"),
        ("away", "http://127.0.0.1:9", "Error: the tool could not be reached."),
    ] {
        upstream.script(KEY, vec![calls(&[name]), hello()]);
        assert_eq!(ask(&app, &user, &[tool(server, &[name])]).await, (200, "Hello".to_owned()), "{name}");
        let content = &told(&upstream)[0].1;
        assert!(content.ends_with(words), "{name}: {}", content.chars().rev().take(200).collect::<String>());
        assert!(content.len() < 110_000);
    }
    upstream.script(KEY, vec![calls(&["other", "text"]), hello()]);
    assert_eq!(ask(&app, &user, &[tool(&here, &["text"])]).await.0, 200);
    let results = told(&upstream);
    assert!(results[0].1.contains("no such function") && results[1].1 == "sunny", "{results:?}");
}

#[tokio::test]
async fn a_provider_that_fails_before_any_text_is_an_error() {
    let upstream = Upstream::start().await;
    let (app, user) = start(&upstream, &[], ssrf_guard::system_lookup).await;
    let tools = [tool("http://192.0.2.1", &["a"])];
    upstream.script(KEY, vec![Reply::json(200, &json!({ "error": { "message": "quota" } }))]);
    let (status, words) = ask(&app, &user, &tools).await;
    assert!(status >= 500 && words == "quota", "{status} {words}");
    upstream.script(KEY, vec![calls(&["nobody"]), Reply::json(400, &json!({ "error": { "message": "too long" } }))]);
    assert_eq!(ask(&app, &user, &tools).await, (400, "too long".to_owned()));
}

#[tokio::test]
async fn a_model_that_calls_for_ever_is_asked_without_tools_in_the_end() {
    let upstream = Upstream::start().await;
    let (app, user) = start(&upstream, &[], ssrf_guard::system_lookup).await;
    upstream.tool(KEY, &format!("/tool-{KEY}/a"), Reply::json(200, &json!(1)));
    let tools = [tool(&tools_server(&upstream), &["a"])];
    upstream.script(KEY, (0..8).map(|_| calls(&["a"])).chain([hello()]).collect());
    assert_eq!(ask(&app, &user, &tools).await, (200, "Hello".to_owned()));
    assert!(last(&upstream)["tools"].is_null());
    assert_eq!(told(&upstream).len(), 8);

    upstream.script(KEY, vec![calls(&["a"; 40]), hello()]);
    assert_eq!(ask(&app, &user, &tools).await, (200, "Hello".to_owned()));
    let results = told(&upstream);
    assert_eq!(results.iter().filter(|(_, content)| content == "1").count(), 32);
    assert!(results[39].1.contains("32 calls are the most"), "{}", results[39].1);
}

#[tokio::test]
async fn anthropics_and_googles_models_call_tools_too() {
    let upstream = Upstream::start().await;
    let urls = [("ANTHROPIC_BASE_URL", upstream.url()), ("GOOGLE_GEMINI_BASE_URL", upstream.url())];
    let settings: Vec<(&str, &str)> = urls.iter().map(|(name, url)| (*name, url.as_str())).collect();
    let app = App::start_on(postgres::database().await, &settings, ssrf_guard::system_lookup).await;
    let user = app.user(&[("anthropic_api_key", KEY), ("google_gemini_api_key", KEY)]).await;
    upstream.tool(KEY, &format!("/tool-{KEY}/a"), Reply::json(200, &json!({ "n": 1 })));
    let tools = [tool(&tools_server(&upstream), &["a"])];
    let named = |name: &str, data: Value| format!("event: {name}\ndata: {data}\n\n");
    let use_tool = json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "tool_use", "id": "t1", "name": "a", "input": {} } });
    let say = json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "Hello" } });
    let stop = |reason: &str| {
        named("message_delta", json!({ "type": "message_delta", "delta": { "stop_reason": reason } }))
            + &named("message_stop", json!({ "type": "message_stop" }))
    };
    let parts = |parts: Value| {
        format!("data: {}\n\n", json!({ "candidates": [{ "content": { "parts": parts }, "finishReason": "STOP" }] }))
    };
    for (model, first, second) in [
        (
            "claude-3-haiku-20240307",
            named("content_block_start", use_tool) + &stop("tool_use"),
            named("content_block_delta", say) + &stop("end_turn"),
        ),
        (
            "gemini-1.5-flash",
            parts(json!([{ "functionCall": { "name": "a", "args": {} }, "thoughtSignature": "S" }])),
            parts(json!([{ "text": "Hello" }])),
        ),
    ] {
        let replies = [&first, &second].map(|events| Reply::events(&[events.as_str()], Step::Wait(Duration::ZERO)));
        upstream.script(KEY, replies.to_vec());
        let came = ask_with(&app, &user, &tools, |body| body["chatSettings"]["model"] = model.into()).await;
        assert_eq!(came, (200, "Hello".to_owned()), "{model}");
        let body = last(&upstream).to_string();
        assert!(body.contains(r#"{\"n\":1}"#), "{body}");
        assert!(body.contains(r#""tool_use_id":"t1""#) || body.contains(r#""thoughtSignature":"S""#), "{body}");
    }
}

#[tokio::test]
async fn a_tool_has_its_time_and_no_more() {
    let upstream = Upstream::start().await;
    let (app, user) = start(&upstream, &[("TOOL_TIMEOUT", "1")], ssrf_guard::system_lookup).await;
    let begun = Reply { steps: vec![Step::Write(b"{".to_vec()), Step::WaitForever], ..Reply::json(200, &json!(1)) };
    let dripping = (0..100).flat_map(|_| [Step::Write(b" ".to_vec()), Step::Wait(Duration::from_millis(300))]);
    let dripping = Reply { steps: dripping.collect(), ..Reply::json(200, &json!(1)) };
    for (name, reply) in [("silent", Reply::silent()), ("begun", begun), ("dripping", dripping)] {
        upstream.tool(KEY, &format!("/tool-{KEY}/{name}"), reply);
        upstream.script(KEY, vec![calls(&[name]), hello()]);
        let started = Instant::now();
        let tools = [tool(&tools_server(&upstream), &[name])];
        let came = tokio::time::timeout(Duration::from_secs(20), ask(&app, &user, &tools)).await.expect(name);
        assert_eq!(came, (200, "Hello".to_owned()));
        assert!(told(&upstream)[0].1.contains("in time"), "{name}: {:?}", told(&upstream));
        assert!(started.elapsed() < Duration::from_secs(8), "{name}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_tool_that_cannot_be_used_is_named() {
    let upstream = Upstream::start().await;
    let (app, user) = start(&upstream, &[], ssrf_guard::system_lookup).await;
    let good = tool(&tools_server(&upstream), &["a"]);
    for (broken, words) in [
        (json!({ "name": "Weather", "schema": "{" }), "The tool \"Weather\" cannot be used: it is not valid JSON"),
        (json!({ "name": "W", "schema": "<html>" }), "web page"),
        (
            json!({ "name": "W", "schema": good["schema"], "custom_headers": "{oops" }),
            "its custom headers are not a JSON object",
        ),
        (json!({}), "it is empty"),
        (json!(7), "it is empty"),
    ] {
        let (status, said) = ask(&app, &user, &[broken]).await;
        assert!(status == 400 && said.contains(words), "{status} {said}");
        assert!(said.ends_with(". After a change, choose the tool again."), "{said}");
    }
    // It does not spoil the others, and clients that take events are told.
    upstream.script(KEY, vec![hello(), hello()]);
    let tools = [json!({ "name": "Weather", "schema": "{" }), good];
    assert_eq!(ask(&app, &user, &tools).await, (200, "Hello".to_owned()));
    let mut body = chat_body();
    body["selectedTools"] = tools.to_vec().into();
    let request = app.chat("tools", &user).header("accept", "text/event-stream").body(body.to_string());
    let events = request.send().await.expect("an answer").text().await.expect("whole");
    assert!(events.starts_with("event: warning\ndata: {\"message\":\"The tool \\\"Weather\\\""), "{events}");
}

/// What an attacker's name server says: inside at once; or a public address
/// first, and this machine when asked again.
fn rebinding(host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    Box::pin(async move {
        Ok(match host.as_str() {
            "metadata.example" => vec![IpAddr::from([169, 254, 169, 254])],
            "rebinding.example" if ASKED.fetch_add(1, Ordering::SeqCst) == 0 => vec![IpAddr::from([192, 0, 2, 1])],
            _ => vec![IpAddr::from([127, 0, 0, 1])],
        })
    })
}

#[tokio::test]
async fn a_tools_url_that_leads_inside_is_refused() {
    let upstream = Upstream::start().await;
    let port = upstream.url().rsplit(':').next().expect("a port").to_owned();
    let settings = [("PRIVATE_UPSTREAMS", "deny"), ("PROVIDER_CONNECT_TIMEOUT", "1")];
    let (app, user) = start(&upstream, &settings, rebinding).await;
    // By number in any notation: before anything is called.
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.1",
        "[::1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "0xa9fea9fe",
        "[fe80::1]",
        "10.0.0.1",
    ] {
        let (status, words) = ask(&app, &user, &[tool(&format!("http://{host}:{port}/tool-{KEY}"), &["a"])]).await;
        assert!(status == 400 && words.contains("private address"), "{host}: {status} {words}");
    }
    for (url, words) in [("http://me@1.1.1.1", "user name"), ("file:///etc", "https://")] {
        let (status, said) = ask(&app, &user, &[tool(url, &["a"])]).await;
        assert!(status == 400 && said.contains(words), "{url}: {status} {said}");
    }
    // By name: when it is called.
    for host in ["inside.example", "metadata.example"] {
        upstream.script(KEY, vec![calls(&["a"]), hello()]);
        let (status, _) = ask(&app, &user, &[tool(&format!("http://{host}:{port}/tool-{KEY}"), &["a"])]).await;
        assert_eq!(status, 200, "{host}");
        assert!(told(&upstream)[0].1.contains("private address"), "{host}: {:?}", told(&upstream));
    }
    // The document's own address, too.
    let by_url = json!({ "name": "T", "schema": format!("http://127.0.0.1:{port}/openapi.json") });
    let (status, words) = ask(&app, &user, &[by_url]).await;
    assert!(status == 400 && words.contains("private address"), "{status} {words}");
    assert!(upstream.all().iter().all(|request| request.path == "/v1/chat/completions"), "no tool was called");
}

#[tokio::test]
async fn a_redirect_of_a_tool_is_checked_too() {
    let upstream = Upstream::start().await;
    let port = upstream.url().rsplit(':').next().expect("a port").to_owned();
    let (app, user) = start(&upstream, &[("PRIVATE_UPSTREAMS", "127.0.0.1")], ssrf_guard::system_lookup).await;
    for target in [
        format!("http://127.0.0.2:{port}/x"),
        "http://169.254.169.254/".to_owned(),
        format!("http://[::ffff:127.0.0.2]:{port}/"),
    ] {
        let redirect =
            Reply { status: 302, headers: vec![("location".to_owned(), target.clone())], ..Reply::default() };
        upstream.tool(KEY, &format!("/tool-{KEY}"), redirect);
        upstream.script(KEY, vec![calls(&["a"]), hello()]);
        assert_eq!(ask(&app, &user, &[tool(&tools_server(&upstream), &["a"])]).await.0, 200, "{target}");
        assert!(told(&upstream)[0].1.contains("private address"), "{target}: {:?}", told(&upstream));
    }
}

#[tokio::test]
async fn a_name_that_resolves_differently_the_second_time_is_refused() {
    let upstream = Upstream::start().await;
    let port = upstream.url().rsplit(':').next().expect("a port").to_owned();
    // 192.0.2.1 stands for a public address.
    let settings = [("PRIVATE_UPSTREAMS", "192.0.2.1"), ("PROVIDER_CONNECT_TIMEOUT", "1")];
    let (app, user) = start(&upstream, &settings, rebinding).await;
    let tools = [tool(&format!("http://rebinding.example:{port}/tool-{KEY}"), &["a"])];
    for words in ["could not be reached", "private address"] {
        upstream.script(KEY, vec![calls(&["a"]), hello()]);
        assert_eq!(ask(&app, &user, &tools).await.0, 200);
        assert!(told(&upstream)[0].1.contains(words), "{:?}", told(&upstream));
    }
    assert!(upstream.all().iter().all(|request| request.path == "/v1/chat/completions"), "no tool was called");
}

#[tokio::test]
async fn a_document_may_lie_at_a_url() {
    let upstream = Upstream::start().await;
    let (app, user) = start(&upstream, &[], ssrf_guard::system_lookup).await;
    // Without servers: they are where the document is.
    let document = json!({ "openapi": "3.0.0", "info": {}, "servers": [{ "url": "api" }], "paths": { "/a": { "get": { "operationId": "a" } } } });
    upstream.tool(KEY, &format!("/tool-{KEY}/openapi.json"), Reply::json(200, &document));
    upstream.tool(KEY, &format!("/tool-{KEY}/api/a"), Reply::json(200, &json!("yes")));
    let by_url = json!({ "name": "T", "schema": format!("{}/openapi.json", tools_server(&upstream)) });
    upstream.script(KEY, vec![calls(&["a"]), hello()]);
    assert_eq!(ask(&app, &user, &[by_url]).await, (200, "Hello".to_owned()));
    assert_eq!(told(&upstream)[0].1, "\"yes\"");
}
