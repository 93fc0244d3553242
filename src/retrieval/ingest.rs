//! Reading files, as many at the same time as there are cores: a permit for each, since one takes a core and, at worst,
//! some hundred megabytes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::{Chunk, extract, local::LocalEmbeddings, storage::Storage};
use crate::error::Error;

/// Limit on extracting and splitting one file.
const PARSE_TIME: Duration = Duration::from_secs(10);
/// Limit on waiting for a permit.
const PARSE_QUEUE: Duration = Duration::from_secs(30);

/// What files are read with, shared by all workers.
pub struct Ingest {
    /// Where files lie.
    pub storage: Storage,
    /// The model for embeddings in this process.
    pub local: LocalEmbeddings,
    permits: Arc<Semaphore>,
}

impl Ingest {
    /// Sets up reading; connects to nothing yet.
    pub fn new(storage: Storage, local: LocalEmbeddings) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { storage, local, permits: Arc::new(Semaphore::new(cores)) }
    }

    /// Reads a file on a blocking thread once a permit is free. The permit lives as long as the thread works, also if
    /// the client leaves.
    ///
    /// # Errors
    /// If no permit is free within half a minute, or the file cannot be read.
    pub async fn parse(
        &self,
        read: impl FnOnce(Instant) -> Result<Vec<Chunk>, extract::Error> + Send + 'static,
    ) -> Result<Vec<Chunk>, Error> {
        let busy = || Error::Provider {
            status: 503,
            message: "Too many files are being read. Please try again in a moment.".to_owned(),
        };
        let permit = tokio::time::timeout(PARSE_QUEUE, self.permits.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| busy())?.map_err(|_| busy())?;
        let parsing = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read(Instant::now() + PARSE_TIME)
        });
        parsing
            .await
            .map_err(|error| Error::Internal(error.to_string()))?
            .map_err(|error| Error::Provider { status: 500, message: error.to_string() })
    }
}
