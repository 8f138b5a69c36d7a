//! Going back in a conversation: rewinds, branches and forks, as their users and others see them.

use serde_json::{Value, json};

use crate::harness::client::{Outcome, Reply};
use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::provider::{Provider, Turn};
use crate::harness::{Client, Server};

const KEY: &str = "agent:main:tree";

/// A gateway whose model says these things, one after the other.
fn server(provider: &Provider, answers: &[&str]) -> Server {
    for answer in answers {
        provider.then(Turn::text(answer));
    }
    Server::with().config(&provider.config()).start()
}

/// Says something and waits for the answer.
#[track_caller]
fn say(client: &Client, key: &str, text: &str) {
    let params = json!({ "sessionKey": key, "message": text, "idempotencyKey": text });
    client.call("chat.send", params).expect_ok();
    let end = client.call("agent.wait", json!({ "runId": text, "timeoutMs": 20_000 })).expect_ok();
    assert_eq!(end["status"], "ok", "{end}");
}

/// A session's messages.
fn messages(client: &Client, key: &str) -> Vec<Value> {
    let history = client.call("chat.history", json!({ "sessionKey": key })).expect_ok();
    assert_eq!(history["totalMessages"], history["messages"].as_array().unwrap().len());
    history["messages"].as_array().unwrap().clone()
}

/// What was said in it.
fn told(client: &Client, key: &str) -> Vec<String> {
    let words = |message: &Value| {
        let text = message["content"].as_str().or(message["content"][0]["text"].as_str());
        text.unwrap_or_default().to_owned()
    };
    messages(client, key).iter().map(words).collect()
}

/// The id of the message that says this.
#[track_caller]
fn id(client: &Client, key: &str, text: &str) -> Value {
    let found = messages(client, key).into_iter().find(|message| message["content"] == text);
    found.unwrap_or_else(|| panic!("{text} is not in the history"))["__openclaw"]["id"].clone()
}

/// Headline, length and whether it is active, of each branch; and the first other one's leaf.
fn branches(client: &Client, key: &str) -> (Vec<(String, u64, bool)>, Value) {
    let listed = client.call("sessions.branches.list", json!({ "sessionKey": key })).expect_valid();
    let listed = listed["branches"].as_array().unwrap();
    let row = |branch: &Value| {
        let headline = branch["headline"].as_str().unwrap().to_owned();
        (headline, branch["messageCount"].as_u64().unwrap(), branch["active"] == true)
    };
    let other = listed.iter().find(|branch| branch["active"] == false);
    (listed.iter().map(row).collect(), other.map(|branch| branch["leafEntryId"].clone()).unwrap_or_default())
}

#[test]
fn a_rewound_conversation_goes_on_from_there_and_can_be_taken_up_where_it_was() {
    let provider = Provider::start();
    let server = server(&provider, &["one", "two", "three", "four"]);
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    bob.call("sessions.subscribe", json!({})).expect_ok();
    say(&ann, KEY, "first");
    say(&ann, KEY, "second");
    let before = ann.call("chat.history", json!({ "sessionKey": KEY })).expect_ok();

    let rewind = json!({ "sessionKey": KEY, "entryId": id(&ann, KEY, "second") });
    let rewound = ann.call("sessions.rewind", rewind).expect_valid();
    assert_eq!(rewound, json!({ "editorText": "second" }));
    let seen = bob.expect_event_where("sessions.changed", |changed| changed["reason"] == "rewind");
    seen.with("/sessionKey", KEY).with("/session/totalTokensFresh", false);
    assert_eq!(told(&bob, KEY), ["first", "one"]);
    let since = json!({ "sessionKey": KEY, "cursor": before["deltaCursor"] });
    assert_eq!(bob.call("chat.history", since).expect_ok()["kind"], "reset", "what bob knows has to be read anew");
    let after = bob.call("chat.history", json!({ "sessionKey": KEY })).expect_ok();

    say(&ann, KEY, "another");
    assert_eq!(told(&ann, KEY), ["first", "one", "another", "three"]);
    let asked = provider.requests().last().unwrap().messages().to_vec();
    let asked = serde_json::to_string(&asked).unwrap();
    assert!(asked.contains("first") && asked.contains("another") && !asked.contains("second"), "{asked}");
    let since = json!({ "sessionKey": KEY, "cursor": after["deltaCursor"] });
    let delta = bob.call("chat.history", since).expect_ok();
    assert_eq!((&delta["kind"], delta["messages"].as_array().unwrap().len()), (&json!("delta"), 2));
    let preview = ann.call("sessions.preview", json!({ "keys": [KEY] })).expect_ok().to_string();
    assert!(preview.contains("another") && !preview.contains("second"), "{preview}");

    let (listed, other) = branches(&ann, KEY);
    assert_eq!(listed, [("three".to_owned(), 4, true), ("two".to_owned(), 4, false)]);
    let switch = json!({ "sessionKey": KEY, "leafEntryId": other });
    assert_eq!(ann.call("sessions.branches.switch", switch.clone()).expect_valid(), json!({}));
    bob.expect_event_where("sessions.changed", |changed| changed["reason"] == "branch-switch");
    assert_eq!(told(&bob, KEY), ["first", "one", "second", "two"]);
    let again = ann.call("sessions.branches.switch", switch).expect_err("INVALID_REQUEST");
    again.message_starts("branch is already active: ");
    say(&ann, KEY, "last");
    assert_eq!(told(&ann, KEY), ["first", "one", "second", "two", "last", "four"]);
    let (listed, _) = branches(&ann, KEY);
    assert_eq!(listed, [("four".to_owned(), 6, true), ("three".to_owned(), 4, false)]);
}

#[test]
fn a_fork_is_a_session_of_its_own_that_knows_where_it_came_from() {
    let provider = Provider::start();
    let server = server(&provider, &["one", "two", "three"]);
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    bob.call("sessions.subscribe", json!({})).expect_ok();
    say(&ann, KEY, "first");
    say(&ann, KEY, "second");
    ann.call("sessions.patch", json!({ "key": KEY, "thinkingLevel": "low", "label": "mine" })).expect_ok();
    let entry = id(&ann, KEY, "second");

    let narrow = ConnectOptions::operator("narrow").scopes(&["operator.sessions.write"]);
    let narrow = server.client("narrow", Proto::V4, &narrow);
    let forked = narrow.call("sessions.fork", json!({ "sessionKey": KEY, "entryId": entry })).expect_valid();
    assert_eq!(forked["editorText"], "second");
    let key = forked["sessionKey"].as_str().unwrap();
    assert!(key.starts_with("agent:main:dashboard:"), "{key}");
    let seen = bob.expect_event_where("sessions.changed", |changed| changed["reason"] == "fork");
    seen.with("/sessionKey", key).with("/session/parentSessionKey", KEY).with("/session/thinkingLevel", "low");

    assert_eq!(told(&ann, key), ["first", "one"]);
    say(&ann, key, "elsewhere");
    assert_eq!(told(&ann, key), ["first", "one", "elsewhere", "three"]);
    assert_eq!(told(&ann, KEY), ["first", "one", "second", "two"], "the first is as it was");
    let row = ann.call("sessions.describe", json!({ "key": key })).expect_ok()["session"].clone();
    assert_eq!((&row["label"], &row["derivedTitle"]), (&Value::Null, &Value::Null));
    let first = ann.call("sessions.describe", json!({ "key": KEY })).expect_ok()["session"].clone();
    assert_ne!(row["sessionId"], first["sessionId"]);
}

#[test]
fn a_session_can_begin_as_a_copy_of_its_parent_even_while_that_is_busy() {
    let provider = Provider::start();
    let server = server(&provider, &["one", "two", "three"]);
    let ann = server.operator("ann");
    say(&ann, KEY, "first");
    let fork = |more: Value| {
        let mut params = json!({ "parentSessionKey": KEY, "fork": true });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ann.call("sessions.create", params)
    };
    let made = fork(json!({ "label": "copy" })).expect_ok();
    let key = made["key"].as_str().unwrap();
    assert_eq!(told(&ann, key), ["first", "one"]);
    say(&ann, key, "second");
    assert_eq!(told(&ann, key), ["first", "one", "second", "two"]);
    assert_eq!(told(&ann, KEY), ["first", "one"]);
    fork(json!({ "key": key })).expect_err("INVALID_REQUEST").message_starts("session agent:main:dashboard:");
    let elsewhere = json!({ "parentSessionKey": "agent:main:none" });
    fork(elsewhere).expect_err("INVALID_REQUEST").message("unknown parent session: agent:main:none");

    say(&ann, KEY, "third");
    provider.then(Turn::text("late").hold_after(0));
    let params = json!({ "sessionKey": KEY, "message": "wait", "idempotencyKey": "wait" });
    ann.call("chat.send", params).expect_ok();
    fork(json!({}))
        .expect_err("UNAVAILABLE")
        .message(&format!("Parent session {KEY} is still active; try again in a moment."));
    let made = fork(json!({ "forkFrom": "last-completed" })).expect_ok();
    assert_eq!(told(&ann, made["key"].as_str().unwrap()), ["first", "one", "third", "three"]);
    ann.call("chat.abort", json!({ "sessionKey": KEY })).expect_ok();
}

#[test]
fn nobody_goes_back_under_a_run_or_to_what_is_no_message_of_theirs() {
    let provider = Provider::start();
    let server = server(&provider, &["one"]);
    let ann = server.operator("ann");
    say(&ann, KEY, "first");
    let all = messages(&ann, KEY);
    let (said, answered) = (all[0]["__openclaw"]["id"].clone(), all[1]["__openclaw"]["id"].clone());
    let refused = |method: &str, entry: &Value, code: &str, why: &str| {
        let name = if method == "sessions.branches.switch" { "leafEntryId" } else { "entryId" };
        ann.call(method, json!({ "sessionKey": KEY, name: entry })).expect_err(code).message_starts(why);
    };
    refused("sessions.rewind", &json!("no such"), "INVALID_REQUEST", "message entry not found: no such");
    refused("sessions.fork", &json!("no such"), "INVALID_REQUEST", "message entry not found: no such");
    refused("sessions.rewind", &answered, "INVALID_REQUEST", "entry is not a user message: ");
    refused("sessions.branches.switch", &json!("no such"), "INVALID_REQUEST", "branch entry not found: no such");
    refused("sessions.branches.switch", &said, "INVALID_REQUEST", "entry is not a branch tip: ");
    refused("sessions.branches.switch", &answered, "INVALID_REQUEST", "branch is already active: ");
    let elsewhere = json!({ "sessionKey": "agent:main:none", "entryId": "x" });
    ann.call("sessions.rewind", elsewhere).expect_err("INVALID_REQUEST").message("session not found: agent:main:none");
    let none = ann.call("sessions.branches.list", json!({ "sessionKey": "agent:main:none" })).expect_valid();
    assert_eq!(none, json!({ "branches": [] }));

    provider.then(Turn::text("late").hold_after(0));
    let params = json!({ "sessionKey": KEY, "message": "wait", "idempotencyKey": "wait" });
    ann.call("chat.send", params).expect_ok();
    refused("sessions.rewind", &said, "UNAVAILABLE", "Rewind is unavailable while the agent is working.");
    refused("sessions.fork", &said, "UNAVAILABLE", "Fork is unavailable while the agent is working.");
    refused(
        "sessions.branches.switch",
        &said,
        "UNAVAILABLE",
        "Branch switch is unavailable while the agent is working.",
    );
    ann.call("chat.abort", json!({ "sessionKey": KEY })).expect_ok();
    ann.call("agent.wait", json!({ "runId": "wait", "timeoutMs": 20_000 })).expect_ok();

    ann.call("sessions.rewind", json!({ "sessionKey": KEY, "entryId": said })).expect_valid();
    assert!(told(&ann, KEY).is_empty());
    refused("sessions.rewind", &said, "INVALID_REQUEST", "message entry is not on the active path: ");
    let session = ann.call("sessions.describe", json!({ "key": KEY })).expect_ok()["session"].clone();
    let away = json!({ "key": KEY, "archived": true, "expectedSessionId": session["sessionId"] });
    ann.call("sessions.patch", away).expect_ok();
    refused("sessions.rewind", &said, "INVALID_REQUEST", "Rewind is unavailable for archived sessions.");

    for (name, scopes, method) in [
        ("writer", ["operator.write", "operator.read"], "sessions.rewind"),
        ("writer", ["operator.write", "operator.read"], "sessions.branches.switch"),
        ("reader", ["operator.read", "operator.sessions.read"], "sessions.fork"),
    ] {
        let client = server.client(name, Proto::V4, &ConnectOptions::operator(name).scopes(&scopes));
        client.call(method, json!({})).expect_err("FORBIDDEN");
    }
}

/// Kills while a rewind is asked for.
const KILLS: usize = 8;

#[test]
fn a_kill_in_the_middle_of_a_rewind_leaves_the_conversation_before_or_after_it() {
    let provider = Provider::start();
    let mut server = server(&provider, &["one", "two"]);
    let ann = server.operator("ann");
    say(&ann, KEY, "first");
    say(&ann, KEY, "second");
    let (cut, leaf) = (id(&ann, KEY, "second"), messages(&ann, KEY)[3]["__openclaw"]["id"].clone());
    let (long, short) = (["first", "one", "second", "two"].as_slice(), ["first", "one"].as_slice());
    drop(ann);
    for _ in 0..KILLS {
        let ann = server.operator("ann");
        let pending = ann.start("sessions.rewind", Some(json!({ "sessionKey": KEY, "entryId": cut })));
        server.kill_and_restart();
        let answered = matches!(ann.wait(pending).outcome, Outcome::Answer(frame) if frame["ok"] == true);
        let ann = server.operator("ann");
        let found = told(&ann, KEY);
        assert!(found == short || found == long && !answered, "answered: {answered}, found: {found:?}");
        let row = ann.call("sessions.describe", json!({ "key": KEY })).expect_ok()["session"].clone();
        assert_eq!(row["sessionId"], ann.call("chat.history", json!({ "sessionKey": KEY })).expect_ok()["sessionId"]);
        if found == short {
            ann.call("sessions.branches.switch", json!({ "sessionKey": KEY, "leafEntryId": leaf })).expect_valid();
        }
        assert_eq!(told(&ann, KEY), long);
    }
}

#[test]
fn a_rewind_and_a_fork_that_were_answered_outlive_a_kill() {
    let provider = Provider::start();
    let mut server = server(&provider, &["one", "two", "three"]);
    let ann = server.operator("ann");
    say(&ann, KEY, "first");
    say(&ann, KEY, "second");
    let entry = id(&ann, KEY, "second");
    let forked = ann.call("sessions.fork", json!({ "sessionKey": KEY, "entryId": entry })).expect_valid();
    ann.call("sessions.rewind", json!({ "sessionKey": KEY, "entryId": entry })).expect_valid();

    server.kill_and_restart();

    let ann = server.operator("ann");
    let fork = forked["sessionKey"].as_str().unwrap();
    for key in [KEY, fork] {
        assert_eq!(told(&ann, key), ["first", "one"], "{key}");
    }
    let row = ann.call("sessions.describe", json!({ "key": fork })).expect_ok()["session"].clone();
    assert_eq!(row["parentSessionKey"], KEY);
    say(&ann, KEY, "again");
    assert_eq!(told(&ann, KEY), ["first", "one", "again", "three"]);
    server.kill_and_restart();
    let ann = server.operator("ann");
    assert_eq!(told(&ann, KEY), ["first", "one", "again", "three"]);
    let (listed, other) = branches(&ann, KEY);
    assert_eq!(listed, [("three".to_owned(), 4, true), ("two".to_owned(), 4, false)]);
    ann.call("sessions.branches.switch", json!({ "sessionKey": KEY, "leafEntryId": other })).expect_valid();
    server.kill_and_restart();
    assert_eq!(told(&server.operator("ann"), KEY), ["first", "one", "second", "two"]);
}

#[test]
fn what_is_said_on_the_strength_of_another_screen_is_not_taken() {
    let provider = Provider::start();
    let server = server(&provider, &["one", "two", "three", "four"]);
    let ann = server.operator("ann");
    let send = |key: &str, text: &str, seen: Value| {
        let mut params = json!({ "sessionKey": key, "message": text, "idempotencyKey": text });
        params.as_object_mut().unwrap().extend(seen.as_object().unwrap().clone());
        ann.call("chat.send", params)
    };
    let wait = |text: &str| {
        let end = ann.call("agent.wait", json!({ "runId": text, "timeoutMs": 20_000 })).expect_ok();
        assert_eq!(end["status"], "ok", "{end}");
    };
    let refused = |reply: Reply, reason: &str, words: &str| {
        reply.expect_err("INVALID_REQUEST").message(words).detail("/reason", reason);
    };
    let (leaf, branch) = ("active-leaf-changed", "active branch changed; review and retry");

    // Where nothing has been said, nothing can have been seen.
    refused(send(KEY, "a", json!({ "expectedLeafEntryId": "none" })), leaf, branch);
    send(KEY, "first", json!({ "expectedLeafEntryId": null, "expectedPermissionMode": null })).expect_ok();
    wait("first");
    refused(send(KEY, "b", json!({ "expectedLeafEntryId": null })), leaf, branch);
    let (asked, answered) = (id(&ann, KEY, "first"), messages(&ann, KEY)[1]["__openclaw"]["id"].clone());
    refused(send(KEY, "c", json!({ "expectedLeafEntryId": asked })), leaf, branch);
    let session = ann.call("chat.history", json!({ "sessionKey": KEY })).expect_ok()["sessionId"].clone();
    // Who names the transcript may be a message behind, and not on another branch.
    send(KEY, "second", json!({ "expectedLeafEntryId": asked, "sessionId": session })).expect_ok();
    wait("second");
    refused(send(KEY, "d", json!({ "expectedLeafEntryId": answered, "sessionId": "another" })), leaf, branch);
    let second = id(&ann, KEY, "second");
    ann.call("sessions.rewind", json!({ "sessionKey": KEY, "entryId": second })).expect_ok();
    refused(send(KEY, "e", json!({ "expectedLeafEntryId": second, "sessionId": session })), leaf, branch);
    send(KEY, "third", json!({ "expectedLeafEntryId": answered })).expect_ok();
    wait("third");
    send(KEY, "f", json!({ "sessionId": "another" })).expect_err("INVALID_REQUEST").message_starts("Session \"");

    ann.call("sessions.patch", json!({ "key": KEY, "permissionMode": "guarded" })).expect_ok();
    let settings = ("session-settings-changed", "Session settings changed before send. Retry.");
    refused(send(KEY, "g", json!({ "expectedPermissionMode": null })), settings.0, settings.1);
    refused(send(KEY, "h", json!({ "expectedToolOverrides": { "webSearch": true } })), settings.0, settings.1);
    let contract = json!({ "expectedSessionRoutingContract": "global|main|main" });
    refused(send(KEY, "i", contract), "session-routing-changed", "session routing changed; review and retry");
    let seen = json!({
        "expectedPermissionMode": "guarded", "expectedToolOverrides": null,
        "expectedSessionRoutingContract": "per-sender|main|main",
    });
    send(KEY, "fourth", seen).expect_ok();
    wait("fourth");
    let said = told(&ann, KEY);
    assert_eq!(said, ["first", "one", "third", "three", "fourth", "four"], "nothing that was refused is there");
}
