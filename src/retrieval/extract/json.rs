//! json: all string values, depth first, joined by spaces.
//!
//! Written out here because a parser that builds values refuses what the original takes (half a
//! surrogate pair, a number beyond the range of a double, a document nested deeper than 128) and
//! needs many times the memory of the file. This one keeps the strings and a stack.

use std::ops::Range;

use super::{Budget, Error};
use crate::js;

/// How deep arrays and objects may nest. Differs: the original overflows its stack at some 1,300
/// objects or 2,600 arrays and answers 500 `Maximum call stack size exceeded`.
const DEPTH: usize = 10_000;

/// The string values in `json`, in the order in which JavaScript visits them.
pub(super) fn text(json: &str, budget: &Budget) -> Result<String, Error> {
    let mut parser = Parser {
        json: js::trim(json),
        at: 0,
        strings: Strings::default(),
        keys: String::new(),
        members: Vec::new(),
        open: Vec::new(),
        budget,
    };
    let all = parser.document()?;
    parser.strings.join(all, budget)
}

struct Parser<'a> {
    json: &'a str,
    at: usize,
    strings: Strings,
    /// The keys of the objects that are open, one after the other.
    keys: String,
    /// The members of the objects that are open.
    members: Vec<Member>,
    open: Vec<Open>,
    budget: &'a Budget,
}

/// An array or object whose end has not come yet.
enum Open {
    Array(List),
    /// Where its members start in `members`, and their keys in `keys`.
    Object {
        members: usize,
        keys: usize,
    },
}

struct Member {
    /// In `keys`. 32 bits, as an object can be a whole file.
    key: Range<u32>,
    strings: List,
}

impl Parser<'_> {
    fn document(&mut self) -> Result<List, Error> {
        loop {
            self.budget.tick()?;
            // A value, or the start of one.
            let mut value = match self.peek() {
                Some(b'[') => {
                    self.at += 1;
                    if self.peek() != Some(b']') {
                        self.push(Open::Array(List::default()))?;
                        continue;
                    }
                    self.at += 1;
                    List::default()
                }
                Some(b'{') => {
                    self.at += 1;
                    if self.peek() != Some(b'}') {
                        let (members, keys) = (self.members.len(), self.keys.len());
                        self.push(Open::Object { members, keys })?;
                        self.key()?;
                        continue;
                    }
                    self.at += 1;
                    List::default()
                }
                Some(b'"') => self.string_value()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                _ => return Err(self.unexpected()),
            };
            // It may be the last of one or more that are open.
            loop {
                self.budget.tick()?;
                let next = self.peek();
                match self.open.last_mut() {
                    None if next.is_none() => return Ok(value),
                    None => return Err(self.unexpected()),
                    Some(Open::Array(strings)) => {
                        self.strings.append(strings, value);
                        let array = *strings;
                        match next {
                            Some(b',') => {
                                self.at += 1;
                                break;
                            }
                            Some(b']') => value = array,
                            _ => return Err(self.unexpected()),
                        }
                    }
                    Some(&mut Open::Object { members, keys }) => {
                        if let Some(member) = self.members.last_mut() {
                            member.strings = value;
                        }
                        match next {
                            Some(b',') => {
                                self.at += 1;
                                self.key()?;
                                break;
                            }
                            Some(b'}') => value = self.close_object(members, keys),
                            _ => return Err(self.unexpected()),
                        }
                    }
                }
                self.open.pop();
                self.at += 1;
            }
        }
    }

    fn push(&mut self, open: Open) -> Result<(), Error> {
        if self.open.len() == DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.open.push(open);
        Ok(())
    }

    /// The key of a member, and its colon.
    fn key(&mut self) -> Result<(), Error> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        let start = self.keys.len();
        let mut keys = std::mem::take(&mut self.keys);
        let read = self.string(&mut keys);
        self.keys = keys;
        read?;
        let at = |at: usize| u32::try_from(at).map_err(|_| Error::TooLarge);
        self.members.push(Member { key: at(start)?..at(self.keys.len())?, strings: List::default() });
        if self.peek() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    /// Puts the members of the object that ends here into JavaScript's order.
    fn close_object(&mut self, members: usize, keys: usize) -> List {
        let mut strings = List::default();
        if let [only] = &self.members[members..] {
            strings = only.strings;
        } else {
            let names: Vec<&str> = self.members[members..]
                .iter()
                .map(|member| &self.keys[member.key.start as usize..member.key.end as usize])
                .collect();
            for at in js::own_keys(&names) {
                self.strings.append(&mut strings, self.members[members + at].strings);
            }
        }
        self.members.truncate(members);
        self.keys.truncate(keys);
        strings
    }

    fn string_value(&mut self) -> Result<List, Error> {
        let mut text = std::mem::take(&mut self.strings.text);
        let start = text.len();
        let read = self.string(&mut text);
        self.strings.text = text;
        read?;
        self.strings.since(start)
    }

    /// Reads a string and appends what it says to `out`.
    fn string(&mut self, out: &mut String) -> Result<(), Error> {
        self.at += 1;
        loop {
            self.budget.tick()?;
            let rest = &self.json[self.at..];
            let plain = rest.bytes().position(|b| b == b'"' || b == b'\\' || b < 0x20).unwrap_or(rest.len());
            self.budget.append(out, &rest[..plain])?;
            self.at += plain;
            match rest.as_bytes().get(plain) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => out.push(self.escape()?),
                None => return Err(self.unexpected()),
                Some(_) => return Err(self.error("bad control character in a string")),
            }
        }
    }

    /// The character that the backslash here stands for. Half a surrogate pair is U+FFFD, which is
    /// what it is once stored.
    fn escape(&mut self) -> Result<char, Error> {
        let c = match self.json.as_bytes().get(self.at + 1) {
            Some(&c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let Some(high) = self.code_unit(self.at) else {
                    return Err(self.error("bad Unicode escape"));
                };
                self.at += 6;
                if let Some(low) = self.code_unit(self.at)
                    && let Some(Ok(c)) = char::decode_utf16([high, low]).next()
                    && c.len_utf16() == 2
                {
                    self.at += 6;
                    return Ok(c);
                }
                return Ok(char::from_u32(high.into()).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            _ => return Err(self.error("bad escaped character")),
        };
        self.at += 2;
        Ok(c)
    }

    /// The code unit that `\uXXXX` at `at` names.
    fn code_unit(&self, at: usize) -> Option<u16> {
        let digits = self.json.as_bytes().get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |unit, &digit| {
            let value = char::from(digit).to_digit(16)?;
            Some(unit << 4 | u16::try_from(value).ok()?)
        })
    }

    fn number(&mut self) -> Result<List, Error> {
        let bytes = self.json.as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let mut at = self.at + usize::from(bytes[self.at] == b'-');
        // After a first zero the number is over, or its fraction starts.
        let whole = if bytes.get(at) == Some(&b'0') { 1 } else { digits(at) };
        let mut complete = whole > 0;
        at += whole;
        if complete && bytes.get(at) == Some(&b'.') {
            let fraction = digits(at + 1);
            complete = fraction > 0;
            at += 1 + fraction;
        }
        if complete && matches!(bytes.get(at), Some(b'e' | b'E')) {
            at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let exponent = digits(at);
            complete = exponent > 0;
            at += exponent;
        }
        self.at = at;
        match complete {
            true => Ok(List::default()),
            false => Err(self.unexpected()),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<List, Error> {
        if !self.json[self.at..].starts_with(word) {
            return Err(self.unexpected());
        }
        self.at += word.len();
        Ok(List::default())
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.json.as_bytes()[self.at..];
        let space = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'));
        self.at += space.count();
        self.json.as_bytes().get(self.at).copied()
    }

    fn unexpected(&self) -> Error {
        match self.at < self.json.len() {
            true => self.error("unexpected token"),
            false => self.error("unexpected end"),
        }
    }

    fn error(&self, what: &'static str) -> Error {
        let before = self.json.get(..self.at).unwrap_or(self.json);
        Error::Json { what, at: before.encode_utf16().count() }
    }
}

/// Strings in an order that may still change: stretches of one text, in linked lists.
#[derive(Default)]
struct Strings {
    /// Every string, each with a space after it.
    text: String,
    stretches: Vec<Stretch>,
}

struct Stretch {
    start: usize,
    end: usize,
    next: Option<u32>,
}

/// The first and the last stretch of a list.
#[derive(Clone, Copy, Default)]
struct List(Option<(u32, u32)>);

impl Strings {
    /// A list of the one string that was appended to `text` from `start` on, if it is not empty.
    fn since(&mut self, start: usize) -> Result<List, Error> {
        if self.text.len() == start {
            return Ok(List::default());
        }
        self.text.push(' ');
        let at = u32::try_from(self.stretches.len()).map_err(|_| Error::TooLarge)?;
        self.stretches.push(Stretch { start, end: self.text.len(), next: None });
        Ok(List(Some((at, at))))
    }

    fn append(&mut self, list: &mut List, more: List) {
        let (Some((first, last)), Some((more_first, more_last))) = (list.0, more.0) else {
            *list = List(list.0.or(more.0));
            return;
        };
        let (at, more_at) = (last as usize, more_first as usize);
        if self.stretches[at].end != self.stretches[more_at].start {
            self.stretches[at].next = Some(more_first);
            *list = List(Some((first, more_last)));
            return;
        }
        // Neighbours become one, so that a list in the order of the file stays a single stretch.
        self.stretches[at].end = self.stretches[more_at].end;
        self.stretches[at].next = self.stretches[more_at].next;
        *list = List(Some((first, if more_first == more_last { last } else { more_last })));
        if more_at + 1 == self.stretches.len() {
            self.stretches.pop();
        }
    }

    /// The strings of `list`, joined by spaces.
    fn join(self, list: List, budget: &Budget) -> Result<String, Error> {
        let Some((first, _)) = list.0 else {
            return Ok(String::new());
        };
        let mut stretch = &self.stretches[first as usize];
        let mut text = String::new();
        if stretch.next.is_none() {
            // The usual case, and the one where a copy would be of the whole text.
            let (start, end) = (stretch.start, stretch.end);
            text = self.text;
            text.truncate(end);
            text.drain(..start);
        } else {
            loop {
                budget.append(&mut text, &self.text[stretch.start..stretch.end])?;
                match stretch.next {
                    Some(next) => stretch = &self.stretches[next as usize],
                    None => break,
                }
            }
        }
        text.pop();
        Ok(text)
    }
}
