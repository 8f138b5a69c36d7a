//! Paired devices and their tokens: who may connect as what.
//!
//! Every change here is bounded by the caller: nobody approves, mints or widens beyond what he holds himself, and a
//! session that a device's token admitted sees and manages that device alone, unless it administers the gateway.

use serde_json::Value;

use crate::gateway::broadcast::{self, For};
use crate::gateway::clients::{Admission, Caller};
use crate::gateway::dispatch::BUSY_RETRY_MS;
use crate::gateway::pairing::{Ask, Paired, Token, VIA_OWNER};
use crate::gateway::table::{Call, need};
use crate::gateway::upgrades::{Asked, End, Waiter};
use crate::gateway::{Fact, Gateway, records, setups};
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::params::{Issues, NonEmpty, Nothing, Param, Text};
use crate::protocol::scope::{Role, Scope, Scopes};
use crate::protocol::version::Protocol;

crate::methods! {
    "device.pair.list",    Both, need::PAIRING, need::PAIRING, Loop list;
    "device.pair.approve", Both, need::PAIRING, need::PAIRING, Flow approve;
    "device.pair.reject",  Both, need::PAIRING, need::PAIRING, Flow reject;
    "device.pair.remove",  Both, need::PAIRING, need::PAIRING, Flow remove;
    "device.pair.rename",  V4,   need::PAIRING, need::PAIRING, Flow rename;
    "device.token.rotate", Both, need::PAIRING, need::PAIRING, Flow rotate;
    "device.token.revoke", Both, need::PAIRING, need::PAIRING, Flow revoke;
    "device.scopes.requestUpgrade", V4, need::OPERATOR, need::OPERATOR, Flow request_upgrade;
    "device.scopes.waitUpgrade",    V4, need::OPERATOR, need::OPERATOR, Flow wait_upgrade;
}

/// What a caller hears who may not do something to a device. Protocol 4 says the same whatever is wrong, so that it
/// tells nothing; protocol 3 as if there were no such thing.
fn denied(call: &Call, what: &str, v3: &str) -> RpcError {
    match call.protocol() {
        Protocol::V3 => RpcError::invalid(v3),
        Protocol::V4 => RpcError::invalid(format!("device {what} denied")),
    }
}

/// The only device a caller may see and manage; `None`: all of them.
fn confined_to(caller: &Caller) -> Option<&str> {
    let confined = caller.admission == Admission::DeviceToken && !caller.is_admin();
    confined.then(|| caller.device_id.as_deref().unwrap_or(""))
}

fn may_manage(caller: &Caller, device_id: &str) -> bool {
    confined_to(caller).is_none_or(|own| own == device_id)
}

/// Whether a caller may rename or remove a device: a confined one only its own, and only while it is nothing but an
/// operator's; what else it is was an administrator's to grant.
fn may_change(caller: &Caller, record: &Paired) -> bool {
    let is_operators = record.roles.iter().all(|role| role == Role::Operator.as_str());
    may_manage(caller, &record.device_id) && (confined_to(caller).is_none() || is_operators)
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
        if let Some(offer) = &record.offer {
            row["pendingNodeSurface"] = json!(offer);
        }
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
    let hidden =
        || if call.caller.is_admin() { unknown() } else { denied(call, "pairing approval", "unknown requestId") };
    let pending = gateway.devices.request(&request_id, call.now_ms).cloned().ok_or_else(hidden)?;
    if !may_manage(&call.caller, &pending.device_id) {
        return Err(hidden());
    }
    let role = Role::parse(Some(&pending.role)).ok_or_else(unknown)?;
    if role != Role::Operator && !call.caller.is_admin() {
        return Err(denied(call, "pairing approval", "missing scope: operator.admin"));
    }
    let wanted = Scopes::from_names(&pending.scopes);
    let prefix = format!("{}.", role.as_str());
    if let Some(stray) = wanted.names().iter().find(|name| !name.starts_with(&prefix)) {
        return Err(RpcError::invalid(format!("invalid scope for requested roles: {stray}")));
    }
    // The device's token goes on reaching what it reached, so the caller must hold that too.
    let known = gateway.devices.get(&pending.device_id).filter(|known| known.public_key == pending.public_key);
    let live = known.and_then(|known| known.token(role)).filter(|token| token.revoked_at_ms.is_none());
    let reaches = live.map_or_else(Scopes::none, |token| Scopes::from_names(&token.scopes)).union(&wanted);
    must_hold(&call.caller, role, &reaches)?;
    let ask = Ask {
        device_id: &pending.device_id,
        public_key: &pending.public_key,
        role,
        scopes: &wanted,
        profile: &pending.profile,
    };
    let mut record = gateway.devices.approved(&ask, VIA_OWNER, call.now_ms);
    record.ensure_token(role, &wanted, call.now_ms);
    let answer = json!({ "requestId": request_id, "device": wire(&record, call.protocol()) });
    gateway.devices.resolve(&request_id);
    gateway.devices.put(record.clone());
    gateway.audit(call, "device.pair.approve", &record.device_id);
    gateway.pairing_resolved(&request_id, &record.device_id, "approved", call.now_ms);
    let facts = vec![Fact::PairAnswered { request_id: request_id.clone(), end: End::Approved }];
    gateway.store_tell_and_answer(call, &answer, facts, move |db| {
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
    let hidden = || match confined_to(&call.caller) {
        Some(_) => denied(call, "pairing rejection", "unknown requestId"),
        None => RpcError::invalid("unknown requestId"),
    };
    let pending = gateway.devices.request(&request_id, call.now_ms).cloned().ok_or_else(hidden)?;
    if !may_manage(&call.caller, &pending.device_id) {
        return Err(hidden());
    }
    gateway.devices.resolve(&request_id);
    gateway.audit(call, "device.pair.reject", &pending.device_id);
    gateway.pairing_resolved(&request_id, &pending.device_id, "rejected", call.now_ms);
    let answer = json!({ "requestId": request_id, "deviceId": pending.device_id });
    let facts = vec![Fact::PairAnswered { request_id: request_id.clone(), end: End::Rejected }];
    let codes = gateway.setups.revoke_of(&pending.device_id);
    gateway.store_tell_and_answer(call, &answer, facts, move |db| {
        setups::forget(db, &codes)?;
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
    must_change(gateway, call, &device_id, "pairing removal")?;
    let asked = gateway.devices.pending(call.now_ms).into_iter().filter(|pending| pending.device_id == device_id);
    let facts = asked
        .map(|pending| Fact::PairAnswered { request_id: pending.request_id.clone(), end: End::Rejected })
        .collect();
    gateway.devices.remove(&device_id);
    gateway.audit(call, "device.pair.remove", &device_id);
    // Protocol 3's own gateway leaves a removed device connected; authority that is gone must not go on acting.
    gateway.close_device(&device_id, None, "device removed", call.conn());
    let answer = json!({ "deviceId": device_id });
    let codes = gateway.setups.revoke_of(&device_id);
    gateway.store_tell_and_answer(call, &answer, facts, move |db| {
        setups::forget(db, &codes)?;
        db.device_delete(&device_id)?;
        Ok(())
    })
}

/// The record of a device that the caller may rename or remove.
fn must_change(gateway: &Gateway, call: &Call, device_id: &str, what: &str) -> Result<Paired, RpcError> {
    let record = gateway.devices.get(device_id);
    let may = match record {
        Some(record) => may_change(&call.caller, record),
        None => may_manage(&call.caller, device_id),
    };
    if !may {
        return Err(denied(call, what, "unknown deviceId"));
    }
    record.cloned().ok_or_else(|| RpcError::invalid("unknown deviceId"))
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
    if label.is_empty() {
        return Err(RpcError::invalid("label required"));
    }
    let mut record = must_change(gateway, call, &device_id, "pairing rename")?;
    record.operator_label = Some(label.clone());
    gateway.devices.put(record.clone());
    gateway.audit(call, "device.pair.rename", &device_id);
    if let Ok(payload) = Json::of(&json!({})) {
        gateway.broadcast(&broadcast::DEVICE_PAIR_CHANGED, For::All, &payload);
    }
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
    let denied = || denied(call, what, UNKNOWN_TOKEN);
    let role = Role::parse(Some(role)).ok_or_else(denied)?;
    let record = gateway.devices.get(device_id).filter(|_| may_manage(&call.caller, device_id));
    let record = record.ok_or_else(denied)?;
    if !record.roles.iter().any(|known| known == role.as_str()) || role == Role::Node && !call.caller.is_admin() {
        return Err(denied());
    }
    Ok((record.clone(), role))
}

/// What protocol 3 says of a token that is not there, or not the caller's to touch.
const UNKNOWN_TOKEN: &str = "unknown deviceId/role";

/// Refuses who would touch a token that reaches further than he does himself.
fn must_reach(call: &Call, role: Role, scopes: &Scopes, what: &str) -> Result<(), RpcError> {
    must_hold(&call.caller, role, scopes).map_err(|refusal| denied(call, what, &refusal.message))
}

fn rotate(gateway: &mut Gateway, call: &Call, params: RotateParams) -> Result<(), RpcError> {
    let device_id = params.device_id.0;
    let (mut record, role) = token_of(gateway, call, &device_id, &params.role.0, "token rotation")?;
    let held = record.token(role).map_or_else(Scopes::none, |token| Scopes::from_names(&token.scopes));
    let wanted = match &params.scopes {
        Some(names) => Scopes::from_names(names.iter().map(|name| &name.0)),
        None => held,
    };
    // A node's token reaches its commands, and no scope.
    let within = if role == Role::Operator { record.granted().cover(&wanted) } else { wanted.is_empty() };
    if !within {
        return Err(denied(call, "token rotation", UNKNOWN_TOKEN));
    }
    must_reach(call, role, &wanted, "token rotation")?;
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
    let (mut record, role) = token_of(gateway, call, &device_id, &params.role.0, "token revocation")?;
    let reaches = record.token(role).map_or_else(Scopes::none, |token| Scopes::from_names(&token.scopes));
    must_reach(call, role, &reaches, "token revocation")?;
    if !record.revoke(role, call.now_ms) {
        return Err(denied(call, "token revocation", UNKNOWN_TOKEN));
    }
    gateway.devices.put(record.clone());
    gateway.audit(call, "device.token.revoke", &device_id);
    gateway.close_device(&device_id, Some(role), "client invalidated: device token revoked", call.conn());
    let answer = json!({ "deviceId": device_id, "role": role.as_str(), "revokedAtMs": call.now_ms });
    gateway.store_and_answer(call, &answer, move |db| records::put_paired(db, &record))
}

/// Scopes of one request for more, as protocol 4's contract bounds them.
const UPGRADE_SCOPES_MAX: usize = 8;

/// One to [`UPGRADE_SCOPES_MAX`] different scopes.
#[derive(Clone, Debug)]
pub struct UpgradeScopes(Vec<NonEmpty>);

impl Param for UpgradeScopes {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let names = Vec::<NonEmpty>::read(value, path, issues)?;
        let n_different = Scopes::from_names(names.iter().map(|name| &name.0)).names().len();
        let why = match names.len() {
            0 => "must not have fewer than 1 items".to_owned(),
            n if n > UPGRADE_SCOPES_MAX => format!("must not have more than {UPGRADE_SCOPES_MAX} items"),
            n if n != n_different => "must not have duplicate items".to_owned(),
            _ => return Some(UpgradeScopes(names)),
        };
        issues.wrong(path, why);
        None
    }
}

crate::params! {
    /// All the scopes that a connected device wants, those it has included.
    pub struct UpgradeParams {
        scopes: UpgradeScopes = "scopes",
    }
}

/// The device behind a call, when it is paired: only such a one can be granted more.
fn own_record(gateway: &Gateway, call: &Call) -> Result<Paired, RpcError> {
    let record = call.caller.device_id.as_deref().and_then(|id| gateway.devices.get(id));
    record.cloned().ok_or_else(|| {
        let text = "device scope upgrade requires a paired browser identity; reopen the Control UI over HTTPS or \
                    localhost, then retry";
        let details = json!({
            "code": "DEVICE_IDENTITY_REQUIRED",
            "recommendedNextStep": "reopen_control_ui_securely",
        });
        RpcError::invalid(text).with_details(details)
    })
}

fn request_upgrade(gateway: &mut Gateway, call: &Call, params: UpgradeParams) -> Result<(), RpcError> {
    let record = own_record(gateway, call)?;
    let wanted = Scopes::from_names(params.scopes.0.iter().map(|name| &name.0));
    if wanted.names().iter().any(|name| Scope::parse(name).is_none()) {
        return Err(RpcError::invalid("requested scopes contain an unknown operator scope"));
    }
    if !wanted.cover(&call.caller.scopes) {
        return Err(RpcError::invalid("requested scopes must include the connection's current scopes"));
    }
    let ask = Ask {
        device_id: &record.device_id,
        public_key: &record.public_key,
        role: Role::Operator,
        scopes: &wanted,
        profile: &record.profile,
    };
    let pending = gateway.devices.ask(&ask, call.now_ms);
    let pushed_out = gateway.upgrades.follow(&pending.request_id, &record.device_id, &wanted, call.now_ms);
    if let Some(upgrade) = pushed_out {
        gateway.tell_upgrade(&upgrade.asked(), End::Expired, upgrade.into_waiters());
    }
    gateway.audit(call, "device.scopes.requestUpgrade", &record.device_id);
    if let Ok(payload) = Json::of(&pending) {
        gateway.broadcast(&broadcast::DEVICE_PAIR_REQUESTED, For::All, &payload);
    }
    let answer = json!({ "requestId": pending.request_id });
    gateway.store_and_answer(call, &answer, move |db| records::put_pending(db, &pending))
}

fn wait_upgrade(gateway: &mut Gateway, call: &Call, params: RequestParams) -> Result<(), RpcError> {
    let device_id = own_record(gateway, call)?.device_id;
    let request_id = params.request_id.0;
    let Some(upgrade) = gateway.upgrades.find(&request_id, &device_id) else {
        return Err(RpcError::invalid("scope upgrade expired or not found"));
    };
    let waiter = (call.conn(), call.id.clone());
    if let Some(end) = upgrade.end() {
        let asked = upgrade.asked();
        gateway.tell_upgrade(&asked, end, vec![waiter]);
        return Ok(());
    }
    let (clients, http_calls) = (&gateway.clients, &gateway.http_calls);
    if !upgrade.wait(waiter, |conn| clients.ready(conn).is_some() || http_calls.contains_key(&conn)) {
        return Err(RpcError::busy("too many calls wait for this scope upgrade", BUSY_RETRY_MS));
    }
    Ok(())
}

impl Gateway {
    /// A request to be paired ended: who asked for it while connected hears how.
    pub(in crate::gateway) fn upgrade_ended(&mut self, request_id: &str, end: End, now_ms: i64) {
        if let Some((asked, waiters)) = self.upgrades.ended(request_id, end, now_ms) {
            self.tell_upgrade(&asked, end, waiters);
        }
    }

    /// Ends the requests nobody answered in time.
    pub(in crate::gateway) fn expire_upgrades(&mut self, now_ms: i64) {
        for request_id in self.upgrades.overdue(now_ms) {
            self.upgrade_ended(&request_id, End::Expired, now_ms);
        }
    }

    /// Answers calls that waited. The device gets its token here because the call came from the device itself; an
    /// approval that does not reach as far as was asked is none.
    fn tell_upgrade(&mut self, asked: &Asked, end: End, waiters: Vec<Waiter>) {
        let request_id = &asked.request_id;
        let record = self.devices.get(&asked.device_id);
        let token = record.and_then(|record| {
            let secret = record.secret(Role::Operator, &self.token_key)?;
            let scopes = Scopes::from_names(&record.token(Role::Operator)?.scopes);
            scopes.cover(&asked.scopes).then(|| (secret, scopes.names().to_vec()))
        });
        let answer = match (end, token) {
            (End::Approved, Some((secret, scopes))) => {
                json!({ "status": "approved", "requestId": request_id, "deviceToken": secret, "scopes": scopes })
            }
            (End::Expired, _) => json!({ "status": "expired", "requestId": request_id }),
            (End::Approved | End::Rejected, _) => json!({ "status": "rejected", "requestId": request_id }),
        };
        for (conn, id) in waiters {
            self.answer_request(conn, &id, Json::of(&answer));
        }
    }
}
