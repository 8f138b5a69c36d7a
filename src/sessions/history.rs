//! A session's messages as clients see them: cut where they are too long, never more than a client can take.

use serde_json::{Value, json};

use super::transcript;
use crate::protocol::version::Protocol;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::transcript::{MessageRow, PageAt, PageLimits};

/// Characters of one text shown on protocol 3; the rest is cut.
pub const TEXT_CHARS_MAX_V3: usize = 12_000;
/// The same on protocol 4, unless `maxChars` says otherwise.
pub const TEXT_CHARS_MAX_V4: usize = 8_000;
/// Bytes of one message; a larger one is named and left out.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Bytes of all messages of one answer.
pub const PAGE_BYTES_MAX: usize = 6 * 1024 * 1024;

/// What ends a text that was cut.
const CUT: &str = "\n...(truncated)...";

/// Which part is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Messages.
    pub rows: usize,
    /// Bytes of all of them; never more than [`PAGE_BYTES_MAX`].
    pub bytes: Option<usize>,
    /// Characters of one text.
    pub chars: Option<usize>,
    /// Newest messages to leave out.
    pub skip_newest: u64,
    /// Who is asking.
    pub protocol: Protocol,
}

/// The part, ready to be shown.
#[derive(Debug, Default)]
pub struct Shown {
    /// Oldest first.
    pub messages: Vec<Value>,
    /// All messages of the session.
    pub n_total: u64,
    /// Whether there are older ones.
    pub has_older: bool,
}

/// Reads it.
///
/// # Errors
/// The store's.
pub fn read(db: &Queries, session_id: &str, ask: &Ask) -> Result<Shown, StoreError> {
    let limits = PageLimits {
        rows_max: ask.rows,
        page_bytes_max: ask.bytes.unwrap_or(PAGE_BYTES_MAX).min(PAGE_BYTES_MAX),
        message_bytes_max: MESSAGE_BYTES_MAX,
    };
    let at = if ask.skip_newest == 0 { PageAt::Newest } else { PageAt::BeforeNewest(ask.skip_newest) };
    let page = db.transcript_page(session_id, at, limits)?;
    let chars = ask.chars.unwrap_or(if ask.protocol == Protocol::V3 { TEXT_CHARS_MAX_V3 } else { TEXT_CHARS_MAX_V4 });
    let messages = page.messages.iter().map(|row| show(row, chars, ask.protocol)).collect();
    Ok(Shown { messages, n_total: page.n_total, has_older: page.has_older })
}

fn show(row: &MessageRow, chars: usize, protocol: Protocol) -> Value {
    let parsed = row.message.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(mut message) = parsed else {
        return json!({
            "role": row.role,
            "content": [{ "type": "text", "text": "[chat.history omitted: message too large]" }],
            "timestamp": row.at_ms,
            "__openclaw": { "id": row.message_id, "seq": row.seq },
        });
    };
    transcript::number(&mut message, row.seq);
    if protocol == Protocol::V3
        && let Some(fields) = message.as_object_mut()
    {
        for name in ["usage", "cost", "details"] {
            fields.remove(name);
        }
    }
    match message.get_mut("content") {
        Some(Value::String(text)) => cut(text, chars),
        Some(Value::Array(blocks)) => {
            for block in blocks {
                if let Some(Value::String(text)) = block.get_mut("text") {
                    cut(text, chars);
                }
            }
        }
        _ => {}
    }
    message
}

fn cut(text: &mut String, chars: usize) {
    if text.len() <= chars {
        return;
    }
    if let Some((end, _)) = text.char_indices().nth(chars) {
        text.truncate(end);
        text.push_str(CUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(message: Option<Value>) -> MessageRow {
        MessageRow {
            seq: 3,
            message_id: "m".to_owned(),
            parent_id: None,
            role: "user".to_owned(),
            idempotency_key: None,
            at_ms: 9,
            size_bytes: 1,
            message: message.map(|m| m.to_string()),
        }
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let message =
            json!({ "role": "user", "content": [{ "type": "text", "text": "é".repeat(10) }], "__openclaw": {} });
        let shown = show(&row(Some(message)), 4, Protocol::V4);
        assert_eq!(shown["content"][0]["text"], format!("éééé{CUT}"));
        assert_eq!(shown["__openclaw"]["seq"], 3);
    }

    #[test]
    fn a_message_over_its_limit_is_named_not_dropped() {
        let shown = show(&row(None), 4, Protocol::V4);
        assert_eq!(shown["content"][0]["text"], "[chat.history omitted: message too large]");
    }

    #[test]
    fn protocol_3_does_not_see_what_a_message_cost() {
        let message = json!({ "role": "assistant", "content": [], "usage": { "input": 1 } });
        assert!(show(&row(Some(message.clone())), 9, Protocol::V3).get("usage").is_none());
        assert!(show(&row(Some(message)), 9, Protocol::V4).get("usage").is_some());
    }
}
