//! Checks of the running Supabase project: its key set, its auth server, its storage.

use jsonwebtoken::Algorithm;
use secrecy::ExposeSecret;

use super::{LIMIT, Line, Names, SERVICE_KEY, fail, ok, warn};
use crate::{
    auth::{self, PUBLISHED_KEY_ID, jwks},
    config::Config,
    http_client::{causes, ssrf_guard},
    retrieval::storage::{self, Refusal},
};

/// Runs all three checks concurrently, each with a key that is not `known_as_wrong`.
pub async fn lines(http: &reqwest::Client, config: &Config, names: &Names, known_as_wrong: &[&str]) -> Vec<Line> {
    let sessions = &config.sessions;
    let anon = sessions.anon_key.as_deref().filter(|_| !known_as_wrong.contains(&names.public_key));
    let service = config.service_role_key.as_ref().map(ExposeSecret::expose_secret);
    let service = service.filter(|_| !known_as_wrong.contains(&SERVICE_KEY));
    let (keys, auth, files) = tokio::join!(
        jwks::keys(http, &sessions.jwks_url, anon),
        status(http, sessions, "auth/v1/settings", anon),
        bucket_answer(http, sessions, service),
    );
    let mut lines = Vec::from_iter(keys.as_deref().ok().and_then(|keys| published_key(keys, sessions)));
    let keys = keys.map(|all| all.iter().map(|(_, algorithm)| format!("{algorithm:?}")).collect());
    let is_away = keys.is_err();
    lines.insert(0, key_set(keys.map_err(|problem| problem.to_string()), sessions, names.url));
    // A project that cannot be reached at all is named once.
    lines.extend(auth.filter(|it| !(is_away && it.is_err())).map(|it| auth_server(it, names)));
    lines.extend(files.filter(|it| !(is_away && it.is_err())).map(bucket));
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
    Some(get(http, sessions, path, key?).await.map(|response| response.status().as_u16()))
}

async fn get(
    http: &reqwest::Client,
    sessions: &auth::Settings,
    path: &str,
    key: &str,
) -> Result<reqwest::Response, String> {
    let base = sessions.supabase_url.as_str().trim_end_matches('/');
    let Some(request) = storage::with_key(http.get(format!("{base}/{path}")), key) else {
        return Err("the key has characters that are not allowed in a header".to_owned());
    };
    match tokio::time::timeout(LIMIT, request.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(causes(&error)),
        Err(_) => Err(late()),
    }
}

/// Looks the bucket up, and returns the reason of a refusal.
async fn bucket_answer(
    http: &reqwest::Client,
    sessions: &auth::Settings,
    key: Option<&str>,
) -> Option<Result<Option<Refusal>, String>> {
    Some(match get(http, sessions, "storage/v1/bucket/files", key?).await {
        Ok(response) if response.status().is_success() => Ok(None),
        Ok(mut response) => {
            let status = response.status().as_u16();
            let body = tokio::time::timeout(LIMIT, storage::beginning(&mut response)).await;
            Ok(Some(Refusal::of(status, &body.unwrap_or_default())))
        }
        Err(reason) => Err(reason),
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
fn key_set(keys: Result<Vec<String>, String>, sessions: &auth::Settings, url: &str) -> Line {
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
            format!("session keys: the key set of {url} cannot be read ({reason})"),
            format!(
                "check that {url} is right and the project is not paused; set SUPABASE_JWKS_URL if the keys are elsewhere"
            ),
        ),
    }
}

fn auth_server(answer: Result<u16, String>, names: &Names) -> Line {
    let Names { url, public_key, .. } = names;
    match answer {
        Ok(200..=299) => ok(format!("auth server: it takes {public_key}")),
        Ok(401 | 403) => fail(
            format!("auth server: it refuses {public_key}, so sessions are not refreshed"),
            "copy the key again (dashboard: Project Settings, API Keys); legacy keys may be disabled there",
        ),
        Ok(status) => warn(
            format!("auth server: it answers with status {status}"),
            format!("check that {url} is the API's address, then the auth server's log"),
        ),
        Err(reason) => warn(
            format!("auth server: it cannot be reached ({reason}), so sessions are not refreshed"),
            format!("check that {url} is right and the project is running"),
        ),
    }
}

fn bucket(answer: Result<Option<Refusal>, String>) -> Line {
    match answer {
        Ok(None) => ok("storage: it takes SUPABASE_SERVICE_ROLE_KEY and has the bucket files"),
        Ok(Some(Refusal::Denied)) => fail(
            "storage: it refuses SUPABASE_SERVICE_ROLE_KEY, so uploaded files cannot be read",
            "copy the key again (dashboard: Project Settings, API Keys); legacy keys may be disabled there",
        ),
        // Where the bucket is there, only another key hides it.
        Ok(Some(Refusal::BucketNotSeen | Refusal::NoSuchObject)) => fail(
            format!(
                "storage: {}, or the bucket was never made; uploaded files cannot be read",
                storage::KEY_OF_ANOTHER_PROJECT
            ),
            "copy the secret key again (dashboard: Project Settings, API Keys; local stack: supabase status); if it is right, apply chatbot-ui's migrations, which make the bucket",
        ),
        Ok(Some(Refusal::InvalidName)) => warn("storage: it does not take the bucket's name", "check its log"),
        Ok(Some(Refusal::Other(status))) => warn(format!("storage: it answers with status {status}"), "check its log"),
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
            let line = key_set(keys, sessions, "SUPABASE_URL");
            assert_eq!(line.level, level, "{line}");
        }
    }

    #[test]
    fn a_refused_key_fails_and_an_unreachable_server_warns() {
        let names = Names::of(&Variables::new());
        let level = |answer| auth_server(answer, &names).level;
        assert_eq!([Ok(200), Ok(401), Ok(500)].map(level), [Level::Ok, Level::Fail, Level::Warn]);
        assert_eq!(level(Err("refused".to_owned())), Level::Warn);
        let level = |answer| bucket(answer).level;
        assert_eq!(level(Ok(None)), Level::Ok);
        assert_eq!(level(Ok(Some(Refusal::Denied))), Level::Fail);
        assert_eq!(level(Ok(Some(Refusal::Other(500)))), Level::Warn);
        assert_eq!(level(Err("refused".to_owned())), Level::Warn);
    }

    #[test]
    fn a_bucket_that_the_key_does_not_see_is_the_keys_fault_first() {
        let line = bucket(Ok(Some(Refusal::BucketNotSeen)));
        assert!(
            line.level == Level::Fail && line.what.contains("it is no service key, or another project's"),
            "{line}"
        );
    }
}
