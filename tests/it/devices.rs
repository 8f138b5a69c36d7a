//! Paired devices: what they say of their machine, who may touch their tokens, how a connected one gets more.

use serde_json::{Value, json};

use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::{Attempt, Client, Server};

/// An operator of protocol 4 who comes back with the device token it is given here.
fn by_device_token(server: &Server, name: &str, scopes: &[&str]) -> Client {
    let paired = server.client(name, Proto::V4, &ConnectOptions::operator(name).scopes(scopes));
    let token = paired.hello["auth"]["deviceToken"].clone();
    paired.leave();
    let options = ConnectOptions::operator(name).scopes(scopes).auth(json!({ "deviceToken": token }));
    server.client(name, Proto::V4, &options)
}

#[test]
fn a_device_that_says_it_is_another_machine_is_asked_about_again_on_protocol_4() {
    let server = Server::start();
    let ann = server.operator("ann");
    let laptop = || ConnectOptions::operator("laptop").scopes(&["operator.read"]);
    server.client("laptop", Proto::V4, &laptop().client("deviceFamily", "Linux")).leave();

    // Neither the secret nor this machine is enough, and asking for more makes it no better.
    let other = ConnectOptions::operator("laptop").client("deviceFamily", "Mac");
    let refusal = server.attempt("laptop", Proto::V4, &other).expect_refused("NOT_PAIRED");
    let refusal = refusal
        .message("pairing required: device identity changed and must be re-approved")
        .detail("/reason", "metadata-upgrade")
        .detail("/approvedScopes", json!(["operator.read"]));
    let unsaid = server.attempt("laptop", Proto::V4, &laptop()).expect_refused("NOT_PAIRED");
    unsaid.detail("/reason", "metadata-upgrade");
    server.client("laptop", Proto::V4, &laptop().client("deviceFamily", " LINUX ")).leave();

    // Protocol 3 does not look at it, and cannot be used to change what protocol 4 looks at.
    server.client("laptop", Proto::V3, &laptop().client("deviceFamily", "Mac")).leave();
    assert!(!matches!(server.attempt("laptop", Proto::V4, &other), Attempt::Accepted(_)));

    let request = &refusal.error["details"]["requestId"];
    ann.call("device.pair.approve", json!({ "requestId": request })).expect_ok();
    server.client("laptop", Proto::V4, &other).call_bare("health").expect_ok();
}

#[test]
fn an_app_of_this_machine_may_be_updated() {
    let server = Server::start();
    let app = |platform: &str| {
        let options = ConnectOptions::operator("mac").client("id", "openclaw-macos").client("mode", "ui");
        options.client("platform", platform)
    };
    server.client("mac", Proto::V4, &app("macos 15.1")).leave();
    server.client("mac", Proto::V4, &app("macos 15.2")).leave();
    server.client("mac", Proto::V4, &app("linux")).leave();
}

#[test]
fn a_program_of_this_machine_gets_no_token_that_no_approval_stands_behind() {
    let server = Server::start();
    let program = |scopes: &[&str]| {
        let options = ConnectOptions::operator("program").client("id", "gateway-client").client("mode", "backend");
        options.scopes(scopes)
    };
    let reader = ConnectOptions::operator("program").scopes(&["operator.read"]);
    server.client("program", Proto::V4, &reader).leave();
    let within = server.client("program", Proto::V4, &program(&["operator.read"]));
    assert!(within.hello["auth"]["deviceToken"].is_string(), "{}", within.hello);
    let beyond = server.client("program", Proto::V4, &program(&["operator.admin"]));
    assert!(beyond.hello["auth"]["deviceToken"].is_null(), "{}", beyond.hello);
    let stranger = program(&["operator.admin"]);
    let stranger = ConnectOptions { device: Some("stranger".to_owned()), ..stranger };
    let stranger = server.client("stranger", Proto::V4, &stranger);
    assert!(stranger.hello["auth"]["deviceToken"].is_null(), "{}", stranger.hello);
}

#[test]
fn nobody_touches_a_token_that_reaches_further_than_they_do() {
    let server = Server::start();
    let boss = server.operator("boss");
    let boss_id = server.identities.get("boss").id.clone();
    let clerk = ConnectOptions::operator_without_device().scopes(&["operator.pairing"]);
    let clerk = server.client("clerk", Proto::V4, &clerk);
    let of_boss = json!({ "deviceId": boss_id, "role": "operator" });
    clerk
        .call("device.token.revoke", of_boss.clone())
        .expect_err("INVALID_REQUEST")
        .message("device token revocation denied");
    clerk
        .call("device.token.rotate", of_boss.clone())
        .expect_err("INVALID_REQUEST")
        .message("device token rotation denied");
    let old = ConnectOptions::operator("old").scopes(&["operator.pairing"]);
    let old = server.client("old", Proto::V3, &old);
    old.call("device.token.revoke", of_boss).expect_err("INVALID_REQUEST");
    boss.call_bare("health").expect_ok();

    // A node's token reaches no scope, whoever asks.
    let node = server.node("attic");
    let wide = json!({ "deviceId": server.identities.get("attic").id, "role": "node", "scopes": ["operator.admin"] });
    boss.call("device.token.rotate", wide).expect_err("INVALID_REQUEST").message("device token rotation denied");
    node.call_bare("health").expect_ok();
}

#[test]
fn an_approval_covers_what_the_devices_token_reaches_already() {
    let server =
        Server::with().config(&json!({ "gateway": { "nodes": { "pairing": { "autoApproveLocal": false } } } }));
    let server = server.start();
    let without_device = |scopes: &[&str]| ConnectOptions::operator_without_device().scopes(scopes);
    let admin = server.client("admin", Proto::V4, &without_device(&["operator.admin"]));
    let clerk = server.client("clerk", Proto::V4, &without_device(&["operator.pairing", "operator.approvals"]));
    let ask = |scopes: &[&str]| -> Value {
        let options = ConnectOptions::operator("phone").scopes(scopes);
        let refusal = server.attempt("phone", Proto::V4, &options).expect_refused("NOT_PAIRED");
        json!({ "requestId": refusal.error["details"]["requestId"] })
    };
    admin.call("device.pair.approve", ask(&["operator.write"])).expect_ok();
    let more = ask(&["operator.approvals"]);
    let refusal = clerk.call("device.pair.approve", more.clone()).expect_err("INVALID_REQUEST");
    refusal.message("missing scope: operator.write");
    admin.call("device.pair.approve", more).expect_ok();
    let stray = ask(&["operator.write", "node.everything"]);
    let refusal = admin.call("device.pair.approve", stray).expect_err("INVALID_REQUEST");
    refusal.message("invalid scope for requested roles: node.everything");
    clerk
        .call("device.pair.approve", json!({ "requestId": "none" }))
        .expect_err("INVALID_REQUEST")
        .message("device pairing approval denied");
    let unknown = admin.call("device.pair.approve", json!({ "requestId": "none" }));
    unknown.expect_err("INVALID_REQUEST").message("unknown requestId");
}

#[test]
fn a_confined_session_may_not_remove_what_an_administrator_made_a_node() {
    let server = Server::start();
    let ann = server.operator("ann");
    let both = by_device_token(&server, "both", &["operator.pairing"]);
    let own = json!({ "deviceId": server.identities.get("both").id });
    let node = server.attempt("both", Proto::V4, &ConnectOptions::node("both")).expect_refused("NOT_PAIRED");
    ann.call("device.pair.approve", json!({ "requestId": node.error["details"]["requestId"] })).expect_ok();
    let named = json!({ "deviceId": own["deviceId"], "label": "mine" });
    both.call("device.pair.rename", named.clone())
        .expect_err("INVALID_REQUEST")
        .message("device pairing rename denied");
    both.call("device.pair.remove", own).expect_err("INVALID_REQUEST").message("device pairing removal denied");
    ann.call("device.pair.rename", named).expect_ok();
    ann.expect_event("device.pair.changed");
}

#[test]
fn a_connected_device_asks_for_more_and_hears_how_it_ended() {
    let server = Server::start();
    let ann = server.operator("ann");
    let page = by_device_token(&server, "page", &["operator.read"]);
    let wanted = json!({ "scopes": ["operator.read", "operator.write"] });
    let asked = page.call("device.scopes.requestUpgrade", wanted.clone()).expect_ok();
    ann.expect_event("device.pair.requested").with("/requestId", asked["requestId"].clone());
    let waiting = page.start("device.scopes.waitUpgrade", Some(asked.clone()));
    // Nobody else may wait for it: the answer holds the token.
    let other = by_device_token(&server, "other", &["operator.read"]);
    other.call("device.scopes.waitUpgrade", asked.clone()).expect_err("INVALID_REQUEST");
    ann.call("device.pair.approve", asked.clone()).expect_ok();
    let end = page.wait(waiting).expect_ok();
    assert_eq!((&end["status"], &end["requestId"]), (&json!("approved"), &asked["requestId"]), "{end}");
    assert_eq!(page.call("device.scopes.waitUpgrade", asked).expect_ok(), end, "an end is kept for a moment");
    let options = ConnectOptions::operator("page").auth(json!({ "deviceToken": end["deviceToken"] }));
    let options = options.scopes(&["operator.read", "operator.write"]);
    server.client("page", Proto::V4, &options).call_bare("status").expect_ok();

    let asked = page.call("device.scopes.requestUpgrade", json!({ "scopes": ["operator.admin"] })).expect_ok();
    let waiting = page.start("device.scopes.waitUpgrade", Some(asked.clone()));
    ann.call("device.pair.reject", asked.clone()).expect_ok();
    let end = page.wait(waiting).expect_ok();
    assert_eq!(end, json!({ "status": "rejected", "requestId": asked["requestId"] }));
}

#[test]
fn only_a_paired_device_may_ask_for_more_and_only_for_more() {
    let server = Server::start();
    let page = by_device_token(&server, "page", &["operator.read"]);
    let ask = |scopes: Value| page.call("device.scopes.requestUpgrade", json!({ "scopes": scopes }));
    let text = "requested scopes must include the connection's current scopes";
    ask(json!(["operator.pairing"])).expect_err("INVALID_REQUEST").message(text);
    let text = "requested scopes contain an unknown operator scope";
    ask(json!(["operator.read", "operator.wishes"])).expect_err("INVALID_REQUEST").message(text);
    let form = |text: &str| format!("invalid device.scopes.requestUpgrade params: at /scopes: {text}");
    ask(json!([])).expect_err("INVALID_REQUEST").message(&form("must not have fewer than 1 items"));
    let many: Vec<String> = (0..9).map(|n| format!("s{n}")).collect();
    ask(json!(many)).expect_err("INVALID_REQUEST").message(&form("must not have more than 8 items"));
    let twice = ask(json!(["operator.read", "operator.read"])).expect_err("INVALID_REQUEST");
    twice.message(&form("must not have duplicate items"));

    let bare = ConnectOptions::operator_without_device().scopes(&["operator.read"]);
    let bare = server.client("bare", Proto::V4, &bare);
    let wanted = json!({ "scopes": ["operator.read", "operator.admin"] });
    let refusal = bare.call("device.scopes.requestUpgrade", wanted).expect_err("INVALID_REQUEST");
    refusal.detail("/code", "DEVICE_IDENTITY_REQUIRED").detail("/recommendedNextStep", "reopen_control_ui_securely");
    let node = server.node("attic");
    let refused = node.call("device.scopes.requestUpgrade", json!({ "scopes": ["operator.admin"] }));
    refused.expect_err("INVALID_REQUEST").message("unauthorized role: node");
}

#[test]
fn protocol_3_reads_presence_in_its_own_words() {
    let server = Server::start();
    let program = ConnectOptions::operator("program").client("id", "gateway-client").client("mode", "backend");
    let _program = server.client("program", Proto::V4, &program);
    let page = |name: &str| ConnectOptions::operator(name).client("id", "openclaw-macos").client("mode", "ui");
    let old = server.client("old", Proto::V3, &page("old"));
    let new = server.client("new", Proto::V4, &page("new"));
    let modes = |list: &Value| -> Vec<String> {
        let entries = list.as_array().expect("a list");
        let mut modes: Vec<String> = entries.iter().map(|e| e["mode"].as_str().unwrap_or("").to_owned()).collect();
        modes.sort();
        modes
    };
    // The newcomer is told to both, each in its own words.
    let told = old.expect_event("presence").payload;
    assert_eq!(modes(&told["presence"]), ["backend", "gateway", "ui", "ui"], "{told}");
    for list in [&told["presence"], &old.call("system-presence", json!({})).expect_ok()] {
        assert!(list.as_array().unwrap().iter().all(|entry| entry.get("clientId").is_none()), "{list}");
        assert_eq!(list[0]["version"], "unknown", "{list}");
    }
    let listed = new.call("system-presence", json!({})).expect_ok();
    assert_eq!(modes(&listed), ["gateway", "ui", "ui"], "{listed}");
    assert_eq!(listed[1]["clientId"], "openclaw-macos", "{listed}");
}

#[test]
fn what_a_node_offers_is_shown_as_long_as_nobody_approved_it() {
    let server = Server::start();
    let ann = server.operator("ann");
    let offer = || {
        let listed = ann.call("device.pair.list", json!({})).expect_ok();
        let id = server.identities.get("attic").id.clone();
        let rows = listed["paired"].as_array().expect("a list").clone();
        rows.into_iter().find(|row| row["deviceId"] == id).expect("the node is paired")["pendingNodeSurface"].clone()
    };
    server.node("attic").leave();
    let first = offer();
    assert_eq!(first["caps"], json!(["system"]), "{first}");
    assert_eq!(first["commands"], json!(["system.which"]), "{first}");
    assert_eq!((&first["silent"], &first["platform"]), (&json!(true), &json!("linux")), "{first}");
    server.node("attic").leave();
    assert_eq!(offer(), first, "the same offer goes on under its name");
    let mut more = ConnectOptions::node("attic");
    more.extra.insert("caps".to_owned(), json!(["system", "canvas"]));
    server.client("attic", Proto::V4, &more).leave();
    assert_ne!(offer()["revision"], first["revision"]);
    // Of an operator's device nothing is shown.
    let listed = ann.call("device.pair.list", json!({})).expect_ok();
    let own = server.identities.get("ann").id.clone();
    let row = listed["paired"].as_array().unwrap().iter().find(|row| row["deviceId"] == own).unwrap();
    assert!(row.get("pendingNodeSurface").is_none(), "{row}");
}
