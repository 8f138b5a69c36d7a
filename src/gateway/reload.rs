//! The configuration while the daemon runs: looked at every few seconds and on SIGHUP, taken over when it can be used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::broadcast::{self, For};
use super::effect::{Done, Effect, Job, Origin, Work};
use super::{Fact, Gateway};
use crate::config::ConfigError;
use crate::config::changes;
use crate::config::load::{self, LoadInputs, Loaded};
use crate::config::path::KeyPath;
use crate::config::settings::agents::SessionScope;
use crate::config::settings::gateway::ReloadMode;
use crate::defender::rules::Rules;
use crate::protocol::close;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::session_key::KeyRules;
use crate::runtime::clock::Now;

/// What a client may ask to wait before the configuration is read again, in milliseconds; a longer wait is this one.
pub const ASKED_DELAY_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// What looking at the file needs between two looks.
#[derive(Debug)]
pub struct Reload {
    next_poll: Option<Instant>,
    /// A look is under way; at most one is.
    looking: bool,
    /// The broken document that was already complained about.
    complained: Option<String>,
    /// A changed document that a poll saw; taken over once it has been still for `gateway.reload.debounceMs`.
    settling: Option<String>,
    /// The document that `gateway.reload.mode` keeps for the next start.
    kept_for_restart: Option<String>,
    /// When a look that a client asked for is due.
    asked_for: Option<Instant>,
}

impl Reload {
    /// Starts looking at the interval of `config`.
    pub fn new(config: &Loaded, now: Now) -> Reload {
        let interval = poll_interval(config);
        Reload {
            next_poll: interval.map(|every| now.mono + every),
            looking: false,
            complained: None,
            settling: None,
            kept_for_restart: None,
            asked_for: None,
        }
    }

    /// When to look next; `None` when polling is off and nobody asked.
    pub fn next_poll(&self) -> Option<Instant> {
        self.next_poll.into_iter().chain(self.asked_for).min()
    }

    /// In how many milliseconds the look is due that a client asked for.
    pub fn due_in_ms(&self, now: Now) -> Option<u64> {
        let left = self.asked_for?.saturating_duration_since(now.mono).as_millis();
        Some(u64::try_from(left).unwrap_or(u64::MAX))
    }

    /// Somebody asked for a look after `delay_ms`. The earlier of two stands, as a restart of upstream's would.
    pub fn ask(&mut self, now: Now, delay_ms: u64) {
        let delay = Duration::from_millis(delay_ms.min(ASKED_DELAY_MS_MAX));
        let due = now.mono + delay;
        self.asked_for = Some(self.asked_for.map_or(due, |at| at.min(due)));
    }
}

/// How often the file is looked at; `None`: never, by its interval or by `gateway.reload.mode`.
fn poll_interval(config: &Loaded) -> Option<Duration> {
    let gateway = &config.settings.gateway;
    gateway.server.reload_interval.filter(|_| gateway.reload.mode != ReloadMode::Off)
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
        if self.reload.asked_for.is_some_and(|at| now.mono >= at) {
            self.reload.asked_for = None;
            self.reload_now("a client asked");
        }
        if self.reload.next_poll.is_none_or(|at| now.mono < at) {
            return;
        }
        self.reload.next_poll = poll_interval(&self.config).map(|every| now.mono + every);
        self.look_at_config(false);
    }

    /// Looks at the file now.
    pub(super) fn reload_now(&mut self, why: &str) {
        log::info!("reading the configuration again why={why}");
        self.reload.complained = None;
        self.look_at_config(true);
    }

    /// Looks at the file; what a poll sees must first be still, what somebody asked for is taken over at once.
    fn look_at_config(&mut self, asked: bool) {
        if std::mem::replace(&mut self.reload.looking, true) {
            return;
        }
        let (current, inputs) = (Arc::clone(&self.config), Arc::clone(&self.load_inputs));
        let kept_for_restart = self.reload.kept_for_restart.clone();
        let work = Work::Query(Box::new(move |_| {
            let facts = match read(&inputs) {
                Ok(loaded) if loaded.document.raw == current.document.raw && loaded.settings == current.settings => {
                    Vec::new()
                }
                Ok(loaded) if kept_for_restart.as_ref() == Some(&loaded.document.hash) => Vec::new(),
                Ok(loaded) if asked => vec![Fact::Config(Box::new(loaded))],
                Ok(loaded) => vec![Fact::ConfigSeen(Box::new(loaded))],
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

    /// A poll saw a document that is not the one in force: taken over once two looks saw the same.
    pub(super) fn config_seen(&mut self, now: Now, loaded: Loaded) {
        if self.reload.settling.as_ref() == Some(&loaded.document.hash) {
            return self.take_config(now, loaded);
        }
        self.reload.next_poll = Some(now.mono + self.config.settings.gateway.reload.debounce);
        self.reload.settling = Some(loaded.document.hash);
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
        let mode = self.config.settings.gateway.reload.mode;
        let plan = changes::plan(&found, mode);
        self.reload.settling = None;
        if matches!(mode, ReloadMode::Off | ReloadMode::Restart) && plan.apply.is_empty() {
            log::info!("configuration changed and kept for the next start");
            self.reload.kept_for_restart = Some(loaded.document.hash);
            return;
        }
        let names = |paths: &[KeyPath]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (applied, restart) = (names(&plan.apply), names(&plan.restart));
        log::info!("configuration read again applied={} restart_needed={}", applied.join(","), restart.join(","));
        let (old, new) = (&self.config.settings.gateway.auth, &loaded.settings.gateway.auth);
        let secrets_changed = old.mode != new.mode || old.token != new.token || old.password != new.password;
        self.config = Arc::new(loaded);
        self.reload.kept_for_restart = None;
        self.keys = Arc::new(key_rules(&self.config));
        self.rules = Arc::new(rules);
        self.runs.reconfigure(&self.config, &self.load_inputs);
        self.reload.complained = None;
        self.reload.next_poll = poll_interval(&self.config).map(|every| now.mono + every);
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
            // Models, agents and their commands are read from there.
            if let Ok(nothing) = Json::of(&json!({})) {
                self.broadcast(&broadcast::CHAT_METADATA_CHANGED, For::All, &nothing);
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
