//! The audit trail (SEC-64): who did what to which thing, and how it ended. Records are added and never changed; a
//! trigger in the schema holds that even against this program.

use rusqlite::types::Value as SqlValue;
use rusqlite::{Row, params_from_iter};

use super::StoreError;
use super::db::{Columns, Db, Queries, check_size};

/// Records kept; the oldest go first. About 300 bytes of disk each.
pub const AUDIT_ROWS_MAX: usize = 100_000;
/// Records given out by one list.
pub const AUDIT_LIST_ROWS_MAX: usize = 1000;
/// Records removed by one call of [`Db::audit_prune`].
pub const AUDIT_PRUNE_ROWS_MAX: usize = 2000;
/// Largest text of a record, in bytes.
pub const AUDIT_TEXT_BYTES_MAX: usize = 2 * 1024;
/// Largest detail, in bytes of JSON.
pub const AUDIT_DETAIL_BYTES_MAX: usize = 16 * 1024;

const COLUMNS: &str = "id, at_ms, actor, address, action, resource, outcome, request_id, detail";

/// A record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditRecord {
    /// When it happened.
    pub at_ms: i64,
    /// Who: a device, a token's name, a user; never a secret.
    pub actor: String,
    /// From where.
    pub address: Option<String>,
    /// What: a method or an event.
    pub action: String,
    /// On what.
    pub resource: String,
    /// How it ended: `ok`, `refused`, `failed`.
    pub outcome: String,
    /// The request.
    pub request_id: Option<String>,
    /// What else is worth knowing, as JSON text without secrets.
    pub detail: Option<String>,
}

/// A record with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Later records have higher ones.
    pub id: i64,
    /// What was recorded.
    pub record: AuditRecord,
}

impl AuditRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
        let mut columns = Columns::of(row);
        Ok(AuditRow {
            id: columns.get()?,
            record: AuditRecord {
                at_ms: columns.get()?,
                actor: columns.get()?,
                address: columns.get()?,
                action: columns.get()?,
                resource: columns.get()?,
                outcome: columns.get()?,
                request_id: columns.get()?,
                detail: columns.get()?,
            },
        })
    }
}

/// Which records a list shows; every field that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// At this time or later.
    pub since_ms: Option<i64>,
    /// Before this time.
    pub until_ms: Option<i64>,
    /// By this actor.
    pub actor: Option<String>,
}

/// The statement behind [`Queries::audit_list`].
pub(super) fn list_statement(filter: &AuditFilter, limit: usize) -> (String, Vec<SqlValue>) {
    let mut sql = format!("SELECT {COLUMNS} FROM audit WHERE 1");
    let mut values = Vec::new();
    if let Some(actor) = &filter.actor {
        sql.push_str(" AND actor = ?");
        values.push(SqlValue::from(actor.clone()));
    }
    if let Some(since_ms) = filter.since_ms {
        sql.push_str(" AND at_ms >= ?");
        values.push(SqlValue::from(since_ms));
    }
    if let Some(until_ms) = filter.until_ms {
        sql.push_str(" AND at_ms < ?");
        values.push(SqlValue::from(until_ms));
    }
    sql.push_str(" ORDER BY at_ms DESC, id DESC LIMIT ?");
    values.push(SqlValue::from(limit as i64));
    (sql, values)
}

impl Queries {
    /// The records that `filter` lets through, newest first, at most `limit` (itself at most
    /// [`AUDIT_LIST_ROWS_MAX`]).
    ///
    /// # Errors
    /// Those of a statement.
    pub fn audit_list(&self, filter: &AuditFilter, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let (sql, values) = list_statement(filter, limit.min(AUDIT_LIST_ROWS_MAX));
        self.rows(&sql, params_from_iter(values), AuditRow::read)
    }
}

impl Db<'_> {
    /// Adds a record; returns its number.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of a statement.
    pub fn audit_append(&self, record: &AuditRecord) -> Result<i64, StoreError> {
        for (what, text) in [
            ("audit actor", Some(&record.actor)),
            ("audit address", record.address.as_ref()),
            ("audit action", Some(&record.action)),
            ("audit resource", Some(&record.resource)),
            ("audit outcome", Some(&record.outcome)),
            ("audit request id", record.request_id.as_ref()),
        ] {
            check_size(what, text.map_or(0, String::len), AUDIT_TEXT_BYTES_MAX)?;
        }
        check_size("audit detail", record.detail.as_ref().map_or(0, String::len), AUDIT_DETAIL_BYTES_MAX)?;
        self.run(
            "INSERT INTO audit (at_ms, actor, address, action, resource, outcome, request_id, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                record.at_ms,
                &record.actor,
                &record.address,
                &record.action,
                &record.resource,
                &record.outcome,
                &record.request_id,
                &record.detail,
            ),
        )?;
        let id = self.last_insert_id();
        self.run("DELETE FROM audit WHERE id <= ?1", [id - AUDIT_ROWS_MAX as i64])?;
        Ok(id)
    }

    /// Removes records older than `before_ms`, oldest first, at most [`AUDIT_PRUNE_ROWS_MAX`]; returns how many.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn audit_prune(&self, before_ms: i64) -> Result<usize, StoreError> {
        self.run(
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2)",
            (before_ms, AUDIT_PRUNE_ROWS_MAX as i64),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::tests::scratch;
    use super::*;

    fn record(at_ms: i64, actor: &str) -> AuditRecord {
        AuditRecord {
            at_ms,
            actor: actor.to_owned(),
            action: String::from("sessions.patch"),
            resource: String::from("agent:main:main"),
            outcome: String::from("ok"),
            ..AuditRecord::default()
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_added() {
        let (_dir, mut database) = scratch();
        let full = AuditRecord {
            address: Some(String::from("10.0.0.7")),
            request_id: Some(String::from("request")),
            detail: Some(String::from("{}")),
            ..record(7, "ann")
        };
        let id = database.write(|db| db.audit_append(&full)).unwrap();
        let listed = database.audit_list(&AuditFilter::default(), 9).unwrap();
        assert_eq!(listed, [AuditRow { id, record: full }]);
    }

    #[test]
    fn lists_by_time_and_actor_newest_first() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for (at_ms, actor) in [(1, "ann"), (2, "bob"), (3, "ann"), (4, "bob")] {
                    db.audit_append(&record(at_ms, actor))?;
                }
                Ok::<_, StoreError>(())
            })
            .unwrap();
        let times = |since_ms, until_ms, actor: Option<&str>, limit| {
            let filter = AuditFilter { since_ms, until_ms, actor: actor.map(str::to_owned) };
            let rows = database.audit_list(&filter, limit).unwrap();
            rows.into_iter().map(|row| row.record.at_ms).collect::<Vec<_>>()
        };
        assert_eq!(times(None, None, None, 9), [4, 3, 2, 1]);
        assert_eq!(times(None, None, None, 2), [4, 3]);
        assert_eq!(times(Some(2), Some(4), None, 9), [3, 2]);
        assert_eq!(times(None, Some(3), Some("ann"), 9), [1]);
    }

    #[test]
    fn a_record_cannot_be_changed() {
        let (_dir, mut database) = scratch();
        let changed = database.write(|db| {
            db.audit_append(&record(1, "ann"))?;
            db.run("UPDATE audit SET actor = 'bob'", [])
        });
        assert!(matches!(changed, Err(StoreError::Statement(_))));
    }

    #[test]
    fn the_oldest_leave_at_the_bound_and_by_age() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for at_ms in 1..=AUDIT_ROWS_MAX as i64 {
                    db.audit_append(&record(at_ms, "ann"))?;
                }
                assert_eq!(db.n_rows("audit"), AUDIT_ROWS_MAX);
                db.audit_append(&record(i64::MAX, "ann"))?;
                assert_eq!(db.n_rows("audit"), AUDIT_ROWS_MAX);

                assert_eq!(db.audit_prune(i64::MAX)?, AUDIT_PRUNE_ROWS_MAX);
                assert_eq!(db.audit_prune(AUDIT_PRUNE_ROWS_MAX as i64 + 3)?, 1, "numbers 1 to 2001 are gone");
                assert_eq!(db.audit_prune(AUDIT_PRUNE_ROWS_MAX as i64 + 3)?, 0);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }
}
