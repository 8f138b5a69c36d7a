//! Sessions as several clients see them at once: who may change one, and who hears of it.

use serde_json::json;

use crate::harness::Server;
use crate::harness::connect::{ConnectOptions, Proto};

#[test]
fn a_follower_of_one_session_hears_that_one_only() {
    let server = Server::with().model().start();
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    let followed = bob.call("sessions.messages.subscribe", json!({ "key": "main" })).expect_ok();
    assert_eq!(followed, json!({ "subscribed": true, "key": "agent:main:main" }));
    let say = |key: &str, id: &str| {
        let params = json!({ "sessionKey": key, "message": format!("hello {id}"), "idempotencyKey": id });
        ann.call("chat.send", params).expect_ok();
    };

    say("other", "one");
    say("main", "two");

    let seen = bob.expect_event("session.message");
    seen.with("/sessionKey", "agent:main:main").with("/message/content", "hello two").with("/label", json!(null));
    bob.call("sessions.messages.unsubscribe", json!({ "key": "agent:main:main" })).expect_ok();
    let from = bob.mark();
    say("main", "three");
    bob.expect_event_where("chat", |chat| chat["runId"] == "three");
    assert!(bob.events(from).iter().all(|frame| frame["event"] != "session.message"), "{:?}", bob.events(from));
}

#[test]
fn a_connection_follows_a_bounded_number_of_sessions() {
    let server = Server::start();
    let ann = server.operator("ann");
    let follow = |n: usize| ann.call("sessions.messages.subscribe", json!({ "key": format!("k{n}") }));
    for n in 0..64 {
        follow(n).expect_ok();
    }
    follow(0).expect_ok();
    follow(64).expect_err("INVALID_REQUEST").message("a connection can follow 64 sessions; unsubscribe from one first");
    ann.call("sessions.messages.unsubscribe", json!({ "key": "k7" })).expect_ok();
    follow(64).expect_ok();
}

#[test]
fn a_subscriber_may_begin_with_a_list_and_leave_again() {
    let server = Server::start();
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    ann.call("sessions.create", json!({ "key": "a", "label": "first" })).expect_ok();

    assert_eq!(bob.call("sessions.subscribe", json!({})).expect_ok(), json!({ "subscribed": true }));
    let begun = bob.call("sessions.subscribe", json!({ "search": "first" })).expect_ok();
    assert_eq!((&begun["subscribed"], &begun["list"]["totalCount"]), (&json!(true), &json!(1)));
    let made = ann.call("sessions.create", json!({ "key": "b" })).expect_ok();
    bob.expect_event("sessions.changed").with("/reason", "create").with("/session/key", "agent:main:b");
    ann.call("sessions.delete", json!({ "key": "b" })).expect_ok();
    let gone = bob.expect_event("sessions.changed").with("/reason", "delete");
    gone.with("/sessionKey", "agent:main:b").with("/sessionId", made["sessionId"].clone());

    bob.call("sessions.unsubscribe", json!({})).expect_ok();
    ann.call("sessions.patch", json!({ "key": "a", "label": "second" })).expect_ok();
    bob.expect_silence();
}

#[test]
fn a_session_writer_changes_what_is_light_and_nothing_else() {
    let server = Server::start();
    let narrow = ConnectOptions::operator("narrow").scopes(&["operator.sessions.write"]);
    let narrow = server.client("narrow", Proto::V4, &narrow);
    narrow.call("sessions.create", json!({ "key": "a", "label": "mine" })).expect_ok();
    narrow.call("sessions.patch", json!({ "key": "a", "pinned": true, "color": "red" })).expect_ok();
    for (method, params) in [
        ("sessions.patch", json!({ "key": "a", "execHost": "gateway" })),
        ("sessions.patch", json!({ "key": "a", "permissionMode": "full" })),
        ("sessions.patchMany", json!({ "targets": [{ "key": "a" }], "patch": { "sendPolicy": "deny" } })),
        ("sessions.create", json!({ "permissionMode": "full" })),
        ("sessions.reset", json!({ "key": "a" })),
        ("sessions.delete", json!({ "key": "a" })),
        ("sessions.compact", json!({ "key": "a" })),
    ] {
        let refusal = narrow.call(method, params).expect_err("FORBIDDEN");
        refusal.message("missing scope: operator.admin");
    }
    let old = server.client("old", Proto::V3, &ConnectOptions::operator("old").scopes(&["operator.write"]));
    old.call("sessions.patch", json!({ "key": "a", "label": "x" })).expect_err("INVALID_REQUEST");
}

#[test]
fn a_session_that_may_not_send_refuses_before_anything_is_kept() {
    let server = Server::with().model().start();
    let ann = server.operator("ann");
    ann.call("sessions.patch", json!({ "key": "quiet", "sendPolicy": "deny" })).expect_ok();
    let params = json!({ "sessionKey": "quiet", "message": "psst", "idempotencyKey": "q1" });
    ann.call("chat.send", params.clone()).expect_err("INVALID_REQUEST").message("send blocked by session policy");
    let messages = |client: &crate::harness::Client| client.call("sessions.get", json!({ "key": "quiet" })).expect_ok();
    assert_eq!(messages(&ann), json!({ "messages": [] }));

    ann.call("sessions.patch", json!({ "key": "quiet", "sendPolicy": null })).expect_ok();
    ann.call("chat.send", params).expect_ok();
    let said = messages(&ann)["messages"].as_array().unwrap().clone();
    assert_eq!(said.iter().filter(|message| message["role"] == "user").count(), 1);
}

#[test]
fn a_session_answers_where_it_was_last_spoken_to() {
    let server = Server::with().model().start();
    let ann = server.operator("ann");
    let say = |id: &str, route: serde_json::Value| {
        let mut params = json!({ "sessionKey": "trip", "message": id, "idempotencyKey": id });
        params.as_object_mut().unwrap().extend(route.as_object().unwrap().clone());
        ann.call("chat.send", params).expect_ok();
        // A message that comes while another one is answered changes the route when its own turn comes.
        ann.call("agent.wait", json!({ "runId": id, "timeoutMs": 20_000 })).expect_ok();
        ann.call("sessions.describe", json!({ "key": "trip" })).expect_ok()["session"].clone()
    };

    let row = say("one", json!({}));
    assert_eq!((&row["lastChannel"], &row["chatType"]), (&json!("webchat"), &json!("direct")));
    let row = say("two", json!({ "originatingChannel": "telegram", "originatingTo": "42" }));
    assert_eq!(row["deliveryContext"], json!({ "channel": "telegram", "to": "42" }));
    let row = say("three", json!({ "originatingChannel": "telegram" }));
    assert_eq!(row["deliveryContext"], json!({ "channel": "telegram", "to": "42" }), "the rest is as it was");
    let row = say("four", json!({}));
    assert_eq!(row["lastChannel"], "telegram", "looking in does not take the conversation away");
    let found = ann.call("sessions.resolve", json!({ "channel": "telegram", "to": "42" })).expect_ok();
    assert_eq!(found["key"], "agent:main:trip");
}

#[test]
fn what_was_said_is_found_by_its_words() {
    let server = Server::with().model().start();
    let ann = server.operator("ann");
    let say = |key: &str, id: &str, text: &str| {
        let params = json!({ "sessionKey": key, "message": text, "idempotencyKey": id });
        ann.call("chat.send", params).expect_ok();
        ann.call("agent.wait", json!({ "runId": id, "timeoutMs": 20_000 })).expect_ok();
    };
    say("attic", "one", "the lamp in the attic is on");
    say("cellar", "two", "a lamp for the cellar, and another lamp");
    let found = |params| ann.call("sessions.search", params).expect_ok();

    let both = found(json!({ "query": "LAMP" }));
    let keys: Vec<&serde_json::Value> =
        both["results"].as_array().unwrap().iter().map(|hit| &hit["sessionKey"]).collect();
    assert_eq!(keys, ["agent:main:cellar", "agent:main:attic"], "who says it twice comes first");
    let hit = &both["results"][1];
    assert_eq!((&hit["role"], &hit["snippet"]), (&json!("user"), &json!("the lamp in the attic is on")));
    let message = ann.call("sessions.get", json!({ "key": "attic" })).expect_ok()["messages"][0].clone();
    assert_eq!(hit["messageId"], message["__openclaw"]["id"]);
    assert_eq!(found(json!({ "query": "lamp", "sessionKeys": ["attic"] }))["results"].as_array().unwrap().len(), 1);
    let scoped = found(json!({ "query": "lamp", "limit": 1, "scope": { "search": "attic" } }));
    assert_eq!(scoped["sessions"][0]["key"], "agent:main:attic");
    assert_eq!(found(json!({ "query": "lamp haystack" })), json!({ "results": [] }));
    ann.call("sessions.search", json!({ "query": " " }))
        .expect_err("INVALID_REQUEST")
        .message("query must not be empty");
    let narrow = ConnectOptions::operator("narrow").scopes(&["operator.sessions.read"]);
    let narrow = server.client("narrow", Proto::V4, &narrow);
    narrow.call("sessions.search", json!({ "query": "lamp" })).expect_ok();
}

#[test]
fn sessions_that_nobody_needs_are_put_away_when_that_is_enforced() {
    let config = json!({ "session": { "maintenance": { "maxEntries": 2 } } });
    let server = Server::with().model().config(&config).start();
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    // Of two that changed at the same moment the later in the order of keys is taken for the older.
    for key in ["main", "a", "z", "c", "telegram:direct:7"] {
        ann.call("sessions.create", json!({ "key": key })).expect_ok();
    }
    ann.call("sessions.subscribe", json!({})).expect_ok();
    let say = json!({ "sessionKey": "a", "message": "hello", "idempotencyKey": "one" });
    ann.call("chat.send", say).expect_ok();
    ann.call("agent.wait", json!({ "runId": "one", "timeoutMs": 20_000 })).expect_ok();
    let listed = || -> Vec<String> {
        let list = ann.call("sessions.list", json!({})).expect_ok();
        let mut keys: Vec<String> =
            list["sessions"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect();
        keys.sort();
        keys
    };
    let before = listed();

    let warned = bob.call("sessions.cleanup", json!({})).expect_ok();
    assert_eq!(
        (&warned["mode"], &warned["wouldMutate"], &warned["capArchived"]),
        (&json!("warn"), &json!(true), &json!(2))
    );
    assert_eq!(listed(), before, "it is only counted");
    let retired = bob.call("sessions.cleanup", json!({ "fixDmScope": true })).expect_ok();
    assert_eq!((&retired["dmScopeRetired"], &retired["beforeCount"]), (&json!(1), &json!(5)));
    assert_eq!(retired["appliedCount"], 4);
    let gone = ann.expect_event_where("sessions.changed", |changed| changed["reason"] == "delete");
    gone.with("/sessionKey", "agent:main:telegram:direct:7");
    let done = bob.call("sessions.cleanup", json!({ "enforce": true })).expect_ok();
    assert_eq!((&done["mode"], &done["capArchived"], &done["appliedCount"]), (&json!("enforce"), &json!(1), &json!(4)));
    let put_away = ann.expect_event_where("sessions.changed", |changed| changed["reason"] == "cleanup");
    put_away.with("/sessionKey", "agent:main:z");
    assert_eq!(listed(), ["agent:main:a", "agent:main:c", "agent:main:main"], "the main one stays, and the newest two");
    let again = bob.call("sessions.cleanup", json!({ "enforce": true })).expect_ok();
    assert_eq!(again["wouldMutate"], false);
    bob.call("sessions.cleanup", json!({ "agent": "nobody" })).expect_err("INVALID_REQUEST");
    let old = server.client("old", Proto::V4, &ConnectOptions::operator("old").scopes(&["operator.write"]));
    old.call("sessions.cleanup", json!({})).expect_err("FORBIDDEN");
}
