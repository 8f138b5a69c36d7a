//! Conversations of more than two: what is answered, and what is only heard.

use serde_json::{Value, json};

use crate::harness::provider::Provider;
use crate::harness::{Client, Server};

#[test]
fn what_is_not_said_to_the_agent_in_a_group_is_context_and_not_answered() {
    let provider = Provider::start();
    let mut config = provider.config();
    config["channels"] = json!({ "telegram": { "webhookSecret": "group-secret-77aa" } });
    let mut server = Server::with().config(&config).start();
    let client = server.operator("ann");
    let key = "agent:main:telegram:group:-100";
    let say = |server: &Server, id: &str, text: &str, more: Value| {
        let mut event = json!({ "messageId": id, "chatType": "group", "to": "-100", "from": "bob", "text": text });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let headers = [("x-openclaw-token", "group-secret-77aa"), ("content-type", "application/json")];
        let reply = server.http("POST", "/webhook/telegram", &headers, event.to_string().as_bytes());
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
        reply.json()["ingress"]["dispatch"].clone()
    };
    let said = |client: &Client| -> Vec<String> {
        let history = client.call("chat.history", json!({ "sessionKey": key })).expect_ok();
        let line = |message: &Value| {
            let text = message["content"].as_str().or(message["content"][0]["text"].as_str()).unwrap_or("?");
            format!("{}: {text}", message["role"].as_str().unwrap())
        };
        history["messages"].as_array().unwrap().iter().map(line).collect()
    };
    let not_mentioned = || json!({ "wasMentioned": false });
    assert_eq!(say(&server, "1", "the train is at nine", not_mentioned()), "ignored");
    assert_eq!(said(&client), ["user: the train is at nine"]);
    assert!(provider.requests().is_empty(), "nobody was asked");
    drop(client);
    // It stays context, and no start takes it up.
    server.kill_and_restart();
    let client = server.operator("ann");
    assert_eq!(say(&server, "1", "the train is at nine", not_mentioned()), "ignored");
    assert_eq!(say(&server, "2", "when is the train?", json!({ "wasMentioned": true })), "dispatched");
    client.expect_event_where("chat", |chat| chat["state"] == "final");
    let requests = provider.requests();
    assert_eq!(requests.len(), 1);
    let asked = Value::from(requests[0].messages().to_vec()).to_string();
    assert!(asked.contains("the train is at nine") && asked.contains("when is the train?"), "{asked}");
    assert_eq!(said(&client).len(), 3);

    // The session's own setting speaks before the gateway's.
    client.call("sessions.patch", json!({ "key": key, "groupActivation": "always" })).expect_ok();
    let from = client.mark();
    assert_eq!(say(&server, "3", "good night", not_mentioned()), "dispatched");
    client.expect_event_where("chat", |chat| chat["state"] == "final");
    assert!(client.mark() > from);
    assert_eq!(said(&client).len(), 5);
    // Whoever speaks through a client of the gateway is not in doubt.
    client.call("sessions.patch", json!({ "key": key, "groupActivation": "mention" })).expect_ok();
    let params = json!({ "sessionKey": key, "message": "and now?", "idempotencyKey": "own" });
    client.call("chat.send", params).expect_ok();
    client.expect_event_where("chat", |chat| chat["runId"] == "own" && chat["state"] == "final");
}
