//! A gateway that is asked to hold still, so that its machine can be put to sleep or copied: nothing new is begun, what
//! is under way ends, and if nobody says go on it goes on by itself.

use std::time::{Duration, Instant};

use super::Gateway;
use super::active::Counts;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::runtime::clock::Now;
use crate::runtime::random;

/// How long a suspension stands unless it is asked for again.
pub const TTL: Duration = Duration::from_secs(120);
/// When to look again at a gateway that is busy or draining, in milliseconds.
pub const LOOK_AGAIN_MS: u64 = 20_000;
/// When a client that was refused may try again, in milliseconds.
const RETRY_MS: u64 = 1000;

/// What may be called while nothing new is begun, beside what controls the suspension itself.
const STILL_ANSWERED: &[&str] =
    &["health", "gateway.suspend.prepare", "gateway.suspend.status", "gateway.suspend.resume"];

/// A suspension that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspension {
    /// Its name, for who asked.
    pub id: String,
    /// What the asker calls it: who asks again with the same renews it.
    pub request_id: String,
    /// Whether it began while something was under way.
    pub drain: bool,
    /// When it ends by itself.
    pub until: Instant,
    /// The same as milliseconds since 1970.
    pub expires_at_ms: i64,
}

/// What came of asking for one.
#[derive(Debug, PartialEq, Eq)]
pub enum Prepared {
    /// It stands.
    Held(Suspension),
    /// Something is under way, and the asker would not wait for it.
    Busy,
}

impl Gateway {
    /// Begins a suspension, or renews the one of the same request.
    ///
    /// # Errors
    /// Somebody else's stands.
    pub(super) fn suspend(&mut self, now: Now, request_id: &str, drain: bool) -> Result<Prepared, RpcError> {
        let until = now.mono + TTL;
        let expires_at_ms = now.wall_ms + TTL.as_millis() as i64;
        if let Some(held) = &mut self.suspension {
            if held.request_id != request_id || held.drain != drain {
                return Err(conflict("another gateway suspension is already prepared", held, now));
            }
            (held.until, held.expires_at_ms) = (until, expires_at_ms);
            return Ok(Prepared::Held(held.clone()));
        }
        if self.stopping || (!drain && self.under_way().total() > 0) {
            return Ok(Prepared::Busy);
        }
        let (id, request_id) = (random::uuid(), request_id.to_owned());
        let held = Suspension { id, request_id, drain, until, expires_at_ms };
        log::info!("suspended, nothing new is begun expires_in_s={}", TTL.as_secs());
        self.suspension = Some(held.clone());
        self.refresh_health(now);
        Ok(Prepared::Held(held))
    }

    /// The suspension `id` stands for; `None` when none stands.
    ///
    /// # Errors
    /// Another one stands.
    pub(super) fn suspension_of(&self, now: Now, id: &str) -> Result<Option<&Suspension>, RpcError> {
        match &self.suspension {
            Some(held) if held.id != id => Err(conflict("a different gateway suspension is prepared", held, now)),
            held => Ok(held.as_ref()),
        }
    }

    /// Goes on. Whether there was anything to go on from.
    pub(super) fn resume(&mut self, now: Now, why: &str) -> bool {
        let was_held = self.suspension.take().is_some();
        self.runs.stir();
        if was_held {
            log::info!("going on after a suspension why={why}");
            self.refresh_health(now);
        }
        was_held
    }

    /// Ends a suspension whose time is over.
    pub(super) fn end_suspension(&mut self, now: Now) {
        if self.suspension.as_ref().is_some_and(|held| now.mono >= held.until) {
            self.resume(now, "its time is over");
        }
    }

    /// What is under way.
    pub(super) fn under_way(&self) -> Counts {
        self.active.counts(self.inbound.len() + self.runs.counts().0)
    }

    /// `draining` while something is under way, then `ready`; `None` when nothing is suspended.
    pub(super) fn suspension_phase(&self) -> Option<&'static str> {
        self.suspension.as_ref()?;
        Some(if self.under_way().total() > 0 { "draining" } else { "ready" })
    }

    /// Whether `what` may begin now.
    ///
    /// # Errors
    /// `UNAVAILABLE`, to be tried again.
    pub(super) fn may_begin(&self, what: &str) -> Result<(), RpcError> {
        let Some(phase) = self.suspension_phase() else { return Ok(()) };
        if STILL_ANSWERED.contains(&what) {
            return Ok(());
        }
        let message = format!("{what} unavailable during gateway suspension");
        Err(RpcError::busy(message, RETRY_MS).with_details(json!({
            "method": what,
            "reason": "gateway-suspending",
            "phase": phase,
        })))
    }
}

fn conflict(why: &str, held: &Suspension, now: Now) -> RpcError {
    let left_ms = u64::try_from(held.expires_at_ms - now.wall_ms).unwrap_or(0);
    RpcError::busy(why, left_ms)
        .with_details(json!({ "reason": "gateway-suspension-conflict", "expiresAtMs": held.expires_at_ms }))
}
