//! A session whose access token has run out: refreshed once, used, and handed
//! back in the form in which it came.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CACHE_CONTROL, COOKIE, SET_COOKIE};
use serde_json::{Value, json};

use crate::support::{
    App, User, chat_body, client, message,
    supabase::{ANON_KEY, Supabase},
    tokens,
    upstream::Recorded,
};

/// An auth server that has one new session for a user, with so much in it; a
/// refresh token that comes again is refused.
fn auth_server(user: User, delay: Duration, size: usize) -> Supabase {
    let supabase = Supabase::start();
    supabase.project.delay(delay);
    supabase.project.grant("refresh_token", json!({ "refresh_token": "good" }), 1, move || {
        json!({
            "access_token": tokens::access_token(user.id, user.session),
            "token_type": "bearer",
            "expires_in": 3600,
            "refresh_token": "next",
            "user": { "id": user.id, "about": "ö;%".repeat(size) },
        })
    });
    supabase
}

/// The requests for a new session; the key set may be fetched besides.
fn refreshes(auth: &Supabase) -> Vec<Recorded> {
    auth.requests().into_iter().filter(|request| request.path == "/auth/v1/token").collect()
}

/// A server, its user, and an auth server that knows the user.
async fn start(delay: Duration, size: usize, anon: &str) -> (App, User, Supabase) {
    // The auth server must know the user before the server is told of it.
    let user = User { id: uuid::Uuid::new_v4(), session: uuid::Uuid::new_v4() };
    let auth = auth_server(user, delay, size);
    let most = ("MAX_STREAMS_PER_USER", "64");
    let app = App::start(&[("SUPABASE_URL", &auth.url), ("NEXT_PUBLIC_SUPABASE_ANON_KEY", anon), most]).await;
    user.insert(&app.db).await;
    (app, user, auth)
}

fn expired(user: &User) -> String {
    let mut claims = tokens::claims(user.id, user.session);
    claims["exp"] = (jsonwebtoken::get_current_timestamp() - 5).into();
    tokens::sign(&claims, tokens::SECRET)
}

/// The cookie's value for a form: raw JSON or base64url.
fn value(session: &Value, base64: bool) -> String {
    if base64 { format!("base64-{}", URL_SAFE_NO_PAD.encode(session.to_string())) } else { session.to_string() }
}

/// The `Cookie` header for a value, whole or in two.
fn cookie(value: &str, chunked: bool) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    if !chunked {
        return format!("sb-127-auth-token={}", encode(value));
    }
    let (one, two) = value.split_at(value.len() / 2);
    format!("sb-127-auth-token.0={}; sb-127-auth-token.1={}", encode(one), encode(two))
}

async fn ask(app: &App, cookie: &str) -> reqwest::Response {
    let request = client().post(app.url("/api/chat/openai")).header(COOKIE, cookie);
    request.body(chat_body().to_string()).send().await.expect("an answer")
}

/// True for the answer that a signed-in user without a key gets.
async fn is_in(answer: reqwest::Response) -> bool {
    message(answer).await.1.starts_with("OpenAI API Key not found")
}

/// The `Cookie` header of a browser that had `cookie` and got `answer`.
fn next_cookie(cookie: &str, answer: &reqwest::Response) -> String {
    let mut jar: Vec<(String, String)> = cookie
        .split("; ")
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for set in answer.headers().get_all(SET_COOKIE) {
        let set = set.to_str().expect("ascii");
        let (pair, attributes) = set.split_once(';').expect("attributes");
        assert!(attributes.contains("Path=/") && attributes.contains("SameSite=lax"), "{set}");
        let (name, value) = pair.split_once('=').expect("a pair");
        assert!(name.len() + value.len() < 4096, "no browser keeps it");
        jar.retain(|(known, _)| known != name);
        if !attributes.contains("Max-Age=0") {
            jar.push((name.to_owned(), value.to_owned()));
        }
    }
    jar.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn thirty_requests_with_a_spent_token_are_one_refresh() {
    for (base64, chunked, size) in [(false, false, 1), (false, true, 1500), (true, false, 1), (true, true, 1500)] {
        let (app, user, auth) = start(Duration::from_millis(200), size, ANON_KEY).await;
        let session = json!({ "access_token": expired(&user), "refresh_token": "good", "expires_at": 1, "user": {} });
        let cookie = cookie(&value(&session, base64), chunked);

        let answers = join_all((0..30).map(|_| ask(&app, &cookie))).await;
        let [request] = &refreshes(&auth)[..] else { panic!("one, with base64 {base64}, chunked {chunked}") };
        assert_eq!(request.query, [("grant_type".to_owned(), "refresh_token".to_owned())]);
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {ANON_KEY}")));
        assert_eq!(request.body, br#"{"refresh_token":"good"}"#);
        let next = next_cookie(&cookie, &answers[0]);
        assert_eq!(next.contains(".0="), chunked, "{next}");
        assert_eq!(next.contains("base64-"), base64, "{next}");
        for answer in answers {
            assert_eq!(next_cookie(&cookie, &answer), next, "all hand the same back: {answer:?}");
            assert!(is_in(answer).await);
        }
        // The next request has the new session, and the auth server gets none.
        let answer = ask(&app, &next).await;
        assert!(!answer.headers().contains_key(SET_COOKIE));
        assert!(is_in(answer).await);
        assert_eq!(refreshes(&auth).len(), 1);
    }
}

/// A cache that kept one would give the session to its next client.
#[tokio::test]
async fn no_cache_keeps_an_answer_with_a_session_in_it() {
    let (app, user, _auth) = start(Duration::ZERO, 1, ANON_KEY).await;
    let session = json!({ "access_token": expired(&user), "refresh_token": "good", "expires_at": 1 });
    let cookie = cookie(&value(&session, true), false);
    for (path, body, status) in [
        ("/api/username/available", r#"{"username":"x"}"#, 200),
        ("/api/chat/openai", "{}", 500),
        ("/api/retrieval/process", "", 400),
    ] {
        let request = client().post(app.url(path)).header(COOKIE, &cookie).body(body);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{path}");
        assert!(answer.headers().contains_key(SET_COOKIE), "{path}");
        let said: Vec<_> = answer.headers().get_all(CACHE_CONTROL).iter().collect();
        assert_eq!(said, ["private, no-store, no-transform"], "{path}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_lose_the_new_session() {
    let (app, user, auth) = start(Duration::from_millis(300), 1, ANON_KEY).await;
    let session = json!({ "access_token": expired(&user), "refresh_token": "good", "expires_at": 1 });
    let cookie = cookie(&value(&session, true), false);
    let left = tokio::time::timeout(Duration::from_millis(100), ask(&app, &cookie)).await;
    assert!(left.is_err(), "the first client does not wait");
    assert!(is_in(ask(&app, &cookie).await).await);
    assert_eq!(refreshes(&auth).len(), 1);
}

#[tokio::test]
async fn what_cannot_be_refreshed_is_refused() {
    let not_found = (500, "User not found".to_owned());
    let (app, user, auth) = start(Duration::ZERO, 1, ANON_KEY).await;
    let with = |refresh: &str| {
        cookie(
            &value(&json!({ "access_token": expired(&user), "refresh_token": refresh, "expires_at": 1 }), false),
            false,
        )
    };
    let answer = ask(&app, &with("bad")).await;
    assert!(!answer.headers().contains_key(SET_COOKIE));
    assert_eq!(message(answer).await, not_found);
    assert_eq!(message(ask(&app, &with("")).await).await, not_found);
    assert_eq!(refreshes(&auth).len(), 1, "not for an empty one");

    // A token that is bad for another reason is not refreshed.
    let foreign = tokens::sign(&tokens::claims(user.id, user.session), "another secret of some length");
    let session = json!({ "access_token": foreign, "refresh_token": "good", "expires_at": 1 });
    assert_eq!(message(ask(&app, &cookie(&value(&session, false), false)).await).await, not_found);
    // Nor is a bearer.
    let request = client().post(app.url("/api/chat/openai")).bearer_auth(expired(&user));
    assert_eq!(message(request.body(chat_body().to_string()).send().await.expect("an answer")).await.0, 401);
    assert_eq!(refreshes(&auth).len(), 1);
}

/// The answer while the auth server cannot tell if a session is good.
fn unavailable() -> (u16, String) {
    (503, "The sign-in service is not available. Please try again in a moment.".to_owned())
}

#[tokio::test]
async fn an_auth_server_that_fails_or_limits_its_rate_signs_nobody_out() {
    for status in [429, 500, 502] {
        let (app, user, auth) = start(Duration::ZERO, 1, ANON_KEY).await;
        auth.project.fail(Some(status));
        let session = json!({ "access_token": expired(&user), "refresh_token": "good", "expires_at": 1 });
        let cookie = cookie(&value(&session, true), false);
        assert_eq!(message(ask(&app, &cookie).await).await, unavailable(), "{status}");
        auth.project.fail(None);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (_, words) = message(ask(&app, &cookie).await).await;
            if words.starts_with("OpenAI API Key not found") {
                break;
            }
            assert!(Instant::now() < deadline, "the failure is kept: {words}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn without_an_anon_key_or_an_auth_server_there_is_an_answer_in_time() {
    let not_found = (500, "User not found".to_owned());
    for (delay, anon, expected) in [(Duration::ZERO, "", not_found), (Duration::from_secs(30), ANON_KEY, unavailable())]
    {
        let (app, user, _auth) = start(delay, 1, anon).await;
        let session = json!({ "access_token": expired(&user), "refresh_token": "good", "expires_at": 1 });
        let started = Instant::now();
        assert_eq!(message(ask(&app, &cookie(&value(&session, true), false)).await).await, expected);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}
