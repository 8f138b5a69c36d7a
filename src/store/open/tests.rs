use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::super::dir::DATABASE_FILE;
use super::*;

const NOW_MS: i64 = 1_737_264_000_007;

/// A fresh database in a directory of its own.
pub(crate) fn scratch() -> (StateDirInTemp, Database) {
    let temp = TempDir::new().unwrap();
    let dir = StateDir::open(temp.path().join("state")).unwrap();
    let database = reopen(&dir);
    (StateDirInTemp { dir, _temp: temp }, database)
}

/// The database of `dir`, which is whole.
pub(crate) fn reopen(dir: &StateDir) -> Database {
    Database::open(dir, NOW_MS, OnDamage::Fail).unwrap().database
}

/// A state directory that goes away with the test.
pub(crate) struct StateDirInTemp {
    dir: StateDir,
    _temp: TempDir,
}

impl Deref for StateDirInTemp {
    type Target = StateDir;

    fn deref(&self) -> &StateDir {
        &self.dir
    }
}

fn names(dir: &StateDir) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_fresh_database_is_private_and_leaves_nothing_behind() {
    let (dir, mut database) = scratch();
    database.write(|db| db.meta_put("a", "1", 0)).unwrap();
    assert_eq!(names(&dir), ["gateway.lock", "state.db", "state.db-shm", "state.db-wal"]);
    for name in names(&dir) {
        let mode = fs::metadata(dir.path().join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE, "{name}");
    }
    drop(database);
    assert_eq!(names(&dir), ["gateway.lock", "state.db"]);
}

#[test]
fn connections_are_set_up_as_promised() {
    let (dir, database) = scratch();
    drop(database);
    let database = reopen(&dir);
    let setting = |conn: &Connection, name| {
        conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap()
    };
    let writer = database.conn();
    assert_eq!(setting(writer, "journal_mode"), String::from("wal").into());
    for (name, value) in [
        ("synchronous", 1),
        ("foreign_keys", 1),
        ("wal_autocheckpoint", 0),
        ("cache_size", -i64::from(WRITER_CACHE_KIB)),
        ("auto_vacuum", 2),
        ("busy_timeout", BUSY_TIMEOUT.as_millis() as i64),
        ("journal_size_limit", WAL_BYTES_KEPT),
        ("application_id", i64::from(APPLICATION_ID)),
        ("user_version", schema::VERSION),
    ] {
        assert_eq!(setting(writer, name), value.into(), "{name}");
    }
    let reader = connect_reader(database.path(), Tuning::default()).unwrap();
    assert_eq!(setting(&reader, "cache_size"), (-i64::from(READER_CACHE_KIB)).into());
}

#[test]
fn connections_are_as_the_operator_wants_them() {
    let (dir, database) = scratch();
    drop(database);
    let tuning = Tuning { writer_cache_kib: 700, reader_cache_kib: 300, busy_timeout: Duration::from_millis(1234) };
    let database = Database::open_tuned(&dir, NOW_MS, OnDamage::Fail, tuning).unwrap().database;
    let reader = connect_reader(database.path(), database.tuning()).unwrap();
    for (conn, cache_kib) in [(database.conn(), 700), (&reader, 300)] {
        let number = |name| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((number("cache_size"), number("busy_timeout")), (-cache_kib, 1234));
    }
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let (dir, mut database) = scratch();
    database.write(|db| db.meta_put("a", "1", 0)).unwrap();
    drop(database);
    let opened = Database::open(&dir, NOW_MS, OnDamage::Fail).unwrap();
    assert!(!opened.created);
    assert_eq!((opened.migrated, opened.set_aside), (None, None));
    assert_eq!(opened.database.meta("a").unwrap().as_deref(), Some("1"));
}

#[test]
fn a_transaction_that_fails_keeps_nothing() {
    let (_dir, mut database) = scratch();
    let failed = database.write(|db| {
        db.meta_put("a", "1", 0)?;
        Err::<(), _>(StoreError::DiskFull)
    });
    assert!(failed.is_err());
    assert_eq!(database.meta("a").unwrap(), None);
}

#[test]
fn a_crash_while_the_first_file_is_made_is_no_obstacle() {
    let temp = TempDir::new().unwrap();
    let dir = StateDir::open(temp.path()).unwrap();
    fs::write(temp.path().join("state.db.new"), b"half a database").unwrap();
    assert!(Database::open(&dir, NOW_MS, OnDamage::Fail).unwrap().created);
    assert!(!temp.path().join("state.db.new").exists());
}

#[test]
fn an_empty_file_becomes_a_database() {
    let temp = TempDir::new().unwrap();
    let dir = StateDir::open(temp.path()).unwrap();
    fs::write(dir.database_path(), b"").unwrap();
    let mut opened = Database::open(&dir, NOW_MS, OnDamage::Fail).unwrap();
    assert!(opened.created);
    opened.database.write(|db| db.meta_put("a", "1", 0)).unwrap();
    drop(opened);
    assert_eq!(reopen(&dir).meta("a").unwrap().as_deref(), Some("1"));
}

#[track_caller]
fn check_damaged(spoil: impl FnOnce(&Path)) {
    let (dir, mut database) = scratch();
    database.write(|db| db.meta_put("a", "1", 0)).unwrap();
    drop(database);
    spoil(&dir.database_path());
    let spoiled = fs::read(dir.database_path()).unwrap();

    let failed = Database::open(&dir, NOW_MS, OnDamage::Fail).unwrap_err();
    assert!(matches!(&failed, StoreError::Damaged { path, .. } if *path == dir.database_path()), "{failed:?}");
    assert_eq!(fs::read(dir.database_path()).unwrap(), spoiled, "a failing start changes nothing");

    let mut opened = Database::open(&dir, NOW_MS, OnDamage::SetAside).unwrap();
    let aside = opened.set_aside.expect("the damaged file is set aside");
    assert_eq!(aside, dir.path().join("state.db.damaged.2025-01-19T05-20-00.007Z"));
    assert_eq!(fs::read(aside).unwrap(), spoiled, "not a byte of it is lost");
    assert!(opened.created);
    opened.database.write(|db| db.meta_put("b", "2", 0)).unwrap();
}

#[test]
fn a_file_of_other_bytes_is_set_aside() {
    check_damaged(|path| fs::write(path, "not a database, ".repeat(1000)).unwrap());
}

#[test]
fn a_damaged_first_page_is_set_aside() {
    check_damaged(|path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[100..3000].fill(0xff);
        fs::write(path, bytes).unwrap();
    });
}

#[test]
fn a_database_of_another_program_is_set_aside() {
    check_damaged(|path| {
        Connection::open(path).unwrap().pragma_update(None, "application_id", 7).unwrap();
    });
}

#[test]
fn a_damaged_page_further_in_is_an_error_and_not_a_loss() {
    let (dir, mut database) = scratch();
    let value = "x".repeat(100_000);
    database.write(|db| db.meta_put("a", &value, 0)).unwrap();
    drop(database);
    let mut bytes = fs::read(dir.database_path()).unwrap();
    let root: i64 = {
        let conn = Connection::open(dir.database_path()).unwrap();
        conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'", [], |row| row.get(0)).unwrap()
    };
    const PAGE_BYTES: usize = 4096;
    let root_end = root as usize * PAGE_BYTES;
    bytes[root_end - PAGE_BYTES..root_end].fill(0xff);
    fs::write(dir.database_path(), bytes).unwrap();

    let database = reopen(&dir);
    assert!(matches!(database.meta("a"), Err(StoreError::DamagedPage { .. })));
}

#[test]
fn the_log_of_a_database_that_was_moved_away_is_not_replayed() {
    let (dir, mut database) = scratch();
    database.write(|db| db.meta_put("a", "1", 0)).unwrap();
    fs::copy(dir.path().join("state.db-wal"), dir.path().join("kept")).unwrap();
    drop(database);
    fs::remove_file(dir.database_path()).unwrap();
    fs::rename(dir.path().join("kept"), dir.path().join("state.db-wal")).unwrap();

    let opened = Database::open(&dir, NOW_MS, OnDamage::Fail).unwrap();

    assert!(opened.created);
    assert_eq!(opened.database.meta("a").unwrap(), None);
    assert!(dir.path().join("state.db.damaged.2025-01-19T05-20-00.007Z-wal").exists());
}

/// The version before a change, and the change.
const OLDER: [Migration; 1] = [Migration { version: 1, sql: "CREATE TABLE note (text TEXT) STRICT;" }];
const NEWER: [Migration; 2] =
    [OLDER[0], Migration { version: 2, sql: "ALTER TABLE note ADD COLUMN at_ms INTEGER NOT NULL DEFAULT 7;" }];

fn older_file(path: &Path) {
    let opened = open_at(path, &OLDER, NOW_MS, OnDamage::Fail, Tuning::default()).unwrap();
    opened.database.conn().execute("INSERT INTO note VALUES ('kept')", []).unwrap();
}

#[test]
fn an_older_file_is_copied_and_then_migrated() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join(DATABASE_FILE);
    older_file(&path);

    let opened = open_at(&path, &NEWER, NOW_MS, OnDamage::Fail, Tuning::default()).unwrap();

    let (version, copy) = opened.migrated.expect("it was migrated");
    assert_eq!(version, 1);
    assert_eq!(copy, temp.path().join("state.db.v1.2025-01-19T05-20-00.007Z"));
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, FILE_MODE);
    let note = |conn: &Connection, sql| conn.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(note(opened.database.conn(), "SELECT text || at_ms FROM note"), "kept7");
    let copy = Connection::open(copy).unwrap();
    assert_eq!(note(&copy, "SELECT text FROM note"), "kept");
    assert_eq!(schema::version(&copy).unwrap(), 1);
}

#[test]
fn a_copy_that_cannot_be_made_stops_the_migration() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join(DATABASE_FILE);
    older_file(&path);
    let copy = temp.path().join("state.db.v1.2025-01-19T05-20-00.007Z");
    fs::write(&copy, b"an earlier copy").unwrap();

    let failed = open_at(&path, &NEWER, NOW_MS, OnDamage::SetAside, Tuning::default()).unwrap_err();

    assert!(matches!(failed, StoreError::File { act: "create", .. }), "{failed:?}");
    assert_eq!(fs::read(copy).unwrap(), b"an earlier copy");
    let opened = open_at(&path, &OLDER, NOW_MS, OnDamage::Fail, Tuning::default()).unwrap();
    assert!(!opened.created);
}

#[test]
fn a_file_of_a_later_version_is_left_alone() {
    let temp = TempDir::new().unwrap();
    let path = temp.path().join(DATABASE_FILE);
    drop(open_at(&path, &NEWER, NOW_MS, OnDamage::Fail, Tuning::default()).unwrap());
    let before = fs::read(&path).unwrap();

    let failed = open_at(&path, &OLDER, NOW_MS, OnDamage::SetAside, Tuning::default()).unwrap_err();

    assert!(matches!(failed, StoreError::NewerSchema { found: 2, known: 1, .. }), "{failed:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_full_disk_is_reported_as_such_and_keeps_what_was_there() {
    let (_dir, mut database) = scratch();
    database.write(|db| db.meta_put("a", "1", 0)).unwrap();
    let n_pages: i64 = database.conn().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    database.conn().query_row(&format!("PRAGMA max_page_count = {n_pages}"), [], |_| Ok(())).unwrap();

    let failed = database.write(|db| db.meta_put("b", &"x".repeat(100_000), 0));

    assert!(matches!(failed, Err(StoreError::DiskFull)), "{failed:?}");
    assert_eq!(database.meta("a").unwrap().as_deref(), Some("1"));
    assert_eq!(database.meta("b").unwrap(), None);
}

#[test]
fn a_database_held_by_another_process_is_busy() {
    let (dir, mut database) = scratch();
    let other = Connection::open(dir.database_path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    database.conn().busy_timeout(Duration::ZERO).unwrap();
    let failed = database.write(|db| db.meta_put("a", "1", 0));
    assert!(matches!(failed, Err(StoreError::Busy)), "{failed:?}");
}

#[test]
fn a_read_only_file_is_refused_at_the_start() {
    let (dir, database) = scratch();
    drop(database);
    fs::set_permissions(dir.database_path(), fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(dir.path().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    super::super::dir::tests::as_a_stranger(|| {
        let failed = Database::open(&dir, NOW_MS, OnDamage::SetAside).unwrap_err();
        assert!(matches!(failed, StoreError::ReadOnly), "{failed:?}");
    });
}
