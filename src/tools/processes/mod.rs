//! Processes: the one owner of every child that a tool starts.
//!
//! [`Processes`] is the handle; behind it is one thread (`processes`), which starts with the first command and holds
//! nothing before ([`owner`]). [`launch`] starts a child, [`log`](mod@log) keeps what it writes, [`keys`] spells what is
//! typed at its terminal, [`sweep`](mod@sweep) finds what it left running.
//!
//! A process is in the foreground as long as somebody holds its [`Foreground`], and ends with that; or it was let go on
//! in the background ([`Foreground::promote`]), where it is listed, read, fed and ended by its id, by whoever has its
//! scope.
//!
//! **Invariant:** a child has a session and a process group of its own, and is signalled only while it cannot be anybody
//! else's number. **Invariant:** a child that ended is reaped, and what is left of its group does not run on.
//! **Invariant:** when the daemon stops, everything is told to end, then made to; however the daemon ends, its children
//! die with it. **Invariant:** what a child writes is bounded, by [`log::LOG_BYTES_MAX`] each and [`LOGS_BYTES_MAX`] in
//! all, however fast it writes.

pub mod keys;
pub mod launch;
pub mod log;
mod owner;
pub mod sweep;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

pub use self::launch::{Confine, Input, Launch, Program};
use self::owner::{Ask, Owner};
pub use self::owner::{DRAIN, ENDED_MAX, GRACE, INPUT_BYTES_MAX, SHOW_EVERY, SHOWN_BYTES};
use crate::runtime::threads::{STACK_BYTES, spawn};

/// Children at once, in the foreground and in the background.
pub const PROCESSES_MAX: usize = 64;
/// Bytes kept of what all of them write; at the limit the largest log gives way.
pub const LOGS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What may wait to be asked; who asks waits while there is more.
const ASKS_MAX: usize = 64;
/// How long the owner may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the owner gets to end everything beyond [`GRACE`].
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// Names a process, for as long as it is remembered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(u32);

impl Id {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Id> {
        let digits = text.trim();
        let is_id = digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| u32::from_str_radix(digits, 16).ok().map(Id))?
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is to be remembered of a process.
#[derive(Debug, Clone)]
pub struct About {
    /// Who may see it while it is in the background: the agent's id.
    pub scope: String,
    /// The session that is told of its end.
    pub session: Option<String>,
    /// The command, as it is shown.
    pub command: String,
    /// Where it began, as it is shown.
    pub cwd: String,
    /// Which ends the session is told of.
    pub notify: Notify,
    /// How long it is remembered after its end.
    pub kept: Duration,
}

/// Which ends a session is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Notify {
    /// Any.
    pub on_exit: bool,
    /// Also one that went well and had nothing to say.
    pub on_empty_success: bool,
}

/// A child that runs and that somebody waits for.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) id: Id,
    pub(crate) pid: u32,
    pub(crate) started_ms: i64,
    pub(crate) watch: Receiver<Told>,
}

/// What who waits for a process is told.
#[derive(Debug)]
pub enum Told {
    /// More was written: the end of it, as text.
    Output(String),
    /// It has ended; nothing is told after that.
    Ended(Box<Ended>),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By a signal that we did not send.
    Signal(i32),
    /// It took longer than it may.
    TimedOut,
    /// Somebody ended it.
    Cancelled,
}

/// What came of a process.
#[derive(Debug, Clone)]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    /// How long it ran.
    pub duration: Duration,
    /// What it wrote, as far as it is kept; in the background only the end of that.
    pub output: String,
    /// Whether there was more than what is kept.
    pub is_cut: bool,
    /// Which one, when it was in the background.
    pub background: Option<Background>,
}

/// A process in the background, as it is written down until its end was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Background {
    /// Names it.
    pub id: Id,
    /// The operating system's number.
    pub pid: u32,
    /// The session that is told of its end.
    pub session: Option<String>,
    /// The command, as it is shown.
    pub command: String,
    /// When it began, in milliseconds since 1970.
    pub started_ms: i64,
    /// Which ends are told.
    pub notify: Notify,
}

/// A process in the background as it is listed.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Names it.
    pub id: Id,
    /// The operating system's number.
    pub pid: u32,
    /// The command, as it is shown.
    pub command: String,
    /// Where it began.
    pub cwd: String,
    /// When it began, in milliseconds since 1970.
    pub started_ms: i64,
    /// When it ended.
    pub ended_ms: Option<i64>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Whether it can be written to.
    pub is_input_open: bool,
    /// When it wrote last, or began.
    pub last_output_ms: i64,
    /// The end of what it wrote.
    pub tail: String,
    /// Whether older output was dropped.
    pub is_cut: bool,
}

/// What became of the wish to let a process go on in the background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promoted {
    /// It goes on; the end of what it wrote so far.
    Background(String),
    /// It has just ended, which is told to who waits for it.
    Ended,
    /// As many as may be are there already; it stays in the foreground.
    Full,
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operating system refused.
    #[error("it could not be started: {0}")]
    Failed(#[source] io::Error),
    /// [`PROCESSES_MAX`] run.
    #[error("{0} commands run already, which is the limit")]
    TooMany(usize),
    /// The daemon stops, or the owner is gone.
    #[error("the gateway is stopping")]
    Stopping,
}

/// Why nothing was written to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// There is none, or it has ended.
    NotFound,
    /// It reads nothing.
    Closed,
    /// [`INPUT_BYTES_MAX`] wait to be read by it.
    Full,
}

/// The handle of the owner. Cheap to clone.
#[derive(Clone)]
pub struct Processes(Arc<Inner>);

struct Inner {
    mark: String,
    on_end: Arc<dyn Fn(Ended) + Send + Sync>,
    // Taken by whoever asks, for the moment it takes to find or start the thread.
    state: Mutex<State>,
}

enum State {
    /// No command was run yet.
    Idle,
    Running(Running),
    Stopped,
}

struct Running {
    line: Line,
    thread: JoinHandle<()>,
    /// Ends with the thread.
    ended: Receiver<()>,
}

#[derive(Clone)]
struct Line {
    asks: Sender<Ask>,
    waker: Arc<File>,
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Processes").field(&self.0.mark).finish()
    }
}

impl Processes {
    /// An owner that has nothing yet and no thread. `mark` tells this gateway's children from any other's, also after a
    /// restart ([`sweep::mark`]); `on_end` is told of the end of each that was in the background, on the owner's thread.
    pub fn new(mark: String, on_end: impl Fn(Ended) + Send + Sync + 'static) -> Processes {
        Processes(Arc::new(Inner { mark, on_end: Arc::new(on_end), state: Mutex::new(State::Idle) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a child, which ends with what this returns unless it is let go on.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(&self, launch: Launch, about: About) -> Result<Foreground, StartError> {
        let line = {
            let mut state = self.state();
            if let State::Idle = &*state {
                *state = State::Running(self.open().map_err(StartError::Failed)?);
            }
            match &*state {
                State::Running(running) => running.line.clone(),
                _ => return Err(StartError::Stopping),
            }
        };
        let begun = line.ask(move |owner| owner.start(launch, about)).ok_or(StartError::Stopping)??;
        Ok(Foreground { processes: self.clone(), id: begun.id, begun, is_over: false })
    }

    fn open(&self) -> io::Result<Running> {
        // SAFETY: `eventfd` takes two numbers; the descriptor is owned from the moment it is made.
        let waker = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Arc::new(File::from(OwnedFd::from_raw_fd(fd)))
        };
        let (asks, asked) = bounded(ASKS_MAX);
        let (end, ended) = bounded::<()>(0);
        let owner = Owner::new(self.0.mark.clone(), asked, Arc::clone(&waker), Arc::clone(&self.0.on_end));
        let thread = spawn("processes", STACK_BYTES, move || {
            let _end = end;
            owner.run();
        })?;
        Ok(Running { line: Line { asks, waker }, thread, ended })
    }

    /// Asks the owner; `None`: it is gone, or no command was ever run.
    fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&mut Owner) -> T + Send + 'static) -> Option<T> {
        let line = match &*self.state() {
            State::Running(running) => running.line.clone(),
            _ => return None,
        };
        line.ask(ask)
    }

    /// The processes in the background of a scope, the newest first; those that ended are there until they are
    /// forgotten.
    pub fn list(&self, scope: &str) -> Vec<Seen> {
        let scope = scope.to_owned();
        self.ask(move |owner| owner.list(&scope)).unwrap_or_default()
    }

    /// One of them.
    pub fn look(&self, id: Id, scope: &str) -> Option<Seen> {
        let scope = scope.to_owned();
        self.ask(move |owner| owner.look(id, &scope))?
    }

    /// What one of them wrote since it was last asked, and whether some of that is lost. Waits up to `wait` for news,
    /// and no longer than until `is_stopped`.
    pub fn poll(
        &self,
        id: Id,
        scope: &str,
        wait: Duration,
        is_stopped: &dyn Fn() -> bool,
    ) -> Option<(Seen, String, bool)> {
        let until = Instant::now() + wait;
        loop {
            let (waiter, news) = bounded(1);
            let (scope, left) = (scope.to_owned(), until.saturating_duration_since(Instant::now()));
            let waiter = (!left.is_zero()).then_some(waiter);
            let is_last = waiter.is_none();
            let (seen, text, has_gap) = self.ask(move |owner| owner.poll(id, &scope, waiter))??;
            if is_last || !text.is_empty() || has_gap || seen.exit.is_some() || is_stopped() {
                return Some((seen, text, has_gap));
            }
            wait_for(&news, left, is_stopped);
        }
    }

    /// All that is kept of what one of them wrote.
    pub fn log(&self, id: Id, scope: &str) -> Option<(Seen, String)> {
        let scope = scope.to_owned();
        self.ask(move |owner| owner.log(id, &scope))?
    }

    /// Gives one of them something to read; `closes`: and nothing after that.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, id: Id, scope: &str, bytes: Vec<u8>, closes: bool) -> Result<Seen, WriteError> {
        let scope = scope.to_owned();
        self.ask(move |owner| owner.write(id, &scope, &bytes, closes)).unwrap_or(Err(WriteError::NotFound))
    }

    /// Whether one runs at a terminal.
    pub fn has_terminal(&self, id: Id) -> bool {
        self.ask(move |owner| owner.has_terminal(id)).unwrap_or(false)
    }

    /// Whether its terminal is in application mode, where arrows are spelled differently.
    pub fn is_application_mode(&self, id: Id) -> bool {
        self.ask(move |owner| owner.is_application_mode(id)).unwrap_or(false)
    }

    /// Tells one of them to end: TERM to its group, after [`GRACE`] KILL. `false`: it has ended, or there is none.
    pub fn kill(&self, id: Id, scope: &str) -> bool {
        let scope = scope.to_owned();
        self.ask(move |owner| owner.look(id, &scope).is_some() && owner.kill(id)).unwrap_or(false)
    }

    /// Forgets one that has ended. `false`: there is none.
    pub fn clear(&self, id: Id, scope: &str) -> bool {
        let scope = scope.to_owned();
        self.ask(move |owner| owner.clear(id, &scope)).flatten().is_some()
    }

    /// Forgets one, and ends it when it still runs, which is then said. `None`: there is none.
    pub fn remove(&self, id: Id, scope: &str) -> Option<bool> {
        let scope = scope.to_owned();
        self.ask(move |owner| owner.remove(id, &scope))?
    }

    /// Tells every child to end; what is started from now on is refused. Waits for nothing.
    pub fn tell_stop(&self) {
        if let State::Running(running) = &*self.state() {
            running.line.tell(Owner::stop);
        }
    }

    /// Ends every child and then the thread, for good; `false`: that took too long, and they die with the daemon.
    pub fn stop(&self) -> bool {
        let running = match std::mem::replace(&mut *self.state(), State::Stopped) {
            State::Running(running) => running,
            State::Idle | State::Stopped => return true,
        };
        let Running { line, thread, ended } = running;
        line.tell(Owner::stop);
        let is_over = ended.recv_timeout(GRACE + STOP_MARGIN) == Err(RecvTimeoutError::Disconnected);
        is_over && thread.join().is_ok()
    }
}

impl Line {
    fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&mut Owner) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = bounded(1);
        self.tell(move |owner| {
            // It has room for one; nobody waits any more when it took too long.
            let _ = answer.try_send(ask(owner));
        });
        answered.recv_timeout(ANSWER_TIME_MAX).ok()
    }

    fn tell(&self, tell: impl FnOnce(&mut Owner) + Send + 'static) {
        if self.asks.send_timeout(Box::new(tell), ANSWER_TIME_MAX).is_ok() {
            // A counter that cannot be added to is far from zero: the owner is awake.
            let _ = (&*self.waker).write(&1_u64.to_ne_bytes());
        }
    }
}

/// A process that somebody waits for. Dropped, it is told to end.
#[derive(Debug)]
pub struct Foreground {
    processes: Processes,
    /// Names it.
    pub id: Id,
    begun: Begun,
    is_over: bool,
}

/// What came of waiting for a process.
#[derive(Debug)]
pub enum Waited {
    /// It has ended.
    Ended(Box<Ended>),
    /// The time is over.
    Late,
    /// Who waits was stopped.
    Stopped,
}

impl Foreground {
    /// The operating system's number.
    pub fn pid(&self) -> u32 {
        self.begun.pid
    }

    /// When it began, in milliseconds since 1970.
    pub fn started_ms(&self) -> i64 {
        self.begun.started_ms
    }

    /// Waits until it ends, until the time is over (`None`: never) or until `is_stopped`; shows what it writes
    /// meanwhile, at most once in [`SHOW_EVERY`], and at least once in [`SIGN_OF_LIFE`].
    pub fn wait(
        &mut self,
        until: Option<Instant>,
        is_stopped: &dyn Fn() -> bool,
        show: &mut dyn FnMut(String),
    ) -> Waited {
        let (mut shown, mut shown_at) = (String::new(), Instant::now());
        loop {
            if is_stopped() {
                return Waited::Stopped;
            }
            if shown_at.elapsed() >= SIGN_OF_LIFE {
                shown_at = Instant::now();
                show(shown.clone());
            }
            let left = until.map_or(STOP_LOOK_EVERY, |until| until.saturating_duration_since(Instant::now()));
            match self.begun.watch.recv_timeout(left.min(STOP_LOOK_EVERY)) {
                Ok(Told::Output(text)) => {
                    shown_at = Instant::now();
                    shown.clone_from(&text);
                    show(text);
                }
                Ok(Told::Ended(ended)) => {
                    self.is_over = true;
                    return Waited::Ended(ended);
                }
                Err(RecvTimeoutError::Timeout) if until.is_some_and(|until| Instant::now() >= until) => {
                    return Waited::Late;
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The owner is gone, and its children with it.
                Err(RecvTimeoutError::Disconnected) => return Waited::Stopped,
            }
        }
    }

    /// Lets it go on in the background, unless `max` processes do.
    pub fn promote(&mut self, max: usize) -> Promoted {
        let id = self.id;
        let promoted = self.processes.ask(move |owner| owner.promote(id, max)).unwrap_or(Promoted::Ended);
        self.is_over = matches!(promoted, Promoted::Background(_));
        promoted
    }

    /// Tells it to end and waits until it has; `None`: it does not.
    pub fn end(mut self) -> Option<Box<Ended>> {
        let id = self.id;
        self.processes.ask(move |owner| owner.kill(id));
        match self.wait(Some(Instant::now() + GRACE + STOP_MARGIN), &|| false, &mut |_| ()) {
            Waited::Ended(ended) => Some(ended),
            _ => None,
        }
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if !self.is_over {
            let id = self.id;
            self.processes.ask(move |owner| owner.kill(id));
        }
    }
}

/// Who waits for a silent process says so in this time, so that nobody takes the one who waits for dead.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// How often who waits for a process looks whether it is to go on waiting.
const STOP_LOOK_EVERY: Duration = Duration::from_millis(50);

fn wait_for(news: &Receiver<()>, wait: Duration, is_stopped: &dyn Fn() -> bool) {
    let until = Instant::now() + wait;
    while !is_stopped() && Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now()).min(STOP_LOOK_EVERY);
        match news.recv_timeout(left) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
