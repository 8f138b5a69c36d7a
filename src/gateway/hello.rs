//! `hello-ok`: the answer to a successful connect, as each protocol's clients read it.
//!
//! Both payloads are closed: protocol 3's forbids what protocol 4's requires, and the other way round.

use serde_json::Value;

use super::Gateway;
use super::clients::Caller;
use super::pairing::Token;
use super::table;
use crate::intake::uploads;
use crate::protocol::connect::ClientId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::scope::{Role, Scope};
use crate::protocol::version::Protocol;
use crate::protocol::{BUFFERED_BYTES_MAX, FRAME_BYTES_MAX};
use crate::runtime::clock::Now;

/// Capability: a client that sends `modelCatalog` gets one `models.snapshot` after its hello.
pub const CAP_MODEL_CATALOG: &str = "model-catalog-snapshot";
/// Capability: `models.list` reads what is published without asking a provider first, knows `includeDetails`, `provider`
/// and `refresh`, and tells whether a model's credentials are to be had. Clients refuse to list models without it.
pub const CAP_PUBLISHED_CATALOG: &str = "published-model-catalog";

/// Version told to protocol 4 clients: the release whose contract is spoken. Its Control UI compares it with its own.
pub const RELEASE_V4: &str = "2026.9.6";
/// Version told to protocol 3 clients: what upstream's own package of that release says.
pub const RELEASE_V3: &str = "dev";

/// Names this build to protocol 4 clients.
const BUILD_ID: &str = concat!("openclaw-rs-", env!("CARGO_PKG_VERSION"));

/// A device's token on its way to the device.
pub struct DeviceToken {
    /// The token itself.
    pub secret: String,
    /// What it reaches and since when.
    pub token: Token,
}

/// Builds the payload; `host` is the name and port the client reached the gateway under, `handed` the tokens of all roles
/// of a device that presented a setup code.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn hello(
    gateway: &Gateway,
    now: Now,
    caller: &Caller,
    host: &str,
    device: Option<DeviceToken>,
    handed: &[DeviceToken],
) -> Result<Json, RpcError> {
    let protocol = caller.protocol;
    let methods: Vec<&str> =
        table::sorted().iter().filter(|method| method.is_listed(protocol)).map(|method| method.name).collect();
    let mut features = json!({ "methods": methods, "events": gateway.event_names(protocol) });
    let mut snapshot = snapshot(gateway, now, caller);
    let mut policy = json!({
        "maxPayload": FRAME_BYTES_MAX,
        "maxBufferedBytes": BUFFERED_BYTES_MAX,
        "tickIntervalMs": gateway.config.settings.gateway.server.tick_interval.as_millis() as u64,
    });
    let canvas = gateway.canvas_url(host);
    let conn_id = format!("{}-{}", gateway.boot.id, caller.conn.0);
    let mut out = json!({ "type": "hello-ok", "protocol": protocol.number() });
    match protocol {
        Protocol::V3 => {
            out["canvasHostUrl"] = json!(canvas);
            if caller.client_id == ClientId::ControlUi {
                // That page looks for the policy in here and shows "n/a" for the tick when it finds none, at its own
                // gateway too. The contract closes the snapshot, so nobody else is given it.
                snapshot["policy"] = policy.clone();
            }
            out["server"] = json!({ "version": RELEASE_V3, "host": gateway.boot.host, "connId": conn_id });
            if let Some(DeviceToken { secret, token }) = device {
                out["auth"] = json!({
                    "deviceToken": secret,
                    "role": token.role,
                    "scopes": token.scopes,
                    "issuedAtMs": token.rotated_at_ms.unwrap_or(token.created_at_ms),
                });
            }
        }
        Protocol::V4 => {
            // A page from a configured directory is none of our build, and saying so keeps it from reloading itself.
            let control_ui = &gateway.config.settings.gateway.control_ui;
            let source = if control_ui.root.is_some() { "configured" } else { "bundled" };
            out["server"] = json!({
                "version": RELEASE_V4,
                "bootId": gateway.boot.id,
                "controlUiBuildSource": source,
                "connId": conn_id,
            });
            if caller.client_id != ClientId::ControlUi {
                // The Control UI would compare it with its own build, which it can never equal.
                out["server"]["buildId"] = json!(BUILD_ID);
            }
            out["pluginSurfaceUrls"] = json!({ "canvas": canvas });
            features["capabilities"] = json!([CAP_MODEL_CATALOG, CAP_PUBLISHED_CATALOG]);
            snapshot["suspension"] = json!({ "phase": gateway.phase() });
            snapshot["appliedConfigHash"] = json!(gateway.config.document.hash);
            snapshot["updateSchedule"] = json!({ "channel": "stable", "autoEnabled": false });
            let mut auth = json!({
                "method": caller.admission.as_str(),
                "role": caller.role.as_str(),
                "scopes": caller.scopes.names(),
            });
            if caller.role == Role::Operator {
                // Names whose drafts are whose in a browser's own store, across tokens and addresses of the gateway.
                let principal = caller.device_id.as_deref().unwrap_or("shared");
                auth["recoveryScope"] = json!(gateway.token_key.recovery_scope(principal));
                if caller.device_id.is_some() {
                    auth["recoveryMigrationAllowed"] = json!(true);
                }
            }
            if let Some(DeviceToken { secret, token }) = device {
                auth["deviceToken"] = json!(secret);
                auth["issuedAtMs"] = json!(token.rotated_at_ms.unwrap_or(token.created_at_ms));
            }
            if !handed.is_empty() {
                let shown = handed.iter().map(|DeviceToken { secret, token }| {
                    json!({
                        "deviceToken": secret,
                        "role": token.role,
                        "scopes": token.scopes,
                        "issuedAtMs": token.rotated_at_ms.unwrap_or(token.created_at_ms),
                    })
                });
                auth["deviceTokens"] = shown.collect();
            }
            out["auth"] = auth;
            policy["attachments"] =
                json!({ "maxBytes": uploads::FILE_BYTES_MAX_V4, "maxImageBytes": uploads::PICTURE_BYTES_MAX_V4 });
            // One owner's gateway: every session is seen by every operator of it.
            policy["allowedSessionVisibilities"] = json!(["shared"]);
            policy["hasMultipleSessionSharingIdentities"] = json!(false);
        }
    }
    out["features"] = features;
    out["snapshot"] = snapshot;
    out["policy"] = policy;
    Json::of(&out)
}

fn snapshot(gateway: &Gateway, now: Now, caller: &Caller) -> Value {
    let rules = gateway.key_rules();
    let mut defaults = json!({
        "defaultAgentId": rules.default_agent,
        "mainKey": rules.main_key,
        "mainSessionKey": rules.main().as_str(),
        "scope": rules.scope(),
    });
    if caller.protocol == Protocol::V4 {
        defaults["modelConfigured"] = json!(gateway.config.settings.agents.defaults.model.primary.is_some());
        defaults["ownership"] = json!("sole");
        defaults["selectionRequired"] = json!(false);
    }
    let mut presence = gateway.presence.entries(caller.protocol);
    if caller.role != Role::Operator || !caller.scopes.satisfies(Scope::Read, caller.protocol) {
        // Which sessions there are is for who may read them.
        presence.iter_mut().for_each(|entry| entry.watched_sessions = Vec::new());
    }
    let mut out = json!({
        "presence": presence,
        "health": gateway.health_value(now, caller.protocol),
        "stateVersion": gateway.state_version(),
        "uptimeMs": gateway.uptime_ms(now),
        "sessionDefaults": defaults,
    });
    // Protocol 3's contract names its paths to whoever it admits; protocol 4's only to who may administer it.
    if caller.protocol == Protocol::V3 || caller.is_admin() {
        out["configPath"] = json!(gateway.config.document.path);
        out["stateDir"] = json!(gateway.boot.state_dir);
        out["authMode"] = json!(gateway.config.settings.gateway.auth.mode.as_str());
    }
    out
}
