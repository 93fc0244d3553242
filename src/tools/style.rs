//! Parameters on the wire: OpenAPI's styles and `explode`, Swagger's
//! `collectionFormat`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;

use super::arguments::{Argument, text};

/// Characters that are encoded in a path's segment, a query or a cookie: all
/// but those that no URL reserves.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The way in which a list or an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `a,b`: paths and headers.
    Simple,
    /// `.a.b`: paths.
    Label,
    /// `;x=a;x=b`: paths.
    Matrix,
    /// `x=a&x=b`, or `x=a,b`: queries and cookies.
    Form,
    /// `x=a%20b`.
    Space,
    /// `x=a%7Cb`.
    Pipe,
    /// `x=a%09b`: only Swagger 2.
    Tab,
    /// `x[a]=1&x[b]=2`.
    Deep,
    /// JSON, for parameters with a `content`.
    Json,
}

/// Percent-encodes a text.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// The most bytes that a call's arguments may become.
const MAX_WRITTEN: usize = 4 * 1024 * 1024;

/// What is left of the bytes that a call's arguments may become: a value takes up to three times its bytes, and lists
/// repeat their name for each item.
#[derive(Debug)]
pub struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(MAX_WRITTEN)
    }
}

impl Room {
    /// Charges a value before it is written.
    ///
    /// # Errors
    /// If it does not fit: a sentence for the model.
    pub fn take(&mut self, name: &str, value: &RawValue, style: Style) -> Result<(), String> {
        let written = value.get();
        let values = || 1 + written.bytes().filter(|byte| *byte == b',').count();
        let names = match written.as_bytes().first() {
            // Of nested members, each value has all names on its way.
            Some(b'[' | b'{') if style == Style::Deep => values().saturating_mul(name.len() + written.len()),
            // A part of a form has a head of its own.
            Some(b'[') => values().saturating_mul(name.len() + 32),
            _ => name.len(),
        };
        let bytes = names.saturating_add(written.len()).saturating_mul(3);
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(0);
        left.map(drop).ok_or_else(|| format!("the request would be larger than {} MiB", MAX_WRITTEN / 1024 / 1024))
    }
}

/// A value in its place of a path, encoded; `None` if it is empty.
pub fn in_path(name: &str, value: &RawValue, style: Style, explode: bool) -> Option<String> {
    let name = encoded(name);
    // Prefix, separator, and what joins a name and a value of an object.
    let (prefix, separator) = match (style, explode) {
        (Style::Label, true) => (".", "."),
        (Style::Label, false) => (".", ","),
        (Style::Matrix, true) => (";", ";"),
        (Style::Matrix, false) => (";", ","),
        _ => ("", ","),
    };
    let named = style == Style::Matrix;
    let values = match Argument::of(value) {
        _ if style == Style::Json => encoded(value.get()),
        Argument::Null => return None,
        Argument::Scalar(text) if text.is_empty() => return None,
        Argument::Scalar(text) => encoded(&text),
        Argument::List(list) if list.is_empty() => return None,
        Argument::List(list) => {
            let items = list.iter().map(|item| encoded(&text(item)));
            if named && explode {
                return Some(items.map(|item| format!(";{name}={item}")).collect());
            }
            items.collect::<Vec<_>>().join(separator)
        }
        Argument::Object(members) if members.0.is_empty() => return None,
        Argument::Object(members) => {
            let joint = if explode { "=" } else { "," };
            let pairs =
                members.0.iter().map(|(name, value)| format!("{}{joint}{}", encoded(name), encoded(&text(value))));
            let pairs = pairs.collect::<Vec<_>>().join(separator);
            if named && explode {
                return Some(format!(";{pairs}"));
            }
            pairs
        }
    };
    Some(if named { format!(";{name}={values}") } else { format!("{prefix}{values}") })
}

/// A value as pairs of a query or a cookie, both halves encoded.
pub fn pairs(name: &str, value: &RawValue, style: Style, explode: bool) -> Vec<(String, String)> {
    let one = |value: String| vec![(encoded(name), value)];
    let separator = match style {
        Style::Space => "%20",
        Style::Pipe => "%7C",
        Style::Tab => "%09",
        _ => ",",
    };
    let joined = |parts: Vec<String>| if parts.is_empty() { Vec::new() } else { one(parts.join(separator)) };
    match Argument::of(value) {
        Argument::Null => Vec::new(),
        _ if style == Style::Json => one(encoded(value.get())),
        Argument::Scalar(text) => one(encoded(&text)),
        Argument::List(list) => {
            let items = list.iter().map(|item| encoded(&text(item)));
            if explode || style == Style::Deep {
                items.map(|item| (encoded(name), item)).collect()
            } else {
                joined(items.collect())
            }
        }
        Argument::Object(members) if style == Style::Deep => {
            let mut pairs = Vec::new();
            for (member, value) in &members.0 {
                deep(format!("{name}[{member}]"), value, 0, &mut pairs);
            }
            pairs
        }
        Argument::Object(members) => {
            let pairs = members.0.iter().map(|(name, value)| (encoded(name), encoded(&text(value))));
            if explode { pairs.collect() } else { joined(pairs.flat_map(|(name, value)| [name, value]).collect()) }
        }
    }
}

/// Nested objects as `x[a][b]=1`; the specification leaves them open.
fn deep(name: String, value: &RawValue, depth: usize, pairs: &mut Vec<(String, String)>) {
    const MAX_DEPTH: usize = 8;
    match Argument::of(value) {
        Argument::Null => {}
        Argument::List(list) => pairs.extend(list.iter().map(|item| (encoded(&name), encoded(&text(item))))),
        Argument::Object(members) if depth < MAX_DEPTH => {
            for (member, value) in &members.0 {
                deep(format!("{name}[{member}]"), value, depth + 1, pairs);
            }
        }
        _ => pairs.push((encoded(&name), encoded(&text(value)))),
    }
}

/// A value as a header's text.
pub fn in_header(value: &RawValue, style: Style, explode: bool) -> Option<String> {
    Some(match Argument::of(value) {
        Argument::Null => return None,
        _ if style == Style::Json => value.get().to_owned(),
        Argument::Scalar(text) => text.into_owned(),
        Argument::List(list) => list.iter().map(|item| text(item)).collect::<Vec<_>>().join(","),
        Argument::Object(members) => {
            let joint = if explode { "=" } else { "," };
            let pairs = members.0.iter().map(|(name, value)| format!("{name}{joint}{}", text(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"["a,b",2]"#;
    const OBJECT: &str = r#"{"R":100,"G":"x y"}"#;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).expect("JSON")
    }

    #[test]
    fn paths_follow_the_table_of_styles() {
        for (style, explode, scalar, list, object) in [
            (Style::Simple, false, "b%2Fc", "a%2Cb,2", "R,100,G,x%20y"),
            (Style::Simple, true, "b%2Fc", "a%2Cb,2", "R=100,G=x%20y"),
            (Style::Label, false, ".b%2Fc", ".a%2Cb,2", ".R,100,G,x%20y"),
            (Style::Label, true, ".b%2Fc", ".a%2Cb.2", ".R=100.G=x%20y"),
            (Style::Matrix, false, ";c=b%2Fc", ";c=a%2Cb,2", ";c=R,100,G,x%20y"),
            (Style::Matrix, true, ";c=b%2Fc", ";c=a%2Cb;c=2", ";R=100;G=x%20y"),
        ] {
            let path = |json| in_path("c", raw(json), style, explode).expect("a value");
            assert_eq!(
                (path(r#""b/c""#).as_str(), path(LIST).as_str(), path(OBJECT).as_str()),
                (scalar, list, object),
                "{style:?} {explode}"
            );
        }
        for empty in ["null", r#""""#, "[]", "{}"] {
            assert_eq!(in_path("c", raw(empty), Style::Simple, false), None);
        }
    }

    #[test]
    fn queries_follow_the_table_of_styles() {
        let query = |json, style, explode| {
            let pairs = pairs("c", raw(json), style, explode);
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
        };
        for (style, explode, list, object) in [
            (Style::Form, true, "c=a%2Cb&c=2", "R=100&G=x%20y"),
            (Style::Form, false, "c=a%2Cb,2", "c=R,100,G,x%20y"),
            (Style::Space, false, "c=a%2Cb%202", "c=R%20100%20G%20x%20y"),
            (Style::Pipe, false, "c=a%2Cb%7C2", "c=R%7C100%7CG%7Cx%20y"),
            (Style::Tab, false, "c=a%2Cb%092", "c=R%09100%09G%09x%20y"),
            (Style::Deep, true, "c=a%2Cb&c=2", "c%5BR%5D=100&c%5BG%5D=x%20y"),
            (Style::Json, false, "c=%5B%22a%2Cb%22%2C2%5D", "c=%7B%22R%22%3A100%2C%22G%22%3A%22x%20y%22%7D"),
        ] {
            assert_eq!(
                (query(LIST, style, explode).as_str(), query(OBJECT, style, explode).as_str()),
                (list, object),
                "{style:?} {explode}"
            );
        }
        assert_eq!(query("null", Style::Form, true), "");
        assert_eq!(query(r#""""#, Style::Form, true), "c=");
        assert_eq!(query(r#"{"a":{"b":[1,2],"c":null}}"#, Style::Deep, true), "c%5Ba%5D%5Bb%5D=1&c%5Ba%5D%5Bb%5D=2");
    }

    #[test]
    fn headers_are_simple() {
        let header = |json, explode| in_header(raw(json), Style::Simple, explode);
        assert_eq!(header(LIST, false).as_deref(), Some("a,b,2"));
        assert_eq!(header(OBJECT, true).as_deref(), Some("R=100,G=x y"));
        assert_eq!(in_header(raw(OBJECT), Style::Json, true).as_deref(), Some(OBJECT));
    }
}
