use std::io::{Cursor, Write};
use std::time::{Duration, Instant};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::retrieval::extract::tests::{mutated, read};
use crate::retrieval::extract::{Error, FileKind, text};

/// An archive of these parts.
fn archive(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in parts {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

const SPACES: &str = "xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\" \
                      xmlns:mc=\"http://schemas.openxmlformats.org/markup-compatibility/2006\"";

fn document(body: &str) -> String {
    format!("<?xml version=\"1.0\"?><w:document {SPACES}><w:body>{body}<w:sectPr/></w:body></w:document>")
}

/// A Word document with this body.
pub(in crate::retrieval::extract) fn docx(body: &str) -> Vec<u8> {
    archive(&[("[Content_Types].xml", "<Types/>"), ("word/document.xml", &document(body))])
}

fn body_text(body: &str) -> String {
    read(FileKind::Docx, docx(body)).unwrap()
}

#[test]
fn paragraphs_end_with_a_blank_line() {
    assert_eq!(body_text(""), "");
    assert_eq!(
        body_text(
            "<w:p><w:r><w:t>one</w:t></w:r><w:r><w:t xml:space=\"preserve\"> two </w:t></w:r></w:p><w:p/><w:p> <w:r><w:t>&#233;&lt;&amp;&#x1F600;<![CDATA[<c>]]></w:t></w:r></w:p>"
        ),
        "one two \n\n\n\né<&😀<c>\n\n"
    );
}

#[test]
fn marks_become_characters() {
    assert_eq!(
        body_text(
            "<w:p><w:pPr><w:tabs><w:tab w:val=\"left\"/></w:tabs></w:pPr><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:noBreakHyphen/><w:softHyphen/><w:br/><w:t>c</w:t><w:br w:type=\"page\"/></w:r></w:p>"
        ),
        "a\tb\u{2011}\u{ad}\nc\n\n"
    );
}

#[test]
fn tables_are_read_cell_by_cell_and_merged_cells_once() {
    let cell = |properties: &str, text: &str| {
        format!("<w:tc><w:tcPr>{properties}</w:tcPr><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>")
    };
    let body = format!(
        "<w:tbl><w:tr>{}{}</w:tr><w:tr>{}{}</w:tr></w:tbl>",
        cell("<w:vMerge w:val=\"restart\"/>", "tall"),
        cell("", "1"),
        cell("<w:vMerge/>", "hidden"),
        cell("", "2"),
    );
    assert_eq!(body_text(&body), "tall\n\n1\n\n2\n\n");
}

#[test]
fn deleted_text_goes_and_text_boxes_come_after_their_paragraph() {
    let text_box = "<w:txbxContent><w:p><w:r><w:t>box</w:t></w:r></w:p></w:txbxContent>";
    let body = format!(
        "<w:p><w:del><w:r><w:delText>x</w:delText><w:t>x</w:t></w:r></w:del><w:ins><w:r><w:t>in</w:t></w:r></w:ins>\
         <w:r><mc:AlternateContent><mc:Choice>{text_box}</mc:Choice><mc:Fallback><w:pict>{text_box}</w:pict></mc:Fallback></mc:AlternateContent></w:r>\
         <w:hyperlink><w:r><w:t>link</w:t></w:r></w:hyperlink><w:r><w:instrText>HYPERLINK</w:instrText></w:r></w:p>\
         <w:sdt><w:sdtPr/><w:sdtContent><w:p><w:r><w:t>content</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    );
    assert_eq!(body_text(&body), "inlink\n\nbox\n\ncontent\n\n");
}

#[test]
fn elements_are_known_by_their_namespace() {
    let main = "http://schemas.openxmlformats.org/wordprocessingml/2006/main";
    for (xml, text) in [
        (
            format!(
                "<a:document xmlns:a='{main}'><a:p><a:r><a:t>one</a:t><a:br a:type='page'/></a:r></a:p></a:document>"
            ),
            "one\n\n",
        ),
        (format!("<document xmlns='{main}'><p><r><t>two</t></r></p></document>"), "two\n\n"),
        (
            "<w:p xmlns:w='http://purl.oclc.org/ooxml/wordprocessingml/main'><w:t>strict</w:t></w:p>".to_owned(),
            "strict\n\n",
        ),
        ("<w:p><w:t>never declared</w:t></w:p>".to_owned(), "never declared\n\n"),
        ("<w:p xmlns:w='urn:something-else'><w:t>no</w:t></w:p>".to_owned(), ""),
    ] {
        assert_eq!(read(FileKind::Docx, archive(&[("word/document.xml", &xml)])).unwrap(), text, "{xml}");
    }
}

#[test]
fn without_a_fallback_the_first_choice_counts() {
    let choice = |text: &str| format!("<mc:Choice><w:t>{text}</w:t></mc:Choice>");
    let body = format!("<w:p><mc:AlternateContent>{}{}</mc:AlternateContent></w:p>", choice("one"), choice("two"));
    assert_eq!(body_text(&body), "one\n\n");
    let fallback = "<mc:Fallback><w:t>old</w:t></mc:Fallback>";
    let body = format!("<w:p><mc:AlternateContent>{}{fallback}</mc:AlternateContent></w:p>", choice("new"));
    assert_eq!(body_text(&body), "old\n\n");
}

#[test]
fn symbols_are_characters() {
    let symbol = |font: &str, code: &str| format!("<w:sym w:font=\"{font}\" w:char=\"{code}\"/>");
    let body = [symbol("Symbol", "F061"), symbol("Wingdings", "F0FC"), symbol("Arial", "20AC"), symbol("X", "F041")];
    assert_eq!(body_text(&format!("<w:p>{}</w:p>", body.concat())), "α☑€\n\n");
}

#[test]
fn the_document_is_where_the_relationships_say() {
    let relationship = "<Relationships><Relationship Id=\"r\" Type=\"http://x/relationships/officeDocument\" Target=\"/word/document2.xml\"/></Relationships>";
    let body = document("<w:p><w:r><w:t>two</w:t></w:r></w:p>");
    let file = archive(&[("_rels/.rels", relationship), ("word/document2.xml", &body), ("word/document.xml", "<x/>")]);
    assert_eq!(read(FileKind::Docx, file).unwrap(), "two\n\n");
}

#[test]
fn what_is_not_a_document_is_refused() {
    for (file, why) in [
        (b"".to_vec(), "it is not a zip archive"),
        (b"PK\x03\x04 but no more".to_vec(), "it is not a zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec(), "it is encrypted, or in the format of Word 97"),
        (archive(&[("word/styles.xml", "<x/>")]), "it has no document part"),
        (archive(&[("word/document.xml", "<w:p><w:r></w:p>")]), "its document part is damaged"),
        (archive(&[("word/document.xml", &"<w:r>".repeat(5000))]), "it is nested too deeply"),
    ] {
        assert_eq!(read(FileKind::Docx, file), Err(Error::Docx(why)));
    }
}

/// Zip bombs: one of markup, one of text, one of a single tag.
#[test]
fn bombs_are_refused() {
    for (piece, before) in [("<w:p/>", "<w:b>"), ("aaaaaaaa", "<w:p><w:r><w:t>"), ("a='b' ", "<w:p ")] {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_level(Some(1));
        zip.start_file("word/document.xml", options).unwrap();
        zip.write_all(before.as_bytes()).unwrap();
        let block = piece.repeat((1 << 20) / piece.len());
        for _ in 0..150 {
            zip.write_all(block.as_bytes()).unwrap();
        }
        let file = zip.finish().unwrap().into_inner();
        assert!(file.len() < 4 << 20);
        let start = Instant::now();
        let result = text(FileKind::Docx, &file, start + Duration::from_secs(1));
        assert!(
            matches!(result, Err(Error::TooLarge | Error::TooSlow)),
            "{piece}: {:?}",
            result.map(|text| text.len())
        );
        assert!(start.elapsed() < Duration::from_secs(8), "{piece} took {:?}", start.elapsed());
    }
}

#[test]
fn no_damage_makes_it_panic() {
    let body: String = (0..40)
        .map(|at| format!("<w:p><w:pPr/><w:r><w:t>Paragraph {at} &amp; some words</w:t><w:tab/></w:r></w:p>"))
        .collect();
    let whole = docx(&body);
    // Stored, so that the damage reaches the XML itself.
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("word/document.xml", stored).unwrap();
    zip.write_all(document(&body).as_bytes()).unwrap();
    let plain = zip.finish().unwrap().into_inner();
    for seed in 0..500 {
        let file = if seed % 2 == 0 { &whole } else { &plain };
        let result = read(FileKind::Docx, mutated(file, seed));
        assert_ne!(result, Err(Error::Panicked), "seed {seed}");
    }
}
