//! What several people share around sessions: groups, files, who looks at what, and who is writing.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::provider::{Provider, Turn};
use crate::harness::{Client, Server, schema};

fn groups(client: &Client) -> Vec<(String, u64)> {
    let listed = client.call("sessions.groups.list", json!({})).expect_valid();
    let row = |group: &Value| (group["name"].as_str().unwrap().to_owned(), group["position"].as_u64().unwrap());
    listed["groups"].as_array().unwrap().iter().map(row).collect()
}

#[track_caller]
fn expect_groups_changed(client: &Client) {
    client.expect_event_where("sessions.changed", |changed| changed["reason"] == "groups");
}

#[test]
fn groups_are_everybodys_and_their_sessions_go_along() {
    let mut server = Server::start();
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    bob.call("sessions.subscribe", json!({})).expect_ok();
    let put = json!({ "names": ["Work", " Home ", "Work"], "sectionOrder": ["groups", "category:Home", "nonsense"] });
    let done = ann.call("sessions.groups.put", put).expect_valid();
    assert_eq!(done["sectionOrder"], json!(["groups", "category:Home"]));
    expect_groups_changed(&bob);
    ann.call("sessions.create", json!({ "key": "a", "category": "Home" })).expect_ok();
    ann.call("sessions.patch", json!({ "key": "b", "category": "New" })).expect_ok();
    expect_groups_changed(&bob);
    assert_eq!(groups(&bob), [("Work".to_owned(), 0), ("Home".to_owned(), 1), ("New".to_owned(), 2)]);

    let refused = ann.call("sessions.groups.put", json!({ "names": ["Work"] })).expect_err("INVALID_REQUEST");
    refused
        .message_starts("sessions.groups.put cannot leave out groups with sessions in them: \"Home\" (1), \"New\" (1)");
    let before = ann.call("sessions.describe", json!({ "key": "a" })).expect_ok()["session"]["updatedAt"].clone();
    let renamed = ann.call("sessions.groups.rename", json!({ "name": "Home", "to": "House" })).expect_valid();
    assert_eq!(
        (&renamed["updatedSessions"], &renamed["sectionOrder"]),
        (&json!(1), &json!(["groups", "category:House"]))
    );
    expect_groups_changed(&bob);
    let row = bob.call("sessions.describe", json!({ "key": "a" })).expect_ok()["session"].clone();
    assert_eq!((&row["category"], &row["updatedAt"]), (&json!("House"), &before), "its session is no newer for it");
    let listed = bob.call("sessions.list", json!({ "group": "House" })).expect_ok();
    assert_eq!(listed["sessions"][0]["key"], "agent:main:a");
    let deleted = ann.call("sessions.groups.delete", json!({ "name": "New" })).expect_valid();
    assert_eq!(deleted["updatedSessions"], 1);
    ann.call("sessions.groups.rename", json!({ "name": "none", "to": "x" }))
        .expect_err("INVALID_REQUEST")
        .message("unknown session group: none");

    server.kill_and_restart();
    let ann = server.operator("ann");
    assert_eq!(groups(&ann), [("Work".to_owned(), 0), ("House".to_owned(), 1)]);
}

#[test]
fn what_a_group_begins_with_is_set_by_who_may_send_sessions_there() {
    let server = Server::start();
    let ann = server.operator("ann");
    ann.call("sessions.groups.put", json!({ "names": ["Work"] })).expect_valid();
    let writer = ConnectOptions::operator("writer").scopes(&["operator.read", "operator.write"]);
    let writer = server.client("writer", Proto::V4, &writer);
    let workspace = server.state_dir().join("workspace");
    fs::create_dir_all(workspace.join("in")).unwrap();
    symlink("/", workspace.join("out")).unwrap();
    let set = |client: &Client, cwd: Value| {
        client.call("sessions.groups.update", json!({ "name": "Work", "cwd": cwd, "worktree": false }))
    };
    set(&writer, json!("relative")).expect_err("INVALID_REQUEST").message("session group cwd must be absolute");
    for elsewhere in [json!("/etc"), json!(workspace.join("out/etc")), json!(workspace.join("in/../../.."))] {
        set(&writer, elsewhere).expect_err("FORBIDDEN").detail("/missingScope", "operator.admin");
    }
    let inside = workspace.join("in");
    let done = set(&writer, json!(inside)).expect_valid();
    assert_eq!(done["defaults"], json!([{ "name": "Work", "cwd": inside, "worktree": false }]));
    set(&ann, json!("/srv")).expect_valid();
    set(&ann, Value::Null).expect_valid();
    let defaults = writer.call("sessions.groups.defaults", json!({})).expect_valid();
    assert_eq!(defaults["defaults"], json!([{ "name": "Work", "worktree": false }]));
    let reader = ConnectOptions::operator("reader").scopes(&["operator.read"]);
    let reader = server.client("reader", Proto::V4, &reader);
    reader.call("sessions.groups.defaults", json!({})).expect_err("FORBIDDEN");
    reader.call("sessions.groups.list", json!({})).expect_valid();
}

#[test]
fn a_sessions_files_are_listed_read_and_written_and_nothing_beyond_them() {
    let provider = Provider::start();
    provider.then(Turn::call("read", json!({ "path": "notes.md" })));
    provider.then(Turn::text("read it"));
    let server = Server::with().config(&provider.config()).start();
    let ann = server.operator("ann");
    let workspace = server.state_dir().join("workspace");
    fs::create_dir_all(workspace.join("src/deep")).unwrap();
    fs::write(workspace.join("notes.md"), "first\n").unwrap();
    fs::write(workspace.join("src/deep/main.rs"), "fn main() {}\n").unwrap();
    fs::write(workspace.join("large.txt"), "x".repeat(256 * 1024 + 1)).unwrap();
    fs::write(workspace.join("picture"), b"\x89PNG\r\n\x1a\nrest").unwrap();
    fs::write(server.state_dir().join("secret"), "secret").unwrap();
    symlink(server.state_dir().join("secret"), workspace.join("link")).unwrap();
    fs::hard_link(server.state_dir().join("secret"), workspace.join("twin")).unwrap();
    let params = json!({ "sessionKey": "main", "message": "look", "idempotencyKey": "look" });
    ann.call("chat.send", params).expect_ok();
    ann.call("agent.wait", json!({ "runId": "look", "timeoutMs": 20_000 })).expect_ok();

    let list = |more: Value| {
        let mut params = json!({ "sessionKey": "main" });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ann.call("sessions.files.list", params).expect_valid()
    };
    let all = list(json!({}));
    assert_eq!((&all["root"], &all["gitCheckout"]), (&json!(workspace), &json!(false)));
    let touched = &all["files"][0];
    assert_eq!((&touched["path"], &touched["kind"], &touched["size"]), (&json!("notes.md"), &json!("read"), &json!(6)));
    let names = |listed: &Value| -> Vec<String> {
        let entries = listed["browser"]["entries"].as_array().unwrap().iter();
        entries.map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    };
    let here = names(&all);
    assert!(here.contains(&"src".to_owned()) && here.contains(&"notes.md".to_owned()), "{here:?}");
    assert!(!here.contains(&"link".to_owned()), "links are not shown: {here:?}");
    let deep = list(json!({ "path": "src/deep" }));
    assert_eq!((names(&deep), &deep["browser"]["parentPath"]), (vec!["src/deep/main.rs".to_owned()], &json!("src")));
    assert_eq!(names(&list(json!({ "search": "MAIN" }))), ["src/deep/main.rs"]);
    assert!(list(json!({ "path": "../" })).get("browser").is_none());
    let nobody = ann.call("sessions.files.list", json!({ "sessionKey": "none" })).expect_valid();
    assert_eq!(nobody, json!({ "sessionKey": "none", "files": [] }));

    let get = |path: &str| ann.call("sessions.files.get", json!({ "sessionKey": "main", "path": path }));
    let file = get("notes.md").expect_valid()["file"].clone();
    assert_eq!(
        (&file["content"], &file["kind"], &file["previewKind"]),
        (&json!("first\n"), &json!("read"), &json!("text"))
    );
    assert_eq!(get("picture").expect_valid()["file"]["contentEncoding"], "base64");
    for hidden in ["link", "twin", "../secret", "/etc/passwd", "src", "none"] {
        get(hidden).expect_err("INVALID_REQUEST").detail("/type", "session_file_not_found");
    }
    get("large.txt").expect_err("INVALID_REQUEST").detail("/type", "session_file_too_large");

    let set = |path: &str, hash: &Value, content: &str| {
        let params = json!({ "sessionKey": "main", "path": path, "content": content, "expectedHash": hash });
        ann.call("sessions.files.set", params)
    };
    let written = set("notes.md", &file["hash"], "second\n").expect_valid();
    assert_eq!(fs::read_to_string(workspace.join("notes.md")).unwrap(), "second\n");
    assert_eq!(get("notes.md").expect_valid()["file"]["hash"], written["file"]["hash"]);
    let conflict = set("notes.md", &file["hash"], "third").expect_err("INVALID_REQUEST");
    conflict.detail("/type", "session_file_conflict").detail("/currentHash", written["file"]["hash"].clone());
    for (path, content, kind) in [
        ("none", "x", "session_file_not_found"),
        ("link", "x", "session_file_not_found"),
        ("../secret", "x", "session_file_not_found"),
        ("twin", "x", "session_file_unsafe"),
        ("picture", "x", "session_file_unsafe"),
        ("notes.md", "a\0b", "session_file_unsafe"),
        ("notes.md", &"x".repeat(256 * 1024 + 1), "session_file_too_large"),
    ] {
        set(path, &file["hash"], content).expect_err("INVALID_REQUEST").detail("/type", kind);
    }
    assert_eq!(fs::read_to_string(server.state_dir().join("secret")).unwrap(), "secret");
    let reader = ConnectOptions::operator("reader").scopes(&["operator.sessions.read"]);
    let reader = server.client("reader", Proto::V4, &reader);
    reader.call("sessions.files.get", json!({ "sessionKey": "main", "path": "notes.md" })).expect_valid();
    reader.call("sessions.files.set", json!({})).expect_err("FORBIDDEN").message("missing scope: operator.admin");
}

/// An operator whose program is shown in the presence list.
fn page(server: &Server, name: &str) -> Client {
    let options = ConnectOptions::operator(name).client("mode", "ui").client("displayName", name);
    server.client(name, Proto::V4, &options)
}

/// The sessions that somebody looks at, as `client` is told.
fn watched(client: &Client, name: &str) -> Value {
    let listed = client.call("system-presence", json!({})).expect_ok();
    let entries = listed.as_array().unwrap();
    entries.iter().for_each(|entry| schema::check("PresenceEntry", entry));
    let entry =
        entries.iter().find(|entry| entry["host"] == name).unwrap_or_else(|| panic!("{name} is not in {listed}"));
    entry["watchedSessions"].clone()
}

#[test]
fn others_see_what_one_looks_at_until_one_leaves() {
    let server = Server::start();
    let (ann, bob) = (page(&server, "ann"), page(&server, "bob"));
    let keys = json!(["b", "agent:main:a", "b"]);
    let done = ann.call("sessions.viewers.set", json!({ "sessionKeys": keys })).expect_valid();
    assert_eq!(done["sessionKeys"], json!(["agent:main:a", "agent:main:b"]));
    let told = |payload: &Value, name: &str| {
        payload["presence"].as_array().unwrap().iter().find(|entry| entry["host"] == name).cloned().unwrap_or_default()
    };
    bob.expect_event_where("presence", |payload| {
        told(payload, "ann")["watchedSessions"] == json!(["agent:main:a", "agent:main:b"])
    });
    let again = page(&server, "ann");
    again.call("sessions.viewers.set", json!({ "sessionKeys": ["c"] })).expect_valid();
    assert_eq!(
        watched(&bob, "ann"),
        json!(["agent:main:a", "agent:main:b", "agent:main:c"]),
        "one person, two windows"
    );
    ann.leave();
    bob.expect_event_where("presence", |payload| told(payload, "ann")["watchedSessions"] == json!(["agent:main:c"]));
    again.call("sessions.viewers.set", json!({ "sessionKeys": [] })).expect_valid();
    assert_eq!(watched(&bob, "ann"), Value::Null);
    let many: Vec<String> = (0..33).map(|n| format!("k{n}")).collect();
    again.call("sessions.viewers.set", json!({ "sessionKeys": many })).expect_err("INVALID_REQUEST");
    again.call("sessions.viewers.set", json!({ "sessionKeys": many[..32] })).expect_valid();

    let pairing = ConnectOptions::operator("pairing").scopes(&["operator.pairing"]);
    let pairing = server.client("pairing", Proto::V4, &pairing);
    let seen = told(&pairing.hello["snapshot"], "ann");
    assert_eq!(seen["watchedSessions"], Value::Null, "which sessions there are is for who may read them");
    again.leave();
    bob.expect_event_where("presence", |payload| told(payload, "ann")["reason"] == "disconnect");
    assert_eq!(watched(&bob, "ann"), Value::Null);
}

#[test]
fn who_looks_at_the_same_session_sees_one_writing() {
    let server = Server::start();
    let (ann, bob, eve) = (page(&server, "ann"), page(&server, "bob"), page(&server, "eve"));
    let session = ann.call("sessions.create", json!({ "key": "shared" })).expect_ok();
    let key = session["key"].clone();
    let typing = |client: &Client, id: &Value, more: Value| {
        let mut params = json!({ "sessionKey": "shared", "sessionId": id, "typing": true });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.call("session.typing", params).expect_valid()["broadcast"] == true
    };
    let id = &session["sessionId"];
    for client in [&ann, &bob, &eve] {
        client.call("sessions.messages.subscribe", json!({ "key": key })).expect_ok();
    }
    ann.call("sessions.viewers.set", json!({ "sessionKeys": [key] })).expect_valid();
    assert!(!typing(&ann, id, json!({})), "nobody else looks at it");
    bob.call("sessions.viewers.set", json!({ "sessionKeys": [key] })).expect_valid();
    assert!(!typing(&eve, id, json!({})), "who does not look at it does not write in it");
    assert!(!typing(&ann, &json!("another"), json!({})), "another conversation of that name");

    let from = ann.mark();
    assert!(typing(&ann, id, json!({ "preview": format!("  {}", "é".repeat(401)) })));
    let seen = bob.expect_event("session.typing");
    seen.with("/sessionKey", key.clone()).with("/typing", true).with("/actor/label", "ann");
    let payload =
        bob.events(0).into_iter().rfind(|frame| frame["event"] == "session.typing").unwrap()["payload"].clone();
    schema::check("SessionTypingEvent", &payload);
    assert_eq!(payload["preview"], "é".repeat(400));
    eve.expect_event("session.typing");
    assert!(ann.events(from).iter().all(|frame| frame["event"] != "session.typing"), "one is not told of oneself");
    // Nothing more is said, so it ends by itself.
    bob.expect_event_where("session.typing", |payload| payload["typing"] == false);
    assert!(typing(&ann, id, json!({})));
    bob.expect_event_where("session.typing", |payload| payload["typing"] == true);
    ann.leave();
    bob.expect_event_where("session.typing", |payload| payload["typing"] == false);
    let reader = ConnectOptions::operator("reader").scopes(&["operator.read"]);
    let reader = server.client("reader", Proto::V4, &reader);
    reader.call("session.typing", json!({})).expect_err("FORBIDDEN").message("missing scope: operator.write");
}
