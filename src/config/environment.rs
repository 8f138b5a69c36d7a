//! What stands above the document: the command line, then environment variables.
//!
//! Rows name their variables, strongest first. Only keys that this build reads are overridden. A number or word that
//! does not parse is ignored with a warning, as `config.md` says; a bad word on the command line is an error.

use std::collections::BTreeMap;

use serde_json::Value;

use super::expand::Env;
use super::path::KeyPath;
use super::schema::{self, Kind, Read, Row};
use super::secret::Secret;
use super::{Issue, validate};

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// `--port`; 0 takes any free port.
    pub port: Option<u16>,
    /// `--bind`: a mode of `gateway.bind`, an address, or `address:port`.
    pub bind: Option<String>,
    /// `--auth`.
    pub auth_mode: Option<String>,
    /// `--token`.
    pub token: Option<Secret>,
    /// `--password`.
    pub password: Option<Secret>,
    /// `--audit-only`.
    pub audit_only: bool,
    /// `--log`.
    pub log_level: Option<String>,
}

/// Who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Document,
    Environment,
    CommandLine,
}

/// The document with everything above it laid over.
#[derive(Debug)]
pub struct Layered {
    pub value: Value,
    /// Canonical paths that did not come from the document.
    pub origins: BTreeMap<&'static str, Origin>,
    /// Variables that were ignored.
    pub warnings: Vec<Issue>,
    /// Words on the command line that mean nothing.
    pub issues: Vec<Issue>,
}

/// Lays environment and command line over a canonical, valid document.
pub fn layer(config: &Value, env: &Env, overrides: &Overrides) -> Layered {
    let mut layered =
        Layered { value: config.clone(), origins: BTreeMap::new(), warnings: Vec::new(), issues: Vec::new() };
    for row in schema::all().filter(|row| row.read == Read::Now && !row.path.contains(['*', '['])) {
        let set = row.env.iter().find_map(|name| env.get(*name).map(|value| (*name, value.trim())));
        if let Some((name, value)) = set {
            layered.lay_variable(row, name, value);
        }
    }
    layered.lay_command_line(overrides);
    layered
}

impl Layered {
    fn lay_variable(&mut self, row: &'static Row, name: &str, value: &str) {
        if value.is_empty() {
            // An empty variable says "none" where nothing is a choice; for a secret it is a template left unfilled.
            if !row.secret && row.default.is_empty() {
                KeyPath::dotted(row.path).remove(&mut self.value);
                self.origins.insert(row.path, Origin::Environment);
            }
            return;
        }
        match read(row, value) {
            Ok(value) => self.put(row.path, value, Origin::Environment),
            Err(message) => self.warnings.push(Issue::new(row.path, format!("{name} is ignored: {message}"))),
        }
    }

    fn lay_command_line(&mut self, overrides: &Overrides) {
        let words =
            [("gateway.auth.mode", "--auth", &overrides.auth_mode), ("logging.level", "--log", &overrides.log_level)];
        for (path, flag, word) in words {
            let Some(word) = word else { continue };
            let row = schema::row_at(path).expect("a row of the table");
            let value = Value::String(word.clone());
            match validate::check_kind(&row.kind, &value) {
                Ok(()) => self.put(path, value, Origin::CommandLine),
                Err(message) => self.issues.push(Issue::new(path, format!("{flag} {word}: {message}"))),
            }
        }
        for (path, secret) in [("gateway.auth.token", &overrides.token), ("gateway.auth.password", &overrides.password)]
        {
            if let Some(secret) = secret {
                self.put(path, Value::String(secret.reveal().to_owned()), Origin::CommandLine);
            }
        }
        if overrides.audit_only {
            self.put("runtime.audit_only", Value::Bool(true), Origin::CommandLine);
        }
    }

    fn put(&mut self, path: &'static str, value: Value, origin: Origin) {
        KeyPath::dotted(path).set(&mut self.value, value);
        self.origins.insert(path, origin);
    }

    /// Who set a key; `None`: nobody, so its default holds.
    pub fn origin(&self, path: &str) -> Option<Origin> {
        let in_document = || KeyPath::dotted(path).get(&self.value).map(|_| Origin::Document);
        self.origins.get(path).copied().or_else(in_document)
    }
}

/// A variable's text as a value of the row's kind.
fn read(row: &Row, text: &str) -> Result<Value, String> {
    let value = match row.kind {
        Kind::Bool => Value::Bool(["1", "true", "yes", "on"].contains(&text.to_ascii_lowercase().as_str())),
        Kind::Int { .. } => {
            let number: i64 = text.parse().map_err(|_| "expected a whole number".to_owned())?;
            Value::from(row.env_min.map_or(number, |min| number.max(min)))
        }
        Kind::Number { .. } => Value::from(text.parse::<f64>().map_err(|_| "expected a number".to_owned())?),
        Kind::Texts { .. } | Kind::Regexes | Kind::Ranges | Kind::Ids => {
            Value::Array(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect())
        }
        Kind::Choice(words) => {
            let lower = text.to_ascii_lowercase();
            Value::String(words.iter().find(|word| **word == lower).map_or(text.to_owned(), |word| (*word).to_owned()))
        }
        _ => Value::String(text.to_owned()),
    };
    validate::check_kind(&row.kind, &value)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn layered(config: Value, pairs: &[(&str, &str)], overrides: &Overrides) -> Layered {
        layer(&config, &env(pairs), overrides)
    }

    #[test]
    fn command_line_beats_environment_beats_document() {
        let config = json!({ "gateway": { "auth": { "token": "doc" }, "server": { "tick_interval_ms": 5000 } } });
        let pairs = [
            ("OPENCLAW_GATEWAY_TOKEN", "theirs"),
            ("OPENCLAW_RS_GATEWAY_TOKEN", "ours"),
            ("OPENCLAW_RS_AUDIT_ONLY", "Yes"),
        ];
        let none = Overrides::default();
        let found = layered(config.clone(), &pairs, &none);
        assert_eq!(found.value["gateway"]["auth"]["token"], "ours");
        assert_eq!(found.value["gateway"]["server"]["tick_interval_ms"], 5000);
        assert_eq!(found.value["runtime"]["audit_only"], true);
        assert_eq!(found.origin("gateway.auth.token"), Some(Origin::Environment));
        assert_eq!(found.origin("gateway.server.tick_interval_ms"), Some(Origin::Document));
        assert_eq!(found.origin("gateway.port"), None);
        let flags = Overrides { token: Some(Secret::new("flag")), auth_mode: Some("token".into()), ..none };
        let found = layered(config.clone(), &pairs, &flags);
        assert_eq!(found.value["gateway"]["auth"], json!({ "token": "flag", "mode": "token" }));
        assert_eq!(layered(config, &pairs[..1], &Overrides::default()).value["gateway"]["auth"]["token"], "theirs");
    }

    #[test]
    fn bad_variables_are_ignored_with_a_warning_and_small_ones_raised() {
        let pairs = [
            ("OPENCLAW_GATEWAY_PORT", "many"),
            ("OPENCLAW_RS_GATEWAY_AUTH_MODE", "sometimes"),
            ("OPENCLAW_RS_GATEWAY_HANDSHAKE_TIMEOUT_MS", "3"),
            ("OPENCLAW_RS_LOG", "DEBUG"),
            ("OPENCLAW_RS_MEMORY_SAMPLE_SECS", "100000"),
        ];
        let found = layered(json!({}), &pairs, &Overrides::default());
        assert_eq!(
            found.value,
            json!({ "gateway": { "server": { "handshake_timeout_ms": 500 } }, "logging": { "level": "debug" } })
        );
        let warned: Vec<&str> = found.warnings.iter().map(|warning| warning.path.as_str()).collect();
        assert_eq!(warned, ["gateway.port", "gateway.auth.mode", "runtime.memory_sample_secs"]);
    }

    #[test]
    fn an_empty_variable_clears_an_optional_key_but_never_a_secret() {
        let config =
            json!({ "gateway": { "server": { "http_bind": "127.0.0.1:1" }, "auth": { "token": "t" }, "port": 5 } });
        let pairs =
            [("OPENCLAW_RS_GATEWAY_HTTP_BIND", ""), ("OPENCLAW_RS_GATEWAY_TOKEN", ""), ("OPENCLAW_GATEWAY_PORT", " ")];
        let found = layered(config, &pairs, &Overrides::default());
        assert_eq!(found.value, json!({ "gateway": { "server": {}, "auth": { "token": "t" }, "port": 5 } }));
    }

    #[test]
    fn lists_are_split_at_commas() {
        let found =
            layered(json!({}), &[("OPENCLAW_RS_ALLOWED_COMMAND_PREFIXES", "ls, git ,,")], &Overrides::default());
        assert_eq!(found.value["security"]["allowed_command_prefixes"], json!(["ls", "git"]));
    }

    #[test]
    fn a_bad_word_on_the_command_line_is_an_error() {
        let flags = Overrides { auth_mode: Some("sometimes".into()), ..Overrides::default() };
        let issues = layered(json!({}), &[], &flags).issues;
        assert!(issues[0].message.starts_with("--auth sometimes: Invalid option"), "{issues:?}");
    }
}
