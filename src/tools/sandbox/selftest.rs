//! The self-test: whether a sandbox holds on this machine, found out by trying to get out of it.
//!
//! [`run`] sets up what must not be reached (a secret, a socket, a pipe, shared memory, a descriptor left open), starts
//! this program again in a sandbox as the list of attempts ([`inside`]), and collects what came of each. [`ready`]
//! remembers the verdict for the life of the process: no command runs in a sandbox before it was found to hold. Nothing
//! of this happens before the first such command, so it costs no start and no idle memory.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::attempts::{ATTEMPTS, Attempt, Got, Stage};
use super::kernel::Kernel;
use super::{Access, Confinement, Layer, Layers, Limits, Mode, Network, SandboxError, Wanted, refusal};
use crate::runtime::{beneath, random};

/// The word that makes the program the list of attempts.
pub const COMMAND: &str = "sandbox-attempts";
/// How long all attempts together may take.
const TIME_MAX: Duration = Duration::from_secs(30);
/// By how much the number of tasks of the machine may grow while the stage is set up.
const TASKS_MARGIN: u64 = 256;
/// How often it is asked whether they have ended.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// The limits that are tried: small, so that trying them is quick.
const LIMITS: Limits = Limits {
    processes: 320,
    memory_bytes: 512 * 1024 * 1024,
    cpu_seconds: 30,
    file_bytes: 1024 * 1024,
    open_files: 128,
};

/// What came of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It did not get out.
    Held,
    /// It got out.
    Escaped,
    /// There is nothing of the kind on this machine.
    Absent,
}

impl Outcome {
    /// The word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Held => "held",
            Outcome::Escaped => "escaped",
            Outcome::Absent => "absent",
        }
    }
}

/// One attempt, made.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: &'static str,
    /// What was tried, in a few words.
    pub about: &'static str,
    pub outcome: Outcome,
    /// What the attempt saw.
    pub saw: String,
}

/// Why nothing can be said about the sandbox, which is as bad as an escape.
#[derive(Debug, Error)]
pub enum SelfTestError {
    /// There is no sandbox to be tested.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The stage could not be set up.
    #[error("the self-test of the sandbox cannot be set up")]
    Stage(#[source] io::Error),
    /// The program could not be started in the sandbox.
    #[error("the self-test of the sandbox cannot be started")]
    Start(#[source] io::Error),
    /// It ended, or was ended, before it had tried everything.
    #[error("the self-test of the sandbox did not come to its end; it got as far as {last}")]
    Unfinished {
        /// The last attempt that was told of.
        last: String,
    },
}

/// Why no command may run in a sandbox.
#[derive(Clone, Debug, Error)]
#[error("{why}")]
pub struct NotReady {
    why: String,
}

impl NotReady {
    fn of(tested: Result<Vec<Row>, SelfTestError>) -> Result<(), NotReady> {
        let rows = match tested {
            Ok(rows) => rows,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                return Err(NotReady { why: format!("commands are off: {error}{cause}") });
            }
        };
        let escaped: Vec<&str> =
            rows.iter().filter(|row| row.outcome == Outcome::Escaped).map(|row| row.name).collect();
        match escaped.is_empty() {
            true => Ok(()),
            false => Err(NotReady {
                why: format!("commands are off: the sandbox does not hold on this machine ({})", escaped.join(", ")),
            }),
        }
    }
}

/// Whether commands may run in a sandbox, tested with the first one that is to. `root` is where sandboxes live.
///
/// # Errors
/// [`NotReady`], which stays the same for the life of the process.
pub fn ready(root: &Path) -> Result<(), NotReady> {
    static VERDICT: OnceLock<Result<(), NotReady>> = OnceLock::new();
    // A test program of this library is not the list of attempts; the tests in tests/it are about the verdict.
    if cfg!(test) {
        return Ok(());
    }
    VERDICT
        .get_or_init(|| {
            let program = std::env::current_exe().map_err(SelfTestError::Start);
            NotReady::of(program.and_then(|program| run(&program, root)))
        })
        .clone()
}

/// Tries every way out of a sandbox as commands get it here. `program` is this program's file, `root` a directory for the
/// stage, made when it is not there.
///
/// # Errors
/// [`SelfTestError`].
pub fn run(program: &Path, root: &Path) -> Result<Vec<Row>, SelfTestError> {
    run_with(program, root, Kernel::get(), None)
}

/// The same with only some layers, for showing what each of them does; `None`: what is promised, or a refusal.
///
/// # Errors
/// [`SelfTestError`].
pub fn run_with(
    program: &Path,
    root: &Path,
    kernel: Kernel,
    layers: Option<Layers>,
) -> Result<Vec<Row>, SelfTestError> {
    let set = Set::up(root, &kernel).map_err(SelfTestError::Stage)?;
    let program = program.canonicalize().map_err(SelfTestError::Start)?;
    let wanted = Wanted {
        mode: Mode::Sandbox,
        network: Network::Off,
        workspace: set.place.join(WORKSPACE),
        access: Access::ReadWrite,
        scratch: set.place.join(SCRATCH),
        read: vec![program.clone()],
        write: Vec::new(),
        hidden: vec![set.stage.outside.clone()],
        limits: LIMITS,
    };
    let confinement = match layers {
        None => Confinement::of(wanted, kernel)?,
        Some(layers) => Confinement::with_layers(wanted, kernel, layers)?,
    };
    let mut command = Command::new(&program);
    command.arg(COMMAND).env_clear().current_dir(set.place.join(WORKSPACE));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    confinement.confine(&mut command)?;
    let mut child = command.spawn().map_err(|error| match refusal(&error) {
        Some(refusal) => SelfTestError::Sandbox(refusal),
        None => SelfTestError::Start(error),
    })?;
    let stage = serde_json::to_vec(&set.stage).map_err(|error| SelfTestError::Stage(error.into()))?;
    // Who does not read it has ended, which is found below.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(&stage));
    let deadline = Instant::now() + TIME_MAX;
    // What it says fits into a pipe, so it needs no reader to go on.
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            break;
        }
        std::thread::sleep(ASK_EVERY);
    }
    let mut said = String::new();
    let _ = child.stdout.take().map(|mut stdout| stdout.read_to_string(&mut said));
    collect(&said)
}

/// Reads what [`inside`] wrote: a row for each attempt, in order.
fn collect(said: &str) -> Result<Vec<Row>, SelfTestError> {
    let mut rows = Vec::with_capacity(ATTEMPTS.len());
    for (attempt, line) in ATTEMPTS.iter().zip(said.lines()) {
        let Ok(Said { name, outcome, saw }) = serde_json::from_str(line) else { break };
        if name != attempt.name {
            break;
        }
        rows.push(Row { name: attempt.name, about: attempt.about, outcome, saw });
    }
    match rows.len() == ATTEMPTS.len() {
        true => Ok(rows),
        false => Err(SelfTestError::Unfinished { last: rows.last().map_or("none", |row| row.name).to_owned() }),
    }
}

/// One line between the two processes.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    name: String,
    outcome: Outcome,
    saw: String,
}

/// Characters of what an attempt saw that are told.
const SAW_CHARS_MAX: usize = 200;

/// The program inside: reads the stage, makes every attempt, says what came of each.
pub fn inside() -> ExitCode {
    let mut stage = String::new();
    let stage: Stage = match io::stdin().read_to_string(&mut stage).map(|_| serde_json::from_str(&stage)) {
        Ok(Ok(stage)) => stage,
        _ => return ExitCode::FAILURE,
    };
    for attempt in ATTEMPTS {
        let (outcome, saw) = match (attempt.make)(&stage) {
            Got::Held(why) => (Outcome::Held, why),
            Got::Out(how) => (Outcome::Escaped, how),
            Got::Nothing(why) => (Outcome::Absent, why.to_owned()),
        };
        let saw = saw.chars().take(SAW_CHARS_MAX).collect();
        let said = serde_json::to_string(&Said { name: attempt.name.to_owned(), outcome, saw });
        let written = said.map_err(io::Error::from).and_then(|line| writeln!(io::stdout(), "{line}"));
        if written.is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Every attempt by name: the layers that stand in its way, and whether only root could make it outside.
pub fn attempts() -> impl Iterator<Item = (&'static str, &'static [Layer], bool)> {
    ATTEMPTS.iter().map(|Attempt { name, held_by, needs_root, .. }| (*name, *held_by, *needs_root))
}

const WORKSPACE: &str = "workspace";
const SCRATCH: &str = "scratch";

/// The stage, for as long as it is needed.
struct Set {
    place: PathBuf,
    stage: Stage,
    memory: libc::c_int,
    // Held open: what connects to them or writes into them would get through.
    _listeners: (TcpListener, UnixListener, UnixListener),
    _pipe: File,
    _left_open: File,
}

impl Set {
    fn up(root: &Path, kernel: &Kernel) -> io::Result<Set> {
        let limits_processes = kernel.limits_processes();
        let foreign = match kernel.foreign_tasks() {
            0 => 0,
            n => n + TASKS_MARGIN,
        };
        beneath::make(root)?;
        let id = random::uuid().to_string();
        let place = root.canonicalize()?.join(format!("selftest-{id}"));
        let outside = place.join("outside");
        for dir in [&outside, &place.join(WORKSPACE), &place.join(SCRATCH)] {
            beneath::make(dir)?;
        }
        let canary = format!("canary-{id}");
        fs::write(outside.join(Stage::SECRET), &canary)?;
        fs::write(outside.join(Stage::VICTIM), "")?;
        let pipe = outside.join(Stage::PIPE);
        let c_pipe = CString::new(pipe.as_os_str().as_bytes())?;
        // SAFETY: the path ends in a zero byte and lives for the call.
        if unsafe { libc::mkfifo(c_pipe.as_ptr(), 0o600) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let pipe = File::options().read(true).write(true).open(pipe)?;
        let tcp = TcpListener::bind(("127.0.0.1", 0))?;
        let socket = UnixListener::bind(outside.join(Stage::SOCKET))?;
        let abstract_name = format!("openclaw-rs-{id}");
        let nameless = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name)?)?;
        let memory_file = Path::new("/dev/shm").join(&abstract_name);
        // Not every machine has one; then there is nothing to be read.
        let _ = fs::write(&memory_file, &canary);
        let left_open = File::open(outside.join(Stage::SECRET))?;
        // SAFETY: numbers only. Other children of this moment may inherit it too; it says nothing to them.
        unsafe { libc::fcntl(left_open.as_raw_fd(), libc::F_SETFD, 0) };
        let memory_key = i32::from_ne_bytes(random::bytes::<4>()) | 1;
        // SAFETY: numbers only.
        let (memory, session) = unsafe { (libc::shmget(memory_key, 4096, libc::IPC_CREAT | 0o600), libc::getsid(0)) };
        let stage = Stage {
            forced: forced_program(&place.join(WORKSPACE)),
            address: canary.as_ptr().addr(),
            outside,
            canary,
            pid: i32::try_from(std::process::id()).unwrap_or(i32::MAX),
            session,
            port: tcp.local_addr()?.port(),
            abstract_name,
            descriptor: left_open.as_raw_fd(),
            memory_key,
            memory_file,
            // Where everything a user runs is counted, the limit is as much higher; it may have been raised meanwhile.
            processes: limits_processes.then_some(LIMITS.processes + foreign),
            memory_bytes: LIMITS.memory_bytes,
            file_bytes: LIMITS.file_bytes,
            open_files: LIMITS.open_files,
        };
        Ok(Set { place, stage, memory, _listeners: (tcp, socket, nameless), _pipe: pipe, _left_open: left_open })
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.stage.memory_file);
        if self.memory >= 0 {
            // SAFETY: removing takes no structure.
            unsafe { libc::shmctl(self.memory, libc::IPC_RMID, std::ptr::null_mut()) };
        }
        let _ = fs::remove_dir_all(&self.place);
    }
}

/// A program that runs as somebody who is nobody, whoever starts it; only root can make one.
fn forced_program(dir: &Path) -> Option<PathBuf> {
    const NOBODY: u32 = 65_534;
    // SAFETY: only answers with a number.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let program = dir.join(OsStr::new("attempt-forced"));
    fs::copy("/usr/bin/id", &program).ok()?;
    std::os::unix::fs::chown(&program, Some(NOBODY), None).ok()?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).ok()?;
    Some(program)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_way_out_has_a_name_of_its_own_and_something_that_holds_it() {
        let names: BTreeSet<&str> = ATTEMPTS.iter().map(|attempt| attempt.name).collect();
        assert_eq!(names.len(), ATTEMPTS.len());
        assert!(ATTEMPTS.len() >= 30, "{}", ATTEMPTS.len());
        assert!(ATTEMPTS.iter().all(|attempt| !attempt.held_by.is_empty()));
        let holding = |layer| ATTEMPTS.iter().any(|attempt| attempt.held_by.contains(&layer));
        assert!(Layer::ALL.into_iter().all(holding), "a layer that holds nothing");
    }

    #[test]
    fn what_is_not_told_of_to_the_end_is_no_verdict() {
        let line = |name: &str, outcome| {
            let said = Said { name: name.to_owned(), outcome, saw: String::new() };
            serde_json::to_string(&said).unwrap() + "\n"
        };
        let all: String = ATTEMPTS.iter().map(|attempt| line(attempt.name, Outcome::Held)).collect();
        assert_eq!(collect(&all).unwrap().len(), ATTEMPTS.len());
        assert!(NotReady::of(collect(&all)).is_ok());

        let cut: String = all.split_inclusive('\n').take(3).collect();
        let error = NotReady::of(collect(&cut)).unwrap_err();
        assert!(error.to_string().contains(ATTEMPTS[2].name), "{error}");
        assert!(collect("").is_err() && collect("nonsense\n").is_err());
        let other: String = all.replacen(ATTEMPTS[0].name, "something-else", 1);
        assert!(collect(&other).is_err());

        let bad = all.replacen("held", "escaped", 1);
        let error = NotReady::of(collect(&bad)).unwrap_err();
        assert!(error.to_string().ends_with(&format!("({})", ATTEMPTS[0].name)), "{error}");
    }
}
