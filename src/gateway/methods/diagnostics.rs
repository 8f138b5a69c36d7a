//! `diagnostics.*`: what the gateway's parts are doing, and what happened in them lately.

use serde_json::{Map, Value};

use crate::gateway::stability::{self, Entry, Memory, RECORDS_MAX};
use crate::gateway::table::{Call, need};
use crate::gateway::{Done, Effect, Gateway, Job, Lane, Origin, Work, inbound};
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::params::Loose;
use crate::runtime::clock;
use crate::runtime::metrics::{DEFEND_ACTIVE, DEFEND_DEPTH, QUERY_ACTIVE, QUERY_DEPTH};

crate::methods! {
    "diagnostics.lanes",     V4, need::READ,  need::READ, Loop lanes;
    "diagnostics.stability", V4, need::ADMIN, need::READ, Flow stability;
}

/// What waits and what is worked on. The store is not among the lanes: it takes all that waits in one transaction.
fn lanes(gateway: &mut Gateway, call: &Call, _params: Loose) -> Result<Value, RpcError> {
    let lane = |name: &str, queued: i64, active: i64, max: usize| {
        json!({
            "lane": name,
            "queuedCount": queued.max(0),
            "activeCount": active.max(0),
            "maxConcurrent": max,
            "draining": gateway.stopping,
            // Lanes are never torn down and made again while the daemon runs.
            "generation": 0,
            "blockedBy": null,
        })
    };
    let on_their_way = i64::try_from(gateway.inbound.len()).unwrap_or(i64::MAX);
    Ok(json!({
        "ts": call.now_ms,
        "lanes": [
            lane("intake", 0, on_their_way, inbound::MESSAGES_MAX),
            lane("query", QUERY_DEPTH.value(), QUERY_ACTIVE.value(), Lane::Query.threads()),
            lane("defend", DEFEND_DEPTH.value(), DEFEND_ACTIVE.value(), Lane::Defend.threads()),
        ],
        "dynamic": null,
    }))
}

/// Records given out when nothing is said.
const EVENTS_SHOWN: usize = 50;

/// What is asked of the records.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    since_seq: u64,
    kind: Option<String>,
    limit: usize,
}

impl Query {
    fn read(params: &Map<String, Value>) -> Result<Query, RpcError> {
        let count = |name: &str| match params.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or_else(|| RpcError::invalid(format!("{name} must be a non-negative integer"))),
        };
        let limit = count("limit")?.map_or(EVENTS_SHOWN, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if !(1..=RECORDS_MAX).contains(&limit) {
            return Err(RpcError::invalid(format!("limit must be between 1 and {RECORDS_MAX}")));
        }
        let kind = params.get("type").and_then(Value::as_str).map(str::trim).filter(|kind| !kind.is_empty());
        Ok(Query { since_seq: count("sinceSeq")?.unwrap_or(0), kind: kind.map(str::to_owned), limit })
    }
}

/// What happened lately, and what is held in memory now; the latter is read from files, so not on the loop.
fn stability(gateway: &mut Gateway, call: &Call, params: Loose) -> Result<(), RpcError> {
    let query = Query::read(&params.0)?;
    let records = gateway.stability.select(query.since_seq, query.kind.as_deref());
    let (records, dropped): (Vec<Entry>, u64) = (records.into_iter().cloned().collect(), gateway.stability.dropped());
    let now_ms = call.now_ms;
    let origin = Origin::Request { conn: call.conn(), id: call.id.clone(), method: call.method };
    let work = Work::Query(Box::new(move |_| {
        let answer = Json::of(&answer(&records, dropped, query.limit, &Memory::sample(), now_ms))?;
        Ok(Done { answer: Some(answer), facts: Vec::new() })
    }));
    gateway.effects.push_back(Effect::Start(Job { origin, work }));
    Ok(())
}

fn answer(records: &[Entry], dropped: u64, limit: usize, memory: &Memory, now_ms: i64) -> Value {
    let samples = || records.iter().filter_map(|record| record.details.memory.as_ref()).chain([memory]);
    let mut out = json!({
        "generatedAt": clock::iso(now_ms),
        "capacity": RECORDS_MAX,
        "count": records.len(),
        "dropped": dropped,
        "events": &records[records.len().saturating_sub(limit)..],
        "summary": {
            "byType": stability::by_kind(&records.iter().collect::<Vec<_>>()),
            "memory": {
                "latest": memory,
                "maxRssBytes": samples().map(|sample| sample.rss_bytes).max(),
                "maxHeapUsedBytes": samples().map(|sample| sample.heap_used_bytes).max(),
                // Nothing watches for pressure yet, so none was found.
                "pressureCount": 0,
            },
        },
    });
    if let (Some(first), Some(last)) = (records.first(), records.last()) {
        out["firstSeq"] = json!(first.seq);
        out["lastSeq"] = json!(last.seq);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stage::Stage;
    use crate::protocol::version::Protocol::V4;

    fn types(answer: &Value) -> Vec<&str> {
        answer["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn the_way_of_a_message_is_recorded_step_by_step() {
        let mut stage = Stage::new(&json!({ "agents": { "defaults": { "model": { "primary": "stub/test" } } } }));
        let params = json!({ "sessionKey": "main", "message": "secret words", "idempotencyKey": "k" });
        stage.begin(V4, "chat.send", &params).unwrap();
        stage.run();

        let answer = stage.ok(V4, "diagnostics.stability", &json!({}));

        assert_eq!(
            types(&answer),
            [
                "message.received",
                "message.queued",
                "queue.lane.enqueue",
                "message.dispatch.started",
                "queue.lane.dequeue",
                "message.dispatch.completed",
                "message.processed",
                "session.turn.created",
                "run.execution_phase",
            ]
        );
        assert_eq!(answer["events"][8]["provider"], "stub");
        assert_eq!(answer["summary"]["byType"]["message.received"], 1);
        assert_eq!(answer["summary"]["byType"]["model.call.started"], 0);
        assert!(answer["summary"]["memory"]["latest"]["rssBytes"].as_u64() > Some(0), "{answer}");
        assert!(answer["summary"]["memory"]["latest"]["workerHeaps"][0]["heapUsed"].as_u64() > Some(0), "{answer}");
        assert!(!answer.to_string().contains("secret words"), "{answer}");
    }

    #[test]
    fn records_are_asked_for_by_kind_number_and_count() {
        let mut stage = Stage::new(&json!({}));
        for _ in 0..3 {
            stage.core.note_shed(Lane::Query);
        }
        let answer = stage.ok(V4, "diagnostics.stability", &json!({ "sinceSeq": 1, "limit": 1 }));
        assert_eq!((&answer["count"], &answer["firstSeq"], &answer["lastSeq"]), (&json!(2), &json!(2), &json!(3)));
        assert_eq!(
            answer["events"],
            json!([{ "seq": 3, "ts": stage.now.wall_ms, "type": "job.shed", "source": "query" }])
        );
        let none = stage.ok(V4, "diagnostics.stability", &json!({ "type": "message.received" }));
        assert!(types(&none).is_empty() && none.get("firstSeq").is_none(), "{none}");
        let too_many = json!({ "limit": RECORDS_MAX + 1 });
        stage.refused(V4, "diagnostics.stability", &too_many, "limit must be between 1 and 1000");
        let why = "sinceSeq must be a non-negative integer";
        stage.refused(V4, "diagnostics.stability", &json!({ "sinceSeq": -1 }), why);
    }

    #[test]
    fn memory_is_sampled_from_time_to_time() {
        let mut stage = Stage::new(&json!({}));
        let every = stage.snapshot().config.settings.runtime.memory_sample;
        stage.pass(every);
        let answer = stage.ok(V4, "diagnostics.stability", &json!({ "type": "diagnostic.memory.sample" }));
        assert!(answer["events"][0]["memory"]["rssBytes"].as_u64() > Some(0), "{answer}");
    }
}
