//! `usage.status`: what providers say of subscriptions.

use serde_json::{Value, json};

use crate::agent::quota::{self, Quota};
use crate::gateway::cost_cache::Kept;
use crate::gateway::effect::{Done, Effect, Job, Origin, Work};
use crate::gateway::table::Call;
use crate::gateway::{Fact, Gateway};
use crate::protocol::error::RpcError;
use crate::protocol::frame::Json;
use crate::protocol::params::Loose;
use crate::protocol::version::Protocol;
use crate::runtime::stop::Stop;
use crate::sessions::usage::totals::number;

/// Providers are asked when nobody was told lately; one that does not answer is told of by its error.
pub(super) fn status(gateway: &mut Gateway, call: &Call, _: Loose) -> Result<(), RpcError> {
    let protocol = call.protocol();
    let question = format!("usage.status {}", protocol.number());
    if let Some(answer) = gateway.cost_cache.get(&question, call.now_ms) {
        let answer = answer.clone();
        gateway.answer_request(call.conn(), &call.id, Ok(answer));
        return Ok(());
    }
    let (models, now_ms) = (gateway.models(), call.now_ms);
    let work = Work::Query(Box::new(move |_| {
        let quotas = quota::ask(&models.get(), &Stop::default(), now_ms);
        let providers: Vec<Value> = quotas.iter().map(|quota| wire(quota, protocol)).collect();
        let answer = Json::of(&json!({ "updatedAt": now_ms, "providers": providers }))?;
        let kept = Kept { question, at_ms: now_ms, answer: answer.clone() };
        Ok(Done { answer: Some(answer), facts: vec![Fact::Costs(Box::new(kept))] })
    }));
    let origin = Origin::Request { conn: call.conn(), id: call.id.clone(), method: call.method };
    gateway.effects.push_back(Effect::Start(Job { origin, work }));
    Ok(())
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
