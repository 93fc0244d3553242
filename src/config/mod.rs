//! Every setting: its variable, its default, its meaning. Each room has its own `Settings`; they are composed here, and
//! read once at the start.
//!
//! Two things outside read the environment themselves: the HTTP clients, for `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`
//! and `NO_PROXY`, and the platform's certificate store, for `SSL_CERT_FILE` and `SSL_CERT_DIR`. Those count only in
//! the process environment; `check` says so when a file sets them.

mod database;
pub mod env_file;
mod keys;
pub mod known;
mod models;
mod network;
#[cfg(feature = "otlp")]
mod otlp;
mod reader;
mod sessions;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use secrecy::SecretString;
use url::Url;

#[cfg(feature = "otlp")]
use crate::telemetry::otlp as traces;
use crate::{
    auth,
    credentials::Keys,
    db,
    http::{body::BodyLimits, respond::AnswerSettings},
    http_client::{
        self,
        ssrf_guard::{self, UpstreamPolicy},
    },
    llm::{BaseUrls, routing::ModelSettings},
    playground, rate_limit, usage,
};
pub use reader::ConfigError;
use reader::{Reader, wrong};

/// The settings of one server. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Config {
    /// `HOST`, default `127.0.0.1`: the address to listen on.
    pub host: String,
    /// `PORT`, default 8000; 0 = any free one.
    pub port: u16,
    /// `METRICS_ADDR`, `HOST:PORT`, default none: a second listener, for `/metrics` alone.
    pub metrics_addr: Option<(String, u16)>,
    /// `OTEL_*`; `None` if no endpoint is set.
    #[cfg(feature = "otlp")]
    pub otlp: Option<traces::Settings>,
    /// `DATABASE_*` and `SESSION_CHECK`.
    pub database: db::Settings,
    /// `SUPABASE_*`.
    pub sessions: auth::Settings,
    /// The server's own keys, which take precedence over the profile's: the 14 variables of
    /// [`crate::credentials::TABLE`]. An empty variable counts as unset. An API key may be several, with commas between.
    pub keys: Arc<Keys>,
    /// Provider base URLs: `OPENAI_BASE_URL`, `GROQ_BASE_URL`, ….
    pub base_urls: BaseUrls,
    /// `MODEL_ALIASES`, `COMMAND_MODEL`, `MODEL_FALLBACKS`, `MODELS` and `MODELS_FILE`.
    pub models: ModelSettings,
    /// `PRIVATE_UPSTREAMS`, `PROVIDER_CONNECT_TIMEOUT`, `PROVIDER_IDLE_TIMEOUT`.
    pub http_client: http_client::Settings,
    /// `TOOL_TIMEOUT`, in seconds, default 60: for one tool call, including reading its response.
    pub tool_timeout: Duration,
    /// `FRONTEND_URL`, default none: the address of the Next.js app, which gets all requests that no route of this
    /// server matches.
    pub frontend_url: Option<Url>,
    /// `FRONTEND_TIMEOUT`, in seconds, default 120: limit on the time from the end of the request to the head of the
    /// front end's response.
    pub frontend_timeout: Duration,
    /// `ANSWER_NOTES`, `ANSWER_SOURCES` and `HEARTBEAT`.
    pub answers: AnswerSettings,
    /// `CORS_ORIGINS`, default none: the origins (scheme, host and port) whose pages may call the routes, separated by
    /// commas.
    pub cors_origins: Vec<String>,
    /// `MAX_BODY_BYTES` and `BODY_TIMEOUT`.
    pub body: BodyLimits,
    /// `CLIENT_TIMEOUT`, in seconds, default 30: the connection is closed if the client vanished without a FIN, or does
    /// not read, for that long.
    pub client_timeout: Duration,
    /// `KEEP_ALIVE_TIMEOUT`, in seconds, default 75: the time from an answer to the complete head of the next request
    /// on its connection. Longer than proxies keep theirs idle (nginx: 60), so that it is the proxy that closes one.
    pub keep_alive_timeout: Duration,
    /// `MAX_REQUESTS`, default 10000: the most requests in flight in the whole server; one more is answered with 503.
    /// `/healthz` and `/readyz` are not counted. Twice as many connections are accepted.
    pub max_requests: usize,
    /// `MAX_STREAMS_PER_USER`, `RATE_LIMIT_PER_MINUTE` and `REDIS_URL`.
    pub rate_limit: rate_limit::Settings,
    /// `SUPABASE_SERVICE_ROLE_KEY`: only for downloading files from storage.
    pub service_role_key: Option<SecretString>,
    /// `LOCAL_EMBEDDINGS_DIR`: a folder with all-MiniLM-L6-v2 (config.json, tokenizer.json, model.safetensors).
    pub local_embeddings_dir: Option<PathBuf>,
    /// `MAX_BUFFERED_BYTES`, default 268435456: the most bytes that requests hold in all (bodies, files, answers of
    /// tools and embeddings); one user gets a quarter. Beyond it a request is answered 503.
    pub max_buffered_bytes: usize,
    /// `MAX_PASSAGES`, default 2000: a file with more passages is not stored.
    pub max_passages: usize,
    /// `MAX_FILE_BYTES`, default 52428800: a larger file is not processed.
    pub max_file_bytes: usize,
    /// `SHUTDOWN_GRACE`, in seconds, default 30: the time that streams have to finish once shutdown begins.
    pub shutdown_grace: Duration,
    /// `USAGE` and `USAGE_KEEP_DAYS`.
    pub usage: usage::Settings,
    /// The page at `/`, for `demo` and `serve --playground`. Set by the command, not by a variable.
    pub playground: Option<playground::Settings>,
}

/// Variables by name, from a file or the environment.
pub type Variables = HashMap<String, String>;

/// The files with settings, in the working directory.
pub const FILES: [&str; 2] = [".env", ".env.local"];

/// Files that Next.js reads in some modes, and this server does not.
pub const UNREAD_FILES: [&str; 4] =
    [".env.production", ".env.production.local", ".env.development", ".env.development.local"];

/// Reads `.env`, then `.env.local`, then the environment; later ones override.
///
/// # Errors
/// If a file exists and cannot be read.
pub fn variables() -> Result<Variables, String> {
    let mut variables = from_files()?;
    variables.extend(
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))),
    );
    Ok(variables)
}

/// Reads the variables of the files alone.
///
/// # Errors
/// If a file exists and cannot be read.
pub fn from_files() -> Result<Variables, String> {
    let mut variables = Variables::new();
    for name in FILES {
        let bytes = match std::fs::read(name) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{name} cannot be read: {error}")),
        };
        // A file in UTF-16, as PowerShell and Notepad write it, has zeros between ASCII characters.
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
            return Err(format!(
                "{name} is in UTF-16, so no setting in it can be read: save it as UTF-8 (PowerShell: `Set-Content -Encoding utf8`)"
            ));
        }
        let text = String::from_utf8(bytes).map_err(|_| format!("{name} is not in UTF-8: save it as UTF-8"))?;
        env_file::read(&text, |name| std::env::var(name).ok(), &mut variables);
    }
    Ok(variables)
}

impl Config {
    /// Reads every setting from `variables`.
    ///
    /// # Errors
    /// If a variable is invalid: the first one.
    pub fn new(variables: &Variables) -> Result<Self, ConfigError> {
        let read = Reader(variables);
        let host = read.text("HOST").unwrap_or("127.0.0.1").to_owned();
        let private_upstreams = match read.text("PRIVATE_UPSTREAMS") {
            Some(text) => UpstreamPolicy::from_str(text).map_err(|problem| wrong("PRIVATE_UPSTREAMS", problem))?,
            None if ssrf_guard::is_this_machine(&host) => UpstreamPolicy::allow(),
            None => UpstreamPolicy::default(),
        };
        let port = read.number("PORT", 8000)?;
        let frontend_url = read.frontend_url(&host, port)?;
        let sessions = read.sessions(&host)?;
        Ok(Self {
            host,
            metrics_addr: read.host_and_port("METRICS_ADDR")?,
            #[cfg(feature = "otlp")]
            otlp: read.otlp()?,
            port,
            frontend_url,
            frontend_timeout: read.seconds("FRONTEND_TIMEOUT", 120)?,
            answers: AnswerSettings {
                notes: read.switch("ANSWER_NOTES", true)?,
                sources: read.switch("ANSWER_SOURCES", true)?,
                heartbeat: read.seconds_or_none("HEARTBEAT", 15)?,
            },
            cors_origins: read.cors_origins()?,
            database: read.database()?,
            sessions,
            keys: Arc::new(read.keys()?),
            models: read.models()?,
            base_urls: BaseUrls {
                openai: read.base_url("OPENAI_BASE_URL", "https://api.openai.com/v1")?,
                groq: read.base_url("GROQ_BASE_URL", "https://api.groq.com/openai/v1")?,
                mistral: read.base_url("MISTRAL_BASE_URL", "https://api.mistral.ai/v1")?,
                openrouter: read.base_url("OPENROUTER_BASE_URL", "https://openrouter.ai/api/v1")?,
                perplexity: read.base_url("PERPLEXITY_BASE_URL", "https://api.perplexity.ai")?,
                anthropic: read.base_url("ANTHROPIC_BASE_URL", "https://api.anthropic.com")?,
                google: read.base_url("GOOGLE_GEMINI_BASE_URL", "https://generativelanguage.googleapis.com")?,
            },
            http_client: http_client::Settings {
                private_upstreams,
                connect_timeout: read.seconds("PROVIDER_CONNECT_TIMEOUT", 10)?,
                idle_timeout: read.seconds("PROVIDER_IDLE_TIMEOUT", 300)?,
            },
            tool_timeout: read.seconds("TOOL_TIMEOUT", 60)?,
            max_requests: read.count("MAX_REQUESTS", 10_000)? as usize,
            rate_limit: read.rate_limit()?,
            body: BodyLimits {
                max_bytes: read.bytes("MAX_BODY_BYTES", 32 * 1024 * 1024)?,
                timeout: read.seconds("BODY_TIMEOUT", 20)?,
            },
            client_timeout: read.seconds("CLIENT_TIMEOUT", 30)?,
            keep_alive_timeout: read.seconds("KEEP_ALIVE_TIMEOUT", 75)?,
            service_role_key: read.text("SUPABASE_SERVICE_ROLE_KEY").map(SecretString::from),
            local_embeddings_dir: read.text("LOCAL_EMBEDDINGS_DIR").map(PathBuf::from),
            max_file_bytes: read.bytes("MAX_FILE_BYTES", 50 * 1024 * 1024)?,
            max_buffered_bytes: read.bytes("MAX_BUFFERED_BYTES", 256 * 1024 * 1024)?,
            max_passages: read.count("MAX_PASSAGES", 2_000)? as usize,
            shutdown_grace: read.seconds("SHUTDOWN_GRACE", 30)?,
            usage: usage::Settings { on: read.switch("USAGE", true)?, keep_days: read.count("USAGE_KEEP_DAYS", 90)? },
            playground: None,
        })
    }
}
