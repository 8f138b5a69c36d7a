//! What sessions took: `sessions.usage`, `sessions.usage.timeseries`, `sessions.usage.logs`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Transcripts;
use super::asked::DaysAsked;
use crate::agent::weight;
use crate::gateway::Snapshot;
use crate::gateway::methods::chat::session_key;
use crate::gateway::methods::sessions::read_constant;
use crate::gateway::table::QueryCx;
use crate::protocol::error::{ErrorCode, RpcError};
use crate::protocol::json::json;
use crate::protocol::params::{Issues, Loose, NonEmpty, Param, Positive};
use crate::protocol::session_key::agent_id;
use crate::protocol::version::Protocol;
use crate::sessions::row;
use crate::sessions::transcript::WEBCHAT;
use crate::sessions::usage::days::Finder;
use crate::sessions::usage::series;
use crate::sessions::usage::summary::{Aggregate, CREATOR, Summary};
use crate::store::db::Queries;
use crate::store::dir::DATABASE_FILE;
use crate::store::sessions::SessionRow;
use crate::store::usage::{UsageFilter, UsageRow, UsageTranscript};

/// Sessions shown when nothing is said, and at most; the sums are of all.
pub const SESSIONS: usize = 50;
/// See [`SESSIONS`].
pub const SESSIONS_MAX: usize = 1000;
/// Transcripts of one session that are named, the newest; its sums are of all.
pub const INSTANCES_MAX: usize = 100;

macro_rules! constant {
    ($(#[$meta:meta])* $name:ident: $($word:literal),+) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name(&'static str);

        impl Param for $name {
            fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
                read_constant(&[$($word),+], value, path, issues).map($name)
            }
        }
    };
}

constant! {
    /// Whose days.
    Mode: "utc", "gateway", "specific"
}
constant! {
    /// How many days.
    RangeWord: "7d", "30d", "90d", "1y", "all"
}
constant! {
    /// Whether the transcripts of one session are shown as one.
    GroupBy: "instance", "family"
}

/// Not only one agent's: the word `all`.
#[derive(Debug, Clone, Copy)]
pub struct AllAgents;

impl Param for AllAgents {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        read_constant(&["all"], value, path, issues).map(|_| AllAgents)
    }
}

/// Text of the form of a date.
#[derive(Debug, Clone)]
pub struct DateText(String);

impl Param for DateText {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let is_form = |text: &str| {
            let is_place =
                |(idx, byte): (usize, u8)| if matches!(idx, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() };
            text.len() == 10 && text.bytes().enumerate().all(is_place)
        };
        match value.as_str() {
            Some(text) if is_form(text) => Some(DateText(text.to_owned())),
            Some(_) => {
                issues.wrong(path, "must match pattern \"^\\d{4}-\\d{2}-\\d{2}$\"");
                None
            }
            None => {
                issues.wrong(path, "must be string");
                None
            }
        }
    }
}

crate::params! {
    /// Which sessions, and of which days.
    pub struct UsageParams {
        key: Option<NonEmpty> = "key",
        start_date: Option<DateText> = "startDate",
        end_date: Option<DateText> = "endDate",
        mode: Option<Mode> = "mode",
        utc_offset: Option<NonEmpty> = "utcOffset",
        limit: Option<Positive> = "limit",
        include_context_weight: Option<bool> = "includeContextWeight",
        @v4 {
            agent_id: Option<NonEmpty> = "agentId",
            agent_scope: Option<AllAgents> = "agentScope",
            creator_key: Option<NonEmpty> = "creatorKey",
            range: Option<RangeWord> = "range",
            group_by: Option<GroupBy> = "groupBy",
            include_historical: Option<bool> = "includeHistorical",
            time_zone: Option<NonEmpty> = "timeZone",
        }
    }
}

impl UsageParams {
    fn days(&self) -> DaysAsked<'_> {
        DaysAsked {
            start: self.start_date.as_ref().map(|date| date.0.as_str()),
            end: self.end_date.as_ref().map(|date| date.0.as_str()),
            range: self.range.map(|range| range.0),
            n_days: None,
            mode: self.mode.map(|mode| mode.0),
            utc_offset: self.utc_offset.as_ref().map(|offset| offset.0.as_str()),
            time_zone: self.time_zone.as_ref().map(|zone| zone.0.as_str()),
        }
    }

    fn is_by_family(&self) -> bool {
        self.group_by.is_some_and(|by| by.0 == "family") || self.include_historical == Some(true)
    }

    fn limit(&self) -> usize {
        self.limit.map_or(SESSIONS, |limit| usize::try_from(limit.0).unwrap_or(SESSIONS_MAX).min(SESSIONS_MAX))
    }
}

pub(super) fn usage(cx: QueryCx<'_>, params: UsageParams) -> Result<Value, RpcError> {
    let (protocol, now_ms, snapshot) = (cx.call.protocol(), cx.call.now_ms, &cx.snapshot);
    let (days, range) = params.days().resolve(now_ms)?;
    let is_one = params.key.is_some() || params.agent_id.is_some();
    if params.agent_scope.is_some() && is_one {
        return Err(RpcError::invalid("agentScope=all cannot be combined with key or agentId"));
    }
    let db = cx.store.get()?;
    let mut filter = UsageFilter { since_ms: range.start_ms, until_ms: range.end_ms, ..UsageFilter::default() };
    let target = match &params.key {
        Some(key) => match Target::find(db, &key.0, params.agent_id.as_ref(), snapshot) {
            Ok(Some(target)) => Some(target),
            // A session nobody knows took nothing; protocol 4 says that there is none.
            Ok(None) if protocol == Protocol::V3 => {
                filter.session_id = Some(String::new());
                None
            }
            Err(error) if error.code != ErrorCode::InvalidRequest => return Err(error),
            Ok(None) | Err(_) => return Err(RpcError::invalid(format!("Invalid session reference: {}", key.0.trim()))),
        },
        None => None,
    };
    if let Some(target) = &target {
        match params.is_by_family() {
            true => filter.session_key = Some(target.session_key.clone()),
            false => filter.session_id = Some(target.session_id.clone()),
        }
    } else if protocol == Protocol::V4 && params.agent_scope.is_none() {
        let asked = params.agent_id.as_ref().map(|agent| agent_id(&agent.0));
        filter.agent_id = Some(asked.unwrap_or_else(|| snapshot.keys.default_agent.clone()));
    }
    let is_anybody = params.creator_key.as_ref().is_none_or(|creator| creator.0.trim() == CREATOR);
    let mut scan =
        Scan::new(days.finder(), params.is_by_family(), if is_anybody { params.limit() } else { 0 }, protocol);
    if is_anybody {
        db.usage_each(&filter, |transcript, row| scan.take(transcript, &row))?;
    }
    let Found { mut kept, all, transcripts } = scan.finish();
    if let Some(target) = target.filter(|_| kept.is_empty() && is_anybody && protocol == Protocol::V4) {
        kept.push(target.bare());
    }
    let store = match cx.call.caller.is_admin() {
        true => format!("{}/{DATABASE_FILE}", snapshot.state_dir),
        false => String::new(),
    };
    let ask = Show { snapshot, protocol, now_ms, store, has_weight: params.include_context_weight == Some(true) };
    let newest_first = kept.into_iter().rev().enumerate();
    let mut sessions = newest_first
        .map(|(place, kept)| ask.session(db, place, kept, params.is_by_family()))
        .collect::<Result<Vec<_>, _>>()?;
    sessions.sort_by_key(|session| Reverse(session["updatedAt"].as_i64()));
    let mut out = json!({
        "updatedAt": now_ms,
        "startDate": range.first.to_string(),
        "endDate": range.last.to_string(),
        "count": sessions.len(),
        "totals": all.totals().wire(protocol),
        "aggregates": all.wire(protocol),
    });
    if protocol == Protocol::V4 {
        let creators = if sessions.is_empty() { json!([]) } else { json!([{ "key": CREATOR }]) };
        out["creatorOptions"] = creators;
        out["cacheStatus"] = transcripts.status(now_ms);
    }
    out["sessions"] = json!(sessions);
    Ok(out)
}

/// The session a caller means by a key, or by the id of a transcript.
struct Target {
    session_key: String,
    session_id: String,
    agent_id: String,
    channel: Option<String>,
}

impl Target {
    fn find(
        db: &Queries,
        text: &str,
        agent: Option<&NonEmpty>,
        snapshot: &Snapshot,
    ) -> Result<Option<Target>, RpcError> {
        let key = session_key(text.trim(), agent, &snapshot.keys)?;
        if let Some(SessionRow { key, session_id, agent_id, channel, .. }) = db.session(key.as_str())? {
            return Ok(Some(Target { session_key: key, session_id, agent_id, channel }));
        }
        // What a session was before it was reset is listed by the transcript's id in place of a name.
        let kept = db.usage_transcript(key.rest())?.filter(|kept| Some(kept.agent_id.as_str()) == key.agent());
        Ok(kept.map(|UsageTranscript { session_key, session_id, agent_id, channel, .. }| Target {
            session_key,
            session_id,
            agent_id,
            channel,
        }))
    }

    /// It, with nothing taken.
    fn bare(self) -> Kept {
        Kept {
            session_key: self.session_key,
            instances: vec![self.session_id],
            agent_id: self.agent_id,
            channel: self.channel,
            summary: Summary::default(),
        }
    }
}

/// A session that is shown.
struct Kept {
    session_key: String,
    /// Its transcripts that took something, the newest last.
    instances: Vec<String>,
    agent_id: String,
    channel: Option<String>,
    summary: Summary,
}

/// Sums up rows as they come, and keeps what is shown: the sessions heard of last.
struct Scan<'a> {
    finder: Finder<'a>,
    is_by_family: bool,
    n_kept_max: usize,
    protocol: Protocol,
    current: Option<Kept>,
    /// By when something was last said; the number tells apart what was said at the same time.
    kept: BTreeMap<(i64, u64), Kept>,
    n_taken: u64,
    all: Aggregate,
    transcripts: Transcripts,
}

struct Found {
    kept: Vec<Kept>,
    all: Aggregate,
    transcripts: Transcripts,
}

impl<'a> Scan<'a> {
    fn new(finder: Finder<'a>, is_by_family: bool, n_kept_max: usize, protocol: Protocol) -> Scan<'a> {
        Scan {
            finder,
            is_by_family,
            n_kept_max,
            protocol,
            current: None,
            kept: BTreeMap::new(),
            n_taken: 0,
            all: Aggregate::default(),
            transcripts: Transcripts::default(),
        }
    }

    fn take(&mut self, transcript: &UsageTranscript, row: &UsageRow) {
        self.transcripts.note(&transcript.session_id);
        let is_same = self.current.as_ref().is_some_and(|current| match self.is_by_family {
            true => current.session_key == transcript.session_key,
            false => current.instances.last() == Some(&transcript.session_id),
        });
        if !is_same {
            self.close();
        }
        let current = self.current.get_or_insert_with(|| Kept {
            session_key: transcript.session_key.clone(),
            instances: Vec::new(),
            agent_id: transcript.agent_id.clone(),
            channel: None,
            summary: Summary::default(),
        });
        if current.instances.last() != Some(&transcript.session_id) {
            if current.instances.len() >= INSTANCES_MAX {
                current.instances.remove(0);
            }
            current.instances.push(transcript.session_id.clone());
            current.channel = transcript.channel.clone().or(current.channel.take());
        }
        current.summary.add(row, &mut self.finder);
    }

    fn close(&mut self) {
        let Some(done) = self.current.take() else { return };
        self.all.add(&done.summary, &done.agent_id, shown_channel(done.channel.as_deref(), self.protocol));
        self.n_taken += 1;
        self.kept.insert((done.summary.last_ms(), self.n_taken), done);
        if self.kept.len() > self.n_kept_max {
            self.kept.pop_first();
        }
    }

    fn finish(mut self) -> Found {
        self.close();
        Found { kept: self.kept.into_values().collect(), all: self.all, transcripts: self.transcripts }
    }
}

/// A channel as it is told: on protocol 4 only those on which something is delivered.
fn shown_channel(channel: Option<&str>, protocol: Protocol) -> Option<&str> {
    channel.filter(|channel| protocol == Protocol::V3 || *channel != WEBCHAT)
}

/// How a session is shown.
struct Show<'a> {
    snapshot: &'a Snapshot,
    protocol: Protocol,
    now_ms: i64,
    has_weight: bool,
    /// Where transcripts are, as far as the caller may know.
    store: String,
}

/// What is told of a session from its row.
const OF_ROW: [&str; 6] = ["chatType", "origin", "modelOverride", "providerOverride", "modelProvider", "model"];
/// Sessions whose prompt is weighed in one answer, the ones heard of last: each takes reading its workspace's files.
pub const WEIGHED_MAX: usize = 50;

impl Show<'_> {
    /// The session, which is the `place`th to be shown.
    fn session(&self, db: &Queries, place: usize, kept: Kept, is_by_family: bool) -> Result<Value, RpcError> {
        let Kept { session_key, instances, agent_id, channel, summary } = kept;
        let newest = instances.last().cloned().unwrap_or_default();
        let session = db.session(&session_key)?.filter(|session| is_by_family || session.session_id == newest);
        let session_id = session.as_ref().map_or(newest, |session| session.session_id.clone());
        let key = match (&session, is_by_family) {
            (None, false) => format!("agent:{agent_id}:{session_id}"),
            _ => session_key,
        };
        let mut usage = summary.wire(&session_id, self.protocol);
        usage["sessionFile"] = json!(format!("sqlite:{agent_id}:{session_id}:{}", self.store));
        let mut out = json!({
            "key": key,
            "sessionId": session_id,
            "updatedAt": session.as_ref().map_or(summary.last_ms(), |session| session.updated_ms),
            "agentId": agent_id,
            "usage": usage,
        });
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                out[name] = value;
            }
        };
        let of_session = session.as_ref().and_then(|session| session.channel.clone());
        let channel = of_session.or(channel);
        set("channel", shown_channel(channel.as_deref(), self.protocol).map(|channel| json!(channel)));
        if let Some(session) = &session {
            let shown = row::wire(session, &self.snapshot.session_rows());
            let name = session.label.as_deref().or(shown["displayName"].as_str());
            set("label", name.map(|name| json!(name)));
            let is_delivered = shown_channel(channel.as_deref(), self.protocol).is_some();
            for name in OF_ROW.into_iter().filter(|name| *name != "origin" || is_delivered) {
                set(name, shown.get(name).filter(|value| !value.is_null()).cloned());
            }
        }
        if self.protocol == Protocol::V4 {
            set("creatorKey", Some(json!(CREATOR)));
            set("scope", Some(json!(if is_by_family { "family" } else { "instance" })));
            // Nothing is put before a model until one is asked.
            let was_asked = session.as_ref().is_some_and(|session| session.entry.contains_key("systemSent"));
            set("hasContextWeight", Some(json!(was_asked)));
            if is_by_family {
                set("sessionFamilyKey", Some(json!(key)));
                set("currentSessionId", Some(json!(session_id)));
                set("historicalInstanceCount", Some(json!(instances.len())));
                set("includedSessionIds", Some(json!(instances)));
            }
        }
        if self.has_weight {
            let models = || self.snapshot.models.get();
            let weigh = |session| weight::weigh(&self.snapshot.config, &models(), session, self.now_ms);
            let weight = session.as_ref().filter(|_| place < WEIGHED_MAX).and_then(weigh);
            set("contextWeight", Some(json!(weight)));
        }
        Ok(out)
    }
}

/// The session that `sessions.usage.*` means; the error says what it is for.
fn one(
    db: &Queries,
    params: &Map<String, Value>,
    what: &str,
    snapshot: &Snapshot,
) -> Result<(String, Option<Target>), RpcError> {
    let text = |name: &str| params.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let Some(key) = text("key") else { return Err(RpcError::invalid(format!("key is required for {what}"))) };
    let agent = text("agentId").map(|agent| NonEmpty(agent.to_owned()));
    match Target::find(db, key, agent.as_ref(), snapshot) {
        Err(error) if error.code == ErrorCode::InvalidRequest => {
            Err(RpcError::invalid(format!("Invalid session key: {key}")))
        }
        target => Ok((key.to_owned(), target?)),
    }
}

/// A number of things, between one and a bound.
fn up_to(params: &Map<String, Value>, name: &str, default: usize, max: usize) -> usize {
    let asked = params.get(name).and_then(Value::as_f64).filter(|n| n.is_finite());
    asked.map_or(default, |n| (n.max(1.0) as usize).min(max))
}

pub(super) fn timeseries(cx: QueryCx<'_>, params: Loose) -> Result<Value, RpcError> {
    let db = cx.store.get()?;
    let (key, target) = one(db, &params.0, "timeseries", &cx.snapshot)?;
    let n_max = up_to(&params.0, "maxPoints", series::POINTS, series::POINTS_MAX);
    let known = match target {
        Some(Target { session_id: id, .. }) if db.transcript_count(&id)? > 0 => Some(id),
        Some(Target { session_id: id, .. }) if db.usage_transcript(&id)?.is_some() => Some(id),
        _ => None,
    };
    let Some(session_id) = known else {
        return Err(RpcError::invalid(format!("No transcript found for session: {key}")));
    };
    let points = series::points(db, &session_id, n_max)?;
    Ok(json!({ "sessionId": session_id, "points": points }))
}

pub(super) fn logs(cx: QueryCx<'_>, params: Loose) -> Result<Value, RpcError> {
    let db = cx.store.get()?;
    let (_, target) = one(db, &params.0, "logs", &cx.snapshot)?;
    let n_max = up_to(&params.0, "limit", series::LINES, series::LINES_MAX);
    let lines = match target {
        Some(target) => series::lines(db, &target.session_id, n_max)?,
        None => Vec::new(),
    };
    Ok(json!({ "logs": lines }))
}
