//! The last lines of several sessions, for a list that shows what goes on in each (SES-30).

use serde_json::Value;

use super::list::cut;
use super::transcript;
use crate::protocol::json::json;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::transcript::{MessageRow, PageAt, PageLimits};

/// Sessions previewed by one call; further ones are not looked at.
pub const KEYS_MAX: usize = 64;
/// Items of a session given out when nothing is said.
pub const ITEMS: usize = 12;
/// Items of a session at most.
pub const ITEMS_MAX: usize = 200;
/// Characters of an item given out when nothing is said.
pub const ITEM_CHARS: usize = 240;
/// Characters of an item at most.
pub const ITEM_CHARS_MAX: usize = 4000;
/// A larger message is shown as one that cannot be, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of messages read for one session.
const PAGE_BYTES_MAX: usize = 512 * 1024;

/// How much of each session is shown.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Items; at most [`ITEMS_MAX`].
    pub items: usize,
    /// Characters of one; at most [`ITEM_CHARS_MAX`].
    pub chars: usize,
}

/// The preview of one session: `{status, items}`; the status is `ok`, `empty` or `missing`.
///
/// # Errors
/// The store's.
pub fn of(db: &Queries, key: &str, ask: Ask) -> Result<Value, StoreError> {
    let Some(session) = db.session(key)? else {
        return Ok(json!({ "status": "missing", "items": [] }));
    };
    let n_items = ask.items.clamp(1, ITEMS_MAX);
    let limits = PageLimits { rows_max: n_items, page_bytes_max: PAGE_BYTES_MAX, message_bytes_max: MESSAGE_BYTES_MAX };
    let page = db.transcript_page(&session.session_id, PageAt::Newest, limits)?;
    let mut items: Vec<Value> =
        page.messages.iter().flat_map(|row| lines(row, ask.chars.min(ITEM_CHARS_MAX))).collect();
    // One message may be several lines: what it says, and each tool it calls.
    items.drain(..items.len().saturating_sub(n_items));
    let status = if items.is_empty() { "empty" } else { "ok" };
    Ok(json!({ "status": status, "items": items }))
}

fn lines(row: &MessageRow, chars: usize) -> Vec<Value> {
    let parsed = row.message.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(message) = parsed else {
        return vec![json!({ "role": role(&row.role), "text": cut("[message too large]", chars) })];
    };
    let mut out = Vec::new();
    let text = transcript::text_of(&message);
    if !text.is_empty() {
        out.push(json!({ "role": role(&row.role), "text": cut(&text, chars) }));
    }
    for block in message.get("content").and_then(Value::as_array).into_iter().flatten() {
        let kind = block.get("type").and_then(Value::as_str).unwrap_or_default();
        if matches!(kind, "toolCall" | "tool_call" | "toolUse" | "tool_use") {
            let name = block.get("name").and_then(Value::as_str).unwrap_or("tool");
            out.push(json!({ "role": "tool", "text": cut(&format!("call {name}"), chars) }));
        }
    }
    out
}

/// The role a preview names.
fn role(stored: &str) -> &'static str {
    match stored {
        "user" => "user",
        "assistant" => "assistant",
        "system" => "system",
        "tool" | "toolResult" => "tool",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(role: &str, message: Option<Value>) -> MessageRow {
        MessageRow {
            seq: 1,
            message_id: "m".to_owned(),
            parent_id: None,
            role: role.to_owned(),
            idempotency_key: None,
            at_ms: 0,
            size_bytes: 0,
            message: message.map(|message| message.to_string()),
        }
    }

    #[test]
    fn a_message_shows_what_it_says_and_what_it_calls() {
        let message = json!({ "content": [
            { "type": "text", "text": "let me look" },
            { "type": "toolCall", "name": "exec" },
        ] });
        assert_eq!(
            lines(&row("assistant", Some(message)), 240),
            [json!({ "role": "assistant", "text": "let me look" }), json!({ "role": "tool", "text": "call exec" })]
        );
        let result = json!({ "content": [{ "type": "text", "text": "done" }] });
        assert_eq!(lines(&row("toolResult", Some(result)), 240), [json!({ "role": "tool", "text": "done" })]);
    }

    #[test]
    fn a_message_that_was_not_read_says_so() {
        assert_eq!(lines(&row("custom", None), 240), [json!({ "role": "other", "text": "[message too large]" })]);
    }
}
