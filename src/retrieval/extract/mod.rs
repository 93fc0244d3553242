//! Takes the text out of a file.
//!
//! Files come from anybody, so every reader works within limits: a deadline that it looks at while
//! it works, and caps on what a file may unpack to and on how deep it may nest. The readers of csv,
//! json and PDF are this project's own where the original's habits or these limits asked for it;
//! each says why.

mod csv;
mod docx;
mod encoding;
mod json;
mod pdf;

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use encoding::decode;

/// The kinds of file that retrieval reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A table with commas; the first row names the columns.
    Csv,
    /// A Word document.
    Docx,
    /// JSON, of which the string values count.
    Json,
    /// Markdown.
    Md,
    /// PDF.
    Pdf,
    /// Plain text.
    Txt,
}

impl FileKind {
    /// The kind a file's name says it is: by what follows the last dot, in any case. A name without
    /// a dot counts whole.
    pub fn from_name(name: &str) -> Option<Self> {
        let extension = name.rsplit('.').next().unwrap_or(name).to_lowercase();
        Some(match extension.as_str() {
            "csv" => Self::Csv,
            "docx" => Self::Docx,
            "json" | "jsonl" | "ndjson" => Self::Json,
            "md" => Self::Md,
            "pdf" => Self::Pdf,
            "txt" => Self::Txt,
            _ => return None,
        })
    }
}

/// Why a file gave no text. The sentences are fit for the person who uploaded it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file is not JSON: what is wrong, and where.
    #[error("Invalid JSON: {0}")]
    Json(String),
    /// The file is not a PDF, or too damaged to find its pages.
    #[error("Invalid PDF structure")]
    Pdf,
    /// The PDF cannot be read without its password.
    #[error("The PDF is encrypted and needs a password")]
    PdfPassword,
    /// The PDF is encrypted in a way that this server does not know.
    #[error("The PDF is encrypted in a way that cannot be read")]
    PdfEncryption,
    /// The file is not a Word document.
    #[error("Invalid docx file: {0}")]
    Docx(&'static str),
    /// The file is called a text and is something else.
    #[error("The file is not text: it may be an image, an archive or a program under a wrong name")]
    NotText,
    /// The file unpacks to more than this server takes on.
    #[error("The file is too large once unpacked")]
    TooLarge,
    /// The deadline passed.
    #[error("The file took too long to read")]
    TooSlow,
    /// The file was read, and holds no text.
    #[error("The file has no text. Upload one that has")]
    NoText,
    /// The same of a PDF, whose pages may be images.
    #[error("The file has no text: it may be a scan. Upload it with recognized text (OCR)")]
    NoPdfText,
    /// A reader panicked: a bug, which costs this file and nothing else.
    #[error("The file could not be read")]
    Panicked,
}

/// The text of a file of this kind.
///
/// Blocks its thread, up to about `deadline`: the readers look at the clock as they go, and no step
/// between two looks takes more than a moment. Never panics.
pub fn text(kind: FileKind, bytes: &[u8], deadline: Instant) -> Result<String, Error> {
    let budget = Budget::until(deadline);
    let read = || match kind {
        FileKind::Txt | FileKind::Md => plain(bytes),
        FileKind::Csv => csv::text(&plain(bytes)?, &budget),
        FileKind::Json => json::text(&decode(bytes), &budget),
        FileKind::Pdf => pdf::text(bytes, &budget),
        FileKind::Docx => docx::text(bytes, &budget),
    };
    // The readers are written not to panic; the crates below them are many.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(Error::Panicked))
}

/// The text of a file that should be nothing else.
fn plain(bytes: &[u8]) -> Result<String, Error> {
    /// How much is looked at, in characters.
    const SAMPLE: usize = 1 << 16;
    let text = decode(bytes);
    // Images, archives and programs have one such character in ten; damaged texts have a few. NUL does not count, as it
    // is half of the characters of a text in an encoding that was not found out.
    let is_odd = |c: char| c.is_ascii_control() && !matches!(c, '\0' | '\t'..='\r' | '\x1b');
    let odd = text.chars().take(SAMPLE).filter(|&c| is_odd(c)).count();
    match odd < 16 || odd * 20 < bytes.len().min(SAMPLE) {
        true => Ok(text),
        false => Err(Error::NotText),
    }
}

/// The error for a file of this kind without a passage.
pub fn no_text(kind: FileKind) -> Error {
    match kind {
        FileKind::Pdf => Error::NoPdfText,
        _ => Error::NoText,
    }
}

/// What one file may cost.
struct Budget {
    deadline: Instant,
    /// Calls of [`Budget::tick`] since the last look at the clock.
    ticks: Cell<u32>,
}

impl Budget {
    /// The most text that a file may hold, in bytes.
    const TEXT: usize = 256 << 20;

    fn until(deadline: Instant) -> Self {
        Self { deadline, ticks: Cell::new(0) }
    }

    /// To be called in every loop that a file can make long.
    fn tick(&self) -> Result<(), Error> {
        /// A look at the clock costs about as much as this many short turns of a loop.
        const TURNS: u32 = 256;
        let ticks = (self.ticks.get() + 1) % TURNS;
        self.ticks.set(ticks);
        match ticks {
            0 => self.check(),
            _ => Ok(()),
        }
    }

    /// To be called before a step that takes long by itself.
    fn check(&self) -> Result<(), Error> {
        match Instant::now() < self.deadline {
            true => Ok(()),
            false => Err(Error::TooSlow),
        }
    }

    /// Appends to the text that is being made.
    fn append(&self, text: &mut String, more: &str) -> Result<(), Error> {
        if text.len() + more.len() > Self::TEXT {
            return Err(Error::TooLarge);
        }
        text.push_str(more);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
