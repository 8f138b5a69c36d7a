//! The store: one SQLite file in the state directory, and the only room that writes SQL.
//!
//! How a daemon uses it, in order:
//!
//! 1. [`dir::StateDir::open`] makes the directory, [`dir::StateDir::lock`] keeps a second daemon out.
//! 2. [`open::Database::open`] creates, checks and migrates the file. Live state is loaded from it while nothing else
//!    runs ([`devices`], [`idempotency`], [`meta`]).
//! 3. [`writer::Writer::start`] moves it to the `store` thread; from then on every change is a [`writer::WriteJob`].
//!    Jobs that wait together share one transaction, and a job's report is handed out only after that transaction
//!    is committed: what was reported is on disk.
//! 4. Query workers hold a [`reader::LazyReader`] each and read what is committed, without waiting for the writer.
//!
//! Reads are methods of [`db::Queries`], writes are methods of [`db::Db`], which also reads; each table's row type,
//! statements and bounds live in the file named after it. A `Db` exists only inside a transaction.
//!
//! **Invariants.** Nothing outside this room writes SQL. Nothing here reads a clock (times come in as `now_ms`; the
//! writer thread alone measures how long a group has been open). No row is unbounded: texts have a largest size,
//! tables a largest count, each a named constant. Nothing is ever deleted because it is unreadable.

pub mod dir;
pub mod open;
pub mod schema;

pub mod activity;
pub mod approvals;
pub mod archive;
pub mod audit;
pub mod branches;
pub mod db;
pub mod decisions;
pub mod devices;
pub mod groups;
pub mod idempotency;
pub mod inbox;
pub mod media;
pub mod memory;
pub mod meta;
pub mod session_state;
pub mod sessions;
pub mod transcript;
pub mod usage;

pub mod reader;
pub mod writer;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod plans;

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode as Sqlite;
use thiserror::Error;

use crate::protocol::error::RpcError;

/// Milliseconds a client should wait before it repeats what a full or busy store refused.
pub const RETRY_AFTER_MS: u64 = 500;

/// What can go wrong between a caller and the disk.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The state directory could not be made.
    #[error("cannot create state directory {}", path.display())]
    DirCreate {
        /// The directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The state directory is there and does not take files.
    #[error("state directory {} is not writable", path.display())]
    DirNotWritable {
        /// The directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The state directory is a file or something else.
    #[error("state directory {} is not a directory", path.display())]
    DirNotADirectory {
        /// What stands there.
        path: PathBuf,
    },
    /// Another daemon holds this state directory.
    #[error("state directory {} is in use by {}", path.display(), holder(*holder_pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that said it holds the lock, when it did.
        holder_pid: Option<u32>,
    },
    /// The lock file could not be used.
    #[error("cannot lock {}", path.display())]
    LockFile {
        /// The lock file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file of the state directory could not be read, written or renamed.
    #[error("cannot {act} {}", path.display())]
    File {
        /// What was tried: `write`, `set aside`, ...
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The database file could not be opened.
    #[error("cannot open database {}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The database was written by a later version.
    #[error("database {} has schema version {found}, this program knows {known}", path.display())]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// The copy that precedes a migration could not be made; nothing was migrated.
    #[error("cannot back up the database to {} before migrating it", path.display())]
    Backup {
        /// The copy.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// A migration failed and was rolled back.
    #[error("migration to schema version {version} failed")]
    Migration {
        /// The version that could not be reached.
        version: i64,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The file is no database of ours, or damaged so that it can't be opened.
    #[error("database {} is damaged: {detail}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        detail: String,
    },
    /// A statement met a damaged page.
    #[error("the database is damaged: {detail}")]
    DamagedPage {
        /// SQLite's words.
        detail: String,
    },
    /// The disk, the quota or the page limit is exhausted.
    #[error("the disk that holds the database is full")]
    DiskFull,
    /// The file or the disk takes no writes.
    #[error("the database is read-only")]
    ReadOnly,
    /// Another process held the database longer than [`open::BUSY_TIMEOUT`].
    #[error("the database is busy in another process")]
    Busy,
    /// The disk failed.
    #[error("reading or writing the database failed")]
    Io(#[source] rusqlite::Error),
    /// A statement failed for a reason that is a defect of ours.
    #[error("a statement failed")]
    Statement(#[source] rusqlite::Error),
    /// A stored value does not have the form it was written in.
    #[error("stored {what} is unreadable: {detail}")]
    BadRow {
        /// Table and column.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A value is larger than its column takes; nothing was written.
    #[error("{what} has {size_bytes} bytes, at most {size_bytes_max} are stored")]
    TooLarge {
        /// The value.
        what: &'static str,
        /// Its size.
        size_bytes: usize,
        /// The largest size.
        size_bytes_max: usize,
    },
    /// A table holds as much as it may and nothing in it may be dropped; nothing was written.
    #[error("{what} is full ({rows_max} rows)")]
    TableFull {
        /// The table, in words.
        what: &'static str,
        /// Its bound.
        rows_max: usize,
    },
    /// The caller's own change refused to be made; what it had written is taken back.
    #[error("{}", .0.message)]
    Refused(Box<RpcError>),
    /// Another session of the same agent has this label.
    #[error("label {label} is in use by session {key}")]
    LabelTaken {
        /// The label asked for.
        label: String,
        /// The session that has it.
        key: String,
    },
    /// Another session has this session id: they are never used twice.
    #[error("session id {session_id} is in use")]
    SessionIdTaken {
        /// The id asked for.
        session_id: String,
    },
    /// The job panicked; what it wrote was rolled back.
    #[error("a store job panicked: {message}")]
    Panicked {
        /// The panic's text.
        message: String,
    },
    /// The transaction this job took part in was lost as a whole, through no fault of the job.
    #[error("the transaction was rolled back: {cause}")]
    GroupLost {
        /// Why.
        cause: String,
    },
    /// The `store` thread could not be started.
    #[error("cannot start the store thread")]
    Thread(#[source] io::Error),
    /// The `store` thread did not finish within its time at shutdown.
    #[error("the store thread did not stop within {limit_ms} ms")]
    StopTimeout {
        /// The time it had.
        limit_ms: u128,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| String::from("another process"), |pid| format!("process {pid}"))
}

impl StoreError {
    /// What the operator could do about it, where there is something to say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            StoreError::DirCreate { .. } | StoreError::DirNotWritable { .. } | StoreError::DirNotADirectory { .. } => {
                Some("choose another directory with --state-dir or OPENCLAW_RS_STATE_DIR, or make this one writable")
            }
            StoreError::Locked { .. } => {
                Some("stop the other gateway, or give this one a directory of its own with --state-dir")
            }
            StoreError::NewerSchema { .. } => {
                Some("run the newer program, or restore the copy it made next to the database when it migrated")
            }
            StoreError::Damaged { .. } | StoreError::DamagedPage { .. } => {
                Some("the file was kept; move it away to start afresh, or recover it with sqlite3's .recover")
            }
            StoreError::DiskFull => Some("free space on that disk; nothing that was acknowledged is lost"),
            StoreError::ReadOnly => Some("check the mount and the owner of the state directory"),
            StoreError::TableFull { .. } => Some("delete what is not needed any more, or wait until it is handled"),
            _ => None,
        }
    }

    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            StoreError::DiskFull
                | StoreError::ReadOnly
                | StoreError::Busy
                | StoreError::Io(_)
                | StoreError::TableFull { .. }
                | StoreError::GroupLost { .. }
        )
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        use rusqlite::Error;
        match &error {
            Error::SqliteFailure(code, detail) => match code.code {
                Sqlite::DiskFull => StoreError::DiskFull,
                Sqlite::ReadOnly => StoreError::ReadOnly,
                Sqlite::DatabaseBusy | Sqlite::DatabaseLocked => StoreError::Busy,
                Sqlite::DatabaseCorrupt | Sqlite::NotADatabase => {
                    StoreError::DamagedPage { detail: detail.clone().unwrap_or_else(|| code.to_string()) }
                }
                Sqlite::SystemIoFailure => StoreError::Io(error),
                _ => StoreError::Statement(error),
            },
            Error::FromSqlConversionFailure(column, _, source) => {
                StoreError::BadRow { what: format!("column {column}"), detail: source.to_string() }
            }
            _ => StoreError::Statement(error),
        }
    }
}

/// What a client is told. Paths, SQL and SQLite's words stay with us.
impl From<RpcError> for StoreError {
    fn from(error: RpcError) -> StoreError {
        StoreError::Refused(Box::new(error))
    }
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> RpcError {
        RpcError::from(&error)
    }
}

impl From<&StoreError> for RpcError {
    fn from(error: &StoreError) -> RpcError {
        match error {
            StoreError::Refused(refusal) => (**refusal).clone(),
            StoreError::LabelTaken { label, .. } => RpcError::invalid(format!("label already in use: {label}")),
            StoreError::TooLarge { .. } => RpcError::invalid(error.to_string()),
            StoreError::DiskFull | StoreError::TableFull { .. } => RpcError::busy(error.to_string(), RETRY_AFTER_MS),
            retryable if retryable.is_retryable() => RpcError::busy("the store is unavailable", RETRY_AFTER_MS),
            _ => RpcError::unavailable("the store failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_never_sees_a_path_or_sql() {
        let damaged = StoreError::Damaged { path: PathBuf::from("/secret/place"), detail: String::from("page 7") };
        let seen = RpcError::from(&damaged);
        assert_eq!(seen.message, "the store failed");
        assert_eq!(seen.retryable, None);
    }

    #[test]
    fn a_full_disk_may_be_tried_again() {
        let seen = RpcError::from(&StoreError::DiskFull);
        assert_eq!((seen.retryable, seen.retry_after_ms), (Some(true), Some(RETRY_AFTER_MS)));
    }

    #[test]
    fn a_taken_label_reads_as_upstream_says_it() {
        let taken = StoreError::LabelTaken { label: String::from("night"), key: String::from("agent:main:x") };
        assert_eq!(RpcError::from(&taken), RpcError::invalid("label already in use: night"));
    }
}
