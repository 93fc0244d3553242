//! The schema: who sees what, and where it can be made.

use chatbot_ui_api::cli::migrate;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::support::postgres;

async fn run(connection: &mut PgConnection, sql: &str) {
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))).await.expect("runs");
}

#[tokio::test]
async fn one_users_rows_are_never_anothers() {
    let database = postgres::database_with_ledger().await;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    let mut connection = PgConnection::connect(&database.superuser_url).await.expect("connects");
    for user in [one, other] {
        let rows = format!(
            "insert into chatbot_ui_api.usage (user_id, route, provider, model, ended) values ('{user}', '/', 'p', 'm', 'complete'); \
             insert into chatbot_ui_api.usage_days values (current_date, '{user}', '/', 'p', 'm', 'm', false, 1, 1, 1, 1, 1); \
             insert into chatbot_ui_api.budgets (user_id, period, unit, amount) values ('{user}', 'day', 'usd', 1);"
        );
        run(&mut connection, &rows).await;
    }
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'chatbot_ui_api'::regnamespace and relkind in ('r', 'v') \
           and relname <> 'migrations' order by 1",
    )
    .fetch_all(&mut connection)
    .await
    .expect("tables");
    assert!(tables.len() >= 10, "{tables:?}");
    run(&mut connection, &format!("set role authenticated; set request.jwt.claim.sub = '{one}'")).await;
    for table in &tables {
        let sql = format!("select user_id from chatbot_ui_api.{table}");
        let seen: sqlx::Result<Vec<Uuid>> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await;
        match table.as_str() {
            "usage" | "usage_days" | "budgets" => assert_eq!(seen.expect(table), [one], "{table}"),
            _ => assert!(seen.is_err(), "{table}"),
        }
        for change in ["delete from", "truncate"] {
            let sql = format!("{change} chatbot_ui_api.{table}");
            assert!(connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.is_err(), "{change} {table}");
        }
    }
    for call in ["report", "reserve"] {
        let sql = if call == "report" {
            "select chatbot_ui_api.report($1)"
        } else {
            "select chatbot_ui_api.reserve($1, '{}')"
        };
        let called: sqlx::Result<serde_json::Value> =
            Err(sqlx::query(sql).bind(other).execute(&mut connection).await.expect_err(call));
        assert!(called.is_err());
    }
}

#[tokio::test]
async fn the_schema_is_made_by_supabases_owner_and_made_again() {
    let url = postgres::supabase_database().await;
    let mut superuser = PgConnection::connect(&url).await.expect("connects");
    let shape = "select string_agg(c.oid::regclass || ' ' || coalesce(c.relacl::text, ''), ',' order by c.oid) \
                 from pg_class c where relnamespace in ('public'::regnamespace, 'auth'::regnamespace)";
    let before: String = sqlx::query_scalar(shape).fetch_one(&mut superuser).await.expect("a shape");
    let owner = format!("owner_{}", Uuid::new_v4().simple());
    run(
        &mut superuser,
        &format!(
            "create role {owner}; do $$ begin execute format('grant create on database %I to {owner}', current_database()); end $$; \
             alter schema chatbot_ui_api owner to {owner}; set role {owner}"
        ),
    )
    .await;
    for _ in 0..2 {
        migrate::make_ledger(&mut superuser).await.expect("makes it");
    }
    run(&mut superuser, "insert into chatbot_ui_api.budgets (period, unit, amount) values ('day', 'requests', 1)")
        .await;
    run(&mut superuser, "reset role").await;
    let after: String = sqlx::query_scalar(shape).fetch_one(&mut superuser).await.expect("a shape");
    assert_eq!(before, after);
    run(&mut superuser, &format!("drop schema chatbot_ui_api cascade; drop owned by {owner}; drop role {owner}")).await;
}
