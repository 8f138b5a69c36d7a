//! What a broken or hostile peer, file or machine does to the gateway: a clear error, and nothing acknowledged is lost.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::client::Outcome;
use crate::harness::connect::{ConnectOptions, Proto};
use crate::harness::{Attempt, Client, Inbox, Server, Socket, http};

/// Exit statuses that scripts rely on: a bad configuration, an unusable state directory, a taken port or directory.
const CONFIG: i32 = 3;
const STORE: i32 = 4;
const BUSY: i32 = 78;
/// Longest wait for a close that must come.
const CLOSE_WAIT: Duration = Duration::from_secs(20);
/// Largest frame before the handshake is done, in bytes.
const EARLY_FRAME_BYTES_MAX: usize = 64 * 1024;
/// Largest message after it, in bytes.
const FRAME_BYTES_MAX: usize = 25 * 1024 * 1024;

/// A connection that has not said `connect`, with an inbox of its own.
fn stranger(server: &Server) -> (Socket, Arc<Inbox>) {
    let inbox = Arc::new(Inbox::default());
    let socket = Socket::open(server.address(), &[], "stranger", &inbox).expect("anybody may upgrade");
    (socket, inbox)
}

/// A client frame of a WebSocket by hand: first byte as given, masked with zeros.
fn frame_bytes(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(small) if small < 126 => bytes.push(0x80 | small as u8),
        Ok(medium) => {
            bytes.push(0x80 | 126);
            bytes.extend(medium.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend((payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// The gateway still serves somebody who behaves.
#[track_caller]
fn still_serves(client: &Client) {
    client.call_bare("health").expect_ok();
}

#[test]
fn malformed_frames_after_the_handshake_are_refused_and_the_connection_lives() {
    let server = Server::start();
    let ann = server.operator("ann");
    for (frame, id, reason) in [
        (r#"{"type":"req","id":"a"}"#, "a", "must have required property 'method'"),
        (r#"{"type":"req","method":"health"}"#, "invalid", "must have required property 'id'"),
        (r#"{"type":"req","id":"b","method":"health","extra":1}"#, "b", "at root: unexpected property 'extra'"),
        (r#"[]"#, "invalid", ""),
        (r#"7"#, "invalid", ""),
    ] {
        let from = ann.mark();
        ann.send_raw(frame);
        let reply = ann.next_answer(from);
        let Outcome::Answer(answer) = &reply.outcome else { panic!("{frame}: {reply:?}") };
        assert_eq!(answer["id"], id, "{frame}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.starts_with("invalid request frame: ") && message.contains(reason), "{frame}: {message}");
    }
    // Not JSON at all: passed over without a word.
    for noise in ["this is not json", "{", "\u{0}", ""] {
        ann.send_raw(noise);
    }
    still_serves(&ann);
}

#[test]
fn deep_json_is_refused_without_harm() {
    let server = Server::start();
    let ann = server.operator("ann");
    let deep = format!(
        r#"{{"type":"req","id":"deep","method":"health","params":{}{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    ann.send_raw(&deep);
    still_serves(&ann);
}

#[test]
fn malformed_frames_before_the_handshake_end_it() {
    let server = Server::start();
    for (frame, end) in [
        ("this is not json", (1000, "")),
        ("{}", (1008, "invalid request frame")),
        ("[]", (1008, "invalid request frame")),
        (r#"{"type":"event","event":"tick"}"#, (1008, "invalid request frame")),
        (r#"{"type":"req","id":"1","method":"health"}"#, (1008, "invalid handshake: first request must be connect")),
    ] {
        let (socket, inbox) = stranger(&server);
        socket.send_text(frame);
        assert_eq!(socket.closed(&inbox, CLOSE_WAIT), Some((end.0, end.1.to_owned())), "{frame}");
    }
}

#[test]
fn text_that_is_not_utf_8_closes_with_1007() {
    let server = Server::start();
    let ann = server.operator("ann");
    let (socket, inbox) = stranger(&server);
    socket.send_bytes(&frame_bytes(0x81, b"{\"type\":\"req\",\"id\":\"\xff\xfe\"}"));
    assert_eq!(socket.closed(&inbox, CLOSE_WAIT).map(|end| end.0), Some(1007));
    let bob = server.operator("bob");
    bob.socket().send_bytes(&frame_bytes(0x81, b"\xc3\x28"));
    assert_eq!(bob.socket().closed(&server.inbox, CLOSE_WAIT).map(|end| end.0), Some(1007));
    still_serves(&ann);
}

#[test]
fn frames_that_break_the_websocket_protocol_close_with_1002() {
    let server = Server::start();
    let ann = server.operator("ann");
    let mut unmasked = vec![0x81, 2];
    unmasked.extend(b"{}");
    for (what, bytes) in [
        ("an unmasked frame", unmasked),
        ("reserved bits", frame_bytes(0xf1, b"{}")),
        ("a continuation of nothing", frame_bytes(0x80, b"{}")),
        ("an unknown opcode", frame_bytes(0x83, b"{}")),
        ("a fragmented ping", frame_bytes(0x09, b"x")),
    ] {
        let (socket, inbox) = stranger(&server);
        socket.send_bytes(&bytes);
        assert_eq!(socket.closed(&inbox, CLOSE_WAIT).map(|end| end.0), Some(1002), "{what}");
    }
    still_serves(&ann);
}

#[test]
fn an_oversize_frame_before_the_handshake_closes_with_1009() {
    let server = Server::start();
    let (socket, inbox) = stranger(&server);
    socket.send_text(&"x".repeat(EARLY_FRAME_BYTES_MAX + 1));
    assert_eq!(socket.closed(&inbox, CLOSE_WAIT).map(|end| end.0), Some(1009));
    // One that only claims to be large is not waited for.
    let (socket, inbox) = stranger(&server);
    let mut claim = vec![0x81, 0x80 | 127];
    claim.extend((1_u64 << 40).to_be_bytes());
    claim.extend([0; 4]);
    socket.send_bytes(&claim);
    assert_eq!(socket.closed(&inbox, CLOSE_WAIT).map(|end| end.0), Some(1009));
}

#[test]
fn an_oversize_frame_after_the_handshake_closes_with_1009_and_harms_nobody() {
    let server = Server::start();
    let (ann, bob) = (server.operator("ann"), server.operator("bob"));
    ann.socket().send_text(&"x".repeat(FRAME_BYTES_MAX + 1));
    assert_eq!(ann.socket().closed(&server.inbox, CLOSE_WAIT).map(|end| end.0), Some(1009));
    still_serves(&bob);
}

#[test]
fn a_frame_of_the_allowed_size_is_answered() {
    let server = Server::start();
    let ann = server.operator("ann");
    let params = json!({ "zz": "x".repeat(FRAME_BYTES_MAX - 1024) });
    let reply = ann.call("device.pair.list", params);
    reply.expect_err("INVALID_REQUEST").message("invalid device.pair.list params: at root: unexpected property 'zz'");
}

#[test]
fn fragments_that_never_end_meet_the_same_limits() {
    let server = Server::start();
    let ann = server.operator("ann");
    for (client, limit) in [(None, EARLY_FRAME_BYTES_MAX), (Some(server.operator("bob")), FRAME_BYTES_MAX)] {
        let (stranger, inbox) = stranger(&server);
        let (socket, inbox) = match &client {
            Some(client) => (client.socket(), &server.inbox),
            None => (&stranger, &inbox),
        };
        let piece = frame_bytes(0x00, &[b'x'; 16 * 1024]);
        let mut sent = socket.send_bytes(&frame_bytes(0x01, b"{"));
        for _ in 0..=limit / (16 * 1024) {
            sent = sent && socket.send_bytes(&piece);
        }
        assert_eq!(socket.closed(inbox, CLOSE_WAIT).map(|end| end.0), Some(1009), "limit {limit}");
    }
    still_serves(&ann);
}

#[test]
fn empty_fragments_that_never_end_meet_the_handshake_timeout() {
    let server = Server::with().config(&json!({ "gateway": { "server": { "handshake_timeout_ms": 600 } } })).start();
    let (socket, inbox) = stranger(&server);
    socket.send_bytes(&frame_bytes(0x01, b""));
    let deadline = Instant::now() + CLOSE_WAIT;
    while socket.is_open() {
        socket.send_bytes(&frame_bytes(0x00, b""));
        assert!(Instant::now() < deadline, "still open");
    }
    assert!(socket.closed(&inbox, CLOSE_WAIT).is_some());
}

#[test]
fn a_peer_that_says_nothing_is_closed_at_the_handshake_timeout() {
    let server = Server::with().config(&json!({ "gateway": { "server": { "handshake_timeout_ms": 600 } } })).start();
    let started = Instant::now();
    let (socket, inbox) = stranger(&server);
    assert_eq!(socket.closed(&inbox, CLOSE_WAIT), Some((1000, String::new())));
    assert!(started.elapsed() >= Duration::from_millis(500), "after {:?}", started.elapsed());
}

#[test]
fn slow_headers_are_cut_off() {
    let server = Server::with().config(&json!({ "gateway": { "server": { "handshake_timeout_ms": 600 } } })).start();
    let ann = server.operator("ann");
    let mut stream = http::connect(server.address());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
    let deadline = Instant::now() + CLOSE_WAIT;
    // One header a time, for ever: the end must come from the other side, whatever it says before.
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut said = [0; 1024];
    loop {
        match stream.read(&mut said) {
            Ok(0) => break,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if stream.write_all(b"X-Slow: 1\r\n").is_err() {
                    break;
                }
            }
            Err(_) => break,
            Ok(_) => {}
        }
        assert!(Instant::now() < deadline, "slow headers are still read");
    }
    still_serves(&ann);
}

#[test]
fn a_head_without_end_is_refused() {
    let server = Server::start();
    let mut stream = http::connect(server.address());
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n");
    let line = format!("X-Long: {}\r\n", "y".repeat(1000));
    for _ in 0..200 {
        if stream.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
}

#[test]
fn contradictory_lengths_are_refused() {
    let server = Server::start();
    for head in [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: gzip\r\n",
    ] {
        let mut stream = http::connect(server.address());
        let request = format!("POST /hooks/agent HTTP/1.1\r\nHost: {}\r\n{head}\r\nabc", server.address());
        stream.write_all(request.as_bytes()).unwrap();
        let reply = http::read_answer(&mut stream);
        assert!(matches!(reply.status, 400 | 411 | 413 | 501), "{head:?}: {} {}", reply.status, reply.text());
    }
}

#[test]
fn a_flood_of_half_open_connections_leaves_room_for_a_guest() {
    let server = Server::start();
    let ann = server.operator("ann");
    let inbox = Arc::new(Inbox::default());
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..200 {
        match Socket::open(server.address(), &[], "flood", &inbox) {
            Ok(socket) => open.push(socket),
            Err(refusal) => {
                assert_eq!(refusal.status, Some(503), "{refusal:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && open.len() <= 64, "{} half-open connections were kept", open.len());
    let silent: Vec<_> = (0..100).map(|_| http::connect(server.address())).collect();
    still_serves(&ann);
    drop((open, silent));
    server.operator("bob");
}

#[test]
fn unknown_keys_and_wrong_types_are_named() {
    let server = Server::start();
    let ann = server.operator("ann");
    for (method, params, said) in [
        ("device.pair.list", json!({ "zz": 1 }), "invalid device.pair.list params: at root: unexpected property 'zz'"),
        (
            "chat.history",
            json!({ "sessionKey": "main", "limit": "many" }),
            "invalid chat.history params: at /limit: must be integer",
        ),
        ("chat.history", json!({}), "invalid chat.history params: must have required property 'sessionKey'"),
        ("chat.history", json!({ "sessionKey": 7 }), "invalid chat.history params: at /sessionKey: must be string"),
        ("chat.history", json!([]), "invalid chat.history params: must be object"),
        (
            "device.pair.approve",
            json!({ "requestId": "" }),
            "invalid device.pair.approve params: at /requestId: must not have fewer than 1 characters",
        ),
    ] {
        ann.call(method, params).expect_err("INVALID_REQUEST").message(said);
    }
    ann.call("no.such.method", json!({})).expect_err("INVALID_REQUEST").message("unknown method: no.such.method");
}

#[test]
fn a_broken_configuration_stops_the_start_with_line_and_column() {
    let ended = Server::with().config_text("{\n  \"gateway\": {\n    \"port\": oops\n  }\n}\n").run_to_end(|_| {});
    assert_eq!(ended.status.code(), Some(CONFIG), "the status of a bad configuration: {}", ended.stderr);
    assert!(ended.stderr.contains("openclaw.json"), "the file is named: {}", ended.stderr);
    assert!(ended.stderr.contains("3:") || ended.stderr.contains("line 3"), "the line is named: {}", ended.stderr);
}

#[test]
fn a_broken_edit_leaves_the_last_good_configuration_live() {
    let server = Server::start();
    let ann = server.operator("ann");
    let path = server.state_dir().join("openclaw.json");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{good} }} broken")).unwrap();

    server.signal(libc::SIGHUP);

    let deadline = Instant::now() + CLOSE_WAIT;
    loop {
        let said = server.stderr();
        if said.contains("openclaw.json")
            && (said.contains("line") || said.contains(':'))
            && said.to_lowercase().contains("config")
        {
            break;
        }
        assert!(Instant::now() < deadline, "nothing was said about the broken file: {said}");
        still_serves(&ann);
    }
    still_serves(&server.operator("bob"));
    fs::write(&path, good).unwrap();
    server.signal(libc::SIGHUP);
    still_serves(&ann);
}

#[test]
fn a_port_in_use_is_an_exit_status_and_a_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = Server::with().args(&["--port", &port]).run_to_end(|_| {});
    assert_eq!(ended.status.code(), Some(BUSY), "{}", ended.stderr);
    assert!(ended.stderr.contains(&port), "the port is named: {}", ended.stderr);
    assert!(ended.stderr.to_lowercase().contains("in use"), "the reason is named: {}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[test]
fn a_second_daemon_on_the_same_directory_is_turned_away() {
    let server = Server::start();
    let state = server.state_dir().to_string_lossy().into_owned();
    let ended = Server::with().env("OPENCLAW_RS_STATE_DIR", &state).run_to_end(|_| {});
    assert_eq!(ended.status.code(), Some(BUSY), "{}", ended.stderr);
    assert!(ended.stderr.contains(&state), "the directory is named: {}", ended.stderr);
    still_serves(&server.operator("ann"));
}

#[test]
fn a_read_only_state_directory_is_an_exit_status_and_a_sentence() {
    let ended = Server::with().run_as_nobody().run_to_end(|home| {
        fs::set_permissions(home.join("state"), fs::Permissions::from_mode(0o555)).unwrap();
    });
    assert_eq!(ended.status.code(), Some(STORE), "{}", ended.stderr);
    assert!(ended.stderr.contains("state"), "the directory is named: {}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[test]
fn a_full_disk_refuses_new_work_and_keeps_what_was_acknowledged() {
    // A limit on the size of files stands for the full disk: writes fail in the same place, without needing a disk.
    let mut server = Server::with().model().file_bytes_max(1024 * 1024).start();
    let ann = server.operator("ann");
    let text = "x".repeat(20_000);
    let mut kept = Vec::new();
    let mut refused = None;
    for n in 0..400 {
        let params = json!({
            "sessionKey": "agent:main:full", "message": format!("note-{n:03}- {text}"), "idempotencyKey": format!("full-{n}"),
        });
        match ann.wait(ann.start("chat.send", Some(params))).outcome {
            Outcome::Answer(frame) if frame["ok"] == true => kept.push(n),
            Outcome::Answer(frame) => {
                refused = Some(frame["error"].clone());
                break;
            }
            other => panic!("after {} messages: {other:?}", kept.len()),
        }
    }
    let refused = refused.unwrap_or_else(|| panic!("{} messages went into a full disk", kept.len()));
    assert_eq!(refused["code"], "UNAVAILABLE", "{refused}");
    still_serves(&ann);
    drop(ann);

    server.kill_and_restart_without_limit();

    let ann = server.operator("ann");
    // What waited for its turn has it now.
    let last = format!("note-{:03}-", kept.last().expect("some were kept"));
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut history = all_messages(&ann, "agent:main:full");
    while !history.contains(&last) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        history = all_messages(&ann, "agent:main:full");
    }
    for n in kept {
        assert_eq!(history.matches(&format!("note-{n:03}-")).count(), 1, "message {n} was acknowledged");
    }
}

/// Everything said in a session, as text.
#[track_caller]
fn all_messages(client: &Client, key: &str) -> String {
    let history = client.call("chat.history", json!({ "sessionKey": key, "limit": 1000 })).expect_ok();
    let messages: Vec<Value> = history["messages"].as_array().expect("a history has messages").clone();
    messages.iter().map(Value::to_string).collect()
}

#[test]
fn a_connect_with_every_field_wrong_is_refused_by_name() {
    let server = Server::start();
    for (options, said) in [
        (ConnectOptions { role: Some(String::from("king")), ..ConnectOptions::operator("k") }, "invalid role"),
        (ConnectOptions::operator("k").client("id", "nobody"), "invalid connect params: at /client/id"),
        (
            ConnectOptions { omit: vec![String::from("client")], ..ConnectOptions::operator("k") },
            "invalid connect params: must have required property 'client'",
        ),
    ] {
        server.attempt("k", Proto::V4, &options).expect_refused("INVALID_REQUEST").message_starts(said);
    }
    let wrong =
        ConnectOptions { min_protocol: Some(json!(9)), max_protocol: Some(json!(9)), ..ConnectOptions::operator("k") };
    match server.attempt("k", Proto::V4, &wrong) {
        Attempt::Refused { error, close } => {
            assert_eq!(error["details"]["expectedProtocol"], 4, "{error}");
            assert_eq!(close, Some((1002, String::from("protocol mismatch"))));
        }
        _ => panic!("protocol 9 was not refused"),
    }
}
