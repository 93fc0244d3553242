//! JSON and JSON Lines: all string values, depth first, joined by spaces.
//!
//! `serde_json` says whether the text is JSON, without building values; the strings are then taken out
//! here, for the order of members is JavaScript's, and half a surrogate pair is taken as JavaScript
//! takes it.
//!
//! Differs: the original refuses JSON Lines, and has no text of JSON without strings, which is taken here as it stands.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde_json::Deserializer;

use super::{Budget, Error};
use crate::js;

/// How deep arrays and objects may nest. Differs: the original overflows its stack at some 1,300
/// objects or 2,600 arrays and answers 500 `Maximum call stack size exceeded`.
const DEPTH: usize = 1_500;
/// The most members of an object.
const MEMBERS: usize = 1 << 22;

/// The string values in `json`, in the order in which JavaScript visits them.
pub(super) fn text(json: &str, budget: &Budget) -> Result<String, Error> {
    let json = js::trim(json);
    budget.check()?;
    let mut documents = Deserializer::from_str(json).into_iter::<IgnoredAny>();
    let mut text = String::new();
    let mut end = 0;
    while let Some(document) = documents.next() {
        document.map_err(|error| Error::Json(error.to_string()))?;
        let start = json.len() - json[end..].trim_start_matches(is_space).len();
        let is_next_line = json[end..start].contains('\n') && json[start..].starts_with(['{', '[']);
        if end > 0 && !is_next_line {
            return Err(Error::Json("unexpected text after the end".to_owned()));
        }
        end = documents.byte_offset();
        Strings { json: &json[..end], at: start, budget }.value(&mut text, 0)?;
    }
    if end == 0 {
        return Err(Error::Json("the file is empty".to_owned()));
    }
    text.pop();
    // Numbers and names are what there is to ask about then. A list of nothing has none.
    let is_empty_list = json.strip_prefix('[').is_some_and(|rest| rest.trim_start_matches(is_space) == "]");
    if js::trim(&text).is_empty() && !is_empty_list {
        return Ok(json.to_owned());
    }
    Ok(text)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// The strings of a document that is known to be JSON.
struct Strings<'a> {
    json: &'a str,
    at: usize,
    budget: &'a Budget,
}

impl<'a> Strings<'a> {
    /// Appends the strings of the value here, each with a space after it.
    fn value(&mut self, out: &mut String, depth: usize) -> Result<(), Error> {
        self.budget.tick()?;
        if depth > DEPTH {
            return Err(Error::Json("it is nested too deeply".to_owned()));
        }
        match self.peek() {
            Some(b'"') => {
                let string = self.string();
                self.budget.append(out, &string)?;
                out.push_str(if string.is_empty() { "" } else { " " });
            }
            Some(b'[') => {
                self.at += 1;
                while self.peek().is_some_and(|byte| byte != b']') {
                    self.value(out, depth + 1)?;
                    self.at += usize::from(self.peek() == Some(b','));
                }
                self.at += 1;
            }
            Some(b'{') => self.object(out, depth)?,
            _ => {
                let rest = &self.json.as_bytes()[self.at..];
                self.at += rest.iter().take_while(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)).count();
            }
        }
        Ok(())
    }

    fn object(&mut self, out: &mut String, depth: usize) -> Result<(), Error> {
        let start = out.len();
        let mut keys = Vec::new();
        let mut ends = vec![start];
        self.at += 1;
        while self.peek() == Some(b'"') {
            keys.push(self.string());
            // The colon.
            self.peek();
            self.at += 1;
            self.value(out, depth + 1)?;
            ends.push(out.len());
            self.at += usize::from(self.peek() == Some(b','));
            if keys.len() > MEMBERS {
                return Err(Error::TooLarge);
            }
        }
        self.at += 1;
        if keys.len() > 1 {
            let names: Vec<&str> = keys.iter().map(|key| &**key).collect();
            let order: Vec<usize> = js::own_keys(&names).collect();
            if !order.iter().copied().eq(0..keys.len()) {
                self.budget.check()?;
                let written = out.split_off(start);
                for at in order {
                    out.push_str(&written[ends[at] - start..ends[at + 1] - start]);
                }
            }
        }
        Ok(())
    }

    /// Reads the string here.
    fn string(&mut self) -> Cow<'a, str> {
        self.at += 1;
        let mut string = Cow::Borrowed("");
        loop {
            let rest = &self.json[self.at..];
            let plain = memchr::memchr2(b'"', b'\\', rest.as_bytes()).unwrap_or(rest.len());
            self.at += plain;
            string += &rest[..plain];
            if rest.as_bytes().get(plain) != Some(&b'\\') {
                self.at += 1;
                return string;
            }
            string.to_mut().push(self.escape());
        }
    }

    /// The character that the backslash here stands for. Half a surrogate pair is U+FFFD, which is
    /// what it is once stored.
    fn escape(&mut self) -> char {
        let code = self.json.as_bytes().get(self.at + 1).copied().unwrap_or(b'\\');
        let Some(high) = self.code_unit() else {
            self.at += 2;
            return match code {
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                other => char::from(other),
            };
        };
        self.at += 6;
        if let Some(low) = self.code_unit()
            && let Some(Ok(c)) = char::decode_utf16([high, low]).next()
            && c.len_utf16() == 2
        {
            self.at += 6;
            return c;
        }
        char::from_u32(high.into()).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    /// The code unit that a `\uXXXX` here names.
    fn code_unit(&self) -> Option<u16> {
        let digits = self.json.get(self.at..self.at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.json[self.at..];
        self.at += rest.len() - rest.trim_start_matches(is_space).len();
        self.json.as_bytes().get(self.at).copied()
    }
}
