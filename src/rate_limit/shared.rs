//! The rate limit's buckets in Redis, so that several servers behind one address share their counts.
//!
//! A request costs one round trip: a script that works like [`Rate::take`], with Redis' clock, since the servers'
//! clocks may differ. While Redis is unavailable each server counts by itself, without delay: only the request that
//! detects the failure may have to wait (`ANSWER`), and one task (`Shared::keep`) reconnects.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{AsyncConnectionConfig, Client, ConnectionAddr, RedisResult, aio::MultiplexedConnection};
use tokio::sync::watch;
use uuid::Uuid;

use super::rate::Rate;

/// Timeout of a command to Redis.
const ANSWER: Duration = Duration::from_millis(200);
/// Timeout of connecting, TLS and authentication included.
const CONNECT: Duration = Duration::from_secs(2);
/// Interval between two attempts to connect.
const RETRY: Duration = Duration::from_secs(1);
/// Minimum interval between two warnings, so that an unstable Redis does not fill the log.
const QUIET: Duration = Duration::from_secs(10);

/// Returns the microseconds to wait; 0 = the request was counted. A bucket that is full later than a window from now
/// was written before the clock was set back.
const SCRIPT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = tonumber(redis.call('GET', KEYS[1]) or now) or now
full = math.min(math.max(full, now), now + window) + interval
if full > now + window then return full - now - window end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
return 0";

/// Redis' address and credentials. `Debug` shows no password.
#[derive(Clone)]
pub struct Redis(Client);

impl Redis {
    /// Parses `redis://` or `rediss://user:password@host:port/database`; everything but the host is optional. `None`
    /// for any other URL.
    pub fn parse(url: &str) -> Option<Self> {
        let known = ["redis://", "rediss://"].iter().any(|scheme| url.starts_with(scheme));
        // `#insecure` accepts any certificate, which would expose the password.
        let checked = |client: &Client| {
            !matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { insecure: true, .. })
        };
        known.then(|| Client::open(url).ok()).flatten().filter(checked).map(Self)
    }
}

impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) => write!(f, "{host}:{port}"),
            ConnectionAddr::TcpTls { host, port, .. } => write!(f, "{host}:{port} by TLS"),
            _ => f.write_str("its address"),
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({self})")
    }
}

/// A connection, or the reason why there is none.
type Link = Result<Arc<MultiplexedConnection>, String>;

/// The shared counts.
pub struct Shared {
    redis: Redis,
    link: watch::Sender<Link>,
}

impl Shared {
    pub(super) fn new(redis: Redis) -> Self {
        Self { redis, link: watch::Sender::new(Err("no connection was made yet".to_owned())) }
    }

    /// Takes a request out of the user's bucket; `None` if Redis does not answer.
    pub(super) async fn take(&self, rate: &Rate, user: Uuid) -> Option<Result<(), Duration>> {
        let connection = self.link.borrow().clone().ok()?;
        match take(&connection, rate, &user.hyphenated().to_string()).await {
            Ok(wait) if wait.is_zero() => Some(Ok(())),
            Ok(wait) => Some(Err(wait)),
            Err(error) => {
                // Later requests need not wait for the same failure.
                self.link.send_if_modified(|link| {
                    let same = link.as_ref().is_ok_and(|other| Arc::ptr_eq(other, &connection));
                    if same {
                        *link = Err(error.to_string());
                    }
                    same
                });
                None
            }
        }
    }

    /// Connects, and reconnects when the connection is lost. Runs forever.
    pub(super) async fn keep(&self, rate: &Rate) {
        let mut link = self.link.subscribe();
        let mut warned: Option<Instant> = None;
        let mut away = false;
        loop {
            let connected = self.connect(rate).await.map(Arc::new).map_err(|error| error.to_string());
            if away && connected.is_ok() {
                tracing::info!("Redis at {} is back: the rate limit is shared again", self.redis);
                away = false;
            }
            self.link.send_modify(|link| *link = connected);
            // `self` holds the sender, so that this cannot fail.
            let Ok(problem) = link.wait_for(Result::is_err).await.map(|link| link.as_ref().err().cloned()) else {
                return;
            };
            if !away && warned.is_none_or(|at| at.elapsed() >= QUIET) {
                let problem = problem.unwrap_or_default();
                tracing::warn!(
                    problem,
                    "Redis at {} is away: until it is back, this server counts by itself for the rate limit",
                    self.redis
                );
                warned = Some(Instant::now());
                away = true;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Opens a connection and proves that scripts run and may write.
    async fn connect(&self, rate: &Rate) -> RedisResult<MultiplexedConnection> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        let connection = self.redis.0.get_multiplexed_async_connection_with_config(&config).await?;
        take(&connection, rate, "probe").await?;
        Ok(connection)
    }
}

async fn take(connection: &MultiplexedConnection, rate: &Rate, whose: &str) -> RedisResult<Duration> {
    let mut connection = connection.clone();
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let wait: u64 = redis::cmd("EVAL")
        .arg(SCRIPT)
        .arg(1)
        .arg(format!("chatbot-ui-api:rate:{whose}"))
        .arg(micros(rate.interval))
        .arg(micros(rate.window))
        .query_async(&mut connection)
        .await?;
    Ok(Duration::from_micros(wait))
}
