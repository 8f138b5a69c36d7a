//! `diagnostics.*`: what the gateway's parts are doing, and what happened in them lately.

use serde_json::{Value, json};

use crate::gateway::table::{Call, need};
use crate::gateway::{Gateway, Lane, inbound};
use crate::protocol::error::RpcError;
use crate::protocol::params::Loose;
use crate::runtime::metrics::{DEFEND_ACTIVE, DEFEND_DEPTH, QUERY_ACTIVE, QUERY_DEPTH};

crate::methods! {
    "diagnostics.lanes", V4, need::READ, need::READ, Loop lanes;
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
