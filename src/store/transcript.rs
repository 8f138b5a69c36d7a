//! Transcripts: the messages of a session, numbered 1, 2, 3, ... in the order they were written.
//!
//! Messages are only ever added. Compaction, reset and delete archive a range from the old end ([`super::archive`]):
//! the rows stay where they are, and what is newer than the newest archived number is live. Of the live messages those of
//! the active branch are the conversation ([`super::branches`]): pages, counts and titles are made of it and of nothing
//! else. Its numbers rise, and have gaps only where another branch lies.

use rusqlite::Row;

use super::StoreError;
use super::archive::ArchiveReason;
use super::branches::Path;
use super::db::{Columns, Db, Queries, check_size, signed};

/// Largest message, in bytes of JSON: one frame of a client (25 MiB) fits with room for what we add.
pub const TRANSCRIPT_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Live messages of one session, of all branches. At the limit the older half is archived, so that a session that is
/// never compacted stays quick to page through. Upstream's largest `maxLines` (SES-49).
pub const TRANSCRIPT_LIVE_ROWS_MAX: u64 = 100_000;
/// Messages given out by one page (`chat.history` allows 1000).
pub const TRANSCRIPT_PAGE_ROWS_MAX: usize = 1000;
/// Largest message id, parent id, role, idempotency key, in bytes.
pub const TRANSCRIPT_TEXT_BYTES_MAX: usize = 1024;

/// A message to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage<'a> {
    /// The transcript.
    pub session_id: &'a str,
    /// The message's own id, unique in the transcript.
    pub message_id: &'a str,
    /// The message it answers or follows.
    pub parent_id: Option<&'a str>,
    /// `user`, `assistant`, `toolResult`, ...
    pub role: &'a str,
    /// Adding the same key to the same transcript again adds nothing.
    pub idempotency_key: Option<&'a str>,
    /// When it was said.
    pub at_ms: i64,
    /// The message as JSON text.
    pub message: &'a str,
}

/// What adding a message did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The message's number.
    pub seq: u64,
    /// Its id: the one given, or the earlier one under the same idempotency key.
    pub message_id: String,
    /// Whether it was there before, so that nothing was written.
    pub existed: bool,
}

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRow {
    /// Its number in the transcript, from 1.
    pub seq: u64,
    /// Its id.
    pub message_id: String,
    /// The message it answers or follows.
    pub parent_id: Option<String>,
    /// `user`, `assistant`, `toolResult`, ...
    pub role: String,
    /// The key it was added under.
    pub idempotency_key: Option<String>,
    /// When it was said.
    pub at_ms: i64,
    /// Size of the whole JSON text in bytes.
    pub size_bytes: u64,
    /// The JSON text; `None` when it is larger than [`PageLimits::message_bytes_max`] and was not read.
    pub message: Option<String>,
}

impl MessageRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<MessageRow> {
        let mut columns = Columns::of(row);
        Ok(MessageRow {
            seq: columns.count()?,
            message_id: columns.get()?,
            parent_id: columns.get()?,
            role: columns.get()?,
            idempotency_key: columns.get()?,
            at_ms: columns.get()?,
            size_bytes: columns.count()?,
            message: columns.get()?,
        })
    }
}

/// Columns of a [`MessageRow`]; `?1` is the largest message whose text is read.
pub(super) const MESSAGE_COLUMNS: &str = "seq, message_id, parent_id, role, idempotency_key, at_ms, \
     octet_length(message) AS size_bytes, iif(octet_length(message) <= ?1, message, NULL) AS message";

/// Where a page lies in a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageAt {
    /// The newest messages.
    Newest,
    /// The newest messages after leaving out this many of them.
    BeforeNewest(u64),
    /// The messages just before this number.
    Before(u64),
    /// The messages just after this number, oldest first in choice.
    After(u64),
}

/// How much a page may hold; the first limit that is reached ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// Messages; at most [`TRANSCRIPT_PAGE_ROWS_MAX`] are given.
    pub rows_max: usize,
    /// Bytes of message text together. One message is always given, even when it is larger.
    pub page_bytes_max: usize,
    /// A larger message is given without its text.
    pub message_bytes_max: usize,
}

/// Consecutive messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Oldest first.
    pub messages: Vec<MessageRow>,
    /// Live messages of the whole active branch.
    pub n_total: u64,
    /// Whether there are older live messages.
    pub has_older: bool,
    /// Whether there are newer messages.
    pub has_newer: bool,
}

/// The numbers of the live messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    /// Number before the first live message: the newest archived one, or 0.
    pub(super) floor: u64,
    /// The newest message, live or not; 0 before the first.
    pub(super) last: u64,
}

impl Live {
    fn n_rows(self) -> u64 {
        self.last.saturating_sub(self.floor)
    }
}

impl Queries {
    pub(super) fn transcript_live(&self, session_id: &str) -> Result<Live, StoreError> {
        self.one(
            "SELECT (SELECT coalesce(max(last_seq), 0) FROM archives WHERE session_id = ?1) AS floor,
                    (SELECT coalesce(max(seq), 0) FROM transcript WHERE session_id = ?1) AS last",
            [session_id],
            |row| {
                let mut columns = Columns::of(row);
                let (floor, last) = (columns.count()?, columns.count()?);
                // Archived messages may have been removed for good; numbers still go on after them.
                Ok(Live { floor, last: last.max(floor) })
            },
        )
    }

    /// How many live messages the active branch of a transcript has.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_count(&self, session_id: &str) -> Result<u64, StoreError> {
        Ok(self.transcript_path(session_id)?.n_rows())
    }

    /// Consecutive live messages of a transcript's active branch.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_page(&self, session_id: &str, at: PageAt, limits: PageLimits) -> Result<Page, StoreError> {
        let path = self.transcript_path(session_id)?;
        self.transcript_page_of(session_id, &path, at, limits)
    }

    /// Consecutive messages of one way through a transcript.
    pub(super) fn transcript_page_of(
        &self,
        session_id: &str,
        path: &Path,
        at: PageAt,
        limits: PageLimits,
    ) -> Result<Page, StoreError> {
        // Bounds of the page's numbers, both exclusive.
        let (after, before) = match at {
            PageAt::Newest => (0, u64::MAX),
            PageAt::BeforeNewest(n_skipped) => (0, path.without_newest(n_skipped) + 1),
            PageAt::Before(seq) => (0, seq),
            PageAt::After(seq) => (seq, u64::MAX),
        };
        let end = if matches!(at, PageAt::After(_)) { RangeEnd::Oldest } else { RangeEnd::Newest };
        let mut taken = Taken::new(limits);
        let mut stretches = path.0.clone();
        if end == RangeEnd::Newest {
            stretches.reverse();
        }
        for stretch in stretches {
            let (after, before) = (after.max(stretch.first - 1), before.min(stretch.last + 1));
            if after + 1 < before && !self.take(session_id, after, before, end, &mut taken)? {
                break;
            }
        }
        let messages = taken.in_order(end);
        let n_total = path.n_rows();
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else {
            return Ok(Page { n_total, ..Page::default() });
        };
        let (has_older, has_newer) = (path.first() < Some(first.seq), path.last() > Some(last.seq));
        Ok(Page { messages, n_total, has_older, has_newer })
    }

    /// Messages with `after < seq < before`, whatever branch they are of, as many as the limits allow counted from one
    /// end, oldest first.
    pub(super) fn transcript_range(
        &self,
        session_id: &str,
        after: u64,
        before: u64,
        end: RangeEnd,
        limits: PageLimits,
    ) -> Result<Vec<MessageRow>, StoreError> {
        let mut taken = Taken::new(limits);
        self.take(session_id, after, before, end, &mut taken)?;
        Ok(taken.in_order(end))
    }

    /// Reads on from one end; says whether there may be room for more.
    fn take(
        &self,
        session_id: &str,
        after: u64,
        before: u64,
        end: RangeEnd,
        taken: &mut Taken,
    ) -> Result<bool, StoreError> {
        let mut statement = self.prepared(&end.statement())?;
        let mut rows = statement.query((
            signed(taken.limits.message_bytes_max as u64),
            session_id,
            signed(after),
            signed(before),
            signed(taken.n_rows_left() as u64),
        ))?;
        while let Some(row) = rows.next()? {
            if !taken.add(MessageRow::read(row)?) {
                return Ok(false);
            }
        }
        Ok(taken.n_rows_left() > 0)
    }

    /// The first live message of a role on the active branch, for titles made from what the user said first.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_first_of_role(
        &self,
        session_id: &str,
        role: &str,
        message_bytes_max: usize,
    ) -> Result<Option<MessageRow>, StoreError> {
        for stretch in self.transcript_path(session_id)?.0 {
            let found = self.first(
                &format!(
                    "SELECT {MESSAGE_COLUMNS} FROM transcript
                     WHERE session_id = ?2 AND seq BETWEEN ?3 AND ?4 AND role = ?5 ORDER BY seq LIMIT 1"
                ),
                (signed(message_bytes_max as u64), session_id, signed(stretch.first), signed(stretch.last), role),
                MessageRow::read,
            )?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The newest message of a role whose idempotency key begins with `prefix`, archived or not.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_newest_keyed(
        &self,
        session_id: &str,
        prefix: &str,
        role: &str,
    ) -> Result<Option<MessageRow>, StoreError> {
        // Everything that begins with it, for keys are compared byte by byte.
        let end = format!("{prefix}\u{10ffff}");
        self.first(
            &format!(
                "SELECT {MESSAGE_COLUMNS} FROM transcript
                 WHERE session_id = ?2 AND idempotency_key >= ?3 AND idempotency_key < ?4 AND role = ?5
                 ORDER BY seq DESC LIMIT 1"
            ),
            (signed(TRANSCRIPT_MESSAGE_BYTES_MAX as u64), session_id, prefix, end, role),
            MessageRow::read,
        )
    }

    /// Number and id of the message that was added under an idempotency key, archived or not, of whatever branch.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_keyed(&self, session_id: &str, key: &str) -> Result<Option<(u64, String)>, StoreError> {
        self.first(
            "SELECT seq, message_id FROM transcript WHERE session_id = ?1 AND idempotency_key = ?2",
            (session_id, key),
            |row| {
                let mut columns = Columns::of(row);
                Ok((columns.count()?, columns.get()?))
            },
        )
    }

    /// One message by its id, archived or not, of whatever branch.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_message(&self, session_id: &str, message_id: &str) -> Result<Option<MessageRow>, StoreError> {
        self.first(
            &format!("SELECT {MESSAGE_COLUMNS} FROM transcript WHERE session_id = ?2 AND message_id = ?3"),
            (signed(TRANSCRIPT_MESSAGE_BYTES_MAX as u64), session_id, message_id),
            MessageRow::read,
        )
    }
}

/// What a page holds so far.
struct Taken {
    limits: PageLimits,
    messages: Vec<MessageRow>,
    page_bytes: usize,
}

impl Taken {
    fn new(limits: PageLimits) -> Taken {
        Taken { limits, messages: Vec::new(), page_bytes: 0 }
    }

    fn n_rows_left(&self) -> usize {
        self.limits.rows_max.min(TRANSCRIPT_PAGE_ROWS_MAX) - self.messages.len()
    }

    /// Adds a message, if it still fits.
    fn add(&mut self, message: MessageRow) -> bool {
        self.page_bytes += message.message.as_ref().map_or(0, String::len);
        let fits = self.page_bytes <= self.limits.page_bytes_max || self.messages.is_empty();
        if fits {
            self.messages.push(message);
        }
        fits
    }

    fn in_order(mut self, end: RangeEnd) -> Vec<MessageRow> {
        if end == RangeEnd::Newest {
            self.messages.reverse();
        }
        self.messages
    }
}

/// The end of a range at which choosing starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RangeEnd {
    Oldest,
    Newest,
}

impl RangeEnd {
    pub(super) fn statement(self) -> String {
        let direction = if self == RangeEnd::Newest { "DESC" } else { "ASC" };
        format!(
            "SELECT {MESSAGE_COLUMNS} FROM transcript
             WHERE session_id = ?2 AND seq > ?3 AND seq < ?4 ORDER BY seq {direction} LIMIT ?5"
        )
    }
}

impl Db<'_> {
    /// Adds a message to the end of its transcript and counts it in its session.
    ///
    /// A message whose idempotency key is in the transcript already is not added again, however old the first one
    /// is. The session, when there is one, gets `at_ms` as its time of change unless it is newer.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of a statement (a message id that is in use is one).
    pub fn transcript_append(&self, new: &NewMessage<'_>) -> Result<Appended, StoreError> {
        check_size("message", new.message.len(), TRANSCRIPT_MESSAGE_BYTES_MAX)?;
        for (what, text) in [
            ("message id", Some(new.message_id)),
            ("parent id", new.parent_id),
            ("message role", Some(new.role)),
            ("idempotency key", new.idempotency_key),
        ] {
            check_size(what, text.map_or(0, str::len), TRANSCRIPT_TEXT_BYTES_MAX)?;
        }
        if let Some(key) = new.idempotency_key
            && let Some((seq, message_id)) = self.transcript_keyed(new.session_id, key)?
        {
            return Ok(Appended { seq, message_id, existed: true });
        }
        let live = self.transcript_live(new.session_id)?;
        let seq = live.last + 1;
        self.run(
            "INSERT INTO transcript (session_id, seq, message_id, parent_id, role, idempotency_key, at_ms, message)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                new.session_id,
                signed(seq),
                new.message_id,
                new.parent_id,
                new.role,
                new.idempotency_key,
                new.at_ms,
                new.message,
            ),
        )?;
        self.run(
            "UPDATE sessions SET message_count = message_count + 1, updated_ms = max(updated_ms, ?2)
             WHERE session_id = ?1",
            (new.session_id, new.at_ms),
        )?;
        if seq - live.floor > TRANSCRIPT_LIVE_ROWS_MAX {
            self.archive_up_to(new.session_id, seq - TRANSCRIPT_LIVE_ROWS_MAX / 2, new.at_ms)?;
        }
        Ok(Appended { seq, message_id: new.message_id.to_owned(), existed: false })
    }

    /// Archives all but the newest `n_kept` messages of the active branch; returns how many of it were archived. What
    /// other branches share with them is archived with them.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn transcript_compact(&self, session_id: &str, n_kept: u64, now_ms: i64) -> Result<u64, StoreError> {
        let last_archived = self.transcript_path(session_id)?.without_newest(n_kept);
        self.archive_up_to(session_id, last_archived, now_ms)
    }

    /// Archives the live messages up to this number; returns how many of the active branch they are.
    fn archive_up_to(&self, session_id: &str, last_archived: u64, now_ms: i64) -> Result<u64, StoreError> {
        let live = self.transcript_live(session_id)?;
        if last_archived <= live.floor {
            return Ok(0);
        }
        let n_archived = self.transcript_path(session_id)?.n_up_to(last_archived);
        let key = self.first("SELECT key FROM sessions WHERE session_id = ?1", [session_id], |row| row.get(0))?;
        let key: String = key.unwrap_or_default();
        self.archive_range(session_id, &key, ArchiveReason::Compacted, live.floor + 1, last_archived, now_ms)?;
        self.run(
            "UPDATE sessions SET message_count = max(message_count - ?2, 0) WHERE session_id = ?1",
            (session_id, signed(n_archived)),
        )?;
        Ok(n_archived)
    }

    /// Archives every live message of a transcript that a session is about to leave; returns how many.
    pub(super) fn archive_transcript(
        &self,
        session_id: &str,
        session_key: &str,
        reason: ArchiveReason,
        now_ms: i64,
    ) -> Result<u64, StoreError> {
        let live = self.transcript_live(session_id)?;
        if live.n_rows() > 0 {
            self.archive_range(session_id, session_key, reason, live.floor + 1, live.last, now_ms)?;
        }
        Ok(live.n_rows())
    }
}

#[cfg(test)]
mod tests;
