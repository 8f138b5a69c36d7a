//! When to look at which connection again: one entry for each at most.
//!
//! Deadlines mostly move later (each ping, each request), so a later one leaves the entry where it is: when it comes up
//! the connection is looked at, found not due, and entered anew. Only an earlier deadline costs a change.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::protocol::ConnId;

/// A connection's place in the table; `None` when it has none.
#[derive(Debug, Default)]
pub struct Armed(Option<Instant>);

/// The table.
#[derive(Debug, Default)]
pub struct Deadlines {
    entries: BTreeSet<(Instant, ConnId)>,
}

impl Deadlines {
    /// Sees to it that `id` comes up at `at` or earlier.
    pub fn arm(&mut self, id: ConnId, armed: &mut Armed, at: Option<Instant>) {
        let Some(at) = at else { return };
        if armed.0.is_some_and(|current| current <= at) {
            return;
        }
        self.disarm(id, armed);
        self.entries.insert((at, id));
        armed.0 = Some(at);
    }

    /// Takes the entry of `id` out.
    pub fn disarm(&mut self, id: ConnId, armed: &mut Armed) {
        if let Some(at) = armed.0.take() {
            self.entries.remove(&(at, id));
        }
    }

    /// When the first entry comes up.
    pub fn first(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }

    /// Takes out the first entry that has come up by `now`. Its connection's [`Armed`] must be cleared by
    /// [`Armed::came_up`].
    pub fn pop_due(&mut self, now: Instant) -> Option<ConnId> {
        if self.first()? > now {
            return None;
        }
        self.entries.pop_first().map(|(_, id)| id)
    }
}

impl Armed {
    /// The entry has been taken out by [`Deadlines::pop_due`].
    pub fn came_up(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn holds_the_earliest_deadline_of_each_once() {
        let start = Instant::now();
        let at = |s| Some(start + Duration::from_secs(s));
        let mut deadlines = Deadlines::default();
        let (mut a, mut b) = (Armed::default(), Armed::default());
        deadlines.arm(ConnId(1), &mut a, at(10));
        deadlines.arm(ConnId(1), &mut a, at(20));
        deadlines.arm(ConnId(1), &mut a, at(5));
        deadlines.arm(ConnId(2), &mut b, at(7));
        deadlines.arm(ConnId(2), &mut b, None);
        assert_eq!(deadlines.entries.len(), 2);
        assert_eq!(deadlines.first(), at(5));
        assert_eq!(deadlines.pop_due(start + Duration::from_secs(4)), None);
        assert_eq!(deadlines.pop_due(start + Duration::from_secs(6)), Some(ConnId(1)));
        a.came_up();
        deadlines.arm(ConnId(1), &mut a, at(30));
        deadlines.disarm(ConnId(2), &mut b);
        assert_eq!(deadlines.pop_due(start + Duration::from_secs(60)), Some(ConnId(1)));
        assert_eq!(deadlines.first(), None);
    }
}
