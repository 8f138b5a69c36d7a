//! Writing a judged message down: inbox, decision, session, transcript and run, all or nothing.

use serde_json::{Value, json};

use super::{Message, Source, activity};
use crate::defender::decision::{Action, Decision};
use crate::protocol::error::RpcError;
use crate::sessions::transcript;
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::decisions::{Action as StoredAction, NewDecision};
use crate::store::inbox::{Accepted as Inboxed, InboxState, NewInbound};

/// What accepting a message did.
#[derive(Debug)]
pub enum Accepted {
    /// It is new and on disk.
    New(Box<Stored>),
    /// It had been delivered before; nothing was written.
    Before {
        /// The run it became then.
        run_id: String,
        /// What came of it then.
        was_blocked: bool,
    },
}

/// A new message on disk.
#[derive(Debug)]
pub struct Stored {
    /// What was added to the transcript; `None` when the message was blocked.
    pub added: Option<transcript::Added>,
    /// What a run ended with, when it ended at once.
    pub run_error: Option<String>,
}

/// The idempotency key of a message's run.
pub fn run_key(run_id: &str) -> String {
    format!("chat:{run_id}")
}

/// Writes `message` and what was decided about it.
///
/// `run_error` is what its run ends with at once: until a model can be asked, every run does.
///
/// # Errors
/// The store's; nothing is written then.
pub fn accept(
    db: &Db<'_>,
    message: &Message,
    decision: &Decision,
    preview: String,
    run_error: &str,
    now_ms: i64,
) -> Result<Accepted, StoreError> {
    let body = serde_json::to_string(message).expect("a message is strings and numbers");
    let inbound = NewInbound {
        source: message.source.as_str(),
        dedupe_key: &message.dedupe_key,
        session_key: message.session.as_str(),
        body: &body,
        received_ms: message.received_ms,
    };
    let inbox_id = match db.inbox_accept(&inbound)? {
        Inboxed::New(inbox_id) => inbox_id,
        Inboxed::Existing(row) => {
            let first: Message = serde_json::from_str(&row.body)
                .map_err(|error| RpcError::unavailable(format!("inbox row {} cannot be read: {error}", row.id)))?;
            return Ok(Accepted::Before { run_id: first.run_id, was_blocked: row.state == InboxState::Quarantined });
        }
    };
    if message.source == Source::Chat && may_not_send(db, message)? {
        return Err(RpcError::invalid("send blocked by session policy").into());
    }
    db.decision_record(&NewDecision {
        at_ms: now_ms,
        request_id: message.run_id.clone(),
        session_key: Some(message.session.as_str().to_owned()),
        source: message.source.as_str().to_owned(),
        channel: message.channel.clone(),
        tool: None,
        action: stored_action(decision.action),
        score: decision.risk_score,
        reasons: decision.reasons.clone(),
        tags: decision.tags.iter().map(|tag| (*tag).to_owned()).collect(),
        preview,
    })?;
    let summary = json!({ "action": decision.action.as_str(), "score": decision.risk_score }).to_string();
    if decision.action == Action::Block {
        db.inbox_set_state(inbox_id, InboxState::Quarantined, Some(&summary))?;
        activity::message_blocked(db, message, now_ms)?;
        return Ok(Accepted::New(Box::new(Stored { added: None, run_error: None })));
    }
    db.inbox_set_state(inbox_id, InboxState::Done, Some(&summary))?;
    let mut metadata = json!({ "runId": message.run_id, "idempotencyKey": message.dedupe_key });
    if let Some(sender) = &message.sender {
        metadata["sender"] = json!(sender);
    }
    let idempotency_key = format!("{}:user", message.dedupe_key);
    let added = transcript::add(
        db,
        &message.session,
        &transcript::New {
            role: "user",
            content: json!([{ "type": "text", "text": message.text }]),
            metadata,
            idempotency_key: Some(&idempotency_key),
            extra: &[],
            route: message.channel.as_deref().map(|channel| transcript::Route {
                channel,
                to: message.to.as_deref(),
                account_id: message.account_id.as_deref(),
                thread_id: message.thread_id.as_deref(),
            }),
        },
        now_ms,
    )?;
    if message.source == Source::Chat {
        let key = run_key(&message.run_id);
        let response = json!({ "runId": message.run_id, "status": "error", "summary": run_error });
        db.idempotency_begin(&key, now_ms)?;
        db.idempotency_finish(&key, Err(&response.to_string()), now_ms)?;
        activity::run_started(db, message, &added.session.session_id, now_ms)?;
        activity::run_failed(db, message, &added.session.session_id, now_ms)?;
    }
    Ok(Accepted::New(Box::new(Stored { added: Some(added), run_error: Some(run_error.to_owned()) })))
}

/// Whether the session's own policy refuses what clients send to it (SES-53). A refused message is not kept.
fn may_not_send(db: &Db<'_>, message: &Message) -> Result<bool, StoreError> {
    let session = db.session(message.session.as_str())?;
    Ok(session.is_some_and(|session| session.entry.get("sendPolicy").is_some_and(|policy| policy == "deny")))
}

fn stored_action(action: Action) -> StoredAction {
    match action {
        Action::Allow => StoredAction::Allow,
        Action::Review => StoredAction::Review,
        Action::Block => StoredAction::Block,
    }
}

/// The text of a stored message, for tests and previews.
pub fn text_of(message: &Value) -> Option<&str> {
    message.get("content")?.get(0)?.get("text")?.as_str()
}
