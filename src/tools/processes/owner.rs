//! The owner: the thread that starts, reads, feeds, ends and reaps every child.
//!
//! It waits in one place ([`Owner::wait`]), for output, for the ends of processes, for the next deadline and for what it
//! is asked. A process ends in one way ([`Owner::finish`]): its leader has exited, its output is read to the end or long
//! enough, what is left of its group is killed, and only then is the leader reaped. Until then its number cannot be
//! anybody else's, so a signal to its group reaches nobody else.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::launch::{Launch, Launched};
use super::log::Log;
use super::{
    About, Background, Begun, Ended, Exit, Id, LOGS_BYTES_MAX, PROCESSES_MAX, Promoted, Seen, StartError, Told,
    WriteError, sweep,
};
use crate::runtime::clock::Now;
use crate::runtime::{metrics, random};

/// How long a process that is told to end may take; then its group is killed.
pub const GRACE: Duration = Duration::from_secs(2);
/// How long output is waited for after its process has ended: another one may hold the line open.
pub const DRAIN: Duration = Duration::from_millis(250);
/// Ended processes in the background that are remembered; the oldest go first.
pub const ENDED_MAX: usize = 50;
/// Bytes that wait to be read by a process; more are refused.
pub const INPUT_BYTES_MAX: usize = 1024 * 1024;
/// At most one piece of output in this time is shown of a process.
pub const SHOW_EVERY: Duration = Duration::from_millis(250);
/// Bytes of output that one such piece is made of.
pub const SHOWN_BYTES: usize = 2000;
/// How often ends are looked for where the kernel has no handles for processes.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Bytes read of one line before the others have their turn.
const READ_BYTES_PER_TURN: usize = 64 * 1024;
/// What is asked before the processes have their turn.
const ASKS_PER_TURN: usize = 64;

/// Something the owner is to do.
pub(super) type Ask = Box<dyn FnOnce(&mut Owner) + Send>;

pub(super) struct Owner {
    /// Begins every mark.
    mark: String,
    asks: Receiver<Ask>,
    /// Wakes [`Owner::wait`].
    waker: Arc<File>,
    on_end: Arc<dyn Fn(Ended) + Send + Sync>,
    entries: BTreeMap<Id, Entry>,
    /// Everything is to end, and so is the thread.
    is_stopping: bool,
    now: Now,
}

/// A process, and after its end what is remembered of it.
struct Entry {
    about: About,
    log: Log,
    /// Bytes of the log that somebody has been given.
    polled: u64,
    started: Now,
    last_output_ms: i64,
    pid: u32,
    live: Option<Live>,
    exit: Option<Exit>,
    /// When it was found to have ended.
    ended: Option<Now>,
    is_background: bool,
    /// Forgotten as soon as it has ended.
    is_removed: bool,
    /// Who waits for its end while it is in the foreground.
    watcher: Option<Sender<Told>>,
    /// Who waits for news of it.
    waiter: Option<Sender<()>>,
    /// When more output may be shown; `None`: there is none.
    show_at: Option<Instant>,
    shown_at: Option<Instant>,
    is_application_mode: bool,
}

struct Live {
    child: Child,
    pidfd: Option<OwnedFd>,
    output: Vec<File>,
    input: Option<File>,
    is_terminal: bool,
    queued: VecDeque<u8>,
    closes_input: bool,
    /// When it has run long enough.
    deadline: Option<Instant>,
    /// Told to end: when its group is killed.
    kill_at: Option<Instant>,
    why: Option<Exit>,
    /// Its leader has exited: when its output has been waited for long enough.
    drained_at: Option<Instant>,
    status: Option<ExitStatus>,
}

impl Owner {
    pub(super) fn new(
        mark: String,
        asks: Receiver<Ask>,
        waker: Arc<File>,
        on_end: Arc<dyn Fn(Ended) + Send + Sync>,
    ) -> Owner {
        Owner { mark, asks, waker, on_end, entries: BTreeMap::new(), is_stopping: false, now: Now::read() }
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        // What a gateway that was killed left behind.
        let left = sweep::sweep(&self.mark);
        if left > 0 {
            log::warn!("commands of a gateway that was killed still ran and were killed processes={left}");
        }
        while !(self.is_stopping && self.entries.values().all(|entry| entry.live.is_none())) {
            self.wait();
            self.now = Now::read();
            for _ in 0..ASKS_PER_TURN {
                let Ok(ask) = self.asks.try_recv() else { break };
                ask(&mut self);
            }
            self.tend();
        }
        sweep::sweep(&self.mark);
    }

    /// Waits until there is something to do.
    fn wait(&self) {
        let mut polled = vec![libc::pollfd { fd: self.waker.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        let mut until: Option<Instant> = None;
        let mut by = |at: Option<Instant>| until = [until, at].into_iter().flatten().min();
        for entry in self.entries.values() {
            by(entry.show_at);
            let Some(live) = &entry.live else {
                by(entry.forgotten_at());
                continue;
            };
            for fd in &live.output {
                polled.push(libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
            }
            if let Some(input) = live.input.as_ref().filter(|_| !live.queued.is_empty()) {
                polled.push(libc::pollfd { fd: input.as_raw_fd(), events: libc::POLLOUT, revents: 0 });
            }
            by(live.drained_at.or(live.kill_at).or(live.deadline));
            match &live.pidfd {
                _ if live.drained_at.is_some() => {}
                Some(pidfd) => {
                    polled.push(libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
                }
                None => by(Some(self.now.mono + LOOK_EVERY)),
            }
        }
        let timeout = match until {
            _ if !self.asks.is_empty() => 0,
            None => -1,
            // Rounded up, so that what is due is due when it wakes.
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                libc::c_int::try_from(left.as_millis().saturating_add(1)).unwrap_or(libc::c_int::MAX)
            }
        };
        // SAFETY: the pointer and the length are those of one vector, which outlives the call.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
        // Whatever woke it, everything is looked at: there are few processes, and a look costs one call.
        let mut count = [0; 8];
        let _ = (&*self.waker).read(&mut count);
    }

    fn tend(&mut self) {
        let ids: Vec<Id> = self.entries.keys().copied().collect();
        for id in ids {
            self.tend_one(id);
        }
        let now = self.now.mono;
        self.entries.retain(|_, entry| {
            entry.live.is_some() || !(entry.is_removed || entry.forgotten_at().is_some_and(|at| at <= now))
        });
        while self.entries.values().filter(|entry| entry.live.is_none()).count() > ENDED_MAX {
            let ended = self.entries.iter().filter_map(|(id, entry)| Some((entry.ended?.mono, *id)));
            let Some((_, oldest)) = ended.min() else { break };
            self.entries.remove(&oldest);
        }
    }

    fn tend_one(&mut self, id: Id) {
        self.read(id);
        let (now, is_stopping) = (self.now, self.is_stopping);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        if is_due(entry.show_at) {
            entry.show(now.mono);
        }
        let Some(live) = &mut entry.live else { return };
        live.feed();
        if live.status.is_none() {
            live.status = exited(&live.child);
            if live.status.is_some() {
                // Others of its group that were told to end have their time as well, as long as they are heard of.
                live.drained_at = Some(live.kill_at.unwrap_or(now.mono + DRAIN));
            } else if is_due(live.kill_at) {
                live.kill_at = None;
                live.kill();
                metrics::COMMANDS_KILLED.increment();
                sweep::sweep(&format!("{}:{id}", self.mark));
            } else if live.why.is_none() && is_due(live.deadline) {
                live.end(Exit::TimedOut, now.mono);
            } else if live.why.is_none() && is_stopping {
                live.end(Exit::Cancelled, now.mono);
            }
        }
        if live.status.is_some() && (live.output.is_empty() || is_due(live.drained_at)) {
            self.finish(id);
        }
    }

    /// Reads what a process has written.
    fn read(&mut self, id: Id) {
        let mut buffer = [0; 16 * 1024];
        let Some(live) = self.entries.get_mut(&id).and_then(|entry| entry.live.as_mut()) else { return };
        let mut lines = std::mem::take(&mut live.output);
        lines.retain_mut(|line| {
            let mut n_read = 0;
            while n_read < READ_BYTES_PER_TURN {
                match line.read(&mut buffer) {
                    Ok(0) => return false,
                    Ok(n) => {
                        n_read += n;
                        self.wrote(id, &buffer[..n]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // A terminal without anybody on its other side says so with an error.
                    Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
                }
            }
            true
        });
        if let Some(live) = self.entries.get_mut(&id).and_then(|entry| entry.live.as_mut()) {
            live.output = lines;
        }
    }

    fn wrote(&mut self, id: Id, chunk: &[u8]) {
        let now = self.now;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.wrote(chunk, now);
        }
        // Over the bound of all logs the largest gives way.
        let mut over = self.entries.values().map(|entry| entry.log.len()).sum::<usize>().saturating_sub(LOGS_BYTES_MAX);
        while over > 0 {
            let Some(largest) = self.entries.values_mut().max_by_key(|entry| entry.log.len()) else { return };
            over = over.saturating_sub(largest.log.drop_oldest(over).max(1));
        }
    }

    /// A process has ended: nothing of its group runs on, and who waits for it is told.
    fn finish(&mut self, id: Id) {
        // What it wrote last may lie there still.
        self.read(id);
        let now = self.now;
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(mut live) = entry.live.take() else { return };
        // Its leader is not reaped yet, so this is its group and no other's.
        live.kill();
        let status = live.status.or_else(|| live.child.wait().ok());
        if let Err(error) = live.child.wait() {
            log::warn!("a process could not be reaped pid={} error={error}", entry.pid);
        }
        let exit = match (live.why, status) {
            (Some(why), _) => why,
            (None, Some(status)) => match (status.code(), status.signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, signal) => Exit::Signal(signal.unwrap_or(0)),
            },
            (None, None) => Exit::Code(-1),
        };
        drop(live);
        metrics::COMMANDS_RUNNING.add(-1);
        entry.log.settle();
        entry.exit = Some(exit);
        entry.ended = Some(now);
        entry.show_at = None;
        if let Some(waiter) = entry.waiter.take() {
            let _ = waiter.try_send(());
        }
        let ended = entry.ended(id, exit, now);
        if let Some(watcher) = entry.watcher.take() {
            // There is always room for this one: output is only shown when nothing waits.
            let _ = watcher.try_send(Told::Ended(Box::new(ended)));
        } else if entry.is_background && !self.is_stopping && !entry.is_removed {
            (self.on_end)(ended);
        }
        if !self.entries.get(&id).is_some_and(|entry| entry.is_background) {
            self.entries.remove(&id);
        }
    }
}

// What it is asked.
impl Owner {
    pub(super) fn start(&mut self, mut launch: Launch, about: About) -> Result<Begun, StartError> {
        let n_live = self.entries.values().filter(|entry| entry.live.is_some()).count();
        if self.is_stopping {
            return Err(StartError::Stopping);
        }
        if n_live >= PROCESSES_MAX {
            return Err(StartError::TooMany(PROCESSES_MAX));
        }
        let id = loop {
            let id = Id::random();
            if !self.entries.contains_key(&id) {
                break id;
            }
        };
        launch.env.push((sweep::MARK.into(), format!("{}:{id}", self.mark).into()));
        let (timeout, is_terminal) = (launch.timeout, launch.input == super::Input::Terminal);
        let Launched { child, output, input } = launch.start().map_err(StartError::Failed)?;
        let now = Now::read();
        let pid = child.id();
        let (watcher, watch) = bounded(2);
        let live = Live {
            pidfd: libc::pid_t::try_from(pid).ok().and_then(sweep::open),
            child,
            output,
            input,
            is_terminal,
            queued: VecDeque::new(),
            closes_input: false,
            deadline: timeout.and_then(|timeout| now.mono.checked_add(timeout)),
            kill_at: None,
            why: None,
            drained_at: None,
            status: None,
        };
        let entry = Entry {
            about,
            log: Log::default(),
            polled: 0,
            started: now,
            last_output_ms: now.wall_ms,
            pid,
            live: Some(live),
            exit: None,
            ended: None,
            is_background: false,
            is_removed: false,
            watcher: Some(watcher),
            waiter: None,
            show_at: None,
            shown_at: None,
            is_application_mode: false,
        };
        self.entries.insert(id, entry);
        metrics::COMMANDS_STARTED.increment();
        metrics::COMMANDS_RUNNING.add(1);
        Ok(Begun { id, pid, started_ms: now.wall_ms, watch })
    }

    /// Lets a process go on without anybody waiting for it.
    pub(super) fn promote(&mut self, id: Id, max: usize) -> Promoted {
        // What has ended by now has ended: its end is told to who waits.
        self.tend_one(id);
        let n_background = self.entries.values().filter(|entry| entry.is_background && entry.live.is_some()).count();
        match self.entries.get_mut(&id) {
            None => Promoted::Ended,
            Some(_) if n_background >= max => Promoted::Full,
            Some(entry) => {
                entry.is_background = true;
                entry.watcher = None;
                entry.show_at = None;
                // What came so far was shown by who waited.
                entry.polled = 0;
                Promoted::Background(entry.log.tail(SHOWN_BYTES))
            }
        }
    }

    /// Tells a process to end.
    pub(super) fn kill(&mut self, id: Id) -> bool {
        let now = self.now.mono;
        match self.entries.get_mut(&id).and_then(|entry| entry.live.as_mut()) {
            Some(live) if live.status.is_none() => {
                if live.why.is_none() {
                    live.end(Exit::Cancelled, now);
                }
                true
            }
            _ => false,
        }
    }

    /// Tells every process to end, and the thread after them.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// The processes in the background of a scope, the newest first.
    pub(super) fn list(&self, scope: &str) -> Vec<Seen> {
        let in_scope = self.entries.iter().filter(|(_, entry)| entry.is_listed(scope));
        let mut seen: Vec<Seen> = in_scope.map(|(id, entry)| entry.seen(*id)).collect();
        seen.sort_by_key(|seen| std::cmp::Reverse(seen.started_ms));
        seen
    }

    /// One of them.
    pub(super) fn look(&self, id: Id, scope: &str) -> Option<Seen> {
        self.entries.get(&id).filter(|entry| entry.is_listed(scope)).map(|entry| entry.seen(id))
    }

    /// What one of them wrote since it was last asked; who asks is called when there is news.
    pub(super) fn poll(&mut self, id: Id, scope: &str, waiter: Option<Sender<()>>) -> Option<(Seen, String, bool)> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.is_listed(scope))?;
        let has_news = entry.log.total() > entry.polled || entry.live.is_none();
        if !has_news && waiter.is_some() {
            entry.waiter = waiter;
            return Some((entry.seen(id), String::new(), false));
        }
        let dropped = entry.log.total() - entry.log.len() as u64;
        let has_gap = entry.polled < dropped;
        let text = entry.log.text_since(entry.polled);
        entry.polled = entry.log.total();
        Some((entry.seen(id), text, has_gap))
    }

    /// All that is kept of what one of them wrote.
    pub(super) fn log(&self, id: Id, scope: &str) -> Option<(Seen, String)> {
        let entry = self.entries.get(&id).filter(|entry| entry.is_listed(scope))?;
        Some((entry.seen(id), entry.log.text()))
    }

    pub(super) fn write(&mut self, id: Id, scope: &str, bytes: &[u8], closes: bool) -> Result<Seen, WriteError> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.is_listed(scope)).ok_or(WriteError::NotFound)?;
        let live = entry.live.as_mut().filter(|live| live.status.is_none()).ok_or(WriteError::NotFound)?;
        if live.input.is_none() || live.closes_input {
            return Err(WriteError::Closed);
        }
        if live.queued.len() + bytes.len() > INPUT_BYTES_MAX {
            return Err(WriteError::Full);
        }
        live.queued.extend(bytes);
        if closes && live.is_terminal {
            // A terminal has no end but the one that is typed.
            live.queued.push_back(0x04);
        } else {
            live.closes_input |= closes;
        }
        live.feed();
        Ok(entry.seen(id))
    }

    pub(super) fn has_terminal(&self, id: Id) -> bool {
        self.entries.get(&id).and_then(|entry| entry.live.as_ref()).is_some_and(|live| live.is_terminal)
    }

    pub(super) fn is_application_mode(&self, id: Id) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.is_application_mode)
    }

    /// Forgets one that has ended. `None`: there is none.
    pub(super) fn clear(&mut self, id: Id, scope: &str) -> Option<()> {
        self.entries.get(&id).filter(|entry| entry.is_listed(scope) && entry.live.is_none())?;
        self.entries.remove(&id);
        Some(())
    }

    /// Forgets one, and ends it when it still runs; says whether it did.
    pub(super) fn remove(&mut self, id: Id, scope: &str) -> Option<bool> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.is_listed(scope))?;
        entry.is_removed = true;
        let ran = entry.live.is_some();
        self.kill(id);
        if !ran {
            self.entries.remove(&id);
        }
        Some(ran)
    }
}

impl Entry {
    /// Whether somebody who may see this scope is shown it.
    fn is_listed(&self, scope: &str) -> bool {
        self.is_background && !self.is_removed && self.about.scope == scope
    }

    /// When it is forgotten; `None`: not by the clock.
    fn forgotten_at(&self) -> Option<Instant> {
        self.ended?.mono.checked_add(self.about.kept)
    }

    fn wrote(&mut self, chunk: &[u8], now: Now) {
        self.log.push(chunk);
        self.last_output_ms = now.wall_ms;
        if let Some(live) = self.live.as_mut().filter(|live| live.is_terminal) {
            self.is_application_mode = mode(chunk).unwrap_or(self.is_application_mode);
            // Who asks where the cursor is waits for the answer.
            if chunk.windows(4).any(|bytes| bytes == b"\x1b[6n") && live.queued.len() < INPUT_BYTES_MAX {
                live.queued.extend(b"\x1b[1;1R");
            }
        }
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.try_send(());
        }
        if self.watcher.is_some() && self.show_at.is_none() {
            self.show_at = Some(self.shown_at.map_or(now.mono, |at| at + SHOW_EVERY));
        }
    }

    /// Shows the end of what it wrote to who waits for it.
    fn show(&mut self, now: Instant) {
        self.show_at = None;
        self.shown_at = Some(now);
        // Only into an empty line: the end must find room.
        if let Some(watcher) = self.watcher.as_ref().filter(|watcher| watcher.is_empty()) {
            let _ = watcher.try_send(Told::Output(self.log.tail(SHOWN_BYTES)));
        }
    }

    fn seen(&self, id: Id) -> Seen {
        let live = self.live.as_ref();
        Seen {
            id,
            pid: self.pid,
            command: self.about.command.clone(),
            cwd: self.about.cwd.clone(),
            started_ms: self.started.wall_ms,
            ended_ms: self.ended.map(|at| at.wall_ms),
            exit: self.exit,
            is_input_open: live.is_some_and(|live| live.input.is_some() && !live.closes_input),
            last_output_ms: self.last_output_ms,
            tail: self.log.tail(SHOWN_BYTES),
            is_cut: self.log.is_cut(),
        }
    }

    fn ended(&self, id: Id, exit: Exit, now: Now) -> Ended {
        let background = self.is_background.then(|| Background {
            id,
            pid: self.pid,
            session: self.about.session.clone(),
            command: self.about.command.clone(),
            started_ms: self.started.wall_ms,
            notify: self.about.notify,
        });
        Ended {
            exit,
            duration: now.mono.saturating_duration_since(self.started.mono),
            output: if self.is_background { self.log.tail(SHOWN_BYTES) } else { self.log.text() },
            is_cut: self.log.is_cut(),
            background,
        }
    }
}

impl Live {
    /// Tells it to end; after [`GRACE`] it is made to.
    fn end(&mut self, why: Exit, now: Instant) {
        self.why = Some(why);
        self.kill_at = Some(now + GRACE);
        self.signal(libc::SIGTERM);
        // What is stopped hears nothing.
        self.signal(libc::SIGCONT);
    }

    fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// To the whole group. The leader is not reaped while this struct lives, so its number is its own.
    fn signal(&self, signal: libc::c_int) {
        if let Some(group) = libc::pid_t::try_from(self.child.id()).ok().filter(|group| *group > 1) {
            // SAFETY: `kill` takes two numbers and touches no memory.
            unsafe { libc::kill(-group, signal) };
        }
    }

    /// Hands over what waits to be read, as much as is taken.
    fn feed(&mut self) {
        let Some(input) = &mut self.input else { return };
        while !self.queued.is_empty() {
            let (head, _) = self.queued.as_slices();
            match input.write(head) {
                Ok(n) => {
                    self.queued.drain(..n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // Nobody reads any more.
                    self.queued.clear();
                    self.input = None;
                    return;
                }
            }
        }
        if self.closes_input {
            self.input = None;
        }
        self.queued.shrink_to(0);
    }
}

/// How a child ended, which is not reaped by this; `None`: it runs.
fn exited(child: &Child) -> Option<ExitStatus> {
    // SAFETY: all zeroes is a valid `siginfo_t`; the call writes one, and leaves its pid 0 when nothing has happened.
    let info = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_PID, child.id(), &raw mut info, options) != 0 {
            // It is not there to be waited for: somebody else reaped it, and how it ended is not known.
            return Some(ExitStatus::from_raw(libc::SIGKILL));
        }
        if info.si_pid() == 0 {
            return None;
        }
        (info.si_code, info.si_status())
    };
    Some(match info {
        (libc::CLD_EXITED, code) => ExitStatus::from_raw((code & 0xff) << 8),
        (_, signal) => ExitStatus::from_raw(signal & 0x7f),
    })
}

/// Whether output switches a terminal to application mode, or back; `None`: neither.
fn mode(chunk: &[u8]) -> Option<bool> {
    let last = |wanted: &[u8]| chunk.windows(wanted.len()).rposition(|bytes| bytes == wanted);
    match (last(b"\x1b[?1h"), last(b"\x1b[?1l")) {
        (None, None) => None,
        (on, off) => Some(on > off),
    }
}

impl Id {
    fn random() -> Id {
        Id(u32::from_le_bytes(random::bytes()))
    }
}
