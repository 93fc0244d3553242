//! Refreshing a session whose access token has expired: the auth server is called once for any number of concurrent
//! requests, and the browser gets the new session in the form in which it had the old one.
//!
//! Differs: the original also refreshes, with every request, but discards the new session, so that the browser keeps a
//! spent refresh token.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use crate::http_client;

/// Short enough for the client to get an answer before it gives up.
const TIMEOUT: Duration = Duration::from_millis(2500);
/// Time for which a new session is kept for requests with the same old cookie: those sent a little later, and the retry
/// of a client that did not wait. Equals Supabase's reuse interval: after it Supabase revokes the session of a spent
/// refresh token, and this server must not shield a thief from that.
const KEPT: Duration = Duration::from_secs(10);
/// The most new sessions requested for one user within a period; a client with more refresh tokens makes them up.
const MAX_FOR_USER: (u32, Duration) = (10, Duration::from_secs(60));
/// Cache capacity; above it finished refreshes are evicted at once.
const MAX_KEPT: usize = 10_000;
/// Short, because the auth server may be unavailable for a moment only.
const KEPT_AFTER_FAILURE: Duration = Duration::from_secs(2);
const MAX_BYTES: usize = 256 * 1024;

/// A session as the auth server returns it: an object whose `access_token` and `refresh_token` are non-empty strings.
pub type NewSession = Arc<Value>;

/// The reason why there is no new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The refresh token is not accepted.
    Refused,
    /// The auth server is unavailable or limits its rate, which it shares among all users of this server: the session
    /// may be good.
    Unavailable,
}

type Refresh = Shared<BoxFuture<'static, Result<NewSession, Failure>>>;

/// Client of the auth server's refresh endpoint. Shared by all workers.
pub struct Refresher {
    url: Url,
    anon_key: String,
    /// In-flight and recently finished refreshes, by user and refresh token.
    refreshes: Mutex<HashMap<(Uuid, String), (Instant, Refresh)>>,
    /// The number of requests of each user since an instant.
    users: Mutex<HashMap<Uuid, (Instant, u32)>>,
}

impl Refresher {
    /// Creates the client for the project at `supabase_url`, with its anonymous key.
    pub fn new(supabase_url: &Url, anon_key: String) -> Option<Self> {
        let base = supabase_url.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}/auth/v1/token?grant_type=refresh_token")).ok()?;
        Some(Self { url, anon_key, refreshes: Mutex::default(), users: Mutex::default() })
    }

    /// Returns the new session for a refresh token.
    ///
    /// # Errors
    /// If the auth server refuses, or does not answer in time.
    pub async fn refresh(
        &self,
        http: &reqwest::Client,
        user: Uuid,
        refresh_token: &str,
    ) -> Result<NewSession, Failure> {
        let refresh = {
            let mut refreshes = self.refreshes.lock().unwrap_or_else(PoisonError::into_inner);
            let full = refreshes.len() >= MAX_KEPT;
            refreshes.retain(|_, (since, refresh)| match refresh.peek() {
                None => true,
                Some(Err(_)) => since.elapsed() < KEPT_AFTER_FAILURE,
                Some(Ok(_)) => !full && since.elapsed() < KEPT,
            });
            let fresh = || {
                let request = http
                    .post(self.url.clone())
                    .header(HeaderName::from_static("apikey"), &self.anon_key)
                    .header(AUTHORIZATION, format!("Bearer {}", self.anon_key))
                    .header(CONTENT_TYPE, "application/json")
                    .body(json!({ "refresh_token": refresh_token }).to_string());
                // Spawned: if the first caller disconnects, the single-use refresh token would otherwise be spent and
                // its result lost.
                let task = tokio::spawn(tokio::time::timeout(TIMEOUT, send(request)));
                let answer = async move {
                    // Without a result the task has panicked.
                    let answer = task.await.map_err(|_| Failure::Unavailable)?;
                    answer
                        .unwrap_or_else(|_| Err(failed(Failure::Unavailable, "the auth server did not answer in time")))
                        .map(Arc::new)
                };
                (Instant::now(), answer.boxed().shared())
            };
            match refreshes.entry((user, refresh_token.to_owned())) {
                Entry::Occupied(known) => known.get().1.clone(),
                Entry::Vacant(_) if !self.may_request(user) => return Err(Failure::Refused),
                Entry::Vacant(new) => new.insert(fresh()).1.clone(),
            }
        };
        refresh.await
    }
}

impl Refresher {
    /// Counts a request for this user; returns false if there were too many recently.
    fn may_request(&self, user: Uuid) -> bool {
        let (limit, window) = MAX_FOR_USER;
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, (since, _)| since.elapsed() < window);
        let (_, count) = users.entry(user).or_insert((Instant::now(), 0));
        *count += 1;
        *count <= limit
    }
}

async fn send(request: reqwest::RequestBuilder) -> Result<Value, Failure> {
    let response = request.send().await.map_err(|error| failed(Failure::Unavailable, error.without_url()))?;
    let status = response.status();
    if !status.is_success() {
        let retry = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
        let failure = if retry { Failure::Unavailable } else { Failure::Refused };
        return Err(failed(failure, format!("the auth server answered with status {}", status.as_u16())));
    }
    let body = http_client::read(response, MAX_BYTES, None).await;
    let body = body.map_err(|_| failed(Failure::Unavailable, "the auth server's answer could not be read"))?;
    let session: Option<Value> = serde_json::from_slice(&body).ok();
    match session {
        Some(mut session) if is_filled(&session["access_token"]) && is_filled(&session["refresh_token"]) => {
            if let (None, Some(lifetime)) = (session["expires_at"].as_u64(), session["expires_in"].as_u64()) {
                session["expires_at"] = (jsonwebtoken::get_current_timestamp() + lifetime).into();
            }
            Ok(session)
        }
        _ => Err(failed(Failure::Refused, "the auth server's answer is not a session")),
    }
}

fn failed(failure: Failure, reason: impl std::fmt::Display) -> Failure {
    tracing::info!(%reason, "a session was not refreshed");
    failure
}

fn is_filled(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}
