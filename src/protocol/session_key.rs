//! Session keys: `global`, `unknown`, or `agent:AGENT:REST`.

use std::fmt;

/// Longest session key in bytes.
pub const SESSION_KEY_BYTES_MAX: usize = 512;
/// Longest agent id in characters.
pub const AGENT_ID_CHARS_MAX: usize = 64;
/// The agent that is there when none is configured.
pub const DEFAULT_AGENT: &str = "main";

/// What turns the short names clients use into whole keys: the configured default agent and main key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRules {
    /// Agent a key without one belongs to.
    pub default_agent: String,
    /// The name of each agent's main session, `main` unless configured.
    pub main_key: String,
    /// Whether every conversation folds into `global` (`session.scope: "global"`).
    pub global: bool,
}

impl Default for KeyRules {
    fn default() -> KeyRules {
        KeyRules { default_agent: DEFAULT_AGENT.to_owned(), main_key: "main".to_owned(), global: false }
    }
}

impl KeyRules {
    /// What the meaning of a key depends on, in one word: clients send it back to say which meaning they know.
    pub fn contract(&self) -> String {
        format!("{}|{}|{}", self.scope(), self.main_key, self.default_agent)
    }

    /// `session.scope`.
    pub fn scope(&self) -> &'static str {
        if self.global { "global" } else { "per-sender" }
    }

    /// The default agent's main session.
    pub fn main(&self) -> SessionKey {
        self.main_of(&self.default_agent)
    }

    /// An agent's main session.
    pub fn main_of(&self, agent: &str) -> SessionKey {
        if self.global {
            return SessionKey("global".to_owned());
        }
        SessionKey(format!("agent:{}:{}", agent_id(agent), self.main_key))
    }
}

/// A session's whole name, normalised.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(String);

/// Why a text is not a session key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Begins with `agent:` and lacks a part.
    #[error("malformed session key")]
    Malformed,
    /// Longer than [`SESSION_KEY_BYTES_MAX`].
    #[error("session key longer than {SESSION_KEY_BYTES_MAX} bytes")]
    TooLong,
    /// Holds a control character.
    #[error("session key with a control character")]
    Control,
}

impl SessionKey {
    /// The whole key a client means by `text`.
    ///
    /// Trims; empty, `main` and the main key alone are the default agent's main session; `global` and `unknown` stay;
    /// what does not begin with `agent:` belongs to the default agent. Lower-cased, except where the service's own ids
    /// carry meaning in their case (Signal groups, Matrix rooms).
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str, rules: &KeyRules) -> Result<SessionKey, KeyError> {
        let text = text.trim();
        if text.len() > SESSION_KEY_BYTES_MAX {
            return Err(KeyError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(KeyError::Control);
        }
        let lower = text.to_lowercase();
        if lower.is_empty() || lower == "main" || lower == rules.main_key {
            return Ok(rules.main());
        }
        if lower == "global" || lower == "unknown" {
            return Ok(SessionKey(lower));
        }
        let Some(tail) = text.get(6..).filter(|_| lower.starts_with("agent:")) else {
            return Ok(SessionKey(format!("agent:{}:{}", agent_id(&rules.default_agent), fold(text))));
        };
        let (agent, rest) = tail.split_once(':').ok_or(KeyError::Malformed)?;
        let rest = rest.trim_matches(':');
        if agent.trim().is_empty() || rest.is_empty() {
            return Err(KeyError::Malformed);
        }
        if rest.eq_ignore_ascii_case("main") {
            return Ok(rules.main_of(agent));
        }
        Ok(SessionKey(format!("agent:{}:{}", agent_id(agent), fold(rest))))
    }

    /// A key read back from the store, where only whole keys are written.
    pub fn stored(text: String) -> SessionKey {
        SessionKey(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The agent it belongs to; `None` for `global` and `unknown`.
    pub fn agent(&self) -> Option<&str> {
        self.0.strip_prefix("agent:")?.split(':').next()
    }

    /// What follows the agent.
    pub fn rest(&self) -> &str {
        match self.0.strip_prefix("agent:").and_then(|tail| tail.split_once(':')) {
            Some((_, rest)) => rest,
            None => &self.0,
        }
    }

    /// Whether this is the main session of its agent.
    pub fn is_main(&self, rules: &KeyRules) -> bool {
        self.0 == "global" && rules.global || self.rest() == rules.main_key && self.agent().is_some()
    }

    /// The kind a session row shows.
    pub fn kind(&self) -> &'static str {
        if self.0 == "global" || self.0 == "unknown" {
            return if self.0 == "global" { "global" } else { "unknown" };
        }
        let mut parts = self.rest().split(':');
        if parts.any(|part| part == "group" || part == "channel") { "group" } else { "direct" }
    }

    /// The channel in a key like `agent:ID:CHANNEL:group:…` or `agent:ID:CHANNEL:[ACCOUNT:]direct:PEER`.
    pub fn channel(&self) -> Option<&str> {
        let parts: Vec<&str> = self.rest().split(':').collect();
        let marked = |idx: usize| matches!(parts.get(idx), Some(&("group" | "channel" | "direct" | "dm" | "slash")));
        (parts.len() >= 3 && (marked(1) || marked(2)) && !marked(0)).then(|| parts[0])
    }
}

/// Lower case, except the ids of services whose case matters.
fn fold(rest: &str) -> String {
    let lower = rest.to_lowercase();
    let keeps = ["signal:group:", "matrix:channel:", "matrix:group:"];
    match keeps.iter().find(|prefix| lower.starts_with(*prefix)) {
        // Lower-casing ASCII prefixes does not move their end.
        Some(prefix) => format!("{prefix}{}", &rest[prefix.len()..]),
        None => lower.split(':').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(":"),
    }
}

/// `text` as an agent id: lower case, `[a-z0-9_-]`, at most 64 characters; empty means the default agent.
pub fn agent_id(text: &str) -> String {
    let mapped: String = text
        .trim()
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' })
        .take(AGENT_ID_CHARS_MAX)
        .collect();
    let trimmed = mapped.trim_matches('-');
    if trimmed.is_empty() { DEFAULT_AGENT.to_owned() } else { trimmed.to_owned() }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, KeyError>) {
        let got = SessionKey::parse(text, &KeyRules::default());
        assert_eq!(got.as_ref().map(SessionKey::as_str), expected.as_ref().copied(), "{text}");
    }

    #[test]
    fn short_names_become_whole_keys() {
        check("", Ok("agent:main:main"));
        check(" Main ", Ok("agent:main:main"));
        check("global", Ok("global"));
        check("Telegram:Group:-100", Ok("agent:main:telegram:group:-100"));
        check("agent:Work Bot:main", Ok("agent:work-bot:main"));
        check("agent:ops:telegram:direct:42", Ok("agent:ops:telegram:direct:42"));
        check("agent:main:signal:group:AbC=", Ok("agent:main:signal:group:AbC="));
    }

    #[test]
    fn malformed_keys_are_errors_not_guesses() {
        check("agent:", Err(KeyError::Malformed));
        check("agent:x", Err(KeyError::Malformed));
        check("agent::rest", Err(KeyError::Malformed));
        check("agent:x::", Err(KeyError::Malformed));
        check("a\nb", Err(KeyError::Control));
        check(&"k".repeat(SESSION_KEY_BYTES_MAX + 1), Err(KeyError::TooLong));
        assert!(SessionKey::parse(&"k".repeat(SESSION_KEY_BYTES_MAX), &KeyRules::default()).is_ok());
    }

    #[test]
    fn a_key_knows_its_kind_and_channel() {
        let key = |text: &str| SessionKey::parse(text, &KeyRules::default()).unwrap();
        assert_eq!(key("agent:a:slack:channel:c1").kind(), "group");
        assert_eq!(key("agent:a:slack:channel:c1").channel(), Some("slack"));
        assert_eq!(key("agent:a:telegram:acct:direct:7").channel(), Some("telegram"));
        assert_eq!(key("main").channel(), None);
        assert_eq!(key("main").kind(), "direct");
        assert!(key("main").is_main(&KeyRules::default()));
    }

    #[test]
    fn reading_a_key_back_changes_nothing() {
        for text in ["main", "x:y", "agent:q:w:e", "agent:main:signal:group:AbC="] {
            let once = SessionKey::parse(text, &KeyRules::default()).unwrap();
            assert_eq!(SessionKey::parse(once.as_str(), &KeyRules::default()).unwrap(), once);
        }
    }
}
