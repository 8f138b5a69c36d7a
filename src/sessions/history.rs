//! A session's messages as clients see them: cut where they are too long, never more than a client can take.

use serde_json::Value;

use super::media::Media;
use super::transcript;
use crate::protocol::json::json;
use crate::protocol::version::Protocol;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::sessions::SessionRow;
use crate::store::transcript::{MessageRow, Page, PageAt, PageLimits};

/// Characters of one text shown on protocol 3; the rest is cut.
pub const TEXT_CHARS_MAX_V3: usize = 12_000;
/// The same on protocol 4, unless `maxChars` says otherwise.
pub const TEXT_CHARS_MAX_V4: usize = 8_000;
/// Bytes of one message; a larger one is named and left out.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Bytes of all messages of one answer.
pub const PAGE_BYTES_MAX: usize = 6 * 1024 * 1024;

/// Bytes of one message that is asked for by itself; a larger one is named and left out.
pub const ONE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The tool whose calls carry a command, which clients show as one.
pub const COMMAND_TOOL: &str = "exec";

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
    /// Only messages after this number; `None`: the newest.
    pub after: Option<u64>,
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
    /// Whether there are newer ones.
    pub has_newer: bool,
    /// Number and id of the newest of them.
    pub newest: Option<(u64, String)>,
    /// What tools were called, for protocol 4.
    pub activity: Vec<Value>,
}

impl Shown {
    /// How many messages are shown.
    pub fn n_shown(&self) -> u64 {
        self.messages.len() as u64
    }
}

/// Names the place after a message, for a client that wants what comes after it.
pub fn cursor(session_id: &str, seq: u64) -> String {
    format!("{session_id}:{seq}")
}

/// The number that a cursor names; `None`: it is of another session, or none of ours.
pub fn after(cursor: &str, session_id: &str) -> Option<u64> {
    cursor.strip_prefix(session_id)?.strip_prefix(':')?.parse().ok()
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
    let at = match (ask.after, ask.skip_newest) {
        (Some(seq), _) => PageAt::After(seq),
        (None, 0) => PageAt::Newest,
        (None, n_skipped) => PageAt::BeforeNewest(n_skipped),
    };
    let page = db.transcript_page(session_id, at, limits)?;
    Ok(shown(page, session_id, ask))
}

/// Reads the messages around one of the live ones, as many before it as after it where there are so many; nothing when
/// the session has no such message.
///
/// # Errors
/// The store's.
pub fn read_around(db: &Queries, session_id: &str, message_id: &str, ask: &Ask) -> Result<Shown, StoreError> {
    let standing = db.transcript_standing(session_id, message_id)?;
    let Some(seq) = standing.filter(|standing| standing.is_active).map(|standing| standing.row.seq) else {
        return Ok(Shown::default());
    };
    let limits = |rows_max| PageLimits {
        rows_max,
        page_bytes_max: ask.bytes.unwrap_or(PAGE_BYTES_MAX).min(PAGE_BYTES_MAX) / 2,
        message_bytes_max: MESSAGE_BYTES_MAX,
    };
    let mut page = db.transcript_page(session_id, PageAt::Before(seq + 1), limits(ask.rows))?;
    let n_newer = (ask.rows - 1).saturating_sub(page.messages.len() - 1).max((ask.rows - 1) / 2);
    if n_newer > 0 {
        let newer = db.transcript_page(session_id, PageAt::After(seq), limits(n_newer))?;
        page.messages.extend(newer.messages);
        page.has_newer = newer.has_newer;
    }
    let n_over = page.messages.len().saturating_sub(ask.rows);
    page.messages.drain(..n_over);
    page.has_older |= n_over > 0;
    Ok(shown(page, session_id, ask))
}

/// Characters of one text that are shown.
fn chars_of(ask: &Ask) -> usize {
    ask.chars.unwrap_or(if ask.protocol == Protocol::V3 { TEXT_CHARS_MAX_V3 } else { TEXT_CHARS_MAX_V4 })
}

fn shown(page: Page, session_id: &str, ask: &Ask) -> Shown {
    let chars = chars_of(ask);
    let newest = page.messages.last().map(|row| (row.seq, row.message_id.clone()));
    let mut messages: Vec<Value> = page.messages.iter().map(|row| show(row, chars, ask.protocol)).collect();
    let mut activity = Vec::new();
    if ask.protocol == Protocol::V4 {
        for message in &mut messages {
            place(message, session_id);
        }
        activity = messages.iter().filter_map(called).collect();
    }
    Shown { messages, n_total: page.n_total, has_older: page.has_older, has_newer: page.has_newer, newest, activity }
}

/// A person's message that is in no transcript yet, as clients read it there: named when it is larger than `bytes_max`.
pub fn waiting(content: Value, metadata: Value, at_ms: i64, ask: &Ask, bytes_max: usize) -> Value {
    let message = json!({ "role": "user", "content": content, "timestamp": at_ms, "__openclaw": metadata });
    let id = message["__openclaw"]["id"].clone();
    let message = fit(message, chars_of(ask), ask.protocol);
    if message.to_string().len() <= bytes_max { message } else { too_large("user", at_ms, json!({ "id": id })) }
}

/// One message by itself; `None`: it is larger than [`ONE_BYTES_MAX`] even when its texts are cut to `chars`.
pub fn one(row: &MessageRow, session_id: &str, chars: usize, protocol: Protocol) -> Option<Value> {
    row.message.as_ref()?;
    let mut message = show(row, chars, protocol);
    if protocol == Protocol::V4 {
        place(&mut message, session_id);
    }
    (message.to_string().len() <= ONE_BYTES_MAX).then_some(message)
}

/// What stands before the first message of a session that was begun anew, on protocol 4; `None`: it was not.
pub fn begun_anew(session: &SessionRow) -> Option<Value> {
    let since_ms = session.entry.get("sessionStartedAt").and_then(Value::as_i64)?;
    (since_ms > session.created_ms).then(|| {
        json!({
            "role": "system",
            "content": [{ "type": "text", "text": "Reset" }],
            "timestamp": since_ms,
            "__openclaw": {
                "kind": "reset",
                "id": format!("{}:reset", session.session_id),
                "seq": 0,
                "transcriptPosition": { "source": session.session_id, "rawSeq": 0 },
            },
        })
    })
}

/// A message that was added to a session, as events of protocol 4 tell of it: like one of a history.
pub fn told(message: Value, session_id: &str) -> Value {
    let mut message = fit(message, TEXT_CHARS_MAX_V4, Protocol::V4);
    place(&mut message, session_id);
    message
}

/// A tool's answer as one step of what an agent did, in the words of protocol 4.
fn called(message: &Value) -> Option<Value> {
    if message["role"] != "toolResult" {
        return None;
    }
    let (name, call_id) = (message["toolName"].as_str()?, message["toolCallId"].as_str()?);
    let item = json!({
        "itemId": format!("tool:{call_id}"),
        "toolCallId": call_id,
        "name": name,
        "kind": "tool",
        "phase": "end",
        "title": title(name),
        "status": if message["isError"] == true { "failed" } else { "completed" },
        "commandBearing": name == COMMAND_TOOL,
    });
    Some(json!({ "messageId": message["__openclaw"]["id"], "items": [item] }))
}

/// A tool's name for people: `session_status` is `Session Status`.
fn title(name: &str) -> String {
    let words = name.split(['_', '-', '.']).filter(|word| !word.is_empty());
    let capital = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_uppercase().chain(chars).collect::<String>()).unwrap_or_default()
    };
    words.map(capital).collect::<Vec<_>>().join(" ")
}

/// Where a message stands, as protocol 4 tells it.
fn place(message: &mut Value, session_id: &str) {
    let at_ms = message["timestamp"].clone();
    if let Some(metadata) = message.get_mut("__openclaw").and_then(Value::as_object_mut) {
        let seq = metadata.get("seq").cloned().unwrap_or_default();
        metadata.insert("recordTimestampMs".to_owned(), at_ms);
        metadata.insert("transcriptPosition".to_owned(), json!({ "source": session_id, "rawSeq": seq }));
    }
}

/// A turn that failed says so in words on protocol 4, whose clients show nothing else of it.
fn tell_failure(message: &mut Value) {
    let is_empty = message["content"].as_array().is_some_and(Vec::is_empty);
    if message["stopReason"] != "error" || !is_empty {
        return;
    }
    let why = message.as_object_mut().and_then(|fields| fields.remove("errorMessage"));
    let why = why.as_ref().and_then(Value::as_str).unwrap_or("it is not known why");
    message["content"] = json!([{ "type": "text", "text": format!("⚠️ No answer: {why}") }]);
}

/// What a person wrote is plain text on protocol 4, when it is nothing else.
fn plain(message: &mut Value) {
    if message["role"] != "user" {
        return;
    }
    if let [block] = message["content"].as_array().map_or(&[][..], Vec::as_slice)
        && block["type"] == "text"
    {
        message["content"] = block["text"].clone();
    }
}

/// Protocol 3 knows pictures as parts of the content; what else came is named.
fn show_media(message: &mut Value) {
    let came = Media::in_message(message);
    let Some(blocks) = message.get_mut("content").and_then(Value::as_array_mut) else { return };
    for media in came {
        blocks.push(match media.is_picture() {
            true => json!({ "type": "image", "mimeType": media.mime_type, "omitted": true, "bytes": media.bytes }),
            false => json!({ "type": "text", "text": format!("[media attached: {}]", media.name()) }),
        });
    }
}

/// Bytes that stand in a message itself, as imported ones have them, are not sent around.
fn drop_data(block: &mut Value) {
    if block["type"] == "image"
        && let Some(fields) = block.as_object_mut()
        && let Some(Value::String(data)) = fields.remove("data")
    {
        fields.insert("omitted".to_owned(), json!(true));
        fields.insert("bytes".to_owned(), json!(data.len() / 4 * 3));
    }
}

fn show(row: &MessageRow, chars: usize, protocol: Protocol) -> Value {
    let parsed = row.message.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(mut message) = parsed else {
        return too_large(&row.role, row.at_ms, json!({ "id": row.message_id, "seq": row.seq }));
    };
    transcript::number(&mut message, row.seq);
    fit(message, chars, protocol)
}

/// What stands for a message that is too large to be shown.
fn too_large(role: &str, at_ms: i64, metadata: Value) -> Value {
    json!({
        "role": role,
        "content": [{ "type": "text", "text": "[chat.history omitted: message too large]" }],
        "timestamp": at_ms,
        "__openclaw": metadata,
    })
}

/// A message as clients of one protocol read it, its texts cut.
fn fit(mut message: Value, chars: usize, protocol: Protocol) -> Value {
    if protocol == Protocol::V3
        && let Some(fields) = message.as_object_mut()
    {
        for name in ["usage", "cost", "details"] {
            fields.remove(name);
        }
    }
    if protocol == Protocol::V3 {
        show_media(&mut message);
    }
    if protocol == Protocol::V4 {
        tell_failure(&mut message);
        plain(&mut message);
    }
    match message.get_mut("content") {
        Some(Value::String(text)) => cut(text, chars),
        Some(Value::Array(blocks)) => {
            for block in blocks {
                drop_data(block);
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
            json!({ "role": "assistant", "content": [{ "type": "text", "text": "é".repeat(10) }], "__openclaw": {} });
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
    fn a_tool_that_was_called_is_told_with_its_outcome() {
        let answer = |is_error: bool| {
            json!({
                "role": "toolResult", "toolCallId": "c1", "toolName": "session_status", "isError": is_error,
                "content": [], "__openclaw": { "id": "m1" },
            })
        };
        let told = called(&answer(true)).unwrap();
        assert_eq!((&told["messageId"], &told["items"][0]["status"]), (&json!("m1"), &json!("failed")));
        assert_eq!(told["items"][0]["title"], "Session Status");
        assert_eq!(called(&answer(false)).unwrap()["items"][0]["status"], "completed");
        assert_eq!(called(&json!({ "role": "assistant" })), None);
    }

    #[test]
    fn a_cursor_names_a_place_in_one_session() {
        assert_eq!(after(&cursor("s-1", 7), "s-1"), Some(7));
        assert_eq!(after(&cursor("s-1", 7), "s"), None);
        assert_eq!(after("s-1:", "s-1"), None);
        assert_eq!(after("", "s-1"), None);
    }

    #[test]
    fn each_protocol_is_told_of_a_failed_turn_in_its_way() {
        let failed = json!({
            "role": "assistant", "content": [], "stopReason": "error", "errorMessage": "HTTP 500", "__openclaw": {},
        });
        let old = show(&row(Some(failed.clone())), 99, Protocol::V3);
        assert_eq!((&old["content"], &old["errorMessage"]), (&json!([]), &json!("HTTP 500")));
        let new = show(&row(Some(failed)), 99, Protocol::V4);
        assert_eq!(new["content"][0]["text"], "⚠️ No answer: HTTP 500");
        assert!(new.get("errorMessage").is_none());
    }

    #[test]
    fn what_a_person_wrote_is_plain_on_protocol_4_unless_there_is_more() {
        let text = json!({ "type": "text", "text": "hi" });
        let said = json!({ "role": "user", "content": [text] });
        assert_eq!(show(&row(Some(said.clone())), 99, Protocol::V4)["content"], "hi");
        assert_eq!(show(&row(Some(said)), 99, Protocol::V3)["content"], json!([text]));
        let more = json!({ "role": "user", "content": [text, { "type": "image" }] });
        assert_eq!(show(&row(Some(more.clone())), 99, Protocol::V4)["content"], more["content"]);
    }

    #[test]
    fn protocol_3_does_not_see_what_a_message_cost() {
        let message = json!({ "role": "assistant", "content": [], "usage": { "input": 1 } });
        assert!(show(&row(Some(message.clone())), 9, Protocol::V3).get("usage").is_none());
        assert!(show(&row(Some(message)), 9, Protocol::V4).get("usage").is_some());
    }
}
