//! The models of the built-in providers, as data (`catalog.json`): what they are called, how much they read and write,
//! whether they think and see, what they cost (0: not known). It helps to choose; no model is refused because it is not in it.

use std::sync::LazyLock;

use serde::Deserialize;

/// A model of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The provider's id.
    pub provider: &'static str,
    /// The model's id there.
    pub id: String,
    /// For people.
    pub name: String,
    /// Tokens it reads.
    pub context_window: u64,
    /// Tokens it writes.
    pub max_tokens: u64,
    /// Whether it thinks.
    pub reasoning: bool,
    /// Whether it sees pictures.
    pub sees_images: bool,
    /// Dollars for a million tokens: input, output, read from cache, written to cache.
    pub cost: [f64; 4],
}

/// A row of the file: id, name, thousands of tokens read and written, `r` for reasoning and `i` for images, prices.
#[derive(Deserialize)]
struct Row(String, String, u64, u64, String, [f64; 4]);

/// Everything in the catalogue, by provider, the one to use first first.
pub static CATALOG: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let text = include_str!("catalog.json");
    let providers: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).expect("a test reads the built-in catalogue");
    let mut entries = Vec::new();
    for (provider, rows) in providers {
        let provider = super::table::find(&provider).expect("a test reads the built-in catalogue").id;
        let rows: Vec<Row> = serde_json::from_value(rows).expect("a test reads the built-in catalogue");
        entries.extend(rows.into_iter().map(|Row(id, name, window, max, flags, cost)| Entry {
            provider,
            id,
            name,
            context_window: window * 1000,
            max_tokens: max * 1000,
            reasoning: flags.contains('r'),
            sees_images: flags.contains('i'),
            cost,
        }));
    }
    entries
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_can_be_read_and_makes_sense() {
        assert!(CATALOG.len() > 20, "{}", CATALOG.len());
        for (idx, entry) in CATALOG.iter().enumerate() {
            assert!(entry.max_tokens <= entry.context_window, "{}", entry.id);
            assert!(entry.cost[0] <= entry.cost[1] && entry.cost[2] <= entry.cost[0], "{}: {:?}", entry.id, entry.cost);
            let twin = CATALOG[..idx].iter().find(|other| other.provider == entry.provider && other.id == entry.id);
            assert_eq!(twin, None);
        }
        assert!(include_str!("catalog.json").len() < 12 * 1024);
    }

    #[test]
    fn short_names_mean_models_of_the_catalogue() {
        for (alias, name) in super::super::table::MODEL_ALIASES {
            let (provider, model) = name.split_once('/').unwrap();
            let is_known = CATALOG.iter().any(|entry| entry.provider == provider && entry.id == model);
            assert!(is_known, "{alias}: {name}");
        }
    }
}
