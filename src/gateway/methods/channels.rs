//! Chat services: which are configured and how they are.

use serde_json::Value;

use crate::gateway::Gateway;
use crate::gateway::table::{Call, need};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{Count, NonEmpty};
use crate::protocol::version::Protocol;

/// Chat services that a message may name, whether or not this build speaks to them.
const KNOWN: &[&str] = &[
    "bluebubbles",
    "discord",
    "feishu",
    "googlechat",
    "imessage",
    "irc",
    "line",
    "matrix",
    "mattermost",
    "msteams",
    "nextcloud-talk",
    "nostr",
    "signal",
    "slack",
    "telegram",
    "tlon",
    "twitch",
    "whatsapp",
    "zalo",
    "zalouser",
];

/// Whether there is a chat service of this name, in lower case.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.binary_search(&name).is_ok()
}

crate::methods! {
    "channels.status", Both, need::READ, need::READ, Loop status;
}

crate::params! {
    /// Whether to ask the services themselves, and which.
    pub struct StatusParams {
        probe: Option<bool> = "probe",
        timeout_ms: Option<Count> = "timeoutMs",
        @v4 { channel: Option<NonEmpty> = "channel", }
    }
}

fn status(_gateway: &mut Gateway, call: &Call, _params: StatusParams) -> Result<Value, RpcError> {
    // No channel driver is built in yet: the lists are empty because there is nothing to list.
    let mut out = json!({
        "ts": call.now_ms,
        "channelOrder": [],
        "channelLabels": {},
        "channelDetailLabels": {},
        "channelSystemImages": {},
        "channelMeta": [],
        "channels": {},
        "channelAccounts": {},
        "channelDefaultAccountId": {},
    });
    if call.protocol() == Protocol::V4 {
        out["statusIssues"] = json!([]);
    }
    Ok(out)
}
