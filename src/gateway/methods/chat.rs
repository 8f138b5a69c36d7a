//! Talking to an agent: what was said, saying something, putting words in.

use serde_json::{Value, json};

use crate::gateway::inbound::{Known, Waiter};
use crate::gateway::table::{Call, QueryCx, StoreCx, need};
use crate::gateway::{Effect, Fact, Gateway};
use crate::intake::{Message, Source, normalise};
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::frame::{Json, response_error};
use crate::protocol::params::{Any, Count, Int, NonEmpty, Positive, Text};
use crate::protocol::session_key::{KeyRules, SessionKey, agent_id};
use crate::protocol::version::Protocol;
use crate::sessions::{history, row, transcript};
use crate::store::StoreError;

crate::methods! {
    "chat.history", Both, need::READ,  need::SESSIONS_READ,  Query history;
    "chat.startup", V4,   need::READ,  need::SESSIONS_READ,  Query startup;
    "chat.send",    Both, need::WRITE, need::SESSIONS_WRITE, Flow  send;
    "chat.abort",   Both, need::WRITE, need::SESSIONS_WRITE, Loop  abort;
    "chat.inject",  Both, need::ADMIN, need::ADMIN,          Store inject;
}

/// The session a caller means; protocol 4 may name the agent beside the key.
pub(super) fn session_key(text: &str, agent: Option<&NonEmpty>, keys: &KeyRules) -> Result<SessionKey, RpcError> {
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

/// Messages given out when nothing is said.
const HISTORY_ROWS: i64 = 200;

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
            input_run_ids: Option<Vec<Text<1, 256>>> = "inputRunIds",
            message_id: Option<NonEmpty> = "messageId",
            session_id: Option<NonEmpty> = "sessionId",
            max_chars: Option<Int<1, 500_000>> = "maxChars",
        }
    }
}

fn history(cx: QueryCx<'_>, params: HistoryParams) -> Result<Value, RpcError> {
    let key = session_key(&params.session_key.0, params.agent_id.as_ref(), &cx.snapshot.keys)?;
    let ask = history::Ask {
        rows: params.limit.map_or(HISTORY_ROWS, |limit| limit.0) as usize,
        bytes: params.max_bytes.map(|bytes| bytes.0 as usize),
        chars: params.max_chars.map(|chars| chars.0 as usize),
        skip_newest: params.offset.map_or(0, |offset| offset.0 as u64),
        protocol: cx.call.protocol(),
    };
    let shown = if cx.call.protocol() == Protocol::V3 { params.session_key.0.as_str() } else { key.as_str() };
    paint(cx.store.get()?, &cx.snapshot, &key, shown, &ask, cx.call.now_ms)
}

crate::params! {
    /// Which session to paint first.
    pub struct StartupParams {
        session_key: NonEmpty = "sessionKey",
        agent_id: Option<NonEmpty> = "agentId",
        limit: Option<Int<1, 1000>> = "limit",
        max_bytes: Option<Int<1024, { i64::MAX }>> = "maxBytes",
        max_chars: Option<Int<1, 500_000>> = "maxChars",
        session_id: Option<NonEmpty> = "sessionId",
    }
}

fn startup(cx: QueryCx<'_>, params: StartupParams) -> Result<Value, RpcError> {
    let key = session_key(&params.session_key.0, params.agent_id.as_ref(), &cx.snapshot.keys)?;
    let ask = history::Ask {
        rows: params.limit.map_or(HISTORY_ROWS, |limit| limit.0) as usize,
        bytes: params.max_bytes.map(|bytes| bytes.0 as usize),
        chars: params.max_chars.map(|chars| chars.0 as usize),
        skip_newest: 0,
        protocol: Protocol::V4,
    };
    paint(cx.store.get()?, &cx.snapshot, &key, key.as_str(), &ask, cx.call.now_ms)
}

/// A session's messages and what is shown around them.
fn paint(
    db: &crate::store::db::Queries,
    snapshot: &crate::gateway::Snapshot,
    key: &SessionKey,
    shown: &str,
    ask: &history::Ask,
    now_ms: i64,
) -> Result<Value, RpcError> {
    let rows = row::Context::of(&snapshot.config);
    let session = db.session(key.as_str())?;
    let page = match &session {
        Some(session) => history::read(db, &session.session_id, ask)?,
        None => history::Shown::default(),
    };
    let mut out = json!({ "sessionKey": shown });
    if let Some(session) = &session {
        out["sessionId"] = json!(session.session_id);
    }
    out["messages"] = Value::Array(page.messages);
    if let Some(session) = &session {
        for name in ["thinkingLevel", "verboseLevel"] {
            if let Some(level) = session.entry.get(name) {
                out[name] = level.clone();
            }
        }
    }
    match ask.protocol {
        Protocol::V3 => {
            if out.get("thinkingLevel").is_none() {
                out["thinkingLevel"] = json!("off");
            }
        }
        Protocol::V4 => {
            out["pendingInputs"] = json!({ "items": [], "total": 0 });
            out["hasMore"] = json!(page.has_older);
            out["totalMessages"] = json!(page.n_total);
            out["defaults"] = rows.defaults_v4();
            if let Some(session) = &session {
                out["sessionInfo"] = row::wire_v4(session, &rows, now_ms);
            }
        }
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
            expected_leaf_entry_id: Option<Any> = "expectedLeafEntryId",
            expected_session_routing_contract: Option<NonEmpty> = "expectedSessionRoutingContract",
            expected_permission_mode: Option<Any> = "expectedPermissionMode",
            expected_tool_overrides: Option<Any> = "expectedToolOverrides",
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

fn send(gateway: &mut Gateway, call: &Call, params: SendParams) -> Result<(), RpcError> {
    let text = normalise::text(&params.message)?;
    let run_id = params.idempotency_key.0;
    if run_id.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        return Err(RpcError::invalid(format!("idempotencyKey is longer than {IDEMPOTENCY_KEY_BYTES_MAX} bytes")));
    }
    if params.attachments.is_some_and(|list| !list.is_empty()) {
        return Err(RpcError::unavailable("attachments cannot be stored by this build; send the text alone"));
    }
    if text.trim().is_empty() {
        return Err(RpcError::invalid("message or attachment required"));
    }
    let session = session_key(&params.session_key.0, params.agent_id.as_ref(), &gateway.keys)?;
    if normalise::is_stop_word(&text) {
        let answer = Json::of(&json!({ "ok": true, "aborted": false, "runIds": [] }))?;
        gateway.answer_request(call.conn(), &call.id, Ok(answer));
        return Ok(());
    }
    match gateway.known_run(&run_id, call.now_ms) {
        Known::New => {}
        Known::Past(response) => {
            repeat(gateway, call, &response)?;
            return Ok(());
        }
    }
    let message = Message {
        source: Source::Chat,
        dedupe_key: run_id.clone(),
        run_id,
        session,
        text,
        command: None,
        channel: Some(params.originating_channel.unwrap_or_else(|| "webchat".to_owned())),
        sender: Some(call.caller.name.clone()),
        to: params.originating_to,
        account_id: params.originating_account_id,
        thread_id: params.originating_thread_id,
        received_ms: call.now_ms,
    };
    let key_as_sent = params.session_key.0;
    gateway.receive(message, Waiter::Call { conn: call.conn(), id: call.id.clone(), key_as_sent })
}

/// Answers as the run did before: a failure comes again as one, with what it said.
fn repeat(gateway: &mut Gateway, call: &Call, response: &Value) -> Result<(), RpcError> {
    let payload = Json::of(response)?;
    if response.get("status").and_then(Value::as_str) != Some("error") {
        gateway.answer_request(call.conn(), &call.id, Ok(payload));
        return Ok(());
    }
    let why = response.get("summary").and_then(Value::as_str).unwrap_or("the run failed");
    let error = RpcError::new(ErrorCode::Unavailable, why);
    let frame = response_error(&call.id, &error, Some(&payload), call.protocol());
    gateway.effects.push_back(Effect::Send(call.conn(), frame));
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

fn abort(gateway: &mut Gateway, _call: &Call, params: AbortParams) -> Result<Value, RpcError> {
    session_key(&params.session_key.0, params.agent_id.as_ref(), &gateway.keys)?;
    // A run ends in the turn it begins, as long as no model is asked: there is never one to stop.
    Ok(json!({ "ok": true, "aborted": false, "runIds": [] }))
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
    let zero = json!({ "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 0 });
    let new = transcript::New {
        role: "assistant",
        content: json!([{ "type": "text", "text": text }]),
        metadata: json!({}),
        idempotency_key: None,
        extra: &[
            ("provider", json!("openclaw")),
            ("model", json!("gateway-injected")),
            ("stopReason", json!("injected")),
            ("usage", zero),
        ],
        route: None,
    };
    let added = transcript::add(cx.db, &key, &new, cx.call.now_ms)?;
    let shown = row::wire_v4(&added.session, &row::Context::of(&cx.snapshot.config), cx.call.now_ms);
    let facts = vec![
        Fact::Session {
            key: key.clone(),
            reason: "send",
            row: shown.clone(),
            updated_at: added.session.updated_ms,
            is_new: added.is_new_session,
        },
        Fact::Message {
            key: key.clone(),
            message: added.message.clone(),
            message_id: added.message_id.clone(),
            seq: added.seq,
            row: shown,
        },
        Fact::Injected {
            key_as_sent: params.session_key.0,
            key,
            message: added.message,
            message_id: added.message_id.clone(),
        },
    ];
    Ok((json!({ "ok": true, "messageId": added.message_id }), facts))
}
