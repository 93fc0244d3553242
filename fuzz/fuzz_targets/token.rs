//! Any token: no panic, and none is taken but one that was signed here.
//!
//! The first byte chooses: the rest is the token; its header and claims, to be
//! signed well; or what a good token is changed to at one place.

#![no_main]

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chatbot_ui_api::auth::jwt::{Policy, VerifyingKey, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto, encode, get_current_timestamp};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde_json::{Value, json};

const SECRET: &[u8] = b"a secret of sixteen bytes or more";
const USER: &str = "5f6c1d9e-0000-4000-8000-000000000001";

static KEY: LazyLock<VerifyingKey> = LazyLock::new(|| VerifyingKey::hs256(SECRET));

static GOOD: LazyLock<String> = LazyLock::new(|| {
    let claims = json!({ "sub": USER, "aud": "authenticated", "exp": get_current_timestamp() + 86_400 });
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET)).expect("signs")
});

fuzz_target!(|data: &[u8]| {
    let Some((&way, rest)) = data.split_first() else { return };
    match way % 3 {
        0 => {
            let token = String::from_utf8_lossy(rest);
            let _ = header(&token);
            assert!(KEY.verify(&token, &Policy::default()).is_err() || token == *GOOD);
        }
        1 => {
            let at = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let (head, claims) = (&rest[..at], rest.get(at + 1..).unwrap_or_default());
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
            let key = EncodingKey::from_secret(SECRET);
            let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).expect("signs");
            let token = format!("{signed}.{signature}");
            let _ = header(&token);
            if KEY.verify(&token, &Policy::default()).is_ok() {
                taken(head, claims);
            }
        }
        _ => {
            let [at, byte, ..] = *rest else { return };
            let mut changed = GOOD.clone().into_bytes();
            let at = usize::from(at) % changed.len();
            // The last character of a part has bits that no byte is made of.
            let last = changed.get(at + 1).is_none_or(|next| *next == b'.');
            if changed[at] == byte || last {
                return;
            }
            changed[at] = byte;
            assert!(KEY.verify(&String::from_utf8_lossy(&changed), &Policy::default()).is_err());
        }
    }
});

#[derive(Deserialize)]
struct Head {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Value,
    exp: f64,
    nbf: Option<Value>,
}

/// Checks what must hold for every accepted token.
fn taken(head: &[u8], claims: &[u8]) {
    let head: Head = serde_json::from_slice(head).expect("a header");
    assert_eq!(head.alg, "HS256");
    let claims: Claims = serde_json::from_slice(claims).expect("claims");
    let now = get_current_timestamp() as f64;
    assert!(claims.exp >= now - 1.0);
    assert!(claims.nbf.and_then(|from| from.as_f64()).is_none_or(|from| from <= now + 1.0));
    let named = |value: &Value| value == "authenticated";
    assert!(named(&claims.aud) || claims.aud.as_array().is_some_and(|audiences| audiences.iter().any(named)));
    assert!(!claims.sub.is_empty());
}
