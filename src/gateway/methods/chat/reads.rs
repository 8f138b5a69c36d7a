//! What clients read beside a conversation: one of its messages whole, and what can be chosen in it.

use serde_json::Value;

use super::session_key;
use crate::gateway::Gateway;
use crate::gateway::methods::{commands, models};
use crate::gateway::table::{Call, QueryCx};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{Int, NonEmpty, Text};
use crate::sessions::history;

/// Characters of one text of a message that is read by itself, when nothing is said.
const MESSAGE_CHARS: usize = 1_000_000;

crate::params! {
    /// Which message of which session, and how much of it.
    pub struct MessageParams {
        session_key: NonEmpty = "sessionKey",
        agent_id: Option<NonEmpty> = "agentId",
        message_id: NonEmpty = "messageId",
        max_chars: Option<Int<1, 2_000_000>> = "maxChars",
    }
}

/// One message that a history showed cut, or does not show any more. One of before a reset is not the session's.
pub(super) fn message(cx: QueryCx<'_>, params: MessageParams) -> Result<Value, RpcError> {
    let key = session_key(&params.session_key.0, params.agent_id.as_ref(), &cx.snapshot.keys)?;
    let chars = params.max_chars.map_or(MESSAGE_CHARS, |chars| chars.0 as usize);
    let db = cx.store.get()?;
    let row = match db.session(key.as_str())? {
        Some(session) => {
            let row = db.transcript_message(&session.session_id, &params.message_id.0)?;
            row.map(|row| (row, session.session_id))
        }
        None => None,
    };
    let unavailable = |why: &str| json!({ "ok": false, "unavailableReason": why });
    let Some((row, session_id)) = row else { return Ok(unavailable("not_found")) };
    Ok(match history::one(&row, &session_id, chars, cx.call.protocol()) {
        Some(message) => json!({ "ok": true, "message": message }),
        None => unavailable("oversized"),
    })
}

crate::params! {
    /// For which agent, or which session.
    pub struct MetadataParams {
        agent_id: Option<NonEmpty> = "agentId",
        auth_profile_id: Option<Text<1, 256>> = "authProfileId",
        session_key: Option<NonEmpty> = "sessionKey",
    }
}

/// The models and commands that can be chosen while somebody writes.
pub(super) fn metadata(gateway: &mut Gateway, call: &Call, params: MetadataParams) -> Result<Value, RpcError> {
    let agent = match &params.session_key {
        Some(_) if params.auth_profile_id.is_some() => {
            return Err(RpcError::invalid(format!("invalid {} params: must not be valid", call.method)));
        }
        Some(text) => {
            let key = session_key(&text.0, params.agent_id.as_ref(), &gateway.keys)?;
            key.agent().unwrap_or(&gateway.keys.default_agent).to_owned()
        }
        None => models::asked_agent(gateway, params.agent_id.as_ref().map(|id| id.0.as_str()))?,
    };
    if params.auth_profile_id.is_some() {
        return Err(models::no_account());
    }
    let mut out = models::choice(gateway, call.protocol(), &agent);
    out["commands"] = json!(commands::wire(true));
    // No agent of this build has others work for it.
    out["swarmEnabled"] = json!(false);
    // Which of a provider's accounts answers is the gateway's own choice.
    out["accountSelection"] = json!({ "kind": "automatic", "label": "Automatic account selection" });
    if params.session_key.is_some() {
        out["runtimeSelectionLocked"] = json!(false);
    }
    Ok(out)
}
