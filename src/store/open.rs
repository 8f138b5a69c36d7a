//! Opening the database: making, checking, copying, migrating, and setting aside what is damaged.
//!
//! A fresh file is built under another name and then renamed, so a crash while it is made leaves nothing that looks
//! like a database. Neither that nor the first transaction waits for the disk, because a first start has 10 ms until
//! its first client is admitted: the `store` thread writes everything through once its first reports are out. (A
//! machine that loses power in between starts afresh; a process that is killed loses nothing.) An existing file is checked for whose it is and which version
//! it has before anything is changed; before a migration it is copied. A damaged file is renamed with a timestamp,
//! never deleted.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::runtime::clock;

use super::StoreError;
use super::db::{Db, Queries};
use super::dir::{FILE_MODE, StateDir};
use super::schema::{self, APPLICATION_ID, MIGRATIONS, Migration};

/// How long a statement waits for another process (a command that repairs or copies the file) before it gives up.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Page cache of the writing connection. The tables in use are small; the kernel caches the file anyway, and every
/// KiB here counts against the daemon's resident budget.
pub const WRITER_CACHE_KIB: u32 = 256;
/// Page cache of each reading connection.
pub const READER_CACHE_KIB: u32 = 128;
/// Prepared statements kept by the writing connection; the least recently used one goes first. About 4 KiB each.
pub const WRITER_STATEMENTS_MAX: usize = 32;
/// Prepared statements kept by each reading connection.
pub const READER_STATEMENTS_MAX: usize = 12;
/// The log of changes is cut back to this size once it has been folded into the file.
pub const WAL_BYTES_KEPT: i64 = 1024 * 1024;

/// How the writing connection treats the disk: the log is written through before the file it is folded into, so that
/// whatever happens to the machine the file is whole. A commit by itself survives the process, not the machine.
const SYNCHRONOUS: &str = "PRAGMA synchronous = NORMAL;";

/// What an operator may choose about connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Page cache of the writing connection, in KiB.
    pub writer_cache_kib: u32,
    /// Page cache of each reading connection, in KiB.
    pub reader_cache_kib: u32,
    /// How long a statement waits for another process.
    pub busy_timeout: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { writer_cache_kib: WRITER_CACHE_KIB, reader_cache_kib: READER_CACHE_KIB, busy_timeout: BUSY_TIMEOUT }
    }
}

/// What to do with a file that cannot be opened as a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Rename it with a timestamp and start with a fresh one.
    SetAside,
    /// Leave it and fail with [`StoreError::Damaged`].
    Fail,
}

/// The writing connection, before the `store` thread has it (or instead of one, in a command that runs alone).
#[derive(Debug)]
pub struct Database {
    queries: Queries,
    path: PathBuf,
    tuning: Tuning,
    // After the connection, so that it is closed after it: see `FreshFile`.
    fresh: Option<FreshFile>,
}

/// A database file that was made by this process, is not on the disk yet, and whose connection does not wait for the
/// disk until it is.
///
/// It is held as long as the connection: closing any descriptor of a file drops every lock that the process has on
/// it (POSIX), and with them the ones by which SQLite keeps other processes from removing the log.
#[derive(Debug)]
pub(super) struct FreshFile {
    file: File,
    parent: PathBuf,
}

impl FreshFile {
    /// Writes the file and its name through to the disk; from now on the connection waits for the disk where it must.
    pub(super) fn settle(&self, conn: &Connection) -> Result<(), StoreError> {
        let failed = |source| StoreError::File { act: "write", path: self.parent.clone(), source };
        conn.execute_batch(SYNCHRONOUS)?;
        self.file.sync_all().and_then(|()| File::open(&self.parent)?.sync_all()).map_err(failed)
    }
}

/// A database and what it took to open it.
#[derive(Debug)]
pub struct Opened {
    /// Ready for use, at the newest version.
    pub database: Database,
    /// Whether there was no database before.
    pub created: bool,
    /// The version it had, and the copy that was made before it was migrated.
    pub migrated: Option<(i64, PathBuf)>,
    /// Where the damaged file is now.
    pub set_aside: Option<PathBuf>,
}

impl Deref for Database {
    type Target = Queries;

    fn deref(&self) -> &Queries {
        &self.queries
    }
}

impl Database {
    /// Opens the database of `dir`, making it when missing. The caller holds the directory's lock.
    ///
    /// `now_ms` only names files that are copied or set aside.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] (only with [`OnDamage::Fail`]), [`StoreError::NewerSchema`], [`StoreError::Backup`],
    /// [`StoreError::Migration`], [`StoreError::ReadOnly`], [`StoreError::DiskFull`], [`StoreError::Busy`],
    /// [`StoreError::Open`], [`StoreError::File`].
    pub fn open(dir: &StateDir, now_ms: i64, on_damage: OnDamage) -> Result<Opened, StoreError> {
        Database::open_tuned(dir, now_ms, on_damage, Tuning::default())
    }

    /// As [`Database::open`], with connections as the operator wants them: this one, and the readers on its file.
    ///
    /// # Errors
    /// Those of [`Database::open`].
    pub fn open_tuned(dir: &StateDir, now_ms: i64, on_damage: OnDamage, tuning: Tuning) -> Result<Opened, StoreError> {
        open_at(&dir.database_path(), MIGRATIONS, now_ms, on_damage, tuning)
    }

    /// The database file; readers are opened on it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was chosen about its connections.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// Runs `change` in a transaction of its own: all of it is kept when it returns `Ok`, nothing otherwise.
    ///
    /// # Errors
    /// What `change` returns, and what starting and committing can fail with.
    pub fn write<T, E: From<StoreError>>(&mut self, change: impl FnOnce(&Db<'_>) -> Result<T, E>) -> Result<T, E> {
        // Not rusqlite's own guard: it borrows the connection mutably, which `Db` needs to share.
        let queries = &self.queries;
        let tx = rusqlite::Transaction::new_unchecked(queries.conn(), TransactionBehavior::Immediate)
            .map_err(StoreError::from)?;
        let result = change(&Db::inside_transaction(queries))?;
        tx.commit().map_err(StoreError::from)?;
        Ok(result)
    }

    pub(super) fn into_parts(self) -> (Queries, Option<FreshFile>) {
        (self.queries, self.fresh)
    }
}

fn open_at(
    path: &Path,
    migrations: &[Migration],
    now_ms: i64,
    on_damage: OnDamage,
    tuning: Tuning,
) -> Result<Opened, StoreError> {
    let mut set_aside = None;
    // An empty file is nothing yet: a database's name, made by somebody or left by a disk that was full.
    if fs::metadata(path).is_ok_and(|found| found.len() > 0) {
        match open_existing(path, migrations, now_ms, tuning) {
            Err(StoreError::Damaged { .. }) if on_damage == OnDamage::SetAside => {
                set_aside = Some(rename_with_companions(path, now_ms)?);
            }
            opened_or_failed => return opened_or_failed,
        }
    } else if companion(path, "-wal").exists() {
        // Somebody moved the database away and left its log, which would be replayed into the new file.
        rename_with_companions(path, now_ms)?;
    }
    let fresh = create(path, migrations)?;
    let conn = connect_writer(path, tuning)?;
    conn.execute_batch("PRAGMA synchronous = OFF;")?;
    let database = Database { queries: Queries::new(conn), path: path.to_owned(), tuning, fresh: Some(fresh) };
    Ok(Opened { database, created: true, migrated: None, set_aside })
}

fn open_existing(path: &Path, migrations: &[Migration], now_ms: i64, tuning: Tuning) -> Result<Opened, StoreError> {
    let damaged = |error: StoreError| match error {
        StoreError::DamagedPage { detail } => StoreError::Damaged { path: path.to_owned(), detail },
        other => other,
    };
    let mut conn = connect_writer(path, tuning).map_err(damaged)?;
    let found = check(&conn, path, migrations).map_err(damaged)?;
    let known = migrations.last().map_or(0, |last| last.version);
    let mut migrated = None;
    if found < known {
        if found > 0 {
            let copy = back_up(&conn, path, found, now_ms)?;
            migrated = Some((found, copy));
        }
        schema::migrate(&mut conn, migrations).map_err(damaged)?;
    }
    let database = Database { queries: Queries::new(conn), path: path.to_owned(), tuning, fresh: None };
    Ok(Opened { database, created: found == 0, migrated, set_aside: None })
}

/// Whose file it is and which version it has; reading the schema also finds a damaged first page.
fn check(conn: &Connection, path: &Path, migrations: &[Migration]) -> Result<i64, StoreError> {
    let objects: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let application: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let found = schema::version(conn)?;
    if objects > 0 && application != APPLICATION_ID {
        let detail = format!("it belongs to another program (application id {application:#x})");
        return Err(StoreError::Damaged { path: path.to_owned(), detail });
    }
    let known = migrations.last().map_or(0, |last| last.version);
    if found > known {
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, known });
    }
    Ok(found)
}

/// Builds a fresh database under another name and moves it into place. Until then nobody knows the file, so it needs
/// no journal.
fn create(path: &Path, migrations: &[Migration]) -> Result<FreshFile, StoreError> {
    let aside = companion(path, ".new");
    let file_failed = |act, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly,
            _ => StoreError::File { act, path, source },
        }
    };
    if aside.exists() {
        // Left by a crash in this very function; it never held anything.
        fs::remove_file(&aside).map_err(file_failed("remove", &aside))?;
    }
    let file = create_private(&aside).map_err(file_failed("create", &aside))?;
    let mut conn = connect(&aside, OpenFlags::SQLITE_OPEN_READ_WRITE, BUSY_TIMEOUT)?;
    // With `auto_vacuum` the writer can give the disk back what was deleted, a little at a time; it has to be said
    // before the first table.
    conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    schema::migrate(&mut conn, migrations)?;
    conn.execute_batch("PRAGMA journal_mode = WAL;")?;
    conn.close().map_err(|(_, source)| StoreError::Open { path: aside.clone(), source })?;
    fs::rename(&aside, path).map_err(file_failed("create", path))?;
    Ok(FreshFile { file, parent: path.parent().unwrap_or(Path::new(".")).to_owned() })
}

/// Copies the whole database, log included, to a file next to it.
fn back_up(conn: &Connection, path: &Path, version: i64, now_ms: i64) -> Result<PathBuf, StoreError> {
    let copy = companion(path, &format!(".v{version}.{}", stamp(now_ms)));
    let failed = |source| StoreError::Backup { path: copy.clone(), source };
    // SQLite would make the file with the process's umask; it takes an empty file as well as none.
    create_private(&copy).map_err(|source| StoreError::File { act: "create", path: copy.clone(), source })?;
    conn.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).map_err(failed)?;
    Ok(copy)
}

/// Renames a database with its log and index files, and returns the database's new name.
fn rename_with_companions(path: &Path, now_ms: i64) -> Result<PathBuf, StoreError> {
    let aside = companion(path, &format!(".damaged.{}", stamp(now_ms)));
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (companion(path, suffix), companion(&aside, suffix));
        if from.exists() {
            fs::rename(&from, &to).map_err(|source| StoreError::File { act: "set aside", path: from, source })?;
        }
    }
    Ok(aside)
}

fn connect_writer(path: &Path, tuning: Tuning) -> Result<Connection, StoreError> {
    let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE, tuning.busy_timeout)?;
    conn.set_prepared_statement_cache_capacity(WRITER_STATEMENTS_MAX);
    // SQLite falls back to reading when it may not write, and would only say so at the first change.
    if conn.is_readonly("main")? {
        return Err(StoreError::ReadOnly);
    }
    // The writer folds the log back itself, after the reports are out (`writer`), hence no automatic checkpoint.
    conn.execute_batch(&format!(
        "PRAGMA cache_size = -{};
         PRAGMA journal_mode = WAL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = {WAL_BYTES_KEPT};
         {SYNCHRONOUS}",
        tuning.writer_cache_kib
    ))?;
    Ok(conn)
}

/// A connection that cannot write.
pub(super) fn connect_reader(path: &Path, tuning: Tuning) -> Result<Connection, StoreError> {
    let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY, tuning.busy_timeout)?;
    conn.set_prepared_statement_cache_capacity(READER_STATEMENTS_MAX);
    conn.execute_batch(&format!("PRAGMA cache_size = -{};", tuning.reader_cache_kib))?;
    Ok(conn)
}

fn connect(path: &Path, access: OpenFlags, busy_timeout: Duration) -> Result<Connection, StoreError> {
    // Each connection stays with one thread, so SQLite's own mutex would only cost time.
    let conn = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
    conn.busy_timeout(busy_timeout)?;
    // A plan does not depend on what is bound. Otherwise each statement with a limit, or beside an index of some rows only,
    // is planned anew whenever it comes out of the cache.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.execute_batch(
        "PRAGMA foreign_keys = ON;
         PRAGMA mmap_size = 0;
         PRAGMA temp_store = MEMORY;
         PRAGMA cell_size_check = ON;
         PRAGMA trusted_schema = OFF;",
    )?;
    Ok(conn)
}

fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A time as part of a file name.
fn stamp(now_ms: i64) -> String {
    clock::iso(now_ms).replace(':', "-")
}

#[cfg(test)]
pub(super) mod tests;
