//! References inside a document (`{"$ref": "#/components/schemas/Pet"}`).

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::budget::{Budget, Exhausted};

/// How many references may follow upon each other.
const MAX_HOPS: usize = 16;

/// The value that `value` refers to, if it is a reference, and what that
/// refers to; `None` if it leads out of the document, nowhere, or in a circle.
///
/// # Errors
/// If the budget is used up.
pub fn followed<'a>(
    root: &'a Value,
    mut value: &'a Value,
    budget: &mut Budget,
) -> Result<Option<&'a Value>, Exhausted> {
    for _ in 0..MAX_HOPS {
        let Some(reference) = reference(value) else { return Ok(Some(value)) };
        match target(root, reference, budget)? {
            Some(found) => value = found,
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// The text of a reference.
pub fn reference(value: &Value) -> Option<&str> {
    value.as_object()?.get("$ref")?.as_str()
}

/// The value that a reference of the form `#/a/b` names: a JSON pointer,
/// percent-encoded.
///
/// # Errors
/// If the budget is used up.
pub fn target<'a>(root: &'a Value, reference: &str, budget: &mut Budget) -> Result<Option<&'a Value>, Exhausted> {
    // Each name on the way is hashed.
    budget.steps(1 + reference.len() / 16)?;
    let pointer = reference.strip_prefix('#').and_then(|pointer| percent_decode_str(pointer).decode_utf8().ok());
    Ok(pointer.and_then(|pointer| root.pointer(&pointer)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_lead_to_their_values_or_nowhere() {
        let root = json!({ "a/b": { "c d": 1 }, "x": { "$ref": "#/y" }, "y": { "$ref": "#/a~1b/c%20d" }, "z": { "$ref": "#/z" } });
        let budget = &mut Budget::default();
        for (reference, found) in [
            ("#/a~1b/c d", Some(&json!(1))),
            ("#/x", Some(&json!(1))),
            ("#/z", None),
            ("#/none", None),
            ("other.json#/a", None),
            ("#/%ff", None),
        ] {
            let value = json!({ "$ref": reference });
            assert_eq!(followed(&root, &value, budget), Ok(found), "{reference}");
        }
        assert_eq!(followed(&root, &json!({ "$ref": 1 }), budget), Ok(Some(&json!({ "$ref": 1 }))));
    }
}
