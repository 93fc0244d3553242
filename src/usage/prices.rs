//! The catalogue's prices, and their copy in the database, by which money is worked out when the ledger is read.

use serde_json::{Value, json};

use crate::llm::{
    azure,
    catalogue::{Prices, catalogue},
};

/// Returns the list prices of a model; `None` if the catalogue has none.
pub(super) fn price(provider: &str, model: &str) -> Option<Prices> {
    // Azure's deployments are of OpenAI's models, at the same prices.
    let provider = if provider == azure::PROVIDER { "openai" } else { provider };
    let prices = catalogue().model_or_family(provider, model)?.prices;
    prices.input.map(|_| prices)
}

/// Tells if the catalogue has a price of a model.
pub fn has_price(provider: &str, model: &str) -> bool {
    price(provider, model).is_some()
}

/// Returns the price of a model as the database takes it.
pub(super) fn row(provider: &str, model: &str) -> Option<Value> {
    let prices = price(provider, model)?;
    Some(json!({
        "provider": provider, "model": model, "input": prices.input, "cached": prices.cached, "output": prices.output,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azures_prices_are_openais() {
        assert_eq!(price("azure", "gpt-4o"), price("openai", "gpt-4o"));
        assert_eq!(row("openai", "gpt-4").expect("a price")["output"], 60.0);
        assert_eq!(row("custom", "gpt-4"), None);
        assert_eq!(row("openai", "gpt-4.1-mini"), None, "the catalogue has no price of it");
    }
}
