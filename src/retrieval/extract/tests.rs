use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;

use super::{Error, FileKind, text};

/// The text of a file, with time enough.
pub(super) fn read(kind: FileKind, bytes: impl AsRef<[u8]>) -> Result<String, Error> {
    text(kind, bytes.as_ref(), Instant::now() + Duration::from_secs(60))
}

/// Damages a file in up to a hundred places, in ways that depend on `seed` alone.
pub(super) fn mutated(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut random = fastrand(seed);
    let mut bytes = bytes.to_vec();
    for _ in 0..[1, 1, 2, 5, 20, 100][random(6)] {
        let at = random(bytes.len());
        match random(5) {
            0..3 => bytes[at] = random(256) as u8,
            3 => drop(bytes.drain(at..(at + random(40)).min(bytes.len()))),
            _ => {
                let from = random(bytes.len());
                let some = bytes[from..(from + random(40)).min(bytes.len())].to_vec();
                bytes.splice(at..at, some);
            }
        }
        if bytes.is_empty() {
            bytes.push(b'%');
        }
    }
    bytes
}

/// Numbers below the one asked for (SplitMix64).
fn fastrand(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    move |below| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }
}

/// A zlib stream of `length` zeros, give or take: some two thousand times smaller.
pub(super) fn zlib_zeros(length: usize) -> Vec<u8> {
    let mut bits = Bits(vec![0x78, 0x01], 0);
    // The last block, with the fixed codes.
    bits.push(0b011, 3);
    bits.push_code(0b0011_0000, 8);
    for _ in 0..length / 258 {
        // A copy of 258 bytes from one byte back.
        bits.push_code(0b1100_0101, 8);
        bits.push_code(0, 5);
    }
    bits.push_code(0, 7);
    bits.0
}

/// Bytes that fill from their low ends.
struct Bits(Vec<u8>, u32);

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        for at in 0..count {
            if self.1 == 0 {
                self.0.push(0);
            }
            let bit = (value >> at & 1) as u8;
            *self.0.last_mut().unwrap() |= bit << self.1;
            self.1 = (self.1 + 1) % 8;
        }
    }

    /// Huffman codes come high bit first.
    fn push_code(&mut self, code: u32, count: u32) {
        self.push(code.reverse_bits() >> (32 - count), count);
    }
}

#[test]
fn the_kind_is_what_follows_the_last_dot() {
    for (name, kind) in [
        ("a.txt", Some(FileKind::Txt)),
        ("SHORT.TXT", Some(FileKind::Txt)),
        ("a.b.Json", Some(FileKind::Json)),
        ("md", Some(FileKind::Md)),
        (".csv", Some(FileKind::Csv)),
        ("x/y.pdf", Some(FileKind::Pdf)),
        ("letter.docx", Some(FileKind::Docx)),
        ("letter.doc", None),
        ("pdf.", None),
        ("", None),
        ("a.txt ", None),
    ] {
        assert_eq!(FileKind::from_name(name), kind, "{name}");
    }
}

#[test]
fn text_is_utf8_with_replacements_and_without_its_mark() {
    let text = read(FileKind::Txt, b"\xef\xbb\xbf\xef\xbb\xbf a \xe4\xf0\x9f\x98 z\r\n").unwrap();
    assert_eq!(text, "\u{feff} a \u{fffd}\u{fffd} z\r\n");
    assert_eq!(read(FileKind::Md, "# a\n").unwrap(), "# a\n");
}

#[test]
fn rows_become_lines_with_the_names_of_the_columns() {
    for (csv, text) in [
        ("", ""),
        ("a,b", ""),
        ("a,b\n1,2\n", "a: 1\nb: 2"),
        ("\u{feff} a , b\r\n 1 ,2\r3\r\n4,5,6", "a: 1\nb: 2\n\na: 3\nb: \n\na: 4\nb: 5"),
        ("b,10,a,2,b\n1,2,3,4,5", "2: 4\n10: 2\nb: 5\na: 3"),
        ("a,b\n\n1,2", "a: \nb: \n\na: 1\nb: 2"),
        ("a,b\n\"x,\"\"y\"\"\nz\",\"\"", "a: x,\"y\"\nz\nb:"),
        // What follows a closing quote is taken for the comma; a quote within a field is a quote.
        ("a,b,c\n\"1\"2,3\nx\"y\",4", "a: 1\nb: \nc: 3\n\na: x\"y\"\nb: 4\nc:"),
        ("a\n\"open\nto the end", "a: open\nto the end"),
        ("a,b\n1,", "a: 1\nb:"),
    ] {
        assert_eq!(read(FileKind::Csv, csv).unwrap().trim_end(), text, "{csv:?}");
    }
}

#[test]
fn a_table_of_too_many_columns_is_refused_unless_it_has_no_rows() {
    let commas = ",".repeat(2 << 20);
    assert_eq!(read(FileKind::Csv, &commas).unwrap(), "");
    assert_eq!(read(FileKind::Csv, format!("{commas}\nx")), Err(Error::TooLarge));
}

#[test]
fn strings_are_joined_in_javascripts_order() {
    for (json, text) in [
        ("42", ""),
        (" \"a\" ", "a"),
        ("\u{feff}[\"a\",[],{},\"\",[\"b\",{\"k\":\"c\"}],1e400,-0.5E+1,true,false,null]\n", "a b c"),
        (r#"{"b":"1","10":"2","a":["3","4"],"2":"5","b":"6"}"#, "5 2 6 3 4"),
        (r#"{"x":{"1":"a","0":"b"},"0":{"y":"c","1":"d"}}"#, "d c b a"),
        (
            r#"["\u00e9\n\"\\\/\b\f\r\t","\ud83d\ude00","\ud83d","\ude00\ud83dx"]"#,
            "é\n\"\\/\u{8}\u{c}\r\t 😀 \u{fffd} \u{fffd}\u{fffd}x",
        ),
        (r#"{"a":"x","a":1}"#, ""),
        ("{\"a\" : \"x\" , \"b\" :\t[ ] }", "x"),
    ] {
        assert_eq!(read(FileKind::Json, json).unwrap(), text, "{json}");
    }
}

#[test]
fn what_is_not_json_is_refused() {
    let deep = "[".repeat(10_001);
    for (json, what, at) in [
        ("", "unexpected end", 0),
        ("{\"a\": ", "unexpected end", 5),
        ("[1,]", "unexpected token", 3),
        ("{a:1}", "unexpected token", 1),
        ("{\"😀\" 1}", "unexpected token", 6),
        ("01", "unexpected token", 1),
        ("1.", "unexpected end", 2),
        ("-", "unexpected end", 1),
        ("[1e+]", "unexpected token", 4),
        ("tru", "unexpected token", 0),
        ("1 2", "unexpected token", 2),
        ("]", "unexpected token", 0),
        ("\"a", "unexpected end", 2),
        ("\"\n\"", "bad control character in a string", 1),
        (r#""\x""#, "bad escaped character", 1),
        (r#""\u12""#, "bad Unicode escape", 1),
        (&deep, "nested too deeply", 10_001),
    ] {
        assert_eq!(read(FileKind::Json, json), Err(Error::Json { what, at }), "{json}");
    }
    let deep = format!("{}\"x\"{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(read(FileKind::Json, deep).unwrap(), "x");
}

/// The strings of a parsed document. serde_json keeps the order of keys, so those here must not look
/// like numbers.
fn strings(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(text) if !text.is_empty() => out.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, out)),
        Value::Object(members) => members.values().for_each(|member| strings(member, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("[a-e😀\"]{0,2}", inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn json_is_read_as_by_serde(value in documents(), pretty in any::<bool>()) {
        let json = if pretty { format!("{value:#}") } else { value.to_string() };
        let mut wanted = Vec::new();
        strings(&value, &mut wanted);
        prop_assert_eq!(read(FileKind::Json, json).unwrap(), wanted.join(" "));
    }

    #[test]
    fn damaged_json_is_refused_as_by_serde(value in documents(), seed in any::<u64>()) {
        let json = String::from_utf8_lossy(&mutated(value.to_string().as_bytes(), seed)).into_owned();
        let wanted: Result<Value, _> = serde_json::from_str(crate::js::trim(&json));
        // serde_json alone refuses half surrogate pairs and numbers beyond a double's range.
        let lenient = wanted.as_ref().is_err_and(|error| {
            ["surrogate", "out of range"].iter().any(|word| error.to_string().contains(word))
        });
        prop_assume!(!lenient);
        prop_assert_eq!(read(FileKind::Json, &json).is_ok(), wanted.is_ok(), "{}", json);
    }
}

#[test]
fn a_deadline_that_has_passed_ends_every_reader() {
    let many = "a,b\n".repeat(2000);
    let json = format!("[{}1]", "1,".repeat(2000));
    let pdf = super::pdf::tests::page(&"1 0 0 1 0 0 cm ".repeat(2000));
    let docx = super::docx::tests::docx(&"<w:p/>".repeat(2000));
    for (kind, bytes) in [
        (FileKind::Csv, many.as_bytes()),
        (FileKind::Json, json.as_bytes()),
        (FileKind::Pdf, &pdf),
        (FileKind::Docx, &docx),
    ] {
        assert!(read(kind, bytes).is_ok(), "{kind:?}");
        assert_eq!(text(kind, bytes, Instant::now()), Err(Error::TooSlow), "{kind:?}");
    }
}

/// A quarter of an hour without optimisation, a second with it.
#[test]
#[ignore = "for release builds: cargo test --release -- --ignored"]
fn fifty_mebibytes_take_seconds() {
    let size = 50 << 20;
    let mut rows = String::from("id,name,note\n");
    while rows.len() < size {
        rows.push_str("17,\"a name, quoted\",some words that say something about it\n");
    }
    for (kind, bytes) in [
        (FileKind::Csv, rows),
        (FileKind::Csv, format!("a\n{}", "x".repeat(size))),
        (FileKind::Csv, "a,b\n".repeat(size / 4)),
        (FileKind::Csv, format!("a\n{}", "\"\"".repeat(size / 2))),
        (FileKind::Txt, "x".repeat(size)),
        (FileKind::Txt, format!("x{}x", "\n".repeat(size))),
        (FileKind::Txt, "😀".repeat(size / 4)),
        (FileKind::Md, "\n## ".repeat(size / 4)),
        (FileKind::Json, format!("[{}1]", "\"a\",".repeat(size / 4))),
        (FileKind::Json, format!("{{{}\"a\":1}}", "\"a\":\"x\",".repeat(size / 8))),
        (FileKind::Json, "[".repeat(size)),
    ] {
        let start = Instant::now();
        let text = text(kind, bytes.as_bytes(), start + Duration::from_secs(10));
        let passages = text.map(|text| crate::retrieval::chunks(kind, &text).len());
        let took = start.elapsed();
        assert!(took < Duration::from_secs(12), "{kind:?} {passages:?} took {took:?}");
    }
}
