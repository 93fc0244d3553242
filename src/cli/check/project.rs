//! Checks of the Supabase project's settings alone, without a connection: do they belong to one project, and is each
//! key in its place? Pure functions.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{Line, Names, SERVICE_KEY, fail, ok, warn};
use crate::{
    auth,
    config::{Config, Variables},
    http_client::ssrf_guard,
};

const WHERE_THE_KEYS_ARE: &str = "copy it again (dashboard: Project Settings, API Keys; local stack: supabase status)";

/// Checks that the URLs belong to one project, and that the front end uses the cookie that the server expects.
pub fn address(variables: &Variables, config: &Config) -> Vec<Line> {
    let sessions = &config.sessions;
    let mut lines = Vec::new();
    let names = Names::of(variables);
    lines.extend(url_line(names.url, &sessions.supabase_url));
    let name = &sessions.cookie_name;
    let front_end = variables.get("NEXT_PUBLIC_SUPABASE_URL").and_then(|url| Url::parse(url.trim()).ok());
    let theirs = front_end.map(|supabase_url| auth::cookie::name_for(&supabase_url));
    lines.push(match theirs {
        Some(theirs) if theirs != *name => fail(
            format!("cookie: the front end's is {theirs} (by NEXT_PUBLIC_SUPABASE_URL), this server expects {name}"),
            format!("set SUPABASE_URL to the same host, or SUPABASE_COOKIE_NAME={theirs}"),
        ),
        _ => {
            let by = if variables.get("SUPABASE_COOKIE_NAME").is_some_and(|it| !it.trim().is_empty()) {
                "SUPABASE_COOKIE_NAME"
            } else {
                names.url
            };
            ok(format!("cookie: {name}, by {by}"))
        }
    });

    let remote = !sessions.supabase_url.host_str().is_some_and(ssrf_guard::is_this_machine);
    let database = variables.get("DATABASE_URL").map(String::as_str).unwrap_or_default().trim();
    if remote && database.is_empty() {
        lines.push(fail(
            format!(
                "project: {} is not local, and DATABASE_URL is not set, so the local stack's database is used",
                names.url
            ),
            "set DATABASE_URL to the project's database (dashboard: Connect, Session pooler)",
        ));
    }
    if database.to_uppercase().contains("YOUR-PASSWORD") {
        lines.push(fail(
            "project: DATABASE_URL still has the dashboard's [YOUR-PASSWORD]",
            "put the database's password there, without the brackets, percent-encoded",
        ));
    } else if database.contains(":[") && database.contains("]@") {
        lines.push(fail(
            "project: the password in DATABASE_URL is in brackets, which are not part of it",
            "remove the brackets",
        ));
    }
    if let (Some(of_url), Some(of_database)) = (project_of_url(&sessions.supabase_url), project_of_database(config))
        && of_url != of_database
    {
        lines.push(fail(
            format!("project: {} belongs to the project {of_url}, DATABASE_URL to {of_database}", names.url),
            "use one project for both",
        ));
    }
    lines
}

/// Finds an address that is not the API's.
fn url_line(variable: &str, url: &Url) -> Option<Line> {
    let host = url.host_str().unwrap_or_default();
    let path = url.path().trim_end_matches('/');
    if matches!(host, "supabase.com" | "www.supabase.com" | "app.supabase.com" | "app.supabase.io") {
        let project = path.split('/').skip_while(|part| *part != "project").nth(1).unwrap_or("<project>");
        return Some(fail(
            format!("{variable}: is the dashboard's address, not the project's"),
            format!("set it to https://{project}.supabase.co"),
        ));
    }
    let here = ssrf_guard::is_this_machine(host);
    if url.scheme() == "https" && here && url.port() == Some(54321) {
        let local = format!("set it to http://{host}:54321");
        return Some(fail(format!("{variable}: begins with https://, and a local stack speaks http"), local));
    }
    if url.scheme() == "http" && project_of_url(url).is_some() {
        return Some(fail(
            format!("{variable}: begins with http://, so keys and sessions would not be encrypted"),
            format!("set it to https://{host}"),
        ));
    }
    if path.is_empty() {
        return None;
    }
    let todo = format!("set it to {}", url.origin().ascii_serialization());
    let what = format!("{variable}: has a path ({path}), to which /auth/v1 and /storage/v1 are added");
    let of_a_part = ["/auth/v1", "/rest/v1", "/storage/v1", "/dashboard"].iter().any(|part| path.contains(part));
    Some(if of_a_part || project_of_url(url).is_some() { fail(what, todo) } else { warn(what, todo) })
}

/// Returns `<name>` of `https://<name>.supabase.co`.
fn project_of_url(url: &Url) -> Option<&str> {
    let (name, rest) = url.host_str()?.split_once('.')?;
    matches!(rest, "supabase.co" | "supabase.in").then_some(name)
}

/// Returns the project's name from a direct address, or from the user name of a pooler URL.
fn project_of_database(config: &Config) -> Option<&str> {
    let options = &config.database.options;
    let host = options.get_host();
    if let Some(name) = host.strip_prefix("db.").and_then(|host| host.strip_suffix(".supabase.co")) {
        return Some(name);
    }
    let (_, name) = options.get_username().split_once('.')?;
    host.ends_with(".pooler.supabase.com").then_some(name)
}

/// The claims of a legacy API key.
#[derive(Deserialize)]
struct Claims {
    role: Option<String>,
    #[serde(rename = "ref")]
    project: Option<String>,
    iss: Option<String>,
    exp: Option<u64>,
}

/// A setting that holds an API key, and the key's purpose.
struct Place {
    variable: &'static str,
    role: &'static str,
    /// Prefix of the new-style keys of this kind, and of the other kind.
    prefix: &'static str,
    other: &'static str,
}

/// Checks the JWT secret, the public key and the service key; `now` in seconds since 1970.
pub fn keys(variables: &Variables, config: &Config, now: u64) -> Vec<Line> {
    let sessions = &config.sessions;
    let mut lines = Vec::new();
    if let Some(secret) = &sessions.jwt_secret {
        let secret = secret.expose_secret();
        if secret.starts_with("sb_") || claims(secret).is_some() {
            lines.push(fail(
                "session secret: SUPABASE_JWT_SECRET is an API key",
                "set the legacy JWT secret (dashboard: Project Settings, JWT Keys), or unset it if the project signs with ES256 or RS256",
            ));
        }
    }
    let public = Place {
        variable: Names::of(variables).public_key,
        role: "anon",
        prefix: "sb_publishable_",
        other: "sb_secret_",
    };
    lines.push(match &sessions.anon_key {
        Some(key) => key_line(&public, key, config, now),
        None => warn(
            "public key: SUPABASE_ANON_KEY is not set, so sessions whose token has expired are not refreshed",
            "set it to the same value as in the front end",
        ),
    });
    let service = Place { variable: SERVICE_KEY, role: "service_role", prefix: "sb_secret_", other: "sb_publishable_" };
    lines.push(match &config.service_role_key {
        Some(key) => key_line(&service, key.expose_secret(), config, now),
        None => warn(
            "service key: SUPABASE_SERVICE_ROLE_KEY is not set, so uploaded files cannot be read",
            "needed for retrieval only, not for chat",
        ),
    });
    lines
}

fn key_line(place: &Place, key: &str, config: &Config, now: u64) -> Line {
    let Place { variable, role, prefix, other } = place;
    let sessions = &config.sessions;
    if let Some((has, todo)) = not_of_a_key(key) {
        return fail(format!("{variable}: {has}"), todo);
    }
    if key.starts_with(prefix) {
        let own = sessions.jwt_secret.as_ref().is_some_and(|secret| !auth::is_published(secret.expose_secret()));
        let but = if own { ", which does not show whether SUPABASE_JWT_SECRET is right" } else { "" };
        return ok(format!("{variable}: a key that begins with {prefix}{but}"));
    }
    if key.starts_with(other) {
        let todo = if *other == "sb_secret_" {
            "set the one that begins with sb_publishable_; if this one was sent to browsers, replace the secret key: it gives access to every row"
        } else {
            "set the one that begins with sb_secret_"
        };
        return fail(
            format!("{variable}: holds a key that begins with {other}, which belongs in another variable"),
            todo,
        );
    }
    let Some(claims) = claims(key) else {
        return fail(format!("{variable}: is not a Supabase key"), WHERE_THE_KEYS_ARE);
    };
    if claims.role.as_deref() != Some(role) {
        let said = claims.role.as_deref().unwrap_or("none");
        let todo = if said == "service_role" {
            "set the anon key; if this one was sent to browsers, replace it: it gives access to every row"
        } else {
            WHERE_THE_KEYS_ARE
        };
        return fail(format!("{variable}: is a key for the role {said}, and must be one for {role}"), todo);
    }
    if claims.exp.is_some_and(|exp| exp <= now) {
        return fail(format!("{variable}: has expired"), WHERE_THE_KEYS_ARE);
    }
    let local = sessions.supabase_url.host_str().is_some_and(ssrf_guard::is_this_machine);
    match (&claims.project, project_of_url(&sessions.supabase_url)) {
        (Some(of_key), Some(of_url)) if of_key != of_url => {
            return fail(
                format!("{variable}: belongs to the project {of_key}, SUPABASE_URL to {of_url}"),
                "use one project for both",
            );
        }
        (Some(of_key), None) if local => {
            return fail(
                format!("{variable}: belongs to the hosted project {of_key}, SUPABASE_URL is on this machine"),
                "use one project for both",
            );
        }
        (None, Some(_)) if claims.iss.as_deref() == Some("supabase-demo") => {
            return fail(
                format!("{variable}: is the published key of local stacks, but SUPABASE_URL is a hosted project"),
                WHERE_THE_KEYS_ARE,
            );
        }
        _ => {}
    }
    let by_secret = jsonwebtoken::decode_header(key).is_ok_and(|header| header.alg == Algorithm::HS256);
    match &sessions.jwt_secret {
        Some(secret) if by_secret && !is_signed(key, secret.expose_secret()) => fail(
            format!(
                "{variable}: was not signed with SUPABASE_JWT_SECRET, so the secret or the key belongs to another project"
            ),
            "copy the secret again (dashboard: Project Settings, JWT Keys, legacy secret; local stack: supabase status)",
        ),
        Some(_) if by_secret => ok(format!("{variable}: a key for the role {role}, signed with SUPABASE_JWT_SECRET")),
        _ => ok(format!("{variable}: a key for the role {role}")),
    }
}

/// Finds what was copied along with a key, and says what to remove.
fn not_of_a_key(key: &str) -> Option<(&'static str, &'static str)> {
    let quotes = ['"', '\'', '`', '“', '”', '‘', '’'];
    if key.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer ")) {
        Some(("begins with `Bearer `, which is not part of the key", "remove that word"))
    } else if key.ends_with([';', ',']) {
        Some(("ends with a punctuation mark, which is not part of the key", "remove it"))
    } else if key.starts_with(quotes) || key.ends_with(quotes) {
        Some(("has a quotation mark around it, which is not part of the key", "remove the marks"))
    } else if key.contains(char::is_whitespace) || !key.is_ascii() {
        Some(("has a space or a character that no key has", WHERE_THE_KEYS_ARE))
    } else {
        None
    }
}

fn claims(key: &str) -> Option<Claims> {
    let mut parts = key.split('.');
    let (_, claims, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

fn is_signed(key: &str, secret: &str) -> bool {
    let mut signature_only = Validation::new(Algorithm::HS256);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    jsonwebtoken::decode::<Value>(key, &DecodingKey::from_secret(secret.as_bytes()), &signature_only).is_ok()
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    const SECRET: &str = "a secret of the project's own";
    const NOW: u64 = 1_800_000_000;
    const HOSTED: (&str, &str) = ("SUPABASE_URL", "https://abcdefgh.supabase.co");
    const DATABASE: (&str, &str) =
        ("DATABASE_URL", "postgresql://postgres.abcdefgh:hunter2@aws-0-x.pooler.supabase.com:5432/postgres");

    fn key(role: &str, project: &str, secret: &str, exp: u64) -> String {
        let claims = json!({ "iss": "supabase", "ref": project, "role": role, "iat": 1, "exp": exp });
        encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes())).expect("signs")
    }

    fn check(pairs: &[(&str, &str)]) -> Vec<Line> {
        let variables: Variables =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = Config::new(&variables).expect("settings");
        let mut lines = address(&variables, &config);
        lines.extend(keys(&variables, &config, NOW));
        lines
    }

    /// Returns the text of all failures.
    fn failures(pairs: &[(&str, &str)]) -> String {
        let lines = check(pairs);
        assert!(!format!("{lines:?}").contains("hunter2"), "{lines:?}");
        lines.iter().filter(|line| line.level == Level::Fail).map(Line::to_string).collect::<Vec<_>>().join("\n")
    }

    fn hosted(more: &[(&str, &str)]) -> String {
        failures(&[&[HOSTED, DATABASE], more].concat())
    }

    #[test]
    fn a_good_project() {
        let (anon, service) =
            (key("anon", "abcdefgh", SECRET, NOW + 1), key("service_role", "abcdefgh", SECRET, NOW + 1));
        let secret = ("SUPABASE_JWT_SECRET", SECRET);
        let lines =
            check(&[HOSTED, DATABASE, secret, ("SUPABASE_ANON_KEY", &anon), ("SUPABASE_SERVICE_ROLE_KEY", &service)]);
        assert!(lines.iter().all(|line| line.level == Level::Ok), "{lines:?}");
        assert!(lines.iter().any(|line| line.what.contains("signed with SUPABASE_JWT_SECRET")), "{lines:?}");
        assert_eq!(
            hosted(&[("SUPABASE_ANON_KEY", "sb_publishable_x"), ("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_hunter2")]),
            ""
        );
        assert_eq!(failures(&[]), "", "the local stack");
    }

    #[test]
    fn keys_in_the_wrong_place() {
        let anon = key("anon", "abcdefgh", SECRET, NOW + 1);
        let service = key("service_role", "abcdefgh", SECRET, NOW + 1);
        for (variable, value, words) in [
            (
                "SUPABASE_ANON_KEY",
                "sb_secret_hunter2",
                "FAIL SUPABASE_ANON_KEY: holds a key that begins with sb_secret_",
            ),
            (
                "NEXT_PUBLIC_SUPABASE_ANON_KEY",
                service.as_str(),
                "FAIL NEXT_PUBLIC_SUPABASE_ANON_KEY: is a key for the role service_role",
            ),
            (
                "SUPABASE_SERVICE_ROLE_KEY",
                "sb_publishable_x",
                "SUPABASE_SERVICE_ROLE_KEY: holds a key that begins with sb_publishable_",
            ),
            (
                "SUPABASE_SERVICE_ROLE_KEY",
                anon.as_str(),
                "is a key for the role anon, and must be one for service_role",
            ),
            ("SUPABASE_SERVICE_ROLE_KEY", "hunter2", "SUPABASE_SERVICE_ROLE_KEY: is not a Supabase key"),
            ("SUPABASE_SERVICE_ROLE_KEY", "Bearer sb_secret_hunter2", "begins with `Bearer `"),
            ("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_hunter2;", "ends with a punctuation mark"),
            ("SUPABASE_SERVICE_ROLE_KEY", "“sb_secret_hunter2”", "has a quotation mark around it"),
            ("SUPABASE_JWT_SECRET", "sb_secret_hunter2", "SUPABASE_JWT_SECRET is an API key"),
            ("SUPABASE_JWT_SECRET", anon.as_str(), "SUPABASE_JWT_SECRET is an API key"),
        ] {
            let failures = hosted(&[(variable, value)]);
            assert!(failures.contains(words), "{variable}: {failures}");
        }
    }

    #[test]
    fn keys_that_do_not_fit_the_project() {
        let of = |project: &str, secret: &str, exp: u64| key("anon", project, secret, exp);
        let secret = ("SUPABASE_JWT_SECRET", SECRET);
        for (key, words) in [
            (of("another", SECRET, NOW + 1), "belongs to the project another, SUPABASE_URL to abcdefgh"),
            (of("abcdefgh", "hunter2-hunter2-hunter2", NOW + 1), "was not signed with SUPABASE_JWT_SECRET"),
            (of("abcdefgh", SECRET, NOW), "has expired"),
        ] {
            let failures = hosted(&[secret, ("SUPABASE_ANON_KEY", &key)]);
            assert!(failures.contains(words), "{words}: {failures}");
        }
        let local = failures(&[("SUPABASE_ANON_KEY", &of("abcdefgh", SECRET, NOW + 1))]);
        assert!(local.contains("belongs to the hosted project abcdefgh"), "{local}");
    }

    #[test]
    fn addresses_that_are_not_the_projects() {
        for (url, words, todo) in [
            (
                "https://supabase.com/dashboard/project/abcdefgh/settings",
                "is the dashboard's address",
                "https://abcdefgh.supabase.co",
            ),
            ("https://abcdefgh.supabase.co/rest/v1", "has a path (/rest/v1)", "set it to https://abcdefgh.supabase.co"),
            ("https://127.0.0.1:54321", "a local stack speaks http", "set it to http://127.0.0.1:54321"),
            ("http://abcdefgh.supabase.co", "begins with http://", "set it to https://abcdefgh.supabase.co"),
        ] {
            for variable in ["SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"] {
                let failed = failures(&[(variable, url), DATABASE]);
                let line =
                    failed.lines().find(|line| line.starts_with(&format!("FAIL {variable}: "))).unwrap_or_default();
                assert!(line.contains(words) && line.contains(todo), "{url}: {failed}");
            }
        }
    }

    #[test]
    fn addresses_of_two_projects() {
        let front_end = ("NEXT_PUBLIC_SUPABASE_URL", "http://localhost:54321");
        let failed = failures(&[front_end, ("SUPABASE_URL", "http://127.0.0.1:54321")]);
        assert!(failed.contains("the front end's is sb-localhost-auth-token"), "{failed}");
        assert!(failed.contains("SUPABASE_COOKIE_NAME=sb-localhost-auth-token"), "{failed}");
        let named = ("SUPABASE_COOKIE_NAME", "sb-localhost-auth-token");
        assert_eq!(failures(&[front_end, ("SUPABASE_URL", "http://127.0.0.1:54321"), named]), "");

        assert!(failures(&[HOSTED]).contains("DATABASE_URL is not set"));
        for url in [
            "postgresql://postgres.another:hunter2@aws-0-x.pooler.supabase.com:6543/postgres",
            "postgresql://postgres:hunter2@db.another.supabase.co:5432/postgres",
        ] {
            let failed = failures(&[HOSTED, ("DATABASE_URL", url)]);
            assert!(failed.contains("belongs to the project abcdefgh, DATABASE_URL to another"), "{failed}");
        }
        let placeholder = "postgresql://postgres:[YOUR-PASSWORD]@db.abcdefgh.supabase.co:5432/postgres";
        assert!(failures(&[HOSTED, ("DATABASE_URL", placeholder)]).contains("[YOUR-PASSWORD]"));
        let brackets = "postgresql://postgres:[hunter2]@db.abcdefgh.supabase.co:5432/postgres";
        assert!(failures(&[HOSTED, ("DATABASE_URL", brackets)]).contains("is in brackets"));
    }
}
