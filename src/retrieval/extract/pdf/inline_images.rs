//! Images within content streams, which are skipped: to find their end, the library may try every
//! `EI` with every other.

/// The parts of a content stream between its inline images.
pub(super) fn without(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(content);
    std::iter::from_fn(move || {
        let content = rest?;
        let Some(image) = image_start(content) else {
            rest = None;
            return Some(content);
        };
        rest = content.get(image_end(content, image)..);
        Some(&content[..image])
    })
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | 0 | b'\x0c')
}

/// Whether the operator stands here, by itself.
fn is_word(content: &[u8], at: usize, word: &[u8]) -> bool {
    let before = at.checked_sub(1).and_then(|before| content.get(before));
    let after = content.get(at + word.len());
    content[at..].starts_with(word)
        && before.is_none_or(|&b| is_space(b) || matches!(b, b')' | b']' | b'>'))
        && after.is_none_or(|&b| is_space(b) || b == b'/')
}

/// Where the first image starts.
fn image_start(content: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr3(b'(', b'%', b'B', &content[at..])?;
        match content[at] {
            b'(' => at = string_end(content, at),
            b'%' => at += memchr::memchr2(b'\n', b'\r', &content[at..])?,
            _ if is_word(content, at, b"BI") => return Some(at),
            _ => at += 1,
        }
    }
}

/// Behind the string that starts here.
fn string_end(content: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while let Some(&byte) = content.get(at) {
        at += 1;
        match byte {
            b'\\' => at += 1,
            b'(' => depth += 1,
            b')' if depth <= 1 => break,
            b')' => depth -= 1,
            _ => {}
        }
    }
    at.min(content.len())
}

/// Behind the image that starts here: at an `EI` that text follows.
fn image_end(content: &[u8], start: usize) -> usize {
    /// How much of what follows must look like content.
    const LOOK: usize = 16;
    let find = |from: usize, word: &'static [u8]| {
        let all = memchr::memmem::find_iter(content.get(from..).unwrap_or_default(), word).map(move |at| from + at);
        all.filter(move |&at| is_word(content, at, word))
    };
    let Some(data) = find(start + 2, b"ID").next() else {
        return start + 2;
    };
    let is_content = |&byte: &u8| is_space(byte) || byte.is_ascii_graphic();
    find(data + 2, b"EI")
        .map(|end| end + 2)
        .find(|&end| content[end..].iter().take(LOOK).all(is_content))
        .unwrap_or(content.len())
}
