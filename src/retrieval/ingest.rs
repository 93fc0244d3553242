//! Reading files: in turns that are fair between users, and within limits of bytes, time and passages.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{Chunk, extract, local::LocalEmbeddings, storage::Storage};
use crate::{
    allowance::{Buffers, Charge, Turn, Turns, turns},
    error::Error,
};

/// Limit on extracting and splitting one file.
const PARSE_TIME: Duration = Duration::from_secs(10);

/// Components for reading files, shared by all workers.
pub struct Ingest {
    /// The storage of uploaded files.
    pub storage: Storage,
    /// The model for embeddings in this process.
    pub local: LocalEmbeddings,
    /// Cores for reading.
    pub turns: Arc<Turns>,
    /// The allowance of bytes for files and responses.
    pub buffers: Arc<Buffers>,
    /// `MAX_PASSAGES`.
    pub max_passages: usize,
}

impl Ingest {
    /// Waits for a user's turn to read a file.
    ///
    /// # Errors
    /// If no turn comes within half a minute.
    pub async fn turn(&self, user: Uuid) -> Result<Turn, Error> {
        tokio::time::timeout(turns::MAX_WAIT, self.turns.wait(user)).await.map_err(|_| Error::Failed {
            status: 503,
            message: "Too many files are being read. Please try again in a moment.".to_owned(),
        })
    }

    /// Downloads a file and charges its bytes to the user.
    ///
    /// # Errors
    /// As [`Storage::download`].
    pub async fn download(&self, user: Uuid, path: &str) -> Result<(Vec<u8>, Charge), Error> {
        let mut charge = self.buffers.charge(user, 0)?;
        let bytes = self.storage.download(user, path, &mut charge).await?;
        Ok((bytes, charge))
    }

    /// Reads a file on a blocking thread. The turn is held as long as the thread runs, even if the client disconnects.
    ///
    /// # Errors
    /// If the file cannot be read, or has no passage or too many.
    pub async fn parse(
        &self,
        turn: Turn,
        read: impl FnOnce(Instant) -> Result<Vec<Chunk>, extract::Error> + Send + 'static,
    ) -> Result<Vec<Chunk>, Error> {
        let chunks = turn
            .run(|| read(Instant::now() + PARSE_TIME))
            .await?
            .map_err(|error| Error::Failed { status: status(&error), message: error.to_string() })?;
        if chunks.len() > self.max_passages {
            return Err(Error::Failed {
                status: 413,
                message: format!(
                    "The file has {} passages, and this server stores at most {} of a file (MAX_PASSAGES). Upload it in parts.",
                    chunks.len(),
                    self.max_passages
                ),
            });
        }
        Ok(chunks)
    }
}

/// The original answers with 500 whatever is wrong with a file, and says nothing of one without text.
///
/// Differs: a file without text, or with too much of it, is the user's to mend.
fn status(error: &extract::Error) -> u16 {
    match error {
        extract::Error::NoText | extract::Error::NoPdfText => 422,
        extract::Error::TooLarge => 413,
        _ => 500,
    }
}
