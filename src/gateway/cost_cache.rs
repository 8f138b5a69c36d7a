//! Answers of `usage.cost` and `usage.status`, kept for a short while: clients that show them ask again and again, each time
//! for a sum over weeks (SES-67), or for what only a provider knows (MODEL-61).

use std::collections::VecDeque;

use super::Gateway;
use crate::protocol::frame::Json;

/// How long an answer is given again, in milliseconds.
pub const TTL_MS: i64 = 30_000;
/// Answers kept; the oldest goes. With a year of days one has about 90 KB.
pub const ANSWERS_MAX: usize = 16;
/// Longest question an answer is kept for, in bytes; a longer one is answered anew each time.
pub const QUESTION_BYTES_MAX: usize = 512;

/// An answer, and what it answers.
#[derive(Debug)]
pub struct Kept {
    /// What was asked, in a form in which the same question is the same text.
    pub question: String,
    /// When it was answered.
    pub at_ms: i64,
    /// The answer.
    pub answer: Json,
}

/// The answers.
#[derive(Debug, Default)]
pub(super) struct CostCache(VecDeque<Kept>);

impl CostCache {
    /// The answer to a question, while it is fresh.
    pub(super) fn get(&self, question: &str, now_ms: i64) -> Option<&Json> {
        let is_fresh = |kept: &Kept| (kept.at_ms..kept.at_ms + TTL_MS).contains(&now_ms);
        self.0.iter().find(|kept| kept.question == question && is_fresh(kept)).map(|kept| &kept.answer)
    }

    fn put(&mut self, kept: Kept) {
        if kept.question.len() > QUESTION_BYTES_MAX {
            return;
        }
        self.0.retain(|old| old.question != kept.question && old.at_ms + TTL_MS > kept.at_ms);
        if self.0.len() >= ANSWERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(kept);
    }
}

impl Gateway {
    pub(super) fn keep_costs(&mut self, kept: Kept) {
        self.cost_cache.put(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(question: &str, at_ms: i64) -> Kept {
        Kept { question: question.to_owned(), at_ms, answer: Json(at_ms.to_string().into_bytes()) }
    }

    #[test]
    fn an_answer_is_given_again_until_it_is_old() {
        let mut cache = CostCache::default();
        cache.put(kept("a", 100));
        assert_eq!(cache.get("a", 100 + TTL_MS - 1), Some(&Json(b"100".to_vec())));
        assert_eq!(cache.get("a", 100 + TTL_MS), None);
        assert_eq!(cache.get("a", 99), None, "the clock was put back");
        assert_eq!(cache.get("b", 100), None);
        cache.put(kept("a", 200));
        assert_eq!((cache.get("a", 201).unwrap().as_str(), cache.0.len()), ("200", 1));
    }

    #[test]
    fn the_oldest_answer_makes_room_and_a_long_question_is_not_kept() {
        let mut cache = CostCache::default();
        for n in 0..=ANSWERS_MAX {
            cache.put(kept(&n.to_string(), n as i64));
        }
        assert_eq!(cache.0.len(), ANSWERS_MAX);
        assert_eq!(cache.get("0", 20), None);
        assert!(cache.get("1", 20).is_some());
        let (longest, longer) = ("x".repeat(QUESTION_BYTES_MAX), "x".repeat(QUESTION_BYTES_MAX + 1));
        cache.put(kept(&longest, 20));
        cache.put(kept(&longer, 20));
        assert!(cache.get(&longest, 20).is_some() && cache.get(&longer, 20).is_none());
    }
}
