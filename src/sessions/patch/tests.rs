use serde_json::json;

use super::*;
use crate::config::load::{self, LoadInputs, Loaded};
use crate::protocol::version::Protocol::{V3, V4};

const NOW_MS: i64 = 1_800_000_000_000;

/// A configuration with one model that cannot think and one that can.
fn config() -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let document = json!({
        "agents": { "defaults": { "model": { "primary": "stub/plain" } } },
        "models": { "providers": { "stub": { "baseUrl": "http://127.0.0.1:1", "models": [
            { "id": "plain", "reasoning": false }, { "id": "deep", "reasoning": true },
        ] } } },
    });
    let file = dir.path().join("openclaw.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let mut inputs = LoadInputs::of_process();
    inputs.env = Default::default();
    inputs.flag_config = Some(file);
    inputs.state_dir = Some(dir.path().to_owned());
    load::load(&inputs).unwrap()
}

fn session(key: &str) -> SessionRow {
    SessionRow::new(key, "main", "s1", "direct", 1)
}

/// Decodes and applies a patch; the error is the whole message a client would see.
fn patch(config: &Loaded, protocol: Protocol, session: &mut SessionRow, raw: Value) -> Result<(), String> {
    let mut issues = Issues::new(protocol);
    let object = raw.as_object().unwrap();
    let unknown = object.keys().find(|name| find(name, protocol).is_none());
    assert_eq!(unknown, None, "the test patches fields of {protocol:?}");
    let changes = read(object, "", &mut issues);
    if !issues.is_empty() {
        return Err(issues.text());
    }
    let context = Context::of(config);
    let ground = Ground { protocol, context: &context, now_ms: NOW_MS };
    apply(&ground, session, &changes).map_err(|error| error.message)
}

/// What a field holds: a column, or an entry.
fn held(session: &SessionRow, name: &str) -> Value {
    let text = |value: &Option<String>| value.as_ref().map_or(Value::Null, |text| json!(text));
    match name {
        "label" => text(&session.label),
        "spawnedBy" => text(&session.spawned_by),
        "model" => session.entry.get("modelOverride").cloned().unwrap_or(Value::Null),
        "unread" => json!(session.entry.contains_key("markedUnreadAt")),
        "archived" | "pinned" => session.entry.get(name).cloned().unwrap_or(json!(false)),
        _ => session.entry.get(name).cloned().unwrap_or(Value::Null),
    }
}

/// A value each field takes, and what it then holds.
fn sample(name: &str) -> (Value, Value) {
    let same = |value: Value| (value.clone(), value);
    match name {
        "label" | "autoLabel" | "category" => same(json!("night")),
        "icon" => same(json!("🌙")),
        "color" => (json!("Red"), json!("red")),
        "boardFace" => same(json!("dashboard")),
        "boardPresentation" => same(json!("split")),
        "archived" | "pinned" | "unread" => same(json!(true)),
        "model" => (json!("stub/deep"), json!("deep")),
        "agentRuntime" => same(json!("openclaw")),
        "contextWindow" => same(json!("1m")),
        "thinkingLevel" => same(json!("off")),
        "fastMode" => same(json!("auto")),
        "verboseLevel" => (json!("everything"), json!("full")),
        "traceLevel" => same(json!("raw")),
        "reasoningLevel" => same(json!("stream")),
        "responseUsage" => (json!("on"), json!("tokens")),
        "elevatedLevel" => (json!("approve"), json!("ask")),
        "execHost" => same(json!("gateway")),
        "execSecurity" => same(json!("allowlist")),
        "execAsk" => same(json!("on-miss")),
        "execNode" => (json!(" attic "), json!("attic")),
        "permissionMode" => same(json!("guarded")),
        "sandboxMode" => same(json!("off")),
        "toolOverrides" => same(json!({ "webSearch": false })),
        "sendPolicy" => same(json!("deny")),
        "groupActivation" => same(json!("always")),
        "modelPinning" => same(json!("strict")),
        "queueMode" => (json!("steer+backlog"), json!("steer-backlog")),
        "spawnedBy" => same(json!("agent:main:parent")),
        "spawnDepth" => same(json!(2)),
        other => panic!("no sample for {other}"),
    }
}

#[test]
fn every_field_is_set_and_cleared_by_null() {
    let config = config();
    let mut n_checked = 0;
    for field in FIELDS {
        for protocol in [V3, V4] {
            let retired = protocol == V4 && matches!(field.name, "execSecurity" | "execAsk");
            if !field.on.has(protocol) || retired {
                continue;
            }
            let name = field.name;
            let mut session = session(if name.starts_with("spawn") { "agent:main:subagent:x" } else { "agent:main:x" });
            let (value, expected) = sample(name);
            // A runtime is chosen together with its model.
            let mut raw = json!({ name: value });
            if name == "agentRuntime" {
                raw["model"] = json!("stub/deep");
            }
            patch(&config, protocol, &mut session, raw).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(held(&session, name), expected, "{name} on {protocol:?}");
            n_checked += 1;

            let cleared = patch(&config, protocol, &mut session, json!({ name: null }));
            match (field.null, name.starts_with("spawn")) {
                (_, true) => assert_eq!(cleared, Err(format!("{name} cannot be cleared once set"))),
                (Null::Clears, _) => {
                    cleared.unwrap();
                    assert_eq!(held(&session, name), Value::Null, "{name} on {protocol:?}");
                }
                (Null::Refused, _) => {
                    assert!(cleared.is_err(), "{name}");
                    if field.shape_is_bool() {
                        patch(&config, protocol, &mut session, json!({ name: false })).unwrap();
                        assert_eq!(held(&session, name), json!(false), "{name} on {protocol:?}");
                    }
                }
            }
        }
    }
    assert!(n_checked > 40, "the table was looked at: {n_checked}");
}

impl Field {
    fn shape_is_bool(&self) -> bool {
        matches!(self.shape, Shape::Bool)
    }
}

#[track_caller]
fn refused(protocol: Protocol, key: &str, raw: Value, why: &str) {
    let config = config();
    let mut row = session(key);
    assert_eq!(patch(&config, protocol, &mut row, raw), Err(why.to_owned()));
}

#[test]
fn a_refusal_is_in_upstreams_words() {
    let key = "agent:main:x";
    let any_of = "at /label: must be null; at /label: must match a schema in anyOf";
    let long = |n: usize| json!({ "label": "x".repeat(n) });
    refused(V3, key, long(65), &format!("at /label: must NOT have more than 64 characters; {any_of}"));
    refused(V4, key, long(513), &format!("at /label: must not have more than 512 characters; {any_of}"));
    refused(V3, key, long(0), &format!("at /label: must NOT have fewer than 1 characters; {any_of}"));
    refused(V3, key, json!({ "verboseLevel": "bogus" }), "invalid verboseLevel (use \"on\"|\"off\")");
    refused(V4, key, json!({ "verboseLevel": "bogus" }), "invalid verboseLevel (use \"on\"|\"off\"|\"full\")");
    refused(V3, key, json!({ "execHost": "auto" }), "invalid execHost (use \"sandbox\"|\"gateway\"|\"node\")");
    let constants = "at /sendPolicy: must be equal to constant; at /sendPolicy: must be null; \
                     at /sendPolicy: must match a schema in anyOf";
    refused(V3, key, json!({ "sendPolicy": "bogus" }), constants);
    refused(
        V4,
        key,
        json!({ "thinkingLevel": "low" }),
        "thinkingLevel \"low\" is not supported for stub/plain (use off)",
    );
    refused(V4, key, json!({ "thinkingLevel": "bogus" }), "invalid thinkingLevel (use off)");
    refused(V3, key, json!({ "thinkingLevel": "bogus" }), "invalid thinkingLevel (use off|minimal|low|medium|high)");
    refused(V4, key, json!({ "model": "nope/x" }), "Unknown provider \"nope\". Use /models to list providers.");
    refused(V3, key, json!({ "spawnedBy": "p" }), "spawnedBy is only supported for subagent:* sessions");
    refused(V3, key, json!({ "execNode": "n".repeat(65) }), "execNode too long (max 64)");
    refused(
        V4,
        key,
        json!({ "color": "mauve" }),
        "color must be one of: red, blue, green, yellow, purple, orange, pink, cyan",
    );
    let child = "agent:main:subagent:x";
    refused(V4, child, json!({ "pinned": true }), "cannot pin a child session; pin its parent session instead");
    let alone = json!({ "agentRuntime": "openclaw" });
    refused(V4, key, alone, "agentRuntime requires an explicit canonical provider/model selection");
}

#[test]
fn labels_and_nodes_of_the_greatest_length_are_taken() {
    let config = config();
    let mut row = session("agent:main:x");
    patch(&config, V3, &mut row, json!({ "label": "ä".repeat(64) })).unwrap();
    patch(&config, V4, &mut row, json!({ "label": "ä".repeat(512), "execNode": "n".repeat(64) })).unwrap();
    assert_eq!(row.label.unwrap().chars().count(), 512);
}

#[test]
fn tool_overrides_are_bounded() {
    let config = config();
    let mut row = session("agent:main:x");
    let of_bytes = |n: usize| {
        let empty = json!({ "skills": { "": true } }).to_string().len();
        json!({ "toolOverrides": { "skills": { "k".repeat(n - empty): true } } })
    };
    patch(&config, V4, &mut row, of_bytes(fields::TOOL_OVERRIDES_BYTES_MAX)).unwrap();
    patch(&config, V4, &mut row, of_bytes(fields::TOOL_OVERRIDES_BYTES_MAX + 1)).unwrap_err();
    patch(&config, V4, &mut row, json!({ "toolOverrides": {} })).unwrap();
    assert_eq!(row.entry.get("toolOverrides"), None, "an empty overlay is none");
}

#[test]
fn a_parent_is_set_once() {
    let config = config();
    let mut row = session("agent:main:subagent:x");
    let to = |parent: &str| json!({ "spawnedBy": parent });
    patch(&config, V3, &mut row, to("agent:main:a")).unwrap();
    patch(&config, V3, &mut row, to("agent:main:a")).unwrap();
    let again = patch(&config, V3, &mut row, to("agent:main:b"));
    assert_eq!(again, Err("spawnedBy cannot be changed once set".to_owned()));
}

#[test]
fn the_default_model_is_no_choice_on_protocol_3_and_one_on_protocol_4() {
    let config = config();
    let mut row = session("agent:main:x");
    patch(&config, V3, &mut row, json!({ "model": "stub/plain" })).unwrap();
    assert_eq!(row.entry.get("modelOverride"), None);
    patch(&config, V4, &mut row, json!({ "model": "stub/plain" })).unwrap();
    assert_eq!(row.entry["modelOverride"], "plain");
    assert_eq!(row.entry["modelOverrideSource"], "user");
}

#[test]
fn another_model_forgets_the_account_of_the_old_one() {
    let config = config();
    let mut row = session("agent:main:x");
    row.entry.insert("authProfileOverride".to_owned(), json!("work"));
    patch(&config, V3, &mut row, json!({ "model": "stub/plain" })).unwrap();
    assert_eq!(row.entry["authProfileOverride"], "work", "the model is the same as before");
    patch(&config, V3, &mut row, json!({ "model": "stub/deep" })).unwrap();
    assert_eq!(row.entry.get("authProfileOverride"), None);
}

#[test]
fn a_model_and_a_level_it_can_think_at_are_chosen_together() {
    let config = config();
    let mut row = session("agent:main:x");
    patch(&config, V4, &mut row, json!({ "thinkingLevel": "hard", "model": "stub/deep" })).unwrap_err();
    patch(&config, V4, &mut row, json!({ "thinkingLevel": "harder", "model": "stub/deep" })).unwrap();
    assert_eq!(row.entry["thinkingLevel"], "medium");
    patch(&config, V4, &mut row, json!({ "model": "stub/plain" })).unwrap();
    assert_eq!(row.entry["thinkingLevel"], "off", "lowered to what the model can");
}

#[test]
fn what_is_put_away_is_not_pinned() {
    let config = config();
    let mut row = session("agent:main:x");
    patch(&config, V4, &mut row, json!({ "pinned": true })).unwrap();
    patch(&config, V4, &mut row, json!({ "archived": true })).unwrap();
    assert_eq!((held(&row, "pinned"), row.entry.get("pinnedAt")), (json!(false), None));
    let pin = patch(&config, V4, &mut row, json!({ "pinned": true }));
    assert_eq!(pin, Err("cannot pin an archived session; restore it first".to_owned()));
}

#[test]
fn a_second_mark_is_a_later_one() {
    let config = config();
    let mut row = session("agent:main:x");
    patch(&config, V4, &mut row, json!({ "unread": true })).unwrap();
    assert_eq!(row.entry["markedUnreadAt"], NOW_MS);
    patch(&config, V4, &mut row, json!({ "unread": true })).unwrap();
    assert_eq!(row.entry["markedUnreadAt"], NOW_MS + 1);
    patch(&config, V4, &mut row, json!({ "unread": false })).unwrap();
    assert_eq!((row.entry.get("markedUnreadAt"), &row.entry["lastReadAt"]), (None, &json!(NOW_MS)));
}

#[test]
fn names_are_unique() {
    for (idx, field) in FIELDS.iter().enumerate() {
        assert!(!FIELDS[..idx].iter().any(|other| other.name == field.name), "{}", field.name);
    }
}
