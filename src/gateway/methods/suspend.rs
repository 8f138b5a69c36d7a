//! `gateway.suspend.*`: have the gateway hold still, see whether it does, let it go on.

use serde_json::{Map, Value};

use crate::gateway::Gateway;
use crate::gateway::suspend::{LOOK_AGAIN_MS, Prepared};
use crate::gateway::table::{Call, need};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::Loose;

crate::methods! {
    "gateway.suspend.prepare", V4, need::ADMIN, need::ADMIN, Loop prepare;
    "gateway.suspend.resume",  V4, need::ADMIN, need::ADMIN, Loop resume;
    "gateway.suspend.status",  V4, need::ADMIN, need::READ,  Loop status;
}

/// Longest id a client may give, in characters.
const ID_CHARS_MAX: usize = 128;

/// Upstream says of these methods' parameters only that they are wrong, never what is.
fn wrong(call: &Call) -> RpcError {
    RpcError::invalid(format!("invalid {} params", call.method))
}

/// The id under `name`, and nothing but the fields in `others` beside it.
fn id(call: &Call, params: &Map<String, Value>, name: &str, others: &[&str]) -> Result<String, RpcError> {
    if params.keys().any(|key| key != name && !others.contains(&key.as_str())) {
        return Err(wrong(call));
    }
    let text = params.get(name).and_then(Value::as_str).ok_or_else(|| wrong(call))?;
    if text.chars().count() > ID_CHARS_MAX || text.trim().is_empty() {
        return Err(wrong(call));
    }
    Ok(text.trim().to_owned())
}

fn prepare(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<Value, RpcError> {
    let request_id = id(call, &params.0, "requestId", &["terminalPolicy", "drain"])?;
    let drain = match params.0.get("drain") {
        None => false,
        Some(drain) => drain.as_bool().ok_or_else(|| wrong(call))?,
    };
    // There are no terminals to end or to keep; the word is checked all the same.
    if !matches!(params.0.get("terminalPolicy").map(Value::as_str), None | Some(Some("preserve" | "terminate"))) {
        return Err(wrong(call));
    }
    let now = gateway.now;
    let prepared = gateway.suspend(now, &request_id, drain)?;
    let counts = gateway.under_way();
    let mut out = json!({ "activeCount": counts.total(), "blockers": counts.blockers(), "writeCustody": [] });
    match prepared {
        Prepared::Busy => {
            out["status"] = json!("busy");
            out["reason"] = json!(if gateway.stopping { "gateway-draining" } else { "active-work" });
            out["retryAfterMs"] = json!(LOOK_AGAIN_MS);
        }
        Prepared::Held(held) => {
            out["status"] = json!(gateway.suspension_phase());
            out["suspensionId"] = json!(held.id);
            out["expiresAtMs"] = json!(held.expires_at_ms);
            if counts.total() > 0 {
                out["retryAfterMs"] = json!(LOOK_AGAIN_MS);
            }
        }
    }
    Ok(out)
}

fn status(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<Value, RpcError> {
    let id = id(call, &params.0, "suspensionId", &[])?;
    let Some(held) = gateway.suspension_of(gateway.now, &id)? else { return Ok(json!({ "status": "running" })) };
    let (expires_at_ms, counts) = (held.expires_at_ms, gateway.under_way());
    let mut out = json!({ "status": gateway.suspension_phase(), "expiresAtMs": expires_at_ms, "writeCustody": [] });
    if counts.total() > 0 {
        out["activeCount"] = json!(counts.total());
        out["blockers"] = json!(counts.blockers());
        out["retryAfterMs"] = json!(LOOK_AGAIN_MS);
    }
    Ok(out)
}

fn resume(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<Value, RpcError> {
    let id = id(call, &params.0, "suspensionId", &[])?;
    let now = gateway.now;
    if gateway.suspension_of(now, &id).is_err() {
        return Err(RpcError::invalid("gateway suspension id does not match"));
    }
    Ok(json!({ "ok": true, "status": "running", "resumed": gateway.resume(now, "asked") }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gateway::stage::Stage;
    use crate::gateway::suspend::TTL;
    use crate::protocol::version::Protocol::V4;

    fn prepared(stage: &mut Stage, request: &str) -> String {
        let held = stage.ok(V4, "gateway.suspend.prepare", &json!({ "requestId": request }));
        assert_eq!(held["status"], "ready", "{held}");
        held["suspensionId"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_suspended_gateway_begins_nothing_and_says_so_until_it_resumes() {
        let mut stage = Stage::new(&json!({}));
        let id = prepared(&mut stage, "night");
        assert_eq!(stage.ok(V4, "health", &json!({}))["suspension"]["status"], "ready");
        let error = stage.call(V4, "sessions.list", &json!({})).unwrap_err();
        assert_eq!(error.message, "sessions.list unavailable during gateway suspension");
        assert_eq!(error.retryable, Some(true));
        assert_eq!(stage.ok(V4, "gateway.suspend.status", &json!({ "suspensionId": id }))["status"], "ready");

        let resumed = stage.ok(V4, "gateway.suspend.resume", &json!({ "suspensionId": id }));
        assert_eq!(resumed, json!({ "ok": true, "status": "running", "resumed": true }));

        stage.ok(V4, "sessions.list", &json!({}));
        assert!(stage.ok(V4, "health", &json!({})).get("suspension").is_none());
        let again = stage.ok(V4, "gateway.suspend.resume", &json!({ "suspensionId": id }));
        assert_eq!(again["resumed"], false);
    }

    #[test]
    fn a_busy_gateway_is_suspended_only_by_who_waits_for_it() {
        let mut stage = Stage::new(&json!({}));
        stage.begin(V4, "status", &json!({})).unwrap();
        let Some(effect) = stage.core.next_effect() else { panic!("status starts a job") };
        let busy = stage.ok(V4, "gateway.suspend.prepare", &json!({ "requestId": "night" }));
        assert_eq!((&busy["status"], &busy["activeCount"]), (&json!("busy"), &json!(1)));
        assert_eq!(busy["blockers"][0]["kind"], "root-request");

        let draining = stage.ok(V4, "gateway.suspend.prepare", &json!({ "requestId": "night", "drain": true }));
        assert_eq!(draining["status"], "draining");
        stage.refused(V4, "config.get", &json!({}), "config.get unavailable during gateway suspension");

        stage.carry_out(effect);
        let status = json!({ "suspensionId": draining["suspensionId"] });
        assert_eq!(stage.ok(V4, "gateway.suspend.status", &status)["status"], "ready");
    }

    #[test]
    fn one_suspension_stands_at_a_time_and_its_asker_renews_it() {
        let mut stage = Stage::new(&json!({}));
        let id = prepared(&mut stage, "night");
        stage.pass(Duration::from_secs(100));
        assert_eq!(prepared(&mut stage, "night"), id, "the same request renews it");
        stage.pass(Duration::from_secs(100));
        let why = "another gateway suspension is already prepared";
        stage.refused(V4, "gateway.suspend.prepare", &json!({ "requestId": "other" }), why);
        let other = json!({ "suspensionId": "other" });
        stage.refused(V4, "gateway.suspend.status", &other, "a different gateway suspension is prepared");
        stage.refused(V4, "gateway.suspend.resume", &other, "gateway suspension id does not match");
    }

    #[test]
    fn a_suspension_nobody_ends_ends_by_itself() {
        let mut stage = Stage::new(&json!({}));
        let id = prepared(&mut stage, "night");
        assert!(stage.deadline().unwrap() <= stage.now.mono + TTL, "the core wants to be woken for it");
        stage.pass(TTL - Duration::from_millis(1));
        stage.refused(V4, "config.get", &json!({}), "config.get unavailable during gateway suspension");
        stage.pass(Duration::from_millis(1));
        assert_eq!(
            stage.ok(V4, "gateway.suspend.status", &json!({ "suspensionId": id })),
            json!({ "status": "running" })
        );
        stage.ok(V4, "config.get", &json!({}));
    }

    #[test]
    fn wrong_parameters_are_refused_without_detail() {
        let mut stage = Stage::new(&json!({}));
        for (name, params) in [
            ("gateway.suspend.prepare", json!({ "requestId": 1 })),
            ("gateway.suspend.prepare", json!({ "requestId": "a", "more": 1 })),
            ("gateway.suspend.prepare", json!({ "requestId": "a", "drain": "yes" })),
            ("gateway.suspend.prepare", json!({ "requestId": "a", "terminalPolicy": "maybe" })),
            ("gateway.suspend.prepare", json!({ "requestId": "x".repeat(ID_CHARS_MAX + 1) })),
            ("gateway.suspend.status", json!({ "suspensionId": " " })),
            ("gateway.suspend.resume", json!({})),
        ] {
            stage.refused(V4, name, &params, &format!("invalid {name} params"));
        }
    }
}
