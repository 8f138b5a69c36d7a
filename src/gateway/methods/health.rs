//! `health`, `status`, `logs.tail`: is it well, what is it doing, what did it say.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use serde::Serialize;
use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::gateway::table::{Call, Need, QueryCx, need};
use crate::protocol::error::RpcError;
use crate::protocol::params::{Count, Int, Loose};
use crate::protocol::version::Protocol;
use crate::store::sessions::SessionFilter;

crate::methods! {
    "health",    Both, Need::Anyone, Need::Anyone, Raw   health;
    "status",    Both, need::READ,   need::READ,   Query status;
    "logs.tail", Both, need::READ,   need::READ,   Query tail;
}

/// The snapshot as it stands; `probe: true` makes it anew first.
fn health(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<crate::protocol::frame::Json, RpcError> {
    if params.0.get("probe").and_then(Value::as_bool) == Some(true) {
        gateway.health_cache = Default::default();
        gateway.health_made_at_ms = call.now_ms;
    }
    let now = gateway.now;
    Ok(gateway.health_json(now, call.protocol()))
}

/// Sessions listed as recent by `status`.
const STATUS_SESSIONS: usize = 10;

fn status(cx: QueryCx<'_>, _params: Loose) -> Result<Value, RpcError> {
    let (snapshot, call) = (&cx.snapshot, &cx.call);
    let db = cx.store.get()?;
    let settings = &snapshot.config.settings;
    let is_admin = call.caller.is_admin();
    let rows = crate::sessions::row::Context::of(&snapshot.config);
    let path = format!("{}/{}", snapshot.state_dir, crate::store::dir::DATABASE_FILE);
    let shown_path = if is_admin { path.as_str() } else { "" };
    let recent_of = |agent: Option<&str>| -> Result<(u64, Vec<Value>), RpcError> {
        // What belongs to no conversation is no session to a reader of a status.
        let kinds_excluded = vec!["global".to_owned(), "unknown".to_owned()];
        let filter = SessionFilter { agent_id: agent.map(str::to_owned), kinds_excluded, ..SessionFilter::default() };
        let page = db.session_list(&filter, 0, STATUS_SESSIONS)?;
        let list = page.sessions.iter().map(|row| crate::sessions::row::status_line(row, &rows, call.now_ms));
        Ok((db.session_count(&filter)?, if is_admin { list.collect() } else { Vec::new() }))
    };
    let (count, recent) = recent_of(None)?;
    let mut by_agent = Vec::new();
    for agent in &settings.agents.list {
        let (count, recent) = recent_of(Some(&agent.id))?;
        by_agent.push(json!({ "agentId": agent.id, "path": shown_path, "count": count, "recent": recent }));
    }
    let heartbeat = &snapshot.heartbeat;
    let agents: Vec<Value> = settings
        .agents
        .list
        .iter()
        .map(|agent| {
            let is_default = agent.id == snapshot.keys.default_agent;
            let mut row = json!({
                "agentId": agent.id,
                "enabled": heartbeat.enabled && is_default,
                "every": if is_default { heartbeat.every.as_str() } else { "disabled" },
                "everyMs": if is_default { json!(heartbeat.every_ms) } else { Value::Null },
            });
            if call.protocol() == Protocol::V4 {
                row["waitingForRoute"] = json!(true);
            }
            row
        })
        .collect();
    let mut out = json!({
        "heartbeat": { "defaultAgentId": snapshot.keys.default_agent, "agents": agents },
        "channelSummary": [],
        "queuedSystemEvents": snapshot.system_events,
        "sessions": {
            "paths": if is_admin { vec![path.as_str()] } else { Vec::new() },
            "count": count,
            "defaults": if is_admin { rows.status_defaults() } else { json!({ "model": null, "contextTokens": null }) },
            "recent": recent,
            "byAgent": by_agent,
        },
        "runtime": { "name": "openclaw-rs", "version": env!("CARGO_PKG_VERSION"), "uptimeMs": snapshot.uptime_ms },
    });
    if call.protocol() == Protocol::V4 {
        out["runtimeVersion"] = json!(crate::gateway::hello::RELEASE_V4);
        out["degradedSecretOwners"] = json!([]);
        out["degradedPlugins"] = json!([]);
        out["pid"] = json!(std::process::id());
        out["processMemory"] = process_memory();
        out["hostDesktop"] = json!({ "enabled": false, "state": "disabled", "port": 0 });
        out["modelRuntime"] = json!({ "degraded": true, "pendingAgents": [] });
    }
    Ok(out)
}

/// Lines given out when nothing is said.
const TAIL_LINES: i64 = 500;
/// Bytes looked at when nothing is said.
const TAIL_BYTES: i64 = 250_000;

crate::params! {
    /// Where to go on reading the log, and how much.
    pub struct TailParams {
        cursor: Option<Count> = "cursor",
        limit: Option<Int<1, 5000>> = "limit",
        max_bytes: Option<Int<1, 1_000_000>> = "maxBytes",
    }
}

#[derive(Serialize)]
struct Tail {
    file: String,
    cursor: u64,
    size: u64,
    lines: Vec<String>,
    truncated: bool,
    reset: bool,
}

fn tail(cx: QueryCx<'_>, params: TailParams) -> Result<Tail, RpcError> {
    let file = cx.snapshot.log_file.to_string();
    let limit = params.limit.map_or(TAIL_LINES, |limit| limit.0) as usize;
    let bytes_max = params.max_bytes.map_or(TAIL_BYTES, |bytes| bytes.0) as u64;
    let failed = |error: std::io::Error| RpcError::unavailable(format!("cannot read the log file: {error}"));
    let mut log = match File::open(&file) {
        Ok(log) => log,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Tail { file, cursor: 0, size: 0, lines: Vec::new(), truncated: false, reset: false });
        }
        Err(error) => return Err(failed(error)),
    };
    let size = log.metadata().map_err(failed)?.len();
    let asked = params.cursor.map(|cursor| cursor.0 as u64);
    let oldest = size.saturating_sub(bytes_max);
    // A cursor beyond the end is of a file that was replaced; one too far back is of lines no longer in reach.
    let reset = asked.is_some_and(|cursor| cursor > size || cursor < oldest);
    let start = asked.filter(|_| !reset).unwrap_or(oldest);
    log.seek(SeekFrom::Start(start)).map_err(failed)?;
    let mut bytes = Vec::new();
    log.take(size - start).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    let mut truncated = asked.is_none() && start > 0;
    if start > 0 && asked.is_none_or(|_| reset) && !lines.is_empty() {
        lines.remove(0); // the middle of a line
    }
    if lines.len() > limit {
        lines.drain(..lines.len() - limit);
        truncated = true;
    }
    let lines = lines.into_iter().map(str::to_owned).collect();
    Ok(Tail { file, cursor: size, size, lines, truncated, reset })
}

/// What the process holds in memory, in the words clients know from another runtime: private pages for its heap.
pub(super) fn process_memory() -> Value {
    let memory = crate::runtime::host::process_memory().unwrap_or_default();
    json!({
        "rssBytes": memory.resident_bytes,
        "heapTotalBytes": memory.data_bytes,
        "heapUsedBytes": memory.private_bytes,
        "externalBytes": 0,
        "arrayBuffersBytes": 0,
    })
}
