//! `POST /api/chat/custom`: whose models, and where their URLs may lead.

use std::{io, net::IpAddr, time::Duration};

use futures::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{
    App, User, chat_body, client, message, postgres,
    rows::Model,
    upstream::{Reply, Step, Upstream},
};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";

async fn model(app: &App, owner: &User, base_url: &str, sharing: &str) -> Uuid {
    Model { base_url, api_key: "sk-case-custom", sharing }.insert(&app.db, owner.id).await
}

async fn ask(app: &App, user: &User, id: impl Into<Value>) -> (u16, String) {
    let mut body = chat_body();
    body["customModelId"] = id.into();
    let answer = app.chat("custom", user).body(body.to_string()).send().await.expect("an answer");
    match answer.status().as_u16() {
        200 => (200, answer.text().await.expect("whole")),
        _ => message(answer).await,
    }
}

#[tokio::test]
async fn a_model_is_its_owners_or_shared() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-custom", vec![Reply::events(&[DELTA], Step::Wait(Duration::ZERO))]);
    let app = App::start(&[]).await;
    let (owner, other) = (app.user(&[]).await, app.user(&[]).await);
    let private = model(&app, &owner, &upstream.url(), "private").await.to_string();
    let shared = model(&app, &owner, &upstream.url(), "public").await.to_string();

    assert_eq!(ask(&app, &owner, private.clone()).await, (200, "Hello".to_owned()));
    assert_eq!(ask(&app, &other, shared).await, (200, "Hello".to_owned()));
    let not_found = (500, "Model not found".to_owned());
    assert_eq!(ask(&app, &other, private.clone()).await, not_found);
    for id in
        [Value::Null, 7.into(), "".into(), format!("{private}' or true --").into(), Uuid::new_v4().to_string().into()]
    {
        assert_eq!(ask(&app, &owner, id).await, not_found);
    }
    assert_eq!(upstream.requests("sk-case-custom").len(), 2);
    let stranger = client().post(app.url("/api/chat/custom")).body(chat_body().to_string()).send().await;
    assert_eq!(message(stranger.expect("an answer")).await, (500, "User not found".to_owned()));
}

#[tokio::test]
async fn a_chat_with_tools_names_a_model_by_its_id_which_has_to_tell() {
    let (upstream, other) = (Upstream::start().await, Upstream::start().await);
    for upstream in [&upstream, &other] {
        upstream.script("sk-case-custom", vec![Reply::events(&[DELTA], Step::Wait(Duration::ZERO))]);
    }
    let app = App::start(&[]).await;
    let (user, sharer) = (app.user(&[]).await, app.user(&[]).await);
    model(&app, &sharer, &other.url(), "public").await;
    model(&app, &user, &upstream.url(), "private").await;
    let ask = async || {
        let mut body = chat_body();
        body["chatSettings"]["model"] = "x".into();
        body["selectedTools"] = Value::Array(Vec::new());
        app.chat("tools", &user).body(body.to_string()).send().await.expect("an answer")
    };
    assert_eq!(ask().await.text().await.expect("whole"), "Hello");
    model(&app, &user, &upstream.url(), "private").await;
    assert_eq!(ask().await.text().await.expect("whole"), "Hello", "twice on one server");
    assert_eq!((upstream.connections() > 0, other.connections()), (true, 0), "one's own before those of others");
    model(&app, &user, &other.url(), "private").await;
    let (status, sentence) = message(ask().await).await;
    assert_eq!((status, other.connections()), (400, 0));
    assert!(sentence.starts_with("There are several models with the id x, on different servers"), "{sentence}");
}

#[tokio::test]
async fn private_addresses_are_refused_in_every_notation() {
    let upstream = Upstream::start().await;
    let app = App::start(&[("PRIVATE_UPSTREAMS", "deny")]).await;
    let user = app.user(&[]).await;
    let port = upstream.url().rsplit(':').next().expect("a port").to_owned();
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0",
        "169.254.169.254",
        "１２７.0.0.1",
    ] {
        let id = model(&app, &user, &format!("http://{host}:{port}/v1"), "private").await;
        let (status, words) = ask(&app, &user, id.to_string()).await;
        assert_eq!(status, 400, "{host}: {words}");
        assert!(words.contains("private address"), "{host}: {words}");
    }
    for (url, words) in
        [("http://a:b@1.1.1.1/", "user name"), ("file:///etc/passwd", "http://"), ("ftp://1.1.1.1", "http://")]
    {
        let id = model(&app, &user, url, "private").await;
        let (status, said) = ask(&app, &user, id.to_string()).await;
        assert!(status == 400 && said.contains(words), "{url}: {said}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_redirect_passes_the_guard_too() {
    let upstream = Upstream::start().await;
    let port = upstream.url().rsplit(':').next().expect("a port").to_owned();
    // The first address is listed by name, the one it redirects to is not.
    let app = App::start(&[("PRIVATE_UPSTREAMS", "127.0.0.1")]).await;
    let user = app.user(&[]).await;
    let id = model(&app, &user, &upstream.url(), "private").await.to_string();
    for target in [
        format!("http://[::ffff:7f00:2]:{port}/"),
        "http://169.254.169.254/latest".to_owned(),
        format!("http://127.0.0.2:{port}/"),
    ] {
        let redirect =
            Reply { status: 307, headers: vec![("location".to_owned(), target.clone())], ..Reply::default() };
        upstream.script("sk-case-custom", vec![redirect]);
        let (status, words) = ask(&app, &user, id.clone()).await;
        assert!(status == 400 && words.contains("private address"), "{target}: {status} {words}");
    }
    // To another host a redirect is not followed at all: the key stays here.
    let elsewhere = Reply {
        status: 302,
        headers: vec![("location".to_owned(), "http://192.0.2.1/".to_owned())],
        ..Reply::default()
    };
    upstream.script("sk-case-custom", vec![elsewhere]);
    let app = App::start(&[]).await;
    let user = app.user(&[]).await;
    let id = model(&app, &user, &upstream.url(), "private").await.to_string();
    assert_eq!(ask(&app, &user, id.clone()).await, (502, "302 status code (no body)".to_owned()));
    // On one host it is, with the request's body.
    let onwards = Reply {
        status: 307,
        headers: vec![("location".to_owned(), "/sk-case-custom-2/chat".to_owned())],
        ..Reply::default()
    };
    upstream.script("sk-case-custom", vec![onwards, Reply::events(&[DELTA], Step::Wait(Duration::ZERO))]);
    assert_eq!(ask(&app, &user, id).await, (200, "Hello".to_owned()));
    let requests = upstream.all();
    let [.., first, second] = requests.as_slice() else { panic!("two requests") };
    assert_eq!((second.path.as_str(), &second.body), ("/sk-case-custom-2/chat", &first.body));
}

#[tokio::test]
async fn a_key_that_no_header_can_hold_is_refused_and_not_shown() {
    let upstream = Upstream::start().await;
    let app = App::start(&[("OPENAI_BASE_URL", &upstream.url()), ("ANTHROPIC_BASE_URL", &upstream.url())]).await;
    let key = "sk-MARKED\r\nX-Injected: yes";
    let columns = ["openai_api_key", "anthropic_api_key", "azure_openai_api_key"].map(|column| (column, key));
    let azure = [("azure_openai_endpoint", upstream.url()), ("azure_openai_45_turbo_id", "d".to_owned())];
    let azure = azure.iter().map(|(column, value)| (*column, value.as_str()));
    let user = app.user(&columns.into_iter().chain(azure).collect::<Vec<_>>()).await;
    let id = model(&app, &user, &upstream.url(), "private").await;
    for odd in [key, "sk-\nb", "sk-\u{1}", "sk-\u{7f}"] {
        sqlx::query("update public.models set api_key = $1 where id = $2")
            .bind(odd)
            .bind(id)
            .execute(&app.db)
            .await
            .expect("a key");
        let (status, words) = ask(&app, &user, id.to_string()).await;
        assert!((400..=500).contains(&status) && !words.contains("sk-"), "{odd:?}: {status} {words}");
    }
    for provider in ["openai", "anthropic", "azure"] {
        let mut body = chat_body();
        body["chatSettings"]["model"] = "gpt-4-turbo-preview".into();
        let answer = app.chat(provider, &user).body(body.to_string()).send().await.expect("an answer");
        let (status, words) = message(answer).await;
        assert!((400..=500).contains(&status) && !words.contains("MARKED"), "{provider}: {status} {words}");
    }
    assert!(upstream.all().iter().all(|request| request.header("x-injected").is_none()));
    assert!(upstream.all().is_empty(), "nobody is asked with half a key");
}

#[tokio::test]
async fn an_endless_error_is_cut() {
    let upstream = Upstream::start().await;
    let app = App::start(&[]).await;
    let user = app.user(&[]).await;
    let id = model(&app, &user, &upstream.url(), "private").await;
    // Without an end: what is not cut is waited for.
    let steps = (0..64).map(|_| Step::Write(vec![b'x'; 16 * 1024])).chain([Step::WaitForever]).collect();
    upstream.script("sk-case-custom", vec![Reply { status: 400, steps, ..Reply::default() }]);
    let started = std::time::Instant::now();
    let (status, words) = ask(&app, &user, id.to_string()).await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(status, 400);
    let longest = chatbot_ui_api::llm::MAX_ERROR_BYTES + 100;
    assert!((1000..longest).contains(&words.len()), "{}", words.len());
}

/// A resolver under an attacker's hand: public addresses the first time,
/// this machine's from then on; and names that always lead inside.
fn rebinding(host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    Box::pin(async move {
        Ok(match host.as_str() {
            "inside.example" => vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([127, 0, 0, 1])],
            "metadata.example" => vec![IpAddr::from([169, 254, 169, 254])],
            "rebinding.example" if ASKED.fetch_add(1, Ordering::SeqCst) == 0 => vec![IpAddr::from([192, 0, 2, 1])],
            _ => vec![IpAddr::from([127, 0, 0, 1])],
        })
    })
}

#[tokio::test]
async fn a_name_is_what_it_resolves_to_when_the_connection_is_made() {
    let upstream = Upstream::start().await;
    let port = upstream.url().rsplit(':').next().expect("a port").to_owned();
    let database = postgres::database().await;
    // 192.0.2.1 stands for a public address: no host has it.
    let settings = [("PRIVATE_UPSTREAMS", "192.0.2.1"), ("PROVIDER_CONNECT_TIMEOUT", "1")];
    let app = App::start_on(database, &settings, rebinding).await;
    let user = app.user(&[]).await;
    for host in ["inside.example", "metadata.example"] {
        let id = model(&app, &user, &format!("http://{host}:{port}"), "private").await;
        let (status, words) = ask(&app, &user, id.to_string()).await;
        assert!(status == 400 && words.contains(host), "{host}: {words}");
    }
    // The first answer passes and leads to nobody; whatever it says on being
    // asked again is checked again.
    let id = model(&app, &user, &format!("http://rebinding.example:{port}"), "private").await;
    let (status, words) = ask(&app, &user, id.to_string()).await;
    assert!(status == 400 && words.contains("private address"), "{status} {words}");
    assert_eq!(upstream.connections(), 0);
}
