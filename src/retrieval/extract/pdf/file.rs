//! A PDF as a store of numbered objects, read when they are asked for.
//!
//! lopdf unpacks streams and decrypts them. Its loader stays out: it reads everything up front, with
//! no way to stop it, and a table of contents of a few kilobytes can name one large stream a million
//! times.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use lopdf::{DecompressError, Dictionary, Document, EncryptionState, Object, ObjectId, Stream, encryption};
use memchr::memmem;

use super::lexer::{self, Lexer};
use super::table::{Place, Table};
use crate::retrieval::extract::{Budget, Error};

/// The most that one stream may unpack to.
const STREAM: usize = 64 << 20;
/// The most that is kept of streams that hold objects.
const PACKED: usize = 256 << 20;
/// The most filters a stream may go through.
const FILTERS: usize = 4;
/// How many references may lead from one to the next.
const HOPS: u32 = 16;

/// An open PDF. Objects that are missing or damaged are null, as the standard has it; the only
/// errors are those of the budget.
pub(super) struct File<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) budget: &'a Budget,
    table: RefCell<Table>,
    encryption: Option<EncryptionState>,
    packed: RefCell<HashMap<u32, Rc<Packed>>>,
    packed_total: Cell<usize>,
    /// How many objects are being fetched, one for the sake of the other.
    hops: Cell<u32>,
}

/// A stream of objects, unpacked.
#[derive(Default)]
struct Packed {
    data: Vec<u8>,
    starts: HashMap<u32, usize>,
}

impl<'a> File<'a> {
    pub(super) fn open(bytes: &'a [u8], budget: &'a Budget) -> Result<Self, Error> {
        // Positions count from the header, and something may come before it.
        let header = memmem::find(&bytes[..bytes.len().min(1024)], b"%PDF-").unwrap_or(0);
        let mut file = Self {
            bytes: &bytes[header..],
            budget,
            table: RefCell::default(),
            encryption: None,
            packed: RefCell::default(),
            packed_total: Cell::new(0),
            hops: Cell::new(0),
        };
        let table = Table::read(&file)?;
        file.table.replace(table);
        file.encryption = file.encryption()?;
        if !file.has_pages()? {
            file.repair()?;
            file.encryption = file.encryption()?;
            if !file.has_pages()? {
                return Err(Error::Pdf);
            }
        }
        Ok(file)
    }

    /// The catalog's dictionary.
    pub(super) fn catalog(&self) -> Result<Dictionary, Error> {
        let root = self.table.borrow().trailer.get(b"Root").cloned();
        self.dictionary(&root.unwrap_or(Object::Null))
    }

    fn has_pages(&self) -> Result<bool, Error> {
        let pages = self.entry(&self.catalog()?, b"Pages")?;
        Ok(pages.as_dict().is_ok_and(|pages| pages.has(b"Kids") || pages.has_type(b"Page")))
    }

    /// Makes a new table of contents from a look through the whole file; true the first time.
    fn repair(&self) -> Result<bool, Error> {
        if std::mem::replace(&mut self.table.borrow_mut().repaired, true) {
            return Ok(false);
        }
        self.packed.borrow_mut().clear();
        // The places first: the rest is found with their help.
        let places = Table::places_by_search(self)?;
        self.table.borrow_mut().places = places;
        let (more, trailer) = Table::rest_by_search(self)?;
        let mut table = self.table.borrow_mut();
        for (id, place) in more {
            table.places.entry(id).or_insert(place);
        }
        if let Some(trailer) = trailer {
            table.trailer = trailer;
        }
        Ok(true)
    }

    /// What is needed to decrypt, if the file is encrypted without a password to open it.
    fn encryption(&self) -> Result<Option<EncryptionState>, Error> {
        let trailer = self.table.borrow().trailer.clone();
        let mut encrypt = self.dictionary(trailer.get(b"Encrypt").unwrap_or(&Object::Null))?;
        if encrypt.is_empty() {
            return Ok(None);
        }
        for (_, value) in encrypt.iter_mut() {
            *value = self.get(value)?;
        }
        // lopdf wants a document around them.
        let mut document = Document::new();
        let id = document.add_object(encrypt);
        document.trailer.set("Encrypt", id);
        document.trailer.set("ID", self.entry(&trailer, b"ID")?);
        document.authenticate_raw_password(b"").map_err(|_| Error::PdfPassword)?;
        EncryptionState::decode(&document, b"").map(Some).map_err(|_| Error::PdfPassword)
    }

    /// The object itself, where `object` is a reference to one. A stream comes without its content,
    /// for which there is [`File::content`].
    pub(super) fn get(&self, object: &Object) -> Result<Object, Error> {
        match object.as_reference() {
            Ok(id) => self.fetch(id),
            Err(_) => Ok(object.clone()),
        }
    }

    /// The object under `key`, or null.
    pub(super) fn entry(&self, dictionary: &Dictionary, key: &[u8]) -> Result<Object, Error> {
        dictionary.get(key).map_or(Ok(Object::Null), |object| self.get(object))
    }

    /// The dictionary, or that of the stream, that `object` is or refers to; empty if it is neither.
    pub(super) fn dictionary(&self, object: &Object) -> Result<Dictionary, Error> {
        let object = self.get(object)?;
        if let Object::Stream(stream) = object {
            return Ok(stream.dict);
        }
        Ok(object.as_dict().cloned().unwrap_or_default())
    }

    /// The numbers in the array that `object` is or refers to.
    pub(super) fn numbers(&self, object: &Object) -> Result<Vec<f64>, Error> {
        let object = self.get(object)?;
        let items = object.as_array().map_or(&[][..], Vec::as_slice);
        items.iter().map(|item| Ok(number(&self.get(item)?).unwrap_or(0.0))).collect()
    }

    fn fetch(&self, id: ObjectId) -> Result<Object, Error> {
        // An object can be long.
        self.budget.check()?;
        if self.hops.get() >= HOPS {
            return Ok(Object::Null);
        }
        self.hops.set(self.hops.get() + 1);
        let object = self.fetch_once(id);
        self.hops.set(self.hops.get() - 1);
        object
    }

    fn fetch_once(&self, id: ObjectId) -> Result<Object, Error> {
        let place = self.table.borrow().places.get(&id.0).copied();
        let object = match place {
            None => Object::Null,
            Some(Place::Within(stream)) => {
                let packed = self.packed(stream)?;
                let start = packed.starts.get(&id.0).copied();
                start.and_then(|start| Lexer::new(&packed.data, start).object()).unwrap_or(Object::Null)
            }
            Some(Place::At(start)) => match self.object_at(start) {
                Some((number, object)) if number == id.0 => object,
                // The table of contents is wrong, here and maybe elsewhere.
                Some(_) | None if self.repair()? => return self.fetch_once(id),
                Some(_) | None => Object::Null,
            },
        };
        // An object that is but a reference.
        self.get(&object)
    }

    /// The object whose header stands at `start`, and its number.
    pub(super) fn object_at(&self, start: usize) -> Option<(u32, Object)> {
        let mut lexer = Lexer::new(self.bytes, start);
        let (number, _) = lexer.object_header()?;
        let object = lexer.object()?;
        let Object::Dictionary(dictionary) = object else {
            return Some((number, object));
        };
        lexer.skip_space();
        if !self.bytes[lexer.at..].starts_with(b"stream") {
            return Some((number, Object::Dictionary(dictionary)));
        }
        let line_end = &self.bytes[lexer.at + 6..];
        let skip = match line_end {
            [b'\r', b'\n', ..] => 2,
            [b'\r' | b'\n', ..] => 1,
            _ => 0,
        };
        let stream = Stream::with_position(dictionary, lexer.at + 6 + skip);
        Some((number, Object::Stream(stream)))
    }

    /// What the stream that `reference` refers to holds, unpacked; nothing if it is not a stream or
    /// cannot be unpacked.
    pub(super) fn content(&self, reference: &Object) -> Result<Option<Vec<u8>>, Error> {
        let id = reference.as_reference().ok();
        let Object::Stream(stream) = self.get(reference)? else {
            return Ok(None);
        };
        self.unpack(id, stream).map(Some)
    }

    /// Unpacks a stream that [`File::get`] gave.
    pub(super) fn unpack(&self, id: Option<ObjectId>, mut stream: Stream) -> Result<Vec<u8>, Error> {
        self.budget.check()?;
        let raw = self.raw(&stream)?;
        stream.set_content(raw.to_vec());
        if let (Some(id), Some(encryption)) = (id, &self.encryption) {
            let mut object = Object::Stream(stream);
            // What cannot be decrypted stays as it is, and gives no text.
            let _ = encryption::decrypt_object(encryption, id, &mut object);
            let Object::Stream(decrypted) = object else {
                return Ok(Vec::new());
            };
            stream = decrypted;
        }
        for key in [&b"Filter"[..], b"DecodeParms"] {
            let mut value = self.entry(&stream.dict, key)?;
            if let Ok(items) = value.as_array_mut() {
                if items.len() > FILTERS {
                    return Ok(Vec::new());
                }
                for item in items {
                    *item = self.get(item)?;
                }
            }
            stream.dict.remove(key);
            if !value.is_null() {
                stream.dict.set(key, value);
            }
        }
        match stream.get_plain_content_with_limit(STREAM) {
            Ok(content) => Ok(content),
            Err(lopdf::Error::Decompress(DecompressError::MemoryLimitExceeded { .. })) => Err(Error::TooLarge),
            Err(_) => Ok(Vec::new()),
        }
    }

    /// The bytes of a stream, as they stand in the file.
    fn raw(&self, stream: &Stream) -> Result<&'a [u8], Error> {
        let start = stream.start_position.unwrap_or(self.bytes.len()).min(self.bytes.len());
        let rest = &self.bytes[start..];
        let length = self.entry(&stream.dict, b"Length")?;
        let length = length.as_i64().ok().and_then(|length| usize::try_from(length).ok());
        if let Some((content, after)) = length.and_then(|length| rest.split_at_checked(length)) {
            let space = after.iter().take_while(|&&b| lexer::is_space(b)).count();
            if after[space..].starts_with(b"endstream") {
                return Ok(content);
            }
        }
        // The length is wrong or missing.
        Ok(&rest[..memmem::find(rest, b"endstream").unwrap_or(rest.len())])
    }

    /// The stream of objects with this number.
    fn packed(&self, id: u32) -> Result<Rc<Packed>, Error> {
        if let Some(packed) = self.packed.borrow().get(&id) {
            return Ok(packed.clone());
        }
        let packed = Rc::new(self.read_packed(id)?);
        let total = self.packed_total.get() + packed.data.len();
        self.packed_total.set(total);
        if total > PACKED {
            return Err(Error::TooLarge);
        }
        self.packed.borrow_mut().insert(id, packed.clone());
        Ok(packed)
    }

    fn read_packed(&self, id: u32) -> Result<Packed, Error> {
        let reference = Object::Reference((id, 0));
        // A stream of objects cannot be in another one.
        if !matches!(self.table.borrow().places.get(&id), Some(Place::At(_))) {
            return Ok(Packed::default());
        }
        let dictionary = self.dictionary(&reference)?;
        let first = self.entry(&dictionary, b"First")?.as_i64().unwrap_or(0);
        let first = usize::try_from(first).unwrap_or(0);
        let Some(data) = self.content(&reference)? else {
            return Ok(Packed::default());
        };
        let mut starts = HashMap::new();
        let mut lexer = Lexer::new(&data[..first.min(data.len())], 0);
        while let (Some(number), Some(start)) = (lexer.whole::<u32>(), lexer.whole::<usize>()) {
            self.budget.tick()?;
            starts.insert(number, first.saturating_add(start).min(data.len()));
        }
        Ok(Packed { data, starts })
    }

    /// The numbers and places of the objects that stand in the file by themselves, by number.
    pub(super) fn places(&self) -> Vec<(u32, usize)> {
        let table = self.table.borrow();
        let mut places: Vec<_> = table
            .places
            .iter()
            .filter_map(|(&id, &place)| match place {
                Place::At(at) => Some((id, at)),
                Place::Within(_) => None,
            })
            .collect();
        places.sort_unstable();
        places
    }

    /// The numbers of the objects that the stream with this number holds.
    pub(super) fn packed_ids(&self, stream: u32) -> Result<Vec<u32>, Error> {
        Ok(self.packed(stream)?.starts.keys().copied().collect())
    }
}

/// The value of a number.
pub(super) fn number(object: &Object) -> Option<f64> {
    match object.as_i64() {
        Ok(number) => Some(number as f64),
        Err(_) => object.as_f32().ok().map(f64::from),
    }
}
