//! The configuration while the daemon runs: looked at every few seconds and on SIGHUP, taken over when it can be used.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::broadcast::{self, For};
use super::effect::{Done, Effect, Job, Origin, Work};
use super::{Fact, Gateway};
use crate::config::changes;
use crate::config::load::Loaded;
use crate::config::settings::agents::SessionScope;
use crate::defender::Rules;
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
        let current = Arc::clone(&self.config);
        let work = Work::Query(Box::new(move |_| {
            let facts = match current.reload() {
                Ok(None) => Vec::new(),
                Ok(Some(loaded)) => vec![Fact::Config(Box::new(loaded))],
                Err(error) => {
                    let why = error.to_string();
                    vec![Fact::ConfigBroken { hash: why.clone(), why }]
                }
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
    pub(super) fn config_broken(&mut self, why: &str, hash: String) {
        if self.reload.complained.as_ref() != Some(&hash) {
            log::error!("configuration not taken over, the previous one stays in force: {why}");
            self.reload.complained = Some(hash);
        }
        self.degraded = Some(format!("configuration not taken over: {why}"));
        self.health_cache = Default::default();
    }

    /// Takes over a document that was checked.
    pub(super) fn take_config(&mut self, now: Now, loaded: Loaded) {
        let rules = match Rules::compile(&loaded.settings.security.rule_inputs()) {
            Ok(rules) => rules,
            Err(error) => return self.config_broken(&error.to_string(), loaded.hash.clone()),
        };
        let paths = changes::changed_paths(&self.config.config, &loaded.config);
        let restart: Vec<&str> = paths.iter().filter(|path| changes::needs_restart(path)).map(String::as_str).collect();
        log::info!("configuration taken over changed={} restart_needed={}", paths.join(","), restart.join(","));
        let secrets_changed = loaded.settings.gateway.auth.differs(&self.config.settings.gateway.auth);
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
        if !paths.is_empty() {
            if let Ok(payload) = Json::of(&json!({ "hash": self.config.hash, "paths": paths, "ts": now.wall_ms })) {
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
            .filter(|(_, ready)| ready.caller.admission.is_shared() || ready.caller.admission == super::clients::Admission::None)
            .map(|(conn, _)| conn)
            .collect();
        for conn in conns {
            self.leave(conn, close::AUTHORITY_GONE, "gateway auth changed");
        }
    }
}

/// The background job that looks at the file.
pub const LOOK: &str = "configuration";
