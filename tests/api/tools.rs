//! `POST /api/chat/tools`: several calls, tools that fail, and where a tool's
//! URL may lead.

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
    upstream::{Reply, Step, Upstream},
};

const KEY: &str = "sk-case-tools";
const HELLO: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";

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

async fn ask(app: &App, user: &User, tools: &[Value]) -> (u16, String) {
    let mut body = chat_body();
    body["selectedTools"] = tools.into();
    let answer = app.chat("tools", user).body(body.to_string()).send().await.expect("an answer");
    match answer.status().as_u16() {
        200 => (200, answer.text().await.expect("whole")),
        _ => message(answer).await,
    }
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

    let requests = upstream.requests(KEY);
    let second: Value = serde_json::from_slice(&requests.last().expect("some").body).expect("JSON");
    let told: Vec<(&str, &str)> = second["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .filter(|message| message["role"] == "tool")
        .map(|message| (message["tool_call_id"].as_str().expect("id"), message["content"].as_str().expect("text")))
        .collect();
    assert_eq!(told, [("call-a", r#"{"from":"a"}"#), ("call-b", r#"{"from":"b"}"#), ("call-c", r#"{"from":"c"}"#)]);
    assert!(second["tools"].is_null() && second["stream"] == true);
}

#[tokio::test]
async fn a_tool_that_fails_says_why() {
    let upstream = Upstream::start().await;
    let (app, user) = start(&upstream, &[], ssrf_guard::system_lookup).await;
    let large = Reply { steps: vec![Step::Write(vec![b' '; 2 << 20])], ..Reply::json(200, &json!(1)) };
    let text = Reply { steps: vec![Step::Write(b"sunny".to_vec())], ..Reply::json(200, &json!(1)) };
    upstream.tool(KEY, &format!("/tool-{KEY}/large"), large);
    upstream.tool(KEY, &format!("/tool-{KEY}/text"), text);
    for (name, server, words) in [
        ("large", tools_server(&upstream), "The tool `large` answered with more than 1 MiB"),
        ("text", tools_server(&upstream), "The tool `text` answered with something that is not JSON"),
        ("away", "http://127.0.0.1:9".to_owned(), "The tool `away` could not be reached"),
        ("odd", "not a url".to_owned(), "The tool `odd` has a server whose URL is none"),
    ] {
        upstream.script(KEY, vec![calls(&[name])]);
        assert_eq!(ask(&app, &user, &[tool(&server, &[name])]).await, (500, words.to_owned()));
    }
    upstream.script(KEY, vec![calls(&["other"])]);
    let (status, words) = ask(&app, &user, &[tool("http://h", &["one"])]).await;
    assert_eq!((status, words.as_str()), (500, "The model called `other`, which none of the selected tools has"));
    upstream.script(KEY, vec![Reply::json(200, &json!({ "choices": [] }))]);
    assert_eq!(ask(&app, &user, &[]).await.0, 500);
    upstream.script(KEY, vec![Reply::json(200, &json!({ "error": { "message": "quota" } }))]);
    assert_eq!(ask(&app, &user, &[]).await, (500, "quota".to_owned()));
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
        upstream.script(KEY, vec![calls(&[name])]);
        let started = Instant::now();
        let tools = [tool(&tools_server(&upstream), &[name])];
        let came = tokio::time::timeout(Duration::from_secs(20), ask(&app, &user, &tools)).await.expect(name);
        assert_eq!(came, (500, format!("The tool `{name}` did not answer in time")));
        assert!(started.elapsed() < Duration::from_secs(8), "{name}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_document_that_cannot_be_read_does_not_spoil_the_others() {
    let upstream = Upstream::start().await;
    let (app, user) = start(&upstream, &[], ssrf_guard::system_lookup).await;
    upstream.script(KEY, vec![calls(&["a"]), Reply::events(&[HELLO], Step::Wait(Duration::ZERO))]);
    upstream.tool(KEY, &format!("/tool-{KEY}"), Reply::json(200, &json!(1)));
    let good = tool(&tools_server(&upstream), &["a"]);
    let broken =
        [json!({ "schema": "{" }), json!({}), json!({ "schema": 7, "custom_headers": null }), json!(7), Value::Null];
    let tools: Vec<Value> = broken.into_iter().chain([good]).collect();
    assert_eq!(ask(&app, &user, &tools).await, (200, "Hello".to_owned()));

    // Headers that cannot be read matter when the tool is called.
    let headers = json!({ "schema": tools[5]["schema"], "custom_headers": "{oops" });
    upstream.script(KEY, vec![calls(&["a"])]);
    let (status, words) = ask(&app, &user, &[headers]).await;
    assert_eq!((status, words.as_str()), (500, "The tool `a` cannot be called: its custom headers are not JSON"));
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
    // By name, by number in any notation, metadata by both.
    for host in [
        "inside.example",
        "metadata.example",
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
        "localhost",
    ] {
        upstream.script(KEY, vec![calls(&["a"])]);
        let (status, words) = ask(&app, &user, &[tool(&format!("http://{host}:{port}/tool-{KEY}"), &["a"])]).await;
        assert!(status == 400 && words.contains("private address"), "{host}: {status} {words}");
    }
    for (url, words) in [("http://me@1.1.1.1", "user name"), ("file:///etc", "http://")] {
        upstream.script(KEY, vec![calls(&["a"])]);
        let (status, said) = ask(&app, &user, &[tool(url, &["a"])]).await;
        assert!(status == 400 && said.contains(words), "{url}: {status} {said}");
    }
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
        upstream.script(KEY, vec![calls(&["a"])]);
        let (status, words) = ask(&app, &user, &[tool(&tools_server(&upstream), &["a"])]).await;
        assert!(status == 400 && words.contains("private address"), "{target}: {status} {words}");
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
    upstream.script(KEY, vec![calls(&["a"])]);
    assert_eq!(ask(&app, &user, &tools).await, (500, "The tool `a` could not be reached".to_owned()), "the first time");
    upstream.script(KEY, vec![calls(&["a"])]);
    let (status, words) = ask(&app, &user, &tools).await;
    assert!(status == 400 && words.contains("private address"), "{status} {words}");
    assert!(upstream.all().iter().all(|request| request.path == "/v1/chat/completions"), "no tool was called");
}
