//! The inbox: every message that was accepted from outside, written before its sender is told so.
//!
//! A sender may deliver twice; the pair of source and dedupe key makes the second delivery find the first
//! (STORE-40). A row is *open* until its message is dealt with: after a restart the open rows are what is left to do.
//!
//! Messages that one run answers are a *turn*, which goes by the number of the message that named the run. A run is begun
//! with [`Db::inbox_begin`], is joined by later messages with [`Db::inbox_join`], and closes all of them at once with
//! [`Db::inbox_end`]; the caller does so in the transaction that writes what the run said, so that an answer and the end
//! of what it answers are one. Each of them leaves closed rows as they are: what ended stays ended.

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
/// Messages of one session that wait and are given out at once (`ChatPendingInputsPage` of protocol 4).
pub const INBOX_WAITING_ROWS_MAX: usize = 20;
/// Bytes of bodies after which a page of open rows ends, so that a start with long messages takes no more memory. The
/// first row is given out whatever its size.
pub const INBOX_PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

const COLUMNS: &str = "id, source, dedupe_key, session_key, body, received_ms, state, attempts, turn_id, decision";

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxState {
    /// Written, not judged yet. Open.
    Received,
    /// Allowed, waiting for its session's turn. Open.
    Queued,
    /// Waiting for an operator's approval. Open.
    Review,
    /// Its run was begun. Open, so that a restart begins it again.
    Running,
    /// Dealt with.
    Done,
    /// Blocked; kept for the operator to look at.
    Quarantined,
    /// Given up.
    Failed,
    /// It had to give way to others and has no run.
    Dropped,
}

impl InboxState {
    /// Every state.
    pub const ALL: [InboxState; 8] = [
        InboxState::Received,
        InboxState::Queued,
        InboxState::Review,
        InboxState::Running,
        InboxState::Done,
        InboxState::Quarantined,
        InboxState::Failed,
        InboxState::Dropped,
    ];

    /// The word in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            InboxState::Received => "received",
            InboxState::Queued => "queued",
            InboxState::Review => "review",
            InboxState::Running => "running",
            InboxState::Done => "done",
            InboxState::Quarantined => "quarantined",
            InboxState::Failed => "failed",
            InboxState::Dropped => "dropped",
        }
    }

    /// Whether something is left to do.
    pub fn is_open(self) -> bool {
        use InboxState::{Queued, Received, Review, Running};
        matches!(self, Received | Queued | Review | Running)
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
    /// How often its run was begun.
    pub attempts: u32,
    /// The turn it had begun in: the number of the message that named the run.
    pub turn_id: Option<i64>,
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
            .field("attempts", &self.attempts)
            .field("turn_id", &self.turn_id)
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
            attempts: columns.get()?,
            turn_id: columns.get()?,
            decision: columns.get()?,
        })
    }
}

/// Messages of a session that wait for their turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Oldest first.
    pub rows: Vec<InboxRow>,
    /// How many there are in all.
    pub n_total: u64,
    /// Whether there are older ones.
    pub has_older: bool,
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
    /// Whether a message is still to be dealt with.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_is_open(&self, id: i64) -> Result<bool, StoreError> {
        Ok(self.first("SELECT 1 FROM inbox WHERE id = ?1 AND is_open", [id], |_| Ok(()))?.is_some())
    }

    /// One message.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox(&self, id: i64) -> Result<Option<InboxRow>, StoreError> {
        self.first(&format!("SELECT {COLUMNS} FROM inbox WHERE id = ?1"), [id], InboxRow::read)
    }

    /// The message that `source` delivered under a key.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_delivered(&self, source: &str, dedupe_key: &str) -> Result<Option<InboxRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM inbox WHERE source = ?1 AND dedupe_key = ?2");
        self.first(&sql, [source, dedupe_key], InboxRow::read)
    }

    /// Open messages with numbers above `after_id`, oldest first, until [`INBOX_LIST_ROWS_MAX`] or
    /// [`INBOX_PAGE_BYTES_MAX`]; start with 0, and go on with the last number until nothing comes.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_open(&self, after_id: i64) -> Result<Vec<InboxRow>, StoreError> {
        let mut statement = self.prepared(&format!(
            "SELECT {COLUMNS} FROM inbox WHERE is_open = 1 AND id > ?1 ORDER BY id LIMIT {INBOX_LIST_ROWS_MAX}"
        ))?;
        let mut rows = statement.query([after_id])?;
        let mut page: Vec<InboxRow> = Vec::new();
        let mut page_bytes = 0;
        while let Some(row) = rows.next()? {
            let row = InboxRow::read(row)?;
            page_bytes += row.body.len();
            if page_bytes > INBOX_PAGE_BYTES_MAX && !page.is_empty() {
                break;
            }
            page.push(row);
        }
        Ok(page)
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

    /// The newest messages of a session that wait for their turn and have numbers below `before_id`, at most `limit`
    /// (itself at most [`INBOX_WAITING_ROWS_MAX`]), until [`INBOX_PAGE_BYTES_MAX`]; start with `i64::MAX`.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_waiting(&self, session_key: &str, before_id: i64, limit: usize) -> Result<Waiting, StoreError> {
        let n_total = self.one(
            "SELECT count(*) FROM inbox WHERE is_open = 1 AND session_key = ?1 AND state = ?2",
            (session_key, InboxState::Queued),
            |row| Columns::of(row).count(),
        )?;
        let mut waiting = Waiting { n_total, ..Waiting::default() };
        if n_total == 0 {
            return Ok(waiting);
        }
        let limit = limit.min(INBOX_WAITING_ROWS_MAX);
        let mut statement = self.prepared(&format!(
            "SELECT {COLUMNS} FROM inbox WHERE is_open = 1 AND session_key = ?1 AND state = ?2 AND id < ?3
             ORDER BY id DESC LIMIT ?4"
        ))?;
        let mut rows = statement.query((session_key, InboxState::Queued, before_id, limit as i64 + 1))?;
        let mut page_bytes = 0;
        while let Some(row) = rows.next()? {
            let row = InboxRow::read(row)?;
            page_bytes += row.body.len();
            let is_full = waiting.rows.len() == limit || page_bytes > INBOX_PAGE_BYTES_MAX;
            if is_full && !waiting.rows.is_empty() {
                waiting.has_older = true;
                break;
            }
            waiting.rows.push(row);
        }
        waiting.rows.reverse();
        Ok(waiting)
    }

    /// What became of the message that `source` delivered under a key: how far it is, and the key of the message that
    /// names the turn it began in.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_fate(
        &self,
        source: &str,
        dedupe_key: &str,
        session_key: &str,
    ) -> Result<Option<(InboxState, Option<String>)>, StoreError> {
        self.first(
            "SELECT state, (SELECT dedupe_key FROM inbox AS first WHERE first.id = own.turn_id) FROM inbox AS own
             WHERE source = ?1 AND dedupe_key = ?2 AND session_key = ?3",
            (source, dedupe_key, session_key),
            |row| {
                let mut columns = Columns::of(row);
                Ok((columns.get()?, columns.get()?))
            },
        )
    }

    /// How many messages of a session are open.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_open_of(&self, session_key: &str) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM inbox WHERE is_open = 1 AND session_key = ?1";
        self.one(sql, [session_key], |row| Columns::of(row).count())
    }

    /// In how many sessions that this one started messages are open.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_open_below(&self, spawned_by: &str) -> Result<u64, StoreError> {
        let sql = "SELECT count(DISTINCT session_key) FROM inbox WHERE is_open = 1
             AND session_key IN (SELECT key FROM sessions WHERE spawned_by = ?1)";
        self.one(sql, [spawned_by], |row| Columns::of(row).count())
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
        if let Some(row) = self.inbox_delivered(new.source, new.dedupe_key)? {
            return Ok(Accepted::Existing(row));
        }
        if self.inbox_open_count()? >= INBOX_OPEN_ROWS_MAX as u64 {
            return Err(StoreError::TableFull { what: "inbox", rows_max: INBOX_OPEN_ROWS_MAX });
        }
        self.run(
            "INSERT INTO inbox (source, dedupe_key, session_key, body, received_ms, state, is_open, attempts)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, 0)",
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

    /// A run begins that answers the messages `ids`, and goes by the number `turn_id`, one of them. Returns how often it
    /// was begun, this time counted; `None` when the message that names it is closed already: then no run may begin, and
    /// nothing is changed. Others that are closed already are left as they are.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_begin(&self, turn_id: i64, ids: &[i64]) -> Result<Option<u32>, StoreError> {
        let begin = |id: i64| {
            self.first(
                "UPDATE inbox SET state = ?3, attempts = attempts + 1, turn_id = ?2 WHERE id = ?1 AND is_open = 1
                 RETURNING attempts",
                (id, turn_id, InboxState::Running),
                |row| Columns::of(row).get(),
            )
        };
        let Some(attempts) = begin(turn_id)? else { return Ok(None) };
        for id in ids.iter().filter(|id| **id != turn_id) {
            begin(*id)?;
        }
        Ok(Some(attempts))
    }

    /// A run that goes on takes one more message (mode `steer`). Returns whether the message was open.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_join(&self, id: i64, turn_id: i64) -> Result<bool, StoreError> {
        let n_changed = self.run(
            "UPDATE inbox SET state = ?3, turn_id = ?2 WHERE id = ?1 AND is_open = 1",
            (id, turn_id, InboxState::Running),
        )?;
        Ok(n_changed > 0)
    }

    /// A run ended: closes all messages that it answered. Returns how many were open; 0 when it had ended before.
    ///
    /// # Panics
    /// In debug builds, when `state` is an open one.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn inbox_end(&self, turn_id: i64, state: InboxState) -> Result<usize, StoreError> {
        debug_assert!(!state.is_open(), "an end closes");
        self.run("UPDATE inbox SET state = ?2, is_open = 0 WHERE turn_id = ?1 AND is_open = 1", (turn_id, state))
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
                    attempts: 0,
                    turn_id: None,
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
        use InboxState::{Queued, Received, Review, Running};
        assert_eq!(states, [Received, Queued, Review, Running]);
        assert_eq!(database.inbox_open_count().unwrap(), 4);
        assert_eq!(database.inbox_in_state(InboxState::Quarantined, i64::MAX, 9).unwrap().len(), 1);
    }

    /// Stores messages 1 to `n`, and lets `act` go on.
    #[track_caller]
    fn with_messages<T>(n: i64, act: impl FnOnce(&Db<'_>) -> Result<T, StoreError>) -> T {
        let (_dir, mut database) = scratch();
        let store = |db: &Db<'_>| {
            for id in 1..=n {
                assert_eq!(db.inbox_accept(&inbound("chat.send", &id.to_string()))?, Accepted::New(id));
                db.inbox_set_state(id, InboxState::Queued, None)?;
            }
            act(db)
        };
        database.write(store).unwrap()
    }

    /// Number, state, attempts and turn of each open message.
    fn left(db: &Db<'_>) -> Vec<(i64, InboxState, u32, Option<i64>)> {
        db.inbox_open(0).unwrap().iter().map(|row| (row.id, row.state, row.attempts, row.turn_id)).collect()
    }

    #[test]
    fn a_restart_knows_what_had_begun_and_how_often() {
        use InboxState::{Queued, Running};
        with_messages(5, |db| {
            assert_eq!(db.inbox_begin(3, &[2, 3])?, Some(1));
            assert!(db.inbox_join(5, 3)?);
            assert_eq!(db.inbox_begin(3, &[2, 3, 5])?, Some(2), "begun again");
            let expected = [
                (1, Queued, 0, None),
                (2, Running, 2, Some(3)),
                (3, Running, 2, Some(3)),
                (4, Queued, 0, None),
                (5, Running, 1, Some(3)),
            ];
            assert_eq!(left(db), expected);
            assert_eq!(db.inbox_end(3, InboxState::Done)?, 3);
            assert_eq!(left(db), [(1, Queued, 0, None), (4, Queued, 0, None)]);
            Ok(())
        });
    }

    #[test]
    fn what_ended_stays_ended() {
        with_messages(3, |db| {
            db.inbox_begin(1, &[1])?;
            assert_eq!(db.inbox_end(1, InboxState::Done)?, 1);
            assert_eq!(db.inbox_end(1, InboxState::Failed)?, 0, "a second end");
            assert_eq!(db.inbox_begin(1, &[1, 2])?, None, "a second run");
            assert_eq!(left(db)[0], (2, InboxState::Queued, 0, None), "and nothing of it");
            assert!(!db.inbox_join(1, 2)?, "it cannot be joined to another");
            assert_eq!(db.inbox_begin(2, &[1, 2])?, Some(1));
            assert_eq!(db.inbox(1)?.map(|row| (row.state, row.turn_id)), Some((InboxState::Done, Some(1))));
            Ok(())
        });
    }

    #[test]
    fn open_messages_are_read_in_pages_bounded_by_rows_and_bytes() {
        let (_dir, mut database) = scratch();
        let long = "x".repeat(INBOX_PAGE_BYTES_MAX / 2);
        let too_long = "x".repeat(INBOX_PAGE_BYTES_MAX + 1);
        let bodies = [long.as_str(), &long, "y", &too_long, "y"];
        let pages = |db: &Db<'_>| {
            let mut pages: Vec<Vec<i64>> = Vec::new();
            loop {
                let after_id = pages.last().and_then(|page| page.last()).copied().unwrap_or(0);
                let page = db.inbox_open(after_id).unwrap();
                if page.is_empty() {
                    return pages;
                }
                pages.push(page.iter().map(|row| row.id).collect());
            }
        };
        let write = |db: &Db<'_>| {
            for (idx, body) in bodies.into_iter().enumerate() {
                db.inbox_accept(&NewInbound { body, ..inbound("hooks", &idx.to_string()) })?;
            }
            assert_eq!(pages(db), [vec![1, 2], vec![3], vec![4], vec![5]]);
            for n in 0..INBOX_LIST_ROWS_MAX {
                db.inbox_accept(&inbound("chat.send", &n.to_string()))?;
            }
            assert_eq!(pages(db).iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, INBOX_LIST_ROWS_MAX, 1]);
            Ok::<_, StoreError>(())
        };
        database.write(write).unwrap();
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
    fn what_waits_in_a_session_comes_in_pages_and_what_began_does_not() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for n in 1..=INBOX_WAITING_ROWS_MAX as i64 + 3 {
                    db.inbox_accept(&inbound("hooks", &n.to_string()))?;
                    db.inbox_set_state(n, InboxState::Queued, None)?;
                }
                db.inbox_accept(&NewInbound { session_key: "agent:main:other", ..inbound("hooks", "other") })?;
                db.inbox_begin(2, &[2, 3])?;
                db.inbox_set_state(4, InboxState::Dropped, None)?;
                let ids = |waiting: &Waiting| waiting.rows.iter().map(|row| row.id).collect::<Vec<_>>();

                let all = db.inbox_waiting("agent:main:main", i64::MAX, 99)?;
                let expected: Vec<i64> = [1].into_iter().chain(5..=23).collect();
                assert_eq!((ids(&all), all.n_total, all.has_older), (expected, 20, false), "at the limit");
                let newest = db.inbox_waiting("agent:main:main", i64::MAX, 2)?;
                assert_eq!((ids(&newest), newest.n_total, newest.has_older), (vec![22, 23], 20, true));
                let oldest = db.inbox_waiting("agent:main:main", 6, 2)?;
                assert_eq!((ids(&oldest), oldest.has_older), (vec![1, 5], false));

                let fate = |key: &str| db.inbox_fate("hooks", key, "agent:main:main");
                assert_eq!(fate("3")?, Some((InboxState::Running, Some("2".to_owned()))));
                assert_eq!(fate("5")?, Some((InboxState::Queued, None)));
                assert_eq!(fate("other")?, None, "another session's");
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
