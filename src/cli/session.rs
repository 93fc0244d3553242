//! Sessions for a user of a database on this machine, signed with its secret.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use uuid::Uuid;

/// An access token as Supabase's auth server makes them.
///
/// # Errors
/// A sentence, where the secret cannot sign.
pub fn access_token(
    secret: &[u8],
    user: Uuid,
    email: &str,
    session: Uuid,
    lifetime: Duration,
) -> Result<String, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let claims = json!({
        "sub": user,
        "email": email,
        "aud": "authenticated",
        "role": "authenticated",
        "session_id": session,
        "iat": now.as_secs(),
        "exp": (now + lifetime).as_secs(),
    });
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret))
        .map_err(|error| format!("no token can be made: {error}"))
}
