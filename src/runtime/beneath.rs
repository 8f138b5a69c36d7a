//! Files below a directory that no path and no link leads out of.
//!
//! **Invariant:** every file is opened part by part below an open directory, following no symbolic link, and only
//! regular files are read. There is no moment between a check and its use in which a path could change its meaning.
//! (`openat2` would do the same in one call, but the oldest kernel we run on has none.) The directory itself may be a
//! link: it is the operator's own word.

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::random;

/// Mode of a file that is new here; one that is replaced keeps its own.
const FILE_MODE: libc::mode_t = 0o600;
/// Mode of a folder that is made here: what an agent remembers is nobody else's business.
const DIR_MODE: u32 = 0o700;
/// Bits of a mode that a replaced file keeps.
const MODE_BITS: u32 = 0o777;

/// An open directory.
#[derive(Debug)]
pub struct Folder(OwnedFd);

/// A regular file, open for reading.
#[derive(Debug)]
pub struct Found {
    file: File,
    /// Its size when it was opened.
    pub bytes: u64,
    /// When it was written last, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// Names it has; more than one may lie anywhere on the disk.
    pub n_links: u64,
    mode: u32,
}

/// What lies in a folder: a file or a folder, never a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// `None` for a folder.
    pub bytes: Option<u64>,
    /// When it was written last, in nanoseconds since 1970.
    pub modified_ns: i128,
}

impl Folder {
    /// Opens `path`, which may be a link.
    ///
    /// # Errors
    /// It cannot be opened, or is no directory.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let file = File::open(path)?;
        if !file.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Folder(OwnedFd::from(file)))
    }

    /// Opens the folder that `parts` name below this one.
    ///
    /// # Errors
    /// As [`Folder::file`].
    pub fn folder(&self, parts: &[impl AsRef<OsStr>]) -> io::Result<Folder> {
        let mut at = Folder(self.0.try_clone()?);
        for part in parts {
            at = Folder(at.open_at(part.as_ref(), libc::O_RDONLY | libc::O_DIRECTORY)?);
        }
        Ok(at)
    }

    /// Opens the folder `name` in this one, made when it is not there.
    ///
    /// # Errors
    /// As [`Folder::file`], and when it cannot be made.
    pub fn make_folder(&self, name: &str) -> io::Result<Folder> {
        let c_name = c_name(name.as_ref())?;
        // SAFETY: `c_name` is a NUL-terminated string that outlives the call, and the directory is open; `mkdirat` keeps
        // neither.
        let status = unsafe { libc::mkdirat(self.0.as_raw_fd(), c_name.as_ptr(), DIR_MODE as libc::mode_t) };
        match if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) } {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.folder(&[name]),
        }
    }

    /// Opens the regular file that `parts` name below this folder.
    ///
    /// # Errors
    /// `NotFound` for what is not there and for what is no regular file; [`is_link`] tells a link on the way.
    pub fn file(&self, parts: &[impl AsRef<OsStr>]) -> io::Result<Found> {
        let (name, folders) = parts.split_last().ok_or(io::ErrorKind::NotFound)?;
        let folder = self.folder(folders)?;
        // Not blocking: opening a pipe that nobody writes to must not hold up the worker.
        let file = File::from(folder.open_at(name.as_ref(), libc::O_RDONLY | libc::O_NONBLOCK)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Found {
            file,
            bytes: metadata.len(),
            modified_ns: modified_ns(&metadata),
            n_links: metadata.nlink(),
            mode: metadata.mode(),
        })
    }

    /// What lies in this folder, in no order; other things than files and folders are left out. Looks at no more than
    /// `n_max` names.
    ///
    /// # Errors
    /// It cannot be read; the system tells no more of open files when `/proc` is not there.
    pub fn entries(&self, n_max: usize) -> io::Result<Vec<Entry>> {
        // This name of an open descriptor is the descriptor: no path is walked again.
        let listed = fs::read_dir(format!("/proc/self/fd/{}", self.0.as_raw_fd()))?;
        let mut entries = Vec::new();
        for entry in listed.take(n_max) {
            let entry = entry?;
            // Of the name itself, so that a link stays a link and is left out.
            let Ok(metadata) = entry.metadata() else { continue };
            let Ok(name) = entry.file_name().into_string() else { continue };
            let bytes = match (metadata.is_file(), metadata.is_dir()) {
                (true, _) => Some(metadata.len()),
                (_, true) => None,
                _ => continue,
            };
            entries.push(Entry { name, bytes, modified_ns: modified_ns(&metadata) });
        }
        Ok(entries)
    }

    /// Replaces the file `name` as a whole or not at all: a temporary file beside it, synced, renamed over it.
    ///
    /// # Errors
    /// The old file is untouched then.
    pub fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mode = self.file(&[name]).ok().map(|found| found.mode & MODE_BITS);
        let temporary = format!(".{name}.{}", random::uuid());
        let created = self.open_at(temporary.as_ref(), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)?;
        let mut file = File::from(created);
        let written = file.write_all(content).and_then(|()| {
            if let Some(mode) = mode {
                file.set_permissions(fs::Permissions::from_mode(mode))?;
            }
            file.sync_all()?;
            self.rename(&temporary, name)
        });
        if let Err(error) = written {
            // Best effort: the error that matters is already in hand.
            let _ = self.remove(&temporary);
            return Err(error);
        }
        File::from(self.0.try_clone()?).sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (c_name(from.as_ref())?, c_name(to.as_ref())?);
        let at = self.0.as_raw_fd();
        // SAFETY: both names are NUL-terminated strings that outlive the call, and `at` is an open directory;
        // `renameat` keeps none of them.
        let status = unsafe { libc::renameat(at, from.as_ptr(), at, to.as_ptr()) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let name = c_name(name.as_ref())?;
        // SAFETY: `name` is a NUL-terminated string that outlives the call, and the directory is open; `unlinkat`
        // keeps neither.
        let status = unsafe { libc::unlinkat(self.0.as_raw_fd(), name.as_ptr(), 0) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Opens `name`, one part of a path, without following a link.
    fn open_at(&self, name: &OsStr, flags: libc::c_int) -> io::Result<OwnedFd> {
        let name = c_name(name)?;
        let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: `name` is a NUL-terminated string that outlives the call, and the directory is open; `openat` keeps
        // neither.
        let fd = unsafe { libc::openat(self.0.as_raw_fd(), name.as_ptr(), flags, FILE_MODE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just made this descriptor, so nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

impl Found {
    /// Reads what the file begins with.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn head(self, bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.file.take(bytes_max).read_to_end(&mut content)?;
        Ok(content)
    }

    /// Reads the whole file.
    ///
    /// # Errors
    /// `FileTooLarge` over `bytes_max`, also when it grew after it was opened.
    pub fn read(self, bytes_max: u64) -> io::Result<Vec<u8>> {
        if self.bytes > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut content = Vec::with_capacity(usize::try_from(self.bytes).unwrap_or(0));
        self.file.take(bytes_max + 1).read_to_end(&mut content)?;
        if content.len() as u64 > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(content)
    }
}

/// Makes a folder with what stands above it, for the owner only.
///
/// # Errors
/// It cannot be made.
pub fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)
}

/// Moves what is at `path`, itself and not what it links to, into `folder` under `name`; `false` when nothing is there.
///
/// # Errors
/// It cannot be moved; `CrossesDevices` where only copying would do.
pub fn move_into(path: &Path, folder: &Path, name: &str) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    make(folder)?;
    fs::rename(path, folder.join(name))?;
    Ok(true)
}

/// Whether a file was not opened because it is a link, or something else that must not be followed.
pub fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ELOOP)
}

/// One part of a path: neither a path of its own nor a way up.
fn c_name(name: &OsStr) -> io::Result<CString> {
    let name = name.as_bytes();
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(io::ErrorKind::NotFound.into());
    }
    CString::new(name).map_err(|_| io::ErrorKind::NotFound.into())
}

fn modified_ns(metadata: &fs::Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::runtime::threads;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::write(dir.path().join("in/a.txt"), "inside").unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        (dir, folder)
    }

    #[test]
    fn no_part_leads_out() {
        let (dir, folder) = folder();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        let inside = folder.folder(&["in"]).unwrap();
        for parts in [vec![".."], vec!["..", "secret"], vec!["../secret"], vec!["/etc/passwd"], vec![""], vec!["a\0b"]]
        {
            assert_eq!(inside.file(&parts).unwrap_err().kind(), io::ErrorKind::NotFound, "{parts:?}");
        }
        symlink(dir.path().join("secret"), dir.path().join("in/link")).unwrap();
        symlink(dir.path(), dir.path().join("in/up")).unwrap();
        assert!(is_link(&inside.file(&["link"]).unwrap_err()));
        assert!(inside.file(&["up", "secret"]).is_err());
        let names: Vec<String> = inside.entries(10).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a.txt"], "links are not listed");
        assert_eq!(folder.entries(1).unwrap().len(), 1, "no more names than asked for are looked at");
    }

    #[test]
    fn what_is_no_regular_file_is_not_there() {
        let (dir, folder) = folder();
        let pipe = CString::new(dir.path().join("pipe").to_str().unwrap()).unwrap();
        // SAFETY: the path is a NUL-terminated string that outlives the call.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        for name in ["pipe", "in"] {
            assert_eq!(folder.file(&[name]).unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
        }
    }

    #[test]
    fn a_file_of_the_limit_is_read_and_a_larger_one_is_not() {
        let (dir, folder) = folder();
        fs::write(dir.path().join("at"), [b'x'; 10]).unwrap();
        assert_eq!(folder.file(&["at"]).unwrap().read(10).unwrap().len(), 10);
        let over = folder.file(&["at"]).unwrap().read(9).unwrap_err();
        assert_eq!(over.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(folder.file(&["at"]).unwrap().head(3).unwrap(), b"xxx");
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_leaves_nothing_beside_it() {
        let (dir, folder) = folder();
        let path = dir.path().join("in/a.txt");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let inside = folder.folder(&["in"]).unwrap();
        inside.replace("a.txt", b"new").unwrap();
        inside.replace("b.txt", b"made").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & MODE_BITS, 0o640);
        assert_eq!(fs::metadata(dir.path().join("in/b.txt")).unwrap().mode() & MODE_BITS, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("in")).unwrap().count(), 2);
        assert!(inside.replace("../a.txt", b"out").is_err());
    }

    #[test]
    fn what_is_moved_is_the_thing_itself() {
        let (dir, _) = folder();
        let trash = dir.path().join("trash");
        symlink(dir.path().join("in"), dir.path().join("link")).unwrap();
        assert!(move_into(&dir.path().join("link"), &trash, "l").unwrap());
        assert!(dir.path().join("in/a.txt").exists());
        assert!(move_into(&dir.path().join("in"), &trash, "i").unwrap());
        assert_eq!(fs::read_to_string(trash.join("i/a.txt")).unwrap(), "inside");
        assert_eq!(fs::metadata(&trash).unwrap().mode() & MODE_BITS, 0o700);
        assert!(!move_into(&dir.path().join("in"), &trash, "i2").unwrap(), "nothing is there any more");
    }

    #[test]
    fn a_link_is_replaced_and_not_written_through() {
        let (dir, folder) = folder();
        let victim = dir.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, dir.path().join("in/link")).unwrap();
        folder.folder(&["in"]).unwrap().replace("link", b"theirs").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(fs::read_to_string(dir.path().join("in/link")).unwrap(), "theirs");
    }

    #[test]
    fn a_name_that_is_swapped_all_the_time_never_leads_out() {
        const ROUNDS: usize = 5_000;
        let (dir, folder) = folder();
        fs::create_dir(dir.path().join("out")).unwrap();
        fs::write(dir.path().join("out/a.txt"), "outside").unwrap();
        fs::rename(dir.path().join("in"), dir.path().join("swap")).unwrap();
        let read = || folder.file(&["swap", "a.txt"]).and_then(|found| found.read(100));
        assert_eq!(read().unwrap(), b"inside");
        let (base, stop) = (dir.path().to_owned(), std::sync::Arc::new(AtomicBool::new(false)));
        let stopped = std::sync::Arc::clone(&stop);
        let swapper = threads::spawn("swapper", threads::STACK_BYTES, move || {
            let (real, link) = (base.join("swap"), base.join("link"));
            while !stopped.load(Ordering::Relaxed) {
                let _ = fs::remove_file(&link);
                symlink(base.join("out"), &link).unwrap();
                fs::rename(&real, base.join("kept")).unwrap();
                fs::rename(&link, &real).unwrap();
                fs::remove_file(&real).unwrap();
                fs::rename(base.join("kept"), &real).unwrap();
            }
        })
        .unwrap();
        for _ in 0..ROUNDS {
            // Gone, or a link, or the file itself: never the other one.
            if let Ok(content) = read() {
                assert_eq!(content, b"inside");
            }
        }
        stop.store(true, Ordering::Relaxed);
        swapper.join().unwrap();
    }
}
