//! Runs: from a message that was accepted to the one end of its run.
//!
//! A message that finds its session free begins with its acceptance; any other waits in the scheduler until its turn
//! comes. Its run goes on on a thread of its own and tells what happens in it. Its end is written down first, and
//! only then told. So a crash at any instant leaves the message in the inbox, open, and the next start takes it up.
//!
//! [`turns`] begins and stops, [`stops`] answers who asked for that, [`steps`] writes meanwhile, [`shown`] is what clients
//! see, [`close`] what is written at the end, and [`ends`] tells of it. [`children`] are runs that a run starts.
//! [`commands`] carries out what a message orders.
//!
//! **Invariant:** a run that was accepted is in `open` until its end is told, and has exactly one.

pub mod children;
pub mod close;
pub mod commands;
mod compaction;
mod ends;
mod items;
pub mod notices;
mod shown;
pub mod steps;
pub mod stops;
mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde_json::Value;

use self::shown::{On, Shown};
use super::effect::{Done, Origin, RUN_THREADS_MAX, RunNo, Steered};
use super::stability::{Details, Kind};
use super::{Fact, Gateway};
use crate::agent::cooldown::Cooldowns;
use crate::agent::models::LazyModels;
use crate::agent::run::{Ask, RunEnd, RunEvent, RunInput, Speaker};
use crate::agent::talk::ToolSpec;
use crate::config::load::{LoadInputs, Loaded};
use crate::config::settings::scheduling::{Mode, Wishes};
use crate::intake::{Message, Source};
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::runtime::clock::Now;
use crate::runtime::stop::{Stop, Why};
use crate::sessions::row::{self, OpenRuns};
use crate::sessions::scheduler::{Item, Limits, Merge, RunLane, Scheduler, summary_line};
use crate::tools::mcp::Servers;

pub(super) use ends::{past_answer, wait_answer};

/// How often a run is begun that the process did not survive. One more, and it is closed: it may be what kills it.
pub const ATTEMPTS_MAX: u32 = 3;
/// Messages that may wait to reach a run while it goes on; one more waits for its own turn.
pub const STEERED_MAX: usize = 16;
/// How often a turn or an end is written before it is given up, and how long after the first failure the second try
/// comes; later ones take longer.
pub const WRITE_TRIES_MAX: u32 = 12;
/// See [`WRITE_TRIES_MAX`].
pub const WRITE_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// What a run gets beyond the time after which it stops itself, before it is stopped from outside.
pub const RUN_TIME_ROOM: Duration = Duration::from_secs(30);
/// Calls that may wait for a run's end (`agent.wait`); one more is told to come back.
pub const WAITS_MAX: usize = 256;

/// A message that was accepted and whose run has not ended.
struct Open {
    message: Arc<Message>,
    inbox_id: i64,
    /// The session as its sender named it, which protocol 3 echoes.
    key_as_sent: String,
    /// Who asked: it alone is shown the tools it uses.
    starter: Option<ConnId>,
    /// Calls of `agent` that get a second answer.
    answers: Vec<(ConnId, String)>,
    /// Messages that are answered with this one.
    merged: Vec<RunNo>,
    /// How often its run was begun before.
    begun: u32,
    /// Whether the run it was offered to took it; whoever sets it first has it.
    claim: Option<Arc<AtomicBool>>,
    /// Why it is to be stopped, when somebody asked for that while it could not be.
    stop_asked: Option<Why>,
    phase: Phase,
}

/// How far a run has come.
enum Phase {
    /// It waits for its turn.
    Waiting,
    /// It gave way because too many waited: the next turn of its session is told in a line what it said, and its end
    /// is that turn's.
    Summarized,
    /// Its turn is being written down.
    Beginning(Box<Beginning>),
    /// It goes on.
    Going(Box<Going>),
    /// It gave way while a run was taking it, and is on its way there.
    Taken(RunNo),
    /// It is answered with another one.
    Merged(RunNo),
    /// Its end is being written down.
    Ending(Box<Ending>),
    /// Somebody holds what it is.
    Held,
}

/// A turn that is being written down.
struct Beginning {
    /// The inbox rows of its messages, the newest last.
    inbox_ids: Vec<i64>,
    /// What they say together.
    message: Arc<Message>,
    again: Again,
}

/// An end that is being written down.
struct Ending {
    /// What was shown; `None`: it never began.
    shown: Option<Shown>,
    end: Arc<RunEnd>,
    again: Again,
}

/// When something that could not be written is tried again. A finished answer is not thrown away because the disk was
/// busy for a moment.
#[derive(Debug, Default)]
struct Again {
    tries: u32,
    at: Option<Instant>,
}

impl Again {
    /// Once more, a little later each time; `false` after [`WRITE_TRIES_MAX`].
    fn schedule(&mut self, now: Now) -> bool {
        self.tries += 1;
        self.at = (self.tries < WRITE_TRIES_MAX).then(|| now.mono + WRITE_AGAIN_AFTER * self.tries);
        self.at.is_some()
    }

    /// Once more, and it does not count as a try: there was no room for it.
    fn put_off(&mut self, now: Now) {
        self.at = Some(now.mono + WRITE_AGAIN_AFTER);
    }

    /// Whether it is time; asked once.
    fn is_due(&mut self, now: Now) -> bool {
        let is_due = self.at.is_some_and(|at| at <= now.mono);
        if is_due {
            self.at = None;
        }
        is_due
    }
}

/// A run that goes on.
struct Going {
    stop: Stop,
    steer: Sender<Steered>,
    shown: Shown,
    /// When it has taken longer than it may.
    until: Instant,
}

impl Open {
    /// Lets go of it; `false` when the run it was offered to has taken it.
    fn let_go(&self) -> bool {
        !self.claim.as_ref().is_some_and(|claim| claim.swap(true, Ordering::AcqRel))
    }
}

impl Going {
    /// When it is to be stopped for taking too long; `None` once it is being stopped.
    fn time_left(&self) -> Option<Instant> {
        self.stop.why().is_none().then_some(self.until)
    }
}

/// A call that waits for a run's end.
struct Wait {
    run_id: String,
    conn: ConnId,
    id: String,
    until: Instant,
}

/// All runs that have not ended, and who waits for them.
pub struct Runs {
    scheduler: Scheduler,
    open: BTreeMap<RunNo, Open>,
    by_id: BTreeMap<String, RunNo>,
    next_no: u64,
    waits: Vec<Wait>,
    /// Calls that stopped runs and wait for their ends.
    stops: Vec<stops::StopWait>,
    /// Summaries that are made for callers; each has a reserved place, so there are no more than runs.
    compactions: BTreeMap<RunNo, compaction::Compaction>,
    models: Arc<LazyModels>,
    /// Servers of tools; runs start them.
    servers: Servers,
    /// The scheduler's times count from here, on a clock that never jumps.
    epoch: Instant,
    /// What of them clients are shown beside sessions.
    listed: Arc<OpenRuns>,
    cooldowns: Cooldowns,
    /// Turns may have come that nobody looked at.
    is_stirred: bool,
}

/// A message of an earlier process whose run has not ended.
#[derive(Debug)]
pub struct Left {
    /// Its row in the inbox.
    pub inbox_id: i64,
    /// The message.
    pub message: Message,
    /// How often its run was begun.
    pub begun: u32,
    /// The newest inbox row of the turn it had begun in.
    pub turn: Option<i64>,
    /// What its session wants of its queue.
    pub wishes: Wishes,
}

impl Runs {
    /// With what an earlier process left.
    pub fn new(config: &Arc<Loaded>, inputs: &LoadInputs, cooldowns: Cooldowns, left: Vec<Left>, now: Now) -> Runs {
        let mut runs = Runs {
            scheduler: Scheduler::new(limits(config)),
            open: BTreeMap::new(),
            by_id: BTreeMap::new(),
            next_no: 1,
            waits: Vec::new(),
            stops: Vec::new(),
            compactions: BTreeMap::new(),
            servers: Servers::default(),
            listed: Arc::default(),
            models: models(config, inputs),
            epoch: now.mono,
            cooldowns,
            is_stirred: !left.is_empty(),
        };
        for Left { inbox_id, message, begun, turn, wishes } in left {
            let item = Item { begun: turn, ..item(config, inbox_id, &message, wishes) };
            let as_sent = message.session.as_str().to_owned();
            runs.enter(Arc::new(message), inbox_id, as_sent, None, begun);
            runs.scheduler.restore(item, 0);
        }
        runs
    }

    /// Turns may have come.
    pub(super) fn stir(&mut self) {
        self.is_stirred = true;
    }

    /// Another configuration is in force: what begins from now on follows it.
    pub(super) fn reconfigure(&mut self, config: &Arc<Loaded>, inputs: &LoadInputs) {
        self.scheduler.set_limits(limits(config));
        self.models = models(config, inputs);
        self.is_stirred = true;
    }

    fn enter(
        &mut self,
        message: Arc<Message>,
        inbox_id: i64,
        key_as_sent: String,
        starter: Option<ConnId>,
        begun: u32,
    ) -> RunNo {
        let no = self.take_no();
        self.by_id.insert(message.run_id.clone(), no);
        Arc::make_mut(&mut self.listed).add(message.session.as_str(), &message.run_id);
        let open = Open {
            message,
            inbox_id,
            key_as_sent,
            starter,
            answers: Vec::new(),
            merged: Vec::new(),
            begun,
            claim: None,
            stop_asked: None,
            phase: Phase::Waiting,
        };
        self.open.insert(no, open);
        no
    }

    /// A number that nothing had before.
    pub(super) fn take_no(&mut self) -> RunNo {
        let no = RunNo(self.next_no);
        self.next_no += 1;
        no
    }

    /// A run has ended and is not known any more.
    fn forget(&mut self, message: &Message) {
        self.by_id.remove(&message.run_id);
        Arc::make_mut(&mut self.listed).remove(message.session.as_str(), &message.run_id);
    }

    /// A run's end is on disk: it, and what was answered with it, are shown beside their session no more.
    fn unlist(&mut self, no: RunNo) {
        let Some(open) = self.open.get(&no) else { return };
        let merged = open.merged.iter().filter_map(|no| self.open.get(no));
        let listed = Arc::make_mut(&mut self.listed);
        for open in merged.chain([open]) {
            listed.remove(open.message.session.as_str(), &open.message.run_id);
        }
    }

    /// The runs that have not ended, as they are now.
    pub(super) fn listed(&self) -> Arc<OpenRuns> {
        Arc::clone(&self.listed)
    }

    /// The same, for a look.
    pub(super) fn list(&self) -> &OpenRuns {
        &self.listed
    }

    /// Whether a run is on its way.
    pub fn is_open(&self, run_id: &str) -> bool {
        self.by_id.contains_key(run_id)
    }

    /// A session's row was told, which its runs tell again beside their tools.
    pub(super) fn note_row(&mut self, session: &SessionKey, row: &Value) {
        for open in self.open.values_mut().filter(|open| open.message.session == *session) {
            if let Phase::Going(going) = &mut open.phase {
                going.shown.row = Some(row.clone());
            }
        }
    }

    /// Whether something goes on in a session.
    pub(super) fn is_busy(&self, session: &SessionKey) -> bool {
        self.scheduler.active_run(session).is_some()
    }

    /// How many go on or are being written down, and how many wait.
    pub fn counts(&self) -> (usize, usize) {
        let n_waiting = self.open.values().filter(|open| matches!(open.phase, Phase::Waiting)).count();
        (self.open.len() - n_waiting, n_waiting)
    }

    /// The time as the scheduler counts it: a clock that is set right must not stop everything that goes on.
    fn ms(&self, now: Now) -> i64 {
        i64::try_from(now.mono.saturating_duration_since(self.epoch).as_millis()).unwrap_or(i64::MAX)
    }

    /// When something is to be done.
    pub fn deadline(&self, now: Now) -> Option<Instant> {
        if self.is_stirred {
            return Some(now.mono);
        }
        let going = self.open.values().filter_map(|open| match &open.phase {
            Phase::Going(going) => going.shown.due().into_iter().chain(going.time_left()).min(),
            Phase::Beginning(beginning) => beginning.again.at,
            Phase::Ending(ending) => ending.again.at,
            _ => None,
        });
        let scheduled = self
            .scheduler
            .deadline_ms()
            .map(|at_ms| self.epoch + Duration::from_millis(u64::try_from(at_ms).unwrap_or(0)));
        going.chain(self.waits.iter().map(|wait| wait.until)).chain(scheduled).min()
    }

    /// Messages of a session of which its next turn is told.
    fn summarized(&self, session: &SessionKey) -> Vec<RunNo> {
        let is_one = |open: &Open| matches!(open.phase, Phase::Summarized) && open.message.session == *session;
        self.open.iter().filter(|(_, open)| is_one(open)).map(|(no, _)| *no).collect()
    }

    fn session(&self, no: RunNo) -> Option<&SessionKey> {
        self.open.get(&no).map(|open| &open.message.session)
    }

    /// What must hold between events.
    pub(super) fn check_invariants(&self) {
        self.scheduler.check_invariants();
        assert_eq!(self.open.len(), self.by_id.len(), "every open run is found by its id");
        assert_eq!(self.open.len(), self.listed.n_runs(), "and is shown beside its session");
        assert!(self.waits.len() <= WAITS_MAX, "who waits is bounded");
        assert!(self.stops.len() <= stops::STOPS_MAX, "and who waits for what he stopped");
        for left in self.stops.iter().flat_map(stops::StopWait::left) {
            assert!(self.by_id.contains_key(left), "what is waited for is still to end");
        }
        for (no, open) in &self.open {
            if let Phase::Merged(into) = open.phase {
                let into = self.open.get(&into).expect("a message is answered with a run that is open");
                assert!(into.merged.contains(no), "and that run knows of it");
            }
        }
    }
}

/// The models that may be asked.
fn models(config: &Arc<Loaded>, inputs: &LoadInputs) -> Arc<LazyModels> {
    Arc::new(LazyModels::new(Arc::clone(config), inputs.env.0.clone()))
}

/// How much may go on at once, and wait.
fn limits(config: &Loaded) -> Limits {
    let settings = &config.settings;
    let mut limits = Limits::of(settings, settings.agents.defaults.runs.timeout + RUN_TIME_ROOM);
    limits.workers = limits.workers.min(RUN_THREADS_MAX);
    limits
}

/// A message as the scheduler sees it.
fn item(config: &Loaded, inbox_id: i64, message: &Message, session: Wishes) -> Item {
    let own = Wishes { mode: message.wish.queue_mode.as_deref().and_then(Mode::parse), ..Wishes::default() };
    // What people may have done is their own: with rules for some of them, nobody's words join another one's run.
    let is_own = message.source == Source::Hook && config.settings.tells_senders_apart();
    let is_plain = message.command.is_none() && message.wish.is_plain() && !is_own;
    Item {
        id: inbox_id,
        run_id: message.run_id.clone(),
        session: message.session.clone(),
        lane: lane(&message.session),
        policy: config.settings.scheduling.queue.policy(message.channel.as_deref(), &own.or(session)),
        merge: if is_plain { Merge::Route(route(message)) } else { Merge::Alone },
        line: summary_line(&message.text),
        begun: None,
        at_ms: message.received_ms,
    }
}

/// The lane of a session's runs.
fn lane(session: &SessionKey) -> RunLane {
    if row::is_subagent(session) {
        RunLane::Subagent
    } else if session.rest().starts_with("cron:") {
        RunLane::Cron
    } else {
        RunLane::Main
    }
}

/// Where a message came from; only messages of one place are answered together.
fn route(message: &Message) -> String {
    [&message.channel, &message.to, &message.account_id, &message.thread_id]
        .map(|part| part.as_deref().unwrap_or_default())
        .join("\n")
}

/// What acceptance found out about the session.
#[derive(Debug, Default)]
pub(super) struct OfSession {
    /// Its id, when the message is in its transcript.
    pub id: Option<String>,
    /// What it wants of its queue.
    pub wishes: Wishes,
}

/// Who waits for a run beside those who are told of everything.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    /// The connection.
    pub conn: ConnId,
    /// The request, when it gets a second answer.
    pub second: Option<String>,
    /// The session as it named it.
    pub key_as_sent: String,
}

impl Gateway {
    /// A step of a run is done: its turn is written, its thread has ended, its end is written.
    pub(super) fn run_step(&mut self, now: Now, origin: &Origin, no: RunNo, outcome: Result<Done, RpcError>) {
        let facts = match outcome {
            Ok(done) => {
                if let Origin::RunEnd(_) = origin {
                    // What is told of the session at its end is told without it.
                    self.runs.unlist(no);
                }
                done.facts
            }
            Err(error) => {
                return match origin {
                    Origin::RunBegin(_) => self.turn_began(now, no, Err(error)),
                    Origin::RunEnd(_) => self.run_closed(now, no, Err(error)),
                    _ => self.run_ended(now, no, Err(error)),
                };
            }
        };
        for fact in facts {
            match fact {
                Fact::TurnBegan { session_id } => self.turn_began(now, no, Ok(Some(session_id))),
                Fact::RunEnded(end) => self.run_ended(now, no, Ok(*end)),
                Fact::RunClosed => self.run_closed(now, no, Ok(())),
                other => self.apply(now, other),
            }
        }
    }

    /// The store has no room for a turn or an end. What was accepted, and what was answered, waits for it as long as it
    /// takes: nobody's message comes to nothing because others wrote more.
    pub(super) fn write_put_off(&mut self, now: Now, no: RunNo) {
        match self.runs.open.get_mut(&no).map(|open| &mut open.phase) {
            Some(Phase::Beginning(beginning)) => beginning.again.put_off(now),
            Some(Phase::Ending(ending)) => ending.again.put_off(now),
            _ => debug_assert!(false, "only turns and ends are written for a run"),
        }
    }

    /// A run tells what happens in it.
    pub(super) fn run_told(&mut self, now: Now, no: RunNo, event: RunEvent) {
        let Some(open) = self.runs.open.get_mut(&no) else { return };
        if !matches!(open.phase, Phase::Going(_)) {
            return;
        }
        let Phase::Going(mut going) = std::mem::replace(&mut open.phase, Phase::Held) else { return };
        let starter = open.starter;
        if let Some(conn) = starter {
            self.openai_told(conn, &event);
        }
        let at = self.runs.ms(now);
        match &event {
            RunEvent::Waits(time) => self.runs.scheduler.waited(&going.shown.run_id, *time, at),
            _ => self.runs.scheduler.renew(&going.shown.run_id, at),
        }
        self.show(now, &mut going.shown, starter, event);
        if let Some(open) = self.runs.open.get_mut(&no) {
            open.phase = Phase::Going(going);
        }
    }

    fn show(&mut self, now: Now, shown: &mut Shown, starter: Option<ConnId>, event: RunEvent) {
        let at = now.wall_ms;
        match event {
            RunEvent::Phase(phase) => self.show_phase(shown, phase, at),
            RunEvent::Model { provider, model } => {
                let data = json!({ "phase": "model", "provider": provider, "model": model });
                let asked = Details {
                    phase: Some("model_call_started"),
                    provider: Some(provider.clone()),
                    model: Some(model.clone()),
                    ..Details::default()
                };
                self.note(Kind::RunPhase, asked);
                shown.model = Some((provider, model));
                self.agent_event(shown, On::V4, "lifecycle", &data, at);
            }
            RunEvent::Fallback { from, to } => {
                let data = json!({
                    "phase": "fallback",
                    "from": format!("{}/{}", from.provider, from.model),
                    "to": to,
                });
                self.agent_event(shown, On::Both, "lifecycle", &data, at);
            }
            RunEvent::Text(words) => {
                shown.add(&words);
                self.show_words(shown, now);
            }
            RunEvent::Thinking(words) => {
                self.agent_event(shown, On::Both, "thinking", &json!({ "text": words, "delta": words }), at);
            }
            RunEvent::Restart => shown.restart(),
            RunEvent::Approval(data) => self.agent_event(shown, On::V4, "approval", &data, at),
            RunEvent::Waits(_) => {}
            RunEvent::ToolStart { id, name, arguments } => {
                self.show_all_words(shown, now);
                shown.next_part();
                self.show_tool_start(shown, starter, (&id, &name), &arguments, at);
            }
            RunEvent::ToolUpdate { id, name, text, details } => {
                self.show_tool_update(shown, starter, (&id, &name), (&text, &details), at);
            }
            RunEvent::ToolEnd { id, name, text, is_error, details } => {
                self.show_tool_end(shown, starter, (&id, &name), (&text, details.as_ref(), is_error), at);
            }
            RunEvent::CompactionStart => {
                self.agent_event(shown, On::Both, "compaction", &json!({ "phase": "start" }), at);
            }
            RunEvent::CompactionEnd { will_retry } => {
                let data = json!({ "phase": "end", "willRetry": will_retry });
                self.agent_event(shown, On::Both, "compaction", &data, at);
            }
            RunEvent::Usage(usage) => {
                self.agent_event(shown, On::V4, "usage", &json!({ "outputTokens": usage.output }), at);
            }
        }
    }

    /// Time has passed: words that are due, waits that are over, runs that take too long, turns that have come.
    pub(super) fn tend_runs(&mut self, now: Now) {
        let (over, waits) = std::mem::take(&mut self.runs.waits).into_iter().partition(|wait| wait.until <= now.mono);
        self.runs.waits = waits;
        for wait in over {
            let Wait { run_id, conn, id, .. } = wait;
            let answer = Json::of(&json!({ "runId": run_id, "status": "timeout" }));
            self.answer_request(conn, &id, answer);
        }
        let at = self.runs.ms(now);
        for run_id in self.runs.scheduler.overdue(at) {
            log::warn!("a run gave no sign of life for too long and is stopped run={run_id}");
            self.stop_run(now, &run_id, Why::Timeout);
        }
        for run_id in self.runs.scheduler.given_up(at) {
            self.give_up(now, &run_id);
        }
        let numbers: Vec<RunNo> = self.runs.open.keys().copied().collect();
        for no in numbers {
            let Some(open) = self.runs.open.get_mut(&no) else { continue };
            let going = match &mut open.phase {
                Phase::Going(going) => going,
                Phase::Beginning(beginning) => {
                    if beginning.again.is_due(now) {
                        self.write_turn(now, no);
                    }
                    continue;
                }
                Phase::Ending(ending) => {
                    if ending.again.is_due(now) {
                        self.write_end(now, no);
                    }
                    continue;
                }
                Phase::Waiting | Phase::Summarized | Phase::Taken(_) | Phase::Merged(_) | Phase::Held => continue,
            };
            if going.time_left().is_some_and(|until| until <= now.mono) {
                let run_id = going.shown.run_id.clone();
                self.stop_run(now, &run_id, Why::Timeout);
                continue;
            }
            if going.shown.due().is_none_or(|due| due > now.mono) {
                continue;
            }
            let Phase::Going(mut going) = std::mem::replace(&mut open.phase, Phase::Held) else { continue };
            self.show_words(&mut going.shown, now);
            if let Some(open) = self.runs.open.get_mut(&no) {
                open.phase = Phase::Going(going);
            }
        }
        if self.runs.is_stirred {
            self.begin_turns(now);
        }
    }
}

impl Gateway {
    /// What something begins with that no message asks for.
    pub(super) fn run_input(&self, run_id: String, session: SessionKey, ask: Ask) -> RunInput {
        RunInput {
            run_id,
            session,
            config: Arc::clone(&self.config),
            rules: Arc::clone(&self.rules),
            servers: self.runs.servers.clone(),
            models: Arc::clone(&self.runs.models),
            cooldowns: self.runs.cooldowns.clone(),
            ask,
            attempt: 1,
        }
    }
}

/// What a message's sender asks of its run.
fn ask(message: &Message) -> Ask {
    let wish = &message.wish;
    let tool = |tool: &crate::intake::SenderTool| ToolSpec {
        name: tool.name.clone(),
        description: tool.description.clone(),
        parameters: tool.parameters.clone(),
    };
    Ask {
        thinking: wish.thinking.as_deref().and_then(crate::agent::talk::Thinking::parse),
        model: wish.model.clone(),
        extra_system: wish.extra_system.clone(),
        timeout: wish.timeout_ms.map(Duration::from_millis),
        params: wish.params.clone(),
        client_tools: wish.tools.iter().map(tool).collect(),
        // A webhook's signature vouches for whom it names; a client is whoever it says.
        speaker: Speaker {
            sender: message.sender.clone().filter(|_| message.source == Source::Hook),
            ..Speaker::default()
        },
    }
}
