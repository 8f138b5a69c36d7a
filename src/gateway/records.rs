//! What the core keeps in the store, and reads back when it starts.

use std::collections::VecDeque;

use serde_json::Value;

use super::approvals::{Approval, ENDED_KEPT_MS};
use super::health::{RECENT_SESSIONS, SessionSummary};
use super::inbound::PastRun;
use super::pairing::{Devices, Paired, Pending};
use super::runs::Left;
use super::setups::{SetupCode, Setups};
use crate::agent::cooldown::Cooldowns;
use crate::config::settings::scheduling::Wishes;
use crate::protocol::error::RpcError;
use crate::sessions::scheduler;
use crate::store::StoreError;
use crate::store::db::{Db, Queries};
use crate::store::devices::{DeviceRow, PendingPairRow};
use crate::store::idempotency::RequestState;
use crate::store::sessions::SessionFilter;

/// Words that wake a listening client, until somebody sets others.
pub const VOICEWAKE_DEFAULT: [&str; 3] = ["openclaw", "claude", "computer"];
/// System events kept until an agent hears of them; the oldest go first.
pub const SYSTEM_EVENTS_MAX: usize = 20;

/// Keys of single values in the store.
pub mod meta {
    /// `true` or `false`.
    pub const HEARTBEATS_ENABLED: &str = "heartbeats.enabled";
    /// The last heartbeat as JSON.
    pub const LAST_HEARTBEAT: &str = "heartbeats.last";
    /// Resting accounts of model providers.
    pub const COOLDOWNS: &str = "models.cooldowns";
    /// Wake words as a JSON list.
    pub const VOICEWAKE: &str = "voicewake.triggers";
    /// What is kept of a setup code; its id follows.
    pub const SETUPS: &str = "devices.setup.";
    /// Waiting system events as a JSON list.
    pub const SYSTEM_EVENTS: &str = "system.events";
}

/// What the store held when the daemon started.
#[derive(Debug)]
pub struct Kept {
    /// Devices and who asks to be one.
    pub devices: Devices,
    /// SetupCode codes.
    pub setups: Setups,
    /// Approvals that are open, and those that ended a moment ago.
    pub approvals: Vec<Approval>,
    /// How many sessions there are, and the newest.
    pub sessions: SessionSummary,
    /// Runs that may be asked about again.
    pub runs: Vec<(String, PastRun)>,
    /// Messages whose runs have not ended, oldest first.
    pub left: Vec<Left>,
    /// Commands that ran in the background when the last gateway ended.
    pub lost_commands: Vec<crate::tools::processes::Background>,
    /// Which accounts of model providers rest until when.
    pub cooldowns: Cooldowns,
    /// Whether heartbeats are on.
    pub heartbeats_enabled: bool,
    /// The last one.
    pub last_heartbeat: Option<Value>,
    /// System events nobody has heard of yet.
    pub system_events: VecDeque<String>,
    /// Wake words.
    pub voicewake: Vec<String>,
}

/// What a session wants of its queue.
fn session_wishes(db: &Queries, key: &str) -> Result<Wishes, StoreError> {
    Ok(db.session(key)?.map(|session| scheduler::wishes(&session.entry)).unwrap_or_default())
}

/// Every message that is open.
fn left(db: &Queries) -> Result<Vec<Left>, StoreError> {
    let mut left = Vec::new();
    let mut after_id = 0;
    loop {
        let rows = db.inbox_open(after_id)?;
        let Some(last) = rows.last() else { return Ok(left) };
        after_id = last.id;
        for row in rows {
            left.push(Left {
                inbox_id: row.id,
                message: read(&row.body)?,
                begun: row.attempts,
                turn: row.turn_id,
                wishes: session_wishes(db, &row.session_key)?,
            });
        }
    }
}

/// The setup codes that are kept.
///
/// # Errors
/// The store's.
pub fn setups(db: &Queries) -> Result<Vec<SetupCode>, StoreError> {
    db.meta_with_prefix(meta::SETUPS)?.iter().map(|(_, text)| read(text)).collect()
}

/// Reads all of it.
///
/// # Errors
/// The store's. A record that cannot be read is one too: going on without it would forget a device or a grant.
pub fn load(db: &Queries, now_ms: i64) -> Result<Kept, StoreError> {
    let rows = db.devices_load(now_ms)?;
    let paired = rows.paired.iter().map(|row| read::<Paired>(&row.record)).collect::<Result<_, _>>()?;
    let pending = rows.pending.iter().map(|row| read::<Pending>(&row.record)).collect::<Result<_, _>>()?;
    let mut sessions = SessionSummary::default();
    let newest = db.session_list(&SessionFilter::default(), 0, 1000)?;
    let mut agents: Vec<&str> = newest.sessions.iter().map(|row| row.agent_id.as_str()).collect();
    agents.sort_unstable();
    agents.dedup();
    for agent in agents {
        let filter = SessionFilter { agent_id: Some(agent.to_owned()), ..SessionFilter::default() };
        let count = db.session_count(&filter)?;
        let recent = newest.sessions.iter().filter(|row| row.agent_id == agent).take(RECENT_SESSIONS);
        sessions.set(agent, count, recent.map(|row| (row.key.clone(), row.updated_ms)).collect());
    }
    let runs = db
        .idempotency_all(now_ms)?
        .into_iter()
        .filter(|row| row.state != RequestState::Running)
        .filter_map(|row| {
            let run_id = row.key.strip_prefix("chat:")?.to_owned();
            let verdict = serde_json::from_str(&row.response?).ok()?;
            Some((run_id, PastRun { verdict, expires_ms: row.expires_ms }))
        })
        .collect();
    let list = |key: &str| -> Result<Option<Vec<String>>, StoreError> {
        db.meta(key)?.map(|text| read::<Vec<String>>(&text)).transpose()
    };
    Ok(Kept {
        setups: Setups::load(setups(db)?),
        left: left(db)?,
        approvals: db.approvals_load(now_ms - ENDED_KEPT_MS)?.iter().map(Approval::of_row).collect::<Result<_, _>>()?,
        lost_commands: super::runs::notices::left(db)?,
        cooldowns: db.meta(meta::COOLDOWNS)?.map(|text| read(&text)).transpose()?.unwrap_or_default(),
        devices: Devices::load(paired, pending),
        sessions,
        runs,
        heartbeats_enabled: db.meta(meta::HEARTBEATS_ENABLED)?.as_deref() != Some("false"),
        last_heartbeat: db.meta(meta::LAST_HEARTBEAT)?.map(|text| read(&text)).transpose()?,
        system_events: list(meta::SYSTEM_EVENTS)?.unwrap_or_default().into(),
        voicewake: list(meta::VOICEWAKE)?
            .unwrap_or_else(|| VOICEWAKE_DEFAULT.iter().map(|word| (*word).to_owned()).collect()),
    })
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::BadRow { what: std::any::type_name::<T>().to_owned(), detail: error.to_string() })
}

fn text<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::from(RpcError::unavailable(format!("a record cannot be written: {error}"))))
}

/// Writes a paired device.
///
/// # Errors
/// The store's.
pub fn put_paired(db: &Db<'_>, record: &Paired) -> Result<(), StoreError> {
    db.device_put(&DeviceRow {
        device_id: record.device_id.clone(),
        public_key: record.public_key.clone(),
        roles: record.roles.clone(),
        scopes: record.scopes.clone(),
        created_ms: record.created_at_ms,
        approved_ms: record.approved_at_ms,
        last_seen_ms: record.last_seen_at_ms,
        record: text(record)?,
    })?;
    Ok(())
}

/// Writes a request to be paired.
///
/// # Errors
/// The store's.
pub fn put_pending(db: &Db<'_>, pending: &Pending) -> Result<(), StoreError> {
    db.pending_pair_put(&PendingPairRow {
        request_id: pending.request_id.clone(),
        device_id: pending.device_id.clone(),
        at_ms: pending.ts,
        record: text(pending)?,
    })?;
    Ok(())
}

/// Writes a single value as JSON.
///
/// # Errors
/// The store's.
pub fn put_meta<T: serde::Serialize>(db: &Db<'_>, key: &str, value: &T, now_ms: i64) -> Result<(), StoreError> {
    db.meta_put(key, &text(value)?, now_ms)
}
