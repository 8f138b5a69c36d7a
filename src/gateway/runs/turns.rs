//! From a message that was accepted to the thread of its run, and how a run is stopped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::close::{bare_end, failed_end};
use super::shown::{On, Shown};
use super::{ATTEMPTS_MAX, Again, Asker, Beginning, Going, OfSession, Open, Phase, STEERED_MAX, ask, item, lane};
use crate::agent::run::{Outcome, RunEnd, RunInput};
use crate::config::settings::scheduling::Mode;
use crate::gateway::effect::{Done, Effect, Job, Origin, RunNo, RunWork, Steered, Task, Work};
use crate::gateway::{Fact, Gateway};
use crate::intake::{Message, Source, accept};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::runtime::clock::Now;
use crate::runtime::stop::{Stop, Why};
use crate::sessions::row;
use crate::sessions::scheduler::{self, Added, Turn};

impl Gateway {
    /// Whether a message for this session may begin its run with its acceptance; then its place is kept.
    pub(in crate::gateway) fn reserve_run(&mut self, message: &Message) -> accept::Begins {
        match self.runs.scheduler.reserve(&message.session, lane(&message.session)) {
            true => accept::Begins::Now,
            false => accept::Begins::Later,
        }
    }

    /// The message did not come to be.
    pub(in crate::gateway) fn release_run(&mut self, message: &Message) {
        self.runs.scheduler.release(&message.session);
        self.runs.is_stirred = true;
    }

    /// A message is on disk: its run begins, or waits for its turn.
    pub(in crate::gateway) fn run_accepted(
        &mut self,
        now: Now,
        message: &Arc<Message>,
        inbox_id: i64,
        begins: accept::Begins,
        of_session: OfSession,
        asker: Option<Asker>,
    ) {
        let key_as_sent =
            asker.as_ref().map_or_else(|| message.session.as_str().to_owned(), |asker| asker.key_as_sent.clone());
        let starter = asker.as_ref().map(|asker| asker.conn);
        let no = self.runs.enter(Arc::clone(message), inbox_id, key_as_sent, starter, 0);
        if let Some((asker, open)) = asker.zip(self.runs.open.get_mut(&no)) {
            open.answers.extend(asker.second.map(|id| (asker.conn, id)));
        }
        let item = item(&self.config, inbox_id, message, of_session.wishes);
        match begins {
            accept::Begins::Now => {
                let at = self.runs.ms(now);
                let turn = self.runs.scheduler.begin(item, at);
                debug_assert!(turn.is_some(), "its place was kept");
                self.go(now, no, of_session.id);
            }
            accept::Begins::Later => {
                let joins = item.policy.mode == Mode::Steer;
                let at = self.runs.ms(now);
                for added in self.runs.scheduler.add(item, at) {
                    self.run_added(now, no, joins, added);
                }
                self.runs.is_stirred = true;
            }
        }
    }

    /// A message of one run to another is on disk: it has its run when its turn comes, whoever sent it ends meanwhile.
    pub(in crate::gateway) fn run_between(&mut self, now: Now, message: Message, stored: &accept::Stored) {
        let of_session = OfSession { id: None, wishes: stored.wishes };
        if message.source == Source::Spawn {
            self.child_begins(now);
        }
        self.run_accepted(now, &Arc::new(message), stored.inbox_id, accept::Begins::Later, of_session, None);
    }

    fn run_added(&mut self, now: Now, no: RunNo, joins: bool, added: Added) {
        match added {
            Added::Queued { .. } | Added::Known => {}
            Added::Steers { run_id } => self.offer(&run_id, no, joins),
            Added::Interrupts { run_id } => {
                self.stop_run(now, &run_id, Why::Interrupt);
            }
            Added::Dropped { which, why } => {
                for item in which {
                    log::info!("a waiting message gives way run={} why={}", item.run_id, why.as_str());
                    match why {
                        scheduler::Why::Summarized => self.summarize(&item.run_id),
                        _ => self.drop_waiting(now, &item.run_id, why.as_str()),
                    }
                }
            }
        }
    }

    /// Offers a message to the run that goes on in its session. One that finds no room there has its turn later.
    fn offer(&mut self, run_id: &str, no: RunNo, joins: bool) {
        let Some(active) = self.runs.by_id.get(run_id).and_then(|no| self.runs.open.get(no)) else { return };
        let Phase::Going(going) = &active.phase else { return };
        let steer = going.steer.clone();
        let Some(open) = self.runs.open.get_mut(&no) else { return };
        let claim = Arc::new(AtomicBool::new(false));
        let message = Arc::clone(&open.message);
        let steered = Steered { no, inbox_id: open.inbox_id, joins, claim: Arc::clone(&claim), message };
        if steer.try_send(steered).is_ok() {
            open.claim = Some(claim);
        }
    }

    /// A run took a message that it was offered.
    pub(in crate::gateway) fn steered(&mut self, no: RunNo, into: RunNo) {
        let Some(open) = self.runs.open.get_mut(&no) else { return };
        let is_taken = match open.phase {
            Phase::Taken(_) => true,
            Phase::Waiting => self.runs.scheduler.steered(&open.message.run_id).is_some(),
            _ => false,
        };
        if !is_taken {
            return;
        }
        open.phase = Phase::Merged(into);
        if let Some(into) = self.runs.open.get_mut(&into) {
            into.merged.push(no);
        }
    }

    /// Begins every run whose turn has come.
    pub(in crate::gateway) fn begin_turns(&mut self, now: Now) {
        self.runs.is_stirred = false;
        if self.stopping || self.suspension.is_some() {
            return;
        }
        let at = self.runs.ms(now);
        while let Some(turn) = self.runs.scheduler.next(at) {
            self.begin_turn(now, turn);
        }
    }

    pub(super) fn begin_turn(&mut self, now: Now, turn: Turn) {
        let Turn { run_id, session, items, dropped_summary, .. } = turn;
        let Some(no) = self.runs.by_id.get(&run_id).copied() else {
            debug_assert!(false, "the scheduler names runs that are open");
            self.runs.scheduler.ended(&run_id);
            return;
        };
        let mut texts: Vec<String> = dropped_summary.into_iter().collect();
        let mut merged = self.runs.summarized(&session);
        for other in items.iter().filter_map(|item| self.runs.by_id.get(&item.run_id).copied()) {
            texts.extend(self.runs.open.get(&other).map(|open| open.message.text.clone()));
            if other != no {
                merged.push(other);
            }
        }
        let mut inbox_ids = Vec::new();
        for other in &merged {
            let Some(open) = self.runs.open.get_mut(other) else { continue };
            inbox_ids.push(open.inbox_id);
            open.phase = Phase::Merged(no);
        }
        let Some(open) = self.runs.open.get_mut(&no) else { return };
        inbox_ids.push(open.inbox_id);
        open.merged = merged;
        let mut message = Message::clone(&open.message);
        message.text = texts.join("\n\n");
        let beginning = Beginning { inbox_ids, message: Arc::new(message), again: Again::default() };
        open.phase = Phase::Beginning(Box::new(beginning));
        if open.begun >= ATTEMPTS_MAX {
            let why = format!("the gateway ended {ATTEMPTS_MAX} times while it answered this; it is not tried again");
            log::error!("a run is given up run={run_id} attempts={ATTEMPTS_MAX}");
            return self.close_run(now, no, failed_end(why, now.wall_ms));
        }
        self.write_turn(now, no);
    }

    /// Writes a turn into the transcript.
    pub(super) fn write_turn(&mut self, now: Now, no: RunNo) {
        let Some(open) = self.runs.open.get(&no) else { return };
        let Phase::Beginning(beginning) = &open.phase else { return };
        let (inbox_ids, message) = (beginning.inbox_ids.clone(), Arc::clone(&beginning.message));
        let turn_id = open.inbox_id;
        let (config, now_ms) = (Arc::clone(&self.config), now.wall_ms);
        let work = Work::Store(Box::new(move |db| {
            let added = accept::begin_all(db, turn_id, &inbox_ids, &message, now_ms)?;
            let session_id = added.session.session_id.clone();
            let mut facts = vec![Fact::TurnBegan { session_id }];
            if !added.existed {
                let row = row::told_v4(db, &added.session, &row::Context::of(&config), now_ms)?;
                facts.extend(Fact::of_added(&message.session, added, "send", row));
            }
            Ok(Done { answer: None, facts })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::RunBegin(no), work }));
    }

    /// A turn is written down, or could not be.
    pub(in crate::gateway) fn turn_began(&mut self, now: Now, no: RunNo, outcome: Result<Option<String>, RpcError>) {
        let Some(open) = self.runs.open.get_mut(&no) else { return };
        let Phase::Beginning(beginning) = &mut open.phase else { return };
        match outcome {
            Ok(session_id) => self.go(now, no, session_id),
            Err(error) => {
                // Its session went while it was about to begin: nothing is written in what took its place.
                if let Some(why) = open.stop_asked {
                    return self.close(now, no, None, stopped_end(why, now));
                }
                if !beginning.again.schedule(now) {
                    self.close_run(now, no, failed_end(error.message, now.wall_ms));
                }
            }
        }
    }

    /// Starts the thread of a run.
    pub(super) fn go(&mut self, now: Now, no: RunNo, session_id: Option<String>) {
        let models = Arc::clone(&self.runs.models);
        let cooldowns = self.runs.cooldowns.clone();
        let (config, rules) = (Arc::clone(&self.config), Arc::clone(&self.rules));
        let runs = &config.settings.agents.defaults.runs;
        let Some(open) = self.runs.open.get_mut(&no) else { return };
        open.begun += 1;
        let message = &open.message;
        let time_max = message.wish.timeout_ms.map_or(runs.timeout, Duration::from_millis).min(runs.timeout);
        let stop = Stop::default();
        let (steer, steered) = bounded(STEERED_MAX);
        let input = RunInput {
            run_id: message.run_id.clone(),
            session: message.session.clone(),
            config: Arc::clone(&config),
            rules,
            servers: self.runs.servers.clone(),
            models,
            cooldowns,
            ask: ask(message),
            attempt: open.begun,
        };
        let mut shown = Shown::new(message.run_id.clone(), message.session.clone(), session_id.clone(), now);
        let task = message.wish.compact.clone().map_or(Task::Answer, Task::Compact);
        let (turn_id, own_stop) = (open.inbox_id, stop.clone());
        let work = Work::Run(Box::new(RunWork {
            no,
            turn_id: Some(turn_id),
            session_id,
            input,
            task,
            stop: own_stop,
            steered,
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Run(no), work }));
        self.show_phase(&mut shown, "preparing_workspace", now.wall_ms);
        let start = json!({ "phase": "start", "startedAt": now.wall_ms });
        self.agent_event(&mut shown, On::Both, "lifecycle", &start, now.wall_ms);
        if let Some(open) = self.runs.open.get_mut(&no) {
            open.phase = Phase::Going(Box::new(Going { stop, steer, shown, until: now.mono + time_max }));
            if let Some(why) = open.stop_asked {
                let run_id = open.message.run_id.clone();
                self.stop_run(now, &run_id, why);
            }
        }
    }

    /// Stops one run, whether it goes on or waits. Returns whether there was one to stop.
    pub(in crate::gateway) fn stop_run(&mut self, now: Now, run_id: &str, why: Why) -> bool {
        let Some(no) = self.runs.by_id.get(run_id).copied() else { return false };
        let Some(open) = self.runs.open.get_mut(&no) else { return false };
        match &mut open.phase {
            Phase::Going(going) => {
                going.stop.stop(why);
                let at = self.runs.ms(now);
                self.runs.scheduler.stopping(run_id, at);
                true
            }
            Phase::Waiting => {
                if !open.let_go() {
                    // It reaches the run that goes on, and ends with it.
                    return false;
                }
                let session = open.message.session.clone();
                self.runs.scheduler.cancel(run_id);
                self.close(now, no, None, stopped_end(why, now));
                if self.runs.scheduler.waiting(&session).next().is_none() {
                    // No turn comes that could be told of them.
                    for no in self.runs.summarized(&session) {
                        self.close(now, no, None, stopped_end(why, now));
                    }
                }
                true
            }
            Phase::Summarized => {
                self.close(now, no, None, stopped_end(why, now));
                true
            }
            Phase::Beginning(_) => {
                open.stop_asked.get_or_insert(why);
                true
            }
            // Ends at this moment, or goes with another.
            Phase::Ending(_) | Phase::Taken(_) | Phase::Merged(_) | Phase::Held => false,
        }
    }

    /// Stops everything of a session; says which runs.
    pub(in crate::gateway) fn stop_session(&mut self, now: Now, session: &SessionKey, why: Why) -> Vec<String> {
        let runs: Vec<String> = self
            .runs
            .open
            .values()
            .filter(|open| open.message.session == *session)
            .map(|open| open.message.run_id.clone())
            .collect();
        for compaction in self.runs.compactions.values().filter(|compaction| compaction.is_of(session)) {
            compaction.stop.stop(why);
        }
        if why == Why::Stop {
            // Who stops a conversation stops what it started.
            let is_child = |open: &&Open| {
                let message = &open.message;
                message.source == Source::Spawn && message.spawned_by.as_deref() == Some(session.as_str())
            };
            let children: BTreeSet<SessionKey> =
                self.runs.open.values().filter(is_child).map(|open| open.message.session.clone()).collect();
            for child in children.iter().filter(|child| *child != session && row::is_subagent(child)) {
                self.stop_session(now, child, why);
            }
        }
        runs.into_iter().filter(|run_id| self.stop_run(now, run_id, why)).collect()
    }

    /// A run does not stop: its session goes on without it, and what its thread still says is not heard.
    pub(super) fn give_up(&mut self, now: Now, run_id: &str) {
        let Some(no) = self.runs.by_id.get(run_id).copied() else { return };
        let Some(Phase::Going(going)) = self.runs.open.get(&no).map(|open| &open.phase) else { return };
        log::error!("a run does not stop; its session goes on without it run={run_id}");
        let outcome =
            Outcome::Stopped { why: going.stop.why().unwrap_or(Why::Timeout), partial: going.shown.text.clone() };
        self.close_run(now, no, bare_end(outcome, now.wall_ms));
    }

    /// A message that waited is not answered by itself; the next turn of its session is told of it.
    fn summarize(&mut self, run_id: &str) {
        let open = self.runs.by_id.get(run_id).and_then(|no| self.runs.open.get_mut(no));
        if let Some(open) = open.filter(|open| matches!(open.phase, Phase::Waiting)) {
            open.phase = Phase::Summarized;
        }
    }

    /// A message that waited is not answered any more.
    pub(super) fn drop_waiting(&mut self, now: Now, run_id: &str, why: &str) {
        let Some(no) = self.runs.by_id.get(run_id).copied() else { return };
        let Some(open) = self.runs.open.get_mut(&no).filter(|open| matches!(open.phase, Phase::Waiting)) else {
            return;
        };
        let active = self.runs.scheduler.active_run(&open.message.session).and_then(|id| self.runs.by_id.get(id));
        match active {
            Some(active) if !open.let_go() => open.phase = Phase::Taken(*active),
            _ => self.close(now, no, None, failed_end(why.to_owned(), now.wall_ms)),
        }
    }

    /// The gateway ends: every run is stopped, to be taken up by the next start.
    pub(in crate::gateway) fn stop_all_runs(&mut self) {
        for open in self.runs.open.values() {
            if let Phase::Going(going) = &open.phase {
                going.stop.stop(Why::Shutdown);
            }
        }
        for compaction in self.runs.compactions.values() {
            compaction.stop.stop(Why::Shutdown);
        }
    }

    /// Whether nothing runs, waits or is summarised in a session.
    pub(in crate::gateway) fn is_session_idle(&self, session: &SessionKey) -> bool {
        self.runs.scheduler.is_idle(session)
    }

    /// The session of a run that has not ended.
    pub(in crate::gateway) fn session_of_run(&self, run_id: &str) -> Option<&SessionKey> {
        self.runs.by_id.get(run_id).and_then(|no| self.runs.session(*no))
    }
}

/// The end of a message that is stopped before its turn.
fn stopped_end(why: Why, now: Now) -> RunEnd {
    bare_end(Outcome::Stopped { why, partial: String::new() }, now.wall_ms)
}
