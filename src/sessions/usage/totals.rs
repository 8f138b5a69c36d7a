//! Adding up: tokens and dollars, messages, time.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::protocol::json::json;
use crate::protocol::version::Protocol;
use crate::store::usage::{Spent, UsageRole, UsageRow};

/// Points that stand for all latencies of a session or a day: enough for the 95th of a hundred to be right within a few
/// percent, however many there are.
pub const LATENCY_POINTS_MAX: usize = 64;

/// All tokens of an answer.
pub fn tokens(spent: &Spent) -> u64 {
    [spent.output, spent.cache_read, spent.cache_write].into_iter().fold(spent.input, u64::saturating_add)
}

/// Dollars of an answer whose price is known.
pub fn dollars(spent: &Spent) -> Option<f64> {
    spent.cost.map(|cost| cost.iter().sum())
}

/// A number as JavaScript writes it: without a fraction where it has none.
pub fn number(number: f64) -> Value {
    let is_whole = number.fract() == 0.0 && number.abs() < 9.0e15;
    if is_whole { json!(number as i64) } else { json!(number) }
}

/// Tokens, and dollars as far as prices are known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Read anew, written, read from the cache, written to it.
    tokens: [u64; 4],
    /// Dollars of the same.
    costs: [f64; 4],
    /// Answers whose price is not known,
    missing: u64,
    /// by `provider/model`.
    missing_by_model: BTreeMap<String, u64>,
}

impl Totals {
    /// Adds an answer.
    pub fn add(&mut self, spent: &Spent) {
        let tokens = [spent.input, spent.output, spent.cache_read, spent.cache_write];
        for (sum, n) in self.tokens.iter_mut().zip(tokens) {
            *sum = sum.saturating_add(n);
        }
        match spent.cost {
            Some(costs) => {
                for (sum, cost) in self.costs.iter_mut().zip(costs) {
                    *sum += cost;
                }
            }
            None => {
                self.missing += 1;
                *self.missing_by_model.entry(format!("{}/{}", spent.provider, spent.model)).or_default() += 1;
            }
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Totals) {
        for (sum, n) in self.tokens.iter_mut().zip(other.tokens) {
            *sum = sum.saturating_add(n);
        }
        for (sum, cost) in self.costs.iter_mut().zip(other.costs) {
            *sum += cost;
        }
        self.missing += other.missing;
        for (model, n) in &other.missing_by_model {
            *self.missing_by_model.entry(model.clone()).or_default() += n;
        }
    }

    /// All tokens.
    pub fn tokens(&self) -> u64 {
        self.tokens.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// All dollars that are known.
    pub fn dollars(&self) -> f64 {
        self.costs.iter().sum()
    }

    /// Answers whose price is not known.
    pub fn n_missing(&self) -> u64 {
        self.missing
    }

    /// As clients see it.
    pub fn wire(&self, protocol: Protocol) -> Map<String, Value> {
        let mut out = Map::new();
        let [input, output, cache_read, cache_write] = self.tokens;
        for (name, value) in [
            ("input", json!(input)),
            ("output", json!(output)),
            ("cacheRead", json!(cache_read)),
            ("cacheWrite", json!(cache_write)),
            ("totalTokens", json!(self.tokens())),
            ("totalCost", number(self.dollars())),
            ("inputCost", number(self.costs[0])),
            ("outputCost", number(self.costs[1])),
            ("cacheReadCost", number(self.costs[2])),
            ("cacheWriteCost", number(self.costs[3])),
            ("missingCostEntries", json!(self.missing)),
        ] {
            out.insert(name.to_owned(), value);
        }
        if protocol == Protocol::V4 && !self.missing_by_model.is_empty() {
            out.insert("missingCostByModel".to_owned(), json!(self.missing_by_model));
        }
        out
    }
}

/// Messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of people.
    pub user: u64,
    /// Of models.
    pub assistant: u64,
    /// Tools that models called.
    pub tool_calls: u64,
    /// Answers of tools.
    pub tool_results: u64,
    /// Failures: answers that ended badly, and tools'.
    pub errors: u64,
}

impl Counts {
    /// Adds a message.
    pub fn add(&mut self, row: &UsageRow) {
        match row.role {
            UsageRole::User => self.user += 1,
            UsageRole::Assistant => self.assistant += 1,
            UsageRole::ToolResult => self.tool_results += 1,
            UsageRole::System => {}
        }
        self.tool_calls += row.tools.len() as u64;
        self.errors += u64::from(row.is_error);
    }

    /// Adds another count.
    pub fn merge(&mut self, other: &Counts) {
        self.user += other.user;
        self.assistant += other.assistant;
        self.tool_calls += other.tool_calls;
        self.tool_results += other.tool_results;
        self.errors += other.errors;
    }

    /// Messages of people and models.
    pub fn total(&self) -> u64 {
        self.user + self.assistant
    }

    /// As clients see it.
    pub fn wire(&self) -> Value {
        json!({
            "total": self.total(),
            "user": self.user,
            "assistant": self.assistant,
            "toolCalls": self.tool_calls,
            "toolResults": self.tool_results,
            "errors": self.errors,
        })
    }
}

/// How long answers took. Up to [`LATENCY_POINTS_MAX`] different times are kept as they are; beyond it neighbours are
/// taken together, the nearest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latency {
    count: u64,
    sum_ms: u64,
    min_ms: u64,
    max_ms: u64,
    /// Milliseconds, and how many answers took about that; in order.
    points: Vec<(f64, u64)>,
    /// The largest 95th of sums that were added; 0 while single answers are added.
    p95_ms: f64,
}

impl Latency {
    /// Adds an answer.
    pub fn add(&mut self, ms: u64) {
        self.widen(ms, ms, 1, ms);
        let at = self.points.partition_point(|(point, _)| *point < ms as f64);
        match self.points.get_mut(at) {
            Some((point, n)) if *point == ms as f64 => *n += 1,
            _ => self.points.insert(at, (ms as f64, 1)),
        }
        if self.points.len() > LATENCY_POINTS_MAX {
            self.join_nearest();
        }
    }

    /// Adds what is known of other answers. Their 95th cannot be had from two of them: the larger one is shown, as
    /// upstream does.
    pub fn merge(&mut self, other: &Latency) {
        if other.count == 0 {
            return;
        }
        let p95_ms = self.p95().max(other.p95());
        self.widen(other.min_ms, other.max_ms, other.count, other.sum_ms);
        self.p95_ms = p95_ms;
    }

    fn widen(&mut self, min_ms: u64, max_ms: u64, count: u64, sum_ms: u64) {
        self.min_ms = if self.count == 0 { min_ms } else { self.min_ms.min(min_ms) };
        self.max_ms = self.max_ms.max(max_ms);
        self.count += count;
        self.sum_ms = self.sum_ms.saturating_add(sum_ms);
    }

    fn join_nearest(&mut self) {
        let gap = |idx: &usize| self.points[idx + 1].0 - self.points[*idx].0;
        let nearest = (0..self.points.len() - 1).min_by(|a, b| gap(a).total_cmp(&gap(b)));
        let Some(idx) = nearest else { return };
        let (right, n_right) = self.points.remove(idx + 1);
        let (left, n_left) = &mut self.points[idx];
        *left = (*left * *n_left as f64 + right * n_right as f64) / (*n_left + n_right) as f64;
        *n_left += n_right;
    }

    fn p95(&self) -> f64 {
        if self.points.is_empty() {
            return self.p95_ms;
        }
        let wanted = (self.count * 95).div_ceil(100);
        let mut seen = 0;
        let at = self.points.iter().find(|(_, n)| {
            seen += n;
            seen >= wanted
        });
        at.map_or(self.max_ms as f64, |(ms, _)| *ms).max(self.p95_ms)
    }

    /// As clients see it; `None`: nothing was answered.
    pub fn wire(&self) -> Option<Map<String, Value>> {
        if self.count == 0 {
            return None;
        }
        let mut out = Map::new();
        for (name, value) in [
            ("count", json!(self.count)),
            ("avgMs", number(self.sum_ms as f64 / self.count as f64)),
            ("p95Ms", number(self.p95())),
            ("minMs", json!(self.min_ms)),
            ("maxMs", json!(self.max_ms)),
        ] {
            out.insert(name.to_owned(), value);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_price_is_counted_by_model_and_adds_no_dollar() {
        let known = Spent { input: 1, output: 2, cost: Some([0.25, 0.5, 0.0, 0.0]), ..Spent::default() };
        let unknown = Spent { provider: "p".into(), model: "m".into(), input: 3, cost: None, ..Spent::default() };
        let mut totals = Totals::default();
        for spent in [&known, &unknown, &unknown] {
            totals.add(spent);
        }
        let mut sum = Totals::default();
        sum.merge(&totals);
        assert_eq!(sum, totals);
        let wire = Value::Object(sum.wire(Protocol::V4));
        assert_eq!((wire["totalTokens"].clone(), wire["totalCost"].clone()), (json!(9), json!(0.75)));
        assert_eq!((wire["missingCostEntries"].clone(), wire["cacheReadCost"].clone()), (json!(2), json!(0)));
        assert_eq!(wire["missingCostByModel"], json!({ "p/m": 2 }));
        assert!(!sum.wire(Protocol::V3).contains_key("missingCostByModel"), "protocol 3 has no such field");
    }

    #[test]
    fn latencies_are_exact_while_they_are_few() {
        let mut latency = Latency::default();
        assert_eq!(latency.wire(), None);
        for ms in (1..=20).rev() {
            latency.add(ms);
        }
        let wire = Value::Object(latency.wire().unwrap());
        assert_eq!(wire, json!({ "count": 20, "avgMs": 10.5, "p95Ms": 19, "minMs": 1, "maxMs": 20 }));
    }

    #[test]
    fn many_latencies_take_a_bounded_room_and_stay_nearly_right() {
        let mut latency = Latency::default();
        for n in 0..10_000_u64 {
            latency.add(n * 7919 % 10_000);
        }
        assert_eq!(latency.points.len(), LATENCY_POINTS_MAX);
        assert_eq!((latency.min_ms, latency.max_ms, latency.count), (0, 9999, 10_000));
        assert!((latency.p95() - 9500.0).abs() < 500.0, "{}", latency.p95());
    }

    #[test]
    fn of_two_sums_the_slower_one_gives_the_95th() {
        let (mut fast, mut slow, mut both) = (Latency::default(), Latency::default(), Latency::default());
        fast.add(10);
        slow.add(900);
        for latency in [&fast, &slow, &Latency::default()] {
            both.merge(latency);
        }
        let wire = Value::Object(both.wire().unwrap());
        assert_eq!(wire, json!({ "count": 2, "avgMs": 455, "p95Ms": 900, "minMs": 10, "maxMs": 900 }));
    }
}
