//! The port itself: both loopbacks, any path, several requests on one connection, signs of life.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr};

use serde_json::json;

use crate::harness::{Server, http};

/// A WebSocket upgrade by hand, on `path`.
fn upgrade(path: &str, host: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

#[test]
fn the_upgrade_is_accepted_on_any_path() {
    let server = Server::start();
    for path in ["/", "/ws", "/foo?x=1", "/v1/chat/completions"] {
        let mut stream = http::connect(server.address());
        stream.write_all(upgrade(path, &server.address().to_string()).as_bytes()).unwrap();
        let mut said = Vec::new();
        let mut some = [0; 1024];
        // The answer to the upgrade, and the challenge after it without being asked.
        while !String::from_utf8_lossy(&said).contains("connect.challenge") {
            let n = stream.read(&mut some).unwrap();
            assert!(n > 0, "{path}: {}", String::from_utf8_lossy(&said));
            said.extend(&some[..n]);
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.starts_with("HTTP/1.1 101 "), "{path}: {said}");
        assert!(said.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 section 1.3's accept value: {said}");
        assert!(!said.to_lowercase().contains("permessage-deflate"), "{said}");
    }
}

#[test]
fn both_loopback_addresses_are_served() {
    let server = Server::start();
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, server.address().port()));
    for address in [server.address(), v6] {
        let reply = http::request(address, "GET", "/health", &[], b"");
        assert_eq!((reply.status, reply.json()), (200, json!({ "ok": true, "status": "live" })), "{address}");
    }
}

#[test]
fn requests_on_one_connection_are_answered_in_their_order() {
    let server = Server::start();
    let mut stream = http::connect(server.address());
    let host = server.address();
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let last = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all((one("/health") + &one("/no-such-page.txt") + &last).as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let statuses: Vec<&str> = said.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "404", "200"], "{said}");
}

#[test]
fn a_chunked_body_is_read_like_a_sized_one() {
    let server = Server::with().config(&json!({ "hooks": { "enabled": true, "token": "hook-token-77aa" } })).start();
    let mut stream = http::connect(server.address());
    let head = format!(
        "POST /hooks/wake HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer hook-token-77aa\r\nContent-Type: application/json\r\n\
         Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.address()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // Cut where it hurts: inside a size line, inside the text, before the last chunk.
    for part in ["7\r\n{\"text\"", "\r\n", "8", "\r\n:\"door", "\"}", "\r\n", "0\r\n", "\r\n"] {
        stream.write_all(part.as_bytes()).unwrap();
        stream.flush().unwrap();
    }
    let reply = http::read_answer(&mut stream);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["ok"], true, "{}", reply.text());
}

#[test]
fn a_quiet_connection_hears_that_the_gateway_lives() {
    let server = Server::with().config(&json!({ "gateway": { "server": { "tick_interval_ms": 250 } } })).start();
    let ann = server.operator("ann");
    assert_eq!(ann.hello["policy"]["tickIntervalMs"], 250);
    for _ in 0..3 {
        let tick = ann.expect_event("tick");
        assert!(tick.payload["ts"].is_u64(), "{}", tick.payload);
    }
}

#[test]
fn the_probes_answer_without_a_secret_and_say_nothing_else() {
    let server = Server::start();
    for path in ["/health", "/healthz"] {
        let reply = server.http("GET", path, &[], b"");
        assert_eq!((reply.status, reply.json()), (200, json!({ "ok": true, "status": "live" })), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    for path in ["/ready", "/readyz"] {
        let reply = server.http("GET", path, &[], b"");
        assert_eq!(reply.json()["ready"], true, "{path}: {}", reply.text());
    }
    let head = server.http("HEAD", "/health", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn a_channel_webhook_is_admitted_by_its_own_secret_or_the_shared_one() {
    let config = json!({
        "channels": { "telegram": { "webhookSecret": "own-secret-11" }, "slack": {} },
        "automation": { "webhook_secret": "shared-secret-22" },
    });
    let server = Server::with().config(&config).start();
    let post = |channel: &str, secret: &str| {
        let bearer = format!("Bearer {secret}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        server.http("POST", &format!("/webhook/{channel}"), &headers, br#"{"text":"hello","from":"ann"}"#).status
    };
    assert_eq!(post("slack", "shared-secret-22"), 200, "the shared secret");
    assert_eq!(post("slack", "shared-secret-23"), 401, "a wrong one");
    assert_eq!(post("telegram", "own-secret-11"), 200, "a channel's own secret");
    assert_eq!(post("telegram", "shared-secret-22"), 401, "its own takes the shared one's place");
    assert_eq!(post("matrix", "shared-secret-22"), 404, "not configured");
}

#[test]
fn the_shared_webhook_secret_may_come_from_the_environment() {
    let server = Server::with()
        .config(&json!({ "channels": { "slack": {} } }))
        .env("OPENCLAW_RS_AUTOMATION_WEBHOOK_SECRET", "env-secret-33")
        .start();
    let headers = [("Authorization", "Bearer env-secret-33"), ("Content-Type", "application/json")];
    assert_eq!(server.http("POST", "/webhook/slack", &headers, br#"{"text":"hello"}"#).status, 200);
}
