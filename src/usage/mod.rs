//! The ledger: what each request to a provider took, and the budgets that requests must have room in.
//!
//! A request begins with a reservation of the most that it may take ([`estimate`]), made in the statement that reads
//! its session, and ends with rows of the ledger (`rows`), which a queue carries to the database (`writer`): no
//! answer waits for it. What a server that died had reserved is free again when its lease has run out.
//!
//! The rules that hold under concurrency are in the database's functions (`migrations/usage.sql`).

pub mod estimate;
mod prices;
mod refusal;
mod rows;
mod writer;

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    credentials::{Key, Keys},
    db::{
        Db,
        usage::{self, Schema},
    },
    error::Error,
    llm::{azure, providers::Vendor},
    telemetry::{Facts, RequestLog},
};
use estimate::Estimate;
pub use prices::has_price;

/// Settings of the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// `USAGE`, `on` (the default) or `off`: usage is counted, and budgets are kept, if the database has the schema of
    /// `migrate --usage`.
    pub on: bool,
    /// `USAGE_KEEP_DAYS`, default 90: older requests are replaced by one row for each day, user and model.
    pub keep_days: u32,
}

/// The most entries that wait for the database; a server with `MAX_REQUESTS` at its default cannot have as many.
const MAX_WAITING: usize = 65_536;

/// The ledger of one server.
#[derive(Clone)]
pub struct Ledger(Arc<Shared>);

struct Shared {
    settings: Settings,
    keys: Arc<Keys>,
    db: Db,
    state: AtomicU8,
    /// The time of the last look that failed, and its reason.
    looking: tokio::sync::Mutex<Option<(Instant, String)>>,
    /// Requests under way, whose leases are renewed.
    open: Mutex<HashSet<Uuid>>,
    queue: Mutex<Queue>,
    wake: Notify,
    lost: AtomicU64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Item>,
    /// Entries that are being written.
    in_hand: usize,
}

/// An entry on its way to the database.
enum Item {
    Row(rows::Row),
    /// A reservation that was not needed, to be freed not before this time: its statement may still run.
    Release(Uuid, Instant),
}

/// Time after a failed look until the next one.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

/// A request to reserve for.
pub struct Plan {
    /// The route's pattern.
    pub route: String,
    /// The provider, as in the routes.
    pub provider: &'static str,
    /// The model that the client named, then the one that is to be called, if it is another.
    pub models: Vec<String>,
    /// The size.
    pub estimate: Estimate,
}

/// A reservation that is being made. Dropped, it is freed.
pub struct Reservation {
    ledger: Ledger,
    id: Uuid,
    user: Uuid,
    plan: Plan,
    at: SystemTime,
    own_key: bool,
    is_settled: bool,
}

impl Ledger {
    /// Creates the ledger; looks for the schema later.
    pub fn new(settings: Settings, keys: Arc<Keys>, db: Db) -> Self {
        Self(Arc::new(Shared {
            state: AtomicU8::new(if settings.on { UNKNOWN } else { OFF }),
            settings,
            keys,
            db,
            looking: tokio::sync::Mutex::default(),
            open: Mutex::default(),
            queue: Mutex::default(),
            wake: Notify::new(),
            lost: AtomicU64::new(0),
        }))
    }

    /// Tells if usage is counted. Only before the first look does this take a statement.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn is_on(&self) -> Result<bool, Error> {
        match self.0.state.load(Ordering::Acquire) {
            UNKNOWN => self.look().await,
            state => Ok(state == ON),
        }
    }

    /// Looks for the schema, and says what it finds if that is new.
    async fn look(&self) -> Result<bool, Error> {
        // One look serves all who wait for it.
        let mut failed = self.0.looking.lock().await;
        let before = self.0.state.load(Ordering::Acquire);
        if before == ON || !self.0.settings.on {
            return Ok(before == ON);
        }
        if let Some((at, detail)) = &*failed
            && at.elapsed() < LOOK_AGAIN
        {
            return Err(Error::DatabaseUnavailable(detail.clone()));
        }
        let found = match usage::schema(&self.0.db).await {
            Ok(found) => found,
            Err(error) => {
                *failed = Some((Instant::now(), error.detail().into_owned()));
                return Err(error);
            }
        };
        let state = if found == Schema::Usable { ON } else { OFF };
        if state != before {
            match found {
                Schema::Usable => {
                    tracing::info!("usage is counted, and budgets are kept, in the schema chatbot_ui_api")
                }
                Schema::Missing => tracing::info!(
                    "usage is not counted: the database has no schema for it (chatbot-ui-api migrate --usage makes it)"
                ),
                Schema::Forbidden => tracing::warn!(
                    "usage is not counted: this role may not use the schema chatbot_ui_api. Run docs/role.sql as its owner"
                ),
            }
        }
        self.0.state.store(state, Ordering::Release);
        self.0.wake.notify_one();
        Ok(state == ON)
    }

    /// Forgets that the schema is there, after an error that may mean the opposite.
    pub fn doubt(&self) {
        let _ = self.0.state.compare_exchange(ON, UNKNOWN, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Begins a reservation. Its [`Reservation::request`] is to be sent, and the answer to be given to
    /// [`Reservation::granted`].
    pub fn begin(&self, user: Uuid, plan: Plan) -> Reservation {
        let id = Uuid::new_v4();
        lock(&self.0.open).insert(id);
        let own_key = self.is_own_key(plan.provider);
        Reservation { ledger: self.clone(), id, user, plan, at: SystemTime::now(), own_key, is_settled: false }
    }

    /// Reserves in a statement of its own, in place of what was reserved before, and counts what the request takes.
    ///
    /// # Errors
    /// [`Error::BudgetSpent`], or if the database does not answer.
    pub async fn reserve(&self, user: Uuid, plan: Plan, log: &RequestLog) -> Result<(), Error> {
        let reservation = self.begin(user, plan);
        let earlier = log.note().reservation;
        let answer = usage::reserve(&self.0.db, user, &reservation.request(earlier)).await?;
        reservation.granted(answer.as_deref(), log)
    }

    /// Tells if a user's own key pays for requests to a provider: the server's own keys take precedence.
    fn is_own_key(&self, provider: &str) -> bool {
        let key = match provider {
            azure::PROVIDER => Some(Key::AzureOpenAi),
            name => Vendor::by_name(name).map(Vendor::key),
        };
        key.is_none_or(|key| self.0.keys.get(key).is_none())
    }

    fn push(&self, items: impl IntoIterator<Item = Item>) {
        let mut queue = lock(&self.0.queue);
        for item in items {
            if queue.waiting.len() >= MAX_WAITING {
                // What is lost is the exact count: the lease of the reservation ends, and an estimate is written.
                let lost = self.0.lost.fetch_add(1, Ordering::Relaxed) + 1;
                if lost.is_power_of_two() {
                    tracing::error!(lost, "the ledger's queue is full: what requests took is estimated, not counted");
                }
                continue;
            }
            queue.waiting.push_back(item);
        }
        drop(queue);
        self.0.wake.notify_one();
    }

    /// Returns the number of entries that wait for the database, and of those that were lost.
    pub fn stats(&self) -> (usize, u64) {
        let queue = lock(&self.0.queue);
        (queue.waiting.len() + queue.in_hand, self.0.lost.load(Ordering::Relaxed))
    }

    /// Returns a user's own figures.
    ///
    /// # Errors
    /// [`Error::NotCounted`], or if the database does not answer.
    pub async fn report(&self, user: Uuid) -> Result<String, Error> {
        if !self.is_on().await? {
            return Err(Error::NotCounted);
        }
        usage::report(&self.0.db, user).await
    }
}

impl Reservation {
    /// Returns the request for the database, in place of an `earlier` reservation; see [`usage::reserve`].
    pub fn request(&self, earlier: Option<Uuid>) -> String {
        let Plan { route, provider, models, estimate } = &self.plan;
        let price = prices::price(provider, models.last().map_or("", String::as_str)).unwrap_or_default();
        // JSON in Postgres has no such character.
        let models: Vec<String> =
            models.iter().map(|model| model.replace('\0', "").chars().take(MAX_MODEL).collect()).collect();
        let request = json!({
            "id": self.id, "replaces": earlier, "own_key": self.own_key,
            "route": route, "provider": provider, "models": models,
            "input": estimate.input, "output": estimate.output, "likely_input": estimate.likely_input,
            "input_usd": price.input.unwrap_or(0.0) / 1e6, "output_usd": price.output.unwrap_or(0.0) / 1e6,
        });
        request.to_string()
    }

    /// Ends a reservation that was surely not made.
    pub fn not_made(mut self) {
        self.is_settled = true;
    }

    /// Takes the database's answer. If the request may begin, it is counted once it has ended, whatever its end.
    ///
    /// # Errors
    /// [`Error::BudgetSpent`].
    pub fn granted(self, answer: Option<&str>, log: &RequestLog) -> Result<(), Error> {
        let answer: Value = answer.and_then(|answer| serde_json::from_str(answer).ok()).unwrap_or_default();
        // Nothing was reserved, but by a copy of the statement that may have been sent before: it is released.
        if let Some(refused) = answer.get("refused") {
            return Err(refusal::error(refused));
        }
        if let Some(limit) = answer["limit"].as_u64() {
            log.note().max_output = Some(u32::try_from(limit).unwrap_or(u32::MAX).max(1));
        }
        log.note().reservation = Some(self.id);
        log.at_end(move |facts| self.end(facts));
        Ok(())
    }

    /// Writes what the request took.
    fn end(mut self, facts: &Facts) {
        let own_key = facts.provider.map_or(self.own_key, |provider| self.ledger.is_own_key(provider));
        let rows = rows::rows(&self, own_key, facts);
        self.is_settled = true;
        if rows.is_empty() {
            self.ledger.push([Item::Release(self.id, Instant::now())]);
        } else {
            self.ledger.push(rows.into_iter().map(Item::Row));
        }
    }
}

/// The most characters of a model's name.
const MAX_MODEL: usize = 100;

impl Drop for Reservation {
    fn drop(&mut self) {
        lock(&self.ledger.0.open).remove(&self.id);
        if !self.is_settled {
            self.ledger.push([Item::Release(self.id, Instant::now() + writer::STATEMENT_MAY_RUN)]);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
