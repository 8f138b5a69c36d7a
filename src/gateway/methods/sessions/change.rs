//! Changing sessions, and ending them.

use serde_json::{Map, Value};

use super::{Keyed, audit, groups, refuse_web_chat, whole_key};
use crate::agent::talk::{Bill, Usage};
use crate::gateway::runs::close::{close_sessions, pay};
use crate::gateway::table::{Call, StoreCx};
use crate::gateway::{Done, Effect, Fact, Gateway, Job, Origin, Work};
use crate::protocol::error::RpcError;
use crate::protocol::frame::{Json, error_shape};
use crate::protocol::json::json;
use crate::protocol::params::{Any, Count, Int, Issues, NonEmpty, Param, Params, Patch};
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::runtime::{clock, random};
use crate::sessions::patch::{self as rules, Change, is_as_seen};
use crate::sessions::{list, row, transcript};
use crate::store::StoreError;
use crate::store::archive::ArchiveReason;
use crate::store::sessions::{SessionRow, TranscriptFate};

crate::params! {
    /// Which session, and what the caller saw of it: it is changed only if that still holds. In a guard, `null` expects
    /// nothing to be set.
    pub struct Target {
        key: NonEmpty = "key",
        @v4 {
            agent_id: Option<NonEmpty> = "agentId",
            session_id: Option<NonEmpty> = "expectedSessionId",
            lifecycle_revision: Option<NonEmpty> = "expectedLifecycleRevision",
            permission_mode: Patch<Any> = "expectedPermissionMode",
            sandbox_mode: Patch<Any> = "expectedSandboxMode",
            tool_overrides: Patch<Any> = "expectedToolOverrides",
            marked_unread_at: Patch<Any> = "expectedMarkedUnreadAt",
        }
    }
}

impl Target {
    /// Guards of single fields: the guard's name, what was seen, the field.
    fn guards(&self) -> [(&'static str, &Patch<Any>, &'static str); 3] {
        [
            ("expectedPermissionMode", &self.permission_mode, "permissionMode"),
            ("expectedSandboxMode", &self.sandbox_mode, "sandboxMode"),
            ("expectedToolOverrides", &self.tool_overrides, "toolOverrides"),
        ]
    }

    /// Refuses a guard without the change it guards.
    fn check_use(&self, changes: &[Change]) -> Result<(), RpcError> {
        for (guard, seen, field) in self.guards() {
            if *seen != Patch::Keep && !changes.iter().any(|change| change.name() == field) {
                return Err(RpcError::invalid(format!("{guard} requires a {field} replacement.")));
            }
        }
        let reads = changes.len() == 1 && changes[0].name() == "unread" && changes[0].to() == Some(&Value::Bool(false));
        if self.marked_unread_at != Patch::Keep && !reads {
            return Err(RpcError::invalid("expectedMarkedUnreadAt requires unread=false as the only mutation."));
        }
        Ok(())
    }

    /// Whether the session is what the caller saw.
    fn holds(&self, session: Option<&SessionRow>) -> bool {
        let entry = |name: &str| session.and_then(|session| session.entry.get(name));
        let same_id = |seen: &NonEmpty| session.is_some_and(|session| session.session_id == seen.0.trim());
        let same_revision = |seen: &NonEmpty| {
            entry("lifecycleRevision").and_then(Value::as_str).is_some_and(|revision| revision == seen.0.trim())
        };
        self.session_id.as_ref().is_none_or(same_id)
            && self.lifecycle_revision.as_ref().is_none_or(same_revision)
            && self.guards().iter().all(|(_, seen, field)| matches_seen(seen, entry(field)))
    }
}

fn matches_seen(seen: &Patch<Any>, now: Option<&Value>) -> bool {
    match seen {
        Patch::Keep => true,
        Patch::Clear => is_as_seen(&Value::Null, now),
        Patch::Set(Any(value)) => is_as_seen(value, now),
    }
}

/// The reason in `details` by which clients know that they should read the session again.
const CHANGED: &str = "session-changed";

fn changed_before(key: &SessionKey, what: &str) -> RpcError {
    RpcError::invalid(format!("Session {key} changed before {what}. Retry.")).with_details(json!({ "reason": CHANGED }))
}

/// A session and what becomes of it.
#[derive(Debug, Clone)]
pub struct PatchParams {
    target: Target,
    changes: Vec<Change>,
}

impl Params for PatchParams {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        let protocol = issues.protocol();
        let is_change = |name: &String| rules::find(name, protocol).is_some();
        let others = object.iter().filter(|(name, _)| !is_change(name));
        let others: Map<String, Value> = others.map(|(name, value)| (name.clone(), value.clone())).collect();
        let target = Target::read_fields(&others, path, issues);
        let changes = rules::read(object, path, issues);
        Some(PatchParams { target: target?, changes })
    }
}

pub(super) fn patch(cx: StoreCx<'_>, params: Keyed<PatchParams>) -> Result<(Value, Vec<Fact>), StoreError> {
    refuse_web_chat(&cx, "patch")?;
    let PatchParams { target, changes } = params.0;
    let patched = change_one(&cx, &target, &changes)?;
    let context = cx.snapshot.session_rows();
    let entry = row::entry(&patched.session);
    let model = context.model_of(&patched.session);
    let mut resolved = json!({ "modelProvider": model.provider, "model": model.model });
    if cx.call.protocol() == Protocol::V4 {
        resolved["agentRuntime"] = json!({ "id": "openclaw", "source": "implicit" });
        resolved["runtimeSelectionLocked"] = json!(false);
        if changes.iter().any(|change| matches!(change.name(), "model" | "thinkingLevel") && change.to().is_some()) {
            let levels = model.thinking_levels();
            resolved["thinkingLevel"] = patched.session.entry.get("thinkingLevel").cloned().unwrap_or(json!("off"));
            resolved["thinkingLevels"] = levels.iter().map(|level| json!({ "id": level, "label": level })).collect();
        }
    }
    let answer = json!({
        "ok": true,
        "path": store_path(&cx),
        "key": patched.session.key,
        "entry": entry,
        "resolved": resolved,
        // The reference gateway's name for the entry (SES-40).
        "session": entry,
    });
    Ok((answer, patched.facts))
}

pub(super) fn store_path(cx: &StoreCx<'_>) -> String {
    format!("{}/{}", cx.snapshot.state_dir, crate::store::dir::DATABASE_FILE)
}

/// A session after its change, and what to tell of it.
struct Changed {
    session: SessionRow,
    facts: Vec<Fact>,
}

/// Applies changes to one session, which is made when it is not there.
///
/// The row is written at the end and in one piece, so a refusal leaves nothing behind.
fn change_one(cx: &StoreCx<'_>, target: &Target, changes: &[Change]) -> Result<Changed, StoreError> {
    let now_ms = cx.call.now_ms;
    let key = whole_key(&target.key, target.agent_id.as_ref(), &cx.snapshot.keys)?;
    target.check_use(changes)?;
    let known = cx.db.session(key.as_str())?;
    check_archiving(cx, &key, known.as_ref(), target, changes)?;
    if !target.holds(known.as_ref()) {
        return Err(changed_before(&key, "patch").into());
    }
    let marked = known.as_ref().and_then(|session| session.entry.get("markedUnreadAt"));
    // Reading a session that was marked unread once more must not take the new mark away: nothing is changed.
    let changes = if matches_seen(&target.marked_unread_at, marked) { changes } else { &[] };
    let is_new = known.is_none();
    let mut session = known.unwrap_or_else(|| transcript::fresh(&key, now_ms));
    let context = cx.snapshot.session_rows();
    let ground = rules::Ground { protocol: cx.call.protocol(), context: &context, now_ms };
    rules::apply(&ground, &mut session, changes)?;
    session.updated_ms = session.updated_ms.max(now_ms);
    cx.db.session_put(&session)?;
    let names: Vec<&str> = changes.iter().map(Change::name).collect();
    audit(cx, &key, Some(json!({ "fields": names })))?;
    let mut facts = vec![touched(cx, &key, &session, "patch", is_new)?];
    if names.contains(&"category") {
        facts.extend(groups::register(cx, &session)?);
    }
    Ok(Changed { session, facts })
}

/// The rules for putting a session away, which need more than the session.
fn check_archiving(
    cx: &StoreCx<'_>,
    key: &SessionKey,
    known: Option<&SessionRow>,
    target: &Target,
    changes: &[Change],
) -> Result<(), RpcError> {
    let Some(change) = changes.iter().find(|change| change.name() == "archived") else { return Ok(()) };
    if change.to() == Some(&Value::Bool(true)) {
        if key.as_str() == "unknown" {
            return Err(RpcError::invalid("Cannot archive the unknown session sentinel."));
        }
        if is_main(cx, key) {
            return Err(RpcError::invalid("Cannot archive an agent's main session."));
        }
    }
    if known.is_none() {
        return Err(RpcError::invalid(format!("session not found: {key}")));
    }
    if target.session_id.is_none() {
        return Err(RpcError::invalid(format!("expectedSessionId required for session lifecycle patch: {key}")));
    }
    Ok(())
}

pub(super) fn is_main(cx: &StoreCx<'_>, key: &SessionKey) -> bool {
    key.as_str() == "global" || key.is_main(&cx.snapshot.keys)
}

/// The fact that a session was written.
pub(super) fn touched(
    cx: &StoreCx<'_>,
    key: &SessionKey,
    session: &SessionRow,
    reason: &'static str,
    is_new: bool,
) -> Result<Fact, StoreError> {
    let mut row = row::told_v4(cx.db, session, &cx.snapshot.session_rows(), cx.call.now_ms)?;
    row["derivedTitle"] = json!(list::title(cx.db, session)?);
    Ok(Fact::Session { key: key.clone(), reason, row, updated_at: session.updated_ms, is_new })
}

/// Sessions changed by one `sessions.patchMany`.
pub const PATCH_TARGETS_MAX: usize = 100;

crate::params! {
    /// Several sessions that change alike.
    pub struct PatchManyParams {
        targets: Targets = "targets",
        patch: Shared = "patch",
    }
}

/// At least one session, at most [`PATCH_TARGETS_MAX`].
#[derive(Debug, Clone)]
pub struct Targets(Vec<Target>);

impl Param for Targets {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let targets = Vec::<Target>::read(value, path, issues)?;
        let not = if issues.protocol() == Protocol::V3 { "NOT" } else { "not" };
        if targets.is_empty() {
            issues.wrong(path, format!("must {not} have fewer than 1 items"));
        } else if targets.len() > PATCH_TARGETS_MAX {
            issues.wrong(path, format!("must {not} have more than {PATCH_TARGETS_MAX} items"));
        }
        Some(Targets(targets))
    }
}

/// What becomes of each of them.
#[derive(Debug, Clone)]
pub struct Shared(Vec<Change>);

impl Param for Shared {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let Some(object) = value.as_object() else {
            issues.wrong(path, "must be object");
            return None;
        };
        for name in object.keys() {
            if rules::find(name, issues.protocol()).is_none() {
                issues.unexpected(path, name);
            }
        }
        if object.is_empty() {
            let not = if issues.protocol() == Protocol::V3 { "NOT" } else { "not" };
            issues.wrong(path, format!("must {not} have fewer than 1 properties"));
        }
        Some(Shared(rules::read(object, path, issues)))
    }
}

/// Each session is changed or refused on its own.
pub(super) fn patch_many(cx: StoreCx<'_>, params: PatchManyParams) -> Result<(Value, Vec<Fact>), StoreError> {
    refuse_web_chat(&cx, "patch")?;
    let (mut outcomes, mut facts) = (Vec::new(), Vec::new());
    for target in &params.targets.0 {
        match change_one(&cx, target, &params.patch.0) {
            Ok(changed) => {
                outcomes.push(json!({ "ok": true, "key": changed.session.key }));
                facts.extend(changed.facts);
            }
            Err(error) => {
                let why = error_shape(&RpcError::from(error), cx.call.protocol());
                outcomes.push(json!({ "ok": false, "key": target.key.0, "error": why }));
            }
        }
    }
    Ok((json!({ "outcomes": outcomes }), facts))
}

crate::params! {
    /// Which session starts again, and why.
    pub struct ResetParams {
        key: NonEmpty = "key",
        reason: Option<ResetReason> = "reason",
        @v4 {
            agent_id: Option<NonEmpty> = "agentId",
            session_id: Option<NonEmpty> = "expectedSessionId",
        }
    }
}

/// Why a session starts again: `new` or `reset`.
#[derive(Debug, Clone, Copy)]
pub struct ResetReason(&'static str);

impl Param for ResetReason {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        super::read_constant(&["new", "reset"], value, path, issues).map(ResetReason)
    }
}

/// Starts a session again: a new transcript under a new id, settings kept (SES-47).
pub(super) fn reset(cx: StoreCx<'_>, params: Keyed<ResetParams>) -> Result<(Value, Vec<Fact>), StoreError> {
    let params = params.0;
    let now_ms = cx.call.now_ms;
    let reason = params.reason.map_or("reset", |reason| reason.0);
    let key = whole_key(&params.key, params.agent_id.as_ref(), &cx.snapshot.keys)?;
    let known = cx.db.session(key.as_str())?;
    if let Some(seen) = &params.session_id
        && known.as_ref().is_none_or(|session| session.session_id != seen.0.trim())
    {
        return Err(changed_before(&key, "reset").into());
    }
    let is_new = known.is_none();
    // Before the transcript changes: what ends here ended in the one before.
    close_sessions(cx.db, |own| *own == key, cx.ordered_by, now_ms)?;
    let mut session = match cx.db.session_reset(key.as_str(), &random::uuid(), now_ms)? {
        Some(done) => done.session,
        None => transcript::fresh(&key, now_ms),
    };
    for gone in ["lastActivityAt", "lastInteractionAt", "lastReadAt", "markedUnreadAt"].iter().chain(&row::OF_RUNS) {
        session.entry.remove(*gone);
    }
    let begin = json!({
        "lifecycleRevision": random::uuid(),
        "sessionStartedAt": now_ms,
        "systemSent": false,
        "abortedLastRun": false,
        "compactionCount": 0,
        // Counted from zero, which is not the same as never counted.
        "totalTokensFresh": true,
        "totalTokensVersion": 1,
    });
    session.entry.extend(begin.as_object().cloned().unwrap_or_default());
    cx.db.session_put(&session)?;
    audit(&cx, &key, Some(json!({ "reason": reason })))?;
    let model = cx.snapshot.session_rows().model_of(&session);
    let resolved = json!({ "modelProvider": model.provider, "model": model.model });
    let mut entry = row::entry(&session);
    row::set_all(&mut entry, resolved.clone());
    if let Some(tokens) = model.known.and_then(|model| model.context_window) {
        entry["contextTokens"] = json!(tokens);
    }
    let answer = json!({ "ok": true, "key": session.key, "entry": entry, "resolved": resolved });
    let fact = touched(&cx, &key, &session, if reason == "new" { "new" } else { "reset" }, is_new)?;
    Ok((answer, vec![fact]))
}

crate::params! {
    /// Which session goes, and what becomes of what was said in it.
    pub struct DeleteParams {
        key: NonEmpty = "key",
        delete_transcript: Option<bool> = "deleteTranscript",
        // Nothing hooks into the life of a session in this build, so there is nobody to tell or to leave untold.
        emit_lifecycle_hooks: Option<bool> = "emitLifecycleHooks",
        @v4 {
            agent_id: Option<NonEmpty> = "agentId",
            session_id: Option<NonEmpty> = "expectedSessionId",
            lifecycle_revision: Option<NonEmpty> = "expectedLifecycleRevision",
            updated_at: Option<Count> = "expectedSessionUpdatedAt",
            archived_only: Option<bool> = "archivedOnly",
        }
    }
}

/// Removes a session. What was said becomes an archive, or stays where it is, out of every list.
pub(super) fn delete(cx: StoreCx<'_>, params: Keyed<DeleteParams>) -> Result<(Value, Vec<Fact>), StoreError> {
    refuse_web_chat(&cx, "delete")?;
    let params = params.0;
    let key = whole_key(&params.key, params.agent_id.as_ref(), &cx.snapshot.keys)?;
    if is_main(&cx, &key) {
        return Err(RpcError::invalid(format!("Cannot delete the main session ({key}).")).into());
    }
    let known = cx.db.session(key.as_str())?;
    let entry = |name: &str| known.as_ref().and_then(|session| session.entry.get(name));
    if params.archived_only == Some(true) && entry("archivedAt").is_none() {
        let text = format!("Session {key} is not archived. Archive it first, then delete it.");
        return Err(RpcError::invalid(text).into());
    }
    let revision = entry("lifecycleRevision").and_then(Value::as_str);
    let holds = params
        .session_id
        .as_ref()
        .is_none_or(|seen| known.as_ref().is_some_and(|session| session.session_id == seen.0.trim()))
        && params.lifecycle_revision.as_ref().is_none_or(|seen| revision == Some(seen.0.trim()))
        && params.updated_at.is_none_or(|seen| known.as_ref().is_some_and(|session| session.updated_ms == seen.0));
    if !holds {
        return Err(changed_before(&key, "deletion").into());
    }
    let fate = if params.delete_transcript == Some(false) { TranscriptFate::Keep } else { TranscriptFate::Archive };
    if known.is_some() {
        close_sessions(cx.db, |own| *own == key, cx.ordered_by, cx.call.now_ms)?;
    }
    let deleted = cx.db.session_delete(key.as_str(), fate, cx.call.now_ms)?;
    let mut answer = json!({ "ok": true, "key": key.as_str(), "deleted": deleted.is_some(), "archived": [] });
    if cx.call.protocol() == Protocol::V3 {
        answer["path"] = json!(store_path(&cx));
    }
    let Some(deleted) = deleted else { return Ok((answer, Vec::new())) };
    if deleted.n_archived > 0 {
        answer["archived"] = json!([archive_name(&cx, &deleted.session.session_id, ArchiveReason::Deleted)]);
    }
    audit(&cx, &key, Some(json!({ "archivedMessages": deleted.n_archived })))?;
    Ok((answer, vec![Fact::SessionGone { key, session_id: deleted.session.session_id }]))
}

/// What to call an archive: upstream's names of archive files, for people; ours are rows of the store.
fn archive_name(cx: &StoreCx<'_>, session_id: &str, reason: ArchiveReason) -> String {
    let at = clock::iso(cx.call.now_ms).replace(':', "-");
    format!("{session_id}.jsonl.{}.{at}", reason.as_str())
}

/// Messages kept by a compaction when nothing is said (SES-49).
const COMPACT_LINES: i64 = 400;

crate::params! {
    /// Which session, and how much of it stays.
    pub struct CompactParams {
        key: NonEmpty = "key",
        max_lines: Option<Int<1, { i64::MAX }>> = "maxLines",
        @v4 { agent_id: Option<NonEmpty> = "agentId", }
    }
}

/// Protocol 4 has a model summarise unless it says how many messages stay; protocol 3 cuts.
pub(super) fn compact(gateway: &mut Gateway, call: &Call, params: Keyed<CompactParams>) -> Result<(), RpcError> {
    let params = params.0;
    if call.protocol() == Protocol::V4 && params.max_lines.is_none() {
        let key = whole_key(&params.key, params.agent_id.as_ref(), &gateway.keys)?;
        return gateway.compact_session(call, key);
    }
    let (snapshot, call) = (gateway.snapshot(), call.clone());
    let origin = Origin::Request { conn: call.conn(), id: call.id.clone(), method: call.method };
    let work = Work::Store(Box::new(move |db| {
        let (answer, facts) = cut(StoreCx { db, snapshot, call, ordered_by: None }, params)?;
        Ok(Done { answer: Some(Json::of(&answer)?), facts })
    }));
    gateway.effects.push_back(Effect::Start(Job { origin, work }));
    Ok(())
}

/// Records that a session was summarised, and what that cost. The summary itself has counted as a compaction.
///
/// # Errors
/// The store's.
pub(in crate::gateway) fn count_compacted(
    cx: &StoreCx<'_>,
    key: &SessionKey,
    usage: &Usage,
    bill: &Bill,
) -> Result<Option<Fact>, StoreError> {
    let session = cx.db.session_update::<StoreError>(key.as_str(), cx.call.now_ms, |session| {
        pay(session, usage, bill);
        Ok(())
    })?;
    let Some(session) = session else { return Ok(None) };
    audit(cx, key, Some(json!({ "summarised": true })))?;
    touched(cx, key, &session, "compact", false).map(Some)
}

/// Keeps the newest messages of a session and archives the rest.
pub(super) fn cut(cx: StoreCx<'_>, params: CompactParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let key = whole_key(&params.key, params.agent_id.as_ref(), &cx.snapshot.keys)?;
    let n_kept = params.max_lines.map_or(COMPACT_LINES, |lines| lines.0) as u64;
    let mut answer = json!({ "ok": true, "key": key.as_str(), "compacted": false });
    if cx.call.protocol() == Protocol::V3 {
        answer["path"] = json!(store_path(&cx));
    }
    let Some(session) = cx.db.session(key.as_str())? else {
        answer["reason"] = json!("no sessionId");
        return Ok((answer, Vec::new()));
    };
    let n_before = cx.db.transcript_count(&session.session_id)?;
    if n_before <= n_kept {
        answer["reason"] = json!(if n_before == 0 { "no transcript" } else { "below limit" });
        answer["kept"] = json!(n_before);
        return Ok((answer, Vec::new()));
    }
    let n_removed = cx.db.transcript_compact(&session.session_id, n_kept, cx.call.now_ms)?;
    let session = cx.db.session_update::<StoreError>(key.as_str(), cx.call.now_ms, |session| {
        let before = session.entry.get("compactionCount").and_then(Value::as_u64).unwrap_or(0);
        session.entry.insert("compactionCount".to_owned(), json!(before + 1));
        Ok(())
    })?;
    let Some(session) = session else { return Ok((answer, Vec::new())) };
    audit(&cx, &key, Some(json!({ "archivedMessages": n_removed })))?;
    row::set_all(
        &mut answer,
        json!({
            "compacted": true,
            "kept": n_kept,
            "removed": n_removed,
            "archived": archive_name(&cx, &session.session_id, ArchiveReason::Compacted),
        }),
    );
    let fact = touched(&cx, &key, &session, "compact", false)?;
    Ok((answer, vec![fact]))
}
