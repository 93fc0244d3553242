//! `demo`: everything on one machine with nothing to set up: Postgres, the tables, a user with keys, a scripted
//! provider, the server and its playground.

mod answer;
mod dice;
pub mod postgres;
mod provider;
mod supabase;

use std::{
    net::{Ipv4Addr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use actix_web::web::{self, Data, ServiceConfig};
use rand::distr::{Alphanumeric, SampleString};
use secrecy::ExposeSecret;
use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

use crate::{
    cli::{self, StopSignals, migrate, progress, say, serve, session},
    config::{self, Config, Variables},
    credentials::{self, Key},
    http_client::ssrf_guard,
    playground::{self, DemoUser},
    server, telemetry,
};
use postgres::{Options, Programs, Server};
use supabase::Supabase;

const DEMO_USER: DemoUser = DemoUser { email: "demo@example.com", password: "demo" };
/// Constant, so that a restarted demo finds its user in its data.
const USER: Uuid = Uuid::from_u128(0xdec0_0000_0000_4000_8000_0000_0000_0001);
const CUSTOM_MODEL: Uuid = Uuid::from_u128(0xdec0_0000_0000_4000_8000_0000_0000_0002);
const LIFETIME: Duration = Duration::from_hours(7 * 24);

/// The environment variables that the demo uses. It ignores all others, so that it cannot reach a real database or
/// provider by accident.
const USED_VARIABLES: [&str; 4] = ["HOST", "PORT", "RUST_LOG", "LOG_FORMAT"];

/// Runs the command.
pub fn run() -> ExitCode {
    cli::run(async {
        let given: Variables =
            config::variables()?.into_iter().filter(|(name, _)| USED_VARIABLES.contains(&name.as_str())).collect();
        telemetry::start(&given)?;
        // First, so that Ctrl-C works from here on.
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
    let provider_url = format!("http://127.0.0.1:{}", port(&provider)?);
    let mut set = |name: &str, value: &str| variables.insert(name.to_owned(), value.to_owned());
    set("DATABASE_URL", &database.url);
    // The stand-ins for Supabase and the provider, wherever the demo listens.
    set("SUPABASE_URL", &provider_url);
    // A secret of its own, so that nobody else can sign in.
    set("SUPABASE_JWT_SECRET", &Alphanumeric.sample_string(&mut rand::rng(), 48));
    set("PRIVATE_UPSTREAMS", "127.0.0.1");
    set("SHUTDOWN_GRACE", "1");
    for (name, path) in [
        ("OPENAI_BASE_URL", "/v1"),
        ("GROQ_BASE_URL", "/v1"),
        ("MISTRAL_BASE_URL", "/v1"),
        ("OPENROUTER_BASE_URL", "/v1"),
        ("PERPLEXITY_BASE_URL", "/v1"),
        ("ANTHROPIC_BASE_URL", ""),
        ("GOOGLE_GEMINI_BASE_URL", ""),
    ] {
        set(name, &format!("{provider_url}{path}"));
    }
    let mut config = Config::new(&variables).map_err(|error| error.to_string())?;
    let secret = config.sessions.jwt_secret.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
    let mut connection = connect(&database.url).await?;
    let session = make_user(&mut connection, &provider_url)
        .await
        .map_err(|error| format!("the demo's user cannot be created: {error}"))?;
    drop(connection);
    let token =
        session::access_token(session::Signer::Secret(secret.as_bytes()), USER, DEMO_USER.email, session, LIFETIME)?;
    let pool =
        PgPoolOptions::new().max_connections(2).connect_lazy(&database.url).map_err(|error| error.to_string())?;
    let tool = format!("{provider_url}{}", dice::DOCUMENT_PATH);
    let supabase = Data::new(Supabase::new(pool, secret.to_owned(), (USER, DEMO_USER), tool.clone()));
    config.service_role_key = Some(supabase.service_key.as_str().into());
    config.playground = Some(playground::Settings::of_the_demo(DEMO_USER));

    let answers = Data::new(provider::Answers::default());
    let for_the_server = {
        let supabase = supabase.clone();
        move |routes: &mut ServiceConfig| supabase::for_the_server(routes, supabase.clone())
    };
    let provider = provider::serve(provider, answers.clone(), for_the_server).map_err(|error| error.to_string())?;
    let handle = provider.handle();
    actix_web::rt::spawn(provider);

    let mut address = listener.local_addr().map_err(|error| error.to_string())?;
    let open_to_others = !address.ip().is_loopback();
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    say(&what_to_try(&format!("http://{address}"), &token, &tool));
    if open_to_others {
        say("Anyone who can reach this address can use the demo: HOST is not a local address.\n");
    }
    let for_the_page = move |routes: &mut ServiceConfig| {
        supabase::for_the_page(routes, supabase.clone());
        routes.app_data(answers.clone()).route("/demo/answers", web::get().to(provider::watch));
    };
    let stop = async || signals.next().await;
    let served = server::serve_with(config, listener, stop, ssrf_guard::system_lookup, for_the_page).await;
    handle.stop(false).await;
    served.map_err(|error| error.to_string())
}

fn what_to_try(url: &str, token: &str, tool: &str) -> String {
    let curl = |route: &str, model: &str, question: &str, more: &str| {
        format!(
            "curl -N {url}/api/chat/{route} -H 'Authorization: Bearer {token}' -d '{{\"chatSettings\":{{\"model\":\"{model}\",\"temperature\":0.5}},\"messages\":[{{\"role\":\"user\",\"content\":\"{question}\"}}]{more}}}'"
        )
    };
    let custom = format!(",\"customModelId\":\"{CUSTOM_MODEL}\"");
    let tools = format!(",\"selectedTools\":[{{\"name\":\"Dice\",\"schema\":\"{tool}\"}}]");
    format!(
        "
Open {url}/ to try it in a browser. The demo runs until Ctrl-C and sends
nothing to other machines.

An answer, word by word:

  {}

A custom model of the user's own:

  {}

A tool that the model calls, with what happens on the way as events (without
-H 'Accept…' only the text):

  {} -H 'Accept: text/event-stream'

The other providers' routes work too. Ask for an \"error\" to see one, or to be
\"cut off\". {url}/readyz shows the state of the server.
",
        curl("openai", "gpt-4o", "Count to 30", ""),
        curl("custom", "llama3", "Hello there", &custom),
        curl("tools", "gpt-4o", "Roll a die with 20 sides", &tools),
    )
}

/// Returns the server's listener: on the given address, else port 8000 or any free one.
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

/// The demo's database: on a private server, or, if `DATABASE_URL` is in the environment, a separate database on that
/// server.
struct Database {
    url: String,
    server: Option<Server>,
}

impl Database {
    async fn start(port: u16) -> Result<Self, String> {
        // From the process environment only: a URL in `.env.local` is for `serve`.
        let database = match std::env::var("DATABASE_URL") {
            Ok(url) if !url.is_empty() => Self { url: create_on(&url, port).await?, server: None },
            _ => {
                let programs = Programs::find(&say).await.map_err(|error| error.to_string())?;
                let folder =
                    postgres::cache_folder().await.map_err(|error| error.to_string())?.join(format!("demo-{port}"));
                let options = Options { durable: true, max_connections: 50, remove: false };
                say(&format!("Starting Postgres in {}", folder.display()));
                let start = Server::start(&programs, &folder, options);
                let started = progress::during("Waiting for Postgres", String::new, start).await;
                let server = started.map_err(|error| error.to_string())?;
                Self { url: server.url("postgres"), server: Some(server) }
            }
        };
        let mut connection = connect(&database.url).await?;
        progress::during("Creating the tables", String::new, migrate::apply(&mut connection)).await?;
        migrate::make_ledger(&mut connection).await?;
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
        // 42P04: it exists from an earlier run.
        if error.as_database_error().and_then(|error| error.code()).as_deref() != Some("42P04") {
            return Err(format!("the database {name} cannot be created on the server of DATABASE_URL: {error}"));
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
    PgConnection::connect_with(&options).await.map_err(|error| {
        let reason = error.as_database_error().map_or_else(|| error.to_string(), |it| it.message().to_owned());
        format!("Postgres cannot be reached: {reason}. If DATABASE_URL is set, fix or unset it: without it the demo starts a Postgres of its own")
    })
}

/// Creates the user, a session, a key for every provider and a custom model.
async fn make_user(connection: &mut PgConnection, provider_url: &str) -> sqlx::Result<Uuid> {
    sqlx::query("insert into auth.users (id, aud, role, email) values ($1, 'authenticated', 'authenticated', $2) on conflict (id) do nothing")
        .bind(USER)
        .bind(DEMO_USER.email)
        .execute(&mut *connection)
        .await?;
    for row in &credentials::TABLE {
        let value = match row.key {
            Key::OpenAiOrganization => "",
            Key::AzureEndpoint => provider_url,
            _ => "demo",
        };
        let sql = format!("update public.profiles set {} = $2 where user_id = $1", row.column);
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(USER).bind(value).execute(&mut *connection).await?;
    }
    sqlx::query(
        "insert into public.models (id, user_id, api_key, base_url, description, model_id, name) \
         values ($1, $2, '', $3, '', 'llama3', 'Demo') on conflict (id) do update set base_url = excluded.base_url",
    )
    .bind(CUSTOM_MODEL)
    .bind(USER)
    .bind(format!("{provider_url}/v1"))
    .execute(&mut *connection)
    .await?;
    session::start(connection, USER).await
}
