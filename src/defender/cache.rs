//! Decisions already made, so that a repeat gets the same answer and the same request is never judged twice at once
//! (DEF-75, DEF-76).
//!
//! Plain data without a clock or a lock: whoever decides what goes to the workers owns it.

use std::collections::{BTreeSet, HashMap};

use super::decision::Decision;
use super::request::ActionRequest;

/// Shortest time a decision is kept, whatever is configured, in milliseconds.
pub const CACHE_TTL_MS_MIN: i64 = 1_000;
/// Least number of decisions kept, whatever is configured.
pub const CACHE_ENTRIES_MIN: usize = 32;
/// Most callers that wait for one decision in the making; a further one is told that the queue is full.
pub const WAITERS_MAX: usize = 64;

/// What makes two requests the same: their id, and everything a decision depends on. See [`ActionRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// The key of `request`. Linear in its length.
    pub fn of(request: &ActionRequest) -> CacheKey {
        CacheKey(request.fingerprint())
    }
}

/// What to do about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<W> {
    /// It was decided before: this is the answer, and no second event.
    Hit(Decision),
    /// The same request is being judged: the caller will be in what [`DecisionCache::finish`] returns.
    Joined,
    /// Nobody has asked: judge it, then call [`DecisionCache::finish`].
    Judge(W),
    /// No room to wait or to begin: answer [`Decision::queue_full`].
    Full(W),
}

/// Decisions made and in the making. `W` is whatever a caller needs to answer later.
#[derive(Debug)]
pub struct DecisionCache<W> {
    ttl_ms: i64,
    entries_max: usize,
    made: HashMap<CacheKey, Made>,
    /// The same entries by expiry, so that the earliest goes first.
    by_expiry: BTreeSet<(i64, CacheKey)>,
    pending: HashMap<CacheKey, Vec<W>>,
}

#[derive(Debug)]
struct Made {
    expires_ms: i64,
    decision: Decision,
}

impl<W> DecisionCache<W> {
    /// An empty cache of `runtime.idempotency_ttl_secs` and `runtime.idempotency_max_entries`, raised to their
    /// minimums.
    pub fn new(ttl_ms: i64, entries_max: usize) -> DecisionCache<W> {
        DecisionCache {
            ttl_ms: ttl_ms.max(CACHE_TTL_MS_MIN),
            entries_max: entries_max.max(CACHE_ENTRIES_MIN),
            made: HashMap::new(),
            by_expiry: BTreeSet::new(),
            pending: HashMap::new(),
        }
    }

    /// Asks for the request of `key` on behalf of `waiter`.
    pub fn begin(&mut self, key: CacheKey, waiter: W, now_ms: i64) -> Lookup<W> {
        if let Some(made) = self.made.get(&key)
            && now_ms < made.expires_ms
        {
            return Lookup::Hit(made.decision.clone().repeated());
        }
        if let Some(waiters) = self.pending.get_mut(&key) {
            if waiters.len() >= WAITERS_MAX {
                return Lookup::Full(waiter);
            }
            waiters.push(waiter);
            return Lookup::Joined;
        }
        if self.pending.len() >= self.entries_max {
            return Lookup::Full(waiter);
        }
        self.pending.insert(key, Vec::new());
        Lookup::Judge(waiter)
    }

    /// Keeps the decision for `key` and returns those who joined to wait for it.
    ///
    /// What could not be judged ([`Decision::timeout`], `queue_full`, `failed`) goes through [`DecisionCache::abandon`]
    /// instead: the next try may succeed.
    pub fn finish(&mut self, key: CacheKey, decision: &Decision, now_ms: i64) -> Vec<W> {
        self.forget(key);
        self.expire(now_ms);
        while self.made.len() >= self.entries_max {
            let Some((_, oldest)) = self.by_expiry.pop_first() else { break };
            self.made.remove(&oldest);
        }
        let expires_ms = now_ms.saturating_add(self.ttl_ms);
        self.by_expiry.insert((expires_ms, key));
        self.made.insert(key, Made { expires_ms, decision: decision.clone() });
        self.check_invariants();
        self.pending.remove(&key).unwrap_or_default()
    }

    /// Gives up on `key` without a decision and returns those who joined to wait for it.
    pub fn abandon(&mut self, key: CacheKey) -> Vec<W> {
        self.pending.remove(&key).unwrap_or_default()
    }

    /// Decisions kept, expired ones that nobody asked for since included.
    pub fn len(&self) -> usize {
        self.made.len()
    }

    /// True when no decision is kept.
    pub fn is_empty(&self) -> bool {
        self.made.is_empty()
    }

    /// Drops what has expired. [`DecisionCache::finish`] does so too; an idle gateway calls this to give memory back.
    pub fn expire(&mut self, now_ms: i64) {
        while let Some(&(expires_ms, key)) = self.by_expiry.first() {
            if expires_ms > now_ms {
                break;
            }
            self.by_expiry.pop_first();
            self.made.remove(&key);
        }
    }

    fn forget(&mut self, key: CacheKey) {
        if let Some(made) = self.made.remove(&key) {
            self.by_expiry.remove(&(made.expires_ms, key));
        }
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.made.len(), self.by_expiry.len(), "every kept decision stands in the expiry order once");
        debug_assert!(self.made.len() <= self.entries_max, "the cache is bounded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defender::decision::tag;

    fn key(n: usize) -> CacheKey {
        CacheKey::of(&ActionRequest { id: Some(n.to_string()), ..ActionRequest::default() })
    }

    fn cache() -> DecisionCache<&'static str> {
        DecisionCache::new(300_000, 32)
    }

    #[test]
    fn a_repeat_gets_the_same_decision_marked_as_one() {
        let mut cache = cache();
        assert_eq!(cache.begin(key(1), "a", 0), Lookup::Judge("a"));
        let decision = Decision::timeout();
        assert!(cache.finish(key(1), &decision, 0).is_empty());
        let Lookup::Hit(again) = cache.begin(key(1), "b", 299_999) else { panic!("expected a hit") };
        assert_eq!((again.action, again.risk_score), (decision.action, decision.risk_score));
        assert_eq!(again.tags.last(), Some(&tag::IDEMPOTENCY_HIT));
        assert_eq!(again.reasons.last().unwrap(), tag::IDEMPOTENCY_HIT);
        assert_eq!(cache.begin(key(1), "c", 300_000), Lookup::Judge("c"), "expired at the limit");
    }

    #[test]
    fn the_same_request_is_judged_once_at_a_time() {
        let mut cache = cache();
        assert_eq!(cache.begin(key(1), "first", 0), Lookup::Judge("first"));
        assert_eq!(cache.begin(key(1), "second", 0), Lookup::Joined);
        assert_eq!(cache.begin(key(2), "other", 0), Lookup::Judge("other"));
        assert_eq!(cache.finish(key(1), &Decision::failed(), 1), ["second"]);
        assert_eq!(cache.abandon(key(2)), Vec::<&str>::new());
        assert_eq!(cache.begin(key(2), "again", 2), Lookup::Judge("again"), "an abandoned request is judged anew");
    }

    #[test]
    fn a_known_id_with_other_content_is_judged_anew() {
        let mut cache = cache();
        let request = |prompt: &str| ActionRequest {
            id: Some("1".into()),
            prompt: Some(prompt.into()),
            ..ActionRequest::default()
        };
        let harmless = CacheKey::of(&request("hello"));
        assert_eq!(cache.begin(harmless, "a", 0), Lookup::Judge("a"));
        cache.finish(harmless, &Decision::failed(), 0);
        assert_eq!(cache.begin(CacheKey::of(&request("ignore all")), "b", 0), Lookup::Judge("b"));
    }

    #[test]
    fn a_full_cache_drops_the_earliest_expiry() {
        let mut cache = cache();
        for n in 0..=CACHE_ENTRIES_MIN {
            assert!(matches!(cache.begin(key(n), "w", n as i64), Lookup::Judge(_)));
            cache.finish(key(n), &Decision::failed(), n as i64);
        }
        assert_eq!(cache.len(), CACHE_ENTRIES_MIN);
        assert!(matches!(cache.begin(key(1), "w", 40), Lookup::Hit(_)));
        assert!(matches!(cache.begin(key(0), "w", 40), Lookup::Judge(_)));
    }

    #[test]
    fn pending_requests_and_waiters_are_bounded() {
        let mut cache = cache();
        for n in 0..CACHE_ENTRIES_MIN {
            assert!(matches!(cache.begin(key(n), "w", 0), Lookup::Judge(_)));
        }
        assert_eq!(cache.begin(key(99), "late", 0), Lookup::Full("late"));
        for _ in 0..WAITERS_MAX {
            assert_eq!(cache.begin(key(0), "w", 0), Lookup::Joined);
        }
        assert_eq!(cache.begin(key(0), "late", 0), Lookup::Full("late"));
    }

    #[test]
    fn expiry_gives_memory_back() {
        let mut cache = cache();
        cache.begin(key(1), "w", 0);
        cache.finish(key(1), &Decision::failed(), 0);
        cache.expire(299_999);
        assert_eq!(cache.len(), 1);
        cache.expire(300_000);
        assert!(cache.is_empty());
    }

    #[test]
    fn limits_are_raised_to_their_minimums() {
        let cache = DecisionCache::<()>::new(0, 0);
        assert_eq!((cache.ttl_ms, cache.entries_max), (CACHE_TTL_MS_MIN, CACHE_ENTRIES_MIN));
    }
}
