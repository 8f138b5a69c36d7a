//! What lies in a conversation beside its words: the pictures and files of its messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::chat::session_key;
use crate::gateway::table::{QueryCx, need};
use crate::intake::uploads::FILE_BYTES_MAX_V4;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{self, Int, Issues, NonEmpty, Params, Text};
use crate::sessions::media::Media;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::media::MediaDir;
use crate::store::transcript::{PageAt, PageLimits};

crate::methods! {
    "artifacts.list",     V4, need::ADMIN, need::READ, Query list;
    "artifacts.get",      V4, need::ADMIN, need::READ, Query get;
    "artifacts.download", V4, need::ADMIN, need::READ, Query download;
}

/// Artifacts of one list, the newest.
pub const LISTED_MAX: usize = 200;
/// Messages of a conversation that are looked through for them, the newest.
pub const MESSAGES_SEEN_MAX: usize = 2000;
/// Messages read at once.
const PAGE_ROWS: usize = 500;
/// A message that is larger than this is all words.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// What an artifact's id begins with; the rest names its bytes.
const ID_PREFIX: &str = "artifact_";

crate::words! {
    /// Whose messages.
    pub enum Role {
        /// The agent's.
        Assistant = "assistant",
    }
}

crate::words! {
    /// Which kind of artifact.
    pub enum Kind {
        /// Pictures.
        Image = "image",
    }
}

crate::words! {
    /// How bytes would rather be had. They come with the answer, however they are asked for.
    pub enum Transport {
        /// From an address.
        Http = "http",
    }
}

crate::params! {
    /// Which conversation, whose messages of it, and which artifacts.
    pub struct Asked {
        artifact_id: Option<NonEmpty> = "artifactId",
        session_key: Option<NonEmpty> = "sessionKey",
        run_id: Option<NonEmpty> = "runId",
        task_id: Option<NonEmpty> = "taskId",
        agent_id: Option<NonEmpty> = "agentId",
        message_role: Option<Role> = "messageRole",
        kind: Option<Kind> = "type",
        limit: Option<Int<1, 4>> = "limit",
        cursor: Option<Text<1, 256>> = "cursor",
        transport: Option<Transport> = "transport",
    }
}

/// Fields of [`Asked`] that not every method has.
const NOT_EVERYWHERE: [&str; 5] = ["artifactId", "type", "limit", "cursor", "transport"];

/// Reads what a method takes: the conversation, and `own` of the other fields.
fn read(object: &Map<String, Value>, path: &str, issues: &mut Issues, own: &[&str]) -> Option<Asked> {
    for name in NOT_EVERYWHERE {
        if params::find(object, name).is_some() && !own.contains(&name) {
            issues.unexpected(path, name);
        }
    }
    let asked = Asked::read_fields(object, path, issues)?;
    if asked.artifact_id.is_none() && own.contains(&"artifactId") {
        issues.missing(path, "artifactId");
    }
    Some(asked)
}

/// Those of a conversation.
#[derive(Debug, Clone)]
pub struct List(Asked);

impl Params for List {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        read(object, path, issues, &["type", "limit", "cursor"]).map(List)
    }
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Get(Asked);

impl Params for Get {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        read(object, path, issues, &["artifactId"]).map(Get)
    }
}

/// One of them with its bytes.
#[derive(Debug, Clone)]
pub struct Download(Asked);

impl Params for Download {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        read(object, path, issues, &["artifactId", "transport"]).map(Download)
    }
}

/// One of them, and where it stands.
struct Artifact {
    media: Media,
    seq: u64,
    run_id: Option<String>,
}

fn refuse(kind: &str, text: &str) -> RpcError {
    RpcError::invalid(text).with_details(json!({ "type": kind }))
}

/// The artifacts of a conversation, the newest first.
fn find(cx: &mut QueryCx<'_>, asked: &Asked) -> Result<(String, Vec<Artifact>), RpcError> {
    let nowhere = || refuse("artifact_scope_not_found", "no session found for artifact query");
    let key = match (&asked.session_key, &asked.run_id, &asked.task_id) {
        (Some(key), ..) => session_key(&key.0, asked.agent_id.as_ref(), &cx.snapshot.keys)?.as_str().to_owned(),
        // A run that has ended is found by its session.
        (None, Some(run_id), _) => cx.snapshot.runs.session_of(&run_id.0).ok_or_else(nowhere)?.to_owned(),
        (None, None, Some(_)) => return Err(nowhere()),
        (None, None, None) => {
            let text = "artifacts require one of sessionKey, runId, or taskId";
            return Err(refuse("artifact_query_unsupported", text));
        }
    };
    let db = cx.store.get()?;
    let session = db.session(&key)?.ok_or_else(nowhere)?;
    let run_id = asked.run_id.as_ref().map(|run_id| run_id.0.as_str());
    let found = db.snapshot(|db| look(db, &session.session_id, asked.message_role, run_id))?;
    Ok((key, found))
}

/// Looks through a transcript, from its end.
fn look(db: &Queries, session_id: &str, role: Option<Role>, run_id: Option<&str>) -> Result<Vec<Artifact>, StoreError> {
    let limits = PageLimits {
        rows_max: PAGE_ROWS,
        page_bytes_max: PAGE_ROWS * MESSAGE_BYTES_MAX,
        message_bytes_max: MESSAGE_BYTES_MAX,
    };
    let (mut found, mut n_seen) = (Vec::new(), 0);
    while n_seen < MESSAGES_SEEN_MAX && found.len() < LISTED_MAX {
        let page = db.transcript_page(session_id, PageAt::BeforeNewest(n_seen as u64), limits)?;
        n_seen += page.messages.len();
        for row in page.messages.iter().rev() {
            if role.is_some_and(|role| row.role != role.as_str()) {
                continue;
            }
            let Some(message) = row.message.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
                continue;
            };
            let own_run = message.pointer("/__openclaw/runId").and_then(Value::as_str).map(str::to_owned);
            if run_id.is_some() && own_run.as_deref() != run_id {
                continue;
            }
            let of_message = Media::in_message(&message).into_iter();
            found.extend(of_message.map(|media| Artifact { media, seq: row.seq, run_id: own_run.clone() }));
        }
        if page.messages.is_empty() || !page.has_older {
            break;
        }
    }
    found.truncate(LISTED_MAX);
    Ok(found)
}

impl Artifact {
    fn id(&self) -> String {
        format!("{ID_PREFIX}{}", self.media.id)
    }

    fn wire(&self, session_key: &str) -> Value {
        let kind = if self.media.mime_type.starts_with("image/") { "image" } else { "file" };
        let mut out = json!({
            "id": self.id(),
            "type": kind,
            "title": self.media.name(),
            "mimeType": self.media.mime_type,
            "sizeBytes": self.media.bytes,
            "sessionKey": session_key,
            "messageSeq": self.seq,
            "source": "session-transcript",
            "download": { "mode": "bytes" },
        });
        if let Some(run_id) = self.run_id.as_ref().filter(|run_id| !run_id.is_empty()) {
            out["runId"] = json!(run_id);
        }
        out
    }
}

fn list(mut cx: QueryCx<'_>, List(asked): List) -> Result<Value, RpcError> {
    if asked.kind.is_none() && (asked.limit.is_some() || asked.cursor.is_some()) {
        return Err(refuse("artifact_query_unsupported", "limit and cursor require type image"));
    }
    if asked.cursor.is_some() {
        // A list comes whole, so none was given out.
        return Err(refuse("artifact_cursor_invalid", "this cursor is of no list; begin anew without it"));
    }
    let (key, mut found) = find(&mut cx, &asked)?;
    if asked.kind.is_some() {
        found.retain(|artifact| artifact.media.is_picture());
    }
    found.truncate(asked.limit.map_or(LISTED_MAX, |limit| limit.0 as usize));
    // Oldest first, as they stand in the conversation.
    Ok(json!({ "artifacts": found.iter().rev().map(|artifact| artifact.wire(&key)).collect::<Vec<_>>() }))
}

fn one(cx: &mut QueryCx<'_>, asked: &Asked) -> Result<(String, Artifact), RpcError> {
    let (key, found) = find(cx, asked)?;
    let id = asked.artifact_id.as_ref().map_or("", |id| &id.0);
    let artifact = found.into_iter().find(|artifact| artifact.id() == id);
    let artifact = artifact.ok_or_else(|| {
        let details = json!({ "type": "artifact_not_found", "artifactId": id });
        RpcError::invalid("artifact not found").with_details(details)
    })?;
    Ok((key, artifact))
}

fn get(mut cx: QueryCx<'_>, Get(asked): Get) -> Result<Value, RpcError> {
    let (key, artifact) = one(&mut cx, &asked)?;
    Ok(json!({ "artifact": artifact.wire(&key) }))
}

fn download(mut cx: QueryCx<'_>, Download(asked): Download) -> Result<Value, RpcError> {
    let (key, artifact) = one(&mut cx, &asked)?;
    let dir = MediaDir::of(&cx.snapshot.config.state_dir);
    let bytes = dir.read(&artifact.media.id, FILE_BYTES_MAX_V4 as u64).map_err(|_| {
        let details = json!({ "type": "artifact_download_unsupported", "artifactId": artifact.id() });
        RpcError::invalid("the file is not kept any more").with_details(details)
    })?;
    Ok(json!({ "artifact": artifact.wire(&key), "encoding": "base64", "data": BASE64.encode(bytes) }))
}
