use serde_json::json;

use super::days::{Asked, Days, parse};
use super::series;
use super::summary::{Aggregate, Costs, Summary};
use super::*;
use crate::protocol::session_key::SessionKey;
use crate::protocol::version::Protocol;
use crate::sessions::transcript::{self, New};
use crate::store::dir::StateDir;
use crate::store::open::{Database, OnDamage};
use crate::store::usage::UsageFilter;

const KEY: &str = "agent:main:main";

fn scratch() -> (tempfile::TempDir, Database) {
    let temp = tempfile::tempdir().unwrap();
    let dir = StateDir::open(temp.path()).unwrap();
    let database = Database::open(&dir, 0, OnDamage::Fail).unwrap().database;
    (temp, database)
}

/// Says something in [`KEY`], as the rest of the program does.
fn say(database: &mut Database, role: &'static str, content: Value, extra: &[(&str, Value)], at_ms: i64) {
    let key = SessionKey::stored(KEY.to_owned());
    let new = New { role, content, metadata: json!({}), idempotency_key: None, extra, route: None };
    database.write(|db| transcript::add(db, &key, &new, at_ms)).unwrap();
}

fn user(database: &mut Database, at_ms: i64) {
    say(database, "user", json!([{ "type": "text", "text": "hello" }]), &[], at_ms);
}

fn answer(database: &mut Database, input: u64, cost: Option<f64>, at_ms: i64) {
    let mut usage = json!({ "input": input, "output": 0, "cacheRead": 0, "cacheWrite": 0, "totalTokens": input });
    if let Some(dollars) = cost {
        usage["cost"] = json!({ "input": dollars, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": dollars });
    }
    let about = [("provider", json!("stub")), ("model", json!("m")), ("usage", usage), ("stopReason", json!("stop"))];
    say(database, "assistant", json!([{ "type": "text", "text": "yes" }]), &about, at_ms);
}

fn session_id(database: &Database) -> String {
    database.session(KEY).unwrap().unwrap().session_id
}

fn summarised(database: &Database, days: &Days) -> (Summary, Aggregate) {
    let (mut summary, mut finder) = (Summary::default(), days.finder());
    database.usage_each(&UsageFilter::default(), |_, row| summary.add(&row, &mut finder)).unwrap();
    let mut all = Aggregate::default();
    all.add(&summary, "main", Some("webchat"));
    (summary, all)
}

#[test]
fn what_is_added_is_counted_with_its_tools_and_failures() {
    let (_dir, mut database) = scratch();
    user(&mut database, 1_000);
    let calls =
        json!([{ "type": "toolCall", "id": "1", "name": "read" }, { "type": "toolCall", "id": "2", "name": "read" }]);
    let usage = json!({ "input": 10, "output": 6, "cacheRead": 0, "cacheWrite": 0,
                        "cost": { "input": 0.5, "output": 0.25, "cacheRead": 0, "cacheWrite": 0, "total": 0.75 } });
    let about = [("provider", json!("stub")), ("model", json!("m")), ("usage", usage)];
    say(&mut database, "assistant", calls, &about, 1_500);
    say(&mut database, "toolResult", json!([]), &[("toolName", json!("read")), ("isError", json!(true))], 1_600);
    answer(&mut database, 20, None, 3_000);
    say(&mut database, "assistant", json!([]), &[("stopReason", json!("error"))], 4_000);
    say(&mut database, "system", json!([]), &[], 5_000);

    let (summary, all) = summarised(&database, &Days::utc());
    let wire = summary.wire("id", Protocol::V4);
    let counts = json!({ "total": 4, "user": 1, "assistant": 3, "toolCalls": 2, "toolResults": 1, "errors": 2 });
    assert_eq!(wire["messageCounts"], counts);
    assert_eq!(wire["toolUsage"]["tools"], json!([{ "name": "read", "count": 2 }]));
    assert_eq!((wire["totalCost"].clone(), wire["missingCostEntries"].clone()), (json!(0.75), json!(1)));
    assert_eq!(
        wire["latency"],
        json!({ "count": 3, "avgMs": 5500.0 / 3.0, "p95Ms": 3000, "minMs": 500, "maxMs": 3000 })
    );
    assert_eq!(wire["durationMs"], 3_000);
    let all = all.wire(Protocol::V4);
    assert_eq!(all["messages"], counts);
    assert_eq!(all["byModel"][0]["count"], 2);
    assert_eq!(all["byAgent"][0]["totals"]["totalTokens"], 36);
    assert_eq!(all["byCreator"][0]["sessionActivity"], json!([{ "dates": ["1970-01-01"], "sessionCount": 1 }]));
}

#[test]
fn days_follow_the_zone_across_the_change_of_clocks() {
    let (_dir, mut database) = scratch();
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    // Sunday has 23 hours in Vienna: the second moment is its last minute, the third the first of Monday.
    for (n, time) in ["2026-03-28T23:30:00Z", "2026-03-29T21:59:00Z", "2026-03-29T22:00:00Z"].into_iter().enumerate() {
        answer(&mut database, 10_u64.pow(n as u32), Some(0.0), at(time));
    }
    let per_day = |days: &Days| -> Vec<(String, u64)> {
        let (mut costs, mut finder) = (Costs::default(), days.finder());
        database.usage_each(&UsageFilter::default(), |_, row| costs.add(&row, &mut finder)).unwrap();
        let rows = costs.daily(Protocol::V4);
        rows.iter()
            .map(|row| (row["date"].as_str().unwrap().to_owned(), row["totalTokens"].as_u64().unwrap()))
            .collect()
    };
    let day = |text: &str, n| (text.to_owned(), n);
    assert_eq!(per_day(&Days::of_zone("Europe/Vienna").unwrap()), [day("2026-03-29", 11), day("2026-03-30", 100)]);
    assert_eq!(per_day(&Days::utc()), [day("2026-03-28", 1), day("2026-03-29", 110)]);
    assert_eq!(per_day(&Days::of_offset("UTC+1").unwrap()), [day("2026-03-29", 111)]);
}

#[test]
fn days_on_which_nothing_was_spent_can_be_shown() {
    let (mut costs, days) = (Costs::default(), Days::utc());
    let (first, last) = (parse("2026-02-27").unwrap(), parse("2026-03-01").unwrap());
    costs.show(days.range(Asked::Between(first, last), 0).unwrap().dates());
    let dates: Vec<Value> = costs.daily(Protocol::V4).into_iter().map(|row| row["date"].clone()).collect();
    assert_eq!(dates, ["2026-02-27", "2026-02-28", "2026-03-01"]);
}

#[test]
fn a_series_has_at_most_its_points_and_loses_no_token() {
    let (_dir, mut database) = scratch();
    for n in 0..10 {
        answer(&mut database, 1, Some(0.5), n);
    }
    let id = session_id(&database);
    let tokens = |n_points_max| -> Vec<u64> {
        let points = series::points(&database, &id, n_points_max).unwrap();
        assert_eq!(points.last().unwrap()["cumulativeTokens"], 10);
        assert_eq!(points.last().unwrap()["cumulativeCost"], 5);
        points.iter().map(|point| point["totalTokens"].as_u64().unwrap()).collect()
    };
    assert_eq!(tokens(10), [1; 10]);
    assert_eq!(tokens(4), [3, 3, 3, 1]);
    assert_eq!(tokens(1), [10]);
    assert_eq!(series::points(&database, "nobody", 10).unwrap(), Vec::<Value>::new());
}

#[test]
fn lines_are_the_newest_and_tell_what_they_took() {
    let (_dir, mut database) = scratch();
    for n in 0..150 {
        say(&mut database, "user", json!([{ "type": "text", "text": format!("line {n}") }]), &[], n);
    }
    let long = "ä".repeat(series::LINE_CHARS_MAX + 1);
    say(&mut database, "toolResult", json!([{ "type": "text", "text": long }]), &[("toolName", json!("read"))], 200);
    answer(&mut database, 7, None, 201);
    let lines = series::lines(&database, &session_id(&database), 130).unwrap();
    assert_eq!(lines.len(), 130);
    assert_eq!(lines[0]["content"], "line 22");
    let tool = lines[128]["content"].as_str().unwrap();
    assert!(tool.starts_with("[Tool: read]\n[Tool Result]\nä") && tool.ends_with('…'), "{tool}");
    assert_eq!(tool.chars().count(), series::LINE_CHARS_MAX + 1);
    assert_eq!(lines[129], json!({ "timestamp": 201, "role": "assistant", "content": "yes", "tokens": 7 }));
    assert_eq!(series::lines(&database, "nobody", 10).unwrap(), Vec::<Value>::new());
}
