//! The two faces of a connection: [`Queries`] reads, [`Db`] also writes.
//!
//! Every table's file adds its own methods to these two types. A `Db` is only handed out inside a transaction, so no
//! write can be left half done; a `Queries` may be used at any time.

use std::ops::Deref;

use rusqlite::types::{FromSql, Type};
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Params, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// Typed reads on one connection. Each method sees what was committed when it started.
#[derive(Debug)]
pub struct Queries {
    conn: Connection,
}

/// Typed writes, inside the transaction that is open on the connection; derefs to the reads, which see the writes.
#[derive(Debug)]
pub struct Db<'a> {
    queries: &'a Queries,
}

impl Deref for Db<'_> {
    type Target = Queries;

    fn deref(&self) -> &Queries {
        self.queries
    }
}

impl Queries {
    pub(super) fn new(conn: Connection) -> Queries {
        Queries { conn }
    }

    pub(super) fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Runs several reads on one and the same state of the file.
    ///
    /// Keep it short: while it lasts, the log of changes cannot be folded back into the file.
    ///
    /// # Errors
    /// What `read` returns, and a failure to start.
    pub fn snapshot<T, E: From<StoreError>>(&self, read: impl FnOnce(&Queries) -> Result<T, E>) -> Result<T, E> {
        let tx = self.conn.unchecked_transaction().map_err(StoreError::from)?;
        let result = read(self);
        // Nothing was written, so there is nothing to keep; a drop also rolls back when `read` panics.
        drop(tx);
        result
    }

    /// A statement from the connection's cache; every fixed statement of the room comes through here.
    pub(super) fn prepared(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        #[cfg(test)]
        super::plans::note(sql);
        self.conn.prepare_cached(sql)
    }

    /// The first row of a statement, if any.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.prepared(sql)?.query_row(params, map).optional()?)
    }

    /// The one row of a statement that always has one.
    pub(super) fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        Ok(self.prepared(sql)?.query_row(params, map)?)
    }

    /// All rows of a statement; the statement bounds how many.
    pub(super) fn rows<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        Ok(self.prepared(sql)?.query_map(params, map)?.collect::<rusqlite::Result<_>>()?)
    }
}

impl<'a> Db<'a> {
    /// A caller promises that a transaction is open on the connection.
    pub(super) fn inside_transaction(queries: &'a Queries) -> Db<'a> {
        debug_assert!(!queries.conn.is_autocommit(), "a Db exists only inside a transaction");
        Db { queries }
    }

    /// Runs a statement and returns how many rows it changed.
    pub(super) fn run(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        Ok(self.prepared(sql)?.execute(params)?)
    }

    pub(super) fn last_insert_id(&self) -> i64 {
        self.queries.conn.last_insert_rowid()
    }
}

#[cfg(test)]
impl Queries {
    /// Rows of a table.
    #[track_caller]
    pub(super) fn n_rows(&self, table: &str) -> usize {
        let n_rows: i64 = self.conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        n_rows as usize
    }
}

/// Refuses a value that is larger than its column takes.
pub(super) fn check_size(what: &'static str, size_bytes: usize, size_bytes_max: usize) -> Result<(), StoreError> {
    if size_bytes > size_bytes_max {
        return Err(StoreError::TooLarge { what, size_bytes, size_bytes_max });
    }
    Ok(())
}

/// A count as SQLite's signed type.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A value as the JSON text of its column.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings, numbers and maps with text keys always serialise")
}

/// Reads the columns of a row one after the other, in the order of the statement's column list.
///
/// By position and not by name, because finding a name means comparing it with all of them, for every row. Each table
/// has its list and its reading next to each other; tests that put a row and compare it hold them to one order.
pub(super) struct Columns<'r, 'stmt> {
    row: &'r Row<'stmt>,
    next_idx: usize,
}

impl<'r, 'stmt> Columns<'r, 'stmt> {
    pub(super) fn of(row: &'r Row<'stmt>) -> Columns<'r, 'stmt> {
        Columns { row, next_idx: 0 }
    }

    fn advance(&mut self) -> usize {
        self.next_idx += 1;
        self.next_idx - 1
    }

    pub(super) fn get<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.row.get(self.advance())
    }

    /// A count. SQLite has no unsigned type; we write none below zero.
    pub(super) fn count(&mut self) -> rusqlite::Result<u64> {
        self.get::<i64>().map(|n| n.max(0) as u64)
    }

    /// A column of JSON text.
    pub(super) fn json<T: DeserializeOwned>(&mut self) -> rusqlite::Result<T> {
        let idx = self.advance();
        let text = self.row.get_ref(idx)?.as_str()?;
        let unreadable = |error| rusqlite::Error::FromSqlConversionFailure(idx, Type::Text, Box::new(error));
        serde_json::from_str(text).map_err(unreadable)
    }
}

/// The longest start of `text` that fits into `bytes_max` bytes and does not split a character.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn cutting_keeps_whole_characters() {
        assert_eq!(cut("naïve", 3), "na");
        assert_eq!(cut("naïve", 4), "naï");
        assert_eq!(cut("short", 100), "short");
    }
}
