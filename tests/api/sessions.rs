//! Who is let in: the forms of a session, keys of every kind, and who is not
//! (any more).

use std::{
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::{App as Web, HttpResponse, HttpServer, web};
use futures::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp, jwk::Jwk};
use reqwest::header::{AUTHORIZATION, COOKIE};
use serde_json::{Value, json};

use crate::support::{App, User, chat_body, client, message, tokens};

/// A stand-in for Supabase's auth server: it has a key set and counts who asks.
struct AuthServer {
    url: String,
    keys: Arc<Mutex<Value>>,
    asked: Arc<AtomicUsize>,
}

impl AuthServer {
    fn start(delay: Duration) -> Self {
        let keys = Arc::new(Mutex::new(json!({ "keys": [] })));
        let asked = Arc::new(AtomicUsize::new(0));
        let (set, count) = (keys.clone(), asked.clone());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            let server = HttpServer::new(move || {
                let (set, count) = (set.clone(), count.clone());
                Web::new().default_service(web::to(move || {
                    let (set, count) = (set.clone(), count.clone());
                    async move {
                        count.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(delay).await;
                        let keys = set.lock().expect("no panic").clone();
                        HttpResponse::Ok().json(keys)
                    }
                }))
            });
            let server = server.workers(1).disable_signals().listen(listener).expect("listens").run();
            actix_web::rt::System::new().block_on(server)
        });
        Self { url, keys, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn publish(&self, keys: &[&SigningKey]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
        *self.keys.lock().expect("no panic") = json!({ "keys": keys });
    }
}

struct SigningKey {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl SigningKey {
    fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(include_bytes!("keys/es256.pem")),
            Algorithm::RS256 => EncodingKey::from_rsa_pem(include_bytes!("keys/rs256.pem")),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(include_bytes!("keys/eddsa.pem")),
            other => panic!("{other:?}"),
        };
        Self { id, algorithm, key: key.expect("a key") }
    }

    fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a public key");
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).expect("JSON")
    }

    fn sign(&self, user: &User) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        encode(&header, &claims(user), &self.key).expect("signs")
    }
}

fn claims(user: &User) -> Value {
    json!({
        "sub": user.id,
        "session_id": user.session,
        "aud": "authenticated",
        "role": "authenticated",
        "exp": get_current_timestamp() + 3600,
    })
}

/// Whether a token lets in. Without a key in the profile the answer then is
/// about the key.
async fn lets_in(app: &App, token: &str) -> bool {
    let request = client().post(app.url("/api/chat/openai")).header(AUTHORIZATION, format!("Bearer {token}"));
    let answer = request.body(chat_body().to_string()).send().await.expect("an answer");
    match message(answer).await {
        (500, words) if words == "User not found" => false,
        (500, words) if words.starts_with("OpenAI API Key not found") => true,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keys_of_every_kind_are_fetched_once() {
    let auth = AuthServer::start(Duration::from_millis(100));
    let keys = [
        SigningKey::new("es", Algorithm::ES256),
        SigningKey::new("rs", Algorithm::RS256),
        SigningKey::new("ed", Algorithm::EdDSA),
    ];
    auth.publish(&keys.each_ref());
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let user = app.user(&[]).await;

    let tokens: Vec<String> = keys.iter().map(|key| key.sign(&user)).collect();
    let asked = join_all((0..60).map(|number| lets_in(&app, &tokens[number % 3]))).await;
    assert!(asked.into_iter().all(|let_in| let_in));
    assert_eq!(auth.asked(), 1);
}

#[tokio::test]
async fn made_up_key_ids_cause_no_traffic_and_hold_nobody_up() {
    let auth = AuthServer::start(Duration::from_millis(500));
    let known = SigningKey::new("known", Algorithm::ES256);
    auth.publish(&[&known]);
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let user = app.user(&[]).await;
    assert!(lets_in(&app, &known.sign(&user)).await);

    let unknown = SigningKey::new("unknown", Algorithm::ES256);
    let refused = join_all((0..50).map(|_| async { lets_in(&app, &unknown.sign(&user)).await })).await;
    assert!(refused.into_iter().all(|let_in| !let_in));
    assert_eq!(auth.asked(), 1, "the last fetch was a moment ago");
    let started = Instant::now();
    assert!(lets_in(&app, &known.sign(&user)).await);
    assert!(started.elapsed() < Duration::from_millis(400));
}

#[tokio::test]
async fn a_new_key_is_fetched_once_the_floor_has_passed() {
    let auth = AuthServer::start(Duration::ZERO);
    let app = App::start(&[("SUPABASE_URL", &auth.url), ("SUPABASE_JWKS_URL", "http://127.0.0.1:9/jwks")]).await;
    let user = app.user(&[]).await;
    assert!(!lets_in(&app, &SigningKey::new("a", Algorithm::ES256).sign(&user)).await, "nobody listens there");
    assert_eq!(auth.asked(), 0, "the setting wins over the default");
}

#[tokio::test]
async fn the_algorithm_is_the_keys_and_not_the_tokens() {
    let auth = AuthServer::start(Duration::ZERO);
    let rsa = SigningKey::new("rs", Algorithm::RS256);
    auth.publish(&[&rsa]);
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let user = app.user(&[]).await;
    assert!(lets_in(&app, &rsa.sign(&user)).await);

    // HS256 with the public key as the secret, in the forms it is passed around in.
    let public = rsa.public();
    for secret in [public.to_string(), public["n"].as_str().expect("n").to_owned()] {
        for id in [Some("rs"), None] {
            let mut header = Header::new(Algorithm::HS256);
            header.kid = id.map(str::to_owned);
            let token = encode(&header, &claims(&user), &EncodingKey::from_secret(secret.as_bytes())).expect("signs");
            assert!(!lets_in(&app, &token).await);
        }
    }
    // The key's own id, another key's signature; and headers that bring keys.
    assert!(!lets_in(&app, &SigningKey::new("rs", Algorithm::ES256).sign(&user)).await);
    let es = SigningKey::new("rs", Algorithm::ES256);
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("mine".to_owned());
    header.jku = Some(format!("{}/mine", auth.url));
    header.x5u = Some(format!("{}/mine", auth.url));
    header.jwk = Some(serde_json::from_value(es.public()).expect("a key"));
    let before = auth.asked();
    assert!(!lets_in(&app, &encode(&header, &claims(&user), &es.key).expect("signs")).await);
    assert!(auth.asked() <= before + 1);
}

#[tokio::test]
async fn whoever_is_gone_is_refused_at_once_without_asking_the_auth_server() {
    let auth = AuthServer::start(Duration::ZERO);
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let changes = [
        "delete from auth.sessions where user_id = $1",
        "update auth.sessions set not_after = now() - interval '1 second' where user_id = $1",
        "update auth.users set banned_until = now() + interval '1 hour' where id = $1",
        "update auth.users set deleted_at = now() where id = $1",
        "delete from auth.users where id = $1",
    ];
    for change in changes {
        let user = app.user(&[]).await;
        let token = tokens::access_token(user.id, user.session);
        assert!(lets_in(&app, &token).await, "{change}");
        sqlx::query(change).bind(user.id).execute(&app.db).await.expect(change);
        assert!(!lets_in(&app, &token).await, "{change}");
    }
    let user = app.user(&[]).await;
    let past = "update auth.users set banned_until = now() - interval '1 second' where id = $1";
    sqlx::query(past).bind(user.id).execute(&app.db).await.expect("a ban that is over");
    assert!(lets_in(&app, &tokens::access_token(user.id, user.session)).await);
    // Somebody else's session is none.
    let other = app.user(&[]).await;
    assert!(!lets_in(&app, &tokens::access_token(user.id, other.session)).await);
    assert_eq!(auth.asked(), 0);
}

#[tokio::test]
async fn without_a_look_into_the_database_the_token_decides() {
    let app = App::start(&[("SESSION_CHECK", "token")]).await;
    sqlx::query("revoke usage on schema auth from chatbot_ui_api").execute(&app.db).await.expect("revokes");
    let user = app.user(&[]).await;
    sqlx::query("delete from auth.sessions where user_id = $1")
        .bind(user.id)
        .execute(&app.db)
        .await
        .expect("signs out");
    assert!(lets_in(&app, &tokens::access_token(user.id, user.session)).await);
    sqlx::query("delete from auth.users where id = $1").bind(user.id).execute(&app.db).await.expect("deletes");
    let request = client().post(app.url("/api/chat/openai")).header(AUTHORIZATION, user.bearer());
    let answer = request.body(chat_body().to_string()).send().await.expect("an answer");
    assert_eq!(message(answer).await, (500, "Profile not found".to_owned()));
}

#[tokio::test]
async fn the_cookie_goes_before_the_bearer() {
    let app = App::start(&[]).await;
    let user = app.user(&[]).await;
    let session =
        json!({ "access_token": tokens::access_token(user.id, user.session), "refresh_token": "r", "expires_at": 1 });
    let ask = |cookie: String| {
        let request = client()
            .post(app.url("/api/chat/openai"))
            .header(AUTHORIZATION, "Bearer a.proxys.own")
            .header(COOKIE, cookie);
        request.body(chat_body().to_string()).send()
    };
    let answer = ask(format!("sb-127-auth-token={session}")).await.expect("an answer");
    assert!(message(answer).await.1.starts_with("OpenAI API Key not found"));
    let answer = ask("other=1".to_owned()).await.expect("an answer");
    assert_eq!(message(answer).await, (500, "User not found".to_owned()));
}

#[tokio::test]
async fn clients_that_ask_and_leave_cause_one_fetch() {
    let auth = AuthServer::start(Duration::from_millis(600));
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let user = app.user(&[]).await;
    let key = SigningKey::new("made-up", Algorithm::ES256);
    for _ in 0..10 {
        let token = key.sign(&user);
        let asked = tokio::time::timeout(Duration::from_millis(50), lets_in(&app, &token)).await;
        assert!(asked.is_err(), "the fetch takes longer");
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(auth.asked(), 1);
}

#[tokio::test]
async fn another_sites_cookie_may_hold_anything() {
    let app = App::start(&[]).await;
    let user = app.user(&[]).await;
    let session = json!({ "access_token": tokens::access_token(user.id, user.session) });
    let mut cookie = b"theme=caf\xe9; sb-127-auth-token=".to_vec();
    cookie.extend_from_slice(session.to_string().as_bytes());
    let cookie = reqwest::header::HeaderValue::from_bytes(&cookie).expect("a header");
    let request = client().post(app.url("/api/chat/openai")).header(COOKIE, cookie);
    let answer = request.body(chat_body().to_string()).send().await.expect("an answer");
    assert!(message(answer).await.1.starts_with("OpenAI API Key not found"));
}
