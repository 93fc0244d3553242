//! Word documents: what mammoth's `extractRawText` gives, which is how chatbot-ui's browser code reads one.
//!
//! Differs: the original's server refuses a .docx file and takes only the text its browser code sends.

use std::io::{BufReader, Cursor, Read};

use quick_xml::{
    NsReader,
    escape::resolve_predefined_entity,
    events::{BytesStart, Event},
    name::{Namespace, ResolveResult},
};
use zip::ZipArchive;

use super::{Budget, Error};

/// The text of the document's body: its paragraphs, each with a blank line after it.
pub(super) fn text(docx: &[u8], budget: &Budget) -> Result<String, Error> {
    // The container of encrypted documents, and of those before 2007.
    if docx.starts_with(b"\xd0\xcf\x11\xe0") {
        return Err(Error::Docx("it is encrypted, or in the format of Word 97"));
    }
    let mut archive = ZipArchive::new(Cursor::new(docx)).map_err(|_| Error::Docx("it is not a zip archive"))?;
    let named = named_part(&mut archive, budget);
    let part = [named.as_deref(), Some("word/document.xml")]
        .into_iter()
        .flatten()
        .find(|part| archive.index_for_name(part).is_some())
        .ok_or(Error::Docx("it has no document part"))?;
    let mut body = Body::default();
    each_event(&mut archive, part, budget, |space, event| body.event(space, event, budget))?;
    Ok(body.layers.swap_remove(0).text)
}

/// The part that the archive's relationships call the document.
fn named_part(archive: &mut ZipArchive<Cursor<&[u8]>>, budget: &Budget) -> Option<String> {
    let mut part = None;
    each_event(archive, "_rels/.rels", budget, |_, event| {
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
    mut take: impl FnMut(Space, Event<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    /// The most that a part may unpack to.
    const UNPACKED: u64 = 128 << 20;
    /// How deep elements may nest.
    const DEPTH: usize = 1 << 12;
    let damaged = Error::Docx("its document part is damaged");
    let file = archive.by_name(part).map_err(|_| damaged.clone())?;
    let mut reader = NsReader::from_reader(BufReader::new(Timed { unpacked: file.take(UNPACKED), budget }));
    // `<w:p/>` is a paragraph like any other.
    reader.config_mut().expand_empty_elements = true;
    let mut buffer = Vec::new();
    let mut depth = 0_usize;
    loop {
        budget.tick()?;
        buffer.clear();
        let read = reader.read_resolved_event_into(&mut buffer);
        match read.map(|(space, event)| (Space::of(&space), event)) {
            Ok((_, Event::Eof)) if reader.buffer_position() >= UNPACKED => return Err(Error::TooLarge),
            Ok((_, Event::Eof)) => return Ok(()),
            Ok((space, event)) => {
                depth += usize::from(matches!(event, Event::Start(_)));
                depth = depth.saturating_sub(usize::from(matches!(event, Event::End(_))));
                if depth > DEPTH {
                    return Err(Error::Docx("it is nested too deeply"));
                }
                take(space, event)?;
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

/// The namespaces whose elements mean something here.
#[derive(Clone, Copy, PartialEq)]
enum Space {
    Word,
    /// Markup compatibility: what stands there in several ways.
    Compatibility,
    Other,
}

impl Space {
    fn of(space: &ResolveResult<'_>) -> Self {
        const WORD: [&str; 2] = [
            "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
            "http://purl.oclc.org/ooxml/wordprocessingml/main",
        ];
        const COMPATIBILITY: &str = "http://schemas.openxmlformats.org/markup-compatibility/2006";
        match space {
            ResolveResult::Bound(Namespace(name)) if WORD.contains(name) => Self::Word,
            ResolveResult::Bound(Namespace(COMPATIBILITY)) => Self::Compatibility,
            // A document without the declaration is better read than passed over in silence.
            ResolveResult::Unknown(prefix) if prefix.as_str() == "w" => Self::Word,
            ResolveResult::Bound(_) | ResolveResult::Unbound | ResolveResult::Unknown(_) => Self::Other,
        }
    }
}

/// The value of an attribute, whatever its prefix.
fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = tag.attributes().flatten().find(|attribute| attribute.key.local_name().as_ref() == name)?;
    Some(attribute.value.into_owned())
}

/// The body on its way to text.
struct Body {
    /// The text so far, and above it the text boxes that are open.
    layers: Vec<Layer>,
    /// Where the table cells that are open start, and whether they continue the cell above.
    cells: Vec<(usize, bool)>,
    /// The alternatives that are open: how long the text was before them, and whether one is read.
    alternatives: Vec<Alternative>,
    /// How many elements are open within one whose text does not count.
    skipped: usize,
    /// Within a `w:t`.
    in_text: bool,
}

struct Alternative {
    layer: usize,
    text: usize,
    after_paragraph: usize,
    is_read: bool,
}

#[derive(Default)]
struct Layer {
    text: String,
    /// Text boxes, which come after the paragraph that holds them.
    after_paragraph: String,
}

impl Default for Body {
    fn default() -> Self {
        Self { layers: vec![Layer::default()], cells: Vec::new(), alternatives: Vec::new(), skipped: 0, in_text: false }
    }
}

impl Body {
    fn event(&mut self, space: Space, event: Event<'_>, budget: &Budget) -> Result<(), Error> {
        match event {
            Event::Start(_) if self.skipped > 0 => self.skipped += 1,
            Event::End(_) if self.skipped > 0 => self.skipped -= 1,
            _ if self.skipped > 0 => {}
            Event::Start(tag) => match (space, tag.local_name().as_ref()) {
                // Deleted and moved away, and phonetic; and the tab stops of a paragraph, which are
                // elements like its tabs.
                (Space::Word, "del" | "moveFrom" | "rt" | "pPr") => self.skipped = 1,
                (Space::Word, "t") => self.in_text = true,
                (Space::Word, "tc") => {
                    let start = self.text().len();
                    self.cells.push((start, false));
                }
                (Space::Word, "txbxContent") => self.layers.push(Layer::default()),
                (Space::Word, _) => self.mark(&tag, budget)?,
                (Space::Compatibility, name) => self.alternative(name),
                (Space::Other, _) => {}
            },
            Event::End(tag) => match (space, tag.local_name().as_ref()) {
                (Space::Word, "t") => self.in_text = false,
                (Space::Word, "p") => {
                    let after = std::mem::take(&mut self.layer().after_paragraph);
                    self.append("\n\n", budget)?;
                    self.append(&after, budget)?;
                }
                (Space::Word, "tc") => {
                    if let Some((start, true)) = self.cells.pop() {
                        self.text().truncate(start);
                    }
                }
                (Space::Word, "txbxContent") if self.layers.len() > 1 => {
                    let text_box = self.layers.pop().unwrap_or_default();
                    budget.append(&mut self.layer().after_paragraph, &text_box.text)?;
                }
                (Space::Compatibility, "AlternateContent") => drop(self.alternatives.pop()),
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

    /// Of what stands there in several ways, mammoth reads the `Fallback`. Differs: without one, the
    /// first `Choice` is read, where mammoth reads nothing.
    fn alternative(&mut self, name: &str) {
        let layer = self.layers.len() - 1;
        let (text, after_paragraph) = (self.layer().text.len(), self.layer().after_paragraph.len());
        match (name, self.alternatives.last_mut()) {
            ("AlternateContent", _) => {
                self.alternatives.push(Alternative { layer, text, after_paragraph, is_read: false });
            }
            ("Choice", Some(open)) if !open.is_read => open.is_read = true,
            ("Choice", _) => self.skipped = 1,
            ("Fallback", Some(open)) if open.layer == layer => {
                let (text, after_paragraph) = (open.text, open.after_paragraph);
                self.layer().text.truncate(text);
                self.layer().after_paragraph.truncate(after_paragraph);
            }
            _ => {}
        }
    }

    /// Elements that stand for a character, and the one that marks a cell.
    fn mark(&mut self, tag: &BytesStart<'_>, budget: &Budget) -> Result<(), Error> {
        let text = match tag.local_name().as_ref() {
            "tab" => "\t",
            "noBreakHyphen" => "\u{2011}",
            "softHyphen" => "\u{ad}",
            // Differs: mammoth drops line breaks, and the words around them become one.
            "br" if attribute(tag, "type").is_none_or(|kind| kind == "textWrapping") => "\n",
            "sym" => {
                let c =
                    attribute(tag, "char").zip(attribute(tag, "font")).and_then(|(code, font)| symbol(&code, &font));
                return c.map_or(Ok(()), |c| self.append(c.encode_utf8(&mut [0; 4]), budget));
            }
            "vMerge" => {
                let merged = attribute(tag, "val").is_none_or(|value| value == "continue");
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

/// The character of a symbol font. Such fonts have theirs in a private area, from U+F000 on.
fn symbol(code: &str, font: &str) -> Option<char> {
    const SYMBOL: &str = "ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖαβχδεφγηιϕκλμνοπθρστυϖωξψζ";
    const WINGDINGS: [(char, char); 8] =
        [('l', '●'), ('n', '■'), ('o', '☐'), ('§', '▪'), ('à', '→'), ('û', '☒'), ('ü', '☑'), ('þ', '☑')];
    let code = u32::from_str_radix(code, 16).ok()?;
    let (0xf020..=0xf0ff, Some(byte)) = (code, char::from_u32(code & 0xff)) else {
        return char::from_u32(code).filter(|c| !c.is_control());
    };
    match font {
        "Symbol" if byte.is_ascii_uppercase() => SYMBOL.chars().nth(byte as usize - 'A' as usize),
        "Symbol" if byte.is_ascii_lowercase() => SYMBOL.chars().nth(byte as usize - 'a' as usize + 26),
        "Symbol" if byte.is_ascii() => Some(byte),
        "Wingdings" => WINGDINGS.iter().find(|(of, _)| *of == byte).map(|(_, c)| *c),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests;
