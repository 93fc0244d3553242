//! docx: what mammoth's `extractRawText` gives, which is how chatbot-ui's browser code reads one.
//!
//! Differs: the original's server refuses a .docx file and takes only the text its browser code sends.

use std::io::{BufReader, Cursor, Read};

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use zip::ZipArchive;

use super::{Budget, Error};

/// The text of the document's body: its paragraphs, each with a blank line after it.
pub(super) fn text(docx: &[u8], budget: &Budget) -> Result<String, Error> {
    let mut archive = ZipArchive::new(Cursor::new(docx)).map_err(|_| Error::Docx("it is not a zip archive"))?;
    let named = named_part(&mut archive, budget);
    let part = [named.as_deref(), Some("word/document.xml")]
        .into_iter()
        .flatten()
        .find(|part| archive.index_for_name(part).is_some())
        .ok_or(Error::Docx("it has no document part"))?;
    let mut body = Body::default();
    each_event(&mut archive, part, budget, |event| body.event(event, budget))?;
    Ok(body.layers.swap_remove(0).text)
}

/// The part that the archive's relationships call the document.
fn named_part(archive: &mut ZipArchive<Cursor<&[u8]>>, budget: &Budget) -> Option<String> {
    let mut part = None;
    each_event(archive, "_rels/.rels", budget, |event| {
        if let Event::Start(tag) = event
            && attribute(&tag, "Type").is_some_and(|kind| kind.ends_with("/officeDocument"))
        {
            part = attribute(&tag, "Target").map(|target| target.trim_start_matches('/').to_owned());
        }
        Ok(())
    })
    .ok()?;
    part
}

/// Reads a part of the archive as XML, a piece at a time: however far it unpacks, no more than one
/// tag or stretch of text is in memory.
fn each_event(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    part: &str,
    budget: &Budget,
    mut take: impl FnMut(Event<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    /// The most that a part may unpack to.
    const UNPACKED: u64 = 128 << 20;
    /// How deep elements may nest.
    const DEPTH: usize = 1 << 12;
    let damaged = Error::Docx("its document part is damaged");
    let file = archive.by_name(part).map_err(|_| damaged.clone())?;
    let mut reader = Reader::from_reader(BufReader::new(Timed { unpacked: file.take(UNPACKED), budget }));
    // `<w:p/>` is a paragraph like any other.
    reader.config_mut().expand_empty_elements = true;
    let mut buffer = Vec::new();
    let mut depth = 0_usize;
    loop {
        budget.tick()?;
        buffer.clear();
        match reader.read_event_into(&mut buffer) {
            Ok(Event::Eof) if reader.buffer_position() >= UNPACKED => return Err(Error::TooLarge),
            Ok(Event::Eof) => return Ok(()),
            Ok(event) => {
                depth += usize::from(matches!(event, Event::Start(_)));
                depth = depth.saturating_sub(usize::from(matches!(event, Event::End(_))));
                if depth > DEPTH {
                    return Err(Error::Docx("it is nested too deeply"));
                }
                take(event)?;
            }
            Err(_) if reader.buffer_position() >= UNPACKED => return Err(Error::TooLarge),
            Err(_) => {
                budget.check()?;
                return Err(damaged);
            }
        }
    }
}

/// Ends at the deadline, be it in the middle of a tag.
struct Timed<'a, R> {
    unpacked: R,
    budget: &'a Budget,
}

impl<R: Read> Read for Timed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.budget.check().map_err(std::io::Error::other)?;
        self.unpacked.read(buffer)
    }
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = tag.try_get_attribute(name).ok()??;
    Some(attribute.value.into_owned())
}

/// The body on its way to text.
struct Body {
    /// The text so far, and above it the text boxes that are open.
    layers: Vec<Layer>,
    /// Where the table cells that are open start, and whether they continue the cell above.
    cells: Vec<(usize, bool)>,
    /// How many elements are open within one whose text does not count.
    skipped: usize,
    /// Within a `w:t`.
    in_text: bool,
}

#[derive(Default)]
struct Layer {
    text: String,
    /// Text boxes, which come after the paragraph that holds them.
    after_paragraph: String,
}

impl Default for Body {
    fn default() -> Self {
        Self { layers: vec![Layer::default()], cells: Vec::new(), skipped: 0, in_text: false }
    }
}

impl Body {
    fn event(&mut self, event: Event<'_>, budget: &Budget) -> Result<(), Error> {
        match event {
            Event::Start(_) if self.skipped > 0 => self.skipped += 1,
            Event::End(_) if self.skipped > 0 => self.skipped -= 1,
            _ if self.skipped > 0 => {}
            Event::Start(tag) => match tag.name().as_ref() {
                // Deleted and moved away, phonetic, or there a second time as `mc:Fallback`; and the
                // tab stops of a paragraph, which are elements like its tabs.
                "w:del" | "w:moveFrom" | "w:rt" | "mc:Choice" | "w:pPr" => self.skipped = 1,
                "w:t" => self.in_text = true,
                "w:tc" => {
                    let start = self.text().len();
                    self.cells.push((start, false));
                }
                "w:txbxContent" => self.layers.push(Layer::default()),
                _ => self.mark(&tag, budget)?,
            },
            Event::End(tag) => match tag.name().as_ref() {
                "w:t" => self.in_text = false,
                "w:p" => {
                    let after = std::mem::take(&mut self.layer().after_paragraph);
                    self.append("\n\n", budget)?;
                    self.append(&after, budget)?;
                }
                "w:tc" => {
                    if let Some((start, true)) = self.cells.pop() {
                        self.text().truncate(start);
                    }
                }
                "w:txbxContent" if self.layers.len() > 1 => {
                    let text_box = self.layers.pop().unwrap_or_default();
                    budget.append(&mut self.layer().after_paragraph, &text_box.text)?;
                }
                _ => {}
            },
            Event::Text(text) if self.in_text => self.append(&text.xml10_content(), budget)?,
            Event::CData(text) if self.in_text => self.append(&text.xml10_content(), budget)?,
            Event::GeneralRef(entity) if self.in_text => {
                if let Ok(Some(c)) = entity.resolve_char_ref() {
                    self.append(c.encode_utf8(&mut [0; 4]), budget)?;
                } else if let Some(text) = resolve_predefined_entity(&entity) {
                    self.append(text, budget)?;
                }
            }
            Event::Empty(_)
            | Event::Text(_)
            | Event::CData(_)
            | Event::GeneralRef(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_)
            | Event::Eof => {}
        }
        Ok(())
    }

    /// Elements that stand for a character, and the one that marks a cell.
    fn mark(&mut self, tag: &BytesStart<'_>, budget: &Budget) -> Result<(), Error> {
        let text = match tag.name().as_ref() {
            "w:tab" => "\t",
            "w:noBreakHyphen" => "\u{2011}",
            "w:softHyphen" => "\u{ad}",
            // Differs: mammoth drops line breaks, and the words around them become one.
            "w:br" if attribute(tag, "w:type").is_none_or(|kind| kind == "textWrapping") => "\n",
            "w:vMerge" => {
                let merged = attribute(tag, "w:val").is_none_or(|value| value == "continue");
                if let Some(cell) = self.cells.last_mut() {
                    cell.1 = merged;
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.append(text, budget)
    }

    fn append(&mut self, more: &str, budget: &Budget) -> Result<(), Error> {
        budget.append(self.text(), more)
    }

    fn text(&mut self) -> &mut String {
        &mut self.layer().text
    }

    fn layer(&mut self) -> &mut Layer {
        let top = self.layers.len() - 1;
        &mut self.layers[top]
    }
}

#[cfg(test)]
pub(super) mod tests;
