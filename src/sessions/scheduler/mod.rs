//! The scheduler: which message has its run when.
//!
//! A machine without IO and without a clock. It is told what was accepted ([`Scheduler::begin`], [`Scheduler::add`]),
//! what ended ([`Scheduler::ended`]) and what time it is, and says what runs next ([`Scheduler::next`]). Its owner starts
//! and stops runs, writes to the inbox and tells clients. Everything here can be lost: after a crash the owner gives the
//! inbox's open rows back, in the order of their numbers ([`Scheduler::restore`]).
//!
//! The way of a message: [`Scheduler::reserve`] before it is written down, so that one for an idle session can begin with
//! its acceptance; then `begin`, or `add` when there was no place. A message that waits can be taken by the run that goes
//! on ([`Scheduler::steered`]), give way to others (the effects of `add`), be taken back ([`Scheduler::cancel`]), or have
//! its turn. `next` is asked until it has nothing more after each of these, and when [`Scheduler::deadline_ms`] comes.
//!
//! Read in this order: [`session`] (what waits for one session: who gives way, what is answered together), [`rings`] (who
//! is next among the sessions), [`lease`] (how long a run may go on, and be silent).
//!
//! **Invariant:** at most one run of a session is active, and messages of a session have their turns in the order of
//! their inbox numbers (those that a run took while it went on are part of its turn). **Invariant:** a run id is known once: what waits or runs is not taken a second time, and a run
//! ends once. **Invariant:** a session whose run ended, and for which something waits, is in line for its next turn; so no
//! lane is ever stuck behind a session. **Invariant:** what does not wait any more and had no turn was handed to the owner
//! with a reason.

mod lease;
mod rings;
mod session;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::settings::Settings;
use crate::config::settings::scheduling::{Mode, Overflow, Policy, Wishes};
use crate::protocol::session_key::SessionKey;
use lease::Active;
use rings::Rings;
use session::{Place, Session, Slot};

/// Fewer pending messages than this are never the limit (SES-14).
pub const PENDING_MIN: usize = 16;
/// Runs at once that other runs wait for.
pub const NESTED_RUNS_MAX: usize = 4;
/// How long a run may show no sign of life before it is overdue. Longer than any provider may be silent.
pub const LEASE: Duration = Duration::from_secs(120);
/// How long a run that is stopped has to end before it is given up.
pub const END_TIME_MAX: Duration = Duration::from_secs(30);
/// Messages answered together at most; the rest have the next turn.
pub const TURN_ITEMS_MAX: usize = 64;
/// Messages of which the next turn is told what they said; of more, only the newest.
pub const SUMMARY_LINES_MAX: usize = 20;
/// Longest such line, in characters.
pub const SUMMARY_LINE_CHARS_MAX: usize = 160;

/// Which kind of run it is. Lanes have room of their own, so that one kind does not keep the others from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunLane {
    /// It is waited for by another run.
    Nested,
    /// It answers a person.
    Main,
    /// Another run started it and goes on without it.
    Subagent,
    /// The clock started it.
    Cron,
}

impl RunLane {
    /// All, in the order in which they are looked at.
    pub const ALL: [RunLane; 4] = [RunLane::Nested, RunLane::Main, RunLane::Subagent, RunLane::Cron];

    /// Its name in `agent`'s parameters and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            RunLane::Nested => "nested",
            RunLane::Main => "main",
            RunLane::Subagent => "subagent",
            RunLane::Cron => "cron",
        }
    }

    /// The lane of a name.
    pub fn parse(name: &str) -> Option<RunLane> {
        RunLane::ALL.into_iter().find(|lane| lane.as_str() == name.trim().to_lowercase())
    }

    fn idx(self) -> usize {
        self as usize
    }
}

/// How much may go on, and wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Runs at once in all.
    pub workers: usize,
    /// Runs at once in each lane, in the order of [`RunLane::ALL`].
    pub lanes: [usize; 4],
    /// Messages that wait over all sessions; fewer than [`PENDING_MIN`] take effect as that.
    pub pending_max: usize,
    /// How long a run may show no sign of life.
    pub lease: Duration,
    /// How long a run may take in all.
    pub run_time_max: Duration,
}

impl Limits {
    /// Those that are configured; `run_time_max` is what a run stops itself after, with some room to do so.
    pub fn of(settings: &Settings, run_time_max: Duration) -> Limits {
        let scheduling = &settings.scheduling;
        Limits {
            workers: scheduling.workers,
            lanes: [NESTED_RUNS_MAX, scheduling.main_max, scheduling.subagents_max, scheduling.cron_max],
            pending_max: scheduling.pending_max,
            lease: LEASE,
            run_time_max,
        }
    }

    fn pending_max(&self) -> usize {
        self.pending_max.max(PENDING_MIN)
    }
}

/// Whether a message can be answered together with others, and put into a run that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// It holds more than words (a command, a URL, a file, a picture): it has a turn of its own.
    Alone,
    /// It is words only and its answer goes this way (channel, recipient, account, thread): it can be joined with others
    /// of the same way.
    Route(String),
}

/// A message that is to have its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its number in the inbox: messages of one session have their turns in this order.
    pub id: i64,
    /// The run it asks for.
    pub run_id: String,
    /// The session it is for; one without a session is for `global` (SES-15).
    pub session: SessionKey,
    /// What kind of run that is.
    pub lane: RunLane,
    /// What it does while its session is busy, and how many may wait there.
    pub policy: Policy,
    /// Whether it can be joined with others.
    pub merge: Merge,
    /// What it says, shortened by [`summary_line`], for the turn after it had to give way.
    pub line: String,
    /// The turn that it had begun in before a restart: the number of the message whose run that was. Messages of one turn
    /// have one turn again, by the same run, and never give way because too many wait.
    pub begun: Option<i64>,
    /// When it arrived, in milliseconds since 1970; for its owner.
    pub at_ms: i64,
}

/// What adding a message does. Adding gives a list of these: what happens to others first, then where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// These do not wait any more and have no turn.
    Dropped {
        /// Who; oldest first.
        which: Vec<Item>,
        /// Why.
        why: Why,
    },
    /// The session's active run is to be stopped, so that the message can have its turn. Said once for each run.
    Interrupts {
        /// The active run.
        run_id: String,
    },
    /// The message is to be offered to the session's active run. When the run takes it, the owner says so with
    /// [`Scheduler::steered`], before it says that the run ended or is given up; when it ends without, the message has
    /// its turn. A message that the run took and that is dropped or taken back before the owner could say so ends with
    /// the run all the same.
    Steers {
        /// The active run.
        run_id: String,
    },
    /// It waits.
    Queued {
        /// How many turns of its session come before its own, at most; the one that goes on not counted.
        ahead: usize,
    },
    /// It waits or runs already; nothing was done.
    Known,
}

/// Why a message has no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A newer one took its place (mode `steer`).
    Superseded,
    /// A newer one stopped everything before it (mode `interrupt`).
    Interrupted,
    /// Too many wait for its session.
    SessionFull,
    /// Too many wait for its session; the next turn is told what it said.
    Summarized,
    /// Too many wait in all.
    Capacity,
}

impl Why {
    /// The word for logs, metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Superseded => "superseded",
            Why::Interrupted => "interrupted",
            Why::SessionFull => "dropped_session_full",
            Why::Summarized => "dropped_summarized",
            Why::Capacity => "dropped_capacity",
        }
    }
}

/// A run to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its id: that of the newest of its messages, or the one it had before a restart.
    pub run_id: String,
    /// Its session.
    pub session: SessionKey,
    /// Its lane.
    pub lane: RunLane,
    /// What it answers, oldest first; never empty, and one message unless they were collected.
    pub items: Vec<Item>,
    /// What was said before and left out, as a short list for the model.
    pub dropped_summary: Option<String>,
}

/// How much goes on and waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that wait.
    pub waiting: usize,
    /// Places that are taken: by runs, and by messages that are to begin with their acceptance.
    pub busy: usize,
    /// Sessions that are busy or waited for.
    pub sessions: usize,
}

/// The scheduler. Times are in milliseconds of one clock, best one that never jumps; when it runs back, nobody waits
/// longer for it.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    /// Those that are busy or waited for.
    sessions: BTreeMap<SessionKey, Session>,
    /// Each run id that waits or runs, merged and steered ones too.
    runs: HashMap<String, SessionKey>,
    rings: Rings,
    n_waiting: usize,
    now_ms: i64,
}

impl Scheduler {
    /// With nothing to do.
    pub fn new(limits: Limits) -> Scheduler {
        Scheduler {
            limits,
            sessions: BTreeMap::new(),
            runs: HashMap::new(),
            rings: Rings::default(),
            n_waiting: 0,
            now_ms: i64::MIN,
        }
    }

    /// Changes the limits. What runs and waits beyond new ones goes on to do so.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes a place for a message that is about to be written down, when its run can begin at once: nothing is active
    /// or waiting in its session, and nobody is in line for the place. After `true`, [`Scheduler::begin`] or
    /// [`Scheduler::release`] follows.
    pub fn reserve(&mut self, session: &SessionKey, lane: RunLane) -> bool {
        if self.sessions.contains_key(session) || !self.rings.has_room(lane, &self.limits) {
            return false;
        }
        self.rings.take(lane);
        self.sessions.insert(session.clone(), Session::in_slot(Slot::Reserved(lane)));
        self.sweep();
        true
    }

    /// The reserved message did not come to be: it was blocked, or known, or could not be written.
    pub fn release(&mut self, session: &SessionKey) {
        let Some(state) = self.sessions.get_mut(session) else { return };
        let Slot::Reserved(lane) = state.slot else { return };
        state.slot = Slot::Idle;
        self.rings.give_back(lane);
        self.settle(session);
        self.sweep();
    }

    /// The reserved message is on disk and its run begins. Messages that were added meanwhile wait for it.
    ///
    /// `None` when nothing was reserved for it, or its run is known already: then nothing is started, and the place is
    /// free again.
    pub fn begin(&mut self, item: Item, now_ms: i64) -> Option<Turn> {
        self.tick(now_ms);
        let reserved = self.sessions.get(&item.session).map(|session| &session.slot);
        let Some(&Slot::Reserved(lane)) = reserved else { return None };
        if self.runs.contains_key(&item.run_id) {
            self.release(&item.session);
            return None;
        }
        self.runs.insert(item.run_id.clone(), item.session.clone());
        let turn = Turn {
            run_id: item.run_id.clone(),
            session: item.session.clone(),
            lane,
            items: vec![item],
            dropped_summary: None,
        };
        self.activate(&turn);
        self.sweep();
        Some(turn)
    }

    /// Lets a message wait that was accepted.
    pub fn add(&mut self, item: Item, now_ms: i64) -> Vec<Added> {
        self.tick(now_ms);
        if self.runs.contains_key(&item.run_id) {
            return vec![Added::Known];
        }
        let key = item.session.clone();
        let session = self.sessions.entry(key.clone()).or_default();
        let mut effects = Vec::new();
        let giving_way = match session.who_gives_way(&item) {
            Some(giving_way) if self.n_waiting - giving_way.len() < self.limits.pending_max() => giving_way,
            refused => {
                let why = if refused.is_some() { Why::Capacity } else { Why::SessionFull };
                effects.push(Added::Dropped { which: vec![item], why });
                self.settle(&key);
                self.sweep();
                return effects;
            }
        };
        for (why, which) in session.give_way(giving_way) {
            self.n_waiting -= which.len();
            for gone in &which {
                self.runs.remove(&gone.run_id);
            }
            effects.push(Added::Dropped { which, why });
        }
        if let Slot::Active(active) = &mut session.slot {
            let run_id = active.run_id.clone();
            match item.policy.mode {
                Mode::Interrupt if active.stop(now_ms) => effects.push(Added::Interrupts { run_id }),
                Mode::Steer | Mode::SteerBacklog if active.is_well() && item.merge != Merge::Alone => {
                    effects.push(Added::Steers { run_id });
                }
                _ => {}
            }
        }
        self.runs.insert(item.run_id.clone(), key.clone());
        self.n_waiting += 1;
        effects.push(Added::Queued { ahead: session.push(item, now_ms) });
        self.settle(&key);
        self.sweep();
        effects
    }

    /// Lets a message wait that was accepted before a restart. What was accepted is kept, so limits do not apply; the
    /// inbox bounds how many there can be.
    pub fn restore(&mut self, item: Item, now_ms: i64) {
        self.tick(now_ms);
        if self.runs.contains_key(&item.run_id) {
            return;
        }
        let key = item.session.clone();
        self.runs.insert(item.run_id.clone(), key.clone());
        self.n_waiting += 1;
        self.sessions.entry(key.clone()).or_default().push(item, now_ms);
        self.settle(&key);
        self.sweep();
    }

    /// The next run to start: lanes with people in front before the others, though those are not left to starve; in a
    /// lane one turn for each session in line. `None` when no place is free, or nobody is in line.
    pub fn next(&mut self, now_ms: i64) -> Option<Turn> {
        self.tick(now_ms);
        while let Some(key) = self.rings.release_held(now_ms) {
            let session = self.sessions.get_mut(&key).expect("who is held is there");
            session.place = Place::Nowhere;
            session.has_waited = true;
            self.settle(&key);
        }
        let (lane, key) = self.rings.choose(&self.limits)?;
        let session = self.sessions.get_mut(&key).expect("who is in line is there");
        session.place = Place::Nowhere;
        let (items, run_id, dropped_summary) = session.take_turn();
        self.n_waiting -= items.len();
        let turn = Turn { run_id, session: key, lane, items, dropped_summary };
        self.rings.take(lane);
        self.activate(&turn);
        self.sweep();
        Some(turn)
    }

    /// A run ended, or is given up. Its session, or `None` when it had ended before.
    pub fn ended(&mut self, run_id: &str) -> Option<SessionKey> {
        let key = self.runs.get(run_id)?.clone();
        let session = self.sessions.get_mut(&key).expect("a known run has its session");
        let active = session.end_active(run_id)?;
        self.rings.give_back(active.lane);
        for id in &active.answers {
            self.runs.remove(id);
        }
        self.settle(&key);
        self.sweep();
        Some(key)
    }

    /// The active run took a waiting message that it was offered ([`Added::Steers`]). The message, when it waits no more:
    /// its end is that of the run from now on. `None` when it keeps its turn (mode `steer-backlog`), or waits no more.
    pub fn steered(&mut self, run_id: &str) -> Option<Item> {
        let key = self.runs.get(run_id)?.clone();
        let session = self.sessions.get_mut(&key)?;
        let Slot::Active(active) = &mut session.slot else { return None };
        let is_steering = |item: &Item| item.run_id == run_id && item.policy.mode == Mode::Steer;
        let idx = session.waiting.iter().position(|waiting| is_steering(&waiting.item))?;
        active.answers.push(run_id.to_owned());
        let taken = session.waiting.remove(idx).expect("found at this place");
        self.n_waiting -= 1;
        self.settle(&key);
        self.sweep();
        Some(taken.item)
    }

    /// Takes back a message that waits.
    pub fn cancel(&mut self, run_id: &str) -> Option<Item> {
        let key = self.runs.get(run_id)?.clone();
        let session = self.sessions.get_mut(&key)?;
        let idx = session.waiting.iter().position(|waiting| waiting.item.run_id == run_id)?;
        let taken = session.waiting.remove(idx).expect("found at this place");
        self.runs.remove(run_id);
        self.n_waiting -= 1;
        self.settle(&key);
        self.sweep();
        Some(taken.item)
    }

    /// Takes back all that waits for a session, oldest first. What is active goes on.
    pub fn cancel_session(&mut self, session: &SessionKey) -> Vec<Item> {
        let Some(state) = self.sessions.get_mut(session) else { return Vec::new() };
        let taken: Vec<Item> = std::mem::take(&mut state.waiting).into_iter().map(|waiting| waiting.item).collect();
        state.left_out = Default::default();
        for item in &taken {
            self.runs.remove(&item.run_id);
        }
        self.n_waiting -= taken.len();
        self.settle(session);
        self.sweep();
        taken
    }

    /// Whether nothing is active in a session, waits for it, or has its place.
    pub fn is_idle(&self, session: &SessionKey) -> bool {
        !self.sessions.contains_key(session)
    }

    /// The run that is active in a session.
    pub fn active_run(&self, session: &SessionKey) -> Option<&str> {
        self.sessions.get(session)?.active().map(|active| active.run_id.as_str())
    }

    /// All active runs and their sessions.
    pub fn active_runs(&self) -> impl Iterator<Item = (&str, &SessionKey)> {
        let active = |(key, session)| Some((Session::active(session)?.run_id.as_str(), key));
        self.sessions.iter().filter_map(active)
    }

    /// The session of a run that waits or is active.
    pub fn session_of(&self, run_id: &str) -> Option<&SessionKey> {
        self.runs.get(run_id)
    }

    /// The active run that answers a message: its own, or the one that it was joined to. `None` while it waits.
    pub fn answered_by(&self, run_id: &str) -> Option<&str> {
        let active = self.sessions.get(self.runs.get(run_id)?)?.active()?;
        active.answers.iter().any(|id| id == run_id).then_some(active.run_id.as_str())
    }

    /// How many messages of its session wait before this one; `None` when it does not wait.
    pub fn position(&self, run_id: &str) -> Option<usize> {
        let session = self.sessions.get(self.runs.get(run_id)?)?;
        session.waiting.iter().position(|waiting| waiting.item.run_id == run_id)
    }

    /// What waits for a session, oldest first.
    pub fn waiting(&self, session: &SessionKey) -> impl Iterator<Item = &Item> {
        self.sessions.get(session).into_iter().flat_map(|state| state.waiting.iter().map(|waiting| &waiting.item))
    }

    /// How much goes on and waits.
    pub fn counts(&self) -> Counts {
        Counts { waiting: self.n_waiting, busy: self.rings.n_busy(), sessions: self.sessions.len() }
    }

    /// When [`Scheduler::next`], [`Scheduler::overdue`] and [`Scheduler::given_up`] are to be asked again, though nothing
    /// else happened.
    pub fn deadline_ms(&self) -> Option<i64> {
        let leases = self.all_active().filter_map(|active| active.deadline_ms(&self.limits));
        leases.chain(self.rings.held_until_ms()).min()
    }

    /// A sign of life of a run.
    pub fn renew(&mut self, run_id: &str, now_ms: i64) {
        self.tick(now_ms);
        let Some(session) = self.runs.get(run_id).and_then(|key| self.sessions.get_mut(key)) else { return };
        if let Slot::Active(active) = &mut session.slot
            && active.run_id == run_id
        {
            active.seen_ms = now_ms;
        }
    }

    /// A run has waited for a person so long: it lives, and that was no time of its own.
    pub fn waited(&mut self, run_id: &str, time: Duration, now_ms: i64) {
        self.renew(run_id, now_ms);
        let Some(session) = self.runs.get(run_id).and_then(|key| self.sessions.get_mut(key)) else { return };
        if let Slot::Active(active) = &mut session.slot
            && active.run_id == run_id
        {
            active.waited(time);
        }
    }

    /// Runs that were silent for too long, or go on for too long, and are to be stopped. Each is told once, and stays
    /// active until it ended.
    pub fn overdue(&mut self, now_ms: i64) -> Vec<String> {
        self.tick(now_ms);
        let limits = self.limits.clone();
        self.each_active(|active| active.is_newly_overdue(&limits, now_ms))
    }

    /// The owner stops a run for a reason of its own (a client's abort): from now on nothing is steered to it, and it is
    /// given up when it does not end.
    pub fn stopping(&mut self, run_id: &str, now_ms: i64) {
        self.tick(now_ms);
        let Some(session) = self.runs.get(run_id).and_then(|key| self.sessions.get_mut(key)) else { return };
        if let Slot::Active(active) = &mut session.slot
            && active.run_id == run_id
        {
            active.stop(now_ms);
        }
    }

    /// Runs that are being stopped and did not end within [`END_TIME_MAX`]. Each is told once; the owner ends them
    /// ([`Scheduler::ended`]) in their place, so that their sessions go on.
    pub fn given_up(&mut self, now_ms: i64) -> Vec<String> {
        self.tick(now_ms);
        self.each_active(|active| active.is_newly_given_up(now_ms))
    }

    /// What must hold between calls; each clause says what.
    pub fn check_invariants(&self) {
        let mut n_waiting = 0;
        let mut n_ids = 0;
        let mut busy = [0; 4];
        for (key, session) in &self.sessions {
            session.check_invariants();
            n_waiting += session.waiting.len();
            n_ids += session.waiting.len() + session.active().map_or(0, |active| active.answers.len());
            for id in session.run_ids() {
                assert_eq!(self.runs.get(id), Some(key), "each run id leads to its session");
            }
            if let Some(lane) = session.slot.lane() {
                busy[lane.idx()] += 1;
            }
            self.rings.check_place(key, &session.place);
        }
        assert_eq!(self.n_waiting, n_waiting, "who waits is counted");
        assert_eq!(self.runs.len(), n_ids, "a run id is known once, and no run id is kept for nothing");
        let n_in_line = self.sessions.values().filter(|session| session.place != Place::Nowhere).count();
        self.rings.check_invariants(busy, n_in_line);
    }

    fn all_active(&self) -> impl Iterator<Item = &Active> {
        self.sessions.values().filter_map(Session::active)
    }

    fn each_active(&mut self, mut is_it: impl FnMut(&mut Active) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        for session in self.sessions.values_mut() {
            if let Slot::Active(active) = &mut session.slot
                && is_it(active)
            {
                found.push(active.run_id.clone());
            }
        }
        found
    }

    /// Puts a turn whose place is taken and whose ids are known into its session's slot.
    fn activate(&mut self, turn: &Turn) {
        let answers = turn.items.iter().map(|item| item.run_id.clone()).collect();
        let active = Active::new(turn.run_id.clone(), turn.lane, answers, self.now_ms);
        let session = self.sessions.get_mut(&turn.session).expect("a turn is of a session");
        session.slot = Slot::Active(active);
    }

    /// Puts a session where it belongs after a change, or forgets it when there is nothing to remember.
    fn settle(&mut self, key: &SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let place = session.belongs();
        if session.place != place {
            self.rings.move_to(key, &session.place, &place);
            session.place = place;
        }
        if session.is_over() {
            self.sessions.remove(key);
        }
    }

    /// A clock that ran back would keep people waiting until it is where it was: everything counts from now.
    fn tick(&mut self, now_ms: i64) {
        if now_ms < self.now_ms {
            let keys: Vec<SessionKey> = self.sessions.keys().cloned().collect();
            for key in keys {
                self.sessions.entry(key.clone()).and_modify(|session| session.clock_ran_back(now_ms));
                self.settle(&key);
            }
        }
        self.now_ms = now_ms;
    }

    #[cfg(not(test))]
    fn sweep(&self) {}

    /// Every change of every test is followed by a look at the whole, unless there is so much that it would take long.
    #[cfg(test)]
    fn sweep(&self) {
        const SWEPT_AT_MOST: usize = 64;
        if self.sessions.len() <= SWEPT_AT_MOST {
            self.check_invariants();
        }
    }
}

/// What holds for a message from `channel` to a session that wants `wishes`.
pub fn policy(settings: &Settings, channel: Option<&str>, wishes: &Wishes) -> Policy {
    settings.scheduling.queue.policy(channel, wishes)
}

/// The start of what a message says, in one line of at most [`SUMMARY_LINE_CHARS_MAX`] characters.
pub fn summary_line(text: &str) -> String {
    // A long message is not walked to its end for the sake of its first words.
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().take(SUMMARY_LINE_CHARS_MAX + 1));
        if line.len() > SUMMARY_LINE_CHARS_MAX && line.chars().count() > SUMMARY_LINE_CHARS_MAX {
            let mut cut: String = line.chars().take(SUMMARY_LINE_CHARS_MAX - 1).collect();
            cut.truncate(cut.trim_end().len());
            cut.push('…');
            return cut;
        }
    }
    line
}

/// What a session wants of its queue (`queueMode`, `queueCap`, `queueDrop`, `queueDebounceMs` of its entry).
pub fn wishes(entry: &Map<String, Value>) -> Wishes {
    let word = |name: &str| entry.get(name).and_then(Value::as_str);
    let number = |name: &str| entry.get(name).and_then(Value::as_i64);
    Wishes {
        mode: word("queueMode").and_then(Mode::parse),
        overflow: word("queueDrop").and_then(Overflow::parse),
        cap: number("queueCap").and_then(|cap| usize::try_from(cap).ok()),
        debounce_ms: number("queueDebounceMs"),
    }
}
