//! Limits: requests in flight in the whole server and of one user, and the rate
//! of one user's requests, alone and shared with other servers.

mod shared;

use std::time::{Duration, Instant};

use chatbot_ui_api::http_client::ssrf_guard;
use reqwest::{Response, header::AUTHORIZATION};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    App, User, chat_body, client, message, postgres, rows, tokens,
    upstream::{Reply, Step, Upstream},
};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

async fn start(upstream: &Upstream, settings: &[(&str, &str)]) -> App {
    let base = format!("{}/v1", upstream.url());
    App::start(&[&[("OPENAI_BASE_URL", base.as_str())], settings].concat()).await
}

/// An answer that has begun and goes on until the client leaves.
async fn open(app: &App, user: &User) -> Response {
    let mut answer = app.chat("openai", user).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.chunk().await.expect("text").expect("some"), "Hello");
    answer
}

/// A request that costs nothing but the count.
async fn ask(url: &str, user: &User) -> Response {
    let request = client().post(format!("{url}/api/username/available")).header(AUTHORIZATION, user.bearer());
    request.body(r#"{"username":"x"}"#).send().await.expect("an answer")
}

fn retry_after(answer: &Response) -> u64 {
    answer.headers()["retry-after"].to_str().expect("text").parse().expect("whole seconds")
}

/// Asserts that a request is accepted from 100 ms on.
async fn is_let_in_soon(app: &App, user: &User, after: &str) {
    let given_back = Instant::now();
    loop {
        let asked = given_back.elapsed();
        let status = ask(&app.url(""), user).await.status();
        if status == 200 {
            return;
        }
        assert!(matches!(status.as_u16(), 429 | 503), "{after}: {status}");
        assert!(asked < Duration::from_millis(100), "{after}: still {status} after {asked:?}");
    }
}

#[tokio::test]
async fn one_user_has_so_many_streams() {
    let upstream = Upstream::start().await;
    let app = start(&upstream, &[("MAX_STREAMS_PER_USER", "2")]).await;
    let profile = [("openai_api_key", "sk-case-most")];
    let (user, other) = (app.user(&profile).await, app.user(&profile).await);
    upstream.script("sk-case-most", vec![Reply::events(&[DELTA], Step::WaitForever)]);
    let (first, _second) = (open(&app, &user).await, open(&app, &user).await);

    let third = app.chat("openai", &user).send().await.expect("an answer");
    assert_eq!(retry_after(&third), 2);
    let sentence = "You have 2 requests under way, the most at once. Please wait until one of them has ended.";
    assert_eq!(message(third).await, (429, sentence.to_owned()));
    let _others = open(&app, &other).await;

    drop(first);
    is_let_in_soon(&app, &user, "leaving").await;
    let _again = open(&app, &user).await;
}

#[tokio::test]
async fn a_slot_is_given_back_when_the_answer_ends() {
    let upstream = Upstream::start().await;
    let app = start(&upstream, &[("MAX_STREAMS_PER_USER", "1"), ("MAX_REQUESTS", "1")]).await;
    let user = app.user(&[("openai_api_key", "sk-case-ends")]).await;
    upstream.script(
        "sk-case-ends",
        vec![
            Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO)),
            Reply::json(400, &serde_json::json!({ "error": { "message": "no" } })),
        ],
    );
    for status in [200, 400, 400] {
        let answer = app.chat("openai", &user).send().await.expect("an answer");
        assert_eq!(answer.status(), status);
        answer.bytes().await.expect("whole");
    }
}

/// Sends a chat's head and `part` of its body, 1 being all.
async fn begin(app: &App, user: &User, part: usize) -> TcpStream {
    let body = chat_body().to_string();
    let mut connection = TcpStream::connect(app.address).await.expect("connects");
    let head = format!(
        "POST /api/chat/openai HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-length: {}\r\n\r\n",
        user.bearer(),
        body.len()
    );
    connection.write_all(head.as_bytes()).await.expect("writes");
    connection.write_all(&body.as_bytes()[..body.len() / part]).await.expect("writes");
    connection
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_slot_back() {
    let upstream = Upstream::start().await;
    // One place in the server as well: it is given back with the slot.
    let app = start(&upstream, &[("MAX_STREAMS_PER_USER", "1"), ("MAX_REQUESTS", "1")]).await;
    let silences = [
        ("before the provider's head", Reply::silent(), 1),
        ("before the first event", Reply::events(&[], Step::WaitForever), 1),
        ("between events", Reply::events(&[DELTA], Step::WaitForever), 1),
        ("in the middle of the body", Reply::silent(), 2),
    ];
    for (number, (silence, reply, part)) in silences.into_iter().enumerate() {
        let key = format!("sk-case-left-{number}");
        let user = app.user(&[("openai_api_key", &key)]).await;
        upstream.script(&key, vec![reply]);
        // Until the slot is seen to be taken: asking may itself be what takes
        // the only one.
        let started = Instant::now();
        let connection = loop {
            let connection = begin(&app, &user, part).await;
            if part == 1 {
                assert!(upstream.wait_for(&key, Duration::from_secs(5), |requests| !requests.is_empty()).await);
            }
            if ask(&app.url(""), &user).await.status() != 200 {
                break connection;
            }
            assert!(started.elapsed() < Duration::from_secs(5), "{silence}: no slot was taken");
        };
        drop(connection);
        is_let_in_soon(&app, &user, silence).await;
    }
}

#[tokio::test]
async fn a_handler_that_panics_gives_its_slot_back() {
    let settings = [("MAX_STREAMS_PER_USER", "1"), ("MAX_REQUESTS", "1")];
    let app = App::start_on(postgres::database().await, &settings, |_| panic!("a bug")).await;
    let user = app.user(&[]).await;
    let model = rows::model(&app.db, user.id, "http://models.example.com", "x").await;
    let mut body = chat_body();
    body["customModelId"] = model.to_string().into();
    let request = || client().post(app.url("/api/chat/custom")).header(AUTHORIZATION, user.bearer());
    for _ in 0..2 {
        let answer = request().body(body.to_string()).send().await.expect("an answer");
        assert_eq!(message(answer).await, (500, "An unexpected error occurred".to_owned()));
    }
    is_let_in_soon(&app, &user, "a panic").await;
}

#[tokio::test]
async fn a_full_server_says_so_and_stays_alive() {
    let upstream = Upstream::start().await;
    let app = start(&upstream, &[("MAX_REQUESTS", "2")]).await;
    let user = app.user(&[("openai_api_key", "sk-case-full")]).await;
    upstream.script("sk-case-full", vec![Reply::events(&[DELTA], Step::WaitForever)]);
    let streams = [open(&app, &user).await, open(&app, &user).await];

    for path in ["/api/username/get", "/api/chat/openai", "/nowhere"] {
        let refused = client().post(app.url(path)).send().await.expect("an answer");
        assert_eq!(retry_after(&refused), 2, "{path}");
        assert_eq!(refused.headers()["x-content-type-options"], "nosniff");
        assert!(refused.headers().contains_key("x-request-id"));
        assert_eq!(message(refused).await, (503, "The server is busy. Please try again in a moment.".to_owned()));
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(client().get(app.url(path)).send().await.expect("an answer").status(), 200, "{path}");
    }
    // Those count for nothing themselves.
    let [first, second] = streams;
    drop(first);
    is_let_in_soon(&app, &user, "leaving").await;
    drop(second);
}

#[tokio::test]
async fn one_user_asks_so_often() {
    let app = App::start(&[("RATE_LIMIT_PER_MINUTE", "3")]).await;
    let (user, other) = (app.user(&[]).await, app.user(&[]).await);
    for _ in 0..3 {
        assert_eq!(ask(&app.url(""), &user).await.status(), 200);
    }
    for path in ["/api/chat/openai", "/api/retrieval/retrieve", "/api/username/get"] {
        let request = client().post(app.url(path)).header(AUTHORIZATION, user.bearer());
        let refused = request.body("{}").send().await.expect("an answer");
        let seconds = retry_after(&refused);
        assert!((15..=20).contains(&seconds), "{seconds}");
        let sentence = format!("You have sent too many requests. Please try again in {seconds} s.");
        assert_eq!(message(refused).await, (429, sentence));
    }
    assert_eq!(ask(&app.url(""), &other).await.status(), 200);
}

#[tokio::test]
async fn a_request_after_the_retry_time_is_accepted() {
    let app = App::start(&[("RATE_LIMIT_PER_MINUTE", "40")]).await;
    let user = app.user(&[]).await;
    let refused = loop {
        let answer = ask(&app.url(""), &user).await;
        if answer.status() != 200 {
            break answer;
        }
    };
    // A request each 1.5 s.
    let seconds = retry_after(&refused);
    assert!((1..=2).contains(&seconds), "{seconds}");
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    assert_eq!(ask(&app.url(""), &user).await.status(), 200);
}

#[tokio::test]
async fn forged_sessions_do_not_count_for_their_user() {
    let app = App::start(&[("RATE_LIMIT_PER_MINUTE", "1")]).await;
    let user = app.user(&[]).await;
    for _ in 0..3 {
        let mut forged = tokens::headers(tokens::Auth::BadSignature, user.id, user.session);
        let (name, value) = forged.remove(0);
        let request = client().post(app.url("/api/username/available")).header(name, value);
        let refused = request.body(r#"{"username":"x"}"#).send().await.expect("an answer");
        assert_eq!(message(refused).await, (500, "User not found".to_owned()));
    }
    assert_eq!(ask(&app.url(""), &user).await.status(), 200);
    assert_eq!(ask(&app.url(""), &user).await.status(), 429);
    // Which keys are set is public.
    assert_eq!(client().get(app.url("/api/keys")).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn without_a_limit_no_request_is_refused() {
    let database = postgres::database().await;
    let app = App::start_on(database, &[], ssrf_guard::system_lookup).await;
    let user = app.user(&[]).await;
    for _ in 0..100 {
        assert_eq!(ask(&app.url(""), &user).await.status(), 200);
    }
}
