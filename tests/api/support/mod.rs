//! Fixtures: a running server with its own database, a
//! scripted provider, sessions.

pub mod binary;
pub mod gate;
pub mod pgbouncer;
#[path = "../../support/ports.rs"]
pub mod ports;
pub mod postgres;
#[path = "../../support/programs.rs"]
pub mod programs;
pub mod redis;
pub mod retrieval;
#[path = "../../support/rows.rs"]
pub mod rows;
#[path = "../../support/supabase.rs"]
pub mod supabase;
pub mod tls;
pub mod tokens;
pub mod turns;
#[path = "../../support/upstream/mod.rs"]
pub mod upstream;

use std::{
    net::{SocketAddr, TcpListener},
    sync::LazyLock,
};

use chatbot_ui_api::{
    config::{Config, Variables},
    http_client::ssrf_guard,
    server,
};
use reqwest::{RequestBuilder, header::AUTHORIZATION};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

/// A running server on a database of its own, as the role of `docs/role.sql`.
pub struct App {
    pub address: SocketAddr,
    /// The same database, as its superuser.
    pub db: PgPool,
    stop: mpsc::Sender<()>,
}

impl Drop for App {
    /// Tells the server to stop, and does not wait for it.
    fn drop(&mut self) {
        let _ = self.stop.try_send(());
    }
}

impl App {
    /// A server with these settings besides what makes it run.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_on(postgres::database().await, settings, ssrf_guard::system_lookup).await
    }

    pub async fn start_on(database: postgres::Database, settings: &[(&str, &str)], lookup: ssrf_guard::Lookup) -> Self {
        // Most tests care as little for the model as their providers do, and the catalogue changes with the days.
        let mut variables = Variables::from([
            ("DATABASE_URL".to_owned(), database.role_url.clone()),
            ("MODEL_ALIASES".to_owned(), "off".to_owned()),
        ]);
        variables.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let config = Config::new(&variables).expect("settings");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (stop, mut stopped) = mpsc::channel(1);
        std::thread::spawn(move || {
            let stop = async || {
                if stopped.recv().await.is_none() {
                    std::future::pending::<()>().await;
                }
            };
            actix_web::rt::System::new()
                .block_on(server::serve_with(config, listener, stop, lookup, |_| {}))
                .expect("serves");
        });
        Self { address, db: database.pool, stop }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A user with a session and these columns of a profile.
    pub async fn user(&self, profile: &[(&str, &str)]) -> User {
        User::create(&self.db, profile).await
    }

    /// A request to a chat route as a user.
    pub fn chat(&self, provider: &str, user: &User) -> RequestBuilder {
        let request = client().post(self.url(&format!("/api/chat/{provider}")));
        request.header(AUTHORIZATION, user.bearer()).body(chat_body().to_string())
    }
}

/// A user who is signed in.
#[derive(Debug, Clone, Copy)]
pub struct User {
    pub id: Uuid,
    pub session: Uuid,
}

impl User {
    /// A user with a session and these columns of a profile, in a database.
    pub async fn create(db: &PgPool, profile: &[(&str, &str)]) -> Self {
        let user = Self { id: Uuid::new_v4(), session: Uuid::new_v4() };
        user.insert(db).await;
        for (column, value) in profile {
            let sql = format!("update public.profiles set {column} = $1 where user_id = $2");
            let updated = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(*value).bind(user.id).execute(db).await;
            assert_eq!(updated.expect(column).rows_affected(), 1, "the trigger made a profile");
        }
        user
    }

    /// The user's rows, with the profile that a trigger makes.
    pub async fn insert(&self, db: &PgPool) {
        rows::account(db, self.id, self.session, &tokens::email(self.id)).await;
    }

    pub fn bearer(&self) -> String {
        format!("Bearer {}", tokens::access_token(self.id, self.session))
    }
}

/// A client without a pool, so that dropping a response closes its connection
/// and no connection outlives its test. One for all: reading the system's
/// certificates takes longer than many a test.
pub fn client() -> reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> =
        LazyLock::new(|| reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client"));
    CLIENT.clone()
}

/// A chat request's body as the front end posts it.
pub fn chat_body() -> Value {
    json!({
        "chatSettings": { "model": "gpt-4", "prompt": "p", "temperature": 0.5, "contextLength": 4096 },
        "messages": [{ "role": "user", "content": "Say hello" }],
        "customModelId": "",
    })
}

/// The rest of an answer that is cut off.
pub async fn cut(mut response: reqwest::Response) -> String {
    let mut text = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => text.extend_from_slice(&chunk),
            Ok(None) => panic!("ended like a whole answer: {}", String::from_utf8_lossy(&text)),
            Err(_) => return String::from_utf8(text).expect("UTF-8"),
        }
    }
}

/// The message of a JSON error.
pub async fn message(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    (status, json["message"].as_str().unwrap_or_else(|| panic!("no message: {text}")).to_owned())
}
