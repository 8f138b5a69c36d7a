//! What lies in a conversation beside its words: the pictures and files of its messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::chat::session_key;
use crate::gateway::table::{QueryCx, need};
use crate::intake::uploads::FILE_BYTES_MAX_V4;
use crate::protocol::error::RpcError;
use crate::protocol::params::{Int, NonEmpty, Text};
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

crate::params! {
    /// Which conversation, and which part of what lies in it.
    pub struct ListParams {
        session_key: Option<NonEmpty> = "sessionKey",
        run_id: Option<NonEmpty> = "runId",
        task_id: Option<NonEmpty> = "taskId",
        agent_id: Option<NonEmpty> = "agentId",
        message_role: Option<Role> = "messageRole",
        kind: Option<Kind> = "type",
        limit: Option<Int<1, 4>> = "limit",
        cursor: Option<Text<1, 256>> = "cursor",
    }
}

crate::params! {
    /// Which artifact of which conversation.
    pub struct GetParams {
        artifact_id: NonEmpty = "artifactId",
        session_key: Option<NonEmpty> = "sessionKey",
        run_id: Option<NonEmpty> = "runId",
        task_id: Option<NonEmpty> = "taskId",
        agent_id: Option<NonEmpty> = "agentId",
        message_role: Option<Role> = "messageRole",
    }
}

crate::params! {
    /// The same. Its bytes come with the answer, however they are asked for.
    pub struct DownloadParams {
        artifact_id: NonEmpty = "artifactId",
        session_key: Option<NonEmpty> = "sessionKey",
        run_id: Option<NonEmpty> = "runId",
        task_id: Option<NonEmpty> = "taskId",
        agent_id: Option<NonEmpty> = "agentId",
        message_role: Option<Role> = "messageRole",
        transport: Option<Transport> = "transport",
    }
}

crate::words! {
    /// How bytes would rather be had.
    pub enum Transport {
        /// From an address.
        Http = "http",
    }
}

/// What a caller says of the conversation.
struct Scope<'a> {
    session_key: Option<&'a NonEmpty>,
    run_id: Option<&'a NonEmpty>,
    task_id: Option<&'a NonEmpty>,
    agent_id: Option<&'a NonEmpty>,
    role: Option<Role>,
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
fn find(cx: &mut QueryCx<'_>, scope: &Scope<'_>) -> Result<(String, Vec<Artifact>), RpcError> {
    let nowhere = || refuse("artifact_scope_not_found", "no session found for artifact query");
    let key = match (scope.session_key, scope.run_id, scope.task_id) {
        (Some(key), ..) => session_key(&key.0, scope.agent_id, &cx.snapshot.keys)?.as_str().to_owned(),
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
    let run_id = scope.run_id.map(|run_id| run_id.0.as_str());
    let found = db.snapshot(|db| look(db, &session.session_id, scope.role, run_id))?;
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

fn list(mut cx: QueryCx<'_>, params: ListParams) -> Result<Value, RpcError> {
    if params.kind.is_none() && (params.limit.is_some() || params.cursor.is_some()) {
        return Err(refuse("artifact_query_unsupported", "limit and cursor require type image"));
    }
    if params.cursor.is_some() {
        // A list comes whole, so none was given out.
        return Err(refuse("artifact_cursor_invalid", "this cursor is of no list; begin anew without it"));
    }
    let scope = Scope {
        session_key: params.session_key.as_ref(),
        run_id: params.run_id.as_ref(),
        task_id: params.task_id.as_ref(),
        agent_id: params.agent_id.as_ref(),
        role: params.message_role,
    };
    let (key, mut found) = find(&mut cx, &scope)?;
    if params.kind.is_some() {
        found.retain(|artifact| artifact.media.is_picture());
    }
    found.truncate(params.limit.map_or(LISTED_MAX, |limit| limit.0 as usize));
    // Oldest first, as they stand in the conversation.
    Ok(json!({ "artifacts": found.iter().rev().map(|artifact| artifact.wire(&key)).collect::<Vec<_>>() }))
}

fn one(cx: &mut QueryCx<'_>, scope: &Scope<'_>, id: &str) -> Result<(String, Artifact), RpcError> {
    let (key, found) = find(cx, scope)?;
    let artifact = found.into_iter().find(|artifact| artifact.id() == id);
    let artifact = artifact.ok_or_else(|| {
        let details = json!({ "type": "artifact_not_found", "artifactId": id });
        RpcError::invalid("artifact not found").with_details(details)
    })?;
    Ok((key, artifact))
}

fn get(mut cx: QueryCx<'_>, params: GetParams) -> Result<Value, RpcError> {
    let scope = Scope {
        session_key: params.session_key.as_ref(),
        run_id: params.run_id.as_ref(),
        task_id: params.task_id.as_ref(),
        agent_id: params.agent_id.as_ref(),
        role: params.message_role,
    };
    let (key, artifact) = one(&mut cx, &scope, &params.artifact_id.0)?;
    Ok(json!({ "artifact": artifact.wire(&key) }))
}

fn download(mut cx: QueryCx<'_>, params: DownloadParams) -> Result<Value, RpcError> {
    let scope = Scope {
        session_key: params.session_key.as_ref(),
        run_id: params.run_id.as_ref(),
        task_id: params.task_id.as_ref(),
        agent_id: params.agent_id.as_ref(),
        role: params.message_role,
    };
    let (key, artifact) = one(&mut cx, &scope, &params.artifact_id.0)?;
    let dir = MediaDir::of(&cx.snapshot.config.state_dir);
    let bytes = dir.read(&artifact.media.id, FILE_BYTES_MAX_V4 as u64).map_err(|_| {
        let details = json!({ "type": "artifact_download_unsupported", "artifactId": params.artifact_id.0 });
        RpcError::invalid("the file is not kept any more").with_details(details)
    })?;
    Ok(json!({ "artifact": artifact.wire(&key), "encoding": "base64", "data": BASE64.encode(bytes) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::session_key::SessionKey;
    use crate::sessions::transcript;
    use crate::store::dir::StateDir;
    use crate::store::open::{Database, OnDamage};

    #[test]
    fn only_so_many_are_found_and_these_are_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let mut database = Database::open(&state, 1, OnDamage::Fail).unwrap().database;
        let key = SessionKey::stored("agent:main:a".to_owned());
        let (each, n_messages) = (10, LISTED_MAX / 10 + 3);
        let media =
            |n: usize| Media { id: format!("m{n}"), mime_type: "image/png".to_owned(), file_name: None, bytes: 1 };
        let session_id = database
            .write(|db| {
                let mut session_id = String::new();
                for message in 0..n_messages {
                    let facts: Vec<Value> = (0..each).map(|n| media(message * each + n).fact()).collect();
                    let new = transcript::New {
                        role: if message % 2 == 0 { "user" } else { "assistant" },
                        content: json!([]),
                        metadata: json!({ "media": facts, "runId": format!("r{message}") }),
                        idempotency_key: None,
                        extra: &[],
                        route: None,
                    };
                    session_id = transcript::add(db, &key, &new, 1)?.session.session_id;
                }
                Ok::<_, StoreError>(session_id)
            })
            .unwrap();
        let mut reader = crate::store::reader::LazyReader::new(database.path());
        let db = reader.get().unwrap();
        let all = look(db, &session_id, None, None).unwrap();
        assert_eq!(all.len(), LISTED_MAX);
        assert_eq!(all[0].seq, n_messages as u64, "the newest message first");
        assert!(all.iter().all(|artifact| artifact.seq > 3), "the oldest are left out");
        let by_agent = look(db, &session_id, Some(Role::Assistant), None).unwrap();
        assert!(by_agent.iter().all(|artifact| artifact.seq % 2 == 0) && by_agent.len() < LISTED_MAX);
        let of_run = look(db, &session_id, None, Some("r0")).unwrap();
        assert_eq!(of_run.len(), each);
    }
}
