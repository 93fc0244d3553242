//! csv: every row becomes lines `column: value`.
//!
//! Written out here because the habits of the original's reader, d3-dsv, decide what was stored, and
//! other readers of csv do not share them: a quote counts only at the start of a field, whatever
//! follows the closing one is taken for the comma, and a blank line is a row of empty values.

use std::borrow::Cow;

use super::{Budget, Error};
use crate::js;

/// The most columns that a table with rows may have.
const COLUMNS: usize = 1 << 20;

/// The rows below the first, each as lines `column: value`, with a blank line between rows.
pub(super) fn text(csv: &str, budget: &Budget) -> Result<String, Error> {
    let mut fields = Fields::new(js::trim(csv));
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
        fields.row(&mut row, width, budget)?;
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
    }
    Ok(text)
}

/// The fields of a table, from the start to the end.
struct Fields<'a> {
    csv: &'a str,
    at: usize,
    /// Nothing is left to read.
    done: bool,
}

/// What follows a field.
enum Next {
    Field,
    Row,
    End,
}

impl<'a> Fields<'a> {
    fn new(csv: &'a str) -> Self {
        Self { csv, at: 0, done: csv.is_empty() }
    }

    /// Reads a row, the first `most` fields of it into `row`, and says how many it has.
    fn row(&mut self, row: &mut Vec<Cow<'a, str>>, most: usize, budget: &Budget) -> Result<usize, Error> {
        row.clear();
        let mut count = 0;
        loop {
            budget.tick()?;
            count += 1;
            let (field, next) = self.field();
            if count <= most {
                row.push(field);
            }
            match next {
                Next::Field => {}
                Next::Row => return Ok(count),
                Next::End => {
                    self.done = true;
                    return Ok(count);
                }
            }
        }
    }

    fn field(&mut self) -> (Cow<'a, str>, Next) {
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
                let length = memchr::memchr3(b',', b'\n', b'\r', rest.as_bytes()).unwrap_or(rest.len());
                (Cow::Borrowed(&rest[..length]), length)
            }
        };
        let after = &rest[end..];
        let (skip, next) = match after.chars().next() {
            None => (0, Next::End),
            Some('\r') if after[1..].starts_with('\n') => (2, Next::Row),
            Some('\r' | '\n') => (1, Next::Row),
            Some(comma) => (comma.len_utf8(), Next::Field),
        };
        self.at += end + skip;
        (field, next)
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
