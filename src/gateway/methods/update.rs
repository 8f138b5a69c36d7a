//! `update.*`: a single binary is replaced by whoever put it there; nothing here looks for another or installs one.

use serde_json::Value;

use super::config::SENTINEL_FILE;
use crate::config::files;
use crate::gateway::Fact;
use crate::gateway::table::{QueryCx, StoreCx, need};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{Count, Loose, Object, Positive};
use crate::protocol::version::Protocol;
use crate::runtime::random;
use crate::store::StoreError;
use crate::store::audit::AuditRecord;

crate::methods! {
    "update.run",    Both, need::ADMIN, need::ADMIN, Store run;
    "update.status", V4,   need::ADMIN, need::ADMIN, Query status;
}

crate::params! {
    /// What a client would have an update do.
    pub struct RunParams {
        session_key: Option<String> = "sessionKey",
        note: Option<String> = "note",
        restart_delay_ms: Option<Count> = "restartDelayMs",
        timeout_ms: Option<Positive> = "timeoutMs",
        @v4 {
            requester: Option<Object> = "requester",
            delivery_context: Option<Object> = "deliveryContext",
            continuation_message: Option<String> = "continuationMessage",
            target: Option<Object> = "target",
        }
    }
}

/// Says that nothing was updated, and who can. The wish is recorded, for whoever looks after the machine.
fn run(cx: StoreCx<'_>, params: RunParams) -> Result<(Value, Vec<Fact>), StoreError> {
    const REASON: &str = "not-managed";
    cx.db.audit_append(&AuditRecord {
        at_ms: cx.call.now_ms,
        actor: cx.call.caller.actor(),
        address: Some(cx.call.caller.address.to_string()),
        action: cx.call.method.to_owned(),
        resource: "gateway".to_owned(),
        outcome: "refused".to_owned(),
        request_id: Some(cx.call.id.clone()),
        detail: None,
    })?;
    let version = json!({ "version": env!("CARGO_PKG_VERSION") });
    let result = json!({
        "status": "skipped",
        "mode": "unknown",
        "reason": REASON,
        "before": version,
        "after": version,
        "steps": [],
        "durationMs": 0,
    });
    let mut answer = json!({ "ok": true, "result": result, "restart": null });
    match cx.call.protocol() {
        Protocol::V3 => {
            let payload = json!({
                "kind": "update",
                "status": "skipped",
                "ts": cx.call.now_ms,
                "sessionKey": params.session_key,
                "message": params.note,
                "doctorHint": "Run: openclaw-rs doctor --non-interactive",
                "stats": { "mode": "unknown", "reason": REASON, "steps": [], "durationMs": 0 },
            });
            // Nothing restarts, so nothing is left behind for the next start.
            answer["sentinel"] = json!({ "path": null, "payload": payload });
        }
        Protocol::V4 => {
            answer["runId"] = json!(random::uuid());
            answer["code"] = json!(REASON);
            answer["message"] = json!("This gateway does not update itself. Replace its binary and start it again.");
        }
    }
    Ok((answer, Vec::new()))
}

fn status(cx: QueryCx<'_>, _params: Loose) -> Result<Value, RpcError> {
    // What cannot be read or understood is nobody's note.
    let text = files::read(&cx.snapshot.config.state_dir.join(SENTINEL_FILE)).ok().flatten();
    let sentinel: Value = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
    Ok(json!({
        "sentinel": sentinel,
        "updateAvailable": null,
        "effectiveChannel": "stable",
        "schedule": { "channel": "stable", "autoEnabled": false },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stage::Stage;
    use crate::protocol::version::Protocol::{V3, V4};
    use crate::store::audit::AuditFilter;

    #[test]
    fn an_update_is_skipped_said_so_and_recorded() {
        let mut stage = Stage::new(&json!({}));
        let old = stage.ok(V3, "update.run", &json!({ "note": "please" }));
        assert_eq!(old["result"]["status"], "skipped");
        assert_eq!(old["sentinel"]["payload"]["message"], "please");
        let new = stage.ok(V4, "update.run", &json!({}));
        assert_eq!(new["result"]["reason"], "not-managed");
        assert!(new["runId"].is_string(), "{new}");
        let recorded = stage.database.audit_list(&AuditFilter::default(), 9).unwrap();
        assert_eq!(recorded.len(), 2);
        assert_eq!(recorded[0].record.outcome, "refused");
        let why = "invalid update.run params: at /timeoutMs: must be >= 1";
        stage.refused(V3, "update.run", &json!({ "timeoutMs": 0 }), why);
    }

    #[test]
    fn a_status_shows_what_was_last_written() {
        let mut stage = Stage::new(&json!({}));
        assert_eq!(stage.ok(V4, "update.status", &json!({}))["sentinel"], Value::Null);
        let hash = stage.ok(V4, "config.get", &json!({}))["hash"].clone();
        let patch = json!({ "raw": r##"{"ui":{"seamColor":"#112233"}}"##, "baseHash": hash, "note": "blue" });
        stage.ok(V4, "config.patch", &patch);
        assert_eq!(stage.ok(V4, "update.status", &json!({}))["sentinel"]["message"], "blue");
    }
}
