//! The configuration while the daemon runs: looked at every few seconds and on SIGHUP, taken over when it can be used.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::broadcast::{self, For};
use super::effect::{Done, Effect, Job, Origin, Work};
use super::{Fact, Gateway};
use crate::config::ConfigError;
use crate::config::changes;
use crate::config::load::{self, LoadInputs, Loaded};
use crate::config::path::KeyPath;
use crate::config::settings::agents::SessionScope;
use crate::defender::rules::Rules;
use crate::protocol::close;
use crate::protocol::frame::Json;
use crate::protocol::session_key::KeyRules;
use crate::runtime::clock::Now;

/// What looking at the file needs between two looks.
#[derive(Debug)]
pub struct Reload {
    next_poll: Option<Instant>,
    /// A look is under way; at most one is.
    looking: bool,
    /// The broken document that was already complained about.
    complained: Option<String>,
}

impl Reload {
    /// Starts looking at the interval of `config`.
    pub fn new(config: &Loaded, now: Now) -> Reload {
        let interval = config.settings.gateway.server.reload_interval;
        Reload { next_poll: interval.map(|every| now.mono + every), looking: false, complained: None }
    }

    /// When to look next; `None` when polling is off.
    pub fn next_poll(&self) -> Option<Instant> {
        self.next_poll
    }
}

/// Reads the configuration again, secrets included.
///
/// # Errors
/// Why it cannot be used.
pub fn read(inputs: &LoadInputs) -> Result<Loaded, ConfigError> {
    let mut loaded = load::load(inputs)?;
    load::ensure_token(&mut loaded)?;
    Ok(loaded)
}

/// How short names of sessions are read under `config`.
pub fn key_rules(config: &Loaded) -> KeyRules {
    KeyRules {
        default_agent: config.settings.agents.default_id.clone(),
        main_key: config.settings.session.main_key.clone(),
        global: config.settings.session.scope == SessionScope::Global,
    }
}

impl Gateway {
    pub(super) fn poll_config(&mut self, now: Now) {
        if self.reload.next_poll.is_none_or(|at| now.mono < at) {
            return;
        }
        let interval = self.config.settings.gateway.server.reload_interval;
        self.reload.next_poll = interval.map(|every| now.mono + every);
        self.look_at_config();
    }

    /// Looks at the file now.
    pub(super) fn reload_now(&mut self, why: &str) {
        log::info!("reading the configuration again why={why}");
        self.reload.complained = None;
        self.look_at_config();
    }

    fn look_at_config(&mut self) {
        if std::mem::replace(&mut self.reload.looking, true) {
            return;
        }
        let (current, inputs) = (Arc::clone(&self.config), Arc::clone(&self.load_inputs));
        let work = Work::Query(Box::new(move |_| {
            let facts = match read(&inputs) {
                Ok(loaded) if loaded.document.raw == current.document.raw && loaded.settings == current.settings => {
                    Vec::new()
                }
                Ok(loaded) => vec![Fact::Config(Box::new(loaded))],
                Err(error) => vec![Fact::ConfigBroken { why: explain(&error) }],
            };
            Ok(Done { answer: None, facts })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Housekeeping(LOOK), work }));
    }

    /// A look is over, whatever it found.
    pub(super) fn looked_at_config(&mut self) {
        self.reload.looking = false;
    }

    /// The document on disk cannot be used: it is said once, and what was in force stays.
    pub(super) fn config_broken(&mut self, why: &str) {
        if self.reload.complained.as_deref() != Some(why) {
            log::error!("configuration not taken over, the previous one stays in force: {why}");
            self.reload.complained = Some(why.to_owned());
        }
        self.degraded = Some(format!("configuration not taken over: {why}"));
        self.health_cache = Default::default();
    }

    /// Takes over a document that was checked.
    pub(super) fn take_config(&mut self, now: Now, loaded: Loaded) {
        let rules = match Rules::compile(&crate::intake::judge::rule_inputs(&loaded.settings)) {
            Ok(rules) => rules,
            Err(error) => return self.config_broken(&error.to_string()),
        };
        let found = changes::between(&self.config.document.config, &loaded.document.config);
        let plan = changes::plan(&found, self.config.settings.gateway.reload.mode);
        let names = |paths: &[KeyPath]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (applied, restart) = (names(&plan.apply), names(&plan.restart));
        log::info!("configuration read again applied={} restart_needed={}", applied.join(","), restart.join(","));
        let (old, new) = (&self.config.settings.gateway.auth, &loaded.settings.gateway.auth);
        let secrets_changed = old.mode != new.mode || old.token != new.token || old.password != new.password;
        let interval = loaded.settings.gateway.server.reload_interval;
        self.config = Arc::new(loaded);
        self.keys = Arc::new(key_rules(&self.config));
        self.rules = Arc::new(rules);
        self.reload.complained = None;
        self.reload.next_poll = interval.map(|every| now.mono + every);
        self.next_tick = self.next_tick.min(now.mono + self.config.settings.gateway.server.tick_interval);
        self.degraded = None;
        self.effects.push_back(Effect::Reconfigured);
        if secrets_changed {
            self.close_shared();
        }
        if !found.is_empty() {
            let hash = &self.config.document.hash;
            if let Ok(payload) = Json::of(&json!({ "hash": hash, "paths": applied, "ts": now.wall_ms })) {
                self.broadcast(&broadcast::CONFIG_CHANGED, For::All, &payload);
            }
        }
        self.refresh_health(now);
    }

    /// Closes every connection that the old shared secret admitted.
    fn close_shared(&mut self) {
        let conns: Vec<_> = self
            .clients
            .all_ready()
            .filter(|(_, ready)| {
                ready.caller.admission.is_shared() || ready.caller.admission == super::clients::Admission::None
            })
            .map(|(conn, _)| conn)
            .collect();
        for conn in conns {
            self.leave(conn, close::AUTHORITY_GONE, "gateway auth changed");
        }
    }
}

/// An error with all that is behind it, on one line.
fn explain(error: &ConfigError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    if let ConfigError::Invalid { issues, .. } = error {
        for issue in issues {
            text.push_str(&format!("; {issue}"));
        }
    }
    text
}

/// The background job that looks at the file.
pub const LOOK: &str = "configuration";
