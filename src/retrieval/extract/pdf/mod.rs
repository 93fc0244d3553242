//! PDF: the text of the pages, in the order in which their content shows it.
//!
//! `hayro-syntax` reads the file and `hayro-font` its fonts; the operators that show text are run
//! here, so that the deadline and the caps on unpacked bytes hold whatever the file says. Words and
//! lines come from where the glyphs stand ([`lines`]).
//!
//! Differs: the original's reader (pdf.js 1.10) knows neither predefined CJK maps nor the reading
//! order of right-to-left text, and glues words that only their position tells apart.

mod content;
mod file;
mod fonts;
mod form_fields;
mod inline_images;
mod lines;
mod pages;
mod stream;

use super::{Budget, Error};
use content::Reader;

/// The most text that a PDF may hold, in bytes: some ten thousand pages.
const TEXT: usize = 32 << 20;

/// The text of all pages that have any.
pub(super) fn text(pdf: &[u8], budget: &Budget) -> Result<String, Error> {
    let (pdf, root) = file::open(pdf, budget)?;
    let mut reader = Reader::new(budget);
    let mut text = String::new();
    pages::each(&pdf, root, budget, |page| {
        let mut page_text = reader.page(page)?;
        form_fields::append(&page.dict, &mut page_text, budget)?;
        if text.len() + page_text.len() > TEXT {
            return Err(Error::TooLarge);
        }
        if !page_text.is_empty() {
            let between_pages = if text.is_empty() { "" } else { " " };
            text.push_str(between_pages);
            text.push_str(&page_text);
        }
        Ok(())
    })?;
    Ok(text)
}

#[cfg(test)]
pub(super) mod tests;
