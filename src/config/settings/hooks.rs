//! `hooks.*`: webhooks in.

use super::reader::Reader;
use crate::config::secret::Secret;

/// Webhooks in.
#[derive(Clone, Debug, PartialEq)]
pub struct Hooks {
    pub enabled: bool,
    /// `/path` without a slash at the end; never the root.
    pub path: String,
    /// There whenever `enabled`.
    pub token: Option<Secret>,
    pub max_body_bytes: usize,
    pub default_session_key: Option<String>,
    pub allow_request_session_key: bool,
    /// `None`: any prefix.
    pub allowed_session_key_prefixes: Option<Vec<String>>,
    /// `None`: any agent.
    pub allowed_agent_ids: Option<Vec<String>>,
}

impl Hooks {
    pub(super) fn read(hooks: &Reader<'_>) -> Hooks {
        let path = hooks.text_or_default("path");
        Hooks {
            enabled: hooks.flag("enabled"),
            path: format!("/{}", path.trim_matches('/')),
            token: hooks.secret("token"),
            max_body_bytes: hooks.usize("maxBodyBytes"),
            default_session_key: hooks.text("defaultSessionKey"),
            allow_request_session_key: hooks.flag("allowRequestSessionKey"),
            allowed_session_key_prefixes: hooks.texts_if_set("allowedSessionKeyPrefixes"),
            allowed_agent_ids: hooks.texts_if_set("allowedAgentIds").filter(|ids| !ids.iter().any(|id| id == "*")),
        }
    }
}
