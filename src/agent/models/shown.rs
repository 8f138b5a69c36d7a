//! What people are shown of providers: who could be asked, with which kind of credentials, and which models they have.
//!
//! It is made from the configuration and the names of the environment alone. No file is read and no program is asked for a
//! secret, so it may be called on the loop; whether a key is right only asking tells.

use std::borrow::Cow;

use crate::agent::providers::catalog::{CATALOG, Entry};
use crate::agent::providers::table::{self, BUILTIN};
use crate::config::settings::models::{self as settings, Cost, Credential, Model, Provider};

/// Ending of the names of lists of keys, in `keys` and, in capitals, in the environment.
const KEYS_SUFFIX: &str = "_api_keys";

/// The providers that are configured and the built-in ones whose key is elsewhere (in the environment, or in `keys`), each
/// with its own models first and then those of the catalogue.
pub fn providers<'a>(
    written: &'a settings::Models,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Vec<Cow<'a, Provider>> {
    let mut shown: Vec<Cow<'a, Provider>> = Vec::new();
    for provider in &written.providers {
        let id = table::canonical(&provider.id);
        let elsewhere = match provider.credential {
            Credential::Missing => credential(&id, written, environment),
            _ => None,
        };
        let is_askable = elsewhere.is_some() || provider.credential != Credential::Missing;
        let more = if is_askable { beside(&id, provider, written) } else { Vec::new() };
        if elsewhere.is_none() && more.is_empty() {
            shown.push(Cow::Borrowed(provider));
            continue;
        }
        let mut provider = provider.clone();
        provider.models.extend(more);
        provider.credential = elsewhere.unwrap_or(provider.credential);
        shown.push(Cow::Owned(provider));
    }
    for row in BUILTIN {
        let is_written = written.providers.iter().any(|provider| table::canonical(&provider.id) == row.id);
        let Some(credential) = credential(row.id, written, environment).filter(|_| !is_written) else { continue };
        let mut provider = unwritten(row.id, credential, written);
        provider.models = beside(row.id, &provider, written);
        shown.push(Cow::Owned(provider));
    }
    shown
}

/// Ids of the profiles that the lists of keys make of a provider.
pub fn listed_profiles(
    id: &str,
    written: &settings::Models,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Vec<String> {
    let n_written = written.key_lists.iter().filter(|(name, _)| list_name(name) == id).map(|(_, keys)| keys.len());
    let n_keys = n_written.sum::<usize>() + listed_in(id, environment).len();
    (1..=n_keys.min(crate::agent::profiles::PROFILES_PER_PROVIDER_MAX)).map(|n| format!("{id}:key-{n}")).collect()
}

/// The provider that a list of keys is for.
pub fn list_name(name: &str) -> String {
    table::canonical(&name.strip_suffix(KEYS_SUFFIX).unwrap_or(name).replace('_', "-"))
}

/// The variable that may hold more keys of a provider.
pub(super) fn list_variable(id: &str) -> String {
    format!("OPENCLAW_RS_{id}{KEYS_SUFFIX}").replace(['-', '.'], "_").to_uppercase()
}

/// The keys in that variable.
pub(super) fn listed_in(id: &str, environment: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let keys = environment(&list_variable(id)).unwrap_or_default();
    keys.split([',', ';', '\n']).map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

/// What a provider can prove itself with that its own entry does not say.
fn credential(
    id: &str,
    written: &settings::Models,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<Credential> {
    let is_set = |name: &&&str| environment(name).is_some_and(|value| !value.trim().is_empty());
    if let Some(name) = table::find(id).into_iter().flat_map(|row| row.env).find(is_set) {
        return Some(Credential::Variable((*name).to_owned()));
    }
    let has_list = written.key_lists.iter().any(|(name, keys)| list_name(name) == id && !keys.is_empty());
    if has_list {
        return Some(Credential::Document);
    }
    (!listed_in(id, environment).is_empty()).then(|| Credential::Variable(list_variable(id)))
}

/// The catalogue's models of a provider that it does not describe itself.
fn beside(id: &str, provider: &Provider, written: &settings::Models) -> Vec<Model> {
    let is_new = |entry: &&Entry| entry.provider == id && provider.models.iter().all(|model| model.id != entry.id);
    let entries = CATALOG.iter().filter(is_new).filter(|_| !written.replaces_catalog);
    entries.map(model).collect()
}

fn model(entry: &Entry) -> Model {
    let [input, output, cache_read, cache_write] = entry.cost;
    let kinds: &[&str] = if entry.sees_images { &["text", "image"] } else { &["text"] };
    Model {
        id: entry.id.clone(),
        name: entry.name.clone(),
        reasoning: entry.reasoning,
        input: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        cost: entry.cost.iter().any(|price| *price > 0.0).then_some(Cost { input, output, cache_read, cache_write }),
        context_window: Some(entry.context_window),
        max_tokens: Some(entry.max_tokens),
        ..Model::default()
    }
}

/// A built-in provider that the configuration does not name.
fn unwritten(id: &str, credential: Credential, written: &settings::Models) -> Provider {
    Provider {
        id: id.to_owned(),
        is_local: None,
        credential,
        base_url: None,
        api: None,
        api_key: None,
        auth_kind: "api-key".to_owned(),
        auth_header: true,
        auth_header_name: None,
        auth_header_prefix: None,
        headers: Vec::new(),
        allow_unauthenticated: None,
        timeout: Some(written.request_timeout),
        request_defaults: serde_json::Map::new(),
        models: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::{Secret, Source};
    use crate::config::settings::Settings;

    fn shown(written: &settings::Models, variables: &[&str]) -> Vec<(String, Credential, bool)> {
        let environment = |name: &str| variables.contains(&name).then(|| "secret".to_owned());
        let providers = providers(written, &environment);
        let row = |provider: &Cow<'_, Provider>| {
            (provider.id.clone(), provider.credential.clone(), !provider.models.is_empty())
        };
        providers.iter().map(row).collect()
    }

    #[test]
    fn a_built_in_provider_is_there_when_its_key_is_anywhere() {
        let mut written = Settings::for_tests().models;
        assert_eq!(shown(&written, &[]), []);
        let variable = |name: &str| Credential::Variable(name.to_owned());
        let deepseek = || ("deepseek".to_owned(), variable("DEEPSEEK_API_KEY"), true);
        assert_eq!(shown(&written, &["DEEPSEEK_API_KEY", "SOMETHING_ELSE"]), [deepseek()]);
        assert_eq!(shown(&written, &["OPENCLAW_RS_GROQ_API_KEYS"])[0].1, variable("OPENCLAW_RS_GROQ_API_KEYS"));
        let keys = vec![Source::Written(Secret::new("one")), Source::Written(Secret::new("two"))];
        written.key_lists.push(("anthropic_api_keys".to_owned(), keys));
        let listed = shown(&written, &["DEEPSEEK_API_KEY"]);
        assert!(listed.contains(&deepseek()));
        assert!(listed.contains(&("anthropic".to_owned(), Credential::Document, true)), "{listed:?}");
        let none = |_: &str| None;
        assert_eq!(listed_profiles("anthropic", &written, &none), ["anthropic:key-1", "anthropic:key-2"]);
        assert_eq!(listed_profiles("deepseek", &written, &none), Vec::<String>::new());
        written.replaces_catalog = true;
        assert!(shown(&written, &["DEEPSEEK_API_KEY"]).iter().all(|(_, _, has_models)| !has_models));
    }
}
