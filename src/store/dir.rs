//! The state directory: made private, held by one daemon at a time.
//!
//! The directory is 0700 and what we put into it is 0600. One daemon holds it through an advisory lock (`flock`) on
//! [`LOCK_FILE`]; the system drops the lock with the process, however it ends, so there are no stale locks and the
//! number inside the file is information for people only.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::runtime::random;

use super::StoreError;

/// The file that carries the lock.
pub const LOCK_FILE: &str = "gateway.lock";
/// The database.
pub const DATABASE_FILE: &str = "state.db";
/// Mode of the state directory: secrets live in it.
pub const DIR_MODE: u32 = 0o700;
/// Mode of the files in it.
pub const FILE_MODE: u32 = 0o600;

/// A state directory that exists and takes files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

/// The right to be the only daemon on a state directory; ends when dropped or when the process ends.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateDir {
    /// Uses `path`, making it (0700, with its parents) when it is missing.
    ///
    /// # Errors
    /// [`StoreError::DirCreate`], [`StoreError::DirNotADirectory`], [`StoreError::DirNotWritable`].
    pub fn open(path: impl Into<PathBuf>) -> Result<StateDir, StoreError> {
        let path = path.into();
        match fs::metadata(&path) {
            Ok(found) if !found.is_dir() => return Err(StoreError::DirNotADirectory { path }),
            Ok(_) => {}
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(&path);
                made.map_err(|source| StoreError::DirCreate { path: path.clone(), source })?;
            }
            Err(source) => return Err(StoreError::DirCreate { path, source }),
        }
        let dir = StateDir { path };
        // Opening the lock file is the probe: mode bits say little for root, on a read-only mount, or under an ACL.
        dir.open_lock_file().map_err(|source| StoreError::DirNotWritable { path: dir.path.clone(), source })?;
        Ok(dir)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database is; `sessions.list` shows it as `path`.
    pub fn database_path(&self) -> PathBuf {
        self.path.join(DATABASE_FILE)
    }

    /// Takes the directory for this process, without waiting.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another daemon has it, [`StoreError::LockFile`] when locking itself fails.
    pub fn lock(&self) -> Result<StateLock, StoreError> {
        let path = self.path.join(LOCK_FILE);
        let failed = |source| StoreError::LockFile { path: path.clone(), source };
        let mut file = self.open_lock_file().map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Only for the message: an unreadable number must not turn "locked" into another error.
                let _ = file.take(32).read_to_string(&mut text);
                return Err(StoreError::Locked { path: self.path.clone(), holder_pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(StateLock { _file: file })
    }

    /// Replaces the file `name` by `bytes` in one step, with mode 0600: a reader sees the old or the new content.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn write_private(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        // A name of its own for each attempt, so that two writers can't share one half-written file.
        let aside = self.path.join(format!(".{name}.{}.new", random::hex(&random::bytes::<6>())));
        let replace = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&aside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        };
        replace().map_err(|source| {
            let _ = fs::remove_file(&aside);
            StoreError::File { act: "write", path: path.clone(), source }
        })
    }

    fn open_lock_file(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        options.open(self.path.join(LOCK_FILE))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn makes_the_directory_and_its_files_private() {
        let home = TempDir::new().unwrap();
        let dir = StateDir::open(home.path().join("a/b")).unwrap();
        dir.write_private("token", b"secret").unwrap();
        let _lock = dir.lock().unwrap();

        assert_eq!(mode(dir.path()), DIR_MODE);
        assert_eq!(mode(&dir.path().join("token")), FILE_MODE);
        assert_eq!(mode(&dir.path().join(LOCK_FILE)), FILE_MODE);
        assert_eq!(fs::read(dir.path().join("token")).unwrap(), b"secret");
    }

    #[test]
    fn a_second_daemon_is_told_who_holds_the_directory() {
        let home = TempDir::new().unwrap();
        let dir = StateDir::open(home.path()).unwrap();
        let lock = dir.lock().unwrap();

        let refused = dir.lock().unwrap_err();
        assert!(matches!(refused, StoreError::Locked { holder_pid: Some(pid), .. } if pid == std::process::id()));
        assert!(refused.to_string().contains(&home.path().display().to_string()));

        drop(lock);
        dir.lock().unwrap();
    }

    #[test]
    fn a_file_in_its_place_is_refused() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("state");
        fs::write(&path, b"").unwrap();
        assert!(matches!(StateDir::open(&path), Err(StoreError::DirNotADirectory { .. })));
    }

    /// Runs `body` as somebody who owns nothing here. Mode bits do not hold root back, so as root the test thread
    /// (this thread only: Linux keeps the file-system uid per thread) becomes nobody for file access.
    pub(crate) fn as_a_stranger(body: impl FnOnce() + Send) {
        const NOBODY: libc::uid_t = 65534;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: setfsuid takes a number and changes nothing but this thread's identity for file access.
                unsafe { libc::setfsuid(NOBODY) };
                body();
            });
        });
    }

    #[test]
    fn a_directory_that_takes_no_files_is_refused_with_path_and_cause() {
        let home = TempDir::new().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o555)).unwrap();
        as_a_stranger(|| {
            let refused = StateDir::open(home.path()).unwrap_err();
            let StoreError::DirNotWritable { path, source } = &refused else { panic!("{refused:?}") };
            assert_eq!(path, home.path());
            assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);

            let refused = StateDir::open(home.path().join("below")).unwrap_err();
            assert!(matches!(refused, StoreError::DirCreate { .. }));
            assert!(refused.hint().is_some());
        });
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
}
