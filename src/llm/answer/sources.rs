//! The pages that an answer cites: a bounded list, written as Markdown after
//! the text and taken off again where a history comes back with it.

use std::fmt::Write;

use serde::Serialize;
use url::Url;

/// The most pages of one answer.
const MAX_SOURCES: usize = 50;
/// The most bytes of a page's URL; longer ones are left out.
const MAX_URL_BYTES: usize = 2048;
/// The most characters of a page's title.
const MAX_TITLE_CHARS: usize = 200;

/// The paragraph before the list. Models do not write it in this form, so
/// that the list can be told from an answer's own.
const HEADING: &str = "\n\n*Sources:*\n\n";

/// One page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// An `http` or `https` URL.
    pub url: String,
    /// In one line; the URL's host if the provider gave none.
    pub title: String,
}

/// The pages, each once, in the order in which they were cited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Adds a page. One that is there already, is no page on the web, or is
    /// too much is left out.
    pub fn add(&mut self, url: &str, title: Option<&str>) {
        if self.0.len() == MAX_SOURCES || url.len() > MAX_URL_BYTES || self.0.iter().any(|source| source.url == url) {
            return;
        }
        let Ok(parsed) = Url::parse(url) else { return };
        let Some(host) = parsed.host_str().filter(|_| matches!(parsed.scheme(), "http" | "https")) else { return };
        if self.0.iter().any(|source| source.url == parsed.as_str()) {
            return;
        }
        let title: String = title.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        let title: String = title.chars().filter(|c| !c.is_control()).take(MAX_TITLE_CHARS).collect();
        let title = if title.is_empty() { host.to_owned() } else { title };
        self.0.push(Source { url: parsed.into(), title });
    }

    /// Whether nothing was cited.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes the list as Markdown, to follow the text.
    pub fn markdown(&self) -> String {
        let mut list = String::new();
        if !self.0.is_empty() {
            list.push_str(HEADING);
        }
        for (number, Source { url, title }) in (1..).zip(&self.0) {
            let title = title.replace('\\', r"\\").replace('[', r"\[").replace(']', r"\]").replace('<', r"\<");
            let url = url.replace('(', "%28").replace(')', "%29");
            let end = if number == self.0.len() { "" } else { "\n" };
            // Writing to a string cannot fail.
            let _ = write!(list, "{number}. [{title}]({url}){end}");
        }
        list
    }
}

/// Returns the text without such a list at its end.
pub fn without_list(text: &str) -> &str {
    let Some((before, list)) = text.rsplit_once(HEADING) else { return text };
    let is_source = |line: &str| {
        line.split_once(". [").is_some_and(|(number, rest)| {
            number.bytes().all(|byte| byte.is_ascii_digit()) && rest.contains("](http") && rest.ends_with(')')
        })
    };
    if list.trim_end().lines().all(is_source) { before } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_listed_once_and_in_order() {
        let mut sources = Sources::default();
        assert_eq!(sources.markdown(), "");
        sources.add("https://b.example/x_(y)?q=1", Some("  A [b] \n c\\ "));
        sources.add("https://a.example", None);
        sources.add("https://a.example/", Some("again"));
        for other in ["javascript:alert(1)", "file:///etc/passwd", "no URL", "", "data:,x"] {
            sources.add(other, Some("x"));
        }
        assert_eq!(
            sources.markdown(),
            "\n\n*Sources:*\n\n1. [A \\[b\\] c\\\\](https://b.example/x_%28y%29?q=1)\n2. [a.example](https://a.example/)"
        );
    }

    #[test]
    fn the_list_is_bounded() {
        let mut sources = Sources::default();
        sources.add(&format!("https://h/{}", "x".repeat(MAX_URL_BYTES)), None);
        assert!(sources.is_empty());
        for number in 0..2 * MAX_SOURCES {
            sources.add(&format!("https://h/{number}"), Some(&"é".repeat(1000)));
        }
        assert_eq!(sources.0.len(), MAX_SOURCES);
        assert_eq!(sources.0[0].title.chars().count(), MAX_TITLE_CHARS);
    }

    #[test]
    fn the_list_and_nothing_else_is_taken_off() {
        let mut sources = Sources::default();
        sources.add("https://a.example/(", Some("a] (b"));
        sources.add("https://b.example/", None);
        for text in ["An answer", "", "An answer\n\n1. [own](https://x.example/)"] {
            assert_eq!(without_list(&format!("{text}{}", sources.markdown())), text);
            assert_eq!(without_list(text), text);
        }
        let talk = "I write\n\n*Sources:*\n\n1. [x](https://x.example/)\nand go on";
        assert_eq!(without_list(talk), talk);
    }
}
