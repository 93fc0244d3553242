use proptest::prelude::*;

use super::{CSV, MARKDOWN, PLAIN, Rules, split};

const SPACES: &[&str] = &[" "];

fn sized(separators: &'static [&'static str], size: usize, overlap: usize) -> Rules {
    Rules { separators, size, overlap }
}

fn lengths(passages: &[String]) -> Vec<usize> {
    passages.iter().map(|passage| passage.encode_utf16().count()).collect()
}

#[test]
fn unbroken_text_is_cut_every_3800() {
    let text: String = (0..10_000).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
    let passages = split(&text, &PLAIN);
    assert_eq!(lengths(&passages), [4000, 4000, 2400]);
    for (passage, start) in passages.iter().zip([0, 3800, 7600]) {
        assert_eq!(passage, &text[start..start + passage.len()]);
    }
    assert_eq!(lengths(&split(&"a".repeat(4000), &PLAIN)), [4000]);
    assert_eq!(lengths(&split(&"a".repeat(4001), &PLAIN)), [4000, 201]);
}

#[test]
fn words_overlap_by_twenty() {
    let words: Vec<String> = (0..1000).map(|at| format!("{at:09}")).collect();
    let passages = split(&words.join(" "), &PLAIN);
    assert_eq!(lengths(&passages), [3999, 3999, 2399]);
    assert_eq!(passages[1].split(' ').next(), Some("000000380"));
}

#[test]
fn a_single_row_of_csv_stays_whole_and_untrimmed() {
    let row = format!(" {} ", "x".repeat(9000));
    assert_eq!(split(&row, &CSV), [row.as_str()]);
    let rows = format!("short: row\n\n{}", "x".repeat(9000));
    assert_eq!(lengths(&split(&rows, &CSV)), [10, 3998, 4000, 1402]);
}

#[test]
fn small_sizes_of_the_recordings() {
    assert_eq!(split("aaaa bbbb cccc dddd eeee", &sized(PLAIN.separators, 10, 4)), ["aaaa bbbb", "cccc dddd", "eeee"]);
    let words: Vec<String> = (0..30).map(|at| format!("w{at}")).collect();
    let spans: Vec<(String, String)> = split(&words.join(" "), &sized(PLAIN.separators, 30, 10))
        .iter()
        .map(|passage| {
            let mut words = passage.split(' ').map(str::to_owned);
            (words.next().unwrap(), words.next_back().unwrap())
        })
        .collect();
    let wanted = [("w0", "w9"), ("w7", "w14"), ("w13", "w19"), ("w18", "w24"), ("w23", "w29")];
    assert_eq!(spans, wanted.map(|(first, last)| (first.to_owned(), last.to_owned())));
}

#[test]
fn half_a_pair_is_a_replacement_character() {
    let passages = split(&"😀".repeat(5), &sized(PLAIN.separators, 3, 1));
    assert_eq!(passages, ["😀\u{fffd}", "😀\u{fffd}", "😀\u{fffd}", "😀\u{fffd}", "😀"]);
}

#[test]
fn nothing_but_white_space_gives_nothing() {
    for rules in [PLAIN, MARKDOWN, CSV] {
        assert!(split("", &rules).is_empty());
        assert!(split(" \n\n\u{feff}\u{a0}\r\n ", &rules).is_empty());
        assert!(split(&"\n".repeat(9000), &rules).is_empty());
    }
    assert_eq!(split(" \u{85}a\u{feff}\n", &PLAIN), ["\u{85}a"]);
}

#[test]
fn separators_may_overlap_and_the_last_is_followed_by_none() {
    assert_eq!(split("aaa\n\n\nbbb", &sized(&["\n\n"], 6, 0)), ["aaa", "bbb"]);
    assert_eq!(split("one two  three", &sized(SPACES, 5, 0)), ["one", "two", "thre", "e"]);
}

/// The rules once more, as plainly as they can be written: on code units, with copies.
mod plain {
    pub fn split(text: &[u16], separators: &[Vec<u16>], size: usize, overlap: usize) -> Vec<Vec<u16>> {
        let mut separator = separators.last().cloned().unwrap_or_default();
        let mut rest: Option<Vec<Vec<u16>>> = None;
        for (at, candidate) in separators.iter().enumerate() {
            if candidate.is_empty() {
                separator = Vec::new();
                break;
            }
            if text.windows(candidate.len()).any(|window| window == candidate) {
                separator = candidate.clone();
                rest = Some(separators[at + 1..].to_vec());
                break;
            }
        }

        let mut pieces: Vec<Vec<u16>> = Vec::new();
        for (at, &unit) in text.iter().enumerate() {
            if at == 0 || text[at..].starts_with(&separator) {
                pieces.push(Vec::new());
            }
            pieces.last_mut().unwrap().push(unit);
        }

        let mut passages = Vec::new();
        let mut short = Vec::new();
        for piece in pieces {
            if piece.len() < size {
                short.push(piece);
                continue;
            }
            passages.extend(merge(std::mem::take(&mut short), size, overlap));
            match &rest {
                None => passages.push(piece),
                Some(rest) => passages.extend(split(&piece, rest, size, overlap)),
            }
        }
        passages.extend(merge(short, size, overlap));
        passages
    }

    fn merge(pieces: Vec<Vec<u16>>, size: usize, overlap: usize) -> Vec<Vec<u16>> {
        let mut passages = Vec::new();
        let mut current: Vec<Vec<u16>> = Vec::new();
        let total = |current: &[Vec<u16>]| current.iter().map(Vec::len).sum::<usize>();
        for piece in pieces {
            if total(&current) + piece.len() > size {
                passages.push(trim(&current.concat()));
                while total(&current) > overlap || (total(&current) + piece.len() > size && total(&current) > 0) {
                    current.remove(0);
                }
            }
            current.push(piece);
        }
        passages.push(trim(&current.concat()));
        passages.retain(|passage| !passage.is_empty());
        passages
    }

    fn trim(units: &[u16]) -> Vec<u16> {
        const SPACES: [u16; 10] = [0x20, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000, 0xfeff, 0x200a];
        let space = |unit: &u16| (9..=13).contains(unit) || (0x2000..0x200a).contains(unit) || SPACES.contains(unit);
        let Some(start) = units.iter().position(|unit| !space(unit)) else {
            return Vec::new();
        };
        let end = units.iter().rposition(|unit| !space(unit)).unwrap();
        units[start..=end].to_vec()
    }
}

fn check(text: &str, rules: &Rules) -> Result<(), TestCaseError> {
    let units: Vec<u16> = text.encode_utf16().collect();
    let separators: Vec<Vec<u16>> =
        rules.separators.iter().map(|separator| separator.encode_utf16().collect()).collect();
    let plain: Vec<String> = plain::split(&units, &separators, rules.size, rules.overlap)
        .iter()
        .map(|passage| String::from_utf16_lossy(passage))
        .collect();
    prop_assert_eq!(split(text, rules), plain);
    Ok(())
}

/// Texts of words, spaces, separators and trouble, from nothing to about `longest` pieces.
fn texts(longest: usize) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec!["a", "be", "word", "naïve", "日本語", "中", "😀", "👨‍👩‍👧", "e\u{301}", "##", "***"]),
        4 => prop::sample::select(vec![" ", " ", " ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\n\n\n", "  ", "\t"]),
        1 => prop::sample::select(vec![
            "\n## ", "\n### ", "```\n\n", "\n\n***\n\n", "\n\n---\n\n", "\n\n___\n\n", "\u{a0}", "\u{feff}", "\u{3000}", "\u{85}",
        ]),
        1 => prop::sample::select(vec!["aaaaaaaaaaaa", "日本語日本語日本語日本語", "😀😀😀😀😀😀😀", "##########"]),
    ];
    prop::collection::vec(piece, 0..longest).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn small_sizes_are_as_the_plain_rules_say(text in texts(60), size in 2_usize..24, overlap in 0_usize..12) {
        prop_assume!(overlap < size);
        for separators in [PLAIN.separators, MARKDOWN.separators, CSV.separators, SPACES, &[]] {
            check(&text, &sized(separators, size, overlap))?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_real_sizes_are_as_the_plain_rules_say(text in texts(400), times in 1_usize..12, dense in any::<bool>()) {
        let mut text = text.repeat(times);
        if dense {
            text.retain(|c| !c.is_whitespace());
        }
        for rules in [PLAIN, MARKDOWN, CSV] {
            check(&text, &rules)?;
        }
    }
}
