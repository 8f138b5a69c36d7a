//! Reading connections, one for each query worker.
//!
//! A reader sees what was committed when a statement starts, and neither waits for the writer nor holds it up (WAL).
//! It cannot write: SQLite refuses.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::db::Queries;
use super::open::{self, Tuning};

/// A connection that only reads.
#[derive(Debug)]
pub struct Reader {
    queries: Queries,
}

impl Reader {
    /// Connects to the database at `path`, which exists.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::DamagedPage`], [`StoreError::Busy`].
    pub fn open(path: &Path) -> Result<Reader, StoreError> {
        Reader::open_tuned(path, Tuning::default())
    }

    /// As [`Reader::open`], with a connection as the operator wants it.
    ///
    /// # Errors
    /// Those of [`Reader::open`].
    pub fn open_tuned(path: &Path, tuning: Tuning) -> Result<Reader, StoreError> {
        Ok(Reader { queries: Queries::new(open::connect_reader(path, tuning)?) })
    }
}

impl Deref for Reader {
    type Target = Queries;

    fn deref(&self) -> &Queries {
        &self.queries
    }
}

/// A reader that connects when it is first needed: an idle worker costs no memory.
#[derive(Debug)]
pub struct LazyReader {
    path: PathBuf,
    tuning: Tuning,
    reader: Option<Reader>,
}

impl LazyReader {
    /// For the database at `path`.
    pub fn new(path: impl Into<PathBuf>) -> LazyReader {
        LazyReader::tuned(path, Tuning::default())
    }

    /// For the database at `path`, with connections as the operator wants them.
    pub fn tuned(path: impl Into<PathBuf>, tuning: Tuning) -> LazyReader {
        LazyReader { path: path.into(), tuning, reader: None }
    }

    /// The reads; connects the first time, and again after a failure to connect.
    ///
    /// # Errors
    /// Those of [`Reader::open`].
    pub fn get(&mut self) -> Result<&Queries, StoreError> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open_tuned(&self.path, self.tuning)?,
        };
        Ok(self.reader.insert(reader))
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::tests::scratch;
    use super::*;

    #[test]
    fn sees_what_is_committed_and_nothing_else() {
        let (_dir, mut database) = scratch();
        let reader = Reader::open(database.path()).unwrap();
        database
            .write(|db| {
                db.meta_put("a", "1", 0)?;
                assert_eq!(reader.meta("a")?, None);
                Ok::<_, StoreError>(())
            })
            .unwrap();
        assert_eq!(reader.meta("a").unwrap().as_deref(), Some("1"));
    }

    #[test]
    fn a_snapshot_is_one_state_of_the_file() {
        let (_dir, mut database) = scratch();
        database.write(|db| db.meta_put("a", "1", 0)).unwrap();
        let reader = Reader::open(database.path()).unwrap();
        reader
            .snapshot(|queries| {
                assert_eq!(queries.meta("a")?.as_deref(), Some("1"));
                database.write(|db| db.meta_put("a", "2", 0))?;
                assert_eq!(queries.meta("a")?.as_deref(), Some("1"));
                Ok::<_, StoreError>(())
            })
            .unwrap();
        assert_eq!(reader.meta("a").unwrap().as_deref(), Some("2"));
    }

    #[test]
    fn cannot_write() {
        let (_dir, database) = scratch();
        let reader = Reader::open(database.path()).unwrap();
        let refused = reader.conn().execute("DELETE FROM meta", []).map_err(StoreError::from);
        assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
    }

    #[test]
    fn connects_when_needed_and_reports_a_missing_file() {
        let (dir, database) = scratch();
        let mut missing = LazyReader::new(dir.path().join("elsewhere.db"));
        assert!(matches!(missing.get(), Err(StoreError::Open { .. })));

        let mut reader = LazyReader::new(database.path());
        assert_eq!(reader.get().unwrap().meta("a").unwrap(), None);
    }
}
