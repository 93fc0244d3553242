//! Clients of every kind. Each performs one action and checks the result.

use std::{
    fmt,
    time::{Duration, Instant},
};

use futures::StreamExt;
use rand::{RngExt, rngs::StdRng};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::{
    provider,
    world::{MAX_BODY_BYTES, User, World},
};

/// Longer than any action may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The action of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Events,
    Slow,
    Custom,
    Cheap,
    AskedAgain,
    ProviderFails,
    ProviderGarbage,
    ProviderGzip,
    ProviderBreaks,
    HugeLine,
    LeavesBeforeHead,
    LeavesBeforeEvent,
    LeavesBetween,
    NeverReads,
    SlowHead,
    HalfABody,
    Pipelines,
    Malformed,
    Forged,
    Expired,
    Oversized,
    UsageForever,
    References,
    ManyValues,
    FormNames,
    Stranger,
}

/// Frequency per thousand, and the name.
const KINDS: [(Kind, u32, &str); 27] = [
    (Kind::Text, 350, "reads text"),
    (Kind::Events, 110, "reads events"),
    (Kind::Slow, 60, "reads a slow one"),
    (Kind::Custom, 80, "asks a custom model"),
    (Kind::Cheap, 80, "asks for names and keys"),
    (Kind::AskedAgain, 30, "provider is busy once"),
    (Kind::ProviderFails, 10, "provider fails"),
    (Kind::ProviderGarbage, 10, "provider sends garbage"),
    (Kind::ProviderGzip, 20, "provider sends gzip"),
    (Kind::ProviderBreaks, 30, "provider breaks off"),
    (Kind::HugeLine, 2, "provider's huge line"),
    (Kind::LeavesBeforeHead, 30, "leaves before the head"),
    (Kind::LeavesBeforeEvent, 30, "leaves before an event"),
    (Kind::LeavesBetween, 30, "leaves between events"),
    (Kind::NeverReads, 10, "never reads"),
    (Kind::SlowHead, 10, "sends a slow head"),
    (Kind::HalfABody, 10, "sends half a body"),
    (Kind::Pipelines, 20, "pipelines"),
    (Kind::Malformed, 28, "sends broken JSON"),
    (Kind::Forged, 20, "shows a forged token"),
    (Kind::Expired, 20, "shows an old token"),
    (Kind::Oversized, 10, "sends too much"),
    (Kind::UsageForever, 5, "model sends only usage"),
    (Kind::References, 5, "tool of references"),
    (Kind::ManyValues, 5, "sends very many values"),
    (Kind::FormNames, 5, "sends a form of names"),
    (Kind::Stranger, 10, "stranger sends a body"),
];

impl Kind {
    /// Returns each kind in turn.
    pub fn number(number: usize) -> Self {
        KINDS[number % KINDS.len()].0
    }

    pub fn any(random: &mut StdRng) -> Self {
        let mut at = random.random_range(0..KINDS.iter().map(|(_, weight, _)| weight).sum());
        for (kind, weight, _) in KINDS {
            if at < weight {
                return kind;
            }
            at -= weight;
        }
        Self::Text
    }

    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or("", |(.., name)| name)
    }
}

/// An unexpected result.
pub enum Wrong {
    /// An unexpected status, with the body.
    Status(u16, String),
    Other(String),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status, body) => write!(f, "status {status}: {body:.200}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl From<reqwest::Error> for Wrong {
    fn from(error: reqwest::Error) -> Self {
        Self::Other(format!("{error:?}"))
    }
}

impl From<std::io::Error> for Wrong {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

/// Performs one action.
pub async fn act(world: &World, user: usize, kind: Kind, random: &mut StdRng) -> Result<(), Wrong> {
    let client = Client { world, user: &world.users[user] };
    match timeout(PATIENCE, client.act(kind, random)).await {
        Ok(result) => result,
        Err(_) => Err(Wrong::Other(format!("nothing came of it in {PATIENCE:?}"))),
    }
}

struct Client<'a> {
    world: &'a World,
    user: &'a User,
}

/// A request of a client: the provider's behaviour, and the text that it then sends.
struct Ask {
    body: String,
    expected: String,
}

impl Client<'_> {
    async fn act(&self, kind: Kind, random: &mut StdRng) -> Result<(), Wrong> {
        match kind {
            Kind::Text => self.whole("openai", &self.ask("normal", random.random_range(1..400))).await,
            Kind::Slow => self.whole("openai", &self.ask("slow", random.random_range(20..60))).await,
            Kind::Custom => self.whole("custom", &self.ask("normal", random.random_range(1..100))).await,
            Kind::AskedAgain => self.whole("openai", &self.ask("busy", 20)).await,
            Kind::Events => self.events(&self.ask("normal", random.random_range(1..200))).await,
            Kind::Cheap => self.cheap().await,
            Kind::ProviderFails => self.refused("broken", 500).await,
            Kind::ProviderGarbage => self.refused("garbage", 500).await,
            Kind::ProviderGzip => self.refused("gzip", 502).await,
            Kind::HugeLine => self.refused("huge-line", 502).await,
            Kind::ProviderBreaks => self.broken().await,
            Kind::LeavesBeforeHead => self.leave("silent-before-head", random).await,
            Kind::LeavesBeforeEvent => self.leave("silent-before-event", random).await,
            Kind::LeavesBetween => self.leave("silent-between", random).await,
            Kind::NeverReads => self.never_read(random).await,
            Kind::SlowHead => self.slow_head(random).await,
            Kind::HalfABody => self.half_a_body(random).await,
            Kind::Pipelines => self.pipeline().await,
            Kind::Malformed => {
                let body = ["{", "[]", "null", "{\"messages\":7}", "\u{0}"][random.random_range(0..5)];
                expect(self.post("/api/chat/openai", &self.user.token).body(body), &[400]).await
            }
            Kind::Forged => {
                let token = format!("{}x", self.user.token.trim_end_matches(char::is_alphanumeric));
                expect(self.post("/api/chat/openai", &token).body(self.ask("normal", 1).body), &[401]).await
            }
            Kind::Expired => {
                let request = self.post("/api/chat/openai", &self.user.expired);
                expect(request.body(self.ask("normal", 1).body), &[401]).await
            }
            Kind::Oversized => self.oversized().await,
            Kind::UsageForever => {
                let request = self.post("/api/chat/custom", &self.user.token).body(self.ask("usage", 1).body);
                expect(request, &[502]).await
            }
            Kind::References => {
                let request = self.post("/api/chat/tools", &self.user.token).body(self.references());
                expect(request, &[400]).await
            }
            Kind::ManyValues => {
                let content = format!("[{}0]", "[],".repeat(250_000));
                let body =
                    format!(r#"{{"chatSettings":{{"model":"m"}},"messages":[{{"role":"user","content":{content}}}]}}"#);
                expect(self.post("/api/chat/openai", &self.user.token).body(body), &[400]).await
            }
            Kind::FormNames => {
                let part = "--b\r\ncontent-disposition: form-data; name=\"n\"\r\n\r\n\r\n".repeat(1000);
                let request = self.post("/api/retrieval/process", &self.user.token);
                let request = request.header("content-type", "multipart/form-data; boundary=b");
                expect(request.body(format!("{part}--b--\r\n")), &[500]).await
            }
            // Answered before the body is read, and the connection closed.
            Kind::Stranger => {
                let request = self.post("/api/chat/openai", "made.up.token").body(" ".repeat(MAX_BODY_BYTES));
                match request.send().await {
                    Ok(answer) => with_status(answer, &[401]).await.map(drop),
                    Err(_) => Ok(()),
                }
            }
        }
    }

    fn post(&self, path: &str, token: &str) -> RequestBuilder {
        self.world.http.post(self.world.url(path)).header("authorization", format!("Bearer {token}"))
    }

    fn ask(&self, what: &str, words: usize) -> Ask {
        let request = Uuid::new_v4().simple().to_string();
        let body = json!({
            "chatSettings": { "model": format!("soak/{what}/{request}/{words}"), "temperature": 0.5 },
            "messages": [{ "role": "user", "content": "Say something" }],
            "customModelId": self.user.custom_model,
        });
        Ask { body: body.to_string(), expected: provider::text(&self.user.name, &request, words) }
    }

    /// A chat with a tool whose references fan out: each schema has the next one ten times, in many operations.
    fn references(&self) -> String {
        let next = |level: usize| json!({ "$ref": format!("#/components/schemas/s{level}") });
        let schemas: serde_json::Map<String, Value> =
            (0..30).map(|level| (format!("s{level}"), json!({ "anyOf": vec![next(level + 1); 10] }))).collect();
        let operation = json!({ "requestBody": { "content": { "application/json": { "schema": next(0) } } } });
        let paths: serde_json::Map<String, Value> =
            (0..100).map(|number| (format!("/{number}"), json!({ "post": operation }))).collect();
        let document = json!({
            "openapi": "3.0.0", "servers": [{ "url": "http://127.0.0.1:9" }], "paths": paths, "components": { "schemas": schemas },
        });
        let mut body: Value = serde_json::from_str(&self.ask("normal", 1).body).unwrap_or_default();
        body["selectedTools"] = json!([{ "name": "T", "schema": document.to_string() }]);
        body.to_string()
    }

    /// Expects an answer that is complete, exact and for this user.
    async fn whole(&self, route: &str, ask: &Ask) -> Result<(), Wrong> {
        let request = self.post(&format!("/api/chat/{route}"), &self.user.token).body(ask.body.clone());
        let answer = with_status(request.send().await?, &[200]).await?;
        compare(&answer.text().await?, &ask.expected)
    }

    async fn events(&self, ask: &Ask) -> Result<(), Wrong> {
        let request = self.post("/api/chat/openai", &self.user.token).header("accept", "text/event-stream");
        let answer = with_status(request.body(ask.body.clone()).send().await?, &[200]).await?;
        let events = answer.text().await?;
        let mut text = String::new();
        for data in events.split("\n\n").filter_map(|event| event.strip_prefix("event: delta\ndata: ")) {
            let data: Value = serde_json::from_str(data).map_err(|error| Wrong::Other(error.to_string()))?;
            text += data["text"].as_str().unwrap_or_default();
        }
        if !events.contains("event: done\ndata: {") {
            return Err(Wrong::Other("the events have no end".to_owned()));
        }
        compare(&text, &ask.expected)
    }

    async fn cheap(&self) -> Result<(), Wrong> {
        for path in ["/api/keys", "/healthz"] {
            expect(self.world.http.get(self.world.url(path)), &[200]).await?;
        }
        let request = self.post("/api/username/available", &self.user.token);
        expect(request.body(r#"{"username":"nobody has it"}"#), &[200]).await
    }

    async fn refused(&self, what: &str, status: u16) -> Result<(), Wrong> {
        expect(self.post("/api/chat/openai", &self.user.token).body(self.ask(what, 1).body), &[status]).await
    }

    /// Expects an answer that begins and does not end as if it were complete.
    async fn broken(&self) -> Result<(), Wrong> {
        let ask = self.ask("half", 1);
        let request = self.post("/api/chat/openai", &self.user.token).body(ask.body);
        let mut stream = with_status(request.send().await?, &[200]).await?.bytes_stream();
        let mut text = Vec::new();
        while let Some(part) = stream.next().await {
            match part {
                Ok(part) => text.extend_from_slice(&part),
                Err(_) => return compare(&String::from_utf8_lossy(&text), &ask.expected),
            }
        }
        Err(Wrong::Other("half an answer looks whole".to_owned()))
    }

    async fn leave(&self, what: &str, random: &mut StdRng) -> Result<(), Wrong> {
        let mut connection = self.begin(&self.ask(what, 1).body, 1).await?;
        let stays = Duration::from_millis(random.random_range(10..1500));
        let mut seen = Vec::new();
        let _ = timeout(stays, async { while connection.read_buf(&mut seen).await.unwrap_or(0) > 0 {} }).await;
        drop(connection);
        status_of(&seen, &[200])
    }

    async fn never_read(&self, random: &mut StdRng) -> Result<(), Wrong> {
        let connection = self.begin(&self.ask("endless", 1).body, 1).await?;
        sleep(Duration::from_millis(random.random_range(500..5000))).await;
        drop(connection);
        Ok(())
    }

    /// Sends a byte from time to time, until the server closes the connection.
    async fn slow_head(&self, random: &mut StdRng) -> Result<(), Wrong> {
        let mut connection = TcpStream::connect(self.world.address).await?;
        let leaves = Instant::now() + Duration::from_millis(random.random_range(500..20_000));
        for byte in b"POST /api/chat/openai HTTP/1.1\r\nhost: x\r\nx-slow: ".iter().chain([b'x'; 500].iter()) {
            if Instant::now() > leaves || connection.write_all(&[*byte]).await.is_err() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn half_a_body(&self, random: &mut StdRng) -> Result<(), Wrong> {
        let connection = self.begin(&self.ask("normal", 1).body, 2).await?;
        sleep(Duration::from_millis(random.random_range(10..3000))).await;
        drop(connection);
        Ok(())
    }

    async fn pipeline(&self) -> Result<(), Wrong> {
        let mut connection = TcpStream::connect(self.world.address).await?;
        let one = "GET /api/keys HTTP/1.1\r\nhost: x\r\n\r\n";
        let last = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        connection.write_all(format!("{one}{one}{one}{last}").as_bytes()).await?;
        let mut seen = Vec::new();
        connection.read_to_end(&mut seen).await?;
        let seen = String::from_utf8_lossy(&seen);
        if seen.matches("HTTP/1.1 200 OK").count() == 4 && seen.ends_with(r#"{"status":"ok"}"#) {
            return Ok(());
        }
        Err(Wrong::Other(format!("four requests at once: {seen:.300}")))
    }

    /// Sends more than `MAX_BODY_BYTES`: expects 413, or a connection that is closed while the client still sends.
    async fn oversized(&self) -> Result<(), Wrong> {
        let request = self.post("/api/chat/openai", &self.user.token).body(vec![b' '; MAX_BODY_BYTES * 2]);
        match request.send().await {
            Ok(answer) => with_status(answer, &[413]).await.map(drop),
            Err(_) => Ok(()),
        }
    }

    /// Sends a chat's head and `1 / part` of its body.
    async fn begin(&self, body: &str, part: usize) -> Result<TcpStream, Wrong> {
        let mut connection = TcpStream::connect(self.world.address).await?;
        let head = format!(
            "POST /api/chat/openai HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
            self.user.token,
            body.len()
        );
        connection.write_all(head.as_bytes()).await?;
        connection.write_all(&body.as_bytes()[..body.len() / part]).await?;
        Ok(connection)
    }
}

async fn expect(request: RequestBuilder, statuses: &[u16]) -> Result<(), Wrong> {
    with_status(request.send().await?, statuses).await?.bytes().await?;
    Ok(())
}

async fn with_status(answer: Response, statuses: &[u16]) -> Result<Response, Wrong> {
    let status = answer.status().as_u16();
    if statuses.contains(&status) {
        return Ok(answer);
    }
    Err(Wrong::Status(status, answer.text().await.unwrap_or_default()))
}

/// Checks the status line at the beginning of the bytes read, if any.
fn status_of(seen: &[u8], statuses: &[u16]) -> Result<(), Wrong> {
    let text = String::from_utf8_lossy(seen);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    match status {
        Some(status) if !statuses.contains(&status) => Err(Wrong::Status(status, text.into_owned())),
        _ => Ok(()),
    }
}

/// Describes the first difference, and whose answer it was.
fn compare(text: &str, expected: &str) -> Result<(), Wrong> {
    if text == expected {
        return Ok(());
    }
    let same = text.bytes().zip(expected.bytes()).take_while(|(one, other)| one == other).count();
    let whose = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    Err(Wrong::Other(format!(
        "{} got {} of {} bytes of an answer to {}, right up to byte {same}",
        whose(expected),
        text.len(),
        expected.len(),
        whose(text)
    )))
}
