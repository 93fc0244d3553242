//! Sessions as Supabase makes them, and invalid ones: access tokens of the
//! local stack, the session JSON around them, and each form in which a request
//! can carry it.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// The secret that every local Supabase stack is published with.
pub const SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";

/// The cookie of a project at `http://127.0.0.1:54321`.
pub const COOKIE: &str = "sb-127-auth-token";

/// A secret that no server of these tests knows.
const OTHER_SECRET: &str = "another-secret-that-is-also-long-enough-for-hs256";

const REFRESH_TOKEN: &str = "refresh-token-1";

/// The most that Supabase's clients put into one cookie, in characters.
const COOKIE_PART: usize = 3180;

/// A token's lifetime in seconds.
const LIFE: u64 = 3600;

/// The complement of the characters that `encodeURIComponent` keeps.
const URI_COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// A session, or what a request carries in place of one. The names are those
/// of the conformance cases' `auth`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// One cookie: the session JSON, URI-encoded.
    #[default]
    Cookie,
    /// The older form: `[access, refresh, null, null, null]`.
    CookieArray,
    /// The JSON in parts `.0`, `.1`, …, each URI-encoded.
    CookieChunked,
    /// `base64-` and the JSON in base64url.
    CookieBase64,
    /// The same in parts.
    CookieBase64Chunked,
    /// `Authorization: Bearer`.
    Bearer,
    /// Nothing at all.
    None,
    /// A session that ran out an hour ago.
    Expired,
    /// A token signed with another secret.
    BadSignature,
    /// A token that claims to need no signature.
    AlgNone,
    /// The project's public key in place of a user's token.
    AnonKey,
    /// The project's secret key in place of a user's token.
    ServiceKey,
    /// A token whose `sub` is no UUID.
    BadSub,
    /// A token that was valid until its user was deleted.
    UserDeleted,
    /// A token that was valid until its session was signed out.
    SignedOut,
    /// A cookie that is no session.
    Garbage,
}

impl Auth {
    /// True if `auth.users` still has the token's user.
    pub fn has_user_row(self) -> bool {
        self != Auth::UserDeleted
    }

    /// True if `auth.sessions` still has the token's session.
    pub fn has_session_row(self) -> bool {
        self.has_user_row() && self != Auth::SignedOut
    }
}

/// The headers with which a request carries `auth` for this user and session.
pub fn headers(auth: Auth, user: Uuid, session: Uuid) -> Vec<(String, String)> {
    let claims = claims(user, session);
    let valid = access_token(user, session);
    let but = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        sign(&claims, SECRET)
    };
    // The form in which all but the forms themselves are tried.
    let plain = |token: &str| cookie(&session_json(token).to_string());
    vec![match auth {
        Auth::None => return Vec::new(),
        Auth::Bearer => ("authorization".to_owned(), format!("Bearer {valid}")),
        Auth::Cookie | Auth::UserDeleted | Auth::SignedOut => plain(&valid),
        Auth::CookieArray => cookie(&json!([valid, REFRESH_TOKEN, null, null, null]).to_string()),
        Auth::CookieChunked => cookies(&parts(&long_session(&valid).to_string())),
        Auth::CookieBase64 => cookie(&base64(&session_json(&valid))),
        Auth::CookieBase64Chunked => cookies(&parts(&base64(&long_session(&valid)))),
        Auth::Expired => plain(&but("exp", json!(now() - LIFE))),
        Auth::BadSignature => plain(&sign(&claims, OTHER_SECRET)),
        Auth::AlgNone => plain(&unsigned(&claims)),
        Auth::AnonKey => plain(&api_key("anon")),
        Auth::ServiceKey => plain(&api_key("service_role")),
        Auth::BadSub => plain(&but("sub", json!("not-a-uuid"))),
        Auth::Garbage => cookie("not a session"),
    }]
}

/// A user's access token, good for an hour.
pub fn access_token(user: Uuid, session: Uuid) -> String {
    sign(&claims(user, session), SECRET)
}

/// The claims of such a token; to be changed and signed by tests that need a
/// token with a flaw.
pub fn claims(user: Uuid, session: Uuid) -> Value {
    let now = now();
    json!({
        "iss": "http://127.0.0.1:54321/auth/v1",
        "sub": user,
        "aud": "authenticated",
        "exp": now + LIFE,
        "iat": now,
        "email": email(user),
        "phone": "",
        "app_metadata": { "provider": "email", "providers": ["email"] },
        "user_metadata": {},
        "role": "authenticated",
        "aal": "aal1",
        "amr": [{ "method": "password", "timestamp": now }],
        "session_id": session,
        "is_anonymous": false,
    })
}

/// An HS256 token with these claims.
pub fn sign(claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).expect("claims that can be signed")
}

/// The session that Supabase's clients keep around a token.
pub fn session_json(access_token: &str) -> Value {
    let claims = claims_of(access_token);
    json!({
        "access_token": access_token,
        "token_type": "bearer",
        "expires_in": LIFE,
        "expires_at": claims["exp"],
        "refresh_token": REFRESH_TOKEN,
        "user": {
            "id": claims["sub"],
            "aud": claims["aud"],
            "role": claims["role"],
            "email": claims["email"],
            "phone": "",
            "email_confirmed_at": "2024-01-01T00:00:00.000000Z",
            "last_sign_in_at": "2024-06-22T00:00:00.000000Z",
            "app_metadata": claims["app_metadata"],
            "user_metadata": {},
            "identities": [],
            "created_at": "2024-01-01T00:00:00.000000Z",
            "updated_at": "2024-06-22T00:00:00.000000Z",
            "is_anonymous": false,
        },
    })
}

/// The address of a test's user; no two users have the same.
pub fn email(user: Uuid) -> String {
    format!("{user}@example.com")
}

/// The key with which a project's clients show which role they act in.
fn api_key(role: &str) -> String {
    sign(&json!({ "iss": "supabase-demo", "role": role, "exp": 1_983_812_996 }), SECRET)
}

fn unsigned(claims: &Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let header = json!({ "alg": "none", "typ": "JWT" });
    format!("{}.{}.", encode(&header), encode(claims))
}

fn claims_of(token: &str) -> Value {
    let claims = token.split('.').nth(1).expect("a token of three parts");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("claims in base64url");
    serde_json::from_slice(&claims).expect("claims in JSON")
}

/// The session of a user who has much to say about themselves, in letters that
/// a cookie cannot hold: too long for one part.
fn long_session(access_token: &str) -> Value {
    let mut session = session_json(access_token);
    let about = "Zoë; 100 % naïve, \"quoted\" ";
    session["user"]["user_metadata"] = json!({ "about": about.repeat(COOKIE_PART / about.len() + 1) });
    session
}

fn base64(session: &Value) -> String {
    format!("base64-{}", URL_SAFE_NO_PAD.encode(session.to_string()))
}

/// The cookies that hold a value too long for one.
fn parts(value: &str) -> Vec<(String, String)> {
    let letters: Vec<char> = value.chars().collect();
    letters
        .chunks(COOKIE_PART)
        .enumerate()
        .map(|(index, part)| (format!("{COOKIE}.{index}"), part.iter().collect()))
        .collect()
}

fn cookie(value: &str) -> (String, String) {
    cookies(&[(COOKIE.to_owned(), value.to_owned())])
}

fn cookies(values: &[(String, String)]) -> (String, String) {
    let cookies: Vec<String> =
        values.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, URI_COMPONENT))).collect();
    ("cookie".to_owned(), cookies.join("; "))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    use percent_encoding::percent_decode_str;

    /// The decoded cookies of a form, joined.
    fn carried(auth: Auth) -> String {
        let headers = headers(auth, Uuid::new_v4(), Uuid::new_v4());
        assert_eq!(headers[0].0, "cookie");
        let value = |cookie: &str| {
            let (_, value) = cookie.split_once('=').expect("a value");
            percent_decode_str(value).decode_utf8_lossy().into_owned()
        };
        headers[0].1.split("; ").map(value).collect()
    }

    fn is_valid(token: &str) -> bool {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&["authenticated"]);
        // Without this, a token that names no audience passes.
        validation.set_required_spec_claims(&["exp", "aud"]);
        let key = DecodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::decode::<Value>(token, &key, &validation).is_ok()
    }

    #[test]
    fn every_form_of_a_cookie_carries_a_valid_token() {
        for auth in [
            Auth::Cookie,
            Auth::CookieArray,
            Auth::CookieChunked,
            Auth::CookieBase64,
            Auth::CookieBase64Chunked,
            Auth::UserDeleted,
            Auth::SignedOut,
        ] {
            let value = carried(auth);
            let json = match value.strip_prefix("base64-") {
                Some(encoded) => URL_SAFE_NO_PAD.decode(encoded).expect("base64url"),
                None => value.into_bytes(),
            };
            let session: Value = serde_json::from_slice(&json).expect("JSON");
            let token = if auth == Auth::CookieArray { &session[0] } else { &session["access_token"] };
            assert!(is_valid(token.as_str().expect("a token")), "{auth:?}");
        }
    }

    #[test]
    fn a_bad_session_is_bad() {
        for auth in [Auth::Expired, Auth::BadSignature, Auth::AlgNone, Auth::AnonKey, Auth::ServiceKey] {
            let session: Value = serde_json::from_str(&carried(auth)).expect("JSON");
            assert!(!is_valid(session["access_token"].as_str().expect("a token")), "{auth:?}");
        }
        let session: Value = serde_json::from_str(&carried(Auth::BadSub)).expect("JSON");
        assert_eq!(session["user"]["id"], "not-a-uuid");
        assert!(serde_json::from_str::<Value>(&carried(Auth::Garbage)).is_err());
    }

    #[test]
    fn only_a_long_session_needs_several_cookies() {
        let cookies = |auth| headers(auth, Uuid::new_v4(), Uuid::new_v4())[0].1.matches('=').count();
        assert_eq!(cookies(Auth::Cookie), 1);
        assert!(cookies(Auth::CookieChunked) >= 2);
        assert!(cookies(Auth::CookieBase64Chunked) >= 2);
    }

    #[test]
    fn a_session_goes_into_a_header_if_not_into_a_cookie() {
        let bearer = headers(Auth::Bearer, Uuid::new_v4(), Uuid::new_v4());
        assert_eq!(bearer[0].0, "authorization");
        assert!(is_valid(bearer[0].1.strip_prefix("Bearer ").expect("a token")));
        assert!(headers(Auth::None, Uuid::new_v4(), Uuid::new_v4()).is_empty());
    }

    #[test]
    fn the_names_are_those_of_the_cases() {
        let auth: Auth = serde_json::from_value(json!("cookie-base64-chunked")).expect("a name");
        assert_eq!(auth, Auth::CookieBase64Chunked);
        assert!(serde_json::from_value::<Auth>(json!("magic")).is_err());
    }
}
