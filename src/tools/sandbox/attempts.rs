//! The ways out that are tried, from inside.
//!
//! Each row of [`ATTEMPTS`] does what a hostile command would do, as harmlessly as it can be done: where success would
//! change the machine, the call is made with arguments that the kernel refuses only after it has asked for the right to
//! make it. A row says which layers stand in its way; with those switched off, and all others on, it must get out, which
//! is how the tests show that it can.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_long};
use serde::{Deserialize, Serialize};

use super::Layer::{self, Calls, Descriptors, Files, Landlock, Limits, Network, Privileges, Processes};

/// What is outside, as the attempts are told of it. They know everything but cannot reach it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stage {
    /// The directory of secrets, with [`Stage::SECRET`], [`Stage::PIPE`] and [`Stage::SOCKET`] in it.
    pub(super) outside: PathBuf,
    /// What the secrets say.
    pub(super) canary: String,
    /// The daemon, or whoever stands for it, and its session.
    pub(super) pid: i32,
    pub(super) session: i32,
    /// Where the canary lies in its memory.
    pub(super) address: usize,
    /// Where it listens on the loopback.
    pub(super) port: u16,
    /// A local socket without a path.
    pub(super) abstract_name: String,
    /// A descriptor that was left open, of the secret file.
    pub(super) descriptor: RawFd,
    /// Shared memory, by key and by name.
    pub(super) memory_key: i32,
    pub(super) memory_file: PathBuf,
    /// A program in the workspace that would run as somebody else.
    pub(super) forced: Option<PathBuf>,
    /// The limits that are tried.
    /// `None`: nothing on this machine limits them for root.
    pub(super) processes: Option<u64>,
    pub(super) memory_bytes: u64,
    pub(super) file_bytes: u64,
    pub(super) open_files: u64,
}

impl Stage {
    pub(super) const SECRET: &str = "secret";
    pub(super) const VICTIM: &str = "victim";
    pub(super) const PIPE: &str = "pipe";
    pub(super) const SOCKET: &str = "socket";

    fn path(&self, name: &str) -> PathBuf {
        self.outside.join(name)
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Got {
    /// Nowhere, and why.
    Held(String),
    /// Out.
    Out(String),
    /// Nothing to try on this machine.
    Nothing(&'static str),
}

/// A way out.
pub(super) struct Attempt {
    pub(super) name: &'static str,
    /// What it does, in a few words.
    pub(super) about: &'static str,
    /// What stands in its way.
    pub(super) held_by: &'static [Layer],
    /// Outside of a sandbox only root could do it.
    pub(super) needs_root: bool,
    pub(super) make: fn(&Stage) -> Got,
}

/// Rights over the machine: without any of these a root user has them.
const RIGHTS: &[Layer] = &[Calls, Privileges, Files, Processes, Network];
/// The same where Landlock has a word too.
const MOUNTS: &[Layer] = &[Calls, Privileges, Files, Processes, Network, Landlock];
/// Files by their paths.
const PATHS: &[Layer] = &[Files, Landlock];
/// Files of the system that only root could change, in a view that shows them read-only.
const SYSTEM: &[Layer] = &[Files, Landlock];
/// Looking into a process, which it forbids too to be in another user namespace or to have fewer capabilities.
const PROCESS: &[Layer] = &[Files, Processes, Network, Landlock, Privileges];
/// The same by system calls that are filtered.
const PROCESS_CALLS: &[Layer] = &[Files, Processes, Network, Landlock, Privileges, Calls];

macro_rules! attempts {
    ($($name:literal $about:literal $held:expr, $root:literal, $make:expr;)*) => {
        /// Every way out, in the order they are tried.
        pub(super) static ATTEMPTS: &[Attempt] =
            &[$(Attempt { name: $name, about: $about, held_by: $held, needs_root: $root, make: $make }),*];
    };
}

attempts! {
    // name                  what                                        held by        root   how
    "read-state"             "read a file of the state directory"        PATHS, false,         |s| reads(s, &s.path(Stage::SECRET));
    "list-state"             "list the state directory"                  PATHS, false,         |s| result(fs::read_dir(&s.outside));
    "read-by-climbing"       "read it by a path that climbs"             PATHS, false,         |s| reads(s, &climbing(&s.path(Stage::SECRET)));
    "read-by-symlink"        "read it through a link in the workspace"   PATHS, false,         by_symlink;
    "read-by-hard-link"      "read it through a hard link"               PATHS, false,         by_hard_link;
    "read-password-hashes"   "read /etc/shadow"                          PATHS, true,          |_| result(File::open("/etc/shadow"));
    "write-outside"          "change a file outside"                     PATHS, false,         |s| result(OpenOptions::new().append(true).open(s.path(Stage::VICTIM)));
    "make-outside"           "make a file outside"                       PATHS, false,         make_outside;
    "rename-outside"         "move a file outside"                       PATHS, false,         rename_outside;
    "chmod-outside"          "change who may read a file outside"        &[Files, Calls], false, |s| result(fs::set_permissions(s.path(Stage::VICTIM), std::os::unix::fs::PermissionsExt::from_mode(0o600)));
    "write-program"          "put a program among the system's"          SYSTEM, true,         |_| writes_new(Path::new("/usr/bin/.openclaw-rs-attempt"));
    "write-passwords"        "open /etc/passwd for writing"              SYSTEM, true,         |_| opens_for_writing("/etc/passwd");
    "pipe-outside"           "write into a named pipe outside"           PATHS, false,         pipe_outside;
    "file-handle"            "open a file by its handle"                 MOUNTS, true,         file_handle;
    "process-root"           "go through /proc/PID/root"                 PROCESS, false,       |s| reads(s, &below(&format!("/proc/{}/root", s.pid), &s.path(Stage::SECRET)));
    "first-process-root"     "go through /proc/1/root"                   PROCESS, true,        |s| reads(s, &below("/proc/1/root", &s.path(Stage::SECRET)));
    "process-descriptors"    "go through /proc/PID/fd"                   PROCESS, false,       |s| reads(s, &PathBuf::from(format!("/proc/{}/fd/{}", s.pid, s.descriptor)));
    "process-environment"    "read the daemon's environment"             PROCESS, false,       |s| of_daemon(s, fs::read(format!("/proc/{}/environ", s.pid)));
    "process-memory"         "read the daemon's memory by /proc"         PROCESS, false,       process_memory;
    "process-memory-call"    "read it by process_vm_readv"               PROCESS_CALLS, false, process_memory_call;
    "trace"                  "trace the daemon"                          PROCESS_CALLS, false, |s| gate(sys(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), s.pid.into(), 0, 0, 0]));
    "take-descriptor"        "take a descriptor of the daemon's"         PROCESS_CALLS, false, take_descriptor;
    "signal"                 "signal the daemon"                         &[Processes, Landlock], false, signal;
    "left-descriptor"        "read a descriptor that was left open"      &[Descriptors], false, left_descriptor;
    "chroot"                 "change the root"                           RIGHTS, true,         |_| child_may(|| sys(libc::SYS_chroot, [address(c"."), 0, 0, 0, 0]));
    "mount"                  "mount something"                           MOUNTS, true,         |_| gate(sys(libc::SYS_mount, [0, address(c"."), 0, libc::MS_BIND as c_long, 0]));
    "unmount"                "unmount something"                         MOUNTS, true,         |_| gate(sys(libc::SYS_umount2, [address(c"."), 0, 0, 0, 0]));
    "new-mount-calls"        "open a tree of mounts"                     MOUNTS, true,         |_| gate(sys(libc::SYS_open_tree, [libc::AT_FDCWD.into(), address(c"."), 1, 0, 0]));
    "turn-root"              "turn the root"                             MOUNTS, true,         |_| gate(sys(libc::SYS_pivot_root, [address(c"/nonexistent"), address(c"/nonexistent"), 0, 0, 0]));
    "user-namespace"         "make a user namespace"                     &[Calls], false,      |_| unshares(libc::CLONE_NEWUSER);
    "mount-namespace"        "make a user and a mount namespace"         &[Calls], false,      |_| unshares(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
    "clone-namespace"        "make them by clone"                        &[Calls], false,      clone_namespace;
    "clone3"                 "call clone3, whose flags no filter sees"   &[Calls], false,      |_| gate(sys(libc::SYS_clone3, [0, 0, 0, 0, 0]));
    "enter-namespace"        "enter the daemon's namespace"              RIGHTS, true,         enter_namespace;
    "loopback"               "connect to the daemon's port"              &[Network, Calls, Landlock], false, loopback;
    "internet"               "have a way into the internet"              &[Network, Calls], false, internet;
    "socket-path"            "connect to a socket by its path"           &[Files, Calls], false, |s| result(UnixStream::connect(s.path(Stage::SOCKET)));
    "socket-abstract"        "connect to a socket without a path"        &[Network, Landlock], false, socket_abstract;
    "socket-kernel-events"   "listen to the kernel's events"             &[Calls], false,      |_| opens_socket(libc::AF_NETLINK, libc::SOCK_DGRAM, 15);
    "socket-raw"             "make raw packets"                          RIGHTS, true,         |_| opens_socket(libc::AF_INET, libc::SOCK_RAW, 1);
    "socket-packet"          "read the wire"                             RIGHTS, true,         |_| opens_socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
    "socket-machine"         "talk to the machine's host"                &[Calls], false,      |_| opens_socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0);
    "socket-crypto"          "use the kernel's ciphers"                  &[Calls], false,      |_| opens_socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0);
    "type-into-terminal"     "type into a terminal"                      &[Calls, Privileges, Files, Processes, Network], true, |_| terminal(0x5412);
    "type-with-high-bits"    "the same with bits that nobody reads"      &[Calls, Privileges, Files, Processes, Network], true, |_| terminal(0x5412 | 1 << 40);
    "paste-into-console"     "paste into a console"                      &[Calls], false,      |_| terminal(0x541C);
    "keys"                   "read the user's keys"                      &[Calls], false,      |_| gate(sys(libc::SYS_keyctl, [0, -4, 1, 0, 0]));
    "add-key"                "leave a key behind"                        &[Calls], false,      |_| gate(sys(libc::SYS_add_key, [address(c"user"), address(c"openclaw-rs"), address(c"x"), 1, -2]));
    "bpf"                    "load a program into the kernel"            RIGHTS, true,         |_| gate(sys(libc::SYS_bpf, [-1, 0, 0, 0, 0]));
    "performance-counters"   "watch the processor"                       &[Calls], false,      |_| gate(sys(libc::SYS_perf_event_open, [0, 0, -1, -1, 0]));
    "page-faults"            "stop the kernel at a page"                 &[Calls], false,      |_| gate(sys(libc::SYS_userfaultfd, [1, 0, 0, 0, 0]));
    "io-uring"               "make calls that no filter sees"            &[Calls], false,      |_| gate(sys(libc::SYS_io_uring_setup, [0, 0, 0, 0, 0]));
    "personality"            "make memory predictable"                   &[Calls], false,      |_| gate(sys(libc::SYS_personality, [0x40_0000 | 0x4_0000, 0, 0, 0, 0]));
    "other-architecture"     "make i386 calls"                           &[Calls], false,      other_architecture;
    "unnamed-program"        "run a program from memory that reads it"   PATHS, false,         unnamed_program;
    "forced-program"         "run a program as somebody else"            &[Privileges, Landlock, Calls, Files, Processes, Network], true, forced_program;
    "capabilities"           "give a file to somebody else"              RIGHTS, true,         |_| give_away();
    "groups"                 "join a group"                              &[Privileges, Files, Processes, Network], true, |_| gate(sys(libc::SYS_setgroups, [1, ptr::from_ref(&[5_u32]).addr() as c_long, 0, 0, 0]));
    "core-dump"              "leave a core behind"                       &[Limits], false,     |_| core_dump();
    "core-program"           "name a program for cores"                  SYSTEM, true,         |_| opens_for_writing("/proc/sys/kernel/core_pattern");
    "kernel-settings"        "change a setting of the kernel"            SYSTEM, true,         |_| opens_for_writing("/proc/sys/kernel/hostname");
    "kernel-keys"            "press a key of the kernel's"               SYSTEM, true,         |_| opens_for_writing("/proc/sysrq-trigger");
    "system-files"           "change a file of sysfs"                    SYSTEM, true,         |_| opens_for_writing("/sys/kernel/mm/transparent_hugepage/enabled");
    "control-group"          "leave the control group"                   SYSTEM, true,         |_| control_group();
    "kernel-log"             "read the kernel's log"                     RIGHTS, true,         |_| gate(sys(libc::SYS_syslog, [10, 0, 0, 0, 0]));
    "kernel-log-device"      "write into the kernel's log"               PATHS, true,          |_| opens_for_writing("/dev/kmsg");
    "disk"                   "read a disk"                               PATHS, true,          |_| disk();
    "make-device"            "make a device"                             &[Privileges, Files, Processes, Network, Landlock], true, |_| make_device();
    "shared-memory-file"     "read shared memory by its name"            PATHS, false,         |s| reads(s, &s.memory_file);
    "shared-memory"          "attach shared memory by its key"           &[Processes, Calls], false, |s| result(sys(libc::SYS_shmget, [s.memory_key.into(), 0, 0, 0, 0]));
    "set-clock"              "set the clock"                             RIGHTS, true,         |_| set_clock();
    "host-name"              "name the host"                             RIGHTS, true,         |_| gate(sys(libc::SYS_sethostname, [0, -1, 0, 0, 0]));
    "reboot"                 "restart the machine"                       RIGHTS, true,         |_| gate(sys(libc::SYS_reboot, [1, 1, 1, 0, 0]));
    "swap"                   "swap memory out"                           RIGHTS, true,         |_| gate(sys(libc::SYS_swapon, [address(c"/nonexistent"), 0, 0, 0, 0]));
    "kernel-module"          "load a module"                             RIGHTS, true,         |_| gate(sys(libc::SYS_init_module, [0, 0, 0, 0, 0]));
    "other-kernel"           "load another kernel"                       RIGHTS, true,         |_| gate(sys(libc::SYS_kexec_load, [0, 17, 0, 0, 0]));
    "accounting"             "account for processes"                     RIGHTS, true,         |_| gate(sys(libc::SYS_acct, [address(c"/nonexistent"), 0, 0, 0, 0]));
    "watch-files"            "watch every file"                          RIGHTS, true,         |_| gate(sys(libc::SYS_fanotify_init, [4, 0, 0, 0, 0]));
    "raise-limits"           "raise its own limits"                      &[Privileges, Files, Processes, Network], true, |_| raise_limits();
    "many-processes"         "start processes without end"               &[Limits], false,     many_processes;
    "much-memory"            "take memory without end"                   &[Limits], false,     much_memory;
    "long-file"              "write a file without end"                  &[Limits], false,     long_file;
    "many-files"             "open files without end"                    &[Limits], false,     many_files;
}

// Judging.

/// Whether something that should not succeed did.
fn result<T>(result: io::Result<T>) -> Got {
    match result {
        Ok(_) => Got::Out("it worked".to_owned()),
        Err(error) => Got::Held(error.to_string()),
    }
}

/// Whether a call got past the question whether it may be made at all: any other complaint comes after that.
fn gate(answer: io::Result<c_long>) -> Got {
    match answer {
        Ok(_) => Got::Out("it worked".to_owned()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::ESRCH | libc::EAFNOSUPPORT) => {
                Got::Held(error.to_string())
            }
            _ => Got::Out(format!("it was let through: {error}")),
        },
    }
}

/// Whether the canary can be read.
fn reads(stage: &Stage, path: &Path) -> Got {
    told(stage, fs::read(path))
}

fn told(stage: &Stage, read: io::Result<Vec<u8>>) -> Got {
    match read {
        Ok(bytes) if bytes.windows(stage.canary.len()).any(|window| window == stage.canary.as_bytes()) => {
            Got::Out("the secret was read".to_owned())
        }
        Ok(_) => Got::Held("something else lies there".to_owned()),
        Err(error) => Got::Held(error.to_string()),
    }
}

fn sys(number: c_long, [a, b, c, d, e]: [c_long; 5]) -> io::Result<c_long> {
    // SAFETY: every row passes numbers, or addresses of what lives for the call, or addresses that the kernel refuses.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn address(text: &'static std::ffi::CStr) -> c_long {
    text.as_ptr().addr() as c_long
}

/// Runs `body` in a child, whose exit status it is; `None` when a signal ended it.
fn in_child(body: impl FnOnce() -> i32) -> io::Result<Option<i32>> {
    // SAFETY: this process has one thread, so its child may do whatever it may.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        let code = body();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the pointer is to a variable of this stack.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    Ok(libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)))
}

// Files.

fn climbing(path: &Path) -> PathBuf {
    below(&"../".repeat(64), path)
}

fn below(root: &str, path: &Path) -> PathBuf {
    Path::new(root).join(path.strip_prefix("/").unwrap_or(path))
}

fn by_symlink(stage: &Stage) -> Got {
    let link = Path::new("attempt-link");
    let _ = symlink(stage.path(Stage::SECRET), link);
    let got = reads(stage, link);
    let _ = fs::remove_file(link);
    got
}

fn by_hard_link(stage: &Stage) -> Got {
    let link = Path::new("attempt-hard-link");
    if let Err(error) = fs::hard_link(stage.path(Stage::SECRET), link) {
        return Got::Held(error.to_string());
    }
    let got = reads(stage, link);
    let _ = fs::remove_file(link);
    got
}

fn writes_new(path: &Path) -> Got {
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    if made.is_ok() {
        let _ = fs::remove_file(path);
    }
    result(made)
}

fn make_outside(stage: &Stage) -> Got {
    writes_new(&stage.path("attempt-made"))
}

fn rename_outside(stage: &Stage) -> Got {
    let (own, there) = (Path::new("attempt-own"), stage.path("attempt-moved"));
    let _ = fs::write(own, "x");
    let moved = fs::rename(own, &there);
    let _ = fs::remove_file(own);
    let _ = fs::remove_file(there);
    result(moved)
}

fn opens_for_writing(path: &str) -> Got {
    result(OpenOptions::new().write(true).open(path))
}

fn pipe_outside(stage: &Stage) -> Got {
    let pipe = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(stage.path(Stage::PIPE));
    result(pipe.and_then(|mut pipe| pipe.write_all(b"x")))
}

/// `struct file_handle` with room for any file system's.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: c_int,
    data: [u8; 128],
}

fn file_handle(_: &Stage) -> Got {
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount: c_int = 0;
    let at = libc::AT_FDCWD.into();
    let named = sys(
        libc::SYS_name_to_handle_at,
        [at, address(c"."), (&raw mut handle).addr() as c_long, (&raw mut mount).addr() as c_long, 0],
    );
    if let Err(error) = &named
        && error.raw_os_error() == Some(libc::EOPNOTSUPP)
    {
        return Got::Nothing("the file system has no handles");
    }
    let opened = sys(libc::SYS_open_by_handle_at, [at, (&raw mut handle).addr() as c_long, 0, 0, 0]);
    gate(named.and(opened))
}

fn control_group() -> Got {
    let places =
        ["/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/pids/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs"];
    let opened = places.iter().map(|path| OpenOptions::new().write(true).open(path));
    opened.fold(Got::Held("there is none".to_owned()), |got, opened| match result(opened) {
        Got::Out(words) => Got::Out(words),
        held if !matches!(got, Got::Out(_)) => held,
        _ => got,
    })
}

fn disk() -> Got {
    let names = ["vda", "sda", "nvme0n1", "xvda", "mmcblk0"];
    match names.iter().map(|name| File::open(format!("/dev/{name}"))).find(Result::is_ok) {
        Some(_) => Got::Out("it worked".to_owned()),
        None => Got::Held("no disk can be opened".to_owned()),
    }
}

fn make_device() -> Got {
    let name = c"attempt-device";
    let memory = libc::makedev(1, 1) as c_long;
    let made =
        sys(libc::SYS_mknodat, [libc::AT_FDCWD.into(), address(name), (libc::S_IFCHR | 0o600).into(), memory, 0]);
    let _ = fs::remove_file("attempt-device");
    gate(made)
}

fn give_away() -> Got {
    let name = Path::new("attempt-gift");
    let _ = fs::write(name, "x");
    let given = std::os::unix::fs::chown(name, Some(12_345), None);
    let _ = fs::remove_file(name);
    result(given)
}

// Processes.

fn process_memory(stage: &Stage) -> Got {
    use std::os::unix::fs::FileExt as _;
    let read = File::open(format!("/proc/{}/mem", stage.pid)).and_then(|memory| {
        let mut bytes = vec![0; stage.canary.len()];
        memory.read_exact_at(&mut bytes, stage.address as u64)?;
        Ok(bytes)
    });
    told(stage, read)
}

fn process_memory_call(stage: &Stage) -> Got {
    let mut bytes = vec![0_u8; stage.canary.len()];
    let own = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let theirs = libc::iovec { iov_base: ptr::without_provenance_mut(stage.address), iov_len: bytes.len() };
    // SAFETY: the kernel writes into `bytes` at most; the other address is not ours and is only read there.
    let n = unsafe { libc::process_vm_readv(stage.pid, &raw const own, 1, &raw const theirs, 1, 0) };
    told(stage, if n < 0 { Err(io::Error::last_os_error()) } else { Ok(bytes) })
}

fn take_descriptor(stage: &Stage) -> Got {
    let opened = sys(libc::SYS_pidfd_open, [stage.pid.into(), 0, 0, 0, 0]);
    gate(opened.and_then(|process| sys(libc::SYS_pidfd_getfd, [process, 0, 0, 0, 0])))
}

fn signal(stage: &Stage) -> Got {
    of_daemon(stage, sys(libc::SYS_kill, [stage.pid.into(), 0, 0, 0, 0]))
}

/// What was done to the process with the daemon's number, which may be somebody else's inside: it is only the daemon if it
/// has the daemon's session.
fn of_daemon<T>(stage: &Stage, done: io::Result<T>) -> Got {
    match sys(libc::SYS_getsid, [stage.pid.into(), 0, 0, 0, 0]) {
        Ok(session) if session == c_long::from(stage.session) => result(done),
        _ => Got::Held("the daemon has no number here".to_owned()),
    }
}

fn left_descriptor(stage: &Stage) -> Got {
    // SAFETY: duplicating asks the kernel whether it is open.
    let copy = unsafe { libc::dup(stage.descriptor) };
    if copy < 0 {
        return Got::Held(io::Error::last_os_error().to_string());
    }
    // SAFETY: the call has just made it, so nobody else owns it.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(copy) });
    let mut bytes = Vec::new();
    let read = io::Seek::rewind(&mut file).and_then(|()| (&file).take(4096).read_to_end(&mut bytes));
    told(stage, read.map(|_| bytes))
}

fn unshares(flags: c_int) -> Got {
    child_may(|| sys(libc::SYS_unshare, [flags.into(), 0, 0, 0, 0]))
}

/// Whether a child can make a call that changes who makes it.
fn child_may(call: impl FnOnce() -> io::Result<c_long>) -> Got {
    match in_child(|| i32::from(call().is_err())) {
        Ok(Some(0)) => Got::Out("it worked".to_owned()),
        Ok(_) => Got::Held("refused".to_owned()),
        Err(error) => Got::Held(error.to_string()),
    }
}

fn clone_namespace(_: &Stage) -> Got {
    let made = sys(libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::SIGCHLD).into(), 0, 0, 0, 0]);
    if let Ok(0) = made {
        // SAFETY: this is the child; it ends at once.
        unsafe { libc::_exit(0) };
    }
    if let Ok(child) = made {
        // SAFETY: no status is wanted.
        unsafe { libc::waitpid(child as c_int, ptr::null_mut(), 0) };
    }
    gate(made)
}

fn enter_namespace(stage: &Stage) -> Got {
    let opened = File::open(format!("/proc/{}/ns/net", stage.pid)).or_else(|_| File::open("/proc/self/ns/net"));
    match opened {
        Ok(namespace) => gate(sys(libc::SYS_setns, [namespace.as_raw_fd().into(), 0, 0, 0, 0])),
        Err(error) => Got::Held(error.to_string()),
    }
}

// Sockets.

fn loopback(stage: &Stage) -> Got {
    let address = SocketAddr::from(([127, 0, 0, 1], stage.port));
    result(TcpStream::connect_timeout(&address, Duration::from_secs(1)))
}

fn internet(_: &Stage) -> Got {
    // 192.0.2.1 is nobody's (RFC 5737), and connecting a datagram socket sends nothing: it asks for a route.
    let route = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9"));
    result(route)
}

fn socket_abstract(stage: &Stage) -> Got {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&stage.abstract_name);
    result(address.and_then(|address| UnixStream::connect_addr(&address)))
}

fn opens_socket(family: c_int, kind: c_int, protocol: c_int) -> Got {
    let opened = sys(libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0, 0]);
    match &opened {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Got::Held(error.to_string()),
        _ => gate(opened),
    }
}

// Terminals, machines, programs.

fn terminal(request: u64) -> Got {
    let terminal = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/ptmx");
    let terminal = match terminal {
        Ok(terminal) => terminal,
        Err(_) => match File::open("/dev/null") {
            Ok(stand_in) => stand_in,
            Err(error) => return Got::Held(error.to_string()),
        },
    };
    let letter = b"x";
    // SAFETY: the letter lives for the call, which reads one byte.
    let answer = unsafe { libc::syscall(libc::SYS_ioctl, terminal.as_raw_fd(), request, letter.as_ptr()) };
    gate(if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) })
}

#[cfg(target_arch = "x86_64")]
fn other_architecture(_: &Stage) -> Got {
    let status = in_child(|| {
        let answer: i32;
        // SAFETY: `getpid` of i386 (20) takes nothing and touches no memory; the kernel keeps all other registers, of
        // which this names those it may not keep.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("eax") 20 => answer, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        if answer > 0 { 0 } else { 1 }
    });
    match status {
        Ok(Some(0)) => Got::Out("it worked".to_owned()),
        Ok(Some(_)) => Got::Nothing("the kernel has no i386 calls"),
        Ok(None) => Got::Held("the process was ended".to_owned()),
        Err(error) => Got::Held(error.to_string()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn other_architecture(_: &Stage) -> Got {
    Got::Nothing("only tried on x86-64")
}

fn unnamed_program(stage: &Stage) -> Got {
    let run = || -> io::Result<Vec<u8>> {
        let writer = sys(libc::SYS_memfd_create, [address(c"attempt"), libc::MFD_CLOEXEC.into(), 0, 0, 0])?;
        // SAFETY: the call has just made it, so nobody else owns it.
        let mut writer = File::from(unsafe { OwnedFd::from_raw_fd(writer as RawFd) });
        writer.write_all(&fs::read("/bin/cat")?)?;
        // A program that somebody could still change is not run.
        let reader = File::open(format!("/proc/self/fd/{}", writer.as_raw_fd()))?;
        drop(writer);
        let program = format!("/proc/self/fd/{}", reader.as_raw_fd());
        Ok(Command::new(program).arg(stage.path(Stage::SECRET)).output()?.stdout)
    };
    told(stage, run())
}

fn forced_program(stage: &Stage) -> Got {
    let Some(program) = &stage.forced else { return Got::Nothing("only root can make such a program") };
    match Command::new(program).arg("-u").output() {
        Ok(output) => match String::from_utf8_lossy(&output.stdout).trim() {
            "" => Got::Held("it did not run".to_owned()),
            // SAFETY: only answers with a number.
            user if user == unsafe { libc::geteuid() }.to_string() => Got::Held("it ran as nobody else".to_owned()),
            user => Got::Out(format!("it ran as {user}")),
        },
        Err(error) => Got::Held(error.to_string()),
    }
}

fn core_dump() -> Got {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives on this stack.
    unsafe {
        libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
    }
    // SAFETY: a child that ends by a signal of its own; its status is read into this stack.
    let has_core = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::abort();
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        libc::WIFSIGNALED(status) && libc::WCOREDUMP(status)
    };
    let left = fs::read_dir(".").into_iter().flatten().flatten();
    for entry in left.filter(|entry| entry.file_name().to_string_lossy().starts_with("core")) {
        let _ = fs::remove_file(entry.path());
    }
    match has_core {
        true => Got::Out("a core was written".to_owned()),
        false => Got::Held("no core was written".to_owned()),
    }
}

fn set_clock() -> Got {
    // To what it says: who may do that may do anything with it.
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives on this stack for both calls.
    let answer = unsafe {
        libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        libc::syscall(libc::SYS_clock_settime, libc::CLOCK_REALTIME, &raw const now)
    };
    gate(if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) })
}

// Limits.

fn raise_limits() -> Got {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives on this stack.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let higher = libc::rlimit { rlim_cur: limit.rlim_cur, rlim_max: limit.rlim_max + 1 };
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const higher)
    };
    match raised {
        0 => Got::Out("it worked".to_owned()),
        _ => Got::Held(io::Error::last_os_error().to_string()),
    }
}

fn many_processes(stage: &Stage) -> Got {
    let Some(n_max) = stage.processes else {
        return Got::Nothing("for root only a control group would limit them here");
    };
    let mut children = Vec::new();
    let refused = loop {
        if children.len() as u64 > n_max {
            break None;
        }
        // SAFETY: the child waits and does nothing else.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: takes nothing.
                unsafe { libc::pause() };
            },
            child if child > 0 => children.push(child),
            _ => break Some(io::Error::last_os_error()),
        }
    };
    for child in &children {
        // SAFETY: a child of this process that was not collected, so the number is its own.
        unsafe {
            libc::kill(*child, libc::SIGKILL);
            libc::waitpid(*child, ptr::null_mut(), 0);
        }
    }
    match refused {
        None => Got::Out(format!("{} were started", children.len())),
        Some(error) => Got::Held(format!("{error} after {}", children.len())),
    }
}

fn much_memory(stage: &Stage) -> Got {
    let bytes = stage.memory_bytes as usize + 1;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: new memory, which nothing else refers to and which is given back at once.
    let mapped = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Got::Held(io::Error::last_os_error().to_string());
    }
    // SAFETY: what was mapped above.
    unsafe { libc::munmap(mapped, bytes) };
    Got::Out("it was given".to_owned())
}

fn long_file(stage: &Stage) -> Got {
    use std::os::unix::fs::FileExt as _;
    let status = in_child(|| {
        // SAFETY: ignoring a signal; the write then fails instead.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let written = File::create("attempt-long").and_then(|file| file.write_all_at(b"x", stage.file_bytes));
        if written.is_ok() { 0 } else { 1 }
    });
    let _ = fs::remove_file("attempt-long");
    match status {
        Ok(Some(0)) => Got::Out("it was written".to_owned()),
        _ => Got::Held("it was not written".to_owned()),
    }
}

fn many_files(stage: &Stage) -> Got {
    let mut files = Vec::new();
    while files.len() as u64 <= stage.open_files {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => return Got::Held(error.to_string()),
        }
    }
    Got::Out(format!("{} were opened", files.len()))
}
