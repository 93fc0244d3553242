//! The rate limit that servers share through Redis, with the real one.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::process::Child;

use super::{ask, retry_after};
use crate::{
    process::serve_and_listen,
    support::{User, postgres, redis::Redis},
};

const PASSWORD: &str = "hunter2-of-redis";

/// A server on its own, and what it writes.
struct Server {
    _process: Child,
    url: String,
    written: Arc<Mutex<String>>,
}

impl Server {
    async fn start(database: &postgres::Database, redis_url: &str, rate: &str) -> Self {
        let settings = [
            ("DATABASE_URL", database.role_url.as_str()),
            ("REDIS_URL", redis_url),
            ("RATE_LIMIT_PER_MINUTE", rate),
            ("RUST_LOG", "trace"),
        ];
        let (process, url, written) = serve_and_listen(&settings).await;
        Self { _process: process, url, written }
    }

    fn said(&self, words: &str) -> usize {
        self.written.lock().expect("no panic").matches(words).count()
    }

    /// Waits until it has written this so often.
    async fn says(&self, words: &str, times: usize) {
        let began = Instant::now();
        while self.said(words) < times {
            assert!(began.elapsed() < Duration::from_secs(20), "it never said {words:?} {times} times");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How many of these requests in a row are answered, and the longest wait
    /// for an answer.
    async fn take(&self, user: &User, requests: usize) -> (usize, Duration) {
        let (mut answered, mut longest) = (0, Duration::ZERO);
        for _ in 0..requests {
            let began = Instant::now();
            let answer = ask(&self.url, user).await;
            longest = longest.max(began.elapsed());
            match answer.status().as_u16() {
                200 => answered += 1,
                429 => assert!((1..=60).contains(&retry_after(&answer))),
                other => panic!("{other}"),
            }
        }
        (answered, longest)
    }
}

/// Waits until the servers are connected; there is no other sign of it than
/// the bucket that each connection tries.
async fn connected(redis: &Redis, servers: &[&Server]) {
    let mut connection = redis.connect().await.expect("it runs");
    let began = Instant::now();
    loop {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.expect("a list");
        if clients.matches("cmd=eval").count() >= servers.len() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "not connected: {clients}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const AWAY: &str = "is away: until it is back, this server counts by itself";
const BACK: &str = "is back: the rate limit is shared again";

#[tokio::test]
async fn servers_share_one_count_while_redis_is_there() {
    let Some(mut redis) = Redis::start(PASSWORD).await else { return };
    let database = postgres::database().await;
    let (url, rate) = (redis.url(), "4");
    let [one, two] = [Server::start(&database, &url, rate).await, Server::start(&database, &url, rate).await];
    connected(&redis, &[&one, &two]).await;
    let (user, other) = (User::create(&database.pool, &[]).await, User::create(&database.pool, &[]).await);

    assert_eq!((one.take(&user, 2).await.0, two.take(&user, 2).await.0), (2, 2));
    assert_eq!((one.take(&user, 1).await.0, two.take(&user, 1).await.0), (0, 0));
    assert_eq!(two.take(&other, 1).await.0, 1);
    assert_eq!(retry_after(&ask(&two.url, &user).await).clamp(10, 15), retry_after(&ask(&two.url, &user).await));
    let mut connection = redis.connect().await.expect("it runs");
    let key = format!("chatbot-ui-api:rate:{}", user.id);
    let life: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.expect("a time");
    assert!((1..=60_000).contains(&life), "{life}");

    redis.kill().await;
    // Each server counts by itself, without delay; the user has what they had.
    for server in [&one, &two] {
        let (answered, longest) = server.take(&user, 6).await;
        assert_eq!(answered, 4);
        assert!(longest < Duration::from_secs(3), "{longest:?}");
        server.says(AWAY, 1).await;
    }
    redis.start_again().await;
    for server in [&one, &two] {
        server.says(BACK, 1).await;
    }
    // A new Redis, so that all buckets are full, and both have the same again.
    assert_eq!((one.take(&user, 3).await.0, two.take(&user, 3).await.0), (3, 1));
    for server in [&one, &two] {
        assert_eq!((server.said(AWAY), server.said(BACK), server.said(PASSWORD)), (1, 1, 0));
    }
}

#[tokio::test]
async fn a_redis_that_hangs_delays_one_request() {
    let Some(redis) = Redis::start(PASSWORD).await else { return };
    let database = postgres::database().await;
    let server = Server::start(&database, &redis.url(), "1000").await;
    connected(&redis, &[&server]).await;
    let user = User::create(&database.pool, &[]).await;
    assert_eq!(server.take(&user, 3).await.0, 3);

    redis.signal("STOP");
    let began = Instant::now();
    let (answered, longest) = server.take(&user, 50).await;
    assert_eq!(answered, 50);
    assert!(longest >= Duration::from_millis(200), "it was not asked: {longest:?}");
    // One of them waited 200 ms, and not each, which would be ten seconds.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    server.says(AWAY, 1).await;
    redis.signal("CONT");
    server.says(BACK, 1).await;
}

#[tokio::test]
async fn without_redis_at_the_start_a_server_counts_by_itself() {
    let database = postgres::database().await;
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = nobody.local_addr().expect("an address").port();
    // A listener that never answers, and one that speaks no TLS.
    join_all(["redis", "rediss"].map(async |scheme| {
        let server = Server::start(&database, &format!("{scheme}://:{PASSWORD}@127.0.0.1:{port}"), "2").await;
        let user = User::create(&database.pool, &[]).await;
        let (answered, longest) = server.take(&user, 3).await;
        assert_eq!(answered, 2);
        assert!(longest < Duration::from_secs(3), "{longest:?}");
        server.says(AWAY, 1).await;
        assert_eq!(server.said(PASSWORD), 0);
    }))
    .await;
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_shown() {
    let Some(redis) = Redis::start(PASSWORD).await else { return };
    let database = postgres::database().await;
    let url = format!("redis://:not-the-password@127.0.0.1:{}", redis.port);
    let server = Server::start(&database, &url, "2").await;
    server.says(AWAY, 1).await;
    let user = User::create(&database.pool, &[]).await;
    assert_eq!(server.take(&user, 3).await.0, 2);
    assert_eq!((server.said("not-the-password"), server.said("AuthenticationFailed")), (0, 1));
}
