//! A stand-in for a Supabase project: its auth server (key set, sessions), the
//! files of its storage, and the little of its REST API that a page reads. It
//! answers in the original's shapes, and refuses requests without the right key.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::{Value, json};

use super::upstream::{Recorded, Reply, Step, Upstream};

/// The project's keys unless a test has its own.
pub const ANON_KEY: &str = "the-anon-key";
pub const SERVICE_KEY: &str = "the-service-key";

/// The project's state. Clones share it.
#[derive(Clone)]
pub struct Project(Arc<Mutex<Data>>);

struct Data {
    anon_key: String,
    service_key: String,
    /// Before each answer of the auth server.
    delay: Duration,
    /// Instead of any answer of the auth server.
    failure: Option<u16>,
    key_set: Value,
    grants: Vec<Grant>,
    objects: HashMap<String, Vec<u8>>,
}

/// A session for the sender of a form.
struct Grant {
    kind: &'static str,
    form: Value,
    session: Box<dyn Fn() -> Value + Send>,
    times: usize,
}

impl Grant {
    fn fits(&self, kind: &str, form: &Value) -> bool {
        let members = self.form.as_object().expect("an object");
        self.kind == kind && self.times > 0 && members.iter().all(|(name, value)| form[name] == *value)
    }
}

impl Project {
    pub fn new(anon_key: &str, service_key: &str) -> Self {
        Self(Arc::new(Mutex::new(Data {
            anon_key: anon_key.to_owned(),
            service_key: service_key.to_owned(),
            delay: Duration::ZERO,
            failure: None,
            key_set: json!({ "keys": [] }),
            grants: Vec::new(),
            objects: HashMap::new(),
        })))
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.lock().expect("no panic")
    }

    /// Lets the auth server take its time from now on.
    pub fn delay(&self, delay: Duration) {
        self.data().delay = delay;
    }

    /// Lets the auth server answer every request with this status, or work again.
    pub fn fail(&self, status: Option<u16>) {
        self.data().failure = status;
    }

    /// Replaces the key set.
    pub fn publish(&self, keys: Vec<Value>) {
        self.data().key_set = json!({ "keys": keys });
    }

    /// Answers this form of `grant_type=<kind>` with a session, so many times.
    pub fn grant(&self, kind: &'static str, form: Value, times: usize, session: impl Fn() -> Value + Send + 'static) {
        self.data().grants.push(Grant { kind, form, times, session: Box::new(session) });
    }

    /// Stores an object of the bucket `files`.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        self.data().objects.insert(path.to_owned(), bytes);
    }

    /// The project's answer to one request.
    pub fn answer(&self, request: &Recorded) -> Reply {
        let mut data = self.data();
        let mut reply = match (request.method.as_str(), request.path.as_str()) {
            ("OPTIONS", _) => {
                let allowed = "apikey, authorization, content-type, prefer";
                Reply { headers: vec![("access-control-allow-headers".to_owned(), allowed.to_owned())], ..empty(200) }
            }
            (_, path) if path.starts_with("/auth/") && data.failure.is_some() => {
                empty(data.failure.unwrap_or_default())
            }
            ("GET", "/auth/v1/.well-known/jwks.json") => Reply::json(200, &data.key_set),
            ("POST", "/auth/v1/token") if has_key(request, &data.anon_key) => data.session(request),
            ("GET", "/auth/v1/settings") if has_key(request, &data.anon_key) => Reply::json(200, &json!({})),
            ("GET", "/storage/v1/bucket/files") if has_key(request, &data.service_key) => Reply::json(200, &json!({})),
            ("GET", "/rest/v1/models" | "/rest/v1/tools") if has_key(request, &data.anon_key) => {
                Reply::json(200, &json!([]))
            }
            ("GET", path) => match path.strip_prefix("/storage/v1/object/files/") {
                Some(path) => data.object(request, path),
                None if path.starts_with("/storage/") => unseen_bucket(request),
                None => empty(401),
            },
            _ => empty(401),
        };
        if request.path.starts_with("/auth/") {
            reply.before_head = data.delay;
        }
        // A page of any address may read it.
        reply.headers.push(("access-control-allow-origin".to_owned(), "*".to_owned()));
        reply
    }
}

impl Data {
    fn session(&mut self, request: &Recorded) -> Reply {
        let kind = request.query.iter().find(|(name, _)| name == "grant_type").map_or("", |(_, kind)| kind.as_str());
        let form: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        match self.grants.iter_mut().find(|grant| grant.fits(kind, &form)) {
            Some(grant) => {
                grant.times -= 1;
                Reply::json(200, &(grant.session)())
            }
            None if kind == "refresh_token" => {
                Reply::json(400, &json!({ "error_code": "refresh_token_already_used", "msg": "Already Used" }))
            }
            None => Reply::json(400, &json!({ "msg": "Invalid login credentials" })),
        }
    }

    fn object(&self, request: &Recorded, path: &str) -> Reply {
        // The gateway adds the header for a newer key, which is no token.
        let bearer = format!("Bearer {}", self.service_key);
        let is_signed_in = match request.header("authorization") {
            Some(header) => header == bearer && !self.service_key.starts_with("sb_"),
            None => self.service_key.starts_with("sb_"),
        };
        if !has_key(request, &self.service_key) || !is_signed_in {
            return unseen_bucket(request);
        }
        match self.objects.get(path) {
            Some(bytes) => Reply { steps: vec![Step::Write(bytes.clone())], ..empty(200) },
            None => Reply::json(400, &json!({ "statusCode": "404", "message": "Object not found" })),
        }
    }
}

/// The gateway's refusal of a newer key that it does not know; else storage's answer to a token that may not see the
/// bucket.
fn unseen_bucket(request: &Recorded) -> Reply {
    if request.header("apikey").is_none_or(|key| key.starts_with("sb_")) {
        return empty(401);
    }
    let words = "Bucket not found";
    Reply::json(400, &json!({ "statusCode": "404", "error": words, "code": "NoSuchBucket", "message": words }))
}

fn has_key(request: &Recorded, key: &str) -> bool {
    request.header("apikey") == Some(key)
}

fn empty(status: u16) -> Reply {
    Reply { status, headers: Vec::new(), ..Reply::default() }
}

/// A project at an address of its own.
pub struct Supabase {
    pub url: String,
    pub project: Project,
    upstream: Upstream,
}

impl Supabase {
    pub fn start() -> Self {
        Self::with_keys(ANON_KEY, SERVICE_KEY)
    }

    pub fn with_keys(anon_key: &str, service_key: &str) -> Self {
        let project = Project::new(anon_key, service_key);
        let answering = project.clone();
        let upstream = Upstream::answering(move |request| answering.answer(request));
        Self { url: upstream.url(), project, upstream }
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.upstream.all()
    }

    /// The number of requests so far.
    pub fn asked(&self) -> usize {
        self.requests().len()
    }
}
