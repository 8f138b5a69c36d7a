//! The methods, one file a family: rows, parameters, results and handlers side by side.

pub mod agent;
pub mod agents;
pub mod approvals;
pub mod artifacts;
pub mod audit;
pub mod channels;
pub mod chat;
pub mod commands;
pub mod config;
pub mod device;
pub mod diagnostics;
pub mod doctor;
pub mod exec_approvals;
pub mod health;
pub mod models;
pub mod models_auth;
pub mod node;
pub mod secrets;
pub mod sessions;
pub mod setup;
pub mod status;
pub mod suspend;
pub mod system;
pub mod tools;
pub mod update;
pub mod usage;
pub mod voicewake;

use super::table::{Method, StoreCx};
use crate::store::StoreError;
use crate::store::audit::AuditRecord;

/// Every family.
pub static FAMILIES: &[&[Method]] = &[
    health::METHODS,
    status::METHODS,
    system::METHODS,
    suspend::METHODS,
    audit::METHODS,
    diagnostics::METHODS,
    doctor::METHODS,
    secrets::METHODS,
    update::METHODS,
    config::METHODS,
    device::METHODS,
    node::METHODS,
    agents::METHODS,
    agent::METHODS,
    models::METHODS,
    models_auth::METHODS,
    channels::METHODS,
    chat::METHODS,
    tools::METHODS,
    commands::METHODS,
    sessions::METHODS,
    usage::METHODS,
    setup::METHODS,
    approvals::METHODS,
    exec_approvals::METHODS,
    artifacts::METHODS,
    voicewake::METHODS,
];

/// Records a call on `resource`, in the transaction of what it does.
fn audit(cx: &StoreCx<'_>, resource: &str) -> Result<(), StoreError> {
    cx.db.audit_append(&AuditRecord {
        at_ms: cx.call.now_ms,
        actor: cx.call.caller.actor(),
        address: Some(cx.call.caller.address.to_string()),
        action: cx.call.method.to_owned(),
        resource: resource.to_owned(),
        outcome: "ok".to_owned(),
        request_id: Some(cx.call.id.clone()),
        detail: None,
    })?;
    Ok(())
}
