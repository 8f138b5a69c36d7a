//! The table of fields, and how each is applied.

use serde_json::Value;

use super::Null::{Clears, Refused};
use super::On::{Both, V3, V4};
use super::Weight::{Heavy, Light};
use super::{Field, Ground, Shape, is_subagent};
use crate::protocol::error::RpcError;
use crate::protocol::json::json;
use crate::protocol::version::Protocol;
use crate::sessions::thinking;
use crate::store::sessions::SessionRow;

/// Longest label on protocol 3, in characters (SES-28).
pub(super) const LABEL_CHARS_MAX_V3: usize = 64;
/// Longest label and category on protocol 4, in characters.
pub(super) const LABEL_CHARS_MAX_V4: usize = 512;
/// Longest node name, in characters (SES-43).
pub(super) const EXEC_NODE_CHARS_MAX: usize = 64;
/// Longest key of a parent session, in characters (SES-45).
pub(super) const SPAWNED_BY_CHARS_MAX: usize = 128;
/// Longest text of any other field, in characters: names and colours are short, and a row repeats them everywhere.
pub(super) const TEXT_CHARS_MAX: usize = 512;

/// Largest set of tool overrides, in bytes of JSON.
pub(super) const TOOL_OVERRIDES_BYTES_MAX: usize = 16 * 1024;

/// What a label may be.
pub const LABEL: Shape = Shape::Text { min: 1, max_v3: LABEL_CHARS_MAX_V3, max_v4: LABEL_CHARS_MAX_V4 };
const NAME: Shape = Shape::Text { min: 1, max_v3: TEXT_CHARS_MAX, max_v4: TEXT_CHARS_MAX };
const ANY_TEXT: Shape = Shape::Text { min: 0, max_v3: TEXT_CHARS_MAX, max_v4: TEXT_CHARS_MAX };
const OVERRIDES: Shape = Shape::Members(&["mcpServers", "mcpToolsDeny", "skills", "webSearch"]);
const PERMISSIONS: Shape = Shape::Word(&["read-only", "guarded", "workspace", "full"]);

macro_rules! fields {
    ( $( $name:literal, $on:expr, $weight:expr, $null:expr, $shape:expr, $set:path; )* ) => {
        /// Every patchable field, in the order changes are applied.
        pub static FIELDS: &[Field] = &[
            $( Field { name: $name, on: $on, weight: $weight, null: $null, shape: $shape, set: $set }, )*
        ];
    };
}

fields! {
    // name              on    needs  null     JSON                                applied by
    "label",             Both, Light, Clears,  LABEL,                              label;
    "autoLabel",         V4,   Light, Clears,  LABEL,                              keep;
    "icon",              V4,   Light, Clears,  ANY_TEXT,                           icon;
    "color",             V4,   Light, Clears,  ANY_TEXT,                           color;
    "category",          V4,   Light, Clears,  LABEL,                              category;
    "boardFace",         V4,   Light, Refused, Shape::Word(&["chat", "dashboard"]), keep;
    "boardPresentation", V4,   Light, Clears,  Shape::Word(&["split", "expanded"]), keep;
    "archived",          V4,   Light, Refused, Shape::Bool,                        archived;
    "pinned",            V4,   Light, Refused, Shape::Bool,                        pinned;
    "unread",            V4,   Light, Refused, Shape::Bool,                        unread;
    // Before the level that depends on it.
    "model",             Both, Light, Clears,  NAME,                               model;
    "agentRuntime",      V4,   Light, Clears,  NAME,                               agent_runtime;
    "contextWindow",     V4,   Heavy, Clears,  NAME,                               keep;
    "thinkingLevel",     Both, Light, Clears,  NAME,                               thinking_level;
    "fastMode",          V4,   Light, Clears,  Shape::BoolOrAuto,                  keep;
    "verboseLevel",      Both, Heavy, Clears,  NAME,                               verbose_level;
    "traceLevel",        V4,   Heavy, Clears,  NAME,                               trace_level;
    "reasoningLevel",    Both, Heavy, Clears,  NAME,                               reasoning_level;
    "responseUsage",     Both, Heavy, Clears,  Shape::Word(&["off", "tokens", "full", "on"]), response_usage;
    "elevatedLevel",     Both, Heavy, Clears,  NAME,                               elevated_level;
    "execHost",          Both, Heavy, Clears,  NAME,                               exec_host;
    "execSecurity",      Both, Heavy, Clears,  NAME,                               exec_security;
    "execAsk",           Both, Heavy, Clears,  NAME,                               exec_ask;
    "execNode",          Both, Heavy, Clears,  NAME,                               exec_node;
    "permissionMode",    V4,   Light, Clears,  PERMISSIONS,                        keep;
    "sandboxMode",       V4,   Heavy, Clears,  Shape::Word(&["off"]),              keep;
    "toolOverrides",     V4,   Heavy, Clears,  OVERRIDES,                          tool_overrides;
    "sendPolicy",        Both, Heavy, Clears,  Shape::Word(&["allow", "deny"]),    keep;
    "groupActivation",   Both, Heavy, Clears,  Shape::Word(&["mention", "always"]), keep;
    // Ours on both protocols (MODEL-55).
    "modelPinning",      Both, Light, Clears,  Shape::Word(&["prefer", "strict"]), keep;
    // Ours on both protocols (SES-44).
    "queueMode",         Both, Heavy, Clears,  NAME,                               queue_mode;
    "spawnedBy",         V3,   Heavy, Clears,  NAME,                               spawned_by;
    "spawnDepth",        V3,   Heavy, Clears,  Shape::Count,                       spawn_depth;
}

fn put(session: &mut SessionRow, name: &str, to: Option<Value>) {
    match to {
        Some(value) => session.entry.insert(name.to_owned(), value),
        None => session.entry.remove(name),
    };
}

/// Stored as it is.
fn keep(_: &Ground<'_>, session: &mut SessionRow, name: &'static str, to: Option<Value>) -> Result<(), RpcError> {
    put(session, name, to);
    Ok(())
}

fn label(_: &Ground<'_>, session: &mut SessionRow, name: &'static str, to: Option<Value>) -> Result<(), RpcError> {
    session.label = match to.as_ref().map(trimmed) {
        Some("") => return Err(RpcError::invalid(format!("invalid {name}: empty"))),
        other => other.map(str::to_owned),
    };
    Ok(())
}

/// Longest name or emoji of an icon, in characters.
const ICON_CHARS_MAX: usize = 64;

fn icon(_: &Ground<'_>, session: &mut SessionRow, name: &'static str, to: Option<Value>) -> Result<(), RpcError> {
    let icon = to.as_ref().map(trimmed).filter(|icon| !icon.is_empty());
    // Drawings, which upstream takes as well, would be repeated in every row and event.
    if icon.is_some_and(|icon| icon.chars().count() > ICON_CHARS_MAX || icon.contains(['<', ':'])) {
        return Err(RpcError::invalid(format!(
            "{name} must be a single emoji or a named icon of at most {ICON_CHARS_MAX} characters"
        )));
    }
    put(session, name, icon.map(|icon| json!(icon)));
    Ok(())
}

const COLORS: [&str; 8] = ["red", "blue", "green", "yellow", "purple", "orange", "pink", "cyan"];

fn color(_: &Ground<'_>, session: &mut SessionRow, name: &'static str, to: Option<Value>) -> Result<(), RpcError> {
    let color = to.as_ref().map(|color| trimmed(color).to_lowercase()).filter(|color| !color.is_empty());
    if color.as_ref().is_some_and(|color| !COLORS.contains(&color.as_str())) {
        return Err(RpcError::invalid(format!("{name} must be one of: {}", COLORS.join(", "))));
    }
    put(session, name, color.map(Value::String));
    Ok(())
}

fn category(_: &Ground<'_>, session: &mut SessionRow, name: &'static str, to: Option<Value>) -> Result<(), RpcError> {
    let category = to.as_ref().map(trimmed);
    if category == Some("") {
        return Err(RpcError::invalid(format!("invalid {name}: empty")));
    }
    put(session, name, category.map(|category| json!(category)));
    Ok(())
}

/// A switch that remembers when it was turned on.
fn switch(session: &mut SessionRow, name: &str, at_name: &str, on: bool, now_ms: i64) {
    if !on {
        put(session, name, None);
        put(session, at_name, None);
    } else if session.entry.get(name) != Some(&Value::Bool(true)) {
        put(session, name, Some(json!(true)));
        put(session, at_name, Some(json!(now_ms)));
    }
}

/// Puts a session away. That an agent's main session stays is the caller's to see to: it knows which that is.
fn archived(
    ground: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    let on = to == Some(Value::Bool(true));
    switch(session, name, "archivedAt", on, ground.now_ms);
    if on {
        switch(session, "pinned", "pinnedAt", false, ground.now_ms);
    }
    Ok(())
}

fn pinned(
    ground: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    let on = to == Some(Value::Bool(true));
    if on && session.entry.contains_key("archivedAt") {
        return Err(RpcError::invalid("cannot pin an archived session; restore it first"));
    }
    if on && (is_subagent(session) || session.spawned_by.is_some()) {
        return Err(RpcError::invalid("cannot pin a child session; pin its parent session instead"));
    }
    switch(session, name, "pinnedAt", on, ground.now_ms);
    Ok(())
}

fn tool_overrides(
    _: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    let overrides = to.filter(|value| value.as_object().is_some_and(|map| !map.is_empty()));
    let size_bytes = overrides.as_ref().map_or(0, |value| value.to_string().len());
    if size_bytes > TOOL_OVERRIDES_BYTES_MAX {
        return Err(RpcError::invalid(format!("{name} larger than {TOOL_OVERRIDES_BYTES_MAX} bytes")));
    }
    put(session, name, overrides);
    Ok(())
}

/// Unread is a mark and a time of reading; the flag a row shows is made of both.
fn unread(ground: &Ground<'_>, session: &mut SessionRow, _: &'static str, to: Option<Value>) -> Result<(), RpcError> {
    if to == Some(Value::Bool(true)) {
        // A later mark is a different one, even within the same millisecond.
        let before = session.entry.get("markedUnreadAt").and_then(Value::as_i64).unwrap_or(0);
        put(session, "markedUnreadAt", Some(json!(ground.now_ms.max(before + 1))));
    } else {
        put(session, "markedUnreadAt", None);
        put(session, "lastReadAt", Some(json!(ground.now_ms)));
    }
    Ok(())
}

fn model(ground: &Ground<'_>, session: &mut SessionRow, name: &'static str, to: Option<Value>) -> Result<(), RpcError> {
    let before = (session.entry.get("providerOverride").cloned(), session.entry.get("modelOverride").cloned());
    let default = ground.context.agent_model(&session.agent_id);
    let chosen = match to.as_ref().map(trimmed) {
        None => None,
        Some("") => return Err(RpcError::invalid(format!("invalid {name}: empty"))),
        Some(text) => Some(match text.split_once('/') {
            Some((provider, model)) => (Some(provider.trim()), model.trim()),
            None => (default.provider, text),
        }),
    };
    if let Some((provider, model)) = chosen {
        check_model(ground, provider, model)?;
    }
    // Protocol 3's gateways forget a choice that is the default; protocol 4's keep it.
    let is_default = chosen.is_some_and(|(p, m)| p == default.provider && Some(m) == default.model);
    let kept = chosen.filter(|_| !(is_default && ground.protocol == Protocol::V3));
    put(session, "providerOverride", kept.and_then(|(provider, _)| provider).map(|name| json!(name)));
    put(session, "modelOverride", kept.map(|(_, model)| json!(model)));
    if ground.protocol == Protocol::V4 {
        put(session, "modelOverrideSource", Some(json!(if kept.is_some() { "user" } else { "default" })));
        put(session, "modelOverrideRouteResolution", kept.map(|_| json!("resolved")));
    }
    let after = (session.entry.get("providerOverride").cloned(), session.entry.get("modelOverride").cloned());
    if before != after {
        // An account chosen for the old model says nothing about the new one (SES-46).
        for name in ["authProfileOverride", "authProfileOverrideSource", "authProfileOverrideCompactionCount"] {
            put(session, name, None);
        }
    }
    Ok(())
}

fn check_model(ground: &Ground<'_>, provider: Option<&str>, model: &str) -> Result<(), RpcError> {
    let whole = match provider {
        Some(provider) => format!("{provider}/{model}"),
        None => model.to_owned(),
    };
    if model.is_empty() || provider == Some("") {
        return Err(RpcError::invalid(format!("invalid model: {whole}")));
    }
    if ground.context.allowed_models().is_some_and(|allowed| !allowed.contains_key(&whole)) {
        return Err(RpcError::invalid(format!("model not allowed: {whole}")));
    }
    // Protocol 3's gateways take any name and fail when the model is asked.
    match provider {
        Some(provider) if ground.protocol == Protocol::V4 && !ground.context.knows_provider(provider) => {
            Err(RpcError::invalid(format!("Unknown provider \"{provider}\". Use /models to list providers.")))
        }
        _ => Ok(()),
    }
}

/// One runtime is built in, under upstream's name for its own.
fn agent_runtime(
    _: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    match to.as_ref().map(trimmed) {
        None | Some("auto") => put(session, name, None),
        Some("openclaw") => put(session, name, Some(json!("openclaw"))),
        Some(other) => return Err(RpcError::invalid(format!("Unknown agent runtime \"{other}\"."))),
    }
    Ok(())
}

fn thinking_level(
    ground: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    let Some(text) = to.as_ref().map(trimmed) else {
        put(session, name, None);
        return Ok(());
    };
    let model = ground.context.model_of(session);
    let levels = match ground.protocol {
        // Protocol 3's gateways ask a model for any level but the highest, whatever it can do.
        Protocol::V3 => thinking::levels(model.provider, model.model, None),
        Protocol::V4 => model.thinking_levels(),
    };
    let Some(level) = thinking::parse(text) else {
        return Err(RpcError::invalid(format!("invalid {name} (use {})", levels.join("|"))));
    };
    if !levels.contains(&level) {
        return Err(RpcError::invalid(match ground.protocol {
            Protocol::V3 => {
                format!("{name} \"{level}\" is only supported for {}", thinking::XHIGH_MODELS.join(" or "))
            }
            Protocol::V4 => format!(
                "{name} \"{level}\" is not supported for {}/{} (use {})",
                model.provider.unwrap_or("unknown"),
                model.model.unwrap_or("unknown"),
                levels.join("|"),
            ),
        }));
    }
    put(session, name, Some(json!(level)));
    Ok(())
}

/// Lowers a stored level that a newly chosen model cannot think at.
pub(super) fn fit_thinking_level(ground: &Ground<'_>, session: &mut SessionRow) {
    let levels = ground.context.model_of(session).thinking_levels();
    let stored = session.entry.get("thinkingLevel").and_then(Value::as_str);
    if stored.is_some_and(|level| !levels.contains(&level)) {
        let highest = levels.last().map(|level| json!(level));
        put(session, "thinkingLevel", highest);
    }
}

/// A word with other spellings.
struct Word {
    word: &'static str,
    also: &'static [&'static str],
}

const fn word(word: &'static str, also: &'static [&'static str]) -> Word {
    Word { word, also }
}

const VERBOSE: &[Word] = &[
    word("on", &["true", "yes", "1", "minimal"]),
    word("off", &["false", "no", "0"]),
    word("full", &["all", "everything"]),
];
const REASONING: &[Word] = &[
    word("on", &["true", "yes", "1", "show", "visible", "enable", "enabled"]),
    word("off", &["false", "no", "0", "hide", "hidden", "disable", "disabled"]),
    word("stream", &["streaming", "live"]),
];
const TRACE: &[Word] = &[word("on", &["true", "yes", "1"]), word("off", &["false", "no", "0"]), word("raw", &[])];
const ELEVATED: &[Word] = &[
    word("on", &["true", "yes", "1"]),
    word("off", &["false", "no", "0"]),
    word("ask", &["prompt", "approval", "approve"]),
    word("full", &["auto", "autoapprove", "auto-approve"]),
];
const EXEC_HOSTS: &[Word] = &[word("auto", &[]), word("sandbox", &[]), word("gateway", &[]), word("node", &[])];
const EXEC_SECURITY: &[Word] = &[word("deny", &[]), word("allowlist", &[]), word("full", &[])];
const EXEC_ASK: &[Word] = &[word("off", &[]), word("on-miss", &[]), word("always", &[])];
/// SES-11, SES-12.
const QUEUE_MODES: &[Word] = &[
    word("followup", &[]),
    word("steer", &["queue"]),
    word("collect", &[]),
    word("steer-backlog", &["steer+backlog"]),
    word("interrupt", &[]),
];

/// The word a person means by `text`, or a refusal that lists them.
fn pick(name: &str, words: &[Word], text: &str) -> Result<&'static str, RpcError> {
    let wanted = text.to_lowercase();
    let found = words.iter().find(|word| word.word == wanted || word.also.contains(&wanted.as_str()));
    found.map(|word| word.word).ok_or_else(|| {
        let list: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.word)).collect();
        RpcError::invalid(format!("invalid {name} (use {})", list.join("|")))
    })
}

fn put_word(session: &mut SessionRow, name: &str, words: &[Word], to: Option<Value>) -> Result<(), RpcError> {
    let picked = to.as_ref().map(|value| pick(name, words, trimmed(value))).transpose()?;
    put(session, name, picked.map(|word| json!(word)));
    Ok(())
}

fn verbose_level(
    ground: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    put_word(session, name, VERBOSE, to).map_err(|error| match ground.protocol {
        // Protocol 3's gateways take `full` and do not say so.
        Protocol::V3 => RpcError::invalid(format!("invalid {name} (use \"on\"|\"off\")")),
        Protocol::V4 => error,
    })
}

fn trace_level(
    _: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    put_word(session, name, TRACE, to)
}

fn reasoning_level(
    ground: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    put_word(session, name, REASONING, to)?;
    // Off is the default, and protocol 3's gateways do not store it (SES-42).
    if ground.protocol == Protocol::V3 && session.entry.get(name) == Some(&json!("off")) {
        put(session, name, None);
    }
    Ok(())
}

fn response_usage(
    ground: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    let mode = match to.as_ref().map(trimmed) {
        Some("on") => Some("tokens"),
        // Off is the default, and protocol 3's gateways do not store it.
        Some("off") if ground.protocol == Protocol::V3 => None,
        other => other,
    };
    let mode = mode.map(|mode| json!(mode));
    put(session, name, mode);
    Ok(())
}

fn elevated_level(
    _: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    put_word(session, name, ELEVATED, to)
}

fn exec_host(
    ground: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    let words = match ground.protocol {
        Protocol::V3 => &EXEC_HOSTS[1..],
        Protocol::V4 => EXEC_HOSTS,
    };
    put_word(session, name, words, to)
}

fn exec_security(
    ground: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    retired(ground)?;
    put_word(session, name, EXEC_SECURITY, to)
}

fn exec_ask(
    ground: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    retired(ground)?;
    put_word(session, name, EXEC_ASK, to)
}

/// Protocol 4's schema still has the two, and its gateways refuse them.
fn retired(ground: &Ground<'_>) -> Result<(), RpcError> {
    match ground.protocol {
        Protocol::V3 => Ok(()),
        Protocol::V4 => Err(RpcError::invalid(
            "execSecurity/execAsk are retired; set permissionMode (read-only|guarded|workspace|full) instead, or use \
             /exec for this run only.",
        )),
    }
}

fn exec_node(_: &Ground<'_>, session: &mut SessionRow, name: &'static str, to: Option<Value>) -> Result<(), RpcError> {
    let node = match to.as_ref().map(trimmed) {
        Some("") => return Err(RpcError::invalid(format!("invalid {name}: empty"))),
        Some(node) if node.chars().count() > EXEC_NODE_CHARS_MAX => {
            return Err(RpcError::invalid(format!("{name} too long (max {EXEC_NODE_CHARS_MAX})")));
        }
        other => other.map(|node| json!(node)),
    };
    put(session, name, node);
    Ok(())
}

fn queue_mode(_: &Ground<'_>, session: &mut SessionRow, name: &'static str, to: Option<Value>) -> Result<(), RpcError> {
    put_word(session, name, QUEUE_MODES, to)
}

fn spawned_by(_: &Ground<'_>, session: &mut SessionRow, name: &'static str, to: Option<Value>) -> Result<(), RpcError> {
    let Some(parent) = to.as_ref().map(trimmed) else { return not_cleared(name, session.spawned_by.is_some()) };
    if parent.is_empty() {
        return Err(RpcError::invalid(format!("invalid {name}: empty")));
    }
    if parent.chars().count() > SPAWNED_BY_CHARS_MAX {
        return Err(RpcError::invalid(format!("{name} too long (max {SPAWNED_BY_CHARS_MAX})")));
    }
    set_once(name, session, session.spawned_by.as_ref().is_some_and(|known| known != parent))?;
    session.spawned_by = Some(parent.to_owned());
    Ok(())
}

fn spawn_depth(
    _: &Ground<'_>,
    session: &mut SessionRow,
    name: &'static str,
    to: Option<Value>,
) -> Result<(), RpcError> {
    let known = session.entry.get(name).cloned();
    let Some(depth) = to else { return not_cleared(name, known.is_some()) };
    set_once(name, session, known.is_some_and(|known| known != depth))?;
    put(session, name, Some(depth));
    Ok(())
}

fn not_cleared(name: &str, is_set: bool) -> Result<(), RpcError> {
    if is_set { Err(RpcError::invalid(format!("{name} cannot be cleared once set"))) } else { Ok(()) }
}

fn set_once(name: &str, session: &SessionRow, differs: bool) -> Result<(), RpcError> {
    if !is_subagent(session) {
        return Err(RpcError::invalid(format!("{name} is only supported for subagent:* sessions")));
    }
    if differs { Err(RpcError::invalid(format!("{name} cannot be changed once set"))) } else { Ok(()) }
}

/// The text of a value whose shape was checked.
fn trimmed(value: &Value) -> &str {
    value.as_str().unwrap_or_default().trim()
}
