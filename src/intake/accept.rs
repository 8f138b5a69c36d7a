//! Writing a judged message down: inbox, decision, session, transcript and run, all or nothing.

use serde_json::Value;

use super::{Message, Source, activity, judge, turns};
use crate::config::settings::scheduling::Wishes;
use crate::defender::decision::Decision;
use crate::defender::request::ActionRequest;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::sessions::media::Media;
use crate::sessions::{participants, scheduler, thinking, transcript};
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::inbox::{Accepted as Inboxed, InboxState, NewInbound};
use crate::store::media::MediaDir;
use crate::store::sessions::SessionRow;

/// What accepting a message did.
#[derive(Debug)]
pub enum Accepted {
    /// It is new and on disk.
    New(Box<Stored>),
    /// It could not be judged, for want of time or room: only that is on disk, and it is to come again.
    Unjudged,
    /// It had been delivered before; nothing was written.
    Before {
        /// The run it became then.
        run_id: String,
        /// Whether it was kept from the agent then.
        was_held: bool,
    },
}

/// A new message on disk.
#[derive(Debug)]
pub struct Stored {
    /// Its row in the inbox, which stays open until its run has ended.
    pub inbox_id: i64,
    /// What was added to the transcript; `None` when the message is held, or waits for its turn.
    pub added: Option<transcript::Added>,
    /// What the session wants of its queue.
    pub wishes: Wishes,
    /// Whether it is kept from the agent.
    pub is_held: bool,
    /// Whether it is only context: it has no run.
    pub is_left_out: bool,
    /// The row of the session that the message was added to, as clients are told of it; whoever knows the configuration
    /// writes it.
    pub row: Option<Value>,
}

/// A message that was judged, on its way into the store.
#[derive(Debug, Clone)]
pub struct Judged<'a> {
    /// What it says.
    pub message: &'a Message,
    /// What came with it.
    pub files: Files<'a>,
    /// What was judged: the message as the defender sees it.
    pub request: &'a ActionRequest,
    /// What was decided about it.
    pub decision: &'a Decision,
    /// Whether it is kept from the agent: it is blocked, or is to be reviewed, and nobody can be asked.
    pub is_held: bool,
    /// Whether it is said in a group and not to the agent: it is written down, and nobody answers.
    pub is_left_out: bool,
    /// The beginning of what was judged, masked.
    pub preview: String,
}

/// The bytes of the pictures and files of a message, in the order in which it names them.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// Where they are kept.
    pub dir: &'a MediaDir,
    /// One for each of its `media`.
    pub bytes: &'a [Vec<u8>],
}

impl std::fmt::Debug for Files<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("count", &self.bytes.len()).finish()
    }
}

/// When a message's run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// With its acceptance: the session is free.
    Now,
    /// When its turn comes.
    Later,
}

/// The idempotency key of a message's run.
pub fn run_key(run_id: &str) -> String {
    format!("chat:{run_id}")
}

/// The idempotency key, in the transcript, of the turn of a message that its door knows as `dedupe_key`.
pub fn turn_key(dedupe_key: &str) -> String {
    format!("{dedupe_key}:user")
}

/// The content blocks of a message in the transcript.
pub fn content(message: &Message) -> Value {
    json!([{ "type": "text", "text": message.text }])
}

/// What a message's `__openclaw` says of it in the transcript, beside its id and its number.
pub fn metadata(message: &Message) -> Value {
    let mut metadata = json!({ "runId": message.run_id, "idempotencyKey": message.turn_key() });
    if let Some(sender) = &message.sender {
        metadata["sender"] = json!(sender);
    }
    if let Some(client) = &message.client {
        metadata["senderIsOwner"] = json!(client.is_owner);
        metadata["transport"] = json!({ "clients": [{ "id": client.id, "mode": client.mode }] });
    }
    if !message.wish.media.is_empty() {
        metadata["media"] = message.wish.media.iter().map(Media::fact).collect();
    }
    metadata
}

/// Writes a message, what came with it, and what was decided about it.
///
/// # Errors
/// The store's; nothing is written then.
pub fn accept(db: &Db<'_>, judged: Judged<'_>, begins: Begins, now_ms: i64) -> Result<Accepted, StoreError> {
    let Judged { message, files, request, decision, is_held, is_left_out, preview } = judged;
    let record = judge::stored(request, decision, preview, now_ms);
    if is_held && decision.is_unjudged() {
        db.decision_record(&record)?;
        return Ok(Accepted::Unjudged);
    }
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
            return Ok(Accepted::Before { run_id: first.run_id, was_held: row.state == InboxState::Quarantined });
        }
    };
    let session = db.session(message.session.as_str())?;
    message.expected.check(db, message.session.as_str(), session.as_ref())?;
    let entry = session.map(|session| session.entry).unwrap_or_default();
    // The session's own policy may refuse what clients send to it (SES-53). A refused message is not kept.
    let is_sent = matches!(message.source, Source::Chat | Source::Agent | Source::OpenAi);
    if is_sent && entry.get("sendPolicy").is_some_and(|policy| policy == "deny") {
        return Err(RpcError::invalid("send blocked by session policy").into());
    }
    db.decision_record(&record)?;
    let summary = json!({ "action": decision.action.as_str(), "score": decision.risk_score }).to_string();
    if is_held {
        db.inbox_set_state(inbox_id, InboxState::Quarantined, Some(&summary))?;
        activity::message_blocked(db, message, now_ms)?;
        return Ok(Accepted::New(Box::new(Stored {
            inbox_id,
            added: None,
            wishes: Wishes::default(),
            is_held,
            is_left_out: false,
            row: None,
        })));
    }
    debug_assert_eq!(message.wish.media.len(), files.bytes.len(), "each has its bytes");
    for (media, bytes) in message.wish.media.iter().zip(files.bytes) {
        db.media_put(files.dir, &media.id, inbox_id, bytes, now_ms)?;
    }
    db.inbox_set_state(inbox_id, InboxState::Queued, Some(&summary))?;
    db.idempotency_begin(&run_key(&message.run_id), now_ms)?;
    if is_left_out {
        db.inbox_set_state(inbox_id, InboxState::Done, None)?;
        let added = Some(enter(db, message, now_ms)?);
        let wishes = Wishes::default();
        return Ok(Accepted::New(Box::new(Stored { inbox_id, added, wishes, is_held, is_left_out, row: None })));
    }
    let added = match begins {
        Begins::Later => None,
        Begins::Now => Some(begin(db, inbox_id, message, now_ms)?),
    };
    Ok(Accepted::New(Box::new(Stored {
        inbox_id,
        added,
        wishes: scheduler::wishes(&entry),
        is_held,
        is_left_out,
        row: None,
    })))
}

/// A message's turn has come: it enters the transcript. Done again, it finds itself there.
///
/// # Errors
/// The store's; nothing is written then.
pub fn begin(db: &Db<'_>, inbox_id: i64, message: &Message, now_ms: i64) -> Result<transcript::Added, StoreError> {
    begin_all(db, inbox_id, &[inbox_id], message, now_ms)
}

/// The same for several messages that are answered together, as the one message they make; `turn_id` is the row of the
/// one that names the run.
///
/// # Errors
/// The store's; nothing is written then.
pub fn begin_all(
    db: &Db<'_>,
    turn_id: i64,
    inbox_ids: &[i64],
    message: &Message,
    now_ms: i64,
) -> Result<transcript::Added, StoreError> {
    if db.inbox_begin(turn_id, inbox_ids)?.is_none() {
        return Err(RpcError::invalid("the message has been dealt with").into());
    }
    let mut added = enter(db, message, now_ms)?;
    if !added.existed {
        activity::run_started(db, message, &added.session.session_id, now_ms)?;
        if let Some(session) = note_begun(db, &added.session, now_ms)? {
            added.session = session;
        }
    }
    Ok(added)
}

/// Notes in a session, once, that its agent has been told who it is. Gives the session when that changed it.
fn note_begun(db: &Db<'_>, session: &SessionRow, now_ms: i64) -> Result<Option<SessionRow>, StoreError> {
    if session.entry.get("systemSent") == Some(&Value::Bool(true)) {
        return Ok(None);
    }
    db.session_update(session.key.as_str(), now_ms, |row| {
        row.entry.insert("systemSent".to_owned(), json!(true));
        row.entry.entry("abortedLastRun").or_insert(json!(false));
        Ok(())
    })
}

/// A message is taken by the run of another one, which goes by `turn_id`, while that goes on.
///
/// # Errors
/// The store's; nothing is written then.
pub fn join(
    db: &Db<'_>,
    inbox_id: i64,
    turn_id: i64,
    message: &Message,
    now_ms: i64,
) -> Result<transcript::Added, StoreError> {
    if !db.inbox_join(inbox_id, turn_id)? {
        return Err(RpcError::invalid("the message has been dealt with").into());
    }
    enter(db, message, now_ms)
}

/// Puts what a message says into its session's transcript.
///
/// # Errors
/// The store's; nothing is written then.
pub fn enter(db: &Db<'_>, message: &Message, now_ms: i64) -> Result<transcript::Added, StoreError> {
    let extra: &[_] = if message.wish.compact.is_some() { &[(transcript::ASIDE, Value::Bool(true))] } else { &[] };
    enter_with(db, message, extra, now_ms)
}

/// The same for a message that is a command: people read it there, models do not.
///
/// # Errors
/// The store's; nothing is written then.
pub fn enter_command(db: &Db<'_>, message: &Message, now_ms: i64) -> Result<transcript::Added, StoreError> {
    enter_with(db, message, &[(transcript::ASIDE, Value::Bool(true))], now_ms)
}

fn enter_with(
    db: &Db<'_>,
    message: &Message,
    extra: &[(&str, Value)],
    now_ms: i64,
) -> Result<transcript::Added, StoreError> {
    let before = turns::enter(db, message, now_ms)?;
    let is_new_session = before.as_ref().is_some_and(|before| before.is_new_session);
    if let Some(before) = before.filter(|_| !turns::has_words(message)) {
        return Ok(before);
    }
    let mut added = transcript::add(
        db,
        &message.session,
        &transcript::New {
            role: "user",
            content: content(message),
            metadata: metadata(message),
            idempotency_key: Some(&message.turn_key()),
            extra,
            route: message.channel.as_deref().map(|channel| transcript::Route {
                channel,
                to: message.to.as_deref(),
                account_id: message.account_id.as_deref(),
                thread_id: message.thread_id.as_deref(),
            }),
        },
        now_ms,
    )?;
    for media in &message.wish.media {
        db.media_stands_in(&media.id, &added.session.session_id, &added.message_id)?;
    }
    if !added.existed
        && let Some(session) =
            note_message(db, message, &added.session, added.is_new_session || is_new_session, now_ms)?
    {
        added.session = session;
    }
    Ok(transcript::Added { is_new_session: is_new_session || added.is_new_session, ..added })
}

/// Notes in a session what a message says of it: who takes part, and with `agent` its name and how much is thought in
/// it. Gives the session when that changed it. A name that another session has is left to that one.
fn note_message(
    db: &Db<'_>,
    message: &Message,
    session: &SessionRow,
    is_made: bool,
    now_ms: i64,
) -> Result<Option<SessionRow>, StoreError> {
    let wish = &message.wish;
    let is_agent = message.source == Source::Agent;
    let thinking = wish.thinking.as_deref().filter(|_| is_agent).and_then(thinking::parse);
    let label = wish.label.as_ref().filter(|label| is_agent && session.label.as_ref() != Some(label));
    let joins = message.client.as_ref().is_some_and(|client| participants::is_new(session, &client.id));
    let is_by_run = is_made && is_agent && session.entry.get("createdVia").is_some_and(|via| via == "operator");
    if thinking.is_none() && label.is_none() && !joins && !is_by_run {
        return Ok(None);
    }
    let change = |label: Option<&String>| {
        db.session_update::<StoreError>(session.key.as_str(), now_ms, |row| {
            if is_by_run {
                row.entry.insert("createdVia".to_owned(), json!("run"));
            }
            if let Some(level) = thinking {
                row.entry.insert("thinkingLevel".to_owned(), json!(level));
            }
            if let Some(client) = &message.client {
                participants::join(row, &client.id);
            }
            if let Some(label) = label {
                row.label = Some(label.clone());
            }
            Ok(())
        })
    };
    match change(label) {
        Err(StoreError::LabelTaken { .. }) => change(None),
        done => done,
    }
}

/// The text of a stored message, for tests and previews.
pub fn text_of(message: &Value) -> Option<&str> {
    message.get("content")?.get(0)?.get("text")?.as_str()
}
