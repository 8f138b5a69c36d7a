//! `sessions.cleanup`: sessions that nobody needs any more are put away, by `session.maintenance` and as asked.
//!
//! Nothing that was said is lost: what people talked in is put away, where it can be brought back; only sessions that were
//! made for one task (of cron, hooks and subagents) go, and their transcripts stay as archives. The main session, pinned
//! ones, those that are put away, and those in which something goes on are left alone.

use serde_json::Value;

use super::audit;
use super::change::{is_main, store_path, touched};
use crate::config::settings::agents::Maintenance;
use crate::gateway::Fact;
use crate::gateway::runs::close::close_sessions;
use crate::gateway::table::StoreCx;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::NonEmpty;
use crate::protocol::session_key::{SessionKey, agent_id};
use crate::store::StoreError;
use crate::store::sessions::{SESSION_LIST_ROWS_MAX, SessionFilter, SessionRow, TranscriptFate};

/// Sessions that one call changes; the rest is left for the next one, so that no transaction holds up the others.
pub const CHANGES_MAX: usize = 500;
/// A session without a message that is younger than this may still be waiting for its first one.
const EMPTY_AGE_MS: i64 = 60 * 60 * 1000;

crate::params! {
    /// Whose sessions, and what beside what is configured.
    pub struct CleanupParams {
        agent: Option<NonEmpty> = "agent",
        all_agents: Option<bool> = "allAgents",
        enforce: Option<bool> = "enforce",
        active_key: Option<NonEmpty> = "activeKey",
        fix_missing: Option<bool> = "fixMissing",
        fix_dm_scope: Option<bool> = "fixDmScope",
    }
}

pub(super) fn cleanup(cx: StoreCx<'_>, params: CleanupParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let agents = agents(&cx, &params)?;
    let mut work = Work { cx: &cx, params: &params, facts: Vec::new(), n_left: CHANGES_MAX };
    let stores = agents.iter().map(|agent| work.agent(agent)).collect::<Result<Vec<Value>, StoreError>>()?;
    let facts = work.facts;
    // One is answered as it is; of several it is said that they are.
    let answer = match <[Value; 1]>::try_from(stores) {
        Ok([only]) => only,
        Err(stores) => {
            json!({ "allAgents": true, "mode": mode(&cx, &params), "dryRun": false, "stores": stores })
        }
    };
    Ok((answer, facts))
}

fn maintenance<'a>(cx: &'a StoreCx<'_>) -> &'a Maintenance {
    &cx.snapshot.config.settings.session.maintenance
}

fn mode(cx: &StoreCx<'_>, params: &CleanupParams) -> &'static str {
    let is_enforced = params.enforce == Some(true) || maintenance(cx).is_enforced;
    if is_enforced { "enforce" } else { "warn" }
}

fn agents(cx: &StoreCx<'_>, params: &CleanupParams) -> Result<Vec<String>, RpcError> {
    let configured = &cx.snapshot.config.settings.agents;
    match (&params.agent, params.all_agents == Some(true)) {
        (Some(_), true) => Err(RpcError::invalid("agent and allAgents cannot be combined")),
        (None, true) => Ok(configured.list.iter().map(|agent| agent.id.clone()).collect()),
        (None, false) => Ok(vec![cx.snapshot.keys.default_agent.clone()]),
        (Some(agent), false) => {
            let id = agent_id(&agent.0);
            match configured.get(&id) {
                Some(_) => Ok(vec![id]),
                None => Err(RpcError::invalid(format!("Unknown agent id \"{id}\""))),
            }
        }
    }
}

/// What becomes of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It has no message.
    Missing,
    /// It was somebody's own while every person now shares the main one.
    DmScope,
    /// It was made for one task, long ago.
    Pruned,
    /// Nobody has spoken in it for long.
    Aged,
    /// There are more than are kept.
    Over,
}

impl Fate {
    /// Why a session was put away, in the entry; `None`: it goes.
    fn archived_as(self) -> Option<&'static str> {
        match self {
            Fate::Aged => Some("age"),
            Fate::Over => Some("active-session-cap"),
            Fate::Missing | Fate::DmScope | Fate::Pruned => None,
        }
    }
}

struct Work<'a> {
    cx: &'a StoreCx<'a>,
    params: &'a CleanupParams,
    facts: Vec<Fact>,
    n_left: usize,
}

impl Work<'_> {
    fn agent(&mut self, agent: &str) -> Result<Value, StoreError> {
        let cx = self.cx;
        let rule = maintenance(cx);
        let mode = mode(cx, self.params);
        let filter = SessionFilter { agent_id: Some(agent.to_owned()), ..SessionFilter::default() };
        let n_before = cx.db.session_count(&filter)?;
        let plan = self.plan(&filter)?;
        let n_of = |fate: Fate| plan.iter().filter(|(_, planned)| *planned == fate).count();
        let n_gone = plan.iter().filter(|(_, fate)| fate.archived_as().is_none()).count() as u64;
        // What is asked for by its name is done in either mode; the rest only where it is enforced.
        let is_done = |fate: Fate| mode == "enforce" || matches!(fate, Fate::Missing | Fate::DmScope);
        for (session, fate) in plan.iter().filter(|(_, fate)| is_done(*fate)) {
            self.carry_out(session, *fate)?;
        }
        Ok(json!({
            "agentId": agent,
            "storePath": store_path(cx),
            "mode": mode,
            "dryRun": false,
            "beforeCount": n_before,
            "afterCount": n_before - n_gone,
            "missing": n_of(Fate::Missing),
            "dmScopeRetired": n_of(Fate::DmScope),
            // No session is made to try a model.
            "modelRunPruned": 0,
            "archived": n_of(Fate::Aged),
            "capArchived": n_of(Fate::Over),
            "pruned": n_of(Fate::Pruned),
            "capped": 0,
            // Transcripts are rows of the store: there are no files that nothing refers to, and no budget of their own.
            "unreferencedArtifacts": {
                "scannedFiles": 0,
                "removedFiles": 0,
                "freedBytes": 0,
                "olderThanMs": i64::try_from(rule.prune_after.as_millis()).unwrap_or(i64::MAX),
            },
            "diskBudget": null,
            "wouldMutate": !plan.is_empty(),
            "applied": true,
            "appliedCount": cx.db.session_count(&filter)?,
        }))
    }

    /// What is to become of the sessions of an agent, at most [`CHANGES_MAX`] of all.
    fn plan(&mut self, filter: &SessionFilter) -> Result<Vec<(SessionRow, Fate)>, StoreError> {
        let mut plan = Vec::new();
        let (mut n_kept, mut offset) = (0, 0);
        loop {
            // Newest first: whatever is beyond the number that is kept is older than all that are.
            let page = self.cx.db.session_list(filter, offset, SESSION_LIST_ROWS_MAX)?;
            offset += page.sessions.len();
            for session in page.sessions {
                let is_put_away = session.entry.contains_key("archivedAt");
                match self.fate(&session, n_kept) {
                    Some(fate) if self.n_left > 0 => {
                        self.n_left -= 1;
                        plan.push((session, fate));
                    }
                    _ => n_kept += u64::from(!is_put_away),
                }
            }
            if !page.has_more {
                return Ok(plan);
            }
        }
    }

    fn fate(&self, session: &SessionRow, n_kept: u64) -> Option<Fate> {
        let key = SessionKey::stored(session.key.clone());
        if self.is_protected(session, &key) {
            return None;
        }
        let is = |flag: Option<bool>| flag == Some(true);
        let rule = maintenance(self.cx);
        let age_ms = self.cx.call.now_ms.saturating_sub(session.updated_ms);
        let has_aged = u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > rule.prune_after.as_millis());
        if is(self.params.fix_missing) && session.message_count == 0 && age_ms > EMPTY_AGE_MS {
            return Some(Fate::Missing);
        }
        if is(self.params.fix_dm_scope) && rule.is_main_shared && is_of_one_person(&key) {
            return Some(Fate::DmScope);
        }
        if has_aged {
            return Some(if is_for_a_task(&key) { Fate::Pruned } else { Fate::Aged });
        }
        (n_kept >= rule.entries_max).then_some(Fate::Over)
    }

    fn is_protected(&self, session: &SessionRow, key: &SessionKey) -> bool {
        let has = |name: &str| session.entry.contains_key(name);
        let active = self.params.active_key.as_ref().is_some_and(|active| active.0.trim() == session.key);
        let runs = &self.cx.snapshot.runs;
        active
            || has("archivedAt")
            || has("pinnedAt")
            || is_main(self.cx, key)
            || matches!(key.kind(), "global" | "unknown")
            || !runs.of(&session.key).is_empty()
    }

    fn carry_out(&mut self, session: &SessionRow, fate: Fate) -> Result<(), StoreError> {
        let (cx, now_ms) = (self.cx, self.cx.call.now_ms);
        let key = SessionKey::stored(session.key.clone());
        match fate.archived_as() {
            Some(reason) => {
                // It did not change: what is put away for its age keeps it.
                let changed = cx.db.session_update::<StoreError>(key.as_str(), session.updated_ms, |row| {
                    row.entry.insert("archived".to_owned(), json!(true));
                    row.entry.insert("archivedAt".to_owned(), json!(now_ms));
                    row.entry.insert("archiveReason".to_owned(), json!(reason));
                    Ok(())
                })?;
                if let Some(changed) = changed {
                    self.facts.push(touched(cx, &key, &changed, "cleanup", false)?);
                }
            }
            None => {
                close_sessions(cx.db, |own| *own == key, cx.ordered_by, now_ms)?;
                if let Some(deleted) = cx.db.session_delete(key.as_str(), TranscriptFate::Archive, now_ms)? {
                    self.facts.push(Fact::SessionGone { key: key.clone(), session_id: deleted.session.session_id });
                }
            }
        }
        audit(cx, &key, Some(json!({ "cleanup": format!("{fate:?}").to_lowercase() })))
    }
}

/// Whether a session was made for one task.
fn is_for_a_task(key: &SessionKey) -> bool {
    let rest = key.rest();
    ["cron:", "hook:", "subagent:"].iter().any(|kind| rest.starts_with(kind)) || rest.contains(":subagent:")
}

/// Whether a session is the conversation with one person: `direct:PEER`, `CHANNEL:direct:PEER`, with an account between.
fn is_of_one_person(key: &SessionKey) -> bool {
    let parts: Vec<&str> = key.rest().split(':').collect();
    match parts.as_slice() {
        ["direct", peer] | [_, "direct", peer] | [_, _, "direct", peer] => !peer.is_empty(),
        _ => false,
    }
}
