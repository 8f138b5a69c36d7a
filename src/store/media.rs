//! Pictures and files that came with messages: the bytes in files of the state directory, a row for each.
//!
//! A file is written, whole and synced, before the row that names it is committed; a row goes with its file. So a row
//! without a file is one that had to make room, and a file without a row is what a crash left, which
//! [`Db::media_prune`] removes. A file belongs to the message that it came with and goes when that one does, with the
//! archive it is in.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::StoreError;
use super::db::{Columns, Db, Queries};
use super::dir::{DIR_MODE, FILE_MODE};

/// Files kept, and their bytes together. The oldest make room for new ones; what is left of them is their name.
pub const MEDIA_ROWS_MAX: u64 = 20_000;
/// See [`MEDIA_ROWS_MAX`].
pub const MEDIA_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Rows looked at by one [`Db::media_prune`], and files.
pub const MEDIA_PRUNE_ROWS_MAX: i64 = 500;
/// How old a file without a row, and a row without a message, must be to be taken for what was left behind.
pub const MEDIA_LEFT_AFTER: Duration = Duration::from_secs(60 * 60);

/// Below the state directory, as upstream has it.
const FOLDER: [&str; 2] = ["media", "inbound"];

/// Where the files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaDir {
    path: PathBuf,
}

/// Whether this can be the name of a file of ours: nothing in it leads anywhere.
pub fn is_id(id: &str) -> bool {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !id.is_empty() && id.len() <= 128 && !id.starts_with('.') && id.bytes().all(is_fine)
}

impl MediaDir {
    /// That of a state directory; it is made with the first file.
    pub fn of(state_dir: &Path) -> MediaDir {
        MediaDir { path: FOLDER.iter().fold(state_dir.to_owned(), |path, part| path.join(part)) }
    }

    fn file(&self, id: &str) -> io::Result<PathBuf> {
        match is_id(id) {
            true => Ok(self.path.join(id)),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no name of a kept file")),
        }
    }

    fn write(&self, id: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let write = || {
            let path = self.file(id)?;
            DirBuilder::new().recursive(true).mode(DIR_MODE).create(&self.path)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| StoreError::File { act: "write", path: self.path.join(id), source })
    }

    /// At most the first `bytes_max` bytes of a file.
    ///
    /// # Errors
    /// The system's; `NotFound` when it made room for others.
    pub fn read(&self, id: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.file(id)?)?.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// How large a file is.
    ///
    /// # Errors
    /// The system's.
    pub fn size(&self, id: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.file(id)?)?.len())
    }

    /// What cannot be removed is named in the log and tried again with what was left behind.
    fn remove(&self, id: &str) {
        match self.file(id).and_then(fs::remove_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("cannot remove a kept file id={id} error={error}");
            }
            _ => {}
        }
    }

    /// Files that are older than [`MEDIA_LEFT_AFTER`], a bounded number.
    fn old(&self, now_ms: i64) -> Vec<String> {
        let before = Duration::from_millis(u64::try_from(now_ms).unwrap_or(0)).saturating_sub(MEDIA_LEFT_AFTER);
        let is_old = |time: SystemTime| time.duration_since(UNIX_EPOCH).is_ok_and(|age| age < before);
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let old = entries.filter_map(Result::ok).filter_map(|entry| {
            let is_old = entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(is_old);
            entry.file_name().into_string().ok().filter(|_| is_old)
        });
        old.take(MEDIA_ROWS_MAX as usize + MEDIA_PRUNE_ROWS_MAX as usize).collect()
    }
}

impl Queries {
    /// How many files are kept, and their bytes.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn media_totals(&self) -> Result<(u64, u64), StoreError> {
        let totals = self.first("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM media", [], |row| {
            let mut columns = Columns::of(row);
            Ok((columns.count()?, columns.count()?))
        })?;
        Ok(totals.unwrap_or_default())
    }

    fn media_ids(&self, sql: &str, params: impl rusqlite::Params) -> Result<Vec<String>, StoreError> {
        self.rows(sql, params, |row| row.get(0))
    }
}

impl Db<'_> {
    /// Keeps a file that came with the message of an inbox row. The oldest make room.
    ///
    /// # Errors
    /// [`StoreError::File`], and those of a statement; the row is not there then.
    pub fn media_put(
        &self,
        dir: &MediaDir,
        id: &str,
        inbox_id: i64,
        bytes: &[u8],
        now_ms: i64,
    ) -> Result<(), StoreError> {
        self.media_put_within(dir, id, inbox_id, bytes, now_ms, (MEDIA_ROWS_MAX, MEDIA_BYTES_MAX))
    }

    fn media_put_within(
        &self,
        dir: &MediaDir,
        id: &str,
        inbox_id: i64,
        bytes: &[u8],
        now_ms: i64,
        (rows_max, bytes_max): (u64, u64),
    ) -> Result<(), StoreError> {
        loop {
            let (n_rows, n_bytes) = self.media_totals()?;
            if n_rows < rows_max && n_bytes.saturating_add(bytes.len() as u64) <= bytes_max {
                break;
            }
            // Never one of the same message.
            let sql = "SELECT id FROM media WHERE inbox_id <> ?1 ORDER BY at_ms, id LIMIT 1";
            let Some(oldest) = self.media_ids(sql, [inbox_id])?.pop() else { break };
            self.run("DELETE FROM media WHERE id = ?1", [&oldest])?;
            dir.remove(&oldest);
        }
        dir.write(id, bytes)?;
        self.run(
            "INSERT INTO media (id, inbox_id, bytes, at_ms) VALUES (?1, ?2, ?3, ?4)",
            (id, inbox_id, bytes.len() as i64, now_ms),
        )?;
        Ok(())
    }

    /// A file's message is in a transcript now.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn media_stands_in(&self, id: &str, session_id: &str, message_id: &str) -> Result<(), StoreError> {
        self.run("UPDATE media SET session_id = ?2, message_id = ?3 WHERE id = ?1", (id, session_id, message_id))?;
        Ok(())
    }

    /// Gives files over to sessions that were forked from where they came, and hold their message still.
    fn media_pass_on(&self, gone: &mut Vec<String>) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        let sql = "SELECT session_id FROM sessions WHERE json_extract(entry, '$.forkSource') IS NOT NULL";
        let forks: Vec<String> = self.rows(sql, [], |row| row.get(0))?;
        let mut kept = Vec::new();
        for id in &*gone {
            let sql = "SELECT message_id FROM media WHERE id = ?1";
            let Some(Some(message_id)) = self.first(sql, [id], |row| row.get::<_, Option<String>>(0))? else {
                continue;
            };
            for fork in &forks {
                let sql = "SELECT 1 FROM transcript WHERE session_id = ?1 AND message_id = ?2";
                if self.first(sql, [fork, &message_id], |_| Ok(()))?.is_some() {
                    self.media_stands_in(id, fork, &message_id)?;
                    kept.push(id.clone());
                    break;
                }
            }
        }
        gone.retain(|id| !kept.contains(id));
        Ok(())
    }

    /// Removes files whose message is gone, and files that nothing knows of; says how many.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn media_prune(&self, dir: &MediaDir, now_ms: i64) -> Result<u64, StoreError> {
        let before_ms = now_ms.saturating_sub(MEDIA_LEFT_AFTER.as_millis() as i64);
        let sql = "SELECT id FROM media WHERE at_ms < ?1
             AND NOT EXISTS (SELECT 1 FROM transcript
                 WHERE transcript.session_id = media.session_id AND transcript.message_id = media.message_id)
             AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.id = media.inbox_id AND inbox.is_open)
             ORDER BY at_ms LIMIT ?2";
        let mut gone = self.media_ids(sql, (before_ms, MEDIA_PRUNE_ROWS_MAX))?;
        self.media_pass_on(&mut gone)?;
        for id in &gone {
            self.run("DELETE FROM media WHERE id = ?1", [id])?;
        }
        for id in dir.old(now_ms) {
            if gone.len() as i64 >= MEDIA_PRUNE_ROWS_MAX {
                break;
            }
            if self.media_ids("SELECT id FROM media WHERE id = ?1", [&id])?.is_empty() {
                gone.push(id);
            }
        }
        gone.sort_unstable();
        gone.dedup();
        for id in &gone {
            dir.remove(id);
        }
        Ok(gone.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dir::StateDir;
    use crate::store::inbox::{Accepted, InboxState, NewInbound};
    use crate::store::open::{Database, OnDamage};
    use crate::store::sessions::{SessionRow, TranscriptFate};
    use crate::store::transcript::NewMessage;

    fn scratch() -> (tempfile::TempDir, MediaDir, Database) {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        let database = Database::open(&state, 1, OnDamage::Fail).unwrap().database;
        let dir = MediaDir::of(temp.path());
        (temp, dir, database)
    }

    fn now_ms() -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
    }

    fn inbox(db: &Db<'_>, key: &str) -> i64 {
        let new = NewInbound { source: "chat.send", dedupe_key: key, session_key: "a", body: "{}", received_ms: 1 };
        match db.inbox_accept(&new).unwrap() {
            Accepted::New(id) => id,
            Accepted::Existing(_) => panic!("it is new"),
        }
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let (_temp, dir, _database) = scratch();
        for name in ["", ".", "..", "../state.db", "a/b", ".hidden", "a\0b", &"x".repeat(129)] {
            assert!(!is_id(name), "{name:?}");
            assert_eq!(dir.read(name, 9).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert!(is_id("a-picture---0e8b.png"));
    }

    #[test]
    fn a_file_is_private_and_read_as_far_as_asked() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_temp, dir, mut database) = scratch();
        database.write(|db| db.media_put(&dir, "a.png", 1, b"picture", 1)).unwrap();
        assert_eq!(dir.read("a.png", 99).unwrap(), b"picture");
        assert_eq!(dir.read("a.png", 3).unwrap(), b"pic");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir.path), mode(&dir.path.join("a.png"))), (0o700, 0o600));
        // The same name again is another file's: nothing is overwritten.
        assert!(database.write(|db| db.media_put(&dir, "a.png", 1, b"other", 1)).is_err());
        assert_eq!(dir.read("a.png", 99).unwrap(), b"picture");
    }

    #[test]
    fn at_the_limit_the_oldest_make_room_and_never_one_of_the_same_message() {
        let (_temp, dir, mut database) = scratch();
        let mut put = |id: &str, inbox_id, bytes: &[u8], at_ms| {
            database
                .write(|db| {
                    db.media_put_within(&dir, id, inbox_id, bytes, at_ms, (3, 10))?;
                    db.media_totals()
                })
                .unwrap()
        };
        assert_eq!(put("a", 1, b"1234", 1), (1, 4));
        assert_eq!(put("b", 2, b"123", 2), (2, 7));
        assert_eq!(put("c", 3, b"123", 3), (3, 10), "the limit itself is room");
        assert_eq!(put("d", 4, b"1", 4), (3, 7), "one more than the rows");
        assert_eq!(put("e", 5, b"12345", 5), (3, 9), "one more than the bytes");
        assert_eq!(put("f", 5, b"12345", 6), (2, 10), "both of the same message stay");
        let kept: Vec<bool> = ["a", "b", "c", "d", "e", "f"].iter().map(|id| dir.read(id, 9).is_ok()).collect();
        assert_eq!(kept, [false, false, false, false, true, true]);
    }

    #[test]
    fn a_file_goes_with_the_message_it_came_with() {
        let (_temp, dir, mut database) = scratch();
        let later = now_ms() + 2 * MEDIA_LEFT_AFTER.as_millis() as i64;
        let prune = |database: &mut Database, at_ms| database.write(|db| db.media_prune(&dir, at_ms)).unwrap();
        database
            .write(|db| {
                let told = inbox(db, "told");
                let waits = inbox(db, "waits");
                db.media_put(&dir, "told.png", told, b"x", now_ms())?;
                db.media_put(&dir, "waits.png", waits, b"x", now_ms())?;
                db.inbox_set_state(told, InboxState::Done, None)?;
                db.session_put(&SessionRow::new("a", "main", "s", "direct", 1))?;
                let message = NewMessage {
                    session_id: "s",
                    message_id: "m",
                    parent_id: None,
                    role: "user",
                    idempotency_key: None,
                    at_ms: 1,
                    message: "{}",
                };
                db.transcript_append(&message)?;
                db.media_stands_in("told.png", "s", "m")
            })
            .unwrap();
        // What a crash left between the file and its row.
        dir.write("left.png", b"x").unwrap();

        assert_eq!(prune(&mut database, now_ms()), 0, "all of them are young");
        assert_eq!(prune(&mut database, later), 1);
        let kept = |id: &str| dir.read(id, 9).is_ok();
        assert_eq!((kept("told.png"), kept("waits.png"), kept("left.png")), (true, true, false));

        let fork = || {
            let mut fork = SessionRow::new("b", "main", "t", "direct", 1);
            fork.entry.insert("forkSource".to_owned(), serde_json::json!({ "sessionKey": "a" }));
            fork
        };
        database.write(|db| db.transcript_fork("s", 1, &fork(), 4)).unwrap();
        database.write(|db| db.session_delete("a", TranscriptFate::Archive, 5)).unwrap();
        assert_eq!(prune(&mut database, later), 0, "an archive is still to be read");
        database.write(|db| db.archive_prune(i64::MAX)).unwrap();
        assert_eq!(prune(&mut database, later), 0, "the session that was forked holds it");
        database.write(|db| db.session_delete("b", TranscriptFate::Archive, 5)).unwrap();
        database.write(|db| db.archive_prune(i64::MAX)).unwrap();
        assert_eq!(prune(&mut database, later), 1);
        assert_eq!((kept("told.png"), kept("waits.png")), (false, true));
        assert_eq!(database.media_totals().unwrap(), (1, 1));
    }
}
