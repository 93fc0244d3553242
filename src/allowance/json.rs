//! Limits the size of parsed JSON: `[[],[],…]` takes some thirty times its bytes, so nodes are counted before anything
//! is built.

/// Tells if a JSON text has at most `limit` values and members, counted by its commas, colons and brackets outside of
/// strings. Reads each byte once, and accepts any text: invalid JSON is left for the parser to reject.
pub fn has_at_most_nodes(text: &str, limit: usize) -> bool {
    let (mut nodes, mut in_string, mut escaped) = (1_usize, false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b',' | b'[' | b'{' | b':' => {
                nodes += 1;
                if nodes > limit {
                    return false;
                }
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_outside_of_strings() {
        assert!(has_at_most_nodes(r#"{"a":"[[[[,,,,\"{{{{"}"#, 3));
        assert!(!has_at_most_nodes("[[],[],[]]", 5));
        assert!(has_at_most_nodes("[[],[],[]]", 7));
        assert!(has_at_most_nodes("no json at all", 1));
    }
}
