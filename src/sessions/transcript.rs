//! Adding messages to a session's transcript.

use serde_json::{Map, Value};

use super::usage;
use crate::protocol::json::json;
use crate::protocol::session_key::{DEFAULT_AGENT, SessionKey};
use crate::runtime::random;
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::sessions::SessionRow;
use crate::store::transcript::NewMessage;

/// A message to add.
#[derive(Debug)]
pub struct New<'a> {
    /// `user`, `assistant`, …
    pub role: &'static str,
    /// Its content blocks.
    pub content: Value,
    /// What goes under `__openclaw` beside the id and the number.
    pub metadata: Value,
    /// Adding the same key again adds nothing.
    pub idempotency_key: Option<&'a str>,
    /// Further fields of the message.
    pub extra: &'a [(&'a str, Value)],
    /// Where it came from, and so where an answer goes; `None` changes nothing.
    pub route: Option<Route<'a>>,
}

/// Where a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// The channel.
    pub channel: &'a str,
    /// Who is at the other end.
    pub to: Option<&'a str>,
    /// The account of ours.
    pub account_id: Option<&'a str>,
    /// The thread.
    pub thread_id: Option<&'a str>,
}

/// The channel of people who talk over this gateway's own clients.
pub const WEBCHAT: &str = "webchat";

/// Field of a message that no model is shown: a command, or the answer to one.
pub const ASIDE: &str = "excludeFromContext";
/// Who is said to have said what the gateway says itself.
pub const BY_GATEWAY: (&str, &str) = ("openclaw", "gateway-injected");

/// The fields of a message in which the gateway answers a command.
pub fn answer_fields() -> Vec<(&'static str, Value)> {
    let usage = json!({
        "input": 0,
        "output": 0,
        "totalTokens": 0,
        "cacheRead": 0,
        "cacheWrite": 0,
        "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": 0 },
    });
    vec![
        ("stopReason", json!("stop")),
        ("usage", usage),
        // What upstream calls the form of such a message, whoever is configured.
        ("api", json!("openai-responses")),
        ("provider", json!(BY_GATEWAY.0)),
        ("model", json!(BY_GATEWAY.1)),
        (ASIDE, json!(true)),
    ]
}

/// A message that was added, and the session it was added to.
#[derive(Debug)]
pub struct Added {
    /// The session after it.
    pub session: SessionRow,
    /// Whether the session was made for it.
    pub is_new_session: bool,
    /// Whether the message was there before.
    pub existed: bool,
    /// The message's id.
    pub message_id: String,
    /// Its number in the transcript.
    pub seq: u64,
    /// The message as clients see it.
    pub message: Value,
}

/// The session `key`, made when it is not there; says whether it was made.
///
/// # Errors
/// The store's.
pub fn open(db: &Db<'_>, key: &SessionKey, now_ms: i64) -> Result<(SessionRow, bool), StoreError> {
    if let Some(session) = db.session(key.as_str())? {
        return Ok((session, false));
    }
    let session = fresh(key, now_ms);
    db.session_put(&session)?;
    Ok((session, true))
}

/// A session that nobody has written down yet.
pub fn fresh(key: &SessionKey, now_ms: i64) -> SessionRow {
    let agent = key.agent().unwrap_or(DEFAULT_AGENT);
    let mut session = SessionRow::new(key.as_str(), agent, random::uuid(), key.kind(), now_ms);
    session.channel = key.channel().map(str::to_owned);
    session.entry.insert("createdVia".to_owned(), json!(via(key)));
    session.entry.insert("lifecycleRevision".to_owned(), json!(random::uuid()));
    session
}

/// Adds a message to the session `key`, which is made when it is not there.
///
/// # Errors
/// The store's; nothing is written then.
pub fn add(db: &Db<'_>, key: &SessionKey, new: &New<'_>, now_ms: i64) -> Result<Added, StoreError> {
    let (session, is_new_session) = open(db, key, now_ms)?;
    let message_id = random::uuid();
    let mut message = compose(new, &message_id, now_ms);
    let appended = db.transcript_append(&NewMessage {
        session_id: &session.session_id,
        message_id: &message_id,
        parent_id: None,
        role: new.role,
        idempotency_key: new.idempotency_key,
        at_ms: now_ms,
        message: &message.to_string(),
    })?;
    let session = match appended.existed {
        true => session,
        false => {
            let session = heard(db, key, session, new, now_ms)?;
            usage::note(db, &session, new.role, &message, now_ms)?;
            session
        }
    };
    number(&mut message, appended.seq);
    Ok(Added {
        session,
        is_new_session,
        existed: appended.existed,
        message_id: appended.message_id,
        seq: appended.seq,
        message,
    })
}

/// Puts a message's number into its metadata: it is the row's, and not written twice.
pub fn number(message: &mut Value, seq: u64) {
    if let Some(metadata) = message.get_mut("__openclaw").and_then(Value::as_object_mut) {
        metadata.insert("seq".to_owned(), json!(seq));
    }
}

/// Notes when the session last heard something, for what is unread and for lists sorted by it, and from where.
fn heard(
    db: &Db<'_>,
    key: &SessionKey,
    session: SessionRow,
    new: &New<'_>,
    now_ms: i64,
) -> Result<SessionRow, StoreError> {
    let updated = db.session_update::<StoreError>(key.as_str(), now_ms, |session| {
        if new.role == "user" {
            session.entry.insert("lastInteractionAt".to_owned(), json!(now_ms));
        }
        if let Some(route) = &new.route {
            answer_to(session, key, route);
        }
        Ok(())
    })?;
    Ok(updated.unwrap_or(session))
}

/// Sends answers where the last message came from. Somebody who looks in from one of our own clients does not take a
/// conversation away from the service it is held on.
fn answer_to(session: &mut SessionRow, key: &SessionKey, route: &Route<'_>) {
    let elsewhere = session.channel.as_deref().is_some_and(|channel| channel != WEBCHAT);
    if route.channel == WEBCHAT && elsewhere {
        return;
    }
    let same = session.channel.as_deref() == Some(route.channel);
    for (kept, new) in [
        (&mut session.peer, route.to),
        (&mut session.account_id, route.account_id),
        (&mut session.thread_id, route.thread_id),
    ] {
        // What a message on the same channel does not say is as it was.
        if new.is_some() || !same {
            *kept = new.map(str::to_owned);
        }
    }
    session.channel = Some(route.channel.to_owned());
    let chat_type = if key.kind() == "group" { "group" } else { "direct" };
    let mut origin = json!({ "provider": route.channel, "surface": route.channel, "chatType": chat_type });
    for (name, value) in [("to", &session.peer), ("accountId", &session.account_id), ("threadId", &session.thread_id)] {
        if let Some(value) = value {
            origin[name] = json!(value);
        }
    }
    session.entry.insert("origin".to_owned(), origin);
    session.entry.insert("chatType".to_owned(), json!(chat_type));
}

/// What made a session, by its key, in the words of protocol 4.
fn via(key: &SessionKey) -> &'static str {
    let rest = key.rest();
    if rest.starts_with("cron:") {
        "cron"
    } else if rest.starts_with("hook:") {
        "internal"
    } else if super::row::is_subagent(key) {
        "spawn"
    } else if key.channel().is_some() {
        "channel"
    } else {
        "operator"
    }
}

fn compose(new: &New<'_>, message_id: &str, now_ms: i64) -> Value {
    let mut message = Map::new();
    message.insert("role".to_owned(), json!(new.role));
    message.insert("content".to_owned(), new.content.clone());
    message.insert("timestamp".to_owned(), json!(now_ms));
    if let Some(key) = new.idempotency_key {
        message.insert("idempotencyKey".to_owned(), json!(key));
    }
    for (name, value) in new.extra {
        message.insert((*name).to_owned(), value.clone());
    }
    let mut metadata = Map::new();
    metadata.insert("id".to_owned(), json!(message_id));
    if let Value::Object(more) = &new.metadata {
        metadata.extend(more.clone());
    }
    message.insert("__openclaw".to_owned(), Value::Object(metadata));
    Value::Object(message)
}

/// What a message says: its text blocks, one on each line.
pub fn text_of(message: &Value) -> String {
    match message.get("content") {
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(Value::Array(blocks)) => {
            let texts = blocks.iter().filter_map(|block| block.get("text").and_then(Value::as_str)).map(str::trim);
            texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}
