//! `sessions.search`: which messages have some words.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::find::ListParams;
use super::whole_key;
use crate::gateway::Snapshot;
use crate::gateway::table::QueryCx;
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{self, Int, Issues, NonEmpty, Param, Params, Text};
use crate::protocol::session_key::agent_id;
use crate::sessions::row;
use crate::sessions::search::{HITS_MAX, Hit, Search};
use crate::store::db::Queries;
use crate::store::sessions::{SESSION_LIST_ROWS_MAX, SessionFilter, SessionRow};

/// Hits when nothing is said.
const HITS: usize = 10;
/// Sessions that a call may name.
pub const KEYS_MAX: usize = 200;

crate::params! {
    /// What, and where.
    pub struct SearchParams {
        query: Text<1, 4096> = "query",
        limit: Option<Int<1, { HITS_MAX as i64 }>> = "limit",
        agent_id: Option<NonEmpty> = "agentId",
        session_keys: Option<Keys> = "sessionKeys",
        scope: Option<Scope> = "scope",
    }
}

/// The sessions to look through, by their keys.
#[derive(Debug, Clone)]
pub struct Keys(Vec<NonEmpty>);

impl Param for Keys {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let keys = Vec::<NonEmpty>::read(value, path, issues)?;
        let wrong = match keys.len() {
            0 => "must not have fewer than 1 items".to_owned(),
            n if n > KEYS_MAX => format!("must not have more than {KEYS_MAX} items"),
            _ => return Some(Keys(keys)),
        };
        issues.wrong(path, wrong);
        None
    }
}

/// The sessions to look through, as a list is asked for, without what is about the list itself.
#[derive(Debug, Clone)]
pub struct Scope(ListParams);

/// Fields of a list that say how it is shown.
const ABOUT_LISTS: [&str; 7] = [
    "limit",
    "offset",
    "includeDerivedTitles",
    "includeLastMessage",
    "ownerFirst",
    "includePeople",
    "includeActivitySummary",
];

impl Param for Scope {
    fn read(value: &Value, path: &str, issues: &mut Issues) -> Option<Self> {
        let Value::Object(object) = value else {
            issues.wrong(path, "must be object");
            return None;
        };
        for name in ABOUT_LISTS.into_iter().filter(|name| params::find(object, name).is_some()) {
            issues.unexpected(path, name);
        }
        <ListParams as Params>::read_fields(object, path, issues).map(Scope)
    }
}

pub(super) fn search(cx: QueryCx<'_>, params: SearchParams) -> Result<Value, RpcError> {
    let query = params.query.0.trim();
    if query.is_empty() {
        return Err(RpcError::invalid("query must not be empty"));
    }
    let limit = params.limit.map_or(HITS, |limit| limit.0 as usize);
    let mut search = Search::new(query, limit);
    let db = cx.store.get()?;
    match &params.scope {
        Some(scope) => {
            if let Some(filter) = scope.0.filter(&cx.snapshot, cx.call.now_ms) {
                look_through(db, &mut search, &filter)?;
            }
        }
        None => match keys(&cx.snapshot, &params)? {
            Where::Keys(keys) => {
                for key in keys {
                    if let Some(session) = db.session(&key)?
                        && !search.look(db, &session)?
                    {
                        break;
                    }
                }
            }
            Where::Agent(agent) => {
                let filter = SessionFilter { agent_id: Some(agent), ..SessionFilter::default() };
                look_through(db, &mut search, &filter)?;
            }
        },
    }
    let (hits, is_truncated) = search.finish();
    let mut out = json!({ "results": hits.iter().map(wire).collect::<Vec<_>>() });
    if params.scope.is_some() {
        let keys: BTreeSet<&str> = hits.iter().map(|hit| hit.session_key.as_str()).collect();
        let rows = keys.into_iter().map(|key| db.session(key)).collect::<Result<Vec<_>, _>>()?;
        let context = cx.snapshot.session_rows();
        let show = |session: &SessionRow| row::wire_v4(session, &context, cx.call.now_ms);
        out["sessions"] = Value::Array(rows.iter().flatten().map(show).collect());
    }
    if is_truncated {
        out["truncated"] = json!(true);
    }
    Ok(out)
}

/// Looks through the sessions of a filter, the one that changed last first.
fn look_through(db: &Queries, search: &mut Search, filter: &SessionFilter) -> Result<(), RpcError> {
    let mut offset = 0;
    loop {
        let page = db.session_list(filter, offset, SESSION_LIST_ROWS_MAX)?;
        for session in &page.sessions {
            if !search.look(db, session)? {
                return Ok(());
            }
        }
        if !page.has_more {
            return Ok(());
        }
        offset += page.sessions.len();
    }
}

enum Where {
    /// These sessions.
    Keys(Vec<String>),
    /// All of an agent.
    Agent(String),
}

/// The sessions of a call without a scope: those it names, all of one agent; else the default agent's.
fn keys(snapshot: &Snapshot, params: &SearchParams) -> Result<Where, RpcError> {
    let agent = params.agent_id.as_ref().map(|agent| agent_id(&agent.0));
    let Some(named) = &params.session_keys else {
        return match agent {
            None => Ok(Where::Agent(snapshot.keys.default_agent.clone())),
            Some(agent) if snapshot.config.settings.agents.get(&agent).is_some() => {
                Err(RpcError::invalid("agentId requires sessionKeys"))
            }
            // What an agent left that is configured no more is found by its name.
            Some(agent) => Ok(Where::Agent(agent)),
        };
    };
    let mut whole = Vec::new();
    let mut owners = BTreeSet::new();
    for key in &named.0 {
        let key = whole_key(key, None, &snapshot.keys)?;
        owners.insert(key.agent().unwrap_or(&snapshot.keys.default_agent).to_owned());
        whole.push(key.as_str().to_owned());
    }
    owners.extend(agent);
    if owners.len() > 1 {
        return Err(RpcError::invalid("sessions.search supports one agent per call"));
    }
    Ok(Where::Keys(whole))
}

fn wire(hit: &Hit) -> Value {
    let fields = [
        ("sessionKey", json!(hit.session_key)),
        ("sessionId", json!(hit.session_id)),
        ("messageId", json!(hit.message_id)),
        ("role", json!(hit.role)),
        ("timestamp", json!(hit.at_ms.max(0))),
        ("snippet", json!(hit.excerpt)),
        ("score", json!(hit.score)),
    ];
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}
