//! How long a run may go on. Liveness is what a run shows, not a flag that somebody must clear: one that shows no sign of
//! life for its lease, or takes longer than a run may, is named to its owner, which stops it; one that is stopped and
//! does not end is named again, and its owner ends it in its place.

use std::time::Duration;

use super::{END_TIME_MAX, Limits, RunLane};

/// A run that goes on.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) run_id: String,
    pub(super) lane: RunLane,
    /// Ids of the messages it answers: its own, of those it was joined with, of those it took while it went on.
    pub(super) answers: Vec<String>,
    /// When its last sign of life came.
    pub(super) seen_ms: i64,
    began_ms: i64,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    Well,
    /// Its owner stops it, or was told to: it is overdue, or a newer message takes its place.
    Stopping {
        since_ms: i64,
    },
    /// Its owner was told to give it up.
    GivenUp,
}

impl Active {
    pub(super) fn new(run_id: String, lane: RunLane, answers: Vec<String>, now_ms: i64) -> Active {
        Active { run_id, lane, answers, seen_ms: now_ms, began_ms: now_ms, standing: Standing::Well }
    }

    /// It is being stopped. Whether that is new.
    pub(super) fn stop(&mut self, now_ms: i64) -> bool {
        let is_new = self.is_well();
        if is_new {
            self.standing = Standing::Stopping { since_ms: now_ms };
        }
        is_new
    }

    /// It has waited for a person so long, which is no time of its own.
    pub(super) fn waited(&mut self, time: Duration) {
        self.began_ms = self.began_ms.saturating_add(ms(time));
    }

    /// Whether nobody stops it, so that a message can still reach it.
    pub(super) fn is_well(&self) -> bool {
        matches!(self.standing, Standing::Well)
    }

    /// When it becomes overdue, or is to be given up.
    pub(super) fn deadline_ms(&self, limits: &Limits) -> Option<i64> {
        match self.standing {
            Standing::Well => {
                let silent_ms = self.seen_ms.saturating_add(ms(limits.lease));
                Some(silent_ms.min(self.began_ms.saturating_add(ms(limits.run_time_max))))
            }
            Standing::Stopping { since_ms } => Some(since_ms.saturating_add(ms(END_TIME_MAX))),
            Standing::GivenUp => None,
        }
    }

    pub(super) fn is_newly_overdue(&mut self, limits: &Limits, now_ms: i64) -> bool {
        self.is_well() && self.deadline_ms(limits).is_some_and(|at_ms| at_ms <= now_ms) && self.stop(now_ms)
    }

    pub(super) fn is_newly_given_up(&mut self, now_ms: i64) -> bool {
        let Standing::Stopping { since_ms } = self.standing else { return false };
        let is_over = since_ms.saturating_add(ms(END_TIME_MAX)) <= now_ms;
        if is_over {
            self.standing = Standing::GivenUp;
        }
        is_over
    }

    /// Its times count from now, as they would lie in the future.
    pub(super) fn clock_ran_back(&mut self, now_ms: i64) {
        self.seen_ms = self.seen_ms.min(now_ms);
        self.began_ms = self.began_ms.min(now_ms);
        if let Standing::Stopping { since_ms } = &mut self.standing {
            *since_ms = (*since_ms).min(now_ms);
        }
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
