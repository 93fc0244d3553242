//! CSV: every row becomes lines `column: value`.
//!
//! Written out here because the habits of the original's reader, d3-dsv, decide what was stored, and
//! other readers of csv do not share them: a quote counts only at the start of a field, whatever
//! follows the closing one is taken for the comma, and a blank line is a row of empty values.
//!
//! Differs: the original knows no delimiter but the comma, and drops the cells of a row beyond the
//! header's width.

use std::borrow::Cow;

use super::{Budget, Error};
use crate::js;

/// The most columns that a table with rows may have.
const COLUMNS: usize = 1 << 20;

/// The rows below the first, each as lines `column: value`, with a blank line between rows.
pub(super) fn text(csv: &str, budget: &Budget) -> Result<String, Error> {
    let csv = js::trim(csv);
    let mut fields = Fields::new(csv, delimiter(csv, budget)?);
    let mut row = Vec::new();
    let width = fields.row(&mut row, COLUMNS, budget)?;
    if fields.done {
        return Ok(String::new());
    }
    if width > COLUMNS {
        return Err(Error::TooLarge);
    }
    let header: Vec<String> = row.drain(..).map(Cow::into_owned).collect();
    let names: Vec<&str> = header.iter().map(String::as_str).collect();
    let columns: Vec<(&str, usize)> = js::own_keys(&names).map(|at| (js::trim(names[at]), at)).collect();

    let mut text = String::new();
    let mut between_rows = "";
    while !fields.done {
        let count = fields.row(&mut row, COLUMNS, budget)?;
        budget.append(&mut text, between_rows)?;
        between_rows = "\n\n";
        let mut between_lines = "";
        for &(name, at) in &columns {
            budget.tick()?;
            let value = row.get(at).map_or("", |value| js::trim(value));
            for part in [between_lines, name, ": ", value] {
                budget.append(&mut text, part)?;
            }
            between_lines = "\n";
        }
        for (at, value) in row.iter().enumerate().take(count).skip(width) {
            budget.tick()?;
            let value = js::trim(value);
            if !value.is_empty() {
                budget.append(&mut text, &format!("\ncolumn {}: {value}", at + 1))?;
            }
        }
    }
    Ok(text)
}

/// What stands between the fields: of comma, semicolon, tab and pipe, that by which the first rows
/// have the most fields and all the same number.
fn delimiter(csv: &str, budget: &Budget) -> Result<u8, Error> {
    /// How many rows are looked at, and how many columns of each.
    const ROWS: usize = 32;
    const WIDTH: usize = 1 << 12;
    let mut best = (b',', (0, 0));
    for delimiter in [b',', b';', b'\t', b'|'] {
        let mut fields = Fields::new(csv, delimiter);
        let mut row = Vec::new();
        let width = fields.row(&mut row, WIDTH, budget)?;
        let (mut rows, mut alike) = (1, 1);
        while !fields.done && rows < ROWS {
            let count = fields.row(&mut row, WIDTH, budget)?;
            if count > 1 || row.iter().any(|field| !field.is_empty()) {
                rows += 1;
                alike += usize::from(count == width);
            }
        }
        let score = (alike * 1000 / rows, width);
        if width > 1 && score > best.1 {
            best = (delimiter, score);
        }
    }
    Ok(best.0)
}

/// The fields of a table, from the start to the end.
struct Fields<'a> {
    csv: &'a str,
    delimiter: u8,
    at: usize,
    /// Nothing is left to read.
    done: bool,
}

impl<'a> Fields<'a> {
    fn new(csv: &'a str, delimiter: u8) -> Self {
        Self { csv, delimiter, at: 0, done: csv.is_empty() }
    }

    /// Reads a row, the first `most` fields of it into `row`, and says how many it has.
    fn row(&mut self, row: &mut Vec<Cow<'a, str>>, most: usize, budget: &Budget) -> Result<usize, Error> {
        row.clear();
        let mut count = 0;
        loop {
            budget.tick()?;
            let rest = &self.csv[self.at..];
            let (field, end) = match rest.strip_prefix('"') {
                Some(quoted) => {
                    let length = closing_quote(quoted);
                    let field = match quoted[..length].contains("\"\"") {
                        true => Cow::Owned(quoted[..length].replace("\"\"", "\"")),
                        false => Cow::Borrowed(&quoted[..length]),
                    };
                    (field, (length + 2).min(rest.len()))
                }
                None => {
                    let length = memchr::memchr3(self.delimiter, b'\n', b'\r', rest.as_bytes()).unwrap_or(rest.len());
                    (Cow::Borrowed(&rest[..length]), length)
                }
            };
            count += 1;
            if count <= most {
                row.push(field);
            }
            let next = rest[end..].chars().next();
            self.at += end + next.map_or(0, char::len_utf8) + usize::from(rest[end..].starts_with("\r\n"));
            self.done = next.is_none();
            if matches!(next, None | Some('\r' | '\n')) {
                return Ok(count);
            }
        }
    }
}

/// Where the quote is that ends this field, or the end of the table.
fn closing_quote(quoted: &str) -> usize {
    let mut at = 0;
    loop {
        match memchr::memchr(b'"', &quoted.as_bytes()[at..]) {
            None => return quoted.len(),
            Some(quote) if quoted[at + quote + 1..].starts_with('"') => at += quote + 2,
            Some(quote) => return at + quote,
        }
    }
}
