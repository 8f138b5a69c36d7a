//! Starting a child process.
//!
//! Everything that takes memory or may fail in many ways is done before the fork; between fork and exec there are only
//! calls that POSIX lists as safe there.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the kernel thinks of killing a child when memory is short, before anything of the gateway: the most there is.
const OOM_SCORE_ADJ: &[u8] = b"1000";
/// A terminal's size, in lines and columns.
const TERMINAL_SIZE: (u16, u16) = (30, 120);

/// Descriptors that are looked at one by one where the kernel cannot close them all at once.
const DESCRIPTORS_CLOSED: RawFd = 1024;

/// Confines a child: may add steps before its exec, all of whose preparation is done. An error refuses the start.
pub type Confine = Box<dyn FnMut(&mut Command) -> io::Result<()> + Send>;

/// The file that is executed.
#[derive(Debug)]
pub enum Program {
    /// By what was opened: whatever lies at its path meanwhile is not run.
    File(File),
    /// By its path, because its interpreter opens it again (`#!`).
    Path(PathBuf),
}

/// What a process reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Nothing: it finds the end at once.
    Nothing,
    /// What it is sent later.
    Pipe,
    /// What is typed at a terminal of its own, which takes its output too.
    Terminal,
}

/// A child to be started, every word of it decided.
pub struct Launch {
    /// What is executed.
    pub program: Program,
    /// Its words, from the name it is to see.
    pub argv: Vec<OsString>,
    /// Its environment, all of it.
    pub env: Vec<(OsString, OsString)>,
    /// Where it begins, open.
    pub cwd: OwnedFd,
    /// What it reads.
    pub input: Input,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// What holds it.
    pub confine: Option<Confine>,
}

/// A child that runs, and our ends of its lines.
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) output: Vec<File>,
    pub(super) input: Option<File>,
}

impl Launch {
    /// Starts it, in a session and a process group of its own, to die with the thread that calls this.
    ///
    /// # Errors
    /// The operating system's, also of the exec.
    pub(super) fn start(mut self) -> io::Result<Launched> {
        let path = match &self.program {
            // This name of an open file is the file: no path is walked again.
            Program::File(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
            Program::Path(path) => path.clone(),
        };
        let mut command = Command::new(path);
        let mut words = self.argv.iter();
        if let Some(name) = words.next() {
            command.arg0(name);
        }
        command.args(words).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        let mut terminal = None;
        match self.input {
            Input::Terminal => {
                let (master, slave) = open_terminal()?;
                command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
                terminal = Some(File::from(master));
            }
            Input::Pipe => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            }
            Input::Nothing => {
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        let (cwd, has_terminal) = (self.cwd.as_raw_fd(), terminal.is_some());
        // SAFETY: `getpid` cannot fail and touches no memory.
        let parent = unsafe { libc::getpid() };
        // SAFETY: `before_exec` makes only calls that are safe between fork and exec, and allocates nothing. The
        // directory stays open until after the fork, because `self` does.
        unsafe { command.pre_exec(move || before_exec(cwd, has_terminal, parent)) };
        if let Some(confine) = &mut self.confine {
            confine(&mut command)?;
        }
        let mut child = command.spawn()?;
        drop(command);
        let mut launched = match terminal {
            Some(master) => Launched { output: vec![master.try_clone()?], input: Some(master), child },
            None => {
                let output = child.stdout.take().map(OwnedFd::from).into_iter();
                let output = output.chain(child.stderr.take().map(OwnedFd::from)).map(File::from).collect();
                let input = child.stdin.take().map(|stdin| File::from(OwnedFd::from(stdin)));
                Launched { child, output, input }
            }
        };
        let made = launched.output.iter().chain(&launched.input).try_for_each(|file| unblock(file.as_raw_fd()));
        if let Err(error) = made {
            // It cannot be looked after, so it must not run on.
            let _ = launched.child.kill();
            let _ = launched.child.wait();
            return Err(error);
        }
        Ok(launched)
    }
}

/// In the child, between fork and exec.
fn before_exec(cwd: RawFd, has_terminal: bool, parent: libc::pid_t) -> io::Result<()> {
    // SAFETY: each takes numbers and pointers to static memory, and is safe between fork and exec.
    unsafe {
        // A session of its own: no signal of a terminal reaches it, and its group has its number.
        check(libc::setsid())?;
        if has_terminal {
            check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
        }
        check(libc::fchdir(cwd))?;
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check(libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core))?;
        // Best effort: where it is not to be had, the kernel chooses as always.
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if score >= 0 {
            libc::write(score, OOM_SCORE_ADJ.as_ptr().cast(), OOM_SCORE_ADJ.len());
            libc::close(score);
        }
        keep_to_ourselves();
        // However the gateway ends.
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        if libc::getppid() != parent {
            // It ended in between.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}

/// Whatever is open beside the three lines is closed by the exec, also what whoever started the gateway left open.
///
/// # Safety
/// For the time between fork and exec.
unsafe fn keep_to_ourselves() {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: these take numbers and touch no memory.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) != 0 {
            // Before 5.11 there is no such call.
            for fd in 3..DESCRIPTORS_CLOSED {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn unblock(fd: RawFd) -> io::Result<()> {
    // SAFETY: `fcntl` with these commands takes numbers only.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        check(flags)?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))
    }
}

/// A new terminal: our side and the child's.
fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: these take a descriptor and numbers; `ptsname_r` gets a buffer with its true length and ends what it
    // writes with a NUL; `ioctl` reads one `winsize`. Each descriptor is owned from the moment it is made.
    unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        check(master)?;
        let master = OwnedFd::from_raw_fd(master);
        check(libc::grantpt(master.as_raw_fd()))?;
        check(libc::unlockpt(master.as_raw_fd()))?;
        let mut name = [0 as libc::c_char; 64];
        if libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let slave = libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        check(slave)?;
        let slave = OwnedFd::from_raw_fd(slave);
        let (ws_row, ws_col) = TERMINAL_SIZE;
        let size = libc::winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        check(libc::ioctl(slave.as_raw_fd(), libc::TIOCSWINSZ, &raw const size))?;
        Ok((master, slave))
    }
}

/// Opens a directory to begin in.
///
/// # Errors
/// The operating system's.
pub fn open_dir(path: &std::path::Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    check(fd)?;
    // SAFETY: the call has just made this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
