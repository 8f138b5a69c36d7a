//! `models.*`: configured providers and what they offer.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::reader::{Reader, SecretSource};

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
    /// Whether its address is on this host or found by mDNS; `None` where no address is written.
    pub is_local: Option<bool>,
    pub credential: Credential,
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
        let providers = models.entries("providers").into_iter();
        Models { providers: providers.map(|(id, provider)| Provider::read(id, &provider)).collect() }
    }

    /// The provider with an id, however it is capitalised.
    pub fn provider(&self, id: &str) -> Option<&Provider> {
        let id = id.trim();
        self.providers.iter().find(|provider| provider.id.eq_ignore_ascii_case(id))
    }
}

impl Provider {
    fn read(id: String, provider: &Reader<'_>) -> Provider {
        let is_local = provider.text("baseUrl").as_deref().map(is_local);
        let takes_anyone = provider.flag_if_set("allowUnauthenticated");
        let credential = match provider.secret_source("apiKey") {
            Some(SecretSource::Document) => Credential::Document,
            Some(SecretSource::Variable(name)) => Credential::Variable(name),
            None if takes_anyone.or(is_local).unwrap_or(false) => Credential::NotNeeded,
            None => Credential::Missing,
        };
        Provider { id, is_local, credential, models: provider.each("models").iter().filter_map(Model::read).collect() }
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
        Some(Model {
            name: model.text("name").unwrap_or_else(|| id.clone()),
            reasoning: model.flag("reasoning"),
            input: model.texts("input"),
            context_window: tokens("contextWindow"),
            id,
        })
    }
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
