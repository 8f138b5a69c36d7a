//! What is to be set up: from flags, the environment, what is configured, and the person, in this order.

use std::net::IpAddr;

use serde_json::Value;

use super::super::CliError;
use super::super::args::OnboardArgs;
use super::ask::Person;
use crate::agent::providers::catalog::CATALOG;
use crate::agent::providers::table::{self, BUILTIN, Builtin};
use crate::config::expand;
use crate::config::network::BindMode;
use crate::config::secret::Secret;
use crate::protocol::json::json;

/// Providers that are named in the question; every other one can be named in the answer.
const SUGGESTED: &str = "anthropic, openai, google, openrouter, groq, mistral, deepseek, xai, ollama, lmstudio, ...";

/// Where the key of a provider is to come from.
#[derive(Debug)]
pub enum Key {
    /// Whence it comes now.
    AsItIs,
    /// The provider takes anyone.
    None,
    /// A variable of the gateway's environment.
    Variable(String),
    /// The configuration.
    Written(Secret),
}

/// What is to be set up.
#[derive(Debug)]
pub struct Plan {
    /// The provider's id.
    pub provider: String,
    /// Where its key comes from.
    pub key: Key,
    /// Its address, where it has none of its own or another one.
    pub base_url: Option<String>,
    /// Which API it speaks, where that is said.
    pub api: Option<String>,
    /// The model's id there.
    pub model: String,
    /// The agents' directory, where another one is wanted.
    pub workspace: Option<String>,
    /// What to listen on, where something else is wanted.
    pub bind: Option<String>,
}

/// What is there.
pub struct Facts<'a> {
    /// The configuration, defaults left out.
    pub config: &'a Value,
    /// Where agents work now.
    pub workspace: String,
    /// The environment the gateway would be started in.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

impl Facts<'_> {
    fn text(&self, pointer: &str) -> Option<&str> {
        self.config.pointer(pointer).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty())
    }

    /// The model in use, as `provider` and id.
    fn model(&self) -> Option<(String, String)> {
        let name = self.text("/agents/defaults/model/primary").or_else(|| self.text("/agents/defaults/model"))?;
        let (provider, model) = name.split_once('/')?;
        Some((table::canonical(provider), model.to_owned()))
    }

    fn provider(&self, id: &str) -> Option<&Value> {
        let providers = self.config.pointer("/models/providers")?.as_object()?;
        providers.iter().find(|(name, _)| table::canonical(name) == id).map(|(_, provider)| provider)
    }

    /// The variable that holds a provider's key, if one is set.
    fn variable(&self, builtin: Option<&Builtin>) -> Option<&'static str> {
        let names = builtin.map_or(&[][..], |row| row.env);
        names.iter().copied().find(|name| (self.env)(name).is_some_and(|value| !value.trim().is_empty()))
    }
}

fn bad(what: impl Into<String>, hint: &'static str) -> CliError {
    CliError::BadRequest { what: what.into(), hint }
}

/// Decides what is to be set up; asks `person` what nobody has said.
///
/// # Errors
/// [`CliError::BadRequest`] for what is missing with nobody to ask, or makes no sense; [`CliError::Input`] when the
/// person leaves.
pub fn decide(
    wish: &OnboardArgs,
    bind: Option<&str>,
    facts: &Facts<'_>,
    mut person: Option<&mut Person<'_>>,
) -> Result<Plan, CliError> {
    let provider = provider(wish, facts, person.as_deref_mut())?;
    let builtin = table::find(&provider);
    let configured = facts.provider(&provider);
    let has_address = builtin.is_some_and(|row| !row.base_url.is_empty())
        || configured.is_some_and(|provider| provider["baseUrl"].is_string());
    let base_url = match (&wish.base_url, has_address, person.as_deref_mut()) {
        (Some(url), ..) => Some(address(url).map_err(|why| bad(format!("--base-url {why}"), URL_HINT))?),
        (None, true, _) => None,
        (None, false, Some(person)) => Some(person.ask(&format!("Address of {provider}'s API"), None, address)?),
        (None, false, None) => {
            return Err(bad(format!("no address is known for the provider {provider}"), URL_HINT));
        }
    };
    let key = key(wish, facts, &provider, base_url.as_deref(), person.as_deref_mut())?;
    let model = model(wish, facts, &provider, person.as_deref_mut())?;
    let workspace = match (&wish.workspace, person.as_deref_mut()) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(person)) => {
            let now = facts.workspace.as_str();
            let asked = person.ask("Directory of the agent's documents", Some(now), |text| Ok(text.to_owned()))?;
            (asked != now).then_some(asked)
        }
        (None, None) => None,
    };
    let bind = match (bind, person) {
        (Some(word), _) => Some(listen(word).map_err(|why| bad(format!("--bind {why}"), BIND_HINT))?),
        (None, Some(person)) => {
            let now = facts.text("/gateway/bind").unwrap_or(BindMode::Loopback.as_str());
            let question = "Listen on: loopback (this machine only), lan, tailnet, auto, or an address";
            // What was chosen by its own key stays there.
            person.ask(question, Some(now), |text| if text == now { Ok(None) } else { listen(text).map(Some) })?
        }
        (None, None) => None,
    };
    Ok(Plan { provider, key, base_url, api: wish.api.clone(), model, workspace, bind })
}

const URL_HINT: &str = "give it with --base-url, such as http://127.0.0.1:8080/v1";
const BIND_HINT: &str = "loopback is this machine only, lan every address of it";

fn address(text: &str) -> Result<String, String> {
    let has_host = |rest: &str| !rest.is_empty() && !rest.starts_with('/');
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest.is_some_and(has_host) && !text.contains(char::is_whitespace) {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err("must be an address that begins with http:// or https://".to_owned()),
    }
}

fn listen(word: &str) -> Result<String, String> {
    let is_mode = BindMode::parse(word).is_some_and(|mode| mode.as_str() != "custom");
    if is_mode || word.parse::<IpAddr>().is_ok() {
        return Ok(word.to_owned());
    }
    Err("must be loopback, lan, tailnet, auto or an IP address".to_owned())
}

fn provider(wish: &OnboardArgs, facts: &Facts<'_>, person: Option<&mut Person<'_>>) -> Result<String, CliError> {
    let named = |text: &str| {
        let id = table::canonical(text);
        let is_id = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match !id.is_empty() && id.chars().all(is_id) {
            true => Ok(id),
            false => Err("must be a name of letters, digits, - _ and .".to_owned()),
        }
    };
    if let Some(text) = &wish.provider {
        return named(text).map_err(|why| bad(format!("--provider {why}"), "such as anthropic, openai or ollama"));
    }
    if let Some((provider, _)) = wish.model.as_deref().and_then(|model| model.split_once('/')) {
        return named(provider).map_err(|why| bad(format!("the provider in --model {why}"), "such as openai/gpt-5.4"));
    }
    let with_key = || BUILTIN.iter().find(|row| facts.variable(Some(row)).is_some()).map(|row| row.id.to_owned());
    let known = facts.model().map(|(provider, _)| provider).or_else(with_key);
    match (person, known) {
        (Some(person), known) => {
            let question = format!("Provider of the model ({SUGGESTED})");
            person.ask(&question, Some(known.as_deref().unwrap_or("anthropic")), named)
        }
        (None, Some(known)) => Ok(known),
        (None, None) => {
            Err(bad("--provider is missing, and no provider's key is set", "such as --provider anthropic, or ollama"))
        }
    }
}

fn key(
    wish: &OnboardArgs,
    facts: &Facts<'_>,
    provider: &str,
    base_url: Option<&str>,
    person: Option<&mut Person<'_>>,
) -> Result<Key, CliError> {
    if let Some(name) = &wish.api_key_env {
        if !expand::is_name(name) {
            return Err(bad("--api-key-env must be the name of a variable", "such as --api-key-env ANTHROPIC_API_KEY"));
        }
        return Ok(Key::Variable(name.clone()));
    }
    if let Some(secret) = &wish.api_key {
        return Ok(Key::Written(secret.clone()));
    }
    let builtin = table::find(provider);
    let configured = facts.provider(provider).filter(|provider| !provider["apiKey"].is_null());
    let variable = facts.variable(builtin);
    let at_home = |url: &str| ["127.", "localhost", "[::1]"].iter().any(|host| url.contains(&format!("://{host}")));
    let is_open = builtin.is_some_and(|row| row.is_key_optional) || base_url.is_some_and(at_home);
    let Some(person) = person else {
        return match (configured, variable) {
            (Some(_), _) => Ok(Key::AsItIs),
            (None, Some(name)) => Ok(Key::Variable(name.to_owned())),
            (None, None) if is_open => Ok(Key::None),
            (None, None) => Err(bad(
                format!("no API key for {provider}"),
                "give --api-key-env NAME, or --api-key - and the key on standard input",
            )),
        };
    };
    if configured.is_some() && person.agrees(&format!("Keep the API key that is configured for {provider}?"))? {
        return Ok(Key::AsItIs);
    }
    if let Some(name) = variable
        && person.agrees(&format!("Take the API key from {name}, which is set?"))?
    {
        return Ok(Key::Variable(name.to_owned()));
    }
    let question = if is_open { "API key, or nothing when it needs none" } else { "API key" };
    match person.secret(question)? {
        none if none.is_empty() && is_open => Ok(Key::None),
        none if none.is_empty() => Err(bad(format!("no API key for {provider}"), "its website gives you one")),
        secret => Ok(Key::Written(Secret::new(secret))),
    }
}

fn model(
    wish: &OnboardArgs,
    facts: &Facts<'_>,
    provider: &str,
    person: Option<&mut Person<'_>>,
) -> Result<String, CliError> {
    // `openrouter` has models whose ids hold a slash; only the provider's own name before it is none of the id.
    let id = |text: &str| match text.split_once('/') {
        Some((before, model)) if table::canonical(before) == provider => model.to_owned(),
        _ => text.to_owned(),
    };
    if let Some(text) = &wish.model {
        return Ok(id(text.trim()));
    }
    let in_use = facts.model().filter(|(now, _)| now == provider).map(|(_, model)| model);
    let offered = || facts.provider(provider)?.pointer("/models/0/id")?.as_str().map(str::to_owned);
    let first = || CATALOG.iter().find(|entry| entry.provider == provider).map(|entry| entry.id.clone());
    let known = in_use.or_else(offered).or_else(first);
    match (person, known) {
        (Some(person), known) => {
            let some =
                |text: &str| if text.is_empty() { Err("a model's name is needed".to_owned()) } else { Ok(id(text)) };
            person.ask(&format!("Model of {provider}"), known.as_deref(), some)
        }
        (None, Some(known)) => Ok(known),
        (None, None) => Err(bad(format!("--model is missing: no model of {provider} is known"), "name one it offers")),
    }
}

impl Plan {
    /// The model's whole name.
    pub fn model_name(&self) -> String {
        format!("{}/{}", self.provider, self.model)
    }

    /// As a merge patch of the configuration.
    pub fn patch(&self) -> Value {
        let mut provider = json!({});
        match &self.key {
            Key::AsItIs | Key::None => {}
            // As an object: a variable that is not set makes the provider unavailable, not the configuration invalid.
            Key::Variable(name) => provider["apiKey"] = json!({ "source": "env", "provider": "default", "id": name }),
            Key::Written(secret) => provider["apiKey"] = json!(secret.reveal()),
        }
        if let Some(url) = &self.base_url {
            provider["baseUrl"] = json!(url);
        }
        if let Some(api) = &self.api {
            provider["api"] = json!(api);
        }
        let is_known = CATALOG.iter().any(|entry| entry.provider == self.provider && entry.id == self.model);
        if !is_known {
            // Merged by its id into what is listed.
            provider["models"] = json!([{ "id": self.model }]);
        }
        let mut patch = json!({
            "agents": { "defaults": { "model": { "primary": self.model_name() } } },
            "models": { "providers": { (self.provider.as_str()): provider } },
        });
        if let Some(path) = &self.workspace {
            patch["agents"]["defaults"]["workspace"] = json!(path);
        }
        match self.bind.as_deref() {
            None => {}
            Some(address) if address.parse::<IpAddr>().is_ok() => {
                patch["gateway"] = json!({ "bind": "custom", "customBindHost": address });
            }
            Some(mode) => patch["gateway"] = json!({ "bind": mode }),
        }
        patch
    }

    /// Where the key comes from, for scripts.
    pub fn key_source(&self) -> Value {
        match &self.key {
            Key::AsItIs => json!({ "source": "configured" }),
            Key::None => json!({ "source": "none" }),
            Key::Variable(name) => json!({ "source": "env", "id": name }),
            Key::Written(_) => json!({ "source": "config" }),
        }
    }
}

/// The words `--api` takes: those of [`Api`](crate::agent::providers::format::Api).
pub const APIS: &[&str] =
    &["openai-completions", "openai-responses", "anthropic-messages", "google-generative-ai", "ollama"];

#[cfg(test)]
mod tests {
    use super::*;

    type Wish = (OnboardArgs, Option<String>);

    fn args(words: &[(&str, &str)]) -> Wish {
        let (mut wish, mut bind) = (OnboardArgs::default(), None);
        for (name, value) in words {
            let value = (*value).to_owned();
            match *name {
                "provider" => wish.provider = Some(value),
                "model" => wish.model = Some(value),
                "key" => wish.api_key = Some(Secret::new(value)),
                "env" => wish.api_key_env = Some(value),
                "url" => wish.base_url = Some(value),
                "bind" => bind = Some(value),
                other => panic!("{other}"),
            }
        }
        (wish, bind)
    }

    fn planned(wish: &Wish, config: &Value, env: &[&str], answers: Option<&str>) -> Result<Plan, CliError> {
        let env = |name: &str| env.contains(&name).then(|| "set".to_owned());
        let facts = Facts { config, workspace: "/ws".to_owned(), env: &env };
        let (mut input, mut output) = (answers.unwrap_or("").as_bytes(), Vec::new());
        let mut person = Person { input: &mut input, output: &mut output, is_terminal: false };
        decide(&wish.0, wish.1.as_deref(), &facts, answers.is_some().then_some(&mut person))
    }

    #[track_caller]
    fn check(wish: &Wish, config: &Value, env: &[&str], answers: Option<&str>, expected: &Value) {
        assert_eq!(planned(wish, config, env, answers).unwrap().patch(), *expected);
    }

    fn reference(name: &str) -> Value {
        json!({ "source": "env", "provider": "default", "id": name })
    }

    #[test]
    fn every_api_can_be_chosen() {
        let all = crate::agent::providers::format::Api::ALL.map(|api| api.as_str());
        assert_eq!(all.as_slice(), APIS);
    }

    #[test]
    fn a_key_in_the_environment_is_enough() {
        let expected = json!({
            "agents": { "defaults": { "model": { "primary": "openai/gpt-5.4" } } },
            "models": { "providers": { "openai": { "apiKey": reference("OPENAI_API_KEY") } } },
        });
        check(&args(&[]), &json!({}), &["OPENAI_API_KEY"], None, &expected);
        check(&args(&[("provider", "chatgpt")]), &json!({}), &["OPENAI_API_KEY"], None, &expected);
    }

    #[test]
    fn a_provider_of_ones_own_needs_its_address_and_a_model() {
        let own = args(&[("provider", "attic"), ("url", "http://127.0.0.1:9/v1/"), ("model", "small")]);
        let expected = json!({
            "agents": { "defaults": { "model": { "primary": "attic/small" } } },
            "models": { "providers": { "attic": { "baseUrl": "http://127.0.0.1:9/v1", "models": [{ "id": "small" }] } } },
        });
        check(&own, &json!({}), &[], None, &expected);
        let refused = |words: &[(&str, &str)]| planned(&args(words), &json!({}), &[], None).unwrap_err().to_string();
        assert_eq!(refused(&[("provider", "attic")]), "no address is known for the provider attic");
        let away = [("provider", "attic"), ("url", "https://attic.example/v1")];
        assert_eq!(refused(&away), "no API key for attic");
        assert_eq!(refused(&[away[0], away[1], ("key", "k")]), "--model is missing: no model of attic is known");
        assert_eq!(refused(&[]), "--provider is missing, and no provider's key is set");
        let bad_url = refused(&[("provider", "attic"), ("url", "attic.example")]);
        assert_eq!(bad_url, "--base-url must be an address that begins with http:// or https://");
    }

    #[test]
    fn a_model_says_whose_it_is() {
        let config = json!({});
        let of = |words: &[(&str, &str)]| planned(&args(words), &config, &[], None).unwrap().model_name();
        assert_eq!(of(&[("model", "claude/claude-opus-5"), ("key", "k")]), "anthropic/claude-opus-5");
        let routed = [("provider", "openrouter"), ("model", "anthropic/claude-opus-5"), ("key", "k")];
        assert_eq!(of(&routed), "openrouter/anthropic/claude-opus-5");
    }

    #[test]
    fn a_person_answers_and_what_is_set_up_is_the_default() {
        let config = json!({
            "agents": { "defaults": { "model": "openai/gpt-5.4-mini" } },
            "models": { "providers": { "openai": { "apiKey": "old" } } },
            "gateway": { "bind": "lan" },
        });
        let same = json!({
            "agents": { "defaults": { "model": { "primary": "openai/gpt-5.4-mini" } } },
            "models": { "providers": { "openai": {} } },
        });
        check(&args(&[]), &config, &[], Some("\n\n\n\n\n"), &same);
        let other = json!({
            "agents": { "defaults": { "model": { "primary": "anthropic/claude-opus-5" }, "workspace": "/elsewhere" } },
            "models": { "providers": { "anthropic": { "apiKey": "sk-new" } } },
            "gateway": { "bind": "custom", "customBindHost": "10.0.0.1" },
        });
        let answers = "claude\nno\nsk-new\n\n/elsewhere\nsomewhere\n10.0.0.1\n";
        check(&args(&[]), &config, &["ANTHROPIC_API_KEY"], Some(answers), &other);
        assert!(planned(&args(&[]), &config, &[], Some("claude\n")).is_err(), "who leaves has set up nothing");
    }

    #[test]
    fn a_key_is_never_shown_by_what_holds_it() {
        let plan = planned(&args(&[("provider", "openai"), ("key", "sk-canary")]), &json!({}), &[], None).unwrap();
        assert!(!format!("{plan:?} {}", plan.key_source()).contains("canary"));
    }
}
