//! Talking to an agent: what was said, saying something, putting words in.

pub mod reads;
pub mod waiting;

use serde_json::{Map, Value};

use super::sessions;
use crate::gateway::inbound::{Known, Waiter};
use crate::gateway::runs::close::Verdict;
use crate::gateway::runs::commands;
use crate::gateway::runs::stops::Stopped;
use crate::gateway::table::{Call, QueryCx, StoreCx, need};
use crate::gateway::{Fact, Gateway, Snapshot};
use crate::intake::expected::{self, Expected};
use crate::intake::uploads::{Bounds, Uploads};
use crate::intake::{Message, Source, Wish, normalise};
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::frame::{Json, response_error};
use crate::protocol::json::json;
use crate::protocol::params::{Any, Count, Int, Issues, NonEmpty, Param, Params, Patch, Positive, Text, find};
use crate::protocol::session_key::{KeyRules, SessionKey, agent_id};
use crate::protocol::version::Protocol;
use crate::runtime::stop::Why;
use crate::sessions::{history, row, transcript};
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::sessions::SessionRow;

crate::methods! {
    "chat.history",     Both, need::READ,  need::SESSIONS_READ,  Query history;
    "chat.startup",     V4,   need::READ,  need::SESSIONS_READ,  Query startup;
    "chat.message.get", V4,   need::ADMIN, need::SESSIONS_READ,  Query reads::message;
    "chat.metadata",    V4,   need::ADMIN, need::SESSIONS_READ,  Loop  reads::metadata;
    "chat.send",        Both, need::WRITE, need::SESSIONS_WRITE, Flow  send;
    "chat.abort",       Both, need::WRITE, need::SESSIONS_WRITE, Flow  abort;
    "chat.inject",      Both, need::ADMIN, need::ADMIN,          Store inject;
}

/// The session a caller means; protocol 4 may name the agent beside the key.
pub(in crate::gateway) fn session_key(
    text: &str,
    agent: Option<&NonEmpty>,
    keys: &KeyRules,
) -> Result<SessionKey, RpcError> {
    let named = agent.map(|agent| agent_id(&agent.0));
    let rules = KeyRules { default_agent: named.clone().unwrap_or_else(|| keys.default_agent.clone()), ..keys.clone() };
    let key = SessionKey::parse(text, &rules)
        .map_err(|error| RpcError::invalid(format!("invalid session key \"{}\": {error}", short(text))))?;
    match (named, key.agent()) {
        (Some(named), Some(own)) if named != own => {
            Err(RpcError::invalid(format!("agent \"{named}\" does not match session key agent \"{own}\"")))
        }
        _ => Ok(key),
    }
}

/// A caller's text, short enough to repeat in an error.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// Runs that one call asks about.
pub const RUN_IDS_MAX: usize = 50;

/// The ids of some runs, each once.
#[derive(Debug, Clone)]
pub struct RunIds(Vec<String>);

impl Param for RunIds {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let ids = Vec::<Text<1, 256>>::read(value, path, issues)?;
        let ids: Vec<String> = ids.into_iter().map(|id| id.0).collect();
        let is_twice = ids.iter().enumerate().any(|(idx, id)| ids[..idx].contains(id));
        let why = match ids.len() {
            0 => "must not have fewer than 1 items".to_owned(),
            n if n > RUN_IDS_MAX => format!("must not have more than {RUN_IDS_MAX} items"),
            _ if is_twice => "must not have duplicate items".to_owned(),
            _ => return Some(RunIds(ids)),
        };
        issues.wrong(path, why);
        None
    }
}

/// Messages given out when nothing is said.
const HISTORY_ROWS: i64 = 200;
/// Messages given out after a cursor; who missed more reads anew.
const DELTA_ROWS_MAX: usize = 200;

crate::params! {
    /// Which part of which session.
    pub struct HistoryParams {
        session_key: NonEmpty = "sessionKey",
        limit: Option<Int<1, 1000>> = "limit",
        @v4 {
            agent_id: Option<NonEmpty> = "agentId",
            cursor: Option<String> = "cursor",
            max_bytes: Option<Int<1024, { i64::MAX }>> = "maxBytes",
            offset: Option<Count> = "offset",
            pending_before: Option<Positive> = "pendingBefore",
            input_run_ids: Option<RunIds> = "inputRunIds",
            message_id: Option<NonEmpty> = "messageId",
            session_id: Option<NonEmpty> = "sessionId",
            max_chars: Option<Int<1, 500_000>> = "maxChars",
        }
    }
}

fn history(cx: QueryCx<'_>, params: HistoryParams) -> Result<Value, RpcError> {
    let key = session_key(&params.session_key.0, params.agent_id.as_ref(), &cx.snapshot.keys)?;
    Page::asked(&cx, key, params)?.read(cx)
}

crate::params! {
    /// Which session to paint first: its key, or its short id, as links carry it, and its agent.
    pub struct StartupParams {
        session_key: Option<NonEmpty> = "sessionKey",
        short_id: Option<NonEmpty> = "shortId",
        slug_hint: Option<NonEmpty> = "slugHint",
        agent_id: Option<NonEmpty> = "agentId",
        limit: Option<Int<1, 1000>> = "limit",
        max_bytes: Option<Int<1024, { i64::MAX }>> = "maxBytes",
        max_chars: Option<Int<1, 500_000>> = "maxChars",
        session_id: Option<NonEmpty> = "sessionId",
        cursor: Option<String> = "cursor",
        offset: Option<Count> = "offset",
        pending_before: Option<Positive> = "pendingBefore",
        input_run_ids: Option<RunIds> = "inputRunIds",
        message_id: Option<NonEmpty> = "messageId",
    }
}

/// The same, with one of the two given.
#[derive(Debug, Clone)]
pub struct Startup(StartupParams);

impl Params for Startup {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        let params = StartupParams::read_fields(object, path, issues)?;
        if params.session_key.is_none() && (params.short_id.is_none() || params.agent_id.is_none()) {
            let also = if params.short_id.is_none() { "shortId" } else { "agentId" };
            issues.missing(path, "sessionKey");
            issues.wrong(path, format!("must have required property '{also}'"));
            issues.wrong(path, "must match a schema in anyOf");
        }
        Some(Startup(params))
    }
}

fn startup(cx: QueryCx<'_>, Startup(params): Startup) -> Result<Value, RpcError> {
    let key = match (&params.session_key, &params.short_id) {
        (Some(key), _) => session_key(&key.0, params.agent_id.as_ref(), &cx.snapshot.keys)?,
        (None, short) => {
            let agent = params.agent_id.as_ref().map(|agent| agent_id(&agent.0));
            let short = short.as_ref().map(|short| short.0.clone());
            let slug = params.slug_hint.as_ref().map(|slug| slug.0.as_str());
            sessions::find::by_short_id(cx.store.get()?, short, agent, slug)?
        }
    };
    let asked = HistoryParams {
        session_key: params.session_key.unwrap_or_else(|| NonEmpty(key.as_str().to_owned())),
        limit: params.limit,
        agent_id: params.agent_id,
        cursor: params.cursor,
        max_bytes: params.max_bytes,
        offset: params.offset,
        pending_before: params.pending_before,
        input_run_ids: params.input_run_ids,
        message_id: params.message_id,
        session_id: params.session_id,
        max_chars: params.max_chars,
    };
    Page::asked(&cx, key, asked)?.read(cx)
}

/// The part of a session that is shown.
struct Page {
    key: SessionKey,
    ask: history::Ask,
    asked: HistoryParams,
}

impl Page {
    fn asked(cx: &QueryCx<'_>, key: SessionKey, asked: HistoryParams) -> Result<Page, RpcError> {
        let (offset, message_id) = (asked.offset.is_some(), asked.message_id.is_some());
        if offset && message_id {
            return Err(RpcError::invalid("offset and messageId cannot be used together"));
        }
        // A page that was here before asks for what was said since.
        if asked.cursor.is_some() && (offset || message_id) {
            return Err(RpcError::invalid("cursor cannot be used with offset or messageId"));
        }
        if asked.session_id.is_some() && !message_id {
            return Err(RpcError::invalid("sessionId requires messageId"));
        }
        let ask = history::Ask {
            rows: asked.limit.map_or(HISTORY_ROWS, |limit| limit.0) as usize,
            bytes: asked.max_bytes.map(|bytes| bytes.0 as usize),
            chars: asked.max_chars.map(|chars| chars.0 as usize),
            skip_newest: asked.offset.map_or(0, |offset| offset.0 as u64),
            after: None,
            protocol: cx.call.protocol(),
        };
        Ok(Page { key, ask, asked })
    }

    /// What was said, and on protocol 4 what waits to be.
    fn read(&self, cx: QueryCx<'_>) -> Result<Value, RpcError> {
        let db = cx.store.get()?;
        let session = db.session(self.key.as_str())?;
        if let Some(asked) = &self.asked.session_id
            && session.as_ref().is_none_or(|session| session.session_id != asked.0)
        {
            return Err(RpcError::invalid("sessionId does not belong to sessionKey"));
        }
        // A look into the store sees what was committed when it began: what leaves the queue meanwhile is a message.
        let told = db.snapshot(|db| {
            let mut out = match &self.asked.cursor {
                Some(cursor) => since(db, &cx.snapshot, &self.key, cursor, &self.ask, cx.call.now_ms)?,
                None => self.paint(db, &cx.snapshot, session.as_ref(), cx.call.now_ms)?,
            };
            if self.ask.protocol == Protocol::V4 && out["kind"] != "reset" {
                self.add_waiting(db, session.as_ref(), &mut out)?;
            }
            Ok::<_, RpcError>(out)
        })?;
        Ok(told)
    }

    /// A session's messages and what is shown around them.
    fn paint(
        &self,
        db: &Queries,
        snapshot: &Snapshot,
        session: Option<&SessionRow>,
        now_ms: i64,
    ) -> Result<Value, RpcError> {
        let (ask, rows) = (&self.ask, snapshot.session_rows());
        let around = self.asked.message_id.as_ref();
        let mut page = match (session, around) {
            (Some(session), None) => history::read(db, &session.session_id, ask)?,
            (Some(session), Some(id)) => history::read_around(db, &session.session_id, &id.0, ask)?,
            (None, _) => history::Shown::default(),
        };
        let mut out = json!({ "sessionKey": self.asked.session_key.0 });
        if let Some(session) = session {
            out["sessionId"] = json!(session.session_id);
        }
        let n_shown = page.n_shown();
        if let (Protocol::V4, None, Some(anew)) = (ask.protocol, around, session.and_then(history::begun_anew)) {
            page.n_total += 1;
            if !page.has_older && page.messages.len() < ask.rows {
                page.messages.insert(0, anew);
            }
        }
        out["messages"] = Value::Array(page.messages);
        if let Some(session) = session {
            for name in ["thinkingLevel", "verboseLevel"] {
                if let Some(level) = session.entry.get(name) {
                    out[name] = level.clone();
                }
            }
        }
        if ask.protocol == Protocol::V3 {
            if out.get("thinkingLevel").is_none() {
                out["thinkingLevel"] = json!("off");
            }
            return Ok(out);
        }
        out["defaults"] = rows.defaults_v4();
        if !page.activity.is_empty() {
            out["activity"] = json!(page.activity);
        }
        // Pages around a message have no order to be turned in.
        if around.is_none() {
            out["hasMore"] = json!(page.has_older);
            out["totalMessages"] = json!(page.n_total);
            if page.has_older {
                out["nextOffset"] = json!(ask.skip_newest + n_shown);
            }
        }
        let newest = match session {
            Some(session) if around.is_some() || ask.skip_newest > 0 => {
                let newest = history::Ask { rows: 1, skip_newest: 0, ..*ask };
                history::read(db, &session.session_id, &newest)?.newest
            }
            _ => page.newest.clone(),
        };
        if let (Some(session), None, 0) = (session, around, ask.skip_newest) {
            let seq = newest.as_ref().map_or(0, |(seq, _)| *seq);
            out["deltaCursor"] = json!(history::cursor(&session.session_id, seq));
        }
        out["sessionInfo"] = info(session, &self.key, &rows, newest.map(|(_, id)| id), now_ms);
        if out.get("thinkingLevel").is_none() {
            out["thinkingLevel"] = out["sessionInfo"]["thinkingDefault"].clone();
        }
        Ok(out)
    }

    /// What waits in the session, and what became of the messages that are asked about.
    fn add_waiting(&self, db: &Queries, session: Option<&SessionRow>, out: &mut Value) -> Result<(), RpcError> {
        let before = self.asked.pending_before.map_or(i64::MAX, |before| before.0);
        out["pendingInputs"] = waiting::page(db, &self.key, before, &self.ask)?;
        if let Some(RunIds(run_ids)) = &self.asked.input_run_ids {
            let receipts = match session {
                Some(session) if self.asked.message_id.is_none() => waiting::receipts(db, session, run_ids)?,
                _ => Vec::new(),
            };
            let consumed = receipts.iter().filter(|receipt| receipt["state"] == "consumed");
            let short = |receipt: &Value| json!({ "runId": receipt["runId"], "consumedByEventId": receipt["consumedByEventId"] });
            out["inputConsumptions"] = consumed.map(short).collect();
            out["inputReceipts"] = json!(receipts);
        }
        Ok(())
    }
}

/// A session beside its messages; `leaf` is the newest of them.
fn info(
    session: Option<&SessionRow>,
    key: &SessionKey,
    rows: &row::Context<'_>,
    leaf: Option<String>,
    now_ms: i64,
) -> Value {
    let mut info = match session {
        Some(session) => row::wire_v4(session, rows, now_ms),
        None => row::unmade_v4(key, rows, now_ms),
    };
    info["activeLeafEntryId"] = json!(leaf);
    info
}

/// A message as `session.message` tells of it: so a page is given those that it missed.
fn told_of(key: &SessionKey, message: Value) -> Value {
    let about = &message["__openclaw"];
    let (id, seq, is_owner) = (about["id"].clone(), about["seq"].clone(), about.get("senderIsOwner").cloned());
    let mut told = json!({ "sessionKey": key.as_str(), "agentId": key.agent(), "messageId": id, "messageSeq": seq });
    if let Some(is_owner) = is_owner {
        told["senderIsOwner"] = is_owner;
    }
    told["message"] = message;
    told
}

/// What was said since a cursor was given out, or that the client has to read anew: the session was reset or shortened
/// since, or more was said than one answer holds.
fn since(
    db: &Queries,
    snapshot: &Snapshot,
    key: &SessionKey,
    cursor: &str,
    ask: &history::Ask,
    now_ms: i64,
) -> Result<Value, RpcError> {
    let anew = json!({ "kind": "reset" });
    let Some(session) = db.session(key.as_str())? else { return Ok(anew) };
    let Some(seq) = history::after(cursor, &session.session_id) else { return Ok(anew) };
    let whole = history::Ask { rows: DELTA_ROWS_MAX, after: Some(seq), ..*ask };
    let page = history::read(db, &session.session_id, &whole)?;
    let newest = page.newest.clone().map_or(seq, |(seq, _)| seq);
    // Whoever knows a live message of the active branch knows all before it; whoever knows none must get all there are.
    let goes_on = if seq == 0 { !page.has_older } else { db.transcript_is_active(&session.session_id, seq)? };
    if page.has_newer || !goes_on {
        return Ok(anew);
    }
    let leaf = page.newest.map(|(_, id)| id);
    let mut out = json!({
        "kind": "delta",
        "messages": page.messages.into_iter().map(|message| told_of(key, message)).collect::<Value>(),
        "deltaCursor": history::cursor(&session.session_id, newest),
        "sessionInfo": info(Some(&session), key, &snapshot.session_rows(), leaf, now_ms),
    });
    if !page.activity.is_empty() {
        out["activity"] = json!(page.activity);
    }
    Ok(out)
}

crate::params! {
    /// A message and how it is to be answered. What concerns the answer is kept for the run.
    pub struct SendParams {
        session_key: Text<1, 512> = "sessionKey",
        message: String = "message",
        thinking: Option<String> = "thinking",
        deliver: Option<bool> = "deliver",
        attachments: Option<Vec<Any>> = "attachments",
        timeout_ms: Option<Count> = "timeoutMs",
        idempotency_key: NonEmpty = "idempotencyKey",
        @v4 {
            agent_id: Option<NonEmpty> = "agentId",
            session_id: Option<NonEmpty> = "sessionId",
            mentions: Option<Any> = "mentions",
            work_context: Option<Any> = "workContext",
            intent: Option<Any> = "intent",
            fast_mode: Option<Any> = "fastMode",
            fast_auto_on_seconds: Option<Positive> = "fastAutoOnSeconds",
            queue_mode: Option<QueueMode> = "queueMode",
            originating_channel: Option<String> = "originatingChannel",
            originating_to: Option<String> = "originatingTo",
            originating_account_id: Option<String> = "originatingAccountId",
            originating_thread_id: Option<String> = "originatingThreadId",
            reply_to_id: Option<NonEmpty> = "replyToId",
            tool_bindings: Option<Any> = "toolBindings",
            system_input_provenance: Option<Any> = "systemInputProvenance",
            system_provenance_receipt: Option<String> = "systemProvenanceReceipt",
            suppress_command_interpretation: Option<bool> = "suppressCommandInterpretation",
            expected_leaf_entry_id: Patch<NonEmpty> = "expectedLeafEntryId",
            expected_session_routing_contract: Option<NonEmpty> = "expectedSessionRoutingContract",
            expected_permission_mode: Patch<Any> = "expectedPermissionMode",
            expected_tool_overrides: Patch<Any> = "expectedToolOverrides",
        }
    }
}

crate::words! {
    /// What happens to a message that comes while the session is busy.
    pub enum QueueMode {
        /// It reaches the model at the next boundary.
        Steer = "steer",
        /// It waits for its turn.
        Followup = "followup",
        /// It is joined with others that wait.
        Collect = "collect",
        /// It stops what runs.
        Interrupt = "interrupt",
    }
}

/// Longest idempotency key in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// The parameters of `chat.send`. Protocol 4 refuses a call that does not say which session it is for before it looks
/// at anything else.
#[derive(Debug, Clone)]
pub struct Targeted(SendParams);

impl Params for Targeted {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        require_target(find(object, "sessionKey"), "chat.send", issues);
        SendParams::read_fields(object, path, issues).map(Targeted)
    }
}

/// Refuses a call that does not say which session it is for, whatever else is wrong with it.
pub(super) fn require_target(key: Option<&Value>, method: &str, issues: &mut Issues) {
    let key = key.and_then(Value::as_str).map(str::trim);
    if issues.protocol() == Protocol::V4 && key.is_none_or(str::is_empty) {
        let details = json!({ "code": "SESSION_MUTATION_TARGET_REQUIRED", "method": method });
        issues.refuse(RpcError::invalid("session mutation target is unavailable").with_details(details));
    }
}

/// Refuses a session of an agent that is not configured; protocol 3 serves it as it serves any other.
pub(super) fn is_served(gateway: &Gateway, call: &Call, key: &SessionKey) -> Result<(), RpcError> {
    match key.agent() {
        Some(agent) if call.protocol() == Protocol::V4 && gateway.config.settings.agents.get(agent).is_none() => {
            Err(RpcError::invalid(format!("Agent \"{agent}\" no longer exists in configuration")))
        }
        _ => Ok(()),
    }
}

fn send(gateway: &mut Gateway, call: &Call, Targeted(mut params): Targeted) -> Result<(), RpcError> {
    let session = session_key(&params.session_key.0, params.agent_id.as_ref(), &gateway.keys)?;
    is_served(gateway, call, &session)?;
    let expected = expected(&mut params, &gateway.keys)?;
    let words = Words {
        text: params.message,
        run_id: run_id(params.idempotency_key.0)?,
        thinking: params.thinking,
        timeout_ms: params.timeout_ms,
        attachments: params.attachments,
        queue_mode: params.queue_mode,
        channel: params.originating_channel,
        to: params.originating_to,
        account_id: params.originating_account_id,
        thread_id: params.originating_thread_id,
        expected,
    };
    let is_literal = params.suppress_command_interpretation == Some(true);
    say(gateway, call, session, params.session_key.0, words, is_literal)
}

/// What a message is sent on the strength of.
///
/// # Errors
/// `INVALID_REQUEST` when keys of sessions no longer mean what the sender takes them to mean.
fn expected(params: &mut SendParams, keys: &KeyRules) -> Result<Expected, RpcError> {
    let contract = params.expected_session_routing_contract.take();
    if contract.is_some_and(|seen| !seen.0.trim().eq_ignore_ascii_case(&keys.contract())) {
        return Err(expected::changed("session routing changed; review and retry", "session-routing-changed"));
    }
    let settings = [
        ("permissionMode", std::mem::take(&mut params.expected_permission_mode)),
        ("toolOverrides", std::mem::take(&mut params.expected_tool_overrides)),
    ];
    let seen = |patch| match patch {
        Patch::Keep => None,
        Patch::Clear => Some(Value::Null),
        Patch::Set(Any(value)) => Some(value),
    };
    // What steers joins a run that goes on, wherever that has come to.
    let leaf = match std::mem::take(&mut params.expected_leaf_entry_id) {
        _ if params.queue_mode == Some(QueueMode::Steer) => None,
        Patch::Keep => None,
        Patch::Clear => Some(None),
        Patch::Set(id) => Some(Some(id.0.trim().to_owned())),
    };
    Ok(Expected {
        is_there: false,
        session_id: params.session_id.take().map(|id| id.0.trim().to_owned()),
        leaf,
        settings: settings.into_iter().filter_map(|(field, patch)| Some((field, seen(patch)?))).collect(),
    })
}

/// What somebody says in a session over the gateway's own protocol, whichever method brings it.
pub(super) struct Words {
    /// As it was sent.
    pub(super) text: String,
    /// The run it asks for.
    pub(super) run_id: String,
    pub(super) thinking: Option<String>,
    pub(super) timeout_ms: Option<Count>,
    pub(super) attachments: Option<Vec<Any>>,
    pub(super) queue_mode: Option<QueueMode>,
    /// Where it comes from; `None`: from a client of ours.
    pub(super) channel: Option<String>,
    pub(super) to: Option<String>,
    pub(super) account_id: Option<String>,
    pub(super) thread_id: Option<String>,
    /// What its sender saw of the session.
    pub(super) expected: Expected,
}

impl Words {
    /// The message they are.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when they say nothing, or what comes with them cannot be taken.
    pub(super) fn message(self, call: &Call, session: SessionKey) -> Result<(Message, Uploads), RpcError> {
        let text = normalise::text(&self.text)?;
        let uploads = uploads(call, self.attachments)?;
        if text.trim().is_empty() && uploads.is_empty() {
            return Err(RpcError::invalid("message or attachment required"));
        }
        let message = Message {
            channel: Some(self.channel.unwrap_or_else(|| transcript::WEBCHAT.to_owned())),
            sender: Some(call.caller.name.clone()),
            client: Some(call.caller.client()),
            to: self.to,
            account_id: self.account_id,
            thread_id: self.thread_id,
            expected: self.expected,
            wish: Wish {
                thinking: self.thinking,
                timeout_ms: self.timeout_ms.map(|ms| ms.0 as u64).filter(|ms| *ms > 0),
                queue_mode: self.queue_mode.map(|mode| mode.as_str().to_owned()),
                ..Wish::default()
            },
            ..Message::new(Source::Chat, session, self.run_id, text, call.now_ms)
        };
        Ok((message, uploads))
    }
}

/// Takes what somebody says and answers once it is on disk: a word that stops, a message sent again, or a message.
/// `is_literal`: a command in it is words.
pub(super) fn say(
    gateway: &mut Gateway,
    call: &Call,
    session: SessionKey,
    key_as_sent: String,
    words: Words,
    is_literal: bool,
) -> Result<(), RpcError> {
    let (mut message, uploads) = words.message(call, session)?;
    if normalise::is_stop_word(&message.text) || commands::is_stop(&message.text) {
        return gateway.stop_and_answer(call, &Stopped::Session(&message.session), Why::Stop, stopped);
    }
    let run_id = &message.run_id;
    match gateway.known_run(run_id, call.now_ms) {
        Known::New => {}
        Known::Open => {
            let answer = Json::of(&json!({ "runId": run_id, "status": "in_flight" }))?;
            gateway.answer_request(call.conn(), &call.id, Ok(answer));
            return Ok(());
        }
        Known::Past(verdict) => return repeat(gateway, call, run_id, &verdict),
    }
    let orders = if is_literal { None } else { commands::take(&mut message, call) };
    gateway.receive(message, uploads, orders, Waiter::Call { conn: call.conn(), id: call.id.clone(), key_as_sent })
}

/// A caller's idempotency key, which names the run.
pub(super) fn run_id(key: String) -> Result<String, RpcError> {
    if key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        return Err(RpcError::invalid(format!("idempotencyKey is longer than {IDEMPOTENCY_KEY_BYTES_MAX} bytes")));
    }
    Ok(key)
}

/// The pictures and files that come with a message.
pub(super) fn uploads(call: &Call, attachments: Option<Vec<Any>>) -> Result<Uploads, RpcError> {
    let attachments = attachments.unwrap_or_default().into_iter().map(|attachment| attachment.0).collect();
    Uploads::of_params(attachments, Bounds::of(call.protocol()))
}

/// Answers as the run did before: a failure comes again as one, with what it said.
fn repeat(gateway: &mut Gateway, call: &Call, run_id: &str, verdict: &Verdict) -> Result<(), RpcError> {
    if verdict.is_ok() || verdict.stop_reason.is_some() {
        let payload = Json::of(&json!({ "runId": run_id, "status": "ok" }))?;
        gateway.answer_request(call.conn(), &call.id, Ok(payload));
        return Ok(());
    }
    let summary = verdict.summary(call.protocol());
    let payload = Json::of(&json!({ "runId": run_id, "status": "error", "summary": summary }))?;
    let error = RpcError::new(ErrorCode::Unavailable, summary);
    let frame = response_error(&call.id, &error, Some(&payload), call.protocol());
    gateway.send_frame(call.conn(), frame);
    Ok(())
}

crate::params! {
    /// Which run to stop.
    pub struct AbortParams {
        session_key: NonEmpty = "sessionKey",
        run_id: Option<NonEmpty> = "runId",
        @v4 {
            agent_id: Option<NonEmpty> = "agentId",
            preserve_side_runs: Option<bool> = "preserveSideRuns",
        }
    }
}

fn abort(gateway: &mut Gateway, call: &Call, params: AbortParams) -> Result<(), RpcError> {
    let session = session_key(&params.session_key.0, params.agent_id.as_ref(), &gateway.keys)?;
    let which = match &params.run_id {
        None => Stopped::Session(&session),
        Some(run_id) => {
            if gateway.session_of_run(&run_id.0).is_some_and(|own| *own != session) {
                return Err(RpcError::invalid("runId does not match sessionKey"));
            }
            Stopped::Run(&run_id.0)
        }
    };
    gateway.stop_and_answer(call, &which, Why::Rpc, stopped)
}

/// What stopping came to, in the words of `chat.abort`.
fn stopped(run_ids: &[String]) -> Value {
    json!({ "ok": true, "aborted": !run_ids.is_empty(), "runIds": run_ids })
}

crate::params! {
    /// Words to put into a session as if the assistant had said them.
    pub struct InjectParams {
        session_key: NonEmpty = "sessionKey",
        message: NonEmpty = "message",
        label: Option<Text<0, 100>> = "label",
        @v4 { agent_id: Option<NonEmpty> = "agentId", }
    }
}

fn inject(cx: StoreCx<'_>, params: InjectParams) -> Result<(Value, Vec<Fact>), StoreError> {
    let key = session_key(&params.session_key.0, params.agent_id.as_ref(), &cx.snapshot.keys)?;
    let text = normalise::text(&params.message.0)?;
    if cx.db.session(key.as_str())?.is_none() {
        return Err(RpcError::invalid("session not found").into());
    }
    let text = match params.label.map(|label| label.0.trim().to_owned()).filter(|label| !label.is_empty()) {
        Some(label) => format!("[{label}]\n\n{text}"),
        None => text,
    };
    // As an answer of the gateway, but the agent is to know of it.
    let mut fields = transcript::answer_fields();
    fields.retain(|(name, _)| *name != transcript::ASIDE);
    let new = transcript::New {
        role: "assistant",
        content: json!([{ "type": "text", "text": text }]),
        metadata: json!({}),
        idempotency_key: None,
        extra: &fields,
        route: None,
    };
    let added = transcript::add(cx.db, &key, &new, cx.call.now_ms)?;
    let shown = row::told_v4(cx.db, &added.session, &cx.snapshot.session_rows(), cx.call.now_ms)?;
    let message_id = added.message_id.clone();
    let injected = Fact::Injected {
        key_as_sent: params.session_key.0,
        key: key.clone(),
        message: added.message.clone(),
        message_id: message_id.clone(),
    };
    let facts = Fact::of_added(&key, added, "send", shown).into_iter().chain([injected]).collect();
    Ok((json!({ "ok": true, "messageId": message_id }), facts))
}
