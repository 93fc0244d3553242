//! A stand-in for what retrieval needs: Supabase Storage, and a provider whose
//! vectors depend on the text alone, as those of the recordings did.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    supabase::{ANON_KEY, Project},
    upstream::{Recorded, Reply, Upstream},
};

pub use super::supabase::SERVICE_KEY;

/// One call for vectors.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Value,
}

/// By key: the answer that comes before vectors, and how often.
type Failures = Arc<Mutex<HashMap<String, (u16, usize, Value)>>>;

/// Storage and embeddings at one address.
pub struct Stand {
    pub url: String,
    project: Project,
    failures: Failures,
    upstream: Upstream,
}

impl Stand {
    pub fn start() -> Self {
        let (project, failures) = (Project::new(ANON_KEY, SERVICE_KEY), Failures::default());
        let (storage, failing) = (project.clone(), failures.clone());
        let upstream =
            Upstream::answering(
                move |request| {
                    if is_call(request) { embeddings(request, &failing) } else { storage.answer(request) }
                },
            );
        Self { url: upstream.url(), project, failures, upstream }
    }

    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        self.project.put(path, bytes);
    }

    /// The first `times` calls with this key fail so.
    pub fn fail(&self, key: &str, status: u16, times: usize, body: Value) {
        self.failures.lock().expect("no panic").insert(key.to_owned(), (status, times, body));
    }

    /// The calls for vectors with this key.
    pub fn asked(&self, key: &str) -> Vec<Asked> {
        let calls = self.upstream.requests(key).into_iter().filter(is_call);
        calls
            .map(|call| Asked {
                body: serde_json::from_slice(&call.body).expect("JSON"),
                path: call.path,
                headers: call.headers.into_iter().collect(),
            })
            .collect()
    }
}

fn is_call(request: &Recorded) -> bool {
    request.method == "POST" && request.path.ends_with("/embeddings")
}

fn embeddings(request: &Recorded, failures: &Failures) -> Reply {
    if let Some((status, times, body)) = failures.lock().expect("no panic").get_mut(&request.key)
        && *times > 0
    {
        *times -= 1;
        return Reply::json(*status, body);
    }
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    let texts: Vec<&str> = match &body["input"] {
        Value::Array(texts) => texts.iter().map(|text| text.as_str().expect("text")).collect(),
        text => vec![text.as_str().expect("text")],
    };
    // Last first: the index counts, not the place.
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .rev()
        .map(|(index, text)| json!({ "index": index, "embedding": vector(text) }))
        .collect();
    Reply::json(200, &json!({ "object": "list", "data": data }))
}

/// A unit vector of 1,536 numbers that depends on the text alone.
pub fn vector(text: &str) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(1536);
    for block in 0.. {
        let digest = Sha256::digest(format!("{block}:{text}"));
        numbers.extend(
            digest.chunks(2).map(|pair| (f64::from(u16::from_be_bytes([pair[0], pair[1]])) - 32768.0) / 32768.0),
        );
        if numbers.len() >= 1536 {
            break;
        }
    }
    numbers.truncate(1536);
    let length = numbers.iter().map(|number| number * number).sum::<f64>().sqrt();
    numbers.iter().map(|number| (number / length) as f32).collect()
}
