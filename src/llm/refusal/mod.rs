//! Reasons for which a provider refused a request: a parameter, the model, the API. Providers word them differently and
//! change the words, so codes and names count first, and words are matched loosely.

#[cfg(test)]
mod tests;
mod words;

use super::{
    adaptation::{Adaptation, LIMITS},
    members::Members,
    wire::Wire,
};
use words::Words;

/// Reason of a refusal, and so the change that the next request needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// Parameters are not accepted as they were sent.
    Parameters(Adaptation),
    /// The model is gone, unknown, or closed to this account.
    Model {
        /// The model that the provider says to use instead.
        successor: Option<String>,
    },
    /// The model is served by another API.
    Wire(Wire),
    /// The server does not know the path.
    Path,
}

impl Refusal {
    /// Returns its name in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Parameters(_) => "parameter",
            Self::Model { .. } => "model",
            Self::Wire(_) => "api",
            Self::Path => "path",
        }
    }
}

/// The request that was refused.
pub struct Refused<'a> {
    /// The model that was called.
    pub model: &'a str,
    /// The API.
    pub wire: Wire,
    /// The body's members.
    pub sent: &'a Members<'a>,
}

/// Members that are the request itself and are never left out.
const ESSENTIAL: [&str; 8] = ["model", "messages", "input", "contents", "system", "instructions", "stream", "tools"];

/// Members that are sent for the operator's sake. A server that does not know one of them does not know the others.
const OPTIONAL: [&str; 7] = [
    "stream_options",
    "prompt_cache_key",
    "safety_identifier",
    "store",
    "metadata",
    "cache_control",
    "reasoning_format",
];

/// Limit of tokens for a server that requires one, if the catalogue has none.
const SOME_LIMIT: u32 = 8192;

/// Tells if an answer with this status may be a refusal.
pub fn may_be_one(status: u16) -> bool {
    matches!(status, 400 | 403 | 404 | 405 | 410 | 422)
}

/// Reads a refusal; `None` where the answer is no refusal that another request
/// could do better with.
pub fn read(status: u16, body: &str, refused: &Refused<'_>) -> Option<Refusal> {
    if !may_be_one(status) {
        return None;
    }
    let words = Words::read(body);
    if let Some(wire) = other_wire(status, &words, refused.wire) {
        return Some(Refusal::Wire(wire));
    }
    if matches!(status, 400 | 422)
        && let Some(adaptation) = parameters(&words, refused)
    {
        return Some(Refusal::Parameters(adaptation));
    }
    if let Some(successor) = model(status, &words, refused.model) {
        return Some(Refusal::Model { successor });
    }
    // What is left of a 404 says that nobody knows the path.
    matches!(status, 404 | 405).then_some(Refusal::Path)
}

fn other_wire(status: u16, words: &Words, wire: Wire) -> Option<Wire> {
    let by_name = |name: &str| {
        if name.starts_with("v1/responses") || name.starts_with("responses") {
            Some(Wire::Responses)
        } else if name.starts_with("v1/chat/completions") || name.starts_with("chat/completions") {
            Some(Wire::Chat)
        } else {
            None
        }
    };
    let after = |before: &str| {
        let rests = words.text.split(before).skip(1);
        rests.map(|rest| rest.trim_start_matches(['/', '`', '\'', '"', ' '])).find_map(by_name)
    };
    let named = after("only supported in").or_else(|| after(" use "));
    match named {
        Some(named) if named != wire && matches!(wire, Wire::Chat | Wire::Responses) && status < 500 => Some(named),
        _ => None,
    }
}

fn parameters(words: &Words, refused: &Refused<'_>) -> Option<Adaptation> {
    let mut adaptation = Adaptation::default();
    let is_refusal = words.has_any(&REFUSING);
    for (name, value) in &refused.sent.0 {
        if ESSENTIAL.contains(&name.as_str()) {
            continue;
        }
        // The one thing that is sent inside of these.
        let inner = matches!(name.as_str(), "generationConfig").then_some("temperature");
        let named = words.names_parameter(name) || inner.is_some_and(|inner| words.names_parameter(inner));
        let mentioned = is_refusal && (words.mentions(name) || inner.is_some_and(|inner| words.mentions(inner)));
        if named || mentioned {
            adaptation.add(without(name, value.get(), words));
        }
    }
    if adaptation.left_out.iter().any(|name| OPTIONAL.contains(&name.as_str())) {
        let others = refused.sent.0.iter().map(|(name, _)| name).filter(|name| OPTIONAL.contains(&name.as_str()));
        adaptation.add(Adaptation { left_out: others.cloned().collect(), ..Adaptation::default() });
    }
    let is_missing = words.has_any(&["required", "missing"]) && !words.has_any(&["not required"]);
    let no_limit = !LIMITS.iter().any(|name| refused.sent.get(name).is_some());
    if is_missing
        && no_limit
        && let Some(name) = LIMITS.into_iter().find(|name| words.names_parameter(name) || words.mentions(name))
    {
        adaptation.add(Adaptation { limit: Some((name, Some(SOME_LIMIT))), ..Adaptation::default() });
    }
    if refused.wire == Wire::Chat
        && is_refusal
        && words.mentions("system")
        && (words.names_parameter("messages") || words.has_any(&["role", "instruction"]))
    {
        adaptation.system_as_user = true;
    }
    (adaptation != Adaptation::default()).then_some(adaptation)
}

/// A parameter is lowered where the refusal names what it may be at most,
/// renamed where it names the other name, and else left out.
fn without(name: &str, value: &str, words: &Words) -> Adaptation {
    let sent = value.parse::<f64>().ok();
    let most = sent.filter(|_| words.has_any(&BOUNDING)).and_then(|sent| words.largest_number_below(sent));
    let left_out = || Adaptation { left_out: vec![name.to_owned()], ..Adaptation::default() };
    let Some(limit) = LIMITS.into_iter().find(|limit| *limit == name) else {
        return match most.filter(|_| name == "temperature") {
            Some(most) => Adaptation { max_temperature: Some(most), ..Adaptation::default() },
            None => left_out(),
        };
    };
    let is_unknown = words.has_any(&["unsupported", "unknown", "not supported", "not permitted", "instead"]);
    let other = LIMITS.into_iter().find(|other| *other != name && words.mentions(other));
    match (other.filter(|_| is_unknown), most.filter(|most| *most >= 1.0)) {
        (Some(other), _) => Adaptation { limit: Some((other, None)), ..Adaptation::default() },
        (None, Some(most)) => Adaptation { limit: Some((limit, Some(most as u32))), ..Adaptation::default() },
        (None, None) => left_out(),
    }
}

/// Words of a refusal of a parameter.
const REFUSING: [&str; 21] = [
    "support",
    "deprecat",
    "unknown",
    "unrecognized",
    "not permitted",
    "not allowed",
    "not accepted",
    "invalid",
    "incompatible",
    "only ",
    "range",
    "at most",
    "less than",
    "maximum",
    "too large",
    "extra ",
    "unexpected",
    "must ",
    "cannot",
    "not enabled",
    "removed",
];

/// Words around the bounds of a parameter.
const BOUNDING: [&str; 8] = ["range", "at most", "less than", "maximum", "<=", "between", " > ", "up to"];

/// Words about a model that is gone, unknown or closed.
const GONE: [&str; 23] = [
    "not exist",
    "not found",
    "no longer",
    "deprecated",
    "decommissioned",
    "retired",
    "not a valid model",
    "invalid model",
    "unknown model",
    "no endpoints",
    "not supported",
    "unsupported model",
    "not available",
    "unavailable",
    "shut down",
    "discontinued",
    "removed",
    "not enabled",
    "access",
    "blocked",
    "permission",
    "not allowed",
    "not served",
];

/// Codes and types of the same.
const GONE_CODES: [&str; 9] = [
    "model_not_found",
    "model_decommissioned",
    "invalid_model",
    "model_not_available",
    "model_deprecated",
    "model_permission_blocked_project",
    "model_permission_blocked_org",
    "unsupported_model",
    "deploymentnotfound",
];

/// Reads whether the model is refused, and which one the provider names
/// instead of it.
fn model(status: u16, words: &Words, model: &str) -> Option<Option<String>> {
    let by_code = words.has_code(&GONE_CODES);
    let by_name = words.mentions(&model.to_lowercase()) && words.has_any(&GONE);
    let by_type = status == 404 && words.has_code(&["not_found_error", "not_found"]) && words.mentions("model");
    (by_code || by_name || by_type || status == 410).then(|| words.proposed_model())
}
