//! The models that are configured, and whether they could be asked.
//!
//! The catalogue is what `models.providers` describes, the built-in providers whose key is in the environment or in `keys`,
//! and what `agents` names beside them ([`shown`]). Reading it asks no provider, which is what [`hello::CAP_PUBLISHED_CATALOG`](crate::gateway::hello::CAP_PUBLISHED_CATALOG) promises.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::chat;
use crate::agent::models::shown;
use crate::agent::providers::table;
use crate::config::load::Loaded;
use crate::config::settings::agents::ModelChoice;
use crate::config::settings::models::{Credential, Model, Provider};
use crate::gateway::Gateway;
use crate::gateway::broadcast;
use crate::gateway::table::{Call, need};
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::params::{Loose, NonEmpty, Text};
use crate::protocol::session_key::agent_id;
use crate::protocol::version::Protocol;
use crate::sessions::{row, thinking};

crate::methods! {
    "models.list",       Both, need::READ,  need::READ, Loop list;
    "models.authStatus", V4,   need::ADMIN, need::READ, Loop auth_status;
}

crate::params! {
    /// Which of them, and how much of each.
    pub struct ListParams {
        @v4 {
            agent_id: Option<NonEmpty> = "agentId",
            session_key: Option<NonEmpty> = "sessionKey",
            auth_profile_id: Option<Text<1, 256>> = "authProfileId",
            provider: Option<NonEmpty> = "provider",
            include_details: Option<bool> = "includeDetails",
            include_provider_capabilities: Option<bool> = "includeProviderCapabilities",
            include_default_models: Option<bool> = "includeDefaultModels",
            prepared_only: Option<bool> = "preparedOnly",
            refresh: Option<bool> = "refresh",
            view: Option<View> = "view",
        }
    }
}

crate::words! {
    /// Which list.
    pub enum View {
        /// What a person may choose from.
        Default = "default",
        /// The same, and the models in use, allowed or not.
        Configured = "configured",
        /// What `models.providers` describes.
        ProviderConfig = "provider-config",
        /// Everything.
        All = "all",
    }
}

fn list(gateway: &mut Gateway, call: &Call, params: ListParams) -> Result<Value, RpcError> {
    let is_on = |flag: Option<bool>| flag == Some(true);
    let is_of_account = params.auth_profile_id.is_some();
    // Upstream's schema forbids both pairs, and its validator says no more than this.
    if is_on(params.prepared_only) && is_on(params.refresh) || params.session_key.is_some() && is_of_account {
        return Err(RpcError::invalid("invalid models.list params: must not be valid"));
    }
    if is_of_account {
        return Err(no_account());
    }
    let is_of_session = params.session_key.is_some();
    let agent = match &params.session_key {
        Some(text) => {
            let key = chat::session_key(&text.0, params.agent_id.as_ref(), &gateway.keys)?;
            key.agent().unwrap_or(&gateway.keys.default_agent).to_owned()
        }
        None => asked_agent(gateway, params.agent_id.as_ref().map(|id| id.0.as_str()))?,
    };
    let config = &gateway.config;
    let providers = known_providers(gateway);
    let provider = match &params.provider {
        None => None,
        Some(asked) => match providers.iter().find(|provider| provider.id.eq_ignore_ascii_case(&asked.0)) {
            Some(provider) => Some(provider.id.as_str()),
            None => {
                let asked: String = asked.0.chars().filter(|c| !c.is_control()).take(80).collect();
                return Err(RpcError::invalid(format!(
                    "unknown model catalog provider \"{asked}\"; use the id of a configured provider"
                )));
            }
        },
    };
    let view = params.view.unwrap_or(View::Default);
    // `refresh` fetches the lists of providers that have one to fetch. None has: what is configured is all there is.
    let ask = Ask { agent: &agent, view, provider, providers: &providers, has_details: is_on(params.include_details) };
    let mut out = catalog(config, call.protocol(), &ask);
    let has_defaults = params.include_default_models.unwrap_or(view == View::Configured && !is_of_session);
    if has_defaults && call.protocol() == Protocol::V4 {
        set_default_models(&mut out);
    }
    Ok(out)
}

/// Refuses an account that a caller names.
pub(super) fn no_account() -> RpcError {
    RpcError::invalid("unknown auth profile: this gateway keeps no model accounts")
}

/// The models that a person may choose from for an agent.
pub(super) fn choice(gateway: &Gateway, protocol: Protocol, agent: &str) -> Value {
    let providers = known_providers(gateway);
    let ask = Ask { agent, view: View::Default, provider: None, providers: &providers, has_details: false };
    catalog(&gateway.config, protocol, &ask)
}

/// The agent a caller means; the default one when it names none.
pub(in crate::gateway) fn asked_agent(gateway: &Gateway, asked: Option<&str>) -> Result<String, RpcError> {
    let Some(asked) = asked.map(str::trim).filter(|id| !id.is_empty()) else {
        return Ok(gateway.keys.default_agent.clone());
    };
    let id = agent_id(asked);
    match gateway.config.settings.agents.get(&id) {
        Some(_) => Ok(id),
        None => Err(RpcError::invalid(format!("unknown agent id \"{id}\""))),
    }
}

/// No model is chosen for small tasks behind the user's back.
fn set_default_models(catalog: &mut Value) {
    catalog["defaultModels"] = json!({ "automaticUtilityModel": null });
}

/// What is asked of the catalogue.
struct Ask<'a> {
    agent: &'a str,
    view: View,
    /// Id of one of `providers`.
    provider: Option<&'a str>,
    /// Everybody who could be asked, as [`known_providers`] tells.
    providers: &'a [Cow<'a, Provider>],
    has_details: bool,
}

/// A model that is described, or only named.
struct Entry<'a> {
    provider_id: &'a str,
    id: &'a str,
    provider: Option<&'a Provider>,
    known: Option<&'a Model>,
}

impl Entry<'_> {
    fn key(&self) -> String {
        format!("{}/{}", self.provider_id, self.id)
    }

    fn name(&self) -> &str {
        self.known.map_or(self.id, |model| &model.name)
    }
}

fn catalog(config: &Loaded, protocol: Protocol, ask: &Ask<'_>) -> Value {
    let choice = config.settings.agents.choice_of(ask.agent);
    let allowed = row::Context::of(config).allowed_models();
    let is_shown = |entry: &Entry<'_>| {
        let key = entry.key();
        ask.provider.is_none_or(|id| id.eq_ignore_ascii_case(entry.provider_id))
            && match ask.view {
                View::All | View::ProviderConfig => true,
                View::Default => is_allowed(allowed, &key),
                View::Configured => is_allowed(allowed, &key) || place_in(&choice, &key).is_some(),
            }
    };
    let mut entries = match ask.view {
        View::ProviderConfig => described(config.settings.models.providers.iter()),
        _ => described(ask.providers.iter().map(AsRef::as_ref)),
    };
    if ask.view != View::ProviderConfig {
        let named = choice.primary.iter().chain(&choice.fallbacks).map(String::as_str);
        add_named(ask.providers, &mut entries, named.chain(allowed.into_iter().flatten().map(|(key, _)| key.as_str())));
    }
    entries.retain(is_shown);
    entries.sort_by(|a, b| (a.provider_id, a.name()).cmp(&(b.provider_id, b.name())));
    let rows = entries.iter().map(|entry| match protocol {
        Protocol::V3 => wire_v3(entry),
        Protocol::V4 => wire_v4(config, entry, &choice, allowed, ask),
    });
    json!({ "models": rows.collect::<Vec<_>>() })
}

/// The providers that are configured, and those whose key is elsewhere.
fn known_providers(gateway: &Gateway) -> Vec<Cow<'_, Provider>> {
    let environment = |name: &str| gateway.load_inputs.env.0.get(name).cloned();
    shown::providers(&gateway.config.settings.models, &environment)
}

fn described<'a>(providers: impl Iterator<Item = &'a Provider>) -> Vec<Entry<'a>> {
    let of = |provider| move |model| entry(provider, model);
    fn entry<'a>(provider: &'a Provider, model: &'a Model) -> Entry<'a> {
        Entry { provider_id: &provider.id, id: &model.id, provider: Some(provider), known: Some(model) }
    }
    providers.flat_map(|provider| provider.models.iter().map(of(provider))).collect()
}

/// Adds the models that are named as `provider/model` and described nowhere.
fn add_named<'a>(
    providers: &'a [Cow<'a, Provider>],
    entries: &mut Vec<Entry<'a>>,
    keys: impl Iterator<Item = &'a str>,
) {
    for key in keys {
        let Some((provider_id, id)) = key.split_once('/') else { continue };
        let is_there = entries.iter().any(|entry| entry.provider_id == provider_id && entry.id == id);
        if !is_there && !id.is_empty() && id != "*" {
            entries.push(Entry {
                provider_id,
                id,
                provider: providers.iter().map(AsRef::as_ref).find(|provider| provider.id == provider_id),
                known: None,
            });
        }
    }
}

/// Whether `agents.defaults.models` lets a model be chosen: without entries it lets all, and `provider/*` is all of one.
fn is_allowed(allowed: Option<&Map<String, Value>>, key: &str) -> bool {
    let Some(allowed) = allowed else { return true };
    let whole_provider = key.split_once('/').map(|(provider, _)| format!("{provider}/*"));
    allowed.contains_key(key) || whole_provider.is_some_and(|pattern| allowed.contains_key(&pattern))
}

/// Where a model stands among those in use: 0 is the first.
fn place_in(choice: &ModelChoice, key: &str) -> Option<usize> {
    choice.primary.iter().chain(&choice.fallbacks).position(|named| named == key)
}

fn wire_v3(entry: &Entry<'_>) -> Value {
    let mut out = json!({ "id": entry.id, "name": entry.name(), "provider": entry.provider_id });
    if let Some(model) = entry.known {
        if let Some(window) = model.context_window {
            out["contextWindow"] = json!(window);
        }
        out["reasoning"] = json!(model.reasoning);
        out["input"] = json!(model.input);
    }
    out
}

fn wire_v4(
    config: &Loaded,
    entry: &Entry<'_>,
    choice: &ModelChoice,
    allowed: Option<&Map<String, Value>>,
    ask: &Ask<'_>,
) -> Value {
    let mut out = json!({ "id": entry.id, "name": entry.name(), "provider": entry.provider_id });
    let key = entry.key();
    let listed = allowed.and_then(|allowed| allowed.get(&key));
    if let Some(alias) = listed.and_then(|model| model["alias"].as_str()).filter(|alias| !alias.is_empty()) {
        out["alias"] = json!(alias);
    }
    if let Some(model) = entry.known {
        if let Some(window) = model.context_window {
            out["contextWindow"] = json!(window);
        }
        if ask.has_details || ask.view == View::ProviderConfig {
            out["input"] = json!(model.input);
        }
        out["reasoning"] = json!(model.reasoning);
        let levels = thinking::levels(Some(entry.provider_id), Some(entry.id), Some(model));
        let labelled: Vec<Value> = levels.iter().map(|level| json!({ "id": level, "label": level })).collect();
        out["thinkingLevels"] = json!(labelled);
        out["thinkingDefault"] = json!(default_thinking(config, model.reasoning, levels));
    }
    if ask.has_details
        && let Some(is_local) = entry.provider.and_then(|provider| provider.is_local)
    {
        out["local"] = json!(is_local);
    }
    let mut tags = Vec::new();
    match place_in(choice, &key) {
        Some(0) if choice.primary.is_some() => tags.push("default".to_owned()),
        Some(place) => tags.push(format!("fallback#{}", place + usize::from(choice.primary.is_none()))),
        None => {}
    }
    if listed.is_some() {
        tags.push("configured".to_owned());
    }
    if !tags.is_empty() {
        out["tags"] = json!(tags);
    }
    // In this contract a model is available when its credentials are.
    let is_available = entry.provider.is_some_and(|provider| provider.credential != Credential::Missing);
    out["available"] = json!(is_available);
    if !is_available {
        out["unavailableReason"] = json!("missing-auth");
    }
    out
}

/// How hard a model is asked to think when nobody says: as configured, else upstream's choice for its kind.
pub(super) fn default_thinking<'a>(config: &'a Loaded, is_reasoning: bool, levels: &[&'static str]) -> &'a str {
    let configured = config.settings.agents.defaults.thinking.as_deref();
    match configured.filter(|level| levels.contains(level)) {
        Some(level) => level,
        None if is_reasoning => "medium",
        None => "off",
    }
}

fn auth_status(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<Value, RpcError> {
    let asked = params.0.get("agentId").and_then(Value::as_str);
    if let Err(error) = asked_agent(gateway, asked) {
        return Err(error.with_details(json!({ "code": "UNKNOWN_AGENT_ID", "agentId": asked.map(agent_id) })));
    }
    let providers = known_providers(gateway);
    let written = &gateway.config.settings.models;
    let environment = |name: &str| gateway.load_inputs.env.0.get(name).cloned();
    let with_key = providers.iter().filter_map(|provider| {
        let listed = shown::listed_profiles(&table::canonical(&provider.id), written, &environment);
        let profile =
            |id: &String| json!({ "profileId": id, "type": "api_key", "status": "static", "source": "config" });
        let source = match &provider.credential {
            Credential::Document => json!({ "source": "config" }),
            Credential::Variable(name) => json!({ "source": "env", "envVar": name }),
            Credential::NotNeeded | Credential::Missing => return None,
        };
        Some(json!({
            "provider": provider.id,
            "authProvider": provider.id,
            "displayName": provider.id,
            // A key neither expires nor is renewed; there are no sign-ins beside it.
            "status": "static",
            "profiles": listed.iter().map(profile).collect::<Vec<_>>(),
            "apiKey": source,
        }))
    });
    // Every provider takes a key; it is written into the configuration, not handed over by a form of its own.
    let capability = |provider: &Cow<'_, Provider>| json!({ "provider": provider.id, "apiKeySupported": true, "quickApiKeySetup": false });
    Ok(json!({
        "ts": call.now_ms,
        "providers": with_key.collect::<Vec<_>>(),
        "providerCapabilities": providers.iter().map(capability).collect::<Vec<_>>(),
    }))
}

impl Gateway {
    /// Sends the catalogue a client asked for with its connect.
    pub(in crate::gateway) fn send_model_catalog(&mut self, conn: ConnId, target: Option<Value>) {
        let Some(target) = target.filter(Value::is_object) else { return };
        let asked = target.get("agentId").and_then(Value::as_str).map(agent_id);
        let of_key = target.get("sessionKey").and_then(Value::as_str);
        let of_key = of_key.and_then(|text| chat::session_key(text, None, &self.keys).ok());
        let known = |id: &String| self.config.settings.agents.get(id).is_some();
        let agent = of_key
            .as_ref()
            .and_then(|key| key.agent().map(str::to_owned))
            .or(asked)
            .filter(known)
            .unwrap_or_else(|| self.keys.default_agent.clone());
        let mut scope = json!({ "agentId": agent });
        if let Some(key) = target.get("sessionKey") {
            scope["sessionKey"] = key.clone();
        }
        let providers = known_providers(self);
        let ask =
            Ask { agent: &agent, view: View::Configured, provider: None, providers: &providers, has_details: false };
        let mut catalog = catalog(&self.config, Protocol::V4, &ask);
        if of_key.is_none() {
            set_default_models(&mut catalog);
        }
        if let Ok(payload) = Json::of(&json!({ "target": target, "scope": scope, "catalog": catalog })) {
            self.send_event(conn, &broadcast::MODELS_SNAPSHOT, &payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{self, LoadInputs};

    /// A configuration with a provider of each kind.
    fn loaded(agents: &Value) -> (tempfile::TempDir, Loaded) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("openclaw.json");
        let model = |id: &str, reasoning: bool| json!([{ "id": id, "name": id.to_uppercase(), "reasoning": reasoning, "input": ["text", "image"], "contextWindow": 1000 }]);
        let document = json!({ "agents": agents, "models": { "providers": {
            "written": { "baseUrl": "https://api.example.com/v1", "apiKey": "k", "models": model("w", false) },
            "named": { "apiKey": "NAMED_API_KEY", "models": model("n", true) },
            "unset": { "apiKey": { "source": "env", "id": "UNSET_API_KEY" }, "models": model("u", false) },
            "here": { "baseUrl": "http://127.0.0.1:11434/v1", "models": model("h", false) },
            "bare": { "baseUrl": "https://bare.example.com", "models": model("b", false) },
        } } });
        std::fs::write(&file, document.to_string()).unwrap();
        let mut inputs = LoadInputs::of_process();
        inputs.env.0.insert("NAMED_API_KEY".to_owned(), "secret".to_owned());
        inputs.flag_config = Some(file);
        inputs.state_dir = Some(dir.path().to_owned());
        let config = load::load(&inputs).unwrap();
        (dir, config)
    }

    fn ask(view: View) -> Ask<'static> {
        Ask { agent: "main", view, provider: None, providers: &[], has_details: false }
    }

    fn rows(config: &Loaded, ask: &Ask<'_>) -> Vec<Value> {
        let providers = shown::providers(&config.settings.models, &|_| None);
        let &Ask { agent, view, provider, has_details, .. } = ask;
        let ask = Ask { agent, view, provider, providers: &providers, has_details };
        catalog(config, Protocol::V4, &ask)["models"].as_array().unwrap().clone()
    }

    #[track_caller]
    fn check_ids(config: &Loaded, ask: &Ask<'_>, expected: &[&str]) {
        let ids: Vec<String> = rows(config, ask).iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids, expected);
    }

    #[test]
    fn a_model_is_available_when_its_credentials_are_to_be_had() {
        let (_dir, config) = loaded(&json!({}));
        let facts: Vec<_> = rows(&config, &ask(View::Default))
            .iter()
            .map(|row| {
                (row["id"].as_str().unwrap().to_owned(), row["available"] == true, row["unavailableReason"].clone())
            })
            .collect();
        let missing = || json!("missing-auth");
        let expected = [
            ("b", false, missing()),
            ("h", true, Value::Null),
            ("n", true, Value::Null),
            ("u", false, missing()),
            ("w", true, Value::Null),
        ];
        assert_eq!(facts, expected.map(|(id, available, why)| (id.to_owned(), available, why)));
    }

    #[test]
    fn details_say_what_a_model_takes_and_whether_it_runs_here() {
        let (_dir, config) = loaded(&json!({}));
        let plain = rows(&config, &ask(View::Default));
        assert!(plain.iter().all(|row| row.get("input").is_none() && row.get("local").is_none()), "{plain:?}");
        let detailed = rows(&config, &Ask { has_details: true, ..ask(View::Default) });
        let of = |id: &str| detailed.iter().find(|row| row["id"] == id).unwrap();
        assert_eq!((&of("h")["local"], &of("w")["local"]), (&json!(true), &json!(false)));
        assert_eq!(of("n").get("local"), None, "without an address nobody can say");
        assert_eq!(of("h")["input"], json!(["text", "image"]));
        assert!(!json!(detailed).to_string().contains("127.0.0.1"), "an address is nobody's business");
    }

    #[test]
    fn views_differ_by_what_is_allowed_and_what_is_in_use() {
        let (_dir, config) = loaded(&json!({ "defaults": {
            "model": { "primary": "written/w", "fallbacks": ["elsewhere/e", "here/h"] },
            "models": { "here/*": {}, "written/w": { "alias": "best" } },
        } }));
        check_ids(&config, &ask(View::Default), &["h", "w"]);
        check_ids(&config, &ask(View::Configured), &["e", "h", "w"]);
        check_ids(&config, &ask(View::All), &["b", "e", "h", "n", "u", "w"]);
        check_ids(&config, &ask(View::ProviderConfig), &["b", "h", "n", "u", "w"]);
        check_ids(&config, &Ask { provider: Some("here"), ..ask(View::All) }, &["h"]);
        let shown = rows(&config, &ask(View::Configured));
        let tags: Vec<&Value> = shown.iter().map(|row| &row["tags"]).collect();
        assert_eq!(tags, [&json!(["fallback#1"]), &json!(["fallback#2"]), &json!(["default", "configured"])]);
        assert_eq!(shown[2]["alias"], "best");
        // What is only named is described by nobody and has no provider to be asked at.
        assert_eq!((&shown[0]["name"], &shown[0]["available"]), (&json!("e"), &json!(false)));
    }

    #[test]
    fn an_agent_sees_its_own_model_as_the_default() {
        let (_dir, config) = loaded(&json!({
            "defaults": { "model": { "primary": "written/w" } },
            "entries": { "main": {}, "ops": { "model": { "primary": "here/h" } } },
        }));
        let default_of = |agent| {
            let shown = rows(&config, &Ask { agent, ..ask(View::Default) });
            let found = shown.iter().find(|row| row["tags"] == json!(["default"])).unwrap();
            found["id"].clone()
        };
        assert_eq!((default_of("main"), default_of("ops")), (json!("w"), json!("h")));
    }

    #[test]
    fn a_model_thinks_as_hard_as_suits_it_unless_somebody_says() {
        let (_dir, config) = loaded(&json!({}));
        let of = |config: &Loaded, id: &str| {
            rows(config, &ask(View::Default)).into_iter().find(|row| row["id"] == id).unwrap()["thinkingDefault"]
                .clone()
        };
        assert_eq!((of(&config, "n"), of(&config, "w")), (json!("medium"), json!("off")));
        let (_dir, config) = loaded(&json!({ "defaults": { "thinkingDefault": "high" } }));
        assert_eq!((of(&config, "n"), of(&config, "w")), (json!("high"), json!("off")), "no more than the model can");
    }
}
