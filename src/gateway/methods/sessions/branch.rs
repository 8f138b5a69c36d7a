//! Going back in a conversation: to an earlier message, to another branch, or on from there in a session of its own.
//!
//! What was said stays in the transcript; only its active leaf moves ([`crate::store::branches`]). None of it is done
//! while something runs or waits in the session: the loop looks, and the store works in the order it was asked in, so
//! whatever is said afterwards is written afterwards.

use serde_json::Value;

use super::change::touched;
use super::{audit, session_key};
use crate::gateway::table::{Call, QueryCx, StoreCx};
use crate::gateway::{Done, Effect, Fact, Gateway, Job, Origin, Work};
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::params::NonEmpty;
use crate::protocol::session_key::{KeyRules, SessionKey};
use crate::runtime::{clock, random};
use crate::sessions::branches;
use crate::sessions::row::OF_RUNS;
use crate::sessions::transcript;
use crate::store::StoreError;
use crate::store::branches::Standing;
use crate::store::media::MediaDir;
use crate::store::sessions::{SessionRow, TokenTotals};

crate::params! {
    /// Which session.
    pub struct ListParams {
        session_key: NonEmpty = "sessionKey",
        agent_id: Option<NonEmpty> = "agentId",
    }
}

/// The branches of a session, the active one first.
pub(super) fn list(cx: QueryCx<'_>, params: ListParams) -> Result<Value, RpcError> {
    let key = session_key(params.session_key.0.trim(), params.agent_id.as_ref(), &cx.snapshot.keys)?;
    let db = cx.store.get()?;
    let Some(session) = db.session(key.as_str())? else { return Ok(json!({ "branches": [] })) };
    let mut shown = Vec::new();
    for branch in db.transcript_branches(&session.session_id)? {
        shown.push(json!({
            "leafEntryId": branch.message_id,
            "headline": branches::headline(db, &session.session_id, branch.leaf)?,
            "messageCount": branch.n_messages,
            "updatedAt": clock::iso(branch.at_ms),
            "active": branch.is_active,
        }));
    }
    Ok(json!({ "branches": shown }))
}

crate::params! {
    /// Which branch of which session, by its last message.
    pub struct SwitchParams {
        session_key: NonEmpty = "sessionKey",
        agent_id: Option<NonEmpty> = "agentId",
        leaf_entry_id: NonEmpty = "leafEntryId",
    }
}

/// Goes on with another branch.
pub(super) fn switch(gateway: &mut Gateway, call: &Call, params: SwitchParams) -> Result<(), RpcError> {
    let at = At::of(&params.session_key, params.agent_id.as_ref(), &params.leaf_entry_id, &gateway.keys)?;
    when_idle(gateway, call, at, "Branch switch", switched)
}

fn switched(cx: &StoreCx<'_>, at: &At) -> Result<(Value, Vec<Fact>), StoreError> {
    let session = at.changeable(cx, "Branch switch")?;
    let found = cx.db.transcript_standing(&session.session_id, &at.entry)?;
    let Standing { row, .. } =
        found.ok_or_else(|| RpcError::invalid(format!("branch entry not found: {}", at.entry)))?;
    let tips = cx.db.transcript_branches(&session.session_id)?;
    match tips.iter().find(|branch| branch.leaf == row.seq) {
        None => return Err(RpcError::invalid(format!("entry is not a branch tip: {}", at.entry)).into()),
        Some(branch) if branch.is_active => {
            return Err(RpcError::invalid(format!("branch is already active: {}", at.entry)).into());
        }
        Some(_) => {}
    }
    let fact = moved(cx, at, &session, row.seq, "branch-switch")?;
    Ok((json!({}), vec![fact]))
}

crate::params! {
    /// Which session, and which message of a person in it.
    pub struct CutParams {
        session_key: NonEmpty = "sessionKey",
        agent_id: Option<NonEmpty> = "agentId",
        entry_id: NonEmpty = "entryId",
    }
}

/// Goes back to before a message, which the caller gets to say it anew.
pub(super) fn rewind(gateway: &mut Gateway, call: &Call, params: CutParams) -> Result<(), RpcError> {
    let at = At::of(&params.session_key, params.agent_id.as_ref(), &params.entry_id, &gateway.keys)?;
    when_idle(gateway, call, at, "Rewind", rewound)
}

fn rewound(cx: &StoreCx<'_>, at: &At) -> Result<(Value, Vec<Fact>), StoreError> {
    let session = at.changeable(cx, "Rewind")?;
    let cut = at.cut(cx, &session)?;
    let fact = moved(cx, at, &session, cut.parent, "rewind")?;
    Ok((for_the_editor(cx, &cut), vec![fact]))
}

/// Goes on from before a message in a session of its own.
pub(super) fn fork(gateway: &mut Gateway, call: &Call, params: CutParams) -> Result<(), RpcError> {
    let at = At::of(&params.session_key, params.agent_id.as_ref(), &params.entry_id, &gateway.keys)?;
    when_idle(gateway, call, at, "Fork", forked)
}

fn forked(cx: &StoreCx<'_>, at: &At) -> Result<(Value, Vec<Fact>), StoreError> {
    let from = at.session(cx)?;
    let cut = at.cut(cx, &from)?;
    let own = format!("agent:{}:dashboard:{}", from.agent_id, random::uuid());
    let key = session_key(&own, None, &cx.snapshot.keys)?;
    let now_ms = cx.call.now_ms;
    let mut session = transcript::fresh(&key, now_ms);
    branches::carry_over(&from, &mut session);
    let lineage = json!({
        "forkSource": { "sessionKey": from.key, "sessionId": from.session_id, "entryId": at.entry },
        "parentSessionKey": from.key,
        "spawnDepth": 0,
    });
    session.entry.extend(lineage.as_object().cloned().unwrap_or_default());
    cx.db.transcript_fork(&from.session_id, cut.parent, &session, now_ms)?;
    audit(cx, &key, Some(json!({ "from": from.key, "entryId": at.entry })))?;
    let session = cx.db.session(key.as_str())?.unwrap_or(session);
    let mut answer = for_the_editor(cx, &cut);
    answer["sessionKey"] = json!(key.as_str());
    Ok((answer, vec![touched(cx, &key, &session, "fork", true)?]))
}

fn for_the_editor(cx: &StoreCx<'_>, cut: &Standing) -> Value {
    let files = MediaDir::of(&cx.snapshot.config.state_dir);
    branches::for_the_editor(&cut.row, |id, bytes_max| files.read(id, bytes_max))
}

/// A message of a session.
struct At {
    key: SessionKey,
    entry: String,
}

impl At {
    fn of(key: &NonEmpty, agent: Option<&NonEmpty>, entry: &NonEmpty, keys: &KeyRules) -> Result<At, RpcError> {
        Ok(At { key: session_key(key.0.trim(), agent, keys)?, entry: entry.0.trim().to_owned() })
    }

    fn session(&self, cx: &StoreCx<'_>) -> Result<SessionRow, StoreError> {
        let session = cx.db.session(self.key.as_str())?;
        Ok(session.ok_or_else(|| RpcError::invalid(format!("session not found: {}", self.key)))?)
    }

    /// The session, unless it was put away.
    fn changeable(&self, cx: &StoreCx<'_>, what: &str) -> Result<SessionRow, StoreError> {
        let session = self.session(cx)?;
        if session.entry.contains_key("archivedAt") {
            return Err(RpcError::invalid(format!("{what} is unavailable for archived sessions.")).into());
        }
        Ok(session)
    }

    /// The message, when the conversation can be cut before it.
    fn cut(&self, cx: &StoreCx<'_>, session: &SessionRow) -> Result<Standing, StoreError> {
        let refused = |why: &str| StoreError::from(RpcError::invalid(format!("{why}: {}", self.entry)));
        let found = cx.db.transcript_standing(&session.session_id, &self.entry)?;
        let standing = found.ok_or_else(|| refused("message entry not found"))?;
        if standing.row.role != "user" {
            return Err(refused("entry is not a user message"));
        }
        if !standing.is_active {
            return Err(refused("message entry is not on the active path"));
        }
        Ok(standing)
    }
}

/// Has the store do it, unless something runs or waits in the session.
fn when_idle(
    gateway: &mut Gateway,
    call: &Call,
    at: At,
    what: &str,
    act: fn(&StoreCx<'_>, &At) -> Result<(Value, Vec<Fact>), StoreError>,
) -> Result<(), RpcError> {
    if !gateway.is_session_idle(&at.key) {
        return Err(RpcError::unavailable(format!("{what} is unavailable while the agent is working.")));
    }
    let (snapshot, call) = (gateway.snapshot(), call.clone());
    let origin = Origin::Request { conn: call.conn(), id: call.id.clone(), method: call.method };
    let work = Work::Store(Box::new(move |db| {
        let (answer, facts) = act(&StoreCx { db, snapshot, call, ordered_by: None }, &at)?;
        Ok(Done { answer: Some(Json::of(&answer)?), facts })
    }));
    gateway.effects.push_back(Effect::Start(Job { origin, work }));
    Ok(())
}

/// Moves the leaf. What the last run left and what was counted is of another conversation now.
fn moved(cx: &StoreCx<'_>, at: &At, session: &SessionRow, leaf: u64, reason: &'static str) -> Result<Fact, StoreError> {
    cx.db.transcript_move_leaf(&session.session_id, leaf)?;
    let session = cx.db.session_update::<StoreError>(at.key.as_str(), cx.call.now_ms, |session| {
        for gone in OF_RUNS.iter().chain(&["compactionCount", "totalTokensFresh", "totalTokensVersion"]) {
            session.entry.remove(*gone);
        }
        session.entry.insert("systemSent".to_owned(), json!(false));
        session.entry.insert("abortedLastRun".to_owned(), json!(false));
        session.tokens = TokenTotals::default();
        Ok(())
    })?;
    let session = session.ok_or_else(|| RpcError::invalid(format!("session not found: {}", at.key)))?;
    audit(cx, &at.key, Some(json!({ "entryId": at.entry })))?;
    touched(cx, &at.key, &session, reason, false)
}
