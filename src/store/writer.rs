//! The `store` thread: the one that writes.
//!
//! A caller hands over a [`WriteJob`], which says what to write and how its failure is reported. The thread takes a
//! job, and with it whatever else is waiting (up to [`GROUP_JOBS_MAX`] jobs or [`GROUP_TIME_MAX`]), runs them in the
//! order they came, each in a savepoint of its own, inside one transaction, and commits. Only then do the reports go
//! out, in the same order. So
//!
//! - what has been reported as done is committed,
//! - a job that fails or panics undoes its own writes and nobody else's,
//! - when the commit fails, every job of the group reports failure and nothing of the group is kept,
//! - under load many jobs share one commit; a lone job never waits for company.
//!
//! Reports are handed to a sink, which is called on this thread: it must not wait for something that waits for the
//! store.
//!
//! The log of changes is folded back into the file after the reports are out, so nobody's answer waits for that.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::runtime::threads::{self, STACK_BYTES_DEEP};

use super::StoreError;
use super::db::{Db, Queries};
use super::open::{Database, FreshFile, Tuning};

/// Jobs that may wait; beyond it a submitter gets its job back, and its client is asked to try again.
pub const WRITE_QUEUE_MAX: usize = 1024;
/// Jobs in one transaction at most.
pub const GROUP_JOBS_MAX: usize = 256;
/// How long a transaction takes in further jobs, counted from its first one.
pub const GROUP_TIME_MAX: Duration = Duration::from_millis(5);
/// Pages (4 KiB) in the log after which it is folded back into the file: bounds the log at about 2 MiB, and the work
/// done at once.
pub const CHECKPOINT_PAGES: i64 = 512;
/// Pages (4 KiB) of the file that may lie unused, for what is written next; beyond them the disk gets back
/// [`GIVE_BACK_PAGES`] each time the log is folded back (STORE-41).
pub const FREE_PAGES_KEPT: i64 = 1024;
/// Pages given back to the disk at once, so that nobody waits long for it.
pub const GIVE_BACK_PAGES: i64 = 256;
/// How long closing waits for readers before it leaves the rest of the log for the next start.
pub const CLOSE_WAIT: Duration = Duration::from_millis(100);
const _: () = assert!(GROUP_JOBS_MAX <= WRITE_QUEUE_MAX);

/// Why a job's writes are to be undone.
#[derive(Debug)]
pub enum Undo<R> {
    /// The store failed; the job's failure is reported.
    Failed(StoreError),
    /// The job itself decided against it, for the caller's reasons; this is its report.
    Refused(R),
}

impl<R> From<StoreError> for Undo<R> {
    fn from(error: StoreError) -> Undo<R> {
        Undo::Failed(error)
    }
}

/// Makes a change and the report of it, or has what it wrote so far undone.
pub type Run<R> = Box<dyn FnOnce(&Db<'_>) -> Result<R, Undo<R>> + Send>;
/// Makes the report of a failure.
pub type Fail<R> = Box<dyn FnOnce(&StoreError) -> R + Send>;

/// One change to the store, and how to report that it failed.
pub struct WriteJob<R> {
    /// Makes the change and its report. Runs on the `store` thread, inside a transaction; the report is handed out
    /// only when that is committed. It must be quick, and must not wait for anything.
    pub run: Run<R>,
    /// Makes the report of a failure; the change was then not made.
    pub fail: Fail<R>,
}

impl<R> std::fmt::Debug for WriteJob<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriteJob")
    }
}

impl<R> WriteJob<R> {
    /// A job of these two halves.
    pub fn new(
        run: impl FnOnce(&Db<'_>) -> Result<R, Undo<R>> + Send + 'static,
        fail: impl FnOnce(&StoreError) -> R + Send + 'static,
    ) -> WriteJob<R> {
        WriteJob { run: Box::new(run), fail: Box::new(fail) }
    }
}

/// Why a job was not taken; it comes back untouched.
#[derive(Debug)]
pub enum NotTaken<R> {
    /// [`WRITE_QUEUE_MAX`] jobs are waiting.
    Full(WriteJob<R>),
    /// The store has stopped.
    Stopped(WriteJob<R>),
}

/// What the `store` thread has done so far. Read from any thread, for metrics and health.
#[derive(Debug, Default)]
pub struct WriterStats {
    groups: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    panicked: AtomicU64,
    checkpoints: AtomicU64,
    groups_failing: AtomicU64,
}

/// One reading of [`WriterStats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterCounts {
    /// Transactions that were tried.
    pub groups: u64,
    /// Jobs reported as done, and those that decided against their change themselves.
    pub done: u64,
    /// Jobs reported as failed.
    pub failed: u64,
    /// Of the failed ones, those that panicked.
    pub panicked: u64,
    /// Times the log was folded back.
    pub checkpoints: u64,
    /// Transactions that could not be opened or committed since the last one that was: above 0 the store is degraded.
    pub groups_failing: u64,
}

impl WriterStats {
    /// Reads all counters; each is right, together they may be a moment apart.
    pub fn counts(&self) -> WriterCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WriterCounts {
            groups: read(&self.groups),
            done: read(&self.done),
            failed: read(&self.failed),
            panicked: read(&self.panicked),
            checkpoints: read(&self.checkpoints),
            groups_failing: read(&self.groups_failing),
        }
    }
}

enum Message<R> {
    Job(WriteJob<R>),
    Stop,
}

/// The way to the `store` thread; clones go to whoever writes.
pub struct WriterHandle<R> {
    queue: Sender<Message<R>>,
    stats: Arc<WriterStats>,
}

impl<R> Clone for WriterHandle<R> {
    fn clone(&self) -> WriterHandle<R> {
        WriterHandle { queue: self.queue.clone(), stats: Arc::clone(&self.stats) }
    }
}

impl<R> std::fmt::Debug for WriterHandle<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriterHandle").field("depth", &self.depth()).finish_non_exhaustive()
    }
}

impl<R> WriterHandle<R> {
    /// Queues a job without waiting; for the loop.
    ///
    /// A job that is queued while the store stops may be dropped without any report. It is never reported as done.
    ///
    /// # Errors
    /// The job itself, when the queue is full or the store has stopped.
    pub fn try_submit(&self, job: WriteJob<R>) -> Result<(), NotTaken<R>> {
        self.queue.try_send(Message::Job(job)).map_err(|error| match error {
            TrySendError::Full(message) => NotTaken::Full(message.into_job()),
            TrySendError::Disconnected(message) => NotTaken::Stopped(message.into_job()),
        })
    }

    /// Queues a job, waiting up to `limit` for room; for pool threads, never for the loop.
    ///
    /// # Errors
    /// As [`WriterHandle::try_submit`].
    pub fn submit(&self, job: WriteJob<R>, limit: Duration) -> Result<(), NotTaken<R>> {
        self.queue.send_timeout(Message::Job(job), limit).map_err(|error| match error {
            SendTimeoutError::Timeout(message) => NotTaken::Full(message.into_job()),
            SendTimeoutError::Disconnected(message) => NotTaken::Stopped(message.into_job()),
        })
    }

    /// Jobs that are waiting.
    pub fn depth(&self) -> usize {
        self.queue.len()
    }

    /// What the thread has done so far.
    pub fn stats(&self) -> &WriterStats {
        &self.stats
    }
}

impl<R> Message<R> {
    /// Only jobs are submitted, so only jobs come back.
    fn into_job(self) -> WriteJob<R> {
        match self {
            Message::Job(job) => job,
            Message::Stop => unreachable!("only Writer::stop sends Stop, and it does not ask for it back"),
        }
    }
}

/// The running `store` thread.
pub struct Writer<R> {
    handle: WriterHandle<R>,
    thread: JoinHandle<()>,
    stopped: Receiver<()>,
    path: PathBuf,
    tuning: Tuning,
}

impl<R> std::fmt::Debug for Writer<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<R: Send + 'static> Writer<R> {
    /// Moves the database to a thread named `store`, which hands every report to `sink`.
    ///
    /// # Errors
    /// [`StoreError::Thread`].
    pub fn start(database: Database, sink: impl FnMut(R) + Send + 'static) -> Result<Writer<R>, StoreError> {
        Writer::start_with(database, GROUP_TIME_MAX, sink)
    }

    fn start_with(
        database: Database,
        group_time_max: Duration,
        sink: impl FnMut(R) + Send + 'static,
    ) -> Result<Writer<R>, StoreError> {
        let (path, tuning) = (database.path().to_owned(), database.tuning());
        let (sender, queue) = bounded(WRITE_QUEUE_MAX);
        let (stopping, stopped) = bounded(1);
        let stats = Arc::new(WriterStats::default());
        let (queries, fresh) = database.into_parts();
        let worker = Worker { queries, fresh, settled: false, queue, sink, stats: Arc::clone(&stats), group_time_max };
        let body = move || {
            worker.work();
            // Dropped here: whoever waits for the end sees it.
            drop(stopping);
        };
        let thread = threads::spawn("store", STACK_BYTES_DEEP, body).map_err(StoreError::Thread)?;
        Ok(Writer { handle: WriterHandle { queue: sender, stats }, thread, stopped, path, tuning })
    }

    /// The way to hand it jobs.
    pub fn handle(&self) -> WriterHandle<R> {
        self.handle.clone()
    }

    /// The database file; readers are opened on it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How readers connect to it.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// Finishes what waits, reports it, folds the log back into the file, closes it and joins the thread.
    ///
    /// # Errors
    /// [`StoreError::StopTimeout`] when that takes longer than `limit`; the thread is then left to itself, and what
    /// it still commits is committed.
    pub fn stop(self, limit: Duration) -> Result<WriterCounts, StoreError> {
        let deadline = Instant::now() + limit;
        let timeout = || StoreError::StopTimeout { limit_ms: limit.as_millis() };
        // The thread takes jobs until it is told to stop, so there will be room.
        if let Err(SendTimeoutError::Timeout(_)) = self.handle.queue.send_deadline(Message::Stop, deadline) {
            return Err(timeout());
        }
        if let Err(crossbeam_channel::RecvTimeoutError::Timeout) = self.stopped.recv_deadline(deadline) {
            return Err(timeout());
        }
        if let Err(panic) = self.thread.join() {
            return Err(StoreError::Panicked { message: panic_text(&*panic) });
        }
        Ok(self.handle.stats.counts())
    }
}

/// What the thread owns.
struct Worker<R, S> {
    queries: Queries,
    fresh: Option<FreshFile>,
    settled: bool,
    queue: Receiver<Message<R>>,
    sink: S,
    stats: Arc<WriterStats>,
    group_time_max: Duration,
}

/// A job that has run: its report if it went well, and what to say if it did not after all.
struct Ran<R> {
    outcome: Result<R, Undo<R>>,
    fail: Fail<R>,
}

impl<R> Ran<R> {
    fn failure(&self) -> Option<&StoreError> {
        match &self.outcome {
            Err(Undo::Failed(error)) => Some(error),
            Ok(_) | Err(Undo::Refused(_)) => None,
        }
    }
}

impl<R, S: FnMut(R)> Worker<R, S> {
    fn work(mut self) {
        let mut go_on = true;
        while go_on {
            go_on = match self.queue.recv() {
                Ok(Message::Job(first)) => self.group(first),
                Ok(Message::Stop) | Err(_) => false,
            };
            self.settle();
        }
        // What was queued before the stop is done; what comes later finds the queue gone.
        while let Ok(Message::Job(first)) = self.queue.try_recv() {
            self.group(first);
        }
        self.queries.conn().busy_timeout(CLOSE_WAIT).ok();
        self.checkpoint("TRUNCATE");
    }

    /// Has a file that was made by this process written through to the disk, once.
    fn settle(&mut self) {
        let Some(fresh) = self.fresh.as_ref().filter(|_| !self.settled) else { return };
        self.settled = true;
        if let Err(error) = fresh.settle(self.queries.conn()) {
            log::error!("the new database could not be written through to the disk: {error}");
        }
    }

    /// Runs a transaction's worth of jobs; returns whether the thread goes on.
    fn group(&mut self, first: WriteJob<R>) -> bool {
        let started = Instant::now();
        let mut ran = Vec::new();
        let mut go_on = true;
        let outcome = self.run_group(first, started, &mut ran, &mut go_on);
        self.stats.groups.fetch_add(1, Ordering::Relaxed);
        match &outcome {
            Ok(()) => self.stats.groups_failing.store(0, Ordering::Relaxed),
            Err(error) => {
                let n_failing = self.stats.groups_failing.fetch_add(1, Ordering::Relaxed) + 1;
                // Once when it begins and then ever more rarely: a full disk lasts, and the log is on a disk too.
                if n_failing.is_power_of_two() {
                    let cause = ran.iter().find_map(Ran::failure).unwrap_or(error);
                    log::error!("store transaction failed: {cause} jobs={} failing={n_failing}", ran.len());
                }
            }
        }
        self.report(ran, outcome.err());
        if self.log_pages() >= CHECKPOINT_PAGES {
            self.checkpoint("PASSIVE");
            if let Err(error) = give_back(self.queries.conn()) {
                log::warn!("unused space of the database was not given back: {error}");
            }
        }
        go_on
    }

    /// The transaction itself. An error means that nothing of the group was kept.
    fn run_group(
        &self,
        first: WriteJob<R>,
        started: Instant,
        ran: &mut Vec<Ran<R>>,
        go_on: &mut bool,
    ) -> Result<(), StoreError> {
        let conn = self.queries.conn();
        let tx = match Transaction::new_unchecked(conn, TransactionBehavior::Immediate) {
            Ok(tx) => tx,
            Err(error) => {
                let (own, cause) = (StoreError::from(error), String::from("it could not begin"));
                ran.push(Ran { outcome: Err(Undo::Failed(own)), fail: first.fail });
                return Err(StoreError::GroupLost { cause });
            }
        };
        let db = Db::inside_transaction(&self.queries);
        let mut next = Some(first);
        while let Some(job) = next.take() {
            ran.push(Ran { outcome: run_job(conn, &db, job.run), fail: job.fail });
            // SQLite gives up the whole transaction on some failures (no space, no memory, a failing disk).
            if conn.is_autocommit() {
                let cause = ran.last().and_then(Ran::failure).map_or_else(String::new, StoreError::to_string);
                return Err(StoreError::GroupLost { cause });
            }
            if ran.len() < GROUP_JOBS_MAX && started.elapsed() < self.group_time_max {
                match self.queue.try_recv() {
                    Ok(Message::Job(job)) => next = Some(job),
                    Ok(Message::Stop) => *go_on = false,
                    Err(_) => {}
                }
            }
            if !*go_on {
                next = None;
            }
        }
        tx.commit().map_err(StoreError::from)
    }

    /// Hands out the reports of a group. With `lost`, what the jobs did is gone, also of those that went well.
    fn report(&mut self, ran: Vec<Ran<R>>, lost: Option<StoreError>) {
        for Ran { outcome, fail } in ran {
            let report = match (outcome, &lost) {
                (Ok(report), None) | (Err(Undo::Refused(report)), _) => {
                    self.stats.done.fetch_add(1, Ordering::Relaxed);
                    Some(report)
                }
                (Ok(_), Some(lost)) => self.failed(fail, lost),
                (Err(Undo::Failed(own)), _) => self.failed(fail, &own),
            };
            if let Some(report) = report {
                let sunk = catch_unwind(AssertUnwindSafe(|| (self.sink)(report)));
                if let Err(panic) = sunk {
                    log::error!("receiver of store reports panicked: {}", panic_text(&*panic));
                }
            }
        }
    }

    /// The report of a failure; none when making it panics, which must not take the other reports along.
    fn failed(&self, fail: Fail<R>, error: &StoreError) -> Option<R> {
        self.stats.failed.fetch_add(1, Ordering::Relaxed);
        if let StoreError::Panicked { message } = error {
            self.stats.panicked.fetch_add(1, Ordering::Relaxed);
            log::error!("store job panicked: {message}");
        }
        let report = catch_unwind(AssertUnwindSafe(|| fail(error)));
        report.inspect_err(|panic| log::error!("failure report of a store job panicked: {}", panic_text(&**panic))).ok()
    }

    /// Pages in the log that are not in the file yet.
    fn log_pages(&self) -> i64 {
        checkpoint_row(self.queries.conn(), "NOOP").map_or(0, |(pages, folded)| pages - folded)
    }

    /// Folds the log back as far as readers allow. A failure loses nothing: the log stays, and is tried again.
    fn checkpoint(&self, mode: &str) {
        match checkpoint_row(self.queries.conn(), mode) {
            Ok(_) => _ = self.stats.checkpoints.fetch_add(1, Ordering::Relaxed),
            Err(error) => log::warn!("checkpoint failed: {error}"),
        }
    }
}

/// Runs `PRAGMA wal_checkpoint` and returns the pages in the log and, of these, the pages already in the file.
fn checkpoint_row(conn: &Connection, mode: &str) -> rusqlite::Result<(i64, i64)> {
    conn.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// Shrinks the file by [`GIVE_BACK_PAGES`] at most, when more than [`FREE_PAGES_KEPT`] lie unused.
fn give_back(conn: &Connection) -> rusqlite::Result<()> {
    let n_free: i64 = conn.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get(0))?;
    let n_given = (n_free - FREE_PAGES_KEPT).min(GIVE_BACK_PAGES);
    if n_given > 0 {
        let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({n_given})"))?;
        // Each step frees one page.
        let mut steps = statement.query([])?;
        while steps.next()?.is_some() {}
    }
    Ok(())
}

/// Runs one job in a savepoint: its writes are kept when it returns `Ok` and undone otherwise.
fn run_job<R>(conn: &Connection, db: &Db<'_>, run: Run<R>) -> Result<R, Undo<R>> {
    let statement = |sql| -> Result<(), StoreError> { Ok(conn.prepare_cached(sql)?.execute([]).map(|_| ())?) };
    statement("SAVEPOINT job")?;
    let outcome = match catch_unwind(AssertUnwindSafe(|| run(db))) {
        Ok(Ok(report)) => statement("RELEASE job").map(|()| report).map_err(Undo::Failed),
        Ok(Err(undo)) => Err(undo),
        Err(panic) => Err(Undo::Failed(StoreError::Panicked { message: panic_text(&*panic) })),
    };
    if outcome.is_err() && !conn.is_autocommit() {
        // When undoing fails the savepoint is still open, and committing would keep half a job.
        let undone = statement("ROLLBACK TO job").and_then(|()| statement("RELEASE job"));
        if undone.is_err() {
            conn.execute_batch("ROLLBACK").ok();
        }
    }
    outcome
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown reason").to_owned()
}

#[cfg(test)]
mod tests;
