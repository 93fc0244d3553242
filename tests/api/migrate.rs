//! `migrate`: on an empty database, on its own work, on chatbot-ui's own
//! schema, without pgvector; and the server on a database as Supabase has it.

use chatbot_ui_api::{
    cli::migrate::{Outcome, apply},
    http_client::ssrf_guard,
};
use sqlx::{Connection, PgConnection, Row};

use crate::support::{App, message, postgres};

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("connects")
}

/// Every table, column, index, policy, function and trigger, as one text.
pub async fn picture(connection: &mut PgConnection) -> Vec<String> {
    let rows = sqlx::query(
        "select table_schema || '.' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(column_default, '') \
           from information_schema.columns where table_schema not in ('pg_catalog', 'information_schema', 'supabase_migrations') \
         union all select indexdef from pg_indexes where schemaname not in ('pg_catalog', 'information_schema', 'supabase_migrations') \
         union all select schemaname || tablename || policyname || coalesce(qual, '') from pg_policies \
         union all select nspname || '.' || proname from pg_proc join pg_namespace on pg_namespace.oid = pronamespace where nspname not in ('pg_catalog', 'information_schema', 'supabase_migrations') \
         union all select tgrelid::regclass || ' ' || tgname from pg_trigger where not tgisinternal \
         union all select nspname::text from pg_namespace where nspname <> 'supabase_migrations' \
         order by 1",
    )
    .fetch_all(connection)
    .await
    .expect("a picture");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn an_empty_database_gets_the_tables_once() {
    let url = postgres::empty_database().await;
    let mut connection = connect(&url).await;
    assert_eq!(apply(&mut connection).await, Ok(Outcome::Applied));
    let made = picture(&mut connection).await;
    for column in [
        "auth.users.banned_until timestamp with time zone YES ",
        "public.models.context_length integer NO 4096",
        "public.profiles.groq_api_key text YES ",
        "public.file_items.openai_embedding USER-DEFINED YES ",
    ] {
        assert!(made.iter().any(|line| line == column), "{column}");
    }
    assert_eq!(apply(&mut connection).await, Ok(Outcome::UpToDate));
    // Another tool may run the files again, without this command's list.
    for file in [
        include_str!("../../migrations/20260101000000_accounts.sql"),
        include_str!("../../migrations/20260101000001_files.sql"),
    ] {
        sqlx::raw_sql(file).execute(&mut connection).await.expect("runs again");
    }
    assert_eq!(picture(&mut connection).await, made);
}

#[tokio::test]
async fn chatbot_uis_own_schema_is_left_alone() {
    let url = postgres::supabase_database().await;
    let mut connection = connect(&url).await;
    let before = picture(&mut connection).await;
    assert_eq!(apply(&mut connection).await, Ok(Outcome::LeftAlone));
    assert_eq!(picture(&mut connection).await, before);
}

#[tokio::test]
async fn tables_for_files_follow_when_pgvector_comes_later() {
    let url = postgres::empty_database().await;
    let mut connection = connect(&url).await;
    assert_eq!(apply(&mut connection).await, Ok(Outcome::Applied));
    // The tables of a server without the extension.
    let without = "drop table public.file_items; drop table public.files; drop extension vector";
    sqlx::raw_sql(without).execute(&mut connection).await.expect("drops");
    assert_eq!(apply(&mut connection).await, Ok(Outcome::Applied));
    assert_eq!(apply(&mut connection).await, Ok(Outcome::UpToDate));
}

#[tokio::test]
async fn rows_of_one_user_are_hidden_from_another_in_postgrest_too() {
    let app = App::start(&[]).await;
    let (one, two) = (app.user(&[("openai_api_key", "secret")]).await, app.user(&[]).await);
    let mut transaction = app.db.begin().await.expect("begins");
    sqlx::raw_sql("set local role authenticated").execute(&mut *transaction).await.expect("a role");
    for (user, seen) in [(one, 1i64), (two, 0)] {
        sqlx::query("select set_config('request.jwt.claims', json_build_object('sub', $1)::text, true)")
            .bind(user.id)
            .execute(&mut *transaction)
            .await
            .expect("claims");
        let count: i64 = sqlx::query_scalar("select count(*) from public.profiles where openai_api_key = 'secret'")
            .fetch_one(&mut *transaction)
            .await
            .expect("a count");
        assert_eq!(count, seen);
    }
}

#[tokio::test]
async fn the_server_works_on_chatbot_uis_own_schema() {
    let database = postgres::supabase_database_for_an_app().await;
    let app = App::start_on(database, &[], ssrf_guard::system_lookup).await;
    let user = app.user(&[]).await;
    let answer = app.chat("openai", &user).send().await.expect("an answer");
    assert_eq!(
        message(answer).await,
        (500, "OpenAI API Key not found. Please set it in your profile settings.".to_owned())
    );
}
