//! Paired devices and their tokens: who may connect as what.
//!
//! Every change here is bounded by the caller: nobody approves, mints or widens beyond what he holds himself, and a
//! session that a device's token admitted sees and manages that device alone, unless it administers the gateway.

use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::gateway::clients::{Admission, Caller};
use crate::gateway::pairing::{Ask, Paired, Token};
use crate::gateway::records;
use crate::gateway::table::{Call, need};
use crate::protocol::error::RpcError;
use crate::protocol::params::{NonEmpty, Nothing, Text};
use crate::protocol::scope::{Role, Scopes};
use crate::protocol::version::Protocol;

crate::methods! {
    "device.pair.list",    Both, need::PAIRING, need::PAIRING, Loop list;
    "device.pair.approve", Both, need::PAIRING, need::PAIRING, Flow approve;
    "device.pair.reject",  Both, need::PAIRING, need::PAIRING, Flow reject;
    "device.pair.remove",  Both, need::PAIRING, need::PAIRING, Flow remove;
    "device.pair.rename",  V4,   need::PAIRING, need::PAIRING, Flow rename;
    "device.token.rotate", Both, need::PAIRING, need::PAIRING, Flow rotate;
    "device.token.revoke", Both, need::PAIRING, need::PAIRING, Flow revoke;
}

/// The only device a caller may see and manage; `None`: all of them.
fn confined_to(caller: &Caller) -> Option<&str> {
    let confined = caller.admission == Admission::DeviceToken && !caller.is_admin();
    confined.then(|| caller.device_id.as_deref().unwrap_or(""))
}

fn may_manage(caller: &Caller, device_id: &str) -> bool {
    confined_to(caller).is_none_or(|own| own == device_id)
}

fn list(gateway: &mut Gateway, call: &Call, _params: Nothing) -> Result<Value, RpcError> {
    let visible = |id: &str| may_manage(&call.caller, id);
    let devices = &gateway.devices;
    let pending: Vec<Value> = devices
        .pending(call.now_ms)
        .into_iter()
        .filter(|pending| visible(&pending.device_id))
        .map(|pending| json!(pending))
        .collect();
    let paired: Vec<Value> = devices
        .paired()
        .into_iter()
        .filter(|record| visible(&record.device_id))
        .map(|record| {
            let mut row = wire(record, call.protocol());
            if call.protocol() == Protocol::V4 {
                row["connected"] = json!(gateway.clients.has_device(&record.device_id));
            }
            row
        })
        .collect();
    Ok(json!({ "pending": pending, "paired": paired }))
}

/// A record as clients see it: never a token, nor what one is made of.
fn wire(record: &Paired, protocol: Protocol) -> Value {
    let mut row = json!({ "deviceId": record.device_id, "publicKey": record.public_key });
    if let (Value::Object(row), Value::Object(profile)) = (&mut row, json!(record.profile)) {
        row.extend(profile);
    }
    row["role"] = json!(record.role);
    row["roles"] = json!(record.roles);
    row["scopes"] = json!(record.scopes);
    if protocol == Protocol::V4 {
        row["approvedVia"] = json!(record.approved_via);
        row["lastSeenAtMs"] = json!(record.last_seen_at_ms);
        row["lastSeenReason"] = json!("connect");
        if let Some(label) = &record.operator_label {
            row["operatorLabel"] = json!(label);
        }
    }
    row["createdAtMs"] = json!(record.created_at_ms);
    row["approvedAtMs"] = json!(record.approved_at_ms);
    let tokens: Vec<Value> = record.tokens.iter().map(token_wire).collect();
    row["tokens"] = json!(tokens);
    row
}

fn token_wire(token: &Token) -> Value {
    let mut row = json!({ "role": token.role, "scopes": token.scopes, "createdAtMs": token.created_at_ms });
    for (name, at) in [
        ("rotatedAtMs", token.rotated_at_ms),
        ("revokedAtMs", token.revoked_at_ms),
        ("lastUsedAtMs", token.last_used_at_ms),
    ] {
        if let Some(at) = at {
            row[name] = json!(at);
        }
    }
    row
}

crate::params! {
    /// Names a request to be paired.
    pub struct RequestParams {
        request_id: NonEmpty = "requestId",
    }
}

fn approve(gateway: &mut Gateway, call: &Call, params: RequestParams) -> Result<(), RpcError> {
    let request_id = params.request_id.0;
    let unknown = || RpcError::invalid("unknown requestId");
    let pending = gateway.devices.request(&request_id, call.now_ms).cloned().ok_or_else(unknown)?;
    if !may_manage(&call.caller, &pending.device_id) {
        return Err(unknown());
    }
    let role = Role::parse(Some(&pending.role)).ok_or_else(unknown)?;
    let wanted = Scopes::from_names(&pending.scopes);
    must_hold(&call.caller, role, &wanted)?;
    let ask = Ask {
        device_id: &pending.device_id,
        public_key: &pending.public_key,
        role,
        scopes: &wanted,
        profile: &pending.profile,
    };
    let mut record = gateway.devices.approved(&ask, "owner", call.now_ms);
    record.ensure_token(role, &wanted, call.now_ms);
    let answer = json!({ "requestId": request_id, "device": wire(&record, call.protocol()) });
    gateway.devices.resolve(&request_id);
    gateway.devices.put(record.clone());
    gateway.audit(call, "device.pair.approve", &record.device_id);
    gateway.pairing_resolved(&request_id, &record.device_id, "approved", call.now_ms);
    gateway.store_and_answer(call, &answer, move |db| {
        db.pending_pair_delete(&request_id)?;
        records::put_paired(db, &record)
    })
}

/// Nobody grants what he does not hold; a role other than operator is an administrator's to grant.
fn must_hold(caller: &Caller, role: Role, wanted: &Scopes) -> Result<(), RpcError> {
    if caller.is_admin() {
        return Ok(());
    }
    let missing = if role == Role::Node {
        Some("operator.admin".to_owned())
    } else {
        wanted.names().iter().find(|name| !caller.scopes.cover(&Scopes::from_names([name]))).cloned()
    };
    match missing {
        Some(scope) => Err(RpcError::invalid(format!("missing scope: {scope}"))),
        None => Ok(()),
    }
}

fn reject(gateway: &mut Gateway, call: &Call, params: RequestParams) -> Result<(), RpcError> {
    let request_id = params.request_id.0;
    let unknown = || RpcError::invalid("unknown requestId");
    let pending = gateway.devices.request(&request_id, call.now_ms).cloned().ok_or_else(unknown)?;
    if !may_manage(&call.caller, &pending.device_id) {
        return Err(unknown());
    }
    gateway.devices.resolve(&request_id);
    gateway.audit(call, "device.pair.reject", &pending.device_id);
    gateway.pairing_resolved(&request_id, &pending.device_id, "rejected", call.now_ms);
    let answer = json!({ "requestId": request_id, "deviceId": pending.device_id });
    gateway.store_and_answer(call, &answer, move |db| {
        db.pending_pair_delete(&request_id)?;
        Ok(())
    })
}

crate::params! {
    /// Names a device.
    pub struct DeviceParams {
        device_id: NonEmpty = "deviceId",
    }
}

fn remove(gateway: &mut Gateway, call: &Call, params: DeviceParams) -> Result<(), RpcError> {
    let device_id = params.device_id.0;
    let known = may_manage(&call.caller, &device_id) && gateway.devices.get(&device_id).is_some();
    if !known {
        return Err(RpcError::invalid("unknown deviceId"));
    }
    gateway.devices.remove(&device_id);
    gateway.audit(call, "device.pair.remove", &device_id);
    // Protocol 3's own gateway leaves a removed device connected; authority that is gone must not go on acting.
    gateway.close_device(&device_id, None, "device removed", call.conn());
    let answer = json!({ "deviceId": device_id });
    gateway.store_and_answer(call, &answer, move |db| {
        db.device_delete(&device_id)?;
        Ok(())
    })
}

crate::params! {
    /// A device and the name an operator gives it.
    pub struct RenameParams {
        device_id: NonEmpty = "deviceId",
        label: Text<1, 64> = "label",
    }
}

fn rename(gateway: &mut Gateway, call: &Call, params: RenameParams) -> Result<(), RpcError> {
    let (device_id, label) = (params.device_id.0, params.label.0.trim().to_owned());
    let known = gateway.devices.get(&device_id).filter(|_| may_manage(&call.caller, &device_id)).cloned();
    let mut record = known.ok_or_else(|| RpcError::invalid("unknown deviceId"))?;
    record.operator_label = (!label.is_empty()).then(|| label.clone());
    gateway.devices.put(record.clone());
    gateway.audit(call, "device.pair.rename", &device_id);
    let answer = json!({ "deviceId": device_id, "label": label });
    gateway.store_and_answer(call, &answer, move |db| records::put_paired(db, &record))
}

crate::params! {
    /// Which token to replace, and how far the new one reaches.
    pub struct RotateParams {
        device_id: NonEmpty = "deviceId",
        role: NonEmpty = "role",
        scopes: Option<Vec<NonEmpty>> = "scopes",
    }
}

/// What a caller may do to a device's token; the refusal says the same whatever is wrong, so it tells nothing.
fn token_of(
    gateway: &Gateway,
    call: &Call,
    device_id: &str,
    role: &str,
    what: &str,
) -> Result<(Paired, Role), RpcError> {
    let denied = || match call.protocol() {
        Protocol::V3 => RpcError::invalid("unknown deviceId/role"),
        Protocol::V4 => RpcError::invalid(format!("device token {what} denied")),
    };
    let role = Role::parse(Some(role)).ok_or_else(denied)?;
    let record = gateway.devices.get(device_id).filter(|_| may_manage(&call.caller, device_id));
    let record = record.ok_or_else(denied)?;
    if !record.roles.iter().any(|known| known == role.as_str()) || role == Role::Node && !call.caller.is_admin() {
        return Err(denied());
    }
    Ok((record.clone(), role))
}

fn rotate(gateway: &mut Gateway, call: &Call, params: RotateParams) -> Result<(), RpcError> {
    let device_id = params.device_id.0;
    let (mut record, role) = token_of(gateway, call, &device_id, &params.role.0, "rotation")?;
    let held = record.token(role).map_or_else(Scopes::none, |token| Scopes::from_names(&token.scopes));
    let wanted = match &params.scopes {
        Some(names) => Scopes::from_names(names.iter().map(|name| &name.0)),
        None => held,
    };
    if role == Role::Operator {
        must_hold(&call.caller, role, &wanted)?;
        if !record.granted().cover(&wanted) {
            return Err(RpcError::invalid(match call.protocol() {
                Protocol::V3 => "unknown deviceId/role",
                Protocol::V4 => "device token rotation denied",
            }));
        }
    }
    record.mint(role, &wanted, call.now_ms);
    let secret = record.secret(role, &gateway.token_key);
    let token = record.token(role).cloned();
    let scopes = token.map(|token| token.scopes).unwrap_or_default();
    let mut answer =
        json!({ "deviceId": device_id, "role": role.as_str(), "scopes": scopes, "rotatedAtMs": call.now_ms });
    let own = call.caller.admission == Admission::DeviceToken && call.caller.device_id.as_deref() == Some(&device_id);
    match call.protocol() {
        Protocol::V3 => answer["token"] = json!(secret),
        // A token is handed to the device it is for, and to nobody else.
        Protocol::V4 if own => {
            answer["token"] = json!(secret);
            answer["tokenDelivery"] = json!("in-band");
        }
        Protocol::V4 => answer["tokenDelivery"] = json!("withheld-cross-device"),
    }
    gateway.devices.put(record.clone());
    gateway.audit(call, "device.token.rotate", &device_id);
    gateway.close_device(&device_id, Some(role), "client invalidated: device token rotated", call.conn());
    gateway.store_and_answer(call, &answer, move |db| records::put_paired(db, &record))
}

crate::params! {
    /// Which token to revoke.
    pub struct RevokeParams {
        device_id: NonEmpty = "deviceId",
        role: NonEmpty = "role",
    }
}

fn revoke(gateway: &mut Gateway, call: &Call, params: RevokeParams) -> Result<(), RpcError> {
    let device_id = params.device_id.0;
    let (mut record, role) = token_of(gateway, call, &device_id, &params.role.0, "revocation")?;
    if !record.revoke(role, call.now_ms) {
        return Err(RpcError::invalid(match call.protocol() {
            Protocol::V3 => "unknown deviceId/role",
            Protocol::V4 => "device token revocation denied",
        }));
    }
    gateway.devices.put(record.clone());
    gateway.audit(call, "device.token.revoke", &device_id);
    gateway.close_device(&device_id, Some(role), "client invalidated: device token revoked", call.conn());
    let answer = json!({ "deviceId": device_id, "role": role.as_str(), "revokedAtMs": call.now_ms });
    gateway.store_and_answer(call, &answer, move |db| records::put_paired(db, &record))
}
