//! The details of JavaScript that show in the original's answers and stored text: white space, the order of an object's
//! members, the characters that stay unescaped in a URL.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde_json::Value;

/// The characters that `encodeURIComponent` escapes: all but letters, digits and `-_.!~*'()`.
pub const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// Tells if JavaScript's `trim` and `\s` treat `c` as white space. Unlike Rust's `White_Space`, this includes the byte
/// order mark and excludes U+0085.
pub fn is_space(c: char) -> bool {
    c == '\u{feff}' || (c != '\u{85}' && c.is_whitespace())
}

/// Removes white space at both ends, like JavaScript's `trim`.
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Returns, for an object written with these keys, the positions of the values that remain, in JavaScript's order. Keys
/// that are array indexes come first, ascending; the others follow as written. Of a repeated key the last value stays,
/// in the position of the first.
pub fn own_keys(keys: &[&str]) -> impl Iterator<Item = usize> + use<> {
    // An object can be a whole file: 32 bits a key suffice, and the size matters.
    let key = |at: u32| keys[at as usize];
    let mut by_key: Vec<u32> = (0..).take(keys.len()).collect();
    by_key.sort_unstable_by_key(|&at| (key(at), at));

    let mut kept: Vec<(u64, u32)> = Vec::with_capacity(keys.len());
    for same in by_key.chunk_by(|&a, &b| key(a) == key(b)) {
        // `chunk_by` never yields an empty slice.
        if let (Some(&first), Some(&last)) = (same.first(), same.last()) {
            let rank = array_index(key(first)).unwrap_or(1 << 32 | u64::from(first));
            kept.push((rank, last));
        }
    }
    kept.sort_unstable();
    kept.into_iter().map(|(_, last)| last as usize)
}

/// Parses a key that is an array index in canonical form, up to 2^32 - 2.
fn array_index(key: &str) -> Option<u64> {
    let canonical = key == "0" || (key.bytes().all(|b| b.is_ascii_digit()) && !key.starts_with('0'));
    let index: u32 = key.parse().ok().filter(|_| canonical)?;
    (index < u32::MAX).then_some(index.into())
}

/// Serializes like `JSON.stringify`: as serde does, except for the order of members and for numbers, which are all
/// doubles.
pub fn stringify(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(number) if number.is_finite() => text.push_str(ryu_js::Buffer::new().format(number)),
            _ => text.push_str("null"),
        },
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at > 0 { "," } else { "" });
                write(item, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let names: Vec<&str> = members.keys().map(String::as_str).collect();
            text.push('{');
            for (number, at) in own_keys(&names).enumerate() {
                text.push_str(if number > 0 { "," } else { "" });
                text.push_str(&Value::from(names[at]).to_string());
                text.push(':');
                write(&members[names[at]], text);
            }
            text.push('}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => text.push_str(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_as_javascript_writes_it() {
        for (json, written) in [
            (
                r#"{"a":1.0,"c":1e3,"d":12345678901234567890,"e":-0,"f":1e21,"g":0.1e-6}"#,
                r#"{"a":1,"c":1000,"d":12345678901234567000,"e":0,"f":1e+21,"g":1e-7}"#,
            ),
            (r#"{"b":[1.50,"é\u0041/\n",null,true],"2":{},"1":[]}"#, r#"{"1":[],"2":{},"b":[1.5,"éA/\n",null,true]}"#),
        ] {
            assert_eq!(stringify(&serde_json::from_str(json).expect("JSON")), written);
        }
    }

    #[test]
    fn white_space_is_javascripts() {
        assert_eq!(trim("\u{feff}\u{a0} a \u{85}\u{3000}\n"), "a \u{85}");
    }

    #[test]
    fn array_indexes_come_first_and_repeated_keys_keep_their_place() {
        let keys = ["b", "10", "a", "2", "b", "01", "4294967295", "4294967294"];
        let names: Vec<_> = own_keys(&keys).map(|at| (keys[at], at)).collect();
        assert_eq!(names, [("2", 3), ("10", 1), ("4294967294", 7), ("b", 4), ("a", 2), ("01", 5), ("4294967295", 6)]);
        assert!(own_keys(&[]).next().is_none());
    }
}
