//! Several keys of a provider, and models in the place of others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::{
    App, User, chat_body, client, message,
    ports::Port,
    rows,
    upstream::{End, Recorded, Reply, Step, Upstream},
};

const GOOD: &str = "sk-case-good";
const DEAD: &str = "sk-case-dead";

fn answer(text: &str) -> Reply {
    let delta = json!({ "choices": [{ "delta": { "content": text }, "finish_reason": "stop" }] });
    Reply::events(&[&format!("data: {delta}\n\n"), "data: [DONE]\n\n"], Step::Wait(Duration::ZERO))
}

fn claudes_answer() -> Reply {
    let delta =
        json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "Claude" } });
    let stop = json!({ "type": "message_stop" });
    let events = [("content_block_delta", delta), ("message_stop", stop)];
    let events = events.map(|(name, data)| format!("event: {name}\ndata: {data}\n\n"));
    Reply::events(&events.each_ref().map(String::as_str), Step::Wait(Duration::ZERO))
}

fn error(status: u16, words: &str) -> Reply {
    Reply::json(status, &json!({ "error": { "message": words } }))
}

fn shows(request: &Recorded, key: &str) -> bool {
    request.headers.iter().any(|(_, value)| value.ends_with(key))
}

async fn start(upstream: &Upstream, settings: &[(&str, &str)]) -> (App, User) {
    let url = upstream.url();
    let urls = [("OPENAI_BASE_URL", url.as_str()), ("ANTHROPIC_BASE_URL", &url), ("GOOGLE_GEMINI_BASE_URL", &url)];
    let app = App::start(&[&urls, settings].concat()).await;
    let user = app.user(&[]).await;
    (app, user)
}

async fn ask(app: &App, user: &User, route: &str, model: &str) -> reqwest::Response {
    let mut body = chat_body();
    body["chatSettings"]["model"] = model.into();
    body["messages"] = json!([{ "role": "system", "content": "S" }, { "role": "user", "content": "U" }]);
    body["selectedTools"] = json!([]);
    app.chat(route, user).body(body.to_string()).send().await.expect("an answer")
}

async fn states(app: &App) -> Vec<(u64, String)> {
    let answer = client().get(app.url("/readyz?verbose")).send().await.expect("an answer");
    let answer: Value = serde_json::from_str(&answer.text().await.expect("text")).expect("JSON");
    let state = |key: &Value| (key["key"].as_u64().expect("a number"), key["state"].as_str().expect("text").to_owned());
    answer["keys"].as_array().expect("a list").iter().map(state).collect()
}

#[tokio::test]
async fn a_thousand_chats_and_none_fails() {
    const ROUND_TRIP: Duration = Duration::from_millis(200);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::answering_for_long(Duration::from_secs(60), move |request| {
        if shows(request, DEAD) {
            return error(401, "Incorrect API key provided: sk-MARKED");
        }
        // Half of them, and in no order that a request could fall in with.
        let number = count.fetch_add(1, Ordering::Relaxed) as u64;
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let reply = if mixed.count_ones().is_multiple_of(2) { error(529, "Overloaded") } else { answer("Hello") };
        Reply { before_head: ROUND_TRIP, ..reply }
    });
    let (app, _) = start(&upstream, &[("OPENAI_API_KEY", &format!("{DEAD},{GOOD}"))]).await;
    let mut users = Vec::new();
    for _ in 0..4 {
        users.push(app.user(&[]).await);
    }
    let chat = async |number: usize| {
        let started = Instant::now();
        let answer = ask(&app, &users[number % users.len()], "openai", "gpt-4o").await;
        assert_eq!(answer.status(), 200, "{number}");
        let first_text = started.elapsed();
        assert_eq!(answer.text().await.expect("text"), "Hello");
        first_text
    };
    let mut took: Vec<Duration> = stream::iter(0..1000).map(chat).buffer_unordered(32).collect().await;
    took.sort_unstable();
    // Half of them at the first request, a quarter at the next, for which nobody waits: a chat with a provider that
    // always answers takes a round trip, and what this machine is busy with.
    assert!(took[500] < 2 * ROUND_TRIP + Duration::from_millis(100), "{:?}", took[500]);
    let requests = asked.load(Ordering::Relaxed);
    assert!((1_500..3_000).contains(&requests), "{requests} requests");
    assert_eq!(states(&app).await, [(1, "resting".to_owned()), (2, "ok".to_owned())]);
}

#[tokio::test]
async fn the_first_text_of_a_good_key_is_one_round_trip_later_at_most() {
    let upstream = Upstream::answering(|request| Reply {
        before_head: Duration::from_millis(100),
        ..if shows(request, DEAD) { error(402, "Pay") } else { answer("Hello") }
    });
    let (app, user) = start(&upstream, &[("OPENAI_API_KEY", &format!("{DEAD},{GOOD}"))]).await;
    for _ in 0..2 {
        assert_eq!(ask(&app, &user, "openai", "gpt-4o").await.text().await.expect("text"), "Hello");
    }
    let asked = upstream.all();
    assert_eq!(asked.len(), 3, "the dead key was asked once");
    let waited = asked[1].came.duration_since(asked[0].completed.expect("it was answered"));
    assert!(waited < Duration::from_millis(90), "the next key was waited for: {waited:?}");
}

#[tokio::test]
async fn if_all_keys_are_dead_the_providers_words_are_said_once() {
    let upstream = Upstream::answering(|request| {
        let which = if shows(request, DEAD) { "first" } else { "second" };
        error(401, &format!("Your {which} account is closed"))
    });
    let (app, user) = start(&upstream, &[("OPENAI_API_KEY", &format!("{DEAD},{GOOD}"))]).await;
    let (status, words) = message(ask(&app, &user, "openai", "gpt-4o").await).await;
    assert_eq!((status, words.as_str()), (401, "401 Your second account is closed"));
    assert_eq!(upstream.all().len(), 2);
    // Both rest; the one that will be back first is asked all the same, for its words.
    let (status, words) = message(ask(&app, &user, "openai", "gpt-4o").await).await;
    assert_eq!((status, words.as_str(), upstream.all().len()), (401, "401 Your first account is closed", 3));
}

#[tokio::test]
async fn the_next_model_answers_and_is_named() {
    let upstream =
        Upstream::answering(
            |request| {
                if request.path.ends_with("/messages") { claudes_answer() } else { error(503, "Down") }
            },
        );
    let metrics = Port::reserve();
    let address = metrics.address.to_string();
    let settings = [
        ("OPENAI_API_KEY", GOOD),
        ("ANTHROPIC_API_KEY", GOOD),
        ("GOOGLE_GEMINI_API_KEY", GOOD),
        ("METRICS_ADDR", &address),
        ("MODEL_FALLBACKS", "gpt-6.1-sol>claude-opus-5-5,gemini-3.8-flash>claude-opus-5-5,*>openrouter:a/b"),
    ];
    let (app, user) = start(&upstream, &settings).await;
    for (route, model) in [("openai", "gpt-6.1-sol"), ("tools", "gpt-6.1-sol")] {
        let answer = ask(&app, &user, route, model).await;
        assert_eq!(answer.headers()["x-model"], "claude-opus-5-5", "{route}");
        assert_eq!(answer.text().await.expect("text"), "Claude", "{route}");
    }
    // From Google's form, with the system prompt and an image.
    let mut body = chat_body();
    body["chatSettings"]["model"] = "gemini-3.8-flash".into();
    let image = json!({ "inlineData": { "mimeType": "image/png", "data": "QUJD" } });
    body["messages"] = json!([
        { "role": "user", "parts": [{ "text": "S" }] },
        { "role": "user", "parts": [{ "text": "T" }, image] },
    ]);
    let answer = app.chat("google", &user).body(body.to_string()).send().await.expect("an answer");
    assert_eq!(answer.text().await.expect("text"), "Claude");
    let last: Value = serde_json::from_slice(&upstream.all().last().expect("one").body).expect("JSON");
    assert_eq!(last["messages"][0]["content"][1]["source"]["data"], "QUJD", "{last}");
    assert_eq!(last["system"][0]["text"], "S", "{last}");

    let events = app.chat("openai", &user).header("accept", "text/event-stream");
    let mut body = chat_body();
    body["chatSettings"]["model"] = "gpt-6.1-sol".into();
    let events = events.body(body.to_string()).send().await.expect("an answer").text().await.expect("events");
    assert!(events.contains(r#""model":"gpt-6.1-sol","effective_model":"claude-opus-5-5""#), "{events}");

    // Without a fallback that has a key: the model's own failure, as ever.
    let (status, words) = message(ask(&app, &user, "openai", "gpt-4o").await).await;
    assert_eq!((status, words.as_str()), (503, "503 Down"));
    let scraped = client().get(format!("http://{address}/metrics")).send().await.expect("an answer");
    let scraped = scraped.text().await.expect("text");
    for series in [
        r#"provider_failovers_total{cause="provider error",provider="openai"} 3"#,
        r#"provider_failovers_total{cause="provider error",provider="google"} 1"#,
        r#"model_requests_total{model="claude-opus-5-5",provider="anthropic"} 4"#,
        r#"provider_key_resting{key="1",provider="openai"} 0"#,
        r#"streams_open{provider="anthropic"} 0"#,
    ] {
        assert!(scraped.contains(series), "{series}:\n{scraped}");
    }
}

#[tokio::test]
async fn what_broke_before_the_first_text_is_asked_again_and_nothing_after_it() {
    let upstream = Upstream::answering(|request| {
        let delta = json!({ "choices": [{ "delta": { "content": "Half" } }] });
        match () {
            () if !shows(request, DEAD) => answer("Hello"),
            () if request.path.starts_with("/half") => Reply {
                end: End::Reset,
                ..Reply::events(&[&format!("data: {delta}\n\n")], Step::Wait(Duration::from_millis(50)))
            },
            () if request.path.starts_with("/error") => {
                Reply::events(&[r#"data: {"error":{"message":"Overloaded"}}"#, "\n\n"], Step::Wait(Duration::ZERO))
            }
            () if request.path.starts_with("/reset") => Reply { end: End::Reset, ..Reply::default() },
            () => Reply { end: End::Refuse, ..Reply::default() },
        }
    });
    for place in ["error", "reset", "refused", "half"] {
        let url = format!("{}/{place}", upstream.url());
        let settings = [("OPENAI_API_KEY", &*format!("{DEAD},{GOOD}")), ("OPENAI_BASE_URL", &url)];
        let app = App::start(&settings).await;
        let user = app.user(&[]).await;
        let answer = ask(&app, &user, "openai", "gpt-4o").await;
        assert_eq!(answer.status(), 200, "{place}");
        if place == "half" {
            let text = crate::support::cut(answer).await;
            assert!(text.starts_with("Half") && !text.contains("Hello"), "{text}");
        } else {
            assert_eq!(answer.text().await.expect("text"), "Hello", "{place}");
        }
    }
}

#[tokio::test]
async fn a_users_own_key_and_a_bad_request_have_no_second_way() {
    let upstream = Upstream::answering(|request| match () {
        () if shows(request, "sk-of-a-user") => error(401, "Who are you?"),
        () if request.path.ends_with("/messages") => claudes_answer(),
        () => error(400, "No"),
    });
    let settings = [("ANTHROPIC_API_KEY", GOOD), ("MODEL_FALLBACKS", "*>claude-opus-5-5")];
    let (app, _) = start(&upstream, &settings).await;
    let user = app.user(&[("openai_api_key", "sk-of-a-user,sk-case-good")]).await;
    let (status, words) = message(ask(&app, &user, "openai", "gpt-4o").await).await;
    assert_eq!((status, upstream.all().len()), (400, 1), "a comma in it is its own: {words}");
    let user = app.user(&[("openai_api_key", "sk-of-a-user")]).await;
    let (status, words) = message(ask(&app, &user, "openai", "gpt-4o").await).await;
    assert_eq!((status, words.as_str(), upstream.all().len()), (401, "401 Who are you?", 2));

    let both = [("OPENAI_API_KEY", GOOD), ("ANTHROPIC_API_KEY", GOOD), ("MODEL_FALLBACKS", "*>claude-opus-5-5")];
    let (app, user) = start(&upstream, &both).await;
    let (status, _) = message(ask(&app, &user, "openai", "gpt-4o").await).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_key_rests_as_long_as_the_provider_says_and_nobody_waits() {
    let upstream = Upstream::answering(|request| {
        if shows(request, GOOD) {
            return answer("Hello");
        }
        let mut limited = error(429, "Slow down");
        limited.headers.push(("retry-after".to_owned(), "30".to_owned()));
        limited
    });
    let (app, user) = start(&upstream, &[("OPENAI_API_KEY", &format!("{DEAD},{GOOD}"))]).await;
    for _ in 0..3 {
        assert_eq!(ask(&app, &user, "openai", "gpt-4o").await.text().await.expect("text"), "Hello");
    }
    assert_eq!(upstream.all().len(), 4, "the first key was asked once");
    let (app, user) = start(&upstream, &[("OPENAI_API_KEY", &format!("{DEAD},b-{DEAD}"))]).await;
    for _ in 0..2 {
        let started = Instant::now();
        let (status, words) = message(ask(&app, &user, "openai", "gpt-4o").await).await;
        assert_eq!((status, words.as_str()), (429, "429 Slow down"));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn somebody_is_asked_even_if_all_keys_are_being_tried() {
    // Both keys are limited for a second; the requests that try them then take long.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::answering(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) < 2 {
            let mut limited = error(429, "Slow down");
            limited.headers.push(("retry-after".to_owned(), "1".to_owned()));
            return limited;
        }
        Reply { before_head: Duration::from_millis(1500), ..answer("Hello") }
    });
    let (app, user) = start(&upstream, &[("OPENAI_API_KEY", &format!("{DEAD},{GOOD}"))]).await;
    let chat = async |_| {
        let answer = ask(&app, &user, "openai", "gpt-4o").await;
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    let answers: Vec<(u16, String)> = stream::iter(0..8).map(chat).buffer_unordered(8).collect().await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
}

#[tokio::test]
async fn an_error_inside_a_stream_is_asked_again_once_a_key_and_not_if_the_request_is_at_fault() {
    for (code, requests) in [("server_error", 2), ("invalid_prompt", 1)] {
        let event = format!("data: {}\n\n", json!({ "error": { "code": code, "message": "No" } }));
        let upstream = Upstream::answering(move |_| Reply::events(&[&event], Step::Wait(Duration::ZERO)));
        let (app, user) = start(&upstream, &[("OPENAI_API_KEY", &format!("{DEAD},{GOOD}"))]).await;
        let (status, words) = message(ask(&app, &user, "openai", "gpt-4o").await).await;
        assert_eq!((status, words.as_str()), (502, "No"), "{code}");
        assert_eq!(upstream.all().len(), requests, "{code}");
    }
}

#[tokio::test]
async fn a_users_organization_is_not_sent_with_the_servers_key() {
    let upstream = Upstream::answering(|_| answer("Hello"));
    let organization = |request: &Recorded| request.header("openai-organization").map(str::to_owned);
    for (settings, expected) in [
        (vec![("OPENAI_API_KEY", GOOD)], None),
        (vec![("OPENAI_API_KEY", GOOD), ("OPENAI_ORGANIZATION_ID", "org-server")], Some("org-server".to_owned())),
        (vec![], Some("org-user".to_owned())),
    ] {
        let (app, _) = start(&upstream, &settings).await;
        let user = app.user(&[("openai_api_key", "sk-own"), ("openai_organization_id", "org-user")]).await;
        assert_eq!(ask(&app, &user, "openai", "gpt-4o").await.text().await.expect("text"), "Hello");
        assert_eq!(organization(upstream.all().last().expect("a request")), expected);
    }
}

#[tokio::test]
async fn the_command_palette_has_the_next_key_too() {
    let upstream = Upstream::answering(|request| {
        if shows(request, DEAD) {
            return error(401, "Dead");
        }
        Reply::json(200, &json!({ "choices": [{ "message": { "role": "assistant", "content": "Done" } }] }))
    });
    let (app, user) = start(&upstream, &[("OPENAI_API_KEY", &format!("{DEAD},{GOOD}"))]).await;
    let request = client().post(app.url("/api/command")).header("authorization", user.bearer());
    let answer = request.body(json!({ "input": "Do" }).to_string()).send().await.expect("an answer");
    assert_eq!(answer.text().await.expect("text"), r#"{"content":"Done"}"#);
}

#[tokio::test]
async fn vectors_come_by_the_next_key_too() {
    let upstream = Upstream::answering(|request| match () {
        () if shows(request, DEAD) => error(401, "Dead"),
        () => Reply::json(200, &json!({ "data": [{ "index": 0, "embedding": vec![0.5; 1536] }] })),
    });
    let (app, user) = start(&upstream, &[("OPENAI_API_KEY", &format!("{DEAD},{GOOD}"))]).await;
    let file = rows::File { name: "f.txt", path: None, sharing: "private" }.insert(&app.db, user.id).await;
    rows::item(&app.db, user.id, file, ("A passage", 2), &vec![0.5; 1536]).await;
    let request = client().post(app.url("/api/retrieval/retrieve")).header("authorization", user.bearer());
    let question = json!({ "userInput": "Q", "fileIds": [file], "embeddingsProvider": "openai", "sourceCount": 1 });
    let answer = request.body(question.to_string()).send().await.expect("an answer").text().await.expect("text");
    assert!(answer.contains("A passage"), "{answer}");
    assert_eq!(upstream.all().len(), 2);
}
