//! Branches of a conversation as clients see them, and what is given back of a message that is to be said anew.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::media::Media;
use crate::protocol::json::json;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::sessions::SessionRow;
use crate::store::transcript::{MessageRow, PageAt, PageLimits};

/// Characters of a branch's headline.
pub const HEADLINE_CHARS_MAX: usize = 120;
/// Messages looked at for one, from the leaf back.
const HEADLINE_ROWS_MAX: usize = 20;
/// Largest message that is read for one, in bytes.
const HEADLINE_BYTES_MAX: usize = 64 * 1024;
/// Messages, and bytes of them, among which the newest whole answer is looked for.
const COMPLETED_ROWS_MAX: usize = 500;
/// See [`COMPLETED_ROWS_MAX`].
const COMPLETED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Pictures given back of one message.
pub const PICTURES_MAX: usize = 10;
/// Largest picture given back that stands in the transcript itself, in bytes as decoded.
pub const PICTURE_BYTES_MAX: usize = 5 * 1024 * 1024;
/// Bytes of all pictures given back that lie in files: what one answer carries, and the store reads at once.
pub const PICTURES_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What a session that goes on from another one keeps of it, by the names of its entry: how it is answered, not what was
/// said about it.
const CARRIED_OVER: [&str; 15] = [
    "agentRuntimeOverride",
    "authProfileOverride",
    "authProfileOverrideSource",
    "contextWindow",
    "elevatedLevel",
    "fastMode",
    "modelOverride",
    "modelOverrideSource",
    "providerOverride",
    "reasoningLevel",
    "sessionRoot",
    "thinkingLevel",
    "toolOverrides",
    "traceLevel",
    "verboseLevel",
];

/// Lets a new session be answered as `from` is.
pub fn carry_over(from: &SessionRow, to: &mut SessionRow) {
    for name in CARRIED_OVER {
        if let Some(value) = from.entry.get(name) {
            to.entry.insert(name.to_owned(), value.clone());
        }
    }
}

/// The number of the newest whole answer of a conversation, which is none that goes on with calls of tools; 0: there is
/// none near its leaf.
///
/// # Errors
/// The store's.
pub fn last_completed(db: &Queries, session_id: &str) -> Result<u64, StoreError> {
    let limits = PageLimits {
        rows_max: COMPLETED_ROWS_MAX,
        page_bytes_max: COMPLETED_BYTES_MAX,
        message_bytes_max: COMPLETED_BYTES_MAX,
    };
    let page = db.transcript_page(session_id, PageAt::Newest, limits)?;
    let is_whole = |row: &&MessageRow| {
        let message = row.message.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        row.role == "assistant" && message.is_some_and(|message| message["stopReason"] == "stop")
    };
    Ok(page.messages.iter().rev().find(is_whole).map_or(0, |row| row.seq))
}

/// The last words of a branch on one line; empty when there are none near its leaf.
///
/// # Errors
/// The store's.
pub fn headline(db: &Queries, session_id: &str, leaf: u64) -> Result<String, StoreError> {
    let limits = PageLimits {
        rows_max: HEADLINE_ROWS_MAX,
        page_bytes_max: HEADLINE_ROWS_MAX * HEADLINE_BYTES_MAX,
        message_bytes_max: HEADLINE_BYTES_MAX,
    };
    let page = db.transcript_branch_page(session_id, leaf, limits)?;
    let spoken = page.messages.iter().rev().filter(|row| row.role == "user" || row.role == "assistant");
    Ok(spoken.filter_map(line).next().unwrap_or_default())
}

fn line(row: &MessageRow) -> Option<String> {
    let message: Value = serde_json::from_str(row.message.as_deref()?).ok()?;
    let line = said(&message)?.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return None;
    }
    Some(match line.char_indices().nth(HEADLINE_CHARS_MAX) {
        None => line,
        Some(_) => line.chars().take(HEADLINE_CHARS_MAX - 1).chain(['…']).collect(),
    })
}

/// The words of a message, as they were.
fn said(message: &Value) -> Option<String> {
    match &message["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(blocks) => {
            let texts = blocks.iter().filter(|block| block["type"] == "text");
            Some(texts.filter_map(|block| block["text"].as_str()).collect())
        }
        _ => None,
    }
}

/// What goes back into the editor of a message that is to be said anew: its words and the pictures that were kept.
/// `read` gives at most so many bytes of a kept file.
pub fn for_the_editor(row: &MessageRow, read: impl Fn(&str, u64) -> io::Result<Vec<u8>>) -> Value {
    let mut out = json!({});
    let Some(message) = row.message.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return out;
    };
    if let Some(text) = said(&message).filter(|text| !text.is_empty()) {
        out["editorText"] = json!(text);
    }
    let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
    let mut pictures: Vec<Value> = blocks.iter().filter_map(picture).take(PICTURES_MAX).collect();
    let mut bytes_left = PICTURES_BYTES_MAX;
    for media in Media::in_message(&message).iter().filter(|media| media.is_picture()) {
        if pictures.len() >= PICTURES_MAX || media.bytes > bytes_left {
            break;
        }
        // One that made room for others is left out.
        if let Ok(bytes) = read(&media.id, bytes_left) {
            bytes_left = bytes_left.saturating_sub(bytes.len() as u64);
            pictures.push(json!({ "mimeType": media.mime_type, "data": BASE64.encode(bytes) }));
        }
    }
    if !pictures.is_empty() {
        out["editorAttachments"] = json!(pictures);
    }
    out
}

fn picture(block: &Value) -> Option<Value> {
    let (mime, data) = (block["mimeType"].as_str()?, block["data"].as_str()?);
    let fits = !data.is_empty() && data.len() <= PICTURE_BYTES_MAX.div_ceil(3) * 4;
    (block["type"] == "image" && mime.starts_with("image/") && fits).then(|| json!({ "mimeType": mime, "data": data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(message: Value) -> MessageRow {
        MessageRow {
            seq: 1,
            message_id: "m".to_owned(),
            parent_id: None,
            role: "user".to_owned(),
            idempotency_key: None,
            at_ms: 1,
            size_bytes: 1,
            message: Some(message.to_string()),
        }
    }

    #[test]
    fn a_headline_is_one_line_of_bounded_length() {
        let of = |text: &str| line(&row(json!({ "content": [{ "type": "text", "text": text }] })));
        assert_eq!(of(" two\n  lines "), Some("two lines".to_owned()));
        assert_eq!(of(" \n "), None);
        assert_eq!(of(&"é".repeat(HEADLINE_CHARS_MAX)).unwrap(), "é".repeat(HEADLINE_CHARS_MAX));
        let cut = of(&"é".repeat(HEADLINE_CHARS_MAX + 1)).unwrap();
        assert_eq!(cut, format!("{}…", "é".repeat(HEADLINE_CHARS_MAX - 1)));
    }

    fn for_the_editor(row: &MessageRow) -> Value {
        super::for_the_editor(row, |id, _| panic!("{id} is not to be read"))
    }

    #[test]
    fn the_editor_gets_pictures_from_their_files_as_far_as_there_is_room() {
        let fact = |id: &str, mime: &str, bytes: u64| json!({ "url": format!("media://inbound/{id}"), "contentType": mime, "sizeBytes": bytes });
        let read = |id: &str, _: u64| match id {
            "gone.png" => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(b"x".to_vec()),
        };
        let shown = |media: Value| {
            let message = json!({ "content": "see", "__openclaw": { "media": media } });
            super::for_the_editor(&row(message), read)["editorAttachments"].clone()
        };
        let facts =
            json!([fact("a.txt", "text/plain", 1), fact("gone.png", "image/png", 1), fact("b.png", "image/png", 1)]);
        assert_eq!(shown(facts), json!([{ "mimeType": "image/png", "data": "eA==" }]));
        assert_eq!(shown(json!([fact("b.png", "image/png", PICTURES_BYTES_MAX)])).as_array().unwrap().len(), 1);
        assert_eq!(shown(json!([fact("b.png", "image/png", PICTURES_BYTES_MAX + 1)])), Value::Null);
        assert_eq!(
            shown(json!(vec![fact("b.png", "image/png", 1); PICTURES_MAX + 1])).as_array().unwrap().len(),
            PICTURES_MAX
        );
    }

    #[test]
    fn the_editor_gets_words_and_kept_pictures() {
        let image = |data: &str| json!({ "type": "image", "mimeType": "image/png", "data": data });
        let dropped = json!({ "type": "image", "mimeType": "image/png", "omitted": true, "bytes": 9 });
        let both = row(json!({ "content": [{ "type": "text", "text": "look\n" }, image("AA=="), dropped] }));
        let pictures = json!([{ "mimeType": "image/png", "data": "AA==" }]);
        assert_eq!(for_the_editor(&both), json!({ "editorText": "look\n", "editorAttachments": pictures }));
        assert_eq!(for_the_editor(&row(json!({ "content": "plain" }))), json!({ "editorText": "plain" }));
        let many = row(json!({ "content": vec![image("AA=="); PICTURES_MAX + 1] }));
        assert_eq!(for_the_editor(&many)["editorAttachments"].as_array().unwrap().len(), PICTURES_MAX);
        let at_limit = "A".repeat(PICTURE_BYTES_MAX.div_ceil(3) * 4);
        let large = row(json!({ "content": [image(&at_limit), image(&format!("{at_limit}AAAA"))] }));
        assert_eq!(for_the_editor(&large)["editorAttachments"].as_array().unwrap().len(), 1);
    }
}
