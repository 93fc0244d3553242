use std::{
    io::Write,
    time::{Duration, Instant},
};

use flate2::{Compression, write::ZlibEncoder};
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

/// A zlib stream of `length` zeros: some thousand times smaller.
pub(super) fn zlib_zeros(length: usize) -> Vec<u8> {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(&vec![0; length]).unwrap();
    zlib.finish().unwrap()
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
fn text_is_decoded_from_what_it_is_in() {
    let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let utf32 =
        |text: &str, bytes: fn(u32) -> [u8; 4]| text.chars().flat_map(|c| bytes(u32::from(c))).collect::<Vec<u8>>();
    let marked = "\u{feff}Größe 😀\r\n";
    for bytes in [
        marked.as_bytes().to_vec(),
        utf16(marked, u16::to_le_bytes),
        utf16(marked, u16::to_be_bytes),
        utf32(marked, u32::to_le_bytes),
        utf32(marked, u32::to_be_bytes),
        utf16(&marked[3..], u16::to_le_bytes),
        utf16(&marked[3..], u16::to_be_bytes),
    ] {
        assert_eq!(read(FileKind::Txt, &bytes).unwrap(), "Größe 😀\r\n", "{bytes:x?}");
    }
    assert_eq!(read(FileKind::Md, "# a\n").unwrap(), "# a\n");
    assert_eq!(read(FileKind::Txt, "\u{fffd} as it is").unwrap(), "\u{fffd} as it is");
    for (encoding, text) in [
        (encoding_rs::WINDOWS_1252, "Die Wärmepumpe läuft ohne Störungen – für 50 €."),
        (encoding_rs::SHIFT_JIS, "いつもお世話になっております。商品は明日の午前中に発送いたします。"),
        (encoding_rs::EUC_KR, "지난주에 보내 주신 자료를 잘 받았습니다."),
        (encoding_rs::GBK, "下周三下午两点在三楼会议室召开项目会议，请准时参加。"),
        (encoding_rs::BIG5, "社區花園將在春天重新開放，歡迎大家一起來種菜。"),
        (encoding_rs::KOI8_R, "Первый рейс отправляется в шесть часов утра."),
        (encoding_rs::ISO_2022_JP, "カタログの新しい版ができました。"),
    ] {
        let bytes = encoding.encode(text).0;
        assert_eq!(read(FileKind::Txt, &bytes).unwrap(), text);
    }
}

#[test]
fn what_is_damaged_leaves_no_replacements() {
    // Mostly UTF-8, with a byte that is not, and cut in the middle of a character.
    let bytes = [&b"\xe4 "[..], "größer, älter, schöner".as_bytes(), b"\xc3"].concat();
    assert_eq!(read(FileKind::Txt, bytes).unwrap(), "ä größer, älter, schönerÃ");
    let mut bytes = encoding_rs::SHIFT_JIS.encode("お世話になっております。ありがとうございます。").0.into_owned();
    bytes.pop();
    assert!(read(FileKind::Txt, bytes).unwrap().starts_with("お世話になっております。ありがとうございます"));
    assert_eq!(read(FileKind::Txt, b"\xff\xfea\0\0\xd8b\0").unwrap(), "ab");
}

#[test]
fn rows_become_lines_with_the_names_of_the_columns() {
    for (csv, text) in [
        ("", ""),
        ("a,b", ""),
        ("a,b\n1,2\n", "a: 1\nb: 2"),
        ("\u{feff} a , b\r\n 1 ,2\r3\r\n4,5,6", "a: 1\nb: 2\n\na: 3\nb: \n\na: 4\nb: 5\ncolumn 3: 6"),
        ("b,10,a,2,b\n1,2,3,4,5", "2: 4\n10: 2\nb: 5\na: 3"),
        ("a,b\n\n1,2", "a: \nb: \n\na: 1\nb: 2"),
        ("a,b\n\"x,\"\"y\"\"\nz\",\"\"", "a: x,\"y\"\nz\nb:"),
        // What follows a closing quote is taken for the comma; a quote within a field is a quote.
        ("a,b,c\n\"1\"2,3\nx\"y\",4", "a: 1\nb: \nc: 3\n\na: x\"y\"\nb: 4\nc:"),
        ("a\n\"open\nto the end", "a: open\nto the end"),
        ("a,b\n1,", "a: 1\nb:"),
        // By semicolons, tabs and pipes too.
        ("a;b\n1,5;\"2;0\"", "a: 1,5\nb: 2;0"),
        ("a\tb\n1\t2, 3", "a: 1\nb: 2, 3"),
        ("a|b;c\n1|2", "a: 1\nb;c: 2"),
        ("name,note\nx,one; two; three\ny,\"a|b\"", "name: x\nnote: one; two; three\n\nname: y\nnote: a|b"),
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
        (" 42\n", "42"),
        ("[ ]", ""),
        ("{ }", "{ }"),
        (" \"a\" ", "a"),
        ("\u{feff}[\"a\",[],{},\"\",[\"b\",{\"k\":\"c\"}],1e400,-0.5E+1,true,false,null]\n", "a b c"),
        (r#"{"b":"1","10":"2","a":["3","4"],"2":"5","b":"6"}"#, "5 2 6 3 4"),
        (r#"{"x":{"1":"a","0":"b"},"0":{"y":"c","1":"d"}}"#, "d c b a"),
        (
            r#"["\u00e9\n\"\\\/\b\f\r\t","\ud83d\ude00","\ud83d","\ude00\ud83dx"]"#,
            "é\n\"\\/\u{8}\u{c}\r\t 😀 \u{fffd} \u{fffd}\u{fffd}x",
        ),
        (r#"{"a":"x","a":1}"#, r#"{"a":"x","a":1}"#),
        ("{\"a\" : \"x\" , \"b\" :\t[ ] }", "x"),
        ("{\"a\":\"x\"}\n[\"y\"]\r\n\n{\"a\":\"z\"}\n", "x y z"),
    ] {
        assert_eq!(read(FileKind::Json, json).unwrap(), text, "{json}");
    }
}

#[test]
fn what_is_not_json_is_refused() {
    let deep = |depth: usize| format!("{}\"x\"{}", "[".repeat(depth), "]".repeat(depth));
    for (json, what) in [
        ("", "the file is empty"),
        ("{\"a\": ", "EOF while parsing a value at line 1 column 5"),
        ("[1,\n]", "expected value at line 2 column 1"),
        ("01", "invalid number at line 1 column 2"),
        (r#""\x""#, "invalid escape at line 1 column 3"),
        ("1 2", "unexpected text after the end"),
        ("1\n2", "unexpected text after the end"),
        ("{}{}", "unexpected text after the end"),
        ("{}\n{", "EOF while parsing an object at line 2 column 1"),
        (&deep(1_501), "it is nested too deeply"),
    ] {
        assert_eq!(read(FileKind::Json, json), Err(Error::Json(what.to_owned())), "{json}");
    }
    assert_eq!(read(FileKind::Json, deep(1_500)).unwrap(), "x");
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
        let mut wanted = wanted.join(" ");
        if crate::js::trim(&wanted).is_empty() && value != Value::Array(Vec::new()) {
            wanted.clone_from(&json);
        }
        prop_assert_eq!(read(FileKind::Json, json).unwrap(), wanted);
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
        let passages = text.and_then(|text| Ok(crate::retrieval::chunks(kind, &text)?.len()));
        let took = start.elapsed();
        assert!(took < Duration::from_secs(12), "{kind:?} {passages:?} took {took:?}");
    }
}

#[test]
fn what_is_no_text_is_not_taken_for_one() {
    let mut noise = 7_u32;
    let program: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.to_be_bytes()[0]
    })
    .take(5000)
    .collect();
    for kind in [FileKind::Txt, FileKind::Md, FileKind::Csv] {
        assert_eq!(text(kind, &program, Instant::now() + Duration::from_secs(10)), Err(Error::NotText));
        // A page with form feeds and a few strays is one.
        let strays = ["a page\x0c\x07\x01 ".repeat(5), "of words ".repeat(50)].concat();
        assert!(text(kind, strays.as_bytes(), Instant::now() + Duration::from_secs(10)).is_ok());
    }
}
