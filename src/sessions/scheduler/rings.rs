//! Who is next among the sessions: a ring for each lane, and those that are held back for a while.
//!
//! A session stands in line once, however much waits for it; after its turn it goes to the end. So nobody has a second
//! turn before everybody who stood in the same line has had one.

use std::collections::{BTreeSet, VecDeque};

use super::session::Place;
use super::{Limits, RunLane};
use crate::protocol::session_key::SessionKey;

/// Turns of the foreground lanes after which one of the background goes first, if it waits.
pub(super) const FOREGROUND_TURNS_MAX: usize = 8;
/// Lanes from this one on are background.
const FIRST_BACKGROUND: usize = RunLane::Subagent as usize;
const _: () = assert!(RunLane::ALL.len() - FIRST_BACKGROUND == 2);

#[derive(Debug, Default)]
pub(super) struct Rings {
    /// By lane, next one first.
    ready: [VecDeque<SessionKey>; 4],
    /// Sessions that wait for silence, and until when.
    held: BTreeSet<(i64, SessionKey)>,
    /// Places taken, by lane.
    busy: [usize; 4],
    /// Turns of the foreground since the background had one.
    foreground_turns: usize,
    /// Which lane of the background is asked first.
    background_first: usize,
}

impl Rings {
    /// Whether a place is free and nobody stands in line for it.
    pub(super) fn has_room(&self, lane: RunLane, limits: &Limits) -> bool {
        let idx = lane.idx();
        self.n_busy() < limits.workers && self.busy[idx] < limits.lanes[idx] && self.ready[idx].is_empty()
    }

    pub(super) fn n_busy(&self) -> usize {
        self.busy.iter().sum()
    }

    pub(super) fn take(&mut self, lane: RunLane) {
        self.busy[lane.idx()] += 1;
        if lane.idx() < FIRST_BACKGROUND {
            self.foreground_turns = self.foreground_turns.saturating_add(1);
        } else {
            self.foreground_turns = 0;
            self.background_first = usize::from(lane.idx() == FIRST_BACKGROUND);
        }
    }

    pub(super) fn give_back(&mut self, lane: RunLane) {
        self.busy[lane.idx()] -= 1;
    }

    /// Takes the next session out of its line.
    pub(super) fn choose(&mut self, limits: &Limits) -> Option<(RunLane, SessionKey)> {
        if self.n_busy() >= limits.workers {
            return None;
        }
        let background = [FIRST_BACKGROUND + self.background_first, FIRST_BACKGROUND + 1 - self.background_first];
        let foreground = 0..FIRST_BACKGROUND;
        let is_open = |idx: &usize| !self.ready[*idx].is_empty() && self.busy[*idx] < limits.lanes[*idx];
        let idx = if self.foreground_turns >= FOREGROUND_TURNS_MAX {
            background.into_iter().chain(foreground).find(is_open)
        } else {
            foreground.chain(background).find(is_open)
        }?;
        let key = self.ready[idx].pop_front()?;
        Some((RunLane::ALL[idx], key))
    }

    /// Moves a session from one place to another.
    pub(super) fn move_to(&mut self, key: &SessionKey, from: &Place, to: &Place) {
        match from {
            Place::Ready(lane) => {
                let ring = &mut self.ready[lane.idx()];
                if let Some(idx) = ring.iter().position(|other| other == key) {
                    ring.remove(idx);
                }
            }
            Place::Held { until_ms } => _ = self.held.remove(&(*until_ms, key.clone())),
            Place::Nowhere => {}
        }
        match to {
            Place::Ready(lane) => self.ready[lane.idx()].push_back(key.clone()),
            Place::Held { until_ms } => _ = self.held.insert((*until_ms, key.clone())),
            Place::Nowhere => {}
        }
    }

    /// Takes out a session whose time has come.
    pub(super) fn release_held(&mut self, now_ms: i64) -> Option<SessionKey> {
        let is_due = self.held.first().is_some_and(|(until_ms, _)| *until_ms <= now_ms);
        if is_due { self.held.pop_first().map(|(_, key)| key) } else { None }
    }

    /// When the first of those that are held is let go.
    pub(super) fn held_until_ms(&self) -> Option<i64> {
        self.held.first().map(|(until_ms, _)| *until_ms)
    }

    #[cfg(test)]
    pub(super) fn in_line(&self, lane: RunLane) -> &VecDeque<SessionKey> {
        &self.ready[lane.idx()]
    }

    /// That a session is where it believes to be.
    pub(super) fn check_place(&self, key: &SessionKey, place: &Place) {
        match place {
            Place::Ready(lane) => assert!(self.ready[lane.idx()].contains(key), "{key} is in line"),
            Place::Held { until_ms } => assert!(self.held.contains(&(*until_ms, key.clone())), "{key} is held"),
            Place::Nowhere => {}
        }
    }

    /// `busy` and `n_in_line` are counted over the sessions.
    pub(super) fn check_invariants(&self, busy: [usize; 4], n_in_line: usize) {
        assert_eq!(self.busy, busy, "each place that is taken is a session's");
        let n_ready: usize = self.ready.iter().map(VecDeque::len).sum();
        assert_eq!(n_ready + self.held.len(), n_in_line, "a session stands in one line, once");
    }
}
