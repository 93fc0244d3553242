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
        "a b\nc"
    );
    // What is raised by less than its height is on the line.
    assert_eq!(shown("BT /F 12 Tf 72 700 Td (x) Tj 5 Ts (2) Tj 0 Ts (y) Tj ET"), "x2y");
    assert_eq!(
        shown("q 1 0 0 1 0 9 cm BT /F 6 Tf (a) Tj ET Q BT /F 6 Tf 0 9 Td (b) Tj ET BT 0 1 Td (c) Tj ET"),
        "ab\nc"
    );
    // Turned text is on a line of its own.
    assert_eq!(shown("BT /F 6 Tf (a) Tj 0 1 -1 0 3 0 Tm (up) Tj ET"), "a\nup");
}

#[test]
fn gaps_are_spaces() {
    assert_eq!(shown("BT /F 10 Tf 0 700 Td [(A) -50 (B) -110 (C) 120 (D) -600 (E) -2000 (F)] TJ ET"), "AB CD E F");
    // A word after a word, a letter after a letter.
    assert_eq!(shown("BT /F 10 Tf 0 700 Td (i) Tj 6 0 Td (i) Tj 2.22 0 Td (i) Tj ET"), "i ii");
    // A space counts where it takes up room, and once.
    assert_eq!(shown("BT /F 10 Tf 1 Tw 0 700 Td (a b) Tj ET"), "a b");
    assert_eq!(shown("BT /F 10 Tf 0 700 Td [(a ) 400 (b)] TJ ET"), "ab");
}

#[test]
fn glyphs_beyond_the_page_are_not_seen() {
    let page = "<< /Type /Page /Contents 4 0 R /MediaBox [0 0 100 100] /CropBox [0 0 50 50] >>";
    let content = stream("", "BT /F 9 Tf 0 9 Td (in) Tj 60 0 Td (out) Tj ET");
    let objects = [CATALOG.as_bytes(), PAGES.as_bytes(), page.as_bytes(), &content, HELVETICA.as_bytes()];
    assert_eq!(read(FileKind::Pdf, file(&objects)).unwrap(), "in");
}

#[test]
fn a_font_that_is_missing_is_helvetica() {
    assert_eq!(shown("BT /Missing 10 Tf 0 700 Td (a) Tj ET"), "a");
    assert_eq!(shown("BT 0 700 Td (a) Tj ET BT /F 10 Tf (b) Tj ET"), "b");
    assert_eq!(shown(""), "");
}

#[test]
fn hebrew_and_arabic_are_in_reading_order() {
    let names =
        "/Encoding << /Differences [97 /afii57664 /afii57665 /afii57666 40 /parenleft 65 /uniFEFB 66 /uniFE8D] >>";
    let font = format!("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica {names} >>");
    let show = |text: &str| {
        let content = format!("BT /F 10 Tf 0 700 Td {text} ET");
        read(FileKind::Pdf, page_with(content.as_bytes(), &font, &[])).unwrap()
    };
    // As it is seen, from left to right.
    assert_eq!(show("(cb a 12) Tj"), "12 א בג");
    // As it is read, each letter to the left of the one before.
    assert_eq!(show("(a) Tj -10 0 Td (b) Tj -10 0 Td (c) Tj"), "א ב ג");
    // A ligature is one glyph, and its letters are in order.
    assert_eq!(show("(AB) Tj"), "الا");
    assert_eq!(show("(b\\(a) Tj"), "א)ב");
    assert_eq!(show("(Words a b) Tj"), "Words ב א");
}

#[test]
fn fields_are_read_after_the_page() {
    let page =
        "<< /Type /Page /Contents 4 0 R /Annots [6 0 R 7 0 R 6 0 R 8 0 R << /Subtype /Link /Contents (no) >>] >>";
    let objects = [
        CATALOG.as_bytes().to_vec(),
        PAGES.as_bytes().to_vec(),
        page.as_bytes().to_vec(),
        stream("", "BT /F 9 Tf 0 9 Td (Name:) Tj ET"),
        HELVETICA.as_bytes().to_vec(),
        b"<< /Subtype /Widget /Parent << /FT /Tx /V <feff004a00f600720067> >> >>".to_vec(),
        b"<< /Subtype /Widget /FT /Ch /V [(one) (two)] >>".to_vec(),
        b"<< /Subtype /FreeText /Contents (a note) >>".to_vec(),
    ];
    assert_eq!(read(FileKind::Pdf, file(&objects)).unwrap(), "Name:\nJörg\none two\na note");
}

#[test]
fn forms_are_shown_where_they_are_used() {
    let form =
        stream("/Type /XObject /Subtype /Form /Matrix [1 0 0 1 0 50]", "BT /F 10 Tf 0 100 Td (form) Tj ET /X Do");
    let content = b"BT /F 10 Tf 0 150 Td (same) Tj ET /X Do BT 0 10 Td (after) Tj ET";
    assert!(read(FileKind::Pdf, page_with(content, HELVETICA, &[form])).unwrap().starts_with("same form\nform"));
}

#[test]
fn images_in_the_content_are_skipped() {
    assert_eq!(shown("BI /W 2 /H 1 ID \x01 EI\x02(BT) EI BT /F 10 Tf 0 9 Td (after) Tj ET"), "after");
    assert_eq!(
        shown("BT /F 10 Tf 0 9 Td ( BI a) Tj ET BI ID x EI BI ID \x01 EI BT /F 9 Tf (b \\\\) Tj ET"),
        "BI a\nb \\"
    );
}

#[test]
fn codes_become_characters() {
    let show = |font: &str, more: &[Vec<u8>], text: &str| {
        let content = format!("BT /F 10 Tf 0 700 Td {text} Tj ET");
        read(FileKind::Pdf, page_with(content.as_bytes(), font, more)).unwrap()
    };
    assert_eq!(show(HELVETICA, &[], "(\\223q\\224 \\374 \\(x\\) \\\n\\251\\205)"), "“q” ü (x) ©…");
    let differences = "<< /Type /Font /Subtype /Type1 /BaseFont /X /Encoding << /Differences [1 /A /uni00E9 /fi] >> >>";
    assert_eq!(show(differences, &[], "<0102034546>"), "AéfiEF");
    let symbol = "<< /Type /Font /Subtype /Type1 /BaseFont /Symbol >>";
    assert_eq!(show(symbol, &[], "(abG)"), "αβΓ");

    let wide = "<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /Identity-H /DescendantFonts [<< /Type /Font /Subtype /CIDFontType2 /BaseFont /X /FontDescriptor << /FontName /X >> /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) >> /W [1 [500 250] 3 9 600] >>] /ToUnicode 6 0 R >>";
    let map = stream(
        "",
        "1 begincodespacerange <0000> <ffff> endcodespacerange 2 beginbfchar <0001> <0041> <0002> <d83dde00> endbfchar 2 beginbfrange <0003> <0005> <0430> <0006> <0007> [<00660066> <0063>] endbfrange endcmap",
    );
    assert_eq!(show(wide, &[map], "<000100020003000500060007>"), "A😀авffc");
    let characters = wide.replace("6 0 R", "/Identity-H");
    assert_eq!(show(&characters, &[], "<00410416>"), "AЖ");
    // Numbers of glyphs, in the order of most TrueType fonts.
    let glyphs = wide.replace("/ToUnicode 6 0 R", "");
    assert_eq!(show(&glyphs, &[], "<002400440013>"), "Aa0");
}

#[test]
fn chinese_japanese_and_korean_have_maps_of_their_own() {
    let show = |font: &str, text: &str| {
        let content = format!("BT /F 10 Tf 0 700 Td {text} Tj ET");
        read(FileKind::Pdf, page_with(content.as_bytes(), font, &[])).unwrap()
    };
    let font = |encoding: &str, ordering: &str| {
        format!(
            "<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /{encoding} /DescendantFonts [<< /Type /Font \
             /Subtype /CIDFontType0 /BaseFont /X /CIDSystemInfo << /Registry (Adobe) /Ordering ({ordering}) >> >>] >>"
        )
    };
    assert_eq!(show(&font("90ms-RKSJ-H", "Japan1"), "<41 93fa 967b>"), "A日本");
    assert_eq!(show(&font("UniGB-UCS2-H", "GB1"), "<4e2d 6587>"), "中文");
    assert_eq!(show(&font("KSCms-UHC-H", "Korea1"), "<c7d1 b1db>"), "한글");
    assert_eq!(show(&font("Identity-H", "Japan1"), "<0e65>"), "坊");
    assert_eq!(show(&font("UniJIS-UCS2-V", "Japan1"), "<65e5 672c>"), "日本");
    // In GBK, under a name in GBK.
    let simple = "<< /Type /Font /Subtype /TrueType /BaseFont /#cb#ce#cc#e5 /Encoding /WinAnsiEncoding >>";
    assert_eq!(show(simple, "<d6d0 41 cec4>"), "中A文");
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
    assert_eq!(read(FileKind::Pdf, pages).unwrap(), "first last last");
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
    let locked = |entries: &str| {
        let text = String::from_utf8(page("")).unwrap();
        let (table, trailer) = text.rsplit_once("/Size").unwrap();
        read(FileKind::Pdf, format!("{table}/Encrypt << /Filter {entries} >> /ID [(a) (b)] /Size{trailer}"))
    };
    let standard =
        |key: char| format!("/Standard /V 2 /R 3 /Length 128 /P -4 /O ({0}) /U ({0})", key.to_string().repeat(32));
    assert_eq!(locked(&standard('x')), Err(Error::PdfPassword));
    assert_eq!(locked("/Other /V 9"), Err(Error::PdfEncryption));
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
    let columns = stream(
        "/Filter /FlateDecode /DecodeParms << /Predictor 2 /BitsPerComponent 4 /Columns 999999999999 >>",
        zlib_zeros(9000),
    );
    let images = format!("BT /F 9 Tf BI ID {}\u{1} EI", "EI (a) Tj ".repeat(1 << 17));
    let one_place = with_table(file(&[CATALOG]), "0 1000000\n", "0000000009 00000 n \n", 20_000);

    for (what, bytes) in [
        ("content", with(&[&packed])),
        ("content packed twice", with(&[&twice])),
        ("a row of a predictor", with(&[&columns])),
        ("ends of an image", page(&images)),
        ("strings without an end", format!("%PDF-1.7\n{}", "1 0 obj (".repeat(1 << 17)).into_bytes()),
        ("dictionaries without an end", format!("%PDF-1.7\n{}", "<</A (".repeat(1 << 17)).into_bytes()),
        ("an object stream by a table alone", table_of_streams(&[("/Name /None", zlib_zeros(70 << 20))])),
        ("a table of tables", table_of_streams(&[("/W [1 1 1] /Size 9", zlib_zeros(70 << 20))])),
        ("many object streams", table_of_streams(&vec![("/Type /#4fbjStm", zlib_zeros(30 << 20)); 8])),
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
        assert!(length < 2 << 20, "{what}: {length} bytes of text");
        assert!(start.elapsed() < Duration::from_secs(8), "{what} took {:?}", start.elapsed());
    }
}

#[test]
fn text_beyond_the_page_is_left_out_and_not_read_for_ever() {
    let line = |times: usize| format!("({}) Tj 0 -10 Td ", "a".repeat(times));
    let content = |times: usize| format!("BT /F 9 Tf 10 50 Td (seen) Tj 0 -1000 Td {} ET", line(500).repeat(times));
    let deadline = Instant::now() + Duration::from_secs(60);
    let read = |times: usize| {
        let page = "<< /Type /Page /Parent 2 0 R /Contents 4 0 R /MediaBox [0 0 9999 99] >>";
        let mut objects: Vec<Vec<u8>> = [CATALOG, PAGES, page].map(|object| object.as_bytes().to_vec()).into();
        objects.push(stream("", content(times)));
        objects.push(HELVETICA.as_bytes().to_vec());
        text(FileKind::Pdf, &file(&objects), deadline)
    };
    assert_eq!(read(9), Ok("seen".to_owned()));
    assert_eq!(read(16_001), Err(Error::TooLarge));
}

/// A file whose catalog is in the first of these streams, says its cross-reference stream.
fn table_of_streams(streams: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut file = b"%PDF-1.7\n".to_vec();
    let mut table = Vec::new();
    for (at, (entries, data)) in streams.iter().enumerate() {
        table.extend([&[1], &u32::try_from(file.len()).unwrap().to_be_bytes()[..], &[0]].concat());
        file.extend(format!("{} 0 obj\n", at + 1).bytes());
        file.extend(stream(&format!("/N 1 /First 9 /Filter /FlateDecode {entries}"), data));
        file.extend(b"\nendobj\n");
    }
    // All that follow are in the streams.
    for at in 1..=streams.len() {
        table.extend([2, 0, 0, 0, u8::try_from(at).unwrap(), 0]);
    }
    let (start, count) = (file.len(), streams.len());
    file.extend(format!("{} 0 obj\n", 2 * count + 1).bytes());
    let entries = format!("/Type /XRef /W [1 4 1] /Index [1 {}] /Size 99 /Root {} 0 R", 2 * count, count + 1);
    file.extend(stream(&entries, table));
    file.extend(format!("\nendobj\nstartxref\n{start}\n%%EOF\n").bytes());
    file
}

/// The file with a table of contents of `times` times the same entry.
fn with_table(file: Vec<u8>, head: &str, entry: &str, times: usize) -> Vec<u8> {
    let start = memchr::memmem::find(&file, b"xref\n").unwrap();
    let trailer = memchr::memmem::find(&file, b"trailer").unwrap();
    let table = format!("xref\n{head}{}", entry.repeat(times));
    [&file[..start], table.as_bytes(), &file[trailer..]].concat()
}
