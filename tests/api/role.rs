//! The role of `docs/role.sql`: on a Supabase project as it is since April 2025, and while its function comes and goes.

use chatbot_ui_api::http_client::ssrf_guard;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{App, User, message, postgres};

const NO_KEY: &str = "OpenAI API Key not found. Please set it in your profile settings.";
const REFUSED: &str = "The access token is not accepted. Sign in again for a new one.";

async fn answer(app: &App, user: &User) -> (u16, String) {
    message(app.chat("openai", user).send().await.expect("an answer")).await
}

async fn sql(app: &App, sql: &'static str) {
    app.db.execute(sqlx::raw_sql(sql)).await.expect(sql);
}

#[tokio::test]
async fn a_hosted_projects_role_serves_and_does_no_more() {
    let database = postgres::hosted_database().await;
    let mut role = PgConnection::connect(&database.role_url).await.expect("connects");
    let app = App::start_on(database, &[], ssrf_guard::system_lookup).await;
    let (lives, out, banned) = (app.user(&[]).await, app.user(&[]).await, app.user(&[]).await);
    assert_eq!(answer(&app, &lives).await, (500, NO_KEY.to_owned()));
    sqlx::query("delete from auth.sessions where id = $1").bind(out.session).execute(&app.db).await.expect("deletes");
    let ban = "update auth.users set banned_until = now() + interval '1 hour' where id = $1";
    sqlx::query(ban).bind(banned.id).execute(&app.db).await.expect("updates");
    for user in [out, banned, User { session: lives.session, ..banned }] {
        assert_eq!(answer(&app, &user).await, (401, REFUSED.to_owned()));
    }
    for refused in [
        "select email from auth.users",
        "select id from auth.sessions",
        "select deleted_at from auth.users",
        "delete from public.profiles",
        "create function chatbot_ui_api.f() returns int language sql as 'select 1'",
    ] {
        let error = role.execute(refused).await.expect_err(refused);
        assert!(error.to_string().contains("permission denied"), "{refused}: {error}");
    }
    let bypasses: bool = sqlx::query_scalar("select rolbypassrls from pg_roles where rolname = 'chatbot_ui_api'")
        .fetch_one(&app.db)
        .await
        .expect("a role");
    assert!(!bypasses);
}

#[tokio::test]
async fn the_function_may_come_and_go_while_the_server_runs() {
    let app = App::start(&[]).await;
    let user = app.user(&[]).await;
    assert_eq!(answer(&app, &user).await, (500, NO_KEY.to_owned()));
    sql(&app, "drop function chatbot_ui_api.account_state").await;
    assert_eq!(answer(&app, &user).await, (500, "An unexpected error occurred".to_owned()));
    sql(&app, "grant usage on schema auth to chatbot_ui_api; grant select on auth.users, auth.sessions to chatbot_ui_api; \
               create policy a on auth.users to chatbot_ui_api using (true); create policy a on auth.sessions to chatbot_ui_api using (true)")
    .await;
    assert_eq!(answer(&app, &user).await, (500, NO_KEY.to_owned()), "by the tables");
    sql(&app, "revoke usage on schema auth from chatbot_ui_api").await;
    let role = include_str!("../../docs/role.sql");
    sql(&app, role).await;
    assert_eq!(answer(&app, &user).await, (500, NO_KEY.to_owned()), "by the function again");
}
