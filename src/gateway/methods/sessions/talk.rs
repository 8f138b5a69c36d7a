//! Talking in a session, and stopping what goes on in it, by the session's key.

use serde_json::{Map, Value};

use super::{Keyed, whole_key};
use crate::gateway::Gateway;
use crate::gateway::methods::chat::{QueueMode, Words, is_served, require_target, run_id, say};
use crate::gateway::runs::stops::Stopped;
use crate::gateway::table::Call;
use crate::intake::expected::Expected;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{Any, Count, Issues, NonEmpty, Params, find};
use crate::runtime::random;
use crate::runtime::stop::Why;
use crate::sessions::transcript::WEBCHAT;

crate::params! {
    /// What is said in which session.
    pub struct SendParams {
        key: NonEmpty = "key",
        agent_id: Option<NonEmpty> = "agentId",
        message: String = "message",
        // There is nobody to be mentioned: all who may read a session see it.
        mentions: Option<Vec<Any>> = "mentions",
        thinking: Option<String> = "thinking",
        attachments: Option<Vec<Any>> = "attachments",
        timeout_ms: Option<Count> = "timeoutMs",
        idempotency_key: Option<NonEmpty> = "idempotencyKey",
        // Ours: where it comes from, and so where an answer goes (SES-61, SES-64).
        channel: Option<NonEmpty> = "channel",
        to: Option<NonEmpty> = "to",
        account_id: Option<NonEmpty> = "accountId",
        thread_id: Option<NonEmpty> = "threadId",
    }
}

/// The parameters of `sessions.send`, or of `sessions.steer`.
#[derive(Debug, Clone)]
pub struct Said<const STEERS: bool>(SendParams);

/// What the message may be called as well (SES-61).
const MESSAGE_ALIASES: [&str; 3] = ["text", "prompt", "input"];

impl<const STEERS: bool> Params for Said<STEERS> {
    fn read_fields(object: &Map<String, Value>, path: &str, issues: &mut Issues) -> Option<Self> {
        let method = if STEERS { "sessions.steer" } else { "sessions.send" };
        require_target(find(object, "key").or_else(|| find(object, "sessionKey")), method, issues);
        let alias =
            MESSAGE_ALIASES.iter().find(|alias| !object.contains_key("message") && object.contains_key(**alias));
        let renamed = alias.map(|alias| {
            let mut renamed = object.clone();
            let message = renamed.remove(*alias).unwrap_or_default();
            renamed.insert("message".to_owned(), message);
            renamed
        });
        let Keyed(params) = Keyed::read_fields(renamed.as_ref().unwrap_or(object), path, issues)?;
        Some(Said(params))
    }
}

/// Says something in a session that is there; the main one of an agent always is.
pub(super) fn send(gateway: &mut Gateway, call: &Call, Said(params): Said<false>) -> Result<(), RpcError> {
    tell(gateway, call, params, None)
}

/// The same, and what goes on in the session is stopped for it.
pub(super) fn steer(gateway: &mut Gateway, call: &Call, Said(params): Said<true>) -> Result<(), RpcError> {
    tell(gateway, call, params, Some(QueueMode::Interrupt))
}

fn tell(gateway: &mut Gateway, call: &Call, params: SendParams, queue_mode: Option<QueueMode>) -> Result<(), RpcError> {
    let session = whole_key(&params.key, params.agent_id.as_ref(), &gateway.keys)?;
    is_served(gateway, call, &session)?;
    let text = |text: Option<NonEmpty>| text.map(|text| text.0);
    if params.channel.as_ref().is_some_and(|channel| channel.0.trim().eq_ignore_ascii_case(WEBCHAT)) {
        return Err(RpcError::invalid("channel webchat has no address; use chat.send for it"));
    }
    let words = Words {
        text: params.message,
        run_id: run_id(text(params.idempotency_key).unwrap_or_else(random::uuid))?,
        thinking: params.thinking,
        timeout_ms: params.timeout_ms,
        attachments: params.attachments,
        queue_mode,
        channel: text(params.channel),
        to: text(params.to),
        account_id: text(params.account_id),
        thread_id: text(params.thread_id),
        expected: Expected { is_there: queue_mode.is_some() || !session.is_main(&gateway.keys), ..Expected::default() },
    };
    say(gateway, call, session, params.key.0, words, false)
}

crate::params! {
    /// What to stop: a run, or what goes on in a session.
    pub struct AbortParams {
        key: Option<NonEmpty> = "key",
        run_id: Option<NonEmpty> = "runId",
        agent_id: Option<NonEmpty> = "agentId",
        clear_queued: Option<bool> = "clearQueued",
    }
}

pub(super) fn abort(gateway: &mut Gateway, call: &Call, params: Keyed<AbortParams>) -> Result<(), RpcError> {
    let Keyed(params) = params;
    let named = params.key.as_ref();
    let named = named.map(|key| whole_key(key, params.agent_id.as_ref(), &gateway.keys)).transpose()?;
    let which = match (&params.run_id, &named) {
        (Some(run), Some(key)) if gateway.session_of_run(&run.0).is_some_and(|own| own != key) => {
            return Err(RpcError::invalid("runId does not match session"));
        }
        (Some(run), _) => Stopped::Run(&run.0),
        (None, Some(key)) => {
            is_served(gateway, call, key)?;
            if params.clear_queued == Some(true) { Stopped::Session(key) } else { Stopped::Active(key) }
        }
        (None, None) => return Err(RpcError::invalid("key required")),
    };
    gateway.stop_and_answer(call, &which, Why::Rpc, stopped)
}

/// What stopping came to.
fn stopped(run_ids: &[String]) -> Value {
    let status = if run_ids.is_empty() { "no-active-run" } else { "aborted" };
    json!({ "ok": true, "abortedRunId": run_ids.first(), "status": status })
}
