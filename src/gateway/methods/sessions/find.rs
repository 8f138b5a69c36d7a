//! Finding sessions and showing them.

use serde_json::Value;

use super::{Keyed, Label, session_key, whole_key};
use crate::gateway::Snapshot;
use crate::gateway::table::{Call, QueryCx};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{Count, Int, Issues, Loose, NonEmpty, Object, Param, Positive};
use crate::protocol::session_key::{SessionKey, agent_id};
use crate::protocol::version::Protocol;
use crate::sessions::resolve::{Found, Selector};
use crate::sessions::{history, list as beside, preview as previews, resolve as resolving, row};
use crate::store::db::Queries;
use crate::store::sessions::{SESSION_LIST_ROWS_MAX, SessionFilter, SessionOrder, SessionPage, SessionRow};

/// Sessions listed when nothing is said: what each protocol's own gateways would, protocol 3 bounded (SES-25).
const LIST_ROWS_V3: usize = 200;
const LIST_ROWS_V4: usize = 100;

crate::params! {
    /// Which sessions, and what of each. Filters combine with AND.
    pub struct ListParams {
        limit: Option<Positive> = "limit",
        active_minutes: Option<Positive> = "activeMinutes",
        include_global: Option<bool> = "includeGlobal",
        include_unknown: Option<bool> = "includeUnknown",
        include_derived_titles: Option<bool> = "includeDerivedTitles",
        include_last_message: Option<bool> = "includeLastMessage",
        label: Option<Label> = "label",
        spawned_by: Option<NonEmpty> = "spawnedBy",
        agent_id: Option<NonEmpty> = "agentId",
        search: Option<String> = "search",
        // Ours on both protocols (SES-25).
        channel: Option<NonEmpty> = "channel",
        to: Option<NonEmpty> = "to",
        account_id: Option<NonEmpty> = "accountId",
        thread_id: Option<NonEmpty> = "threadId",
        @v4 {
            offset: Option<Count> = "offset",
            sort_by: Option<SortBy> = "sortBy",
            require_last_interaction: Option<bool> = "requireLastInteraction",
            exclude_subagents: Option<bool> = "excludeSubagents",
            exclude_cron: Option<bool> = "excludeCron",
            exclude_system: Option<bool> = "excludeSystem",
            configured_agents_only: Option<bool> = "configuredAgentsOnly",
            group: Option<String> = "group",
            pinned: Option<bool> = "pinned",
            archived: Option<Archived> = "archived",
            board_face: Option<BoardFace> = "boardFace",
            // Nothing runs longer than the turn it begins in, no session works in a folder or project of its own, and
            // there are no boards and named people: the true answer to these is an empty list.
            active_only: Option<bool> = "activeOnly",
            has_board: Option<bool> = "hasBoard",
            workspace_dir: Option<NonEmpty> = "workspaceDir",
            project_id: Option<NonEmpty> = "projectId",
            creator_id: Option<NonEmpty> = "creatorId",
            owner_id: Option<NonEmpty> = "ownerId",
            profile_relation: Option<Object> = "profileRelation",
            involving_profile_id: Option<NonEmpty> = "involvingProfileId",
            // And to these the whole list: the one person there is takes part in every session, owners come first
            // where nobody owns, and every row names the state of its summary.
            involving_me: Option<bool> = "involvingMe",
            owner_first: Option<bool> = "ownerFirst",
            include_people: Option<bool> = "includePeople",
            include_activity_summary: Option<bool> = "includeActivitySummary",
        }
    }
}

macro_rules! constants {
    ( $(#[$meta:meta])* $name:ident { $( $variant:ident = $word:literal ),* } ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( #[doc = $word] $variant ),* }

        impl Param for $name {
            fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
                match super::read_constant(&[$($word),*], value, path, issues)? {
                    $( $word => Some($name::$variant), )*
                    _ => None,
                }
            }
        }
    };
}

constants! {
    /// What a list is sorted by, the newest first.
    SortBy { UpdatedAt = "updatedAt", LastInteractionAt = "lastInteractionAt", Activity = "activity" }
}

constants! {
    /// The side of a session that is shown first.
    BoardFace { Chat = "chat", Dashboard = "dashboard" }
}

/// Whether a list shows sessions that were put away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archived {
    /// Only these, or only others.
    Only(bool),
    /// Both.
    All,
}

impl Param for Archived {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        match value {
            Value::Bool(only) => Some(Archived::Only(*only)),
            Value::String(word) if word == "all" => Some(Archived::All),
            _ => {
                for why in ["must be boolean", "must be equal to constant", "must match a schema in anyOf"] {
                    issues.wrong(path, why);
                }
                None
            }
        }
    }
}

impl ListParams {
    /// What is asked of the store; `None` when nothing can be in the list.
    pub(super) fn filter(&self, snapshot: &Snapshot, now_ms: i64) -> Option<SessionFilter> {
        let is = |flag: Option<bool>| flag == Some(true);
        let nobody =
            [&self.workspace_dir, &self.project_id, &self.creator_id, &self.owner_id, &self.involving_profile_id];
        if is(self.active_only)
            || is(self.has_board)
            || self.profile_relation.is_some()
            || nobody.iter().any(|id| id.is_some())
        {
            return None;
        }
        let text = |value: &Option<NonEmpty>| value.as_ref().map(|text| text.0.trim().to_owned());
        let mut kinds_excluded = Vec::new();
        // An agent's list never holds what belongs to no agent.
        for (kind, wanted) in [("global", self.include_global), ("unknown", self.include_unknown)] {
            if wanted == Some(false) || self.agent_id.is_some() {
                kinds_excluded.push(kind.to_owned());
            }
        }
        let mut key_parts_excluded = Vec::new();
        for (flag, parts) in [
            (self.exclude_subagents, [":subagent:"].as_slice()),
            (self.exclude_cron, &[":cron:"]),
            (self.exclude_system, &[":hook:", ":heartbeat", ":node-"]),
        ] {
            if is(flag) {
                key_parts_excluded.extend(parts);
            }
        }
        Some(SessionFilter {
            label: self.label.as_ref().map(|label| label.0.clone()),
            agent_id: self.agent_id.as_ref().map(|agent| agent_id(&agent.0)),
            spawned_by: text(&self.spawned_by),
            channel: text(&self.channel).map(|channel| channel.to_lowercase()),
            peer: text(&self.to),
            account_id: text(&self.account_id),
            thread_id: text(&self.thread_id),
            active_since_ms: self.active_minutes.map(|minutes| now_ms.saturating_sub(minutes.0.saturating_mul(60_000))),
            search: self.search.as_ref().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
            kinds_excluded,
            agents: is(self.configured_agents_only)
                .then(|| snapshot.config.settings.agents.list.iter().map(|agent| agent.id.clone()).collect()),
            key_parts_excluded,
            archived: match self.archived {
                None => Some(false),
                Some(Archived::Only(only)) => Some(only),
                Some(Archived::All) => None,
            },
            pinned: self.pinned,
            category: self.group.as_ref().map(|group| group.trim().to_owned()),
            board_face: self.board_face.map(|face| match face {
                BoardFace::Chat => "chat".to_owned(),
                BoardFace::Dashboard => "dashboard".to_owned(),
            }),
            has_interaction: is(self.require_last_interaction),
            order: match self.sort_by {
                None | Some(SortBy::UpdatedAt) => SessionOrder::Updated,
                Some(SortBy::LastInteractionAt) => SessionOrder::Interaction,
                Some(SortBy::Activity) => SessionOrder::Activity,
            },
        })
    }
}

pub(super) fn list(cx: QueryCx<'_>, params: ListParams) -> Result<Value, RpcError> {
    listed(cx.store.get()?, &cx.snapshot, &cx.call, &params)
}

/// The list itself, which a subscription may ask for as well.
pub(super) fn listed(db: &Queries, snapshot: &Snapshot, call: &Call, params: &ListParams) -> Result<Value, RpcError> {
    let protocol = call.protocol();
    let context = snapshot.session_rows();
    let unlimited = if protocol == Protocol::V3 { LIST_ROWS_V3 } else { LIST_ROWS_V4 };
    let limit = params.limit.map_or(unlimited, |limit| (limit.0 as usize).min(SESSION_LIST_ROWS_MAX));
    let offset = params.offset.map_or(0, |offset| offset.0 as usize);
    let (page, n_total) = match params.filter(snapshot, call.now_ms) {
        Some(filter) => db.snapshot(|db| {
            let page = db.session_list(&filter, offset, limit)?;
            let n_seen = (offset + page.sessions.len()) as u64;
            // The end of the list says how long it is; otherwise every session is looked at once more.
            let is_end = !page.has_more && (offset == 0 || !page.sessions.is_empty());
            let n_total = if is_end || protocol == Protocol::V3 { n_seen } else { db.session_count(&filter)? };
            Ok::<_, RpcError>((page, n_total))
        })?,
        None => (SessionPage { sessions: Vec::new(), has_more: false }, 0),
    };
    let SessionPage { sessions, has_more } = page;
    let rows = sessions
        .iter()
        .map(|session| {
            let mut row = shown(session, &context, call);
            adorn(db, session, &mut row, params.include_derived_titles, params.include_last_message)?;
            Ok(row)
        })
        .collect::<Result<Vec<Value>, RpcError>>()?;
    let path = match call.caller.is_admin() {
        true => format!("{}/{}", snapshot.state_dir, crate::store::dir::DATABASE_FILE),
        false => "(multiple)".to_owned(),
    };
    let mut out = json!({ "ts": call.now_ms, "path": path, "count": rows.len() });
    if protocol == Protocol::V4 {
        row::set_all(
            &mut out,
            json!({
                "totalCount": n_total,
                "limitApplied": limit,
                "nextOffset": has_more.then_some(offset + rows.len()),
                "hasMore": has_more,
                "owners": [],
            }),
        );
    }
    out["defaults"] = if protocol == Protocol::V3 { context.defaults() } else { context.defaults_v4() };
    out["sessions"] = Value::Array(rows);
    Ok(out)
}

/// The row of a session in the caller's protocol.
fn shown(session: &SessionRow, context: &row::Context<'_>, call: &Call) -> Value {
    match call.protocol() {
        Protocol::V3 => row::wire(session, context),
        Protocol::V4 => row::wire_v4(session, context, call.now_ms),
    }
}

/// Adds to a row what its transcript tells, where asked for.
fn adorn(
    db: &Queries,
    session: &SessionRow,
    row: &mut Value,
    titles: Option<bool>,
    last_message: Option<bool>,
) -> Result<(), RpcError> {
    if titles == Some(true) {
        row["derivedTitle"] = json!(beside::title(db, session)?);
    }
    if last_message == Some(true)
        && let Some(said) = beside::last_message(db, session)?
    {
        row["lastMessagePreview"] = json!(said);
    }
    Ok(())
}

crate::params! {
    /// Which sessions, and how much of each.
    pub struct PreviewParams {
        keys: Keys = "keys",
        limit: Option<Positive> = "limit",
        max_chars: Option<Int<20, { i64::MAX }>> = "maxChars",
    }
}

/// At least one key. Only the first [`previews::KEYS_MAX`] are looked at.
#[derive(Debug, Clone)]
pub struct Keys(Vec<NonEmpty>);

impl Param for Keys {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let keys = Vec::<NonEmpty>::read(value, path, issues)?;
        if keys.is_empty() {
            let not = if issues.protocol() == Protocol::V3 { "NOT" } else { "not" };
            issues.wrong(path, format!("must {not} have fewer than 1 items"));
            return None;
        }
        Some(Keys(keys))
    }
}

pub(super) fn preview(cx: QueryCx<'_>, params: PreviewParams) -> Result<Value, RpcError> {
    let ask = previews::Ask {
        items: params.limit.map_or(previews::ITEMS, |limit| limit.0 as usize),
        chars: params.max_chars.map_or(previews::ITEM_CHARS, |chars| chars.0 as usize),
    };
    let db = cx.store.get()?;
    let mut out = Vec::new();
    for key in params.keys.0.iter().take(previews::KEYS_MAX) {
        let shown = match session_key(&key.0, None, &cx.snapshot.keys) {
            // One session that cannot be read does not spoil the others.
            Ok(whole) => previews::of(db, whole.as_str(), ask).unwrap_or_else(|error| {
                log::warn!("cannot preview session key={whole} error={error}");
                json!({ "status": "error", "items": [] })
            }),
            Err(_) => json!({ "status": "error", "items": [] }),
        };
        let mut row = json!({ "key": key.0 });
        row::set_all(&mut row, shown);
        out.push(row);
    }
    Ok(json!({ "ts": cx.call.now_ms, "previews": out }))
}

crate::params! {
    /// What is known of the session.
    pub struct ResolveParams {
        key: Option<NonEmpty> = "key",
        session_id: Option<NonEmpty> = "sessionId",
        label: Option<Label> = "label",
        agent_id: Option<NonEmpty> = "agentId",
        spawned_by: Option<NonEmpty> = "spawnedBy",
        include_global: Option<bool> = "includeGlobal",
        include_unknown: Option<bool> = "includeUnknown",
        // Ours on both protocols (SES-31).
        channel: Option<NonEmpty> = "channel",
        to: Option<NonEmpty> = "to",
        account_id: Option<NonEmpty> = "accountId",
        thread_id: Option<NonEmpty> = "threadId",
        @v4 {
            reference: Option<Reference> = "reference",
            short_id: Option<NonEmpty> = "shortId",
            slug_hint: Option<NonEmpty> = "slugHint",
            allow_missing: Option<bool> = "allowMissing",
        }
    }
}

crate::params! {
    /// A key as it stands in a link; the slug is for people.
    pub struct Reference {
        key: NonEmpty = "key",
        slug: Option<NonEmpty> = "slug",
    }
}

pub(super) fn resolve(cx: QueryCx<'_>, params: Keyed<ResolveParams>) -> Result<Value, RpcError> {
    let params = params.0;
    let protocol = cx.call.protocol();
    let as_written = params.key.as_ref().or(params.reference.as_ref().map(|reference| &reference.key));
    let key = match as_written.filter(|key| !key.0.trim().is_empty()) {
        Some(key) => {
            let whole = session_key(&key.0, None, &cx.snapshot.keys)?;
            Some((whole.as_str().to_owned(), key.0.trim().to_owned()))
        }
        None => None,
    };
    let text = |value: &Option<NonEmpty>| value.as_ref().map(|text| text.0.trim().to_owned());
    let excluded = [("global", params.include_global), ("unknown", params.include_unknown)];
    let selector = Selector {
        key,
        session_id: text(&params.session_id),
        label: params.label.as_ref().map(|label| label.0.trim().to_owned()),
        short_id: text(&params.short_id),
        filter: SessionFilter {
            agent_id: params.agent_id.as_ref().map(|agent| agent_id(&agent.0)),
            spawned_by: text(&params.spawned_by),
            channel: text(&params.channel).map(|channel| channel.to_lowercase()),
            peer: text(&params.to),
            account_id: text(&params.account_id),
            thread_id: text(&params.thread_id),
            kinds_excluded: excluded
                .iter()
                .filter(|(_, wanted)| *wanted == Some(false))
                .map(|(kind, _)| (*kind).to_owned())
                .collect(),
            ..SessionFilter::default()
        },
    };
    let found = resolving::find(cx.store.get()?, &selector, protocol)?;
    match found {
        Ok(Found::One(session)) => Ok(resolved(&session, protocol)),
        Ok(Found::Several(sessions)) => {
            let hint = params.slug_hint.as_ref().map(|slug| slug.0.as_str());
            if let Some(session) = hinted(&sessions, hint) {
                return Ok(resolved(session, protocol));
            }
            let candidates: Vec<Value> = sessions.iter().map(candidate).collect();
            Ok(json!({ "ok": false, "candidates": candidates }))
        }
        Err(_) if params.allow_missing == Some(true) => Ok(json!({ "ok": false })),
        Err(why) => Err(RpcError::invalid(why)),
    }
}

/// The one of several sessions whose name is hinted at.
fn hinted<'s>(sessions: &'s [SessionRow], hint: Option<&str>) -> Option<&'s SessionRow> {
    let wanted = hint.map(|slug| slug.trim().to_lowercase());
    let mut fits = sessions.iter().filter(|session| wanted.is_some() && slug(session) == wanted);
    fits.next().filter(|_| fits.next().is_none())
}

/// The session of an agent that a short id means.
pub(in crate::gateway::methods) fn by_short_id(
    db: &Queries,
    short_id: Option<String>,
    agent_id: Option<String>,
    hint: Option<&str>,
) -> Result<SessionKey, RpcError> {
    let filter = SessionFilter { agent_id, ..SessionFilter::default() };
    let selector = Selector { short_id, filter, ..Selector::default() };
    let found = match resolving::find(db, &selector, Protocol::V4)? {
        Ok(Found::One(session)) => Ok(session.key),
        Ok(Found::Several(sessions)) => match hinted(&sessions, hint) {
            Some(session) => Ok(session.key.clone()),
            None => Err("several sessions could be meant; use the whole key".to_owned()),
        },
        Err(why) => Err(why),
    };
    found.map(SessionKey::stored).map_err(RpcError::invalid)
}

/// The answer for one session. Protocol 4's schema allows these fields and no others.
fn resolved(session: &SessionRow, protocol: Protocol) -> Value {
    let mut out = json!({ "ok": true });
    match protocol {
        Protocol::V3 => row::set_all(
            &mut out,
            json!({ "key": session.key, "sessionId": session.session_id, "entry": row::entry(session) }),
        ),
        Protocol::V4 => row::set_all(&mut out, candidate(session)),
    }
    out
}

fn candidate(session: &SessionRow) -> Value {
    let mut out = json!({ "key": session.key, "agentId": session.agent_id });
    if let Some(name) = name(session) {
        out["displayName"] = json!(name);
    }
    for name in ["boardFace", "boardPresentation"] {
        if let Some(value) = session.entry.get(name) {
            out[name] = value.clone();
        }
    }
    out
}

fn name(session: &SessionRow) -> Option<&str> {
    session.entry.get("displayName").and_then(Value::as_str).or(session.label.as_deref())
}

/// A session's name as it stands in links: lower case, words joined by hyphens.
fn slug(session: &SessionRow) -> Option<String> {
    let lower = name(session)?.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    Some(words.collect::<Vec<_>>().join("-"))
}

crate::params! {
    /// Which session, and what beside its row.
    pub struct DescribeParams {
        key: NonEmpty = "key",
        agent_id: Option<NonEmpty> = "agentId",
        include_derived_titles: Option<bool> = "includeDerivedTitles",
        include_last_message: Option<bool> = "includeLastMessage",
    }
}

pub(super) fn describe(cx: QueryCx<'_>, params: Keyed<DescribeParams>) -> Result<Value, RpcError> {
    let params = params.0;
    let key = whole_key(&params.key, params.agent_id.as_ref(), &cx.snapshot.keys)?;
    let db = cx.store.get()?;
    let Some(session) = db.session(key.as_str())? else { return Ok(json!({ "session": null })) };
    let mut row = row::wire_v4(&session, &cx.snapshot.session_rows(), cx.call.now_ms);
    adorn(db, &session, &mut row, params.include_derived_titles, params.include_last_message)?;
    Ok(json!({ "session": row }))
}

/// Messages given out by `sessions.get` when nothing is said.
const GET_ROWS: usize = 200;

/// The messages of a session, in the form of `chat.history`. Upstream reads these parameters by hand.
pub(super) fn get(cx: QueryCx<'_>, params: Loose) -> Result<Value, RpcError> {
    let text = |name: &str| params.0.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let Some(key) = text("key").or(text("sessionKey")) else { return Err(RpcError::invalid("key required")) };
    let agent = text("agentId").map(|agent| NonEmpty(agent.to_owned()));
    let key = session_key(key, agent.as_ref(), &cx.snapshot.keys)?;
    let limit = params.0.get("limit").and_then(Value::as_u64).map_or(GET_ROWS, |limit| limit.max(1) as usize);
    let db = cx.store.get()?;
    let messages = match db.session(key.as_str())? {
        Some(session) => {
            let ask = history::Ask {
                rows: limit,
                bytes: None,
                chars: None,
                skip_newest: 0,
                after: None,
                protocol: cx.call.protocol(),
            };
            history::read(db, &session.session_id, &ask)?.messages
        }
        None => Vec::new(),
    };
    Ok(json!({ "messages": messages }))
}
