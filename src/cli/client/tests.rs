use std::net::TcpListener;
use std::sync::mpsc;

use tungstenite::protocol::frame::coding::CloseCode;

use super::*;
use crate::runtime::threads;

type Served = WebSocket<TcpStream>;

/// A gateway for one connection that does what `serve` says after the greeting.
fn gateway(serve: impl FnOnce(&mut Served, Value) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    threads::spawn("gateway", threads::STACK_BYTES_DEEP, move || {
        let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
        send(&mut socket, &json!({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n", "ts": 1}}));
        let connect = receive(&mut socket);
        serve(&mut socket, connect);
    })
    .unwrap();
    url
}

fn send(socket: &mut Served, frame: &Value) {
    socket.send(Message::text(frame.to_string())).unwrap();
}

fn receive(socket: &mut Served) -> Value {
    serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap()
}

fn hello(connect: &Value) -> Value {
    json!({"type": "res", "id": connect["id"], "ok": true, "payload": {
        "type": "hello-ok", "protocol": 4, "server": {"version": "2026.9.6", "connId": "c"},
        "features": {"methods": ["health"], "events": []}, "snapshot": {"uptimeMs": 7},
        "auth": {"method": "token", "role": "operator", "scopes": ["operator.read"]}, "policy": {}
    }})
}

fn target(url: &str, timeout_ms: u64) -> Target {
    Target {
        url: url.to_owned(),
        credentials: Credentials { token: Some("secret-canary".to_owned()), ..Credentials::default() },
        plaintext: Plaintext::LoopbackOnly,
        timeout: Duration::from_millis(timeout_ms),
    }
}

#[test]
fn connects_calls_and_reads_the_answer_among_events() {
    let (tell, told) = mpsc::channel();
    let url = gateway(move |socket, connect| {
        send(socket, &hello(&connect));
        tell.send(connect).unwrap();
        let request = receive(socket);
        send(socket, &json!({"type": "event", "event": "tick", "payload": {"ts": 1}, "seq": 1}));
        socket.send(Message::text("not json")).unwrap();
        send(socket, &json!({"type": "res", "id": "another", "ok": true, "payload": {"wrong": true}}));
        send(socket, &json!({"type": "res", "id": request["id"], "ok": true, "payload": {"echo": request["params"]}}));
        assert!(matches!(socket.read(), Ok(Message::Close(None))));
    });
    let mut client = Client::connect(&target(&url, 5000), &[Scope::Read]).unwrap();
    assert_eq!((client.hello().protocol, client.hello().snapshot.uptime_ms), (4, Some(7)));
    let connect = told.recv().unwrap();
    assert_eq!(connect["method"], "connect");
    let params = &connect["params"];
    assert_eq!((&params["minProtocol"], &params["maxProtocol"]), (&json!(3), &json!(4)));
    assert_eq!((&params["client"]["id"], &params["client"]["mode"]), (&json!("cli"), &json!("cli")));
    assert_eq!(params["scopes"], json!(["operator.read"]));
    assert_eq!(params["auth"], json!({"token": "secret-canary"}));
    assert_eq!(params.get("device"), None);
    assert_eq!(client.call("echo", json!({"a": 1})).unwrap(), json!({"echo": {"a": 1}}));
    client.close();
}

#[test]
fn what_it_sends_is_what_the_gateway_reads() {
    let credentials = Credentials { password: Some("p".to_owned()), ..Credentials::default() };
    let params = connect_params(&credentials, &[Scope::Pairing, Scope::Admin]).to_string();
    for protocol in [Protocol::V3, Protocol::V4] {
        let read: crate::protocol::connect::ConnectParams =
            crate::protocol::params::decode("connect", Some(&params), protocol).unwrap();
        assert_eq!(read.scope_names().collect::<Vec<_>>(), ["operator.pairing", "operator.admin"]);
        assert_eq!(read.auth.unwrap().password.as_deref(), Some("p"));
        assert_eq!((read.client.id, read.client.mode), (ClientId::Cli, ClientMode::Cli));
    }
    // A gateway in mode `none` admits no command line without a device, and this is none.
    let params = connect_params(&Credentials::default(), &[]);
    assert_eq!((&params["client"]["id"], &params["client"]["mode"]), (&json!("gateway-client"), &json!("backend")));
}

#[test]
fn a_refusal_keeps_its_code_and_gets_a_hint() {
    let url = gateway(|socket, connect| {
        let error = json!({"code": "INVALID_REQUEST", "message": "unauthorized: gateway token mismatch (x)",
                           "details": {"code": "AUTH_TOKEN_MISMATCH"}});
        send(socket, &json!({"type": "res", "id": connect["id"], "ok": false, "error": error}));
        socket.close(Some(CloseFrame { code: CloseCode::Policy, reason: "unauthorized".into() })).unwrap();
    });
    let error = Client::connect(&target(&url, 5000), &[]).err().unwrap();
    assert_eq!(error.to_string(), "the gateway refused connect: unauthorized: gateway token mismatch (x)");
    assert_eq!(error.code(), "INVALID_REQUEST");
    assert!(error.hint().unwrap().contains("another secret"));
}

#[test]
fn a_method_the_gateway_does_not_list_is_not_a_question_of_scopes() {
    let serve = |socket: &mut Served, connect: Value| {
        send(socket, &hello(&connect));
        let id = receive(socket)["id"].clone();
        let error = json!({"code": "FORBIDDEN", "message": "missing scope: operator.admin",
                           "details": {"code": "MISSING_SCOPE"}});
        send(socket, &json!({"type": "res", "id": id, "ok": false, "error": error}));
        while socket.read().is_ok() {}
    };
    let refused = |method: &str| {
        let mut client = Client::connect(&target(&gateway(serve), 5000), &[]).unwrap();
        client.call(method, Value::Null).unwrap_err().to_string()
    };
    assert_eq!(refused("sessions.list"), "the gateway (version 2026.9.6) does not offer sessions.list");
    assert_eq!(refused("health"), "the gateway refused health: missing scope: operator.admin");
}

#[test]
fn waits_for_a_gateway_that_is_still_starting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    threads::spawn("gateway", threads::STACK_BYTES_DEEP, move || {
        for turn in 0..2 {
            let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
            send(
                &mut socket,
                &json!({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n", "ts": 1}}),
            );
            let connect = receive(&mut socket);
            if turn == 0 {
                let error = json!({"code": "UNAVAILABLE", "message": "gateway starting; retry shortly",
                                   "retryable": true, "retryAfterMs": 5});
                send(&mut socket, &json!({"type": "res", "id": connect["id"], "ok": false, "error": error}));
            } else {
                send(&mut socket, &hello(&connect));
                while socket.read().is_ok() {}
            }
        }
    })
    .unwrap();
    Client::connect(&target(&url, 5000), &[]).unwrap().close();
}

#[test]
fn every_wait_ends_at_the_deadline() {
    // Listens and never accepts.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let started = Instant::now();
    let error = Client::connect(&target(&format!("ws://{}", silent.local_addr().unwrap()), 100), &[]).err().unwrap();
    assert!(matches!(error, ClientError::Timeout { what: "answer", .. }), "{error:?}");

    // Talks without end and never answers.
    let url = gateway(|socket, connect| {
        send(socket, &hello(&connect));
        while socket.send(Message::text(r#"{"type":"event","event":"tick"}"#)).is_ok() {}
    });
    let mut client = Client::connect(&target(&url, 300), &[]).unwrap();
    let error = client.call("health", Value::Null).unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
    assert_eq!(error.code(), "TIMEOUT");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn expect_final_skips_the_acceptance() {
    let serve = |socket: &mut Served, connect: Value| {
        send(socket, &hello(&connect));
        let id = receive(socket)["id"].clone();
        send(socket, &json!({"type": "res", "id": id, "ok": true, "payload": {"status": "accepted"}}));
        send(socket, &json!({"type": "res", "id": id, "ok": true, "payload": {"status": "ok"}}));
        while socket.read().is_ok() {}
    };
    for (answer, status) in [(Answer::First, "accepted"), (Answer::Final, "ok")] {
        let mut client = Client::connect(&target(&gateway(serve), 5000), &[]).unwrap();
        assert_eq!(client.request("agent", json!({}), answer).unwrap()["status"], status);
    }
}

#[test]
fn a_closed_connection_says_why() {
    let url = gateway(|socket, connect| {
        send(socket, &hello(&connect));
        let _ = receive(socket);
        socket.close(Some(CloseFrame { code: CloseCode::Restart, reason: "service restart".into() })).unwrap();
        while socket.read().is_ok() {}
    });
    let mut client = Client::connect(&target(&url, 5000), &[]).unwrap();
    let error = client.call("health", Value::Null).unwrap_err();
    assert_eq!(error.to_string(), "the gateway closed the connection: 1012 service restart");
}

#[test]
fn tells_a_missing_gateway_from_something_else_on_the_port() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = Client::connect(&target(&format!("ws://127.0.0.1:{port}"), 2000), &[]).err().unwrap();
    assert_eq!(error.to_string(), format!("no gateway answers on ws://127.0.0.1:{port}"));
    assert_eq!(error.hint().unwrap(), "start one with `openclaw-rs gateway run`");

    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", web.local_addr().unwrap());
    threads::spawn("web", threads::STACK_BYTES, move || {
        let (mut stream, _) = web.accept().unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head);
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    })
    .unwrap();
    let error = Client::connect(&target(&url, 2000), &[]).err().unwrap();
    assert_eq!(error.to_string(), format!("what answers on {url} is not a gateway: HTTP status 404 Not Found"));
}

#[test]
fn the_secret_stays_on_this_machine_and_out_of_messages() {
    let refused = |url: &str| Client::connect(&target(url, 50), &[]).err().unwrap();
    assert!(matches!(refused("ws://192.0.2.1:1"), ClientError::PlaintextRefused { .. }));
    assert!(matches!(refused("ws://gateway.example"), ClientError::PlaintextRefused { .. }));
    assert!(matches!(refused("ws://localhost.evil.example"), ClientError::PlaintextRefused { .. }));
    assert!(matches!(refused("wss://127.0.0.1:1"), ClientError::NeedsTls { .. }));
    for url in ["http://127.0.0.1", "127.0.0.1:18789", "ws://", "", "ws://u:canary@127.0.0.1"] {
        let error = refused(url);
        assert!(matches!(error, ClientError::BadUrl { .. }), "{url}: {error}");
        assert!(!error.to_string().contains("canary"));
        assert!(error.is_bad_address());
    }
    let error = refused("ws://192.0.2.1:1/?token=canary");
    assert!(!format!("{error} {error:?}").contains("canary"));
    assert!(!format!("{:?}", target("ws://127.0.0.1", 1)).contains("secret-canary"));
}
