//! A fixed pool of named threads with a bounded queue.
//!
//! A job is a ticket (who it is for) and the work (a closure that is given the thread's own worker state). When the
//! work is done, `deliver` gets the ticket back together with the result, or with [`Panicked`]: a panic costs its own
//! job and nothing else. A full queue hands the job back to the caller, who has an answer for it.
//!
//! Threads start with the first job that finds no idle one, so a pool that is never used costs no stack. A thread that
//! has had nothing to do for [`REST_AFTER`] gives its worker state up and makes a new one: what the state keeps at hand
//! for the next job (a connection, a cache) is worth its memory only while jobs come.
//!
//! **Invariant:** [`Pool::try_submit`] never waits. `deliver` may: it runs on the pool's thread.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::metrics::{self, Gauge};
use super::threads;

/// How often a join looks whether the thread has ended.
const JOIN_STEP: Duration = Duration::from_millis(2);
/// How long a thread keeps its used worker state without a job. Short beside the time between a person's messages, long
/// beside the steps of one answer.
pub const REST_AFTER: Duration = Duration::from_millis(500);

/// What a pool is called and how large it is.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Threads are called `name-0`, `name-1`, …
    pub name: &'static str,
    /// How many threads at most; at least 1.
    pub threads: usize,
    /// How many jobs may wait; at least 1.
    pub queue_jobs_max: usize,
    /// Stack of each thread in bytes.
    pub stack_bytes: usize,
    /// Where the number of waiting jobs is shown.
    pub depth: &'static Gauge,
    /// Where the number of jobs being worked on is shown.
    pub active: &'static Gauge,
}

/// A job panicked with this text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(pub String);

/// The work of a job.
pub type Work<W, R> = Box<dyn FnOnce(&mut W) -> R + Send>;

/// Threads that do jobs. `T` is a job's ticket, `W` a thread's own state, `R` a job's result.
pub struct Pool<T, W, R> {
    spec: Spec,
    // Dropped before the threads are joined, which is what makes them end.
    jobs: Option<Sender<(T, Work<W, R>)>>,
    shared: Arc<Shared<T, W, R>>,
    threads: Vec<(String, JoinHandle<()>)>,
}

/// What the threads of one pool have in common.
struct Shared<T, W, R> {
    queue: Receiver<(T, Work<W, R>)>,
    /// Jobs submitted and not yet delivered.
    unfinished: AtomicUsize,
    make_worker: Box<dyn Fn() -> W + Send + Sync>,
    deliver: Box<dyn Fn(T, Result<R, Panicked>) + Send + Sync>,
    depth: &'static Gauge,
    active: &'static Gauge,
}

impl<T: Send + 'static, W: 'static, R: 'static> Pool<T, W, R> {
    /// A pool without threads yet. `make_worker` runs on each thread as it starts, again when it rests ([`REST_AFTER`]), and
    /// again after a panic, because the old state may be half changed.
    ///
    /// # Panics
    /// When the spec asks for no threads or no queue.
    pub fn new(
        spec: Spec,
        make_worker: impl Fn() -> W + Send + Sync + 'static,
        deliver: impl Fn(T, Result<R, Panicked>) + Send + Sync + 'static,
    ) -> Pool<T, W, R> {
        assert!(spec.threads > 0, "pool {} has no threads", spec.name);
        assert!(spec.queue_jobs_max > 0, "pool {} has no queue", spec.name);
        let (jobs, queue) = bounded(spec.queue_jobs_max);
        let shared = Shared {
            queue,
            unfinished: AtomicUsize::new(0),
            make_worker: Box::new(make_worker),
            deliver: Box::new(deliver),
            depth: spec.depth,
            active: spec.active,
        };
        Pool { spec, jobs: Some(jobs), shared: Arc::new(shared), threads: Vec::new() }
    }

    /// Queues a job.
    ///
    /// # Errors
    /// Gives the job back when the queue is full or the pool has been stopped, or when there is no thread and none
    /// can be started.
    pub fn try_submit(&mut self, ticket: T, work: Work<W, R>) -> Result<(), (T, Work<W, R>)> {
        let busy = self.shared.unfinished.load(Ordering::Acquire);
        if busy >= self.threads.len()
            && self.threads.len() < self.spec.threads
            && let Err(error) = self.start_thread()
        {
            log::error!("cannot start a thread thread={}-{}: {error}", self.spec.name, self.threads.len());
            if self.threads.is_empty() {
                return Err((ticket, work));
            }
        }
        let Some(jobs) = &self.jobs else { return Err((ticket, work)) };
        // Counted before it is sent: a thread may finish it before this function returns.
        self.shared.unfinished.fetch_add(1, Ordering::AcqRel);
        match jobs.try_send((ticket, work)) {
            Ok(()) => {
                self.shared.depth.set(gauge(jobs.len()));
                Ok(())
            }
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                self.shared.unfinished.fetch_sub(1, Ordering::AcqRel);
                Err(job)
            }
        }
    }

    /// Jobs submitted and not yet delivered.
    pub fn unfinished(&self) -> usize {
        self.shared.unfinished.load(Ordering::Acquire)
    }

    fn start_thread(&mut self) -> io::Result<()> {
        let name = format!("{}-{}", self.spec.name, self.threads.len());
        let shared = Arc::clone(&self.shared);
        let handle = threads::spawn(&name, self.spec.stack_bytes, move || shared.work())?;
        self.threads.push((name, handle));
        Ok(())
    }

    /// Takes no more jobs, lets the threads finish what is queued, and waits for them until `deadline`. Returns the
    /// names of those that had not ended by then; they are left behind.
    pub fn stop(mut self, deadline: Instant) -> Vec<String> {
        self.jobs = None;
        let mut left = Vec::new();
        for (name, handle) in self.threads.drain(..) {
            if !join_until(handle, deadline) {
                left.push(name);
            }
        }
        left
    }
}

impl<T, W, R> Shared<T, W, R> {
    fn work(&self) {
        let mut worker = (self.make_worker)();
        while let Some((ticket, work)) = self.next(&mut worker) {
            self.depth.set(gauge(self.queue.len()));
            self.active.add(1);
            let result = guarded(|| work(&mut worker));
            self.active.add(-1);
            if result.is_err() {
                worker = (self.make_worker)();
            }
            (self.deliver)(ticket, result);
            self.unfinished.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The next job; `None` once the pool is stopped. Meanwhile the thread may rest.
    fn next(&self, worker: &mut W) -> Option<(T, Work<W, R>)> {
        match self.queue.recv_timeout(REST_AFTER) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                *worker = (self.make_worker)();
                self.queue.recv().ok()
            }
        }
    }
}

/// Runs `work` and turns a panic into a value, counted and logged.
///
/// # Errors
/// [`Panicked`] with the panic's text.
pub fn guarded<R>(work: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        metrics::PANICS.increment();
        let text = panic_text(payload.as_ref());
        log::error!("a job panicked: {text}");
        Panicked(text)
    })
}

/// The text a panic was given, when it was given one.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| String::from("no text"))
}

/// Joins a thread if it ends before `deadline`; says whether it did.
pub fn join_until<X>(handle: JoinHandle<X>, deadline: Instant) -> bool {
    while !handle.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(JOIN_STEP);
    }
    // A thread that ended by a panic has ended all the same.
    let _ = handle.join();
    true
}

fn gauge(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    static DEPTH: &Gauge = &metrics::QUERY_DEPTH;
    static ACTIVE: &Gauge = &metrics::QUERY_ACTIVE;
    type Results = Receiver<(u32, Result<u32, Panicked>)>;

    fn pool(threads: usize, queue_jobs_max: usize) -> (Pool<u32, u32, u32>, Results) {
        let (tx, rx) = bounded(64);
        let spec = Spec {
            name: "test",
            threads,
            queue_jobs_max,
            stack_bytes: threads::STACK_BYTES,
            depth: DEPTH,
            active: ACTIVE,
        };
        let pool = Pool::new(spec, || 0, move |ticket, result| tx.send((ticket, result)).unwrap());
        (pool, rx)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_panic_costs_its_own_job_and_the_workers_state() {
        let (mut pool, results) = pool(1, 8);
        let count = || -> Work<u32, u32> {
            Box::new(|n: &mut u32| {
                *n += 1;
                *n
            })
        };
        pool.try_submit(1, count()).unwrap_or_else(|_| panic!("full"));
        pool.try_submit(2, Box::new(|_| panic!("on purpose"))).unwrap_or_else(|_| panic!("full"));
        pool.try_submit(3, count()).unwrap_or_else(|_| panic!("full"));
        let got: Vec<_> = (0..3).map(|_| results.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
        assert_eq!(got, [(1, Ok(1)), (2, Err(Panicked("on purpose".into()))), (3, Ok(1))]);
        assert_eq!(pool.stop(soon()), Vec::<String>::new());
    }

    #[test]
    fn a_thread_keeps_its_state_from_job_to_job_and_gives_it_up_when_it_rests() {
        let (mut pool, results) = pool(1, 8);
        let mut count = || {
            let more: Work<u32, u32> = Box::new(|n: &mut u32| {
                *n += 1;
                *n
            });
            pool.try_submit(1, more).unwrap_or_else(|_| panic!("full"));
            results.recv_timeout(Duration::from_secs(10)).unwrap().1
        };
        // On a machine so busy that the thread rests in between, once more.
        let deadline = soon();
        while count() != Ok(2) {
            assert!(Instant::now() < deadline);
        }
        std::thread::sleep(REST_AFTER + Duration::from_millis(300));
        assert_eq!(count(), Ok(1));
        assert!(pool.stop(soon()).is_empty());
    }

    #[test]
    fn a_full_queue_gives_the_job_back() {
        let (mut pool, results) = pool(1, 2);
        let (hold, held) = bounded::<()>(0);
        pool.try_submit(0, Box::new(move |_| held.recv().map_or(7, |()| 7))).unwrap_or_else(|_| panic!("full"));
        // The thread takes the first job off the queue at its own time; until then the queue holds one more.
        let mut queued = 0;
        let deadline = soon();
        while queued < 2 {
            assert!(Instant::now() < deadline);
            queued += usize::from(pool.try_submit(9, Box::new(|_| 1)).is_ok());
        }
        let refused = loop {
            assert!(Instant::now() < deadline);
            match pool.try_submit(42, Box::new(|_| 1)) {
                Err((ticket, _)) => break ticket,
                Ok(()) => queued += 1,
            }
        };
        assert_eq!(refused, 42);
        assert_eq!(pool.unfinished(), queued + 1);
        drop(hold);
        for _ in 0..=queued {
            let (_, outcome) = results.recv_timeout(Duration::from_secs(10)).unwrap();
            assert!(outcome.is_ok());
        }
        assert!(pool.stop(soon()).is_empty());
    }

    #[test]
    fn a_thread_that_does_not_stop_is_named() {
        let (mut pool, _results) = pool(2, 2);
        let (hold, held) = bounded::<()>(0);
        pool.try_submit(0, Box::new(move |_| held.recv().map_or(7, |()| 7))).unwrap_or_else(|_| panic!("full"));
        assert_eq!(pool.stop(Instant::now() + Duration::from_millis(20)), ["test-0"]);
        drop(hold);
    }

    #[test]
    fn threads_start_only_when_they_are_needed() {
        let (mut pool, results) = pool(4, 8);
        assert_eq!(pool.threads.len(), 0);
        for i in 0..3 {
            pool.try_submit(i, Box::new(|_| 1)).unwrap_or_else(|_| panic!("full"));
            let (_, outcome) = results.recv_timeout(Duration::from_secs(10)).unwrap();
            assert!(outcome.is_ok());
            let deadline = soon();
            while pool.unfinished() > 0 {
                assert!(Instant::now() < deadline);
            }
        }
        assert_eq!(pool.threads.len(), 1);
        assert!(pool.stop(soon()).is_empty());
    }
}
