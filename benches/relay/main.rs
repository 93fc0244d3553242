//! The cost of the relay, next to nginx as a plain proxy and to no proxy at all: `cargo bench --bench relay`. Takes
//! about eight minutes; `ROUNDS=1` takes four, `ONLY=paced` (or another word of a row) one part of it, `ONLY=far` the
//! one with a database and a provider that are not on this machine.
//!
//! Everything runs on this machine: a scripted provider, a Postgres, the release server with the session check and the
//! database read in each request, and, where it is installed, nginx in front of the same provider with buffering off.
//! `BESIDE=name=path,name=path` adds other builds of this server, `PEER=host:port` another gateway. The provider and
//! the clients share one process and two threads. Rounds alternate between the servers, and the table has the median
//! round of each; figures move with the machine, the ratios less so.

mod distance;
mod far;
mod load;
#[path = "../../tests/api/support/pgbouncer.rs"]
mod pgbouncer;
#[path = "../../tests/support/ports.rs"]
mod ports;
mod process;
#[path = "../../tests/support/programs.rs"]
mod programs;
mod provider;
mod stand;

use std::time::{Duration, Instant};

use load::{Seen, Target, Until};
use process::Process;
use provider::{Habits, Provider, Script};
use stand::{NGINX, OURS, Server, Stand};

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn say(words: &str) {
    println!("{words}");
}

fn main() {
    // A stream takes two descriptors of the server and two of this process.
    let _ = rlimit::increase_nofile_limit(65_536);
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let only = std::env::var("ONLY").unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if "far".contains(&only) {
            far::measure().await;
        }
        if only == "far" {
            return;
        }
        // One for all stands, so that a peer finds it.
        let port = std::env::var("PROVIDER_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(0);
        let provider = Provider::start(Habits { port, closes_after: None }).expect("a provider");
        let mut stand = Stand::start(&say, &provider).await;
        say(&stand.machine());
        if !stand.servers.iter().any(|server| server.name == NGINX) {
            say("nginx is not installed, so it is left out (Debian: apt-get install nginx-light)");
        }
        let names = stand.servers.iter().map(|server| server.name.clone());
        let ratios = ratios(&stand.servers).into_iter().map(|(name, ..)| name);
        let columns: Vec<_> = names.chain(ratios).collect();
        say(&format!("\n| | {} |", columns.join(" | ")));
        say(&format!("|---|{}", "---|".repeat(columns.len())));
        for held in HELD.iter().filter(|held| "held".contains(&only) || held.name.contains(&only)) {
            hold(&stand, held).await;
            // Their memory stays with the allocator: new servers for the next.
            stand.stop().await;
            stand = Stand::start(&say, &provider).await;
        }
        rest(&stand, "memory after the start, MB").await;
        for case in CASES.iter().filter(|case| case.name.contains(&only)) {
            streams(&stand, case, rounds).await;
        }
        rest(&stand, "memory ten seconds after the end, MB").await;
        stand.stop().await;
    });
}

/// Streams that clients read.
struct Case {
    name: &'static str,
    wire: Wire,
    connections: usize,
    script: Script,
    until: Until,
    rows: &'static [Row],
}

/// Transport to the provider.
#[derive(Clone, Copy)]
enum Wire {
    Plain,
    Tls,
}

impl Server {
    fn target(&self, wire: Wire) -> Option<&Target> {
        match wire {
            Wire::Plain => Some(&self.plain),
            Wire::Tls => self.tls.as_ref(),
        }
    }
}

/// The figures shown for a case.
#[derive(Clone, Copy)]
enum Row {
    Cpu,
    First,
    Delay,
    Rate,
    Peak,
    /// Processor time for each request rather than each chunk.
    Request,
}

const fn paced(name: &'static str, wire: Wire, connections: usize, chunks: usize, interval: u64) -> Case {
    let script = Script::Paced { chunks, interval: Duration::from_millis(interval) };
    let rows = &[Row::Cpu, Row::Delay, Row::First, Row::Peak];
    Case { name, wire, connections, script, until: Until::Streams(1), rows }
}

const fn burst(name: &'static str, wire: Wire, connections: usize) -> Case {
    let script = Script::Burst { chunks: 1000, together: 16 };
    Case {
        name,
        wire,
        connections,
        script,
        until: Until::Time(Duration::from_secs(3)),
        rows: &[Row::Cpu, Row::Rate, Row::Peak],
    }
}

const fn short(name: &'static str, wire: Wire, connections: usize, until: Until) -> Case {
    let script = Script::Burst { chunks: 1, together: 1 };
    Case { name, wire, connections, script, until, rows: &[Row::First, Row::Rate, Row::Request] }
}

const CASES: [Case; 14] = [
    short("short answers, 1 at a time", Wire::Plain, 1, Until::Streams(2000)),
    short("short answers, 32 at a time", Wire::Plain, 32, Until::Time(Duration::from_secs(3))),
    paced("paced, 1 stream of 100 chunks/s", Wire::Plain, 1, 500, 10),
    paced("paced, 32 streams of 100 chunks/s", Wire::Plain, 32, 500, 10),
    paced("paced, 256 streams of 20 chunks/s", Wire::Plain, 256, 100, 50),
    paced("paced, 1,000 streams of 20 chunks/s", Wire::Plain, 1000, 100, 50),
    burst("burst, 1 stream", Wire::Plain, 1),
    burst("burst, 32 streams", Wire::Plain, 32),
    burst("burst, 256 streams", Wire::Plain, 256),
    burst("burst, 1,000 streams", Wire::Plain, 1000),
    short("TLS, short answers, 1 at a time", Wire::Tls, 1, Until::Streams(2000)),
    paced("TLS, paced, 32 streams of 100 chunks/s", Wire::Tls, 32, 500, 10),
    paced("TLS, paced, 1,000 streams of 20 chunks/s", Wire::Tls, 1000, 100, 50),
    burst("TLS, burst, 32 streams", Wire::Tls, 32),
];

/// Streams that clients hold open without reading.
struct Held {
    name: &'static str,
    wire: Wire,
    connections: usize,
    script: Script,
}

const FLOOD: Script = Script::Flood { bytes: 200_000_000 };

const HELD: [Held; 4] = [
    Held { name: "2,000 idle streams", wire: Wire::Plain, connections: 2000, script: Script::Silent },
    Held { name: "40 readers that do not read", wire: Wire::Plain, connections: 40, script: FLOOD },
    Held { name: "TLS, 2,000 idle streams", wire: Wire::Tls, connections: 2000, script: Script::Silent },
    Held { name: "TLS, 40 readers that do not read", wire: Wire::Tls, connections: 40, script: FLOOD },
];

/// The results of one server in one round.
struct Round {
    seen: Seen,
    took: Duration,
    /// Nanoseconds of processor time; `None` without a server.
    cpu: Option<u64>,
    peak: Option<u64>,
}

async fn streams(stand: &Stand, case: &Case, rounds: usize) {
    let chunks = match case.script {
        Script::Paced { chunks, .. } | Script::Burst { chunks, .. } => chunks,
        Script::Silent | Script::Flood { .. } => 0,
    };
    let mut all: Vec<Vec<Round>> = stand.servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (server, done) in stand.servers.iter().zip(&mut all) {
            let Some(target) = server.target(case.wire) else { continue };
            stand.provider.play(Script::Burst { chunks: 1, together: 1 });
            load::run(target, case.connections.min(32), 1, Until::Streams(5)).await;
            stand.provider.play(case.script);
            if let Some(process) = &server.process {
                process.forget_peak();
            }
            let (before, started) = (server.process.as_ref().map(Process::cpu), Instant::now());
            let seen = load::run(target, case.connections, chunks, case.until).await;
            let cpu = server.process.as_ref().zip(before).map(|(process, before)| process.cpu() - before);
            let peak = server.process.as_ref().map(Process::peak);
            done.push(Round { seen, took: started.elapsed(), cpu, peak });
        }
    }
    for row in case.rows {
        for (what, value) in row.values() {
            let figures = all.iter().map(|rounds| median(rounds.iter().map(&value).collect()));
            line(&stand.servers, &format!("{}: {what}", case.name), &figures.collect::<Vec<_>>());
        }
    }
    for (server, rounds) in stand.servers.iter().zip(&all) {
        let errors: usize = rounds.iter().map(|round| round.seen.errors).sum();
        if errors > 0 {
            say(&format!("| {}: {errors} streams FAILED through {} |", case.name, server.name));
        }
    }
}

/// A row of the servers' memory while they rest.
async fn rest(stand: &Stand, what: &str) {
    tokio::time::sleep(Duration::from_secs(10)).await;
    let figures = stand.servers.iter().map(|server| Some(server.process.as_ref()?.resident() as f64 / 1e6));
    line(&stand.servers, what, &figures.collect::<Vec<_>>());
}

type Value = fn(&Round) -> Option<f64>;

impl Row {
    fn values(self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Cpu => {
                vec![("CPU, µs a chunk", |round| Some(round.cpu? as f64 / 1000.0 / round.seen.delay.len() as f64))]
            }
            Self::Request => {
                vec![("CPU, µs a request", |round| Some(round.cpu? as f64 / 1000.0 / round.seen.streams as f64))]
            }
            Self::First => vec![
                ("first text, p50 ms", |round| quantile(&round.seen.first, 0.5)),
                ("first text, p99 ms", |round| quantile(&round.seen.first, 0.99)),
            ],
            Self::Delay => vec![
                ("delay, p50 ms", |round| quantile(&round.seen.delay, 0.5)),
                ("delay, p99 ms", |round| quantile(&round.seen.delay, 0.99)),
            ],
            Self::Rate => {
                vec![("answers a second", |round| Some(round.seen.streams as f64 / round.took.as_secs_f64()))]
            }
            Self::Peak => vec![("memory at most, MB", |round| Some(round.peak? as f64 / 1e6))],
        }
    }
}

/// Returns a quantile in milliseconds.
fn quantile(values: &[u64], at: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let index = ((sorted.len() as f64 * at) as usize).min(sorted.len().checked_sub(1)?);
    Some(sorted[index] as f64 / 1e6)
}

fn median(values: Vec<Option<f64>>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().flatten().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The columns of ratios: this server's to nginx's, and other builds' to this server's; each with the two columns that
/// it divides.
fn ratios(servers: &[Server]) -> Vec<(String, usize, usize)> {
    let column = |name: &str| servers.iter().position(|server| server.name == name);
    let Some(ours) = column(OURS) else { return Vec::new() };
    let to_nginx = column(NGINX).map(|nginx| ("ratio".to_owned(), ours, nginx));
    let others = (ours + 1..servers.len()).map(|other| (format!("{} to this", servers[other].name), other, ours));
    to_nginx.into_iter().chain(others).collect()
}

/// A row of the table.
fn line(servers: &[Server], what: &str, figures: &[Option<f64>]) {
    let show = |figure: Option<f64>| match figure {
        None => "–".to_owned(),
        Some(figure) if figure >= 100.0 => format!("{figure:.0}"),
        Some(figure) if figure >= 10.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.2}"),
    };
    let ratio = |of: usize, to: usize| Some(figures[of]? / figures[to].filter(|figure| *figure > 0.0)?);
    let ratios = ratios(servers)
        .into_iter()
        .map(|(_, of, to)| ratio(of, to).map_or("–".to_owned(), |ratio| format!("{ratio:.2}")));
    let cells: Vec<_> = figures.iter().copied().map(show).chain(ratios).collect();
    say(&format!("| {what} | {} |", cells.join(" | ")));
}

/// Measures the memory of each of a case's streams.
async fn hold(stand: &Stand, held: &Held) {
    let mut figures = Vec::new();
    for server in &stand.servers {
        let (Some(process), Some(target)) = (&server.process, server.target(held.wire)) else {
            figures.push(None);
            continue;
        };
        stand.provider.play(Script::Burst { chunks: 1, together: 1 });
        load::run(target, 32, 1, Until::Streams(5)).await;
        stand.provider.play(held.script);
        let before = process.resident();
        let mut sockets = Vec::new();
        for _ in 0..held.connections {
            sockets.push(load::ask(target).await.expect("connects"));
        }
        let most = settled(process).await;
        figures.push(Some(most.saturating_sub(before) as f64 / 1000.0 / held.connections as f64));
        drop(sockets);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    line(&stand.servers, &format!("{}: memory each, KB", held.name), &figures);
}

/// Returns the resident memory once it has stopped growing for a second, within ten.
async fn settled(process: &Process) -> u64 {
    let (mut most, mut since) = (0, 0);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = process.resident();
        since = if now > most { 0 } else { since + 1 };
        most = most.max(now);
        if since == 10 {
            break;
        }
    }
    most
}
