//! Finds what commands left running outside of their process group.
//!
//! A program may leave its group (`setsid`), and what it started then outlives the group's end. Every child carries a
//! mark in its environment, which what it starts inherits. Who takes it out on purpose is not found: that is what a
//! sandbox with a process namespace is for.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use crate::runtime::digest::sha256;
use crate::runtime::random::hex;

/// Name of the variable that holds the mark.
pub const MARK: &str = "OPENCLAW_RS_EXEC";
/// Bytes of a digest that tell one gateway's commands from another's.
const MARK_BYTES: usize = 8;
/// Bytes of an environment that are searched for the mark.
const ENVIRON_BYTES_MAX: u64 = 256 * 1024;

/// What the marks of a gateway's commands begin with: one directory has one gateway, before and after a restart.
pub fn mark(state_dir: &Path) -> String {
    hex(&sha256(state_dir.as_os_str().as_encoded_bytes())[..MARK_BYTES])
}

/// Kills every process whose mark begins with `mark`, but not this one; says how many.
pub fn sweep(mark: &str) -> usize {
    let wanted = format!("{MARK}={mark}").into_bytes();
    let Ok(listed) = fs::read_dir("/proc") else { return 0 };
    let pids = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<libc::pid_t>().ok());
    let own = std::process::id();
    pids.filter(|pid| u32::try_from(*pid) != Ok(own)).filter(|pid| kill_marked(*pid, &wanted)).count()
}

fn kill_marked(pid: libc::pid_t, wanted: &[u8]) -> bool {
    // Opened before it is looked at: what is killed is what was looked at, whoever has its number later.
    let handle = open(pid);
    let mut environ = Vec::new();
    let read = File::open(format!("/proc/{pid}/environ")).map(|file| file.take(ENVIRON_BYTES_MAX));
    if read.and_then(|mut file| file.read_to_end(&mut environ)).is_err() {
        return false;
    }
    if !environ.split(|byte| *byte == 0).any(|variable| variable.starts_with(wanted)) {
        return false;
    }
    match handle {
        Some(handle) => signal(&handle, libc::SIGKILL),
        // SAFETY: `kill` takes two numbers and touches no memory.
        None => unsafe { libc::kill(pid, libc::SIGKILL) == 0 },
    }
}

/// A handle that stays with this process, whoever has its number later; `None` where the kernel has none (before 5.3).
pub fn open(pid: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: `pidfd_open` takes two numbers and touches no memory; its descriptor is close-on-exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the call has just made this descriptor, so nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn signal(handle: &OwnedFd, signal: libc::c_int) -> bool {
    // SAFETY: `pidfd_send_signal` takes a descriptor, a number and no further facts about the signal.
    let status = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    status == 0
}
