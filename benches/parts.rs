//! Costs per event and per request: `cargo bench --bench parts`.

use std::{hint::black_box, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chatbot_ui_api::{
    auth::{
        cookie, jwt,
        jwt::{Policy, VerifyingKey},
    },
    cli::session,
    llm::{
        answer::{Output, openai},
        sse::{Decoder, Event, EventTooLarge},
    },
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, jwk::Jwk};
use serde_json::json;
use uuid::Uuid;

const SECRET: &[u8] = b"a secret of the bench that has at least 32 characters";
const EVENTS: usize = 1000;

/// Events of a provider: the fields of OpenAI's chunks, with the padding that hides the length of a word.
fn events() -> Vec<String> {
    let words = ["The", " river", " carries", " salt,", " \\\"quietly\\\"", ".\\n", " Salz für die Küste", " 塩"];
    let event = |number: usize| {
        format!(
            r#"{{"id":"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012","object":"chat.completion.chunk","created":1718345013,"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_44709d6fcb","choices":[{{"index":0,"delta":{{"content":"{}"}},"logprobs":null,"finish_reason":null}}],"usage":null,"obfuscation":"{}"}}"#,
            words[number % words.len()],
            &"aZ3bY9cX1dW7"[number % 8..]
        )
    };
    (0..EVENTS).map(event).collect()
}

fn streams(criterion: &mut Criterion) {
    let events = events();
    let stream: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let mut group = criterion.benchmark_group("events");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for size in [256, 16 * 1024] {
        group.bench_function(format!("decoder, reads of {size} bytes"), |bencher| {
            bencher.iter(|| {
                let (mut decoder, mut bytes) = (Decoder::new(16 * 1024 * 1024), 0);
                for part in stream.as_bytes().chunks(size) {
                    let counted = decoder.push(part, |event| {
                        bytes += event.data.len();
                        Ok::<(), EventTooLarge>(())
                    });
                    counted.expect("small");
                }
                bytes
            });
        });
    }
    group.bench_function("openai's deltas", |bencher| {
        bencher.iter(|| {
            let (mut reader, mut out) = (openai::Reader::default(), Output::default());
            for event in &events {
                reader.read(Event { name: b"", data: event.as_bytes() }, &mut out).expect("understood");
            }
            out.text.len()
        });
    });
    group.finish();
}

fn sessions(criterion: &mut Criterion) {
    let (user, id) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let lifetime = Duration::from_hours(1);
    let shared =
        session::access_token(session::Signer::Secret(SECRET), user, "bench@example.com", id, lifetime).expect("signs");
    let (secret, policy) = (VerifyingKey::hs256(SECRET), Policy::default());
    let private = EncodingKey::from_ec_pem(include_bytes!("../tests/api/keys/es256.pem")).expect("a key");
    let public = Jwk::from_encoding_key(&private, Algorithm::ES256).expect("its public half");
    let public = VerifyingKey::new(DecodingKey::from_jwk(&public).expect("a key"), Algorithm::ES256);
    let claims = json!({
        "sub": user, "session_id": id, "aud": "authenticated", "role": "authenticated", "exp": 4_102_444_800_u64,
    });
    let signed = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &private).expect("signs");
    let details = "what else Supabase keeps of its user, some thousand bytes ".repeat(60);
    let json = json!({ "access_token": shared, "refresh_token": "r", "user": { "id": user, "details": details } });
    let value = format!("base64-{}", URL_SAFE_NO_PAD.encode(json.to_string()));
    let parts = value.as_bytes().chunks(3180).enumerate();
    let cookie: String =
        parts.map(|(number, part)| format!("sb-127-auth-token.{number}={}; ", String::from_utf8_lossy(part))).collect();

    let mut group = criterion.benchmark_group("session");
    group.bench_function("token, HS256", |bencher| {
        bencher.iter(|| {
            jwt::header(black_box(&shared)).expect("a JWT");
            secret.verify(black_box(&shared), &policy).expect("good").user
        });
    });
    group.bench_function("token, ES256", |bencher| {
        bencher.iter(|| {
            jwt::header(black_box(&signed)).expect("a JWT");
            public.verify(black_box(&signed), &policy).expect("good").user
        });
    });
    group.bench_function(format!("cookie in chunks, {} bytes", cookie.len()), |bencher| {
        bencher.iter(|| cookie::session("sb-127-auth-token", [black_box(cookie.as_str())].into_iter()).expect("one"));
    });
    group.finish();
}

criterion_group!(benches, streams, sessions);
criterion_main!(benches);
