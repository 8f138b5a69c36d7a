//! What agents did, step by step, without a word of what was said: runs that started and ended, messages that were kept
//! from them. Records are added and never changed; a trigger in the schema holds that.

use rusqlite::types::Value as SqlValue;
use rusqlite::{Row, params_from_iter};

use super::StoreError;
use super::db::{Columns, Db, Queries, cut};

/// Records kept; the oldest go first. About 250 bytes of disk each.
pub const ACTIVITY_ROWS_MAX: usize = 50_000;
/// Records given out by one list.
pub const ACTIVITY_LIST_ROWS_MAX: usize = 500;
/// Largest text of a record, in bytes; the rest is cut off, for a record is no reason to refuse what it is of.
pub const ACTIVITY_TEXT_BYTES_MAX: usize = 2 * 1024;

/// Kinds of records, as the contract spells them.
pub mod kind {
    /// A run of an agent.
    pub const RUN: &str = "agent_run";
    /// A message.
    pub const MESSAGE: &str = "message";
}

const COLUMNS: &str =
    "id, event_id, at_ms, kind, action, status, source_sequence, agent_id, run_id, session_key, session_id, channel";

/// A record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivityRecord {
    /// Its own name.
    pub event_id: String,
    /// When it happened.
    pub at_ms: i64,
    /// One of [`kind`].
    pub kind: String,
    /// What, in the contract's words.
    pub action: String,
    /// How it stands or ended: `started`, `succeeded`, `failed`, `cancelled`, `timed_out`, `blocked`.
    pub status: String,
    /// Which step of its run it is, counted from 1.
    pub source_sequence: i64,
    /// Whose.
    pub agent_id: String,
    /// The run.
    pub run_id: String,
    /// The session.
    pub session_key: String,
    /// The session's transcript, if it has one.
    pub session_id: Option<String>,
    /// The channel of a message.
    pub channel: Option<String>,
}

/// A record with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivityRow {
    /// Later records have higher ones.
    pub id: i64,
    /// What was recorded.
    pub record: ActivityRecord,
}

impl ActivityRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<ActivityRow> {
        let mut columns = Columns::of(row);
        Ok(ActivityRow {
            id: columns.get()?,
            record: ActivityRecord {
                event_id: columns.get()?,
                at_ms: columns.get()?,
                kind: columns.get()?,
                action: columns.get()?,
                status: columns.get()?,
                source_sequence: columns.get()?,
                agent_id: columns.get()?,
                run_id: columns.get()?,
                session_key: columns.get()?,
                session_id: columns.get()?,
                channel: columns.get()?,
            },
        })
    }
}

/// Which records a list shows; every field that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivityFilter {
    /// With a lower number than this: what follows a page.
    pub before_id: Option<i64>,
    /// At this time or later.
    pub since_ms: Option<i64>,
    /// At this time or earlier.
    pub until_ms: Option<i64>,
    /// Of this kind.
    pub kind: Option<String>,
    /// With this status.
    pub status: Option<String>,
    /// Of this agent.
    pub agent_id: Option<String>,
    /// Of this run.
    pub run_id: Option<String>,
    /// Of this session.
    pub session_key: Option<String>,
    /// Of messages over this channel.
    pub channel: Option<String>,
}

/// The statement behind [`Queries::activity_list`].
pub(super) fn list_statement(filter: &ActivityFilter, limit: usize) -> (String, Vec<SqlValue>) {
    let mut sql = format!("SELECT {COLUMNS} FROM activity WHERE id < ?");
    let mut values = vec![SqlValue::from(filter.before_id.unwrap_or(i64::MAX))];
    for (column, text) in [
        ("kind", &filter.kind),
        ("status", &filter.status),
        ("agent_id", &filter.agent_id),
        ("run_id", &filter.run_id),
        ("session_key", &filter.session_key),
        ("channel", &filter.channel),
    ] {
        if let Some(text) = text {
            sql.push_str(&format!(" AND {column} = ?"));
            values.push(SqlValue::from(text.clone()));
        }
    }
    for (condition, at_ms) in [(" AND at_ms >= ?", filter.since_ms), (" AND at_ms <= ?", filter.until_ms)] {
        if let Some(at_ms) = at_ms {
            sql.push_str(condition);
            values.push(SqlValue::from(at_ms));
        }
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    values.push(SqlValue::from(limit as i64));
    (sql, values)
}

impl Queries {
    /// The records that `filter` lets through, newest first, at most `limit` (itself at most
    /// [`ACTIVITY_LIST_ROWS_MAX`]), and whether there are more.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn activity_list(&self, filter: &ActivityFilter, limit: usize) -> Result<(Vec<ActivityRow>, bool), StoreError> {
        let limit = limit.min(ACTIVITY_LIST_ROWS_MAX);
        let (sql, values) = list_statement(filter, limit + 1);
        let mut rows = self.rows(&sql, params_from_iter(values), ActivityRow::read)?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Ok((rows, has_more))
    }
}

impl Db<'_> {
    /// Adds a record; returns its number.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn activity_append(&self, record: &ActivityRecord) -> Result<i64, StoreError> {
        let bounded = |text| cut(text, ACTIVITY_TEXT_BYTES_MAX);
        self.run(
            "INSERT INTO activity (event_id, at_ms, kind, action, status, source_sequence, agent_id, run_id,
                                   session_key, session_id, channel)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            (
                &record.event_id,
                record.at_ms,
                &record.kind,
                &record.action,
                &record.status,
                record.source_sequence,
                bounded(&record.agent_id),
                bounded(&record.run_id),
                bounded(&record.session_key),
                &record.session_id,
                record.channel.as_deref().map(bounded),
            ),
        )?;
        let id = self.last_insert_id();
        self.run("DELETE FROM activity WHERE id <= ?1", [id - ACTIVITY_ROWS_MAX as i64])?;
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::tests::scratch;
    use super::*;

    fn record(at_ms: i64, run_id: &str, status: &str) -> ActivityRecord {
        ActivityRecord {
            event_id: format!("{run_id}-{status}"),
            at_ms,
            kind: kind::RUN.to_owned(),
            status: status.to_owned(),
            run_id: run_id.to_owned(),
            agent_id: "main".to_owned(),
            session_key: "agent:main:main".to_owned(),
            ..ActivityRecord::default()
        }
    }

    #[test]
    fn every_filter_filters_and_pages_follow_each_other() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                db.activity_append(&record(1, "a", "started"))?;
                db.activity_append(&record(2, "a", "failed"))?;
                db.activity_append(&record(3, "b", "started"))?;
                let message = ActivityRecord {
                    kind: kind::MESSAGE.to_owned(),
                    channel: Some("telegram".to_owned()),
                    session_key: "agent:ops:main".to_owned(),
                    agent_id: "ops".to_owned(),
                    ..record(4, "c", "blocked")
                };
                db.activity_append(&message)
            })
            .unwrap();
        let found = |filter: ActivityFilter| -> Vec<i64> {
            database.activity_list(&filter, 9).unwrap().0.into_iter().map(|row| row.record.at_ms).collect()
        };
        let (any, text) = (ActivityFilter::default, |text: &str| Some(text.to_owned()));
        assert_eq!(found(any()), [4, 3, 2, 1]);
        assert_eq!(found(ActivityFilter { run_id: text("a"), ..any() }), [2, 1]);
        assert_eq!(found(ActivityFilter { kind: text(kind::RUN), status: text("started"), ..any() }), [3, 1]);
        assert_eq!(found(ActivityFilter { agent_id: text("ops"), ..any() }), [4]);
        assert_eq!(found(ActivityFilter { channel: text("telegram"), ..any() }), [4]);
        assert_eq!(found(ActivityFilter { session_key: text("agent:main:main"), ..any() }), [3, 2, 1]);
        assert_eq!(found(ActivityFilter { since_ms: Some(2), until_ms: Some(3), ..any() }), [3, 2]);

        let (first, has_more) = database.activity_list(&any(), 3).unwrap();
        assert_eq!((first.len(), has_more), (3, true));
        let rest = ActivityFilter { before_id: Some(first[2].id), ..any() };
        let (rest, has_more) = database.activity_list(&rest, 3).unwrap();
        assert_eq!((rest.len(), has_more), (1, false));
    }

    #[test]
    fn a_record_cannot_be_changed_and_a_long_text_is_cut() {
        let (_dir, mut database) = scratch();
        let changed = database.write(|db| {
            db.activity_append(&record(1, "a", "started"))?;
            db.run("UPDATE activity SET status = 'succeeded'", [])
        });
        assert!(matches!(changed, Err(StoreError::Statement(_))));
        let long = "x".repeat(ACTIVITY_TEXT_BYTES_MAX + 1);
        database.write(|db| db.activity_append(&record(1, &long, "started"))).unwrap();
        let (rows, _) = database.activity_list(&ActivityFilter::default(), 9).unwrap();
        assert_eq!(rows[0].record.run_id.len(), ACTIVITY_TEXT_BYTES_MAX);
    }

    #[test]
    fn the_oldest_leave_at_the_bound() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for n in 0..=ACTIVITY_ROWS_MAX as i64 {
                    db.activity_append(&record(n, "a", "started"))?;
                }
                assert_eq!(db.n_rows("activity"), ACTIVITY_ROWS_MAX);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }
}
