//! Words that wake a listening client.

use serde_json::Value;

use crate::gateway::records::{self, VOICEWAKE_DEFAULT, meta};
use crate::gateway::table::{Call, StoreCx, need};
use crate::gateway::{Fact, Gateway};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::Loose;
use crate::store::StoreError;

crate::methods! {
    "voicewake.get", Both, need::READ,  need::READ,  Loop  get;
    "voicewake.set", Both, need::WRITE, need::WRITE, Store set;
}

/// Words kept at most.
pub const TRIGGERS_MAX: usize = 32;
/// Characters of one word at most.
pub const TRIGGER_CHARS_MAX: usize = 64;

fn get(gateway: &mut Gateway, _call: &Call, _params: Loose) -> Result<Value, RpcError> {
    Ok(json!({ "triggers": gateway.voicewake }))
}

fn set(cx: StoreCx<'_>, params: Loose) -> Result<(Value, Vec<Fact>), StoreError> {
    let Some(list) = params.0.get("triggers").and_then(Value::as_array) else {
        return Err(RpcError::invalid("voicewake.set requires triggers: string[]").into());
    };
    let mut triggers: Vec<String> = list
        .iter()
        .filter_map(Value::as_str)
        .map(|word| word.trim().chars().take(TRIGGER_CHARS_MAX).collect::<String>())
        .filter(|word| !word.is_empty())
        .take(TRIGGERS_MAX)
        .collect();
    if triggers.is_empty() {
        triggers = VOICEWAKE_DEFAULT.iter().map(|word| (*word).to_owned()).collect();
    }
    records::put_meta(cx.db, meta::VOICEWAKE, &triggers, cx.call.now_ms)?;
    Ok((json!({ "triggers": triggers }), vec![Fact::Voicewake(triggers)]))
}
