//! `demo`: everything on one machine with nothing to set up: a Postgres, the
//! tables, a user with keys, a scripted provider, the server.

mod provider;

use std::{
    net::{Ipv4Addr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use super::{
    StopSignals, migrate,
    postgres::{self, Options, Programs, Server},
    progress, say, serve, session,
};
use crate::{
    app,
    config::{self, Config, PUBLISHED_JWT_SECRET, Variables},
    keys,
    llm::providers::{OPENAI, PROVIDERS},
    telemetry,
};

const EMAIL: &str = "demo@example.com";
/// Always the same, so that a demo started again on its data knows its user.
const USER: Uuid = Uuid::from_u128(0xdec0_0000_0000_4000_8000_0000_0000_0001);
const CUSTOM_MODEL: Uuid = Uuid::from_u128(0xdec0_0000_0000_4000_8000_0000_0000_0002);
const LIFETIME: Duration = Duration::from_hours(7 * 24);

/// What of the environment the demo heeds. Not the rest: it must not reach a
/// real database or a real provider because a file lies about.
const HEEDED: [&str; 4] = ["HOST", "PORT", "RUST_LOG", "LOG_FORMAT"];

/// Runs the command.
pub fn run() -> ExitCode {
    super::run(async {
        let given: Variables =
            config::variables()?.into_iter().filter(|(name, _)| HEEDED.contains(&name.as_str())).collect();
        telemetry::start(&given)?;
        // Before anything that takes time, so that Ctrl-C is heeded from here on.
        let mut signals = StopSignals::listen()?;
        let (listener, provider) = (server_listener(&given)?, TcpListener::bind("127.0.0.1:0"));
        let provider = provider.map_err(|error| format!("no port is free for the demo's provider: {error}"))?;
        let started = tokio::select! {
            database = Database::start(port(&listener)?) => Some(database?),
            () = signals.next() => None,
        };
        let Some(database) = started else { return Ok(()) };
        let ended = serve_demo(given, listener, provider, &database, &mut signals).await;
        let stopped = database.stop().await;
        ended.and(stopped)
    })
}

async fn serve_demo(
    mut variables: Variables,
    listener: TcpListener,
    provider: TcpListener,
    database: &Database,
    signals: &mut StopSignals,
) -> Result<(), String> {
    let base_url = format!("http://127.0.0.1:{}/v1", port(&provider)?);
    let mut set = |name: &str, value: &str| variables.insert(name.to_owned(), value.to_owned());
    set("DATABASE_URL", &database.url);
    // Its own provider is on this machine, wherever it listens.
    set("PRIVATE_UPSTREAMS", "allow");
    set("SHUTDOWN_GRACE", "1");
    // The last two speak protocols that the demo's provider does not; they
    // have no keys, and lead nowhere else.
    for name in [
        "OPENAI_BASE_URL",
        "GROQ_BASE_URL",
        "MISTRAL_BASE_URL",
        "OPENROUTER_BASE_URL",
        "PERPLEXITY_BASE_URL",
        "ANTHROPIC_BASE_URL",
        "GOOGLE_GEMINI_BASE_URL",
    ] {
        set(name, &base_url);
    }
    let config = Config::new(&variables).map_err(|error| error.to_string())?;
    let secret = config.sessions.jwt_secret.as_ref().map_or(PUBLISHED_JWT_SECRET, ExposeSecret::expose_secret);
    let mut connection = connect(&database.url).await?;
    let session = make_user(&mut connection, &base_url)
        .await
        .map_err(|error| format!("the demo's user cannot be made: {error}"))?;
    drop(connection);
    let token = session::access_token(secret.as_bytes(), USER, EMAIL, session, LIFETIME)?;
    let provider = provider::serve(provider).map_err(|error| error.to_string())?;
    let handle = provider.handle();
    actix_web::rt::spawn(provider);

    let mut address = listener.local_addr().map_err(|error| error.to_string())?;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    say(&what_to_try(&format!("http://{address}"), &token));
    let served = app::serve(config, listener, async || signals.next().await).await;
    handle.stop(false).await;
    served.map_err(|error| error.to_string())
}

fn what_to_try(url: &str, token: &str) -> String {
    let ask = |route: &str, model: &str, question: &str, more: &str| {
        format!(
            "curl -N {url}/api/chat/{route} -H 'Authorization: Bearer {token}' -d '{{\"chatSettings\":{{\"model\":\"{model}\",\"temperature\":0.5}},\"messages\":[{{\"role\":\"user\",\"content\":\"{question}\"}}]{more}}}'"
        )
    };
    let custom = format!(",\"customModelId\":\"{CUSTOM_MODEL}\"");
    format!(
        "
The demo runs at {url} until Ctrl-C. It asks nobody outside this machine.

An answer, word by word:

  {}

A custom model of the user's own:

  {}

The same routes take groq, mistral, openrouter and perplexity. Ask for an
\"error\" to see one. {url}/readyz says whether all is well.
",
        ask("openai", "gpt-4o", "Count to 30", ""),
        ask("custom", "llama3", "Hello there", &custom),
    )
}

/// The server's address: as given, else port 8000 or any that is free.
fn server_listener(given: &Variables) -> Result<TcpListener, String> {
    let config = Config::new(given).map_err(|error| error.to_string())?;
    match serve::listen(&config) {
        Err(_) if !given.contains_key("PORT") => {
            say(&format!("Port {} is taken: using another.", config.port));
            serve::listen(&Config { port: 0, ..config })
        }
        listener => listener,
    }
}

fn port(listener: &TcpListener) -> Result<u16, String> {
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

/// The demo's database: of a server of its own, or, where `DATABASE_URL` is in
/// the environment, a database of its own on that server.
struct Database {
    url: String,
    server: Option<Server>,
}

impl Database {
    async fn start(port: u16) -> Result<Self, String> {
        // Of the environment alone: a URL in `.env.local` is for serving.
        let database = match std::env::var("DATABASE_URL") {
            Ok(url) if !url.is_empty() => Self { url: create_on(&url, port).await?, server: None },
            _ => {
                let programs = Programs::find(&say).await.map_err(|error| error.to_string())?;
                let folder =
                    postgres::cache_folder().await.map_err(|error| error.to_string())?.join(format!("demo-{port}"));
                let options = Options { durable: true, max_connections: 50, remove: false };
                say(&format!("Starting Postgres in {}", folder.display()));
                let start = Server::start(&programs, &folder, options);
                let started = progress::during("Waiting until it is ready", String::new, start).await;
                let server = started.map_err(|error| error.to_string())?;
                Self { url: server.url("postgres"), server: Some(server) }
            }
        };
        let mut connection = connect(&database.url).await?;
        progress::during("Making the tables", String::new, migrate::apply(&mut connection)).await?;
        Ok(database)
    }

    async fn stop(self) -> Result<(), String> {
        match self.server {
            Some(server) => server.stop().await.map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }
}

async fn create_on(url: &str, port: u16) -> Result<String, String> {
    let name = format!("chatbot_ui_api_demo_{port}");
    let mut connection = connect(url).await?;
    let created = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await;
    if let Err(error) = created {
        // 42P04: it is there from the last time.
        if error.as_database_error().and_then(|error| error.code()).as_deref() != Some("42P04") {
            return Err(format!("the database {name} cannot be made on the server of DATABASE_URL: {error}"));
        }
    }
    let mut url = url::Url::parse(url).map_err(|_| "DATABASE_URL must be a URL".to_owned())?;
    url.set_path(&name);
    Ok(url.into())
}

async fn connect(url: &str) -> Result<PgConnection, String> {
    let options: PgConnectOptions = url
        .parse()
        .map_err(|_| "DATABASE_URL must look like postgresql://user:password@host:5432/database".to_owned())?;
    PgConnection::connect_with(&options).await.map_err(|error| format!("Postgres cannot be reached: {error}"))
}

/// The user, a session, a key for every provider and a custom model.
async fn make_user(connection: &mut PgConnection, base_url: &str) -> sqlx::Result<Uuid> {
    sqlx::query("insert into auth.users (id, aud, role, email) values ($1, 'authenticated', 'authenticated', $2) on conflict (id) do nothing")
        .bind(USER)
        .bind(EMAIL)
        .execute(&mut *connection)
        .await?;
    let spoken = PROVIDERS.iter().chain([&OPENAI]).map(|provider| keys::TABLE[provider.key as usize].column);
    let columns: Vec<String> = spoken.map(|column| format!("{column} = 'sk-demo'")).collect();
    let sql = format!("update public.profiles set {} where user_id = $1", columns.join(", "));
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(USER).execute(&mut *connection).await?;
    sqlx::query(
        "insert into public.models (id, user_id, api_key, base_url, description, model_id, name) \
         values ($1, $2, '', $3, '', 'llama3', 'Demo') on conflict (id) do update set base_url = excluded.base_url",
    )
    .bind(CUSTOM_MODEL)
    .bind(USER)
    .bind(base_url)
    .execute(&mut *connection)
    .await?;
    session::start(connection, USER).await
}
