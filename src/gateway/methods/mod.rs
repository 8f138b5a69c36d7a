//! The methods, one file a family: rows, parameters, results and handlers side by side.

pub mod agents;
pub mod approvals;
pub mod channels;
pub mod chat;
pub mod config;
pub mod device;
pub mod health;
pub mod models;
pub mod node;
pub mod sessions;
pub mod system;
pub mod voicewake;

use super::table::Method;

/// Every family.
pub static FAMILIES: &[&[Method]] = &[
    health::METHODS,
    system::METHODS,
    config::METHODS,
    device::METHODS,
    node::METHODS,
    agents::METHODS,
    models::METHODS,
    channels::METHODS,
    chat::METHODS,
    sessions::METHODS,
    approvals::METHODS,
    voicewake::METHODS,
];
