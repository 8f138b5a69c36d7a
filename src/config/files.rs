//! Files: bounded reads, writes that are whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::ConfigError;
use super::document;
use crate::runtime::random;

/// Largest configuration, included or `.env` file, in bytes; a larger one is an error.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Numbered copies of earlier documents kept beside the file; the oldest goes first.
pub const BACKUPS_MAX: usize = 5;
/// Owner only: the document holds secrets.
const FILE_MODE: u32 = 0o600;
/// Owner only: the directory holds secrets.
const DIR_MODE: u32 = 0o700;

/// Reads a whole file; `None` when it is not there.
///
/// # Errors
/// `Unreadable`, also for what is no UTF-8; `TooLarge`.
pub fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut text = String::new();
    // One byte more than the limit shows that there is more, also where the size is not known beforehand.
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    let bytes = text.len() as u64;
    if bytes > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), bytes, max: FILE_BYTES_MAX });
    }
    Ok(Some(text))
}

/// When a file was last changed, in milliseconds since 1970; `None` when that cannot be told.
pub fn changed_ms(path: &Path) -> Option<u64> {
    let changed = fs::metadata(path).and_then(|about| about.modified()).ok()?;
    changed.duration_since(UNIX_EPOCH).ok().map(|since| since.as_millis() as u64)
}

/// Reads a file for an include, links followed, if it lies inside `dir`.
///
/// # Errors
/// Why not, in words for an issue.
pub fn read_included(path: &Path, dir: &Path) -> Result<String, String> {
    let name = path.strip_prefix(dir).unwrap_or(path).display();
    let real = path.canonicalize().map_err(|error| format!("{name}: {error}"))?;
    let real_dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
    if !real.starts_with(&real_dir) {
        return Err(format!("{name} leads outside the config directory"));
    }
    match read(&real) {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(format!("{name}: no such file")),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Makes the state directory, owner only, with what stands above it.
///
/// # Errors
/// `Write`.
pub fn make_dir(path: &Path) -> Result<(), ConfigError> {
    let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(path);
    made.map_err(|source| ConfigError::Write { path: path.to_owned(), step: "make", source })
}

/// Replaces a document: a temporary file beside it, synced, renamed over it; the old one stays as `.bak.1`, older
/// ones up to [`BACKUPS_MAX`]. A link stays a link. `replaces` is the hash the file must still have, `None` for a file
/// that must not exist.
///
/// # Errors
/// `Raced` when it is not so; `Write`; the old document is untouched in both.
pub fn replace(path: &Path, text: &str, replaces: Option<&str>) -> Result<(), ConfigError> {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_dir(dir)?;
    let before = read(&target)?;
    if before.as_deref().map(document::hash).as_deref() != replaces {
        return Err(ConfigError::Raced { path: path.to_owned() });
    }
    let temporary = dir.join(format!(".{}.{}", name_of(&target), random::uuid()));
    let written = write_synced(&temporary, text).and_then(|()| {
        if let Some(before) = &before {
            back_up(&target, before)?;
        }
        fs::rename(&temporary, &target).map_err(|source| ConfigError::Write {
            path: target.clone(),
            step: "replace",
            source,
        })
    });
    if let Err(error) = written {
        // Best effort: the error that matters is already in hand.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(dir)
}

/// Writes a small file whole or not at all, over whatever stood there; no copy is kept of that.
///
/// # Errors
/// `Write`; what stood there is untouched then.
pub fn put(path: &Path, text: &str) -> Result<(), ConfigError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_dir(dir)?;
    let temporary = dir.join(format!(".{}.{}", name_of(path), random::uuid()));
    let written = write_synced(&temporary, text).and_then(|()| {
        fs::rename(&temporary, path).map_err(|source| ConfigError::Write {
            path: path.to_owned(),
            step: "replace",
            source,
        })
    });
    if let Err(error) = written {
        // Best effort: the error that matters is already in hand.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_dir(dir)
}

fn write_synced(path: &Path, text: &str) -> Result<(), ConfigError> {
    let write = |path: &Path| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write(path).map_err(|source| ConfigError::Write { path: path.to_owned(), step: "write", source })
}

/// Moves numbered copies up by one and keeps `before` as the first.
fn back_up(target: &Path, before: &str) -> Result<(), ConfigError> {
    let copy = |n: usize| target.with_file_name(format!("{}.bak.{n}", name_of(target)));
    for n in (1..BACKUPS_MAX).rev() {
        match fs::rename(copy(n), copy(n + 1)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ConfigError::Write { path: copy(n + 1), step: "keep", source });
            }
            _ => {}
        }
    }
    // A copy left by a crash between the renames would make `create_new` fail.
    let _ = fs::remove_file(copy(1));
    write_synced(&copy(1), before)
}

fn sync_dir(dir: &Path) -> Result<(), ConfigError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| ConfigError::Write { path: dir.to_owned(), step: "sync", source })
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The text of a small secret file, made with `make` when it is not there. Answers whether it was made.
///
/// # Errors
/// `Write`, `Unreadable`.
pub fn read_or_make(path: &Path, make: impl FnOnce() -> String) -> Result<(String, bool), ConfigError> {
    if let Some(text) = read(path)? {
        return Ok((text, false));
    }
    let text = make();
    match write_synced(path, &format!("{text}\n")) {
        Ok(()) => Ok((text, true)),
        // Another process was faster: what it wrote counts.
        Err(ConfigError::Write { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            read(path).map(|text| (text.unwrap_or_default(), false))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    /// Numbered copies of a document, newest first.
    fn backups(path: &Path) -> Vec<PathBuf> {
        let copy = |n| path.with_file_name(format!("{}.bak.{n}", name_of(path)));
        (1..=BACKUPS_MAX + 1).map(copy).filter(|copy| copy.exists()).collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn replaces_whole_files_owner_only_and_keeps_five_copies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/openclaw.json");
        replace(&path, "0", None).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        for n in 1..=BACKUPS_MAX + 2 {
            let hash = document::hash(&(n - 1).to_string());
            replace(&path, &n.to_string(), Some(&hash)).unwrap();
        }
        let copies: Vec<String> = backups(&path).iter().map(|copy| fs::read_to_string(copy).unwrap()).collect();
        assert_eq!(copies, ["6", "5", "4", "3", "2"]);
        assert_eq!(mode(&backups(&path)[0]), 0o600);
        let names = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1 + BACKUPS_MAX, "no temporary file is left");
    }

    #[test]
    fn a_document_that_changed_meanwhile_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        replace(&path, "mine", None).unwrap();
        assert!(matches!(replace(&path, "theirs", None), Err(ConfigError::Raced { .. })));
        let stale = document::hash("older");
        assert!(matches!(replace(&path, "theirs", Some(&stale)), Err(ConfigError::Raced { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert!(backups(&path).is_empty());
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real.json"), dir.path().join("link.json"));
        fs::write(&real, "a").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, "b", Some(&document::hash("a"))).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "b");
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        let file = File::create(&path).unwrap();
        file.set_len(FILE_BYTES_MAX).unwrap();
        assert!(read(&path).unwrap().is_some());
        file.set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(read(&path), Err(ConfigError::TooLarge { .. })));
    }

    #[test]
    fn an_include_may_not_lead_outside_by_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        fs::create_dir(&inside).unwrap();
        fs::write(dir.path().join("out.json"), "{}").unwrap();
        std::os::unix::fs::symlink("../out.json", inside.join("link.json")).unwrap();
        let error = read_included(&inside.join("link.json"), &inside).unwrap_err();
        assert!(error.contains("outside"), "{error}");
        fs::write(inside.join("ok.json"), "{}").unwrap();
        assert_eq!(read_included(&inside.join("ok.json"), &inside), Ok("{}".to_owned()));
    }
}
