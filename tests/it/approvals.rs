//! What waits for a person's word: asked on one connection, answered on another, over restarts, once.

use serde_json::{Value, json};

use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::provider::{Provider, Turn};
use crate::harness::{Client, Server, schema};

fn asker(server: &Server, proto: Proto) -> Client {
    server.client("asker", proto, &ConnectOptions::operator("asker"))
}

/// A client that shows approvals to a person, and says so where there is a word for it.
fn page(server: &Server, name: &str, proto: Proto) -> Client {
    let mut options = ConnectOptions::operator(name).client("displayName", name);
    options.extra.insert("caps".to_owned(), json!(["approvals"]));
    server.client(name, proto, &options)
}

fn ask(id: &str) -> Value {
    json!({
        "id": id, "command": "echo approve-me", "host": "gateway", "security": "allowlist", "ask": "on-miss",
        "agentId": "main", "sessionKey": "agent:main:main", "timeoutMs": 60_000,
    })
}

#[test]
fn a_request_is_shown_to_who_may_answer_and_answered_once() {
    for (asks, answers) in [(Proto::V3, Proto::V4), (Proto::V4, Proto::V3), (Proto::V4, Proto::V4)] {
        let server = Server::start();
        let (ann, bob) = (asker(&server, asks), page(&server, "bob", answers));
        let reader = server.client("reader", Proto::V4, &ConnectOptions::operator("reader").scopes(&["operator.read"]));
        let pending = ann.start("exec.approval.request", Some(ask("one")));
        let seen = bob.expect_event("exec.approval.requested");
        seen.with("/id", "one").with("/request/command", "echo approve-me");
        bob.call("exec.approval.resolve", json!({ "id": "one", "decision": "allow-once" })).expect_ok();
        let told = bob.expect_event("exec.approval.resolved");
        told.with("/id", "one").with("/decision", "allow-once").with("/resolvedBy", "bob");
        assert_eq!(ann.wait(pending).expect_ok()["decision"], "allow-once");
        // The end can be read for a moment; no other answer takes its place.
        let waited = ann.call("exec.approval.waitDecision", json!({ "id": "one" })).expect_ok();
        assert_eq!(waited["decision"], "allow-once");
        let again = bob.call("exec.approval.resolve", json!({ "id": "one", "decision": "deny" }));
        again.expect_err("INVALID_REQUEST").message(match answers {
            Proto::V3 => "unknown approval id",
            Proto::V4 => "approval already resolved",
        });
        reader.expect_silence();
    }
}

#[test]
fn what_nobody_can_answer_is_answered_at_once() {
    let server = Server::start();
    for proto in [Proto::V3, Proto::V4] {
        let ann = asker(&server, proto);
        let id = format!("alone-{}", proto.name());
        let answer = ann.call("exec.approval.request", ask(&id)).expect_ok();
        assert_eq!(answer["decision"], Value::Null, "{answer}");
        ann.leave();
    }
    let bob = page(&server, "bob", Proto::V4);
    let history = bob.call("approval.history", json!({})).expect_valid();
    assert_eq!(history["items"][0]["reason"], "no-route");
    assert_eq!(history["items"][0]["resolver"]["id"], "no-approval-route");
    assert_eq!(bob.call("exec.approval.list", json!({})).expect_ok(), json!([]));
}

#[test]
fn an_open_request_and_a_decision_outlive_a_kill() {
    let mut server = Server::start();
    let (ann, _bob) = (asker(&server, Proto::V4), page(&server, "bob", Proto::V4));
    let first = ann.start("exec.approval.request", Some(json!({ "id": "kept", "command": "ls", "twoPhase": true })));
    assert_eq!(ann.wait(first).expect_ok()["status"], "accepted");
    server.kill_and_restart();
    let (ann, bob) = (asker(&server, Proto::V4), page(&server, "bob", Proto::V4));
    let open = bob.call("exec.approval.list", json!({})).expect_ok();
    assert_eq!(open[0]["id"], "kept");
    let waiting = ann.start("exec.approval.waitDecision", Some(json!({ "id": "kept" })));
    let taken = ann.call("exec.approval.request", json!({ "id": "kept", "command": "other" }));
    taken.expect_err("INVALID_REQUEST").message("approval id already pending");
    bob.call("exec.approval.resolve", json!({ "id": "kept", "decision": "deny" })).expect_ok();
    assert_eq!(ann.wait(waiting).expect_ok()["decision"], "deny");
    server.kill_and_restart();
    let bob = page(&server, "bob", Proto::V4);
    let told = bob.call("approval.get", json!({ "id": "kept" })).expect_valid();
    assert_eq!(told["approval"]["status"], "denied");
    let late = bob.call("approval.resolve", json!({ "id": "kept", "kind": "exec", "decision": "allow-once" }));
    let late = late.expect_valid();
    assert_eq!((&late["applied"], &late["approval"]["decision"]), (&json!(false), &json!("deny")));
}

#[test]
fn a_device_answers_only_what_it_may_see() {
    let server = Server::start();
    let (ann, _bob) = (asker(&server, Proto::V4), page(&server, "bob", Proto::V4));
    let only = ConnectOptions::operator("phone").scopes(&["operator.approvals"]).client("id", "openclaw-ios");
    let phone = server.client("phone", Proto::V4, &only);
    let pending = ann.start("exec.approval.request", Some(ask("anns")));
    _bob.expect_event("exec.approval.requested");
    for (method, params) in [
        ("exec.approval.get", json!({ "id": "anns" })),
        ("exec.approval.resolve", json!({ "id": "anns", "decision": "allow-once" })),
        ("approval.resolve", json!({ "id": "anns", "kind": "exec", "decision": "allow-once" })),
        ("approval.get", json!({ "id": "anns" })),
        ("exec.approval.waitDecision", json!({ "id": "anns" })),
    ] {
        phone.call(method, params).expect_err("INVALID_REQUEST");
    }
    assert_eq!(phone.call("exec.approval.list", json!({})).expect_ok(), json!([]));
    // What cannot be an answer is a no.
    let answer = json!({ "id": "anns", "kind": "plugin", "decision": "allow-once" });
    let answered = _bob.call("approval.resolve", answer).expect_valid();
    assert_eq!((&answered["applied"], &answered["approval"]["reason"]), (&json!(true), &json!("malformed-verdict")));
    assert_eq!(ann.wait(pending).expect_ok()["decision"], "deny");
}

#[test]
fn the_prompt_hides_nothing_and_shows_no_secret() {
    let server = Server::start();
    let (ann, bob) = (asker(&server, Proto::V4), page(&server, "bob", Proto::V4));
    let command = "echo ok\u{200b}\u{202e} TOKEN=ghp_abcdefghijklmnopqrstuvwxyz0123456789";
    let _pending = ann.start("exec.approval.request", Some(json!({ "command": command, "cwd": "/tmp/\u{2066}x" })));
    let seen = bob.expect_event("exec.approval.requested").with("/request/cwd", "/tmp/\\u{2066}x");
    let shown = seen.payload["request"]["command"].as_str().unwrap().to_owned();
    assert!(shown.starts_with("echo ok\\u{200B}\\u{202E} ") && !shown.contains("ghp_"), "{shown}");
}

#[test]
fn a_session_is_followed_with_its_approvals() {
    let server = Server::start();
    let (ann, bob) = (asker(&server, Proto::V4), page(&server, "bob", Proto::V4));
    let follow = json!({ "key": "agent:main:main", "includeApprovals": true });
    bob.call("sessions.messages.subscribe", follow.clone()).expect_ok();
    let pending = ann.start("exec.approval.request", Some(ask("followed")));
    let seen = bob.expect_event("session.approval");
    schema::check("SessionApprovalEvent", &seen.payload);
    assert_eq!(seen.payload["phase"], "pending");
    let replayed = bob.call("sessions.messages.subscribe", follow).expect_ok();
    assert_eq!(replayed["approvalReplay"]["approvals"][0]["id"], "followed");
    bob.call("exec.approval.resolve", json!({ "id": "followed", "decision": "deny" })).expect_ok();
    let ended = bob.expect_event_where("session.approval", |payload| payload["phase"] == "terminal");
    schema::check("SessionApprovalEvent", &ended.payload);
    ann.wait(pending).expect_ok();
}

#[test]
fn the_document_is_changed_by_who_read_it_and_keeps_its_token() {
    let mut server = Server::start();
    let ann = server.operator("ann");
    let first = ann.call("exec.approvals.get", json!({})).expect_valid();
    let file = json!({
        "version": 1, "socket": { "token": "hush-hush" }, "defaults": { "security": "allowlist" },
        "agents": { "main": { "allowlist": [{ "pattern": "/bin/ls" }] } },
    });
    let set = |hash: &Value, file: &Value| ann.call("exec.approvals.set", json!({ "file": file, "baseHash": hash }));
    let second = set(&first["hash"], &file).expect_valid();
    assert!(!second.to_string().contains("hush"), "{second}");
    set(&first["hash"], &file)
        .expect_err("INVALID_REQUEST")
        .message("exec approvals changed since last load; re-run exec.approvals.get and retry");
    let third = set(&second["hash"], &second["file"]).expect_valid();
    server.kill_and_restart();
    let ann = server.operator("ann");
    let after = ann.call("exec.approvals.get", json!({})).expect_valid();
    assert_eq!((&after["file"], &after["hash"]), (&second["file"], &third["hash"]));
    assert_eq!(after["resolvedDefaults"]["security"], "allowlist");
    let bad = json!({ "version": 1, "agents": { "main": { "allowlist": [{ "id": "x", "odd": 1 }] } } });
    ann.call("exec.approvals.set", json!({ "file": bad })).expect_err("INVALID_REQUEST");
}

/// A gateway whose agent's use of `read` a person must look at first. Its model reads the file that it is told of.
fn reviewing() -> (Server, Provider) {
    let provider = Provider::start_with(|request| {
        let last = request.messages().last().expect("a message");
        match last["role"].as_str() {
            Some("tool") => Turn::text("that was it"),
            _ => Turn::call("read", json!({ "path": file_in(last) })),
        }
    });
    let mut config = provider.config();
    config["security"] = json!({ "tool_policies": { "read": "review" } });
    (Server::with().config(&config).start(), provider)
}

/// The name of a file in what was said.
fn file_in(message: &Value) -> String {
    let said = message["content"].to_string();
    let mut words = said.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    words.rfind(|word| word.ends_with(".md")).expect("a file").to_owned()
}

fn reads(name: &str) -> Value {
    json!({ "sessionKey": "agent:main:main", "idempotencyKey": name, "message": format!("read {name}") })
}

/// Puts a file where the agent works.
fn put(server: &Server, name: &str) {
    let file = server.state_dir().join("workspace").join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "what is in it").unwrap();
}

/// What the model's tool told it, from the transcript.
fn told(client: &Client) -> String {
    let history = client.call("chat.history", json!({ "sessionKey": "agent:main:main" })).expect_ok();
    history.to_string()
}

#[test]
fn a_run_waits_for_a_person_and_does_what_is_granted() {
    for proto in [Proto::V3, Proto::V4] {
        let (server, _provider) = reviewing();
        let bob = page(&server, "bob", proto);
        for (name, decision) in [("granted.md", "allow-once"), ("denied.md", "deny")] {
            put(&server, name);
            let accepted = bob.call("chat.send", reads(name)).expect_ok();
            let seen = bob.expect_event_where("exec.approval.requested", |asked| {
                asked["request"]["command"].as_str().is_some_and(|command| command.contains(name))
            });
            assert_eq!(seen.payload["request"]["sessionKey"], "agent:main:main");
            let id = seen.payload["id"].clone();
            bob.call("exec.approval.resolve", json!({ "id": id, "decision": decision })).expect_ok();
            let run_id = accepted["runId"].clone();
            bob.expect_event_where("chat", |chat| chat["state"] == "final" && chat["runId"] == run_id);
        }
        let told = told(&bob);
        assert!(told.contains("what is in it"), "{told}");
        assert!(told.contains("bob was asked and said no"), "{told}");
    }
}

#[test]
fn a_run_that_nobody_can_be_asked_for_goes_on_without() {
    let (server, _provider) = reviewing();
    let reader = ConnectOptions::operator("reader").scopes(&["operator.read", "operator.write"]);
    let reader = server.client("reader", Proto::V4, &reader);
    let accepted = reader.call("chat.send", reads("x.md")).expect_ok();
    let run_id = accepted["runId"].clone();
    reader.expect_event_where("chat", |chat| chat["state"] == "final" && chat["runId"] == run_id);
    assert!(told(&reader).contains("nobody can be asked here"));
}

#[test]
fn a_run_that_waits_is_stopped_at_once_and_its_question_withdrawn() {
    let (server, _provider) = reviewing();
    let bob = page(&server, "bob", Proto::V4);
    let accepted = bob.call("chat.send", reads("x.md")).expect_ok();
    let id = bob.expect_event("exec.approval.requested").payload["id"].clone();
    let run_id = accepted["runId"].clone();
    bob.call("chat.abort", json!({ "sessionKey": "agent:main:main", "runId": run_id })).expect_ok();
    bob.expect_event_where("chat", |chat| chat["state"] == "aborted" && chat["runId"] == run_id);
    let withdrawn = bob.call("approval.get", json!({ "id": id })).expect_valid();
    assert_eq!(withdrawn["approval"]["status"], "cancelled");
    bob.call("exec.approval.resolve", json!({ "id": id, "decision": "allow-once" })).expect_err("INVALID_REQUEST");
}

#[test]
fn a_run_that_waits_is_taken_up_after_a_kill_with_the_same_question() {
    let (mut server, _provider) = reviewing();
    put(&server, "x.md");
    let bob = page(&server, "bob", Proto::V4);
    bob.call("chat.send", reads("x.md")).expect_ok();
    let id = bob.expect_event("exec.approval.requested").payload["id"].clone();
    server.kill_and_restart();
    let bob = page(&server, "bob", Proto::V4);
    let open = bob.call("exec.approval.list", json!({})).expect_ok();
    assert_eq!((open.as_array().unwrap().len(), &open[0]["id"]), (1, &id));
    bob.call("exec.approval.resolve", json!({ "id": id, "decision": "allow-once" })).expect_ok();
    bob.expect_event_where("chat", |chat| chat["state"] == "final");
    assert!(told(&bob).contains("what is in it"));
}

/// Runs our command line on the server's own machine.
fn command(server: &Server, words: &[&str]) -> (bool, String) {
    let url = format!("ws://{}", server.address());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_openclaw-rs"))
        .args(words)
        .args(["--url", &url, "--token", Server::TOKEN])
        .env_clear()
        .env("HOME", server.state_dir())
        .env("OPENCLAW_RS_STATE_DIR", server.state_dir())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn the_command_line_answers_and_changes_what_runs() {
    let server = Server::start();
    let (ann, _bob) = (asker(&server, Proto::V4), page(&server, "bob", Proto::V4));
    let pending = ann.start("exec.approval.request", Some(ask("by-hand")));
    _bob.expect_event("exec.approval.requested");
    let (ok, shown) = command(&server, &["approvals", "pending"]);
    assert!(ok && shown.contains("by-hand  echo approve-me"), "{shown}");
    let (ok, answered) = command(&server, &["approvals", "resolve", "by-ha", "allow-once"]);
    assert!(ok, "{answered}");
    assert_eq!(ann.wait(pending).expect_ok()["decision"], "allow-once");
    let (ok, refused) = command(&server, &["approvals", "allowlist", "add", "uptime"]);
    assert!(!ok && refused.contains("stands for no program"), "{refused}");
    for words in [
        &["approvals", "allowlist", "add", "/usr/bin/uptime"][..],
        &["approvals", "allowlist", "add", "--agent", "main", "/usr/bin/g*"],
        &["approvals", "allowlist", "remove", "/usr/bin/uptime"],
    ] {
        let (ok, said) = command(&server, words);
        assert!(ok, "{words:?}: {said}");
    }
    let (_, shown) = command(&server, &["approvals", "get"]);
    assert!(shown.contains("/usr/bin/g*") && !shown.contains("uptime"), "{shown}");
    let (ok, whole) = command(&server, &["approvals", "get", "--json"]);
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert!(ok && whole["hash"].is_string());
    let (ok, grants) = command(&server, &["approvals", "grants", "list"]);
    assert!(ok && grants.contains("Nothing was granted"), "{grants}");
}
