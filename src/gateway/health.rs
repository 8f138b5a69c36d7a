//! The health snapshot: what `health` answers and the `health` event carries.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Gateway;
use super::broadcast::{self, For};
use super::stability::{Details, Kind};
use crate::protocol::frame::{Json, StateVersion};
use crate::protocol::json::json;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::metrics::{DEFEND_DEPTH, QUERY_DEPTH, REPORT_DEPTH, STORE_DEPTH};

/// Sessions named as recent.
pub const RECENT_SESSIONS: usize = 5;
/// How often the snapshot is made anew and broadcast, in milliseconds.
pub const REFRESH_MS: i64 = 60_000;

/// What an agent is told at a heartbeat when nothing else is configured.
const HEARTBEAT_PROMPT: &str = "Read HEARTBEAT.md in the workspace, if there is one, and act on it. \
                                If nothing needs attention, answer HEARTBEAT_OK.";

/// What the loop knows of the sessions without asking the store.
#[derive(Clone, Debug, Default)]
pub struct SessionSummary {
    by_agent: BTreeMap<String, AgentSummary>,
}

#[derive(Clone, Debug, Default)]
struct AgentSummary {
    count: u64,
    /// Newest first, at most [`RECENT_SESSIONS`].
    recent: Vec<(String, i64)>,
}

impl SessionSummary {
    /// Sets what the store counted for an agent.
    pub fn set(&mut self, agent: &str, count: u64, mut recent: Vec<(String, i64)>) {
        recent.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        recent.truncate(RECENT_SESSIONS);
        self.by_agent.insert(agent.to_owned(), AgentSummary { count, recent });
    }

    /// A session was written.
    pub fn touched(&mut self, agent: &str, key: &str, updated_at: i64, is_new: bool) {
        let summary = self.by_agent.entry(agent.to_owned()).or_default();
        summary.count += u64::from(is_new);
        summary.recent.retain(|(known, _)| known != key);
        summary.recent.push((key.to_owned(), updated_at));
        summary.recent.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        summary.recent.truncate(RECENT_SESSIONS);
    }

    /// A session was deleted.
    pub fn removed(&mut self, agent: &str, key: &str) {
        if let Some(summary) = self.by_agent.get_mut(agent) {
            summary.count = summary.count.saturating_sub(1);
            summary.recent.retain(|(known, _)| known != key);
        }
    }

    /// All sessions.
    pub fn total(&self) -> u64 {
        self.by_agent.values().map(|summary| summary.count).sum()
    }

    fn of_agent(&self, agent: &str, path: &str, now_ms: i64) -> Value {
        let none = AgentSummary::default();
        let summary = self.by_agent.get(agent).unwrap_or(&none);
        json!({ "path": path, "count": summary.count, "recent": recent(&summary.recent, now_ms) })
    }
}

fn recent(list: &[(String, i64)], now_ms: i64) -> Vec<Value> {
    list.iter().map(|(key, at)| json!({ "key": key, "updatedAt": at, "age": (now_ms - at).max(0) })).collect()
}

/// How far the preparing of models at the start has come: nothing is prepared, so no agent waits for it.
pub(super) fn model_runtime() -> Value {
    json!({ "degraded": false, "pendingAgents": [] })
}

/// What an agent does between messages.
#[derive(Clone, Debug)]
pub struct HeartbeatRule {
    /// Whether it does anything.
    pub enabled: bool,
    /// How often, as written.
    pub every: String,
    /// How often, in milliseconds.
    pub every_ms: i64,
}

impl Gateway {
    /// The rule of `agents.defaults.heartbeat`; 30 minutes when nothing is said, and off when it says `0m`.
    pub(super) fn heartbeat_rule(&self) -> HeartbeatRule {
        let heartbeat = &self.config.settings.agents.defaults.heartbeat;
        let every_ms = heartbeat.every.map_or(0, |every| every.as_millis() as i64);
        let every = if every_ms > 0 { heartbeat.every_text.clone() } else { "disabled".to_owned() };
        HeartbeatRule { enabled: self.heartbeats_enabled && every_ms > 0, every, every_ms }
    }

    /// The snapshot, as `protocol` has it.
    pub(super) fn health_value(&self, now: Now, protocol: Protocol) -> Value {
        let settings = &self.config.settings;
        let rule = self.heartbeat_rule();
        let heartbeat = &settings.agents.defaults.heartbeat;
        let default_agent = self.keys.default_agent.clone();
        let path = self.store_path();
        let target = if protocol == Protocol::V3 { "last" } else { "owner" };
        let agents: Vec<Value> = settings
            .agents
            .list
            .iter()
            .map(|agent| {
                let is_default = agent.id == default_agent;
                json!({
                    "agentId": agent.id,
                    "isDefault": is_default,
                    "heartbeat": {
                        "enabled": rule.enabled && is_default,
                        "every": if is_default { rule.every.as_str() } else { "disabled" },
                        "everyMs": if is_default { json!(rule.every_ms) } else { Value::Null },
                        "prompt": heartbeat.prompt.as_deref().unwrap_or(HEARTBEAT_PROMPT),
                        "target": target,
                        "ackMaxChars": heartbeat.ack_max_chars,
                    },
                    "sessions": self.sessions.of_agent(&agent.id, &path, now.wall_ms),
                })
            })
            .collect();
        let mut out = json!({
            "ok": self.degraded.is_none(),
            "ts": self.health_made_at_ms,
            "durationMs": 0,
            "channels": {},
            "channelOrder": [],
            "channelLabels": {},
            "heartbeatSeconds": rule.every_ms / 1000,
            "defaultAgentId": default_agent,
            "agents": agents,
            "sessions": self.sessions.of_agent(&default_agent, &path, now.wall_ms),
        });
        if let Some(why) = &self.degraded {
            out["degraded"] = json!(why);
        }
        if let (Some(phase), Some(held)) = (self.suspension_phase(), &self.suspension) {
            out["suspension"] = json!({ "status": phase, "expiresAtMs": held.expires_at_ms });
        }
        if protocol == Protocol::V4 {
            let polling = settings.gateway.server.reload_interval.is_some();
            out["plugins"] = json!({ "loaded": ["defender"], "errors": [], "unavailable": [] });
            out["modelRuntime"] = model_runtime();
            out["configReload"] = json!({ "hotReloadStatus": if polling { "active" } else { "disabled" } });
        }
        out
    }

    /// The versions of the two snapshots.
    pub(super) fn state_version(&self) -> StateVersion {
        StateVersion { presence: self.presence.version(), health: self.health_version }
    }

    /// Makes the snapshot anew and tells everybody.
    pub(super) fn refresh_health(&mut self, now: Now) {
        self.health_version += 1;
        let counts = self.under_way();
        let waiting_jobs = QUERY_DEPTH.value() + DEFEND_DEPTH.value() + STORE_DEPTH.value();
        let count = |n: i64| Some(usize::try_from(n).unwrap_or(0));
        self.note(
            Kind::Heartbeat,
            Details {
                active: Some(counts.total()),
                waiting: count(REPORT_DEPTH.value()),
                queued: count(waiting_jobs),
                ..Details::default()
            },
        );
        self.health_made_at_ms = now.wall_ms;
        self.health_cache = Default::default();
        let version = Some(self.state_version());
        // Both protocols' clients take more fields than they know; the newer shape serves both.
        let value = self.health_value(now, Protocol::V4);
        if let Ok(payload) = Json::of(&value) {
            self.broadcast_versioned(&broadcast::HEALTH, For::All, &payload, version);
        }
    }

    /// `health` as text, made once a snapshot and protocol.
    pub(super) fn health_json(&mut self, now: Now, protocol: Protocol) -> Json {
        let slot = usize::from(protocol == Protocol::V4);
        // How far a suspension is changes with each job that ends: what shows it is made anew.
        if let Some(cached) = self.health_cache[slot].as_ref().filter(|_| self.suspension.is_none()) {
            return cached.clone();
        }
        let json = Json::of(&self.health_value(now, protocol)).unwrap_or(Json(b"{\"ok\":false}".to_vec()));
        self.health_cache[slot] = Some(json.clone());
        json
    }
}
