//! Files below a directory, opened so that no path and no link leads out of it.
//!
//! Every part of a path is opened in the directory before it and no symbolic link is followed, so there is no moment
//! between a check and its use in which a path could change its meaning. (`openat2` would do the same in one call, but
//! the oldest kernel we run on has none.) Only regular files are given out.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

/// A regular file, open.
#[derive(Debug)]
pub struct Found {
    /// At its beginning.
    pub file: File,
    /// Its size when it was opened.
    pub bytes: u64,
    /// When it last changed, in nanoseconds since 1970.
    pub modified_ns: i128,
}

/// Opens the file that `parts` name below `root`.
///
/// # Errors
/// The operating system's; `NotFound` also for what is no regular file.
pub fn open(root: &OwnedFd, parts: &[&OsStr]) -> io::Result<Found> {
    let (name, folders) = parts.split_last().ok_or(io::ErrorKind::NotFound)?;
    let mut folder = None;
    for part in folders {
        let at = folder.as_ref().unwrap_or(root).as_raw_fd();
        folder = Some(open_at(at, part, libc::O_DIRECTORY)?);
    }
    let at = folder.as_ref().unwrap_or(root).as_raw_fd();
    // Not blocking: opening a pipe that nobody writes to must not hold up the worker.
    let file = File::from(open_at(at, name, libc::O_NONBLOCK)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    Ok(Found { file, bytes: metadata.len(), modified_ns })
}

/// Opens `name`, one part of a path, in the directory `at`, for reading and without following a link.
fn open_at(at: RawFd, name: &OsStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    let name = CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::NotFound)?;
    let flags = flags | libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `name` is a NUL-terminated string that outlives the call, and `at` is an open directory that the caller
    // holds; `openat` keeps neither.
    let fd = unsafe { libc::openat(at, name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Found {
    /// The whole file.
    ///
    /// # Errors
    /// `FileTooLarge` over `bytes_max`, also when it grew after it was opened; the operating system's.
    pub fn read(self, bytes_max: u64) -> io::Result<Vec<u8>> {
        if self.bytes > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut body = Vec::with_capacity(usize::try_from(self.bytes).unwrap_or(0));
        self.file.take(bytes_max + 1).read_to_end(&mut body)?;
        if body.len() as u64 > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn look(root: &Path, parts: &[&str]) -> io::Result<Vec<u8>> {
        let parts: Vec<&OsStr> = parts.iter().map(OsStr::new).collect();
        open(&File::open(root)?.into(), &parts)?.read(8)
    }

    #[test]
    fn opens_regular_files_and_follows_no_link() {
        let temp = tempfile::TempDir::new().unwrap();
        let root = temp.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("sub/in"), "inside").unwrap();
        fs::write(temp.path().join("out"), "outside").unwrap();
        symlink("../out", root.join("link")).unwrap();
        symlink("sub", root.join("folder")).unwrap();
        assert_eq!(look(&root, &["sub", "in"]).unwrap(), b"inside");
        for parts in [&["link"][..], &["folder", "in"], &["sub"], &["none"], &[]] {
            assert!(look(&root, parts).is_err(), "{parts:?}");
        }
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let temp = tempfile::TempDir::new().unwrap();
        fs::write(temp.path().join("a"), "12345678").unwrap();
        fs::write(temp.path().join("b"), "123456789").unwrap();
        assert_eq!(look(temp.path(), &["a"]).unwrap().len(), 8);
        assert_eq!(look(temp.path(), &["b"]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
