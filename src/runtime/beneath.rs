//! Files below a directory that no path and no link leads out of.
//!
//! [`Folder`] opens, lists, makes and replaces what lies in an open directory; [`Staged`] is a file that has its content
//! and not yet its name. [`Way`] says how the kernel is asked.
//!
//! **Invariant:** every file is opened below an open directory, following no symbolic link, and only regular files are
//! read and replaced. There is no moment between a check and its use in which a path could change its meaning.
//! The directory itself may be a link: it is the operator's own word.

mod way;

use std::ffi::{CStr, OsStr};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use self::way::c_name;
use super::random;

pub use self::way::Way;

/// Mode of a file that is new here; one that is replaced keeps its own.
const FILE_MODE: libc::mode_t = 0o600;
/// Mode of a folder that is made here: what an agent remembers is nobody else's business.
const DIR_MODE: u32 = 0o700;
/// Bits of a mode that a replaced file keeps.
const MODE_BITS: u32 = 0o777;
/// What names of our own, which nobody asked for, begin with.
const OWN_PREFIX: &str = ".openclaw-";

/// An open directory.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    way: Way,
}

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
    /// All that is known of it.
    pub known: Known,
}

/// What a name stood for when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What it is.
    pub kind: Kind,
    /// Its size.
    pub bytes: u64,
    /// Names it has.
    pub n_links: u64,
    /// Which file of which disk.
    pub id: (u64, u64),
    mode: u32,
    owner: (u32, u32),
    modified_ns: i128,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A pipe, a socket, a device.
    Special,
}

/// Why a file is not replaced. Wrapped in an [`io::Error`]; [`refusal`] finds it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What is written to a link lands elsewhere.
    #[error("is a symbolic link")]
    Link,
    /// Its other names may lie anywhere.
    #[error("has more than one name on the disk (hard link)")]
    HardLink,
    /// It is a folder.
    #[error("is a folder")]
    Folder,
    /// It is a pipe, a socket or a device.
    #[error("is no regular file")]
    Special,
    /// Its mode says so.
    #[error("is write-protected")]
    Protected,
    /// The new one could not be given to its owner.
    #[error("belongs to another user or group")]
    Foreign,
    /// It is not the file that was looked at.
    #[error("was changed meanwhile")]
    Changed,
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, refusal)
    }
}

/// Why a file was not replaced, when it was one of ours.
pub fn refusal(error: &io::Error) -> Option<Refusal> {
    error.get_ref()?.downcast_ref().copied()
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
        Folder::open_by(path, Way::here())
    }

    /// The same; what lies below is opened `way`.
    ///
    /// # Errors
    /// Those of [`Folder::open`].
    pub fn open_by(path: &Path, way: Way) -> io::Result<Folder> {
        let file = File::open(path)?;
        if !file.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Folder { fd: OwnedFd::from(file), way })
    }

    /// This folder, once more.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn again(&self) -> io::Result<Folder> {
        Ok(Folder { fd: self.fd.try_clone()?, way: self.way })
    }

    /// Opens the folder that `parts` name below this one.
    ///
    /// # Errors
    /// As [`Folder::file`].
    pub fn folder(&self, parts: &[impl AsRef<OsStr>]) -> io::Result<Folder> {
        if parts.is_empty() {
            return self.again();
        }
        let fd = self.way.open(self.fd.as_fd(), parts, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        Ok(Folder { fd, way: self.way })
    }

    /// Opens the folder `name` in this one, made when it is not there.
    ///
    /// # Errors
    /// As [`Folder::file`], and when it cannot be made.
    pub fn make_folder(&self, name: &str) -> io::Result<Folder> {
        match self.add_folder(name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.folder(&[name]),
        }
    }

    /// Makes the folder `name` in this one.
    ///
    /// # Errors
    /// `AlreadyExists`, also when something else has that name.
    pub fn add_folder(&self, name: &str) -> io::Result<()> {
        let name = c_name(name.as_ref())?;
        // SAFETY: `name` is a NUL-terminated string that outlives the call, and the directory is open; `mkdirat` keeps
        // neither.
        done(unsafe { libc::mkdirat(self.fd.as_raw_fd(), name.as_ptr(), DIR_MODE as libc::mode_t) })
    }

    /// Opens the regular file that `parts` name below this folder.
    ///
    /// # Errors
    /// `NotFound` for what is not there and for what is no regular file; [`is_link`] tells a link on the way.
    pub fn file(&self, parts: &[impl AsRef<OsStr>]) -> io::Result<Found> {
        // Not blocking: opening a pipe that nobody writes to must not hold up the worker.
        let fd = self.way.open(self.fd.as_fd(), parts, libc::O_RDONLY | libc::O_NONBLOCK, 0)?;
        let file = File::from(fd);
        let known = Known::of(&file.metadata()?);
        if known.kind != Kind::File {
            return Err(io::ErrorKind::NotFound.into());
        }
        let Known { bytes, modified_ns, n_links, .. } = known;
        Ok(Found { file, bytes, modified_ns, n_links, known })
    }

    /// What `name` stands for in this folder, itself and not what it links to; `None`: nothing has it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn look(&self, name: &str) -> io::Result<Option<Known>> {
        let flags = libc::O_PATH;
        match self.way.open(self.fd.as_fd(), &[name], flags, 0) {
            Ok(fd) => Ok(Some(Known::of(&File::from(fd).metadata()?))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What lies in this folder, in no order; other things than files and folders are left out. Looks at no more than
    /// `n_max` names.
    ///
    /// # Errors
    /// It cannot be read; the system tells no more of open files when `/proc` is not there.
    pub fn entries(&self, n_max: usize) -> io::Result<Vec<Entry>> {
        // This name of an open descriptor is the descriptor: no path is walked again.
        let listed = fs::read_dir(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))?;
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

    /// Replaces the file `name` as a whole or not at all: a temporary file beside it, synced, renamed over it. What is
    /// new has [`FILE_MODE`]; what was there keeps owner, group and mode (and loses what else its file system noted of
    /// it).
    ///
    /// # Errors
    /// A [`Refusal`] for what must not be replaced; the old file is untouched then.
    pub fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let old = self.replaceable(name)?;
        self.stage(own_name("tmp"), content, old.as_ref())?.replace(name)?;
        self.sync()
    }

    /// What is known of the file that `name` may be replaced of; `None`: nothing is there.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub fn replaceable(&self, name: &str) -> io::Result<Option<Known>> {
        let Some(known) = self.look(name)? else { return Ok(None) };
        match known.kind {
            Kind::Link => return Err(Refusal::Link.into()),
            Kind::Folder => return Err(Refusal::Folder.into()),
            Kind::Special => return Err(Refusal::Special.into()),
            Kind::File if known.n_links > 1 => return Err(Refusal::HardLink.into()),
            Kind::File => {}
        }
        let c_name = c_name(name.as_ref())?;
        // Renaming asks the folder alone, so a file that its owner protected would not be asked.
        // SAFETY: `c_name` is a NUL-terminated string that outlives the call, and the directory is open; `faccessat`
        // keeps neither.
        match done(unsafe { libc::faccessat(self.fd.as_raw_fd(), c_name.as_ptr(), libc::W_OK, 0) }) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Refusal::Protected.into()),
            Err(error) => Err(error),
            Ok(()) => Ok(Some(known)),
        }
    }

    /// Writes a file that has no name of its own yet but [one of ours](own_name), synced, with owner and mode of `like`.
    ///
    /// # Errors
    /// It cannot be written; [`Refusal::Foreign`] when it cannot be given to whom `like` belongs. Nothing is left then.
    pub fn stage(&self, name: String, content: &[u8], like: Option<&Known>) -> io::Result<Staged<'_>> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let mut file = File::from(self.way.open(self.fd.as_fd(), &[name.as_str()], flags, FILE_MODE)?);
        // From here on its end is `Staged`'s.
        let staged = Staged { folder: self, name };
        let made = Known::of(&file.metadata()?);
        if let Some(like) = like {
            if like.owner != made.owner {
                let (user, group) = like.owner;
                let user = (user != made.owner.0).then_some(user);
                fchown(&file, user, Some(group)).map_err(|_| Refusal::Foreign)?;
            }
            file.set_permissions(fs::Permissions::from_mode(like.mode & MODE_BITS))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Gives the file `name` a second one, [`kept`](own_name): whatever happens to the first, [`Folder::give_back`]
    /// undoes it.
    ///
    /// # Errors
    /// The operating system's; nothing happened then.
    pub fn keep(&self, name: &str, kept: &str) -> io::Result<()> {
        let (from, to) = (c_name(name.as_ref())?, c_name(kept.as_ref())?);
        let at = self.fd.as_raw_fd();
        // SAFETY: both names are NUL-terminated strings that outlive the call, and `at` is an open directory; `linkat`
        // keeps none of them. Without flags it follows no link.
        match done(unsafe { libc::linkat(at, from.as_ptr(), at, to.as_ptr(), 0) }) {
            // Some file systems know no second name. The first is gone for a moment then.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP | libc::EMLINK)) => {
                self.rename(&from, &to)
            }
            other => other,
        }
    }

    /// Gives what was [kept](Folder::keep) its first name back.
    ///
    /// # Errors
    /// The operating system's.
    pub fn give_back(&self, kept: &str, name: &str) -> io::Result<()> {
        self.move_over(kept, name)?;
        // Of two names of one file renaming one onto the other does nothing.
        match self.remove(kept) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives a file another name, over whatever had it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn move_over(&self, from: &str, to: &str) -> io::Result<()> {
        self.rename(&c_name(from.as_ref())?, &c_name(to.as_ref())?)
    }

    /// Has the disk keep what was made, renamed and removed in this folder.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sync(&self) -> io::Result<()> {
        File::from(self.fd.try_clone()?).sync_all()
    }

    /// Removes the name of a file.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.unlink(name, 0)
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// The operating system's, also when something is in it.
    pub fn remove_folder(&self, name: &str) -> io::Result<()> {
        self.unlink(name, libc::AT_REMOVEDIR)
    }

    fn unlink(&self, name: &str, flags: libc::c_int) -> io::Result<()> {
        let name = c_name(name.as_ref())?;
        // SAFETY: `name` is a NUL-terminated string that outlives the call, and the directory is open; `unlinkat`
        // keeps neither.
        done(unsafe { libc::unlinkat(self.fd.as_raw_fd(), name.as_ptr(), flags) })
    }

    fn rename(&self, from: &CStr, to: &CStr) -> io::Result<()> {
        let at = self.fd.as_raw_fd();
        // SAFETY: both names are NUL-terminated strings that outlive the call, and `at` is an open directory;
        // `renameat` keeps none of them.
        done(unsafe { libc::renameat(at, from.as_ptr(), at, to.as_ptr()) })
    }
}

/// A file in its folder, with its content on disk and no name of its own yet. Dropped without one it is removed.
#[derive(Debug)]
pub struct Staged<'f> {
    folder: &'f Folder,
    /// What it is called for now; empty once it has its name.
    name: String,
}

impl Staged<'_> {
    /// Gives it its name, over whatever had it.
    ///
    /// # Errors
    /// The operating system's; what had the name still has it.
    pub fn replace(&mut self, name: &str) -> io::Result<()> {
        self.folder.move_over(&self.name, name)?;
        self.name.clear();
        Ok(())
    }

    /// Gives it its name, which nothing must have.
    ///
    /// # Errors
    /// `AlreadyExists`; the operating system's.
    pub fn create(&mut self, name: &str) -> io::Result<()> {
        let (from, to) = (c_name(self.name.as_ref())?, c_name(name.as_ref())?);
        let at = self.folder.fd.as_raw_fd();
        // SAFETY: both names are NUL-terminated strings that outlive the call, and `at` is an open directory;
        // `renameat2` keeps none of them.
        let status =
            unsafe { libc::syscall(libc::SYS_renameat2, at, from.as_ptr(), at, to.as_ptr(), libc::RENAME_NOREPLACE) };
        match done(libc::c_int::try_from(status).unwrap_or(-1)) {
            // Some file systems cannot do it in one step.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM)) => {
                if self.folder.look(name)?.is_some() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                self.folder.rename(&from, &to)?;
            }
            other => other?,
        }
        self.name.clear();
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // Best effort: the error that matters is already in somebody's hand.
            let _ = self.folder.remove(&self.name);
        }
    }
}

impl From<Folder> for OwnedFd {
    fn from(folder: Folder) -> OwnedFd {
        folder.fd
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

impl Known {
    fn of(metadata: &fs::Metadata) -> Known {
        let kind = metadata.file_type();
        let kind = match () {
            () if kind.is_file() => Kind::File,
            () if kind.is_dir() => Kind::Folder,
            () if kind.is_symlink() => Kind::Link,
            () => Kind::Special,
        };
        Known {
            kind,
            bytes: metadata.len(),
            n_links: metadata.nlink(),
            id: (metadata.dev(), metadata.ino()),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified_ns: modified_ns(metadata),
        }
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

/// A name that nobody has, for what is only on its way: `tmp` for what is new, `old` for what it replaces. Its length does
/// not depend on any other: what may be named may be replaced.
pub fn own_name(kind: &str) -> String {
    format!("{OWN_PREFIX}{}.{kind}", random::uuid())
}

fn done(status: libc::c_int) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn modified_ns(metadata: &fs::Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

#[cfg(test)]
mod tests;
