//! The task that carries entries to the database, keeps leases, and tidies up.

use std::{
    collections::HashSet,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde_json::Value;
use uuid::Uuid;

use super::{Item, Ledger, ON, lock, prices};
use crate::{db::usage, error::Error};

/// The longest time that a statement may still run after its request was given up.
pub(super) const STATEMENT_MAY_RUN: Duration = Duration::from_secs(4);

/// The most entries of one statement: it holds the locks of their users.
const BATCH: usize = 200;
/// Interval of renewing leases, which last three times as long.
const RENEWAL: Duration = Duration::from_secs(10);
/// Interval of looking for a schema that is not there.
const LOOK: Duration = Duration::from_secs(15);
/// Interval of rolling up old rows, and the most rows of one statement.
const ROLL_UP: Duration = Duration::from_secs(3600);
const ROLL_UP_ROWS: i32 = 5_000;
/// Wait after a failure.
const PAUSE: Duration = Duration::from_secs(1);

impl Ledger {
    /// Carries entries to the database. Runs forever.
    pub async fn run(&self) {
        if !self.0.settings.on {
            tracing::info!("usage is not counted: USAGE=off");
            return;
        }
        let mut known = HashSet::new();
        let (mut renewed, mut rolled_up, mut priced) = (None::<Instant>, None::<Instant>, None::<Instant>);
        let mut is_priced = false;
        loop {
            match self.is_on().await {
                Ok(true) => {}
                Ok(false) => {
                    // A schema that is not there any more takes nothing.
                    lock(&self.0.queue).waiting.clear();
                    tokio::time::sleep(LOOK).await;
                    let _ = self.look().await;
                    continue;
                }
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
            if !is_priced && priced.is_none_or(|at| at.elapsed() >= RENEWAL) {
                priced = Some(Instant::now());
                is_priced = self.refresh_prices().await.is_ok();
            }
            let written = self.write(&mut known).await;
            if renewed.is_none_or(|at| at.elapsed() >= RENEWAL) {
                renewed = Some(Instant::now());
                self.keep_leases().await;
            }
            if rolled_up.is_none_or(|at| at.elapsed() >= ROLL_UP) {
                rolled_up = Some(Instant::now());
                // On its own, as it may take minutes, in which leases are to be renewed.
                let ledger = self.clone();
                tokio::task::spawn_local(async move { ledger.roll_up().await });
            }
            match written {
                Ok(true) => {}
                Ok(false) => {
                    let _ = tokio::time::timeout(PAUSE, self.0.wake.notified()).await;
                }
                Err(()) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Waits until all entries are written, at most for `limit`.
    pub async fn flush(&self, limit: Duration) {
        for item in &mut lock(&self.0.queue).waiting {
            if let Item::Release(_, due) = item {
                *due = Instant::now();
            }
        }
        let written = async {
            while self.0.state.load(Ordering::Acquire) == ON && self.stats().0 > 0 {
                self.0.wake.notify_one();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(limit, written).await.is_err() {
            tracing::warn!(entries = self.stats().0, "the ledger lacks what these requests took: they are estimated");
        }
    }

    /// Writes a batch. Returns if there may be more.
    async fn write(&self, known: &mut HashSet<(&'static str, String)>) -> Result<bool, ()> {
        let batch = self.take(BATCH);
        if batch.is_empty() {
            return Ok(false);
        }
        let result = self.settle(&batch, known).await;
        let failed = match result {
            Ok(()) => Vec::new(),
            Err(Error::Internal(detail)) => {
                tracing::warn!(detail, "the ledger's entries are not taken together");
                self.one_by_one(batch, known).await
            }
            Err(error) => {
                tracing::debug!(detail = %error.detail(), "the ledger waits for the database");
                batch
            }
        };
        let mut queue = lock(&self.0.queue);
        queue.in_hand = 0;
        let is_written = failed.is_empty();
        for item in failed.into_iter().rev() {
            queue.waiting.push_front(item);
        }
        if is_written { Ok(true) } else { Err(()) }
    }

    /// Writes entries one by one, since the database refuses one of them, and returns those that it did not get.
    async fn one_by_one(&self, batch: Vec<Item>, known: &mut HashSet<(&'static str, String)>) -> Vec<Item> {
        let mut left = Vec::new();
        for item in batch {
            match self.settle(std::slice::from_ref(&item), known).await {
                Ok(()) => {}
                Err(Error::Internal(detail)) => {
                    if self.0.state.load(Ordering::Acquire) == ON {
                        self.doubt();
                    }
                    self.0.lost.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(detail, "the database refuses an entry of the ledger: it is dropped");
                }
                Err(_) => left.push(item),
            }
        }
        left
    }

    /// Takes entries that are due out of the queue.
    fn take(&self, most: usize) -> Vec<Item> {
        let mut queue = lock(&self.0.queue);
        let now = Instant::now();
        let (mut batch, mut later) = (Vec::new(), Vec::new());
        while batch.len() < most
            && let Some(item) = queue.waiting.pop_front()
        {
            match item {
                Item::Release(_, due) if due > now => later.push(item),
                item => batch.push(item),
            }
        }
        queue.waiting.extend(later);
        queue.in_hand = batch.len();
        batch
    }

    async fn settle(&self, batch: &[Item], known: &mut HashSet<(&'static str, String)>) -> Result<(), Error> {
        let (mut rows, mut released) = (Vec::new(), Vec::new());
        for item in batch {
            match item {
                Item::Row(row) => rows.push(row),
                Item::Release(id, _) => released.push(*id),
            }
        }
        // Before the rows, so that no budget is counted without them.
        let mut new = Vec::new();
        for row in &rows {
            let called = (row.provider, row.served_model.clone().unwrap_or_else(|| row.model.clone()));
            if !known.contains(&called) {
                new.extend(prices::row(called.0, &called.1));
                if known.len() < MAX_KNOWN {
                    known.insert(called);
                }
            }
        }
        if !new.is_empty() {
            usage::set_prices(&self.0.db, &Value::Array(new).to_string()).await?;
        }
        let rows = serde_json::to_string(&rows).map_err(|error| Error::Internal(error.to_string()))?;
        usage::settle(&self.0.db, &rows, &released).await
    }

    /// Writes today's prices of the models that the ledger names.
    async fn refresh_prices(&self) -> Result<(), Error> {
        let models = usage::models(&self.0.db).await?;
        let models: Vec<(String, String)> = serde_json::from_str(&models).unwrap_or_default();
        let rows: Vec<Value> = models.iter().filter_map(|(provider, model)| prices::row(provider, model)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        usage::set_prices(&self.0.db, &Value::Array(rows).to_string()).await
    }

    /// Renews the leases of requests under way, then ends those whose servers died.
    async fn keep_leases(&self) {
        let mut alive: Vec<Uuid> = lock(&self.0.open).iter().copied().collect();
        alive.extend(lock(&self.0.queue).waiting.iter().filter_map(|item| match item {
            Item::Row(row) => Some(row.id),
            Item::Release(..) => None,
        }));
        let kept = async {
            if !alive.is_empty() {
                usage::renew(&self.0.db, &alive).await?;
            }
            usage::sweep(&self.0.db).await
        };
        match kept.await {
            Ok(0) => {}
            Ok(swept) => tracing::warn!(requests = swept, "requests of a server that died were estimated"),
            Err(error) => tracing::debug!(detail = %error.detail(), "the ledger's leases"),
        }
    }

    async fn roll_up(&self) {
        let keep_days = i32::try_from(self.0.settings.keep_days).unwrap_or(i32::MAX);
        loop {
            match usage::roll_up(&self.0.db, keep_days, ROLL_UP_ROWS).await {
                Ok(rows) if rows < i64::from(ROLL_UP_ROWS) => return,
                // Others have their turn in between.
                Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => {
                    tracing::debug!(detail = %error.detail(), "old rows of the ledger");
                    return;
                }
            }
        }
    }
}

/// The most models whose prices are remembered as written.
const MAX_KNOWN: usize = 10_000;
