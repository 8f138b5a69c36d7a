//! Opening what lies below an open directory: in one call where the kernel has one, part by part elsewhere.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::OnceLock;

/// How it is opened. What can be opened, and what is said of what cannot, is the same both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By `openat2(2)`, where the kernel itself refuses every link and every way up.
    Kernel,
    /// Each part by `openat(2)`, following no link: before Linux 5.6, and where a filter of system calls refuses the
    /// other.
    Parts,
}

impl Way {
    /// The best one here; asked of the kernel once.
    pub fn here() -> Way {
        static HERE: OnceLock<Way> = OnceLock::new();
        *HERE.get_or_init(|| match openat2(libc::AT_FDCWD, OsStr::new("."), libc::O_PATH | libc::O_CLOEXEC, 0) {
            Ok(_) => Way::Kernel,
            Err(_) => Way::Parts,
        })
    }

    /// Opens what `parts` name below `dir`, following no link. At least one part.
    pub(super) fn open(
        self,
        dir: BorrowedFd<'_>,
        parts: &[impl AsRef<OsStr>],
        flags: libc::c_int,
        mode: libc::mode_t,
    ) -> io::Result<OwnedFd> {
        let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let (name, folders) = parts.split_last().ok_or(io::ErrorKind::NotFound)?;
        match self {
            Way::Kernel if !folders.is_empty() => {
                for part in parts {
                    check(part.as_ref())?;
                }
                let path: Vec<&OsStr> = parts.iter().map(AsRef::as_ref).collect();
                let opened = openat2(dir.as_raw_fd(), &path.join(OsStr::new("/")), flags, mode);
                // The same word for a link on the way as the kernel has for one at the end.
                opened.map_err(|error| match error.raw_os_error() {
                    Some(libc::EXDEV) => io::Error::from_raw_os_error(libc::ELOOP),
                    _ => error,
                })
            }
            // Of one name `openat` says the same, and a filter may well know only that one.
            _ => {
                let mut at: Option<OwnedFd> = None;
                for part in folders {
                    let dir = at.as_ref().map_or(dir.as_raw_fd(), |fd| fd.as_raw_fd());
                    at = Some(open_part(dir, part.as_ref(), FOLDER | libc::O_NOFOLLOW | libc::O_CLOEXEC, 0)?);
                }
                let dir = at.as_ref().map_or(dir.as_raw_fd(), |fd| fd.as_raw_fd());
                open_part(dir, name.as_ref(), flags, mode)
            }
        }
    }
}

/// A folder on the way.
const FOLDER: libc::c_int = libc::O_PATH | libc::O_DIRECTORY;

/// One part of a path: neither a path of its own nor a way up.
pub(super) fn check(name: &OsStr) -> io::Result<()> {
    let name = name.as_bytes();
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(())
}

/// The same for a system call.
pub(super) fn c_name(name: &OsStr) -> io::Result<CString> {
    check(name)?;
    CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::NotFound.into())
}

fn open_part(dir: libc::c_int, name: &OsStr, flags: libc::c_int, mode: libc::mode_t) -> io::Result<OwnedFd> {
    let name = c_name(name)?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call, and the directory is open; `openat` keeps
    // neither.
    let fd = unsafe { libc::openat(dir, name.as_ptr(), flags, mode) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        // A link where a folder was wanted: the kernel says first that it is no folder.
        let is_link = error.raw_os_error() == Some(libc::ENOTDIR) && is_link_at(dir, &name);
        return Err(if is_link { io::Error::from_raw_os_error(libc::ELOOP) } else { error });
    }
    // SAFETY: the call has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn is_link_at(dir: libc::c_int, name: &CString) -> bool {
    let mut target = [0_u8; 1];
    // SAFETY: `name` is NUL-terminated, `target` has room for as many bytes as are said, and both outlive the call.
    let length = unsafe { libc::readlinkat(dir, name.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    length >= 0
}

fn openat2(dir: libc::c_int, path: &OsStr, flags: libc::c_int, mode: libc::mode_t) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_bytes()).map_err(|_| io::ErrorKind::NotFound)?;
    // SAFETY: all of `open_how` are integers, for which zero is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from(flags.cast_unsigned());
    how.mode = if flags & libc::O_CREAT == 0 { 0 } else { u64::from(mode) };
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_SYMLINKS;
    // SAFETY: `path` is NUL-terminated, `how` is as large as is said, both outlive the call, and the kernel keeps
    // neither.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), &raw const how, std::mem::size_of::<libc::open_how>())
    };
    let fd = libc::c_int::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
