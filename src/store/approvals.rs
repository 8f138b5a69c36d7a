//! What waits for a person's word, and what came of it (TOOL-53 to TOOL-57).
//!
//! A row is written before anybody is told of it, and its end before anybody hears the answer. Exactly one end is ever
//! written: [`Db::approval_end`] only ends what is open. What was granted is used once: [`Db::approval_use`] says
//! whether it was the first.

use rusqlite::Row;

use super::StoreError;
use super::db::{Columns, Db, Queries, check_size};

/// Approvals that are open at most, as the core holds them too.
pub const APPROVALS_OPEN_MAX: usize = 4096;
/// Approvals that ended and are kept, for the history; the oldest go first.
pub const APPROVALS_ENDED_MAX: usize = 5_000;
/// Largest id, in bytes.
pub const APPROVAL_ID_BYTES_MAX: usize = 256;
/// Largest record, in bytes of JSON.
pub const APPROVAL_RECORD_BYTES_MAX: usize = 128 * 1024;
/// Largest end, in bytes of JSON.
pub const APPROVAL_END_BYTES_MAX: usize = 4 * 1024;

const COLUMNS: &str = "id, kind, created_ms, expires_ms, record, ended_ms, end, used_ms";

/// An approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalRow {
    /// Its name.
    pub id: String,
    /// What kind it is of.
    pub kind: String,
    /// When it was asked for.
    pub created_ms: i64,
    /// Until when it can be answered.
    pub expires_ms: i64,
    /// What is asked, by whom, as JSON text.
    pub record: String,
    /// What came of it: when, and the rest as JSON text.
    pub end: Option<(i64, String)>,
    /// When what was granted was begun.
    pub used_ms: Option<i64>,
}

impl ApprovalRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<ApprovalRow> {
        let mut columns = Columns::of(row);
        let (id, kind, created_ms, expires_ms) = (columns.get()?, columns.get()?, columns.get()?, columns.get()?);
        let (record, ended_ms, end) = (columns.get()?, columns.get::<Option<i64>>()?, columns.get::<Option<String>>()?);
        let used_ms = columns.get()?;
        Ok(ApprovalRow { id, kind, created_ms, expires_ms, record, end: ended_ms.zip(end), used_ms })
    }
}

impl Queries {
    /// Those that are open, and those that ended after `ended_after_ms`.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn approvals_load(&self, ended_after_ms: i64) -> Result<Vec<ApprovalRow>, StoreError> {
        let n_max = APPROVALS_OPEN_MAX as i64;
        let open = format!("SELECT {COLUMNS} FROM approvals WHERE ended_ms IS NULL ORDER BY id LIMIT ?1");
        let mut rows = self.rows(&open, [n_max], ApprovalRow::read)?;
        let ended =
            format!("SELECT {COLUMNS} FROM approvals WHERE ended_ms > ?1 ORDER BY ended_ms DESC, id DESC LIMIT ?2");
        rows.extend(self.rows(&ended, (ended_after_ms, n_max), ApprovalRow::read)?);
        Ok(rows)
    }

    /// One of them.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn approval(&self, id: &str) -> Result<Option<ApprovalRow>, StoreError> {
        self.first(&format!("SELECT {COLUMNS} FROM approvals WHERE id = ?1"), [id], ApprovalRow::read)
    }

    /// Those that ended before the one named by time and id, the last first; of one kind, or all.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn approvals_ended(
        &self,
        before: (i64, &str),
        kind: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ApprovalRow>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM approvals WHERE (ended_ms, id) < (?1, ?2) AND (?3 IS NULL OR kind = ?3) \
             ORDER BY ended_ms DESC, id DESC LIMIT ?4"
        );
        self.rows(&sql, (before.0, before.1, kind, limit as i64), ApprovalRow::read)
    }
}

impl Db<'_> {
    /// Enters an approval, open or ended; `false`: one of this name is there, and stays as it is.
    ///
    /// # Errors
    /// [`StoreError::TableFull`] at [`APPROVALS_OPEN_MAX`] open ones, [`StoreError::TooLarge`], and those of a statement.
    pub fn approval_insert(&self, row: &ApprovalRow) -> Result<bool, StoreError> {
        check_size("approval id", row.id.len(), APPROVAL_ID_BYTES_MAX)?;
        check_size("approval", row.record.len(), APPROVAL_RECORD_BYTES_MAX)?;
        if self.approval(&row.id)?.is_some() {
            return Ok(false);
        }
        let n_open: u64 =
            self.one("SELECT count(*) FROM approvals WHERE ended_ms IS NULL", [], |row| Columns::of(row).count())?;
        if n_open >= APPROVALS_OPEN_MAX as u64 {
            return Err(StoreError::TableFull { what: "approval table", rows_max: APPROVALS_OPEN_MAX });
        }
        let (ended_ms, end) = row.end.clone().unzip();
        self.run(
            "INSERT INTO approvals (id, kind, created_ms, expires_ms, record, ended_ms, end, used_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (&row.id, &row.kind, row.created_ms, row.expires_ms, &row.record, ended_ms, &end, row.used_ms),
        )?;
        if ended_ms.is_some() {
            self.approvals_trim()?;
        }
        Ok(true)
    }

    /// Writes what came of an approval that is open; `false`: it is not.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of a statement.
    pub fn approval_end(&self, id: &str, ended_ms: i64, end: &str) -> Result<bool, StoreError> {
        check_size("end of an approval", end.len(), APPROVAL_END_BYTES_MAX)?;
        let sql = "UPDATE approvals SET ended_ms = ?2, end = ?3 WHERE id = ?1 AND ended_ms IS NULL";
        let is_ended = self.run(sql, (id, ended_ms, end))? > 0;
        self.approvals_trim()?;
        Ok(is_ended)
    }

    /// Notes that what was granted is begun; `false`: it was before.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn approval_use(&self, id: &str, now_ms: i64) -> Result<bool, StoreError> {
        let sql = "UPDATE approvals SET used_ms = ?2 WHERE id = ?1 AND ended_ms IS NOT NULL AND used_ms IS NULL";
        Ok(self.run(sql, (id, now_ms))? > 0)
    }

    fn approvals_trim(&self) -> Result<(), StoreError> {
        let n_ended: i64 = self.one("SELECT count(*) FROM approvals WHERE ended_ms > 0", [], |row| row.get(0))?;
        let n_over = n_ended - APPROVALS_ENDED_MAX as i64;
        if n_over > 0 {
            let sql = "DELETE FROM approvals WHERE id IN
                       (SELECT id FROM approvals WHERE ended_ms > 0 ORDER BY ended_ms, id LIMIT ?1)";
            self.run(sql, [n_over])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::tests::scratch;

    fn row(id: &str) -> ApprovalRow {
        ApprovalRow {
            id: id.to_owned(),
            kind: "exec".to_owned(),
            created_ms: 10,
            expires_ms: 20,
            record: "{}".to_owned(),
            end: None,
            used_ms: None,
        }
    }

    #[test]
    fn an_approval_ends_once_and_is_used_once() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                assert!(db.approval_insert(&row("a"))?);
                assert!(!db.approval_insert(&ApprovalRow { record: "other".to_owned(), ..row("a") })?);
                assert!(!db.approval_use("a", 11)?, "nothing was granted yet");
                assert!(db.approval_end("a", 12, "yes")?);
                assert!(!db.approval_end("a", 13, "no")?);
                assert!(db.approval_use("a", 14)?);
                assert!(!db.approval_use("a", 15)?);
                let kept = ApprovalRow { end: Some((12, "yes".to_owned())), used_ms: Some(14), ..row("a") };
                assert_eq!(db.approval("a")?, Some(kept));
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn the_history_is_read_in_pages_and_bounded() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for n in 0..APPROVALS_ENDED_MAX as i64 + 3 {
                    let end = Some((100 + n, "{}".to_owned()));
                    db.approval_insert(&ApprovalRow { end, ..row(&format!("a{n:05}")) })?;
                }
                db.approval_insert(&row("open"))?;
                let first = db.approvals_ended((i64::MAX, ""), None, 2)?;
                let ids: Vec<&str> = first.iter().map(|row| row.id.as_str()).collect();
                assert_eq!(ids, ["a05002", "a05001"]);
                let last = first.last().unwrap();
                let next = db.approvals_ended((last.end.as_ref().unwrap().0, &last.id), Some("exec"), 10_000)?;
                assert_eq!((next.len(), next[0].id.as_str()), (APPROVALS_ENDED_MAX - 2, "a05000"));
                assert!(db.approvals_ended((i64::MAX, ""), Some("plugin"), 2)?.is_empty());
                let after_ms = 100 + APPROVALS_ENDED_MAX as i64 + 1;
                assert_eq!(db.approvals_load(after_ms)?.len(), 2, "the open one and the last");
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn open_ones_are_bounded() {
        let (_dir, mut database) = scratch();
        let full = database.write(|db| {
            for n in 0..APPROVALS_OPEN_MAX {
                db.approval_insert(&row(&n.to_string()))?;
            }
            db.approval_insert(&row("one more")).map(|_| ())
        });
        assert!(matches!(full, Err(StoreError::TableFull { rows_max: APPROVALS_OPEN_MAX, .. })));
        let too_large = ApprovalRow { record: "x".repeat(APPROVAL_RECORD_BYTES_MAX + 1), ..row("b") };
        assert!(database.write(|db| db.approval_insert(&too_large)).is_err());
    }
}
