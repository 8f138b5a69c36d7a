//! A server that is a program of this machine: messages are lines of its input and output.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};

use super::wire::{self, Heard, MESSAGE_BYTES_MAX};
use super::{Link, McpError, STOP_LOOK};
use crate::config::settings::mcp;
use crate::runtime::stop::Stop;
use crate::runtime::threads;

/// Requests that one server may owe an answer; one more is refused.
pub const PENDING_MAX: usize = 32;
/// How long a program may take to read what it is sent.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);
/// What a program has of our own environment, which holds secrets.
const INHERITED: &[&str] =
    &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TERM"];
/// Where programs are looked for when nobody says.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";
/// Variables that load code into whatever is started (CVE-2026-44995): not even the configuration gives them.
const LOADERS: &[&str] = &[
    "BASH_ENV",
    "ENV",
    "SHELLOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PYTHONSTARTUP",
    "PYTHONPATH",
    "PYTHONHOME",
    "PERL5OPT",
    "PERL5LIB",
    "RUBYOPT",
    "RUBYLIB",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "DOTNET_STARTUP_HOOKS",
];
/// Beginnings of such names.
const LOADER_PREFIXES: &[&str] = &["LD_", "DYLD_", "BASH_FUNC_"];
/// Bytes of what a program complains of that are kept for whoever asks why it ended.
const COMPLAINT_BYTES_MAX: usize = 512;

/// A program that was started. Dropped, it is ended and reaped.
pub struct Program {
    child: Mutex<Child>,
    shared: Arc<Shared>,
    last_id: AtomicU64,
}

/// What the threads that listen to it share with whoever asks.
#[derive(Default)]
struct Shared {
    /// Who waits for which answer; `None`: it has ended, and nobody waits.
    pending: Mutex<Option<HashMap<u64, Sender<Result<Value, String>>>>>,
    /// Its last words on its error output.
    complaint: Mutex<String>,
    has_new_tools: AtomicBool,
    /// Its input; `None`: a message got stuck in it, and nothing after that would be understood.
    input: Mutex<Option<ChildStdin>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn start(name: &str, program: &mcp::Program) -> Result<Program, McpError> {
        let started = |error: std::io::Error| McpError::Start(format!("{}: {error}", program.command));
        if let Some((loader, _)) = program.env.iter().find(|(name, _)| is_loader(name)) {
            return Err(McpError::Start(format!("its environment may not have {loader}, which loads code")));
        }
        let mut command = Command::new(&program.command);
        command.args(&program.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
            .env_clear()
            .env("PATH", PATH_DEFAULT)
            .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.envs(program.env.iter().map(|(name, value)| (name, value.reveal())));
        if let Some(dir) = &program.cwd {
            command.current_dir(dir);
        }
        command.process_group(0);
        // SAFETY: prctl only reads its arguments, and may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // A killed gateway leaves no server behind.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().map_err(started)?;
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = (input, output, errors) else { unreachable!("they are piped") };
        let shared = Arc::new(Shared {
            pending: Mutex::new(Some(HashMap::new())),
            input: Mutex::new(Some(input)),
            ..Shared::default()
        });
        let program = Program { child: Mutex::new(child), shared, last_id: AtomicU64::new(0) };
        program.shared.is_never_waited_for().map_err(started)?;
        let (listening, complaining) = (Arc::clone(&program.shared), Arc::clone(&program.shared));
        let who = name.to_owned();
        // Each ends when the program does, which happens when this is dropped at the latest.
        threads::spawn("mcp", threads::STACK_BYTES, move || listen(&who, BufReader::new(output), &listening))
            .and_then(|_| {
                threads::spawn("mcp-errors", threads::STACK_BYTES, move || {
                    keep_complaints(BufReader::new(errors), &complaining);
                })
            })
            .map_err(started)?;
        Ok(program)
    }

    fn write(&self, message: &Value) -> Result<(), McpError> {
        self.shared.write(message).map_err(|_| self.closed())
    }

    fn closed(&self) -> McpError {
        let complaint = lock(&self.shared.complaint);
        McpError::Closed(if complaint.is_empty() { String::new() } else { format!("; its last words: {complaint}") })
    }
}

impl Link for Program {
    fn ask(&self, method: &str, params: &Value, time_max: Duration, stop: &Stop) -> Result<Value, McpError> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (tell, told) = bounded(1);
        {
            let mut pending = lock(&self.shared.pending);
            let Some(pending) = pending.as_mut() else { return Err(self.closed()) };
            if pending.len() >= PENDING_MAX {
                return Err(McpError::Refused(format!("it owes {PENDING_MAX} answers already")));
            }
            pending.insert(id, tell);
        }
        let asked = self.write(&wire::request(id, method, params));
        let until = Instant::now() + time_max;
        let answer = asked.and_then(|()| {
            loop {
                match told.recv_timeout(STOP_LOOK) {
                    Ok(answer) => return answer.map_err(McpError::Refused),
                    Err(RecvTimeoutError::Disconnected) => return Err(self.closed()),
                    Err(RecvTimeoutError::Timeout) if stop.why().is_some() => return Err(McpError::Stopped),
                    Err(RecvTimeoutError::Timeout) if Instant::now() >= until => return Err(McpError::Late(time_max)),
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
        });
        if let Some(pending) = lock(&self.shared.pending).as_mut() {
            pending.remove(&id);
        }
        if matches!(answer, Err(McpError::Stopped | McpError::Late(_))) {
            let reason = json!({ "requestId": id, "reason": "nobody waits for it any more" });
            // It may have ended: then there is nothing to call off.
            let _ = self.write(&wire::notification("notifications/cancelled", &reason));
        }
        answer
    }

    fn tell(&self, method: &str, params: &Value, _: &Stop) -> Result<(), McpError> {
        self.write(&wire::notification(method, params))
    }

    fn is_open(&self) -> bool {
        lock(&self.shared.pending).is_some() && lock(&self.shared.input).is_some()
    }

    fn has_new_tools(&self) -> bool {
        self.shared.has_new_tools.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Ok(group) = libc::pid_t::try_from(child.id()) {
            // SAFETY: a signal is sent to the group that was made for it; the child is not reaped yet, so the number is its.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        // It was killed: it is there to be reaped.
        let _ = child.wait();
    }
}

fn is_loader(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    LOADERS.contains(&upper.as_str()) || LOADER_PREFIXES.iter().any(|prefix| upper.starts_with(prefix))
}

impl Shared {
    /// Makes writing to it return when it does not read.
    fn is_never_waited_for(&self) -> io::Result<()> {
        let input = lock(&self.input);
        let Some(fd) = input.as_ref().map(std::os::fd::AsRawFd::as_raw_fd) else { return Ok(()) };
        // SAFETY: the descriptor is open while `input` is held.
        let done = unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Writes a message whole, or nothing more ever.
    fn write(&self, message: &Value) -> io::Result<()> {
        let line = format!("{message}\n");
        let until = Instant::now() + WRITE_TIME_MAX;
        let mut slot = lock(&self.input);
        let Some(input) = slot.as_mut() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match input.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    let mut poll = libc::pollfd { fd: input.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
                    // SAFETY: one descriptor, which is open, and its place.
                    unsafe { libc::poll(&raw mut poll, 1, 100) };
                }
                Err(error) => {
                    *slot = None;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Hears a program until it ends.
fn listen(name: &str, mut output: BufReader<impl Read>, shared: &Shared) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match output.by_ref().take(MESSAGE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(read) if read > MESSAGE_BYTES_MAX => {
                log::warn!("mcp: server {name} sent a message of more than {MESSAGE_BYTES_MAX} bytes; it is left");
                break;
            }
            Ok(_) => {}
        }
        match std::str::from_utf8(&line).ok().and_then(wire::read) {
            Some(Heard::Answer { id, result }) => {
                let waiting = lock(&shared.pending).as_mut().and_then(|pending| pending.remove(&id));
                if let Some(waiting) = waiting {
                    // Whoever asked may have gone.
                    let _ = waiting.send(result);
                }
            }
            Some(Heard::Asked { id, method }) => {
                // It may have ended meanwhile, which the next read tells.
                let _ = shared.write(&wire::answer(&id, &method));
            }
            Some(Heard::Told { method }) if method == "notifications/tools/list_changed" => {
                shared.has_new_tools.store(true, Ordering::Release);
            }
            // Some programs say other things there too.
            Some(Heard::Told { .. }) | None => {}
        }
    }
    // Whoever waits hears that nothing will come.
    lock(&shared.pending).take();
}

/// Keeps a program's last words.
fn keep_complaints(mut errors: BufReader<impl Read>, shared: &Shared) {
    let mut line = Vec::new();
    loop {
        line.clear();
        match errors.by_ref().take(COMPLAINT_BYTES_MAX as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = crate::tools::web::external::clean(String::from_utf8_lossy(&line).trim());
        if !text.is_empty() {
            *lock(&shared.complaint) = text;
        }
    }
}
