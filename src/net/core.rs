//! What the shell needs of the core, so that it can be driven by a small one in tests.

use std::time::Instant;

use crate::gateway::{Effect, Event, Gateway, Upgrade};
use crate::runtime::clock::Now;

/// Decides everything; does no IO. See [`Gateway`], which is the one that serves.
pub trait Core {
    /// Takes one event and queues its effects.
    fn handle(&mut self, now: Now, event: Event<'_>);
    /// The next effect to carry out, oldest first.
    fn next_effect(&mut self) -> Option<Effect>;
    /// When to send [`Event::Timer`] next.
    fn deadline(&self) -> Option<Instant>;
    /// Whether a request may become a WebSocket; otherwise the status and text to refuse it with.
    ///
    /// # Errors
    /// Status and text of the refusal.
    fn may_upgrade(&self, _upgrade: &Upgrade) -> Result<(), (u16, &'static str)> {
        Ok(())
    }
}

impl Core for Gateway {
    fn handle(&mut self, now: Now, event: Event<'_>) {
        Gateway::handle(self, now, event);
    }

    fn next_effect(&mut self) -> Option<Effect> {
        Gateway::next_effect(self)
    }

    fn deadline(&self) -> Option<Instant> {
        Gateway::deadline(self)
    }

    fn may_upgrade(&self, upgrade: &Upgrade) -> Result<(), (u16, &'static str)> {
        Gateway::may_upgrade(self, upgrade)
    }
}
