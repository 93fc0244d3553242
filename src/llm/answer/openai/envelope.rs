//! The JSON around the last text.

/// The events of one answer often differ in their text alone, and comparing
/// costs a tenth of parsing: what stands between the same bytes, and is a
/// plain string, is what parsing would give.
#[derive(Debug, Default)]
pub struct Envelope {
    before: Vec<u8>,
    pub(super) after: Vec<u8>,
    /// How often it did not fit. OpenAI and Mistral pad their events with
    /// something else each time, so that it never will.
    misses: u8,
}

impl Envelope {
    const MAX_BYTES: usize = 1024;
    const MAX_MISSES: u8 = 8;

    /// The text of an event that differs from the last one in nothing else.
    pub fn open<'a>(&mut self, data: &'a [u8]) -> Option<&'a str> {
        let text = data.strip_prefix(self.before.as_slice())?.strip_suffix(self.after.as_slice())?;
        let plain = !self.before.is_empty() && text.iter().all(|&byte| byte >= b' ' && byte != b'"' && byte != b'\\');
        let text = plain.then(|| std::str::from_utf8(text).ok())??;
        self.misses = 0;
        Some(text)
    }

    /// Keeps what stands around `text`, where that is a part of `data` and not
    /// of a repaired copy.
    pub fn learn(&mut self, data: &str, text: &str) {
        let start = (text.as_ptr() as usize).wrapping_sub(data.as_ptr() as usize);
        let is_part = start.checked_add(text.len()).is_some_and(|end| end <= data.len());
        if !is_part || self.misses == Self::MAX_MISSES || data.len() - text.len() > Self::MAX_BYTES {
            return;
        }
        self.misses += 1;
        self.before.clear();
        self.before.extend_from_slice(&data.as_bytes()[..start]);
        self.after.clear();
        self.after.extend_from_slice(&data.as_bytes()[start + text.len()..]);
    }
}
