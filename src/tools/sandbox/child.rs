//! What runs between `fork` and `exec`.
//!
//! **Invariant:** system calls only, on memory that was prepared before: no allocation, no lock, no panic. The daemon
//! has other threads, and what they held when it was forked is held for ever in the child.
//!
//! With a process namespace there are three processes, because only children are born into it:
//!
//! ```text
//! keeper   the child of `Command`: makes the namespaces, waits, ends as the command ended
//!   first  process 1 of the namespace: makes the root, collects orphans; all end when it ends
//!     the command
//! ```
//!
//! Keeper and first are copies of the daemon that never become another program. They close every descriptor, block every
//! signal (the daemon's handlers must not run in them), and cannot be looked into. First dies with keeper, and keeper
//! dies by the `SIGKILL` that its group is sent.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::ptr;

use libc::{c_int, c_long, c_ulong, sock_filter};

use super::view::{NEW_ROOT, Rules, Step, View};
use super::{Limits, c_path};

/// What the child does, made before the fork.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) spaces: Spaces,
    /// A process namespace is among them.
    pub(super) has_pids: bool,
    pub(super) view: Option<View>,
    /// A network namespace, whose loopback is switched on.
    pub(super) has_loopback: bool,
    /// `kernel.pid_max` of the process namespace.
    pub(super) pid_max: Option<u64>,
    pub(super) landlock: Option<Rules>,
    /// Empty: no filter.
    pub(super) filter: Vec<sock_filter>,
    /// The command keeps capabilities, groups and the way to more of them.
    pub(super) has_privileges: bool,
    pub(super) limits: Option<Limits>,
    /// The command may leave its memory behind in a file.
    pub(super) dumps_core: bool,
    /// The command keeps descriptors that were left open.
    pub(super) has_descriptors: bool,
    /// Where it starts when the directory it was started in is not to be seen.
    pub(super) shelter: Option<&'static CStr>,
}

/// Namespaces to make, and who one is in them.
#[derive(Debug)]
pub(super) struct Spaces {
    flags: c_int,
    /// `uid uid 1`: the same name inside as outside, and no other.
    users: Vec<u8>,
    groups: Vec<u8>,
    is_root: bool,
}

impl Spaces {
    pub(super) fn of(flags: c_int) -> Spaces {
        // SAFETY: both only answer with a number.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        Spaces {
            flags,
            users: format!("{uid} {uid} 1\n").into_bytes(),
            groups: format!("{gid} {gid} 1\n").into_bytes(),
            is_root: uid == 0,
        }
    }

    fn has(&self, flag: c_int) -> bool {
        self.flags & flag != 0
    }

    fn enter(&self) -> io::Result<()> {
        if self.flags == 0 {
            return Ok(());
        }
        // SAFETY: takes a number; this process has one thread.
        At::Spaces.check(unsafe { libc::unshare(self.flags) }.into())?;
        if self.has(libc::CLONE_NEWUSER) {
            // A process that cannot be looked into may not write its own maps. SAFETY: numbers only.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
            write_file(c"/proc/self/setgroups", b"deny", At::Users)?;
            write_file(c"/proc/self/gid_map", &self.groups, At::Users)?;
            write_file(c"/proc/self/uid_map", &self.users, At::Users)?;
        }
        Ok(())
    }
}

/// The steps that can fail, as the caller gets to know them: the standard library carries one number out of the child, so
/// the step is written above the system's own.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum At {
    Descriptors,
    Spaces,
    Users,
    Process,
    Root,
    Files,
    Network,
    Directory,
    Limits,
    Privileges,
    Landlock,
    Calls,
}

const STEPS: [(At, &str); 12] = [
    (At::Descriptors, "closing descriptors"),
    (At::Spaces, "making namespaces"),
    (At::Users, "naming users in them"),
    (At::Process, "starting the first process in them"),
    (At::Root, "making a root directory"),
    (At::Files, "putting files into it"),
    (At::Network, "switching on the loopback"),
    (At::Directory, "changing into the working directory"),
    (At::Limits, "setting limits"),
    (At::Privileges, "dropping privileges"),
    (At::Landlock, "entering Landlock"),
    (At::Calls, "filtering system calls"),
];

/// More than any number of the system's own (`MAX_ERRNO` is 4095).
const STEP_UNIT: i32 = 4096;

impl At {
    /// The error of a call that answers with a negative number.
    fn check(self, answer: c_long) -> io::Result<c_long> {
        if answer >= 0 { Ok(answer) } else { Err(self.error(&io::Error::last_os_error())) }
    }

    fn error(self, error: &io::Error) -> io::Error {
        let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
        io::Error::from_raw_os_error((self as i32 + 1) * STEP_UNIT + errno)
    }

    /// The step and the system's number.
    pub(super) fn decode(code: i32) -> Option<(&'static str, i32)> {
        let step = usize::try_from(code / STEP_UNIT).ok()?.checked_sub(1)?;
        STEPS.get(step).map(|(_, words)| (*words, code % STEP_UNIT))
    }
}

/// Puts the calling process under `plan`: the one that returns is the command.
pub(super) fn enter(plan: &Plan) -> io::Result<()> {
    block_signals();
    let start = Start::here(plan.view.is_some())?;
    // SAFETY: only numbers pass. A process that already leads its group was given one by whoever started it.
    unsafe {
        if libc::getpgrp() != libc::getpid() {
            libc::setsid();
        }
    }
    if !plan.has_descriptors {
        close_descriptors_on_exec()?;
    }
    if !plan.has_privileges && plan.spaces.is_root {
        // Fails where a container took the right to; then what groups there are lead nowhere that is seen.
        // SAFETY: an empty list is not read.
        unsafe { libc::setgroups(0, ptr::null()) };
    }
    plan.spaces.enter()?;
    let told = match plan.has_pids {
        true => Some(begin_processes()?),
        false => None,
    };
    if let Some(view) = &plan.view {
        make_root(view, plan.pid_max)?;
    }
    if plan.has_loopback {
        switch_on_loopback()?;
    }
    if plan.spaces.has(libc::CLONE_NEWUTS) {
        let name = b"sandbox";
        // SAFETY: the name lives for the call, and is as long as is said. Its failing gives nothing away.
        unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
    }
    if let Some(told) = told {
        let command = At::Process.check(fork(libc::SIGCHLD))?;
        if command != 0 {
            collect(command as libc::pid_t, told);
        }
    }
    if let Some(start) = &start {
        start.enter(plan.shelter)?;
    }
    set_limits(plan)?;
    if !plan.has_privileges {
        drop_privileges()?;
    }
    if let Some(Rules { ruleset, late }) = &plan.landlock {
        for rule in late {
            // What is not there cannot be reached either.
            let _ = ruleset.allow(&rule.path, rule.is_dir, rule.allowed);
        }
        no_new_privileges(At::Landlock)?;
        ruleset.restrict_self().map_err(|error| At::Landlock.error(&error))?;
    }
    reset_signals();
    if !plan.filter.is_empty() {
        filter_calls(&plan.filter)?;
    }
    Ok(())
}

/// The directory a command was started in: its name, and which one that is.
struct Start {
    path: [u8; libc::PATH_MAX as usize],
    device: u64,
    inode: u64,
}

impl Start {
    /// Where this process is; `None` when it stays there.
    fn here(is_left: bool) -> io::Result<Option<Start>> {
        if !is_left {
            return Ok(None);
        }
        let mut start = Start { path: [0; libc::PATH_MAX as usize], device: 0, inode: 0 };
        // SAFETY: there is as much room as is said. The call itself, because the C library's may allocate.
        let length = unsafe { libc::syscall(libc::SYS_getcwd, start.path.as_mut_ptr(), start.path.len()) };
        At::Directory.check(length)?;
        (start.device, start.inode) = identity(c".", At::Directory)?;
        Ok(Some(start))
    }

    /// Goes there again, by its name in the view: it must be the same directory.
    fn enter(&self, shelter: Option<&CStr>) -> io::Result<()> {
        // SAFETY: the kernel ended the path with a zero byte, and it lives for the call.
        let entered = At::Directory.check(unsafe { libc::chdir(self.path.as_ptr().cast()) }.into());
        match shelter {
            Some(shelter) if entered.is_err() => {
                // SAFETY: a text that ends in a zero byte.
                At::Directory.check(unsafe { libc::chdir(shelter.as_ptr()) }.into())?;
                return Ok(());
            }
            _ => entered?,
        };
        if identity(c".", At::Directory)? != (self.device, self.inode) && self.path[1] != 0 {
            return Err(At::Directory.error(&io::Error::from_raw_os_error(libc::ESTALE)));
        }
        Ok(())
    }
}

/// Device and inode of what lies at a path.
fn identity(path: &CStr, at: At) -> io::Result<(u64, u64)> {
    // SAFETY: the path ends in a zero byte, the structure lives on this stack and is plain numbers.
    unsafe {
        let mut found: libc::stat = zeroed();
        at.check(libc::stat(path.as_ptr(), &raw mut found).into())?;
        Ok((found.st_dev, found.st_ino))
    }
}

// Processes.

/// A child without the C library's ceremony: its locks and lists may be held by threads that are not there any more.
fn fork(signal: c_int) -> c_long {
    // SAFETY: without memory of its own to run on the child continues here on a copy; no address is passed.
    unsafe { libc::syscall(libc::SYS_clone, signal as c_long, 0 as c_long, 0 as c_long, 0 as c_long, 0 as c_long) }
}

/// Returns in process 1 of the namespace, with what it tells the keeper by. The keeper does not return.
fn begin_processes() -> io::Result<c_int> {
    let mut pipe = [0; 2];
    // SAFETY: room for two numbers.
    At::Process.check(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    let first = At::Process.check(fork(libc::SIGCHLD))?;
    if first != 0 {
        keep(first as libc::pid_t, pipe[0]);
    }
    // SAFETY: numbers and memory of this stack only.
    unsafe {
        libc::close(pipe[0]);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // The keeper may have died before that: nobody reads then.
        let mut reader = libc::pollfd { fd: pipe[1], events: 0, revents: 0 };
        if libc::poll(&raw mut reader, 1, 0) > 0 && reader.revents & libc::POLLERR != 0 {
            libc::_exit(1);
        }
        // Its memory is the daemon's, and its name inside is 1.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
    Ok(pipe[1])
}

/// The keeper: waits for the first process and ends as the command ended.
fn keep(first: libc::pid_t, told: c_int) -> ! {
    close_all_but(told);
    let mut status: c_int = 0;
    // SAFETY: all pointers are to variables of this stack, with their own sizes.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::prctl(libc::PR_SET_NAME, c"sandbox-keeper".as_ptr(), 0, 0, 0);
        libc::chdir(c"/".as_ptr());
        let n_read = loop {
            let n = libc::read(told, (&raw mut status).cast(), size_of::<c_int>());
            if n >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                break n;
            }
        };
        libc::waitpid(first, ptr::null_mut(), 0);
        if n_read != size_of::<c_int>() as isize {
            libc::_exit(1);
        }
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            // No second core beside the command's.
            let none = libc::rlimit { rlim_cur: CORE_NONE, rlim_max: CORE_NONE };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::signal(signal, libc::SIG_DFL);
            let mut set = MaybeUninit::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), signal);
            libc::kill(libc::getpid(), signal);
            libc::sigprocmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
            libc::_exit(128 + signal);
        }
        libc::_exit(libc::WEXITSTATUS(status));
    }
}

/// Process 1: waits for whatever ends inside, and tells how the command ended.
fn collect(command: libc::pid_t, told: c_int) -> ! {
    close_all_but(told);
    // SAFETY: a text of at most 15 bytes that ends in a zero byte: what it is called in `top`.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"sandbox-first".as_ptr(), 0, 0, 0) };
    loop {
        let mut status: c_int = 0;
        // SAFETY: the pointers are to a variable of this stack, with its size.
        unsafe {
            let ended = libc::waitpid(-1, &raw mut status, libc::__WALL);
            if ended == command {
                libc::write(told, (&raw const status).cast(), size_of::<c_int>());
                libc::_exit(0);
            }
            if ended < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                libc::_exit(1);
            }
        }
    }
}

fn block_signals() {
    // SAFETY: the set lives on this stack and is filled before it is read.
    unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigfillset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}

/// No handler and no block of the daemon's is left to the command.
fn reset_signals() {
    // SAFETY: the structures live on this stack; numbers that are no signal are refused.
    unsafe {
        let default: libc::sigaction = zeroed();
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}

// Descriptors.

/// First descriptor that is not a standard stream.
const FIRST: c_int = 3;
/// `CLOSE_RANGE_CLOEXEC`, since Linux 5.11.
const ON_EXEC: c_long = 4;

fn close_descriptors_on_exec() -> io::Result<()> {
    // SAFETY: numbers only.
    if unsafe { libc::syscall(libc::SYS_close_range, FIRST as c_long, u32::MAX as c_long, ON_EXEC) } == 0 {
        return Ok(());
    }
    each_descriptor(|fd| {
        // Not closed now: the standard library tells over one of them that `exec` failed. SAFETY: numbers only.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    })
    .map_err(|error| At::Descriptors.error(&error))
}

fn close_all_but(kept: c_int) {
    // Of a process that only waits; what cannot be closed is not used either.
    let _ = each_descriptor(|fd| {
        if fd != kept {
            // SAFETY: numbers only; nothing in this process uses a descriptor any more.
            unsafe { libc::close(fd) };
        }
    });
    for fd in 0..FIRST {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Calls `act` for each open descriptor from [`FIRST`] on, without allocating.
fn each_descriptor(act: impl Fn(c_int)) -> io::Result<()> {
    // SAFETY: the path is a constant that ends in a zero byte.
    let listed = unsafe { libc::open(c"/proc/self/fd".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    if listed < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut page = [0_u64; 128];
    let page_bytes = size_of_val(&page);
    let ended = loop {
        // SAFETY: the page is as long as is said; the kernel writes whole entries into it.
        let n = unsafe { libc::syscall(libc::SYS_getdents64, listed, page.as_mut_ptr(), page_bytes) };
        if n <= 0 {
            break if n == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        }
        let mut at = 0;
        while at < n as usize {
            // SAFETY: an entry begins here: its number (8 bytes), its offset (8), its length (2), its kind (1), its name,
            // which ends in a zero byte within the entry.
            let (length, name) = unsafe {
                let entry = page.as_ptr().cast::<u8>().add(at);
                (ptr::read_unaligned(entry.add(16).cast::<u16>()), CStr::from_ptr(entry.add(19).cast()))
            };
            let digits = name.to_bytes().iter().filter(|byte| byte.is_ascii_digit());
            let fd = digits.fold(0, |number: c_int, digit| number.wrapping_mul(10).wrapping_add((digit - b'0').into()));
            if fd >= FIRST && fd != listed {
                act(fd);
            }
            at += usize::from(length).max(1);
        }
    };
    // SAFETY: it was opened above.
    unsafe { libc::close(listed) };
    ended
}

// Files.

fn make_root(view: &View, pid_max: Option<u64>) -> io::Result<()> {
    turn_root(&view.base)?;
    for step in &view.steps {
        take(step)?;
    }
    if let Some(pid_max) = pid_max {
        let mut digits = [0; 20];
        write_file(c"/newroot/proc/sys/kernel/pid_max", decimal(pid_max, &mut digits), At::Limits)?;
    }
    for step in &view.last {
        take(step)?;
    }
    // SAFETY: paths are constants that end in zero bytes.
    unsafe {
        At::Root.check(libc::chdir(NEW_ROOT.as_ptr()).into())?;
        At::Root.check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        // What was the root goes, and with it the older one below: waiting for the kernel once is enough.
        At::Root.check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into())?;
        At::Root.check(libc::chdir(c"/".as_ptr()).into())?;
    }
    Ok(())
}

/// Makes a root in memory with the old one and an empty one in it. `base` is covered meanwhile, and free again after.
fn turn_root(base: &CStr) -> io::Result<()> {
    let none = ptr::null();
    let options = c"size=1m,mode=755".as_ptr().cast();
    // SAFETY: all texts end in zero bytes and live for their call; the kernel takes null for what a call does not use.
    unsafe {
        // Nothing that is mounted from here on is seen outside.
        At::Root.check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()).into())?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        At::Root.check(libc::mount(c"tmpfs".as_ptr(), base.as_ptr(), c"tmpfs".as_ptr(), flags, options).into())?;
        At::Root.check(libc::chdir(base.as_ptr()).into())?;
        At::Root.check(libc::mkdir(c"oldroot".as_ptr(), 0o755).into())?;
        At::Root.check(libc::mkdir(c"newroot".as_ptr(), 0o755).into())?;
        At::Root.check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c"oldroot".as_ptr()))?;
        At::Root.check(libc::chdir(c"/".as_ptr()).into())?;
        let mounted = libc::mount(c"tmpfs".as_ptr(), NEW_ROOT.as_ptr(), c"tmpfs".as_ptr(), flags, options);
        At::Root.check(mounted.into())?;
    }
    Ok(())
}

fn take(step: &Step) -> io::Result<()> {
    let none = ptr::null();
    let bind = |source: &CStr, target: &CStr, flags: c_ulong| {
        // SAFETY: both paths end in zero bytes and live for the call.
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), none, libc::MS_BIND | flags, none.cast()) }
    };
    // SAFETY: all texts end in zero bytes and live for their call, structures live on this stack.
    let answer = unsafe {
        match step {
            Step::Folder(target) => there_already(libc::mkdir(target.as_ptr(), 0o755)),
            Step::File(target) => {
                let fd = libc::open(target.as_ptr(), libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC, 0o644);
                if fd >= 0 { libc::close(fd) } else { fd }
            }
            Step::Link { text, target } => there_already(libc::symlink(text.as_ptr(), target.as_ptr())),
            Step::Bind { source, target, device, inode } => {
                At::Files.check(bind(source, target, libc::MS_REC).into())?;
                if identity(target, At::Files)? != (*device, *inode) {
                    return Err(At::Files.error(&io::Error::from_raw_os_error(libc::ESTALE)));
                }
                0
            }
            Step::Device { source, target } => bind(source, target, 0),
            Step::Flags { target, flags } => {
                let flags = libc::MS_REMOUNT | libc::MS_BIND | flags;
                libc::mount(none, target.as_ptr(), none, flags, none.cast())
            }
            Step::Memory { target, options } => {
                let (flags, kind) = (libc::MS_NOSUID | libc::MS_NODEV, c"tmpfs".as_ptr());
                libc::mount(kind, target.as_ptr(), kind, flags, options.as_ptr().cast())
            }
            Step::Proc(target) => {
                let (flags, kind) = (libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, c"proc".as_ptr());
                libc::mount(kind, target.as_ptr(), kind, flags, none.cast())
            }
            Step::Terminals(target) => {
                let (flags, kind) = (libc::MS_NOSUID | libc::MS_NOEXEC, c"devpts".as_ptr());
                let options = c"newinstance,ptmxmode=0666,mode=620";
                libc::mount(kind, target.as_ptr(), kind, flags, options.as_ptr().cast())
            }
        }
    };
    At::Files.check(answer.into()).map(|_| ())
}

fn there_already(answer: c_int) -> c_int {
    match answer {
        -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EEXIST) => 0,
        answer => answer,
    }
}

fn write_file(path: &CStr, content: &[u8], at: At) -> io::Result<()> {
    // SAFETY: the path ends in a zero byte, the content is as long as is said, and both live for their calls.
    unsafe {
        let fd = at.check(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC).into())? as c_int;
        let written = at.check(libc::write(fd, content.as_ptr().cast(), content.len()) as c_long);
        libc::close(fd);
        written.map(|_| ())
    }
}

/// A number in digits, without allocating.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

// The rest.

fn switch_on_loopback() -> io::Result<()> {
    // SAFETY: the structure is plain numbers and a name that ends in a zero byte, and lives on this stack.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let socket = At::Network.check(socket.into())? as c_int;
        let mut loopback: libc::ifreq = zeroed();
        loopback.ifr_name[0] = b'l' as libc::c_char;
        loopback.ifr_name[1] = b'o' as libc::c_char;
        loopback.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let up = At::Network.check(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw mut loopback).into());
        libc::close(socket);
        up.map(|_| ())
    }
}

/// With this limit the kernel writes no core, neither into a file (a core is longer) nor into a program (which 0 would
/// not prevent: fs/coredump.c).
const CORE_NONE: libc::rlim_t = 1;

fn set_limits(plan: &Plan) -> io::Result<()> {
    let set = |resource, value: u64| {
        // SAFETY: the structure lives on this stack, and is plain numbers.
        unsafe {
            let mut limit: libc::rlimit = zeroed();
            At::Limits.check(libc::getrlimit(resource, &raw mut limit).into())?;
            // A limit that is lower already stays.
            let value = value.min(limit.rlim_max);
            let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
            At::Limits.check(libc::setrlimit(resource, &raw const limit).into())
        }
    };
    if !plan.dumps_core {
        set(libc::RLIMIT_CORE, CORE_NONE)?;
    }
    if let Some(limits) = plan.limits {
        set(libc::RLIMIT_NPROC, limits.processes)?;
        set(libc::RLIMIT_DATA, limits.memory_bytes)?;
        set(libc::RLIMIT_CPU, limits.cpu_seconds)?;
        set(libc::RLIMIT_FSIZE, limits.file_bytes)?;
        set(libc::RLIMIT_NOFILE, limits.open_files)?;
    }
    Ok(())
}

/// Header and data of `capset`, version 3 of linux/capability.h.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// More than there are; the first that is not there ends the loop.
const CAPABILITIES_MAX: c_int = 64;

fn drop_privileges() -> io::Result<()> {
    // SAFETY: numbers, and structures of this stack that are as long as the version says.
    unsafe {
        for capability in 0..CAPABILITIES_MAX {
            // Refused where there are none to drop.
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 {
                break;
            }
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
        let none = [[0_u32; 3]; 2];
        At::Privileges.check(libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()))?;
    }
    no_new_privileges(At::Privileges)
}

/// No program has rights that the one which started it had not. Rules and filters are for those only who say this first.
fn no_new_privileges(at: At) -> io::Result<()> {
    // SAFETY: numbers only.
    at.check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(|_| ())
}

fn filter_calls(filter: &[sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    no_new_privileges(At::Calls)?;
    // SAFETY: the program and its instructions live for the call, which copies them.
    let filtered = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) };
    At::Calls.check(filtered.into()).map(|_| ())
}

// Asking what works.

/// What a trial does once the namespaces are there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trial {
    Nothing,
    /// Turn the root, as a view does.
    Root,
    /// Start a process.
    Process,
    /// Mount `/proc` from such a process.
    Proc,
}

/// Whether a child can do it.
pub(super) fn can(spaces: Spaces, trial: Trial) -> bool {
    let base = c_path(std::path::Path::new("/tmp"));
    let proc = Step::Proc(c"/newroot".into());
    let attempt = || -> io::Result<()> {
        spaces.enter()?;
        match trial {
            Trial::Nothing => Ok(()),
            Trial::Root => turn_root(&base),
            Trial::Process => in_child(&|| Ok(())),
            Trial::Proc => {
                turn_root(&base)?;
                in_child(&|| take(&proc))
            }
        }
    };
    in_child(&attempt).is_ok()
}

/// Runs something in a child of its own. The child ends without a signal, so that nobody who collects children finds it.
fn in_child(body: &dyn Fn() -> io::Result<()>) -> io::Result<()> {
    let child = At::Process.check(fork(0))?;
    if child == 0 {
        block_signals();
        let code = if body().is_ok() { 0 } else { 1 };
        // SAFETY: ends the child at once, with nothing of the daemon's run.
        unsafe { libc::_exit(code) };
    }
    let mut status: c_int = 0;
    loop {
        // SAFETY: the pointer is to a variable of this stack.
        let ended = unsafe { libc::waitpid(child as libc::pid_t, &raw mut status, libc::__WCLONE) };
        if ended >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            break;
        }
    }
    match libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STEPS[*self as usize].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_its_reason_come_out_in_one_number() {
        for (idx, (at, words)) in STEPS.iter().enumerate() {
            assert_eq!(*at as usize, idx, "{words}");
            let error = at.error(&io::Error::from_raw_os_error(libc::EPERM));
            assert_eq!(At::decode(error.raw_os_error().unwrap()), Some((*words, libc::EPERM)));
        }
        assert_eq!(At::decode(libc::ENOENT), None, "an error of exec itself");
        assert_eq!(At::decode(-1), None);
    }

    #[test]
    fn numbers_are_written_without_memory() {
        let mut digits = [0; 20];
        for number in [0, 7, 301, u64::MAX] {
            assert_eq!(decimal(number, &mut digits), number.to_string().as_bytes());
        }
    }

    #[test]
    fn every_open_descriptor_is_found() {
        let (one, two) = (std::fs::File::open("/dev/null").unwrap(), std::fs::File::open("/dev/null").unwrap());
        let found = std::cell::RefCell::new(Vec::new());
        each_descriptor(|fd| found.borrow_mut().push(fd)).unwrap();
        for file in [&one, &two] {
            assert!(found.borrow().contains(&std::os::fd::AsRawFd::as_raw_fd(file)));
        }
        assert!(found.borrow().iter().all(|fd| *fd >= FIRST));
    }
}
