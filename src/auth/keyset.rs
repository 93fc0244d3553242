//! The project's public keys (JWKS): fetched when a token needs them, kept
//! for ten minutes at most, fetched once however many requests ask, and never
//! fetched more often because somebody makes up key ids.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use url::Url;

use super::token::VerifyingKey;
use crate::{llm::causes, outbound};

/// Supabase asks not to keep keys longer: a key that is revoked must stop working.
const MAX_AGE: Duration = Duration::from_secs(600);
/// From this age on a reader starts a fetch ahead of time and goes on without it.
const REFRESH_AGE: Duration = Duration::from_secs(300);
/// Between two fetches, if the last one succeeded and if it failed.
const FLOOR: Duration = Duration::from_secs(30);
const FLOOR_AFTER_FAILURE: Duration = Duration::from_secs(2);
/// A key set that takes longer than this is as good as none.
const FETCH_TIMEOUT: Duration = Duration::from_millis(2500);
const MAX_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 64;

/// The key set of one project, shared by all workers.
pub struct KeySet {
    url: Url,
    state: RwLock<Arc<State>>,
    /// Held by the one who fetches.
    fetching: Arc<Mutex<()>>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Arc<VerifyingKey>>,
    fetched: Option<Instant>,
    /// When a fetch last ended, and whether it failed.
    tried: Option<(Instant, bool)>,
}

impl State {
    fn age(&self) -> Duration {
        self.fetched.map_or(Duration::MAX, |at| at.elapsed())
    }

    fn may_fetch(&self) -> bool {
        self.tried.is_none_or(|(at, failed)| at.elapsed() >= if failed { FLOOR_AFTER_FAILURE } else { FLOOR })
    }
}

impl KeySet {
    /// A key set that is read from `url` when it is needed first.
    pub fn new(url: Url) -> Self {
        Self { url, state: RwLock::default(), fetching: Arc::default() }
    }

    fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A key that is known and not too old. Never waits for a fetch; where
    /// the set is getting old it starts one that nobody waits for.
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

    /// The key with this id, fetched if it is not known and the last fetch is
    /// long enough ago.
    pub async fn find(self: &Arc<Self>, http: &reqwest::Client, id: &str) -> Option<Arc<VerifyingKey>> {
        if let Some(key) = self.known(http, id) {
            return Some(key);
        }
        if self.state().may_fetch() {
            let turn = self.fetching.clone().lock_owned().await;
            // Whoever waited here finds what the one before fetched.
            if self.state().may_fetch() {
                let (this, http) = (self.clone(), http.clone());
                // A task of its own: a client that leaves must not take the
                // fetch along, or each that asks and leaves would cause one.
                let fetch = tokio::spawn(async move {
                    this.fetch(&http).await;
                    drop(turn);
                });
                // It panics at worst; then nothing was fetched.
                let _ = fetch.await;
            }
        }
        let state = self.state();
        state.keys.get(id).filter(|_| state.age() < MAX_AGE).cloned()
    }

    async fn fetch(&self, http: &reqwest::Client) {
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, download(http, &self.url)).await;
        let keys = match fetched {
            Ok(Ok(keys)) => Some(keys),
            Ok(Err(problem)) => {
                tracing::warn!(url = %self.url, problem, "the key set cannot be read");
                None
            }
            Err(_) => {
                tracing::warn!(url = %self.url, "the key set did not come within {FETCH_TIMEOUT:?}");
                None
            }
        };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *state = Arc::new(match keys {
            Some(keys) => State { keys, fetched: Some(now), tried: Some((now, false)) },
            None => State { keys: state.keys.clone(), fetched: state.fetched, tried: Some((now, true)) },
        });
    }
}

/// The algorithms of the usable keys at `url`, for `check`.
///
/// # Errors
/// Why the set cannot be read.
pub async fn algorithms(http: &reqwest::Client, url: &Url) -> Result<Vec<Algorithm>, String> {
    Ok(download(http, url).await?.values().filter_map(|key| key.algorithm()).collect())
}

async fn download(http: &reqwest::Client, url: &Url) -> Result<HashMap<String, Arc<VerifyingKey>>, String> {
    let response = http.get(url.clone()).send().await.map_err(|error| causes(&error))?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()));
    }
    let body = outbound::read(response, MAX_BYTES).await.map_err(|error| match error {
        outbound::ReadError::TooLarge(_) => format!("more than {MAX_BYTES} bytes"),
        outbound::ReadError::Broken(_, error) => error.without_url().to_string(),
    })?;
    parse(&body)
}

/// The usable keys of a JWKS document. Keys of other kinds, without an id or
/// not understood are passed over: one of them must not lock everybody out.
fn parse(body: &[u8]) -> Result<HashMap<String, Arc<VerifyingKey>>, String> {
    #[derive(Deserialize)]
    struct Document<'a> {
        #[serde(borrow)]
        keys: Vec<&'a RawValue>,
    }
    let document: Document<'_> = serde_json::from_slice(body).map_err(|_| "it is no JWKS document".to_owned())?;
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

/// The one algorithm of a key: what its kind is for, unless it says another.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        // A symmetric key in a public document is no secret.
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
    fn what_is_no_key_set_is_an_error() {
        for body in ["", "[]", "{}", "<html>", r#"{"keys":7}"#] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_key_is_only_for_its_algorithm() {
        let keys = parse(format!(r#"{{"keys":[{EC}]}}"#).as_bytes()).expect("a document");
        assert!(keys["a"].is_for(Algorithm::ES256));
        assert!(!keys["a"].is_for(Algorithm::HS256));
    }
}
