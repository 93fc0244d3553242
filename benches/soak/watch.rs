//! The server's resources, observed from outside.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection};

use super::{say, world::World};

/// Interval between two samples.
const EVERY: Duration = Duration::from_secs(2);

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    at: Instant,
    /// Resident memory, in MB.
    pub memory: f64,
    /// Open file descriptors.
    pub files: usize,
    pub threads: usize,
    /// The server's connections in Postgres; 0 while Postgres is unavailable.
    pub database: usize,
    /// Open streams, if the server reports them.
    pub streams: Option<f64>,
}

impl Sample {
    pub fn heading() -> String {
        format!("{:>10} {:>8} {:>8} {:>9} {:>8}", "memory/MB", "files", "threads", "Postgres", "streams")
    }

    /// Returns the open files without the connections to Postgres, which the pool bounds.
    pub fn other_files(&self) -> usize {
        self.files.saturating_sub(self.database)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, files, threads, database, .. } = self;
        let streams = self.streams.map_or_else(|| "-".to_owned(), |streams| streams.to_string());
        write!(f, "{memory:>10.1} {files:>8} {threads:>8} {database:>9} {streams:>8}")
    }
}

/// Takes a sample every few seconds and keeps them.
#[derive(Clone)]
pub struct Watch {
    world: Arc<World>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Watch {
    pub fn start(world: Arc<World>) -> Self {
        let watch = Self { world, samples: Arc::default() };
        let looking = watch.clone();
        tokio::spawn(async move {
            loop {
                let sample = looking.sample().await;
                looking.samples.lock().expect("no panic").push(sample);
                tokio::time::sleep(EVERY).await;
            }
        });
        watch
    }

    /// Prints the last sample at intervals.
    pub async fn show(self, every: Duration) {
        loop {
            tokio::time::sleep(every.max(EVERY)).await;
            if let Some(sample) = self.samples.lock().expect("no panic").last() {
                say(&sample.to_string());
            }
        }
    }

    /// Returns the mean of the memory in this period, in MB.
    pub fn memory(&self, time: Range<Instant>) -> Option<f64> {
        let samples = self.samples.lock().expect("no panic");
        let seen: Vec<f64> =
            samples.iter().filter(|sample| time.contains(&sample.at)).map(|sample| sample.memory).collect();
        (!seen.is_empty()).then(|| seen.iter().sum::<f64>() / seen.len() as f64)
    }

    pub async fn sample(&self) -> Sample {
        let folder = format!("/proc/{}", self.world.process_id());
        let status = std::fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
        };
        Sample {
            at: Instant::now(),
            memory: number("VmRSS:") / 1024.0,
            files: std::fs::read_dir(format!("{folder}/fd")).map_or(0, Iterator::count),
            threads: number("Threads:") as usize,
            database: self.database().await.unwrap_or_default(),
            streams: self.streams().await,
        }
    }

    async fn database(&self) -> Option<usize> {
        let mut connection = PgConnection::connect(self.world.database_url()?.as_str()).await.ok()?;
        let count = "select count(*) from pg_stat_activity where usename = 'chatbot_ui_api'";
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.ok()?;
        let _ = connection.close().await;
        usize::try_from(count).ok()
    }

    /// Returns the gauge of open streams, if there are metrics.
    async fn streams(&self) -> Option<f64> {
        let url = format!("http://{}/metrics", self.world.metrics);
        let text = self.world.http.get(url).send().await.ok()?.text().await.ok()?;
        let open = |line: &&str| line.starts_with("chatbot_ui_api_streams_open");
        let values = text.lines().filter(open).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.reduce(|sum, value| sum + value)
    }
}
