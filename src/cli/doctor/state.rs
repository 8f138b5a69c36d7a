//! The state directory: there, writable, private, whole, and whose.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::check::{Check, Repair};
use crate::cli::term::counted;
use crate::store::StoreError;
use crate::store::dir::{DATABASE_FILE, DIR_MODE, FILE_MODE, LOCK_FILE};
use crate::store::reader::Reader;

/// Most files looked at; a directory with more is reported as only partly seen.
pub const FILES_MAX: usize = 100_000;
/// Deepest directory below the state directory that is looked into; nothing we write lies deeper.
pub const DEPTH_MAX: usize = 8;
/// Most paths named in a report.
pub const NAMED_MAX: usize = 10;

/// `state.dir`: whether there is a directory that takes files.
pub fn dir(path: &Path) -> Check {
    const ID: &str = "state.dir";
    let shown = path.display();
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Check::warn(ID, format!("state directory {shown} does not exist"))
                .detail("the first `openclaw-rs gateway run` makes it, and so does `openclaw-rs doctor --fix`")
                .repairs(vec![Repair::MakeDir(path.to_owned())])
        }
        Err(error) => Check::fail(ID, format!("state directory {shown} cannot be looked at")).detail(error.to_string()),
        Ok(found) if !found.is_dir() => Check::fail(ID, format!("state directory {shown} is not a directory"))
            .detail("move it away, or choose another place with --state-dir or OPENCLAW_RS_STATE_DIR"),
        Ok(_) => match writable(path) {
            Ok(()) => Check::pass(ID, format!("{shown} takes files")),
            Err(error) => Check::fail(ID, format!("state directory {shown} takes no files")).detail(error.to_string()),
        },
    }
}

/// Whether a file can be made there. Mode bits say little for root, on a read-only mount or under an access list, so it
/// is tried, with a file that never gets a name.
fn writable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let nameless = fs::OpenOptions::new().write(true).mode(FILE_MODE).custom_flags(libc::O_TMPFILE).open(path);
    match nameless {
        Ok(_) => Ok(()),
        // A file system without nameless files.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let probe = path.join(format!(".doctor-{}", std::process::id()));
            fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&probe)?;
            fs::remove_file(&probe)
        }
        Err(error) => Err(error),
    }
}

/// `state.modes`: whether others can read what is in it, or own it.
pub fn modes(path: &Path) -> Check {
    const ID: &str = "state.modes";
    if !path.is_dir() {
        return Check::pass(ID, "nothing there yet");
    }
    let mut found = Found::default();
    if let Err(error) = walk(path, 0, &mut found) {
        return Check::fail(ID, format!("{} cannot be looked through", path.display())).detail(error.to_string());
    }
    if !found.foreign.is_empty() {
        let who = names(&found.foreign);
        return Check::fail(ID, format!("{} not owned by this user", counted(found.foreign.len(), "file")))
            .detail(format!("{who}\ngive them to the user that runs the gateway with chown"))
            .repairs(found.repairs);
    }
    if !found.repairs.is_empty() {
        let open: Vec<PathBuf> = found
            .repairs
            .iter()
            .map(|repair| match repair {
                Repair::Chmod(path, _) | Repair::MakeDir(path) => path.clone(),
            })
            .collect();
        return Check::warn(ID, format!("others have access to {}", counted(open.len(), "file")))
            .detail(format!("{}\n`openclaw-rs doctor --fix` closes them", names(&open)))
            .repairs(found.repairs);
    }
    if found.n_files > FILES_MAX {
        return Check::warn(ID, format!("more than {FILES_MAX} files; the rest was not looked at"));
    }
    Check::pass(ID, "only the owner has access")
}

/// The check of a file outside the state directory that may hold secrets.
pub fn file_mode(path: &Path) -> Option<Repair> {
    let found = fs::metadata(path).ok()?;
    let mode = found.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| Repair::Chmod(path.to_owned(), mode & 0o700))
}

#[derive(Default)]
struct Found {
    n_files: usize,
    repairs: Vec<Repair>,
    foreign: Vec<PathBuf>,
}

fn walk(path: &Path, depth: usize, found: &mut Found) -> io::Result<()> {
    found.n_files += 1;
    if found.n_files > FILES_MAX {
        return Ok(());
    }
    let meta = match fs::symlink_metadata(path) {
        // The daemon may be at work: what is gone needs no check.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    if meta.is_symlink() {
        return Ok(());
    }
    // SAFETY: geteuid takes nothing, changes nothing and always succeeds.
    let us = unsafe { libc::geteuid() };
    if meta.uid() != us {
        found.foreign.push(path.to_owned());
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let least = if meta.is_dir() { DIR_MODE } else { FILE_MODE };
        found.repairs.push(Repair::Chmod(path.to_owned(), mode & 0o700 | least));
    }
    if meta.is_dir() && depth < DEPTH_MAX {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        // The order of a directory is nobody's; a report must not depend on it.
        entries.sort();
        for entry in entries {
            walk(&entry, depth + 1, found)?;
        }
    }
    Ok(())
}

fn names(paths: &[PathBuf]) -> String {
    let mut lines: Vec<String> = paths.iter().take(NAMED_MAX).map(|path| path.display().to_string()).collect();
    if paths.len() > NAMED_MAX {
        lines.push(format!("and {} more", paths.len() - NAMED_MAX));
    }
    lines.join("\n")
}

/// `runtime.sqlite_state`: whether the database opens and its pages fit together.
pub fn database(state_dir: &Path) -> Check {
    const ID: &str = "runtime.sqlite_state";
    let path = state_dir.join(DATABASE_FILE);
    if !path.exists() {
        return Check::pass(ID, "no database yet");
    }
    match Reader::open(&path).and_then(|reader| reader.meta_with_prefix("")) {
        Ok(_) => Check::pass(ID, "the database opens and can be read"),
        Err(error) => {
            let hint = error.hint().map(|hint| format!("\n{hint}")).unwrap_or_default();
            Check::fail(ID, error.to_string()).detail(format!("{}{hint}", causes(&error)))
        }
    }
}

fn causes(error: &StoreError) -> String {
    std::error::Error::source(error).map_or_else(String::new, ToString::to_string)
}

/// Who holds a state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// A process, with the number it wrote down.
    Process(Option<u32>),
    /// The lock could not be looked at.
    Unknown,
}

/// Looks at the lock without keeping it. A gateway that starts in the same microseconds would find it taken.
pub fn holder(state_dir: &Path) -> Holder {
    let Ok(mut file) = File::open(state_dir.join(LOCK_FILE)) else { return Holder::Nobody };
    match file.try_lock_shared() {
        Ok(()) => Holder::Nobody,
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.by_ref().take(32).read_to_string(&mut text);
            Holder::Process(text.trim().parse().ok())
        }
        Err(TryLockError::Error(_)) => Holder::Unknown,
    }
}

/// `state.lock`: whether a gateway runs on it.
pub fn lock(holder: Holder) -> Check {
    const ID: &str = "state.lock";
    match holder {
        Holder::Nobody => Check::pass(ID, "no gateway runs on this state directory"),
        Holder::Process(Some(pid)) => Check::pass(ID, format!("held by the gateway, process {pid}")),
        Holder::Process(None) => Check::pass(ID, "held by a gateway"),
        Holder::Unknown => Check::warn(ID, "the lock cannot be looked at")
            .detail("the file system of the state directory may not support locks; keep it on a local disk"),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::check::Status;
    use super::*;
    use crate::store::dir::StateDir;
    use crate::store::open::{Database, OnDamage};

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn repairs_converge() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("state");
        let missing = dir(&path);
        assert_eq!(missing.status, Status::Warn);
        assert!(missing.repairs.iter().all(|repair| repair.make().ok));
        assert_eq!(dir(&path).status, Status::Pass);

        fs::create_dir(path.join("sub")).unwrap();
        fs::write(path.join("sub/open"), "x").unwrap();
        fs::write(path.join("tool"), "x").unwrap();
        fs::write(path.join("closed"), "x").unwrap();
        chmod(&path.join("sub"), 0o755);
        chmod(&path.join("sub/open"), 0o644);
        chmod(&path.join("tool"), 0o755);
        chmod(&path.join("closed"), 0o400);
        let open = modes(&path);
        assert_eq!(open.status, Status::Warn);
        let expected = [("sub", 0o700), ("sub/open", 0o600), ("tool", 0o700)];
        assert_eq!(open.repairs, expected.map(|(name, mode)| Repair::Chmod(path.join(name), mode)));
        assert!(open.repairs.iter().all(|repair| repair.make().ok));
        let closed = modes(&path);
        assert_eq!((closed.status, closed.repairs.len()), (Status::Pass, 0));
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let home = TempDir::new().unwrap();
        let (state, outside) = (home.path().join("state"), home.path().join("outside"));
        fs::create_dir(&state).unwrap();
        chmod(&state, 0o700);
        fs::write(&outside, "x").unwrap();
        chmod(&outside, 0o644);
        std::os::unix::fs::symlink(&outside, state.join("link")).unwrap();
        std::os::unix::fs::symlink(&state, state.join("loop")).unwrap();
        assert_eq!(modes(&state).status, Status::Pass);
    }

    #[test]
    fn a_file_in_place_of_the_directory_fails() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("state");
        fs::write(&path, "").unwrap();
        assert_eq!(dir(&path).status, Status::Fail);
        assert_eq!(modes(&path).status, Status::Pass);
    }

    #[test]
    fn says_who_holds_the_directory_and_leaves_it_free() {
        let home = TempDir::new().unwrap();
        assert_eq!(holder(home.path()), Holder::Nobody);
        let state = StateDir::open(home.path()).unwrap();
        assert_eq!(holder(home.path()), Holder::Nobody);
        let held = state.lock().unwrap();
        assert_eq!(holder(home.path()), Holder::Process(Some(std::process::id())));
        drop(held);
        assert_eq!(holder(home.path()), Holder::Nobody);
        state.lock().unwrap();
    }

    #[test]
    fn a_damaged_database_is_found() {
        let home = TempDir::new().unwrap();
        assert_eq!(database(home.path()).status, Status::Pass);
        let state = StateDir::open(home.path()).unwrap();
        drop(Database::open(&state, 0, OnDamage::Fail).unwrap());
        assert_eq!(database(home.path()).message, "the database opens and can be read");
        fs::write(state.database_path(), "x".repeat(9000)).unwrap();
        assert_eq!(database(home.path()).status, Status::Fail);
    }
}
