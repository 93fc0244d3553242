//! Replays what was recorded from the original: `tests/conformance/*.json`.
//! [`case`] says what the fields of a case mean, [`compare`] what is compared.
//!
//! A test replays a file: it starts the server and a scripted provider, puts
//! each case's rows into the database, sends its request over a raw
//! connection, and holds what came back, and what the provider saw, against
//! what the case expects. All that went wrong is reported together.

mod case;
mod compare;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::{
    App,
    tokens::{self, email},
    upstream::{
        Recorded, Upstream,
        wire::{Answer, Request, ask, header},
    },
};
use case::{Case, Model, Owner};
use compare::{differences, excerpt};

/// How many cases are replayed at once.
const AT_ONCE: usize = 16;

/// Longer than any case takes that does not hang.
const LIMIT: Duration = Duration::from_secs(30);

/// How long the provider may take to see the end of what the client has seen
/// the end of.
const PROVIDER_END: Duration = Duration::from_secs(5);

#[tokio::test]
async fn anthropic() {
    replay("anthropic").await;
}

#[tokio::test]
async fn assistants() {
    replay("assistants").await;
}

#[tokio::test]
async fn azure() {
    replay("azure").await;
}

#[tokio::test]
async fn command() {
    replay("command").await;
}

#[tokio::test]
async fn custom() {
    replay("custom").await;
}

#[tokio::test]
async fn google() {
    replay("google").await;
}

#[tokio::test]
async fn groq() {
    replay("groq").await;
}

#[tokio::test]
async fn keys() {
    replay("keys").await;
}

#[tokio::test]
async fn mistral() {
    replay("mistral").await;
}

#[tokio::test]
async fn openai() {
    replay("openai").await;
}

#[tokio::test]
async fn openrouter() {
    replay("openrouter").await;
}

#[tokio::test]
async fn perplexity() {
    replay("perplexity").await;
}

#[tokio::test]
async fn tools() {
    replay("tools").await;
}

#[tokio::test]
async fn username() {
    replay("username").await;
}

/// The files that the tests above replay.
const FILES: [&str; 14] = [
    "anthropic",
    "assistants",
    "azure",
    "command",
    "custom",
    "google",
    "groq",
    "keys",
    "mistral",
    "openai",
    "openrouter",
    "perplexity",
    "tools",
    "username",
];

#[test]
fn no_file_is_left_out() {
    let mut found: Vec<String> = fs::read_dir(directory())
        .expect("a directory of cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, FILES);
}

/// The cases of a server with keys of its own. The provider cannot tell them
/// by their key, so that they are replayed one by one.
#[tokio::test]
async fn server_keys() {
    let cases = FILES.iter().flat_map(|file| read(file)).filter(has_env);
    replay_cases(cases.collect(), &SERVER_KEYS, 1).await;
}

async fn replay(file: &str) {
    let cases = read(file).into_iter().filter(|raw| !has_env(raw));
    replay_cases(cases.collect(), &[], AT_ONCE).await;
}

fn read(file: &str) -> Vec<Value> {
    let path = directory().join(file).with_extension("json");
    let text = fs::read_to_string(&path).expect(file);
    serde_json::from_str(&text).expect(file)
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

fn has_env(raw: &Value) -> bool {
    raw.get("env").is_some()
}

/// Where the server finds its providers, which are all the scripted one.
const BASE_URLS: [(&str, &str); 7] = [
    ("OPENAI_BASE_URL", "{{UP}}/v1"),
    ("GROQ_BASE_URL", "{{UP}}/openai/v1"),
    ("MISTRAL_BASE_URL", "{{UP}}/v1"),
    ("OPENROUTER_BASE_URL", "{{UP}}/api/v1"),
    ("PERPLEXITY_BASE_URL", "{{UP}}"),
    ("ANTHROPIC_BASE_URL", "{{UP}}"),
    ("GOOGLE_GEMINI_BASE_URL", "{{UP}}"),
];

/// What a server with keys of its own has besides.
const SERVER_KEYS: [(&str, &str); 13] = [
    ("OPENAI_API_KEY", "sk-env-openai"),
    ("GROQ_API_KEY", "sk-env-groq"),
    ("MISTRAL_API_KEY", "sk-env-mistral"),
    ("OPENROUTER_API_KEY", "sk-env-openrouter"),
    ("PERPLEXITY_API_KEY", "sk-env-perplexity"),
    ("ANTHROPIC_API_KEY", "sk-env-anthropic"),
    ("GOOGLE_GEMINI_API_KEY", "sk-env-google"),
    ("AZURE_OPENAI_API_KEY", "sk-env-azure"),
    ("AZURE_OPENAI_ENDPOINT", "{{UP}}/env-azure"),
    ("AZURE_GPT_45_TURBO_NAME", "env-turbo"),
    ("AZURE_GPT_35_TURBO_NAME", "env-t35"),
    ("AZURE_GPT_45_VISION_NAME", "env-vision"),
    ("OPENAI_ORGANIZATION_ID", "org-env"),
];

/// The cases name models that nobody serves any more, and record what was sent
/// for those, and texts to which nothing was added.
const OTHERS: [(&str, &str); 2] = [("MODEL_ALIASES", "off"), ("ANSWER_NOTES", "off")];

async fn replay_cases(cases: Vec<Value>, keys: &[(&str, &str)], at_once: usize) {
    let upstream = Upstream::start().await;
    let settings: Vec<(&str, String)> = BASE_URLS
        .iter()
        .chain(&OTHERS)
        .chain(keys)
        .map(|(name, value)| (*name, value.replace("{{UP}}", &upstream.url())))
        .collect();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let app = App::start(&settings).await;

    let outcomes: Vec<Option<String>> =
        stream::iter(&cases).map(|raw| failure(&app, &upstream, raw)).buffered(at_once).collect().await;
    let failures: Vec<String> = outcomes.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{} of {} cases failed\n\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// What is wrong with the answer to a case, if anything is.
async fn failure(app: &App, upstream: &Upstream, raw: &Value) -> Option<String> {
    let case = match Case::new(raw, &upstream.url()) {
        Ok(case) => case,
        Err(error) => return Some(error),
    };
    let mut report = format!("{}: {}\n", case.id, case.what);
    if let Some(reason) = &case.differs {
        report += &format!("  differs from the original: {reason}\n");
    }
    match timeout(LIMIT, answer(app, upstream, &case)).await {
        Ok(Ok((answer, seen))) => {
            let found = differences(&case, &answer, &seen);
            if found.is_empty() {
                return None;
            }
            for difference in found {
                report += &format!("  {difference}\n");
            }
            report += &format!("  the answer was {}\n", summary(&answer));
        }
        Ok(Err(error)) => report += &format!("  {error}\n"),
        Err(_) => report += &format!("  no end within {LIMIT:?}\n"),
    }
    Some(report)
}

fn summary(answer: &Answer) -> String {
    format!(
        "{} {}{}: {}",
        answer.status,
        header(&answer.headers, "content-type").unwrap_or("without a content type"),
        if answer.complete { "" } else { ", cut" },
        excerpt(&String::from_utf8_lossy(&answer.body), 0)
    )
}

/// Sends a case's request; returns the answer and what the provider saw.
async fn answer(app: &App, upstream: &Upstream, case: &Case) -> Result<(Answer, Vec<Recorded>), String> {
    insert_rows(&app.db, case).await.map_err(|error| format!("the case's rows: {error}"))?;
    let key = case.provider_key();
    if !case.upstream.is_empty() {
        upstream.script(key, case.upstream.iter().map(case::Scripted::reply).collect());
    }
    for tool in &case.tools {
        upstream.tool(key, &tool.prefix, tool.respond.reply());
    }

    let started = Instant::now();
    let answer = ask(app.address, &request(case)).await.map_err(|error| format!("no answer: {error}"))?;
    if case.timed.is_some() || case.settle.is_some() {
        // That the provider is still at it when the time is up shows in the
        // comparison.
        let limit = case.settle.map_or(PROVIDER_END, Duration::from_millis);
        let over = |seen: &[Recorded]| seen.iter().all(Recorded::is_over);
        upstream.wait_for(key, limit, over).await;
    }
    let mut seen = upstream.requests(key);
    // Cases that are replayed one by one share a key.
    seen.retain(|request| request.came >= started);
    Ok((answer, seen))
}

fn request(case: &Case) -> Request {
    let sent = &case.request;
    let body = sent.bytes();
    let mut headers = tokens::headers(case.auth, case.ids.user, case.ids.session);
    if body.is_some() && !sent.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) {
        // As a browser does with a string.
        headers.push(("content-type".to_owned(), "text/plain;charset=UTF-8".to_owned()));
    }
    headers.extend(sent.headers.clone());
    Request {
        method: sent.method.clone().unwrap_or_else(|| "POST".to_owned()),
        path: sent.path.clone().unwrap_or_else(|| case.route.clone()),
        headers,
        body,
        leave_after: case.abort_after,
    }
}

/// Puts the case's user, session, profile and model into the database.
async fn insert_rows(db: &PgPool, case: &Case) -> Result<(), sqlx::Error> {
    let ids = &case.ids;
    // Whatever belongs to a user goes with them.
    if !case.auth.has_user_row() {
        return Ok(());
    }
    let mut transaction = db.begin().await?;
    // Keeps the triggers silent: one of chatbot-ui's makes a profile for each
    // new user, and a case may want one without.
    sqlx::query("set local session_replication_role = replica").execute(&mut *transaction).await?;
    for user in [ids.user, ids.other] {
        sqlx::query(
            "insert into auth.users (id, aud, role, email)
             values ($1, 'authenticated', 'authenticated', $2)",
        )
        .bind(user)
        .bind(email(user))
        .execute(&mut *transaction)
        .await?;
    }
    if case.auth.has_session_row() {
        sqlx::query("insert into auth.sessions (id, user_id) values ($1, $2)")
            .bind(ids.session)
            .bind(ids.user)
            .execute(&mut *transaction)
            .await?;
    }
    if let Some(profile) = profile_row(case) {
        sqlx::query(
            "insert into public.profiles
             select (jsonb_populate_record(null::public.profiles, $1::jsonb)).*",
        )
        .bind(profile.to_string())
        .execute(&mut *transaction)
        .await?;
    }
    if let Some(model) = &case.model {
        sqlx::query(
            "insert into public.models
             select (jsonb_populate_record(null::public.models, $1::jsonb)).*",
        )
        .bind(model_row(model, case).to_string())
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await
}

/// The text columns of a profile, which are empty unless a case says otherwise.
const TEXT_COLUMNS: [&str; 19] = [
    "bio",
    "image_url",
    "image_path",
    "profile_context",
    "display_name",
    "openai_api_key",
    "openai_organization_id",
    "anthropic_api_key",
    "google_gemini_api_key",
    "mistral_api_key",
    "groq_api_key",
    "perplexity_api_key",
    "openrouter_api_key",
    "azure_openai_api_key",
    "azure_openai_endpoint",
    "azure_openai_35_turbo_id",
    "azure_openai_45_turbo_id",
    "azure_openai_45_vision_id",
    "azure_openai_embeddings_id",
];

/// All the columns of the case's profile, by name.
fn profile_row(case: &Case) -> Option<Value> {
    let differences = case.profile.as_ref()?;
    let mut row = json!({
        "id": Uuid::new_v4(),
        "user_id": case.ids.user,
        "created_at": "now",
        "username": case.ids.username,
        "has_onboarded": false,
        "use_azure_openai": false,
    });
    for column in TEXT_COLUMNS {
        row[column] = json!("");
    }
    for (column, value) in differences {
        row[column] = value.clone();
    }
    Some(row)
}

/// All the columns of the case's model, by name.
fn model_row(model: &Model, case: &Case) -> Value {
    let ids = &case.ids;
    json!({
        "id": ids.model,
        "user_id": if model.owner == Some(Owner::Other) { ids.other } else { ids.user },
        "created_at": "now",
        "sharing": model.sharing.as_deref().unwrap_or("private"),
        "api_key": model.api_key.as_ref().unwrap_or(&ids.key),
        "base_url": model.base_url,
        "description": "",
        "model_id": "my-model",
        "name": case.id,
        "context_length": 4096,
    })
}
