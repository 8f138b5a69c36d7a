//! What was spent: counted when a message is added, told by day, session, model, agent, channel and tool.
//!
//! [`note`] counts a message, in the transaction that adds it to its transcript. Everything else reads what was counted:
//! [`days`] says what a day is and which are meant, [`totals`] adds up tokens, dollars, messages and time, [`summary`]
//! is one session's part and the sum of all, [`series`] follows one session point by point.
//!
//! **Invariant:** a price that is not known is counted as missing; no dollar is made up. **Invariant:** what is read is
//! summed as it comes: memory is taken by days, models and tools that occur, not by messages.

pub mod days;
pub mod series;
pub mod summary;
pub mod totals;

use serde_json::Value;

use crate::store::StoreError;
use crate::store::db::Db;
use crate::store::sessions::SessionRow;
use crate::store::usage::{Spent, USAGE_TOOLS_MAX, UsageOf, UsageRole, UsageRow};

/// Field of a session: how many of its answers cost what nobody knows. `estimatedCostUsd` is without them.
pub const UNPRICED: &str = "unpricedAnswers";
/// Reasons to stop that are failures.
const FAILED_STOPS: [&str; 3] = ["error", "aborted", "timeout"];

/// Counts a message that was added to `session`.
///
/// # Errors
/// The store's.
pub fn note(db: &Db<'_>, session: &SessionRow, role: &str, message: &Value, at_ms: i64) -> Result<(), StoreError> {
    let Some(role) = UsageRole::of(role) else { return Ok(()) };
    let spent = spent(message);
    // What the gateway notes for itself is no message.
    if role == UsageRole::System && spent.is_none() {
        return Ok(());
    }
    let is_error = match role {
        UsageRole::Assistant => message["stopReason"].as_str().is_some_and(|stop| FAILED_STOPS.contains(&stop)),
        _ => message["isError"] == true,
    };
    let of = UsageOf {
        session_id: &session.session_id,
        session_key: &session.key,
        agent_id: &session.agent_id,
        channel: session.channel.as_deref(),
    };
    db.usage_append(&of, &UsageRow { at_ms, role, is_error, latency_ms: None, spent, tools: tools(message) })
}

/// What a message says a model took for it.
pub fn spent(message: &Value) -> Option<Spent> {
    let usage = message.get("usage").filter(|usage| usage.is_object())?;
    let tokens = |name: &str| usage[name].as_u64().unwrap_or(0);
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    let mut spent = Spent {
        provider: text("provider"),
        model: text("model"),
        input: tokens("input"),
        output: tokens("output"),
        cache_read: tokens("cacheRead"),
        cache_write: tokens("cacheWrite"),
        cost: None,
    };
    let cost = usage.get("cost").filter(|cost| cost.is_object());
    spent.cost = match cost {
        Some(cost) => {
            Some(["input", "output", "cacheRead", "cacheWrite"].map(|name| cost[name].as_f64().unwrap_or(0.0)))
        }
        // Nothing costs nothing, whatever the price.
        None => (totals::tokens(&spent) == 0).then_some([0.0; 4]),
    };
    Some(spent)
}

/// The tools a message calls.
fn tools(message: &Value) -> Vec<String> {
    let blocks = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let calls = blocks.iter().filter(|block| block["type"] == "toolCall");
    calls.filter_map(|call| call["name"].as_str()).take(USAGE_TOOLS_MAX).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
