//! The database away, restarted, slow, busy, and behind a pooler.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use chatbot_ui_api::{
    db::inspect::{self, Source},
    http_client::ssrf_guard,
};
use futures::future::join_all;
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use crate::support::{
    App, User, chat_body, client,
    gate::Gate,
    message,
    pgbouncer::PgBouncer,
    postgres, rows,
    turns::Turns,
    upstream::{Reply, Step, Upstream},
};

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const AWAY: &str = "The database is not available. Please try again in a moment.";

/// A database's address, and its URL by way of a gate.
fn through(gate: &Gate, url: &str) -> (SocketAddr, String) {
    let mut url = url::Url::parse(url).expect("a URL");
    let there = SocketAddr::from(([127, 0, 0, 1], url.port().expect("a port")));
    url.set_port(Some(gate.address.port())).expect("a port");
    (there, url.to_string())
}

async fn text(app: &App, user: &User) -> String {
    let answer = app.chat("openai", user).send().await.expect("an answer");
    answer.text().await.expect("whole")
}

/// Waits until the server is ready.
async fn ready(app: &App) {
    let started = Instant::now();
    while client().get(app.url("/readyz")).send().await.expect("an answer").status() != 200 {
        assert!(started.elapsed() < Duration::from_secs(10), "it does not recover");
    }
}

async fn away(app: &App, user: &User) {
    // The last look counts for a second.
    let started = Instant::now();
    while client().get(app.url("/readyz")).send().await.expect("an answer").status() == 200 {
        assert!(started.elapsed() < Duration::from_secs(2), "it is not noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for request in [client().get(app.url("/readyz")), app.chat("openai", user)] {
        let started = Instant::now();
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.headers()["retry-after"], "2");
        assert_eq!(message(answer).await, (503, AWAY.to_owned()));
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_database_that_comes_later_is_used_without_a_restart() {
    let upstream = Upstream::start().await;
    let base = format!("{}/v1", upstream.url());
    upstream.script("sk-case-later", vec![Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
    let database = postgres::database().await;
    let gate = Gate::new();
    let (there, url) = through(&gate, &database.role_url);
    let app =
        App::start_on(database, &[("DATABASE_URL", &url), ("OPENAI_BASE_URL", &base)], ssrf_guard::system_lookup).await;
    let user = app.user(&[("openai_api_key", "sk-case-later")]).await;
    away(&app, &user).await;
    gate.open(there);
    ready(&app).await;
    assert_eq!(text(&app, &user).await, "Hello");
}

#[tokio::test]
async fn a_restart_of_the_database_leaves_streams_alone_and_needs_none_of_the_server() {
    let upstream = Upstream::start().await;
    let base = format!("{}/v1", upstream.url());
    let folder = std::env::temp_dir().join(format!("chatbot-ui-api-restart-{}", std::process::id()));
    let server = postgres::own_server(folder.clone(), false).await;
    let gate = Gate::new();
    let database = postgres::own_database(&server).await;
    let (there, url) = through(&gate, &database.role_url);
    gate.open(there);
    let app =
        App::start_on(database, &[("DATABASE_URL", &url), ("OPENAI_BASE_URL", &base)], ssrf_guard::system_lookup).await;
    let user = app.user(&[("openai_api_key", "sk-case-restart")]).await;
    let long = Reply {
        steps: vec![
            Step::Write(DELTA.into()),
            Step::WaitForRelease,
            Step::Write(DELTA.into()),
            Step::Write(DONE.into()),
        ],
        ..Reply::default()
    };
    upstream.script("sk-case-restart", vec![long, Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
    let mut stream = app.chat("openai", &user).send().await.expect("an answer");
    assert_eq!(stream.chunk().await.expect("text").as_deref(), Some(&b"Hello"[..]));
    // Connections lie in the pool, in use a moment ago.
    assert_eq!(text(&app, &user).await, "Hello");

    server.stop().await.expect("it stops");
    let refused = app.chat("openai", &user).send().await.expect("an answer");
    assert_eq!(message(refused).await, (503, AWAY.to_owned()));
    gate.close();
    away(&app, &user).await;
    let server = postgres::own_server(folder, true).await;
    let (there, _) = through(&gate, &server.url("template_own"));
    gate.open(there);
    ready(&app).await;
    assert_eq!(text(&app, &user).await, "Hello");
    upstream.release("sk-case-restart");
    assert_eq!(stream.text().await.expect("unbroken"), "Hello");
}

#[tokio::test]
async fn a_slow_database_is_waited_for_so_long_and_keeps_no_connection() {
    let app = App::start(&[("DATABASE_POOL_SIZE", "2")]).await;
    let user = app.user(&[]).await;
    ready(&app).await;
    let mut lock = app.db.begin().await.expect("a transaction");
    sqlx::raw_sql("lock table public.profiles in access exclusive mode").execute(&mut *lock).await.expect("locks");
    for _ in 0..2 {
        let started = Instant::now();
        let answers = join_all((0..4).map(|_| app.chat("openai", &user).send())).await;
        for answer in answers {
            let answer = answer.expect("an answer");
            assert_eq!(answer.headers()["retry-after"], "2");
            assert_eq!(message(answer).await, (503, AWAY.to_owned()));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
    // Statements that timed out do not stay with Postgres either.
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let gone = async {
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&app.db).await.expect("a count") > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("given up");
    lock.rollback().await.expect("unlocks");
    ready(&app).await;
    let answer = app.chat("openai", &user).send().await.expect("an answer");
    assert!(message(answer).await.1.starts_with("OpenAI API Key not found"));
}

/// A server with so many connections to its database, by way of an open gate.
async fn behind_a_gate(pool_size: &str) -> (Gate, App) {
    let database = postgres::database().await;
    let gate = Gate::new();
    let (there, url) = through(&gate, &database.role_url);
    gate.open(there);
    let settings = [("DATABASE_URL", url.as_str()), ("DATABASE_POOL_SIZE", pool_size)];
    let app = App::start_on(database, &settings, ssrf_guard::system_lookup).await;
    (gate, app)
}

#[tokio::test]
async fn connections_that_went_dead_in_use_are_replaced() {
    let (gate, app) = behind_a_gate("2").await;
    let user = app.user(&[]).await;
    let ask = || async { message(app.chat("openai", &user).send().await.expect("an answer")).await };
    assert!(join_all((0..4).map(|_| ask())).await.iter().all(|(status, _)| *status == 500), "all are let in");
    gate.strand();
    // They wait for the dead, or for a place to connect anew.
    for (status, _) in join_all((0..2).map(|_| ask())).await {
        assert!(matches!(status, 500 | 503), "{status}");
    }
    ready(&app).await;
    assert!(ask().await.1.starts_with("OpenAI API Key not found"));
}

#[tokio::test]
async fn connections_that_went_dead_on_their_way_back_are_replaced() {
    // Postgres's `Sync` alone, by which the pool tests a connection.
    const SYNC: &[u8] = b"S\0\0\0\x04";
    let (gate, app) = behind_a_gate("1").await;
    let user = app.user(&[]).await;
    let ask = || async { message(app.chat("openai", &user).send().await.expect("an answer")).await };
    gate.strand_at(SYNC);
    assert!(ask().await.1.starts_with("OpenAI API Key not found"));
    // Waits for the only connection, which is dead: about as long as the pool does.
    let (status, _) = ask().await;
    assert!(matches!(status, 500 | 503), "{status}");
    gate.strand_at(b"");
    ready(&app).await;
    assert!(ask().await.1.starts_with("OpenAI API Key not found"));
}

#[tokio::test]
async fn a_pool_that_is_used_up_is_waited_for_so_long() {
    let app = App::start(&[("DATABASE_POOL_SIZE", "1")]).await;
    let (user, other) = (app.user(&[]).await, app.user(&[]).await);
    ready(&app).await;
    // One that has to wait for a row lock holds the only connection.
    let mut lock = app.db.begin().await.expect("a transaction");
    sqlx::raw_sql("lock table public.profiles in access exclusive mode").execute(&mut *lock).await.expect("locks");
    let holding = tokio::spawn(app.chat("openai", &user).send());
    let held = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(held).fetch_one(&app.db).await.expect("a count") == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = Instant::now();
    let answer = app.chat("openai", &other).send().await.expect("an answer");
    let took = started.elapsed();
    assert_eq!(answer.headers()["retry-after"], "2");
    assert_eq!(message(answer).await, (503, AWAY.to_owned()));
    assert!((Duration::from_millis(1500)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(holding.await.expect("no panic").expect("an answer").status(), 503);
}

/// Twenty at once, each several times, on two connections of the real pooler.
#[tokio::test]
async fn twenty_clients_share_two_connections_of_pgbouncer() {
    let database = postgres::database().await;
    let Some(pooler) = PgBouncer::start(&database.role_url).await else { return };
    let upstream = Upstream::start().await;
    let base = format!("{}/v1", upstream.url());
    upstream.script("sk-case-pool", vec![Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
    let url = pooler.url(&database.role_url);
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("DATABASE_POOLER", "transaction"),
        ("OPENAI_BASE_URL", &base),
        ("DATABASE_POOL_SIZE", "20"),
    ];
    let app = App::start_on(database, &settings, ssrf_guard::system_lookup).await;
    let user = app.user(&[("openai_api_key", "sk-case-pool")]).await;
    let clients = (0..20).map(|_| async {
        for _ in 0..3 {
            assert_eq!(text(&app, &user).await, "Hello");
        }
    });
    join_all(clients).await;
    let connections =
        "select count(*) from pg_stat_activity where datname = current_database() and usename = 'chatbot_ui_api'";
    let connections: i64 = sqlx::query_scalar(connections).fetch_one(&app.db).await.expect("a count");
    assert!((1..=2).contains(&connections), "{connections}");
}

#[tokio::test]
async fn a_statement_that_postgres_refuses_does_not_close_its_connection() {
    let app = App::start(&[("DATABASE_POOL_SIZE", "1")]).await;
    let user = app.user(&[]).await;
    ready(&app).await;
    let pids = || async {
        let sql = "select array_agg(pid) from pg_stat_activity \
             where datname = current_database() and usename = 'chatbot_ui_api'";
        sqlx::query_scalar::<_, Vec<i32>>(sql).fetch_one(&app.db).await.expect("the server's connections")
    };
    let before = pids().await;
    sqlx::raw_sql("revoke usage on schema chatbot_ui_api from chatbot_ui_api").execute(&app.db).await.expect("revokes");
    for _ in 0..3 {
        let answer = app.chat("openai", &user).send().await.expect("an answer");
        assert_eq!(message(answer).await, (500, "An unexpected error occurred".to_owned()));
        assert_eq!(pids().await, before, "after an error");
    }
    sqlx::raw_sql("grant usage on schema chatbot_ui_api to chatbot_ui_api").execute(&app.db).await.expect("grants");
    let answer = app.chat("openai", &user).send().await.expect("an answer");
    assert!(message(answer).await.1.starts_with("OpenAI API Key not found"));
    assert_eq!(pids().await, before, "after the next statement");
}

/// With a statement of the ledger in each chat, and of a custom model in every other one.
#[tokio::test]
async fn connections_that_postgres_ends_under_load_fail_no_chat() {
    for pooler in ["session", "transaction"] {
        let upstream = Upstream::start().await;
        let base = format!("{}/v1", upstream.url());
        upstream.script("sk-case-ended", vec![Reply::events(&[DELTA, DONE], Step::Wait(Duration::ZERO))]);
        let settings = [("DATABASE_POOLER", pooler), ("OPENAI_BASE_URL", base.as_str())];
        let app = App::start_on(postgres::database_with_ledger().await, &settings, ssrf_guard::system_lookup).await;
        let user = app.user(&[("openai_api_key", "sk-case-ended")]).await;
        let mut of_custom = chat_body();
        of_custom["customModelId"] = rows::model(&app.db, user.id, &base, "sk-case-ended").await.to_string().into();
        let of_custom = of_custom.to_string();
        ready(&app).await;

        let (over, app, user, of_custom) = (&AtomicBool::new(false), &app, &user, &of_custom);
        let clients = (0..12).map(|client| async move {
            let mut chats = 0;
            while !over.load(Ordering::Relaxed) {
                let chat = match client % 2 {
                    0 => app.chat("openai", user),
                    _ => app.chat("custom", user).body(of_custom.clone()),
                };
                let answer = chat.send().await.expect("an answer");
                let status = answer.status();
                assert_eq!((status.as_u16(), answer.text().await.expect("whole").as_str()), (200, "Hello"));
                chats += 1;
            }
            chats
        });
        let ends = async {
            let all = "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity \
                 where datname = current_database() and usename = 'chatbot_ui_api'";
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let ended: i64 = sqlx::query_scalar(all).fetch_one(&app.db).await.expect("a count");
                assert!(ended > 0, "the server had no connection");
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            over.store(true, Ordering::Relaxed);
        };
        let (chats, ()) = futures::future::join(join_all(clients), ends).await;
        assert!(chats.iter().all(|chats| *chats > 1), "{chats:?}");
    }
}

#[tokio::test]
async fn the_database_is_waited_for_once_before_the_first_text() {
    for (pooler, counts) in [("session", false), ("session", true), ("transaction", false), ("transaction", true)] {
        let database = if counts { postgres::database_with_ledger().await } else { postgres::database().await };
        let bouncer = if pooler == "session" { None } else { PgBouncer::start(&database.role_url).await };
        let url = bouncer.as_ref().map_or_else(|| database.role_url.clone(), |pooler| pooler.url(&database.role_url));
        let turns = Turns::before(&url).await;
        let upstream = Upstream::start().await;
        let base = format!("{}/v1", upstream.url());
        // The ledger is written to once an answer has ended.
        let steps = vec![Step::Write(DELTA.into()), Step::Wait(Duration::from_millis(300)), Step::Write(DONE.into())];
        upstream.script("sk-case-once", vec![Reply { steps, ..Reply::default() }]);
        let url = turns.url(&url);
        let settings = [
            ("DATABASE_URL", url.as_str()),
            ("DATABASE_POOLER", pooler),
            ("DATABASE_POOL_SIZE", "1"),
            ("OPENAI_BASE_URL", &base),
        ];
        let app = App::start_on(database, &settings, ssrf_guard::system_lookup).await;
        let user = app.user(&[("openai_api_key", "sk-case-once")]).await;
        let mut of_custom = chat_body();
        of_custom["customModelId"] = rows::model(&app.db, user.id, &base, "sk-case-once").await.to_string().into();
        of_custom["selectedTools"] = serde_json::json!([]);
        ready(&app).await;
        for (route, body) in [("openai", chat_body()), ("custom", of_custom.clone()), ("tools", of_custom)] {
            let mut least = usize::MAX;
            // The first prepares the statement, and the ledger has statements of its own now and then.
            for _ in 0..4 {
                turns.take();
                let mut answer = app.chat(route, &user).body(body.to_string()).send().await.expect("an answer");
                assert_eq!(answer.chunk().await.expect("text").as_deref(), Some(&b"Hello"[..]), "{route}");
                least = least.min(turns.take());
                assert_eq!(answer.text().await.expect("whole"), "");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert_eq!(least, 1, "{route}, {pooler}, with the ledger: {counts}");
        }
    }
}

#[tokio::test]
async fn the_statements_of_a_session_can_be_prepared_ahead() {
    let database = postgres::database().await;
    let mut connection = database.pool.acquire().await.expect("a connection");
    for source in [Source::Tables, Source::Function, Source::Token] {
        for sql in inspect::accounts(source) {
            let prepared = connection.prepare(AssertSqlSafe(sql).into_sql_str()).await;
            assert!(prepared.is_ok(), "{source:?}: {:?}", prepared.err());
        }
    }
}
