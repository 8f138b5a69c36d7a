//! What each message took: tokens, dollars, time, tools. A row for each message of a transcript, written in the
//! transaction that adds it, so that usage is told without reading what was said. Rows are never changed, and stay when
//! a session is reset or deleted: what was spent was spent.
//!
//! Rows belong to a *transcript* (one id of a session between two resets), whose key, agent and channel stand once, in
//! `usage_transcripts`.

use rusqlite::Row;

use super::StoreError;
use super::db::{Columns, Db, Queries, check_size, cut, signed, to_json};

/// Rows kept; the oldest go first. About 100 bytes of disk each, a tenth of the transcripts they tell of.
pub const USAGE_ROWS_MAX: u64 = 1_000_000;
/// Tool calls of one message whose names are kept.
pub const USAGE_TOOLS_MAX: usize = 256;
/// Largest name of a tool, a provider or a model, in bytes; the rest is cut off.
pub const USAGE_NAME_BYTES_MAX: usize = 256;
/// An answer that came later than this after what the user said was no answer to it: twelve hours.
pub const USAGE_LATENCY_MS_MAX: i64 = 12 * 60 * 60 * 1000;
/// Transcripts without rows that one round of [`Db::usage_prune`] forgets.
pub const USAGE_PRUNE_ROWS_MAX: usize = 2000;

/// Who said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageRole {
    /// A person.
    User,
    /// A model.
    Assistant,
    /// A tool.
    ToolResult,
    /// The gateway, which asked a model for it (a summary).
    System,
}

impl UsageRole {
    /// Of a message's role; `None`: it is not counted.
    pub fn of(role: &str) -> Option<UsageRole> {
        Some(match role {
            "user" => UsageRole::User,
            "assistant" => UsageRole::Assistant,
            "toolResult" => UsageRole::ToolResult,
            "system" => UsageRole::System,
            _ => return None,
        })
    }

    /// The word in the column.
    pub fn as_str(self) -> &'static str {
        match self {
            UsageRole::User => "user",
            UsageRole::Assistant => "assistant",
            UsageRole::ToolResult => "toolResult",
            UsageRole::System => "system",
        }
    }
}

/// What a model took for an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spent {
    /// Who offers the model.
    pub provider: String,
    /// The model.
    pub model: String,
    /// Tokens read anew.
    pub input: u64,
    /// Tokens written.
    pub output: u64,
    /// Tokens read from the cache.
    pub cache_read: u64,
    /// Tokens written to the cache.
    pub cache_write: u64,
    /// Dollars for these, in the same order; `None`: the price is not known.
    pub cost: Option<[f64; 4]>,
}

/// What a message took.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageRow {
    /// When it was said.
    pub at_ms: i64,
    /// By whom.
    pub role: UsageRole,
    /// Whether it tells of a failure.
    pub is_error: bool,
    /// How long after the user's words it came; of answers only.
    pub latency_ms: Option<u64>,
    /// What a model took for it.
    pub spent: Option<Spent>,
    /// The tools it calls.
    pub tools: Vec<String>,
}

/// Whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageOf<'a> {
    /// The transcript's id.
    pub session_id: &'a str,
    /// The session's key.
    pub session_key: &'a str,
    /// Its agent.
    pub agent_id: &'a str,
    /// The channel it is held on.
    pub channel: Option<&'a str>,
}

/// A transcript of which something is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageTranscript {
    id: i64,
    /// Its id.
    pub session_id: String,
    /// The key of the session it is or was of.
    pub session_key: String,
    /// Whose session.
    pub agent_id: String,
    /// The channel it was held on last.
    pub channel: Option<String>,
    /// When something was last said in it.
    pub last_ms: i64,
}

/// Which rows; every field that is set must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageFilter {
    /// At this time or later.
    pub since_ms: i64,
    /// At this time or earlier.
    pub until_ms: i64,
    /// Of this agent.
    pub agent_id: Option<String>,
    /// Of the transcripts of this session.
    pub session_key: Option<String>,
    /// Of this transcript.
    pub session_id: Option<String>,
}

impl Default for UsageFilter {
    fn default() -> UsageFilter {
        UsageFilter { since_ms: i64::MIN, until_ms: i64::MAX, agent_id: None, session_key: None, session_id: None }
    }
}

const TRANSCRIPT_COLUMNS: &str = "id, session_id, session_key, agent_id, channel, last_ms";

impl UsageTranscript {
    fn read(row: &Row<'_>) -> rusqlite::Result<UsageTranscript> {
        let mut columns = Columns::of(row);
        Ok(UsageTranscript {
            id: columns.get()?,
            session_id: columns.get()?,
            session_key: columns.get()?,
            agent_id: columns.get()?,
            channel: columns.get()?,
            last_ms: columns.get()?,
        })
    }
}

const COLUMNS: &str = "at_ms, role, is_error, latency_ms, input, output, cache_read, cache_write, \
                       input_cost, output_cost, cache_read_cost, cache_write_cost, provider, model, tools";

impl UsageRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<UsageRow> {
        let mut columns = Columns::of(row);
        let at_ms = columns.get()?;
        let role = columns.get::<String>()?;
        let is_error = columns.get()?;
        let latency_ms = columns.get::<Option<i64>>()?;
        let mut tokens = [None; 4];
        for n in &mut tokens {
            *n = columns.get::<Option<i64>>()?;
        }
        let mut costs = [None; 4];
        for cost in &mut costs {
            *cost = columns.get::<Option<f64>>()?;
        }
        let (provider, model) = (columns.get::<Option<String>>()?, columns.get::<Option<String>>()?);
        let tools = columns.get::<Option<String>>()?;
        let count = |n: Option<i64>| n.unwrap_or(0).max(0) as u64;
        // Whoever wrote a price wrote all of them.
        let cost = costs[0].map(|_| costs.map(|cost: Option<f64>| cost.unwrap_or(0.0)));
        Ok(UsageRow {
            at_ms,
            role: UsageRole::of(&role).unwrap_or(UsageRole::System),
            is_error,
            latency_ms: latency_ms.and_then(|ms| u64::try_from(ms).ok()),
            spent: tokens.iter().any(Option::is_some).then(|| Spent {
                provider: provider.unwrap_or_default(),
                model: model.unwrap_or_default(),
                input: count(tokens[0]),
                output: count(tokens[1]),
                cache_read: count(tokens[2]),
                cache_write: count(tokens[3]),
                cost,
            }),
            tools: tools.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        })
    }
}

/// Which transcripts a filter can mean, in the order in which [`Queries::usage_each`] goes through them.
fn transcripts_statement(filter: &UsageFilter) -> String {
    let (place, order) = match (&filter.session_id, &filter.session_key) {
        (Some(_), _) => ("session_id = ?1 AND ?2 IS NULL", ""),
        (None, Some(_)) => ("session_key = ?2 AND ?1 IS NULL", " ORDER BY session_key, id"),
        (None, None) => ("?1 IS NULL AND ?2 IS NULL", " ORDER BY session_key, id"),
    };
    format!(
        "SELECT {TRANSCRIPT_COLUMNS} FROM usage_transcripts
         WHERE {place} AND last_ms >= ?3 AND (?4 IS NULL OR agent_id = ?4){order}"
    )
}

impl Queries {
    /// Hands out the rows that `filter` lets through, one at a time: those of one session's transcripts after each
    /// other, each transcript's in the order of time.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn usage_each(
        &self,
        filter: &UsageFilter,
        mut each: impl FnMut(&UsageTranscript, UsageRow),
    ) -> Result<(), StoreError> {
        let mut transcripts = self.prepared(&transcripts_statement(filter))?;
        let mut rows = self.prepared(&format!(
            "SELECT {COLUMNS} FROM usage WHERE transcript = ?1 AND at_ms BETWEEN ?2 AND ?3 ORDER BY at_ms, id"
        ))?;
        let mut found =
            transcripts.query((&filter.session_id, &filter.session_key, filter.since_ms, &filter.agent_id))?;
        while let Some(row) = found.next()? {
            let transcript = UsageTranscript::read(row)?;
            let mut of_it = rows.query((transcript.id, filter.since_ms, filter.until_ms))?;
            while let Some(row) = of_it.next()? {
                each(&transcript, UsageRow::read(row)?);
            }
        }
        Ok(())
    }

    /// What is kept of the transcript with this id.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn usage_transcript(&self, session_id: &str) -> Result<Option<UsageTranscript>, StoreError> {
        self.first(
            &format!("SELECT {TRANSCRIPT_COLUMNS} FROM usage_transcripts WHERE session_id = ?1"),
            [session_id],
            UsageTranscript::read,
        )
    }
}

impl Db<'_> {
    /// Counts a message that was just added. Its latency is found here: it is the time since the user's last words in
    /// the same transcript.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn usage_append(&self, of: &UsageOf<'_>, row: &UsageRow) -> Result<(), StoreError> {
        check_size("usage tools", row.tools.len(), USAGE_TOOLS_MAX)?;
        let (transcript, last_user_ms) = self.usage_open(of, row.at_ms)?;
        let since_user = last_user_ms.map(|asked_ms| (row.at_ms - asked_ms).max(0));
        let latency_ms = match row.role {
            UsageRole::Assistant => since_user.filter(|ms| *ms <= USAGE_LATENCY_MS_MAX),
            _ => None,
        };
        let name = |text: &str| cut(text, USAGE_NAME_BYTES_MAX).to_owned();
        let spent = row.spent.as_ref();
        let cost = |idx: usize| spent.and_then(|spent| spent.cost).map(|costs| costs[idx]);
        let tools: Vec<String> = row.tools.iter().map(|tool| name(tool)).collect();
        self.run(
            &format!(
                "INSERT INTO usage (transcript, {COLUMNS})
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
            ),
            (
                transcript,
                row.at_ms,
                row.role.as_str(),
                row.is_error,
                latency_ms,
                spent.map(|spent| signed(spent.input)),
                spent.map(|spent| signed(spent.output)),
                spent.map(|spent| signed(spent.cache_read)),
                spent.map(|spent| signed(spent.cache_write)),
                cost(0),
                cost(1),
                cost(2),
                cost(3),
                spent.map(|spent| name(&spent.provider)),
                spent.map(|spent| name(&spent.model)),
                (!tools.is_empty()).then(|| to_json(&tools)),
            ),
        )?;
        let id = self.last_insert_id();
        self.run(
            "UPDATE usage_transcripts SET last_row = ?2, last_ms = max(last_ms, ?3),
                                          last_user_ms = iif(?4, ?3, last_user_ms) WHERE id = ?1",
            (transcript, id, row.at_ms, row.role == UsageRole::User),
        )?;
        self.usage_bound(id, USAGE_ROWS_MAX)
    }

    /// The number of a transcript, noted when it is new, and when the user last said something in it.
    fn usage_open(&self, of: &UsageOf<'_>, at_ms: i64) -> Result<(i64, Option<i64>), StoreError> {
        let known = self.first(
            "SELECT id, last_user_ms, channel FROM usage_transcripts WHERE session_id = ?1",
            [of.session_id],
            |row| {
                let mut columns = Columns::of(row);
                Ok((columns.get::<i64>()?, columns.get::<Option<i64>>()?, columns.get::<Option<String>>()?))
            },
        )?;
        if let Some((id, last_user_ms, channel)) = known {
            if of.channel.is_some() && channel.as_deref() != of.channel {
                self.run("UPDATE usage_transcripts SET channel = ?2 WHERE id = ?1", (id, of.channel))?;
            }
            return Ok((id, last_user_ms));
        }
        self.run(
            "INSERT INTO usage_transcripts (session_id, session_key, agent_id, channel, last_ms, last_row)
             VALUES (?1, ?2, ?3, ?4, ?5, 0)",
            (of.session_id, of.session_key, of.agent_id, of.channel, at_ms),
        )?;
        Ok((self.last_insert_id(), None))
    }

    /// Keeps the newest `n_rows_max` rows.
    fn usage_bound(&self, newest_id: i64, n_rows_max: u64) -> Result<(), StoreError> {
        self.run("DELETE FROM usage WHERE id <= ?1", [newest_id - signed(n_rows_max)])?;
        Ok(())
    }

    /// Forgets transcripts of which no row is left, at most [`USAGE_PRUNE_ROWS_MAX`]; returns how many.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn usage_prune(&self) -> Result<usize, StoreError> {
        self.run(
            "DELETE FROM usage_transcripts WHERE id IN (
                 SELECT id FROM usage_transcripts WHERE last_row < (SELECT coalesce(min(id), 0) FROM usage) LIMIT ?1)",
            [USAGE_PRUNE_ROWS_MAX as i64],
        )
    }
}

#[cfg(test)]
mod tests;
