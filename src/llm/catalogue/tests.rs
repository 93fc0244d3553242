use std::collections::HashSet;

use super::*;

fn model(provider: &str, id: &str) -> &'static Model {
    catalogue().model_or_family(provider, id).unwrap_or_else(|| panic!("{provider} {id}"))
}

#[test]
fn every_line_can_be_read() {
    let wrong: Vec<String> = parse(DATA).filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_id_has_two_lines() {
    let mut seen = HashSet::new();
    for model in catalogue().models() {
        for id in &model.ids {
            assert!(seen.insert((model.provider, id)), "{} {id} is there twice", model.provider);
        }
    }
}

#[test]
fn the_picker_has_thirty_models() {
    assert_eq!(catalogue().models().iter().filter(|model| model.picker).count(), 30);
}

/// Fails on the day on which a chain ends in nothing alive: the line needs a
/// newer successor then.
#[test]
fn whatever_is_retired_has_a_successor_that_is_not() {
    let today = Date::today();
    for model in catalogue().models() {
        let lives = |id: &&str| {
            let successor = catalogue().model(model.provider, id);
            successor.unwrap_or_else(|| panic!("{:?}: {id} has no line", model.ids)).end
        };
        for id in &model.successors {
            assert!(!model.ids.contains(id), "{id} succeeds itself");
        }
        let ends: Vec<Option<Date>> = model.successors.iter().map(lives).collect();
        let Some(end) = model.end else { continue };
        assert!(
            ends.iter().any(|last| last.is_none_or(|last| last > today.max(end))),
            "{:?}: no successor outlives it",
            model.ids
        );
    }
}

#[test]
fn no_successor_is_dear() {
    for model in catalogue().models() {
        for id in &model.successors {
            let price = catalogue().model(model.provider, id).and_then(|successor| successor.prices.output);
            assert!(price.is_none_or(|price| price <= 30.0), "{:?} → {id}", model.ids);
        }
    }
}

#[test]
fn a_snapshot_is_its_model_unless_it_has_a_line() {
    let end = |provider, id| catalogue().model(provider, id).and_then(|model| model.end).map(|end| end.to_string());
    assert_eq!(end("openai", "gpt-4o-2024-11-20"), end("openai", "gpt-4o"));
    assert_eq!(end("openai", "gpt-4o-2024-05-13").as_deref(), Some("2026-10-23"));
    assert_eq!(end("openai", "gpt-4-0613"), end("openai", "gpt-4"));
    assert_eq!(end("anthropic", "claude-opus-4-1-20250805").as_deref(), Some("2026-08-05"));
    assert_eq!(end("google", "gemini-1.5-pro-002"), end("google", "gemini-1.5-pro-latest"));
    for unknown in ["gpt-4-trubo", "gpt-4o-11-20", "gpt-4o-2024-11", "", "-", "-0613"] {
        assert!(catalogue().model("openai", unknown).is_none(), "{unknown}");
    }
    assert!(catalogue().model("groq", "gpt-4o").is_none(), "another provider's");
}

#[test]
fn a_new_member_of_a_family_has_the_newest_rules() {
    assert_eq!(model("openai", "gpt-6.7-vega").temperature, None);
    assert!(model("openai", "gpt-9").functions_by_responses);
    assert_eq!(model("openai", "gpt-4.5-preview").temperature, Some((0.0, 2.0)));
    assert_eq!(model("openai", "o3-deep").temperature, None);
    assert_eq!(model("anthropic", "claude-opus-9").max_output, Some(128_000));
    assert_eq!(model("anthropic", "claude-3-9").temperature, Some((0.0, 1.0)));
    assert!(model("perplexity", "xai/grok-9").responses_only);
    assert!(catalogue().model_or_family("openrouter", "anything").is_none());
}

#[test]
fn a_window_is_the_models_or_its_familys() {
    let context = |provider, id| catalogue().context(provider, id);
    assert_eq!(context("openai", "gpt-4o"), Some(128_000));
    assert_eq!(context("openai", "gpt-6.1-sol"), Some(922_000));
    assert_eq!(context("anthropic", "claude-opus-5-5"), Some(200_000));
    assert_eq!(context("openrouter", "a/b"), None);
}

#[test]
fn a_line_that_cannot_be_read_says_why() {
    for (line, problem) in [
        ("openai a", "eight columns"),
        ("openai a 0-2 - - - - -", "no range"),
        ("openai a - loud - - - -", "unknown mark loud"),
        ("openai a - cache:x - - - -", "no number"),
        ("openai a - - many - - -", "no number"),
        ("openai a - - - 1/2 - -", "three prices"),
        ("openai a - - - - soon -", "no date"),
    ] {
        let error = parse(line).next().expect("a line").expect_err(line);
        assert!(error.contains(problem), "{error}");
    }
}
