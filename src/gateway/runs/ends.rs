//! The end of a run: written down, then shown, then told to who waits for it.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::children;
use super::close::{self, Items, Verdict, Whose, failed_end};
use super::shown::{On, Shown, assistant};
use super::stops::Ended;
use super::{Again, Ending, Phase, WAITS_MAX, Wait};
use crate::agent::run::{Outcome, RunEnd};
use crate::agent::talk::{AttemptOutcome, FailureKind, Usage};
use crate::config::load::Loaded;
use crate::gateway::dispatch::BUSY_RETRY_MS;
use crate::gateway::effect::{Done, Effect, Job, Origin, RunNo, Work};
use crate::gateway::inbound::PastRun;
use crate::gateway::records::{meta, put_meta};
use crate::gateway::stability::{Details, Kind};
use crate::gateway::{Fact, Gateway};
use crate::intake::Message;
use crate::protocol::ConnId;
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::frame::{Json, response_error};
use crate::protocol::json::json;
use crate::protocol::session_key::DEFAULT_AGENT;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::stop::Why;
use crate::sessions::row;
use crate::sessions::usage::totals::number;
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::idempotency::IDEMPOTENCY_TTL_MS;

/// Writes a run's end down, and what it tells others.
///
/// # Errors
/// The store's; nothing is written then.
pub(super) fn write(
    db: &Db<'_>,
    config: &Loaded,
    whose: &Whose<'_>,
    end: &RunEnd,
    now_ms: i64,
) -> Result<Vec<Fact>, StoreError> {
    let closed = close::close(db, whose, end, now_ms)?;
    let mut facts = Vec::new();
    for added in closed.added.into_iter().filter(|added| !added.existed) {
        let row = row::told_v4(db, &added.session, &row::Context::of(config), now_ms)?;
        facts.extend(Fact::of_added(&whose.message.session, added, "send", row));
    }
    // One that had its end before was stopped, and who stopped it knows.
    if closed.is_first_end {
        facts.extend(children::announce(db, config, whose.message, end, now_ms)?);
    }
    facts.push(Fact::RunClosed);
    Ok(facts)
}

impl Gateway {
    /// A run's thread is done, or never came to it.
    pub(in crate::gateway) fn run_ended(&mut self, now: Now, no: RunNo, outcome: Result<RunEnd, RpcError>) {
        let end = outcome.unwrap_or_else(|error| failed_end(error.message, now.wall_ms));
        self.close_run(now, no, end);
    }

    /// A run has ended. A second end of the same run finds nothing to end.
    pub(super) fn close_run(&mut self, now: Now, no: RunNo, end: RunEnd) {
        let Some(open) = self.runs.open.get_mut(&no) else { return };
        let shown = match std::mem::replace(&mut open.phase, Phase::Held) {
            Phase::Going(going) => going.shown,
            Phase::Beginning(_) => Shown::new(open.message.run_id.clone(), open.message.session.clone(), None, now),
            phase => {
                open.phase = phase;
                return;
            }
        };
        self.close(now, no, Some(shown), end);
    }

    /// Has a run's end written down.
    pub(super) fn close(&mut self, now: Now, no: RunNo, shown: Option<Shown>, mut end: RunEnd) {
        if self.runs.cooldowns.merge(&std::mem::take(&mut end.cooldowns)) {
            self.save_cooldowns(now);
        }
        close::name_nobody(&mut end);
        let Some(open) = self.runs.open.get_mut(&no) else { return };
        // What the gateway's own end stops has not ended: the next start takes it up.
        let is_end = !matches!(end.outcome, Outcome::Stopped { why: Why::Shutdown, .. });
        open.phase = Phase::Ending(Box::new(Ending { shown, end: Arc::new(end), again: Again::default() }));
        if is_end {
            self.write_end(now, no);
        }
    }

    /// Keeps across restarts which accounts of providers rest.
    pub(super) fn save_cooldowns(&mut self, now: Now) {
        let cooldowns = self.runs.cooldowns.clone();
        let work = Work::Store(Box::new(move |db| {
            put_meta(db, meta::COOLDOWNS, &cooldowns, now.wall_ms)?;
            Ok(Done { answer: None, facts: Vec::new() })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Housekeeping("cooldowns"), work }));
    }

    pub(super) fn write_end(&mut self, now: Now, no: RunNo) {
        let Some(open) = self.runs.open.get(&no) else { return };
        let Phase::Ending(ending) = &open.phase else { return };
        let (end, has_begun) = (Arc::clone(&ending.end), ending.shown.is_some());
        let session_id = ending.shown.as_ref().and_then(|shown| shown.session_id.clone());
        let message = Arc::clone(&open.message);
        let merged = open.merged.iter().filter_map(|no| self.runs.open.get(no));
        let items: Items = merged.chain([open]).map(|open| (open.inbox_id, open.message.run_id.clone())).collect();
        let (config, now_ms) = (Arc::clone(&self.config), now.wall_ms);
        let work = Work::Store(Box::new(move |db| {
            let session_id = session_id.as_deref();
            let whose = Whose { message: &message, session_id, items: &items, has_begun };
            Ok(Done { answer: None, facts: write(db, &config, &whose, &end, now_ms)? })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::RunEnd(no), work }));
    }

    /// A run's end is on disk, or could not be written: everybody is told.
    pub(in crate::gateway) fn run_closed(&mut self, now: Now, no: RunNo, outcome: Result<(), RpcError>) {
        let Some(open) = self.runs.open.get_mut(&no) else { return };
        let Phase::Ending(ending) = &mut open.phase else { return };
        let unwritten = match outcome {
            Ok(()) => None,
            Err(_) if ending.again.schedule(now) => return,
            Err(error) => Some(error.message),
        };
        let Some(open) = self.runs.open.remove(&no) else { return };
        let Phase::Ending(ending) = open.phase else { return };
        let run_id = open.message.run_id.clone();
        self.runs.forget(&open.message);
        let end = match &unwritten {
            None => ending.end,
            // Its messages stay open in the inbox, and the next start takes them up.
            Some(why) => {
                log::error!("the end of a run could not be written run={run_id}: {why}");
                Arc::new(failed_end(why.clone(), now.wall_ms))
            }
        };
        self.runs.scheduler.ended(&run_id);
        self.runs.is_stirred = true;
        if let Outcome::Failed(_) = &end.outcome {
            self.note_failure(&open.message, &end);
        }
        let session_id = ending.shown.as_ref().and_then(|shown| shown.session_id.clone());
        match ending.shown {
            Some(mut shown) => self.show_end(now, &mut shown, &end),
            None => self.show_end_unbegun(&open.message, &open.key_as_sent, &end),
        }
        self.tell_end(now, &open.message, session_id.as_deref(), &open.answers, &end);
        let how = match (&unwritten, &end.outcome) {
            (Some(why), _) => Ended::Unwritten(why),
            (None, Outcome::Stopped { .. }) => Ended::Stopped,
            (None, _) => Ended::Otherwise,
        };
        self.tell_stops(&run_id, how);
        let lost: Vec<RunNo> = self
            .runs
            .open
            .iter()
            .filter(|(_, open)| matches!(open.phase, Phase::Taken(by) if by == no))
            .map(|(no, _)| *no)
            .collect();
        for lost in lost {
            // It was being taken, and that failed: it gave way after all.
            self.close(now, lost, None, failed_end("superseded".to_owned(), now.wall_ms));
        }
        for merged in open.merged {
            let Some(merged) = self.runs.open.remove(&merged) else { continue };
            self.runs.forget(&merged.message);
            // Its answer went out under the newest one's name.
            let silent = json!({ "state": "final" });
            self.chat_event(&merged.message.run_id, &merged.message.session, &merged.key_as_sent, 1, silent);
            self.tell_end(now, &merged.message, session_id.as_deref(), &merged.answers, &end);
        }
    }

    /// Notes for the recent past of the gateway that nobody answered.
    fn note_failure(&mut self, message: &Message, end: &RunEnd) {
        let last = end.attempts.last().map(|last| (last.provider.clone(), last.model.clone()));
        let chosen = || {
            let agent = message.session.agent().unwrap_or(DEFAULT_AGENT);
            let model = self.session_rows().agent_model(agent);
            (model.provider.unwrap_or_default().to_owned(), model.model.unwrap_or_default().to_owned())
        };
        let (provider, model) = last.unwrap_or_else(chosen);
        let (provider, model) = (Some(provider), Some(model));
        let phase = Some("model_unavailable");
        self.note(Kind::RunPhase, Details { phase, provider, model, ..Details::default() });
    }

    /// The end of a message that never had its turn.
    fn show_end_unbegun(&mut self, message: &Message, key_as_sent: &str, end: &RunEnd) {
        let state = match &end.outcome {
            Outcome::Stopped { why, .. } => json!({ "state": "aborted", "stopReason": why.as_str() }),
            Outcome::Failed(failure) => json!({ "state": "error", "errorMessage": failure.message }),
            Outcome::Replied(_) => json!({ "state": "final" }),
        };
        self.chat_event(&message.run_id, &message.session, key_as_sent, 1, state);
    }

    pub(super) fn show_end(&mut self, now: Now, shown: &mut Shown, end: &RunEnd) {
        let at = now.wall_ms;
        let none = json!({ "phase": "model", "provider": null, "model": null });
        let began_ms = shown.began_ms;
        let times = |mut data: Value| {
            data["startedAt"] = json!(began_ms);
            data["endedAt"] = json!(end.ended_ms);
            data
        };
        match &end.outcome {
            Outcome::Replied(reply) => {
                self.show_all_words(shown, now);
                let how = json!({ "stopReason": reply.stop.as_str(), "aborted": false, "livenessState": "working" });
                let mut finishing = json!({ "phase": "finishing", "endedAt": at });
                row::set_all(&mut finishing, how.clone());
                self.agent_event(shown, On::V4, "lifecycle", &finishing, at);
                self.agent_event(shown, On::V4, "lifecycle", &none, at);
                let words = if reply.is_silent { "" } else { reply.text.as_str() };
                let mut done = times(json!({ "phase": "end", "executionSettled": true }));
                done["terminalReply"] = match words {
                    "" => json!({ "disposition": "silent" }),
                    words => json!({ "disposition": "visible", "text": words }),
                };
                row::set_all(&mut done, how);
                self.agent_event_for(
                    shown,
                    Protocol::V3,
                    "lifecycle",
                    &json!({ "phase": "end", "endedAt": end.ended_ms }),
                    at,
                );
                self.agent_event_for(shown, Protocol::V4, "lifecycle", &done, at);
                let mut state = json!({ "state": "final" });
                if !reply.is_silent && !reply.text.is_empty() {
                    state["message"] = assistant(&reply.text, at);
                }
                self.run_chat_event(shown, Protocol::V3, &state);
                state["stopReason"] = json!(reply.stop.as_str());
                self.run_chat_event(shown, Protocol::V4, &state);
            }
            Outcome::Stopped { why, partial } => {
                let data = times(json!({
                    "phase": "end", "status": "cancelled", "aborted": true, "stopReason": why.as_str(),
                }));
                let mut state = json!({ "state": "aborted", "stopReason": why.as_str() });
                if !partial.is_empty() {
                    state["message"] = assistant(partial, at);
                }
                self.agent_event(shown, On::Both, "lifecycle", &data, at);
                self.chat_to_both(shown, &state);
            }
            Outcome::Failed(failure) => {
                self.agent_event(shown, On::V4, "lifecycle", &none, at);
                let data = json!({ "phase": "error", "error": failure.message, "endedAt": end.ended_ms });
                self.agent_event_for(shown, Protocol::V3, "lifecycle", &data, at);
                let data = times(json!({
                    "phase": "error", "error": close::told_v4(failure), "aborted": false, "executionSettled": true,
                }));
                self.agent_event_for(shown, Protocol::V4, "lifecycle", &data, at);
                let mut state = json!({ "state": "error", "errorMessage": failure.message });
                self.run_chat_event(shown, Protocol::V3, &state);
                state["errorMessage"] = json!(close::told_v4(failure));
                if let Some(kind) = error_kind(failure.kind) {
                    state["errorKind"] = json!(kind);
                }
                if let Some((provider, model)) = &shown.model {
                    state["errorDetail"] =
                        json!({ "provider": provider, "model": model, "failoverReason": failure.kind.as_str() });
                }
                self.run_chat_event(shown, Protocol::V4, &state);
            }
        }
    }

    pub(super) fn chat_to_both(&mut self, shown: &Shown, state: &Value) {
        self.run_chat_event(shown, Protocol::V3, state);
        self.run_chat_event(shown, Protocol::V4, state);
    }

    /// Answers who waits for a run, and remembers how it ended.
    fn tell_end(
        &mut self,
        now: Now,
        message: &Message,
        session_id: Option<&str>,
        answers: &[(ConnId, String)],
        end: &RunEnd,
    ) {
        let verdict = Verdict::of(end);
        for (conn, id) in answers {
            if self.is_openai(*conn) {
                self.openai_ended(*conn, end);
                continue;
            }
            self.answer_run(*conn, id, &message.run_id, session_id, end, &verdict);
        }
        self.tell_waits(&message.run_id, &verdict);
        let expires_ms = now.wall_ms + IDEMPOTENCY_TTL_MS;
        self.inbound.remember(message.run_id.clone(), PastRun { verdict, expires_ms });
    }

    /// Answers `agent.wait`.
    pub(in crate::gateway) fn tell_waits(&mut self, run_id: &str, verdict: &Verdict) {
        let (ended, waiting) = std::mem::take(&mut self.runs.waits).into_iter().partition(|w| w.run_id == run_id);
        self.runs.waits = waiting;
        for wait in ended {
            let answer = Json::of(&wait_answer(run_id, verdict, self.protocol_of(wait.conn)));
            self.answer_request(wait.conn, &wait.id, answer);
        }
    }

    /// The second answer of `agent`.
    fn answer_run(
        &mut self,
        conn: ConnId,
        id: &str,
        run_id: &str,
        session_id: Option<&str>,
        end: &RunEnd,
        verdict: &Verdict,
    ) {
        let protocol = self.protocol_of(conn);
        if verdict.is_ok() {
            let answer = Json::of(&result(run_id, session_id, end, protocol));
            return self.answer_request(conn, id, answer);
        }
        let summary = verdict.summary(protocol);
        let payload = json!({ "runId": run_id, "status": "error", "summary": summary });
        let Ok(payload) = Json::of(&payload) else { return };
        let error = RpcError::new(ErrorCode::Unavailable, summary);
        match self.clients.ready(conn).is_some() {
            true => {
                let frame = response_error(id, &error, Some(&payload), protocol);
                self.effects.push_back(Effect::Send(conn, frame));
            }
            false => self.answer_request(conn, id, Err(error)),
        }
    }

    /// What a connection speaks; one that is no client's (a route's) the newer one.
    fn protocol_of(&self, conn: ConnId) -> Protocol {
        self.clients.ready(conn).map_or(Protocol::V4, |ready| ready.caller.protocol)
    }

    /// Adds a call that waits for a run's end.
    ///
    /// # Errors
    /// `UNAVAILABLE`, retryable, when [`WAITS_MAX`] wait.
    pub(in crate::gateway) fn wait_for_run(
        &mut self,
        run_id: &str,
        conn: ConnId,
        id: &str,
        until: Instant,
    ) -> Result<(), RpcError> {
        if self.runs.waits.len() >= WAITS_MAX {
            return Err(RpcError::busy("too many calls wait for runs", BUSY_RETRY_MS));
        }
        self.runs.waits.push(Wait { run_id: run_id.to_owned(), conn, id: id.to_owned(), until });
        Ok(())
    }

    /// Who asked for a run has left: it is stopped, unless somebody else waits for its end.
    pub(in crate::gateway) fn leave_run(&mut self, now: Now, run_id: &str, conn: ConnId, why: Why) {
        let Some(open) = self.runs.by_id.get(run_id).and_then(|no| self.runs.open.get_mut(no)) else { return };
        open.answers.retain(|(waiting, _)| *waiting != conn);
        if open.answers.is_empty() && !self.runs.waits.iter().any(|wait| wait.run_id == run_id) {
            self.stop_run(now, run_id, why);
        }
    }

    /// One more call of `agent` for a run that is on its way.
    pub(in crate::gateway) fn join_run(&mut self, run_id: &str, conn: ConnId, id: &str) {
        if let Some(open) = self.runs.by_id.get(run_id).and_then(|no| self.runs.open.get_mut(no)) {
            open.answers.push((conn, id.to_owned()));
        }
    }
}

/// How `agent.wait` answers.
pub(in crate::gateway) fn wait_answer(run_id: &str, verdict: &Verdict, protocol: Protocol) -> Value {
    let mut answer = json!({ "runId": run_id });
    let told = Verdict { error: verdict.error(protocol).map(str::to_owned), error_v4: None, ..verdict.clone() };
    if let Ok(told) = serde_json::to_value(told) {
        row::set_all(&mut answer, told);
    }
    answer
}

/// How `agent` answers a call that comes again after the run has ended. What was said is in the transcript.
pub(in crate::gateway) fn past_answer(run_id: &str, verdict: &Verdict, protocol: Protocol) -> Value {
    json!({ "runId": run_id, "status": verdict.status, "summary": verdict.summary(protocol) })
}

/// The result of a run that replied, as `agent` gives it.
fn result(run_id: &str, session_id: Option<&str>, end: &RunEnd, protocol: Protocol) -> Value {
    let Outcome::Replied(reply) = &end.outcome else { return json!({ "runId": run_id, "status": "ok" }) };
    let payloads = match reply.is_silent || reply.text.is_empty() {
        true => json!([]),
        false => json!([{ "text": reply.text, "mediaUrl": null }]),
    };
    let mut about = json!({
        "sessionId": session_id,
        "provider": reply.provider,
        "model": reply.model,
        "usage": tokens(&end.usage, end, protocol),
        "lastCallUsage": tokens(&reply.usage, end, protocol),
        "promptTokens": reply.usage.prompt(),
    });
    let mut meta = json!({
        "durationMs": end.ended_ms - end.began_ms,
        "aborted": false,
        "stopReason": reply.stop.as_str(),
    });
    if protocol == Protocol::V4 {
        about["assistantTurns"] = json!(end.steps);
        about["costUsd"] = number(end.bill.dollars);
        if let Some(load) = &end.load {
            about["contextTokens"] = json!(load.window);
            about["contextTokensSource"] = json!("resolved");
            about["contextBudgetStatus"] = close::budget(load, session_id.unwrap_or_default());
        }
        meta["finalAssistantVisibleText"] = json!(reply.text);
        meta["completion"] = json!({ "stopReason": reply.stop.as_str(), "finishReason": reply.stop.as_str() });
        meta["executionTrace"] = trace(end, &reply.provider, &reply.model);
    }
    meta["agentMeta"] = about;
    json!({
        "runId": run_id,
        "status": "ok",
        "summary": "completed",
        "result": { "payloads": payloads, "meta": meta },
    })
}

/// Tokens as results show them.
fn tokens(usage: &Usage, end: &RunEnd, protocol: Protocol) -> Value {
    let mut tokens = json!({
        "input": usage.input,
        "output": usage.output,
        "cacheRead": usage.cache_read,
        "cacheWrite": usage.cache_write,
        "total": usage.total(),
    });
    if protocol == Protocol::V4
        && let Some(prices) = close::prices(end)
    {
        tokens["cost"] = json!({ "total": number(prices.total(usage)) });
    }
    tokens
}

/// Who was asked, in order, and what came of it.
fn trace(end: &RunEnd, provider: &str, model: &str) -> Value {
    let attempts: Vec<Value> = end
        .attempts
        .iter()
        .map(|attempt| {
            let mut told = json!({ "provider": attempt.provider, "model": attempt.model, "stage": "assistant" });
            let (result, reason) = match &attempt.outcome {
                AttemptOutcome::Ok => ("success", None),
                AttemptOutcome::Skipped(why) => ("skipped", Some(*why)),
                AttemptOutcome::Error(failure) => ("error", Some(failure.kind.as_str())),
            };
            told["result"] = json!(result);
            if let Some(reason) = reason {
                told["reason"] = json!(reason);
            }
            told
        })
        .collect();
    let first = end.load.as_ref().map(|load| (load.provider.as_str(), load.model.as_str()));
    json!({
        "winnerProvider": provider,
        "winnerModel": model,
        "attempts": attempts,
        "fallbackUsed": first.is_some_and(|first| first != (provider, model)),
        "runner": "embedded",
    })
}

/// What of a failure protocol 4's clients tell apart.
fn error_kind(kind: FailureKind) -> Option<&'static str> {
    use FailureKind::{ContextLength, RateLimit, Refusal, Timeout};
    match kind {
        Refusal => Some("refusal"),
        Timeout => Some("timeout"),
        RateLimit => Some("rate_limit"),
        ContextLength => Some("context_length"),
        _ => None,
    }
}
