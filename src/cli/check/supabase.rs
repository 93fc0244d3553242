//! Checks of the running Supabase project: its key set, its auth server, its storage.

use jsonwebtoken::Algorithm;
use secrecy::ExposeSecret;

use super::{LIMIT, Line, fail, ok, warn};
use crate::{
    auth::{self, PUBLISHED_KEY_ID, jwks},
    config::Config,
    http_client::{causes, ssrf_guard},
    retrieval::storage,
};

/// Runs all three checks concurrently.
pub async fn lines(http: &reqwest::Client, config: &Config) -> Vec<Line> {
    let sessions = &config.sessions;
    let anon = sessions.anon_key.as_deref();
    let service = config.service_role_key.as_ref().map(ExposeSecret::expose_secret);
    let (keys, auth, files) = tokio::join!(
        jwks::keys(http, &sessions.jwks_url, anon),
        status(http, sessions, "auth/v1/settings", anon),
        status(http, sessions, "storage/v1/bucket/files", service),
    );
    let mut lines = Vec::from_iter(keys.as_deref().ok().and_then(|keys| published_key(keys, sessions)));
    let names = keys.map(|all| all.iter().map(|(_, algorithm)| format!("{algorithm:?}")).collect());
    lines.insert(0, key_set(names.map_err(|problem| problem.to_string()), sessions));
    lines.extend(auth.map(auth_server));
    lines.extend(files.map(bucket));
    lines
}

fn late() -> String {
    format!("no answer within {} s", LIMIT.as_secs())
}

/// Sends `GET` with this key and returns the status; `None` without a key.
async fn status(
    http: &reqwest::Client,
    sessions: &auth::Settings,
    path: &str,
    key: Option<&str>,
) -> Option<Result<u16, String>> {
    let base = sessions.supabase_url.as_str().trim_end_matches('/');
    let Some(request) = storage::with_key(http.get(format!("{base}/{path}")), key?) else {
        return Some(Err("the key has characters that are not allowed in a header".to_owned()));
    };
    Some(match tokio::time::timeout(LIMIT, request.send()).await {
        Ok(Ok(response)) => Ok(response.status().as_u16()),
        Ok(Err(error)) => Err(causes(&error)),
        Err(_) => Err(late()),
    })
}

/// Says what becomes of sessions that are signed with the key of every local stack.
fn published_key(keys: &[(String, Algorithm)], sessions: &auth::Settings) -> Option<Line> {
    if !keys.iter().any(|(id, _)| id == PUBLISHED_KEY_ID) {
        return None;
    }
    Some(if sessions.published_keys {
        ok("session keys: one of them is the key that every local stack signs with, and it is accepted")
    } else {
        warn(
            "session keys: one of them is the key that every local stack signs with, so anyone could sign in as anyone: sessions signed with it are refused, because HOST and SUPABASE_URL are not both on this machine",
            "give the stack a key of its own (auth.signing_keys_path in its config.toml), or set PUBLISHED_KEYS=allow if this is meant",
        )
    })
}

/// `keys` has the algorithm of each usable key.
fn key_set(keys: Result<Vec<String>, String>, sessions: &auth::Settings) -> Line {
    let local = sessions.supabase_url.host_str().is_some_and(ssrf_guard::is_this_machine);
    let secret = sessions.jwt_secret.is_some();
    match keys {
        Ok(keys) if !keys.is_empty() => ok(format!(
            "session keys: {} public ({}){}",
            keys.len(),
            keys.join(", "),
            if secret { ", and the secret for HS256" } else { "" }
        )),
        Ok(_) if secret => ok("session keys: the secret for HS256; the project has no public keys"),
        Ok(_) => fail(
            "session keys: the project has no public keys, so it signs with a secret, and SUPABASE_JWT_SECRET is not set",
            "set it (dashboard: Project Settings, JWT Keys, legacy secret)",
        ),
        Err(reason) if secret && local => warn(
            format!(
                "session keys: the key set cannot be read ({reason}), so only sessions signed with the secret are accepted"
            ),
            "start the local stack (supabase start): since 2026 it signs with ES256",
        ),
        Err(reason) => fail(
            format!("session keys: the key set of SUPABASE_URL cannot be read ({reason})"),
            "check that SUPABASE_URL is right and the project is not paused; set SUPABASE_JWKS_URL if the keys are elsewhere",
        ),
    }
}

fn auth_server(answer: Result<u16, String>) -> Line {
    match answer {
        Ok(200..=299) => ok("auth server: it takes SUPABASE_ANON_KEY"),
        Ok(401 | 403) => fail(
            "auth server: it refuses SUPABASE_ANON_KEY, so sessions are not refreshed",
            "copy the key again (dashboard: Project Settings, API Keys); legacy keys may be disabled there",
        ),
        Ok(status) => warn(
            format!("auth server: it answers with status {status}"),
            "check that SUPABASE_URL is the API's address (not the dashboard's), then its log",
        ),
        Err(reason) => warn(
            format!("auth server: it cannot be reached ({reason}), so sessions are not refreshed"),
            "check that SUPABASE_URL is right and the project is running",
        ),
    }
}

fn bucket(answer: Result<u16, String>) -> Line {
    match answer {
        Ok(200..=299) => ok("storage: it takes SUPABASE_SERVICE_ROLE_KEY and has the bucket files"),
        Ok(401 | 403) => fail(
            "storage: it refuses SUPABASE_SERVICE_ROLE_KEY, so uploaded files cannot be read",
            "copy the key again (dashboard: Project Settings, API Keys); legacy keys may be disabled there",
        ),
        // Storage's status for a missing bucket.
        Ok(400 | 404) => warn(
            "storage: there is no bucket files, or not for this key, so files cannot be uploaded or read",
            "apply chatbot-ui's migrations, which create it, and check that the key is the service key",
        ),
        Ok(status) => warn(format!("storage: it answers with status {status}"), "check its log"),
        Err(reason) => warn(
            format!("storage: it cannot be reached ({reason}), so uploaded files cannot be read"),
            "check that SUPABASE_URL is right and the project is running",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};
    use crate::config::Variables;

    fn sessions(pairs: &[(&str, &str)]) -> auth::Settings {
        let variables: Variables =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::new(&variables).expect("settings").sessions
    }

    #[test]
    fn the_published_key_is_named_with_what_becomes_of_it() {
        let of = |id: &str, pairs: &[(&str, &str)]| {
            published_key(&[(id.to_owned(), Algorithm::ES256)], &sessions(pairs)).map(|line| line.level)
        };
        assert_eq!(of("another", &[]), None);
        assert_eq!(of(PUBLISHED_KEY_ID, &[]), Some(Level::Ok));
        assert_eq!(of(PUBLISHED_KEY_ID, &[("HOST", "0.0.0.0")]), Some(Level::Warn));
        assert_eq!(of(PUBLISHED_KEY_ID, &[("HOST", "0.0.0.0"), ("PUBLISHED_KEYS", "allow")]), Some(Level::Ok));
    }

    #[test]
    fn a_key_set_is_needed_where_no_secret_is() {
        let hosted = sessions(&[("SUPABASE_URL", "https://abc.supabase.co")]);
        let secret =
            sessions(&[("SUPABASE_URL", "https://abc.supabase.co"), ("SUPABASE_JWT_SECRET", "a secret of our own")]);
        let local = sessions(&[]);
        let none = || Ok(Vec::new());
        let broken = || Err("refused".to_owned());
        for (keys, sessions, level) in [
            (Ok(vec!["ES256".to_owned()]), &hosted, Level::Ok),
            (none(), &hosted, Level::Fail),
            (none(), &secret, Level::Ok),
            (none(), &local, Level::Ok),
            (broken(), &hosted, Level::Fail),
            (broken(), &secret, Level::Fail),
            (broken(), &local, Level::Warn),
        ] {
            let line = key_set(keys, sessions);
            assert_eq!(line.level, level, "{line}");
        }
    }

    #[test]
    fn a_refused_key_fails_and_an_unreachable_server_warns() {
        for line in [auth_server, bucket] {
            let level = |answer| line(answer).level;
            assert_eq!(level(Ok(200)), Level::Ok);
            assert_eq!(level(Ok(401)), Level::Fail);
            assert_eq!(level(Ok(500)), Level::Warn);
            assert_eq!(level(Err("refused".to_owned())), Level::Warn);
        }
    }
}
