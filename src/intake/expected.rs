//! What a sender saw of a session when it wrote: its message is taken only while that still holds.
//!
//! A person who answers what is on the screen must not have said it to another conversation, on another branch, or
//! with more tools switched on than the screen showed. The checks run where the message is written down, in that
//! transaction, so nothing can change in between.

use serde_json::Value;

use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::sessions::patch::is_as_seen;
use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::sessions::SessionRow;

/// What must hold of a session. The default expects nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// That it is there: the message makes none.
    pub is_there: bool,
    /// That it has this transcript.
    pub session_id: Option<String>,
    /// That this message is the newest of its active branch, `None` that nothing has been said. Who names the transcript
    /// too is content with a message that is still on the active branch.
    pub leaf: Option<Option<String>>,
    /// Fields of its entry as they were seen; `null`: not set.
    pub settings: Vec<(&'static str, Value)>,
}

impl Expected {
    /// Refuses a message whose sender saw something else.
    ///
    /// # Errors
    /// `INVALID_REQUEST` in upstream's words and with its reasons; the store's.
    pub fn check(&self, db: &Db<'_>, key: &str, session: Option<&SessionRow>) -> Result<(), StoreError> {
        if self.is_there && session.is_none() {
            return Err(RpcError::invalid(format!("session not found: {key}")).into());
        }
        if let Some(leaf) = &self.leaf
            && !self.leaf_holds(db, leaf.as_deref(), session)?
        {
            return Err(changed("active branch changed; review and retry", "active-leaf-changed").into());
        }
        match (&self.session_id, session) {
            (Some(_), None) => {
                let message = format!("Session \"{key}\" was deleted while starting work. Retry.");
                return Err(RpcError::invalid(message).into());
            }
            (Some(seen), Some(session)) if *seen != session.session_id => {
                let message = format!("Session \"{key}\" changed while starting work. Retry.");
                return Err(RpcError::invalid(message).into());
            }
            _ => {}
        }
        let now = |field: &str| session.and_then(|session| session.entry.get(field));
        if self.settings.iter().any(|(field, seen)| !is_as_seen(seen, now(field))) {
            return Err(changed("Session settings changed before send. Retry.", "session-settings-changed").into());
        }
        Ok(())
    }

    fn leaf_holds(&self, db: &Db<'_>, leaf: Option<&str>, session: Option<&SessionRow>) -> Result<bool, StoreError> {
        let Some(session) = session else { return Ok(leaf.is_none() && self.session_id.is_none()) };
        let id = &session.session_id;
        if self.session_id.as_ref().is_some_and(|seen| seen != id) {
            return Ok(false);
        }
        let newest = db.transcript_leaf(id)?;
        let Some(leaf) = leaf else { return Ok(newest == 0) };
        let standing = db.transcript_standing(id, leaf)?;
        Ok(standing.is_some_and(|at| at.row.seq == newest || at.is_active && self.session_id.is_some()))
    }
}

/// The session is not as it was seen; clients know by the reason what to read again.
pub fn changed(message: &str, reason: &str) -> RpcError {
    RpcError::invalid(message).with_details(json!({ "reason": reason }))
}
