//! What the codes in a PDF's text stand for in one font, and how wide they are.
//!
//! By the rules of pdf.js 1.10, which the original reads PDFs with. It never looks into the program
//! of a font for this, only at its dictionary.

use lopdf::{Dictionary, Object};

use super::cmap::CMap;
use super::encoding::{self, Names};
use super::file::{File, number};
use super::metrics::Metrics;
use crate::retrieval::extract::Error;

/// The most glyphs that a font tells the widths of.
const GLYPHS: usize = 1 << 16;

/// A font, as far as text needs it.
#[derive(Default)]
pub(super) struct Font {
    codes: Codes,
    texts: Texts,
    /// By the number of the glyph, in glyph space; not a number where it is not told.
    widths: Vec<f32>,
    default_width: f64,
    /// Of a space, in glyph space; zero if not known.
    pub(super) space_width: f64,
    /// From glyph space to text space.
    pub(super) scale: f64,
    /// All glyphs are equally wide.
    pub(super) monospace: bool,
}

/// How the bytes of a text divide into codes.
#[derive(Default)]
enum Codes {
    /// The font cannot be used, and its text is lost, as in the original.
    #[default]
    None,
    Bytes,
    Mapped(CMap),
}

/// What codes stand for. Where nothing is known it is the character with the code's number.
#[derive(Default)]
enum Texts {
    #[default]
    Numbers,
    Names(Box<Names>),
    Mapped(CMap),
}

impl Font {
    /// Reads the font with this dictionary. One that is damaged has no text.
    pub(super) fn read(file: &File<'_>, font: &Dictionary) -> Result<Self, Error> {
        let subtype = name(&file.entry(font, b"Subtype")?);
        match &subtype[..] {
            b"" => Ok(Self::default()),
            b"Type0" => Self::composite(file, font),
            _ => Self::simple(file, font, &subtype),
        }
    }

    /// A font whose codes are single bytes.
    fn simple(file: &File<'_>, font: &Dictionary, subtype: &[u8]) -> Result<Self, Error> {
        let type3 = subtype == b"Type3";
        let descriptor = file.dictionary(font.get(b"FontDescriptor").unwrap_or(&Object::Null))?;
        let base_name = String::from_utf8_lossy(&name(&file.entry(font, b"BaseFont")?)).into_owned();
        let names = encoding::names(file, font, &descriptor, subtype, &base_name)?;

        let widths = file.entry(font, b"Widths")?;
        let known = (!descriptor.is_empty() || type3) && widths.as_array().is_ok();
        let mut this = Self { codes: Codes::Bytes, scale: 0.001, ..Self::default() };
        if known {
            let first = file.entry(font, b"FirstChar")?.as_i64().unwrap_or(0);
            let first = usize::try_from(first).unwrap_or(0).min(255);
            this.widths = vec![f32::NAN; first];
            let widths = file.numbers(&widths)?;
            this.widths.extend(widths.iter().take(256).map(|&width| width as f32));
            this.default_width = number(&file.entry(&descriptor, b"MissingWidth")?).unwrap_or(0.0);
            this.monospace = this.all_equal() || flags(file, &descriptor)? & 1 != 0;
        } else {
            let metrics = Metrics::of(&base_name);
            this.widths =
                (0..=255).map(|code| metrics.width(names.char(code)).map_or(f32::NAN, |width| width as f32)).collect();
            this.monospace = matches!(metrics, Metrics::Fixed(_)) || flags(file, &descriptor)? & 1 != 0;
        }
        if type3 && let [scale, ..] = file.numbers(font.get(b"FontMatrix").unwrap_or(&Object::Null))?[..] {
            this.scale = scale;
        }
        this.space_width = this.width_of_space(|code| code);
        this.texts = match to_unicode(file, font)? {
            Some(map) => Texts::Mapped(map),
            None => Texts::Names(Box::new(names)),
        };
        Ok(this)
    }

    /// A font whose codes lead to the glyphs of a descendant.
    fn composite(file: &File<'_>, font: &Dictionary) -> Result<Self, Error> {
        let descendants = file.entry(font, b"DescendantFonts")?;
        let descendant = match descendants.as_array() {
            Ok(fonts) => file.dictionary(fonts.first().unwrap_or(&Object::Null))?,
            Err(_) => file.dictionary(&descendants)?,
        };
        let encoding = font.get(b"Encoding").unwrap_or(&Object::Null);
        let codes = match &name(&file.get(encoding)?)[..] {
            b"Identity-H" => CMap::identity(false),
            b"Identity-V" => CMap::identity(true),
            b"" => match file.content(encoding)? {
                Some(map) => CMap::read(&map, file.budget)?,
                None => return Ok(Self::default()),
            },
            // The original has none of the predefined maps.
            _ => return Ok(Self::default()),
        };
        let texts = match to_unicode(file, font)? {
            Some(map) => Texts::Mapped(map),
            None => {
                let system = file.dictionary(descendant.get(b"CIDSystemInfo").unwrap_or(&Object::Null))?;
                let ordering = file.entry(&system, b"Ordering")?;
                if matches!(ordering.as_str(), Ok(b"GB1" | b"CNS1" | b"Japan1" | b"Korea1")) {
                    return Ok(Self::default());
                }
                Texts::Numbers
            }
        };

        let mut this = Self {
            texts,
            scale: 0.001,
            default_width: number(&file.entry(&descendant, b"DW")?).unwrap_or(1000.0),
            ..Self::default()
        };
        this.widths_by_glyph(file, &file.entry(&descendant, b"W")?)?;
        this.monospace = this.all_equal();
        this.space_width = this.width_of_space(|code| codes.id(code));
        this.codes = Codes::Mapped(codes);
        Ok(this)
    }

    /// Reads `[first [w w …] first last w …]`.
    fn widths_by_glyph(&mut self, file: &File<'_>, widths: &Object) -> Result<(), Error> {
        let mut items = widths.as_array().map_or(&[][..], Vec::as_slice).iter();
        while let (Some(first), Some(next)) = (items.next(), items.next()) {
            let first = number(&file.get(first)?).unwrap_or(0.0) as usize;
            let next = file.get(next)?;
            if next.as_array().is_ok() {
                for (glyph, width) in (first..GLYPHS).zip(file.numbers(&next)?) {
                    self.put_width(glyph, width);
                }
            } else if let Some(width) = items.next() {
                let last = number(&next).unwrap_or(0.0) as usize;
                let width = number(&file.get(width)?).unwrap_or(0.0);
                for glyph in first..=last.min(GLYPHS - 1) {
                    file.budget.tick()?;
                    self.put_width(glyph, width);
                }
            }
        }
        Ok(())
    }

    fn put_width(&mut self, glyph: usize, width: f64) {
        if self.widths.len() <= glyph {
            self.widths.resize(glyph + 1, f32::NAN);
        }
        self.widths[glyph] = width as f32;
    }

    /// Whether all widths that are told and not zero are the same.
    fn all_equal(&self) -> bool {
        let mut first = self.default_width as f32;
        for &width in self.widths.iter().filter(|width| !width.is_nan() && **width != 0.0) {
            if first == 0.0 {
                first = width;
            }
            if first != width {
                return false;
            }
        }
        true
    }

    /// The width of the space, or of what pdf.js takes in its place.
    fn width_of_space(&self, glyph: impl Fn(u32) -> u32) -> f64 {
        [' ', '\u{2212}', '1', 'i', 'I']
            .into_iter()
            .filter_map(|c| self.widths.get(glyph(c.into()) as usize))
            .find(|width| !width.is_nan() && **width != 0.0)
            .map_or(self.default_width, |&width| width.into())
    }

    /// Text runs from top to bottom.
    pub(super) fn vertical(&self) -> bool {
        matches!(&self.codes, Codes::Mapped(map) if map.vertical)
    }

    /// The first glyph of `bytes`, and the bytes after it; nothing if there are none.
    pub(super) fn next_glyph<'b>(&self, bytes: &'b [u8]) -> Option<(Glyph, &'b [u8])> {
        let first = *bytes.first()?;
        let (code, length) = match &self.codes {
            Codes::None => return None,
            Codes::Bytes => (first.into(), 1),
            Codes::Mapped(map) => map.next_code(bytes),
        };
        let glyph = match &self.codes {
            Codes::Mapped(map) => map.id(code),
            Codes::None | Codes::Bytes => code,
        };
        let width = self.widths.get(glyph as usize).filter(|width| !width.is_nan());
        let glyph = Glyph {
            code,
            width: width.map_or(self.default_width, |&width| width.into()),
            is_space: length == 1 && first == b' ',
        };
        Some((glyph, bytes.get(length..).unwrap_or_default()))
    }

    /// Appends the text that a code stands for.
    pub(super) fn push_text(&self, code: u32, text: &mut String) {
        let c = match &self.texts {
            Texts::Numbers => encoding::char_of(code),
            Texts::Names(names) => names.char(code),
            Texts::Mapped(map) => match map.text(code) {
                Some(mapped) => {
                    let mut chars = mapped.chars();
                    match (chars.next(), chars.next()) {
                        (Some(only), None) => only,
                        _ => return text.push_str(mapped),
                    }
                }
                None => encoding::char_of(code),
            },
        };
        match encoding::spelled_out(c) {
            Some(letters) => text.push_str(letters),
            None => text.push(c),
        }
    }
}

/// A code of a text that is shown.
pub(super) struct Glyph {
    pub(super) code: u32,
    /// In glyph space.
    pub(super) width: f64,
    /// The code is a single byte 32, to which word spacing applies.
    pub(super) is_space: bool,
}

/// The map to Unicode that comes with the font, unless it is empty.
fn to_unicode(file: &File<'_>, font: &Dictionary) -> Result<Option<CMap>, Error> {
    let map = match file.content(font.get(b"ToUnicode").unwrap_or(&Object::Null))? {
        Some(map) => CMap::read(&map, file.budget)?,
        None => return Ok(None),
    };
    Ok(map.has_texts().then_some(map))
}

pub(super) fn flags(file: &File<'_>, descriptor: &Dictionary) -> Result<i64, Error> {
    Ok(file.entry(descriptor, b"Flags")?.as_i64().unwrap_or(0))
}

/// The letters of a name; none if it is not a name.
pub(super) fn name(object: &Object) -> Vec<u8> {
    object.as_name().unwrap_or_default().to_vec()
}
