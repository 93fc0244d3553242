//! `.env` files. The front end's `.env.local` is read unchanged, so the syntax is Next.js': values with spaces or a
//! lone quote, three kinds of quotes, values of several lines within quotes, `$NAME`; a line that is no setting is
//! ignored.
//!
//! Differs from Next.js: a `#` within a value begins a comment only after a space, names within single quotes are not
//! expanded, `$word` stays if no variable has that name (passwords hold such text), `\"` is a quote, and `${NAME:-…}`
//! cannot be nested.

use super::Variables;

/// A line of a file that is neither empty nor a comment.
#[derive(Debug, PartialEq, Eq)]
enum Entry<'a> {
    /// A name, its raw value, and the quote around the value.
    Setting(&'a str, String, Option<char>),
    /// Another line; its number, from 1.
    Stray(usize),
}

/// Adds the settings of a file's text; later ones override. `outside` has the environment, which takes precedence when
/// a value refers to a variable.
pub fn read(text: &str, outside: impl Fn(&str) -> Option<String>, variables: &mut Variables) {
    let entries = entries(text);
    let further_down = |wanted: &str| {
        entries.iter().find_map(|entry| match entry {
            Entry::Setting(name, value, _) if *name == wanted => Some(value.clone()),
            _ => None,
        })
    };
    for entry in &entries {
        let Entry::Setting(name, value, quote) = entry else { continue };
        let known = |name: &str| outside(name).or_else(|| variables.get(name).cloned()).or_else(|| further_down(name));
        let value = match quote {
            Some('\'') => value.clone(),
            Some('"') => expand(&value.replace("\\n", "\n").replace("\\r", "\r").replace("\\\"", "\""), known),
            _ => expand(value, known),
        };
        variables.insert((*name).to_owned(), value);
    }
}

/// Returns the numbers of the lines that are no settings, from 1.
pub fn strays(text: &str) -> Vec<usize> {
    let number = |entry| if let Entry::Stray(number) = entry { Some(number) } else { None };
    entries(text).into_iter().filter_map(number).collect()
}

fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let mut found = Vec::new();
    while let Some((at, line)) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        found.push(match name_and_value(line) {
            None => Entry::Stray(at + 1),
            Some((name, value)) => match quoted(value, lines.clone().map(|(_, line)| line)) {
                Some((quote, inside, more)) => {
                    lines.by_ref().take(more).for_each(drop);
                    Entry::Setting(name, inside, Some(quote))
                }
                None => unquoted(name, value),
            },
        });
    }
    found
}

/// Splits `NAME=value` or `NAME: value`, also after `export`.
fn name_and_value(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c)))?;
    let (name, rest) = line.split_at(end);
    let value = rest.trim_start().strip_prefix('=').or_else(|| rest.strip_prefix(": "))?;
    (!name.is_empty()).then_some((name, value.trim_start()))
}

/// Returns the text within quotes, and the number of further lines it takes; `None` if the value does not begin with a
/// quote, or has no closing one.
fn quoted<'a>(value: &'a str, following: impl Iterator<Item = &'a str>) -> Option<(char, String, usize)> {
    let quote = value.chars().next().filter(|first| matches!(first, '"' | '\'' | '`'))?;
    let mut inside = String::new();
    for (more, line) in std::iter::once(value.strip_prefix(quote)?).chain(following).enumerate() {
        let closing = line.match_indices(quote).find(|(at, _)| !line[..*at].ends_with('\\'));
        let Some((at, _)) = closing else {
            inside.push_str(line);
            inside.push('\n');
            continue;
        };
        let behind = line[at..].strip_prefix(quote)?.trim();
        inside.push_str(&line[..at]);
        return (behind.is_empty() || behind.starts_with('#')).then_some((quote, inside, more));
    }
    None
}

/// Parses a value without quotes around it, or with more of them inside.
fn unquoted<'a>(name: &'a str, value: &str) -> Entry<'a> {
    let begins_comment = |at: usize| at == 0 || value[..at].ends_with(char::is_whitespace);
    let comment = value.match_indices('#').find(|(at, _)| begins_comment(*at));
    let value = comment.map_or(value, |(at, _)| &value[..at]).trim_end();
    let around = ['"', '\'', '`'].into_iter().find_map(|quote| {
        let inside = value.strip_prefix(quote)?.strip_suffix(quote)?;
        Some((quote, inside))
    });
    match around {
        Some((quote, inside)) => Entry::Setting(name, inside.to_owned(), Some(quote)),
        None => Entry::Setting(name, value.to_owned(), None),
    }
}

/// Expands `$NAME`, `${NAME}` and `${NAME:-otherwise}`; `\$` is a dollar.
fn expand(value: &str, known: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        if let Some(before) = before.strip_suffix('\\') {
            expanded.push_str(before);
            expanded.push('$');
            rest = after;
            continue;
        }
        expanded.push_str(before);
        if let Some((inside, behind)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            let (name, otherwise) = inside.split_once(":-").unwrap_or((inside, ""));
            expanded.push_str(&known(name).filter(|value| !value.is_empty()).unwrap_or_else(|| otherwise.to_owned()));
            rest = behind;
        } else {
            let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
            let (name, behind) = after.split_at(end);
            match known(name) {
                Some(value) => expanded.push_str(&value),
                None => {
                    expanded.push('$');
                    expanded.push_str(name);
                }
            }
            rest = behind;
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str) -> Option<String> {
        let mut variables = Variables::new();
        read(text, |name| (name == "HOME").then(|| "/home/ada".to_owned()), &mut variables);
        variables.remove("X")
    }

    #[test]
    fn what_the_front_end_takes_is_taken() {
        for (text, wanted) in [
            ("X=a", "a"),
            ("  export X = a  ", "a"),
            ("X: a", "a"),
            ("X=", ""),
            ("X=a.com, b.com", "a.com, b.com"),
            ("X=My chat # the name", "My chat"),
            ("X=a#b", "a#b"),
            ("X=# nothing", ""),
            ("X=8000\t# the port", "8000"),
            ("X=\"a # b\" # c", "a # b"),
            ("X='a b'", "a b"),
            ("X=`it's \"so\"`", "it's \"so\""),
            ("X='it's'", "it's"),
            ("X=user's\nY=it's", "user's"),
            ("X=\"one\ntwo\"\nY=1", "one\ntwo"),
            ("X=\"one\\ntwo\"", "one\ntwo"),
            ("X=\"a \\\"b\\\"\"", "a \"b\""),
            ("X=\"a\" b", "\"a\" b"),
            ("X=\"never ends\nY=1", "\"never ends"),
            ("\u{feff}X=1\r\nY=2\r\n", "1"),
            ("X=1\nX=2", "2"),
            ("FOO\nX=1", "1"),
            ("my-name=1\nX=a=b==", "a=b=="),
        ] {
            assert_eq!(value(text).as_deref(), Some(wanted), "{text:?}");
        }
        for text in ["#X=1", "X", "", "Y=\"\nX=1\n\"", "X a=1", "=1"] {
            assert_eq!(value(text), None, "{text:?}");
        }
    }

    #[test]
    fn names_are_put_in() {
        for (text, wanted) in [
            ("A=1\nX=$A.${A}", "1.1"),
            ("X=$HOME/x", "/home/ada/x"),
            ("X=${A}2\nA=1", "12"),
            ("HOME=/other\nX=$HOME", "/home/ada"),
            ("X=${NONE:-else}${NONE}.", "else."),
            ("X=pa$$word$", "pa$$word$"),
            ("A=1\nX='$A'", "$A"),
            ("A=1\nX=\\$A \"\\$A\"", "$A \"$A\""),
        ] {
            assert_eq!(value(text).as_deref(), Some(wanted), "{text:?}");
        }
    }

    #[test]
    fn strays_are_told_by_their_lines() {
        assert_eq!(strays("# a\nFOO\nX=\"1\n2\"\nan error\n"), [2, 5]);
    }

    proptest! {
        #[test]
        fn no_text_harms(text in "[XY=:'\"`#$\\\\{}\n a-]{0,40}") {
            let mut variables = Variables::new();
            read(&text, |_| None, &mut variables);
            strays(&text);
        }

        #[test]
        fn whatever_stands_in_single_quotes_stays(inside in "[^'\\\\\r]{0,30}") {
            prop_assert_eq!(value(&format!("X='{inside}'\nY=1")), Some(inside));
        }
    }
}
