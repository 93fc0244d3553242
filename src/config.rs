//! Every setting: its variable, its default, what it means. Read once at the
//! start; nothing else reads the environment.

pub mod env_file;
#[cfg(feature = "otlp")]
pub mod otlp;

use std::{collections::HashMap, num::NonZeroU32, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use url::{Host, Url};

use crate::{
    keys::Keys,
    limits::shared::Redis,
    outbound::guard::{self, PrivateUpstreams},
    playground,
};

/// The secret that every local Supabase stack is published with. It protects
/// nothing, so it is only taken where the Supabase URL is on this machine.
pub const PUBLISHED_JWT_SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";

/// The settings of one server. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Config {
    /// `HOST`, default `127.0.0.1`: the address to listen on.
    pub host: String,
    /// `PORT`, default 8000; 0 = any free one.
    pub port: u16,
    /// `METRICS_ADDR`, `HOST:PORT`, default none: a second listener, for
    /// `/metrics` alone.
    pub metrics_addr: Option<(String, u16)>,
    /// What `OTEL_*` says; `None` where no endpoint is set.
    #[cfg(feature = "otlp")]
    pub otlp: Option<otlp::Otlp>,
    /// What `DATABASE_*` says.
    pub database: Database,
    /// What `SUPABASE_*` and `SESSION_CHECK` say.
    pub sessions: Sessions,
    /// The keys set here, which win over the profile's: the 14 variables of
    /// [`crate::keys::TABLE`]. An empty variable counts as unset.
    pub keys: Arc<Keys>,
    /// Where the providers are asked.
    pub base_urls: BaseUrls,
    /// `PRIVATE_UPSTREAMS`: may the URLs that users choose lead to private
    /// addresses: `allow` (the default where `HOST` is loopback), `deny` (the
    /// default elsewhere), or a list of hosts and networks. Link-local and
    /// metadata addresses need to be listed always.
    pub private_upstreams: PrivateUpstreams,
    /// `PROVIDER_CONNECT_TIMEOUT`, in seconds, default 10: for a connection
    /// to a provider, TLS included.
    pub provider_connect_timeout: Duration,
    /// `PROVIDER_IDLE_TIMEOUT`, in seconds, default 300: how long a provider
    /// may be silent, before its first byte and between two.
    pub provider_idle_timeout: Duration,
    /// `TOOL_TIMEOUT`, in seconds, default 60: for one call of a tool, its
    /// answer included.
    pub tool_timeout: Duration,
    /// `FRONTEND_URL`, default none: the address of the Next.js app, to which
    /// everything goes that is not this server's own.
    pub frontend_url: Option<Url>,
    /// `FRONTEND_TIMEOUT`, in seconds, default 120: how long the front end may
    /// take to begin its answer, once it has the whole request.
    pub frontend_timeout: Duration,
    /// `CORS_ORIGINS`, default none: the origins (scheme, host and port) whose
    /// pages may call the routes, with commas between.
    pub cors_origins: Vec<String>,
    /// `MAX_BODY_BYTES`, default 33554432: a larger request is answered 413.
    pub max_body_bytes: usize,
    /// `BODY_TIMEOUT`, in seconds, default 20: how long a request's body may
    /// take, and a second more for each 4 KiB of it.
    pub body_timeout: Duration,
    /// `CLIENT_TIMEOUT`, in seconds, default 30: after how long a client is
    /// given up that vanished without a word, that does not read, or whose
    /// next request's head does not come.
    pub client_timeout: Duration,
    /// What `MAX_REQUESTS`, `MAX_STREAMS_PER_USER`, `RATE_LIMIT_PER_MINUTE`
    /// and `REDIS_URL` say.
    pub limits: Limits,
    /// `SUPABASE_SERVICE_ROLE_KEY`: only for reading files from storage.
    pub service_role_key: Option<SecretString>,
    /// `LOCAL_EMBEDDINGS_DIR`: a folder with all-MiniLM-L6-v2 (config.json,
    /// tokenizer.json, model.safetensors).
    pub local_embeddings_dir: Option<PathBuf>,
    /// `MAX_FILE_BYTES`, default 52428800: a larger file is not processed.
    pub max_file_bytes: usize,
    /// `SHUTDOWN_GRACE`, in seconds, default 30: how long streams may go on
    /// once the server was told to stop.
    pub shutdown_grace: Duration,
    /// The page at `/`, which `demo` and `serve --playground` have. No
    /// variable: whoever runs the command says so.
    pub playground: Option<playground::Settings>,
}

/// How to reach Postgres.
#[derive(Clone)]
pub struct Database {
    /// `DATABASE_URL`, default the local Supabase stack's,
    /// `postgresql://postgres:postgres@127.0.0.1:54322/postgres`.
    pub options: PgConnectOptions,
    /// `DATABASE_POOL_SIZE`, default 10: the most connections held at once.
    pub pool_size: u32,
    /// `DATABASE_POOLER`: `transaction` where a pooler in transaction mode
    /// stands between (then statements are unnamed and each stands in a
    /// transaction), `session` where not. Default: by the port, 6543 being
    /// Supavisor's for transactions.
    pub transaction_pooler: bool,
}

impl std::fmt::Debug for Database {
    // By hand, because the options hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("host", &self.options.get_host())
            .field("port", &self.options.get_port())
            .field("database", &self.options.get_database())
            .field("username", &self.options.get_username())
            .field("pool_size", &self.pool_size)
            .field("transaction_pooler", &self.transaction_pooler)
            .finish_non_exhaustive()
    }
}

/// How much is served at once, and how often to one user.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `MAX_REQUESTS`, default 10000: the most requests under way in the
    /// whole server; one more is answered 503. `/healthz` and `/readyz` are
    /// not counted. Twice as many connections are held.
    pub max_requests: usize,
    /// `MAX_STREAMS_PER_USER`, default 32: the most requests of one user
    /// under way in this server; one more is answered 429.
    pub max_streams_per_user: u32,
    /// `RATE_LIMIT_PER_MINUTE`, default none: how many requests one user may
    /// send at once, and gains again a minute; one more is answered 429.
    pub rate_per_minute: Option<NonZeroU32>,
    /// `REDIS_URL`, default none: where servers share the count for
    /// `RATE_LIMIT_PER_MINUTE`; else each counts by itself.
    pub redis: Option<Redis>,
}

/// How sessions are checked.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// `SUPABASE_URL`, else `NEXT_PUBLIC_SUPABASE_URL`, default
    /// `http://127.0.0.1:54321`.
    pub supabase_url: Url,
    /// `SUPABASE_COOKIE_NAME`, default by the URL: for a server that reaches
    /// Supabase under another name than the browsers do.
    cookie: String,
    /// `NEXT_PUBLIC_SUPABASE_URL`, else as [`Self::supabase_url`]: where
    /// browsers reach the project, which the playground's page needs to know.
    pub public_supabase_url: Url,
    /// `SUPABASE_JWT_SECRET`: for tokens signed with HS256. The local stack's
    /// published secret is its default where the URL is on this machine, and
    /// refused anywhere else.
    pub jwt_secret: Option<SecretString>,
    /// `SUPABASE_JWKS_URL`, default
    /// `<SUPABASE_URL>/auth/v1/.well-known/jwks.json`: for tokens signed with
    /// ES256, RS256 or EdDSA.
    pub jwks_url: Url,
    /// `SESSION_CHECK`, default `database`.
    pub check: SessionCheck,
    /// `SUPABASE_ANON_KEY`, else `NEXT_PUBLIC_SUPABASE_ANON_KEY`: for
    /// refreshing a session whose access token has run out; without it such a
    /// session is none. Public by its nature, so it may show.
    pub anon_key: Option<String>,
}

/// How far a session is looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionCheck {
    /// The user exists and is not banned, the session was not signed out.
    Database,
    /// Signature, times and claims only: for a database role that may not
    /// read the schema `auth`. Signing out works when the token runs out.
    Token,
}

/// The providers' addresses, without a slash at the end.
#[derive(Debug, Clone)]
pub struct BaseUrls {
    /// `OPENAI_BASE_URL`, default `https://api.openai.com/v1`.
    pub openai: String,
    /// `GROQ_BASE_URL`, default `https://api.groq.com/openai/v1`.
    pub groq: String,
    /// `MISTRAL_BASE_URL`, default `https://api.mistral.ai/v1`.
    pub mistral: String,
    /// `OPENROUTER_BASE_URL`, default `https://openrouter.ai/api/v1`.
    pub openrouter: String,
    /// `PERPLEXITY_BASE_URL`, default `https://api.perplexity.ai`.
    pub perplexity: String,
    /// `ANTHROPIC_BASE_URL`, default `https://api.anthropic.com`.
    pub anthropic: String,
    /// `GOOGLE_GEMINI_BASE_URL`, default
    /// `https://generativelanguage.googleapis.com`.
    pub google: String,
}

impl BaseUrls {
    /// Whether no provider is asked outside this machine.
    pub fn all_on_this_machine(&self) -> bool {
        let Self { openai, groq, mistral, openrouter, perplexity, anthropic, google } = self;
        [openai, groq, mistral, openrouter, perplexity, anthropic, google]
            .into_iter()
            .all(|url| Url::parse(url).is_ok_and(|url| url.host_str().is_some_and(guard::is_this_machine)))
    }
}

/// A setting that cannot be used: which, and what would be right. Never the
/// value, which may be a secret.
#[derive(Debug, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct ConfigError {
    variable: &'static str,
    problem: String,
}

impl ConfigError {
    /// The variable's name.
    pub fn variable(&self) -> &'static str {
        self.variable
    }
}

/// The variables by name, as a file or the environment gave them.
pub type Variables = HashMap<String, String>;

/// The files that settings are read from, in the folder where the server runs.
pub const FILES: [&str; 2] = [".env", ".env.local"];

/// Reads `.env`, then `.env.local`, then the environment; the later wins.
///
/// # Errors
/// A file that is there and cannot be read.
pub fn variables() -> Result<Variables, String> {
    let mut variables = Variables::new();
    for name in FILES {
        match std::fs::read_to_string(name) {
            Ok(text) => env_file::read(&text, |name| std::env::var(name).ok(), &mut variables),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{name} cannot be read: {error}")),
        }
    }
    variables.extend(
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))),
    );
    Ok(variables)
}

impl Config {
    /// Reads every setting out of `variables`.
    ///
    /// # Errors
    /// The first variable that cannot be used.
    pub fn new(variables: &Variables) -> Result<Self, ConfigError> {
        let read = Reader(variables);
        let host = read.text("HOST").unwrap_or("127.0.0.1").to_owned();
        let private_upstreams = match read.text("PRIVATE_UPSTREAMS") {
            Some(text) => PrivateUpstreams::from_str(text).map_err(|problem| wrong("PRIVATE_UPSTREAMS", problem))?,
            None if guard::is_this_machine(&host) => PrivateUpstreams::allow(),
            None => PrivateUpstreams::default(),
        };
        let port = read.number("PORT", 8000)?;
        let frontend_url = read.frontend_url(&host, port)?;
        Ok(Self {
            host,
            metrics_addr: read.host_and_port("METRICS_ADDR")?,
            #[cfg(feature = "otlp")]
            otlp: read.otlp()?,
            port,
            frontend_url,
            frontend_timeout: read.seconds("FRONTEND_TIMEOUT", 120)?,
            cors_origins: read.cors_origins()?,
            database: read.database()?,
            sessions: read.sessions()?,
            keys: Arc::new(Keys::try_from_rows(|row| Ok(read.untrimmed(row.variable).map(str::to_owned)))?),
            base_urls: BaseUrls {
                openai: read.base_url("OPENAI_BASE_URL", "https://api.openai.com/v1")?,
                groq: read.base_url("GROQ_BASE_URL", "https://api.groq.com/openai/v1")?,
                mistral: read.base_url("MISTRAL_BASE_URL", "https://api.mistral.ai/v1")?,
                openrouter: read.base_url("OPENROUTER_BASE_URL", "https://openrouter.ai/api/v1")?,
                perplexity: read.base_url("PERPLEXITY_BASE_URL", "https://api.perplexity.ai")?,
                anthropic: read.base_url("ANTHROPIC_BASE_URL", "https://api.anthropic.com")?,
                google: read.base_url("GOOGLE_GEMINI_BASE_URL", "https://generativelanguage.googleapis.com")?,
            },
            private_upstreams,
            provider_connect_timeout: read.seconds("PROVIDER_CONNECT_TIMEOUT", 10)?,
            provider_idle_timeout: read.seconds("PROVIDER_IDLE_TIMEOUT", 300)?,
            tool_timeout: read.seconds("TOOL_TIMEOUT", 60)?,
            limits: read.limits()?,
            max_body_bytes: read.number("MAX_BODY_BYTES", 32 * 1024 * 1024)?,
            body_timeout: read.seconds("BODY_TIMEOUT", 20)?,
            client_timeout: read.seconds("CLIENT_TIMEOUT", 30)?,
            service_role_key: read.text("SUPABASE_SERVICE_ROLE_KEY").map(SecretString::from),
            local_embeddings_dir: read.text("LOCAL_EMBEDDINGS_DIR").map(PathBuf::from),
            max_file_bytes: read.number("MAX_FILE_BYTES", 50 * 1024 * 1024)?,
            shutdown_grace: read.seconds("SHUTDOWN_GRACE", 30)?,
            playground: None,
        })
    }
}

fn wrong(variable: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError { variable, problem: problem.into() }
}

struct Reader<'a>(&'a Variables);

impl Reader<'_> {
    /// A variable as it stands; an empty one counts as unset.
    fn untrimmed(&self, name: &'static str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &'static str) -> Option<&str> {
        self.untrimmed(name).map(str::trim).filter(|value| !value.is_empty())
    }

    fn number<N: FromStr>(&self, name: &'static str, default: N) -> Result<N, ConfigError> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| {
                let most = match name {
                    "PORT" => " from 0 to 65535",
                    _ => "",
                };
                wrong(name, format!("must be a whole number{most}"))
            }),
        }
    }

    fn seconds(&self, name: &'static str, default: u64) -> Result<Duration, ConfigError> {
        match self.number(name, default)? {
            // A day is longer than any client or provider would wait, and what
            // a socket's options can hold.
            seconds @ 1..=86_400 => Ok(Duration::from_secs(seconds)),
            _ => Err(wrong(name, "must be seconds, from 1 to 86400")),
        }
    }

    fn host_and_port(&self, name: &'static str) -> Result<Option<(String, u16)>, ConfigError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let parts = text.rsplit_once(':').and_then(|(host, port)| {
            // An IPv6 address is all colons, so it needs its brackets.
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let host = bare.unwrap_or(host);
            let right = !host.is_empty() && (bare.is_some() || !host.contains(':'));
            Some((host.to_owned(), port.parse().ok().filter(|_| right)?))
        });
        parts.map(Some).ok_or_else(|| wrong(name, "must be HOST:PORT, such as 127.0.0.1:9090 or [::1]:9090"))
    }

    fn http_url(&self, name: &'static str, text: &str) -> Result<Url, ConfigError> {
        let url = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| wrong(name, "must be a URL that begins with http:// or https://"))?;
        // Such a URL stands in log lines, and in errors that users see.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(name, "must be a URL without a user name or password in it"));
        }
        Ok(url)
    }

    fn base_url(&self, name: &'static str, default: &str) -> Result<String, ConfigError> {
        let text = self.text(name).unwrap_or(default);
        self.http_url(name, text)?;
        Ok(text.trim_end_matches('/').to_owned())
    }

    /// At least 1 and at most a million.
    fn count(&self, name: &'static str, default: u32) -> Result<u32, ConfigError> {
        match self.number(name, default) {
            Ok(count @ 1..=1_000_000) => Ok(count),
            _ => Err(wrong(name, "must be a whole number from 1 to 1000000")),
        }
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        let redis = self.text("REDIS_URL").map(|url| {
            // The parser's own words may quote the password.
            Redis::parse(url).ok_or_else(|| {
                wrong("REDIS_URL", "must look like redis://user:password@host:6379/0, or rediss:// for TLS (a password with special characters is percent-encoded)")
            })
        });
        let rate = self.text("RATE_LIMIT_PER_MINUTE").map(|_| self.count("RATE_LIMIT_PER_MINUTE", 0));
        Ok(Limits {
            max_requests: self.count("MAX_REQUESTS", 10_000)? as usize,
            max_streams_per_user: self.count("MAX_STREAMS_PER_USER", 32)?,
            rate_per_minute: rate.transpose()?.and_then(NonZeroU32::new),
            redis: redis.transpose()?,
        })
    }

    fn frontend_url(&self, host: &str, port: u16) -> Result<Option<Url>, ConfigError> {
        const NAME: &str = "FRONTEND_URL";
        let Some(text) = self.text(NAME) else { return Ok(None) };
        let url = self.http_url(NAME, text)?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(NAME, "must be a scheme, a host and a port only, such as http://127.0.0.1:3000"));
        }
        let to = url.host_str().unwrap_or_default();
        let same_host = guard::is_this_machine(to) || to.trim_matches(['[', ']']) == host.trim_matches(['[', ']']);
        if same_host && url.port_or_known_default() == Some(port) {
            return Err(wrong(
                NAME,
                "is this server's own address. It must be the Next.js app's; run one of them on another port",
            ));
        }
        Ok(Some(url))
    }

    fn cors_origins(&self) -> Result<Vec<String>, ConfigError> {
        const NAME: &str = "CORS_ORIGINS";
        let origins = self.text(NAME).unwrap_or_default().split([',', ' ']).filter(|origin| !origin.is_empty());
        let origin = |text: &str| {
            if text == "*" {
                return Err(wrong(
                    NAME,
                    "cannot be `*`: any site could then act with the sessions of its visitors. List the origins of your front ends",
                ));
            }
            let origin = self.http_url(NAME, text).ok().map(|url| url.origin().ascii_serialization());
            origin.filter(|origin| origin.eq_ignore_ascii_case(text)).ok_or_else(|| {
                wrong(
                    NAME,
                    "must be a list of origins such as https://chat.example.com (scheme, host and, if it is not the usual, port; no slash at the end), with commas between",
                )
            })
        };
        origins.map(origin).collect()
    }

    fn database(&self) -> Result<Database, ConfigError> {
        let url = self.text("DATABASE_URL").unwrap_or("postgresql://postgres:postgres@127.0.0.1:54322/postgres");
        // What the parser says may quote the password; it takes any scheme, and
        // what follows a slash, `?` or `#` in the password for something else.
        let options = ["postgresql://", "postgres://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme))
            .filter(|rest| {
                let (front, query) = rest.split_once('?').unwrap_or((rest, ""));
                let path = front.split_once('/').map_or("", |(_, path)| path);
                let no_name = |pair: &str| !pair.is_empty() && pair.split('=').next().is_none_or(|it| it.contains('@'));
                !rest.contains('#') && !path.contains('@') && !query.split('&').any(no_name)
            })
            .and_then(|_| PgConnectOptions::from_str(url).ok())
            .ok_or_else(|| {
                wrong("DATABASE_URL", "must look like postgresql://user:password@host:5432/database (a password with special characters is percent-encoded)")
            })?;
        let transaction_pooler = match self.text("DATABASE_POOLER") {
            None => options.get_port() == 6543,
            Some("transaction") => true,
            Some("session") => false,
            Some(_) => return Err(wrong("DATABASE_POOLER", "must be `transaction` or `session`")),
        };
        let pool_size = self.number("DATABASE_POOL_SIZE", 10)?;
        if pool_size == 0 {
            return Err(wrong("DATABASE_POOL_SIZE", "must be at least 1"));
        }
        Ok(Database { options, pool_size, transaction_pooler })
    }

    fn sessions(&self) -> Result<Sessions, ConfigError> {
        let (name, url) = ["SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"]
            .into_iter()
            .find_map(|name| Some((name, self.text(name)?)))
            .unwrap_or(("SUPABASE_URL", "http://127.0.0.1:54321"));
        let supabase_url = self.http_url(name, url.trim_end_matches('/'))?;
        let public_supabase_url = match self.text("NEXT_PUBLIC_SUPABASE_URL") {
            Some(url) => self.http_url("NEXT_PUBLIC_SUPABASE_URL", url.trim_end_matches('/'))?,
            None => supabase_url.clone(),
        };
        let local = supabase_url.host_str().is_some_and(guard::is_this_machine);
        let jwt_secret = match self.text("SUPABASE_JWT_SECRET") {
            None => local.then(|| SecretString::from(PUBLISHED_JWT_SECRET)),
            Some(PUBLISHED_JWT_SECRET) if !local => {
                return Err(wrong(
                    "SUPABASE_JWT_SECRET",
                    "is the secret that every local Supabase stack is published with, and SUPABASE_URL is not on this machine: anyone could sign in as anyone. Set the project's own (dashboard, JWT keys), or leave it unset where the project signs with ES256 or RS256",
                ));
            }
            Some(secret) => Some(SecretString::from(secret)),
        };
        if let Some(secret) = &jwt_secret
            && secret.expose_secret().len() < 16
        {
            return Err(wrong("SUPABASE_JWT_SECRET", "must have at least 16 characters"));
        }
        let jwks_url = match self.text("SUPABASE_JWKS_URL") {
            Some(url) => self.http_url("SUPABASE_JWKS_URL", url)?,
            None => {
                let base = supabase_url.as_str().trim_end_matches('/');
                self.http_url(name, &format!("{base}/auth/v1/.well-known/jwks.json"))?
            }
        };
        let check = match self.text("SESSION_CHECK") {
            None | Some("database") => SessionCheck::Database,
            Some("token") => SessionCheck::Token,
            Some(_) => return Err(wrong("SESSION_CHECK", "must be `database` or `token`")),
        };
        let anon_key = self.text("SUPABASE_ANON_KEY").or_else(|| self.text("NEXT_PUBLIC_SUPABASE_ANON_KEY"));
        let anon_key = anon_key.map(str::to_owned);
        let cookie = self.text("SUPABASE_COOKIE_NAME").map_or_else(|| cookie_name(&supabase_url), str::to_owned);
        if cookie.contains(['=', ';', ',', ' ']) || !cookie.is_ascii() {
            return Err(wrong("SUPABASE_COOKIE_NAME", "must be a cookie's name, such as sb-127-auth-token"));
        }
        Ok(Sessions { supabase_url, public_supabase_url, cookie, jwt_secret, jwks_url, check, anon_key })
    }
}

impl Sessions {
    /// The name of the session's cookie.
    pub fn cookie_name(&self) -> &str {
        &self.cookie
    }
}

/// The name that Supabase's clients give the cookie of the project at `url`:
/// `sb-<ref>-auth-token`, `<ref>` being the first label of the host.
pub fn cookie_name(url: &Url) -> String {
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(host @ (Host::Ipv4(_) | Host::Ipv6(_))) => host.to_string(),
        None => String::new(),
    };
    format!("sb-{}-auth-token", host.split('.').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::new(&variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn problem(variables: &[(&str, &str)]) -> String {
        config(variables).expect_err("must be refused").to_string()
    }

    #[test]
    fn nothing_set_is_the_local_stack() {
        let config = config(&[]).expect("defaults are right");
        assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 8000));
        assert_eq!(config.database.options.get_port(), 54322);
        assert!(!config.database.transaction_pooler);
        assert_eq!(config.sessions.cookie_name(), "sb-127-auth-token");
        assert_eq!(config.sessions.jwks_url.as_str(), "http://127.0.0.1:54321/auth/v1/.well-known/jwks.json");
        assert!(config.sessions.jwt_secret.is_some());
        assert!(config.private_upstreams.allow);
    }

    #[test]
    fn the_cookie_is_named_by_the_hosts_first_label() {
        for (url, name) in [
            ("http://localhost:54321", "sb-localhost-auth-token"),
            ("https://AbCdefgh.supabase.co/", "sb-abcdefgh-auth-token"),
            ("http://10.0.0.5:8000", "sb-10-auth-token"),
            ("https://api.example.com", "sb-api-auth-token"),
            ("http://supabase_kong:8000", "sb-supabase_kong-auth-token"),
            ("http://[::1]:1", "sb-[::1]-auth-token"),
        ] {
            let config = config(&[("NEXT_PUBLIC_SUPABASE_URL", url), ("SUPABASE_JWT_SECRET", "a secret of our own")]);
            assert_eq!(config.expect(url).sessions.cookie_name(), name);
        }
    }

    #[test]
    fn the_published_secret_is_for_this_machine_only() {
        let hosted = ("SUPABASE_URL", "https://abc.supabase.co");
        assert!(config(&[hosted]).expect("key set only").sessions.jwt_secret.is_none());
        assert!(
            problem(&[hosted, ("SUPABASE_JWT_SECRET", PUBLISHED_JWT_SECRET)])
                .starts_with("SUPABASE_JWT_SECRET is the secret")
        );
    }

    #[test]
    fn a_wrong_one_is_named() {
        assert_eq!(problem(&[("PORT", "eighty")]), "PORT must be a whole number from 0 to 65535");
        assert!(problem(&[("SUPABASE_URL", "abc.supabase.co")]).starts_with("SUPABASE_URL must be a URL"));
        assert!(problem(&[("NEXT_PUBLIC_SUPABASE_URL", "x")]).starts_with("NEXT_PUBLIC_SUPABASE_URL must"));
        assert!(problem(&[("OPENAI_BASE_URL", "ftp://x")]).starts_with("OPENAI_BASE_URL must"));
        assert!(problem(&[("SUPABASE_COOKIE_NAME", "a=b")]).starts_with("SUPABASE_COOKIE_NAME must"));
        assert!(problem(&[("SESSION_CHECK", "no")]).starts_with("SESSION_CHECK must"));
        for address in ["9090", ":9090", "::1:9090", "localhost:", "localhost:70000", "http://x:1"] {
            assert!(problem(&[("METRICS_ADDR", address)]).starts_with("METRICS_ADDR must be HOST:PORT"), "{address}");
        }
        assert!(problem(&[("PRIVATE_UPSTREAMS", "10.0.0.0/40")]).starts_with("PRIVATE_UPSTREAMS"));
        for url in ["127.0.0.1:3000", "http://x/app", "http://x?a", "http://u:p@x", "http://localhost:8000"] {
            assert!(problem(&[("FRONTEND_URL", url)]).starts_with("FRONTEND_URL "), "{url}");
        }
        for origins in [
            "*",
            "chat.example.com",
            "https://chat.example.com/",
            "https://a.example/x",
            "https://a.example:443",
            "null",
        ] {
            assert!(problem(&[("CORS_ORIGINS", origins)]).starts_with("CORS_ORIGINS "), "{origins}");
        }
        assert!(problem(&[("CORS_ORIGINS", "https://a.example,*")]).starts_with("CORS_ORIGINS cannot be `*`"));
        assert!(problem(&[("PROVIDER_IDLE_TIMEOUT", "0")]).starts_with("PROVIDER_IDLE_TIMEOUT must"));
        assert!(problem(&[("TOOL_TIMEOUT", "a minute")]).starts_with("TOOL_TIMEOUT must"));
        for name in ["SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL", "SUPABASE_JWKS_URL", "OPENAI_BASE_URL"] {
            for url in ["http://u:hunter2@127.0.0.1/", "http://hunter2@127.0.0.1/", "http://:hunter2@127.0.0.1/"] {
                let problem = problem(&[(name, url)]);
                assert!(problem.starts_with(name) && !problem.contains("hunter2"), "{problem}");
            }
        }
        assert!(problem(&[("MAX_REQUESTS", "0")]).starts_with("MAX_REQUESTS must be a whole number from 1"));
        assert!(problem(&[("MAX_STREAMS_PER_USER", "-1")]).starts_with("MAX_STREAMS_PER_USER must"));
        assert!(problem(&[("RATE_LIMIT_PER_MINUTE", "0")]).starts_with("RATE_LIMIT_PER_MINUTE must"));
        for wrong in [
            "127.0.0.1:6379",
            "http://u:hunter2@x",
            "redis://u:hunter2@:x/y",
            "unix:///hunter2",
            "rediss://u:hunter2@h/0#insecure",
        ] {
            let url = problem(&[("REDIS_URL", wrong)]);
            assert!(url.starts_with("REDIS_URL must look like") && !url.contains("hunter2"), "{url}");
        }
        for unencoded in ["hunter2@:x/y", "p/hunter2@h:1/x", "?hunter2@h:1/x", "1?hunter2@h/x", "1#hunter2@h/x"] {
            let url = problem(&[("DATABASE_URL", &format!("postgresql://u:{unencoded}"))]);
            assert!(url.starts_with("DATABASE_URL must look like") && !url.contains("hunter2"), "{url}");
        }
        for right in ["u:p%40ss%2Fword@h:1/x?sslmode=require", "u:p@h?host=/run/a@b", "/x?host=/run/x&user=a@b"] {
            let right = format!("postgresql://{right}");
            assert!(config(&[("DATABASE_URL", &right)]).is_ok(), "{right}");
        }
    }

    #[test]
    fn a_listening_server_denies_private_upstreams() {
        for (host, allows) in [("0.0.0.0", false), ("::1", true), ("localhost", true), ("10.1.2.3", false)] {
            let config = config(&[("HOST", host)]).expect(host);
            assert_eq!(config.private_upstreams.allow, allows, "{host}");
        }
    }

    #[test]
    fn the_pooler_is_known_by_its_port_or_by_its_setting() {
        let is_pooled = |port: u16, setting: &str| {
            let url = format!("postgresql://u:p@db.example.com:{port}/x");
            let config = config(&[("DATABASE_URL", &url), ("DATABASE_POOLER", setting)]);
            config.expect("right").database.transaction_pooler
        };
        assert!(is_pooled(6543, "") && is_pooled(5432, "transaction") && is_pooled(6543, "transaction"));
        assert!(!is_pooled(5432, "") && !is_pooled(6543, "session") && !is_pooled(5432, "session"));
        assert!(problem(&[("DATABASE_POOLER", "pgbouncer")]).starts_with("DATABASE_POOLER must"));
    }

    #[test]
    fn origins_are_listed_with_commas() {
        let config = config(&[("CORS_ORIGINS", "https://Chat.example.com, http://localhost:3000,")]).expect("right");
        assert_eq!(config.cors_origins, ["https://chat.example.com", "http://localhost:3000"]);
    }

    #[test]
    fn debug_shows_no_secret() {
        let config = config(&[
            ("DATABASE_URL", "postgresql://u:hunter2@db:6543/x"),
            ("OPENAI_API_KEY", "sk-hunter2"),
            ("SUPABASE_JWT_SECRET", "hunter2-hunter2-hunter2"),
            ("REDIS_URL", "rediss://u:hunter2@cache.example.com"),
        ])
        .expect("right");
        assert!(config.database.transaction_pooler);
        let shown = format!("{config:?}");
        assert!(shown.contains("cache.example.com:6379") && !shown.contains("hunter2"), "{shown}");
    }
}
