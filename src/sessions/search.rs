//! Finding what was said: messages that have all of some words.
//!
//! There is no index: transcripts are read, those of the sessions that changed last first, newest messages first, up to a
//! bound. What is beyond it is not found, and the answer says that there may be more. So nothing is written twice for the
//! sake of a search, and a search takes a known time at most.

use serde_json::Value;

use super::transcript;
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::sessions::SessionRow;
use crate::store::transcript::{MessageRow, PageAt, PageLimits};

/// Hits given out at most.
pub const HITS_MAX: usize = 25;
/// Bytes of messages that one search reads: about a tenth of a second.
pub const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Messages that one search reads.
pub const MESSAGES_MAX: usize = 50_000;
/// A larger message is not looked into, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Words of a query that are looked for; the others make no difference.
pub const WORDS_MAX: usize = 16;
/// Longest excerpt, in characters.
pub const EXCERPT_CHARS_MAX: usize = 500;
/// Messages read at once.
const PAGE_ROWS: usize = 200;
/// Bytes of messages read at once.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Characters of an excerpt before the first word that was found.
const EXCERPT_LEAD_CHARS: usize = 120;

/// A message that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The session's key.
    pub session_key: String,
    /// The transcript's id.
    pub session_id: String,
    /// The message's id.
    pub message_id: String,
    /// `user` or `assistant`.
    pub role: String,
    /// When it was said.
    pub at_ms: i64,
    /// The words, and what stands around them.
    pub excerpt: String,
    /// The higher the better.
    pub score: f64,
}

/// A search under way.
#[derive(Debug)]
pub struct Search {
    words: Vec<String>,
    n_hits_max: usize,
    /// Best first.
    hits: Vec<Hit>,
    n_bytes_left: usize,
    n_messages_left: usize,
    is_truncated: bool,
}

impl Search {
    /// A search for all words of `query`, in any case.
    pub fn new(query: &str, n_hits_max: usize) -> Search {
        let mut words: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
        words.truncate(WORDS_MAX);
        Search {
            words,
            n_hits_max: n_hits_max.clamp(1, HITS_MAX),
            hits: Vec::new(),
            n_bytes_left: BYTES_MAX,
            n_messages_left: MESSAGES_MAX,
            is_truncated: false,
        }
    }

    /// Looks through a session; `false`: the bound is reached, and no further one is looked through.
    ///
    /// # Errors
    /// The store's.
    pub fn look(&mut self, db: &Queries, session: &SessionRow) -> Result<bool, StoreError> {
        let mut at = PageAt::Newest;
        loop {
            if self.n_bytes_left == 0 || self.n_messages_left == 0 {
                self.is_truncated = true;
                return Ok(false);
            }
            let limits = PageLimits {
                rows_max: PAGE_ROWS.min(self.n_messages_left),
                page_bytes_max: PAGE_BYTES_MAX.min(self.n_bytes_left),
                message_bytes_max: MESSAGE_BYTES_MAX,
            };
            let page = db.transcript_page(&session.session_id, at, limits)?;
            for row in page.messages.iter().rev() {
                self.n_messages_left = self.n_messages_left.saturating_sub(1);
                self.n_bytes_left = self.n_bytes_left.saturating_sub(row.message.as_ref().map_or(0, String::len));
                if let Some(hit) = self.hit(session, row) {
                    self.keep(hit);
                }
            }
            match page.messages.first() {
                Some(first) if page.has_older => at = PageAt::Before(first.seq),
                _ => return Ok(true),
            }
        }
    }

    /// What was found, best first, and whether there may be more.
    pub fn finish(self) -> (Vec<Hit>, bool) {
        (self.hits, self.is_truncated)
    }

    fn hit(&self, session: &SessionRow, row: &MessageRow) -> Option<Hit> {
        if !matches!(row.role.as_str(), "user" | "assistant") {
            return None;
        }
        let message: Value = serde_json::from_str(row.message.as_deref()?).ok()?;
        let text = transcript::text_of(&message);
        let lower = text.to_lowercase();
        let mut score = 0.0;
        for word in &self.words {
            let n_found = lower.matches(word.as_str()).count();
            if n_found == 0 {
                return None;
            }
            // The first time counts most, and a word in a short message more than in a long one.
            let length = lower.len() as f64 / 400.0;
            score += n_found as f64 / (n_found as f64 + 0.3 + 0.7 * length);
        }
        Some(Hit {
            session_key: session.key.clone(),
            session_id: session.session_id.clone(),
            message_id: row.message_id.clone(),
            role: row.role.clone(),
            at_ms: row.at_ms,
            excerpt: excerpt(&text, &lower, self.words.first().map_or("", String::as_str)),
            score,
        })
    }

    /// Keeps a hit among the best; of equal ones the newer.
    fn keep(&mut self, hit: Hit) {
        let order = |a: &Hit, b: &Hit| {
            b.score.total_cmp(&a.score).then(b.at_ms.cmp(&a.at_ms)).then_with(|| a.message_id.cmp(&b.message_id))
        };
        let at = self.hits.partition_point(|kept| order(kept, &hit).is_lt());
        self.hits.insert(at, hit);
        if self.hits.len() > self.n_hits_max {
            self.hits.pop();
            self.is_truncated = true;
        }
    }
}

/// The text around the first place of `word`, on one line.
fn excerpt(text: &str, lower: &str, word: &str) -> String {
    // The same place in both, counted in characters: bytes may differ where small letters are longer than great ones.
    let found = lower.find(word).map_or(0, |at| lower[..at].chars().count());
    let n_chars = text.chars().count();
    let begin = if n_chars <= EXCERPT_CHARS_MAX { 0 } else { found.saturating_sub(EXCERPT_LEAD_CHARS) };
    let shown: String = text.chars().skip(begin).take(EXCERPT_CHARS_MAX).collect();
    let line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    let before = if begin > 0 { "… " } else { "" };
    let after = if begin + EXCERPT_CHARS_MAX < n_chars { " …" } else { "" };
    format!("{before}{line}{after}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::session_key::SessionKey;
    use crate::sessions::transcript::New;
    use crate::store::dir::StateDir;
    use crate::store::open::{Database, OnDamage};

    fn scratch() -> (tempfile::TempDir, Database) {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(temp.path()).unwrap();
        let database = Database::open(&dir, 0, OnDamage::Fail).unwrap().database;
        (temp, database)
    }

    fn say(database: &mut Database, role: &'static str, text: &str, at_ms: i64) {
        let key = SessionKey::stored("agent:main:main".to_owned());
        let content = json!([{ "type": "text", "text": text }]);
        let new = New { role, content, metadata: json!({}), idempotency_key: None, extra: &[], route: None };
        database.write(|db| transcript::add(db, &key, &new, at_ms)).unwrap();
    }

    fn found(database: &Database, mut search: Search) -> (Vec<String>, bool) {
        let session = database.session("agent:main:main").unwrap().unwrap();
        search.look(database, &session).unwrap();
        let (hits, is_truncated) = search.finish();
        (hits.into_iter().map(|hit| hit.excerpt).collect(), is_truncated)
    }

    #[test]
    fn all_words_must_be_there_in_any_case_and_order() {
        let (_dir, mut database) = scratch();
        say(&mut database, "user", "Where is the ÄPFEL needle?", 1);
        say(&mut database, "assistant", "needle needle: in the hay with äpfel", 2);
        say(&mut database, "user", "only a needle", 3);
        say(&mut database, "toolResult", "needle äpfel", 4);
        let (texts, is_truncated) = found(&database, Search::new(" äpfel  NEEDLE ", 10));
        assert_eq!(texts, ["needle needle: in the hay with äpfel", "Where is the ÄPFEL needle?"]);
        assert!(!is_truncated);
        assert_eq!(found(&database, Search::new("haystack", 10)).0, Vec::<String>::new());
    }

    #[test]
    fn only_the_best_are_kept_and_of_equal_ones_the_newest() {
        let (_dir, mut database) = scratch();
        for n in 0..5 {
            say(&mut database, "user", &format!("needle {n}"), n);
        }
        let (texts, is_truncated) = found(&database, Search::new("needle", 2));
        assert_eq!((texts, is_truncated), (vec!["needle 4".to_owned(), "needle 3".to_owned()], true));
        assert!(!found(&database, Search::new("needle", 5)).1, "at the limit nothing is left out");
    }

    #[test]
    fn a_search_ends_at_its_bounds_and_says_so() {
        let (_dir, mut database) = scratch();
        for n in 0..3 {
            say(&mut database, "user", &format!("needle {n}"), n);
        }
        let bounded = Search { n_messages_left: 2, ..Search::new("needle", 10) };
        let (texts, is_truncated) = found(&database, bounded);
        assert_eq!((texts.len(), is_truncated), (2, true), "the oldest was not reached");
        let bounded = Search { n_bytes_left: 1, ..Search::new("needle", 10) };
        assert_eq!(found(&database, bounded).0, ["needle 2"]);
        let whole = Search { n_messages_left: 3, ..Search::new("needle", 10) };
        assert_eq!(found(&database, whole).0.len(), 3);
    }

    #[test]
    fn an_excerpt_is_about_the_first_word() {
        let (_dir, mut database) = scratch();
        let long = format!("{} İ the needle {}", "before ".repeat(100), "after ".repeat(200));
        say(&mut database, "user", &long, 1);
        let (texts, _) = found(&database, Search::new("needle", 1));
        assert!(texts[0].starts_with("… ") && texts[0].ends_with(" …") && texts[0].contains("the needle"), "{texts:?}");
        assert!(texts[0].chars().count() <= EXCERPT_CHARS_MAX + 4);
    }
}
