//! The size of a request before it is sent: an upper bound for reservations, and a likely size for rows without a
//! provider's count.

use memchr::memmem;

use crate::llm::catalogue::Model;

/// The size of a request, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The most that the prompt can be.
    pub input: u64,
    /// The most that the answer can be.
    pub output: u64,
    /// The likely size of the prompt.
    pub likely_input: u64,
}

/// Bytes of a token of ordinary text.
const BYTES_PER_TOKEN: u64 = 4;
/// The most tokens of an answer of a model of which the catalogue knows no limit.
const DEFAULT_OUTPUT: u32 = 32_768;

/// The size of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Bytes of their JSON without the images in it.
    text: u64,
    /// Images, those in place and those by their URL.
    images: u64,
}

/// Estimates a chat.
pub fn chat(provider: &str, model: Option<&Model>, Size { text, images }: Size) -> Estimate {
    let images = images * image_tokens(provider);
    Estimate {
        // No token is less than a byte, and what a provider adds to a message is less than its JSON.
        input: text + images,
        output: model.and_then(|model| model.max_output).unwrap_or(DEFAULT_OUTPUT).into(),
        likely_input: likely(text) + images / 2,
    }
}

/// Estimates a request for vectors of these many tokens.
pub fn embeddings(tokens: u64) -> Estimate {
    Estimate { input: tokens, output: 0, likely_input: tokens }
}

/// Returns the likely number of tokens of a text.
pub fn likely(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// The most tokens of an image, whatever its size: providers scale it down.
fn image_tokens(provider: &str) -> u64 {
    match provider {
        "anthropic" => 4_800,
        "google" => 2_300,
        _ => 2_500,
    }
}

impl Size {
    /// Measures messages, which are JSON. Only images as the front end posts them count as such:
    /// `"image_url":{"url":"data:…"}` and `"inlineData":{"mimeType":"image/…","data":"…"}`. All else is text, whatever
    /// it looks like.
    pub fn of(messages: &str) -> Self {
        let bytes = messages.as_bytes();
        let (mut data, mut embedded) = (0, 0_u64);
        for name in ["\"image_url\"", "\"inlineData\""] {
            for at in memmem::find_iter(bytes, name) {
                // Within a text, a quote has a backslash before it.
                let is_name = !bytes[..at].ends_with(b"\\");
                let length = if is_name { image(&bytes[at + name.len()..]) } else { None };
                data += length.unwrap_or_default();
                embedded += u64::from(length.is_some());
            }
        }
        let named = memmem::find_iter(bytes, b"\"image_url\":").count() as u64;
        Self { text: (bytes.len() - data) as u64, images: embedded.max(named) }
    }
}

/// Returns the length of the data in an image's object, which follows its name.
fn image(rest: &[u8]) -> Option<usize> {
    let mut rest = after(after(rest, b":")?, b"{")?;
    let (mut length, mut is_image) = (None, false);
    // Its few members have short values, but for the data.
    for _ in 0..4 {
        let (name, value, more) = member(rest)?;
        match name {
            b"url" => {
                let kind = value.strip_prefix(b"data:image/")?;
                let at = kind.iter().take(32).position(|byte| *byte == b';')?;
                let of_url = kind[at..].strip_prefix(b";base64,")?;
                (length, is_image) = (Some(of_url).filter(|data| is_base64(data)).map(<[u8]>::len), true);
            }
            b"data" => length = Some(value).filter(|data| is_base64(data)).map(<[u8]>::len),
            b"mimeType" => is_image = value.starts_with(b"image/"),
            _ => {}
        }
        match after(more, b",") {
            Some(next) => rest = next,
            None => break,
        }
    }
    length.filter(|_| is_image)
}

/// Reads a member whose value is a string: its name, its value, and what follows.
fn member(rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = string(rest)?;
    let (value, rest) = string(after(rest, b":")?)?;
    Some((name, value, rest))
}

/// Reads a string without escapes.
fn string(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = after(rest, b"\"")?;
    let end = memchr::memchr2(b'"', b'\\', rest).filter(|end| rest[*end] == b'"')?;
    Some((&rest[..end], &rest[end + 1..]))
}

fn after<'a>(rest: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    rest.trim_ascii_start().strip_prefix(mark)
}

fn is_base64(data: &[u8]) -> bool {
    data.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_at_most_its_bytes_and_its_images() {
        let text = r#"[{"role":"user","content":"Say hello"}]"#;
        let it = chat("openai", None, Size::of(text));
        assert_eq!((it.input, it.output), (text.len() as u64, 32_768));
        assert_eq!(it.likely_input, 10);
        let image = format!(
            r#"[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{}"}}}}]}}]"#,
            "A".repeat(1_000_000)
        );
        let it = chat("anthropic", None, Size::of(&image));
        assert!((4_800..5_000).contains(&it.input), "{it:?}");
        let by_url = r#"[{"content":[{"type":"image_url","image_url":{"url":"https://h/i.png"}}]}]"#;
        assert_eq!(chat("openai", None, Size::of(by_url)).input, by_url.len() as u64 + 2_500);
    }

    #[test]
    fn an_image_of_googles_form_is_one() {
        let data = "A".repeat(1_000_000);
        for parts in [
            format!(r#"[{{"parts":[{{"inlineData":{{"mimeType":"image/png","data":"{data}"}}}}]}}]"#),
            format!(r#"[{{"parts":[{{"inlineData": {{"data" : "{data}", "mimeType":"image/png"}}}}]}}]"#),
        ] {
            let it = chat("google", None, Size::of(&parts));
            assert!((2_300..2_500).contains(&it.input), "{it:?}");
        }
    }

    #[test]
    fn data_that_is_no_image_counts_as_text() {
        let data = "A".repeat(1000);
        for text in [
            r#"["x;base64,AAAA"]"#.to_owned(),
            ";base64,".to_owned(),
            String::new(),
            r#"[";base64,\"aa"]"#.to_owned(),
            // Within a text, whatever it quotes.
            format!(r#"[{{"content":";base64,{data}"}}]"#),
            format!(r#"[{{"content":"data:image/png;base64,{data}"}}]"#),
            format!(r#"[{{"content":"\"image_url\": \"url\":\"data:image/png;base64,{data}"}}]"#),
            format!(r#"[{{"content":"\"inlineData\": \"data\":\"{data}"}}]"#),
            // A file is more than an image.
            format!(r#"[{{"file":{{"url":"data:application/pdf;base64,{data}"}}}}]"#),
            format!(r#"[{{"source":{{"data":"{data}"}}}}]"#),
            format!(r#"[{{"inlineData":{{"mimeType":"image/png","data":"{data} words"}}}}]"#),
            format!(r#"[{{"inlineData":{{"mimeType":"application/pdf","data":"{data}"}}}}]"#),
            format!(r#"[{{"inlineData":0,"data":"{data}"}}]"#),
        ] {
            assert_eq!(Size::of(&text), Size { text: text.len() as u64, images: 0 }, "{text}");
        }
    }

    #[test]
    fn a_models_own_limit_counts() {
        let model = crate::llm::catalogue::catalogue().model("openai", "gpt-4");
        assert_eq!(chat("openai", model, Size::of("[]")).output, 8192);
    }
}
