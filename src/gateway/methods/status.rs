//! `status`: what the gateway is doing, for whoever looks after it.

use serde_json::{Map, Value};

use crate::gateway::effect::JOIN_TIME_MAX;
use crate::gateway::table::{QueryCx, need};
use crate::gateway::{Lane, Snapshot, health};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::Loose;
use crate::protocol::version::Protocol;
use crate::runtime::metrics::{DEFEND_ACTIVE, DEFEND_DEPTH, Gauge, QUERY_ACTIVE, QUERY_DEPTH};
use crate::sessions::row;
use crate::store::sessions::{SessionFilter, SessionRow};

crate::methods! {
    "status", Both, need::READ, need::READ, Query status;
}

/// Sessions listed as recent by `status`.
const STATUS_SESSIONS: usize = 10;

fn status(cx: QueryCx<'_>, _params: Loose) -> Result<Value, RpcError> {
    let (snapshot, call) = (&cx.snapshot, &cx.call);
    let db = cx.store.get()?;
    let settings = &snapshot.config.settings;
    let is_admin = call.caller.is_admin();
    let rows = snapshot.session_rows();
    let path = format!("{}/{}", snapshot.state_dir, crate::store::dir::DATABASE_FILE);
    let shown_path = if is_admin { path.as_str() } else { "" };
    let line = |session: &SessionRow| {
        let mut line = row::status_line(session, &rows, call.now_ms);
        if call.protocol() == Protocol::V4 {
            row::set_all(&mut line, row::status_models(session, &rows));
        }
        line
    };
    let recent_of = |agent: Option<&str>| -> Result<(u64, Vec<Value>), RpcError> {
        // What belongs to no conversation is no session to a reader of a status.
        let kinds_excluded = vec!["global".to_owned(), "unknown".to_owned()];
        let filter = SessionFilter { agent_id: agent.map(str::to_owned), kinds_excluded, ..SessionFilter::default() };
        let page = db.session_list(&filter, 0, STATUS_SESSIONS)?;
        let list = page.sessions.iter().map(line);
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
        out["modelRuntime"] = health::model_runtime();
        // Nothing makes tasks in this build (background runs, cron and subagents do): there are none to count or to find
        // fault with.
        out["tasks"] = json!({
            "total": 0, "active": 0, "terminal": 0, "failures": 0,
            "byStatus": zeros(&["queued", "running", "succeeded", "failed", "timed_out", "cancelled", "lost"]),
            "byRuntime": zeros(&["subagent", "acp", "cli", "cron"]),
        });
        out["taskAudit"] = json!({
            "total": 0, "warnings": 0, "errors": 0,
            "byCode": zeros(&[
                "stale_queued", "stale_running", "lost", "delivery_failed", "missing_cleanup", "inconsistent_timestamps",
            ]),
        });
        out["workerPools"] = worker_pools();
        out["shutdownBudget"] = shutdown_budget(snapshot);
    }
    Ok(out)
}

fn zeros(names: &[&str]) -> Map<String, Value> {
    names.iter().map(|name| ((*name).to_owned(), json!(0))).collect()
}

/// Threads and what waits for them.
fn worker_pools() -> Value {
    let pool = |lane: Lane, active: &Gauge, depth: &Gauge| {
        json!({
            "maxWorkers": lane.threads(),
            "activeTasks": active.value().max(0),
            "pendingTasks": depth.value().max(0),
        })
    };
    // Upstream's own pools. What they do is done on `query` here, or not yet: they have no thread and never had one.
    let none = json!({ "maxWorkers": 0, "workers": 0, "workersCreated": 0, "activeTasks": 0, "pendingTasks": 0 });
    json!({
        "query": pool(Lane::Query, &QUERY_ACTIVE, &QUERY_DEPTH),
        "defend": pool(Lane::Defend, &DEFEND_ACTIVE, &DEFEND_DEPTH),
        "transcriptReconciliation": none.clone(),
        "modelCatalog": none,
    })
}

/// How long stopping may take, and what it would have to wait for.
fn shutdown_budget(snapshot: &Snapshot) -> Value {
    let drain = snapshot.config.settings.gateway.server.shutdown_drain;
    // Lanes are joined one after the other once connections have ended.
    let reserve = JOIN_TIME_MAX * [Lane::Query, Lane::Defend, Lane::Store].len() as u32;
    let active = snapshot.active;
    json!({
        "timeoutMs": (drain + reserve).as_millis() as u64,
        "reserveMs": reserve.as_millis() as u64,
        // The service manager's own limit is not asked for.
        "nativeStopBudget": false,
        "activeWork": {
            "rootRequests": active.requests,
            "sessionMutations": active.session_writes,
            // A message on its way is a run that is being written down.
            "lifecycleWrites": active.messages,
            // Neither cron nor terminals are built.
            "cronRuns": 0,
            "terminalPersistence": 0,
        },
        // Writes stay with the store, which is joined last: none is handed over.
        "writeCustody": [],
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_holds_the_configured_drain_and_what_is_under_way() {
        let mut snapshot = crate::gateway::stage::Stage::new(&json!({})).snapshot();
        snapshot.active.messages = 3;
        let budget = shutdown_budget(&snapshot);
        let drain = snapshot.config.settings.gateway.server.shutdown_drain.as_millis() as u64;
        assert_eq!(budget["timeoutMs"].as_u64().unwrap() - budget["reserveMs"].as_u64().unwrap(), drain);
        assert_eq!(budget["activeWork"]["lifecycleWrites"], 3);
    }
}
