//! Secrets stay secret: every row of the route table, with marked secrets
//! wherever one can be, in success and in failure, with the log at its most
//! verbose. Nothing marked may be in the process's output or in a header of a
//! response.

mod frontend;

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chatbot_ui_api::{
    credentials,
    http::table::{self, Access},
};
use futures::{StreamExt, stream};
use reqwest::{
    Client, RequestBuilder,
    header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, SET_COOKIE},
};
use serde_json::json;
use sqlx::PgPool;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::support::{
    User, chat_body, client, message,
    ports::Port,
    postgres,
    redis::Redis,
    rows, tokens,
    upstream::{ANY, End, Reply, Step, Upstream},
};

/// In every secret. Letters only, so that no escaping changes it.
const MARK: &str = "MARKED";

/// Public, but not to be logged.
const ANON: &str = "sb_publishable_anon";

/// More would wait for each other at the database.
const AT_ONCE: usize = 8;

/// The behaviour of a provider, a tool or the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    /// The same, but each session has run out and is refreshed on the way.
    Refreshed,
    /// 401 that quotes the key, as OpenAI's do.
    WrongKey,
    /// An error as an event, after some text.
    ErrorInStream,
    /// The connection is reset after some text.
    Reset,
    /// Redirected to an address that the guard refuses.
    Redirected,
    /// The port is closed.
    Away,
    /// And so is that of Postgres.
    DatabaseAway,
}

struct Server {
    child: Child,
    url: String,
    metrics: Port,
    output: PathBuf,
}

impl Server {
    async fn start(arguments: &[&str], settings: &[(String, String)], format: &str) -> Self {
        let metrics = Port::reserve();
        let output = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("output-{}", Uuid::new_v4()));
        let file = File::create(&output).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_chatbot-ui-api"));
        command.args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR")).env_clear();
        command.env("METRICS_ADDR", metrics.address.to_string());
        command.env("PORT", "0").env("LOG_FORMAT", format).env("RUST_LOG", "trace").env("SHUTDOWN_GRACE", "1");
        // Directives of one's own do not open what is shut.
        if format == "json" {
            command.env(
                "RUST_LOG",
                "trace,reqwest=trace,hyper_util=trace,h2=trace,rustls=trace,sqlx=trace,actix_http=trace",
            );
        }
        command.envs(settings.iter().cloned());
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file")).stderr(file).kill_on_drop(true);
        let child = command.spawn().expect("it runs");
        let started = Instant::now();
        let url = loop {
            let written = std::fs::read_to_string(&output).expect("text");
            let url = written.split("listening on ").nth(1).and_then(|rest| rest.split(['"', '\n']).next());
            if let Some(url) = url.filter(|_| written.ends_with('\n')) {
                break url.trim().to_owned();
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{written}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Self { child, url, metrics, output }
    }

    /// The text of `/metrics`.
    async fn metrics(&self) -> String {
        let answer = client().get(format!("http://{}/metrics", self.metrics.address)).send().await.expect("an answer");
        let text = answer.text().await.expect("text");
        assert!(text.contains("\nchatbot_ui_api_requests_total{"), "nothing was counted: {text}");
        text
    }

    /// All that it wrote, once it has ended.
    async fn stop(mut self) -> String {
        let id = self.child.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").arg(&id).status().expect("kill").success());
        tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await.expect("it ends").expect("a status");
        let written = std::fs::read(&self.output).expect("text");
        std::fs::remove_file(&self.output).expect("removes");
        String::from_utf8_lossy(&written).into_owned()
    }
}

/// A text in which a secret may be hidden: as it is, percent-encoded or
/// JSON-escaped (letters stay as they are), in base64 at any offset, as hex, as
/// a list of numbers.
fn show(text: &str, secret: &str) -> Option<String> {
    let bytes = secret.as_bytes();
    let in_base64 = (0..3).map(|offset| {
        let padded = [&b"\0\0"[..offset], bytes].concat();
        let encoded = STANDARD.encode(&padded);
        // Without the characters that depend on what stands beside it.
        let from = [0, 2, 3][offset];
        let to = padded.len() / 3 * 4;
        encoded[from..to].to_owned()
    });
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    in_base64.chain([secret.to_owned(), hex, numbers]).find_map(|form| {
        let at = text.find(&form)?;
        let from = (0..=at.saturating_sub(500)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        Some(text[from..].chars().take(800).collect())
    })
}

#[test]
fn a_hidden_secret_is_found() {
    for hidden in [
        "x MARKED-key x".to_owned(),
        STANDARD.encode("Bearer sk-MARKED-key"),
        STANDARD.encode("Bearer s-MARKED-key"),
        STANDARD.encode("Bearer -MARKED-key"),
        format!("{:?}", b"sk-MARKED"),
        "6d4d41524b454400".to_owned(),
        format!("{:?}", b"sk-MARKED".as_slice().to_vec()),
    ] {
        assert!(show(&hidden, MARK).is_some(), "{hidden}");
    }
    assert!(show("nothing at all", MARK).is_none());
}

fn delta(text: &str) -> String {
    json!({
        // OpenAI's, Anthropic's and Google's at once.
        "choices": [{ "delta": { "content": text } }],
        "type": "content_block_delta", "delta": { "type": "text_delta", "text": text },
        "candidates": [{ "content": { "parts": [{ "text": text }] } }],
    })
    .to_string()
}

fn reply(weather: Weather) -> Reply {
    let event = |data: &str| Step::Write(format!("data: {data}\n\n").into_bytes());
    let answer = event(&delta("MARKEDanswer"));
    let error = json!({ "type": "error", "error": { "message": "MARKEDwords about sk-MARKEDkey" } });
    match weather {
        Weather::Fair | Weather::Refreshed => Reply { steps: vec![answer, event("[DONE]")], ..Reply::default() },
        Weather::WrongKey => Reply {
            headers: vec![
                ("x-request-id".to_owned(), "MARKEDid".to_owned()),
                ("content-type".to_owned(), "application/json".to_owned()),
            ],
            ..Reply::json(401, &json!({ "error": { "message": "Incorrect API key provided: sk-MARKEDkey" } }))
        },
        Weather::ErrorInStream => Reply { steps: vec![answer, event(&error.to_string())], ..Reply::default() },
        Weather::Reset => Reply { steps: vec![answer], end: End::Reset, ..Reply::default() },
        Weather::Redirected => Reply {
            status: 307,
            headers: vec![("location".to_owned(), "http://169.254.169.254/MARKEDplace?MARKEDquery".to_owned())],
            ..Reply::default()
        },
        Weather::Away | Weather::DatabaseAway => Reply::silent(),
    }
}

/// The model's output when it is to call a tool.
fn tool_call() -> Reply {
    let call = json!({ "id": "MARKEDcall", "type": "function", "function": { "name": "look", "arguments": r#"{"parameters":{"q":"MARKEDargument"}}"# } });
    Reply::json(
        200,
        &json!({ "choices": [{ "message": { "role": "assistant", "content": "MARKEDanswer", "tool_calls": [call] } }] }),
    )
}

/// A request for every row with everything that it takes, marked wherever it can be.
async fn requests(
    client: &Client,
    url: &str,
    user: &User,
    token: &str,
    db: &PgPool,
    upstream: &str,
) -> Vec<(String, RequestBuilder)> {
    let model = async |base_url: String| rows::model(db, user.id, &base_url, "sk-MARKEDmodel").await;
    let models = [
        model(format!("{upstream}/MARKEDpath?key=MARKEDquery")).await,
        model("http://MARKEDuser:MARKEDpassword@127.0.0.1/".to_owned()).await,
        // Too long a name for any resolver, so that no look-up is waited for.
        model(format!("http://MARKEDhost{}/v1", "x".repeat(64))).await,
        model("MARKED no URL".to_owned()).await,
        // Offered by the operator, and not.
        model("server:openai".to_owned()).await,
        model("server:MARKED".to_owned()).await,
    ];
    let path = format!("{}/MARKEDfile", user.id);
    let file = rows::File { name: "MARKEDname.txt", path: Some(&path), sharing: "private" }.insert(db, user.id).await;
    let session =
        json!({ "access_token": token, "refresh_token": "MARKEDrefresh", "user": { "email": "MARKED@example.com" } });
    let mut requests = Vec::new();
    let chat = |name: &str| {
        let mut body = chat_body();
        body["messages"] = json!([{ "role": "system", "content": "MARKEDsystem", "parts": [{ "text": "MARKEDsystem" }] }, { "role": "user", "content": "MARKEDprompt", "parts": [{ "text": "MARKEDprompt" }] }]);
        body["chatSettings"]["model"] = name.into();
        let document = json!({ "info": {}, "servers": [{ "url": format!("{upstream}/tool/MARKEDpath") }], "paths": { "/x": { "get": { "operationId": "look" } } } });
        body["selectedTools"] = json!([
            { "name": "MARKEDtool", "schema": document.to_string(), "customHeaders": { "x-key": "MARKEDheader" } },
            { "name": "MARKEDbroken", "schema": "MARKED no JSON", "customHeaders": "MARKED" },
        ]);
        body
    };
    for row in table::table() {
        let ask = |body: String| {
            let request = client
                .request(row.method.as_str().parse().expect("a method"), format!("{url}{}?MARKEDquery", row.path));
            let request = request.header("x-request-id", "MARKEDid").header("user-agent", "MARKEDagent").body(body);
            if row.access == Access::Anyone {
                request.header(COOKIE, "a=MARKEDcookie")
            } else {
                request.header(COOKIE, format!("other=MARKEDcookie; sb-127-auth-token={session}"))
            }
        };
        let mut add = |request| requests.push((row.path.clone(), request));
        match row.path.as_str() {
            "/api/chat/custom" => {
                for model in models {
                    let mut body = chat("gpt-4");
                    body["customModelId"] = json!(model);
                    add(ask(body.to_string()));
                }
            }
            "/api/chat/azure" => add(ask(chat("gpt-4-turbo-preview").to_string())),
            "/api/chat/google" => {
                let mut body = chat("gemini-pro");
                body["messages"].as_array_mut().expect("messages").remove(0);
                add(ask(body.to_string()));
            },
            path if path.starts_with("/api/chat/") => {
                add(ask(chat("gpt-4").to_string()));
                add(ask(chat("gpt-4").to_string()).header("accept", "text/event-stream"));
            }
            "/api/command" => add(ask(json!({ "input": "MARKEDprompt" }).to_string())),
            "/api/retrieval/process" => {
                let form = format!(
                    "--b\r\nContent-Disposition: form-data; name=\"file_id\"\r\n\r\n{file}\r\n--b\r\nContent-Disposition: form-data; name=\"embeddingsProvider\"\r\n\r\nopenai\r\n--b\r\nContent-Disposition: form-data; name=\"x\"; filename=\"MARKED\"\r\n\r\nMARKED\r\n--b--\r\n"
                );
                add(ask(form).header(CONTENT_TYPE, "multipart/form-data; boundary=b"));
            }
            "/api/retrieval/process/docx" => add(ask(
                json!({ "text": "MARKEDtext", "fileId": file, "embeddingsProvider": "openai", "fileExtension": "docx" }).to_string(),
            )),
            "/api/retrieval/retrieve" => {
                let question = |maker: &str| json!({ "userInput": "MARKEDquestion", "fileIds": [file], "embeddingsProvider": maker, "sourceCount": 4 });
                add(ask(question("openai").to_string()));
                add(ask(question("local").to_string()));
            }
            "/api/username/available" => add(ask(json!({ "username": "MARKEDname" }).to_string())),
            "/api/username/get" => add(ask(json!({ "userId": user.id }).to_string())),
            "/api/usage" | "/api/assistants/openai" | "/api/keys" | "/healthz" | "/readyz" | "/openapi.json" | "/openapi-3.0.json" | "/api/docs" => add(ask(String::new())),
            other => panic!("{other}: say here how it is asked"),
        }
        if row.access == Access::User {
            // Invalid bodies and invalid sessions.
            add(ask("{\"MARKEDprompt\": MARKED".to_owned()));
            add(ask(
                json!({ "chatSettings": "MARKED", "messages": "MARKED", "userInput": 7, "input": null }).to_string()
            ));
            let bare = |header, value: String| {
                client
                    .request(row.method.as_str().parse().expect("a method"), format!("{url}{}", row.path))
                    .header(header, value)
            };
            add(bare(AUTHORIZATION, "Bearer MARKED.MARKED.MARKED".to_owned()));
            add(bare(
                COOKIE,
                "sb-127-auth-token={\"access_token\":\"MARKED\",\"refresh_token\":\"MARKED\"}".to_owned(),
            ));
        }
    }
    requests.push(("none".to_owned(), client.get(format!("{url}/api/MARKED?MARKED"))));
    requests
}

async fn run(weather: Weather, format: &str, keys_of_environment: bool) {
    let upstream = Upstream::start().await;
    upstream.script_any(vec![reply(weather)]);
    if matches!(weather, Weather::Fair | Weather::Refreshed) {
        let embeddings: Vec<f32> = vec![0.5; 1536];
        let one = json!({ "data": [{ "index": 0, "embedding": embeddings }] });
        upstream.tool(ANY, "/openai/embeddings", Reply::json(200, &one));
        let event = format!("data: {}\n\n", delta("MARKEDanswer"));
        upstream.tool(ANY, "/google", Reply::events(&[&event], Step::Wait(Duration::ZERO)));
        upstream.tool(ANY, "/openai/assistants", Reply::json(200, &json!({ "data": [{ "id": "MARKEDassistant" }] })));
        upstream.tool(
            ANY,
            "/storage/",
            Reply { steps: vec![Step::Write(b"MARKEDcontent of a file".to_vec())], ..Reply::default() },
        );
    }
    let address = if weather == Weather::Away { "http://127.0.0.1:9".to_owned() } else { upstream.url() };
    let database = postgres::database_with_ledger().await;
    let place = |name: &str| {
        (format!("{}_BASE_URL", name.to_uppercase().replace("GOOGLE", "GOOGLE_GEMINI")), format!("{address}/{name}"))
    };
    let mut settings: Vec<(String, String)> =
        ["openai", "groq", "mistral", "openrouter", "perplexity", "anthropic", "google"].map(place).into();
    let database_url = match weather {
        Weather::DatabaseAway => "postgresql://MARKEDrole:MARKEDpassword@127.0.0.1:9/MARKEDdatabase".to_owned(),
        _ => database.role_url.clone(),
    };
    settings.extend(
        [
            ("DATABASE_URL", database_url.as_str()),
            ("SUPABASE_URL", &address),
            ("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_MARKEDservice"),
            ("SUPABASE_ANON_KEY", ANON),
            ("SUPABASE_JWT_SECRET", tokens::SECRET),
            // So that a redirect to it is refused, not followed.
            ("PRIVATE_UPSTREAMS", "allow"),
            ("DATABASE_POOL_SIZE", "4"),
            ("RATE_LIMIT_PER_MINUTE", "100000"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let value = |column: &str| {
        if column == "azure_openai_endpoint" {
            format!("{address}/azure/MARKEDendpoint")
        } else if column.starts_with("azure") && column.ends_with("_id") {
            format!("MARKED-{column}")
        } else {
            format!("sk-MARKED+{column}/%\"")
        }
    };
    if keys_of_environment {
        // Two of each, where there may be.
        let more = |row: &credentials::Row| match row.takes_several() {
            true => format!("{0},{0}-sk-MARKEDsecond", value(row.column)),
            false => value(row.column),
        };
        settings.extend(credentials::TABLE.iter().map(|row| (row.variable.to_owned(), more(row))));
    }
    let redis = if weather == Weather::Fair { Redis::start("MARKEDredis").await } else { None };
    let redis_url = match (weather, &redis) {
        (Weather::Fair, Some(redis)) => Some(redis.url()),
        (Weather::WrongKey, _) => start_redis_that_refuses(),
        (Weather::Away, _) => Some("redis://MARKEDname:MARKEDredis@127.0.0.1:9/0".to_owned()),
        _ => None,
    };
    // The scripted provider speaks chat completions alone.
    settings.push(("MODEL_ALIASES".to_owned(), "off".to_owned()));
    settings.push(("MODELS".to_owned(), "openai:x=MARKEDmodel".to_owned()));
    settings.push(("MODEL_FALLBACKS".to_owned(), "gpt-4>claude-opus-5-5,x>google:gemini-3.8-flash".to_owned()));
    settings.extend(redis_url.map(|url| ("REDIS_URL".to_owned(), url)));
    let arguments: &[&str] = if weather == Weather::Fair { &["serve", "--playground"] } else { &["serve"] };
    let server = Server::start(arguments, &settings, format).await;
    // One for all: each of its own would read the certificates anew.
    let client = client();
    let ready =
        async || client.get(format!("{}/readyz", server.url)).send().await.expect("an answer").status().is_success();
    while weather != Weather::DatabaseAway && !ready().await {}
    let user = User::create(&database.pool, &[]).await;
    for row in &credentials::TABLE {
        let sql = format!("update public.profiles set {} = $1 where user_id = $2", row.column);
        let update = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(value(row.column)).bind(user.id);
        update.execute(&database.pool).await.expect(row.column);
    }
    let token = tokens::access_token(user.id, user.session);
    let expired = expired(&user);
    let sent = if weather == Weather::Refreshed { &expired } else { &token };
    let requests = requests(&client, &server.url, &user, sent, &database.pool, &address).await;
    let refreshed = AtomicUsize::new(0);
    let ask = async |(path, request): (String, RequestBuilder)| {
        let answer = request.send().await.expect("an answer");
        refreshed.fetch_add(usize::from(answer.headers().contains_key(SET_COOKIE)), Ordering::Relaxed);
        for (name, value) in answer.headers() {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            if let Some(shown) = show(&value, MARK).filter(|_| name != SET_COOKIE) {
                panic!("{weather:?}: {path}: {name}: {shown}");
            }
        }
        let status = answer.status().as_u16();
        // Cut off where the provider's was. A provider's own words may quote the key that it was shown.
        let body = answer.bytes().await.unwrap_or_default();
        let secrets: &[&str] = match weather {
            Weather::WrongKey | Weather::ErrorInStream => &["sb_secret_MARKED", "MARKEDpassword", "MARKEDredis"],
            _ => &["sk-MARKED", "sb_secret_MARKED", "MARKEDpassword", "MARKEDredis"],
        };
        for secret in secrets {
            let shown = memchr::memmem::find(&body, secret.as_bytes());
            assert_eq!(shown, None, "{weather:?}: {path}: {}", String::from_utf8_lossy(&body));
        }
        (path, status)
    };
    if weather == Weather::Refreshed {
        fail_to_refresh(&client, &server.url, &expired, &upstream).await;
        upstream.script_any(vec![reply(weather)]);
        let new = json!({ "access_token": token, "expires_in": 3600, "refresh_token": "MARKEDnext", "user": { "email": "MARKED@example.com" } });
        upstream.tool(ANY, "/auth/v1/token", Reply::json(200, &new));
    }
    // Without one, they wait for nothing but their time-outs.
    let at_once = if weather == Weather::DatabaseAway { 3 * AT_ONCE } else { AT_ONCE };
    let mut answers = stream::iter(requests).map(ask).buffer_unordered(at_once).collect::<Vec<_>>().await;
    if weather == Weather::Fair {
        upstream.tool(ANY, "/tool/", Reply::json(200, &json!({ "weather": "MARKEDresult" })));
        let more = self::requests(&client, &server.url, &user, sent, &database.pool, &address).await;
        for (path, request) in
            more.into_iter().filter(|(path, _)| ["/api/chat/tools", "/api/command"].contains(&&**path))
        {
            // One at a time, as each takes its turn of these.
            let then = (path == "/api/chat/tools").then(|| reply(weather));
            upstream.script_any([tool_call()].into_iter().chain(then).collect());
            answers.push(ask((path, request)).await);
        }
        let good: Vec<&str> =
            answers.iter().filter(|(_, status)| *status == 200).map(|(path, _)| path.as_str()).collect();
        for row in table::table() {
            assert!(good.contains(&row.path.as_str()), "{} never succeeded: {answers:?}", row.path);
        }
        look_at_the_playground(&client, &server.url).await;
    }
    assert_eq!(refreshed.into_inner() > 0, weather == Weather::Refreshed, "{answers:?}");
    if let Some(redis) = redis {
        let mut connection = redis.connect().await.expect("it runs");
        let said: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.expect("counts");
        let calls = said.split("cmdstat_eval:calls=").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("0");
        assert!(calls.parse::<usize>().expect("a number") > 20, "Redis was not asked: {said}");
    }

    let keys = client.get(format!("{}/readyz?verbose", server.url)).send().await.expect("an answer");
    let keys = keys.text().await.expect("text");
    assert!(show(&keys, MARK).is_none(), "{weather:?}: {keys}");
    if keys_of_environment && weather != Weather::DatabaseAway {
        let rests = keys.contains("resting");
        assert!(
            keys.contains(r#""provider":"openai""#) && (rests || weather != Weather::WrongKey),
            "{weather:?}: {keys}"
        );
    }
    let metrics = server.metrics().await;
    let written = server.stop().await;
    let away = matches!(weather, Weather::WrongKey | Weather::Away).then_some("is away: until it is back");
    for sentence in ["request_id", "listening on"].into_iter().chain(away) {
        assert!(written.contains(sentence), "{weather:?}: {sentence}: {written:.3000}");
    }
    let of = |token: &str| token.rsplit('.').next().expect("a signature").to_owned();
    let secrets = [MARK, &of(&token), &of(&expired), "only-for-tests", tokens::SECRET, ANON];
    for secret in secrets {
        for (place, text) in [("the log", &written), ("the metrics", &metrics)] {
            if let Some(shown) = show(text, secret) {
                panic!("{weather:?}, {format}: {secret} in {place}: {shown}");
            }
        }
    }
    assert!(!metrics.contains(&user.id.to_string()), "who asked is in the metrics");
}

fn expired(user: &User) -> String {
    let mut claims = tokens::claims(user.id, user.session);
    claims["exp"] = (jsonwebtoken::get_current_timestamp() - 5).into();
    tokens::sign(&claims, tokens::SECRET)
}

/// Sessions that the auth server refuses, each in another way.
async fn fail_to_refresh(client: &Client, url: &str, expired: &str, upstream: &Upstream) {
    let no_session = Reply { steps: vec![Step::Write(b"MARKED no session".to_vec())], ..Reply::default() };
    let half = json!({ "access_token": "MARKEDtoken", "refresh_token": "" });
    for (number, reply) in [
        Reply::json(400, &json!({ "code": "refresh_token_not_found", "msg": "MARKEDrefresh was not found" })),
        Reply::json(200, &half),
        Reply { end: End::Reset, ..no_session.clone() },
        no_session,
        reply(Weather::Redirected),
    ]
    .into_iter()
    .enumerate()
    {
        upstream.script_any(vec![reply]);
        let session = json!({ "access_token": expired, "refresh_token": format!("MARKEDrefresh{number}") });
        let request = client.get(format!("{url}/api/assistants/openai"));
        let answer = request.header(COOKIE, format!("sb-127-auth-token={session}")).send().await.expect("an answer");
        let words = message(answer).await.1;
        assert!(words == "User not found" || words.starts_with("The sign-in service is not available"), "{words}");
    }
    let refreshes = upstream.requests(ANY).iter().filter(|request| request.path.contains("/token")).count();
    assert_eq!(refreshes, 5, "the auth server was not asked");
}

/// The page shows what is public, and nothing of what came with the request.
async fn look_at_the_playground(client: &Client, url: &str) {
    for path in [
        "/",
        "/playground/settings.json",
        "/playground/models.json",
        "/playground/script.js",
        "/playground/style.css",
        "/playground/icon.svg",
    ] {
        let request = client.get(format!("{url}{path}?MARKEDquery")).header(COOKIE, "sb-127-auth-token=MARKEDcookie");
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        let shown = format!("{:?} {}", answer.headers().clone(), answer.text().await.expect("text"));
        for secret in [MARK, tokens::SECRET, "only-for-tests"] {
            assert!(show(&shown, secret).is_none(), "{path}: {secret}: {shown}");
        }
        assert_eq!(shown.contains(ANON), path == "/playground/settings.json", "{path}");
    }
}

/// A Redis to which the name and the password in its URL are wrong: it says so
/// with both.
fn start_redis_that_refuses() -> Option<String> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = socket.read(&mut buffer) {
                // Each command is an array.
                let commands = buffer[..count].iter().filter(|byte| **byte == b'*').count();
                let refusal = "-WRONGPASS MARKEDname with MARKEDredis is no pair of ours\r\n";
                if socket.write_all(refusal.repeat(commands).as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    Some(format!("redis://MARKEDname:MARKEDredis@127.0.0.1:{port}"))
}

#[tokio::test]
async fn nothing_secret_is_written_in_fair_weather() {
    tokio::join!(run(Weather::Fair, "json", true), run(Weather::Fair, "text", false));
}

#[tokio::test]
async fn nothing_secret_is_written_when_sessions_are_refreshed() {
    run(Weather::Refreshed, "json", false).await;
}

#[tokio::test]
async fn nothing_secret_is_written_when_providers_fail() {
    run(Weather::WrongKey, "text", true).await;
    run(Weather::ErrorInStream, "json", false).await;
    run(Weather::Reset, "text", false).await;
}

#[tokio::test]
async fn nothing_secret_is_written_when_servers_are_away() {
    tokio::join!(
        run(Weather::Redirected, "json", false),
        run(Weather::Away, "text", true),
        run(Weather::DatabaseAway, "json", true)
    );
}
