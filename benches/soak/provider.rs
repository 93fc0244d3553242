//! The soak's provider: every kind of conduct, good and bad. A request's conduct is in the model's name
//! (`soak/<what>/<request>/<words>`) and its user in the key, so that every answer says whose it is.

use std::{collections::HashSet, sync::Mutex, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::upstream::{End, Recorded, Reply, Step, Upstream};

/// Time until it closes an idle connection, so that the server's pool of connections to it is empty once the traffic is
/// over.
const IDLE: Duration = Duration::from_secs(2);
/// One line without an end, more than the server takes.
const HUGE: usize = 20 * 1024 * 1024;

/// The answer's text, as the provider sends it and the client expects it.
pub fn text(user: &str, request: &str, words: usize) -> String {
    (0..words).map(|word| format!("{user} asked {request}: wörd {word} ✓, ")).collect()
}

/// Runs until it is dropped.
pub fn start() -> Upstream {
    let refused = Mutex::new(HashSet::new());
    Upstream::answering_for_long(IDLE, move |request| {
        // Anything else is a mistake of the server under test, which its client notices.
        answer(request, &refused).unwrap_or_else(|| Reply { end: End::Refuse, ..Reply::default() })
    })
}

/// Parses a request; `None` if it is not one of the soak's.
fn answer(request: &Recorded, refused: &Mutex<HashSet<String>>) -> Option<Reply> {
    let user = request.key.strip_prefix("sk-soak-")?;
    let body: Value = serde_json::from_slice(&request.body).ok()?;
    let parts: Vec<&str> = body["model"].as_str()?.split('/').collect();
    let [_, what, id, words] = parts.as_slice() else { return None };
    let words = words.parse().ok()?;
    let first = delta(&text(user, id, 1));
    Some(match *what {
        "busy" if refused.lock().expect("no panic").insert((*id).to_owned()) => {
            let busy = Reply::json(429, &json!({}));
            Reply { headers: [busy.headers, vec![("retry-after".to_owned(), "1".to_owned())]].concat(), ..busy }
        }
        "busy" => {
            refused.lock().expect("no panic").remove(*id);
            torn(user, id, words, Duration::ZERO)
        }
        "normal" => torn(user, id, words, Duration::ZERO),
        "slow" => torn(user, id, words, Duration::from_millis(150)),
        "broken" => Reply::json(500, &json!({ "error": { "message": "broken on purpose" } })),
        "garbage" => Reply::raw(b"\x16\x03\x01 this is no HTTP\r\n\r\n"),
        "gzip" => {
            let compressed = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x49\x2c\x49\0\xff\0\xfe\0\0".to_vec();
            let mut reply = stream([Step::Write(compressed)]);
            reply.headers.push(("content-encoding".to_owned(), "gzip".to_owned()));
            reply
        }
        "half" => Reply { end: End::Reset, ..stream([Step::Write(first)]) },
        "silent-before-head" => Reply::silent(),
        "silent-before-event" => stream([Step::WaitForever]),
        "silent-between" => stream([Step::Write(first), Step::WaitForever]),
        "endless" => stream([Step::Repeat(delta(&"much ".repeat(2000)), usize::MAX)]),
        "usage" => {
            let usage = format!("data: {{\"choices\":[],\"usage\":{{\"x\":\"{}\"}}}}\n\n", "x".repeat(8000));
            stream([Step::Repeat(usage.into_bytes(), usize::MAX)])
        }
        "huge-line" => {
            let part = vec![b'x'; 64 * 1024];
            let times = HUGE / part.len();
            stream([Step::Write(b"data: ".to_vec()), Step::Repeat(part, times), Step::WaitForever])
        }
        _ => return None,
    })
}

fn stream(steps: impl IntoIterator<Item = Step>) -> Reply {
    Reply { steps: steps.into_iter().collect(), ..Reply::default() }
}

fn delta(text: &str) -> Vec<u8> {
    format!("data: {}\n\n", json!({ "choices": [{ "delta": { "content": text } }] })).into_bytes()
}

/// Returns all words, in chunks with arbitrary boundaries.
fn torn(user: &str, request: &str, words: usize, pace: Duration) -> Reply {
    let mut random = StdRng::seed_from_u64(words as u64);
    let text = text(user, request, words);
    let mut events: Vec<u8> = text.split_inclusive(' ').flat_map(delta).collect();
    events.extend_from_slice(b"data: [DONE]\n\n");
    let (mut steps, mut rest) = (Vec::new(), events.as_slice());
    while !rest.is_empty() {
        let length = if random.random_bool(0.1) { 1 } else { random.random_range(1..3000) };
        let (part, others) = rest.split_at(length.min(rest.len()));
        steps.push(Step::Write(part.to_vec()));
        if !pace.is_zero() {
            steps.push(Step::Wait(pace));
        }
        rest = others;
    }
    stream(steps)
}
