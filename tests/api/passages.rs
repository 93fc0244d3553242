//! Passages in the database: how often it is waited for, what of a file is asked for again, and what happens to the
//! database meanwhile.

use std::time::{Duration, Instant};

use chatbot_ui_api::http_client::ssrf_guard;
use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    App, User, client, message,
    pgbouncer::PgBouncer,
    postgres,
    retrieval::{SERVICE_KEY, Stand, vector},
    rows::{self, File},
    turns::Turns,
};

async fn start(database: postgres::Database, stand: &Stand, settings: &[(&str, &str)]) -> App {
    let base = format!("{}/v1", stand.url);
    let all =
        [("SUPABASE_URL", stand.url.as_str()), ("SUPABASE_SERVICE_ROLE_KEY", SERVICE_KEY), ("OPENAI_BASE_URL", &base)];
    let all: Vec<_> = all.into_iter().chain(settings.iter().copied()).collect();
    App::start_on(database, &all, ssrf_guard::system_lookup).await
}

/// A file with this text.
async fn file(app: &App, stand: &Stand, user: &User, name: &str, text: &str) -> Uuid {
    let file = File { name, path: None, sharing: "private" }.insert(&app.db, user.id).await;
    stand.put(&format!("{}/{file}", user.id), text.into());
    file
}

async fn process(app: &App, user: &User, file: Uuid) -> (u16, String) {
    let form = format!("file_id={file}&embeddingsProvider=openai");
    let request = client().post(app.url("/api/retrieval/process")).header(AUTHORIZATION, user.bearer());
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("whole"))
}

async fn find(app: &App, user: &User, file: Uuid, question: &str) -> reqwest::Response {
    let body = json!({ "userInput": question, "fileIds": [file], "embeddingsProvider": "openai", "sourceCount": 1 });
    let request = client().post(app.url("/api/retrieval/retrieve")).header(AUTHORIZATION, user.bearer());
    request.body(body.to_string()).send().await.expect("an answer")
}

/// Asserts that this passage is the one found.
async fn finds(app: &App, user: &User, file: Uuid, passage: &str) {
    let text = find(app, user, file, passage).await.text().await.expect("whole");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["results"][0]["content"], passage, "{text:.300}");
    assert!(json["results"][0]["similarity"].as_f64().expect("a number") > 0.999);
}

/// What is stored of a file, each with its own vector.
async fn stored(db: &PgPool, file: Uuid) -> Vec<String> {
    let sql = "select content, openai_embedding::real[] from public.file_items where file_id = $1 order by created_at";
    let items: Vec<(String, Vec<f32>)> = sqlx::query_as(sql).bind(file).fetch_all(db).await.expect("items");
    for (content, embedding) in &items {
        assert_eq!(*embedding, vector(content), "each has its own vector");
    }
    items.into_iter().map(|(content, _)| content).collect()
}

/// A table of so many passages; these rows are marked.
fn table(rows: usize, marked: &[usize]) -> String {
    let rows = (0..rows).map(|row| {
        let mark = if marked.contains(&row) { "new" } else { "old" };
        format!("{mark} {row} '$$' {}\n", "\\ \"word\" ".repeat(300))
    });
    std::iter::once("a\n".to_owned()).chain(rows).collect()
}

#[tokio::test]
async fn the_database_is_waited_for_twice_to_search_and_three_times_to_store() {
    for pooled in [false, true] {
        let database = postgres::database().await;
        sqlx::query("drop index public.file_items_openai").execute(&database.pool).await.expect("an index");
        let pooler = if pooled { PgBouncer::start(&database.role_url).await } else { None };
        if pooled && pooler.is_none() {
            return;
        }
        let url = pooler.as_ref().map_or_else(|| database.role_url.clone(), |pooler| pooler.url(&database.role_url));
        let turns = Turns::before(&url).await;
        let url = turns.url(&url);
        let mode = if pooled { "transaction" } else { "session" };
        let stand = Stand::start();
        let settings =
            [("DATABASE_URL", url.as_str()), ("DATABASE_POOLER", mode), ("DATABASE_POOL_SIZE", "1"), ("USAGE", "off")];
        let app = start(database, &stand, &settings).await;
        let user = app.user(&[("openai_api_key", "k")]).await;
        let short = file(&app, &stand, &user, "a.txt", "the river carries salt").await;
        let long = file(&app, &stand, &user, "b.csv", &table(700, &[])).await;
        // What is prepared on a connection is prepared once.
        assert_eq!(process(&app, &user, short).await.0, 200);
        for (file, rows) in [(short, 1), (long, 700), (long, 700)] {
            turns.take();
            assert_eq!(process(&app, &user, file).await, (200, "Embed Successful".to_owned()));
            assert_eq!(turns.take(), 3, "storing {rows}, {mode}");
            assert_eq!(stored(&app.db, file).await.len(), rows);
        }
        finds(&app, &user, short, "the river carries salt").await;
        assert_eq!(turns.take(), 2, "searching, {mode}");

        turns.delay(Duration::from_millis(20));
        let started = Instant::now();
        finds(&app, &user, short, "the river carries salt").await;
        assert!(started.elapsed() > Duration::from_millis(40), "the proxy is in between");
    }
}

#[tokio::test]
async fn of_a_file_that_changed_only_the_changed_passages_are_asked_for() {
    let stand = Stand::start();
    let app = start(postgres::database().await, &stand, &[]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    let file = file(&app, &stand, &user, "a.csv", &table(30, &[])).await;
    let inputs = || -> Vec<usize> {
        stand.asked("k").iter().map(|asked| asked.body["input"].as_array().map_or(1, Vec::len)).collect()
    };
    assert_eq!(process(&app, &user, file).await.0, 200);
    let first = stored(&app.db, file).await;
    assert_eq!((first.len(), inputs()), (30, vec![30]));
    // Nothing changed.
    assert_eq!(process(&app, &user, file).await.0, 200);
    assert_eq!((stored(&app.db, file).await, inputs()), (first, vec![30]));
    // Two passages, and three more.
    stand.put(&format!("{}/{file}", user.id), table(33, &[4, 20]).into());
    assert_eq!(process(&app, &user, file).await.0, 200);
    let second = stored(&app.db, file).await;
    assert_eq!((second.len(), inputs()), (33, vec![30, 5]));
    assert!(second[4].starts_with("a: new 4") && second[32].starts_with("a: old 32"));

    // A passage without a vector, and one that somebody else put there, are nothing to keep.
    let sql = "update public.file_items set openai_embedding = null where file_id = $1 and content like 'a: new %'";
    sqlx::query(sql).bind(file).execute(&app.db).await.expect("an update");
    let other = app.user(&[]).await;
    let sql = "update public.file_items set user_id = $2 where file_id = $1 and content like 'a: old 7 %'";
    sqlx::query(sql).bind(file).bind(other.id).execute(&app.db).await.expect("an update");
    assert_eq!(process(&app, &user, file).await.0, 200);
    assert_eq!((stored(&app.db, file).await, inputs()), (second, vec![30, 5, 3]));
}

#[tokio::test]
async fn text_cannot_end_the_statement_that_stores_it() {
    let stand = Stand::start();
    let app = start(postgres::database().await, &stand, &[]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    for text in [
        "$$; drop table public.files; --",
        "it's $items_$ \\' \" \\u0000 \\x41 $1 $2",
        "{\"content\":\"x\"}]",
        "日本 😀",
    ] {
        let file = file(&app, &stand, &user, "a.txt", text).await;
        assert_eq!(process(&app, &user, file).await, (200, "Embed Successful".to_owned()));
        assert_eq!(stored(&app.db, file).await, [text]);
        finds(&app, &user, file, text).await;
    }
}

/// The type's number, its schema, the columns' types and the sessions change under a running server.
#[tokio::test]
async fn a_database_that_is_made_over_costs_no_error() {
    let stand = Stand::start();
    let database = postgres::database().await;
    let superuser = database.superuser_url.clone();
    let app = start(database, &stand, &[("DATABASE_POOL_SIZE", "3")]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    let file = file(&app, &stand, &user, "a.txt", "the river carries salt").await;
    // On a connection of its own, as its own statements go stale too.
    let change = async |sql: &'static str| {
        let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&superuser).await.expect("connects");
        sqlx::raw_sql(sql).execute(&mut connection).await.expect(sql);
    };
    let works = async |when: &str| {
        // Several at once, so that every connection of the pool is used.
        for _ in 0..2 {
            let all = (0..3).map(|_| async {
                assert_eq!(process(&app, &user, file).await, (200, "Embed Successful".to_owned()), "{when}");
                finds(&app, &user, file, "the river carries salt").await;
            });
            futures::future::join_all(all).await;
        }
    };
    works("at first").await;
    change(
        "drop extension vector cascade; create type mood as enum ('sad'); create extension vector; \
         alter table public.file_items add openai_embedding vector(1536), add local_embedding vector(384); \
         grant select (local_embedding, openai_embedding), insert (local_embedding, openai_embedding) \
           on public.file_items to chatbot_ui_api",
    )
    .await;
    works("the extension was made anew").await;
    change(
        "create schema elsewhere; grant usage on schema elsewhere to chatbot_ui_api; \
         alter extension vector set schema elsewhere",
    )
    .await;
    works("the extension was moved").await;
    change(
        "alter table public.profiles alter openai_api_key type varchar(500); \
         alter table public.files alter name type varchar(90), alter file_path type varchar(900); \
         alter table public.file_items alter content type varchar(9000)",
    )
    .await;
    works("columns have another type").await;
    change("drop table if exists public.collection_files, public.collections").await;
    works("there are no collections").await;
}

/// Above 10,000 passages the index is used, whose result is completed where it is too short.
#[tokio::test]
async fn among_very_many_passages_the_nearest_is_found_by_the_index() {
    let stand = Stand::start();
    let app = start(postgres::database().await, &stand, &[]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    let file = file(&app, &stand, &user, "a.txt", "x").await;
    sqlx::query(
        "insert into public.file_items (file_id, user_id, content, tokens) \
         select $1, $2, 'without a vector', 1 from generate_series(1, 10000)",
    )
    .bind(file)
    .bind(user.id)
    .execute(&app.db)
    .await
    .expect("many");
    for number in 0..20 {
        let content = format!("passage {number}");
        rows::item(&app.db, user.id, file, (&content, 1), &vector(&content)).await;
    }
    finds(&app, &user, file, "passage 7").await;
    let body =
        json!({ "userInput": "passage 7", "fileIds": [file], "embeddingsProvider": "openai", "sourceCount": 50 });
    let request = client().post(app.url("/api/retrieval/retrieve")).header(AUTHORIZATION, user.bearer());
    let text = request.body(body.to_string()).send().await.expect("an answer").text().await.expect("whole");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let found = json["results"].as_array().expect("results");
    assert_eq!((found.len(), &found[0]["content"], &found[49]["similarity"]), (50, &json!("passage 7"), &Value::Null));
}

#[tokio::test]
async fn a_database_without_the_tables_is_an_error_of_this_server() {
    let stand = Stand::start();
    let app = start(postgres::database().await, &stand, &[]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    sqlx::raw_sql("drop table public.file_items").execute(&app.db).await.expect("dropped");
    let answer = message(find(&app, &user, Uuid::new_v4(), "x").await).await;
    assert_eq!(answer, (500, "An unexpected error occurred".to_owned()));
}
