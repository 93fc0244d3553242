//! The recordings in `tests/retrieval`: every file must give the passages and counts that a real chatbot-ui 2.0 stored
//! for it.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    Chunk, chunks,
    extract::{Error, FileKind},
    file_chunks,
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/retrieval");

fn cases() -> Vec<Value> {
    let json = std::fs::read_to_string(format!("{FOLDER}/cases.json")).unwrap();
    serde_json::from_str(&json).unwrap()
}

/// Returns the file of a case, and its kind by name.
fn file(case: &Value) -> Option<(FileKind, Vec<u8>)> {
    let file = case["file"].as_str().unwrap();
    let kind = FileKind::from_name(case["storedName"].as_str().unwrap_or(file))?;
    Some((kind, std::fs::read(format!("{FOLDER}/files/{file}")).unwrap()))
}

fn in_time(kind: FileKind, bytes: &[u8]) -> Result<Vec<Chunk>, Error> {
    file_chunks(kind, bytes, Instant::now() + Duration::from_secs(30))
}

fn expected(case: &Value) -> Option<Vec<Chunk>> {
    let chunk = |chunk: &Value| Chunk {
        content: chunk["content"].as_str().unwrap().to_owned(),
        tokens: chunk["tokens"].as_i64().unwrap().try_into().unwrap(),
    };
    Some(case["expect"]["chunks"].as_array()?.iter().map(chunk).collect())
}

#[test]
fn recorded_files_give_the_recorded_passages() {
    let mut replayed = 0;
    for case in cases() {
        let Some(expected) = expected(&case) else {
            continue;
        };
        let id = &case["id"];
        let got = match case["kind"].as_str().unwrap() {
            "process" => {
                let (kind, bytes) = file(&case).unwrap();
                in_time(kind, &bytes).unwrap()
            }
            "docx" => chunks(FileKind::Docx, case["body"]["text"].as_str().unwrap()).unwrap(),
            other => panic!("{id}: passages in a case of kind {other}"),
        };
        if case["expect"]["loose"].is_null() {
            assert_eq!(got, expected, "{id}");
        } else {
            let words = |chunks: &[Chunk]| -> Vec<String> {
                let words = chunks.iter().flat_map(|chunk| chunk.content.split_whitespace());
                words.map(str::to_owned).collect()
            };
            let tokens = |chunks: &[Chunk]| chunks.iter().map(|chunk| f64::from(chunk.tokens)).sum::<f64>();
            assert_eq!(words(&got), words(&expected), "{id}");
            assert!((tokens(&got) / tokens(&expected) - 1.0).abs() <= 0.05, "{id}");
        }
        replayed += 1;
    }
    assert_eq!(replayed, 18);
}

#[test]
fn recorded_failures_fail_in_words_that_name_the_format() {
    for case in cases().iter().filter(|case| case["kind"] == "process") {
        let wanted = case["expect"]["messageHas"].as_str();
        if let (Some("JSON" | "PDF"), Some((kind, bytes))) = (wanted, file(case)) {
            let message = in_time(kind, &bytes).unwrap_err().to_string();
            assert!(message.contains(wanted.unwrap()), "{}: {message}", case["id"]);
        }
        if case["expect"]["text"] == "Unsupported file type" {
            assert!(file(case).is_none(), "{}", case["id"]);
        }
    }
}

#[test]
fn counting_ends_at_the_deadline_too() {
    // Plain text is read in one step, without checking the time.
    assert_eq!(file_chunks(FileKind::Txt, b"some text", Instant::now()), Err(Error::TooSlow));
    assert_eq!(file_chunks(FileKind::Txt, b"", Instant::now()), Err(Error::NoText));
}

#[test]
fn a_file_without_a_passage_says_so() {
    for (kind, bytes) in [
        (FileKind::Txt, &b" \n\xc2\xa0"[..]),
        (FileKind::Md, b""),
        (FileKind::Csv, b"a,b\n"),
        (FileKind::Json, b" [ ] "),
    ] {
        assert_eq!(in_time(kind, bytes), Err(Error::NoText), "{kind:?}");
    }
    assert_eq!(chunks(FileKind::Docx, "\n\n"), Err(Error::NoText));
    let numbers = in_time(FileKind::Json, b" {\"a\": [1, true, \"\"]}\n").unwrap();
    assert_eq!(numbers[0].content, "{\"a\": [1, true, \"\"]}");
    let blank = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n\
        2 0 obj\n<< /Type /Pages /Kids [3 0 R] /Count 1 >>\nendobj\n\
        3 0 obj\n<< /Type /Page /Parent 2 0 R >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n";
    assert_eq!(in_time(FileKind::Pdf, blank), Err(Error::NoPdfText));
}
