//! Machines that offer commands: who is paired, who is here.

use serde_json::Value;

use crate::gateway::Gateway;
use crate::gateway::pairing::Paired;
use crate::gateway::table::{Call, need};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{NonEmpty, Nothing};
use crate::protocol::scope::Role;
use crate::protocol::version::Protocol;

crate::methods! {
    "node.list",     Both, need::READ, need::READ, Loop list;
    "node.describe", Both, need::READ, need::READ, Loop describe;
}

fn list(gateway: &mut Gateway, call: &Call, _params: Nothing) -> Result<Value, RpcError> {
    let mut nodes: Vec<Value> = gateway
        .devices
        .paired()
        .into_iter()
        .filter(|record| is_node(record))
        .map(|record| wire(gateway, record, call.protocol()))
        .collect();
    nodes.sort_by_key(|node| (node["connected"] != true, name_of(node)));
    Ok(json!({ "ts": call.now_ms, "nodes": nodes }))
}

fn name_of(node: &Value) -> String {
    let text = |name: &str| node.get(name).and_then(Value::as_str);
    text("displayName").or_else(|| text("nodeId")).unwrap_or_default().to_lowercase()
}

fn is_node(record: &Paired) -> bool {
    record.roles.iter().any(|role| role == Role::Node.as_str())
}

fn wire(gateway: &Gateway, record: &Paired, protocol: Protocol) -> Value {
    let here = gateway.clients.all_ready().find(|(_, ready)| {
        ready.caller.role == Role::Node && ready.caller.device_id.as_deref() == Some(&record.device_id)
    });
    let mut row = json!({ "nodeId": record.device_id });
    if let (Value::Object(row), Value::Object(profile)) = (&mut row, json!(record.profile)) {
        let v4 = protocol == Protocol::V4;
        row.extend(profile.into_iter().filter(|(name, _)| v4 || name != "clientId" && name != "clientMode"));
    }
    if let Some(label) = &record.operator_label {
        row["displayName"] = json!(label);
    }
    // What a node offers is not called by anything yet, so none of it is live.
    row["caps"] = json!([]);
    row["commands"] = json!([]);
    row["paired"] = json!(true);
    row["connected"] = json!(here.is_some());
    if let Some((_, ready)) = here {
        row["connectedAtMs"] = json!(ready.connected_at_ms);
    }
    if protocol == Protocol::V4 {
        row["approvedAtMs"] = json!(record.approved_at_ms);
        row["lastSeenAtMs"] = json!(record.last_seen_at_ms);
        row["lastSeenReason"] = json!("connect");
    }
    row
}

crate::params! {
    /// Which node.
    pub struct DescribeParams {
        node_id: NonEmpty = "nodeId",
    }
}

fn describe(gateway: &mut Gateway, call: &Call, params: DescribeParams) -> Result<Value, RpcError> {
    let record = gateway.devices.get(params.node_id.0.trim()).filter(|record| is_node(record));
    let record = record.ok_or_else(|| RpcError::invalid("unknown nodeId"))?;
    let mut row = wire(gateway, record, call.protocol());
    row["ts"] = json!(call.now_ms);
    Ok(row)
}
