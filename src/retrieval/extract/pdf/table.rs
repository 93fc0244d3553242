//! The table of contents of a PDF: where each object stands. As the file has it, or, where that is
//! damaged, from a look through the whole file.

use std::collections::{HashMap, HashSet};

use lopdf::{Dictionary, Object};
use memchr::memmem;

use super::file::File;
use super::lexer::{Lexer, Token};
use crate::retrieval::extract::Error;

/// The most objects that a table may have.
const OBJECTS: usize = 1 << 21;

/// Where an object stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// At this byte.
    At(usize),
    /// In the stream with this number.
    Within(u32),
}

/// The places of the objects by their numbers, and what the file says of itself.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) places: HashMap<u32, Place>,
    pub(super) trailer: Dictionary,
    /// It was made by a look through the file; there is nothing better to be had.
    pub(super) repaired: bool,
}

impl Table {
    /// Reads the table of the file, newest part first. What is damaged is left out.
    pub(super) fn read(file: &File<'_>) -> Result<Self, Error> {
        let mut table = Self::default();
        // Places are only entered for objects that have none yet; deleted ones get none at all.
        let mut deleted = HashSet::new();
        let mut sections: Vec<usize> = last_section(file.bytes).into_iter().collect();
        let mut seen = HashSet::new();
        while let Some(at) = sections.pop() {
            file.budget.check()?;
            if !seen.insert(at) || at >= file.bytes.len() {
                continue;
            }
            let mut lexer = Lexer::new(file.bytes, at);
            let trailer = match lexer.token() {
                Some(Token::Word(b"xref")) => table.plain_section(file, &mut lexer, &mut deleted)?,
                _ => table.stream_section(file, at, &mut deleted)?,
            };
            let Some(trailer) = trailer else { continue };
            // The part in a stream, if there is one beside the plain one, comes before older ones.
            for key in [&b"Prev"[..], b"XRefStm"] {
                let at = trailer.get(key).and_then(Object::as_i64);
                sections.extend(at.ok().and_then(|at| usize::try_from(at).ok()));
            }
            for (key, value) in &trailer {
                if !table.trailer.has(key) {
                    table.trailer.set(key.clone(), value.clone());
                }
            }
        }
        Ok(table)
    }

    fn enter(&mut self, id: u32, place: Option<Place>, deleted: &mut HashSet<u32>) -> Result<(), Error> {
        match place {
            Some(place) if !deleted.contains(&id) => {
                self.places.entry(id).or_insert(place);
            }
            None if !self.places.contains_key(&id) => {
                deleted.insert(id);
            }
            Some(_) | None => {}
        }
        match self.places.len() + deleted.len() > OBJECTS {
            true => Err(Error::TooLarge),
            false => Ok(()),
        }
    }

    /// A section in plain text, behind its `xref`; gives its trailer.
    fn plain_section(
        &mut self,
        file: &File<'_>,
        lexer: &mut Lexer<'_>,
        deleted: &mut HashSet<u32>,
    ) -> Result<Option<Dictionary>, Error> {
        loop {
            let before = lexer.at;
            let Some(first) = lexer.whole::<u32>() else {
                lexer.at = before;
                break;
            };
            let Some(count) = lexer.whole::<u32>() else {
                break;
            };
            for id in first..first.saturating_add(count) {
                file.budget.tick()?;
                let before = lexer.at;
                let (Some(at), Some(_)) = (lexer.whole::<usize>(), lexer.whole::<u32>()) else {
                    // Fewer entries than announced.
                    lexer.at = before;
                    break;
                };
                let place = match lexer.token() {
                    Some(Token::Word(b"n")) => Some(Place::At(at)),
                    _ => None,
                };
                self.enter(id, place, deleted)?;
            }
        }
        if lexer.token() != Some(Token::Word(b"trailer")) {
            return Ok(None);
        }
        Ok(lexer.object().and_then(dictionary))
    }

    /// A section in a stream; its dictionary is its trailer.
    fn stream_section(
        &mut self,
        file: &File<'_>,
        at: usize,
        deleted: &mut HashSet<u32>,
    ) -> Result<Option<Dictionary>, Error> {
        let Some((_, Object::Stream(stream))) = file.object_at(at) else {
            return Ok(None);
        };
        let trailer = stream.dict.clone();
        let widths: Vec<usize> = whole_numbers(&trailer, b"W");
        let [kind_width, place_width, last_width] = widths[..] else {
            return Ok(None);
        };
        let row = kind_width.saturating_add(place_width).saturating_add(last_width);
        if row == 0 || widths.iter().any(|&width| width > 8) {
            return Ok(None);
        }
        let mut ranges: Vec<u32> = whole_numbers(&trailer, b"Index");
        if ranges.is_empty() {
            ranges = [0].into_iter().chain(whole_number(&trailer, b"Size")).collect();
        }
        let ids = ranges.chunks_exact(2).flat_map(|range| range[0]..range[0].saturating_add(range[1]));

        let data = file.unpack(None, stream)?;
        for (id, row) in ids.zip(data.chunks_exact(row)) {
            file.budget.tick()?;
            let (kind, rest) = row.split_at(kind_width);
            let place = big_endian(&rest[..place_width]);
            let place = match if kind.is_empty() { 1 } else { big_endian(kind) } {
                1 => usize::try_from(place).ok().map(Place::At),
                2 => u32::try_from(place).ok().map(Place::Within),
                _ => None,
            };
            self.enter(id, place, deleted)?;
        }
        Ok(Some(trailer))
    }

    /// The places of all objects whose headers can be found; of several with one number, the last.
    pub(super) fn places_by_search(file: &File<'_>) -> Result<HashMap<u32, Place>, Error> {
        let mut places = HashMap::new();
        for word in memmem::find_iter(file.bytes, b"obj") {
            file.budget.tick()?;
            if let Some((id, at)) = header_before(file.bytes, word) {
                places.insert(id, Place::At(at));
                if places.len() > OBJECTS {
                    return Err(Error::TooLarge);
                }
            }
        }
        Ok(places)
    }

    /// What only shows once the places are known: the objects in streams, and a trailer.
    pub(super) fn rest_by_search(file: &File<'_>) -> Result<(HashMap<u32, Place>, Option<Dictionary>), Error> {
        let mut trailer = None;
        for word in memmem::find_iter(file.bytes, b"trailer") {
            file.budget.check()?;
            let found = Lexer::new(file.bytes, word + 7).object().and_then(dictionary);
            if let Some(found) = found.filter(|found| found.has(b"Root")) {
                trailer = Some(found);
            }
        }

        let mut within = HashMap::new();
        for (id, at) in file.places() {
            file.budget.check()?;
            let Some((_, object)) = file.object_at(at) else {
                continue;
            };
            let Ok(dictionary) = object.as_dict().or(object.as_stream().map(|stream| &stream.dict)) else {
                continue;
            };
            if dictionary.has_type(b"ObjStm") {
                for member in file.packed_ids(id)? {
                    within.insert(member, Place::Within(id));
                    if within.len() > OBJECTS {
                        return Err(Error::TooLarge);
                    }
                }
            } else if dictionary.has_type(b"XRef") && dictionary.has(b"Root") && trailer.is_none() {
                trailer = Some(dictionary.clone());
            }
        }
        Ok((within, trailer))
    }
}

/// Where the newest section starts, by the end of the file.
fn last_section(bytes: &[u8]) -> Option<usize> {
    let word = memmem::rfind(bytes, b"startxref")?;
    Lexer::new(bytes, word + 9).whole()
}

/// The number and the start of the object whose header's `obj` stands at `word`.
fn header_before(bytes: &[u8], word: usize) -> Option<(u32, usize)> {
    let mut at = word;
    let mut back = |wanted: fn(&u8) -> bool, most: usize| {
        let run = bytes[..at].iter().rev().take(most).take_while(|&b| wanted(b)).count();
        at -= run;
        (run > 0).then_some(at)
    };
    let is_space = |b: &u8| b.is_ascii_whitespace();
    back(is_space, 32);
    back(u8::is_ascii_digit, 5)?;
    back(is_space, 32)?;
    let start = back(u8::is_ascii_digit, 10)?;
    let (id, _) = Lexer::new(bytes, start).object_header()?;
    Some((id, start))
}

fn dictionary(object: Object) -> Option<Dictionary> {
    match object.as_dict() {
        Ok(dictionary) => Some(dictionary.clone()),
        Err(_) => None,
    }
}

fn whole_number<T: TryFrom<i64>>(dictionary: &Dictionary, key: &[u8]) -> Option<T> {
    T::try_from(dictionary.get(key).and_then(Object::as_i64).ok()?).ok()
}

fn whole_numbers<T: TryFrom<i64>>(dictionary: &Dictionary, key: &[u8]) -> Vec<T> {
    let items = dictionary.get(key).and_then(Object::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().map_while(|item| T::try_from(item.as_i64().ok()?).ok()).collect()
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &b| number << 8 | u64::from(b))
}
