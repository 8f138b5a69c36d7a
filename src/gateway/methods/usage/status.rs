//! `usage.status`: what providers say of subscriptions.
//!
//! They may take seconds to answer, so they are asked once for everybody who wants to know meanwhile: never more than one
//! thread of the query lane waits for them.

use serde_json::Value;

use crate::agent::quota::{self, Quota};
use crate::gateway::cost_cache::Kept;
use crate::gateway::dispatch::BUSY_RETRY_MS;
use crate::gateway::effect::{Done, Effect, Job, Origin, Work};
use crate::gateway::table::Call;
use crate::gateway::{Fact, Gateway};
use crate::protocol::ConnId;
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::json::json;
use crate::protocol::params::Loose;
use crate::protocol::version::Protocol;
use crate::runtime::stop::Stop;
use crate::sessions::usage::totals::number;

/// Calls that wait for providers at once; one more is to come again.
pub const WAITERS_MAX: usize = 64;

/// A call that waits for what providers say.
#[derive(Debug)]
pub struct Waiter {
    conn: ConnId,
    id: String,
    protocol: Protocol,
}

/// What an answer is kept under.
fn question(protocol: Protocol) -> String {
    format!("usage.status {}", protocol.number())
}

/// Providers are asked when nobody was told lately and nobody is asking; one that does not answer is told of by its error.
pub(super) fn status(gateway: &mut Gateway, call: &Call, _: Loose) -> Result<(), RpcError> {
    let protocol = call.protocol();
    if let Some(answer) = gateway.cost_cache.get(&question(protocol), call.now_ms) {
        let answer = answer.clone();
        gateway.answer_request(call.conn(), &call.id, Ok(answer));
        return Ok(());
    }
    if gateway.quota_waiters.len() >= WAITERS_MAX {
        return Err(RpcError::busy("Too many calls wait for the providers.", BUSY_RETRY_MS));
    }
    // Somebody waits as long as they are asked, and no longer: what comes of it answers all who wait.
    let is_asked = !gateway.quota_waiters.is_empty();
    gateway.quota_waiters.push(Waiter { conn: call.conn(), id: call.id.clone(), protocol });
    if is_asked {
        return Ok(());
    }
    let (models, now_ms) = (gateway.models(), call.now_ms);
    let work = Work::Query(Box::new(move |_| {
        let quotas = quota::ask(&models.get(), &Stop::default(), now_ms);
        let kept = |protocol| -> Result<Fact, RpcError> {
            let providers: Vec<Value> = quotas.iter().map(|quota| wire(quota, protocol)).collect();
            let answer = Json::of(&json!({ "updatedAt": now_ms, "providers": providers }))?;
            Ok(Fact::Costs(Box::new(Kept { question: question(protocol), at_ms: now_ms, answer })))
        };
        let facts = vec![kept(Protocol::V3)?, kept(Protocol::V4)?];
        Ok(Done { answer: None, facts })
    }));
    gateway.effects.push_back(Effect::Start(Job { origin: Origin::Quotas, work }));
    Ok(())
}

impl Gateway {
    /// Providers were asked, or could not be: tells everybody who waits.
    pub(in crate::gateway) fn quotas_told(&mut self, outcome: Result<Done, RpcError>) {
        let waiters = std::mem::take(&mut self.quota_waiters);
        let facts = match outcome {
            Ok(done) => done.facts,
            Err(error) => {
                for waiter in waiters {
                    self.answer_request(waiter.conn, &waiter.id, Err(error.clone()));
                }
                return;
            }
        };
        for fact in facts {
            let Fact::Costs(kept) = fact else { continue };
            for waiter in waiters.iter().filter(|waiter| question(waiter.protocol) == kept.question) {
                self.answer_request(waiter.conn, &waiter.id, Ok(kept.answer.clone()));
            }
            self.keep_costs(*kept);
        }
    }
}

fn wire(quota: &Quota, protocol: Protocol) -> Value {
    let windows: Vec<Value> = quota
        .windows
        .iter()
        .map(|window| {
            let mut out = json!({ "label": window.label, "usedPercent": number(window.used_percent) });
            if let Some(reset_ms) = window.reset_ms {
                out["resetAt"] = json!(reset_ms);
            }
            out
        })
        .collect();
    let mut out = json!({ "provider": quota.provider, "displayName": quota.name, "windows": windows });
    let summary = quota.summary.as_ref().filter(|_| protocol == Protocol::V4);
    for (name, text) in [("plan", quota.plan.as_ref()), ("summary", summary), ("error", quota.error.as_ref())] {
        if let Some(text) = text {
            out[name] = json!(text);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stage::Stage;

    #[test]
    fn whoever_asks_meanwhile_waits_with_the_first_and_one_too_many_is_to_come_again() {
        let mut stage = Stage::new(&json!({}));
        let mut begin = |protocol| stage.begin(protocol, "usage.status", &json!({}));
        for n in 0..WAITERS_MAX {
            let protocol = if n % 2 == 0 { Protocol::V3 } else { Protocol::V4 };
            assert_eq!(begin(protocol).unwrap(), None, "{n} waits");
        }
        let error = begin(Protocol::V4).unwrap_err();
        assert_eq!((error.retryable, error.retry_after_ms), (Some(true), Some(BUSY_RETRY_MS)));

        stage.run();

        assert!(stage.core.quota_waiters.is_empty(), "all are told");
        for protocol in [Protocol::V3, Protocol::V4] {
            assert!(stage.core.cost_cache.get(&question(protocol), stage.now.wall_ms).is_some());
        }
    }

    #[test]
    fn a_lane_without_room_leaves_nobody_waiting() {
        let mut stage = Stage::new(&json!({}));
        stage.begin(Protocol::V4, "usage.status", &json!({})).unwrap();
        let starts = |effect: &Effect| matches!(effect, Effect::Start(job) if job.origin == Origin::Quotas);
        assert_eq!(stage.core.effects.iter().filter(|effect| starts(effect)).count(), 1);
        stage.core.effects.clear();
        stage.core.shed(stage.now, Origin::Quotas, crate::gateway::Lane::Query);
        assert!(stage.core.quota_waiters.is_empty());
    }
}
