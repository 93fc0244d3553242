//! The model's three files: text → vector.

use std::{
    fs::File,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use serde::{Deserialize, de::DeserializeOwned};
use tokenizers::{Tokenizer, TruncationParams};

use super::{
    Error,
    bert::Bert,
    weights::{Weights, size},
};

/// The most tokens of a text that are used, as in the original. (The model was trained with fewer; its tokenizer.json
/// says 128, and sentence-transformers stops at 256.)
const MAX_TOKENS: usize = 512;
/// The most bytes of a text that the tokenizer gets. No passage is that long, but a csv row or a search text may be,
/// and tokenizing takes about a hundred times as much memory.
///
/// Differs: the original uses more, which matters if the first 64 KiB have less than 512 tokens.
const MAX_TEXT: usize = 64 << 10;
/// The largest config.json and tokenizer.json, in bytes. Those of all-MiniLM-L6-v2 have 600 and 470,000.
const MAX_CONFIG: u64 = 1 << 20;
const MAX_TOKENIZER: u64 = 32 << 20;

/// The relevant part of config.json.
#[derive(Deserialize)]
pub struct Config {
    #[serde(default = "bert")]
    model_type: String,
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    /// Numbers in a token's vector.
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    /// Rows of the three tables that the first layer's input is made of.
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    /// Prevents a division by zero.
    pub layer_norm_eps: f32,
}

fn bert() -> String {
    "bert".to_owned()
}

fn absolute() -> String {
    "absolute".to_owned()
}

impl Config {
    /// Checks that [`Bert`] supports this kind of model in these sizes, in bounded memory.
    fn check(&self) -> Result<(), String> {
        for (name, value, known) in [
            ("model_type", &self.model_type, "bert"),
            ("hidden_act", &self.hidden_act, "gelu"),
            ("position_embedding_type", &self.position_embedding_type, "absolute"),
        ] {
            if value != known {
                return Err(format!("its {name} is {}, not {known}", value.escape_debug()));
            }
        }
        for (name, value, most) in [
            ("hidden_size", self.hidden_size, 1 << 13),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 7),
            ("num_attention_heads", self.num_attention_heads, 1 << 7),
            ("intermediate_size", self.intermediate_size, 1 << 15),
            ("vocab_size", self.vocab_size, 1 << 21),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 17),
            ("type_vocab_size", self.type_vocab_size, 1 << 10),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("its {name} is {value}, not between 1 and {most}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err("its hidden_size is not a multiple of its num_attention_heads".to_owned());
        }
        match self.layer_norm_eps {
            0.0..1.0 => Ok(()),
            other => Err(format!("its layer_norm_eps is {other}, not between 0 and 1")),
        }
    }
}

/// A loaded model.
pub struct Model {
    tokenizer: Tokenizer,
    bert: Bert,
    dimensions: usize,
}

impl Model {
    /// Reads a model; the memory needed is the size of the numbers in `model.safetensors` and a few times that of
    /// `tokenizer.json`. Blocks its thread for about a fifth of a second.
    ///
    /// # Errors
    /// [`Error::Model`] if a file is missing, broken, or does not fit the others.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let problem = |file: &'static str| move |what: String| Error::Model(format!("{file}: {what}"));
        let config: Config = json(&folder.join("config.json"), MAX_CONFIG).map_err(problem("config.json"))?;
        config.check().map_err(problem("config.json"))?;
        let tokenizer = || prepare(json(&folder.join("tokenizer.json"), MAX_TOKENIZER)?, &config);
        // The tokenizers crate panics on some broken files.
        let tokenizer = catch_unwind(AssertUnwindSafe(tokenizer));
        let tokenizer = tokenizer.unwrap_or_else(|_| Err("it cannot be understood".to_owned()));
        let tokenizer = tokenizer.map_err(problem("tokenizer.json"))?;
        let weights = Weights::open(&folder.join("model.safetensors"));
        let bert = weights.and_then(|weights| Bert::read(weights, &config)).map_err(problem("model.safetensors"))?;
        Ok(Self { tokenizer, bert, dimensions: config.hidden_size })
    }

    /// Returns the length of a vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Computes the vector of a text, of length one. Blocks its thread.
    ///
    /// # Errors
    /// [`Error::Failed`] if the model produces NaN for this text.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, Error> {
        let text = &text[..text.floor_char_boundary(MAX_TEXT)];
        let tokens = self.tokens(text).map_err(Error::Failed)?;
        let mean = self.bert.mean(&tokens).ok_or_else(|| Error::Failed("a token without a vector".to_owned()))?;
        let length = mean.iter().map(|&number| f64::from(number).powi(2)).sum::<f64>().sqrt() as f32;
        if !length.is_normal() {
            return Err(Error::Failed(format!("a vector of length {length}")));
        }
        Ok(mean.into_iter().map(|number| number / length).collect())
    }

    /// Returns the ids of a text's tokens, special tokens included: at most as many as there are positions.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, String> {
        tokens(&self.tokenizer, text)
    }
}

fn tokens(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, String> {
    // `fast`: without each token's position in the text.
    let encoding = tokenizer.encode_fast(text, true).map_err(|error| error.to_string())?;
    Ok(encoding.get_ids().to_vec())
}

/// Makes the tokenizer truncate long texts to the model's limit, and not pad short ones.
fn prepare(mut tokenizer: Tokenizer, config: &Config) -> Result<Tokenizer, String> {
    let max_length = MAX_TOKENS.min(config.max_position_embeddings);
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
    // The special tokens around every text, which the tokenizer subtracts without a check.
    let frame = tokens(&tokenizer, "")?;
    if frame.is_empty() || frame.len() >= max_length {
        return Err(format!("it puts {} tokens around a text, not [CLS] and [SEP]", frame.len()));
    }
    let truncation = TruncationParams { max_length, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(|error| error.to_string())?;
    let highest = tokenizer.get_vocab(true).into_values().chain(frame).max();
    match highest.is_some_and(|highest| (highest as usize) < config.vocab_size) {
        true => Ok(tokenizer),
        false => Err(format!("it has tokens beyond the {} that config.json says", config.vocab_size)),
    }
}

fn json<T: DeserializeOwned>(path: &Path, most: u64) -> Result<T, String> {
    if size(path)? > most {
        return Err(format!("it has more than {most} bytes"));
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}
