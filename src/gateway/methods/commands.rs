//! `commands.list`: the commands that can stand in messages, for clients that offer them while one is typed.

use serde_json::Value;

use super::models::asked_agent;
use crate::agent::commands::COMMANDS;
use crate::gateway::Gateway;
use crate::gateway::table::{Call, need};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::NonEmpty;

crate::methods! {
    "commands.list", V4, need::ADMIN, need::READ, Loop list;
}

crate::params! {
    /// For whom, and how much of each.
    pub struct ListParams {
        agent_id: Option<NonEmpty> = "agentId",
        // Every agent, session and channel has the same commands, as text and in menus.
        session_key: Option<NonEmpty> = "sessionKey",
        provider: Option<NonEmpty> = "provider",
        scope: Option<CommandScope> = "scope",
        include_args: Option<bool> = "includeArgs",
    }
}

crate::words! {
    /// Where a command is given.
    pub enum CommandScope {
        /// As text.
        Text = "text",
        /// In a menu of the channel.
        Native = "native",
        /// Either.
        Both = "both",
    }
}

fn list(gateway: &mut Gateway, _call: &Call, params: ListParams) -> Result<Value, RpcError> {
    asked_agent(gateway, params.agent_id.as_ref().map(|id| id.0.as_str()))?;
    Ok(json!({ "commands": wire(params.include_args != Some(false)) }))
}

/// The commands as clients list them.
pub(super) fn wire(with_args: bool) -> Vec<Value> {
    let row = |command: &crate::agent::commands::Command| {
        let mut row = command.wire();
        if let (false, Some(fields)) = (with_args, row.as_object_mut()) {
            fields.remove("args");
        }
        row
    };
    COMMANDS.iter().map(row).collect()
}
