//! The processes of the soak: the server, its Postgres behind a gate with a fixed address, its users and its provider.

use std::{
    net::SocketAddr,
    ops::Range,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chatbot_ui_api::{
    auth::PUBLISHED_JWT_SECRET,
    cli::{
        migrate,
        session::{self, Signer},
    },
    demo::postgres::{Options, Programs, Server},
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use url::Url;
use uuid::Uuid;

use super::{ports::Port, provider, rows, say, upstream::Upstream};

/// `DATABASE_POOL_SIZE`.
pub const POOL_SIZE: usize = 10;
/// `MAX_BODY_BYTES`.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

const ROLE: &str = include_str!("../../docs/role.sql");
const ROLE_PASSWORD: &str = "only-for-the-soak";
const DATABASE: Options = Options { durable: false, max_connections: 50, remove: false };

/// A signed-in user.
pub struct User {
    /// The user as the provider knows it: the end of the key.
    pub name: String,
    pub token: String,
    pub expired: String,
    pub custom_model: Uuid,
}

/// All running processes.
pub struct World {
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    pub users: Vec<User>,
    pub http: reqwest::Client,
    process: Mutex<Child>,
    folder: PathBuf,
    programs: Programs,
    database: Mutex<Option<Server>>,
    /// Current address of Postgres, to which the gate connects.
    current_database: Arc<Mutex<Option<Url>>>,
    outages: Mutex<Vec<Range<Instant>>>,
    _provider: Upstream,
    /// Reserved for the server; that of Redis stays closed.
    _ports: [Port; 3],
}

impl Drop for World {
    fn drop(&mut self) {
        let mut process = self.process.lock().expect("no panic");
        let _ = process.kill();
        let _ = process.wait();
        let _ = std::fs::remove_dir_all(self.folder.join("postgres"));
    }
}

impl World {
    pub async fn start(users: usize) -> Self {
        let folder = std::env::temp_dir().join(format!("chatbot-ui-api-soak-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let programs = Programs::find(&say).await.expect("Postgres");
        let database = Server::start(&programs, &folder.join("postgres"), DATABASE).await.expect("Postgres starts");
        let url = Url::parse(&database.url("postgres")).expect("a URL");
        let provider = provider::start();
        let base = format!("{}/v1", provider.url());
        let users = make_users(&url, users, &base).await;

        let gate = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gate_port = gate.local_addr().expect("an address").port();
        let current_database = Arc::new(Mutex::new(Some(url)));
        tokio::spawn(forward(gate, current_database.clone()));

        let [server, metrics, redis] = [Port::reserve(), Port::reserve(), Port::reserve()];
        let settings = [
            ("PORT", server.number().to_string()),
            ("METRICS_ADDR", metrics.address.to_string()),
            ("DATABASE_URL", format!("postgresql://chatbot_ui_api:{ROLE_PASSWORD}@127.0.0.1:{gate_port}/postgres")),
            ("DATABASE_POOL_SIZE", POOL_SIZE.to_string()),
            ("OPENAI_BASE_URL", base),
            ("PROVIDER_IDLE_TIMEOUT", "20".to_owned()),
            ("MAX_BODY_BYTES", MAX_BODY_BYTES.to_string()),
            // So low that a leaked slot or permit is noticed: no user sends two requests at once.
            ("MAX_STREAMS_PER_USER", "3".to_owned()),
            ("MAX_REQUESTS", "150".to_owned()),
            // What is cut off is compared byte by byte.
            ("ANSWER_NOTES", "off".to_owned()),
            ("RATE_LIMIT_PER_MINUTE", "1000000".to_owned()),
            ("REDIS_URL", format!("redis://{}", redis.address)),
        ];
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        say(&format!("the log is {}", folder.join("log").display()));
        let mut command = Command::new(server_program());
        command.arg("serve").env_clear().envs(settings).current_dir(&folder);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it runs");
        // Shorter than the server's keep-alive, because a late request would be refused.
        let http = reqwest::Client::builder().pool_idle_timeout(Duration::from_secs(2)).build().expect("a client");
        let world = Self {
            address: server.address,
            metrics: metrics.address,
            users,
            http,
            process: Mutex::new(process),
            folder,
            programs,
            database: Mutex::new(Some(database)),
            current_database,
            outages: Mutex::default(),
            _provider: provider,
            _ports: [server, metrics, redis],
        };
        let began = Instant::now();
        while !world.http.get(world.url("/readyz")).send().await.is_ok_and(|answer| answer.status() == 200) {
            assert!(began.elapsed() < Duration::from_secs(20), "it does not start: {}", world.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        world
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn process_id(&self) -> u32 {
        self.process.lock().expect("no panic").id()
    }

    /// Returns the server's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Returns Postgres' own address, for its superuser.
    pub fn database_url(&self) -> Option<Url> {
        self.current_database.lock().expect("no panic").clone()
    }

    pub async fn stop_database(&self) {
        // The end is set when Postgres is back.
        self.outages.lock().expect("no panic").push(Instant::now()..Instant::now() + Duration::from_secs(3600));
        *self.current_database.lock().expect("no panic") = None;
        let server = self.database.lock().expect("no panic").take();
        server.expect("it runs").stop().await.expect("Postgres stops");
    }

    pub async fn start_database(&self, recovery: Duration) {
        let server = Server::start(&self.programs, &self.folder.join("postgres"), DATABASE).await;
        let server = server.expect("Postgres starts again");
        *self.current_database.lock().expect("no panic") = Some(Url::parse(&server.url("postgres")).expect("a URL"));
        *self.database.lock().expect("no panic") = Some(server);
        if let Some(outage) = self.outages.lock().expect("no panic").last_mut() {
            outage.end = Instant::now() + recovery;
        }
    }

    pub fn database_was_away(&self, time: Range<Instant>) -> bool {
        let outages = self.outages.lock().expect("no panic");
        outages.iter().any(|outage| time.start < outage.end && outage.start < time.end)
    }
}

/// Returns the server's program, built with the same profile as this one.
fn server_program() -> PathBuf {
    if let Some(program) = std::env::var_os("SOAK_SERVER") {
        return program.into();
    }
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--locked", "--bin", "chatbot-ui-api"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo").success(), "the server cannot be built");
    // target/release/examples/soak → target/release/chatbot-ui-api
    let this = std::env::current_exe().expect("a path");
    this.ancestors().nth(2).expect("a target folder").join("chatbot-ui-api")
}

async fn make_users(url: &Url, count: usize, provider: &str) -> Vec<User> {
    let mut connection = PgConnection::connect(url.as_str()).await.expect("connects");
    migrate::apply(&mut connection).await.expect("migrates");
    let role = format!("{ROLE}; alter role chatbot_ui_api password '{ROLE_PASSWORD}'");
    connection.execute(sqlx::raw_sql(AssertSqlSafe(role))).await.expect("a role");
    let mut users = Vec::new();
    for number in 0..count {
        let (id, session) = (Uuid::new_v4(), Uuid::new_v4());
        let name = format!("user{number}");
        let (email, key) = (format!("{name}@example.com"), format!("sk-soak-{name}"));
        rows::account(&mut connection, id, session, &email).await;
        let sql = "update public.profiles set openai_api_key = $2 where user_id = $1";
        sqlx::query(sql).bind(id).bind(&key).execute(&mut connection).await.expect("a key");
        let custom_model = rows::model(&mut connection, id, provider, &key).await;
        let token = |lifetime| {
            session::access_token(Signer::Secret(PUBLISHED_JWT_SECRET.as_bytes()), id, &email, session, lifetime)
                .expect("a token")
        };
        users.push(User {
            token: token(Duration::from_secs(24 * 3600)),
            // Expires within this second; see below.
            expired: token(Duration::ZERO),
            custom_model,
            name,
        });
    }
    // Until the last of those tokens has expired.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    users
}

/// Accepts connections at a fixed address and forwards them to the current Postgres.
async fn forward(gate: TcpListener, behind: Arc<Mutex<Option<Url>>>) {
    loop {
        let Ok((mut client, _)) = gate.accept().await else { continue };
        let port = behind.lock().expect("no panic").as_ref().and_then(Url::port);
        tokio::spawn(async move {
            let Some(port) = port else { return };
            let _ = client.set_nodelay(true);
            if let Ok(mut postgres) = TcpStream::connect(("127.0.0.1", port)).await {
                let _ = postgres.set_nodelay(true);
                let _ = copy_bidirectional(&mut client, &mut postgres).await;
            }
        });
    }
}
