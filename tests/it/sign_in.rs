//! Ways in: token, password, device token, nothing at all when asked for; and what each leaves behind.

use serde_json::json;

use crate::harness::client::Outcome;
use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::{Attempt, Client, Server};

const PASSWORD: &str = "correct horse battery";

#[test]
fn a_password_is_good_in_either_field_on_protocol_4() {
    let auth = json!({ "gateway": { "auth": { "mode": "password", "password": PASSWORD, "token": null } } });
    let server = Server::with().config(&auth).start();
    for field in ["password", "token"] {
        let options = ConnectOptions::operator(field).auth(json!({ field: PASSWORD }));
        server.client(field, Proto::V4, &options).call_bare("health").expect_ok();
    }
    let old = ConnectOptions::operator("old").auth(json!({ "password": PASSWORD }));
    server.client("old", Proto::V3, &old).call_bare("health").expect_ok();
    let wrong = ConnectOptions::operator("wrong").auth(json!({ "password": "guess" }));
    let refusal = server.attempt("wrong", Proto::V4, &wrong).expect_refused("INVALID_REQUEST");
    refusal.detail("/code", "AUTH_PASSWORD_MISMATCH");
}

#[test]
fn nobody_comes_in_without_a_secret_unless_that_is_written_down() {
    let server = Server::start();
    let nothing = ConnectOptions::operator("nothing").auth(serde_json::Value::Null);
    let refusal = server.attempt("nothing", Proto::V4, &nothing).expect_refused("INVALID_REQUEST");
    refusal.detail("/code", "AUTH_TOKEN_MISSING");

    let open = Server::with().config(&json!({ "gateway": { "auth": { "mode": "none", "token": null } } })).start();
    open.client("nothing", Proto::V4, &nothing).call_bare("health").expect_ok();
}

#[test]
fn a_device_comes_back_with_the_token_it_was_given() {
    let server = Server::start();
    for proto in [Proto::V3, Proto::V4] {
        let name = format!("phone-{}", proto.number());
        let first = server.client(&name, proto, &ConnectOptions::operator(&name));
        let token = first.hello["auth"]["deviceToken"].clone();
        assert_eq!(token.as_str().map(str::len), Some(43), "{}", first.hello);
        first.leave();
        // Protocol 3 clients send it where the shared token would be.
        let field = if proto == Proto::V3 { "token" } else { "deviceToken" };
        let back = server.client(&name, proto, &ConnectOptions::operator(&name).auth(json!({ field: token })));
        back.call("device.pair.list", json!({})).expect_ok();
        let thief = ConnectOptions::operator("thief").auth(json!({ field: token }));
        assert!(
            !matches!(server.attempt("thief", proto, &thief), Attempt::Accepted(_)),
            "another device used the token"
        );
    }
}

#[test]
fn no_answer_repeats_a_secret_of_the_configuration() {
    let canary = |n: u32| format!("canary-{n}-7f3a9c21d0b84e65");
    let secrets = json!({
        "gateway": { "auth": { "password": canary(1) }, "remote": { "token": canary(2), "password": canary(3) } },
        "hooks": { "enabled": true, "token": canary(4) },
        "models": { "providers": { "other": { "baseUrl": "http://127.0.0.1:9/v1", "apiKey": canary(5), "models": [] } } },
    });
    let server = Server::with().model().config(&secrets).start();
    let ann = server.operator("ann");
    for method in ["config.get", "status", "health", "models.list", "logs.tail", "device.pair.list", "system-presence"]
    {
        let text = ann.call(method, json!({})).expect_ok().to_string();
        assert!(!text.contains("canary-"), "{method}: {text}");
        assert!(!text.contains(Server::TOKEN), "{method}: {text}");
    }
    let shown = ann.call("config.get", json!({})).expect_ok().to_string();
    assert!(shown.contains("__OPENCLAW_REDACTED__"), "{shown}");
    assert!(!server.stderr().contains("canary-"), "{}", server.stderr());
}

#[test]
fn a_written_configuration_is_live_and_a_stale_writer_is_told() {
    let server = Server::start();
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    let hash = ann.call("config.get", json!({})).expect_ok()["hash"].clone();
    let write = |text: &str| json!({ "raw": json!({ "ui": { "seamColor": text } }).to_string(), "baseHash": hash });

    ann.call("config.patch", write("#123456")).expect_ok();
    let refusal = bob.call("config.patch", write("#654321")).expect_err("INVALID_REQUEST");

    refusal.message("config changed since last load; re-run config.get and retry");
    let live = bob.call("config.get", json!({})).expect_ok();
    assert_eq!(live["config"]["ui"]["seamColor"], "#123456", "{live}");
    let file = std::fs::read_to_string(server.state_dir().join("openclaw.json")).unwrap();
    assert!(file.contains("#123456") && file.contains(Server::TOKEN), "the file keeps what was redacted: {file}");
}

#[test]
fn the_same_key_is_the_same_message() {
    let server = Server::with().model().start();
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    let params = json!({ "sessionKey": "agent:main:once", "message": "only once", "idempotencyKey": "once-1" });
    let send = |client| (client, Client::start(client, "chat.send", Some(params.clone())));
    let pending: Vec<_> = (0..20).map(|n| if n % 2 == 0 { &ann } else { &bob }).map(send).collect();
    let mut accepted = 0;
    for (client, request) in pending {
        match client.wait(request).outcome {
            Outcome::Answer(frame) if frame["payload"]["runId"] == "once-1" => accepted += 1,
            // Asked again before the first one is on disk: told to come back, not told ok.
            Outcome::Answer(frame) => assert_eq!(frame["error"]["retryable"], true, "{frame}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(accepted > 0, "none of twenty was accepted");
    let history = ann.call("chat.history", json!({ "sessionKey": "agent:main:once" })).expect_ok();
    assert_eq!(history["messages"].to_string().matches("only once").count(), 1, "{history}");
}

#[test]
fn only_the_page_of_protocol_3_finds_the_policy_in_its_snapshot() {
    let server = Server::start();
    let page = json!({ "id": "openclaw-control-ui", "mode": "webchat" });
    let page = ConnectOptions { client: page.as_object().unwrap().clone(), ..ConnectOptions::operator("page") };
    let origin = format!("http://{}", server.address());
    let hello = |proto| server.attempt_with("page", proto, &page, &[("Origin", &origin)]).expect_accepted().hello;
    let tick = |hello: &serde_json::Value| hello["snapshot"]["policy"]["tickIntervalMs"].clone();

    let old = hello(Proto::V3);
    assert_eq!(tick(&old), old["policy"]["tickIntervalMs"]);
    assert!(tick(&old).is_number(), "{old}");
    assert!(tick(&hello(Proto::V4)).is_null());
    assert!(tick(&server.client("old", Proto::V3, &ConnectOptions::operator("old")).hello).is_null());
}
