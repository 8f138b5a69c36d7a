//! Commands in messages: read where the message comes in, carried out in the transaction that accepts it.
//!
//! A message that is a command takes the way of every message: it is judged, has its row in the inbox, and is known when
//! it comes again. It waits for no run. What it changes, what is answered and the end of its row are one transaction,
//! so a crash leaves all of it or nothing. Two kinds go on as runs: `/new` and `/reset` with words for the agent, and
//! `/compact`; these are scheduled like any other.
//!
//! **Invariant:** a command does nothing that its sender could not do by calling the method that does the same: both are
//! let through by [`authorize`] with the same row of the table, and carried out by the same handler.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::children;
use super::close::{Verdict, close_sessions};
use crate::agent::commands::{self, Effect, Given, Ground, Parsed};
use crate::agent::models::{LazyModels, Models};
use crate::agent::run::Judged as Decided;
use crate::agent::setting;
use crate::defender::request::ActionRequest;
use crate::gateway::broadcast::{self, For};
use crate::gateway::dispatch::authorize;
use crate::gateway::inbound::{PastRun, Waiter};
use crate::gateway::table::{self, Call, Need, Run, StoreCx, need};
use crate::gateway::{Fact, Gateway, Snapshot};
use crate::intake::accept::{self, Accepted, Begins, Judged, Stored};
use crate::intake::{Message, Source, Wish};
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::scope::Scope;
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::runtime::clock::Now;
use crate::runtime::stop::Why;
use crate::sessions::row::{self, Context};
use crate::sessions::{scheduler, thinking, transcript};
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::idempotency::IDEMPOTENCY_TTL_MS;
use crate::store::inbox::InboxState;

/// What the agent is asked when somebody on protocol 3 begins a conversation and says nothing: its clients expect the
/// agent to speak first.
const GREETING: &str = "A new conversation begins. Greet the person in a sentence or two, in your own manner, and ask \
                        what they would like to do. Do not mention this message.";

/// What a message orders, and who gives it.
#[derive(Debug)]
pub struct Orders {
    given: Vec<Given>,
    /// They stand among words for the agent.
    is_beside_words: bool,
    /// How much the answer to the words is to be thought about, where the model may not be able to.
    thinking: Option<&'static str>,
    call: Call,
}

/// Takes the commands out of a message. What they say of this message alone goes into its wish; what is left is to be
/// carried out.
///
/// A directive among words asks for no more than the parameter of the same name does (`thinking`, `queueMode`, `model`),
/// which whoever may send messages may give.
pub(in crate::gateway) fn take(message: &mut Message, call: &Call) -> Option<Box<Orders>> {
    let (given, is_beside_words) = match commands::parse(&message.text) {
        Parsed::Words => (Vec::new(), true),
        Parsed::Commands(given) => (given, false),
        Parsed::Mixed { given, text } => {
            message.text = text;
            (given.into_iter().filter(|given| !wish_for(&mut message.wish, given)).collect(), true)
        }
    };
    // Somebody who chats sees what comes of a choice; a program that calls `agent` gets what the model can.
    let is_chosen = is_beside_words && message.source == Source::Chat && message.wish.model.is_none();
    let thinking = message.wish.thinking.as_deref().filter(|_| is_chosen).and_then(thinking::parse);
    if given.is_empty() && thinking.is_none() {
        return None;
    }
    Some(Box::new(Orders { given, is_beside_words, thinking, call: call.clone() }))
}

/// Whether a message is `/stop` or one of its other names and nothing else.
pub(in crate::gateway) fn is_stop(text: &str) -> bool {
    matches!(commands::parse(text), Parsed::Commands(given) if given.len() == 1 && given[0].command.name == "stop")
}

/// Puts a directive into the wish; `false`: it is none.
fn wish_for(wish: &mut Wish, given: &Given) -> bool {
    let Some(argument) = given.argument.as_deref() else { return false };
    match given.command.name {
        "think" => wish.thinking = thinking::parse(argument).map(str::to_owned),
        "model" => wish.model = Some(argument.to_owned()),
        "queue" => {
            let mode = argument.to_ascii_lowercase();
            wish.queue_mode = (mode != "default").then_some(mode);
        }
        _ => return false,
    }
    true
}

/// What carrying out looks at, as of when it was handed to the store.
pub(in crate::gateway) struct Scene {
    pub(in crate::gateway) orders: Arc<Orders>,
    pub(in crate::gateway) snapshot: Snapshot,
    /// `None`: nobody had time to make them.
    pub(in crate::gateway) models: Option<Arc<Models>>,
    /// Whether something runs or waits in the session.
    pub(in crate::gateway) is_busy: bool,
}

/// What came of it.
#[derive(Debug)]
pub enum CarriedOut {
    /// It was answered, and that was all.
    Said(Said),
    /// It goes on as the run of this message.
    Runs(Box<Message>, Box<Stored>),
}

/// The answer to a command, on disk.
#[derive(Debug)]
pub struct Said {
    text: String,
    /// The message as stored.
    message: Value,
    session_id: String,
    /// It says that a conversation began, and is no part of one.
    is_notice: bool,
    /// What runs in the session is to be stopped.
    stops: bool,
}

/// Accepts a message with orders and carries them out, in one transaction.
///
/// # Errors
/// The store's; nothing is written then. What a sender may not do is no error: it is answered in words.
pub(in crate::gateway) fn carry_out(
    db: &Db<'_>,
    scene: &Scene,
    judged: Judged<'_>,
    begins: Begins,
    now_ms: i64,
) -> Result<Vec<Fact>, StoreError> {
    let message = judged.message;
    let session = match db.session(message.session.as_str())? {
        Some(session) => session,
        None => transcript::fresh(&message.session, now_ms),
    };
    let refused = scene.refuses_to_think(&session);
    let is_refused = refused.is_some();
    let effects = match refused {
        Some(said) => vec![Effect::Text(said)],
        None => scene.effects(&session, message, now_ms),
    };
    if scene.orders.is_beside_words && !is_refused {
        return beside_words(db, scene, &effects, judged, begins, now_ms);
    }
    let run = effects.iter().find_map(|effect| scene.run_of(effect, message));
    let decided = Decided {
        request: ActionRequest { prompt: None, ..judged.request.clone() },
        decision: judged.decision.clone(),
        preview: judged.preview.clone(),
    };
    let judged = Judged { message: run.as_ref().unwrap_or(message), ..judged };
    let accepted = accept::accept(db, judged, Begins::Later, now_ms)?;
    let Accepted::New(mut stored) = accepted else { return Ok(vec![Fact::Accepted(Box::new(accepted))]) };
    let mut facts = Vec::new();
    let (mut lines, mut is_notice, mut stops) = (Vec::new(), false, false);
    for effect in effects {
        match effect {
            Effect::Text(text) => lines.push(text),
            Effect::Patch { fields, said } => {
                match scene.call_twin(db, "sessions.patch", stored.inbox_id, message, fields) {
                    Ok(changed) => {
                        facts.extend(changed);
                        lines.push(said);
                    }
                    Err(StoreError::Refused(error)) => lines.push(error.message),
                    Err(error) => return Err(error),
                }
            }
            Effect::Reset { reason, said, .. } => {
                let mut fields = Map::new();
                fields.insert("reason".to_owned(), json!(reason));
                facts.extend(scene.call_twin(db, "sessions.reset", stored.inbox_id, message, fields)?);
                lines.push(said);
                is_notice = true;
            }
            Effect::Abort => {
                // Before its sender is told: a kill that comes now must not bring back what was stopped.
                close_sessions(db, |own| *own == message.session, Some(stored.inbox_id), now_ms)?;
                stops = true;
                let said = if scene.is_busy { "Stopped what was running." } else { "Nothing is running." };
                lines.push(said.to_owned());
            }
            Effect::Compact { .. } => {}
            Effect::Subagents(ask) => {
                let key = format!("{}:tell", message.run_id);
                let config = &scene.snapshot.config;
                match children::ask(db, config, &message.session, &ask, (&key, &decided), now_ms) {
                    Ok((said, changed)) => {
                        facts.extend(changed);
                        lines.push(said);
                    }
                    Err(StoreError::Refused(error)) => lines.push(error.message),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    if let Some(run) = run {
        let entry = db.session(message.session.as_str())?.map(|session| session.entry).unwrap_or_default();
        stored.wishes = scheduler::wishes(&entry);
        if begins == Begins::Now {
            let added = accept::begin(db, stored.inbox_id, &run, now_ms)?;
            stored.row = Some(row::told_v4(db, &added.session, &Context::of(&scene.snapshot.config), now_ms)?);
            stored.added = Some(added);
        }
        facts.push(Fact::CarriedOut(Box::new(CarriedOut::Runs(Box::new(run), stored))));
        return Ok(facts);
    }
    let text = lines.join("\n");
    let asked = accept::enter_command(db, message, now_ms)?;
    let answer = add_answer(db, message, &message.run_id, &text, now_ms)?;
    db.inbox_set_state(stored.inbox_id, InboxState::Done, None)?;
    let verdict = Verdict::silent(now_ms).to_text();
    db.idempotency_finish(&accept::run_key(&message.run_id), Ok(&verdict), now_ms)?;
    let said =
        Said { text, message: answer.message.clone(), session_id: answer.session.session_id.clone(), is_notice, stops };
    facts.push(Fact::CarriedOut(Box::new(CarriedOut::Said(said))));
    for added in [asked, answer] {
        let row = row::told_v4(db, &added.session, &Context::of(&scene.snapshot.config), now_ms)?;
        facts.extend(Fact::of_added(&message.session, added, "send", row));
    }
    Ok(facts)
}

/// Commands among words are answered beside the run of the words, under a name of their own.
fn beside_words(
    db: &Db<'_>,
    scene: &Scene,
    effects: &[Effect],
    judged: Judged<'_>,
    begins: Begins,
    now_ms: i64,
) -> Result<Vec<Fact>, StoreError> {
    let message = judged.message;
    let mut accepted = accept::accept(db, judged, begins, now_ms)?;
    if let Accepted::New(stored) = &mut accepted
        && let Some(added) = &stored.added
    {
        stored.row = Some(row::told_v4(db, &added.session, &Context::of(&scene.snapshot.config), now_ms)?);
    }
    let is_new = matches!(accepted, Accepted::New(_));
    let mut facts = vec![Fact::Accepted(Box::new(accepted))];
    for (idx, effect) in effects.iter().enumerate().filter(|_| is_new) {
        let Effect::Text(text) = effect else { continue };
        let added = add_answer(db, message, &format!("{}:command:{idx}", message.run_id), text, now_ms)?;
        let row = row::told_v4(db, &added.session, &Context::of(&scene.snapshot.config), now_ms)?;
        let shown = Fact::Injected {
            key_as_sent: message.session.as_str().to_owned(),
            key: message.session.clone(),
            message: added.message.clone(),
            message_id: added.message_id.clone(),
        };
        facts.extend(Fact::of_added(&message.session, added, "send", row));
        facts.push(shown);
    }
    Ok(facts)
}

fn add_answer(
    db: &Db<'_>,
    message: &Message,
    key: &str,
    text: &str,
    now_ms: i64,
) -> Result<transcript::Added, StoreError> {
    let new = transcript::New {
        role: "assistant",
        content: json!([{ "type": "text", "text": text }]),
        metadata: json!({ "runId": message.run_id, "idempotencyKey": key }),
        idempotency_key: Some(key),
        extra: &transcript::answer_fields(),
        route: None,
    };
    transcript::add(db, &message.session, &new, now_ms)
}

impl Scene {
    /// What the orders come to. One that its sender may not give comes to being told so.
    fn effects(&self, session: &crate::store::sessions::SessionRow, message: &Message, now_ms: i64) -> Vec<Effect> {
        let config = &self.snapshot.config;
        let Some(models) = &self.models else {
            let late = |given: &Given| {
                let name = given.command.name;
                Effect::Text(format!("/{name} was not carried out: the gateway is busy. Please try again in a moment."))
            };
            return self.orders.given.iter().map(late).collect();
        };
        let facts = setting::facts(config, models, session, now_ms);
        let mut by_provider: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (model, _) in models.all() {
            by_provider.entry(model.provider.clone()).or_default().push(model.model.clone());
        }
        let models: Vec<(String, Vec<String>)> = by_provider.into_iter().collect();
        let caller = &self.orders.call.caller;
        let scopes: Vec<Scope> = caller.scopes.names().iter().filter_map(|name| Scope::parse(name)).collect();
        let ground = Ground {
            session,
            facts: &facts,
            context: &Context::of(config),
            models: &models,
            sender: message.sender.as_deref(),
            scopes: &scopes,
        };
        let come_to = |given: &Given| {
            let effect = given.command.effect(&ground, given.argument.as_deref());
            match self.may(given, &effect, message) {
                Ok(()) => effect,
                Err(error) => Effect::Text(format!("/{} was not carried out: {}.", given.command.name, error.message)),
            }
        };
        self.orders.given.iter().map(come_to).collect()
    }

    /// What is said instead of an answer that is to be thought about in a way that the session's model has none of.
    fn refuses_to_think(&self, session: &crate::store::sessions::SessionRow) -> Option<String> {
        let level = self.orders.thinking?;
        let context = Context::of(&self.snapshot.config);
        let model = context.model_of(session);
        let levels = model.thinking_levels();
        let name = model.name().filter(|_| !levels.contains(&level))?;
        Some(format!("{name} cannot think at level \"{level}\". It knows: {}.", levels.join(", ")))
    }

    /// Whether the sender may: what the command's row says, and what the method says that does the same.
    fn may(&self, given: &Given, effect: &Effect, message: &Message) -> Result<(), RpcError> {
        let caller = &self.orders.call.caller;
        let asks = match given.command.needs(given.argument.as_deref()) {
            Scope::Read => need::SESSIONS_READ,
            Scope::Write => need::SESSIONS_WRITE,
            other => Need::Scope(other),
        };
        authorize(asks, caller, None)?;
        let (twin, fields) = match effect {
            Effect::Patch { fields, .. } => ("sessions.patch", fields.clone()),
            Effect::Reset { .. } => ("sessions.reset", Map::new()),
            Effect::Compact { .. } => ("sessions.compact", Map::new()),
            Effect::Abort => ("chat.abort", Map::new()),
            Effect::Text(_) | Effect::Subagents(_) => return Ok(()),
        };
        let Some(method) = table::find(twin) else { return Err(no_twin(twin)) };
        authorize(method.need(caller.protocol), caller, Some(&params(message, fields)))
    }

    /// Calls the method that does what a command does, in this transaction; says what changed.
    fn call_twin(
        &self,
        db: &Db<'_>,
        name: &'static str,
        inbox_id: i64,
        message: &Message,
        fields: Map<String, Value>,
    ) -> Result<Vec<Fact>, StoreError> {
        match table::find(name).map(|method| method.run) {
            Some(Run::Store(handler)) => {
                // The call keeps the name of the method it came by, for the audit trail.
                let (snapshot, call) = (self.snapshot.clone(), self.orders.call.clone());
                let cx = StoreCx { db, snapshot, call, ordered_by: Some(inbox_id) };
                handler(cx, Some(&params(message, fields))).map(|done| done.facts)
            }
            _ => Err(no_twin(name).into()),
        }
    }

    /// The message whose run an effect is; `None`: it is none.
    fn run_of(&self, effect: &Effect, message: &Message) -> Option<Message> {
        let mut run = message.clone();
        match effect {
            Effect::Reset { then, .. } => {
                let greets = self.orders.call.protocol() == Protocol::V3;
                run.text = then.clone().or_else(|| greets.then(|| GREETING.to_owned()))?;
            }
            Effect::Compact { instructions } => run.wish.compact = Some(instructions.clone().unwrap_or_default()),
            Effect::Patch { .. } | Effect::Abort | Effect::Text(_) | Effect::Subagents(_) => return None,
        }
        // It is not for the run that goes on now.
        run.wish.queue_mode = Some("followup".to_owned());
        Some(run)
    }
}

fn params(message: &Message, mut fields: Map<String, Value>) -> String {
    fields.insert("key".to_owned(), json!(message.session.as_str()));
    Value::Object(fields).to_string()
}

fn no_twin(name: &str) -> RpcError {
    RpcError::new(ErrorCode::Unavailable, format!("{name} cannot be called"))
}

impl Gateway {
    /// The models that may be asked; made where they are first looked at, which must not be on the loop.
    pub(in crate::gateway) fn models(&self) -> Arc<LazyModels> {
        Arc::clone(&self.runs.models)
    }

    /// The models that commands look at, when they are still to be made: before the store's thread needs them.
    pub(in crate::gateway) fn models_to_make(&self) -> Option<Arc<LazyModels>> {
        self.runs.models.made().is_none().then(|| Arc::clone(&self.runs.models))
    }

    /// What a message with orders is handed to the store with.
    pub(in crate::gateway) fn scene_of(&self, orders: &Arc<Orders>, session: &SessionKey) -> Scene {
        Scene {
            orders: Arc::clone(orders),
            snapshot: self.snapshot(),
            models: self.runs.models.made(),
            is_busy: self.runs.open.values().any(|open| open.message.session == *session),
        }
    }

    /// A command is answered, durably: who waits is told, and everybody who follows the session.
    pub(in crate::gateway) fn tell_said(&mut self, now: Now, message: &Message, waiters: Vec<Waiter>, said: &Said) {
        if said.stops {
            self.stop_session(now, &message.session, Why::Stop);
        }
        let verdict = Verdict::silent(now.wall_ms);
        let past = PastRun { verdict: verdict.clone(), expires_ms: now.wall_ms + IDEMPOTENCY_TTL_MS };
        self.inbound.remember(message.run_id.clone(), past);
        let mut key_as_sent = message.session.as_str().to_owned();
        let mut seconds = Vec::new();
        for waiter in &waiters {
            match waiter {
                Waiter::Call { key_as_sent: sent, .. } => sent.clone_into(&mut key_as_sent),
                Waiter::Agent { conn, id, .. } => seconds.push((*conn, id.clone())),
                // The one is answered as it is; the others take no orders.
                Waiter::First { .. } | Waiter::Hook { .. } | Waiter::OpenAi { .. } => {}
            }
        }
        self.tell_accepted(now, message, waiters);
        self.show_said(message, &key_as_sent, said);
        for (conn, id) in seconds {
            let protocol = self.clients.ready(conn).map_or(Protocol::V4, |ready| ready.caller.protocol);
            self.answer_request(conn, &id, Json::of(&second_answer(message, said, protocol)));
        }
        self.tell_waits(&message.run_id, &verdict);
    }

    /// The one event of a command (protocol 11.3).
    fn show_said(&mut self, message: &Message, key_as_sent: &str, said: &Said) {
        for protocol in [Protocol::V3, Protocol::V4] {
            let name = if protocol == Protocol::V3 { key_as_sent } else { message.session.as_str() };
            let payload = json!({
                "runId": message.run_id,
                "sessionKey": name,
                "seq": 1,
                "state": "final",
                "message": shown(said, protocol),
            });
            if let Ok(payload) = Json::of(&payload) {
                self.broadcast(&broadcast::CHAT, For::SessionRunsOn(&message.session, protocol), &payload);
            }
        }
    }
}

/// The answer to a command as its event shows it.
fn shown(said: &Said, protocol: Protocol) -> Value {
    let mut message = said.message.clone();
    let Some(fields) = message.as_object_mut() else { return message };
    fields.remove("__openclaw");
    match (protocol, said.is_notice) {
        (Protocol::V3, _) => {
            for unknown in ["idempotencyKey", transcript::ASIDE] {
                fields.remove(unknown);
            }
        }
        (Protocol::V4, true) => {
            fields.remove(transcript::ASIDE);
            message["content"][0]["openclawStatusNotice"] = json!(true);
        }
        (Protocol::V4, false) => message["__openclaw"] = json!({ "contextFreeCommand": true }),
    }
    message
}

/// The second answer of `agent`.
fn second_answer(message: &Message, said: &Said, protocol: Protocol) -> Value {
    let mut payload = json!({ "text": said.text });
    match protocol {
        Protocol::V3 => payload["mediaUrl"] = Value::Null,
        Protocol::V4 if said.is_notice => payload["isStatusNotice"] = json!(true),
        Protocol::V4 => {}
    }
    json!({
        "runId": message.run_id,
        "status": "ok",
        "summary": "completed",
        "result": {
            "payloads": [payload],
            "meta": { "durationMs": 0, "agentMeta": { "sessionId": said.session_id } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::commands::{COMMANDS, Place};

    #[test]
    fn every_directive_has_its_wish() {
        let mut n_directives = 0;
        for command in COMMANDS {
            let Place::Directive(is_meant) = command.place else { continue };
            n_directives += 1;
            let argument = ["high", "a/b", "collect"].into_iter().find(|word| is_meant(word)).unwrap();
            let mut wish = Wish::default();
            let given = Given { command, argument: Some(argument.to_owned()) };
            assert!(wish_for(&mut wish, &given), "/{}", command.name);
            assert!(!wish.is_empty(), "/{}", command.name);
        }
        assert_eq!(n_directives, 3);
    }

    #[test]
    fn every_method_that_does_the_same_can_be_called_on_the_store() {
        for name in ["sessions.patch", "sessions.reset"] {
            assert!(matches!(table::find(name).unwrap().run, Run::Store(_)), "{name}");
        }
        for name in ["sessions.compact", "chat.abort"] {
            assert!(table::find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn an_answer_is_shown_in_the_words_of_each_protocol() {
        let extra: Map<String, Value> =
            transcript::answer_fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut message = json!({
            "role": "assistant", "content": [{ "type": "text", "text": "x" }], "timestamp": 1, "idempotencyKey": "r",
            "__openclaw": { "id": "m", "runId": "r" },
        });
        row::set_all(&mut message, Value::Object(extra));
        let said = |is_notice| Said {
            text: "x".to_owned(),
            message: message.clone(),
            session_id: "s".to_owned(),
            is_notice,
            stops: false,
        };
        let old = shown(&said(false), Protocol::V3);
        assert!(["idempotencyKey", "excludeFromContext", "__openclaw"].iter().all(|name| old.get(name).is_none()));
        let new = shown(&said(false), Protocol::V4);
        assert_eq!(
            (&new["excludeFromContext"], &new["__openclaw"]),
            (&json!(true), &json!({ "contextFreeCommand": true }))
        );
        let notice = shown(&said(true), Protocol::V4);
        assert_eq!(notice["content"][0]["openclawStatusNotice"], true);
        assert!(notice.get("excludeFromContext").is_none() && notice.get("__openclaw").is_none());
    }
}
