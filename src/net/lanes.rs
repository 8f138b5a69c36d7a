//! The lanes: where a job runs, and how its report comes back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::mailbox::LoopSender;
use super::run_host::{self, Tools, Written};
use crate::gateway::effect::RunWork;
use crate::gateway::{Done, Fact, Job, Lane, Origin, Report, Work};
use crate::protocol::error::RpcError;
use crate::runtime::metrics;
use crate::runtime::pool::{Panicked, Pool, Spec};
use crate::runtime::threads::STACK_BYTES_DEEP;
use crate::store::reader::LazyReader;
use crate::store::writer::{NotTaken, Undo, WriteJob, Writer};
use crate::tools::processes::{Processes, sweep};

/// Reads that may wait; more are shed.
pub const QUERY_QUEUE_MAX: usize = 256;
/// Judgements that may wait; more are shed, which the core turns into a decision that lets nothing pass.
pub const DEFEND_QUEUE_MAX: usize = 256;

/// Runs that may wait for a thread. The core begins no more than there are threads; room is needed only while a run
/// that was given up still holds one.
pub const RUN_QUEUE_MAX: usize = 64;

/// All lanes.
pub struct Lanes {
    query: Pool<Origin, LazyReader, Result<Done, RpcError>>,
    defend: Pool<Origin, (), Done>,
    run: Pool<Origin, Tools, Done>,
    processes: Processes,
    store: Writer<Written>,
    /// Jobs the store took and has not reported.
    store_unfinished: Arc<AtomicUsize>,
}

/// The store's writer with its reports going to the loop. Made before the loop runs, because live state may be written
/// on the way up.
pub struct StoreLane {
    writer: Writer<Written>,
    unfinished: Arc<AtomicUsize>,
}

impl StoreLane {
    /// Starts the `store` thread.
    ///
    /// # Errors
    /// The store's, when the thread can't be started.
    pub fn start(
        database: crate::store::open::Database,
        sender: LoopSender,
    ) -> Result<StoreLane, crate::store::StoreError> {
        let unfinished = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&unfinished);
        let writer = Writer::start(database, move |written: Written| {
            let Written { report, waits } = written;
            if let Some((waits, outcome)) = waits {
                // It has room for one. Nobody waits any more when the run was given up.
                let _ = waits.try_send(outcome);
            }
            sender.report(report);
            counter.fetch_sub(1, Ordering::AcqRel);
        })?;
        Ok(StoreLane { writer, unfinished })
    }
}

impl Lanes {
    /// Lanes that report to `sender`. Threads of the pools start with their first jobs.
    pub fn new(store: StoreLane, sender: &LoopSender) -> Lanes {
        let StoreLane { writer, unfinished } = store;
        let path: PathBuf = writer.path().to_owned();
        let tuning = writer.tuning();
        let query = Spec {
            name: "query",
            threads: Lane::Query.threads(),
            queue_jobs_max: QUERY_QUEUE_MAX,
            stack_bytes: STACK_BYTES_DEEP,
            depth: &metrics::QUERY_DEPTH,
            active: &metrics::QUERY_ACTIVE,
        };
        let defend = Spec {
            name: "defend",
            threads: Lane::Defend.threads(),
            queue_jobs_max: DEFEND_QUEUE_MAX,
            stack_bytes: STACK_BYTES_DEEP,
            depth: &metrics::DEFEND_DEPTH,
            active: &metrics::DEFEND_ACTIVE,
        };
        let to_loop = sender.clone();
        let query = Pool::new(
            query,
            move || LazyReader::tuned(path.clone(), tuning),
            move |origin, result| {
                to_loop.report(Report { origin, outcome: result.unwrap_or_else(|p| Err(panicked(&p))) })
            },
        );
        let to_loop = sender.clone();
        let defend = Pool::new(
            defend,
            || (),
            move |origin, result| to_loop.report(Report { origin, outcome: result.map_err(|p| panicked(&p)) }),
        );
        let run = Spec {
            name: "run",
            threads: Lane::Run.threads(),
            queue_jobs_max: RUN_QUEUE_MAX,
            stack_bytes: STACK_BYTES_DEEP,
            depth: &metrics::RUN_DEPTH,
            active: &metrics::RUN_ACTIVE,
        };
        let path = writer.path().to_owned();
        let (handle, unfinished_writes) = (writer.handle(), Arc::clone(&unfinished));
        let (to_loop, to_report, to_tell) = (sender.clone(), sender.clone(), sender.clone());
        let mark = sweep::mark(writer.path().parent().unwrap_or(writer.path()));
        let processes = Processes::new(mark, move |ended| {
            let facts = vec![Fact::CommandEnded(Box::new(ended))];
            let outcome = Ok(Done { answer: None, facts });
            to_tell.report(Report { origin: Origin::Housekeeping("a command's end"), outcome });
        });
        let lent = processes.clone();
        let run = Pool::new(
            run,
            move || Tools {
                reader: LazyReader::tuned(path.clone(), tuning),
                writer: handle.clone(),
                unfinished_writes: Arc::clone(&unfinished_writes),
                sender: to_loop.clone(),
                processes: lent.clone(),
            },
            move |origin, result| to_report.report(Report { origin, outcome: result.map_err(|p| panicked(&p)) }),
        );
        Lanes { query, defend, run, processes, store: writer, store_unfinished: unfinished }
    }

    /// Starts a job.
    ///
    /// # Errors
    /// What it was for and where it found no room.
    pub fn start(&mut self, job: Job) -> Result<(), (Origin, Lane)> {
        let Job { origin, work } = job;
        let lane = work.lane();
        let refused = match work {
            Work::Query(read) => self.query.try_submit(origin, read).err().map(|(origin, _)| origin),
            Work::Defend(judge) => {
                let work = Box::new(move |(): &mut ()| judge(Instant::now()));
                self.defend.try_submit(origin, work).err().map(|(origin, _)| origin)
            }
            Work::Store(write) => self.write(origin, write),
            Work::Run(work) => {
                let work = Box::new(move |tools: &mut Tools| run(tools, *work));
                self.run.try_submit(origin, work).err().map(|(origin, _)| origin)
            }
        };
        match refused {
            None => Ok(()),
            Some(origin) => {
                metrics::JOBS_SHED.increment();
                Err((origin, lane))
            }
        }
    }

    fn write(&mut self, origin: Origin, write: StoreWork) -> Option<Origin> {
        let (origin_failed, origin_refused) = (origin.clone(), origin.clone());
        let job = WriteJob::new(
            #[expect(clippy::result_large_err, reason = "the store's own type, made once per failed job")]
            move |db| Ok(Report { origin, outcome: Ok(write(db).map_err(Undo::Failed)?) }.into()),
            move |error| Report { origin: origin_failed, outcome: Err(error.into()) }.into(),
        );
        let handle = self.store.handle();
        // Counted before it is queued: the thread may report it before this function returns.
        self.store_unfinished.fetch_add(1, Ordering::AcqRel);
        let refused = handle.try_submit(job);
        metrics::STORE_DEPTH.set(i64::try_from(handle.depth()).unwrap_or(i64::MAX));
        match refused {
            Ok(()) => None,
            Err(NotTaken::Full(_) | NotTaken::Stopped(_)) => {
                self.store_unfinished.fetch_sub(1, Ordering::AcqRel);
                Some(origin_refused)
            }
        }
    }

    /// Jobs taken and not yet reported.
    pub fn unfinished(&self) -> usize {
        self.query.unfinished()
            + self.defend.unfinished()
            + self.run.unfinished()
            + self.store_unfinished.load(Ordering::Acquire)
    }

    /// Ends all threads, the store's last, within `limit`; logs those that did not end. Returns whether all did.
    pub fn stop(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        // Runs that wait for a command end with it.
        self.processes.tell_stop();
        let mut left = self.run.stop(deadline);
        if !self.processes.stop() {
            left.push("processes".to_owned());
        }
        left.extend(self.query.stop(deadline));
        left.extend(self.defend.stop(deadline));
        for name in &left {
            log::error!("a thread did not stop in time thread={name}");
        }
        match self.store.stop(deadline.saturating_duration_since(Instant::now()).max(STORE_STOP_MIN)) {
            Ok(_) => left.is_empty(),
            Err(error) => {
                log::error!("the store did not stop in time thread=store: {error}");
                false
            }
        }
    }
}

/// One run, from its first look at the transcript to its end.
fn run(tools: &mut Tools, work: RunWork) -> Done {
    Done { answer: None, facts: vec![run_host::run(tools, work)] }
}

/// What the store gets to close its file however long the others took.
const STORE_STOP_MIN: Duration = Duration::from_secs(2);

type StoreWork = Box<dyn FnOnce(&crate::store::db::Db<'_>) -> Result<Done, crate::store::StoreError> + Send>;

/// What a client is told about a panic: that it was one. The text went to the log.
fn panicked(_panic: &Panicked) -> RpcError {
    RpcError::unavailable("internal error")
}
