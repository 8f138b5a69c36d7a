//! What this kernel offers for confining a command, as a table.
//!
//! Whether namespaces can be had is a matter of the kernel, of its settings, of the container the gateway runs in and of
//! who it runs as. So each is tried, in a child that does nothing else and ends.

use std::ffi::CStr;
use std::fs;
use std::sync::OnceLock;

use super::child::{self, Spaces};
use super::{Layer, Layers, landlock};

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// `major.minor`.
    pub release: (u32, u32),
    /// Version of Landlock; 0: none.
    pub landlock_abi: u32,
    /// Filters of system calls.
    pub seccomp_filter: bool,
    /// A user namespace can be made: by anyone.
    pub user: bool,
    /// Mount namespaces, with a root of one's own in them.
    pub mount: bool,
    /// Process namespaces.
    pub pid: bool,
    /// A `/proc` of one's own in one.
    pub proc: bool,
    /// Network namespaces.
    pub net: bool,
    /// Namespaces of shared memory.
    pub ipc: bool,
    /// Namespaces of the host's name.
    pub uts: bool,
    /// Processes as descriptors.
    pub pidfd: bool,
    /// Opening beneath a directory.
    pub openat2: bool,
    /// The second version of control groups.
    pub cgroup2: bool,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub name: &'static str,
    pub is_there: bool,
    /// What it is used for; shown also where it is missing.
    pub used_for: &'static str,
}

/// Since when `RLIMIT_NPROC` counts within a user namespace, and not everything a user runs.
const COUNTS_PER_NAMESPACE: (u32, u32) = (5, 14);
/// Since when `kernel.pid_max` belongs to a process namespace. Before, writing it would change the whole machine.
const PID_MAX_PER_NAMESPACE: (u32, u32) = (6, 14);
/// The kernel takes no smaller one, `RESERVED_PIDS` of kernel/pid.c.
const PID_MAX_MIN: u64 = 301;

impl Kernel {
    /// What there is, asked once in the life of the process.
    pub fn get() -> Kernel {
        static KERNEL: OnceLock<Kernel> = OnceLock::new();
        *KERNEL.get_or_init(Kernel::probe)
    }

    fn probe() -> Kernel {
        let user = child::can(Spaces::of(libc::CLONE_NEWUSER), child::Trial::Nothing);
        let can = |flags: libc::c_int, trial| {
            let flags = if user { flags | libc::CLONE_NEWUSER } else { flags };
            child::can(Spaces::of(flags), trial)
        };
        let mount = can(libc::CLONE_NEWNS, child::Trial::Root);
        let pid = can(libc::CLONE_NEWPID, child::Trial::Process);
        Kernel {
            release: release(),
            landlock_abi: landlock::abi(),
            // SAFETY: asks for a number; with a null address the kernel says that it would read a filter there.
            seccomp_filter: unsafe {
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, 0, 0, 0) < 0
                    && *libc::__errno_location() == libc::EFAULT
            },
            user,
            mount,
            pid,
            proc: mount && pid && can(libc::CLONE_NEWNS | libc::CLONE_NEWPID, child::Trial::Proc),
            net: can(libc::CLONE_NEWNET, child::Trial::Nothing),
            ipc: can(libc::CLONE_NEWIPC, child::Trial::Nothing),
            uts: can(libc::CLONE_NEWUTS, child::Trial::Nothing),
            pidfd: exists(libc::SYS_pidfd_open),
            openat2: exists(libc::SYS_openat2),
            cgroup2: fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok()
                || fs::metadata("/sys/fs/cgroup/unified/cgroup.controllers").is_ok(),
        }
    }

    /// The table.
    pub fn offers(&self) -> [Offer; 11] {
        let offer = |name, is_there, used_for| Offer { name, is_there, used_for };
        [
            offer(
                "landlock",
                self.landlock_abi > 0,
                "files, once more; from version 6 also signals and abstract sockets",
            ),
            offer("seccomp filter", self.seccomp_filter, "system calls; sockets where there is no network namespace"),
            offer("user namespace", self.user, "the other namespaces without being root"),
            offer("mount namespace", self.mount, "files"),
            offer("pid namespace", self.pid, "processes"),
            offer("own /proc", self.proc, "a /proc that shows only the command's processes"),
            offer("net namespace", self.net, "network"),
            offer("ipc and uts namespace", self.ipc && self.uts, "shared memory and the host's name"),
            offer("pidfd", self.pidfd, "nothing: a child is known by its parent"),
            offer("openat2", self.openat2, "the gateway's own file tools"),
            offer("cgroup v2", self.cgroup2, "nothing: limits are those of processes"),
        ]
    }

    /// The layers it can give.
    pub fn layers(&self) -> Layers {
        let has = |layer: &Layer| match layer {
            Layer::Files => self.mount,
            Layer::Processes => self.pid,
            Layer::Network => self.net,
            Layer::Landlock => self.landlock_abi > 0,
            Layer::Calls => self.seccomp_filter,
            Layer::Privileges | Layer::Limits | Layer::Descriptors => true,
        };
        Layer::ALL.iter().filter(|layer| has(layer)).fold(Layers::NONE, |layers, layer| layers.with(*layer))
    }

    /// The namespaces of some layers.
    pub(super) fn spaces(&self, layers: Layers) -> Spaces {
        let mut flags = 0;
        if layers.has(Layer::Files) {
            flags |= libc::CLONE_NEWNS;
        }
        if layers.has(Layer::Processes) {
            flags |= libc::CLONE_NEWPID;
            flags |= if self.ipc { libc::CLONE_NEWIPC } else { 0 };
            flags |= if self.uts { libc::CLONE_NEWUTS } else { 0 };
        }
        if layers.has(Layer::Network) {
            flags |= libc::CLONE_NEWNET;
        }
        if flags != 0 && self.user {
            flags |= libc::CLONE_NEWUSER;
        }
        Spaces::of(flags)
    }

    /// What `kernel.pid_max` is to be in the command's own namespace: the limit of processes that also binds root, whom
    /// `RLIMIT_NPROC` does not.
    pub(super) fn pid_max(&self, n_processes: u64) -> Option<u64> {
        (self.release >= PID_MAX_PER_NAMESPACE).then_some(n_processes.max(PID_MAX_MIN))
    }

    /// Whether a limit of processes holds: it does not for root where only `RLIMIT_NPROC` could.
    pub(super) fn limits_processes(&self) -> bool {
        // SAFETY: only answers with a number.
        let is_root = unsafe { libc::geteuid() } == 0;
        !is_root || self.mount && self.pid && self.proc && self.pid_max(0).is_some()
    }

    /// How many tasks count against a limit of processes that are none of the command's.
    pub(super) fn foreign_tasks(&self) -> u64 {
        if self.user && self.release >= COUNTS_PER_NAMESPACE {
            return 0;
        }
        // `0.10 0.05 0.01 2/345 6789`: the tasks of everyone are at least those of this user.
        let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        loads.split(['/', ' ']).nth(4).and_then(|tasks| tasks.parse().ok()).unwrap_or(0)
    }
}

/// `6.18.1-generic` as numbers.
fn release() -> (u32, u32) {
    // SAFETY: the struct is plain bytes, for which all zeros is a value.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the struct lives for the call, which fills it with texts that end in zero bytes.
    let release = unsafe {
        libc::uname(&raw mut names);
        CStr::from_ptr(names.release.as_ptr())
    };
    parse_release(&release.to_string_lossy())
}

fn parse_release(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether the kernel knows a system call: asked with arguments that it refuses.
fn exists(number: libc::c_long) -> bool {
    // SAFETY: neither call is given memory to touch; both refuse these numbers.
    let answer = unsafe { libc::syscall(number, -1, 0, 0, 0) };
    answer >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_two_numbers() {
        for (text, numbers) in
            [("6.18.44-fc", (6, 18)), ("5.4.0-216-generic", (5, 4)), ("6.14-rc1", (6, 14)), ("odd", (0, 0))]
        {
            assert_eq!(parse_release(text), numbers, "{text}");
        }
        assert!(release().0 >= 4);
    }

    #[test]
    fn the_machine_is_asked_without_leaving_a_child() {
        let kernel = Kernel::get();
        assert_eq!(kernel, Kernel::probe(), "the same again");
        assert!(kernel.seccomp_filter && kernel.landlock_abi > 0 || kernel.release < (5, 13));
        // SAFETY: asks for children of any kind that have ended, and touches no memory.
        let left = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WCLONE) };
        assert!(left <= 0, "{left} was left behind");
    }

    #[test]
    fn old_kernels_are_never_given_a_pid_max() {
        let kernel = Kernel { release: (6, 13), ..Kernel::get() };
        assert_eq!(kernel.pid_max(1000), None);
        let kernel = Kernel { release: (6, 14), ..kernel };
        assert_eq!((kernel.pid_max(1000), kernel.pid_max(1)), (Some(1000), Some(PID_MAX_MIN)));
        assert!(Kernel { release: (5, 13), ..kernel }.foreign_tasks() > 0);
    }
}
