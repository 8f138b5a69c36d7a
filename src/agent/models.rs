//! What may be asked: the configured providers and the built-in ones that have credentials, their models, and how a
//! name becomes a model (MODEL-01 to -09, -50, -55, -56). Made from a configuration and never changed; a reload makes
//! another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Map, Value};

use super::profiles::{self, Kind, PROFILES_PER_PROVIDER_MAX, Profile};
use super::providers::catalog::{self, CATALOG};
use super::providers::format::Api;
use super::providers::http::{self, Client};
use super::providers::table::{self, Builtin, Quirks};
use super::secrets::{Secrets, read_bounded};
use super::talk::Prices;
use crate::config::load::Loaded;
use crate::config::secret::Secret;
use crate::config::settings::models as settings;

mod compat;
pub mod shown;

/// Most models that are asked for one prompt.
pub const CHAIN_MAX: usize = 16;
/// Tokens a model is taken to read that nothing is known of; upstream's number.
pub const CONTEXT_WINDOW_DEFAULT: u64 = 200_000;
/// The file that holds the roots to trust instead of the bundled ones, as OpenSSL's programs take it.
const ROOTS_VARIABLE: &str = "SSL_CERT_FILE";
/// Largest such file, in bytes.
const ROOTS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A model of a provider.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelRef {
    /// The provider's id.
    pub provider: String,
    /// The model's id there.
    pub model: String,
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// Why a name is no model that may be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelNameError {
    /// Nothing before or after the slash.
    #[error("model must be 'provider/model' or 'model'")]
    Malformed,
    /// Nothing at all.
    #[error("model cannot be empty")]
    Empty,
    /// Nobody is known by that name.
    #[error("Unknown provider \"{0}\". Use /models to list providers.")]
    UnknownProvider(String),
    /// No provider is known to have it, and there is no default one to ask.
    #[error("Unknown model \"{0}\". Use /models to list models.")]
    UnknownModel(String),
    /// The allowlist leaves it out.
    #[error("model not allowed: {0}")]
    NotAllowed(ModelRef),
}

/// How strictly the wanted model is kept to (`model_pinning`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pinning {
    /// It is asked first, then the others.
    #[default]
    Prefer,
    /// Nobody else is asked.
    Strict,
}

impl Pinning {
    /// The pinning of a word.
    pub fn of(word: &str) -> Option<Pinning> {
        match word {
            "prefer" => Some(Pinning::Prefer),
            "strict" => Some(Pinning::Strict),
            _ => None,
        }
    }
}

/// What is known of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFacts {
    /// For people.
    pub name: String,
    /// Which API it is asked through.
    pub api: Api,
    /// Tokens it reads; `None`: not known.
    pub context_window: Option<u64>,
    /// Tokens it writes; `None`: not known.
    pub max_tokens: Option<u64>,
    /// Whether it thinks.
    pub reasoning: bool,
    /// Whether it sees pictures.
    pub sees_images: bool,
    /// Dollars for a million tokens; `None`: not known.
    pub cost: Option<Prices>,
    /// Whether the configuration names it, rather than the catalogue.
    pub is_configured: bool,
    /// Why it cannot be asked, whatever its provider can.
    pub problem: Option<String>,
    pub(super) quirks: Quirks,
    pub(super) headers: Vec<(String, Secret)>,
}

impl ModelFacts {
    /// Tokens it reads, or is taken to read.
    pub fn context_tokens(&self) -> u64 {
        self.context_window.unwrap_or(CONTEXT_WINDOW_DEFAULT)
    }

    /// What it takes, in the words of clients.
    pub fn input(&self) -> &'static [&'static str] {
        if self.sees_images { &["text", "image"] } else { &["text"] }
    }
}

/// Whether a provider can be asked, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Availability {
    /// Whether it can be asked.
    pub is_available: bool,
    /// Why it cannot.
    pub problem: Option<String>,
    /// Whether the configuration names it.
    pub is_configured: bool,
    /// Its profiles.
    pub profiles: Vec<ProfileStatus>,
}

/// What may be known of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileStatus {
    /// `provider:name`.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// When it expires, in milliseconds since 1970.
    pub expires_ms: Option<i64>,
}

/// What may be asked.
#[derive(Debug)]
pub struct Models {
    providers: Vec<Provider>,
    models: Vec<(ModelRef, ModelFacts)>,
    /// Configured short names, lower case, and what they mean.
    aliases: Vec<(String, ModelRef)>,
    /// What people may choose; `None`: anything.
    allowed: Option<BTreeSet<ModelRef>>,
    /// Fields of the requests of single models.
    params: Vec<(ModelRef, Map<String, Value>)>,
    /// Who is asked, by agent id; the last is for all others.
    choices: Vec<(Option<String>, Choice)>,
    cooldown_rules: settings::Cooldowns,
    client: Client,
    problems: Vec<String>,
}

/// Which models an agent asks, in order.
#[derive(Debug, Clone, Default)]
struct Choice {
    primary: Option<ModelRef>,
    fallbacks: Vec<ModelRef>,
}

/// A provider that may be asked, or why it may not.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) id: String,
    builtin: Option<&'static Builtin>,
    is_configured: bool,
    pub(super) base_url: String,
    api: Api,
    quirks: Quirks,
    pub(super) profiles: Vec<Profile>,
    pub(super) order: Vec<String>,
    /// Whether it is asked without credentials when there are none.
    pub(super) is_open: bool,
    pub(super) sends_auth: bool,
    pub(super) auth_header: Option<String>,
    pub(super) auth_prefix: Option<String>,
    pub(super) headers: Vec<(String, Secret)>,
    pub(super) idle: Duration,
    pub(super) defaults: Map<String, Value>,
    problem: Option<String>,
}

impl Provider {
    /// Why it cannot be asked at all.
    pub(super) fn problem(&self) -> Option<String> {
        if let Some(problem) = &self.problem {
            return Some(problem.clone());
        }
        if self.is_open || self.profiles.iter().any(|profile| profile.secret.is_ok()) {
            return None;
        }
        let whys = self.profiles.iter().filter_map(|profile| profile.secret.as_ref().err());
        Some(whys.map(String::as_str).next().map_or_else(|| self.how_to_sign_in(), str::to_owned))
    }

    fn how_to_sign_in(&self) -> String {
        match self.builtin.and_then(|row| row.env.first()) {
            Some(variable) => format!("no API key: set models.providers.{}.apiKey or {variable}", self.id),
            None => format!("no API key: set models.providers.{}.apiKey", self.id),
        }
    }

    /// Whether it was given credentials, or the configuration says that it needs none.
    fn has_credentials(&self) -> bool {
        self.problem().is_none() && (self.is_configured || self.profiles.iter().any(|profile| profile.secret.is_ok()))
    }
}

/// The models of a configuration, made when the first run asks for them: that reads files and may run programs, which the
/// loop must not wait for, and a gateway that is never spoken to need not do.
pub struct LazyModels {
    config: Arc<Loaded>,
    environment: BTreeMap<String, String>,
    made: OnceLock<Arc<Models>>,
}

impl fmt::Debug for LazyModels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyModels").field("is_made", &self.made.get().is_some()).finish_non_exhaustive()
    }
}

impl LazyModels {
    /// Those of a configuration and the environment it is in.
    pub fn new(config: Arc<Loaded>, environment: BTreeMap<String, String>) -> LazyModels {
        LazyModels { config, environment, made: OnceLock::new() }
    }

    /// The models, when they are made; waits for nothing.
    pub fn made(&self) -> Option<Arc<Models>> {
        self.made.get().cloned()
    }

    /// The models; the first to ask makes them, and others wait for that. Never called on the loop.
    pub fn get(&self) -> Arc<Models> {
        let make = || {
            let models = Models::new(&self.config, &|name| self.environment.get(name).cloned());
            for problem in models.problems() {
                log::warn!("a model provider cannot be asked: {problem}");
            }
            Arc::new(models)
        };
        Arc::clone(self.made.get_or_init(make))
    }
}

impl Models {
    /// Of a configuration and the environment it is in. Never fails: who cannot be asked is there, with the reason.
    /// Reads the files and asks the programs that secrets are kept by, so it must not run on the loop.
    pub fn new(config: &Loaded, environment: &dyn Fn(&str) -> Option<String>) -> Models {
        let written = &config.settings.models;
        let secrets = Secrets::new(&config.settings.secrets, environment);
        let mut problems = Vec::new();
        let stored = profiles::read_store(&config.state_dir).unwrap_or_else(|why| {
            problems.push(why);
            Vec::new()
        });
        let providers = providers(written, &secrets, &stored);
        let roots = roots(&secrets).unwrap_or_else(|why| {
            problems.push(why);
            None
        });
        let mut models = Models {
            models: offered(written, &providers, &secrets),
            providers,
            aliases: Vec::new(),
            allowed: None,
            params: Vec::new(),
            choices: Vec::new(),
            cooldown_rules: written.auth.cooldowns.clone(),
            client: Client::new(roots),
            problems,
        };
        models.read_names(config);
        models
    }

    /// Reads the names of the configuration, which mean what the providers make of them.
    fn read_names(&mut self, config: &Loaded) {
        let written = &config.settings.models;
        for offered in &written.offered {
            let Ok(model) = self.named(&offered.name) else { continue };
            if let Some(alias) = &offered.alias {
                self.aliases.push((alias.to_lowercase(), model.clone()));
            }
            if !offered.params.is_empty() {
                self.params.push((model.clone(), offered.params.clone()));
            }
        }
        let agents = &config.settings.agents;
        let defaults = Choice {
            primary: agents.defaults.model.primary.as_deref().and_then(|name| self.named(name).ok()),
            fallbacks: self.all_named(&agents.defaults.model.fallbacks),
        };
        // After the defaults, so that a bare name of an agent finds their provider.
        self.choices.push((None, defaults.clone()));
        for agent in &agents.list {
            let own = agents.choice_of(&agent.id);
            let primary = own.primary.as_deref().and_then(|name| self.named(name).ok());
            let choice = Choice { primary, fallbacks: self.all_named(&own.fallbacks) };
            self.choices.insert(0, (Some(agent.id.clone()), choice));
        }
        let allowed: BTreeSet<ModelRef> =
            written.offered.iter().filter_map(|offered| self.named(&offered.name).ok()).collect();
        self.allowed = (!written.offered.is_empty()).then_some(allowed);
    }

    fn all_named(&self, names: &[String]) -> Vec<ModelRef> {
        names.iter().filter_map(|name| self.named(name).ok()).collect()
    }

    /// What a name means that a person or a hook chose.
    ///
    /// # Errors
    /// Every [`ModelNameError`].
    pub fn resolve(&self, name: &str) -> Result<ModelRef, ModelNameError> {
        let model = self.named(name)?;
        let is_chosen = || {
            let choices = self.choices.iter().flat_map(|(_, choice)| choice.primary.iter().chain(&choice.fallbacks));
            choices.into_iter().any(|chosen| *chosen == model)
        };
        match &self.allowed {
            Some(allowed) if !allowed.iter().any(|allowed| allows(allowed, &model)) && !is_chosen() => {
                Err(ModelNameError::NotAllowed(model))
            }
            _ => Ok(model),
        }
    }

    /// As [`Models::resolve`], with the profile that `name@provider:profile` asks for.
    ///
    /// # Errors
    /// As [`Models::resolve`].
    pub fn resolve_with_profile(&self, name: &str) -> Result<(ModelRef, Option<String>), ModelNameError> {
        // Names of models may hold an `@` themselves; only a profile that exists is one.
        if let Some((model, profile)) = name.rsplit_once('@') {
            let is_profile = |provider: &Provider| provider.profiles.iter().any(|known| known.id == profile.trim());
            if self.providers.iter().any(is_profile) {
                return Ok((self.resolve(model)?, Some(profile.trim().to_owned())));
            }
        }
        Ok((self.resolve(name)?, None))
    }

    /// What a name means, whoever wrote it.
    fn named(&self, name: &str) -> Result<ModelRef, ModelNameError> {
        let name = name.trim();
        if name.is_empty() {
            return Err(ModelNameError::Empty);
        }
        let lower = name.to_lowercase();
        if let Some((_, model)) = self.aliases.iter().find(|(alias, _)| *alias == lower) {
            return Ok(model.clone());
        }
        if let Some((provider, model)) = name.split_once('/') {
            let (provider, model) = (provider.trim(), model.trim());
            if provider.is_empty() || model.is_empty() {
                return Err(ModelNameError::Malformed);
            }
            let Some(found) = self.provider_named(provider) else {
                // `anthropic/claude-x` is a bare name where a configured router offers it so.
                return self.bare(name).ok_or_else(|| ModelNameError::UnknownProvider(provider.to_owned()));
            };
            let (provider, model) = table::canonical_model(&found.id, model);
            return Ok(ModelRef { provider, model });
        }
        if let Some((_, meant)) = table::MODEL_ALIASES.iter().find(|(alias, _)| *alias == lower) {
            return self.named(meant);
        }
        let shorthand = table::canonical_model("anthropic", &lower);
        if shorthand.1 != lower {
            return Ok(ModelRef { provider: shorthand.0, model: shorthand.1 });
        }
        if let Some(model) = self.bare(name) {
            return Ok(model);
        }
        let default = self.choices.last().and_then(|(_, choice)| choice.primary.as_ref());
        let provider = default.map(|model| model.provider.clone()).or_else(|| Some(self.first()?.provider.clone()));
        match provider {
            Some(provider) => Ok(ModelRef { provider, model: name.to_owned() }),
            None => Err(ModelNameError::UnknownModel(name.to_owned())),
        }
    }

    /// Who offers a model by this id: the configured ones first.
    fn bare(&self, id: &str) -> Option<ModelRef> {
        let configured = self.models.iter().filter(|(_, facts)| facts.is_configured);
        let others = self.models.iter().filter(|(_, facts)| !facts.is_configured);
        configured.chain(others).map(|(model, _)| model).find(|model| model.model == id).cloned()
    }

    /// A provider by id or alias. What is configured under a name is meant by it, whatever else it is an alias of.
    fn provider_named(&self, name: &str) -> Option<&Provider> {
        let lower = name.to_lowercase();
        let canonical = table::canonical(name);
        let exact = self.providers.iter().find(|provider| provider.id == lower);
        exact.or_else(|| self.providers.iter().find(|provider| provider.id == canonical))
    }

    /// Who is asked, in order: the wanted model, else the agent's own; then its fallbacks, the defaults' own model, and
    /// the built-in successors of the first one's provider, as far as they have credentials. Never empty when any model
    /// can be asked; only the first with [`Pinning::Strict`].
    pub fn chain(&self, agent: &str, wanted: Option<&ModelRef>, pinning: Pinning) -> Vec<ModelRef> {
        let defaults = &self.choices.last().expect("the defaults are always there").1;
        let own =
            self.choices.iter().find(|(id, _)| id.as_deref() == Some(agent)).map_or(defaults, |(_, choice)| choice);
        let mut chain: Vec<ModelRef> = Vec::new();
        let mut add = |model: Option<&ModelRef>| {
            if let Some(model) = model
                && !chain.contains(model)
                && chain.len() < CHAIN_MAX
            {
                chain.push(model.clone());
            }
        };
        let first = wanted.or(own.primary.as_ref()).or_else(|| self.first());
        add(first);
        if pinning == Pinning::Strict {
            return chain;
        }
        own.fallbacks.iter().for_each(|model| add(Some(model)));
        add(own.primary.as_ref());
        add(defaults.primary.as_ref());
        for provider in first.map(|first| self.fallback_providers(&first.provider)).unwrap_or_default() {
            add(self.first_of(provider));
        }
        chain
    }

    /// The built-in successors of a provider that have credentials (`fallbackProviders`).
    pub fn fallback_providers(&self, provider: &str) -> Vec<&str> {
        let Some(row) = table::find(provider).filter(|row| row.id == provider) else { return Vec::new() };
        let is_usable = |id: &&&str| self.provider(id).is_some_and(Provider::has_credentials);
        row.fallbacks.iter().filter(is_usable).copied().collect()
    }

    /// The model to ask when none is configured: the first of the first provider with credentials.
    fn first(&self) -> Option<&ModelRef> {
        let usable = self.providers.iter().filter(|provider| provider.has_credentials());
        usable.filter_map(|provider| self.first_of(&provider.id)).next()
    }

    fn first_of(&self, provider: &str) -> Option<&ModelRef> {
        self.models.iter().map(|(model, _)| model).find(|model| model.provider == provider)
    }

    /// What is known of a model.
    pub fn facts(&self, model: &ModelRef) -> Option<&ModelFacts> {
        self.models.iter().find(|(known, _)| known == model).map(|(_, facts)| facts)
    }

    /// The configured models and those of the catalogue whose provider has credentials.
    pub fn all(&self) -> impl Iterator<Item = (&ModelRef, &ModelFacts)> {
        let is_shown = |(model, facts): &&(ModelRef, ModelFacts)| {
            facts.is_configured || self.provider(&model.provider).is_some_and(Provider::has_credentials)
        };
        self.models.iter().filter(is_shown).map(|(model, facts)| (model, facts))
    }

    /// Whether a provider can be asked. Times of expiry are judged when it is.
    pub fn availability(&self, provider: &str) -> Availability {
        let Some(provider) = self.provider_named(provider) else {
            let problem = Some(format!("nobody is known as {provider}"));
            return Availability { is_available: false, problem, is_configured: false, profiles: Vec::new() };
        };
        let status = |profile: &Profile| ProfileStatus {
            id: profile.id.clone(),
            kind: profile.kind,
            problem: profile.secret.as_ref().err().cloned(),
            expires_ms: profile.expires_ms,
        };
        let problem = provider.problem();
        Availability {
            is_available: problem.is_none(),
            problem,
            is_configured: provider.is_configured,
            profiles: provider.profiles.iter().map(status).collect(),
        }
    }

    /// Why a model cannot be asked, as far as is known without asking it.
    pub fn problem(&self, model: &ModelRef) -> Option<String> {
        let Some(provider) = self.provider(&model.provider) else {
            return Some(format!("nobody is known as {}", model.provider));
        };
        provider.problem().or_else(|| self.facts(model)?.problem.clone())
    }

    /// Ids of the providers that are configured or have credentials.
    pub fn provider_ids(&self) -> impl Iterator<Item = &str> {
        let is_there = |provider: &&Provider| provider.is_configured || provider.has_credentials();
        self.providers.iter().filter(is_there).map(|provider| provider.id.as_str())
    }

    /// Where a provider is and the first key that may be used of it; `None`: there is none.
    pub(super) fn key_of(&self, id: &str, now_ms: i64) -> Option<(String, Secret)> {
        let provider = self.provider(id).filter(|provider| provider.problem.is_none())?;
        let usable = provider.profiles.iter().find(|profile| profile.problem(now_ms).is_none())?;
        Some((provider.base_url.clone(), usable.secret.clone().ok()?))
    }

    /// What could not be read while this was made, for the log.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(super) fn provider(&self, id: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.id == id)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn cooldown_rules(&self) -> &settings::Cooldowns {
        &self.cooldown_rules
    }

    /// Fields of a model's requests that `agents.defaults.models` gives.
    pub(super) fn params(&self, model: &ModelRef) -> Option<&Map<String, Value>> {
        self.params.iter().find(|(known, _)| known == model).map(|(_, params)| params)
    }

    /// How a model is asked: what is known of it, else what its provider's models have in common.
    pub(super) fn manner(&self, provider: &Provider, model: &ModelRef) -> ModelFacts {
        self.facts(model).cloned().unwrap_or_else(|| ModelFacts {
            name: model.model.clone(),
            api: provider.api,
            context_window: None,
            max_tokens: None,
            reasoning: false,
            sees_images: true,
            cost: None,
            is_configured: false,
            problem: None,
            quirks: provider.quirks,
            headers: Vec::new(),
        })
    }
}

/// Whether an entry of the allowlist means a model: itself, or all that begin so (`provider/*`).
fn allows(allowed: &ModelRef, model: &ModelRef) -> bool {
    let is_meant = match allowed.model.strip_suffix('*') {
        Some(prefix) => model.model.starts_with(prefix),
        None => model.model == allowed.model,
    };
    is_meant && allowed.provider == model.provider
}

/// The configured providers, then the built-in ones.
fn providers(written: &settings::Models, secrets: &Secrets<'_>, stored: &[(String, Profile)]) -> Vec<Provider> {
    let mut providers: Vec<Provider> = Vec::new();
    for provider in &written.providers {
        let id = table::canonical(&provider.id);
        if providers.iter().all(|known| known.id != id) {
            providers.push(configured(id, provider, written, secrets, stored));
        }
    }
    for row in table::BUILTIN.iter().filter(|row| !row.base_url.is_empty()) {
        if providers.iter().all(|known| known.id != row.id) {
            providers.push(builtin(row, written, secrets, stored));
        }
    }
    providers
}

fn builtin(
    row: &'static Builtin,
    written: &settings::Models,
    secrets: &Secrets<'_>,
    stored: &[(String, Profile)],
) -> Provider {
    Provider {
        id: row.id.to_owned(),
        builtin: Some(row),
        is_configured: false,
        base_url: row.base_url.to_owned(),
        api: row.api,
        quirks: row.quirks,
        profiles: profiles_of(row.id, None, Some(row), written, secrets, stored),
        order: order_of(row.id, written),
        is_open: row.is_key_optional,
        sends_auth: true,
        auth_header: None,
        auth_prefix: None,
        headers: row.headers.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect(),
        idle: written.request_timeout,
        defaults: Map::new(),
        problem: None,
    }
}

fn configured(
    id: String,
    provider: &settings::Provider,
    written: &settings::Models,
    secrets: &Secrets<'_>,
    stored: &[(String, Profile)],
) -> Provider {
    let row = table::find(&id).filter(|row| row.id == id);
    let base_url = provider.base_url.clone().unwrap_or_else(|| row.map_or("", |row| row.base_url).to_owned());
    // Its address tells more of its oddities than the name somebody gave it.
    let alike = row.or_else(|| table::by_host(&base_url));
    let mut problem = (base_url.is_empty()).then(|| format!("models.providers.{}.baseUrl is missing", provider.id));
    let api = match &provider.api {
        None => alike.map_or(Api::OpenAiCompletions, |row| row.api),
        Some(word) => Api::of(word).unwrap_or_else(|| {
            problem.get_or_insert(format!("the API `{word}` is not built"));
            Api::OpenAiCompletions
        }),
    };
    if provider.auth_kind == "aws-sdk" {
        problem.get_or_insert("requests signed for AWS are not built".to_owned());
    }
    let mut headers: Vec<(String, Secret)> =
        alike.map_or(&[][..], |row| row.headers).iter().map(|(n, v)| ((*n).to_owned(), Secret::new(*v))).collect();
    fetch_headers(&provider.headers, secrets, &mut headers).unwrap_or_else(|why| {
        problem.get_or_insert(why);
    });
    Provider {
        builtin: row,
        is_configured: true,
        api,
        quirks: alike.map_or(table::COMPATIBLE, |row| row.quirks),
        profiles: profiles_of(&id, Some(provider), row, written, secrets, stored),
        order: order_of(&id, written),
        // One's own machine asks for no key unless somebody says so; upstream takes it the same way.
        is_open: provider.allow_unauthenticated.unwrap_or_else(|| {
            !provider.auth_header || row.map_or(provider.is_local == Some(true), |row| row.is_key_optional)
        }),
        sends_auth: provider.auth_header,
        auth_header: provider.auth_header_name.clone(),
        auth_prefix: provider.auth_header_prefix.clone(),
        headers,
        idle: provider.timeout.unwrap_or(written.request_timeout),
        defaults: provider.request_defaults.clone(),
        problem,
        base_url,
        id,
    }
}

/// Lays headers over others; a name counts whatever its case.
fn fetch_headers(
    written: &[(String, crate::config::secret::Source)],
    secrets: &Secrets<'_>,
    headers: &mut Vec<(String, Secret)>,
) -> Result<(), String> {
    for (name, source) in written {
        let value = secrets.fetch(source).map_err(|why| format!("header {name}: {why}"))?;
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.push((name.clone(), value));
    }
    Ok(())
}

/// Everything a provider can be asked with.
fn profiles_of(
    id: &str,
    provider: Option<&settings::Provider>,
    row: Option<&'static Builtin>,
    written: &settings::Models,
    secrets: &Secrets<'_>,
    stored: &[(String, Profile)],
) -> Vec<Profile> {
    let mut found: Vec<Profile> = Vec::new();
    let mut add = |name: String, kind: Kind, secret: Result<Secret, String>| {
        let id = format!("{id}:{name}");
        let is_known = found.iter().any(|known: &Profile| known.id == id || (secret.is_ok() && known.secret == secret));
        if !is_known && found.len() < PROFILES_PER_PROVIDER_MAX {
            found.push(Profile { id, kind, secret, expires_ms: None });
        }
    };
    if let Some((provider, key)) = provider.and_then(|provider| Some((provider, provider.api_key.as_ref()?))) {
        let kind = if provider.auth_kind == "token" { Kind::Token } else { Kind::ApiKey };
        add("default".to_owned(), kind, secrets.fetch(key));
    }
    let listed = written.key_lists.iter().filter(|(name, _)| shown::list_name(name) == id).flat_map(|(_, keys)| keys);
    let mut n = 0;
    for key in listed {
        n += 1;
        add(format!("key-{n}"), Kind::ApiKey, secrets.fetch(key));
    }
    for key in shown::listed_in(id, &|name| secrets.variable(name)) {
        n += 1;
        add(format!("key-{n}"), Kind::ApiKey, Ok(Secret::new(key.as_str())));
    }
    if let Some(value) = row.into_iter().flat_map(|row| row.env).find_map(|name| secrets.variable(name)) {
        add("env".to_owned(), Kind::ApiKey, Ok(Secret::new(value)));
    }
    let own = stored.iter().filter(|(provider, _)| provider == id).map(|(_, profile)| profile.clone());
    found.extend(own.take(PROFILES_PER_PROVIDER_MAX));
    for profile in written.auth.profiles.iter().filter(|profile| table::canonical(&profile.provider) == id) {
        if found.iter().all(|known| known.id != profile.id) && found.len() < PROFILES_PER_PROVIDER_MAX {
            let kind = Kind::of(&profile.mode);
            let secret = Err(format!("profile {} is configured, and its secret is not stored", profile.id));
            found.push(Profile { id: profile.id.clone(), kind, secret, expires_ms: None });
        }
    }
    found
}

fn order_of(id: &str, written: &settings::Models) -> Vec<String> {
    let order = written.auth.order.iter().find(|(provider, _)| table::canonical(provider) == id);
    order.map(|(_, order)| order.clone()).unwrap_or_default()
}

/// The models: configured ones in their order, then the catalogue's.
fn offered(written: &settings::Models, providers: &[Provider], secrets: &Secrets<'_>) -> Vec<(ModelRef, ModelFacts)> {
    let mut models: Vec<(ModelRef, ModelFacts)> = Vec::new();
    for provider in &written.providers {
        let id = table::canonical(&provider.id);
        let Some(known) = providers.iter().find(|known| known.id == id) else { continue };
        for model in &provider.models {
            let reference = ModelRef { provider: id.clone(), model: model.id.clone() };
            models.push((reference, facts_of(model, known, secrets)));
        }
    }
    if written.replaces_catalog {
        return models;
    }
    for entry in CATALOG.iter() {
        let reference = ModelRef { provider: entry.provider.to_owned(), model: entry.id.clone() };
        let Some(provider) = providers.iter().find(|known| known.id == entry.provider) else { continue };
        if models.iter().all(|(known, _)| *known != reference) {
            models.push((reference, facts_of_entry(entry, provider)));
        }
    }
    models
}

fn facts_of(model: &settings::Model, provider: &Provider, secrets: &Secrets<'_>) -> ModelFacts {
    let known = CATALOG.iter().find(|entry| entry.provider == provider.id && entry.id == model.id);
    let mut headers = Vec::new();
    let mut problem = fetch_headers(&model.headers, secrets, &mut headers).err();
    let api = model.api.as_deref().map(|word| Api::of(word).ok_or_else(|| format!("the API `{word}` is not built")));
    let api = api.unwrap_or(Ok(provider.api)).unwrap_or_else(|why| {
        problem = Some(why);
        provider.api
    });
    ModelFacts {
        name: model.name.clone(),
        api,
        context_window: model.context_window.or(known.map(|entry| entry.context_window)),
        max_tokens: model.max_tokens.or(known.map(|entry| entry.max_tokens)),
        reasoning: model.reasoning || known.is_some_and(|entry| entry.reasoning),
        sees_images: model.input.iter().any(|kind| kind == "image"),
        cost: model.cost.as_ref().map(prices_of).or_else(|| known.and_then(prices_of_entry)),
        is_configured: true,
        problem,
        quirks: compat::overlaid(provider.quirks, &model.compat),
        headers,
    }
}

fn prices_of(cost: &settings::Cost) -> Prices {
    Prices { input: cost.input, output: cost.output, cache_read: cost.cache_read, cache_write: cost.cache_write }
}

/// What the catalogue says; nothing but zeros is how it says that it does not know.
fn prices_of_entry(entry: &catalog::Entry) -> Option<Prices> {
    let [input, output, cache_read, cache_write] = entry.cost;
    entry.cost.iter().any(|price| *price > 0.0).then_some(Prices { input, output, cache_read, cache_write })
}

fn facts_of_entry(entry: &catalog::Entry, provider: &Provider) -> ModelFacts {
    ModelFacts {
        name: entry.name.clone(),
        api: provider.api,
        context_window: Some(entry.context_window),
        max_tokens: Some(entry.max_tokens),
        reasoning: entry.reasoning,
        sees_images: entry.sees_images,
        cost: prices_of_entry(entry),
        is_configured: false,
        problem: None,
        quirks: provider.quirks,
        headers: Vec::new(),
    }
}

/// The roots to trust instead of the bundled ones.
fn roots(secrets: &Secrets<'_>) -> Result<Option<Vec<ureq::tls::Certificate<'static>>>, String> {
    let Some(path) = secrets.variable(ROOTS_VARIABLE) else { return Ok(None) };
    let text = read_bounded(Path::new(&path), ROOTS_BYTES_MAX)?;
    let roots = http::read_roots(text.as_bytes()).map_err(|why| format!("{ROOTS_VARIABLE} {path}: {why}"))?;
    Ok(Some(roots))
}

#[cfg(test)]
mod tests;
