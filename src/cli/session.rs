//! Sessions for a user of a database on this machine, signed as its stack signs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use crate::auth::PUBLISHED_KEY_ID;

/// The private half of the key with [`PUBLISHED_KEY_ID`], in PKCS #8 and base64. It is part of Supabase's command line
/// tool, so it protects nothing.
const PUBLISHED_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgdIhR8wywJlqlua4y/yMq2SLhlFXDZJBCvFrY1DCHyVWhRANCAAQzlKOqfnPAL0qXXNV9RQa+/1uhCMIZ3jkbyx2ikETEHj+iFzLwNlmF0h0jjEwR9o7MP/a68xsvPRYz3+qDrCMU";

/// The key that a session is signed with. Without `Debug`, because it may be a secret.
#[derive(Clone, Copy)]
pub enum Signer<'a> {
    /// A JWT secret, for HS256.
    Secret(&'a [u8]),
    /// The key that every local stack signs with, for ES256.
    PublishedKey,
}

impl Signer<'_> {
    fn sign(self, claims: &Value) -> Result<String, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the token cannot be signed: {error}");
        let signed = match self {
            Self::Secret(secret) => encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)),
            Self::PublishedKey => {
                let key = STANDARD.decode(PUBLISHED_KEY).map_err(|error| failed(&error))?;
                let header = Header { kid: Some(PUBLISHED_KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
                encode(&header, claims, &EncodingKey::from_ec_der(&key))
            }
        };
        signed.map_err(|error| failed(&error))
    }
}

/// Returns an access token like those of Supabase's auth server.
///
/// # Errors
/// If the key cannot sign: a sentence with the reason.
pub fn access_token(
    signer: Signer<'_>,
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
    signer.sign(&claims)
}

/// Inserts a session of the user into `auth.sessions`.
///
/// # Errors
/// If the role lacks the privilege, or the database does not answer.
pub async fn start(connection: &mut PgConnection, user: Uuid) -> sqlx::Result<Uuid> {
    // Columns that Supabase's auth server fills; it does not read rows without them.
    let more: Vec<String> = sqlx::query_scalar(
        "select attname::text from pg_attribute join pg_class on pg_class.oid = attrelid \
         join pg_namespace on pg_namespace.oid = relnamespace \
         where nspname = 'auth' and relname = 'sessions' and attname in ('updated_at', 'aal') and not attisdropped",
    )
    .persistent(false)
    .fetch_all(&mut *connection)
    .await?;
    let has = |name: &str| more.iter().any(|column| column == name);
    let (mut columns, mut values) = ("id, user_id, created_at".to_owned(), "$1, $2, now()".to_owned());
    if has("updated_at") {
        columns += ", updated_at";
        values += ", now()";
    }
    if has("aal") {
        columns += ", aal";
        values += ", 'aal1'";
    }
    let session = Uuid::new_v4();
    sqlx::query(AssertSqlSafe(format!("insert into auth.sessions ({columns}) values ({values})")))
        .bind(session)
        .bind(user)
        .persistent(false)
        .execute(connection)
        .await?;
    Ok(session)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, jwk::Jwk};

    use super::*;
    use crate::auth::jwt::{Policy, VerifyingKey};

    #[test]
    fn the_published_key_signs_what_its_public_half_verifies() {
        // As a local stack's key set has it.
        let public = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": PUBLISHED_KEY_ID,
            "x": "M5Sjqn5zwC9Kl1zVfUUGvv9boQjCGd45G8sdopBExB4", "y": "P6IXMvA2WYXSHSOMTBH2jsw_9rrzGy89FjPf6oOsIxQ",
        });
        let public: Jwk = serde_json::from_value(public).expect("a key");
        let (user, session) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let token = access_token(Signer::PublishedKey, user, "a@b", session, Duration::from_secs(60)).expect("signed");
        let key = VerifyingKey::new(DecodingKey::from_jwk(&public).expect("a key"), Algorithm::ES256);
        let claims = key.verify(&token, &Policy::default()).expect("valid");
        assert_eq!((claims.user, claims.session), (user, Some(session)));
    }
}
