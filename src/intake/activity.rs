//! What is recorded of a message and the run it asks for: that it happened and how it ended, never what was said.

use super::{Message, Source};
use crate::runtime::random;
use crate::store::StoreError;
use crate::store::activity::{ActivityRecord, kind};
use crate::store::db::Db;

/// The name of an agent where a session has none of its own.
const NO_AGENT: &str = "main";

fn record(message: &Message, now_ms: i64) -> ActivityRecord {
    ActivityRecord {
        event_id: random::uuid(),
        at_ms: now_ms,
        source_sequence: 1,
        agent_id: message.session.agent().unwrap_or(NO_AGENT).to_owned(),
        run_id: message.run_id.clone(),
        session_key: message.session.as_str().to_owned(),
        ..ActivityRecord::default()
    }
}

/// The run of `message` began.
///
/// # Errors
/// The store's.
pub fn run_started(db: &Db<'_>, message: &Message, session_id: &str, now_ms: i64) -> Result<(), StoreError> {
    db.activity_append(&ActivityRecord {
        kind: kind::RUN.to_owned(),
        action: "agent.run.started".to_owned(),
        status: "started".to_owned(),
        session_id: Some(session_id.to_owned()),
        ..record(message, now_ms)
    })?;
    Ok(())
}

/// The run of `message` ended; `status` is `succeeded`, `failed`, `cancelled` or `timed_out`.
///
/// # Errors
/// The store's.
pub fn run_finished(
    db: &Db<'_>,
    message: &Message,
    session_id: &str,
    status: &str,
    now_ms: i64,
) -> Result<(), StoreError> {
    db.activity_append(&ActivityRecord {
        kind: kind::RUN.to_owned(),
        action: "agent.run.finished".to_owned(),
        status: status.to_owned(),
        source_sequence: 2,
        session_id: Some(session_id.to_owned()),
        ..record(message, now_ms)
    })?;
    Ok(())
}

/// The defender kept `message` from the agent.
///
/// # Errors
/// The store's.
pub fn message_blocked(db: &Db<'_>, message: &Message, now_ms: i64) -> Result<(), StoreError> {
    let channel = message.channel.as_deref().unwrap_or(match message.source {
        Source::Chat | Source::Agent | Source::OpenAi => "webchat",
        Source::Spawn | Source::Announce => "internal",
        Source::Hook => "hook",
    });
    db.activity_append(&ActivityRecord {
        kind: kind::MESSAGE.to_owned(),
        action: "message.inbound.processed".to_owned(),
        status: "blocked".to_owned(),
        channel: Some(channel.to_owned()),
        ..record(message, now_ms)
    })?;
    Ok(())
}
