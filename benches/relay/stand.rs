//! The servers that are measured: the provider alone, nginx in front of it, this server in front of it, and other
//! builds of this server.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    rc::Rc,
    time::Duration,
};

use chatbot_ui_api::{
    auth::PUBLISHED_JWT_SECRET,
    cli::{migrate, session},
    demo::postgres::{self, Options, Programs},
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    load::Target,
    process::Process,
    provider::{AUTHORITY, Provider},
};

/// The name of nginx' column.
pub const NGINX: &str = "nginx";
/// The name of this server's column.
pub const OURS: &str = "this server";

pub struct Server {
    pub name: String,
    /// A request for which the provider is called without TLS.
    pub plain: Target,
    /// A request for which the provider is called over TLS.
    pub tls: Option<Target>,
    /// `None` without a proxy in between.
    pub process: Option<Process>,
}

pub struct Stand {
    pub provider: Provider,
    /// No proxy, nginx where there is one, this server, and other builds of it.
    pub servers: Vec<Server>,
    postgres: postgres::Server,
    folder: PathBuf,
}

/// A chat as the front end posts it.
pub const BODY: &str = r#"{"chatSettings":{"model":"gpt-4o","temperature":0.5},"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Count as far as you can."}]}"#;

impl Stand {
    pub async fn start(progress: &dyn Fn(&str), provider: &Provider) -> Self {
        let folder = std::env::temp_dir().join(format!("chatbot-ui-api-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let programs = Programs::find(progress).await.expect("Postgres");
        let options = Options { durable: true, max_connections: 50, remove: true };
        let postgres = postgres::Server::start(&programs, &folder.join("postgres"), options).await.expect("starts");
        let url = postgres.url("postgres");
        let (_, token) = make_user(&url).await.expect("a user");

        let plain = request(provider.address, "/v1/chat/completions", "", BODY);
        let mut servers = vec![Server {
            name: "direct".to_owned(),
            plain: Target { address: provider.address, request: plain.clone() },
            tls: None,
            process: None,
        }];
        if let Some(nginx) = find_nginx() {
            let address = free_address();
            let process = start_nginx(&nginx, &folder, address, provider);
            let tls = request(provider.address, "/tls", "", BODY);
            servers.push(Server {
                name: NGINX.to_owned(),
                plain: Target { address, request: plain },
                tls: Some(Target { address, request: tls }),
                process: Some(process),
            });
        }
        servers.push(start_ours(
            OURS,
            Path::new(env!("CARGO_BIN_EXE_chatbot-ui-api")),
            &folder,
            &url,
            provider,
            &token,
        ));
        for (name, program) in beside() {
            servers.push(start_ours(&name, &program, &folder, &url, provider, &token));
        }
        servers.extend(peer());
        for server in &servers {
            until_it_listens(server.plain.address).await;
        }
        Self { provider: provider.clone(), servers, postgres, folder }
    }

    pub async fn stop(self) {
        drop(self.servers);
        self.postgres.stop().await.expect("stops");
        let _ = fs::remove_dir_all(self.folder);
    }

    /// Describes the machine of the measurements.
    pub fn machine(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
        format!("{cores} cores ({model}), load and provider on the same machine")
    }
}

/// Other builds of this server that `BESIDE=name=path,name=path` puts into the same run.
fn beside() -> Vec<(String, PathBuf)> {
    let list = std::env::var("BESIDE").unwrap_or_default();
    let entries = list.split(',').filter_map(|entry| entry.split_once('='));
    entries.map(|(name, path)| (name.to_owned(), path.into())).collect()
}

/// Another gateway at `PEER=host:port`, which somebody has started and set up: that it passes OpenAI's requests on to the
/// provider, whose port is `PROVIDER_PORT` then. It gets the key `PEER_KEY`; with `PEER_PID` its processor time and its
/// memory are shown.
fn peer() -> Option<Server> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let name = variable("PEER")?;
    let address = name.parse().unwrap_or_else(|error| panic!("PEER={name}: {error}"));
    let body = BODY.replacen(
        "\"chatSettings\":{\"model\":\"gpt-4o\",\"temperature\":0.5}",
        "\"model\":\"gpt-4o\",\"stream\":true",
        1,
    );
    let key = variable("PEER_KEY").map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    Some(Server {
        name,
        plain: Target { address, request: request(address, "/v1/chat/completions", &key, &body) },
        tls: None,
        process: variable("PEER_PID").and_then(|id| id.parse().ok()).map(Process::of),
    })
}

/// OpenAI's route calls the provider without TLS, Groq's over TLS.
fn start_ours(name: &str, program: &Path, folder: &Path, database: &str, provider: &Provider, token: &str) -> Server {
    let address = free_address();
    let log = fs::File::create(folder.join(format!("{name}.log"))).expect("a log");
    let server = Command::new(program)
        .current_dir(folder)
        .envs([
            ("PORT", address.port().to_string()),
            ("DATABASE_URL", database.to_owned()),
            ("OPENAI_API_KEY", "sk-bench".to_owned()),
            ("OPENAI_BASE_URL", format!("http://{}/v1", provider.address)),
            ("GROQ_API_KEY", "gsk-bench".to_owned()),
            ("GROQ_BASE_URL", format!("https://{}/v1", provider.tls_address)),
            ("SSL_CERT_FILE", AUTHORITY.to_owned()),
            // All streams are one user's.
            ("MAX_STREAMS_PER_USER", "100000".to_owned()),
        ])
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let target =
        |path| Target { address, request: request(address, path, &format!("authorization: Bearer {token}\r\n"), BODY) };
    Server {
        name: name.to_owned(),
        plain: target("/api/chat/openai"),
        tls: Some(target("/api/chat/groq")),
        process: Some(Process::new(server)),
    }
}

/// Makes the tables and a user; returns the user's id and token.
pub async fn make_user(url: &str) -> Result<(Uuid, String), Box<dyn std::error::Error>> {
    let (user, session) = (Uuid::new_v4(), Uuid::new_v4());
    let mut connection = PgConnection::connect(url).await?;
    migrate::apply(&mut connection).await?;
    let email = "bench@example.com";
    sqlx::query("insert into auth.users (id, email) values ($1, $2)")
        .bind(user)
        .bind(email)
        .execute(&mut connection)
        .await?;
    sqlx::query("insert into auth.sessions (id, user_id) values ($1, $2)")
        .bind(session)
        .bind(user)
        .execute(&mut connection)
        .await?;
    let signer = session::Signer::Secret(PUBLISHED_JWT_SECRET.as_bytes());
    Ok((user, session::access_token(signer, user, email, session, Duration::from_hours(1))?))
}

/// Returns a complete request.
pub fn request(address: SocketAddr, path: &str, headers: &str, body: &str) -> Rc<Vec<u8>> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n"
    );
    Rc::new((head + body).into_bytes())
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Waits for a server.
pub async fn until_it_listens(address: SocketAddr) {
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nothing listens on {address}");
}

fn find_nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("nginx")).find(|program| program.is_file())
}

/// One worker per core, like this server; no access log, which a proxy in front of a server that logs would not have.
fn start_nginx(program: &Path, folder: &Path, address: SocketAddr, provider: &Provider) -> Process {
    let Provider { address: plain, tls_address: tls, .. } = provider;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    let settings = format!(
        "daemon off; pid {0}/nginx.pid; error_log {0}/nginx.log; worker_processes auto; worker_rlimit_nofile 65536;
         events {{ worker_connections 16384; }}
         http {{
             access_log off; {temporary} keepalive_requests 1000000;
             upstream plain {{ server {plain}; keepalive 1024; keepalive_requests 1000000; }}
             upstream tls {{ server {tls}; keepalive 1024; keepalive_requests 1000000; }}
             server {{
                 listen {address} backlog=4096;
                 proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off;
                 proxy_ssl_verify on; proxy_ssl_trusted_certificate {AUTHORITY}; proxy_ssl_name localhost;
                 proxy_ssl_protocols TLSv1.2 TLSv1.3;
                 location / {{ proxy_pass http://plain; }}
                 location /tls {{ proxy_pass https://tls; }}
             }}
         }}",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, settings).expect("nginx.conf");
    let nginx = Command::new(program)
        .arg("-c")
        .arg(&file)
        .arg("-e")
        .arg(folder.join("nginx.log"))
        .stderr(Stdio::null())
        .spawn();
    Process::new(nginx.expect("nginx"))
}
