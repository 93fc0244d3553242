//! One user against all others: the server as a process of its own with 512 MiB of address space to spare, and one
//! kind of attack after another. It lives on, and other users' chats go on meanwhile.

mod payloads;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all, stream};
use reqwest::{RequestBuilder, header::CONTENT_TYPE};
use serde_json::json;
use sqlx::PgPool;
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Child, runtime::Runtime};
use uuid::Uuid;

use crate::{
    process::{serve_and_listen, signal},
    support::{
        User, chat_body, client, postgres,
        programs::say,
        retrieval::SERVICE_KEY,
        rows::{self, File},
        upstream::{Recorded, Reply, Step, Upstream},
    },
};

/// Address space beyond what the server takes when it has started.
const TO_SPARE: u64 = 512 * 1024 * 1024;
/// Time limit of one request of an attack.
const PATIENCE: Duration = Duration::from_secs(60);
/// What others' chats and `/healthz` may take, 99 of 100. A debug build is some ten times slower and shares its cores
/// with other tests, so its limits only tell a server that is held up from one that is busy.
const CHAT: Duration = if cfg!(debug_assertions) { Duration::from_secs(10) } else { Duration::from_secs(1) };
const HEALTH: Duration = if cfg!(debug_assertions) { Duration::from_secs(5) } else { Duration::from_millis(100) };

const DELTA: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// The server, its provider, and who attacks.
struct Scene {
    child: Child,
    url: String,
    log: Arc<std::sync::Mutex<String>>,
    db: PgPool,
    attacker: User,
    /// Custom models of the attacker, by what their server does.
    usage: Uuid,
    calls: Uuid,
    others: Vec<User>,
    upstream: Upstream,
}

impl Scene {
    async fn start() -> Self {
        let upstream = Upstream::answering_for_long(Duration::from_secs(5), attackers_server);
        let database = postgres::database().await;
        let provider = start_provider();
        let base = format!("{provider}/v1");
        let settings = [
            ("DATABASE_URL", database.role_url.as_str()),
            ("OPENAI_BASE_URL", &base),
            ("ANTHROPIC_BASE_URL", &provider),
            ("GOOGLE_GEMINI_BASE_URL", &provider),
            ("SUPABASE_URL", &upstream.url()),
            ("SUPABASE_SERVICE_ROLE_KEY", SERVICE_KEY),
            ("MODEL_ALIASES", "off"),
            ("RUST_LOG", "warn,chatbot_ui_api::cli=info"),
        ];
        let (child, url, log) = serve_and_listen(&settings).await;
        let keys = [("openai_api_key", "sk-a"), ("anthropic_api_key", "sk-b"), ("google_gemini_api_key", "sk-c")];
        let attacker = User::create(&database.pool, &keys).await;
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(User::create(&database.pool, &keys).await);
        }
        let model = async |what: &str| {
            rows::model(&database.pool, attacker.id, &format!("{}/{what}/v1", upstream.url()), "sk-d").await
        };
        let (usage, calls) = (model("usage").await, model("calls").await);
        let scene = Self { child, url, log, db: database.pool, attacker, usage, calls, others, upstream };
        // Whatever every server allocates at its first requests.
        for user in &scene.others {
            assert!(scene.chat(user).send().await.is_ok_and(|answer| answer.status() == 200));
        }
        scene
    }

    /// Leaves the server so much address space beyond what it has.
    fn confine(&self) {
        let id = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB"));
        let size: u64 = size.expect("a size").parse().expect("a number");
        let limit = size * 1024 + TO_SPARE;
        let id = i32::try_from(id).expect("a process id");
        rlimit::prlimit(id, rlimit::Resource::AS, Some((limit, limit)), None).expect("a limit");
    }

    fn post(&self, path: &str, user: &User) -> RequestBuilder {
        client().post(format!("{}{path}", self.url)).header("authorization", user.bearer()).timeout(PATIENCE)
    }

    fn chat(&self, user: &User) -> RequestBuilder {
        self.post("/api/chat/openai", user).body(chat_body().to_string())
    }

    /// Sends requests, some at a time, and returns their statuses: 0 for a connection that broke, 599 if no answer came
    /// in time.
    async fn send(&self, requests: Vec<RequestBuilder>) -> Vec<u16> {
        let answers = stream::iter(requests).map(|request| async {
            match request.send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let _ = answer.bytes().await;
                    status
                }
                Err(error) => {
                    if error.is_timeout() {
                        599
                    } else {
                        0
                    }
                }
            }
        });
        answers.buffer_unordered(if cfg!(debug_assertions) { 2 } else { 4 }).collect().await
    }

    /// Runs an attack while others chat, and checks that the server and their chats are as well as before.
    async fn withstands(&mut self, name: &str, attack: impl AsyncFnOnce(&Self)) {
        let over = Arc::new(AtomicBool::new(false));
        let chats: Vec<RequestBuilder> = self.others.iter().map(|user| self.chat(user)).collect();
        let health = client().get(format!("{}/healthz", self.url)).timeout(PATIENCE);
        let others = {
            let over = over.clone();
            // On a thread of its own, as this one makes what the attacker sends.
            std::thread::spawn(move || {
                runtime().block_on(async {
                    let chats = join_all(chats.iter().map(|chat| repeated(chat, &over)));
                    let (chats, health) = tokio::join!(chats, repeated(&health, &over));
                    (late(chats.concat()), late(health))
                })
            })
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        let started = Instant::now();
        attack(self).await;
        let took = started.elapsed();
        over.store(true, Ordering::Relaxed);
        let (chat, health) = others.join().expect("others are served");
        assert!(matches!(self.child.try_wait(), Ok(None)), "{name}: the server died: {}", self.log());
        say(&format!("{name}: {took:.1?}, chats {chat:.0?}, /healthz {health:.0?}"));
        assert!(chat < CHAT, "{name} ({took:?}): others' chats took {chat:?}");
        assert!(health < HEALTH, "{name} ({took:?}): /healthz took {health:?}");
        assert!(!self.log().contains("panicked"), "{name}: {}", self.log());
    }

    fn log(&self) -> String {
        let log = self.log.lock().expect("no panic");
        log.chars().rev().take(2000).collect::<String>().chars().rev().collect()
    }

    async fn file(&self, name: &str) -> Uuid {
        // The stand-in for storage gives each object by its name.
        File { name, path: Some(&format!("{}/{name}", self.attacker.id)), sharing: "private" }
            .insert(&self.db, self.attacker.id)
            .await
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Starts the provider of all users, on a thread of its own; returns its URL.
fn start_provider() -> String {
    let (send, url) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let reply = |_: &Recorded| Reply::events(&[DELTA], Step::Write(DONE.into()));
            let provider = Upstream::answering_for_long(Duration::from_secs(5), reply);
            send.send(provider.url()).expect("awaited");
            std::future::pending::<()>().await;
        });
    });
    url.recv().expect("a URL")
}

/// Sends a request again and again until it is over; how long each took.
async fn repeated(request: &RequestBuilder, over: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    loop {
        let started = Instant::now();
        let answer = request.try_clone().expect("no stream").send().await.expect("an answer to others");
        let status = answer.status();
        let _ = answer.bytes().await;
        // What is not served counts as served too late.
        times.push(if status == 200 { started.elapsed() } else { PATIENCE });
        if over.load(Ordering::Relaxed) {
            return times;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The time within which 99 of 100 were answered.
fn late(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[(times.len() * 99 / 100).min(times.len() - 1)]
}

/// The storage, and the servers of the attacker's models.
fn attackers_server(request: &Recorded) -> Reply {
    let path = request.path.as_str();
    if let Some(name) = path.rsplit('/').next().filter(|_| path.starts_with("/storage/")) {
        return Reply { steps: vec![Step::Write(payloads::file(name))], ..Reply::default() };
    }
    if path.starts_with("/usage/") {
        let usage = format!("data: {{\"choices\":[],\"usage\":{{\"x\":\"{}\"}}}}\n\n", "x".repeat(8000));
        return Reply { steps: vec![Step::Repeat(usage.into_bytes(), usize::MAX)], ..Reply::default() };
    }
    if path.starts_with("/calls/") {
        return payloads::calls();
    }
    Reply::events(&[DELTA], Step::Write(DONE.into()))
}

#[tokio::test]
async fn one_user_cannot_stop_the_server_or_others() {
    let mut scene = Scene::start().await;
    scene.confine();

    scene
        .withstands("large chats", async |scene| {
            let bodies = payloads::bodies();
            let requests = bodies.iter().flat_map(|body| {
                ["openai", "anthropic", "google", "tools"]
                    .map(|route| scene.post(&format!("/api/chat/{route}"), &scene.attacker).body(body.clone()))
            });
            for status in scene.send(requests.collect()).await {
                assert!(matches!(status, 200 | 400 | 413 | 500 | 502 | 503), "{status}");
            }
        })
        .await;

    scene
        .withstands("bodies of nobody", async |scene| {
            let body = " ".repeat(30 * 1024 * 1024);
            let requests = (0..8).map(|_| {
                let post = client().post(format!("{}/api/chat/openai", scene.url)).timeout(PATIENCE);
                post.header("authorization", "Bearer a.b.c").body(body.clone())
            });
            for status in scene.send(requests.collect()).await {
                // The answer may come before the body is sent, and the connection is closed then.
                assert!(matches!(status, 0 | 401), "{status}");
            }
        })
        .await;

    scene
        .withstands("tools' documents", async |scene| {
            for (name, tools) in payloads::tools() {
                let mut body = chat_body();
                body["selectedTools"] = tools;
                let body = body.to_string();
                let requests = [scene.post("/api/chat/tools", &scene.attacker).body(body)];
                let started = Instant::now();
                for status in scene.send(requests.into()).await {
                    assert!(matches!(status, 200 | 400 | 413 | 503), "{name}: {status}");
                }
                say(&format!("  {name}: {:.1?}", started.elapsed()));
            }
        })
        .await;

    scene
        .withstands("calls that grow", async |scene| {
            for tools in payloads::tools_that_grow(&scene.upstream.url()) {
                let mut body = chat_body();
                body["selectedTools"] = tools;
                body["customModelId"] = json!(scene.calls);
                let requests =
                    (0..2).map(|_| scene.post("/api/chat/tools", &scene.attacker).body(body.to_string())).collect();
                for status in scene.send(requests).await {
                    assert!(matches!(status, 200 | 400 | 500 | 502 | 503), "{status}");
                }
            }
        })
        .await;

    scene
        .withstands("forms", async |scene| {
            let name = "n".repeat(60_000);
            let part = |name: &str| format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n\r\n");
            let many: String = (0..40_000).map(|number| part(&number.to_string())).collect();
            let bodies = [part(&name).repeat(500), many, part("file_id").repeat(600)];
            let requests = bodies.iter().map(|body| {
                let post = scene.post("/api/retrieval/process", &scene.attacker);
                post.header(CONTENT_TYPE, "multipart/form-data; boundary=b").body(format!("{body}--b--\r\n"))
            });
            for status in scene.send(requests.collect()).await {
                assert!(matches!(status, 0 | 400 | 413 | 500), "{status}");
            }
        })
        .await;

    scene
        .withstands("usage without end", async |scene| {
            let mut body = chat_body();
            body["customModelId"] = json!(scene.usage);
            let requests = ["*/*", "text/event-stream"].map(|accept| {
                scene.post("/api/chat/custom", &scene.attacker).header("accept", accept).body(body.to_string())
            });
            for status in scene.send(requests.into()).await {
                assert!(matches!(status, 200 | 502), "{status}");
            }
        })
        .await;

    scene
        .withstands("files", async |scene| {
            let mut requests = Vec::new();
            for name in payloads::FILES {
                let form = format!("file_id={}&embeddingsProvider=none", scene.file(name).await);
                let post = scene.post("/api/retrieval/process", &scene.attacker);
                requests.push(post.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form));
            }
            for status in scene.send(requests).await {
                assert!(matches!(status, 200 | 413 | 500 | 503), "{status}");
            }
        })
        .await;

    scene
        .withstands("pipelines that nobody reads", async |scene| {
            let address = scene.url.trim_start_matches("http://");
            let requests = "GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n".repeat(2000);
            let mut connections = Vec::new();
            for _ in 0..50 {
                let mut connection = TcpStream::connect(address).await.expect("connects");
                let _ = tokio::time::timeout(Duration::from_secs(1), connection.write_all(requests.as_bytes())).await;
                connections.push(connection);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        })
        .await;

    signal(&scene.child, "TERM");
}
