//! When the process gives memory back: once it has become quiet, and not again before something happened.

use std::time::{Duration, Instant};

/// Without anything to do for this long the process is quiet.
pub(super) const QUIET_AFTER: Duration = Duration::from_secs(1);
/// Between two times memory is given back: what is given back costs some tenths of a millisecond to take again, and a client
/// that asks for something every other second should not pay that each time.
pub(super) const RELEASE_INTERVAL: Duration = Duration::from_secs(5);

/// When to give memory back next.
#[derive(Debug)]
pub(super) struct Quiet {
    at: Option<Instant>,
    not_before: Instant,
}

impl Quiet {
    /// For a process that has just been started, which is something that happened.
    pub(super) fn new(now: Instant) -> Quiet {
        Quiet { at: Some(now + QUIET_AFTER), not_before: now }
    }

    /// Something happened.
    pub(super) fn stir(&mut self, now: Instant) {
        self.at = Some((now + QUIET_AFTER).max(self.not_before));
    }

    /// When it will be time if nothing happens; `None`: not before something does.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// Whether it is time; asked once.
    pub(super) fn has_come(&mut self, now: Instant) -> bool {
        let has_come = self.at.is_some_and(|at| at <= now);
        if has_come {
            self.at = None;
            self.not_before = now + RELEASE_INTERVAL;
        }
        has_come
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_once_after_the_last_that_happened_and_not_too_often() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut quiet = Quiet::new(start);
        quiet.stir(at(900));
        assert!(!quiet.has_come(at(1_899)));
        assert_eq!(quiet.deadline(), Some(at(1_900)));
        assert!(quiet.has_come(at(1_900)));
        assert!(!quiet.has_come(at(60_000)));
        assert_eq!(quiet.deadline(), None, "nothing happened since");
        quiet.stir(at(2_000));
        assert!(!quiet.has_come(at(6_899)), "the last time was less than an interval ago");
        assert!(quiet.has_come(at(6_900)));
    }
}
