//! The pages of a file, one at a time.

use std::collections::HashSet;

use hayro_syntax::Pdf;
use hayro_syntax::object::{Array, Dict, MaybeRef, Name, ObjectIdentifier, Rect};

use super::super::{Budget, Error};

/// How deep the tree of pages may be.
const DEPTH: usize = 1 << 10;

/// A page, with what it inherits.
#[derive(Clone, Default)]
pub(super) struct Page<'a> {
    pub(super) dict: Dict<'a>,
    pub(super) resources: Dict<'a>,
    media_box: Option<Rect>,
    crop_box: Option<Rect>,
}

impl<'a> Page<'a> {
    /// The node below this one.
    fn child(&self, dict: Dict<'a>) -> Self {
        Self {
            resources: dict.get("Resources").unwrap_or_else(|| self.resources.clone()),
            media_box: dict.get("MediaBox").or(self.media_box),
            crop_box: dict.get("CropBox").or(self.crop_box),
            dict,
        }
    }

    /// What is seen of the page.
    pub(super) fn seen(&self) -> Rect {
        let is_area = |area: &Rect| area.width() > 0.0 && area.height() > 0.0;
        let media = self.media_box.filter(is_area);
        let crop = self.crop_box.filter(is_area);
        let both = media.zip(crop).map(|(media, crop)| media.intersect(crop)).filter(is_area);
        both.or(media).or(crop).unwrap_or(Rect::new(f64::MIN, f64::MIN, f64::MAX, f64::MAX))
    }
}

/// Calls `visit` with every page, in order.
pub(super) fn each<'a>(
    pdf: &'a Pdf,
    root: ObjectIdentifier,
    budget: &Budget,
    mut visit: impl FnMut(&Page<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    let xref = pdf.xref();
    let top = xref.get::<Dict<'a>>(root).and_then(|root| root.get::<Dict<'a>>("Pages"));
    let top = top.map(|dict| Page::default().child(dict));
    if let Some((kids, top)) = top.and_then(|top| Some((top.dict.get::<Array<'a>>("Kids")?, top))) {
        let mut seen = HashSet::new();
        let mut open = vec![(top, kids.raw_iter())];
        while let Some((parent, kids)) = open.last_mut() {
            budget.check()?;
            let Some(kid) = kids.next() else {
                open.pop();
                continue;
            };
            let dict = match kid {
                MaybeRef::Ref(id) if seen.insert(ObjectIdentifier::from(id)) => xref.get::<Dict<'a>>(id.into()),
                MaybeRef::Ref(_) => None,
                MaybeRef::NotRef(object) => object.into_dict(),
            };
            let Some(page) = dict.map(|dict| parent.child(dict)) else {
                continue;
            };
            let is_node = page.dict.get::<Name<'_>>("Type").is_some_and(|kind| &*kind == b"Pages");
            match page.dict.get::<Array<'a>>("Kids") {
                Some(kids) if is_node && open.len() < DEPTH => open.push((page, kids.raw_iter())),
                _ if is_node => {}
                _ => visit(&page)?,
            }
        }
        return Ok(());
    }
    // Without a tree, all that looks like a page, in the order of the file.
    let mut found = false;
    for object in pdf.objects() {
        budget.check()?;
        let Some(dict) = object.into_dict() else { continue };
        if dict.contains_key("Contents") && dict.get::<Name<'_>>("Type").is_some_and(|kind| &*kind == b"Page") {
            found = true;
            visit(&Page::default().child(dict))?;
        }
    }
    if found { Ok(()) } else { Err(Error::Pdf) }
}
