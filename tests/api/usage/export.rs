//! The command `usage`, the roll-up of old rows, and prices that change.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{report, settled, start};
use crate::support::{App, User, binary, postgres, upstream::Upstream};

/// A row of the ledger for a user, so many days ago.
async fn row(app: &App, user: &User, days: i32, model: &str) {
    let sql = "insert into chatbot_ui_api.usage (user_id, at, route, provider, model, served_model, input_tokens, \
               cached_tokens, output_tokens, ended) \
               values ($1, now() - $2 * interval '1 day', '/api/chat/openai', 'openai', $3, $3, 1000, 0, 100, 'complete')";
    sqlx::query(sql).bind(user.id).bind(days).bind(model).execute(&app.db).await.expect("a row");
}

#[tokio::test]
async fn old_rows_become_days_and_nothing_is_lost() {
    let database = postgres::database_with_ledger().await;
    let user = User::create(&database.pool, &[]).await;
    let many = "insert into chatbot_ui_api.usage (user_id, at, route, provider, model, served_model, input_tokens, output_tokens, ended) \
                select $1, now() - n % 40 * interval '1 day', '/api/chat/openai', 'openai', 'gpt-4', 'gpt-4', 1000, 100, 'complete' \
                from generate_series(0, 11999) n";
    sqlx::query(many).bind(user.id).execute(&database.pool).await.expect("rows");
    let url = database.superuser_url.clone();
    let settings = [("USAGE_KEEP_DAYS", "1")];
    let app = App::start_on(database, &settings, chatbot_ui_api::http_client::ssrf_guard::system_lookup).await;
    let started = Instant::now();
    let left = "select count(*) from chatbot_ui_api.usage";
    while sqlx::query_scalar::<_, i64>(left).fetch_one(&app.db).await.expect("a count") > 600 {
        assert!(started.elapsed() < Duration::from_secs(20), "old rows stay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let arguments = ["usage", "--by", "model", "--json", "--user", &user.id.to_string()];
    let said = binary::run(&arguments, &[("DATABASE_URL", &url)]).await;
    assert_eq!(said.status, 0, "{}", said.err);
    let all: Value = serde_json::from_str(&said.out).expect("JSON");
    let expected = json!([{
        "provider": "openai", "model": "gpt-4", "requests": 12_000, "input_tokens": 12_000_000, "cached_tokens": 0,
        "output_tokens": 1_200_000, "reasoning_tokens": 0, "tokens": 13_200_000, "usd": 432
    }]);
    assert_eq!(all, expected);
    let days: i64 =
        sqlx::query_scalar("select count(*) from chatbot_ui_api.usage_days").fetch_one(&app.db).await.expect("a count");
    assert_eq!(days, 38);
}

#[tokio::test]
async fn the_command_groups_by_day_model_and_user() {
    let upstream = Upstream::start().await;
    let database = postgres::database_with_ledger().await;
    let (superuser, role) = (database.superuser_url.clone(), database.role_url.clone());
    let app = App::start_on(database, &[], chatbot_ui_api::http_client::ssrf_guard::system_lookup).await;
    drop(upstream);
    let (one, other) = (app.user(&[]).await, app.user(&[]).await);
    row(&app, &one, 0, "gpt-4").await;
    row(&app, &one, 1, "=cmd,x").await;
    row(&app, &other, 0, "gpt-4").await;
    let run = async |arguments: &[&str], url: &str| {
        let said = binary::run(&[&["usage"], arguments].concat(), &[("DATABASE_URL", url)]).await;
        assert_eq!(said.status, 0, "{}", said.err);
        said.out
    };
    assert_eq!(run(&[], &role).await.lines().count(), 3);
    let by_model = run(&["--by", "model", "--csv"], &role).await;
    assert!(by_model.contains("\nopenai,\"'=cmd,x\",1,1000,0,100,0,1100,"), "{by_model}");
    // The server's role may not read addresses.
    assert!(run(&["--by", "user", "--csv"], &role).await.contains(&format!("\n{},2,", one.id)));
    let address = crate::support::tokens::email(one.id);
    assert!(run(&["--by", "user", "--csv"], &superuser).await.contains(&format!("\n{address},2,")));
    let own = run(&["--user", &address, "--csv"], &superuser).await;
    assert_eq!(own.lines().count(), 3, "{own}");
    let nobody = binary::run(&["usage", "--user", "nobody@example.com"], &[("DATABASE_URL", &superuser)]).await;
    assert!(nobody.status == 1 && nobody.err.contains("no user has the address"), "{}", nobody.err);
    let without = postgres::empty_database().await;
    let said = binary::run(&["usage"], &[("DATABASE_URL", &without)]).await;
    assert!(said.status == 1 && said.err.contains("migrate --usage"), "{}", said.err);
}

#[tokio::test]
async fn a_corrected_price_corrects_the_past_and_the_budgets() {
    let upstream = Upstream::start().await;
    let app = start(&upstream, &[]).await;
    let user = app.user(&[]).await;
    row(&app, &user, 0, "m").await;
    super::budget(&app.db, None, None, "usd", 10.0).await;
    let price = async |input: f64| {
        let sql = "select chatbot_ui_api.set_prices(jsonb_build_array(jsonb_build_object('provider', 'openai', 'model', 'm', 'input', $1::float8)))";
        sqlx::query(sql).bind(input).execute(&app.db).await.expect("a price");
    };
    for (input, usd) in [(1000.0, 1.0), (2000.0, 2.0)] {
        price(input).await;
        let figures = report(&app, &user).await;
        assert_eq!(figures["month"]["usd"].as_f64(), Some(usd));
        assert_eq!(figures["budgets"][0]["left"].as_f64(), Some(10.0 - usd));
    }
    settled(&app.db, 1).await;
}
