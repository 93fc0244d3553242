//! Opening a file in a way that bounds what the library does with it.
//!
//! `hayro-syntax` does three things by itself that a file can make long or large: it resolves all
//! pages when it opens a file, it unpacks object streams and cross-reference streams, and it reads
//! the whole file anew where a table is damaged. So before it is given a file,
//! * all that looks like an object is skipped once, against the clock;
//! * what its object streams unpack to is measured, and how many objects there are;
//! * a catalog without pages is put behind it, and the pages are read one at a time by [`super::pages`].

use std::collections::{HashMap, HashSet};

use hayro_syntax::object::{Array, Dict, FromBytes, MaybeRef, Object, ObjectIdentifier, Stream};
use hayro_syntax::reader::{Reader, ReaderExt};
use hayro_syntax::{DecryptionError, LoadPdfError, Pdf};
use memchr::memmem;

use super::super::{Budget, Error};
use super::stream;

/// The most objects of a file.
const OBJECTS: usize = 1 << 21;
/// The most that its object streams may unpack to, which the library keeps.
const PACKED: usize = 128 << 20;
/// The longest dictionary or array, in bytes.
const LONGEST: usize = 8 << 20;
/// The number of the catalog that is put behind the file.
const CATALOG: u32 = 4_000_000_000;

/// Opens the file, and says which object is its catalog.
pub(super) fn open(bytes: &[u8], budget: &Budget) -> Result<(Pdf, ObjectIdentifier), Error> {
    let survey = Survey::new(bytes, budget)?;
    let start = last_table(bytes);
    let trailers = survey.trailers.iter().map(|&at| (at, dict_at(bytes, at)));
    let trailers: Vec<(usize, Dict<'_>)> = trailers.filter_map(|(at, dict)| Some((at, dict?))).collect();
    // The newest, else any.
    let newest = start.and_then(|start| trailers.iter().find(|(at, _)| *at >= start));
    let security = newest.or(trailers.last()).map(|(_, trailer)| security(trailer)).unwrap_or_default();
    let is_encrypted = !security.is_empty();
    // So that what is measured with the keys of the one is what is unpacked with those of the other.
    let table = if is_encrypted { survey.table() } else { String::new() };

    if is_encrypted {
        let probe = load(with_catalog(bytes, &table, None, &security))?;
        survey.measure(budget, |object| match object.id {
            Some(id) => probe.xref().get::<Stream<'_>>(id),
            None => None,
        })?;
    } else {
        survey.measure(budget, |object| Stream::from_bytes(bytes.get(object.at..)?))?;
    }
    // A table at the very start is none, and makes the library look for the objects itself.
    let pdf = load(with_catalog(bytes, &table, start.or(Some(0)), &security))?;

    let roots = newest.into_iter().chain(trailers.iter().rev());
    let roots = roots.filter_map(|(_, trailer)| Some(trailer.get_ref("Root")?.into()));
    let has_pages =
        |id: &ObjectIdentifier| pdf.xref().get::<Dict<'_>>(*id).is_some_and(|root| root.contains_key("Pages"));
    let root = roots.chain(survey.catalogs.iter().rev().copied()).find(has_pages).ok_or(Error::Pdf)?;
    Ok((pdf, root))
}

fn load(bytes: Vec<u8>) -> Result<Pdf, Error> {
    Pdf::new(bytes).map_err(|error| match error {
        LoadPdfError::Decryption(DecryptionError::PasswordProtected) => Error::PdfPassword,
        LoadPdfError::Decryption(_) => Error::PdfEncryption,
        LoadPdfError::Invalid => Error::Pdf,
    })
}

/// The entries of a trailer that decryption needs, written out; empty for a file in the open.
fn security(trailer: &Dict<'_>) -> Vec<u8> {
    let mut entries = Vec::new();
    match trailer.get_raw::<Object<'_>>("Encrypt") {
        Some(MaybeRef::Ref(id)) => {
            let id = ObjectIdentifier::from(id);
            entries.extend(format!("/Encrypt {} {} R", id.obj_number, id.gen_number).bytes());
        }
        Some(MaybeRef::NotRef(Object::Dict(dict))) => {
            entries.extend(b"/Encrypt ");
            entries.extend(dict.data());
        }
        _ => return entries,
    }
    if let Some(id) = trailer.get::<Array<'_>>("ID") {
        entries.extend(b"/ID[");
        entries.extend(id.data());
        entries.push(b']');
    }
    entries
}

/// The file with a catalog without pages behind it, and a table of the two that begins with `table`
/// and goes on with the one at `previous`.
fn with_catalog(bytes: &[u8], table: &str, previous: Option<usize>, security: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(bytes.len() + table.len() + security.len() + 512);
    file.extend(bytes);
    file.push(b'\n');
    let catalog = file.len();
    let (id, pages) = (CATALOG, CATALOG + 1);
    file.extend(format!("{id} 0 obj<</Type/Catalog/Pages {pages} 0 R>>endobj\n").bytes());
    let kids = file.len();
    file.extend(format!("{pages} 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n").bytes());
    let start = file.len();
    file.extend(format!("xref\n{table}{id} 2\n{catalog:010} 00000 n \n{kids:010} 00000 n \n").bytes());
    file.extend(format!("trailer\n<</Size {}/Root {id} 0 R", CATALOG + 2).bytes());
    if let Some(previous) = previous {
        file.extend(format!("/Prev {previous}").bytes());
    }
    file.extend(security);
    file.extend(format!(">>\nstartxref\n{start}\n%%EOF\n").bytes());
    file
}

/// Where the newest table starts, by the end of the file.
fn last_table(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader::new_with(bytes, memmem::rfind(bytes, b"startxref")? + 9);
    reader.skip_white_spaces_and_comments();
    let at: u32 = reader.read_without_context()?;
    usize::try_from(at).ok().filter(|&at| at < bytes.len())
}

fn dict_at(bytes: &[u8], at: usize) -> Option<Dict<'_>> {
    Dict::from_bytes(bytes.get(at..)?)
}

/// A stream that may be unpacked without being asked for.
struct Packed {
    id: Option<ObjectIdentifier>,
    /// Where its dictionary starts.
    at: usize,
}

/// What a look at all objects of a file found.
#[derive(Default)]
struct Survey {
    /// Where the objects start.
    objects: HashMap<ObjectIdentifier, usize>,
    packed: Vec<Packed>,
    /// Where dictionaries with a root start.
    trailers: Vec<usize>,
    catalogs: Vec<ObjectIdentifier>,
}

impl Survey {
    fn new(bytes: &[u8], budget: &Budget) -> Result<Self, Error> {
        let mut survey = Self::default();
        let mut streams = Vec::new();
        let mut tables = Vec::new();
        for word in memmem::find_iter(bytes, b"obj") {
            budget.tick()?;
            if word.checked_sub(1).and_then(|before| bytes.get(before)).is_some_and(u8::is_ascii_alphabetic) {
                continue;
            }
            let header = header_before(bytes, word);
            let id = header.map(|(id, _)| id);
            if let Some((id, at)) = header {
                survey.objects.insert(id, at);
            }
            if survey.objects.len() > OBJECTS {
                return Err(Error::TooLarge);
            }
            let Some((at, dict, end)) = object_after(bytes, word + 3, budget)? else {
                continue;
            };
            let is_stream = bytes[end..].starts_with(b"stream");
            if has_name(dict, "/Catalog") {
                survey.catalogs.extend(id);
            }
            if is_stream && has_name(dict, "/W") {
                tables.push(at);
            }
            match id {
                // With an id that cannot be told, it may be any.
                _ if is_stream && (has_name(dict, "ObjStm") || id.is_none()) => survey.packed.push(Packed { id, at }),
                Some(id) if is_stream => streams.push((id, at)),
                _ => {}
            }
        }
        survey.find_trailers(bytes, budget)?;

        // Object streams are also what a table takes for one.
        let mut numbers = HashSet::new();
        let mut entries = 0;
        for at in tables {
            let Some(table) = bytes.get(at..).and_then(Stream::from_bytes) else { continue };
            let Some([kind, second, third]) = table.dict().get::<[u8; 3]>("W") else { continue };
            let Some(data) = stream::unpacked(&table, budget)? else { continue };
            // The kind is one byte, whatever its width.
            let [kind, second, third] = [kind.min(1), second, third].map(usize::from);
            for entry in data.chunks((kind + second + third).max(1)) {
                budget.tick()?;
                entries += 1;
                if kind > 0 && entry.first() == Some(&2) {
                    let number = entry.get(1..=second).unwrap_or_default();
                    numbers.insert(number.iter().fold(0_u32, |number, &b| number << 8 | u32::from(b)));
                }
                if entries > OBJECTS {
                    return Err(Error::TooLarge);
                }
            }
        }
        let taken = streams.into_iter().filter(|(id, _)| numbers.contains(&id.obj_number));
        survey.packed.extend(taken.map(|(id, at)| Packed { id: Some(id), at }));
        Ok(survey)
    }

    /// Skips all dictionaries as the library does when it looks for objects itself.
    fn find_trailers(&mut self, bytes: &[u8], budget: &Budget) -> Result<(), Error> {
        let mut at = 0;
        while let Some(next) = bytes.get(at..).and_then(|rest| memmem::find(rest, b"<<")) {
            at += next;
            budget.check()?;
            let mut reader = Reader::new_with(bytes, at);
            let Some(dict) = reader.skip::<Dict<'_>>(false) else {
                at += 2;
                continue;
            };
            if dict.len() > LONGEST {
                return Err(Error::TooLarge);
            }
            if has_name(dict, "/Root") && dict_at(bytes, at).is_some_and(|dict| dict.get_ref("Root").is_some()) {
                self.trailers.push(at);
            }
            at += dict.len();
        }
        Ok(())
    }

    /// Measures what the library would unpack by itself.
    ///
    /// # Errors
    /// If that is too much, or cannot be told.
    fn measure<'a>(&self, budget: &Budget, read: impl Fn(&Packed) -> Option<Stream<'a>>) -> Result<(), Error> {
        let (mut all, mut members) = (0, 0);
        for packed in &self.packed {
            let Some(stream) = read(packed) else { continue };
            let dict = stream.dict();
            // A length or filter elsewhere in the file would be another one here than there.
            let elsewhere = ["Filter", "F", "DecodeParms", "DP", "N"];
            if elsewhere.iter().any(|key| dict.get_ref(key).is_some()) {
                return Err(Error::Pdf);
            }
            all += stream::measure(&stream, budget)?.unwrap_or(0);
            members += dict.get::<Object<'_>>("N").and_then(Object::into_number).map_or(0, |n| n.as_i64().max(0));
            if all > PACKED || members > OBJECTS as i64 {
                return Err(Error::TooLarge);
            }
        }
        Ok(())
    }

    /// The places of all objects, as parts of a table.
    fn table(&self) -> String {
        let mut table = String::new();
        for (id, at) in &self.objects {
            table.push_str(&format!("{} 1\n{at:010} {:05} n \n", id.obj_number, id.gen_number));
        }
        table
    }
}

/// The number of the object whose `obj` stands at `word`, and where it starts.
fn header_before(bytes: &[u8], word: usize) -> Option<(ObjectIdentifier, usize)> {
    let mut at = word;
    let mut back = |wanted: fn(&u8) -> bool, most: usize| {
        let run = bytes[..at].iter().rev().take(most).take_while(|&byte| wanted(byte)).count();
        at -= run;
        &bytes[at..at + run]
    };
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u32>().ok();
    back(u8::is_ascii_whitespace, 32);
    let generation = number(back(u8::is_ascii_digit, 5))?;
    back(u8::is_ascii_whitespace, 32);
    let id = number(back(u8::is_ascii_digit, 10))?;
    Some((ObjectIdentifier::new(id, i32::try_from(generation).ok()?), at))
}

/// The dictionary that is the object here: where it starts, its bytes, and where what follows it is.
/// Any other object is skipped.
fn object_after<'a>(bytes: &'a [u8], at: usize, budget: &Budget) -> Result<Option<(usize, &'a [u8], usize)>, Error> {
    let mut reader = Reader::new_with(bytes, at);
    reader.skip_white_spaces_and_comments();
    let at = reader.offset();
    if !matches!(bytes.get(at), Some(b'<' | b'(' | b'[')) {
        return Ok(None);
    }
    let object = reader.skip::<Object<'_>>(false);
    budget.check()?;
    let Some(object) = object else {
        return Ok(None);
    };
    if object.len() > LONGEST {
        return Err(Error::TooLarge);
    }
    reader.skip_white_spaces_and_comments();
    Ok(object.starts_with(b"<<").then(|| (at, object, reader.offset().min(bytes.len()))))
}

/// Whether a name may stand among these bytes; escaped, it may be any.
fn has_name(bytes: &[u8], name: &str) -> bool {
    memchr::memchr(b'#', bytes).is_some() || memmem::find(bytes, name.as_bytes()).is_some()
}
