//! The configured agents: who they are, what they are called, what lies in their workspaces.

pub mod browse;
pub mod files;
pub mod roster;

use serde_json::Value;

use super::models;
use crate::config::load::Loaded;
use crate::config::settings::agents::Agent;
use crate::gateway::Gateway;
use crate::gateway::table::{Call, need};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::params::{NonEmpty, Nothing};
use crate::protocol::session_key::{SessionKey, agent_id};
use crate::protocol::version::Protocol;
use crate::sessions::row;

crate::methods! {
    "agents.list",           Both, need::READ,  need::READ,  Loop  list;
    "agents.create",         Both, need::ADMIN, need::ADMIN, Store roster::create;
    "agents.update",         Both, need::ADMIN, need::ADMIN, Store roster::update;
    "agents.delete",         Both, need::ADMIN, need::ADMIN, Store roster::delete;
    "agents.files.list",     Both, need::READ,  need::READ,  Query files::list;
    "agents.files.get",      Both, need::READ,  need::READ,  Query files::get;
    "agents.files.set",      Both, need::ADMIN, need::ADMIN, Store files::set;
    "agents.workspace.list", V4,   need::ADMIN, need::READ,  Query browse::list;
    "agents.workspace.get",  V4,   need::ADMIN, need::READ,  Query browse::get;
    "agent.identity.get",    Both, need::READ,  need::READ,  Loop  identity;
}

fn list(gateway: &mut Gateway, call: &Call, _params: Nothing) -> Result<Value, RpcError> {
    let settings = &gateway.config.settings;
    let agents = settings.agents.list.iter().map(|agent| wire(&gateway.config, agent, call.protocol()));
    let agents: Vec<Value> = agents.collect();
    let mut out = json!({
        "defaultId": settings.agents.default_id,
        "mainKey": gateway.keys.main_key,
        "scope": settings.session.scope.as_str(),
        "agents": agents,
    });
    if call.protocol() == Protocol::V4 {
        out["ownership"] = json!("sole");
        out["selectionRequired"] = json!(false);
    }
    Ok(out)
}

fn wire(config: &Loaded, agent: &Agent, protocol: Protocol) -> Value {
    let mut out = json!({ "id": agent.id });
    if let Some(name) = &agent.name {
        out["name"] = json!(name);
    }
    let mut identity = json!({});
    for (field, value) in [
        ("name", &agent.identity.name),
        ("theme", &agent.identity.theme),
        ("emoji", &agent.identity.emoji),
        ("avatar", &agent.identity.avatar),
    ] {
        if let Some(value) = value {
            identity[field] = json!(value);
        }
    }
    if identity.as_object().is_some_and(|fields| !fields.is_empty()) {
        out["identity"] = identity;
    }
    if protocol == Protocol::V4 {
        out["workspace"] = json!(agent.workspace);
        // The Control UI takes an agent without a model for a gateway without a provider, so what it inherits counts.
        let choice = config.settings.agents.choice_of(&agent.id);
        let mut model = json!({});
        if let Some(primary) = &choice.primary {
            model["primary"] = json!(primary);
        }
        if !choice.fallbacks.is_empty() {
            model["fallbacks"] = json!(choice.fallbacks);
        }
        out["model"] = model;
        let chosen = row::Context::of(config).agent_model(&agent.id);
        let levels = chosen.thinking_levels();
        let labelled: Vec<Value> = levels.iter().map(|level| json!({ "id": level, "label": level })).collect();
        out["thinkingLevels"] = json!(labelled);
        out["thinkingOptions"] = json!(levels);
        let is_reasoning = chosen.known.is_some_and(|model| model.reasoning);
        out["thinkingDefault"] = json!(models::default_thinking(config, is_reasoning, levels));
    }
    out
}

crate::params! {
    /// Whose identity.
    pub struct IdentityParams {
        agent_id: Option<NonEmpty> = "agentId",
        session_key: Option<String> = "sessionKey",
    }
}

fn identity(gateway: &mut Gateway, call: &Call, params: IdentityParams) -> Result<Value, RpcError> {
    let refuse = |why: String| RpcError::invalid(format!("invalid agent.identity.get params: {why}"));
    let asked = params.agent_id.map(|id| agent_id(&id.0));
    let of_key = match params.session_key.as_deref().map(str::trim).filter(|key| !key.is_empty()) {
        None => None,
        Some(text) => {
            let key = SessionKey::parse(text, &gateway.keys)
                .map_err(|_| refuse(format!("malformed session key \"{text}\"")))?;
            key.agent().map(str::to_owned)
        }
    };
    if let (Some(asked), Some(own)) = (&asked, &of_key)
        && asked != own
    {
        // Protocol 4 looks the agent up before it compares.
        if call.protocol() == Protocol::V4 && gateway.config.settings.agents.get(asked).is_none() {
            return Err(RpcError::invalid(format!("Unknown agent id \"{asked}\"")));
        }
        return Err(refuse(format!("agent \"{asked}\" does not match session key agent \"{own}\"")));
    }
    let settings = &gateway.config.settings;
    let id = asked.clone().or(of_key).unwrap_or_else(|| settings.agents.default_id.clone());
    let agent = settings.agents.get(&id);
    let identity = agent.map(|agent| agent.identity.clone()).unwrap_or_default();
    let configured = identity.name.or_else(|| agent.and_then(|agent| agent.name.clone()));
    let configured = configured.or_else(|| settings.ui.assistant_name.clone());
    let source = if configured.is_some() { "config" } else { "default" };
    let name = configured.unwrap_or_else(|| "Assistant".to_owned());
    let initial: String = name.chars().next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    let avatar = identity.avatar.or_else(|| settings.ui.assistant_avatar.clone()).unwrap_or(initial);
    let mut out = json!({ "agentId": id, "name": name, "avatar": avatar });
    if let Some(emoji) = identity.emoji {
        out["emoji"] = json!(emoji);
    }
    if call.protocol() == Protocol::V4 {
        out["nameSource"] = json!(source);
    }
    Ok(out)
}
