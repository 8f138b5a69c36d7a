//! The documents of an agent's workspace that people edit: a fixed set of names, read and written whole.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::load::Loaded;
use crate::gateway::Fact;
use crate::gateway::table::{QueryCx, StoreCx};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{Issues, NonEmpty, Param};
use crate::protocol::session_key::agent_id;
use crate::protocol::version::Protocol;
use crate::runtime::beneath::{self, Folder, Found};
use crate::runtime::digest::sha256_hex;
use crate::store::StoreError;
use crate::store::audit::AuditRecord;

/// Largest document read or written, in bytes, as upstream's; a larger one is refused.
pub const DOCUMENT_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// A document by its name.
struct Document {
    name: &'static str,
    in_v3: bool,
    in_v4: bool,
    /// Whether protocol 4 lists it; it hides what it edits elsewhere.
    is_listed_v4: bool,
    /// Whether it is no surprise that it is missing.
    is_often_absent: bool,
}

const fn document(name: &'static str, in_v3: bool, in_v4: bool, is_often_absent: bool) -> Document {
    Document { name, in_v3, in_v4, is_listed_v4: in_v4, is_often_absent }
}

/// The documents, in the order of lists.
static DOCUMENTS: [Document; 9] = [
    document("AGENTS.md", true, true, false),
    document("SOUL.md", true, true, true),
    document("TOOLS.md", true, false, true),
    Document { is_listed_v4: false, ..document("IDENTITY.md", true, true, true) },
    document("USER.md", true, true, true),
    document("HEARTBEAT.md", true, false, true),
    document("BOOTSTRAP.md", true, true, false),
    document(MEMORY, true, true, true),
    document(MEMORY_OLD, true, false, true),
];

const MEMORY: &str = "MEMORY.md";
/// What protocol 3 also takes for [`MEMORY`], and lists only in its place.
const MEMORY_OLD: &str = "memory.md";

impl Document {
    fn is_known(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::V3 => self.in_v3,
            Protocol::V4 => self.in_v4,
        }
    }
}

/// An agent that is configured, and where it works.
pub(super) struct Place {
    pub(super) id: String,
    pub(super) workspace: PathBuf,
}

impl Place {
    /// Of the agent a caller names.
    ///
    /// # Errors
    /// There is no such agent, in the protocol's words.
    pub(super) fn of(config: &Loaded, asked: &str, protocol: Protocol) -> Result<Place, RpcError> {
        match config.settings.agents.get(&agent_id(asked)) {
            Some(agent) => Ok(Place { id: agent.id.clone(), workspace: agent.workspace.clone() }),
            None if protocol == Protocol::V3 => Err(RpcError::invalid("unknown agent id")),
            None => Err(not_found(asked)),
        }
    }

    /// Opens the workspace; `None` when it was never made.
    pub(super) fn open(&self) -> Result<Option<Folder>, RpcError> {
        match Folder::open(&self.workspace) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                log::warn!("workspace cannot be opened agent={} error={error}", self.id);
                Err(RpcError::unavailable("the agent's workspace cannot be opened"))
            }
        }
    }

    fn entry(&self, document: &Document) -> Value {
        json!({ "name": document.name, "path": self.workspace.join(document.name) })
    }
}

/// There is no agent of that name.
pub(super) fn not_found(asked: &str) -> RpcError {
    let asked: String = asked.chars().filter(|c| !c.is_control()).take(80).collect();
    RpcError::invalid(format!("agent \"{asked}\" not found"))
}

/// Makes a workspace with what stands above it.
///
/// # Errors
/// It cannot be made.
pub(super) fn make(workspace: &Path) -> Result<(), RpcError> {
    beneath::make(workspace).map_err(|error| {
        log::warn!("workspace cannot be made path={} error={error}", workspace.display());
        RpcError::unavailable("the agent's workspace cannot be made")
    })
}

crate::params! {
    /// Whose documents.
    pub struct ListParams {
        agent_id: NonEmpty = "agentId",
    }
}

pub(super) fn list(cx: QueryCx<'_>, params: ListParams) -> Result<Value, RpcError> {
    let protocol = cx.call.protocol();
    let place = Place::of(&cx.snapshot.config, &params.agent_id.0, protocol)?;
    let folder = place.open()?;
    let is_there = |name: &str| folder.as_ref().is_some_and(|folder| folder.file(&[name]).is_ok());
    let listed = DOCUMENTS.iter().filter(|document| match (protocol, document.name) {
        (Protocol::V3, MEMORY) => is_there(MEMORY) || !is_there(MEMORY_OLD),
        (Protocol::V3, MEMORY_OLD) => !is_there(MEMORY) && is_there(MEMORY_OLD),
        (Protocol::V3, _) => document.in_v3,
        (Protocol::V4, _) => document.is_listed_v4,
    });
    let files: Vec<Value> = listed
        .map(|document| {
            let found = folder.as_ref().and_then(|folder| folder.file(&[document.name]).ok());
            // What must not be read is shown as missing: its name is taken, and its content is nobody's to see.
            match found.filter(is_plain) {
                Some(found) => present(place.entry(document), found.bytes, found.modified_ns),
                None => absent(place.entry(document), document, protocol),
            }
        })
        .collect();
    Ok(json!({ "agentId": place.id, "workspace": place.workspace, "files": files }))
}

/// A file with names elsewhere may be anybody's.
fn is_plain(found: &Found) -> bool {
    found.n_links <= 1
}

fn present(mut entry: Value, bytes: u64, modified_ns: i128) -> Value {
    entry["missing"] = json!(false);
    entry["size"] = json!(bytes);
    entry["updatedAtMs"] = json!(i64::try_from(modified_ns / 1_000_000).unwrap_or(0));
    entry
}

fn absent(mut entry: Value, document: &Document, protocol: Protocol) -> Value {
    entry["missing"] = json!(true);
    if protocol == Protocol::V4 {
        entry["expectedAbsent"] = json!(document.is_often_absent);
    }
    entry
}

fn known(name: &str, protocol: Protocol) -> Result<&'static Document, RpcError> {
    let name = name.trim();
    let document = DOCUMENTS.iter().find(|document| document.name == name && document.is_known(protocol));
    document.ok_or_else(|| {
        let name: String = name.chars().filter(|c| !c.is_control()).take(120).collect();
        RpcError::invalid(format!("unsupported file \"{name}\""))
    })
}

/// The document's content; `None` when it is not there.
fn content(folder: Option<&Folder>, document: &Document) -> Result<Option<(Vec<u8>, i128)>, RpcError> {
    let Some(folder) = folder else { return Ok(None) };
    let found = match folder.file(&[document.name]) {
        Ok(found) if is_plain(&found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_taken(folder, document.name) => return Ok(None),
        Ok(_) | Err(_) => return Err(unsafe_file(document)),
    };
    let modified_ns = found.modified_ns;
    match found.read(DOCUMENT_BYTES_MAX) {
        Ok(bytes) => Ok(Some((bytes, modified_ns))),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(too_large(document)),
        Err(error) => {
            log::warn!("workspace file cannot be read name={} error={error}", document.name);
            Err(RpcError::unavailable(format!("workspace file \"{}\" cannot be read", document.name)))
        }
    }
}

/// Whether a name is held by what is no regular file.
fn is_taken(folder: &Folder, name: &str) -> bool {
    folder.folder(&[name]).is_ok() || folder.file(&[name]).is_err_and(|error| beneath::is_link(&error))
}

fn unsafe_file(document: &Document) -> RpcError {
    RpcError::invalid(format!("unsafe workspace file \"{}\"", document.name))
}

fn too_large(document: &Document) -> RpcError {
    RpcError::invalid(format!("workspace file \"{}\" is larger than {DOCUMENT_BYTES_MAX} bytes", document.name))
}

crate::params! {
    /// Which document.
    pub struct GetParams {
        agent_id: NonEmpty = "agentId",
        name: NonEmpty = "name",
    }
}

pub(super) fn get(cx: QueryCx<'_>, params: GetParams) -> Result<Value, RpcError> {
    let protocol = cx.call.protocol();
    let place = Place::of(&cx.snapshot.config, &params.agent_id.0, protocol)?;
    let document = known(&params.name.0, protocol)?;
    let file = match content(place.open()?.as_ref(), document)? {
        None => absent(place.entry(document), document, protocol),
        Some((bytes, modified_ns)) => whole(&place, document, &bytes, modified_ns, protocol),
    };
    Ok(json!({ "agentId": place.id, "workspace": place.workspace, "file": file }))
}

fn whole(place: &Place, document: &Document, bytes: &[u8], modified_ns: i128, protocol: Protocol) -> Value {
    let mut file = present(place.entry(document), bytes.len() as u64, modified_ns);
    if protocol == Protocol::V4 {
        file["hash"] = json!(hash(bytes));
    }
    file["content"] = json!(String::from_utf8_lossy(bytes));
    file
}

pub(in crate::gateway::methods) fn hash(bytes: &[u8]) -> String {
    sha256_hex(bytes)
}

/// A SHA-256 in hexadecimal.
#[derive(Debug, Clone)]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// In small letters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Param for Sha256Hex {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let text = String::read(value, path, issues)?;
        if text.len() != 64 || !text.chars().all(|c| c.is_ascii_hexdigit()) {
            issues.wrong(path, "must match pattern \"^[a-fA-F0-9]{64}$\"");
            return None;
        }
        Some(Sha256Hex(text.to_ascii_lowercase()))
    }
}

crate::params! {
    /// A document and what it is to hold.
    pub struct SetParams {
        agent_id: NonEmpty = "agentId",
        name: NonEmpty = "name",
        content: String = "content",
        @v4 { expected_hash: Option<Sha256Hex> = "expectedHash", }
    }
}

pub(super) fn set(cx: StoreCx<'_>, params: SetParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let protocol = cx.call.protocol();
    let place = Place::of(&cx.snapshot.config, &params.agent_id.0, protocol)?;
    let document = known(&params.name.0, protocol)?;
    let bytes = params.content.as_bytes();
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(too_large(document).into());
    }
    make(&place.workspace)?;
    let folder = place.open()?.ok_or_else(|| RpcError::unavailable("the agent's workspace cannot be opened"))?;
    // Also when nobody asked for a hash: what must not be read must not be replaced either.
    let before = match content(Some(&folder), document) {
        Err(error) if params.expected_hash.is_none() && error.message == too_large(document).message => None,
        other => other?,
    };
    if let Some(expected) = params.expected_hash {
        let current = before.map(|(bytes, _)| hash(&bytes));
        if current.as_deref() != Some(expected.0.as_str()) {
            let mut details = json!({ "type": "agent_file_conflict", "name": document.name });
            if let Some(current) = current {
                details["currentHash"] = json!(current);
            }
            let text = format!("agent file \"{}\" changed since it was read", document.name);
            return Err(RpcError::invalid(text).with_details(details).into());
        }
    }
    cx.db.audit_append(&AuditRecord {
        at_ms: cx.call.now_ms,
        actor: cx.call.caller.actor(),
        address: Some(cx.call.caller.address.to_string()),
        action: cx.call.method.to_owned(),
        resource: format!("{}/{}", place.id, document.name),
        outcome: "ok".to_owned(),
        request_id: Some(cx.call.id.clone()),
        detail: None,
    })?;
    let written = folder.replace(document.name, bytes).and_then(|()| folder.file(&[document.name]));
    let found = written.map_err(|error| {
        log::warn!("workspace file cannot be written agent={} name={} error={error}", place.id, document.name);
        RpcError::unavailable(format!("workspace file \"{}\" cannot be written", document.name))
    })?;
    let file = whole(&place, document, bytes, found.modified_ns, protocol);
    Ok((json!({ "ok": true, "agentId": place.id, "workspace": place.workspace, "file": file }), Vec::new()))
}
