//! A session whose access token has run out, but whose refresh token is good:
//! the auth server is asked for a new one, once, however many requests wait
//! for it, and the browser gets it in the form in which it had the old one.
//!
//! Differs: the original asks too, with every request, and throws the new
//! session away, so that the browser keeps one that is spent.

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

/// The answer has to come before the client would rather be told.
const TIMEOUT: Duration = Duration::from_millis(2500);
/// How long an answer is kept for requests with the same old cookie: those
/// that come a little later, and the next one of a client that did not wait.
/// Supabase's own reuse interval: later, a spent refresh token ends the session
/// there, which must not be kept from a thief here.
const KEPT: Duration = Duration::from_secs(10);
/// New sessions that are requested for one user, in a time; more refresh tokens
/// than that are made up.
const MAX_FOR_USER: (u32, Duration) = (10, Duration::from_secs(60));
/// Beyond so many, only those who wait are served by them.
const MAX_KEPT: usize = 10_000;
/// The auth server may have been away for a moment only.
const KEPT_AFTER_FAILURE: Duration = Duration::from_secs(2);
const MAX_BYTES: usize = 256 * 1024;

/// A session as the auth server gives it: an object that has an
/// `access_token` and a `refresh_token`, both text and not empty.
pub type NewSession = Arc<Value>;

type Asking = Shared<BoxFuture<'static, Option<NewSession>>>;

/// The auth server, for this one purpose. Shared by all workers.
pub struct Refresher {
    url: Url,
    anon_key: String,
    /// By refresh token: who is being asked for, or was a moment ago.
    asked: Mutex<HashMap<(Uuid, String), (Instant, Asking)>>,
    /// Requests of each user since an instant.
    users: Mutex<HashMap<Uuid, (Instant, u32)>>,
}

impl Refresher {
    /// For the project at `supabase_url`, with its anonymous key.
    pub fn new(supabase_url: &Url, anon_key: String) -> Option<Self> {
        let base = supabase_url.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}/auth/v1/token?grant_type=refresh_token")).ok()?;
        Some(Self { url, anon_key, asked: Mutex::default(), users: Mutex::default() })
    }

    /// The new session for a refresh token; `None` where the auth server
    /// refuses, or is away, within three seconds.
    pub async fn refresh(&self, http: &reqwest::Client, user: Uuid, refresh_token: &str) -> Option<NewSession> {
        let asking = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let crowded = asked.len() >= MAX_KEPT;
            asked.retain(|_, (since, asking)| match asking.peek() {
                None => true,
                Some(None) => since.elapsed() < KEPT_AFTER_FAILURE,
                Some(Some(_)) => !crowded && since.elapsed() < KEPT,
            });
            let fresh = || {
                let request = http
                    .post(self.url.clone())
                    .header(HeaderName::from_static("apikey"), &self.anon_key)
                    .header(AUTHORIZATION, format!("Bearer {}", self.anon_key))
                    .header(CONTENT_TYPE, "application/json")
                    .body(json!({ "refresh_token": refresh_token }).to_string());
                // A task of its own: whoever asked first may leave, and the
                // spent token must not be lost with him.
                let task = tokio::spawn(tokio::time::timeout(TIMEOUT, ask(request)));
                let answer = async move { task.await.ok()?.ok()?.map(Arc::new) };
                (Instant::now(), answer.boxed().shared())
            };
            match asked.entry((user, refresh_token.to_owned())) {
                Entry::Occupied(asked) => asked.get().1.clone(),
                Entry::Vacant(_) if !self.may_ask(user) => return None,
                Entry::Vacant(new) => new.insert(fresh()).1.clone(),
            }
        };
        asking.await
    }
}

impl Refresher {
    /// Counts a request for this user; false if there were too many of late.
    fn may_ask(&self, user: Uuid) -> bool {
        let (limit, window) = MAX_FOR_USER;
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, (since, _)| since.elapsed() < window);
        let (_, count) = users.entry(user).or_insert((Instant::now(), 0));
        *count += 1;
        *count <= limit
    }
}

async fn ask(request: reqwest::RequestBuilder) -> Option<Value> {
    let refused = |reason: String| {
        tracing::info!(reason, "a session was not refreshed");
        None
    };
    let response = match request.send().await {
        Ok(response) if response.status().is_success() => response,
        Ok(response) => return refused(format!("the auth server answered with status {}", response.status().as_u16())),
        Err(error) => return refused(error.without_url().to_string()),
    };
    let Ok(body) = http_client::read(response, MAX_BYTES).await else {
        return refused("the auth server's answer could not be read".to_owned());
    };
    let session: Option<Value> = serde_json::from_slice(&body).ok();
    match session {
        Some(mut session) if is_filled(&session["access_token"]) && is_filled(&session["refresh_token"]) => {
            if let (None, Some(lifetime)) = (session["expires_at"].as_u64(), session["expires_in"].as_u64()) {
                session["expires_at"] = (jsonwebtoken::get_current_timestamp() + lifetime).into();
            }
            Some(session)
        }
        _ => refused("the auth server's answer is no session".to_owned()),
    }
}

fn is_filled(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}
