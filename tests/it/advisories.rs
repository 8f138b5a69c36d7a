//! The published advisories of this kind of gateway, sections 1 and 2: handshake, origin, identity, scopes, pairing.
//!
//! Each test is named after its id. Not here, because what they attack does not exist yet: CVE-2026-28473 and the chat form
//! of CVE-2026-33579 (no chat command approves or pairs anything), CVE-2026-44991 (no channel has senders or owners).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::client::Outcome;
use crate::harness::connect::{ConnectOptions, Proto, Tamper};
use crate::harness::http::HttpReply;
use crate::harness::{Attempt, Client, Inbox, Server, Socket};

/// Failed attempts after which an address is locked out (`gateway.auth.rateLimit.maxAttempts`, default).
const FAILURES_MAX: usize = 10;

const EVERY_SCOPE: [&str; 5] =
    ["operator.admin", "operator.read", "operator.write", "operator.approvals", "operator.pairing"];

fn wrong_token() -> ConnectOptions {
    ConnectOptions::operator_without_device().auth(json!({ "token": "not-the-token" }))
}

/// A device that has been paired with these scopes, and connects with its own token instead of the shared one.
#[track_caller]
fn by_device_token(server: &Server, name: &str, scopes: &[&str]) -> Client {
    let paired = server.client(name, Proto::V4, &ConnectOptions::operator(name).scopes(scopes));
    let token = device_token(&paired);
    paired.leave();
    let options = ConnectOptions::operator(name).scopes(scopes).auth(json!({ "deviceToken": token }));
    server.client(name, Proto::V4, &options)
}

#[track_caller]
fn device_token(client: &Client) -> String {
    let token = &client.hello["auth"]["deviceToken"];
    token.as_str().unwrap_or_else(|| panic!("no device token in {}", client.hello)).to_owned()
}

/// Whether a connect was turned away, at the upgrade or by the handshake.
fn turned_away(attempt: &Attempt) -> bool {
    !matches!(attempt, Attempt::Accepted(_))
}

fn refused_for_its_origin(attempt: &Attempt) -> bool {
    match attempt {
        Attempt::NotUpgraded(refused) => refused.status == Some(403),
        Attempt::Refused { error, .. } => error["details"]["code"] == "CONTROL_UI_ORIGIN_NOT_ALLOWED",
        _ => false,
    }
}

#[test]
fn cve_2026_25253_the_page_takes_no_gateway_address_from_its_query() {
    let server = Server::start();
    let page = server.http("GET", "/?gatewayUrl=ws://127.0.0.1:9", &[("Accept", "text/html")], b"");
    assert_eq!(page.status, 200, "{}", page.text());
    let html = page.text();
    let mut sources = vec![html.clone()];
    for part in html.split("src=\"").skip(1) {
        let path = part.split('"').next().unwrap().trim_start_matches("./").trim_start_matches('/');
        sources.push(server.http("GET", &format!("/{path}"), &[], b"").text());
    }
    assert!(sources.len() > 1, "the page loads no script: {html}");
    for source in sources {
        assert!(!source.contains("gatewayUrl"), "the page knows a gatewayUrl");
        assert!(!source.contains("location.search"), "the page reads its query");
        assert!(!source.contains("ws://127.0.0.1:9"), "the query is echoed");
    }
    let policy = page.header("content-security-policy").expect("the page has a content security policy");
    let rules: Vec<&str> = policy.split(';').map(str::trim).collect();
    // Scripts and sockets of this gateway only: not even a stolen page could talk to another one.
    assert!(rules.contains(&"connect-src 'self'"), "{policy}");
    assert!(rules.iter().any(|rule| matches!(*rule, "script-src 'self'" | "default-src 'self'")), "{policy}");
    assert!(!policy.contains("unsafe-inline") && !policy.contains("unsafe-eval"), "{policy}");
}

#[test]
fn clawjacked_a_foreign_origin_gets_403_before_any_frame() {
    let server = Server::start();
    for origin in ["https://evil.example", "http://localhost.evil.example", "null", "not an origin"] {
        for options in [ConnectOptions::operator("page"), wrong_token()] {
            match server.attempt_with("page", Proto::V4, &options, &[("Origin", origin)]) {
                Attempt::NotUpgraded(refused) => assert_eq!(refused.status, Some(403), "{origin}: {refused:?}"),
                other => panic!("{origin} was upgraded, refused later: {}", turned_away(&other)),
            }
        }
    }
}

#[test]
fn clawjacked_ten_wrong_secrets_from_loopback_lock_out() {
    let server = Server::start();
    for _ in 0..FAILURES_MAX {
        let refusal = server.attempt("guess", Proto::V4, &wrong_token()).expect_refused("INVALID_REQUEST");
        refusal.detail("/code", "AUTH_TOKEN_MISMATCH");
    }
    let refusal = server.attempt("guess", Proto::V4, &wrong_token()).expect_refused("INVALID_REQUEST");
    refusal
        .message("unauthorized: too many failed authentication attempts (retry later)")
        .detail("/code", "AUTH_RATE_LIMITED")
        .detail("/recommendedNextStep", "wait_then_retry");
}

#[test]
fn clawjacked_a_browser_is_not_paired_without_the_secret() {
    let server = Server::start();
    let origin = format!("http://{}", server.address());
    let page = |auth: Value| {
        ConnectOptions::operator("page").client("id", "openclaw-control-ui").client("mode", "webchat").auth(auth)
    };
    let watcher = server.operator("watcher");
    for auth in [Value::Null, json!({ "token": "guess" }), json!({ "password": "guess" })] {
        let attempt = server.attempt_with("page", Proto::V4, &page(auth.clone()), &[("Origin", &origin)]);
        assert!(turned_away(&attempt), "a page got in with {auth}");
    }
    let listed = watcher.call("device.pair.list", json!({})).expect_ok();
    let id = server.identities.get("page").id.clone();
    assert!(!listed["paired"].to_string().contains(&id), "the page was paired: {listed}");
}

#[test]
fn oc_pr_10930_16485_112288_the_origin_decides_and_not_what_the_client_says_it_is() {
    let server = Server::start();
    let (own, port) = (format!("http://{}", server.address()), server.address().port());
    let (by_name, other_host) = (format!("http://localhost:{port}"), format!("evil.example:{port}"));
    let rebound = format!("http://{other_host}");
    let own_host = server.address().to_string();
    let name_host = format!("localhost:{port}");
    // Origin, Host, may it speak? (Whether it is then let in is a matter of secrets and pairing.)
    let cases = [
        (own.as_str(), own_host.as_str(), true),
        (by_name.as_str(), name_host.as_str(), true),
        ("https://evil.example", own_host.as_str(), false),
        ("null", own_host.as_str(), false),
        // DNS rebinding: the page's own name resolves to loopback, so Origin and Host agree.
        (rebound.as_str(), other_host.as_str(), false),
    ];
    for (id, mode) in
        [("openclaw-control-ui", "webchat"), ("webchat-ui", "webchat"), ("cli", "cli"), ("gateway-client", "backend")]
    {
        for (origin, host, wanted) in cases {
            let options = ConnectOptions::operator("matrix").client("id", id).client("mode", mode);
            let attempt = server.attempt_with("matrix", Proto::V4, &options, &[("Origin", origin), ("Host", host)]);
            assert_eq!(!refused_for_its_origin(&attempt), wanted, "{id} from {origin} at {host}");
        }
    }
}

#[test]
fn cve_2026_28472_a_junk_token_is_no_way_past_the_device_check() {
    let server = Server::start();
    for proto in [Proto::V3, Proto::V4] {
        for id in ["cli", "openclaw-control-ui", "webchat-ui", "gateway-client"] {
            let options = ConnectOptions::operator_without_device().client("id", id).auth(json!({ "token": "x" }));
            let attempt = server.attempt("junk", proto, &options);
            assert!(turned_away(&attempt), "{id} got in with a junk token on {proto:?}");
        }
    }
}

#[test]
fn cve_2026_22172_scopes_are_not_granted_because_they_were_asked_for() {
    let server = Server::start();
    let asked = |id: &str, mode: &str| ConnectOptions::operator_without_device().client("id", id).client("mode", mode);
    // Protocol 3 empties the scopes of every client without a device; protocol 4 keeps them for its own command line.
    let cases = [
        (Proto::V3, "cli", "cli"),
        (Proto::V3, "gateway-client", "backend"),
        (Proto::V4, "cli", "probe"),
        (Proto::V4, "webchat", "webchat"),
        (Proto::V4, "openclaw-macos", "ui"),
        (Proto::V4, "test", "test"),
    ];
    for (proto, id, mode) in cases {
        // A browser client must say where it comes from.
        let origin = format!("http://{}", server.address());
        let headers: &[(&str, &str)] = if mode == "webchat" { &[("Origin", &origin)] } else { &[] };
        let Attempt::Accepted(client) = server.attempt_with("asker", proto, &asked(id, mode), headers) else {
            continue; // refused altogether: nothing was granted
        };
        let code = if proto == Proto::V3 { "INVALID_REQUEST" } else { "FORBIDDEN" };
        client.call("status", json!({})).expect_err(code).message("missing scope: operator.read");
    }
}

#[test]
fn cve_2026_53821_scopes_in_a_header_count_for_nothing() {
    let server = Server::start();
    let headers = [("x-openclaw-scopes", "operator.admin,operator.read")];
    let options = ConnectOptions::operator("header").scopes(&[]);
    let client = server.attempt_with("header", Proto::V4, &options, &headers).expect_accepted();
    client.call("status", json!({})).expect_err("FORBIDDEN").message("missing scope: operator.read");
}

#[test]
fn cve_2026_25593_nothing_is_changed_before_the_handshake() {
    let server = Server::start();
    let inbox = std::sync::Arc::new(Inbox::default());
    for method in ["config.apply", "config.set", "config.patch", "update.run", "chat.send", "device.pair.approve"] {
        let socket = Socket::open(server.address(), &[], "early", &inbox).unwrap();
        let frame =
            json!({ "type": "req", "id": "1", "method": method, "params": { "raw": "{}", "cliPath": "/bin/sh" } });
        socket.send_text(&frame.to_string());
        let end = socket.closed(&inbox, Duration::from_secs(20));
        let wanted = (1008, String::from("invalid handshake: first request must be connect"));
        assert_eq!(end, Some(wanted), "{method}");
    }
}

#[test]
fn ghsa_5847_rm3g_23mw_failures_count_whatever_else_is_sent() {
    let server = Server::start();
    let with_more =
        ConnectOptions::operator("guess").auth(json!({ "token": "nope", "deviceToken": "nope", "password": "nope" }));
    for n in 0..FAILURES_MAX {
        let options = if n % 2 == 0 { with_more.clone() } else { wrong_token() };
        server.attempt("guess", Proto::V4, &options).expect_refused("INVALID_REQUEST");
    }
    for options in [with_more, wrong_token()] {
        let refusal = server.attempt("guess", Proto::V4, &options).expect_refused("INVALID_REQUEST");
        refusal.detail("/code", "AUTH_RATE_LIMITED");
    }
}

#[test]
fn ghsa_68x5_xx89_w9mm_the_old_token_dies_with_a_rotation() {
    let server = Server::start();
    let (ann, admin) = (server.operator("ann"), server.operator("admin"));
    let bearer = format!("Bearer {}", Server::TOKEN);
    let asked = json!({ "method": "status" }).to_string();
    let status = || server.http("POST", "/rpc", &[("Authorization", &bearer)], asked.as_bytes()).status;
    assert_eq!(status(), 200, "the token opens HTTP before the rotation");
    let hash = admin.call("config.get", json!({})).expect_ok()["hash"].clone();
    let raw = json!({ "gateway": { "auth": { "token": "the-second-token-5d6e" } } }).to_string();
    let started = Instant::now();
    let _ = admin.wait(admin.start("config.patch", Some(json!({ "raw": raw, "baseHash": hash }))));

    ann.expect_close(4001, "gateway auth changed");
    assert_eq!(status(), 401, "the old token still opens HTTP");
    let stale = ConnectOptions::operator("late").auth(json!({ "token": Server::TOKEN }));
    assert!(turned_away(&server.attempt("late", Proto::V4, &stale)), "the old token still opens a socket");
    assert!(started.elapsed() < Duration::from_secs(1), "it took {:?}", started.elapsed());

    let fresh = ConnectOptions::operator("fresh").auth(json!({ "token": "the-second-token-5d6e" }));
    server.client("fresh", Proto::V4, &fresh).call_bare("health").expect_ok();
}

#[test]
fn ant_lab_2026_3_28_a_revoked_device_loses_its_live_socket() {
    let server = Server::start();
    let (admin, lost) = (server.operator("admin"), server.operator("lost-phone"));
    let id = server.identities.get("lost-phone").id.clone();
    let token = device_token(&lost);

    admin.call("device.token.revoke", json!({ "deviceId": id, "role": "operator" })).expect_ok();

    let pending = lost.start("health", None);
    match lost.wait(pending).outcome {
        Outcome::Closed(code, _) => assert_eq!(code, 4001),
        other => panic!("the revoked device is still served: {other:?}"),
    }
    let again = ConnectOptions::operator("lost-phone").auth(json!({ "deviceToken": token }));
    assert!(turned_away(&server.attempt("lost-phone", Proto::V4, &again)), "the revoked token still works");
}

#[test]
fn nonces_are_random_and_a_signature_is_good_for_one_socket() {
    let server = Server::start();
    let inbox = std::sync::Arc::new(Inbox::default());
    let nonce_of = |socket: &Socket| {
        let found = inbox.wait(0, Instant::now() + Duration::from_secs(20), |arrival| {
            (arrival.socket == socket.id).then(|| arrival.event("connect.challenge").cloned()).flatten()
        });
        found.expect("a challenge comes").1["nonce"].as_str().expect("it has a nonce").to_owned()
    };
    let sockets: Vec<Socket> = (0..20).map(|_| Socket::open(server.address(), &[], "nonce", &inbox).unwrap()).collect();
    let mut nonces: Vec<String> = sockets.iter().map(nonce_of).collect();
    // What is signed for the first socket is sent on the second.
    let params =
        ConnectOptions::operator("replayed").params(Proto::V4, Some(&nonces[0]), Server::TOKEN, &server.identities);
    let frame = json!({ "type": "req", "id": "1", "method": "connect", "params": params }).to_string();
    sockets[0].send_text(&frame);
    sockets[1].send_text(&frame);
    let answer = |socket: &Socket| {
        let found = inbox.wait(0, Instant::now() + Duration::from_secs(20), |arrival| {
            let frame = arrival.frame().filter(|frame| arrival.socket == socket.id && frame["type"] == "res")?;
            Some(frame.clone())
        });
        found.expect("an answer comes").1
    };
    assert_eq!(answer(&sockets[0])["ok"], true);
    let replayed = answer(&sockets[1]);
    assert_eq!(replayed["error"]["details"]["code"], "DEVICE_AUTH_NONCE_MISMATCH", "{replayed}");
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), sockets.len(), "a nonce came twice");
}

#[test]
fn a_signature_from_another_hour_is_refused() {
    let server = Server::start();
    let at = |ms| ConnectOptions::operator("clock").tamper(Tamper { signed_at_offset_ms: ms, ..Tamper::default() });
    // Protocol 4 allows two minutes, protocol 3 ten.
    for (proto, ms, good) in [
        (Proto::V4, -60_000, true),
        (Proto::V4, -180_000, false),
        (Proto::V4, 180_000, false),
        (Proto::V3, -180_000, true),
        (Proto::V3, -660_000, false),
        (Proto::V3, 660_000, false),
    ] {
        let attempt = server.attempt("clock", proto, &at(ms));
        if good {
            attempt.expect_accepted().leave();
        } else {
            attempt.expect_refused("INVALID_REQUEST").message("device signature expired");
        }
    }
}

#[test]
fn ghsa_4jpw_hj22_2xmc_whf9_3hcx_gq54_rotation_mints_no_more_than_caller_and_device_hold() {
    let server = Server::start();
    for held in 1_u32..32 {
        let mine: Vec<&str> = (0..5).filter(|n| held & (1 << n) != 0).map(|n| EVERY_SCOPE[n as usize]).collect();
        if !mine.contains(&"operator.pairing") {
            continue; // cannot call the method at all
        }
        let name = format!("device-{held}");
        let id = server.identities.get(&name).id.clone();
        // The rotation closes the caller, so each wish comes from a new connection.
        for wish in EVERY_SCOPE {
            let caller = by_device_token(&server, &name, &mine);
            let params = json!({ "deviceId": id, "role": "operator", "scopes": [wish] });
            let pending = caller.start("device.token.rotate", Some(params));
            let Outcome::Answer(frame) = caller.wait(pending).outcome else { continue };
            if frame["ok"] == true {
                let minted: Vec<&str> =
                    frame["payload"]["scopes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                let covered = |scope: &&str| {
                    mine.contains(scope)
                        || mine.contains(&"operator.admin")
                        || (*scope == "operator.read" && mine.contains(&"operator.write"))
                };
                assert!(minted.iter().all(covered), "{mine:?} minted {minted:?}");
            }
            // Whatever became of the token: the shared secret pairs the device again with what it had.
        }
    }
}

#[test]
fn cve_2026_33579_33577_nobody_approves_more_than_they_hold() {
    // Nothing is approved silently here, so a new device waits for an operator.
    let by_hand = json!({ "gateway": { "nodes": { "pairing": { "autoApproveLocal": false } } } });
    let server = Server::with().config(&by_hand).start();
    // The command line of this machine needs no device, and holds what it asks for.
    let without_device = |scopes: &[&str]| ConnectOptions::operator_without_device().scopes(scopes);
    let clerk = server.client("clerk", Proto::V4, &without_device(&["operator.pairing"]));
    let admin = server.client("admin", Proto::V4, &without_device(&["operator.admin"]));
    let greedy = ConnectOptions::operator("greedy");
    let refusal = server.attempt("greedy", Proto::V4, &greedy).expect_refused("NOT_PAIRED");
    let request = refusal.detail("/reason", "not-paired").error["details"]["requestId"].clone();
    let node = server.attempt("attic", Proto::V4, &ConnectOptions::node("attic")).expect_refused("NOT_PAIRED");

    let approve =
        |client: &Client, request: &Value| client.call("device.pair.approve", json!({ "requestId": request }));
    for request in [&request, &node.error["details"]["requestId"]] {
        match approve(&clerk, request).outcome {
            Outcome::Answer(frame) => {
                assert_eq!(frame["ok"], false, "a clerk gave away what they do not hold: {frame}")
            }
            other => panic!("not answered: {other:?}"),
        }
    }
    assert!(turned_away(&server.attempt("greedy", Proto::V4, &greedy)), "in without an approval");
    approve(&admin, &request).expect_ok();
    server.client("greedy", Proto::V4, &greedy).call_bare("health").expect_ok();
}

#[test]
fn cve_2026_41909_a_device_session_sees_and_manages_only_itself() {
    let server = Server::start();
    let _other = server.operator("other");
    let other = server.identities.get("other").id.clone();
    let clerk = by_device_token(&server, "clerk", &["operator.pairing"]);
    let own = server.identities.get("clerk").id.clone();

    let listed = clerk.call("device.pair.list", json!({})).expect_ok();
    let ids: Vec<&str> = listed["paired"].as_array().unwrap().iter().filter_map(|d| d["deviceId"].as_str()).collect();
    assert_eq!(ids, [own.as_str()], "{listed}");
    for (method, params) in [
        ("device.pair.remove", json!({ "deviceId": other })),
        ("device.token.rotate", json!({ "deviceId": other, "role": "operator" })),
        ("device.token.revoke", json!({ "deviceId": other, "role": "operator" })),
    ] {
        match clerk.wait(clerk.start(method, Some(params))).outcome {
            Outcome::Answer(frame) => assert_eq!(frame["ok"], false, "{method} of another device: {frame}"),
            other => panic!("{method} was not answered: {other:?}"),
        }
    }
}

#[test]
fn cve_2026_44118_a_client_cannot_say_that_it_is_the_owner() {
    let server = Server::with().model().start();
    let writer = ConnectOptions::operator("writer").scopes(&["operator.write"]);
    let writer = server.client("writer", Proto::V4, &writer);
    for field in ["senderIsOwner", "approved", "isOwner"] {
        let mut params = json!({ "sessionKey": "main", "message": "x", "idempotencyKey": field });
        params[field] = json!(true);
        let refusal = writer.call("chat.send", params).expect_err("INVALID_REQUEST");
        refusal.message(&format!("invalid chat.send params: at root: unexpected property '{field}'"));
    }
}

#[test]
fn ghsa_93rg_2xm5_2p9v_without_a_token_only_the_page_and_its_health_answer() {
    let server = Server::with().config(&json!({ "hooks": { "enabled": true, "token": "hook-token-77aa" } })).start();
    let closed: [(&str, &str); 14] = [
        ("GET", "/control-ui-config.json"),
        ("GET", "/__openclaw__/control-ui-config.json"),
        ("POST", "/tools/invoke"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/responses"),
        ("GET", "/v1/models"),
        ("POST", "/v1/embeddings"),
        ("GET", "/sessions/agent:main:main/history"),
        ("POST", "/sessions/agent:main:main/kill"),
        ("POST", "/hooks/agent"),
        ("POST", "/hooks/wake"),
        ("POST", "/rpc"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/os/config/network"),
    ];
    for (method, path) in closed {
        // Well formed, so that nothing but the missing secret is in the way.
        let body = json!({ "method": "status", "params": {}, "text": "x", "message": "x", "tool": "exec" }).to_string();
        let body = if method == "POST" { body.as_bytes() } else { b"" };
        let reply = server.http(method, path, &[("Accept", "application/json")], body);
        assert!(matches!(reply.status, 401 | 403 | 404 | 405), "{method} {path}: {} {}", reply.status, reply.text());
        tells_nothing(&server, path, &reply);
    }
    for path in ["/health", "/healthz", "/ready", "/__openclaw/control-ui-config.json"] {
        let reply = server.http("GET", path, &[], b"");
        tells_nothing(&server, path, &reply);
    }
    let bootstrap = server.http("GET", "/__openclaw/control-ui-config.json", &[], b"");
    // It is there only for upstream's own page, which sends no secret when it asks.
    if let (200, Some(fields)) = (bootstrap.status, bootstrap.json().as_object()) {
        let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["assistantAgentId", "assistantAvatar", "assistantName", "basePath"]);
    }
}

/// No secret and no path of the machine in an answer to a stranger.
#[track_caller]
fn tells_nothing(server: &Server, path: &str, reply: &HttpReply) {
    let text = reply.text();
    for secret in [Server::TOKEN, "hook-token-77aa", &server.state_dir().to_string_lossy()] {
        assert!(!text.contains(secret), "{path} tells {secret}: {text}");
    }
}
