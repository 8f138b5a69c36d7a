//! Landlock by its three system calls: what a process may do with which files, kept by the kernel for it and all it starts.
//!
//! Own calls instead of the `landlock` crate: the three calls and two structures below are all that is used of it, the
//! crate would bring four more, and its rules cannot be added between `fork` and `exec` without allocating.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::Network;

/// Rights over files, `LANDLOCK_ACCESS_FS_*` of linux/landlock.h.
const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
/// How many of them each version knows, from the first one on.
const N_RIGHTS_BY_ABI: [u32; 5] = [13, 14, 15, 15, 16];

/// `LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP`, from version 4.
const TCP: u64 = 3;
/// First version that knows TCP.
const ABI_TCP: u32 = 4;
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL`, from version 6.
const SCOPES: u64 = 3;
/// First version that keeps signals and abstract sockets in.
pub(super) const ABI_SCOPES: u32 = 6;

const CREATE_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

#[repr(C)]
struct RulesetAttr {
    files: u64,
    net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneathAttr {
    allowed: u64,
    parent: RawFd,
}

/// What may be done below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Read, list, run.
    Read,
    /// All that, change, make and remove; no devices.
    Write,
    /// Read and write devices that are there.
    Devices,
    /// List what is in it.
    List,
}

/// The version this kernel has; 0: none.
pub(super) fn abi() -> u32 {
    // SAFETY: with this flag the call takes no memory and answers with a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0_usize, 0_usize, CREATE_VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// Rules for one command.
#[derive(Debug)]
pub(super) struct Ruleset {
    fd: OwnedFd,
    rights: u64,
}

impl Ruleset {
    /// Rules that allow nothing yet. TCP is left to a network namespace where there is one, because a loopback of its own
    /// is no way out.
    pub(super) fn new(abi: u32, network: Network, has_own_network: bool) -> io::Result<Ruleset> {
        let n_rights = N_RIGHTS_BY_ABI[(abi as usize).clamp(1, N_RIGHTS_BY_ABI.len()) - 1];
        let rights = (1 << n_rights) - 1;
        let closes_tcp = abi >= ABI_TCP && network == Network::Off && !has_own_network;
        let attr = RulesetAttr {
            files: rights,
            net: if closes_tcp { TCP } else { 0 },
            scoped: if abi >= ABI_SCOPES { SCOPES } else { 0 },
        };
        let attr_bytes = match abi {
            ABI_SCOPES.. => size_of::<RulesetAttr>(),
            ABI_TCP.. => 2 * size_of::<u64>(),
            _ => size_of::<u64>(),
        };
        // SAFETY: the structure lives for the call, and is at least as long as is said.
        let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, attr_bytes, 0_u32) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just made this descriptor (close-on-exec), so nobody else owns it.
        Ok(Ruleset { fd: unsafe { OwnedFd::from_raw_fd(fd as RawFd) }, rights })
    }

    /// Allows something below `path`. Makes system calls only, so it may stand between `fork` and `exec`.
    pub(super) fn allow(&self, path: &CStr, is_dir: bool, allowed: Allowed) -> io::Result<()> {
        let read = EXECUTE | READ_FILE | READ_DIR;
        let wanted = match allowed {
            Allowed::Read => read,
            Allowed::Write => self.rights & !(MAKE_CHAR | MAKE_BLOCK),
            Allowed::Devices => READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV,
            Allowed::List => READ_DIR,
        };
        // The kernel refuses a rule about a file that names rights over directories.
        let of_file = EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV;
        let wanted = self.rights & if is_dir { wanted } else { wanted & of_file };
        // SAFETY: the path ends in a zero byte and lives for the call.
        let parent = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
        if parent < 0 {
            return Err(io::Error::last_os_error());
        }
        let rule = PathBeneathAttr { allowed: wanted, parent };
        // SAFETY: the structure lives for the call, which keeps nothing of it.
        let added = unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, self.fd.as_raw_fd(), RULE_PATH_BENEATH, &raw const rule, 0_u32)
        };
        let ended = if added < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: `parent` was opened above and is used by nobody else.
        unsafe { libc::close(parent) };
        ended
    }

    /// Puts the calling thread under the rules, for good. Makes one system call only.
    pub(super) fn restrict_self(&self) -> io::Result<()> {
        // SAFETY: the call takes two numbers.
        let restricted = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.fd.as_raw_fd(), 0_u32) };
        if restricted < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
