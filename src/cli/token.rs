//! `token`: creates a session for a user of a database on this machine, to try the server with.

use std::{process::ExitCode, time::Duration};

use percent_encoding::utf8_percent_encode;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::session;
use crate::{
    config::{self, Config},
    db::inspect,
    http_client::ssrf_guard,
    js::COMPONENT,
};

const LIFETIME: Duration = Duration::from_hours(7 * 24);

/// Runs the command for the user with this e-mail address; `json` for machine-readable output.
pub fn run(email: &str, json: bool) -> ExitCode {
    super::run(async {
        let config = Config::new(&config::variables()?).map_err(|error| error.to_string())?;
        let sessions = &config.sessions;
        let local = |host: Option<&str>| host.is_some_and(ssrf_guard::is_this_machine);
        if !local(sessions.supabase_url.host_str()) {
            return Err(format!(
                "token is for a Supabase on this machine, and SUPABASE_URL leads to {}. Sign in through the front end there",
                sessions.supabase_url.host_str().unwrap_or_default()
            ));
        }
        let database = &config.database.options;
        if !local(Some(database.get_host())) && database.get_socket().is_none() {
            return Err(format!(
                "token is for a database on this machine, and DATABASE_URL leads to {}",
                database.get_host()
            ));
        }
        let secret = sessions.jwt_secret.as_ref().ok_or("SUPABASE_JWT_SECRET is not set")?;
        let mut connection = inspect::connect(&config.database).await.map_err(|error| {
            format!(
                "the database at {}:{} cannot be reached: {error}. Start it, or fix DATABASE_URL; `chatbot-ui-api check` says more",
                database.get_host(),
                database.get_port()
            )
        })?;
        let (user, email) = find(&mut connection, email).await?;
        let session = session::start(&mut connection, user).await.map_err(|error| {
            format!("the session cannot be written into auth.sessions: {}. {AS_WHOM}", super::refusal(&error))
        })?;
        let token = session::access_token(secret.expose_secret().as_bytes(), user, &email, session, LIFETIME)?;
        let cookie = cookie(&sessions.cookie_name, &token, user, &email);
        let url = format!("http://{}:{}", super::health::host(&config.host), config.port);
        if json {
            let all = json!({ "token": token, "cookie": cookie, "user": user, "session": session, "expires_in": LIFETIME.as_secs() });
            super::say(&all.to_string());
        } else {
            super::say(&what_to_do(&url, &email, &token, &cookie));
        }
        Ok(())
    })
}

const AS_WHOM: &str = "Run this with a DATABASE_URL whose role has the privilege (local stack: postgresql://postgres:postgres@127.0.0.1:54322/postgres)";

/// Finds the user, and the address in its stored spelling.
async fn find(connection: &mut PgConnection, email: &str) -> Result<(Uuid, String), String> {
    let sql = "select id, email from auth.users where lower(email) = lower($1) and deleted_at is null";
    let found: Option<(Uuid, String)> =
        sqlx::query_as(sql).bind(email).persistent(false).fetch_optional(connection).await.map_err(|error| {
            format!("the users cannot be looked up in auth.users: {}. {AS_WHOM}", super::refusal(&error))
        })?;
    found.ok_or_else(|| {
        format!("no user has the address {email}: sign up in the front end, or with `supabase db reset` in this repository there is demo@example.com")
    })
}

/// Returns the `Cookie` header's value in the format of Supabase's clients.
fn cookie(name: &str, token: &str, user: Uuid, email: &str) -> String {
    let expires = jsonwebtoken::get_current_timestamp() + LIFETIME.as_secs();
    let session: Value = json!({
        "access_token": token,
        "token_type": "bearer",
        "expires_in": LIFETIME.as_secs(),
        "expires_at": expires,
        // There is no refresh token: when the access token has expired, make another session.
        "refresh_token": "",
        "user": { "id": user, "email": email, "aud": "authenticated", "role": "authenticated" },
    });
    format!("{name}={}", utf8_percent_encode(&session.to_string(), COMPONENT))
}

fn what_to_do(url: &str, email: &str, token: &str, cookie: &str) -> String {
    format!(
        "A session of {email} for seven days. Keep it to yourself.

Token:

  {token}

Cookie:

  {cookie}

To try it:

  curl -N {url}/api/chat/openai -H 'Authorization: Bearer {token}' -d '{{\"chatSettings\":{{\"model\":\"gpt-4o\",\"temperature\":0.5}},\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'

It is signed with HS256 by SUPABASE_JWT_SECRET. A local stack of 2026 or later signs with
ES256 itself and still takes this, unless its config.toml has auth.signing_keys_path.
Signing out in the front end does not end it; deleting its row in auth.sessions does."
    )
}
