//! `models.*`: configured providers and what they offer.

use super::reader::Reader;

/// Configured providers, in the order they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Models {
    pub providers: Vec<Provider>,
}

/// One provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// As written.
    pub id: String,
    pub models: Vec<Model>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub id: String,
    /// The id where no name is written.
    pub name: String,
    pub reasoning: bool,
    /// `text`, `image`.
    pub input: Vec<String>,
    /// In tokens.
    pub context_window: Option<u64>,
}

impl Models {
    pub(super) fn read(models: &Reader<'_>) -> Models {
        let provider = |(id, provider): (String, Reader<'_>)| Provider {
            id,
            models: provider.each("models").iter().filter_map(Model::read).collect(),
        };
        Models { providers: models.entries("providers").into_iter().map(provider).collect() }
    }
}

impl Model {
    fn read(model: &Reader<'_>) -> Option<Model> {
        let Some(id) = model.text("id") else {
            model.issue("id", "every model needs an id".to_owned());
            return None;
        };
        let tokens = |path| model.int_if_set(path).and_then(|n| u64::try_from(n).ok());
        Some(Model {
            name: model.text("name").unwrap_or_else(|| id.clone()),
            reasoning: model.flag("reasoning"),
            input: model.texts("input"),
            context_window: tokens("contextWindow"),
            id,
        })
    }
}
