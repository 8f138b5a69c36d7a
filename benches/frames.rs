//! What a frame costs between the socket's bytes and a request, and from an answer back to bytes.
//!
//! - `websocket/*`: masked bytes to a message: a request without parameters, one of about 1 KB, one of 64 KB.
//! - `request/*`: a message to a request: without parameters, with 1 KB of them, one that is refused with its reasons,
//!   and every request of the protocol 4 recordings, as clients of that release may send them.
//! - `answer/health`: the envelope around a recorded health payload.
//! - `event/*`: what a broadcast writes once, and what it writes for each connection.

use std::fs;
use std::hint::black_box;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use openclaw_rs::net::ws::{Incoming, Reader};
use openclaw_rs::protocol::FRAME_BYTES_MAX;
use openclaw_rs::protocol::frame::{Json, StateVersion, Tail, event_body, read_request, response_ok};
use openclaw_rs::protocol::version::Protocol;
use serde_json::{Value, json};

const HEALTH: &str = r#"{"type":"req","id":"000000001","method":"health"}"#;

/// Requests of the recordings, as frames, and the recorded health payload.
struct Recorded {
    requests: Vec<String>,
    health: Json,
}

fn recorded() -> Recorded {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/recordings/v4");
    let (mut requests, mut health) = (Vec::new(), None);
    for file in fs::read_dir(&folder).unwrap() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let step: Value = serde_json::from_str(line).unwrap();
            let Some(method) = step["method"].as_str() else { continue };
            let id = format!("{}:8e2c1b1e-2f4e-4b8e-9a53-0c8f1c7a9b10", requests.len());
            let mut frame = json!({ "type": "req", "id": id, "method": method });
            if let Some(params) = step.get("params") {
                frame["params"] = params.clone();
            }
            requests.push(frame.to_string());
            if method == "health" && step["expect"]["ok"] == true && step["sample"].is_object() {
                health = Some(Json::of(&step["sample"]).unwrap());
            }
        }
    }
    assert!(requests.len() > 500, "the recordings hold {} requests", requests.len());
    Recorded { requests, health: health.expect("a recorded health answer") }
}

fn chat_send(message_bytes: usize) -> String {
    let message = "Please look at the second page once more. ".repeat(message_bytes / 42);
    json!({ "type": "req", "id": "000000002", "method": "chat.send",
            "params": { "sessionKey": "agent:main:main", "message": message, "idempotencyKey": "bench-1" } })
    .to_string()
}

/// A client's text frame (RFC 6455, 5.2): final, masked.
fn masked(text: &str) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x81];
    match text.len() {
        bytes @ 0..=125 => frame.push(0x80 | bytes as u8),
        bytes @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(bytes as u16).to_be_bytes());
        }
        bytes => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(text.bytes().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn websocket(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("websocket");
    for (name, text) in [("health", HEALTH.to_owned()), ("1 KB", chat_send(1024)), ("64 KB", chat_send(64 * 1024))] {
        let frame = masked(&text);
        let mut reader = Reader::new(FRAME_BYTES_MAX);
        let mut bytes = frame.clone();
        let read = reader.read(&mut bytes.as_mut_slice()).unwrap();
        assert!(matches!(read, Some(Incoming::Message(message)) if message == text));
        group.throughput(Throughput::Bytes(frame.len() as u64));
        // The reader unmasks where the bytes lie, so each pass gets bytes of its own.
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || frame.clone(),
                |bytes| black_box(reader.read(&mut bytes.as_mut_slice()).unwrap()).is_some(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn requests(criterion: &mut Criterion) {
    let recorded = recorded();
    let mut group = criterion.benchmark_group("request");
    for (name, text) in [("health", HEALTH.to_owned()), ("1 KB", chat_send(1024))] {
        assert!(read_request(&text, Protocol::V4).is_ok());
        group.bench_function(name, |bencher| bencher.iter(|| black_box(read_request(&text, Protocol::V4)).is_ok()));
    }
    let refused = r#"{"type":"req","id":"000000003","method":"health","unknown":1}"#;
    assert!(read_request(refused, Protocol::V4).is_err());
    group.bench_function("refused", |bencher| bencher.iter(|| black_box(read_request(refused, Protocol::V4)).is_err()));

    let n_read = || recorded.requests.iter().filter(|text| read_request(text, Protocol::V4).is_ok()).count();
    assert_eq!(n_read(), recorded.requests.len());
    group.throughput(Throughput::Elements(recorded.requests.len() as u64));
    group.bench_function("all recorded", |bencher| bencher.iter(n_read));
    group.finish();
}

fn answers(criterion: &mut Criterion) {
    let health = recorded().health;
    let answer: Value = serde_json::from_str(&response_ok("000000001", &health).text()).unwrap();
    assert_eq!(answer["ok"], true);
    criterion.bench_function("answer/health", |bencher| bencher.iter(|| response_ok(black_box("000000001"), &health)));

    let version = Some(StateVersion { presence: 3, health: 7 });
    let body = event_body("health", Some(&health), version);
    assert!(body.len() > health.0.len());
    criterion.bench_function("event/body", |bencher| bencher.iter(|| event_body("health", Some(&health), version)));
    assert_eq!(Tail::Seq(12345).text(), r#","seq":12345}"#);
    criterion.bench_function("event/tail", |bencher| bencher.iter(|| black_box(Tail::Seq(black_box(12345))).text()));
}

criterion_group!(benches, websocket, requests, answers);
criterion_main!(benches);
