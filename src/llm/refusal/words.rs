//! The words of an error, whatever shape its body has.

use serde_json::Value;

/// Maximum bytes of an error that are read.
const MAX_BYTES: usize = 8192;

/// The words of an error. Parts of the request that a server quotes are left out, if they can be told apart.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Its sentences in lower case.
    pub text: String,
    /// Its codes and types.
    codes: Vec<String>,
    /// The parameters that it names.
    parameters: Vec<String>,
    /// Its sentences as they are, for ids.
    original: String,
}

impl Words {
    pub fn read(body: &str) -> Self {
        let mut words = Self::default();
        match serde_json::from_str::<Value>(body) {
            Ok(json) => words.add(&json, 0),
            Err(_) => words.say(body),
        }
        words.text = words.original.to_lowercase();
        words
    }

    /// Goes through the members in which errors have their words, some of
    /// which hold another error.
    fn add(&mut self, value: &Value, depth: u8) {
        if depth > 6 {
            return;
        }
        match value {
            Value::String(text) => match serde_json::from_str(text) {
                Ok(inner @ Value::Object(_)) => self.add(&inner, depth + 1),
                _ => self.say(text),
            },
            Value::Array(errors) => errors.iter().take(20).for_each(|error| self.add(error, depth + 1)),
            Value::Object(members) => {
                for (name, member) in members {
                    match name.as_str() {
                        "error" | "message" | "detail" | "msg" | "raw" | "metadata" => self.add(member, depth + 1),
                        "code" | "type" | "status" | "reason" => self.codes.extend(lower(member)),
                        "param" => self.parameters.extend(lower(member)),
                        "loc" => {
                            let mut place = member.as_array().into_iter().flatten().filter_map(Value::as_str);
                            self.parameters.extend(place.find(|part| *part != "body").map(str::to_lowercase));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn say(&mut self, text: &str) {
        let mut end = text.len().min(MAX_BYTES.saturating_sub(self.original.len()));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.original.push_str(&text[..end]);
        self.original.push('\n');
    }

    pub fn has_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.text.contains(word))
    }

    pub fn has_code(&self, codes: &[&str]) -> bool {
        self.codes.iter().any(|code| codes.contains(&code.as_str()))
    }

    /// Tells if the error names a parameter, or a part of it, as the cause.
    pub fn names_parameter(&self, name: &str) -> bool {
        self.parameters.iter().any(|parameter| {
            parameter.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Tells if the sentences contain a name, and not only as a part of another.
    pub fn mentions(&self, name: &str) -> bool {
        let is_inside = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let bytes = self.text.as_bytes();
        !name.is_empty()
            && memchr::memmem::find_iter(bytes, name.as_bytes())
                .any(|at| !is_inside(bytes[..at].last()) && !is_inside(bytes.get(at + name.len())))
    }

    /// Returns the largest number in the sentences that is smaller than `sent`.
    pub fn largest_number_below(&self, sent: f64) -> Option<f64> {
        let numbers = self.text.split(|character: char| !character.is_ascii_digit() && character != '.');
        // `0..1` and the full stop after a number.
        let numbers = numbers.flat_map(|number| number.split("..")).map(|number| number.trim_matches('.'));
        numbers.filter_map(|number| number.parse::<f64>().ok()).filter(|number| *number < sent).max_by(f64::total_cmp)
    }

    /// Returns the model that the error says to use instead.
    pub fn proposed_model(&self) -> Option<String> {
        let (_, rest) =
            self.original.split_once("to use models/").or_else(|| self.original.split_once("use models/"))?;
        let is_id = |character: &char| character.is_ascii_alphanumeric() || "-._/".contains(*character);
        let id: String = rest.chars().take_while(is_id).take(100).collect();
        let id = id.trim_end_matches(['.', '/']);
        (!id.is_empty() && !id.contains("..")).then(|| id.to_owned())
    }
}

fn lower(value: &Value) -> Option<String> {
    value.as_str().map(str::to_lowercase)
}
