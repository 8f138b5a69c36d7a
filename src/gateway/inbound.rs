//! The way of an inbound message: judged, written down, acknowledged, told.
//!
//! Two jobs: the defender judges, the store writes message and decision together. Only then is the sender answered, so
//! a crash at any instant loses nothing that was acknowledged, and a message that comes again is known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::broadcast::{self, For};
use super::effect::{Done, Effect, Job, Lane, Origin, Work};
use super::stability::{Details, Kind};
use super::{Fact, Gateway, routes};
use crate::defender::decision::{Action, Decision};
use crate::defender::event::DecisionEvent;
use crate::defender::quarantine::Quarantine;
use crate::defender::recent::RecentText;
use crate::defender::request::ActionRequest;
use crate::intake::accept::{self, Accepted};
use crate::intake::{Message, Source};
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::metrics;
use crate::store::idempotency::{IDEMPOTENCY_ROWS_MAX, IDEMPOTENCY_TTL_MS};

/// Messages on their way at once; one more is refused as busy.
pub const MESSAGES_MAX: usize = 256;
/// Who may wait for one message; a sender that repeats itself more often is told to wait.
pub const WAITERS_MAX: usize = 16;
/// Bytes of the judged text kept with a decision.
pub const PREVIEW_BYTES_MAX: usize = 160;

/// Who waits to hear that a message was accepted.
#[derive(Debug)]
pub enum Waiter {
    /// A request.
    Call {
        /// Whose.
        conn: ConnId,
        /// Its id.
        id: String,
        /// The session as the caller named it, which protocol 3 echoes.
        key_as_sent: String,
    },
    /// A webhook, for one of the messages in its body.
    Hook {
        /// The waiting HTTP request.
        conn: ConnId,
        /// Which of its messages.
        idx: usize,
    },
}

struct OnItsWay {
    message: Arc<Message>,
    request: Arc<ActionRequest>,
    waiters: Vec<Waiter>,
    decision: Option<Decision>,
}

/// The outcome of a run, kept for who asks again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastRun {
    /// The answer to repeat, as JSON text.
    pub response: String,
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

    fn remember(&mut self, run_id: String, run: PastRun) {
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

    fn same(&self, message: &Message) -> Option<u64> {
        self.on_their_way
            .iter()
            .find(|(_, way)| way.message.source == message.source && way.message.dedupe_key == message.dedupe_key)
            .map(|(ticket, _)| *ticket)
    }
}

/// What `chat.send` finds when it looks for its key.
pub(super) enum Known {
    /// Nothing: it is new, or it is being accepted at this moment.
    New,
    /// Its run ended: the answer to repeat.
    Past(Value),
}

impl Gateway {
    /// Looks for a run by its id.
    pub(super) fn known_run(&self, run_id: &str, now_ms: i64) -> Known {
        match self.inbound.past.get(run_id).filter(|run| run.expires_ms > now_ms) {
            Some(run) => Known::Past(serde_json::from_str(&run.response).unwrap_or(Value::Null)),
            None => Known::New,
        }
    }

    /// Starts a message on its way.
    ///
    /// # Errors
    /// `UNAVAILABLE`, retryable, when [`MESSAGES_MAX`] are on their way.
    pub(super) fn receive(&mut self, message: Message, waiter: Waiter) -> Result<(), RpcError> {
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
        self.note_received(&message);
        let preceding = self.inbound.recent.before(message.session.as_str(), message.received_ms);
        let request = Arc::new(message.to_judge(preceding));
        let ticket = self.inbound.next_ticket;
        self.inbound.next_ticket += 1;
        let rules = Arc::clone(&self.rules);
        let judged = Arc::clone(&request);
        let limit = self.config.settings.runtime.eval_timeout;
        let way = OnItsWay { message: Arc::new(message), request, waiters: vec![waiter], decision: None };
        self.inbound.on_their_way.insert(ticket, way);
        let work = Work::Defend(Box::new(move |started| {
            let decision = rules.evaluate(&judged, || started.elapsed() > limit);
            Done { answer: None, facts: vec![Fact::Judged(Box::new(decision))] }
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Message(ticket), work }));
        Ok(())
    }

    /// The defender had no room: the message goes on, marked for review, never allowed in silence.
    pub(super) fn message_unjudged(&mut self, now: Now, ticket: u64) {
        self.message_judged(now, ticket, Decision::queue_full());
    }

    /// A step of a message is done.
    pub(super) fn message_step(&mut self, now: Now, ticket: u64, outcome: Result<Done, RpcError>) {
        let is_judged = self.inbound.on_their_way.get(&ticket).is_some_and(|way| way.decision.is_some());
        match outcome {
            Ok(done) => {
                for fact in done.facts {
                    match fact {
                        Fact::Judged(decision) => self.message_judged(now, ticket, *decision),
                        Fact::Accepted(accepted) => self.message_accepted(now, ticket, *accepted),
                        other => self.apply(now, other),
                    }
                }
            }
            Err(_) if !is_judged => self.message_judged(now, ticket, Decision::failed()),
            Err(error) => {
                if let Some(way) = self.inbound.on_their_way.remove(&ticket) {
                    self.note_processed(&way.message, "error");
                    for waiter in way.waiters {
                        self.tell_waiter(waiter, Err(error.clone()));
                    }
                }
            }
        }
    }

    fn message_judged(&mut self, now: Now, ticket: u64, decision: Decision) {
        let Some(way) = self.inbound.on_their_way.get_mut(&ticket) else { return };
        way.decision = Some(decision.clone());
        let judged = Arc::clone(&way.message);
        self.note_judged(&judged, &decision);
        let Some(way) = self.inbound.on_their_way.get(&ticket) else { return };
        let (message, request, rules) = (Arc::clone(&way.message), Arc::clone(&way.request), Arc::clone(&self.rules));
        let quarantine = Quarantine::new(self.config.settings.security.quarantine_dir.clone());
        let run_error = self.no_model_message();
        let now_ms = now.wall_ms;
        let work = Work::Store(Box::new(move |db| {
            let (masked, _) = rules.scrub(&message.text);
            let end = masked.floor_char_boundary(PREVIEW_BYTES_MAX);
            let accepted = accept::accept(db, &message, &decision, masked[..end].to_owned(), &run_error, now_ms)?;
            if decision.action == Action::Block && matches!(accepted, Accepted::New(_)) {
                // The decision stands whether or not its copy can be written.
                if let Err(error) = quarantine.write(&rules, &request, &decision, now_ms) {
                    log::warn!("cannot quarantine a blocked message run={} error={error}", message.run_id);
                }
            }
            Ok(Done { answer: None, facts: vec![Fact::Accepted(Box::new(accepted))] })
        }));
        self.effects.push_back(Effect::Start(Job { origin: Origin::Message(ticket), work }));
    }

    fn message_accepted(&mut self, now: Now, ticket: u64, accepted: Accepted) {
        let Some(way) = self.inbound.on_their_way.remove(&ticket) else { return };
        let OnItsWay { message, request, waiters, decision } = way;
        let Some(decision) = decision else { return };
        let stored = match accepted {
            // Saying "ok" to a second delivery of what was blocked would be a way to have it believed.
            Accepted::Before { was_blocked: true, .. } => {
                self.note_processed(&message, "duplicate");
                let error = RpcError::invalid("blocked by the defender when it was first delivered")
                    .with_details(json!({ "code": "BLOCKED_BY_DEFENDER" }));
                for waiter in waiters {
                    self.tell_waiter(waiter, Err(error.clone()));
                }
                return;
            }
            Accepted::Before { run_id, was_blocked: false } => {
                self.note_processed(&message, "duplicate");
                let answer = json!({ "runId": run_id, "status": "ok" });
                for waiter in waiters {
                    let session = &message.session;
                    self.tell_waiter(waiter, Ok(Receipt { run_id: &run_id, session, is_new: false, answer: &answer }));
                }
                return;
            }
            Accepted::New(stored) => stored,
        };
        self.note_processed(&message, if decision.action == Action::Block { "blocked" } else { "completed" });
        metrics::DECISIONS.increment(decision.action.as_str());
        if let Ok(payload) = Json::of(&DecisionEvent::new(&request, &decision)) {
            self.broadcast(&broadcast::DECISION, For::SessionRuns(&message.session), &payload);
        }
        if decision.action == Action::Block {
            let error = blocked(&decision);
            for waiter in waiters {
                self.tell_waiter(waiter, Err(error.clone()));
            }
            return;
        }
        self.inbound.recent.remember(message.session.as_str(), &message.text, now.wall_ms);
        let key_as_sent = waiters.iter().find_map(|waiter| match waiter {
            Waiter::Call { key_as_sent, .. } => Some(key_as_sent.clone()),
            Waiter::Hook { .. } => None,
        });
        let started = json!({ "runId": message.run_id, "status": "started" });
        let again = json!({ "runId": message.run_id, "status": "in_flight" });
        for (idx, waiter) in waiters.into_iter().enumerate() {
            let answer = if idx == 0 { &started } else { &again };
            let receipt = Receipt { run_id: &message.run_id, session: &message.session, is_new: true, answer };
            self.tell_waiter(waiter, Ok(receipt));
        }
        if let Some(added) = stored.added {
            let row = crate::sessions::row::wire_v4(&added.session, &self.session_rows(), now.wall_ms);
            let model = self.session_rows().model_of(&added.session);
            let chosen = (model.provider.map(str::to_owned), model.model.map(str::to_owned));
            self.note_turn(&message, chosen, stored.run_error.is_some() && message.source == Source::Chat);
            let updated_at = added.session.updated_ms;
            let (key, is_new) = (message.session.clone(), added.is_new_session);
            let reason = if is_new { "create" } else { "send" };
            self.apply(now, Fact::Session { key: key.clone(), reason, row: row.clone(), updated_at, is_new });
            let (message, message_id, seq) = (added.message, added.message_id, added.seq);
            self.apply(now, Fact::Message { key, message, message_id, seq, row });
        }
        if let Some(run_error) = stored.run_error.filter(|_| message.source == Source::Chat) {
            self.end_run(now, &message, key_as_sent.as_deref(), &run_error);
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

    /// Something was said in a session, and whether a run for it ended for want of the model it would ask.
    fn note_turn(&mut self, message: &Message, model: (Option<String>, Option<String>), run_ended: bool) {
        let source = message.session.agent().map(str::to_owned);
        self.note(Kind::TurnCreated, Details { source, channel: message.channel.clone(), ..Details::default() });
        if run_ended {
            let (provider, model) = model;
            let phase = Some("model_unavailable");
            self.note(Kind::RunPhase, Details { phase, provider, model, ..Details::default() });
        }
    }

    /// Ends a run that no model can answer, in the way clients show.
    fn end_run(&mut self, now: Now, message: &Message, key_as_sent: Option<&str>, why: &str) {
        let response = json!({ "runId": message.run_id, "status": "error", "summary": why });
        let expires_ms = now.wall_ms + IDEMPOTENCY_TTL_MS;
        self.inbound.remember(message.run_id.clone(), PastRun { response: response.to_string(), expires_ms });
        let state = json!({ "state": "error", "errorMessage": why });
        let as_sent = key_as_sent.unwrap_or(message.session.as_str());
        self.chat_event(&message.run_id, &message.session, as_sent, 1, state);
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

    /// What a run without a model ends with: says what to configure.
    fn no_model_message(&self) -> String {
        match &self.config.settings.agents.defaults.model.primary {
            None => format!(
                "No model is configured. Set agents.defaults.model.primary and models.providers in {}.",
                self.config.document.path.display()
            ),
            Some(model) => format!(
                "This build of openclaw-rs cannot call models yet, so {model} was not asked. \
                 The message is kept in the session."
            ),
        }
    }

    fn tell_waiter(&mut self, waiter: Waiter, result: Result<Receipt<'_>, RpcError>) {
        match waiter {
            Waiter::Call { conn, id, .. } => {
                let answer = result.and_then(|receipt| Json::of(receipt.answer));
                self.answer_request(conn, &id, answer);
            }
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
    answer: &'a Value,
}

fn blocked(decision: &Decision) -> RpcError {
    let why = decision.reasons.first().map_or("it looks harmful", String::as_str);
    RpcError::invalid(format!("blocked by the defender: {why}")).with_details(json!({
        "code": "BLOCKED_BY_DEFENDER",
        "action": decision.action.as_str(),
        "score": decision.risk_score,
        "reasons": decision.reasons,
        "tags": decision.tags,
    }))
}
