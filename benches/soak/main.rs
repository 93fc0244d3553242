//! The soak test: `cargo run --release --example soak`, for ten minutes or as many seconds as the argument says.
//!
//! The server as people run it, a Postgres of its own that is stopped and started twice, a Redis that is never there, a
//! provider with every kind of failure ([`provider`]), and clients of every kind ([`clients`]), all at once. It is
//! watched from outside ([`watch`]); at the end it must hold no more than after the warm-up, and no answer may have
//! been wrong.

mod clients;
#[path = "../../tests/support/ports.rs"]
mod ports;
mod provider;
#[expect(dead_code, reason = "here they are users and models")]
#[path = "../../tests/support/rows.rs"]
mod rows;
#[expect(dead_code, reason = "here nothing is scripted beforehand or recorded")]
#[path = "../../tests/support/upstream/mod.rs"]
mod upstream;
mod watch;
mod world;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use clients::{Kind, Wrong};
use watch::{Sample, Watch};
use world::World;

/// Clients at once, each a user of its own.
const CLIENTS: usize = 64;
/// Time after the end of the traffic until its resources must be released: longer than connections are kept alive and
/// idle threads wait.
const SETTLE: Duration = Duration::from_secs(15);
/// Length of an outage of Postgres, and time after it in which a request may still be told so.
const OUTAGE: Duration = Duration::from_secs(5);
const RECOVERY: Duration = Duration::from_secs(3);
/// The allowed growth of memory between the second and the last tenth of the time: more is a leak, less is the
/// allocator.
const GROWTH: f64 = 1.10;
const GROWTH_MEGABYTES: f64 = 8.0;

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).map_or(Ok(600), |text| text.parse());
    let Ok(seconds @ 30..) = seconds else {
        say("the argument must be a number of seconds, at least 30");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(soak(Duration::from_secs(seconds))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(count) => {
            say(&format!("{count} things are wrong"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn say(words: &str) {
    println!("{words}");
}

/// The results of the clients.
#[derive(Default)]
struct Tally {
    /// By kind: the number of expected results, and of reports of the unavailable database while it was.
    counts: BTreeMap<&'static str, (usize, usize)>,
    wrong: BTreeMap<String, usize>,
}

impl Tally {
    fn note(&mut self, kind: Kind, result: Result<(), Wrong>, database_away: bool) {
        let counts = self.counts.entry(kind.name()).or_default();
        match result {
            Ok(()) => counts.0 += 1,
            Err(Wrong::Status(503, _)) if database_away => counts.1 += 1,
            Err(wrong) => *self.wrong.entry(format!("{}: {wrong}", kind.name())).or_default() += 1,
        }
    }
}

async fn soak(length: Duration) -> Result<(), usize> {
    let world = Arc::new(World::start(CLIENTS).await);
    let tally = Arc::new(Mutex::new(Tally::default()));
    let watch = Watch::start(world.clone());

    say(&format!("warm-up: {} s", (length / 10).as_secs()));
    traffic(&world, &tally, Instant::now() + length / 10).await;
    tokio::time::sleep(SETTLE).await;
    let before = watch.sample().await;

    say(&format!("traffic: {} s, {CLIENTS} clients", length.as_secs()));
    say(&Sample::heading());
    let began = Instant::now();
    let end = began + length;
    let showing = tokio::spawn(watch.clone().show(length / 60));
    let faults = async {
        for third in 1..=2 {
            tokio::time::sleep_until((began + length / 3 * third).into()).await;
            say("Postgres stops");
            world.stop_database().await;
            tokio::time::sleep(OUTAGE).await;
            world.start_database(RECOVERY).await;
            say("Postgres is back");
        }
    };
    tokio::join!(traffic(&world, &tally, end), faults);
    showing.abort();
    let tenth = length / 10;
    let memory = watch.memory(began + tenth..began + tenth * 2).zip(watch.memory(end - tenth..end));
    tokio::time::sleep(SETTLE).await;
    let after = watch.sample().await;
    let log = world.log();
    report(&tally.lock().expect("no panic"), &before, &after, memory, &log, length)
}

/// Lets every client perform one action after another until `end`.
async fn traffic(world: &Arc<World>, tally: &Arc<Mutex<Tally>>, end: Instant) {
    let mut clients = JoinSet::new();
    for user in 0..CLIENTS {
        let (world, tally) = (world.clone(), tally.clone());
        clients.spawn(async move {
            let mut random = StdRng::seed_from_u64(user as u64);
            // Once through all kinds, so that each has occurred by the end of the warm-up, with its memory allocated.
            let mut next = Kind::number(user);
            while Instant::now() < end {
                let kind = std::mem::replace(&mut next, Kind::any(&mut random));
                let asked = Instant::now();
                let result = clients::act(&world, user, kind, &mut random).await;
                let away = world.database_was_away(asked..Instant::now());
                tally.lock().expect("no panic").note(kind, result, away);
                tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("no panic");
    }
}

fn report(
    tally: &Tally,
    before: &Sample,
    after: &Sample,
    memory: Option<(f64, f64)>,
    log: &str,
    length: Duration,
) -> Result<(), usize> {
    say(&format!("\n{:24} {:>8} {:>14}", "client", "as should", "database away"));
    for (kind, (right, away)) in &tally.counts {
        say(&format!("{kind:24} {right:>9} {away:>14}"));
    }
    let all: usize = tally.counts.values().map(|(right, away)| right + away).sum();
    say(&format!("{:24} {all:>9} requests, {:.0}/s", "all", all as f64 / length.as_secs_f64() / 1.1));
    for (wrong, times) in tally.wrong.iter().take(30) {
        say(&format!("WRONG {times} times: {wrong}"));
    }
    say(&format!("\n{}\n{before}  before\n{after}  after\n", Sample::heading()));

    let (early, late) = memory.unwrap_or_default();
    let checks = [
        (
            tally.wrong.is_empty(),
            format!("no answer was another's, broken or unexpected ({} were)", tally.wrong.values().sum::<usize>()),
        ),
        (
            after.other_files() <= before.other_files() + 2,
            format!("open files besides Postgres: {} → {}", before.other_files(), after.other_files()),
        ),
        (after.threads <= before.threads, format!("threads: {} → {}", before.threads, after.threads)),
        (
            after.database <= world::POOL_SIZE,
            format!("connections in Postgres: {} → {}, at most {}", before.database, after.database, world::POOL_SIZE),
        ),
        (after.streams.unwrap_or(0.0) == 0.0, format!("streams open: {:?}", after.streams)),
        (
            early > 0.0 && late <= early * GROWTH + GROWTH_MEGABYTES,
            format!(
                "memory in the second tenth {early:.1} MB, in the last {late:.1} MB (at most {:.1})",
                early * GROWTH + GROWTH_MEGABYTES
            ),
        ),
        (!log.contains("panicked"), "the server did not panic".to_owned()),
        (log.contains("Redis at 127.0.0.1") && log.contains("is away"), "it said that Redis is away".to_owned()),
    ];
    for (right, words) in &checks {
        say(&format!("{} {words}", if *right { "ok    " } else { "WRONG " }));
    }
    match checks.iter().filter(|(right, _)| !right).count() {
        0 => Ok(()),
        count => Err(count),
    }
}
