//! Sessions for a user of a database on this machine, signed with its JWT secret.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

/// Returns an access token like those of Supabase's auth server.
///
/// # Errors
/// If the secret cannot sign: a sentence with the reason.
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
        .map_err(|error| format!("the token cannot be signed: {error}"))
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
