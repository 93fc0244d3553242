//! First texts where the database is 20 ms away and the provider 30 ms, over TLS: `ONLY=far`, some two minutes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use chatbot_ui_api::demo::postgres::{self, Options, Programs};
use futures::FutureExt;
use sqlx::{Connection, PgConnection};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use uuid::Uuid;

use super::{
    distance::Distance,
    load::{self, Seen, Target},
    median,
    pgbouncer::PgBouncer,
    ports::Port,
    process::Process,
    provider::{self, AUTHORITY, Habits, Provider, Script},
    say,
    stand::{BODY, make_user, request, until_it_listens},
};

/// To the database, in one direction.
const TO_DATABASE: Duration = Duration::from_millis(10);
/// To the provider, in one direction.
const TO_PROVIDER: Duration = Duration::from_millis(15);
/// The time after which the provider closes a connection.
const CLOSED_AFTER: Duration = Duration::from_secs(3);
/// The time that a server has after its start, before the first request.
const SETTLED: Duration = Duration::from_secs(1);

struct World {
    provider: Distance,
    database: Distance,
    /// The database's address without the distance.
    url: String,
    token: String,
    /// A row of `models` whose server is the provider.
    model: Uuid,
    folder: PathBuf,
}

/// This server, and the client's connection to it.
struct Ours {
    groq: Target,
    custom: Target,
    kept: Option<TcpStream>,
    database: Distance,
    provider: Distance,
    _process: Process,
    _port: Port,
}

/// A client that asks the provider itself.
struct Straight {
    connector: TlsConnector,
    target: Target,
    kept: Option<TlsStream<TcpStream>>,
}

/// The figures of a row.
#[derive(Default)]
struct Row {
    straight: Vec<Option<f64>>,
    ours: Vec<Option<f64>>,
    /// How often the database and the provider were waited for, in each request to this server.
    turns: Vec<(usize, usize)>,
}

/// Measures, and prints a table of its own.
pub async fn measure() {
    let folder = std::env::temp_dir().join(format!("chatbot-ui-api-far-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let programs = Programs::find(&say).await.expect("Postgres");
    let options = Options { durable: true, max_connections: 50, remove: true };
    let postgres = postgres::Server::start(&programs, &folder.join("postgres"), options).await.expect("starts");
    let near = postgres.url("postgres");
    let provider = Provider::start(Habits { port: 0, closes_after: Some(CLOSED_AFTER) }).expect("a provider");
    provider.play(Script::Burst { chunks: 1, together: 1 });
    let provider = Distance::before(provider.tls_address, TO_PROVIDER).expect("a proxy");
    let database = Distance::before(address(&near), TO_DATABASE).expect("a proxy");
    let (user, token) = make_user(&near).await.expect("a user");
    let model = make_model(&near, user, &provider).await.expect("a model");
    let world = World { provider, database, url: near, token, model, folder: folder.clone() };
    table(&world).await;
    postgres.stop().await.expect("stops");
    let _ = fs::remove_dir_all(folder);
}

async fn table(world: &World) {
    say("\nFirst text, p50 ms, with the database 20 ms away and the provider 30 ms, over TLS:\n");
    say("| | straight to the provider | this server | goal | waited for: database, provider |");
    say("|---|---|---|---|---|");
    let mut straight = Straight::new(&world.provider);
    let mut ours = Ours::start(world, &world.database, "session").await;
    // What comes only once: connections, handshakes, statements that are prepared.
    ours.ask_custom(&mut Row::default()).await;
    for (name, times, quiet, goal) in [
        ("requests one after another", 40, Duration::ZERO, 54),
        ("after 1.5 s of quiet", 9, Duration::from_millis(1500), 54),
        ("after 4 s of quiet: the provider has closed its connection", 7, Duration::from_secs(4), 70),
    ] {
        let mut row = Row::default();
        straight.ask(&mut Row::default()).await;
        ours.ask(&mut Row::default()).await;
        for _ in 0..times {
            tokio::time::sleep(quiet).await;
            straight.ask(&mut row).await;
            ours.ask(&mut row).await;
        }
        row.show(name, goal);
    }
    let mut row = Row::default();
    for _ in 0..5 {
        straight.kept = None;
        straight.ask(&mut row).await;
        let mut new = Ours::start(world, &world.database, "session").await;
        new.ask(&mut row).await;
    }
    row.show("the first after the start", 75);
    let (name, row) = pooled(world, &mut straight).await;
    row.show(&name, 54);
    let mut row = Row::default();
    for _ in 0..40 {
        straight.ask(&mut row).await;
        ours.ask_custom(&mut row).await;
    }
    row.show("a custom model", 54);
}

/// By PgBouncer, beside the database; without it by messages of text alone.
async fn pooled(world: &World, straight: &mut Straight) -> (String, Row) {
    let pooler = PgBouncer::start(&world.url).await;
    let (name, database) = match &pooler {
        Some(pooler) => {
            ("PgBouncer", Distance::before(address(&pooler.url(&world.url)), TO_DATABASE).expect("a proxy"))
        }
        None => ("no pooler, as through one", world.database.clone()),
    };
    let mut ours = Ours::start(world, &database, "transaction").await;
    ours.ask(&mut Row::default()).await;
    let mut row = Row::default();
    for _ in 0..40 {
        straight.ask(&mut row).await;
        ours.ask(&mut row).await;
    }
    (format!("through a pooler in transaction mode ({name})"), row)
}

impl Ours {
    async fn start(world: &World, database: &Distance, pooler: &str) -> Self {
        let port = Port::reserve();
        let address = port.address;
        let log = fs::File::create(world.folder.join(format!("{}.log", port.number()))).expect("a log");
        let program = Path::new(env!("CARGO_BIN_EXE_chatbot-ui-api"));
        let settings = [
            ("PORT", port.number().to_string()),
            ("DATABASE_URL", through(&world.url, database)),
            ("DATABASE_POOLER", pooler.to_owned()),
            ("GROQ_API_KEY", "gsk-bench".to_owned()),
            ("GROQ_BASE_URL", format!("https://{}/v1", world.provider.address)),
            ("SSL_CERT_FILE", AUTHORITY.to_owned()),
        ];
        let mut command = Command::new(program);
        command.current_dir(&world.folder).envs(settings).stderr(log);
        let process = Process::new(command.spawn().expect("it runs"));
        let header = format!("authorization: Bearer {}\r\n", world.token);
        let with_model = BODY.replacen('{', &format!("{{\"customModelId\":\"{}\",", world.model), 1);
        let target = |path: &str, body: &str| Target { address, request: request(address, path, &header, body) };
        let (groq, custom) = (target("/api/chat/groq", BODY), target("/api/chat/custom", &with_model));
        until_it_listens(address).await;
        tokio::time::sleep(SETTLED).await;
        let (database, provider) = (database.clone(), world.provider.clone());
        Self { groq, custom, kept: None, database, provider, _process: process, _port: port }
    }

    async fn ask(&mut self, row: &mut Row) {
        let target = self.groq.clone();
        self.ask_at(&target, row).await;
    }

    async fn ask_custom(&mut self, row: &mut Row) {
        let target = self.custom.clone();
        self.ask_at(&target, row).await;
    }

    async fn ask_at(&mut self, target: &Target, row: &mut Row) {
        let mut seen = Seen::default();
        self.database.take_turns();
        self.provider.take_turns();
        load::stream(target, &mut self.kept, 1, &mut seen).await.expect("an answer");
        row.ours.push(first(&seen));
        row.turns.push((self.database.take_turns(), self.provider.take_turns()));
    }
}

impl Straight {
    fn new(provider: &Distance) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(AUTHORITY).expect("PEM")).expect("an authority");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let address = provider.address;
        let target = Target { address, request: request(address, "/v1/chat/completions", "", BODY) };
        Self { connector: TlsConnector::from(Arc::new(config)), target, kept: None }
    }

    async fn ask(&mut self, row: &mut Row) {
        let mut seen = Seen::default();
        let asked = provider::now();
        let mut socket = match self.kept.take() {
            Some(socket) if !is_closed(&socket) => socket,
            _ => {
                let socket = TcpStream::connect(self.target.address).await.expect("connects");
                socket.set_nodelay(true).expect("an option");
                let name = ServerName::IpAddress(self.target.address.ip().into());
                self.connector.connect(name, socket).await.expect("a session")
            }
        };
        load::exchange(&mut socket, &self.target, 1, asked, &mut seen).await.expect("an answer");
        self.kept = Some(socket);
        row.straight.push(first(&seen));
    }
}

/// Tells if the other side has closed a connection that nothing is expected from.
fn is_closed(stream: &TlsStream<TcpStream>) -> bool {
    // The end is an alert, so bytes too.
    stream.get_ref().0.peek(&mut [0; 1]).now_or_never().is_some()
}

impl Row {
    fn show(self, name: &str, goal: u32) {
        let ours = median(self.ours).unwrap_or_default();
        let straight = median(self.straight).unwrap_or_default();
        let mut turns = self.turns;
        turns.sort_unstable();
        let (database, provider) = turns.get(turns.len() / 2).copied().unwrap_or_default();
        let missed = if ours > f64::from(goal) { " (missed)" } else { "" };
        say(&format!("| {name} | {straight:.1} | {ours:.1} | ≤ {goal}{missed} | {database}, {provider} |"));
    }
}

fn first(seen: &Seen) -> Option<f64> {
    seen.first.first().map(|nanoseconds| *nanoseconds as f64 / 1e6)
}

async fn make_model(url: &str, user: Uuid, provider: &Distance) -> sqlx::Result<Uuid> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "insert into public.models (user_id, base_url, api_key, sharing, description, model_id, name) \
               values ($1, $2, 'sk-bench', 'private', '', 'x', '') returning id";
    let base_url = format!("https://{}/v1", provider.address);
    sqlx::query_scalar(sql).bind(user).bind(base_url).fetch_one(&mut connection).await
}

fn address(url: &str) -> SocketAddr {
    let port = url::Url::parse(url).ok().and_then(|url| url.port()).expect("a port");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// `url`, but by way of the proxy.
fn through(url: &str, distance: &Distance) -> String {
    let mut url = url::Url::parse(url).expect("a URL");
    url.set_host(Some("127.0.0.1")).expect("a host");
    url.set_port(Some(distance.address.port())).expect("a port");
    url.to_string()
}
