//! The binary as people run it: settings that are wrong, signals, the demo.

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

use crate::support::{
    User, chat_body, client, message,
    ports::Port,
    postgres, tokens,
    upstream::{Reply, Step, Upstream},
};

/// The binary in an empty folder, with these settings and no others.
fn command(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatbot-ui-api"));
    command.args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR")).env_clear();
    for kept in ["PATH", "HOME", "CHATBOT_UI_API_CACHE", "POSTGRES_BIN_DIR"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

pub async fn output(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = timeout(Duration::from_secs(20), command(arguments, settings).output()).await;
    let output = output.expect("it ends").expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("UTF-8"))
}

pub fn signal(child: &Child, signal: &str) {
    let id = child.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-s", signal, &id]).status().expect("kill").success());
}

pub async fn ended(child: &mut Child) -> Option<i32> {
    timeout(Duration::from_secs(20), child.wait()).await.expect("it ends").expect("a status").code()
}

#[tokio::test]
async fn a_wrong_setting_stops_the_start_with_its_name() {
    for (name, value) in [
        ("PORT", "http"),
        ("DATABASE_URL", "mysql://x"),
        ("SUPABASE_URL", "nowhere"),
        ("PRIVATE_UPSTREAMS", "some?"),
        ("LOG_FORMAT", "xml"),
        ("RUST_LOG", "a=b=c"),
        ("RUST_LOG", "loud"),
        ("METRICS_ADDR", "9090"),
        ("MAX_BODY_BYTES", "1 MB"),
        ("REDIS_URL", "127.0.0.1:6379"),
        ("FRONTEND_URL", "http://127.0.0.1:8000"),
        ("CORS_ORIGINS", "*"),
    ] {
        let (status, said) = output(&["serve"], &[(name, value)]).await;
        assert_eq!(status, Some(1), "{name}: {said}");
        assert!(said.starts_with(&format!("chatbot-ui-api: {name} ")) && said.lines().count() == 1, "{name}: {said}");
    }
}

#[tokio::test]
async fn the_playground_shows_no_secret_key() {
    for (key, sentence) in [("", "--playground needs SUPABASE_ANON_KEY"), ("sb_secret_x", "--playground shows")] {
        let (status, said) = output(&["serve", "--playground"], &[("SUPABASE_ANON_KEY", key)]).await;
        assert!(status == Some(1) && said.starts_with(&format!("chatbot-ui-api: {sentence}")), "{said}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let (status, said) = output(&[], &[("PORT", &port)]).await;
    assert_eq!(status, Some(1));
    assert!(said.contains(&format!("127.0.0.1:{port} cannot be listened on")), "{said}");
}

#[tokio::test]
async fn help_and_version() {
    let (status, said) = output(&["--help"], &[]).await;
    assert!(status == Some(0) && said.contains("demo") && said.contains("Examples:"), "{said}");
    assert_eq!(output(&["--version"], &[]).await.1, format!("chatbot-ui-api {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(output(&["nonsense"], &[]).await.0, Some(2));
}

#[tokio::test]
async fn the_document_is_printed() {
    // A wrong setting is no hindrance: nothing is served.
    let (status, said) = output(&["openapi"], &[("PORT", "http")]).await;
    let document: serde_json::Value = serde_json::from_str(&said).expect("JSON and nothing else");
    assert_eq!((status, &document["openapi"]), (Some(0), &"3.1.0".into()));
}

/// The server, on a port of its own choice, and where it listens.
pub async fn serve(settings: &[(&str, &str)]) -> (Child, String) {
    let (child, url, _) = serve_and_listen(settings).await;
    (child, url)
}

/// The same, with what it writes.
pub async fn serve_and_listen(settings: &[(&str, &str)]) -> (Child, String, Arc<Mutex<String>>) {
    let settings: Vec<_> = [("PORT", "0"), ("LOG_FORMAT", "json")].iter().chain(settings).copied().collect();
    let mut child = command(&["serve"], &settings).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first =
        timeout(Duration::from_secs(10), lines.next_line()).await.expect("soon").expect("text").expect("a line");
    let url =
        first.split('"').find_map(|part| part.strip_prefix("listening on ")).expect("where it listens").to_owned();
    let written = Arc::new(Mutex::new(first));
    let all = written.clone();
    // Read on in any case, or the pipe fills.
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            all.lock().expect("no panic").push_str(&line);
        }
    });
    (child, url, written)
}

fn delta(text: &str) -> Vec<u8> {
    format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n").into_bytes()
}

/// Waits until the server says that it is stopping.
pub async fn stopping(url: &str) {
    let stops = async {
        while client().get(format!("{url}/readyz")).send().await.expect("an answer").status() != 503 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), stops).await.expect("it stops");
}

#[tokio::test]
async fn after_sigterm_new_requests_are_refused_and_those_in_flight_may_finish() {
    let upstream = Upstream::start().await;
    let database = postgres::database().await;
    let base = format!("{}/v1", upstream.url());
    let (mut child, url) = serve(&[("DATABASE_URL", &database.role_url), ("OPENAI_BASE_URL", &base)]).await;
    let user = User::create(&database.pool, &[("openai_api_key", "sk-case-term")]).await;
    let pause = Step::WaitForRelease;
    upstream.script(
        "sk-case-term",
        vec![
            Reply { steps: vec![Step::Write(delta("one")), pause, Step::Write(delta(" two"))], ..Reply::default() },
            Reply::events(&["data: {\"choices\":[{\"text\":\"late\"}]}\n\n"], Step::Wait(Duration::ZERO)),
        ],
    );
    let body = chat_body().to_string();
    let ask = || client().post(format!("{url}/api/chat/openai")).header("authorization", user.bearer());
    let mut answer = ask().body(body.clone()).send().await.expect("an answer");
    assert_eq!(answer.chunk().await.expect("text").expect("some"), "one");

    // One whose body is still on its way, and one that does nothing.
    let address = url.trim_start_matches("http://");
    let mut half = TcpStream::connect(address).await.expect("connects");
    let head = format!(
        "POST /api/chat/openai HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        user.bearer(),
        body.len()
    );
    let (early, late) = body.split_at(20);
    half.write_all(format!("{head}{early}").as_bytes()).await.expect("writes");
    // By this the server says that the request is in.
    let mut said = [0; 25];
    half.read_exact(&mut said).await.expect("an answer");
    assert_eq!(said, *b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut idle = TcpStream::connect(address).await.expect("connects");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("writes");
    assert_ne!(idle.read(&mut [0; 1000]).await.expect("an answer"), 0);

    signal(&child, "TERM");
    stopping(&url).await;
    let readiness = client().get(format!("{url}/readyz")).send().await.expect("an answer");
    assert_eq!(message(readiness).await, (503, "The server is stopping".to_owned()));
    assert_eq!(client().get(format!("{url}/healthz")).send().await.expect("an answer").status(), 200);
    let refused = ask().body(body.clone()).send().await.expect("an answer");
    assert_eq!(refused.headers()["retry-after"], "2");
    assert_eq!(refused.headers()["connection"], "close");
    assert_eq!(message(refused).await, (503, "The server is stopping".to_owned()));

    half.write_all(late.as_bytes()).await.expect("writes");
    let mut served = String::new();
    half.read_to_string(&mut served).await.expect("an answer, and the end");
    assert!(served.starts_with("HTTP/1.1 200 OK") && served.contains("late"), "{served}");

    upstream.release("sk-case-term");
    assert_eq!(answer.chunk().await.expect("text").expect("some"), " two");
    let last = Instant::now();
    assert_eq!(answer.chunk().await.expect("a proper end"), None);
    assert_eq!(ended(&mut child).await, Some(0));
    assert!(last.elapsed() < Duration::from_millis(500), "idle connections do not delay it: {:?}", last.elapsed());
    assert_eq!(idle.read(&mut [0; 10]).await.expect("a proper end"), 0);
}

#[tokio::test]
async fn streams_are_cut_when_their_grace_is_over() {
    let upstream = Upstream::start().await;
    let database = postgres::database().await;
    let base = format!("{}/v1", upstream.url());
    let settings = [("DATABASE_URL", database.role_url.as_str()), ("OPENAI_BASE_URL", &base), ("SHUTDOWN_GRACE", "1")];
    let (mut child, url) = serve(&settings).await;
    let user = User::create(&database.pool, &[("openai_api_key", "sk-case-grace")]).await;
    let text = String::from_utf8(delta("one")).expect("text");
    upstream.script("sk-case-grace", vec![Reply::events(&[&text], Step::WaitForever)]);
    let ask = client().post(format!("{url}/api/chat/openai")).header("authorization", user.bearer());
    let mut answer = ask.body(chat_body().to_string()).send().await.expect("an answer");
    assert_eq!(answer.chunk().await.expect("text").expect("some"), "one");
    let told = Instant::now();
    signal(&child, "TERM");
    assert!(answer.chunk().await.is_err(), "cut");
    assert_eq!(ended(&mut child).await, Some(0));
    let took = told.elapsed();
    assert!((Duration::from_millis(950)..Duration::from_secs(2)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn without_requests_in_flight_the_stop_is_quick() {
    let (mut child, url) = serve(&[]).await;
    let mut idle = TcpStream::connect(url.trim_start_matches("http://")).await.expect("connects");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("writes");
    assert_ne!(idle.read(&mut [0; 1000]).await.expect("an answer"), 0);
    let told = Instant::now();
    signal(&child, "TERM");
    assert_eq!(ended(&mut child).await, Some(0));
    assert!(told.elapsed() < Duration::from_millis(700), "{:?}", told.elapsed());
}

#[tokio::test]
async fn the_log_says_why_there_is_no_database() {
    let closed = Port::reserve();
    let port = closed.number();
    let url = format!("postgresql://nobody:nothing@127.0.0.1:{port}/x");
    let (_child, server, written) = serve_and_listen(&[("DATABASE_URL", &url)]).await;
    let answer = client().get(format!("{server}/readyz")).send().await.expect("an answer");
    assert_eq!(answer.status(), 503);
    let reason = format!("database: 127.0.0.1:{port}: Connection refused");
    let told = async {
        while !written.lock().expect("no panic").contains(&reason) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(2), told).await.expect("it is said");
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let upstream = Upstream::start().await;
    let database = postgres::database().await;
    let base = format!("{}/v1", upstream.url());
    let (mut child, url) = serve(&[("DATABASE_URL", &database.role_url), ("OPENAI_BASE_URL", &base)]).await;
    let user = User::create(&database.pool, &[("openai_api_key", "sk-case-int")]).await;
    upstream
        .script("sk-case-int", vec![Reply::events(&["data: {\"choices\":[{\"text\":\"a\"}]}\n\n"], Step::WaitForever)]);
    let request = client().post(format!("{url}/api/chat/openai")).header("authorization", user.bearer());
    let mut answer = request.body(chat_body().to_string()).send().await.expect("an answer");
    assert_eq!(answer.chunk().await.expect("text").expect("some"), "a");

    signal(&child, "INT");
    stopping(&url).await;
    assert!(child.try_wait().expect("a state").is_none(), "the stream has time");
    signal(&child, "INT");
    let told = Instant::now();
    assert_eq!(ended(&mut child).await, Some(0));
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    assert!(answer.chunk().await.is_err(), "cut");
}

#[tokio::test]
async fn settings_come_from_two_files_and_the_environment_in_rising_order() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("dotenv");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(".env"), "PORT=0\nHOST=0.0.0.0\nLOG_FORMAT=xml\n").expect("written");
    std::fs::write(folder.join(".env.local"), "# the front end's\nexport LOG_FORMAT=\"csv\"\nHOST=127.0.0.1\n")
        .expect("written");
    let mut first = command(&["serve"], &[]);
    let output = first.current_dir(&folder).output().await.expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("LOG_FORMAT must be"), "the files are read");
    let mut child = command(&["serve"], &[("LOG_FORMAT", "text")]).current_dir(&folder).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let line = timeout(Duration::from_secs(10), lines.next_line()).await.expect("soon").expect("text").expect("a line");
    assert!(line.contains("listening on http://127.0.0.1:"), "{line}");

    // Lines that the front end accepts are no error; `check` names those that are no setting.
    let theirs = "EMAIL_DOMAIN_WHITELIST=a.com, b.com\nTITLE=Ada's chat\nthis is no setting\nLOG_FORMAT=csv\n";
    std::fs::write(folder.join(".env.local"), theirs).expect("written");
    let output = command(&["serve"], &[]).current_dir(&folder).output().await.expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("LOG_FORMAT must be"), "what follows is read");
    let output = command(&["check"], &[]).current_dir(&folder).output().await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("line 3 of .env.local is no NAME=value"), "{said}");
}

#[tokio::test]
async fn the_start_says_what_the_settings_alone_show_to_be_wrong() {
    // An anonymous key that another secret has signed.
    let key = tokens::sign(&serde_json::json!({ "role": "anon", "exp": 4_000_000_000u64 }), "another project's secret");
    let settings = [("PORT", "0"), ("SUPABASE_JWT_SECRET", "the secret of this project"), ("SUPABASE_ANON_KEY", &key)];
    let mut child = command(&["serve"], &settings).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let said = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.contains("SUPABASE_ANON_KEY: was not signed with SUPABASE_JWT_SECRET") {
                return line;
            }
        }
        panic!("it is not said")
    };
    let line = timeout(Duration::from_secs(10), said).await.expect("soon");
    assert!(line.contains("copy the secret again") && !line.contains(&key), "{line}");
}

#[tokio::test]
async fn the_demo_streams_word_by_word_and_leaves_nothing_behind() {
    let mut child = command(&["demo"], &[("PORT", "0")]).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut data = None;
    // Postgres may have to be fetched first.
    let curl = timeout(Duration::from_secs(120), async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if let Some(folder) = line.strip_prefix("Starting Postgres in ") {
                data = Some(folder.to_owned());
            }
            if line.trim().starts_with("curl -N ") {
                return line.trim().to_owned();
            }
        }
        panic!("it ended");
    });
    let curl = curl.await.expect("in time");
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

    // The line as it is printed, but for the program.
    let words: Vec<&str> = curl.split('\'').collect();
    let [start, bearer, _, body, ..] = words.as_slice() else { panic!("{curl}") };
    let url = start.split_whitespace().nth(2).expect("a URL");
    let request = client().post(url).header("authorization", bearer.trim_start_matches("Authorization: "));
    let mut answer = request.body((*body).to_owned()).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let (mut text, mut times) = (Vec::new(), Vec::new());
    while let Some(chunk) = answer.chunk().await.expect("unbroken") {
        text.extend_from_slice(&chunk);
        times.push(Instant::now());
    }
    assert!(text.starts_with(b"1 2 3 4 ") && text.ends_with("30 – that is all.".as_bytes()));
    assert!(times.len() > 20 && times[times.len() - 1] - times[0] > Duration::from_secs(1), "{} parts", times.len());

    signal(&child, "INT");
    assert_eq!(ended(&mut child).await, Some(0));
    let data = data.expect("it says where");
    let running = std::process::Command::new("ps").args(["axww", "-o", "args"]).output().expect("ps");
    assert!(!String::from_utf8_lossy(&running.stdout).contains(&data), "Postgres has stopped");
    std::fs::remove_dir_all(data).expect("the folder of a port that is never used again");
}

#[tokio::test]
async fn migrate_says_what_it_did() {
    let url = postgres::empty_database().await;
    let migrate = || async { output(&["migrate"], &[("DATABASE_URL", &url)]).await };
    assert_eq!(migrate().await, (Some(0), "The tables are made.\n".to_owned()));
    assert_eq!(migrate().await, (Some(0), "The tables are there already, and up to date.\n".to_owned()));
    let own = postgres::supabase_database().await;
    let (status, said) = output(&["migrate"], &[("DATABASE_URL", &own)]).await;
    assert!(status == Some(0) && said.contains("nothing was changed"), "{said}");
    let (status, said) = output(&["migrate"], &[("DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:9/x")]).await;
    assert!(status == Some(1) && said.contains("127.0.0.1:9") && !said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn no_secret_and_no_text_of_users_reaches_the_log() {
    let upstream = Upstream::start().await;
    let database = postgres::database().await;
    let base = format!("{}/v1", upstream.url());
    let settings = [("DATABASE_URL", database.role_url.as_str()), ("OPENAI_BASE_URL", &base), ("RUST_LOG", "trace")];
    let (_child, url, written) = serve_and_listen(&settings).await;
    let user = User::create(&database.pool, &[("openai_api_key", "sk-case-MARKEDKEY")]).await;
    let body = chat_body().to_string().replace("Say hello", "MARKEDPROMPT");
    let delta = "data: {\"choices\":[{\"delta\":{\"content\":\"MARKEDANSWER\"}}]}\n\n";
    let error = "data: {\"error\":{\"message\":\"MARKEDERROR\"}}\n\n";
    for reply in [
        Reply::events(&[delta, "data: [DONE]\n\n"], Step::Wait(Duration::ZERO)),
        Reply::events(&[delta, error], Step::Wait(Duration::from_millis(50))),
        Reply::events(&[error], Step::Wait(Duration::ZERO)),
        Reply::json(400, &serde_json::json!({ "error": { "message": "MARKEDERROR" } })),
    ] {
        upstream.script("sk-case-MARKEDKEY", vec![reply]);
        let request = client().post(format!("{url}/api/chat/openai")).header("authorization", user.bearer());
        let answer = request.header("cookie", "other=MARKEDCOOKIE").body(body.clone()).send().await.expect("an answer");
        let _ = answer.bytes().await;
    }
    // A model's name is in the log, what a client calls a model need not be.
    let nonsense = client().post(format!("{url}/api/chat/openai")).header("authorization", user.bearer());
    let _ = nonsense.body("{\"MARKEDPROMPT").send().await.expect("an answer").bytes().await;
    let lines = async {
        while written.lock().expect("no panic").matches(r#""message":"request""#).count() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), lines).await.expect("a line for each request");
    let written = written.lock().expect("no panic").clone();
    assert!(written.contains("request_id") && written.contains("provider broke"), "{written:.2000}");
    let token = user.bearer();
    let signature = token.rsplit('.').next().expect("a signature");
    for secret in ["MARKED", signature, "only-for-tests"] {
        let at = written.find(secret);
        assert!(at.is_none(), "{}", &written[at.unwrap_or(0).saturating_sub(300)..][..400]);
    }
}
