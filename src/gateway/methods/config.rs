//! The configuration: shown without its secrets, changed by who saw what he changes, described.

use serde_json::Value;

use crate::config::changes;
use crate::config::document::Document;
use crate::config::edit::{Method as EditMethod, Planned, Request};
use crate::config::load::{self, Loaded};
use crate::config::schema::json_schema;
use crate::config::{ConfigError, files, redact, snapshot};
use crate::gateway::table::{QueryCx, StoreCx, need};
use crate::gateway::{Fact, hello};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{Count, NonEmpty, Nothing};
use crate::protocol::version::Protocol;
use crate::store::StoreError;
use crate::store::audit::AuditRecord;

crate::methods! {
    "config.get",           Both, need::READ,  need::READ,  Query get;
    "config.schema",        Both, need::ADMIN, need::READ,  Query schema;
    "config.schema.lookup", V4,   need::ADMIN, need::READ,  Query lookup;
    "config.set",           Both, need::ADMIN, need::ADMIN, Store set;
    "config.patch",         Both, need::ADMIN, need::ADMIN, Store patch;
    "config.apply",         Both, need::ADMIN, need::ADMIN, Store apply;
}

/// File in the state directory that says what was last written; `update.status` shows it.
pub(super) const SENTINEL_FILE: &str = "restart-sentinel.json";
/// When the configuration is read again after a change by protocol 3, if its client does not say, in milliseconds.
const RELOAD_DELAY_MS: u64 = 2000;

fn get(cx: QueryCx<'_>, _params: Nothing) -> Result<Value, RpcError> {
    let stored = load::inspect(&cx.snapshot.load_inputs).map_err(unreadable)?;
    Ok(snapshot::payload(&stored, cx.call.protocol(), &cx.snapshot.config.document.hash))
}

fn unreadable(error: ConfigError) -> RpcError {
    RpcError::unavailable(error.to_string())
}

fn schema(cx: QueryCx<'_>, _params: Nothing) -> Result<Value, RpcError> {
    Ok(json_schema::document(hello::RELEASE_V4, cx.call.now_ms))
}

crate::params! {
    /// Which key.
    pub struct LookupParams {
        path: SchemaPath = "path",
    }
}

/// A dotted path in the alphabet of configuration keys.
#[derive(Debug, Clone)]
pub struct SchemaPath(String);

impl crate::protocol::params::Param for SchemaPath {
    fn read(value: &Value, path: &str, issues: &mut crate::protocol::params::Issues) -> Option<Self> {
        let text = String::read(value, path, issues)?;
        let known = |c: char| c.is_ascii_alphanumeric() || "_./[]-*".contains(c);
        if text.is_empty() {
            issues.wrong(path, "must not have fewer than 1 characters");
        }
        if text.is_empty() || !text.chars().all(known) {
            issues.wrong(path, "must match pattern \"^[A-Za-z0-9_./\\[\\]\\-*]+$\"");
            return None;
        }
        Some(SchemaPath(text))
    }
}

fn lookup(_cx: QueryCx<'_>, params: LookupParams) -> Result<Value, RpcError> {
    json_schema::lookup(&params.path.0).ok_or_else(|| RpcError::invalid("config schema path not found"))
}

crate::params! {
    /// A whole document.
    pub struct SetParams {
        raw: NonEmpty = "raw",
        base_hash: Option<NonEmpty> = "baseHash",
    }
}

crate::params! {
    /// A change, and what to say of it.
    pub struct ChangeParams {
        raw: NonEmpty = "raw",
        base_hash: Option<NonEmpty> = "baseHash",
        session_key: Option<String> = "sessionKey",
        note: Option<String> = "note",
        restart_delay_ms: Option<Count> = "restartDelayMs",
        @v4 {
            delivery_context: Option<crate::protocol::params::Object> = "deliveryContext",
            replace_paths: Option<Vec<NonEmpty>> = "replacePaths",
        }
    }
}

fn set(cx: StoreCx<'_>, params: SetParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let planned = write(&cx, EditMethod::Set, &params.raw, params.base_hash.as_ref(), &[])?;
    let answer = written(&planned);
    Ok((answer, vec![taken_over(&cx, planned)]))
}

fn patch(cx: StoreCx<'_>, params: ChangeParams) -> Result<(Value, Vec<Fact>), StoreError> {
    change(cx, EditMethod::Patch, params)
}

fn apply(cx: StoreCx<'_>, params: ChangeParams) -> Result<(Value, Vec<Fact>), StoreError> {
    change(cx, EditMethod::Apply, params)
}

fn change(cx: StoreCx<'_>, method: EditMethod, params: ChangeParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let replace: Vec<String> = params.replace_paths.unwrap_or_default().into_iter().map(|path| path.0).collect();
    let planned = write(&cx, method, &params.raw, params.base_hash.as_ref(), &replace)?;
    let plan = changes::plan(&planned.changes, cx.snapshot.config.settings.gateway.reload.mode);
    let (kind, name) = match method {
        EditMethod::Patch => ("config-patch", "config.patch"),
        EditMethod::Apply | EditMethod::Set => ("config-apply", "config.apply"),
    };
    let mut stats = json!({ "mode": name, "root": planned.document.path });
    if cx.call.protocol() == Protocol::V4 {
        stats["requiresRestart"] = json!(!plan.restart.is_empty());
    }
    let mut payload = json!({
        "kind": kind,
        "status": "ok",
        "ts": cx.call.now_ms,
        "message": params.note,
        "doctorHint": "Run: openclaw-rs doctor --non-interactive",
        "stats": stats,
    });
    if let Some(key) = params.session_key {
        payload["sessionKey"] = json!(key);
    }
    let path = cx.snapshot.config.state_dir.join(SENTINEL_FILE);
    let persisted = files::put(&path, &payload.to_string()).is_ok();
    let mut answer = written(&planned);
    let mut facts = Vec::new();
    let asked_ms = params.restart_delay_ms.map(|ms| u64::try_from(ms.0).unwrap_or(0));
    match cx.call.protocol() {
        Protocol::V3 => {
            // What can be taken over live is, at once; what cannot waits for the next start, and the log says which. The
            // restart that upstream puts off becomes a second look at the file at that time, and joins one that is due.
            let delay_ms = asked_ms.unwrap_or(RELOAD_DELAY_MS);
            let due_ms = cx.snapshot.reload_in_ms;
            answer["restart"] = json!({
                "ok": true,
                "pid": std::process::id(),
                // What SIGUSR1 from outside does, without one being sent.
                "signal": "SIGUSR1",
                "mode": "emit",
                "delayMs": due_ms.map_or(delay_ms, |due_ms| due_ms.min(delay_ms)),
                "reason": name,
                "coalesced": due_ms.is_some(),
                "cooldownMsApplied": 0,
            });
            facts.push(Fact::ReloadAfter(delay_ms));
            answer["sentinel"] = json!({ "path": path, "payload": payload });
        }
        Protocol::V4 => {
            answer["hash"] = json!(planned.document.hash);
            let paths: Vec<String> = planned.changes.iter().map(|change| change.path.to_string()).collect();
            answer["changedPaths"] = json!(paths);
            answer["sentinel"] = json!({ "persisted": persisted, "payload": payload });
            facts.extend(asked_ms.map(Fact::ReloadAfter));
        }
    }
    facts.push(taken_over(&cx, planned));
    Ok((answer, facts))
}

/// Plans the change against the document as it is on disk, and writes it.
fn write(
    cx: &StoreCx<'_>,
    method: EditMethod,
    raw: &NonEmpty,
    base_hash: Option<&NonEmpty>,
    replace_paths: &[String],
) -> Result<Planned, StoreError> {
    let base_hash = base_hash.map(|hash| hash.0.as_str());
    let request = Request { method, protocol: cx.call.protocol(), raw: &raw.0, base_hash, replace_paths };
    write_planned(cx, &stored(cx)?, &request)
}

/// The document as it is on disk, for a method that works its change out from it.
pub(super) fn stored(cx: &StoreCx<'_>) -> Result<Document, RpcError> {
    load::inspect(&cx.snapshot.load_inputs).map_err(unreadable)
}

/// Applies a merge patch that was worked out from `stored`, and writes it as any other edit.
pub(super) fn patch_stored(
    cx: &StoreCx<'_>,
    stored: &Document,
    patch: &Value,
    replace_paths: &[String],
) -> Result<Planned, StoreError> {
    let raw = patch.to_string();
    let base_hash = Some(stored.hash.as_str());
    let request =
        Request { method: EditMethod::Patch, protocol: cx.call.protocol(), raw: &raw, base_hash, replace_paths };
    write_planned(cx, stored, &request)
}

fn write_planned(cx: &StoreCx<'_>, stored: &Document, request: &Request<'_>) -> Result<Planned, StoreError> {
    let planned = load::plan(stored, request).map_err(|error| error.to_rpc(request.protocol))?;
    cx.db.audit_append(&AuditRecord {
        at_ms: cx.call.now_ms,
        actor: cx.call.caller.actor(),
        address: Some(cx.call.caller.address.to_string()),
        action: cx.call.method.to_owned(),
        resource: planned.changes.iter().map(|change| change.path.to_string()).collect::<Vec<_>>().join(","),
        outcome: "ok".to_owned(),
        request_id: Some(cx.call.id.clone()),
        detail: None,
    })?;
    load::commit(&planned).map_err(|error| match error {
        ConfigError::Raced { .. } => RpcError::invalid("config changed since last load; re-run config.get and retry"),
        other => RpcError::unavailable(other.to_string()),
    })?;
    Ok(planned)
}

fn written(planned: &Planned) -> Value {
    json!({ "ok": true, "path": planned.document.path, "config": redact::value(&planned.document.config) })
}

/// The written document, for the loop to take over.
pub(super) fn taken_over(cx: &StoreCx<'_>, planned: Planned) -> Fact {
    let Planned { document, settings, .. } = planned;
    Fact::Config(Box::new(Loaded { document, settings, state_dir: cx.snapshot.config.state_dir.clone() }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gateway::stage::Stage;
    use crate::protocol::version::Protocol::{V3, V4};

    fn patch(stage: &mut Stage, protocol: Protocol, raw: &str, delay_ms: u64) -> Value {
        let hash = stage.ok(protocol, "config.get", &json!({}))["hash"].clone();
        stage.ok(protocol, "config.patch", &json!({ "raw": raw, "baseHash": hash, "restartDelayMs": delay_ms }))
    }

    #[test]
    fn a_change_by_protocol_3_has_the_file_read_again_once_and_when_it_asked() {
        let mut stage = Stage::new(&json!({}));
        let first = patch(&mut stage, V3, r##"{"ui":{"seamColor":"#112233"}}"##, 60_000);
        assert_eq!((&first["restart"]["coalesced"], &first["restart"]["delayMs"]), (&json!(false), &json!(60_000)));

        stage.pass(Duration::from_secs(20));
        let second = patch(&mut stage, V3, r#"{"ui":{"seamColor":null}}"#, 60_000);
        assert_eq!((&second["restart"]["coalesced"], &second["restart"]["delayMs"]), (&json!(true), &json!(40_000)));

        assert_eq!(stage.snapshot().reload_in_ms, Some(40_000));
        assert!(stage.deadline().unwrap() <= stage.now.mono + Duration::from_secs(40));
        stage.pass(Duration::from_secs(40));
        assert_eq!(stage.snapshot().reload_in_ms, None);
    }

    #[test]
    fn what_was_last_written_is_noted_each_time() {
        let mut stage = Stage::new(&json!({}));
        for raw in [r##"{"ui":{"seamColor":"#112233"}}"##, r#"{"ui":{"seamColor":null}}"#] {
            assert_eq!(patch(&mut stage, V4, raw, 0)["sentinel"]["persisted"], true);
        }
        let leftovers = std::fs::read_dir(stage.dir()).unwrap().map(|entry| entry.unwrap().file_name());
        let sentinels: Vec<_> = leftovers.filter(|name| name.to_string_lossy().contains("sentinel")).collect();
        assert_eq!(sentinels, [SENTINEL_FILE]);
    }
}
