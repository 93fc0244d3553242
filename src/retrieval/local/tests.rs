//! Tests with the small model of `tests/retrieval/local.json`, valid and broken.

use std::fs;

use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    DIMENSIONS, Error, LocalEmbeddings,
    model::Model,
    tiny::{Folder, fixture, model, tensors, wide_model},
};

fn small() -> (Folder, Value) {
    let fixture = fixture();
    (model(fixture["config"].clone(), fixture["vocab"].as_array().unwrap()), fixture)
}

fn vector(case: &Value) -> Vec<f32> {
    serde_json::from_value(case["vector"].clone()).unwrap()
}

/// Cosine similarity of two vectors of length one.
fn likeness(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn problem(folder: &Folder) -> String {
    match Model::load(folder.path()) {
        Err(Error::Model(what)) => what,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was loaded"),
    }
}

/// Changes a file that holds JSON.
fn edit(folder: &Folder, name: &str, change: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&fs::read(folder.file(name)).unwrap()).unwrap();
    change(&mut json);
    fs::write(folder.file(name), json.to_string()).unwrap();
}

/// Returns the header and the numbers of the weights.
fn weights(folder: &Folder) -> (Value, Vec<u8>) {
    let bytes = fs::read(folder.file("model.safetensors")).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, numbers) = rest.split_at(u64::from_le_bytes(*length).try_into().unwrap());
    (serde_json::from_slice(header).unwrap(), numbers.to_vec())
}

fn write_weights(folder: &Folder, header: &str, numbers: &[u8]) {
    let length = (header.len() as u64).to_le_bytes();
    fs::write(folder.file("model.safetensors"), [&length, header.as_bytes(), numbers].concat()).unwrap();
}

#[test]
fn vectors_are_those_of_the_reference() {
    let (folder, fixture) = small();
    let model = Model::load(folder.path()).unwrap();
    let mut furthest = 0_f32;
    for case in fixture["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(json!(model.windows(text).unwrap()), case["windows"], "{text:?}");
        let (got, expected) = (model.embed(text).unwrap(), vector(case));
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            furthest = furthest.max((got - expected).abs());
        }
    }
    assert!(furthest < 2e-6, "{furthest}");
}

#[test]
fn numbers_may_be_stored_in_16_bits_and_under_longer_names() {
    let (folder, fixture) = small();
    let (header, numbers) = weights(&folder);
    let mut halves = serde_json::Map::new();
    for (name, tensor) in header.as_object().unwrap() {
        if name != "__metadata__" {
            let offsets = [0, 1].map(|end| tensor["data_offsets"][end].as_u64().unwrap() / 2);
            let tensor = json!({"dtype": "BF16", "shape": tensor["shape"], "data_offsets": offsets});
            halves.insert(format!("bert.{name}"), tensor);
        }
    }
    let numbers: Vec<u8> = numbers.as_chunks::<4>().0.iter().flat_map(|bytes| [bytes[2], bytes[3]]).collect();
    write_weights(&folder, &Value::Object(halves).to_string(), &numbers);

    let model = Model::load(folder.path()).unwrap();
    for case in fixture["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert!(likeness(&model.embed(text).unwrap(), &vector(case)) > 0.99, "{text:?}");
    }
}

#[test]
fn of_a_long_text_the_end_counts_too() {
    let (folder, _) = small();
    let model = Model::load(folder.path()).unwrap();
    // This small model has 48 positions, two of them for the special tokens.
    let start = "the cat sat on the mat. ".repeat(20);
    let long = format!("{start}{}", "walking dogs said hello to the world. ".repeat(6));
    let windows = model.windows(&long).unwrap();
    let lengths: Vec<usize> = windows.iter().map(Vec::len).collect();
    let (least, most) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
    assert!(windows.len() == 5 && most - least <= 1 && *most <= 48, "{lengths:?}");
    assert!(windows.iter().all(|window| window[0] == 2 && window[window.len() - 1] == 3));
    let end = model.embed("walking dogs said hello to the world.").unwrap();
    let (whole, beginning) = (model.embed(&long).unwrap(), model.embed(&start).unwrap());
    assert!((likeness(&whole, &whole) - 1.0).abs() < 1e-5);
    assert!(likeness(&end, &whole) > likeness(&end, &beginning) + 0.01);
}

#[test]
fn of_an_endless_text_eight_windows_count() {
    let (folder, _) = small();
    let model = Model::load(folder.path()).unwrap();
    let long = "the cat sat on the mat. ".repeat(1_000_000);
    assert_eq!(model.windows(&long).unwrap().len(), 8);
    assert_eq!(model.embed(&long), model.embed(&long[..10_000]));
    // Truncated within a character, and without the end of a word.
    for text in [format!("{}{}", "a".repeat((64 << 10) - 1), "日".repeat(9)), "ä".repeat(5_000_000)] {
        assert_eq!(model.windows(&text[..64 << 8]).unwrap(), [[2, 1, 3]]);
        assert!(model.embed(&text).is_ok());
    }
}

#[tokio::test]
async fn a_package_is_used_as_it_was_unpacked() {
    let (wide, package) = (wide_model(), Folder::new());
    let inside = package.file(super::IN_PACKAGE);
    fs::create_dir_all(&inside).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(wide.file(file), inside.join(file)).unwrap();
    }
    let texts = || vec!["hello".to_owned()];
    let unpacked = LocalEmbeddings::new(Some(package.path().to_owned())).embed(texts()).await.unwrap();
    assert_eq!(LocalEmbeddings::new(Some(inside)).embed(texts()).await, Ok(unpacked));
}

#[test]
fn the_sentence_says_which_file_is_missing() {
    let (folder, _) = small();
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        fs::remove_file(folder.file(file)).unwrap();
        let problem = problem(&folder);
        assert!(problem.starts_with(&format!("{file}: No such file")), "{problem}");
        // Nor is a folder a file.
        fs::create_dir(folder.file(file)).unwrap();
        assert_eq!(self::problem(&folder), format!("{file}: it is not a file"));
        fs::remove_dir(folder.file(file)).unwrap();
    }
}

#[test]
fn a_configuration_that_is_not_this_models_is_refused() {
    let (folder, fixture) = small();
    for (name, value, said) in [
        ("hidden_act", json!("relu"), "hidden_act is relu"),
        ("model_type", json!("xlm-roberta"), "model_type is xlm-roberta"),
        ("position_embedding_type", json!("relative_key"), "position_embedding_type"),
        ("hidden_size", json!(0), "hidden_size is 0"),
        ("hidden_size", json!(1_u64 << 60), "hidden_size"),
        ("hidden_size", json!(-1), "invalid value"),
        ("num_attention_heads", json!(5), "not a multiple"),
        ("num_attention_heads", json!(0), "num_attention_heads is 0"),
        ("layer_norm_eps", json!(-1.0), "layer_norm_eps"),
        ("vocab_size", json!(98), "tokenizer.json: it has tokens beyond the 98"),
        ("vocab_size", json!(100), "word_embeddings.weight has the shape [99, 32], but config.json says [100, 32]"),
        ("hidden_size", json!(64), "[99, 64]"),
        ("intermediate_size", json!(65), "encoder.layer.0.intermediate.dense.weight has the shape [64, 32]"),
        ("num_hidden_layers", json!(3), "it has no tensor encoder.layer.2.attention.self.query.weight"),
        (
            "max_position_embeddings",
            json!(2),
            "tokenizer.json: it puts 2 tokens around a text, but there are 2 positions",
        ),
    ] {
        let mut config = fixture["config"].clone();
        config[name] = value;
        fs::write(folder.file("config.json"), config.to_string()).unwrap();
        let problem = problem(&folder);
        assert!(problem.contains(said), "{name}: {problem}");
    }
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    for (change, said) in [
        (json!({"post_processor": null}), "it puts 0 tokens around a text, not [CLS] and [SEP]"),
        (json!({"model": {"type": "WordPiece"}}), "tokenizer.json: "),
        (json!({"model": 7}), "tokenizer.json: "),
    ] {
        let (folder, _) = small();
        edit(&folder, "tokenizer.json", |tokenizer| {
            let (name, value) = change.as_object().unwrap().iter().next().unwrap();
            tokenizer[name] = value.clone();
        });
        let problem = problem(&folder);
        assert!(problem.contains(said), "{problem}");
    }
    // A token that only the post-processor knows.
    let (folder, _) = small();
    edit(&folder, "tokenizer.json", |tokenizer| {
        tokenizer["post_processor"]["special_tokens"]["[SEP]"]["ids"][0] = 4_000_000_000_u32.into();
    });
    assert!(problem(&folder).contains("it has tokens beyond the 99"));
}

#[test]
fn broken_weights_are_refused() {
    let (folder, fixture) = small();
    let (header, numbers) = weights(&folder);
    let name = "encoder.layer.1.output.dense.weight";
    for (part, value, said) in [
        ("shape", json!([64, 32]), "has the shape [64, 32], but config.json says [32, 64]"),
        ("shape", json!([2048]), "has the shape [2048]"),
        ("shape", json!([32, -1]), "it cannot be read"),
        ("dtype", json!("I32"), "holds I32"),
        ("dtype", json!("F16"), "it cannot be read"),
        ("data_offsets", json!([0, 8191]), "it cannot be read"),
        ("data_offsets", json!([8192, 0]), "it cannot be read"),
        ("data_offsets", json!([numbers.len(), numbers.len() + 8192]), "it cannot be read"),
        ("data_offsets", json!([u64::MAX - 8192, u64::MAX]), "it cannot be read"),
        ("data_offsets", json!([0]), "it cannot be read"),
    ] {
        let mut header = header.clone();
        header[name][part] = value;
        write_weights(&folder, &header.to_string(), &numbers);
        let problem = problem(&folder);
        assert!(problem.starts_with("model.safetensors: ") && problem.contains(said), "{part}: {problem}");
    }

    let mut infinite = numbers.clone();
    infinite[4000..4004].copy_from_slice(&f32::NAN.to_le_bytes());
    write_weights(&folder, &header.to_string(), &infinite);
    assert!(problem(&folder).contains("not a number"));

    // A header longer than the file, longer than anything, with bytes that are not text, or nested deeply.
    for bytes in [
        [9_u64.to_le_bytes().as_slice(), b"{}"].concat(),
        [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat(),
        [2_u64.to_le_bytes().as_slice(), b"\xff\xff"].concat(),
        [200_000_u64.to_le_bytes().as_slice(), "[".repeat(200_000).as_bytes()].concat(),
    ] {
        fs::write(folder.file("model.safetensors"), bytes).unwrap();
        assert!(problem(&folder).contains("it cannot be read"));
    }

    // Huge sizes that all three files agree on, in a small file.
    let mut config = fixture["config"].clone();
    config["intermediate_size"] = 32768.into();
    config["hidden_size"] = 8192.into();
    fs::write(folder.file("config.json"), config.to_string()).unwrap();
    let mut huge = json!({});
    for (name, shape) in tensors(&config) {
        let bytes = 4 * shape.iter().product::<usize>();
        huge[name] = json!({"dtype": "F32", "shape": shape, "data_offsets": [0, bytes]});
    }
    write_weights(&folder, &huge.to_string(), &numbers);
    assert!(problem(&folder).contains("it cannot be read"));
}

#[test]
fn whatever_is_cut_off_or_changed_is_an_error_or_a_model() {
    let (folder, _) = small();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let whole = fs::read(folder.file(name)).unwrap();
        let head = whole.len().min(12_000);
        for at in (0..head).step_by(head / 60) {
            fs::write(folder.file(name), &whole[..at]).unwrap();
            assert!(problem(&folder).starts_with(name));
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(folder.file(name), changed).unwrap();
            if let Ok(model) = Model::load(folder.path()) {
                // Either result is correct, but not a panic.
                let _either = model.embed("the cat sat on the mat");
            }
        }
        fs::write(folder.file(name), whole).unwrap();
    }
    assert!(Model::load(folder.path()).is_ok());
}

#[tokio::test]
async fn many_callers_share_one_model() {
    let folder = wide_model();
    let local = LocalEmbeddings::new(Some(folder.path().to_owned()));
    let texts = ["", "hello world", "the cat sat"].map(str::to_owned).to_vec();
    let answers = join_all((0..20).map(|_| local.embed(texts.clone()))).await;
    let first = answers[0].clone().unwrap();
    for answer in answers {
        assert_eq!(answer.as_ref(), Ok(&first));
    }
    for vector in &first {
        assert_eq!(vector.len(), DIMENSIONS);
        assert!((likeness(vector, vector) - 1.0).abs() < 1e-5);
    }
    // The model is in memory now.
    drop(folder);
    assert_eq!(local.embed(texts).await, Ok(first));
}

#[tokio::test]
async fn without_a_model_the_sentence_says_what_to_put_where() {
    let texts = || vec!["hello".to_owned()];
    let error = LocalEmbeddings::new(None).embed(texts()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "Local embeddings need the model all-MiniLM-L6-v2: put its config.json, tokenizer.json and \
         model.safetensors into a folder and set LOCAL_EMBEDDINGS_DIR to it (`check` says where to get them)"
    );

    // Once the files are there, the next call finds them.
    let (wide, empty) = (wide_model(), Folder::new());
    let local = LocalEmbeddings::new(Some(empty.path().to_owned()));
    assert_eq!(local.embed(Vec::new()).await, Ok(Vec::new()));
    let error = local.embed(texts()).await.unwrap_err().to_string();
    assert!(error.contains("config.json: No such file") && error.contains("LOCAL_EMBEDDINGS_DIR"), "{error}");
    assert!(!error.contains(&*empty.path().to_string_lossy()), "{error}");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(wide.file(file), empty.file(file)).unwrap();
    }
    assert!(local.embed(texts()).await.is_ok());
}

#[tokio::test]
async fn another_models_vectors_do_not_fit_the_database() {
    let (folder, _) = small();
    let error = LocalEmbeddings::new(Some(folder.path().to_owned())).embed(vec!["hello".to_owned()]).await;
    assert_eq!(error, Err(Error::Model("config.json: its vectors have 32 numbers, not 384".to_owned())));
}
