//! `models.*`, `auth.*`, `keys.*` and `agents.defaults.models`: who may be asked, with which credentials, under which
//! names. What a built-in provider brings itself is not filled in here.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde_json::{Map, Value};

use super::reader::Reader;
use crate::config::secret::Source;

/// Configured providers, in the order they are written, and what concerns all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Models {
    pub providers: Vec<Provider>,
    /// Whether the built-in catalogue is left out.
    pub replaces_catalog: bool,
    /// How long a provider may be silent.
    pub request_timeout: Duration,
    /// `agents.defaults.models`: what people may choose, and under which names.
    pub offered: Vec<Offered>,
    /// `keys.*`: further keys, by the name of their list.
    pub key_lists: Vec<(String, Vec<Source>)>,
    pub auth: Auth,
}

/// One provider; what is not written is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    /// As written.
    pub id: String,
    /// Whether its address is on this host or found by mDNS; `None` where no address is written.
    pub is_local: Option<bool>,
    pub credential: Credential,
    pub base_url: Option<String>,
    /// Which API it speaks.
    pub api: Option<String>,
    pub api_key: Option<Source>,
    /// How requests prove themselves: `api-key`, `aws-sdk`, `oauth`, `token`.
    pub auth_kind: String,
    /// Whether the auth header is sent.
    pub auth_header: bool,
    pub auth_header_name: Option<String>,
    pub auth_header_prefix: Option<String>,
    pub headers: Vec<(String, Source)>,
    pub allow_unauthenticated: Option<bool>,
    pub timeout: Option<Duration>,
    /// Merged into the bodies of requests.
    pub request_defaults: Map<String, Value>,
    pub models: Vec<Model>,
}

/// What requests to a provider can prove themselves with. Never the secret: whoever asks the provider reads that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A key in the document.
    Document,
    /// A key in this environment variable, which is set.
    Variable(String),
    /// None, and none is needed: it is said to take anyone, or it runs on this host.
    NotNeeded,
    /// None, or one that cannot be had here.
    Missing,
}

/// One model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub id: String,
    /// The id where no name is written.
    pub name: String,
    /// The provider's where none is written.
    pub api: Option<String>,
    pub reasoning: bool,
    /// `text`, `image`.
    pub input: Vec<String>,
    /// In dollars for a million tokens; `None`: nothing is written.
    pub cost: Option<Cost>,
    /// In tokens.
    pub context_window: Option<u64>,
    /// Longest answer, in tokens.
    pub max_tokens: Option<u64>,
    pub headers: Vec<(String, Source)>,
    /// What its API leaves out or names differently.
    pub compat: Map<String, Value>,
}

/// Dollars for a million tokens; 0 where a price is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub input: f64,
    pub output: f64,
    pub cache_read: f64,
    pub cache_write: f64,
}

/// A model people may choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    /// As written: `provider/model`.
    pub name: String,
    pub alias: Option<String>,
    /// Fields of its requests.
    pub params: Map<String, Value>,
}

/// Profiles and how long one that failed rests.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    pub profiles: Vec<Profile>,
    /// Profile ids in order of use, by provider.
    pub order: Vec<(String, Vec<String>)>,
    pub cooldowns: Cooldowns,
}

/// What the configuration says of a profile; its secret is kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub id: String,
    pub provider: String,
    /// `api_key`, `oauth`, `token`.
    pub mode: String,
}

/// How long a profile that failed rests.
#[derive(Clone, Debug, PartialEq)]
pub struct Cooldowns {
    /// First and longest rest, where they replace the ladder by doubling.
    pub doubling: Option<(Duration, Duration)>,
    pub billing: Duration,
    pub billing_by_provider: Vec<(String, Duration)>,
    pub billing_max: Duration,
    /// After this long without a failure it counts from the start again.
    pub failure_window: Duration,
}

impl Models {
    pub(super) fn read(root: &Reader<'_>) -> Models {
        let models = root.at("models");
        let mut providers = Vec::new();
        for (id, provider) in models.entries("providers") {
            providers.push(Provider::read(id, &provider));
        }
        Models {
            providers,
            replaces_catalog: models.text_or_default("mode") == "replace",
            request_timeout: models.ms("requestTimeoutMs"),
            offered: root.entries("agents.defaults.models").into_iter().map(Offered::read).collect(),
            key_lists: root.secret_lists("keys"),
            auth: Auth::read(root),
        }
    }

    /// The provider with an id, however it is capitalised.
    pub fn provider(&self, id: &str) -> Option<&Provider> {
        let id = id.trim();
        self.providers.iter().find(|provider| provider.id.eq_ignore_ascii_case(id))
    }
}

impl Provider {
    fn read(id: String, provider: &Reader<'_>) -> Provider {
        let api = provider.text("api");
        if api.as_deref().is_some_and(|api| api.starts_with("website-")) {
            provider.issue("api", "models are asked through their APIs, never through a website".to_owned());
        }
        let base_url = provider.text("baseUrl");
        let is_local = base_url.as_deref().map(is_local);
        let takes_anyone = provider.flag_if_set("allowUnauthenticated");
        let api_key = provider.secret_source("apiKey");
        let credential = match &api_key {
            Some(Source::Written(_) | Source::Referred { .. }) => Credential::Document,
            Some(Source::Variable(name)) if provider.has_variable(name) => Credential::Variable(name.clone()),
            _ if takes_anyone.or(is_local).unwrap_or(false) => Credential::NotNeeded,
            _ => Credential::Missing,
        };
        Provider {
            id,
            is_local,
            credential,
            base_url,
            api,
            api_key,
            auth_kind: provider.text_or_default("auth"),
            auth_header: provider.flag("authHeader"),
            auth_header_name: provider.text("authHeaderName"),
            // The blank at the end of `Bearer ` is part of it.
            auth_header_prefix: provider.text_untrimmed("authHeaderPrefix"),
            headers: provider.secret_sources("headers"),
            allow_unauthenticated: takes_anyone,
            timeout: provider.is_set("timeoutMs").then(|| provider.ms("timeoutMs")),
            request_defaults: provider.object("requestDefaults"),
            models: provider.each("models").iter().filter_map(Model::read).collect(),
        }
    }
}

/// Whether a URL leads to this host, or to a name that mDNS gives out: upstream's meaning of a local model.
fn is_local(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    let host = host.to_ascii_lowercase();
    match (host.parse::<Ipv4Addr>(), host.parse::<Ipv6Addr>()) {
        (Ok(address), _) => address.is_loopback() || address.is_unspecified(),
        (_, Ok(address)) => address.is_loopback() || address.is_unspecified(),
        _ => host == "localhost" || host.ends_with(".local"),
    }
}

impl Model {
    fn read(model: &Reader<'_>) -> Option<Model> {
        let Some(id) = model.text("id") else {
            model.issue("id", "every model needs an id".to_owned());
            return None;
        };
        let tokens = |path| model.int_if_set(path).and_then(|n| u64::try_from(n).ok());
        let price = |path| model.number_if_set(path);
        let prices = ["cost.input", "cost.output", "cost.cacheRead", "cost.cacheWrite"].map(price);
        let [input, output, cache_read, cache_write] = prices.map(Option::unwrap_or_default);
        Some(Model {
            name: model.text("name").unwrap_or_else(|| id.clone()),
            api: model.text("api"),
            reasoning: model.flag("reasoning"),
            input: model.texts("input"),
            cost: prices.iter().any(Option::is_some).then_some(Cost { input, output, cache_read, cache_write }),
            context_window: tokens("contextWindow"),
            max_tokens: tokens("maxTokens"),
            headers: model.secret_sources("headers"),
            compat: model.object("compat"),
            id,
        })
    }
}

impl Offered {
    fn read((name, offered): (String, Reader<'_>)) -> Offered {
        Offered { name, alias: offered.text("alias"), params: offered.object("params") }
    }
}

impl Auth {
    fn read(root: &Reader<'_>) -> Auth {
        let auth = root.at("auth");
        let profile = |(id, profile): (String, Reader<'_>)| {
            let provider = profile.text("provider").or_else(|| Some(id.split_once(':')?.0.to_owned()));
            let Some(provider) = provider else {
                profile.issue("provider", "every profile needs a provider".to_owned());
                return None;
            };
            Some(Profile { provider, mode: profile.text("mode").unwrap_or_else(|| "api_key".to_owned()), id })
        };
        let ids = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Auth {
            profiles: auth.entries("profiles").into_iter().filter_map(profile).collect(),
            order: auth.values("order").iter().map(|(provider, order)| (provider.clone(), ids(order))).collect(),
            cooldowns: Cooldowns::read(&auth.at("cooldowns"), &root.at("general")),
        }
    }
}

impl Cooldowns {
    fn read(cooldowns: &Reader<'_>, general: &Reader<'_>) -> Cooldowns {
        let (base, max) = ("failover_cooldown_base_seconds", "failover_cooldown_max_seconds");
        let is_doubling = general.is_set(base) || general.is_set(max);
        let rests = (general.secs(base), general.secs(max));
        let by_provider = cooldowns.values("billingBackoffHoursByProvider");
        Cooldowns {
            doubling: is_doubling.then_some((rests.0, rests.1.max(rests.0))),
            billing: hours(cooldowns.number("billingBackoffHours")),
            billing_by_provider: by_provider
                .into_iter()
                .filter_map(|(provider, value)| Some((provider, hours(value.as_f64()?))))
                .collect(),
            billing_max: hours(cooldowns.number("billingMaxHours")),
            failure_window: hours(cooldowns.number("failureWindowHours")),
        }
    }
}

fn hours(hours: f64) -> Duration {
    const SECONDS_OF_AN_HOUR: f64 = 3600.0;
    Duration::from_secs_f64(hours.max(0.0) * SECONDS_OF_AN_HOUR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_address_is_this_host_or_an_mdns_name() {
        for url in [
            "http://localhost:11434/v1",
            "http://127.0.0.1:8080",
            "http://127.9.9.9/v1",
            "http://[::1]:8000/v1",
            "http://0.0.0.0:1",
            "https://user:pass@LOCALHOST/v1",
            "http://studio.local:1234/v1",
        ] {
            assert!(is_local(url), "{url}");
        }
        for url in [
            "https://api.example.com/v1",
            "http://localhost.example.com",
            "http://10.0.0.7:8080",
            "http://example.com/localhost",
            "http://localhost@example.com/",
            "http://127.0.0.1.example.com",
            "localhost",
            "",
        ] {
            assert!(!is_local(url), "{url}");
        }
    }
}
