//! Model folders for tests: the architecture of all-MiniLM-L6-v2 in any size, with numbers derived from the tensors'
//! names as described in `tests/retrieval/local.json`.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Map, Value, json};

/// A temporary folder, removed on drop.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("chatbot-ui-api-model-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("as the test wrote it");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _stays = fs::remove_dir_all(&self.0);
    }
}

/// Returns the small model's `config`, its `vocab`, and `cases`: `text`, `windows` and `vector`.
pub fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../tests/retrieval/local.json")).expect("as the test wrote it")
}

/// Creates a folder with a model of this configuration; the length of `vocab` overrides its `vocab_size`.
pub fn model(mut config: Value, vocab: &[Value]) -> Folder {
    config["vocab_size"] = vocab.len().into();
    let folder = Folder::new();
    fs::write(folder.file("config.json"), config.to_string()).expect("as the test wrote it");
    fs::write(folder.file("tokenizer.json"), tokenizer(vocab).to_string()).expect("as the test wrote it");
    write_weights(&folder.file("model.safetensors"), &config);
    folder
}

/// Creates the small model with as many dimensions as the database column.
pub fn wide_model() -> Folder {
    let mut fixture = fixture();
    let config = &mut fixture["config"];
    (config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]) =
        (384.into(), 12.into(), 1.into());
    model(config.clone(), fixture["vocab"].as_array().expect("as the test wrote it"))
}

/// Like the real one, including its truncation and padding, both of which the server must override.
fn tokenizer(vocab: &[Value]) -> Value {
    let special: Vec<Value> = vocab[..5]
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "special": true, "content": content, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        })
        .collect();
    let vocab: Map<String, Value> = vocab
        .iter()
        .enumerate()
        .map(|(id, token)| (token.as_str().expect("as the test wrote it").to_owned(), id.into()))
        .collect();
    let token = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let sequence = |id: &str, type_id| json!({"Sequence": {"id": id, "type_id": type_id}});
    json!({
        "version": "1.0",
        "truncation": {"max_length": 12, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]"), sequence("A", 0), token("[SEP]")],
            "pair": [token("[CLS]"), sequence("A", 0), token("[SEP]"), sequence("B", 1), token("[SEP]")],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [vocab["[CLS]"]], "tokens": ["[CLS]"]},
                               "[SEP]": {"id": "[SEP]", "ids": [vocab["[SEP]"]], "tokens": ["[SEP]"]}}
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab}
    })
}

/// Returns every tensor's name and shape. The last two are in the real file as well, but unused here.
pub fn tensors(config: &Value) -> Vec<(String, Vec<usize>)> {
    let size = |name: &str| {
        usize::try_from(config[name].as_u64().expect("as the test wrote it")).expect("as the test wrote it")
    };
    let (width, inner) = (size("hidden_size"), size("intermediate_size"));
    let mut tensors = Vec::new();
    for (name, rows) in
        [("word", "vocab_size"), ("position", "max_position_embeddings"), ("token_type", "type_vocab_size")]
    {
        tensors.push((format!("embeddings.{name}_embeddings.weight"), vec![size(rows), width]));
    }
    let norm = |name: &str| ["weight", "bias"].map(|what| (format!("{name}.LayerNorm.{what}"), vec![width]));
    tensors.extend(norm("embeddings"));
    for layer in 0..size("num_hidden_layers") {
        for (name, outputs, inputs) in [
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", inner, width),
            ("output.dense", width, inner),
        ] {
            let name = format!("encoder.layer.{layer}.{name}");
            tensors.push((format!("{name}.weight"), vec![outputs, inputs]));
            tensors.push((format!("{name}.bias"), vec![outputs]));
        }
        tensors.extend(norm(&format!("encoder.layer.{layer}.attention.output")));
        tensors.extend(norm(&format!("encoder.layer.{layer}.output")));
    }
    tensors.push(("pooler.dense.weight".to_owned(), vec![width, width]));
    tensors.push(("pooler.dense.bias".to_owned(), vec![width]));
    tensors
}

fn write_weights(path: &Path, config: &Value) {
    let tensors = tensors(config);
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut at = 0;
    for (name, shape) in &tensors {
        let end = at + 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(path).expect("as the test wrote it"));
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("as the test wrote it");
    file.write_all(header.as_bytes()).expect("as the test wrote it");
    for (name, shape) in &tensors {
        for number in numbers(name).take(shape.iter().product()) {
            file.write_all(&number.to_le_bytes()).expect("as the test wrote it");
        }
    }
    file.into_inner().expect("as the test wrote it");
}

/// Returns the numbers of a tensor, as described under `about` in `tests/retrieval/local.json`.
fn numbers(name: &str) -> impl Iterator<Item = f32> + '_ {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let number = move |u: f64| match name {
        _ if name.ends_with("LayerNorm.weight") => 1.0 + u / 4.0,
        _ if name.ends_with(".bias") => u / 8.0,
        _ if name.ends_with("_embeddings.weight") => u,
        _ => u / 2.0,
    };
    (1..).map(move |index: u64| {
        let mut z = hash.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        number((z >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
    })
}
