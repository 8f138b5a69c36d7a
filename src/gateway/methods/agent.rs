//! Asking an agent and waiting for what it says: the command line's way in. `chat.send` is the other one; both start
//! the same runs.

use std::time::Duration;

use super::chat::{is_served, run_id, session_key, uploads};
use crate::agent::run::EXTRA_SYSTEM_CHARS_MAX;
use crate::gateway::Gateway;
use crate::gateway::inbound::{Known, Waiter};
use crate::gateway::runs;
use crate::gateway::table::{Call, need};
use crate::intake::{Message, Source, Wish, normalise};
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::frame::{Json, response_error};
use crate::protocol::json::json;
use crate::protocol::params::{Any, Count, NonEmpty, Text};
use crate::protocol::session_key::{SessionKey, agent_id};
use crate::protocol::version::Protocol;

crate::methods! {
    "agent",      Both, need::WRITE, need::WRITE, Flow ask;
    "agent.wait", Both, need::WRITE, need::WRITE, Flow wait;
}

/// How long `agent.wait` waits when nothing is said, in milliseconds.
const WAIT_DEFAULT_MS: u64 = 30_000;
/// How long it waits at most, in milliseconds; a caller that wants longer asks again.
const WAIT_MAX_MS: u64 = 60 * 60 * 1000;
/// Longest message in characters; the text's own limit in bytes is lower.
const MESSAGE_CHARS_MAX: usize = 64 * 1024 * 1024;

crate::params! {
    /// What is said, to whom, and how it is to be answered.
    pub struct AgentParams {
        message: Text<1, MESSAGE_CHARS_MAX> = "message",
        agent_id: Option<NonEmpty> = "agentId",
        to: Option<String> = "to",
        reply_to: Option<String> = "replyTo",
        session_id: Option<String> = "sessionId",
        session_key: Option<String> = "sessionKey",
        thinking: Option<String> = "thinking",
        deliver: Option<bool> = "deliver",
        attachments: Option<Vec<Any>> = "attachments",
        channel: Option<String> = "channel",
        reply_channel: Option<String> = "replyChannel",
        account_id: Option<String> = "accountId",
        reply_account_id: Option<String> = "replyAccountId",
        thread_id: Option<String> = "threadId",
        group_id: Option<String> = "groupId",
        group_channel: Option<String> = "groupChannel",
        group_space: Option<String> = "groupSpace",
        timeout: Option<Count> = "timeout",
        lane: Option<String> = "lane",
        extra_system_prompt: Option<String> = "extraSystemPrompt",
        input_provenance: Option<Any> = "inputProvenance",
        idempotency_key: NonEmpty = "idempotencyKey",
        label: Option<Text<1, 512>> = "label",
        spawned_by: Option<String> = "spawnedBy",
        @v4 {
            provider: Option<String> = "provider",
            model: Option<String> = "model",
            expected_existing_session_id: Option<NonEmpty> = "expectedExistingSessionId",
            best_effort_deliver: Option<bool> = "bestEffortDeliver",
            cwd: Option<NonEmpty> = "cwd",
            model_run: Option<bool> = "modelRun",
            prompt_mode: Option<Any> = "promptMode",
            bootstrap_context_mode: Option<Any> = "bootstrapContextMode",
            bootstrap_context_run_kind: Option<Any> = "bootstrapContextRunKind",
            session_effects: Option<Any> = "sessionEffects",
            source_reply_delivery_mode: Option<Any> = "sourceReplyDeliveryMode",
            disable_message_tool: Option<bool> = "disableMessageTool",
            voice_wake_trigger: Option<String> = "voiceWakeTrigger",
        }
    }
}

fn ask(gateway: &mut Gateway, call: &Call, params: AgentParams) -> Result<(), RpcError> {
    let session = target(gateway, call, &params)?;
    let run_id = run_id(params.idempotency_key.0)?;
    let text = normalise::text(&params.message.0)?;
    match gateway.known_run(&run_id, call.now_ms) {
        Known::New => {}
        Known::Open => return again(gateway, call, &run_id),
        Known::Past(verdict) => {
            let frame = runs::past_answer(&run_id, &verdict, call.protocol());
            return answer(gateway, call, &frame, verdict.is_ok(), &verdict.summary(call.protocol()));
        }
    }
    let uploads = uploads(call, params.attachments)?;
    let wish = Wish {
        thinking: params.thinking,
        model: model(params.provider, params.model),
        extra_system: params.extra_system_prompt.map(|text| text.chars().take(EXTRA_SYSTEM_CHARS_MAX).collect()),
        // Seconds; 0 means no limit of its own.
        timeout_ms: params.timeout.map(|seconds| seconds.0 as u64 * 1000).filter(|ms| *ms > 0),
        label: params.label.map(|label| label.0.trim().to_owned()).filter(|label| !label.is_empty()),
        ..Wish::default()
    };
    let mut message = Message {
        channel: Some(params.channel.unwrap_or_else(|| crate::sessions::transcript::WEBCHAT.to_owned())),
        sender: Some(call.caller.name.clone()),
        client: Some(call.caller.client()),
        to: params.to,
        account_id: params.account_id,
        thread_id: params.thread_id,
        wish,
        ..Message::new(Source::Agent, session, run_id, text, call.now_ms)
    };
    let names_session = params.session_key.is_some();
    let orders = runs::commands::take(&mut message, call);
    gateway.receive(message, uploads, orders, Waiter::Agent { conn: call.conn(), id: call.id.clone(), names_session })
}

/// A model as a caller names it for one run.
fn model(provider: Option<String>, model: Option<String>) -> Option<String> {
    match (provider.filter(|text| !text.is_empty()), model.filter(|text| !text.is_empty())) {
        (Some(provider), Some(model)) => Some(format!("{provider}/{model}")),
        (None, model) => model,
        (Some(_), None) => None,
    }
}

/// The session that is meant: the one named, the one of an id, else the agent's main one.
fn target(gateway: &Gateway, call: &Call, params: &AgentParams) -> Result<SessionKey, RpcError> {
    let invalid = |text: String| RpcError::invalid(format!("invalid agent params: {text}"));
    if let Some(channel) = params.channel.as_deref().or(params.reply_channel.as_deref())
        && !is_channel(channel)
    {
        return Err(invalid(format!("unknown channel: {channel}")));
    }
    if params.deliver == Some(true)
        && let Some(channel) = params.reply_channel.as_deref().or(params.channel.as_deref()).map(str::trim)
        && !is_here(channel)
    {
        // Better refused than run for an answer that goes nowhere.
        let why = format!("the answer cannot be delivered: channel {channel} is not set up on this gateway");
        return Err(RpcError::unavailable(why));
    }
    let agents = &gateway.config.settings.agents;
    if let Some(agent) = &params.agent_id
        && agents.get(&agent_id(&agent.0)).is_none()
    {
        return Err(invalid(format!("unknown agent id \"{}\"", agent.0)));
    }
    let agent = params.agent_id.as_ref().map_or_else(|| agents.default_id.clone(), |agent| agent_id(&agent.0));
    let text = match (params.session_key.as_deref().map(str::trim), params.session_id.as_deref().map(str::trim)) {
        (Some(key), _) if !key.is_empty() => key.to_owned(),
        (_, Some(id)) if !id.is_empty() => format!("agent:{agent}:explicit:{id}"),
        _ => "main".to_owned(),
    };
    if text.starts_with("agent:") && SessionKey::parse(&text, &gateway.keys).is_err() {
        return Err(invalid(format!("malformed session key \"{text}\"")));
    }
    let key = session_key(&text, params.agent_id.as_ref(), &gateway.keys).map_err(|error| invalid(error.message))?;
    is_served(gateway, call, &key)?;
    Ok(key)
}

/// Whether a channel of this name exists anywhere; `last` is where the session was last spoken to.
fn is_channel(name: &str) -> bool {
    let name = name.trim().to_lowercase();
    name == "last" || name == crate::sessions::transcript::WEBCHAT || super::channels::is_known(&name)
}

/// Whether an answer can go there: this build has no channel but its own clients.
fn is_here(channel: &str) -> bool {
    ["last", crate::sessions::transcript::WEBCHAT].contains(&channel.to_lowercase().as_str())
}

/// The same call again while its run is on its way: it hears the end too.
fn again(gateway: &mut Gateway, call: &Call, run_id: &str) -> Result<(), RpcError> {
    let first = match call.protocol() {
        Protocol::V3 => json!({ "runId": run_id, "status": "accepted", "acceptedAt": call.now_ms }),
        Protocol::V4 => json!({ "runId": run_id, "status": "in_flight" }),
    };
    gateway.answer_request(call.conn(), &call.id, Ok(Json::of(&first)?));
    if call.protocol() == Protocol::V3 {
        gateway.join_run(run_id, call.conn(), &call.id);
    }
    Ok(())
}

fn answer(
    gateway: &mut Gateway,
    call: &Call,
    payload: &serde_json::Value,
    is_ok: bool,
    summary: &str,
) -> Result<(), RpcError> {
    let payload = Json::of(payload)?;
    if is_ok {
        gateway.answer_request(call.conn(), &call.id, Ok(payload));
    } else {
        let error = RpcError::new(ErrorCode::Unavailable, summary);
        let frame = response_error(&call.id, &error, Some(&payload), call.protocol());
        gateway.send_frame(call.conn(), frame);
    }
    Ok(())
}

crate::params! {
    /// Whose end to wait for, and how long.
    pub struct WaitParams {
        run_id: NonEmpty = "runId",
        timeout_ms: Option<Count> = "timeoutMs",
    }
}

fn wait(gateway: &mut Gateway, call: &Call, params: WaitParams) -> Result<(), RpcError> {
    let run_id = params.run_id.0;
    if let Known::Past(verdict) = gateway.known_run(&run_id, call.now_ms) {
        let answer = Json::of(&runs::wait_answer(&run_id, &verdict, call.protocol()))?;
        gateway.answer_request(call.conn(), &call.id, Ok(answer));
        return Ok(());
    }
    // A run that nobody knows may still come: it is waited for all the same.
    let ms = params.timeout_ms.map_or(WAIT_DEFAULT_MS, |ms| ms.0 as u64).min(WAIT_MAX_MS);
    let until = gateway.now.mono + Duration::from_millis(ms);
    gateway.wait_for_run(&run_id, call.conn(), &call.id, until)
}
