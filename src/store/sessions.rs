//! Sessions: one row for each session key, with its settings, its counts and where its replies go.
//!
//! What lists are filtered and sorted by has a column; every other patchable field lives in the row's `entry`, whose
//! names and values are the wire's business. Listing is newest first, equal times in key order (SES-26).

use rusqlite::types::Value as SqlValue;
use rusqlite::{Row, named_params, params_from_iter};
use serde_json::{Map, Value};

use super::StoreError;
use super::archive::ArchiveReason;
use super::db::{Columns, Db, Queries, check_size, signed, to_json};

/// Sessions at most. A new one beyond it is refused ([`StoreError::TableFull`]) rather than an old one dropped: its
/// transcript is the user's. About 1 KiB of disk each.
pub const SESSION_ROWS_MAX: usize = 20_000;
/// Largest `entry` of a session, in bytes of JSON.
pub const SESSION_ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Largest session key, session id, label, peer, ... in bytes.
pub const SESSION_TEXT_BYTES_MAX: usize = 2 * 1024;
/// Sessions given out by one list (SES-25).
pub const SESSION_LIST_ROWS_MAX: usize = 1000;

const COLUMNS: &str = "key, agent_id, session_id, kind, label, channel, peer, account_id, thread_id, spawned_by, \
                       entry, created_ms, updated_ms, message_count, input_tokens, output_tokens, total_tokens";

/// A session as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    /// The canonical session key; never changes.
    pub key: String,
    /// The agent it belongs to.
    pub agent_id: String,
    /// The current transcript's id; replaced by a reset and never used again.
    pub session_id: String,
    /// `direct`, `group`, `global`, `unknown`, ...
    pub kind: String,
    /// The user's name for it, unique for each agent.
    pub label: Option<String>,
    /// Where replies go: the channel,
    pub channel: Option<String>,
    /// the recipient (`to` on the wire),
    pub peer: Option<String>,
    /// the account of ours,
    pub account_id: Option<String>,
    /// and the thread.
    pub thread_id: Option<String>,
    /// The session that started this one.
    pub spawned_by: Option<String>,
    /// Every other patchable field, by its wire name.
    pub entry: Map<String, Value>,
    /// When the session was made.
    pub created_ms: i64,
    /// When it last changed; lists are sorted by it.
    pub updated_ms: i64,
    /// Messages in the current transcript, without archived ones. Kept by the transcript's methods.
    pub message_count: u64,
    /// Tokens used since the last reset.
    pub tokens: TokenTotals,
}

/// Tokens used by a session since its last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenTotals {
    /// Read by the model.
    pub input: u64,
    /// Written by the model.
    pub output: u64,
    /// What the provider counted in total.
    pub total: u64,
}

impl SessionRow {
    /// A session with no settings, made at `now_ms`.
    pub fn new(
        key: impl Into<String>,
        agent_id: impl Into<String>,
        session_id: impl Into<String>,
        kind: impl Into<String>,
        now_ms: i64,
    ) -> SessionRow {
        SessionRow {
            key: key.into(),
            agent_id: agent_id.into(),
            session_id: session_id.into(),
            kind: kind.into(),
            label: None,
            channel: None,
            peer: None,
            account_id: None,
            thread_id: None,
            spawned_by: None,
            entry: Map::new(),
            created_ms: now_ms,
            updated_ms: now_ms,
            message_count: 0,
            tokens: TokenTotals::default(),
        }
    }

    /// What `search` looks through: upstream's fields, lower-cased, one on each line.
    fn search_text(&self) -> String {
        let entry = |name| self.entry.get(name).and_then(Value::as_str);
        let parts = [Some(&*self.key), Some(&*self.session_id), self.label.as_deref()];
        let parts = parts.into_iter().chain([entry("displayName"), entry("subject")]);
        parts.flatten().collect::<Vec<_>>().join("\n").to_lowercase()
    }

    fn check(&self) -> Result<String, StoreError> {
        let texts = [
            ("session key", Some(&self.key)),
            ("agent id", Some(&self.agent_id)),
            ("session id", Some(&self.session_id)),
            ("session kind", Some(&self.kind)),
            ("session label", self.label.as_ref()),
            ("session channel", self.channel.as_ref()),
            ("session peer", self.peer.as_ref()),
            ("session account", self.account_id.as_ref()),
            ("session thread", self.thread_id.as_ref()),
            ("session parent", self.spawned_by.as_ref()),
        ];
        for (what, text) in texts {
            check_size(what, text.map_or(0, String::len), SESSION_TEXT_BYTES_MAX)?;
        }
        let entry = to_json(&self.entry);
        check_size("session entry", entry.len(), SESSION_ENTRY_BYTES_MAX)?;
        Ok(entry)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
        let mut columns = Columns::of(row);
        Ok(SessionRow {
            key: columns.get()?,
            agent_id: columns.get()?,
            session_id: columns.get()?,
            kind: columns.get()?,
            label: columns.get()?,
            channel: columns.get()?,
            peer: columns.get()?,
            account_id: columns.get()?,
            thread_id: columns.get()?,
            spawned_by: columns.get()?,
            entry: columns.json()?,
            created_ms: columns.get()?,
            updated_ms: columns.get()?,
            message_count: columns.count()?,
            tokens: TokenTotals { input: columns.count()?, output: columns.count()?, total: columns.count()? },
        })
    }
}

/// Which sessions a list shows; every field that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Exact label.
    pub label: Option<String>,
    /// Exact agent id.
    pub agent_id: Option<String>,
    /// Exact key of the session that started it.
    pub spawned_by: Option<String>,
    /// Exact channel, in its canonical name.
    pub channel: Option<String>,
    /// Exact recipient (`to` on the wire).
    pub peer: Option<String>,
    /// Exact account of ours.
    pub account_id: Option<String>,
    /// Exact thread.
    pub thread_id: Option<String>,
    /// Changed at this time or later.
    pub active_since_ms: Option<i64>,
    /// Text contained, in any case, in key, session id, label, display name or subject.
    pub search: Option<String>,
    /// Session kinds to leave out (`global`, `unknown`).
    pub kinds_excluded: Vec<String>,
    /// Any of these agents; `None`: all.
    pub agents: Option<Vec<String>>,
    /// Texts that a key must not contain, like `:cron:`.
    pub key_parts_excluded: Vec<&'static str>,
    /// Put away, or not.
    pub archived: Option<bool>,
    /// Pinned, or not.
    pub pinned: Option<bool>,
    /// Exact category; empty: without one.
    pub category: Option<String>,
    /// The side chosen to be shown first.
    pub board_face: Option<String>,
    /// Only sessions in which somebody has said something.
    pub has_interaction: bool,
    /// Which comes first.
    pub order: SessionOrder,
}

/// Which session of a list comes first. Equal ones are in key order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionOrder {
    /// The one that changed last.
    #[default]
    Updated,
    /// The one in which somebody spoke last.
    Interaction,
    /// The one in which somebody spoke or an agent did something unasked last.
    Activity,
}

impl SessionOrder {
    fn sql(self) -> &'static str {
        match self {
            SessionOrder::Updated => "updated_ms DESC, key",
            SessionOrder::Interaction => {
                "coalesce(json_extract(entry, '$.lastInteractionAt'), 0) DESC, updated_ms DESC, key"
            }
            SessionOrder::Activity => {
                "max(coalesce(json_extract(entry, '$.lastActivityAt'), 0), \
                     coalesce(json_extract(entry, '$.lastInteractionAt'), 0)) DESC, updated_ms DESC, key"
            }
        }
    }
}

impl SessionFilter {
    /// The conditions as SQL and their values. Only conditions that are set appear, so that the planner can pick
    /// the index of the most selective one.
    pub(super) fn conditions(&self) -> (String, Vec<SqlValue>) {
        let mut sql = String::from(" WHERE 1");
        let mut values = Vec::new();
        let exact = [
            (" AND label = ?", &self.label),
            (" AND agent_id = ?", &self.agent_id),
            (" AND spawned_by = ?", &self.spawned_by),
            (" AND channel = ?", &self.channel),
            (" AND peer = ?", &self.peer),
            (" AND account_id = ?", &self.account_id),
            (" AND thread_id = ?", &self.thread_id),
        ];
        for (condition, wanted) in exact {
            if let Some(wanted) = wanted {
                sql.push_str(condition);
                values.push(SqlValue::from(wanted.clone()));
            }
        }
        if let Some(since_ms) = self.active_since_ms {
            sql.push_str(" AND updated_ms >= ?");
            values.push(SqlValue::from(since_ms));
        }
        if let Some(search) = &self.search {
            sql.push_str(" AND instr(search, ?) > 0");
            values.push(SqlValue::from(search.to_lowercase()));
        }
        for kind in &self.kinds_excluded {
            sql.push_str(" AND kind <> ?");
            values.push(SqlValue::from(kind.clone()));
        }
        for part in &self.key_parts_excluded {
            sql.push_str(" AND instr(key, ?) = 0");
            values.push(SqlValue::from((*part).to_owned()));
        }
        if let Some(agents) = &self.agents {
            sql.push_str(" AND agent_id IN (");
            sql.push_str(&vec!["?"; agents.len()].join(", "));
            sql.push(')');
            values.extend(agents.iter().cloned().map(SqlValue::from));
        }
        for (flag, is, is_not) in [
            (
                self.archived,
                " AND json_extract(entry, '$.archived') IS 1",
                " AND json_extract(entry, '$.archived') IS NOT 1",
            ),
            (self.pinned, " AND json_extract(entry, '$.pinned') IS 1", " AND json_extract(entry, '$.pinned') IS NOT 1"),
        ] {
            if let Some(flag) = flag {
                sql.push_str(if flag { is } else { is_not });
            }
        }
        for (wanted, condition) in [
            (&self.category, " AND coalesce(json_extract(entry, '$.category'), '') = ?"),
            (&self.board_face, " AND json_extract(entry, '$.boardFace') = ?"),
        ] {
            if let Some(wanted) = wanted {
                sql.push_str(condition);
                values.push(SqlValue::from(wanted.clone()));
            }
        }
        if self.has_interaction {
            sql.push_str(" AND json_extract(entry, '$.lastInteractionAt') > 0");
        }
        (sql, values)
    }
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionPage {
    /// Newest first, equal times in key order.
    pub sessions: Vec<SessionRow>,
    /// Whether more follow.
    pub has_more: bool,
}

/// What is done with the transcript of a deleted session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TranscriptFate {
    /// It becomes an archive with reason `deleted`.
    Archive,
    /// It stays as it is, reachable by its session id only.
    Keep,
}

/// A reset that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionReset {
    /// The session as it is now.
    pub session: SessionRow,
    /// The id it had.
    pub previous_session_id: String,
    /// Messages that were archived; 0 when there were none.
    pub n_archived: u64,
}

/// A delete that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionDelete {
    /// The session as it was.
    pub session: SessionRow,
    /// Messages that were archived; 0 when there were none or they were kept.
    pub n_archived: u64,
}

impl Queries {
    /// The session with this key.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn session(&self, key: &str) -> Result<Option<SessionRow>, StoreError> {
        self.first(&format!("SELECT {COLUMNS} FROM sessions WHERE key = ?1"), [key], SessionRow::read)
    }

    /// The session whose current transcript has this id.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn session_by_id(&self, session_id: &str) -> Result<Option<SessionRow>, StoreError> {
        self.first(&format!("SELECT {COLUMNS} FROM sessions WHERE session_id = ?1"), [session_id], SessionRow::read)
    }

    /// The sessions that `filter` lets through, after skipping `offset` of them, at most `limit` (itself at most
    /// [`SESSION_LIST_ROWS_MAX`]).
    ///
    /// # Errors
    /// Those of a statement.
    pub fn session_list(&self, filter: &SessionFilter, offset: usize, limit: usize) -> Result<SessionPage, StoreError> {
        let limit = limit.min(SESSION_LIST_ROWS_MAX);
        let (sql, values) = list_statement(filter, offset, limit + 1);
        let mut sessions = self.rows(&sql, params_from_iter(values), SessionRow::read)?;
        let has_more = sessions.len() > limit;
        sessions.truncate(limit);
        Ok(SessionPage { sessions, has_more })
    }

    /// Sessions that another one started, those unused longest first, at most `limit` (itself at most
    /// [`SESSION_LIST_ROWS_MAX`]).
    ///
    /// # Errors
    /// Those of a statement.
    pub fn sessions_spawned(&self, limit: usize) -> Result<Vec<SessionRow>, StoreError> {
        self.rows(
            &format!("SELECT {COLUMNS} FROM sessions WHERE spawned_by IS NOT NULL ORDER BY updated_ms LIMIT ?1"),
            [limit.min(SESSION_LIST_ROWS_MAX) as i64],
            SessionRow::read,
        )
    }

    /// How many sessions `filter` lets through.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn session_count(&self, filter: &SessionFilter) -> Result<u64, StoreError> {
        let (conditions, values) = filter.conditions();
        let sql = format!("SELECT count(*) FROM sessions{conditions}");
        self.one(&sql, params_from_iter(values), |row| Columns::of(row).count())
    }
}

/// The statement behind [`Queries::session_list`].
pub(super) fn list_statement(filter: &SessionFilter, offset: usize, limit: usize) -> (String, Vec<SqlValue>) {
    let (conditions, mut values) = filter.conditions();
    values.push(SqlValue::from(signed(limit as u64)));
    values.push(SqlValue::from(signed(offset as u64)));
    let order = filter.order.sql();
    let sql = format!("SELECT {COLUMNS} FROM sessions{conditions} ORDER BY {order} LIMIT ? OFFSET ?");
    (sql, values)
}

impl Db<'_> {
    /// Writes a session, new or not.
    ///
    /// Its `message_count` is not written: it follows the transcript, and is 0 after the session id changed.
    ///
    /// # Errors
    /// [`StoreError::LabelTaken`], [`StoreError::SessionIdTaken`], [`StoreError::TooLarge`],
    /// [`StoreError::TableFull`] at [`SESSION_ROWS_MAX`], and those of a statement. Nothing is written then.
    pub fn session_put(&self, session: &SessionRow) -> Result<(), StoreError> {
        let entry = session.check()?;
        let known = self
            .first("SELECT session_id FROM sessions WHERE key = ?1", [&session.key], |row| row.get::<_, String>(0))?;
        if known.is_none() && self.session_count(&SessionFilter::default())? >= SESSION_ROWS_MAX as u64 {
            return Err(StoreError::TableFull { what: "session table", rows_max: SESSION_ROWS_MAX });
        }
        if known.as_ref() != Some(&session.session_id) {
            self.check_session_id_is_new(&session.session_id)?;
        }
        if let Some(label) = &session.label {
            let holder = self.first(
                "SELECT key FROM sessions WHERE label = ?1 AND agent_id = ?2 AND key <> ?3",
                [label, &session.agent_id, &session.key],
                |row| row.get::<_, String>(0),
            )?;
            if let Some(key) = holder {
                return Err(StoreError::LabelTaken { label: label.clone(), key });
            }
        }
        self.run(
            "INSERT INTO sessions (key, agent_id, session_id, kind, label, channel, peer, account_id, thread_id, \
                 spawned_by, entry, search, created_ms, updated_ms, message_count, input_tokens, output_tokens, \
                 total_tokens)
             VALUES (:key, :agent_id, :session_id, :kind, :label, :channel, :peer, :account_id, :thread_id, \
                 :spawned_by, :entry, :search, :created_ms, :updated_ms, 0, :input_tokens, :output_tokens, \
                 :total_tokens)
             ON CONFLICT (key) DO UPDATE SET agent_id = :agent_id, session_id = :session_id, kind = :kind, \
                 label = :label, channel = :channel, peer = :peer, account_id = :account_id, \
                 thread_id = :thread_id, spawned_by = :spawned_by, entry = :entry, search = :search, \
                 updated_ms = :updated_ms, input_tokens = :input_tokens, output_tokens = :output_tokens, \
                 total_tokens = :total_tokens, \
                 message_count = iif(session_id = :session_id, message_count, 0)",
            named_params! {
                ":key": session.key,
                ":agent_id": session.agent_id,
                ":session_id": session.session_id,
                ":kind": session.kind,
                ":label": session.label,
                ":channel": session.channel,
                ":peer": session.peer,
                ":account_id": session.account_id,
                ":thread_id": session.thread_id,
                ":spawned_by": session.spawned_by,
                ":entry": entry,
                ":search": session.search_text(),
                ":created_ms": session.created_ms,
                ":updated_ms": session.updated_ms,
                ":input_tokens": signed(session.tokens.input),
                ":output_tokens": signed(session.tokens.output),
                ":total_tokens": signed(session.tokens.total),
            },
        )?;
        Ok(())
    }

    /// Session ids are never used twice (SES-05), not even after their session is gone.
    fn check_session_id_is_new(&self, session_id: &str) -> Result<(), StoreError> {
        let taken = self.one(
            "SELECT EXISTS (SELECT 1 FROM sessions WHERE session_id = ?1)
                 OR EXISTS (SELECT 1 FROM archives WHERE session_id = ?1)",
            [session_id],
            |row| row.get::<_, bool>(0),
        )?;
        if taken {
            return Err(StoreError::SessionIdTaken { session_id: session_id.to_owned() });
        }
        Ok(())
    }

    /// Changes a session through `change` and stamps it with `now_ms`; `None` when there is no such session.
    ///
    /// `change` may refuse with its own error; nothing is written then. Key, session id, creation time and message
    /// count stay as they are.
    ///
    /// # Errors
    /// What `change` returns, and those of [`Db::session_put`].
    pub fn session_update<E: From<StoreError>>(
        &self,
        key: &str,
        now_ms: i64,
        change: impl FnOnce(&mut SessionRow) -> Result<(), E>,
    ) -> Result<Option<SessionRow>, E> {
        let Some(before) = self.session(key)? else { return Ok(None) };
        let mut session = before.clone();
        change(&mut session)?;
        session.key = before.key;
        session.session_id = before.session_id;
        session.created_ms = before.created_ms;
        session.message_count = before.message_count;
        session.updated_ms = now_ms;
        self.session_put(&session)?;
        Ok(Some(session))
    }

    /// Gives a session a fresh transcript under `session_id`: the old one is archived, token totals start again,
    /// settings stay. `None` when there is no such session.
    ///
    /// # Errors
    /// [`StoreError::SessionIdTaken`], and those of a statement.
    pub fn session_reset(&self, key: &str, session_id: &str, now_ms: i64) -> Result<Option<SessionReset>, StoreError> {
        let Some(mut session) = self.session(key)? else { return Ok(None) };
        let previous_session_id = std::mem::replace(&mut session.session_id, session_id.to_owned());
        session.message_count = 0;
        session.tokens = TokenTotals::default();
        session.updated_ms = now_ms;
        let n_archived = self.archive_transcript(&previous_session_id, key, ArchiveReason::Reset, now_ms)?;
        self.session_put(&session)?;
        Ok(Some(SessionReset { session, previous_session_id, n_archived }))
    }

    /// Removes a session and its decision counters; `None` when there is no such session.
    ///
    /// # Errors
    /// Those of a statement.
    pub fn session_delete(
        &self,
        key: &str,
        transcript: TranscriptFate,
        now_ms: i64,
    ) -> Result<Option<SessionDelete>, StoreError> {
        let Some(session) = self.session(key)? else { return Ok(None) };
        let n_archived = match transcript {
            TranscriptFate::Archive => {
                self.archive_transcript(&session.session_id, key, ArchiveReason::Deleted, now_ms)?
            }
            TranscriptFate::Keep => 0,
        };
        self.run("DELETE FROM sessions WHERE key = ?1", [key])?;
        self.run("DELETE FROM session_state WHERE session_key = ?1", [key])?;
        Ok(Some(SessionDelete { session, n_archived }))
    }
}

#[cfg(test)]
mod tests;
