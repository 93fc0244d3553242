//! What a page shows, as text: content streams run as far as text depends on it.
//!
//! The rules are those of pdf.js 1.10, which decide what the original stored: which texts belong to
//! one line, and where the distance between two of them counts as a space. An error in a stream ends
//! it; what it showed before stays.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use lopdf::{Dictionary, Object, ObjectId};

use super::file::File;
use super::font::{Font, name};
use super::lexer::{Lexer, Token};
use super::operand::{Operand, numbers, operand, skip_image};
use super::state::{IDENTITY, Item, Matrix, State, transform, translate};
use crate::retrieval::extract::Error;

/// How deep forms may contain forms.
const FORMS: usize = 12;
/// How many graphics states may be saved.
const SAVED: usize = 1 << 12;
/// The most operands of an operator; with more, pdf.js gives the stream up.
const OPERANDS: usize = 33;
/// The most fonts that are kept.
const FONTS: usize = 64;

/// What is kept from one page to the next.
#[derive(Default)]
pub(super) struct Kept {
    fonts: HashMap<ObjectId, Rc<Font>>,
    /// Forms that show no text.
    empty_forms: HashSet<ObjectId>,
}

/// Runs the content of a page, and gives its text; nothing if it shows none.
pub(super) fn text(
    file: &File<'_>,
    kept: &mut Kept,
    content: &[u8],
    resources: &Dictionary,
) -> Result<Option<String>, Error> {
    let mut page = Page { file, kept, text: String::new(), items: 0, last_y: 0.0 };
    page.run(content, resources, State::default(), 0)?;
    Ok((page.items > 0).then_some(page.text))
}

struct Page<'a, 'f> {
    file: &'a File<'f>,
    kept: &'a mut Kept,
    text: String,
    /// Stretches of text so far, empty ones too.
    items: usize,
    /// How high the last of them stands.
    last_y: f64,
}

impl Page<'_, '_> {
    fn run(&mut self, content: &[u8], resources: &Dictionary, state: State, depth: usize) -> Result<(), Error> {
        let mut run = Run {
            fonts: self.file.dictionary(resources.get(b"Font").unwrap_or(&Object::Null))?,
            forms: self.file.dictionary(resources.get(b"XObject").unwrap_or(&Object::Null))?,
            page: self,
            resources,
            state,
            saved: Vec::new(),
            item: None,
            depth,
        };
        let mut lexer = Lexer::new(content, 0);
        let mut operands = Vec::new();
        while let Some(token) = lexer.token() {
            run.page.file.budget.tick()?;
            if let Token::Word(operator) = token {
                if run.operate(operator, &operands)?.is_none() {
                    break;
                }
                if operator == b"BI" {
                    skip_image(&mut lexer);
                }
                operands.clear();
            } else if operands.len() < OPERANDS {
                operands.push(operand(token, &mut lexer, run.page.file.budget)?);
            } else {
                break;
            }
        }
        run.flush()
    }

    fn font(&mut self, font: Option<&Object>) -> Result<Rc<Font>, Error> {
        let Some(font) = font else {
            return Ok(Rc::default());
        };
        let id = font.as_reference().ok();
        if let Some(kept) = id.and_then(|id| self.kept.fonts.get(&id)) {
            return Ok(kept.clone());
        }
        let font = Rc::new(Font::read(self.file, &self.file.dictionary(font)?)?);
        if let Some(id) = id {
            if self.kept.fonts.len() >= FONTS {
                self.kept.fonts.clear();
            }
            self.kept.fonts.insert(id, font.clone());
        }
        Ok(font)
    }
}

/// A content stream that is being run.
struct Run<'a, 'p, 'f> {
    page: &'a mut Page<'p, 'f>,
    resources: &'a Dictionary,
    fonts: Dictionary,
    forms: Dictionary,
    state: State,
    saved: Vec<State>,
    item: Option<Item>,
    depth: usize,
}

impl Run<'_, '_, '_> {
    /// Runs an operator; nothing where pdf.js gives the stream up. An operator that lacks operands
    /// does nothing.
    fn operate(&mut self, operator: &[u8], operands: &[Operand]) -> Result<Option<()>, Error> {
        match operator {
            b"q" if self.saved.len() < SAVED => self.saved.push(self.state.clone()),
            b"q" => return Ok(None),
            b"Q" => self.state = self.saved.pop().unwrap_or_else(|| self.state.clone()),
            b"cm" => {
                if let Some(matrix) = numbers(operands) {
                    self.state.ctm = transform(&self.state.ctm, &matrix);
                }
            }
            b"BT" => {
                self.flush()?;
                self.state.matrix = IDENTITY;
                self.state.line = IDENTITY;
            }
            b"Tf" => {
                if let [.., Operand::Name(name), Operand::Number(size)] = operands {
                    self.set_font(name, *size)?;
                }
            }
            b"Tc" => self.set(operands, |state, spacing| state.char_spacing = spacing),
            b"Tw" => self.set(operands, |state, spacing| state.word_spacing = spacing),
            b"TL" => {
                self.flush()?;
                self.set(operands, |state, leading| state.leading = leading);
            }
            b"Tz" => {
                self.flush()?;
                self.set(operands, |state, percent| state.stretch = percent / 100.0);
            }
            b"Ts" => {
                self.flush()?;
                self.set(operands, |state, rise| state.rise = rise);
            }
            b"Td" => {
                if let Some([x, y]) = numbers(operands) {
                    self.move_text(x, y)?;
                }
            }
            b"TD" => {
                if let Some([x, y]) = numbers(operands) {
                    self.flush()?;
                    self.state.leading = -y;
                    self.state.new_line(x, y);
                }
            }
            b"Tm" => {
                if let Some(matrix) = numbers(operands) {
                    self.set_matrix(matrix)?;
                }
            }
            b"T*" => self.next_line()?,
            b"Tj" => return self.show_last(operands),
            b"'" => {
                if let [.., Operand::Text(_)] = operands {
                    self.next_line()?;
                }
                return self.show_last(operands);
            }
            b"\"" => {
                if let [.., Operand::Number(word), Operand::Number(char), Operand::Text(_)] = operands {
                    self.flush()?;
                    self.state.word_spacing = *word;
                    self.state.char_spacing = *char;
                    self.next_line()?;
                }
                return self.show_last(operands);
            }
            b"TJ" => {
                if let [.., Operand::Array(items)] = operands {
                    return self.show_spaced(items);
                }
            }
            b"gs" => self.flush()?,
            b"Do" => {
                self.flush()?;
                if let [.., Operand::Name(name)] = operands {
                    self.show_form(name)?;
                }
            }
            _ => {}
        }
        Ok(Some(()))
    }

    fn set(&mut self, operands: &[Operand], set: impl FnOnce(&mut State, f64)) {
        if let Some([value]) = numbers(operands) {
            set(&mut self.state, value);
        }
    }

    fn set_font(&mut self, name: &[u8], size: f64) -> Result<(), Error> {
        let state = &self.state;
        if state.font.is_some() && state.font_name == name && state.size == size {
            return Ok(());
        }
        self.flush()?;
        self.state.font = Some(self.page.font(self.fonts.get(name).ok())?);
        self.state.font_name = name.to_vec();
        self.state.size = size;
        Ok(())
    }

    fn move_text(&mut self, x: f64, y: f64) -> Result<(), Error> {
        let vertical = self.state.font.as_ref().map(|font| font.vertical());
        let same_line = vertical.is_some_and(|vertical| if vertical { x == 0.0 } else { y == 0.0 });
        if let Some(item) = &mut self.item
            && same_line
            && (x - y) > 0.0
            && (x - y) <= item.end
        {
            translate(&mut self.state.line, x, y);
            item.gap(x - y - item.last_width);
            return Ok(());
        }
        self.flush()?;
        self.state.new_line(x, y);
        Ok(())
    }

    fn set_matrix(&mut self, matrix: Matrix) -> Result<(), Error> {
        if let Some(item) = &mut self.item
            && let Some(advance) = self.state.advance_to(&matrix)
            && advance > 0.0
            && advance <= item.end
        {
            translate(&mut self.state.line, advance, 0.0);
            item.gap(advance - item.last_width);
            return Ok(());
        }
        self.flush()?;
        self.state.matrix = matrix;
        self.state.line = matrix;
        Ok(())
    }

    fn next_line(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.state.new_line(0.0, -self.state.leading);
        Ok(())
    }

    fn show_last(&mut self, operands: &[Operand]) -> Result<Option<()>, Error> {
        match operands {
            [.., Operand::Text(text)] => self.show(text),
            _ => Ok(Some(())),
        }
    }

    fn show_spaced(&mut self, items: &[Operand]) -> Result<Option<()>, Error> {
        for part in items {
            self.page.file.budget.tick()?;
            match part {
                Operand::Text(text) => {
                    if self.show(text)?.is_none() {
                        return Ok(None);
                    }
                }
                Operand::Number(distance) => {
                    let Some(font) = self.state.font.clone() else {
                        return Ok(None);
                    };
                    let item = self.item.get_or_insert_with(|| Item::start(&self.state, &font));
                    let along = distance * self.state.size / 1000.0;
                    let advance = if font.vertical() { along } else { -along };
                    match font.vertical() {
                        true => translate(&mut self.state.matrix, 0.0, advance),
                        false => translate(&mut self.state.matrix, advance * self.state.stretch, 0.0),
                    }
                    if item.may_end && advance > item.end {
                        self.flush()?;
                    } else if advance > 0.0 {
                        item.gap(advance);
                    }
                }
                Operand::Name(_) | Operand::Array(_) | Operand::Other => {}
            }
        }
        Ok(Some(()))
    }

    /// Shows text; nothing if there is no font to show it in.
    fn show(&mut self, text: &[u8]) -> Result<Option<()>, Error> {
        let Some(font) = self.state.font.clone() else {
            return Ok(None);
        };
        let state = &mut self.state;
        let item = self.item.get_or_insert_with(|| Item::start(state, &font));
        let vertical = font.vertical();
        let mut width = 0.0;
        let mut rest = text;
        while let Some((glyph, after)) = font.next_glyph(rest) {
            self.page.file.budget.tick()?;
            rest = after;
            let mut spacing = state.char_spacing;
            if glyph.is_space {
                spacing += state.word_spacing;
                if state.word_spacing > 0.0 {
                    item.gap(state.word_spacing);
                }
            }
            let advance = glyph.width * font.scale * state.size + spacing;
            if vertical {
                translate(&mut state.matrix, 0.0, advance);
            } else {
                width += advance * state.stretch;
                translate(&mut state.matrix, advance * state.stretch, 0.0);
            }
            font.push_text(glyph.code, &mut item.text);
        }
        item.last_width = width;
        Ok(Some(()))
    }

    /// Ends the stretch of text, and puts it on a new line if it stands at another height.
    fn flush(&mut self) -> Result<(), Error> {
        let Some(item) = self.item.take() else {
            return Ok(());
        };
        let page = &mut *self.page;
        // The original takes a height of zero for none.
        if page.last_y != item.y && page.last_y != 0.0 && !page.last_y.is_nan() {
            page.file.budget.append(&mut page.text, "\n")?;
        }
        page.file.budget.append(&mut page.text, &item.text)?;
        page.last_y = item.y;
        page.items += 1;
        Ok(())
    }

    fn show_form(&mut self, form_name: &[u8]) -> Result<(), Error> {
        let file = self.page.file;
        let Ok(reference) = self.forms.get(form_name) else {
            return Ok(());
        };
        let id = reference.as_reference().ok();
        if self.depth >= FORMS || id.is_some_and(|id| self.page.kept.empty_forms.contains(&id)) {
            return Ok(());
        }
        let form = file.dictionary(reference)?;
        if name(&file.entry(&form, b"Subtype")?) != b"Form" {
            return Ok(());
        }
        let Some(content) = file.content(reference)? else {
            return Ok(());
        };
        let mut state = self.state.clone();
        let matrix = file.numbers(form.get(b"Matrix").unwrap_or(&Object::Null))?;
        if let Ok(matrix) = Matrix::try_from(matrix) {
            state.ctm = transform(&state.ctm, &matrix);
        }
        let items = self.page.items;
        match form.get(b"Resources") {
            Ok(resources) => {
                let resources = file.dictionary(resources)?;
                self.page.run(&content, &resources, state, self.depth + 1)?;
            }
            Err(_) => self.page.run(&content, self.resources, state, self.depth + 1)?,
        }
        if self.page.items == items {
            self.page.kept.empty_forms.extend(id);
        }
        Ok(())
    }
}
