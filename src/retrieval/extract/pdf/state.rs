//! Where a page puts its text: the state that operators change, and the stretch of text that grows.

use std::rc::Rc;

use super::font::Font;

/// Six numbers that move, scale and turn.
pub(super) type Matrix = [f64; 6];
pub(super) const IDENTITY: Matrix = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];

/// `inner`, and then `outer`.
pub(super) fn transform(outer: &Matrix, inner: &Matrix) -> Matrix {
    let [a, b, c, d, e, f] = *outer;
    [
        a * inner[0] + c * inner[1],
        b * inner[0] + d * inner[1],
        a * inner[2] + c * inner[3],
        b * inner[2] + d * inner[3],
        a * inner[4] + c * inner[5] + e,
        b * inner[4] + d * inner[5] + f,
    ]
}

pub(super) fn translate(matrix: &mut Matrix, x: f64, y: f64) {
    let [a, b, c, d, e, f] = *matrix;
    matrix[4] = a * x + c * y + e;
    matrix[5] = b * x + d * y + f;
}

/// The part of the graphics state that text depends on.
#[derive(Clone)]
pub(super) struct State {
    pub(super) ctm: Matrix,
    pub(super) font: Option<Rc<Font>>,
    pub(super) font_name: Vec<u8>,
    pub(super) size: f64,
    /// The text matrix, and that of the line.
    pub(super) matrix: Matrix,
    pub(super) line: Matrix,
    pub(super) char_spacing: f64,
    pub(super) word_spacing: f64,
    pub(super) leading: f64,
    pub(super) stretch: f64,
    pub(super) rise: f64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            ctm: IDENTITY,
            font: None,
            font_name: Vec::new(),
            size: 0.0,
            matrix: IDENTITY,
            line: IDENTITY,
            char_spacing: 0.0,
            word_spacing: 0.0,
            leading: 0.0,
            stretch: 1.0,
            rise: 0.0,
        }
    }
}

impl State {
    pub(super) fn new_line(&mut self, x: f64, y: f64) {
        translate(&mut self.line, x, y);
        self.matrix = self.line;
    }

    /// How far along the line the text matrix `to` is, if it is on the same line.
    pub(super) fn advance_to(&self, to: &Matrix) -> Option<f64> {
        let vertical = self.font.as_ref()?.vertical();
        let [a, b, c, d, ..] = self.line;
        if to[..4] != self.line[..4] {
            return None;
        }
        let (x, y) = (to[4] - self.line[4], to[5] - self.line[5]);
        let across = if vertical { x } else { y };
        let along = if vertical { y * a } else { x * d };
        (across == 0.0).then_some(along / (a * d - b * c))
    }
}

/// A stretch of text on one line.
pub(super) struct Item {
    pub(super) text: String,
    pub(super) y: f64,
    /// How far the last text that was shown went.
    pub(super) last_width: f64,
    space_width: f64,
    /// A gap from here on is a space,
    one_space: f64,
    /// from here on as many as fit,
    many_spaces: f64,
    /// and from here on the end of the stretch,
    pub(super) end: f64,
    /// if this allows it.
    pub(super) may_end: bool,
}

impl Item {
    pub(super) fn start(state: &State, font: &Font) -> Self {
        let own = [state.size * state.stretch, 0.0, 0.0, state.size, 0.0, state.rise];
        let place = transform(&state.ctm, &transform(&state.matrix, &own));
        let space_width = font.space_width / 1000.0 * state.size;
        let known = space_width != 0.0 && !space_width.is_nan();
        Self {
            text: String::new(),
            y: place[5],
            last_width: 0.0,
            space_width: if known { space_width } else { 0.0 },
            one_space: if known { space_width * 0.3 } else { f64::INFINITY },
            many_spaces: if known { space_width * 1.5 } else { f64::INFINITY },
            end: if known { space_width * 4.0 } else { 0.0 },
            may_end: known && !font.monospace,
        }
    }

    /// Puts spaces where the next text starts at a distance.
    pub(super) fn gap(&mut self, width: f64) {
        /// A line has no more than this.
        const MOST: f64 = 1000.0;
        if width < self.one_space || width.is_nan() {
            return;
        }
        let spaces = match width < self.many_spaces {
            true => 1.0,
            false => (width / self.space_width).round().clamp(0.0, MOST),
        };
        self.text.extend(std::iter::repeat_n(' ', spaces as usize));
    }
}
