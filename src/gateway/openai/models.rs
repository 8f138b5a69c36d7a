//! `GET /v1/models`: every agent is a model.

use std::collections::BTreeSet;

use serde_json::Value;

use super::asked::is_model;
use super::trouble::Trouble;
use crate::config::settings::agents::Agents;
use crate::gateway::http::{HttpResponse, decoded};
use crate::gateway::routes::json_response;
use crate::protocol::json::json;

/// The path of the list; a model's is below it.
pub(super) const PATH: &str = "/v1/models";

/// Answers for the list, or for one of it.
pub(super) fn answer(agents: &Agents, path: &str) -> HttpResponse {
    let Some(asked) = path.strip_prefix(PATH).filter(|rest| !rest.is_empty()) else {
        let data: Vec<Value> = ids(agents).iter().map(|id| model(id)).collect();
        return json_response(200, &json!({ "object": "list", "data": data }));
    };
    let asked = asked.trim_start_matches('/');
    if asked.is_empty() {
        return Trouble::invalid("Missing model id.").response();
    }
    let Some(id) = decoded(asked) else {
        return Trouble::invalid("Invalid model id encoding.").response();
    };
    if !is_model(&id) {
        return Trouble::invalid("Invalid model id.").response();
    }
    match ids(agents).contains(&id) {
        true => json_response(200, &model(&id)),
        false => Trouble::not_found(format!("Model '{id}' not found.")).response(),
    }
}

/// The two names of the default agent, then every agent's; each once.
fn ids(agents: &Agents) -> Vec<String> {
    let named = agents.list.iter().map(|agent| format!("openclaw/{}", agent.id));
    let all = ["openclaw".to_owned(), "openclaw/default".to_owned()].into_iter().chain(named);
    let mut seen = BTreeSet::new();
    all.filter(|id| seen.insert(id.clone())).collect()
}

fn model(id: &str) -> Value {
    json!({ "id": id, "object": "model", "created": 0, "owned_by": "openclaw", "permission": [] })
}
