//! `secrets.*`: where the configuration takes secrets from. No value leaves, but to who may resolve it.

use serde_json::{Value, json};

use crate::gateway::Fact;
use crate::gateway::reload;
use crate::gateway::table::{QueryCx, need};
use crate::protocol::error::RpcError;
use crate::protocol::params::Loose;

crate::methods! {
    "secrets.reload", V4, need::ADMIN, need::ADMIN, QueryFacts reload_secrets;
}

fn reload_secrets(cx: QueryCx<'_>, _params: Loose) -> Result<(Value, Vec<Fact>), RpcError> {
    let loaded = reload::read(&cx.snapshot.load_inputs).map_err(|error| RpcError::unavailable(error.to_string()))?;
    let answer = json!({ "ok": true, "warningCount": loaded.document.warnings.len() });
    Ok((answer, vec![Fact::Config(Box::new(loaded))]))
}
