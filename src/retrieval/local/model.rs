//! The model's three files: text → vector.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use serde::{Deserialize, de::DeserializeOwned};
use tokenizers::Tokenizer;

use super::{Error, bert::Bert, weights::Weights};

/// The most tokens in a window, as the original takes of a text. (The model was trained with fewer; its tokenizer.json
/// says 128, and sentence-transformers stops at 256.)
const MAX_TOKENS: usize = 512;
/// The most windows of a text: as many as a passage can need, which has 4,000 characters and so at most 4,000 tokens.
/// Only a csv row that cannot be split, or a search text, may need more.
const MAX_WINDOWS: usize = 8;
/// The most bytes of a text that the tokenizer gets; tokenizing takes about a hundred times as much memory.
const MAX_TEXT: usize = 64 << 10;
/// The largest config.json and tokenizer.json, in bytes. Those of all-MiniLM-L6-v2 have 600 and 470,000.
const MAX_CONFIG: u64 = 1 << 20;
const MAX_TOKENIZER: u64 = 32 << 20;
/// The largest model.safetensors, in bytes. That of all-MiniLM-L6-v2 has 91,000,000.
const MAX_WEIGHTS: u64 = 1 << 29;

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
    /// The tokens before and after every text: `[CLS]` and `[SEP]`.
    frame: [u32; 2],
    /// The most tokens between them.
    room: usize,
    bert: Bert,
    dimensions: usize,
}

impl Model {
    /// Reads a model; the memory needed is twice the size of `model.safetensors`, of which half is kept, and a few times
    /// that of `tokenizer.json`. Blocks its thread for about a fifth of a second.
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
        let (tokenizer, frame) = tokenizer.map_err(problem("tokenizer.json"))?;
        let bert = read(&folder.join("model.safetensors"), MAX_WEIGHTS)
            .and_then(|bytes| Bert::read(&Weights::read(&bytes)?, &config))
            .map_err(problem("model.safetensors"))?;
        let room = MAX_TOKENS.min(config.max_position_embeddings) - frame.len();
        Ok(Self { tokenizer, frame, room, bert, dimensions: config.hidden_size })
    }

    /// Returns the length of a vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Computes the vector of a text, of length one: the mean of its windows' vectors. Blocks its thread.
    ///
    /// Differs: the original knows a long text by its first 512 tokens, and does not find what stands after them.
    ///
    /// # Errors
    /// [`Error::Failed`] if the model produces NaN for this text.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, Error> {
        let windows = self.windows(text).map_err(Error::Failed)?;
        let mut sum = vec![0.0; self.dimensions];
        for window in windows {
            let mean = self.bert.mean(&window).ok_or_else(|| Error::Failed("a token without a vector".to_owned()))?;
            sum.iter_mut().zip(unit(mean)?).for_each(|(sum, number)| *sum += number);
        }
        unit(sum)
    }

    /// Returns the ids of a text's tokens in windows of about the same length, each with the special tokens.
    pub fn windows(&self, text: &str) -> Result<Vec<Vec<u32>>, String> {
        let text = &text[..text.floor_char_boundary(MAX_TEXT)];
        let mut tokens = encode(&self.tokenizer, text, false)?;
        tokens.truncate(MAX_WINDOWS * self.room);
        let [start, end] = self.frame;
        let count = tokens.len().div_ceil(self.room).max(1);
        let bounds = |number: usize| number * tokens.len() / count;
        let window = |number| [&[start], &tokens[bounds(number)..bounds(number + 1)], &[end]].concat();
        Ok((0..count).map(window).collect())
    }
}

/// Makes a vector's length one.
fn unit(vector: Vec<f32>) -> Result<Vec<f32>, Error> {
    let length = vector.iter().map(|&number| f64::from(number).powi(2)).sum::<f64>().sqrt() as f32;
    if !length.is_normal() {
        return Err(Error::Failed(format!("a vector of length {length}")));
    }
    Ok(vector.into_iter().map(|number| number / length).collect())
}

fn encode(tokenizer: &Tokenizer, text: &str, special: bool) -> Result<Vec<u32>, String> {
    // `fast`: without each token's position in the text.
    let encoding = tokenizer.encode_fast(text, special).map_err(|error| error.to_string())?;
    Ok(encoding.get_ids().to_vec())
}

/// Makes the tokenizer neither truncate nor pad, and returns the special tokens around every text.
fn prepare(mut tokenizer: Tokenizer, config: &Config) -> Result<(Tokenizer, [u32; 2]), String> {
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
    let frame = encode(&tokenizer, "", true)?;
    let Ok(frame) = <[u32; 2]>::try_from(frame.as_slice()) else {
        return Err(format!("it puts {} tokens around a text, not [CLS] and [SEP]", frame.len()));
    };
    if frame.len() >= config.max_position_embeddings {
        return Err(format!(
            "it puts 2 tokens around a text, but there are {} positions",
            config.max_position_embeddings
        ));
    }
    let highest = tokenizer.get_vocab(true).into_values().chain(frame).max();
    match highest.is_some_and(|highest| (highest as usize) < config.vocab_size) {
        true => Ok((tokenizer, frame)),
        false => Err(format!("it has tokens beyond the {} that config.json says", config.vocab_size)),
    }
}

fn json<T: DeserializeOwned>(path: &Path, most: u64) -> Result<T, String> {
    serde_json::from_slice(&read(path, most)?).map_err(|error| error.to_string())
}

/// Reads a regular file of at most this many bytes: opening a pipe might block forever.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let about = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is not a file".to_owned());
    }
    if about.len() > most {
        return Err(format!("it has more than {most} bytes"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}
