//! `sessions.compact` without a number of messages: a model summarises the older part of a session.
//!
//! It keeps the session's place while it goes on, so messages that come meanwhile wait for it as for a run. It has no
//! message of its own and no row in the inbox: a gateway that ends forgets it, and its caller asks again.

use crossbeam_channel::never;
use serde_json::Value;

use super::lane;
use crate::agent::run::{Ask, Outcome, RunEnd};
use crate::agent::turn::Compacted;
use crate::gateway::broadcast::{self, For};
use crate::gateway::dispatch::BUSY_RETRY_MS;
use crate::gateway::effect::{Done, Effect, Job, Origin, RunNo, RunWork, Task, Work};
use crate::gateway::methods::sessions::change::count_compacted;
use crate::gateway::table::{Call, StoreCx};
use crate::gateway::{Fact, Gateway};
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::runtime::clock::Now;
use crate::runtime::random;
use crate::runtime::stop::Stop;
use crate::sessions::row;
use crate::store::StoreError;
use crate::store::transcript::{PageAt, PageLimits};

/// A summary that is being made for a caller.
pub(super) struct Compaction {
    call: Call,
    session: SessionKey,
    session_id: Option<String>,
    /// What clients call it.
    operation_id: String,
    pub(super) stop: Stop,
}

impl Compaction {
    pub(super) fn is_of(&self, session: &SessionKey) -> bool {
        self.session == *session
    }
}

impl Gateway {
    /// Begins one; the answer comes when it is done.
    ///
    /// # Errors
    /// `UNAVAILABLE`, retryable, while something runs or waits in the session, or everything there is runs.
    pub(in crate::gateway) fn compact_session(&mut self, call: &Call, session: SessionKey) -> Result<(), RpcError> {
        if !self.runs.scheduler.reserve(&session, lane(&session)) {
            return Err(RpcError::busy("the session is busy", BUSY_RETRY_MS));
        }
        let no = self.runs.take_no();
        let key = session.as_str().to_owned();
        let operation_id = random::uuid();
        let compaction =
            Compaction { call: call.clone(), session, session_id: None, operation_id, stop: Stop::default() };
        self.tell_operation(&compaction, json!({ "phase": "start" }));
        self.runs.compactions.insert(no, compaction);
        let work = Work::Query(Box::new(move |store| {
            let session_id = store.get()?.session(&key)?.map(|session| session.session_id);
            Ok(Done { answer: None, facts: vec![Fact::SessionId(session_id)] })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Compaction(no), work }));
        Ok(())
    }

    /// A step of one is done: its session is known, or its thread has ended.
    pub(in crate::gateway) fn compaction_step(&mut self, now: Now, no: RunNo, outcome: Result<Done, RpcError>) {
        let facts = match outcome {
            Ok(done) => done.facts,
            Err(error) => return self.end_compaction(no, Err(error)),
        };
        for fact in facts {
            match fact {
                Fact::SessionId(Some(session_id)) => self.summarise_session(no, session_id),
                Fact::SessionId(None) => self.end_compaction(no, Ok("no sessionId")),
                Fact::RunEnded(end) => self.compaction_ended(now, no, *end),
                other => self.apply(now, other),
            }
        }
    }

    fn summarise_session(&mut self, no: RunNo, session_id: String) {
        let Some(compaction) = self.runs.compactions.get_mut(&no) else { return };
        compaction.session_id = Some(session_id.clone());
        let (session, stop) = (compaction.session.clone(), compaction.stop.clone());
        let input = self.run_input(random::uuid(), session, Ask::default());
        let work = RunWork {
            no,
            // Nothing is steered into it, so no message joins its turn.
            turn_id: None,
            session_id: Some(session_id),
            input,
            task: Task::Compact(String::new()),
            stop,
            steered: never(),
        };
        self.effects.push_back(Effect::Start(Job { origin: Origin::Compaction(no), work: Work::Run(Box::new(work)) }));
    }

    fn compaction_ended(&mut self, now: Now, no: RunNo, mut end: RunEnd) {
        if self.runs.cooldowns.merge(&std::mem::take(&mut end.cooldowns)) {
            self.save_cooldowns(now);
        }
        let Some(compacted) = end.compacted.take() else {
            let why = match end.outcome {
                Outcome::Failed(failure) => Err(RpcError::unavailable(failure.message)),
                Outcome::Stopped { .. } => Ok("stopped"),
                Outcome::Replied(_) => Ok("nothing to compact"),
            };
            return self.end_compaction(no, why);
        };
        let Some(compaction) = self.leave_compaction(no, None) else { return };
        let Compaction { call, session, session_id, .. } = compaction;
        let (snapshot, usage, bill) = (self.snapshot(), end.usage, end.bill);
        let origin = Origin::Request { conn: call.conn(), id: call.id.clone(), method: call.method };
        let work = Work::Store(Box::new(move |db| {
            let first_kept = first_kept(db, session_id.as_deref(), &compacted)?;
            let fact = count_compacted(&StoreCx { db, snapshot, call, ordered_by: None }, &session, &usage, &bill)?;
            let answer = json!({
                "ok": true,
                "key": session.as_str(),
                "compacted": true,
                "result": {
                    "summary": compacted.summary,
                    "firstKeptEntryId": first_kept,
                    "tokensBefore": compacted.tokens_before,
                    // No tool of this build changes files.
                    "details": { "readFiles": compacted.files_read, "modifiedFiles": [] },
                },
            });
            Ok(Done { answer: Some(Json::of(&answer)?), facts: fact.into_iter().collect() })
        }));
        self.effects.push_back(Effect::Start(Job { origin, work }));
    }

    /// Ends one that changed nothing: `Ok` says why there was nothing to do.
    fn end_compaction(&mut self, no: RunNo, outcome: Result<&'static str, RpcError>) {
        let why = match &outcome {
            Ok(why) => (*why).to_owned(),
            Err(error) => error.message.clone(),
        };
        let Some(Compaction { call, session, .. }) = self.leave_compaction(no, Some(why)) else { return };
        let answer = outcome.and_then(|why| {
            Json::of(&json!({ "ok": true, "key": session.as_str(), "compacted": false, "reason": why }))
        });
        self.answer_request(call.conn(), &call.id, answer);
    }

    /// One is over; `why_not` says why it changed nothing.
    fn leave_compaction(&mut self, no: RunNo, why_not: Option<String>) -> Option<Compaction> {
        let compaction = self.runs.compactions.remove(&no)?;
        let mut end = json!({ "phase": "end", "completed": why_not.is_none() });
        if let Some(why) = why_not {
            end["reason"] = json!(why);
        }
        self.tell_operation(&compaction, end);
        self.runs.scheduler.release(&compaction.session);
        self.runs.is_stirred = true;
        Some(compaction)
    }

    /// Tells who follows the session how far it has come (protocol 4).
    fn tell_operation(&mut self, compaction: &Compaction, state: Value) {
        let session = &compaction.session;
        let mut payload = json!({
            "operationId": compaction.operation_id,
            "operation": "compact",
            "sessionKey": session.as_str(),
            "agentId": session.agent(),
            "ts": self.now.wall_ms,
        });
        row::set_all(&mut payload, state);
        if let Ok(payload) = Json::of(&payload) {
            self.broadcast(&broadcast::SESSION_OPERATION, For::SessionMessages(session), &payload);
        }
    }
}

/// The id of the first message that stayed.
fn first_kept(
    db: &crate::store::db::Db<'_>,
    session_id: Option<&str>,
    compacted: &Compacted,
) -> Result<Value, StoreError> {
    let limits = PageLimits { rows_max: 1, page_bytes_max: 1, message_bytes_max: 1 };
    let Some(session_id) = session_id else { return Ok(Value::Null) };
    let page = db.transcript_page(session_id, PageAt::After(compacted.first_kept.saturating_sub(1)), limits)?;
    Ok(json!(page.messages.first().map(|row| row.message_id.as_str())))
}
