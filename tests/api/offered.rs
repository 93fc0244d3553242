//! `models sync` and the models that it offers: rows without keys, answered by
//! the provider's own API with the server's key.

use std::time::Duration;

use chatbot_ui_api::http_client::ssrf_guard;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::support::{
    App, User,
    binary::{Said, run},
    chat_body, message, postgres,
    upstream::{Recorded, Reply, Step, Upstream},
};

const KEY: &str = "sk-case-offered";

/// OpenAI's, Anthropic's and Google's answer, by the path.
fn provider() -> Upstream {
    Upstream::answering(|request: &Recorded| {
        let wait = Step::Wait(Duration::ZERO);
        if request.path.ends_with("/v1/messages") {
            let start = json!({ "type": "message_start", "message": { "usage": {} } });
            let delta = json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "Claude" } });
            let stop = json!({ "type": "message_stop" });
            let events = [("message_start", start), ("content_block_delta", delta), ("message_stop", stop)];
            let events = events.map(|(name, data)| format!("event: {name}\ndata: {data}\n\n"));
            return Reply::events(&events.each_ref().map(String::as_str), wait);
        }
        if request.path.contains(":streamGenerateContent") {
            let chunk =
                json!({ "candidates": [{ "content": { "parts": [{ "text": "Gemini" }] }, "finishReason": "STOP" }] });
            return Reply::events(&[&format!("data: {chunk}\n\n")], wait);
        }
        let delta = json!({ "choices": [{ "delta": { "content": "GPT" }, "finish_reason": "stop" }] });
        Reply::events(&[&format!("data: {delta}\n\n"), "data: [DONE]\n\n"], wait)
    })
}

async fn sync(url: &str, models: &str, arguments: &[&str]) -> Said {
    let said = run(&[&["models", "sync"], arguments].concat(), &[("DATABASE_URL", url), ("MODELS", models)]).await;
    assert_eq!((said.status, said.err.as_str()), (0, ""), "{}", said.out);
    said
}

/// Every offered model: its owner, address, id, name, window.
async fn rows(db: &PgPool) -> Vec<(Uuid, String, String, String, i32)> {
    let sql = "select user_id, base_url, model_id, name, context_length from public.models \
               where base_url like 'server:%' and api_key = '' and sharing = 'public' order by user_id, model_id";
    sqlx::query_as(sql).fetch_all(db).await.expect("rows")
}

async fn ids(db: &PgPool, user: &User) -> Vec<Uuid> {
    let sql = "select id from public.models where user_id = $1 order by model_id";
    sqlx::query_scalar(sql).bind(user.id).fetch_all(db).await.expect("rows")
}

async fn ask(app: &App, user: &User, id: Uuid) -> reqwest::Response {
    let mut body = chat_body();
    body["customModelId"] = id.to_string().into();
    body["messages"] = json!([{ "role": "system", "content": "S" }, { "role": "user", "content": "U" }]);
    app.chat("custom", user).body(body.to_string()).send().await.expect("an answer")
}

#[tokio::test]
async fn a_row_a_model_and_user_is_answered_and_taken_away() {
    let upstream = provider();
    let database = postgres::database().await;
    let url = database.superuser_url.clone();
    let base = format!("{}/v1", upstream.url());
    // The server is not told of MODELS: the database is.
    let settings = [("OPENAI_API_KEY", KEY), ("OPENAI_BASE_URL", base.as_str())];
    let app = App::start_on(database, &settings, ssrf_guard::system_lookup).await;
    let users = [app.user(&[("openai_api_key", "sk-of-a-user")]).await, app.user(&[]).await];

    let dry = sync(&url, "openai:gpt-4o", &["--dry-run"]).await;
    assert!(dry.out.contains("2 would be added") && rows(&app.db).await.is_empty(), "{}", dry.out);
    let said = sync(&url, "openai:gpt-4o", &[]).await;
    assert!(said.out.contains("2 added") && said.out.contains("OPENAI_API_KEY"), "{}", said.out);
    assert!(sync(&url, "openai:gpt-4o", &[]).await.out.contains("0 added, 0 updated, 0 removed"));
    let made = rows(&app.db).await;
    assert_eq!(made.len(), 2);
    for (user, base_url, model, name, context) in &made {
        assert!(users.iter().any(|it| it.id == *user));
        assert_eq!(
            (base_url.as_str(), model.as_str(), name.as_str(), *context),
            ("server:openai", "gpt-4o", "GPT-4o", 128_000)
        );
    }
    for user in &users {
        let [id] = ids(&app.db, user).await[..] else { panic!("one row") };
        let answer = ask(&app, user, id).await;
        assert_eq!((answer.status().as_u16(), answer.headers()["x-model"].to_str().ok()), (200, Some("gpt-4o")));
        assert_eq!(answer.text().await.expect("text"), "GPT");
    }
    let asked = upstream.all();
    assert!(asked.iter().all(|request| request.header("authorization") == Some(&format!("Bearer {KEY}"))), "{asked:?}");
    assert_eq!(serde_json::from_slice::<Value>(&asked[0].body).expect("JSON")["model"], "gpt-4o", "the row's");

    let joined = app.user(&[]).await;
    let said = sync(&url, "openai:gpt-4o=Ours,google:gemini-3.8-flash", &[]).await;
    assert!(said.out.contains("4 added, 2 updated, 0 removed"), "{}", said.out);
    assert_eq!(ids(&app.db, &joined).await.len(), 2);
    let said = sync(&url, "google:gemini-3.8-flash", &[]).await;
    assert!(said.out.contains("0 added, 0 updated, 3 removed"), "{}", said.out);
    assert!(sync(&url, "", &["--remove"]).await.out.contains("3 removed"));
    assert!(rows(&app.db).await.is_empty());
    let nothing = run(&["models", "sync"], &[("DATABASE_URL", &url)]).await;
    assert!(nothing.status == 1 && nothing.err.contains("set MODELS"), "{nothing:?}");
}

#[tokio::test]
async fn each_provider_is_asked_in_its_own_way() {
    let upstream = provider();
    let database = postgres::database().await;
    let (url, base) = (database.superuser_url.clone(), upstream.url());
    let models = "openai:gpt-4o,anthropic:claude-opus-5-5,google:gemini-3.8-flash";
    let settings = [
        ("MODELS", models),
        ("OPENAI_API_KEY", KEY),
        ("ANTHROPIC_API_KEY", KEY),
        ("GOOGLE_GEMINI_API_KEY", KEY),
        ("OPENAI_BASE_URL", &base),
        ("ANTHROPIC_BASE_URL", &base),
        ("GOOGLE_GEMINI_BASE_URL", &base),
    ];
    let app = App::start_on(database, &settings, ssrf_guard::system_lookup).await;
    let user = app.user(&[]).await;
    sync(&url, models, &[]).await;
    let mut texts = Vec::new();
    for id in ids(&app.db, &user).await {
        texts.push(ask(&app, &user, id).await.text().await.expect("text"));
        // The route for tools, too, by the row's id.
        let mut body = chat_body();
        body["customModelId"] = id.to_string().into();
        body["selectedTools"] = json!([]);
        let answer = app.chat("tools", &user).body(body.to_string()).send().await.expect("an answer");
        assert_eq!(answer.text().await.expect("text"), *texts.last().expect("one"));
    }
    assert_eq!(texts, ["Claude", "Gemini", "GPT"]);
    let paths: Vec<String> = upstream.all().into_iter().map(|request| request.path).collect();
    assert_eq!(
        [&paths[0], &paths[2], &paths[4]],
        ["/v1/messages", "/v1beta/models/gemini-3.8-flash:streamGenerateContent", "/chat/completions"]
    );
}

#[tokio::test]
async fn a_row_that_a_user_wrote_spends_nothing() {
    let upstream = provider();
    let base = upstream.url();
    let settings =
        [("OPENAI_API_KEY", KEY), ("OPENAI_BASE_URL", base.as_str()), ("MODELS", "openai:gpt-4o,claude-opus-5-5")];
    let app = App::start(&settings).await;
    let user = app.user(&[("openai_api_key", "sk-of-a-user"), ("anthropic_api_key", "sk-of-a-user")]).await;
    let write = async |base_url: &str, model: &str| -> Uuid {
        let sql = "insert into public.models (user_id, base_url, api_key, sharing, description, model_id, name) \
                   values ($1, $2, '', 'private', '', $3, '') returning id";
        sqlx::query_scalar(sql).bind(user.id).bind(base_url).bind(model).fetch_one(&app.db).await.expect("a row")
    };
    for (base_url, model) in [
        ("server:openai", "gpt-5.5-pro"),
        ("server:groq", "gpt-4o"),
        ("server:", "gpt-4o"),
        ("server:nobody", "gpt-4o"),
        (" server:openai ", "gpt-4o\n"),
    ] {
        let (status, words) = message(ask(&app, &user, write(base_url, model).await).await).await;
        assert_eq!(status, 403, "{base_url}: {words}");
        assert!(words.contains("does not offer this model"), "{words}");
    }
    let (status, words) = message(ask(&app, &user, write("server:anthropic", "claude-opus-5-5").await).await).await;
    assert!(status == 500 && words.contains("has no key for Anthropic"), "the user's own is not used: {words}");
    assert_eq!(upstream.connections(), 0);
    // What is offered is no harm, whoever wrote the row.
    assert_eq!(ask(&app, &user, write("server:openai", "gpt-4o").await).await.status(), 200);
}

#[tokio::test]
async fn without_the_setting_only_what_was_synced_is_offered() {
    let upstream = provider();
    let base = upstream.url();
    let app = App::start(&[("OPENAI_API_KEY", KEY), ("OPENAI_BASE_URL", &base)]).await;
    let user = app.user(&[]).await;
    let sql = "insert into public.models (user_id, base_url, api_key, sharing, description, model_id, name) \
               values ($1, 'server:openai', '', 'private', '', 'gpt-4o', '') returning id";
    let id = sqlx::query_scalar(sql).bind(user.id).fetch_one(&app.db).await.expect("a row");
    assert_eq!(ask(&app, &user, id).await.status(), 403);
    // Nor where the table is not there or may not be read.
    for sql in
        ["revoke all on chatbot_ui_api.offered_models from chatbot_ui_api", "drop table chatbot_ui_api.offered_models"]
    {
        sqlx::raw_sql(sql).execute(&app.db).await.expect("runs");
        assert_eq!(ask(&app, &user, id).await.status(), 403);
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn on_chatbot_uis_schema_the_models_are_in_the_home_workspace() {
    let database = postgres::supabase_database_for_an_app().await;
    let (url, db) = (database.superuser_url.clone(), database.pool.clone());
    let [one, other] = [User::create(&db, &[]).await, User::create(&db, &[]).await];
    // By the role of docs/role.sql, whose rows are hidden but for policies.
    let said = sync(&database.role_url, "openai:gpt-4o,claude-opus-5-5", &[]).await;
    assert!(said.out.contains("4 added") && said.out.contains("4 put into home workspaces"), "{}", said.out);
    let shown: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "select shown.user_id, workspace.user_id from public.model_workspaces shown \
         join public.models model on model.id = shown.model_id and model.user_id = shown.user_id \
         join public.workspaces workspace on workspace.id = shown.workspace_id and workspace.is_home order by 1",
    )
    .fetch_all(&db)
    .await
    .expect("rows");
    assert!(shown.len() == 4 && shown.iter().all(|(model, workspace)| model == workspace), "{shown:?}");

    // As PostgREST reads for a user: its own rows, and others' that are shared, without a key in any.
    let mut as_user = PgConnection::connect(&url).await.expect("connects");
    sqlx::raw_sql(
        "do $$ begin create role offered_reader nologin; exception when duplicate_object or unique_violation then null; end $$; \
         grant usage on schema public, auth to offered_reader; grant select, delete on all tables in schema public to offered_reader; \
         set role offered_reader",
    )
    .execute(&mut as_user)
    .await
    .expect("a role");
    let claim = format!("set request.jwt.claim.sub = '{}'", one.id);
    sqlx::raw_sql(sqlx::AssertSqlSafe(claim)).execute(&mut as_user).await.expect("a user");
    let read =
        sqlx::query("select count(*), count(nullif(api_key, '')) from public.models").fetch_one(&mut as_user).await;
    let read = read.expect("a row");
    assert_eq!((read.get::<i64, _>(0), read.get::<i64, _>(1)), (4, 0));
    let picker =
        "select count(*) from public.model_workspaces join public.models on models.id = model_workspaces.model_id";
    assert_eq!(sqlx::query_scalar::<_, i64>(picker).fetch_one(&mut as_user).await.expect("a count"), 2);

    // The role may write no other rows, and a user's own models stay.
    let own = crate::support::rows::model(&db, other.id, "http://h/v1", "sk-own").await;
    let mut role = PgConnection::connect(&database.role_url).await.expect("connects");
    for sql in [
        "delete from public.models where base_url = 'http://h/v1'",
        "update public.models set name = 'x' where base_url = 'http://h/v1'",
    ] {
        assert_eq!(sqlx::raw_sql(sql).execute(&mut role).await.expect("runs").rows_affected(), 0, "{sql}");
    }
    assert!(sync(&database.role_url, "", &["--remove"]).await.out.contains("4 removed"));
    let left: Vec<Uuid> = sqlx::query_scalar("select id from public.models").fetch_all(&db).await.expect("rows");
    assert_eq!(left, [own]);
}

#[tokio::test]
async fn a_server_with_the_setting_offers_the_models_itself() {
    let database = postgres::database().await;
    let user = User::create(&database.pool, &[]).await;
    let variables = [("DATABASE_URL", database.role_url.as_str()), ("MODELS", "openai:gpt-4o"), ("PORT", "0")];
    let mut servers = Vec::new();
    // Two at once: one of them does it.
    for _ in 0..2 {
        servers
            .push(crate::support::binary::command(&["serve"], &variables).stderr(std::process::Stdio::null()).spawn());
    }
    let mut ids = Vec::new();
    for _ in 0..400 {
        ids = self::ids(&database.pool, &user).await;
        if !ids.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ids.len(), 1);
    assert!(servers.iter().all(Result::is_ok));
}
