//! The gateway itself: presence, system events, heartbeats, wake, what machine this is.

use serde::Serialize;
use serde_json::{Value, json};

use crate::gateway::broadcast::{self, For};
use crate::gateway::presence::Entry;
use crate::gateway::records::{self, SYSTEM_EVENTS_MAX, meta};
use crate::gateway::table::{Call, QueryCx, StoreCx, need};
use crate::gateway::{Done, Effect, Fact, Gateway, Job, Origin, Work};
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::params::{Loose, NonEmpty};
use crate::protocol::version::Protocol;
use crate::runtime::host;
use crate::store::StoreError;

crate::methods! {
    "system-presence",         Both,  need::READ,  need::READ,  Loop  presence;
    "system-event",            Both,  need::ADMIN, need::ADMIN, Flow  event;
    "wake",                    Both,  need::WRITE, need::WRITE, Flow  wake;
    "last-heartbeat",          Both,  need::READ,  need::READ,  Loop  last_heartbeat;
    "set-heartbeats",          Both,  need::ADMIN, need::ADMIN, Store set_heartbeats;
    "system.info",             V4,    need::READ,  need::READ,  Query info;
    "update.status",           V4,    need::ADMIN, need::ADMIN, Loop  update_status;
    "gateway.restart.preflight", V4,  need::READ,  need::READ,  Loop  restart_preflight;
    "gateway.identity.get",    V4,    need::READ,  need::READ,  Loop  identity;
    "diagnostics.lanes",       V4,    need::READ,  need::READ,  Loop  lanes;
    "secrets.reload",          V4,    need::ADMIN, need::ADMIN, QueryFacts reload_secrets;
}

fn presence(gateway: &mut Gateway, _call: &Call, _params: Loose) -> Result<Vec<Entry>, RpcError> {
    Ok(gateway.presence.entries().into_iter().cloned().collect())
}

/// Answers `{"ok":true}`, once what it promises is on disk.
#[derive(Serialize)]
struct Ok3 {
    ok: bool,
}

fn event(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<(), RpcError> {
    let fields = match call.protocol() {
        Protocol::V3 => EventFields::read_loosely(&params.0)?,
        Protocol::V4 => {
            let raw = Value::Object(params.0).to_string();
            let strict: StrictEvent = crate::protocol::params::decode("system-event", Some(&raw), Protocol::V4)?;
            strict.into()
        }
    };
    let text = fields.text.clone();
    gateway.enter_system_event(fields, call.now_ms);
    gateway.queue_system_event(text, call)
}

/// What a `system-event` says.
#[derive(Debug, Default)]
pub struct EventFields {
    /// The text.
    pub text: String,
    /// Presence fields, by their wire names.
    pub entry: Entry,
}

crate::params! {
    /// The parameters as protocol 4 checks them.
    pub struct StrictEvent {
        text: NonEmpty = "text",
        device_id: Option<String> = "deviceId",
        instance_id: Option<String> = "instanceId",
        host: Option<String> = "host",
        ip: Option<String> = "ip",
        mode: Option<String> = "mode",
        version: Option<String> = "version",
        platform: Option<String> = "platform",
        device_family: Option<String> = "deviceFamily",
        model_identifier: Option<String> = "modelIdentifier",
        last_input_seconds: Option<crate::protocol::params::Count> = "lastInputSeconds",
        reason: Option<String> = "reason",
        roles: Option<Vec<String>> = "roles",
        scopes: Option<Vec<String>> = "scopes",
        tags: Option<Vec<String>> = "tags",
    }
}

impl From<StrictEvent> for EventFields {
    fn from(event: StrictEvent) -> EventFields {
        EventFields {
            text: event.text.0.trim().to_owned(),
            entry: Entry {
                device_id: event.device_id,
                instance_id: event.instance_id,
                host: event.host,
                ip: event.ip,
                mode: event.mode,
                version: event.version,
                platform: event.platform,
                device_family: event.device_family,
                model_identifier: event.model_identifier,
                last_input_seconds: event.last_input_seconds.map(|seconds| seconds.0),
                reason: event.reason,
                roles: event.roles.unwrap_or_default(),
                scopes: event.scopes.unwrap_or_default(),
                tags: event.tags.unwrap_or_default(),
                ..Entry::default()
            },
        }
    }
}

impl EventFields {
    /// As protocol 3 reads them: whatever has the right type counts, the rest is ignored.
    fn read_loosely(params: &serde_json::Map<String, Value>) -> Result<EventFields, RpcError> {
        let text = |name: &str| params.get(name).and_then(Value::as_str).map(str::to_owned);
        let list = |name: &str| -> Vec<String> {
            let items = params.get(name).and_then(Value::as_array);
            items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let said = text("text").map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        Ok(EventFields {
            text: said.ok_or_else(|| RpcError::invalid("text required"))?,
            entry: Entry {
                device_id: text("deviceId"),
                instance_id: text("instanceId"),
                host: text("host"),
                ip: text("ip"),
                mode: text("mode"),
                version: text("version"),
                platform: text("platform"),
                device_family: text("deviceFamily"),
                model_identifier: text("modelIdentifier"),
                last_input_seconds: params.get("lastInputSeconds").and_then(Value::as_i64).filter(|s| *s >= 0),
                reason: text("reason"),
                roles: list("roles"),
                scopes: list("scopes"),
                tags: list("tags"),
                ..Entry::default()
            },
        })
    }
}

crate::words! {
    /// When a wake takes effect.
    pub enum WakeMode {
        /// At once.
        Now = "now",
        /// With the next heartbeat.
        NextHeartbeat = "next-heartbeat",
    }
}

crate::params! {
    /// What to wake the agent with.
    pub struct WakeParams {
        mode: WakeMode = "mode",
        text: NonEmpty = "text",
        @v4 {
            session_key: Option<NonEmpty> = "sessionKey",
            agent_id: Option<NonEmpty> = "agentId",
        }
    }
}

fn wake(gateway: &mut Gateway, call: &Call, params: WakeParams) -> Result<(), RpcError> {
    let text = params.text.0.trim().to_owned();
    if params.mode == WakeMode::Now {
        gateway.run_heartbeat(call.now_ms);
    }
    gateway.queue_system_event(text, call)
}

fn identity(gateway: &mut Gateway, _call: &Call, _params: Loose) -> Result<Value, RpcError> {
    let (device_id, public_key) = gateway.token_key.gateway_identity();
    Ok(json!({ "deviceId": device_id, "publicKey": public_key }))
}

/// What waits and what is worked on. The store is not among the lanes: it takes all that waits in one transaction.
fn lanes(gateway: &mut Gateway, call: &Call, _params: Loose) -> Result<Value, RpcError> {
    use crate::gateway::Lane;
    use crate::runtime::metrics::{DEFEND_ACTIVE, DEFEND_DEPTH, QUERY_ACTIVE, QUERY_DEPTH};
    let lane = |name: &str, queued: i64, active: i64, max: usize| {
        json!({
            "lane": name,
            "queuedCount": queued.max(0),
            "activeCount": active.max(0),
            "maxConcurrent": max,
            "draining": gateway.stopping,
            // Lanes are never torn down and made again while the daemon runs.
            "generation": 0,
            "blockedBy": null,
        })
    };
    let on_their_way = i64::try_from(gateway.inbound.len()).unwrap_or(i64::MAX);
    Ok(json!({
        "ts": call.now_ms,
        "lanes": [
            lane("intake", 0, on_their_way, crate::gateway::inbound::MESSAGES_MAX),
            lane("query", QUERY_DEPTH.value(), QUERY_ACTIVE.value(), Lane::Query.threads()),
            lane("defend", DEFEND_DEPTH.value(), DEFEND_ACTIVE.value(), Lane::Defend.threads()),
        ],
        "dynamic": null,
    }))
}

fn reload_secrets(cx: QueryCx<'_>, _params: Loose) -> Result<(Value, Vec<Fact>), RpcError> {
    let loaded = crate::gateway::reload::read(&cx.snapshot.load_inputs)
        .map_err(|error| RpcError::unavailable(error.to_string()))?;
    let answer = json!({ "ok": true, "warningCount": loaded.document.warnings.len() });
    Ok((answer, vec![Fact::Config(Box::new(loaded))]))
}

fn last_heartbeat(gateway: &mut Gateway, _call: &Call, _params: Loose) -> Result<Option<Value>, RpcError> {
    Ok(gateway.last_heartbeat.clone())
}

fn set_heartbeats(cx: StoreCx<'_>, params: Loose) -> Result<(Value, Vec<Fact>), StoreError> {
    let Some(enabled) = params.0.get("enabled").and_then(Value::as_bool) else {
        return Err(RpcError::invalid("invalid set-heartbeats params: enabled (boolean) required").into());
    };
    records::put_meta(cx.db, meta::HEARTBEATS_ENABLED, &enabled, cx.call.now_ms)?;
    Ok((json!({ "ok": true, "enabled": enabled }), vec![Fact::Heartbeats(enabled)]))
}

fn info(cx: QueryCx<'_>, _params: Loose) -> Result<Value, RpcError> {
    let snapshot = &cx.snapshot;
    let machine = host::describe();
    let (total, free) = host::memory_bytes().unwrap_or((0, 0));
    let disk = host::disk_bytes(&snapshot.state_dir);
    let root = host::disk_bytes("/");
    let mut out = json!({
        "machineName": machine.name,
        "hostname": machine.name,
        "platform": std::env::consts::OS,
        "release": machine.release,
        "arch": host::arch(),
        "osLabel": machine.label,
        "nodeVersion": format!("none (openclaw-rs {})", env!("CARGO_PKG_VERSION")),
        "pid": std::process::id(),
        "processInstanceId": &*snapshot.boot_id,
        "uptimeMs": snapshot.uptime_ms,
        "cpuCount": machine.cpu_count,
        "cpuModel": machine.cpu_model,
        "loadAverage": host::load_average(),
        "memoryTotalBytes": total,
        "memoryFreeBytes": free,
        "processMemory": super::health::process_memory(),
        "port": snapshot.port,
        "diskPath": &*snapshot.state_dir,
        "defaultAgentUtilityModel": { "status": "unavailable" },
    });
    if let Some((total, free)) = disk {
        out["diskTotalBytes"] = json!(total);
        out["diskAvailableBytes"] = json!(free);
    }
    let disks: Vec<Value> = root
        .map(|(total, free)| json!({ "path": "/", "totalBytes": total, "availableBytes": free }))
        .into_iter()
        .collect();
    out["disks"] = json!(disks);
    Ok(out)
}

fn update_status(_gateway: &mut Gateway, _call: &Call, _params: Loose) -> Result<Value, RpcError> {
    // A single binary is replaced by whoever put it there; nothing here looks for or installs another.
    Ok(json!({
        "sentinel": null,
        "updateAvailable": null,
        "effectiveChannel": "stable",
        "schedule": { "channel": "stable", "autoEnabled": false },
    }))
}

fn restart_preflight(gateway: &mut Gateway, _call: &Call, _params: Loose) -> Result<Value, RpcError> {
    let n_messages = gateway.inbound.len();
    let blockers: Vec<Value> = (n_messages > 0)
        .then(|| json!({ "kind": "queue", "count": n_messages, "message": "messages are being accepted" }))
        .into_iter()
        .collect();
    let safe = blockers.is_empty();
    Ok(json!({
        "safe": safe,
        "counts": {
            "queueSize": n_messages,
            "pendingReplies": 0,
            "embeddedRuns": 0,
            "cronRuns": 0,
            "backgroundExecSessions": 0,
            "rootRequests": 0,
            "activeTasks": 0,
            "totalActive": n_messages,
        },
        "blockers": blockers,
        "summary": if safe { "safe to restart now".to_owned() } else { format!("{n_messages} messages are being accepted") },
    }))
}

impl Gateway {
    /// Takes what a system event says of a client into the presence list.
    fn enter_system_event(&mut self, fields: EventFields, now_ms: i64) {
        let EventFields { text, mut entry } = fields;
        let key = [&entry.device_id, &entry.instance_id, &entry.host, &entry.ip]
            .into_iter()
            .find_map(|value| value.clone())
            .unwrap_or_else(|| text.chars().take(64).collect());
        entry.text = text;
        entry.ts = now_ms;
        self.presence.put(&key.to_lowercase(), entry, false);
        self.presence_changed(For::All);
    }

    /// Runs the heartbeat: nothing can ask a model yet, so it is skipped, and says so to who asks and who listens.
    fn run_heartbeat(&mut self, now_ms: i64) {
        let heartbeat = json!({
            "ts": now_ms,
            "status": "skipped",
            "reason": "no-model",
            "preview": "",
            "durationMs": 0,
            "hasMedia": false,
            "message": "Heartbeat skipped: this build cannot ask a model yet.",
        });
        if let Ok(payload) = Json::of(&heartbeat) {
            self.broadcast(&broadcast::HEARTBEAT, For::All, &payload);
        }
        self.last_heartbeat = Some(heartbeat.clone());
        let work = Work::Store(Box::new(move |db| {
            records::put_meta(db, meta::LAST_HEARTBEAT, &heartbeat, now_ms)?;
            Ok(Done { answer: None, facts: Vec::new() })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Housekeeping("heartbeat"), work }));
    }

    /// Keeps a text for the agent's next turn, on disk, and then answers the call.
    fn queue_system_event(&mut self, text: String, call: &Call) -> Result<(), RpcError> {
        self.system_events.push_back(text);
        while self.system_events.len() > SYSTEM_EVENTS_MAX {
            self.system_events.pop_front();
        }
        let waiting = self.system_events.clone();
        let now_ms = call.now_ms;
        self.store_and_answer(call, &Ok3 { ok: true }, move |db| {
            records::put_meta(db, meta::SYSTEM_EVENTS, &waiting, now_ms)
        })
    }
}
