//! Fonts: codes out of strings, how wide their glyphs are, and which characters they stand for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use hayro_font::hayro_cmap::{BfString, CMap, CMapName, load_embedded};
use hayro_font::{CMapResolverFn, FontCache, FontGlyph, FontQuery, FontResolverFn, OutlineGlyph, StandardFont};
use hayro_syntax::object::{Array, Dict, Name, Object, String as PdfString};
use skrifa::{FontRef, MetadataProvider};

use super::super::{Budget, Error};
use super::stream;

/// The most fonts that are kept.
const FONTS: usize = 64;
/// The most characters of an embedded font that are looked at.
const CHARACTERS: usize = 1 << 17;

/// The fonts of a file, kept as far as that stays small.
pub(super) struct Fonts<'a> {
    cache: FontCache<'a>,
    fonts: HashMap<(usize, usize), Option<Rc<Font<'a>>>>,
    standard: FontResolverFn,
    cmaps: CMapResolverFn,
}

impl<'a> Fonts<'a> {
    pub(super) fn new() -> Self {
        let standard: FontResolverFn = Arc::new(|query| match query {
            FontQuery::Standard(font) => Some(font.get_font_data()),
            FontQuery::Fallback(query) => Some(query.pick_standard_font().get_font_data()),
        });
        Self { cache: FontCache::new(), fonts: HashMap::new(), standard, cmaps: Arc::new(|name| load_embedded(name)) }
    }

    /// The font that a dictionary describes; a standard font in place of one that cannot be read.
    pub(super) fn get(&mut self, dict: Option<&Dict<'a>>, budget: &Budget) -> Result<Option<Rc<Font<'a>>>, Error> {
        let missing = Dict::default();
        let dict = dict.unwrap_or(&missing);
        let key = (dict.data().as_ptr() as usize, dict.data().len());
        if let Some(font) = self.fonts.get(&key) {
            return Ok(font.clone());
        }
        budget.check()?;
        if self.fonts.len() >= FONTS {
            self.fonts.clear();
            self.cache = FontCache::new();
        }
        let font = self.read(dict, budget)?;
        self.fonts.insert(key, font.clone());
        Ok(font)
    }

    fn read(&self, dict: &Dict<'a>, budget: &Budget) -> Result<Option<Rc<Font<'a>>>, Error> {
        let font = match stream::font_is_bounded(dict, budget)? {
            true => self.cache.font(dict, &self.standard, &self.cmaps),
            false => None,
        };
        let font = font.or_else(|| self.cache.standard_font(StandardFont::Helvetica, &self.standard));
        let Some(font) = font else {
            return Ok(None);
        };
        let kind = Kind::of(dict);
        Ok(Some(Rc::new(Font {
            cjk: Cjk::read(dict),
            kind,
            font,
            texts: RefCell::default(),
            by_glyph: RefCell::default(),
        })))
    }
}

/// A font, and what was found out of it.
pub(super) struct Font<'a> {
    font: hayro_font::Font<'a>,
    cjk: Option<Cjk>,
    kind: Kind,
    texts: RefCell<HashMap<u32, Rc<str>>>,
    /// The characters of the embedded font, by glyph, once they were needed.
    by_glyph: RefCell<Option<HashMap<u32, char>>>,
}

impl Font<'_> {
    pub(super) fn vertical(&self) -> bool {
        !self.font.is_horizontal()
    }

    /// The code that starts there, and its length.
    pub(super) fn code(&self, text: &[u8], at: usize) -> (u32, usize) {
        if let (Kind::Gbk, &[lead @ 0x81..=0xfe, trail @ 0x40..=0xfe, ..]) = (self.kind, &text[at..]) {
            return (u32::from(lead) << 8 | u32::from(trail), 2);
        }
        let (code, length) = self.font.read_code(text, at);
        (code, length.max(1))
    }

    /// How far the next glyph stands, for a size of one.
    pub(super) fn advance(&self, code: u32) -> f64 {
        if code > 0xff && matches!(self.kind, Kind::Gbk) {
            return 1.0;
        }
        let advance = self.font.code_advance(code);
        (if self.vertical() { advance.y } else { advance.x }) / 1000.0
    }

    /// Calls `take` with the characters of a code.
    pub(super) fn with_text<T>(&self, code: u32, take: impl FnOnce(&str) -> T) -> T {
        let known = self.texts.borrow().get(&code).cloned();
        let text = known.unwrap_or_else(|| {
            let text: Rc<str> = self.text(code).into();
            self.texts.borrow_mut().insert(code, text.clone());
            text
        });
        take(&text)
    }

    fn text(&self, code: u32) -> String {
        if let Kind::Characters = self.kind {
            return self.by_code(code);
        }
        if let (Kind::Gbk, [0, 0, pair @ ..]) = (self.kind, code.to_be_bytes())
            && code > 0xff
        {
            return encoding_rs::GBK.decode_without_bom_handling(&pair).0.into_owned();
        }
        let glyph = self.font.glyph(self.font.map_code(code), code);
        let told = match &glyph {
            FontGlyph::Outline(glyph) => glyph.as_unicode(),
            FontGlyph::Type3(glyph) => glyph.as_unicode(),
        };
        let told = told.map(|told| match told {
            BfString::Char(c) => c.to_string(),
            BfString::String(text) => text,
        });
        let is_text = |text: &str| !text.chars().all(|c| c.is_control() || is_private(c) || c == '\u{fffd}');
        if let Some(told) = told.filter(|told| is_text(told)) {
            return told;
        }
        let found = self.cjk.as_ref().and_then(|cjk| cjk.text(code)).or_else(|| match &glyph {
            FontGlyph::Outline(glyph) => self.by_glyph(glyph),
            FontGlyph::Type3(_) => None,
        });
        found.map(String::from).filter(|text| is_text(text)).unwrap_or_else(|| self.by_code(code))
    }

    /// The likeliest meaning of a code of which the file says nothing.
    fn by_code(&self, code: u32) -> String {
        let code = match self.kind {
            // The order of glyphs in most TrueType fonts: that of ASCII, from the fourth on.
            Kind::GlyphIds if (3..98).contains(&code) => code + 29,
            _ => code,
        };
        let c = char::from_u32(code).filter(|&c| !c.is_control() && !is_private(c));
        c.map(String::from).unwrap_or_default()
    }

    /// The character that the embedded font shows with this glyph.
    fn by_glyph(&self, glyph: &OutlineGlyph) -> Option<char> {
        let id = glyph.glyph_id().to_u32();
        if id == 0 {
            return None;
        }
        let mut by_glyph = self.by_glyph.borrow_mut();
        let by_glyph = by_glyph.get_or_insert_with(|| {
            let data = glyph.font_data().map(|font| font.data);
            let bytes = data.as_ref().map_or(&[][..], |data| (**data).as_ref());
            let mut by_glyph = HashMap::new();
            if let Ok(font) = FontRef::from_index(bytes, 0) {
                for (c, glyph) in font.charmap().mappings().take(CHARACTERS) {
                    if let Some(c) = char::from_u32(c).filter(|&c| !is_private(c)) {
                        by_glyph.entry(glyph.to_u32()).or_insert(c);
                    }
                }
            }
            by_glyph
        });
        by_glyph.get(&id).copied()
    }
}

/// What the codes of a font are, where its tables do not say.
#[derive(Clone, Copy)]
enum Kind {
    /// Bytes of an encoding that is close to Latin-1, or anything else.
    Bytes,
    /// Unicode, says the font.
    Characters,
    /// Numbers of glyphs in a TrueType font.
    GlyphIds,
    /// Chinese in GBK, in a font that calls itself Latin.
    Gbk,
}

impl Kind {
    fn of(dict: &Dict<'_>) -> Self {
        let identity = |key: &str| dict.get::<Name<'_>>(key).is_some_and(|name| name.starts_with(b"Identity"));
        let descendant = || dict.get::<Array<'_>>("DescendantFonts")?.iter::<Dict<'_>>().next();
        let true_type = |font: Dict<'_>| font.get::<Name<'_>>("Subtype").is_some_and(|kind| &*kind == b"CIDFontType2");
        match () {
            () if identity("ToUnicode") => Self::Characters,
            () if is_gbk(dict) => Self::Gbk,
            () if identity("Encoding") && descendant().is_some_and(true_type) => Self::GlyphIds,
            () => Self::Bytes,
        }
    }
}

/// Whether the font is not embedded, and its name, as old Chinese programs write it, is GBK.
fn is_gbk(dict: &Dict<'_>) -> bool {
    let is_simple = dict.get::<Name<'_>>("Subtype").is_some_and(|kind| &*kind == b"TrueType");
    let embedded = dict.get::<Dict<'_>>("FontDescriptor").is_some_and(|font| font.contains_key("FontFile2"));
    let name = dict.get::<Name<'_>>("BaseFont");
    let in_gbk = |name: &[u8]| !name.is_ascii() && !encoding_rs::GBK.decode_without_bom_handling(name).1;
    is_simple && !embedded && !dict.contains_key("ToUnicode") && name.is_some_and(|name| in_gbk(&name))
}

fn is_private(c: char) -> bool {
    matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..)
}

/// A character collection of Chinese, Japanese or Korean, for fonts that do not say themselves which
/// characters their codes stand for.
struct Cjk {
    codes: CMap,
    characters: CMap,
}

impl Cjk {
    fn read(dict: &Dict<'_>) -> Option<Self> {
        let codes = match dict.get::<Object<'_>>("Encoding")? {
            Object::Name(name) => match CMapName::from_bytes(&name) {
                CMapName::IdentityH | CMapName::IdentityV => CMap::identity_h(),
                name => CMap::parse(load_embedded(name)?, load_embedded)?,
            },
            Object::Stream(stream) => CMap::parse(&stream.decoded_data().ok()?, load_embedded)?,
            _ => return None,
        };
        let family =
            codes.metadata().character_collection.as_ref().and_then(|collection| collection.family.ucs2_cmap());
        let family = family.or_else(|| {
            let descendant = dict.get::<Array<'_>>("DescendantFonts")?.iter::<Dict<'_>>().next()?;
            let info = descendant.get::<Dict<'_>>("CIDSystemInfo")?;
            let (registry, ordering) = (info.get::<PdfString<'_>>("Registry")?, info.get::<PdfString<'_>>("Ordering")?);
            hayro_font::hayro_cmap::CidFamily::from_registry_ordering(&registry, &ordering).ucs2_cmap()
        })?;
        let characters = CMap::parse(load_embedded(family)?, load_embedded)?;
        Some(Self { codes, characters })
    }

    fn text(&self, code: u32) -> Option<char> {
        let cid = (1..=4).find_map(|length| self.codes.lookup_cid_code(code, length))?;
        match self.characters.lookup_bf_string(cid) {
            Some(BfString::Char(c)) => Some(c),
            Some(BfString::String(text)) => text.chars().next(),
            None => (1..=4).find_map(|length| self.characters.lookup_cid_code(cid, length)).and_then(char::from_u32),
        }
    }
}
