//! What came of a run, written down in one transaction: the reply in the transcript, the session's counts, the inbox
//! rows it dealt with, and the answer for whoever asks again.

use serde_json::Value;

use super::steps;
use crate::agent::calls;
use crate::agent::cooldown::Cooldowns;
use crate::agent::run::{Load, Outcome, RunEnd};
use crate::agent::talk::{Bill, Failure, FailureKind, Prices, Usage};
use crate::agent::turn;
use crate::intake::accept::run_key;
use crate::intake::{Source, activity};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::runtime::stop::Why;
use crate::sessions::transcript;
use crate::sessions::usage::UNPRICED;
use crate::sessions::usage::totals::number;
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::inbox::InboxState;
use crate::store::sessions::SessionRow;

/// A run's inbox rows and ids: its own, and those of messages that were answered with it.
pub(super) type Items = Vec<(i64, String)>;

/// How a run ended, in a word and for who asks again (`agent.wait`, a repeated call). Kept as JSON.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// `ok` or `error`.
    pub status: String,
    /// When it began.
    pub started_at: i64,
    /// When it ended.
    pub ended_at: i64,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The same in the words of protocol 4, where they are others.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error_v4: Option<String>,
    /// Why it was stopped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stop_reason: Option<String>,
}

impl Verdict {
    /// Of a run's end.
    pub fn of(end: &RunEnd) -> Verdict {
        let (status, error, stop_reason) = match &end.outcome {
            Outcome::Replied(_) => ("ok", None, None),
            Outcome::Stopped { why: Why::Timeout, .. } => ("error", Some(timed_out()), Some("timeout".to_owned())),
            Outcome::Stopped { why, .. } => ("error", None, Some(why.as_str().to_owned())),
            Outcome::Failed(failure) => ("error", Some(failure.message.clone()), None),
        };
        let error_v4 = match &end.outcome {
            Outcome::Failed(failure) => Some(told_v4(failure)).filter(|told| *told != failure.message),
            _ => None,
        };
        Verdict {
            status: status.to_owned(),
            started_at: end.began_ms,
            ended_at: end.ended_ms,
            error,
            error_v4,
            stop_reason,
        }
    }

    /// Of a message that had no run of its own, and nothing to be told of it.
    pub fn silent(now_ms: i64) -> Verdict {
        Verdict {
            status: "ok".to_owned(),
            started_at: now_ms,
            ended_at: now_ms,
            error: None,
            error_v4: None,
            stop_reason: None,
        }
    }

    /// Whether the run said what it had to say.
    pub fn is_ok(&self) -> bool {
        self.status == "ok"
    }

    /// As it is kept.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a verdict is strings and numbers")
    }

    /// What went wrong, or why it was stopped, as one sentence.
    pub fn summary(&self, protocol: Protocol) -> String {
        match (self.error(protocol), &self.stop_reason) {
            (Some(error), _) => error.to_owned(),
            (None, Some(why)) => format!("the run was stopped ({why})"),
            (None, None) => "completed".to_owned(),
        }
    }
}

impl Verdict {
    /// What went wrong, as clients of `protocol` know it.
    pub fn error(&self, protocol: Protocol) -> Option<&str> {
        self.error_v4.as_deref().filter(|_| protocol == Protocol::V4).or(self.error.as_deref())
    }
}

fn timed_out() -> String {
    "the run took longer than it may".to_owned()
}

/// Whose end it is.
pub(super) struct Whose<'a> {
    /// The message that names it.
    pub(super) message: &'a crate::intake::Message,
    /// The session's id when the run began; `None`: not known.
    pub(super) session_id: Option<&'a str>,
    /// What it dealt with.
    pub(super) items: &'a Items,
    /// Whether it had its turn.
    pub(super) has_begun: bool,
}

/// What writing an end did.
pub(super) struct Closed {
    /// What was added to the transcript: results of calls that have none, then the reply, what had been said of it, or
    /// what went wrong; nothing for a message that never had its turn.
    pub(super) added: Vec<transcript::Added>,
    /// Whether the run had none before: what it was asked was not closed by who stopped it.
    pub(super) is_first_end: bool,
}

/// Writes it.
///
/// # Errors
/// The store's; nothing is written then, and the messages stay open.
pub(super) fn close(db: &Db<'_>, whose: &Whose<'_>, end: &RunEnd, now_ms: i64) -> Result<Closed, StoreError> {
    let Whose { message: asked, session_id, items, has_begun } = *whose;
    let (session, run_id) = (&asked.session, asked.run_id.as_str());
    let has_place = has_begun && steps::is_same(db, session, session_id)?;
    let message = if has_place { new_message(run_id, end) } else { None };
    let mut added = match has_place {
        true => close_calls(db, session, run_id, now_ms)?,
        false => Vec::new(),
    };
    if let Some(message) = message {
        let new = transcript::New {
            role: "assistant",
            content: message.content,
            metadata: json!({ "runId": run_id, "idempotencyKey": message.key }),
            idempotency_key: Some(&message.key),
            extra: &message.extra,
            route: None,
        };
        added.push(transcript::add(db, session, &new, now_ms)?);
    }
    let after = match has_place {
        true => db.session_update::<StoreError>(session.as_str(), now_ms, |row| {
            count(row, run_id, end);
            if asked.source != Source::Chat {
                // Whoever reads the session did not see it happen; an answer in a chat is read as it comes.
                row.entry.insert("lastActivityAt".to_owned(), json!(now_ms));
            }
            Ok(())
        })?,
        false => None,
    };
    let verdict = Verdict::of(end);
    let response = verdict.to_text();
    let state = match (&end.outcome, has_begun) {
        (Outcome::Failed(_), false) => InboxState::Dropped,
        (Outcome::Failed(_), true) => InboxState::Failed,
        (Outcome::Replied(_) | Outcome::Stopped { .. }, _) => InboxState::Done,
    };
    let mut ended_before = false;
    for (inbox_id, run_id) in items {
        db.inbox_set_state(*inbox_id, state, None)?;
        let outcome = if verdict.is_ok() { Ok(response.as_str()) } else { Err(response.as_str()) };
        let is_first_end = db.idempotency_finish(&run_key(run_id), outcome, now_ms)?;
        ended_before |= !is_first_end && *run_id == asked.run_id;
    }
    if has_begun && !ended_before {
        activity::run_finished(db, asked, session_id.unwrap_or_default(), status(end), now_ms)?;
    }
    if let Some(session) = after {
        for added in &mut added {
            added.session.clone_from(&session);
        }
    }
    Ok(Closed { added, is_first_end: !ended_before })
}

/// A run that was stopped, failed or given up between a call and its result leaves no call open: whoever reads the
/// transcript, a model too, is told that nothing more comes. Calls that have a result keep it.
fn close_calls(
    db: &Db<'_>,
    session: &SessionKey,
    run_id: &str,
    now_ms: i64,
) -> Result<Vec<transcript::Added>, StoreError> {
    let Some(row) = db.session(session.as_str())? else { return Ok(Vec::new()) };
    // Only the newest step can have one: a model is asked again once all its calls have their results.
    let prefix = turn::step_prefix(run_id);
    let Some(step) = db.transcript_newest_keyed(&row.session_id, &prefix, "assistant")? else { return Ok(Vec::new()) };
    let message: Value = step.message.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let Some(key) = step.idempotency_key else { return Ok(Vec::new()) };
    let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
    let mut closed = Vec::new();
    for (idx, block) in blocks.iter().filter(|block| block["type"] == "toolCall").enumerate() {
        let (Some(id), Some(name)) = (block["id"].as_str(), block["name"].as_str()) else { continue };
        let key = turn::result_key_of(&key, idx);
        let new = transcript::New {
            role: "toolResult",
            content: json!([{ "type": "text", "text": calls::RUN_ENDED }]),
            metadata: json!({ "idempotencyKey": key }),
            idempotency_key: Some(&key),
            extra: &[("toolCallId", json!(id)), ("toolName", json!(name)), ("isError", json!(true))],
            route: None,
        };
        let added = transcript::add(db, session, &new, now_ms)?;
        if !added.existed {
            closed.push(added);
        }
    }
    Ok(closed)
}

/// Sessions go, or begin anew: what is open in them ends in the same transaction. Their runs are stopped too, but a kill may
/// come first, and the next start would take them up and bring back what is gone. The message in the row `but` goes on: it
/// is what ordered this.
///
/// # Errors
/// The store's; nothing is written then.
pub(in crate::gateway) fn close_sessions(
    db: &Db<'_>,
    is_one: impl Fn(&SessionKey) -> bool,
    but: Option<i64>,
    now_ms: i64,
) -> Result<(), StoreError> {
    let end = bare_end(Outcome::Stopped { why: Why::Rpc, partial: String::new() }, now_ms);
    let verdict = Verdict::of(&end).to_text();
    let mut after_id = 0;
    loop {
        let rows = db.inbox_open(after_id)?;
        let Some(last) = rows.last() else { return Ok(()) };
        after_id = last.id;
        for row in rows {
            if Some(row.id) == but || !is_one(&SessionKey::stored(row.session_key.clone())) {
                continue;
            }
            let message: crate::intake::Message = serde_json::from_str(&row.body)
                .map_err(|error| RpcError::unavailable(format!("inbox row {} cannot be read: {error}", row.id)))?;
            db.inbox_set_state(row.id, InboxState::Done, None)?;
            db.idempotency_finish(&run_key(&message.run_id), Err(&verdict), now_ms)?;
            if row.turn_id == Some(row.id) {
                let session = db.session(&row.session_key)?.map(|session| session.session_id).unwrap_or_default();
                activity::run_finished(db, &message, &session, status(&end), now_ms)?;
            }
        }
    }
}

/// How it ended, in the words of the activity record.
fn status(end: &RunEnd) -> &'static str {
    match &end.outcome {
        Outcome::Replied(_) => "succeeded",
        Outcome::Failed(_) => "failed",
        Outcome::Stopped { why: Why::Timeout, .. } => "timed_out",
        Outcome::Stopped { .. } => "cancelled",
    }
}

struct Message {
    content: Value,
    extra: Vec<(&'static str, Value)>,
    key: String,
}

/// The message a run ends its transcript with; `None`: it has nothing to say.
fn new_message(run_id: &str, end: &RunEnd) -> Option<Message> {
    match &end.outcome {
        Outcome::Replied(reply) => Some(Message {
            content: reply.record.content.clone(),
            extra: reply.record.extra.clone(),
            key: reply.record.idempotency_key.clone(),
        }),
        Outcome::Stopped { why: Why::Shutdown, .. } => None,
        Outcome::Stopped { partial, .. } if partial.trim().is_empty() => None,
        Outcome::Stopped { why, partial } => Some(Message {
            content: json!([{ "type": "text", "text": partial }]),
            extra: by_whom(
                end,
                "aborted",
                vec![("openclawAbort", json!({ "aborted": true, "origin": why.as_str(), "runId": run_id }))],
            ),
            key: format!("{run_id}:assistant"),
        }),
        Outcome::Failed(failure) => Some(Message {
            content: json!([]),
            extra: by_whom(end, "error", vec![("errorMessage", json!(failure.message))]),
            key: format!("{run_id}:terminal-error"),
        }),
    }
}

/// Who was asked last, what it cost, and why it ended: the fields of an assistant's message.
fn by_whom(end: &RunEnd, stop: &'static str, more: Vec<(&'static str, Value)>) -> Vec<(&'static str, Value)> {
    let last = end.attempts.last();
    let provider = last.map_or("openclaw", |attempt| attempt.provider.as_str());
    let model = last.map_or("none", |attempt| attempt.model.as_str());
    let mut extra = Vec::new();
    if let Some(load) = &end.load {
        extra.push(("api", json!(load.api)));
    }
    extra.extend([
        ("provider", json!(provider)),
        ("model", json!(model)),
        ("usage", turn::usage_of(&end.unrecorded, prices(end).as_ref())),
        ("stopReason", json!(stop)),
    ]);
    extra.extend(more);
    extra
}

/// What the run's first model takes for its tokens; `None`: not known.
pub(super) fn prices(end: &RunEnd) -> Option<Prices> {
    end.load.as_ref().and_then(|load| load.prices)
}

/// How full the context is, in the words of protocol 4.
pub(super) fn budget(load: &Load, session_id: &str) -> Value {
    let overflow = load.tokens.saturating_sub(load.room);
    let reserved = load.window.saturating_sub(load.room);
    json!({
        "schemaVersion": 1,
        "source": "pre-prompt-estimate",
        "updatedAt": load.at_ms,
        "provider": load.provider,
        "model": load.model,
        "route": if overflow == 0 { "fits" } else { "compact_only" },
        "shouldCompact": overflow > 0,
        "estimatedPromptTokens": load.tokens,
        "contextTokenBudget": load.window,
        "promptBudgetBeforeReserve": load.room,
        "reserveTokens": reserved,
        "effectiveReserveTokens": reserved,
        "remainingPromptBudgetTokens": load.room.saturating_sub(load.tokens),
        "overflowTokens": overflow,
        "toolResultReducibleChars": load.reducible_chars,
        "messageCount": load.n_items,
        "unwindowedMessageCount": load.n_items,
        "sessionId": session_id,
    })
}

/// Adds a run's tokens to its session and notes who answered and how it went.
fn count(row: &mut SessionRow, run_id: &str, end: &RunEnd) {
    let how = match &end.outcome {
        Outcome::Replied(_) => "done",
        Outcome::Failed(_) => "failed",
        Outcome::Stopped { why: Why::Timeout, .. } => "timeout",
        Outcome::Stopped { .. } => "killed",
    };
    let facts = [
        ("status", json!(how)),
        ("startedAt", json!(end.began_ms)),
        ("endedAt", json!(end.ended_ms)),
        ("runtimeMs", json!((end.ended_ms - end.began_ms).max(0))),
        ("lastRunId", json!(run_id)),
        // Counted now, even where it is nothing.
        ("totalTokensFresh", json!(true)),
    ];
    row.entry.extend(facts.map(|(name, value)| (name.to_owned(), value)));
    match &end.outcome {
        Outcome::Failed(failure) => row.entry.insert("lastRunError".to_owned(), json!(told_v4(failure))),
        _ => row.entry.remove("lastRunError"),
    };
    if let Some(load) = &end.load {
        row.entry.insert("contextBudgetStatus".to_owned(), budget(load, &row.session_id));
        row.entry.insert("contextTokens".to_owned(), json!(load.window));
        row.entry.insert("contextTokensSource".to_owned(), json!("resolved"));
    }
    let begun_ms = json!(row.created_ms);
    row.entry.entry("sessionStartedAt").or_insert(begun_ms);
    row.entry.entry("compactionCount").or_insert(json!(0));
    pay(row, &end.usage, &end.bill);
    // What the gateway said itself filled no context.
    if let Outcome::Replied(reply) = &end.outcome
        && reply.provider != transcript::BY_GATEWAY.0
    {
        // How full the context is, not what was spent.
        row.tokens.total = reply.usage.prompt();
        row.entry.insert("modelProvider".to_owned(), json!(reply.provider));
        row.entry.insert("model".to_owned(), json!(reply.model));
    }
    let was_stopped = matches!(&end.outcome, Outcome::Stopped { .. });
    row.entry.insert("abortedLastRun".to_owned(), json!(was_stopped));
    row.entry.insert("systemSent".to_owned(), json!(true));
}

/// Adds what answers took to their session.
pub(in crate::gateway) fn pay(row: &mut SessionRow, usage: &Usage, bill: &Bill) {
    row.tokens.input += usage.input;
    row.tokens.output += usage.output;
    let dollars = row.entry.get("estimatedCostUsd").and_then(Value::as_f64).unwrap_or(0.0);
    row.entry.insert("estimatedCostUsd".to_owned(), number(dollars + bill.dollars));
    if bill.n_unpriced > 0 {
        let before = row.entry.get(UNPRICED).and_then(Value::as_u64).unwrap_or(0);
        row.entry.insert(UNPRICED.to_owned(), json!(before + bill.n_unpriced));
    }
}

/// Takes the model's name out of a failure where there was no other model it could be confused with: clients show the text
/// beside the name.
pub(super) fn name_nobody(end: &mut RunEnd) {
    if let (Outcome::Failed(failure), [only]) = (&mut end.outcome, end.attempts.as_slice())
        && let Some(rest) = failure.message.strip_prefix(&format!("{}/{}: ", only.provider, only.model))
    {
        failure.message = rest.to_owned();
    }
}

/// A failure in the words of protocol 4, whose clients know this one by them.
pub(super) fn told_v4(failure: &Failure) -> String {
    let is_refused = failure.kind == FailureKind::Format && failure.status.is_some_and(|status| status < 500);
    match is_refused {
        true => "LLM request failed: provider rejected the request schema or tool payload.".to_owned(),
        false => failure.message.clone(),
    }
}

/// The end of a run that never came to itself.
pub(super) fn failed_end(message: String, now_ms: i64) -> RunEnd {
    let failure = Failure { kind: FailureKind::Unavailable, message, status: None, retry_after_ms: None };
    bare_end(Outcome::Failed(failure), now_ms)
}

/// An end of which nothing but the outcome is known.
pub(super) fn bare_end(outcome: Outcome, now_ms: i64) -> RunEnd {
    RunEnd {
        judged: None,
        compacted: None,
        outcome,
        usage: Usage::default(),
        bill: Bill::default(),
        unrecorded: Usage::default(),
        attempts: Vec::new(),
        tool_calls: 0,
        steps: 0,
        load: None,
        began_ms: now_ms,
        ended_ms: now_ms,
        cooldowns: Cooldowns::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::calls::{Called, RUN_ENDED};
    use crate::agent::run::{Judged, Record};
    use crate::agent::talk::ToolCall;
    use crate::defender::decision::Decision;
    use crate::defender::request::ActionRequest;
    use crate::gateway::Fact;
    use crate::gateway::stage::Stage;
    use crate::store::decisions::DecisionFilter;

    fn call(id: &str) -> ToolCall {
        ToolCall { id: id.to_owned(), name: "read".to_owned(), arguments: json!({}) }
    }

    #[test]
    fn a_run_that_ends_between_a_call_and_its_result_leaves_no_call_open_and_is_not_heard_again() {
        let mut stage = Stage::new(&json!({}));
        let params = json!({ "sessionKey": "main", "message": "look", "idempotencyKey": "r1" });
        stage.begin(Protocol::V4, "chat.send", &params).unwrap();
        stage.run();
        let key = SessionKey::stored("agent:main:main".to_owned());
        let config = std::sync::Arc::clone(&stage.core.config);
        let calls = [call("1"), call("2")];
        let judged = |id: &str| Judged {
            request: ActionRequest {
                id: Some(id.to_owned()),
                tool: Some("read".to_owned()),
                ..ActionRequest::default()
            },
            decision: Decision::failed(),
            preview: "{}".to_owned(),
        };
        let block = |call: &ToolCall| json!({ "type": "toolCall", "id": call.id, "name": call.name, "arguments": {} });
        let step = Record {
            role: "assistant",
            content: calls.iter().map(block).collect(),
            extra: Vec::new(),
            idempotency_key: "r2:step:1".to_owned(),
            judged: vec![judged("1"), judged("2")],
            background: None,
        };
        let first = Called::failed(&calls[0], "it is there").record("r2:step:1:result:0".to_owned());
        let message = crate::intake::Message::new(
            crate::intake::Source::Chat,
            key.clone(),
            "r2".to_owned(),
            "look again".to_owned(),
            1,
        );
        let (inbox_id, session_id) = stage
            .database
            .write(|db| {
                let new = crate::store::inbox::NewInbound {
                    source: "chat.send",
                    dedupe_key: "r2",
                    session_key: key.as_str(),
                    body: "{}",
                    received_ms: 1,
                };
                let crate::store::inbox::Accepted::New(id) = db.inbox_accept(&new)? else { panic!("it is new") };
                let session_id = db.session(key.as_str())?.unwrap().session_id;
                Ok::<_, StoreError>((id, session_id))
            })
            .unwrap();
        let place = (Some(session_id.as_str()), Some(inbox_id));
        let record = |stage: &mut Stage, records: Vec<Record>| {
            stage.database.write(|db| steps::record(db, &key, place, &records, &config, 5))
        };
        for _ in 0..2 {
            // Done again, it adds nothing: neither the step nor what was decided.
            let facts = record(&mut stage, vec![step.clone(), first.clone()]).unwrap();
            drop(facts);
        }
        let decided = stage.database.decision_list(DecisionFilter::All, i64::MAX, 99).unwrap();
        let of_tools: Vec<&str> = decided
            .iter()
            .filter(|row| row.decision.tool.is_some())
            .map(|row| row.decision.request_id.as_str())
            .collect();
        assert_eq!(of_tools, ["2", "1"]);

        let end = failed_end("it was given up".to_owned(), 6);
        let items = vec![(inbox_id, "r2".to_owned())];
        let whose = Whose { message: &message, session_id: Some(&session_id), items: &items, has_begun: true };
        let added = stage.database.write(|db| close(db, &whose, &end, 6)).unwrap().added;

        assert_eq!(added.len(), 2, "the result of the second call, and what went wrong");
        assert_eq!((&added[0].message["toolCallId"], &added[0].message["isError"]), (&json!("2"), &json!(true)));
        assert_eq!(added[0].message["content"][0]["text"], RUN_ENDED);
        assert_eq!(added[1].message["errorMessage"], "it was given up");
        // What its thread still says comes too late.
        let late = Called::failed(&calls[1], "late").record("r2:step:1:result:1".to_owned());
        let error = record(&mut stage, vec![late]).map(|facts: Vec<Fact>| facts.len()).unwrap_err();
        assert!(matches!(error, StoreError::Refused(error) if error.message == "the run has ended"));
    }
}
