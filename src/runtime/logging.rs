//! The log: one line format, one thread that writes it.
//!
//! ```text
//! 2026-09-06T12:34:56.789Z info net listening address=127.0.0.1:18789
//! ```
//!
//! Time (UTC), level, the room that speaks, a lower-case sentence, fields. Control characters are written as escapes,
//! so whatever a peer puts into a name stays inside its line. A [`Redactor`] sees every line before it leaves.
//!
//! Lines go through a bounded queue to the `log` thread, which writes stderr and the file: whoever logs never waits for
//! a disk or a terminal. Lines that find the queue full are counted, and the next line that gets through says how many.
//!
//! Anything a peer can trigger at will is logged by [`log_limited!`](crate::log_limited), which lets a few lines through for each place
//! and window.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::{clock, metrics, pool, threads};

/// Lines that may wait for the `log` thread; more are dropped and counted.
pub const QUEUE_LINES_MAX: usize = 1024;
/// Longest line in bytes; the rest is cut.
pub const LINE_BYTES_MAX: usize = 8 * 1024;
/// Size at which the file is set aside as `<name>.1`, replacing the one before.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long [`Logger::stop`] waits for the thread to write what is queued.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(2);
/// Lines one place may log in each window by [`log_limited!`](crate::log_limited).
pub const LIMITED_LINES_PER_WINDOW: u64 = 10;
/// Length of that window.
pub const LIMITED_WINDOW: Duration = Duration::from_secs(10);

/// Takes secrets out of a line.
pub type Redactor = Box<dyn Fn(&str) -> String + Send + Sync>;

/// Where lines go and which of them.
pub struct Options {
    /// The least serious level that is written.
    pub level: LevelFilter,
    /// The least serious level that is written to stderr as well; `Off` for none.
    pub console_level: LevelFilter,
    /// Write to this file; its directory is made when it is missing.
    pub file: Option<PathBuf>,
    /// Sees each line before it is written.
    pub redactor: Option<Redactor>,
}

enum Message {
    Line(Level, String),
    Stop,
}

/// The sink that `log`'s macros reach. One per process, because `log` knows only one.
struct Sink {
    lines: Sender<Message>,
    redactor: RwLock<Option<Redactor>>,
    dropped: AtomicU64,
}

static SINK: OnceLock<Sink> = OnceLock::new();
/// The level of stderr, as `log` counts levels: 0 is off. Set by whoever configures, read by the `log` thread.
static CONSOLE_LEVEL: AtomicUsize = AtomicUsize::new(LevelFilter::Info as usize);

/// Stands in for the sink in `log`'s own static; the sink itself has a destructor-free place of its own.
struct Front;

/// The running `log` thread.
pub struct Logger {
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Logger {
    /// Starts the `log` thread and takes over `log`'s macros. The file's problems are no reason not to start: they
    /// are logged to stderr, and the daemon runs without a file.
    ///
    /// # Errors
    /// When the thread can't be started, or a logger is already installed.
    pub fn start(options: Options) -> io::Result<Logger> {
        let (lines, queue) = bounded(QUEUE_LINES_MAX);
        let sink = Sink { lines, redactor: RwLock::new(options.redactor), dropped: AtomicU64::new(0) };
        if SINK.set(sink).is_err() || log::set_logger(&Front).is_err() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a logger is already installed"));
        }
        set_levels(options.level, options.console_level);
        let (file, problem) = match options.file.map(|path| LogFile::open(path, FILE_BYTES_MAX)) {
            Some(Ok(file)) => (Some(file), None),
            Some(Err((path, error))) => (None, Some((path, error))),
            None => (None, None),
        };
        let writer = Writer { queue, file };
        let thread = threads::spawn("log", threads::STACK_BYTES, move || writer.run())?;
        std::panic::set_hook(Box::new(|info| {
            // The static release knows the line and not the file.
            let place = info.location().map_or_else(String::new, |at| format!(" at={}:{}", at.file(), at.line()));
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("unnamed");
            log::error!("panic: {} thread={name}{place}", pool::panic_text(info.payload()));
        }));
        if let Some((path, error)) = problem {
            log::error!("cannot write the log file: {error} path={}", path.display());
        }
        Ok(Logger { thread: Mutex::new(Some(thread)) })
    }

    /// Writes what is queued and ends the thread, waiting at most [`STOP_TIME_MAX`]. Later lines are dropped.
    pub fn stop(&self) {
        let Some(thread) = self.thread.lock().ok().and_then(|mut thread| thread.take()) else { return };
        if let Some(sink) = SINK.get() {
            let _ = sink.lines.send_timeout(Message::Stop, STOP_TIME_MAX);
        }
        pool::join_until(thread, Instant::now() + STOP_TIME_MAX);
    }
}

/// Changes which lines are written at all, and which to stderr as well.
pub fn set_levels(level: LevelFilter, console_level: LevelFilter) {
    log::set_max_level(level);
    CONSOLE_LEVEL.store(console_level as usize, Ordering::Relaxed);
}

/// Changes what takes secrets out of lines: a reloaded configuration has other ones.
pub fn set_redactor(redactor: Redactor) {
    if let Some(sink) = SINK.get() {
        *sink.redactor.write().unwrap_or_else(PoisonError::into_inner) = Some(redactor);
    }
}

impl Log for Front {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let Some(sink) = SINK.get() else { return };
        if !self.enabled(record.metadata()) || !is_ours_or_serious(record) {
            return;
        }
        let mut line = format_line(clock::wall_ms(), record.level(), room(record.target()), record.args());
        // A poisoned lock still holds a whole redactor: it is only ever replaced.
        let redactor = sink.redactor.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(redactor) = redactor.as_ref() {
            line = redactor(&line);
        }
        sink.push(record.level(), line);
    }

    fn flush(&self) {}
}

impl Sink {
    fn push(&self, level: Level, line: String) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let args = format_args!("log lines were dropped because the log thread did not keep up lines={dropped}");
            let notice = format_line(clock::wall_ms(), Level::Warn, "runtime", &args);
            if self.lines.try_send(Message::Line(Level::Warn, notice)).is_err() {
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
        if let Err(TrySendError::Full(_)) = self.lines.try_send(Message::Line(level, line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            metrics::LOG_LINES_DROPPED.increment();
        }
    }
}

/// Libraries may warn; what they tell at lower levels is about sockets and statements, one line for each.
fn is_ours_or_serious(record: &Record<'_>) -> bool {
    record.target().starts_with("openclaw_rs") || record.level() <= Level::Warn
}

/// `openclaw_rs::net::server` speaks as `net`, a library under its own name.
fn room(target: &str) -> &str {
    let inside = target.strip_prefix("openclaw_rs::").unwrap_or(target);
    inside.split("::").next().unwrap_or(inside)
}

/// One line without its line end.
fn format_line(wall_ms: i64, level: Level, room: &str, args: &dyn std::fmt::Display) -> String {
    let mut line = String::with_capacity(128);
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let _ = write!(line, "{} {level} {room} ", clock::iso(wall_ms));
    let _ = write!(Escaped { out: &mut line }, "{args}");
    line
}

/// Writes text with its control characters as escapes, up to [`LINE_BYTES_MAX`].
struct Escaped<'a> {
    out: &'a mut String,
}

impl std::fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            if self.out.len() + c.len_utf8() > LINE_BYTES_MAX {
                return Err(std::fmt::Error);
            }
            match c {
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                // Beside the C0 and C1 controls: the marks that reorder or hide text in a terminal.
                c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') => {
                    let _ = write!(self.out, "\\u{{{:x}}}", c as u32);
                }
                c => self.out.push(c),
            }
        }
        Ok(())
    }
}

/// The `log` thread.
struct Writer {
    queue: Receiver<Message>,
    file: Option<LogFile>,
}

impl Writer {
    fn run(mut self) {
        while let Ok(Message::Line(level, mut line)) = self.queue.recv() {
            line.push('\n');
            if level as usize <= CONSOLE_LEVEL.load(Ordering::Relaxed) {
                // Nobody is left to be told when stderr is closed.
                let _ = io::stderr().write_all(line.as_bytes());
            }
            if let Some(file) = &mut self.file
                && let Err(error) = file.write(line.as_bytes())
            {
                let _ = writeln!(io::stderr(), "cannot write the log file {}: {error}", file.path.display());
                self.file = None;
            }
        }
    }
}

/// A file that is set aside when it has grown.
struct LogFile {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    size_bytes_max: u64,
}

impl LogFile {
    fn open(path: PathBuf, size_bytes_max: u64) -> Result<LogFile, (PathBuf, io::Error)> {
        let opened = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| append(&path));
        match opened.and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((size_bytes, file)) => Ok(LogFile { path, file, size_bytes, size_bytes_max }),
            Err(error) => Err((path, error)),
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size_bytes > 0 && self.size_bytes + line.len() as u64 > self.size_bytes_max {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            self.file = append(&self.path)?;
            self.size_bytes = 0;
        }
        self.file.write_all(line)?;
        self.size_bytes += line.len() as u64;
        Ok(())
    }
}

/// Lines may name sessions and devices: the file is for its owner only.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Lets [`LIMITED_LINES_PER_WINDOW`] lines of one place through in each [`LIMITED_WINDOW`]. Used by [`log_limited!`](crate::log_limited).
#[derive(Debug)]
pub struct Limiter {
    state: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    began: Option<Instant>,
    lines: u64,
    left_out: u64,
}

impl Limiter {
    /// A place that has not logged yet.
    #[expect(clippy::new_without_default, reason = "made only in a static, by the macro")]
    pub const fn new() -> Limiter {
        Limiter { state: Mutex::new(Window { began: None, lines: 0, left_out: 0 }) }
    }

    /// Whether a line may be written at `now`, and how many were left out before it.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        // Held for a few instructions by whoever logs at this place; a poisoned one costs a log line.
        let mut window = self.state.lock().ok()?;
        let over = window.began.is_none_or(|began| now.saturating_duration_since(began) >= LIMITED_WINDOW);
        if over {
            window.began = Some(now);
            window.lines = 0;
        }
        if window.lines < LIMITED_LINES_PER_WINDOW {
            window.lines += 1;
            return Some(std::mem::take(&mut window.left_out));
        }
        window.left_out += 1;
        metrics::LOG_LINES_LIMITED.increment();
        None
    }
}

/// Logs at a place that peers can reach at will: `log_limited!(Warn, "closing connection: {reason} conn={id}")`.
#[macro_export]
macro_rules! log_limited {
    ($level:ident, $($arg:tt)+) => {{
        if log::log_enabled!(log::Level::$level) {
            static LIMITER: $crate::runtime::logging::Limiter = $crate::runtime::logging::Limiter::new();
            match LIMITER.pass(std::time::Instant::now()) {
                Some(0) => log::log!(log::Level::$level, $($arg)+),
                Some(left_out) => log::log!(log::Level::$level, "{} left_out={left_out}", format_args!($($arg)+)),
                None => {}
            }
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &dyn std::fmt::Display) -> String {
        format_line(1_737_264_000_007, Level::Warn, room("openclaw_rs::net::server"), args)
    }

    #[test]
    fn a_line_has_time_level_room_and_text() {
        assert_eq!(line(&"closing conn=17"), "2025-01-19T05:20:00.007Z warn net closing conn=17");
        assert_eq!(room("tiny_http"), "tiny_http");
    }

    #[test]
    fn a_peer_cannot_start_a_line_of_its_own() {
        let text = line(&"name=x\n2025-01-19T05:20:00.007Z error net all is lost\r\u{1b}[2J\u{202e}\u{9b}\0");
        assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text}");
        assert!(text.contains("x\\n2025") && text.contains("\\u{1b}[2J\\u{202e}\\u{9b}\\u{0}"), "{text}");
    }

    #[test]
    fn a_line_is_cut_at_its_limit() {
        assert_eq!(line(&"é".repeat(LINE_BYTES_MAX)).len().div_ceil(2), LINE_BYTES_MAX / 2);
    }

    #[test]
    fn a_full_file_is_set_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs").join("test.log");
        let Ok(mut file) = LogFile::open(path.clone(), 10) else { panic!("cannot open") };
        for text in ["one---\n", "two\n", "three\n", "four-----------\n", "five\n"] {
            file.write(text.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "five\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("logs/test.log.1")).unwrap(), "four-----------\n");
        assert_eq!(std::fs::read_dir(dir.path().join("logs")).unwrap().count(), 2);
        let Ok(again) = LogFile::open(path, 10) else { panic!("cannot open") };
        assert_eq!(again.size_bytes, 5, "an old file counts towards the limit");
    }

    #[test]
    fn what_is_queued_is_written_before_the_thread_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.log");
        let (lines, queue) = bounded(8);
        let file = LogFile::open(path.clone(), FILE_BYTES_MAX).ok();
        let thread = threads::spawn("test-log", threads::STACK_BYTES, move || Writer { queue, file }.run()).unwrap();
        for text in ["one", "two"] {
            // Below the console's level, so that the test stays quiet.
            lines.send(Message::Line(Level::Trace, text.to_owned())).unwrap();
        }
        lines.send(Message::Stop).unwrap();
        thread.join().unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_place_logs_a_few_lines_and_then_says_what_it_left_out() {
        let limiter = Limiter::new();
        let start = Instant::now();
        for _ in 0..LIMITED_LINES_PER_WINDOW {
            assert_eq!(limiter.pass(start), Some(0));
        }
        assert_eq!(limiter.pass(start), None);
        assert_eq!(limiter.pass(start), None);
        assert_eq!(limiter.pass(start + LIMITED_WINDOW), Some(2));
        assert_eq!(limiter.pass(start + LIMITED_WINDOW), Some(0));
    }

    #[test]
    fn a_full_queue_drops_lines_and_says_so() {
        let (lines, queue) = bounded(1);
        let sink = Sink { lines, redactor: RwLock::new(None), dropped: AtomicU64::new(0) };
        sink.push(Level::Info, "one".into());
        sink.push(Level::Info, "two".into());
        sink.push(Level::Info, "three".into());
        let Ok(Message::Line(_, first)) = queue.try_recv() else { panic!("nothing queued") };
        assert_eq!(first, "one");
        sink.push(Level::Info, "four".into());
        let Ok(Message::Line(Level::Warn, notice)) = queue.try_recv() else { panic!("nothing queued") };
        assert!(notice.ends_with("lines=2"), "{notice}");
        assert_eq!(sink.dropped.load(Ordering::Relaxed), 1, "the line that made way for the notice");
    }
}
