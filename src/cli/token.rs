//! `token`: creates a session for a user of a database on this machine, to try the server with. It is signed as the
//! local stack signs: with the key that `supabase start` publishes, else with the secret.

use std::{io, process::ExitCode, time::Duration};

use jsonwebtoken::Algorithm;
use percent_encoding::utf8_percent_encode;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::session::{self, Signer};
use crate::{
    auth::{self, PUBLISHED_KEY_ID, jwks},
    config::{self, Config},
    db::inspect,
    http_client::{ClientFactory, ssrf_guard},
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
        let factory = ClientFactory::new(config.http_client.clone(), false, ssrf_guard::system_lookup);
        let http = factory.and_then(|factory| factory.trusted().map_err(io::Error::other));
        let http = http.map_err(|error| error.to_string())?;
        let signer = signer(
            sessions,
            jwks::keys(&http, &sessions.jwks_url, sessions.anon_key.as_deref()).await.ok().as_deref(),
        )?;
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
        let token = session::access_token(signer, user, &email, session, LIFETIME)?;
        let cookie = cookie(&sessions.cookie_name, &token, user, &email);
        let url = format!("http://{}:{}", super::health::host(&config.host), config.port);
        if json {
            let all = json!({ "token": token, "cookie": cookie, "user": user, "session": session, "expires_in": LIFETIME.as_secs() });
            super::say(&all.to_string());
        } else {
            super::say(&what_to_do(&url, &email, &token, &cookie, signer));
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

/// Chooses the key: the one that every local stack signs with, if the stack's key set has it, else the secret. `keys` is
/// `None` if there is no key set, as with older stacks.
fn signer<'a>(sessions: &'a auth::Settings, keys: Option<&[(String, Algorithm)]>) -> Result<Signer<'a>, String> {
    let is_published = |(id, _): &(String, Algorithm)| id == PUBLISHED_KEY_ID;
    let secret = sessions.jwt_secret.as_ref().map(ExposeSecret::expose_secret);
    match (keys.unwrap_or_default(), secret) {
        (keys, _) if sessions.published_keys && keys.iter().any(is_published) => Ok(Signer::PublishedKey),
        (keys, Some(secret)) if auth::is_published(secret) && !keys.is_empty() => Err(
            "the stack signs with a key of its own (auth.signing_keys_path in its config.toml), so the published secret is not accepted. Sign in through the front end there".to_owned(),
        ),
        (_, Some(secret)) => Ok(Signer::Secret(secret.as_bytes())),
        (_, None) if sessions.published_keys => Err("SUPABASE_JWT_SECRET is not set".to_owned()),
        (_, None) => Err(
            "SUPABASE_JWT_SECRET is not set, and HOST and SUPABASE_URL are not both on this machine, so sessions signed with a published key are refused. Set the secret, or PUBLISHED_KEYS=allow if this is meant".to_owned(),
        ),
    }
}

fn what_to_do(url: &str, email: &str, token: &str, cookie: &str, signer: Signer<'_>) -> String {
    let signed = match signer {
        Signer::PublishedKey => "with ES256 by the key that every local stack signs with",
        Signer::Secret(_) => "with HS256 by SUPABASE_JWT_SECRET",
    };
    format!(
        "A session of {email} for seven days. Keep it to yourself.

Token:

  {token}

Cookie:

  {cookie}

To try it:

  curl -N {url}/api/chat/openai -H 'Authorization: Bearer {token}' -d '{{\"chatSettings\":{{\"model\":\"gpt-4o\",\"temperature\":0.5}},\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'

It is signed {signed}.
Signing out in the front end does not end it; deleting its row in auth.sessions does."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Variables;

    #[test]
    fn the_key_is_the_one_that_the_server_accepts() {
        let of = |pairs: &[(&str, &str)], keys: Option<&[&str]>| {
            let variables: Variables =
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let sessions = Config::new(&variables).expect("settings").sessions;
            let keys: Option<Vec<_>> =
                keys.map(|keys| keys.iter().map(|id| ((*id).to_owned(), Algorithm::ES256)).collect());
            match signer(&sessions, keys.as_deref()) {
                Ok(Signer::PublishedKey) => "published".to_owned(),
                Ok(Signer::Secret(secret)) => String::from_utf8_lossy(secret).into_owned(),
                Err(problem) => problem,
            }
        };
        let own = ("SUPABASE_JWT_SECRET", "a secret of our own");
        assert_eq!(of(&[], Some(&["x", PUBLISHED_KEY_ID])), "published");
        assert_eq!(of(&[], None), auth::PUBLISHED_JWT_SECRET);
        assert_eq!(of(&[], Some(&[])), auth::PUBLISHED_JWT_SECRET);
        assert!(of(&[], Some(&["x"])).contains("a key of its own"));
        assert_eq!(of(&[own], Some(&["x"])), own.1);
        let open = ("HOST", "0.0.0.0");
        assert_eq!(of(&[open, own], Some(&[PUBLISHED_KEY_ID])), own.1);
        assert!(of(&[open], Some(&[PUBLISHED_KEY_ID])).contains("PUBLISHED_KEYS=allow"));
        assert_eq!(of(&[open, ("PUBLISHED_KEYS", "allow")], Some(&[PUBLISHED_KEY_ID])), "published");
    }
}
