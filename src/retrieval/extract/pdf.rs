//! pdf: the text that its pages show.
//!
//! As pdf.js 1.10 and LangChain's loader read it: a new line where the text stands at another height
//! than the text before it, and a space between pages. lopdf's own extraction knows neither heights
//! nor forms, and so runs words of different lines into one.
//!
//! Differs: text that runs from right to left stays in the order in which the page shows it, where
//! pdf.js puts what it takes for such text in reading order.

mod cmap;
mod content;
mod encoding;
mod file;
mod font;
mod lexer;
mod metrics;
mod operand;
mod state;
mod table;

use std::collections::HashSet;
use std::rc::Rc;

use lopdf::{Dictionary, Object};

use super::{Budget, Error};
use content::Kept;
use file::File;

/// The most that the content of one page may unpack to.
const CONTENT: usize = 128 << 20;

/// The text of all pages that have any.
pub(super) fn text(pdf: &[u8], budget: &Budget) -> Result<String, Error> {
    let file = File::open(pdf, budget)?;
    let mut kept = Kept::default();
    let mut text = String::new();
    let mut between_pages = "";
    each_page(&file, |page, resources| {
        let content = page_content(&file, page)?;
        if let Some(page_text) = content::text(&file, &mut kept, &content, resources)? {
            budget.append(&mut text, between_pages)?;
            budget.append(&mut text, &page_text)?;
            between_pages = " ";
        }
        Ok(())
    })?;
    Ok(text)
}

/// Calls `visit` with every page and its resources, in order.
fn each_page(
    file: &File<'_>,
    mut visit: impl FnMut(&Dictionary, &Dictionary) -> Result<(), Error>,
) -> Result<(), Error> {
    let root = file.catalog()?.get(b"Pages").cloned().unwrap_or(Object::Null);
    // A page may inherit its resources from the nodes above it.
    let mut nodes = vec![(root, Rc::new(Dictionary::new()))];
    let mut seen = HashSet::new();
    while let Some((node, mut resources)) = nodes.pop() {
        file.budget.tick()?;
        if node.as_reference().is_ok_and(|id| !seen.insert(id)) {
            continue;
        }
        let node = file.dictionary(&node)?;
        if let Ok(own) = node.get(b"Resources") {
            resources = Rc::new(file.dictionary(own)?);
        }
        if !node.has_type(b"Page") && node.has(b"Kids") {
            let kids = file.entry(&node, b"Kids")?;
            let kids = kids.as_array().map_or(&[][..], Vec::as_slice);
            nodes.extend(kids.iter().rev().map(|kid| (kid.clone(), resources.clone())));
        } else if !node.is_empty() {
            visit(&node, &resources)?;
        }
    }
    Ok(())
}

/// The content of a page, which may be in several streams.
fn page_content(file: &File<'_>, page: &Dictionary) -> Result<Vec<u8>, Error> {
    let contents = page.get(b"Contents").unwrap_or(&Object::Null);
    if let Some(content) = file.content(contents)? {
        return Ok(content);
    }
    let mut all = Vec::new();
    let parts = file.get(contents)?;
    for part in parts.as_array().map_or(&[][..], Vec::as_slice) {
        if let Some(content) = file.content(part)? {
            if all.len() + content.len() > CONTENT {
                return Err(Error::TooLarge);
            }
            all.extend_from_slice(&content);
            // No token goes on in the next stream.
            all.push(b'\n');
        }
    }
    Ok(all)
}

#[cfg(test)]
pub(super) mod tests;
