//! Files to passages.
//!
//! A file goes through three steps, each a blocking function: [`extract::text`] extracts the text from the file's
//! bytes, within limits of time and memory; [`split::split`] splits it into passages of at most 4,000 UTF-16 code units
//! that overlap by up to 200; [`tokens::count`] counts a passage's tokens for an embedding model. [`file_chunks`] does
//! all three, [`chunks`] the last two, for text without a file.
//!
//! Around them: [`ingest`] bounds how many files are read at once, [`storage`] downloads files, [`embed`] and [`local`]
//! compute the passages' vectors.

pub mod embed;
pub mod extract;
pub mod ingest;
pub mod local;
pub mod split;
pub mod storage;
pub mod tokens;

use std::time::Instant;

use extract::{Error, FileKind};

/// A passage of a file, as it is stored and embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The passage.
    pub content: String,
    /// Its length in tokens of `cl100k_base`.
    pub tokens: i32,
}

/// Returns the passages of a file of this kind. Blocks its thread, until about `deadline` at most.
///
/// Differs: the original stores nothing of a file without text, and reports success. That is left of it for Word
/// documents, which may be nothing but a layout.
///
/// # Errors
/// If the file cannot be read in time, or has no text.
pub fn file_chunks(kind: FileKind, bytes: &[u8], deadline: Instant) -> Result<Vec<Chunk>, Error> {
    let text = extract::text(kind, bytes, deadline)?;
    let in_time = |passage| match Instant::now() < deadline {
        true => Ok(chunk(passage)),
        false => Err(Error::TooSlow),
    };
    let chunks: Vec<Chunk> = split::split(&text, rules(kind)).into_iter().map(in_time).collect::<Result<_, _>>()?;
    if kind == FileKind::Docx { Ok(chunks) } else { some(kind, chunks) }
}

/// Returns the passages of `text`, as of a file of this kind. Takes a second for some 10 to 150 MB.
///
/// # Errors
/// If there are none.
pub fn chunks(kind: FileKind, text: &str) -> Result<Vec<Chunk>, Error> {
    some(kind, split::split(text, rules(kind)).into_iter().map(chunk).collect())
}

fn some(kind: FileKind, chunks: Vec<Chunk>) -> Result<Vec<Chunk>, Error> {
    if chunks.is_empty() { Err(extract::no_text(kind)) } else { Ok(chunks) }
}

fn rules(kind: FileKind) -> &'static split::Rules {
    match kind {
        FileKind::Csv => &split::CSV,
        FileKind::Md => &split::MARKDOWN,
        FileKind::Txt | FileKind::Json | FileKind::Pdf | FileKind::Docx => &split::PLAIN,
    }
}

fn chunk(content: String) -> Chunk {
    Chunk { tokens: i32::try_from(tokens::count(&content)).unwrap_or(i32::MAX), content }
}

#[cfg(test)]
mod tests;
