//! A stand-in for what retrieval asks: Supabase Storage, and a provider whose
//! vectors depend on the text alone, as those of the recordings did.

use std::{
    collections::HashMap,
    net::TcpListener,
    sync::{Arc, Mutex},
};

use actix_web::{
    App as Web, HttpRequest, HttpResponse, HttpServer,
    http::StatusCode,
    web::{self, Bytes, Data},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One call for vectors.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Value,
}

#[derive(Default)]
struct Shared {
    objects: Mutex<HashMap<String, Vec<u8>>>,
    /// By key: what to answer before vectors, and how often.
    failures: Mutex<HashMap<String, (u16, usize, Value)>>,
    asked: Mutex<HashMap<String, Vec<Asked>>>,
}

/// Storage and embeddings at one address.
pub struct Stand {
    pub url: String,
    shared: Data<Shared>,
}

pub const SERVICE_KEY: &str = "the-service-key";

impl Stand {
    pub fn start() -> Self {
        let shared = Data::from(Arc::new(Shared::default()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let data = shared.clone();
        std::thread::spawn(move || {
            let server = HttpServer::new(move || {
                Web::new()
                    .app_data(data.clone())
                    .app_data(web::PayloadConfig::new(64 << 20))
                    .route("/storage/v1/object/files/{path:.*}", web::get().to(object))
                    .route("/{path:.*}/embeddings", web::post().to(embeddings))
            });
            let server = server.workers(1).disable_signals().listen(listener).expect("listens").run();
            actix_web::rt::System::new().block_on(server)
        });
        Self { url, shared }
    }

    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        self.shared.objects.lock().expect("no panic").insert(path.to_owned(), bytes);
    }

    /// The first `times` calls with this key fail so.
    pub fn fail(&self, key: &str, status: u16, times: usize, body: Value) {
        self.shared.failures.lock().expect("no panic").insert(key.to_owned(), (status, times, body));
    }

    pub fn asked(&self, key: &str) -> Vec<Asked> {
        self.shared.asked.lock().expect("no panic").get(key).cloned().unwrap_or_default()
    }
}

async fn object(shared: Data<Shared>, path: web::Path<String>, request: HttpRequest) -> HttpResponse {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if header("authorization") != format!("Bearer {SERVICE_KEY}") || header("apikey") != SERVICE_KEY {
        return HttpResponse::BadRequest()
            .json(json!({ "statusCode": "403", "message": "new row violates row-level security policy" }));
    }
    match shared.objects.lock().expect("no panic").get(path.as_str()) {
        Some(bytes) => HttpResponse::Ok().body(bytes.clone()),
        None => HttpResponse::BadRequest().json(json!({ "statusCode": "404", "message": "Object not found" })),
    }
}

async fn embeddings(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let headers: HashMap<String, String> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("ascii").to_owned()))
        .collect();
    let key = headers["authorization"].trim_start_matches("Bearer ").to_owned();
    let asked = Asked { path: request.path().to_owned(), headers, body: body.clone() };
    shared.asked.lock().expect("no panic").entry(key.clone()).or_default().push(asked);
    if let Some((status, times, body)) = shared.failures.lock().expect("no panic").get_mut(&key)
        && *times > 0
    {
        *times -= 1;
        return HttpResponse::build(StatusCode::from_u16(*status).expect("a status")).json(&body);
    }
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
    HttpResponse::Ok().json(json!({ "object": "list", "data": data }))
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
