//! The values of form fields, and notes that are written onto the page.

use std::collections::HashSet;

use hayro_syntax::object::{Array, Dict, Name, Object, String as PdfString};

use super::super::{Budget, Error};

/// The most annotations of a page that are looked at.
const ANNOTATIONS: usize = 1 << 14;

/// Appends what the fields of the page are filled in with, each on a line.
pub(super) fn append(page: &Dict<'_>, text: &mut String, budget: &Budget) -> Result<(), Error> {
    let Some(annotations) = page.get::<Array<'_>>("Annots") else {
        return Ok(());
    };
    let mut seen = HashSet::new();
    for annotation in annotations.iter::<Object<'_>>().take(ANNOTATIONS) {
        budget.tick()?;
        let Some(value) = annotation.into_dict().and_then(|annotation| value(&annotation)) else {
            continue;
        };
        // A field may be on the page several times.
        if !value.trim().is_empty() && seen.insert(value.clone()) {
            let between = if text.is_empty() { "" } else { "\n" };
            budget.append(text, between)?;
            budget.append(text, value.trim())?;
        }
    }
    Ok(())
}

fn value(annotation: &Dict<'_>) -> Option<String> {
    let kind = annotation.get::<Name<'_>>("Subtype")?;
    match &*kind {
        b"FreeText" => string(&annotation.get::<Object<'_>>("Contents")?),
        b"Widget" => {
            let field = inherited(annotation, "FT").and_then(Object::into_name)?;
            match &*field {
                b"Tx" | b"Ch" => string(&inherited(annotation, "V")?),
                _ => None,
            }
        }
        _ => None,
    }
}

/// An entry of the field, or of the fields above it.
fn inherited<'a>(field: &Dict<'a>, key: &str) -> Option<Object<'a>> {
    let mut field = field.clone();
    for _ in 0..16 {
        if let Some(found) = field.get::<Object<'a>>(key) {
            return Some(found);
        }
        field = field.get::<Dict<'a>>("Parent")?;
    }
    None
}

/// A text string: UTF-16 or UTF-8 after their marks, else PDFDocEncoding.
fn string(object: &Object<'_>) -> Option<String> {
    let decode = |text: &PdfString<'_>| match &**text {
        [0xfe, 0xff, rest @ ..] => encoding_rs::UTF_16BE.decode_without_bom_handling(rest).0.into_owned(),
        [0xff, 0xfe, rest @ ..] => encoding_rs::UTF_16LE.decode_without_bom_handling(rest).0.into_owned(),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        other => encoding_rs::WINDOWS_1252.decode_without_bom_handling(other).0.into_owned(),
    };
    match object {
        Object::String(text) => Some(decode(text)),
        Object::Array(several) => {
            Some(several.iter::<PdfString<'_>>().map(|text| decode(&text)).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    }
}
