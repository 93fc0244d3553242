//! Names of functions, as every provider takes them.

use std::collections::HashSet;

/// The most characters of a name.
const MAX_LENGTH: usize = 64;

/// Gives names that fit `^[A-Za-z0-9_-]{1,64}$` and differ.
#[derive(Debug, Default)]
pub struct Names {
    letter_first: bool,
    taken: HashSet<String>,
}

impl Names {
    /// With `letter_first` they begin with a letter or an underscore: Google's
    /// models take no other beginning.
    pub fn new(letter_first: bool) -> Self {
        Self { letter_first, taken: HashSet::new() }
    }

    /// A name like `wanted` that was not given before.
    pub fn unique(&mut self, wanted: &str) -> String {
        let clean = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
        let mut name: String = wanted.chars().take(MAX_LENGTH).map(clean).collect();
        let is_letter = |first: char| first.is_ascii_alphabetic() || first == '_';
        if name.is_empty() || self.letter_first && !name.starts_with(is_letter) {
            name.insert(0, '_');
            name.truncate(MAX_LENGTH);
        }
        let mut unique = name.clone();
        for number in 2.. {
            if self.taken.insert(unique.clone()) {
                break;
            }
            let suffix = format!("_{number}");
            unique = format!("{}{suffix}", &name[..name.len().min(MAX_LENGTH - suffix.len())]);
        }
        unique
    }
}

/// A name for an operation without one: `get_pets_id`.
pub fn made_up(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let method = method.to_ascii_lowercase();
    std::iter::once(method.as_str()).chain(words).collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        let mut names = Names::new(true);
        let long = "x".repeat(70);
        for (wanted, given) in [
            ("list", "list"),
            ("list", "list_2"),
            ("list", "list_3"),
            ("list_2", "list_2_2"),
            ("a.b c", "a_b_c"),
            ("名", "_"),
            ("前", "__2"),
            ("1st", "_1st"),
            ("", "__3"),
            (&long, &long[..64]),
        ] {
            assert_eq!(names.unique(wanted), given, "{wanted}");
        }
        assert_eq!(names.unique(&long), format!("{}_2", &long[..62]));
        assert_eq!(Names::default().unique("-1"), "-1");
        assert_eq!(made_up("GET", "/pets/{id}.json"), "get_pets_id_json");
    }
}
