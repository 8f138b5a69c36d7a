//! What the defender has decided for each session so far (STORE-10): counters and the last decision.
//!
//! A row of its own beside the session, because decisions also concern sessions that were never stored (a blocked
//! first message), and because counting must not disturb the order of the session list.

use rusqlite::{Row, named_params};

use super::StoreError;
use super::db::{Columns, Db, Queries, to_json};
use super::decisions::{Action, NewDecision};

/// Sessions whose decisions are counted. Senders choose keys, so the least recently seen rows make room.
pub const SESSION_STATE_ROWS_MAX: usize = 20_000;
/// Rows given out by one list.
pub const SESSION_STATE_LIST_ROWS_MAX: usize = 500;

const COLUMNS: &str = "session_key, total, allowed, review, blocked, last_action, last_risk, last_channel, last_tool, \
                       last_seen_ms, last_tags";

/// The decisions of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// The session key.
    pub session_key: String,
    /// Decisions of any kind.
    pub total: u64,
    /// Of these, allowed,
    pub allowed: u64,
    /// sent to review,
    pub review: u64,
    /// and blocked.
    pub blocked: u64,
    /// The last decision,
    pub last_action: Action,
    /// its score (0 to 100),
    pub last_risk: u8,
    /// the channel it came through,
    pub last_channel: Option<String>,
    /// the tool it was about,
    pub last_tool: Option<String>,
    /// when it was made,
    pub last_seen_ms: i64,
    /// and its tags.
    pub last_tags: Vec<String>,
}

impl SessionState {
    fn read(row: &Row<'_>) -> rusqlite::Result<SessionState> {
        let mut columns = Columns::of(row);
        Ok(SessionState {
            session_key: columns.get()?,
            total: columns.count()?,
            allowed: columns.count()?,
            review: columns.count()?,
            blocked: columns.count()?,
            last_action: columns.get()?,
            last_risk: columns.get()?,
            last_channel: columns.get()?,
            last_tool: columns.get()?,
            last_seen_ms: columns.get()?,
            last_tags: columns.json()?,
        })
    }
}

/// Which rows a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFilter<'a> {
    /// Every session.
    All,
    /// Those whose last decision was this.
    LastAction(Action),
    /// Those last seen on this channel.
    LastChannel(&'a str),
}

impl StateFilter<'_> {
    pub(super) fn statement(self) -> String {
        let condition = match self {
            StateFilter::All => "?1 IS NULL",
            StateFilter::LastAction(_) => "last_action = ?1",
            StateFilter::LastChannel(_) => "last_channel = ?1",
        };
        format!("SELECT {COLUMNS} FROM session_state WHERE {condition} ORDER BY last_seen_ms DESC LIMIT ?2")
    }
}

impl Queries {
    /// The decisions of one session; `None` before the first.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn session_state(&self, session_key: &str) -> Result<Option<SessionState>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM session_state WHERE session_key = ?1");
        self.first(&sql, [session_key], SessionState::read)
    }

    /// The sessions that `filter` lets through, last seen first, at most `limit` (itself at most
    /// [`SESSION_STATE_LIST_ROWS_MAX`]).
    ///
    /// # Errors
    /// Those of a statement.
    pub fn session_state_list(&self, filter: StateFilter<'_>, limit: usize) -> Result<Vec<SessionState>, StoreError> {
        let wanted = match filter {
            StateFilter::All => None,
            StateFilter::LastAction(action) => Some(action.as_str()),
            StateFilter::LastChannel(channel) => Some(channel),
        };
        let limit = limit.min(SESSION_STATE_LIST_ROWS_MAX) as i64;
        self.rows(&filter.statement(), (wanted, limit), SessionState::read)
    }
}

impl Db<'_> {
    /// Counts a decision; called for each one that names a session.
    pub(super) fn session_state_count(&self, session_key: &str, decision: &NewDecision) -> Result<(), StoreError> {
        let one_if = |action: Action| i64::from(decision.action == action);
        let total: i64 = self.one(
            "INSERT INTO session_state (session_key, total, allowed, review, blocked, last_action, last_risk, \
                 last_channel, last_tool, last_seen_ms, last_tags)
             VALUES (:key, 1, :allowed, :review, :blocked, :action, :risk, :channel, :tool, :at_ms, :tags)
             ON CONFLICT (session_key) DO UPDATE SET total = total + 1, allowed = allowed + :allowed, \
                 review = review + :review, blocked = blocked + :blocked, last_action = :action, \
                 last_risk = :risk, last_channel = :channel, last_tool = :tool, last_seen_ms = :at_ms, \
                 last_tags = :tags
             RETURNING total",
            named_params! {
                ":key": session_key,
                ":allowed": one_if(Action::Allow),
                ":review": one_if(Action::Review),
                ":blocked": one_if(Action::Block),
                ":action": decision.action,
                ":risk": decision.score,
                ":channel": decision.channel,
                ":tool": decision.tool,
                ":at_ms": decision.at_ms,
                ":tags": to_json(&decision.tags),
            },
            |row| row.get(0),
        )?;
        // Only a first decision adds a row, so only then is it worth counting them.
        if total == 1 { self.session_state_prune(SESSION_STATE_ROWS_MAX) } else { Ok(()) }
    }

    /// Drops the least recently seen rows beyond `rows_max`.
    fn session_state_prune(&self, rows_max: usize) -> Result<(), StoreError> {
        let n_rows: i64 = self.one("SELECT count(*) FROM session_state", [], |row| row.get(0))?;
        let n_excess = n_rows - rows_max as i64;
        if n_excess > 0 {
            self.run(
                "DELETE FROM session_state WHERE session_key IN
                     (SELECT session_key FROM session_state ORDER BY last_seen_ms LIMIT ?1)",
                [n_excess],
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::decisions::tests::decision;
    use super::super::open::tests::scratch;
    use super::*;

    #[test]
    fn counts_each_action_and_keeps_the_last() {
        let (_dir, mut database) = scratch();
        let state = database
            .write(|db| {
                for (at_ms, action, score) in [(1, Action::Allow, 0), (2, Action::Block, 90), (3, Action::Review, 40)] {
                    db.session_state_count("agent:main:a", &NewDecision { at_ms, action, score, ..decision() })?;
                }
                db.session_state("agent:main:a")
            })
            .unwrap()
            .unwrap();
        assert_eq!((state.total, state.allowed, state.review, state.blocked), (3, 1, 1, 1));
        assert_eq!((state.last_action, state.last_risk, state.last_seen_ms), (Action::Review, 40, 3));
    }

    #[test]
    fn lists_by_last_action_and_channel_last_seen_first() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for (at_ms, key, action, channel) in [
                    (1, "a", Action::Block, "telegram"),
                    (2, "b", Action::Allow, "telegram"),
                    (3, "c", Action::Block, "webchat"),
                ] {
                    let channel = Some(channel.to_owned());
                    db.session_state_count(key, &NewDecision { at_ms, action, channel, ..decision() })?;
                }
                Ok::<_, StoreError>(())
            })
            .unwrap();
        let keys = |filter| {
            let rows = database.session_state_list(filter, 10).unwrap();
            rows.into_iter().map(|row| row.session_key).collect::<Vec<_>>().join("")
        };
        assert_eq!(keys(StateFilter::All), "cba");
        assert_eq!(keys(StateFilter::LastAction(Action::Block)), "ca");
        assert_eq!(keys(StateFilter::LastChannel("telegram")), "ba");
    }

    #[test]
    fn the_least_recently_seen_make_room() {
        let (_dir, mut database) = scratch();
        let left = database
            .write(|db| {
                for at_ms in 1..=5 {
                    db.session_state_count(&format!("k{at_ms}"), &NewDecision { at_ms, ..decision() })?;
                }
                db.session_state_prune(5)?;
                assert_eq!(db.session_state_list(StateFilter::All, 10)?.len(), 5, "at the limit nothing goes");
                db.session_state_prune(3)?;
                db.session_state_list(StateFilter::All, 10)
            })
            .unwrap();
        assert_eq!(left.iter().map(|row| &*row.session_key).collect::<Vec<_>>(), ["k5", "k4", "k3"]);
    }
}
