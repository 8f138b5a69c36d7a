//! What a run may do to the rest of the program, on its own thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};

use super::mailbox::LoopSender;
use crate::agent::run::{Approval, Host, Judged, Ordered, Permission, Record, RunEvent, Steered as Said, approval_id};
use crate::agent::{invoke, turn};
use crate::config::load::Loaded;
use crate::gateway::approvals::flow::{self, AskedByRun, AskingRun, Begun};
use crate::gateway::approvals::{End, Reason};
use crate::gateway::effect::{RunNo, RunWork, Steered, Task};
use crate::gateway::runs::{children, steps};
use crate::gateway::{Done, Fact, Origin, Report};
use crate::protocol::error::RpcError;
use crate::protocol::session_key::SessionKey;
use crate::runtime::clock;
use crate::runtime::stop::{Stop, Why};
use crate::store::StoreError;
use crate::store::db::{Db, Queries};
use crate::store::reader::LazyReader;
use crate::store::writer::{NotTaken, Undo, WriteJob, WriterHandle};
use crate::tools::processes::Processes;

/// How long a run waits for the store to take or to finish its step. A disk that slow ends the run with an error.
pub const RECORD_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a run waits for a person's answer.
pub const APPROVAL_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// How often a run that waits for a person says that it lives; well within its lease.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// What the store reports: to the loop, and to a thread that waits for it.
pub(super) struct Written {
    pub(super) report: Report,
    pub(super) waits: Option<(Sender<Outcome>, Outcome)>,
}

/// What a waiting run is told of its step.
pub(super) type Outcome = Result<(), RpcError>;

impl From<Report> for Written {
    fn from(report: Report) -> Written {
        Written { report, waits: None }
    }
}

/// What a thread of the run lane works with.
pub(super) struct Tools {
    pub(super) reader: LazyReader,
    pub(super) writer: WriterHandle<Written>,
    /// Writes the store took and has not reported.
    pub(super) unfinished_writes: Arc<AtomicUsize>,
    pub(super) sender: LoopSender,
    pub(super) processes: Processes,
}

/// Does what a thread of the run lane is for, to its end.
pub(super) fn run(tools: &mut Tools, work: RunWork) -> Fact {
    let RunWork { no, turn_id, session_id, input, task, stop, steered } = work;
    let (session, config) = (input.session.clone(), Arc::clone(&input.config));
    let asking = AskingRun::of(&input);
    let (waited, told_waiting) = (Duration::ZERO, Duration::ZERO);
    let mut host =
        RunHost { tools, no, turn_id, session_id, stop, steered, session, config, asking, waited, told_waiting };
    match task {
        Task::Answer => Fact::RunEnded(Box::new(turn::run(input, &mut host))),
        Task::Compact(wishes) => Fact::RunEnded(Box::new(turn::compact_run(&input, Some(wishes.as_str()), &mut host))),
        Task::Invoke(wanted) => Fact::Invoked(Box::new(invoke::invoke(&input, &mut host, &wanted))),
    }
}

struct RunHost<'a> {
    tools: &'a mut Tools,
    no: RunNo,
    turn_id: Option<i64>,
    session_id: Option<String>,
    stop: Stop,
    steered: Receiver<Steered>,
    session: SessionKey,
    config: Arc<Loaded>,
    asking: AskingRun,
    /// How long it has waited for people in all,
    waited: Duration,
    /// and how much of the wait that goes on the loop was told of.
    told_waiting: Duration,
}

impl Host for RunHost<'_> {
    fn now_ms(&self) -> i64 {
        clock::Now::read().wall_ms
    }

    fn stop(&self) -> &Stop {
        &self.stop
    }

    fn store(&mut self) -> Result<&Queries, StoreError> {
        self.tools.reader.get()
    }

    fn tell(&mut self, event: RunEvent) {
        self.tools.sender.told(self.no, event);
    }

    fn record(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        let (session, config, now_ms) = (self.session.clone(), Arc::clone(&self.config), self.now_ms());
        let (session_id, turn_id) = (self.session_id.clone(), self.turn_id);
        self.write(move |db| steps::record(db, &session, (session_id.as_deref(), turn_id), &records, &config, now_ms))
    }

    fn decided(&mut self, judged: Vec<Judged>) -> Result<(), StoreError> {
        let (session, now_ms) = (self.session.clone(), self.now_ms());
        self.write(move |db| steps::decided(db, &session, &judged, now_ms))
    }

    fn carry_out(&mut self, ordered: Ordered) -> Result<Value, String> {
        let (session, config, now_ms) = (self.session.clone(), Arc::clone(&self.config), self.now_ms());
        let (tell, told) = bounded(1);
        let written = self.write(move |db| {
            let (answer, facts) = children::carry_out(db, &config, &session, &ordered, now_ms)?;
            // Whoever waits for it takes it once it is on disk.
            let _ = tell.send(answer);
            Ok(facts)
        });
        match written {
            Ok(()) => told.try_recv().map_err(|_| "it is not known whether it was done".to_owned()),
            Err(StoreError::Refused(error)) => Err(error.message),
            Err(error) => Err(format!("it could not be done: {error}")),
        }
    }

    fn processes(&self) -> Option<Processes> {
        Some(self.tools.processes.clone())
    }

    fn approve(&mut self, question: Approval) -> Permission {
        let id = approval_id(&question.key);
        let began = Instant::now();
        let permission = self.ask(question);
        // What was not told while it waited.
        self.tell(RunEvent::Waits(began.elapsed().saturating_sub(self.told_waiting)));
        self.waited += began.elapsed();
        self.told_waiting = Duration::ZERO;
        log::info!("an approval was answered id={id} permission={permission:?}");
        permission
    }

    fn waited(&self) -> Duration {
        self.waited
    }

    fn steered(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        for steered in self.steered.try_iter().collect::<Vec<_>>() {
            let (into, config, now_ms) = (self.no, Arc::clone(&self.config), self.now_ms());
            let Some(turn_id) = self.turn_id else { break };
            if steered.claim.swap(true, Ordering::AcqRel) {
                continue;
            }
            let words = Said { text: steered.message.text.clone(), media: steered.message.wish.media.clone() };
            match self.write(move |db| steps::take(db, into, turn_id, &steered, &config, now_ms)) {
                Ok(()) => said.push(words),
                // It was offered, not given: it keeps its own turn.
                Err(error) => log::warn!("a message could not be taken into a run: {error}"),
            }
        }
        said
    }
}

impl RunHost<'_> {
    /// Asks, and waits: woken by the answer, by the end of its time, and by a stop.
    fn ask(&mut self, question: Approval) -> Permission {
        let asking = self.asking.clone();
        let (id, now_ms) = (approval_id(&question.key), self.now_ms());
        let expires_ms = now_ms + APPROVAL_TIME_MAX.as_millis() as i64;
        let about = json!({
            "kind": "exec", "title": question.command, "approvalId": id, "toolCallId": question.call_id,
            "command": question.command, "host": question.host,
        });
        let (tell, told) = bounded::<Permission>(2);
        let (known, answered) = bounded(1);
        let asks = tell.clone();
        let entered =
            self.write(move |db| match flow::begin_for_run(db, (&question, &asking), (now_ms, expires_ms))? {
                Begun::Open(approval) => {
                    Ok(vec![Fact::ApprovalAsked(Box::new(AskedByRun { approval: *approval, tell: asks }))])
                }
                Begun::Answered(permission) => {
                    let _ = known.send(permission);
                    Ok(Vec::new())
                }
            });
        if let Err(error) = entered {
            log::warn!("an approval could not be asked for id={id} error={error}");
            return Permission::NobodyToAsk;
        }
        if let Ok(permission) = answered.try_recv() {
            return permission;
        }
        self.tell_approval(&about, "requested", "pending");
        self.stop.waits_for(move || drop(tell.try_send(Permission::Stopped)));
        let permission = self.wait_for(&told);
        self.stop.waits_for_none();
        let permission = match permission {
            Permission::Granted => self.take_grant(&id),
            Permission::Stopped => self.give_up(&id),
            permission => permission,
        };
        self.tell_approval(&about, "resolved", if permission == Permission::Granted { "approved" } else { "denied" });
        permission
    }

    fn wait_for(&mut self, told: &Receiver<Permission>) -> Permission {
        let until = Instant::now() + APPROVAL_TIME_MAX + RECORD_TIME_MAX;
        loop {
            match told.recv_timeout(SIGN_OF_LIFE) {
                Ok(permission) => return permission,
                Err(RecvTimeoutError::Disconnected) => return Permission::Stopped,
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => return Permission::Expired,
                Err(RecvTimeoutError::Timeout) => {
                    self.told_waiting += SIGN_OF_LIFE;
                    self.tell(RunEvent::Waits(SIGN_OF_LIFE));
                }
            }
        }
    }

    fn tell_approval(&mut self, about: &Value, phase: &str, status: &str) {
        let mut data = about.clone();
        for (name, text) in [("title", &about["title"]), ("command", &about["command"])] {
            data[name] = json!(self.asking.shown(text.as_str().unwrap_or_default()));
        }
        (data["phase"], data["status"]) = (json!(phase), json!(status));
        self.tell(RunEvent::Approval(data));
    }

    /// What was granted is used, which is on disk before anything is done.
    fn take_grant(&mut self, id: &str) -> Permission {
        let (id, now_ms) = (id.to_owned(), self.now_ms());
        let (tell, told) = bounded(1);
        let used = self.write(move |db| {
            let _ = tell.send(flow::use_for_run(db, &id, now_ms)?);
            Ok(Vec::new())
        });
        match (used, told.try_recv()) {
            (Ok(()), Ok(permission)) => permission,
            _ => Permission::Expired,
        }
    }

    /// Its run was stopped: nobody needs to answer any more. When the program ends, the question stays open, and the run
    /// finds it when it is taken up.
    fn give_up(&mut self, id: &str) -> Permission {
        if self.stop.why() != Some(Why::Shutdown) {
            let (id, end) = (id.to_owned(), End::of_system(Reason::RunAborted, self.now_ms()));
            let state_dir = self.config.state_dir.clone();
            let ended = self.write(move |db| {
                let end = flow::settle(db, &id, &end, &state_dir)?;
                Ok(vec![Fact::ApprovalEnded(Box::new((id, end)))])
            });
            if let Err(error) = ended {
                log::warn!("an approval of a stopped run could not be ended: {error}");
            }
        }
        Permission::Stopped
    }

    /// Writes, and waits until it is on disk; the loop is told what changed.
    fn write(
        &mut self,
        write: impl FnOnce(&Db<'_>) -> Result<Vec<Fact>, StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let (tell, told) = bounded::<Outcome>(1);
        let (tell_done, tell_failed, no) = (tell.clone(), tell, self.no);
        let job = WriteJob::new(
            #[expect(clippy::result_large_err, reason = "the store's own type, made once per failed job")]
            move |db| {
                let facts = write(db).map_err(Undo::Failed)?;
                let report = Report { origin: Origin::RunStep(no), outcome: Ok(Done { answer: None, facts }) };
                Ok(Written { report, waits: Some((tell_done, Ok(()))) })
            },
            move |error| {
                let error: RpcError = error.into();
                let report = Report { origin: Origin::RunStep(no), outcome: Err(error.clone()) };
                Written { report, waits: Some((tell_failed, Err(error))) }
            },
        );
        self.tools.unfinished_writes.fetch_add(1, Ordering::AcqRel);
        if let Err(NotTaken::Full(_) | NotTaken::Stopped(_)) = self.tools.writer.submit(job, RECORD_TIME_MAX) {
            self.tools.unfinished_writes.fetch_sub(1, Ordering::AcqRel);
            return Err(RpcError::unavailable("the store takes nothing at the moment").into());
        }
        match told.recv_timeout(RECORD_TIME_MAX) {
            Ok(outcome) => outcome.map_err(StoreError::from),
            Err(_) => Err(RpcError::unavailable("the store did not answer in time").into()),
        }
    }
}
