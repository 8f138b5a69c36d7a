//! What a run writes while it goes on. Called on the store thread, for a run that waits for it.

use serde_json::Value;

use super::notices;
use crate::agent::compaction::MEMORY;
use crate::agent::history::COMPACTION;
use crate::agent::run::{Judged, Record};
use crate::config::load::Loaded;
use crate::gateway::Fact;
use crate::gateway::effect::{RunNo, Steered};
use crate::intake::{accept, judge};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::sessions::{row, transcript};
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::sessions::SessionRow;

/// Adds a run's messages to its session; says what changed. A run that was given up has ended, and nothing it still says
/// is heard; `turn_id` is its inbox row, `None` for one that nobody accepted.
///
/// # Errors
/// The store's; nothing is written then.
pub fn record(
    db: &Db<'_>,
    session: &SessionKey,
    (session_id, turn_id): (Option<&str>, Option<i64>),
    records: &[Record],
    config: &Loaded,
    now_ms: i64,
) -> Result<Vec<Fact>, StoreError> {
    if let Some(turn_id) = turn_id
        && !db.inbox_is_open(turn_id)?
    {
        return Err(RpcError::invalid("the run has ended").into());
    }
    if !is_same(db, session, session_id)? {
        return Err(RpcError::invalid("the session was reset or deleted").into());
    }
    let mut facts = Vec::new();
    for record in records {
        let new = transcript::New {
            role: record.role,
            content: record.content.clone(),
            metadata: json!({ "idempotencyKey": record.idempotency_key }),
            idempotency_key: Some(&record.idempotency_key),
            extra: &record.extra,
            route: None,
        };
        let mut added = transcript::add(db, session, &new, now_ms)?;
        if !added.existed {
            if let Some((_, about)) = record.extra.iter().find(|(name, _)| *name == COMPACTION)
                && let Some(counted) = count_compaction(db, session, about.get(MEMORY).is_some(), now_ms)?
            {
                added.session = counted;
            }
            let row = row::told_v4(db, &added.session, &row::Context::of(config), now_ms)?;
            facts.extend(Fact::of_added(session, added, "send", row));
            if let Some(background) = &record.background {
                notices::write_down(db, background, now_ms)?;
            }
            facts.extend(decided(db, session, &record.judged, now_ms)?);
        }
    }
    Ok(facts)
}

/// Writes down what was decided in a session, whether or not a message tells of it.
///
/// # Errors
/// The store's.
pub fn decided(db: &Db<'_>, session: &SessionKey, judged: &[Judged], now_ms: i64) -> Result<Vec<Fact>, StoreError> {
    let mut facts = Vec::new();
    for judged in judged {
        let Judged { request, decision, preview } = judged;
        db.decision_record(&judge::stored(request, decision, preview.clone(), now_ms))?;
        facts.push(Fact::Decided(Box::new((session.clone(), judged.clone()))));
    }
    Ok(facts)
}

fn count_compaction(
    db: &Db<'_>,
    session: &SessionKey,
    is_noted: bool,
    now_ms: i64,
) -> Result<Option<SessionRow>, StoreError> {
    db.session_update::<StoreError>(session.as_str(), now_ms, |session| {
        let before = session.entry.get("compactionCount").and_then(Value::as_u64).unwrap_or(0);
        session.entry.insert("compactionCount".to_owned(), json!(before + 1));
        if is_noted {
            session.entry.insert("memoryFlushAt".to_owned(), json!(now_ms));
            session.entry.insert("memoryFlushCompactionCount".to_owned(), json!(before));
        }
        Ok(())
    })
}

/// Whether a session is still the one that a run began in.
///
/// # Errors
/// The store's.
pub(super) fn is_same(db: &Db<'_>, session: &SessionKey, session_id: Option<&str>) -> Result<bool, StoreError> {
    Ok(db.session(session.as_str())?.is_some_and(|row| session_id.is_none_or(|id| id == row.session_id)))
}

/// The run `into`, which goes by the inbox row `turn_id`, takes a message that it was offered; says what changed.
///
/// # Errors
/// The store's; nothing is written then.
pub fn take(
    db: &Db<'_>,
    into: RunNo,
    turn_id: i64,
    steered: &Steered,
    config: &Loaded,
    now_ms: i64,
) -> Result<Vec<Fact>, StoreError> {
    let Steered { no, inbox_id, joins, message, .. } = steered;
    let added = match joins {
        true => accept::join(db, *inbox_id, turn_id, message, now_ms)?,
        false => accept::enter(db, message, now_ms)?,
    };
    let row = row::told_v4(db, &added.session, &row::Context::of(config), now_ms)?;
    let facts = Fact::of_added(&message.session, added, "send", row);
    Ok(facts.into_iter().chain([Fact::Steered { no: *no, into }]).collect())
}
