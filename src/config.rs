//! Every setting: its variable, its default, what it means. Read once at the
//! start; nothing else reads the environment.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use url::{Host, Url};

use crate::{
    keys::Keys,
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
    /// `MAX_BODY_BYTES`, default 33554432: a larger request is answered 413.
    pub max_body_bytes: usize,
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

/// How sessions are checked.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// `SUPABASE_URL`, else `NEXT_PUBLIC_SUPABASE_URL`, default
    /// `http://127.0.0.1:54321`.
    pub supabase_url: Url,
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

/// The variables by name, as a file or the environment gave them.
pub type Variables = HashMap<String, String>;

/// Reads `.env`, then `.env.local`, then the environment; the later wins.
///
/// # Errors
/// A file that is there and cannot be read or understood; the error names it
/// and the line, not the line's words.
pub fn variables() -> Result<Variables, String> {
    let mut variables = Variables::new();
    for name in [".env", ".env.local"] {
        if !Path::new(name).exists() {
            continue;
        }
        let lines = dotenvy::from_path_iter(name).map_err(|error| format!("{name} cannot be read: {error}"))?;
        for line in lines {
            let (key, value) = line.map_err(|error| match error {
                dotenvy::Error::LineParse(_, at) => {
                    format!("{name} has a line that is no NAME=value (at its character {at})")
                }
                other => format!("{name} cannot be read: {other}"),
            })?;
            variables.insert(key, value);
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
        Ok(Self {
            host,
            port: read.number("PORT", 8000)?,
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
            max_body_bytes: read.number("MAX_BODY_BYTES", 32 * 1024 * 1024)?,
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
            0 => Err(wrong(name, "must be at least 1 (second)")),
            seconds => Ok(Duration::from_secs(seconds)),
        }
    }

    fn http_url(&self, name: &'static str, text: &str) -> Result<Url, ConfigError> {
        Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| wrong(name, "must be a URL that begins with http:// or https://"))
    }

    fn base_url(&self, name: &'static str, default: &str) -> Result<String, ConfigError> {
        let text = self.text(name).unwrap_or(default);
        self.http_url(name, text)?;
        Ok(text.trim_end_matches('/').to_owned())
    }

    fn database(&self) -> Result<Database, ConfigError> {
        let url = self.text("DATABASE_URL").unwrap_or("postgresql://postgres:postgres@127.0.0.1:54322/postgres");
        // What the parser says may quote the password; and it takes any scheme.
        let options = ["postgresql://", "postgres://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
            .then(|| PgConnectOptions::from_str(url).ok())
            .flatten()
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
        Ok(Sessions { supabase_url, public_supabase_url, jwt_secret, jwks_url, check, anon_key })
    }
}

impl Sessions {
    /// The name of the session's cookie: `sb-<ref>-auth-token`, `<ref>` being
    /// the first label of the Supabase URL's host, as supabase-js derives it.
    pub fn cookie_name(&self) -> String {
        let host = match self.supabase_url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(host @ (Host::Ipv4(_) | Host::Ipv6(_))) => host.to_string(),
            None => String::new(),
        };
        format!("sb-{}-auth-token", host.split('.').next().unwrap_or_default())
    }
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
        assert!(problem(&[("SESSION_CHECK", "no")]).starts_with("SESSION_CHECK must"));
        assert!(problem(&[("PRIVATE_UPSTREAMS", "10.0.0.0/40")]).starts_with("PRIVATE_UPSTREAMS"));
        assert!(problem(&[("PROVIDER_IDLE_TIMEOUT", "0")]).starts_with("PROVIDER_IDLE_TIMEOUT must"));
        let url = problem(&[("DATABASE_URL", "postgresql://u:hunter2@:x/y")]);
        assert!(url.starts_with("DATABASE_URL must look like") && !url.contains("hunter2"), "{url}");
    }

    #[test]
    fn a_listening_server_denies_private_upstreams() {
        for (host, allows) in [("0.0.0.0", false), ("::1", true), ("localhost", true), ("10.1.2.3", false)] {
            let config = config(&[("HOST", host)]).expect(host);
            assert_eq!(config.private_upstreams.allow, allows, "{host}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let config = config(&[
            ("DATABASE_URL", "postgresql://u:hunter2@db:6543/x"),
            ("OPENAI_API_KEY", "sk-hunter2"),
            ("SUPABASE_JWT_SECRET", "hunter2-hunter2-hunter2"),
        ])
        .expect("right");
        assert!(config.database.transaction_pooler);
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
