//! Requests that must not run twice, and what they were answered (protocol 16, STORE-30, STORE-32).
//!
//! A key is `METHOD:KEY`. While its request runs, a second one finds it running; afterwards, for
//! [`IDEMPOTENCY_TTL_MS`], it finds the answer, failures included. Keys are written in the transaction of the work
//! they stand for, so a restart in between neither repeats nor forgets it.

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use super::StoreError;
use super::db::{Columns, Db, Queries, check_size};

/// How long an answer is replayed, in milliseconds: 5 minutes.
pub const IDEMPOTENCY_TTL_MS: i64 = 5 * 60 * 1000;
/// Keys at most; beyond it the oldest answered ones go first. A running one never goes: its request could start twice.
pub const IDEMPOTENCY_ROWS_MAX: usize = 1000;
/// Largest answer kept, in bytes of JSON. A larger one is replayed without its text.
pub const IDEMPOTENCY_RESPONSE_BYTES_MAX: usize = 256 * 1024;
/// Largest key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 1024;

const COLUMNS: &str = "key, state, response, created_ms, expires_ms";

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// It has started and has no answer yet.
    Running,
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
}

impl RequestState {
    /// The word in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            RequestState::Running => "running",
            RequestState::Done => "done",
            RequestState::Failed => "failed",
        }
    }
}

impl ToSql for RequestState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for RequestState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<RequestState> {
        match value.as_str()? {
            "running" => Ok(RequestState::Running),
            "done" => Ok(RequestState::Done),
            "failed" => Ok(RequestState::Failed),
            other => Err(FromSqlError::Other(format!("unknown request state {other}").into())),
        }
    }
}

/// A request known by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRow {
    /// `METHOD:KEY`.
    pub key: String,
    /// How far it has come.
    pub state: RequestState,
    /// The answer as JSON text; `None` while running, and for one larger than [`IDEMPOTENCY_RESPONSE_BYTES_MAX`].
    pub response: Option<String>,
    /// When it started.
    pub created_ms: i64,
    /// When it is forgotten; `i64::MAX` while running.
    pub expires_ms: i64,
}

impl IdempotencyRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<IdempotencyRow> {
        let mut columns = Columns::of(row);
        Ok(IdempotencyRow {
            key: columns.get()?,
            state: columns.get()?,
            response: columns.get()?,
            created_ms: columns.get()?,
            expires_ms: columns.get()?,
        })
    }
}

/// What starting a request found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The key is new; the request is now running.
    New,
    /// The same request runs or was answered before.
    Existing(IdempotencyRow),
}

impl Queries {
    /// A request by its key, unless it is forgotten at `now_ms`.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn idempotency(&self, key: &str, now_ms: i64) -> Result<Option<IdempotencyRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM idempotency WHERE key = ?1 AND expires_ms > ?2");
        self.first(&sql, (key, now_ms), IdempotencyRow::read)
    }

    /// Every request that is not forgotten at `now_ms`, oldest first; for the start.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn idempotency_all(&self, now_ms: i64) -> Result<Vec<IdempotencyRow>, StoreError> {
        self.rows(
            &format!("SELECT {COLUMNS} FROM idempotency WHERE expires_ms > ?1 ORDER BY created_ms, key LIMIT ?2"),
            (now_ms, IDEMPOTENCY_ROWS_MAX as i64),
            IdempotencyRow::read,
        )
    }
}

impl Db<'_> {
    /// Starts a request, or finds the one that has its key.
    ///
    /// # Errors
    /// [`StoreError::TableFull`] when [`IDEMPOTENCY_ROWS_MAX`] requests are running, [`StoreError::TooLarge`], and
    /// those of a statement.
    pub fn idempotency_begin(&self, key: &str, now_ms: i64) -> Result<Begun, StoreError> {
        check_size("idempotency key", key.len(), IDEMPOTENCY_KEY_BYTES_MAX)?;
        if let Some(row) = self.idempotency(key, now_ms)? {
            return Ok(Begun::Existing(row));
        }
        self.run("DELETE FROM idempotency WHERE expires_ms <= ?1", [now_ms])?;
        let n_rows: i64 = self.one("SELECT count(*) FROM idempotency", [], |row| row.get(0))?;
        let n_excess = n_rows + 1 - IDEMPOTENCY_ROWS_MAX as i64;
        if n_excess > 0 {
            let n_dropped = self.run(
                "DELETE FROM idempotency WHERE key IN
                     (SELECT key FROM idempotency WHERE state <> 'running' ORDER BY created_ms, key LIMIT ?1)",
                [n_excess],
            )?;
            if n_dropped == 0 {
                return Err(StoreError::TableFull {
                    what: "table of running requests",
                    rows_max: IDEMPOTENCY_ROWS_MAX,
                });
            }
        }
        self.run(
            "INSERT INTO idempotency (key, state, response, created_ms, expires_ms) VALUES (?1, ?2, NULL, ?3, ?4)",
            (key, RequestState::Running, now_ms, i64::MAX),
        )?;
        Ok(Begun::New)
    }

    /// Records the answer of a running request; from now on it is replayed. Returns whether the request was running.
    ///
    /// An answer that is too large to keep does not fail the work it belongs to: it is left out.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn idempotency_finish(
        &self,
        key: &str,
        succeeded: Result<&str, &str>,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let (state, response) = match succeeded {
            Ok(response) => (RequestState::Done, response),
            Err(response) => (RequestState::Failed, response),
        };
        let response = (response.len() <= IDEMPOTENCY_RESPONSE_BYTES_MAX).then_some(response);
        let n_changed = self.run(
            "UPDATE idempotency SET state = ?2, response = ?3, expires_ms = ?4 WHERE key = ?1 AND state = 'running'",
            (key, state, response, now_ms.saturating_add(IDEMPOTENCY_TTL_MS)),
        )?;
        Ok(n_changed > 0)
    }

    /// Forgets a running request that was never started after all.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn idempotency_cancel(&self, key: &str) -> Result<bool, StoreError> {
        Ok(self.run("DELETE FROM idempotency WHERE key = ?1 AND state = 'running'", [key])? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::tests::scratch;
    use super::*;

    #[test]
    fn a_key_runs_once_and_then_replays_its_answer() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                assert_eq!(db.idempotency_begin("chat:a", 100)?, Begun::New);
                let Begun::Existing(row) = db.idempotency_begin("chat:a", 200)? else { panic!("runs twice") };
                assert_eq!((row.state, row.response), (RequestState::Running, None));

                assert!(db.idempotency_finish("chat:a", Err(r#"{"status":"error"}"#), 300)?);
                let Begun::Existing(row) = db.idempotency_begin("chat:a", 400)? else { panic!("runs twice") };
                let answered = IdempotencyRow {
                    key: String::from("chat:a"),
                    state: RequestState::Failed,
                    response: Some(String::from(r#"{"status":"error"}"#)),
                    created_ms: 100,
                    expires_ms: 300 + IDEMPOTENCY_TTL_MS,
                };
                assert_eq!(row, answered);
                assert!(!db.idempotency_finish("chat:a", Ok("{}"), 500)?, "an answer is final");
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn an_answer_is_forgotten_after_its_time_and_a_running_request_never() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                db.idempotency_begin("send:a", 0)?;
                db.idempotency_begin("send:b", 0)?;
                db.idempotency_finish("send:a", Ok("{}"), 0)?;
                assert!(db.idempotency("send:a", IDEMPOTENCY_TTL_MS - 1)?.is_some());
                assert!(db.idempotency("send:a", IDEMPOTENCY_TTL_MS)?.is_none());
                let left = db.idempotency_all(IDEMPOTENCY_TTL_MS * 100)?;
                assert_eq!(left.iter().map(|row| &*row.key).collect::<Vec<_>>(), ["send:b"]);
                assert_eq!(db.idempotency_begin("send:a", IDEMPOTENCY_TTL_MS)?, Begun::New);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn the_oldest_answers_make_room_and_running_requests_do_not() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for n in 0..IDEMPOTENCY_ROWS_MAX as i64 {
                    db.idempotency_begin(&format!("agent:{n}"), n)?;
                }
                let refused = db.idempotency_begin("agent:new", 5000);
                assert!(matches!(refused, Err(StoreError::TableFull { rows_max: IDEMPOTENCY_ROWS_MAX, .. })));

                db.idempotency_finish("agent:7", Ok("{}"), 5000)?;
                db.idempotency_finish("agent:3", Ok("{}"), 5001)?;
                assert_eq!(db.idempotency_begin("agent:new", 5002)?, Begun::New);
                assert!(db.idempotency("agent:3", 5002)?.is_none(), "the older one left");
                assert!(db.idempotency("agent:7", 5002)?.is_some());
                assert_eq!(db.idempotency_all(5002)?.len(), IDEMPOTENCY_ROWS_MAX);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }

    #[test]
    fn an_answer_too_large_to_keep_does_not_fail_its_work() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                db.idempotency_begin("agent:a", 0)?;
                let answer = "x".repeat(IDEMPOTENCY_RESPONSE_BYTES_MAX + 1);
                assert!(db.idempotency_finish("agent:a", Ok(&answer), 1)?);
                let row = db.idempotency("agent:a", 2)?.expect("is remembered");
                assert_eq!((row.state, row.response), (RequestState::Done, None));
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }
}
