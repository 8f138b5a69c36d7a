//! The way of an inbound message: judged, written down, acknowledged, told.
//!
//! Two jobs: the defender judges, the store writes message and decision together. Only then is the sender answered, so
//! a crash at any instant loses nothing that was acknowledged, and a message that comes again is known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::broadcast::{self, For};
use super::effect::{Done, Effect, Job, Lane, Origin, Work};
use super::runs::close::Verdict;
use super::runs::commands::{self, CarriedOut, Orders};
use super::runs::{Asker, OfSession};
use super::stability::{Details, Kind};
use super::{Fact, Gateway, routes};
use crate::config::settings::Settings;
use crate::config::settings::scheduling::Mode;
use crate::defender::decision::{Action, Decision};
use crate::defender::event::DecisionEvent;
use crate::defender::quarantine::Quarantine;
use crate::defender::recent::RecentText;
use crate::defender::request::ActionRequest;
use crate::intake::Message;
use crate::intake::accept::{self, Accepted, Begins, Files, Judged};
use crate::intake::uploads::Uploads;
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::metrics;
use crate::runtime::stop::Why;
use crate::sessions::activation::{self, Heard};
use crate::sessions::row;
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::idempotency::{IDEMPOTENCY_ROWS_MAX, IDEMPOTENCY_TTL_MS};
use crate::store::media::MediaDir;

/// Messages on their way at once; one more is refused as busy.
pub const MESSAGES_MAX: usize = 256;
/// Who may wait for one message; a sender that repeats itself more often is told to wait.
pub const WAITERS_MAX: usize = 16;
/// Bytes of pictures and files, as they were sent, of all messages on their way; one more that brings some is refused as
/// busy. The first is taken whatever its size, which its frame bounds.
pub const UPLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the judged text kept with a decision.
pub const PREVIEW_BYTES_MAX: usize = 160;

/// Who waits to hear that a message was accepted.
#[derive(Debug)]
pub enum Waiter {
    /// `chat.send`.
    Call {
        /// Whose.
        conn: ConnId,
        /// Its id.
        id: String,
        /// The session as the caller named it, which protocol 3 echoes.
        key_as_sent: String,
    },
    /// `agent`, which is answered twice.
    Agent {
        /// Whose.
        conn: ConnId,
        /// Its id.
        id: String,
        /// Whether the caller named the session; only then the first answer does.
        names_session: bool,
    },
    /// `sessions.create`, with the first message of the session it made.
    First {
        /// Whose.
        conn: ConnId,
        /// Its id.
        id: String,
        /// The answer, but for what became of the message.
        made: Value,
    },
    /// A webhook, for one of the messages in its body.
    Hook {
        /// The waiting HTTP request.
        conn: ConnId,
        /// Which of its messages.
        idx: usize,
    },
    /// A request to `/v1/*`, which is answered when the run has ended.
    OpenAi {
        /// The waiting HTTP request.
        conn: ConnId,
    },
}

struct OnItsWay {
    message: Arc<Message>,
    /// Commands in it.
    orders: Option<Arc<Orders>>,
    request: Arc<ActionRequest>,
    waiters: Vec<Waiter>,
    /// Bytes of what comes with it, until it is on disk.
    upload_bytes: usize,
    /// What comes with it, until it is judged.
    uploads: Uploads,
    /// The same, taken apart: its `media`, in order.
    files: Vec<Vec<u8>>,
    decision: Option<Decision>,
    /// Set once it was handed to the store.
    begins: Option<Begins>,
}

/// How a run ended, kept for who asks again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastRun {
    /// How.
    pub verdict: Verdict,
    /// When it is forgotten.
    pub expires_ms: i64,
}

/// Messages on their way, and runs that ended lately.
pub struct Inbound {
    next_ticket: u64,
    on_their_way: BTreeMap<u64, OnItsWay>,
    /// By run id; at most [`IDEMPOTENCY_ROWS_MAX`], the oldest go first.
    past: BTreeMap<String, PastRun>,
    past_order: VecDeque<String>,
    recent: RecentText,
}

impl Inbound {
    /// With the runs the store remembers.
    pub fn new(runs: Vec<(String, PastRun)>) -> Inbound {
        let mut inbound = Inbound {
            next_ticket: 1,
            on_their_way: BTreeMap::new(),
            past: BTreeMap::new(),
            past_order: VecDeque::new(),
            recent: RecentText::default(),
        };
        for (run_id, run) in runs {
            inbound.remember(run_id, run);
        }
        inbound
    }

    /// How many messages are on their way.
    pub fn len(&self) -> usize {
        self.on_their_way.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.on_their_way.is_empty()
    }

    /// Keeps how a run ended.
    pub(super) fn remember(&mut self, run_id: String, run: PastRun) {
        if self.past.insert(run_id.clone(), run).is_none() {
            self.past_order.push_back(run_id);
        }
        while self.past_order.len() > IDEMPOTENCY_ROWS_MAX {
            if let Some(oldest) = self.past_order.pop_front() {
                self.past.remove(&oldest);
            }
        }
    }

    /// Forgets runs whose time is over.
    pub fn forget_old_runs(&mut self, now_ms: i64) {
        let past = &mut self.past;
        self.past_order.retain(|run_id| {
            let keep = past.get(run_id).is_some_and(|run| run.expires_ms > now_ms);
            if !keep {
                past.remove(run_id);
            }
            keep
        });
    }

    fn upload_bytes(&self) -> usize {
        self.on_their_way.values().map(|way| way.upload_bytes).sum()
    }

    fn same(&self, message: &Message) -> Option<u64> {
        self.on_their_way
            .iter()
            .find(|(_, way)| way.message.source == message.source && way.message.dedupe_key == message.dedupe_key)
            .map(|(ticket, _)| *ticket)
    }
}

/// What is known of a run by its id.
pub(super) enum Known {
    /// Nothing: it is new, or it is being accepted at this moment.
    New,
    /// It is on its way.
    Open,
    /// It ended, like this.
    Past(Verdict),
}

impl Gateway {
    /// Looks for a run by its id.
    pub(super) fn known_run(&self, run_id: &str, now_ms: i64) -> Known {
        if self.runs.is_open(run_id) {
            return Known::Open;
        }
        match self.inbound.past.get(run_id).filter(|run| run.expires_ms > now_ms) {
            Some(run) => Known::Past(run.verdict.clone()),
            None => Known::New,
        }
    }

    /// Starts a message on its way; `uploads` come with it, `orders` are the commands in it.
    ///
    /// # Errors
    /// `UNAVAILABLE`, retryable, when [`MESSAGES_MAX`] are on their way, or [`UPLOAD_BYTES_MAX`] of what comes with them.
    pub(super) fn receive(
        &mut self,
        message: Message,
        uploads: Uploads,
        orders: Option<Box<Orders>>,
        waiter: Waiter,
    ) -> Result<(), RpcError> {
        self.may_begin(message.source.as_str())?;
        if let Some(ticket) = self.inbound.same(&message) {
            // The second to ask waits as long as the first: until it is on disk, nothing may be said of it.
            if let Some(way) = self.inbound.on_their_way.get_mut(&ticket) {
                if way.waiters.len() >= WAITERS_MAX {
                    return Err(RpcError::busy("this message is being accepted", super::dispatch::BUSY_RETRY_MS));
                }
                way.waiters.push(waiter);
            }
            return Ok(());
        }
        if self.inbound.len() >= MESSAGES_MAX {
            return Err(RpcError::busy("too many messages are being accepted", super::dispatch::BUSY_RETRY_MS));
        }
        let (upload_bytes, others) = (uploads.bytes(), self.inbound.upload_bytes());
        if upload_bytes > 0 && others > 0 && others + upload_bytes > UPLOAD_BYTES_MAX {
            return Err(RpcError::busy("too many attachments are being accepted", super::dispatch::BUSY_RETRY_MS));
        }
        self.note_received(&message);
        let preceding = self.inbound.recent.before(message.session.as_str(), message.received_ms);
        let request = Arc::new(message.to_judge(preceding));
        let ticket = self.inbound.next_ticket;
        self.inbound.next_ticket += 1;
        let models = orders.as_ref().and_then(|_| self.models_to_make());
        let way = OnItsWay {
            message: Arc::new(message),
            orders: orders.map(Arc::from),
            request,
            waiters: vec![waiter],
            upload_bytes,
            uploads,
            files: Vec::new(),
            decision: None,
            begins: None,
        };
        self.inbound.on_their_way.insert(ticket, way);
        let Some(models) = models else {
            self.judge_message(ticket);
            return Ok(());
        };
        // What asks for models reads files and may run programs: neither judging nor writing waits for that.
        let work = Work::Query(Box::new(move |_| {
            models.get();
            Ok(Done { answer: None, facts: vec![Fact::ModelsMade] })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Message(ticket), work }));
        Ok(())
    }

    fn judge_message(&mut self, ticket: u64) {
        let Some(way) = self.inbound.on_their_way.get_mut(&ticket) else { return };
        let uploads = std::mem::take(&mut way.uploads);
        let (rules, judged) = (Arc::clone(&self.rules), Arc::clone(&way.request));
        let limit = self.config.settings.runtime.eval_timeout;
        let work = Work::Defend(Box::new(move |started| {
            let mut facts = Vec::new();
            let decision = if uploads.is_empty() {
                rules.evaluate(&judged, || started.elapsed() > limit)
            } else {
                let unpacked = match uploads.unpack() {
                    Ok(unpacked) => unpacked,
                    Err(error) => return Done { answer: None, facts: vec![Fact::Refused(error)] },
                };
                let mut request = ActionRequest::clone(&judged);
                // What it brings is judged with it: to the model both are what was said.
                request.prompt.get_or_insert_default().push_str(&unpacked.to_judge);
                let decision = rules.evaluate(&request, || started.elapsed() > limit);
                facts.push(Fact::Unpacked(Box::new((request, unpacked))));
                decision
            };
            facts.push(Fact::Judged(Box::new(decision)));
            Done { answer: None, facts }
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Message(ticket), work }));
    }

    /// The defender had no room: the decision is a review, never an allowance in silence.
    pub(super) fn message_unjudged(&mut self, now: Now, ticket: u64) {
        if self.inbound.on_their_way.get(&ticket).is_some_and(|way| way.upload_bytes > 0) {
            let error = RpcError::busy("attachments cannot be looked at now", super::dispatch::BUSY_RETRY_MS);
            return self.message_refused(now, ticket, &error);
        }
        self.message_judged(now, ticket, Decision::queue_full());
    }

    /// A step of a message is done.
    pub(super) fn message_step(&mut self, now: Now, ticket: u64, outcome: Result<Done, RpcError>) {
        let is_judged = self.inbound.on_their_way.get(&ticket).is_some_and(|way| way.decision.is_some());
        match outcome {
            Ok(done) => {
                for fact in done.facts {
                    match fact {
                        Fact::ModelsMade => self.judge_message(ticket),
                        Fact::Unpacked(unpacked) => {
                            let Some(way) = self.inbound.on_their_way.get_mut(&ticket) else { continue };
                            let (request, unpacked) = *unpacked;
                            Arc::make_mut(&mut way.message).wish.media = unpacked.media;
                            way.request = Arc::new(request);
                            way.files = unpacked.files;
                        }
                        Fact::Refused(error) => self.message_refused(now, ticket, &error),
                        Fact::Judged(decision) => self.message_judged(now, ticket, *decision),
                        Fact::Accepted(accepted) => self.message_accepted(now, ticket, *accepted),
                        Fact::CarriedOut(done) => self.message_carried_out(now, ticket, *done),
                        other => self.apply(now, other),
                    }
                }
            }
            Err(error) if !is_judged => match self.inbound.on_their_way.get(&ticket) {
                Some(way) if way.upload_bytes > 0 => self.message_refused(now, ticket, &error),
                _ => self.message_judged(now, ticket, Decision::failed()),
            },
            Err(error) => self.message_refused(now, ticket, &error),
        }
    }

    /// A message does not come to be: what it brings cannot be taken, or it could not be written down.
    fn message_refused(&mut self, now: Now, ticket: u64, error: &RpcError) {
        let Some(way) = self.inbound.on_their_way.remove(&ticket) else { return };
        self.note_processed(&way.message, "error");
        if way.begins == Some(Begins::Now) {
            self.release_run(&way.message);
        }
        for waiter in way.waiters {
            self.tell_waiter(waiter, Err(error.clone()));
        }
        // Others of its session may have waited for it.
        self.write_judged(now, &way.message.session);
    }

    /// Its decision is there. Messages of one session go to the store in the order they came, however long each was
    /// judged: the transcript and the runs have that order.
    fn message_judged(&mut self, now: Now, ticket: u64, decision: Decision) {
        let Some(way) = self.inbound.on_their_way.get_mut(&ticket) else { return };
        way.decision = Some(decision.clone());
        let judged = Arc::clone(&way.message);
        self.note_judged(&judged, &decision);
        self.write_judged(now, &judged.session);
    }

    /// Hands the messages of a session to the store that are judged, up to the first that is not.
    fn write_judged(&mut self, now: Now, session: &SessionKey) {
        let of_session = self.inbound.on_their_way.iter().filter(|(_, way)| way.message.session == *session);
        let ready: Vec<u64> = of_session
            .take_while(|(_, way)| way.decision.is_some())
            .filter(|(_, way)| way.begins.is_none())
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in ready {
            self.write_message(now, ticket);
        }
    }

    fn write_message(&mut self, now: Now, ticket: u64) {
        let Some(way) = self.inbound.on_their_way.get(&ticket) else { return };
        let orders = way.orders.clone();
        let (message, request, rules) = (Arc::clone(&way.message), Arc::clone(&way.request), Arc::clone(&self.rules));
        let Some(decision) = way.decision.clone() else { return };
        // One that is to wait and is being written down is not known to the scheduler yet: when the session becomes free
        // meanwhile, the next one must not overtake it.
        let mut before = self.inbound.on_their_way.range(..ticket).map(|(_, way)| way);
        let is_behind = before.any(|way| way.message.session == message.session && way.begins == Some(Begins::Later));
        let is_held = self.is_held(&decision);
        let begins = if is_held || is_behind { Begins::Later } else { self.reserve_run(&message) };
        // What is held orders nothing.
        let orders = orders.filter(|_| !is_held);
        let scene = orders.map(|orders| self.scene_of(&orders, &message.session));
        let mut files = Vec::new();
        if let Some(way) = self.inbound.on_their_way.get_mut(&ticket) {
            way.begins = Some(begins);
            files = std::mem::take(&mut way.files);
        }
        let config = Arc::clone(&self.config);
        let media_dir = MediaDir::of(&config.state_dir);
        let quarantine = Quarantine::new(self.config.settings.security.quarantine_dir.clone());
        let now_ms = now.wall_ms;
        let work = Work::Store(Box::new(move |db| {
            let (masked, _) = rules.scrub(&message.text);
            let end = masked.floor_char_boundary(PREVIEW_BYTES_MAX);
            let preview = masked[..end].to_owned();
            let judged = Judged {
                message: &message,
                files: Files { dir: &media_dir, bytes: &files },
                request: &request,
                decision: &decision,
                is_held,
                is_left_out: scene.is_none() && !is_held && is_left_out(db, &config.settings, &message)?,
                preview,
            };
            if let Some(scene) = scene {
                let facts = commands::carry_out(db, &scene, judged, begins, now_ms)?;
                return Ok(Done { answer: None, facts });
            }
            let mut accepted = accept::accept(db, judged, begins, now_ms)?;
            if let Accepted::New(stored) = &mut accepted
                && let Some(added) = &stored.added
            {
                stored.row = Some(row::told_v4(db, &added.session, &row::Context::of(&config), now_ms)?);
            }
            if let Accepted::New(stored) = &accepted
                && stored.is_left_out
            {
                // Whoever asks for its run is told that nothing was to be said.
                let verdict = Verdict::silent(now_ms).to_text();
                db.idempotency_finish(&accept::run_key(&message.run_id), Ok(&verdict), now_ms)?;
            }
            if is_held && matches!(accepted, Accepted::New(_)) {
                // The decision stands whether or not its copy can be written.
                if let Err(error) = quarantine.write(&rules, &request, &decision, now_ms) {
                    log::warn!("cannot quarantine a held message run={} error={error}", message.run_id);
                }
            }
            Ok(Done { answer: None, facts: vec![Fact::Accepted(Box::new(accepted))] })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Message(ticket), work }));
    }

    fn message_accepted(&mut self, now: Now, ticket: u64, accepted: Accepted) {
        let Some(way) = self.inbound.on_their_way.remove(&ticket) else { return };
        let OnItsWay { message, request, waiters, decision, begins, .. } = way;
        let (Some(decision), Some(begins)) = (decision, begins) else { return };
        let stored = match accepted {
            Accepted::New(stored) => *stored,
            Accepted::Unjudged => {
                self.note_processed(&message, "error");
                self.tell_decision(&message.session, &request, &decision);
                let why = format!("the defender could not judge this: {}", decision.reasons.join("; "));
                let error = RpcError::busy(why, super::dispatch::BUSY_RETRY_MS);
                for waiter in waiters {
                    self.tell_waiter(waiter, Err(error.clone()));
                }
                return;
            }
            Accepted::Before { run_id, was_held } => {
                self.note_processed(&message, "duplicate");
                if begins == Begins::Now {
                    self.release_run(&message);
                }
                return self.message_came_before(now, &message, waiters, &run_id, was_held);
            }
        };
        let is_held = stored.is_held;
        self.note_processed(&message, if is_held { "blocked" } else { "completed" });
        self.tell_decision(&message.session, &request, &decision);
        if is_held {
            let error = held(&decision);
            for waiter in waiters {
                self.tell_waiter(waiter, Err(error.clone()));
            }
            return;
        }
        self.inbound.recent.remember(message.session.as_str(), &message.text, now.wall_ms);
        if stored.is_left_out {
            return self.message_left_out(now, &message, waiters, begins, stored);
        }
        let asker = waiters.iter().find_map(|waiter| match waiter {
            Waiter::Call { conn, key_as_sent, .. } => {
                Some(Asker { conn: *conn, second: None, key_as_sent: key_as_sent.clone() })
            }
            Waiter::Agent { conn, id, .. } => {
                let key_as_sent = message.session.as_str().to_owned();
                Some(Asker { conn: *conn, second: Some(id.clone()), key_as_sent })
            }
            Waiter::OpenAi { conn } => {
                let (second, key_as_sent) = (Some(message.run_id.clone()), message.session.as_str().to_owned());
                Some(Asker { conn: *conn, second, key_as_sent })
            }
            Waiter::First { conn, .. } => {
                Some(Asker { conn: *conn, second: None, key_as_sent: message.session.as_str().to_owned() })
            }
            Waiter::Hook { .. } => None,
        });
        let is_left = |waiter: &Waiter| matches!(waiter, Waiter::OpenAi { conn } if !self.is_openai(*conn));
        let left = waiters.iter().any(is_left);
        self.tell_accepted(now, &message, waiters);
        let of_session = OfSession {
            id: stored.added.as_ref().map(|added| added.session.session_id.clone()),
            wishes: stored.wishes,
        };
        // Before it is told of: what clients see of the session names its run.
        self.run_accepted(now, &message, stored.inbox_id, begins, of_session, asker);
        if let Some((added, row)) = stored.added.zip(stored.row) {
            self.note_turn(&message);
            for fact in Fact::of_added(&message.session, added, "send", row) {
                self.apply(now, fact);
            }
        }
        if left {
            // Who asked did not wait for this much.
            self.stop_run(now, &message.run_id, Why::Rpc);
        }
    }

    /// A message in a group that is not said to the agent is on disk, as context for the next one that is.
    fn message_left_out(
        &mut self,
        now: Now,
        message: &Message,
        waiters: Vec<Waiter>,
        begins: Begins,
        stored: accept::Stored,
    ) {
        if begins == Begins::Now {
            self.release_run(message);
        }
        let verdict = Verdict::silent(now.wall_ms);
        let past = PastRun { verdict: verdict.clone(), expires_ms: now.wall_ms + IDEMPOTENCY_TTL_MS };
        self.inbound.remember(message.run_id.clone(), past);
        for waiter in waiters {
            let receipt = Receipt {
                run_id: &message.run_id,
                session: &message.session,
                is_new: false,
                status: "ok",
                interrupts: false,
                now_ms: now.wall_ms,
            };
            self.tell_waiter(waiter, Ok(receipt));
        }
        self.tell_waits(&message.run_id, &verdict);
        if let Some((added, row)) = stored.added.zip(stored.row) {
            self.note_turn(message);
            for fact in Fact::of_added(&message.session, added, "send", row) {
                self.apply(now, fact);
            }
        }
    }

    /// What a message ordered is done, and on disk.
    fn message_carried_out(&mut self, now: Now, ticket: u64, done: CarriedOut) {
        let said = match done {
            CarriedOut::Said(said) => said,
            CarriedOut::Runs(message, stored) => {
                if let Some(way) = self.inbound.on_their_way.get_mut(&ticket) {
                    way.message = Arc::new(*message);
                }
                return self.message_accepted(now, ticket, Accepted::New(stored));
            }
        };
        let Some(way) = self.inbound.on_their_way.remove(&ticket) else { return };
        if way.begins == Some(Begins::Now) {
            self.release_run(&way.message);
        }
        self.note_processed(&way.message, "completed");
        if let Some(decision) = &way.decision {
            self.tell_decision(&way.message.session, &way.request, decision);
        }
        self.tell_said(now, &way.message, way.waiters, &said);
    }

    /// Whether what was decided keeps a message from the agent. A review waits for a person, and this build has nobody
    /// ask one (DEF-08); where only auditing is wanted, nothing is held.
    fn is_held(&self, decision: &Decision) -> bool {
        decision.action != Action::Allow && !self.config.settings.runtime.audit_only
    }

    /// Counts a decision and tells of it.
    pub(super) fn tell_decision(&mut self, session: &SessionKey, request: &ActionRequest, decision: &Decision) {
        metrics::DECISIONS.increment(decision.action.as_str());
        if let Ok(payload) = Json::of(&DecisionEvent::new(request, decision)) {
            self.broadcast(&broadcast::DECISION, For::SessionRuns(session), &payload);
        }
    }

    /// Tells everybody who waits for it that a message was accepted.
    pub(super) fn tell_accepted(&mut self, now: Now, message: &Message, waiters: Vec<Waiter>) {
        for (idx, waiter) in waiters.into_iter().enumerate() {
            let receipt = Receipt {
                run_id: &message.run_id,
                session: &message.session,
                is_new: true,
                status: if idx == 0 { "started" } else { "in_flight" },
                interrupts: message.wish.queue_mode.as_deref() == Some(Mode::Interrupt.as_str())
                    && self.runs.is_busy(&message.session),
                now_ms: now.wall_ms,
            };
            self.tell_waiter(waiter, Ok(receipt));
        }
    }

    fn note_received(&mut self, message: &Message) {
        let about = || Details {
            source: Some(message.source.as_str().to_owned()),
            channel: message.channel.clone(),
            ..Details::default()
        };
        let queue_depth = Some(self.inbound.len() + 1);
        let queue_size = Some(usize::try_from(metrics::DEFEND_DEPTH.value()).unwrap_or(0) + 1);
        self.note(Kind::MessageReceived, about());
        self.note(Kind::MessageQueued, Details { queue_depth, ..about() });
        let lane = Some(Lane::Defend.as_str().to_owned());
        self.note(Kind::Enqueued, Details { source: lane, queue_size, ..Details::default() });
        self.note(Kind::DispatchStarted, about());
    }

    fn note_judged(&mut self, message: &Message, decision: &Decision) {
        let queue_size = Some(usize::try_from(metrics::DEFEND_DEPTH.value()).unwrap_or(0));
        let lane = Some(Lane::Defend.as_str().to_owned());
        self.note(Kind::Dequeued, Details { source: lane, queue_size, ..Details::default() });
        let details = self.since_received(message, decision.action.as_str());
        self.note(Kind::DispatchCompleted, details);
    }

    fn note_processed(&mut self, message: &Message, outcome: &'static str) {
        let details = self.since_received(message, outcome);
        self.note(Kind::MessageProcessed, details);
    }

    fn since_received(&self, message: &Message, outcome: &'static str) -> Details {
        Details {
            source: Some(message.source.as_str().to_owned()),
            channel: message.channel.clone(),
            outcome: Some(outcome),
            duration_ms: Some(u64::try_from(self.now.wall_ms - message.received_ms).unwrap_or(0)),
            ..Details::default()
        }
    }

    /// Something was said in a session.
    fn note_turn(&mut self, message: &Message) {
        let source = message.session.agent().map(str::to_owned);
        self.note(Kind::TurnCreated, Details { source, channel: message.channel.clone(), ..Details::default() });
    }

    /// A message that had been delivered before.
    fn message_came_before(&mut self, now: Now, message: &Message, waiters: Vec<Waiter>, run_id: &str, was_held: bool) {
        // Saying "ok" to a second delivery of what was blocked would be a way to have it believed.
        let error = RpcError::invalid("held by the defender when it was first delivered")
            .with_details(json!({ "code": "BLOCKED_BY_DEFENDER" }));
        for waiter in waiters {
            let status = if self.runs.is_open(run_id) { "in_flight" } else { "ok" };
            let (session, now_ms) = (&message.session, now.wall_ms);
            let receipt = Receipt { run_id, session, is_new: false, status, interrupts: false, now_ms };
            self.tell_waiter(waiter, if was_held { Err(error.clone()) } else { Ok(receipt) });
        }
    }

    /// Sends a `chat` event: the common fields and `state`'s. Protocol 3 hears the session's name as it was sent,
    /// protocol 4 its whole key.
    pub(super) fn chat_event(&mut self, run_id: &str, key: &SessionKey, as_sent: &str, seq: u64, state: Value) {
        for protocol in [Protocol::V3, Protocol::V4] {
            let name = if protocol == Protocol::V3 { as_sent } else { key.as_str() };
            let mut payload = json!({ "runId": run_id, "sessionKey": name, "seq": seq });
            if protocol == Protocol::V4 {
                payload["agentId"] = json!(key.agent());
            }
            if let (Value::Object(into), Value::Object(more)) = (&mut payload, &state) {
                into.extend(more.clone());
            }
            if let Ok(payload) = Json::of(&payload) {
                self.broadcast(&broadcast::CHAT, For::SessionRunsOn(key, protocol), &payload);
            }
        }
    }

    fn tell_waiter(&mut self, waiter: Waiter, result: Result<Receipt<'_>, RpcError>) {
        match waiter {
            Waiter::Call { conn, id, .. } => {
                let answer = result.and_then(|receipt| Json::of(&receipt.started()));
                self.answer_request(conn, &id, answer);
            }
            Waiter::Agent { conn, id, names_session } => {
                let answer = result.and_then(|receipt| Json::of(&receipt.accepted(names_session)));
                self.answer_request(conn, &id, answer);
            }
            Waiter::First { conn, id, made } => {
                self.tell_first(conn, &id, made, result.map(|receipt| receipt.started()));
            }
            Waiter::OpenAi { conn } => self.openai_accepted(conn, result.map(|_| ())),
            Waiter::Hook { conn, idx } => {
                let outcome = result.map(|receipt| routes::HookOutcome {
                    run_id: receipt.run_id.to_owned(),
                    session: receipt.session.as_str().to_owned(),
                    is_new: receipt.is_new,
                });
                self.hook_message_done(conn, idx, outcome);
            }
        }
    }
}

/// What a waiter is told.
struct Receipt<'a> {
    /// The run it became, now or when it was first delivered.
    run_id: &'a str,
    session: &'a SessionKey,
    /// Whether it had not been delivered before.
    is_new: bool,
    /// `started`, `in_flight`, `ok`.
    status: &'static str,
    /// Whether it stops what goes on in its session.
    interrupts: bool,
    now_ms: i64,
}

impl Receipt<'_> {
    /// The answer to a message of a client.
    fn started(&self) -> Value {
        let mut answer = json!({ "runId": self.run_id, "status": self.status });
        if self.interrupts {
            answer["interruptedActiveRun"] = json!(true);
        }
        answer
    }

    /// The first answer of `agent`.
    fn accepted(&self, names_session: bool) -> Value {
        if self.status != "started" {
            return json!({ "runId": self.run_id, "status": self.status });
        }
        let mut answer = json!({ "runId": self.run_id });
        if names_session {
            answer["sessionKey"] = json!(self.session.as_str());
        }
        answer["agentId"] = json!(self.session.agent());
        answer["status"] = json!("accepted");
        answer["acceptedAt"] = json!(self.now_ms);
        answer
    }
}

/// Whether a message is said in a group and not to the agent (SES-17 to SES-19).
fn is_left_out(db: &Db<'_>, settings: &Settings, message: &Message) -> Result<bool, StoreError> {
    let heard = Heard {
        session: &message.session,
        facts: &message.heard,
        text: &message.text,
        // Who speaks through a client of this gateway may give it commands; a channel's senders may not yet.
        is_authorized: message.client.is_some(),
    };
    if !heard.is_in_group() {
        return Ok(false);
    }
    let entry = db.session(message.session.as_str())?.map(|session| session.entry).unwrap_or_default();
    let is_command = |name: &str| crate::agent::commands::find(name).is_some();
    let verdict = heard.judge(activation::effective(&entry, None, settings), is_command);
    Ok(verdict == activation::Verdict::LeaveOut)
}

/// What the sender of a message hears that is kept from the agent.
fn held(decision: &Decision) -> RpcError {
    let why = decision.reasons.first().map_or("it looks harmful", String::as_str);
    let (said, code) = match decision.action {
        Action::Review => (
            format!("held by the defender for a person's review, and nobody can be asked here: {why}"),
            "REVIEW_BY_DEFENDER",
        ),
        _ => (format!("blocked by the defender: {why}"), "BLOCKED_BY_DEFENDER"),
    };
    RpcError::invalid(said).with_details(json!({
        "code": code,
        "action": decision.action.as_str(),
        "score": decision.risk_score,
        "reasons": decision.reasons,
        "tags": decision.tags,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stage::Stage;

    /// The next job that is to be started.
    #[track_caller]
    fn next_job(stage: &mut Stage) -> Effect {
        std::iter::from_fn(|| stage.core.next_effect())
            .find(|effect| matches!(effect, Effect::Start(_)))
            .expect("a job is to be started")
    }

    /// A message up to the job that writes it down.
    #[track_caller]
    fn written_next(stage: &mut Stage, text: &str) -> Effect {
        let params = json!({ "sessionKey": "main", "message": text, "idempotencyKey": text });
        assert!(stage.begin(Protocol::V4, "chat.send", &params).unwrap().is_none());
        let judging = next_job(stage);
        stage.carry_out(judging);
        next_job(stage)
    }

    #[test]
    fn a_message_does_not_overtake_one_that_is_being_written_down_when_its_session_becomes_free() {
        let mut stage = Stage::new(&json!({}));
        let first = written_next(&mut stage, "first");
        stage.carry_out(first);
        let run = next_job(&mut stage);
        stage.carry_out(run);
        let end = next_job(&mut stage);
        // The session is busy until the end is written, so this one is to wait for its turn.
        let second = written_next(&mut stage, "second");
        stage.carry_out(end);
        let third = written_next(&mut stage, "third");

        stage.carry_out(second);
        stage.carry_out(third);
        stage.run();
        for _ in 0..3 {
            stage.pass(std::time::Duration::from_secs(1));
        }

        let history = stage.ok(Protocol::V4, "chat.history", &json!({ "sessionKey": "main" }));
        let users = history["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
        let said: Vec<&Value> = users.map(|message| &message["content"]).collect();
        assert_eq!(said, ["first", "second", "third"]);
    }
}
