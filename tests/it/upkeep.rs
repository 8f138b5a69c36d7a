//! Looking after the gateway: having it hold still, seeing what was done, having it read its file again.

use serde_json::json;

use crate::harness::Server;

#[test]
fn a_suspended_gateway_takes_nothing_in_and_loses_nothing() {
    let hooks = json!({ "hooks": { "enabled": true, "token": "hook-token-77aa" } });
    let server = Server::with().model().config(&hooks).start();
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    let headers = [("Authorization", "Bearer hook-token-77aa"), ("Content-Type", "application/json")];
    let hook =
        |text: &str| server.http("POST", "/hooks/agent", &headers, json!({ "message": text }).to_string().as_bytes());
    let chat = |key: &str| json!({ "sessionKey": "agent:main:garden", "message": "hello", "idempotencyKey": key });
    ann.call("chat.send", chat("before")).expect_ok();

    let held = ann.call("gateway.suspend.prepare", json!({ "requestId": "backup", "drain": true })).expect_ok();

    let seen = bob.expect_event_where("health", |health| health["suspension"].is_object());
    seen.with("/suspension/expiresAtMs", held["expiresAtMs"].clone());
    let refusal = bob.call("chat.send", chat("during")).expect_err("UNAVAILABLE");
    refusal.message("chat.send unavailable during gateway suspension").detail("/reason", "gateway-suspending");
    assert_eq!(hook("during").status, 503);
    assert_eq!(server.http("GET", "/readyz", &[], b"").json()["failing"], json!(["suspended"]));
    assert_eq!(server.http("GET", "/healthz", &[], b"").status, 200, "it lives");

    let resume = json!({ "suspensionId": held["suspensionId"] });
    assert_eq!(ann.call("gateway.suspend.resume", resume).expect_ok()["resumed"], true);

    bob.call("chat.send", chat("during")).expect_ok();
    assert_eq!(hook("after").status, 200);
    assert_eq!(server.http("GET", "/readyz", &[], b"").status, 200);
    // It has its turn when the one before has ended.
    ann.call("agent.wait", json!({ "runId": "during", "timeoutMs": 20_000 })).expect_ok();
    let history = ann.call("chat.history", json!({ "sessionKey": "agent:main:garden" })).expect_ok();
    let said = history["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user").count();
    assert_eq!(said, 2, "what was refused was not kept, what was sent again was: {history}");
}

#[test]
fn what_agents_did_is_listed_after_a_crash() {
    let mut server = Server::with().model().start();
    let ann = server.operator("ann");
    let params = json!({ "sessionKey": "agent:main:garden", "message": "hello", "idempotencyKey": "a-run" });
    ann.call("chat.send", params).expect_ok();
    drop(ann);

    server.kill_and_restart();

    // Whether it ended before the kill or is run again after it: it began once and ended once.
    let ann = server.operator("ann");
    ann.call("agent.wait", json!({ "runId": "a-run", "timeoutMs": 20_000 })).expect_ok();
    let events = ann.call("audit.activity.list", json!({ "runId": "a-run" })).expect_ok();
    let actions: Vec<_> = events["events"].as_array().unwrap().iter().map(|event| event["action"].clone()).collect();
    assert_eq!(actions, ["agent.run.finished", "agent.run.started"]);
}

#[test]
fn the_signal_of_upstreams_tools_has_the_file_read_again() {
    let server = Server::start();
    let ann = server.operator("ann");
    server.signal(libc::SIGUSR1);
    server.expect_said("reading the configuration again");
    ann.call("health", json!({})).expect_ok();
}
