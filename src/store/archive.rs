//! Archives: ranges of a transcript that a compaction, a reset or a delete took out of their session.
//!
//! An archive is a row that names a transcript and the first and last number; the messages are read from where they
//! always were. It is the user's history: nothing here removes it except [`Db::archive_prune`], which maintenance
//! calls with the configured retention, a bounded number of messages at a time.

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use super::StoreError;
use super::db::{Columns, Db, Queries, signed};
use super::transcript::{MessageRow, PageLimits, RangeEnd};

/// Archives given out by one list.
pub const ARCHIVE_LIST_ROWS_MAX: usize = 500;
/// Messages removed by one call of [`Db::archive_prune`], so that no transaction grows with the size of an archive.
pub const ARCHIVE_PRUNE_ROWS_MAX: usize = 2000;

const COLUMNS: &str = "id, session_id, session_key, reason, archived_ms, first_seq, last_seq";

/// Why messages left their session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveReason {
    /// The session was compacted to its newest messages.
    Compacted,
    /// The session started again.
    Reset,
    /// The session was deleted.
    Deleted,
}

impl ArchiveReason {
    /// The word in the column and in upstream's archive names (STORE-26).
    pub fn as_str(self) -> &'static str {
        match self {
            ArchiveReason::Compacted => "compacted",
            ArchiveReason::Reset => "reset",
            ArchiveReason::Deleted => "deleted",
        }
    }
}

impl ToSql for ArchiveReason {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for ArchiveReason {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<ArchiveReason> {
        match value.as_str()? {
            "compacted" => Ok(ArchiveReason::Compacted),
            "reset" => Ok(ArchiveReason::Reset),
            "deleted" => Ok(ArchiveReason::Deleted),
            other => Err(FromSqlError::Other(format!("unknown archive reason {other}").into())),
        }
    }
}

/// An archived range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveRow {
    /// Its number; later archives have higher ones.
    pub id: i64,
    /// The transcript.
    pub session_id: String,
    /// The session it was taken from; empty when the transcript had none.
    pub session_key: String,
    /// Why.
    pub reason: ArchiveReason,
    /// When.
    pub archived_ms: i64,
    /// Number of the first message.
    pub first_seq: u64,
    /// Number of the last message.
    pub last_seq: u64,
}

impl ArchiveRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<ArchiveRow> {
        let mut columns = Columns::of(row);
        Ok(ArchiveRow {
            id: columns.get()?,
            session_id: columns.get()?,
            session_key: columns.get()?,
            reason: columns.get()?,
            archived_ms: columns.get()?,
            first_seq: columns.count()?,
            last_seq: columns.count()?,
        })
    }
}

impl Queries {
    /// The archives of a session key, newest first.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn archive_list(&self, session_key: &str) -> Result<Vec<ArchiveRow>, StoreError> {
        self.rows(
            &format!(
                "SELECT {COLUMNS} FROM archives
                 WHERE session_key = ?1 AND first_seq <= last_seq ORDER BY id DESC LIMIT ?2"
            ),
            (session_key, ARCHIVE_LIST_ROWS_MAX as i64),
            ArchiveRow::read,
        )
    }

    /// One archive.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn archive(&self, id: i64) -> Result<Option<ArchiveRow>, StoreError> {
        self.first(&format!("SELECT {COLUMNS} FROM archives WHERE id = ?1"), [id], ArchiveRow::read)
    }

    /// Messages of an archive with numbers above `after_seq`, oldest first; start with 0.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn archive_page(
        &self,
        archive: &ArchiveRow,
        after_seq: u64,
        limits: PageLimits,
    ) -> Result<Vec<MessageRow>, StoreError> {
        let after = after_seq.max(archive.first_seq.saturating_sub(1));
        self.transcript_range(&archive.session_id, after, archive.last_seq + 1, RangeEnd::Oldest, limits)
    }
}

impl Db<'_> {
    pub(super) fn archive_range(
        &self,
        session_id: &str,
        session_key: &str,
        reason: ArchiveReason,
        first_seq: u64,
        last_seq: u64,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO archives (session_id, session_key, reason, archived_ms, first_seq, last_seq)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (session_id, session_key, reason, now_ms, signed(first_seq), signed(last_seq)),
        )?;
        Ok(())
    }

    /// Says that nothing precedes `first_seq` in a transcript that was begun in the middle.
    pub(super) fn archive_nothing_before(
        &self,
        session_id: &str,
        session_key: &str,
        first_seq: u64,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        self.archive_range(session_id, session_key, ArchiveReason::Compacted, first_seq, first_seq - 1, now_ms)
    }

    /// Removes messages archived before `before_ms`, oldest archive first, at most [`ARCHIVE_PRUNE_ROWS_MAX`];
    /// returns how many. Call again (in another job) until it returns 0.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn archive_prune(&self, before_ms: i64) -> Result<u64, StoreError> {
        let oldest = self.first(
            &format!(
                "SELECT {COLUMNS} FROM archives
                 WHERE archived_ms < ?1 AND first_seq <= last_seq ORDER BY archived_ms LIMIT 1"
            ),
            [before_ms],
            ArchiveRow::read,
        )?;
        let Some(archive) = oldest else { return Ok(0) };
        let last_removed = archive.last_seq.min(archive.first_seq + ARCHIVE_PRUNE_ROWS_MAX as u64 - 1);
        self.run(
            "DELETE FROM transcript WHERE session_id = ?1 AND seq BETWEEN ?2 AND ?3",
            (&archive.session_id, signed(archive.first_seq), signed(last_removed)),
        )?;
        // An empty archive of a transcript in use stays: it says where the live messages begin, and the numbers go on.
        let in_use = self.first("SELECT 1 FROM sessions WHERE session_id = ?1", [&archive.session_id], |_| Ok(()))?;
        if last_removed < archive.last_seq || in_use.is_some() {
            self.run("UPDATE archives SET first_seq = ?2 WHERE id = ?1", (archive.id, signed(last_removed + 1)))?;
        } else {
            let emptied = "DELETE FROM archives WHERE session_id = ?1 AND (id = ?2 OR first_seq > last_seq)";
            self.run(emptied, (&archive.session_id, archive.id))?;
            self.run("DELETE FROM branches WHERE session_id = ?1", [&archive.session_id])?;
        }
        Ok(last_removed + 1 - archive.first_seq)
    }
}
