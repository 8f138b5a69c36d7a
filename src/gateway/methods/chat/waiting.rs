//! What was accepted in a session and waits for its turn: it is no part of the conversation yet, and protocol 4's clients
//! show it below it.

use serde_json::Value;

use crate::intake::{Message, Source, accept};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::sessions::history;
use crate::store::db::Queries;
use crate::store::inbox::{InboxRow, InboxState};
use crate::store::sessions::SessionRow;

/// Bytes of all messages that are shown as waiting; each has its share, and a larger one is named.
pub const SHOWN_BYTES_MAX: usize = 128 * 1024;
/// What the ids of waiting messages begin with, by which clients know them from those of a transcript.
const ID_PREFIX: &str = "pending:";
/// Longest id of a run that is told.
const RUN_ID_CHARS_MAX: usize = 256;

/// A page of them, as `pendingInputs`: the newest with numbers below `before`, oldest first.
pub(super) fn page(db: &Queries, key: &SessionKey, before: i64, ask: &history::Ask) -> Result<Value, RpcError> {
    let waiting = db.inbox_waiting(key.as_str(), before, ask.rows)?;
    let bytes_max = SHOWN_BYTES_MAX / waiting.rows.len().max(1);
    let items: Vec<Value> = waiting.rows.iter().map(|row| item(row, ask, bytes_max)).collect::<Result<_, _>>()?;
    let mut out = json!({ "items": items, "total": waiting.n_total });
    if let (true, Some(oldest)) = (waiting.has_older, waiting.rows.first()) {
        out["nextBefore"] = json!(oldest.id);
    }
    Ok(out)
}

fn item(row: &InboxRow, ask: &history::Ask, bytes_max: usize) -> Result<Value, RpcError> {
    let message: Message = serde_json::from_str(&row.body)
        .map_err(|error| RpcError::unavailable(format!("inbox row {} cannot be read: {error}", row.id)))?;
    let mut about = accept::metadata(&message);
    if let Some(fields) = about.as_object_mut() {
        // Whoever finds those takes the message for one of the transcript.
        fields.retain(|name, _| name != "runId" && name != "idempotencyKey");
    }
    about["id"] = json!(format!("{ID_PREFIX}{}", row.id));
    let mut out = json!({
        "id": row.id.to_string(),
        "acceptedAt": row.received_ms,
        "state": "queued",
        "message": history::waiting(accept::content(&message), about, row.received_ms, ask, bytes_max),
    });
    if message.run_id.chars().count() <= RUN_ID_CHARS_MAX {
        out["runId"] = json!(message.run_id);
    }
    Ok(out)
}

/// What became of the messages that asked for these runs: one waits, or the transcript has it. Nothing is said of the
/// others.
pub(super) fn receipts(db: &Queries, session: &SessionRow, run_ids: &[String]) -> Result<Vec<Value>, RpcError> {
    let mut receipts = Vec::new();
    for run_id in run_ids {
        let mut fate = None;
        for source in [Source::Chat, Source::Agent] {
            if fate.is_none() {
                fate = db.inbox_fate(source.as_str(), run_id, &session.key)?;
            }
        }
        let Some((state, turn)) = fate else { continue };
        // One that was joined with others stands in the transcript under the first one's key.
        let mut message_id = None;
        for key in [Some(run_id), turn.as_ref()].into_iter().flatten() {
            if message_id.is_none() {
                message_id = db.transcript_keyed(&session.session_id, &accept::turn_key(key))?.map(|(_, id)| id);
            }
        }
        match (state, message_id) {
            (_, Some(id)) => receipts.push(json!({ "runId": run_id, "state": "consumed", "consumedByEventId": id })),
            (InboxState::Queued, None) => receipts.push(json!({ "runId": run_id, "state": "pending" })),
            _ => {}
        }
    }
    Ok(receipts)
}
