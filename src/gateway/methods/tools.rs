//! Which tools there are, which of them an agent may use and why, and calling one.
//!
//! The catalog lists what this build has and nothing else; what is offered in a session is what a run there would be
//! offered, by the same policy ([`crate::tools::policy`]).

use serde_json::{Map, Value, json};

use super::{chat, models};
use crate::agent::invoke::Invoke;
use crate::agent::models::ModelRef;
use crate::agent::providers::table;
use crate::agent::run::Speaker;
use crate::agent::setting;
use crate::config::settings::tools::Profile;
use crate::gateway::Gateway;
use crate::gateway::invocations::Wanted;
use crate::gateway::table::{Call, QueryCx, need};
use crate::protocol::error::RpcError;
use crate::protocol::params::{NonEmpty, Object};
use crate::protocol::scope::Scope;
use crate::protocol::session_key::DEFAULT_AGENT;
use crate::runtime::random;
use crate::sessions::transcript;
use crate::tools::policy::names::{self, SECTIONS, Section};
use crate::tools::policy::{Policy, Verdict};
use crate::tools::{self, TOOLS, Tool};

crate::methods! {
    "tools.catalog",   V4,    need::ADMIN, need::READ,  Loop  catalog;
    "tools.effective", V4,    need::ADMIN, need::READ,  Query effective;
    "tools.explain",   Never, need::READ,  need::READ,  Query explain;
    "tools.invoke",    V4,    need::ADMIN, need::WRITE, Flow  invoke;
}

crate::params! {
    /// Whose.
    pub struct CatalogParams {
        agent_id: Option<NonEmpty> = "agentId",
        include_plugins: Option<bool> = "includePlugins",
    }
}

fn catalog(gateway: &mut Gateway, _: &Call, params: CatalogParams) -> Result<Value, RpcError> {
    let CatalogParams { agent_id, include_plugins: _there_are_none } = params;
    let agent = models::asked_agent(gateway, agent_id.as_ref().map(|id| id.0.as_str()))?;
    let tool = |tool: &Tool| {
        let profiles = names::place_of(tool.name).map_or(&[][..], |place| place.profiles());
        json!({
            "id": tool.name,
            "label": tool.name,
            "description": tool.summary,
            "source": "core",
            "defaultProfiles": profiles.iter().map(|profile| profile.as_str()).collect::<Vec<_>>(),
        })
    };
    let group = |section: &Section| {
        let is_in = |tool: &&Tool| names::place_of(tool.name).is_some_and(|place| place.section == section.id);
        let tools: Vec<Value> = TOOLS.iter().filter(is_in).map(tool).collect();
        (!tools.is_empty())
            .then(|| json!({ "id": section.id, "label": section.label, "source": "core", "tools": tools }))
    };
    let profile = |profile: &Profile| json!({ "id": profile.as_str(), "label": names::title(profile.as_str()) });
    Ok(json!({
        "agentId": agent,
        "profiles": Profile::ALL.iter().map(profile).collect::<Vec<_>>(),
        "groups": SECTIONS.iter().filter_map(group).collect::<Vec<_>>(),
    }))
}

crate::params! {
    /// Where.
    pub struct EffectiveParams {
        session_key: NonEmpty = "sessionKey",
        agent_id: Option<NonEmpty> = "agentId",
    }
}

fn effective(cx: QueryCx<'_>, params: EffectiveParams) -> Result<Value, RpcError> {
    let QueryCx { store, snapshot, .. } = cx;
    let config = &snapshot.config;
    known_agent(config, params.agent_id.as_ref())?;
    let key = chat::session_key(&params.session_key.0, params.agent_id.as_ref(), &snapshot.keys)?;
    let session = store.get()?.session(key.as_str())?;
    let session =
        session.ok_or_else(|| RpcError::invalid(format!("unknown session key \"{}\"", params.session_key.0)))?;
    let (policy, _) =
        setting::session_policy(config, &snapshot.models.get(), &key, &Speaker::default(), &session, None);
    let (offered, mut denied): (Vec<&Tool>, Vec<&Tool>) = TOOLS.iter().partition(|tool| policy.allows(tool.name));
    // What nobody configured is not missed.
    denied.retain(|tool| (tool.is_offered)(&config.settings));
    let mut rows: Vec<(String, &Tool)> = offered.into_iter().map(|tool| (names::label(tool.name), tool)).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let row = |(label, tool): &(String, &Tool)| {
        json!({
            "id": tool.name,
            "label": label,
            "description": tool.summary,
            "rawDescription": tool.description,
            "source": "core",
        })
    };
    let mut groups = Vec::new();
    if !rows.is_empty() {
        let tools: Vec<Value> = rows.iter().map(row).collect();
        groups.push(json!({ "id": "core", "label": "Built-in tools", "source": "core", "tools": tools }));
    }
    let mut answer = json!({
        "agentId": key.agent().unwrap_or(DEFAULT_AGENT),
        "profile": policy.profile().as_str(),
        "groups": groups,
    });
    let notices = notices(&policy, &denied);
    if !notices.is_empty() {
        answer["notices"] = json!(notices);
    }
    Ok(answer)
}

/// What is not offered, a line for each reason.
fn notices(policy: &Policy, denied: &[&Tool]) -> Vec<Value> {
    let mut reasons: Vec<(Verdict, Vec<&str>)> = Vec::new();
    for tool in denied {
        let verdict = policy.verdict(tool.name);
        match reasons.iter_mut().find(|(known, _)| *known == verdict) {
            Some((_, tools)) => tools.push(tool.name),
            None => reasons.push((verdict, vec![tool.name])),
        }
    }
    let notice = |(verdict, tools): &(Verdict, Vec<&str>)| {
        json!({
            "id": format!("policy:{}:{}", verdict.stage, tools[0]),
            "severity": "info",
            "message": format!("not offered here: {} ({verdict})", tools.join(", ")),
        })
    };
    reasons.iter().map(notice).collect()
}

fn known_agent(config: &crate::config::load::Loaded, agent: Option<&NonEmpty>) -> Result<(), RpcError> {
    let Some(agent) = agent else { return Ok(()) };
    let id = crate::protocol::session_key::agent_id(&agent.0);
    match config.settings.agents.get(&id) {
        Some(_) => Ok(()),
        None => Err(RpcError::invalid(format!("unknown agent id \"{id}\""))),
    }
}

crate::params! {
    /// Of which tool, and where it would be called: what is not said is as in the session.
    pub struct ExplainParams {
        name: NonEmpty = "name",
        session_key: Option<NonEmpty> = "sessionKey",
        agent_id: Option<NonEmpty> = "agentId",
        channel: Option<NonEmpty> = "channel",
        account_id: Option<NonEmpty> = "accountId",
        sender: Option<NonEmpty> = "sender",
        model: Option<NonEmpty> = "model",
    }
}

/// Whether a tool may be used, and what says so, stage by stage. The session need not be there.
fn explain(cx: QueryCx<'_>, params: ExplainParams) -> Result<Value, RpcError> {
    let QueryCx { store, snapshot, call } = cx;
    let config = &snapshot.config;
    known_agent(config, params.agent_id.as_ref())?;
    let asked = params.session_key.as_ref().map_or("main", |key| key.0.as_str());
    let key = chat::session_key(asked, params.agent_id.as_ref(), &snapshot.keys)?;
    let session = store.get()?.session(key.as_str())?;
    let is_there = session.is_some();
    let session = session.unwrap_or_else(|| transcript::fresh(&key, call.now_ms));
    let text = |text: Option<NonEmpty>| text.map(|text| text.0);
    let speaker = Speaker {
        sender: text(params.sender),
        channel: text(params.channel).map(|name| name.to_lowercase()),
        account: text(params.account_id),
    };
    let model = params.model.as_ref().map(|name| {
        let (provider, model) = name.0.split_once('/').unwrap_or((&name.0, ""));
        ModelRef { provider: table::canonical(provider), model: model.to_owned() }
    });
    let (policy, model) = setting::session_policy(config, &snapshot.models.get(), &key, &speaker, &session, model);
    let name = names::canonical(&params.name.0);
    let verdict = policy.verdict(&name);
    let step =
        |step: crate::tools::policy::Step| json!({ "stage": step.stage, "passes": step.passes, "rule": step.rule });
    let steps: Vec<Value> = policy.steps(&name).into_iter().map(step).collect();
    let over_gateway = policy.clone().over_gateway(&config.settings.tools, true).verdict(&name);
    Ok(json!({
        "tool": name,
        "isBuilt": tools::find(&name).is_some(),
        "sessionKey": key.as_str(),
        "sessionExists": is_there,
        "agentId": key.agent().unwrap_or(DEFAULT_AGENT),
        "model": model.map(|model| model.to_string()),
        "profile": policy.profile().as_str(),
        "allowed": verdict.allowed,
        "stage": verdict.stage,
        "rule": verdict.rule,
        "steps": steps,
        "toolsInvoke": {
            "allowed": over_gateway.allowed,
            "stage": over_gateway.stage,
            "rule": over_gateway.rule,
        },
    }))
}

crate::params! {
    /// What, and where.
    pub struct InvokeParams {
        name: NonEmpty = "name",
        args: Option<Object> = "args",
        session_key: Option<NonEmpty> = "sessionKey",
        agent_id: Option<NonEmpty> = "agentId",
        confirm: Option<bool> = "confirm",
        idempotency_key: Option<NonEmpty> = "idempotencyKey",
        conversation_read_origin: Option<Origin> = "conversationReadOrigin",
        dry_run: Option<bool> = "dryRun",
    }
}

crate::words! {
    /// Whose reading of a conversation it is.
    pub enum Origin {
        /// The caller's own: nobody else can ask.
        Direct = "direct-operator",
    }
}

fn invoke(gateway: &mut Gateway, call: &Call, params: InvokeParams) -> Result<(), RpcError> {
    let name = params.name.0.trim();
    if name.is_empty() {
        return Err(RpcError::invalid("invalid tools.invoke params: name required"));
    }
    let wanted = Wanted {
        session: params.session_key.map(|key| key.0),
        agent: params.agent_id.map(|id| id.0),
        speaker: Speaker::default(),
        invoke: Invoke {
            tool: name.to_owned(),
            action: None,
            arguments: params.args.map_or_else(|| Value::Object(Map::new()), |args| Value::Object(args.0)),
            key: format!("rpc-{}", params.idempotency_key.map_or_else(random::uuid, |key| key.0)),
            is_dry: params.dry_run == Some(true),
            is_owner: call.caller.scopes.satisfies(Scope::Admin, call.protocol()),
        },
    };
    gateway.invoke_for_call(call, wanted)
}
