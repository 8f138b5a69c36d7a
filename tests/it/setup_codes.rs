//! Setup codes: shown by who administers, presented by a device, once.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::{Client, Server, schema};

/// A gateway that approves nobody by itself, so that only a code lets anybody in.
fn server() -> Server {
    Server::with().config(&json!({ "gateway": { "nodes": { "pairing": { "autoApproveLocal": false } } } })).start()
}

/// The command line of this machine, which needs no approval.
fn admin(server: &Server) -> Client {
    server.client("admin", Proto::V4, &ConnectOptions::operator_without_device())
}

#[track_caller]
fn make(ann: &Client, params: Value) -> Value {
    ann.call("device.pair.setupCode", params).expect_valid()
}

/// What a device reads in a code.
fn read(code: &Value) -> Value {
    let bytes = URL_SAFE_NO_PAD.decode(code["setupCode"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn phone(name: &str, token: &Value) -> ConnectOptions {
    let options = ConnectOptions::node(name).client("id", "openclaw-android").client("platform", "android 15");
    options.client("deviceFamily", "Android").auth(json!({ "bootstrapToken": token }))
}

#[test]
fn a_phone_that_presents_a_code_is_approved_once_and_gets_its_tokens() {
    let mut server = server();
    let ann = admin(&server);
    let code = make(&ann, json!({ "publicUrl": "https://gate.example/base/" }));
    let payload = read(&code);
    assert_eq!((&payload["url"], &code["gatewayUrl"]), (&json!("wss://gate.example/base"), &payload["url"]));
    assert_eq!(
        (&code["access"], &code["auth"], &code["urlSource"]),
        (&json!("full"), &json!("token"), &json!("request.publicUrl"))
    );
    assert_eq!(code["expiresAtMs"], payload["expiresAtMs"]);
    let picture = code["qrDataUrl"].as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap();
    assert!(STANDARD.decode(picture).unwrap().starts_with(b"\x89PNG"));
    assert!(!code.to_string().contains(Server::TOKEN), "the secret that all share stays here");
    let status =
        |client: &Client| client.call("device.pair.setupStatus", json!({ "setupId": code["setupId"] })).expect_valid();
    assert_eq!(status(&ann), json!({}));

    // The code outlives a restart, and a guess is no code.
    server.kill_and_restart();
    let ann = admin(&server);
    let guess = phone("phone", &json!("x".repeat(43)));
    server
        .attempt("phone", Proto::V4, &guess)
        .expect_refused("INVALID_REQUEST")
        .detail("/code", "AUTH_BOOTSTRAP_TOKEN_INVALID");
    let token = &payload["bootstrapToken"];
    let connected = server.client("phone", Proto::V4, &phone("phone", token));
    let mut hello = connected.hello.clone();
    // Sent by the released gateway as well, whose contract leaves it out.
    hello["snapshot"]["health"].as_object_mut().unwrap().remove("modelRuntime");
    schema::check("HelloOk", &hello);
    let auth = &connected.hello["auth"];
    assert_eq!((&auth["method"], &auth["role"]), (&json!("bootstrap-token"), &json!("node")));
    let tokens = auth["deviceTokens"].as_array().unwrap();
    assert_eq!(tokens.iter().map(|token| token["role"].clone()).collect::<Vec<_>>(), ["node", "operator"]);
    assert_eq!(tokens[0]["deviceToken"], auth["deviceToken"]);
    assert!(tokens[1]["scopes"].as_array().unwrap().contains(&json!("operator.admin")));
    let seen = ann.expect_event("device.pair.setup.completed");
    seen.with("/setupId", code["setupId"].clone()).with("/access", "full").with("/deviceName", "phone");
    let completion = status(&ann)["completion"].clone();
    schema::check("DevicePairSetupCompletedEvent", &completion);
    assert_eq!(completion["deviceName"], "phone");

    let operator = ConnectOptions::operator("phone").client("id", "openclaw-android").client("platform", "android 15");
    let operator = operator.client("deviceFamily", "Android").auth(json!({ "deviceToken": tokens[1]["deviceToken"] }));
    let as_operator = server.client("phone", Proto::V4, &operator.scopes(&["operator.admin", "operator.read"]));
    as_operator.call("config.get", json!({})).expect_ok();
    for name in ["phone", "thief"] {
        let again = server.attempt(name, Proto::V4, &phone(name, token)).expect_refused("INVALID_REQUEST");
        again.detail("/code", "AUTH_BOOTSTRAP_TOKEN_INVALID");
    }
    server.kill_and_restart();
    let again = server.attempt("phone", Proto::V4, &phone("phone", token)).expect_refused("INVALID_REQUEST");
    again.detail("/code", "AUTH_BOOTSTRAP_TOKEN_INVALID");
    assert_eq!(status(&admin(&server))["completion"], completion);
}

#[test]
fn a_code_gives_what_it_was_made_for_to_whom_it_was_made_for() {
    let server = server();
    let ann = admin(&server);
    let clear = make(&ann, json!({ "publicUrl": "ws://192.168.1.4:18789", "includeQr": false }));
    assert_eq!((&clear["access"], &clear["accessDowngraded"]), (&json!("limited"), &json!(true)));
    assert_eq!(clear.get("qrDataUrl"), None);
    let code = make(&ann, json!({ "publicUrl": "wss://gate.example", "bootstrapProfile": "node" }));
    assert_eq!(code["access"], "node");
    let token = &read(&code)["bootstrapToken"];

    // It is no phone's: who presents it is asked about, and it is bound to who presented it.
    let refused = server.attempt("phone", Proto::V4, &phone("phone", token)).expect_refused("NOT_PAIRED");
    let refused = refused.detail("/reason", "not-paired");
    let host = |name: &str| ConnectOptions::node(name).auth(json!({ "bootstrapToken": token }));
    let stolen = server.attempt("host", Proto::V4, &host("host")).expect_refused("INVALID_REQUEST");
    stolen.detail("/code", "AUTH_BOOTSTRAP_TOKEN_INVALID");
    // Who turns the phone away takes its code back.
    ann.call("device.pair.reject", json!({ "requestId": refused.error["details"]["requestId"] })).expect_ok();
    let again = server.attempt("phone", Proto::V4, &phone("phone", token)).expect_refused("INVALID_REQUEST");
    again.detail("/code", "AUTH_BOOTSTRAP_TOKEN_INVALID");
    let code = make(&ann, json!({ "publicUrl": "wss://gate.example", "bootstrapProfile": "node" }));
    let token = read(&code)["bootstrapToken"].clone();
    let asks = ConnectOptions::operator("host").auth(json!({ "bootstrapToken": token })).scopes(&["operator.read"]);
    server.attempt("host", Proto::V4, &asks).expect_refused("INVALID_REQUEST");
    let host = ConnectOptions::node("host").auth(json!({ "bootstrapToken": token }));
    let connected = server.client("host", Proto::V4, &host);
    let tokens = connected.hello["auth"]["deviceTokens"].as_array().unwrap();
    assert_eq!(tokens.iter().map(|token| token["role"].clone()).collect::<Vec<_>>(), ["node"]);

    for (params, why) in [
        (json!({}), "Gateway is only bound to loopback."),
        (
            json!({ "publicUrl": "ws://gate.example" }),
            "A setup code for ws://gate.example (request.publicUrl) would travel in the clear",
        ),
        (json!({ "publicUrl": "wss://me:pass@gate.example" }), "Configured publicUrl is invalid."),
        (json!({ "publicUrl": "ws://192.168.1.4", "joinUrl": true }), "Join URLs require a TLS gateway endpoint"),
        (json!({ "joinUrl": true, "bootstrapProfile": "limited" }), "Join URLs require bootstrapProfile=node."),
    ] {
        ann.call("device.pair.setupCode", params).expect_err("INVALID_REQUEST").message_starts(why);
    }
    let pairing = ConnectOptions::operator_without_device().scopes(&["operator.pairing"]);
    let pairing = server.client("pairing", Proto::V4, &pairing);
    for method in ["device.pair.setupCode", "device.pair.setupStatus"] {
        pairing.call(method, json!({})).expect_err("FORBIDDEN").message("missing scope: operator.admin");
    }
    let none = ann.call("device.pair.setupStatus", json!({ "setupId": "none" })).expect_valid();
    assert_eq!(none, json!({}));
}

#[test]
fn a_link_to_a_code_opens_once_for_whoever_has_it() {
    let mut server = server();
    let ann = admin(&server);
    let base = format!("http://{}", server.address());
    let code = make(&ann, json!({ "publicUrl": base, "joinUrl": true }));
    assert_eq!(code["access"], "node");
    let link = code["joinUrl"].as_str().unwrap().strip_prefix(&base).unwrap().to_owned();
    assert!(link.starts_with("/j/"), "{link}");
    for wrong in ["/j/", "/j/AAAAAAAAAAAAAAAAAAAAAA", &format!("{link}?x=1")] {
        let reply = server.http("GET", wrong, &[], b"");
        assert_eq!((reply.status, reply.json()), (404, json!({ "error": "not_found" })), "{wrong}");
    }
    server.kill_and_restart();
    let reply = server.http("GET", &link, &[], b"");
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
    assert_eq!(reply.json(), read(&code));
    assert_eq!(server.http("GET", &link, &[], b"").status, 404);
    server.kill_and_restart();
    assert_eq!(server.http("GET", &link, &[], b"").status, 404, "closed for good");
}
