//! What the operator says of commands: the document of exec approvals, here and on nodes.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::gateway::table::{Call, QueryCx, StoreCx, need};
use crate::gateway::{Fact, Gateway};
use crate::protocol::error::RpcError;
use crate::protocol::params::{Issues, NonEmpty, Nothing, Object, Param, Params};
use crate::protocol::version::Protocol;
use crate::store::StoreError;
use crate::store::dir::DATABASE_FILE;
use crate::tools::exec_policy::document::Document;

crate::methods! {
    "exec.approvals.get",      Both, need::ADMIN, need::ADMIN, Query get;
    "exec.approvals.set",      Both, need::ADMIN, need::ADMIN, Store set;
    "exec.approvals.node.get", Both, need::ADMIN, need::ADMIN, Loop node_get;
    "exec.approvals.node.set", Both, need::ADMIN, need::ADMIN, Loop node_set;
}

/// The document as a client is shown it, with what a change of it must name.
fn shown(document: &Document, state_dir: &str, protocol: Protocol) -> Value {
    let mut out = json!({
        "path": format!("{state_dir}/{DATABASE_FILE}#exec_approvals"),
        // Without a word of the operator's an empty document is in force: it is there, and can be changed.
        "exists": true,
        "hash": document.hash(),
        "file": document.shown(Path::new(state_dir)),
    });
    if protocol == Protocol::V4 {
        out["resolvedDefaults"] = document.resolved_defaults().shown();
    }
    out
}

fn get(cx: QueryCx<'_>, _params: Nothing) -> Result<Value, RpcError> {
    let state_dir = &*cx.snapshot.state_dir;
    Ok(shown(&Document::load(cx.store.get()?, Path::new(state_dir))?, state_dir, cx.call.protocol()))
}

crate::params! {
    /// A document in place of the one that is in force.
    pub struct SetParams {
        file: File = "file",
        base_hash: Option<NonEmpty> = "baseHash",
    }
}

/// A document as the contract has it.
#[derive(Debug, Clone)]
pub struct File(Value);

impl Param for File {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let object = Object::read(value, path, issues)?.0;
        let version = object.get("version");
        if version.is_none() {
            issues.missing(path, "version");
        } else if version.and_then(Value::as_f64) != Some(1.0) {
            issues.wrong(&format!("{path}/version"), "must be equal to constant");
        }
        closed(&object, path, &["version", "socket", "defaults", "agents"], issues);
        fields(object.get("socket"), &format!("{path}/socket"), &SOCKET, issues);
        fields(object.get("defaults"), &format!("{path}/defaults"), &RULES, issues);
        if let Some(agents) = object.get("agents") {
            let agents = Object::read(agents, &format!("{path}/agents"), issues)?.0;
            for (name, agent) in &agents {
                let place = format!("{path}/agents/{name}");
                fields(Some(agent), &place, &AGENT, issues);
                let entries = agent.get("allowlist").and_then(Value::as_array);
                for (idx, entry) in entries.into_iter().flatten().enumerate() {
                    let place = format!("{place}/allowlist/{idx}");
                    fields(Some(entry), &place, &ENTRY, issues);
                    if entry.is_object() && entry.get("pattern").is_none() {
                        issues.missing(&place, "pattern");
                    }
                }
            }
        }
        issues.is_empty().then(|| File(value.clone()))
    }
}

/// Names of fields with what they must be.
type Fields = [(&'static str, Is)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    Text,
    Flag,
    Number,
    List,
}

const SOCKET: [(&str, Is); 2] = [("path", Is::Text), ("token", Is::Text)];
const RULES: [(&str, Is); 4] =
    [("security", Is::Text), ("ask", Is::Text), ("askFallback", Is::Text), ("autoAllowSkills", Is::Flag)];
const AGENT: [(&str, Is); 6] = [
    ("security", Is::Text),
    ("ask", Is::Text),
    ("askFallback", Is::Text),
    ("autoAllowSkills", Is::Flag),
    ("allowlist", Is::List),
    ("mcpTools", Is::List),
];
const ENTRY: [(&str, Is); 8] = [
    ("id", Is::Text),
    ("pattern", Is::Text),
    ("source", Is::Text),
    ("commandText", Is::Text),
    ("argPattern", Is::Text),
    ("lastUsedAt", Is::Number),
    ("lastUsedCommand", Is::Text),
    ("lastResolvedPath", Is::Text),
];

fn closed(object: &Map<String, Value>, path: &str, known: &[&str], issues: &mut Issues) {
    for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
        issues.unexpected(path, name);
    }
}

/// Looks at an object of plain fields.
fn fields(value: Option<&Value>, path: &str, known: &Fields, issues: &mut Issues) {
    let Some(value) = value else { return };
    let Some(Object(object)) = Object::read(value, path, issues) else { return };
    closed(&object, path, &known.iter().map(|(name, _)| *name).collect::<Vec<_>>(), issues);
    for (name, is) in known {
        let Some(value) = object.get(*name) else { continue };
        let (fits, what) = match is {
            Is::Text => (value.is_string(), "must be string"),
            Is::Flag => (value.is_boolean(), "must be boolean"),
            Is::Number => (value.is_number(), "must be number"),
            Is::List => (value.is_array(), "must be array"),
        };
        if !fits {
            issues.wrong(&format!("{path}/{name}"), what);
        }
    }
}

fn set(cx: StoreCx<'_>, params: SetParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let state_dir = &*cx.snapshot.state_dir;
    let document = Document::load(cx.db, Path::new(state_dir))?;
    let refuse = |what: &str| {
        Err(RpcError::invalid(format!("exec approvals {what}; re-run exec.approvals.get and retry")).into())
    };
    match &params.base_hash {
        None => return refuse("base hash required"),
        Some(hash) if hash.0 != document.hash() => return refuse("changed since last load"),
        Some(_) => {}
    }
    let document = document.replaced_by(&params.file.0);
    document.save(cx.db, cx.call.now_ms)?;
    super::audit(&cx, "exec-approvals")?;
    Ok((shown(&document, state_dir, cx.call.protocol()), Vec::new()))
}

crate::params! {
    /// Which node.
    pub struct NodeGetParams {
        node_id: NonEmpty = "nodeId",
    }
}

crate::params! {
    /// What a node is to be told.
    pub struct NodeSetFields {
        node_id: NonEmpty = "nodeId",
        file: Option<File> = "file",
        base_hash: Option<NonEmpty> = "baseHash",
        @v4 { native: Option<Object> = "native", }
    }
}

/// The same, one form or the other.
#[derive(Debug, Clone)]
pub struct NodeSetParams(NodeSetFields);

impl Params for NodeSetParams {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        let read = NodeSetFields::read_fields(object, path, issues);
        let (has_file, has_native) = (object.contains_key("file"), object.contains_key("native"));
        match issues.protocol() {
            Protocol::V3 if !has_file => issues.missing(path, "file"),
            Protocol::V4 if has_file == has_native => {
                if !has_file {
                    issues.wrong(path, "must have required property 'file'");
                    issues.wrong(path, "must have required property 'native'");
                }
                issues.wrong(path, "must match exactly one schema in oneOf");
            }
            _ => {}
        }
        read.map(NodeSetParams)
    }
}

fn node_get(_gateway: &mut Gateway, call: &Call, params: NodeGetParams) -> Result<Value, RpcError> {
    Err(not_connected(call, &params.node_id.0))
}

fn node_set(_gateway: &mut Gateway, call: &Call, params: NodeSetParams) -> Result<Value, RpcError> {
    Err(not_connected(call, &params.0.node_id.0))
}

/// No node takes commands in this build, so none can be asked.
fn not_connected(call: &Call, node_id: &str) -> RpcError {
    if node_id.trim().is_empty() {
        return RpcError::invalid("nodeId required");
    }
    let error = json!({ "code": "NOT_CONNECTED", "message": "node not connected" });
    match call.protocol() {
        Protocol::V3 => RpcError::unavailable("node not connected").with_details(json!({ "nodeError": error })),
        Protocol::V4 => RpcError::unavailable("NOT_CONNECTED: node not connected")
            .with_details(json!({ "nodeError": error, "nodeCommandDispatched": false })),
    }
}
