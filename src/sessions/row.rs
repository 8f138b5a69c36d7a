//! A session as clients see it, in a list, beside an event, in a status.

use serde_json::{Value, json};

use crate::config::load::Loaded;
use crate::store::sessions::SessionRow;

/// What showing sessions needs of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The provider of the default model.
    pub provider: Option<String>,
    /// The default model without its provider.
    pub model: Option<String>,
    /// How much it reads at once, in tokens.
    pub context_tokens: Option<u64>,
}

impl Context {
    /// Reads it.
    pub fn of(config: &Loaded) -> Context {
        let primary = config.settings.agents.defaults.model.primary.as_deref();
        let (provider, model) = match primary.and_then(|name| name.split_once('/')) {
            Some((provider, model)) => (Some(provider.to_owned()), Some(model.to_owned())),
            None => (None, primary.map(str::to_owned)),
        };
        let configured = config
            .settings
            .models
            .providers
            .iter()
            .filter(|candidate| provider.as_deref().is_none_or(|id| id == candidate.id))
            .flat_map(|candidate| &candidate.models)
            .find(|candidate| Some(candidate.id.as_str()) == model.as_deref());
        let context_tokens = configured.and_then(|found| found.context_window);
        Context { provider, model, context_tokens }
    }

    /// `defaults` of a list of sessions.
    pub fn defaults(&self) -> Value {
        json!({ "modelProvider": self.provider, "model": self.model, "contextTokens": self.context_tokens })
    }

    /// `sessions.defaults` of a status.
    pub fn status_defaults(&self) -> Value {
        json!({ "model": self.model, "contextTokens": self.context_tokens })
    }

    /// What a session's runs are asked with: its own choice, else the default. Provider and model.
    pub fn model_of(&self, session: &SessionRow) -> (Option<String>, Option<String>) {
        let chosen = |name: &str| session.entry.get(name).and_then(Value::as_str).map(str::to_owned);
        match chosen("modelOverride") {
            Some(model) => (chosen("providerOverride").or_else(|| self.provider.clone()), Some(model)),
            None => (self.provider.clone(), self.model.clone()),
        }
    }
}

/// The row of a session. Absent values are left out.
pub fn wire(session: &SessionRow, context: &Context) -> Value {
    let mut row = json!({ "key": session.key, "kind": session.kind });
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            row[name] = value;
        }
    };
    let text = |value: &Option<String>| value.as_ref().map(|text| json!(text));
    let entry = |name: &str| session.entry.get(name).cloned();
    set("label", text(&session.label));
    set("displayName", entry("displayName").or_else(|| text(&session.label)));
    for name in ["subject", "groupChannel", "space", "chatType", "origin"] {
        set(name, entry(name));
    }
    set("channel", text(&session.channel));
    set("agentId", Some(json!(session.agent_id)));
    set("updatedAt", Some(json!(session.updated_ms)));
    set("createdAt", Some(json!(session.created_ms)));
    set("sessionId", Some(json!(session.session_id)));
    set("systemSent", entry("systemSent"));
    set("abortedLastRun", Some(entry("abortedLastRun").unwrap_or(json!(false))));
    for name in [
        "thinkingLevel",
        "verboseLevel",
        "reasoningLevel",
        "elevatedLevel",
        "sendPolicy",
        "groupActivation",
        "queueMode",
        "responseUsage",
        "execHost",
        "execSecurity",
        "execAsk",
        "execNode",
        "spawnDepth",
        "pinned",
        "archived",
        "unread",
        "icon",
        "color",
        "category",
    ] {
        set(name, entry(name));
    }
    set("spawnedBy", text(&session.spawned_by));
    set("inputTokens", Some(json!(session.tokens.input)));
    set("outputTokens", Some(json!(session.tokens.output)));
    set("totalTokens", Some(json!(session.tokens.total)));
    set("totalTokensFresh", Some(json!(true)));
    let (provider, model) = context.model_of(session);
    set("modelProvider", text(&provider));
    set("model", text(&model));
    set("contextTokens", context.context_tokens.map(|tokens| json!(tokens)));
    set("lastChannel", text(&session.channel));
    set("lastTo", text(&session.peer));
    set("lastAccountId", text(&session.account_id));
    set("lastThreadId", text(&session.thread_id));
    if session.channel.is_some() || session.peer.is_some() {
        let mut delivery = json!({});
        for (name, value) in [
            ("channel", &session.channel),
            ("to", &session.peer),
            ("accountId", &session.account_id),
            ("threadId", &session.thread_id),
        ] {
            if let Some(value) = value {
                delivery[name] = json!(value);
            }
        }
        set("deliveryContext", Some(delivery));
    }
    row
}

/// The line of a session in `status`.
pub fn status_line(session: &SessionRow, context: &Context, now_ms: i64) -> Value {
    let mut line = wire(session, context);
    let used = session.tokens.total;
    line["age"] = json!((now_ms - session.updated_ms).max(0));
    let window = context.context_tokens;
    line["remainingTokens"] = json!(window.map(|window| window.saturating_sub(used)));
    line["percentUsed"] = json!(window.filter(|window| *window > 0).map(|window| used * 100 / window));
    line["flags"] = json!([format!("id:{}", session.session_id)]);
    if let Some(level) = session.entry.get("thinkingLevel").and_then(Value::as_str) {
        line["flags"] = json!([format!("think:{level}"), format!("id:{}", session.session_id)]);
    }
    line
}
