//! What came of a run, written down in one transaction: the reply in the transcript, the session's counts, the inbox
//! rows it dealt with, and the answer for whoever asks again.

use serde_json::{Value, json};

use super::steps;
use crate::agent::cooldown::Cooldowns;
use crate::agent::run::{Load, Outcome, RunEnd};
use crate::agent::stop::Why;
use crate::agent::talk::{Failure, FailureKind, Prices, Usage};
use crate::agent::turn;
use crate::intake::accept::run_key;
use crate::intake::activity;
use crate::protocol::error::RpcError;
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::sessions::transcript;
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

    /// Whether the run said what it had to say.
    pub fn is_ok(&self) -> bool {
        self.status == "ok"
    }

    /// As it is kept.
    fn to_text(&self) -> String {
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

/// Writes it. Gives what was added to the transcript: the reply, what had been said of it, or what went wrong; `None`
/// when there is nothing to add, as for a message that never had its turn.
///
/// # Errors
/// The store's; nothing is written then, and the messages stay open.
pub(super) fn close(
    db: &Db<'_>,
    whose: &Whose<'_>,
    end: &RunEnd,
    now_ms: i64,
) -> Result<Option<transcript::Added>, StoreError> {
    let Whose { message: asked, session_id, items, has_begun } = *whose;
    let (session, run_id) = (&asked.session, asked.run_id.as_str());
    let has_place = has_begun && steps::is_same(db, session, session_id)?;
    let message = if has_place { new_message(run_id, end) } else { None };
    let added = match message {
        Some(message) => {
            let new = transcript::New {
                role: "assistant",
                content: message.content,
                metadata: json!({ "runId": run_id, "idempotencyKey": message.key }),
                idempotency_key: Some(&message.key),
                extra: &message.extra,
                route: None,
            };
            Some(transcript::add(db, session, &new, now_ms)?)
        }
        None => None,
    };
    let after = match has_place {
        true => db.session_update::<StoreError>(session.as_str(), now_ms, |row| {
            count(row, run_id, end);
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
    Ok(added.map(|added| match after {
        Some(session) => transcript::Added { session, ..added },
        None => added,
    }))
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
        ("usage", turn::usage_of(&end.usage, &prices(end))),
        ("stopReason", json!(stop)),
    ]);
    extra.extend(more);
    extra
}

/// What the run's first model takes for its tokens.
pub(super) fn prices(end: &RunEnd) -> Prices {
    end.load.as_ref().map(|load| load.prices).unwrap_or_default()
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
    let cost = row.entry.get("estimatedCostUsd").and_then(Value::as_f64).unwrap_or(0.0);
    let facts = [
        ("status", json!(how)),
        ("startedAt", json!(end.began_ms)),
        ("endedAt", json!(end.ended_ms)),
        ("runtimeMs", json!((end.ended_ms - end.began_ms).max(0))),
        ("lastRunId", json!(run_id)),
        // Counted now, even where it is nothing.
        ("totalTokensFresh", json!(true)),
        ("estimatedCostUsd", turn::number(cost + prices(end).total(&end.usage))),
    ];
    row.entry.extend(facts.map(|(name, value)| (name.to_owned(), value)));
    match &end.outcome {
        Outcome::Failed(failure) => row.entry.insert("lastRunError".to_owned(), json!(told_v4(failure))),
        _ => row.entry.remove("lastRunError"),
    };
    if let Some(load) = &end.load {
        row.entry.insert("contextBudgetStatus".to_owned(), budget(load, &row.session_id));
    }
    row.tokens.input += end.usage.input;
    row.tokens.output += end.usage.output;
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
        compacted: None,
        outcome,
        usage: Usage::default(),
        attempts: Vec::new(),
        tool_calls: 0,
        steps: 0,
        load: None,
        began_ms: now_ms,
        ended_ms: now_ms,
        cooldowns: Cooldowns::default(),
    }
}
