//! Bytes to the tokens and values of PDF syntax, which files, content streams and character maps
//! share.
//!
//! lopdf has a parser, but one that cannot be interrupted and that turns a hostile file of a few
//! megabytes into gigabytes of objects; here every value is charged to an allowance.

use lopdf::{Dictionary, Object, StringFormat};

/// How deep arrays and dictionaries may nest.
const DEPTH: usize = 64;
/// How many values one object may be made of.
const VALUES: usize = 1 << 20;

/// The smallest unit of syntax.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'a> {
    Number(f64),
    Name(Vec<u8>),
    Text(Vec<u8>),
    Open,
    Close,
    OpenDict,
    CloseDict,
    /// Anything else: operators, `obj`, `R`, `true`.
    Word(&'a [u8]),
}

pub(super) struct Lexer<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(super) fn peek_byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(super) fn skip_space(&mut self) {
        while let Some(b) = self.peek_byte() {
            if b == b'%' {
                let rest = &self.bytes[self.at..];
                self.at += memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            } else if is_space(b) {
                self.at += 1;
            } else {
                break;
            }
        }
    }

    /// The next token, or nothing at the end.
    pub(super) fn token(&mut self) -> Option<Token<'a>> {
        self.skip_space();
        let start = self.at;
        let first = self.peek_byte()?;
        self.at += 1;
        Some(match first {
            b'[' => Token::Open,
            b']' => Token::Close,
            b'<' if self.peek_byte() == Some(b'<') => {
                self.at += 1;
                Token::OpenDict
            }
            b'>' if self.peek_byte() == Some(b'>') => {
                self.at += 1;
                Token::CloseDict
            }
            b'<' => Token::Text(self.hex_text()),
            b'(' => Token::Text(self.literal_text()),
            b'/' => Token::Name(self.name()),
            b'+' | b'-' | b'.' | b'0'..=b'9' => Token::Number(self.number(start)),
            // A delimiter that stands where none can is a word of its own.
            b')' | b'>' | b'{' | b'}' => Token::Word(&self.bytes[start..self.at]),
            _ => {
                self.skip_regular();
                Token::Word(&self.bytes[start..self.at])
            }
        })
    }

    fn skip_regular(&mut self) {
        while self.peek_byte().is_some_and(is_regular) {
            self.at += 1;
        }
    }

    /// As lenient as pdf.js: signs may repeat, a minus within a number does not count, and a sign or
    /// point alone is zero.
    fn number(&mut self, start: usize) -> f64 {
        self.at = start;
        let mut sign = 1.0;
        while let Some(b @ (b'+' | b'-')) = self.peek_byte() {
            if b == b'-' {
                sign = -1.0;
            }
            self.at += 1;
        }
        let mut digits = 0.0;
        let mut divisor = 0.0;
        while let Some(b) = self.peek_byte() {
            match b {
                b'0'..=b'9' => {
                    digits = digits * 10.0 + f64::from(b - b'0');
                    divisor *= 10.0;
                }
                b'.' if divisor == 0.0 => divisor = 1.0,
                b'-' => {}
                _ => break,
            }
            self.at += 1;
        }
        let number = digits / if divisor == 0.0 { 1.0 } else { divisor };
        // Hundreds of digits are too many.
        if number.is_finite() { sign * number } else { 0.0 }
    }

    fn name(&mut self) -> Vec<u8> {
        let mut name = Vec::new();
        while let Some(b) = self.peek_byte().filter(|&b| is_regular(b)) {
            self.at += 1;
            let code = match (b, self.bytes.get(self.at..self.at + 2)) {
                (b'#', Some(&[high, low])) => hex(high).zip(hex(low)).map(|(high, low)| high << 4 | low),
                _ => None,
            };
            self.at += if code.is_some() { 2 } else { 0 };
            name.push(code.unwrap_or(b));
        }
        name
    }

    fn hex_text(&mut self) -> Vec<u8> {
        let rest = &self.bytes[self.at..];
        let length = memchr::memchr(b'>', rest).unwrap_or(rest.len());
        self.at += (length + 1).min(rest.len());
        let digits: Vec<u8> = rest[..length].iter().copied().filter_map(hex).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0)).collect()
    }

    fn literal_text(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut depth = 1;
        while let Some(b) = self.peek_byte() {
            self.at += 1;
            match b {
                b'(' => depth += 1,
                b')' if depth == 1 => break,
                b')' => depth -= 1,
                b'\\' => {
                    self.escape(&mut text);
                    continue;
                }
                // Any line end counts as a line feed.
                b'\r' => {
                    self.at += usize::from(self.peek_byte() == Some(b'\n'));
                    text.push(b'\n');
                    continue;
                }
                _ => {}
            }
            text.push(b);
        }
        text
    }

    fn escape(&mut self, text: &mut Vec<u8>) {
        let Some(b) = self.peek_byte() else { return };
        self.at += 1;
        match b {
            b'n' => text.push(b'\n'),
            b'r' => text.push(b'\r'),
            b't' => text.push(b'\t'),
            b'b' => text.push(8),
            b'f' => text.push(12),
            b'0'..=b'7' => {
                let mut code = b - b'0';
                for _ in 0..2 {
                    match self.peek_byte() {
                        Some(digit @ b'0'..=b'7') => code = code << 3 | (digit - b'0'),
                        _ => break,
                    }
                    self.at += 1;
                }
                text.push(code);
            }
            // A line that goes on.
            b'\r' => self.at += usize::from(self.peek_byte() == Some(b'\n')),
            b'\n' => {}
            _ => text.push(b),
        }
    }

    /// The next token, if it is a whole number that fits.
    pub(super) fn whole<T: TryFrom<i64>>(&mut self) -> Option<T> {
        let Token::Number(number) = self.token()? else {
            return None;
        };
        whole(number)
    }

    /// The number and generation of the object whose `12 0 obj` stands here.
    pub(super) fn object_header(&mut self) -> Option<(u32, u16)> {
        let header = (self.whole()?, self.whole()?);
        (self.token()? == Token::Word(b"obj")).then_some(header)
    }

    /// The next object of a file, with its references left as they are; nothing where there is none,
    /// and nothing for one that nests too deep or is made of too many values.
    pub(super) fn object(&mut self) -> Option<Object> {
        let mut values = VALUES;
        let token = self.token()?;
        self.value(token, DEPTH, &mut values)
    }

    fn value(&mut self, token: Token<'a>, depth: usize, values: &mut usize) -> Option<Object> {
        *values = values.checked_sub(1)?;
        let depth = depth.checked_sub(1)?;
        Some(match token {
            Token::Number(number) => self.number_or_reference(number),
            Token::Name(name) => Object::Name(name),
            Token::Text(text) => Object::String(text, StringFormat::Literal),
            Token::Word(b"true") => Object::Boolean(true),
            Token::Word(b"false") => Object::Boolean(false),
            Token::Word(b"null") => Object::Null,
            Token::Open => {
                let mut array = Vec::new();
                loop {
                    let token = self.token()?;
                    if token == Token::Close {
                        break;
                    }
                    array.push(self.value(token, depth, values)?);
                }
                Object::Array(array)
            }
            Token::OpenDict => {
                let mut dictionary = Dictionary::new();
                loop {
                    let token = self.token()?;
                    if token == Token::CloseDict {
                        break;
                    }
                    // Like pdf.js, go on to the next key.
                    let Token::Name(key) = token else {
                        *values = values.checked_sub(1)?;
                        continue;
                    };
                    let token = self.token()?;
                    if token == Token::CloseDict {
                        break;
                    }
                    let value = self.value(token, depth, values)?;
                    dictionary.set(key, value);
                }
                Object::Dictionary(dictionary)
            }
            Token::Close | Token::CloseDict | Token::Word(_) => return None,
        })
    }

    /// `12`, or the reference that `12 0 R` is.
    fn number_or_reference(&mut self, number: f64) -> Object {
        let Some(id) = whole::<u32>(number) else {
            return whole::<i64>(number).map_or(Object::Real(number as f32), Object::Integer);
        };
        self.skip_space();
        let after_number = self.at;
        if self.peek_byte().is_some_and(|b| b.is_ascii_digit())
            && let Some(Token::Number(generation)) = self.token()
            && let Some(generation) = whole::<u16>(generation)
            && self.token() == Some(Token::Word(b"R"))
        {
            return Object::Reference((id, generation));
        }
        self.at = after_number;
        Object::Integer(id.into())
    }
}

/// `number` as an integer, if it is one that fits.
fn whole<T: TryFrom<i64>>(number: f64) -> Option<T> {
    /// Up to here every whole number has its own double.
    const EXACT: f64 = 9e15;
    (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64).and_then(|number| T::try_from(number).ok())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

pub(super) fn is_space(b: u8) -> bool {
    matches!(b, 0 | b'\t' | b'\n' | 0x0c | b'\r' | b' ')
}

/// Neither white space nor a delimiter.
fn is_regular(b: u8) -> bool {
    !is_space(b) && !matches!(b, b'(' | b')' | b'<' | b'>' | b'[' | b']' | b'{' | b'}' | b'/' | b'%')
}
