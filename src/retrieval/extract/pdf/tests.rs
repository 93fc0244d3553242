use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::retrieval::extract::tests::{mutated, read, zlib_zeros};
use crate::retrieval::extract::{Error, FileKind, text};

/// A file of these objects, numbered from one; the first is the catalog.
fn file(objects: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut file = b"%PDF-1.7\n".to_vec();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (at, object) in objects.iter().enumerate() {
        writeln!(table, "{:010} 00000 n ", file.len()).unwrap();
        file.extend(format!("{} 0 obj\n", at + 1).bytes());
        file.extend(object.as_ref());
        file.extend(b"\nendobj\n");
    }
    let start = file.len();
    table.push_str(&format!("trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n", objects.len() + 1));
    file.extend(table.bytes());
    file
}

fn stream(entries: &str, data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    let mut object = format!("<< /Length {} {entries} >>\nstream\n", data.len()).into_bytes();
    object.extend(data);
    object.extend(b"\nendstream");
    object
}

const CATALOG: &str = "<< /Type /Catalog /Pages 2 0 R >>";
const PAGES: &str =
    "<< /Type /Pages /Kids [3 0 R] /Count 1 /Resources << /Font << /F 5 0 R >> /XObject << /X 6 0 R >> >> >>";
const PAGE: &str = "<< /Type /Page /Parent 2 0 R /Contents 4 0 R >>";
const HELVETICA: &str = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>";

/// A file of one page with this content, in which `F` is a font and `X` object 6.
fn page_with(content: &[u8], font: &str, more: &[Vec<u8>]) -> Vec<u8> {
    let mut objects: Vec<Vec<u8>> = [CATALOG, PAGES, PAGE].map(|object| object.as_bytes().to_vec()).into();
    objects.push(stream("", content));
    objects.push(font.as_bytes().to_vec());
    objects.extend_from_slice(more);
    file(&objects)
}

/// A file of one page with this content.
pub(in crate::retrieval::extract) fn page(content: &str) -> Vec<u8> {
    page_with(content.as_bytes(), HELVETICA, &[])
}

fn shown(content: &str) -> String {
    read(FileKind::Pdf, page(content)).unwrap()
}

fn recorded(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/retrieval/files/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn text_at_another_height_is_on_another_line() {
    assert_eq!(
        shown("BT /F 12 Tf 72 700 Td (one) Tj 0 -14 Td (two) Tj 14 TL T* (three) Tj (four) ' 0 0 (five) \" ET"),
        "one\ntwo\nthree\nfour\nfive"
    );
    assert_eq!(
        shown("BT /F 12 Tf 1 0 0 1 72 700 Tm (a) Tj 1 0 0 1 300 700 Tm (b) Tj 1 0 0 1 72 650 Tm (c) Tj ET"),
        "ab\nc"
    );
    assert_eq!(shown("BT /F 12 Tf 72 700 Td (x) Tj 5 Ts (2) Tj 0 Ts (y) Tj ET"), "x\n2\ny");
    // A height of zero is taken for none.
    assert_eq!(shown("BT /F 12 Tf (a) Tj 0 20 Td (b) Tj ET"), "ab");
    assert_eq!(
        shown("q 1 0 0 1 0 9 cm BT /F 12 Tf (a) Tj ET Q BT /F 12 Tf 0 9 Td (b) Tj ET BT 0 8 Td (c) Tj ET"),
        "ab\nc"
    );
}

#[test]
fn gaps_are_spaces() {
    assert_eq!(shown("BT /F 10 Tf 0 700 Td [(A) -50 (B) -100 (C) 120 (D) -600 (E) -2000 (F)] TJ ET"), "AB CD  EF");
    // A word after a word, a letter after a letter.
    assert_eq!(shown("BT /F 10 Tf 0 700 Td (i) Tj 6 0 Td (i) Tj 2.22 0 Td (i) Tj ET"), "i ii");
    assert_eq!(shown("BT /F 10 Tf 1 Tw 0 700 Td (a b) Tj ET"), "a  b");
}

#[test]
fn without_a_font_nothing_is_shown() {
    assert_eq!(shown("BT /Missing 10 Tf 0 700 Td (a) Tj ET"), "");
    assert_eq!(shown("BT 0 700 Td (a) Tj ET BT /F 10 Tf (b) Tj ET"), "");
    assert_eq!(shown(""), "");
}

#[test]
fn forms_are_shown_where_they_are_used() {
    let form =
        stream("/Type /XObject /Subtype /Form /Matrix [1 0 0 1 0 50]", "BT /F 10 Tf 0 100 Td (form) Tj ET /X Do");
    let content = b"BT /F 10 Tf 0 150 Td (same) Tj ET /X Do BT 0 10 Td (after) Tj ET";
    assert!(read(FileKind::Pdf, page_with(content, HELVETICA, &[form])).unwrap().starts_with("sameform\nform"));
}

#[test]
fn images_in_the_content_are_skipped() {
    assert_eq!(shown("BI /W 2 /H 1 ID \x01 EI\x02(BT) EI BT /F 10 Tf 0 9 Td (after) Tj ET"), "after");
}

#[test]
fn codes_become_characters() {
    let show = |font: &str, more: &[Vec<u8>], text: &str| {
        let content = format!("BT /F 10 Tf 0 700 Td {text} Tj ET");
        read(FileKind::Pdf, page_with(content.as_bytes(), font, more)).unwrap()
    };
    assert_eq!(show(HELVETICA, &[], "(\\223q\\224 \\374 \\(x\\) \\\n\\251\\205)"), "“q” ü (x) ©...");
    let differences = "<< /Type /Font /Subtype /Type1 /BaseFont /X /Encoding << /Differences [1 /A /uni00E9 /fi /g0042 70 /nonsense] >> >>";
    assert_eq!(show(differences, &[], "<010203044546>"), "AéfiBEF");
    let symbol = "<< /Type /Font /Subtype /Type1 /BaseFont /Symbol >>";
    assert_eq!(show(symbol, &[], "(abG)"), "αβΓ");

    let wide = "<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /Identity-H /DescendantFonts [<< /Type /Font /Subtype /CIDFontType2 /BaseFont /X /FontDescriptor << /FontName /X >> /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) >> /W [1 [500 250] 3 9 600] >>] /ToUnicode 6 0 R >>";
    let map = stream(
        "",
        "1 begincodespacerange <0000> <ffff> endcodespacerange 2 beginbfchar <0001> <0041> <0002> <d83dde00> endbfchar 2 beginbfrange <0003> <0005> <0430> <0006> <0007> [<00660066> <0063>] endbfrange endcmap",
    );
    assert_eq!(show(wide, &[map], "<000100020003000500060007>"), "A😀авffc");
    let own_encoding = "<< /Type /Font /Subtype /Type1 /BaseFont /CM /FirstChar 0 /Widths [500] /FontDescriptor << /FontName /CM /Flags 4 /FontFile 6 0 R >> >>";
    let program = stream(
        "",
        "%!PS-AdobeFont\n/Encoding 256 array\n0 1 255 {1 index exch /.notdef put} for\ndup 12 /fi put\ndup 13 /circlecopyrt put\nreadonly def\ncurrentfile eexec \x01\x02",
    );
    assert_eq!(show(own_encoding, &[program], "(o\\014\\015)"), "ofi©");
}

#[test]
fn pages_are_joined_by_spaces_in_their_order() {
    let pages = file(&[
        CATALOG.as_bytes().to_vec(),
        b"<< /Type /Pages /Kids [3 0 R 4 0 R 2 0 R] /Count 3 /Resources << /Font << /F 5 0 R >> >> >>".to_vec(),
        b"<< /Type /Pages /Kids [6 0 R 7 0 R] /Count 2 >>".to_vec(),
        b"<< /Type /Page /Contents [8 0 R 8 0 R] >>".to_vec(),
        HELVETICA.as_bytes().to_vec(),
        b"<< /Type /Page /Contents 9 0 R >>".to_vec(),
        b"<< /Type /Page >>".to_vec(),
        stream("", "BT /F 9 Tf 0 9 Td (last) Tj ET"),
        stream("", "BT /F 9 Tf 0 9 Td (first) Tj ET"),
    ]);
    assert_eq!(read(FileKind::Pdf, pages).unwrap(), "first lastlast");
}

#[test]
fn damaged_tables_of_contents_are_made_anew() {
    let words = |file: &[u8]| read(FileKind::Pdf, file).unwrap().split_whitespace().count();
    let whole = recorded("three.pdf");
    let wanted = words(&whole);
    let replaced = |from: &str, to: &str| {
        let at = memchr::memmem::find(&whole, from.as_bytes()).unwrap();
        [&whole[..at], to.as_bytes(), &whole[at + from.len()..]].concat()
    };
    assert_eq!(words(&replaced("startxref", "startnone")), wanted);
    assert_eq!(words(&replaced("1 0 obj", "\n\n\n1 0 obj")), wanted);
    assert_eq!(words(&replaced("xref\n0 12", "xref\n0 99")), wanted);
    assert_eq!(words(&replaced("/Length 15", "/Length 95")), wanted);
    assert_eq!(words(&[b"something before it\n", &whole[..]].concat()), wanted);
}

#[test]
fn what_is_not_a_pdf_is_refused() {
    let no_pages = file(&["<< /Type /Catalog /Pages 1 0 R >>"]);
    for bytes in [&b""[..], b"%PDF-1.4\nnot really a pdf", &[0; 5000], &no_pages] {
        assert_eq!(read(FileKind::Pdf, bytes), Err(Error::Pdf));
    }
}

#[test]
fn no_damage_makes_it_panic() {
    let (one, three) = (recorded("one.pdf"), recorded("three.pdf"));
    for seed in 0..1500 {
        let whole = if seed % 5 == 0 { &three } else { &one };
        let start = Instant::now();
        let result = text(FileKind::Pdf, &mutated(whole, seed), start + Duration::from_secs(5));
        assert_ne!(result, Err(Error::Panicked), "seed {seed}");
        assert!(start.elapsed() < Duration::from_secs(10), "seed {seed} took {:?}", start.elapsed());
    }
}

/// Files of a few kilobytes that ask for the time or the memory of many.
#[test]
fn bombs_are_refused_or_cost_little() {
    let packed = stream("/Filter /FlateDecode", zlib_zeros(70 << 20));
    let twice = stream("/Filter [/FlateDecode /FlateDecode]", zlib_zeros(1 << 20));
    let objects = stream("/Type /ObjStm /N 9 /First 20 /Filter /FlateDecode", zlib_zeros(70 << 20));
    let font = |entries: &str| format!("<< /Type /Font /Subtype /Type0 /Encoding /Identity-H {entries} >>");
    let wide =
        font("/DescendantFonts [<< /Subtype /CIDFontType2 /W [0 4294967295 5 0 99999999 6] >>] /ToUnicode 6 0 R");
    let map = stream("", "beginbfrange <00000000> <ffffffff> <0041> <0000> <ffff> <0042> endbfrange");
    let form = |calls: usize| stream("/Subtype /Form", "/X Do ".repeat(calls));
    let text_form = stream("/Subtype /Form", format!("BT /F 9 Tf (x) Tj ET {}", "/X Do ".repeat(50)));
    let show = b"BT /F 9 Tf (\x00\x01) Tj ET";

    let with = |objects: &[&[u8]]| file(&[&[CATALOG.as_bytes(), PAGES.as_bytes(), PAGE.as_bytes()], objects].concat());
    let refs = format!("<< /Type /Page /Contents [{}] >>", "4 0 R ".repeat(100_000));
    let kids = format!("<< /Type /Pages /Kids [{}] >>", "2 0 R 3 0 R ".repeat(50_000));
    let chain: Vec<String> = (2..3000).map(|at| format!("<< /Type /Pages /Kids [{} 0 R] >>", at + 1)).collect();
    let references: Vec<String> = (2..3000).map(|at| format!("{} 0 R", at + 1)).collect();
    let one_place = with_table(file(&[CATALOG]), "0 1000000\n", "0000000009 00000 n \n", 20_000);

    for (what, bytes) in [
        ("content", with(&[&packed])),
        ("content packed twice", with(&[&twice])),
        ("objects", file(&[b"<< /Type /Catalog /Pages 9 0 R >>".to_vec(), objects])),
        ("map and widths", page_with(show, &wide, &[map])),
        ("a form of forms", page_with(b"/X Do /X Do", HELVETICA, &[form(1000)])),
        ("a form of forms and text", page_with(b"/X Do /X Do", HELVETICA, &[text_form])),
        ("one content many times", file(&[CATALOG.as_bytes(), PAGES.as_bytes(), refs.as_bytes(), &packed])),
        ("kids", file(&[CATALOG, &kids, PAGE])),
        ("a chain of nodes", file(&[&[CATALOG.to_owned()][..], &chain].concat())),
        ("a chain of references", file(&[&[CATALOG.to_owned()][..], &references].concat())),
        ("arrays in arrays", page(&"[".repeat(1 << 20))),
        ("dictionaries in dictionaries", file(&[&"<</Pages ".repeat(1 << 18)])),
        ("numbers", file(&[CATALOG, &format!("[{}]", "1 ".repeat(1 << 20))])),
        ("strings", page(&"(".repeat(1 << 20))),
        ("saved states", page(&"q ".repeat(1 << 19))),
        ("a wide gap", page("BT /F 1e9 Tf 99999999 Tw ( ) Tj [-99999999999999] TJ ET")),
        ("one place for all", one_place),
    ] {
        let start = Instant::now();
        let result = text(FileKind::Pdf, &bytes, start + Duration::from_secs(1));
        assert_ne!(result, Err(Error::Panicked), "{what}");
        let length = result.map_or(0, |text| text.len());
        assert!(length < 1 << 20, "{what}: {length} bytes of text");
        assert!(start.elapsed() < Duration::from_secs(8), "{what} took {:?}", start.elapsed());
    }
}

/// The file with a table of contents of `times` times the same entry.
fn with_table(file: Vec<u8>, head: &str, entry: &str, times: usize) -> Vec<u8> {
    let start = memchr::memmem::find(&file, b"xref\n").unwrap();
    let trailer = memchr::memmem::find(&file, b"trailer").unwrap();
    let table = format!("xref\n{head}{}", entry.repeat(times));
    [&file[..start], table.as_bytes(), &file[trailer..]].concat()
}
