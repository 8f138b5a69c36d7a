//! A session as clients see it, in a list, beside an event, in a status.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{participants, scheduler, thinking, transcript};
use crate::config::load::Loaded;
use crate::config::settings::models::Model;
use crate::protocol::json::json;
use crate::protocol::session_key::{KeyRules, SessionKey};
use crate::store::StoreError;
use crate::store::db::Queries;
use crate::store::sessions::{SessionRow, TokenTotals};

/// Seconds after which `fastMode: "auto"` would speed a run up; upstream's default.
const FAST_AUTO_ON_SECONDS: u64 = 60;

/// What showing sessions needs of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    config: &'a Loaded,
    runs: Option<&'a OpenRuns>,
}

/// The runs that have not ended, by session: those that go on and those that wait, in the order they came. Bounded by
/// what the scheduler takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenRuns(BTreeMap<String, Vec<String>>);

impl OpenRuns {
    /// A run is accepted.
    pub fn add(&mut self, session: &str, run_id: &str) {
        self.0.entry(session.to_owned()).or_default().push(run_id.to_owned());
    }

    /// A run has ended.
    pub fn remove(&mut self, session: &str, run_id: &str) {
        if let Some(runs) = self.0.get_mut(session) {
            runs.retain(|run| run != run_id);
            if runs.is_empty() {
                self.0.remove(session);
            }
        }
    }

    /// Those of a session.
    pub fn of(&self, session: &str) -> &[String] {
        self.0.get(session).map_or(&[], Vec::as_slice)
    }

    /// The session of one of them.
    pub fn session_of(&self, run_id: &str) -> Option<&str> {
        self.0.iter().find(|(_, runs)| runs.iter().any(|run| run == run_id)).map(|(session, _)| session.as_str())
    }

    /// How many there are.
    pub fn n_runs(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

/// A model by name, and what the configuration says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chosen<'a> {
    /// Who offers it; `None` when the name does not say.
    pub provider: Option<&'a str>,
    /// Its name without the provider; `None` when no model is configured.
    pub model: Option<&'a str>,
    /// Its entry under `models.providers`.
    pub known: Option<&'a Model>,
}

impl Chosen<'_> {
    /// The levels it can be asked to think at.
    pub fn thinking_levels(&self) -> &'static [&'static str] {
        thinking::levels(self.provider, self.model, self.known)
    }

    /// `provider/model`; `None` when no model is configured.
    pub fn name(&self) -> Option<String> {
        let model = self.model?;
        Some(self.provider.map_or_else(|| model.to_owned(), |provider| format!("{provider}/{model}")))
    }

    fn context_tokens(&self) -> Option<u64> {
        self.known.and_then(|model| model.context_window)
    }
}

impl<'a> Context<'a> {
    /// Of the configuration in force.
    pub fn of(config: &'a Loaded) -> Context<'a> {
        Context { config, runs: None }
    }

    /// With the runs that go on.
    pub fn with_runs(self, runs: &'a OpenRuns) -> Context<'a> {
        Context { runs: Some(runs), ..self }
    }

    /// What happens to a message that comes while its session is busy.
    fn queue_mode(&self, session: &SessionRow) -> &'static str {
        let queue = &self.config.settings.scheduling.queue;
        queue.policy(session.channel.as_deref(), &scheduler::wishes(&session.entry)).mode.as_str()
    }

    /// The model of an agent that chose none for a session.
    pub fn agent_model(&self, agent: &str) -> Chosen<'a> {
        let primary = self.config.settings.agents.model_of(agent).primary.as_deref();
        match primary.and_then(|name| name.split_once('/')) {
            Some((provider, model)) => self.chosen(Some(provider), Some(model)),
            None => self.chosen(None, primary),
        }
    }

    /// A model by its names.
    pub fn chosen(&self, provider: Option<&'a str>, model: Option<&'a str>) -> Chosen<'a> {
        let known = self
            .config
            .settings
            .models
            .providers
            .iter()
            .filter(|candidate| provider.is_none_or(|id| id == candidate.id))
            .flat_map(|candidate| &candidate.models)
            .find(|candidate| Some(candidate.id.as_str()) == model);
        Chosen { provider, model, known }
    }

    /// What a session's runs are asked with: its own choice, else its agent's.
    pub fn model_of<'s>(&self, session: &'s SessionRow) -> Chosen<'s>
    where
        'a: 's,
    {
        let default = self.agent_model(&session.agent_id);
        match text(session, "modelOverride") {
            Some(model) => self.chosen(text(session, "providerOverride").or(default.provider), Some(model)),
            None => default,
        }
    }

    /// Whether a provider is configured.
    pub fn knows_provider(&self, id: &str) -> bool {
        self.config.settings.models.providers.iter().any(|provider| provider.id == id)
    }

    /// The models that `agents.defaults.models` allows, as `provider/model`; `None`: all.
    pub fn allowed_models(&self) -> Option<&'a Map<String, Value>> {
        let map = self.config.document.config.pointer("/agents/defaults/models")?.as_object()?;
        (!map.is_empty()).then_some(map)
    }

    /// `defaults` of a list of sessions, protocol 3.
    pub fn defaults(&self) -> Value {
        let model = self.default_model();
        json!({ "modelProvider": model.provider, "model": model.model, "contextTokens": model.context_tokens() })
    }

    /// `defaults` of a list of sessions, protocol 4.
    pub fn defaults_v4(&self) -> Value {
        let mut defaults = self.defaults();
        let levels = self.default_model().thinking_levels();
        set_all(&mut defaults, thinking_fields(levels));
        defaults["agentRuntime"] = json!({
            "id": "auto",
            "cloudPlacementSupported": false,
            "devicePlacementSupported": false,
            "source": "implicit",
        });
        defaults["modelSelectionTarget"] = json!("session");
        defaults
    }

    /// `sessions.defaults` of a status.
    pub fn status_defaults(&self) -> Value {
        let model = self.default_model();
        json!({ "model": model.model, "contextTokens": model.context_tokens() })
    }

    fn default_model(&self) -> Chosen<'a> {
        self.agent_model(&self.config.settings.agents.default_id)
    }

    fn is_main(&self, session: &SessionRow) -> bool {
        let rules = KeyRules {
            main_key: self.config.settings.session.main_key.clone(),
            global: self.config.settings.session.scope == crate::config::settings::agents::SessionScope::Global,
            ..KeyRules::default()
        };
        SessionKey::stored(session.key.clone()).is_main(&rules)
    }
}

/// Fields of a session's `entry` that a row of either protocol shows as they are.
const SHOWN: [&str; 21] = [
    "subject",
    "groupChannel",
    "space",
    "chatType",
    "origin",
    "systemSent",
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
    "compactionCount",
    "authProfileOverride",
];

/// The same, protocol 4 only.
const SHOWN_V4: [&str; 20] = [
    "autoLabel",
    "icon",
    "color",
    "category",
    "boardFace",
    "boardPresentation",
    "archivedAt",
    "pinnedAt",
    "lastReadAt",
    "markedUnreadAt",
    "lastActivityAt",
    "lastInteractionAt",
    "parentSessionKey",
    "permissionMode",
    "sandboxMode",
    "toolOverrides",
    "fastMode",
    "traceLevel",
    "contextWindow",
    "createdVia",
];

/// What the last run leaves in a session's `entry`; a row of protocol 4 shows it as it is, and a reset forgets it.
pub const OF_RUNS: [&str; 8] = [
    "status",
    "startedAt",
    "endedAt",
    "runtimeMs",
    "lastRunId",
    "lastRunError",
    "estimatedCostUsd",
    "contextBudgetStatus",
];

/// What protocol 4's events name of a session even when it is not set, so that a client forgets what it knew.
const CLEARED: [&str; 34] = [
    "activeModel",
    "activeModelProvider",
    "agentStatus",
    "archiveReason",
    "archivedAt",
    "archivedBy",
    "autoLabel",
    "boardPresentation",
    "category",
    "channelAvatarUrl",
    "color",
    "contextBudgetStatus",
    "controlOwnerSessionKey",
    "createdActor",
    "displayName",
    "endedAt",
    "goal",
    "icon",
    "label",
    "lastRunError",
    "lastRunId",
    "markedUnreadAt",
    "observerDigest",
    "owner",
    "permissionMode",
    "pinnedAt",
    "placement",
    "placementMove",
    "providerReview",
    "restartRecoveryStatus",
    "runtimeMs",
    "swarm",
    "thinkingLevel",
    "toolOverrides",
];

/// The row of a session that both protocols read. Absent values are left out.
pub fn wire(session: &SessionRow, context: &Context<'_>) -> Value {
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
    for name in SHOWN {
        set(name, entry(name));
    }
    set("channel", text(&session.channel));
    set("agentId", Some(json!(session.agent_id)));
    set("updatedAt", Some(json!(session.updated_ms)));
    set("createdAt", Some(json!(session.created_ms)));
    set("sessionId", Some(json!(session.session_id)));
    set("abortedLastRun", Some(entry("abortedLastRun").unwrap_or(json!(false))));
    set("spawnedBy", text(&session.spawned_by));
    let model = context.model_of(session);
    set("modelProvider", model.provider.map(|name| json!(name)));
    set("model", model.model.map(|name| json!(name)));
    set("contextTokens", model.context_tokens().map(|tokens| json!(tokens)));
    set_all(&mut row, tokens(session));
    set_all(&mut row, route(session));
    row
}

/// The row of a session on protocol 4.
pub fn wire_v4(session: &SessionRow, context: &Context<'_>, now_ms: i64) -> Value {
    let mut row = wire(session, context);
    for name in SHOWN_V4.into_iter().chain(OF_RUNS) {
        if let Some(value) = session.entry.get(name) {
            row[name] = value.clone();
        }
    }
    let key = SessionKey::stored(session.key.clone());
    let is_main = context.is_main(session);
    let model = context.model_of(session);
    set_all(&mut row, thinking_fields(model.thinking_levels()));
    set_all(
        &mut row,
        json!({
            // Sessions are not shared with named people: whoever may call the method sees and does all of it.
            "visibility": "shared",
            "sharingRole": "admin",
            "permissionModePending": false,
            "classification": classification(session, &key, is_main),
            "isMain": is_main,
            "isBackground": is_background(&key),
            "archived": flag(session, "archived"),
            "pinned": flag(session, "pinned"),
            "unread": is_unread(session),
            "effectiveFastMode": session.entry.get("fastMode") == Some(&json!(true)),
            "effectiveFastModeSource": if session.entry.contains_key("fastMode") { "session" } else { "default" },
            "fastAutoOnSeconds": FAST_AUTO_ON_SECONDS,
            // Nothing is scheduled in a session.
            "hasAutomation": false,
            "effectiveResponseUsage": text(session, "responseUsage").unwrap_or("off"),
            "effectiveQueueMode": context.queue_mode(session),
            "modelOverrideSource": text(session, "modelOverride").map(|_| "user"),
            "runtimeSelectionLocked": false,
            "agentRuntime": {
                "id": "openclaw",
                "cloudPlacementSupported": false,
                "cloudPlacementExecutionMode": "worker-turn",
                "devicePlacement": { "requiredNodeCommands": [], "consumesWorkerSlot": false },
                "devicePlacementSupported": false,
                "source": "implicit",
            },
            "snapshotAt": now_ms,
            // Nothing writes summaries yet.
            "activitySummary": { "state": "unavailable", "canEnsure": false },
        }),
    );
    let participants = participants::shown(session);
    row["participantCount"] = json!(participants.len());
    row["expandedParticipants"] = json!(participants);
    row["participants"] = json!(participants);
    if session.entry.contains_key("systemSent") {
        set_placement(&mut row);
    }
    set_runs(&mut row, context.runs.map_or(&[], |runs| runs.of(&session.key)));
    row
}

/// Says which runs of a row's session have not ended.
pub fn set_runs(row: &mut Value, runs: &[String]) {
    row["hasActiveRun"] = json!(!runs.is_empty());
    row["activeRunIds"] = json!(runs);
    if !runs.is_empty() {
        row["status"] = json!("running");
        set_placement(row);
    }
}

/// Says where a session's runs go on, once it has had one: in this very process, since it was made.
fn set_placement(row: &mut Value) {
    let since_ms = row["createdAt"].clone();
    row["placement"] = json!({
        "state": "local",
        "generation": 0,
        "createdAtMs": since_ms,
        "updatedAtMs": since_ms,
        "stateChangedAtMs": since_ms,
    });
}

/// Sessions that a row of an event names above its own: its parent, that one's parent, and so on.
pub const ANCESTORS_MAX: usize = 8;

/// The row of a session for an event, which carries those of its parents; [`beside`] puts them where clients look.
///
/// # Errors
/// The store's.
pub fn told_v4(db: &Queries, session: &SessionRow, context: &Context<'_>, now_ms: i64) -> Result<Value, StoreError> {
    let mut row = wire_v4(session, context, now_ms);
    let mut ancestors: Vec<Value> = Vec::new();
    let mut above = text(session, "parentSessionKey").map(str::to_owned);
    while let Some(key) = above.take().filter(|_| ancestors.len() < ANCESTORS_MAX) {
        let is_known = key == session.key || ancestors.iter().any(|row| row["key"] == key.as_str());
        let Some(parent) = db.session(&key)?.filter(|_| !is_known) else { break };
        ancestors.push(wire_v4(&parent, context, now_ms));
        above = text(&parent, "parentSessionKey").map(str::to_owned);
    }
    row[ANCESTORS] = json!(ancestors);
    Ok(row)
}

/// Field of an event with the rows of a session's parents, the nearest first.
const ANCESTORS: &str = "ancestorSessions";

/// The row of a session that nobody has written down, on protocol 4: what it would be made with.
pub fn unmade_v4(key: &SessionKey, context: &Context<'_>, now_ms: i64) -> Value {
    let mut row = wire_v4(&transcript::fresh(key, now_ms), context, now_ms);
    if let Some(fields) = row.as_object_mut() {
        // What only a session that was made has.
        for name in ["sessionId", "createdAt", "createdVia"] {
            fields.remove(name);
        }
    }
    row["updatedAt"] = Value::Null;
    // Nobody has chosen yet what its runs go on in.
    row["agentRuntime"]["id"] = json!("auto");
    row
}

/// What an event of protocol 4 carries of a session: the row, and its fields once more beside it, as clients of several
/// ages read it. What is not set is `null` there, so that a client forgets what it knew.
pub fn beside(mut row: Value) -> Value {
    let ancestors = row.as_object_mut().and_then(|fields| fields.remove(ANCESTORS)).unwrap_or_else(|| json!([]));
    let mut out: Map<String, Value> = CLEARED.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    if let Some(fields) = row.as_object() {
        out.extend(fields.iter().filter(|(name, _)| *name != "key").map(|(name, value)| (name.clone(), value.clone())));
    }
    out.insert(ANCESTORS.to_owned(), ancestors);
    out.entry("participants").or_insert_with(|| json!([]));
    out.entry("participantCount").or_insert_with(|| json!(0));
    out.insert("session".to_owned(), row);
    Value::Object(out)
}

/// A session's record as `sessions.patch` and its kin give it back: what is stored, by upstream's names.
pub fn entry(session: &SessionRow) -> Value {
    let mut entry = Value::Object(session.entry.clone());
    if entry.get("participants").is_some() {
        entry["participants"] = json!(participants::shown(session));
    }
    set_all(
        &mut entry,
        json!({ "sessionId": session.session_id, "updatedAt": session.updated_ms, "createdAt": session.created_ms }),
    );
    for (name, value) in [("label", &session.label), ("spawnedBy", &session.spawned_by)] {
        if let Some(value) = value {
            entry[name] = json!(value);
        }
    }
    if is_counted(session) {
        set_all(&mut entry, tokens(session));
    }
    set_all(&mut entry, route(session));
    let delivery = match session.channel.as_deref() {
        None => "none",
        Some("webchat") => "internal",
        Some(_) => "channel",
    };
    entry["delivery"] = json!({ "kind": delivery });
    entry
}

/// The line of a session in `status`.
pub fn status_line(session: &SessionRow, context: &Context<'_>, now_ms: i64) -> Value {
    let mut line = wire(session, context);
    let used = session.tokens.total;
    line["age"] = json!((now_ms - session.updated_ms).max(0));
    let window = context.model_of(session).context_tokens();
    line["remainingTokens"] = json!(window.map(|window| window.saturating_sub(used)));
    line["percentUsed"] = json!(window.filter(|window| *window > 0).map(|window| used * 100 / window));
    if !is_counted(session) {
        line["totalTokens"] = Value::Null;
    }
    line["flags"] = json!([format!("id:{}", session.session_id)]);
    if let Some(level) = text(session, "thinkingLevel") {
        line["flags"] = json!([format!("think:{level}"), format!("id:{}", session.session_id)]);
    }
    line
}

/// What a line of protocol 4's `status` adds: the model that is configured for the session's agent, the one the session
/// would use, and why they differ.
pub fn status_models(session: &SessionRow, context: &Context<'_>) -> Value {
    let configured = context.agent_model(&session.agent_id).name();
    let selected = context.model_of(session).name();
    json!({
        "modelSelectionReason": (configured != selected).then_some("session override"),
        "configuredModel": configured,
        "selectedModel": selected,
        // As in the session's row.
        "runtime": "openclaw",
    })
}

/// Whether a session's tokens have been counted: by a run, or from zero by a reset.
fn is_counted(session: &SessionRow) -> bool {
    session.tokens != TokenTotals::default() || flag(session, "totalTokensFresh")
}

fn tokens(session: &SessionRow) -> Value {
    if !is_counted(session) {
        return json!({ "totalTokensFresh": false });
    }
    json!({
        "inputTokens": session.tokens.input,
        "outputTokens": session.tokens.output,
        "totalTokens": session.tokens.total,
        "totalTokensFresh": true,
    })
}

/// Where replies go.
fn route(session: &SessionRow) -> Value {
    let parts = [
        ("channel", "lastChannel", &session.channel),
        ("to", "lastTo", &session.peer),
        ("accountId", "lastAccountId", &session.account_id),
        ("threadId", "lastThreadId", &session.thread_id),
    ];
    let mut out = json!({});
    let mut delivery = Map::new();
    for (short, last, value) in parts {
        if let Some(value) = value {
            out[last] = json!(value);
            delivery.insert(short.to_owned(), json!(value));
        }
    }
    if !delivery.is_empty() {
        out["deliveryContext"] = Value::Object(delivery);
    }
    out
}

fn thinking_fields(levels: &[&str]) -> Value {
    let labelled: Vec<Value> = levels.iter().map(|level| json!({ "id": level, "label": level })).collect();
    json!({ "thinkingLevels": labelled, "thinkingOptions": levels, "thinkingDefault": "off" })
}

/// What kind of conversation it is, finer than `kind`.
fn classification<'s>(session: &'s SessionRow, key: &SessionKey, is_main: bool) -> &'s str {
    let rest = key.rest();
    if is_main {
        "main"
    } else if rest.starts_with("cron:") {
        "cron"
    } else if is_subagent(key) {
        "spawn-child"
    } else if rest.starts_with("hook:") {
        "hook"
    } else if session.kind != "direct" {
        &session.kind
    } else if session.message_count > 0 || session.channel.is_some() {
        "direct"
    } else {
        "custom"
    }
}

/// Whether a session was started by another one.
pub fn is_subagent(key: &SessionKey) -> bool {
    format!(":{}", key.rest()).contains(":subagent:")
}

/// Whether nobody talks in it: what timers and webhooks started.
fn is_background(key: &SessionKey) -> bool {
    ["cron:", "hook:"].iter().any(|prefix| key.rest().starts_with(prefix))
}

/// Marked by hand, or something was said since it was last read; what it was made with counts as read.
fn is_unread(session: &SessionRow) -> bool {
    let at = |name: &str| session.entry.get(name).and_then(Value::as_i64);
    let read = at("lastReadAt").unwrap_or(session.created_ms);
    session.entry.contains_key("markedUnreadAt") || at("lastInteractionAt").max(at("lastActivityAt")) > Some(read)
}

fn flag(session: &SessionRow, name: &str) -> bool {
    session.entry.get(name) == Some(&Value::Bool(true))
}

fn text<'s>(session: &'s SessionRow, name: &str) -> Option<&'s str> {
    session.entry.get(name).and_then(Value::as_str)
}

/// Sets every field of `more` in `into`.
pub fn set_all(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{self, LoadInputs};

    fn loaded(config: &Value) -> Loaded {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("openclaw.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut inputs = LoadInputs::of_process();
        inputs.env = Default::default();
        inputs.flag_config = Some(file);
        inputs.state_dir = Some(dir.path().to_owned());
        load::load(&inputs).unwrap()
    }

    #[test]
    fn a_row_says_what_a_message_would_meet() {
        let config = loaded(
            &json!({ "messages": { "queue": { "mode": "collect", "byChannel": { "telegram": "interrupt" } } } }),
        );
        let mut session = SessionRow::new("agent:main:a", "main", "s".to_owned(), "direct", 1);
        let mode = |session: &SessionRow| wire_v4(session, &Context::of(&config), 1)["effectiveQueueMode"].clone();
        assert_eq!(mode(&session), "collect");
        session.channel = Some("telegram".to_owned());
        assert_eq!(mode(&session), "interrupt");
        session.entry.insert("queueMode".to_owned(), json!("followup"));
        assert_eq!(mode(&session), "followup");
    }

    #[test]
    fn a_row_names_the_runs_of_its_session_in_their_order() {
        let config = loaded(&json!({}));
        let session = SessionRow::new("agent:main:a", "main", "s".to_owned(), "direct", 1);
        let mut runs = OpenRuns::default();
        for (key, run) in [("agent:main:a", "one"), ("agent:main:b", "other"), ("agent:main:a", "two")] {
            runs.add(key, run);
        }
        let row = |runs: &OpenRuns| wire_v4(&session, &Context::of(&config).with_runs(runs), 1);
        assert_eq!((&row(&runs)["activeRunIds"], &row(&runs)["status"]), (&json!(["one", "two"]), &json!("running")));
        runs.remove("agent:main:a", "one");
        runs.remove("agent:main:a", "two");
        assert_eq!((&row(&runs)["hasActiveRun"], row(&runs).get("status")), (&json!(false), None));
        assert_eq!(runs.n_runs(), 1);
    }

    #[test]
    fn a_session_that_nobody_made_is_shown_without_what_only_a_made_one_has() {
        let config = loaded(&json!({}));
        let row = unmade_v4(&SessionKey::stored("agent:main:a".to_owned()), &Context::of(&config), 7);
        assert_eq!(
            (&row["key"], &row["updatedAt"], &row["hasActiveRun"]),
            (&json!("agent:main:a"), &Value::Null, &json!(false))
        );
        assert!(row.get("sessionId").is_none() && row.get("createdAt").is_none(), "{row}");
    }
}
