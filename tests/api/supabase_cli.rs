//! `supabase/`, as Supabase's own command line reads it: its configuration,
//! the migrations behind the link, the seed; and all of it together with
//! `migrate`, in both orders.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use chatbot_ui_api::{
    cli::migrate::{Outcome, apply},
    demo::postgres::cache_folder,
};
use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use crate::{
    migrate::picture,
    support::{postgres, programs},
};

const PACKAGE: &str = "supabase@3.1.0";
const SEED: &str = include_str!("../../supabase/seed.sql");

/// The command line, fetched once into the cache; `None` where it is to be
/// skipped: it is large, so only a run of all tests fetches it.
async fn supabase() -> Option<PathBuf> {
    programs::find("node", "nodejs")?;
    let npm = programs::find("npm", "npm")?;
    let cache = cache_folder().await.expect("a cache");
    let folder = cache.join(PACKAGE);
    let program = |folder: &Path| folder.join("node_modules/.bin/supabase");
    if !program(&folder).exists() {
        if std::env::var_os("CHATBOT_UI_API_TEST_ALL").is_none_or(|it| it != "1") {
            programs::say(&format!(
                "skipped a test: {PACKAGE} is not there (CHATBOT_UI_API_TEST_ALL=1 fetches it with npm, 140 MB unpacked)"
            ));
            return None;
        }
        programs::say(&format!("Fetching {PACKAGE} ..."));
        let parts = cache.join(format!(".fetch-{PACKAGE}-{}", std::process::id()));
        std::fs::create_dir_all(&parts).expect("a folder");
        let mut install = Command::new(npm);
        install
            .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--prefix"])
            .arg(&parts)
            .arg(PACKAGE);
        let output = finish(install, 300).await;
        assert!(output.status.success(), "{}", text(&output));
        // Another run may have been faster.
        if std::fs::rename(&parts, &folder).is_err() {
            std::fs::remove_dir_all(&parts).ok();
        }
    }
    Some(program(&folder))
}

async fn finish(mut command: Command, seconds: u64) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(seconds), command.output()).await.expect("ends in time").expect("starts")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `supabase db push` of this repository.
async fn push(program: &Path, url: &str) -> String {
    let home = std::env::temp_dir().join(format!("chatbot-ui-api-supabase-{}", std::process::id()));
    std::fs::create_dir_all(&home).expect("a folder");
    let mut command = Command::new(program);
    command
        .args(["db", "push", "--yes", "--include-seed", "--db-url", url, "--workdir", env!("CARGO_MANIFEST_DIR")])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", &home)
        .envs([("SUPABASE_TELEMETRY_DISABLED", "1"), ("DO_NOT_TRACK", "1")]);
    let output = finish(command, 60).await;
    std::fs::remove_dir_all(&home).ok();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("WARN:"), "the configuration is not as the command line wants it: {said}");
    said
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("connects")
}

#[tokio::test]
async fn push_applies_the_same_files_as_migrate_in_either_order() {
    let Some(program) = supabase().await else { return };
    let (pushed, migrated) = (postgres::empty_database().await, postgres::empty_database().await);

    let said = push(&program, &pushed).await;
    for name in ["20260101000000_accounts.sql", "20260101000001_files.sql", "seed.sql"] {
        assert!(said.contains(name), "{name}: {said}");
    }
    let mut of_push = connect(&pushed).await;
    let made = picture(&mut of_push).await;
    assert!(made.iter().any(|line| line.starts_with("public.file_items.openai_embedding")), "{made:?}");
    assert!(push(&program, &pushed).await.contains("up to date"));
    assert_eq!(apply(&mut of_push).await, Ok(Outcome::UpToDate));
    assert_eq!(picture(&mut of_push).await, made, "pushing again and migrating change nothing");

    let mut of_migrate = connect(&migrated).await;
    assert_eq!(apply(&mut of_migrate).await, Ok(Outcome::Applied));
    let before = picture(&mut of_migrate).await;
    push(&program, &migrated).await;
    assert_eq!(picture(&mut of_migrate).await, before, "pushing after migrating changes nothing");
    let own: Vec<String> =
        before.into_iter().filter(|line| !line.contains("chatbot_ui_api.") && line != "chatbot_ui_api").collect();
    let same: Vec<String> = made.into_iter().filter(|line| !line.contains("chatbot_ui_api.")).collect();
    assert_eq!(own, same);
}

/// The demo user: e-mail, display name, key.
async fn demo(connection: &mut PgConnection) -> (String, String, String) {
    sqlx::query_as(
        "select email::text, display_name, openai_api_key from auth.users account \
         join public.profiles profile on profile.user_id = account.id",
    )
    .fetch_one(connection)
    .await
    .expect("one user")
}

async fn seed(connection: &mut PgConnection) {
    sqlx::raw_sql(SEED).execute(connection).await.expect("seeds");
}

#[tokio::test]
async fn the_seed_makes_a_user_once_and_keeps_what_was_entered() {
    let mut connection = connect(&postgres::empty_database().await).await;
    apply(&mut connection).await.expect("migrates");
    seed(&mut connection).await;
    let expected = ["demo@example.com", "Demo", "sk-enter-your-own"].map(str::to_owned);
    assert_eq!(demo(&mut connection).await, expected.into());
    sqlx::raw_sql("update public.profiles set display_name = 'Me', openai_api_key = 'sk-mine'")
        .execute(&mut connection)
        .await
        .expect("updates");
    seed(&mut connection).await;
    assert_eq!(demo(&mut connection).await, ["demo@example.com", "Me", "sk-mine"].map(str::to_owned).into());
}

/// The columns of Supabase's auth server that a sign-in reads.
const AUTH_SERVER: &str = "
create schema auth;
create table auth.users (
  instance_id uuid, id uuid primary key, aud varchar(255), role varchar(255), email varchar(255), encrypted_password varchar(255),
  email_confirmed_at timestamptz, confirmation_token varchar(255), recovery_token varchar(255),
  email_change_token_new varchar(255), email_change varchar(255), raw_app_meta_data jsonb, raw_user_meta_data jsonb,
  created_at timestamptz, updated_at timestamptz, phone_change text default '', phone_change_token varchar(255) default '',
  email_change_token_current varchar(255) default '', banned_until timestamptz, reauthentication_token varchar(255) default '',
  deleted_at timestamptz, is_anonymous boolean not null default false);
create table auth.identities (
  provider_id text not null, user_id uuid not null references auth.users (id) on delete cascade, identity_data jsonb not null,
  provider text not null, last_sign_in_at timestamptz, created_at timestamptz, updated_at timestamptz,
  email text generated always as (lower(identity_data ->> 'email')) stored, id uuid primary key default gen_random_uuid(),
  unique (provider_id, provider));
create table auth.sessions (id uuid primary key, user_id uuid not null references auth.users (id) on delete cascade,
  created_at timestamptz, updated_at timestamptz, not_after timestamptz);
create function auth.uid() returns uuid language sql stable as 'select null::uuid';
";

#[tokio::test]
async fn the_seed_makes_a_user_whom_the_auth_server_signs_in() {
    let mut connection = connect(&postgres::empty_database().await).await;
    sqlx::raw_sql(AUTH_SERVER).execute(&mut connection).await.expect("an auth schema");
    apply(&mut connection).await.expect("migrates");
    seed(&mut connection).await;
    seed(&mut connection).await;
    demo(&mut connection).await;
    // What the auth server reads as text must not be null, and a user who
    // signs in with a password has an identity of this kind.
    let fit: bool = sqlx::query_scalar(
        "select count(*) = 1 from auth.users account join auth.identities identity on identity.user_id = account.id \
         where identity.provider = 'email' and identity.provider_id = account.id::text and identity.email = account.email \
           and account.encrypted_password like '$2a$10$%' and length(account.encrypted_password) = 60 \
           and account.email_confirmed_at is not null and account.instance_id = '00000000-0000-0000-0000-000000000000' \
           and (account.confirmation_token, account.recovery_token, account.email_change, account.email_change_token_new, \
                account.email_change_token_current, account.phone_change, account.phone_change_token, account.reauthentication_token) \
             = ('', '', '', '', '', '', '', '')",
    )
    .fetch_one(&mut connection)
    .await
    .expect("an answer");
    assert!(fit);
}
