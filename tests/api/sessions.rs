//! Authentication: the forms of a session, signing keys of every kind, and
//! sessions that are invalid or have ended.

use std::time::{Duration, Instant};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use futures::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp, jwk::Jwk};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, COOKIE};
use serde_json::{Value, json};

use crate::support::{App, User, chat_body, client, message, supabase::Supabase, tokens};

/// A project whose auth server takes this long.
fn auth_server(delay: Duration) -> Supabase {
    let supabase = Supabase::start();
    supabase.project.delay(delay);
    supabase
}

fn publish(supabase: &Supabase, keys: &[&SigningKey]) {
    supabase.project.publish(keys.iter().map(|key| key.public()).collect());
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

/// True if the token is accepted: without a key in the profile the answer is
/// then about the key.
async fn lets_in(app: &App, token: &str) -> bool {
    let request = client().post(app.url("/api/chat/openai")).header(AUTHORIZATION, format!("Bearer {token}"));
    let answer = request.body(chat_body().to_string()).send().await.expect("an answer");
    match message(answer).await {
        (401 | 503, _) => false,
        (500, words) if words.starts_with("OpenAI API Key not found") => true,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keys_of_every_kind_are_fetched_once() {
    let auth = auth_server(Duration::from_millis(100));
    let keys = [
        SigningKey::new("es", Algorithm::ES256),
        SigningKey::new("rs", Algorithm::RS256),
        SigningKey::new("ed", Algorithm::EdDSA),
    ];
    publish(&auth, &keys.each_ref());
    let app = App::start(&[("SUPABASE_URL", &auth.url), ("MAX_STREAMS_PER_USER", "100")]).await;
    let user = app.user(&[]).await;

    let tokens: Vec<String> = keys.iter().map(|key| key.sign(&user)).collect();
    let asked = join_all((0..60).map(|number| lets_in(&app, &tokens[number % 3]))).await;
    assert!(asked.into_iter().all(|let_in| let_in));
    assert_eq!(auth.asked(), 1);
}

#[tokio::test]
async fn the_key_set_is_requested_with_the_anon_key_and_its_outage_is_no_refusal() {
    let auth = auth_server(Duration::ZERO);
    let key = SigningKey::new("es", Algorithm::ES256);
    publish(&auth, &[&key]);
    for (status, expected) in [(Some(503), 503), (Some(404), 401), (None, 500)] {
        auth.project.fail(status);
        let app = App::start(&[("SUPABASE_URL", &auth.url), ("SUPABASE_ANON_KEY", "the-anon-key")]).await;
        let user = app.user(&[]).await;
        let request = client().post(app.url("/api/chat/openai")).bearer_auth(key.sign(&user));
        let answer = request.body(chat_body().to_string()).send().await.expect("an answer");
        assert_eq!(answer.status(), expected, "{status:?}");
    }
    assert!(auth.requests().iter().all(|request| request.header("apikey") == Some("the-anon-key")));
}

#[tokio::test]
async fn made_up_key_ids_cause_no_traffic_and_delay_no_other_request() {
    let auth = auth_server(Duration::from_millis(1500));
    let known = SigningKey::new("known", Algorithm::ES256);
    publish(&auth, &[&known]);
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let user = app.user(&[]).await;
    assert!(lets_in(&app, &known.sign(&user)).await);

    let unknown = SigningKey::new("unknown", Algorithm::ES256);
    let refused = join_all((0..50).map(|_| async { lets_in(&app, &unknown.sign(&user)).await })).await;
    assert!(refused.into_iter().all(|let_in| !let_in));
    assert_eq!(auth.asked(), 1, "the last fetch was a moment ago");
    let started = Instant::now();
    assert!(lets_in(&app, &known.sign(&user)).await);
    assert!(started.elapsed() < Duration::from_millis(1200));
}

#[tokio::test]
async fn the_key_set_is_fetched_from_the_url_that_is_set() {
    let auth = auth_server(Duration::ZERO);
    let app = App::start(&[("SUPABASE_URL", &auth.url), ("SUPABASE_JWKS_URL", "http://127.0.0.1:9/jwks")]).await;
    let user = app.user(&[]).await;
    assert!(!lets_in(&app, &SigningKey::new("a", Algorithm::ES256).sign(&user)).await, "nobody listens there");
    assert_eq!(auth.asked(), 0, "the setting wins over the default");
}

#[tokio::test]
async fn the_algorithm_is_the_keys_and_not_the_tokens() {
    let auth = auth_server(Duration::ZERO);
    let rsa = SigningKey::new("rs", Algorithm::RS256);
    publish(&auth, &[&rsa]);
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
async fn users_and_sessions_that_ended_are_refused_at_once_without_the_auth_server() {
    let auth = auth_server(Duration::ZERO);
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
    // Another user's session does not count.
    let other = app.user(&[]).await;
    assert!(!lets_in(&app, &tokens::access_token(user.id, other.session)).await);
    assert!(auth.asked() <= 1, "its key set may be, once: the tokens are signed with a published secret");
}

#[tokio::test]
async fn without_a_look_into_the_database_the_token_decides() {
    let app = App::start(&[("SESSION_CHECK", "token")]).await;
    sqlx::query("revoke usage on schema chatbot_ui_api from chatbot_ui_api").execute(&app.db).await.expect("revokes");
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
    assert_eq!(message(answer).await.0, 401, "the bearer is what is left");
}

#[tokio::test]
async fn clients_that_ask_and_leave_cause_one_fetch() {
    let auth = auth_server(Duration::from_millis(600));
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let user = app.user(&[]).await;
    let key = SigningKey::new("made-up", Algorithm::ES256);
    for _ in 0..10 {
        let token = key.sign(&user);
        let asked = tokio::time::timeout(Duration::from_millis(50), lets_in(&app, &token)).await;
        assert!(asked.is_err(), "the fetch takes longer");
    }
    // One that stays is answered when the fetch is over.
    assert!(!lets_in(&app, &key.sign(&user)).await);
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

/// [`lets_in`], with this cookie.
async fn lets_in_by_cookie(app: &App, cookie: &str) -> bool {
    let request = client().post(app.url("/api/chat/openai")).header(COOKIE, cookie);
    let (status, words) = message(request.body(chat_body().to_string()).send().await.expect("an answer")).await;
    assert_eq!(status, 500);
    words != "User not found"
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[tokio::test]
async fn a_token_without_a_signature_is_refused() {
    let auth = auth_server(Duration::ZERO);
    let rsa = SigningKey::new("rs", Algorithm::RS256);
    publish(&auth, &[&rsa]);
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let user = app.user(&[]).await;
    let good = rsa.sign(&user);
    assert!(lets_in(&app, &good).await);
    let signature = good.rsplit('.').next().expect("three parts").to_owned();
    for algorithm in ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", "rs256", "null"] {
        for id in [json!("rs"), json!(""), Value::Null] {
            let header = part(&json!({ "alg": algorithm, "typ": "JWT", "kid": id }));
            let signed = format!("{header}.{}", part(&claims(&user)));
            for token in [format!("{signed}."), signed.clone(), format!("{signed}.{signature}"), format!("{signed}.AA")]
            {
                assert!(!lets_in(&app, &token).await, "{algorithm:?} {id}");
            }
        }
    }
    for header in
        [json!({ "typ": "JWT" }), json!({ "alg": 7 }), json!({ "alg": ["RS256", "none"] }), json!([]), json!("RS256")]
    {
        assert!(!lets_in(&app, &format!("{}.{}.{signature}", part(&header), part(&claims(&user)))).await, "{header}");
    }
}

#[tokio::test]
async fn a_public_key_is_not_accepted_as_a_secret_in_any_form() {
    let auth = auth_server(Duration::ZERO);
    let rsa = SigningKey::new("rs", Algorithm::RS256);
    publish(&auth, &[&rsa]);
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let user = app.user(&[]).await;
    let jwk = rsa.public();
    let number = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().expect(name)).expect("base64");
    let der = public_key_der(&number("n"), &number("e"));
    let base64 = STANDARD.encode(&der);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ascii")).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
    // The library itself takes it for the key that it is.
    assert!(jsonwebtoken::DecodingKey::from_rsa_pem(pem.as_bytes()).is_ok());
    let set = json!({ "keys": [jwk] });
    let secrets = [
        pem.clone().into_bytes(),
        format!("{pem}\n").into_bytes(),
        der,
        base64.into_bytes(),
        jwk.to_string().into_bytes(),
        set.to_string().into_bytes(),
        number("n"),
    ];
    for secret in secrets {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            for id in [Some("rs"), Some("other"), None] {
                let mut header = Header::new(algorithm);
                header.kid = id.map(str::to_owned);
                let token = encode(&header, &claims(&user), &EncodingKey::from_secret(&secret)).expect("signs");
                assert!(!lets_in(&app, &token).await, "{algorithm:?} {id:?}");
            }
        }
    }
}

/// A SubjectPublicKeyInfo for RSA.
fn public_key_der(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let tagged = |tag: u8, content: &[u8]| {
        let length = content.len();
        let mut out = vec![tag];
        match length {
            0..128 => out.push(u8::try_from(length).expect("small")),
            _ => out.extend([
                0x82,
                u8::try_from(length >> 8).expect("small"),
                u8::try_from(length & 255).expect("small"),
            ]),
        }
        out.extend_from_slice(content);
        out
    };
    let number = |bytes: &[u8]| tagged(2, &[&[0][..usize::from(bytes[0] >= 128)], bytes].concat());
    let key = tagged(0x30, &[number(modulus), number(exponent)].concat());
    // rsaEncryption, without parameters.
    let algorithm = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];
    // The bits of the key, without unused ones.
    tagged(0x30, &[&algorithm[..], &tagged(3, &[&[0], key.as_slice()].concat())].concat())
}

#[tokio::test]
async fn a_token_may_not_bring_its_key_or_say_where_it_is() {
    let (auth, attackers) = (auth_server(Duration::ZERO), auth_server(Duration::ZERO));
    let ours = SigningKey::new("ours", Algorithm::RS256);
    let theirs = SigningKey::new("theirs", Algorithm::ES256);
    publish(&auth, &[&ours]);
    publish(&attackers, &[&theirs]);
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let user = app.user(&[]).await;
    let jwk = || Some(serde_json::from_value(theirs.public()).expect("a key"));
    for id in [Some("theirs"), Some("ours"), Some("../../theirs"), Some(&*"k".repeat(10_000)), Some("\0"), None] {
        for url in [format!("{}/jwks", attackers.url), "file:///dev/stdin".to_owned()] {
            let header = Header {
                kid: id.map(str::to_owned),
                jku: Some(url.clone()),
                x5u: Some(url.clone()),
                jwk: jwk(),
                ..Header::new(Algorithm::ES256)
            };
            let token = encode(&header, &claims(&user), &theirs.key).expect("signs");
            assert!(!lets_in(&app, &token).await, "{:.20?}", id);
        }
    }
    assert_eq!(attackers.asked(), 0, "what a token names is never asked");
    assert!(lets_in(&app, &ours.sign(&user)).await);
}

#[tokio::test]
async fn whose_token_and_when() {
    let auth = auth_server(Duration::ZERO);
    let key = SigningKey::new("ours", Algorithm::ES256);
    publish(&auth, &[&key]);
    // The published secret does not count beside a key set of the project's own.
    const OWN_SECRET: &str = "a secret of this project alone, long enough";
    let app = App::start(&[("SUPABASE_URL", &auth.url), ("SUPABASE_JWT_SECRET", OWN_SECRET)]).await;
    let user = app.user(&[]).await;
    let now = get_current_timestamp();
    let lets = async |change: &dyn Fn(&mut Value)| {
        let mut claims = claims(&user);
        change(&mut claims);
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("ours".to_owned());
        let asymmetric = encode(&header, &claims, &key.key).expect("signs");
        let symmetric = tokens::sign(&claims, OWN_SECRET);
        let both = (lets_in(&app, &asymmetric).await, lets_in(&app, &symmetric).await);
        assert_eq!(both.0, both.1, "{claims}");
        both.0
    };
    assert!(lets(&|_| {}).await);
    assert!(lets(&|claims| claims["nbf"] = json!(now - 1)).await);
    for (what, value) in [
        ("aud", json!("anon")),
        ("aud", json!("")),
        ("aud", json!(["service_role"])),
        ("aud", Value::Null),
        ("exp", json!(now - 1)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!("9999999999")),
        ("exp", Value::Null),
        ("nbf", json!(now + 60)),
        ("sub", json!("")),
        ("sub", Value::Null),
        ("sub", json!("00000000-0000-0000-0000-000000000000")),
    ] {
        assert!(!lets(&|claims| claims[what] = value.clone()).await, "{what} {value}");
    }
    for missing in ["aud", "exp", "sub"] {
        assert!(!lets(&|claims| drop(claims.as_object_mut().expect("claims").remove(missing))).await, "no {missing}");
    }
}

#[tokio::test]
async fn a_projects_keys_and_anothers_tokens_are_no_sessions() {
    let auth = auth_server(Duration::ZERO);
    let ours = SigningKey::new("ours", Algorithm::RS256);
    publish(&auth, &[&ours]);
    let app = App::start(&[("SUPABASE_URL", &auth.url)]).await;
    let user = app.user(&[]).await;
    let legacy = |role: &str| {
        tokens::sign(
            &json!({ "iss": "supabase", "ref": "abc", "role": role, "iat": 1, "exp": 1_983_812_996 }),
            tokens::SECRET,
        )
    };
    let foreign_key = SigningKey::new("ours", Algorithm::ES256);
    let mut keys: Vec<String> = ["anon", "service_role", "authenticated"].map(legacy).into();
    keys.extend(
        ["sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH", "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"]
            .map(str::to_owned),
    );
    // Another project's: signed with its secret, or with its key under our key's id.
    keys.push(tokens::sign(&claims(&user), "another-secret-that-is-also-long-enough-for-hs256"));
    keys.push(foreign_key.sign(&user));
    for key in keys {
        assert!(!lets_in(&app, &key).await, "{key}");
        for value in [
            key.clone(),
            json!({ "access_token": key, "refresh_token": "r" }).to_string(),
            json!([key, "r"]).to_string(),
        ] {
            let cookie = format!("{}={}", tokens::COOKIE, utf8_percent_encode(&value, NON_ALPHANUMERIC));
            assert!(!lets_in_by_cookie(&app, &cookie).await, "{value}");
        }
    }
    // A good session in another project's cookie.
    let session = tokens::session_json(&ours.sign(&user)).to_string();
    let session = utf8_percent_encode(&session, NON_ALPHANUMERIC);
    assert!(lets_in_by_cookie(&app, &format!("{}={session}", tokens::COOKIE)).await);
    assert!(!lets_in_by_cookie(&app, &format!("sb-other-auth-token={session}")).await);
}

#[tokio::test]
async fn a_cookie_bomb_costs_its_bytes_and_no_more() {
    let app = App::start(&[]).await;
    let name = tokens::COOKIE;
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let session = |token: &str| json!({ "access_token": token }).to_string();
    let bombs = [
        ("many chunks", (0..2000).map(|number| format!("{name}.{number}=x; ")).collect::<String>()),
        ("one chunk again and again", format!("{name}.99=x; ").repeat(2000)),
        ("a huge chunk", format!("{name}.0={}", "x".repeat(60_000))),
        ("deep", format!("{name}={}", deep(30_000))),
        ("deep in base64", format!("{name}=base64-{}", URL_SAFE_NO_PAD.encode(deep(20_000)))),
        (
            "deep beside the token",
            format!(
                "{name}={}",
                json!({ "access_token": "a.b.c", "user": "DEEP" }).to_string().replace("\"DEEP\"", &deep(25_000))
            ),
        ),
        ("a long token", format!("{name}={}", session(&"a.b.c".repeat(12_000)))),
        (
            "a long header in the token",
            format!("{name}={}", session(&format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(deep(15_000))))),
        ),
        ("percent signs", format!("{name}={}", "%25".repeat(20_000))),
        ("nothing but names", format!("{name};").repeat(3000)),
    ];
    for (what, cookie) in bombs {
        let started = Instant::now();
        assert!(!lets_in_by_cookie(&app, &cookie).await, "{what}");
        assert!(started.elapsed() < Duration::from_secs(2), "{what}: {:?}", started.elapsed());
    }
    // Megabytes are not read at all.
    let encoded = URL_SAFE_NO_PAD.encode(session(&"x".repeat(3 << 20)));
    let request = client().post(app.url("/api/chat/openai")).header(COOKIE, format!("{name}=base64-{encoded}"));
    match request.send().await {
        Ok(answer) => assert!((400..500).contains(&answer.status().as_u16()), "{}", answer.status()),
        Err(error) => assert!(error.is_request(), "{error}"),
    }
    assert!(
        lets_in(&app, &{
            let user = app.user(&[]).await;
            tokens::access_token(user.id, user.session)
        })
        .await
    );
}
