//! The family from the wire's side: a method by its name, parameters and answers as JSON, the store on disk.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::super::clients::{Admission, Caller, Caps};
use super::super::super::health::HeartbeatRule;
use super::super::super::table::{self, Call, QueryCx, Run, StoreCx};
use super::super::super::{Done, Fact, Snapshot, reload};
use crate::agent::models::LazyModels;
use crate::config::load::{self, LoadInputs};
use crate::protocol::ConnId;
use crate::protocol::connect::{ClientId, ClientMode};
use crate::protocol::error::RpcError;
use crate::protocol::scope::{Role, Scopes};
use crate::protocol::version::Protocol::{self, V3, V4};
use crate::sessions::{row, transcript};
use crate::store::StoreError;
use crate::store::dir::StateDir;
use crate::store::open::{Database, OnDamage};
use crate::store::reader::LazyReader;
use crate::store::transcript::PageLimits;

struct World {
    dir: tempfile::TempDir,
    database: Database,
    snapshot: Snapshot,
    client: ClientId,
    now_ms: i64,
    facts: Vec<Fact>,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("openclaw.json");
        let document = json!({ "agents": { "defaults": { "model": { "primary": "stub/test" } }, "entries": {
            "main": {}, "ops": {},
        } } });
        std::fs::write(&file, document.to_string()).unwrap();
        let mut inputs = LoadInputs::of_process();
        inputs.env = Default::default();
        inputs.flag_config = Some(file);
        inputs.state_dir = Some(dir.path().to_owned());
        let config = Arc::new(load::load(&inputs).unwrap());
        let now_ms = 1_800_000_000_000;
        let state = StateDir::open(dir.path().join("state")).unwrap();
        let database = Database::open(&state, now_ms, OnDamage::Fail).unwrap().database;
        let snapshot = Snapshot {
            keys: Arc::new(reload::key_rules(&config)),
            models: Arc::new(LazyModels::new(Arc::clone(&config), Default::default())),
            config,
            state_dir: "/state".into(),
            log_file: "".into(),
            boot_id: "boot".into(),
            port: 1,
            uptime_ms: 0,
            heartbeat: HeartbeatRule { enabled: false, every: String::new(), every_ms: 0 },
            system_events: Vec::new(),
            active: Default::default(),
            runs: Arc::default(),
            reload_in_ms: None,
            load_inputs: Arc::new(inputs),
        };
        World { dir, database, snapshot, client: ClientId::Cli, now_ms, facts: Vec::new() }
    }

    fn call_of(&mut self, protocol: Protocol, method: &'static str) -> Call {
        self.now_ms += 1;
        let caller = Caller {
            conn: ConnId(1),
            protocol,
            role: Role::Operator,
            scopes: Scopes::from_names(["operator.admin"]),
            client_id: self.client,
            mode: ClientMode::Cli,
            device_id: None,
            admission: Admission::Token,
            address: [127, 0, 0, 1].into(),
            name: "test".to_owned(),
            label: "test".to_owned(),
            caps: Caps::default(),
        };
        Call { caller: Arc::new(caller), id: "1".to_owned(), method, now_ms: self.now_ms }
    }

    /// What `sessions.compact` does on the store for protocol 3, and where it is told how much stays.
    fn cut(&mut self, params: Value) -> Result<Value, RpcError> {
        let call = self.call_of(V3, "sessions.compact");
        let params: super::Keyed<super::change::CompactParams> =
            crate::protocol::params::decode("sessions.compact", Some(&params.to_string()), V3)?;
        let snapshot = self.snapshot.clone();
        let written =
            self.database.write(|db| super::change::cut(StoreCx { db, snapshot, call, ordered_by: None }, params.0));
        let (answer, facts) = written.map_err(|error: StoreError| RpcError::from(error))?;
        self.facts = facts;
        Ok(answer)
    }

    /// What `sessions.create` does on the store.
    fn create(&mut self, protocol: Protocol, params: &Value) -> Result<Value, RpcError> {
        let call = self.call_of(protocol, "sessions.create");
        let params = crate::protocol::params::decode("sessions.create", Some(&params.to_string()), protocol)?;
        let plan = super::create::Plan::new(&self.snapshot, &call, params)?;
        let snapshot = self.snapshot.clone();
        let written = self.database.write(|db| plan.write(&StoreCx { db, snapshot, call, ordered_by: None }));
        let (answer, facts) = written.map_err(|error: StoreError| RpcError::from(error))?;
        self.facts = facts;
        Ok(answer)
    }

    fn call(&mut self, protocol: Protocol, name: &str, params: Value) -> Result<Value, RpcError> {
        if name == "sessions.create" {
            return self.create(protocol, &params);
        }
        let method = table::find(name).unwrap_or_else(|| panic!("{name} is a method"));
        let call = self.call_of(protocol, method.name);
        let (snapshot, raw) = (self.snapshot.clone(), params.to_string());
        let Done { answer, facts } = match method.run {
            Run::Query(handler) => {
                let mut store = LazyReader::new(self.database.path());
                handler(QueryCx { store: &mut store, snapshot, call }, Some(&raw))?
            }
            Run::Store(handler) => {
                let written =
                    self.database.write(|db| handler(StoreCx { db, snapshot, call, ordered_by: None }, Some(&raw)));
                written.map_err(|error: StoreError| RpcError::from(error))?
            }
            Run::Loop(_) => panic!("{name} needs the loop"),
        };
        self.facts = facts;
        Ok(serde_json::from_slice(&answer.expect("it answers at once").0).unwrap())
    }

    #[track_caller]
    fn ok(&mut self, protocol: Protocol, name: &str, params: Value) -> Value {
        self.call(protocol, name, params).unwrap_or_else(|error| panic!("{name}: {}", error.message))
    }

    #[track_caller]
    fn refused(&mut self, protocol: Protocol, name: &str, params: Value, why: &str) {
        let error = self.call(protocol, name, params).unwrap_err();
        assert_eq!(error.message, why);
    }

    fn say(&mut self, key: &str, role: &'static str, text: &str) {
        self.now_ms += 1;
        let now_ms = self.now_ms;
        let key = super::session_key(key, None, &self.snapshot.keys).unwrap();
        self.database
            .write(|db| {
                let new = transcript::New {
                    role,
                    content: json!([{ "type": "text", "text": text }]),
                    metadata: json!({}),
                    idempotency_key: None,
                    extra: &[],
                    route: None,
                };
                transcript::add(db, &key, &new, now_ms)
            })
            .unwrap();
    }

    /// The keys a list holds, without `agent:main:`.
    #[track_caller]
    fn keys(&mut self, protocol: Protocol, params: Value) -> Vec<String> {
        let list = self.ok(protocol, "sessions.list", params);
        let sessions = list["sessions"].as_array().unwrap();
        assert_eq!(list["count"], sessions.len());
        let key = |row: &Value| row["key"].as_str().unwrap().trim_start_matches("agent:main:").to_owned();
        sessions.iter().map(key).collect()
    }
}

#[test]
fn every_filter_of_a_list_filters() {
    let mut world = World::new();
    for (key, change) in [
        ("a", json!({ "label": "night", "category": "work" })),
        ("b", json!({ "pinned": true, "boardFace": "dashboard" })),
        ("subagent:c", json!({ "icon": "x" })),
        ("cron:d", json!({ "icon": "x" })),
        ("hook:e", json!({ "icon": "x" })),
        ("telegram:direct:42", json!({ "icon": "x" })),
        ("global", json!({ "icon": "x" })),
        ("agent:ops:f", json!({ "icon": "x" })),
        ("agent:gone:g", json!({ "icon": "x" })),
    ] {
        let mut params = change;
        params["key"] = json!(key);
        world.ok(V4, "sessions.patch", params);
    }
    world.ok(V3, "sessions.patch", json!({ "key": "subagent:c", "spawnedBy": "agent:main:a" }));
    world.say("a", "user", "hello");
    let put_away = world.ok(V4, "sessions.create", json!({ "key": "h" }));
    world.ok(V4, "sessions.patch", json!({ "key": "h", "archived": true, "expectedSessionId": put_away["sessionId"] }));

    let all = world.keys(V4, json!({}));
    assert_eq!(all.len(), 9, "{all:?}");
    for (params, expected) in [
        (json!({ "label": "night" }), vec!["a"]),
        (json!({ "group": "work" }), vec!["a"]),
        (json!({ "search": "NIGHT" }), vec!["a"]),
        (json!({ "pinned": true }), vec!["b"]),
        (json!({ "boardFace": "dashboard" }), vec!["b"]),
        (json!({ "spawnedBy": "agent:main:a" }), vec!["subagent:c"]),
        (json!({ "channel": "Telegram" }), vec!["telegram:direct:42"]),
        (json!({ "agentId": "ops" }), vec!["agent:ops:f"]),
        (json!({ "agentId": "main", "includeGlobal": true, "search": "glob" }), vec![]),
        (json!({ "requireLastInteraction": true }), vec!["a"]),
        (json!({ "sortBy": "lastInteractionAt", "limit": 1 }), vec!["a"]),
        (json!({ "archived": true }), vec!["h"]),
        (json!({ "activeOnly": true }), vec![]),
        (json!({ "hasBoard": true }), vec![]),
        (json!({ "projectId": "p" }), vec![]),
        (json!({ "ownerId": "p" }), vec![]),
        (json!({ "label": "night", "group": "play" }), vec![]),
    ] {
        assert_eq!(world.keys(V4, params.clone()), expected, "{params}");
    }
    for (params, missing) in [
        (json!({ "excludeSubagents": true }), vec!["subagent:c"]),
        (json!({ "excludeCron": true }), vec!["cron:d"]),
        (json!({ "excludeSystem": true }), vec!["hook:e"]),
        (json!({ "includeGlobal": false }), vec!["global"]),
        (json!({ "configuredAgentsOnly": true }), vec!["agent:gone:g"]),
        (json!({ "pinned": false }), vec!["b"]),
        (json!({ "involvingMe": true, "ownerFirst": true, "includePeople": true }), vec![]),
    ] {
        let shown = world.keys(V4, params.clone());
        let gone: Vec<_> = all.iter().filter(|key| !shown.contains(key)).collect();
        assert_eq!(gone, missing, "{params}");
    }
    assert_eq!(world.keys(V4, json!({ "archived": "all" })).len(), 10);
    world.now_ms += 10 * 60_000;
    world.say("b", "user", "later");
    assert_eq!(world.keys(V3, json!({ "activeMinutes": 5 })), ["b"]);
}

#[test]
fn a_list_is_read_page_by_page() {
    let mut world = World::new();
    for n in 0..5 {
        world.ok(V4, "sessions.create", json!({ "key": format!("k{n}") }));
    }
    let first = world.ok(V4, "sessions.list", json!({ "limit": 2 }));
    assert_eq!((&first["totalCount"], &first["hasMore"], &first["nextOffset"]), (&json!(5), &json!(true), &json!(2)));
    assert_eq!(first["limitApplied"], 2);
    assert_eq!(world.keys(V4, json!({ "limit": 2, "offset": 2 })), ["k2", "k1"]);
    let last = world.ok(V4, "sessions.list", json!({ "limit": 2, "offset": 4 }));
    assert_eq!((&last["count"], &last["hasMore"], &last["nextOffset"]), (&json!(1), &json!(false), &Value::Null));
    let beyond = world.ok(V4, "sessions.list", json!({ "offset": 9 }));
    assert_eq!((&beyond["count"], &beyond["totalCount"], &beyond["hasMore"]), (&json!(0), &json!(5), &json!(false)));
    assert_eq!(last["totalCount"], 5);
    assert_eq!(world.ok(V4, "sessions.list", json!({ "limit": 99_999 }))["limitApplied"], 1000);
    assert_eq!(world.ok(V4, "sessions.list", json!({}))["limitApplied"], 100);
    let v3 = world.ok(V3, "sessions.list", json!({}));
    assert_eq!((v3.get("totalCount"), &v3["count"]), (None, &json!(5)));
    world.refused(V3, "sessions.list", json!({ "limit": 0 }), "invalid sessions.list params: at /limit: must be >= 1");
    world.refused(
        V3,
        "sessions.list",
        json!({ "offset": 1 }),
        "invalid sessions.list params: at root: unexpected property 'offset'",
    );
}

#[test]
fn titles_and_last_messages_come_when_asked_for() {
    let mut world = World::new();
    world.say("a", "user", "why is the sky\nblue");
    world.say("a", "assistant", "because of scattering");
    world.ok(V4, "sessions.create", json!({ "key": "b" }));
    let plain = world.ok(V3, "sessions.list", json!({ "search": "main:a" }));
    assert_eq!(plain["sessions"][0].get("derivedTitle"), None);
    let both = json!({ "includeDerivedTitles": true, "includeLastMessage": true });
    let list = world.ok(V3, "sessions.list", both);
    let row = |key: &str| list["sessions"].as_array().unwrap().iter().find(|row| row["key"] == key).cloned().unwrap();
    assert_eq!(row("agent:main:a")["derivedTitle"], "why is the sky blue");
    assert_eq!(row("agent:main:a")["lastMessagePreview"], "because of scattering");
    let unnamed = row("agent:main:b");
    let id = unnamed["sessionId"].as_str().unwrap();
    assert_eq!(unnamed["derivedTitle"], format!("{} (2027-01-15)", &id[..8]));
    assert_eq!(unnamed.get("lastMessagePreview"), None);
}

#[test]
fn the_first_selector_given_decides() {
    let mut world = World::new();
    let a = world.ok(V3, "sessions.patch", json!({ "key": "a", "label": "one" }));
    let b = world.ok(V3, "sessions.patch", json!({ "key": "b", "label": "two" }));
    world.ok(V3, "sessions.patch", json!({ "key": "agent:ops:b", "label": "two" }));
    let id = |patched: &Value| patched["entry"]["sessionId"].clone();
    for (params, key) in [
        (json!({ "key": "a" }), "agent:main:a"),
        (json!({ "sessionKey": "a" }), "agent:main:a"),
        (json!({ "session_key": "a" }), "agent:main:a"),
        (json!({ "key": "a", "sessionId": id(&b), "label": "two" }), "agent:main:a"),
        (json!({ "sessionId": id(&b), "label": "one" }), "agent:main:b"),
        (json!({ "label": "one" }), "agent:main:a"),
        (json!({ "label": "two", "agentId": "ops" }), "agent:ops:b"),
    ] {
        let found = world.ok(V3, "sessions.resolve", params.clone());
        assert_eq!((&found["ok"], &found["key"]), (&json!(true), &json!(key)), "{params}");
    }
    let found = world.ok(V3, "sessions.resolve", json!({ "key": "a" }));
    assert_eq!((&found["sessionId"], &found["entry"]["label"]), (&id(&a), &json!("one")));
    let found = world.ok(V4, "sessions.resolve", json!({ "key": "a" }));
    assert_eq!(found, json!({ "ok": true, "key": "agent:main:a", "agentId": "main", "displayName": "one" }));
    for (params, why) in [
        (json!({}), "Either key, sessionId, or label is required"),
        (json!({ "key": "x" }), "No session found: x"),
        (json!({ "sessionId": "x" }), "No session found: x"),
        (json!({ "sessionId": id(&a), "agentId": "ops" }), &format!("No session found: {}", id(&a).as_str().unwrap())),
        (json!({ "label": "x" }), "No session found with label: x"),
        (json!({ "label": "two" }), "Multiple sessions found with label: two (agent:ops:b, agent:main:b)"),
    ] {
        world.refused(V3, "sessions.resolve", params, why);
    }
    let missing = world.ok(V4, "sessions.resolve", json!({ "key": "x", "allowMissing": true }));
    assert_eq!(missing, json!({ "ok": false }));
}

#[test]
fn a_route_finds_the_session_that_changed_last() {
    let mut world = World::new();
    let route = |world: &mut World, key: &str, account: Option<&str>| {
        world.ok(V3, "sessions.patch", json!({ "key": key }));
        let whole = super::session_key(key, None, &world.snapshot.keys).unwrap();
        let now_ms = world.now_ms;
        let written = world.database.write(|db| {
            db.session_update::<StoreError>(whole.as_str(), now_ms, |session| {
                session.channel = Some("telegram".to_owned());
                session.peer = Some("42".to_owned());
                session.account_id = account.map(str::to_owned);
                Ok(())
            })
        });
        written.unwrap();
    };
    route(&mut world, "p", Some("home"));
    route(&mut world, "q", Some("work"));
    let find = |world: &mut World, params: Value| world.ok(V3, "sessions.resolve", params)["key"].clone();
    assert_eq!(find(&mut world, json!({ "channel": "telegram", "to": "42" })), "agent:main:q");
    assert_eq!(find(&mut world, json!({ "channel": "telegram", "to": "42", "accountId": "home" })), "agent:main:p");
    let elsewhere = json!({ "channel": "telegram", "to": "43" });
    world.refused(V3, "sessions.resolve", elsewhere, "No session found for this route");
}

#[test]
fn a_short_id_is_the_beginning_of_the_uuid_in_the_key() {
    let mut world = World::new();
    let one = "dashboard:0123abcd-0000-4000-8000-000000000001";
    let two = "dashboard:0123abcd-1111-4000-8000-000000000002";
    world.ok(V4, "sessions.create", json!({ "key": one, "displayName": "Night Shift" }));
    let find = |world: &mut World, params: Value| world.ok(V4, "sessions.resolve", params);
    assert_eq!(find(&mut world, json!({ "shortId": "0123abcd" }))["key"], format!("agent:main:{one}"));
    world.ok(V4, "sessions.create", json!({ "key": two, "displayName": "Day shift" }));
    let both = find(&mut world, json!({ "shortId": "0123ABCD" }));
    assert_eq!((&both["ok"], both["candidates"].as_array().unwrap().len()), (&json!(false), 2));
    let hinted = find(&mut world, json!({ "shortId": "0123abcd", "slugHint": "night-shift" }));
    assert_eq!(hinted["key"], format!("agent:main:{one}"));
    assert_eq!(find(&mut world, json!({ "shortId": "0123abcd1" }))["key"], format!("agent:main:{two}"));
    world.refused(V4, "sessions.resolve", json!({ "shortId": "0123abc" }), "No session found: 0123abc");
}

#[test]
fn a_patch_makes_tells_and_records() {
    let mut world = World::new();
    let made = world.ok(V4, "sessions.patch", json!({ "key": "S-A", "label": "night" }));
    assert_eq!(
        (&made["ok"], &made["key"], &made["entry"]["label"]),
        (&json!(true), &json!("agent:main:s-a"), &json!("night"))
    );
    assert_eq!(made["session"], made["entry"]);
    assert_eq!(made["resolved"]["model"], "test");
    match world.facts.as_slice() {
        [Fact::Session { key, reason: "patch", row, is_new: true, .. }] => {
            assert_eq!((key.as_str(), &row["label"]), ("agent:main:s-a", &json!("night")));
        }
        other => panic!("{other:?}"),
    }
    world.refused(V4, "sessions.patch", json!({ "key": "b", "label": "night" }), "label already in use: night");
    assert_eq!(world.database.session("agent:main:b").unwrap(), None, "a refused patch makes nothing");
    world.refused(V4, "sessions.patch", json!({ "key": "  " }), "key required");
    let trail = world.database.audit_list(&Default::default(), 10).unwrap();
    assert_eq!(trail.len(), 1);
    assert_eq!(
        (trail[0].record.action.as_str(), trail[0].record.resource.as_str()),
        ("sessions.patch", "agent:main:s-a")
    );
}

#[test]
fn web_chat_neither_patches_nor_deletes() {
    let mut world = World::new();
    for client in [ClientId::Webchat, ClientId::WebchatUi] {
        world.client = client;
        for what in ["patch", "delete"] {
            let why = format!("webchat clients cannot {what} sessions; use chat.send for session-scoped updates");
            world.refused(V3, &format!("sessions.{what}"), json!({ "key": "a" }), &why);
        }
    }
}

#[test]
fn a_guard_stops_what_rests_on_an_old_reading() {
    let mut world = World::new();
    let made = world.ok(V4, "sessions.create", json!({ "key": "a", "permissionMode": "guarded" }));
    let (id, revision) = (made["sessionId"].clone(), made["entry"]["lifecycleRevision"].clone());
    let holds = json!({ "key": "a", "label": "x", "expectedSessionId": id, "expectedLifecycleRevision": revision });
    world.ok(V4, "sessions.patch", holds);
    let changed = "Session agent:main:a changed before patch. Retry.";
    for guard in [
        json!({ "label": "y", "expectedSessionId": "other" }),
        json!({ "label": "y", "expectedLifecycleRevision": "other" }),
        json!({ "permissionMode": "workspace", "expectedPermissionMode": null }),
        json!({ "permissionMode": "workspace", "expectedPermissionMode": "full" }),
        json!({ "toolOverrides": null, "expectedToolOverrides": { "webSearch": true } }),
    ] {
        let mut params = guard;
        params["key"] = json!("a");
        let error = world.call(V4, "sessions.patch", params.clone()).unwrap_err();
        assert_eq!(error.message, changed, "{params}");
        assert_eq!(error.details, Some(json!({ "reason": "session-changed" })));
    }
    let holds = json!({ "key": "a", "permissionMode": "workspace", "expectedPermissionMode": "guarded" });
    assert_eq!(world.ok(V4, "sessions.patch", holds)["entry"]["permissionMode"], "workspace");
    let alone = json!({ "key": "a", "expectedPermissionMode": "guarded" });
    world.refused(V4, "sessions.patch", alone, "expectedPermissionMode requires a permissionMode replacement.");
    let reset = json!({ "key": "a", "expectedSessionId": "other" });
    world.refused(V4, "sessions.reset", reset.clone(), "Session agent:main:a changed before reset. Retry.");
    world.refused(V4, "sessions.delete", reset, "Session agent:main:a changed before deletion. Retry.");
}

#[test]
fn reading_does_not_take_away_a_later_mark() {
    let mut world = World::new();
    let marked = world.ok(V4, "sessions.patch", json!({ "key": "a", "unread": true }));
    let mark = marked["entry"]["markedUnreadAt"].clone();
    let read = |seen: Value| json!({ "key": "a", "unread": false, "expectedMarkedUnreadAt": seen });
    let kept = world.ok(V4, "sessions.patch", read(Value::Null));
    assert_eq!(kept["entry"]["markedUnreadAt"], mark, "it was not marked when the reader looked");
    let gone = world.ok(V4, "sessions.patch", read(mark));
    assert_eq!(gone["entry"].get("markedUnreadAt"), None);
    let more = json!({ "key": "a", "unread": false, "label": "x", "expectedMarkedUnreadAt": null });
    world.refused(V4, "sessions.patch", more, "expectedMarkedUnreadAt requires unread=false as the only mutation.");
}

#[test]
fn only_a_known_session_is_put_away_and_never_the_main_one() {
    let mut world = World::new();
    let away = |key: &str| json!({ "key": key, "archived": true });
    world.refused(V4, "sessions.patch", away("a"), "session not found: agent:main:a");
    world.refused(V4, "sessions.patch", away("main"), "Cannot archive an agent's main session.");
    let made = world.ok(V4, "sessions.create", json!({ "key": "a" }));
    let why = "expectedSessionId required for session lifecycle patch: agent:main:a";
    world.refused(V4, "sessions.patch", away("a"), why);
    let delete = json!({ "key": "a", "archivedOnly": true });
    let why = "Session agent:main:a is not archived. Archive it first, then delete it.";
    world.refused(V4, "sessions.delete", delete.clone(), why);
    let put_away = json!({ "key": "a", "archived": true, "expectedSessionId": made["sessionId"] });
    world.ok(V4, "sessions.patch", put_away);
    assert_eq!(world.ok(V4, "sessions.delete", delete)["deleted"], true);
}

#[test]
fn many_sessions_change_each_on_its_own() {
    let mut world = World::new();
    world.ok(V4, "sessions.create", json!({ "key": "a" }));
    let targets = json!([{ "key": "a" }, { "key": "b", "expectedSessionId": "gone" }, { "key": "c" }]);
    let done = world.ok(V4, "sessions.patchMany", json!({ "targets": targets, "patch": { "category": "work" } }));
    assert_eq!(done["outcomes"][0], json!({ "ok": true, "key": "agent:main:a" }));
    assert_eq!(done["outcomes"][1]["error"]["message"], "Session agent:main:b changed before patch. Retry.");
    assert_eq!(done["outcomes"][2]["ok"], true);
    let told =
        |world: &World| (world.facts.len(), world.facts.iter().filter(|fact| matches!(fact, Fact::Groups)).count());
    assert_eq!(told(&world), (3, 1), "two sessions, and one group that is new");
    assert_eq!(world.keys(V4, json!({ "group": "work" })), ["a", "c"]);
    let refuse = "invalid sessions.patchMany params: ";
    let targets = |n: usize| vec![json!({ "key": "a" }); n];
    let params = |n: usize, patch: Value| json!({ "targets": targets(n), "patch": patch });
    world.ok(V4, "sessions.patchMany", params(100, json!({ "pinned": true })));
    let too_many = format!("{refuse}at /targets: must not have more than 100 items");
    world.refused(V4, "sessions.patchMany", params(101, json!({ "pinned": true })), &too_many);
    let empty = format!("{refuse}at /patch: must not have fewer than 1 properties");
    world.refused(V4, "sessions.patchMany", params(1, json!({})), &empty);
    let unknown = format!("{refuse}at /patch: unexpected property 'zz'");
    world.refused(V4, "sessions.patchMany", params(1, json!({ "zz": 1 })), &unknown);
}

#[test]
fn a_reset_starts_a_transcript_and_keeps_the_settings() {
    let mut world = World::new();
    world.say("a", "user", "hello");
    let before = world.ok(V3, "sessions.patch", json!({ "key": "a", "label": "night", "verboseLevel": "on" }));
    let after = world.ok(V3, "sessions.reset", json!({ "key": "a", "reason": "new" }));
    let entry = &after["entry"];
    assert_ne!(entry["sessionId"], before["entry"]["sessionId"]);
    assert_ne!(entry["lifecycleRevision"], before["entry"]["lifecycleRevision"]);
    assert_eq!((&entry["label"], &entry["verboseLevel"]), (&json!("night"), &json!("on")));
    assert_eq!((&entry["totalTokens"], &entry["totalTokensFresh"]), (&json!(0), &json!(true)));
    assert_eq!(world.ok(V4, "sessions.get", json!({ "key": "a" }))["messages"], json!([]));
    let archives = world.database.archive_list("agent:main:a").unwrap();
    assert_eq!(archives.len(), 1);
    let bogus = json!({ "key": "a", "reason": "bogus" });
    let why = "invalid sessions.reset params: at /reason: must be equal to constant; \
               at /reason: must match a schema in anyOf";
    world.refused(V3, "sessions.reset", bogus, why);
    assert_eq!(world.ok(V3, "sessions.reset", json!({ "key": "new" }))["entry"]["totalTokens"], 0);
}

#[test]
fn a_deleted_session_is_archived_and_the_main_one_stays() {
    let mut world = World::new();
    world.say("a", "user", "hello");
    world.say("b", "user", "hello");
    world.say("main", "user", "hello");
    let gone = world.ok(V3, "sessions.delete", json!({ "sessionKey": "a" }));
    assert_eq!((&gone["deleted"], &gone["key"]), (&json!(true), &json!("agent:main:a")));
    assert_eq!(gone["archived"].as_array().unwrap().len(), 1);
    assert!(matches!(world.facts.as_slice(), [Fact::SessionGone { .. }]));
    let kept = world.ok(V4, "sessions.delete", json!({ "key": "b", "deleteTranscript": false }));
    assert_eq!(kept, json!({ "ok": true, "key": "agent:main:b", "deleted": true, "archived": [] }));
    assert_eq!(world.ok(V4, "sessions.delete", json!({ "key": "a" }))["deleted"], false);
    assert!(world.facts.is_empty());
    for key in ["main", "agent:main:main", "agent:ops:main", "global"] {
        let error = world.call(V3, "sessions.delete", json!({ "key": key })).unwrap_err();
        assert!(error.message.starts_with("Cannot delete the main session ("), "{}", error.message);
    }
}

#[test]
fn what_a_compaction_takes_out_stays_readable() {
    let mut world = World::new();
    let none = world.cut(json!({ "key": "a" })).unwrap();
    assert_eq!((&none["compacted"], &none["reason"]), (&json!(false), &json!("no sessionId")));
    world.ok(V3, "sessions.patch", json!({ "key": "a" }));
    assert_eq!(world.cut(json!({ "key": "a" })).unwrap()["reason"], "no transcript");
    for text in ["one", "two", "three"] {
        world.say("a", "user", text);
    }
    let under = world.cut(json!({ "key": "a", "maxLines": 3 })).unwrap();
    assert_eq!(
        (&under["compacted"], &under["kept"], &under["reason"]),
        (&json!(false), &json!(3), &json!("below limit"))
    );
    let done = world.cut(json!({ "key": "a", "maxLines": 2 })).unwrap();
    assert_eq!((&done["compacted"], &done["kept"], &done["removed"]), (&json!(true), &json!(2), &json!(1)));
    assert!(done["archived"].as_str().unwrap().contains(".jsonl.compacted."));
    assert_eq!(world.ok(V4, "sessions.get", json!({ "key": "a" }))["messages"].as_array().unwrap().len(), 2);
    let archives = world.database.archive_list("agent:main:a").unwrap();
    let limits = PageLimits { rows_max: 9, page_bytes_max: 9999, message_bytes_max: 9999 };
    let read = world.database.archive_page(&archives[0], 0, limits).unwrap();
    assert!(read[0].message.as_ref().unwrap().contains("one"));
    let bad = json!({ "key": "a", "maxLines": 0 });
    assert_eq!(world.cut(bad).unwrap_err().message, "invalid sessions.compact params: at /maxLines: must be >= 1");
}

#[test]
fn a_session_is_made_once_with_what_it_begins_with() {
    let mut world = World::new();
    let params = json!({ "key": "a", "label": "night", "category": "work", "fastMode": true });
    let made = world.ok(V4, "sessions.create", params);
    let entry = &made["entry"];
    assert_eq!(
        (&entry["label"], &entry["category"], &entry["fastMode"]),
        (&json!("night"), &json!("work"), &json!(true))
    );
    assert_eq!((&entry["parentSessionKey"], &made["runStarted"]), (&json!("agent:main:main"), &json!(false)));
    let told = world.facts.as_slice();
    assert!(matches!(told, [Fact::Session { reason: "create", is_new: true, .. }, Fact::Groups]), "{told:?}");
    let again = world.ok(V4, "sessions.create", json!({ "key": "a", "label": "day" }));
    assert_eq!((&again["sessionId"], &again["entry"]["label"]), (&made["sessionId"], &json!("night")));
    assert!(world.facts.is_empty());

    let once = json!({ "idempotencyKey": "k", "agentId": "ops", "titleSource": "  tides\nand moons " });
    let first = world.ok(V4, "sessions.create", once.clone());
    assert!(first["key"].as_str().unwrap().starts_with("agent:ops:dashboard:"));
    assert_eq!(first["entry"]["displayName"], "tides and moons");
    assert_eq!(world.ok(V4, "sessions.create", once)["key"], first["key"]);
    assert_ne!(world.ok(V4, "sessions.create", json!({ "agentId": "ops" }))["key"], first["key"]);

    world.refused(V4, "sessions.create", json!({ "agentId": "nobody" }), "Unknown agent id \"nobody\"");
    world.refused(V4, "sessions.create", json!({ "fork": true }), "fork requires parentSessionKey");
    world.refused(V4, "sessions.create", json!({ "forkFrom": "last-completed" }), "forkFrom requires fork=true");
    let run = json!({ "incognito": true });
    world.refused(V4, "sessions.create", run, "sessions.create cannot take incognito in this build");
    assert_eq!(world.ok(V4, "sessions.describe", json!({ "key": "b" })), json!({ "session": null }));
}

#[test]
fn a_preview_tells_what_can_be_shown_of_each_session() {
    let mut world = World::new();
    world.say("a", "user", "preview me, please, all of it");
    world.say("a", "assistant", "here you are");
    world.ok(V4, "sessions.create", json!({ "key": "b" }));
    let keys = ["a", "b", "x-none", "agent:"];
    let previews = world.ok(V3, "sessions.preview", json!({ "keys": keys, "maxChars": 20 }));
    assert_eq!(
        previews["previews"],
        json!([
            { "key": "a", "status": "ok", "items": [
                { "role": "user", "text": "preview me, pleas..." },
                { "role": "assistant", "text": "here you are" },
            ] },
            { "key": "b", "status": "empty", "items": [] },
            { "key": "x-none", "status": "missing", "items": [] },
            { "key": "agent:", "status": "error", "items": [] },
        ])
    );
    let last = world.ok(V3, "sessions.preview", json!({ "keys": ["a"], "limit": 1 }));
    assert_eq!(last["previews"][0]["items"], json!([{ "role": "assistant", "text": "here you are" }]));
    let many: Vec<String> = (0..65).map(|n| format!("k{n}")).collect();
    let previews = world.ok(V3, "sessions.preview", json!({ "keys": many }));
    assert_eq!(previews["previews"].as_array().unwrap().len(), 64);
    let short = json!({ "keys": ["a"], "maxChars": 19 });
    world.refused(V3, "sessions.preview", short, "invalid sessions.preview params: at /maxChars: must be >= 20");
    let why = "invalid sessions.preview params: at /keys: must NOT have fewer than 1 items";
    world.refused(V3, "sessions.preview", json!({ "keys": [] }), why);
}

#[test]
fn a_row_of_protocol_4_says_whether_there_is_something_to_read() {
    let mut world = World::new();
    world.say("a", "user", "what it was made with");
    let row = |world: &mut World| world.ok(V4, "sessions.describe", json!({ "key": "a" }))["session"].clone();
    assert_eq!(row(&mut world)["unread"], false);
    world.say("a", "user", "news");
    assert_eq!(row(&mut world)["unread"], true);
    world.ok(V4, "sessions.patch", json!({ "key": "a", "unread": false }));
    assert_eq!(row(&mut world)["unread"], false);
    world.say("a", "user", "more");
    assert_eq!(row(&mut world)["unread"], true);
    assert!(world.dir.path().join("state").exists());
}

#[test]
fn an_event_carries_the_rows_of_a_sessions_parents_and_no_more_of_them_than_that() {
    let mut world = World::new();
    let n_deep = row::ANCESTORS_MAX + 3;
    for depth in 0..n_deep {
        let parent = format!("agent:main:d{}", depth.max(1) - 1);
        world.ok(V4, "sessions.create", json!({ "key": format!("d{depth}"), "parentSessionKey": parent }));
    }
    let told = |world: &World| match world.facts.as_slice() {
        [Fact::Session { row, .. }] => row::beside(row.clone()),
        other => panic!("{other:?}"),
    };
    let last = told(&world);
    let above: Vec<&str> =
        last["ancestorSessions"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap()).collect();
    let nearest: Vec<String> = (0..row::ANCESTORS_MAX).map(|n| format!("agent:main:d{}", n_deep - 2 - n)).collect();
    assert_eq!(above, nearest);
    assert!(last["session"].get("ancestorSessions").is_none(), "they stand beside the row");
    // One that is its own parent has none above it.
    world.ok(V4, "sessions.patch", json!({ "key": "d0", "pinned": true }));
    assert_eq!(told(&world)["ancestorSessions"], json!([]));
}
