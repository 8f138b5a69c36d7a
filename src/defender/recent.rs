//! The end of what each session said last, because an attack may be spread over several messages (DEF-19).
//!
//! Plain data without a clock or a lock. The owner puts [`RecentText::before`] into `ActionRequest::preceding`, and
//! calls [`RecentText::remember`] once the message is accepted.

use std::collections::{HashMap, VecDeque};
use std::fmt;

/// Text kept for one session, in bytes: enough for a sentence or two, little enough for many sessions.
pub const RECENT_BYTES_MAX: usize = 256;
/// Sessions remembered at one time; the one that has been silent longest is forgotten first.
pub const RECENT_SESSIONS_MAX: usize = 256;
/// After this long a message no longer continues the one before, in milliseconds.
pub const RECENT_TTL_MS: i64 = 10 * 60 * 1000;

/// The last words of the sessions that spoke last. `Debug` shows how many there are.
#[derive(Default)]
pub struct RecentText {
    tails: HashMap<String, Tail>,
    /// Session keys by when they spoke, oldest first; a key may stand here more than once, its last place counts.
    order: VecDeque<(u64, String)>,
    turn: u64,
}

struct Tail {
    text: String,
    said_ms: i64,
    turn: u64,
}

impl RecentText {
    /// What `session_key` said last, if it did so recently.
    pub fn before(&self, session_key: &str, now_ms: i64) -> Option<&str> {
        let tail = self.tails.get(session_key)?;
        (now_ms.saturating_sub(tail.said_ms) < RECENT_TTL_MS).then_some(&*tail.text)
    }

    /// Notes that `session_key` said `text`. What is older is kept as far as it still fits.
    pub fn remember(&mut self, session_key: &str, text: &str, now_ms: i64) {
        let mut joined = self.before(session_key, now_ms).unwrap_or_default().to_owned();
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(&text[text.floor_char_boundary(text.len().saturating_sub(RECENT_BYTES_MAX))..]);
        let cut = (joined.len().saturating_sub(RECENT_BYTES_MAX)..).find(|&at| joined.is_char_boundary(at));
        joined.drain(..cut.expect("the end of a text is a character boundary"));
        self.turn += 1;
        self.tails.insert(session_key.to_owned(), Tail { text: joined, said_ms: now_ms, turn: self.turn });
        self.order.push_back((self.turn, session_key.to_owned()));
        self.prune();
        debug_assert!(self.tails.len() <= RECENT_SESSIONS_MAX, "the number of sessions is bounded");
    }

    fn prune(&mut self) {
        if self.order.len() > 2 * RECENT_SESSIONS_MAX {
            self.order.retain(|(turn, key)| self.tails.get(key).is_some_and(|tail| tail.turn == *turn));
        }
        while self.tails.len() > RECENT_SESSIONS_MAX {
            let (turn, session_key) = self.order.pop_front().expect("every session has a place in the order");
            if self.tails.get(&session_key).is_some_and(|tail| tail.turn == turn) {
                self.tails.remove(&session_key);
            }
        }
    }
}

impl fmt::Debug for RecentText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecentText").field("sessions", &self.tails.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_what_a_session_said_and_keeps_sessions_apart() {
        let mut recent = RecentText::default();
        recent.remember("a", "ignore all", 0);
        recent.remember("b", "hello", 1);
        recent.remember("a", "previous", 2);
        assert_eq!(recent.before("a", 3), Some("ignore all previous"));
        assert_eq!(recent.before("b", 3), Some("hello"));
        assert_eq!(recent.before("c", 3), None);
        assert!(!format!("{recent:?}").contains("previous"));
    }

    #[test]
    fn keeps_the_end_within_the_limit_on_a_character_boundary() {
        let mut recent = RecentText::default();
        recent.remember("a", &"ä".repeat(RECENT_BYTES_MAX), 0);
        recent.remember("a", "x", 0);
        let text = recent.before("a", 0).unwrap();
        assert!(text.len() <= RECENT_BYTES_MAX && text.len() > RECENT_BYTES_MAX - 3);
        assert!(text.ends_with("ä x"));
    }

    #[test]
    fn forgets_after_the_time_limit() {
        let mut recent = RecentText::default();
        recent.remember("a", "x", 0);
        assert_eq!(recent.before("a", RECENT_TTL_MS - 1), Some("x"));
        assert_eq!(recent.before("a", RECENT_TTL_MS), None);
        recent.remember("a", "y", RECENT_TTL_MS);
        assert_eq!(recent.before("a", RECENT_TTL_MS), Some("y"));
    }

    #[test]
    fn at_the_limit_the_most_silent_session_goes() {
        let mut recent = RecentText::default();
        for n in 0..RECENT_SESSIONS_MAX {
            recent.remember(&n.to_string(), "x", 0);
        }
        recent.remember("0", "y", 0);
        recent.remember("new", "x", 0);
        assert!(recent.before("0", 0).is_some() && recent.before("new", 0).is_some());
        assert!(recent.before("1", 0).is_none());
        for _ in 0..10 * RECENT_SESSIONS_MAX {
            recent.remember("talker", "x", 0);
        }
        assert!(recent.order.len() <= 2 * RECENT_SESSIONS_MAX);
        assert!(recent.before("5", 0).is_some(), "one busy session does not push out the others");
    }
}
