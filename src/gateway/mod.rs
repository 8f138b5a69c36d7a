//! The core: one owner of all live state, deciding everything and doing no IO.
//!
//! The shell (`net`) feeds it [`Event`]s and carries out the [`Effect`]s it queues, so the same core runs under a seeded
//! simulation. **Invariant:** no socket, no file, no SQL, no clock in here; slow work leaves as a [`Job`] with owned
//! input and comes back as a [`Report`].

pub mod effect;
pub mod event;
pub mod http;

pub use effect::{Done, Effect, Job, Lane, Origin, Report, Work};
pub use event::{Event, Gone, Signal, Upgrade};

use std::collections::VecDeque;
use std::time::Instant;

use crate::runtime::clock::Now;

/// Something that changed on disk, reported by a job for the loop to apply and tell others.
#[derive(Debug)]
pub enum Fact {}

/// All live state, and the only place it changes.
pub struct Gateway {
    effects: VecDeque<Effect>,
}

impl Gateway {
    /// Takes one event and queues its effects.
    pub fn handle(&mut self, _now: Now, _event: Event<'_>) {}

    /// The next effect to carry out, oldest first.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to send [`Event::Timer`] next.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }
}
