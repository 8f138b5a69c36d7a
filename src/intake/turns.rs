//! A conversation that was held elsewhere and goes on here: a client that keeps its own history sends all of it.
//!
//! A session that is new begins with what was said before; one that is there knows it already. What the client's own
//! tools answered is new in either case.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Message;
use crate::protocol::json::json;
use crate::sessions::transcript;
use crate::store::StoreError;
use crate::store::db::Db;

/// Turns that one message may bring along; a model reads no more of a transcript either.
pub const TURNS_MAX: usize = 2000;

/// One turn of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "camelCase")]
pub enum Turn {
    /// A person's words.
    User {
        /// The words.
        text: String,
    },
    /// A model's.
    #[serde(rename_all = "camelCase")]
    Assistant {
        /// The words.
        text: String,
        /// The tools it called.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        calls: Vec<Call>,
    },
    /// A tool's.
    #[serde(rename_all = "camelCase")]
    Tool {
        /// The call it answers.
        call_id: String,
        /// The tool, where it is known.
        name: String,
        /// The words.
        text: String,
    },
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Names it for its answer.
    pub id: String,
    /// The tool.
    pub name: String,
    /// An object.
    pub arguments: Value,
}

impl Turn {
    /// What it says.
    pub fn text(&self) -> &str {
        match self {
            Turn::User { text } | Turn::Assistant { text, .. } | Turn::Tool { text, .. } => text,
        }
    }
}

/// Whether a message says something by itself, and does not only bring what tools answered.
pub fn has_words(message: &Message) -> bool {
    !message.text.is_empty() || !message.wish.media.is_empty() || message.wish.results.is_empty()
}

/// Everything a message says, for who judges it: what people and tools said before, and itself at the end.
pub fn to_judge(message: &Message) -> String {
    let before = message.wish.earlier.iter().filter(|turn| !matches!(turn, Turn::Assistant { .. }));
    let mut parts: Vec<&str> = before.chain(&message.wish.results).map(Turn::text).collect();
    parts.push(&message.text);
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

/// Puts the turns that a message brings along into its session's transcript; gives the last. Done again, it finds them
/// there.
///
/// # Errors
/// The store's; nothing is written then.
pub fn enter(db: &Db<'_>, message: &Message, now_ms: i64) -> Result<Option<transcript::Added>, StoreError> {
    let wish = &message.wish;
    if wish.earlier.is_empty() && wish.results.is_empty() {
        return Ok(None);
    }
    let is_new = db.session(message.session.as_str())?.is_none();
    let earlier: &[Turn] = if is_new { &wish.earlier } else { &[] };
    let mut last = None;
    for (idx, turn) in earlier.iter().enumerate() {
        let key = format!("{}:earlier:{idx}", message.dedupe_key);
        last = Some(add(db, message, turn, &key, now_ms)?);
    }
    for (idx, turn) in wish.results.iter().enumerate() {
        let key = format!("{}:result:{idx}", message.dedupe_key);
        last = Some(add(db, message, turn, &key, now_ms)?);
    }
    Ok(last.map(|last| transcript::Added { is_new_session: is_new, ..last }))
}

fn add(db: &Db<'_>, message: &Message, turn: &Turn, key: &str, now_ms: i64) -> Result<transcript::Added, StoreError> {
    let mut content = Vec::new();
    if !turn.text().is_empty() {
        content.push(json!({ "type": "text", "text": turn.text() }));
    }
    let (role, extra): (&'static str, Vec<(&'static str, Value)>) = match turn {
        Turn::User { .. } => ("user", Vec::new()),
        Turn::Assistant { calls, .. } => {
            let block = |call: &Call| json!({ "type": "toolCall", "id": call.id, "name": call.name, "arguments": call.arguments });
            content.extend(calls.iter().map(block));
            let zero = json!({ "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 0 });
            let stop = if calls.is_empty() { "stop" } else { "toolUse" };
            let by = [("provider", json!("openclaw")), ("model", json!("client-history"))];
            ("assistant", by.into_iter().chain([("usage", zero), ("stopReason", json!(stop))]).collect())
        }
        Turn::Tool { call_id, name, .. } => {
            ("toolResult", vec![("toolCallId", json!(call_id)), ("toolName", json!(name)), ("isError", json!(false))])
        }
    };
    let new = transcript::New {
        role,
        content: Value::Array(content),
        metadata: json!({ "runId": message.run_id, "idempotencyKey": key }),
        idempotency_key: Some(key),
        extra: &extra,
        route: None,
    };
    transcript::add(db, &message.session, &new, now_ms)
}
