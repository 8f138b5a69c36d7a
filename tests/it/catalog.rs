//! The models and agents that are configured, as clients see and change them.

use serde_json::json;

use crate::harness::Server;
use crate::harness::connect::{ConnectOptions, Proto};

#[test]
fn a_published_catalogue_is_promised_and_kept() {
    let server = Server::with().model().start();
    let ann = server.operator("ann");

    let promised = ann.hello["features"]["capabilities"].as_array().unwrap();
    assert!(promised.contains(&json!("published-model-catalog")), "{promised:?}");

    let asked = json!({ "view": "all", "provider": "STUB", "includeDetails": true, "refresh": true });
    let answer = ann.call("models.list", asked).expect_ok();
    let row = &answer["models"][0];
    assert_eq!(answer["models"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!((&row["id"], &row["available"], &row["local"]), (&json!("test-model"), &json!(true), &json!(true)));
    assert_eq!(row["input"], json!(["text"]));

    ann.call("models.list", json!({ "provider": "nobodys" }))
        .expect_err("INVALID_REQUEST")
        .message_starts("unknown model catalog provider \"nobodys\"");
    for forbidden in
        [json!({ "refresh": true, "preparedOnly": true }), json!({ "sessionKey": "a", "authProfileId": "b" })]
    {
        ann.call("models.list", forbidden)
            .expect_err("INVALID_REQUEST")
            .message("invalid models.list params: must not be valid");
    }
    ann.call("models.list", json!({ "agentId": "ghost" }))
        .expect_err("INVALID_REQUEST")
        .message("unknown agent id \"ghost\"");
    ann.call("models.list", json!({ "sessionKey": "agent:main:x", "agentId": "ghost" })).expect_err("INVALID_REQUEST");
}

#[test]
fn a_model_without_a_key_is_listed_as_lacking_one() {
    let provider = json!({
        "baseUrl": "https://api.example.com/v1", "apiKey": { "source": "env", "id": "NOBODY_SET_THIS_KEY" },
        "models": [{ "id": "far" }],
    });
    let server = Server::with().model().config(&json!({ "models": { "providers": { "far": provider } } })).start();
    let ann = server.operator("ann");

    let models = ann.call("models.list", json!({ "provider": "far" })).expect_ok();
    assert_eq!(models["models"][0]["available"], false, "{models}");
    assert_eq!(models["models"][0]["unavailableReason"], "missing-auth", "{models}");

    let status = ann.call("models.authStatus", json!({})).expect_ok();
    let known: Vec<_> = status["providers"].as_array().unwrap().iter().map(|row| &row["provider"]).collect();
    assert_eq!(known, ["stub"], "only who has a key: {status}");
    assert_eq!(status["providers"][0]["apiKey"], json!({ "source": "config" }));
    assert!(!status.to_string().contains("stub-key"), "{status}");
    ann.call("models.authStatus", json!({ "agentId": "ghost" }))
        .expect_err("INVALID_REQUEST")
        .detail("/code", "UNKNOWN_AGENT_ID");
}

#[test]
fn an_agent_is_listed_with_the_model_it_inherits() {
    let agents = json!({ "agents": { "entries": { "main": {}, "ops": { "model": { "primary": "stub/other" } } } } });
    let server = Server::with().model().config(&agents).start();
    let ann = server.operator("ann");

    let agents = ann.call("agents.list", json!({})).expect_ok();
    let models: Vec<_> = agents["agents"].as_array().unwrap().iter().map(|row| &row["model"]["primary"]).collect();
    assert_eq!(models, ["stub/test-model", "stub/other"], "{agents}");

    // A gateway without a model says so, and the Control UI asks for one.
    let bare = Server::start();
    let agents = bare.operator("ann").call("agents.list", json!({})).expect_ok();
    assert_eq!(agents["agents"][0]["model"], json!({}), "{agents}");
}

#[test]
fn an_identity_is_told_of_anyone_but_not_under_anothers_session() {
    let server = Server::start();
    let ann = server.operator("ann");
    let old = server.client("old", Proto::V3, &ConnectOptions::operator("old"));

    for client in [&ann, &old] {
        let ghost = client.call("agent.identity.get", json!({ "agentId": "ghost" })).expect_ok();
        assert_eq!((&ghost["agentId"], &ghost["name"]), (&json!("ghost"), &json!("Assistant")));
    }
    let mixed = json!({ "agentId": "ghost", "sessionKey": "agent:main:x" });
    ann.call("agent.identity.get", mixed.clone()).expect_err("INVALID_REQUEST").message("Unknown agent id \"ghost\"");
    old.call("agent.identity.get", mixed)
        .expect_err("INVALID_REQUEST")
        .message("invalid agent.identity.get params: agent \"ghost\" does not match session key agent \"main\"");
}
