//! The demo provider's replies: simple, but dependent on the prompt.

/// The markers that the front end puts around each passage of a file.
const SOURCE: (&str, &str) = ("<BEGIN SOURCE>", "</END SOURCE>");

/// A bit of everything that Markdown has.
const MARKDOWN: &str = r#"## What Markdown looks like

Words in **bold**, in *italics* and as `code`; a [link](https://commonmark.org/). HTML is shown, not run: <b>bold</b>.

1. first
2. second
   - inside the second

| fruit | kilos |
|---|---:|
| apples | 12 |
| pears | 7 |

```rust
fn main() {
    println!("This can be copied: {}", 6 * 7);
}
```

> And this is quoted."#;

/// The outcome of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// A complete answer.
    Whole(String),
    /// The connection breaks in the middle of it.
    Cut(String),
    /// The provider returns an error with this message.
    Refused(&'static str),
}

/// Returns the answer to the user's last message.
pub fn answer(said: &[String]) -> Answer {
    let last = said.last().map_or("", String::as_str);
    let sources = passages(last);
    let question = if sources.is_empty() { last } else { without_passages(last) };
    let lower = question.to_lowercase();
    if lower.contains("error") {
        return Answer::Refused("This is what a provider's error looks like: you asked for one");
    }
    if lower.contains("cut") && lower.contains("off") {
        return Answer::Cut("This answer breaks off in the middle of a sentence, as answers do when a provider's machine fails or a network does, and nobody who reads it should take it for a whole one. You do not see these words.".to_owned());
    }
    if let Some(sentence) = nearest(&sentences(&sources), &lower) {
        return Answer::Whole(format!("Your file says: “{sentence}”"));
    }
    Answer::Whole(echo(question, said))
}

/// Tells if a question is for the answer in Markdown, which comes with a thought and a source.
pub fn shows_markdown(question: &str) -> bool {
    question.to_lowercase().contains("markdown")
}

fn echo(question: &str, said: &[String]) -> String {
    let words: Vec<&str> = question.split_whitespace().collect();
    let lower = question.to_lowercase();
    let number = |word: &&str| word.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
    if shows_markdown(question) {
        return MARKDOWN.to_owned();
    }
    if lower.contains("count") {
        let to = words.iter().find_map(number).unwrap_or(10).min(1000);
        let numbers: Vec<String> = (1..=to).map(|number| number.to_string()).collect();
        return format!("{} – that is all.", numbers.join(" "));
    }
    if words_of(&lower).iter().any(|word| ["hello", "hi", "hey"].contains(&word.as_str())) {
        return "Hello! I am the demo's provider. I run on this machine, cost nothing and know nothing, but I stream like the real ones.\n\nAsk me to count to 50, for Markdown, for an error, or to be cut off. Give me a file and ask about it. Or say anything, and I will tell it back to you.".to_owned();
    }
    if words.is_empty() {
        return "You said nothing, and I have nothing to add.".to_owned();
    }
    let letters = question.chars().filter(|c| c.is_alphanumeric()).count();
    let longest = words.iter().max_by_key(|word| word.chars().count()).copied().unwrap_or_default();
    let shown: String = question.chars().take(300).collect();
    let before = match said {
        [.., before, _] => {
            format!("\n\nBefore that you said “{}”.", without_passages(before).chars().take(100).collect::<String>())
        }
        _ => String::new(),
    };
    format!(
        "You said “{shown}”. That is {} {} with {letters} letters and digits, and the longest of them is “{longest}”. Backwards it goes: {}.{before}",
        words.len(),
        if words.len() == 1 { "word" } else { "words" },
        words.iter().rev().take(60).copied().collect::<Vec<_>>().join(" "),
    )
}

/// Returns the passages that the front end put into a question.
fn passages(question: &str) -> Vec<&str> {
    let after = question.split(SOURCE.0).skip(1);
    after.map(|part| part.split(SOURCE.1).next().unwrap_or_default().trim()).collect()
}

/// Returns the user's own text: the paragraphs before the passages, except the last, which the front end adds.
fn without_passages(question: &str) -> &str {
    match question.split_once(SOURCE.0) {
        Some((before, _)) => before.trim_end().rsplit_once("\n\n").map_or(before, |(asked, _)| asked).trim(),
        None => question,
    }
}

fn sentences<'a>(passages: &[&'a str]) -> Vec<&'a str> {
    let parts = passages.iter().flat_map(|passage| passage.split_inclusive(['.', '!', '?', '\n']));
    parts.map(str::trim).filter(|sentence| !sentence.is_empty()).collect()
}

/// Returns the sentence that shares the most words with a question.
fn nearest<'a>(sentences: &[&'a str], question: &str) -> Option<&'a str> {
    let asked = words_of(question);
    let shared = |sentence: &&&str| words_of(sentence).iter().filter(|word| asked.contains(word)).count();
    // The first of several; `max_by_key` returns the last.
    sentences.iter().rev().max_by_key(shared).copied()
}

/// Returns the meaningful words, in lower case and roughly in the singular.
pub fn words_of(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() > 1);
    words.map(|word| word.to_lowercase().trim_end_matches('s').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(said: &[&str]) -> Answer {
        answer(&said.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    fn text(said: &[&str]) -> String {
        match asked(said) {
            Answer::Whole(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_depends_on_the_question() {
        assert_eq!(text(&["Count to 3, please"]), "1 2 3 – that is all.");
        assert_eq!(text(&["Show me Markdown"]), MARKDOWN);
        assert!(text(&["Oh, hi!"]).starts_with("Hello!"));
        assert!(text(&["which of these is longest"]).contains("“longest”"));
        assert!(text(&[""]).contains("nothing") && text(&[]).contains("nothing"));
        assert!(text(&["first", "second"]).ends_with("Before that you said “first”."));
        assert!(matches!(asked(&["an Error, please"]), Answer::Refused(_)));
        assert!(matches!(asked(&["Cut me off"]), Answer::Cut(_)));
    }

    #[test]
    fn a_file_answers_with_its_nearest_sentence() {
        let question = "Who makes the bread?\n\nYou may use these sources.\n\n<BEGIN SOURCE>\nMilk is cold. An error is human.\n</END SOURCE>\n\n<BEGIN SOURCE>\nThe baker makes breads.\nOthers eat.\n</END SOURCE>";
        assert_eq!(text(&[question]), "Your file says: “The baker makes breads.”");
        assert!(text(&[question, "Well?"]).ends_with("you said “Who makes the bread?”."));
    }
}
