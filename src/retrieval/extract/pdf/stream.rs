//! Streams, unpacked within limits.
//!
//! `hayro-syntax` unpacks a stream whole, however large it becomes. So what comes out is measured
//! first, at the cost of unpacking twice.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};

use flate2::read::{DeflateDecoder, ZlibDecoder};
use hayro_syntax::Filter;
use hayro_syntax::object::{Array, Dict, FromBytes, Object, Stream};

use super::super::{Budget, Error};

/// The most that one stream, or the content of one page, may unpack to.
pub(super) const UNPACKED: usize = 64 << 20;
/// The most that a byte of deflate can stand for.
const DEFLATE_RATIO: usize = 1032;
/// The most filters of a stream.
const FILTERS: usize = 4;
/// The longest row of a predictor, in samples: the library allocates it at once.
const COLUMNS: i64 = 1 << 20;

/// What the stream holds; nothing if it is damaged.
///
/// # Errors
/// If it unpacks to more than [`UNPACKED`], or the deadline has passed.
pub(super) fn unpacked(stream: &Stream<'_>, budget: &Budget) -> Result<Option<Vec<u8>>, Error> {
    if measure(stream, budget)?.is_none() {
        return Ok(None);
    }
    budget.check()?;
    Ok(stream.decoded_data().ok().map(Cow::into_owned))
}

/// How much the stream unpacks to, at most; nothing if it cannot be unpacked.
///
/// # Errors
/// If that is more than [`UNPACKED`], or the deadline has passed.
pub(super) fn measure(stream: &Stream<'_>, budget: &Budget) -> Result<Option<usize>, Error> {
    budget.check()?;
    let filters = stream.filters();
    if filters.iter().any(is_image) {
        return Ok(None);
    }
    let parameters = parameters(stream.dict());
    let number = |at: usize, key: &str| parameters.get(at)?.get::<Object<'_>>(key)?.into_number().map(|n| n.as_i64());
    let columns = (0..parameters.len()).filter_map(|at| number(at, "Columns")).max();
    if filters.len() > FILTERS || columns > Some(COLUMNS) {
        return Err(Error::TooLarge);
    }
    let mut data = stream.raw_data();
    for (at, filter) in filters.iter().enumerate() {
        let length = match filter {
            Filter::FlateDecode => inflated(&data, budget)?,
            Filter::LzwDecode => lzw_length(&data, number(at, "EarlyChange") != Some(0)),
            Filter::RunLengthDecode => Some(data.len() * 64),
            _ => Some(data.len()),
        };
        match length {
            None => return Ok(None),
            Some(length) if length > UNPACKED => return Err(Error::TooLarge),
            Some(length) if at + 1 == filters.len() => return Ok(Some(length)),
            // What the next filter is given.
            Some(_) => match one_filter(*filter, &data) {
                Some(unpacked) => data = Cow::Owned(unpacked),
                None => return Ok(None),
            },
        }
    }
    Ok(Some(data.len()))
}

fn is_image(filter: &Filter) -> bool {
    matches!(filter, Filter::DctDecode | Filter::JpxDecode | Filter::Jbig2Decode | Filter::CcittFaxDecode)
}

/// The parameters of each filter.
fn parameters<'a>(dict: &Dict<'a>) -> Vec<Dict<'a>> {
    let one = ["DP", "DecodeParms"].into_iter().find_map(|key| dict.get::<Object<'a>>(key));
    match one {
        Some(Object::Dict(one)) => vec![one],
        Some(Object::Array(several)) => {
            several.iter::<Object<'a>>().take(FILTERS).map(|one| one.into_dict().unwrap_or_default()).collect()
        }
        _ => Vec::new(),
    }
}

/// Unpacks one filter of several. Nothing that writes PDFs has a predictor on any but the last.
fn one_filter(filter: Filter, data: &[u8]) -> Option<Vec<u8>> {
    let name = match filter {
        Filter::AsciiHexDecode => "ASCIIHexDecode",
        Filter::Ascii85Decode => "ASCII85Decode",
        Filter::LzwDecode => "LZWDecode",
        Filter::FlateDecode => "FlateDecode",
        Filter::RunLengthDecode => "RunLengthDecode",
        // A name that no filter has leaves the data as they are.
        _ => "None",
    };
    let head = format!("<</Filter/{name}/Length {}>>stream\n", data.len());
    let stream = [head.as_bytes(), data, b"\nendstream"].concat();
    Stream::from_bytes(&stream)?.decoded_data().ok().map(Cow::into_owned)
}

/// How much deflated data become, by all the ways in which the library tries to read them. Nothing
/// if they are damaged in a way that makes that a guess beyond the limit.
fn inflated(data: &[u8], budget: &Budget) -> Result<Option<usize>, Error> {
    let zlib = counted(ZlibDecoder::new(data), budget)?;
    if let (length, None) = zlib {
        return Ok(Some(length));
    }
    let mut most = zlib.0;
    for start in [0, 2] {
        let Some(data) = data.get(start..) else { continue };
        let mut decoder = DeflateDecoder::new(data);
        let (length, problem) = counted(&mut decoder, budget)?;
        most = most.max(length);
        if problem == Some(ErrorKind::UnexpectedEof) || problem.is_none() {
            continue;
        }
        // The library reads on where others stop.
        let rest = data.len().saturating_sub(usize::try_from(decoder.total_in()).unwrap_or(0));
        most = most.max(length + rest * DEFLATE_RATIO);
    }
    let guessed = most > UNPACKED && zlib.0 <= UNPACKED;
    Ok((!guessed).then_some(most))
}

/// How many bytes come, up to a few more than [`UNPACKED`], and why there are no more.
fn counted(mut from: impl Read, budget: &Budget) -> Result<(usize, Option<ErrorKind>), Error> {
    let mut buffer = vec![0; 1 << 16];
    let mut length = 0;
    while length <= UNPACKED {
        budget.tick()?;
        match from.read(&mut buffer) {
            Ok(0) => return Ok((length, None)),
            Ok(more) => length += more,
            Err(error) => return Ok((length, Some(error.kind()))),
        }
    }
    Ok((length, None))
}

/// How much LZW data become; nothing if they are damaged.
fn lzw_length(data: &[u8], early_change: bool) -> Option<usize> {
    const CLEAR: usize = 256;
    const END: usize = 257;
    const ENTRIES: usize = 4096;
    let mut lengths = vec![1_usize; 258];
    let (mut bits, mut held, mut total) = (0_u32, 0_u32, 0_usize);
    let mut last = None;
    let mut bytes = data.iter();
    loop {
        let entries = lengths.len() + usize::from(early_change);
        let width = 9 + [512, 1024, 2048].iter().filter(|&&from| entries >= from).count() as u32;
        while held < width {
            let Some(&byte) = bytes.next() else { return Some(total) };
            bits = bits << 8 | u32::from(byte);
            held += 8;
        }
        held -= width;
        let code = (bits >> held & ((1 << width) - 1)) as usize;
        match (code, last) {
            (CLEAR, _) => {
                lengths.truncate(258);
                last = None;
                continue;
            }
            (END, _) => return Some(total),
            (code, Some(last)) if lengths.len() < ENTRIES && code <= lengths.len() => {
                let longer: usize = lengths[last] + 1;
                lengths.push(longer);
            }
            _ => {}
        }
        total += lengths.get(code)?;
        if total > UNPACKED {
            return Some(total);
        }
        last = Some(code);
    }
}

/// Whether the library may read this font: its streams and the ranges of its widths stay within
/// limits.
pub(super) fn font_is_bounded(dict: &Dict<'_>, budget: &Budget) -> Result<bool, Error> {
    /// The most widths of a font.
    const WIDTHS: u64 = 1 << 20;
    let descendant = dict.get::<Array<'_>>("DescendantFonts").and_then(|fonts| fonts.iter::<Dict<'_>>().next());
    let dicts = [Some(dict.clone()), descendant];
    let descriptors = dicts.clone().map(|dict| dict?.get::<Dict<'_>>("FontDescriptor"));
    for dict in dicts.iter().chain(&descriptors).flatten() {
        for key in ["ToUnicode", "Encoding", "CIDToGIDMap", "FontFile", "FontFile2", "FontFile3"] {
            let Some(stream) = dict.get::<Stream<'_>>(key) else { continue };
            match measure(&stream, budget) {
                Err(Error::TooLarge) => return Ok(false),
                other => other?,
            };
        }
        let first = dict.get::<Object<'_>>("FirstChar").and_then(Object::into_number);
        let mut widths = first.map_or(0, |first| u64::try_from(first.as_i64()).unwrap_or(0));
        for (key, is_vertical) in [("W", false), ("W2", true)] {
            let Some(ranges) = dict.get::<Array<'_>>(key) else { continue };
            let mut ranges = ranges.flex_iter();
            loop {
                budget.tick()?;
                let range = match ranges.next::<(u32, Array<'_>)>() {
                    Some(_) => Some((0, 0)),
                    None if is_vertical => ranges.next::<(u32, u32, f32, f32, f32)>().map(|range| (range.0, range.1)),
                    None => ranges.next::<(u32, u32, f32)>().map(|range| (range.0, range.1)),
                };
                let Some((from, to)) = range else { break };
                widths = widths.saturating_add(to.saturating_sub(from).into());
            }
        }
        if widths > WIDTHS {
            return Ok(false);
        }
    }
    Ok(true)
}
