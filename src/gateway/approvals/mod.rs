//! What waits for a person's word: who asked, who waits, and the one end it has (TOOL-53 to TOOL-57).
//!
//! [`Approvals`] is the machine: an approval is *entering* until its row is on disk, *open* until somebody answers or
//! its time is over, *ending* while the answer is written, and *ended* from then on, to be read for [`ENDED_KEPT_MS`].
//! [`flow`] drives it with jobs and tells of it, [`shown`] is what clients see, [`display`] makes text visible.
//!
//! **Invariant:** an approval has one end. It is on disk before anybody hears of it, and what the store says ended it is
//! what everybody is told. **Invariant:** nobody is told of an approval whose row is not on disk. **Invariant:** what
//! nobody can answer is not kept waiting.

pub mod display;
pub mod flow;
pub mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossbeam_channel::Sender;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::run::Permission;
use crate::protocol::ConnId;
use crate::store::StoreError;
use crate::store::approvals::{APPROVALS_OPEN_MAX, ApprovalRow};

/// Approvals held at once, those that ended a moment ago included; one more is refused.
pub const APPROVALS_MAX: usize = APPROVALS_OPEN_MAX;
/// Bytes of all their requests; one more is refused. About a thousand ordinary ones.
pub const APPROVAL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Calls that wait for one approval; one more is refused.
pub const APPROVAL_WAITERS_MAX: usize = 16;
/// How long an end can be read, in milliseconds (TOOL-54).
pub const ENDED_KEPT_MS: i64 = 15_000;
/// How long a write is put off that the store had no room for, in milliseconds.
pub const RETRY_MS: i64 = 500;
/// Longest time for an answer, in milliseconds: upstream's longest timer, 24 days.
pub const TIMEOUT_MS_MAX: i64 = i32::MAX as i64;

crate::words! {
    /// What kind of thing is asked.
    pub enum Kind {
        /// To run a command, or to use a tool.
        Exec = "exec",
        /// Whatever a plugin or another program asks.
        Plugin = "plugin",
        /// What the program's own agent proposes; nothing in this build does.
        SystemAgent = "system-agent",
    }
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// This once.
    AllowOnce,
    /// This, whenever it comes again.
    AllowAlways,
    /// No.
    Deny,
}

impl Decision {
    /// Every answer there is, in the order clients show them.
    pub const ALL: [Decision; 3] = [Decision::AllowOnce, Decision::AllowAlways, Decision::Deny];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::AllowOnce => "allow-once",
            Decision::AllowAlways => "allow-always",
            Decision::Deny => "deny",
        }
    }

    /// The answer of a word.
    pub fn parse(word: &str) -> Option<Decision> {
        Decision::ALL.into_iter().find(|decision| decision.as_str() == word)
    }
}

/// Why an approval ended, in protocol 4's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A person answered.
    User,
    /// An answer came that could not be one: that is a no.
    MalformedVerdict,
    /// Nobody could be asked.
    NoRoute,
    /// Nobody answered in time.
    Timeout,
    /// The run that asked was stopped.
    RunAborted,
}

impl Reason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::User => "user",
            Reason::MalformedVerdict => "malformed-verdict",
            Reason::NoRoute => "no-route",
            Reason::Timeout => "timeout",
            Reason::RunAborted => "run-aborted",
        }
    }
}

/// What came of an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What was answered; `None`: nobody answered, which is no leave.
    pub decision: Option<Decision>,
    /// Why.
    pub reason: Reason,
    /// Who answered, as others are told: a name.
    pub by: Option<String>,
    /// Who answered, for the history: what kind of thing (`device`, `runtime`, `system`) and its id.
    pub resolver: (String, Option<String>),
    /// When.
    #[serde(skip)]
    pub at_ms: i64,
}

impl End {
    /// One that the program itself came to.
    pub fn of_system(reason: Reason, at_ms: i64) -> End {
        let id = (reason == Reason::NoRoute).then(|| "no-approval-route".to_owned());
        End { decision: None, reason, by: None, resolver: ("system".to_owned(), id), at_ms }
    }

    /// Protocol 4's word for how it stands.
    pub fn status(&self) -> &'static str {
        match (self.decision, self.reason) {
            (Some(Decision::AllowOnce | Decision::AllowAlways), _) => "allowed",
            (Some(Decision::Deny), _) | (None, Reason::NoRoute | Reason::User | Reason::MalformedVerdict) => "denied",
            (None, Reason::Timeout) => "expired",
            (None, Reason::RunAborted) => "cancelled",
        }
    }

    /// What a run makes of it.
    pub fn permission(&self) -> Permission {
        match (self.decision, self.reason) {
            (Some(Decision::AllowOnce | Decision::AllowAlways), _) => Permission::Granted,
            (Some(Decision::Deny), _) => Permission::Denied { by: self.by.clone() },
            (None, Reason::NoRoute) => Permission::NobodyToAsk,
            (None, Reason::RunAborted) => Permission::Stopped,
            (None, _) => Permission::Expired,
        }
    }
}

/// Who asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The device, when a client with one did.
    pub device: Option<String>,
    /// The program, when a client did; `None`: a run of ours.
    pub client: Option<String>,
}

/// What was approved: nothing else runs under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Digest over command, directory, environment and the files it names.
    pub digest: String,
    /// Whose list an `allow-always` goes to.
    pub agent: String,
    /// What runs, with its directory; a list of leave is a list of programs.
    pub path: Option<String>,
    /// As it was written.
    pub command: String,
    /// Where it runs.
    pub cwd: Option<String>,
}

/// What is kept of an approval beside its times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What is asked, as protocol 4's events show it.
    pub request: Value,
    /// What may be answered.
    pub decisions: Vec<Decision>,
    /// Who asked.
    pub asker: Asker,
    /// Sessions whose followers are shown it: its own and those that started it.
    pub audience: Vec<String>,
    /// What a grant of it is bound to; `None`: what is granted runs elsewhere.
    pub bound: Option<Bound>,
}

/// Where an approval stands.
#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// Its row is being written.
    Entering,
    /// It can be answered.
    Open,
    /// An end is being written.
    Ending,
    /// It has its end.
    Ended(End),
}

/// Somebody who is told how it ends.
#[derive(Clone, Debug)]
pub enum Waiter {
    /// A call: the connection to answer, the call's id, and what it asked.
    Call(ConnId, String, Form),
    /// A run of ours.
    Run(Sender<Permission>),
}

/// What a waiting call asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// To be granted: the answer is the decision.
    Request {
        /// Whether it is told first that it was taken in.
        two_phase: bool,
        /// Whether nobody is shown it.
        is_silent: bool,
    },
    /// How it ended.
    Wait,
    /// To answer it, in `exec.approval.resolve` and its like.
    Resolve {
        /// What it says.
        decision: Decision,
        /// Whether it came first.
        decides: bool,
    },
    /// The same in `approval.resolve`.
    Unified {
        /// Whether it came first.
        decides: bool,
    },
}

/// One approval.
#[derive(Debug)]
pub struct Approval {
    /// Its name.
    pub id: String,
    /// What kind of thing is asked.
    pub kind: Kind,
    /// When it was asked for.
    pub created_ms: i64,
    /// Until when it can be answered.
    pub expires_ms: i64,
    /// The rest.
    pub record: Arc<Record>,
    /// The connection that asked, as long as this process remembers it.
    pub asker_conn: Option<ConnId>,
    phase: Phase,
    waiters: Vec<Waiter>,
    /// When to look at it next.
    due_ms: i64,
    bytes: usize,
}

impl Approval {
    /// What came of it, if that is known and on disk.
    pub fn end(&self) -> Option<&End> {
        match &self.phase {
            Phase::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// Whether it can be answered.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether it is on disk, so that others know of it.
    pub fn is_known(&self) -> bool {
        self.phase != Phase::Entering
    }

    /// The calls that wait for it.
    pub fn calls(&self) -> Vec<(ConnId, String, Form)> {
        let call = |waiter: &Waiter| match waiter {
            Waiter::Call(conn, id, form) => Some((*conn, id.clone(), *form)),
            Waiter::Run(_) => None,
        };
        self.waiters.iter().filter_map(call).collect()
    }

    /// Reads one back.
    ///
    /// # Errors
    /// [`StoreError::BadRow`]: going on without it would forget what somebody waits for.
    pub fn of_row(row: &ApprovalRow) -> Result<Approval, StoreError> {
        let bad = |detail: String| StoreError::BadRow { what: format!("approval {}", row.id), detail };
        let record: Record = serde_json::from_str(&row.record).map_err(|error| bad(error.to_string()))?;
        let kind = Kind::parse(&row.kind).ok_or_else(|| bad(format!("kind {}", row.kind)))?;
        let phase = match &row.end {
            None => Phase::Open,
            Some((at_ms, text)) => {
                let end: End = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
                Phase::Ended(End { at_ms: *at_ms, ..end })
            }
        };
        let mut approval = Approval::entering(row.id.clone(), kind, row.created_ms, row.expires_ms);
        approval.due_ms = match &phase {
            Phase::Ended(end) => end.at_ms + ENDED_KEPT_MS,
            _ => row.expires_ms,
        };
        approval.phase = phase;
        approval.bytes = row.record.len();
        approval.record = Arc::new(record);
        Ok(approval)
    }

    /// One that is being written: nothing of it is known yet.
    fn entering(id: String, kind: Kind, created_ms: i64, expires_ms: i64) -> Approval {
        let record = Record {
            request: Value::Null,
            decisions: Vec::new(),
            asker: Asker::default(),
            audience: Vec::new(),
            bound: None,
        };
        Approval {
            id,
            kind,
            created_ms,
            expires_ms,
            record: Arc::new(record),
            asker_conn: None,
            phase: Phase::Entering,
            waiters: Vec::new(),
            due_ms: i64::MAX,
            bytes: 0,
        }
    }
}

/// Why an approval cannot be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// One of this name is there.
    Taken,
    /// There are too many.
    Full,
}

/// What came of looking who may answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Its time is over: nobody answered.
    Expired(String),
}

/// Every approval that somebody may ask about.
#[derive(Debug, Default)]
pub struct Approvals {
    by_id: BTreeMap<String, Approval>,
    /// When to look at which, so that the next is at hand.
    due: BTreeSet<(i64, String)>,
    bytes: usize,
}

impl Approvals {
    /// With those that were kept.
    pub fn load(kept: Vec<Approval>) -> Approvals {
        let mut approvals = Approvals::default();
        for approval in kept {
            // What ended may be left out: it is only kept for who asks just after.
            if approval.is_open() || !approvals.is_full() {
                approvals.put(approval);
            }
        }
        approvals
    }

    fn put(&mut self, approval: Approval) {
        self.remove(&approval.id.clone());
        self.bytes += approval.bytes;
        self.due.insert((approval.due_ms, approval.id.clone()));
        self.by_id.insert(approval.id.clone(), approval);
    }

    fn remove(&mut self, id: &str) -> Option<Approval> {
        let approval = self.by_id.remove(id)?;
        self.bytes -= approval.bytes;
        self.due.remove(&(approval.due_ms, approval.id.clone()));
        Some(approval)
    }

    fn set_due(&mut self, id: &str, due_ms: i64) {
        if let Some(approval) = self.by_id.get_mut(id) {
            self.due.remove(&(approval.due_ms, id.to_owned()));
            approval.due_ms = due_ms;
            self.due.insert((due_ms, id.to_owned()));
        }
    }

    /// Keeps a name while its row is written, and who waits for it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn reserve(
        &mut self,
        (id, kind): (&str, Kind),
        (created_ms, expires_ms): (i64, i64),
        asker_conn: Option<ConnId>,
        waiter: Option<Waiter>,
    ) -> Result<(), Refusal> {
        if self.by_id.contains_key(id) {
            return Err(Refusal::Taken);
        }
        if self.is_full() {
            return Err(Refusal::Full);
        }
        let mut approval = Approval::entering(id.to_owned(), kind, created_ms, expires_ms);
        approval.asker_conn = asker_conn;
        approval.waiters.extend(waiter);
        self.put(approval);
        Ok(())
    }

    /// Whether one more is refused.
    pub fn is_full(&self) -> bool {
        self.by_id.len() >= APPROVALS_MAX || self.bytes >= APPROVAL_BYTES_MAX
    }

    /// One that is on disk now. Who waited for its name goes on waiting.
    pub fn entered(&mut self, mut approval: Approval) {
        if let Some(reserved) = self.remove(&approval.id) {
            approval.asker_conn = reserved.asker_conn.or(approval.asker_conn);
            approval.waiters.extend(reserved.waiters);
        }
        self.put(approval);
    }

    /// The same with its end: who waited for it is taken out.
    pub fn entered_ended(&mut self, approval: Approval) -> Vec<Waiter> {
        let id = approval.id.clone();
        self.entered(approval);
        self.by_id.get_mut(&id).map(|approval| std::mem::take(&mut approval.waiters)).unwrap_or_default()
    }

    /// It could not be written: nobody ever hears of it.
    pub fn not_entered(&mut self, id: &str) -> Vec<Waiter> {
        match self.by_id.get(id) {
            Some(approval) if !approval.is_known() => self.remove(id).map(|gone| gone.waiters).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// One by its name.
    pub fn get(&self, id: &str) -> Option<&Approval> {
        self.by_id.get(id)
    }

    /// All that can be answered, the oldest first.
    pub fn open(&self) -> Vec<&Approval> {
        let mut open: Vec<&Approval> = self.by_id.values().filter(|approval| approval.is_open()).collect();
        open.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        open
    }

    /// Adds somebody who waits; `is_here` says which connections are still there. `false`: too many wait already.
    pub fn wait(&mut self, id: &str, waiter: Waiter, is_here: impl Fn(ConnId) -> bool) -> bool {
        let Some(approval) = self.by_id.get_mut(id) else { return false };
        approval.waiters.retain(|waiter| match waiter {
            Waiter::Call(conn, ..) => is_here(*conn),
            Waiter::Run(_) => true,
        });
        let has_room = approval.waiters.len() < APPROVAL_WAITERS_MAX;
        if has_room {
            approval.waiters.push(waiter);
        }
        has_room
    }

    /// From now on an end of it is being written; `false`: it cannot be answered.
    pub fn ending(&mut self, id: &str) -> bool {
        let Some(approval) = self.by_id.get_mut(id) else { return false };
        let is_open = approval.is_open();
        if is_open {
            approval.phase = Phase::Ending;
            self.set_due(id, i64::MAX);
        }
        is_open
    }

    /// Its end could not be written: it can be answered again. Takes out who wanted to answer it.
    pub fn not_ended(&mut self, id: &str, now_ms: i64) -> Vec<Waiter> {
        let Some(approval) = self.by_id.get_mut(id) else { return Vec::new() };
        if approval.phase != Phase::Ending {
            return Vec::new();
        }
        approval.phase = Phase::Open;
        let is_answer =
            |waiter: &Waiter| matches!(waiter, Waiter::Call(_, _, Form::Resolve { .. } | Form::Unified { .. }));
        let (answers, waiters) = std::mem::take(&mut approval.waiters).into_iter().partition(is_answer);
        approval.waiters = waiters;
        let due_ms = approval.expires_ms.max(now_ms + RETRY_MS);
        self.set_due(id, due_ms);
        answers
    }

    /// It has its end; takes out who waited. `None`: it had it before, or is not known.
    pub fn ended(&mut self, id: &str, end: End) -> Option<Vec<Waiter>> {
        let approval = self.by_id.get_mut(id)?;
        if matches!(approval.phase, Phase::Ended(_) | Phase::Entering) {
            return None;
        }
        let due_ms = end.at_ms + ENDED_KEPT_MS;
        approval.phase = Phase::Ended(end);
        let waiters = std::mem::take(&mut approval.waiters);
        self.set_due(id, due_ms);
        Some(waiters)
    }

    /// Those whose time is over; what ended is forgotten once it was there to be read.
    pub fn overdue(&mut self, now_ms: i64) -> Vec<Due> {
        let mut due = Vec::new();
        while let Some((at_ms, id)) = self.due.first().cloned() {
            if at_ms > now_ms {
                break;
            }
            match self.by_id.get(&id).map(|approval| &approval.phase) {
                Some(Phase::Open) => {
                    due.push(Due::Expired(id.clone()));
                    // Asked again when the store had no room for it.
                    self.set_due(&id, now_ms + RETRY_MS);
                }
                _ => drop(self.remove(&id)),
            }
        }
        due
    }

    /// When to look next, on the wall clock.
    pub fn next_due_ms(&self) -> Option<i64> {
        self.due.first().map(|(at_ms, _)| *at_ms).filter(|at_ms| *at_ms < i64::MAX)
    }

    /// What must hold between events.
    pub fn check_invariants(&self) {
        assert!(self.by_id.len() <= APPROVALS_MAX + 1, "approvals are bounded");
        assert_eq!(self.by_id.len(), self.due.len(), "each approval is looked at once");
        for approval in self.by_id.values() {
            assert!(approval.waiters.len() <= APPROVAL_WAITERS_MAX + 1, "who waits is bounded");
            assert!(
                !matches!(approval.phase, Phase::Ended(_)) || approval.waiters.is_empty(),
                "nobody waits for what ended"
            );
        }
    }
}

#[cfg(test)]
mod tests;
