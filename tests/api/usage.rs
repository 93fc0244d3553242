//! The ledger and the budgets.

mod budgets;
mod export;
mod failures;
mod rows;
mod schema;

use std::time::{Duration, Instant};

use chatbot_ui_api::http_client::ssrf_guard;
use reqwest::header::AUTHORIZATION;
use serde_json::Value;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::support::{App, User, client, postgres, upstream::Upstream};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5,\
    \"prompt_tokens_details\":{\"cached_tokens\":4},\"completion_tokens_details\":{\"reasoning_tokens\":2}}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A server with a ledger.
async fn start(upstream: &Upstream, settings: &[(&str, &str)]) -> App {
    let base = format!("{}/v1", upstream.url());
    let settings = [&[("OPENAI_BASE_URL", base.as_str())], settings].concat();
    App::start_on(postgres::database_with_ledger().await, &settings, ssrf_guard::system_lookup).await
}

/// A row of the ledger, without its id and time.
#[derive(FromRow, Debug, Clone, PartialEq)]
struct Row {
    user_id: Uuid,
    route: String,
    provider: String,
    model: String,
    served_model: Option<String>,
    input_tokens: i64,
    cached_tokens: i64,
    output_tokens: i64,
    reasoning_tokens: i64,
    ended: String,
    own_key: bool,
    estimated: bool,
}

/// The ledger, once it has so many rows and nothing is reserved.
async fn settled(db: &PgPool, count: usize) -> Vec<Row> {
    let started = Instant::now();
    loop {
        let rows: Vec<Row> =
            sqlx::query_as("select * from chatbot_ui_api.usage order by at").fetch_all(db).await.expect("rows");
        let held: i64 = sqlx::query_scalar("select count(*) from chatbot_ui_api.reservations")
            .fetch_one(db)
            .await
            .expect("a count");
        if rows.len() == count && held == 0 {
            return rows;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{held} reserved, {rows:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn budget(db: &PgPool, user: Option<Uuid>, model: Option<&str>, unit: &str, amount: f64) {
    let sql = "insert into chatbot_ui_api.budgets (user_id, model, period, unit, amount, scope) \
               values ($1, $2, 'day', $3, $4::float8::numeric, 'all')";
    sqlx::query(sql).bind(user).bind(model).bind(unit).bind(amount).execute(db).await.expect("a budget");
}

async fn report(app: &App, user: &User) -> Value {
    let answer =
        client().get(app.url("/api/usage")).header(AUTHORIZATION, user.bearer()).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON")
}
