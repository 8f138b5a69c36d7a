//! What clients see of an approval, in each protocol's form.

use serde_json::{Map, Value, json};

use super::{Approval, End, Kind, Record};
use crate::protocol::version::Protocol;

/// What protocol 3 knows of a request.
const FIELDS_V3: [&str; 8] = ["command", "cwd", "host", "security", "ask", "agentId", "resolvedPath", "sessionKey"];

/// The payload of `exec.approval.requested` and its like, and an entry of the lists.
pub fn asked(approval: &Approval, protocol: Protocol) -> Value {
    let request = &approval.record.request;
    let request = match protocol {
        Protocol::V4 => request.clone(),
        Protocol::V3 => {
            let fields = FIELDS_V3.iter().map(|name| ((*name).to_owned(), request[*name].clone()));
            Value::Object(fields.collect::<Map<_, _>>())
        }
    };
    let mut out = json!({
        "id": approval.id,
        "request": request,
        "createdAtMs": approval.created_ms,
        "expiresAtMs": approval.expires_ms,
    });
    if protocol == Protocol::V4 {
        out["approvalKind"] = json!(approval.kind.as_str());
    }
    out
}

/// The payload of `exec.approval.resolved` and its like.
pub fn resolved(approval: &Approval, end: &End, protocol: Protocol) -> Value {
    let mut out = json!({
        "id": approval.id,
        "decision": end.decision.map_or("deny", super::Decision::as_str),
        "resolvedBy": end.by,
        "ts": end.at_ms,
    });
    if protocol == Protocol::V4 {
        out["request"] = approval.record.request.clone();
    }
    out
}

/// The answer of a call that waited for the end.
pub fn waited(approval: &Approval, end: &End, with_reason: bool) -> Value {
    let mut out = json!({
        "id": approval.id,
        "decision": end.decision.map(super::Decision::as_str),
        "createdAtMs": approval.created_ms,
        "expiresAtMs": approval.expires_ms,
    });
    if with_reason {
        out["terminalReason"] = json!(end.reason.as_str());
    }
    out
}

/// What is shown to whoever is to answer.
fn presentation(kind: Kind, record: &Record) -> Value {
    let decisions: Vec<&str> = record.decisions.iter().map(|decision| decision.as_str()).collect();
    let field = |name: &str| record.request[name].clone();
    let mut out = match kind {
        Kind::Exec => json!({
            "kind": "exec",
            "commandText": field("command"),
            "commandPreview": field("commandPreview"),
            "warningText": field("warningText"),
            "host": field("host"),
            "nodeId": field("nodeId"),
            "agentId": field("agentId"),
        }),
        Kind::Plugin | Kind::SystemAgent => json!({
            "kind": kind.as_str(),
            "title": field("title"),
            "description": field("description"),
            "severity": record.request["severity"].as_str().unwrap_or("warning"),
            "pluginId": field("pluginId"),
            "toolName": field("toolName"),
            "agentId": field("agentId"),
        }),
    };
    for name in ["scope", "detail"] {
        if !record.request[name].is_null() {
            out[name] = field(name);
        }
    }
    out["allowedDecisions"] = json!(decisions);
    out
}

/// The whole of it: as `approval.get`, the history and `session.approval` show it.
pub fn snapshot(approval: &Approval, end: Option<&End>, base_path: &str) -> Value {
    let mut out = json!({
        "id": approval.id,
        "status": end.map_or("pending", End::status),
        "presentation": presentation(approval.kind, &approval.record),
        "urlPath": format!("{base_path}/approve/{}", encoded(&approval.id)),
        "createdAtMs": approval.created_ms,
        "expiresAtMs": approval.expires_ms,
    });
    let Some(end) = end else { return out };
    out["resolvedAtMs"] = json!(end.at_ms);
    out["reason"] = json!(end.reason.as_str());
    match end.status() {
        "allowed" => out["decision"] = json!(end.decision.map(super::Decision::as_str)),
        "denied" => out["decision"] = json!("deny"),
        _ => {}
    }
    out
}

/// The same with who asked and who answered, for the history.
pub fn told(approval: &Approval, end: Option<&End>, base_path: &str) -> Value {
    let mut out = snapshot(approval, end, base_path);
    let Some(end) = end else { return out };
    let mut source = json!({});
    for name in ["agentId", "sessionKey"] {
        if let Some(text) = approval.record.request[name].as_str() {
            source[name] = json!(text);
        }
    }
    out["source"] = source;
    let (kind, id) = &end.resolver;
    out["resolver"] = json!({ "kind": kind });
    if let Some(id) = id {
        out["resolver"]["id"] = json!(id);
    }
    out
}

/// A part of a path, as a browser writes it.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
