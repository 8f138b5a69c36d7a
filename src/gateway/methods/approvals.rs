//! Commands that wait for a person, and the rules that say which must.

use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::gateway::table::{Call, need};
use crate::protocol::error::RpcError;
use crate::protocol::params::Loose;

crate::methods! {
    "exec.approval.list",     V4, need::APPROVALS, need::APPROVALS, Loop list;
    "plugin.approval.list",   V4, need::APPROVALS, need::APPROVALS, Loop list;
    "openclaw.approval.list", V4, need::APPROVALS, need::APPROVALS, Loop list;
}

fn list(_gateway: &mut Gateway, _call: &Call, _params: Loose) -> Result<Value, RpcError> {
    // Nothing in this build runs commands, so nothing can wait to be approved.
    Ok(json!([]))
}
