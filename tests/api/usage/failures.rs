//! Servers that die, a database that is away, and what lies between them.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chatbot_ui_api::http_client::ssrf_guard;
use futures::future::{join, join_all};
use reqwest::{Response, header::AUTHORIZATION};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
};

use super::{DELTA, DONE, Row, USAGE, budget, report, settled};
use crate::{
    process::{ended, serve, signal},
    support::{
        App, User, chat_body, client,
        gate::Gate,
        pgbouncer::PgBouncer,
        postgres,
        upstream::{End, Reply, Step, Upstream},
    },
};

fn held() -> Reply {
    let write = |event: &str| Step::Write(event.as_bytes().to_vec());
    Reply { steps: vec![write(DELTA), Step::WaitForRelease, write(USAGE), write(DONE)], ..Reply::default() }
}

async fn chat(url: &str, user: &User) -> Response {
    let request = client().post(format!("{url}/api/chat/openai")).header(AUTHORIZATION, user.bearer());
    request.body(chat_body().to_string()).send().await.expect("an answer")
}

/// The settings of a server that may be killed and started again.
fn settings<'a>(database: &'a postgres::Database, base: &'a str, key: &'a str) -> [(&'a str, &'a str); 4] {
    let url = database.role_url.as_str();
    [("DATABASE_URL", url), ("OPENAI_BASE_URL", base), ("OPENAI_API_KEY", key), ("MODEL_ALIASES", "off")]
}

/// A database's address, and its URL by way of another port.
fn by_way_of(port: u16, url: &str) -> (SocketAddr, String) {
    let mut url = url::Url::parse(url).expect("a URL");
    let there = SocketAddr::from(([127, 0, 0, 1], url.port().expect("a port")));
    url.set_port(Some(port)).expect("a port");
    (there, url.to_string())
}

#[tokio::test]
async fn the_requests_of_a_server_that_was_killed_are_rows_and_hold_nothing() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-kill", vec![held()]);
    let base = format!("{}/v1", upstream.url());
    let database = postgres::database_with_ledger().await;
    let settings = settings(&database, &base, "sk-case-kill");
    let (mut child, url) = serve(&settings).await;
    let user = User::create(&database.pool, &[]).await;
    budget(&database.pool, None, None, "requests", 30.0).await;
    let answers = join_all((0..20).map(|_| async {
        let mut answer = chat(&url, &user).await;
        assert_eq!(answer.chunk().await.expect("text").as_deref(), Some(&b"Hello"[..]));
        answer
    }));
    let answers = answers.await;
    signal(&child, "KILL");
    ended(&mut child).await;
    drop(answers);
    // The time of their leases passes.
    let passed = "update chatbot_ui_api.reservations set expires_at = expires_at - interval '1 minute'";
    assert_eq!(sqlx::query(passed).execute(&database.pool).await.expect("updated").rows_affected(), 20);
    let (_child, url) = serve(&settings).await;
    let rows = settled(&database.pool, 20).await;
    assert!(rows.iter().all(|row| row.ended == "server lost" && row.estimated && row.input_tokens > 0), "{rows:#?}");
    upstream.release("sk-case-kill");
    let mut last = 0;
    for count in 1..=10 {
        assert_eq!(chat(&url, &user).await.text().await.expect("whole"), "Hello");
        settled(&database.pool, 20 + count).await;
        last = count;
    }
    assert_eq!((last, chat(&url, &user).await.status().as_u16()), (10, 429));
}

/// What the provider answers a chat, by its number.
fn scripted(number: usize) -> Reply {
    let write = |event: &str| Step::Write(event.as_bytes().to_vec());
    let pause = || Step::Wait(Duration::from_millis(20));
    match number % 5 {
        0 => Reply { steps: vec![write(DELTA), pause(), write(DELTA), write(USAGE), write(DONE)], ..Reply::default() },
        1 => Reply { steps: vec![write(DELTA), pause(), write(DELTA), write(DONE)], ..Reply::default() },
        2 => Reply { end: End::Reset, ..Reply::events(&[DELTA], pause()) },
        3 => Reply::json(401, &json!({ "error": { "message": "no" } })),
        _ => Reply { steps: vec![write(DELTA), Step::WaitForever], ..Reply::default() },
    }
}

/// Has each of the users chat, and stops most of them at some moment. Returns which answers came whole.
async fn chats_with_stops(url: &str, users: &[User], first: usize) -> Vec<bool> {
    let chats = users.iter().zip(first..).map(async |(user, number)| {
        tokio::time::sleep(Duration::from_millis(number as u64 * 131 % 400)).await;
        let mut body = chat_body();
        body["messages"][0]["content"] = format!("number {number}.").into();
        let request = client().post(format!("{url}/api/chat/openai")).header(AUTHORIZATION, user.bearer());
        let whole = async { request.body(body.to_string()).send().await.ok()?.text().await.ok() };
        let stopped = match number % 3 {
            0 => Duration::from_secs(1),
            _ => Duration::from_micros(number as u64 * 7919 % 120_000),
        };
        tokio::time::timeout(stopped, whole).await.is_ok_and(|text| text.is_some())
    });
    join_all(chats).await
}

#[tokio::test]
async fn whatever_ends_a_chat_it_is_one_row() {
    const CHATS: usize = 100;
    let number = |body: &[u8]| {
        let body = String::from_utf8_lossy(body).into_owned();
        let digits = body.split("number ").nth(1).and_then(|rest| rest.split('.').next());
        digits.and_then(|digits| digits.parse().ok()).expect("a chat's number")
    };
    let upstream = Upstream::answering(move |request| scripted(number(&request.body)));
    let base = format!("{}/v1", upstream.url());
    let database = postgres::database_with_ledger().await;
    let settings = settings(&database, &base, "sk-case-any-end");
    budget(&database.pool, None, None, "requests", 1000.0).await;
    let mut users = Vec::new();
    for _ in 0..3 * CHATS {
        users.push(User::create(&database.pool, &[]).await);
    }
    let mut whole = Vec::new();
    let (mut child, url) = serve(&settings).await;
    whole.extend(chats_with_stops(&url, &users[..CHATS], 0).await);
    let ((), under_load) = join(
        async {
            tokio::time::sleep(Duration::from_millis(250)).await;
            signal(&child, "KILL");
            ended(&mut child).await;
        },
        chats_with_stops(&url, &users[CHATS..2 * CHATS], CHATS),
    )
    .await;
    whole.extend(under_load);
    let passed = "update chatbot_ui_api.reservations set expires_at = expires_at - interval '1 minute'";
    sqlx::query(passed).execute(&database.pool).await.expect("updated");
    let (_child, url) = serve(&settings).await;
    whole.extend(chats_with_stops(&url, &users[2 * CHATS..], 2 * CHATS).await);

    let reserved = "select count(*) from chatbot_ui_api.reservations";
    let all_settled = async {
        while sqlx::query_scalar::<_, i64>(reserved).fetch_one(&database.pool).await.expect("a count") > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all_settled).await.expect("nothing stays reserved");
    let asked: HashSet<usize> = upstream.all().iter().map(|request| number(&request.body)).collect();
    assert!(asked.len() > CHATS / 2, "only {} chats came to the provider", asked.len());
    let rows = sqlx::query_as::<_, Row>("select * from chatbot_ui_api.usage").fetch_all(&database.pool).await;
    let rows = rows.expect("rows");
    for (number, user) in users.iter().enumerate() {
        let of_user: Vec<&Row> = rows.iter().filter(|row| row.user_id == user.id).collect();
        let case = format!("chat {number}, whole: {}: {of_user:?}", whole[number]);
        assert!(of_user.len() <= 1 && (!of_user.is_empty() || !asked.contains(&number)), "{case}");
        let Some(row) = of_user.first() else { continue };
        let (counts, is_lost) = ((row.input_tokens, row.output_tokens), row.ended == "server lost");
        match number % 5 {
            0 if whole[number] && !is_lost => assert!(!row.estimated && counts == (9, 5), "{case}"),
            3 if whole[number] && !is_lost => assert_eq!((row.ended.as_str(), counts.1), ("refused", 0), "{case}"),
            _ if row.estimated => assert!(counts.0 <= 100 && (is_lost || counts.1 <= 10), "{case}"),
            0 => assert_eq!(counts, (9, 5), "{case}"),
            _ => assert_eq!(counts, (0, 0), "{case}"),
        }
    }
}

#[tokio::test]
async fn what_ends_while_the_database_is_away_is_written_when_it_is_back() {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-gone", vec![held()]);
    let base = format!("{}/v1", upstream.url());
    let database = postgres::database_with_ledger().await;
    let gate = Gate::new();
    let (there, url) = by_way_of(gate.address.port(), &database.role_url);
    gate.open(there);
    let settings = [("DATABASE_URL", url.as_str()), ("OPENAI_BASE_URL", &base), ("OPENAI_API_KEY", "sk-case-gone")];
    let app = App::start_on(database, &settings, ssrf_guard::system_lookup).await;
    let user = app.user(&[]).await;
    budget(&app.db, None, None, "tokens", 1_000_000.0).await;
    let mut answers = Vec::new();
    for _ in 0..10 {
        let mut answer = app.chat("openai", &user).send().await.expect("an answer");
        assert_eq!(answer.chunk().await.expect("text").as_deref(), Some(&b"Hello"[..]));
        answers.push(answer);
    }
    gate.close();
    upstream.release("sk-case-gone");
    for answer in answers {
        assert!(answer.text().await.expect("unbroken").is_empty());
    }
    // Another server may take this one for dead.
    let passed = "update chatbot_ui_api.reservations set expires_at = now() - interval '1 minute' \
                  where id in (select id from chatbot_ui_api.reservations limit 5)";
    sqlx::query(passed).execute(&app.db).await.expect("updated");
    let swept: i64 = sqlx::query_scalar("select chatbot_ui_api.sweep()").fetch_one(&app.db).await.expect("swept");
    assert_eq!(swept, 5);
    gate.open(there);
    let written = async {
        while settled(&app.db, 10).await.iter().any(|row| row.estimated) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.expect("written");
    let rows = settled(&app.db, 10).await;
    assert!(rows.iter().all(|row| (row.input_tokens, row.output_tokens) == (9, 5) && row.ended == "complete"));
    assert_eq!(report(&app, &user).await["budgets"][0]["used"], 140);
}

/// Passes connections on to a database, and counts what clients write.
async fn counting(there: SocketAddr, listener: TcpListener, count: Arc<AtomicUsize>) {
    while let Ok((mut from, _)) = listener.accept().await {
        let count = Arc::clone(&count);
        tokio::spawn(async move {
            let mut to = TcpStream::connect(there).await.expect("Postgres");
            let ((mut asks, mut gets), (mut answers, mut takes)) = (from.split(), to.split());
            let up = async {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(bytes @ 1..) = asks.read(&mut buffer).await {
                    count.fetch_add(1, Ordering::SeqCst);
                    takes.write_all(&buffer[..bytes]).await.expect("written");
                }
            };
            tokio::select! { () = up => {}, _ = copy(&mut answers, &mut gets) => {} }
        });
    }
}

/// The messages to the database before the first text of a chat, as most chats have them.
async fn trips(usage: &str) -> usize {
    let upstream = Upstream::start().await;
    upstream.script("sk-case-trip", vec![held()]);
    upstream.release("sk-case-trip");
    upstream.script("sk-case-held", vec![held()]);
    let base = format!("{}/v1", upstream.url());
    let database = postgres::database_with_ledger().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (there, url) = by_way_of(listener.local_addr().expect("an address").port(), &database.role_url);
    let sent = Arc::new(AtomicUsize::new(0));
    tokio::spawn(counting(there, listener, Arc::clone(&sent)));
    // One connection, on which everything has been prepared.
    let settings =
        [("DATABASE_URL", url.as_str()), ("OPENAI_BASE_URL", &base), ("DATABASE_POOL_SIZE", "1"), ("USAGE", usage)];
    let app = App::start_on(database, &settings, ssrf_guard::system_lookup).await;
    let user = app.user(&[("openai_api_key", "sk-case-trip")]).await;
    let holding = app.user(&[("openai_api_key", "sk-case-held")]).await;
    budget(&app.db, None, None, "usd", 100.0).await;
    // Renewals, and checks of a connection that was idle, happen now and then.
    let mut trips = Vec::new();
    for _ in 0..5 {
        app.chat("openai", &user).send().await.expect("an answer").text().await.expect("whole");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let before = sent.load(Ordering::SeqCst);
        let mut answer = app.chat("openai", &holding).send().await.expect("an answer");
        answer.chunk().await.expect("text");
        trips.push(sent.load(Ordering::SeqCst) - before);
        drop(answer);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    trips.sort_unstable();
    trips[2]
}

#[tokio::test]
async fn a_reservation_is_no_round_trip_of_its_own() {
    let (on, off) = tokio::join!(trips("on"), trips("off"));
    assert_eq!(on, off);
}

#[tokio::test]
async fn the_ledger_works_through_a_pooler_in_transaction_mode() {
    let database = postgres::database_with_ledger().await;
    let Some(pooler) = PgBouncer::start(&database.role_url).await else { return };
    let upstream = Upstream::start().await;
    let base = format!("{}/v1", upstream.url());
    upstream.script("sk-case-pooled", vec![Reply::events(&[DELTA, USAGE, DONE], Step::Wait(Duration::ZERO))]);
    let url = pooler.url(&database.role_url);
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("DATABASE_POOLER", "transaction"),
        ("OPENAI_BASE_URL", &base),
        ("OPENAI_API_KEY", "sk-case-pooled"),
    ];
    let app = App::start_on(database, &settings, ssrf_guard::system_lookup).await;
    let user = app.user(&[]).await;
    budget(&app.db, None, None, "requests", 10.0).await;
    let all = join_all((0..30).map(|_| async { app.chat("openai", &user).send().await.expect("an answer").status() }));
    let begun = all.await.into_iter().filter(|status| *status == 200).count();
    assert_eq!(begun, 10);
    settled(&app.db, 10).await;
    assert_eq!(report(&app, &user).await["budgets"][0]["left"], 0);
}
