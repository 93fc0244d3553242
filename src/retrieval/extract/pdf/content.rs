//! Content streams, run as far as text depends on them.

use std::collections::HashSet;
use std::rc::Rc;

use hayro_syntax::content::{TypedIter, ops::TypedInstruction};
use hayro_syntax::object::{Array, Dict, Name, Number, Object, ObjectIdentifier, Rect, Stream};
use hayro_syntax::page::Resources;
use kurbo::{Affine, Vec2};

use super::super::{Budget, Error};
use super::fonts::{Font, Fonts};
use super::lines::{Glyph, Lines};
use super::pages::Page;
use super::{inline_images, stream};

/// How deep forms may contain forms.
const FORMS: usize = 12;
/// How many graphics states may be saved.
const SAVED: usize = 1 << 12;
/// How many glyphs of a file may stand beyond its pages: as many as 2,000 passages hold. They are read and then left
/// out, which is work for nothing.
const UNSEEN: usize = 8_000_000;

/// The part of the graphics state that text depends on.
#[derive(Clone, Default)]
struct State<'a> {
    ctm: Affine,
    font: Option<Rc<Font<'a>>>,
    size: f64,
    char_spacing: f64,
    word_spacing: f64,
    /// The horizontal scale, 1.0 as it comes.
    stretch: f64,
    leading: f64,
    rise: f64,
    matrix: Affine,
    line_matrix: Affine,
}

impl State<'_> {
    fn new_line(&mut self, x: f64, y: f64) {
        self.line_matrix = self.line_matrix.pre_translate(Vec2::new(x, y));
        self.matrix = self.line_matrix;
    }

    fn advance(&mut self, along: f64) {
        let vertical = self.font.as_ref().is_some_and(|font| font.vertical());
        let shift = if vertical { Vec2::new(0.0, along) } else { Vec2::new(along * self.stretch, 0.0) };
        self.matrix = self.matrix.pre_translate(shift);
    }
}

/// Reads pages, and keeps what several of them use.
pub(super) struct Reader<'a, 'b> {
    fonts: Fonts<'a>,
    budget: &'b Budget,
    /// Forms that show no text.
    empty_forms: HashSet<ObjectIdentifier>,
    lines: Lines,
    /// Glyphs beyond this box are not seen.
    seen: Rect,
    /// Glyphs of this page so far.
    glyphs: usize,
    /// Glyphs of the file so far that stood beyond the pages.
    unseen: usize,
}

impl<'a, 'b> Reader<'a, 'b> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        let seen = Rect::new(0.0, 0.0, 0.0, 0.0);
        let (fonts, empty_forms, lines) = (Fonts::new(), HashSet::new(), Lines::default());
        Self { fonts, budget, empty_forms, lines, seen, glyphs: 0, unseen: 0 }
    }

    /// The text that the page shows.
    pub(super) fn page(&mut self, page: &Page<'a>) -> Result<String, Error> {
        self.seen = page.seen();
        let content = self.page_content(page)?;
        let state = State { size: 1.0, stretch: 1.0, ..State::default() };
        self.run(&content, &Resources::new(page.resources.clone()), state, 0)?;
        std::mem::take(&mut self.lines).finish(self.budget)
    }

    /// The content of a page, which may be in several streams.
    fn page_content(&self, page: &Page<'a>) -> Result<Vec<u8>, Error> {
        let raw = &page.dict;
        let mut content = Vec::new();
        if let Some(part) = raw.get::<Stream<'a>>("Contents") {
            content = stream::unpacked(&part, self.budget)?.unwrap_or_default();
        } else if let Some(parts) = raw.get::<Array<'a>>("Contents") {
            for part in parts.iter::<Object<'a>>() {
                let Some(part) = part.into_stream() else { continue };
                content.extend(stream::unpacked(&part, self.budget)?.unwrap_or_default());
                // No token goes on in the next stream.
                content.push(b'\n');
                if content.len() > stream::UNPACKED {
                    return Err(Error::TooLarge);
                }
            }
        }
        Ok(content)
    }

    fn run(
        &mut self,
        content: &[u8],
        resources: &Resources<'a>,
        mut state: State<'a>,
        depth: usize,
    ) -> Result<(), Error> {
        let mut saved = Vec::new();
        for part in inline_images::without(content) {
            let mut operators = TypedIter::new(part);
            while let Some(operator) = operators.next() {
                self.budget.tick()?;
                self.operate(&operator, resources, &mut state, &mut saved, depth)?;
            }
        }
        Ok(())
    }

    fn operate(
        &mut self,
        operator: &TypedInstruction<'_, '_>,
        resources: &Resources<'a>,
        state: &mut State<'a>,
        saved: &mut Vec<State<'a>>,
        depth: usize,
    ) -> Result<(), Error> {
        use TypedInstruction as Op;
        match operator {
            Op::SaveState(_) if saved.len() < SAVED => saved.push(state.clone()),
            Op::RestoreState(_) => *state = saved.pop().unwrap_or_else(|| state.clone()),
            Op::Transform(matrix) => {
                state.ctm *= affine([matrix.0, matrix.1, matrix.2, matrix.3, matrix.4, matrix.5]);
            }
            Op::BeginText(_) => {
                state.matrix = Affine::IDENTITY;
                state.line_matrix = Affine::IDENTITY;
            }
            Op::TextFont(font) => {
                state.font = self.fonts.get(resources.get_font(font.0).as_ref(), self.budget)?;
                state.size = font.1.as_f64();
            }
            Op::CharacterSpacing(spacing) => state.char_spacing = spacing.0.as_f64(),
            Op::WordSpacing(spacing) => state.word_spacing = spacing.0.as_f64(),
            Op::TextLeading(leading) => state.leading = leading.0.as_f64(),
            Op::HorizontalScaling(percent) => state.stretch = percent.0.as_f64() / 100.0,
            Op::TextRise(rise) => state.rise = rise.0.as_f64(),
            Op::NextLine(by) => state.new_line(by.0.as_f64(), by.1.as_f64()),
            Op::NextLineAndSetLeading(by) => {
                state.leading = -by.1.as_f64();
                state.new_line(by.0.as_f64(), by.1.as_f64());
            }
            Op::SetTextMatrix(matrix) => {
                state.matrix = affine([matrix.0, matrix.1, matrix.2, matrix.3, matrix.4, matrix.5]);
                state.line_matrix = state.matrix;
            }
            Op::NextLineUsingLeading(_) => state.new_line(0.0, -state.leading),
            Op::ShowText(text) => self.show(text.0, state)?,
            Op::NextLineAndShowText(text) => {
                state.new_line(0.0, -state.leading);
                self.show(text.0, state)?;
            }
            Op::ShowTextWithParameters(text) => {
                state.word_spacing = text.0.as_f64();
                state.char_spacing = text.1.as_f64();
                state.new_line(0.0, -state.leading);
                self.show(text.2, state)?;
            }
            Op::ShowTexts(parts) => {
                for part in parts.0.iter::<Object<'_>>() {
                    self.budget.tick()?;
                    match part {
                        Object::String(text) => self.show(&text, state)?,
                        Object::Number(back) => state.advance(-back.as_f64() / 1000.0 * state.size),
                        _ => {}
                    }
                }
            }
            Op::XObject(name) if depth < FORMS => {
                if let Some(form) = resources.get_x_object(name.0) {
                    self.form(&form, resources, state, depth)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn form(
        &mut self,
        form: &Stream<'a>,
        resources: &Resources<'a>,
        state: &State<'a>,
        depth: usize,
    ) -> Result<(), Error> {
        let is_form = form.dict().get::<Name<'_>>("Subtype").is_some_and(|kind| &*kind == b"Form");
        let id = form.obj_id();
        if !is_form || self.empty_forms.contains(&id) {
            return Ok(());
        }
        let Some(content) = stream::unpacked(form, self.budget)? else {
            return Ok(());
        };
        let mut state = state.clone();
        if let Some(matrix) = form.dict().get::<[f64; 6]>("Matrix") {
            state.ctm *= Affine::new(matrix);
        }
        let before = self.glyphs;
        match form.dict().get::<Dict<'a>>("Resources") {
            Some(own) => self.run(&content, &Resources::new(own), state, depth + 1)?,
            None => self.run(&content, resources, state, depth + 1)?,
        }
        if self.glyphs == before {
            self.empty_forms.insert(id);
        }
        Ok(())
    }

    fn show(&mut self, text: &[u8], state: &mut State<'a>) -> Result<(), Error> {
        let Some(font) = state.font.clone() else {
            return Ok(());
        };
        let mut at = 0;
        while at < text.len() {
            self.budget.tick()?;
            let (code, length) = font.code(text, at);
            at += length;
            self.glyphs += 1;
            let advance = font.advance(code) * state.size;
            self.place(&font, code, advance, state)?;
            let word_spacing = if code == 32 && length == 1 { state.word_spacing } else { 0.0 };
            state.advance(advance + state.char_spacing + word_spacing);
        }
        Ok(())
    }

    /// Puts a glyph where the state says.
    fn place(&mut self, font: &Font<'a>, code: u32, advance: f64, state: &State<'a>) -> Result<(), Error> {
        let [a, b, c, d, _, _] = (state.ctm * state.matrix).as_coeffs();
        let origin = state.ctm * state.matrix * kurbo::Point::new(0.0, state.rise);
        let (right, up) = (Vec2::new(a, b), Vec2::new(c, d));
        // From top to bottom, or along the line; either may be turned by negative sizes.
        let (along, across, stretch) = if font.vertical() { (-up, right, 1.0) } else { (right, up, state.stretch) };
        let advance = if font.vertical() { -advance } else { advance };
        let sign = (state.size * stretch).signum();
        let length = along.hypot();
        if length == 0.0 || !length.is_finite() {
            return Ok(());
        }
        let shift = advance * stretch * length;
        let end = origin + along * (advance * stretch);
        let box_ = self.seen;
        let beyond = origin.x.max(end.x) < box_.x0
            || origin.x.min(end.x) > box_.x1
            || origin.y.max(end.y) < box_.y0
            || origin.y.min(end.y) > box_.y1;
        if beyond {
            self.unseen += 1;
            return if self.unseen > UNSEEN { Err(Error::TooLarge) } else { Ok(()) };
        }
        font.with_text(code, |text| {
            let glyph = Glyph {
                text,
                origin: (origin.x, origin.y),
                direction: (along.x / length * sign, along.y / length * sign),
                advance: shift * sign,
                size: ((state.size * length).abs(), (state.size * across.hypot()).abs()),
            };
            self.lines.push(&glyph, self.budget)
        })
    }
}

fn affine(numbers: [Number; 6]) -> Affine {
    Affine::new(numbers.map(|number| number.as_f64()))
}
