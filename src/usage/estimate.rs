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
    /// Measures messages, which are JSON.
    pub fn of(messages: &str) -> Self {
        let bytes = messages.as_bytes();
        let (mut data, mut embedded, mut from) = (0, 0_u64, 0);
        while let Some(at) = memmem::find(&bytes[from..], b";base64,") {
            let start = from + at + b";base64,".len();
            let length = memchr::memchr2(b'"', b'\\', &bytes[start..]).unwrap_or(bytes.len() - start);
            // What is short is text about such data.
            if length > 64 {
                data += length;
                embedded += 1;
            }
            from = start + length;
        }
        let named = memmem::find_iter(bytes, b"\"image_url\":").count() as u64;
        Self { text: (bytes.len() - data) as u64, images: embedded.max(named) }
    }
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
    fn data_that_is_no_image_counts_as_text() {
        for text in [r#"["x;base64,AAAA"]"#, ";base64,", "", r#"[";base64,\"aa"]"#] {
            assert_eq!(Size::of(text), Size { text: text.len() as u64, images: 0 }, "{text}");
        }
    }

    #[test]
    fn a_models_own_limit_counts() {
        let model = crate::llm::catalogue::catalogue().model("openai", "gpt-4");
        assert_eq!(chat("openai", model, Size::of("[]")).output, 8192);
    }
}
