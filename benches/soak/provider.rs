//! A provider that does what providers do, good and bad. What it shall do
//! stands in the model's name (`soak/<what>/<request>/<words>`), and whom it
//! answers in the key, so that every answer says whose it is.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// It closes what is idle, so that the server's pool of connections to it is
/// empty when nobody asks.
const IDLE: Duration = Duration::from_secs(2);
/// One line without an end, more than the server takes.
const HUGE: usize = 20 * 1024 * 1024;
const SSE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The answer's text, as the provider sends it and the client expects it.
pub fn text(user: &str, request: &str, words: usize) -> String {
    (0..words).map(|word| format!("{user} asked {request}: wörd {word} ✓, ")).collect()
}

/// Serves for good.
pub async fn serve(listener: TcpListener) {
    let refused = Arc::new(Mutex::new(HashSet::new()));
    loop {
        if let Ok((connection, _)) = listener.accept().await {
            let refused = refused.clone();
            tokio::spawn(async move {
                // Whoever leaves ends the conversation.
                let _ = converse(connection, &refused).await;
            });
        }
    }
}

struct Asked {
    user: String,
    what: String,
    request: String,
    words: usize,
}

async fn converse(mut connection: TcpStream, refused: &Mutex<HashSet<String>>) -> io::Result<()> {
    connection.set_nodelay(true)?;
    loop {
        let Ok(asked) = timeout(IDLE, read(&mut connection)).await else { return Ok(()) };
        let asked = asked?;
        if !answer(&mut connection, &asked, refused).await? {
            return Ok(());
        }
    }
}

async fn read(connection: &mut TcpStream) -> io::Result<Asked> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if connection.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let headers = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let header = |name: &str| headers.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: usize = header("content-length:").and_then(|text| text.parse().ok()).ok_or_else(broken)?;
    while bytes.len() < head + length {
        if connection.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let body: Value = serde_json::from_slice(&bytes[head..]).map_err(|_| broken())?;
    let user = header("authorization: bearer sk-soak-").ok_or_else(broken)?.to_owned();
    let parts: Vec<&str> = body["model"].as_str().ok_or_else(broken)?.split('/').collect();
    let [_, what, request, words] = parts.as_slice() else { return Err(broken()) };
    let words = words.parse().map_err(|_| broken())?;
    Ok(Asked { user, what: (*what).to_owned(), request: (*request).to_owned(), words })
}

/// Sends a response, and returns true if the connection can be reused.
async fn answer(connection: &mut TcpStream, asked: &Asked, refused: &Mutex<HashSet<String>>) -> io::Result<bool> {
    match asked.what.as_str() {
        "busy" if refused.lock().expect("no panic").insert(asked.request.clone()) => {
            let busy =
                "HTTP/1.1 429 \r\nretry-after: 1\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
            connection.write_all(busy.as_bytes()).await?;
        }
        "busy" => {
            refused.lock().expect("no panic").remove(&asked.request);
            stream(connection, asked, Duration::ZERO).await?;
        }
        "normal" => stream(connection, asked, Duration::ZERO).await?,
        "slow" => stream(connection, asked, Duration::from_millis(150)).await?,
        "broken" => {
            let body = json!({ "error": { "message": "broken on purpose" } }).to_string();
            let head =
                format!("HTTP/1.1 500 \r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
            connection.write_all(format!("{head}{body}").as_bytes()).await?;
        }
        "garbage" => {
            connection.write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n").await?;
            return Ok(false);
        }
        "gzip" => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ncontent-length: 20\r\n\r\n";
            connection.write_all(head.as_bytes()).await?;
            connection.write_all(b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x49\x2c\x49\0\xff\0\xfe\0\0").await?;
        }
        "half" => {
            connection.write_all(SSE.as_bytes()).await?;
            chunk(connection, &delta(&text(&asked.user, &asked.request, 1))).await?;
            sleep(Duration::from_millis(20)).await;
            connection.set_zero_linger()?;
            return Ok(false);
        }
        "silent-before-head" => forever(connection).await?,
        "silent-before-event" => {
            connection.write_all(SSE.as_bytes()).await?;
            forever(connection).await?;
        }
        "silent-between" => {
            connection.write_all(SSE.as_bytes()).await?;
            chunk(connection, &delta(&text(&asked.user, &asked.request, 1))).await?;
            forever(connection).await?;
        }
        "endless" => {
            connection.write_all(SSE.as_bytes()).await?;
            let much = delta(&"much ".repeat(2000));
            loop {
                chunk(connection, &much).await?;
            }
        }
        "huge-line" => {
            connection.write_all(SSE.as_bytes()).await?;
            chunk(connection, b"data: ").await?;
            let part = vec![b'x'; 64 * 1024];
            for _ in 0..HUGE / part.len() {
                chunk(connection, &part).await?;
            }
            forever(connection).await?;
        }
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    Ok(true)
}

/// Until the other side leaves.
async fn forever(connection: &mut TcpStream) -> io::Result<()> {
    while connection.read(&mut [0; 64]).await? > 0 {}
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn delta(text: &str) -> Vec<u8> {
    format!("data: {}\n\n", json!({ "choices": [{ "delta": { "content": text } }] })).into_bytes()
}

async fn chunk(connection: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    connection.write_all(&chunk).await
}

/// All words, torn where nobody expects it.
async fn stream(connection: &mut TcpStream, asked: &Asked, pace: Duration) -> io::Result<()> {
    let mut random = StdRng::seed_from_u64(asked.words as u64);
    connection.write_all(SSE.as_bytes()).await?;
    let text = text(&asked.user, &asked.request, asked.words);
    let mut events: Vec<u8> = text.split_inclusive(' ').flat_map(delta).collect();
    events.extend_from_slice(b"data: [DONE]\n\n");
    let mut rest = events.as_slice();
    while !rest.is_empty() {
        let length = if random.random_bool(0.1) { 1 } else { random.random_range(1..3000) };
        let (part, others) = rest.split_at(length.min(rest.len()));
        chunk(connection, part).await?;
        rest = others;
        if !pace.is_zero() {
            sleep(pace).await;
        }
    }
    connection.write_all(b"0\r\n\r\n").await
}
