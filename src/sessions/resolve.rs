//! Which session a caller means, by what it knows of it.
//!
//! One selector decides, the first given of: key, session id, label, short id, route (SES-32). A label may be narrowed
//! by agent, parent and route; a route may be partial. A label that fits several sessions is refused, a route that
//! does is the session that changed last (SES-33).

use crate::protocol::error::RpcError;
use crate::protocol::version::Protocol;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::sessions::{SessionFilter, SessionRow};

/// Sessions named in a refusal or offered as candidates.
pub const CANDIDATES_MAX: usize = 10;
/// Sessions looked through for a short id.
const SHORT_ID_ROWS_MAX: usize = 1000;

/// What a caller knows of a session.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    /// Its whole key, and the key as it was written, for the refusal.
    pub key: Option<(String, String)>,
    /// The id of its transcript.
    pub session_id: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// The first digits of the UUID at the end of its key, as links carry them.
    pub short_id: Option<String>,
    /// Agent, parent and route: narrows a label; a route decides alone.
    pub filter: SessionFilter,
}

impl Selector {
    fn has_route(&self) -> bool {
        let filter = &self.filter;
        [&filter.channel, &filter.peer, &filter.account_id, &filter.thread_id].iter().any(|part| part.is_some())
    }
}

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// The session.
    One(Box<SessionRow>),
    /// Several could be meant, at most [`CANDIDATES_MAX`] of them here, the newest first.
    Several(Vec<SessionRow>),
}

/// Finds it; `None` when there is no such session, with what to say about it.
///
/// # Errors
/// `INVALID_REQUEST` when nothing was given or a label or id fits several sessions; the store's.
pub fn find(db: &Queries, selector: &Selector, protocol: Protocol) -> Result<Result<Found, String>, RpcError> {
    let one = |session: SessionRow| Ok(Ok(Found::One(Box::new(session))));
    if let Some((key, as_written)) = &selector.key {
        return match db.session(key)? {
            Some(session) => one(session),
            None => Ok(Err(format!("No session found: {as_written}"))),
        };
    }
    if let Some(id) = &selector.session_id {
        return match db.session_by_id(id)? {
            Some(session) if agrees(&session, &selector.filter) => one(session),
            _ => Ok(Err(format!("No session found: {id}"))),
        };
    }
    if let Some(label) = &selector.label {
        let filter = SessionFilter { label: Some(label.clone()), ..selector.filter.clone() };
        let mut sessions = db.session_list(&filter, 0, CANDIDATES_MAX)?.sessions;
        return match sessions.len() {
            0 => Ok(Err(format!("No session found with label: {label}"))),
            1 => one(sessions.remove(0)),
            _ => Err(RpcError::invalid(format!(
                "Multiple sessions found with label: {label} ({})",
                sessions.iter().map(|session| session.key.as_str()).collect::<Vec<_>>().join(", ")
            ))),
        };
    }
    if let Some(short) = &selector.short_id {
        let mut sessions = by_short_id(db, selector, short)?;
        return match sessions.len() {
            0 => Ok(Err(format!("No session found: {short}"))),
            1 => one(sessions.remove(0)),
            _ => Ok(Ok(Found::Several(sessions))),
        };
    }
    if selector.has_route() {
        return match db.session_list(&selector.filter, 0, 1)?.sessions.pop() {
            Some(session) => one(session),
            None => Ok(Err("No session found for this route".to_owned())),
        };
    }
    Err(RpcError::invalid(match protocol {
        Protocol::V3 => "Either key, sessionId, or label is required",
        Protocol::V4 => "Either key, sessionId, label, shortId, or reference is required",
    }))
}

fn agrees(session: &SessionRow, filter: &SessionFilter) -> bool {
    filter.agent_id.as_ref().is_none_or(|agent| *agent == session.agent_id)
        && filter.spawned_by.as_ref().is_none_or(|parent| Some(parent) == session.spawned_by.as_ref())
}

/// Fewest and most hexadecimal digits of a short id.
const SHORT_ID_DIGITS: std::ops::RangeInclusive<usize> = 8..=32;

fn by_short_id(db: &Queries, selector: &Selector, short: &str) -> Result<Vec<SessionRow>, StoreError> {
    let short: String = short.trim().to_lowercase().chars().filter(|c| *c != '-').collect();
    if !SHORT_ID_DIGITS.contains(&short.len()) || !short.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(Vec::new());
    }
    // The text that is searched holds the key, so its first eight digits narrow the list; the rest is compared here.
    let filter = SessionFilter { search: Some(short[..8].to_owned()), ..selector.filter.clone() };
    let mut sessions = db.session_list(&filter, 0, SHORT_ID_ROWS_MAX)?.sessions;
    sessions.retain(|session| {
        let last = session.key.rsplit(':').next().unwrap_or_default();
        last.len() == UUID_CHARS && last.replace('-', "").starts_with(&short)
    });
    sessions.truncate(CANDIDATES_MAX);
    Ok(sessions)
}

/// Characters of a UUID with its hyphens.
const UUID_CHARS: usize = 36;
