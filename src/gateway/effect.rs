//! What the core wants done. The shell carries it out and decides nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::http::HttpResponse;
use crate::agent::invoke::Invoke;
use crate::agent::run::RunInput;
use crate::intake::Message;
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::{Json, OutFrame};
use crate::runtime::stop::Stop;
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::reader::LazyReader;

/// One thing for the shell to do. Carried out in order.
#[derive(Debug)]
pub enum Effect {
    /// Queue a frame. The shell applies the slow-consumer rule by the frame's class.
    Send(ConnId, OutFrame),
    /// Flush what is queued, send a close frame, then end the connection once the peer answers or a second has passed.
    Close(ConnId, u16, String),
    /// The handshake succeeded: lift the frame limit, start the keepalive.
    Admit(ConnId),
    /// Answer the HTTP request this connection waits for.
    Reply(ConnId, Box<HttpResponse>),
    /// The answer to this connection's request takes its time: the core ends the wait, and not the clock of requests.
    /// A peer that ends its side meanwhile is taken to have left.
    Hold(ConnId),
    /// Begin an answer that is written in pieces; the body is the first of them. Not before [`Effect::Hold`].
    Begin(ConnId, Box<HttpResponse>),
    /// One more piece of it. Who does not take them is dropped as a slow consumer.
    Piece(ConnId, Vec<u8>),
    /// That was all of it.
    Finish(ConnId),
    /// Start a job; a full lane comes back as `Event::Shed`.
    Start(Job),
    /// The configuration changed: take over the limits that apply live.
    Reconfigured,
    /// Everything has been said: stop accepting, flush, close, and end the process.
    Stop,
}

/// A pool of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// `query-N`: read-only work that needs disk or time.
    Query,
    /// `store`: the one writer.
    Store,
    /// `defend-N`: judging.
    Defend,
    /// `run-N`: an agent's run each.
    Run,
}

/// How long the threads of one lane get to end after the connections have.
pub const JOIN_TIME_MAX: Duration = Duration::from_secs(5);
/// Threads that read for methods: enough that one long answer does not hold up the others.
pub const QUERY_THREADS: usize = 2;
/// Most threads that judge, however many cores there are.
pub const DEFEND_THREADS_MAX: usize = 16;
/// Most runs at once, whatever `runtime.worker_concurrency` asks for.
pub const RUN_THREADS_MAX: usize = 64;

impl Lane {
    /// Its name, also that of its threads.
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Query => "query",
            Lane::Store => "store",
            Lane::Defend => "defend",
            Lane::Run => "run",
        }
    }

    /// How many jobs it works on at once.
    pub fn threads(self) -> usize {
        match self {
            Lane::Query => QUERY_THREADS,
            Lane::Store => 1,
            Lane::Defend => std::thread::available_parallelism().map_or(1, usize::from).min(DEFEND_THREADS_MAX),
            Lane::Run => RUN_THREADS_MAX,
        }
    }
}

/// What a job is for, so that its report finds its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A request waits for the answer.
    Request {
        /// Whose.
        conn: ConnId,
        /// The request's id, echoed.
        id: String,
        /// The method's name in the table.
        method: &'static str,
    },
    /// A session is made for a message, which follows and is answered for both.
    Creation {
        /// Whose.
        conn: ConnId,
        /// The request's id, echoed.
        id: String,
    },
    /// A connection waits for its device to be recorded.
    Pairing(ConnId),
    /// An inbound message waits to be judged or stored.
    Message(u64),
    /// A run goes on on a thread of its own.
    Run(RunNo),
    /// A message's turn is being written down, so that its run can begin.
    RunBegin(RunNo),
    /// What a run added to the transcript while it goes on.
    RunStep(RunNo),
    /// What came of a run is being written down.
    RunEnd(RunNo),
    /// A summary is made for a caller.
    Compaction(RunNo),
    /// A tool is called for a caller.
    Invocation(RunNo),
    /// Somebody writes in a session, which is looked up before others are told.
    Typing(Box<super::typing::Asked>),
    /// Some calls wait for what providers say of subscriptions.
    Quotas,
    /// Something of an approval is being written down.
    Approval(Box<super::approvals::flow::Step>),
    /// The end of a command in the background is judged and told.
    Notice(crate::tools::processes::Id),
    /// An HTTP request waits for a file.
    Page(ConnId),
    /// Nobody waits.
    Housekeeping(&'static str),
}

/// Slow work with everything it needs.
pub struct Job {
    /// What it is for.
    pub origin: Origin,
    /// The work, which also names the lane.
    pub work: Work,
}

/// Reads on a query worker.
pub type QueryWork = Box<dyn FnOnce(&mut LazyReader) -> Result<Done, RpcError> + Send>;
/// Writes on the store thread, inside a transaction.
pub type StoreWork = Box<dyn FnOnce(&Db<'_>) -> Result<Done, StoreError> + Send>;

/// The work of a job.
pub enum Work {
    /// Reads.
    Query(QueryWork),
    /// Writes: durable before it is reported. An error takes back what it wrote.
    Store(StoreWork),
    /// Computes; told when it started, for its deadline.
    Defend(Box<dyn FnOnce(std::time::Instant) -> Done + Send>),
    /// Runs an agent. Plain data, so that a simulation can decide what comes of it.
    Run(Box<RunWork>),
}

/// An agent's run, with its lines to the loop.
pub struct RunWork {
    /// Which.
    pub no: RunNo,
    /// The inbox row of the message that names it; `None`: it was asked for by a call.
    pub turn_id: Option<i64>,
    /// The session's id when it began. When it has another one, or is gone, the run has nothing to write to any more.
    pub session_id: Option<String>,
    /// What it starts with.
    pub input: RunInput,
    /// What it is to do.
    pub task: Task,
    /// Stopped here, seen there.
    pub stop: Stop,
    /// Messages that are to reach it while it goes on.
    pub steered: Receiver<Steered>,
}

/// What a thread of the run lane does.
#[derive(Debug)]
pub enum Task {
    /// Answers the session's newest message.
    Answer,
    /// Summarises the conversation, with these wishes.
    Compact(String),
    /// Calls one tool.
    Invoke(Box<Invoke>),
}

/// A message that is offered to a run while it goes on.
#[derive(Debug)]
pub struct Steered {
    /// Its own run's number, as long as it has not been taken.
    pub no: RunNo,
    /// Its row in the inbox.
    pub inbox_id: i64,
    /// Whether the run's end is its end (mode `steer`), or it has its own turn as well.
    pub joins: bool,
    /// Whoever sets it first has the message: the run that takes it, or the loop that lets it go.
    pub claim: Arc<AtomicBool>,
    /// What it says.
    pub message: Arc<Message>,
}

/// Names a run within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunNo(pub u64);

impl Work {
    /// Where it runs.
    pub fn lane(&self) -> Lane {
        match self {
            Work::Query(_) => Lane::Query,
            Work::Store(_) => Lane::Store,
            Work::Defend(_) => Lane::Defend,
            Work::Run(_) => Lane::Run,
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("origin", &self.origin).field("lane", &self.work.lane()).finish()
    }
}

/// A finished job.
#[derive(Debug)]
pub struct Report {
    /// What it was for.
    pub origin: Origin,
    /// What came of it. A panic arrives as `UNAVAILABLE`.
    pub outcome: Result<Done, RpcError>,
}

/// What a job produced.
#[derive(Debug)]
pub struct Done {
    /// The answer to the request, if one waits.
    pub answer: Option<Json>,
    /// What changed, for the loop to apply and to tell others.
    pub facts: Vec<super::Fact>,
}
