//! The inbox: every message that was accepted from outside, written before its sender is told so.
//!
//! A sender may deliver twice; the pair of source and dedupe key makes the second delivery find the first
//! (STORE-40). A row is *open* until its message is dealt with: after a restart the open rows are what is left to do.

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use super::StoreError;
use super::db::{Columns, Db, Queries, check_size};

/// Open messages at most: accepted and not dealt with. Beyond it nothing more is accepted
/// ([`StoreError::TableFull`], which a sender sees as retryable).
pub const INBOX_OPEN_ROWS_MAX: usize = 4096;
/// Messages after which a closed one is dropped; until then a late second delivery of it is recognised. So the table
/// holds this many rows, and those older ones that are open.
pub const INBOX_ROWS_KEPT: usize = 20_000;
/// Largest body, in bytes of JSON: one frame of a client (25 MiB) fits with room for what we add.
pub const INBOX_BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest source, dedupe key, session key, decision, in bytes.
pub const INBOX_TEXT_BYTES_MAX: usize = 16 * 1024;
/// Rows given out by one list.
pub const INBOX_LIST_ROWS_MAX: usize = 500;

const COLUMNS: &str = "id, source, dedupe_key, session_key, body, received_ms, state, decision";

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxState {
    /// Written, not judged yet. Open.
    Received,
    /// Allowed, waiting for its session's turn. Open.
    Queued,
    /// Waiting for an operator's approval. Open.
    Review,
    /// Dealt with.
    Done,
    /// Blocked; kept for the operator to look at.
    Quarantined,
    /// Given up.
    Failed,
}

impl InboxState {
    /// Every state.
    pub const ALL: [InboxState; 6] = [
        InboxState::Received,
        InboxState::Queued,
        InboxState::Review,
        InboxState::Done,
        InboxState::Quarantined,
        InboxState::Failed,
    ];

    /// The word in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            InboxState::Received => "received",
            InboxState::Queued => "queued",
            InboxState::Review => "review",
            InboxState::Done => "done",
            InboxState::Quarantined => "quarantined",
            InboxState::Failed => "failed",
        }
    }

    /// Whether something is left to do.
    pub fn is_open(self) -> bool {
        matches!(self, InboxState::Received | InboxState::Queued | InboxState::Review)
    }
}

impl ToSql for InboxState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for InboxState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<InboxState> {
        let word = value.as_str()?;
        InboxState::ALL
            .into_iter()
            .find(|state| state.as_str() == word)
            .ok_or_else(|| FromSqlError::Other(format!("unknown inbox state {word}").into()))
    }
}

/// A message to be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInbound<'a> {
    /// Who delivers: the scope of the dedupe key (`chat.send`, `webhook:github`, ...).
    pub source: &'a str,
    /// The sender's own id for the message.
    pub dedupe_key: &'a str,
    /// The session it was routed to.
    pub session_key: &'a str,
    /// The normalised message as JSON text.
    pub body: &'a str,
    /// When it arrived.
    pub received_ms: i64,
}

/// A stored message.
#[derive(Clone, PartialEq, Eq)]
pub struct InboxRow {
    /// Its number; later messages have higher ones.
    pub id: i64,
    /// Who delivered it.
    pub source: String,
    /// The sender's own id.
    pub dedupe_key: String,
    /// The session it was routed to.
    pub session_key: String,
    /// The normalised message as JSON text.
    pub body: String,
    /// When it arrived.
    pub received_ms: i64,
    /// How far it has come.
    pub state: InboxState,
    /// What the defender decided, as JSON text, once it has.
    pub decision: Option<String>,
}

impl std::fmt::Debug for InboxRow {
    /// Without the body: it is somebody's message.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InboxRow")
            .field("id", &self.id)
            .field("source", &self.source)
            .field("dedupe_key", &self.dedupe_key)
            .field("session_key", &self.session_key)
            .field("body_bytes", &self.body.len())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl InboxRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<InboxRow> {
        let mut columns = Columns::of(row);
        Ok(InboxRow {
            id: columns.get()?,
            source: columns.get()?,
            dedupe_key: columns.get()?,
            session_key: columns.get()?,
            body: columns.get()?,
            received_ms: columns.get()?,
            state: columns.get()?,
            decision: columns.get()?,
        })
    }
}

/// What accepting a message found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is new and now stored under this number, in state [`InboxState::Received`].
    New(i64),
    /// It had been delivered before.
    Existing(InboxRow),
}

impl Queries {
    /// One message.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox(&self, id: i64) -> Result<Option<InboxRow>, StoreError> {
        self.first(&format!("SELECT {COLUMNS} FROM inbox WHERE id = ?1"), [id], InboxRow::read)
    }

    /// Open messages with numbers above `after_id`, oldest first, at most [`INBOX_LIST_ROWS_MAX`]; start with 0.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_open(&self, after_id: i64) -> Result<Vec<InboxRow>, StoreError> {
        self.rows(
            &format!("SELECT {COLUMNS} FROM inbox WHERE is_open = 1 AND id > ?1 ORDER BY id LIMIT ?2"),
            (after_id, INBOX_LIST_ROWS_MAX as i64),
            InboxRow::read,
        )
    }

    /// Messages in one state with numbers below `before_id`, newest first, at most `limit` (itself at most
    /// [`INBOX_LIST_ROWS_MAX`]); start with `i64::MAX`.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_in_state(&self, state: InboxState, before_id: i64, limit: usize) -> Result<Vec<InboxRow>, StoreError> {
        self.rows(
            &format!("SELECT {COLUMNS} FROM inbox WHERE state = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3"),
            (state, before_id, limit.min(INBOX_LIST_ROWS_MAX) as i64),
            InboxRow::read,
        )
    }

    /// How many messages are open.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_open_count(&self) -> Result<u64, StoreError> {
        self.one("SELECT count(*) FROM inbox WHERE is_open = 1", [], |row| Columns::of(row).count())
    }
}

impl Db<'_> {
    /// Stores a message, unless the same source delivered the same key before.
    ///
    /// # Errors
    /// [`StoreError::TableFull`] at [`INBOX_OPEN_ROWS_MAX`], [`StoreError::TooLarge`], and those of a statement.
    pub fn inbox_accept(&self, new: &NewInbound<'_>) -> Result<Accepted, StoreError> {
        check_size("message body", new.body.len(), INBOX_BODY_BYTES_MAX)?;
        for (what, text) in
            [("message source", new.source), ("dedupe key", new.dedupe_key), ("session key", new.session_key)]
        {
            check_size(what, text.len(), INBOX_TEXT_BYTES_MAX)?;
        }
        let existing = self.first(
            &format!("SELECT {COLUMNS} FROM inbox WHERE source = ?1 AND dedupe_key = ?2"),
            [new.source, new.dedupe_key],
            InboxRow::read,
        )?;
        if let Some(row) = existing {
            return Ok(Accepted::Existing(row));
        }
        if self.inbox_open_count()? >= INBOX_OPEN_ROWS_MAX as u64 {
            return Err(StoreError::TableFull { what: "inbox", rows_max: INBOX_OPEN_ROWS_MAX });
        }
        self.run(
            "INSERT INTO inbox (source, dedupe_key, session_key, body, received_ms, state, is_open)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)",
            (new.source, new.dedupe_key, new.session_key, new.body, new.received_ms, InboxState::Received),
        )?;
        let id = self.last_insert_id();
        self.inbox_prune(id - INBOX_ROWS_KEPT as i64)?;
        Ok(Accepted::New(id))
    }

    /// Moves a message on, and records what was decided about it unless `decision` is `None`. Returns whether there
    /// is such a message.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of a statement.
    pub fn inbox_set_state(&self, id: i64, state: InboxState, decision: Option<&str>) -> Result<bool, StoreError> {
        check_size("decision", decision.map_or(0, str::len), INBOX_TEXT_BYTES_MAX)?;
        let n_changed = self.run(
            "UPDATE inbox SET state = ?2, is_open = ?3, decision = coalesce(?4, decision) WHERE id = ?1",
            (id, state, state.is_open(), decision),
        )?;
        Ok(n_changed > 0)
    }

    /// Drops the closed messages with numbers up to `last_id`.
    fn inbox_prune(&self, last_id: i64) -> Result<usize, StoreError> {
        self.run("DELETE FROM inbox WHERE id <= ?1 AND is_open = 0", [last_id])
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::tests::scratch;
    use super::*;

    fn inbound<'a>(source: &'a str, dedupe_key: &'a str) -> NewInbound<'a> {
        NewInbound { source, dedupe_key, session_key: "agent:main:main", body: r#"{"text":"hi"}"#, received_ms: 5 }
    }

    #[test]
    fn a_second_delivery_finds_the_first() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                let Accepted::New(id) = db.inbox_accept(&inbound("hooks", "a"))? else { panic!("is new") };
                db.inbox_set_state(id, InboxState::Done, Some(r#"{"action":"allow"}"#))?;

                let Accepted::Existing(row) = db.inbox_accept(&inbound("hooks", "a"))? else { panic!("is not new") };
                let stored = InboxRow {
                    id,
                    source: String::from("hooks"),
                    dedupe_key: String::from("a"),
                    session_key: String::from("agent:main:main"),
                    body: String::from(r#"{"text":"hi"}"#),
                    received_ms: 5,
                    state: InboxState::Done,
                    decision: Some(String::from(r#"{"action":"allow"}"#)),
                };
                assert_eq!(row, stored);

                assert!(matches!(db.inbox_accept(&inbound("chat.send", "a"))?, Accepted::New(_)), "another source");
                assert!(matches!(db.inbox_accept(&inbound("hooks", "b"))?, Accepted::New(_)), "another key");
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn open_messages_are_what_is_left_to_do() {
        let (_dir, mut database) = scratch();
        let open = database
            .write(|db| {
                for (idx, state) in InboxState::ALL.into_iter().enumerate() {
                    let Accepted::New(id) = db.inbox_accept(&inbound("hooks", &idx.to_string()))? else {
                        panic!("is new")
                    };
                    db.inbox_set_state(id, state, None)?;
                }
                db.inbox_open(0)
            })
            .unwrap();
        let states: Vec<_> = open.iter().map(|row| row.state).collect();
        assert_eq!(states, [InboxState::Received, InboxState::Queued, InboxState::Review]);
        assert_eq!(database.inbox_open_count().unwrap(), 3);
        assert_eq!(database.inbox_in_state(InboxState::Quarantined, i64::MAX, 9).unwrap().len(), 1);
    }

    #[test]
    fn a_full_inbox_refuses_and_still_knows_what_it_has() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for n in 0..INBOX_OPEN_ROWS_MAX {
                    db.inbox_accept(&inbound("hooks", &n.to_string()))?;
                }
                let refused = db.inbox_accept(&inbound("hooks", "one more"));
                assert!(matches!(refused, Err(StoreError::TableFull { rows_max: INBOX_OPEN_ROWS_MAX, .. })));
                assert!(matches!(db.inbox_accept(&inbound("hooks", "0"))?, Accepted::Existing(_)));

                db.inbox_set_state(1, InboxState::Done, None)?;
                assert!(matches!(db.inbox_accept(&inbound("hooks", "one more"))?, Accepted::New(_)));
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn only_old_closed_messages_are_dropped() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for n in 1..=INBOX_ROWS_KEPT as i64 {
                    db.inbox_accept(&inbound("hooks", &n.to_string()))?;
                    if n != 2 {
                        db.inbox_set_state(n, InboxState::Done, None)?;
                    }
                }
                assert_eq!(db.n_rows("inbox"), INBOX_ROWS_KEPT, "at the limit nothing goes");
                for n in 1..=3 {
                    db.inbox_accept(&inbound("hooks", &format!("new {n}")))?;
                }
                assert_eq!(db.n_rows("inbox"), INBOX_ROWS_KEPT + 1, "1 and 3 went");
                let left: Vec<_> = (1..=4).filter(|id| db.inbox(*id).unwrap().is_some()).collect();
                assert_eq!(left, [2, 4], "2 is open");
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn a_body_that_is_too_large_is_refused_by_its_size() {
        let (_dir, mut database) = scratch();
        let body = "x".repeat(INBOX_BODY_BYTES_MAX + 1);
        let refused = database.write(|db| db.inbox_accept(&NewInbound { body: &body, ..inbound("hooks", "a") }));
        assert!(matches!(refused, Err(StoreError::TooLarge { size_bytes_max: INBOX_BODY_BYTES_MAX, .. })));
    }
}
