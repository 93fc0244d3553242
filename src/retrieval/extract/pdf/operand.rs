//! What stands before the operators of a content stream, and the images that stand between them.

use super::lexer::{self, Lexer, Token};
use crate::retrieval::extract::{Budget, Error};

/// The most members of an array.
const MEMBERS: usize = 1 << 18;

/// What stands before an operator.
pub(super) enum Operand {
    Number(f64),
    Name(Vec<u8>),
    Text(Vec<u8>),
    Array(Vec<Operand>),
    Other,
}

/// The last numbers before an operator; nothing if there are too few.
pub(super) fn numbers<const N: usize>(operands: &[Operand]) -> Option<[f64; N]> {
    let last = operands.last_chunk::<N>()?;
    Some(std::array::from_fn(|at| match last[at] {
        Operand::Number(number) => number,
        Operand::Name(_) | Operand::Text(_) | Operand::Array(_) | Operand::Other => 0.0,
    }))
}

/// The operand that starts with `token`.
pub(super) fn operand(token: Token<'_>, lexer: &mut Lexer<'_>, budget: &Budget) -> Result<Operand, Error> {
    Ok(match token {
        Token::Number(number) => Operand::Number(number),
        Token::Name(name) => Operand::Name(name),
        Token::Text(text) => Operand::Text(text),
        Token::Open => {
            let mut items = Vec::new();
            let mut depth = 1;
            while let Some(token) = lexer.token() {
                budget.tick()?;
                if token == Token::Open {
                    depth += 1;
                } else if token == Token::Close {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                } else if items.len() < MEMBERS {
                    if let Token::Number(number) = token {
                        items.push(Operand::Number(number));
                    } else if let Token::Text(text) = token {
                        items.push(Operand::Text(text));
                    }
                }
            }
            Operand::Array(items)
        }
        Token::OpenDict => {
            let mut depth = 1;
            while depth > 0
                && let Some(token) = lexer.token()
            {
                budget.tick()?;
                if token == Token::OpenDict {
                    depth += 1;
                } else if token == Token::CloseDict {
                    depth -= 1;
                }
            }
            Operand::Other
        }
        Token::Close | Token::CloseDict | Token::Word(_) => Operand::Other,
    })
}

/// Skips an image that stands in the content, behind its `BI`: a dictionary, `ID`, its bytes, `EI`.
pub(super) fn skip_image(lexer: &mut Lexer<'_>) {
    loop {
        match lexer.token() {
            Some(Token::Word(b"ID")) => break,
            Some(_) => {}
            None => return,
        }
    }
    let data = &lexer.bytes[lexer.at..];
    let is_end = |&at: &usize| {
        let after = &data[at + 2..];
        // An `EI` among the bytes of the image is likely to have other such bytes around it.
        at > 0
            && lexer::is_space(data[at - 1])
            && after.first().is_none_or(|&b| lexer::is_space(b))
            && after.iter().take(10).all(|&b| lexer::is_space(b) || (0x20..0x7f).contains(&b))
    };
    let end = memchr::memmem::find_iter(data, b"EI").find(is_end);
    lexer.at += end.map_or(data.len(), |at| at + 2);
}
