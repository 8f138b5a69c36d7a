//! What was spent: by day (`usage.cost`), by session (`sessions.usage` and what belongs to it), and of subscriptions
//! (`usage.status`).
//!
//! [`asked`] reads which days are meant, [`sessions`] has what is shown of sessions. Everything is summed from what the
//! store counted when messages were added; no transcript is read for it but by `sessions.usage.logs`.

pub mod asked;
pub mod sessions;
pub mod status;

use serde_json::{Map, Value};

use self::asked::DaysAsked;
use crate::gateway::cost_cache::Kept;
use crate::gateway::effect::{Done, Effect, Job, Origin, Work};
use crate::gateway::table::{Call, need};
use crate::gateway::{Fact, Gateway};
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::params::Loose;
use crate::protocol::session_key::agent_id;
use crate::protocol::version::Protocol;
use crate::sessions::usage::summary::Costs;
use crate::store::db::Queries;
use crate::store::usage::UsageFilter;

crate::methods! {
    "usage.status",              Both,  need::READ, need::READ, Flow  status::status;
    "usage.cost",                Both,  need::READ, need::READ, Flow  cost;
    "sessions.usage",            Never, need::READ, need::READ, Query sessions::usage;
    "sessions.usage.timeseries", Never, need::READ, need::READ, Query sessions::timeseries;
    "sessions.usage.logs",       Never, need::READ, need::READ, Query sessions::logs;
}

/// Days that are all shown, whether something was spent or not; of more days only those on which something was.
const DAYS_SHOWN_MAX: i64 = 366;

/// What `usage.cost` reads; it takes no notice of anything else, as upstream.
const COST_FIELDS: [&str; 9] =
    ["days", "startDate", "endDate", "range", "mode", "utcOffset", "timeZone", "agentId", "agentScope"];

fn cost(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<(), RpcError> {
    let fields: Map<String, Value> =
        params.0.into_iter().filter(|(name, _)| COST_FIELDS.contains(&name.as_str())).collect();
    let protocol = call.protocol();
    let agent = whose(&fields, &gateway.keys.default_agent, protocol)?;
    let question = json!([protocol.number(), agent, fields]).to_string();
    if let Some(answer) = gateway.cost_cache.get(&question, call.now_ms) {
        let answer = answer.clone();
        gateway.answer_request(call.conn(), &call.id, Ok(answer));
        return Ok(());
    }
    let now_ms = call.now_ms;
    let work = Work::Query(Box::new(move |store| {
        let asked = DaysAsked::read(&fields);
        let answer = Json::of(&costs(store.get()?, &asked, agent, protocol, now_ms)?)?;
        let kept = Kept { question, at_ms: now_ms, answer: answer.clone() };
        Ok(Done { answer: Some(answer), facts: vec![Fact::Costs(Box::new(kept))] })
    }));
    let origin = Origin::Request { conn: call.conn(), id: call.id.clone(), method: call.method };
    gateway.effects.push_back(Effect::Start(Job { origin, work }));
    Ok(())
}

/// The agent whose costs are meant; `None`: all of them. Protocol 3 knows no agents here.
fn whose(fields: &Map<String, Value>, default_agent: &str, protocol: Protocol) -> Result<Option<String>, RpcError> {
    if protocol == Protocol::V3 {
        return Ok(None);
    }
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    match (text("agentId"), text("agentScope") == Some("all")) {
        (Some(_), true) => Err(RpcError::invalid("agentScope=all cannot be combined with agentId")),
        (None, true) => Ok(None),
        (Some(agent), false) => Ok(Some(agent_id(agent))),
        (None, false) => Ok(Some(default_agent.to_owned())),
    }
}

fn costs(
    db: &Queries,
    asked: &DaysAsked<'_>,
    agent_id: Option<String>,
    protocol: Protocol,
    now_ms: i64,
) -> Result<Value, RpcError> {
    let (days, range) = asked.resolve(now_ms)?;
    let filter = UsageFilter { since_ms: range.start_ms, until_ms: range.end_ms, agent_id, ..UsageFilter::default() };
    let (mut costs, mut finder) = (Costs::default(), days.finder());
    let mut transcripts = Transcripts::default();
    db.usage_each(&filter, |transcript, row| {
        transcripts.note(&transcript.session_id);
        costs.add(&row, &mut finder);
    })?;
    if protocol == Protocol::V4 && range.n_days() <= DAYS_SHOWN_MAX {
        costs.show(range.dates());
    }
    let mut out = json!({
        "updatedAt": now_ms,
        "days": range.n_days(),
        "daily": costs.daily(protocol),
        "totals": costs.totals().wire(protocol),
    });
    if protocol == Protocol::V4 {
        out["cacheStatus"] = transcripts.status(now_ms);
    }
    Ok(out)
}

/// How many transcripts were looked at, as they come one after the other.
#[derive(Debug, Default)]
struct Transcripts {
    n_seen: u64,
    last: String,
}

impl Transcripts {
    fn note(&mut self, session_id: &str) {
        if self.last != session_id {
            self.n_seen += 1;
            session_id.clone_into(&mut self.last);
        }
    }

    /// Sums are never behind: they are made of what was counted with each message. Clients wait for those that are.
    fn status(&self, now_ms: i64) -> Value {
        json!({
            "status": "fresh",
            "cachedFiles": self.n_seen,
            "pendingFiles": 0,
            "staleFiles": 0,
            "refreshedAt": now_ms,
        })
    }
}
