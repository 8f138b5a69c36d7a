//! The defender's decisions, newest kept: what was judged, how, and why.

use rusqlite::Row;
use rusqlite::named_params;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use super::StoreError;
use super::db::{Columns, Db, Queries, check_size, cut, to_json};

/// Decisions kept; the oldest go first.
pub const DECISION_ROWS_MAX: usize = 10_000;
/// Bytes of the judged text kept with a decision; the rest is cut off.
pub const DECISION_PREVIEW_BYTES_MAX: usize = 512;
/// Largest request id, key, source, channel, tool, and largest list of reasons or tags as JSON, in bytes.
pub const DECISION_TEXT_BYTES_MAX: usize = 16 * 1024;
/// Rows given out by one list.
pub const DECISION_LIST_ROWS_MAX: usize = 500;

const COLUMNS: &str =
    "id, at_ms, request_id, session_key, source, channel, tool, action, score, reasons, tags, preview";

/// What the defender decided (DEF-01).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Go on.
    Allow,
    /// Ask an operator first.
    Review,
    /// Do not.
    Block,
}

impl Action {
    /// The word in the column and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Review => "review",
            Action::Block => "block",
        }
    }
}

impl ToSql for Action {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for Action {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Action> {
        match value.as_str()? {
            "allow" => Ok(Action::Allow),
            "review" => Ok(Action::Review),
            "block" => Ok(Action::Block),
            other => Err(FromSqlError::Other(format!("unknown action {other}").into())),
        }
    }
}

/// A decision to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDecision {
    /// When it was made.
    pub at_ms: i64,
    /// The request it answers.
    pub request_id: String,
    /// The session it concerns, when it concerns one; that session's counters follow it.
    pub session_key: Option<String>,
    /// Where the request came from.
    pub source: String,
    /// The channel it came through.
    pub channel: Option<String>,
    /// The tool it is about.
    pub tool: Option<String>,
    /// What was decided.
    pub action: Action,
    /// The risk, 0 to 100.
    pub score: u8,
    /// Why, in the order of evaluation.
    pub reasons: Vec<String>,
    /// The same as fixed words.
    pub tags: Vec<String>,
    /// The judged text; cut to [`DECISION_PREVIEW_BYTES_MAX`]. Secrets are masked by the caller.
    pub preview: String,
}

/// A recorded decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionRow {
    /// Its number; later decisions have higher ones.
    pub id: i64,
    /// What was recorded.
    pub decision: NewDecision,
}

impl DecisionRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<DecisionRow> {
        let mut columns = Columns::of(row);
        Ok(DecisionRow {
            id: columns.get()?,
            decision: NewDecision {
                at_ms: columns.get()?,
                request_id: columns.get()?,
                session_key: columns.get()?,
                source: columns.get()?,
                channel: columns.get()?,
                tool: columns.get()?,
                action: columns.get()?,
                score: columns.get()?,
                reasons: columns.json()?,
                tags: columns.json()?,
                preview: columns.get()?,
            },
        })
    }
}

/// Which decisions a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionFilter<'a> {
    /// Every one.
    All,
    /// Those of one session.
    Session(&'a str),
    /// Those with this outcome.
    Action(Action),
}

impl DecisionFilter<'_> {
    pub(super) fn statement(self) -> String {
        let condition = match self {
            DecisionFilter::All => "?1 IS NULL",
            DecisionFilter::Session(_) => "session_key = ?1",
            DecisionFilter::Action(_) => "action = ?1",
        };
        format!("SELECT {COLUMNS} FROM decisions WHERE {condition} AND id < ?2 ORDER BY id DESC LIMIT ?3")
    }
}

impl Queries {
    /// Decisions with numbers below `before_id` (start with `i64::MAX`), newest first, at most `limit` (itself at
    /// most [`DECISION_LIST_ROWS_MAX`]).
    ///
    /// # Errors
    /// Those of a statement.
    pub fn decision_list(
        &self,
        filter: DecisionFilter<'_>,
        before_id: i64,
        limit: usize,
    ) -> Result<Vec<DecisionRow>, StoreError> {
        let wanted = match filter {
            DecisionFilter::All => None,
            DecisionFilter::Session(session_key) => Some(session_key),
            DecisionFilter::Action(action) => Some(action.as_str()),
        };
        let limit = limit.min(DECISION_LIST_ROWS_MAX) as i64;
        self.rows(&filter.statement(), (wanted, before_id, limit), DecisionRow::read)
    }
}

impl Db<'_> {
    /// Records a decision and counts it for its session; returns its number.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of a statement.
    pub fn decision_record(&self, decision: &NewDecision) -> Result<i64, StoreError> {
        let (reasons, tags) = (to_json(&decision.reasons), to_json(&decision.tags));
        for (what, size_bytes) in [
            ("decision request id", decision.request_id.len()),
            ("decision session key", decision.session_key.as_ref().map_or(0, String::len)),
            ("decision source", decision.source.len()),
            ("decision channel", decision.channel.as_ref().map_or(0, String::len)),
            ("decision tool", decision.tool.as_ref().map_or(0, String::len)),
            ("decision reasons", reasons.len()),
            ("decision tags", tags.len()),
        ] {
            check_size(what, size_bytes, DECISION_TEXT_BYTES_MAX)?;
        }
        self.run(
            "INSERT INTO decisions (at_ms, request_id, session_key, source, channel, tool, action, score, reasons, \
                 tags, preview)
             VALUES (:at_ms, :request_id, :session_key, :source, :channel, :tool, :action, :score, :reasons, \
                 :tags, :preview)",
            named_params! {
                ":at_ms": decision.at_ms,
                ":request_id": decision.request_id,
                ":session_key": decision.session_key,
                ":source": decision.source,
                ":channel": decision.channel,
                ":tool": decision.tool,
                ":action": decision.action,
                ":score": decision.score,
                ":reasons": reasons,
                ":tags": tags,
                ":preview": cut(&decision.preview, DECISION_PREVIEW_BYTES_MAX),
            },
        )?;
        let id = self.last_insert_id();
        // Numbers have no gaps, so the one that leaves is found by arithmetic.
        self.run("DELETE FROM decisions WHERE id <= ?1", [id - DECISION_ROWS_MAX as i64])?;
        if let Some(session_key) = &decision.session_key {
            self.session_state_count(session_key, decision)?;
        }
        Ok(id)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::open::tests::scratch;
    use super::*;

    /// A decision to vary.
    pub(crate) fn decision() -> NewDecision {
        NewDecision {
            at_ms: 1,
            request_id: String::from("r"),
            session_key: None,
            source: String::from("chat.send"),
            channel: None,
            tool: None,
            action: Action::Allow,
            score: 0,
            reasons: Vec::new(),
            tags: Vec::new(),
            preview: String::new(),
        }
    }

    #[test]
    fn a_decision_comes_back_as_it_was_recorded() {
        let (_dir, mut database) = scratch();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let full = NewDecision {
            at_ms: 7,
            request_id: String::from("request"),
            session_key: Some(String::from("key")),
            source: String::from("source"),
            channel: Some(String::from("channel")),
            tool: Some(String::from("tool")),
            action: Action::Review,
            score: 41,
            reasons: words("some reasons"),
            tags: words("some tags"),
            preview: String::from("preview"),
        };
        let id = database.write(|db| db.decision_record(&full)).unwrap();
        let listed = database.decision_list(DecisionFilter::All, i64::MAX, 9).unwrap();
        assert_eq!(listed, [DecisionRow { id, decision: full.clone() }]);
        let state = database.session_state("key").unwrap().unwrap();
        assert_eq!((state.last_channel, state.last_tool, state.last_tags), (full.channel, full.tool, full.tags));
    }

    #[test]
    fn lists_newest_first_and_pages_by_number() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for (at_ms, action, key) in [(1, Action::Allow, "a"), (2, Action::Block, "b"), (3, Action::Block, "a")]
                {
                    let session_key = Some(key.to_owned());
                    db.decision_record(&NewDecision { at_ms, action, session_key, ..decision() })?;
                }
                Ok::<_, StoreError>(())
            })
            .unwrap();
        let times = |filter, before_id, limit| {
            let rows = database.decision_list(filter, before_id, limit).unwrap();
            rows.into_iter().map(|row| row.decision.at_ms).collect::<Vec<_>>()
        };
        assert_eq!(times(DecisionFilter::All, i64::MAX, 2), [3, 2]);
        assert_eq!(times(DecisionFilter::All, 2, 9), [1]);
        assert_eq!(times(DecisionFilter::Action(Action::Block), i64::MAX, 9), [3, 2]);
        assert_eq!(times(DecisionFilter::Session("a"), i64::MAX, 9), [3, 1]);
        assert_eq!(database.session_state("a").unwrap().unwrap().total, 2);
    }

    #[test]
    fn the_preview_is_cut_between_characters() {
        let (_dir, mut database) = scratch();
        let preview = "é".repeat(DECISION_PREVIEW_BYTES_MAX);
        database.write(|db| db.decision_record(&NewDecision { preview, ..decision() })).unwrap();
        let kept = &database.decision_list(DecisionFilter::All, i64::MAX, 1).unwrap()[0].decision.preview;
        assert_eq!(kept.len(), DECISION_PREVIEW_BYTES_MAX);
    }

    #[test]
    fn the_oldest_leave_at_the_bound() {
        let (_dir, mut database) = scratch();
        database
            .write(|db| {
                for _ in 0..DECISION_ROWS_MAX {
                    db.decision_record(&decision())?;
                }
                assert_eq!(db.n_rows("decisions"), DECISION_ROWS_MAX);
                let id = db.decision_record(&decision())?;
                assert_eq!(db.n_rows("decisions"), DECISION_ROWS_MAX);
                let oldest: i64 = db.one("SELECT min(id) FROM decisions", [], |row| row.get(0))?;
                assert_eq!(oldest, id - DECISION_ROWS_MAX as i64 + 1);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }
}
