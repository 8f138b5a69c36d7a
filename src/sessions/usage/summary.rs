//! One session's part, and the sum of all: what `sessions.usage` shows.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::days::Finder;
use super::totals::{Counts, Latency, Totals, number};
use crate::protocol::json::json;
use crate::protocol::version::Protocol;
use crate::store::usage::UsageRow;

/// Who made a session, as long as there is one person and nobody is told apart.
pub const CREATOR: &str = "[\"unknown\"]";

/// A provider and its model.
type Model = (String, String);

/// What one day of a session took.
#[derive(Clone, Debug, Default)]
struct Day {
    totals: Totals,
    counts: Counts,
    latency: Latency,
    models: BTreeMap<Model, OfModel>,
}

/// What one model took, and in how many answers.
#[derive(Clone, Debug, Default)]
struct OfModel {
    count: u64,
    totals: Totals,
}

impl OfModel {
    fn merge(&mut self, other: &OfModel) {
        self.count += other.count;
        self.totals.merge(&other.totals);
    }
}

/// What a session took.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    first_ms: Option<i64>,
    last_ms: i64,
    totals: Totals,
    counts: Counts,
    latency: Latency,
    days: BTreeMap<Date, Day>,
    /// By quarters of an hour since 1970, from which clients make days of zones of their own.
    quarters: BTreeMap<i64, (Counts, Totals)>,
    tools: BTreeMap<String, u64>,
    models: BTreeMap<Model, OfModel>,
}

const QUARTER_MS: i64 = 15 * 60 * 1000;
const QUARTERS_PER_DAY: i64 = 24 * 4;

impl Summary {
    /// Adds a message.
    pub fn add(&mut self, row: &UsageRow, finder: &mut Finder<'_>) {
        self.first_ms = Some(self.first_ms.map_or(row.at_ms, |first_ms| first_ms.min(row.at_ms)));
        self.last_ms = self.last_ms.max(row.at_ms);
        let day = self.days.entry(finder.date(row.at_ms)).or_default();
        let quarter = self.quarters.entry(row.at_ms.div_euclid(QUARTER_MS)).or_default();
        for counts in [&mut self.counts, &mut day.counts, &mut quarter.0] {
            counts.add(row);
        }
        if let Some(ms) = row.latency_ms {
            self.latency.add(ms);
            day.latency.add(ms);
        }
        for tool in &row.tools {
            *self.tools.entry(tool.clone()).or_default() += 1;
        }
        let Some(spent) = &row.spent else { return };
        for totals in [&mut self.totals, &mut day.totals, &mut quarter.1] {
            totals.add(spent);
        }
        let model = (spent.provider.clone(), spent.model.clone());
        for models in [&mut self.models, &mut day.models] {
            let of_model = models.entry(model.clone()).or_default();
            of_model.count += 1;
            of_model.totals.add(spent);
        }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.first_ms.is_none()
    }

    /// When something was last said.
    pub fn last_ms(&self) -> i64 {
        self.last_ms
    }

    fn duration_ms(&self) -> i64 {
        self.first_ms.map_or(0, |first_ms| self.last_ms - first_ms)
    }

    /// As clients see it.
    pub fn wire(&self, session_id: &str, protocol: Protocol) -> Value {
        let is_v4 = protocol == Protocol::V4;
        let daily = |of: &dyn Fn(&Date, &Day) -> Option<Value>| -> Vec<Value> {
            self.days.iter().filter_map(|(date, day)| of(date, day)).collect()
        };
        let spent = daily(&|date, day| {
            let mut out = if is_v4 { day.totals.wire(protocol) } else { Map::new() };
            out.insert("date".to_owned(), json!(date.to_string()));
            out.insert("tokens".to_owned(), json!(day.totals.tokens()));
            out.insert("cost".to_owned(), number(day.totals.dollars()));
            Some(Value::Object(out))
        });
        let counts = daily(&|date, day| Some(dated(date, day.counts.wire())));
        let latency = daily(&|date, day| Some(dated(date, Value::Object(day.latency.wire()?))));
        let mut models: Vec<Value> = Vec::new();
        for (date, day) in &self.days {
            models.extend(models_of_day(date, &day.models));
        }
        let mut out = self.totals.wire(protocol);
        let mut set = |name: &str, value: Value| {
            out.insert(name.to_owned(), value);
        };
        set("sessionId", json!(session_id));
        if let Some(first_ms) = self.first_ms {
            set("firstActivity", json!(first_ms));
            set("lastActivity", json!(self.last_ms));
            set("durationMs", json!(self.duration_ms()));
        }
        set("activityDates", json!(self.days.keys().map(Date::to_string).collect::<Vec<_>>()));
        set("dailyBreakdown", json!(spent));
        set("dailyMessageCounts", json!(counts));
        set("messageCounts", self.counts.wire());
        for (name, rows) in [("dailyLatency", latency), ("dailyModelUsage", models)] {
            if !rows.is_empty() {
                set(name, json!(rows));
            }
        }
        if !self.tools.is_empty() {
            set("toolUsage", tools(&self.tools));
        }
        if !self.models.is_empty() {
            set("modelUsage", json!(by_model(&self.models, protocol)));
        }
        if let Some(latency) = self.latency.wire() {
            set("latency", Value::Object(latency));
        }
        if is_v4 && !self.quarters.is_empty() {
            let (counts, tokens): (Vec<Value>, Vec<Value>) = self.quarters.iter().map(quarter).unzip();
            set("utcQuarterHourMessageCounts", json!(counts));
            set("utcQuarterHourTokenUsage", json!(tokens));
        }
        Value::Object(out)
    }
}

/// A value with its day.
fn dated(date: &Date, mut value: Value) -> Value {
    value["date"] = json!(date.to_string());
    value
}

/// One quarter of an hour: messages, and tokens.
fn quarter((number_of, (counts, totals)): (&i64, &(Counts, Totals))) -> (Value, Value) {
    let at = Timestamp::from_millisecond(number_of * QUARTER_MS).unwrap_or(Timestamp::UNIX_EPOCH);
    let date = at.to_zoned(TimeZone::UTC).date();
    let place = |mut value: Value| {
        value["quarterIndex"] = json!(number_of.rem_euclid(QUARTERS_PER_DAY));
        dated(&date, value)
    };
    let spent = totals.wire(Protocol::V4);
    let kept = ["input", "output", "cacheRead", "cacheWrite", "totalTokens", "totalCost"];
    let spent: Map<String, Value> = spent.into_iter().filter(|(name, _)| kept.contains(&name.as_str())).collect();
    (place(counts.wire()), place(Value::Object(spent)))
}

/// What models took on a day, the dearest first.
fn models_of_day(date: &Date, models: &BTreeMap<Model, OfModel>) -> Vec<Value> {
    let mut rows: Vec<(&Model, &OfModel)> = models.iter().collect();
    rows.sort_by(|(_, a), (_, b)| b.totals.dollars().total_cmp(&a.totals.dollars()));
    let row = |((provider, model), of_model): (&Model, &OfModel)| {
        json!({
            "date": date.to_string(),
            "provider": provider,
            "model": model,
            "tokens": of_model.totals.tokens(),
            "cost": number(of_model.totals.dollars()),
            "count": of_model.count,
        })
    };
    rows.into_iter().map(row).collect()
}

/// What models took, the dearest first.
fn by_model(models: &BTreeMap<Model, OfModel>, protocol: Protocol) -> Vec<Value> {
    let mut rows: Vec<(&Model, &OfModel)> = models.iter().collect();
    rows.sort_by(|(_, a), (_, b)| dearest_first(&a.totals, &b.totals));
    let row = |((provider, model), of_model): (&Model, &OfModel)| {
        json!({
            "provider": provider,
            "model": model,
            "count": of_model.count,
            "totals": of_model.totals.wire(protocol),
        })
    };
    rows.into_iter().map(row).collect()
}

fn dearest_first(a: &Totals, b: &Totals) -> std::cmp::Ordering {
    b.dollars().total_cmp(&a.dollars()).then(b.tokens().cmp(&a.tokens()))
}

/// Tools, the one called most first.
fn tools(tools: &BTreeMap<String, u64>) -> Value {
    let mut rows: Vec<(&String, &u64)> = tools.iter().collect();
    rows.sort_by(|a, b| b.1.cmp(a.1));
    json!({
        "totalCalls": tools.values().sum::<u64>(),
        "uniqueTools": tools.len(),
        "tools": rows.into_iter().map(|(name, count)| json!({ "name": name, "count": count })).collect::<Vec<_>>(),
    })
}

/// What all sessions took.
#[derive(Clone, Debug, Default)]
pub struct Aggregate {
    totals: Totals,
    counts: Counts,
    latency: Latency,
    n_sessions: u64,
    longest_ms: i64,
    days: BTreeMap<Date, Day>,
    tools: BTreeMap<String, u64>,
    models: BTreeMap<Model, OfModel>,
    agents: BTreeMap<String, Totals>,
    channels: BTreeMap<String, Totals>,
    /// How many sessions were held on just these days.
    activity: BTreeMap<Vec<Date>, u64>,
}

impl Aggregate {
    /// Adds a session of an agent, held on a channel.
    pub fn add(&mut self, summary: &Summary, agent_id: &str, channel: Option<&str>) {
        if summary.is_empty() {
            return;
        }
        self.totals.merge(&summary.totals);
        self.counts.merge(&summary.counts);
        self.latency.merge(&summary.latency);
        self.n_sessions += 1;
        self.longest_ms = self.longest_ms.max(summary.duration_ms());
        self.agents.entry(agent_id.to_owned()).or_default().merge(&summary.totals);
        if let Some(channel) = channel {
            self.channels.entry(channel.to_owned()).or_default().merge(&summary.totals);
        }
        for (date, day) in &summary.days {
            let all = self.days.entry(*date).or_default();
            all.totals.merge(&day.totals);
            all.counts.merge(&day.counts);
            all.latency.merge(&day.latency);
            for (model, of_model) in &day.models {
                all.models.entry(model.clone()).or_default().merge(of_model);
            }
        }
        for (tool, count) in &summary.tools {
            *self.tools.entry(tool.clone()).or_default() += count;
        }
        for (model, of_model) in &summary.models {
            self.models.entry(model.clone()).or_default().merge(of_model);
        }
        *self.activity.entry(summary.days.keys().copied().collect()).or_default() += 1;
    }

    /// Tokens and dollars of all.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// As clients see it.
    pub fn wire(&self, protocol: Protocol) -> Value {
        let is_v4 = protocol == Protocol::V4;
        let grouped = |name: &str, groups: &BTreeMap<String, Totals>| -> Vec<Value> {
            let mut rows: Vec<(&String, &Totals)> = groups.iter().collect();
            rows.sort_by(|a, b| b.1.dollars().total_cmp(&a.1.dollars()));
            rows.into_iter().map(|(id, totals)| json!({ name: id, "totals": totals.wire(protocol) })).collect()
        };
        let mut providers: BTreeMap<&String, OfModel> = BTreeMap::new();
        for ((provider, _), of_model) in &self.models {
            providers.entry(provider).or_default().merge(of_model);
        }
        let mut by_provider: Vec<(&String, OfModel)> = providers.into_iter().collect();
        by_provider.sort_by(|(_, a), (_, b)| dearest_first(&a.totals, &b.totals));
        let by_provider: Vec<Value> = by_provider
            .into_iter()
            .map(|(provider, all)| {
                json!({ "provider": provider, "count": all.count, "totals": all.totals.wire(protocol) })
            })
            .collect();
        let daily: Vec<Value> = self
            .days
            .iter()
            .map(|(date, day)| {
                json!({
                    "date": date.to_string(),
                    "tokens": day.totals.tokens(),
                    "cost": number(day.totals.dollars()),
                    "messages": day.counts.total(),
                    "toolCalls": day.counts.tool_calls,
                    "errors": day.counts.errors,
                })
            })
            .collect();
        let latency_of = |(date, day): (&Date, &Day)| Some(dated(date, Value::Object(day.latency.wire()?)));
        let mut out = json!({
            "messages": self.counts.wire(),
            "tools": tools(&self.tools),
            "byModel": by_model(&self.models, protocol),
            "byProvider": by_provider,
            "byAgent": grouped("agentId", &self.agents),
            "byChannel": grouped("channel", &self.channels),
            "dailyLatency": self.days.iter().filter_map(latency_of).collect::<Vec<_>>(),
            "modelDaily": self.days.iter().flat_map(|(date, day)| models_of_day(date, &day.models)).collect::<Vec<_>>(),
            "daily": daily,
        });
        if let Some(latency) = self.latency.wire() {
            out["latency"] = Value::Object(latency);
        }
        if is_v4 {
            out["sessionCount"] = json!(self.n_sessions);
            if self.longest_ms > 0 {
                out["longestSessionDurationMs"] = json!(self.longest_ms);
            }
            out["costDaily"] = json!(self.cost_daily());
            out["byCreator"] = self.by_creator();
        }
        out
    }

    fn cost_daily(&self) -> Vec<Value> {
        let row = |(date, day): (&Date, &Day)| dated(date, Value::Object(day.totals.wire(Protocol::V4)));
        self.days.iter().map(row).collect()
    }

    fn by_creator(&self) -> Value {
        if self.n_sessions == 0 {
            return json!([]);
        }
        let activity: Vec<Value> = self
            .activity
            .iter()
            .map(|(dates, n_sessions)| {
                json!({
                    "dates": dates.iter().map(Date::to_string).collect::<Vec<_>>(),
                    "sessionCount": n_sessions,
                })
            })
            .collect();
        json!([{
            "key": CREATOR,
            "totals": self.totals.wire(Protocol::V4),
            "sessionCount": self.n_sessions,
            "daily": self.cost_daily(),
            "sessionActivity": activity,
        }])
    }
}

/// What days took, and all of them: what `usage.cost` shows.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    totals: Totals,
    days: BTreeMap<Date, Totals>,
}

impl Costs {
    /// Adds a message.
    pub fn add(&mut self, row: &UsageRow, finder: &mut Finder<'_>) {
        if let Some(spent) = &row.spent {
            self.totals.add(spent);
            self.days.entry(finder.date(row.at_ms)).or_default().add(spent);
        }
    }

    /// Lets these days be shown although nothing was spent.
    pub fn show(&mut self, dates: impl Iterator<Item = Date>) {
        for date in dates {
            self.days.entry(date).or_default();
        }
    }

    /// All days together.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The days as clients see them.
    pub fn daily(&self, protocol: Protocol) -> Vec<Value> {
        let row = |(date, totals): (&Date, &Totals)| dated(date, Value::Object(totals.wire(protocol)));
        self.days.iter().map(row).collect()
    }
}
