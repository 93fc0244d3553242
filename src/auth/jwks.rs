//! The project's public keys (JWKS): fetched when a token needs them, cached for at most ten minutes, fetched once for
//! any number of concurrent requests, and never fetched more often because of made-up key ids.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm},
};
use reqwest::header::HeaderName;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use url::Url;

use super::{PUBLISHED_KEY_ID, jwt::VerifyingKey};
use crate::http_client::{self, causes};

/// Supabase's recommended maximum: a revoked key must stop working.
const MAX_AGE: Duration = Duration::from_secs(600);
/// From this age on, a reader starts a background fetch and continues with the cached set.
const REFRESH_AGE: Duration = Duration::from_secs(300);
/// Minimum interval between two fetches, after a success.
const FLOOR: Duration = Duration::from_secs(30);
/// The same after a failure.
const FLOOR_AFTER_FAILURE: Duration = Duration::from_secs(2);
/// Timeout of a fetch; after it the set counts as unavailable.
const FETCH_TIMEOUT: Duration = Duration::from_millis(2500);
const MAX_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 64;

/// The key set of one project, shared by all workers.
pub struct KeySet {
    url: Url,
    /// Sent along, because the gateway of a self-hosted project may serve nothing without it.
    anon_key: Option<String>,
    /// Accepts the key of local stacks, whose private half is published.
    published_keys: bool,
    state: RwLock<Arc<State>>,
    /// Held during a fetch.
    fetching: Arc<Mutex<()>>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Arc<VerifyingKey>>,
    fetched: Option<Instant>,
    /// End of the last fetch, and its outcome.
    tried: Option<(Instant, Outcome)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Read,
    /// Status 404: a project of the time before key sets.
    Absent,
    Failed,
}

impl State {
    fn age(&self) -> Duration {
        self.fetched.map_or(Duration::MAX, |at| at.elapsed())
    }

    fn may_fetch(&self) -> bool {
        self.tried.is_none_or(|(at, outcome)| {
            at.elapsed() >= if outcome == Outcome::Read { FLOOR } else { FLOOR_AFTER_FAILURE }
        })
    }
}

impl KeySet {
    /// Creates a key set that is read from `url` on first use.
    pub fn new(url: Url, anon_key: Option<String>, published_keys: bool) -> Self {
        Self { url, anon_key, published_keys, state: RwLock::default(), fetching: Arc::default() }
    }

    /// Tells if the set should be there and could not be read, so that a key that is not found may exist.
    pub fn is_unavailable(&self) -> bool {
        let state = self.state();
        state.age() >= MAX_AGE && state.tried.is_some_and(|(_, outcome)| outcome == Outcome::Failed)
    }

    /// Time since the set was fetched; `None` if it never was.
    pub fn age(&self) -> Option<Duration> {
        self.state().fetched.map(|at| at.elapsed())
    }

    fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns a key that is cached and not too old. Never waits for a fetch; if the set is getting old, it starts one
    /// in the background.
    pub fn known(self: &Arc<Self>, http: &reqwest::Client, id: &str) -> Option<Arc<VerifyingKey>> {
        let state = self.state();
        let key = state.keys.get(id).filter(|_| state.age() < MAX_AGE)?;
        if state.age() >= REFRESH_AGE
            && state.may_fetch()
            && let Ok(turn) = self.fetching.clone().try_lock_owned()
        {
            let (this, http) = (self.clone(), http.clone());
            tokio::spawn(async move {
                this.fetch(&http).await;
                drop(turn);
            });
        }
        Some(key.clone())
    }

    /// Returns the key with this id. Fetches the set if the key is not cached and the last fetch is long enough ago.
    pub async fn find(self: &Arc<Self>, http: &reqwest::Client, id: &str) -> Option<Arc<VerifyingKey>> {
        if let Some(key) = self.known(http, id) {
            return Some(key);
        }
        self.fetch_if_due(http).await;
        let state = self.state();
        state.keys.get(id).filter(|_| state.age() < MAX_AGE).cloned()
    }

    /// Tells if the project has a signing key that is not published, as far as its key set was ever read.
    pub async fn has_private_keys(self: &Arc<Self>, http: &reqwest::Client) -> bool {
        let state = self.state();
        // A local stack without a key set must not be asked by every request.
        if state.age() >= REFRESH_AGE && state.tried.is_none_or(|(at, _)| at.elapsed() >= FLOOR) {
            self.fetch_if_due(http).await;
        }
        self.state().keys.keys().any(|id| id != PUBLISHED_KEY_ID)
    }

    async fn fetch_if_due(self: &Arc<Self>, http: &reqwest::Client) {
        if self.state().may_fetch() {
            let turn = self.fetching.clone().lock_owned().await;
            // A request that waited for the lock finds the result of the fetch before it.
            if self.state().may_fetch() {
                let (this, http) = (self.clone(), http.clone());
                // Spawned: a client that disconnects must not cancel the fetch, or each request of an impatient client
                // would start a new one.
                let fetch = tokio::spawn(async move {
                    this.fetch(&http).await;
                    drop(turn);
                });
                // A panic means that nothing was fetched.
                let _ = fetch.await;
            }
        }
    }

    /// The URL for the log, without its query, which may hold a key.
    fn shown(&self) -> &str {
        self.url.as_str().split('?').next().unwrap_or_default()
    }

    async fn fetch(&self, http: &reqwest::Client) {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, download(http, &self.url, self.anon_key.as_deref())).await;
        let keys = match fetched {
            Ok(Ok(mut keys)) => {
                if !self.published_keys && keys.remove(PUBLISHED_KEY_ID).is_some() {
                    tracing::warn!(
                        "the key set has the key that every `supabase start` signs with, which anybody can use: sessions signed with it are refused. If this is meant, set PUBLISHED_KEYS=allow"
                    );
                }
                Ok(keys)
            }
            Ok(Err(problem)) => {
                tracing::warn!(url = self.shown(), %problem, "the key set cannot be read");
                Err(if problem == Problem::Status(404) { Outcome::Absent } else { Outcome::Failed })
            }
            Err(_) => {
                tracing::warn!(url = self.shown(), "the key set did not come within {FETCH_TIMEOUT:?}");
                Err(Outcome::Failed)
            }
        };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *state = Arc::new(match keys {
            Ok(keys) => State { keys, fetched: Some(now), tried: Some((now, Outcome::Read)) },
            Err(outcome) => State { keys: state.keys.clone(), fetched: state.fetched, tried: Some((now, outcome)) },
        });
    }
}

/// Returns the ids and algorithms of the usable keys at `url`, for commands.
///
/// # Errors
/// If the set cannot be read: the reason.
pub async fn keys(
    http: &reqwest::Client,
    url: &Url,
    anon_key: Option<&str>,
) -> Result<Vec<(String, Algorithm)>, Problem> {
    let keys = tokio::time::timeout(FETCH_TIMEOUT, download(http, url, anon_key)).await;
    let keys = keys.unwrap_or_else(|_| Err(Problem::Other(format!("no answer within {FETCH_TIMEOUT:?}"))))?;
    Ok(keys.into_iter().filter_map(|(id, key)| Some((id, key.algorithm()?))).collect())
}

/// The reason why a key set cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The answer's status is not a success.
    #[error("status {0}")]
    Status(u16),
    /// No answer, or one that is not a key set.
    #[error("{0}")]
    Other(String),
}

async fn download(
    http: &reqwest::Client,
    url: &Url,
    anon_key: Option<&str>,
) -> Result<HashMap<String, Arc<VerifyingKey>>, Problem> {
    let mut request = http.get(url.clone());
    if let Some(key) = anon_key {
        request = request.header(HeaderName::from_static("apikey"), key);
    }
    let response = request.send().await.map_err(|error| Problem::Other(causes(&error)))?;
    if !response.status().is_success() {
        return Err(Problem::Status(response.status().as_u16()));
    }
    let body = http_client::read(response, MAX_BYTES, None).await.map_err(|error| {
        Problem::Other(match error {
            http_client::ReadError::TooLarge => format!("more than {MAX_BYTES} bytes"),
            http_client::ReadError::Broken(error) => error.without_url().to_string(),
            http_client::ReadError::Unaffordable(error) => error.to_string(),
        })
    })?;
    parse(&body).map_err(Problem::Other)
}

/// Parses the usable keys of a JWKS document. Keys of other kinds, without an id or with unknown parameters are
/// skipped: one such key must not lock all users out.
fn parse(body: &[u8]) -> Result<HashMap<String, Arc<VerifyingKey>>, String> {
    #[derive(Deserialize)]
    struct Document<'a> {
        #[serde(borrow)]
        keys: Vec<&'a RawValue>,
    }
    let document: Document<'_> = serde_json::from_slice(body).map_err(|_| "it is not a JWKS document".to_owned())?;
    Ok(document
        .keys
        .iter()
        .take(MAX_KEYS)
        .filter_map(|raw| {
            let jwk: Jwk = serde_json::from_str(raw.get()).ok()?;
            let algorithm = algorithm(&jwk)?;
            let key = DecodingKey::from_jwk(&jwk).ok()?;
            Some((jwk.common.key_id?, Arc::new(VerifyingKey::new(key, algorithm))))
        })
        .collect())
}

/// Returns the one algorithm of a key: the default of its kind, unless it names another.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        // A symmetric key in a public document is not secret.
        _ => return None,
    };
    jwk.common.key_algorithm.is_none_or(|said| said == name).then_some(algorithm)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","alg":"ES256","kid":"a","use":"sig","x":"M5Sjqn5zwC9Kl1zVfUUGvv9boQjCGd45G8sdopBExB4","y":"P6IXMvA2WYXSHSOMTBH2jsw_9rrzGy89FjPf6oOsIxQ"}"#;

    fn ids(keys: &str) -> Vec<String> {
        let mut ids: Vec<String> =
            parse(format!(r#"{{"keys":[{keys}]}}"#).as_bytes()).expect("a document").into_keys().collect();
        ids.sort();
        ids
    }

    #[test]
    fn usable_keys_are_taken_and_others_passed_over() {
        assert_eq!(ids(EC), ["a"]);
        assert_eq!(ids(&EC.replace(r#""alg":"ES256","#, "")), ["a"]);
        let foreign = [
            EC.replace("ES256", "RS256"),
            EC.replace("ES256", "HS256"),
            EC.replace(r#""kid":"a","#, ""),
            r#"{"kty":"oct","k":"c2VjcmV0","kid":"o","alg":"HS256"}"#.to_owned(),
            r#"{"kty":"PQC","kid":"new"}"#.to_owned(),
            "7".to_owned(),
        ];
        for foreign in foreign {
            assert_eq!(ids(&format!("{foreign},{}", EC.replace(r#""a""#, r#""b""#))), ["b"], "{foreign}");
        }
    }

    #[test]
    fn of_a_set_without_end_so_many_keys_are_taken() {
        let keys: Vec<String> = (0..1000).map(|id| EC.replace(r#""a""#, &format!(r#""{id}""#))).collect();
        assert_eq!(ids(&keys.join(",")).len(), MAX_KEYS);
    }

    #[test]
    fn what_is_no_key_set_is_an_error() {
        for body in ["", "[]", "{}", "<html>", r#"{"keys":7}"#] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    /// A server with a document, and the number of requests for it.
    struct Publisher {
        url: Url,
        document: Arc<std::sync::Mutex<String>>,
        requests: Arc<std::sync::atomic::AtomicUsize>,
    }

    impl Publisher {
        async fn start(document: &str, delay: Duration) -> Self {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let url = format!("http://{}/", listener.local_addr().expect("an address")).parse().expect("a URL");
            let publisher = Self { url, document: Arc::new(document.to_owned().into()), requests: Arc::default() };
            let (document, requests) = (publisher.document.clone(), publisher.requests.clone());
            tokio::spawn(async move {
                loop {
                    let (mut socket, _) = listener.accept().await.expect("a connection");
                    let _ = socket.read(&mut [0; 4096]).await;
                    requests.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    tokio::time::sleep(delay).await;
                    let body = document.lock().expect("no panic").clone();
                    let head =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
                }
            });
            publisher
        }

        fn publish(&self, document: &str) {
            document.clone_into(&mut self.document.lock().expect("no panic"));
        }

        fn requests(&self) -> usize {
            self.requests.load(std::sync::atomic::Ordering::SeqCst)
        }

        fn key_set(&self) -> Arc<KeySet> {
            Arc::new(KeySet::new(self.url.clone(), None, true))
        }
    }

    fn document(ids: &[&str]) -> String {
        let keys: Vec<String> = ids.iter().map(|id| EC.replace(r#""a""#, &format!("{id:?}"))).collect();
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    /// Moves a key set's clock forward.
    fn pass(set: &KeySet, time: Duration) {
        let mut state = set.state.write().expect("no panic");
        let earlier = |at: Instant| at.checked_sub(time).expect("a clock that goes so far back");
        *state = Arc::new(State {
            keys: state.keys.clone(),
            fetched: state.fetched.map(earlier),
            tried: state.tried.map(|(at, failed)| (earlier(at), failed)),
        });
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_key_that_appears_is_found_when_the_floor_has_passed() {
        let (publisher, http) = (Publisher::start(&document(&["a"]), Duration::ZERO).await, reqwest::Client::new());
        let set = publisher.key_set();
        assert!(set.find(&http, "a").await.is_some());
        publisher.publish(&document(&["a", "b"]));
        for _ in 0..1000 {
            assert!(set.find(&http, "b").await.is_none());
        }
        pass(&set, FLOOR - SECOND);
        assert!(set.find(&http, "b").await.is_none());
        assert_eq!(publisher.requests(), 1);
        pass(&set, SECOND);
        assert!(set.find(&http, "b").await.is_some());
        assert_eq!(publisher.requests(), 2);
    }

    #[tokio::test]
    async fn an_old_set_is_fetched_ahead_while_its_keys_are_used() {
        let publisher = Publisher::start(&document(&["a"]), Duration::from_millis(300)).await;
        let (set, http) = (publisher.key_set(), reqwest::Client::new());
        assert!(set.find(&http, "a").await.is_some());
        publisher.publish(&document(&["b"]));
        pass(&set, REFRESH_AGE - SECOND);
        assert!(set.known(&http, "a").is_some());
        tokio::task::yield_now().await;
        pass(&set, SECOND);
        let started = Instant::now();
        for _ in 0..1000 {
            assert!(set.known(&http, "a").is_some());
        }
        assert!(started.elapsed() < Duration::from_millis(250), "nobody waits");
        // The old key is gone once the new set is there, which was fetched once.
        while set.known(&http, "a").is_some() {
            assert!(started.elapsed() < 5 * SECOND);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(set.known(&http, "b").is_some());
        assert_eq!(publisher.requests(), 2);
    }

    #[tokio::test]
    async fn without_its_server_a_set_is_good_for_so_long() {
        let (publisher, http) = (Publisher::start(&document(&["a"]), Duration::ZERO).await, reqwest::Client::new());
        let set = publisher.key_set();
        assert!(set.find(&http, "a").await.is_some());
        publisher.publish("<html>");
        pass(&set, MAX_AGE - SECOND);
        assert!(set.find(&http, "a").await.is_some());
        pass(&set, SECOND);
        assert!(set.find(&http, "a").await.is_none(), "a key may have been revoked");
    }

    #[tokio::test]
    async fn after_a_failure_it_is_tried_again_soon() {
        let (publisher, http) = (Publisher::start("", Duration::ZERO).await, reqwest::Client::new());
        let set = publisher.key_set();
        for _ in 0..3 {
            assert!(set.find(&http, "a").await.is_none());
        }
        assert_eq!(publisher.requests(), 1);
        publisher.publish(&document(&["a"]));
        pass(&set, FLOOR_AFTER_FAILURE);
        assert!(set.find(&http, "a").await.is_some());
    }

    #[tokio::test]
    async fn a_slow_set_is_as_good_as_none() {
        let (publisher, http) = (Publisher::start(&document(&["a"]), 60 * SECOND).await, reqwest::Client::new());
        let started = Instant::now();
        assert!(publisher.key_set().find(&http, "a").await.is_none());
        assert!(started.elapsed() < 3 * SECOND, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn an_enormous_set_is_not_read() {
        let many: Vec<String> = (0..4000).map(|number| format!("key-{number}")).collect();
        let enormous = document(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(enormous.len() > MAX_BYTES);
        let (publisher, http) = (Publisher::start(&document(&["a"]), Duration::ZERO).await, reqwest::Client::new());
        let set = publisher.key_set();
        assert!(set.find(&http, "a").await.is_some());
        publisher.publish(&enormous);
        pass(&set, FLOOR);
        assert!(set.find(&http, "key-1").await.is_none());
        assert!(set.known(&http, "a").is_some(), "what was known stays");
        assert!(set.state().keys.len() <= MAX_KEYS);
        assert_eq!(publisher.requests(), 2);
    }

    #[tokio::test]
    async fn a_thousand_unknown_keys_are_one_fetch_and_no_queue_for_known_ones() {
        let publisher = Publisher::start(&document(&["a"]), Duration::from_millis(300)).await;
        let (set, http) = (publisher.key_set(), reqwest::Client::new());
        assert!(set.find(&http, "a").await.is_some());
        pass(&set, FLOOR);
        let asking = futures::future::join_all((0..1000).map(|number| {
            let (set, http) = (&set, &http);
            async move { set.find(http, &format!("made up {number}")).await.is_none() }
        }));
        let known = async {
            while publisher.requests() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let started = Instant::now();
            assert!(set.find(&http, "a").await.is_some());
            started.elapsed()
        };
        let (unknown, waited) = futures::join!(asking, known);
        assert!(unknown.into_iter().all(|none| none));
        assert!(waited < Duration::from_millis(200), "{waited:?}");
        assert_eq!(publisher.requests(), 2);
    }

    #[test]
    fn a_key_is_only_for_its_algorithm() {
        let keys = parse(format!(r#"{{"keys":[{EC}]}}"#).as_bytes()).expect("a document");
        assert!(keys["a"].is_for(Algorithm::ES256));
        assert!(!keys["a"].is_for(Algorithm::HS256));
    }
}
