//! `tools.web.*`: looking at the web.

use std::time::Duration;

use super::reader::Reader;
use crate::config::secret::Secret;

/// Looking at the web.
#[derive(Clone, Debug, PartialEq)]
pub struct Web {
    pub fetch: Fetch,
    pub search: Search,
}

/// Getting pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub enabled: bool,
    /// Characters of a page that are given unless the call asks for fewer or more, and the most that it may ask for.
    pub chars: usize,
    pub chars_max: usize,
    /// Bytes of a page that are read.
    pub bytes_max: usize,
    pub timeout: Duration,
    pub redirects_max: u32,
    /// How it calls itself; `None`: by its own name.
    pub user_agent: Option<String>,
    /// Whether addresses of this machine and its network may be reached.
    pub reaches_private: bool,
    /// Hosts that may have such addresses all the same, in lower case.
    pub private_hosts: Vec<String>,
    /// Hosts that may be reached at all, in lower case, `*.` for all below; `None`: any.
    pub hosts: Option<Vec<String>>,
}

/// Asking a search service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    pub enabled: bool,
    /// Who is asked; `None`: the first that there is a key for.
    pub provider: Option<Service>,
    pub results_max: usize,
    pub timeout: Duration,
    brave: Account,
    perplexity: Account,
    grok: Account,
    /// Whether Grok's marks for its sources stay in the text.
    pub keeps_citations: bool,
}

/// Search services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Brave,
    Perplexity,
    Grok,
}

/// How a search service is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub key: Option<Secret>,
    /// Without a slash at the end.
    pub base_url: String,
    /// Empty: it has none.
    pub model: String,
}

impl Service {
    /// All, in the order in which one with a key is looked for.
    pub const ALL: [Service; 3] = [Service::Brave, Service::Perplexity, Service::Grok];

    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Service::Brave => "brave",
            Service::Perplexity => "perplexity",
            Service::Grok => "grok",
        }
    }
}

impl Search {
    /// Who is asked, and with what; `None`: nobody can be.
    pub fn service(&self) -> Option<(Service, &Account, &Secret)> {
        let account = |service| match service {
            Service::Brave => &self.brave,
            Service::Perplexity => &self.perplexity,
            Service::Grok => &self.grok,
        };
        let with_key = |service| account(service).key.as_ref().map(|key| (service, account(service), key));
        match self.provider {
            _ if !self.enabled => None,
            Some(service) => with_key(service),
            None => Service::ALL.into_iter().find_map(with_key),
        }
    }
}

impl Web {
    pub(super) fn read(web: &Reader<'_>) -> Web {
        let (fetch, search) = (web.at("fetch"), web.at("search"));
        let lower = |texts: Vec<String>| texts.into_iter().map(|text| text.trim().to_ascii_lowercase()).collect();
        let policy = fetch.at("ssrfPolicy");
        let account = |name: &str, own: Option<Secret>| {
            let at = search.at(name);
            let base_url = at.text_or_default("baseUrl").trim_end_matches('/').to_owned();
            let model = if name == "brave" { String::new() } else { at.text_or_default("model") };
            Account { key: own, base_url, model }
        };
        Web {
            fetch: Fetch {
                enabled: fetch.flag("enabled"),
                chars: fetch.usize("maxChars"),
                chars_max: fetch.usize("maxCharsCap"),
                bytes_max: fetch.usize("maxResponseBytes"),
                timeout: fetch.secs("timeoutSeconds"),
                redirects_max: fetch.int("maxRedirects") as u32,
                user_agent: fetch.text("userAgent"),
                reaches_private: policy.flag("allowPrivateNetwork"),
                private_hosts: lower(policy.texts("allowedHostnames")),
                hosts: policy
                    .texts_if_set("hostnameAllowlist")
                    .map(lower)
                    .filter(|hosts: &Vec<String>| !hosts.is_empty()),
            },
            search: Search {
                enabled: search.flag("enabled"),
                provider: search
                    .text("provider")
                    .and_then(|name| Service::ALL.into_iter().find(|s| s.as_str() == name)),
                results_max: search.usize("maxResults"),
                timeout: search.secs("timeoutSeconds"),
                brave: account("brave", search.secret("apiKey")),
                perplexity: account("perplexity", search.secret("perplexity.apiKey")),
                grok: account("grok", search.secret("grok.apiKey")),
                keeps_citations: search.flag("grok.inlineCitations"),
            },
        }
    }
}
